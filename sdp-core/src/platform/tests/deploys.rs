//! Deploys, their order, their replacement and their end.

use super::agent::commit;
use super::*;
use crate::deployment::{State, Step};
use crate::failure::{Failure, FailureReason};
use crate::routing::RouteTarget;
use crate::sandbox::{InstanceState, StopReason};
use crate::wire::{
    Exit, FromAgent, InstanceReport, InstanceStatus, JobResult, Progress, RejectReason, ToAgent,
};

#[tokio::test]
async fn a_deploy_goes_from_request_to_its_url_and_replaces_the_one_before() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    let first = bench.deploy("hello", "main").await;
    assert_eq!((first.number.0, &first.state), (1, &State::Queued {}));
    let job = agent.deploy(commit('a'), 5001).await;
    let ended = bench.ended(&first).await;
    assert_eq!(ended.outcome(), Some(&Outcome::Succeeded {}));
    insta::assert_snapshot!(ended.url.expect("a URL"), @"http://127.0.0.1:8081/~alice/hello/");
    insta::assert_snapshot!(
        bench.story(&first).await,
        @"deployment_requested deployment_sent step_started(resolve) commit_resolved step_started(build) step_started(start) instance_started step_started(check) step_started(switch) instance_live deployment_ended"
    );

    let second = bench.deploy("hello", "feature/greeting").await;
    agent.deploy(commit('b'), 5002).await;
    assert_eq!(bench.ended(&second).await.commit, Some(commit('b')));
    agent.stop(job.spec.instance).await;
    let old = job.spec.instance;
    bench
        .event(|e| e.about.instance == Some(old) && matches!(e.kind, EventKind::InstanceStopped { .. }))
        .await;
    let old = bench.platform.instance(old).await.expect("known");
    assert_eq!(old.state, InstanceState::Stopped { reason: StopReason::Replaced {} });
    let live = bench.platform.instances(InstanceFilter::default()).await.expect("a list");
    assert_eq!(live.iter().map(|i| &i.commit).collect::<Vec<_>>(), [&commit('b')]);
    assert_eq!(live[0].state, InstanceState::Live {});
}

#[tokio::test]
async fn a_queued_deploy_is_superseded_and_a_started_one_never() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    let started = bench.deploy("hello", "one").await;
    let mut job = agent.take_job().await;
    let queued = bench.deploy("hello", "two").await;
    let elsewhere = bench.deploy_to("hello", "two", "bob").await;
    let newest = bench.deploy("hello", "three").await;
    let superseded = bench.ended(&queued).await;
    assert_eq!(superseded.outcome(), Some(&Outcome::Superseded { by: newest.id, number: newest.number }));
    // Another sandbox is another place.
    let other = agent.take_job().await;
    assert_eq!(other.deployment, elsewhere.id);
    agent.bring_up(&mut job, commit('a'), 5001).await;
    agent.done_ok(&job).await;
    let next = agent.take_job().await;
    assert_eq!(next.deployment, newest.id);
    assert_eq!(bench.ended(&started).await.outcome(), Some(&Outcome::Succeeded {}));
}

#[tokio::test]
async fn no_agent_gets_more_than_its_capacity() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    for sandbox in ["a", "b", "c"] {
        bench.deploy_to("hello", "main", sandbox).await;
    }
    let mut first = agent.take_job().await;
    agent.take_job().await;
    let third = bench.platform.deployment("3".parse().expect("a number")).await.expect("known");
    assert_eq!(third.state, State::Queued {});
    assert_eq!(bench.platform.queue_position(third.id).await.expect("asks"), Some(1));
    let fourth = bench.deploy_to("hello", "main", "d").await;
    let line = bench.platform.line(fourth.id).await.expect("asks").expect("it waits");
    let behind = line.behind.clone().map(|ahead| (ahead.number, ahead.requested_by));
    assert_eq!((line.position, behind), (2, Some((third.number, alice()))));
    // Two at work and one before it, on two places.
    assert_eq!(line.services().count(), 3);
    assert!(
        line.starts_in(|_| Some(Duration::from_secs(60)))
            .is_some_and(|length| length <= Duration::from_secs(60))
    );
    assert_eq!(bench.platform.line(first_id(&bench).await).await.expect("asks"), None);
    let failure = Failure::new(Step::Build, FailureReason::BuildFailed, "exit code 1");
    first.end(&agent, JobResult::Failed { failure }).await;
    assert_eq!(agent.take_job().await.deployment, third.id);
}

