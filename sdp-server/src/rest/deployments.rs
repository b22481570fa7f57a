//! Deployments: ask, look, wait, list, cancel, do again.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use sdp_core::api::{
    AgainRequest, CreateDeployment, DeploymentCreated, DeploymentList, DeploymentView, Problem,
};
use sdp_core::id::{DeploymentNumber, DeploymentRef};
use sdp_core::name::{SandboxName, ServiceName};
use sdp_core::platform::{Again, Deploy, DeploymentFilter, StateFilter};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::{again, check_credential, created, idempotency, without_password};
use crate::app::App;
use crate::edge::audit::touched;
use crate::edge::{Caller, IdempotencyHeader, JsonBody, Named, OptionalJsonBody, Query};
use crate::openapi::examples;
use crate::problem::Refused;

/// The longest that a request is held; proxies cut at 60 s.
const HOLD_LIMIT: u64 = 50;
const PAGE: u32 = 50;
const PAGE_LIMIT: u32 = 200;

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = StateFilter)]
pub(crate) enum StateName {
    Queued,
    Running,
    Ended,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Only of this service.
    service: Option<ServiceName>,
    /// Only in this sandbox.
    sandbox: Option<SandboxName>,
    /// Only in this state.
    #[param(inline)]
    state: Option<StateName>,
    /// At most so many.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[param(max_length = 64)]
    cursor: Option<String>,
}

/// Deployments, newest first.
#[utoipa::path(get, path = "/api/v1/deployments", operation_id = "list_deployments", tag = "deployments",
    params(ListQuery),
    responses((status = 200, description = "One page", body = DeploymentList)))]
