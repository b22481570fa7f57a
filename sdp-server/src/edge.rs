//! What every request passes on its way in and out: an id, a time limit, the question who may, and the headers that tell a
//! browser what it must not do.
//!
//! ```text
//! request ─▶ id ─▶ panics caught ─▶ time limit ─▶ who asks, may they, so often ─▶ handler
//! answer  ◀─ id, security headers, one line of log ◀───────────────────────────────┘
//! ```
//! The LOGGING rule: one line for each request that changes something or is answered with 5xx; reads are logged at
//! debug level. A line names the route, not the address, because a sign-in link's address opens a door; never a
//! header, a query or a body.

mod address;
pub(crate) mod audit;
mod auth;
mod body;
mod came_from;
mod describe;
mod limit;
mod named;
mod who;

use std::any::Any;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;
use uuid::Uuid;

pub(crate) use address::ClientAddress;
pub(crate) use auth::{
    AskedBy, Caller, NotCrossSite, Proof, authenticate, bearer, is_same_origin, presented_session,
    session_cookie, still_holds,
};
pub(crate) use body::{JsonBody, OptionalJsonBody};
pub(crate) use came_from::CameFrom;
pub(crate) use limit::{Limiter, Place, forget, limit_refusals, limit_requests};
pub(crate) use named::{IdempotencyHeader, Named, NamedTwo, Query};
#[cfg(test)]
pub(crate) use who::listed;
pub(crate) use who::{Rank, Who, who};

use crate::app::App;
use crate::openapi::operations;
use crate::problem::{Fault, Refused};

/// The largest body that is taken, in bytes.
pub(crate) const BODY_LIMIT: usize = 1024 * 1024;
/// How long an answer may take to begin; a held request is answered after 50 s.
const ANSWER_LIMIT: Duration = Duration::from_secs(65);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// For pages: nothing from outside, no frame, no plug-in.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                           form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
/// Swagger UI sets styles of its own.
const DOCS_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                           connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Outermost: gives the request an id, logs it, and completes the answer's headers.
pub(crate) async fn answer(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let id = Uuid::now_v7();
    let begun = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let shown = route.as_deref().unwrap_or("(no route)");
    request.extensions_mut().insert(audit::RequestId(id));
    let span = tracing::info_span!("request", request.id = %id, %method, route = shown);
    if let Some(ClientAddress(address)) = request.extensions().get() {
        tracing::debug!(request.id = %id, %method, route = shown, client.address = %address, "asked");
    }
    let mut response = next.run(request).instrument(span).await;
    let status = response.status();
    let took = begun.elapsed();
    let ms = took.as_millis();
    app.metrics().answered(&method, route.as_deref(), status, took);
    let by = response.extensions().get::<AskedBy>().map(|AskedBy(by)| tracing::field::display(by.clone()));
    if let Some(Fault(fault)) = response.extensions().get::<Fault>() {
        tracing::error!(request.id = %id, %method, route = shown, status = status.as_u16(), ms, by, "failed to answer: {fault}");
    } else if status.is_server_error() {
        // Not a fault, but worth a look: no agent, a full disk, a git host that does not answer.
        tracing::warn!(request.id = %id, %method, route = shown, status = status.as_u16(), ms, by, "could not answer");
    } else if method != Method::GET && method != Method::HEAD {
        tracing::info!(request.id = %id, %method, route = shown, status = status.as_u16(), ms, by, "answered");
    } else {
        tracing::debug!(request.id = %id, %method, route = shown, status = status.as_u16(), ms, by, "answered");
    }
    let is_docs = route.as_deref().is_some_and(|route| route.starts_with("/docs"));
    let is_api = route
        .as_deref()
        .is_none_or(|route| ["/api/", "/sign-in", "/login"].iter().any(|begin| route.starts_with(begin)));
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::try_from(id.to_string()) {
        headers.insert(REQUEST_ID, id);
    }
    let mut default = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    default(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    default(header::CONTENT_SECURITY_POLICY, if is_docs { DOCS_POLICY } else { PAGE_POLICY });
    // Not `no-referrer`: with that a browser says `Origin: null` when our own forms are sent.
    default(header::REFERRER_POLICY, "same-origin");
    default(header::X_FRAME_OPTIONS, "DENY");
    default(HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    default(HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    if is_api {
        default(header::CACHE_CONTROL, "no-store");
    }
    if app.config().is_https() {
        default(header::STRICT_TRANSPORT_SECURITY, "max-age=31536000");
    }
    response
}

/// Answers with a problem when a handler takes too long to begin its answer.
pub(crate) async fn limit_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(ANSWER_LIMIT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            Refused::new("timed_out", "the server did not get the answer ready in time").into_response()
        }
    }
}

/// A handler panicked: a fault of ours, which the panic hook has already printed with its place.
pub(crate) fn panicked(_panic: Box<dyn Any + Send + 'static>) -> Response {
    Refused::internal(&std::io::Error::other("a handler panicked")).into_response()
}

/// A route, but not for this method.
pub(crate) async fn method_not_allowed() -> Refused {
    wrong_method()
}

fn wrong_method() -> Refused {
    Refused::new("method_not_allowed", "this address does not answer to that method")
        .hint("the header Allow names the methods")
}

/// Parts of the server that answer by themselves (Swagger UI, axum's own rejections) must not answer errors as text.
pub(crate) async fn only_problems(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let content =
        response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    if !is_error || content.starts_with("application/problem+json") || content.starts_with("text/html") {
        return response;
    }
    match status {
        StatusCode::NOT_FOUND => Refused::not_found().into_response(),
        StatusCode::METHOD_NOT_ALLOWED => {
            let mut problem = wrong_method().into_response();
            if let Some(allow) = response.headers().get(header::ALLOW) {
                problem.headers_mut().insert(header::ALLOW, allow.clone());
            }
            problem
        }
        StatusCode::PAYLOAD_TOO_LARGE => body::too_large().into_response(),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => body::not_json().into_response(),
        _ if status.is_client_error() => {
            Refused::new("invalid_body", "the request cannot be read").into_response()
        }
        _ => Refused::internal(&std::io::Error::other("an error without a problem")).into_response(),
    }
}