#[tokio::test]
async fn a_service_waits_for_an_agent_with_its_labels_and_then_says_which() {
    let bench = Bench::with(|config| config.no_agent_after = Duration::from_millis(50)).await;
    let _agent = bench.agent("vm-1").await;
    let mut special = service("special");
    special.labels = [name("gpu"), name("linux")].into();
    bench.platform.save_service(&alice(), special, Save::Create).await.expect("saved");
    let ended = bench.ended(&bench.deploy("special", "main").await).await;
    let Some(Outcome::Failed { failure }) = ended.outcome() else { panic!("{ended:?}") };
    insta::assert_snapshot!(
        format!("{}: {}; {}", failure.reason.code(), failure.detail, failure.reason.hint()),
        @"no_agent: no connected agent has all of its labels: gpu, linux; start an agent with the labels that the service needs, then deploy again"
    );
}

#[tokio::test]
async fn a_waiting_deploy_is_cancelled_at_once_and_a_running_one_when_the_agent_says_so() {
    let bench = Bench::start().await;
    let waiting = bench.deploy("hello", "main").await;
    let cancelled = bench.platform.cancel(&alice(), waiting.id.into()).await.expect("cancels");
    assert_eq!(cancelled.outcome(), Some(&Outcome::Cancelled { by: alice() }));
    let error = bench.platform.cancel(&alice(), waiting.id.into()).await.expect_err("ended");
    assert_eq!(error.code(), "already_ended");

    let mut agent = bench.agent("vm-1").await;
    let running = bench.deploy("hello", "main").await;
    let mut job = agent.take_job().await;
    job.progress(&agent, Progress::StepStarted { step: Step::Build }).await;
    let asked = bench.platform.cancel(&alice(), running.id.into()).await.expect("cancels");
    assert!(!asked.is_ended(), "said only when true");
    assert_eq!(asked.cancel_requested_by, Some(alice()));
    agent
        .hear(|message| matches!(message, ToAgent::Cancel { deployment, .. } if *deployment == running.id))
        .await;
    job.end(&agent, JobResult::Cancelled {}).await;
    assert_eq!(bench.ended(&running).await.outcome(), Some(&Outcome::Cancelled { by: alice() }));
}

#[tokio::test]
async fn a_failed_deploy_leaves_the_old_instance_serving() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    bench.deploy("hello", "main").await;
    let old = agent.deploy(commit('a'), 5001).await.spec.instance;
    let bad = bench.deploy("hello", "bad").await;
    let mut job = agent.take_job().await;
    job.progress(&agent, Progress::StepStarted { step: Step::Build }).await;
    job.lines(&agent, &["error: no"]).await;
    let failure = Failure::new(Step::Build, FailureReason::BuildFailed, "exit code 2");
    job.end(&agent, JobResult::Failed { failure: failure.clone() }).await;
    assert_eq!(bench.ended(&bad).await.outcome(), Some(&Outcome::Failed { failure }));
    let live = bench.platform.instances(InstanceFilter::default()).await.expect("a list");
    assert_eq!(live.iter().map(|i| i.id).collect::<Vec<_>>(), [old]);
    let (_, _, route) = agent.table.targets().next().expect("a route");
    assert!(matches!(route, RouteTarget::Instance { instance, .. } if *instance == old), "{route:?}");
}

