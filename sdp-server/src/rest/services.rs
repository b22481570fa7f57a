//! The catalog.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use sdp_core::api::{BranchList, Problem, RefInfo, Service, ServiceList};
use sdp_core::name::ServiceName;
use sdp_core::platform::Save;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{check_part, located};
use crate::app::App;
use crate::edge::audit::touched;
use crate::edge::{Caller, JsonBody, Named, Query};
use crate::openapi::examples;
use crate::problem::Refused;

/// All services, by name.
#[utoipa::path(get, path = "/api/v1/services", operation_id = "list_services", tag = "services",
    responses((status = 200, description = "All services", body = ServiceList)))]
pub(crate) async fn list(State(app): State<App>) -> Result<Json<ServiceList>, Refused> {
    Ok(Json(ServiceList { services: app.platform().services().await? }))
}

/// Add a service.
#[utoipa::path(post, path = "/api/v1/services", operation_id = "create_service", tag = "services",
    request_body(content = Service, example = json!(examples::service())),
    responses(
        (status = 201, description = "It is in the catalog", body = Service,
            headers(("location" = String, description = "Its address"))),
        (status = 409, description = "There is one of that name (`service_exists`), or its paths are another's (`prefix_taken`)",
            body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    JsonBody(service): JsonBody<Service>,
) -> Result<Response, Refused> {
    app.platform().save_service(&caller.principal, service.clone(), Save::Create).await?;
    let location = format!("/api/v1/services/{}", service.name);
    Ok(touched(service.name.clone(), located(&location, (StatusCode::CREATED, Json(service)))))
}

/// One service.
#[utoipa::path(get, path = "/api/v1/services/{service}", operation_id = "get_service", tag = "services",
    params(("service" = ServiceName, Path, description = "Its name")),
    responses((status = 200, description = "The service", body = Service),
        (status = 404, description = "`unknown_service`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn get(
    State(app): State<App>,
    Named(name): Named<ServiceName>,
) -> Result<Json<Service>, Refused> {
    Ok(Json(app.platform().service(&name).await?))
}

/// Add a service or replace its entry. The name in the body is that in the address.
#[utoipa::path(put, path = "/api/v1/services/{service}", operation_id = "save_service", tag = "services",
    params(("service" = ServiceName, Path, description = "Its name")),
    request_body(content = Service, example = json!(examples::service())),
    responses(
        (status = 200, description = "Its entry was replaced", body = Service),
        (status = 201, description = "It is new", body = Service,
            headers(("location" = String, description = "Its address"))),
        (status = 409, description = "Its paths are another's (`prefix_taken`)",
            body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn put(
    State(app): State<App>,
    caller: Caller,
    Named(name): Named<ServiceName>,
    JsonBody(service): JsonBody<Service>,
) -> Result<Response, Refused> {
    if service.name != name {
        return Err(Refused::new("invalid_body", "the name in the body is not the one in the address")
            .hint("a service keeps its name; add one with the new name and delete the old one"));
    }
    let is_new = app.platform().save_service(&caller.principal, service.clone(), Save::Put).await?;
    if !is_new {
        return Ok(Json(service).into_response());
    }
    let location = format!("/api/v1/services/{name}");
    Ok(located(&location, (StatusCode::CREATED, Json(service))))
}

/// Take a service out of the catalog.
#[utoipa::path(delete, path = "/api/v1/services/{service}", operation_id = "delete_service", tag = "services",
    params(("service" = ServiceName, Path, description = "Its name")),
    responses((status = 204, description = "It is gone"),
        (status = 404, description = "`unknown_service`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It still runs somewhere (`service_in_use`)",
            body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Named(name): Named<ServiceName>,
) -> Result<StatusCode, Refused> {
    app.platform().delete_service(&caller.principal, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct BranchQuery {
    /// Only names that contain this, in upper or lower case.
    #[param(max_length = 250)]
    q: Option<String>,
}

/// Branches and tags of a service's repository.
///
/// An agent asks the git host. What it said is shown again for a minute at most.
#[utoipa::path(get, path = "/api/v1/services/{service}/branches", operation_id = "list_branches", tag = "services",
    params(("service" = ServiceName, Path, description = "Its name"), BranchQuery),
    responses((status = 200, description = "Branches and tags", body = BranchList),
        (status = 404, description = "`unknown_service`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "What the git host said, such as `credentials_needed` or `repo_not_found`",
            body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`no_agent`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn branches(
    State(app): State<App>,
    caller: Caller,
    Named(name): Named<ServiceName>,
    Query(query): Query<BranchQuery>,
) -> Result<Json<BranchList>, Refused> {
    check_part(query.q.as_deref())?;
    // What one may see depends on who one is at the git host.
    let service = app.platform().service(&name).await?;
    let credential = app.platform().credential_of(&caller.principal, &service.repo).await?;
    let list = app.platform().branches(&name, credential).await?;
    let part = query.q.unwrap_or_default().to_lowercase();
    let fits = |one: &&RefInfo| one.name.as_str().to_lowercase().contains(&part);
    Ok(Json(BranchList {
        head: list.head.clone(),
        branches: list.branches.iter().filter(fits).cloned().collect(),
        tags: list.tags.iter().filter(fits).cloned().collect(),
    }))
}
