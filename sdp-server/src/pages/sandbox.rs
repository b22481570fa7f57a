//! The page of one sandbox: its routing map, how its requests are marked, who may change it and until when it lives. Pure:
//! [`SandboxPage`] in, HTML out; [`read`] asks the platform.
//!
//! Everything marked `data-part` is brought up to date by sandbox.js when something happens; the forms stand outside of these parts (or
//! keep what was typed), so that nobody loses a word. All but the buttons and forms can be used without scripts. Buttons are there for
//! those for whom the API does what they say.
//! Limits: of the map those of [`map`]; [`UNDER_WAY`] deployments that are not over, and the last [`RECENT`].

mod forms;
pub(super) mod map;
mod table;
mod way;

use std::collections::BTreeMap;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use jiff::Timestamp;
use maud::{Markup, html};
use sdp_core::api::{SandboxView, VariableLayer, VariableView};
use sdp_core::catalog::Environment;
use sdp_core::deployment::{Deployment, Outcome};
use sdp_core::id::{DeploymentId, EventSeq};
use sdp_core::lock::{Lock, LockKind};
use sdp_core::name::{SandboxName, ServiceName};
use sdp_core::platform::{DeploymentFilter, StateFilter};
use sdp_core::principal::Principal;

use super::layout::{Frame, page, respond};
use super::parts::{self, Delete, Post};
use super::words::{self, Tone};
use super::{RouteQuery, places, sign_in};
use crate::app::App;
use crate::edge::{Caller, Named, Who};
use crate::problem::Refused;

use map::Map;
pub(super) use table::rule;
use way::{Kind, Way};

/// How many deployments that are not over are shown.
const UNDER_WAY: u32 = 20;
/// How many that are over.
const RECENT: u32 = 5;

/// What the page of a sandbox shows.
#[derive(Debug)]
pub(super) struct SandboxPage {
    pub(super) principal: Principal,
    pub(super) now: Timestamp,
    pub(super) event: EventSeq,
    pub(super) view: SandboxView,
    /// Where it is; none if that was deleted meanwhile.
    pub(super) environment: Option<Environment>,
    /// The deployments that started what is drawn.
    pub(super) started: BTreeMap<DeploymentId, Deployment>,
    /// Queued and running, newest first.
    pub(super) under_way: Vec<Deployment>,
    /// Ended, newest first.
    pub(super) recent: Vec<Deployment>,
    /// The other sandboxes of its environment.
    pub(super) others: Vec<SandboxName>,
    /// The service whose variables are shown, and these.
    pub(super) variables: Option<(ServiceName, Vec<VariableView>)>,
    /// Whether whoever looks may change it.
    pub(super) may_change: bool,
    /// Whether they may set and steal locks here.
    pub(super) may_lock: bool,
    /// Whether they may end everybody's locks.
    pub(super) may_unlock_all: bool,
}

/// What the address asks for beside the sandbox.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Shown {
    /// The service whose variables are shown, as it came.
    variables: Option<String>,
}

pub(super) async fn show(
    State(app): State<App>,
    caller: Caller,
    name: Result<Named<SandboxName>, Refused>,
    shown: RouteQuery<Shown>,
) -> Response {
    let reading = async {
        let Named(name) = name?;
        // A query that makes no sense shows nothing else.
        let Query(shown) = shown.unwrap_or_default();
        read(&app, &caller, &name, &shown).await
    };
    match reading.await {
        Ok(page) => respond(StatusCode::OK, page.render()),
        Err(refused) => sign_in::problem_page(refused, Some(&caller.principal)),
    }
}

