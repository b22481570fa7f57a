//! What a deployment's message and its thread say.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use sdp_core::api::Ahead;
use sdp_core::deployment::{Changes, DeployKind, Deployment, Outcome, State, Step, StepTime};
use sdp_core::failure::{Failure, FailureReason};
use sdp_core::name::{CommitId, GitRef};
use sdp_core::sandbox::{StopReason, Unhealthy};
use url::Url;

use super::{Message, Tone, down, duration, elapsed, ordinal};
use crate::command::{Deploy, Wanted};
use crate::text::Text;
use crate::thread::{After, Facts, Health, Restarts, Serving};

/// The message of a deployment: always true, edited in place.
#[must_use]
pub fn root(deployment: &Deployment, facts: &Facts, after: Option<&After>, now: Timestamp) -> Message {
    let (tone, state) = state(deployment, facts, after, now);
    let mut message = Message::new(tone, heading(deployment).plain(": ").then(state));
    if let Some(commit) = &deployment.commit {
        message = message.line(commit_line(deployment, commit));
    }
    if let Some(changes) = &deployment.changes {
        message = message.line(changes_line(changes));
    }
    if !deployment.env.is_empty() {
        let names: Vec<&str> = deployment.env.keys().map(AsRef::as_ref).collect();
        message = message.line(Text::new().dim("with ").plain(names.join(", ")));
    }
    let serves = deployment.url.as_ref().filter(|_| after.is_none());
    if let Some(url) = serves {
        message = message.line(Text::new().dim("url ").link(url));
    }
    if let Some(why) = facts.waiting_for.as_ref().filter(|_| !deployment.is_ended()) {
        message = message.line(Text::new().dim("waits ").plain(why));
    }
    let log = facts.log_link.as_ref().unwrap_or(&facts.log_url);
    message = message.line(Text::new().dim("log ").link(log));
    if let Some(since) = facts.away_since
        && !deployment.is_ended()
    {
        let away = duration(between(since, now));
        message.notice = Some(Text::new().plain(format!(
            "SDP's server has not answered for {away}; what runs goes on, but this may be out of date"
        )));
    }
    actions(message, deployment, facts, serves, after)
}

fn actions(
    message: Message,
    deployment: &Deployment,
    facts: &Facts,
    serves: Option<&Url>,
    after: Option<&After>,
) -> Message {
    let number = deployment.number;
    let message = match serves {
        Some(url) => message.open("Open", url),
        None => message,
    };
    let message = message.open("Log", &facts.log_url);
    match deployment.outcome() {
        None if deployment.cancel_requested_by.is_some() => message,
        None => message.offer("Cancel", format!("cancel {number}")),
        Some(Outcome::Succeeded {}) if after.is_none() => message
            .offer("Redeploy", format!("redeploy {number}"))
            .offer("Roll back", format!("rollback {number}"))
            .offer("Stop", format!("stop {number}")),
        Some(Outcome::Succeeded {}) => message.offer("Redeploy", format!("redeploy {number}")),
        Some(Outcome::Superseded { .. }) => message,
        Some(Outcome::Failed { failure }) => again(message, deployment, Some(failure)),
        Some(_) => again(message, deployment, None),
    }
}

/// What may go better: the branch as it is now, not the commit that has failed. Only where the same commit was meant, and
/// nothing speaks against it, is it that one.
pub(super) fn again(message: Message, deployment: &Deployment, failure: Option<&Failure>) -> Message {
    let may_go_well = failure.is_none_or(|failure| failure.reason.is_retryable());
    let same_was_meant = deployment.kind != DeployKind::Deploy || !deployment.env.is_empty();
    if may_go_well && same_was_meant && deployment.commit.is_some() {
        return message.offer("Retry", format!("redeploy {}", deployment.number));
    }
    let git_ref = match failure {
        Some(failure) if failure.reason == FailureReason::RefNotFound => match meant(&failure.detail) {
            Some(meant) => meant,
            None => return message,
        },
        Some(failure) if failure.reason == FailureReason::RefAmbiguous => return message,
        _ => deployment.git_ref.clone(),
    };
    let own = deployment.requested_by.own_sandbox() == deployment.sandbox;
    let deploy = Deploy {
        service: Wanted::Service(deployment.service.clone()),
        git_ref: Some(git_ref),
        sandbox: (!own).then(|| deployment.sandbox.clone()),
        env: BTreeMap::new(),
    };
    if deployment.env.is_empty() {
        return message.offer("Deploy again", deploy.to_string());
    }
    // Values of variables are not repeated in a chat, and without them it would be another deployment.
    let names: Vec<&str> = deployment.env.keys().map(AsRef::as_ref).collect();
    let with = format!(" with {} as before", names.join(", "));
    message.line(Text::new().dim("again ").code(deploy.to_string()).plain(with))
}

