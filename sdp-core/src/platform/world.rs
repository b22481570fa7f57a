//! All state in memory: what is open, not history. It changes in two ways only: by an event ([`World::apply`]), or by a remark
//! that no one else needs to know ([`World::note`]). Both mark what must be saved in the same transaction.

mod agents;
mod note;
mod places;
mod routes;
mod secrets;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;

pub(crate) use note::Note;

use crate::api::AgentView;
use crate::batch::Batch;
use crate::catalog::{Environment, Service, Template};
use crate::deployment::{Deployment, State, Step};
use crate::event::{About, Event, EventKind};
use crate::id::{BatchId, DeploymentId, DeploymentNumber, EventSeq, InstanceId, LockId, RouteVersion};
use crate::lock::Lock;
use crate::name::{
    AgentName, EnvName, EnvironmentName, IdempotencyKey, SandboxName, ServiceName, TemplateName,
};
use crate::routing::RouteTable;
use crate::sandbox::{Instance, InstanceState, LastRestart, Sandbox, StopReason, Unhealthy};
use crate::secret::GitCredential;
use crate::store::{AgentRow, IdempotencyRow, JobRow, SecretRow, Snapshot, Writes, is_routed};
use crate::wire::Load;

/// A deployment that has not ended.
#[derive(Clone, Debug)]
pub(crate) struct Open {
    pub(crate) deployment: Deployment,
    pub(crate) job: JobRow,
    /// In memory only; gone after a restart, and dropped once the fetch is over.
    pub(crate) credential: Option<GitCredential>,
    /// Since when it is where it is: queued, sent, in its step.
    pub(crate) since: Timestamp,
    /// Since when no agent that fits is connected.
    pub(crate) no_agent_since: Option<Timestamp>,
    pub(crate) cancel_asked: Option<Timestamp>,
    pub(crate) cancel_sent: Option<Timestamp>,
    /// The table that sends traffic to its instance, once that is rendered.
    pub(crate) switch: Option<RouteVersion>,
    /// How many agents were sent it and said nothing.
    pub(crate) unanswered: u32,
    /// Its instance ended after the agent's part was done, and the word of that overtook the agent's "ready".
    pub(crate) exited: Option<(StopReason, Vec<String>)>,
}

impl Open {
    pub(crate) fn about(&self) -> About {
        About {
            deployment: Some(self.deployment.id),
            service: Some(self.deployment.service.clone()),
            sandbox: Some(self.deployment.sandbox.clone()),
            batch: self.deployment.batch,
            ..About::default()
        }
    }

    /// Whether the agent's part is done and only the switch is left.
    pub(crate) fn is_ready(&self) -> bool {
        self.deployment.state == (State::Running { step: Step::Switch })
    }

    pub(crate) fn is_in(&self, sandbox: &SandboxName, service: &ServiceName) -> bool {
        self.deployment.sandbox == *sandbox && self.deployment.service == *service
    }
}

/// An instance that is not over, or that the route table still speaks of.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) instance: Instance,
    /// Since when it is in its state.
    pub(crate) since: Timestamp,
    /// Whether a table has named it, so that requests may be under way.
    pub(crate) routed: bool,
    /// The routers that have no request to it under way any more.
    pub(crate) drained_by: BTreeSet<AgentName>,
    pub(crate) stop_sent: Option<Timestamp>,
}

impl Running {
    pub(crate) fn about(&self) -> About {
        About {
            deployment: Some(self.instance.deployment),
            instance: Some(self.instance.id),
            service: Some(self.instance.service.clone()),
            sandbox: Some(self.instance.sandbox.clone()),
            agent: Some(self.instance.agent.clone()),
            ..About::default()
        }
    }
}

/// An agent that has connected at least once.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    pub(crate) row: AgentRow,
    pub(crate) connected: bool,
    /// Why it cannot say which instances it has, and takes no work.
    pub(crate) degraded: Option<String>,
    /// What it said last that it holds; nothing before its first word.
    pub(crate) load: Option<Load>,
    /// Gave work back a moment ago.
    pub(crate) unfit: Option<Unfit>,
    /// The table that its router has in effect.
    pub(crate) applied: RouteVersion,
}

