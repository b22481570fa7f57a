//! Sandboxes, the instances that run in them, and the routes that lead to them.
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
//! [`route_table`] is pure: from services and instances follows what the router must do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::catalog::Service;
use crate::id::{DeploymentId, InstanceId, RouteVersion};
use crate::name::{AgentName, CommitId, PathPrefix, SandboxName, ServiceName};
use crate::principal::Principal;

/// A place of one's own to run branches in: a name with an owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Sandbox {
    /// Its name.
    pub name: SandboxName,
    /// Who made it.
    pub owner: Principal,
    /// When it was made.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
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
    /// The deployment that started it.
    pub deployment: DeploymentId,
    /// The commit it runs.
    pub commit: CommitId,
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

/// Everything a router must do: whole, never a difference, so that the newest one is always enough.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTable {
    /// Higher replaces lower.
    pub version: RouteVersion,
    /// Which requests are for which service, and where they go without a sandbox.
    pub services: Vec<ServiceRoute>,
    /// Where a sandbox differs from the baseline.
    pub sandboxes: Vec<SandboxRoute>,
    /// Sandboxes that exist: an unknown name in a header is told, not silently sent to the baseline.
    pub names: BTreeSet<SandboxName>,
}

impl RouteTable {
    /// Whether requests are sent to this instance.
    #[must_use]
    pub fn names_instance(&self, id: InstanceId) -> bool {
        self.sandboxes
            .iter()
            .any(|route| matches!(route.target, RouteTarget::Instance { instance, .. } if instance == id))
    }
}

/// How requests for a service are recognised, and where its baseline is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRoute {
    /// The service.
    pub service: ServiceName,
    /// Its paths; the longest prefix wins.
    pub prefix: PathPrefix,
    /// Whether the prefix is taken off.
    pub strip: bool,
    /// The shared deployment.
    pub baseline: Option<Url>,
}

/// Where a service's requests go in one sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRoute {
    /// The sandbox.
    pub sandbox: SandboxName,
    /// The service.
    pub service: ServiceName,
    /// Where to.
    pub target: RouteTarget,
}

/// Where a sandbox's requests go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum RouteTarget {
    /// To an instance.
    Instance {
        /// Which.
        instance: InstanceId,
        /// Where it listens.
        address: SocketAddr,
        /// What it runs.
        commit: CommitId,
    },
    /// Nowhere: 503 with this reason, so that nobody tests the wrong code without knowing.
    Down {
        /// As a clause: "it crashed".
        reason: String,
    },
}

/// What the router must do for these services, sandboxes and instances. Pure; same input, same table.
///
/// Per sandbox and service the newest instance that serves wins; where none serves, the newest one that failed shows as
/// [`RouteTarget::Down`]; where the newest was stopped on purpose there is no row, and the baseline answers.
pub fn route_table<'a>(
    version: RouteVersion,
    services: impl IntoIterator<Item = &'a Service>,
    sandboxes: impl IntoIterator<Item = &'a Sandbox>,
    instances: impl IntoIterator<Item = &'a Instance>,
) -> RouteTable {
    let mut services: Vec<_> = services
        .into_iter()
        .map(|service| ServiceRoute {
            service: service.name.clone(),
            prefix: service.prefix(),
            strip: service.strip_prefix,
            baseline: service.baseline.clone(),
        })
        .collect();
    services.sort_by(|a, b| a.service.cmp(&b.service));
    let mut newest: BTreeMap<(&SandboxName, &ServiceName), &Instance> = BTreeMap::new();
    for instance in instances {
        let routable = match &instance.state {
            InstanceState::Live {} | InstanceState::Unhealthy {} => instance.address.is_some(),
            _ => keeps_route(instance).is_some(),
        };
        let stopped_on_purpose = matches!(
            &instance.state,
            InstanceState::Stopped { reason: StopReason::Stopped { .. } | StopReason::SandboxDeleted {} }
                | InstanceState::Draining {
                    reason: StopReason::Stopped { .. } | StopReason::SandboxDeleted {}
                }
        );
        if routable || stopped_on_purpose {
            let place = newest.entry((&instance.sandbox, &instance.service)).or_insert(instance);
            let serves =
                |i: &Instance| matches!(i.state, InstanceState::Live {} | InstanceState::Unhealthy {});
            if (serves(instance), instance.id) > (serves(place), place.id) {
                *place = instance;
            }
        }
    }
    let routes = newest.into_iter().filter_map(|((sandbox, service), instance)| {
        let target = match (&instance.state, instance.address) {
            (InstanceState::Live {} | InstanceState::Unhealthy {}, Some(address)) => {
                RouteTarget::Instance { instance: instance.id, address, commit: instance.commit.clone() }
            }
            _ => RouteTarget::Down { reason: keeps_route(instance)?.to_owned() },
        };
        Some(SandboxRoute { sandbox: sandbox.clone(), service: service.clone(), target })
    });
    RouteTable {
        version,
        services,
        sandboxes: routes.collect(),
        names: sandboxes.into_iter().map(|sandbox| sandbox.name.clone()).collect(),
    }
}

/// Where people reach a service in a sandbox: the router's base, `~` and the sandbox, the service's prefix, and a final `/`.
/// It stays the same however often the service is deployed there. No prefix of a service begins with `~`, so it is
/// never ambiguous.
///
/// ```
/// use sdp_core::name::{PathPrefix, SandboxName};
/// use sdp_core::sandbox::route_url;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let base = "http://127.0.0.1:8081".parse()?;
/// let alice = SandboxName::parse("alice")?;
/// let url = route_url(&base, &alice, &PathPrefix::parse("/payments")?);
/// assert_eq!(url.as_str(), "http://127.0.0.1:8081/~alice/payments/");
/// assert_eq!(route_url(&base, &alice, &PathPrefix::parse("/")?).path(), "/~alice/");
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn route_url(base: &Url, sandbox: &SandboxName, prefix: &PathPrefix) -> Url {
    let mut url = base.clone();
    url.set_query(None);
    url.set_fragment(None);
    let prefix = prefix.as_str().trim_end_matches('/');
    url.set_path(&format!("{}/~{sandbox}{prefix}/", base.path().trim_end_matches('/')));
    url
}

#[cfg(test)]
mod tests;
