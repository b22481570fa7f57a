//! The loop: takes inputs in turns, lets the rules decide, and then always **append, ring, send**.
//!
//! A turn takes what waits (up to [`TURN`] inputs) so that many reports share one commit. A commit that fails because the disk
//! is full, or for another reason that may pass, is held (`hold`). If it fails for good, nothing of the turn
//! has happened: the world is read from the store again, every answer of the turn is the error, and agents are
//! disconnected, so that they say hello to what is true.

mod agents;
mod asked;
mod hold;
mod send;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::clock::Clock;
use super::decide::{self, Act, commands::Verdict};
use super::input::{Command, DeployCommand, Input, Reply};
use super::output::Followers;
use super::world::World;
use super::{PlatformConfig, PlatformError, session};
use crate::deployment::Deployment;
use crate::event::{About, Event, EventKind};
use crate::id::{CommandId, DeploymentId, DeploymentNumber, Epoch, EventSeq, InstanceId};
use crate::logs::Logs;
use crate::name::AgentName;
use crate::principal::Principal;
use crate::secret::GitCredential;
use crate::store::{IdempotencyRow, JobRow, Snapshot, Store, StoreError};
use crate::vault::Vault;
use crate::wire::{ByeReason, ToAgent};

/// How many inputs may wait for the loop.
const INPUTS: usize = 1024;
/// How many inputs one turn takes at most.
const TURN: usize = 128;
/// How many messages may wait for one agent; an agent that is slower than that is disconnected and says hello again.
const OUTBOX: usize = 1024;
/// After a commit that failed: how long until the store is tried again.
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// Called once a turn is in the store, or with the error if it could not be stored.
type Told = Box<dyn FnOnce(Result<(), PlatformError>) + Send>;

/// What a turn has to say once it is in the store.
#[derive(Default)]
struct Turn {
    sends: Vec<(AgentName, ToAgent)>,
    /// Ways to agents that are thrown out.
    farewells: Vec<mpsc::Sender<ToAgent>>,
    answers: Vec<Told>,
}

pub(super) struct Run {
    config: PlatformConfig,
    store: Store,
    vault: Vault,
    logs: Logs,
    world: World,
    clock: Clock,
    bell: watch::Sender<EventSeq>,
    queue: mpsc::Receiver<Input>,
    /// What came while a turn was held; taken before the queue.
    waiting: VecDeque<Input>,
    /// Why a turn is held, if one is.
    storage: watch::Sender<Option<StoreError>>,
    inputs: mpsc::WeakSender<Input>,
    outboxes: HashMap<AgentName, (Epoch, mpsc::Sender<ToAgent>)>,
    /// How many connections there have been, and which of them each agent's newest accepted hello came by.
    connections: u64,
    newest: HashMap<AgentName, u64>,
    sessions: JoinSet<()>,
    asked: HashMap<CommandId, asked::Asked>,
    followers: Arc<Followers>,
    stopping: watch::Sender<bool>,
}

impl Run {
    /// A loop over what the store holds, and the ways to it: what it is told, what it has appended, and why it cannot.
    pub(super) fn new(
        config: PlatformConfig,
        clock: Clock,
        (store, vault): (Store, Vault),
        logs: Logs,
        followers: Arc<Followers>,
        snapshot: Snapshot,
        credentials: HashMap<DeploymentNumber, GitCredential>,
    ) -> (Self, mpsc::Sender<Input>, watch::Receiver<EventSeq>, watch::Receiver<Option<StoreError>>) {
        let mut world = World::restore(snapshot, clock.now());
        world.take_credentials(credentials);
        let (inputs, queue) = mpsc::channel(INPUTS);
        let (bell, newest) = watch::channel(world.seq);
        let run = Self {
            config,
            store,
            vault,
            logs,
            world,
            clock,
            bell,
            queue,
            waiting: VecDeque::new(),
            storage: watch::Sender::new(None),
            inputs: inputs.downgrade(),
            outboxes: HashMap::new(),
            connections: 0,
            newest: HashMap::new(),
            sessions: JoinSet::new(),
            asked: HashMap::new(),
            followers,
            stopping: watch::Sender::new(false),
        };
        let storage = run.storage.subscribe();
        (run, inputs, newest, storage)
    }

