//! The far side of the wire: a server that keeps what is durable, as the real one would.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sdp_core::id::{CommandId, DeploymentId, Epoch, InstanceId};
use sdp_core::wire::link::{AgentFrame, ServerEnd, pair};
use sdp_core::wire::{
    Answer, FromAgent, InstanceAction, InstanceDecision, InstanceReport, InstanceStatus, JobAction,
    JobDecision, JobResult, Load, Progress, Stream, ToAgent,
};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::link::Connector;
use crate::sync::Lock;

/// Far longer than anything here takes; a test that hits it has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Job {
    pub(super) lines: Vec<(Stream, Vec<u8>)>,
    pub(super) progress: Vec<Progress>,
    pub(super) done: bool,
    pub(super) dropped: u64,
}

impl Job {
    pub(super) fn text(&self) -> String {
        let lines = self.lines.iter();
        lines.map(|(_, line)| String::from_utf8_lossy(line).into_owned() + "\n").collect()
    }

    /// What programs printed.
    pub(super) fn printed(&self) -> Vec<String> {
        let lines = self.lines.iter().filter(|(stream, _)| *stream != Stream::Sdp);
        lines.map(|(_, line)| String::from_utf8_lossy(line).into_owned()).collect()
    }

    pub(super) fn result(&self) -> Option<&JobResult> {
        match self.progress.last() {
            Some(Progress::Ended { result }) => Some(result),
            _ => None,
        }
    }
}

pub(super) struct Server {
    /// Connections as the agent dials them; taken away: the server is down.
    dialled: mpsc::Receiver<ServerEnd>,
    up: Arc<Lock<Option<mpsc::Sender<ServerEnd>>>>,
    end: Option<ServerEnd>,
    pub(super) hello: Option<FromAgent>,
    pub(super) jobs: BTreeMap<DeploymentId, Job>,
    pub(super) replies: BTreeMap<CommandId, Vec<FromAgent>>,
    pub(super) answers: BTreeMap<CommandId, Answer>,
    pub(super) instances: BTreeMap<InstanceId, InstanceReport>,
    pub(super) said_bye: bool,
    pub(super) load: Option<Load>,
    /// What to decide at the next welcome instead of the usual.
    pub(super) decide: BTreeMap<DeploymentId, JobAction>,
    /// When instances end, as the welcome says.
    pub(super) ends: BTreeMap<InstanceId, Timestamp>,
    epoch: Epoch,
}

impl Server {
    pub(super) fn new() -> (Connector, Self) {
        let (dial, dialled) = mpsc::channel(4);
        let up = Arc::new(Lock::new(Some(dial)));
        let server = Self {
            dialled,
            up,
            end: None,
            hello: None,
            jobs: BTreeMap::new(),
            replies: BTreeMap::new(),
            answers: BTreeMap::new(),
            instances: BTreeMap::new(),
            said_bye: false,
            load: None,
            decide: BTreeMap::new(),
            ends: BTreeMap::new(),
            epoch: Epoch::default(),
        };
        (server.connector(), server)
    }

    /// For another life of the agent.
    pub(super) fn connector(&self) -> Connector {
        let door = self.up.clone();
        let connect = move || {
            let dial = door.lock().clone()?;
            let (agent, server) = pair();
            dial.try_send(server).ok()?;
            Some(agent)
        };
        Connector::InProcess(Arc::new(connect))
    }

    /// Takes the agent's next connection and its hello, and answers it.
    pub(super) async fn welcome(&mut self) {
        self.end = timeout(PATIENCE, self.dialled.recv()).await.expect("dialled in time");
        let hello = self.next().await.expect("a hello");
        let AgentFrame::Control(hello) = hello else { panic!("{hello:?}") };
        let FromAgent::Hello { jobs, instances, .. } = &*hello else { panic!("{hello:?}") };
        let decide = |deployment: &DeploymentId| {
            let job = self.jobs.get(deployment);
            let lines = job.map_or(0, |job| job.lines.len() as u64);
            let progress = job.map_or(0, |job| job.progress.len() as u64);
            self.decide.get(deployment).cloned().unwrap_or(JobAction::Send { lines, progress, ahead: None })
        };
        let jobs = jobs
            .iter()
            .map(|job| JobDecision {
                deployment: job.deployment,
                attempt: job.attempt,
                action: decide(&job.deployment),
            })
            .collect();
        let instances = instances
            .iter()
            .map(|report| InstanceDecision {
                instance: report.instance,
                action: InstanceAction::Keep,
                expires_at: self.ends.get(&report.instance).copied(),
            })
            .collect();
        self.epoch = self.epoch.next();
        let welcome = ToAgent::Welcome { epoch: self.epoch, jobs, instances };
        self.hello = Some(*hello);
        self.say(welcome).await;
    }

