//! Which sandbox, service and target a request is for. Pure: a table and a request's head in, a choice or a refusal out.
//!
//! [`Index`] is a [`RouteTable`] in the shape that answers quickly: a request costs a few hash look-ups however many
//! services and sandboxes there are. The rules are in the header of [`crate::routing`].

mod text;

use std::collections::HashMap;
use std::net::SocketAddr;

use jiff::Timestamp;
use url::Url;

use super::{
    EnvironmentRoutes, ROUTING_KEY, RouteTable, RouteTarget, SANDBOX, SandboxRoutes, ServiceRoute, TRACESTATE,
};
pub use text::SharedLink;
use text::{check, cookies, members, one};
pub(super) use text::{plain_host, sandbox_in_path};

use crate::catalog::{MatchRule, WhenDown};
use crate::id::{InstanceId, RouteVersion};
use crate::name::{CommitId, EnvironmentName, RoutingKey, SandboxName, ServiceName, did_you_mean};

/// The longest path prefix that a name can be: see [`PathPrefix`](crate::name::PathPrefix).
const LONGEST_PREFIX: usize = 200;

/// How much of an unknown name is repeated to the one who sent it.
const ECHO: usize = 60;

/// How much of a reason is said in `sdp-served-by`.
const MOST_REASON: usize = 200;

/// What of a request chooses.
#[derive(Clone, Copy)]
pub struct Head<'r> {
    /// The path as it was sent, without the query.
    pub path: &'r str,
    /// The host as it was sent, with or without a port.
    pub host: Option<&'r str>,
    /// All values of a header, by its name in lower case.
    pub headers: &'r dyn Fn(&str) -> Vec<String>,
    /// Whether headers and cookies may choose a sandbox.
    pub trusted: bool,
}

impl std::fmt::Debug for Head<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Head").field("path", &self.path).field("host", &self.host).finish_non_exhaustive()
    }
}

/// By what a sandbox was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Selector {
    /// `/~<sandbox>/…`
    Path,
    /// `<sandbox>.<domain>`
    Host,
    /// The header `sdp-routing-key`.
    RoutingKey,
    /// The header `sdp-sandbox`.
    Sandbox,
    /// The header `baggage`.
    Baggage,
    /// The header `tracestate`.
    Tracestate,
    /// The cookie `sdp_routing_key`.
    Cookie,
}

impl Selector {
    /// All of them, the strongest first.
    pub const ALL: [Self; 7] = [
        Self::Path,
        Self::Host,
        Self::RoutingKey,
        Self::Sandbox,
        Self::Baggage,
        Self::Tracestate,
        Self::Cookie,
    ];

    /// As people read it: "the header sdp-routing-key".
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Path => "the path",
            Self::Host => "the host",
            Self::RoutingKey => "the header sdp-routing-key",
            Self::Sandbox => "the header sdp-sandbox",
            Self::Baggage => "the header baggage",
            Self::Tracestate => "the header tracestate",
            Self::Cookie => "the cookie sdp_routing_key",
        }
    }
}

/// A route table, ready to be asked.
#[derive(Debug, Default)]
pub struct Index {
    version: RouteVersion,
    environments: Vec<Place>,
    /// Which environment and sandbox.
    names: HashMap<SandboxName, (usize, usize)>,
    keys: HashMap<RoutingKey, (usize, usize)>,
    domains: HashMap<String, usize>,
    /// Which environment and service.
    hosts: HashMap<String, (usize, usize)>,
    instances: Vec<(InstanceId, SocketAddr)>,
}

