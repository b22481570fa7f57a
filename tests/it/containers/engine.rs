//! The container engine, asked by its own program: what is there is what `docker` says, not what we say.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::harness::Sdp;

const CONFIG: &[&str] =
    &["User", "WorkingDir", "Entrypoint", "Cmd", "ExposedPorts", "Volumes", "StopSignal", "Healthcheck"];
const HOST_CONFIG: &[&str] = &[
    "ReadonlyRootfs",
    "Privileged",
    "CapAdd",
    "CapDrop",
    "SecurityOpt",
    "Memory",
    "MemorySwap",
    "NanoCpus",
    "PidsLimit",
    "Tmpfs",
    "Binds",
    "Devices",
    "PortBindings",
    "PublishAllPorts",
    "RestartPolicy",
    "AutoRemove",
    "LogConfig",
    "NetworkMode",
    "PidMode",
    "IpcMode",
    "UTSMode",
    "UsernsMode",
    "GroupAdd",
    "ExtraHosts",
    "Dns",
    "Links",
    "VolumesFrom",
    "Ulimits",
    "Init",
    "OomKillDisable",
];

/// Removes what a failed test would leave behind.
pub(super) struct Engine {
    agent: String,
}

impl Engine {
    pub(super) fn of(sdp: &Sdp) -> Self {
        let agent =
            std::fs::read_to_string(sdp.agent_folder().join("docker-id")).expect("the agent has an id");
        Self { agent: agent.trim().to_owned() }
    }

    /// What the program prints.
    pub(super) fn docker(args: &[&str]) -> String {
        let out = Command::new("docker").args(args).output().expect("docker runs");
        assert!(out.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).expect("UTF-8")
    }

    fn label(&self) -> String {
        format!("label=sdp.agent={}", self.agent)
    }

    /// The ids of this agent's containers, running or not.
    pub(super) fn containers(sdp: &Sdp) -> BTreeSet<String> {
        let engine = std::mem::ManuallyDrop::new(Self::of(sdp));
        Self::docker(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &engine.label()])
            .lines()
            .map(str::to_owned)
            .collect()
    }

    pub(super) fn inspect(container: &str) -> Value {
        let all: Value = serde_json::from_str(&Self::docker(&["inspect", container])).expect("JSON");
        all[0].clone()
    }

    /// What a container may do and see, as `docker inspect` shows it: a line for each setting, without what differs each time.
    pub(super) fn golden(sdp: &Sdp, container: &str) -> String {
        let found = Self::inspect(container);
        let mut lines = Vec::new();
        for (part, names) in [("Config", CONFIG), ("HostConfig", HOST_CONFIG)] {
            for name in names {
                lines.push(format!("{name} {}", found[part][name]));
            }
        }
        let mounts = found["HostConfig"]["Mounts"].as_array().cloned().unwrap_or_default();
        for mount in mounts {
            let mode = if mount["ReadOnly"] == true { "ro" } else { "rw" };
            lines.push(format!("mount {} {mode} {} at {}", mount["Type"], mount["Source"], mount["Target"]));
        }
        for (network, _) in found["NetworkSettings"]["Networks"].as_object().expect("networks") {
            lines.push(format!("network {network}"));
        }
        let engine = std::mem::ManuallyDrop::new(Self::of(sdp));
        let deployment = found["Config"]["Labels"]["sdp.deployment"].as_str().expect("a label").to_owned();
        let instance = found["Config"]["Labels"]["sdp.instance"].as_str().expect("a label").to_owned();
        let folder = sdp.agent_folder().canonicalize().expect("it is there");
        let published = found["HostConfig"]["PortBindings"].to_string();
        let host_port = published.rsplit("HostPort\":\"").next().and_then(|rest| rest.split('"').next());
        let text = lines.join("\n");
        [
            (folder.to_str().expect("UTF-8"), "<agent>"),
            (deployment.as_str(), "<deployment>"),
            (instance.as_str(), "<instance>"),
            (engine.agent.as_str(), "<id>"),
            (host_port.expect("a port"), "<port>"),
        ]
        .iter()
        .fold(text, |text, (from, to)| text.replace(from, to))
    }

    /// Runs a program in a container.
    pub(super) fn exec(container: &str, argv: &[&str]) -> (bool, String) {
        let out = Command::new("docker").args(["exec", container]).args(argv).output().expect("docker runs");
        let said = [out.stdout, out.stderr].concat();
        (out.status.success(), String::from_utf8_lossy(&said).into_owned())
    }
}

/// A socket before the engine's, which can be cut: whoever asks there finds the engine away.
pub(super) struct Wire {
    folder: tempfile::TempDir,
    connections: Option<(JoinSet<()>, CancellationToken)>,
}

impl Wire {
    /// One that is cut.
    pub(super) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder"), connections: None }
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    pub(super) fn mend(&mut self) {
        let listener = UnixListener::bind(self.socket()).expect("binds");
        let cut = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let stopped = cut.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = stopped.cancelled() => return,
                };
                let (mut near, _) = accepted.expect("accepts");
                connections.spawn(async move {
                    let mut far =
                        UnixStream::connect("/var/run/docker.sock").await.expect("the engine is there");
                    // Whichever side ends it.
                    drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
                });
            }
        });
        self.connections = Some((tasks, cut));
    }

    pub(super) async fn cut(&mut self) {
        if let Some((tasks, cut)) = self.connections.take() {
            cut.cancel();
            tasks.join_all().await;
            std::fs::remove_file(self.socket()).expect("removed");
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let left = Self::docker(&["ps", "--all", "--quiet", "--filter", &self.label()]);
        for container in left.lines() {
            Self::docker(&["rm", "--force", container]);
        }
        for network in Self::docker(&["network", "ls", "--quiet", "--filter", &self.label()]).lines() {
            Self::docker(&["network", "rm", network]);
        }
    }
}
