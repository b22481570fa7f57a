//! Instances as plain processes of the agent: each with a port of its own, its output kept, its end seen at once.
//!
//! Called by the job (start, check) and by the agent (stop, reports, output, forget). Uses `exec` to start and to end; `life`
//! follows each from run to run, `record` is what is kept of it on disk, `suspend` ends it for a while.
//!
//! ```text
//!   start ──▶ Running ──ends with an error──▶ Running, restarts + 1     (at most 3, see `record`; once its check was passed)
//!               │  ▲                              └──▶ Exited   gave up, or ended otherwise; kept with its last lines
//!               │  └── the agent was restarted: whatever ran then is started again
//!               ├──suspend──▶ Exited ──wake──▶ Running    see `suspend`
//!               └──stop──▶ Stopped                              both until `forget`
//! ```
//! Invariants: an instance is reported `Exited` or `Stopped` only when none of its processes is left, and its port stays
//! its own until it is forgotten, also across restarts of the agent. Every change moves a generation on, so a reader that waits
//! for "newer than what I have seen" misses none, however slow it is, and nothing is queued for it.
//!
//! What they print on both streams comes through one pipe, so that it stays in order; all of it counts as standard output.
//! Their processes end with the agent; what an agent that was killed left behind is killed when the next one starts, which then
//! starts the instances again, each at its port and from its build. The agent's end is no crash and is not counted as one.
//! Limits: the range of ports bounds how many there are; `output` bounds what is kept of their words.

mod life;
mod record;
mod release;
mod suspend;

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use sdp_core::catalog::HealthCheck;
use sdp_core::failure::FailureReason;
use sdp_core::id::{DeploymentId, InstanceId};
use sdp_core::wire::{Health, InstanceReport, InstanceStatus, PROCESS, Preflight};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::health::{CheckError, until_healthy};
use super::output::Output;
use super::ports::Ports;
use super::{Context, Printed, Runtime, StartError, StartSpec, context};
use crate::exec::{self, Isolation, OnLine, Running, tree::Tree};
use crate::sync::Lock;
use crate::workspace::let_through;
use record::Record;

/// Before an instance that ended is started again for the first time; doubled with each that follows soon.
pub const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// How the folder of a release command is named, after its instance's id.
const RELEASE: &str = "-release";

/// How instances are run.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Where they keep what they print, a folder each. Nobody else's.
    pub data_dir: PathBuf,
    /// Which ports they get.
    pub ports: RangeInclusive<u16>,
    /// The address of this machine as the router reaches it.
    pub advertise: IpAddr,
    /// Between being asked to end and being killed.
    pub stop_grace: Duration,
    /// Before the first restart in a row, see [`RESTART_PAUSE`].
    pub restart_pause: Duration,
    /// What the operator gives to all of them, such as `PATH`.
    pub base_env: BTreeMap<OsString, OsString>,
    /// As whom they run, and how much they may take where their service says nothing.
    pub isolation: Isolation,
}

/// All instances that run as processes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ProcessRuntime(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: RuntimeConfig,
    ports: Ports,
    entries: Mutex<BTreeMap<InstanceId, Arc<Entry>>>,
    /// Starts are made one by one: the same instance twice must be one.
    starting: Arc<tokio::sync::Mutex<()>>,
    generation: watch::Sender<u64>,
    /// Owns every task; `stop_all` waits for them.
    tasks: TaskTracker,
}

/// An instance that is not forgotten.
#[derive(Debug)]
struct Entry {
    instance: InstanceId,
    deployment: DeploymentId,
    build: DeploymentId,
    address: SocketAddr,
    status: watch::Sender<InstanceStatus>,
    /// Ends its processes.
    stop: CancellationToken,
    /// It was asked for that; if not, the agent ends, and the next one starts it again.
    unwanted: AtomicBool,
    /// It was asked to end for this reason, until it is woken.
    suspended: Lock<Option<String>>,
    output: Arc<Output>,
    /// Of its present run.
    tree: Lock<Option<Tree>>,
    record: Arc<tokio::sync::Mutex<Record>>,
}

