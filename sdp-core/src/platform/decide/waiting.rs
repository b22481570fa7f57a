//! Why a deployment waits, in the words of people who wait too. Pure; said by page, chat and REST beside its place in the queue.
//!
//! The order is that of `waiting_due`: what it says is what must change for the deployment to go on.

use jiff::Timestamp;

use super::{Load, World, fits, no_agent_detail};
use crate::id::DeploymentId;
use crate::platform::world::{Agent, Open};

/// What it waits for, as a clause; none if it does not wait.
pub(in crate::platform) fn waiting_for(world: &World, id: DeploymentId, now: Timestamp) -> Option<String> {
    let open = world.open_by_id(id)?;
    match &open.deployment.agent {
        None if open.cancel_asked.is_some() => None,
        None => queued(world, open, now),
        Some(_) if open.is_ready() => {
            (world.routers().count() == 0).then(|| "no router is connected".to_owned())
        }
        Some(agent) => {
            let away = world.agents.get(agent).is_none_or(|known| !known.connected);
            away.then(|| format!("agent {agent}, which works on it, is away"))
        }
    }
}

fn queued(world: &World, open: &Open, now: Timestamp) -> Option<String> {
    let fitting: Vec<&Agent> = world.agents.values().filter(|agent| fits(agent, open)).collect();
    let connected: Vec<&Agent> = fitting.iter().copied().filter(|agent| agent.connected).collect();
    if connected.is_empty() {
        return Some(match fitting.as_slice() {
            [] => no_agent_detail(world, open),
            [one] => format!("agent {} is away", one.row.name),
            several => format!("agents {} are away", names(several)),
        });
    }
    let first = world.open.values().find(|other| {
        other.deployment.agent.is_some() && open.is_in(&other.deployment.sandbox, &other.deployment.service)
    });
    if let Some(first) = first {
        let (service, sandbox) = (&open.deployment.service, &open.deployment.sandbox);
        return Some(format!("{service} in {sandbox} is being deployed (#{})", first.deployment.number));
    }
    let (drained, connected): (Vec<&Agent>, Vec<&Agent>) =
        connected.into_iter().partition(|agent| agent.row.draining);
    if connected.is_empty() {
        return Some(match drained.as_slice() {
            [one] => format!("its agent {} is being drained", one.row.name),
            several => format!("its agents {} are being drained", names(several)),
        });
    }
    let load = Load::of(world);
    let sound = connected.iter().copied().filter(|agent| agent.degraded.is_none());
    let (asked, resting): (Vec<&Agent>, Vec<&Agent>) = sound.partition(|agent| agent.is_fit(now));
    if asked.iter().any(|agent| load.room(agent) > 0) {
        // Its turn is now.
        return None;
    }
    if !asked.is_empty() {
        let ahead = world.queue_position(open.deployment.id).map_or(0, |position| position.saturating_sub(1));
        let busy = match asked.as_slice() {
            [one] => {
                format!("agent {} has all the work that it does at once ({})", one.row.name, one.row.capacity)
            }
            several => format!("agents {} have all the work that they do at once", names(several)),
        };
        return Some(match ahead {
            0 => busy,
            1 => format!("{busy}; 1 deployment is ahead of it"),
            n => format!("{busy}; {n} deployments are ahead of it"),
        });
    }
    if let [agent, ..] = resting.as_slice() {
        let why = agent.unfit.as_ref().map_or("", |unfit| unfit.why.as_str());
        return Some(format!("agent {} gave it back: {why} (it is asked again soon)", agent.row.name));
    }
    let why = |agent: &Agent| agent.degraded.clone().unwrap_or_default();
    connected.first().map(|agent| format!("agent {} is degraded: {}", agent.row.name, why(agent)))
}

fn names(agents: &[&Agent]) -> String {
    agents.iter().map(|agent| agent.row.name.as_str()).collect::<Vec<_>>().join(", ")
}
