//! Sandboxes: made, renewed, changed, and where their requests go.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use sdp_core::api::{
    ChooseRoute, CreateProbe, CreateSandbox, ProbeReport, Problem, RenewSandbox, RouteChoice, SandboxList,
    SandboxView, SaveSandbox, VariableList,
};
use sdp_core::name::{SandboxName, ServiceName};
use sdp_core::platform::Save;
use serde::Deserialize;
use utoipa::IntoParams;

use super::located;
use crate::app::App;
use crate::edge::audit::touched;
use crate::edge::{Caller, JsonBody, Named, NamedTwo, OptionalJsonBody, Query};
use crate::openapi::examples;
use crate::problem::Refused;

/// All sandboxes, by name, with what runs in them and where their requests go.
#[utoipa::path(get, path = "/api/v1/sandboxes", operation_id = "list_sandboxes", tag = "sandboxes",
    responses((status = 200, description = "All sandboxes", body = SandboxList)))]
pub(crate) async fn list(State(app): State<App>) -> Result<Json<SandboxList>, Refused> {
    Ok(Json(SandboxList { sandboxes: app.platform().sandbox_views().await? }))
}

/// Make a sandbox with a name of one's own, or with that of a branch.
///
/// A name that somebody has chosen must be free. The name that is made from a branch is always the same for that branch, and
/// its sandbox is renewed if it is there already. One of the two must be given.
#[utoipa::path(post, path = "/api/v1/sandboxes", operation_id = "create_sandbox", tag = "sandboxes",
    request_body(content = CreateSandbox, example = json!(examples::create_sandbox())),
    responses(
        (status = 200, description = "The branch's sandbox was there, and is renewed", body = SandboxView),
        (status = 201, description = "It is new", body = SandboxView,
            headers(("location" = String, description = "Its address"))),
        (status = 403, description = "Not for everybody: `not_a_deployer` in its environment, `not_a_member` of the sandbox \
            that is there", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`unknown_environment`, `unknown_template`, `unknown_service`, or `unknown_sandbox` \
            that it is made from", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "There is one of that name (`sandbox_exists`)",
            body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Something in it is wrong, such as `lifetime_too_long` or `target_refused`",
            body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    JsonBody(body): JsonBody<CreateSandbox>,
) -> Result<Response, Refused> {
    let (name, save) = match (body.name, &body.branch) {
        (Some(name), None) => (name, Save::Create),
        (None, Some(branch)) => (SandboxName::of_branch(branch), Save::Put),
        _ => {
            return Err(Refused::new("invalid_body", "the body cannot be used")
                .detail("either `name` or `branch`, and not both"));
        }
    };
    let answer = saved(&app, &caller, &name, body.sandbox, save).await?;
    Ok(touched(name, answer))
}

/// One sandbox: how its requests are marked, where they go, and what runs in it.
#[utoipa::path(get, path = "/api/v1/sandboxes/{sandbox}", operation_id = "get_sandbox", tag = "sandboxes",
    params(("sandbox" = SandboxName, Path, description = "Its name")),
    responses((status = 200, description = "The sandbox", body = SandboxView),
        (status = 404, description = "`unknown_sandbox`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn get(
    State(app): State<App>,
    Named(name): Named<SandboxName>,
) -> Result<Json<SandboxView>, Refused> {
    Ok(Json(app.platform().sandbox_view(&name).await?))
}

/// Make a sandbox, or change and renew it: what CI asks for before it deploys.
///
/// The answer has its address, and the header and key that mark requests as its own. What the body does not say stays as it is.
#[utoipa::path(put, path = "/api/v1/sandboxes/{sandbox}", operation_id = "save_sandbox", tag = "sandboxes",
    params(("sandbox" = SandboxName, Path, description = "Its name")),
    request_body(content = Option<SaveSandbox>, description = "May be left out", example = json!(examples::sandbox())),
    responses(
        (status = 200, description = "It was there; it says this now, and is renewed", body = SandboxView),
        (status = 201, description = "It is new", body = SandboxView,
            headers(("location" = String, description = "Its address"))),
        (status = 403, description = "It is somebody else's (`not_a_member`), or its environment is not for everybody \
            (`not_a_deployer`)", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`unknown_environment`, `unknown_template`, `unknown_service`, or `unknown_sandbox` \
            that it is made from", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Something in it is wrong, such as `lifetime_too_long` or `target_refused`",
            body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn put(
    State(app): State<App>,
    caller: Caller,
    Named(name): Named<SandboxName>,
    OptionalJsonBody(wanted): OptionalJsonBody<SaveSandbox>,
) -> Result<Response, Refused> {
    saved(&app, &caller, &name, wanted, Save::Put).await
}

async fn saved(
    app: &App,
    caller: &Caller,
    name: &SandboxName,
    wanted: SaveSandbox,
    save: Save,
) -> Result<Response, Refused> {
    may_save(caller, &wanted)?;
    let by = &caller.principal;
    let (_, created) = app.platform().save_sandbox(by, name, wanted, save, caller.power()).await?;
    let view = Json(app.platform().sandbox_view(name).await?);
    if !created {
        return Ok(view.into_response());
    }
    Ok(located(&format!("/api/v1/sandboxes/{name}"), (StatusCode::CREATED, view)))
}

/// A token for one service makes and renews sandboxes, as its deploys do, and says where that service's requests go; it says nothing
/// that other services' deploys depend on.
fn may_save(caller: &Caller, wanted: &SaveSandbox) -> Result<(), Refused> {
    if caller.service.is_none() {
        return Ok(());
    }
    for service in wanted.routes.iter().flat_map(|routes| routes.keys()) {
        caller.may_change(service)?;
    }
    let SaveSandbox { environment: _, template: _, from: _, routes: _, notes, .. } = wanted;
    let SaveSandbox { team, members, shared, lifetime_hours, expires_at, pinned, env, .. } = wanted;
    let says_more = [
        ("team", team.is_some()),
        ("members", members.is_some()),
        ("shared", shared.is_some()),
        ("lifetime_hours", lifetime_hours.is_some()),
        ("expires_at", expires_at.is_some()),
        ("pinned", pinned.is_some()),
        ("notes", notes.is_some()),
        ("env", env.is_some()),
    ];
    match says_more.into_iter().find(|(_, said)| *said) {
        Some((field, _)) => Err(only_renews(field)),
        None => Ok(()),
    }
}

fn only_renews(field: &str) -> Refused {
    Refused::forbidden("this token may change one service, and of a sandbox nothing but its end")
        .detail(format!("{field}: left out, it stays as it is"))
}

/// Delete a sandbox: what is under way in it is cancelled, what runs in it is stopped.
#[utoipa::path(delete, path = "/api/v1/sandboxes/{sandbox}", operation_id = "delete_sandbox", tag = "sandboxes",
    params(("sandbox" = SandboxName, Path, description = "Its name")),
    responses((status = 204, description = "It is gone; what runs in it is being stopped"),
        (status = 403, description = "It is somebody else's (`not_a_member`)",
            body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`unknown_sandbox`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Named(name): Named<SandboxName>,
) -> Result<StatusCode, Refused> {
    app.platform().delete_sandbox(&caller.principal, &name, caller.power()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Move a sandbox's end: by its own lifetime, or so many hours from now; or keep it until somebody deletes it.
#[utoipa::path(post, path = "/api/v1/sandboxes/{sandbox}/renew", operation_id = "renew_sandbox", tag = "sandboxes",
    params(("sandbox" = SandboxName, Path, description = "Its name")),
    request_body(content = Option<RenewSandbox>, description = "May be left out"),
    responses((status = 200, description = "It ends then", body = SandboxView),
        (status = 403, description = "It is somebody else's (`not_a_member`)",
            body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`unknown_sandbox`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`lifetime_too_long`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn renew(
    State(app): State<App>,
    caller: Caller,
    Named(name): Named<SandboxName>,
    OptionalJsonBody(renew): OptionalJsonBody<RenewSandbox>,
) -> Result<Json<SandboxView>, Refused> {
    if caller.service.is_some() && renew != RenewSandbox::default() {
        return Err(only_renews(if renew.hours.is_some() { "hours" } else { "pinned" }));
    }
    app.platform().renew_sandbox(&caller.principal, &name, renew, caller.power()).await?;
    Ok(Json(app.platform().sandbox_view(&name).await?))
}

/// Say where a sandbox's requests for a service go.
///
/// To the baseline, to what another sandbox of the same environment runs, or to an address inside the environment's
/// `external_networks`; with null to what was deployed in the sandbox, or else the baseline.
#[utoipa::path(put, path = "/api/v1/sandboxes/{sandbox}/routes/{service}", operation_id = "choose_route", tag = "sandboxes",
    params(("sandbox" = SandboxName, Path, description = "The sandbox"),
        ("service" = ServiceName, Path, description = "The service")),
    request_body(content = ChooseRoute, example = json!(examples::choose_route())),
    responses((status = 200, description = "They go there from now on", body = SandboxView),
        (status = 403, description = "It is somebody else's (`not_a_member`)",
            body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`unknown_sandbox`, `unknown_service`",
            body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`locked` or `frozen`, by whom and why",
            body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`target_refused`, `service_not_in_environment`",
            body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn choose_route(
    State(app): State<App>,
    caller: Caller,
    NamedTwo(sandbox, service): NamedTwo<SandboxName, ServiceName>,
    JsonBody(ChooseRoute { target }): JsonBody<ChooseRoute>,
) -> Result<Response, Refused> {
    caller.may_change(&service)?;
    let what = match &target {
        None => format!("{service} in {sandbox}: as deployed"),
        Some(RouteChoice::Baseline {}) => format!("{service} in {sandbox}: the baseline"),
        Some(RouteChoice::Borrowed { sandbox: of }) => format!("{service} in {sandbox}: that of {of}"),
        Some(RouteChoice::External { address }) => format!("{service} in {sandbox}: {address}"),
        Some(_) => format!("{service} in {sandbox}"),
    };
    let by = &caller.principal;
    app.platform().choose_route(by, &sandbox, &service, target, caller.power()).await?;
    Ok(touched(what, Json(app.platform().sandbox_view(&sandbox).await?)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct VariablesQuery {
    /// The service whose instances get them.
    service: ServiceName,
}

/// The variables that a service's instances get in a sandbox, by name, and which layer each value comes from.
///
/// Those of the deployment that runs there now are among them. A secret has no value here.
#[utoipa::path(get, path = "/api/v1/sandboxes/{sandbox}/variables", operation_id = "list_variables", tag = "sandboxes",
    params(("sandbox" = SandboxName, Path, description = "Its name"), VariablesQuery),
    responses((status = 200, description = "The variables", body = VariableList),
        (status = 404, description = "`unknown_sandbox`, `unknown_service`",
            body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn variables(
    State(app): State<App>,
    Named(name): Named<SandboxName>,
    Query(query): Query<VariablesQuery>,
) -> Result<Json<VariableList>, Refused> {
    Ok(Json(VariableList { variables: app.platform().variables(&name, &query.service).await? }))
}

/// See whether services pass a sandbox's mark on.
///
/// Its router asks for the path as the sandbox, follows what the services ask each other for, and names the first that did not
/// pass the mark on.
#[utoipa::path(post, path = "/api/v1/sandboxes/{sandbox}/probe", operation_id = "probe", tag = "sandboxes",
    params(("sandbox" = SandboxName, Path, description = "Its name")),
    request_body(content = CreateProbe, example = json!(examples::probe())),
    responses((status = 200, description = "What was found", body = ProbeReport),
        (status = 404, description = "`unknown_sandbox`, `unknown_service`",
            body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "No router is connected (`no_agent`)",
            body = Problem, content_type = "application/problem+json"),
        (status = 504, description = "The router did not answer in time (`no_answer`)",
            body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn probe(
    State(app): State<App>,
    Named(name): Named<SandboxName>,
    JsonBody(probe): JsonBody<CreateProbe>,
) -> Result<Json<ProbeReport>, Refused> {
    Ok(Json(app.platform().probe(&name, probe).await?))
}
