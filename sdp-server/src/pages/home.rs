//! The home page: what runs, what is under way, what was, and a form to deploy. Pure: [`Home`] in, HTML out.
//!
//! Everything marked `data-part` is brought up to date by home.js when something happens; all of it can be read without
//! scripts. Limits: [`RECENT`] ended deployments (older ones a link away), [`UNDER_WAY`] of each unfinished state.

use std::collections::BTreeMap;
use std::str::FromStr;

use jiff::Timestamp;
use maud::{Markup, html};
use sdp_core::api::AgentView;
use sdp_core::catalog::Service;
use sdp_core::deployment::{Deployment, Outcome, State};
use sdp_core::id::{DeploymentNumber, EventSeq};
use sdp_core::name::{GitRef, SandboxName, ServiceName};
use sdp_core::principal::Principal;
use sdp_core::sandbox::{Instance, InstanceState, Sandbox};

use super::layout::{Frame, page};
use super::parts::{self, Post, StepState};
use super::words::{self, Tone};

/// How many ended deployments are shown at once.
pub(super) const RECENT: u32 = 20;
/// How many queued, and how many running ones.
pub(super) const UNDER_WAY: u32 = 50;

/// What the home page shows.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) principal: Principal,
    pub(super) now: Timestamp,
    pub(super) event: EventSeq,
    pub(super) services: Vec<Service>,
    pub(super) sandboxes: Vec<Sandbox>,
    /// Those that are not over, and the newest of their place if it did not end on purpose.
    pub(super) running: Vec<(Instance, Option<Deployment>)>,
    /// Queued and running, newest first.
    pub(super) under_way: Vec<Deployment>,
    /// Ended, newest first.
    pub(super) recent: Vec<Deployment>,
    /// Where older ones begin, if there are any.
    pub(super) older: Option<DeploymentNumber>,
    pub(super) agents: Vec<AgentView>,
    /// What the form is filled with.
    pub(super) prefill: Prefill,
}

/// What a link to the form fills in, as it came; only what is a valid name gets into the page.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Prefill {
    service: Option<String>,
    git_ref: Option<String>,
    sandbox: Option<String>,
    /// Whether the git login is open.
    login: bool,
    /// Only deployments before this one.
    pub(super) before: Option<DeploymentNumber>,
}

fn valid<T: FromStr>(text: Option<&String>) -> Option<T> {
    text.and_then(|text| text.parse().ok())
}

impl Home {
    pub(super) fn render(&self) -> Markup {
        let frame = Frame {
            title: "Sandboxes",
            class: "home",
            script: Some("home.js"),
            principal: Some(&self.principal),
            event: self.event,
            now: self.now,
        };
        let content = html! {
            h1 class="off-screen" { "Sandboxes and deployments" }
            (self.running())
            (self.deploy_form())
            (self.deployments())
            (self.agents())
            footer class="foot" { a href="/docs/" { "API" } }
        };
        page(&frame, content)
    }

    // ── what runs ─────────────────────────────────────────────────────────────────────────────────────────────────

