//! Followed output, and why deployments wait.

use super::agent::commit;
use super::*;
use crate::api::{OutputChunk, OutputEndReason};
use crate::failure::{Failure, FailureReason};
use crate::id::{CommandId, InstanceId};
use crate::platform::input::Input;
use crate::wire::{FromAgent, OutputLine, RejectReason, Stream, ToAgent};

fn lines(texts: &[&str]) -> Vec<OutputLine> {
    let line = |text: &&str| OutputLine {
        at: jiff::Timestamp::UNIX_EPOCH,
        stream: Stream::Stdout,
        text: (*text).to_owned(),
    };
    texts.iter().map(line).collect()
}

async fn asked(agent: &mut PlayedAgent) -> (CommandId, InstanceId, u32) {
    match agent.hear(|message| matches!(message, ToAgent::FollowOutput { .. })).await {
        ToAgent::FollowOutput { command, instance, tail } => (command, instance, tail),
        other => panic!("{other:?}"),
    }
}

async fn ended(follow: &mut OutputFollow) -> crate::api::OutputEnd {
    loop {
        match tokio::time::timeout(Duration::from_secs(20), follow.next()).await.expect("it ends") {
            Some(Followed::End(end)) => return end,
            Some(Followed::Lines(_)) => {}
            None => panic!("no last word"),
        }
    }
}

/// A running instance, and its agent.
async fn running(bench: &Bench) -> (PlayedAgent, InstanceId) {
    let mut agent = bench.agent("vm-1").await;
    let deployment = bench.deploy("hello", "main").await;
    let job = agent.deploy(commit('1'), 4001).await;
    bench.ended(&deployment).await;
    (agent, job.spec.instance)
}

#[tokio::test]
async fn output_comes_through_in_order_and_ends_with_the_reason() {
    let bench = Bench::start().await;
    let (mut agent, id) = running(&bench).await;
    let mut follow = bench.platform.follow_output(id, 99_999).await.expect("followed");
    let (command, instance, tail) = asked(&mut agent).await;
    assert_eq!((instance, tail), (id, 10_000));
    agent.say(FromAgent::Output { command, left_out: 0, lines: lines(&["a", "b"]) }).await;
    agent.say(FromAgent::Output { command, left_out: 3, lines: lines(&["f"]) }).await;
    agent.say(FromAgent::OutputEnded { command, failure: None }).await;
    let expected =
        |left_out, texts: &[&str]| Some(Followed::Lines(OutputChunk { left_out, lines: lines(texts) }));
    assert_eq!(follow.next().await, expected(0, &["a", "b"]));
    assert_eq!(follow.next().await, expected(3, &["f"]));
    assert_eq!(ended(&mut follow).await.reason, OutputEndReason::Ended);
    assert_eq!(follow.next().await, None);
    // What the agent cannot do it says, and what becomes of its connection is said too.
    let mut refused = bench.platform.follow_output(id, 1).await.expect("followed");
    let mut cut = bench.platform.follow_output(id, 1).await.expect("followed");
    let (command, ..) = asked(&mut agent).await;
    let failure = Some(Failure::new(None, FailureReason::AgentRefused, "it follows too many"));
    agent.say(FromAgent::OutputEnded { command, failure }).await;
    let end = ended(&mut refused).await;
    assert_eq!((end.reason, end.detail.as_deref()), (OutputEndReason::Failed, Some("it follows too many")));
    agent.reconnect(&bench.platform).await;
    assert_eq!(ended(&mut cut).await.reason, OutputEndReason::AgentAway);
    let mut last = bench.platform.follow_output(id, 1).await.expect("followed");
    bench.platform.stop().await;
    assert_eq!(ended(&mut last).await.reason, OutputEndReason::Stopping);
}

#[tokio::test]
async fn a_reader_that_does_not_read_loses_lines_and_holds_nothing_up() {
    let bench = Bench::start().await;
    let (mut agent, id) = running(&bench).await;
    let mut follow = bench.platform.follow_output(id, 0).await.expect("followed");
    let (command, ..) = asked(&mut agent).await;
    for _ in 0..500 {
        agent.say(FromAgent::Output { command, left_out: 1, lines: lines(&["x"]) }).await;
    }
    // Behind all that a deployment goes its way.
    let deployment = bench.deploy("ledger", "main").await;
    agent.deploy(commit('2'), 4002).await;
    bench.ended(&deployment).await;
    agent.say(FromAgent::OutputEnded { command, failure: None }).await;
    let (mut read, mut left_out) = (0, 0);
    while let Some(Followed::Lines(chunk)) = follow.next().await {
        read += chunk.lines.len() as u64;
        left_out += chunk.left_out;
    }
    assert_eq!(read + left_out, 1000, "every line is either here or counted");
    assert!((1..=20).contains(&read), "{read}");
}

