//! What becomes of containers: crashes, stops, restarts of the agent and of the engine.

use sdp_core::catalog::{HealthCheck, Limits};
use sdp_core::wire::{Exit, Health, InstanceStatus, RestartCause};
use tokio_util::sync::CancellationToken;

use super::fixture::{Fixture, LONG, docker, get};
use crate::runtime::docker::label::{self, AgentId, Kind};
use crate::runtime::docker::tests::spec;
use crate::runtime::{CheckError, StartError};

#[tokio::test]
#[ignore = "needs Docker and the base images; scripts/test runs it"]
async fn a_crash_loop_is_restarted_three_times_and_then_given_up_with_its_last_words() {
    let fixture = Fixture::new().await;
    let (instance, _) =
        fixture.start(fixture.shell("echo begin; sleep 0.1; echo no database >&2; exit 3")).await;
    fixture
        .until(instance, |status| {
            let restarted = |exit: &Exit| exit.exit_code == Some(3) && exit.last_lines.ends_with(&["no database".into()]);
            matches!(status, Some(InstanceStatus::Running { restarts: 1.., last_restart: Some(RestartCause::Exited { exit }), .. }) if restarted(exit))
        })
        .await;
    fixture.until(instance, |status| matches!(status, Some(InstanceStatus::Exited { .. }))).await;
    let Some(InstanceStatus::Exited { exit }) = fixture.status(instance) else { unreachable!() };
    assert_eq!((exit.exit_code, exit.out_of_memory), (Some(3), false));
    let lines = exit.last_lines.iter().filter(|line| *line == "no database").count();
    assert_eq!(lines, 4, "{exit:?}");
    assert_eq!(docker(&["inspect", "-f", "{{.RestartCount}}", &fixture.container(instance)]), "3");
    assert_eq!(
        fixture.runtime.output(instance, 1).await.unwrap(),
        ["no database"],
        "kept until it is forgotten"
    );
    fixture.runtime.stop(instance).await;
    assert!(matches!(fixture.status(instance), Some(InstanceStatus::Exited { .. })), "too late to matter");
    fixture.runtime.forget(instance);
    fixture.until(instance, |status| status.is_none()).await;
    assert_eq!(fixture.containers(), [""; 0]);
}

#[tokio::test]
#[ignore = "needs Docker and the base images; scripts/test runs it"]
async fn a_check_ends_at_the_first_crash() {
    let fixture = Fixture::new().await;
    let (instance, _) = fixture.start(fixture.shell("echo oops; exit 4")).await;
    let error = fixture.check(instance, HealthCheck::Tcp {}).await.unwrap_err();
    let CheckError::Exited(Exit {
        exit_code: Some(4), signal: None, out_of_memory: false, last_lines, ..
    }) = error
    else {
        panic!("{error:?}")
    };
    assert_eq!(last_lines.first().map(String::as_str), Some("oops"));
}

#[tokio::test]
#[ignore = "needs Docker and the base images; scripts/test runs it"]
async fn who_takes_more_memory_than_it_may_is_told_so() {
    let fixture = Fixture::new().await;
    let mut spec = fixture.shell("exec tail /dev/zero");
    spec.limits = Limits { memory_mib: Some(16), ..Limits::default() };
    let (instance, _) = fixture.start(spec).await;
    let error = fixture.check(instance, HealthCheck::Tcp {}).await.unwrap_err();
    assert!(matches!(&error, CheckError::Exited(exit) if exit.out_of_memory), "{error:?}");
}

#[tokio::test]
#[ignore = "needs Docker and the base images; scripts/test runs it"]
async fn who_ignores_the_signal_is_killed_after_the_grace_and_stopping_twice_is_once() {
    let fixture = Fixture::new().await;
    let (instance, _) =
        fixture.start(fixture.shell("trap '' TERM; echo up; while :; do sleep 1; done")).await;
    let begin = std::time::Instant::now();
    tokio::join!(fixture.runtime.stop(instance), fixture.runtime.stop(instance));
    assert!(begin.elapsed().as_millis() >= 900, "it had its time");
    assert!(begin.elapsed().as_secs() < 8, "{:?}", begin.elapsed());
    assert_eq!(fixture.status(instance), Some(InstanceStatus::Stopped {}));
    assert_eq!(fixture.containers(), [""; 0]);
    let mut spec = fixture.httpd();
    spec.instance = instance;
    assert!(matches!(fixture.runtime.start(spec).await, Err(StartError::Over)));
    fixture.runtime.forget(instance);
    fixture.until(instance, |status| status.is_none()).await;
    assert!(!fixture.runtime.0.config.folder(instance).exists());
}

