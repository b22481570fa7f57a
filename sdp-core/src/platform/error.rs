//! What the orchestrator refuses, and why: a stable code, a sentence, a next step.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::catalog::InvalidService;
use crate::failure::Failure;
use crate::id::{BatchId, DeploymentNumber, DeploymentRef, EventSeq, InstanceId, LockId};
use crate::lock::{Lock, LockKind};
use crate::logs::LogsError;
use crate::name::{
    AgentName, EnvName, EnvironmentName, IdempotencyKey, SandboxName, ServiceName, TemplateName,
};
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
    /// No such environment.
    #[error("there is no environment named {name}")]
    UnknownEnvironment {
        /// What was asked for.
        name: EnvironmentName,
        /// What was probably meant.
        did_you_mean: Option<String>,
    },
    /// No such template, or no such version of it.
    #[error("there is no template named {name}{}", version.map(|v| format!(" with a version {v}")).unwrap_or_default())]
    UnknownTemplate {
        /// What was asked for.
        name: TemplateName,
        /// Which version, if a certain one was.
        version: Option<u32>,
        /// What was probably meant.
        did_you_mean: Option<String>,
    },
    /// No such lock.
    #[error("there is no lock {id}")]
    UnknownLock {
        /// What was asked for.
        id: LockId,
    },
    /// No such batch.
    #[error("there is no batch {id}")]
    UnknownBatch {
        /// What was asked for.
        id: BatchId,
    },
    /// An environment of that name exists already.
    #[error("an environment named {name} exists already")]
    EnvironmentExists {
        /// Its name.
        name: EnvironmentName,
    },
    /// The environment cannot go while something is in it.
    #[error("{name} still has {has}")]
    EnvironmentInUse {
        /// The environment.
        name: EnvironmentName,
        /// What it has, as a list.
        has: String,
    },
    /// The service is no part of the sandbox's environment.
    #[error("{service} is no service of the environment {environment}")]
    ServiceNotInEnvironment {
        /// The service.
        service: ServiceName,
        /// The environment.
        environment: EnvironmentName,
    },
    /// Two would get the same requests.
    #[error("{what} of {name} is already that of {other}")]
    RouteConflict {
        /// The one that was to be saved.
        name: String,
        /// The one that has it.
        other: String,
        /// What both would have: "the host api.shop.test", "the domain shop.test".
        what: String,
    },
    /// A sandbox of that name exists already.
    #[error("a sandbox named {name} exists already")]
    SandboxExists {
        /// Its name.
        name: SandboxName,
    },
    /// The sandbox is somebody else's.
    #[error("{sandbox} is {owner}'s sandbox")]
    NotAMember {
        /// The sandbox.
        sandbox: SandboxName,
        /// Whose it is, with its team.
        owner: String,
    },
    /// Not everybody may deploy in this environment.
    #[error("you may not deploy in the environment {environment}")]
    NotADeployer {
        /// The environment.
        environment: EnvironmentName,
    },
    /// Somebody keeps the place for themselves, or as it is.
    #[error("{} is {} by {}: {}", lock.place, if lock.kind == LockKind::Freeze { "frozen" } else { "locked" }, lock.owner, lock.reason)]
    Locked {
        /// The lock.
        lock: Box<Lock>,
    },
    /// The owner's sandboxes have as much as they may.
    #[error("{owner} has {has} in {environment}, and may have {limit}")]
    QuotaExceeded {
        /// Whose.
        owner: String,
        /// Where.
        environment: EnvironmentName,
        /// What there is, such as "5 instances".
        has: String,
        /// How much there may be, such as "5 instances".
        limit: String,
        /// The owner's sandboxes there, the one that was used least lately first.
        sandboxes: Vec<SandboxName>,
    },
    /// A route cannot lead there.
    #[error("{service} cannot be sent to {target}: {why}")]
    TargetRefused {
        /// The service.
        service: ServiceName,
        /// Where it was to be sent.
        target: String,
        /// Why not, as a clause.
        why: String,
    },
    /// Longer than sandboxes may live there.
    #[error("sandboxes of {environment} live {max_hours} hours at most")]
    LifetimeTooLong {
        /// The environment.
        environment: EnvironmentName,
        /// The most.
        max_hours: u32,
    },
    /// Somebody else holds it.
    #[error("this lock is {owner}'s")]
    NotYourLock {
        /// Who holds it.
        owner: String,
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
            Self::UnknownEnvironment { .. } => "unknown_environment",
            Self::UnknownTemplate { .. } => "unknown_template",
            Self::UnknownLock { .. } => "unknown_lock",
            Self::UnknownBatch { .. } => "unknown_batch",
            Self::EnvironmentExists { .. } => "environment_exists",
            Self::EnvironmentInUse { .. } => "environment_in_use",
            Self::ServiceNotInEnvironment { .. } => "service_not_in_environment",
            Self::RouteConflict { .. } => "route_conflict",
            Self::SandboxExists { .. } => "sandbox_exists",
            Self::NotAMember { .. } => "not_a_member",
            Self::NotADeployer { .. } => "not_a_deployer",
            Self::Locked { lock } if lock.kind == LockKind::Freeze => "frozen",
            Self::Locked { .. } => "locked",
            Self::QuotaExceeded { .. } => "quota_exceeded",
            Self::TargetRefused { .. } => "target_refused",
            Self::LifetimeTooLong { .. } => "lifetime_too_long",
            Self::NotYourLock { .. } => "not_your_lock",
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
            Self::UnknownEnvironment { .. } => "see the list of environments",
            Self::UnknownTemplate { .. } => "see the list of templates",
            Self::UnknownLock { .. } => "it may be over; see the list of locks",
            Self::UnknownBatch { .. } => "see the list of deployments",
            Self::EnvironmentExists { .. } => "change it with PUT, or choose another name",
            Self::EnvironmentInUse { .. } => "delete those first",
            Self::ServiceNotInEnvironment { .. } => {
                "ask an administrator to add it to the environment's services, or take a sandbox of another one"
            }
            Self::RouteConflict { .. } => "give one of them another",
            Self::SandboxExists { .. } => "change it with PUT, or choose another name",
            Self::NotAMember { .. } => {
                "ask its owner to add you to its members or to share it, or take your own"
            }
            Self::NotADeployer { .. } => "ask an administrator to add you to its deployers",
            Self::Locked { lock } if lock.kind == LockKind::Freeze => {
                "wait until it is over, ask whoever froze it, or take another sandbox"
            }
            Self::Locked { .. } => "ask whoever holds it, steal it with a reason, or take another sandbox",
            Self::QuotaExceeded { .. } => "stop or delete what you do not need any more",
            Self::TargetRefused { .. } => {
                "send it to the baseline, to another sandbox of the same environment, or to an address in its external networks"
            }
            Self::LifetimeTooLong { .. } => "ask for less, and extend it when it ends soon, or pin it",
            Self::NotYourLock { .. } => "steal it with a reason; whoever holds it is told",
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
            | Self::UnknownEnvironment { did_you_mean, .. }
            | Self::UnknownTemplate { did_you_mean, .. }
            | Self::UnknownAgent { did_you_mean, .. } => did_you_mean.as_deref(),
            _ => None,
        }
    }
}
