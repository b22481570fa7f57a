//! Secrets of services: write-only. Only admins see or change them.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use sdp_core::api::{Problem, SecretInfo, SecretList, SetSecret};
use sdp_core::name::{EnvName, ServiceName};
use sdp_core::wire::SecretSource;

use super::located;
use crate::app::App;
use crate::edge::{Caller, JsonBody, Named, NamedTwo};
use crate::openapi::examples;
use crate::problem::Refused;

/// The secrets of a service, without their values.
#[utoipa::path(get, path = "/api/v1/services/{service}/secrets", operation_id = "list_secrets", tag = "services",
    params(("service" = ServiceName, Path, description = "Its name")),
    responses((status = 200, description = "All secrets of the service", body = SecretList),
        (status = 404, description = "`unknown_service`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(app): State<App>,
    Named(service): Named<ServiceName>,
) -> Result<Json<SecretList>, Refused> {
    Ok(Json(SecretList { secrets: app.platform().secrets(&service).await? }))
}

/// Set a secret of a service, or replace it. Deployments that begin from now on get it as a variable.
///
/// Its value is given to builds, to the running service or to both, and taken out of whatever they print. It cannot be read
/// back. What runs keeps the former value until it is replaced.
#[utoipa::path(put, path = "/api/v1/services/{service}/secrets/{name}", operation_id = "set_secret", tag = "services",
    params(("service" = ServiceName, Path, description = "The service"),
        ("name" = String, Path, description = "The variable")),
    request_body(content = SetSecret, example = json!(examples::set_secret())),
    responses(
        (status = 200, description = "It was replaced", body = SecretInfo),
        (status = 201, description = "It is new", body = SecretInfo,
            headers(("location" = String, description = "The list that it is in"))),
        (status = 404, description = "`unknown_service`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It is a plain variable of the service (`variable_taken`), there are too many (`too_many_secrets`), or the server keeps its key in memory only (`secrets_need_a_key`)",
            body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The value could not be kept out of logs (`secret_too_short`, `secret_unfit`), is too long (`secret_too_long`), or the name is none (`invalid_variable`)",
            body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn put(
    State(app): State<App>,
    caller: Caller,
    NamedTwo(service, name): NamedTwo<ServiceName, EnvName>,
    JsonBody(SetSecret { value, file, given_to }): JsonBody<SetSecret>,
) -> Result<Response, Refused> {
    let source = match (value, file) {
        (Some(value), None) => SecretSource::Value { value },
        (None, Some(file)) => SecretSource::File { file },
        _ => {
            return Err(
                Refused::new("invalid_body", "the body cannot be used").detail("either value or file")
            );
        }
    };
    let (secret, is_new) =
        app.platform().set_secret(&caller.principal, &service, name, source, given_to).await?;
    if !is_new {
        return Ok(Json(secret).into_response());
    }
    let location = format!("/api/v1/services/{service}/secrets");
    Ok(located(&location, (StatusCode::CREATED, Json(secret))))
}

/// Delete a secret of a service. What runs keeps it until it is replaced.
#[utoipa::path(delete, path = "/api/v1/services/{service}/secrets/{name}", operation_id = "delete_secret", tag = "services",
    params(("service" = ServiceName, Path, description = "The service"),
        ("name" = String, Path, description = "The variable")),
    responses((status = 204, description = "It is gone"),
        (status = 404, description = "`unknown_service` or `unknown_secret`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    NamedTwo(service, name): NamedTwo<ServiceName, EnvName>,
) -> Result<StatusCode, Refused> {
    app.platform().delete_secret(&caller.principal, &service, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
