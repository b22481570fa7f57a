//! The spool: all that a job says, kept on disk until the server has it.
//!
//! [`crate::job`] appends through a [`JobLog`]; for each connection an [`Outflow`] reads from it, in batches, and
//! [`crate::agent`] tells it what the server acknowledged. The server may be away for hours.
//!
//! ```text
//!  job ──line, progress──▶ JobLog ──(memory, then <spool>/<deployment>-<attempt>/lines)──▶ Outflow ──▶ server
//!                                                                                            ▲  ack, rewind
//! ```
//! The invariant: a line, once numbered, never changes, and numbers are dense from 1. An `ack` opens the window for more;
//! the files stay until `done_ok`, so that the server may rewind to any place, even to the beginning.
//!
//! Limits: each job's log is cut to [`SpoolLimits::per_deployment`], and all together to about [`SpoolLimits::total`]:
//! beginning and end are kept, and one line between them says exactly what is missing. A full disk ends the job, not the
//! agent. What the spool holds does not outlive the process: builds die with it, and a later life starts with an empty
//! spool. (The journal that will change this writes its own files beside these.)

mod log;
mod outflow;
mod record;
mod tail;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sdp_core::id::DeploymentId;
use sdp_core::wire::JobReport;
use tokio::sync::Notify;

pub(crate) use log::JobLog;
pub(crate) use outflow::{Next, Outflow};

use crate::sync::Lock;

/// What a job is known by: its deployment and attempt.
pub(crate) type JobKey = (DeploymentId, u32);

/// How much the spool keeps, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpoolLimits {
    /// For one deployment; what is over it is left out of the middle of its log.
    pub per_deployment: u64,
    /// For all of them together; over it every log keeps only its end from there on.
    pub total: u64,
}

impl Default for SpoolLimits {
    fn default() -> Self {
        Self { per_deployment: 256 << 20, total: 4 << 30 }
    }
}

/// Tells the sender that there is something to send.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: AtomicBool,
    /// There is something new.
    any: Notify,
    /// There is something that must not wait for a batch to fill.
    urgent: Notify,
}

impl Bell {
    fn ring(&self) {
        // Cheap on the path of every line: only the first one after the sender looked wakes it.
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.any.notify_one();
        }
    }

    pub(crate) fn ring_urgently(&self) {
        self.ring();
        self.urgent.notify_one();
    }

    /// Says that the sender looks now: what comes after this rings again.
    fn looked(&self) {
        self.rung.store(false, Ordering::Release);
    }
}

/// The spool of this agent.
#[derive(Debug)]
pub(crate) struct Spool {
    root: PathBuf,
    limits: SpoolLimits,
    held: Arc<AtomicU64>,
    bell: Arc<Bell>,
    jobs: Lock<BTreeMap<JobKey, JobLog>>,
    /// Told when a job's spool is removed, for who waits until all is delivered.
    removed: Notify,
}

impl Spool {
    /// Opens the folder and empties it: what an earlier life left there is of jobs that died with it. Blocking.
    pub(crate) fn open(root: PathBuf, limits: SpoolLimits) -> io::Result<Self> {
        match std::fs::remove_dir_all(&root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // What builds print is nobody else's to read, the build user's neither.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&root)?;
        Ok(Self {
            root,
            limits,
            held: Arc::default(),
            bell: Arc::default(),
            jobs: Lock::default(),
            removed: Notify::new(),
        })
    }

    /// A log for a job. Blocking.
    pub(crate) fn create(&self, key: JobKey) -> io::Result<JobLog> {
        let folder = self.root.join(format!("{}-{}", key.0, key.1));
        let log = JobLog::create(key, folder, self.limits, self.held.clone(), self.bell.clone())?;
        self.jobs.lock().insert(key, log.clone());
        Ok(log)
    }

    pub(crate) fn find(&self, key: JobKey) -> Option<JobLog> {
        self.jobs.lock().get(&key).cloned()
    }

    pub(crate) fn logs(&self) -> Vec<JobLog> {
        self.jobs.lock().values().cloned().collect()
    }

    /// Every job it holds, for a hello.
    pub(crate) fn reports(&self) -> Vec<JobReport> {
        self.logs().iter().map(JobLog::report).collect()
    }

    /// How many jobs' logs it holds, and how many bytes they have together.
    pub(crate) fn held(&self) -> (usize, u64) {
        (self.jobs.lock().len(), self.held.load(Ordering::Relaxed))
    }

    /// Removes a job's log, if there is one. Blocking.
    pub(crate) fn remove(&self, key: JobKey) {
        let log = self.jobs.lock().remove(&key);
        if let Some(log) = log {
            log.remove();
        }
        self.removed.notify_waiters();
    }

    /// Returns when no job's log is held any more.
    pub(crate) async fn emptied(&self) {
        loop {
            let removed = self.removed.notified();
            if self.jobs.lock().is_empty() {
                return;
            }
            removed.await;
        }
    }

    pub(crate) fn bell(&self) -> &Bell {
        &self.bell
    }
}

#[cfg(test)]
mod tests;
