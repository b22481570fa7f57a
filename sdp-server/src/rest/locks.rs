//! Locks and freezes: who may deploy where for a while.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use sdp_core::api::{CreateLock, Lock, LockKind, LockList, Problem};
use sdp_core::id::LockId;

use super::located;
use crate::app::App;
use crate::edge::audit::touched;
use crate::edge::{Caller, JsonBody, Named};
use crate::openapi::examples;
use crate::problem::Refused;

/// All locks and freezes, the oldest first.
#[utoipa::path(get, path = "/api/v1/locks", operation_id = "list_locks", tag = "locks",
    responses((status = 200, description = "All of them", body = LockList)))]
pub(crate) async fn list(State(app): State<App>) -> Result<Json<LockList>, Refused> {
    Ok(Json(LockList { locks: app.platform().locks().await? }))
}

/// Set a lock (nobody but you deploys there) or a freeze (nobody deploys there at all).
///
/// One's own in the same place is replaced. That of somebody else is taken away with `steal`: they are told, with the reason.
#[utoipa::path(post, path = "/api/v1/locks", operation_id = "create_lock", tag = "locks",
    request_body(content = CreateLock, example = json!(examples::create_lock())),
    responses(
        (status = 201, description = "It holds from now on", body = Lock,
            headers(("location" = String, description = "Its address"))),
        (status = 403, description = "The sandbox is somebody else's (`not_a_member`), or its environment is not for everybody \
            (`not_a_deployer`)", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`unknown_environment`, `unknown_sandbox`, `unknown_service`",
            body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Somebody else holds it (`locked`, `frozen`): who, why and until when",
            body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`service_not_in_environment`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    JsonBody(wanted): JsonBody<CreateLock>,
) -> Result<Response, Refused> {
    may_change(&caller, wanted.service.as_ref())?;
    let lock = app.platform().lock(&caller.principal, wanted, caller.power()).await?;
    let location = format!("/api/v1/locks/{}", lock.id);
    Ok(touched(words(&lock), located(&location, (StatusCode::CREATED, Json(lock)))))
}

/// End a lock or a freeze: one's own, or as an administrator anybody's.
#[utoipa::path(delete, path = "/api/v1/locks/{lock}", operation_id = "delete_lock", tag = "locks",
    params(("lock" = LockId, Path, description = "Its id")),
    responses((status = 204, description = "It is over"),
        (status = 403, description = "Somebody else holds it (`not_your_lock`)",
            body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`unknown_lock`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Named(id): Named<LockId>,
) -> Result<Response, Refused> {
    if caller.service.is_some() {
        let known = app.platform().locks().await?.into_iter().find(|lock| lock.id == id);
        if let Some(known) = known {
            may_change(&caller, known.place.service.as_ref())?;
        }
    }
    let lock = app.platform().unlock(&caller.principal, id, caller.power()).await?;
    Ok(touched(words(&lock), StatusCode::NO_CONTENT))
}

/// A token for one service locks nothing but that.
fn may_change(caller: &Caller, service: Option<&sdp_core::name::ServiceName>) -> Result<(), Refused> {
    match (service, &caller.service) {
        (Some(service), _) => caller.may_change(service),
        (None, None) => Ok(()),
        (None, Some(only)) => {
            Err(Refused::forbidden(format!("this token locks nothing but {only}")).hint("name the service"))
        }
    }
}

/// As the audit names it.
fn words(lock: &Lock) -> String {
    match lock.kind {
        LockKind::Freeze => format!("{}, frozen", lock.place),
        _ => lock.place.to_string(),
    }
}
