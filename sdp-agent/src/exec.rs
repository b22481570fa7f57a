//! Runs programs that are not ours (builds, services): no shell, nothing inherited, every line read, nothing left alive.
//!
//! [`run`] is called by the job for each build command; `runtime::process` uses the same `spawn` and `supervise` for
//! services. A program gets exactly the environment in [`Program::env`], no standard input and a session of its own; its
//! orphaned descendants are adopted, so that `tree` finds them all. As whom it runs and what it may take is its
//! [`Isolation`]; where that has a [`Shim`], it runs under one (`shim`), else as the agent's own child (`start`).
//!
//! Invariant: when a function here returns, the program and whatever it left behind are gone. When its future is dropped
//! they are killed, too; and under a shim, when the agent's process ends in whatever way.
//!
//! | limit | at it |
//! | --- | --- |
//! | a line: [`sdp_core::wire::MAX_LINE`] | the rest is dropped and counted in the marker |
//! | the caller's time limit | `SIGTERM`, [`Options::grace`], `SIGKILL` to all that is left |
//! | `PIPE_GRACE` after the program has ended | whoever still holds its pipe is killed |
//! | `start::START_LIMIT` for a shim to start it | it counts as not started |
//! | [`Isolation::limits`] | no more processes; out of memory, somebody is killed, and that is said |
//! | [`Reserve`]: so much stays free on the disk | `SIGTERM`, [`Options::grace`], `SIGKILL` |
//!
//! Needs Linux 5.3 (pidfd).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::future::Future;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use sdp_core::wire::Stream;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Child;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::redact::Redactor;

mod cgroup;
mod isolation;
pub(crate) mod lines;
mod shim;
mod start;
pub(crate) mod tree;

pub use cgroup::Limits;
pub use isolation::{Isolation, Processes, hide_own_memory};
use lines::Lines;
pub use shim::{Shim, take_over};
use start::Tie;
pub(crate) use start::spawn;
use tree::Tree;
pub use tree::kill_leftovers;

/// How long a program's pipes may stay open after it has ended: longer than any reasonable flush, shorter than patience.
const PIPE_GRACE: Duration = Duration::from_secs(2);
/// How long a killed program may take to be reaped; only a process stuck in the kernel takes longer.
const REAP_LIMIT: Duration = Duration::from_secs(2);
/// How much is read at once from a pipe: what a Linux pipe holds.
const CHUNK: usize = 64 * 1024;
/// How often it is looked whether a program fills the disk.
const LOOK_AT_DISK: Duration = Duration::from_secs(1);

/// A program to run.
#[derive(Clone, PartialEq, Eq)]
pub struct Program {
    /// The program and its arguments. Without a slash it is looked up in `PATH` of `env`; with one, relative to `cwd`.
    pub argv: Vec<OsString>,
    /// The folder in which it runs.
    pub cwd: PathBuf,
    /// Its whole environment; nothing is inherited.
    pub env: BTreeMap<OsString, OsString>,
}

impl fmt::Debug for Program {
    // Values of variables may be secrets: names only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program")
            .field("argv", &self.argv)
            .field("cwd", &self.cwd)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .finish()
    }
}

/// Why a program has no exit status.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// There is no such program (or the interpreter that its first line names).
    #[error("{program} is not on this machine")]
    NotFound {
        /// As it was named.
        program: String,
    },
    /// The system would not start it.
    #[error("cannot start the program")]
    Spawn(#[source] io::Error),
    /// It was asked to stop, and is gone.
    #[error("cancelled")]
    Cancelled,
    /// It took longer than it may, and is gone.
    #[error("it took longer than it may")]
    TimedOut,
    /// It failed, and the system had killed some of it for want of memory; it is gone.
    #[error("it took more memory than the agent allows ({mib} MiB)")]
    OutOfMemory {
        /// What it was allowed.
        mib: u32,
    },
    /// It failed, and the system had refused it more processes or threads; it is gone.
    #[error("it made more processes and threads than the agent allows ({most})")]
    OutOfProcesses {
        /// So many it was allowed at once.
        most: u32,
    },
    /// The disk was so full that it was stopped; it is gone.
    #[error("it was stopped because only {left_mib} MiB were left on the agent's disk")]
    OutOfDisk {
        /// What was left.
        left_mib: u64,
    },
    /// Processes that even `SIGKILL` did not end (stuck in the kernel); the only case in which something is left.
    #[error("processes {pids:?} cannot be killed")]
    Unkillable {
        /// Their ids.
        pids: Vec<i32>,
    },
}

