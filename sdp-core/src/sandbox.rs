//! Sandboxes and the instances that run in them. What routes follow from them: [`crate::routing`].
//!
//! ```text
//!            Starting ──healthy──▶ Live ──replaced──▶ Draining ──▶ Stopped(replaced)
//!               │                   │ ▲
//!               │   started again:  │ │
//!               │   the check fails │ │ passes
//!               │                   ▼ │
//!               │               Unhealthy
//!               └──▶ Stopped(reason) ◀──┴── given up after restarts, stop by a person, expiry    Lost: its agent is gone
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::id::{DeploymentId, InstanceId};
use crate::name::{
    AgentName, CommitId, EnvName, EnvironmentName, GitRef, PersonName, RoutingKey, SandboxName, ServiceName,
    TeamName, TemplateName,
};
use crate::principal::Principal;

/// A place of one's own to run branches in: a name with an owner, a key that marks its requests, and an end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Sandbox {
    /// Its name.
    pub name: SandboxName,
    /// Who made it; a person or token owns it.
    pub owner: Principal,
    /// The team that owns it, if it is not the owner's alone. A name for people: who belongs to it is said by `members`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<TeamName>,
    /// Who, beside the owner, may deploy into it and change it.
    #[serde(default)]
    pub members: BTreeSet<PersonName>,
    /// Whether every developer may deploy into it.
    #[serde(default)]
    pub shared: bool,
    /// Where it is.
    pub environment: EnvironmentName,
    /// The template that it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateVersion>,
    /// What marks a request as its own. A selector, not a permission.
    pub key: RoutingKey,
    /// When it was made.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// How long it lives after it was renewed.
    pub lifetime_hours: u32,
    /// Its end; none while it is pinned.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub expires_at: Option<Timestamp>,
    /// Whether it is kept until somebody deletes it.
    #[serde(default)]
    pub pinned: bool,
    /// What people are told of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(max_length = 2000))]
    pub notes: Option<String>,
    /// Variables of all its instances, over those of environment, service and template.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, String>))]
    pub env: BTreeMap<EnvName, String>,
    /// Where services' requests go, if not to what was deployed here (or else the baseline).
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, RouteChoice>))]
    pub routes: BTreeMap<ServiceName, RouteChoice>,
    /// The last word that it will end soon: so many hours before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warned_hours: Option<u32>,
    /// Whether its end was moved because the branches of all that runs here are gone: it is not moved a second time for that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[cfg_attr(feature = "openapi", schema(ignore))]
    pub branches_gone: bool,
    /// When something was deployed there last.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub used_at: Option<Timestamp>,
}

impl Sandbox {
    /// Whether it is somebody's own: the owner's or a member's.
    #[must_use]
    pub fn is_of(&self, by: &Principal) -> bool {
        match by {
            Principal::System => true,
            Principal::Token { .. } => self.owner == *by,
            person => person
                .as_person()
                .is_some_and(|name| self.owner.as_person() == Some(name) || self.members.contains(name)),
        }
    }

    /// Whether somebody may deploy into it.
    #[must_use]
    pub fn takes_deploys_of(&self, by: &Principal) -> bool {
        self.shared || self.is_of(by)
    }
}

/// A version of a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TemplateVersion {
    /// The template.
    pub name: TemplateName,
    /// Its version, from 1.
    pub version: u32,
}

/// Where a service's requests go in a sandbox, if somebody has said so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum RouteChoice {
    /// To the baseline, whatever is deployed here.
    Baseline {},
    /// To what another sandbox of the same environment runs.
    Borrowed {
        /// The one that lends it.
        sandbox: SandboxName,
    },
    /// To an address outside, inside the environment's `external_networks`: a developer's laptop.
    External {
        /// Address and port, such as `10.20.3.4:8080`.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        address: SocketAddr,
    },
}

