//! Where instances run: as plain processes ([`process`]) or in containers ([`docker`]). Both are a [`Runtime`], which the job (start,
//! check) and the agent (stop, reports, output, forget) call.
//!
//! Shared by them: which ports are free, how an instance is [checked](health), and [where it is told that it is](context).
//!
//! What an instance finds in its environment, beside what the operator, its builder and its service set:
//!
//! | variable | what |
//! | --- | --- |
//! | `PORT` | where it has to listen |
//! | `HOME`, `TMPDIR` | folders that it may write to |
//! | `SDP_SERVICE`, `SDP_DEPLOYMENT` | which service it is, and the number of the deployment that started it |
//! | `SDP_REF`, `SDP_COMMIT` | what it runs: the branch as it was asked for, the whole commit id |
//! | `SDP_SANDBOX`, `SDP_ENVIRONMENT` | where it runs |
//! | `SDP_ROUTING_KEY` | what marks requests as its sandbox's |
//! | `SDP_ROUTE_<SERVICE>` | where it reaches each service, itself included, in its sandbox: at the router, the same whatever is deployed; upper case, `_` for `-` |
//! | `SDP_CONTEXT` | a JSON file with the same |
//!
//! A release command gets the same without `PORT`. The last four are not there if the sandbox is gone meanwhile.

pub mod context;
pub mod docker;
pub mod health;
mod output;
mod ports;
pub mod process;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use sdp_core::catalog::{HealthCheck, Limits};
use sdp_core::failure::{Failure, FailureReason};
use sdp_core::id::{DeploymentId, DeploymentNumber, InstanceId};
use sdp_core::name::{SandboxName, ServiceName, WritablePath};
use sdp_core::secret::Secret;
use sdp_core::wire::{InstanceReport, OutputLine, Preflight};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::builder::RunPlan;
use crate::exec::OnLine;
use crate::redact::Redactor;
use crate::sync::Lock;

pub use context::Context;
pub use docker::{DockerRuntime, DockerRuntimeConfig};
pub use health::CheckError;
pub use process::{ProcessRuntime, RuntimeConfig};

/// What runs instances. An instance is reported `Exited` or `Stopped` only when nothing of it runs, and keeps its port until
/// it is forgotten. Every change moves a generation on, so that a reader who waits for "newer than what I have seen"
/// misses none, however slow it is.
pub trait Runtime: fmt::Debug + Send + Sync {
    /// As `hello` names it: [`sdp_core::wire::DOCKER`] or [`sdp_core::wire::PROCESS`].
    fn kind(&self) -> &'static str;

    /// Why it can start nothing and cannot say what runs, if that is so.
    fn degraded(&self) -> Option<String>;

    /// What it found out about the machine; asked again from time to time.
    fn preflight(&self) -> BoxFuture<'_, Vec<Preflight>>;

    /// Starts an instance and returns where it will listen. The same instance again: its address, nothing else happens, also where
    /// it has ended by itself (its check says how).
    ///
    /// # Errors
    /// When it cannot be started; then nothing is left of it.
    fn start(&self, spec: StartSpec) -> BoxFuture<'_, Result<SocketAddr, StartError>>;