#[tokio::test]
async fn the_same_request_gives_the_same_deployment_and_another_with_its_key_is_refused() {
    let bench = Bench::start().await;
    let request = |fingerprint: &str| Deploy {
        idempotency: Some(Idempotency { key: name("job-1"), fingerprint: fingerprint.into() }),
        ..Deploy::new(name("hello"))
    };
    let first = bench.platform.deploy(&alice(), request("x")).await.expect("taken");
    let again = bench.platform.deploy(&alice(), request("x")).await.expect("the same");
    assert_eq!(again.id, first.id);
    let error = bench.platform.deploy(&alice(), request("y")).await.expect_err("another");
    assert_eq!(error.code(), "idempotency_conflict");
    let bob = Principal::person(name("bob"));
    assert_ne!(bench.platform.deploy(&bob, request("y")).await.expect("his own key").id, first.id);
}

#[tokio::test]
async fn work_that_was_taken_back_from_an_agent_can_be_cancelled_when_the_agent_has_it_again() {
    let bench = Bench::with(|config| config.accept_limit = Duration::from_millis(500)).await;
    let mut agent = bench.agent("vm-1").await;
    let deployment = bench.deploy("hello", "main").await;
    let deploy = |attempt: u32| move |message: &ToAgent| matches!(message, ToAgent::Deploy { attempt: sent, .. } if *sent == attempt);
    agent.hear(deploy(1)).await;
    // It says nothing to that, so it is taken back, and sent once more.
    let ToAgent::Cancel { command: first, .. } =
        agent.hear(|message| matches!(message, ToAgent::Cancel { .. })).await
    else {
        unreachable!()
    };
    let ToAgent::Deploy { command, .. } = agent.hear(deploy(2)).await else { unreachable!() };
    agent.say(FromAgent::Accepted { command }).await;
    bench.platform.cancel(&alice(), deployment.id.into()).await.expect("asked");
    let ToAgent::Cancel { command, .. } =
        agent.hear(|message| matches!(message, ToAgent::Cancel { .. })).await
    else {
        unreachable!()
    };
    // An agent answers a command that it knows, and does nothing more.
    assert_ne!(command, first);
}

#[tokio::test]
async fn work_that_an_agent_gives_back_goes_to_another() {
    let bench = Bench::start().await;
    let mut busy = bench.agent("vm-1").await;
    let deployment = bench.deploy("hello", "main").await;
    let message = busy.hear(|message| matches!(message, ToAgent::Deploy { .. })).await;
    let ToAgent::Deploy { command, .. } = message else { unreachable!() };
    let mut other = bench.agent("vm-2").await;
    let message = "4 jobs already".to_owned();
    busy.say(FromAgent::Rejected { command, reason: RejectReason::Busy, message }).await;
    let job = other.take_job().await;
    assert_eq!((job.deployment, job.attempt), (deployment.id, 2));
    assert_ne!(job.command, command);
}

#[tokio::test]
async fn a_stopped_instance_gives_way_to_the_baseline_and_a_crashed_one_does_not() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    bench.deploy("hello", "main").await;
    let hello = agent.deploy(commit('a'), 5001).await;
    let deployment = bench.deploy("ledger", "main").await;
    let ledger = agent.deploy(commit('b'), 5002).await;
    bench.ended(&deployment).await;

    let status = InstanceStatus::Exited {
        exit: Exit {
            exit_code: Some(3),
            last_lines: vec!["\0".repeat(2 << 20), "panic: no".into()],
            ..Exit::default()
        },
    };
    let report = InstanceReport { instance: ledger.spec.instance, deployment: ledger.deployment, status };
    agent.say(FromAgent::Instance { report }).await;
    agent.stop(ledger.spec.instance).await;
    let stopped = bench.platform.stop_instance(&alice(), hello.spec.instance).await.expect("stops");
    assert!(matches!(stopped.state, InstanceState::Draining { .. }));
    agent.stop(hello.spec.instance).await;
    bench
        .event(|e| {
            e.about.instance == Some(hello.spec.instance)
                && matches!(e.kind, EventKind::InstanceStopped { .. })
        })
        .await;
    let routes: Vec<_> =
        agent.table.targets().map(|(_, service, target)| (service.as_str(), target)).collect();
    assert_eq!(routes, [("ledger", &RouteTarget::Down { reason: "it crashed".into() })]);
    let crashed = bench.platform.instance(ledger.spec.instance).await.expect("known");
    // Whatever the agent says, an event is one that its readers can take.
    let [cut, last] = crashed.last_lines.as_slice() else { panic!("{:?}", crashed.last_lines.len()) };
    assert_eq!((cut.len() < 4096, last.as_str()), (true, "panic: no"));
    assert_eq!(
        bench.platform.stop_instance(&alice(), hello.spec.instance).await.expect_err("over").code(),
        "instance_over"
    );
    // A person has seen it: the baseline answers again.
    bench.platform.stop_instance(&alice(), ledger.spec.instance).await.expect("acknowledged");
    while agent.table.targets().count() > 0 {
        agent.hear(|message| matches!(message, ToAgent::Routes { .. })).await;
    }
}

