//! All sandboxes: whose they are, what runs in them, and until when they live; one's own first. Pure: [`Sandboxes`] in, HTML out.
//!
//! The filter is a word in the address, so that a filtered list can be shared, read without scripts and kept up to date; sandboxes.js asks
//! for it while somebody types. Limit: [`MOST`] are shown, the others are counted.

use std::collections::BTreeMap;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use jiff::Timestamp;
use maud::{Markup, html};
use sdp_core::id::EventSeq;
use sdp_core::lock::{Lock, LockKind};
use sdp_core::name::SandboxName;
use sdp_core::platform::{InstanceFilter, Platform, PlatformError};
use sdp_core::principal::Principal;
use sdp_core::sandbox::{Instance, Sandbox};

use super::layout::{Frame, page, respond};
use super::parts;
use super::words;
use super::{RouteQuery, places, refuse};
use crate::app::App;
use crate::edge::Caller;

/// How many are shown at most.
const MOST: usize = 200;

/// What the page shows.
#[derive(Debug)]
pub(super) struct Sandboxes {
    pub(super) principal: Principal,
    pub(super) now: Timestamp,
    pub(super) event: EventSeq,
    pub(super) all: Vec<Listed>,
    pub(super) looked: Looked,
}

/// A sandbox, what runs in it, and who keeps others from it. Where its requests go is not asked for: that is much, of many sandboxes.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) sandbox: Sandbox,
    pub(super) instances: Vec<Instance>,
    pub(super) locks: Vec<Lock>,
}

/// What is looked for.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Looked {
    /// Words that must all be found.
    pub(super) q: String,
}

pub(super) async fn show(State(app): State<App>, caller: Caller, looked: RouteQuery<Looked>) -> Response {
    let Query(looked) = looked.unwrap_or_default();
    let reading = async {
        let event = app.platform().newest_event();
        let all = read(app.platform()).await?;
        Ok::<_, PlatformError>(Sandboxes {
            principal: caller.principal.clone(),
            now: Timestamp::now(),
            event,
            all,
            looked,
        })
    };
    match reading.await {
        Ok(sandboxes) => respond(StatusCode::OK, sandboxes.render()),
        Err(error) => refuse(error, &caller),
    }
}

async fn read(platform: &Platform) -> Result<Vec<Listed>, PlatformError> {
    let mut running: BTreeMap<SandboxName, Vec<Instance>> = BTreeMap::new();
    for instance in platform.instances(InstanceFilter::default()).await? {
        running.entry(instance.sandbox.clone()).or_default().push(instance);
    }
    let locks = platform.locks().await?;
    let listed = |sandbox: Sandbox| {
        let mut instances = running.remove(&sandbox.name).unwrap_or_default();
        instances.sort_by(|a, b| a.service.cmp(&b.service).then(b.id.cmp(&a.id)));
        let is_about = |lock: &&Lock| {
            lock.place.environment == sandbox.environment
                && lock.place.sandbox.as_ref().is_none_or(|name| *name == sandbox.name)
        };
        let locks = locks.iter().filter(is_about).cloned().collect();
        Listed { sandbox, instances, locks }
    };
    Ok(platform.sandboxes().await?.into_iter().map(listed).collect())
}

