//! Templates: what sandboxes are made from, version by version.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use sdp_core::api::{Problem, Template, TemplateList, TemplateSpec};
use sdp_core::name::TemplateName;
use sdp_core::platform::PlatformError;
use serde::Deserialize;
use utoipa::IntoParams;

use super::located;
use crate::app::App;
use crate::edge::audit::touched;
use crate::edge::{Caller, JsonBody, Named, Query};
use crate::openapi::examples;
use crate::problem::Refused;

/// The newest version of every template, by name.
#[utoipa::path(get, path = "/api/v1/templates", operation_id = "list_templates", tag = "templates",
    responses((status = 200, description = "All templates", body = TemplateList)))]
pub(crate) async fn list(State(app): State<App>) -> Result<Json<TemplateList>, Refused> {
    Ok(Json(TemplateList { templates: app.platform().templates().await? }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct VersionQuery {
    /// This version; without it the newest.
    #[param(minimum = 1)]
    version: Option<u32>,
}

/// A template: its newest version, or another one.
#[utoipa::path(get, path = "/api/v1/templates/{template}", operation_id = "get_template", tag = "templates",
    params(("template" = TemplateName, Path, description = "Its name"), VersionQuery),
    responses((status = 200, description = "The version", body = Template),
        (status = 404, description = "No such template, or no such version of it (`unknown_template`)",
            body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn get(
    State(app): State<App>,
    Named(name): Named<TemplateName>,
    Query(query): Query<VersionQuery>,
) -> Result<Json<Template>, Refused> {
    Ok(Json(app.platform().template(&name, query.version).await?))
}

/// All versions of a template, the newest first.
#[utoipa::path(get, path = "/api/v1/templates/{template}/versions", operation_id = "list_template_versions", tag = "templates",
    params(("template" = TemplateName, Path, description = "Its name")),
    responses((status = 200, description = "All its versions", body = TemplateList),
        (status = 404, description = "`unknown_template`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn versions(
    State(app): State<App>,
    Named(name): Named<TemplateName>,
) -> Result<Json<TemplateList>, Refused> {
    Ok(Json(TemplateList { templates: app.platform().template_versions(&name).await? }))
}

/// Say what a template is from now on.
///
/// That makes a new version of it, unless it says so already. Sandboxes keep the version that they were made from.
#[utoipa::path(put, path = "/api/v1/templates/{template}", operation_id = "save_template", tag = "templates",
    params(("template" = TemplateName, Path, description = "Its name")),
    request_body(content = TemplateSpec, example = json!(examples::template())),
    responses(
        (status = 200, description = "The version that says so", body = Template),
        (status = 201, description = "The template is new", body = Template,
            headers(("location" = String, description = "Its address"))),
        (status = 404, description = "`unknown_environment`, `unknown_service`, or `unknown_sandbox` of a route",
            body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Something in it is wrong, such as `service_not_in_environment`, `target_refused` or \
            `lifetime_too_long`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn put(
    State(app): State<App>,
    caller: Caller,
    Named(name): Named<TemplateName>,
    JsonBody(spec): JsonBody<TemplateSpec>,
) -> Result<Response, Refused> {
    let is_new = match app.platform().template(&name, None).await {
        Ok(_) => false,
        Err(PlatformError::UnknownTemplate { .. }) => true,
        Err(error) => return Err(error.into()),
    };
    let saved = app.platform().save_template(&caller.principal, &name, spec).await?;
    let what = format!("{name}, version {}", saved.version);
    if !is_new {
        return Ok(touched(what, Json(saved).into_response()));
    }
    let location = format!("/api/v1/templates/{name}");
    Ok(touched(what, located(&location, (StatusCode::CREATED, Json(saved)))))
}

/// Delete a template with all its versions.
///
/// Sandboxes that were made from it stay, without the variables that it gave them.
#[utoipa::path(delete, path = "/api/v1/templates/{template}", operation_id = "delete_template", tag = "templates",
    params(("template" = TemplateName, Path, description = "Its name")),
    responses((status = 204, description = "It is gone"),
        (status = 404, description = "`unknown_template`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Named(name): Named<TemplateName>,
) -> Result<StatusCode, Refused> {
    app.platform().delete_template(&caller.principal, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
