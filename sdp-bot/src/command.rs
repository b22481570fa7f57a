//! The grammar: what people type in any chat, as a value. Pure; one parser for every chat.
//!
//! ```text
//! deploy <service> [branch|tag|commit] [to <sandbox>] [KEY=value …]        deploy payments@feature/a qa-42
//! deploy payments=feature/a ledger=feature/b [to qa-42]                   deploy template shop [ledger=feature/b] [to qa-42]
//! status [sandbox|412]   list [mine|all]   who|where <service>   open <service> [in <sandbox>]   logs <service|412> [in <sandbox>] [n]
//! cancel|stop|restart|redeploy|rollback <service|412> [in <sandbox>]
//! cancel 412 413   services   branches <service> [text]   agents [drain|resume <name>]
//! sandbox [show|create|extend|pin|unpin|share|delete] …   route   routes   vars   templates   environments      see `places`
//! lock|freeze|steal|unlock <place> … because <reason>   locks                                                  see `locks`
//! login   logout   whoami   help [command|all]
//! ```
//! It accepts what people really type: `payments@branch`; `to`, `in`, `on` or a bare third word for the sandbox; addresses of
//! branches, in angle brackets with a text too; backticks; an em dash for `--`; numbers with or without `#`. Whatever it does
//! not understand is a [`Mistake`] that says what was probably meant. What a chat must not hold (a key or a value that
//! looks like a secret) is refused without being repeated.
//!
//! `parse(command.to_string())` gives the command again. Limit: [`MAX_TEXT`] bytes.

mod address;
mod grammar;
mod lifetime;
mod locks;
mod places;
mod secrets;
#[cfg(test)]
mod tests;
mod together;
mod words;

use std::collections::BTreeMap;
use std::fmt;

use sdp_core::id::DeploymentRef;
use sdp_core::name::{AgentName, EnvName, GitRef, SandboxName, ServiceName};

pub use address::RepoAddress;
pub use lifetime::{Lifetime, MAX_HOURS};
pub use locks::{Lock, LockOf, LockVerb};
pub use places::{CreateSandbox, Longer, MadeFrom, Route, RouteTo};
pub use secrets::looks_like_a_secret;
pub use together::Together;

/// The longest command, in bytes.
pub const MAX_TEXT: usize = 4000;

/// What somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Build and run a branch.
    Deploy(Deploy),
    /// Build and run several branches together.
    DeployTogether(Together),
    /// Give up several unfinished deployments.
    CancelAll(Vec<DeploymentRef>),
    /// Where something stands.
    Status(Option<StatusOf>),
    /// What runs.
    List {
        /// Everybody's, not only one's own.
        all: bool,
    },
    /// Who has a service in their sandbox.
    Who(ServiceName),
    /// Where a service answers.
    Where(ServiceName),
    /// The address of a service in a sandbox.
    Open {
        /// Which.
        service: ServiceName,
        /// Where; without one: one's own.
        sandbox: Option<SandboxName>,
    },
    /// The last lines: of a running service, or of a deployment's build.
    Logs {
        /// Of what.
        of: Target,
        /// How many lines.
        lines: Option<u32>,
    },
    /// One of the verbs that act on what is there.
    Act {
        /// Which.
        verb: Verb,
        /// On what.
        on: Target,
    },
    /// What a sandbox is, and where its requests go; without a name: one's own.
    SandboxShow(Option<SandboxName>),
    /// Make a sandbox.
    SandboxCreate(CreateSandbox),
    /// Move a sandbox's end.
    SandboxExtend {
        /// Which; none: one's own.
        name: Option<SandboxName>,
        /// How.
        longer: Longer,
    },
    /// Keep a sandbox until somebody deletes it, or no longer.
    SandboxPin {
        /// Which; none: one's own.
        name: Option<SandboxName>,
        /// Whether it is kept.
        pinned: bool,
    },
    /// How others use a sandbox.
    SandboxShare(Option<SandboxName>),
    /// Stop everything in a sandbox and delete it.
    SandboxDelete(SandboxName),
    /// Where a sandbox's requests go.
    Routes(Option<SandboxName>),
    /// Say where requests shall go.
    Route(Route),
    /// Why a request goes where it goes.
    RoutesExplain {
        /// An address or a path.
        what: String,
        /// As whose request; none: as it is.
        sandbox: Option<SandboxName>,
    },
    /// Where the values of a service's variables come from.
    Vars {
        /// Whose.
        service: ServiceName,
        /// Where; without one: one's own.
        sandbox: Option<SandboxName>,
    },
    /// Which templates there are.
    Templates,
    /// Which environments there are.
    Environments,
    /// Keep a place for oneself, or as it is.
    Lock(Lock),
    /// End a lock or a freeze.
    Unlock(LockOf),
    /// Which locks and freezes there are.
    Locks,
    /// Which services there are.
    Services,
    /// Branches and tags of a service.
    Branches {
        /// Which.
        service: ServiceName,
        /// Part of the name.
        text: Option<String>,
    },
    /// Which agents there are.
    Agents,
    /// Give an agent no new work, or work again.
    Drain {
        /// Which.
        agent: AgentName,
        /// Whether it is to be drained.
        draining: bool,
    },
    /// Say which git account one is.
    Login,
    /// Be nobody again.
    Logout,
    /// Who one is to SDP.
    Whoami,
    /// How to use it.
    Help(Option<Topic>),
}

