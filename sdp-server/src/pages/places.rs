//! Environments and templates, to be read; and what several pages say of a sandbox. Pure but for the handlers, which ask the platform.
//!
//! Nothing is changed here: environments and templates are files that `sdp-server apply` or the API takes. Limits: those of the
//! platform (100 environments, 500 templates); the page of one template shows all its versions.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use jiff::Timestamp;
use maud::{Markup, html};
use sdp_core::catalog::{Environment, Service, Template, WhenDown};
use sdp_core::id::EventSeq;
use sdp_core::name::{EnvName, ServiceName, TemplateName};
use sdp_core::platform::PlatformError;
use sdp_core::principal::Principal;
use sdp_core::sandbox::{RouteChoice, Sandbox};

use super::layout::{Frame, page, respond};
use super::sandbox::rule;
use super::words::{self, Tone};
use super::{parts, refuse, sign_in};
use crate::app::App;
use crate::edge::{Caller, Named};
use crate::problem::Refused;

// ── what several pages say of a sandbox ─────────────────────────────────────────────────────────────────────────────

/// Whose a sandbox is.
pub(super) fn whose(sandbox: &Sandbox, by: &Principal) -> Markup {
    html! {
        @match (&sandbox.team, sandbox.owner == *by || (by.as_person().is_some() && sandbox.owner.as_person() == by.as_person())) {
            (Some(team), true) => { "yours, for the team " (team) }
            (Some(team), false) => { "of the team " (team) ", made by " (sandbox.owner) }
            (None, true) => { "yours" }
            (None, false) => { "of " (sandbox.owner) }
        }
        @if sandbox.is_of(by) && sandbox.owner.as_person() != by.as_person() { ", you are a member" }
        @if sandbox.shared { " · shared" }
    }
}

/// When it ends, as a badge.
pub(super) fn expiry(sandbox: &Sandbox, now: Timestamp) -> Markup {
    let Some(end) = sandbox.expires_at.filter(|_| !sandbox.pinned) else {
        return html! { span class="badge" title="It is kept until somebody deletes it." { i aria-hidden="true" {} "Pinned" } };
    };
    let tone = match end.duration_since(now).as_secs() {
        ..3_600 => Tone::Bad,
        3_600..86_400 => Tone::Wait,
        _ => Tone::Off,
    };
    html! { span class={ "badge expiry " (tone.class()) } { i aria-hidden="true" {} span { "Ends " (parts::until(end, now)) } } }
}

// ── environments ────────────────────────────────────────────────────────────────────────────────────────────────────

/// What the page of all environments shows.
pub(super) struct Environments {
    pub(super) principal: Principal,
    pub(super) now: Timestamp,
    pub(super) event: EventSeq,
    pub(super) environments: Vec<Environment>,
    pub(super) services: BTreeMap<ServiceName, Service>,
}

pub(super) async fn environments(State(app): State<App>, caller: Caller) -> Response {
    let platform = app.platform();
    let reading = async {
        let event = platform.newest_event();
        let services = platform.services().await?.into_iter();
        Ok::<_, PlatformError>(Environments {
            principal: caller.principal.clone(),
            now: Timestamp::now(),
            event,
            environments: platform.environments().await?,
            services: services.map(|service| (service.name.clone(), service)).collect(),
        })
    };
    match reading.await {
        Ok(environments) => respond(StatusCode::OK, environments.render()),
        Err(error) => refuse(error, &caller),
    }
}

fn frame<'a>(title: &'a str, principal: &'a Principal, event: EventSeq, now: Timestamp) -> Frame<'a> {
    Frame { title, class: "wide-page", script: Some("live-page.js"), principal: Some(principal), event, now }
}

impl Environments {
    pub(super) fn render(&self) -> Markup {
        let content = html! {
            h1 { "Environments" }
            p class="hint" { "A shared baseline, its router, and what may be done there. Sandboxes of an environment differ from its baseline." }
            div id="environments" data-part class="stack" { @for environment in &self.environments { (self.environment(environment)) } }
        };
        page(&frame("Environments", &self.principal, self.event, self.now), content)
    }

