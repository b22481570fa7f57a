//! The orchestrator: commands in, events out, agents told what to do.
//!
//! [`Platform`] is the handle that servers and embedders hold. Behind it one task owns all state (`world`) and takes one
//! input after the other (`run`): a command, a report of an agent, a deadline. What follows from an input is decided by
//! pure functions (`decide`), and then always in this order: **append** (events and rows in one transaction), **ring** (feeds
//! wake up), **send** (agents, answers). What is not in the store did not happen.
//!
//! ```text
//!  deploy, cancel …  ──▶ ┐                       ┌─▶ store: events + rows
//!  agent's progress  ──▶ │ run: decide → apply → ├─▶ feeds
//!  deadline          ──▶ ┘        (world)        └─▶ agents, answers
//! ```
//! Each agent's connection is served by `session`, which brings lines to the job logs and hands progress over only when
//! the lines before it are durable.

mod clock;
mod config;
mod credentials;
mod decide;
mod error;
mod input;
mod line;
mod listings;
mod output;
mod places;
mod repositories;
mod request;
mod run;
mod secrets;
mod session;
mod stats;
#[cfg(test)]
mod tests;
mod verbs;
mod world;

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

pub use config::{ListingLimits, PlatformConfig, VaultKey};
pub use error::PlatformError;
pub use line::Line;
pub use output::{Followed, OutputFollow};
pub use request::{Again, Deploy, DeploymentFilter, Idempotency, InstanceFilter, Power, Save, StateFilter};
pub use stats::{DiskSpace, INSTANCE_STATES, OPEN_STATES, PlatformStats};

use crate::api;
use crate::catalog::Service;
use crate::event::Event;
use crate::feed::{EventFilter, Feed};
use crate::id::{DeploymentId, EventSeq};
use crate::logs::Logs;
use crate::name::{AgentName, SandboxName, ServiceName, did_you_mean};
use crate::principal::Principal;
use crate::sandbox::Sandbox;
use crate::store::{Snapshot, Store, StoreError};
use crate::vault::Vault;
use crate::wire::Answer;
use crate::wire::link::{self, AgentEnd, ServerEnd};

use input::{Command, Input, Question, Reply};

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
    /// The orchestrator's.
    clock: clock::Clock,
    store: Store,
    vault: Vault,
    logs: Logs,
    followers: Arc<output::Followers>,
    lists: repositories::Lists,
    inputs: mpsc::Sender<Input>,
    newest: watch::Receiver<EventSeq>,
    /// Why what happens cannot be stored at present.
    storage: watch::Receiver<Option<StoreError>>,
    /// Rung when something that opened a door has been made worthless.
    revocations: watch::Sender<()>,
    /// The orchestrator; `stop` awaits it.
    task: Mutex<JoinSet<()>>,
}

impl Platform {
    /// Opens the data folder, recovers what was under way, and starts the orchestrator on the present runtime. The folder is
    /// this platform's until it is stopped.
    ///
    /// # Errors
    /// When the folder, the database, the key or the logs cannot be opened, or another process has the folder.
    pub async fn start(config: PlatformConfig) -> Result<Self, PlatformError> {
        let folder = config.data_dir.clone();
        tokio::fs::create_dir_all(&folder)
            .await
            .map_err(|source| PlatformError::DataDir { path: folder.clone(), source: Arc::new(source) })?;
        let store = Store::open(&folder).await?;
        // With the folder taken: two who make a key at once would each have one that the other does not know.
        let vault = match secrets::open_vault(&config.vault).await {
            Ok(vault) => vault,
            Err(error) => {
                store.close().await;
                return Err(error);
            }
        };
        let logs = {
            let (folder, config) = (folder.join("logs"), config.logs.clone());
            tokio::task::spawn_blocking(move || Logs::open(folder, config))
        };
        let logs = logs.await.map_err(|_| PlatformError::Stopping)??;
        let opener = vault.clone();
        let (snapshot, credentials) = store
            .read(move |connection| {
                let snapshot = Snapshot::load(connection)?;
                let credentials = credentials::again(connection, &opener, &snapshot)?;
                Ok((snapshot, credentials))
            })
            .await?;
        secrets::warn_of_unreadable(&vault, &snapshot.secrets);
        let followers = Arc::new(output::Followers::default());
        let lists = repositories::Lists::new(config.listings)?;
        let clock = clock::Clock::start();
        let (run, inputs, newest, storage) = run::Run::new(
            config.clone(),
            clock,
            (store.clone(), vault.clone()),
            logs.clone(),
            followers.clone(),
            snapshot,
            credentials,
        );
        let mut task = JoinSet::new();
        task.spawn(run.run());
        // Its sender goes with the loop.
        let (mut of_loop, every) = (storage.clone(), config.look_for_branches);
        let platform = Self {
            inner: Arc::new(Inner {
                config,
                clock,
                store,
                vault,
                logs,
                followers,
                lists,
                inputs,
                newest,
                storage,
                revocations: watch::Sender::new(()),
                task: Mutex::default(),
            }),
        };
        let inner = Arc::downgrade(&platform.inner);
        task.spawn(async move {
            let looking = async {
                loop {
                    tokio::time::sleep(every).await;
                    let Some(inner) = inner.upgrade() else { return };
                    Self { inner }.look_for_branches().await;
                }
            };
            let over = async { while of_loop.changed().await.is_ok() {} };
            tokio::select! {
                () = looking => {}
                () = over => {}
            }
        });
        *platform.inner.task.lock().unwrap_or_else(PoisonError::into_inner) = task;
        Ok(platform)
    }

