//! Why a deployment failed, in a closed list: a stable code for programs, a sentence and a next step for people.

use serde::{Deserialize, Serialize};

use crate::deployment::Step;

/// Why a deployment failed. The code never changes its meaning; programs match on it, chat shows the sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailureReason {
    /// No agent with the labels that the service needs was connected in time.
    NoAgent,
    /// It waited too long for its turn.
    QueueTimeout,
    /// The agent did not take the work in time.
    AgentUnresponsive,
    /// The agent has been away for too long.
    AgentLost,
    /// The agent was restarted; builds die with it.
    AgentRestarted,
    /// The agent refused the work.
    AgentRefused,
    /// No router took the new route in time.
    RouteNotApplied,
    /// The agent's configuration does not allow this repository.
    RepoNotAllowed,
    /// There is no such repository.
    RepoNotFound,
    /// The git host wants a login, or refuses the one it got.
    CredentialsNeeded,
    /// The git credential was lost with a restart before it was used.
    CredentialsGone,
    /// The repository with which logins are checked can be read by everybody, so being able to read it proves nothing.
    LoginRepositoryPublic,
    /// The agent knows no way to ask this git host for its repositories.
    RepositoriesUnlisted,
    /// A secret of the service was sealed with a key that the server does not have any more.
    SecretUnreadable,
    /// A file with a secret of the service is not on the agent, or cannot be used.
    SecretMissing,
    /// The git host did not answer, or not properly.
    GitUnreachable,
    /// The git host redirects elsewhere; credentials are not sent there.
    RedirectRefused,
    /// There is no such branch, tag or commit.
    RefNotFound,
    /// It is a branch and a tag at once, or several commits begin like that.
    RefAmbiguous,
    /// The branch moved between resolve and fetch, and its former commit is not to be had any more.
    BranchMoved,
    /// The repository is larger than the agent allows.
    RepoTooLarge,
    /// The service's folder is missing, or leads out of the repository.
    UnsafeTree,
    /// A program that the build or the service needs is not on the agent.
    ToolMissing,
    /// The build ended with an error.
    BuildFailed,
    /// A module or package that the build needs could not be fetched.
    DependencyUnreachable,
    /// The image that the service runs in is not on the agent.
    ImageMissing,
    /// The agent's container engine does not answer.
    EngineUnavailable,
    /// The service's release command failed.
    ReleaseFailed,
    /// The service could not be started.
    StartFailed,
    /// The service ended before it was healthy.
    Exited,
    /// The service did not become healthy in time.
    HealthCheckFailed,
    /// A step took longer than it may.
    Timeout,
    /// The agent's disk is full.
    DiskFull,
    /// The log could not be brought over whole.
    LogIncomplete,
    /// A fault of SDP itself.
    Internal,
}

