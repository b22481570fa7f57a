//! REST bodies, shared by server and client. Domain types ([`Service`], [`Deployment`], [`Instance`], [`Sandbox`],
//! [`Event`]) are bodies as they are; here is what only the API has.
//!
//! All times are RFC 3339 in UTC. All errors are [`Problem`], sent as `application/problem+json`.

mod audit;
mod identity;
mod places;
mod secrets;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use url::Url;

pub use self::audit::*;
pub use self::identity::*;
pub use self::places::*;
pub use self::secrets::*;
pub use crate::catalog::Service;
pub use crate::deployment::{Deployment, Notify};
pub use crate::event::Event;
use crate::id::{DeploymentId, DeploymentNumber};
use crate::name::{AgentName, EnvName, GitRef, Label, RepoUrl, SandboxName, ServiceName};
use crate::principal::Principal;
pub use crate::sandbox::{Instance, LastRestart, Sandbox};
use crate::secret::GitCredential;
pub use crate::wire::{Load, OutputLine, Preflight, RefInfo};

/// The header by which a bot's token names the person it speaks for.
pub const ON_BEHALF_OF: &str = "sdp-on-behalf-of";
/// The header that makes a request safe to repeat.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// An error, after RFC 9457.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// `about:blank`, or a page about the code.
    #[serde(rename = "type", default = "about_blank")]
    pub type_: String,
    /// HTTP status.
    pub status: u16,
    /// Stable code, e.g. `unknown_service`; programs match on it.
    pub code: String,
    /// What went wrong, as a sentence.
    pub title: String,
    /// What exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The name that was probably meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub did_you_mean: Option<String>,
}

fn about_blank() -> String {
    "about:blank".to_owned()
}

/// Ask for a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateDeployment {
    /// Which service.
    pub service: ServiceName,
    /// Branch, tag or commit; without one: the last one in that sandbox, else the service's default branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_ref: Option<GitRef>,
    /// Where to; without one: the asker's own sandbox. Made on first use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<SandboxName>,
    /// Variables for this deployment, over those of the service.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, String>))]
    pub env: BTreeMap<EnvName, String>,
    /// Where in the team's chat it is told, with its progress and its end: for deployments that nobody asks for in a chat, such as
    /// those of CI. Whether the bot can post there shows in the bot's log, not here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<Notify>,
    /// For the fetch alone; never stored. Write-only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_credential: Option<GitCredential>,
}

/// Optional body of redeploy, rollback and restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AgainRequest {
    /// As for a deployment; that of the earlier one is not taken over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<Notify>,
    /// Only used if the kept build is gone and the commit must be fetched again. Write-only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_credential: Option<GitCredential>,
}

/// A deployment was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeploymentCreated {
    /// Its id.
    pub id: DeploymentId,
    /// Its short number.
    pub number: DeploymentNumber,
    /// The page with its live log.
    pub log_url: Url,
    /// The deployment as it stands.
    pub deployment: Deployment,
}

/// A deployment with what the server knows about it beside its events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeploymentView {
    /// The deployment.
    pub deployment: Deployment,
    /// The page with its live log.
    pub log_url: Url,
    /// Its place in the queue from 1, if it is queued.
    pub queue_position: Option<u32>,
    /// The deployment right before it in the queue.
    #[serde(default)]
    pub behind: Option<Ahead>,
    /// In how many seconds it will probably be begun, if it is queued and that can be told: from how long what comes before it
    /// usually takes.
    #[serde(default)]
    pub starts_in_seconds: Option<u64>,
    /// Lines of log so far.
    pub log_lines: u64,
    /// If it was superseded: the deployment that took its place.
    pub superseded_by: Option<DeploymentId>,
    /// What it waits for, if it waits: a clause without a full stop, such as `payments in alice is being deployed (#12)`.
    #[serde(default)]
    pub waiting_for: Option<String>,
}

/// A deployment that is to be sent before another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Ahead {
    /// Its short number.
    pub number: DeploymentNumber,
    /// Its service.
    pub service: ServiceName,
    /// Its sandbox.
    pub sandbox: SandboxName,
    /// Who asked for it.
    pub requested_by: Principal,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeploymentList {
    /// Newest first.
    pub deployments: Vec<Deployment>,
    /// Pass it as `cursor` for the next page; none: this was the last.
    pub next_cursor: Option<String>,
}

/// All services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServiceList {
    /// By name.
    pub services: Vec<Service>,
}

/// Instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InstanceList {
    /// Newest first.
    pub instances: Vec<Instance>,
}

/// What an instance printed last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InstanceOutput {
    /// Oldest first; bytes that are no UTF-8 are replaced.
    pub lines: Vec<String>,
}

