//! The whole agent in process: real git, real programs, real processes; the test plays the server over [`link::pair`].

mod apart;
mod builds;
mod jobs;
mod lifetimes;
mod link;
mod place;
mod questions;
mod restart;
mod server;
mod socket;

use jiff::Timestamp;
use sdp_core::catalog::Limits;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sdp_core::catalog::{Builder, HealthCheck};
use sdp_core::failure::{Failure, FailureReason};
use sdp_core::id::{CommandId, DeploymentId, DeploymentNumber, InstanceId};
use sdp_core::name::{CommitId, GitRef, RepoPath, RepoUrl, RoutingKey, SandboxName, ServiceName};
use sdp_core::wire::{Answer, JobPlace, JobResult, JobSpec, Progress, StepLimits, ToAgent};
use tempfile::TempDir;

use super::*;
use server::Server;

/// A folder with a repository, and an agent that may use it.
struct World {
    folder: TempDir,
    server: Server,
    config: Config,
    life: Life,
}

/// One life of the agent, on threads of its own, so that it can be cut off in the middle.
struct Life {
    runtime: tokio::runtime::Runtime,
    shutdown: CancellationToken,
    agent: tokio::task::JoinHandle<Result<(), AgentError>>,
}

impl Life {
    fn begin(config: Config, connector: Connector) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let shutdown = CancellationToken::new();
        let agent = runtime.spawn(crate::run(config, connector, shutdown.clone()));
        Self { runtime, shutdown, agent }
    }

    /// Drops all that it does, wherever that is, and returns when its folder is nobody's.
    async fn cut_off(self, config: &Config) {
        let Self { runtime, .. } = self;
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(server::PATIENCE)).await.unwrap();
        // A program that another test is just starting may hold a copy of the lock for a moment.
        let lock = File::open(config.data_dir.join("lock")).unwrap();
        let operation = rustix::fs::FlockOperation::LockExclusive;
        tokio::task::spawn_blocking(move || rustix::fs::flock(lock, operation)).await.unwrap().unwrap();
    }
}