#[derive(Debug)]
struct Place {
    routes: EnvironmentRoutes,
    by_prefix: HashMap<String, usize>,
    by_name: HashMap<ServiceName, usize>,
    /// By sandbox and service.
    targets: HashMap<(usize, usize), RouteTarget>,
}

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
pub struct Choice<'t> {
    /// The environment.
    pub environment: &'t EnvironmentName,
    /// The sandbox and what chose it; none: the baseline's own traffic.
    pub sandbox: Option<(&'t SandboxRoutes, Selector)>,
    /// The service.
    pub service: &'t ServiceRoute,
    /// Where to.
    pub target: Target<'t>,
    /// What was taken off the path, e.g. `/~alice/hello`; empty: nothing.
    pub taken: String,
    /// The path that is left, beginning with `/`.
    pub rest: String,
}

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Target<'t> {
    /// To an instance.
    Instance {
        /// Which.
        instance: InstanceId,
        /// Where it listens.
        address: SocketAddr,
        /// What it runs.
        commit: &'t CommitId,
        /// The sandbox that lends it.
        of: Option<&'t SandboxName>,
        /// Where to if it cannot be reached, and that is the environment's policy.
        otherwise: Option<&'t Url>,
    },
    /// To an address outside.
    External {
        /// Where it listens.
        address: SocketAddr,
    },
    /// To the shared deployment.
    Baseline {
        /// Where that is.
        url: &'t Url,
        /// Why, if the sandbox has something of its own that does not answer.
        instead: Option<&'t str>,
    },
}

/// Why a request goes nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The router has not heard yet what to do.
    NoTable,
    /// The path could be read in two ways.
    BadPath {
        /// As a clause.
        why: &'static str,
    },
    /// One selector names two sandboxes.
    TwoSandboxes {
        /// Which.
        selector: Selector,
    },
    /// There is no such sandbox.
    UnknownSandbox {
        /// What was said; its beginning.
        name: String,
        /// Where it was said.
        selector: Selector,
        /// What was probably meant.
        near: Option<String>,
    },
    /// No service has requests like this.
    NoService {
        /// The sandbox that was named.
        sandbox: Option<SandboxName>,
        /// The services that there are, with their rules.
        services: Vec<(ServiceName, MatchRule)>,
    },
    /// There is no baseline, and the sandbox has nothing of its own.
    NoTarget {
        /// The sandbox that was named.
        sandbox: Option<SandboxName>,
        /// The service.
        service: ServiceName,
    },
    /// What the sandbox has does not run.
    Down {
        /// The sandbox.
        sandbox: SandboxName,
        /// The service.
        service: ServiceName,
        /// As a clause.
        reason: String,
    },
}

impl Choice<'_> {
    /// What `sdp-served-by` says of the answer: `sandbox/alice/payments@1a2b3c4d`, `external/payments`, `baseline/payments`, and
    /// `baseline/payments; instead-of="it crashed"` where the sandbox has something of its own that does not answer.
    #[must_use]
    pub fn served_by(&self) -> String {
        let service = &self.service.service;
        match &self.target {
            Target::Instance { commit, of, .. } => {
                let sandbox = of.or(self.sandbox.map(|(sandbox, _)| &sandbox.name));
                let sandbox = sandbox.map(ToString::to_string).unwrap_or_default();
                format!("sandbox/{sandbox}/{service}@{}", commit.short())
            }
            Target::External { .. } => format!("external/{service}"),
            Target::Baseline { instead, .. } => served_by_baseline(service, *instead),
        }
    }
}

/// What `sdp-served-by` says of a baseline's answer, with the reason why it is not the sandbox's own, if there is one.
#[must_use]
pub fn served_by_baseline(service: &ServiceName, instead: Option<&str>) -> String {
    // It becomes a quoted string in a header: what cannot be there is left out.
    let quotable = |c: &char| matches!(c, ' '..='~') && !matches!(c, '"' | '\\');
    match instead {
        None => format!("baseline/{service}"),
        Some(reason) => {
            let reason: String = reason.chars().filter(quotable).take(MOST_REASON).collect();
            format!("baseline/{service}; instead-of=\"{reason}\"")
        }
    }
}

impl Refusal {
    /// The answer's HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::BadPath { .. } | Self::TwoSandboxes { .. } => 400,
            Self::UnknownSandbox { .. } | Self::NoService { .. } | Self::NoTarget { .. } => 404,
            Self::NoTable | Self::Down { .. } => 503,
        }
    }

    /// Stable code, in the header `sdp-error`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoTable => "no_routes",
            Self::BadPath { .. } => "bad_path",
            Self::TwoSandboxes { .. } => "two_sandboxes",
            Self::UnknownSandbox { .. } => "unknown_sandbox",
            Self::NoService { .. } => "no_service",
            Self::NoTarget { .. } => "no_target",
            Self::Down { .. } => "instance_down",
        }
    }
}