    fn environment(&self, environment: &Environment) -> Markup {
        let Environment { deployers, quota, .. } = environment;
        let routes = environment.routes(&self.services);
        html! {
            section id={ "environment-" (environment.name) } class="card" aria-label={ "Environment " (environment.name) } {
                div class="line" {
                    h2 { (environment.name) }
                    span class="grow" {}
                    a class="btn small" href={ "/sandboxes?q=" (environment.name) } { "Its sandboxes" }
                }
                @if let Some(description) = &environment.description { p { (words::visible(description)) } }
                dl {
                    dt { "Domain" }
                    dd {
                        @match &environment.domain {
                            Some(domain) => { code { "<sandbox>." (domain) } }
                            None => { "none: sandboxes are reached by path, header, baggage or cookie" }
                        }
                    }
                    dt { "Router" }
                    dd { @match &environment.router { Some(agent) => { "that of " b { (agent) } } None => { "every agent that has one" } } }
                    dt { "Lifetime" }
                    dd { (words::hours(environment.default_lifetime_hours)) ", at most " (words::hours(environment.max_lifetime_hours)) }
                    dt { "When down" }
                    dd {
                        @match environment.when_down {
                            WhenDown::Fail => { "an answer 503 that names the service" }
                            WhenDown::Baseline => { "the baseline answers, and says so" }
                        }
                    }
                    dt { "Who may deploy" }
                    dd {
                        @if deployers.people.is_empty() && deployers.tokens.is_empty() { "every developer" }
                        @for (n, person) in deployers.people.iter().enumerate() { @if n > 0 { ", " } (person) }
                        @for (n, token) in deployers.tokens.iter().enumerate() {
                            @if n > 0 || !deployers.people.is_empty() { ", " }
                            "the token " (token)
                        }
                    }
                    dt { "Quota" }
                    dd {
                        @match (quota.instances, quota.memory_mib) {
                            (None, None) => { "none" }
                            (Some(instances), None) => { (words::number_of(instances as usize, "instance", "instances")) " of each owner" }
                            (None, Some(mib)) => { (words::count(mib.into())) " MiB of each owner" }
                            (Some(instances), Some(mib)) => { (words::number_of(instances as usize, "instance", "instances")) " and " (words::count(mib.into())) " MiB of each owner" }
                        }
                    }
                    @if !environment.external_networks.is_empty() {
                        dt { "Addresses outside" }
                        dd { @for (n, network) in environment.external_networks.iter().enumerate() { @if n > 0 { ", " } code { (network) } } }
                    }
                    (variables(&environment.env))
                }
                @if routes.is_empty() {
                    p class="hint" { "It has no service yet." }
                } @else {
                    div class="table" tabindex="0" role="region" aria-label={ "Services of " (environment.name) } { table {
                        thead { tr { th { "Service" } th { "Requests" } th { "Baseline" } } }
                        tbody {
                            @for route in &routes {
                                tr {
                                    th scope="row" { (route.service) }
                                    td { (rule(&route.rule)) }
                                    td { @match &route.baseline { Some(url) => { code { (words::visible(url.as_str())) } } None => { span class="hint" { "none" } } } }
                                }
                            }
                        }
                    } }
                    @if environment.every_service { p class="hint" { "Every service of the catalog is part of it." } }
                }
            }
        }
    }
}

fn variables(env: &BTreeMap<EnvName, String>) -> Markup {
    html! {
        @if !env.is_empty() {
            dt { "Variables" }
            dd { @for (name, value) in env { div { code { (name) "=" (words::visible(value)) } } } }
        }
    }
}

// ── templates ───────────────────────────────────────────────────────────────────────────────────────────────────────

/// What the pages of templates show.
pub(super) struct Templates {
    pub(super) principal: Principal,
    pub(super) now: Timestamp,
    pub(super) event: EventSeq,
    /// All versions of this one, the newest first; or the newest version of each.
    pub(super) of: Option<TemplateName>,
    pub(super) templates: Vec<Template>,
}

