//! The container engine, asked by its own program: what is there is what `docker` says, not what we say.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use crate::harness::Sdp;

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

    fn docker(args: &[&str]) -> String {
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

    /// Runs a program in a container.
    pub(super) fn exec(container: &str, argv: &[&str]) -> (bool, String) {
        let out = Command::new("docker").args(["exec", container]).args(argv).output().expect("docker runs");
        let said = [out.stdout, out.stderr].concat();
        (out.status.success(), String::from_utf8_lossy(&said).into_owned())
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