pub(crate) async fn list(
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Json<DeploymentList>, Refused> {
    let limit = match query.limit {
        None => PAGE,
        Some(limit) if (1..=PAGE_LIMIT).contains(&limit) => limit,
        Some(_) => return Err(invalid_query("limit: 1 to 200")),
    };
    let filter = DeploymentFilter {
        service: query.service,
        sandbox: query.sandbox,
        state: query.state.map(|state| match state {
            StateName::Queued => StateFilter::Queued,
            StateName::Running => StateFilter::Running,
            StateName::Ended => StateFilter::Ended,
        }),
        before: query.cursor.as_deref().map(from_cursor).transpose()?,
        // One more than asked for tells whether there is another page.
        limit: limit + 1,
    };
    let mut deployments = app.platform().deployments(filter).await?;
    let has_more = deployments.len() > limit as usize;
    deployments.truncate(limit as usize);
    let next_cursor = deployments.last().filter(|_| has_more).map(|last| to_cursor(last.number));
    Ok(Json(DeploymentList { deployments, next_cursor }))
}

fn to_cursor(number: DeploymentNumber) -> String {
    format!("n{number}")
}

fn from_cursor(cursor: &str) -> Result<DeploymentNumber, Refused> {
    cursor.strip_prefix('n').and_then(|number| number.parse().ok()).filter(in_range).ok_or_else(|| {
        Refused::new("invalid_cursor", "this is no cursor of a page").hint("pass `next_cursor` as it came")
    })
}

/// SQLite's numbers are signed.
fn in_range(number: &DeploymentNumber) -> bool {
    i64::try_from(number.0).is_ok()
}

fn invalid_query(detail: &str) -> Refused {
    Refused::new("invalid_query", "the query cannot be used").detail(detail)
}

/// Ask for a deployment.
///
/// The answer comes at once. Follow it with `GET …?wait=50`, the event feed, or its page.
#[utoipa::path(post, path = "/api/v1/deployments", operation_id = "create_deployment", tag = "deployments",
    params(("idempotency-key" = Option<String>, Header, min_length = 1, max_length = 200,
        description = "The same key with the same request gives the same deployment; with another one 409")),
    request_body(content = CreateDeployment, example = json!(examples::create_deployment())),
    responses(
        (status = 202, description = "Taken", body = DeploymentCreated,
            headers(("location" = String, description = "Its address"))),
        (status = 404, description = "`unknown_service`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The key was used for another request (`idempotency_conflict`)",
            body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Something in it is wrong, such as `invalid_branch`",
            body = Problem, content_type = "application/problem+json",
            example = json!(examples::invalid_branch())),
        (status = 503, description = "`queue_full`", body = Problem, content_type = "application/problem+json"),
        (status = 507, description = "`disk_low`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    IdempotencyHeader(key): IdempotencyHeader,
    JsonBody(body): JsonBody<CreateDeployment>,
) -> Result<Response, Refused> {
    caller.may_change(&body.service)?;
    check_credential(&body.git_credential)?;
    let plain = CreateDeployment { git_credential: without_password(&body.git_credential), ..body.clone() };
    let idempotency = idempotency(key, "/api/v1/deployments", &plain)?;
    let mut deploy = Deploy::new(body.service);
    deploy.git_ref = body.git_ref;
    deploy.sandbox = body.sandbox;
    deploy.env = body.env;
    deploy.notify = body.notify;
    deploy.credential = body.git_credential;
    deploy.idempotency = idempotency;
    deploy.power = caller.power();
    let deployment = app.platform().deploy(&caller.principal, deploy).await?;
    Ok(created(&app, deployment))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct GetQuery {
    /// Hold the answer until it has ended, at most so many seconds; then ask again.
    #[param(minimum = 0, maximum = 50, default = 0)]
    wait: Option<u64>,
}

/// How long an answer is held.
pub(super) fn held_for(query: &GetQuery) -> Result<Duration, Refused> {
    match query.wait.unwrap_or(0) {
        wait if wait > HOLD_LIMIT => Err(invalid_query("wait: 0 to 50 seconds")),
        wait => Ok(Duration::from_secs(wait)),
    }
}

/// A deployment as it stands, or as it ended.
///
/// With `wait` the answer is held until it has ended or the time is up; look at `deployment.state` to see which. A
/// superseded one has ended, and names its successor.
#[utoipa::path(get, path = "/api/v1/deployments/{deployment}", operation_id = "get_deployment", tag = "deployments",
    params(("deployment" = String, Path, description = "Its id or number", example = "412"), GetQuery),
    responses((status = 200, description = "The deployment", body = DeploymentView),
        (status = 404, description = "`unknown_deployment`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn get(
    State(app): State<App>,
    Named(reference): Named<DeploymentRef>,
    Query(query): Query<GetQuery>,
) -> Result<Json<DeploymentView>, Refused> {
    let wait = held_for(&query)?;
    let deployment = if wait == Duration::ZERO {
        app.platform().deployment(reference).await?
    } else {
        tokio::select! {
            ended = app.platform().wait_ended(reference, wait) => ended?,
            // The server stops: the client asks again, and finds the next one.
            () = app.drain().cancelled() => app.platform().deployment(reference).await?,
        }
    };
    Ok(Json(app.view(deployment).await?))
}

/// Cancel a deployment.
///
/// One that waits has ended with the answer; one that runs ends when everything that it started is gone.
#[utoipa::path(post, path = "/api/v1/deployments/{deployment}/cancel", operation_id = "cancel_deployment", tag = "deployments",
    params(("deployment" = String, Path, description = "Its id or number", example = "412")),
    responses((status = 202, description = "It is being cancelled", body = DeploymentView),
        (status = 404, description = "`unknown_deployment`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`already_ended`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn cancel(
    State(app): State<App>,
    caller: Caller,
    Named(reference): Named<DeploymentRef>,
) -> Result<Response, Refused> {
    may_change(&app, &caller, reference).await?;
    let deployment = app.platform().cancel(&caller.principal, reference).await?;
    let what = super::words(&deployment);
    Ok(touched(what, (StatusCode::ACCEPTED, Json(app.view(deployment).await?))))
}

/// Deploy the same commit again, from its kept build if that is still there.
#[utoipa::path(post, path = "/api/v1/deployments/{deployment}/redeploy", operation_id = "redeploy", tag = "deployments",
    params(("deployment" = String, Path, description = "Its id or number", example = "412"),
        ("idempotency-key" = Option<String>, Header, min_length = 1, max_length = 200, description = "As for `create_deployment`")),
    request_body(content = Option<AgainRequest>, description = "May be left out"),
    responses(
        (status = 202, description = "Taken", body = DeploymentCreated,
            headers(("location" = String, description = "The new deployment's address"))),
        (status = 404, description = "`unknown_deployment`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It never got as far as a commit (`no_commit`), or `idempotency_conflict`",
            body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn redeploy(
    State(app): State<App>,
    caller: Caller,
    Named(reference): Named<DeploymentRef>,
    IdempotencyHeader(key): IdempotencyHeader,
    OptionalJsonBody(body): OptionalJsonBody<AgainRequest>,
) -> Result<Response, Refused> {
    may_change(&app, &caller, reference).await?;
    let again = Again {
        power: caller.power(),
        ..again(key, &format!("/api/v1/deployments/{reference}/redeploy"), body)?
    };
    let deployment = app.platform().redeploy(&caller.principal, reference, again).await?;
    Ok(created(&app, deployment))
}

/// Bring back the commit that ran before, in the sandbox and for the service of this deployment.
#[utoipa::path(post, path = "/api/v1/deployments/{deployment}/rollback", operation_id = "rollback", tag = "deployments",
    params(("deployment" = String, Path, description = "Its id or number", example = "412"),
        ("idempotency-key" = Option<String>, Header, min_length = 1, max_length = 200, description = "As for `create_deployment`")),
    request_body(content = Option<AgainRequest>, description = "May be left out"),
    responses(
        (status = 202, description = "Taken", body = DeploymentCreated,
            headers(("location" = String, description = "The new deployment's address"))),
        (status = 404, description = "`unknown_deployment`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`nothing_to_roll_back`, or `idempotency_conflict`",
            body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn rollback(
    State(app): State<App>,
    caller: Caller,
    Named(reference): Named<DeploymentRef>,
    IdempotencyHeader(key): IdempotencyHeader,
    OptionalJsonBody(body): OptionalJsonBody<AgainRequest>,
) -> Result<Response, Refused> {
    may_change(&app, &caller, reference).await?;
    let again = Again {
        power: caller.power(),
        ..again(key, &format!("/api/v1/deployments/{reference}/rollback"), body)?
    };
    let deployment = app.platform().rollback(&caller.principal, reference, again).await?;
    Ok(created(&app, deployment))
}

/// Refuses to touch a deployment of another service than a limited token names.
async fn may_change(app: &App, caller: &Caller, reference: DeploymentRef) -> Result<(), Refused> {
    if caller.service.is_none() {
        return Ok(());
    }
    caller.may_change(&app.platform().deployment(reference).await?.service)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_went() {
        assert_eq!(from_cursor(&to_cursor(DeploymentNumber(412))).expect("a cursor"), DeploymentNumber(412));
        for bad in ["", "n", "412", "n-1", "n99999999999999999999", "n18446744073709551615", "n1;drop"] {
            assert_eq!(from_cursor(bad).expect_err("refused").code(), "invalid_cursor", "{bad}");
        }
    }

    #[test]
    fn a_fingerprint_does_not_depend_on_the_password() {
        let with = |password: &str| AgainRequest {
            notify: None,
            git_credential: Some(sdp_core::secret::GitCredential {
                username: "u".into(),
                password: sdp_core::secret::Secret::new(password),
            }),
        };
        let key = || Some("k".parse().expect("valid"));
        let fingerprint = |path: &str, body| {
            again(key(), path, body).expect("valid").idempotency.expect("a key").fingerprint
        };
        assert_eq!(fingerprint("/a", with("one")), fingerprint("/a", with("two")));
        assert_ne!(fingerprint("/a", with("one")), fingerprint("/b", with("one")));
        assert_ne!(fingerprint("/a", with("one")), fingerprint("/a", AgainRequest::default()));
        let told = AgainRequest {
            notify: Some(sdp_core::api::Notify { channel: "#ci".parse().expect("valid") }),
            ..with("one")
        };
        assert_ne!(fingerprint("/a", with("one")), fingerprint("/a", told));
    }
}
