//! The page of one instance: what runs, where, and what it prints, live. Pure: [`InstancePage`] in, HTML out.
//!
//! The part `#head` is brought up to date by instance.js after each event. The lines are drawn by the script, as on the page of
//! a deployment; without scripts the page links to them as plain text, and one that is over shows its last lines.

use jiff::Timestamp;
use maud::{Markup, html};
use sdp_core::deployment::Deployment;
use sdp_core::id::{EventSeq, InstanceId};
use sdp_core::principal::Principal;
use sdp_core::sandbox::{Instance, InstanceState};

use super::layout::{Frame, page};
use super::parts::{self, Post};
use super::words;

/// What the page of an instance shows.
#[derive(Debug)]
pub(super) struct InstancePage {
    pub(super) principal: Principal,
    pub(super) now: Timestamp,
    pub(super) event: EventSeq,
    pub(super) instance: Instance,
    /// The deployment that started it.
    pub(super) deployment: Option<Deployment>,
    /// What took its place.
    pub(super) newer: Option<InstanceId>,
}

/// The page of an instance.
pub(super) fn path(id: InstanceId) -> String {
    format!("/instances/{id}")
}

impl InstancePage {
    pub(super) fn render(&self) -> Markup {
        let Instance { service, sandbox, state, .. } = &self.instance;
        let (_, word) = words::instance_state(state);
        let title = format!("{word}: {service} in {sandbox}");
        let frame = Frame {
            title: &title,
            class: "log-page",
            script: Some("instance.js"),
            principal: Some(&self.principal),
            event: self.event,
            now: self.now,
        };
        page(&frame, html! { (self.head()) (self.output()) })
    }

    fn head(&self) -> Markup {
        let instance = &self.instance;
        let (tone, word) = words::instance_state(&instance.state);
        let info = self.deployment.as_ref().and_then(|deployment| deployment.commit_info.as_ref());
        html! {
            section id="head" data-part class="head" aria-label="Instance" data-over=(instance.state.is_over()) {
                div class="title" {
                    h1 { (instance.service) " " span class="number" { "in " (parts::sandbox(&instance.sandbox)) } }
                    span id="state" role="status" { (parts::badge(tone, word)) }
                    span class="elapsed" {
                        "for " (parts::took(instance.started_at, instance.stopped_at, self.now))
                    }
                    span class="grow" {}
                    div class="acts" { (self.buttons()) }
                }
                p class="code" {
                    @if let Some(deployment) = &self.deployment {
                        span class="ref" { bdi { (words::visible(deployment.git_ref.as_str())) } } " "
                    }
                    (parts::commit(Some(&instance.commit), info))
                }
                p class="meta" {
                    @match &self.deployment {
                        Some(deployment) => {
                            "started by " a href=(parts::log_path(deployment.number)) { "#" (deployment.number) }
                            " of " (deployment.requested_by) " "
                        }
                        None => { "started " }
                    }
                    (parts::ago(instance.started_at, self.now)) " · on " b { (instance.agent) }
                    @if let Some(address) = instance.address { " at " code { (address) } }
                    @if let Some(url) = &instance.url { " · " code { (url) } }
                }
                @if let Some(reason) = words::instance_reason(instance) {
                    p class="note" {
                        (reason)
                        @if let Some(newer) = self.newer { " " a href=(path(newer)) { "See what runs now" } "." }
                    }
                }
                @if let Some(restarted) = words::restarted(instance) {
                    p class="note" {
                        (restarted)
                        @if let Some(last) = &instance.last_restart { " That was " (parts::ago(last.at, self.now)) "." }
                    }
                }
                @if !instance.last_lines.is_empty() {
                    details class="last-lines" open[instance.state.is_over()] {
                        summary {
                            @match instance.last_lines.len() { 1 => "Its last line", n => { "Its last " (n) " lines" } }
                            @if !instance.state.is_over() { " before it was started again" }
                        }
                        pre { @for line in &instance.last_lines { (words::visible(line)) "\n" } }
                    }
                }
            }
        }
    }

    fn buttons(&self) -> Markup {
        let instance = &self.instance;
        let about = format!("{} in {}", instance.service, instance.sandbox);
        let serves = matches!(instance.state, InstanceState::Live {} | InstanceState::Unhealthy {});
        html! {
            @if serves {
                (parts::open(instance.url.as_ref(), "btn primary"))
                (parts::post(&Post {
                    label: "Restart",
                    path: format!("/api/v1/instances/{}/restart", instance.id),
                    go: true,
                    class: "btn",
                    about: about.clone(),
                    ..Post::default()
                }))
                (parts::post(&Post {
                    label: "Stop",
                    path: format!("/api/v1/instances/{}/stop", instance.id),
                    arm: Some("Stop it?".to_owned()),
                    done: Some(format!("{about} is being stopped; the baseline answers from now on.")),
                    class: "btn danger",
                    about,
                    ..Post::default()
                }))
            } @else if instance.state.is_over() && self.newer.is_none() {
                (parts::post(&Post {
                    label: "Redeploy",
                    path: format!("/api/v1/deployments/{}/redeploy", instance.deployment),
                    go: true,
                    class: "btn primary",
                    about,
                    ..Post::default()
                }))
            }
        }
    }

    fn output(&self) -> Markup {
        let instance = &self.instance;
        let raw = format!("/api/v1/instances/{}/output/raw", instance.id);
        html! {
            section class="log" aria-labelledby="log-title" {
                div class="tools" {
                    h2 id="log-title" { "Output" }
                    span id="count" class="hint" {}
                    span id="link" class="link wait" role="status" {}
                    span class="grow" {}
                    div class="acts" {
                        button id="follow" class="btn small scripted" type="button" aria-pressed="true" { "Follow" }
                        button id="wrap" class="btn small scripted" type="button" aria-pressed="true" { "Wrap" }
                        button id="times" class="btn small scripted" type="button" aria-pressed="false" { "Times" }
                        a class="btn small" href=(raw) download { "Download" }
                    }
                }
                div class="screen" {
                    div id="log" class="pane no-times" tabindex="0" role="region" aria-label="Lines of output"
                        data-id=(instance.id) data-service=(instance.service) data-sandbox=(instance.sandbox) {
                        p id="empty" class="empty" hidden {}
                        div id="lines" class="lines" {}
                        p class="no-script empty" { "The live output needs JavaScript. " a href=(raw) { "Read it as plain text" } "." }
                    }
                    button id="jump" class="btn jump" type="button" hidden { "↓ Newest" }
                }
            }
        }
    }
}
