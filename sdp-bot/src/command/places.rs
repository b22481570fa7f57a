//! Sandboxes with their end, where requests go, and what there is to choose from.
//!
//! ```text
//! sandbox                                     sandbox show [name]        sandbox delete <name>
//! sandbox create <name> [from template shop | from bob] [in staging] [for 3d]
//! sandbox extend [name] [by|for 2d]           sandbox pin|unpin [name]   sandbox share [name]
//! routes [sandbox]                            routes explain <address or path> [in sandbox]
//! route <service> [in sandbox] to baseline | <sandbox> | <host:port> | reset
//! vars <service> [in sandbox]
//! ```

use std::fmt;
use std::net::SocketAddr;

use sdp_core::name::{EnvironmentName, SandboxName, ServiceName, TemplateName};

use super::grammar::{Rest, is_in, name, shown, usage};
use super::lifetime::Lifetime;
use super::words::{Word, quoted};
use super::{Command, Mistake, in_sandbox};

/// A sandbox that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateSandbox {
    /// Its name.
    pub name: SandboxName,
    /// What it is made from.
    pub from: Option<MadeFrom>,
    /// Where it is.
    pub environment: Option<EnvironmentName>,
    /// How long it lives.
    pub lifetime: Option<Lifetime>,
}

/// What a sandbox is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MadeFrom {
    /// A template.
    Template(TemplateName),
    /// Another sandbox.
    Sandbox(SandboxName),
}

/// How a sandbox's end is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Longer {
    /// By its own lifetime, from now on.
    Renewed,
    /// So long from now on.
    For(Lifetime),
    /// So much later than it would have been.
    By(Lifetime),
}

/// Where a service's requests shall go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Whose requests.
    pub service: ServiceName,
    /// Of which sandbox; none: one's own.
    pub sandbox: Option<SandboxName>,
    /// Where to.
    pub to: RouteTo,
}

/// Where requests shall go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteTo {
    /// To the baseline.
    Baseline,
    /// To what was deployed, or else the baseline.
    Reset,
    /// To what another sandbox runs.
    Sandbox(SandboxName),
    /// To an address outside.
    External(SocketAddr),
}

impl fmt::Display for RouteTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Baseline => f.write_str("baseline"),
            Self::Reset => f.write_str("reset"),
            Self::Sandbox(sandbox) => sandbox.fmt(f),
            Self::External(address) => address.fmt(f),
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {}", self.service)?;
        in_sandbox(f, self.sandbox.as_ref())?;
        write!(f, " to {}", self.to)
    }
}

impl fmt::Display for CreateSandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sandbox create {}", self.name)?;
        match &self.from {
            Some(MadeFrom::Template(template)) => write!(f, " from template {template}")?,
            Some(MadeFrom::Sandbox(sandbox)) => write!(f, " from {sandbox}")?,
            None => {}
        }
        if let Some(environment) = &self.environment {
            write!(f, " in {environment}")?;
        }
        self.lifetime.map_or(Ok(()), |lifetime| write!(f, " for {lifetime}"))
    }
}

pub(super) fn extend(
    f: &mut fmt::Formatter<'_>,
    sandbox: Option<&SandboxName>,
    longer: Longer,
) -> fmt::Result {
    f.write_str("sandbox extend")?;
    sandbox.map_or(Ok(()), |sandbox| write!(f, " {sandbox}"))?;
    match longer {
        Longer::Renewed => Ok(()),
        Longer::For(lifetime) => write!(f, " for {lifetime}"),
        Longer::By(lifetime) => write!(f, " by {lifetime}"),
    }
}

pub(super) fn explain(f: &mut fmt::Formatter<'_>, what: &str, sandbox: Option<&SandboxName>) -> fmt::Result {
    write!(f, "routes explain {}", quoted(what))?;
    in_sandbox(f, sandbox)
}

const SANDBOX_VERBS: [&str; 10] =
    ["show", "create", "new", "extend", "pin", "unpin", "share", "delete", "rm", "remove"];

