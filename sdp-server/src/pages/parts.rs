//! Pieces that more than one page shows: badges, times, commits, buttons.

use jiff::Timestamp;
use maud::{Markup, html};
use sdp_core::deployment::{Changes, CommitInfo, Deployment, State, Step};
use sdp_core::id::DeploymentNumber;
use sdp_core::name::{CommitId, SandboxName};
use url::Url;

use super::words::{self, Tone};

/// A state: a colour and a word.
pub(super) fn badge(tone: Tone, word: &str) -> Markup {
    html! { span class={ "badge " (tone.class()) } { i aria-hidden="true" {} (word) } }
}

/// Words in which `backticks` enclose what is typed as it stands.
pub(super) fn coded(text: &str) -> Markup {
    html! {
        @for (n, part) in text.split('`').enumerate() {
            @if n % 2 == 1 { code { (words::visible(part)) } } @else { (words::visible(part)) }
        }
    }
}

/// How long ago, ticking.
pub(super) fn ago(at: Timestamp, now: Timestamp) -> Markup {
    html! { time datetime=(at) data-tick="ago" { (words::ago(at, now)) } }
}

/// How soon it will be, ticking.
pub(super) fn until(at: Timestamp, now: Timestamp) -> Markup {
    html! { time datetime=(at) data-tick="in" { (words::until(at, now)) } }
}

/// How long it has taken (or takes, ticking).
pub(super) fn took(from: Timestamp, to: Option<Timestamp>, now: Timestamp) -> Markup {
    match to {
        Some(to) => html! { span title=(to) { (words::duration(from, to)) } },
        None => html! { time datetime=(from) data-tick="for" { (words::duration(from, now)) } },
    }
}

/// A commit: short id, and its subject once that is known.
pub(super) fn commit(commit: Option<&CommitId>, info: Option<&CommitInfo>) -> Markup {
    html! {
        @if let Some(commit) = commit { code title=(commit) { (commit.short()) } }
        @if let Some(info) = info {
            " " span class="subject" title=(words::visible(&info.subject)) { bdi { (words::visible(&info.subject)) } }
        }
    }
}

/// How a commit relates to the one before it.
pub(super) fn changes(changes: &Changes) -> Markup {
    let count = |n: u32| format!("{}{}", words::count(n.into()), if changes.more { "+" } else { "" });
    let commits = |n: u32| format!("{} {}", count(n), if n == 1 { "commit" } else { "commits" });
    let since = html! { code title=(changes.since) { (changes.since.short()) } };
    html! {
        @match (changes.added, changes.removed) {
            (0, 0) => { "the same commit as before" }
            (0, removed) => { "goes back " (commits(removed)) " from " (since) }
            (added, 0) => { (commits(added)) " since " (since) }
            (added, removed) => { (commits(added)) " more and " (count(removed)) " fewer than " (since) }
        }
        // What the only one says is said already.
        @if changes.added > 1 {
            @for (i, subject) in changes.subjects.iter().enumerate() {
                @if i == 0 { ": " } @else { "; " }
                bdi { (words::visible(subject)) }
            }
            @if changes.added as usize > changes.subjects.len() { "; …" }
        }
    }
}

/// The page of a deployment.
pub(super) fn log_path(number: DeploymentNumber) -> String {
    format!("/deployments/{number}")
}

/// A link to where it answers. The catalog allows nothing but http and https; neither does this.
pub(super) fn open(url: Option<&Url>, class: &str) -> Markup {
    match url {
        Some(url) if matches!(url.scheme(), "http" | "https") => html! {
            a class=(class) href=(url) target="_blank" rel="noopener noreferrer" { "Open" span aria-hidden="true" { " ↗" } }
        },
        _ => html! {},
    }
}

/// The page of a sandbox.
pub(super) fn sandbox_path(name: &SandboxName) -> String {
    format!("/sandboxes/{name}")
}

/// A sandbox's name, which leads to its page.
pub(super) fn sandbox(name: &SandboxName) -> Markup {
    html! { a class="place" href=(sandbox_path(name)) { (name) } }
}

/// Text that is to be copied: with scripts by a button, without by hand.
pub(super) fn copyable(id: &str, text: &str, what: &str) -> Markup {
    html! {
        span class="copyable" {
            code id=(id) { (words::visible(text)) }
            button type="button" class="scripted btn small" data-copy=(id) aria-label={ "Copy " (what) } { "Copy" }
        }
    }
}

/// A button that posts to the API.
#[derive(Default)]
pub(super) struct Post<'a> {
    /// What it says.
    pub(super) label: &'a str,
    /// Where it posts to.
    pub(super) path: String,
    /// Whether it puts something in its place, rather than posts.
    pub(super) put: bool,
    /// The body, JSON.
    pub(super) body: Option<String>,
    /// What it asks before it does it.
    pub(super) arm: Option<String>,
    /// What is said when it is done.
    pub(super) done: Option<String>,
    /// Whether the page of the deployment that it starts is opened.
    pub(super) go: bool,
    /// Its class: `btn`, `btn danger` …
    pub(super) class: &'static str,
    /// What it is about, for those who hear the page.
    pub(super) about: String,
}

pub(super) fn post(post: &Post<'_>) -> Markup {
    html! {
        button type="button" class={ "scripted " (post.class) } data-post=[(!post.put).then_some(&post.path)]
            data-put=[post.put.then_some(&post.path)] data-body=[&post.body]
            data-arm=[&post.arm] data-done=[&post.done] data-go=[post.go.then_some("1")]
            aria-description=(post.about) { (post.label) }
    }
}

/// A button that takes something away through the API; it asks once more.
pub(super) struct Delete<'a> {
    /// What it says.
    pub(super) label: &'a str,
    /// What is taken away.
    pub(super) path: String,
    /// What it asks before it does it.
    pub(super) arm: String,
    /// What is said when it is done.
    pub(super) done: String,
    /// The page that is opened then, where this one cannot be read any more.
    pub(super) then: Option<&'static str>,
    /// What it is about, for those who hear the page.
    pub(super) about: String,
}

pub(super) fn delete(delete: &Delete<'_>) -> Markup {
    html! {
        button type="button" class="scripted btn small danger" data-delete=(delete.path) data-arm=(delete.arm)
            data-done=(delete.done) data-then=[delete.then] aria-description=(delete.about) { (delete.label) }
    }
}

/// What has become of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StepState {
    Done,
    Now,
    Failed,
    Skipped,
    Todo,
}

impl StepState {
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Now => "now",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Todo => "todo",
        }
    }
}

/// What has become of each step.
pub(super) fn steps(deployment: &Deployment) -> [(Step, StepState); 6] {
    let last = deployment.steps.last().map(|time| time.step);
    let failed = deployment.outcome().is_some_and(|outcome| outcome.code() != "succeeded");
    Step::ALL.map(|step| {
        let state = match (deployment.steps.iter().any(|time| time.step == step), last) {
            (true, Some(last)) if last == step => match &deployment.state {
                State::Ended { .. } if failed => StepState::Failed,
                State::Ended { .. } => StepState::Done,
                _ => StepState::Now,
            },
            (true, _) => StepState::Done,
            (false, Some(last)) if step < last => StepState::Skipped,
            (false, _) => StepState::Todo,
        };
        (step, state)
    })
}
