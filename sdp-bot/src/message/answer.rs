//! What commands answer.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use sdp_core::api::{
    BranchList, CreateDeployment, Deployment, DeploymentView, Instance, LogWindow, Problem, SandboxView,
    Service,
};
use sdp_core::client::ClientError;
use sdp_core::deployment::{Outcome, State};
use sdp_core::id::DeploymentId;
use sdp_core::name::{SandboxName, ServiceName};
use sdp_core::sandbox::InstanceState;

use super::deployment::{beyond_the_reason, heading};
use super::down;
use super::{Message, Tone, duration};
use crate::command::{Mistake, RepoAddress};
use crate::text::Text;

/// The most rows of a list; the rest is counted.
pub(super) const MAX_ROWS: usize = 40;

type Branches = HashMap<DeploymentId, Deployment>;

/// It was not understood.
#[must_use]
pub fn mistake(mistake: &Mistake) -> Message {
    hinted(Message::new(Tone::Bad, Text::from(mistake.problem.as_str())), mistake.hint.as_deref())
}

fn hinted(message: Message, hint: Option<&str>) -> Message {
    match hint {
        Some(hint) => message.line(Text::new().dim("next ").plain(hint)),
        None => message,
    }
}

/// The server refused it, or is away.
#[must_use]
pub fn refused(error: &ClientError) -> Message {
    match error {
        ClientError::Problem(problem) | ClientError::TooManyRequests { problem, .. } => {
            problem_message(problem)
        }
        error if error.is_away() => {
            let title = "SDP's server does not answer at the moment. Nothing was done.";
            Message::new(Tone::Bad, Text::from(title))
                .line(Text::new().dim("that is ").plain(error.to_string()))
                .line(
                    Text::new()
                        .dim("next ")
                        .plain("try again in a minute; what already runs goes on without it"),
                )
        }
        error => hinted(Message::new(Tone::Bad, Text::new().plain(error.to_string())), error.hint()),
    }
}

fn problem_message(problem: &Problem) -> Message {
    let mut title = Text::new().plain(problem.title.trim_end_matches('.')).plain(".");
    if let Some(meant) = &problem.did_you_mean {
        title = title.plain(" Did you mean ").code(meant).plain("?");
    }
    let mut message = Message::new(Tone::Bad, title);
    if let Some(detail) = problem.detail.as_ref().filter(|detail| **detail != problem.title) {
        message = message.line(Text::new().plain(detail));
    }
    hinted(message, super::hint::hint(problem))
}

/// There is no such service; the whole command is offered with the name that was probably meant.
#[must_use]
pub fn unknown_service(problem: &Problem, wanted: &CreateDeployment) -> Message {
    let message = problem_message(problem);
    let Some(meant) = &problem.did_you_mean else { return message.offer("Services", "services") };
    let git_ref = wanted.git_ref.as_ref().map(|git_ref| format!(" {git_ref}")).unwrap_or_default();
    let sandbox = wanted.sandbox.as_ref().map(|sandbox| format!(" to {sandbox}")).unwrap_or_default();
    message.offer("Deploy", format!("deploy {meant}{git_ref}{sandbox}"))
}

/// No service has its code at that address.
#[must_use]
pub fn no_service_at(address: &RepoAddress) -> Message {
    let title = Text::new().plain("No service has its code at ").code(address.to_string()).plain(".");
    Message::new(Tone::Bad, title).offer("Services", "services")
}

/// Several services have their code at that address.
#[must_use]
pub fn several_services_at(address: &RepoAddress, services: &[ServiceName]) -> Message {
    let title =
        Text::new().plain("Several services have their code at ").code(address.to_string()).plain(".");
    let names = services.iter().map(ServiceName::as_str).collect::<Vec<_>>().join(", ");
    Message::new(Tone::Bad, title).line(Text::new().dim("next ").plain(format!("name one of {names}")))
}

/// Nobody is named, so no sandbox is their own.
#[must_use]
pub fn which_sandbox() -> Message {
    Message::new(Tone::Bad, Text::from("Which sandbox? This token belongs to nobody who has one."))
        .line(Text::new().dim("next ").plain("say to <sandbox>, or name a person: --as <person>"))
}

