//! A deployment: a finite job, and the fold of events that tells where it stands.
//!
//! ```text
//!   DeploymentRequested
//!          │
//!          ▼                 sent to an agent, taken
//!       Queued ──────────────────────────────▶ Running { Resolve → Fetch → Build → Start → Check → Switch }
//!          │                                        │
//!          │ newer one / cancel / deadline          │ done / failed / cancelled / deadline
//!          ▼                                        ▼
//!       Ended { Succeeded | Failed | Cancelled | Superseded }          an end is final: nothing changes it
//! ```
//! A kept build skips Fetch and Build. The agent does all steps but the last: Switch is the server's, by way of a router.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::event::{Event, EventKind};
use crate::failure::Failure;
use crate::id::{BatchId, DeploymentId, DeploymentNumber, EventSeq, InstanceId};
use crate::name::{AgentName, ChannelName, CommitId, EnvName, GitRef, SandboxName, ServiceName};
use crate::principal::Principal;

/// One part of the work, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Step {
    /// Branch to commit.
    Resolve,
    /// Commit to files.
    Fetch,
    /// Files to something that runs.
    Build,
    /// Start it.
    Start,
    /// Wait until it is healthy.
    Check,
    /// Send the sandbox's traffic to it.
    Switch,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Self; 6] =
        [Self::Resolve, Self::Fetch, Self::Build, Self::Start, Self::Check, Self::Switch];

    /// Its name in lower case, as in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Fetch => "fetch",
            Self::Build => "build",
            Self::Start => "start",
            Self::Check => "check",
            Self::Switch => "switch",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Where a deployment stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum State {
    /// It waits for its turn or for an agent.
    Queued {},
    /// An agent (or, in the last step, the router) works on it.
    Running {
        /// The step it is in.
        step: Step,
    },
    /// It is over, for good.
    Ended {
        /// How.
        outcome: Outcome,
    },
}

/// How a deployment ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// It runs, and the sandbox's traffic goes to it.
    Succeeded {},
    /// It failed; what served before still serves.
    Failed {
        /// Why.
        failure: Failure,
    },
    /// Somebody cancelled it; nothing of it is left.
    Cancelled {
        /// Who.
        by: Principal,
    },
    /// It was still queued when a newer one for the same service and sandbox came.
    Superseded {
        /// The newer one.
        by: DeploymentId,
        /// Its number.
        number: DeploymentNumber,
    },
}

impl Outcome {
    /// Stable code: `succeeded`, `failed`, `cancelled`, `superseded`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Succeeded {} => "succeeded",
            Self::Failed { .. } => "failed",
            Self::Cancelled { .. } => "cancelled",
            Self::Superseded { .. } => "superseded",
        }
    }
}

/// What kind of deployment it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DeployKind {
    /// A branch, tag or commit, built afresh.
    Deploy,
    /// The commit of an earlier deployment; its kept build is used if it is still there.
    Redeploy,
    /// The commit that ran before the present one; its kept build is used if it is still there.
    Rollback,
    /// The running commit started anew.
    Restart,
}

impl DeployKind {
    /// Whether a kept build may be used.
    #[must_use]
    pub fn may_reuse_build(self) -> bool {
        !matches!(self, Self::Deploy)
    }
}

/// A commit as people know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CommitInfo {
    /// Its author's name, at most 100 characters.
    pub author: String,
    /// The first line of its message, at most 200 characters.
    pub subject: String,
}

/// How a commit relates to the one that was there before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Changes {
    /// The commit that it is compared with: what served in its place, or else what was deployed there last and succeeded.
    pub since: CommitId,
    /// How many commits it has that the former one has not.
    pub added: u32,
    /// How many it has not that the former one has: it goes back, or its branch was written anew.
    pub removed: u32,
    /// Whether there are more than were counted: no more than 1,000 are.
    #[serde(default)]
    pub more: bool,
    /// What the newest of those that were added say, newest first: at most 5 first lines of at most 100 characters.
    pub subjects: Vec<String>,
}

impl Changes {
    /// So many commits are counted at most, those that were added and removed together.
    pub const MOST: u32 = 1_000;
    /// So many subjects are told at most.
    pub const SUBJECTS: usize = 5;
    /// So many characters each of them has at most, before it is cut with an ellipsis.
    pub const SUBJECT: usize = 100;
}

/// Where a deployment is told, beside where it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Notify {
    /// A channel of the team's chat. Whether there is one of that name, and the bot may post there, only the chat knows.
    pub channel: ChannelName,
}

/// When a step began and ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StepTime {
    /// The step.
    pub step: Step,
    /// When it began.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub started_at: Timestamp,
    /// When it ended.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub ended_at: Option<Timestamp>,
    /// The first line of the log that belongs to it, from 1; the line may not be there if the step printed nothing.
    pub first_line: u64,
}