/// A deploy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deploy {
    /// What.
    pub service: Wanted,
    /// Branch, tag or commit.
    pub git_ref: Option<GitRef>,
    /// Where to.
    pub sandbox: Option<SandboxName>,
    /// Variables.
    pub env: BTreeMap<EnvName, String>,
}

/// A service as people name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// By its name.
    Service(ServiceName),
    /// By the address of its repository.
    Repo(RepoAddress),
}

/// The verbs that act on what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Give up an unfinished deployment.
    Cancel,
    /// Stop what runs.
    Stop,
    /// Start the running commit anew.
    Restart,
    /// Deploy the same commit again.
    Redeploy,
    /// Deploy the commit that ran before.
    Rollback,
}

impl Verb {
    /// As it is typed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Redeploy => "redeploy",
            Self::Rollback => "rollback",
        }
    }
}

/// A deployment, or a service in a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A deployment, by number.
    Deployment(DeploymentRef),
    /// A service; without a sandbox: in one's own.
    Service {
        /// Which.
        service: ServiceName,
        /// Where.
        sandbox: Option<SandboxName>,
    },
}

/// Of what one wants to know how it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatusOf {
    /// A deployment.
    Deployment(DeploymentRef),
    /// A sandbox.
    Sandbox(SandboxName),
}

/// What help is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// Everything.
    All,
    /// One command, by its name in [`VERBS`].
    Command(&'static str),
}

/// All commands, as they are typed.
pub const VERBS: [&str; 31] = [
    "deploy",
    "status",
    "list",
    "who",
    "where",
    "open",
    "logs",
    "cancel",
    "stop",
    "restart",
    "redeploy",
    "rollback",
    "sandbox",
    "route",
    "routes",
    "vars",
    "lock",
    "freeze",
    "steal",
    "unlock",
    "locks",
    "templates",
    "environments",
    "services",
    "branches",
    "agents",
    "login",
    "logout",
    "whoami",
    "help",
    "quit",
];

/// A text that is no command: what is wrong, and what was probably meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct Mistake {
    /// Stable code, e.g. `unknown_command`, `secret_in_chat`.
    pub code: &'static str,
    /// What is wrong, as a sentence. It may repeat what was typed (never a secret); show it as [`crate::text::Text`].
    pub problem: String,
    /// What to type instead.
    pub hint: Option<String>,
}

