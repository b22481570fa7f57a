//! The far side of the wire: an agent that says what a test wants it to say.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::super::Platform;
use super::name;
use crate::deployment::Step;
use crate::id::{BootId, CommandId, DeploymentId, InstanceId};
use crate::name::CommitId;
use crate::routing::RouteTable;
use crate::wire::link::{AgentEnd, AgentFrame};
use crate::wire::{
    FromAgent, Health, InstanceReport, InstanceStatus, JobReport, JobResult, JobSpec, LineMeta, LinesBatch,
    PROTOCOL, Progress, RouterReport, Stream, ToAgent,
};

pub(crate) fn commit(digit: char) -> CommitId {
    CommitId::parse(digit.to_string().repeat(40)).expect("a commit")
}

pub(crate) struct PlayedAgent {
    pub(crate) boot: BootId,
    name: String,
    end: AgentEnd,
    /// What the server said and nobody has asked for yet.
    heard: Vec<ToAgent>,
    /// The newest table; applied at once.
    pub(crate) table: RouteTable,
    pub(crate) jobs: Vec<JobReport>,
    pub(crate) instances: Vec<InstanceReport>,
    /// Why it cannot tell which instances it has.
    pub(crate) degraded: Option<String>,
    pub(crate) welcome: Option<ToAgent>,
}

/// A job as the played agent holds it.
pub(crate) struct PlayedJob {
    pub(crate) command: CommandId,
    pub(crate) deployment: DeploymentId,
    pub(crate) attempt: u32,
    pub(crate) spec: JobSpec,
    pub(crate) credential: bool,
    progress: u64,
    lines: Vec<String>,
}

impl PlayedAgent {
    pub(crate) async fn connect(platform: &Platform, text: &str) -> Self {
        let end = platform.connect_agent(name(text)).await.expect("connects");
        let mut agent = Self {
            boot: BootId::new(),
            name: text.to_owned(),
            end,
            heard: Vec::new(),
            table: RouteTable::default(),
            jobs: Vec::new(),
            instances: Vec::new(),
            degraded: None,
            welcome: None,
        };
        agent.hello(2).await;
        agent
    }

    /// A new connection of the same process.
    pub(crate) async fn reconnect(&mut self, platform: &Platform) {
        self.end = platform.connect_agent(name(&self.name)).await.expect("connects");
        self.hello(2).await;
    }

    async fn hello(&mut self, capacity: u32) {
        self.say(self.hello_of(capacity)).await;
        self.welcome = Some(self.hear(|message| matches!(message, ToAgent::Welcome { .. })).await);
    }

    pub(crate) fn hello_of(&self, capacity: u32) -> FromAgent {
        let router = RouterReport {
            kind: "builtin".into(),
            base_url: "http://127.0.0.1:8081".parse().expect("a URL"),
            applied: self.table.version,
        };
        FromAgent::Hello {
            protocol: PROTOCOL,
            boot_id: self.boot,
            version: "test".into(),
            labels: [name("linux")].into(),
            capacity,
            runtimes: vec!["process".into()],
            preflight: Vec::new(),
            jobs: self.jobs.clone(),
            instances: self.instances.clone(),
            degraded: self.degraded.clone(),
            router: Some(router),
        }
    }

    pub(crate) async fn say(&self, message: FromAgent) {
        self.end.tx.send(message.into()).await.expect("connected");
    }

    /// Waits for a message that fits; tables are applied and all others kept for later.
    pub(crate) async fn hear(&mut self, fits: impl Fn(&ToAgent) -> bool) -> ToAgent {
        if let Some(at) = self.heard.iter().position(&fits) {
            return self.heard.remove(at);
        }
        loop {
            let message = tokio::time::timeout(Duration::from_secs(20), self.end.rx.recv()).await;
            let message = message.expect("the server says something").expect("connected");
            if let ToAgent::Routes { table } = &message {
                self.apply(table.clone()).await;
            }
            if fits(&message) {
                return message;
            }
            self.heard.push(message);
        }
    }

    /// A message that is there already.
    pub(crate) async fn hear_now(&mut self) -> Option<ToAgent> {
        let message = self.end.rx.try_recv().ok()?;
        if let ToAgent::Routes { table } = &message {
            self.apply(table.clone()).await;
        }
        Some(message)
    }

    async fn apply(&mut self, table: RouteTable) {
        let named = |table: &RouteTable| -> Vec<InstanceId> {
            let instances = table.instances().map(|(instance, _)| instance);
            instances.collect()
        };
        let gone: Vec<_> = named(&self.table).into_iter().filter(|id| !named(&table).contains(id)).collect();
        let version = table.version;
        self.table = table;
        let drained = gone.into_iter().map(|instance| FromAgent::Drained { instance });
        for message in [FromAgent::RoutesApplied { version }].into_iter().chain(drained) {
            // The server may have ended the connection after it sent the table.
            self.end.tx.send(message.into()).await.ok();
        }
    }

    pub(crate) async fn take_job(&mut self) -> PlayedJob {
        let message = self.hear(|message| matches!(message, ToAgent::Deploy { .. })).await;
        let ToAgent::Deploy { command, deployment, attempt, spec, credential, .. } = message else {
            unreachable!()
        };
        self.say(FromAgent::Accepted { command }).await;
        self.jobs.push(JobReport {
            deployment,
            attempt,
            done: false,
            interrupted: false,
            lines: 0,
            progress: 0,
        });
        let credential = credential.is_some();
        PlayedJob { command, deployment, attempt, spec: *spec, credential, progress: 0, lines: Vec::new() }
    }

