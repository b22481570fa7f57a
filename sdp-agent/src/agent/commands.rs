//! What the server may ask for, and how the agent does it.
//!
//! Limits: [`super::QUESTIONS`] questions to git hosts at once, [`super::WAITING`] with those that wait; as many jobs as the configuration's capacity.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sdp_core::failure::{Failure, FailureReason};
use sdp_core::id::{CommandId, DeploymentId, InstanceId};
use sdp_core::wire::bound::newest_that_fit;
use sdp_core::wire::{
    Answer, FromAgent, InstanceReport, InstanceStatus, ProbeRequest, RejectReason, ToAgent,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::recent::Reply;
use super::{Agent, Running};
use crate::git::{Git, GitOp};
use crate::job::{self, Begin, Order, Stop, StopWhy};
use crate::router;
use crate::spool::{JobKey, JobLog, Outflow};

/// How long a list of branches may take.
const LIST_WITHIN: Duration = Duration::from_secs(30);
/// How long a list of repositories may take.
const REPOS_WITHIN: Duration = Duration::from_secs(20);
/// How long the check of a credential may take at most.
const CHECK_WITHIN: Duration = Duration::from_secs(30);
/// The most lines of an instance's output in an answer.
const MOST_OUTPUT: u32 = 10_000;
/// The most bytes of JSON that such an answer has: half of what a frame may have.
const ANSWER: usize = sdp_core::wire::MAX_CONTROL_FRAME / 2;

impl Agent {
    /// Does what a command says; an answer that takes time comes later.
    pub(super) async fn obey(
        self: &Arc<Self>,
        command: ToAgent,
        outflow: &Arc<Outflow>,
    ) -> Option<FromAgent> {
        match command {
            ToAgent::Deploy { command, deployment, attempt, spec, credential, secrets } => {
                if let Some(reply) = self.answered(command) {
                    return Some(reply);
                }
                let order = Order { deployment, attempt, spec: *spec, credential, secrets };
                let (agent, outflow) = (self.clone(), outflow.clone());
                // Not given up with the connection: a job that has a place in the spool must be begun, or nobody ever ends it.
                let taken = self.tasks.spawn(async move {
                    let _taking = agent.taking.lock().await;
                    agent.take_job(order, &outflow).await
                });
                let fault =
                    || Reply::rejected(RejectReason::Unsupported, "the agent has a fault; see its log");
                let reply = taken.await.unwrap_or_else(|_| fault());
                Some(self.answer(command, reply))
            }
            ToAgent::Cancel { command, deployment } => {
                if let Some(reply) = self.answered(command) {
                    return Some(reply);
                }
                let job = self.running.lock().get(&deployment).cloned();
                if let Some(job) = job {
                    job.stop.set(StopWhy::Cancelled);
                }
                for log in self.spool.logs().iter().filter(|log| log.key().0 == deployment) {
                    self.cancel_waiting(log.key());
                }
                Some(self.answer(command, Reply::Accepted))
            }
            ToAgent::StopInstance { command, instance } => {
                if let Some(reply) = self.answered(command) {
                    return Some(reply);
                }
                let job = self.running.lock().values().find(|job| job.instance == instance).cloned();
                match job {
                    Some(job) => {
                        job.stop.set(StopWhy::Cancelled);
                        // A job whose work is done heeds no stop any more, and leaves its instance running.
                        let agent = self.clone();
                        self.tasks.spawn(async move {
                            job.over.cancelled().await;
                            agent.stop_instance(instance);
                        });
                    }
                    None => self.stop_instance(instance),
                }
                Some(self.answer(command, Reply::Accepted))
            }
            ToAgent::Lifetimes { instances } => {
                self.lifetimes.learn(instances);
                self.lifetimes.write_down().await;
                None
            }
            ToAgent::Routes { table } => {
                let Some(router) = &self.router else {
                    tracing::warn!(route.version = %table.version, "a route table came, but this agent has no router");
                    return None;
                };
                let wanted = table.version;
                let version = router.apply(table);
                // Else it is told when the table has taken effect; what is wrong with it is in the preflight.
                (version >= wanted).then_some(FromAgent::RoutesApplied { version })
            }
            ToAgent::Probe { command, probe } => {
                let agent = self.clone();
                self.tasks.spawn(async move {
                    let probed = agent.probe(&probe);
                    let answer = agent.closing.run_until_cancelled(probed).await;
                    let answer = answer
                        .unwrap_or_else(|| failed(FailureReason::AgentRefused, "the agent is going away"));
                    agent.tell(FromAgent::Answer { command, answer }).await;
                });
                None
            }
            ToAgent::ListRefs { command, repo, credential } => {
                self.question(command, LIST_WITHIN, async move |git, op| {
                    git.list_refs(&repo, credential.as_ref(), &op).await
                });
                None
            }
            ToAgent::CheckCredential { command, repo, credential, within_ms } => {
                let within = Duration::from_millis(within_ms.into()).min(CHECK_WITHIN);
                self.question(command, within, async move |git, op| {
                    git.check_credential(&repo, &credential, &op).await
                });
                None
            }
            ToAgent::ListRepos { command, repo, credential } => {
                self.question(command, REPOS_WITHIN, async move |git, op| {
                    git.list_repos(&repo, credential.as_ref(), &op).await
                });
                None
            }
            ToAgent::ReadOutput { command, instance, lines } => {
                let agent = self.clone();
                self.tasks.spawn(async move {
                    let answer = agent.read_output(instance, lines).await;
                    agent.tell(FromAgent::Answer { command, answer }).await;
                });
                None
            }
            other => {
                // Not its content: that may hold a credential.
                drop(other);
                tracing::warn!("the server sent a command that this agent does not know");
                None
            }
        }
    }

    fn answered(&self, command: CommandId) -> Option<FromAgent> {
        Some(self.commands.lock().find(command)?.frame(command))
    }

    fn answer(&self, command: CommandId, reply: Reply) -> FromAgent {
        self.commands.lock().remember(command, reply.clone());
        reply.frame(command)
    }

    async fn take_job(self: &Arc<Self>, order: Order, outflow: &Outflow) -> Reply {
        let key = (order.deployment, order.attempt);
        let attempt = order.attempt;
        if let Some(log) = self.spool.find(key) {
            // It has its place already, whatever else is at work.
            let waits = log.take_interrupted();
            return if waits && !self.begin_again(order, log).await { draining() } else { Reply::Accepted };
        }
        let held = self.spool.logs().into_iter().map(|log| log.key());
        let earlier: Vec<JobKey> = held.filter(|(deployment, _)| *deployment == order.deployment).collect();
        if earlier.iter().any(|(_, held)| *held > attempt) {
            return Reply::rejected(RejectReason::Unsupported, "a newer attempt of this deployment is here");
        }
        if self.is_draining() {
            return draining();
        }
        let replaced = self.running.lock().get(&order.deployment).cloned();
        let at_work = self.at_work(order.deployment);
        if at_work >= usize::try_from(self.config.capacity).unwrap_or(usize::MAX) {
            let message = format!("it does {} jobs at once, and has them", self.config.capacity);
            return Reply::rejected(RejectReason::Busy, message);
        }
        if let Err(why) = self.room().await {
            // Not awaited: whoever takes commands must hear of a cancel meanwhile. The server asks again.
            self.room_wanted.notify_one();
            return Reply::rejected(RejectReason::DiskFull, why);
        }
        if let Some(why) = self.tools.runtime.degraded() {
            return Reply::rejected(RejectReason::EngineUnavailable, why);
        }
        let log = {
            let (spool, spec) = (self.spool.clone(), order.spec.clone());
            let has_secrets = !order.secrets.is_empty();
            tokio::task::spawn_blocking(move || spool.create(key, &spec, has_secrets)).await
        };
        let log = match log {
            Ok(Ok(log)) => log,
            Ok(Err(error)) => {
                tracing::error!(deployment.id = %key.0, %error, "failed to make a job's spool");
                return Reply::rejected(
                    RejectReason::DiskFull,
                    "it cannot keep the deployment's log: its disk is full",
                );
            }
            Err(_) => {
                return Reply::rejected(RejectReason::Unsupported, "the agent has a fault; see its log");
            }
        };
        for old in earlier {
            outflow.forget(old);
            self.forget_job(old);
        }
        outflow.send_after(key, 0, 0);
        let end = order.spec.place.as_ref().and_then(|place| place.expires_at);
        self.lifetimes.learn([(order.spec.instance, end)]);
        self.lifetimes.write_down().await;
        if !self.start_job(order, Begin::Anew, log, replaced) {
            outflow.forget(key);
            self.remove_log(key);
            return draining();
        }
        Reply::Accepted
    }

    /// How many jobs, but for this deployment's, take up a place: one that has said its last word leaves it to the next, even
    /// while what is left of it is tidied up.
    fn at_work(&self, but_for: DeploymentId) -> usize {
        let running = self.running.lock();
        let others = running.iter().filter(|(deployment, _)| **deployment != but_for);
        let at_work = others.filter(|(deployment, job)| {
            job.forgotten.load(Ordering::Acquire)
                || self.spool.find((**deployment, job.attempt)).is_some_and(|log| !log.is_done())
        });
        let logs = self.spool.logs();
        let waiting = logs.iter().filter(|log| log.is_interrupted() && log.key().0 != but_for);
        at_work.count() + waiting.count()
    }

    /// Starts a job, unless the agent has begun to drain: then nobody would wait for it.
    pub(super) fn start_job(
        self: &Arc<Self>,
        order: Order,
        begin: Begin,
        log: JobLog,
        replaced: Option<Arc<Running>>,
    ) -> bool {
        let job = Arc::new(Running {
            attempt: order.attempt,
            instance: order.spec.instance,
            stop: Arc::default(),
            forgotten: AtomicBool::new(false),
            over: CancellationToken::new(),
        });
        let deployment = order.deployment;
        {
            let mut running = self.running.lock();
            // Asked under the lock: the drain begins before it looks at what runs.
            if self.is_draining() {
                return false;
            }
            running.insert(deployment, job.clone());
        }
        let agent = self.clone();
        let span = tracing::info_span!(
            "job",
            deployment.id = %deployment,
            deployment.number = order.spec.number.0,
            deployment.attempt = order.attempt,
            service.name = %order.spec.service,
            sandbox.name = %order.spec.sandbox,
            instance.id = %order.spec.instance,
        );
        let work = async move {
            // Whatever happens, those who wait for its end do not wait for ever.
            let _over = job.over.clone().drop_guard();
            // Both use the deployment's folder.
            if let Some(replaced) = replaced {
                replaced.over.cancelled().await;
            }
            let stop: Arc<Stop> = job.stop.clone();
            Box::pin(job::run(order, begin, agent.tools.clone(), log, stop)).await;
            if job.forgotten.load(Ordering::Acquire) {
                agent.discard(job.instance).await;
                agent.blocking_remove((deployment, job.attempt)).await;
            }
            {
                let mut running = agent.running.lock();
                if running.get(&deployment).is_some_and(|newest| Arc::ptr_eq(newest, &job)) {
                    running.remove(&deployment);
                }
            }
            agent.ended.send_modify(|count| *count += 1);
            // Beside the next job, not before it: what is swept is in nobody's use.
            agent.tools.sweep().await;
            agent.tools.make_room().await;
        };
        self.tasks.spawn(work.instrument(span));
        true
    }

    pub(super) fn find_running(&self, (deployment, attempt): JobKey) -> Option<Arc<Running>> {
        self.running.lock().get(&deployment).filter(|job| job.attempt == attempt).cloned()
    }

    /// Whether the instance belongs to a job that is not over.
    pub(super) fn is_at_work_on(&self, instance: InstanceId) -> bool {
        self.running.lock().values().any(|job| job.instance == instance)
    }

    /// Stops a job, if it is at work, and keeps nothing of what it said.
    pub(super) fn forget_job(self: &Arc<Self>, key: JobKey) {
        match self.find_running(key) {
            Some(job) => {
                job.forgotten.store(true, Ordering::Release);
                job.stop.set(StopWhy::Cancelled);
            }
            None => self.remove_log(key),
        }
    }

    pub(super) fn remove_log(self: &Arc<Self>, key: JobKey) {
        let agent = self.clone();
        self.tasks.spawn(async move { agent.blocking_remove(key).await });
    }

    async fn blocking_remove(&self, key: JobKey) {
        let spool = self.spool.clone();
        drop(tokio::task::spawn_blocking(move || spool.remove(key)).await);
    }

    /// Stops an instance and forgets it, in the background. The server is told once it does not run any more, which may be much
    /// later: an engine may refuse, and be asked again.
    pub(super) fn stop_instance(self: &Arc<Self>, instance: InstanceId) {
        let agent = self.clone();
        self.tasks.spawn(async move {
            let known = agent.tools.runtime.reports().into_iter().find(|known| known.instance == instance);
            agent.discard(instance).await;
            if agent.runs(instance) {
                // One task waits for it, however often the server asks.
                if !agent.going.lock().insert(instance) {
                    return;
                }
                let gone = agent.is_over(instance);
                let closing = agent.closing.run_until_cancelled(gone).await.is_none();
                agent.going.lock().remove(&instance);
                if closing {
                    return;
                }
            }
            // One that is not here has no deployment that the agent could name; the server knows it by its own id.
            let deployment =
                known.map_or_else(|| DeploymentId::from(uuid::Uuid::nil()), |known| known.deployment);
            let report = InstanceReport { instance, deployment, status: InstanceStatus::Stopped {} };
            agent.tell(FromAgent::Instance { report }).await;
        });
    }

    pub(super) fn runs(&self, instance: InstanceId) -> bool {
        let reports = self.tools.runtime.reports();
        reports
            .iter()
            .any(|known| known.instance == instance && matches!(known.status, InstanceStatus::Running { .. }))
    }

    /// Returns when the instance does not run.
    async fn is_over(&self, instance: InstanceId) {
        let mut seen = 0;
        while self.runs(instance) {
            self.tools.runtime.next_change(&mut seen).await;
        }
    }

    async fn discard(&self, instance: InstanceId) {
        self.tools.runtime.stop(instance).await;
        self.tools.runtime.forget(instance);
        self.tools.release(instance).await;
        self.tools.sweep().await;
    }

    /// Asks a git host, in the background and in its turn; the time that it may take begins now.
    fn question<F>(
        self: &Arc<Self>,
        command: CommandId,
        within: Duration,
        ask: impl FnOnce(Git, GitOp) -> F + Send + 'static,
    ) where
        F: Future<Output = Result<Answer, Failure>> + Send,
    {
        let agent = self.clone();
        self.tasks.spawn(async move {
            let answered = agent.in_turn(Instant::now() + within, ask).await;
            let answer = answered.unwrap_or_else(|failure| Answer::Failed { failure });
            agent.tell(FromAgent::Answer { command, answer }).await;
        });
    }

    async fn in_turn<F>(&self, until: Instant, ask: impl FnOnce(Git, GitOp) -> F) -> Result<Answer, Failure>
    where
        F: Future<Output = Result<Answer, Failure>>,
    {
        let refused = |why| Failure::new(None, FailureReason::AgentRefused, why);
        let _place =
            self.waiting.try_acquire().map_err(|_| refused("the agent has too many questions to answer"))?;
        let turn = tokio::select! {
            turn = self.questions.acquire() => turn.ok(),
            () = self.closing.cancelled() => None,
            () = tokio::time::sleep_until(until) => {
                let why = "the agent had no time for the question: it has others to answer";
                return Err(Failure::new(None, FailureReason::Timeout, why));
            }
        };
        let _turn = turn.ok_or_else(|| refused("the agent is going away"))?;
        let limit = until.saturating_duration_since(Instant::now());
        let operation = GitOp { stop: self.closing.child_token(), limit, on_line: Arc::new(|_: &str| {}) };
        Box::pin(ask(self.tools.git.clone(), operation)).await
    }

    async fn probe(&self, probe: &ProbeRequest) -> Answer {
        let Some(router) = &self.router else {
            return failed(FailureReason::AgentRefused, "this agent has no router");
        };
        let Ok(_turn) = self.waiting.try_acquire() else {
            return failed(FailureReason::AgentRefused, "the agent has too many questions to answer");
        };
        match router::probe(&**router, probe).await {
            Ok(answer) => answer,
            Err(why) => failed(FailureReason::AgentRefused, &why),
        }
    }

    async fn read_output(&self, instance: InstanceId, lines: u32) -> Answer {
        let lines = usize::try_from(lines.min(MOST_OUTPUT)).unwrap_or(0);
        match self.tools.runtime.output(instance, lines).await {
            Some(lines) => Answer::Output { lines: newest_that_fit(lines, ANSWER) },
            None => {
                failed(FailureReason::AgentRestarted, "the agent has no output of this instance any more")
            }
        }
    }
}

fn draining() -> Reply {
    Reply::rejected(RejectReason::Draining, "this agent is going away")
}

fn failed(reason: FailureReason, detail: &str) -> Answer {
    Answer::Failed { failure: Failure::new(None, reason, detail) }
}
