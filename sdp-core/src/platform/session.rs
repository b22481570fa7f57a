//! One connection of an agent: hello, welcome, then lines to the job logs and reports to the loop.
//!
//! Two halves run side by side. The reader appends lines to the logs and queues progress; the acker makes lines durable (one
//! sync serves all deployments), hands over each progress item once the lines before it are durable, and acknowledges
//! both. A job's last item, its outcome, is handed over only when the agent's `done` agrees with the log: lines, bytes and
//! checksum. So no outcome overtakes its lines, and nothing is acknowledged that a power cut could take back.
//!
//! Lines that cannot be stored for a reason that may pass are not acknowledged, and asked for again later (`paused`): the
//! connection goes on, and so does everything else on it.
//!
//! Limits: hello within 10 s; 10,000 progress items of one job may wait; a frame that is not understood ends the connection.

mod paused;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::input::{Hello, Input, Report, Welcomed};
use super::output::Followers;
use crate::api::OutputChunk;
use crate::id::{CommandId, DeploymentId, Epoch};
use crate::logs::{Appended, LogTotals, Logs, LogsError};
use crate::name::AgentName;
use crate::wire::link::{AgentFrame, ServerEnd};
use crate::wire::{ByeReason, FromAgent, JobAction, LinesBatch, PROTOCOL, Progress, ToAgent, Totals};
use paused::Paused;

const HELLO_WITHIN: Duration = Duration::from_secs(10);
const WAITING_PROGRESS: usize = 10_000;
/// How many times a job's lines are asked for again when they do not agree with its `done`.
const REWINDS: u32 = 2;

/// What has arrived of a job, and what waits for its lines.
#[derive(Debug, Default)]
struct Job {
    attempt: u32,
    /// Lines in the log, durable or not.
    lines: u64,
    /// The newest progress item that has arrived.
    arrived: u64,
    waiting: VecDeque<(u64, u64, Progress)>,
    done: Option<Done>,
    rewound: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Done {
    progress: u64,
    lines: u64,
    bytes: u64,
    checksum: u32,
}

#[derive(Debug, Default)]
struct Jobs {
    known: Mutex<HashMap<DeploymentId, Job>>,
    /// Jobs that the acker has to look at.
    dirty: Mutex<HashSet<DeploymentId>>,
    bell: Notify,
}

impl Jobs {
    fn with<T>(&self, id: DeploymentId, change: impl FnOnce(&mut Job) -> T) -> Option<T> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&id).map(change)
    }

    fn knows(&self, id: DeploymentId) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&id)
    }

    fn insert(&self, id: DeploymentId, job: Job) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(id, job);
    }

    fn forget(&self, id: DeploymentId) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    fn mark(&self, id: DeploymentId) {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        self.bell.notify_one();
    }

    fn take_dirty(&self) -> Vec<DeploymentId> {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner).drain().collect()
    }
}

struct Session {
    agent: AgentName,
    epoch: Epoch,
    inputs: mpsc::Sender<Input>,
    logs: Logs,
    followers: Arc<Followers>,
    to_agent: mpsc::Sender<ToAgent>,
    jobs: Arc<Jobs>,
    paused: Paused,
    /// What was sent in this connection, by command: an answer names only the command.
    commands: Arc<Mutex<HashMap<CommandId, (DeploymentId, u32)>>>,
}

/// Ends a connection: the other side is gone, or said something that cannot be.
struct End(Option<ByeReason>);

