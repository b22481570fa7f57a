//! What becomes of instances without anybody's word: lost agents, and those that drain.

use jiff::Timestamp;

use super::super::PlatformConfig;
use super::super::world::{Note, Running, World};
use super::{Act, STOP_AGAIN, after, presence, stop_command};
use crate::event::EventKind;
use crate::sandbox::{InstanceState, StopReason};
use crate::wire::ToAgent;

fn stopped(reason: StopReason) -> EventKind {
    EventKind::InstanceStopped { reason, last_lines: Vec::new() }
}

/// What becomes of an instance whose agent is gone. What was to be stopped anyway, or never served, is not missed.
pub(super) fn lost(state: &InstanceState) -> EventKind {
    match state {
        InstanceState::Draining { reason } => stopped(reason.clone()),
        InstanceState::Starting {} => stopped(StopReason::DeploymentEnded {}),
        _ => EventKind::InstanceLost {},
    }
}

pub(super) fn drain(running: &Running, reason: StopReason) -> Act {
    Act::system(running.about(), EventKind::InstanceDraining { reason })
}

pub(super) fn instance_due(
    world: &World,
    running: &Running,
    limits: &PlatformConfig,
    now: Timestamp,
) -> Vec<Act> {
    let instance = &running.instance;
    if instance.state.is_over() {
        return Vec::new();
    }
    let (connected, since) = presence(world, &instance.agent, running.since);
    if !connected {
        let of_open = world.open_by_id(instance.deployment).is_some_and(|open| !open.is_ready());
        return if !of_open && now >= after(since, limits.lost_after) {
            vec![Act::system(running.about(), lost(&instance.state))]
        } else {
            Vec::new()
        };
    }
    match &instance.state {
        // Its deployment has ended without it: nobody else will stop it.
        InstanceState::Starting {} if world.open_by_id(instance.deployment).is_none() => {
            vec![drain(running, StopReason::DeploymentEnded {})]
        }
        InstanceState::Draining { .. } => {
            let routers = || world.routers_of(&instance.environment);
            let drained = routers().count() > 0
                && routers().all(|router| running.drained_by.contains(&router.row.name));
            let ask = match running.stop_sent {
                None => drained || !running.routed || now >= after(running.since, limits.drain_limit),
                Some(sent) => now >= after(sent, limits.ask_again * STOP_AGAIN),
            };
            if ask {
                let stop =
                    ToAgent::StopInstance { command: stop_command(instance.id, now), instance: instance.id };
                vec![Act::Note(Note::StopSent(instance.id, now)), Act::Send(instance.agent.clone(), stop)]
            } else {
                Vec::new()
            }
        }
        _ => Vec::new(),
    }
}

pub(super) fn instance_deadline(
    world: &World,
    running: &Running,
    limits: &PlatformConfig,
) -> Option<Timestamp> {
    if running.instance.state.is_over() {
        return None;
    }
    let (connected, since) = presence(world, &running.instance.agent, running.since);
    match (&running.instance.state, connected, running.stop_sent) {
        (_, false, _) => {
            let of_open = world.open_by_id(running.instance.deployment).is_some_and(|open| !open.is_ready());
            (!of_open).then(|| after(since, limits.lost_after))
        }
        (InstanceState::Draining { .. }, true, Some(sent)) => {
            Some(after(sent, limits.ask_again * STOP_AGAIN))
        }
        (InstanceState::Draining { .. }, true, None) => Some(after(running.since, limits.drain_limit)),
        _ => None,
    }
}
