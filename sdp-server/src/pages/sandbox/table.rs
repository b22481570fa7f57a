//! The routes of a sandbox as a table: every service of its environment, where its requests go, and the buttons that change that.

use maud::{Markup, html};
use sdp_core::api::MatchRule;

use super::super::parts::{self, Post};
use super::super::words;
use super::{Kind, SandboxPage, Way, forms};

/// So many services that go to the baseline stand with the others; more of them are folded away.
const UNFOLDED: usize = 6;

impl SandboxPage {
    pub(super) fn routes(&self) -> Markup {
        let (different, mut baseline): (Vec<_>, Vec<_>) =
            Way::all(&self.view.routes).into_iter().partition(Way::differs);
        let mut first = different;
        if baseline.len() <= UNFOLDED {
            first.append(&mut baseline);
        }
        html! {
            section aria-labelledby="routes-title" {
                h2 id="routes-title" { "Routes" }
                div id="routes" data-part {
                    @if !first.is_empty() { (self.table(&first, "Routes")) }
                    @if !baseline.is_empty() {
                        details class="more-of" {
                            summary { (words::number_of(baseline.len(), "service goes", "services go")) " to the baseline" }
                            (self.table(&baseline, "Routes to the baseline"))
                        }
                    }
                }
                @if self.may_change && !self.view.routes.is_empty() { (forms::route(&self.view, &self.others)) }
            }
        }
    }

    fn table(&self, ways: &[Way<'_>], name: &str) -> Markup {
        html! {
            div class="table" tabindex="0" role="region" aria-label=(name) { table {
                thead { tr { th { "Service" } th { "Go to" } th { "State" } th { span class="off-screen" { "Pages and buttons" } } } }
                tbody { @for way in ways { (self.way(way)) } }
            } }
        }
    }

    fn way(&self, way: &Way<'_>) -> Markup {
        let route = way.route;
        let (tone, word) = way.health();
        html! {
            tr id={ "route-" (route.service) } class=(way.kind.class()) {
                th scope="row" { (route.service) div class="hint" { (rule(&route.rule)) } }
                td { (where_to(way)) }
                td { (parts::badge(tone, word)) }
                td class="acts" { (self.links(way)) @if self.may_change { (self.buttons(way)) } }
            }
        }
    }

    fn links(&self, way: &Way<'_>) -> Markup {
        html! {
            (parts::open(way.route.url.as_ref(), "btn small"))
            @if let Some(instance) = way.instance() {
                a class="btn small" href=(super::super::instance::path(instance.id)) { "Instance" }
                @match self.started.get(&instance.deployment) {
                    Some(started) => { a class="btn small" href=(parts::log_path(started.number)) { "Log of #" (started.number) } }
                    None => { a class="btn small" href={ "/deployments/" (instance.deployment) } { "Log" } }
                }
            }
        }
    }

    fn buttons(&self, way: &Way<'_>) -> Markup {
        let (service, sandbox) = (&way.route.service, &self.view.sandbox.name);
        let put = |label, body: &str, done: String| Post {
            label,
            path: self.api(&format!("/routes/{service}")),
            put: true,
            body: Some(body.to_owned()),
            done: Some(done),
            class: "btn small",
            about: format!("{service} in {sandbox}"),
            ..Post::default()
        };
        html! {
            @if way.kind != Kind::Baseline && way.route.baseline.is_some() {
                (parts::post(&put(
                    "To the baseline", r#"{"target":{"type":"baseline"}}"#,
                    format!("{service} goes to the baseline in {sandbox}, whatever is deployed, until something is deployed or chosen anew."),
                )))
            }
            @if way.route.chosen {
                (parts::post(&put(
                    "Reset", r#"{"target":null}"#,
                    format!("{service} goes to what was deployed in {sandbox}, or else to the baseline."),
                )))
            }
        }
    }
}

/// Which requests are meant.
pub(in crate::pages) fn rule(rule: &MatchRule) -> Markup {
    html! {
        @match rule {
            MatchRule::Path { prefix, strip } => { code { (prefix) } @if !strip && prefix.as_str() != "/" { " " span class="hint" { "kept" } } }
            MatchRule::Host { host } => { "host " code { (host) } }
        }
    }
}

fn where_to(way: &Way<'_>) -> Markup {
    let name = way.name();
    html! {
        @match way.kind {
            Kind::Own | Kind::Borrowed => {
                span class="ref" { bdi { (name) } }
                @if let Some(instance) = way.instance() {
                    div class="hint" {
                        @if way.kind == Kind::Borrowed { "borrowed from " (parts::sandbox(&instance.sandbox)) " · " }
                        (parts::commit(Some(&instance.commit), None)) " on " (instance.agent)
                    }
                }
            }
            Kind::External => { code { (name) } div class="hint" { (way.details().join(", ")) } }
            Kind::Down => { "nobody" div class="reason" { (words::capitalised(&way.details().join(", "))) } }
            Kind::Instead => { "the baseline " code { (name) } div class="reason" { "because what should answer does not: " (way.details().join(", ")) } }
            Kind::Baseline => { "the baseline " code { (name) } @if way.route.chosen { div class="hint" { "chosen" } } }
        }
    }
}
