//! A server for one test, a client for it, and an agent that does what the test says.

use bytes::Bytes;
use reqwest::{Method, RequestBuilder, Response};
use sdp_core::access::Access;
use sdp_core::api::{DeploymentCreated, Problem, TokenCreated, TokenKind};
use sdp_core::deployment::{State, Step};
use sdp_core::failure::{Failure, FailureReason};
use sdp_core::id::{BootId, DeploymentId, RouteVersion};
use sdp_core::platform::Platform;
use sdp_core::secret::GitCredential;
use sdp_core::wire::link::AgentEnd;
use sdp_core::wire::{
    Answer, FromAgent, JobDecision, JobReport, JobResult, LineMeta, LinesBatch, PROTOCOL, ProbeHop,
    ProbeRequest, Progress, RefInfo, RouterReport, SecretVariable, Stream, ToAgent,
};
use sdp_server::{Config, Server};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub(crate) struct Host {
    pub(crate) platform: Platform,
    pub(crate) url: String,
    pub(crate) admin: String,
    pub(crate) http: reqwest::Client,
    server: Server,
    shutdown: CancellationToken,
    folder: TempDir,
}

impl Host {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        drop(rustls::crypto::ring::default_provider().install_default());
        let folder = tempfile::tempdir().expect("a folder");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let mut config = Config::new(url.parse().expect("a url"), folder.path());
        config.login.trust_bot = true;
        far_limits(&mut config.limits);
        change(&mut config);
        let shutdown = CancellationToken::new();
        let server = sdp_server::start(config, listener, shutdown.clone()).await.expect("starts");
        let admin = server.admin_token.as_ref().expect("the first start makes one").expose().to_owned();
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .expect("a client");
        Self { platform: server.platform.clone(), url, admin, http, server, shutdown, folder }
    }

    /// Without any credential.
    pub(crate) fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    pub(crate) fn with(&self, token: &str, method: Method, path: &str) -> RequestBuilder {
        self.bare(method, path).bearer_auth(token)
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.with(&self.admin, Method::GET, path)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.with(&self.admin, Method::POST, path).json(body)
    }

    pub(crate) async fn token(&self, kind: TokenKind, name: &str) -> String {
        let made = self.post("/api/v1/tokens", &json!({ "kind": kind, "name": name })).send().await;
        let made: TokenCreated = ok(made.expect("answered"), 201).await;
        made.token.expose().to_owned()
    }

    /// Sends a body with an administrator's token.
    pub(crate) fn put(&self, path: &str, body: &Value) -> RequestBuilder {
        self.with(&self.admin, Method::PUT, path).json(body)
    }

    /// Adds the services `payments`, `ledger` and `gateway`, each with a baseline.
    pub(crate) async fn shop(&self) {
        for name in ["payments", "ledger", "gateway"] {
            let service = json!({ "name": name, "repo": format!("/srv/git/{name}.git"),
                "baseline": format!("https://{name}.ocp.test"), "builder": { "type": "command", "run": ["./x"] } });
            let answer = self.post("/api/v1/services", &service).send().await.expect("answered");
            assert_eq!(answer.status(), 201);
        }
    }

    /// Adds the service `hello`.
    pub(crate) async fn hello(&self) {
        let answer = self.post("/api/v1/services", &hello()).send().await.expect("answered");
        assert_eq!(answer.status(), 201);
    }

    pub(crate) async fn deploy(&self) -> DeploymentCreated {
        let answer =
            self.post("/api/v1/deployments", &json!({ "service": "hello", "sandbox": "alice" })).send().await;
        ok(answer.expect("answered"), 202).await
    }

    pub(crate) async fn agent(&self) -> Agent {
        Agent::connect(&self.platform, hello_frame()).await
    }

    /// An agent with a router at `http://router.test`, which puts every table into effect at once.
    pub(crate) async fn router(&self) -> Agent {
        let mut hello = hello_frame();
        if let FromAgent::Hello { router, .. } = &mut hello {
            let base_url = "http://router.test".parse().expect("a url");
            *router =
                Some(RouterReport { kind: "builtin".into(), base_url, applied: RouteVersion::default() });
        }
        Agent::connect(&self.platform, hello).await
    }

    /// What lets people ask through the chat.
    pub(crate) async fn chat(&self) -> Chat<'_> {
        Chat { host: self, token: self.token(TokenKind::Bot, "chat").await }
    }

    /// Its people, sessions and tokens.
    pub(crate) fn access(&self) -> &Access {
        &self.server.access
    }

    /// Its data folder.
    pub(crate) fn data(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Tells the server to stop, without waiting for it.
    pub(crate) fn shut_down(&self) {
        self.shutdown.cancel();
    }

    /// Stops the server, and waits until nothing of it is left.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.server.ended().await;
        drop(self.folder);
    }
}

