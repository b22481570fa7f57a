//! The orchestrator: commands in, events out, agents told what to do.
//!
//! [`Platform`] is the handle that servers and embedders hold. Behind it one task owns all state ([`world`]) and takes one
//! input after the other ([`run`]): a command, a report of an agent, a deadline. What follows from an input is decided by
//! pure functions ([`decide`]), and then always in this order: **append** (events and rows in one transaction), **ring** (feeds
//! wake up), **send** (agents, answers). What is not in the store did not happen.
//!
//! ```text
//!  deploy, cancel …  ──▶ ┐                       ┌─▶ store: events + rows
//!  agent's progress  ──▶ │ run: decide → apply → ├─▶ feeds
//!  deadline          ──▶ ┘        (world)        └─▶ agents, answers
//! ```
//! Each agent's connection is served by [`session`], which brings lines to the job logs and hands progress over only when
//! the lines before it are durable.

mod decide;
mod error;
mod run;
mod session;
#[cfg(test)]
mod tests;
mod world;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

pub use error::PlatformError;

use crate::api;
use crate::catalog::Service;
use crate::deployment::{DeployKind, Deployment, Outcome};
use crate::event::Event;
use crate::feed::{EventFilter, Feed};
use crate::id::{DeploymentId, DeploymentNumber, DeploymentRef, EventSeq, InstanceId};
use crate::logs::{Logs, LogsConfig};
use crate::name::{AgentName, EnvName, GitRef, IdempotencyKey, SandboxName, ServiceName, did_you_mean};
use crate::principal::Principal;
use crate::sandbox::{Instance, Sandbox};
use crate::secret::GitCredential;
use crate::store::Store;
use crate::wire::link::{self, AgentEnd, ServerEnd};
use crate::wire::{Answer, StepLimits};

use run::{Command, Input};

/// Where the platform keeps its things, and its limits. Every wait has one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PlatformConfig {
    /// The data folder: `sdp.db` and `logs/` in it. Made if it is not there.
    pub data_dir: PathBuf,
    /// How long each step may take on an agent.
    pub steps: StepLimits,
    /// How long a deployment may wait while no agent that fits is connected.
    pub no_agent_after: Duration,
    /// How long a deployment may wait for its turn.
    pub queue_limit: Duration,
    /// How many deployments may wait.
    pub queue_size: usize,
    /// How long an agent may take to accept work.
    pub accept_limit: Duration,
    /// How long a router may take to put a table into effect.
    pub switch_limit: Duration,
    /// How long an agent may take to stop everything after a cancel.
    pub cancel_limit: Duration,
    /// How long a replaced instance may take to finish the requests it has.
    pub drain_limit: Duration,
    /// After how long an agent's absence fails its deployments.
    pub lost_after: Duration,
    /// How long an agent may take to answer a question (branches, output).
    pub answer_limit: Duration,
    /// Below so many free bytes in the data folder new deployments are refused.
    pub disk_floor: u64,
    /// Limits of the job logs.
    pub logs: LogsConfig,
}

impl PlatformConfig {
    /// The defaults, with everything in this folder.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            steps: StepLimits::default(),
            no_agent_after: Duration::from_secs(600),
            queue_limit: Duration::from_secs(2 * 3600),
            queue_size: 1000,
            accept_limit: Duration::from_secs(60),
            switch_limit: Duration::from_secs(30),
            cancel_limit: Duration::from_secs(75),
            drain_limit: Duration::from_secs(30),
            lost_after: Duration::from_secs(600),
            answer_limit: Duration::from_secs(30),
            disk_floor: 64 * 1024 * 1024,
            logs: LogsConfig::default(),
        }
    }
}

/// Ask for a deployment.
#[derive(Clone, Debug)]
pub struct Deploy {
    /// Which service.
    pub service: ServiceName,
    /// Branch, tag or commit; without one: the last one in that sandbox, else the service's default branch.
    pub git_ref: Option<GitRef>,
    /// Where to; without one: the asker's own sandbox. Made on first use.
    pub sandbox: Option<SandboxName>,
    /// Variables for this deployment, over those of the service.
    pub env: BTreeMap<EnvName, String>,
    /// For the fetch alone; kept in memory until the fetch has ended, never stored.
    pub credential: Option<GitCredential>,
    /// "The same request again": same key and fingerprint, same deployment.
    pub idempotency: Option<Idempotency>,
}

