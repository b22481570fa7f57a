//! Group sync: one pass brings every deployment's new lines to disk, and everybody who waits is served by it.
//!
//! Passes are run by a task of their own that begins with the first waiter and ends with the last one, so a waiter that
//! is dropped, or not polled for a while, holds up nobody. Who comes while a pass runs waits for the next one. Two kinds
//! of waiters:
//! - **prompt**: something else waits for these lines (a progress item, an outcome). The pass starts at once, or when the
//!   running one is over: at most two sync times.
//! - **patient**: an acknowledgement that only lets the agent cut its spool. The pass starts `window` after the one
//!   before it, at once if that is over already, or when `window_bytes` are waiting; so a noisy build costs a bounded
//!   number of syncs.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::file::Log;
use super::{LogsError, blocking};
use crate::id::DeploymentId;

/// So many logs are synced at the same time: file systems merge what is asked together into one commit.
const ABREAST: usize = 8;

pub(super) struct Sync {
    shared: Arc<Shared>,
    /// The task that runs passes, if one is under way; it ends with the logs.
    task: Mutex<JoinSet<()>>,
}

struct Shared {
    window: Duration,
    window_bytes: u64,
    waiting: Mutex<Waiting>,
    due: Notify,
    /// How many passes are over.
    passes: watch::Sender<u64>,
}

/// What the next pass is for.
#[derive(Default)]
struct Waiting {
    logs: HashMap<DeploymentId, Arc<Log>>,
    bytes: u64,
    /// Somebody waits …
    asked: bool,
    /// … and has no patience.
    prompt: bool,
    /// A task runs passes until nobody waits.
    running: bool,
    last_pass: Option<Instant>,
}

impl Sync {
    pub(super) fn new(window: Duration, window_bytes: u64) -> Self {
        let shared = Shared {
            window,
            window_bytes,
            waiting: Mutex::default(),
            due: Notify::new(),
            passes: watch::Sender::default(),
        };
        Self { shared: Arc::new(shared), task: Mutex::default() }
    }

    /// The log has grown.
    pub(super) fn grown(&self, log: &Arc<Log>, bytes: u64) {
        let mut waiting = self.shared.waiting();
        waiting.logs.entry(log.id).or_insert_with(|| Arc::clone(log));
        waiting.bytes += bytes;
        if waiting.bytes >= self.shared.window_bytes {
            self.shared.due.notify_waiters();
        }
    }

    /// Lines and bytes that were appended since the last pass began, and are not on disk yet.
    pub(super) fn waiting(&self) -> (u64, u64) {
        let waiting = self.shared.waiting();
        let lines = waiting.logs.values().filter(|log| log.is_known()).map(|log| {
            let held = *log.bell.borrow();
            held.saturating_sub(log.durable.load(Ordering::Acquire))
        });
        (lines.sum(), waiting.bytes)
    }

    /// The log needs no sync any more.
    pub(super) fn forget(&self, id: DeploymentId) {
        self.shared.waiting().logs.remove(&id);
    }

    /// Waits until lines up to `line` are on disk, if they are held.
    pub(super) async fn durable(&self, log: &Arc<Log>, line: u64, prompt: bool) -> Result<u64, LogsError> {
        let failures = log.sync_failures.load(Ordering::Acquire);
        loop {
            let durable = log.durable.load(Ordering::Acquire);
            if durable >= line {
                return Ok(durable);
            }
            if log.sync_failures.load(Ordering::Acquire) != failures {
                return Err(LogsError::NotSynced);
            }
            if durable >= *log.bell.borrow() {
                return Ok(durable);
            }
            let mut passes = self.shared.passes.subscribe();
            self.ask(log, prompt);
            // It cannot be closed: this holds its sender.
            drop(passes.changed().await);
        }
    }

    fn ask(&self, log: &Arc<Log>, prompt: bool) {
        let mut waiting = self.shared.waiting();
        waiting.logs.entry(log.id).or_insert_with(|| Arc::clone(log));
        waiting.asked = true;
        waiting.prompt |= prompt;
        if prompt {
            self.shared.due.notify_waiters();
        }
        if !waiting.running {
            waiting.running = true;
            let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
            while task.try_join_next().is_some() {}
            task.spawn(run(Running(Arc::clone(&self.shared))));
        }
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn until_due(&self) {
        let mut due = std::pin::pin!(self.due.notified());
        due.as_mut().enable();
        let at = {
            let waiting = self.waiting();
            if waiting.prompt || waiting.bytes >= self.window_bytes {
                return;
            }
            match waiting.last_pass {
                Some(last) => last + self.window,
                None => return,
            }
        };
        tokio::select! {
            () = due => {}
            () = tokio::time::sleep_until(at) => {}
        }
    }
}

/// Held by the task: however it ends, those who wait learn of it, and may start another.
struct Running(Arc<Shared>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.waiting().running = false;
        self.0.passes.send_modify(|passes| *passes += 1);
    }
}

/// Runs passes until nobody waits.
async fn run(running: Running) {
    let shared = &running.0;
    loop {
        shared.until_due().await;
        let logs = {
            let mut waiting = shared.waiting();
            if !waiting.asked {
                // Who asks before `running` is dropped is woken by that, and asks again.
                break;
            }
            (waiting.bytes, waiting.asked, waiting.prompt) = (0, false, false);
            waiting.last_pass = Some(Instant::now());
            std::mem::take(&mut waiting.logs)
        };
        pass(logs.into_values()).await;
        shared.passes.send_modify(|passes| *passes += 1);
    }
}

/// Syncs them all. Failures are told here, once for all who wait.
async fn pass(logs: impl Iterator<Item = Arc<Log>>) {
    let mut logs = logs.fuse();
    let mut running = JoinSet::new();
    loop {
        while running.len() < ABREAST
            && let Some(log) = logs.next()
        {
            running.spawn(async move {
                let id = log.id;
                if let Err(error) = blocking(move || log.sync()).await {
                    let source = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(deployment.id = %id, error = %error, source, "job log could not be synced");
                }
            });
        }
        if running.join_next().await.is_none() {
            return;
        }
    }
}
