//! What is down: instances that ended by themselves, for which the router answers with an error and not from the baseline.
//!
//! Called by [`crate::answer`] and [`super::answer`]. The rule is that of [`sdp_core::routing::route_table`]: what is said
//! here and what the router does are the same. Pure.

use std::collections::HashMap;

use sdp_core::api::{Deployment, Instance};
use sdp_core::sandbox::{InstanceState, LastRestart, StopReason};

use super::{Message, Tone};
use crate::text::Text;

/// How many of its last lines are shown in a list.
const LINES_IN_A_LIST: usize = 3;

/// Why it broke, as a clause; none: it serves, is on its way, or was stopped on purpose.
#[must_use]
pub fn broke(state: &InstanceState) -> Option<String> {
    match state {
        InstanceState::Lost {} => Some("its agent is gone".to_owned()),
        InstanceState::Stopped { reason } => why(reason),
        _ => None,
    }
}

/// Why it does not run, or did not for a while, as a clause; none: somebody wanted that.
#[must_use]
pub fn why(reason: &StopReason) -> Option<String> {
    match reason {
        StopReason::Crashed { out_of_memory: true, .. } => Some("it ran out of memory".to_owned()),
        StopReason::Crashed { exit_code: Some(code), .. } => Some(format!("it crashed (exit code {code})")),
        StopReason::Crashed { signal: Some(signal), .. } => Some(format!("it crashed (signal {signal})")),
        StopReason::Crashed { .. } => Some("it crashed".to_owned()),
        StopReason::AgentRestarted {} => Some("its agent was restarted".to_owned()),
        StopReason::EngineRestarted {} => Some("its container engine was restarted".to_owned()),
        StopReason::NotStarted { detail } => Some(format!("it could not be started again: {detail}")),
        _ => None,
    }
}

/// How often it was started again, and why at last: `restarted twice: it ran out of memory`; none: never.
#[must_use]
pub fn restarted(times: u32, last: Option<&LastRestart>) -> Option<String> {
    let times = so_often(times)?;
    let why = last.and_then(|last| why(&last.reason)).map(|why| format!(": {why}")).unwrap_or_default();
    Some(format!("restarted {times}{why}"))
}

/// `once`, `twice`, `3 times`; none: never.
pub(super) fn so_often(times: u32) -> Option<String> {
    match times {
        0 => None,
        1 => Some("once".to_owned()),
        2 => Some("twice".to_owned()),
        n => Some(format!("{n} times")),
    }
}

/// Those that are down: nothing serves in their place, and nobody stopped that place on purpose since.
#[must_use]
pub fn down(instances: &[Instance]) -> Vec<Instance> {
    let mut places: HashMap<_, &Instance> = HashMap::new();
    for instance in instances.iter().filter(|instance| decides(&instance.state)) {
        let place = places.entry((&instance.sandbox, &instance.service)).or_insert(instance);
        if (serves(&instance.state), instance.id) > (serves(&place.state), place.id) {
            *place = instance;
        }
    }
    let is_down = |instance: &&Instance| {
        broke(&instance.state).is_some()
            && places
                .get(&(&instance.sandbox, &instance.service))
                .is_some_and(|place| place.id == instance.id)
    };
    instances.iter().filter(is_down).cloned().collect()
}

fn serves(state: &InstanceState) -> bool {
    matches!(state, InstanceState::Live {} | InstanceState::Unhealthy {})
}

/// Whether it has a say in where requests go.
fn decides(state: &InstanceState) -> bool {
    match state {
        InstanceState::Stopped { reason } => reason.is_on_purpose() || broke(state).is_some(),
        InstanceState::Draining { reason } => reason.is_on_purpose(),
        state => serves(state) || broke(state).is_some(),
    }
}

/// Those that are not over, and those that are down.
#[must_use]
pub fn present(instances: &[Instance]) -> Vec<Instance> {
    let mut present: Vec<Instance> =
        instances.iter().filter(|instance| !instance.state.is_over()).cloned().collect();
    present.extend(down(instances));
    present
}

/// What is said about one that is down, beside its row.
pub(super) fn in_a_list(message: Message, instance: &Instance, of: Option<&Deployment>) -> Message {
    let skipped = instance.last_lines.len().saturating_sub(LINES_IN_A_LIST);
    let message = instance.last_lines[skipped..]
        .iter()
        .fold(message, |message, line| message.line(Text::new().dim("  | ").plain(line.trim_end())));
    next(message, "  ", instance, of)
}

/// One that is down, with its last lines.
#[must_use]
pub fn message(instance: &Instance, of: Option<&Deployment>, lines: usize) -> Message {
    let reason = broke(&instance.state).unwrap_or_else(|| "it ended".to_owned());
    let title = Text::new()
        .strong(format!("{} in {}", instance.service, instance.sandbox))
        .plain(" ")
        .code(instance.commit.short())
        .plain(" is ")
        .strong("DOWN")
        .plain(format!(": {reason}"));
    let skipped = instance.last_lines.len().saturating_sub(lines);
    next(Message::new(Tone::Bad, title), "", instance, of).block(&instance.last_lines[skipped..])
}

/// `redeploy 412` by number where that is known.
fn next(message: Message, indent: &str, instance: &Instance, of: Option<&Deployment>) -> Message {
    let (service, sandbox) = (&instance.service, &instance.sandbox);
    let on = of.map_or_else(|| format!("{service} in {sandbox}"), |deployment| deployment.number.to_string());
    let stop = format!("stop {service} in {sandbox}");
    message
        .line(
            Text::new()
                .dim(format!("{indent}next "))
                .code(format!("redeploy {on}"))
                .plain(" starts it again; ")
                .code(stop)
                .plain(" sends its requests to the baseline"),
        )
        .offer("Redeploy", format!("redeploy {on}"))
}
