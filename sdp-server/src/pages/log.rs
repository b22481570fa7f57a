//! The page of one deployment: where it stands, what it is, what can be done now, and its log. Pure: [`LogPage`] in, HTML out.
//!
//! The part `#head` is brought up to date by log.js after each event. The lines themselves are fetched and drawn by the
//! script: they are numbered text with colours, and there is one place that knows how to show that (ansi.js). Without
//! scripts the page links to the log as plain text.

use jiff::Timestamp;
use maud::{Markup, html};
use sdp_core::api::{CreateDeployment, DeploymentView};
use sdp_core::deployment::{Deployment, Outcome, State, Step};
use sdp_core::failure::{Failure, FailureReason};
use sdp_core::id::{DeploymentNumber, EventSeq};
use sdp_core::logs::SearchText;
use sdp_core::principal::Principal;
use sdp_core::sandbox::{Instance, InstanceState};
use url::form_urlencoded;

use super::layout::{Frame, page};
use super::parts::{self, Post, StepState};
use super::words;

/// What the page of a deployment shows.
#[derive(Debug)]
pub(super) struct LogPage {
    pub(super) principal: Principal,
    pub(super) now: Timestamp,
    pub(super) event: EventSeq,
    pub(super) view: DeploymentView,
    /// What it left running, if anything.
    pub(super) instance: Option<Instance>,
    /// The newest deployment of the same service and sandbox, if it is not this one.
    pub(super) newer: Option<DeploymentNumber>,
}

impl LogPage {
    fn deployment(&self) -> &Deployment {
        &self.view.deployment
    }

    pub(super) fn render(&self) -> Markup {
        let deployment = self.deployment();
        let (_, word) = words::deployment_state(deployment);
        let title = format!("{word}: {} #{}", deployment.service, deployment.number);
        let frame = Frame {
            title: &title,
            class: "log-page",
            script: Some("log.js"),
            principal: Some(&self.principal),
            event: self.event,
            now: self.now,
        };
        page(&frame, html! { (self.head()) (self.log()) })
    }

    // ── head ──────────────────────────────────────────────────────────────────────────────────────────────────────

    fn head(&self) -> Markup {
        let deployment = self.deployment();
        let (tone, word) = words::deployment_state(deployment);
        html! {
            section id="head" data-part class="head" aria-label="Deployment" {
                div class="title" {
                    h1 { (deployment.service) " " span class="number" { "#" (deployment.number) } }
                    span id="state" role="status" { (parts::badge(tone, &word)) }
                    span class="elapsed" { (self.elapsed()) }
                    span class="grow" {}
                    div class="acts" { (self.buttons()) }
                }
                p class="code" {
                    span class="ref" { bdi { (words::visible(deployment.git_ref.as_str())) } } " "
                    (parts::commit(deployment.commit.as_ref(), deployment.commit_info.as_ref()))
                    @if let Some(info) = &deployment.commit_info { " " span class="hint" { "by " bdi { (words::visible(&info.author)) } } }
                }
                @if let Some(changes) = &deployment.changes { p class="meta" { (parts::changes(changes)) } }
                p class="meta" {
                    "to " b { (parts::sandbox(&deployment.sandbox)) }
                    " · asked by " (deployment.requested_by) " " (parts::ago(deployment.requested_at, self.now))
                    @if let Some(kind) = words::kind(deployment) {
                        " · " @match deployment.of { Some(of) => { a href=(parts::log_path(of)) { (kind) } } None => { (kind) } }
                    }
                    @if let Some(agent) = &deployment.agent { " · on " (agent) }
                    @if let Some(instance) = &self.instance {
                        " · " a href=(super::instance::path(instance.id)) { "what it prints" }
                    }
                    @if let Some(notify) = &deployment.notify { " · told in " (notify.channel) }
                    @if deployment.reused_build == Some(true) { " · from a kept build" }
                    @if !deployment.env.is_empty() {
                        " · with " @for (i, name) in deployment.env.keys().enumerate() { @if i > 0 { ", " } code { (name) } }
                    }
                }
                @if let Some(why) = &self.view.waiting_for {
                    p class="note" { "It waits: " (words::visible(why)) "." }
                }
                (self.steps())
                (self.outcome())
                @if !deployment.notes.is_empty() {
                    ul class="notes" { @for note in &deployment.notes { li { (words::visible(note)) } } }
                }
            }
        }
    }

    fn elapsed(&self) -> Markup {
        let deployment = self.deployment();
        match (&deployment.state, self.view.queue_position, deployment.ended_at) {
            (State::Queued {}, Some(position), _) => html! {
                (words::ordinal(position)) " in the queue, for " (parts::took(deployment.requested_at, None, self.now))
            },
            (_, _, Some(ended)) => {
                html! { "in " (parts::took(deployment.requested_at, Some(ended), self.now)) }
            }
            _ => html! { "for " (parts::took(deployment.requested_at, None, self.now)) },
        }
    }

