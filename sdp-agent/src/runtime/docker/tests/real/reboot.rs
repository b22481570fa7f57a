//! What becomes of containers when their engine is stopped and started, as with a reboot of the machine: on an engine of the test's
//! own, beside the machine's.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sdp_core::catalog::HealthCheck;
use sdp_core::wire::{Health, InstanceStatus, RestartCause};
use tempfile::TempDir;

use super::fixture::{Fixture, LONG, docker, get};
use crate::runtime::Runtime as _;
use crate::runtime::docker::label::{AgentId, Kind, labels};
use crate::runtime::docker::tests::spec;

/// The engine's bridge, made by the machine's engine: without one it would take that one's own away.
const BRIDGE: &str = "sdp-reboot";

/// An engine with a folder of its own; ended, with all that runs in it, when it is dropped.
struct Engine {
    folder: TempDir,
    dockerd: Option<Child>,
}

impl Engine {
    async fn start() -> Self {
        let mut engine = Self { folder: tempfile::tempdir().unwrap(), dockerd: None };
        let name = format!("com.docker.network.bridge.name={BRIDGE}");
        docker(&["network", "create", "--subnet", "10.213.255.0/24", "--opt", &name, BRIDGE]);
        engine.boot().await;
        let load = "docker save alpine:3.20 sdp-busybox | docker --host \"$1\" load";
        let loaded =
            Command::new("sh").args(["-c", load, "sh", &engine.host()]).stdout(Stdio::null()).status();
        assert!(loaded.unwrap().success());
        engine
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    async fn boot(&mut self) {
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        // The firewall is the machine's engine's. No address pools: an engine that has them removes `docker0` when it starts again.
        let dockerd = Command::new("dockerd")
            .args(["--data-root", &at("data"), "--exec-root", &at("exec"), "--pidfile", &at("pid")])
            .args(["--host", &self.host(), "--bridge", BRIDGE, "--iptables=false", "--ip6tables=false"])
            .arg("--ip-forward=false")
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(self.folder.path().join("log")).unwrap())
            .spawn();
        self.dockerd = Some(dockerd.unwrap());
        let answers = async {
            while self.docker(&["version"]).is_empty() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(LONG, answers).await.expect("the engine starts");
    }

    /// As the machine does when it goes down.
    fn shut_down(&mut self) {
        let Some(mut dockerd) = self.dockerd.take() else { return };
        Command::new("kill").arg(dockerd.id().to_string()).status().unwrap();
        dockerd.wait().unwrap();
    }

    /// What the command prints, if it works.
    fn docker(&self, arguments: &[&str]) -> String {
        let output = Command::new("docker").args(["--host", &self.host()]).args(arguments).output().unwrap();
        let text = if output.status.success() { output.stdout } else { Vec::new() };
        String::from_utf8_lossy(&text).trim().to_owned()
    }

    fn run(&self, verb: &[&str], labels: &[String]) -> String {
        let labels = labels.iter().map(String::as_str);
        let words =
            verb.iter().copied().chain(labels).chain(["--network", "none", "alpine:3.20", "sleep", "1000"]);
        let id = self.docker(&words.collect::<Vec<_>>());
        assert!(!id.is_empty(), "it is made");
        id
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let ids = self.docker(&["ps", "-aq"]);
        for id in ids.lines() {
            self.docker(&["rm", "-f", id]);
        }
        for id in self.docker(&["network", "ls", "-q", "--filter", "label=sdp.agent"]).lines() {
            self.docker(&["network", "rm", id]);
        }
        self.shut_down();
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        let ours = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        for mount in ours.filter(|at| self.folder.path().to_str().is_some_and(|root| at.starts_with(root))) {
            Command::new("umount").arg(mount).status().ok();
        }
        docker(&["network", "rm", BRIDGE]);
    }
}

fn labelled(agent: &AgentId) -> Vec<String> {
    let labels = labels(agent, Kind::Instance, &spec(), "x", 8080, None);
    labels.iter().map(|(name, value)| format!("--label={name}={value}")).collect()
}

/// Whether it runs again after so many restarts, the last because of the engine.
fn back(wanted: u32) -> impl Fn(Option<&InstanceStatus>) -> bool {
    move |status| match status {
        Some(InstanceStatus::Running { restarts, last_restart, health, .. }) => {
            *restarts == wanted
                && *last_restart == Some(RestartCause::EngineRestarted {})
                && *health == Health::Healthy {}
        }
        _ => false,
    }
}

#[tokio::test]
#[ignore = "needs Docker and the base images; scripts/test runs it"]
async fn containers_come_back_with_their_engine_at_the_same_port_and_nothing_else_is_touched() {
    let mut engine = Engine::start().await;
    let socket = engine.socket();
    let mut fixture = Fixture::with(|config| {
        config.engine.socket.clone_from(&socket);
        // While neither agent nor engine is there the port is anybody's: one that no other test takes.
        config.ports = 61_000..=61_099;
    })
    .await;
    let (instance, address) = fixture.start(fixture.httpd()).await;
    fixture.check(instance, HealthCheck::Http { path: "/hello.txt".into() }).await.unwrap();
    let (crashed, _) = fixture.start(fixture.shell("echo no database; exit 7")).await;
    fixture.until(crashed, |status| matches!(status, Some(InstanceStatus::Exited { .. }))).await;
    let decoys = [
        engine.run(&["run", "-d", "--restart=always"], &[]),
        engine.run(&["run", "-d"], &labelled(&AgentId::new())),
        engine.run(&["create"], &[]),
    ];
    let own = fixture.runtime.0.agent.clone();

    // With the agent there, which sees it go and come.
    engine.shut_down();
    let mut seen = 0;
    while fixture.runtime.degraded().is_none() {
        fixture.runtime.next_change(&mut seen).await;
    }
    assert!(
        matches!(fixture.status(instance), Some(InstanceStatus::Running { restarts: 0, .. })),
        "as it was"
    );
    engine.boot().await;
    fixture.until(instance, back(1)).await;
    assert_eq!(get(address, "/hello.txt").await.unwrap(), "hello from the tree\n");

    // Both go down, as with the machine, and a cut-off start is found afterwards. The agent is back before its engine.
    let left = engine.run(&["create"], &labelled(&own));
    fixture.runtime.shut_down().await;
    engine.shut_down();
    fixture.runtime =
        crate::runtime::docker::DockerRuntime::open(fixture.runtime.0.config.clone()).await.unwrap();
    assert_eq!(fixture.runtime.reports(), [], "it cannot know yet");
    assert!(fixture.runtime.degraded().is_some() && fixture.runtime.builds_in_use().is_none());
    engine.boot().await;
    fixture.until(instance, back(2)).await;
    assert_eq!(get(address, "/hello.txt").await.unwrap(), "hello from the tree\n");
    let exited = |status: Option<&InstanceStatus>| matches!(status, Some(InstanceStatus::Exited { exit }) if exit.exit_code == Some(7));
    fixture.until(crashed, exited).await;

    // Killed by its own fault it is no news of the engine's, and counted on.
    let container = fixture.container(instance);
    engine.docker(&["exec", &container, "/bin/busybox", "kill", "-SEGV", "-1"]);
    fixture
        .until(instance, |status| {
            matches!(
                status,
                Some(InstanceStatus::Running {
                    restarts: 3,
                    last_restart: Some(RestartCause::Exited { .. }),
                    ..
                })
            )
        })
        .await;
    let there =
        |id: &String| engine.docker(&["ps", "-aq", "--no-trunc", "--filter", &format!("id={id}")]) == *id;
    assert_eq!(decoys.iter().map(there).collect::<Vec<_>>(), [true; 3]);
    assert!(!there(&left), "made and never started");
    TcpListener::bind(address).expect_err("its port is its own");
}
