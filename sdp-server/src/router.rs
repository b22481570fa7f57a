//! Every route of the server. A route of the API cannot be added without its documentation, and answers nobody until it has
//! an entry in the table of who may ([`edge`]).

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::header;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::app::App;
use crate::rest::{
    agents, audit, batches, deployments, environments, events, health, instances, locks, login, logs, me,
    metrics, output, people, repositories, routes, sandboxes, secrets, services, sign_in, templates, tokens,
};
use crate::{edge, openapi, pages, socket};

const DOCUMENT: &str = "/api/v1/openapi.json";

/// The documented routes, and their document.
pub(crate) fn api() -> (Router<App>, OpenApi) {
    let (router, mut document) = OpenApiRouter::with_openapi(openapi::begin())
        .routes(routes!(services::list, services::create))
        .routes(routes!(services::get, services::put, services::delete))
        .routes(routes!(services::branches))
        .routes(routes!(repositories::list))
        .routes(routes!(secrets::list))
        .routes(routes!(secrets::put, secrets::delete))
        .routes(routes!(deployments::list, deployments::create))
        .routes(routes!(deployments::get))
        .routes(routes!(deployments::cancel))
        .routes(routes!(deployments::redeploy))
        .routes(routes!(deployments::rollback))
        .routes(routes!(logs::window))
        .routes(routes!(logs::search))
        .routes(routes!(logs::raw))
        .routes(routes!(instances::list))
        .routes(routes!(instances::get))
        .routes(routes!(instances::stop))
        .routes(routes!(instances::restart))
        .routes(routes!(output::read))
        .routes(routes!(output::raw))
        .routes(routes!(batches::create))
        .routes(routes!(batches::get))
        .routes(routes!(environments::list, environments::create))
        .routes(routes!(environments::get, environments::put, environments::delete))
        .routes(routes!(templates::list))
        .routes(routes!(templates::get, templates::put, templates::delete))
        .routes(routes!(templates::versions))
        .routes(routes!(sandboxes::list, sandboxes::create))
        .routes(routes!(sandboxes::get, sandboxes::put, sandboxes::delete))
        .routes(routes!(sandboxes::renew))
        .routes(routes!(sandboxes::choose_route))
        .routes(routes!(sandboxes::variables))
        .routes(routes!(sandboxes::probe))
        .routes(routes!(routes::explain))
        .routes(routes!(locks::list, locks::create))
        .routes(routes!(locks::delete))
        .routes(routes!(agents::list))
        .routes(routes!(agents::forget))
        .routes(routes!(agents::drain))
        .routes(routes!(agents::resume))
        .routes(routes!(agents::create_enrolment))
        .routes(routes!(agents::enrol))
        .routes(routes!(events::follow))
        .routes(routes!(sign_in::create_link))
        .routes(routes!(sign_in::open, sign_in::sign_in))
        .routes(routes!(sign_in::sign_out))
        .routes(routes!(login::log_in))
        .routes(routes!(login::create_link))
        .routes(routes!(me::get))
        .routes(routes!(me::sessions, me::log_out_everywhere))
        .routes(routes!(me::delete_session))
        .routes(routes!(me::bindings))
        .routes(routes!(me::delete_binding))
        .routes(routes!(me::log_out))
        .routes(routes!(audit::list))
        .routes(routes!(audit::export))
        .routes(routes!(people::list))
        .routes(routes!(people::set_role, people::delete))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::delete))
        .routes(routes!(document))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(metrics::read))
        .routes(routes!(socket::agent::connect))
        .routes(routes!(socket::viewer::connect))
        .split_for_parts();
    openapi::finish(&mut document);
    (router, document)
}

/// The whole server.
pub(crate) fn router(app: App) -> Router {
    let docs = SwaggerUi::new("/docs").config(Config::from(DOCUMENT));
    let layers = ServiceBuilder::new()
        .layer(from_fn_with_state(app.clone(), edge::answer))
        .layer(CatchPanicLayer::custom(edge::panicked))
        .layer(from_fn(edge::limit_time))
        .layer(from_fn(edge::only_problems))
        .layer(from_fn_with_state(app.clone(), edge::limit_refusals))
        .layer(from_fn_with_state(app.clone(), edge::authenticate))
        .layer(from_fn_with_state(app.clone(), edge::limit_requests))
        .layer(DefaultBodyLimit::max(edge::BODY_LIMIT));
    api()
        .0
        .merge(docs)
        .merge(pages::routes())
        .fallback(pages::not_found)
        .method_not_allowed_fallback(edge::method_not_allowed)
        .layer(layers)
        .with_state(app)
}

/// The OpenAPI document, as it is checked in at `openapi/sdp.json`.
#[must_use]
pub fn openapi_json() -> String {
    static TEXT: LazyLock<Arc<str>> = LazyLock::new(|| {
        let mut text = api().1.to_pretty_json().unwrap_or_default();
        text.push('\n');
        text.into()
    });
    TEXT.to_string()
}

/// This document.
#[utoipa::path(get, path = "/api/v1/openapi.json", operation_id = "get_openapi", tag = "health",
    responses((status = 200, description = "The OpenAPI document", content_type = "application/json")))]
async fn document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], openapi_json()).into_response()
}
