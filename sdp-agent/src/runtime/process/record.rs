//! What is kept of an instance in its folder, so that the agent's next life starts it again: all that its start needs, and how
//! often that was done. Written before it is started, gone with the folder. Called by [`super`] and `life`.
//!
//! ```text
//!   Up ──ended, may be started again──▶ Waiting ──▶ Up        both are started by the agent's next life
//!    ├──ended otherwise──▶ Over
//!    ├──suspend──▶ Suspended ──wake──▶ Waiting
//!    └──stop─────────────▶ Stopped                            these three are only reported by it
//! ```
//! Invariants: a git credential is no part of it; the secrets of the service are, for nobody else has them when it is to be started
//! again, so it is for the agent alone (mode 0600; its folder is the agent's, and no build user's). Reading it makes the redactor anew.
//! A record that is cut or not ours is as none.
//!
//! As the container engine's `on-failure` counts: an end without an error is meant, and an instance that ended with one is started
//! again at most [`MOST_CRASHES`] times in all its life, however long it ran between; only the pauses become short again.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;
use sdp_core::id::InstanceId;
use sdp_core::wire::{Exit, Health, InstanceStatus, RestartCause};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::runtime::StartSpec;

/// How often an instance that ended with an error is started again.
pub(super) const MOST_CRASHES: u32 = 3;
/// Its name in the instance's folder.
const FILE: &str = "instance.json";
const UNFINISHED: &str = ".instance.json.new";
/// The longest that is read, in bytes.
const LONGEST: u64 = 4 * 1024 * 1024;

/// An instance, as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) spec: StartSpec,
    pub(super) port: u16,
    /// Its deployment's check was passed: from then on it is worth to be started again.
    pub(super) ready: bool,
    /// How often it was started again because it had ended by itself.
    crashes: u32,
    /// How often it was started again for any reason.
    restarts: u32,
    last_restart: Option<RestartCause>,
    stage: Stage,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Stage {
    Up {},
    Waiting { cause: RestartCause },
    Over { exit: Exit },
    Suspended { why: String },
    Stopped {},
}

impl Record {
    pub(super) fn new(spec: StartSpec, port: u16) -> Self {
        Self { spec, port, ready: false, crashes: 0, restarts: 0, last_restart: None, stage: Stage::Up {} }
    }

    /// Its check was passed; whether it is not over already.
    pub(super) fn passed(&mut self) -> bool {
        self.ready = true;
        matches!(self.stage, Stage::Up {} | Stage::Waiting { .. })
    }

    /// It has ended by itself; whether it is to be started again.
    pub(super) fn ended(&mut self, exit: &Exit) -> bool {
        let again = self.ready && exit.exit_code != Some(0) && self.crashes < MOST_CRASHES;
        if again {
            self.crashes += 1;
            self.stage = Stage::Waiting { cause: RestartCause::Exited { exit: exit.clone() } };
        } else {
            self.over(exit.clone());
        }
        again
    }

    /// It runs: only now it counts as started again.
    pub(super) fn up(&mut self) {
        if let Stage::Waiting { cause } = std::mem::replace(&mut self.stage, Stage::Up {}) {
            self.restarts += 1;
            self.last_restart = Some(cause);
        }
    }

    pub(super) fn over(&mut self, exit: Exit) {
        self.stage = Stage::Over { exit };
    }

    pub(super) fn stopped(&mut self) {
        self.stage = Stage::Stopped {};
    }

    pub(super) fn suspend(&mut self, why: String) {
        self.stage = Stage::Suspended { why };
    }

    /// Why it is suspended, if it is.
    pub(super) fn suspended(&self) -> Option<&str> {
        match &self.stage {
            Stage::Suspended { why } => Some(why),
            _ => None,
        }
    }

    /// It is to be started again; false if it was not suspended.
    pub(super) fn wake(&mut self) -> bool {
        let suspended = self.suspended().is_some();
        if suspended {
            self.stage = Stage::Waiting { cause: RestartCause::SandboxRenewed {} };
        }
        suspended
    }

    /// The agent lives again; whether the instance is to be started.
    pub(super) fn resume(&mut self) -> bool {
        // One whose deployment goes on is the deployment's to tell about; one that waited had its reason already.
        if self.ready && self.stage == (Stage::Up {}) {
            self.stage = Stage::Waiting { cause: RestartCause::AgentRestarted {} };
        }
        matches!(self.stage, Stage::Up {} | Stage::Waiting { .. })
    }

    /// As it is reported.
    pub(super) fn status(&self, address: SocketAddr) -> InstanceStatus {
        match &self.stage {
            Stage::Up {} | Stage::Waiting { .. } => InstanceStatus::Running {
                address,
                restarts: self.restarts,
                last_restart: self.last_restart.clone(),
                health: Health::Checking {},
            },
            Stage::Over { exit } => InstanceStatus::Exited { exit: exit.clone() },
            Stage::Suspended { why } => {
                let exit = Exit { not_started: Some(why.clone()), ..Exit::default() };
                InstanceStatus::Exited { exit }
            }
            Stage::Stopped {} => InstanceStatus::Stopped {},
        }
    }

    /// Keeps it. Blocking.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let unfinished = folder.join(UNFINISHED);
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(&Zeroizing::new(serde_json::to_vec(self)?))?;
        file.sync_all()?;
        fs::rename(&unfinished, folder.join(FILE))?;
        fs::File::open(folder)?.sync_all()
    }

    /// What was kept of this instance; none where nothing was, or not by us. Blocking.
    pub(super) fn read(folder: &Path, instance: InstanceId) -> Option<Self> {
        let no_follow = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).ok()?;
        let file = fs::OpenOptions::new().read(true).custom_flags(no_follow).open(folder.join(FILE)).ok()?;
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        let mut bytes = Zeroizing::new(Vec::new());
        file.take(LONGEST).read_to_end(&mut bytes).ok()?;
        let mut record: Self = match serde_json::from_slice(&bytes) {
            Ok(record) => record,
            Err(error) => {
                tracing::warn!(instance.id = %instance, %error, "what was kept of an instance cannot be read");
                return None;
            }
        };
        record.spec.redactor = crate::secrets::redactor(record.spec.secrets.values());
        (record.spec.instance == instance && record.port != 0).then_some(record)
    }
}
