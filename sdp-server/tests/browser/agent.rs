//! The far side of the wire: an agent that says what a test wants to be seen.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use sdp_core::deployment::{CommitInfo, Step};
use sdp_core::failure::Failure;
use sdp_core::id::{BootId, CommandId, DeploymentId, InstanceId};
use sdp_core::logs::{Appended, Logs};
use sdp_core::name::{AgentName, CommitId};
use sdp_core::platform::Platform;
use sdp_core::routing::{RouteTable, RouteTarget};
use sdp_core::wire::link::{AgentEnd, AgentFrame};
use sdp_core::wire::{
    FromAgent, JobResult, JobSpec, LineMeta, LinesBatch, OutputLine, PROTOCOL, Progress, RouterReport,
    Stream, ToAgent,
};

pub(crate) struct PlayedAgent {
    end: AgentEnd,
    /// What the server said and nobody has asked for yet.
    heard: Vec<ToAgent>,
    /// The newest table, which is in effect.
    table: RouteTable,
}

pub(crate) struct PlayedJob {
    deployment: DeploymentId,
    spec: JobSpec,
    attempt: u32,
    progress: u64,
    pub(crate) lines: u64,
    bytes: Vec<u8>,
    step: Step,
}

impl PlayedAgent {
    pub(crate) async fn connect(platform: &Platform) -> Self {
        let name = AgentName::parse("vm-1").expect("a name");
        let end = platform.connect_agent(name).await.expect("connects");
        let mut agent = Self { end, heard: Vec::new(), table: RouteTable::default() };
        let router = RouterReport {
            kind: "builtin".into(),
            base_url: "http://127.0.0.1:8081".parse().expect("a URL"),
            applied: sdp_core::id::RouteVersion(0),
        };
        agent
            .say(FromAgent::Hello {
                protocol: PROTOCOL,
                boot_id: BootId::new(),
                version: "0.1.0".into(),
                labels: [].into(),
                capacity: 4,
                runtimes: vec!["process".into()],
                preflight: Vec::new(),
                jobs: Vec::new(),
                instances: Vec::new(),
                degraded: None,
                router: Some(router),
            })
            .await;
        agent.hear(|message| matches!(message, ToAgent::Welcome { .. })).await;
        agent
    }

    async fn say(&self, message: FromAgent) {
        self.end.tx.send(message.into()).await.expect("connected");
    }

    /// Waits for a message that fits; all others are kept.
    async fn hear(&mut self, fits: impl Fn(&ToAgent) -> bool) -> ToAgent {
        loop {
            if let Some(at) = self.heard.iter().position(&fits) {
                return self.heard.remove(at);
            }
            let message = tokio::time::timeout(Duration::from_secs(30), self.end.rx.recv()).await;
            self.keep(message.expect("the server says something").expect("connected")).await;
        }
    }

    /// Tables are put into effect, acknowledgements are nothing to one that keeps everything.
    async fn keep(&mut self, message: ToAgent) {
        match message {
            ToAgent::Routes { table } => {
                let version = table.version;
                self.table = table;
                self.say(FromAgent::RoutesApplied { version }).await;
            }
            ToAgent::Ack { .. } => {}
            other => self.heard.push(other),
        }
    }

    /// Somebody looks at an instance: sends these lines, of what it printed last, in frames as an agent makes them.
    pub(crate) async fn be_followed(&mut self, printed: &[OutputLine]) -> CommandId {
        let message = self.hear(|message| matches!(message, ToAgent::FollowOutput { .. })).await;
        let ToAgent::FollowOutput { command, tail, .. } = message else { unreachable!() };
        let left = printed.len().saturating_sub(tail as usize);
        self.output(command, &printed[left..]).await;
        command
    }

    pub(crate) async fn output(&self, command: CommandId, lines: &[OutputLine]) {
        for frame in lines.chunks(300) {
            self.say(FromAgent::Output { command, left_out: 0, lines: frame.to_vec() }).await;
        }
    }

    async fn lead_to(&mut self, id: InstanceId) {
        let leads = |table: &RouteTable| {
            let mut targets = table.targets().map(|(_, _, target)| target);
            targets.any(|target| matches!(target, RouteTarget::Instance { instance, .. } if *instance == id))
        };
        while !leads(&self.table) {
            let message = tokio::time::timeout(Duration::from_secs(30), self.end.rx.recv()).await;
            self.keep(message.expect("the server says something").expect("connected")).await;
        }
    }

    pub(crate) async fn take_job(&mut self) -> PlayedJob {
        let message = self.hear(|message| matches!(message, ToAgent::Deploy { .. })).await;
        let ToAgent::Deploy { command, deployment, attempt, spec, .. } = message else { unreachable!() };
        self.say(FromAgent::Accepted { command }).await;
        PlayedJob {
            deployment,
            spec: *spec,
            attempt,
            progress: 0,
            lines: 0,
            bytes: Vec::new(),
            step: Step::Resolve,
        }
    }
}

impl PlayedJob {
    async fn progress(&mut self, agent: &PlayedAgent, what: Progress) {
        self.progress += 1;
        let (deployment, attempt, number) = (self.deployment, self.attempt, self.progress);
        agent.say(FromAgent::Progress { deployment, attempt, number, after_line: self.lines, what }).await;
    }

    pub(crate) async fn step(&mut self, agent: &PlayedAgent, step: Step) {
        self.step = step;
        self.progress(agent, Progress::StepStarted { step }).await;
    }

