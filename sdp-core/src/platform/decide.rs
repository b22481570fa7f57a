//! The rules, as pure functions over the world and the present time: nothing here waits, sends or writes.
//!
//! [`command`] decides what a command does, [`agents`] what an agent's report means, and [`due`] what follows from the state
//! alone: whose turn it is, what has waited too long, what the router must know. `due` is asked again until it has
//! nothing more to say, so that every rule is written once and holds after a restart too.

pub(super) mod agents;
pub(super) mod commands;
mod deploys;
mod ends;
mod fleet;
mod instances;
mod locks;
mod places;
mod sandboxes;
mod secrets;
pub(super) mod waiting;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;

pub(super) use fleet::unknown as unknown_agent;
use instances::{drain, instance_deadline, instance_due, lost};

use super::PlatformConfig;
use super::world::{Agent, Note, Open, World};
use crate::batch::{Batch, BatchOutcome};
use crate::deployment::{Outcome, State, Step};
use crate::event::{About, EventKind};
use crate::failure::{Failure, FailureReason};
use crate::id::{CommandId, DeploymentId, DeploymentNumber, InstanceId};
use crate::name::{AgentName, CommitId, SandboxName, ServiceName};
use crate::principal::Principal;
use crate::sandbox::{InstanceState, StopReason};
use crate::wire::{self, ToAgent};

/// An agent is asked so many times less often whether it has stopped an instance: nobody waits for that.
const STOP_AGAIN: u32 = 4;
/// How many times a deployment is sent to agents that do not accept it.
const ATTEMPTS: u32 = 3;

/// One thing to do. Acts of a turn are done in order.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "most acts are events, and a turn has few")]
pub(super) enum Act {
    /// Something has happened.
    Event { by: Principal, about: About, kind: EventKind },
    /// Something to remember that is no event.
    Note(Note),
    /// Tell an agent, once all of this turn is in the store.
    Send(AgentName, ToAgent),
    /// Send a deployment to its agent, with its credential if it has one.
    SendJob(DeploymentNumber),
    /// Tell all routers the newest table.
    SendTable,
}

impl Act {
    fn system(about: About, kind: EventKind) -> Self {
        Self::Event { by: Principal::System, about, kind }
    }
}

/// The id of the command that sends this attempt: the same for the same attempt, so that repeating it has no second effect.
pub(super) fn deploy_command(deployment: DeploymentId, attempt: u32) -> CommandId {
    derived(deployment.as_uuid(), 0x100 + u128::from(attempt))
}

/// The id of the command that cancels this attempt. Another one for the next attempt: the agent that has answered one, perhaps
/// because it took too long to accept the work, has done with it.
pub(super) fn cancel_command(deployment: DeploymentId, attempt: u32) -> CommandId {
    derived(deployment.as_uuid(), 0x1 | u128::from(attempt) << 48)
}

/// The id of the command that stops an instance: another for each time it is asked, since an agent that has answered one
/// has done with it, and asking again must have an effect.
pub(super) fn stop_command(instance: InstanceId, now: Timestamp) -> CommandId {
    derived(instance.as_uuid(), 0x2 | u128::from(now.as_millisecond().unsigned_abs()) << 16)
}

fn derived(uuid: uuid::Uuid, salt: u128) -> CommandId {
    uuid::Uuid::from_u128(uuid.as_u128() ^ salt.rotate_left(64)).into()
}

/// What follows from the state alone. Empty when everything waits for somebody else.
pub(super) fn due(world: &World, limits: &PlatformConfig, now: Timestamp) -> Vec<Act> {
    // The table first: a switch needs its version.
    if world.routes_changed {
        let mut table = world.render_routes();
        let same = table.environments == world.table.environments && world.routers_are_the_same();
        if same {
            table.version = world.table.version;
        }
        // Higher than what any router has: after a restore from a backup their tables may be of a later life. And never
        // the version 0 of an empty world: a router that has no table yet must be told.
        let floor = world.version_floor.max(crate::id::RouteVersion(1));
        let same = same && table.version >= floor;
        let above = floor.max(world.table.version);
        if !same && table.version <= above {
            table.version = above.next();
        }
        let note = Act::Note(Note::Table(table, now));
        return if same { vec![note] } else { vec![note, Act::SendTable] };
    }
    let load = Load::of(world);
    for open in world.open.values() {
        let acts = open_due(world, &load, open, limits, now);
        if !acts.is_empty() {
            return acts;
        }
    }
    for running in world.instances.values() {
        let acts = instance_due(world, running, limits, now);
        if !acts.is_empty() {
            return acts;
        }
    }
    for sandbox in world.sandboxes.values() {
        let acts = ends::sandbox_due(world, sandbox, now);
        if !acts.is_empty() {
            return acts;
        }
    }
    if let Some((batch, outcome)) = world.batches_over().next() {
        return vec![batch_ended(batch, outcome)];
    }
    world.locks.values().find_map(|lock| locks::due(lock, now)).into_iter().collect()
}