/// The name that the agent proposes: `…; did you mean feature/greeting?`.
fn meant(detail: &str) -> Option<GitRef> {
    detail.rsplit_once("did you mean ")?.1.trim_end_matches('?').parse().ok()
}

/// A failure's detail, without the sentence of its reason if it begins with it.
pub(super) fn beyond_the_reason(failure: &Failure) -> Option<&str> {
    let detail = failure.detail.strip_prefix(failure.reason.sentence()).unwrap_or(&failure.detail);
    Some(detail.trim_start_matches([':', ' '])).filter(|detail| !detail.is_empty())
}

/// `#412 payments feature/refund → alice`.
#[must_use]
pub fn heading(deployment: &Deployment) -> Text {
    let text = Text::new().strong(format!("#{} {}", deployment.number, deployment.service)).plain(" ");
    let what = match deployment.kind {
        DeployKind::Redeploy => "redeploy of ",
        DeployKind::Rollback => "rollback to ",
        DeployKind::Restart => "restart of ",
        _ => "",
    };
    let text = match deployment.of {
        Some(number) if !what.is_empty() => text.plain(format!("{what}#{number} ")),
        _ => text.plain(what),
    };
    let text = text.code(&deployment.git_ref).plain(" → ").strong(&deployment.sandbox);
    if deployment.requested_by.own_sandbox() == deployment.sandbox {
        text
    } else {
        text.dim(format!(" (asked by {})", deployment.requested_by))
    }
}

fn commit_line(deployment: &Deployment, commit: &CommitId) -> Text {
    let text = Text::new().code(commit.short());
    match &deployment.commit_info {
        Some(info) => text.plain(format!(" {}", info.subject)).dim(format!(" · {}", info.author)),
        None => text,
    }
}

/// How many subjects of commits a message has; the page has more.
const SUBJECTS: usize = 3;

/// `3 commits since `1a2b3c4d`: Add refunds; Fix rounding; …`.
fn changes_line(changes: &Changes) -> Text {
    let count = |n: u32| format!("{n}{}", if changes.more { "+" } else { "" });
    let commits = |n: u32| format!("{} {}", count(n), if n == 1 { "commit" } else { "commits" });
    let text = match (changes.added, changes.removed) {
        (0, 0) => return Text::new().dim("same commit as before"),
        (0, removed) => Text::new().plain(format!("goes back {} from ", commits(removed))),
        (added, 0) => Text::new().plain(format!("{} since ", commits(added))),
        (added, removed) => {
            Text::new().plain(format!("{} more and {} fewer than ", commits(added), count(removed)))
        }
    };
    let mut text = text.code(changes.since.short());
    // What the only one says is in the line before.
    if changes.added > 1 {
        let shown = changes.subjects.iter().take(SUBJECTS);
        let left_out = changes.added as usize > shown.len();
        for (i, subject) in shown.enumerate() {
            text = text.plain(if i == 0 { ": " } else { "; " }).plain(subject);
        }
        if left_out {
            text = text.plain("; …");
        }
    }
    text
}

