//! An agent that is killed: at that moment, not when it starts again, everything goes that it had started.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use sdp_core::catalog::{Builder, HealthCheck, Limits};
use sdp_core::id::{CommandId, DeploymentId, DeploymentNumber, InstanceId};
use sdp_core::name::{GitRef, RepoPath, RepoUrl, SandboxName, ServiceName};
use sdp_core::wire::link::AgentFrame;
use sdp_core::wire::{FromAgent, JobResult, JobSpec, Progress, StepLimits, ToAgent};

use super::agent::{Agent, Way};
use super::{EVADER, alive_in, is_alive, shims_of};

/// It takes some hundredths of a second; on a machine that is busy with other tests somewhat more.
const SOON: Duration = Duration::from_secs(5);

/// Returns when nobody works in that folder any more.
pub(super) async fn gone(folder: &Path, limit: Duration) {
    let begin = Instant::now();
    loop {
        let alive = alive_in(folder);
        if alive.is_empty() {
            return;
        }
        assert!(begin.elapsed() < limit, "still there after {limit:?}: {alive:#?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What is going on when the agent is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    Build,
    Release,
    Service,
}

pub(super) fn deploy(agent: &Agent, at: At) -> ToAgent {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let evader = || words("sh ./evader");
    let spec = JobSpec {
        number: DeploymentNumber(412),
        service: ServiceName::parse("hello").unwrap(),
        sandbox: SandboxName::parse("alice").unwrap(),
        instance: InstanceId::new(),
        repo: RepoUrl::parse(agent.folder.path().join("repo.git").to_str().unwrap()).unwrap(),
        git_ref: GitRef::parse("main").unwrap(),
        commit: None,
        since: None,
        reuse_build: false,
        subdir: RepoPath::parse(".").unwrap(),
        builder: Builder::Command {
            build: vec![if at == At::Build { evader() } else { words("true") }],
            run: if at == At::Service { evader() } else { words("sleep 1000") },
        },
        health: HealthCheck::Uptime { seconds: 1 },
        env: BTreeMap::new(),
        port: None,
        image: None,
        limits: Limits::default(),
        writable: BTreeSet::new(),
        release: (at == At::Release).then(evader),
        labels: BTreeSet::new(),
        step_limits: StepLimits::default(),
        place: None,
    };
    let (command, deployment) = (CommandId::new(), DeploymentId::new());
    ToAgent::Deploy {
        command,
        deployment,
        attempt: 1,
        spec: Box::new(spec),
        credential: None,
        secrets: Vec::new(),
    }
}

/// Whether all that evades is there.
fn is_there(frame: &AgentFrame, at: At) -> bool {
    match frame {
        AgentFrame::Lines(batch) => batch.iter().any(|(_, line)| line[..] == *b"ready"),
        AgentFrame::Control(message) => match &**message {
            FromAgent::Progress { what: Progress::Ended { result }, .. } => {
                assert_eq!((result, at), (&JobResult::Ready {}, At::Service));
                true
            }
            _ => false,
        },
        _ => false,
    }
}

async fn all_die_with(way: Way, namespaces: bool) {
    for at in [At::Build, At::Release, At::Service] {
        let mut agent = Agent::start(way, &[("evader", EVADER)]).await;
        let line = agent.preflight.iter().find(|line| line.check == "build_processes").expect("it is said");
        assert_eq!(
            line.detail.contains("each build has a PID namespace"),
            namespaces,
            "{way:?}: {}",
            line.detail
        );
        assert!(line.ok, "{}", line.detail);
        let command = deploy(&agent, at);
        agent.say(command).await;
        agent.until(|frame| is_there(frame, at)).await;
        let work = agent.folder.path().join("data");
        let alive = alive_in(&work);
        assert!(alive.len() >= 5, "{alive:#?}");
        let shims = shims_of(agent.pid());
        assert_eq!(shims.len(), 1);
        agent.kill().await;
        let killed = Instant::now();
        gone(&work, SOON).await;
        while shims.iter().any(|pid| is_alive(pid)) {
            assert!(killed.elapsed() < SOON, "a shim is still there");
            tokio::task::yield_now().await;
        }
    }
}

/// Whether this test may make a PID namespace with a `/proc` of its own, by somebody else's word than the agent's: in an ordinary
/// container root may not.
fn namespaces_are_to_be_had() -> bool {
    let unshare = std::process::Command::new("unshare")
        .args(["--pid", "--mount", "--fork", "--mount-proc", "true"])
        .stderr(std::process::Stdio::null())
        .status();
    unshare.expect("util-linux is installed").success()
}

#[tokio::test]
async fn all_that_an_agent_runs_dies_with_it() {
    all_die_with(Way::Same, namespaces_are_to_be_had()).await;
}

#[tokio::test]
#[ignore = "needs root to take rights away; scripts/test runs it"]
async fn all_that_an_agent_without_rights_runs_dies_with_it() {
    all_die_with(Way::WithoutAdmin, false).await;
    all_die_with(Way::User, false).await;
}

#[tokio::test]
#[ignore = "needs root to become the agent's user and the builds'; scripts/test runs it"]
async fn all_that_an_agent_with_the_units_rights_runs_dies_with_it() {
    all_die_with(Way::Unit, false).await;
    all_die_with(Way::UnitWithAdmin, true).await;
}