    fn running(&self) -> Markup {
        let mut places: BTreeMap<&SandboxName, Vec<&(Instance, Option<Deployment>)>> = BTreeMap::new();
        for pair in &self.running {
            places.entry(&pair.0.sandbox).or_default().push(pair);
        }
        let own = self.principal.own_sandbox();
        let mut places: Vec<_> = places.into_iter().collect();
        // One's own first, the others by name.
        places.sort_by_key(|(name, _)| **name != own);
        for (_, pairs) in &mut places {
            pairs.sort_by(|(a, _), (b, _)| a.service.cmp(&b.service).then(b.id.cmp(&a.id)));
        }
        html! {
            section id="running" data-part class="running" aria-labelledby="running-title" {
                h2 id="running-title" { "Running" }
                @for (name, pairs) in &places {
                    section class="sandbox" id={ "sandbox-" (name) } aria-label={ "Sandbox " (name) } {
                        h3 {
                            (parts::sandbox(name))
                            @if **name == own { " " span class="hint" { "yours" } }
                            @else if let Some(owner) = self.owner(name) { " " span class="hint" { "of " (owner) } }
                        }
                        ul class="rows" { @for (instance, deployment) in pairs { (self.instance(instance, deployment.as_ref())) } }
                    }
                }
                @if places.is_empty() {
                    div class="empty" {
                        p { b { "Nothing runs in a sandbox yet." } " Every request is answered by the baseline." }
                        @if self.services.is_empty() {
                            p { "First add a service to the catalog: write it into a file and run " code { "sdp-server apply FILE" } "." }
                        } @else {
                            p { "Deploy a branch with the form, or type " code { "/sdp deploy " (self.services[0].name) " my-branch" } " in chat." }
                        }
                    }
                }
            }
        }
    }

    fn owner(&self, name: &SandboxName) -> Option<&Principal> {
        self.sandboxes.iter().find(|sandbox| sandbox.name == *name).map(|sandbox| &sandbox.owner)
    }

    fn instance(&self, instance: &Instance, deployment: Option<&Deployment>) -> Markup {
        let (tone, word) = words::instance_state(&instance.state);
        let serves = matches!(instance.state, InstanceState::Live {} | InstanceState::Unhealthy {});
        let leaving = matches!(instance.state, InstanceState::Draining { .. });
        let info = deployment.and_then(|deployment| deployment.commit_info.as_ref());
        html! {
            li id={ "instance-" (instance.id) } class={ "row instance" @if leaving { " leaving" } } {
                div class="line" {
                    a class="service" href=(super::instance::path(instance.id)) { b { (instance.service) } }
                    (parts::badge(tone, word))
                    span class="grow" {}
                    @if serves { (parts::open(instance.url.as_ref(), "btn open small")) }
                }
                div class="code" {
                    @if let Some(deployment) = deployment { span class="ref" { bdi { (words::visible(deployment.git_ref.as_str())) } } " " }
                    (parts::commit(Some(&instance.commit), info))
                }
                @if let Some(reason) = words::instance_reason(instance) { p class="reason" { (reason) } }
                @if let Some(restarted) = words::restarted(instance) { p class="reason" { (restarted) } }
                @if let (true, [.., last]) = (tone == Tone::Bad, instance.last_lines.as_slice()) {
                    p class="last-line" { code { (words::visible(last)) } }
                }
                div class="line foot" {
                    span class="meta" {
                        (parts::ago(instance.stopped_at.unwrap_or(instance.started_at), self.now))
                        @if let Some(deployment) = deployment { " by " (deployment.requested_by) }
                        " on " (instance.agent)
                    }
                    span class="grow" {}
                    (self.instance_buttons(instance, deployment, serves, leaving))
                }
            }
        }
    }

    fn instance_buttons(
        &self,
        instance: &Instance,
        deployment: Option<&Deployment>,
        serves: bool,
        leaving: bool,
    ) -> Markup {
        let place = format!("{} in {}", instance.service, instance.sandbox);
        let again = |label, verb: &str, arm| Post {
            label,
            path: format!("/api/v1/deployments/{}/{verb}", instance.deployment),
            arm,
            class: "btn small",
            about: place.clone(),
            ..Post::default()
        };
        html! {
            span class="acts" {
                @if let Some(deployment) = deployment {
                    a class="btn small" href=(parts::log_path(deployment.number)) { "Log" }
                }
                @if !leaving {
                    @if serves {
                        (parts::post(&Post {
                            label: "Restart",
                            path: format!("/api/v1/instances/{}/restart", instance.id),
                            class: "btn small",
                            about: place.clone(),
                            ..Post::default()
                        }))
                    }
                    (parts::post(&again("Redeploy", "redeploy", None)))
                    (parts::post(&again("Roll back", "rollback", Some("Roll back?".to_owned()))))
                    @if !instance.state.is_over() {
                        (parts::post(&Post {
                            label: "Stop",
                            path: format!("/api/v1/instances/{}/stop", instance.id),
                            arm: Some("Stop it?".to_owned()),
                            done: Some(format!("{place} is being stopped; the baseline answers from now on.")),
                            class: "btn small",
                            about: place.clone(),
                            ..Post::default()
                        }))
                    }
                }
            }
        }
    }

