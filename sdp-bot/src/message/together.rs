//! What is said of several deployments that were asked for together: their message, and their thread.
//!
//! Called by [`crate::story`]. Pure.

use jiff::Timestamp;
use sdp_core::api::Batch;
use sdp_core::batch::BatchOutcome;
use sdp_core::deployment::{Deployment, Outcome, State, Step};
use sdp_core::id::DeploymentNumber;
use sdp_core::name::{GitRef, ServiceName};
use url::Url;

use super::answer::count;
use super::deployment::{beyond_the_reason, state};
use super::{Message, Tone, duration};
use crate::command::{Deploy, Together, Wanted};
use crate::text::Text;
use crate::thread::Thread;

/// How many services a heading names.
const NAMED: usize = 5;

/// The page of a deployment's log; `sandbox`: the sandbox's page, beside it.
#[must_use]
pub fn log_page(sandbox: &Url, number: DeploymentNumber) -> Url {
    sandbox.join(&format!("../deployments/{number}")).unwrap_or_else(|_| sandbox.clone())
}

/// The message of several deployments: always true, edited in place.
#[must_use]
pub fn root(
    batch: &Batch,
    threads: &[Thread],
    outcome: Option<BatchOutcome>,
    url: &Url,
    now: Timestamp,
) -> Message {
    let (tone, stands) = stands(threads, outcome, now);
    let mut message = Message::new(tone, heading(batch, threads).plain(": ").then(stands));
    for thread in threads {
        let before_switch = |other: &Thread| {
            !other.deployment().is_ended()
                && !matches!(other.deployment().state, State::Running { step: Step::Switch })
        };
        message = message.line(row(thread, threads.iter().any(before_switch), now));
        if let Some(url) = thread.deployment().url.as_ref().filter(|_| thread.after().is_none()) {
            message = message.line(Text::new().dim("   url ").link(url));
        }
    }
    let away = threads.iter().filter_map(|thread| thread.facts.away_since).min();
    if let Some(since) = away {
        let away = duration(now.duration_since(since).try_into().unwrap_or_default());
        message.notice = Some(Text::new().plain(format!(
            "SDP's server has not answered for {away}; what runs goes on, but this may be out of date"
        )));
    }
    message = message.open("Sandbox", url);
    let going_on: Vec<String> = threads
        .iter()
        .map(Thread::deployment)
        .filter(|deployment| !deployment.is_ended() && deployment.cancel_requested_by.is_none())
        .map(|deployment| deployment.number.to_string())
        .collect();
    if !going_on.is_empty() {
        return message.offer("Cancel", format!("cancel {}", going_on.join(" ")));
    }
    match outcome {
        None => message,
        Some(BatchOutcome::Succeeded) => message
            .offer("Routes", format!("routes {}", batch.sandbox))
            .offer("Share", format!("sandbox share {}", batch.sandbox)),
        Some(_) => again(message, batch, threads),
    }
}

/// `payments, ledger → qa-42 (template shop, version 3)`.
fn heading(batch: &Batch, threads: &[Thread]) -> Text {
    let names: Vec<&str> =
        threads.iter().take(NAMED).map(|thread| thread.deployment().service.as_str()).collect();
    let more = threads.len() - names.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let text = Text::new().strong(format!("{}{more}", names.join(", "))).plain(" → ").strong(&batch.sandbox);
    let text = match &batch.template {
        Some(template) => text.dim(format!(" (template {}, version {})", template.name, template.version)),
        None => text,
    };
    if batch.requested_by.own_sandbox() == batch.sandbox {
        text
    } else {
        text.dim(format!(" (asked by {})", batch.requested_by))
    }
}

fn is_well(thread: &Thread) -> bool {
    matches!(thread.deployment().outcome(), Some(Outcome::Succeeded {}))
}

fn stands(threads: &[Thread], outcome: Option<BatchOutcome>, now: Timestamp) -> (Tone, Text) {
    let of = threads.len();
    let well = threads.iter().filter(|thread| is_well(thread)).count();
    let Some(outcome) = outcome else {
        let done = threads.iter().filter(|thread| thread.deployment().is_ended()).count();
        let queued = threads.iter().all(|thread| matches!(thread.deployment().state, State::Queued {}));
        let text = match queued {
            true => Text::new().strong("queued"),
            false => Text::new().strong("deploying").plain(format!(", {done} of {of} done")),
        };
        return (if queued { Tone::Waiting } else { Tone::Working }, text);
    };
    let began = threads.iter().map(|thread| thread.deployment().requested_at).min();
    let end = threads.iter().filter_map(|thread| thread.deployment().ended_at).max();
    let took = match (began, end) {
        (Some(began), Some(end)) => {
            format!(" after {}", duration(end.duration_since(began).try_into().unwrap_or_default()))
        }
        _ => String::new(),
    };
    let ill = threads.iter().filter(|thread| is_well(thread) && is_ill(thread, now)).count();
    match outcome {
        BatchOutcome::Succeeded if ill > 0 => {
            let text = Text::new().strong("succeeded").plain(took);
            (Tone::Bad, text.plain(format!(", but {ill} of {of} are not well now")))
        }
        BatchOutcome::Succeeded => (Tone::Good, Text::new().strong("succeeded").plain(took)),
        BatchOutcome::Partial => {
            (Tone::Bad, Text::new().strong("partial").plain(format!(": {well} of {of} serve{took}")))
        }
        _ if threads.iter().all(|thread| !is_failed(thread.deployment())) => {
            (Tone::Over, Text::new().strong("failed").plain(": none was let go to its end"))
        }
        _ => (Tone::Bad, Text::new().strong("failed").plain(format!(": none serves{took}"))),
    }
}