    /// The job's instance, which the agent reports from now on.
    pub(crate) fn runs(&mut self, job: &PlayedJob, port: u16) {
        let status = InstanceStatus::Running {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            restarts: 0,
            last_restart: None,
            health: Health::Healthy {},
        };
        self.instances.push(InstanceReport {
            instance: job.spec.instance,
            deployment: job.deployment,
            status,
        });
    }

    /// Everything up to a healthy instance.
    pub(crate) async fn bring_up(&mut self, job: &mut PlayedJob, commit: CommitId, port: u16) {
        job.progress(self, Progress::StepStarted { step: Step::Resolve }).await;
        job.progress(self, Progress::Resolved { commit }).await;
        job.progress(self, Progress::StepStarted { step: Step::Build }).await;
        job.lines(self, &["building", "built"]).await;
        job.progress(self, Progress::StepStarted { step: Step::Start }).await;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        job.progress(self, Progress::Started { address }).await;
        self.runs(job, port);
        job.progress(self, Progress::StepStarted { step: Step::Check }).await;
        job.end(self, JobResult::Ready {}).await;
    }

    /// Does a whole deployment, and its switch.
    pub(crate) async fn deploy(&mut self, commit: CommitId, port: u16) -> PlayedJob {
        let mut job = self.take_job().await;
        self.bring_up(&mut job, commit, port).await;
        self.done_ok(&job).await;
        let instance = job.spec.instance;
        while !self.routes_to(instance) {
            self.hear(|message| matches!(message, ToAgent::Routes { .. })).await;
        }
        job
    }

    fn routes_to(&self, id: InstanceId) -> bool {
        self.table.names_instance(id)
    }

    pub(crate) async fn done_ok(&mut self, job: &PlayedJob) {
        let id = job.deployment;
        self.hear(|message| matches!(message, ToAgent::DoneOk { deployment, .. } if *deployment == id)).await;
        self.jobs.retain(|held| held.deployment != id);
    }

    /// Waits for the order to stop this instance, and obeys.
    pub(crate) async fn stop(&mut self, id: InstanceId) {
        self.hear(|message| matches!(message, ToAgent::StopInstance { instance, .. } if *instance == id))
            .await;
        let at = self.instances.iter().position(|report| report.instance == id);
        let deployment = at.map_or_else(DeploymentId::new, |at| self.instances.remove(at).deployment);
        let report = InstanceReport { instance: id, deployment, status: InstanceStatus::Stopped {} };
        self.say(FromAgent::Instance { report }).await;
    }
}

impl PlayedJob {
    pub(crate) async fn progress(&mut self, agent: &PlayedAgent, what: Progress) {
        self.progress += 1;
        self.progress_again(agent, self.progress, what).await;
    }

    /// An item with a number of the test's choice.
    pub(crate) async fn progress_again(&self, agent: &PlayedAgent, number: u64, what: Progress) {
        agent
            .say(FromAgent::Progress {
                deployment: self.deployment,
                attempt: self.attempt,
                number,
                after_line: self.lines.len() as u64,
                what,
            })
            .await;
    }

    pub(crate) async fn lines(&mut self, agent: &PlayedAgent, texts: &[&str]) {
        let first = self.lines.len() as u64 + 1;
        self.lines.extend(texts.iter().map(|text| (*text).to_owned()));
        self.lines_from(agent, first).await;
    }

    /// Remembers lines without sending them.
    pub(crate) fn hold(&mut self, texts: &[&str]) {
        self.lines.extend(texts.iter().map(|text| (*text).to_owned()));
    }

    /// What it has printed.
    pub(crate) fn text(&self) -> String {
        self.lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
    }

    /// How many lines that is.
    pub(crate) fn printed(&self) -> u64 {
        self.lines.len() as u64
    }

    /// Sends all lines from this one on (again).
    pub(crate) async fn lines_from(&self, agent: &PlayedAgent, first: u64) {
        let texts = &self.lines[usize::try_from(first).expect("small") - 1..];
        let meta = |text: &String| LineMeta {
            length: u32::try_from(text.len()).expect("short"),
            at_ms: 0,
            step: Step::Build,
            stream: Stream::Stdout,
        };
        let batch = LinesBatch {
            deployment: self.deployment,
            attempt: self.attempt,
            first,
            lines: texts.iter().map(meta).collect(),
            bytes: Bytes::from(texts.concat()),
        };
        agent.end.tx.send(AgentFrame::Lines(batch)).await.expect("connected");
    }

    pub(crate) async fn end(&mut self, agent: &PlayedAgent, result: JobResult) {
        self.progress(agent, Progress::Ended { result }).await;
        self.done(agent, 0).await;
    }

    /// Says `done`, with a checksum that is off by so much.
    pub(crate) async fn done(&self, agent: &PlayedAgent, off_by: u32) {
        let text = self.text();
        agent
            .say(FromAgent::Done {
                deployment: self.deployment,
                attempt: self.attempt,
                progress: self.progress,
                lines: self.lines.len() as u64,
                bytes: text.len() as u64,
                dropped: 0,
                checksum: crc32fast::hash(text.as_bytes()).wrapping_add(off_by),
            })
            .await;
    }
}