#[tokio::test]
#[ignore = "needs Docker and the base images; scripts/test runs it"]
async fn an_agent_that_comes_back_adopts_what_runs_and_touches_nothing_else() {
    let mut fixture = Fixture::new().await;
    let spec = fixture.httpd();
    let (deployment, build) = (spec.deployment, spec.build);
    let (instance, address) = fixture.start(spec).await;
    let (crashed, _) = fixture.start(fixture.shell("exit 7")).await;
    fixture.until(crashed, |status| matches!(status, Some(InstanceStatus::Exited { .. }))).await;
    let container = fixture.container(instance);

    // Somebody else's, another agent's, and what a cut-off start and a cut-off release of ours left.
    let (other, own) = (AgentId::new(), fixture.runtime.0.agent.clone());
    let labelled = |agent: &AgentId, kind| {
        let labels = label::labels(agent, kind, &crate::runtime::docker::tests::spec(), "x", 8080, None);
        labels.iter().flat_map(|(k, v)| ["--label".to_owned(), format!("{k}={v}")]).collect::<Vec<_>>()
    };
    let make = |verb: &[&str], labels: &[String]| {
        let labels = labels.iter().map(String::as_str);
        let words: Vec<&str> =
            verb.iter().copied().chain(labels).chain(["alpine:3.20", "sleep", "1000"]).collect();
        docker(&words)
    };
    let decoys = [
        make(&["run", "-d"], &[]),
        make(&["run", "-d"], &labelled(&other, Kind::Instance)),
        make(&["create"], &[]),
    ];
    let left = [
        make(&["create"], &labelled(&own, Kind::Instance)),
        make(&["run", "-d"], &labelled(&own, Kind::Release)),
    ];
    std::fs::create_dir(fixture.runtime.0.config.folder(crate::runtime::docker::tests::spec().instance))
        .unwrap();

    fixture.reopen().await;
    let there = |id: &str| !docker(&["ps", "-aq", "--no-trunc", "--filter", &format!("id={id}")]).is_empty();
    let stands: Vec<bool> = decoys.iter().chain(&left).map(|id| there(id)).collect();
    for decoy in &decoys {
        docker(&["rm", "-f", decoy]);
    }
    assert_eq!(stands, [true, true, true, false, false]);
    let report = fixture.runtime.reports().into_iter().find(|report| report.instance == instance).unwrap();
    assert_eq!(report.deployment, deployment);
    assert!(
        matches!(report.status, InstanceStatus::Running { address: at, restarts: 0, .. } if at == address)
    );
    assert_eq!(fixture.container(instance), container, "the same");
    // Nobody remembers whether it was well, so it is asked.
    fixture
        .until(instance, |status| {
            matches!(status, Some(InstanceStatus::Running { restarts: 0, health: Health::Healthy {}, .. }))
        })
        .await;
    use crate::runtime::Runtime as _;
    assert!(fixture.runtime.builds_in_use().unwrap().contains(&build));
    assert_eq!(get(address, "/hello.txt").await.unwrap(), "hello from the tree\n");
    assert!(
        matches!(fixture.status(crashed), Some(InstanceStatus::Exited { exit }) if exit.exit_code == Some(7))
    );
    let folders = std::fs::read_dir(fixture.runtime.0.config.instances()).unwrap().count();
    assert_eq!(folders, 2);
    fixture.runtime.stop(instance).await;
    assert_eq!(fixture.status(instance), Some(InstanceStatus::Stopped {}));
}

