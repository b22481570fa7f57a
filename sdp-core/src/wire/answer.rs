//! What an agent answers to questions.

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::name::{CommitId, GitRef, HostName, RepoUrl, RoutingKey, SandboxName, ServiceName};

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Answer {
    /// To `list_refs`.
    Refs {
        /// The default branch, if the host says.
        head: Option<String>,
        /// Branches, sorted by name, without `refs/heads/`; only such as can be deployed.
        branches: Vec<RefInfo>,
        /// Tags, likewise.
        tags: Vec<RefInfo>,
    },
    /// To `read_output`.
    Output {
        /// The last lines, oldest first (lossy UTF-8, redacted).
        lines: Vec<String>,
    },
    /// To `check_credential`: it opens the repository.
    Account {
        /// The name under which the git host knows who it belongs to.
        user: String,
    },
    /// To `list_repos`.
    Repos {
        /// By name.
        repos: Vec<RepoInfo>,
        /// Whether these are all.
        complete: bool,
    },
    /// To `probe`.
    Probed {
        /// The answer's HTTP status.
        status: u16,
        /// Who gave the answer: its `sdp-served-by`.
        served_by: Option<String>,
        /// Every request of the probe that passed the router, in order; the first is the probe itself.
        hops: Vec<ProbeHop>,
    },
    /// It did not work.
    Failed {
        /// Why.
        failure: Failure,
    },
}

/// A request to send through the router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeRequest {
    /// Whose request it shall be: the header `sdp-routing-key`, and `baggage`.
    pub key: RoutingKey,
    /// Path and query, beginning with `/`.
    pub path: String,
    /// The host, if not the router's own.
    pub host: Option<HostName>,
    /// How long to wait, for the answer and for what follows from it, in milliseconds.
    pub within_ms: u32,
}

/// A request of a probe that passed the router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProbeHop {
    /// The service that it was for, if it was for one.
    pub service: Option<ServiceName>,
    /// The sandbox that it named, if it named one.
    pub sandbox: Option<SandboxName>,
    /// What named the sandbox, such as "the header baggage".
    pub named_by: Option<String>,
    /// Who answered: its `sdp-served-by`.
    pub served_by: String,
    /// The answer's HTTP status.
    pub status: u16,
}

/// A repository of a git host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RepoInfo {
    /// As the host shows it, such as `shop/payments`.
    pub name: String,
    /// What git clones.
    pub url: RepoUrl,
    /// Its default branch, if the host says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_branch: Option<GitRef>,
}

/// A branch or tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RefInfo {
    /// Its name.
    pub name: GitRef,
    /// The commit at its tip (for an annotated tag, the commit it points at).
    pub commit: CommitId,
}