/// Nothing was ever deployed there.
#[must_use]
pub fn never_deployed(service: &ServiceName, sandbox: &SandboxName) -> Message {
    Message::new(Tone::Bad, Text::new().plain(format!("{service} was never deployed to {sandbox}.")))
        .offer("Deploy", format!("deploy {service} to {sandbox}"))
}

/// Nothing succeeded there yet.
#[must_use]
pub fn nothing_to_go_back_to(service: &ServiceName, sandbox: &SandboxName) -> Message {
    let title =
        format!("No deployment of {service} to {sandbox} has succeeded yet; there is nothing to go back to.");
    Message::new(Tone::Bad, Text::new().plain(title))
}

/// Nothing is under way.
#[must_use]
pub fn nothing_to_cancel(service: &ServiceName, sandbox: &SandboxName) -> Message {
    let title = format!("Nothing of {service} is under way in {sandbox}.");
    Message::new(Tone::Bad, Text::new().plain(title)).offer("Status", format!("status {sandbox}"))
}

/// It is being cancelled, or had ended before.
#[must_use]
pub fn cancelling(deployment: &Deployment) -> Message {
    match deployment.outcome() {
        None => Message::new(
            Tone::Working,
            heading(deployment)
                .plain(": cancelling; it is said here when everything that it started is gone"),
        ),
        Some(Outcome::Cancelled { .. }) => Message::new(Tone::Over, heading(deployment).plain(": cancelled")),
        Some(outcome) => Message::new(
            Tone::Note,
            heading(deployment).plain(format!(": it had already {}", ended(outcome))),
        ),
    }
}

fn ended(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Succeeded {} => "succeeded",
        Outcome::Failed { .. } => "failed",
        Outcome::Cancelled { .. } => "been cancelled",
        Outcome::Superseded { .. } => "been superseded",
        _ => "ended",
    }
}

/// An instance is being stopped.
#[must_use]
pub fn stopping(instance: &Instance) -> Message {
    let (service, sandbox) = (&instance.service, &instance.sandbox);
    // One that was down is over at once.
    let is = if instance.state.is_over() { "is stopped" } else { "is being stopped" };
    let title = format!("{service} in {sandbox} {is}; {sandbox}'s requests for it go to the baseline.");
    Message::new(Tone::Good, Text::new().plain(title))
        .offer("Redeploy", format!("redeploy {service} in {sandbox}"))
}

/// Nothing of a deployment runs.
#[must_use]
pub fn nothing_runs_of(deployment: &Deployment) -> Message {
    let number = deployment.number;
    let message = Message::new(Tone::Bad, Text::new().plain(format!("Nothing of #{number} runs.")));
    if deployment.is_ended() {
        message.offer("Redeploy", format!("redeploy {number}"))
    } else {
        message.line(Text::new().plain("It is still under way.")).offer("Cancel", format!("cancel {number}"))
    }
}

/// Nothing of a service runs in a sandbox, but something may be under way.
#[must_use]
pub fn nothing_runs(service: &ServiceName, sandbox: &SandboxName, under_way: Option<&Deployment>) -> Message {
    let title = format!("{service} does not run in {sandbox}; its requests go to the baseline.");
    let message = Message::new(Tone::Bad, Text::new().plain(title));
    match under_way {
        Some(deployment) => message
            .line(heading(deployment).plain(" is under way"))
            .offer("Cancel", format!("cancel {}", deployment.number)),
        None => message.offer("Deploy", format!("deploy {service} to {sandbox}")),
    }
}

