//! Every refusal and every fault as one [`Problem`] (`application/problem+json`) with a stable code.
//!
//! Handlers return [`Refused`]. A code has one status, in [`status`]. The LOGGING rule: a fault of ours (5xx) is logged once,
//! in [`edge`](crate::edge), with the request's id; a refusal is the client's business and is not logged. A problem never
//! repeats what a client sent, but for names that have been parsed.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sdp_core::access::AccessError;
use sdp_core::api::Problem;
use sdp_core::id::InvalidId;
use sdp_core::name::{InvalidName, SandboxName};
use sdp_core::platform::PlatformError;

/// How many of somebody's sandboxes are named to them when they may have no more.
const LEAST_USED: usize = 10;

/// A request that was not done.
#[derive(Debug)]
pub(crate) struct Refused {
    problem: Box<Problem>,
    /// For the log: the chain of causes.
    fault: Option<Arc<str>>,
    /// When to try again.
    retry_after: Option<Duration>,
}

/// In a response's extensions: what to log.
#[derive(Clone, Debug)]
pub(crate) struct Fault(pub(crate) Arc<str>);

/// In a response's extensions: the code of a refusal.
#[derive(Clone, Debug)]
pub(crate) struct Code(pub(crate) Arc<str>);

impl Refused {
    /// A refusal with the status of its code.
    pub(crate) fn new(code: &'static str, title: impl Into<String>) -> Self {
        let problem = Problem {
            type_: "about:blank".to_owned(),
            status: status(code).as_u16(),
            code: code.to_owned(),
            title: sentence(title.into()),
            detail: None,
            hint: None,
            did_you_mean: None,
        };
        Self { problem: Box::new(problem), fault: None, retry_after: None }
    }

    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.problem.detail = Some(detail.into());
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.problem.hint = Some(hint.into());
        self
    }

    /// When the same request may succeed.
    pub(crate) fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// As `Retry-After` says it: whole seconds, at least one.
    pub(crate) fn seconds_to_wait(&self) -> Option<u64> {
        let whole = |wait: Duration| wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        self.retry_after.map(|wait| whole(wait).max(1))
    }

    /// Nobody, or nobody known: always the same answer.
    pub(crate) fn unauthorised() -> Self {
        Self::new("unauthorised", "you are not signed in, or the token is not valid")
            .hint("send a valid token in the header `Authorization: Bearer …`, or open a sign-in link")
    }

    pub(crate) fn forbidden(title: impl Into<String>) -> Self {
        Self::new("forbidden", title)
    }

    pub(crate) fn not_found() -> Self {
        Self::new("not_found", "there is nothing at this address").hint("see /docs/ for the API")
    }

    /// A fault of ours; what happened goes to the log and not to the client.
    pub(crate) fn internal(error: &dyn std::error::Error) -> Self {
        let mut refused = Self::new("internal", "something went wrong on the server")
            .hint("try again; if it happens again, look for the request id in the server's log");
        refused.fault = Some(chain(error));
        refused
    }

    pub(crate) fn code(&self) -> &str {
        &self.problem.code
    }

    pub(crate) fn problem(&self) -> &Problem {
        &self.problem
    }
}

/// As a sentence begins.
fn sentence(text: String) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) if first.is_ascii_lowercase() => {
            first.to_ascii_uppercase().to_string() + letters.as_str()
        }
        _ => text,
    }
}

fn chain(error: &dyn std::error::Error) -> Arc<str> {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = text + ": " + &next;
        }
        cause = error.source();
    }
    text.into()
}

/// The one table of codes and statuses.
pub(crate) fn status(code: &str) -> StatusCode {
    match code {
        "malformed_json" => StatusCode::BAD_REQUEST,
        "unauthorised" | "login_wrong" => StatusCode::UNAUTHORIZED,
        "forbidden" | "login_needed" | "cross_site" | "origin_refused" | "not_a_member"
        | "not_a_deployer" | "not_your_lock" => StatusCode::FORBIDDEN,
        "not_found"
        | "unknown_service"
        | "unknown_sandbox"
        | "unknown_deployment"
        | "unknown_instance"
        | "unknown_agent"
        | "unknown_token"
        | "unknown_person"
        | "unknown_session"
        | "unknown_binding"
        | "unknown_secret"
        | "unknown_environment"
        | "unknown_template"
        | "unknown_lock"
        | "unknown_batch"
        | "no_login" => StatusCode::NOT_FOUND,
        "method_not_allowed" => StatusCode::METHOD_NOT_ALLOWED,
        "body_timeout" => StatusCode::REQUEST_TIMEOUT,
        "service_exists"
        | "service_in_use"
        | "agent_in_use"
        | "prefix_taken"
        | "idempotency_conflict"
        | "already_ended"
        | "no_commit"
        | "nothing_to_roll_back"
        | "instance_over"
        | "token_exists"
        | "variable_taken"
        | "environment_exists"
        | "environment_in_use"
        | "sandbox_exists"
        | "route_conflict"
        | "locked"
        | "frozen"
        | "quota_exceeded"
        | "too_many_secrets"
        | "secrets_need_a_key"
        | "last_admin" => StatusCode::CONFLICT,
        "feed_gone" | "sign_in_link_used" | "link_used" => StatusCode::GONE,
        "too_many_requests" => StatusCode::TOO_MANY_REQUESTS,
        "body_too_large" => StatusCode::PAYLOAD_TOO_LARGE,
        "unsupported_media_type" => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        // What a client sent, and what its git host answers to it.
        "invalid_body"
        | "invalid_query"
        | "invalid_header"
        | "invalid_id"
        | "invalid_name"
        | "invalid_branch"
        | "invalid_commit"
        | "invalid_repository"
        | "invalid_variable"
        | "invalid_path"
        | "invalid_channel"
        | "invalid_cursor"
        | "invalid_service"
        | "service_not_in_environment"
        | "target_refused"
        | "lifetime_too_long"
        | "secret_too_short"
        | "secret_too_long"
        | "secret_unfit"
        | "repo_not_allowed"
        | "repo_not_found"
        | "credentials_needed"
        | "login_repository_public"
        | "repositories_unlisted"
        | "redirect_refused"
        | "ref_not_found"
        | "ref_ambiguous" => StatusCode::UNPROCESSABLE_ENTITY,
        "upgrade_required" => StatusCode::UPGRADE_REQUIRED,
        "git_unreachable" => StatusCode::BAD_GATEWAY,
        "queue_full"
        | "no_agent"
        | "agent_away"
        | "agent_refused"
        | "too_many_listings"
        | "too_many_followers"
        | "stopping"
        | "shutting_down"
        | "not_ready"
        | "database_gone"
        | "timed_out"
        | "too_many_connections" => StatusCode::SERVICE_UNAVAILABLE,
        "no_answer" | "timeout" => StatusCode::GATEWAY_TIMEOUT,
        "disk_low" | "disk_full" => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let seconds = self.seconds_to_wait();
        let body = serde_json::to_vec(&self.problem).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            }
            _ => {}
        }
        if let Some(seconds) = seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(Code(self.problem.code.as_str().into()));
        if let Some(text) = self.fault {
            response.extensions_mut().insert(Fault(text));
        }
        response
    }
}