impl Deploy {
    /// This service, nothing else said.
    #[must_use]
    pub fn new(service: ServiceName) -> Self {
        Self {
            service,
            git_ref: None,
            sandbox: None,
            env: BTreeMap::new(),
            credential: None,
            idempotency: None,
        }
    }

    /// This branch, tag or commit.
    #[must_use]
    pub fn git_ref(mut self, git_ref: GitRef) -> Self {
        self.git_ref = Some(git_ref);
        self
    }

    /// To this sandbox.
    #[must_use]
    pub fn to(mut self, sandbox: SandboxName) -> Self {
        self.sandbox = Some(sandbox);
        self
    }
}

/// What makes a request safe to repeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The client's key; each principal has keys of its own.
    pub key: IdempotencyKey,
    /// A digest of the request; another one with the same key is refused.
    pub fingerprint: String,
}

/// What redeploy, rollback and restart may carry.
#[derive(Clone, Debug, Default)]
pub struct Again {
    /// Only used if the kept build is gone and the commit must be fetched again.
    pub credential: Option<GitCredential>,
    /// As for [`Deploy`].
    pub idempotency: Option<Idempotency>,
}

/// Which deployments to list.
#[derive(Clone, Debug, Default)]
pub struct DeploymentFilter {
    /// Only of this service.
    pub service: Option<ServiceName>,
    /// Only in this sandbox.
    pub sandbox: Option<SandboxName>,
    /// Only in this state.
    pub state: Option<StateFilter>,
    /// Only with a lower number: how a page follows the one before.
    pub before: Option<DeploymentNumber>,
    /// At most so many, newest first.
    pub limit: u32,
}

/// A state to filter by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateFilter {
    /// Waiting.
    Queued,
    /// Being worked on.
    Running,
    /// Over.
    Ended,
}

/// Which instances to list.
#[derive(Clone, Debug, Default)]
pub struct InstanceFilter {
    /// Only of this service.
    pub service: Option<ServiceName>,
    /// Only in this sandbox.
    pub sandbox: Option<SandboxName>,
    /// Those that are over, too.
    pub all: bool,
}

/// How a service is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Save {
    /// Only if there is none of that name.
    Create,
    /// New or changed, whichever it is.
    Put,
}

/// SDP itself. Cheap to clone; all clones are the same platform.
///
/// ```
/// use sdp_core::platform::{Deploy, Platform, PlatformConfig, Save};
/// use sdp_core::principal::Principal;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let data = tempfile::tempdir()?;
/// let platform = Platform::start(PlatformConfig::new(data.path())).await?;
/// let alice = Principal::person("alice".parse()?);
/// let service = serde_json::from_str(
///     r#"{ "name": "hello", "repo": "/srv/git/hello.git", "builder": { "type": "command", "run": ["./serve"] } }"#,
/// )?;
/// platform.save_service(&alice, service, Save::Create).await?;
///
/// let deployment = platform.deploy(&alice, Deploy::new("hello".parse()?).git_ref("feature/x".parse()?)).await?;
/// assert_eq!((deployment.number.0, deployment.sandbox.as_str()), (1, "alice"));
/// // No agent is connected yet, so it waits; here somebody changes their mind.
/// let ended = platform.cancel(&alice, deployment.id.into()).await?;
/// assert_eq!(ended.outcome().map(|outcome| outcome.code()), Some("cancelled"));
/// platform.stop().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Platform {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: PlatformConfig,
    store: Store,
    logs: Logs,
    inputs: mpsc::Sender<Input>,
    newest: watch::Receiver<EventSeq>,
    /// The orchestrator; `stop` awaits it.
    task: Mutex<JoinSet<()>>,
}