/// Why an agent gets no work for a while.
#[derive(Clone, Debug)]
pub(crate) struct Unfit {
    /// It is asked again then.
    pub(crate) until: Timestamp,
    /// What it said, and what to do, as a clause.
    pub(crate) why: String,
}

impl Agent {
    /// Whether it may be asked.
    pub(crate) fn is_fit(&self, now: Timestamp) -> bool {
        self.unfit.as_ref().is_none_or(|unfit| now >= unfit.until)
    }

    pub(crate) fn view(&self, world: &World) -> AgentView {
        AgentView {
            name: self.row.name.clone(),
            connected: self.connected,
            draining: self.row.draining,
            since: self.row.since,
            version: self.row.version.clone(),
            labels: self.row.labels.iter().cloned().collect(),
            capacity: self.row.capacity,
            running: world.running_on(&self.row.name),
            queued: world.queued_for(self),
            runtimes: self.row.runtimes.clone(),
            router: self.row.router.is_some(),
            preflight: self.row.preflight.clone(),
            degraded: self.degraded.clone().filter(|_| self.connected),
            load: self.load.filter(|_| self.connected),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) seq: EventSeq,
    pub(crate) number: DeploymentNumber,
    pub(crate) services: BTreeMap<ServiceName, Service>,
    /// Sealed, as the store has them.
    secrets: BTreeMap<(ServiceName, EnvName), SecretRow>,
    /// Always with `default`.
    pub(crate) environments: BTreeMap<EnvironmentName, Environment>,
    /// The newest version of each.
    pub(crate) templates: BTreeMap<TemplateName, Template>,
    pub(crate) locks: BTreeMap<LockId, Lock>,
    /// Those that have not ended.
    pub(crate) batches: BTreeMap<BatchId, Batch>,
    pub(crate) sandboxes: BTreeMap<SandboxName, Sandbox>,
    /// By number, which is the order of the queue.
    pub(crate) open: BTreeMap<DeploymentNumber, Open>,
    numbers: HashMap<DeploymentId, DeploymentNumber>,
    pub(crate) instances: BTreeMap<InstanceId, Running>,
    pub(crate) agents: BTreeMap<AgentName, Agent>,
    idempotency: HashMap<(String, IdempotencyKey), (String, DeploymentId)>,
    /// The newest table.
    pub(crate) table: RouteTable,
    /// Which router each environment was to have when it was rendered.
    table_routers: BTreeMap<EnvironmentName, Option<AgentName>>,
    /// The newest table that any router has said to have.
    pub(crate) version_floor: RouteVersion,
    /// Set by every event that may change the table.
    pub(crate) routes_changed: bool,
    unsaved: Unsaved,
}

#[derive(Debug, Default)]
struct Unsaved {
    writes: Writes,
    deployments: BTreeSet<DeploymentNumber>,
    jobs: BTreeSet<DeploymentNumber>,
    instances: BTreeSet<InstanceId>,
    agents: BTreeSet<AgentName>,
}

impl World {
    /// The world as the store has it. Nobody is connected.
    pub(crate) fn restore(snapshot: Snapshot, now: Timestamp) -> Self {
        let mut world =
            Self { seq: snapshot.seq, number: snapshot.number, routes_changed: true, ..Self::default() };
        world.services = snapshot.services.into_iter().map(|s| (s.name.clone(), s)).collect();
        let default = Environment::default_one();
        world.environments.insert(default.name.clone(), default);
        world.environments.extend(snapshot.environments.into_iter().map(|e| (e.name.clone(), e)));
        world.templates = snapshot.templates.into_iter().map(|t| (t.name.clone(), t)).collect();
        world.locks = snapshot.locks.into_iter().map(|lock| (lock.id, lock)).collect();
        world.batches = snapshot.batches.into_iter().map(|batch| (batch.id, batch)).collect();
        world.sandboxes = snapshot.sandboxes.into_iter().map(|s| (s.name.clone(), s)).collect();
        world.secrets =
            snapshot.secrets.into_iter().map(|s| ((s.service.clone(), s.name.clone()), s)).collect();
        for (deployment, job) in snapshot.deployments {
            let cancel_asked = deployment.cancel_requested_by.is_some().then_some(now);
            world.numbers.insert(deployment.id, deployment.number);
            let open = Open {
                job,
                credential: None,
                since: now,
                no_agent_since: None,
                cancel_asked,
                cancel_sent: None,
                switch: None,
                unanswered: 0,
                exited: None,
                deployment,
            };
            world.open.insert(open.deployment.number, open);
        }
        for instance in snapshot.instances {
            let running =
                Running { instance, since: now, routed: true, drained_by: BTreeSet::new(), stop_sent: None };
            world.instances.insert(running.instance.id, running);
        }
        for mut row in snapshot.agents {
            // Away since now at the latest: its absence is counted from when somebody could have noticed.
            row.since = now;
            let agent = Agent {
                row,
                connected: false,
                degraded: None,
                load: None,
                unfit: None,
                applied: RouteVersion(0),
            };
            world.agents.insert(agent.row.name.clone(), agent);
        }
        for row in snapshot.idempotency {
            world.idempotency.insert((row.principal, row.key), (row.fingerprint, row.deployment));
        }
        world
    }

