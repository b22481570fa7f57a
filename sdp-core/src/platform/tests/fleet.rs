//! Agents that are drained, removed, thrown out; and a router that comes late.

use super::agent::commit;
use super::*;
use crate::access::Access;
use crate::api::TokenKind;
use crate::deployment::Step;
use crate::failure::FailureReason;
use crate::sandbox::InstanceState;
use crate::wire::{ByeReason, ToAgent};

async fn waits_for(bench: &Bench, deployment: &Deployment) -> Option<String> {
    bench.platform.waiting_for(deployment.id).await.expect("asked")
}

/// Asks the loop something, so that all that was said to it before has happened.
async fn agents(bench: &Bench) -> Vec<(String, bool, bool)> {
    let agents = bench.platform.agents().await.expect("asked");
    agents.into_iter().map(|agent| (agent.name.to_string(), agent.connected, agent.draining)).collect()
}

fn bye(message: &ToAgent) -> bool {
    matches!(message, ToAgent::Bye { .. })
}

#[tokio::test]
async fn a_drained_agent_finishes_its_job_and_gets_no_other_until_it_is_resumed() {
    let mut bench = Bench::start().await;
    let mut first = bench.agent("vm-1").await;
    let running = bench.deploy("hello", "main").await;
    let mut job = first.take_job().await;
    bench.platform.drain_agent(&alice(), &name("vm-1")).await.expect("drained");
    bench.platform.drain_agent(&alice(), &name("vm-1")).await.expect("again changes nothing");
    let waiting = bench.deploy("ledger", "main").await;
    assert_eq!(waits_for(&bench, &waiting).await.as_deref(), Some("its agent vm-1 is being drained"));
    let view = bench.platform.agent(&name("vm-1")).await.expect("known");
    assert!(view.draining && view.connected);
    assert_eq!((view.running, view.queued), (1, 0));
    // What it has it ends, route and all.
    first.bring_up(&mut job, commit('a'), 5001).await;
    first.done_ok(&job).await;
    while first.table.targets().count() == 0 {
        first.hear(|message| matches!(message, ToAgent::Routes { .. })).await;
    }
    assert_eq!(bench.ended(&running).await.outcome(), Some(&Outcome::Succeeded {}));
    // Questions go on: about branches, and about what it runs.
    let platform = bench.platform.clone();
    let asking =
        tokio::task::JoinSet::from_iter([async move { platform.branches(&name("hello"), None).await }]);
    first.hear(|message| matches!(message, ToAgent::ListRefs { .. })).await;
    drop(asking);

    // Another one takes what waits.
    let mut second = bench.agent("vm-2").await;
    let job = second.take_job().await;
    assert_eq!(job.deployment, waiting.id);
    bench.platform.cancel(&alice(), waiting.id.into()).await.expect("asked");

    // It stays so over a restart of the server, and of the agent.
    bench.restart().await;
    assert_eq!(agents(&bench).await, [("vm-1".into(), false, true), ("vm-2".into(), false, false)]);
    first.reconnect(&bench.platform).await;
    assert_eq!(agents(&bench).await[0], ("vm-1".into(), true, true));
    let waiting = bench.deploy_to("ledger", "main", "bob").await;
    assert_eq!(waits_for(&bench, &waiting).await.as_deref(), Some("its agent vm-1 is being drained"));
    bench.platform.resume_agent(&alice(), &name("vm-1")).await.expect("resumed");
    assert_eq!(first.take_job().await.deployment, waiting.id);
    let mut feed = bench.platform.feed(EventSeq(0), EventFilter::default());
    let mut told = Vec::new();
    while let Some(event) = feed.try_next().await.expect("a feed") {
        if matches!(event.kind, EventKind::AgentDrained {} | EventKind::AgentResumed {}) {
            assert_eq!((event.by, event.about.agent), (alice(), Some(name("vm-1"))));
            told.push(event.kind);
        }
    }
    assert_eq!(told, [EventKind::AgentDrained {}, EventKind::AgentResumed {}]);
}

#[tokio::test]
async fn several_that_are_drained_are_named_and_an_unknown_one_is_told() {
    let bench = Bench::start().await;
    let (_first, _second) = (bench.agent("vm-1").await, bench.agent("vm-2").await);
    for vm in ["vm-1", "vm-2"] {
        bench.platform.drain_agent(&alice(), &name(vm)).await.expect("drained");
    }
    let waiting = bench.deploy("hello", "main").await;
    let why = waits_for(&bench, &waiting).await;
    assert_eq!(why.as_deref(), Some("its agents vm-1, vm-2 are being drained"));
    let error = bench.platform.drain_agent(&alice(), &name("vm-3")).await.expect_err("unknown");
    assert_eq!((error.code(), error.did_you_mean()), ("unknown_agent", Some("vm-1")));
}