async fn read(app: &App, caller: &Caller, name: &SandboxName, shown: &Shown) -> Result<SandboxPage, Refused> {
    let platform = app.platform();
    // Read first: what happens while the rest is read is told again by the feed, not lost.
    let event = platform.newest_event();
    let view = platform.sandbox_view(name).await?;
    let environment = platform.environment(&view.sandbox.environment).await.ok();
    let list = |state, limit| {
        let sandbox = Some(name.clone());
        platform.deployments(DeploymentFilter {
            sandbox,
            state: Some(state),
            limit,
            ..DeploymentFilter::default()
        })
    };
    let mut under_way = list(StateFilter::Running, UNDER_WAY).await?;
    under_way.extend(list(StateFilter::Queued, UNDER_WAY).await?);
    under_way.sort_by_key(|deployment| std::cmp::Reverse(deployment.number));
    let recent = list(StateFilter::Ended, RECENT).await?;
    let mut started = BTreeMap::new();
    let drawn = view.routes.iter().filter_map(|route| route.instance.as_ref()).take(map::MOST_DIFFERENT);
    for id in drawn.map(|instance| instance.deployment) {
        if let Ok(deployment) = platform.deployment(id.into()).await {
            started.insert(id, deployment);
        }
    }
    let others = platform.sandboxes().await?.into_iter();
    let others = others.filter(|other| other.environment == view.sandbox.environment && other.name != *name);
    let wanted = shown.variables.as_ref().and_then(|wanted| ServiceName::parse(wanted).ok());
    let is_there = |service: &ServiceName| view.routes.iter().any(|route| route.service == *service);
    let wanted = wanted.filter(is_there).or_else(|| {
        let ways = Way::all(&view.routes);
        ways.first().map(|way| way.route.service.clone())
    });
    let variables = match wanted {
        Some(service) => platform.variables(name, &service).await.ok().map(|found| (service, found)),
        None => None,
    };
    let (power, principal) = (caller.power(), &caller.principal);
    let may_change = Who::Develop.allows(caller.standing) && power.reaches(&view.sandbox, principal);
    let may_deploy = environment.as_ref().is_some_and(|environment| power.deploys_in(environment, principal));
    Ok(SandboxPage {
        principal: caller.principal.clone(),
        now: Timestamp::now(),
        event,
        environment,
        started,
        under_way,
        recent,
        others: others.map(|other| other.name).collect(),
        variables,
        may_change,
        may_lock: may_change && may_deploy,
        may_unlock_all: Who::Admin.allows(caller.standing),
        view,
    })
}

impl SandboxPage {
    pub(super) fn render(&self) -> Markup {
        let title = format!("{} · Sandbox", self.view.sandbox.name);
        let frame = Frame {
            title: &title,
            class: "sandbox-page wide-page",
            script: Some("sandbox.js"),
            principal: Some(&self.principal),
            event: self.event,
            now: self.now,
        };
        let content = html! {
            (self.head())
            (self.map())
            (self.routes())
            (self.deployments())
            div class="pair" {
                (self.access())
                (self.about())
            }
            (self.locks())
            (self.variables())
        };
        page(&frame, content)
    }

    fn api(&self, rest: &str) -> String {
        format!("/api/v1/sandboxes/{}{rest}", self.view.sandbox.name)
    }

    // ── whose it is, and until when ───────────────────────────────────────────────────────────────────────────────

    fn head(&self) -> Markup {
        let sandbox = &self.view.sandbox;
        html! {
            section id="head" data-part class="sandbox-head" aria-label="Sandbox" data-name=(sandbox.name) {
                div class="title" {
                    h1 { (sandbox.name) }
                    (places::expiry(sandbox, self.now))
                    span class="grow" {}
                    div class="acts" {
                        (parts::open(self.view.access.url.as_ref(), "btn small open"))
                        @if self.may_change { (self.expiry_buttons()) }
                    }
                }
                p class="meta" {
                    (places::whose(sandbox, &self.principal))
                    " · in " a href={ "/environments#environment-" (sandbox.environment) } { (sandbox.environment) }
                    @if let Some(template) = &sandbox.template {
                        " · from " a href={ "/templates/" (template.name) "#version-" (template.version) } { (template.name) " version " (template.version) }
                    }
                    " · made " (parts::ago(sandbox.created_at, self.now))
                    @if let Some(used) = sandbox.used_at { " · last deployed to " (parts::ago(used, self.now)) }
                }
                @if let Some(notes) = &sandbox.notes { p class="sandbox-notes" { (lines(notes)) } }
            }
        }
    }

    fn expiry_buttons(&self) -> Markup {
        let sandbox = &self.view.sandbox;
        let lifetime = words::hours(sandbox.lifetime_hours);
        let renew = |label, body: &str, done: String, about: String| Post {
            label,
            path: self.api("/renew"),
            body: Some(body.to_owned()),
            done: Some(done),
            class: "btn small",
            about,
            ..Post::default()
        };
        html! {
            @if sandbox.pinned {
                (parts::post(&renew(
                    "Unpin", r#"{"pinned":false}"#, format!("{} ends again in {lifetime}.", sandbox.name),
                    format!("it ends again, {lifetime} from now"),
                )))
            } @else {
                (parts::post(&renew(
                    "Extend", "{}", format!("{} lives for {lifetime} from now on.", sandbox.name),
                    format!("it ends {lifetime} from now"),
                )))
                (parts::post(&renew(
                    "Pin", r#"{"pinned":true}"#, format!("{} is kept until somebody deletes it.", sandbox.name),
                    "it is kept until somebody deletes it".to_owned(),
                )))
            }
            (parts::delete(&Delete {
                label: "Delete",
                path: self.api(""),
                arm: format!("Delete {} and all that runs in it?", sandbox.name),
                done: format!("{} is deleted.", sandbox.name),
                then: Some("/sandboxes"),
                about: "what runs in it is stopped".to_owned(),
            }))
        }
    }

    // ── the picture ───────────────────────────────────────────────────────────────────────────────────────────────