pub(super) fn sandbox(rest: Rest<'_>) -> Result<Command, Mistake> {
    let (verb, words) = match rest.all() {
        [] => return Ok(Command::List { all: true }),
        [verb, words @ ..] => (verb.text.to_lowercase(), words),
    };
    match (verb.as_str(), words) {
        ("all", []) => Ok(Command::List { all: true }),
        ("mine", []) => Ok(Command::List { all: false }),
        ("show", words) => Ok(Command::SandboxShow(at_most_one(words)?)),
        ("delete" | "rm" | "remove", [one]) => Ok(Command::SandboxDelete(sandbox_name(one)?)),
        ("delete" | "rm" | "remove", _) => Err(usage("sandbox", "Delete which sandbox? One at a time.")),
        ("create" | "new", words) => create(words),
        ("extend", words) => extended(words),
        ("pin", words) => Ok(Command::SandboxPin { name: at_most_one(words)?, pinned: true }),
        ("unpin", words) => Ok(Command::SandboxPin { name: at_most_one(words)?, pinned: false }),
        ("share", words) => Ok(Command::SandboxShare(at_most_one(words)?)),
        (_, []) => Ok(Command::SandboxShow(Some(sandbox_name(&rest.all()[0])?))),
        (typed, _) => {
            let meant = sdp_core::name::did_you_mean(typed, SANDBOX_VERBS);
            let meant = meant.map(|verb| format!(" Did you mean sandbox {verb}?")).unwrap_or_default();
            Err(usage("sandbox", &format!("I do not know sandbox {}.{meant}", shown(typed))))
        }
    }
}

pub(super) fn share(rest: Rest<'_>) -> Result<Command, Mistake> {
    Ok(Command::SandboxShare(at_most_one(rest.all())?))
}

fn sandbox_name(word: &Word) -> Result<SandboxName, Mistake> {
    name("sandbox", &word.text)
}

fn at_most_one(words: &[Word]) -> Result<Option<SandboxName>, Mistake> {
    match words {
        [] => Ok(None),
        [one] => Ok(Some(sandbox_name(one)?)),
        [_, extra, ..] => {
            Err(usage("sandbox", &format!("I do not know what {} is for.", shown(&extra.text))))
        }
    }
}

/// A word of the grammar, in the ways in which it is typed: `for`, `--ttl`.
fn keyword(word: &Word) -> Option<&'static str> {
    if word.quoted {
        return None;
    }
    Some(match word.text.to_lowercase().as_str() {
        "from" | "--from" => "from",
        "in" | "on" | "at" | "--env" | "--in" => "in",
        "for" | "--ttl" | "--for" => "for",
        "by" => "by",
        "to" => "to",
        _ => return None,
    })
}

fn lifetime(word: &Word) -> Result<Lifetime, Mistake> {
    Lifetime::parse(&word.text).ok_or_else(|| {
        Mistake::new("invalid_lifetime", format!("{} is no lifetime.", shown(&word.text)))
            .hint("say 3h, 2d or 1w; at most a year")
    })
}

fn create(words: &[Word]) -> Result<Command, Mistake> {
    let Some((first, mut words)) = words.split_first() else {
        return Err(usage("sandbox", "What shall it be called?").hint("sandbox create qa-42 for 3d"));
    };
    let mut wanted =
        CreateSandbox { name: sandbox_name(first)?, from: None, environment: None, lifetime: None };
    loop {
        words = match words {
            [] => return Ok(Command::SandboxCreate(wanted)),
            [from, what, template, rest @ ..]
                if keyword(from) == Some("from")
                    && !what.quoted
                    && what.text.eq_ignore_ascii_case("template") =>
            {
                wanted.from = Some(MadeFrom::Template(name("template", &template.text)?));
                rest
            }
            [from, other, rest @ ..] if keyword(from) == Some("from") => {
                wanted.from = Some(MadeFrom::Sandbox(sandbox_name(other)?));
                rest
            }
            [at, environment, rest @ ..] if keyword(at) == Some("in") => {
                wanted.environment = Some(name("environment", &environment.text)?);
                rest
            }
            [length, given, rest @ ..] if keyword(length) == Some("for") => {
                wanted.lifetime = Some(lifetime(given)?);
                rest
            }
            [extra, ..] => {
                let problem = format!("I do not know what {} is for.", shown(&extra.text));
                return Err(usage("sandbox", &problem)
                    .hint("sandbox create qa-42 [from template shop | from bob] [in staging] [for 3d]"));
            }
        };
    }
}