/// Where a deployment stands; `left`: the instance that it left running, as it is now.
#[must_use]
pub fn deployment_status(view: &DeploymentView, left: Option<&Instance>, now: Timestamp) -> Message {
    let thread = {
        let mut thread = crate::thread::Thread::new(
            view.deployment.clone(),
            view.log_url.clone(),
            std::collections::BTreeSet::new(),
        );
        thread.facts.queue_position = view.queue_position;
        thread.facts.behind.clone_from(&view.behind);
        thread.facts.starts_in_seconds = view.starts_in_seconds;
        thread.facts.waiting_for.clone_from(&view.waiting_for);
        if let Some(left) = left {
            thread.instance_is(left);
        }
        thread
    };
    let message = thread.root(now);
    match view.deployment.outcome() {
        Some(Outcome::Failed { failure }) => {
            let sentence = failure.reason.sentence();
            let detail = beyond_the_reason(failure)
                .map_or_else(|| sentence.to_owned(), |detail| format!("{sentence}: {detail}"));
            message
                .line(Text::new().plain(detail))
                .line(Text::new().dim("next ").plain(failure.reason.hint()))
        }
        _ => match left {
            Some(left) if down::broke(&left.state).is_some() => message.block(&left.last_lines),
            _ => message,
        },
    }
}

/// One's own sandbox, before anything was deployed to it.
#[must_use]
pub fn sandbox_not_yet(sandbox: &SandboxName) -> Message {
    let title = format!("Your sandbox {sandbox} is made when you first deploy to it.");
    Message::new(Tone::Plain, Text::new().plain(title)).offer("Services", "services")
}

/// What runs in a sandbox and what is under way: a list to paste.
#[must_use]
pub fn sandbox(view: &SandboxView, under_way: &[Deployment], branches: &Branches, now: Timestamp) -> Message {
    let owner = &view.sandbox.owner;
    let title = Text::new().strong(&view.sandbox.name).dim(format!(" of {owner}"));
    let mut message = Message::new(Tone::Plain, title);
    for instance in view.instances.iter().take(MAX_ROWS) {
        message = message.line(instance_row(instance, instance.service.as_str(), branches, now));
        if let Some(url) = instance.url.as_ref().filter(|_| serves(&instance.state)) {
            message = message.line(Text::new().plain("  ").link(url));
        }
        if down::broke(&instance.state).is_some() {
            message = down::in_a_list(message, instance, branches.get(&instance.deployment));
        }
    }
    for deployment in under_way {
        let state = match &deployment.state {
            State::Running { step } => format!(": {step}"),
            _ => ": queued".to_owned(),
        };
        message = message.line(heading(deployment).plain(state));
    }
    if view.instances.is_empty() && under_way.is_empty() {
        message = message.line(Text::from("nothing runs here; all requests go to the baseline"));
    }
    more(message, view.instances.len())
}

pub(super) fn more(message: Message, rows: usize) -> Message {
    match rows.checked_sub(MAX_ROWS) {
        None | Some(0) => message,
        Some(left) => message.line(Text::new().dim(format!("and {left} more"))),
    }
}

fn instance_row(instance: &Instance, name: &str, branches: &Branches, now: Timestamp) -> Text {
    let text = Text::new().strong(name).plain(" ");
    let text = match branches.get(&instance.deployment) {
        Some(deployment) => text.code(&deployment.git_ref).plain(" "),
        None => text,
    };
    let text = text.code(instance.commit.short()).plain(" ");
    if let Some(reason) = down::broke(&instance.state) {
        return text.strong("DOWN").plain(format!(": {reason}"));
    }
    let text = text.plain(state_word(&instance.state));
    let text = match &instance.unhealthy {
        Some(unhealthy) => text.plain(format!(" ({})", unhealthy.detail)),
        None => text,
    };
    let text = if serves(&instance.state) {
        text.dim(format!(" for {}", ago(instance.started_at, now)))
    } else {
        text
    };
    match down::restarted(instance.restarts, instance.last_restart.as_ref()) {
        Some(restarted) => text.plain(format!(", {restarted}")),
        None => text,
    }
}

/// Whether its address leads to it.
pub(super) fn serves(state: &InstanceState) -> bool {
    matches!(state, InstanceState::Live {} | InstanceState::Unhealthy {})
}

/// `1 branch`, `2 branches`.
pub(super) fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

