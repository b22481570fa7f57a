//! Instances as plain processes of the agent: each with a port of its own, its output kept, its end seen at once.
//!
//! Called by the job (start, check) and by the agent (stop, reports, output, forget). Uses `exec` to start and to end.
//!
//! ```text
//!            start ──▶ Running ──ends by itself──▶ Exited (kept with its last lines)
//!                         └──────stop────────────▶ Stopped           both until `forget`
//! ```
//! Invariant: an instance is reported `Exited` or `Stopped` only when none of its processes is left, and its port stays
//! its own until it is forgotten. Every change moves a generation on, so a reader that waits for "newer than what I have
//! seen" misses none, however slow it is, and nothing is queued for it.
//!
//! What they print on both streams comes through one pipe, so that it stays in order; all of it counts as standard output.
//! Instances end with the agent; what an agent that was killed left behind is killed when the next one starts.
//! Limits: the range of ports bounds how many there are; `output` bounds what is kept of their words.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use sdp_core::catalog::HealthCheck;
use sdp_core::failure::FailureReason;
use sdp_core::id::{DeploymentId, InstanceId};
use sdp_core::wire::{Exit, InstanceReport, InstanceStatus, PROCESS, Preflight};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::health::{CheckError, own_sockets, until_healthy};
use super::output::{Output, TAIL_LINES};
use super::ports::Ports;
use super::{LastLine, Printed, Runtime, StartError, StartSpec, release_failed, release_timed_out};
use crate::builder::with_basics;
use crate::exec::{
    self, ExecError, Isolation, Kind, Limits, OnLine, Options, Program, Running, Why, tree::Tree,
};
use crate::workspace::let_through;

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
    entries: Mutex<BTreeMap<InstanceId, Entry>>,
    /// Starts are made one by one: the same instance twice must be one.
    starting: tokio::sync::Mutex<()>,
    generation: watch::Sender<u64>,
    /// Owns every task; `stop_all` waits for them.
    tasks: TaskTracker,
}

#[derive(Clone, Debug)]
struct Entry {
    deployment: DeploymentId,
    address: SocketAddr,
    status: watch::Sender<InstanceStatus>,
    stop: CancellationToken,
    output: Arc<Output>,
    tree: Tree,
}

