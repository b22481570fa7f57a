//! Locks and freezes: who may deploy where for a while.
//!
//! A **lock** keeps a place for one person (or token): everybody else is refused, told who holds it and why. A **freeze** keeps it as
//! it is: nobody deploys, its owner included. The place is an environment, one of its sandboxes, or a service in either. A lock can be
//! stolen with a reason; whoever had it is told. What was asked for before it was set goes on: it is looked at in the turn that takes a
//! deploy, not again.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::LockId;
use crate::name::{EnvironmentName, SandboxName, ServiceName};
use crate::principal::Principal;

/// A lock or a freeze.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Lock {
    /// Its id.
    pub id: LockId,
    /// What it is about.
    pub place: LockPlace,
    /// What it forbids.
    pub kind: LockKind,
    /// Who holds it.
    pub owner: Principal,
    /// Why, in their words.
    #[cfg_attr(feature = "openapi", schema(max_length = 500))]
    pub reason: String,
    /// When it was set.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// When it ends by itself.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub expires_at: Option<Timestamp>,
}

/// What a lock is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LockPlace {
    /// The environment.
    pub environment: EnvironmentName,
    /// One sandbox of it; none: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<SandboxName>,
    /// One service there; none: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
}

/// What a lock forbids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LockKind {
    /// Nobody but its owner deploys.
    #[default]
    Lock,
    /// Nobody deploys.
    Freeze,
}

impl LockPlace {
    /// Whether a deploy of this service into this sandbox is inside it.
    #[must_use]
    pub fn covers(
        &self,
        environment: &EnvironmentName,
        sandbox: &SandboxName,
        service: &ServiceName,
    ) -> bool {
        self.environment == *environment
            && self.sandbox.as_ref().is_none_or(|own| own == sandbox)
            && self.service.as_ref().is_none_or(|own| own == service)
    }
}

impl std::fmt::Display for LockPlace {
    /// "payments in qa-42", "everything in staging".
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.service {
            Some(service) => write!(f, "{service} in ")?,
            None => f.write_str("everything in ")?,
        }
        match &self.sandbox {
            Some(sandbox) => write!(f, "{sandbox}"),
            None => write!(f, "{}", self.environment),
        }
    }
}

impl Lock {
    /// Whether it keeps somebody from deploying inside its place at this time.
    #[must_use]
    pub fn stops(&self, by: &Principal, now: Timestamp) -> bool {
        let over = self.expires_at.is_some_and(|end| end <= now);
        !over && (self.kind == LockKind::Freeze || !self.is_of(by))
    }

    /// Whether somebody holds it: the same person, whether they type in the chat or not.
    #[must_use]
    pub fn is_of(&self, by: &Principal) -> bool {
        match (self.owner.as_person(), by.as_person()) {
            (Some(owner), Some(person)) => owner == person,
            (None, None) => self.owner == *by,
            _ => false,
        }
    }
}