/// Limits that no test reaches by being quick.
pub(crate) fn far_limits(limits: &mut sdp_server::config::Limits) {
    limits.requests_per_minute = 10_000_000;
    limits.writes_per_minute = 10_000_000;
    limits.login_attempts_per_minute = 10_000_000;
    limits.refused_per_minute = 10_000_000;
    limits.sockets_per_principal = 10_000;
    limits.connections_per_address = 100_000;
}

pub(crate) fn hello() -> Value {
    json!({ "name": "hello", "repo": "/srv/git/hello.git", "builder": { "type": "command", "run": ["./hello"] } })
}

/// The body of an answer with this status.
pub(crate) async fn ok<T: serde::de::DeserializeOwned>(answer: Response, status: u16) -> T {
    let found = answer.status();
    let body = answer.text().await.expect("a body");
    assert_eq!(found.as_u16(), status, "{body}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// The problem in an answer with this status, which is whole.
pub(crate) async fn problem(answer: Response, status: u16) -> Problem {
    let kind = answer.headers().get("content-type").map(|kind| kind.to_str().expect("text").to_owned());
    assert_eq!(kind.as_deref(), Some("application/problem+json"), "{} {}", answer.status(), answer.url());
    assert!(answer.headers().contains_key("x-request-id"));
    let problem: Problem = ok(answer, status).await;
    assert_eq!(problem.status, status);
    assert!(!problem.title.is_empty() && !problem.code.is_empty());
    problem
}

pub(crate) async fn refused(request: RequestBuilder, status: u16, code: &str) -> Problem {
    let problem = problem(request.send().await.expect("answered"), status).await;
    assert_eq!(problem.code, code, "{problem:?}");
    problem
}

/// People who ask through the chat: a bot's token speaks for them.
pub(crate) struct Chat<'h> {
    host: &'h Host,
    token: String,
}

impl Chat<'_> {
    pub(crate) fn of(&self, person: &str, method: Method, path: &str) -> RequestBuilder {
        self.host.with(&self.token, method, path).header("sdp-on-behalf-of", person)
    }

    pub(crate) fn put(&self, person: &str, path: &str, body: &Value) -> RequestBuilder {
        self.of(person, Method::PUT, path).json(body)
    }

    pub(crate) fn post(&self, person: &str, path: &str, body: &Value) -> RequestBuilder {
        self.of(person, Method::POST, path).json(body)
    }

    /// Asks for a deployment.
    pub(crate) fn deploy(&self, person: &str, service: &str, sandbox: &str) -> RequestBuilder {
        let body = json!({ "service": service, "git_ref": "main", "sandbox": sandbox });
        self.post(person, "/api/v1/deployments", &body)
    }
}

/// An agent that takes every deployment and says what the test tells it to say.
pub(crate) struct Agent {
    end: AgentEnd,
    /// What the server decided about the jobs that the hello named.
    pub(crate) decided: Vec<JobDecision>,
}

pub(crate) struct Job {
    pub(crate) id: DeploymentId,
    attempt: u32,
    progress: u64,
    pub(crate) lines: u64,
    bytes: Vec<u8>,
}

impl Job {
    /// As a hello names it.
    pub(crate) fn report(&self) -> JobReport {
        JobReport {
            deployment: self.id,
            attempt: self.attempt,
            done: false,
            interrupted: false,
            lines: self.lines,
            progress: self.progress,
        }
    }
}

impl Agent {
    async fn connect(platform: &Platform, hello: FromAgent) -> Self {
        let name = "vm-1".parse().expect("a name");
        let end = platform.connect_agent(name).await.expect("connected");
        Self::begin(end, hello).await
    }