/// Gets each line as it is printed, without its line feed, at most [`sdp_core::wire::MAX_LINE`] bytes and a marker. It
/// runs on the task that drains the pipe, so it must not block.
pub type OnLine = Arc<dyn Fn(Stream, &[u8]) + Send + Sync>;

/// How a program is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Takes secrets out before lines are cut.
    pub redactor: Redactor,
    /// Between `SIGTERM` and `SIGKILL`.
    pub grace: Duration,
    /// As whom it runs, and how much it may take.
    pub isolation: Isolation,
    /// What has to stay free on the disk.
    pub reserve: Option<Reserve>,
}

/// Room that a program must leave to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// A folder on the disk.
    pub folder: PathBuf,
    /// So many bytes have to stay free there.
    pub bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            redactor: Redactor::default(),
            grace: Duration::from_secs(10),
            isolation: Isolation::default(),
            reserve: None,
        }
    }
}

/// Runs a build's program to its end and hands over each line that it prints.
///
/// # Errors
/// When it cannot be started, is stopped, or takes too long; then nothing of it is left.
pub async fn run(
    program: Program,
    on_line: OnLine,
    stop: &CancellationToken,
    limit: Duration,
) -> Result<ExitStatus, ExecError> {
    run_with(program, Options::default(), on_line, stop, limit).await
}

/// As [`run`], with options.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    program: Program,
    options: Options,
    on_line: OnLine,
    stop: &CancellationToken,
    limit: Duration,
) -> Result<ExitStatus, ExecError> {
    if stop.is_cancelled() {
        return Err(ExecError::Cancelled);
    }
    let running = spawn(&program, Kind::Build, &options.isolation).await?;
    // Boxed: it holds two read buffers' worth of state, and callers' futures stay small.
    let end = Box::pin(supervise(running, &options, &on_line, stop, Some(limit))).await;
    if !end.survivors.is_empty() {
        return Err(ExecError::Unkillable { pids: end.survivors });
    }
    let limits = options.isolation.limits();
    match end.why {
        Why::Exited if end.status.success() => Ok(end.status),
        Why::Exited if end.out_of_memory => {
            Err(ExecError::OutOfMemory { mib: limits.memory_mib.unwrap_or_default() })
        }
        Why::Exited if end.out_of_processes => {
            Err(ExecError::OutOfProcesses { most: limits.pids.unwrap_or_default() })
        }
        Why::Exited => Ok(end.status),
        Why::Stopped => Err(ExecError::Cancelled),
        Why::TimedOut => Err(ExecError::TimedOut),
        Why::OutOfDisk { left } => Err(ExecError::OutOfDisk { left_mib: left >> 20 }),
    }
}

/// What a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It gets less of the processor than the agent, and is the first to go when memory runs out.
    Build,
    /// Both its streams are one pipe, so that its lines stay in the order in which it printed them.
    Service,
}

type Pipe = Box<dyn AsyncRead + Send + Sync + Unpin>;

/// A program that was started and not yet [supervised](supervise); dropping it kills it.
pub(crate) struct Running {
    child: Child,
    stdout: Option<Pipe>,
    stderr: Option<Pipe>,
    tree: Tree,
    /// What holds it, under a shim.
    tie: Option<Tie>,
    over: bool,
}

impl Running {
    /// Its processes.
    pub(crate) fn tree(&self) -> Tree {
        self.tree.clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.over {
            // Somebody dropped the future: the few milliseconds that this blocks are better than a process without owner.
            self.tree.kill_now();
        }
    }
}

/// How it came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// By itself.
    Exited,
    /// It was asked to.
    Stopped,
    /// It took too long.
    TimedOut,
    /// So many bytes were left on the disk.
    OutOfDisk { left: u64 },
}

/// The end of a program.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) why: Why,
    /// Of the program itself.
    pub(crate) status: ExitStatus,
    /// Some of it was killed for want of memory.
    pub(crate) out_of_memory: bool,
    /// It was refused a process or thread.
    pub(crate) out_of_processes: bool,
    /// Processes that `SIGKILL` did not end.
    pub(crate) survivors: Vec<i32>,
}

