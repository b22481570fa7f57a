//! The jobs that the agent's former life left: those that can go on do so with the first welcome, those whose order must come
//! again wait for it ([`crate::job`] says which), those that had ended wait to be delivered.
//!
//! With the welcome, not before it: only the server knows whether it has more of a log than this machine kept over a power cut,
//! and what is said next must come behind that.

use std::sync::Arc;

use super::{Agent, JobLog};
use crate::job::{Begin, Halt, Left, Order, left};
use crate::spool::{JobKey, Spool};
use crate::tools::Tools;

/// Decides for each job, and reserves the builds that they go on with.
pub(super) async fn decide(tools: &Tools, spool: &Spool) -> Vec<(JobLog, Begin)> {
    let mut goes = Vec::new();
    for log in spool.logs().into_iter().filter(|log| !log.is_done()) {
        let (deployment, attempt) = log.key();
        match left(tools, &log).await {
            Left::Interrupted => log.interrupt(),
            Left::Waits(begin) => {
                log.interrupt();
                goes.push((log, begin));
            }
            Left::Goes(begin) => goes.push((log, begin)),
        }
        tracing::info!(deployment.id = %deployment, attempt, "the agent's former life left a job");
    }
    goes
}

impl Agent {
    /// Takes a job that waits for the first welcome out of those.
    fn take_left(&self, key: JobKey) -> Option<(JobLog, Begin)> {
        let mut left = self.left.lock();
        let at = left.iter().position(|(log, _)| log.key() == key)?;
        Some(left.swap_remove(at))
    }

    /// The server wants to hear the rest of a job.
    pub(super) fn go_on_with(self: &Arc<Self>, key: JobKey) {
        if self.spool.find(key).is_some_and(|log| log.is_interrupted()) {
            return;
        }
        if let Some((log, begin)) = self.take_left(key) {
            self.go_on(log, begin);
        }
    }

    /// The server has done with a job that had not gone on. What it may have started is the server's to decide on its own.
    pub(super) fn forget_left(self: &Arc<Self>, key: JobKey) {
        if let Some((log, _)) = self.take_left(key) {
            let (agent, instance) = (self.clone(), log.spec().instance);
            self.tasks.spawn(async move {
                if !agent.tools.runtime.reports().iter().any(|known| known.instance == instance) {
                    agent.tools.release(instance).await;
                }
            });
        }
    }

    fn go_on(self: &Arc<Self>, log: JobLog, begin: Begin) -> bool {
        let (deployment, attempt) = log.key();
        let order = Order { deployment, attempt, spec: log.spec(), credential: None, secrets: Vec::new() };
        self.start_job(order, begin, log, None)
    }

    /// Begins an interrupted job again, now that its order is there again, or goes on with it. False: the agent takes no more work.
    pub(super) async fn begin_again(self: &Arc<Self>, order: Order, log: JobLog) -> bool {
        if let Some((_, begin)) = self.take_left(log.key()) {
            let order = Order { spec: log.spec(), ..order };
            // An agent that takes no more work ends: the next one decides anew.
            return self.start_job(order, begin, log, None);
        }
        let counted = log.clone();
        let counted = tokio::task::spawn_blocking(move || counted.begin_again()).await;
        if let Ok(Err(error)) = counted {
            tracing::warn!(deployment.id = %order.deployment, %error, "failed to count another beginning of a job");
        }
        let begun = self.start_job(order, Begin::Again, log.clone(), None);
        if !begun {
            log.interrupt();
        }
        begun
    }

    /// Ends a job that is not at work as cancelled, if it is one.
    pub(super) fn cancel_waiting(self: &Arc<Self>, key: JobKey) {
        let interrupted = self.spool.find(key).filter(JobLog::take_interrupted);
        if let Some(log) = self.take_left(key).map(|(log, _)| log).or(interrupted) {
            self.go_on(log, Begin::Over(Halt::Stopped));
        }
    }
}