#[tokio::test]
async fn nobody_looks_any_more_and_the_agent_is_told() {
    let bench = Bench::start().await;
    let (mut agent, id) = running(&bench).await;
    let mut follows = Vec::new();
    while let Ok(follow) = bench.platform.follow_output(id, 0).await {
        follows.push(follow);
    }
    assert_eq!(follows.len(), 64);
    let error = bench.platform.follow_output(id, 0).await.expect_err("too many");
    assert_eq!(error.code(), "too_many_followers");
    let (command, ..) = asked(&mut agent).await;
    drop(follows);
    let is_stop =
        |message: &ToAgent| matches!(message, ToAgent::StopFollowing { command: c } if *c == command);
    agent.hear(is_stop).await;
    // What comes all the same is answered with the same again.
    agent.say(FromAgent::Output { command, left_out: 0, lines: lines(&["late"]) }).await;
    agent.hear(is_stop).await;
    bench.platform.follow_output(id, 0).await.expect("there is room again");
    let gone = bench.platform.follow_output(InstanceId::new(), 0).await.expect_err("unknown");
    assert_eq!(gone.code(), "unknown_instance");
}

#[tokio::test]
async fn a_deployment_that_waits_says_for_what() {
    let bench = Bench::start().await;
    let why = async |deployment: &Deployment| {
        bench.platform.waiting_for(deployment.id).await.expect("answered").unwrap_or_default()
    };
    let mut said = Vec::new();
    let mut fussy = service("fussy");
    fussy.labels = [name("gpu"), name("go")].into();
    bench.platform.save_service(&alice(), fussy, Save::Create).await.expect("saved");
    let unfit = bench.deploy("fussy", "main").await;
    said.push(why(&unfit).await);
    let mut agent = bench.agent("vm-1").await;
    said.push(why(&unfit).await);
    let first = bench.deploy("hello", "main").await;
    let _job = agent.take_job().await;
    said.push(why(&first).await);
    let second = bench.deploy("hello", "other").await;
    said.push(why(&second).await);
    let full = bench.deploy("ledger", "main").await;
    let _job = agent.take_job().await;
    said.push(why(&full).await);
    let third = bench.deploy_to("ledger", "main", "bob").await;
    said.push(why(&third).await);
    bench.platform.cancel(&alice(), unfit.id.into()).await.expect("cancelled");
    said.push(why(&unfit).await);
    drop(agent);
    bench.event(|event| matches!(event.kind, EventKind::AgentDisconnected {})).await;
    said.push(why(&third).await);
    said.push(why(&first).await);
    insta::assert_snapshot!(said.join("\n"), @r"
    no agent is connected; it needs one with: go, gpu
    no connected agent has all of its labels: go, gpu

    hello in alice is being deployed (#2)

    agent vm-1 has all the work that it does at once (2); 2 deployments are ahead of it

    agent vm-1 is away
    agent vm-1, which works on it, is away
    ");
}

#[tokio::test]
async fn a_deployment_that_was_given_back_says_why_and_what_to_do() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    let mut said = Vec::new();
    for (service, reason, message) in [
        ("hello", RejectReason::DiskFull, "its disk is full: 3 MiB are free"),
        ("ledger", RejectReason::EngineUnavailable, "the container engine does not answer"),
    ] {
        agent.reconnect(&bench.platform).await;
        let deployment = bench.deploy(service, "main").await;
        let message = message.to_owned();
        let asked = agent.hear(|message| matches!(message, ToAgent::Deploy { .. })).await;
        let ToAgent::Deploy { command, .. } = asked else { unreachable!() };
        agent.say(FromAgent::Rejected { command, reason, message }).await;
        let id = deployment.id;
        let returned = |event: &crate::event::Event| {
            event.about.deployment == Some(id) && matches!(event.kind, EventKind::DeploymentReturned { .. })
        };
        bench.event(returned).await;
        said.push(bench.platform.waiting_for(id).await.expect("answered").unwrap_or_default());
        bench.platform.cancel(&alice(), id.into()).await.expect("cancelled");
    }
    insta::assert_snapshot!(said.join("\n"), @r"
    agent vm-1 gave it back: its disk is full: 3 MiB are free; free space there (it is asked again soon)
    agent vm-1 gave it back: the container engine does not answer; check Docker there (it is asked again soon)
    ");
}

#[tokio::test]
async fn the_agent_is_told_that_nobody_looks_even_when_the_loop_had_no_room_to_hear_it() {
    let bench = Bench::start().await;
    let (mut agent, id) = running(&bench).await;
    let follow = bench.platform.follow_output(id, 0).await.expect("followed");
    let (command, ..) = asked(&mut agent).await;
    // Without an await: the loop takes nothing meanwhile.
    while bench.platform.inner.inputs.try_send(Input::Read(Box::new(|_| ()))).is_ok() {}
    drop(follow);
    agent.hear(|message| matches!(message, ToAgent::StopFollowing { command: c } if *c == command)).await;
}