#[tokio::test]
async fn rolling_back_twice_goes_back_two_commits() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    for (number, digit) in [(1, 'a'), (2, 'b'), (3, 'c')] {
        let deployment = bench.deploy("hello", &format!("v{number}")).await;
        agent.deploy(commit(digit), 5000 + number).await;
        bench.ended(&deployment).await;
    }
    let place = bench.platform.deployment("3".parse().expect("a number")).await.expect("known");
    for wanted in ['b', 'a'] {
        let back = bench.platform.rollback(&alice(), place.id.into(), Again::default()).await.expect("taken");
        assert_eq!((back.kind, back.commit.clone()), (DeployKind::Rollback, Some(commit(wanted))));
        let job = agent.deploy(commit(wanted), 6000).await;
        assert!(job.spec.reuse_build && job.spec.commit == Some(commit(wanted)));
        assert_eq!(bench.ended(&back).await.outcome(), Some(&Outcome::Succeeded {}));
    }
    let error =
        bench.platform.rollback(&alice(), place.id.into(), Again::default()).await.expect_err("the first");
    assert_eq!(error.code(), "nothing_to_roll_back");
}

#[tokio::test]
async fn deleting_a_sandbox_cancels_and_stops_what_is_in_it() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    bench.deploy("hello", "main").await;
    let live = agent.deploy(commit('a'), 5001).await;
    let running = bench.deploy("ledger", "main").await;
    let mut job = agent.take_job().await;
    let elsewhere = bench.deploy_to("hello", "main", "bob").await;
    let mut other = agent.take_job().await;
    bench.platform.delete_sandbox(&alice(), &name("alice"), Power::Member).await.expect("deletes");
    agent.hear(|message| matches!(message, ToAgent::Cancel { .. })).await;
    job.end(&agent, JobResult::Cancelled {}).await;
    agent.stop(live.spec.instance).await;
    assert_eq!(bench.ended(&running).await.outcome(), Some(&Outcome::Cancelled { by: alice() }));
    assert_eq!(bench.platform.sandbox(&name("alice")).await.expect_err("gone").code(), "unknown_sandbox");
    agent.bring_up(&mut other, commit('a'), 5003).await;
    agent.done_ok(&other).await;
    while agent.table.targets().count() == 0 {
        agent.hear(|message| matches!(message, ToAgent::Routes { .. })).await;
    }
    assert_eq!(bench.ended(&elsewhere).await.outcome(), Some(&Outcome::Succeeded {}));
}

#[tokio::test]
async fn a_route_that_no_router_takes_fails_the_deploy_and_stops_the_instance() {
    let bench = Bench::with(|config| config.switch_limit = Duration::from_millis(100)).await;
    let mut agent = bench.agent("vm-1").await;
    let deployment = bench.deploy("hello", "main").await;
    let mut job = agent.take_job().await;
    agent.bring_up(&mut job, commit('a'), 5001).await;
    // `done_ok` is heard, but the table is left unread from then on.
    let ended = bench.ended(&deployment).await;
    let Some(Outcome::Failed { failure }) = ended.outcome() else { panic!("{ended:?}") };
    assert_eq!(failure.reason, FailureReason::RouteNotApplied);
    agent.stop(job.spec.instance).await;
    assert!(agent.table.targets().count() == 0, "{:?}", agent.table);
}

async fn first_id(bench: &Bench) -> crate::id::DeploymentId {
    bench.platform.deployment("1".parse().expect("a number")).await.expect("known").id
}