impl ProcessRuntime {
    /// A runtime without instances; what an earlier agent with this folder left running is killed. Blocks.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(mut config: RuntimeConfig) -> io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.data_dir)?;
        config.data_dir = config.data_dir.canonicalize()?;
        let_through(&config.data_dir, config.isolation.user())?;
        let left = exec::kill_leftovers(&config.data_dir);
        if left > 0 {
            tracing::warn!(processes = left, "killed what an earlier agent left running");
        }
        Ok(Self(Arc::new(Shared {
            ports: Ports::new(config.ports.clone(), config.advertise),
            config,
            entries: Mutex::default(),
            starting: tokio::sync::Mutex::default(),
            generation: watch::Sender::new(0),
            tasks: TaskTracker::new(),
        })))
    }

    /// Starts an instance and returns where it will listen. The same instance again: its address, nothing else happens.
    ///
    /// # Errors
    /// When it cannot be started; then nothing is left of it.
    pub async fn start(&self, spec: StartSpec) -> Result<SocketAddr, StartError> {
        let _one_by_one = self.0.starting.lock().await;
        if let Some(entry) = self.entry(spec.instance) {
            return match &*entry.status.borrow() {
                InstanceStatus::Running { address, .. } => Ok(*address),
                _ => Err(StartError::Over),
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
        // Also when this future is dropped half-way.
        let mut undo = Undo { runtime: self, instance, armed: true };
        let prepared = tokio::task::spawn_blocking(move || {
            let folder = shared.folder(instance);
            shared.make(&folder)?;
            Ok::<_, io::Error>((folder, shared.ports.lease(instance)))
        })
        .await
        .map_err(io::Error::other)
        .and_then(|prepared| prepared);
        let started = match prepared {
            Ok((folder, Some(port))) => self.spawn(spec, folder, port).await,
            Ok((_, None)) => Err(StartError::NoPort(self.0.config.ports.clone())),
            Err(error) => Err(StartError::Folder(error)),
        };
        undo.armed = started.is_err();
        started
    }

    async fn release(
        &self,
        spec: &StartSpec,
        argv: &[String],
        on_line: OnLine,
        stop: &CancellationToken,
        limit: Duration,
    ) -> Result<(), StartError> {
        if self.0.tasks.is_closed() {
            return Err(StartError::ShuttingDown);
        }
        let config = &self.0.config;
        // Not the instance's: that begins empty.
        let folder = config.data_dir.join(format!("{}-release", spec.instance));
        let _scratch = Scratch { runtime: self, folder: &folder };
        let (shared, place) = (self.0.clone(), folder.clone());
        let made = tokio::task::spawn_blocking(move || shared.make(&place)).await;
        made.map_err(io::Error::other).and_then(|made| made).map_err(StartError::Folder)?;
        let mut env = config.base_env.clone();
        env.extend(spec.env.iter().map(|(name, value)| (name.into(), value.into())));
        let env = with_basics(&env, folder.join("home"), folder.join("tmp"));
        let program = Program { argv: argv.iter().map(Into::into).collect(), cwd: spec.run.cwd.clone(), env };
        let options = Options {
            redactor: spec.redactor.clone(),
            grace: config.stop_grace,
            isolation: config.isolation.clone(),
            ..Options::default()
        };
        let (last, on_line) = LastLine::of(on_line);
        let ended = Box::pin(exec::run_with(program, options, on_line, stop, limit)).await;
        match ended {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(release_failed(argv, status.code(), &status.to_string(), &last)),
            Err(ExecError::Cancelled) => Err(StartError::Cancelled),
            Err(ExecError::TimedOut) => Err(release_timed_out(argv, limit)),
            Err(ExecError::NotFound { program }) => Err(StartError::ToolMissing { program }),
            Err(ExecError::Spawn(error)) => Err(StartError::Spawn(error)),
            Err(error @ ExecError::Unkillable { .. }) => Err(StartError::Spawn(io::Error::other(error))),
            // Out of memory, processes or disk.
            Err(error) => Err(release_failed(argv, None, &error.to_string(), &last)),
        }
    }

    async fn spawn(&self, spec: StartSpec, folder: PathBuf, port: u16) -> Result<SocketAddr, StartError> {
        let config = &self.0.config;
        let mut env = config.base_env.clone();
        env.extend(spec.env.into_iter().map(|(name, value)| (name.into(), value.into())));
        let mut env = with_basics(&env, folder.join("home"), folder.join("tmp"));
        env.insert("PORT".into(), port.to_string().into());
        let argv = spec.run.argv.iter().map(Into::into).collect();
        let program = Program { argv, cwd: spec.run.cwd, env };
        // A service that says nothing has the pids of a build, so that it cannot take them all; the rest is its own affair.
        let limits = Limits {
            pids: spec.limits.pids.or(config.isolation.limits().pids),
            memory_mib: spec.limits.memory_mib,
            cpu_millis: spec.limits.cpu_millis,
        };
        let isolation = config.isolation.with_limits(limits);
        let running =
            exec::spawn(&program, Kind::Service, &isolation).await.map_err(|error| match error {
                ExecError::NotFound { program } => StartError::ToolMissing { program },
                ExecError::Spawn(error) => StartError::Spawn(error),
                other => StartError::Spawn(io::Error::other(other)),
            })?;
        let address = SocketAddr::new(config.advertise, port);
        let entry = Entry {
            deployment: spec.deployment,
            address,
            status: watch::Sender::new(InstanceStatus::Running { address, restarts: 0, last_exit: None }),
            stop: CancellationToken::new(),
            output: Output::new(folder),
            tree: running.tree(),
        };
        self.entries().insert(spec.instance, entry.clone());
        self.changed();
        self.0.tasks.spawn(entry.output.clone().write());
        let options =
            Options { redactor: spec.redactor, grace: config.stop_grace, isolation, ..Options::default() };
        self.0.tasks.spawn(self.clone().watch(entry, running, options));
        Ok(address)
    }

    /// Reads what an instance prints until it ends, and says how it ended.
    async fn watch(self, entry: Entry, running: Running, options: Options) {
        let on_line: OnLine = {
            let output = entry.output.clone();
            Arc::new(move |stream, line| output.line(stream, line))
        };
        let end = Box::pin(exec::supervise(running, &options, &on_line, &entry.stop, None)).await;
        entry.output.close();
        entry.status.send_replace(match end.why {
            Why::Stopped | Why::TimedOut | Why::OutOfDisk { .. } => InstanceStatus::Stopped {},
            Why::Exited => InstanceStatus::Exited {
                exit: Exit::new(
                    end.status.code(),
                    end.status.signal(),
                    end.out_of_memory,
                    entry.output.tail(TAIL_LINES),
                ),
            },
        });
        self.changed();
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
        let tree = entry.tree.clone();
        let judge = own_sockets(entry.address, move || tree.pids());
        let healthy = until_healthy(check, entry.address, judge, limit);
        let over = async {
            let over = status.wait_for(|status| !matches!(status, InstanceStatus::Running { .. })).await;
            match over.as_deref() {
                Ok(InstanceStatus::Exited { exit }) => CheckError::Exited(exit.clone()),
                _ => CheckError::Cancelled,
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(CheckError::Cancelled),
            error = over => Err(error),
            healthy = healthy => match healthy {
                Ok(()) => Ok(begin.elapsed()),
                Err(detail) => Err(CheckError::NotHealthy { detail }),
            },
        }
    }

    /// Ends an instance: asks it, then kills what is left; returns when nothing is. One that has ended, or is unknown, is
    /// left as it is.
    pub async fn stop(&self, instance: InstanceId) {
        if let Some(entry) = self.entry(instance) {
            entry.stop.cancel();
            let mut status = entry.status.subscribe();
            // The sender is in the entry, which we hold: this cannot fail.
            drop(status.wait_for(|status| !matches!(status, InstanceStatus::Running { .. })).await);
        }
    }

    /// Every instance that is not forgotten, as it is now.
    #[must_use]
    pub fn reports(&self) -> Vec<InstanceReport> {
        let entries = self.entries();
        let report = |(instance, entry): (&InstanceId, &Entry)| InstanceReport {
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
        let output = self.entry(instance)?.output;
        tokio::task::spawn_blocking(move || output.last(lines)).await.ok()
    }

    /// What an instance prints, from its last lines on, until it has ended; none if it is unknown.
    #[must_use]
    pub fn follow(&self, instance: InstanceId, tail: usize) -> Option<BoxStream<'static, Printed>> {
        Some(self.entry(instance)?.output.follow(tail))
    }

    /// Forgets an instance, its port and its files; one that still runs is stopped first.
    pub fn forget(&self, instance: InstanceId) {
        let Some(entry) = self.entry(instance) else { return };
        if matches!(&*entry.status.borrow(), InstanceStatus::Running { .. }) {
            let runtime = self.clone();
            self.0.tasks.spawn(async move {
                runtime.stop(instance).await;
                runtime.remove(instance);
            });
        } else {
            self.remove(instance);
        }
    }

    /// Ends all instances at once; returns when nothing runs any more. None can be started after that.
    pub async fn stop_all(&self) {
        {
            let _no_start_is_under_way = self.0.starting.lock().await;
            self.0.tasks.close();
        }
        let instances: Vec<_> = self.entries().keys().copied().collect();
        futures_util::future::join_all(instances.into_iter().map(|instance| self.stop(instance))).await;
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

    fn entry(&self, instance: InstanceId) -> Option<Entry> {
        self.entries().get(&instance).cloned()
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Entry>> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.0.generation.send_modify(|generation| *generation += 1);
    }
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

    fn builds_in_use(&self) -> Option<HashSet<DeploymentId>> {
        // They end with the agent, whose jobs know.
        Some(HashSet::new())
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

/// The folder of something that runs once; removed when that is over, or dropped half-way.
struct Scratch<'a> {
    runtime: &'a ProcessRuntime,
    folder: &'a Path,
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        self.runtime.remove_folder(self.folder.to_owned());
    }
}

/// Takes back what a start that fails has taken.
struct Undo<'a> {
    runtime: &'a ProcessRuntime,
    instance: InstanceId,
    armed: bool,
}

impl Drop for Undo<'_> {
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

    /// Makes the folder of something that is run: home and scratch space in it are its user's. Blocks.
    fn make(&self, folder: &Path) -> io::Result<()> {
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
        Ok(())
    }
}

#[cfg(test)]
mod tests;