    pub(super) async fn say(&mut self, message: ToAgent) {
        let end = self.end.as_ref().expect("connected");
        end.tx.send(message).await.expect("the agent listens");
    }

    /// The connection is cut, as by a network that went away.
    pub(super) fn cut(&mut self) {
        self.end = None;
    }

    /// Nobody is at the other end any more, of any connection.
    pub(super) fn hang_up(&mut self) {
        self.cut();
        while self.dialled.try_recv().is_ok() {}
    }

    /// No connection comes about any more.
    pub(super) fn go_away(&mut self) -> mpsc::Sender<ServerEnd> {
        self.cut();
        self.up.lock().take().expect("was up")
    }

    pub(super) fn come_back(&mut self, dial: mpsc::Sender<ServerEnd>) {
        *self.up.lock() = Some(dial);
    }

    async fn next(&mut self) -> Option<AgentFrame> {
        let end = self.end.as_mut()?;
        timeout(PATIENCE, end.rx.recv()).await.expect("the agent says something in time")
    }

    /// Takes one frame; false when the connection has ended.
    pub(super) async fn step(&mut self) -> bool {
        let Some(frame) = self.next().await else { return false };
        self.take(frame).await;
        true
    }

    /// Takes frames until that is so.
    pub(super) async fn until(&mut self, so: impl Fn(&Self) -> bool) {
        while !so(self) {
            assert!(self.step().await, "the connection ended early");
        }
    }

    /// Takes frames until the job has ended and all of it is here.
    pub(super) async fn until_done(&mut self, deployment: DeploymentId) -> &Job {
        self.until(|server| server.jobs.get(&deployment).is_some_and(|job| job.done)).await;
        &self.jobs[&deployment]
    }

    pub(super) async fn until_it_hangs_up(&mut self) {
        while self.step().await {}
    }

    async fn take(&mut self, frame: AgentFrame) {
        match frame {
            AgentFrame::Lines(batch) => {
                let job = self.jobs.entry(batch.deployment).or_default();
                assert_eq!(batch.first, job.lines.len() as u64 + 1, "lines are dense");
                // Over a WebSocket it would be encoded: what comes must survive that.
                let raw = bytes::Bytes::from(batch.encode());
                let batch = sdp_core::wire::LinesBatch::decode(&raw).expect("a well-formed batch");
                job.lines.extend(batch.iter().map(|(meta, line)| (meta.stream, line.to_vec())));
                let (lines, progress) = (job.lines.len() as u64, job.progress.len() as u64);
                let (deployment, attempt) = (batch.deployment, batch.attempt);
                self.answer(ToAgent::Ack { deployment, attempt, lines, progress }).await;
            }
            AgentFrame::Control(message) => self.take_control(*message).await,
            other => panic!("unexpected {other:?}"),
        }
    }

    async fn take_control(&mut self, message: FromAgent) {
        match message {
            FromAgent::Progress { deployment, number, after_line, what, .. } => {
                let job = self.jobs.entry(deployment).or_default();
                assert_eq!(number, job.progress.len() as u64 + 1, "progress is dense");
                assert!(after_line <= job.lines.len() as u64, "progress does not overtake its lines");
                job.progress.push(what);
            }
            FromAgent::Done { deployment, attempt, progress, lines, bytes, dropped, checksum } => {
                let job = self.jobs.get_mut(&deployment).expect("a job that is known");
                let all: Vec<u8> =
                    job.lines.iter().flat_map(|(_, line)| [line, &b"\n"[..]].concat()).collect();
                assert_eq!((lines, progress), (job.lines.len() as u64, job.progress.len() as u64));
                assert_eq!((bytes, checksum), (all.len() as u64, crc32fast::hash(&all)));
                job.done = true;
                job.dropped = dropped;
                self.answer(ToAgent::DoneOk { deployment, attempt }).await;
            }
            FromAgent::Accepted { command } | FromAgent::Rejected { command, .. } => {
                self.replies.entry(command).or_default().push(message);
            }
            FromAgent::Instance { report } => {
                if report.status == (InstanceStatus::Stopped {}) {
                    self.instances.remove(&report.instance);
                } else {
                    self.instances.insert(report.instance, report);
                }
            }
            FromAgent::Answer { command, answer } => {
                self.answers.insert(command, answer);
            }
            FromAgent::Bye { .. } => self.said_bye = true,
            FromAgent::Load { load } => self.load = Some(load),
            other => panic!("unexpected {other:?}"),
        }
    }

    /// As [`Self::say`], but an agent that has hung up is no fault.
    async fn answer(&mut self, message: ToAgent) {
        if let Some(end) = &self.end {
            drop(end.tx.send(message).await);
        }
    }
}