fn is_failed(deployment: &Deployment) -> bool {
    matches!(deployment.outcome(), Some(Outcome::Failed { .. }))
}

fn is_ill(thread: &Thread, now: Timestamp) -> bool {
    state(thread.deployment(), &thread.facts, thread.after(), now).0 == Tone::Bad
}

/// `✓ #412 payments feature/a 1a2b3c4d: running after 40 s  log …`.
fn row(thread: &Thread, others: bool, now: Timestamp) -> Text {
    let deployment = thread.deployment();
    let (tone, state) = match deployment.state {
        // Requests are switched to all of them together.
        State::Running { step: Step::Switch } if others => {
            (Tone::Working, Text::new().strong("ready").plain(", waits for the others"))
        }
        _ => state(deployment, &thread.facts, thread.after(), now),
    };
    let text = Text::new()
        .plain(format!("{} ", tone.mark()))
        .strong(format!("#{} {}", deployment.number, deployment.service))
        .plain(" ")
        .code(&deployment.git_ref);
    let text = match &deployment.commit {
        Some(commit) => text.plain(" ").code(commit.short()),
        None => text,
    };
    let text = text.plain(": ").then(state);
    let text = match (&thread.facts.waiting_for, deployment.is_ended()) {
        (Some(why), false) => text.dim(format!("; it waits: {why}")),
        _ => text,
    };
    text.dim(" · log ").link(&thread.facts.log_url)
}

/// Those that do not serve, once more: by branch, as they are now.
fn again(message: Message, batch: &Batch, threads: &[Thread]) -> Message {
    let left: Vec<&Deployment> =
        threads.iter().filter(|thread| !is_well(thread)).map(Thread::deployment).collect();
    // Values of variables are not repeated in a chat, and without them it would be another deployment.
    if left.iter().any(|deployment| !deployment.env.is_empty()) {
        return message;
    }
    let own = batch.requested_by.own_sandbox() == batch.sandbox;
    let sandbox = (!own).then(|| batch.sandbox.clone());
    let mut services: Vec<(ServiceName, GitRef)> =
        left.iter().map(|one| (one.service.clone(), one.git_ref.clone())).collect();
    let env = std::collections::BTreeMap::new();
    let command = if services.len() == 1 {
        let (service, git_ref) = services.remove(0);
        Deploy { service: Wanted::Service(service), git_ref: Some(git_ref), sandbox, env }.to_string()
    } else {
        Together { template: None, services, sandbox, env }.to_string()
    };
    message.offer("Redeploy failed", command)
}

/// What is said of one of them, under its name.
#[must_use]
pub fn of_one(deployment: &Deployment, message: Message) -> Message {
    let title = Text::new().strong(&deployment.service).plain(" ").then(message.title);
    Message { title, ..message }
}

/// What they came to together: who asked is called if somebody has to act, with every reason.
#[must_use]
pub fn ended(batch: &Batch, threads: &[Thread], outcome: BatchOutcome) -> Message {
    let of = threads.len();
    let well = threads.iter().filter(|thread| is_well(thread)).count();
    if outcome == BatchOutcome::Succeeded {
        let title = Text::new().strong("succeeded").plain(format!(
            ": {}'s requests go to all {} together",
            batch.sandbox,
            count(of, "service", "services")
        ));
        return Message::new(Tone::Good, title);
    }
    let failed = threads.iter().any(|thread| is_failed(thread.deployment()));
    let text = match threads.first().filter(|_| failed) {
        Some(first) => first.facts.whoever(first.deployment()),
        None => Text::new(),
    };
    let text = match outcome {
        BatchOutcome::Partial => text
            .strong("partial")
            .plain(format!(": {well} of {of} serve in {}, the rest is as it was", batch.sandbox)),
        _ => text.strong("failed").plain(format!(": none of {of} serves; {} is as it was", batch.sandbox)),
    };
    let mut message = Message::new(if failed { Tone::Bad } else { Tone::Over }, text);
    for thread in threads.iter().filter(|thread| !is_well(thread)) {
        let deployment = thread.deployment();
        let text = Text::new().strong(&deployment.service).plain(" ");
        message = message.line(match deployment.outcome() {
            Some(Outcome::Failed { failure }) => {
                let step = failure.step.map(|step| format!("{step} failed: ")).unwrap_or_default();
                let detail =
                    beyond_the_reason(failure).map(|detail| format!(" ({detail})")).unwrap_or_default();
                text.plain(format!("{step}{}{detail}", failure.reason.sentence()))
            }
            Some(Outcome::Cancelled { by }) => text.plain(format!("was cancelled by {by}")),
            Some(Outcome::Superseded { number, .. }) => text.plain(format!("was superseded by #{number}")),
            Some(other) => text.plain(other.code()),
            None => text.plain("is under way"),
        });
    }
    again(message, batch, threads)
}