    /// Says hello over a connection.
    pub(crate) async fn begin(end: AgentEnd, hello: FromAgent) -> Self {
        let mut agent = Self { end, decided: Vec::new() };
        agent.say(hello).await;
        let ToAgent::Welcome { jobs, .. } = agent.hear().await else { panic!("no welcome") };
        agent.decided = jobs;
        agent
    }

    /// Waits until so many lines of a job are acknowledged.
    pub(crate) async fn acked(&mut self, job: &Job, wanted: u64) {
        loop {
            if let ToAgent::Ack { deployment, lines, .. } = self.hear().await
                && deployment == job.id
                && lines >= wanted
            {
                return;
            }
        }
    }

    /// Waits until all progress of a job is acknowledged.
    pub(crate) async fn applied(&mut self, job: &Job) {
        loop {
            if let ToAgent::Ack { deployment, progress, .. } = self.hear().await
                && deployment == job.id
                && progress >= job.progress
            {
                return;
            }
        }
    }

    /// Sends again what a job printed after this line.
    pub(crate) async fn print_again(&mut self, job: &mut Job, after: u64) {
        let printed = std::mem::take(&mut job.bytes);
        let lines: Vec<&[u8]> = printed.split_inclusive(|byte| *byte == b'\n').collect();
        let lines: Vec<&[u8]> = lines.iter().map(|line| &line[..line.len() - 1]).collect();
        let (held, rest) = lines.split_at(usize::try_from(after).expect("few"));
        job.lines = after;
        for line in held {
            job.bytes.extend_from_slice(line);
            job.bytes.push(b'\n');
        }
        for batch in rest.chunks(100) {
            self.print(job, batch).await;
        }
    }

    pub(crate) async fn say(&mut self, frame: FromAgent) {
        self.end.tx.send(frame.into()).await.expect("connected");
    }

    async fn hear(&mut self) -> ToAgent {
        let message = self.end.rx.recv().await.expect("connected");
        if let ToAgent::Routes { table } = &message {
            let version = table.version;
            self.say(FromAgent::RoutesApplied { version }).await;
        }
        message
    }

    /// Obeys until this is done.
    pub(crate) async fn while_waiting<T>(&mut self, done: impl Future<Output = T>) -> T {
        tokio::pin!(done);
        loop {
            tokio::select! {
                done = &mut done => return done,
                _ = self.hear() => {}
            }
        }
    }

    /// Answers the next probe; what it was asked for.
    pub(crate) async fn probed(&mut self, status: u16, hops: Vec<ProbeHop>) -> ProbeRequest {
        loop {
            if let ToAgent::Probe { command, probe } = self.hear().await {
                let served_by = hops.first().map(|hop| hop.served_by.clone());
                let answer = Answer::Probed { status, served_by, hops };
                self.say(FromAgent::Answer { command, answer }).await;
                return probe;
            }
        }
    }

    /// Brings the job's instance up at a port of this machine, and ends the job.
    pub(crate) async fn succeed(&mut self, mut job: Job, port: u16) {
        let commit = "1a2b3c4d".repeat(5).parse().expect("a commit");
        self.progress(&mut job, Progress::Resolved { commit }).await;
        self.progress(&mut job, Progress::StepStarted { step: Step::Start }).await;
        let address = std::net::SocketAddr::from(([10, 9, 0, 1], port));
        self.progress(&mut job, Progress::Started { address }).await;
        self.progress(&mut job, Progress::StepStarted { step: Step::Check }).await;
        self.end(job, JobResult::Ready {}).await;
    }

    /// Answers the next question about branches.
    pub(crate) async fn list_refs(&mut self, names: &[&str]) {
        loop {
            if let ToAgent::ListRefs { command, .. } = self.hear().await {
                let commit = "a".repeat(40);
                let of = |name: &&str| RefInfo {
                    name: name.parse().expect("a branch"),
                    commit: commit.parse().expect("a commit"),
                };
                let branches = names.iter().map(of).collect();
                let answer = Answer::Refs { head: None, branches, tags: Vec::new() };
                return self.say(FromAgent::Answer { command, answer }).await;
            }
        }
    }

