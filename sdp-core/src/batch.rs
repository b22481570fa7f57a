//! Batches: several deployments into one sandbox that were asked for together. Each is a deployment of its own, with its own log
//! and end; requests are switched to all of them together, once none is still on its way.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{BatchId, DeploymentId};
use crate::name::SandboxName;
use crate::principal::Principal;
use crate::sandbox::TemplateVersion;

/// Several deployments that were asked for together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Batch {
    /// Its id.
    pub id: BatchId,
    /// Where to.
    pub sandbox: SandboxName,
    /// Its deployments, in the order in which they were asked for.
    pub deployments: Vec<DeploymentId>,
    /// The template whose services they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateVersion>,
    /// Who asked for it.
    pub requested_by: Principal,
    /// When.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub requested_at: Timestamp,
    /// How it ended, once all of them have.
    #[serde(default)]
    pub outcome: Option<BatchOutcome>,
    /// When it ended.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub ended_at: Option<Timestamp>,
    /// Those that have succeeded so far.
    #[serde(default)]
    pub succeeded: Vec<DeploymentId>,
    /// Those that have ended otherwise so far.
    #[serde(default)]
    pub failed: Vec<DeploymentId>,
}

/// How a batch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BatchOutcome {
    /// All of it serves.
    Succeeded,
    /// Some of it serves; the rest has failed, or was cancelled or superseded.
    Partial,
    /// None of it serves.
    Failed,
}

impl BatchOutcome {
    /// From how many of how many succeeded.
    #[must_use]
    pub fn of(succeeded: usize, all: usize) -> Self {
        match succeeded {
            0 => Self::Failed,
            some if some < all => Self::Partial,
            _ => Self::Succeeded,
        }
    }

    /// Stable code: `succeeded`, `partial`, `failed`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Partial => "partial",
            Self::Failed => "failed",
        }
    }
}

impl std::fmt::Display for BatchOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}