    /// Time in which nothing could be stored is not counted.
    pub(crate) fn begin_deadlines_anew(&mut self, now: Timestamp) {
        for open in self.open.values_mut() {
            open.since = now;
            open.no_agent_since = open.no_agent_since.map(|_| now);
            open.cancel_asked = open.cancel_asked.map(|_| now);
        }
        for agent in self.agents.values_mut().filter(|agent| !agent.connected) {
            agent.row.since = now;
        }
    }

    /// Takes the credentials that could be had again.
    pub(crate) fn take_credentials(&mut self, credentials: HashMap<DeploymentNumber, GitCredential>) {
        for (number, credential) in credentials {
            if let Some(open) = self.open.get_mut(&number) {
                open.credential = Some(credential);
            }
        }
    }

    /// Takes over what only memory has from the world as it was.
    pub(crate) fn keep_credentials(&mut self, former: &mut Self) {
        for (number, open) in &mut self.open {
            open.credential = former.open.get_mut(number).and_then(|former| former.credential.take());
        }
    }

    pub(crate) fn open_by_id(&self, id: DeploymentId) -> Option<&Open> {
        self.open.get(self.numbers.get(&id)?)
    }

    pub(crate) fn known_request(
        &self,
        principal: &str,
        key: &IdempotencyKey,
    ) -> Option<&(String, DeploymentId)> {
        self.idempotency.get(&(principal.to_owned(), key.clone()))
    }

    /// How many jobs an agent has.
    pub(crate) fn running_on(&self, agent: &AgentName) -> u32 {
        let busy = self
            .open
            .values()
            .filter(|open| open.deployment.agent.as_ref() == Some(agent) && !open.is_ready());
        u32::try_from(busy.count()).unwrap_or(u32::MAX)
    }

    /// How many deployments wait that an agent could do; none while it is drained.
    fn queued_for(&self, agent: &Agent) -> u32 {
        if agent.row.draining {
            return 0;
        }
        let waiting = self.open.values().filter(|open| open.deployment.agent.is_none());
        let could = waiting.filter(|open| super::decide::fits(agent, open)).count();
        u32::try_from(could).unwrap_or(u32::MAX)
    }

    pub(crate) fn queue_position(&self, id: DeploymentId) -> Option<u32> {
        let mut waiting = self.open.values().filter(|open| open.deployment.agent.is_none());
        let position = waiting.position(|open| open.deployment.id == id)?;
        u32::try_from(position + 1).ok()
    }

    /// Gives an event its place in the sequence, folds it in, and marks what must be saved.
    pub(crate) fn apply(&mut self, mut event: Event) -> EventSeq {
        self.seq = self.seq.next();
        event.seq = self.seq;
        self.fold(&event);
        self.unsaved.writes.events.push(event);
        self.seq
    }

    fn fold(&mut self, event: &Event) {
        if let Some(number) = event.about.deployment.and_then(|id| self.numbers.get(&id).copied()) {
            self.fold_deployment(number, event);
        }
        if let Some(id) = event.about.instance {
            self.fold_instance(id, event);
        }
        if let Some(agent) = &event.about.agent {
            self.fold_agent(agent, event);
        }
        match &event.kind {
            EventKind::ServiceDeleted {} => {
                if let Some(name) = &event.about.service {
                    self.services.remove(name);
                    self.forget_secrets(name);
                    self.unsaved.writes.services_gone.push(name.clone());
                    self.routes_changed = true;
                }
            }
            EventKind::SecretDeleted { name } => {
                if let Some(service) = &event.about.service {
                    self.forget_secret(service, name);
                }
            }
            _ => self.fold_places(event),
        }
    }