fn batch_ended(batch: &Batch, outcome: BatchOutcome) -> Act {
    let about = About { batch: Some(batch.id), sandbox: Some(batch.sandbox.clone()), ..About::default() };
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let (succeeded, of) = (count(batch.succeeded.len()), count(batch.deployments.len()));
    Act::system(about, EventKind::BatchEnded { outcome, succeeded, of })
}

/// When `due` may have something to say though nothing happens until then.
pub(super) fn next_deadline(world: &World, limits: &PlatformConfig, now: Timestamp) -> Option<Timestamp> {
    let open = world.open.values().flat_map(|open| open_deadlines(world, open, limits));
    let instances = world.instances.values().filter_map(|running| instance_deadline(world, running, limits));
    let unfit = world.agents.values().filter_map(|agent| agent.unfit.as_ref()).map(|unfit| unfit.until);
    let unfit = unfit.filter(|until| *until > now);
    let sandboxes = world.sandboxes.values().filter_map(ends::sandbox_deadline);
    let locks = world.locks.values().filter_map(|lock| lock.expires_at);
    open.chain(instances).chain(unfit).chain(sandboxes).chain(locks).min()
}

/// How many open deployments are where they are though their last deadline was a while ago.
pub(super) fn overdue(world: &World, limits: &PlatformConfig, now: Timestamp) -> u64 {
    let late = |open: &&Open| {
        let last = open_deadlines(world, open, limits).into_iter().max();
        last.is_some_and(|last| now >= after(last, limits.step_grace))
    };
    world.open.values().filter(late).count() as u64
}

fn after(since: Timestamp, wait: Duration) -> Timestamp {
    since.checked_add(wait).unwrap_or(Timestamp::MAX)
}

// ── deployments ─────────────────────────────────────────────────────────────────────────────────────────────────────

/// What the queue asks again and again, counted once.
struct Load<'a> {
    running: HashMap<&'a AgentName, u32>,
    taken: HashSet<(&'a SandboxName, &'a ServiceName)>,
}

impl<'a> Load<'a> {
    fn of(world: &'a World) -> Self {
        let mut load = Self { running: HashMap::new(), taken: HashSet::new() };
        for open in world.open.values() {
            if let Some(agent) = &open.deployment.agent {
                load.taken.insert((&open.deployment.sandbox, &open.deployment.service));
                if !open.is_ready() {
                    *load.running.entry(agent).or_default() += 1;
                }
            }
        }
        load
    }

    fn room(&self, agent: &Agent) -> u32 {
        agent.row.capacity.saturating_sub(self.running.get(&agent.row.name).copied().unwrap_or(0))
    }
}

fn open_due(
    world: &World,
    load: &Load<'_>,
    open: &Open,
    limits: &PlatformConfig,
    now: Timestamp,
) -> Vec<Act> {
    match (&open.deployment.agent, open.cancel_asked) {
        (None, Some(_)) => vec![cancelled(open)],
        (None, None) => waiting_due(world, load, open, limits, now),
        (Some(_), _) if open.is_ready() => ready_due(world, open, limits, now),
        (Some(agent), Some(asked)) => cancelling_due(world, open, agent, asked, limits, now),
        (Some(agent), None) => working_due(world, open, agent, limits, now),
    }
}

fn waiting_due(
    world: &World,
    load: &Load<'_>,
    open: &Open,
    limits: &PlatformConfig,
    now: Timestamp,
) -> Vec<Act> {
    let number = open.deployment.number;
    if open.job.had_credential && open.credential.is_none() && open.deployment.commit.is_none() {
        return failed(
            open,
            FailureReason::CredentialsGone,
            "the server was restarted before the fetch".into(),
        );
    }
    if !world.agents.values().any(|agent| agent.connected && fits(agent, open)) {
        return match open.no_agent_since {
            None => vec![Act::Note(Note::NoAgentSince(number, Some(now)))],
            Some(since) if now >= after(since, limits.no_agent_after) => {
                failed(open, FailureReason::NoAgent, no_agent_detail(world, open))
            }
            Some(_) => Vec::new(),
        };
    }
    if open.no_agent_since.is_some() {
        return vec![Act::Note(Note::NoAgentSince(number, None))];
    }
    if now >= after(open.deployment.requested_at, limits.queue_limit) {
        return failed(open, FailureReason::QueueTimeout, "too much else was ahead of it".into());
    }
    if load.taken.contains(&(&open.deployment.sandbox, &open.deployment.service)) {
        return Vec::new();
    }
    let Some(agent) = choose(world, load, open, now) else { return Vec::new() };
    let sent =
        EventKind::DeploymentSent { agent: agent.row.name.clone(), attempt: open.deployment.attempt + 1 };
    let about = About { agent: Some(agent.row.name.clone()), ..open.about() };
    vec![Act::system(about, sent), Act::SendJob(number)]
}

