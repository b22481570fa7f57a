//! Whether the server lives, and whether it can work: for service managers and load balancers.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use sdp_core::api::Problem;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::problem::Refused;

const READY_LIMIT: Duration = Duration::from_secs(5);

/// It lives.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    /// `ok`.
    #[schema(example = "ok")]
    status: &'static str,
    /// The server's version.
    version: &'static str,
}

fn ok() -> Json<Health> {
    Json(Health { status: "ok", version: env!("CARGO_PKG_VERSION") })
}

/// The process answers.
#[utoipa::path(get, path = "/healthz", operation_id = "health", tag = "health",
    responses((status = 200, description = "It lives", body = Health)))]
pub(crate) async fn live() -> Json<Health> {
    ok()
}

/// It can work: the orchestrator answers and the database can be written.
#[utoipa::path(get, path = "/readyz", operation_id = "readiness", tag = "health",
    responses((status = 200, description = "It can work", body = Health),
        (status = 503, description = "It cannot (`not_ready`)", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn ready(State(app): State<App>) -> Result<Json<Health>, Refused> {
    let not_ready = || Refused::new("not_ready", "the server cannot work now");
    if app.drain().is_cancelled() {
        return Err(not_ready().detail("it is stopping"));
    }
    match tokio::time::timeout(READY_LIMIT, app.platform().ready()).await {
        Ok(Ok(())) => Ok(ok()),
        Ok(Err(error)) => Err(not_ready().detail(error.code())),
        Err(_) => Err(not_ready().detail("it does not answer in time")),
    }
}
