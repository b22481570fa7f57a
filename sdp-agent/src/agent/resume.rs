//! The jobs that the agent's former life left: those that can go on do so at once, whether or not the server is there; those whose
//! order must come again wait for it ([`crate::job`] says which); those that had ended wait to be delivered.

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
            Left::Goes(begin) => goes.push((log, begin)),
        }
        tracing::info!(deployment.id = %deployment, attempt, "the agent's former life left a job");
    }
    goes
}

impl Agent {
    pub(super) fn go_on_with_what_was_left(self: &Arc<Self>) {
        for (log, begin) in std::mem::take(&mut *self.left.lock()) {
            self.go_on(log, begin);
        }
    }

    fn go_on(self: &Arc<Self>, log: JobLog, begin: Begin) -> bool {
        let (deployment, attempt) = log.key();
        let order = Order { deployment, attempt, spec: log.spec(), credential: None };
        self.start_job(order, begin, log, None)
    }

    /// Begins an interrupted job again, now that its order is there again. False: the agent takes no more work.
    pub(super) async fn begin_again(self: &Arc<Self>, order: Order, log: JobLog) -> bool {
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

    /// Ends an interrupted job as cancelled, if it is one.
    pub(super) fn cancel_interrupted(self: &Arc<Self>, key: JobKey) {
        if let Some(log) = self.spool.find(key).filter(JobLog::take_interrupted) {
            self.go_on(log, Begin::Over(Halt::Stopped));
        }
    }
}