    fn map(&self) -> Markup {
        let mut coming = BTreeMap::new();
        // Newest first, so the newest of a service stays.
        for deployment in self.under_way.iter().rev() {
            coming.insert(&deployment.service, deployment);
        }
        let map = Map { view: &self.view, started: &self.started, coming };
        html! {
            section id="map" data-part class="card map" aria-labelledby="map-title" {
                div class="line" {
                    h2 id="map-title" { "Where its requests go" }
                    span class="grow" {}
                    span class="hint" { (map.summary()) }
                }
                @if self.view.routes.is_empty() {
                    p class="empty" { "No service is in " (self.view.sandbox.environment) " yet, so there is nothing to draw." }
                } @else {
                    div class="picture" tabindex="0" role="region" aria-label="Routing map" { (map.render()) }
                    p class="hint" { "The same in words is in the table below." }
                }
            }
        }
    }

    // ── what is deployed ──────────────────────────────────────────────────────────────────────────────────────────

    fn deployments(&self) -> Markup {
        let name = &self.view.sandbox.name;
        html! {
            section id="deployments" data-part aria-labelledby="deployments-title" {
                div class="line" {
                    h2 id="deployments-title" { "Deployments" }
                    span class="grow" {}
                    @if self.may_change { a class="btn small" href={ "/?sandbox=" (name) "#deploy" } { "Deploy a branch here" } }
                }
                @if self.under_way.is_empty() && self.recent.is_empty() {
                    p class="empty" { "Nothing was deployed here yet: every request goes to the baseline, or where somebody has sent it." }
                } @else {
                    ol class="rows" { @for deployment in self.under_way.iter().chain(&self.recent) { (self.deployment(deployment)) } }
                }
            }
        }
    }

    fn deployment(&self, deployment: &Deployment) -> Markup {
        let (tone, word) = words::deployment_state(deployment);
        html! {
            li id={ "deployment-" (deployment.number) } class="row deployment" {
                div class="line" {
                    a class="number" href=(parts::log_path(deployment.number)) { "#" (deployment.number) }
                    b class="service" { (deployment.service) }
                    span class="code" {
                        span class="ref" { bdi { (words::visible(deployment.git_ref.as_str())) } } " "
                        (parts::commit(deployment.commit.as_ref(), None))
                    }
                    span class="grow" {}
                    span class="meta" { (deployment.requested_by) " · " (parts::ago(deployment.requested_at, self.now)) }
                    (parts::badge(tone, &word))
                }
                @if let Some(Outcome::Failed { failure }) = deployment.outcome() {
                    p class="reason" { (words::capitalised(failure.reason.sentence())) "." }
                }
            }
        }
    }

    // ── how its requests are marked ───────────────────────────────────────────────────────────────────────────────

    fn access(&self) -> Markup {
        let access = &self.view.access;
        html! {
            section id="access" data-part class="card" aria-labelledby="access-title" {
                h2 id="access-title" { "How to reach it" }
                p class="hint" { "Any one of these makes a request its own. None of them is a permission." }
                dl {
                    @if let Some(url) = &access.url {
                        dt { "Address" }
                        dd { (parts::copyable("access-url", url.as_str(), "the address")) }
                    } @else {
                        dt { "Address" } dd { "No router has connected yet: start " code { "sdp-agent" } " with one." }
                    }
                    @if let Some(url) = &access.share_url {
                        dt { "Link to share" }
                        dd {
                            (parts::copyable("access-share", url.as_str(), "the link to share"))
                            p class="hint" { "Whoever opens it has this sandbox in their browser, by a cookie." }
                        }
                    }
                    @if let Some(host) = &access.host { dt { "Host" } dd { (parts::copyable("access-host", host.as_str(), "the host")) } }
                    dt { "Header" } dd { (parts::copyable("access-header", &format!("{}: {}", access.header, access.key), "the header")) }
                    dt { "Baggage" }
                    dd {
                        (parts::copyable("access-baggage", &access.baggage, "the member of baggage"))
                        p class="hint" { "What services pass on, so that a chain of them stays in this sandbox." }
                    }
                }
            }
        }
    }

    // ── who and what ──────────────────────────────────────────────────────────────────────────────────────────────

    fn about(&self) -> Markup {
        let sandbox = &self.view.sandbox;
        html! {
            section class="card" aria-labelledby="about-title" {
                h2 id="about-title" { "About it" }
                dl id="about" data-part {
                    dt { "Owner" } dd { (sandbox.owner) @if let Some(team) = &sandbox.team { " for the team " b { (team) } } }
                    dt { "Who may deploy" }
                    dd {
                        @if sandbox.shared { "every developer" } @else { "its owner, its members and administrators" }
                    }
                    dt { "Members" }
                    dd {
                        @if sandbox.members.is_empty() { "none" }
                        @for (n, member) in sandbox.members.iter().enumerate() { @if n > 0 { ", " } (member) }
                    }
                    dt { "Lives" } dd { (words::hours(sandbox.lifetime_hours)) " after it was renewed; a deploy renews it" }
                    @if let Some(environment) = &self.environment {
                        dt { "At most" } dd { (words::hours(environment.max_lifetime_hours)) ", as " (environment.name) " says" }
                    }
                }
                @if self.may_change { (forms::settings(sandbox)) }
            }
        }
    }

