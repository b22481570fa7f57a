//! The steps of a job that the agent's former life left, from where it was.

use sdp_core::deployment::Step;
use sdp_core::failure::FailureReason;
use sdp_core::wire::{InstanceStatus, Progress};
use tokio::time::Instant;

use super::{Halt, Resumed, Steps, seconds};

impl Steps<'_> {
    /// Goes on where the agent's former life left it.
    pub(super) async fn go_on(&mut self, resumed: Resumed) -> Result<(), Halt> {
        let Resumed { step, commit, run, started } = resumed;
        (self.undo.step, self.undo.instance) = (Some(step), true);
        let owner = self.tools.build_of(self.order.spec.instance).await;
        self.undo.workspace = owner == Some(self.order.deployment);
        self.note("the agent was restarted; it goes on where it was");
        if step == Step::Build {
            self.take_secrets().await?;
            self.start(&commit, run).await?;
            return self.check().await;
        }
        let until = Instant::now() + seconds(self.order.spec.step_limits.start);
        self.until_runtime_knows(until).await?;
        let instance = self.order.spec.instance;
        let known = self.tools.runtime.reports().into_iter().find(|known| known.instance == instance);
        let address = match known.map(|known| known.status) {
            Some(InstanceStatus::Running { address, .. }) => Some(address),
            // The check says how it ended.
            Some(_) => started,
            None if started.is_none() && self.order.spec.release.is_some() => {
                let detail =
                    "the agent ended while the release command may have run; it is not run twice unasked";
                return Err(Halt::failed(Step::Start, FailureReason::AgentRestarted, detail));
            }
            None => {
                self.take_secrets().await?;
                let start = self.start_spec(&commit, run).await;
                Some(self.launch(start, until).await?)
            }
        };
        if let Some(address) = address.filter(|address| started != Some(*address)) {
            self.log.progress(Progress::Started { address });
        }
        if step == Step::Start {
            return self.check().await;
        }
        self.until_healthy().await
    }

    /// Returns when the runtime can say what runs.
    async fn until_runtime_knows(&self, until: Instant) -> Result<(), Halt> {
        let runtime = &self.tools.runtime;
        let mut seen = 0;
        while let Some(why) = runtime.degraded() {
            tokio::select! {
                () = runtime.next_change(&mut seen) => {}
                () = tokio::time::sleep_until(until) => {
                    return Err(Halt::failed(Step::Start, FailureReason::EngineUnavailable, why));
                }
                () = self.stop.token().cancelled() => return Err(Halt::Stopped),
            }
        }
        Ok(())
    }
}