#[tokio::test]
#[ignore = "needs Docker and the base images; scripts/test runs it"]
async fn a_restart_by_hand_keeps_the_port_and_is_no_end() {
    let fixture = Fixture::new().await;
    let (instance, address) = fixture.start(fixture.httpd()).await;
    fixture.check(instance, HealthCheck::Tcp {}).await.unwrap();
    let mut pulse = fixture.runtime.entry(instance).unwrap().pulse.subscribe();
    let container = fixture.container(instance);
    tokio::task::spawn_blocking(move || docker(&["restart", "-t", "1", &container])).await.unwrap();
    tokio::time::timeout(LONG, pulse.wait_for(|pulse| *pulse >= 2)).await.unwrap().unwrap();
    fixture.check(instance, HealthCheck::Tcp {}).await.unwrap();
    assert!(matches!(fixture.status(instance), Some(InstanceStatus::Running { restarts: 0, .. })));
    assert_eq!(get(address, "/hello.txt").await.unwrap(), "hello from the tree\n");
}

#[tokio::test]
#[ignore = "needs Docker and the base images; scripts/test runs it"]
async fn a_container_that_went_down_while_nobody_looked_is_started_again() {
    let mut fixture = Fixture::new().await;
    let (instance, address) = fixture.start(fixture.httpd()).await;
    fixture.check(instance, HealthCheck::Tcp {}).await.unwrap();
    let container = fixture.container(instance);
    fixture.runtime.shut_down().await;
    docker(&["stop", "-t", "1", &container]);
    fixture.reopen().await;
    fixture.check(instance, HealthCheck::Http { path: "/hello.txt".into() }).await.unwrap();
    assert_eq!(
        fixture
            .status(instance)
            .map(|s| matches!(s, InstanceStatus::Running { address: at, .. } if at == address)),
        Some(true)
    );
    // And one that somebody removed has ended.
    docker(&["rm", "-f", &container]);
    fixture.until(instance, |status| matches!(status, Some(InstanceStatus::Exited { .. }))).await;
}

#[tokio::test]
#[ignore = "needs Docker and the base images; scripts/test runs it"]
async fn a_start_that_is_dropped_at_any_moment_leaves_nothing() {
    let fixture = Fixture::new().await;
    for after in [0, 20, 60, 120, 250, 400, 600] {
        let spec = fixture.httpd();
        let instance = spec.instance;
        let start = fixture.runtime.start(spec);
        drop(tokio::time::timeout(std::time::Duration::from_millis(after), start).await);
        fixture.runtime.stop(instance).await;
        fixture.runtime.forget(instance);
        fixture.until(instance, |status| status.is_none()).await;
    }
    fixture.runtime.shut_down().await;
    assert_eq!(fixture.containers(), [""; 0]);
    assert_eq!(std::fs::read_dir(fixture.runtime.0.config.instances()).unwrap().count(), 0);
    let late = fixture.runtime.start(spec()).await;
    assert!(matches!(late, Err(StartError::ShuttingDown)), "{late:?}");
}

#[tokio::test]
#[ignore = "needs Docker and the base images; scripts/test runs it"]
async fn what_the_engine_refused_to_stop_or_remove_is_taken_up_by_the_next_list() {
    use std::sync::atomic::Ordering;
    let fixture = Fixture::new().await;
    let (instance, _) = fixture.start(fixture.httpd()).await;
    let entry = fixture.runtime.entry(instance).unwrap();
    entry.unwanted.store(true, Ordering::Release);
    entry.forgotten.store(true, Ordering::Release);
    let release = label::labels(&fixture.runtime.0.agent, Kind::Release, &spec(), "x", 8080, None);
    let release = release.iter().map(|(k, v)| format!("--label={k}={v}")).collect::<Vec<_>>();
    let words = ["run", "-d"].into_iter().chain(release.iter().map(String::as_str));
    docker(&words.chain(["alpine:3.20", "sleep", "1000"]).collect::<Vec<_>>());
    assert_eq!(fixture.containers().len(), 2);
    fixture.runtime.look_at_all(false, false).await.unwrap();
    fixture.until(instance, |status| status.is_none()).await;
    assert_eq!(fixture.containers(), [""; 0]);
    assert!(!fixture.runtime.0.config.folder(instance).exists());
}

