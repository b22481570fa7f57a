//! Several deployments at once.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use sdp_core::api::{BatchView, CreateBatch, Problem};
use sdp_core::batch::Batch;
use sdp_core::deployment::Deployment;
use sdp_core::id::BatchId;

use super::deployments::{GetQuery, held_for};
use super::{check_credential, idempotency, located, without_password};
use crate::app::App;
use crate::edge::audit::touched;
use crate::edge::{Caller, IdempotencyHeader, JsonBody, Named, Query};
use crate::openapi::examples;
use crate::problem::Refused;

/// Ask for several deployments into one sandbox together.
///
/// All are taken, or none. Requests are switched to all that have become healthy at once, when none is on its way any more.
/// Follow it with `GET …?wait=50`, or the event feed.
#[utoipa::path(post, path = "/api/v1/batches", operation_id = "create_batch", tag = "batches",
    params(("idempotency-key" = Option<String>, Header, min_length = 1, max_length = 200,
        description = "The same key with the same request gives the same batch; with another one 409")),
    request_body(content = CreateBatch, example = json!(examples::create_batch())),
    responses(
        (status = 202, description = "Taken", body = BatchView,
            headers(("location" = String, description = "Its address"))),
        (status = 403, description = "The sandbox is somebody else's (`not_a_member`), or its environment is not for everybody \
            (`not_a_deployer`)", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`unknown_service`, `unknown_template`",
            body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`locked`, `frozen`, `quota_exceeded`, or the key was used for another request \
            (`idempotency_conflict`)", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Something in it is wrong, such as `invalid_branch` or `service_not_in_environment`",
            body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`queue_full`", body = Problem, content_type = "application/problem+json"),
        (status = 507, description = "`disk_low`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    IdempotencyHeader(key): IdempotencyHeader,
    JsonBody(body): JsonBody<CreateBatch>,
) -> Result<Response, Refused> {
    may_deploy(&app, &caller, &body).await?;
    check_credential(&body.git_credential)?;
    let plain = CreateBatch { git_credential: without_password(&body.git_credential), ..body.clone() };
    let idempotency = idempotency(key, "/api/v1/batches", &plain)?;
    let batch = app.platform().deploy_batch(&caller.principal, body, idempotency, caller.power()).await?;
    let (batch, deployments) = app.platform().batch(batch.id).await?;
    let services: Vec<_> = deployments.iter().map(|one| one.service.to_string()).collect();
    let what = format!("{} to {}", services.join(", "), batch.sandbox);
    let location = format!("/api/v1/batches/{}", batch.id);
    let body = Json(view(&app, batch, deployments));
    Ok(touched(what, located(&location, (StatusCode::ACCEPTED, body))))
}

/// A token for one service deploys nothing but that, be it named or a template's.
async fn may_deploy(app: &App, caller: &Caller, wanted: &CreateBatch) -> Result<(), Refused> {
    if caller.service.is_none() {
        return Ok(());
    }
    for one in &wanted.services {
        caller.may_change(&one.service)?;
    }
    if let Some(choice) = &wanted.template {
        let template = app.platform().template(&choice.name, choice.version).await?;
        for service in template.spec.services.keys() {
            caller.may_change(service)?;
        }
    }
    Ok(())
}

/// A batch and its deployments as they stand.
///
/// With `wait` the answer is held until all of them have ended or the time is up; look at `batch.outcome` to see which.
#[utoipa::path(get, path = "/api/v1/batches/{batch}", operation_id = "get_batch", tag = "batches",
    params(("batch" = BatchId, Path, description = "Its id"), GetQuery),
    responses((status = 200, description = "The batch", body = BatchView),
        (status = 404, description = "`unknown_batch`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn get(
    State(app): State<App>,
    Named(id): Named<BatchId>,
    Query(query): Query<GetQuery>,
) -> Result<Json<BatchView>, Refused> {
    let wait = held_for(&query)?;
    let (batch, deployments) = if wait == Duration::ZERO {
        app.platform().batch(id).await?
    } else {
        tokio::select! {
            ended = app.platform().wait_batch(id, wait) => ended?,
            // The server stops: the client asks again, and finds the next one.
            () = app.drain().cancelled() => app.platform().batch(id).await?,
        }
    };
    Ok(Json(view(&app, batch, deployments)))
}

fn view(app: &App, batch: Batch, deployments: Vec<Deployment>) -> BatchView {
    let url = app.public(&format!("/sandboxes/{}", batch.sandbox));
    BatchView { batch, deployments, url }
}
