//! The job logs: what builds print, kept line by line in files beside the database.
//!
//! The link appends what agents send, pages and REST read windows of it, a bell says when there is more. Each deployment
//! has two append-only files: `<id>.log` with the lines as printed (grep it, `tail -f` it), and `<id>.idx` with a
//! fixed-width record per line (where it ends, time, step, stream), so that any line is one seek away.
//!
//! ```text
//! append ──▶ held: readable at once, the bell rings ──▶ durable: on disk, may be acknowledged
//!               │ truncate_to, a failed sync                │ truncate_to
//!               ▼                                           ▼
//!            fewer lines; the sender sends them again
//! ```
//! The invariant: **the file's length is the offset the server owns**. Lines are numbered from 1 without a gap; what is
//! durable never goes away by itself; a line that was whole in the log is there after any crash.
//!
//! What a torn end becomes, when a log is next opened:
//! - **the log, cut at any byte**: its whole lines stay, the incomplete one goes. If some of them had been acknowledged, their sender
//!   is told where the log ends by the next welcome, and sends them again: it keeps everything until the deployment's end.
//! - **the index, cut, overwritten, or missing**: made again from the log; a line without a record gets the file's time and the step of
//!   the line before it.
//! - **the log missing**: there are no lines; an index that is left counts for nothing.
//!
//! Limits ([`LogsConfig`]): open files (least recently used ones are closed), lines and bytes of a window, searches and
//! their matches, how long and how much a patient sync gathers. On a full disk nothing is half written: the append fails with
//! [`LogsError::DiskFull`] and can be made again later. All file work is done on blocking threads.
//!
//! One process at a time: whoever opens the folder owns it.

mod copy;
mod file;
mod record;
mod recover;
mod registry;
mod search;
mod shown;
mod sync;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};

use crate::deployment::Step;
use crate::id::DeploymentId;
use crate::wire::lines::Stream;
use crate::wire::{LinesBatch, MAX_FRAME};
pub(crate) use copy::{copy, verify};
use file::{Log, Range};
use registry::Registry;
use search::StopOnDrop;
use sync::Sync;

pub use search::{Direction, Found, InvalidSearchText, LogSearch, Match, SearchText};

/// The limits of the job logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogsConfig {
    /// So many logs have open files at most (two each), beside those with lines that are not on disk yet.
    pub max_open: usize,
    /// So many lines a window or tail has at most.
    pub window_lines: u64,
    /// So many bytes a window or tail has at most; it has at least one line in any case.
    pub window_bytes: u64,
    /// A patient sync begins at most so many milliseconds after the one before it …
    pub sync_window_ms: u64,
    /// … or when so many bytes wait.
    pub sync_bytes: u64,
    /// So many searches run at a time at most; others wait for their turn.
    pub searches: usize,
    /// So many matching lines a search lists at most.
    pub search_matches: usize,
}

impl Default for LogsConfig {
    fn default() -> Self {
        Self {
            max_open: 256,
            window_lines: 10_000,
            window_bytes: 4 * 1024 * 1024,
            sync_window_ms: 50,
            sync_bytes: 256 * 1024,
            searches: 4,
            search_matches: 1000,
        }
    }
}

/// Why the logs could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogsError {
    /// The disk (or the quota) is full. What was held before is untouched; the same can be asked again later.
    #[error("the disk with the job logs is full")]
    DiskFull {
        /// What the system said.
        source: io::Error,
    },
    /// The file system refused something.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What was not on disk yet could not be brought there and was dropped; the sender still has it.
    #[error("job log lines could not be brought to disk")]
    NotSynced,
    /// A batch that no agent of ours sends.
    #[error("malformed batch of lines: {0}")]
    Malformed(&'static str),
    /// The process is about to end.
    #[error("the process is shutting down")]
    ShuttingDown,
}

impl LogsError {
    /// Stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::DiskFull { .. } => "disk_full",
            Self::Io { .. } => "log_io",
            Self::NotSynced => "log_not_synced",
            Self::Malformed(_) => "malformed_batch",
            Self::ShuttingDown => "shutting_down",
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::DiskFull { .. } => "free space on the server; nothing is lost, agents send again",
            Self::Io { .. } | Self::NotSynced => "check the data folder's disk and its permissions",
            Self::Malformed(_) => "update the agent to the server's version",
            Self::ShuttingDown => "ask again when the server is back",
        }
    }

    /// Whether the same can be done later, unchanged: there is no room, the file system is read-only, or the system has no
    /// handles or memory left.
    pub(crate) fn may_pass(&self) -> bool {
        use rustix::io::Errno;
        match self {
            Self::DiskFull { .. } => true,
            Self::Io { source, .. } => {
                source.kind() == io::ErrorKind::ReadOnlyFilesystem
                    || [Errno::MFILE, Errno::NFILE, Errno::NOMEM]
                        .iter()
                        .any(|errno| source.raw_os_error() == Some(errno.raw_os_error()))
            }
            Self::NotSynced | Self::Malformed(_) | Self::ShuttingDown => false,
        }
    }

    fn from_io(action: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { source },
            _ => Self::Io { action, path: path.to_owned(), source },
        }
    }
}