    fn steps(&self) -> Markup {
        let deployment = self.deployment();
        html! {
            ol class="steps" aria-label="Steps" {
                @for (step, state) in parts::steps(deployment) {
                    @let time = deployment.steps.iter().rfind(|time| time.step == step);
                    li class=(state.class()) aria-current=[(state == StepState::Now).then_some("step")] {
                        i aria-hidden="true" {}
                        @match time.filter(|time| time.first_line <= self.view.log_lines) {
                            Some(time) => { a href={ "#L" (time.first_line) } { (words::step_name(step)) } }
                            None => { span { (words::step_name(step)) } }
                        }
                        @if let Some(time) = time { " " small { (parts::took(time.started_at, time.ended_at, self.now)) } }
                        @if state == StepState::Skipped { " " small { "skipped" } }
                    }
                }
            }
        }
    }

    fn outcome(&self) -> Markup {
        let deployment = self.deployment();
        match deployment.outcome() {
            Some(Outcome::Failed { failure }) => self.failure(failure),
            Some(Outcome::Cancelled { by }) => html! {
                p class="note" { "Cancelled by " b { (by) } ". Nothing of it is left." }
            },
            Some(Outcome::Superseded { number, .. }) => html! {
                p class="note" { "A newer deployment took its place in the queue: " a href=(parts::log_path(*number)) { "#" (number) } "." }
            },
            _ => html! {
                @if let Some(by) = deployment.cancel_requested_by.as_ref().filter(|_| !deployment.is_ended()) {
                    p class="note" { b { (by) } " asked for it to be cancelled. It ends when everything it started is gone." }
                }
                @if let Some(instance) = self.instance.as_ref().filter(|_| deployment.is_ended()) {
                    @if let Some(reason) = words::instance_reason(instance) {
                        @let (tone, word) = words::instance_state(&instance.state);
                        p class="note" {
                            (parts::badge(tone, word)) " " (reason)
                            @if let Some(newer) = self.newer { " See " a href=(parts::log_path(newer)) { "#" (newer) } "." }
                        }
                        @if !instance.last_lines.is_empty() {
                            details class="last-lines" {
                                summary { "Its last " (instance.last_lines.len()) " lines" }
                                pre { @for line in &instance.last_lines { (words::visible(line)) "\n" } }
                            }
                        }
                    }
                }
            },
        }
    }

    fn failure(&self, failure: &Failure) -> Markup {
        let reason = failure.reason;
        html! {
            div class="failure" role="group" aria-label="What went wrong" {
                p {
                    b { (words::capitalised(reason.sentence())) "." }
                    @if let Some(code) = failure.exit_code { " " span class="exit" { "exit code " (code) } }
                }
                @if !failure.detail.is_empty() && failure.detail != reason.sentence() {
                    p class="detail" { (words::visible(&failure.detail)) }
                }
                p { "Next: " (reason.hint()) "." @if let Some(line) = failure.line { " " a href={ "#L" (line) } { "Go to line " (words::count(line)) } } }
                p class="hint" { "What served before still serves." }
            }
        }
    }

    // ── buttons ───────────────────────────────────────────────────────────────────────────────────────────────────

    fn buttons(&self) -> Markup {
        let deployment = self.deployment();
        let about = format!("{} in {}", deployment.service, deployment.sandbox);
        let verb = |label, verb: &str, class| Post {
            label,
            path: format!("/api/v1/deployments/{}/{verb}", deployment.id),
            class,
            about: about.clone(),
            ..Post::default()
        };
        let Some(outcome) = deployment.outcome() else {
            return match deployment.cancel_requested_by {
                Some(_) => html! { button class="btn scripted" type="button" disabled { "Cancelling …" } },
                None => parts::post(&Post {
                    arm: Some("Cancel it?".to_owned()),
                    ..verb("Cancel", "cancel", "btn danger")
                }),
            };
        };
        if !matches!(outcome, Outcome::Succeeded {}) {
            return self.retry(outcome, &about);
        }
        let runs = self.instance.as_ref().filter(|instance| !instance.state.is_over());
        let serves = runs.filter(|i| matches!(i.state, InstanceState::Live {} | InstanceState::Unhealthy {}));
        html! {
            @if serves.is_some() { (parts::open(deployment.url.as_ref(), "btn primary")) }
            (parts::post(&Post { go: true, ..verb("Redeploy", "redeploy", "btn") }))
            @if serves.is_some() {
                (parts::post(&Post { go: true, arm: Some("Roll back?".to_owned()), ..verb("Roll back", "rollback", "btn") }))
            }
            @if let Some(instance) = serves {
                (parts::post(&Post {
                    path: format!("/api/v1/instances/{}/stop", instance.id),
                    arm: Some("Stop it?".to_owned()),
                    done: Some(format!("{about} is being stopped; the baseline answers from now on.")),
                    ..verb("Stop", "", "btn danger")
                }))
            }
        }
    }

