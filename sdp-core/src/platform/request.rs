//! What can be asked of the platform: the commands' arguments, and the lists' filters.

use std::collections::BTreeMap;

use crate::catalog::Environment;
use crate::deployment::Notify;
use crate::id::DeploymentNumber;
use crate::name::{EnvName, GitRef, IdempotencyKey, PersonName, SandboxName, ServiceName};
use crate::principal::Principal;
use crate::sandbox::Sandbox;
use crate::secret::GitCredential;

/// Ask for a deployment.
#[derive(Clone, Debug)]
pub struct Deploy {
    /// Which service.
    pub service: ServiceName,
    /// Branch, tag or commit; without one: the last one in that sandbox, else the service's default branch.
    pub git_ref: Option<GitRef>,
    /// Where to; without one: the asker's own sandbox. Made on first use.
    pub sandbox: Option<SandboxName>,
    /// Variables for this deployment, over those of the service.
    pub env: BTreeMap<EnvName, String>,
    /// Where it is told.
    pub notify: Option<Notify>,
    /// For the fetch alone; kept in memory until the fetch has ended, never stored.
    pub credential: Option<GitCredential>,
    /// "The same request again": same key and fingerprint, same deployment.
    pub idempotency: Option<Idempotency>,
    /// On whose authority it goes into a sandbox that is somebody's own.
    pub power: Power,
}

impl Deploy {
    /// This service, nothing else said.
    #[must_use]
    pub fn new(service: ServiceName) -> Self {
        Self {
            service,
            git_ref: None,
            sandbox: None,
            env: BTreeMap::new(),
            notify: None,
            credential: None,
            idempotency: None,
            power: Power::Member,
        }
    }

    /// This branch, tag or commit.
    #[must_use]
    pub fn git_ref(mut self, git_ref: GitRef) -> Self {
        self.git_ref = Some(git_ref);
        self
    }

    /// To this sandbox.
    #[must_use]
    pub fn to(mut self, sandbox: SandboxName) -> Self {
        self.sandbox = Some(sandbox);
        self
    }
}

/// What makes a request safe to repeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The client's key; each principal has keys of its own.
    pub key: IdempotencyKey,
    /// A digest of the request; another one with the same key is refused.
    pub fingerprint: String,
}

/// What redeploy, rollback and restart may carry.
#[derive(Clone, Debug, Default)]
pub struct Again {
    /// Where it is told.
    pub notify: Option<Notify>,
    /// Only used if the kept build is gone and the commit must be fetched again.
    pub credential: Option<GitCredential>,
    /// As for [`Deploy`].
    pub idempotency: Option<Idempotency>,
    /// As for [`Deploy`].
    pub power: Power,
}

/// Which deployments to list.
#[derive(Clone, Debug, Default)]
pub struct DeploymentFilter {
    /// Only of this service.
    pub service: Option<ServiceName>,
    /// Only in this sandbox.
    pub sandbox: Option<SandboxName>,
    /// Only in this state.
    pub state: Option<StateFilter>,
    /// Only with a lower number: how a page follows the one before.
    pub before: Option<DeploymentNumber>,
    /// At most so many, newest first.
    pub limit: u32,
}

/// A state to filter by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateFilter {
    /// Waiting.
    Queued,
    /// Being worked on.
    Running,
    /// Over.
    Ended,
}

/// Which instances to list.
#[derive(Clone, Debug, Default)]
pub struct InstanceFilter {
    /// Only of this service.
    pub service: Option<ServiceName>,
    /// Only in this sandbox.
    pub sandbox: Option<SandboxName>,
    /// Those that are over, too.
    pub all: bool,
}

/// How a service is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Save {
    /// Only if there is none of that name.
    Create,
    /// New or changed, whichever it is.
    Put,
}

/// On whose authority something that is somebody's own is changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Power {
    /// One's own: only what one owns, is a member of, or is everybody's.
    #[default]
    Member,
    /// A token's that is a person's: what is theirs, too.
    OfPerson(PersonName),
    /// An administrator's: everything.
    Administrator,
}

impl Power {
    /// Whether somebody may change, and deploy into, a sandbox.
    #[must_use]
    pub fn reaches(&self, sandbox: &Sandbox, by: &Principal) -> bool {
        match self {
            Self::Administrator => true,
            _ if sandbox.takes_deploys_of(by) => true,
            Self::OfPerson(person) => sandbox.is_of(&Principal::person(person.clone())),
            Self::Member => false,
        }
    }

    /// Whether it is somebody's own, so that they say who else may change it.
    #[must_use]
    pub fn owns(&self, sandbox: &Sandbox, by: &Principal) -> bool {
        match self {
            Self::Administrator => true,
            _ if sandbox.is_of(by) => true,
            Self::OfPerson(person) => sandbox.is_of(&Principal::person(person.clone())),
            Self::Member => false,
        }
    }

    /// Whether somebody may deploy in an environment.
    #[must_use]
    pub fn deploys_in(&self, environment: &Environment, by: &Principal) -> bool {
        match self {
            Self::Administrator => true,
            _ if environment.deployers.allow(by) => true,
            Self::OfPerson(person) => environment.deployers.allow(&Principal::person(person.clone())),
            Self::Member => false,
        }
    }
}