impl Platform {
    /// Opens the data folder, recovers what was under way, and starts the orchestrator on the present runtime.
    ///
    /// # Errors
    /// When the folder, the database or the logs cannot be opened.
    pub async fn start(config: PlatformConfig) -> Result<Self, PlatformError> {
        let folder = config.data_dir.clone();
        let (store, logs) = tokio::task::spawn_blocking({
            let logs = config.logs.clone();
            move || {
                std::fs::create_dir_all(&folder).map_err(|source| PlatformError::DataDir {
                    path: folder.clone(),
                    source: Arc::new(source),
                })?;
                let store = Store::open(&folder.join("sdp.db"))?;
                let logs = Logs::open(folder.join("logs"), logs)?;
                Ok::<_, PlatformError>((store, logs))
            }
        })
        .await
        .map_err(|_| PlatformError::Stopping)??;
        let snapshot = store.read(crate::store::Snapshot::load).await?;
        let (run, inputs, newest) = run::Run::new(config.clone(), store.clone(), logs.clone(), snapshot);
        let mut task = JoinSet::new();
        task.spawn(run.run());
        let task = Mutex::new(task);
        Ok(Self { inner: Arc::new(Inner { config, store, logs, inputs, newest, task }) })
    }

    /// Stops taking commands, ends all connections to agents, and returns when everything accepted is in the store.
    /// Deployments under way go on at their agents and are taken up again by the next start.
    pub async fn stop(&self) {
        drop(self.inner.inputs.send(Input::Stop).await);
        let mut task = std::mem::take(&mut *self.inner.task.lock().unwrap_or_else(PoisonError::into_inner));
        // An error would be a panic of the task, which the runtime has reported already.
        while task.join_next().await.is_some() {}
    }

    // ── catalog ───────────────────────────────────────────────────────────────────────────────────────────────────

    /// All services, by name.
    ///
    /// # Errors
    /// [`PlatformError::Stopping`].
    pub async fn services(&self) -> Result<Vec<Service>, PlatformError> {
        self.ask(|world| world.services.values().cloned().collect()).await
    }

    /// One service.
    ///
    /// # Errors
    /// [`PlatformError::UnknownService`].
    pub async fn service(&self, name: &ServiceName) -> Result<Service, PlatformError> {
        let name = name.clone();
        self.ask(move |world| world.service(&name).cloned()).await?
    }

    /// Adds a service to the catalog or changes its entry; says whether it is new.
    ///
    /// # Errors
    /// [`PlatformError::InvalidService`], [`PlatformError::ServiceExists`], [`PlatformError::PrefixTaken`].
    pub async fn save_service(
        &self,
        by: &Principal,
        service: Service,
        save: Save,
    ) -> Result<bool, PlatformError> {
        service.check()?;
        match self.command(by, Command::SaveService { service: Box::new(service), save }).await? {
            run::Reply::Saved { created } => Ok(created),
            _ => Err(PlatformError::Stopping),
        }
    }

    /// Takes a service out of the catalog.
    ///
    /// # Errors
    /// [`PlatformError::UnknownService`], [`PlatformError::ServiceInUse`].
    pub async fn delete_service(&self, by: &Principal, name: &ServiceName) -> Result<(), PlatformError> {
        self.command(by, Command::DeleteService { name: name.clone() }).await.map(drop)
    }

    /// Branches and tags of a service's repository, asked of an agent with this credential (or its own).
    ///
    /// # Errors
    /// [`PlatformError::UnknownService`], [`PlatformError::NoAgent`], [`PlatformError::Failed`] with the git host's answer.
    pub async fn branches(
        &self,
        name: &ServiceName,
        credential: Option<GitCredential>,
    ) -> Result<api::BranchList, PlatformError> {
        let service = self.service(name).await?;
        let question = run::Question::ListRefs { repo: service.repo, labels: service.labels, credential };
        match self.question(question).await? {
            Answer::Refs { head, branches, tags } => Ok(api::BranchList { head, branches, tags }),
            Answer::Failed { failure } => Err(PlatformError::Failed(failure)),
            Answer::Output { .. } => Err(PlatformError::NoAgent),
        }
    }

    // ── deployments ───────────────────────────────────────────────────────────────────────────────────────────────