    /// Until it is told to stop, or nobody is left who could tell it anything.
    pub(super) async fn run(mut self) {
        // What follows from what the store has: nobody may ever ask.
        let mut turn = Turn::default();
        self.settle(&mut turn);
        self.finish(turn).await;
        loop {
            let now = self.clock.now();
            let deadline = decide::next_deadline(&self.world, &self.config, now);
            let deadline = deadline.into_iter().chain(self.next_answer_due()).min();
            let sleep = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(self.clock.instant(at).into()).await,
                    None => std::future::pending().await,
                }
            };
            let first = tokio::select! {
                biased;
                () = std::future::ready(()), if !self.waiting.is_empty() => self.waiting.pop_front(),
                input = self.queue.recv() => match input {
                    Some(Input::Stop) | None => break,
                    Some(input) => Some(input),
                },
                Some(ended) = self.sessions.join_next(), if !self.sessions.is_empty() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "the task of an agent's connection failed");
                    }
                    None
                }
                () = sleep => None,
            };
            let mut turn = Turn::default();
            let mut next = first;
            let mut taken = 0;
            let mut stop = false;
            while let Some(input) = next {
                self.take(input, &mut turn);
                taken += 1;
                // All that came during a hold, so that no deadline is looked at before what arrived in time.
                next = match self.waiting.pop_front() {
                    None if taken < TURN => self.queue.try_recv().ok(),
                    waiting => waiting,
                };
                if matches!(next, Some(Input::Stop)) {
                    stop = true;
                    next = None;
                }
            }
            self.settle(&mut turn);
            self.finish(turn).await;
            if stop || *self.stopping.borrow() {
                break;
            }
        }
        self.end().await;
    }

    /// Ends all connections; what agents report from now on they keep and report again after the next start.
    async fn end(mut self) {
        self.queue.close();
        self.stopping.send_replace(true);
        self.followers.stop();
        self.outboxes.clear();
        // Whoever waits for an answer of the loop gets none; reports are not acknowledged, so they come again.
        while self.queue.recv().await.is_some() {}
        while self.sessions.join_next().await.is_some() {}
    }

    fn take(&mut self, input: Input, turn: &mut Turn) {
        let now = self.clock.now();
        match input {
            Input::Command { by, command, answer } => self.command(now, &by, command, answer, turn),
            Input::Question { question, answer } => self.ask(now, question, answer, turn),
            Input::Read(read) => read(&self.world),
            Input::Serve { name, end, ended } => {
                if let Some(inputs) = self.inputs.upgrade() {
                    let (logs, stopping) = (self.logs.clone(), self.stopping.subscribe());
                    let followers = self.followers.clone();
                    self.connections += 1;
                    let connection = self.connections;
                    let span = tracing::info_span!(
                        "agent_session",
                        agent.name = %name,
                        agent.epoch = tracing::field::Empty
                    );
                    let serving = async move {
                        session::serve(name, connection, end, inputs, logs, followers, stopping).await;
                        drop(ended);
                    };
                    self.sessions.spawn(serving.instrument(span));
                }
            }
            Input::Hello { agent, connection, hello, answer } => {
                // One that was cut may have left its hello behind, to be read after the agent's next one.
                if self.newest.get(&agent).is_none_or(|newest| *newest < connection) {
                    self.newest.insert(agent.clone(), connection);
                    self.hello(now, agent, hello, answer, turn);
                }
            }
            Input::Report { agent, epoch, report, committed } => {
                if self.outboxes.get(&agent).is_some_and(|(present, _)| *present == epoch) {
                    let acts = decide::agents::report(&self.world, now, &agent, report);
                    self.perform(acts, turn);
                    if let Some(committed) = committed {
                        turn.answers.push(Box::new(move |stored| {
                            if stored.is_ok() {
                                committed.send(()).ok();
                            }
                        }));
                    }
                }
            }
            Input::Answered { agent, command, answer } => {
                self.answered(&agent, command, answer);
            }
            Input::Assignment { agent, deployment, answer } => {
                let open =
                    self.world.open_by_id(deployment).filter(|o| o.deployment.agent.as_ref() == Some(&agent));
                answer.send(open.map(|open| (open.deployment.attempt, open.job.progress))).ok();
            }
            Input::Follow { agent, instance, tail, command, answer } => {
                let answered = match self.outboxes.get(&agent) {
                    Some((epoch, _)) => {
                        if self.followers.sent(command, *epoch) {
                            turn.sends.push((agent, ToAgent::FollowOutput { command, instance, tail }));
                        }
                        Ok(())
                    }
                    None => Err(PlatformError::AgentAway { agent }),
                };
                drop(answer.send(answered));
            }
            // Each turn asks for who has left.
            Input::Unfollow => {}
            Input::Gone { agent, epoch } => {
                self.followers.gone(&agent, epoch);
                self.gone(&agent, epoch, turn);
            }
            Input::Disconnect { agent, answer } => {
                self.disconnect(&agent, turn);
                turn.answers.push(Box::new(move |_| {
                    answer.send(()).ok();
                }));
            }
            // Taken by `run`.
            Input::Stop => {}
        }
    }

    fn command(
        &mut self,
        now: Timestamp,
        by: &Principal,
        command: Command,
        answer: oneshot::Sender<Result<Reply, PlatformError>>,
        turn: &mut Turn,
    ) {
        let id = DeploymentId::new();
        let verdict = decide::commands::command(&self.world, &self.config, now, by, command, id);
        let reply = match verdict {
            Err(error) => {
                drop(answer.send(Err(error)));
                return;
            }
            Ok(Verdict::Do(acts, reply)) => {
                self.perform(acts, turn);
                reply
            }
            Ok(Verdict::Save { service, created }) => {
                let about = About { service: Some(service.name.clone()), ..About::default() };
                self.world.save_service(*service);
                let kind = EventKind::ServiceSaved { created };
                self.perform(vec![Act::Event { by: by.clone(), about, kind }], turn);
                Reply::Saved { created }
            }
            Ok(Verdict::SaveSecret { secret, created }) => {
                let about = About { service: Some(secret.service.clone()), ..About::default() };
                let kind = EventKind::SecretSet { name: secret.name.clone() };
                self.world.save_secret(*secret);
                self.perform(vec![Act::Event { by: by.clone(), about, kind }], turn);
                Reply::Saved { created }
            }
            Ok(Verdict::BeginBatch { before, begins, idempotency, batch }) => {
                self.perform(before, turn);
                let mut idempotency = idempotency;
                for (id, command, after) in begins {
                    if self.begin(now, by, command, idempotency.take(), id).is_none() {
                        drop(answer.send(Err(PlatformError::Stopping)));
                        return;
                    }
                    self.perform(after, turn);
                }
                Reply::Batch(batch)
            }
            Ok(Verdict::Forget { agent, acts }) => {
                self.disconnect(&agent, turn);
                self.perform(acts, turn);
                Reply::Done
            }
            Ok(Verdict::Begin { before, command, idempotency, after }) => {
                self.perform(before, turn);
                match self.begin(now, by, *command, idempotency, id) {
                    Some(deployment) => {
                        self.perform(after, turn);
                        Reply::Deployment(Box::new(deployment))
                    }
                    None => {
                        drop(answer.send(Err(PlatformError::Stopping)));
                        return;
                    }
                }
            }
        };
        turn.answers.push(Box::new(move |stored| drop(answer.send(stored.map(|()| reply)))));
    }

    fn begin(
        &mut self,
        now: Timestamp,
        by: &Principal,
        command: DeployCommand,
        idempotency: Option<IdempotencyRow>,
        id: DeploymentId,
    ) -> Option<Deployment> {
        let service = self.world.effective(&command.service, &command.sandbox, &command.template_env)?;
        let about = About {
            deployment: Some(id),
            service: Some(command.service.clone()),
            sandbox: Some(command.sandbox.clone()),
            environment: Some(self.world.environment_of(&command.sandbox)),
            batch: command.batch,
            ..About::default()
        };
        let kind = EventKind::DeploymentRequested {
            number: self.world.number.next(),
            kind: command.kind,
            service: command.service,
            sandbox: command.sandbox,
            git_ref: command.git_ref,
            commit: command.commit,
            of: command.of,
            env: command.env,
            notify: command.notify,
            batch: command.batch,
        };
        let event = Event { seq: EventSeq(0), at: now, by: by.clone(), about, kind };
        let job = JobRow {
            deployment: id,
            service,
            instance: InstanceId::new(),
            since: command.since,
            prefer: command.prefer,
            had_credential: command.credential.is_some(),
            credential_of: command.credential_of,
            accepted: false,
            progress: 0,
        };
        if let Some(row) = idempotency {
            self.world.remember_request(row);
        }
        self.world.begin(event, job, command.credential)
    }

    /// Asks the rules until they have nothing more to say.
    fn settle(&mut self, turn: &mut Turn) {
        let left = self.followers.take_left().into_iter();
        turn.sends.extend(left.map(|(agent, command)| (agent, ToAgent::StopFollowing { command })));
        let now = self.clock.now();
        loop {
            let acts = decide::due(&self.world, &self.config, now);
            if acts.is_empty() {
                break;
            }
            self.perform(acts, turn);
        }
        self.asked_too_long(now);
    }

    fn perform(&mut self, acts: Vec<Act>, turn: &mut Turn) {
        for act in acts {
            match act {
                Act::Event { by, about, kind } => {
                    self.world.apply(Event { seq: EventSeq(0), at: self.clock.now(), by, about, kind });
                }
                Act::Note(note) => {
                    if matches!(note, super::world::Note::Table(..)) {
                        self.world.routes_changed = false;
                    }
                    self.world.note(note);
                }
                Act::Send(agent, message) => turn.sends.push((agent, message)),
                Act::SendJob(number) => match self.send_job(number) {
                    Ok(message) => turn.sends.extend(message),
                    Err(instead) => self.perform(instead, turn),
                },
                Act::SendTable => {
                    for router in self.world.routers() {
                        let table = self.world.table_for(&router.row.name);
                        turn.sends.push((router.row.name.clone(), ToAgent::Routes { table }));
                    }
                }
            }
        }
    }

    /// Append, ring, send.
    async fn finish(&mut self, mut turn: Turn) {
        let writes = self.world.take_unsaved();
        if !writes.is_empty()
            && let Err(error) = self.commit(writes).await
        {
            tracing::error!(%error, "a turn could not be stored; nothing of it has happened");
            for answer in turn.answers.drain(..) {
                answer(Err(error.clone().into()));
            }
            self.reload().await;
            return;
        }
        self.bell.send_if_modified(|newest| std::mem::replace(newest, self.world.seq) != self.world.seq);
        for answer in turn.answers.drain(..) {
            answer(Ok(()));
        }
        for outbox in turn.farewells {
            let bye = ToAgent::Bye { reason: ByeReason::Unauthorised, retry_after_ms: None };
            outbox.try_send(bye).ok();
        }
        for (agent, message) in turn.sends {
            let Some((epoch, outbox)) = self.outboxes.get(&agent) else { continue };
            if outbox.try_send(message).is_err() {
                tracing::warn!(agent.name = %agent, "the agent does not take what it is told; its connection is ended");
                let (agent, epoch) = (agent, *epoch);
                // The session sees its outbox closed, and the agent says hello again.
                let mut after = Turn::default();
                self.gone(&agent, epoch, &mut after);
            }
        }
    }

    /// The store did not take a turn: what is true is what it has.
    async fn reload(&mut self) {
        self.outboxes.clear();
        self.waiting.clear();
        loop {
            tokio::time::sleep(STORE_PAUSE).await;
            match self.store.read(Snapshot::load).await {
                Ok(snapshot) => {
                    let mut world = World::restore(snapshot, self.clock.now());
                    world.keep_credentials(&mut self.world);
                    self.world = world;
                    return;
                }
                Err(error) => tracing::error!(%error, "the store cannot be read; trying again"),
            }
            // While nothing can be read nothing can be done either; but a stop is obeyed.
            while let Ok(input) = self.queue.try_recv() {
                if matches!(input, Input::Stop) {
                    self.stopping.send_replace(true);
                    return;
                }
            }
        }
    }
}