    fn fold_deployment(&mut self, number: DeploymentNumber, event: &Event) {
        let Some(open) = self.open.get_mut(&number) else { return };
        open.deployment.apply(event);
        match &event.kind {
            EventKind::DeploymentSent { .. } => {
                open.since = event.at;
                open.no_agent_since = None;
                open.job.accepted = false;
                self.unsaved.jobs.insert(number);
            }
            EventKind::DeploymentReturned { .. } => {
                open.since = event.at;
                open.job.accepted = false;
                self.unsaved.jobs.insert(number);
            }
            EventKind::StepStarted { step, .. } => {
                open.since = event.at;
                if *step > Step::Fetch {
                    open.credential = None;
                }
                self.routes_changed |= *step == Step::Switch;
            }
            EventKind::CancelRequested {} => {
                open.cancel_asked = Some(event.at);
                self.routes_changed = true;
            }
            EventKind::DeploymentEnded { outcome, .. } => {
                self.routes_changed = true;
                if let (Some(batch), id) = (open.deployment.batch, open.deployment.id) {
                    self.count_in_batch(batch, id, outcome);
                }
                if let Some(open) = self.open.remove(&number) {
                    self.numbers.remove(&open.deployment.id);
                    self.unsaved.jobs.remove(&number);
                    self.unsaved.deployments.remove(&number);
                    self.unsaved.writes.jobs_gone.push(open.deployment.id);
                    self.unsaved.writes.deployments.push(open.deployment);
                }
                return;
            }
            _ => {}
        }
        self.unsaved.deployments.insert(number);
    }

    fn fold_instance(&mut self, id: InstanceId, event: &Event) {
        if let EventKind::InstanceStarted { commit, address } = &event.kind {
            let about = &event.about;
            let (Some(service), Some(sandbox), Some(deployment), Some(agent)) =
                (about.service.clone(), about.sandbox.clone(), about.deployment, about.agent.clone())
            else {
                return;
            };
            let environment = self.environment_of(&sandbox);
            let git_ref = self.open_by_id(deployment).map(|open| open.deployment.git_ref.clone());
            let instance = Instance {
                id,
                service,
                sandbox,
                environment,
                deployment,
                commit: commit.clone(),
                git_ref,
                agent,
                address: Some(*address),
                url: None,
                state: InstanceState::Starting {},
                started_at: event.at,
                stopped_at: None,
                last_lines: Vec::new(),
                restarts: 0,
                last_restart: None,
                unhealthy: None,
            };
            let running = Running {
                instance,
                since: event.at,
                routed: false,
                drained_by: BTreeSet::new(),
                stop_sent: None,
            };
            self.instances.insert(id, running);
            self.unsaved.instances.insert(id);
            return;
        }
        let Some(running) = self.instances.get_mut(&id) else { return };
        let instance = &mut running.instance;
        match &event.kind {
            EventKind::InstanceLive { url } => {
                instance.state = InstanceState::Live {};
                instance.url.clone_from(url);
                let (service, sandbox) = (instance.service.clone(), instance.sandbox.clone());
                self.forget_over(&sandbox, &service);
                self.forget_choice(&sandbox, &service);
            }
            EventKind::InstanceDraining { reason } => {
                instance.state = InstanceState::Draining { reason: reason.clone() };
            }
            EventKind::InstanceStopped { reason, last_lines } => {
                instance.state = InstanceState::Stopped { reason: reason.clone() };
                instance.stopped_at = Some(event.at);
                instance.last_lines.clone_from(last_lines);
            }
            EventKind::InstanceRestarted { reason, restarts, last_lines } => {
                // It is where it was: no route changes.
                instance.restarts = *restarts;
                instance.last_restart = Some(LastRestart { at: event.at, reason: reason.clone() });
                instance.last_lines.clone_from(last_lines);
                self.unsaved.instances.insert(id);
                return;
            }
            EventKind::InstanceUnhealthy { detail } => {
                instance.state = InstanceState::Unhealthy {};
                instance.unhealthy = Some(Unhealthy { since: event.at, detail: detail.clone() });
            }
            EventKind::InstanceRecovered {} => instance.state = InstanceState::Live {},
            EventKind::InstanceLost {} => {
                instance.state = InstanceState::Lost {};
                instance.stopped_at = Some(event.at);
            }
            _ => return,
        }
        self.routes_changed = true;
        let Some(running) = self.instances.get_mut(&id) else { return };
        running.since = event.at;
        if running.instance.state != (InstanceState::Unhealthy {}) {
            running.instance.unhealthy = None;
        }
        let over = running.instance.state.is_over();
        let on_purpose = matches!(
            &running.instance.state,
            InstanceState::Stopped { reason: StopReason::Stopped { .. } | StopReason::SandboxDeleted {} }
        );
        let place = (running.instance.sandbox.clone(), running.instance.service.clone());
        if over && !is_routed(&running.instance) {
            let instance = running.instance.clone();
            self.instances.remove(&id);
            self.unsaved.instances.remove(&id);
            self.unsaved.writes.instances.push((instance, false));
            if on_purpose {
                self.forget_over(&place.0, &place.1);
            }
        } else {
            self.unsaved.instances.insert(id);
        }
    }