/// Serves a connection until it ends. Later ones have higher numbers.
pub(super) async fn serve(
    agent: AgentName,
    connection: u64,
    mut end: ServerEnd,
    inputs: mpsc::Sender<Input>,
    logs: Logs,
    followers: Arc<Followers>,
    mut stopping: watch::Receiver<bool>,
) {
    let first = tokio::select! {
        first = tokio::time::timeout(HELLO_WITHIN, end.rx.recv()) => Some(first),
        _ = stopping.wait_for(|stopping| *stopping) => None,
    };
    let Some(first) = first else { return bye(&end.tx, ByeReason::Restart).await };
    let hello = match first {
        Ok(Some(AgentFrame::Control(first))) if matches!(*first, FromAgent::Hello { .. }) => first.bounded(),
        Ok(None) => return,
        Ok(Some(_)) | Err(_) => return bye(&end.tx, ByeReason::BadFrame).await,
    };
    let Some(hello) = checked(hello) else { return bye(&end.tx, ByeReason::Protocol).await };
    let said: HashMap<DeploymentId, u64> = hello.jobs.iter().map(|job| (job.deployment, job.lines)).collect();
    let (answer, answered) = oneshot::channel();
    if inputs.send(Input::Hello { agent: agent.clone(), connection, hello, answer }).await.is_err() {
        return bye(&end.tx, ByeReason::Restart).await;
    }
    let Ok(Ok(welcomed)) = answered.await else { return bye(&end.tx, ByeReason::Restart).await };
    let Welcomed { epoch, mut jobs, instances, mut outbox } = welcomed;
    for decision in &mut jobs {
        if let JobAction::Send { lines, progress, ahead } | JobAction::Cancel { lines, progress, ahead } =
            &mut decision.action
        {
            let id = decision.deployment;
            *lines = held_of_attempt(&logs, id, decision.attempt, *progress).await;
            // Its machine lost what it had sent: it goes on behind that.
            if said.get(&id).is_some_and(|said| said < lines) {
                match logs.totals(id).await {
                    Ok(LogTotals { lines: held, bytes, checksum }) => {
                        (*lines, *ahead) = (held, Some(Totals { bytes, checksum }));
                    }
                    Err(error) => {
                        tracing::error!(agent.name = %agent, deployment.id = %id, %error, "a job log could not be read");
                    }
                }
            }
        }
    }
    tracing::Span::current().record("agent.epoch", epoch.0);
    tracing::info!(agent.name = %agent, agent.epoch = epoch.0, "agent connected");
    let session = Session {
        agent: agent.clone(),
        epoch,
        inputs: inputs.clone(),
        logs,
        followers,
        to_agent: end.tx.clone(),
        jobs: Arc::default(),
        paused: Paused::default(),
        commands: Arc::default(),
    };
    let welcome = ToAgent::Welcome { epoch, jobs, instances };
    let reason = if end.tx.send(welcome).await.is_err() {
        None
    } else {
        let reading = async {
            loop {
                let frame = end.rx.recv().await?;
                if let Err(End(reason)) = session.frame(frame).await {
                    return reason;
                }
            }
        };
        let telling = async {
            while let Some(message) = outbox.recv().await {
                if let ToAgent::Bye { reason, .. } = message {
                    return Some(reason);
                }
                session.remember(&message);
                if end.tx.send(message).await.is_err() {
                    return None;
                }
            }
            // The platform stops, or wants a fresh hello: come again.
            Some(ByeReason::Restart)
        };
        tokio::select! {
            reason = reading => reason,
            reason = telling => reason,
            () = session.acknowledge() => None,
            () = session.resume() => None,
            _ = stopping.wait_for(|stopping| *stopping) => Some(ByeReason::Restart),
        }
    };
    if let Some(reason) = reason {
        bye(&end.tx, reason).await;
    }
    tracing::info!(agent.name = %agent, agent.epoch = epoch.0, ?reason, "agent disconnected");
    drop(inputs.send(Input::Gone { agent, epoch }).await);
}

/// How many lines of this attempt are held. Those of an earlier one, which no agent was told are here (its first progress comes
/// before its first line), make way.
async fn held_of_attempt(logs: &Logs, id: DeploymentId, attempt: u32, progress: u64) -> u64 {
    if attempt > 1
        && progress == 0
        && let Err(error) = logs.truncate_to(id, 0).await
    {
        tracing::warn!(deployment.id = %id, %error, "lines of an earlier attempt could not be removed");
    }
    logs.held(id).await.unwrap_or(0)
}

async fn bye(to_agent: &mpsc::Sender<ToAgent>, reason: ByeReason) {
    let bye = ToAgent::Bye { reason, retry_after_ms: None };
    // An agent that takes nothing any more is not waited for.
    drop(tokio::time::timeout(Duration::from_secs(1), to_agent.send(bye)).await);
}

