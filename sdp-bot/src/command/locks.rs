//! Locks and freezes: `lock payments in qa-42 for 2h because I test refunds`.
//!
//! ```text
//! lock|freeze|steal <service> in <sandbox or environment> [for 2h] because <reason>
//! lock|freeze|steal <sandbox or environment> [for 2h] because <reason>
//! unlock <place>                                                          locks
//! ```
//! Whether a name is a sandbox's or an environment's is the server's to say. `steal` takes a lock away from whoever has it; without
//! a reason it is asked for.

use std::fmt;

use sdp_core::name::{SandboxName, ServiceName};

use super::grammar::{Rest, name, shown, usage};
use super::lifetime::Lifetime;
use super::words::{Word, quoted};
use super::{Command, Mistake};

/// The longest reason, in characters.
const MAX_REASON: usize = 500;

/// What a lock is about, as people name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockOf {
    /// One service there; none: all of them.
    pub service: Option<ServiceName>,
    /// A sandbox or an environment: their names look alike.
    pub place: SandboxName,
}

/// A lock that is to be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// What it does.
    pub verb: LockVerb,
    /// Where.
    pub of: LockOf,
    /// Until when; none: until somebody ends it.
    pub lifetime: Option<Lifetime>,
    /// Why; only who steals may leave it to be asked for.
    pub reason: Option<String>,
}

/// What is done with a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockVerb {
    /// Keep the place for oneself.
    Lock,
    /// Keep the place as it is.
    Freeze,
    /// Keep the place for oneself, though somebody else has it.
    Steal,
}

impl LockVerb {
    /// As it is typed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Freeze => "freeze",
            Self::Steal => "steal",
        }
    }
}

impl fmt::Display for LockOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.service {
            Some(service) => write!(f, "{service} in {}", self.place),
            None => self.place.fmt(f),
        }
    }
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb.as_str(), self.of)?;
        if let Some(lifetime) = self.lifetime {
            write!(f, " for {lifetime}")?;
        }
        self.reason.as_ref().map_or(Ok(()), |reason| write!(f, " because {}", quoted(reason)))
    }
}

pub(super) fn lock(verb: LockVerb, rest: Rest<'_>) -> Result<Command, Mistake> {
    let typed = verb.as_str();
    let how = |problem: &str| {
        usage(typed, problem).hint(format!("{typed} payments in qa-42 for 2h because <reason>"))
    };
    let (of, mut words) = place(rest.all()).ok_or_else(|| how(&format!("{} what?", capital(typed))))??;
    let mut lifetime = None;
    if let [word, given, rest @ ..] = words
        && !word.quoted
        && matches!(word.text.to_lowercase().as_str(), "for" | "--for" | "--ttl")
        && let Some(given) = Lifetime::parse(&given.text)
    {
        lifetime = Some(given);
        words = rest;
    }
    if let [word, rest @ ..] = words
        && !word.quoted
        && matches!(word.text.to_lowercase().as_str(), "because" | "as" | "--" | ":" | "-")
    {
        words = rest;
    }
    let reason: Vec<&str> =
        words.iter().map(|word| word.text.trim()).filter(|word| !word.is_empty()).collect();
    let reason = Some(reason.join(" ")).filter(|reason| !reason.is_empty());
    match &reason {
        None if verb != LockVerb::Steal => return Err(how("Why? Others are told.")),
        Some(reason) if reason.chars().count() > MAX_REASON || reason.chars().any(char::is_control) => {
            return Err(how(&format!("A reason is one line of at most {MAX_REASON} characters.")));
        }
        _ => {}
    }
    Ok(Command::Lock(Lock { verb, of, lifetime, reason }))
}

pub(super) fn unlock(rest: Rest<'_>) -> Result<Command, Mistake> {
    let how = |problem: &str| usage("unlock", problem).hint("unlock payments in qa-42, unlock qa-42");
    match place(rest.all()).ok_or_else(|| how("Unlock what?"))?? {
        (of, []) => Ok(Command::Unlock(of)),
        (_, [extra, ..]) => Err(how(&format!("I do not know what {} is for.", shown(&extra.text)))),
    }
}

/// The place with which the words begin, and the rest; none: there are no words.
fn place(words: &[Word]) -> Option<Result<(LockOf, &[Word]), Mistake>> {
    let (first, rest) = words.split_first()?;
    Some(match rest {
        [at, place, rest @ ..]
            if !at.quoted && matches!(at.text.to_lowercase().as_str(), "in" | "on" | "at" | "of") =>
        {
            name("service", &first.text).and_then(|service| {
                Ok((LockOf { service: Some(service), place: name("sandbox", &place.text)? }, rest))
            })
        }
        rest => name("sandbox", &first.text).map(|place| (LockOf { service: None, place }, rest)),
    })
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