pub(super) fn state(
    deployment: &Deployment,
    facts: &Facts,
    after: Option<&After>,
    now: Timestamp,
) -> (Tone, Text) {
    match &deployment.state {
        _ if !deployment.is_ended() && deployment.cancel_requested_by.is_some() => {
            (Tone::Working, Text::new().strong("cancelling"))
        }
        State::Queued {} => (Tone::Waiting, queued(facts)),
        State::Running { step } => {
            let text = Text::new().strong(doing(*step));
            let text = match deployment.steps.last() {
                Some(current) => text.plain(format!(" {}", elapsed(between(current.started_at, now)))),
                None => text,
            };
            (
                Tone::Working,
                match facts.usual {
                    Some(usual) => text.dim(format!(
                        " ({} in all, usually {})",
                        elapsed(between(deployment.requested_at, now)),
                        duration(usual)
                    )),
                    None => text,
                },
            )
        }
        State::Ended { outcome } => match (outcome, after) {
            (Outcome::Succeeded {}, None) => {
                let text = Text::new().strong("running").plain(took(deployment));
                if let Health::Unhealthy(unhealthy) = &facts.health {
                    let text = text.plain(", but ").strong("unhealthy");
                    return (Tone::Bad, text.plain(format!(": {}", unhealthy.detail)));
                }
                match facts
                    .restarts
                    .as_ref()
                    .and_then(|again| down::restarted(again.times, again.last.as_ref()))
                {
                    Some(restarted) => (Tone::Good, text.plain(format!(", {restarted}"))),
                    None => (Tone::Good, text),
                }
            }
            (Outcome::Succeeded {}, Some(after)) => ended_after(after),
            (Outcome::Failed { failure }, _) => (Tone::Bad, failed(failure).plain(took(deployment))),
            (Outcome::Cancelled { by }, _) => {
                (Tone::Over, Text::new().strong("cancelled").plain(format!(" by {by}")))
            }
            (Outcome::Superseded { number, .. }, _) => (
                Tone::Over,
                Text::new().strong("superseded").plain(format!(" by #{number}, which was asked for later")),
            ),
            _ => (Tone::Over, Text::new().strong(outcome.code())),
        },
        _ => (Tone::Working, Text::new().strong("working")),
    }
}

fn queued(facts: &Facts) -> Text {
    let text = match facts.queue_position {
        None => return Text::new().strong("queued"),
        Some(0 | 1) => Text::new().strong("queued").plain(", next in line"),
        Some(n) => Text::new().strong("queued").plain(format!(", {} in line", ordinal(n))),
    };
    let text = match &facts.behind {
        Some(Ahead { number, service, requested_by, .. }) => {
            text.plain(format!(", behind {requested_by}'s #{number} {service}"))
        }
        None => text,
    };
    // A number of seconds would be more than anybody knows.
    match facts.starts_in_seconds {
        None | Some(0) => text,
        Some(seconds @ 1..60) => text.plain(format!(", about {} s", seconds.div_ceil(10) * 10)),
        Some(seconds) => text.plain(format!(", about {} min", (seconds + 30) / 60)),
    }
}

pub(super) fn failed(failure: &Failure) -> Text {
    match failure.step {
        Some(step) => Text::new().strong(format!("failed in {step}")),
        None => Text::new().strong("failed"),
    }
}

fn ended_after(after: &After) -> (Tone, Text) {
    match after {
        After::Lost => (Tone::Bad, Text::new().strong("lost").plain(": its agent is gone")),
        After::Draining { reason } | After::Stopped { reason, .. } => match reason {
            StopReason::Replaced {} => {
                (Tone::Over, Text::new().strong("replaced").plain(" by a newer deployment"))
            }
            StopReason::Stopped { by } => {
                (Tone::Over, Text::new().strong("stopped").plain(format!(" by {by}")))
            }
            StopReason::SandboxDeleted {} => {
                (Tone::Over, Text::new().strong("stopped").plain(": the sandbox was deleted"))
            }
            StopReason::SandboxExpired {} => {
                (Tone::Over, Text::new().strong("stopped").plain(": the sandbox has expired"))
            }
            StopReason::Crashed { out_of_memory: true, .. } => {
                (Tone::Bad, Text::new().strong("crashed").plain(": it ran out of memory"))
            }
            StopReason::Crashed { exit_code, signal, .. } => {
                (Tone::Bad, Text::new().strong("crashed").plain(crash(*exit_code, *signal)))
            }
            StopReason::AgentRestarted {} => {
                (Tone::Bad, Text::new().strong("stopped").plain(": its agent was restarted"))
            }
            StopReason::EngineRestarted {} => {
                (Tone::Bad, Text::new().strong("stopped").plain(": its container engine was restarted"))
            }
            StopReason::NotStarted { detail } => {
                let text = Text::new().plain("could ").strong("not be started again");
                (Tone::Bad, text.plain(format!(": {detail}")))
            }
            _ => (Tone::Over, Text::new().strong("stopped")),
        },
    }
}

fn crash(exit_code: Option<i32>, signal: Option<i32>) -> String {
    match (exit_code, signal) {
        (Some(code), _) => format!(" with exit code {code}"),
        (None, Some(signal)) => format!(", ended by signal {signal}"),
        (None, None) => String::new(),
    }
}