    // ── deploy ────────────────────────────────────────────────────────────────────────────────────────────────────

    fn deploy_form(&self) -> Markup {
        let own = self.principal.own_sandbox();
        let wanted = valid::<ServiceName>(self.prefill.service.as_ref());
        let git_ref = valid::<GitRef>(self.prefill.git_ref.as_ref());
        let sandbox = valid::<SandboxName>(self.prefill.sandbox.as_ref());
        html! {
            section id="deploy" class="card deploy" aria-labelledby="deploy-title" {
                h2 id="deploy-title" { "Deploy a branch" }
                @if self.services.is_empty() {
                    p class="hint" { "There is no service in the catalog yet. Write one into a file and run " code { "sdp-server apply FILE" } "." }
                } @else {
                    form id="deploy-form" autocomplete="off" {
                        label for="service" { "Service" }
                        select id="service" name="service" required {
                            @for service in &self.services {
                                option value=(service.name) data-default=(service.default_branch) selected[wanted.as_ref() == Some(&service.name)] { (service.name) }
                            }
                        }
                        label for="branch" { "Branch, tag or commit" }
                        input id="branch" name="git_ref" list="branches" spellcheck="false" autocapitalize="off" maxlength="250"
                            aria-describedby="branches-found" value=[&git_ref];
                        datalist id="branches" {}
                        p id="branches-found" class="hint" role="status" {}
                        label for="sandbox" { "Sandbox" }
                        input id="sandbox" name="sandbox" list="sandboxes" spellcheck="false" autocapitalize="off" maxlength="40"
                            placeholder=(own) aria-describedby="sandbox-hint" value=[&sandbox];
                        datalist id="sandboxes" { @for sandbox in &self.sandboxes { option value=(sandbox.name) {} } }
                        p id="sandbox-hint" class="hint" { "Without one, your own; it is made on first use." }
                        details id="git-login" open[self.prefill.login] {
                            summary { "Git login" }
                            p class="hint" { "Only if the git host wants one. It is used for this fetch and never stored." }
                            label for="username" { "User name" }
                            input id="username" name="username" spellcheck="false" autocapitalize="off" autocomplete="off" maxlength="256";
                            label for="password" { "Password or access token" }
                            input id="password" name="password" type="password" autocomplete="new-password";
                        }
                        p id="deploy-problem" class="problem" role="alert" hidden {}
                        button class="btn primary scripted" type="submit" { "Deploy" }
                        p class="no-script hint" { "This form needs JavaScript. Everything else on this page can be read without." }
                    }
                }
            }
        }
    }

    // ── deployments ───────────────────────────────────────────────────────────────────────────────────────────────

