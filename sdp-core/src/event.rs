//! What happened: stored before anyone is told, in one global sequence.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::batch::{Batch, BatchOutcome};
use crate::deployment::{Changes, CommitInfo, DeployKind, Notify, Outcome, Step};
use crate::id::{BatchId, DeploymentId, DeploymentNumber, EventSeq, InstanceId, RouteVersion};
use crate::lock::Lock;
use crate::name::{
    AgentName, CommitId, EnvName, EnvironmentName, GitRef, SandboxName, ServiceName, TemplateName,
};
use crate::principal::Principal;
use crate::sandbox::{RouteChoice, StopReason, TemplateVersion};

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
    /// The environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<EnvironmentName>,
    /// The deployments that were asked for together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchId>,
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
    /// An environment was made, or changed.
    EnvironmentSaved {
        /// Whether it is new.
        created: bool,
    },
    /// An environment was deleted.
    EnvironmentDeleted {},
    /// A new version of a template was made.
    TemplateSaved {
        /// Which template, and which version.
        template: TemplateVersion,
    },
    /// A template was deleted, with all its versions; the sandboxes that were made from it stay.
    TemplateDeleted {
        /// Which.
        name: TemplateName,
    },
    /// A sandbox was made.
    SandboxCreated {},
    /// What a sandbox says was changed: its members, variables, notes, lifetime.
    SandboxChanged {
        /// The names of the fields that were changed.
        fields: Vec<String>,
    },
    /// A sandbox's end was moved.
    SandboxRenewed {
        /// Its end; none: it is pinned, and is kept until somebody deletes it.
        #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
        expires_at: Option<Timestamp>,
    },
    /// A sandbox will end soon: its owner and members are told.
    SandboxExpiring {
        /// When.
        #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
        expires_at: Timestamp,
        /// In about how many hours: 24 or 1.
        hours: u32,
        /// The branch that is gone from its repository, if that is why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        branch_gone: Option<GitRef>,
        /// Who is told.
        owner: Principal,
    },
    /// A sandbox has come to its end, and is deleted; its instances are being stopped.
    SandboxExpired {
        /// Whose it was.
        owner: Principal,
    },
    /// A sandbox was deleted; its instances are being stopped.
    SandboxDeleted {},
    /// Somebody has said where a sandbox's requests for a service go.
    RouteChosen {
        /// Where to; none: to what was deployed there, or else the baseline.
        choice: Option<RouteChoice>,
    },
    /// A lock or a freeze was set.
    Locked {
        /// It.
        lock: Lock,
        /// The one that it took away from somebody else, if it was stolen.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stolen: Option<Lock>,
    },
    /// A lock or a freeze is over.
    Unlocked {
        /// It.
        lock: Lock,
        /// Whether its time was over.
        expired: bool,
    },
    /// Several deployments were asked for together; each has its own `deployment_requested` after this.
    BatchRequested {
        /// The batch.
        batch: Batch,
    },
    /// All deployments of a batch have ended.
    BatchEnded {
        /// How.
        outcome: BatchOutcome,
        /// How many of them serve now.
        succeeded: u32,
        /// How many there were.
        of: u32,
    },
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
        /// What it was asked for together with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        batch: Option<BatchId>,
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