pub(super) fn state_word(state: &InstanceState) -> &'static str {
    match state {
        InstanceState::Starting {} => "starting",
        InstanceState::Live {} => "running",
        InstanceState::Unhealthy {} => "unhealthy",
        InstanceState::Draining { .. } => "being replaced",
        InstanceState::Stopped { .. } => "stopped",
        InstanceState::Lost {} => "lost",
        _ => "unknown",
    }
}

pub(super) fn ago(then: Timestamp, now: Timestamp) -> String {
    duration(now.duration_since(then).try_into().unwrap_or(Duration::ZERO))
}

/// Which sandboxes there are.
#[must_use]
pub fn list(sandboxes: &[SandboxView], all: bool, now: Timestamp) -> Message {
    if sandboxes.is_empty() {
        let title = if all { "There is no sandbox yet." } else { "You have no sandbox yet." };
        return Message::new(Tone::Plain, Text::from(title))
            .line(Text::from("one is made when you first deploy: deploy <service> <branch>"));
    }
    let title = match (sandboxes.len(), all) {
        (1, true) => "1 sandbox".to_owned(),
        (n, true) => format!("{n} sandboxes"),
        (1, false) => "your sandbox".to_owned(),
        (n, false) => format!("your {n} sandboxes"),
    };
    let mut message = Message::new(Tone::Plain, Text::new().plain(title));
    for view in sandboxes.iter().take(MAX_ROWS) {
        let mut row = Text::new().strong(&view.sandbox.name);
        if all {
            row = row.dim(format!(" of {}", view.sandbox.owner));
        }
        let running: Vec<String> = view
            .instances
            .iter()
            .map(|instance| format!("{} {}", instance.service, instance.commit.short()))
            .collect();
        row = if running.is_empty() {
            row.plain(": nothing runs")
        } else {
            row.plain(format!(": {}", running.join(", ")))
        };
        if view.sandbox.environment != sdp_core::catalog::environment::default_name() {
            row = row.dim(format!(" · in {}", view.sandbox.environment));
        }
        row = row.dim(match view.sandbox.expires_at {
            Some(end) => format!(" · ends in {}", super::places::left(end, now)),
            None => " · kept".to_owned(),
        });
        message = message.line(match view.locks.first() {
            Some(lock) => row.strong(" · locked").plain(format!(" by {}", lock.owner)),
            None => row,
        });
    }
    more(message, sandboxes.len())
}

/// Who has a service in their sandbox.
#[must_use]
pub fn who(
    service: &ServiceName,
    instances: &[Instance],
    sandboxes: &[SandboxView],
    branches: &Branches,
    now: Timestamp,
) -> Message {
    if instances.is_empty() {
        let title = format!("Nobody has {service} in a sandbox; all its requests go to the baseline.");
        return Message::new(Tone::Plain, Text::new().plain(title))
            .offer("Deploy", format!("deploy {service}"));
    }
    let mut message = Message::new(Tone::Plain, Text::new().strong(service).plain(" runs in"));
    for instance in instances.iter().take(MAX_ROWS) {
        let row = instance_row(instance, instance.sandbox.as_str(), branches, now);
        let owner = sandboxes.iter().find(|view| view.sandbox.name == instance.sandbox);
        message = message.line(match owner {
            Some(view) => {
                let row = row.dim(format!(" · {}", view.sandbox.owner));
                let row = match view.sandbox.expires_at {
                    Some(end) => row.dim(format!(" · ends in {}", super::places::left(end, now))),
                    None => row,
                };
                let lock =
                    view.locks.iter().find(|lock| lock.place.service.as_ref().is_none_or(|of| of == service));
                match lock {
                    Some(lock) => row.strong(" · locked").plain(format!(" by {}", lock.owner)),
                    None => row,
                }
            }
            None => row,
        });
    }
    more(message, instances.len())
}

/// Where a service answers.
#[must_use]
pub fn where_is(service: &Service, instances: &[Instance]) -> Message {
    let mut message = Message::new(Tone::Plain, Text::new().strong(&service.name).plain(" answers at"));
    message = message.line(match &service.baseline {
        Some(url) => Text::new().dim("baseline ").link(url),
        None => Text::new().dim("baseline ").plain("none; without a sandbox its requests fail"),
    });
    for instance in instances.iter().take(MAX_ROWS) {
        let row = Text::new().strong(&instance.sandbox).plain(" ");
        message = message.line(match (&instance.url, down::broke(&instance.state)) {
            (_, Some(reason)) => row.strong("DOWN").plain(format!(": {reason}")),
            (Some(url), None) => row.link(url),
            (None, None) => row.plain(state_word(&instance.state)),
        });
    }
    more(message, instances.len())
}

