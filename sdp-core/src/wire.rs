//! The agent protocol: two enums, [`ToAgent`] and [`FromAgent`], over a WebSocket or an in-process channel ([`link`]).
//!
//! ```text
//! agent                                                server
//!   │ hello (boot, capacity, jobs held, instances, router)  │
//!   │ ─────────────────────────────────────────────────────▶│  newest accepted hello wins
//!   │ welcome (epoch; what to do with every job, instance)  │
//!   │◀───────────────────────────────────────────────────── │
//!   │ deploy (spec, credential)                             │  at least once: same command id, same answer
//!   │◀───────────────────────────────────────────────────── │
//!   │ accepted | rejected                                   │
//!   │ lines (dense from 1), progress (dense from 1) … ─────▶│  lines → log file, progress → events
//!   │ ack (lines durable to n, progress committed to m)     │  the agent cuts its spool
//!   │◀───────────────────────────────────────────────────── │
//!   │ done (counts, checksum), again until done_ok          │
//!   │ instance (state) whenever one changes ───────────────▶│  level, not edge: hello repeats them all
//!   │ lifetimes (when sandboxes end) ◀── ; welcome, too     │  without a connection the agent stops what is over by itself
//!   │ load (spool, disk), at most each 10 s ──────────────▶│  level; kept in memory alone
//!   │ routes ◀── table;  routes_applied, drained ──────────▶│  only where the agent runs a router
//!   │ follow_output ◀──;  output … output_ended ───────────▶│  while somebody looks; not stored, may leave lines out
//! ```
//! Control frames are JSON text; log batches are binary ([`LinesBatch`]), so that what a build printed arrives byte for
//! byte. After a reconnect the agent sends again whatever is not acked; the server drops what it has and acks again. A
//! gap is answered with `rewind`. A progress item names the line it comes after and is applied once that line is durable.
//!
//! Limits: a frame is at most [`MAX_FRAME`] bytes, a line at most [`MAX_LINE`]; ping each 10 s, dead after 30 s.

pub mod answer;
pub mod bound;
pub mod instance;
pub mod job;
pub mod lines;
pub mod link;
pub mod load;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use answer::{Answer, ProbeHop, ProbeRequest, RefInfo, RepoInfo};
pub use instance::{
    Exit, Health, InstanceAction, InstanceDecision, InstanceReport, InstanceStatus, OutputLine, RestartCause,
};
pub use job::{
    JobAction, JobDecision, JobPlace, JobReport, JobSpec, SecretSource, SecretVariable, StepLimits, Totals,
};
pub use lines::{LineMeta, LinesBatch, Stream};
pub use load::Load;

use crate::deployment::{Changes, CommitInfo, Step};
use crate::failure::Failure;
use crate::id::{BootId, CommandId, DeploymentId, Epoch, InstanceId, RouteVersion};
use crate::name::{CommitId, Label, RepoUrl};
use crate::routing::RouteTable;
use crate::secret::GitCredential;

/// The one protocol number; another is refused with both named.
pub const PROTOCOL: u32 = 5;
/// The runtime that runs instances in containers, as `hello` names it.
pub const DOCKER: &str = "docker";
/// The runtime that runs instances as plain processes, as `hello` names it.
pub const PROCESS: &str = "process";
/// The largest frame that carries log lines, in bytes.
pub const MAX_FRAME: usize = 256 * 1024;
/// The largest control frame, in bytes (a route table may be large).
pub const MAX_CONTROL_FRAME: usize = 8 * 1024 * 1024;
/// The longest log line, in bytes; longer ones are cut there with a marker.
pub const MAX_LINE: usize = 64 * 1024;
/// Appended to a line that was cut.
pub const CUT_MARKER: &str = " … [line cut at 64 KiB]";