impl Entry {
    fn new(record: Record, address: SocketAddr, folder: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            instance: record.spec.instance,
            deployment: record.spec.deployment,
            build: record.spec.build,
            address,
            status: watch::Sender::new(record.status(address)),
            stop: CancellationToken::new(),
            unwanted: AtomicBool::new(false),
            suspended: Lock::new(record.suspended().map(str::to_owned)),
            output: Output::new(folder),
            tree: Lock::default(),
            record: Arc::new(tokio::sync::Mutex::new(record)),
        })
    }

    fn is_running(&self) -> bool {
        matches!(&*self.status.borrow(), InstanceStatus::Running { .. })
    }

    fn is_unwanted(&self) -> bool {
        self.unwanted.load(Ordering::Acquire)
    }
}

impl ProcessRuntime {
    /// A runtime with the instances that an earlier agent of this folder had: what is left of their processes is killed, and those
    /// that ran are started again. Blocks; within a tokio runtime.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn new(mut config: RuntimeConfig) -> io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.data_dir)?;
        config.data_dir = config.data_dir.canonicalize()?;
        let_through(&config.data_dir, config.isolation.user())?;
        let left = exec::kill_leftovers(&config.data_dir);
        if left > 0 {
            tracing::warn!(processes = left, "killed what an earlier agent left running");
        }
        let runtime = Self(Arc::new(Shared {
            ports: Ports::new(config.ports.clone(), config.advertise),
            config,
            entries: Mutex::default(),
            starting: Arc::default(),
            generation: watch::Sender::new(0),
            tasks: TaskTracker::new(),
        }));
        runtime.resume()?;
        Ok(runtime)
    }

    /// Takes up the instances whose folders are here; a folder without a record is removed. What is no instance's stays.
    fn resume(&self) -> io::Result<()> {
        for found in std::fs::read_dir(&self.0.config.data_dir)? {
            let found = found?;
            let Some(name) = found.file_name().to_str().map(str::to_owned) else { continue };
            let Ok(instance) = name.strip_suffix(RELEASE).unwrap_or(&name).parse::<InstanceId>() else {
                continue;
            };
            let kept = if name.ends_with(RELEASE) { None } else { Record::read(&found.path(), instance) };
            let Some(mut record) = kept else {
                self.remove_folder(found.path());
                continue;
            };
            let again = record.resume();
            // Before anybody else can get it.
            self.0.ports.claim(instance, record.port);
            let entry = Entry::new(record.clone(), life::address(self, record.port), found.path());
            self.entries().insert(instance, entry.clone());
            self.changed();
            if again {
                tracing::info!(instance.id = %instance, deployment.id = %entry.deployment, address = %entry.address, "starting an instance again");
                self.begin(entry, None);
            } else {
                entry.output.close();
            }
        }
        Ok(())
    }

    /// Starts an instance and returns where it will listen. The same instance again: its address, nothing else happens.
    ///
    /// # Errors
    /// When it cannot be started; then nothing is left of it.
    pub async fn start(&self, spec: StartSpec) -> Result<SocketAddr, StartError> {
        let one_by_one = self.0.starting.clone().lock_owned().await;
        if let Some(entry) = self.entry(spec.instance) {
            return match &*entry.status.borrow() {
                InstanceStatus::Stopped {} => Err(StartError::Over),
                _ => Ok(entry.address),
            };
        }
        if self.0.tasks.is_closed() {
            return Err(StartError::ShuttingDown);
        }
        if spec.run.container.is_some() {
            let detail = format!("{} was built for a container, and this agent runs none", spec.service);
            return Err(StartError::failed(FailureReason::StartFailed, detail));
        }
        let (instance, shared) = (spec.instance, self.0.clone());
        // Also when this future is dropped half-way; what is being written then goes on, so it is that which takes itself back.
        let undo = Undo { runtime: self.clone(), instance, armed: true, _one_by_one: one_by_one };
        let prepared = tokio::task::spawn_blocking(move || {
            let folder = shared.folder(instance);
            let prepare = || {
                shared.make(&folder, spec.context.as_ref())?;
                let Some(port) = shared.ports.lease(instance) else { return Ok(None) };
                let record = Record::new(spec, port);
                // Before it runs: should the agent end, the next one knows of it.
                record.write(&folder)?;
                Ok::<_, io::Error>(Some(record))
            };
            let prepared = prepare();
            (undo, folder, prepared)
        });
        let (mut undo, folder, prepared) =
            prepared.await.map_err(|error| StartError::Folder(io::Error::other(error)))?;
        let started = match prepared {
            Ok(Some(record)) => self.start_first(record, folder).await,
            Ok(None) => Err(StartError::NoPort(self.0.config.ports.clone())),
            Err(error) => Err(StartError::Folder(error)),
        };
        undo.armed = started.is_err();
        started
    }

    async fn start_first(&self, record: Record, folder: PathBuf) -> Result<SocketAddr, StartError> {
        let address = life::address(self, record.port);
        let running = self.spawn(&record.spec, folder.clone(), record.port).await?;
        let entry = Entry::new(record, address, folder);
        *entry.tree.lock() = Some(running.tree());
        self.entries().insert(entry.instance, entry.clone());
        self.changed();
        self.begin(entry, Some(running));
        Ok(address)
    }

    fn begin(&self, entry: Arc<Entry>, first: Option<Running>) {
        self.0.tasks.spawn(entry.output.clone().write());
        self.0.tasks.spawn(self.clone().live(entry, first));
    }

    /// Waits until an instance is healthy; returns how long that took.
    ///
    /// # Errors
    /// At once when it ends, or `stop` says so; after `limit` with what was wrong last.
    pub async fn check(
        &self,
        instance: InstanceId,
        check: &HealthCheck,
        limit: Duration,
        stop: &CancellationToken,
    ) -> Result<Duration, CheckError> {
        let begin = Instant::now();
        let Some(entry) = self.entry(instance) else {
            return Err(CheckError::NotHealthy { detail: "there is no such instance on this agent".into() });
        };
        let mut status = entry.status.subscribe();
        let healthy = until_healthy(check, entry.address, entry.judge(), limit);
        let over = async {
            let over = status.wait_for(|status| !matches!(status, InstanceStatus::Running { .. })).await;
            match over.as_deref() {
                Ok(InstanceStatus::Exited { exit }) => CheckError::Exited(exit.clone()),
                _ => CheckError::Cancelled,
            }
        };
        let healthy = async {
            healthy.await.map_err(|detail| CheckError::NotHealthy { detail })?;
            if self.keep(&entry, Record::passed).await {
                self.health_is(&entry, Health::Healthy {});
                return Ok(begin.elapsed());
            }
            // It ended at the same moment: how is on its way.
            std::future::pending().await
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(CheckError::Cancelled),
            error = over => Err(error),
            healthy = healthy => healthy,
        }
    }

    /// Ends an instance: asks it, then kills what is left; returns when nothing is. One that has ended, or is unknown, is
    /// left as it is.
    pub async fn stop(&self, instance: InstanceId) {
        if let Some(entry) = self.entry(instance) {
            entry.unwanted.store(true, Ordering::Release);
            end(&entry).await;
        }
    }

    /// Every instance that is not forgotten, as it is now.
    #[must_use]
    pub fn reports(&self) -> Vec<InstanceReport> {
        let entries = self.entries();
        let report = |(instance, entry): (&InstanceId, &Arc<Entry>)| InstanceReport {
            instance: *instance,
            deployment: entry.deployment,
            status: entry.status.borrow().clone(),
        };
        entries.iter().map(report).collect()
    }

    /// Returns when something has changed since the generation in `seen` (0: since ever), and moves that on. Ask for
    /// [`reports`](Self::reports) then.
    pub async fn next_change(&self, seen: &mut u64) {
        let mut generation = self.0.generation.subscribe();
        // The sender lives as long as we do.
        if let Ok(now) = generation.wait_for(|now| *now > *seen).await {
            *seen = *now;
        }
    }

    /// The last lines that an instance printed, oldest first; none if it is unknown.
    pub async fn output(&self, instance: InstanceId, lines: usize) -> Option<Vec<String>> {
        let output = self.entry(instance)?.output.clone();
        tokio::task::spawn_blocking(move || output.last(lines)).await.ok()
    }

    /// What an instance prints, from its last lines on, until it has ended; none if it is unknown.
    #[must_use]
    pub fn follow(&self, instance: InstanceId, tail: usize) -> Option<BoxStream<'static, Printed>> {
        Some(self.entry(instance)?.output.clone().follow(tail))
    }

    /// Forgets an instance, its port and its files; one that still runs is stopped first.
    pub fn forget(&self, instance: InstanceId) {
        let Some(entry) = self.entry(instance) else { return };
        if entry.is_running() {
            let runtime = self.clone();
            self.0.tasks.spawn(async move {
                runtime.stop(instance).await;
                runtime.remove(instance);
            });
        } else {
            self.remove(instance);
        }
    }

    /// Ends the processes of all instances at once, for the agent's next life to start them again; returns when nothing runs any
    /// more. None can be started after that.
    pub async fn stop_all(&self) {
        {
            let _no_start_is_under_way = self.0.starting.lock().await;
            self.0.tasks.close();
        }
        let entries: Vec<_> = self.entries().values().cloned().collect();
        futures_util::future::join_all(entries.iter().map(|entry| end(entry))).await;
        self.0.tasks.wait().await;
    }

    fn remove(&self, instance: InstanceId) {
        if self.entries().remove(&instance).is_some() {
            self.clean_up(instance);
            self.changed();
        }
    }

    fn clean_up(&self, instance: InstanceId) {
        self.0.ports.release(instance);
        self.remove_folder(self.0.folder(instance));
    }

    fn remove_folder(&self, folder: PathBuf) {
        // Owned by the tracker: `stop_all` waits for it.
        let removal = tokio::task::spawn_blocking(move || match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, folder = %folder.display(), "cannot remove an instance's folder");
            }
            _ => {}
        });
        self.0.tasks.spawn(async move { drop(removal.await) });
    }

    fn entry(&self, instance: InstanceId) -> Option<Arc<Entry>> {
        self.entries().get(&instance).cloned()
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Arc<Entry>>> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.0.generation.send_modify(|generation| *generation += 1);
    }
}

