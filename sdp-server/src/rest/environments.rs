//! Environments: a baseline and its router, and what may be done there.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use sdp_core::api::{Environment, EnvironmentList, Problem};
use sdp_core::name::EnvironmentName;
use sdp_core::platform::Save;

use super::located;
use crate::app::App;
use crate::edge::audit::touched;
use crate::edge::{Caller, JsonBody, Named};
use crate::openapi::examples;
use crate::problem::Refused;

/// All environments, by name.
#[utoipa::path(get, path = "/api/v1/environments", operation_id = "list_environments", tag = "environments",
    responses((status = 200, description = "All environments", body = EnvironmentList)))]
pub(crate) async fn list(State(app): State<App>) -> Result<Json<EnvironmentList>, Refused> {
    Ok(Json(EnvironmentList { environments: app.platform().environments().await? }))
}

/// Make an environment.
#[utoipa::path(post, path = "/api/v1/environments", operation_id = "create_environment", tag = "environments",
    request_body(content = Environment, example = json!(examples::environment())),
    responses(
        (status = 201, description = "It is there", body = Environment,
            headers(("location" = String, description = "Its address"))),
        (status = 404, description = "`unknown_service`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "There is one of that name (`environment_exists`), or two would get the same requests \
            (`route_conflict`, which names both)", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    JsonBody(environment): JsonBody<Environment>,
) -> Result<Response, Refused> {
    app.platform().save_environment(&caller.principal, environment.clone(), Save::Create).await?;
    let location = format!("/api/v1/environments/{}", environment.name);
    let name = environment.name.clone();
    Ok(touched(name, located(&location, (StatusCode::CREATED, Json(environment)))))
}

/// One environment.
#[utoipa::path(get, path = "/api/v1/environments/{environment}", operation_id = "get_environment", tag = "environments",
    params(("environment" = EnvironmentName, Path, description = "Its name")),
    responses((status = 200, description = "The environment", body = Environment),
        (status = 404, description = "`unknown_environment`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn get(
    State(app): State<App>,
    Named(name): Named<EnvironmentName>,
) -> Result<Json<Environment>, Refused> {
    Ok(Json(app.platform().environment(&name).await?))
}

/// Make an environment or change it. The name in the body is that in the address.
#[utoipa::path(put, path = "/api/v1/environments/{environment}", operation_id = "save_environment", tag = "environments",
    params(("environment" = EnvironmentName, Path, description = "Its name")),
    request_body(content = Environment, example = json!(examples::environment())),
    responses(
        (status = 200, description = "It says this now", body = Environment),
        (status = 201, description = "It is new", body = Environment,
            headers(("location" = String, description = "Its address"))),
        (status = 404, description = "`unknown_service`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Two would get the same requests (`route_conflict`, which names both)",
            body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn put(
    State(app): State<App>,
    caller: Caller,
    Named(name): Named<EnvironmentName>,
    JsonBody(environment): JsonBody<Environment>,
) -> Result<Response, Refused> {
    if environment.name != name {
        return Err(Refused::new("invalid_body", "the name in the body is not the one in the address")
            .hint("an environment keeps its name; make one with the new name and delete the old one"));
    }
    let is_new = app.platform().save_environment(&caller.principal, environment.clone(), Save::Put).await?;
    if !is_new {
        return Ok(Json(environment).into_response());
    }
    let location = format!("/api/v1/environments/{name}");
    Ok(located(&location, (StatusCode::CREATED, Json(environment))))
}

/// Delete an environment in which no sandbox and no template is.
#[utoipa::path(delete, path = "/api/v1/environments/{environment}", operation_id = "delete_environment", tag = "environments",
    params(("environment" = EnvironmentName, Path, description = "Its name")),
    responses((status = 204, description = "It is gone"),
        (status = 404, description = "`unknown_environment`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Something is in it, which the answer names (`environment_in_use`)",
            body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Named(name): Named<EnvironmentName>,
) -> Result<StatusCode, Refused> {
    app.platform().delete_environment(&caller.principal, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