/// A piece of what an instance prints (`event: lines` of a followed output).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OutputChunk {
    /// How many lines before these were left out, because they came faster than they could be passed on.
    pub left_out: u64,
    /// In the order in which they were printed; none in the first piece: it is being followed.
    pub lines: Vec<OutputLine>,
}

/// Why a followed output has ended (`event: end`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OutputEnd {
    /// What happened.
    pub reason: OutputEndReason,
    /// What exactly, as a sentence without a full stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Why a followed output has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OutputEndReason {
    /// The instance has ended, or prints nothing any more: that was all.
    Ended,
    /// The agent could not follow it.
    Failed,
    /// The connection to its agent was lost; it may go on: follow again.
    AgentAway,
    /// The server stops: follow again.
    Stopping,
}

impl OutputEndReason {
    /// Whether there may be more, for those who follow again.
    #[must_use]
    pub fn may_go_on(self) -> bool {
        matches!(self, Self::AgentAway | Self::Stopping)
    }
}

/// All agents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AgentList {
    /// By name.
    pub agents: Vec<AgentView>,
}

/// An agent as the server sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AgentView {
    /// Its name.
    pub name: AgentName,
    /// Whether it is connected now.
    pub connected: bool,
    /// Whether it is being drained: it gets no new work, and what runs on it serves on.
    #[serde(default)]
    pub draining: bool,
    /// Since when that is so.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub since: Timestamp,
    /// Its version.
    pub version: String,
    /// Its labels.
    pub labels: Vec<Label>,
    /// How many jobs it does at once.
    pub capacity: u32,
    /// How many it does now.
    pub running: u32,
    /// How many deployments wait that it could do; the same one may wait for several agents.
    #[serde(default)]
    pub queued: u32,
    /// Its runtimes.
    pub runtimes: Vec<String>,
    /// Whether it runs a router.
    pub router: bool,
    /// What it found out about itself.
    pub preflight: Vec<Preflight>,
    /// Why it takes no work though it is connected, if that is so.
    #[serde(default)]
    pub degraded: Option<String>,
    /// What it holds and has room for, while it is connected; none before it has said so.
    #[serde(default)]
    pub load: Option<Load>,
}

/// Branches and tags of a service's repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BranchList {
    /// The repository's default branch, if its host says.
    pub head: Option<String>,
    /// Branches by name.
    pub branches: Vec<RefInfo>,
    /// Tags by name.
    pub tags: Vec<RefInfo>,
}

/// Repositories that can be made services, and those that are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RepositoryList {
    /// By name. One with several services is there once for each of them.
    pub repositories: Vec<Repository>,
    /// Whether these are all.
    pub complete: bool,
}

/// A repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Repository {
    /// As its git host shows it, such as `shop/payments`; of one that no host was asked for, the end of its address.
    pub name: String,
    /// What git clones.
    pub url: RepoUrl,
    /// Its default branch, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_branch: Option<GitRef>,
    /// The service that is built from it, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
}

/// A window of a job log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogWindow {
    /// How many lines there are in all now.
    pub total: u64,
    /// Whether no more will come.
    pub complete: bool,
    /// The lines asked for.
    pub lines: Vec<LogLine>,
}

/// A line of a job log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogLine {
    /// Its number, from 1.
    pub n: u64,
    /// When it was printed.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub at: Timestamp,
    /// In which step.
    pub step: crate::deployment::Step,
    /// By whom.
    pub stream: crate::wire::Stream,
    /// What was printed; bytes that are no UTF-8 are replaced (the raw download has them as they are).
    pub text: String,
}

/// What a search in a job log found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogMatches {
    /// The last line that was looked at. What was printed after it is not counted yet: go on with `first` one higher.
    pub lines: u64,
    /// Whether no more lines will come.
    pub complete: bool,
    /// How many lines match, exactly, from `first` to `lines`.
    pub total: u64,
    /// Those asked for, in the order of the log.
    pub matches: Vec<LogMatch>,
}

/// A line that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogMatch {
    /// Its number.
    pub n: u64,
    /// The how many-th of all matching lines it is, from 1: "3 of 1,922".
    pub position: u64,
}

/// What a viewer's WebSocket (`/ws/deployments/{id}?line=N&event=M`) gets, in JSON text frames.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ViewerFrame {
    /// The deployment as it stands; first frame, and after each event.
    Deployment {
        /// With its newest state.
        view: Box<DeploymentView>,
    },
    /// Lines, in order, without a gap.
    Lines {
        /// At least one.
        lines: Vec<LogLine>,
    },
    /// All lines and events were sent; the socket is closed after this.
    End {
        /// How many lines there are.
        lines: u64,
    },
    /// The viewer was too slow, or the server stops: connect again from here.
    Resume {
        /// `line` of the next connection: the first line not yet sent.
        line: u64,
        /// `event` of the next connection.
        event: crate::id::EventSeq,
    },
}
