//! Instances as containers of an engine on this machine (Docker 20.10 or newer), which outlive the agent.
//!
//! Called by the job (release, start, check) and by the agent (stop, reports, output, forget). `body` says what a container
//! is, `files` what it sees, `start` and `release` make one, `check` asks whether it is well, `watch` follows what becomes of
//! them, `suspend` ends one for a while, `output` reads what they print, `preflight` looks at the engine.
//!
//! ```text
//!   start ──▶ Running ──ends with an error──▶ Running, restarts + 1  (at most 3, with the engine's own pauses)
//!               │  ▲                             └──▶ Exited   gave up, or ended without an error; kept with its output
//!               │  └── the engine, the machine or the agent was away: whatever is down then is started again and counted once
//!               │      more, unless it gave up; an end without an error cannot be told from the engine's own shutdown
//!               ├──suspend──▶ Exited ──wake──▶ Running     its container is kept
//!               └──stop──▶ Stopped                             both until `forget`
//! ```
//! Invariants: an agent touches only what bears its own label. "Cannot list" is never "there are none": while the engine does
//! not answer, reports stay as they were and [`degraded`](Runtime::degraded) says why. What a start that fails, is dropped or
//! is cut off by the agent's end has made is removed, at the latest when the agent opens again. Starts and stops of one
//! instance are made one by one. A port belongs to its instance until that is forgotten, also across restarts of the agent,
//! the engine and the machine.
//!
//! Limits: the range of ports bounds how many there are; the log of a container is 3 files of 10 MB; a stop waits
//! `STOP_PATIENCE` for an engine that does not answer, and is made up for when it does.

mod body;
mod check;
mod engine;
mod events;
mod files;
mod label;
mod output;
mod preflight;
mod release;
mod restarts;
mod start;
mod suspend;
mod watch;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use sdp_core::catalog::HealthCheck;
use sdp_core::id::{DeploymentId, InstanceId};
use sdp_core::wire::{DOCKER, Exit, Health, InstanceReport, InstanceStatus, Preflight};
use tokio::sync::watch as channel;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::health::CheckError;
use super::ports::Ports;
use super::{Printed, Runtime, StartError, StartSpec};
use crate::config::{DockerConfig, User};
use crate::exec::OnLine;
use crate::redact::Redactor;
use crate::sync::Lock;
use engine::{Engine, is_away, said};
use label::{AgentId, Found};
use restarts::Restarts;

/// How long a stop waits for an engine that does not answer.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// The agent's start waits so long for the engine's first answer.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// How containers are run.
#[derive(Clone, Debug)]
pub struct DockerRuntimeConfig {
    /// The agent's folder: the runtime uses `docker-id` and `instances` in it. Absolute and without links.
    pub data_dir: PathBuf,
    /// The folder beneath which all builds lie; nothing else is shown to a container. Absolute and without links.
    pub work_dir: PathBuf,
    /// The engine, and the limits of a container whose service says nothing.
    pub engine: DockerConfig,
    /// Which ports of this machine they get.
    pub ports: RangeInclusive<u16>,
    /// The address of this machine as the router reaches it.
    pub advertise: IpAddr,
    /// Between being asked to end and being killed.
    pub stop_grace: Duration,
    /// What the operator gives to all of them.
    pub env: BTreeMap<String, String>,
    /// Whom they run as; not root.
    pub user: User,
}

/// All instances that run in containers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DockerRuntime(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: DockerRuntimeConfig,
    agent: AgentId,
    engine: OnceLock<Engine>,
    ports: Ports,
    entries: Lock<BTreeMap<InstanceId, Arc<Entry>>>,
    /// One start or stop of an instance at a time.
    gates: Lock<HashMap<InstanceId, Arc<tokio::sync::Mutex<()>>>>,
    /// Containers that are being made: they are no strangers.
    making: Lock<HashSet<InstanceId>>,
    /// One network is made by one.
    network: tokio::sync::Mutex<()>,
    degraded: channel::Sender<Option<String>>,
    generation: channel::Sender<u64>,
    /// Owns every task; `shut_down` waits for them.
    tasks: TaskTracker,
    closing: CancellationToken,
}