/// What became of a batch. `last` is the number of lines held now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Appended {
    /// Its new part was added: readable at once, on disk after [`Logs::durable`].
    Added {
        /// Lines held.
        last: u64,
    },
    /// It had nothing new.
    Duplicate {
        /// Lines held.
        last: u64,
    },
    /// Lines are missing before it; nothing was added.
    Gap {
        /// Lines held.
        last: u64,
    },
}

impl Appended {
    /// Lines held now.
    #[must_use]
    pub fn last(self) -> u64 {
        match self {
            Self::Added { last } | Self::Duplicate { last } | Self::Gap { last } => last,
        }
    }
}

/// A line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number, from 1.
    pub n: u64,
    /// When it was printed, in milliseconds since 1970.
    pub at_ms: i64,
    /// In which step.
    pub step: Step,
    /// By whom.
    pub stream: Stream,
    /// As printed (after redaction), without the line feed; not always UTF-8.
    pub bytes: Bytes,
}

/// A log as it lies on disk.
#[derive(Debug)]
pub struct RawLog {
    /// A handle of its own, at the beginning; none if nothing was printed yet.
    pub file: Option<File>,
    /// How many bytes of it are whole lines now. It may grow while it is read: stop here.
    pub bytes: u64,
}

/// What a log adds up to, to compare with what the agent sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogTotals {
    /// Lines held.
    pub lines: u64,
    /// Their bytes, each line with its line feed.
    pub bytes: u64,
    /// CRC-32 (IEEE) over those bytes.
    pub checksum: u32,
}

/// All job logs of a server. Clones are the same logs.
///
/// ```
/// use bytes::Bytes;
/// use sdp_core::deployment::Step;
/// use sdp_core::id::DeploymentId;
/// use sdp_core::logs::{Appended, Logs, LogsConfig};
/// use sdp_core::wire::LinesBatch;
/// use sdp_core::wire::lines::{LineMeta, Stream};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// let logs = Logs::open(dir.path().join("logs"), LogsConfig::default())?;
/// let deployment = DeploymentId::new();
/// let meta = LineMeta { length: 5, at_ms: 0, step: Step::Build, stream: Stream::Stdout };
/// let batch = LinesBatch {
///     deployment,
///     attempt: 1,
///     first: 1,
///     lines: vec![meta; 2],
///     bytes: Bytes::from_static(b"hellothere"),
/// };
/// assert_eq!(logs.append(batch).await?, Appended::Added { last: 2 });
/// assert_eq!(logs.durable(deployment, 2).await?, 2);
/// assert_eq!(logs.tail(deployment, 1).await?[0].bytes, "there");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Logs {
    inner: Arc<Inner>,
}

/// Counts and levels of all job logs together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogStats {
    /// Lines that were stored since the start.
    pub lines: u64,
    /// Their bytes, each line with its line feed.
    pub bytes: u64,
    /// Lines that are held but not known to be on disk.
    pub unsynced_lines: u64,
    /// Bytes, those of the index included, that wait for the next sync.
    pub unsynced_bytes: u64,
    /// Logs with open files.
    pub open: u64,
}

struct Inner {
    dir: PathBuf,
    /// Lines and bytes stored.
    stored: [AtomicU64; 2],
    config: LogsConfig,
    registry: Registry,
    sync: Sync,
    searches: Arc<Semaphore>,
}

impl std::fmt::Debug for Logs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Logs").field("dir", &self.inner.dir).finish_non_exhaustive()
    }
}

