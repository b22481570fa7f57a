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
        /// How many times it ended by itself and was started again.
        restarts: u32,
        /// How it ended the last time that happened.
        last_exit: Option<Exit>,
    },
    /// It ended by itself, and is not started again; kept until the server says `forget`.
    Exited {
        /// How.
        exit: Exit,
    },
    /// It was stopped as asked and is gone.
    Stopped {},
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
}

impl Exit {
    /// The same, as the reason why an instance does not run any more.
    #[must_use]
    pub fn reason(&self) -> StopReason {
        StopReason::Crashed {
            exit_code: self.exit_code,
            signal: self.signal,
            out_of_memory: self.out_of_memory,
        }
    }
}

impl std::fmt::Display for Exit {
    /// As a clause: "exit status 1", "signal 9", "out of memory".
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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