/// An instance that is not forgotten.
#[derive(Debug)]
struct Entry {
    /// The container's id.
    container: String,
    found: Found,
    address: SocketAddr,
    status: channel::Sender<InstanceStatus>,
    /// Moves whenever the container does something.
    pulse: channel::Sender<u64>,
    /// It is to go: nobody starts it again, and its end is no news.
    unwanted: AtomicBool,
    /// It is to stay down for this reason, until it is woken: whatever its container does is no news.
    suspended: Lock<Option<String>>,
    /// It is to be forgotten once it is gone.
    forgotten: AtomicBool,
    /// Somebody is at work on what could not be stopped or removed before.
    finishing: AtomicBool,
    redactor: Redactor,
    facts: Lock<Facts>,
    /// Its deployment's check was passed: it is checked again after each start.
    passed: AtomicBool,
    /// Ends the check of an earlier run.
    checking: Lock<CancellationToken>,
}

/// What events said that an inspection does not show any more.
#[derive(Clone, Debug, Default)]
struct Facts {
    /// Something in it ran out of memory since it was started.
    out_of_memory: bool,
    /// Somebody sent it a signal since it was started.
    signalled: bool,
    /// How it ended the last time.
    last_exit: Option<Exit>,
    /// How many times it ended since it was started by somebody.
    exits: u32,
    /// How many times the engine started it again.
    restarts: Restarts,
}

impl Entry {
    fn new(container: String, found: Found, address: SocketAddr, redactor: Redactor) -> Self {
        Self {
            container,
            found,
            address,
            status: channel::Sender::new(InstanceStatus::Running {
                address,
                restarts: 0,
                last_restart: None,
                health: Health::Checking {},
            }),
            pulse: channel::Sender::new(0),
            unwanted: AtomicBool::new(false),
            suspended: Lock::default(),
            forgotten: AtomicBool::new(false),
            finishing: AtomicBool::new(false),
            redactor,
            facts: Lock::default(),
            passed: AtomicBool::new(false),
            checking: Lock::default(),
        }
    }

    fn is_running(&self) -> bool {
        matches!(&*self.status.borrow(), InstanceStatus::Running { .. })
    }

    fn is_unwanted(&self) -> bool {
        self.unwanted.load(Ordering::Acquire)
    }

    /// Whether somebody else than the watch sees to it.
    fn is_left_alone(&self) -> bool {
        self.is_unwanted() || self.suspended.lock().is_some()
    }
}

