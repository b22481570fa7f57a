//! What the loop takes: commands of people, reports of agents, questions; and what it answers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::world::World;
use super::{Idempotency, PlatformError, Power, Save};
use crate::api::{CreateLock, RenewSandbox, SaveSandbox};
use crate::batch::Batch;
use crate::catalog::{Environment, Service, Template, TemplateSpec};
use crate::deployment::{DeployKind, Deployment, Notify};
use crate::id::{
    BatchId, BootId, CommandId, DeploymentId, DeploymentNumber, Epoch, InstanceId, LockId, RouteVersion,
};
use crate::lock::Lock;
use crate::name::{
    AgentName, CommitId, EnvName, EnvironmentName, GitRef, Label, PersonName, RepoUrl, RoutingKey,
    SandboxName, ServiceName, TemplateName,
};
use crate::principal::Principal;
use crate::sandbox::{RouteChoice, Sandbox};
use crate::secret::GitCredential;
use crate::store::SecretRow;
use crate::wire::link::ServerEnd;
use crate::wire::{
    Answer, InstanceDecision, InstanceReport, JobDecision, JobReport, Load, Preflight, ProbeRequest,
    Progress, RejectReason, RouterReport, ToAgent,
};

/// Something that the loop takes.
pub(super) enum Input {
    Command {
        by: Principal,
        command: Command,
        answer: oneshot::Sender<Result<Reply, PlatformError>>,
    },
    Question {
        question: Question,
        answer: oneshot::Sender<Result<Answer, PlatformError>>,
    },
    Read(Box<dyn FnOnce(&World) + Send>),
    /// Serve this connection; say when it has ended.
    Serve {
        name: AgentName,
        end: ServerEnd,
        ended: Option<oneshot::Sender<()>>,
    },
    /// Answered with nothing if a later connection of the agent has said hello already.
    Hello {
        agent: AgentName,
        connection: u64,
        hello: Hello,
        answer: oneshot::Sender<Result<Welcomed, PlatformError>>,
    },
    /// `committed` is answered once what follows is in the store; dropped if it could not be stored.
    Report {
        agent: AgentName,
        epoch: Epoch,
        report: Report,
        committed: Option<oneshot::Sender<()>>,
    },
    Answered {
        agent: AgentName,
        command: CommandId,
        answer: Answer,
    },
    /// Which attempt of this deployment the agent works on, and how far its progress is.
    Assignment {
        agent: AgentName,
        deployment: DeploymentId,
        answer: oneshot::Sender<Option<(u32, u64)>>,
    },
    /// Tell the agent to send what an instance prints.
    Follow {
        agent: AgentName,
        instance: InstanceId,
        tail: u32,
        command: CommandId,
        answer: oneshot::Sender<Result<(), PlatformError>>,
    },
    /// Somebody looks no more: their agents are to be told, see `Followers::take_left`.
    Unfollow,
    Gone {
        agent: AgentName,
        epoch: Epoch,
    },
    /// End the agent's connection: what it came in with is worthless. Answered once nothing more is sent there.
    Disconnect {
        agent: AgentName,
        answer: oneshot::Sender<()>,
    },
    Stop,
}

pub(super) enum Command {
    Deploy(Box<DeployCommand>),
    Cancel {
        deployment: DeploymentId,
        number: DeploymentNumber,
    },
    SaveService {
        service: Box<Service>,
        save: Save,
    },
    DeleteService {
        name: ServiceName,
    },
    SetSecret {
        secret: Box<SecretRow>,
    },
    DeleteSecret {
        service: ServiceName,
        name: EnvName,
    },
    StopInstance {
        id: InstanceId,
    },
    SaveEnvironment {
        environment: Box<Environment>,
        save: Save,
    },
    DeleteEnvironment {
        name: EnvironmentName,
    },
    SaveTemplate {
        name: TemplateName,
        spec: Box<TemplateSpec>,
    },
    DeleteTemplate {
        name: TemplateName,
    },
    SaveSandbox(Box<SandboxOrder>),
    RenewSandbox {
        name: SandboxName,
        renew: RenewSandbox,
        power: Power,
    },
    DeleteSandbox {
        name: SandboxName,
        power: Power,
    },
    ChooseRoute {
        sandbox: SandboxName,
        service: ServiceName,
        choice: Option<RouteChoice>,
        power: Power,
    },
    Lock(Box<LockOrder>),
    Unlock {
        id: LockId,
        power: Power,
    },
    Batch(Box<BatchOrder>),
    /// What branches and tags a repository has, as it was just listed.
    BranchesSeen {
        repo: RepoUrl,
        names: BTreeSet<GitRef>,
    },
    DrainAgent {
        name: AgentName,
        draining: bool,
    },
    ForgetAgent {
        name: AgentName,
        force: bool,
    },
}

