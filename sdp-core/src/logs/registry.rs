//! Which logs are in use. A log stays in the registry while somebody works on it or listens to its bell; its files are
//! closed, least recently used first, when more than `max_open` logs have open files. Logs that have lines which are
//! not on disk yet keep theirs, so the number of deployments that run at once may exceed it for a while.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::file::{Log, held_on_disk};
use crate::id::DeploymentId;

/// So many logs may be known without open files and without a listener before the registry forgets them.
const IDLE: usize = 1024;

pub(super) struct Registry {
    dir: PathBuf,
    max_open: usize,
    clock: AtomicU64,
    open: Arc<AtomicUsize>,
    logs: Mutex<HashMap<DeploymentId, Arc<Log>>>,
}

impl Registry {
    pub(super) fn new(dir: PathBuf, max_open: usize) -> Self {
        Self { dir, max_open, clock: AtomicU64::new(0), open: Arc::default(), logs: Mutex::default() }
    }

    fn logs(&self) -> MutexGuard<'_, HashMap<DeploymentId, Arc<Log>>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log, made known if it was not.
    pub(super) fn log(&self, id: DeploymentId) -> Arc<Log> {
        let mut logs = self.logs();
        let log = match logs.get(&id) {
            Some(log) => Arc::clone(log),
            None => {
                if logs.len() >= self.max_open + IDLE {
                    logs.retain(|_, log| in_use(log) || !log.is_idle());
                }
                let log = Arc::new(Log::new(&self.dir, id, &self.open));
                logs.insert(id, Arc::clone(&log));
                log
            }
        };
        log.used.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        log
    }

    /// Lines held, as far as that can be told without opening anything.
    pub(super) fn lines(&self, id: DeploymentId) -> u64 {
        let known = self.logs().get(&id).map(|log| *log.bell.borrow());
        known.unwrap_or_else(|| held_on_disk(&self.dir, id))
    }

    /// How many logs have open files.
    pub(super) fn open_files(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Closes files until no more than `max_open` logs have some. Blocks; called after a log was opened.
    pub(super) fn close_oldest(&self) {
        let surplus = self.open_files().saturating_sub(self.max_open);
        if surplus == 0 {
            return;
        }
        let mut logs: Vec<(u64, Arc<Log>)> =
            self.logs().values().map(|log| (log.used.load(Ordering::Relaxed), Arc::clone(log))).collect();
        logs.sort_by_key(|(used, _)| *used);
        let closed = logs.iter().filter(|(_, log)| log.release()).take(surplus).count();
        tracing::trace!(logs.closed = closed, "log files closed");
    }

    /// Forgets a log that nobody else holds or listens to.
    pub(super) fn forget(&self, log: Arc<Log>) {
        let mut logs = self.logs();
        let id = log.id;
        drop(log);
        if logs.get(&id).is_some_and(|log| !in_use(log)) {
            logs.remove(&id);
        }
    }
}

fn in_use(log: &Arc<Log>) -> bool {
    Arc::strong_count(log) > 1 || log.bell.receiver_count() > 0
}