impl World {
    /// An agent that has just said hello and been welcomed.
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::new(folder.path().join("data"));
        config.git.local_paths = vec![folder.path().to_owned()];
        config.capacity = 2;
        config.min_free = 0;
        change(&mut config);
        let (connector, server) = Server::new();
        let life = Life::begin(config.clone(), connector);
        let mut world = Self { folder, server, config, life };
        world.server.welcome().await;
        world
    }

    /// Ends the agent as SIGKILL does; its next life dials, too. Its hello is still to be answered.
    async fn kill(mut self) -> Self {
        self.life.cut_off(&self.config).await;
        self.server.hang_up();
        self.life = Life::begin(self.config.clone(), self.server.connector());
        self
    }

    /// As `kill`, and answers the hello.
    async fn kill_and_welcome(self) -> Self {
        let mut world = self.kill().await;
        world.server.welcome().await;
        world
    }

    /// Ends the agent as SIGTERM does, and begins its next life.
    async fn restart(self) -> Self {
        let Self { folder, mut server, config, mut life } = self;
        life.shutdown.cancel();
        let ended = tokio::join!(&mut life.agent, server.until_it_hangs_up());
        ended.0.expect("no panic").expect("no error");
        life.cut_off(&config).await;
        server.hang_up();
        let life = Life::begin(config.clone(), server.connector());
        let mut world = Self { folder, server, config, life };
        world.server.welcome().await;
        world
    }

    /// Ends the agent as SIGTERM does, and waits until nothing of it runs.
    async fn stop(mut self) -> Server {
        self.life.shutdown.cancel();
        let server = &mut self.server;
        let ended = tokio::join!(&mut self.life.agent, server.until_it_hangs_up());
        ended.0.expect("no panic").expect("no error");
        self.life.cut_off(&self.config).await;
        self.server
    }

    fn repo(&self) -> PathBuf {
        self.folder.path().join("repo.git")
    }

    /// Commits these files (a `!` before the name makes it executable) to `main`.
    fn commit(&self, files: &[(&str, &str)]) -> CommitId {
        let repo = git2::Repository::init_bare(self.repo()).unwrap();
        let mut tree = repo.treebuilder(None).unwrap();
        for (name, text) in files {
            let blob = repo.blob(text.as_bytes()).unwrap();
            let (name, mode) = match name.strip_prefix('!') {
                Some(name) => (name, 0o100_755),
                None => (*name, 0o100_644),
            };
            tree.insert(name, blob, mode).unwrap();
        }
        let tree = repo.find_tree(tree.write().unwrap()).unwrap();
        let who = git2::Signature::new("Åsa", "asa@example.com", &git2::Time::new(1_700_000_000, 0)).unwrap();
        let parent = repo.find_reference("refs/heads/main").ok().map(|main| main.peel_to_commit().unwrap());
        let parents: Vec<_> = parent.iter().collect();
        let id = repo
            .commit(Some("refs/heads/main"), &who, &who, "greet kindly\n\nbody", &tree, &parents)
            .unwrap();
        CommitId::parse(id.to_string()).unwrap()
    }

    fn spec(&self, build: &[&str], run: &[&str]) -> JobSpec {
        let words = |argv: &[&str]| argv.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let build = if build.is_empty() { Vec::new() } else { vec![words(build)] };
        JobSpec {
            number: DeploymentNumber(412),
            service: ServiceName::parse("hello").unwrap(),
            sandbox: SandboxName::parse("alice").unwrap(),
            instance: InstanceId::new(),
            repo: RepoUrl::parse(self.repo().to_str().unwrap()).unwrap(),
            git_ref: GitRef::parse("main").unwrap(),
            commit: None,
            since: None,
            reuse_build: false,
            subdir: RepoPath::parse(".").unwrap(),
            builder: Builder::Command { build, run: words(run) },
            health: HealthCheck::Uptime { seconds: 1 },
            env: BTreeMap::new(),
            port: None,
            image: None,
            limits: Limits::default(),
            writable: BTreeSet::new(),
            release: None,
            labels: BTreeSet::new(),
            step_limits: StepLimits::default(),
            place: None,
        }
    }

    /// In that sandbox's place.
    fn place(&self, expires_at: Option<Timestamp>) -> JobPlace {
        let route = |service: &str| {
            let url = format!("http://127.0.0.1:8081/~alice/~{service}/");
            (ServiceName::parse(service).unwrap(), url.parse().unwrap())
        };
        JobPlace {
            environment: "staging".parse().unwrap(),
            key: RoutingKey::from_random([7; 16]),
            routes: ["hello", "order-items"].map(route).into(),
            expires_at,
        }
    }

    /// All that an instance has printed: more than so many lines, and the last of them is "end".
    async fn printed(&mut self, instance: InstanceId, before: usize) -> Vec<String> {
        loop {
            let command = CommandId::new();
            self.server.say(ToAgent::ReadOutput { command, instance, lines: 1000 }).await;
            self.server.until(|server| server.answers.contains_key(&command)).await;
            match &self.server.answers[&command] {
                Answer::Output { lines } if lines.len() > before && lines.ends_with(&["end".to_owned()]) => {
                    return lines.clone();
                }
                Answer::Output { .. } => {}
                other => panic!("no output: {other:?}"),
            }
        }
    }

    /// Folders of deployments that are there.
    fn workspaces(&self) -> usize {
        std::fs::read_dir(self.folder.path().join("data/work")).map_or(0, Iterator::count)
    }
}

/// A command to do that job.
fn deploy(deployment: DeploymentId, spec: &JobSpec) -> ToAgent {
    ToAgent::Deploy {
        command: CommandId::new(),
        deployment,
        attempt: 1,
        spec: Box::new(spec.clone()),
        credential: None,
        secrets: Vec::new(),
    }
}

fn failure(result: &JobResult) -> &Failure {
    match result {
        JobResult::Failed { failure } => failure,
        other => panic!("expected a failure: {other:?}"),
    }
}

/// Whether a process runs; one that is dead and only not yet reaped by the system does not.
fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.trim()).join("stat"));
    stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with(['Z', 'X']))
}