fn extended(words: &[Word]) -> Result<Command, Mistake> {
    let (name, words) = match words {
        [first, rest @ ..] if keyword(first).is_none() && Lifetime::parse(&first.text).is_none() => {
            (Some(sandbox_name(first)?), rest)
        }
        words => (None, words),
    };
    let longer = match words {
        [] => Longer::Renewed,
        [given] => Longer::For(lifetime(given)?),
        [word, given] if keyword(word) == Some("for") => Longer::For(lifetime(given)?),
        [word, given] if keyword(word) == Some("by") => Longer::By(lifetime(given)?),
        [extra, ..] => {
            let problem = format!("I do not know what {} is for.", shown(&extra.text));
            return Err(usage("sandbox", &problem).hint("sandbox extend qa-42 for 2d"));
        }
    };
    Ok(Command::SandboxExtend { name, longer })
}

pub(super) fn route(rest: Rest<'_>) -> Result<Command, Mistake> {
    let (first, words) = match rest.all() {
        [] => return Err(how_to_route("Whose requests shall go where?")),
        [first, words @ ..] => (first, words),
    };
    let service = name("service", &first.text)?;
    let (sandbox, words) = match words {
        [at, named, words @ ..] if keyword(at) == Some("in") || at.text.eq_ignore_ascii_case("of") => {
            (Some(sandbox_name(named)?), words)
        }
        words => (None, words),
    };
    let target = match words {
        [to, target] if keyword(to) == Some("to") => target,
        [target] if keyword(target).is_none() => target,
        _ => return Err(how_to_route("Where shall they go?")),
    };
    Ok(Command::Route(Route { service, sandbox, to: route_to(target)? }))
}

fn how_to_route(problem: &str) -> Mistake {
    usage("route", problem).hint("route payments [in qa-42] to baseline | <sandbox> | <host:port> | reset")
}

fn route_to(word: &Word) -> Result<RouteTo, Mistake> {
    let text = word.text.to_lowercase();
    let text = text.strip_prefix("http://").unwrap_or(&text).trim_end_matches('/');
    match text {
        "baseline" if !word.quoted => return Ok(RouteTo::Baseline),
        "reset" | "sandbox" | "own" if !word.quoted => return Ok(RouteTo::Reset),
        _ => {}
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(RouteTo::External(address));
    }
    if text.contains([':', '.']) {
        return Err(Mistake::new(
            "invalid_target",
            format!("{} is no address with a port.", shown(&word.text)),
        )
        .hint("say it in numbers, with its port: 10.20.3.4:8080"));
    }
    Ok(RouteTo::Sandbox(sandbox_name(word)?))
}

pub(super) fn routes(rest: Rest<'_>) -> Result<Command, Mistake> {
    match rest.all() {
        [verb, what, words @ ..]
            if !verb.quoted && matches!(verb.text.to_lowercase().as_str(), "explain" | "why") =>
        {
            let sandbox = match words {
                [] => None,
                [at, named] if is_in(at) => Some(sandbox_name(named)?),
                _ => return Err(usage("routes", "One address or path, and one sandbox at a time.")),
            };
            Ok(Command::RoutesExplain { what: what.text.clone(), sandbox })
        }
        [verb] if !verb.quoted && verb.text.eq_ignore_ascii_case("explain") => {
            Err(usage("routes", "Explain which address or path?")
                .hint("routes explain /payments/refunds in qa-42"))
        }
        [at, named] if is_in(at) => Ok(Command::Routes(Some(sandbox_name(named)?))),
        [] => Ok(Command::Routes(None)),
        [one] => Ok(Command::Routes(Some(sandbox_name(one)?))),
        _ => Err(usage("routes", "Of which sandbox? One at a time.")),
    }
}
