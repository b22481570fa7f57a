//! Which sandbox, service and target a request is for. Pure: a table and a request's head in, a choice or a refusal out.
//!
//! [`Index`] is a [`RouteTable`] in the shape that answers quickly: a request costs a few hash look-ups however many
//! services and sandboxes there are. The rules are in the header of [`crate::router`].

use std::collections::HashMap;

use http::{HeaderMap, header};
use sdp_core::id::{InstanceId, RouteVersion};
use sdp_core::name::{CommitId, PathPrefix, SandboxName, ServiceName, did_you_mean};
use sdp_core::sandbox::{RouteTable, RouteTarget, ServiceRoute};
use std::net::SocketAddr;
use url::Url;

/// The header, and the cookie, that name a sandbox.
pub(crate) const SANDBOX: &str = "sdp-sandbox";

/// The longest path prefix that a name can be: see [`PathPrefix`].
const LONGEST_PREFIX: usize = 200;

/// How much of an unknown name is repeated to the one who sent it.
const ECHO: usize = 60;

/// A route table, ready to be asked.
#[derive(Debug, Default)]
pub(crate) struct Index {
    version: RouteVersion,
    services: Vec<ServiceRoute>,
    by_prefix: HashMap<String, usize>,
    sandboxes: HashMap<String, Place>,
    instances: Vec<(InstanceId, SocketAddr)>,
}