impl Sandboxes {
    pub(super) fn render(&self) -> Markup {
        let frame = Frame {
            title: "Sandboxes",
            class: "wide-page",
            script: Some("sandboxes.js"),
            principal: Some(&self.principal),
            event: self.event,
            now: self.now,
        };
        let words: Vec<String> = self.looked.q.to_lowercase().split_whitespace().map(str::to_owned).collect();
        let mut found: Vec<_> = self.all.iter().filter(|listed| is_found(listed, &words)).collect();
        found.sort_by_key(|listed| !listed.sandbox.is_of(&self.principal));
        let own = found.iter().filter(|listed| listed.sandbox.is_of(&self.principal)).count();
        let content = html! {
            div class="line" {
                h1 { "Sandboxes" }
                span class="grow" {}
                form id="filter" method="get" action="/sandboxes" class="filter" role="search" {
                    input type="search" name="q" value=(self.looked.q) maxlength="200" placeholder="Name, owner, service, branch …" aria-label="Filter";
                    button class="btn no-script" type="submit" { "Filter" }
                }
            }
            section id="sandboxes" data-part aria-label="Sandboxes" {
                @if found.is_empty() { (self.nothing()) }
                @for (title, part) in [("Yours", &found[..own.min(MOST)]), ("All others", &found[own.min(MOST)..found.len().min(MOST)])] {
                    @if !part.is_empty() {
                        h2 { (title) }
                        ul class="rows" { @for listed in part { (self.sandbox(listed)) } }
                    }
                }
                @if found.len() > MOST {
                    p class="hint" { "And " (words::count((found.len() - MOST) as u64)) " more: filter to see them." }
                }
            }
        };
        page(&frame, content)
    }

    fn nothing(&self) -> Markup {
        html! {
            div class="empty" {
                @if self.all.is_empty() {
                    p { b { "There is no sandbox yet." } " One is made with the first deploy into it." }
                    p { a href="/#deploy" { "Deploy a branch" } ", or type " code { "/sdp deploy" } " in chat." }
                } @else {
                    p { "No sandbox has " b { (words::visible(&self.looked.q)) } ". " a href="/sandboxes" { "Show all" } "." }
                }
            }
        }
    }

    fn sandbox(&self, listed: &Listed) -> Markup {
        let sandbox = &listed.sandbox;
        html! {
            li id={ "sandbox-" (sandbox.name) } class="row sandbox-row" {
                div class="line" {
                    a class="service" href=(parts::sandbox_path(&sandbox.name)) { (sandbox.name) }
                    @for lock in &listed.locks {
                        span class="badge wait" title=(words::visible(&lock.reason)) {
                            i aria-hidden="true" {}
                            @if lock.kind == LockKind::Freeze { "Frozen" } @else { "Locked" }
                            @if let Some(service) = &lock.place.service { ": " (service) }
                            @if lock.kind != LockKind::Freeze { " by " (lock.owner) }
                        }
                    }
                    span class="grow" {}
                    (places::expiry(sandbox, self.now))
                }
                p class="meta" {
                    (places::whose(sandbox, &self.principal)) " · in " (sandbox.environment)
                    @if let Some(template) = &sandbox.template { " · from " (template.name) " version " (template.version) }
                }
                @if listed.instances.is_empty() {
                    p class="hint" { "Nothing runs in it." }
                } @else {
                    ul class="runs" { @for instance in &listed.instances { li { (runs(instance)) } } }
                }
            }
        }
    }
}

fn runs(instance: &Instance) -> Markup {
    let (tone, word) = words::instance_state(&instance.state);
    html! {
        a href=(super::instance::path(instance.id)) { (instance.service) } span class="hint" { "@" }
        code title=[instance.git_ref.as_ref().map(|git_ref| words::visible(git_ref.as_str()).into_owned())] { (instance.commit.short()) }
        " " span class={ "dot " (tone.class()) } { i aria-hidden="true" {} (word) }
    }
}

/// Whether all of the words are somewhere in what the row says.
fn is_found(listed: &Listed, words: &[String]) -> bool {
    if words.is_empty() {
        return true;
    }
    let sandbox = &listed.sandbox;
    let mut text = format!("{} {} {}", sandbox.name, sandbox.owner, sandbox.environment);
    let mut add = |more: &str| {
        text.push(' ');
        text.push_str(more);
    };
    sandbox.team.iter().for_each(|team| add(team.as_str()));
    sandbox.members.iter().for_each(|member| add(member.as_str()));
    sandbox.template.iter().for_each(|template| add(template.name.as_str()));
    sandbox.notes.iter().for_each(|notes| add(notes));
    for instance in &listed.instances {
        add(instance.service.as_str());
        add(instance.commit.as_str());
        instance.git_ref.iter().for_each(|git_ref| add(git_ref.as_str()));
    }
    let text = text.to_lowercase();
    words.iter().all(|word| text.contains(word))
}
