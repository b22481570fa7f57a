//! The pages: what browsers see. Home, a deployment with its live log, an instance with its live output, sandboxes with their routing
//! maps, environments, templates, one's account, the audit, and how to sign in.
//!
//! ```text
//! handler: ask the platform ─▶ a model (Home, LogPage, SandboxPage …) ─▶ pure rendering (maud) ─▶ HTML
//! script:  something happened (feed, socket) ─▶ fetch the page again ─▶ change what differs
//! ```
//! So there is one rendering, on the server, and all of it but the log's lines can be read without scripts. Text from outside
//! is escaped by maud here, and only ever becomes text nodes there. Writes go through the REST API like everybody's. The
//! edge asks who may, and sets the headers that keep scripts and frames of others away.
//! Limits: [`home::RECENT`] and [`home::UNDER_WAY`] deployments on the home page, [`PLACES`] running instances; 200 sandboxes in their list; the log page
//! holds 5,000 lines (lines.js) however long the log is.

mod account;
mod assets;
mod audit;
mod home;
mod instance;
mod layout;
mod log;
pub(crate) mod login;
mod parts;
mod places;
mod sandbox;
mod sandboxes;
pub(crate) mod sign_in;
#[cfg(test)]
mod tests;
mod words;

use std::collections::BTreeSet;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use jiff::Timestamp;
use sdp_core::deployment::Deployment;
use sdp_core::id::{DeploymentRef, InstanceId};
use sdp_core::platform::{DeploymentFilter, InstanceFilter, Platform, PlatformError, StateFilter};
use sdp_core::sandbox::{Instance, InstanceState, StopReason};

use crate::app::App;
use crate::edge::{Caller, Named};
use crate::problem::Refused;
use crate::rest::login as login_rest;

use home::{Home, Prefill};
use instance::InstancePage;
use log::LogPage;

/// How many places (service and sandbox) the home page shows at most.
const PLACES: usize = 200;

/// The pages' routes.
pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/", get(show_home))
        .route("/deployments/{deployment}", get(show_deployment))
        .route("/instances/{instance}", get(show_instance))
        .route("/sandboxes", get(sandboxes::show))
        .route("/sandboxes/{sandbox}", get(sandbox::show))
        .route("/environments", get(places::environments))
        .route("/templates", get(places::templates))
        .route("/templates/{template}", get(places::template))
        .route("/account", get(account::show))
        .route("/audit", get(audit::show))
        .route("/login", get(login_rest::open).post(login_rest::submit))
        .route("/login/{link}", get(login_rest::open_link).post(login_rest::submit))
        .route("/deployments", get(|| async { Redirect::permanent("/#deployments") }))
        .route("/assets/{version}/{name}", get(assets::serve))
        .route("/favicon.ico", get(|| async { Redirect::temporary(&assets::url("icon.svg")) }))
}

/// Whether a browser asks for a page, rather than a program for data.
pub(crate) fn wants_page(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    accepted.split(',').any(|kind| kind.trim_start().starts_with("text/html"))
}

/// What an address asks for, if that can be read.
type RouteQuery<T> = Result<Query<T>, QueryRejection>;

async fn show_home(State(app): State<App>, caller: Caller, prefill: RouteQuery<Prefill>) -> Response {
    // A query that makes no sense fills nothing in.
    let Query(prefill) = prefill.unwrap_or_default();
    match read_home(&app, &caller, prefill).await {
        Ok(home) => layout::respond(StatusCode::OK, home.render()),
        Err(error) => refuse(error, &caller),
    }
}

async fn show_deployment(
    State(app): State<App>,
    caller: Caller,
    name: Result<Named<DeploymentRef>, Refused>,
) -> Response {
    let read = async {
        let Named(reference) = name?;
        Ok::<_, Refused>(read_log_page(&app, &caller, reference).await?)
    };
    match read.await {
        Ok(page) => layout::respond(StatusCode::OK, page.render()),
        Err(refused) => sign_in::problem_page(refused, Some(&caller.principal)),
    }
}

async fn show_instance(
    State(app): State<App>,
    caller: Caller,
    name: Result<Named<InstanceId>, Refused>,
) -> Response {
    let read = async {
        let Named(id) = name?;
        Ok::<_, Refused>(read_instance_page(&app, &caller, id).await?)
    };
    match read.await {
        Ok(page) => layout::respond(StatusCode::OK, page.render()),
        Err(refused) => sign_in::problem_page(refused, Some(&caller.principal)),
    }
}

