//! One operation's reins: cancel, deadline, and the connection that has to be cut for either.
//!
//! The work is blocking and runs on a thread of its own; the async side holds the reins and awaits the thread. Cutting
//! the connections wakes a read that waits for a silent host; `Control::check` ends the parts that only compute.
//! What is not interrupted is a name lookup and a TCP connect; both are bounded by `connect_timeout`.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fault::Fault;

/// The longest deadline that is kept exactly; longer ones are cut to it.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// How an operation on a repository is watched by its caller.
#[derive(Clone)]
pub struct GitOp {
    /// Cancelling it ends the operation; the failure then says only that it was cancelled.
    pub stop: CancellationToken,
    /// How long the whole operation may take, waiting for its turn included.
    pub limit: Duration,
    /// Takes lines for people: what is being received, what the host says. Called on a thread that may block.
    pub on_line: Arc<dyn Fn(&str) + Send + Sync>,
}

impl std::fmt::Debug for GitOp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GitOp").field("limit", &self.limit).finish_non_exhaustive()
    }
}

const RUNNING: u8 = 0;
const CANCELLED: u8 = 1;
const DEADLINE: u8 = 2;

pub(super) struct Control {
    state: AtomicU8,
    agent: Mutex<Option<ureq::Agent>>,
    on_line: Arc<dyn Fn(&str) + Send + Sync>,
}

impl Control {
    /// Ok while the operation may go on.
    pub(super) fn check(&self) -> Result<(), Fault> {
        match self.state.load(Ordering::Acquire) {
            RUNNING => Ok(()),
            CANCELLED => Err(Fault::Cancelled),
            _ => Err(Fault::Deadline),
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.state.load(Ordering::Acquire) == RUNNING
    }

    /// Has this agent's connections cut when the operation is to end.
    pub(super) fn watch(&self, agent: &ureq::Agent) -> Result<(), Fault> {
        *self.agent.lock().unwrap_or_else(PoisonError::into_inner) = Some(agent.clone());
        // `end` sets the state first and cuts then: one of the two sees the other.
        self.check()
    }

    pub(super) fn line(&self, line: &str) {
        (self.on_line)(line);
    }

    /// The first reason stays.
    fn end(&self, why: u8) {
        if self.state.compare_exchange(RUNNING, why, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            let agent = self.agent.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(agent) = agent {
                agent.shutdown();
            }
        }
    }
}

/// An operation under way; dropping it cancels the work.
pub(super) struct Running {
    control: Arc<Control>,
    stop: CancellationToken,
    until: Instant,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.control.end(CANCELLED);
    }
}

impl Running {
    pub(super) fn begin(op: &GitOp) -> Self {
        let control =
            Control { state: AtomicU8::new(RUNNING), agent: Mutex::new(None), on_line: op.on_line.clone() };
        Self {
            control: Arc::new(control),
            stop: op.stop.clone(),
            until: Instant::now() + op.limit.min(LONGEST),
        }
    }

    /// Waits for something that holds nothing when it is dropped.
    pub(super) async fn wait<T>(&self, what: impl Future<Output = T>) -> Result<T, Fault> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Fault::Cancelled),
            value = what => Ok(value),
            () = tokio::time::sleep_until(self.until) => Err(Fault::Deadline),
        }
    }

    /// Runs blocking work and returns when its thread has ended, also after a cancel.
    pub(super) async fn block<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Control) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        if self.stop.is_cancelled() {
            self.control.end(CANCELLED);
        }
        self.control.check()?;
        let control = self.control.clone();
        let mut task = tokio::task::spawn_blocking(move || work(&control));
        let ended = loop {
            tokio::select! {
                biased;
                ended = &mut task => break ended,
                () = self.stop.cancelled(), if self.control.is_running() => self.control.end(CANCELLED),
                () = tokio::time::sleep_until(self.until), if self.control.is_running() => self.control.end(DEADLINE),
            }
        };
        match ended {
            Ok(Ok(value)) => Ok(value),
            // A cut connection shows as some error of the network; the reason is ours.
            Ok(Err(fault)) => Err(self.control.check().err().unwrap_or(fault)),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is going down: what would follow from an error here must not be done.
                Err(_) => std::future::pending().await,
            },
        }
    }
}