pub(super) async fn templates(State(app): State<App>, caller: Caller) -> Response {
    let event = app.platform().newest_event();
    match app.platform().templates().await {
        Ok(templates) => {
            let principal = caller.principal.clone();
            let page = Templates { principal, now: Timestamp::now(), event, of: None, templates };
            respond(StatusCode::OK, page.render())
        }
        Err(error) => refuse(error, &caller),
    }
}

pub(super) async fn template(
    State(app): State<App>,
    caller: Caller,
    name: Result<Named<TemplateName>, Refused>,
) -> Response {
    let reading = async {
        let Named(name) = name?;
        let event = app.platform().newest_event();
        let templates = app.platform().template_versions(&name).await?;
        let principal = caller.principal.clone();
        Ok::<_, Refused>(Templates { principal, now: Timestamp::now(), event, of: Some(name), templates })
    };
    match reading.await {
        Ok(page) => respond(StatusCode::OK, page.render()),
        Err(refused) => sign_in::problem_page(refused, Some(&caller.principal)),
    }
}

impl Templates {
    pub(super) fn render(&self) -> Markup {
        let title =
            self.of.as_ref().map_or_else(|| "Templates".to_owned(), |name| format!("Template {name}"));
        let content = html! {
            h1 { (title) }
            p class="hint" {
                @match &self.of {
                    Some(_) => { "All its versions, the newest first. " a href="/templates" { "All templates" } }
                    None => { "What sandboxes are made from. Each change is a new version; a sandbox says which one it came from." }
                }
            }
            div id="templates" data-part class="stack" {
                @if self.templates.is_empty() {
                    p class="empty" { "There is no template yet. Write one into a file and run " code { "sdp-server apply FILE" } "." }
                }
                @for template in &self.templates { (self.template(template)) }
            }
        };
        page(&frame(&title, &self.principal, self.event, self.now), content)
    }

    fn template(&self, template: &Template) -> Markup {
        let spec = &template.spec;
        let (id, name) = match &self.of {
            Some(_) => (format!("version-{}", template.version), html! { "Version " (template.version) }),
            None => (
                format!("template-{}", template.name),
                html! { (template.name) " " span class="hint" { "version " (template.version) } },
            ),
        };
        html! {
            section id=(id) class="card" aria-label={ "Template " (template.name) " version " (template.version) } {
                div class="line" {
                    h2 { (name) }
                    span class="grow" {}
                    span class="meta" { "by " (template.created_by) " " (parts::ago(template.created_at, self.now)) }
                    @if self.of.is_none() && template.version > 1 { a class="btn small" href={ "/templates/" (template.name) } { "All versions" } }
                }
                @if let Some(description) = &spec.description { p { (words::visible(description)) } }
                dl {
                    dt { "Environment" } dd { a href={ "/environments#environment-" (spec.environment) } { (spec.environment) } }
                    dt { "Lifetime" }
                    dd { @match spec.lifetime_hours { Some(hours) => { (words::hours(hours)) } None => { "as the environment says" } } }
                    (variables(&spec.env))
                }
                @if !spec.services.is_empty() || !spec.routes.is_empty() {
                    div class="table" tabindex="0" role="region" aria-label={ "Services of " (template.name) } { table {
                        thead { tr { th { "Service" } th { "Is" } th { "Variables of its own" } } }
                        tbody {
                            @for (service, own) in &spec.services {
                                tr {
                                    th scope="row" { (service) }
                                    td {
                                        "deployed: "
                                        @match &own.git_ref { Some(git_ref) => { span class="ref" { bdi { (words::visible(git_ref.as_str())) } } } None => { "its default branch" } }
                                    }
                                    td { @for (name, value) in &own.env { div { code { (name) "=" (words::visible(value)) } } } }
                                }
                            }
                            @for (service, choice) in &spec.routes { tr { th scope="row" { (service) } td { (sent(choice)) } td {} } }
                        }
                    } }
                }
            }
        }
    }
}

fn sent(choice: &RouteChoice) -> Markup {
    html! {
        @match choice {
            RouteChoice::Baseline {} => { "sent to the baseline" }
            RouteChoice::Borrowed { sandbox } => { "borrowed from " (parts::sandbox(sandbox)) }
            RouteChoice::External { address } => { "sent to " code { (address) } }
            _ => { "sent elsewhere" }
        }
    }
}
