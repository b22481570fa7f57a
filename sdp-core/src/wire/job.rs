//! What a job is told, what an agent says of those it holds, and what it is to do with them.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::catalog::{Builder, HealthCheck, Limits};
use crate::id::{DeploymentId, DeploymentNumber, InstanceId};
use crate::name::{
    CommitId, EnvName, EnvironmentName, FileName, GitRef, ImageRef, Label, RepoPath, RepoUrl, RoutingKey,
    SandboxName, ServiceName, WritablePath,
};
use crate::secret::Secret;

/// All that an agent needs to know for a job, but for the credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// The deployment's short number, for names that people see.
    pub number: DeploymentNumber,
    /// The service.
    pub service: ServiceName,
    /// The sandbox.
    pub sandbox: SandboxName,
    /// The instance that the job shall start.
    pub instance: InstanceId,
    /// The repository.
    pub repo: RepoUrl,
    /// What was asked for.
    pub git_ref: GitRef,
    /// The commit, where it is known already: then nothing is resolved.
    pub commit: Option<CommitId>,
    /// The commit that its place has now: what is fetched is compared with it, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<CommitId>,
    /// Whether a kept build of that commit may be used.
    pub reuse_build: bool,
    /// The folder inside the repository.
    pub subdir: RepoPath,
    /// How to build and run it.
    pub builder: Builder,
    /// When it is healthy.
    pub health: HealthCheck,
    /// Variables of the instance.
    pub env: BTreeMap<EnvName, String>,
    /// Where it is among the other services; none if its sandbox is gone meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<JobPlace>,
    /// Where it listens inside its container, if not on the usual port.
    pub port: Option<NonZeroU16>,
    /// The image it runs in, if not the builder's.
    pub image: Option<ImageRef>,
    /// How much it may use.
    pub limits: Limits,
    /// Folders that it may write to.
    pub writable: BTreeSet<WritablePath>,
    /// What is run once before it is started.
    pub release: Option<Vec<String>>,
    /// The service's labels: they choose among several toolchains of an agent.
    pub labels: BTreeSet<Label>,
    /// How long each step may take.
    pub step_limits: StepLimits,
}

/// What an instance is told of where it is: in the variables `SDP_SANDBOX`, `SDP_ENVIRONMENT`, `SDP_ROUTING_KEY`, `SDP_COMMIT` and
/// `SDP_ROUTE_<SERVICE>`, and in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobPlace {
    /// The sandbox's environment.
    pub environment: EnvironmentName,
    /// What marks requests as the sandbox's.
    pub key: RoutingKey,
    /// Where it reaches each service of the environment, itself included: at the router, the same whatever is deployed.
    pub routes: BTreeMap<ServiceName, Url>,
    /// When the sandbox ends. An agent that has no connection then stops the instance by itself, a while after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

impl JobPlace {
    /// The variables that say it, but for `SDP_COMMIT`.
    #[must_use]
    pub fn variables(&self, sandbox: &SandboxName) -> Vec<(String, String)> {
        let mut variables = vec![
            ("SDP_SANDBOX".to_owned(), sandbox.to_string()),
            ("SDP_ENVIRONMENT".to_owned(), self.environment.to_string()),
            ("SDP_ROUTING_KEY".to_owned(), self.key.to_string()),
        ];
        for (service, url) in &self.routes {
            variables.push((format!("SDP_ROUTE_{}", variable_part(service)), url.to_string()));
        }
        variables
    }
}

/// A service's name as it stands in a variable's: `order-items` → `ORDER_ITEMS`.
#[must_use]
pub fn variable_part(service: &ServiceName) -> String {
    service.as_str().to_ascii_uppercase().replace('-', "_")
}

/// A variable whose value nobody shall see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretVariable {
    /// Its name.
    pub name: EnvName,
    /// Where its value comes from.
    pub source: SecretSource,
    /// Whether the build gets it.
    pub build: bool,
    /// Whether the running service gets it, and what is run once before it.
    pub run: bool,
}

/// Where a secret value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SecretSource {
    /// From the server.
    Value {
        /// The value.
        value: Secret,
    },
    /// From a file on the agent.
    File {
        /// Its name in the agent's folder for secrets.
        file: FileName,
    },
}

/// How long each step may take, in seconds; the agent ends a step that takes longer with `timeout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StepLimits {
    /// Resolve and fetch together.
    pub fetch: u32,
    /// Build.
    pub build: u32,
    /// Start.
    pub start: u32,
    /// Check.
    pub check: u32,
}

impl Default for StepLimits {
    fn default() -> Self {
        Self { fetch: 600, build: 1800, start: 120, check: 120 }
    }
}

/// A job that an agent holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobReport {
    /// The deployment.
    pub deployment: DeploymentId,
    /// Its attempt.
    pub attempt: u32,
    /// Whether all is done and only waits to be brought over.
    pub done: bool,
    /// Whether its work ended with the agent's former process, and what it needs to go on is kept by no agent: before anything
    /// was built the credential (it begins again), later the service's secrets (it goes on). It waits for its `deploy` to come
    /// again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interrupted: bool,
    /// Lines held, up to this one.
    pub lines: u64,
    /// Progress held, up to this one.
    pub progress: u64,
}

/// What to do with a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobDecision {
    /// The deployment.
    pub deployment: DeploymentId,
    /// Its attempt.
    pub attempt: u32,
    /// What to do.
    pub action: JobAction,
}

/// What to do with a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum JobAction {
    /// Go on; send what comes after these.
    Send {
        /// Lines after this one.
        lines: u64,
        /// Progress after this one.
        progress: u64,
        /// What the server's log is, where it has more lines than the agent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ahead: Option<Totals>,
    },
    /// Cancel it; send as above.
    Cancel {
        /// Lines after this one.
        lines: u64,
        /// Progress after this one.
        progress: u64,
        /// As above.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ahead: Option<Totals>,
    },
    /// Stop it if it runs, remove all that it started, send nothing.
    Forget {},
}

/// What the lines of a log add up to. A server has more of them than its agent when the agent's machine lost power after it
/// had sent them; the agent goes on from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// How many bytes they have, each with its line feed.
    pub bytes: u64,
    /// CRC-32 (IEEE) over those bytes.
    pub checksum: u32,
}