pub(super) struct DeployCommand {
    pub(super) service: ServiceName,
    pub(super) sandbox: SandboxName,
    pub(super) git_ref: GitRef,
    pub(super) env: BTreeMap<EnvName, String>,
    pub(super) notify: Option<Notify>,
    pub(super) batch: Option<BatchId>,
    pub(super) kind: DeployKind,
    /// The key of its sandbox, if that is made.
    pub(super) key: RoutingKey,
    /// What the sandbox's template says of it.
    pub(super) template_env: BTreeMap<EnvName, String>,
    pub(super) commit: Option<CommitId>,
    pub(super) of: Option<DeploymentNumber>,
    /// The commit of the deployment that succeeded last in its place.
    pub(super) since: Option<CommitId>,
    pub(super) prefer: Option<AgentName>,
    pub(super) credential: Option<GitCredential>,
    /// Whose own credential it is, if it is a person's own.
    pub(super) credential_of: Option<PersonName>,
    pub(super) idempotency: Option<Idempotency>,
    pub(super) power: Power,
}

/// A sandbox as somebody wants it.
pub(super) struct SandboxOrder {
    pub(super) name: SandboxName,
    pub(super) wanted: SaveSandbox,
    /// The version that it is made from.
    pub(super) template: Option<Template>,
    /// If it is new.
    pub(super) key: RoutingKey,
    pub(super) save: Save,
    pub(super) power: Power,
}

pub(super) struct LockOrder {
    pub(super) id: LockId,
    pub(super) wanted: CreateLock,
    pub(super) power: Power,
}

/// Several deployments into one sandbox together.
pub(super) struct BatchOrder {
    pub(super) id: BatchId,
    pub(super) sandbox: SandboxName,
    /// Each with the id that its deployment gets.
    pub(super) deploys: Vec<(DeploymentId, DeployCommand)>,
    /// The version whose services they are, and which the sandbox is made from if it is new.
    pub(super) template: Option<Template>,
    pub(super) key: RoutingKey,
    pub(super) idempotency: Option<Idempotency>,
}

pub(super) enum Reply {
    Done,
    Saved { created: bool },
    Template(Box<Template>),
    Sandbox { sandbox: Box<Sandbox>, created: bool },
    Lock(Box<Lock>),
    Batch(Box<Batch>),
    Deployment(Box<Deployment>),
    Known { deployment: DeploymentId },
}

/// Something to ask an agent.
pub(super) enum Question {
    ListRefs { repo: RepoUrl, labels: BTreeSet<Label>, credential: Option<GitCredential> },
    ReadOutput { agent: AgentName, instance: InstanceId, lines: u32 },
    CheckCredential { agent: AgentName, repo: RepoUrl, credential: GitCredential, within: Duration },
    Probe { agent: AgentName, probe: ProbeRequest },
    ListRepos { agent: AgentName, repo: RepoUrl, credential: Option<GitCredential> },
}

/// An agent's hello, but for the protocol number.
pub(super) struct Hello {
    pub(super) boot_id: BootId,
    pub(super) version: String,
    pub(super) labels: BTreeSet<Label>,
    pub(super) capacity: u32,
    pub(super) runtimes: Vec<String>,
    pub(super) preflight: Vec<Preflight>,
    pub(super) jobs: Vec<JobReport>,
    pub(super) instances: Vec<InstanceReport>,
    pub(super) degraded: Option<String>,
    pub(super) router: Option<RouterReport>,
}

/// What a session gets for a hello.
pub(super) struct Welcomed {
    pub(super) epoch: Epoch,
    pub(super) jobs: Vec<JobDecision>,
    pub(super) instances: Vec<InstanceDecision>,
    /// What the loop has to say from now on; ends when a newer connection takes over or the platform stops.
    pub(super) outbox: mpsc::Receiver<ToAgent>,
}

/// An agent's report, once the lines before it are durable.
pub(super) enum Report {
    Accepted {
        deployment: DeploymentId,
        attempt: u32,
    },
    Rejected {
        deployment: DeploymentId,
        attempt: u32,
        reason: RejectReason,
        message: String,
    },
    Progress {
        deployment: DeploymentId,
        attempt: u32,
        number: u64,
        after_line: u64,
        what: Progress,
    },
    /// Not said by an agent: its lines cannot be stored at present.
    Stalled {
        deployment: DeploymentId,
    },
    LogIncomplete {
        deployment: DeploymentId,
        detail: String,
    },
    Instance(InstanceReport),
    RoutesApplied {
        version: RouteVersion,
    },
    Drained {
        instance: InstanceId,
    },
    Preflight {
        checks: Vec<Preflight>,
    },
    Load {
        load: Load,
    },
}