impl Mistake {
    fn new(code: &'static str, problem: impl Into<String>) -> Self {
        Self { code, problem: problem.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Reads a command; a leading `/sdp` or `@sdp` may be there or not.
///
/// # Errors
/// [`Mistake`]: no command, and why.
pub fn parse(text: &str) -> Result<Command, Mistake> {
    grammar::parse(text)
}

/// Reads the variables of a form, `KEY=value` on each line, by the same rules as in a command.
///
/// # Errors
/// [`Mistake`]: which line is none, or that there is a secret; it repeats no value.
pub fn parse_variables(text: &str) -> Result<BTreeMap<EnvName, String>, Mistake> {
    grammar::variables(text)
}

/// Reads a command that was said in a deployment's thread: a verb alone is about that deployment.
///
/// # Errors
/// [`Mistake`]: no command, and why.
pub fn parse_about(text: &str, about: Option<DeploymentRef>) -> Result<Command, Mistake> {
    if let Some(about) = about
        && text.split_whitespace().count() == 1
        && let Ok(
            command @ (Command::Act { on: Target::Deployment(_), .. }
            | Command::Logs { of: Target::Deployment(_), .. }
            | Command::Status(Some(StatusOf::Deployment(_)))),
        ) = parse(&format!("{text} {about}"))
    {
        return Ok(command);
    }
    parse(text)
}

impl Command {
    /// What it changes, as it is typed; none: it only looks.
    #[must_use]
    pub fn acts(&self) -> Option<&'static str> {
        match self {
            Self::Deploy(_) | Self::DeployTogether(_) => Some("deploy"),
            Self::CancelAll(_) => Some("cancel"),
            Self::Act { verb, .. } => Some(verb.as_str()),
            Self::SandboxCreate(_) => Some("sandbox create"),
            Self::SandboxExtend { .. } => Some("sandbox extend"),
            Self::SandboxPin { pinned: true, .. } => Some("sandbox pin"),
            Self::SandboxPin { pinned: false, .. } => Some("sandbox unpin"),
            Self::SandboxDelete(_) => Some("sandbox delete"),
            Self::Route(_) => Some("route"),
            Self::Lock(lock) => Some(lock.verb.as_str()),
            Self::Unlock(_) => Some("unlock"),
            Self::Drain { draining: true, .. } => Some("agents drain"),
            Self::Drain { draining: false, .. } => Some("agents resume"),
            _ => None,
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deploy(deploy) => deploy.fmt(f),
            Self::Status(None) => f.write_str("status"),
            Self::Status(Some(StatusOf::Deployment(deployment))) => write!(f, "status {deployment}"),
            Self::Status(Some(StatusOf::Sandbox(sandbox))) => write!(f, "status {sandbox}"),
            Self::List { all } => f.write_str(if *all { "list all" } else { "list mine" }),
            Self::Who(service) => write!(f, "who {service}"),
            Self::Where(service) => write!(f, "where {service}"),
            Self::Open { service, sandbox } => {
                write!(f, "open {service}")?;
                in_sandbox(f, sandbox.as_ref())
            }
            Self::Logs { of, lines } => {
                write!(f, "logs {of}")?;
                lines.map_or(Ok(()), |lines| write!(f, " {lines}"))
            }
            Self::Act { verb, on } => write!(f, "{} {on}", verb.as_str()),
            Self::DeployTogether(together) => together.fmt(f),
            Self::CancelAll(all) => {
                f.write_str("cancel")?;
                all.iter().try_for_each(|one| write!(f, " {one}"))
            }
            Self::SandboxShow(name) => of_own(f, "sandbox show", name.as_ref()),
            Self::SandboxCreate(create) => create.fmt(f),
            Self::SandboxExtend { name, longer } => places::extend(f, name.as_ref(), *longer),
            Self::SandboxPin { name, pinned: true } => of_own(f, "sandbox pin", name.as_ref()),
            Self::SandboxPin { name, pinned: false } => of_own(f, "sandbox unpin", name.as_ref()),
            Self::SandboxShare(name) => of_own(f, "sandbox share", name.as_ref()),
            Self::SandboxDelete(name) => write!(f, "sandbox delete {name}"),
            Self::Routes(sandbox) => of_own(f, "routes", sandbox.as_ref()),
            Self::Route(route) => route.fmt(f),
            Self::RoutesExplain { what, sandbox } => places::explain(f, what, sandbox.as_ref()),
            Self::Vars { service, sandbox } => {
                write!(f, "vars {service}")?;
                in_sandbox(f, sandbox.as_ref())
            }
            Self::Templates => f.write_str("templates"),
            Self::Environments => f.write_str("environments"),
            Self::Lock(lock) => lock.fmt(f),
            Self::Unlock(of) => write!(f, "unlock {of}"),
            Self::Locks => f.write_str("locks"),
            Self::Services => f.write_str("services"),
            Self::Branches { service, text } => {
                write!(f, "branches {service}")?;
                text.as_ref().map_or(Ok(()), |text| write!(f, " {}", words::quoted(text)))
            }
            Self::Agents => f.write_str("agents"),
            Self::Drain { agent, draining: true } => write!(f, "agents drain {agent}"),
            Self::Drain { agent, draining: false } => write!(f, "agents resume {agent}"),
            Self::Login => f.write_str("login"),
            Self::Logout => f.write_str("logout"),
            Self::Whoami => f.write_str("whoami"),
            Self::Help(None) => f.write_str("help"),
            Self::Help(Some(Topic::All)) => f.write_str("help all"),
            Self::Help(Some(Topic::Command(command))) => write!(f, "help {command}"),
        }
    }
}

impl fmt::Display for Deploy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.service {
            // The word has a meaning of its own there.
            Wanted::Service(service) if service.as_str() == "template" => {
                f.write_str("deploy \"template\"")?;
            }
            Wanted::Service(service) => write!(f, "deploy {service}")?,
            Wanted::Repo(address) => write!(f, "deploy {address}")?,
        }
        if let Some(git_ref) = &self.git_ref {
            write!(f, " {}", words::quoted(git_ref.as_str()))?;
        }
        if let Some(sandbox) = &self.sandbox {
            write!(f, " to {sandbox}")?;
        }
        for (name, value) in &self.env {
            write!(f, " {name}={}", words::quoted(value))?;
        }
        Ok(())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deployment(deployment) => deployment.fmt(f),
            Self::Service { service, sandbox } => {
                service.fmt(f)?;
                in_sandbox(f, sandbox.as_ref())
            }
        }
    }
}

fn in_sandbox(f: &mut fmt::Formatter<'_>, sandbox: Option<&SandboxName>) -> fmt::Result {
    sandbox.map_or(Ok(()), |sandbox| write!(f, " in {sandbox}"))
}

fn of_own(f: &mut fmt::Formatter<'_>, verb: &str, sandbox: Option<&SandboxName>) -> fmt::Result {
    f.write_str(verb)?;
    sandbox.map_or(Ok(()), |sandbox| write!(f, " {sandbox}"))
}