#[derive(Debug)]
struct Place {
    name: SandboxName,
    rows: HashMap<usize, RouteTarget>,
}

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Choice<'t> {
    pub(crate) sandbox: Option<&'t SandboxName>,
    /// Whether the sandbox was named in the path.
    pub(crate) by_path: bool,
    pub(crate) service: &'t ServiceRoute,
    pub(crate) target: Target<'t>,
    /// What was taken off the path, e.g. `/~alice/hello`; empty: nothing.
    pub(crate) taken: String,
    /// The path that is left, beginning with `/`.
    pub(crate) rest: String,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target<'t> {
    Instance { instance: InstanceId, commit: &'t CommitId },
    Baseline { url: &'t Url },
}

/// Why a request goes nowhere.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    NoTable,
    BadPath { why: &'static str },
    TwoSandboxes,
    UnknownSandbox { name: String, near: Option<String> },
    NoService { sandbox: Option<SandboxName>, services: Vec<(ServiceName, PathPrefix)> },
    NoTarget { sandbox: Option<SandboxName>, service: ServiceName },
    Down { sandbox: SandboxName, service: ServiceName, reason: String },
}

impl Index {
    pub(crate) fn new(table: RouteTable) -> Self {
        let mut by_prefix = HashMap::new();
        let mut by_name = HashMap::new();
        for (at, route) in table.services.iter().enumerate() {
            by_name.insert(&route.service, at);
            let first = *by_prefix.entry(route.prefix.as_str().to_owned()).or_insert(at);
            if first != at {
                let (service, prefix) = (&route.service, &route.prefix);
                tracing::warn!(service.name = %service, route.prefix = %prefix, "two services have one prefix; the first by name gets the requests");
            }
        }
        let mut sandboxes: HashMap<String, Place> = table
            .names
            .into_iter()
            .map(|name| (name.as_str().to_owned(), Place { name, rows: HashMap::new() }))
            .collect();
        let mut instances = Vec::new();
        for row in table.sandboxes {
            if let RouteTarget::Instance { instance, address, .. } = &row.target {
                instances.push((*instance, *address));
            }
            if let (Some(place), Some(at)) =
                (sandboxes.get_mut(row.sandbox.as_str()), by_name.get(&row.service))
            {
                place.rows.insert(*at, row.target);
            }
        }
        Self { version: table.version, services: table.services, by_prefix, sandboxes, instances }
    }

    pub(crate) fn version(&self) -> RouteVersion {
        self.version
    }

    /// Every instance that the table names, with its address.
    pub(crate) fn instances(&self) -> &[(InstanceId, SocketAddr)] {
        &self.instances
    }

    /// Where a request with this path and these headers goes.
    pub(crate) fn select(&self, path: &str, headers: &HeaderMap) -> Result<Choice<'_>, Refusal> {
        if self.version == RouteVersion::default() {
            return Err(Refusal::NoTable);
        }
        check(path)?;
        let (named, by_path, mut rest) = match sandbox_in_path(path) {
            Some((name, rest)) => (Some(name.to_owned()), true, rest),
            None => (sandbox_in_headers(headers)?, false, path),
        };
        let place = named.map(|name| self.place(&name)).transpose()?;
        let sandbox = place.map(|place| &place.name);
        let Some(at) = self.service_at(rest) else {
            let mut services: Vec<_> =
                self.services.iter().map(|route| (route.service.clone(), route.prefix.clone())).collect();
            services.sort();
            return Err(Refusal::NoService { sandbox: sandbox.cloned(), services });
        };
        let service = &self.services[at];
        let target = match (place.and_then(|place| place.rows.get(&at)), &service.baseline) {
            (Some(RouteTarget::Instance { instance, commit, .. }), _) => {
                Target::Instance { instance: *instance, commit }
            }
            (Some(RouteTarget::Down { reason }), _) => {
                return Err(down(sandbox, service, reason));
            }
            // A kind of target that this router does not know yet: never the baseline without a word.
            (Some(_), _) => {
                return Err(down(sandbox, service, "its target is of a kind that this router does not know"));
            }
            (None, Some(url)) => Target::Baseline { url },
            (None, None) => {
                return Err(Refusal::NoTarget {
                    sandbox: sandbox.cloned(),
                    service: service.service.clone(),
                });
            }
        };
        let mut taken = match (by_path, sandbox) {
            (true, Some(name)) => format!("/~{name}"),
            _ => String::new(),
        };
        if service.strip && service.prefix.as_str() != "/" {
            taken.push_str(service.prefix.as_str());
            rest = &rest[service.prefix.as_str().len()..];
        }
        // Where something was taken off, `//host` must not be left: services answer it with a redirect to that host.
        let rest =
            if taken.is_empty() { rest.to_owned() } else { format!("/{}", rest.trim_start_matches('/')) };
        Ok(Choice { sandbox, by_path, service, target, taken, rest })
    }

    fn place(&self, name: &str) -> Result<&Place, Refusal> {
        self.sandboxes.get(name).ok_or_else(|| Refusal::UnknownSandbox {
            name: name.chars().take(ECHO).collect(),
            near: did_you_mean(name, self.sandboxes.keys().map(String::as_str)).map(str::to_owned),
        })
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
}

fn down(sandbox: Option<&SandboxName>, service: &ServiceRoute, reason: &str) -> Refusal {
    match sandbox {
        Some(sandbox) => Refusal::Down {
            sandbox: sandbox.clone(),
            service: service.service.clone(),
            reason: reason.to_owned(),
        },
        None => Refusal::NoTarget { sandbox: None, service: service.service.clone() },
    }
}

/// Refuses paths that another program could read as a different path.
fn check(path: &str) -> Result<(), Refusal> {
    if !path.starts_with('/') {
        return Err(Refusal::BadPath { why: "it does not begin with /" });
    }
    if !path.contains(['%', '\\']) && !path.contains("/.") {
        return Ok(());
    }
    let decoded: Vec<u8> = percent_encoding::percent_decode_str(path).collect();
    if decoded.contains(&0) {
        return Err(Refusal::BadPath { why: "it contains a NUL" });
    }
    // `;` ends a segment's name for some servers: they read `/..;x/` as `/../`.
    let dots = decoded.split(|b| matches!(b, b'/' | b'\\')).any(|segment| {
        let name = segment.split(|b| *b == b';').next().unwrap_or(segment);
        matches!(name, b"." | b"..")
    });
    if dots {
        return Err(Refusal::BadPath { why: "a part of it is . or .., or an encoded form of them" });
    }
    Ok(())
}

/// `/~alice/rest` → `alice` and `/rest`.
fn sandbox_in_path(path: &str) -> Option<(&str, &str)> {
    let after = path.get(1..)?;
    let tail = match after.strip_prefix('~') {
        Some(tail) => tail,
        None => after.get(..3).filter(|code| code.eq_ignore_ascii_case("%7e")).map(|_| &after[3..])?,
    };
    Some(match tail.find('/') {
        Some(slash) => tail.split_at(slash),
        None => (tail, "/"),
    })
}

fn sandbox_in_headers(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let mut found: Option<String> = None;
    for value in headers.get_all(SANDBOX) {
        let name = String::from_utf8_lossy(value.as_bytes()).trim().to_owned();
        match &found {
            _ if name.is_empty() => {}
            None => found = Some(name),
            Some(first) if *first == name => {}
            Some(_) => return Err(Refusal::TwoSandboxes),
        }
    }
    if found.is_some() {
        return Ok(found);
    }
    // With several cookies of one name the browser sends the most specific one first.
    Ok(headers.get_all(header::COOKIE).iter().find_map(|value| {
        let text = String::from_utf8_lossy(value.as_bytes());
        text.split(';').find_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let value = value.trim().trim_matches('"');
            (name.trim() == SANDBOX && !value.is_empty()).then(|| value.to_owned())
        })
    }))
}

#[cfg(test)]
mod tests;