    /// The route table need not speak any more of what ended badly in this place: something newer has been decided.
    fn forget_over(&mut self, sandbox: &SandboxName, service: &ServiceName) {
        let over: Vec<InstanceId> = self
            .instances
            .values()
            .map(|running| &running.instance)
            .filter(|i| i.state.is_over() && i.sandbox == *sandbox && i.service == *service)
            .map(|i| i.id)
            .collect();
        for id in over {
            if let Some(running) = self.instances.remove(&id) {
                self.unsaved.instances.remove(&id);
                self.unsaved.writes.instances.push((running.instance, false));
            }
        }
    }

    /// A new deployment: the event that begins it, with what is not in the event.
    pub(crate) fn begin(
        &mut self,
        mut event: Event,
        job: JobRow,
        credential: Option<GitCredential>,
    ) -> Option<Deployment> {
        self.seq = self.seq.next();
        event.seq = self.seq;
        let deployment = Deployment::begin(&event)?;
        let number = deployment.number;
        self.number = self.number.max(number);
        self.numbers.insert(deployment.id, number);
        self.unsaved.deployments.insert(number);
        self.unsaved.jobs.insert(number);
        let open = Open {
            deployment: deployment.clone(),
            job,
            credential,
            since: event.at,
            no_agent_since: None,
            cancel_asked: None,
            cancel_sent: None,
            switch: None,
            unanswered: 0,
            exited: None,
        };
        self.open.insert(number, open);
        self.unsaved.writes.events.push(event);
        Some(deployment)
    }

    pub(crate) fn remember_request(&mut self, row: IdempotencyRow) {
        let entry = (row.fingerprint.clone(), row.deployment);
        self.idempotency.insert((row.principal.clone(), row.key.clone()), entry);
        self.unsaved.writes.idempotency.push(row);
    }

    pub(crate) fn save_service(&mut self, service: Service) {
        self.unsaved.writes.services_gone.retain(|gone| *gone != service.name);
        self.unsaved.writes.services.push(service.clone());
        self.services.insert(service.name.clone(), service);
        self.routes_changed = true;
    }

    /// What has changed since it was last asked, to be saved in one transaction.
    pub(crate) fn take_unsaved(&mut self) -> Writes {
        let Unsaved { mut writes, deployments, jobs, instances, agents } = std::mem::take(&mut self.unsaved);
        writes
            .deployments
            .extend(deployments.iter().filter_map(|n| Some(self.open.get(n)?.deployment.clone())));
        writes.jobs.extend(jobs.iter().filter_map(|n| Some(self.open.get(n)?.job.clone())));
        for id in instances {
            if let Some(running) = self.instances.get(&id) {
                writes.instances.push((running.instance.clone(), is_routed(&running.instance)));
            }
        }
        writes.agents.extend(agents.iter().filter_map(|name| Some(self.agents.get(name)?.row.clone())));
        writes
    }
}