    /// Asks for a deployment. The answer comes at once; follow its events, or look again.
    ///
    /// # Errors
    /// [`PlatformError::UnknownService`], [`PlatformError::IdempotencyConflict`], [`PlatformError::DiskLow`],
    /// [`PlatformError::QueueFull`].
    pub async fn deploy(&self, by: &Principal, deploy: Deploy) -> Result<Deployment, PlatformError> {
        crate::catalog::check_variables(&deploy.env)?;
        let service = self.service(&deploy.service).await?;
        let sandbox = deploy.sandbox.unwrap_or_else(|| by.own_sandbox());
        let git_ref = match deploy.git_ref {
            Some(git_ref) => git_ref,
            None => self.last_ref(&deploy.service, &sandbox).await?.unwrap_or(service.default_branch),
        };
        let command = run::DeployCommand {
            service: deploy.service,
            sandbox,
            git_ref,
            env: deploy.env,
            kind: DeployKind::Deploy,
            commit: None,
            of: None,
            prefer: None,
            credential: deploy.credential,
            idempotency: deploy.idempotency,
        };
        self.start_deployment(by, command).await
    }

    /// Deploys the commit of an earlier deployment again, from its kept build if that is still there.
    ///
    /// # Errors
    /// [`PlatformError::UnknownDeployment`], [`PlatformError::NoCommit`], and as [`Platform::deploy`].
    pub async fn redeploy(
        &self,
        by: &Principal,
        reference: DeploymentRef,
        again: Again,
    ) -> Result<Deployment, PlatformError> {
        let earlier = self.deployment(reference).await?;
        self.deploy_again(by, earlier, DeployKind::Redeploy, again).await
    }

    /// Brings back what ran before the present commit, in the place (service and sandbox) of this deployment. Rolling back
    /// twice goes back two commits.
    ///
    /// # Errors
    /// [`PlatformError::UnknownDeployment`], [`PlatformError::NothingToRollBack`], and as [`Platform::deploy`].
    pub async fn rollback(
        &self,
        by: &Principal,
        reference: DeploymentRef,
        again: Again,
    ) -> Result<Deployment, PlatformError> {
        let place = self.deployment(reference).await?;
        let earlier = self.before_present(&place.service, &place.sandbox).await?;
        self.deploy_again(by, earlier, DeployKind::Rollback, again).await
    }

    /// Starts a running instance's commit anew and puts it in its place.
    ///
    /// # Errors
    /// [`PlatformError::UnknownInstance`], and as [`Platform::deploy`].
    pub async fn restart(
        &self,
        by: &Principal,
        id: InstanceId,
        again: Again,
    ) -> Result<Deployment, PlatformError> {
        let instance = self.instance(id).await?;
        let earlier = self.deployment(instance.deployment.into()).await?;
        self.deploy_again(by, earlier, DeployKind::Restart, again).await
    }

    /// Cancels a deployment. One that waits has ended when this returns; one that runs ends when everything it started is gone.
    ///
    /// # Errors
    /// [`PlatformError::UnknownDeployment`], [`PlatformError::AlreadyEnded`].
    pub async fn cancel(
        &self,
        by: &Principal,
        reference: DeploymentRef,
    ) -> Result<Deployment, PlatformError> {
        let deployment = self.deployment(reference).await?;
        self.command(by, Command::Cancel { deployment: deployment.id, number: deployment.number }).await?;
        self.deployment(deployment.id.into()).await
    }

    /// One deployment.
    ///
    /// # Errors
    /// [`PlatformError::UnknownDeployment`].
    pub async fn deployment(&self, reference: DeploymentRef) -> Result<Deployment, PlatformError> {
        let found =
            self.inner.store.read(move |connection| crate::store::deployment(connection, reference)).await?;
        found.ok_or(PlatformError::UnknownDeployment { reference })
    }