#[tokio::test]
#[ignore = "needs Docker and the base images; scripts/test runs it"]
async fn a_release_that_is_dropped_at_any_moment_leaves_nothing() {
    let fixture = Fixture::new().await;
    let on_line: crate::exec::OnLine = std::sync::Arc::new(|_, _| {});
    let (argv, never) = (["sleep", "1000"].map(str::to_owned), CancellationToken::new());
    for after in [0, 20, 60, 120, 250, 400, 600] {
        let mut spec = fixture.httpd();
        spec.writable = ["new".parse().unwrap()].into();
        let release = fixture.runtime.release(&spec, &argv, on_line.clone(), &never, LONG);
        drop(tokio::time::timeout(std::time::Duration::from_millis(after), release).await);
        fixture.runtime.stop(spec.instance).await;
        assert_eq!(fixture.containers(), [""; 0], "after {after} ms");
        fixture.runtime.forget(spec.instance);
    }
    fixture.runtime.shut_down().await;
    assert_eq!(fixture.containers(), [""; 0]);
    assert_eq!(std::fs::read_dir(fixture.runtime.0.config.instances()).unwrap().count(), 0);
    assert!(fixture.runtime.0.gates.lock().is_empty());
}

#[tokio::test]
#[ignore = "needs Docker and the base images; scripts/test runs it"]
async fn a_check_ends_when_it_is_cancelled_or_the_instance_is_stopped() {
    let fixture = Fixture::new().await;
    let (instance, _) = fixture.start(fixture.shell("sleep 1000")).await;
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    let check = HealthCheck::Tcp {};
    assert_eq!(fixture.runtime.check(instance, &check, LONG, &cancelled).await, Err(CheckError::Cancelled));
    let never = CancellationToken::new();
    let checked = fixture.runtime.check(instance, &check, LONG, &never);
    let (result, ()) = tokio::join!(checked, fixture.runtime.stop(instance));
    assert_eq!(result, Err(CheckError::Cancelled));
}

#[tokio::test]
#[ignore = "needs Docker and the base images; scripts/test runs it"]
async fn a_suspended_container_is_kept_as_it_is_and_started_again_only_when_it_is_woken() {
    use crate::runtime::Runtime as _;
    let mut fixture = Fixture::new().await;
    let mut spec = fixture.httpd();
    spec.writable = ["storage".parse().unwrap()].into();
    let build = spec.build;
    let (instance, address) = fixture.start(spec.clone()).await;
    fixture.check(instance, HealthCheck::Tcp {}).await.unwrap();
    let container = fixture.container(instance);
    std::fs::write(fixture.runtime.0.config.folder(instance).join("writable/0/own"), "kept").unwrap();

    fixture.runtime.suspend(instance, "its time is over").await;
    let is_down = |status: Option<&InstanceStatus>| match status {
        Some(InstanceStatus::Exited { exit }) => exit.not_started.as_deref() == Some("its time is over"),
        _ => false,
    };
    assert!(is_down(fixture.status(instance).as_ref()) && fixture.runtime.is_suspended(instance));
    let running = |id: &str| docker(&["inspect", "-f", "{{.State.Running}}", id]);
    assert_eq!(running(&container), "false");
    // Neither a list nor an agent that comes back starts it; nobody else gets its port, or sweeps its build.
    fixture.runtime.look_at_all(false, true).await.unwrap();
    fixture.reopen().await;
    assert!(is_down(fixture.status(instance).as_ref()) && fixture.runtime.is_suspended(instance));
    assert_eq!((running(&container).as_str(), fixture.container(instance)), ("false", container.clone()));
    assert!(fixture.runtime.builds_in_use().unwrap().contains(&build));
    assert_eq!(fixture.runtime.start(spec).await.unwrap(), address);

    fixture.runtime.wake(instance).await;
    fixture.check(instance, HealthCheck::Http { path: "/hello.txt".into() }).await.unwrap();
    assert_eq!(get(address, "/storage/own").await.unwrap(), "kept");
    let woken = |status: Option<&InstanceStatus>| {
        matches!(
            status,
            Some(InstanceStatus::Running {
                restarts: 1,
                last_restart: Some(RestartCause::SandboxRenewed {}),
                health: Health::Healthy {},
                ..
            })
        )
    };
    fixture.until(instance, woken).await;
    fixture.runtime.wake(instance).await;
    assert_eq!(fixture.container(instance), container);
    fixture.reopen().await;
    fixture.until(instance, woken).await;

    // It can be forgotten while it is down.
    fixture.runtime.suspend(instance, "its time is over").await;
    fixture.runtime.stop(instance).await;
    fixture.runtime.forget(instance);
    fixture.until(instance, |status| status.is_none()).await;
    assert_eq!(fixture.containers(), [""; 0]);
    assert!(!fixture.runtime.0.config.folder(instance).exists());
}
