//! A runtime with a data folder, and therefore an agent, of its own; what it made is removed at the end, whatever happens.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use sdp_core::catalog::HealthCheck;
use sdp_core::id::{DeploymentNumber, InstanceId};
use sdp_core::wire::{InstanceReport, InstanceStatus};
use tokio_util::sync::CancellationToken;

use crate::builder::{ContainerPlan, Mount, RunPlan};
use crate::runtime::docker::tests::{USER, config, spec};
use crate::runtime::docker::{DockerRuntime, DockerRuntimeConfig};
use crate::runtime::{CheckError, StartSpec};

pub(super) const LONG: Duration = Duration::from_secs(60);
pub(super) const SHORT: Duration = Duration::from_secs(2);

pub(super) struct Fixture {
    pub(super) folder: tempfile::TempDir,
    pub(super) runtime: DockerRuntime,
    /// Each deployment has its own.
    number: std::sync::atomic::AtomicU64,
}

impl Fixture {
    pub(super) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(super) async fn with(change: impl FnOnce(&mut DockerRuntimeConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path().canonicalize().unwrap());
        assert!(crate::config::User::own().is_root(), "these tests make files of another user, as root");
        change(&mut config);
        fs::create_dir_all(config.work_dir.join("x/source")).unwrap();
        fs::write(config.work_dir.join("x/source/hello.txt"), "hello from the tree\n").unwrap();
        let runtime = DockerRuntime::open(config).await.unwrap();
        Self { folder, runtime, number: 143.into() }
    }

    pub(super) fn source(&self) -> PathBuf {
        self.runtime.0.config.work_dir.join("x/source")
    }

    /// An agent that was killed and is there again.
    pub(super) async fn reopen(&mut self) {
        self.runtime.shut_down().await;
        self.runtime = DockerRuntime::open(self.runtime.0.config.clone()).await.unwrap();
        assert_eq!(self.runtime.0.degraded.borrow().clone(), None);
    }

    pub(super) fn spec(&self, argv: &[&str]) -> StartSpec {
        let source = self.source();
        let plan = ContainerPlan {
            image: "alpine:3.20".parse().unwrap(),
            mounts: vec![Mount { source: source.clone(), target: "/src".into() }],
            source,
            tmpfs: Vec::new(),
            capabilities: Vec::new(),
            env: BTreeMap::new(),
        };
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        let number = DeploymentNumber(self.number.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        StartSpec { number, run: RunPlan { argv, cwd: "/src".into(), container: Some(plan) }, ..spec() }
    }

    pub(super) fn shell(&self, script: &str) -> StartSpec {
        self.spec(&["sh", "-c", script])
    }

    /// Serves the tree, where it is told to.
    pub(super) fn httpd_on(&self, listen: &str) -> StartSpec {
        let mut spec = self.spec(&["/bin/busybox", "httpd", "-f", "-p", listen, "-h", "/src"]);
        // The real Alpine has no httpd.
        spec.run.container.as_mut().unwrap().image = "sdp-busybox".parse().unwrap();
        spec.health = HealthCheck::Http { path: "/hello.txt".into() };
        spec
    }

    pub(super) fn httpd(&self) -> StartSpec {
        self.httpd_on("8080")
    }

    pub(super) async fn start(&self, spec: StartSpec) -> (InstanceId, SocketAddr) {
        let instance = spec.instance;
        let started = self.runtime.start(spec).await;
        (instance, started.unwrap_or_else(|error| panic!("{error:?}")))
    }

    pub(super) async fn check(
        &self,
        instance: InstanceId,
        check: HealthCheck,
    ) -> Result<Duration, CheckError> {
        self.runtime.check(instance, &check, LONG, &CancellationToken::new()).await
    }

    pub(super) async fn check_briefly(&self, instance: InstanceId, check: HealthCheck) -> String {
        match self.runtime.check(instance, &check, SHORT, &CancellationToken::new()).await {
            Err(CheckError::NotHealthy { detail }) => detail,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn status(&self, instance: InstanceId) -> Option<InstanceStatus> {
        let is_it = |report: &InstanceReport| report.instance == instance;
        self.runtime.reports().into_iter().find(is_it).map(|report| report.status)
    }

    /// Waits until that is so.
    pub(super) async fn until(&self, instance: InstanceId, so: impl Fn(Option<&InstanceStatus>) -> bool) {
        let mut seen = 0;
        let wait = async {
            while !so(self.status(instance).as_ref()) {
                self.runtime.next_change(&mut seen).await;
            }
        };
        if tokio::time::timeout(LONG, wait).await.is_err() {
            panic!("still {:?}", self.status(instance));
        }
    }

    pub(super) fn container(&self, instance: InstanceId) -> String {
        self.runtime.entry(instance).unwrap().container.clone()
    }

    /// Names of the containers with this agent's label.
    pub(super) fn containers(&self) -> Vec<String> {
        let filter = format!("label={}", self.runtime.0.agent.filter());
        let names = docker(&["ps", "-a", "--filter", &filter, "--format", "{{.Names}}"]);
        names.lines().map(str::to_owned).collect()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let filter = format!("label={}", self.runtime.0.agent.filter());
        let ids = docker(&["ps", "-aq", "--filter", &filter]);
        let ids: Vec<&str> = ids.lines().collect();
        if !ids.is_empty() {
            docker(&[&["rm", "-f"][..], &ids].concat());
        }
        // It may be that none was made.
        docker(&["network", "rm", &self.runtime.0.agent.network()]);
    }
}

/// What the command prints, whether it works or not.
pub(super) fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

pub(super) fn mine() -> (u32, u32) {
    (USER.uid, USER.gid)
}

/// What a GET of this path answers: the body, or what went wrong.
pub(super) async fn get(address: SocketAddr, path: &str) -> Result<String, String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let answer = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok::<_, std::io::Error>(text)
    };
    let text = answer.await.map_err(|error| error.to_string())?;
    Ok(text.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_owned()))
}