#[tokio::test]
async fn an_agent_goes_with_its_token_unless_it_has_work() {
    let mut bench = Bench::start().await;
    let access = Access::of(&bench.platform);
    let token = access.create_token(name("vm-1"), TokenKind::Agent).await.expect("made").token;
    let enrolment = access.create_enrolment(name("vm-1")).await.expect("made").token;
    let mut agent = bench.agent("vm-1").await;
    bench.deploy("hello", "main").await;
    let served = agent.deploy(commit('a'), 5001).await;
    let building = bench.deploy("ledger", "main").await;
    agent.take_job().await;
    let error = bench.platform.forget_agent(&alice(), &name("vm-1"), false).await.expect_err("has work");
    insta::assert_snapshot!(
        format!("{}: {error}; {}", error.code(), error.hint()),
        @"agent_in_use: the agent vm-1 still has deployments: #2; instances: hello in alice; drain it and stop what runs on it first, or end all that at once with `force=true`"
    );
    assert!(access.token(token.expose()).await.expect("asked").is_some(), "nothing has happened");

    let revocations = access.revocations();
    bench.platform.forget_agent(&alice(), &name("vm-1"), true).await.expect("forgotten");
    assert!(revocations.has_changed().expect("open"));
    let ToAgent::Bye { reason, .. } = agent.hear(bye).await else { unreachable!() };
    assert_eq!(reason, ByeReason::Unauthorised);
    let ended = bench.ended(&building).await;
    let Some(Outcome::Failed { failure }) = ended.outcome() else { panic!("{ended:?}") };
    assert_eq!(failure.reason, FailureReason::AgentLost);
    let instance = bench.platform.instance(served.spec.instance).await.expect("known");
    assert_eq!(instance.state, InstanceState::Lost {});
    assert_eq!(agents(&bench).await, []);
    assert_eq!(access.token(token.expose()).await.expect("asked"), None);
    assert_eq!(access.enrol(enrolment.expose()).await.expect("asked"), None);
    assert!(bench.platform.stats().await.expect("asked").agents.is_empty());
    bench.event(|event| event.kind == EventKind::AgentForgotten {} && event.by == alice()).await;
    // So it is in the next life.
    bench.restart().await;
    assert_eq!(agents(&bench).await, []);
    let error = bench.platform.forget_agent(&alice(), &name("vm-1"), true).await.expect_err("gone");
    assert_eq!(error.code(), "unknown_agent");
}

#[tokio::test]
async fn an_agent_that_is_thrown_out_hears_no_question_and_no_table_after_that() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    // A connection that was let in before, and says hello after.
    let late = bench.platform.connect_agent(name("vm-1")).await.expect("connected");
    bench.platform.disconnect_agent(&name("vm-1")).await.expect("done");
    let error = bench.platform.branches(&name("hello"), None).await.expect_err("nobody is there");
    assert_eq!(error.code(), "no_agent");
    bench.platform.save_service(&alice(), service("third"), Save::Create).await.expect("saved");
    late.tx.send(agent.hello_of(2).into()).await.expect("open");
    assert_eq!(agents(&bench).await, [("vm-1".into(), false, false)]);
    let mut late = late;
    while let Some(message) = late.rx.recv().await {
        assert!(bye(&message), "{message:?}");
    }
    let mut heard = Vec::new();
    while !heard.last().is_some_and(bye) {
        heard.push(agent.hear(|_| true).await);
    }
    assert!(!heard.iter().any(|message| matches!(message, ToAgent::ListRefs { .. })), "{heard:?}");
    assert!(
        !agent
            .table
            .environments
            .iter()
            .flat_map(|place| &place.services)
            .any(|route| route.service == name("third"))
    );
    // With what it gets then it may come again.
    agent.reconnect(&bench.platform).await;
    assert_eq!(agents(&bench).await, [("vm-1".into(), true, false)]);
}

#[tokio::test]
async fn a_switch_waits_for_a_router_that_dials_late_after_a_restart() {
    let mut bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    let deployment = bench.deploy("hello", "main").await;
    let mut job = agent.take_job().await;
    agent.bring_up(&mut job, commit('a'), 5001).await;
    // Its part is done, but the table is left unread.
    bench.event(|event| event.kind == (EventKind::StepStarted { step: Step::Switch, first_line: 3 })).await;
    bench.platform.stop().await;
    // A life in which a router that is there would be late at once; but it is away, and still may dial.
    bench.platform = start_in(bench.folder.path(), |config| config.switch_limit = Duration::ZERO).await;
    assert_eq!(agents(&bench).await, [("vm-1".into(), false, false)]);
    assert!(!bench.platform.deployment(deployment.id.into()).await.expect("known").is_ended());
    bench.restart().await;
    agent.jobs.clear();
    agent.reconnect(&bench.platform).await;
    while agent.table.targets().count() == 0 {
        agent.hear(|message| matches!(message, ToAgent::Routes { .. })).await;
    }
    assert_eq!(bench.ended(&deployment).await.outcome(), Some(&Outcome::Succeeded {}));
}
