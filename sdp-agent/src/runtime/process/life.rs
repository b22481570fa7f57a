//! The life of an instance: run, and after a crash run again, until it is over. One task for each.
//!
//! ```text
//!        ┌──────────────────────── pause: FIRST, doubled with each crash in a row ───────────────────────┐
//!        ▼                                                                                               │
//!   launch ──▶ run, checked beside it until it passes ──▶ ended ── may be started again (see `record`) ──┘
//!     │ cannot                                             │ may not, or was asked to stop
//!     └───────────────▶ Exited ◀───────────────────────────┴──▶ Stopped
//! ```
//! The first run of a life begins in [`ProcessRuntime::start`], or here after a restart of the agent. What it prints goes on in one
//! stream over all its runs. Between two runs it is reported as before, with its requests refused by its port; it counts as
//! started again once it runs.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sdp_core::wire::{Exit, Health, InstanceStatus};
use tokio::time::{Instant, sleep};

use super::record::Record;
use super::{Entry, ProcessRuntime, StartSpec, context_variable};
use crate::builder::with_basics;
use crate::exec::{self, ExecError, Isolation, Kind, Limits, OnLine, Options, Program, Running, Why};
use crate::runtime::StartError;
use crate::runtime::health::{Judge, own_sockets, until_well};
use crate::runtime::output::TAIL_LINES;

/// The longest pause before a restart is the first, doubled so often.
const DOUBLINGS: u32 = 6;
/// After a run of this length a crash is the first of a row again; the engine's figure.
const STEADY: Duration = Duration::from_secs(10);
/// A port that is still held, by what was killed just now, is waited for so long.
const PORT_WAIT: Duration = Duration::from_secs(5);
const PORT_LOOK: Duration = Duration::from_millis(20);

impl ProcessRuntime {
    /// Follows an instance to the end of its life; without a first run it begins with a start.
    pub(super) async fn live(self, entry: Arc<Entry>, first: Option<Running>) {
        let mut again = first.is_none();
        let mut next = first;
        let mut in_a_row = 0;
        let status = loop {
            let running = match next.take() {
                Some(running) => running,
                None => match self.launch(&entry).await {
                    Ok(running) => running,
                    Err(_) if entry.stop.is_cancelled() => break self.stopped(&entry).await,
                    Err(why) => break self.not_started(&entry, why).await,
                },
            };
            *entry.tree.lock() = Some(running.tree());
            if again {
                let status = self.keep(&entry, |record| {
                    record.up();
                    record.status(entry.address)
                });
                entry.status.send_replace(status.await);
                self.changed();
            }
            let begin = Instant::now();
            let Some(exit) = self.run(&entry, running, again).await else { break self.stopped(&entry).await };
            again = true;
            if !self.keep(&entry, |record| record.ended(&exit)).await {
                break InstanceStatus::Exited { exit };
            }
            if begin.elapsed() >= STEADY {
                in_a_row = 0;
            }
            let pause = self.0.config.restart_pause * 2_u32.pow(in_a_row.min(DOUBLINGS));
            in_a_row += 1;
            tracing::warn!(instance.id = %entry.instance, end = %exit, ?pause, "an instance has ended; it is started again");
            tokio::select! {
                () = entry.stop.cancelled() => break self.stopped(&entry).await,
                () = sleep(pause) => {}
            }
        };
        entry.output.close();
        entry.status.send_replace(status);
        self.changed();
    }

    /// One run, from its start to its end; none if it was stopped. `again`: its check has to be passed anew, if it ever was.
    async fn run(&self, entry: &Arc<Entry>, running: Running, again: bool) -> Option<Exit> {
        let on_line: OnLine = {
            let output = entry.output.clone();
            Arc::new(move |stream, line| output.line(stream, line))
        };
        let (spec, ready) = {
            let record = entry.record.lock().await;
            (record.spec.clone(), record.ready)
        };
        let options = Options {
            redactor: spec.redactor.clone(),
            grace: self.0.config.stop_grace,
            isolation: self.isolation(&spec),
            ..Options::default()
        };
        let checked = async {
            if again && ready {
                let tell = |health| self.health_is(entry, health);
                until_well(&spec.health, entry.address, entry.judge(), spec.check_limit, tell).await;
            }
            std::future::pending::<Infallible>().await
        };
        let end = tokio::select! {
            end = Box::pin(exec::supervise(running, &options, &on_line, &entry.stop, None)) => end,
            never = checked => match never {},
        };
        match end.why {
            Why::Stopped | Why::TimedOut | Why::OutOfDisk { .. } => None,
            Why::Exited => Some(Exit::new(
                end.status.code(),
                end.status.signal(),
                end.out_of_memory,
                entry.output.tail(TAIL_LINES),
            )),
        }
    }

    pub(super) fn health_is(&self, entry: &Entry, health: Health) {
        let changed = entry.status.send_if_modified(|status| match status {
            InstanceStatus::Running { health: known, .. } if *known != health => {
                *known = health;
                true
            }
            _ => false,
        });
        if changed {
            self.changed();
        }
    }