/// Whether an agent could do a deployment, if it were there and had room.
pub(super) fn fits(agent: &Agent, open: &Open) -> bool {
    let service = &open.job.service;
    let has_runtime =
        !service.needs_container() || agent.row.runtimes.iter().any(|runtime| runtime == wire::DOCKER);
    has_runtime && service.labels.is_subset(&agent.row.labels) && agent.row.capacity > 0
}

/// The agent for a job: one that most likely has its mirror, caches and kept builds; else the one with the most room.
fn choose<'a>(world: &'a World, load: &Load<'_>, open: &Open, now: Timestamp) -> Option<&'a Agent> {
    let here = |agent: &Agent| {
        world
            .instances
            .values()
            .filter(|r| open.is_in(&r.instance.sandbox, &r.instance.service))
            .any(|r| r.instance.agent == agent.row.name)
    };
    world
        .agents
        .values()
        .filter(|agent| agent.connected && agent.degraded.is_none() && fits(agent, open))
        .filter(|agent| !agent.row.draining && agent.is_fit(now))
        .filter(|agent| load.room(agent) > 0)
        .max_by_key(|agent| {
            let preferred = open.job.prefer.as_ref() == Some(&agent.row.name);
            (preferred, here(agent), load.room(agent), std::cmp::Reverse(&agent.row.name))
        })
}

/// The commit that a deployment's place has: what serves there, or else what succeeded there last before it was asked for.
pub(super) fn commit_before(world: &World, open: &Open) -> Option<CommitId> {
    let mut here = world.instances.values().rev().map(|running| &running.instance).filter(|instance| {
        open.is_in(&instance.sandbox, &instance.service)
            && matches!(instance.state, InstanceState::Live {} | InstanceState::Unhealthy {})
    });
    here.next().map(|instance| instance.commit.clone()).or_else(|| open.job.since.clone())
}

fn no_agent_detail(world: &World, open: &Open) -> String {
    let labels: Vec<_> = open.job.service.labels.iter().map(ToString::to_string).collect();
    let connected = world.agents.values().any(|agent| agent.connected);
    if connected && open.job.service.needs_container() {
        let with = if labels.is_empty() { String::new() } else { format!(" with: {}", labels.join(", ")) };
        return format!("no connected agent runs containers{with}; {} needs one", open.deployment.service);
    }
    match (labels.is_empty(), connected) {
        (true, _) => "no agent is connected".to_owned(),
        (false, true) => format!("no connected agent has all of its labels: {}", labels.join(", ")),
        (false, false) => format!("no agent is connected; it needs one with: {}", labels.join(", ")),
    }
}

fn working_due(
    world: &World,
    open: &Open,
    agent: &AgentName,
    limits: &PlatformConfig,
    now: Timestamp,
) -> Vec<Act> {
    let (connected, since) = presence(world, agent, open.since);
    if !open.job.accepted {
        if now < after(open.since, limits.accept_limit) {
            return Vec::new();
        }
        let mut acts = vec![Act::Note(Note::Unanswered(open.deployment.number)), cancel(open, agent)];
        if open.unanswered + 1 >= ATTEMPTS {
            let text = format!("it was sent {ATTEMPTS} times, and no agent answered");
            acts.extend(failed(open, FailureReason::AgentUnresponsive, text));
        } else {
            let reason = format!("{agent} did not take it in time");
            acts.push(Act::system(open.about(), EventKind::DeploymentReturned { reason }));
        }
        return acts;
    }
    // However often the agent comes and goes, a step has an end.
    if now >= step_end(open, limits) {
        let detail = format!("{agent} came and went, and the step did not end");
        return abandoned(open, agent, FailureReason::Timeout, detail, now);
    }
    if !connected {
        return if now >= after(since, limits.lost_after) {
            failed(open, FailureReason::AgentLost, format!("{agent} has been away since {since:.0}"))
        } else {
            Vec::new()
        };
    }
    if now >= after(open.since.max(since), step_limit(open, limits) + limits.step_grace) {
        let detail = format!("{agent} did not end the step in time");
        return abandoned(open, agent, FailureReason::Timeout, detail, now);
    }
    Vec::new()
}