    /// Runs a command once, to its end, with the image, files, limits and variables of the instance that is to be started next, but
    /// without a port. Each line that it prints goes to `on_line`.
    ///
    /// # Errors
    /// `release_failed` when it fails, `timeout` when it takes longer than `limit`; [`StartError::Cancelled`] when `stop` says so.
    /// Nothing of it is left then, but for what it wrote.
    fn release<'a>(
        &'a self,
        spec: &'a StartSpec,
        argv: &'a [String],
        on_line: OnLine,
        stop: &'a CancellationToken,
        limit: Duration,
    ) -> BoxFuture<'a, Result<(), StartError>>;

    /// Waits until an instance is healthy; returns how long that took. From then on it is started again when it ends with an error,
    /// a few times, and checked again after each start.
    ///
    /// # Errors
    /// At once when it ends, or `stop` says so; after `limit` with what was wrong last.
    fn check<'a>(
        &'a self,
        instance: InstanceId,
        check: &'a HealthCheck,
        limit: Duration,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Duration, CheckError>>;

    /// Ends an instance: asks it, then kills what is left; returns when nothing is. One that has ended, or is unknown, is left
    /// as it is.
    fn stop(&self, instance: InstanceId) -> BoxFuture<'_, ()>;

    /// Ends an instance as [`stop`](Self::stop) does, and keeps all that it needs to be started again. It is then reported as `Exited`
    /// and not started because of `why`, a clause, until it is woken or forgotten, and nobody but [`wake`](Self::wake) starts it, also
    /// not the agent's next life. One that cannot be ended now goes on.
    fn suspend<'a>(&'a self, instance: InstanceId, why: &'a str) -> BoxFuture<'a, ()>;

    /// Whether it is suspended.
    fn is_suspended(&self, instance: InstanceId) -> bool;

    /// Starts a suspended instance again, at the same port, and checks it; any other is left as it is.
    fn wake(&self, instance: InstanceId) -> BoxFuture<'_, ()>;

    /// The deployments whose builds instances run; none if it cannot tell (then nothing may be swept).
    fn builds_in_use(&self) -> Option<HashSet<DeploymentId>>;

    /// Every instance that is not forgotten, as it is now.
    fn reports(&self) -> Vec<InstanceReport>;

    /// Returns when something has changed since the generation in `seen` (0: since ever), and moves that on. Ask for
    /// [`reports`](Self::reports) and [`degraded`](Self::degraded) then.
    fn next_change<'a>(&'a self, seen: &'a mut u64) -> BoxFuture<'a, ()>;

    /// The last lines that an instance printed, oldest first; none if it is unknown.
    fn output(&self, instance: InstanceId, lines: usize) -> BoxFuture<'_, Option<Vec<String>>>;

    /// What an instance prints: its last `tail` lines (as far as they are at hand with their times), then more as it comes,
    /// until it has ended for good; none if it is unknown. Whoever reads slowly does not hold the instance up.
    fn follow(&self, instance: InstanceId, tail: usize)
    -> BoxFuture<'_, Option<BoxStream<'static, Printed>>>;

    /// Forgets an instance, its port and its files; one that still runs is stopped first.
    fn forget(&self, instance: InstanceId);

    /// The agent ends. What cannot outlive it is stopped, for the agent's next life to start again; returns when nothing of the
    /// runtime's own is left. Nothing can be started after that.
    fn shut_down(&self) -> BoxFuture<'_, ()>;
}

/// Some lines that an instance printed, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Printed {
    /// How many lines before these were left out, because their reader was too slow.
    pub left_out: u64,
    /// In the order in which they were printed.
    pub lines: Vec<OutputLine>,
}

/// An instance to start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StartSpec {
    /// Its id.
    pub instance: InstanceId,
    /// The deployment that starts it.
    pub deployment: DeploymentId,
    /// The deployment's number, for names that people see.
    pub number: DeploymentNumber,
    /// Its attempt.
    pub attempt: u32,
    /// The deployment whose build it runs: its own, or an earlier one's.
    pub build: DeploymentId,
    /// The service.
    pub service: ServiceName,
    /// The sandbox.
    pub sandbox: SandboxName,
    /// What to run.
    pub run: RunPlan,
    /// Its variables, on top of the operator's; `PORT`, `HOME`, `TMPDIR` and `SDP_CONTEXT` are set by the runtime.
    pub env: BTreeMap<String, String>,
    /// Those of its variables that nobody may see; they count more than `env`. Kept with the instance, for whoever starts it again.
    #[serde(default)]
    pub secrets: BTreeMap<String, Secret>,
    /// Where it listens inside its container, if not on the usual port.
    pub port: Option<NonZeroU16>,
    /// How much it may use.
    pub limits: Limits,
    /// Folders that it may write to.
    pub writable: BTreeSet<WritablePath>,
    /// Where it is among the other services, for its file; none: it has no file.
    #[serde(default)]
    pub context: Option<Context>,
    /// How to tell that it is healthy, which is asked again whenever it was started again.
    pub health: HealthCheck,
    /// How long that may take.
    pub check_limit: Duration,
    /// What may not be seen in its output; in memory only. The agent's next life makes it anew, from `secrets` alone.
    #[serde(skip)]
    pub redactor: Redactor,
}