    /// Its processes are gone since that was asked for. Where only the agent ends, the next one starts it again.
    async fn stopped(&self, entry: &Arc<Entry>) -> InstanceStatus {
        let suspended = entry.suspended.lock().clone();
        match suspended {
            _ if entry.is_unwanted() => self.keep(entry, Record::stopped).await,
            Some(why) => {
                return self
                    .keep(entry, |record| {
                        record.suspend(why);
                        record.status(entry.address)
                    })
                    .await;
            }
            None => {}
        }
        InstanceStatus::Stopped {}
    }

    async fn not_started(&self, entry: &Arc<Entry>, why: String) -> InstanceStatus {
        tracing::error!(instance.id = %entry.instance, %why, "an instance could not be started again");
        let exit = Exit { not_started: Some(why), ..Exit::default() };
        self.keep(entry, |record| record.over(exit.clone())).await;
        InstanceStatus::Exited { exit }
    }

    /// Starts it once more, at the same port and from the same build.
    ///
    /// # Errors
    /// Why that cannot be done, as a clause.
    async fn launch(&self, entry: &Arc<Entry>) -> Result<Running, String> {
        let spec = entry.record.lock().await.spec.clone();
        let port = entry.address.port();
        let until = Instant::now() + PORT_WAIT;
        while !self.0.ports.reclaim(spec.instance, port) {
            if Instant::now() >= until {
                return Err(format!("its port {port} is taken by another program"));
            }
            tokio::select! {
                () = entry.stop.cancelled() => return Err("it was stopped".to_owned()),
                () = sleep(PORT_LOOK) => {}
            }
        }
        if !spec.run.cwd.is_dir() {
            return Err("its build is not on the agent any more".to_owned());
        }
        let folder = self.0.folder(spec.instance);
        let made = {
            let (shared, folder, context) = (self.0.clone(), folder.clone(), spec.context.clone());
            tokio::task::spawn_blocking(move || shared.make(&folder, context.as_ref())).await
        };
        if let Err(error) = made.map_err(std::io::Error::other).and_then(|made| made) {
            return Err(format!("its folder cannot be used: {error}"));
        }
        self.spawn(&spec, folder, port).await.map_err(|error| match &error {
            StartError::Spawn(source) => format!("{error}: {source}"),
            _ => error.to_string(),
        })
    }

    /// Starts the program of an instance.
    pub(super) async fn spawn(
        &self,
        spec: &StartSpec,
        folder: PathBuf,
        port: u16,
    ) -> Result<Running, StartError> {
        let mut env = self.0.config.base_env.clone();
        env.extend(spec.variables().map(|(name, value)| (name.into(), value.into())));
        let mut env = with_basics(&env, folder.join("home"), folder.join("tmp"));
        env.insert("PORT".into(), port.to_string().into());
        env.extend(context_variable(spec, &folder));
        let argv = spec.run.argv.iter().map(Into::into).collect();
        let program = Program { argv, cwd: spec.run.cwd.clone(), env };
        exec::spawn(&program, Kind::Service, &self.isolation(spec)).await.map_err(|error| match error {
            ExecError::NotFound { program } => StartError::ToolMissing { program },
            ExecError::Spawn(error) => StartError::Spawn(error),
            other => StartError::Spawn(std::io::Error::other(other)),
        })
    }

    /// A service that says nothing has the pids of a build, so that it cannot take them all; the rest is its own affair.
    fn isolation(&self, spec: &StartSpec) -> Isolation {
        let isolation = &self.0.config.isolation;
        isolation.with_limits(Limits {
            pids: spec.limits.pids.or(isolation.limits().pids),
            memory_mib: spec.limits.memory_mib,
            cpu_millis: spec.limits.cpu_millis,
        })
    }

    /// Changes what is kept of an instance, in memory and on disk. A disk that takes nothing does not hold it up: what is lost then
    /// is how often it was started again, should the agent end before the next change.
    pub(super) async fn keep<T>(&self, entry: &Entry, change: impl FnOnce(&mut Record) -> T) -> T {
        let mut record = entry.record.clone().lock_owned().await;
        let result = change(&mut record);
        let folder = self.0.folder(entry.instance);
        // With the lock: changes reach the disk in their order, also when nobody waits for this one.
        let written = tokio::task::spawn_blocking(move || record.write(&folder)).await;
        match written {
            // Forgotten meanwhile, folder and all.
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {}
            Ok(Err(error)) => {
                tracing::error!(instance.id = %entry.instance, %error, "failed to keep how an instance stands");
            }
            _ => {}
        }
        result
    }
}

impl Entry {
    /// Says whether an answer from its address is its own.
    pub(super) fn judge(self: &Arc<Self>) -> Judge {
        let entry = self.clone();
        own_sockets(self.address, move || {
            let tree = entry.tree.lock().clone();
            tree.map(|tree| tree.pids()).unwrap_or_default()
        })
    }
}

/// Where an instance of this port is reached.
pub(super) fn address(runtime: &ProcessRuntime, port: u16) -> SocketAddr {
    SocketAddr::new(runtime.0.config.advertise, port)
}
