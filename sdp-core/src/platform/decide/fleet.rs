//! What people do to agents: drain, resume, forget.
//!
//! A drained agent finishes what it has and gets no new job; its instances serve on, its router routes on, and it answers
//! questions. One that is forgotten is as if it had never been: its row, its token and its enrolment go in one transaction.

use super::super::PlatformError;
use super::super::input::Reply;
use super::super::world::World;
use super::commands::Verdict;
use super::{Act, cancelled, failed, lost};
use crate::event::{About, EventKind};
use crate::failure::FailureReason;
use crate::name::{AgentName, did_you_mean};
use crate::principal::Principal;

/// How many things of one kind a refusal names.
const NAMED: usize = 5;

fn about(agent: &AgentName) -> About {
    About { agent: Some(agent.clone()), ..About::default() }
}

pub(in crate::platform) fn unknown(world: &World, name: &AgentName) -> PlatformError {
    let known = world.agents.keys().map(AgentName::as_str);
    PlatformError::UnknownAgent {
        name: name.clone(),
        did_you_mean: did_you_mean(name.as_str(), known).map(str::to_owned),
    }
}

pub(super) fn drain(
    world: &World,
    by: &Principal,
    name: &AgentName,
    draining: bool,
) -> Result<Verdict, PlatformError> {
    let agent = world.agents.get(name).ok_or_else(|| unknown(world, name))?;
    let kind = if draining { EventKind::AgentDrained {} } else { EventKind::AgentResumed {} };
    let is_new = agent.row.draining != draining;
    let acts = is_new.then(|| Act::Event { by: by.clone(), about: about(name), kind });
    Ok(Verdict::Do(acts.into_iter().collect(), Reply::Done))
}

pub(super) fn forget(
    world: &World,
    by: &Principal,
    name: &AgentName,
    force: bool,
) -> Result<Verdict, PlatformError> {
    if !world.agents.contains_key(name) {
        return Err(unknown(world, name));
    }
    let open = || world.open.values().filter(|open| open.deployment.agent.as_ref() == Some(name));
    let running =
        || world.instances.values().filter(|r| r.instance.agent == *name && !r.instance.state.is_over());
    if !force && (open().next().is_some() || running().next().is_some()) {
        let deployments = listed(open().map(|open| format!("#{}", open.deployment.number)));
        // An instance of a deployment that has not ended is that one's.
        let instances = running().filter(|r| world.open_by_id(r.instance.deployment).is_none());
        let instances =
            listed(instances.map(|r| format!("{} in {}", r.instance.service, r.instance.sandbox)));
        let parts = [("deployments", deployments), ("instances", instances)];
        let parts = parts.into_iter().filter(|(_, list)| !list.is_empty());
        let has = parts.map(|(what, list)| format!("{what}: {list}")).collect::<Vec<_>>().join("; ");
        return Err(PlatformError::AgentInUse { name: name.clone(), has });
    }
    let mut acts: Vec<Act> =
        running().map(|running| Act::system(running.about(), lost(&running.instance.state))).collect();
    for open in open() {
        match open.cancel_asked {
            Some(_) => acts.push(cancelled(open)),
            None => acts.extend(failed(open, FailureReason::AgentLost, format!("{name} was removed"))),
        }
    }
    acts.push(Act::Event { by: by.clone(), about: about(name), kind: EventKind::AgentForgotten {} });
    Ok(Verdict::Forget { agent: name.clone(), acts })
}

fn listed(all: impl Iterator<Item = String>) -> String {
    let mut all: Vec<String> = all.collect();
    let more = all.len().saturating_sub(NAMED);
    all.truncate(NAMED);
    let list = all.join(", ");
    if more > 0 { format!("{list} and {more} more") } else { list }
}
