//! What is the same in the tests of this runtime; those that need an engine are in `real`.

mod real;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use sdp_core::catalog::{HealthCheck, Limits};
use sdp_core::id::{DeploymentId, DeploymentNumber, InstanceId};

use super::DockerRuntimeConfig;
use crate::builder::{ContainerPlan, Mount, RunPlan};
use crate::config::{DockerConfig, User};
use crate::redact::Redactor;
use crate::runtime::StartSpec;

/// Nobody on this machine.
const USER: User = User { uid: 64100, gid: 64101 };

pub(super) fn config(data_dir: PathBuf) -> DockerRuntimeConfig {
    DockerRuntimeConfig {
        work_dir: data_dir.join("work"),
        data_dir,
        engine: DockerConfig::default(),
        ports: 40_000..=60_000,
        advertise: [127, 0, 0, 1].into(),
        stop_grace: Duration::from_secs(1),
        env: BTreeMap::from([("OPERATOR".to_owned(), "yes".to_owned())]),
        user: USER,
    }
}

pub(super) fn plan() -> ContainerPlan {
    ContainerPlan {
        image: "alpine:3.20".parse().unwrap(),
        mounts: vec![Mount { source: "/data/work/x/source".into(), target: "/src".into() }],
        source: "/data/work/x/source".into(),
        tmpfs: vec!["/run/app".into()],
        capabilities: vec!["NET_BIND_SERVICE".to_owned()],
        env: BTreeMap::from([("BUILDER".to_owned(), "go".to_owned())]),
    }
}

pub(super) fn spec() -> StartSpec {
    StartSpec {
        instance: InstanceId::new(),
        deployment: DeploymentId::new(),
        number: DeploymentNumber(143),
        attempt: 2,
        build: DeploymentId::new(),
        service: "payments".parse().unwrap(),
        sandbox: "alice".parse().unwrap(),
        run: RunPlan { argv: vec!["/out/app".to_owned()], cwd: "/src".into(), container: Some(plan()) },
        env: BTreeMap::new(),
        secrets: BTreeMap::new(),
        port: None,
        limits: Limits::default(),
        writable: BTreeSet::new(),
        context: None,
        health: HealthCheck::Http { path: "/".into() },
        check_limit: Duration::from_secs(120),
        redactor: Redactor::default(),
    }
}
