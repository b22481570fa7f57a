//! What agents say about their instances, and what they are told about them: levels, repeated in each hello.

use std::net::SocketAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Stream;
use crate::id::{DeploymentId, InstanceId};
use crate::sandbox::StopReason;

/// An instance that an agent knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceReport {
    /// Which.
    pub instance: InstanceId,
    /// The deployment that started it.
    pub deployment: DeploymentId,
    /// How it is.
    pub status: InstanceStatus,
}

/// How an instance is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum InstanceStatus {
    /// It runs.
    Running {
        /// Where it listens.
        address: SocketAddr,
        /// How many times it was started again, whatever the cause; never fewer than were reported before.
        restarts: u32,
        /// Why it was, the last time.
        last_restart: Option<RestartCause>,
        /// Whether it passes its check.
        health: Health,
    },
    /// It ended by itself, and is not started again; kept until the server says `forget`.
    Exited {
        /// How.
        exit: Exit,
    },
    /// It was stopped as asked and is gone.
    Stopped {},
}

/// Why an instance was started again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum RestartCause {
    /// It had ended by itself.
    Exited {
        /// How.
        exit: Exit,
    },
    /// Its agent was restarted, and it with it.
    AgentRestarted {},
    /// The container engine or the machine was restarted, and it with it.
    EngineRestarted {},
    /// Its sandbox had ended while the server was away, so that its agent stopped it; the server has said since that it goes on.
    SandboxRenewed {},
}

impl RestartCause {
    /// The same, as the reason why the instance did not run for a while.
    #[must_use]
    pub fn reason(&self) -> StopReason {
        match self {
            Self::Exited { exit } => exit.reason(),
            Self::AgentRestarted {} => StopReason::AgentRestarted {},
            Self::EngineRestarted {} => StopReason::EngineRestarted {},
            Self::SandboxRenewed {} => StopReason::SandboxExpired {},
        }
    }
}

/// Whether an instance passes its check, which is asked after each start until it does, and not while it is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Health {
    /// Not known yet: it was started, or found again, a moment ago, and has as long as its check may take. What was known of it
    /// before stands.
    Checking {},
    /// It passed.
    Healthy {},
    /// It had its time and does not pass; it is asked again and again.
    Unhealthy {
        /// What was wrong, as a clause.
        detail: String,
    },
}

/// How an instance ended by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its exit code; none when a signal ended it.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether it was ended because it took more memory than it may.
    pub out_of_memory: bool,
    /// The last lines it printed (within the limits of [`bound`](super::bound), lossy UTF-8, redacted).
    pub last_lines: Vec<String>,
    /// Why it could not be started again, as a clause; none: nobody tried.
    pub not_started: Option<String>,
}

impl Exit {
    /// The same, as the reason why an instance does not run any more.
    #[must_use]
    pub fn reason(&self) -> StopReason {
        match &self.not_started {
            Some(detail) => StopReason::NotStarted { detail: detail.clone() },
            None => StopReason::Crashed {
                exit_code: self.exit_code,
                signal: self.signal,
                out_of_memory: self.out_of_memory,
            },
        }
    }
}

impl std::fmt::Display for Exit {
    /// As a clause: "exit status 1", "signal 9", "out of memory".
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(why) = &self.not_started {
            return write!(f, "not started again: {why}");
        }
        match (self.out_of_memory, self.exit_code, self.signal) {
            (true, _, _) => f.write_str("out of memory"),
            (_, Some(code), _) => write!(f, "exit status {code}"),
            (_, None, Some(signal)) => write!(f, "signal {signal}"),
            (_, None, None) => f.write_str("unknown exit status"),
        }
    }
}

/// A line that an instance printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OutputLine {
    /// When.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub at: Timestamp,
    /// Where to.
    pub stream: Stream,
    /// What; bytes that are no UTF-8 are replaced.
    pub text: String,
}

/// What to do with an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceDecision {
    /// Which.
    pub instance: InstanceId,
    /// What to do.
    pub action: InstanceAction,
    /// When its sandbox ends; none: it does not end by itself. One that its agent had stopped because of that is started again if this
    /// says that it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// What to do with an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum InstanceAction {
    /// Let it run.
    Keep,
    /// Stop it if it runs, and forget it.
    Remove,
}
