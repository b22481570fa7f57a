//! What runs.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use sdp_core::api::{AgainRequest, DeploymentCreated, Instance, InstanceList, Problem};
use sdp_core::id::InstanceId;
use sdp_core::name::{SandboxName, ServiceName};
use sdp_core::platform::{Again, InstanceFilter};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{again, created};
use crate::app::App;
use crate::edge::audit::touched;
use crate::edge::{Caller, IdempotencyHeader, Named, OptionalJsonBody, Query};
use crate::problem::Refused;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Only in this sandbox.
    sandbox: Option<SandboxName>,
    /// Only of this service.
    service: Option<ServiceName>,
    /// Those that do not run any more, too.
    #[param(default = false)]
    #[serde(default)]
    all: bool,
}

/// Instances, newest first.
#[utoipa::path(get, path = "/api/v1/instances", operation_id = "list_instances", tag = "instances",
    params(ListQuery),
    responses((status = 200, description = "Instances", body = InstanceList)))]
pub(crate) async fn list(
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Json<InstanceList>, Refused> {
    let ListQuery { sandbox, service, all } = query;
    let instances = app.platform().instances(InstanceFilter { service, sandbox, all }).await?;
    Ok(Json(InstanceList { instances }))
}

/// One instance.
#[utoipa::path(get, path = "/api/v1/instances/{instance}", operation_id = "get_instance", tag = "instances",
    params(("instance" = InstanceId, Path, description = "Its id")),
    responses((status = 200, description = "The instance", body = Instance),
        (status = 404, description = "`unknown_instance`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn get(
    State(app): State<App>,
    Named(id): Named<InstanceId>,
) -> Result<Json<Instance>, Refused> {
    Ok(Json(app.platform().instance(id).await?))
}

/// Stop an instance. Its requests go to the baseline from now on; it ends when those under way have finished.
#[utoipa::path(post, path = "/api/v1/instances/{instance}/stop", operation_id = "stop_instance", tag = "instances",
    params(("instance" = InstanceId, Path, description = "Its id")),
    responses((status = 202, description = "It is being stopped", body = Instance),
        (status = 404, description = "`unknown_instance`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`instance_over`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn stop(
    State(app): State<App>,
    caller: Caller,
    Named(id): Named<InstanceId>,
) -> Result<Response, Refused> {
    may_change(&app, &caller, id).await?;
    let instance = app.platform().stop_instance(&caller.principal, id).await?;
    let what = format!("{} in {}", instance.service, instance.sandbox);
    Ok(touched(what, (StatusCode::ACCEPTED, Json(instance))))
}

/// Start an instance's commit anew, and put it in its place once it is healthy.
#[utoipa::path(post, path = "/api/v1/instances/{instance}/restart", operation_id = "restart_instance", tag = "instances",
    params(("instance" = InstanceId, Path, description = "Its id"),
        ("idempotency-key" = Option<String>, Header, min_length = 1, max_length = 200, description = "As for `create_deployment`")),
    request_body(content = Option<AgainRequest>, description = "May be left out"),
    responses(
        (status = 202, description = "Taken", body = DeploymentCreated,
            headers(("location" = String, description = "The new deployment's address"))),
        (status = 404, description = "`unknown_instance`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`idempotency_conflict`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn restart(
    State(app): State<App>,
    caller: Caller,
    Named(id): Named<InstanceId>,
    IdempotencyHeader(key): IdempotencyHeader,
    OptionalJsonBody(body): OptionalJsonBody<AgainRequest>,
) -> Result<Response, Refused> {
    may_change(&app, &caller, id).await?;
    let again =
        Again { power: caller.power(), ..again(key, &format!("/api/v1/instances/{id}/restart"), body)? };
    let deployment = app.platform().restart(&caller.principal, id, again).await?;
    Ok(created(&app, deployment))
}

/// Refuses to touch an instance of another service than a limited token names.
async fn may_change(app: &App, caller: &Caller, id: InstanceId) -> Result<(), Refused> {
    if caller.service.is_none() {
        return Ok(());
    }
    caller.may_change(&app.platform().instance(id).await?.service)
}