impl From<PlatformError> for Refused {
    fn from(error: PlatformError) -> Self {
        let code = error.code();
        let mut refused = match &error {
            PlatformError::Failed(failure) => {
                Self::new(code, failure.reason.sentence()).detail(failure.detail.clone())
            }
            // Their text names files and statements.
            PlatformError::Store(_) | PlatformError::Logs(_) | PlatformError::Vault(_) => {
                Self::new(code, "the server's storage failed").fault(&error)
            }
            _ => Self::new(code, error.to_string()),
        };
        refused.problem.detail = refused.problem.detail.or_else(|| detail(&error));
        refused.problem.hint = Some(error.hint().to_owned());
        refused.problem.did_you_mean = error.did_you_mean().map(str::to_owned);
        refused
    }
}

/// What helps a person who was refused to choose: with whom they collide, who holds a lock until when, what they could delete.
fn detail(error: &PlatformError) -> Option<String> {
    match error {
        PlatformError::RouteConflict { name, other, what } => {
            Some(format!("{name} and {other} would both have {what}"))
        }
        PlatformError::Locked { lock } => {
            let end = match lock.expires_at {
                Some(end) => format!("until {end}"),
                None => "until they end it".to_owned(),
            };
            Some(format!("held by {} since {}, {end} ({})", lock.owner, lock.created_at, lock.id))
        }
        PlatformError::QuotaExceeded { sandboxes, .. } => {
            let first: Vec<&str> = sandboxes.iter().take(LEAST_USED).map(SandboxName::as_str).collect();
            let more = match sandboxes.len().saturating_sub(LEAST_USED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            (!first.is_empty()).then(|| format!("the least lately used first: {}{more}", first.join(", ")))
        }
        _ => None,
    }
}

impl From<AccessError> for Refused {
    fn from(error: AccessError) -> Self {
        let refused = match &error {
            AccessError::Store(_) | AccessError::NoRandom | AccessError::NoKey => {
                Self::new(error.code(), "the server's storage failed").fault(&error)
            }
            _ => Self::new(error.code(), error.to_string()),
        };
        refused.hint(error.hint())
    }
}

impl From<sdp_core::logs::LogsError> for Refused {
    fn from(error: sdp_core::logs::LogsError) -> Self {
        PlatformError::from(error).into()
    }
}

impl From<InvalidName> for Refused {
    fn from(error: InvalidName) -> Self {
        // Its text is "invalid branch: what is expected"; the latter is the hint.
        let text = error.to_string();
        let title = text.split(':').next().unwrap_or_default();
        Self::new(error.code(), title).hint(error.hint())
    }
}

impl From<InvalidId> for Refused {
    fn from(error: InvalidId) -> Self {
        Self::new("invalid_id", error.to_string())
            .hint("an id is what the API gave you; a deployment also has a number")
    }
}

impl Refused {
    fn fault(mut self, error: &dyn std::error::Error) -> Self {
        self.fault = Some(chain(error));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_send_is_never_our_fault() {
        let bad_branch = sdp_core::name::GitRef::parse("-h").expect_err("refused");
        let refused = Refused::from(bad_branch);
        insta::assert_debug_snapshot!(refused.problem(), @r#"
        Problem {
            type_: "about:blank",
            status: 422,
            code: "invalid_branch",
            title: "Invalid branch",
            detail: None,
            hint: Some(
                "letters, digits and / . _ - + # @, at most 250 bytes, as `git branch` allows",
            ),
            did_you_mean: None,
        }
        "#);
    }

    #[test]
    fn a_fault_is_for_the_log_and_not_for_the_client() {
        let refused = Refused::internal(&std::io::Error::other("/secret/path"));
        assert!(!format!("{:?}", refused.problem()).contains("/secret/path"));
        let response = refused.into_response();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(&*response.extensions().get::<Fault>().expect("to be logged").0, "/secret/path");
    }
}