impl FailureReason {
    /// Stable code, e.g. `build_failed`.
    #[must_use]
    pub fn code(self) -> &'static str {
        self.row().0
    }

    /// What happened, as a sentence without a full stop.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        self.row().1
    }

    /// What to do next.
    #[must_use]
    pub fn hint(self) -> &'static str {
        self.row().2
    }

    /// Whether the same request may well succeed when it is made again.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::NoAgent
                | Self::QueueTimeout
                | Self::AgentUnresponsive
                | Self::AgentLost
                | Self::AgentRestarted
                | Self::AgentRefused
                | Self::RouteNotApplied
                | Self::CredentialsGone
                | Self::GitUnreachable
                | Self::DependencyUnreachable
                | Self::EngineUnavailable
                | Self::BranchMoved
                | Self::DiskFull
                | Self::LogIncomplete
                | Self::Internal
        )
    }

    fn row(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::NoAgent => (
                "no_agent",
                "no agent that fits was connected",
                "start an agent with the labels that the service needs, then deploy again",
            ),
            Self::QueueTimeout => (
                "queue_timeout",
                "it waited too long for its turn",
                "deploy again when fewer deployments run, or add an agent",
            ),
            Self::AgentUnresponsive => (
                "agent_unresponsive",
                "the agent did not take the work in time",
                "deploy again; if it happens again, look at the agent's log",
            ),
            Self::AgentLost => (
                "agent_lost",
                "the agent has been away for too long",
                "check the VM and its network, then deploy again",
            ),
            Self::AgentRestarted => {
                ("agent_restarted", "the agent was restarted while it worked", "deploy again")
            }
            Self::AgentRefused => {
                ("agent_refused", "the agent refused the work", "look at the message, then deploy again")
            }
            Self::RouteNotApplied => (
                "route_not_applied",
                "no router took the new route in time; nothing was switched",
                "check that the router agent is connected, then deploy again",
            ),
            Self::RepoNotAllowed => (
                "repo_not_allowed",
                "the agent's configuration does not allow this repository",
                "ask an administrator to add its origin (or folder) to the agent's [git] section",
            ),
            Self::RepoNotFound => (
                "repo_not_found",
                "there is no such repository",
                "check the service's repo in the catalog, and that the git account can see it",
            ),
            Self::CredentialsNeeded => (
                "credentials_needed",
                "the git host wants a login, or refuses the one it got",
                "log in again with a git account that can read the repository (chat: /sdp login), or pass a git credential",
            ),
            Self::CredentialsGone => (
                "credentials_gone",
                "the git credential was lost with a restart before it was used",
                "deploy again",
            ),
            Self::SecretUnreadable => (
                "secret_unreadable",
                "a secret of the service cannot be opened: it was sealed with another key, or is damaged",
                "set it again, or ask an administrator to bring the server's former key file back",
            ),
            Self::SecretMissing => (
                "secret_missing",
                "a file with a secret of the service is not on the agent, or cannot be used",
                "ask an administrator to put it into the folder that [secrets] of the agent's configuration names",
            ),
            Self::GitUnreachable => (
                "git_unreachable",
                "the git host did not answer properly",
                "check the git host and the agent's network, then deploy again",
            ),
            Self::RedirectRefused => (
                "redirect_refused",
                "the git host redirects elsewhere; that is not followed",
                "put the repository's present address into the catalog",
            ),
            Self::LoginRepositoryPublic => (
                "login_repository_public",
                "the repository that logins are checked with can be read by everybody",
                "ask an administrator to name a private one in [login] of the server's configuration",
            ),
            Self::RepositoriesUnlisted => (
                "repositories_unlisted",
                "this git host has no list of repositories that SDP can read",
                "ask an administrator to name the host's kind in [[git.host]] of the agent's configuration, if it is a Bitbucket",
            ),
            Self::RefNotFound => (
                "ref_not_found",
                "there is no such branch, tag or commit",
                "check its name, and that it is pushed",
            ),
            Self::RefAmbiguous => (
                "ref_ambiguous",
                "the name stands for more than one thing",
                "say refs/heads/… or refs/tags/…, or more digits of the commit",
            ),
            Self::BranchMoved => {
                ("branch_moved", "the branch moved while it was being fetched", "deploy again")
            }
            Self::RepoTooLarge => (
                "repo_too_large",
                "the repository is larger than the agent allows",
                "ask an administrator to raise the agent's [git] limits",
            ),
            Self::UnsafeTree => (
                "unsafe_tree",
                "the service's folder is missing or leads out of the repository",
                "check the service's subdir and the links in the repository",
            ),
            Self::ToolMissing => (
                "tool_missing",
                "a program that it needs is not on the agent",
                "install it there, or give the service a label of an agent that has it",
            ),
            Self::BuildFailed => (
                "build_failed",
                "the build ended with an error",
                "read the last lines of the log, mend the branch and deploy again",
            ),
            Self::DependencyUnreachable => (
                "dependency_unreachable",
                "a module or package that the build needs could not be fetched",
                "commit it to the repository (vendor/), or ask an administrator to add it to the mirror that the agent's \
                 [build.env] names",
            ),
            Self::ImageMissing => (
                "image_missing",
                "the image that the service runs in is not on the agent",
                "ask an administrator to load it there (docker load), or name another image in the catalog",
            ),
            Self::EngineUnavailable => (
                "engine_unavailable",
                "the agent's container engine does not answer",
                "check Docker on the agent's machine, then deploy again",
            ),
            Self::ReleaseFailed => (
                "release_failed",
                "the service's release command failed; what ran before goes on",
                "read its last lines in the log, mend the branch and deploy again",
            ),
            Self::StartFailed => {
                ("start_failed", "the service could not be started", "check the run command in the catalog")
            }
            Self::Exited => {
                ("exited", "the service ended before it was healthy", "read its last lines in the log")
            }
            Self::HealthCheckFailed => (
                "health_check_failed",
                "the service did not become healthy in time",
                "check that it listens on the port in the variable PORT, and its health check in the catalog",
            ),
            Self::Timeout => (
                "timeout",
                "a step took longer than it may",
                "make the step faster, or ask an administrator to raise its limit",
            ),
            Self::DiskFull => {
                ("disk_full", "the agent's disk is full", "free space on the agent, then deploy again")
            }
            Self::LogIncomplete => (
                "log_incomplete",
                "the log could not be brought over whole",
                "deploy again; if it happens again, look at the agent's log",
            ),
            Self::Internal => (
                "internal",
                "a fault of SDP itself",
                "deploy again; if it happens again, report it with the deployment's number",
            ),
        }
    }
}

impl std::fmt::Display for FailureReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.sentence())
    }
}

/// A failure with its circumstances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Failure {
    /// The step in which it failed; none while it was still queued.
    pub step: Option<Step>,
    /// Why; this is the stable code.
    pub reason: FailureReason,
    /// What exactly, for people: names the branch, the program, the module. Plain text, one line, no secret.
    pub detail: String,
    /// Exit code of the program that failed.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// The line of the log where it shows, from 1.
    #[serde(default)]
    pub line: Option<u64>,
}

impl Failure {
    /// A failure with its detail.
    pub fn new(step: impl Into<Option<Step>>, reason: FailureReason, detail: impl Into<String>) -> Self {
        Self { step: step.into(), reason, detail: detail.into(), exit_code: None, line: None }
    }
}