    /// Stops taking commands, ends all connections to agents, and returns when everything accepted is in the store and the
    /// data folder is given up: from then on nothing can be written. Deployments under way go on at their agents and
    /// are taken up again by the next start.
    pub async fn stop(&self) {
        drop(self.inner.inputs.send(Input::Stop).await);
        let mut task = std::mem::take(&mut *self.inner.task.lock().unwrap_or_else(PoisonError::into_inner));
        // An error would be a panic of the task, which the runtime has reported already.
        while task.join_next().await.is_some() {}
        // Nobody answers them any more.
        self.inner.lists.asking.ended().await;
        self.inner.store.close().await;
    }

    // ── agents ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// All agents that ever connected, by name.
    ///
    /// # Errors
    /// [`PlatformError::Stopping`].
    pub async fn agents(&self) -> Result<Vec<api::AgentView>, PlatformError> {
        self.ask(|world| world.agents.values().map(|agent| agent.view(world)).collect()).await
    }

    /// One agent.
    ///
    /// # Errors
    /// [`PlatformError::UnknownAgent`].
    pub async fn agent(&self, name: &AgentName) -> Result<api::AgentView, PlatformError> {
        let name = name.clone();
        self.ask(move |world| match world.agents.get(&name) {
            Some(agent) => Ok(agent.view(world)),
            None => Err(decide::unknown_agent(world, &name)),
        })
        .await?
    }

    /// Gives an agent no new work until it is resumed. What it works on it finishes, what runs on it serves on, its router routes
    /// on; so it stays over restarts of agent and server. Nothing happens if it is being drained already.
    ///
    /// # Errors
    /// [`PlatformError::UnknownAgent`].
    pub async fn drain_agent(&self, by: &Principal, name: &AgentName) -> Result<(), PlatformError> {
        self.command(by, Command::DrainAgent { name: name.clone(), draining: true }).await.map(drop)
    }

    /// Gives an agent work again.
    ///
    /// # Errors
    /// [`PlatformError::UnknownAgent`].
    pub async fn resume_agent(&self, by: &Principal, name: &AgentName) -> Result<(), PlatformError> {
        self.command(by, Command::DrainAgent { name: name.clone(), draining: false }).await.map(drop)
    }

    /// Removes an agent, its token and its enrolment, and ends its connection. With `force` what it works on and what runs on it
    /// ends as lost.
    ///
    /// # Errors
    /// [`PlatformError::UnknownAgent`], [`PlatformError::AgentInUse`].
    pub async fn forget_agent(
        &self,
        by: &Principal,
        name: &AgentName,
        force: bool,
    ) -> Result<(), PlatformError> {
        self.command(by, Command::ForgetAgent { name: name.clone(), force }).await?;
        self.inner.revocations.send_replace(());
        Ok(())
    }

    /// Ends the connection of an agent whose token is worthless; when this returns, nothing more is sent to it: no question, no
    /// credential, no table.
    ///
    /// # Errors
    /// [`PlatformError::Stopping`].
    pub async fn disconnect_agent(&self, name: &AgentName) -> Result<(), PlatformError> {
        let (answer, answered) = oneshot::channel();
        self.input(Input::Disconnect { agent: name.clone(), answer }).await?;
        answered.await.map_err(|_| PlatformError::Stopping)
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

    /// Whether it answers, its store can be written, and it would take a deployment: what readiness means.
    ///
    /// # Errors
    /// What is wrong.
    pub async fn ready(&self) -> Result<(), PlatformError> {
        self.answers().await?;
        self.can_store().await?;
        self.room()
    }

    /// Whether there is room for another deployment.
    fn room(&self) -> Result<(), PlatformError> {
        let free = self.inner.logs.free_bytes().unwrap_or(u64::MAX);
        let floor = self.inner.config.disk_floor;
        if free < floor {
            return Err(PlatformError::DiskLow { free_mib: free >> 20, floor_mib: floor >> 20 });
        }
        Ok(())
    }

    pub(crate) fn revocations(&self) -> &watch::Sender<()> {
        &self.inner.revocations
    }

    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }

    // ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────

    async fn input(&self, input: Input) -> Result<(), PlatformError> {
        self.inner.inputs.send(input).await.map_err(|_| PlatformError::Stopping)
    }

    async fn command(&self, by: &Principal, command: Command) -> Result<Reply, PlatformError> {
        let (answer, answered) = oneshot::channel();
        self.input(Input::Command { by: by.clone(), command, answer }).await?;
        answered.await.map_err(|_| PlatformError::Stopping)?
    }

    async fn question(&self, question: Question) -> Result<Answer, PlatformError> {
        repositories::question_over(&self.inner.inputs, question).await
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