    // ── locks ─────────────────────────────────────────────────────────────────────────────────────────────────────

    fn locks(&self) -> Markup {
        html! {
            section aria-labelledby="locks-title" {
                h2 id="locks-title" { "Locks" }
                div id="locks" data-part {
                    @if self.view.locks.is_empty() {
                        p class="empty" { "Nobody keeps others from deploying here." }
                    } @else {
                        ul class="rows" { @for lock in &self.view.locks { (self.lock(lock)) } }
                    }
                }
                @if self.may_lock { (forms::lock(&self.view)) }
            }
        }
    }

    fn lock(&self, lock: &Lock) -> Markup {
        let own = lock.is_of(&self.principal);
        let (word, says) = match lock.kind {
            LockKind::Freeze => ("Frozen", "nobody deploys"),
            _ => ("Locked", "nobody else deploys"),
        };
        html! {
            li id={ "lock-" (lock.id) } class="row" {
                div class="line" {
                    (parts::badge(Tone::Wait, word))
                    b { (lock.place.to_string()) }
                    span class="meta" {
                        "by " @if own { "you" } @else { (lock.owner) } " " (parts::ago(lock.created_at, self.now)) ": " (says) ", "
                        @match lock.expires_at {
                            Some(at) => { "ends " (parts::until(at, self.now)) }
                            None => { "until it is unlocked" }
                        }
                    }
                    span class="grow" {}
                    @if (own && self.may_lock) || self.may_unlock_all {
                        (parts::delete(&Delete {
                            label: "Unlock",
                            path: format!("/api/v1/locks/{}", lock.id),
                            arm: "Unlock it?".into(),
                            done: format!("{} is not {} any more.", words::capitalised(&lock.place.to_string()), word.to_lowercase()),
                            then: None,
                            about: lock.place.to_string(),
                        }))
                    }
                }
                p { (words::visible(&lock.reason)) }
                @if !own && self.may_lock { (forms::steal(lock)) }
            }
        }
    }

    // ── variables ─────────────────────────────────────────────────────────────────────────────────────────────────

    fn variables(&self) -> Markup {
        let Some((service, variables)) = &self.variables else { return html! {} };
        html! {
            section id="variables-of" aria-labelledby="variables-title" {
                h2 id="variables-title" { "Variables" }
                form method="get" action={ (parts::sandbox_path(&self.view.sandbox.name)) "#variables-of" } class="filter" {
                    label { "What its instances of "
                        select name="variables" { @for route in &self.view.routes { option value=(route.service) selected[route.service == *service] { (route.service) } } }
                    }
                    button class="btn" type="submit" { "Show" }
                }
                div id="variables" data-part class="table" tabindex="0" role="region" aria-label={ "Variables of " (service) } { table {
                    thead { tr { th { "Variable" } th { "Value" } th { "From" } th { "Instead of" } } }
                    tbody { @for variable in variables { (row(variable)) } }
                } }
                p class="hint" { "Each layer stands above those before it: environment, service, secret, template, sandbox, deploy, SDP." }
            }
        }
    }
}

fn row(variable: &VariableView) -> Markup {
    html! {
        tr {
            td { code { (words::visible(&variable.name)) } }
            td {
                @match &variable.value {
                    Some(value) if value.is_empty() => { span class="hint" { "empty" } }
                    Some(value) => { code { (words::visible(value)) } }
                    None => { span class="hint" { "a secret, sealed" } }
                }
            }
            td { (layer(variable.layer)) }
            td class="hint" { @for (n, over) in variable.over.iter().enumerate() { @if n > 0 { ", " } (layer(*over)) } }
        }
    }
}

fn layer(layer: VariableLayer) -> &'static str {
    match layer {
        VariableLayer::Environment => "environment",
        VariableLayer::Service => "service",
        VariableLayer::Secret => "secret",
        VariableLayer::Template => "template",
        VariableLayer::Sandbox => "sandbox",
        VariableLayer::Deploy => "deploy",
        VariableLayer::Sdp => "SDP",
        _ => "another layer",
    }
}

/// Text of more than one line.
fn lines(text: &str) -> Markup {
    html! { @for (n, line) in text.lines().enumerate() { @if n > 0 { br; } (words::visible(line)) } }
}