    fn deployments(&self) -> Markup {
        html! {
            section id="deployments" data-part class="deployments" aria-labelledby="deployments-title" {
                h2 id="deployments-title" { "Deployments" }
                @if !self.under_way.is_empty() {
                    h3 { "Under way" }
                    ol class="rows" { @for deployment in &self.under_way { (self.deployment(deployment)) } }
                }
                @if !self.recent.is_empty() {
                    h3 { @if self.prefill.before.is_some() { "Earlier" } @else { "Recent" } }
                    ol class="rows" { @for deployment in &self.recent { (self.deployment(deployment)) } }
                }
                @if self.under_way.is_empty() && self.recent.is_empty() {
                    p class="empty" { "No deployment yet. The first one shows here, live." }
                }
                p class="pager" {
                    @if self.prefill.before.is_some() { a href="/" { "← Newest" } }
                    @if let Some(older) = self.older { a href={ "/?before=" (older) } { "Older →" } }
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
                    span class="hint to" { "to " (deployment.sandbox) }
                    span class="grow" {}
                    (parts::badge(tone, &word))
                }
                div class="code" {
                    span class="ref" { bdi { (words::visible(deployment.git_ref.as_str())) } } " "
                    (parts::commit(deployment.commit.as_ref(), deployment.commit_info.as_ref()))
                }
                @if !deployment.is_ended() { (progress(deployment)) }
                @if let Some(Outcome::Failed { failure }) = deployment.outcome() {
                    p class="reason" { (words::capitalised(failure.reason.sentence())) "." }
                }
                div class="meta" {
                    @if let Some(kind) = words::kind(deployment) { (kind) " · " }
                    (deployment.requested_by) " · " (parts::ago(deployment.requested_at, self.now))
                    @match (&deployment.state, deployment.ended_at) {
                        (State::Queued {}, _) => { " · waiting for " (parts::took(deployment.requested_at, None, self.now)) }
                        (State::Running { .. }, _) => { " · for " (parts::took(deployment.requested_at, None, self.now)) }
                        (_, Some(ended)) => { " · took " (parts::took(deployment.requested_at, Some(ended), self.now)) }
                        _ => {}
                    }
                }
            }
        }
    }

    // ── agents ────────────────────────────────────────────────────────────────────────────────────────────────────

    fn agents(&self) -> Markup {
        html! {
            section id="agents" data-part class="agents" aria-labelledby="agents-title" {
                h2 id="agents-title" { "Agents" }
                @if self.agents.is_empty() {
                    p class="empty" { "No agent has connected yet, so deployments wait. Start " code { "sdp-agent" } " on a VM." }
                }
                ul class="plain" {
                    @for agent in &self.agents {
                        li id={ "agent-" (agent.name) } {
                            div class="line" {
                                b { (agent.name) }
                                @if agent.connected && agent.draining { (parts::badge(Tone::Wait, "Draining")) }
                                @else if agent.connected { (parts::badge(Tone::Ok, "Connected")) } @else { (parts::badge(Tone::Bad, "Away")) }
                                span class="grow" {}
                                span class="meta" {
                                    @if agent.connected { (agent.running) " of " (agent.capacity) " busy" }
                                    @else { "since " (parts::ago(agent.since, self.now)) }
                                }
                            }
                            @if let Some(load) = &agent.load {
                                p class="hint" { (words::load(load)) }
                            }
                            @if agent.draining {
                                p class="hint" { "It is being drained: it gets no new work, and what runs on it serves on." }
                            }
                            @if let Some(why) = &agent.degraded {
                                p class="reason" { "It takes no work: " (words::visible(why)) "." }
                            }
                            @for check in agent.preflight.iter().filter(|check| !check.ok) {
                                p class="reason" { (check.check) ": " (words::visible(&check.detail)) }
                            }
                            @if agent.preflight.iter().any(|check| check.ok) {
                                p class="hint checks" {
                                    @for (i, check) in agent.preflight.iter().filter(|check| check.ok).enumerate() {
                                        @if i > 0 { ", " }
                                        span title=(words::visible(&check.detail)) { (check.check) }
                                    }
                                    ": as it should be"
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Six marks, one a step.
fn progress(deployment: &Deployment) -> Markup {
    let steps = parts::steps(deployment);
    let done =
        steps.iter().filter(|(_, state)| matches!(state, StepState::Done | StepState::Skipped)).count();
    html! {
        div class="progress" role="img" aria-label={ (done) " of " (steps.len()) " steps done" } {
            @for (_, state) in steps { i class=(state.class()) {} }
        }
    }
}