impl std::fmt::Display for Refusal {
    /// One sentence.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoTable => f.write_str("This router has no routes yet."),
            Self::BadPath { why } => write!(f, "This path is not accepted: {why}."),
            Self::TwoSandboxes { selector } => {
                let selector = selector.as_str();
                write!(f, "T{} names two different sandboxes.", &selector[1..])
            }
            Self::UnknownSandbox { name, selector, .. } => {
                write!(f, "There is no sandbox {name:?}, which {} names.", selector.as_str())
            }
            Self::NoService { .. } => f.write_str("No service has this path or host."),
            Self::NoTarget { sandbox: Some(sandbox), service } => {
                write!(
                    f,
                    "Nothing runs of {service} in the sandbox {sandbox}, and {service} has no baseline."
                )
            }
            Self::NoTarget { sandbox: None, service } => {
                write!(f, "{service} has no baseline, and this request names no sandbox.")
            }
            Self::Down { sandbox, service, reason } => {
                write!(f, "{service} in the sandbox {sandbox} does not run: {reason}.")
            }
        }
    }
}

impl Index {
    /// An index of this table.
    #[must_use]
    pub fn new(table: RouteTable) -> Self {
        let mut index =
            Self { version: table.version, instances: table.instances().collect(), ..Self::default() };
        for routes in table.environments {
            index.add(routes);
        }
        index
    }

    fn add(&mut self, mut routes: EnvironmentRoutes) {
        let here = self.environments.len();
        let mut place = Place {
            by_prefix: HashMap::new(),
            by_name: HashMap::new(),
            targets: HashMap::new(),
            routes: EnvironmentRoutes { services: Vec::new(), sandboxes: Vec::new(), ..routes.clone() },
        };
        // Where two have one rule the first by name gets the requests; the platform refuses such tables.
        for (at, route) in routes.services.iter().enumerate() {
            place.by_name.insert(route.service.clone(), at);
            match &route.rule {
                MatchRule::Path { prefix, .. } => {
                    place.by_prefix.entry(prefix.as_str().to_owned()).or_insert(at);
                }
                MatchRule::Host { host } => {
                    self.hosts.entry(host.as_str().to_owned()).or_insert((here, at));
                }
            }
        }
        if let Some(domain) = &routes.domain {
            self.domains.entry(domain.as_str().to_owned()).or_insert(here);
        }
        for (at, sandbox) in routes.sandboxes.iter_mut().enumerate() {
            self.names.insert(sandbox.name.clone(), (here, at));
            self.keys.insert(sandbox.key.clone(), (here, at));
            for route in std::mem::take(&mut sandbox.routes) {
                if let Some(service) = place.by_name.get(&route.service) {
                    place.targets.insert((at, *service), route.target);
                }
            }
        }
        place.routes = routes;
        self.environments.push(place);
    }

    /// The table's version.
    #[must_use]
    pub fn version(&self) -> RouteVersion {
        self.version
    }

    /// Every instance that the table names, with its address.
    #[must_use]
    pub fn instances(&self) -> &[(InstanceId, SocketAddr)] {
        &self.instances
    }

    /// Whether a shared link may be followed: its key is a sandbox's.
    ///
    /// # Errors
    /// Why not.
    pub fn follow(&self, link: &SharedLink, now: Timestamp) -> Result<(), Refusal> {
        match &link.key {
            _ if self.version == RouteVersion::default() => Err(Refusal::NoTable),
            None => Ok(()),
            Some(key) => {
                let found = self.keys.get(key).copied().filter(|found| self.lives(*found, now));
                let unknown = || Refusal::UnknownSandbox {
                    name: key.to_string(),
                    selector: Selector::Path,
                    near: None,
                };
                found.map(|_| ()).ok_or_else(unknown)
            }
        }
    }

