//! What somebody's home says: who they are, what is theirs, what one can do about it.
//!
//! Called by chats that have a home for each person. Pure. Times are coarse, so that a home changes when something happened and
//! not because a second went by.

use jiff::Timestamp;
use sdp_core::api::{Deployment, Instance, Me, SandboxView};
use sdp_core::deployment::{Outcome, State};
use sdp_core::sandbox::InstanceState;

use super::deployment::{again, heading};
use super::{Message, Tone, answer, down, login};
use crate::text::Text;

/// Who they are.
#[must_use]
pub fn who(me: &Me) -> Message {
    let message = match me.principal.as_person() {
        Some(person) => Message::new(Tone::Plain, Text::new().plain("You are ").strong(person).plain(".")),
        None => {
            let title = "You are not logged in: you may look but not act.";
            let message = Message::new(Tone::Plain, Text::from(title));
            return match me.login {
                true => message.line(login::how()).offer("Log in", "login"),
                false => message.line(login::ask_an_admin()),
            };
        }
    };
    message
        .line(Text::new().dim("your sandbox ").strong(&me.own_sandbox))
        .line(Text::new().dim("you may ").plain(login::may(me.role)))
}

/// They have no sandbox.
#[must_use]
pub fn no_sandbox() -> Message {
    Message::new(Tone::Plain, Text::from("You have no sandbox yet. One is made when you first deploy."))
}

/// One of their sandboxes.
#[must_use]
pub fn sandbox(view: &SandboxView, now: Timestamp) -> Message {
    let name = &view.sandbox.name;
    let ends = match view.sandbox.expires_at {
        Some(end) if end > now => format!("ends in {}", coarse(now, end)),
        Some(_) => "ends now".to_owned(),
        None => "kept".to_owned(),
    };
    let title = Text::new()
        .strong(name)
        .dim(format!(" · {ends} · made {} ago", coarse(view.sandbox.created_at, now)));
    let message = view.locks.iter().take(3).fold(Message::new(Tone::Plain, title), |message, lock| {
        let text = Text::new().strong("locked").plain(format!(" {} by {}: ", lock.place, lock.owner));
        message.line(text.plain(&lock.reason))
    });
    let message = match view.instances.is_empty() {
        true => message.line(Text::from("Nothing runs here; all its requests go to the baseline.")),
        false => message,
    };
    message
        .offer("Extend", format!("sandbox extend {name}"))
        .offer("Delete sandbox", format!("sandbox delete {name}"))
}

/// What runs in it, or is down; `of`: the deployment that started it.
#[must_use]
pub fn instance(instance: &Instance, of: Option<&Deployment>, now: Timestamp) -> Message {
    let (service, sandbox) = (&instance.service, &instance.sandbox);
    let title = Text::new().strong(service).plain(" ");
    let title = match of {
        Some(deployment) => title.code(&deployment.git_ref).plain(" "),
        None => title,
    };
    let title = title.code(instance.commit.short()).plain(" ");
    let since = coarse(instance.started_at, now);
    let broke = down::broke(&instance.state);
    let (tone, title) = match (&instance.state, &broke, &instance.unhealthy) {
        (_, Some(reason), _) => (Tone::Bad, title.strong("DOWN").plain(format!(": {reason}"))),
        (InstanceState::Unhealthy {}, _, Some(why)) => {
            (Tone::Bad, title.strong("unhealthy").plain(format!(": {}", why.detail)))
        }
        (InstanceState::Unhealthy {}, ..) => (Tone::Bad, title.strong("unhealthy")),
        (InstanceState::Live {}, ..) => (Tone::Good, title.strong("running").dim(format!(" for {since}"))),
        (InstanceState::Starting {}, ..) => (Tone::Working, title.strong("starting")),
        (state, ..) => (Tone::Over, title.strong(answer::state_word(state))),
    };
    let title = match down::restarted(instance.restarts, instance.last_restart.as_ref()) {
        Some(restarted) if broke.is_none() => title.plain(format!(", {restarted}")),
        _ => title,
    };
    let mut message = Message::new(tone, title);
    if let Some(url) = instance.url.as_ref().filter(|_| answer::serves(&instance.state)) {
        message = message.line(Text::new().link(url)).open("Open", url);
    }
    let on = of.map_or_else(|| format!("{service} in {sandbox}"), |of| of.number.to_string());
    let message = message
        .offer("Logs", format!("logs {service} in {sandbox}"))
        .offer("Redeploy", format!("redeploy {on}"));
    if tone == Tone::Over {
        return message;
    }
    message
        .offer("Roll back", format!("rollback {service} in {sandbox}"))
        .offer("Stop", format!("stop {service} in {sandbox}"))
}

/// One of the deployments in their sandboxes.
#[must_use]
pub fn deployment(deployment: &Deployment, now: Timestamp) -> Message {
    let number = deployment.number;
    let title = heading(deployment).plain(": ");
    let ago = deployment.ended_at.map(|end| format!(" {} ago", coarse(end, now))).unwrap_or_default();
    let (tone, title) = match &deployment.state {
        _ if !deployment.is_ended() && deployment.cancel_requested_by.is_some() => {
            (Tone::Working, title.strong("cancelling"))
        }
        State::Queued {} => (Tone::Waiting, title.strong("queued")),
        State::Running { step } => (Tone::Working, title.strong(super::deployment::doing(*step))),
        State::Ended { outcome: Outcome::Succeeded {} } => (Tone::Good, title.strong("succeeded").dim(ago)),
        State::Ended { outcome: Outcome::Failed { failure } } => {
            (Tone::Bad, title.then(super::deployment::failed(failure)).dim(ago))
        }
        State::Ended { outcome: Outcome::Superseded { number, .. } } => {
            (Tone::Over, title.strong("superseded").plain(format!(" by #{number}")).dim(ago))
        }
        State::Ended { outcome } => (Tone::Over, title.strong(outcome.code()).dim(ago)),
        _ => (Tone::Working, title.strong("working")),
    };
    let message = Message::new(tone, title);
    let message = match deployment.outcome() {
        Some(Outcome::Failed { failure }) => message.line(Text::new().plain(failure.reason.sentence())),
        _ => message,
    };
    let message = message.offer("Log", format!("logs {number}"));
    match deployment.outcome() {
        None if deployment.cancel_requested_by.is_some() => message,
        None => message.offer("Cancel", format!("cancel {number}")),
        Some(Outcome::Failed { failure }) => again(message, deployment, Some(failure)),
        Some(Outcome::Cancelled { .. }) => again(message, deployment, None),
        Some(_) => message,
    }
}

/// Nothing was deployed yet.
#[must_use]
pub fn no_deployment() -> Message {
    Message::new(Tone::Plain, Text::from("Nothing was deployed to your sandboxes yet."))
}

/// There are more than are shown.
#[must_use]
pub fn more(left: usize) -> Message {
    Message::new(Tone::Plain, Text::new().dim(format!("and {left} more")))
}

/// How long ago, in the largest unit alone.
fn coarse(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs().max(0);
    let (n, one, many) = match seconds {
        0..60 => return "less than a minute".to_owned(),
        60..3600 => (seconds / 60, "minute", "minutes"),
        3600..86_400 => (seconds / 3600, "hour", "hours"),
        _ => (seconds / 86_400, "day", "days"),
    };
    answer::count(usize::try_from(n).unwrap_or(usize::MAX), one, many)
}
