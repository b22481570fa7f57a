//! What the router must do, and how a request chooses: the contract of every router, and of [`explain`].
//!
//! [`route_table`] is pure: from environments, services, sandboxes and instances follows the table. [`select`] is pure too: a
//! table and a request's head in, a choice or a refusal out. The built-in router asks it for each request, the nginx one is
//! rendered to do the same, and [`explain`] says why.
//!
//! **The sandbox.** The first of these that is there and not empty wins, and is never overruled by one further down:
//!
//! | # | where | says | |
//! |---|---|---|---|
//! | 1 | path `/~<sandbox>/…` | a name | taken off |
//! | 2 | host `<sandbox>.<domain>` of an environment | a name | |
//! | 3 | header `sdp-routing-key` | a key | |
//! | 4 | header `sdp-sandbox` | a name | |
//! | 5 | header `baggage`, member `sdp-routing-key=…` | a key | W3C |
//! | 6 | header `tracestate`, member `sdp=…` | a key | W3C |
//! | 7 | cookie `sdp_routing_key` | a key | set by a shared link |
//!
//! What names no sandbox, or one that has expired, is answered with 404, never with the baseline. Where the router is told to trust only
//! some origins, 3 to 7 of all others count as absent and are not passed on. None of them is a permission: whoever reaches the
//! router reaches every sandbox.
//!
//! **The environment** is the sandbox's; without a sandbox the one whose domain, or one of whose services, has that host; else the one
//! named `default`; else the only one there is.
//!
//! **The service**: after `/~<sandbox>`, a path that goes on with `/~<service>/…` names it, and both are taken off (the
//! address in `SDP_ROUTE_<SERVICE>`); else the one whose rule is that host; else the longest path prefix, in whole segments.
//!
//! **A shared link** is `/~~/<key>/<path>`: answered with a redirect to `/<path>` and the cookie; `/~~/off/<path>` takes the cookie back.
//!
//! **Paths** are compared as they were sent, byte for byte, without decoding (but `/%7E` is `/~`). Paths with a `.` or `..` segment,
//! however encoded, or with an encoded NUL, are refused with 400, so that what is chosen here and what the service sees cannot
//! differ. Several slashes where something was taken off become one.

pub mod explain;
pub mod select;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::catalog::{Environment, MatchRule, Service, WhenDown};
use crate::id::{InstanceId, RouteVersion};
use crate::name::{CommitId, EnvironmentName, HostName, PathPrefix, RoutingKey, SandboxName, ServiceName};
use crate::sandbox::{Instance, InstanceState, RouteChoice, Sandbox, StopReason, keeps_route};

/// The header that has a sandbox's key; also its name in `baggage`.
pub const ROUTING_KEY: &str = "sdp-routing-key";
/// The header that has a sandbox's name.
pub const SANDBOX: &str = "sdp-sandbox";
/// The cookie that has a sandbox's key (nginx reads no cookie with a hyphen in its name).
pub const COOKIE: &str = "sdp_routing_key";
/// The member of `tracestate` that has a sandbox's key.
pub const TRACESTATE: &str = "sdp";
/// On every answer: who gave it.
pub const SERVED_BY: &str = "sdp-served-by";

/// Everything a router must do: whole, never a difference, so that the newest one is always enough.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTable {
    /// Higher replaces lower.
    pub version: RouteVersion,
    /// By name.
    pub environments: Vec<EnvironmentRoutes>,
}

/// What a router does for an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentRoutes {
    /// Which.
    pub name: EnvironmentName,
    /// Its sandboxes are hosts below this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<HostName>,
    /// What requests get whose instance does not answer.
    pub when_down: WhenDown,
    /// Which requests are for which service, and where they go without a sandbox; by name.
    pub services: Vec<ServiceRoute>,
    /// Every sandbox that exists, by name: an unknown one is told, not silently sent to the baseline.
    pub sandboxes: Vec<SandboxRoutes>,
}

/// How requests for a service are recognised, and where its baseline is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRoute {
    /// The service.
    pub service: ServiceName,
    /// Its requests.
    pub rule: MatchRule,
    /// The shared deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Url>,
}

/// A sandbox, and where it differs from the baseline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRoutes {
    /// Its name.
    pub name: SandboxName,
    /// Its key.
    pub key: RoutingKey,
    /// From then on it is unknown, even if nobody says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// By service; those without one go to the baseline.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<SandboxRoute>,
}

/// Where a service's requests go in one sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRoute {
    /// The service.
    pub service: ServiceName,
    /// Where to.
    pub target: RouteTarget,
}