impl DockerRuntime {
    /// A runtime with the containers that an earlier agent of this folder left. An engine that does not answer is no error: the
    /// runtime is degraded until it does.
    ///
    /// # Errors
    /// When its folders cannot be used, or the containers would run as root.
    pub async fn open(config: DockerRuntimeConfig) -> io::Result<Self> {
        if config.user.is_root() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "containers do not run as root"));
        }
        let data = config.data_dir.clone();
        let agent =
            tokio::task::spawn_blocking(move || agent_id(&data)).await.map_err(io::Error::other)??;
        let runtime = Self(Arc::new(Shared {
            ports: Ports::new(config.ports.clone(), config.advertise),
            config,
            agent,
            engine: OnceLock::new(),
            entries: Lock::default(),
            gates: Lock::default(),
            making: Lock::default(),
            network: tokio::sync::Mutex::default(),
            degraded: channel::Sender::new(Some("the engine was not asked yet".to_owned())),
            generation: channel::Sender::new(0),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
        }));
        let mut answered = runtime.0.degraded.subscribe();
        runtime.0.tasks.spawn({
            let runtime = runtime.clone();
            async move {
                let closing = runtime.0.closing.clone();
                tokio::select! {
                    () = closing.cancelled() => {}
                    () = Box::pin(runtime.watch()) => {}
                }
            }
        });
        // Whatever the first answer is.
        drop(timeout(FIRST_ANSWER, answered.changed()).await);
        Ok(runtime)
    }

    fn engine(&self) -> Result<&Engine, String> {
        if let Some(engine) = self.0.engine.get() {
            return Ok(engine);
        }
        let engine = Engine::new(&self.0.config.engine.socket).map_err(|error| said(&error))?;
        Ok(self.0.engine.get_or_init(|| engine))
    }

    async fn stop(&self, instance: InstanceId) {
        let gate = self.gate(instance);
        let _one_by_one = gate.lock().await;
        let Some(entry) = self.entry(instance).filter(|entry| entry.is_running()) else { return };
        entry.unwanted.store(true, Ordering::Release);
        let until = Instant::now() + STOP_PATIENCE;
        let mut degraded = self.0.degraded.subscribe();
        loop {
            degraded.mark_unchanged();
            match self.end(&entry).await {
                Ok(()) => return,
                Err(why) => {
                    tracing::warn!(instance.id = %instance, %why, "failed to stop a container; it is tried again");
                }
            }
            tokio::select! {
                // The engine is back, or it has turned out that it is away.
                _ = degraded.changed() => {}
                () = tokio::time::sleep_until(until) => return,
                () = self.0.closing.cancelled() => return,
            }
        }
    }

    /// Stops and removes an unwanted container.
    async fn end(&self, entry: &Entry) -> Result<(), String> {
        let engine = self.engine()?;
        let said = |error| said(&error);
        engine.stop(&entry.container, self.0.config.stop_grace).await.map_err(said)?;
        engine.remove(&entry.container).await.map_err(said)?;
        entry.status.send_replace(InstanceStatus::Stopped {});
        entry.pulse.send_modify(|pulse| *pulse += 1);
        self.changed();
        Ok(())
    }

    fn reports(&self) -> Vec<InstanceReport> {
        let entries = self.0.entries.lock();
        let report = |(instance, entry): (&InstanceId, &Arc<Entry>)| InstanceReport {
            instance: *instance,
            deployment: entry.found.deployment,
            status: entry.status.borrow().clone(),
        };
        entries.iter().map(report).collect()
    }

    async fn next_change(&self, seen: &mut u64) {
        let mut generation = self.0.generation.subscribe();
        // The sender is ours: this cannot fail.
        if let Ok(newest) = generation.wait_for(|newest| *newest > *seen).await {
            *seen = *newest;
        }
    }

    fn forget(&self, instance: InstanceId) {
        // Without one there may be a folder that its release command has used.
        if let Some(entry) = self.entry(instance) {
            entry.forgotten.store(true, Ordering::Release);
        }
        let runtime = self.clone();
        self.0.tasks.spawn(async move {
            runtime.stop(instance).await;
            runtime.discard(instance).await;
        });
    }

    /// Removes all that is left of an instance that does not run; where the engine is away or refuses, the watch tries again.
    async fn discard(&self, instance: InstanceId) {
        let gate = self.gate(instance);
        let _one_by_one = gate.lock().await;
        let Some(entry) = self.entry(instance) else {
            let listed = self.0.degraded.borrow().is_none();
            if listed {
                self.drop_entry(instance).await;
            } else {
                // Its container may not have been seen yet.
                self.0.gates.lock().remove(&instance);
            }
            return;
        };
        if entry.is_running() {
            return;
        }
        let removed = match self.engine() {
            Ok(engine) => engine.remove(&entry.container).await.map_err(|error| said(&error)),
            Err(why) => Err(why),
        };
        match removed {
            Ok(()) => self.drop_entry(instance).await,
            Err(why) => {
                tracing::warn!(instance.id = %instance, %why, "failed to remove a container; it is tried again");
            }
        }
    }

    async fn drop_entry(&self, instance: InstanceId) {
        let known = self.0.entries.lock().remove(&instance).is_some();
        self.0.gates.lock().remove(&instance);
        self.0.ports.release(instance);
        self.remove_folder(instance).await;
        if known {
            self.changed();
        }
    }

    async fn remove_folder(&self, instance: InstanceId) {
        let root = self.0.config.instances();
        let removed =
            tokio::task::spawn_blocking(move || crate::workspace::remove::tree(&root, &instance.to_string()));
        if let Ok(Err(error)) = removed.await
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(instance.id = %instance, %error, "failed to remove an instance's folder");
        }
    }

    async fn shut_down(&self) {
        self.0.closing.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    fn gate(&self, instance: InstanceId) -> Arc<tokio::sync::Mutex<()>> {
        self.0.gates.lock().entry(instance).or_default().clone()
    }

    fn entry(&self, instance: InstanceId) -> Option<Arc<Entry>> {
        self.0.entries.lock().get(&instance).cloned()
    }

    fn changed(&self) {
        self.0.generation.send_modify(|generation| *generation += 1);
    }
}

