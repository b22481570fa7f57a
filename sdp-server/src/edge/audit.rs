//! An entry in the audit for each request that was to change something, whether it did or not.
//!
//! Called by `authenticate`, which knows who asks, and by what lets people in (login, sign-in). A handler says what it has touched
//! with [`touched`], where the address of the request does not tell it to people. The entry is on disk before the answer
//! goes out; where it cannot be written, the answer goes out all the same, and the log says so.
//!
//! Left out: requests without a valid proof and those beyond a limit (`too_many_requests`), with which anybody could fill the
//! disk; metrics count them.

use std::collections::HashMap;
use std::sync::LazyLock;

use axum::extract::Request;
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use sdp_core::audit::{AuditVia, AuditWho, DONE, NewEntry};
use uuid::Uuid;

use super::auth::Caller;
use super::who::{SpeaksFor, Through};
use super::{ClientAddress, operations};
use crate::app::App;
use crate::problem::Code;

/// In a request's extensions: its id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestId(pub(crate) Uuid);

/// In an answer's extensions: what was touched, in words.
#[derive(Clone, Debug)]
struct Touched(String);

/// An answer, and in words what was touched for it.
pub(crate) fn touched(what: impl std::fmt::Display, answer: impl IntoResponse) -> Response {
    let mut response = answer.into_response();
    response.extensions_mut().insert(Touched(what.to_string()));
    response
}

/// What is known before it is done.
pub(super) struct Asked(NewEntry);

impl Asked {
    /// None of a request that only reads.
    pub(super) fn of(request: &Request, route: &str, caller: &Caller) -> Option<Self> {
        let method = request.method();
        if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
            return None;
        }
        let who = match (&caller.standing.speaks_for, &caller.chat_user) {
            (SpeaksFor::Stranger, Some(of)) => {
                AuditWho::Claimed { name: format!("{} in the chat of {}", of.user, of.bot) }
            }
            _ => AuditWho::Known { principal: caller.principal.clone() },
        };
        let via = match caller.standing.through {
            Through::Session => AuditVia::Page,
            Through::Bot if caller.chat_user.is_some() => AuditVia::Chat,
            Through::Bot | Through::Token => AuditVia::Api,
        };
        let extensions = request.extensions();
        Some(Self(NewEntry {
            who,
            via,
            address: extensions.get::<ClientAddress>().map(|address| address.0.to_string()),
            action: action(method, route),
            target: named(route, request.uri().path()),
            result: String::new(),
            request: extensions.get::<RequestId>().map(|id| id.0.to_string()),
        }))
    }

    /// What came of it, to be written.
    pub(super) fn answered(self, response: &Response) -> Option<NewEntry> {
        let Self(mut entry) = self;
        entry.result = result(response);
        if entry.result == "too_many_requests" {
            return None;
        }
        if let Some(Touched(what)) = response.extensions().get() {
            entry.target = Some(what.clone());
        }
        Some(entry)
    }
}

/// Writes an entry; what cannot be written is said in the log.
pub(crate) async fn record(app: &App, entry: NewEntry) {
    let (action, outcome) = (entry.action.clone(), entry.result.clone());
    if let Err(error) = app.audit().record(entry).await {
        tracing::error!(%error, action, outcome, "failed to write an entry of the audit");
    }
}

fn result(response: &Response) -> String {
    let status = response.status();
    if status.is_success() || status.is_redirection() {
        return DONE.to_owned();
    }
    match response.extensions().get::<Code>() {
        Some(Code(code)) => (**code).to_owned(),
        None => status.as_str().to_owned(),
    }
}

/// The API's name of an operation; of a page's form, its address.
fn action(method: &Method, route: &str) -> String {
    static NAMES: LazyLock<HashMap<(Method, String), String>> = LazyLock::new(|| {
        let mut document = crate::router::api().1;
        let mut names = HashMap::new();
        for (path, item) in &mut document.paths.paths {
            for (method, operation) in operations(item) {
                names.extend(operation.operation_id.take().map(|id| ((method, path.clone()), id)));
            }
        }
        names
    });
    match NAMES.get(&(method.clone(), route.to_owned())) {
        Some(name) => name.clone(),
        None => format!("{method} {route}"),
    }
}

/// What stands in an address where its route has names.
fn named(route: &str, path: &str) -> Option<String> {
    let pairs = route.split('/').zip(path.split('/'));
    let names: Vec<&str> = pairs.filter(|(part, _)| part.starts_with('{')).map(|(_, name)| name).collect();
    (!names.is_empty()).then(|| names.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_has_the_name_that_the_api_has_for_it() {
        assert_eq!(action(&Method::POST, "/api/v1/deployments"), "create_deployment");
        assert_eq!(action(&Method::DELETE, "/api/v1/tokens/{token}"), "delete_token");
        assert_eq!(action(&Method::POST, "/form"), "POST /form");
    }

    #[test]
    fn what_an_address_names_is_what_was_touched() {
        let route = "/api/v1/services/{service}/secrets/{secret}";
        assert_eq!(named(route, "/api/v1/services/payments/secrets/DB").as_deref(), Some("payments DB"));
        assert_eq!(named("/api/v1/deployments", "/api/v1/deployments"), None);
    }
}