/// Where a sandbox's requests go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum RouteTarget {
    /// To an instance.
    Instance {
        /// Which.
        instance: InstanceId,
        /// Where it listens.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        address: SocketAddr,
        /// What it runs.
        commit: CommitId,
        /// The sandbox that lends it, if it is another one's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of: Option<SandboxName>,
    },
    /// To an address outside, such as a developer's laptop.
    External {
        /// Where it listens.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        address: SocketAddr,
    },
    /// To the baseline, though the sandbox says something about it.
    Baseline {
        /// Why, as a clause, if nobody chose it: "it crashed".
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Nowhere: 503 with this reason, so that nobody tests the wrong code without knowing.
    Down {
        /// As a clause: "it crashed".
        reason: String,
    },
}

impl RouteTable {
    /// All targets that differ from the baseline.
    pub fn targets(&self) -> impl Iterator<Item = (&SandboxName, &ServiceName, &RouteTarget)> {
        let sandboxes = self.environments.iter().flat_map(|environment| &environment.sandboxes);
        sandboxes.flat_map(|sandbox| {
            sandbox.routes.iter().map(move |route| (&sandbox.name, &route.service, &route.target))
        })
    }

    /// Every instance that requests are sent to.
    pub fn instances(&self) -> impl Iterator<Item = (InstanceId, SocketAddr)> {
        self.targets().filter_map(|(_, _, target)| match target {
            RouteTarget::Instance { instance, address, .. } => Some((*instance, *address)),
            _ => None,
        })
    }

    /// Whether requests are sent to this instance.
    #[must_use]
    pub fn names_instance(&self, id: InstanceId) -> bool {
        self.instances().any(|(instance, _)| instance == id)
    }

    /// What a sandbox's service has, if that is not the baseline.
    #[must_use]
    pub fn target(&self, sandbox: &SandboxName, service: &ServiceName) -> Option<&RouteTarget> {
        let mut found = self.targets().filter(|(in_, of, _)| *in_ == sandbox && *of == service);
        found.next().map(|(_, _, target)| target)
    }

    /// Where a sandbox differs from the baseline, found without a look at all others: environments and sandboxes stand by name, as
    /// [`route_table`] puts them.
    #[cfg(feature = "platform")]
    pub(crate) fn routes_of(&self, environment: &EnvironmentName, sandbox: &SandboxName) -> &[SandboxRoute] {
        let environment = self.environments.binary_search_by(|known| known.name.cmp(environment)).ok();
        let sandboxes = environment.map_or(&[][..], |at| &self.environments[at].sandboxes);
        let sandbox = sandboxes.binary_search_by(|known| known.name.cmp(sandbox)).ok();
        sandbox.map_or(&[][..], |at| &sandboxes[at].routes)
    }

    /// The same without the sandboxes that have expired.
    #[must_use]
    pub fn at(mut self, now: Timestamp) -> Self {
        for environment in &mut self.environments {
            environment.sandboxes.retain(|sandbox| sandbox.expires_at.is_none_or(|end| now < end));
        }
        self
    }

    /// When the next sandbox expires, if any does after `now`.
    #[must_use]
    pub fn next_expiry(&self, now: Timestamp) -> Option<Timestamp> {
        let sandboxes = self.environments.iter().flat_map(|environment| &environment.sandboxes);
        sandboxes.filter_map(|sandbox| sandbox.expires_at).filter(|end| *end > now).min()
    }
}

/// What the routers must do for these environments, services, sandboxes and instances. Pure; same input, same table.
///
/// Per sandbox and service the newest instance that serves wins; where none serves, the newest one that failed shows as
/// [`RouteTarget::Down`] (or the baseline, where that is the environment's policy); where the newest was stopped on purpose
/// there is no row, and the baseline answers. What the sandbox says of a service's route stands above that.
pub fn route_table<'a>(
    version: RouteVersion,
    environments: impl IntoIterator<Item = &'a Environment>,
    services: &BTreeMap<ServiceName, Service>,
    sandboxes: impl IntoIterator<Item = &'a Sandbox>,
    instances: impl IntoIterator<Item = &'a Instance>,
) -> RouteTable {
    let newest = newest(instances);
    let mut table: BTreeMap<&EnvironmentName, (&Environment, EnvironmentRoutes)> = BTreeMap::new();
    for environment in environments {
        let routes = EnvironmentRoutes {
            name: environment.name.clone(),
            domain: environment.domain.clone(),
            when_down: environment.when_down,
            services: environment.routes(services),
            sandboxes: Vec::new(),
        };
        table.insert(&environment.name, (environment, routes));
    }
    let mut sandboxes: Vec<_> = sandboxes.into_iter().collect();
    sandboxes.sort_by(|a, b| a.name.cmp(&b.name));
    for sandbox in sandboxes {
        let Some((of, environment)) = table.get_mut(&sandbox.environment) else { continue };
        let routes = environment.services.iter().filter_map(|route| {
            let target = target(of, sandbox, &route.service, &newest)?;
            let target = match (target, environment.when_down) {
                (RouteTarget::Down { reason }, WhenDown::Baseline) => {
                    RouteTarget::Baseline { reason: Some(reason) }
                }
                (target, _) => target,
            };
            Some(SandboxRoute { service: route.service.clone(), target })
        });
        let routes = routes.collect();
        environment.sandboxes.push(SandboxRoutes {
            name: sandbox.name.clone(),
            key: sandbox.key.clone(),
            expires_at: sandbox.expires_at,
            routes,
        });
    }
    RouteTable { version, environments: table.into_values().map(|(_, routes)| routes).collect() }
}