    /// The same again: of a branch what it is now, of a repetition the same commit.
    fn retry(&self, outcome: &Outcome, about: &str) -> Markup {
        let deployment = self.deployment();
        let needs_login = matches!(outcome, Outcome::Failed { failure } if failure.reason == FailureReason::CredentialsNeeded);
        if needs_login {
            let query = form_urlencoded::Serializer::new(String::new())
                .append_pair("service", deployment.service.as_str())
                .append_pair("git_ref", deployment.git_ref.as_str())
                .append_pair("sandbox", deployment.sandbox.as_str())
                .append_pair("login", "true")
                .finish();
            return html! { a class="btn primary" href={ "/?" (query) "#deploy" } { "Deploy with a git login" } };
        }
        let label = if matches!(outcome, Outcome::Failed { .. }) { "Retry" } else { "Deploy again" };
        let (path, body) = if deployment.kind.may_reuse_build() && deployment.commit.is_some() {
            (format!("/api/v1/deployments/{}/redeploy", deployment.id), None)
        } else {
            let body = CreateDeployment {
                service: deployment.service.clone(),
                git_ref: Some(deployment.git_ref.clone()),
                sandbox: Some(deployment.sandbox.clone()),
                env: deployment.env.clone(),
                notify: deployment.notify.clone(),
                git_credential: None,
            };
            ("/api/v1/deployments".to_owned(), serde_json::to_string(&body).ok())
        };
        parts::post(&Post {
            label,
            path,
            body,
            go: true,
            class: "btn primary",
            about: about.to_owned(),
            ..Post::default()
        })
    }

    // ── log ───────────────────────────────────────────────────────────────────────────────────────────────────────

    fn log(&self) -> Markup {
        let deployment = self.deployment();
        let raw = format!("/api/v1/deployments/{}/logs/raw", deployment.id);
        let steps = serde_json::to_string(&deployment.steps).unwrap_or_else(|_| "[]".to_owned());
        let failure = match deployment.outcome() {
            Some(Outcome::Failed { failure }) => Some(failure),
            _ => None,
        };
        html! {
            section class="log" aria-labelledby="log-title" {
                div class="tools" {
                    h2 id="log-title" { "Log" }
                    span id="count" class="hint" { (words::count(self.view.log_lines)) " lines" }
                    span id="link" class="link wait" role="status" {}
                    span class="grow" {}
                    (find())
                    div class="acts" {
                        button id="follow" class="btn small scripted" type="button" aria-pressed="true" { "Follow" }
                        button id="wrap" class="btn small scripted" type="button" aria-pressed="true" { "Wrap" }
                        button id="times" class="btn small scripted" type="button" aria-pressed="false" { "Times" }
                        button id="copy" class="btn small scripted" type="button" { "Copy" }
                        a class="btn small" href=(raw) download { "Download" }
                    }
                }
                div class="screen" {
                    div id="log" class="pane" tabindex="0" role="region" aria-label="Log lines"
                        data-id=(deployment.id) data-lines=(self.view.log_lines) data-event=(deployment.version) data-attempt=(deployment.attempt)
                        data-ended=(deployment.is_ended()) data-requested=(deployment.requested_at)
                        data-service=(deployment.service) data-sandbox=(deployment.sandbox) data-steps=(steps)
                        data-failed=[failure.and_then(|failure| failure.step).map(Step::as_str)] data-failed-line=[failure.and_then(|failure| failure.line)] {
                        p id="empty" class="empty" hidden {}
                        p id="edge-start" class="edge" role="alert" hidden {}
                        div id="lines" class="lines" {}
                        p id="edge-end" class="edge" role="alert" hidden {}
                        p class="no-script empty" { "The live log needs JavaScript. " a href=(raw) { "Read it as plain text" } "." }
                    }
                    button id="jump" class="btn jump" type="button" hidden { "↓ Newest" }
                }
            }
        }
    }
}

/// The search box; search.js gives it life.
fn find() -> Markup {
    html! {
        form id="find" class="find scripted" role="search" aria-label="Search the log" {
            input id="find-text" type="search" placeholder="Search  /" aria-label="Search the log" aria-describedby="find-count"
                maxlength=(SearchText::MAX) autocomplete="off" autocapitalize="off" spellcheck="false" enterkeyhint="next";
            button id="find-case" class="btn small" type="button" aria-pressed="false" aria-label="Match case" title="Match case" { "Aa" }
            button id="find-previous" class="btn small" type="button" aria-label="Previous match" title="Previous match (N)" disabled { "↑" }
            button id="find-next" class="btn small" type="button" aria-label="Next match" title="Next match (n)" disabled { "↓" }
            span id="find-count" role="status" {}
        }
    }
}
