//! What the routers must know, and which of them.

use std::collections::{BTreeMap, BTreeSet};

use url::Url;

use super::{Agent, Open, World};
use crate::catalog::{MatchRule, Service};
use crate::id::{InstanceId, RouteVersion};
use crate::name::{AgentName, EnvironmentName, SandboxName};
use crate::routing::{RouteTable, route_table, route_url, service_url};
use crate::sandbox::{Instance, InstanceState};
use crate::wire::JobPlace;

impl World {
    /// Agents with a router that are connected.
    pub(crate) fn routers(&self) -> impl Iterator<Item = &Agent> {
        self.agents.values().filter(|agent| agent.connected && agent.row.router.is_some())
    }

    /// Those of an environment.
    pub(crate) fn routers_of<'a>(
        &'a self,
        environment: &'a EnvironmentName,
    ) -> impl Iterator<Item = &'a Agent> {
        self.routers().filter(move |agent| self.serves(&agent.row.name, environment))
    }

    /// Whether an agent's router serves an environment.
    pub(crate) fn serves(&self, agent: &AgentName, environment: &EnvironmentName) -> bool {
        let named = self.environments.get(environment).and_then(|environment| environment.router.as_ref());
        named.is_none_or(|router| router == agent)
    }

    /// Which router each environment is to have.
    pub(super) fn wanted_routers(&self) -> BTreeMap<EnvironmentName, Option<AgentName>> {
        self.environments.values().map(|one| (one.name.clone(), one.router.clone())).collect()
    }

    /// Whether the routers are still those that the newest table was sent to.
    pub(crate) fn routers_are_the_same(&self) -> bool {
        self.table_routers == self.wanted_routers()
    }

    /// Where a sandbox is; `default` for one that there is not any more.
    pub(crate) fn environment_of(&self, sandbox: &SandboxName) -> EnvironmentName {
        let sandbox = self.sandboxes.get(sandbox);
        sandbox.map_or_else(crate::catalog::environment::default_name, |sandbox| sandbox.environment.clone())
    }

    /// The newest table, with what concerns this agent's router.
    pub(crate) fn table_for(&self, agent: &AgentName) -> RouteTable {
        let mut table = self.table.clone();
        table.environments.retain(|environment| self.serves(agent, &environment.name));
        table
    }

    /// The table as it must be now: an instance that waits for its switch counts as live.
    pub(crate) fn render_routes(&self) -> RouteTable {
        let switching: BTreeSet<InstanceId> = self
            .open
            .values()
            .filter(|open| open.is_ready() && open.cancel_asked.is_none())
            // Those of a batch are switched together.
            .filter(|open| open.deployment.batch.is_none_or(|batch| self.batch_is_ready(batch)))
            .map(|open| open.job.instance)
            .collect();
        let instances: Vec<Instance> = self
            .instances
            .values()
            // In a place that is switched the new instance alone counts, whatever the clock made of the order of ids.
            .filter(|running| {
                let other = &running.instance;
                let place = |open: &&Open| open.is_in(&other.sandbox, &other.service);
                let mut switched = self.open.values().filter(|open| switching.contains(&open.job.instance));
                switching.contains(&other.id) || !switched.any(|open| place(&open))
            })
            .map(|running| {
                let mut instance = running.instance.clone();
                if switching.contains(&instance.id) && instance.state == (InstanceState::Starting {}) {
                    instance.state = InstanceState::Live {};
                }
                instance
            })
            .collect();
        // What is deployed into a sandbox gets its requests, whatever was said before.
        let mut sandboxes = self.sandboxes.clone();
        for open in self.open.values().filter(|open| switching.contains(&open.job.instance)) {
            if let Some(sandbox) = sandboxes.get_mut(&open.deployment.sandbox) {
                sandbox.routes.remove(&open.deployment.service);
            }
        }
        route_table(
            RouteVersion(self.seq.0),
            self.environments.values(),
            &self.services,
            sandboxes.values(),
            &instances,
        )
    }

    /// Where people reach a service in a sandbox, if a router serves it.
    pub(crate) fn place_url(&self, sandbox: &SandboxName, service: &Service) -> Option<Url> {
        let environment = self.environment_of(sandbox);
        let base = self.router_base(&environment)?;
        match self.environments.get(&environment).map(|environment| environment.rule(service)) {
            Some(MatchRule::Path { prefix, .. }) => Some(route_url(&base, sandbox, &prefix)),
            _ => Some(service_url(&base, sandbox, &service.name)),
        }
    }

    /// What an instance in this sandbox is told of where it is.
    pub(crate) fn job_place(&self, sandbox: &SandboxName) -> Option<JobPlace> {
        let sandbox = self.sandboxes.get(sandbox)?;
        let environment = self.environments.get(&sandbox.environment)?;
        let base = self.router_base(&environment.name);
        let services = self.services.keys().filter(|service| environment.has(service));
        let routes = services.filter_map(|service| {
            Some((service.clone(), service_url(base.as_ref()?, &sandbox.name, service)))
        });
        Some(JobPlace {
            environment: environment.name.clone(),
            key: sandbox.key.clone(),
            routes: routes.collect(),
            expires_at: sandbox.expires_at,
        })
    }

    /// The address of an environment's router, the first by name that is connected, or was last.
    pub(crate) fn router_base(&self, environment: &EnvironmentName) -> Option<Url> {
        let connected = self.routers_of(environment).find_map(|agent| agent.row.router.clone());
        connected.or_else(|| {
            let all = self.agents.values().filter(|agent| self.serves(&agent.row.name, environment));
            all.filter_map(|agent| agent.row.router.clone()).next()
        })
    }
}

impl Open {
    /// Whether its own part is done, but not that of all it was asked for together with.
    pub(crate) fn waits_for_batch(&self, world: &World) -> bool {
        self.is_ready() && self.deployment.batch.is_some_and(|batch| !world.batch_is_ready(batch))
    }
}