/// The end of a step whatever its agent does: its limit, and as long as an agent may be away.
fn step_end(open: &Open, limits: &PlatformConfig) -> Timestamp {
    after(open.since, step_limit(open, limits) + limits.step_grace + limits.lost_after)
}

fn cancel(open: &Open, agent: &AgentName) -> Act {
    let (command, deployment) =
        (cancel_command(open.deployment.id, open.deployment.attempt), open.deployment.id);
    Act::Send(agent.clone(), ToAgent::Cancel { command, deployment })
}

/// A job that the server ends without the agent's word: the agent is told to stop it, and whatever it may have started.
pub(super) fn abandoned(
    open: &Open,
    agent: &AgentName,
    reason: FailureReason,
    detail: String,
    now: Timestamp,
) -> Vec<Act> {
    let instance = open.job.instance;
    let stop = ToAgent::StopInstance { command: stop_command(instance, now), instance };
    let mut acts = failed(open, reason, detail);
    acts.extend([cancel(open, agent), Act::Send(agent.clone(), stop)]);
    acts
}

fn cancelling_due(
    world: &World,
    open: &Open,
    agent: &AgentName,
    asked: Timestamp,
    limits: &PlatformConfig,
    now: Timestamp,
) -> Vec<Act> {
    let (connected, since) = presence(world, agent, asked);
    if !connected {
        return if now >= after(since, limits.lost_after) {
            failed(open, FailureReason::AgentLost, format!("{agent} went away while it was to cancel"))
        } else {
            Vec::new()
        };
    }
    if now >= after(asked.max(since), limits.cancel_limit) || now >= cancel_end(asked, limits) {
        let detail = format!("{agent} did not confirm the cancel");
        return abandoned(open, agent, FailureReason::AgentUnresponsive, detail, now);
    }
    if open.cancel_sent.is_none_or(|sent| now >= after(sent, limits.ask_again)) {
        return vec![Act::Note(Note::CancelSent(open.deployment.number, now)), cancel(open, agent)];
    }
    Vec::new()
}

fn cancel_end(asked: Timestamp, limits: &PlatformConfig) -> Timestamp {
    after(asked, limits.cancel_limit + limits.lost_after)
}

/// The agent's part is done: the route is left, or (after a cancel) the instance must go.
fn ready_due(world: &World, open: &Open, limits: &PlatformConfig, now: Timestamp) -> Vec<Act> {
    let running = world.instances.get(&open.job.instance).filter(|running| !running.instance.state.is_over());
    let Some(running) = running else {
        return match open.cancel_asked {
            Some(_) => vec![cancelled(open)],
            None => {
                let failure =
                    Failure::new(Step::Switch, FailureReason::Exited, "it ended just after its check");
                vec![ended(open, Outcome::Failed { failure })]
            }
        };
    };
    if let Some(asked) = open.cancel_asked {
        return if running.instance.state == (InstanceState::Starting {}) {
            vec![drain(running, StopReason::DeploymentEnded {})]
        } else if now >= after(asked, limits.cancel_limit) {
            let detail = format!("{} did not confirm that the instance is stopped", running.instance.agent);
            failed(open, FailureReason::AgentUnresponsive, detail)
        } else {
            Vec::new()
        };
    }
    if open.waits_for_batch(world) {
        return Vec::new();
    }
    let environment = world.environment_of(&open.deployment.sandbox);
    let routers = || world.routers_of(&environment);
    let switched =
        open.switch.is_some_and(|version| routers().count() > 0 && routers().all(|r| r.applied >= version));
    if switched {
        let url = world.place_url(&open.deployment.sandbox, &open.job.service);
        let replaced = world.instances.values().filter(|other| {
            other.instance.id != open.job.instance
                && open.is_in(&other.instance.sandbox, &other.instance.service)
                && matches!(other.instance.state, InstanceState::Live {} | InstanceState::Unhealthy {})
        });
        let mut acts: Vec<Act> = replaced.map(|old| drain(old, StopReason::Replaced {})).collect();
        acts.insert(0, Act::system(running.about(), EventKind::InstanceLive { url: url.clone() }));
        let kind = EventKind::DeploymentEnded { outcome: Outcome::Succeeded {}, url };
        acts.push(Act::system(About { instance: Some(open.job.instance), ..open.about() }, kind));
        return acts;
    }
    if now >= switch_end(world, open, limits) {
        let detail = match routers().next() {
            Some(router) => format!("the router at {} did not confirm it", router.row.name),
            None => "no router is connected".to_owned(),
        };
        let failure = Failure::new(Step::Switch, FailureReason::RouteNotApplied, detail);
        return vec![
            drain(running, StopReason::DeploymentEnded {}),
            ended(open, Outcome::Failed { failure }),
        ];
    }
    Vec::new()
}