type Newest<'a> = BTreeMap<(&'a SandboxName, &'a ServiceName), &'a Instance>;

/// The instance that decides in each place.
fn newest<'a>(instances: impl IntoIterator<Item = &'a Instance>) -> Newest<'a> {
    let mut newest: Newest<'a> = BTreeMap::new();
    for instance in instances {
        let routable = match &instance.state {
            InstanceState::Live {} | InstanceState::Unhealthy {} => instance.address.is_some(),
            _ => keeps_route(instance).is_some(),
        };
        let stopped_on_purpose = matches!(
            &instance.state,
            InstanceState::Stopped { reason } | InstanceState::Draining { reason } if reason.is_on_purpose()
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
    newest
}

fn target(
    environment: &Environment,
    sandbox: &Sandbox,
    service: &ServiceName,
    newest: &Newest<'_>,
) -> Option<RouteTarget> {
    let of = |lender: Option<&SandboxName>| {
        let instance = newest.get(&(lender.unwrap_or(&sandbox.name), service))?;
        match (&instance.state, instance.address) {
            (InstanceState::Live {} | InstanceState::Unhealthy {}, Some(address)) => {
                Some(RouteTarget::Instance {
                    instance: instance.id,
                    address,
                    commit: instance.commit.clone(),
                    of: lender.cloned(),
                })
            }
            _ => keeps_route(instance).map(|reason| RouteTarget::Down { reason: reason.to_owned() }),
        }
    };
    match sandbox.routes.get(service) {
        None => of(None),
        Some(RouteChoice::Baseline {}) => Some(RouteTarget::Baseline { reason: None }),
        // The environment's networks may have become others since it was chosen.
        Some(RouteChoice::External { address }) => Some(match environment.check_external(*address) {
            Ok(()) => RouteTarget::External { address: *address },
            Err(why) => RouteTarget::Down { reason: why },
        }),
        Some(RouteChoice::Borrowed { sandbox: lender }) => Some(of(Some(lender)).unwrap_or_else(|| {
            RouteTarget::Down { reason: format!("{lender}, which lends it, does not run it") }
        })),
    }
}

impl StopReason {
    /// Whether somebody wanted it, so that the baseline answers without a word.
    #[must_use]
    pub fn is_on_purpose(&self) -> bool {
        matches!(self, Self::Stopped { .. } | Self::SandboxDeleted {} | Self::SandboxExpired {})
    }
}

/// Where people reach a service in a sandbox: the router's base, `~` and the sandbox, the service's prefix, and a final `/`.
/// It stays the same however often the service is deployed there. No prefix of a service begins with `~`, so it is
/// never ambiguous. A service that is recognised by its host is reached by its name: [`service_url`].
///
/// ```
/// use sdp_core::name::{PathPrefix, SandboxName};
/// use sdp_core::routing::route_url;
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
    at(base, &format!("~{sandbox}{}/", prefix.as_str().trim_end_matches('/')))
}

/// Where programs reach a service in a sandbox, at its own root: what `SDP_ROUTE_<SERVICE>` has. It takes the place of the service's
/// own address: what is appended is the path that the service sees, whatever its rule. It stays the same whatever is deployed.
///
/// ```
/// use sdp_core::name::{SandboxName, ServiceName};
/// use sdp_core::routing::service_url;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let base = "http://127.0.0.1:8081".parse()?;
/// let url = service_url(&base, &SandboxName::parse("alice")?, &ServiceName::parse("ledger")?);
/// assert_eq!(url.as_str(), "http://127.0.0.1:8081/~alice/~ledger");
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn service_url(base: &Url, sandbox: &SandboxName, service: &ServiceName) -> Url {
    at(base, &format!("~{sandbox}/~{service}"))
}

/// The link that makes a browser's requests a sandbox's: it sets the cookie and leads to `/`.
#[must_use]
pub fn share_url(base: &Url, key: &RoutingKey) -> Url {
    at(base, &format!("~~/{key}/"))
}

fn at(base: &Url, rest: &str) -> Url {
    let mut url = base.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.set_path(&format!("{}/{rest}", base.path().trim_end_matches('/')));
    url
}

#[cfg(test)]
mod tests;
