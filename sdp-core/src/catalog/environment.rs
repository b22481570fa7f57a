//! Environments: a baseline and its router, and what may be done there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use url::Url;

use super::{InvalidService, Service, check_baseline, check_variables};
use crate::name::{
    AgentName, EnvName, EnvironmentName, HostName, PathPrefix, PersonName, ServiceName, TokenName,
};
use crate::principal::Principal;
use crate::routing::ServiceRoute;

/// The longest lifetime of a sandbox, in hours: a year.
pub const LONGEST_LIFETIME_HOURS: u32 = 8760;
/// Ports that no external target has: services of the machine itself, container engines and cluster APIs.
const REFUSED_PORTS: [u16; 7] = [22, 2375, 2376, 2377, 6443, 10250, 65535];

/// A baseline and its router: where sandboxes are.
///
/// ```
/// use sdp_core::catalog::Environment;
/// let environment: Environment = serde_json::from_str(
///     r#"{ "name": "staging", "domain": "sandboxes.shop.test",
///          "services": { "payments": { "rule": { "type": "path", "prefix": "/payments" },
///                                      "baseline": "https://payments-staging.apps.ocp.shop.test" },
///                        "gateway":  { "rule": { "type": "host", "host": "api.shop.test" } } } }"#,
/// )?;
/// environment.check()?;
/// assert_eq!(environment.default_lifetime_hours, 168);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// Its name, what people type.
    pub name: EnvironmentName,
    /// What it is, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(max_length = 500))]
    pub description: Option<String>,
    /// Its services. What is not said of one here stands in the catalog.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, EnvironmentService>))]
    pub services: BTreeMap<ServiceName, EnvironmentService>,
    /// Whether services of the catalog are part of it that `services` does not name. So it is in `default`, which is there from the
    /// start.
    #[serde(default)]
    pub every_service: bool,
    /// The agent whose router serves it; without one: every agent that has a router.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router: Option<AgentName>,
    /// `<sandbox>.<domain>` is a sandbox's host at the router; needs a wildcard record in DNS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<HostName>,
    /// How long a sandbox lives after it was made, or renewed by a deploy, if it says nothing of its own.
    #[serde(default = "week")]
    #[cfg_attr(feature = "openapi", schema(default = 168, minimum = 1, maximum = 8760))]
    pub default_lifetime_hours: u32,
    /// How long a sandbox may live.
    #[serde(default = "month")]
    #[cfg_attr(feature = "openapi", schema(default = 720, minimum = 1, maximum = 8760))]
    pub max_lifetime_hours: u32,
    /// What requests get whose instance is broken or lost.
    #[serde(default)]
    pub when_down: WhenDown,
    /// Who may deploy here; nobody named: every developer.
    #[serde(default)]
    pub deployers: Deployers,
    /// Variables of all instances here; those of service, template, sandbox and deploy stand above them.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, String>))]
    pub env: BTreeMap<EnvName, String>,
    /// Networks in which routes may have external targets, such as that of developers' laptops; none: no external targets.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>, max_items = 50))]
    pub external_networks: Vec<IpNet>,
    /// How much one owner's sandboxes may have here.
    #[serde(default)]
    pub quota: Quota,
}

fn week() -> u32 {
    168
}

fn month() -> u32 {
    720
}

/// What an environment says of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct EnvironmentService {
    /// Which requests are for it; without one: the service's own `path_prefix`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<MatchRule>,
    /// The shared deployment; without one: the service's own `baseline`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Url>,
}

/// Which requests are for a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum MatchRule {
    /// Those whose path begins with it, in whole segments; the longest prefix wins.
    Path {
        /// The prefix.
        prefix: PathPrefix,
        /// Whether it is taken off before the service sees the path.
        #[serde(default = "yes")]
        #[cfg_attr(feature = "openapi", schema(default = true))]
        strip: bool,
    },
    /// Those that were sent to this host.
    Host {
        /// The host.
        host: HostName,
    },
}

fn yes() -> bool {
    true
}

impl MatchRule {
    /// The prefix, if it is one.
    #[must_use]
    pub fn prefix(&self) -> Option<&PathPrefix> {
        match self {
            Self::Path { prefix, .. } => Some(prefix),
            Self::Host { .. } => None,
        }
    }

    /// The host, if it is one.
    #[must_use]
    pub fn host(&self) -> Option<&HostName> {
        match self {
            Self::Path { .. } => None,
            Self::Host { host } => Some(host),
        }
    }

    /// Whether a request could be meant by both and none is more exact.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Path { prefix, .. }, Self::Path { prefix: other, .. }) => prefix == other,
            (Self::Host { host }, Self::Host { host: other }) => host == other,
            _ => false,
        }
    }
}

impl std::fmt::Display for MatchRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path { prefix, .. } => write!(f, "paths below {prefix}"),
            Self::Host { host } => write!(f, "the host {host}"),
        }
    }
}

/// What requests get whose instance is broken or lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum WhenDown {
    /// An answer 503 that names it, so that nobody tests the wrong code without knowing.
    #[default]
    Fail,
    /// The baseline's answer; `sdp-served-by` says so.
    Baseline,
}

/// Who may deploy in an environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Deployers {
    /// People, by the name under which they sign in.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<PersonName>, max_items = 1000))]
    pub people: BTreeSet<PersonName>,
    /// API tokens, by name.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<TokenName>, max_items = 1000))]
    pub tokens: BTreeSet<TokenName>,
}

impl Deployers {
    /// Whether somebody may deploy.
    #[must_use]
    pub fn allow(&self, by: &Principal) -> bool {
        if self.people.is_empty() && self.tokens.is_empty() {
            return true;
        }
        match by {
            Principal::Token { name } => self.tokens.contains(name),
            Principal::System => true,
            person => person.as_person().is_some_and(|name| self.people.contains(name)),
        }
    }
}