    /// Everything up to the build.
    pub(crate) async fn begin(&mut self, agent: &mut PlayedAgent, subject: &str) {
        self.step(agent, Step::Resolve).await;
        let commit = CommitId::parse("1a2b3c4d".repeat(5)).expect("a commit");
        self.say(agent, Stream::Sdp, &[b"feature/refund is 1a2b3c4d"]).await;
        self.progress(agent, Progress::Resolved { commit }).await;
        self.step(agent, Step::Fetch).await;
        self.say(agent, Stream::Sdp, &[b"Fetched 12 objects"]).await;
        let info = CommitInfo { author: "Ada Lovelace".into(), subject: subject.into() };
        self.progress(agent, Progress::Fetched { info, changes: None }).await;
        self.step(agent, Step::Build).await;
    }

    pub(crate) async fn say(&mut self, agent: &mut PlayedAgent, stream: Stream, texts: &[&[u8]]) {
        for part in texts.chunks(1000) {
            let at_ms = Timestamp::now().as_millisecond();
            let meta = |text: &&[u8]| LineMeta {
                length: u32::try_from(text.len()).expect("short"),
                at_ms,
                step: self.step,
                stream,
            };
            let batch = LinesBatch {
                deployment: self.deployment,
                attempt: self.attempt,
                first: self.lines + 1,
                lines: part.iter().map(meta).collect(),
                bytes: Bytes::from(part.concat()),
            };
            agent.end.tx.send(AgentFrame::Lines(batch)).await.expect("connected");
            while let Ok(message) = agent.end.rx.try_recv() {
                agent.keep(message).await;
            }
            self.lines += part.len() as u64;
            for text in part {
                self.bytes.extend_from_slice(text);
                self.bytes.push(b'\n');
            }
        }
    }

    pub(crate) async fn print(&mut self, agent: &mut PlayedAgent, texts: &[&str]) {
        let texts: Vec<_> = texts.iter().map(|text| text.as_bytes()).collect();
        self.say(agent, Stream::Stdout, &texts).await;
    }

    /// `line 7`, `line 8` … up to this one.
    pub(crate) async fn count_to(&mut self, agent: &mut PlayedAgent, last: u64) {
        let texts: Vec<_> = (self.lines + 1..=last).map(|n| format!("line {n}")).collect();
        self.print(agent, &texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }

    /// Like `count_to`, but straight into the log, as if it had been at it for an hour. Only the last line goes by way of
    /// the agent. Every so many-th line says `Needle` after its number.
    pub(crate) async fn flood(&mut self, agent: &mut PlayedAgent, logs: &Logs, last: u64, needle_every: u64) {
        let said = self.lines;
        logs.watch(self.deployment).wait_for(|held| *held == said).await.expect("the log is there");
        while self.lines < last - 1 {
            let first = self.lines + 1;
            let until = (last - 1).min(self.lines + 20_000);
            let (mut bytes, mut lines) = (Vec::new(), Vec::new());
            for n in first..=until {
                let start = bytes.len();
                bytes.extend_from_slice(b"line ");
                bytes.extend_from_slice(n.to_string().as_bytes());
                if n % needle_every == 0 {
                    bytes.extend_from_slice(b" \x1b[31mNee\x1b[1mdle\x1b[0m");
                }
                let length = u32::try_from(bytes.len() - start).expect("short");
                lines.push(LineMeta {
                    length,
                    at_ms: 1_800_000_000_000,
                    step: self.step,
                    stream: Stream::Stdout,
                });
            }
            let mut at = 0;
            for line in &lines {
                let end = at + line.length as usize;
                self.bytes.extend_from_slice(&bytes[at..end]);
                self.bytes.push(b'\n');
                at = end;
            }
            let bytes = Bytes::from(bytes);
            let batch =
                LinesBatch { deployment: self.deployment, attempt: self.attempt, first, lines, bytes };
            assert_eq!(logs.append(batch).await.expect("appended"), Appended::Added { last: until });
            self.lines = until;
        }
        self.count_to(agent, last).await;
    }

    pub(crate) fn instance(&self) -> InstanceId {
        self.spec.instance
    }

    /// The rest of a deployment that goes well, and its switch.
    pub(crate) async fn succeed(mut self, agent: &mut PlayedAgent, port: u16) {
        self.step(agent, Step::Start).await;
        self.progress(agent, Progress::Started { address: SocketAddr::from(([127, 0, 0, 1], port)) }).await;
        self.step(agent, Step::Check).await;
        let id = self.spec.instance;
        self.end(agent, JobResult::Ready {}).await;
        agent.lead_to(id).await;
    }

    pub(crate) async fn fail(self, agent: &mut PlayedAgent, failure: Failure) {
        self.end(agent, JobResult::Failed { failure }).await;
    }

    async fn end(mut self, agent: &mut PlayedAgent, result: JobResult) {
        self.progress(agent, Progress::Ended { result }).await;
        let done = FromAgent::Done {
            deployment: self.deployment,
            attempt: self.attempt,
            progress: self.progress,
            lines: self.lines,
            bytes: self.bytes.len() as u64,
            dropped: 0,
            checksum: crc32fast::hash(&self.bytes),
        };
        agent.say(done).await;
        let id = self.deployment;
        agent
            .hear(|message| matches!(message, ToAgent::DoneOk { deployment, .. } if *deployment == id))
            .await;
    }
}