/// Drains a program's pipes until it ends, is stopped, or takes too long; then makes sure that nothing of it is left.
pub(crate) async fn supervise(
    mut running: Running,
    options: &Options,
    on_line: &OnLine,
    stop: &CancellationToken,
    limit: Option<Duration>,
) -> End {
    let tree = running.tree();
    let mut tie = running.tie.take();
    let mut out = Lines::new(Stream::Stdout, &options.redactor, on_line);
    let mut err = Lines::new(Stream::Stderr, &options.redactor, on_line);
    let why;
    let survivors;
    let ran_out;
    {
        let (stdout, stderr) = (running.stdout.take(), running.stderr.take());
        let pumps = pin!(async {
            tokio::join!(pump(stdout, &mut out), pump(stderr, &mut err));
        });
        let mut draining = Draining { pumps, done: false };
        why = draining
            .during(async {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => Why::Stopped,
                    () = program_ended(tie.as_mut(), &tree) => Why::Exited,
                    () = async { match limit { Some(limit) => sleep(limit).await, None => std::future::pending().await } } => Why::TimedOut,
                    left = disk_is_full(options.reserve.as_ref()) => Why::OutOfDisk { left },
                }
            })
            .await;
        match why {
            Why::Exited => draining.finish(stop).await,
            Why::Stopped | Why::TimedOut | Why::OutOfDisk { .. } => {
                tree.terminate().await;
                // Whatever heeds the signal is gone sooner; the rest has had its time.
                drop(draining.during(timeout(options.grace, tree.gone())).await);
            }
        }
        // Before it is kept from forking for the kill, which would count.
        ran_out = tree.ran_out();
        survivors = draining.during(end_all(tie.as_mut(), &tree)).await;
        draining.finish(&CancellationToken::new()).await;
    }
    out.finish();
    err.finish();
    running.over = true;
    // Only now: as long as it is not reaped nobody else can have its process id.
    let reaped = timeout(REAP_LIMIT, running.child.wait()).await;
    // Unkillable, or reaped by somebody else: not to be known. As if by SIGKILL, which is what it was sent.
    let unknown = ExitStatus::from_raw(9);
    let status = match tie {
        // A shim that does not say how its program ended was killed before it could.
        Some(tie) => tie.status().unwrap_or(unknown),
        None => reaped.ok().and_then(Result::ok).unwrap_or(unknown),
    };
    if !survivors.is_empty() {
        tracing::error!(pids = ?survivors, "processes cannot be killed");
    }
    tree.remove_group().await;
    End { why, status, out_of_memory: ran_out.memory, out_of_processes: ran_out.pids, survivors }
}

/// Returns when the program itself has ended, or the shim that would say so.
async fn program_ended(tie: Option<&mut Tie>, tree: &Tree) {
    match tie {
        Some(tie) => tie.program_ended().await,
        None => tree.leader_exited().await,
    }
}

/// Makes sure that nothing is left; returns those that would not go.
async fn end_all(tie: Option<&mut Tie>, tree: &Tree) -> Vec<i32> {
    let Some(tie) = tie else { return tree.kill().await };
    if tie.end_all().await {
        return Vec::new();
    }
    let survivors = tree.kill().await;
    if survivors.is_empty() {
        // What the shim had said before it went, too.
        drop(timeout(REAP_LIMIT, tie.program_ended()).await);
    }
    survivors
}

/// Returns what is left when that is too little.
async fn disk_is_full(reserve: Option<&Reserve>) -> u64 {
    let Some(Reserve { folder, bytes }) = reserve else { return std::future::pending().await };
    loop {
        // There is no event for it.
        sleep(LOOK_AT_DISK).await;
        let folder = folder.clone();
        let free = tokio::task::spawn_blocking(move || crate::disk::free(&folder)).await;
        if let Ok(Ok(left)) = free
            && left < *bytes
        {
            return left;
        }
    }
}

/// Reads both pipes beside whatever else is waited for, so that a program never blocks on a full pipe.
struct Draining<'a, F> {
    pumps: Pin<&'a mut F>,
    done: bool,
}

impl<F: Future<Output = ()>> Draining<'_, F> {
    async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                out = &mut work => return out,
                () = self.pumps.as_mut(), if !self.done => self.done = true,
            }
        }
    }

    /// Reads to the end, which a process that inherited the pipe may put off, but not for long.
    async fn finish(&mut self, stop: &CancellationToken) {
        if !self.done {
            tokio::select! {
                () = self.pumps.as_mut() => self.done = true,
                () = stop.cancelled() => {}
                () = sleep(PIPE_GRACE) => {}
            }
        }
    }
}

async fn pump(pipe: Option<Pipe>, lines: &mut Lines<'_>) {
    let Some(mut pipe) = pipe else { return };
    let mut chunk = vec![0; CHUNK];
    loop {
        match pipe.read(&mut chunk).await {
            Ok(0) => return,
            Ok(n) => lines.push(&chunk[..n]),
            Err(error) => {
                tracing::warn!(%error, "cannot read what a program prints");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