/// Ends the processes of an instance; returns when none is left.
async fn end(entry: &Entry) {
    entry.stop.cancel();
    let mut status = entry.status.subscribe();
    // The sender is in the entry, which we hold: this cannot fail.
    drop(status.wait_for(|status| !matches!(status, InstanceStatus::Running { .. })).await);
}

impl Runtime for ProcessRuntime {
    fn kind(&self) -> &'static str {
        PROCESS
    }

    fn degraded(&self) -> Option<String> {
        None
    }

    fn preflight(&self) -> BoxFuture<'_, Vec<Preflight>> {
        Box::pin(std::future::ready(Vec::new()))
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
        self.is_suspended(instance)
    }

    fn wake(&self, instance: InstanceId) -> BoxFuture<'_, ()> {
        Box::pin(self.wake(instance))
    }

    fn builds_in_use(&self) -> Option<HashSet<DeploymentId>> {
        Some(self.entries().values().map(|entry| entry.build).collect())
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
        Box::pin(self.stop_all())
    }
}

/// Takes back what a start that fails has taken.
struct Undo {
    runtime: ProcessRuntime,
    instance: InstanceId,
    armed: bool,
    /// No other start before that is done.
    _one_by_one: tokio::sync::OwnedMutexGuard<()>,
}

impl Drop for Undo {
    fn drop(&mut self) {
        if self.armed {
            self.runtime.clean_up(self.instance);
        }
    }
}

impl Shared {
    fn folder(&self, instance: InstanceId) -> PathBuf {
        self.config.data_dir.join(instance.to_string())
    }

    /// Makes the folder of something that is run: home and scratch space in it are its user's, the context is the agent's. Blocks.
    fn make(&self, folder: &Path, context: Option<&Context>) -> io::Result<()> {
        let user = self.config.isolation.user();
        let mut private = std::fs::DirBuilder::new();
        private.recursive(true).mode(0o700);
        private.create(folder)?;
        let_through(folder, user)?;
        for path in [folder.join("home"), folder.join("tmp")] {
            private.create(&path)?;
            if let Some(user) = user {
                std::os::unix::fs::lchown(path, Some(user.uid), Some(user.gid))?;
            }
        }
        context.map_or(Ok(()), |context| context.write(folder))
    }
}

/// Where something that is run in that folder finds its context.
fn context_variable(spec: &StartSpec, folder: &Path) -> Option<(OsString, OsString)> {
    spec.context.as_ref().map(|_| (context::VARIABLE.into(), folder.join(context::FILE).into()))
}

#[cfg(test)]
mod tests;