pub(super) fn doing(step: Step) -> &'static str {
    match step {
        Step::Resolve => "resolving",
        Step::Fetch => "fetching",
        Step::Build => "building",
        Step::Start => "starting",
        Step::Check => "checking",
        Step::Switch => "switching",
        _ => "working",
    }
}

fn took(deployment: &Deployment) -> String {
    deployment
        .ended_at
        .map(|end| format!(" after {}", duration(between(deployment.requested_at, end))))
        .unwrap_or_default()
}

fn between(from: Timestamp, to: Timestamp) -> Duration {
    to.duration_since(from).try_into().unwrap_or_default()
}

/// A step that went well.
#[must_use]
pub fn step_done(deployment: &Deployment, step: &StepTime) -> Message {
    let commit = deployment.commit.as_ref().map_or("", CommitId::short);
    let text = Text::new();
    let text = match step.step {
        Step::Resolve => {
            text.strong("resolve").plain(" ").code(&deployment.git_ref).plain(" is ").code(commit)
        }
        Step::Fetch => match &deployment.commit_info {
            Some(info) => {
                text.strong("fetch").plain(format!(" {} ", info.subject)).dim(format!("· {}", info.author))
            }
            None => text.strong("fetch").plain(" ").code(commit),
        },
        Step::Start => match &deployment.agent {
            Some(agent) => text.strong("start").plain(" on ").plain(agent),
            None => text.strong("start"),
        },
        Step::Check => text.strong("check").plain(" it is healthy"),
        Step::Switch => text
            .strong("switch")
            .plain(format!(" {}'s requests for {} go to it", deployment.sandbox, deployment.service)),
        other => text.strong(other.as_str()),
    };
    let text = match step.ended_at {
        Some(end) => text.dim(format!(" {}", duration(between(step.started_at, end)))),
        None => text,
    };
    Message::new(Tone::Good, text)
}

/// A kept build is used, or is gone.
#[must_use]
pub fn build_reused(deployment: &Deployment, reused: bool) -> Message {
    let text = Text::new();
    let text = if reused { text.plain("The kept build") } else { text.plain("The kept build is gone:") };
    let text = match &deployment.commit {
        Some(commit) => text.plain(if reused { " of " } else { " " }).code(commit.short()),
        None => text.plain(" it"),
    };
    let text = text.plain(if reused {
        " is used: nothing to fetch, nothing to build"
    } else {
        " is fetched and built again"
    });
    Message::new(Tone::Note, text)
}

/// A remark of SDP.
#[must_use]
pub fn note(text: &str) -> Message {
    Message::new(Tone::Note, Text::from(text))
}

/// Somebody wants it cancelled.
#[must_use]
pub fn cancel_requested(deployment: &Deployment, by: &str) -> Message {
    let text = format!("{by} asked to cancel #{}; stopping what it started", deployment.number);
    Message::new(Tone::Note, Text::from(text.as_str()))
}

/// It runs.
#[must_use]
pub fn succeeded(deployment: &Deployment) -> Message {
    let text = Text::new().strong("running").plain(took(deployment));
    Message::new(
        Tone::Good,
        match &deployment.url {
            Some(url) => text.plain(" ").link(url),
            None => text,
        },
    )
}

/// It failed: who asked is called, with the reason, the next step and the last lines.
#[must_use]
pub fn failure(deployment: &Deployment, failure: &Failure, facts: &Facts) -> Message {
    let text = facts.called(deployment);
    let place = failure.step.map_or_else(|| "It failed".to_owned(), |step| format!("{step} failed"));
    let exit = failure.exit_code.map(|code| format!(" (exit code {code})")).unwrap_or_default();
    let text = text.strong(place).plain(format!(": {}{exit}", failure.reason.sentence()));
    let mut message = Message::new(Tone::Bad, text);
    if let Some(detail) = beyond_the_reason(failure) {
        message = message.line(Text::new().plain(detail));
    }
    message = message.line(Text::new().dim("next ").plain(failure.reason.hint()));
    if let Some(serving) = &facts.serving {
        message = message.line(still_serves(deployment, serving));
    }
    let link = facts.failure_link.clone().unwrap_or_else(|| {
        let mut url = facts.log_url.clone();
        url.set_fragment(failure.line.map(|line| format!("L{line}")).as_deref());
        url
    });
    message = message.line(Text::new().dim("log ").link(&link));
    again(message.block(&facts.tail), deployment, Some(failure))
}