/// How much one owner's sandboxes may have in an environment; what is not said has no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Quota {
    /// Instances, of all sandboxes of one owner together.
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 100_000))]
    pub instances: Option<u32>,
    /// Memory that these may take together, in MiB: what their services' limits say; services without a limit are not counted.
    #[cfg_attr(feature = "openapi", schema(minimum = 16, maximum = 100_000_000))]
    pub memory_mib: Option<u32>,
}

impl Environment {
    /// The one that is there from the start: every service, with its own rule and baseline.
    #[must_use]
    pub fn default_one() -> Self {
        Self { every_service: true, ..Self::new(default_name()) }
    }

    /// One without services.
    #[must_use]
    pub fn new(name: EnvironmentName) -> Self {
        Self {
            name,
            description: None,
            services: BTreeMap::new(),
            every_service: false,
            router: None,
            domain: None,
            default_lifetime_hours: week(),
            max_lifetime_hours: month(),
            when_down: WhenDown::Fail,
            deployers: Deployers::default(),
            env: BTreeMap::new(),
            external_networks: Vec::new(),
            quota: Quota::default(),
        }
    }

    /// Checks what the types alone do not.
    ///
    /// # Errors
    /// The first field that cannot work.
    pub fn check(&self) -> Result<(), InvalidService> {
        let err = |field, problem: &str| Err(InvalidService { field, problem: problem.to_owned() });
        let hours = 1..=LONGEST_LIFETIME_HOURS;
        if !hours.contains(&self.default_lifetime_hours) || !hours.contains(&self.max_lifetime_hours) {
            return err("max_lifetime_hours", "lifetimes are 1 to 8760 hours");
        }
        if self.default_lifetime_hours > self.max_lifetime_hours {
            return err("default_lifetime_hours", "at most max_lifetime_hours");
        }
        if self.services.len() > 500 {
            return err("services", "at most 500");
        }
        if self.external_networks.len() > 50 {
            return err("external_networks", "at most 50");
        }
        if self.deployers.people.len() > 1000 || self.deployers.tokens.len() > 1000 {
            return err("deployers", "at most 1000 people and 1000 tokens");
        }
        if self.description.as_ref().is_some_and(|text| !is_note(text, 500)) {
            return err("description", "at most 500 characters, no control characters");
        }
        if self.quota.instances.is_some_and(|count| !(1..=100_000).contains(&count)) {
            return err("quota.instances", "1 to 100000");
        }
        if self.quota.memory_mib.is_some_and(|mib| !(16..=100_000_000).contains(&mib)) {
            return err("quota.memory_mib", "16 to 100000000");
        }
        for service in self.services.values() {
            check_baseline(service.baseline.as_ref())?;
        }
        check_variables(&self.env)
    }

    /// Whether a service is part of it.
    #[must_use]
    pub fn has(&self, service: &ServiceName) -> bool {
        self.every_service || self.services.contains_key(service)
    }

    /// The rule for a service's requests here.
    #[must_use]
    pub fn rule(&self, service: &Service) -> MatchRule {
        let own = self.services.get(&service.name).and_then(|own| own.rule.clone());
        own.unwrap_or_else(|| MatchRule::Path { prefix: service.prefix(), strip: service.strip_prefix })
    }

    /// A service's shared deployment here.
    #[must_use]
    pub fn baseline<'a>(&'a self, service: &'a Service) -> Option<&'a Url> {
        let own = self.services.get(&service.name).and_then(|own| own.baseline.as_ref());
        own.or(service.baseline.as_ref())
    }

    /// Its services as the routers must know them, by name. Those that the catalog does not have are left out.
    #[must_use]
    pub fn routes(&self, services: &BTreeMap<ServiceName, Service>) -> Vec<ServiceRoute> {
        let of = services.values().filter(|service| self.has(&service.name));
        let route = |service: &Service| ServiceRoute {
            service: service.name.clone(),
            rule: self.rule(service),
            baseline: self.baseline(service).cloned(),
        };
        of.map(route).collect()
    }

    /// Whether a route may have this external target; if not, why, as a clause.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_external(&self, address: SocketAddr) -> Result<(), String> {
        let ip = address.ip().to_canonical();
        if self.external_networks.is_empty() {
            return Err(format!("{} has no networks for external targets (external_networks)", self.name));
        }
        if is_never_a_target(ip) {
            return Err(format!(
                "{ip} is an address of the machine itself, of many, or of a cloud's metadata"
            ));
        }
        if !self.external_networks.iter().any(|network| network.contains(&ip)) {
            let networks: Vec<_> = self.external_networks.iter().map(ToString::to_string).collect();
            return Err(format!("{ip} is in none of the networks of {}: {}", self.name, networks.join(", ")));
        }
        if address.port() == 0 || REFUSED_PORTS.contains(&address.port()) {
            return Err(format!("port {} is no service's", address.port()));
        }
        Ok(())
    }
}

/// The name of the environment that is there from the start.
#[must_use]
pub fn default_name() -> EnvironmentName {
    EnvironmentName::parse("default").unwrap_or_else(|_| unreachable!("default is a valid name"))
}

/// Loopback, unspecified, broadcast, multicast, link-local (with the metadata services of clouds).
fn is_never_a_target(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_broadcast()
                || ip.is_multicast()
                || ip.is_link_local()
                || ip.octets()[0] == 0
        }
        IpAddr::V6(ip) => {
            ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local()
        }
    }
}

/// Plain text for people, of one or more lines.
pub(crate) fn is_note(text: &str, most: usize) -> bool {
    text.chars().count() <= most && !text.chars().any(|c| c.is_control() && c != '\n')
}