fn checked(hello: FromAgent) -> Option<Hello> {
    let FromAgent::Hello {
        protocol: PROTOCOL,
        boot_id,
        version,
        labels,
        capacity,
        runtimes,
        preflight,
        jobs,
        instances,
        degraded,
        router,
    } = hello
    else {
        return None;
    };
    Some(Hello { boot_id, version, labels, capacity, runtimes, preflight, jobs, instances, degraded, router })
}

impl Session {
    fn remember(&self, message: &ToAgent) {
        if let ToAgent::Deploy { command, deployment, attempt, .. } = message {
            self.commands
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(*command, (*deployment, *attempt));
        }
    }

    fn deployment_of(&self, command: CommandId) -> Option<(DeploymentId, u32)> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).get(&command).copied()
    }

    async fn report(&self, report: Report) -> Result<(), End> {
        self.input(report, None).await
    }

    async fn input(&self, report: Report, committed: Option<oneshot::Sender<()>>) -> Result<(), End> {
        let (agent, epoch) = (self.agent.clone(), self.epoch);
        self.inputs.send(Input::Report { agent, epoch, report, committed }).await.map_err(|_| End(None))
    }

    async fn frame(&self, frame: AgentFrame) -> Result<(), End> {
        let message = match frame {
            AgentFrame::Lines(batch) => return self.lines(batch).await,
            AgentFrame::Control(message) => message.bounded(),
        };
        match message {
            FromAgent::Accepted { command } => {
                if let Some((deployment, attempt)) = self.deployment_of(command) {
                    self.report(Report::Accepted { deployment, attempt }).await?;
                }
            }
            FromAgent::Rejected { command, reason, message } => {
                if let Some((deployment, attempt)) = self.deployment_of(command) {
                    self.report(Report::Rejected { deployment, attempt, reason, message }).await?;
                }
            }
            FromAgent::Progress { deployment, attempt, number, after_line, what } => {
                if self.works_on(deployment, attempt).await? {
                    self.progress(deployment, attempt, number, after_line, what).await?;
                }
            }
            FromAgent::Done { deployment, attempt, progress, lines, bytes, dropped: _, checksum } => {
                if self.works_on(deployment, attempt).await? {
                    let done = Done { progress, lines, bytes, checksum };
                    self.jobs.with(deployment, |job| job.done = Some(done));
                    self.jobs.mark(deployment);
                } else {
                    // It has ended without the agent's word; there is nothing left to bring over.
                    self.tell(ToAgent::DoneOk { deployment, attempt }).await?;
                }
            }
            FromAgent::Instance { report } => self.report(Report::Instance(report)).await?,
            FromAgent::RoutesApplied { version } => self.report(Report::RoutesApplied { version }).await?,
            FromAgent::Preflight { checks } => self.report(Report::Preflight { checks }).await?,
            FromAgent::Load { load } => self.report(Report::Load { load }).await?,
            FromAgent::Output { command, left_out, lines } => {
                let chunk = OutputChunk { left_out, lines };
                if !self.followers.printed(&self.agent, self.epoch, command, chunk) {
                    // Somebody looked, and does not any more: the agent is told, once more if need be.
                    self.tell(ToAgent::StopFollowing { command }).await?;
                }
            }
            FromAgent::OutputEnded { command, failure } => {
                self.followers.ended(&self.agent, self.epoch, command, failure);
            }
            FromAgent::Drained { instance } => self.report(Report::Drained { instance }).await?,
            FromAgent::Answer { command, answer } => {
                let agent = self.agent.clone();
                self.inputs.send(Input::Answered { agent, command, answer }).await.map_err(|_| End(None))?;
            }
            FromAgent::Bye { reason } => {
                tracing::info!(agent.name = %self.agent, ?reason, "the agent goes away");
                return Err(End(None));
            }
            FromAgent::Hello { .. } => return Err(End(Some(ByeReason::BadFrame))),
        }
        Ok(())
    }

    async fn tell(&self, message: ToAgent) -> Result<(), End> {
        self.to_agent.send(message).await.map_err(|_| End(None))
    }

    /// Whether the agent works on this attempt; what it says of any other is dropped.
    async fn works_on(&self, id: DeploymentId, attempt: u32) -> Result<bool, End> {
        if !self.jobs.knows(id) {
            let (answer, answered) = oneshot::channel();
            let question = Input::Assignment { agent: self.agent.clone(), deployment: id, answer };
            self.inputs.send(question).await.map_err(|_| End(None))?;
            let Some((attempt, progress)) = answered.await.map_err(|_| End(None))? else { return Ok(false) };
            let lines = held_of_attempt(&self.logs, id, attempt, progress).await;
            self.jobs.insert(id, Job { attempt, lines, arrived: progress, ..Job::default() });
        }
        Ok(self.jobs.with(id, |job| job.attempt == attempt).unwrap_or(false))
    }

    async fn lines(&self, batch: LinesBatch) -> Result<(), End> {
        let (id, attempt) = (batch.deployment, batch.attempt);
        // What is paused is asked for again, from where the log ends then.
        if !self.works_on(id, attempt).await? || self.paused.has(id) {
            return Ok(());
        }
        match self.logs.append(batch).await {
            Ok(Appended::Added { last } | Appended::Duplicate { last }) => {
                self.jobs.with(id, |job| job.lines = last);
                self.jobs.mark(id);
                Ok(())
            }
            Ok(Appended::Gap { last }) => {
                let progress = self.jobs.with(id, |job| job.arrived).unwrap_or(0);
                self.tell(ToAgent::Rewind { deployment: id, attempt, lines: last, progress }).await
            }
            Err(LogsError::ShuttingDown) => Err(End(Some(ByeReason::Restart))),
            Err(error) if error.may_pass() => {
                self.pause(id, attempt, &error);
                Ok(())
            }
            // It would fail again and again, and take the agent's other jobs along: this one ends.
            Err(error) => {
                tracing::error!(agent.name = %self.agent, deployment.id = %id, %error, "lines could not be stored");
                self.give_up(id, attempt, format!("the server could not store its log: {error}")).await
            }
        }
    }

    async fn progress(
        &self,
        id: DeploymentId,
        attempt: u32,
        number: u64,
        after_line: u64,
        what: Progress,
    ) -> Result<(), End> {
        let gap = self.jobs.with(id, |job| {
            if number == job.arrived + 1 && job.waiting.len() < WAITING_PROGRESS {
                job.arrived = number;
                job.waiting.push_back((number, after_line, what));
            }
            (number > job.arrived).then_some((job.lines, job.arrived))
        });
        self.jobs.mark(id);
        match gap.flatten() {
            Some((lines, progress)) => {
                self.tell(ToAgent::Rewind { deployment: id, attempt, lines, progress }).await
            }
            None => Ok(()),
        }
    }

    /// Makes durable, hands over, acknowledges. Ends with the connection.
    async fn acknowledge(&self) {
        loop {
            self.jobs.bell.notified().await;
            for id in self.jobs.take_dirty() {
                if let Err(End(_)) = self.acknowledge_job(id).await {
                    return;
                }
            }
        }
    }

    async fn acknowledge_job(&self, id: DeploymentId) -> Result<(), End> {
        let Some((attempt, held)) = self.jobs.with(id, |job| (job.attempt, job.lines)) else { return Ok(()) };
        let durable = match self.logs.durable(id, held).await {
            Ok(durable) => durable,
            // What was not on disk is not held any more.
            Err(error) => {
                self.pause(id, attempt, &error);
                return Ok(());
            }
        };
        self.paused.is_well(id, durable);
        let mut handed_over = Vec::new();
        let mut ended = None;
        while let Some((number, after_line, what)) = self
            .jobs
            .with(id, |job| {
                job.waiting.front().is_some_and(|next| next.1 <= durable).then(|| job.waiting.pop_front())
            })
            .flatten()
            .flatten()
        {
            if matches!(what, Progress::Ended { .. }) {
                ended = Some((number, after_line, what));
                break;
            }
            let (committed, wait) = oneshot::channel();
            self.input(
                Report::Progress { deployment: id, attempt, number, after_line, what },
                Some(committed),
            )
            .await?;
            handed_over.push((number, wait));
        }
        let mut progress = None;
        for (number, wait) in handed_over {
            // Not stored: the loop has ended the connection, and the agent sends it again.
            wait.await.map_err(|_| End(None))?;
            progress = Some(number);
        }
        if let Some((number, after_line, what)) = ended {
            let done = self.jobs.with(id, |job| job.done).flatten();
            match done {
                Some(done) if done.progress == number && done.lines <= durable => {
                    return self.finish_job(id, attempt, done, after_line, what).await;
                }
                // It waits for its `done`, or for the lines that that names.
                _ => {
                    self.jobs.with(id, |job| job.waiting.push_front((number, after_line, what)));
                }
            }
        }
        // All was applied in an earlier connection, but its last word was lost: the agent may forget the job.
        let all_here = self.jobs.with(id, |job| {
            job.waiting.is_empty()
                && job.done.is_some_and(|done| done.progress == job.arrived && done.lines <= durable)
        });
        if all_here == Some(true) {
            self.jobs.forget(id);
            return self.tell(ToAgent::DoneOk { deployment: id, attempt }).await;
        }
        let progress = progress.or_else(|| self.jobs.with(id, |job| job.arrived - job.waiting.len() as u64));
        self.tell(ToAgent::Ack { deployment: id, attempt, lines: durable, progress: progress.unwrap_or(0) })
            .await
    }

    /// Ends a deployment whose log cannot be had.
    async fn give_up(&self, id: DeploymentId, attempt: u32, detail: String) -> Result<(), End> {
        let (committed, wait) = oneshot::channel();
        self.input(Report::LogIncomplete { deployment: id, detail }, Some(committed)).await?;
        wait.await.map_err(|_| End(None))?;
        self.jobs.forget(id);
        self.tell(ToAgent::DoneOk { deployment: id, attempt }).await
    }

    /// The log of a job that has ended cannot be read or cut: later, if that may pass; else its deployment ends with that.
    async fn cannot_finish(
        &self,
        id: DeploymentId,
        attempt: u32,
        last: (u64, u64, Progress),
        error: &LogsError,
    ) -> Result<(), End> {
        tracing::error!(agent.name = %self.agent, deployment.id = %id, %error, "a job log could not be compared with its agent's");
        if !error.may_pass() {
            return self.give_up(id, attempt, format!("the server could not read its log: {error}")).await;
        }
        self.jobs.with(id, |job| job.waiting.push_front(last));
        self.pause(id, attempt, error);
        Ok(())
    }

    async fn finish_job(
        &self,
        id: DeploymentId,
        attempt: u32,
        done: Done,
        after_line: u64,
        what: Progress,
    ) -> Result<(), End> {
        let totals = match self.logs.totals(id).await {
            Ok(totals) => totals,
            Err(error) => {
                return self.cannot_finish(id, attempt, (done.progress, after_line, what), &error).await;
            }
        };
        let agrees = (totals.lines, totals.bytes, totals.checksum) == (done.lines, done.bytes, done.checksum);
        if !agrees {
            let rewound = self.jobs.with(id, |job| {
                job.rewound += 1;
                job.rewound
            });
            tracing::warn!(agent.name = %self.agent, deployment.id = %id, ?totals, ?done, "log and agent do not agree");
            if rewound.is_some_and(|times| times > REWINDS) {
                let detail = "the agent's log and the server's do not agree, after three attempts".to_owned();
                return self.give_up(id, attempt, detail).await;
            }
            let number = done.progress;
            if let Err(error) = self.logs.truncate_to(id, 0).await {
                return self.cannot_finish(id, attempt, (number, after_line, what), &error).await;
            }
            self.jobs.with(id, |job| {
                job.lines = 0;
                job.done = None;
                job.waiting.push_front((number, after_line, what));
            });
            let progress = number;
            return self.tell(ToAgent::Rewind { deployment: id, attempt, lines: 0, progress }).await;
        }
        let (committed, wait) = oneshot::channel();
        let report = Report::Progress { deployment: id, attempt, number: done.progress, after_line, what };
        self.input(report, Some(committed)).await?;
        wait.await.map_err(|_| End(None))?;
        self.jobs.forget(id);
        if let Err(error) = self.logs.close(id).await {
            tracing::warn!(deployment.id = %id, %error, "a job log could not be closed");
        }
        self.tell(ToAgent::Ack { deployment: id, attempt, lines: done.lines, progress: done.progress })
            .await?;
        self.tell(ToAgent::DoneOk { deployment: id, attempt }).await
    }
}
