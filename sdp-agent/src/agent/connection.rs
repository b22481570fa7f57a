//! One connection after the other: dial, hello, welcome, then commands in and logs out until it ends.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use sdp_core::id::{Epoch, InstanceId};
use sdp_core::wire::link::{AgentEnd, AgentFrame};
use sdp_core::wire::{
    ByeReason, FromAgent, InstanceAction, InstanceDecision, InstanceStatus, JobAction, JobDecision, ToAgent,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Agent;
use super::follow::{self, Follows};
use crate::job::StopWhy;
use crate::link::{Backoff, ConnectError, Connector, dice};
use crate::spool::{Next, Outflow};

/// The welcome comes within this time, or the connection is given up.
const WELCOME_WITHIN: Duration = Duration::from_secs(10);
/// The agent's last words may take so long.
const BYE_WITHIN: Duration = Duration::from_secs(2);
/// Control messages that wait for the connection. Logs do not wait there.
const OUTBOX: usize = 256;
/// After a refusal that a person must mend it is tried again this late.
const REFUSED_WAIT: Duration = Duration::from_secs(30);

/// How a connection ended.
#[derive(Debug)]
enum End {
    /// The agent ended it.
    Closed,
    /// The agent ended it to say hello again: it knows now what it could not tell.
    Again,
    /// It was lost.
    Lost(String),
    /// The server ended it.
    Bye { reason: ByeReason, retry_after: Option<Duration> },
}

impl Agent {
    pub(super) async fn stay_connected(self: Arc<Self>, connector: Connector, closing: CancellationToken) {
        let version = env!("CARGO_PKG_VERSION");
        tracing::info!(version, server = connector.target(), "the agent has started");
        let mut backoff = Backoff::new(connector.is_in_process());
        while !closing.is_cancelled() {
            let connected = tokio::select! {
                () = closing.cancelled() => return,
                connected = connector.connect(&self.tasks) => connected,
            };
            let at_least = match connected {
                Ok(end) => {
                    let since = Instant::now();
                    let end = Box::pin(self.converse(end, &closing)).await;
                    *self.outbox.lock() = None;
                    backoff.lasted(since.elapsed());
                    match self.after(end) {
                        Some(at_least) => at_least,
                        None => return,
                    }
                }
                Err(error) => {
                    say_why_not(&error);
                    let refused = matches!(error, ConnectError::Unauthorised);
                    if refused { REFUSED_WAIT } else { Duration::ZERO }
                }
            };
            let wait = backoff.wait(dice()).max(at_least);
            tokio::select! {
                () = closing.cancelled() => return,
                () = sleep(wait) => {}
            }
        }
    }

    /// How long to wait at least before the next connection; none: there is to be no other.
    fn after(&self, end: End) -> Option<Duration> {
        match end {
            End::Closed => None,
            End::Again => Some(Duration::ZERO),
            End::Lost(why) => {
                tracing::warn!(%why, "the connection to the server was lost; work goes on, and what it says is kept");
                Some(Duration::ZERO)
            }
            End::Bye { reason, retry_after } => {
                match reason {
                    ByeReason::Restart => tracing::info!("the server is restarting"),
                    ByeReason::Superseded => tracing::error!(
                        "another agent has connected with this agent's token; each agent needs its own"
                    ),
                    ByeReason::Protocol => {
                        tracing::error!("the server speaks another protocol; update the older of the two");
                    }
                    ByeReason::Unauthorised => tracing::error!("the server has revoked this agent's token"),
                    _ => tracing::error!(?reason, "the server has ended the connection"),
                }
                let wait = if reason == ByeReason::Restart { Duration::ZERO } else { REFUSED_WAIT };
                Some(retry_after.unwrap_or(wait))
            }
        }
    }

    async fn converse(self: &Arc<Self>, end: AgentEnd, closing: &CancellationToken) -> End {
        let AgentEnd { tx, mut rx } = end;
        // What the connection before was still taking is a job by then, and named.
        drop(self.taking.lock().await);
        let hello = self.hello();
        let degraded = matches!(&hello, FromAgent::Hello { degraded: Some(_), .. });
        let welcomed = async {
            if tx.send(hello.into()).await.is_err() {
                return Err(End::Lost("ended before the hello".into()));
            }
            match timeout(WELCOME_WITHIN, rx.recv()).await {
                Ok(Some(ToAgent::Welcome { epoch, jobs, instances })) => Ok((epoch, jobs, instances)),
                Ok(Some(ToAgent::Bye { reason, retry_after_ms })) => Err(bye(reason, retry_after_ms)),
                Ok(Some(_)) => Err(End::Lost("the server said something else than welcome".into())),
                Ok(None) => Err(End::Lost("ended before the welcome".into())),
                Err(_) => Err(End::Lost("no welcome in time".into())),
            }
        };
        let (epoch, jobs, instances) = tokio::select! {
            () = closing.cancelled() => return End::Closed,
            welcomed = welcomed => match welcomed {
                Ok(welcome) => welcome,
                Err(end) => return end,
            },
        };
        let (outbox, mail) = mpsc::channel(OUTBOX);
        let outflow = Arc::new(Outflow::new(self.spool.clone()));
        let (mut follows, printed) = Follows::new(self.clone());
        *self.outbox.lock() = Some(outbox.clone());
        self.take_welcome(epoch, jobs, instances, &outflow);
        self.lifetimes.write_down().await;
        tokio::select! {
            end = self.listen(&mut rx, &outflow, &outbox, &mut follows) => end,
            end = speak(&tx, mail, printed, &outflow, closing) => end,
            () = self.report_instances(&outbox) => End::Lost("ended".into()),
            () = self.report_drained(&outbox) => End::Lost("ended".into()),
            () = self.report_preflight(&outbox) => End::Lost("ended".into()),
            () = self.report_load(&outbox) => End::Lost("ended".into()),
            () = self.knows_again(), if degraded => {
                tracing::info!("the agent can tell again what runs here, and says hello anew");
                End::Again
            }
        }
    }

    fn take_welcome(
        self: &Arc<Self>,
        epoch: Epoch,
        jobs: Vec<JobDecision>,
        instances: Vec<InstanceDecision>,
        outflow: &Outflow,
    ) {
        tracing::info!(agent.epoch = epoch.0, "connected to the server");
        // What the server says from now on it says because of this hello. An answer to an earlier life of it, or to one that a backup
        // has made forget it, is none any more.
        self.commands.lock().clear();
        let mut decided = HashMap::new();
        for JobDecision { deployment, attempt, action } in jobs {
            decided.insert((deployment, attempt), action);
        }
        for log in self.spool.logs() {
            let key = log.key();
            match decided.remove(&key) {
                Some(JobAction::Send { lines, progress, ahead }) => {
                    log.catch_up(lines, progress, ahead);
                    outflow.send_after(key, lines, progress);
                    self.go_on_with(key);
                }
                Some(JobAction::Cancel { lines, progress, ahead }) => {
                    log.catch_up(lines, progress, ahead);
                    outflow.send_after(key, lines, progress);
                    if let Some(job) = self.find_running(key) {
                        job.stop.set(StopWhy::Cancelled);
                    }
                    self.cancel_waiting(key);
                }
                Some(JobAction::Forget {}) => {
                    self.forget_left(key);
                    self.forget_job(key);
                }
                // The server leaves nothing undecided; should it do so, sending all again harms nobody.
                Some(_) | None => {
                    outflow.send_after(key, 0, 0);
                    self.go_on_with(key);
                }
            }
        }
        self.take_lifetimes(&instances);
        for InstanceDecision { instance, action, .. } in instances {
            if action == InstanceAction::Remove && !self.is_at_work_on(instance) {
                self.stop_instance(instance);
            }
        }
    }

    async fn listen(
        self: &Arc<Self>,
        rx: &mut mpsc::Receiver<ToAgent>,
        outflow: &Arc<Outflow>,
        outbox: &mpsc::Sender<FromAgent>,
        follows: &mut Follows,
    ) -> End {
        while let Some(message) = rx.recv().await {
            let reply = match message {
                ToAgent::Bye { reason, retry_after_ms } => return bye(reason, retry_after_ms),
                ToAgent::Ack { deployment, attempt, lines, progress: _ } => {
                    outflow.ack((deployment, attempt), lines);
                    None
                }
                ToAgent::Rewind { deployment, attempt, lines, progress } => {
                    outflow.send_after((deployment, attempt), lines, progress);
                    None
                }
                ToAgent::DoneOk { deployment, attempt } => {
                    let key = (deployment, attempt);
                    if self.spool.find(key).is_some_and(|log| log.is_done()) {
                        outflow.forget(key);
                        self.remove_log(key);
                    }
                    None
                }
                ToAgent::FollowOutput { command, instance, tail } => follows.begin(command, instance, tail),
                ToAgent::StopFollowing { command } => {
                    follows.stop(command);
                    None
                }
                ToAgent::Welcome { .. } => return End::Lost("a second welcome".into()),
                command => self.obey(command, outflow).await,
            };
            // Never waits: a server that asks without listening must not keep the agent from hearing a cancel.
            if let Some(reply) = reply
                && outbox.try_send(reply).is_err()
            {
                return End::Lost("the server does not take the answers to its commands".into());
            }
        }
        End::Lost("ended by the server".into())
    }

    /// Says each change of an instance. Those of jobs at work are the job's to tell.
    async fn report_instances(&self, outbox: &mpsc::Sender<FromAgent>) {
        let runtime = &self.tools.runtime;
        let mut seen = 0;
        let mut ended = self.ended.subscribe();
        let mut said: HashMap<InstanceId, InstanceStatus> = HashMap::new();
        loop {
            let reports = runtime.reports();
            said.retain(|instance, _| reports.iter().any(|report| report.instance == *instance));
            for report in reports {
                // What stops because the agent does is no news: its next life starts it again, and says so.
                let silent = self.is_draining()
                    || self.is_at_work_on(report.instance)
                    || self.lifetimes.is_waking(report.instance);
                if silent || said.get(&report.instance) == Some(&report.status) {
                    continue;
                }
                said.insert(report.instance, report.status.clone());
                if outbox.send(FromAgent::Instance { report }).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = runtime.next_change(&mut seen) => {}
                changed = ended.changed() => if changed.is_err() { return std::future::pending().await },
            }
        }
    }

    /// Returns when the runtime can say what runs.
    async fn knows_again(&self) {
        let runtime = &self.tools.runtime;
        let mut seen = 0;
        while runtime.degraded().is_some() {
            runtime.next_change(&mut seen).await;
        }
    }

    /// Says which instances are drained, those that were told before this connection again.
    async fn report_drained(&self, outbox: &mpsc::Sender<FromAgent>) {
        let mut newest = self.drained.newest.subscribe();
        let mut told = 0;
        loop {
            for (number, instance) in self.drained.after(told) {
                told = number;
                if outbox.send(FromAgent::Drained { instance }).await.is_err() {
                    return;
                }
            }
            if newest.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

/// Sends what there is to send: control first; then logs and what services print, in turns, the latter no faster than
/// [`follow::PACE`] allows.
async fn speak(
    tx: &mpsc::Sender<AgentFrame>,
    mut mail: mpsc::Receiver<FromAgent>,
    mut printed: mpsc::Receiver<follow::Frame>,
    outflow: &Outflow,
    closing: &CancellationToken,
) -> End {
    let lost = || End::Lost("ended by the server".into());
    let mut not_before = Instant::now();
    loop {
        while let Ok(message) = mail.try_recv() {
            if tx.send(message.into()).await.is_err() {
                return lost();
            }
        }
        if closing.is_cancelled() {
            let bye = FromAgent::Bye { reason: ByeReason::Restart };
            drop(timeout(BYE_WITHIN, tx.send(bye.into())).await);
            return End::Closed;
        }
        if Instant::now() >= not_before
            && let Ok(frame) = printed.try_recv()
        {
            not_before = Instant::now() + frame.pace();
            tokio::select! {
                sent = tx.send(frame.message.into()) => if sent.is_err() { return lost() },
                () = given_up(closing) => return End::Closed,
            }
        }
        let next = match Box::pin(outflow.next()).await {
            Ok(next) => next,
            Err(error) => return End::Lost(unreadable(&error)),
        };
        match next {
            Next::Frame(frame) => tokio::select! {
                sent = tx.send(frame) => if sent.is_err() { return lost() },
                () = given_up(closing) => return End::Closed,
            },
            Next::Wait { until } => tokio::select! {
                biased;
                message = mail.recv() => match message {
                    Some(message) => if tx.send(message.into()).await.is_err() { return lost() },
                    None => return lost(),
                },
                () = closing.cancelled() => {}
                () = outflow.changed(until) => {}
                Some(frame) = after(not_before, &mut printed) => {
                    not_before = Instant::now() + frame.pace();
                    tokio::select! {
                        sent = tx.send(frame.message.into()) => if sent.is_err() { return lost() },
                        () = given_up(closing) => return End::Closed,
                    }
                }
            },
        }
    }
}

/// What a service printed, but not before then. Cancel-safe.
async fn after(not_before: Instant, printed: &mut mpsc::Receiver<follow::Frame>) -> Option<follow::Frame> {
    sleep_until(not_before).await;
    printed.recv().await
}

/// Some time after the agent began to close: a server that takes nothing does not hold it up.
async fn given_up(closing: &CancellationToken) {
    closing.cancelled().await;
    sleep(BYE_WITHIN).await;
}

fn unreadable(error: &io::Error) -> String {
    tracing::error!(%error, "failed to read the spool");
    "the spool cannot be read".to_owned()
}

fn bye(reason: ByeReason, retry_after_ms: Option<u64>) -> End {
    End::Bye { reason, retry_after: retry_after_ms.map(Duration::from_millis) }
}

fn say_why_not(error: &ConnectError) {
    match error {
        ConnectError::Unauthorised => tracing::error!(
            "the server refuses this agent's token (401): check token_file, or ask an admin for an enrolment token (`sdp-agent enrol --force`)"
        ),
        ConnectError::Away => tracing::debug!("the server takes no agents now"),
        ConnectError::Socket(source) => tracing::warn!(error = %source, "failed to connect to the server"),
        ConnectError::Status(_) | ConnectError::TimedOut => {
            tracing::warn!(%error, "failed to connect to the server");
        }
    }
}