/// A deployment as the events so far tell it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// Its short number.
    pub number: DeploymentNumber,
    /// What kind it is.
    pub kind: DeployKind,
    /// The service.
    pub service: ServiceName,
    /// The sandbox.
    pub sandbox: SandboxName,
    /// What was asked for.
    pub git_ref: GitRef,
    /// The commit, once it is resolved.
    pub commit: Option<CommitId>,
    /// The deployment whose commit is taken again (redeploy, rollback, restart).
    pub of: Option<DeploymentNumber>,
    /// Author and subject, once it is fetched.
    pub commit_info: Option<CommitInfo>,
    /// What it changes, once it is fetched, if something was there before it. None where a kept build is used.
    #[serde(default)]
    pub changes: Option<Changes>,
    /// Variables of this deployment, over those of the service.
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, String>))]
    pub env: BTreeMap<EnvName, String>,
    /// Where it is told, if whoever asked said so.
    #[serde(default)]
    pub notify: Option<Notify>,
    /// What it was asked for together with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchId>,
    /// Who asked.
    pub requested_by: Principal,
    /// When.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub requested_at: Timestamp,
    /// Where it stands.
    pub state: State,
    /// Its steps so far.
    pub steps: Vec<StepTime>,
    /// The agent that works on it.
    pub agent: Option<AgentName>,
    /// How many times it was sent to an agent.
    pub attempt: u32,
    /// Who wants it cancelled, from the moment they asked.
    pub cancel_requested_by: Option<Principal>,
    /// The instance it started.
    pub instance: Option<InstanceId>,
    /// Where it answers, once it has succeeded.
    pub url: Option<Url>,
    /// Whether a kept build was used; none until that is known.
    pub reused_build: Option<bool>,
    /// What SDP remarked on the way, e.g. that a kept build was gone.
    pub notes: Vec<String>,
    /// When it ended.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub ended_at: Option<Timestamp>,
    /// The newest event that is folded in.
    pub version: EventSeq,
}

impl Deployment {
    /// How it ended, if it has.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.state {
            State::Ended { outcome } => Some(outcome),
            State::Queued {} | State::Running { .. } => None,
        }
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.outcome().is_some()
    }

    /// Begins a deployment from the event that says it was requested; `None` for any other event.
    #[must_use]
    pub fn begin(event: &Event) -> Option<Self> {
        let EventKind::DeploymentRequested {
            number,
            kind,
            service,
            sandbox,
            git_ref,
            commit,
            of,
            env,
            notify,
            batch,
        } = &event.kind
        else {
            return None;
        };
        Some(Self {
            id: event.about.deployment?,
            number: *number,
            kind: *kind,
            service: service.clone(),
            sandbox: sandbox.clone(),
            git_ref: git_ref.clone(),
            commit: commit.clone(),
            of: *of,
            commit_info: None,
            changes: None,
            env: env.clone(),
            notify: notify.clone(),
            batch: *batch,
            requested_by: event.by.clone(),
            requested_at: event.at,
            state: State::Queued {},
            steps: Vec::new(),
            agent: None,
            attempt: 0,
            cancel_requested_by: None,
            instance: None,
            url: None,
            reused_build: None,
            notes: Vec::new(),
            ended_at: None,
            version: event.seq,
        })
    }

    /// Folds in one event. Events of other deployments and events after the end change nothing.
    pub fn apply(&mut self, event: &Event) {
        if event.about.deployment != Some(self.id) || event.seq <= self.version || self.is_ended() {
            return;
        }
        self.version = event.seq;
        match &event.kind {
            EventKind::DeploymentSent { agent, attempt } => {
                self.agent = Some(agent.clone());
                self.attempt = *attempt;
            }
            EventKind::DeploymentReturned { .. } => self.agent = None,
            EventKind::StepStarted { step, first_line } => {
                self.close_step(event.at);
                self.steps.push(StepTime {
                    step: *step,
                    started_at: event.at,
                    ended_at: None,
                    first_line: *first_line,
                });
                self.state = State::Running { step: *step };
            }
            EventKind::CommitResolved { commit } => self.commit = Some(commit.clone()),
            EventKind::CommitFetched { info, changes } => {
                self.commit_info = Some(info.clone());
                self.changes.clone_from(changes);
            }
            EventKind::BuildReused { reused, .. } => self.reused_build = Some(*reused),
            EventKind::Noted { text } => self.notes.push(text.clone()),
            EventKind::CancelRequested {} => self.cancel_requested_by = Some(event.by.clone()),
            EventKind::InstanceStarted { .. } => self.instance = event.about.instance,
            EventKind::DeploymentEnded { outcome, url } => {
                self.close_step(event.at);
                self.state = State::Ended { outcome: outcome.clone() };
                self.url.clone_from(url);
                self.ended_at = Some(event.at);
            }
            _ => {}
        }
    }

    fn close_step(&mut self, at: Timestamp) {
        if let Some(last) = self.steps.last_mut()
            && last.ended_at.is_none()
        {
            last.ended_at = Some(at);
        }
    }
}
