//! Where a sandbox's requests for a service go, as people are told: the map and the table below it say the same, from here.
//! Pure: a [`RouteView`] in, words out.

use std::net::SocketAddr;

use sdp_core::api::RouteView;
use sdp_core::routing::RouteTarget;
use sdp_core::sandbox::Instance;
use url::Url;

use super::super::words::{self, Tone};

/// What answers, by kind; each has a shape of its own on the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An instance of this sandbox.
    Own,
    /// An instance of another sandbox.
    Borrowed,
    /// An address outside.
    External,
    /// Nobody: an error that says so.
    Down,
    /// The baseline, because what should answer does not.
    Instead,
    /// The baseline.
    Baseline,
}

/// Where a service's requests go.
#[derive(Debug)]
pub(super) struct Way<'a> {
    pub(super) route: &'a RouteView,
    pub(super) kind: Kind,
}

impl Kind {
    /// The class of what shows it.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Borrowed => "borrowed",
            Self::External => "external",
            Self::Down => "down",
            Self::Instead => "instead",
            Self::Baseline => "baseline",
        }
    }
}

impl<'a> Way<'a> {
    pub(super) fn of(route: &'a RouteView) -> Self {
        let kind = match &route.target {
            RouteTarget::Instance { of: None, .. } => Kind::Own,
            RouteTarget::Instance { .. } => Kind::Borrowed,
            RouteTarget::External { .. } => Kind::External,
            RouteTarget::Baseline { reason: Some(_) } => Kind::Instead,
            RouteTarget::Baseline { reason: None } => Kind::Baseline,
            _ => Kind::Down,
        };
        Self { route, kind }
    }

    /// All of a sandbox: those first that differ from the baseline, or that somebody chose; each part by name.
    pub(super) fn all(routes: &'a [RouteView]) -> Vec<Self> {
        let mut all: Vec<_> = routes.iter().map(Self::of).collect();
        all.sort_by(|a, b| (!a.differs(), &a.route.service).cmp(&(!b.differs(), &b.route.service)));
        all
    }

    /// Whether it is worth showing before the others.
    pub(super) fn differs(&self) -> bool {
        self.kind != Kind::Baseline || self.route.chosen
    }

    pub(super) fn instance(&self) -> Option<&'a Instance> {
        self.route.instance.as_ref()
    }

    /// How it is: a colour and a word.
    pub(super) fn health(&self) -> (Tone, &'static str) {
        match (self.kind, self.instance()) {
            (Kind::Own | Kind::Borrowed, Some(instance)) => words::instance_state(&instance.state),
            (Kind::Own | Kind::Borrowed, None) => (Tone::Ok, "Live"),
            (Kind::External, _) => (Tone::Off, "Not checked"),
            (Kind::Down, _) => (Tone::Bad, "Down"),
            (Kind::Instead, _) => (Tone::Wait, "Baseline instead"),
            (Kind::Baseline, _) => (Tone::Off, "Baseline"),
        }
    }

    /// The branch that answers, or the address, or the baseline's host: what to read first.
    pub(super) fn name(&self) -> String {
        match &self.route.target {
            RouteTarget::Instance { commit, .. } => {
                let asked = self.instance().and_then(|instance| instance.git_ref.as_ref());
                asked.map_or_else(
                    || commit.short().to_owned(),
                    |git_ref| words::visible(git_ref.as_str()).into_owned(),
                )
            }
            RouteTarget::External { address } => address.to_string(),
            RouteTarget::Baseline { .. } => self.baseline().unwrap_or_else(|| "no baseline".to_owned()),
            _ => "Nobody answers".to_owned(),
        }
    }

    /// What else there is to know, in parts.
    pub(super) fn details(&self) -> Vec<String> {
        match &self.route.target {
            RouteTarget::Instance { commit, of, .. } => {
                let mut parts = Vec::new();
                parts.extend(of.as_ref().map(|lender| format!("borrowed from {lender}")));
                parts.push(commit.short().to_owned());
                parts.extend(self.instance().map(|instance| instance.agent.to_string()));
                parts
            }
            RouteTarget::External { address } => vec![outside(*address).to_owned()],
            RouteTarget::Baseline { reason: Some(reason) } => vec![words::visible(reason).into_owned()],
            RouteTarget::Baseline { reason: None } if self.route.chosen => vec!["chosen".to_owned()],
            RouteTarget::Baseline { reason: None } => Vec::new(),
            RouteTarget::Down { reason } => vec![format!("503: {}", words::visible(reason))],
            _ => Vec::new(),
        }
    }

    /// Host and port of the shared deployment.
    pub(super) fn baseline(&self) -> Option<String> {
        self.route.baseline.as_ref().map(host)
    }

    /// All of it as a sentence, for those who hear the page and for whoever points at it.
    pub(super) fn sentence(&self) -> String {
        let service = &self.route.service;
        let (_, word) = self.health();
        let (name, details) = (self.name(), self.details().join(", "));
        match self.kind {
            Kind::Own => format!("{service} goes to {name} of this sandbox ({details}): {}.", lower(word)),
            Kind::Borrowed => format!("{service} goes to {name} ({details}): {}.", lower(word)),
            Kind::External => format!("{service} goes to {name}, {details}."),
            Kind::Down => format!("{service} is answered by nobody ({details})."),
            Kind::Instead => format!(
                "{service} goes to its baseline {name}, because what should answer does not: {details}."
            ),
            Kind::Baseline if self.route.chosen => {
                format!("{service} goes to its baseline {name}, as somebody chose.")
            }
            Kind::Baseline => format!("{service} goes to its baseline {name}."),
        }
    }
}

fn lower(word: &str) -> String {
    word.to_lowercase()
}

fn outside(address: SocketAddr) -> &'static str {
    if address.is_ipv6() { "an IPv6 address outside" } else { "an address outside" }
}

/// Host and port, which is what tells addresses apart on a picture.
pub(super) fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or("?");
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}