    /// Answers the next question about a credential, if it is asked for this password, that it opens the repository.
    pub(crate) async fn vouch(&mut self, right: &str) -> GitCredential {
        loop {
            if let ToAgent::CheckCredential { command, credential, .. } = self.hear().await {
                let answer = if credential.password.expose() == right {
                    Answer::Account { user: credential.username.clone() }
                } else {
                    let failure = Failure::new(Step::Resolve, FailureReason::CredentialsNeeded, "refused");
                    Answer::Failed { failure }
                };
                self.say(FromAgent::Answer { command, answer }).await;
                return credential;
            }
        }
    }

    /// Takes the next deployment; the secrets that came with it.
    pub(crate) async fn take_with_secrets(&mut self) -> Vec<SecretVariable> {
        loop {
            if let ToAgent::Deploy { secrets, .. } = self.hear().await {
                return secrets;
            }
        }
    }

    /// Takes the next deployment, and gives the credential that it came with.
    pub(crate) async fn take_credential(&mut self) -> Option<GitCredential> {
        loop {
            if let ToAgent::Deploy { command, credential, .. } = self.hear().await {
                self.say(FromAgent::Accepted { command }).await;
                return credential;
            }
        }
    }

    /// Takes the next deployment.
    pub(crate) async fn take(&mut self) -> Job {
        loop {
            if let ToAgent::Deploy { command, deployment, attempt, .. } = self.hear().await {
                self.say(FromAgent::Accepted { command }).await;
                let mut job = Job { id: deployment, attempt, progress: 0, lines: 0, bytes: Vec::new() };
                self.progress(&mut job, Progress::StepStarted { step: Step::Resolve }).await;
                return job;
            }
        }
    }

    pub(crate) async fn progress(&mut self, job: &mut Job, what: Progress) {
        job.progress += 1;
        self.say(FromAgent::Progress {
            deployment: job.id,
            attempt: job.attempt,
            number: job.progress,
            after_line: job.lines,
            what,
        })
        .await;
    }

    pub(crate) async fn print(&mut self, job: &mut Job, lines: &[&[u8]]) {
        let metas = lines.iter().map(|line| LineMeta {
            length: u32::try_from(line.len()).expect("short"),
            at_ms: 1_700_000_000_000,
            step: Step::Resolve,
            stream: Stream::Stdout,
        });
        let batch = LinesBatch {
            deployment: job.id,
            attempt: job.attempt,
            first: job.lines + 1,
            lines: metas.collect(),
            bytes: Bytes::from(lines.concat()),
        };
        job.lines = batch.last();
        for line in lines {
            job.bytes.extend_from_slice(line);
            job.bytes.push(b'\n');
        }
        self.end.tx.send(sdp_core::wire::link::AgentFrame::Lines(batch)).await.expect("connected");
    }

    /// Ends the job as failed, and waits until the server has everything.
    pub(crate) async fn fail(&mut self, job: Job) -> Vec<u8> {
        let failure = Failure::new(Step::Resolve, FailureReason::RefNotFound, "there is no branch x");
        self.end(job, JobResult::Failed { failure }).await
    }

    async fn end(&mut self, mut job: Job, result: JobResult) -> Vec<u8> {
        self.progress(&mut job, Progress::Ended { result }).await;
        self.say(FromAgent::Done {
            deployment: job.id,
            attempt: job.attempt,
            progress: job.progress,
            lines: job.lines,
            bytes: job.bytes.len() as u64,
            dropped: 0,
            checksum: crc32fast::hash(&job.bytes),
        })
        .await;
        while !matches!(self.hear().await, ToAgent::DoneOk { .. }) {}
        job.bytes
    }
}

pub(crate) fn hello_frame() -> FromAgent {
    FromAgent::Hello {
        protocol: PROTOCOL,
        boot_id: BootId::new(),
        version: "test".into(),
        labels: Default::default(),
        capacity: 4,
        runtimes: vec!["process".into()],
        preflight: vec![],
        jobs: vec![],
        instances: vec![],
        degraded: None,
        router: None,
    }
}

pub(crate) fn is_queued(created: &DeploymentCreated) -> bool {
    matches!(created.deployment.state, State::Queued {})
}