impl DockerRuntimeConfig {
    fn instances(&self) -> PathBuf {
        self.data_dir.join("instances")
    }

    fn folder(&self, instance: InstanceId) -> PathBuf {
        self.instances().join(instance.to_string())
    }
}

/// Reads the id of a data folder's agent, or makes one. Blocking.
fn agent_id(data: &Path) -> io::Result<AgentId> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data.join("instances"))?;
    let path = data.join("docker-id");
    match std::fs::read_to_string(&path) {
        Ok(text) => AgentId::parse(text.trim()).ok_or_else(|| {
            let text = format!("{} is not as this agent wrote it", path.display());
            io::Error::new(io::ErrorKind::InvalidData, text)
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let (agent, unfinished) = (AgentId::new(), path.with_extension("new"));
            std::fs::write(&unfinished, agent.as_str())?;
            std::fs::File::open(&unfinished)?.sync_all()?;
            std::fs::rename(&unfinished, &path)?;
            std::fs::File::open(data)?.sync_all()?;
            Ok(agent)
        }
        Err(error) => Err(error),
    }
}

impl Runtime for DockerRuntime {
    fn kind(&self) -> &'static str {
        DOCKER
    }

    fn degraded(&self) -> Option<String> {
        self.0.degraded.borrow().clone()
    }

    fn preflight(&self) -> BoxFuture<'_, Vec<Preflight>> {
        Box::pin(self.preflight())
    }

    fn start(&self, spec: StartSpec) -> BoxFuture<'_, Result<SocketAddr, StartError>> {
        Box::pin(self.start(spec))
    }

    fn release<'a>(
        &'a self,
        spec: &'a StartSpec,
        argv: &'a [String],
        on_line: OnLine,
        stop: &'a CancellationToken,
        limit: Duration,
    ) -> BoxFuture<'a, Result<(), StartError>> {
        Box::pin(self.release(spec, argv, on_line, stop, limit))
    }

    fn check<'a>(
        &'a self,
        instance: InstanceId,
        check: &'a HealthCheck,
        limit: Duration,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Duration, CheckError>> {
        Box::pin(self.check(instance, check, limit, stop))
    }

    fn stop(&self, instance: InstanceId) -> BoxFuture<'_, ()> {
        Box::pin(self.stop(instance))
    }

    fn suspend<'a>(&'a self, instance: InstanceId, why: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(self.suspend(instance, why))
    }

    fn is_suspended(&self, instance: InstanceId) -> bool {
        self.entry(instance).is_some_and(|entry| !entry.is_running() && entry.suspended.lock().is_some())
    }

    fn wake(&self, instance: InstanceId) -> BoxFuture<'_, ()> {
        Box::pin(self.wake(instance))
    }

    fn builds_in_use(&self) -> Option<HashSet<DeploymentId>> {
        if self.degraded().is_some() {
            return None;
        }
        Some(self.0.entries.lock().values().map(|entry| entry.found.build).collect())
    }

    fn reports(&self) -> Vec<InstanceReport> {
        self.reports()
    }

    fn next_change<'a>(&'a self, seen: &'a mut u64) -> BoxFuture<'a, ()> {
        Box::pin(self.next_change(seen))
    }

    fn output(&self, instance: InstanceId, lines: usize) -> BoxFuture<'_, Option<Vec<String>>> {
        Box::pin(self.output(instance, lines))
    }

    fn follow(
        &self,
        instance: InstanceId,
        tail: usize,
    ) -> BoxFuture<'_, Option<BoxStream<'static, Printed>>> {
        Box::pin(std::future::ready(self.follow(instance, tail)))
    }

    fn forget(&self, instance: InstanceId) {
        self.forget(instance);
    }

    fn shut_down(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.shut_down())
    }
}