    /// Deployments, newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn deployments(&self, filter: DeploymentFilter) -> Result<Vec<Deployment>, PlatformError> {
        Ok(self.inner.store.read(move |connection| crate::store::deployments(connection, &filter)).await?)
    }

    /// A queued deployment's place in the queue, from 1; none if it does not wait.
    ///
    /// # Errors
    /// [`PlatformError::Stopping`].
    pub async fn queue_position(&self, id: DeploymentId) -> Result<Option<u32>, PlatformError> {
        self.ask(move |world| world.queue_position(id)).await
    }

    /// Waits until a deployment has ended, at most so long, and gives it as it stands then.
    ///
    /// # Errors
    /// [`PlatformError::UnknownDeployment`].
    pub async fn wait_ended(
        &self,
        reference: DeploymentRef,
        limit: Duration,
    ) -> Result<Deployment, PlatformError> {
        let mut deployment = self.deployment(reference).await?;
        let filter = EventFilter { deployment: Some(deployment.id), ..EventFilter::default() };
        let mut feed = self.feed(deployment.version, filter);
        let follow = async {
            while !deployment.is_ended() {
                deployment.apply(&feed.next().await?);
            }
            Ok::<_, PlatformError>(())
        };
        match tokio::time::timeout(limit, follow).await {
            Ok(Err(PlatformError::Stopping)) | Ok(Ok(())) | Err(_) => Ok(deployment),
            Ok(Err(error)) => Err(error),
        }
    }

    // ── instances and sandboxes ───────────────────────────────────────────────────────────────────────────────────

    /// Instances, newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn instances(&self, filter: InstanceFilter) -> Result<Vec<Instance>, PlatformError> {
        Ok(self.inner.store.read(move |connection| crate::store::instances(connection, &filter)).await?)
    }

    /// One instance.
    ///
    /// # Errors
    /// [`PlatformError::UnknownInstance`].
    pub async fn instance(&self, id: InstanceId) -> Result<Instance, PlatformError> {
        let found = self.inner.store.read(move |connection| crate::store::instance(connection, id)).await?;
        found.ok_or(PlatformError::UnknownInstance { id })
    }

    /// Stops an instance: its requests go to the baseline from now on, and it ends when those under way have finished.
    ///
    /// # Errors
    /// [`PlatformError::UnknownInstance`], [`PlatformError::InstanceOver`].
    pub async fn stop_instance(&self, by: &Principal, id: InstanceId) -> Result<Instance, PlatformError> {
        self.instance(id).await?;
        self.command(by, Command::StopInstance { id }).await?;
        self.instance(id).await
    }

    /// What an instance printed last, asked of its agent.
    ///
    /// # Errors
    /// [`PlatformError::UnknownInstance`], [`PlatformError::AgentAway`].
    pub async fn instance_output(&self, id: InstanceId, lines: u32) -> Result<Vec<String>, PlatformError> {
        let instance = self.instance(id).await?;
        if instance.state.is_over() {
            return Ok(instance.last_lines);
        }
        match self.question(run::Question::ReadOutput { agent: instance.agent, instance: id, lines }).await? {
            Answer::Output { lines } => Ok(lines),
            Answer::Failed { failure } => Err(PlatformError::Failed(failure)),
            Answer::Refs { .. } => Err(PlatformError::NoAgent),
        }
    }

    /// All sandboxes, by name.
    ///
    /// # Errors
    /// [`PlatformError::Stopping`].
    pub async fn sandboxes(&self) -> Result<Vec<Sandbox>, PlatformError> {
        self.ask(|world| world.sandboxes.values().cloned().collect()).await
    }

    /// One sandbox.
    ///
    /// # Errors
    /// [`PlatformError::UnknownSandbox`].
    pub async fn sandbox(&self, name: &SandboxName) -> Result<Sandbox, PlatformError> {
        let name = name.clone();
        self.ask(move |world| world.sandbox(&name).cloned()).await?
    }

    /// Deletes a sandbox: cancels what is under way in it, and stops what runs in it.
    ///
    /// # Errors
    /// [`PlatformError::UnknownSandbox`].
    pub async fn delete_sandbox(&self, by: &Principal, name: &SandboxName) -> Result<(), PlatformError> {
        self.command(by, Command::DeleteSandbox { name: name.clone() }).await.map(drop)
    }

    // ── agents ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// All agents that ever connected, by name.
    ///
    /// # Errors
    /// [`PlatformError::Stopping`].
    pub async fn agents(&self) -> Result<Vec<api::AgentView>, PlatformError> {
        self.ask(|world| world.agents.values().map(|agent| agent.view(world)).collect()).await
    }

    /// Connects an agent in process; the returned end is the agent's.
    ///
    /// # Errors
    /// [`PlatformError::Stopping`].
    pub async fn connect_agent(&self, name: AgentName) -> Result<AgentEnd, PlatformError> {
        let (agent, server) = link::pair();
        self.input(Input::Serve { name, end: server, ended: None }).await?;
        Ok(agent)
    }

    /// Connects an agent of this process as often as it asks, which is what an agent in process needs; `None` while the
    /// platform takes no connections.
    pub fn connector(&self, name: AgentName) -> impl Fn() -> Option<AgentEnd> + Send + Sync + 'static {
        let inputs = self.inner.inputs.clone();
        move || {
            let (agent, end) = link::pair();
            inputs.try_send(Input::Serve { name: name.clone(), end, ended: None }).ok()?;
            Some(agent)
        }
    }

    /// Serves an agent's connection until it ends. The caller has authenticated the name, and pumps frames between the
    /// other end and a socket.
    ///
    /// # Errors
    /// [`PlatformError::Stopping`].
    pub async fn serve_agent(&self, name: AgentName, end: ServerEnd) -> Result<(), PlatformError> {
        let (ended, wait) = oneshot::channel();
        self.input(Input::Serve { name, end, ended: Some(ended) }).await?;
        drop(wait.await);
        Ok(())
    }

    // ── what happened ─────────────────────────────────────────────────────────────────────────────────────────────

    /// Follows the events after this one that pass the filter.
    #[must_use]
    pub fn feed(&self, after: EventSeq, filter: EventFilter) -> Feed {
        Feed::new(self.inner.store.clone(), self.inner.newest.clone(), after, filter)
    }

    /// The place of the newest event.
    #[must_use]
    pub fn newest_event(&self) -> EventSeq {
        *self.inner.newest.borrow()
    }

    /// The events of one deployment, oldest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn events_of(&self, id: DeploymentId) -> Result<Vec<Event>, PlatformError> {
        let mut feed = self.feed(EventSeq(0), EventFilter { deployment: Some(id), ..EventFilter::default() });
        let mut events = Vec::new();
        while let Some(event) = feed.try_next().await? {
            events.push(event);
        }
        Ok(events)
    }

    /// The job logs.
    #[must_use]
    pub fn logs(&self) -> &Logs {
        &self.inner.logs
    }

    /// The configuration it was started with.
    #[must_use]
    pub fn config(&self) -> &PlatformConfig {
        &self.inner.config
    }

    /// Whether it answers and its store can be written: what readiness means.
    ///
    /// # Errors
    /// What is wrong.
    pub async fn ready(&self) -> Result<(), PlatformError> {
        self.ask(|_| ()).await?;
        Ok(self.inner.store.write(crate::store::probe).await?)
    }

    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }

    // ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────

    async fn input(&self, input: Input) -> Result<(), PlatformError> {
        self.inner.inputs.send(input).await.map_err(|_| PlatformError::Stopping)
    }

    async fn command(&self, by: &Principal, command: Command) -> Result<run::Reply, PlatformError> {
        let (answer, answered) = oneshot::channel();
        self.input(Input::Command { by: by.clone(), command, answer }).await?;
        answered.await.map_err(|_| PlatformError::Stopping)?
    }

    async fn question(&self, question: run::Question) -> Result<Answer, PlatformError> {
        let (answer, answered) = oneshot::channel();
        self.input(Input::Question { question, answer }).await?;
        answered.await.map_err(|_| PlatformError::Stopping)?
    }

    async fn ask<T, F>(&self, read: F) -> Result<T, PlatformError>
    where
        T: Send + 'static,
        F: FnOnce(&world::World) -> T + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let read = Box::new(move |world: &world::World| drop(answer.send(read(world))));
        self.input(Input::Read(read)).await?;
        answered.await.map_err(|_| PlatformError::Stopping)
    }

    async fn start_deployment(
        &self,
        by: &Principal,
        command: run::DeployCommand,
    ) -> Result<Deployment, PlatformError> {
        let free = self.inner.logs.free_bytes().unwrap_or(u64::MAX);
        let floor = self.inner.config.disk_floor;
        if free < floor {
            return Err(PlatformError::DiskLow { free_mib: free >> 20, floor_mib: floor >> 20 });
        }
        match self.command(by, Command::Deploy(Box::new(command))).await? {
            run::Reply::Deployment(deployment) => Ok(*deployment),
            run::Reply::Known { deployment } => self.deployment(deployment.into()).await,
            _ => Err(PlatformError::Stopping),
        }
    }

    async fn deploy_again(
        &self,
        by: &Principal,
        earlier: Deployment,
        kind: DeployKind,
        again: Again,
    ) -> Result<Deployment, PlatformError> {
        let commit = earlier.commit.ok_or(PlatformError::NoCommit { number: earlier.number })?;
        let command = run::DeployCommand {
            service: earlier.service,
            sandbox: earlier.sandbox,
            git_ref: earlier.git_ref,
            env: earlier.env,
            kind,
            commit: Some(commit),
            of: Some(earlier.number),
            prefer: earlier.agent,
            credential: again.credential,
            idempotency: again.idempotency,
        };
        self.start_deployment(by, command).await
    }

    async fn last_ref(
        &self,
        service: &ServiceName,
        sandbox: &SandboxName,
    ) -> Result<Option<GitRef>, PlatformError> {
        let filter = DeploymentFilter {
            service: Some(service.clone()),
            sandbox: Some(sandbox.clone()),
            limit: 1,
            ..DeploymentFilter::default()
        };
        Ok(self.deployments(filter).await?.pop().map(|deployment| deployment.git_ref))
    }

    /// The newest deployment before the present one that succeeded with another commit. Where the present one is itself a
    /// rollback, "before" counts from the one it went back to.
    async fn before_present(
        &self,
        service: &ServiceName,
        sandbox: &SandboxName,
    ) -> Result<Deployment, PlatformError> {
        let mut before = None;
        let mut present: Option<Deployment> = None;
        loop {
            let filter = DeploymentFilter {
                service: Some(service.clone()),
                sandbox: Some(sandbox.clone()),
                state: Some(StateFilter::Ended),
                before,
                limit: 50,
            };
            let page = self.deployments(filter).await?;
            for deployment in &page {
                if !matches!(deployment.outcome(), Some(Outcome::Succeeded {})) {
                    continue;
                }
                match &present {
                    None => present = Some(self.origin(deployment.clone()).await?),
                    Some(present)
                        if deployment.number < present.number && deployment.commit != present.commit =>
                    {
                        return Ok(deployment.clone());
                    }
                    Some(_) => {}
                }
            }
            before = match page.last() {
                Some(last) => Some(last.number),
                None => {
                    let (service, sandbox) = (service.clone(), sandbox.clone());
                    return Err(PlatformError::NothingToRollBack { service, sandbox });
                }
            };
        }
    }

    /// The deployment that first brought this one's commit, as far as it is a repetition.
    async fn origin(&self, mut deployment: Deployment) -> Result<Deployment, PlatformError> {
        while let (DeployKind::Rollback | DeployKind::Restart | DeployKind::Redeploy, Some(of)) =
            (deployment.kind, deployment.of)
        {
            deployment = self.deployment(DeploymentRef::Number(of)).await?;
        }
        Ok(deployment)
    }
}

impl world::World {
    fn service(&self, name: &ServiceName) -> Result<&Service, PlatformError> {
        self.services.get(name).ok_or_else(|| PlatformError::UnknownService {
            name: name.clone(),
            did_you_mean: did_you_mean(name.as_str(), self.services.keys().map(ServiceName::as_str))
                .map(str::to_owned),
        })
    }

    fn sandbox(&self, name: &SandboxName) -> Result<&Sandbox, PlatformError> {
        self.sandboxes.get(name).ok_or_else(|| PlatformError::UnknownSandbox {
            name: name.clone(),
            did_you_mean: did_you_mean(name.as_str(), self.sandboxes.keys().map(SandboxName::as_str))
                .map(str::to_owned),
        })
    }
}
