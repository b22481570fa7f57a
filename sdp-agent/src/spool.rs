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
//! the files stay until `done_ok`, so that the server may rewind to any place, even to the beginning. What was sent is written,
//! and what is written outlives the agent: its next life holds the same jobs ([`recover`]), and `agent::resume` decides what becomes of
//! those that had not ended.
//!
//! Limits: each job's log is cut to [`SpoolLimits::per_deployment`], and all together to about [`SpoolLimits::total`]:
//! beginning and end are kept, and one line between them says exactly what is missing. A full disk ends the job, not the
//! agent. What a job has just said is written at once if it is sent, else within [`WRITE_AFTER`].

mod journal;
mod log;
mod outflow;
mod record;
mod recover;
mod state;
mod tail;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sdp_core::id::DeploymentId;
use sdp_core::wire::{JobReport, JobSpec};
use tokio::sync::Notify;

pub(crate) use log::JobLog;
pub(crate) use outflow::{Next, Outflow};

use crate::sync::Lock;
use journal::Journal;
use state::State;

/// What a job is known by: its deployment and attempt.
pub(crate) type JobKey = (DeploymentId, u32);

/// This part of a log's limit is for its end.
const TAIL_PART: u64 = 8;
/// What a job's folder that cannot be read is called.
const UNREADABLE: &str = "unreadable";
/// What waits to be sent is written this late at the latest.
const WRITE_AFTER: Duration = Duration::from_millis(100);

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

impl SpoolLimits {
    /// Of a log that is too long, so much is for its end.
    fn tail(self) -> u64 {
        self.per_deployment / TAIL_PART
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
    /// There is something that is only in memory.
    unwritten: Notify,
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
    /// Opens the folder, with the jobs that an earlier life left there. What is no job is removed. Blocking.
    pub(crate) fn open(root: PathBuf, limits: SpoolLimits) -> io::Result<Self> {
        // What builds print is nobody else's to read, the build user's neither.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&root)?;
        let spool = Self {
            root,
            limits,
            held: Arc::default(),
            bell: Arc::default(),
            jobs: Lock::default(),
            removed: Notify::new(),
        };
        for entry in std::fs::read_dir(&spool.root)? {
            let entry = entry?;
            let path = entry.path();
            let Some(key) = entry.file_name().to_str().and_then(recover::key) else { continue };
            match recover::recover(&path, limits.tail()) {
                Ok(Some(recovered)) => drop(spool.insert(key, path, recovered.file, recovered.state)),
                // Cut off before its order was written: nobody was told that it was taken.
                Ok(None) => std::fs::remove_dir_all(&path)?,
                // The others go on without it.
                Err(error) => {
                    let aside = path.with_extension(UNREADABLE);
                    tracing::error!(
                        deployment.id = %key.0, folder = %aside.display(), %error,
                        "a job that the agent's former life left cannot be read; its folder is set aside: look at the disk, \
                         or bring back the agent's former version, then remove it"
                    );
                    std::fs::rename(&path, &aside)?;
                }
            }
        }
        Ok(spool)
    }

    /// A log for a job, with its order, of whose secrets only is kept that there are some: on disk when this returns. Blocking.
    pub(crate) fn create(&self, key: JobKey, spec: &JobSpec, has_secrets: bool) -> io::Result<JobLog> {
        let folder = self.root.join(format!("{}-{}", key.0, key.1));
        let made = || {
            std::fs::create_dir_all(&folder)?;
            let lines = folder.join("lines");
            let file = File::options().create(true).truncate(true).read(true).write(true).open(lines)?;
            let journal = Journal::create(&folder, spec.clone(), has_secrets)?;
            File::open(&self.root)?.sync_all()?;
            Ok((file, journal))
        };
        match made() {
            Ok((file, journal)) => Ok(self.insert(key, folder, file, State::new(journal))),
            Err(error) => {
                // A job that was not taken must not be found by the next life. What cannot be removed has no order in it.
                drop(std::fs::remove_dir_all(&folder));
                Err(error)
            }
        }
    }

    fn insert(&self, key: JobKey, folder: PathBuf, file: File, state: State) -> JobLog {
        let shared = (self.limits, self.held.clone(), self.bell.clone());
        let log = JobLog::new(key, folder, shared, file, state);
        self.jobs.lock().insert(key, log.clone());
        log
    }

    /// Writes down what waits in memory, each time a moment after it was said. Ends never.
    pub(crate) async fn keep_written(self: Arc<Self>) {
        loop {
            self.bell.unwritten.notified().await;
            tokio::time::sleep(WRITE_AFTER).await;
            self.write_down().await;
        }
    }

    /// Writes down what is in memory.
    pub(crate) async fn write_down(&self) {
        let logs = self.logs();
        let written = tokio::task::spawn_blocking(move || logs.iter().for_each(JobLog::write_down));
        drop(written.await);
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

    /// Returns when no log of a job that has ended is held any more.
    pub(crate) async fn delivered(&self) {
        loop {
            let removed = self.removed.notified();
            if !self.jobs.lock().values().any(JobLog::is_done) {
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