fn refuse(error: PlatformError, caller: &Caller) -> Response {
    sign_in::problem_page(error.into(), Some(&caller.principal))
}

async fn read_home(app: &App, caller: &Caller, prefill: Prefill) -> Result<Home, PlatformError> {
    let platform = app.platform();
    // Read first: what happens while the rest is read is told again by the feed, not lost.
    let event = platform.newest_event();
    let list = |state, limit, before| {
        platform.deployments(DeploymentFilter { state, limit, before, ..DeploymentFilter::default() })
    };
    let mut under_way = Vec::new();
    if prefill.before.is_none() {
        under_way = list(Some(StateFilter::Running), home::UNDER_WAY, None).await?;
        under_way.extend(list(Some(StateFilter::Queued), home::UNDER_WAY, None).await?);
        under_way.sort_by_key(|deployment| std::cmp::Reverse(deployment.number));
    }
    let mut recent = list(Some(StateFilter::Ended), home::RECENT + 1, prefill.before).await?;
    let has_older = recent.len() > home::RECENT as usize;
    recent.truncate(home::RECENT as usize);
    let older = recent.last().filter(|_| has_older).map(|last| last.number);
    Ok(Home {
        principal: caller.principal.clone(),
        now: Timestamp::now(),
        event,
        services: platform.services().await?,
        sandboxes: platform.sandboxes().await?,
        running: read_running(platform).await?,
        under_way,
        recent,
        older,
        agents: platform.agents().await?,
        prefill,
    })
}

/// What runs, and what should but does not: the newest instance of a place if it ended by itself.
async fn read_running(platform: &Platform) -> Result<Vec<(Instance, Option<Deployment>)>, PlatformError> {
    let mut places = BTreeSet::new();
    let mut running = Vec::new();
    // Newest first, so the first of a place that is over is its newest.
    for instance in platform.instances(InstanceFilter { all: true, ..InstanceFilter::default() }).await? {
        let is_newest = places.insert((instance.sandbox.clone(), instance.service.clone()));
        let broke = matches!(
            instance.state,
            InstanceState::Lost {}
                | InstanceState::Stopped {
                    reason: StopReason::Crashed { .. }
                        | StopReason::AgentRestarted {}
                        | StopReason::EngineRestarted {}
                        | StopReason::NotStarted { .. }
                }
        );
        if !instance.state.is_over() || (is_newest && broke) {
            let deployment = platform.deployment(instance.deployment.into()).await.ok();
            running.push((instance, deployment));
        }
        if running.len() == PLACES {
            break;
        }
    }
    Ok(running)
}

async fn read_log_page(
    app: &App,
    caller: &Caller,
    reference: DeploymentRef,
) -> Result<LogPage, PlatformError> {
    let platform = app.platform();
    let event = platform.newest_event();
    let deployment = platform.deployment(reference).await?;
    let instance = match deployment.instance {
        Some(id) => platform.instance(id).await.ok(),
        None => None,
    };
    let newest = platform
        .deployments(DeploymentFilter {
            service: Some(deployment.service.clone()),
            sandbox: Some(deployment.sandbox.clone()),
            limit: 1,
            ..DeploymentFilter::default()
        })
        .await?;
    let newer = newest.first().map(|newest| newest.number).filter(|number| *number > deployment.number);
    let view = app.view(deployment).await?;
    Ok(LogPage { principal: caller.principal.clone(), now: Timestamp::now(), event, view, instance, newer })
}

async fn read_instance_page(
    app: &App,
    caller: &Caller,
    id: InstanceId,
) -> Result<InstancePage, PlatformError> {
    let platform = app.platform();
    let event = platform.newest_event();
    let instance = platform.instance(id).await?;
    let deployment = platform.deployment(instance.deployment.into()).await.ok();
    let filter = InstanceFilter {
        service: Some(instance.service.clone()),
        sandbox: Some(instance.sandbox.clone()),
        all: false,
    };
    let there = platform.instances(filter).await?;
    // Newest first.
    let newer = there.first().map(|newest| newest.id).filter(|newest| *newest > id);
    Ok(InstancePage {
        principal: caller.principal.clone(),
        now: Timestamp::now(),
        event,
        instance,
        deployment,
        newer,
    })
}

/// No route: a page for people, a problem for programs.
pub(crate) async fn not_found(caller: Option<Caller>, headers: HeaderMap) -> Response {
    if wants_page(&headers) {
        let principal = caller.as_ref().map(|caller| &caller.principal);
        return sign_in::problem_page(Refused::not_found(), principal);
    }
    let mut response = Refused::not_found().into_response();
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    response
}
