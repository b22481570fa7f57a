//! The REST API, a file for each noun. Handlers parse, ask the core and answer.

pub(crate) mod agents;
pub(crate) mod audit;
pub(crate) mod batches;
pub(crate) mod deployments;
pub(crate) mod environments;
pub(crate) mod events;
pub(crate) mod health;
pub(crate) mod instances;
pub(crate) mod locks;
pub(crate) mod login;
pub(crate) mod logs;
pub(crate) mod me;
pub(crate) mod metrics;
pub(crate) mod output;
pub(crate) mod people;
pub(crate) mod repositories;
pub(crate) mod routes;
pub(crate) mod sandboxes;
pub(crate) mod secrets;
pub(crate) mod services;
pub(crate) mod sign_in;
pub(crate) mod templates;
pub(crate) mod tokens;

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use sdp_core::api::AgainRequest;
use sdp_core::deployment::Deployment;
use sdp_core::name::IdempotencyKey;
use sdp_core::platform::{Again, Idempotency};
use sdp_core::secret::{GitCredential, Secret};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::app::App;
use crate::edge::audit::touched;
use crate::problem::Refused;

/// A deployment as the audit names it.
fn words(deployment: &Deployment) -> String {
    let Deployment { number, service, git_ref, sandbox, .. } = deployment;
    format!("#{number} {service} {git_ref} to {sandbox}")
}

/// An answer with the address of what was made.
fn located(location: &str, answer: impl IntoResponse) -> Response {
    let mut response = answer.into_response();
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// What makes a request safe to repeat, if the client gave a key.
///
/// The fingerprint is over method, path and body in one canonical form. The password of a credential is not part of
/// it: a renewed one makes no other request, and nothing derived from it is stored.
fn idempotency(
    key: Option<IdempotencyKey>,
    path: &str,
    body: &impl Serialize,
) -> Result<Option<Idempotency>, Refused> {
    let Some(key) = key else { return Ok(None) };
    let body = serde_json::to_value(body).map_err(|error| Refused::internal(&error))?;
    let digest = Sha256::digest(format!("POST {path} {body}"));
    let fingerprint = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Some(Idempotency { key, fingerprint }))
}

fn without_password(credential: &Option<GitCredential>) -> Option<GitCredential> {
    credential
        .as_ref()
        .map(|credential| GitCredential { username: credential.username.clone(), password: Secret::new("") })
}

/// The most bytes of a user name and a password for git.
const USERNAME_LIMIT: usize = 256;
const PASSWORD_LIMIT: usize = 65_536;

fn check_credential(credential: &Option<GitCredential>) -> Result<(), Refused> {
    let Some(GitCredential { username, password }) = credential else { return Ok(()) };
    let refuse =
        |detail: &str| Err(Refused::new("invalid_body", "the git credential cannot be used").detail(detail));
    let has_control = |text: &str| text.chars().any(char::is_control);
    if username.len() > USERNAME_LIMIT || has_control(username) || username.contains(':') {
        return refuse("git_credential.username: at most 256 bytes, no colon, no control character");
    }
    if password.expose().is_empty()
        || password.expose().len() > PASSWORD_LIMIT
        || has_control(password.expose())
    {
        return refuse("git_credential.password: 1 to 65536 bytes, no control character");
    }
    Ok(())
}

/// No name of a branch is longer.
const PART_LIMIT: usize = 250;

/// A part of a name that is looked for in a list.
fn check_part(part: Option<&str>) -> Result<(), Refused> {
    if part.is_some_and(|part| part.chars().count() > PART_LIMIT) {
        return Err(
            Refused::new("invalid_query", "the query cannot be used").detail("q: at most 250 characters")
        );
    }
    Ok(())
}

/// What redeploy, rollback and restart carry.
fn again(key: Option<IdempotencyKey>, path: &str, body: AgainRequest) -> Result<Again, Refused> {
    check_credential(&body.git_credential)?;
    let plain = AgainRequest { git_credential: without_password(&body.git_credential), ..body.clone() };
    let idempotency = idempotency(key, path, &plain)?;
    Ok(Again { notify: body.notify, credential: body.git_credential, idempotency, ..Again::default() })
}

/// 202 with the new deployment and where to find it.
fn created(app: &App, deployment: Deployment) -> Response {
    let location = format!("/api/v1/deployments/{}", deployment.id);
    let body = sdp_core::api::DeploymentCreated {
        id: deployment.id,
        number: deployment.number,
        log_url: app.log_url(deployment.number),
        deployment,
    };
    let what = words(&body.deployment);
    touched(what, located(&location, (axum::http::StatusCode::ACCEPTED, axum::Json(body))))
}