impl StartSpec {
    /// All its variables.
    pub(crate) fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        let secrets = self.secrets.iter().map(|(name, value)| (name.as_str(), value.expose()));
        self.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(secrets)
    }
}

/// Why an instance was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The program (or the interpreter that its first line names) is not on this machine.
    #[error("{program} is not on this machine")]
    ToolMissing {
        /// As it was named.
        program: String,
    },
    /// All ports of the range are taken.
    #[error("all ports from {} to {} are taken", .0.start(), .0.end())]
    NoPort(RangeInclusive<u16>),
    /// The system would not start it.
    #[error("cannot start the program")]
    Spawn(#[source] io::Error),
    /// Its folder cannot be made.
    #[error("cannot make the instance's folder")]
    Folder(#[source] io::Error),
    /// There is an instance of that id which was stopped.
    #[error("the instance was stopped already")]
    Over,
    /// It was told to stop.
    #[error("cancelled")]
    Cancelled,
    /// The agent is going away.
    #[error("the agent is shutting down")]
    ShuttingDown,
    /// What the runtime knows to be the user's or the operator's to mend: a missing image, an engine that does not answer.
    #[error("{}", .0.detail)]
    Failed(Box<Failure>),
}

impl StartError {
    /// A failure of the start step.
    #[must_use]
    pub fn failed(reason: FailureReason, detail: impl Into<String>) -> Self {
        Self::Failed(Box::new(Failure::new(sdp_core::deployment::Step::Start, reason, detail)))
    }
}

/// The last line that a command printed: what people are told when it fails.
#[derive(Clone, Debug, Default)]
pub(crate) struct LastLine(Arc<Lock<String>>);

impl LastLine {
    /// Listens, and hands each line on.
    pub(crate) fn of(on_line: OnLine) -> (Self, OnLine) {
        let last = Self::default();
        let kept = last.clone();
        let on_line: OnLine = Arc::new(move |stream, line| {
            let text = String::from_utf8_lossy(&line[..line.len().min(SHORT)]);
            let text: String = text.chars().filter(|c| !c.is_control()).collect();
            if !text.trim().is_empty() {
                *kept.0.lock() = text.trim().to_owned();
            }
            on_line(stream, line);
        });
        (last, on_line)
    }
}

/// So much of a line goes into a sentence, in bytes.
const SHORT: usize = 300;

/// A release command that ended badly: `how` is a clause such as "exit status 1".
pub(crate) fn release_failed(
    argv: &[String],
    exit_code: Option<i32>,
    how: &str,
    last: &LastLine,
) -> StartError {
    let name = argv.first().map_or("", String::as_str);
    let last = last.0.lock();
    let colon = if last.is_empty() { "" } else { ": " };
    let detail = format!("{name}: {how}{colon}{last}");
    let step = sdp_core::deployment::Step::Start;
    let failure = Failure { exit_code, ..Failure::new(step, FailureReason::ReleaseFailed, detail) };
    StartError::Failed(Box::new(failure))
}

/// A release command that took too long.
pub(crate) fn release_timed_out(argv: &[String], limit: Duration) -> StartError {
    let name = argv.first().map_or("", String::as_str);
    let detail = format!("the release command {name} took longer than {} s", limit.as_secs());
    StartError::failed(FailureReason::Timeout, detail)
}