    /// Where a request with this head goes.
    ///
    /// # Errors
    /// Why it goes nowhere.
    pub fn select(&self, head: &Head<'_>, now: Timestamp) -> Result<Choice<'_>, Refusal> {
        if self.version == RouteVersion::default() {
            return Err(Refusal::NoTable);
        }
        check(head.path)?;
        let host = head.host.map(plain_host).unwrap_or_default();
        let named = self.named(head, &host)?;
        let (sandbox, mut rest, mut taken) = match &named {
            Some((selector, said)) => {
                let found = self.sandbox(said, *selector, now)?;
                match sandbox_in_path(head.path) {
                    Some((name, rest)) if *selector == Selector::Path => {
                        (Some((found, *selector)), rest, format!("/~{name}"))
                    }
                    _ => (Some((found, *selector)), head.path, String::new()),
                }
            }
            None => (None, head.path, String::new()),
        };
        let place = match sandbox {
            Some(((environment, _), _)) => Some(environment),
            None => self.environment(&host),
        };
        let place = place.map(|at| (at, &self.environments[at]));
        let chosen = sandbox.map(|((environment, at), selector)| {
            (&self.environments[environment].routes.sandboxes[at], selector)
        });
        let no_service = || Refusal::NoService {
            sandbox: chosen.map(|(sandbox, _)| sandbox.name.clone()),
            services: place.map(|(_, place)| place.rules()).unwrap_or_default(),
        };
        let Some((environment, place)) = place else { return Err(no_service()) };
        let by_name = match taken.is_empty() {
            true => None,
            false => sandbox_in_path(rest),
        };
        let at = match by_name {
            Some((name, after)) => {
                let name = ServiceName::parse(name).ok();
                let at = name.and_then(|name| place.by_name.get(&name).copied()).ok_or_else(no_service)?;
                taken.push_str(&format!("/~{}", place.routes.services[at].service));
                rest = after;
                at
            }
            None => {
                let by_host = self.hosts.get(&host).filter(|(of, _)| *of == environment).map(|(_, at)| *at);
                let at = by_host.or_else(|| place.service_at(rest)).ok_or_else(no_service)?;
                if let (None, MatchRule::Path { prefix, strip: true }) =
                    (by_host, &place.routes.services[at].rule)
                    && prefix.as_str() != "/"
                {
                    taken.push_str(prefix.as_str());
                    rest = &rest[prefix.as_str().len()..];
                }
                at
            }
        };
        let service = &place.routes.services[at];
        let row = sandbox.and_then(|((_, sandbox), _)| place.targets.get(&(sandbox, at)));
        let target = place.target(chosen.map(|(sandbox, _)| sandbox), service, row)?;
        // Where something was taken off, `//host` must not be left: services answer it with a redirect to that host.
        let rest =
            if taken.is_empty() { rest.to_owned() } else { format!("/{}", rest.trim_start_matches('/')) };
        Ok(Choice { environment: &place.routes.name, sandbox: chosen, service, target, taken, rest })
    }

    /// What names the sandbox, and what it says.
    fn named(&self, head: &Head<'_>, host: &str) -> Result<Option<(Selector, String)>, Refusal> {
        for selector in Selector::ALL {
            if let Some(said) = self.said(head, host, selector)? {
                return Ok(Some((selector, said)));
            }
        }
        Ok(None)
    }

    /// What one selector says, if it is there.
    pub(super) fn said(
        &self,
        head: &Head<'_>,
        host: &str,
        selector: Selector,
    ) -> Result<Option<String>, Refusal> {
        let from_headers = |name: &str| if head.trusted { (head.headers)(name) } else { Vec::new() };
        let two = Refusal::TwoSandboxes { selector };
        match selector {
            Selector::Path => Ok(sandbox_in_path(head.path).map(|(name, _)| name.to_owned())),
            Selector::Host => Ok(self.sandbox_in_host(host)),
            Selector::RoutingKey => one(from_headers(ROUTING_KEY), two),
            Selector::Sandbox => one(from_headers(SANDBOX), two),
            Selector::Baggage => one(members(from_headers("baggage"), ROUTING_KEY), two),
            Selector::Tracestate => one(members(from_headers("tracestate"), TRACESTATE), two),
            // With several cookies of one name the browser sends the most specific one first.
            Selector::Cookie => Ok(cookies(&from_headers("cookie")).next()),
        }
    }

    /// `alice.sandboxes.test` where that domain is an environment's, and the whole is no service's host.
    fn sandbox_in_host(&self, host: &str) -> Option<String> {
        let (name, domain) = host.split_once('.')?;
        let is_ours = self.domains.contains_key(domain) && !self.hosts.contains_key(host);
        is_ours.then(|| name.to_owned())
    }

    pub(super) fn sandbox(
        &self,
        said: &str,
        selector: Selector,
        now: Timestamp,
    ) -> Result<(usize, usize), Refusal> {
        let found = match selector {
            Selector::Path | Selector::Host | Selector::Sandbox => {
                SandboxName::parse(said).ok().and_then(|name| self.names.get(&name))
            }
            _ => RoutingKey::parse(said).ok().and_then(|key| self.keys.get(&key)),
        };
        found.copied().filter(|found| self.lives(*found, now)).ok_or_else(|| {
            let is_name = matches!(selector, Selector::Path | Selector::Host | Selector::Sandbox);
            let near = did_you_mean(said, self.names.keys().map(SandboxName::as_str));
            Refusal::UnknownSandbox {
                name: said.chars().take(ECHO).collect(),
                selector,
                near: near.filter(|near| is_name && *near != said).map(str::to_owned),
            }
        })
    }

    fn lives(&self, (environment, at): (usize, usize), now: Timestamp) -> bool {
        self.environments[environment].routes.sandboxes[at].expires_at.is_none_or(|end| now < end)
    }

    pub(super) fn environment_name(&self, at: usize) -> &EnvironmentName {
        &self.environments[at].routes.name
    }

    pub(super) fn rules(&self, environment: usize) -> impl Iterator<Item = &ServiceRoute> {
        self.environments[environment].routes.services.iter()
    }

    pub(super) fn environment(&self, host: &str) -> Option<usize> {
        let by_host = self.hosts.get(host).map(|(environment, _)| *environment);
        by_host.or_else(|| self.domains.get(host).copied()).or_else(|| {
            let default = self.environments.iter().position(|place| place.routes.name.as_str() == "default");
            default.or((self.environments.len() == 1).then_some(0))
        })
    }
}

impl Place {
    fn rules(&self) -> Vec<(ServiceName, MatchRule)> {
        self.routes.services.iter().map(|route| (route.service.clone(), route.rule.clone())).collect()
    }

