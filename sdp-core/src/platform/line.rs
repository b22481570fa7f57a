//! Where a deployment stands in the queue: behind whom, and until when. Pure.
//!
//! Asked by whoever shows a queued deployment. The estimate takes the queue as it is worked off: each place at an agent that
//! could do the deployment becomes free when what it works on has taken as long as such a deployment usually takes.

use std::time::Duration;

use jiff::Timestamp;

use super::decide::fits;
use super::world::{Open, World};
use crate::api::Ahead;
use crate::id::DeploymentId;
use crate::name::ServiceName;

/// The queue before one deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its place, from 1.
    pub position: u32,
    /// The one right before it.
    pub behind: Option<Ahead>,
    /// Those before it, in order.
    waiting: Vec<ServiceName>,
    /// What the agents that could do it work on, and for how long already.
    at_work: Vec<(ServiceName, Duration)>,
    /// How much those agents do at once.
    places: u32,
}

impl Line {
    /// None: it does not wait for an agent.
    pub(crate) fn of(world: &World, id: DeploymentId, now: Timestamp) -> Option<Self> {
        let open = world.open_by_id(id).filter(|open| open.deployment.agent.is_none())?;
        let before: Vec<&Open> = world
            .open
            .range(..open.deployment.number)
            .map(|(_, before)| before)
            .filter(|before| before.deployment.agent.is_none())
            .collect();
        let could = |agent: &&super::world::Agent| {
            agent.connected && !agent.row.draining && agent.degraded.is_none() && fits(agent, open)
        };
        let agents: Vec<_> = world.agents.values().filter(could).collect();
        let at_work = world.open.values().filter(|other| {
            !other.is_ready()
                && agents.iter().any(|agent| other.deployment.agent.as_ref() == Some(&agent.row.name))
        });
        let so_far = |open: &Open| {
            let began = open.deployment.steps.first().map_or(now, |first| first.started_at);
            Duration::try_from(now.duration_since(began)).unwrap_or_default()
        };
        Some(Self {
            position: u32::try_from(before.len() + 1).unwrap_or(u32::MAX),
            behind: before.last().map(|before| Ahead {
                number: before.deployment.number,
                service: before.deployment.service.clone(),
                sandbox: before.deployment.sandbox.clone(),
                requested_by: before.deployment.requested_by.clone(),
            }),
            waiting: before.iter().map(|before| before.deployment.service.clone()).collect(),
            at_work: at_work.map(|open| (open.deployment.service.clone(), so_far(open))).collect(),
            places: agents.iter().fold(0, |places, agent| places.saturating_add(agent.row.capacity)),
        })
    }

    /// Services of which it has to be known how long they usually take.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.at_work.iter().map(|(service, _)| service).chain(&self.waiting)
    }

    /// In how long it will probably be begun; none if that cannot be told. `usual`: how long a service usually takes.
    #[must_use]
    pub fn starts_in(&self, usual: impl Fn(&ServiceName) -> Option<Duration>) -> Option<Duration> {
        let places = usize::try_from(self.places).ok().filter(|places| *places > 0)?;
        let mut free_in = Vec::new();
        for (service, so_far) in &self.at_work {
            free_in.push(usual(service)?.saturating_sub(*so_far));
        }
        free_in.resize(free_in.len().max(places), Duration::ZERO);
        for service in &self.waiting {
            let next = free_in.iter_mut().min()?;
            *next += usual(service)?;
        }
        free_in.into_iter().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(waiting: &[&str], at_work: &[(&str, u64)], places: u32) -> Line {
        let name = |name: &str| -> ServiceName { name.parse().expect("valid") };
        Line {
            position: 1,
            behind: None,
            waiting: waiting.iter().map(|service| name(service)).collect(),
            at_work: at_work.iter().map(|(s, secs)| (name(s), Duration::from_secs(*secs))).collect(),
            places,
        }
    }

    #[test]
    fn it_begins_when_a_place_has_become_free_and_those_before_it_have_theirs() {
        let usual = |service: &ServiceName| match service.as_str() {
            "short" => Some(Duration::from_secs(10)),
            "long" => Some(Duration::from_secs(60)),
            _ => None,
        };
        for (waiting, at_work, places, wanted) in [
            (&[][..], &[][..], 1, Some(0)),
            (&[], &[("long", 20)], 1, Some(40)),
            (&[], &[("long", 90)], 1, Some(0)),
            (&["short"], &[("long", 20)], 1, Some(50)),
            (&["short"], &[("long", 20), ("short", 5)], 2, Some(15)),
            (&["short", "long"], &[("long", 20), ("short", 5)], 2, Some(40)),
            (&["novel"], &[("long", 20)], 1, None),
            (&[], &[("novel", 20)], 1, None),
            (&[], &[], 0, None),
        ] {
            let starts = line(waiting, at_work, places).starts_in(usual);
            assert_eq!(starts, wanted.map(Duration::from_secs), "{waiting:?} {at_work:?} {places}");
        }
    }
}