/// What a successful deployment leaves running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// The service it is a copy of.
    pub service: ServiceName,
    /// The sandbox it runs in.
    pub sandbox: SandboxName,
    /// The environment of that.
    #[serde(default = "crate::catalog::environment::default_name")]
    pub environment: EnvironmentName,
    /// The deployment that started it.
    pub deployment: DeploymentId,
    /// The commit it runs.
    pub commit: CommitId,
    /// The branch, tag or commit that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_ref: Option<GitRef>,
    /// The agent it runs on.
    pub agent: AgentName,
    /// Where it answers, as the router reaches it.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub address: Option<SocketAddr>,
    /// Where people reach it: one stable URL per sandbox and service.
    pub url: Option<Url>,
    /// Where it stands.
    pub state: InstanceState,
    /// When it was started.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub started_at: Timestamp,
    /// When it stopped, if it has.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub stopped_at: Option<Timestamp>,
    /// The last lines that it printed before it stopped by itself, or before it was started again.
    #[serde(default)]
    pub last_lines: Vec<String>,
    /// How many times it was started again: because it had ended by itself, or with its agent, engine or machine.
    #[serde(default)]
    pub restarts: u32,
    /// The last time that happened.
    #[serde(default)]
    pub last_restart: Option<LastRestart>,
    /// What is wrong with it, while it is `unhealthy`.
    #[serde(default)]
    pub unhealthy: Option<Unhealthy>,
}

/// Since when an instance does not pass its check, and what was wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Unhealthy {
    /// When that was found.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub since: Timestamp,
    /// What was wrong, as a clause.
    pub detail: String,
}

/// When and why an instance was started again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LastRestart {
    /// When it was.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub at: Timestamp,
    /// Why it had not run for a while.
    pub reason: StopReason,
}

/// Where an instance stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum InstanceState {
    /// It runs, but is not known to be healthy.
    Starting {},
    /// It is healthy; requests are sent to it.
    Live {},
    /// It runs and requests are sent to it, but since it was started again it does not pass its check.
    Unhealthy {},
    /// No new requests are sent to it; it finishes those it has.
    Draining {
        /// Why it will be stopped.
        reason: StopReason,
    },
    /// It does not run any more.
    Stopped {
        /// Why.
        reason: StopReason,
    },
    /// Its agent is gone; nobody knows.
    Lost {},
}

impl InstanceState {
    /// Whether it is over: `Stopped` or `Lost`.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Stopped { .. } | Self::Lost {})
    }
}

/// Why an instance does not run any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum StopReason {
    /// A newer instance took its place.
    Replaced {},
    /// Somebody stopped it.
    Stopped {
        /// Who.
        by: Principal,
    },
    /// Its deployment failed or was cancelled.
    DeploymentEnded {},
    /// Its sandbox was deleted.
    SandboxDeleted {},
    /// Its sandbox has expired.
    SandboxExpired {},
    /// It ended by itself.
    Crashed {
        /// Its exit code; none when a signal ended it.
        exit_code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
        /// Whether it was ended because it took more memory than it may.
        #[serde(default)]
        out_of_memory: bool,
    },
    /// Its agent was restarted, and it with it.
    AgentRestarted {},
    /// The container engine or the machine was restarted, and it with it.
    EngineRestarted {},
    /// It had ended, and could not be started again.
    NotStarted {
        /// Why, as a clause.
        detail: String,
    },
}

/// Whether people should be told by an error, rather than be sent to the baseline, when they ask for the instance:
/// stopping on purpose gives way to the baseline, anything else does not go unnoticed.
pub(crate) fn keeps_route(instance: &Instance) -> Option<&'static str> {
    // What never served is not missed.
    instance.url.as_ref()?;
    match &instance.state {
        InstanceState::Stopped { reason: StopReason::Crashed { out_of_memory: true, .. } } => {
            Some("it ran out of memory")
        }
        InstanceState::Stopped { reason: StopReason::Crashed { .. } } => Some("it crashed"),
        InstanceState::Stopped { reason: StopReason::AgentRestarted {} } => Some("its agent was restarted"),
        InstanceState::Stopped { reason: StopReason::EngineRestarted {} } => {
            Some("its container engine was restarted")
        }
        InstanceState::Stopped { reason: StopReason::NotStarted { .. } } => {
            Some("it could not be started again")
        }
        InstanceState::Lost {} => Some("its agent is gone"),
        _ => None,
    }
}
