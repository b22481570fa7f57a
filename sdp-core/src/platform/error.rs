//! What the orchestrator refuses, and why: a stable code, a sentence, a next step.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::catalog::InvalidService;
use crate::failure::Failure;
use crate::id::{DeploymentNumber, DeploymentRef, EventSeq, InstanceId};
use crate::logs::LogsError;
use crate::name::{AgentName, EnvName, IdempotencyKey, SandboxName, ServiceName};
use crate::secret::UnfitSecret;
use crate::store::StoreError;
use crate::vault::VaultError;

/// A command or question that was refused. Nothing has happened.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PlatformError {
    /// No such service in the catalog.
    #[error("there is no service named {name}")]
    UnknownService {
        /// What was asked for.
        name: ServiceName,
        /// What was probably meant.
        did_you_mean: Option<String>,
    },
    /// No such sandbox.
    #[error("there is no sandbox named {name}")]
    UnknownSandbox {
        /// What was asked for.
        name: SandboxName,
        /// What was probably meant.
        did_you_mean: Option<String>,
    },
    /// No such agent.
    #[error("there is no agent named {name}")]
    UnknownAgent {
        /// What was asked for.
        name: AgentName,
        /// What was probably meant.
        did_you_mean: Option<String>,
    },
    /// The agent cannot go while it has work.
    #[error("the agent {name} still has {has}")]
    AgentInUse {
        /// The agent.
        name: AgentName,
        /// What it has, as a list.
        has: String,
    },
    /// No such deployment.
    #[error("there is no deployment {reference}")]
    UnknownDeployment {
        /// What was asked for.
        reference: DeploymentRef,
    },
    /// No such instance.
    #[error("there is no instance {id}")]
    UnknownInstance {
        /// What was asked for.
        id: InstanceId,
    },
    /// A service of that name exists already.
    #[error("a service named {name} exists already")]
    ServiceExists {
        /// Its name.
        name: ServiceName,
    },
    /// The service cannot go while it is deployed somewhere.
    #[error("{name} still runs in {sandbox}")]
    ServiceInUse {
        /// The service.
        name: ServiceName,
        /// One of the sandboxes.
        sandbox: SandboxName,
    },
    /// Two services would take the same paths.
    #[error("the paths of {name} are already those of {other}")]
    PrefixTaken {
        /// The service that was to be saved.
        name: ServiceName,
        /// The one that has the prefix.
        other: ServiceName,
    },
    /// The service's entry cannot work.
    #[error(transparent)]
    InvalidService(#[from] InvalidService),
    /// The service has no such secret.
    #[error("{service} has no secret {name}")]
    UnknownSecret {
        /// The service.
        service: ServiceName,
        /// The variable.
        name: EnvName,
    },
    /// A variable cannot be plain and secret at once.
    #[error("{name} is {} of {service} already", if *is_secret { "a secret" } else { "a plain variable" })]
    VariableTaken {
        /// The service.
        service: ServiceName,
        /// The variable.
        name: EnvName,
        /// What it is already.
        is_secret: bool,
    },
    /// The value cannot be kept out of logs, or not be given to a program.
    #[error(transparent)]
    UnfitSecret(#[from] UnfitSecret),
    /// The service has as many secrets, or as long ones, as it may.
    #[error("the secrets of {service} would be too many, or too long together")]
    TooManySecrets {
        /// The service.
        service: ServiceName,
    },
    /// The server's key is gone with its process, and secret values would be, too.
    #[error("this server keeps its key in memory only, so it cannot keep secret values")]
    SecretsNeedAKey,
    /// The key that seals secrets cannot be used.
    #[error(transparent)]
    Vault(Arc<VaultError>),
    /// The same idempotency key came with another request.
    #[error("the idempotency key {key} was used for another request")]
    IdempotencyConflict {
        /// The key.
        key: IdempotencyKey,
    },
    /// It has ended, so it cannot be cancelled.
    #[error("deployment {number} has already ended")]
    AlreadyEnded {
        /// Its number.
        number: DeploymentNumber,
    },
    /// It never got as far as a commit, so there is nothing to deploy again.
    #[error("deployment {number} never got as far as a commit")]
    NoCommit {
        /// Its number.
        number: DeploymentNumber,
    },
    /// Nothing else ran there before.
    #[error("no earlier commit of {service} has run in {sandbox}")]
    NothingToRollBack {
        /// The service.
        service: ServiceName,
        /// The sandbox.
        sandbox: SandboxName,
    },
    /// It does not run any more.
    #[error("instance {id} does not run any more")]
    InstanceOver {
        /// Which.
        id: InstanceId,
    },
    /// The server's disk is nearly full: new work is refused, running work goes on.
    #[error("the server's disk is nearly full: {free_mib} MiB free, {floor_mib} MiB wanted")]
    DiskLow {
        /// Free, in MiB.
        free_mib: u64,
        /// The floor, in MiB.
        floor_mib: u64,
    },
    /// Too much waits already.
    #[error("{limit} deployments wait already")]
    QueueFull {
        /// The limit.
        limit: usize,
    },
    /// No agent that could answer is connected.
    #[error("no agent that could answer is connected")]
    NoAgent,
    /// The agent that knows is not connected.
    #[error("the agent {agent} is away")]
    AgentAway {
        /// Which.
        agent: AgentName,
    },
    /// The agent did not answer in time.
    #[error("the agent {agent} did not answer in time")]
    NoAnswer {
        /// Which.
        agent: AgentName,
    },
    /// The output of its instances is followed by as many as it may be.
    #[error("the output of services on {agent} is followed {limit} times already")]
    TooManyFollowers {
        /// The agent.
        agent: AgentName,
        /// The limit.
        limit: usize,
    },
    /// As many lists of branches and repositories are asked for as may be at once.
    #[error("{limit} lists of branches or repositories are asked for already")]
    TooManyListings {
        /// The limit.
        limit: usize,
    },
    /// The agent tried, and failed.
    #[error("{}", .0.detail)]
    Failed(Failure),
    /// Events from before this one are not kept any more.
    #[error("events before {oldest} are not kept any more")]
    FeedGone {
        /// The oldest kept event.
        oldest: EventSeq,
    },
    /// The orchestrator is stopping.
    #[error("the server is stopping")]
    Stopping,
    /// The system has no random numbers.
    #[error("the system gives no random numbers")]
    NoRandom,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The job logs failed.
    #[error(transparent)]
    Logs(Arc<LogsError>),
    /// The data folder cannot be made.
    #[error("cannot make the data folder {path}")]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
}

impl From<VaultError> for PlatformError {
    fn from(error: VaultError) -> Self {
        Self::Vault(Arc::new(error))
    }
}

impl From<LogsError> for PlatformError {
    fn from(error: LogsError) -> Self {
        Self::Logs(Arc::new(error))
    }
}

impl PlatformError {
    /// Whether it is no use to start again before a person has done something about the data folder.
    #[must_use]
    pub fn needs_a_person(&self) -> bool {
        match self {
            Self::Store(error) => error.needs_a_person(),
            Self::Vault(_) => true,
            _ => false,
        }
    }

    /// Stable code, e.g. `unknown_service`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownService { .. } => "unknown_service",
            Self::UnknownSandbox { .. } => "unknown_sandbox",
            Self::UnknownAgent { .. } => "unknown_agent",
            Self::AgentInUse { .. } => "agent_in_use",
            Self::UnknownDeployment { .. } => "unknown_deployment",
            Self::UnknownInstance { .. } => "unknown_instance",
            Self::ServiceExists { .. } => "service_exists",
            Self::ServiceInUse { .. } => "service_in_use",
            Self::PrefixTaken { .. } => "prefix_taken",
            Self::InvalidService(_) => "invalid_service",
            Self::UnknownSecret { .. } => "unknown_secret",
            Self::VariableTaken { .. } => "variable_taken",
            Self::UnfitSecret(unfit) => unfit.code(),
            Self::TooManySecrets { .. } => "too_many_secrets",
            Self::SecretsNeedAKey => "secrets_need_a_key",
            Self::Vault(error) => error.code(),
            Self::IdempotencyConflict { .. } => "idempotency_conflict",
            Self::AlreadyEnded { .. } => "already_ended",
            Self::NoCommit { .. } => "no_commit",
            Self::NothingToRollBack { .. } => "nothing_to_roll_back",
            Self::InstanceOver { .. } => "instance_over",
            Self::DiskLow { .. } => "disk_low",
            Self::QueueFull { .. } => "queue_full",
            Self::NoAgent => "no_agent",
            Self::AgentAway { .. } => "agent_away",
            Self::NoAnswer { .. } => "no_answer",
            Self::TooManyFollowers { .. } => "too_many_followers",
            Self::TooManyListings { .. } => "too_many_listings",
            Self::NoRandom => "internal",
            Self::Failed(failure) => failure.reason.code(),
            Self::FeedGone { .. } => "feed_gone",
            Self::Stopping => "stopping",
            Self::Store(error) => error.code(),
            Self::Logs(error) => error.code(),
            Self::DataDir { .. } => "data_dir",
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::UnknownService { .. } => "see the catalog for the services there are",
            Self::UnknownSandbox { .. } => "a sandbox is made by the first deploy to it",
            Self::UnknownAgent { .. } => "see the list of agents",
            Self::AgentInUse { .. } => {
                "drain it and stop what runs on it first, or end all that at once with `force=true`"
            }
            Self::UnknownDeployment { .. } => "see the list of deployments",
            Self::UnknownInstance { .. } => "see the list of instances",
            Self::ServiceExists { .. } => "change it with PUT, or choose another name",
            Self::ServiceInUse { .. } => "stop its instances first",
            Self::PrefixTaken { .. } => "give one of them another path_prefix",
            Self::InvalidService(_) => "correct the field and send it again",
            Self::UnknownSecret { .. } => "see the list of the service's secrets",
            Self::VariableTaken { is_secret: true, .. } => {
                "leave the variable out, or delete the service's secret of that name first"
            }
            Self::VariableTaken { .. } => "take the variable out of the service's env first",
            Self::UnfitSecret(unfit) => unfit.hint(),
            Self::TooManySecrets { .. } => "at most 64, and 128 KiB together; delete those that are not used",
            Self::SecretsNeedAKey => {
                "ask an administrator to set secrets.key_file in the server's configuration, or name a file on the agent"
            }
            Self::Vault(error) => error.hint(),
            Self::IdempotencyConflict { .. } => "use a new key for a new request",
            Self::AlreadyEnded { .. } => "stop the instance instead, if it still runs",
            Self::NoCommit { .. } => "deploy a branch instead",
            Self::NothingToRollBack { .. } => "deploy the branch, tag or commit that you want",
            Self::InstanceOver { .. } => "deploy again",
            Self::DiskLow { .. } => "free space on the server's data folder, then try again",
            Self::QueueFull { .. } => "wait until some have ended, then try again",
            Self::NoAgent => "start an agent, then try again",
            Self::AgentAway { .. } => "check the VM and its network, then try again",
            Self::NoAnswer { .. } => "try again; if it happens again, look at the agent's log",
            Self::TooManyFollowers { .. } => {
                "read the last lines instead, or try again when others have closed theirs"
            }
            Self::TooManyListings { .. } => "try again in a moment",
            Self::NoRandom => "start it again; if that does not help, look at the machine's /dev/urandom",
            Self::Failed(failure) => failure.reason.hint(),
            Self::FeedGone { .. } => "read the present state, then follow from the newest event",
            Self::Stopping => "try again in a moment",
            Self::Store(error) => error.hint(),
            Self::Logs(error) => error.hint(),
            Self::DataDir { .. } => "check data_dir in the configuration and the rights on its parent folder",
        }
    }

    /// The name that was probably meant.
    #[must_use]
    pub fn did_you_mean(&self) -> Option<&str> {
        match self {
            Self::UnknownService { did_you_mean, .. }
            | Self::UnknownSandbox { did_you_mean, .. }
            | Self::UnknownAgent { did_you_mean, .. } => did_you_mean.as_deref(),
            _ => None,
        }
    }
}