/// The address of a running service.
#[must_use]
pub fn open(instance: &Instance) -> Message {
    let text = Text::new().strong(format!("{} in {}", instance.service, instance.sandbox)).plain(" ");
    match &instance.url {
        Some(url) => Message::new(Tone::Plain, text.link(url)).open("Open", url),
        None => Message::new(
            Tone::Waiting,
            text.plain("has no address yet: it is ").plain(state_word(&instance.state)),
        ),
    }
}

/// The end of a build's log.
#[must_use]
pub fn build_log(view: &DeploymentView, window: &LogWindow) -> Message {
    let lines = window.lines.len();
    let title = heading(&view.deployment).dim(format!(
        ": the last {lines} of {}",
        count(window.total.try_into().unwrap_or(usize::MAX), "line", "lines")
    ));
    Message::new(Tone::Plain, title)
        .line(Text::new().dim("log ").link(&view.log_url))
        .block(window.lines.iter().map(|line| &line.text))
        .open("Log", &view.log_url)
}

/// A sandbox was deleted.
#[must_use]
pub fn sandbox_deleted(view: &SandboxView) -> Message {
    let name = &view.sandbox.name;
    let title = match view.instances.len() {
        0 => format!("Sandbox {name} is deleted; nothing ran in it."),
        1 => format!("Sandbox {name} is deleted; the service that ran in it is being stopped."),
        n => format!("Sandbox {name} is deleted; the {n} services that ran in it are being stopped."),
    };
    let message = Message::new(Tone::Good, Text::new().plain(title));
    view.instances.iter().take(MAX_ROWS).fold(message, |message, instance| {
        message.line(Text::new().plain(&instance.service).plain(" ").code(instance.commit.short()))
    })
}

/// Which services there are.
#[must_use]
pub fn services(services: &[Service]) -> Message {
    if services.is_empty() {
        return Message::new(Tone::Plain, Text::from("There is no service in the catalog yet.")).line(
            Text::new().dim("next ").plain("an administrator adds them: sdp-server apply catalog.toml"),
        );
    }
    let message = Message::new(Tone::Plain, Text::new().plain(count(services.len(), "service", "services")));
    let message = services.iter().take(MAX_ROWS).fold(message, |message, service| {
        let row = Text::new().strong(&service.name).plain(" ").code(&service.default_branch);
        message.line(row.dim(format!(" · {}", service.repo)))
    });
    more(message, services.len())
}

/// Branches and tags of a service.
#[must_use]
pub fn branches(service: &ServiceName, text: Option<&str>, list: &BranchList) -> Message {
    let with = text.map(|text| format!(" with “{text}” in the name")).unwrap_or_default();
    if list.branches.is_empty() && list.tags.is_empty() {
        return Message::new(
            Tone::Plain,
            Text::new().plain(format!("{service} has no branch or tag{with}.")),
        );
    }
    let title = format!(
        "{} and {}{with}",
        count(list.branches.len(), "branch", "branches"),
        count(list.tags.len(), "tag", "tags")
    );
    let mut message = Message::new(Tone::Plain, Text::new().strong(service).plain(" has ").plain(title));
    let tags = list.tags.iter().map(|tag| (tag, "tag "));
    for (found, kind) in list.branches.iter().map(|branch| (branch, "")).chain(tags).take(MAX_ROWS) {
        let row = Text::new().dim(kind).code(&found.name).plain(" ").dim(found.commit.short());
        let is_head = kind.is_empty() && list.head.as_deref() == Some(found.name.as_str());
        message = message.line(if is_head { row.dim(" · the repository's default") } else { row });
    }
    more(message, list.branches.len() + list.tags.len())
}
