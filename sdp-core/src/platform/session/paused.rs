//! Jobs whose lines cannot be stored for a while: the disk is full or read-only, a sync failed, no file handle is left.
//!
//! Nothing of such a job is acknowledged, and what its agent still sends of it is dropped: it keeps everything until the end,
//! and sends no more than its window without an acknowledgement. Each [`RETRY`] the logs' folder is tried with a small
//! file; when that can be written the agent is asked to send again from the end of the log. So nothing is buffered here, nothing is lost, and
//! other jobs and all control messages of the same connection go on.
//!
//! A job that is paused again and again though there is room (its own file is bad, say) is tried less and less often, at last each
//! [`SELDOM`], and after [`TRIES`] its deployment ends. While it is paused no deadline of it runs, that of a cancel neither.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::{End, Session};
use crate::id::DeploymentId;
use crate::logs::LogsError;
use crate::platform::input::Report;
use crate::wire::ToAgent;

const RETRY: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(32);
/// A job that was paused so often though there was room ends: some three minutes.
const TRIES: u32 = 10;

#[derive(Debug, Default)]
pub(super) struct Paused {
    jobs: Mutex<HashMap<DeploymentId, Pause>>,
    bell: Notify,
}

#[derive(Debug)]
struct Pause {
    attempt: u32,
    /// When it is tried next; none while it is being tried.
    until: Option<Instant>,
    wait: Duration,
    /// Lines that were held when it was asked for again.
    held: u64,
    /// How many times it was paused though there was room.
    tries: u32,
}

impl Paused {
    fn jobs(&self) -> MutexGuard<'_, HashMap<DeploymentId, Pause>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether lines of this job are not taken now.
    pub(super) fn has(&self, id: DeploymentId) -> bool {
        self.jobs().get(&id).is_some_and(|pause| pause.until.is_some())
    }

    /// So many of its lines are on disk: if they are more than before, all is well.
    pub(super) fn is_well(&self, id: DeploymentId, durable: u64) {
        let mut jobs = self.jobs();
        if jobs.get(&id).is_some_and(|pause| pause.until.is_none() && durable > pause.held) {
            jobs.remove(&id);
        }
    }

    fn resumed(&self, id: DeploymentId, held: u64) {
        if let Some(pause) = self.jobs().get_mut(&id) {
            pause.held = held;
        }
    }

    /// Whether it has just begun.
    fn begin(&self, id: DeploymentId, attempt: u32) -> bool {
        let mut jobs = self.jobs();
        let is_new = !jobs.contains_key(&id);
        let pause = jobs.entry(id).or_insert(Pause { attempt, until: None, wait: RETRY, held: 0, tries: 0 });
        if pause.until.is_none() {
            pause.attempt = attempt;
            pause.until = Some(Instant::now() + pause.wait);
            pause.wait = (pause.wait * 2).min(SELDOM);
            pause.tries += 1;
            self.bell.notify_one();
        }
        is_new
    }

    /// Those that wait.
    fn waiting(&self) -> Vec<(DeploymentId, u32)> {
        let waiting = |(id, pause): (&DeploymentId, &Pause)| pause.until.map(|_| (*id, pause.attempt));
        self.jobs().iter().filter_map(waiting).collect()
    }

    /// Whether its own log is to blame: it was paused again and again though there was room.
    fn is_hopeless(&self, id: DeploymentId) -> bool {
        self.jobs().get(&id).is_some_and(|pause| pause.tries >= TRIES)
    }

    /// Those that are due now; they are no longer paused, unless they are paused again.
    fn take_due(&self) -> Vec<(DeploymentId, u32)> {
        let now = Instant::now();
        let due = |(id, pause): (&DeploymentId, &mut Pause)| {
            pause.until.take_if(|until| *until <= now).map(|_| (*id, pause.attempt))
        };
        self.jobs().iter_mut().filter_map(due).collect()
    }

    /// As long as there is no room a job is not to blame.
    fn keep_trying(&self) {
        for pause in self.jobs().values_mut() {
            (pause.wait, pause.tries) = (RETRY, 0);
        }
    }
}

impl Session {
    pub(super) fn pause(&self, id: DeploymentId, attempt: u32, error: &LogsError) {
        let source = std::error::Error::source(error).map(ToString::to_string);
        if self.paused.begin(id, attempt) {
            tracing::error!(
                agent.name = %self.agent, deployment.id = %id, code = error.code(), %error, source,
                "lines cannot be stored now; they are asked for again when they can"
            );
        }
    }

    /// Asks for lines again once they can be stored. Returns when the connection is gone.
    pub(super) async fn resume(&self) {
        loop {
            self.paused.bell.notified().await;
            loop {
                let waiting = self.paused.waiting();
                if waiting.is_empty() {
                    break;
                }
                tokio::time::sleep(RETRY).await;
                let resumed = match self.logs.try_room().await {
                    Ok(()) => self.ask_again().await,
                    Err(error) => {
                        tracing::debug!(%error, "lines still cannot be stored");
                        self.paused.keep_trying();
                        self.stall(waiting).await
                    }
                };
                if resumed.is_err() {
                    return;
                }
            }
        }
    }

    async fn stall(&self, jobs: Vec<(DeploymentId, u32)>) -> Result<(), End> {
        for (deployment, _) in jobs {
            self.report(Report::Stalled { deployment }).await?;
        }
        Ok(())
    }

    async fn ask_again(&self) -> Result<(), End> {
        for (deployment, attempt) in self.paused.take_due() {
            if self.paused.is_hopeless(deployment) {
                let detail = format!("the server could not store its log, though it tried {TRIES} times");
                self.give_up(deployment, attempt, detail).await?;
                continue;
            }
            self.report(Report::Stalled { deployment }).await?;
            let held = match self.logs.held(deployment).await {
                Ok(held) => held,
                Err(error) => {
                    self.pause(deployment, attempt, &error);
                    continue;
                }
            };
            self.paused.resumed(deployment, held);
            let progress = self.jobs.with(deployment, |job| {
                job.lines = held;
                job.arrived
            });
            let Some(progress) = progress else { continue };
            tracing::info!(agent.name = %self.agent, deployment.id = %deployment, "lines can be stored again");
            self.tell(ToAgent::Rewind { deployment, attempt, lines: held, progress }).await?;
            self.jobs.mark(deployment);
        }
        Ok(())
    }
}