/// What an agent says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum FromAgent {
    /// First frame of a connection.
    Hello {
        /// Must be [`PROTOCOL`].
        protocol: u32,
        /// This life of the agent process.
        boot_id: BootId,
        /// The agent's version, for people.
        version: String,
        /// What services may ask for.
        labels: BTreeSet<Label>,
        /// How many jobs it does at once.
        capacity: u32,
        /// Which runtimes it has: `process`, `docker`.
        runtimes: Vec<String>,
        /// What it found out about itself.
        preflight: Vec<Preflight>,
        /// Every job it holds.
        jobs: Vec<JobReport>,
        /// Every instance it knows.
        instances: Vec<InstanceReport>,
        /// Why it cannot say which instances it has, if it cannot: then an instance that it does not name is not gone, and it takes
        /// no work. It says hello again when it can.
        degraded: Option<String>,
        /// Its router, if it runs one.
        router: Option<RouterReport>,
    },
    /// A command was taken.
    Accepted {
        /// Which.
        command: CommandId,
    },
    /// A command was not taken, and has no effect.
    Rejected {
        /// Which.
        command: CommandId,
        /// Why.
        reason: RejectReason,
        /// As a sentence.
        message: String,
    },
    /// Something happened in a job.
    Progress {
        /// The deployment.
        deployment: DeploymentId,
        /// Its attempt.
        attempt: u32,
        /// Dense from 1.
        number: u64,
        /// It comes after this line of the log; 0: before the first.
        after_line: u64,
        /// What happened.
        what: Progress,
    },
    /// All lines and progress of a job were sent; repeated until `done_ok`.
    Done {
        /// The deployment.
        deployment: DeploymentId,
        /// Its attempt.
        attempt: u32,
        /// How many progress items there are.
        progress: u64,
        /// How many lines there are.
        lines: u64,
        /// How many bytes they have, each with its line feed.
        bytes: u64,
        /// How many lines the build printed that are not among them (over the spool's cap).
        dropped: u64,
        /// CRC-32 (IEEE) over those bytes.
        checksum: u32,
    },
    /// An instance's state changed.
    Instance {
        /// The instance as it is now.
        report: InstanceReport,
    },
    /// The router has put a table into effect.
    RoutesApplied {
        /// Its version.
        version: RouteVersion,
    },
    /// No request is under way any more to an instance that the newest table does not name.
    Drained {
        /// Which.
        instance: InstanceId,
    },
    /// What it found out about itself has changed.
    Preflight {
        /// All of it.
        checks: Vec<Preflight>,
    },
    /// What it holds and has room for: after each welcome, and when that has changed noticeably.
    Load {
        /// As it is now.
        load: Load,
    },
    /// What a followed instance printed.
    Output {
        /// The id of the `follow_output`.
        command: CommandId,
        /// How many lines before these were left out, because they came faster than they could be sent.
        left_out: u64,
        /// In the order in which they were printed.
        lines: Vec<OutputLine>,
    },
    /// A followed instance prints nothing any more: it has ended, or could not be followed.
    OutputEnded {
        /// The id of the `follow_output`.
        command: CommandId,
        /// Why, if not because the instance ended.
        failure: Option<Failure>,
    },
    /// The answer to a question.
    Answer {
        /// The question's command id.
        command: CommandId,
        /// The answer.
        answer: Answer,
    },
    /// The agent goes away on purpose.
    Bye {
        /// Why.
        reason: ByeReason,
    },
}

