//! What happened: stored before anyone is told, in one global sequence.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::deployment::{Changes, CommitInfo, DeployKind, Notify, Outcome, Step};
use crate::id::{DeploymentId, DeploymentNumber, EventSeq, InstanceId, RouteVersion};
use crate::name::{AgentName, CommitId, EnvName, GitRef, SandboxName, ServiceName};
use crate::principal::Principal;
use crate::sandbox::StopReason;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Event {
    /// Its place in the one global sequence.
    pub seq: EventSeq,
    /// When.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub at: Timestamp,
    /// Who caused it.
    pub by: Principal,
    /// What it is about; feeds filter on this.
    pub about: About,
    /// What happened.
    pub kind: EventKind,
}

/// Everything that an event is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct About {
    /// The deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<DeploymentId>,
    /// The instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// The service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// The sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<SandboxName>,
    /// The agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentName>,
}

/// The kinds of things that happen. Past tense; new kinds may be added, so readers skip what they do not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// A service was added to the catalog, or its entry changed.
    ServiceSaved {
        /// Whether it is new.
        created: bool,
    },
    /// A service was taken out of the catalog.
    ServiceDeleted {},
    /// A secret of a service was set; its value is in no event.
    SecretSet {
        /// The variable.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        name: EnvName,
    },
    /// A secret of a service was deleted. The service's own end takes its secrets along without a word of each.
    SecretDeleted {
        /// The variable.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        name: EnvName,
    },
    /// A sandbox was made.
    SandboxCreated {},
    /// A sandbox was deleted; its instances are being stopped.
    SandboxDeleted {},
    /// Somebody asked for a deployment.
    DeploymentRequested {
        /// Its short number.
        number: DeploymentNumber,
        /// What kind.
        kind: DeployKind,
        /// The service.
        service: ServiceName,
        /// The sandbox.
        sandbox: SandboxName,
        /// What was asked for.
        git_ref: GitRef,
        /// The commit, where it is known from the start (redeploy, rollback, restart).
        commit: Option<CommitId>,
        /// The deployment whose commit is taken again (redeploy, rollback, restart).
        of: Option<DeploymentNumber>,
        /// Variables of this deployment.
        #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, String>))]
        env: BTreeMap<EnvName, String>,
        /// Where it is told, if whoever asked said so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        notify: Option<Notify>,
    },
    /// It was sent to an agent.
    DeploymentSent {
        /// Which.
        agent: AgentName,
        /// How many times it has been sent.
        attempt: u32,
    },
    /// The agent gave it back before it began; it waits for its turn again.
    DeploymentReturned {
        /// Why, as a sentence.
        reason: String,
    },
    /// A step began; the one before it has ended.
    StepStarted {
        /// Which.
        step: Step,
        /// The first line of the log that belongs to it, from 1.
        first_line: u64,
    },
    /// The branch is this commit; nothing else will be deployed.
    CommitResolved {
        /// Which.
        commit: CommitId,
    },
    /// Who wrote the commit, and what it says.
    CommitFetched {
        /// Author and subject.
        info: CommitInfo,
        /// What it changes, if something was there before it and its agent could tell.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        changes: Option<Changes>,
    },
    /// Whether a kept build is used.
    BuildReused {
        /// Yes, or it had been swept and is built again.
        reused: bool,
    },
    /// A remark worth showing.
    Noted {
        /// One line of plain text.
        text: String,
    },
    /// Somebody wants it cancelled; it ends when everything it started is gone.
    CancelRequested {},
    /// It is over.
    DeploymentEnded {
        /// How.
        outcome: Outcome,
        /// Where it answers, if it succeeded.
        url: Option<Url>,
    },
    /// A new copy of a service was started; it is not known to be healthy yet.
    InstanceStarted {
        /// What it runs.
        commit: CommitId,
        /// Where it listens, as the router reaches it.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        address: SocketAddr,
    },
    /// It is healthy, and requests are sent to it.
    InstanceLive {
        /// Where people reach it.
        url: Option<Url>,
    },
    /// It did not run for a while, and was started again at the same place.
    InstanceRestarted {
        /// Why it had not: it had ended by itself, or with its agent, engine or machine.
        reason: StopReason,
        /// How many times that has happened to it so far.
        restarts: u32,
        /// The last lines that it printed before it ended, if it did so by itself.
        last_lines: Vec<String>,
    },
    /// It was started again and does not pass its check; requests are sent to it all the same.
    InstanceUnhealthy {
        /// What was wrong, as a clause.
        detail: String,
    },
    /// It passes its check again.
    InstanceRecovered {},
    /// No new requests are sent to it; it finishes those it has and is stopped then.
    InstanceDraining {
        /// Why it will be stopped.
        reason: StopReason,
    },
    /// It does not run any more.
    InstanceStopped {
        /// Why.
        reason: StopReason,
        /// The last lines that it printed, if it stopped by itself.
        last_lines: Vec<String>,
    },
    /// Its agent is gone; nobody knows.
    InstanceLost {},
    /// The router has put a new table into effect.
    RoutesApplied {
        /// Which.
        version: RouteVersion,
    },
    /// An agent connected.
    AgentConnected {
        /// Its version.
        version: String,
    },
    /// An agent's connection ended.
    AgentDisconnected {},
    /// An agent gets no new work; it finishes what it has, and what runs on it serves on.
    AgentDrained {},
    /// An agent that was drained gets work again.
    AgentResumed {},
    /// An agent was removed, and its token with it.
    AgentForgotten {},
}