    /// The service with the longest prefix, in whole segments.
    fn service_at(&self, path: &str) -> Option<usize> {
        let mut end = path.len();
        if end > LONGEST_PREFIX {
            end = path.as_bytes()[..=LONGEST_PREFIX].iter().rposition(|b| *b == b'/')?;
        }
        while end > 0 {
            if let Some(at) = self.by_prefix.get(&path[..end]) {
                return Some(*at);
            }
            end = path[..end].rfind('/')?;
        }
        self.by_prefix.get("/").copied()
    }

    fn target<'t>(
        &'t self,
        sandbox: Option<&SandboxRoutes>,
        service: &'t ServiceRoute,
        row: Option<&'t RouteTarget>,
    ) -> Result<Target<'t>, Refusal> {
        let name = || sandbox.map(|sandbox| sandbox.name.clone());
        let baseline = |instead| match &service.baseline {
            Some(url) => Ok(Target::Baseline { url, instead }),
            None => Err(Refusal::NoTarget { sandbox: name(), service: service.service.clone() }),
        };
        match row {
            Some(RouteTarget::Instance { instance, address, commit, of }) => Ok(Target::Instance {
                instance: *instance,
                address: *address,
                commit,
                of: of.as_ref(),
                otherwise: service.baseline.as_ref().filter(|_| self.routes.when_down == WhenDown::Baseline),
            }),
            Some(RouteTarget::External { address }) => Ok(Target::External { address: *address }),
            Some(RouteTarget::Baseline { reason }) => baseline(reason.as_deref()),
            Some(RouteTarget::Down { reason }) => match name() {
                Some(sandbox) => {
                    Err(Refusal::Down { sandbox, service: service.service.clone(), reason: reason.clone() })
                }
                None => baseline(None),
            },
            None => baseline(None),
        }
    }
}

#[cfg(test)]
mod tests;