impl Logs {
    /// Takes the folder into use and makes it if need be. Logs are opened and mended when they are first asked for, so
    /// this costs the same however many there are. Blocks for a moment; called at start.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(dir: impl Into<PathBuf>, config: LogsConfig) -> Result<Self, LogsError> {
        let dir = dir.into();
        std::fs::create_dir_all(&dir).map_err(|error| LogsError::from_io("create", &dir, error))?;
        let registry = Registry::new(dir.clone(), config.max_open);
        let sync = Sync::new(Duration::from_millis(config.sync_window_ms), config.sync_bytes);
        let searches = Arc::new(Semaphore::new(config.searches.clamp(1, Semaphore::MAX_PERMITS)));
        Ok(Self {
            inner: Arc::new(Inner { dir, stored: Default::default(), config, registry, sync, searches }),
        })
    }

    /// Adds what is new in the batch. It can be read at once, but is not on disk yet: acknowledge it only after
    /// [`durable`](Self::durable) or [`durable_soon`](Self::durable_soon).
    ///
    /// Batches of one deployment are given one after the other. A deployment has one log: whoever starts another
    /// attempt truncates it to 0 first.
    ///
    /// # Errors
    /// [`LogsError::DiskFull`] and others; then nothing of the batch was added.
    pub async fn append(&self, batch: LinesBatch) -> Result<Appended, LogsError> {
        self.on(batch.deployment, move |log, inner| {
            let before = *log.bell.borrow();
            let (appended, grown) = log.append(&batch)?;
            if grown > 0 {
                inner.sync.grown(log, grown);
                let lines = appended.last().saturating_sub(before);
                let bytes = grown.saturating_sub(lines * record::WIDTH);
                inner.stored[0].fetch_add(lines, Ordering::Relaxed);
                inner.stored[1].fetch_add(bytes, Ordering::Relaxed);
            }
            Ok(appended)
        })
        .await
    }

    /// Waits until all lines up to `line`, if they are held, are on disk, and returns how many are. It starts at once:
    /// for when something else waits for these lines, such as a progress item. One pass serves all who wait.
    ///
    /// # Errors
    /// [`LogsError::NotSynced`]: they could not be brought to disk. Those that never were are dropped and the next append
    /// is answered with a gap, because nobody can say whether the kernel still has them.
    pub async fn durable(&self, id: DeploymentId, line: u64) -> Result<u64, LogsError> {
        let log = self.opened(id).await?;
        self.inner.sync.durable(&log, line, true).await
    }

    /// Like [`durable`](Self::durable), but patient: at once when nothing was synced lately, else up to the sync window
    /// later. For plain acknowledgements.
    ///
    /// # Errors
    /// As with [`durable`](Self::durable).
    pub async fn durable_soon(&self, id: DeploymentId, line: u64) -> Result<u64, LogsError> {
        let log = self.opened(id).await?;
        self.inner.sync.durable(&log, line, false).await
    }

    /// Lines held now; 0 if nothing is known of the deployment. For a log that this process has not opened yet it is
    /// what the index's length says, which may differ from [`held`](Self::held) after an unclean end.
    #[must_use]
    pub fn lines(&self, id: DeploymentId) -> u64 {
        self.inner.registry.lines(id)
    }

    /// Lines held, after opening and mending the log if that was not done yet.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn held(&self, id: DeploymentId) -> Result<u64, LogsError> {
        self.on(id, |log, _| log.held()).await
    }

    /// Up to `limit` lines from line `from` (the first is 1), bounded by [`LogsConfig::window_lines`] and
    /// [`LogsConfig::window_bytes`] too; at least one if there is one. Empty: there is no such line yet.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub async fn window(&self, id: DeploymentId, from: u64, limit: usize) -> Result<Vec<Line>, LogsError> {
        let count = self.bounded(limit);
        self.read(id, Range::From { first: from, count }).await
    }

    /// The last `n` lines, oldest first, bounded like a window.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub async fn tail(&self, id: DeploymentId, n: usize) -> Result<Vec<Line>, LogsError> {
        let count = self.bounded(n);
        self.read(id, Range::Last { count }).await
    }

    /// Which lines contain a text, as the log page shows them, and how many there are in all; see [`LogSearch`] and
    /// [`Found`]. Exact for the lines that are held when it begins, and no matter to those who append meanwhile. It
    /// waits while [`LogsConfig::searches`] others run, and stops when it is dropped.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub async fn search(&self, id: DeploymentId, mut search: LogSearch) -> Result<Found, LogsError> {
        search.limit = search.limit.min(self.inner.config.search_matches);
        let turn = Arc::clone(&self.inner.searches).acquire_owned().await;
        let turn = turn.map_err(|_| LogsError::ShuttingDown)?;
        let stop = Arc::new(AtomicBool::new(false));
        let _stop = StopOnDrop(Arc::clone(&stop));
        self.on(id, move |log, _| {
            let _turn = turn;
            log.search(&search, &stop)
        })
        .await
    }

    /// The whole lines held now, as bytes.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub async fn raw(&self, id: DeploymentId) -> Result<RawLog, LogsError> {
        self.on(id, |log, _| log.raw().map(|(file, bytes)| RawLog { file, bytes })).await
    }

    /// A bell that shows how many lines are held and wakes when that changes. It may go down: after a truncation, and
    /// when a log that was mended is first opened.
    #[must_use]
    pub fn watch(&self, id: DeploymentId) -> watch::Receiver<u64> {
        self.inner.registry.log(id).bell.subscribe()
    }

    /// Counts and checksum of what is held. Kept while the log grows; after a restart the file is read once.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn totals(&self, id: DeploymentId) -> Result<LogTotals, LogsError> {
        self.on(id, |log, _| log.totals()).await
    }

    /// Drops everything after line `lines`, durable or not; nothing if no more are held.
    ///
    /// # Errors
    /// When the files cannot be cut.
    pub async fn truncate_to(&self, id: DeploymentId, lines: u64) -> Result<(), LogsError> {
        self.on(id, move |log, _| log.truncate_to(lines)).await
    }

    /// The deployment has ended: brings its log to disk and gives its file handles back. Reading opens it again.
    ///
    /// # Errors
    /// When it cannot be brought to disk.
    pub async fn close(&self, id: DeploymentId) -> Result<(), LogsError> {
        let log = self.opened(id).await?;
        self.inner.sync.durable(&log, u64::MAX, true).await?;
        log.release();
        self.inner.sync.forget(id);
        self.inner.registry.forget(log);
        Ok(())
    }

    /// Deletes the log. Those who still read it read on; its bell falls to 0.
    ///
    /// # Errors
    /// When the files cannot be deleted.
    pub async fn remove(&self, id: DeploymentId) -> Result<(), LogsError> {
        self.on(id, |log, inner| {
            log.remove()?;
            inner.sync.forget(log.id);
            Ok(())
        })
        .await?;
        self.inner.registry.forget(self.inner.registry.log(id));
        Ok(())
    }

    /// Counts and levels of all logs.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        let (unsynced_lines, unsynced_bytes) = self.inner.sync.waiting();
        let [lines, bytes] = [0, 1].map(|which| self.inner.stored[which].load(Ordering::Relaxed));
        LogStats {
            lines,
            bytes,
            unsynced_lines,
            unsynced_bytes,
            open: self.inner.registry.open_files() as u64,
        }
    }

    /// Whether a file can be made and written in the folder of the logs.
    ///
    /// # Errors
    /// What the system says.
    pub async fn can_write(&self) -> Result<(), LogsError> {
        let path = self.inner.dir.join(".probe");
        blocking(move || {
            let failed = |error| LogsError::from_io("write", &path, error);
            std::fs::write(&path, "SDP looks whether it can write here\n").map_err(failed)?;
            std::fs::remove_file(&path).map_err(failed)
        })
        .await
    }

    /// Free bytes on the disk with the logs, as far as this user may use them. One system call that does not wait.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(&self.inner.dir)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Whether a batch could be stored now: a file of the largest batch's size is written and removed.
    ///
    /// # Errors
    /// Why not.
    pub async fn try_room(&self) -> Result<(), LogsError> {
        let path = self.inner.dir.join(format!("room-{}", uuid::Uuid::new_v4()));
        blocking(move || {
            let tried = std::fs::write(&path, vec![0; MAX_FRAME]);
            drop(std::fs::remove_file(&path));
            tried.map_err(|error| LogsError::from_io("write", &path, error))
        })
        .await
    }

    fn bounded(&self, limit: usize) -> u64 {
        self.inner.config.window_lines.min(limit as u64)
    }

    async fn read(&self, id: DeploymentId, range: Range) -> Result<Vec<Line>, LogsError> {
        self.on(id, move |log, inner| log.read(range, inner.config.window_bytes)).await
    }

    /// The log, opened, so that its bell tells the truth.
    async fn opened(&self, id: DeploymentId) -> Result<Arc<Log>, LogsError> {
        let log = self.inner.registry.log(id);
        if !log.is_known() {
            self.on(id, |log, _| log.held()).await?;
        }
        Ok(log)
    }

    async fn on<T: Send + 'static>(
        &self,
        id: DeploymentId,
        work: impl FnOnce(&Arc<Log>, &Inner) -> Result<T, LogsError> + Send + 'static,
    ) -> Result<T, LogsError> {
        let log = self.inner.registry.log(id);
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let result = work(&log, &inner);
            inner.registry.close_oldest();
            result
        })
        .await
    }
}

/// File work, off the runtime's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogsError> + Send + 'static,
) -> Result<T, LogsError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Err(LogsError::ShuttingDown),
    })
}