/// What the server says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ToAgent {
    /// The answer to a hello: nothing that it named is left undecided.
    Welcome {
        /// Which accepted hello of this agent it was.
        epoch: Epoch,
        /// What to do with every job.
        jobs: Vec<JobDecision>,
        /// What to do with every instance.
        instances: Vec<InstanceDecision>,
    },
    /// Do a job.
    Deploy {
        /// Same id, same answer, no second effect.
        command: CommandId,
        /// The deployment.
        deployment: DeploymentId,
        /// Its attempt.
        attempt: u32,
        /// What to do.
        spec: Box<JobSpec>,
        /// For the fetch alone; never written anywhere.
        credential: Option<GitCredential>,
        /// Secret variables of the service; not in the agent's journal, and taken out of whatever is printed.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        secrets: Vec<SecretVariable>,
    },
    /// Stop a job and remove all that it started; the job then ends as cancelled.
    Cancel {
        /// Same id, same answer.
        command: CommandId,
        /// The deployment.
        deployment: DeploymentId,
    },
    /// Stop an instance and forget it.
    StopInstance {
        /// Same id, same answer.
        command: CommandId,
        /// Which.
        instance: InstanceId,
    },
    /// When the sandboxes of these instances end, where that has changed; `welcome` says it of all.
    Lifetimes {
        /// By instance; none: it does not end by itself.
        instances: BTreeMap<InstanceId, Option<Timestamp>>,
    },
    /// The whole route table.
    Routes {
        /// It replaces any lower version.
        table: RouteTable,
    },
    /// Which branches and tags a repository has.
    ListRefs {
        /// The question's id.
        command: CommandId,
        /// The repository.
        repo: RepoUrl,
        /// For this listing alone.
        credential: Option<GitCredential>,
    },
    /// Whether a credential opens a repository that is not open to everybody, and whose it is.
    CheckCredential {
        /// The question's id.
        command: CommandId,
        /// The repository.
        repo: RepoUrl,
        /// For this question alone.
        credential: GitCredential,
        /// How long it may take, in milliseconds.
        within_ms: u32,
    },
    /// Which repositories of a git host somebody can read.
    ListRepos {
        /// The question's id.
        command: CommandId,
        /// Any repository of that host.
        repo: RepoUrl,
        /// For this listing alone.
        credential: Option<GitCredential>,
    },
    /// Send a request through the router as a sandbox's, and say which requests followed from it: whether the services pass the
    /// sandbox's mark on.
    Probe {
        /// The question's id.
        command: CommandId,
        /// What to send.
        probe: ProbeRequest,
    },
    /// What an instance printed last.
    ReadOutput {
        /// The question's id.
        command: CommandId,
        /// Which.
        instance: InstanceId,
        /// How many lines at most.
        lines: u32,
    },
    /// Send what an instance prints, until it ends or `stop_following`. Ends with the connection.
    FollowOutput {
        /// The id under which it is sent.
        command: CommandId,
        /// Which.
        instance: InstanceId,
        /// Begin with so many of the last lines.
        tail: u32,
    },
    /// Send no more.
    StopFollowing {
        /// The id of the `follow_output`.
        command: CommandId,
    },
    /// What is durable.
    Ack {
        /// The deployment.
        deployment: DeploymentId,
        /// Its attempt.
        attempt: u32,
        /// All lines up to this one.
        lines: u64,
        /// All progress up to this one.
        progress: u64,
    },
    /// Send again.
    Rewind {
        /// The deployment.
        deployment: DeploymentId,
        /// Its attempt.
        attempt: u32,
        /// Lines after this one.
        lines: u64,
        /// Progress after this one.
        progress: u64,
    },
    /// Everything of a job has arrived; its spool may go.
    DoneOk {
        /// The deployment.
        deployment: DeploymentId,
        /// Its attempt.
        attempt: u32,
    },
    /// The connection ends on purpose.
    Bye {
        /// Why.
        reason: ByeReason,
        /// Come back after so many milliseconds; none: as usual.
        retry_after_ms: Option<u64>,
    },
}

/// Why a command was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RejectReason {
    /// It does as many jobs as it can.
    Busy,
    /// It takes no new work: it is going away.
    Draining,
    /// Its disk is full.
    DiskFull,
    /// Its container engine does not answer.
    EngineUnavailable,
    /// It cannot do this at all.
    Unsupported,
}

/// Something that happened in a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Progress {
    /// A step began; the one before it has ended.
    StepStarted {
        /// Which.
        step: Step,
    },
    /// The commit is known.
    Resolved {
        /// Which.
        commit: CommitId,
    },
    /// Who wrote it.
    Fetched {
        /// Author and subject.
        info: CommitInfo,
        /// How it relates to the job's `since`, if that can be told.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        changes: Option<Changes>,
    },
    /// Whether a kept build is used.
    BuildReused {
        /// Yes, or it had been swept.
        reused: bool,
    },
    /// A remark worth showing.
    Noted {
        /// One line.
        text: String,
    },
    /// The instance was started.
    Started {
        /// Where it listens, as the router reaches it.
        address: SocketAddr,
    },
    /// The last item.
    Ended {
        /// How.
        result: JobResult,
    },
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum JobResult {
    /// The instance is healthy, and waits for its route.
    Ready {},
    /// It failed; nothing of it is left.
    Failed {
        /// Why.
        failure: Failure,
    },
    /// It was cancelled; nothing of it is left.
    Cancelled {},
}

/// An agent's router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterReport {
    /// Which one: `builtin`, `nginx`.
    pub kind: String,
    /// The base of the URLs that people use, e.g. `http://127.0.0.1:8081`.
    pub base_url: url::Url,
    /// The version of the table in effect; 0: none.
    pub applied: RouteVersion,
}

/// Something that an agent found out about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Preflight {
    /// What was looked at, e.g. `go` or `disk`.
    pub check: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was found, or what to do.
    pub detail: String,
}

/// Why a connection ends on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ByeReason {
    /// The process stops or restarts.
    Restart,
    /// A newer connection of the same agent took over.
    Superseded,
    /// The protocol numbers differ.
    Protocol,
    /// The token was revoked.
    Unauthorised,
    /// A frame could not be understood.
    BadFrame,
}