fn still_serves(deployment: &Deployment, serving: &Serving) -> Text {
    let text = Text::new().plain("Nothing was switched: ").code(serving.commit.short());
    let text = text.plain(format!(" still serves {} in {}", deployment.service, deployment.sandbox));
    match &serving.url {
        Some(url) => text.plain(" ").link(url),
        None => text,
    }
}

/// It was cancelled; said only when everything is gone.
#[must_use]
pub fn cancelled(by: &str) -> Message {
    let text = Text::new().strong("cancelled").plain(format!(" by {by}; nothing that it started is left"));
    Message::new(Tone::Over, text)
}

/// A newer one took its place.
#[must_use]
pub fn superseded(number: impl std::fmt::Display) -> Message {
    let text = Text::new().strong("superseded").plain(format!(" by #{number}; nothing was built"));
    Message::new(Tone::Over, text).offer("Status", format!("status {number}"))
}

/// What ran has ended by itself: the owner hears it once.
#[must_use]
pub fn broke(
    deployment: &Deployment,
    called: &Text,
    after: &After,
    restarts: Option<&Restarts>,
) -> Option<Message> {
    let (tone, text) = ended_after(after);
    if tone != Tone::Bad {
        return None;
    }
    let called = called.clone();
    let title = called.plain(format!("{} in {} ", deployment.service, deployment.sandbox)).then(text);
    let given_up = matches!(after, After::Stopped { reason: StopReason::Crashed { .. }, .. });
    let title = match restarts.filter(|_| given_up).and_then(|again| down::so_often(again.times)) {
        Some(so_often) => title.plain(format!("; it was restarted {so_often} before")),
        None => title,
    };
    let lines: &[String] = match after {
        After::Stopped { last_lines, .. } => last_lines,
        _ => &[],
    };
    let skipped = lines.len().saturating_sub(15);
    Some(
        Message::new(tone, title)
            .line(Text::new().dim("next ").plain(format!("redeploy {}", deployment.number)))
            .block(&lines[skipped..])
            .offer("Redeploy", format!("redeploy {}", deployment.number)),
    )
}

/// What runs was started again: the owner hears it once for several in a row; the message counts them.
#[must_use]
pub fn restarted(deployment: &Deployment, called: &Text, restarts: &Restarts) -> Message {
    let called = called.clone();
    let why = restarts
        .last
        .as_ref()
        .and_then(|last| down::why(&last.reason))
        .unwrap_or_else(|| "it ended".to_owned());
    let title = called
        .plain(format!("{} in {} was ", deployment.service, deployment.sandbox))
        .strong("started again")
        .plain(format!(": {why}"));
    let skipped = restarts.last_lines.len().saturating_sub(15);
    let logs = format!("logs {} in {}", deployment.service, deployment.sandbox);
    Message::new(Tone::Bad, title)
        .line(Text::new().dim("next ").code(&logs).plain(" shows whether it is well now"))
        .block(&restarts.last_lines[skipped..])
        .offer("Logs", logs)
}

/// What runs was started again and is not well: the owner hears it once, each time that it is found.
#[must_use]
pub fn unhealthy(deployment: &Deployment, called: &Text, unhealthy: &Unhealthy) -> Message {
    let called = called.clone();
    let place = format!("{} in {}", deployment.service, deployment.sandbox);
    let title = called
        .plain(format!("{place} runs, but is "))
        .strong("unhealthy")
        .plain(format!(": {}", unhealthy.detail));
    let logs = format!("logs {place}");
    Message::new(Tone::Bad, title)
        .line(Text::new().plain("Requests still go to it; it is checked until it is well"))
        .line(
            Text::new()
                .dim("next ")
                .code(&logs)
                .plain(" shows what it prints; ")
                .code(format!("redeploy {}", deployment.number)),
        )
        .offer("Logs", logs)
        .offer("Redeploy", format!("redeploy {}", deployment.number))
}

/// It is well again.
#[must_use]
pub fn recovered(deployment: &Deployment) -> Message {
    let text = Text::new().plain(format!("{} in {} is ", deployment.service, deployment.sandbox));
    Message::new(Tone::Good, text.strong("healthy").plain(" again"))
}
