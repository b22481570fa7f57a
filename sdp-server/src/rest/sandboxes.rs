//! Sandboxes and what runs in them.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use sdp_core::api::{Instance, Problem, SandboxList, SandboxView};
use sdp_core::name::SandboxName;
use sdp_core::platform::InstanceFilter;

use crate::app::App;
use crate::edge::{Caller, Named};
use crate::problem::Refused;

/// All sandboxes, by name, and what runs in them.
#[utoipa::path(get, path = "/api/v1/sandboxes", operation_id = "list_sandboxes", tag = "sandboxes",
    responses((status = 200, description = "All sandboxes", body = SandboxList)))]
pub(crate) async fn list(State(app): State<App>) -> Result<Json<SandboxList>, Refused> {
    let sandboxes = app.platform().sandboxes().await?;
    let mut running: BTreeMap<SandboxName, Vec<Instance>> = BTreeMap::new();
    for instance in app.platform().instances(InstanceFilter::default()).await? {
        running.entry(instance.sandbox.clone()).or_default().push(instance);
    }
    let views = sandboxes.into_iter().map(|sandbox| {
        let instances = running.remove(&sandbox.name).unwrap_or_default();
        SandboxView { sandbox, instances }
    });
    Ok(Json(SandboxList { sandboxes: views.collect() }))
}

/// One sandbox and what runs in it.
#[utoipa::path(get, path = "/api/v1/sandboxes/{sandbox}", operation_id = "get_sandbox", tag = "sandboxes",
    params(("sandbox" = SandboxName, Path, description = "Its name")),
    responses((status = 200, description = "The sandbox", body = SandboxView),
        (status = 404, description = "`unknown_sandbox`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn get(
    State(app): State<App>,
    Named(name): Named<SandboxName>,
) -> Result<Json<SandboxView>, Refused> {
    let sandbox = app.platform().sandbox(&name).await?;
    let filter = InstanceFilter { sandbox: Some(name), ..InstanceFilter::default() };
    Ok(Json(SandboxView { sandbox, instances: app.platform().instances(filter).await? }))
}

/// Delete a sandbox: what is under way in it is cancelled, what runs in it is stopped.
#[utoipa::path(delete, path = "/api/v1/sandboxes/{sandbox}", operation_id = "delete_sandbox", tag = "sandboxes",
    params(("sandbox" = SandboxName, Path, description = "Its name")),
    responses((status = 204, description = "It is gone; what runs in it is being stopped"),
        (status = 404, description = "`unknown_sandbox`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Named(name): Named<SandboxName>,
) -> Result<StatusCode, Refused> {
    app.platform().delete_sandbox(&caller.principal, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