/// Until when the routers have time to apply a table. A router that is away is waited for as long as agents take to dial again, and
/// one that has just come has as long as any; but however often they come and go, there is an end.
fn switch_end(world: &World, open: &Open, limits: &PlatformConfig) -> Timestamp {
    let environment = world.environment_of(&open.deployment.sandbox);
    let routers = world.agents.values().filter(|agent| agent.row.router.is_some());
    let ends = routers.filter(|agent| world.serves(&agent.row.name, &environment)).map(|router| {
        let since = open.since.max(router.row.since);
        match router.connected {
            true => after(since, limits.switch_limit),
            false => after(since, limits.switch_limit + limits.dial_again),
        }
    });
    let end = ends.max().unwrap_or(after(open.since, limits.switch_limit));
    end.min(after(open.since, limits.switch_limit + limits.lost_after))
}

fn open_deadlines(world: &World, open: &Open, limits: &PlatformConfig) -> Vec<Timestamp> {
    let Some(agent) = &open.deployment.agent else {
        let no_agent = open.no_agent_since.map(|since| after(since, limits.no_agent_after));
        let queue = after(open.deployment.requested_at, limits.queue_limit);
        return vec![no_agent.unwrap_or(queue)];
    };
    if open.is_ready() {
        return match open.cancel_asked {
            Some(asked) => vec![after(asked, limits.cancel_limit)],
            None if open.waits_for_batch(world) => Vec::new(),
            None => vec![switch_end(world, open, limits)],
        };
    }
    let (connected, since) = presence(world, agent, open.cancel_asked.unwrap_or(open.since));
    match open.cancel_asked {
        _ if !open.job.accepted && open.cancel_asked.is_none() => {
            vec![after(open.since, limits.accept_limit)]
        }
        None if !connected => vec![after(since, limits.lost_after).min(step_end(open, limits))],
        Some(_) if !connected => vec![after(since, limits.lost_after)],
        Some(asked) => {
            let again = open.cancel_sent.map(|sent| after(sent, limits.ask_again));
            let end = after(asked.max(since), limits.cancel_limit).min(cancel_end(asked, limits));
            again.into_iter().chain([end]).collect()
        }
        None => {
            vec![
                after(open.since.max(since), step_limit(open, limits) + limits.step_grace)
                    .min(step_end(open, limits)),
            ]
        }
    }
}

/// Whether an agent is connected, and since when that is so.
fn presence(world: &World, agent: &AgentName, otherwise: Timestamp) -> (bool, Timestamp) {
    world.agents.get(agent).map_or((false, otherwise), |agent| (agent.connected, agent.row.since))
}

fn step_limit(open: &Open, limits: &PlatformConfig) -> Duration {
    let steps = &limits.steps;
    let seconds = match &open.deployment.state {
        State::Running { step: Step::Build } => steps.build,
        State::Running { step: Step::Start } => steps.start,
        State::Running { step: Step::Check } => steps.check,
        _ => steps.fetch,
    };
    Duration::from_secs(seconds.into())
}

/// A deployment that failed on the server's word, with the instance it may have started.
fn failed(open: &Open, reason: FailureReason, detail: String) -> Vec<Act> {
    let step = match open.deployment.state {
        State::Running { step } => Some(step),
        _ => None,
    };
    vec![ended(open, Outcome::Failed { failure: Failure::new(step, reason, detail) })]
}

/// As [`failed`]; and the agent, which may hold the job already, is told to drop it.
pub(super) fn given_up(open: &Open, agent: &AgentName, reason: FailureReason, detail: String) -> Vec<Act> {
    let mut acts = failed(open, reason, detail);
    acts.push(cancel(open, agent));
    acts
}

fn cancelled(open: &Open) -> Act {
    let by = open.deployment.cancel_requested_by.clone().unwrap_or(Principal::System);
    ended(open, Outcome::Cancelled { by })
}

fn ended(open: &Open, outcome: Outcome) -> Act {
    Act::system(open.about(), EventKind::DeploymentEnded { outcome, url: None })
}
