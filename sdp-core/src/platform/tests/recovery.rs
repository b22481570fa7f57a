//! Cuts, restarts and disagreements between the two sides of the link.

use jiff::Timestamp;

use super::agent::{PlayedAgent, commit};
use super::*;
use crate::deployment::Step;
use crate::failure::FailureReason;
use crate::id::BootId;
use crate::name::CommitId;
use crate::sandbox::{InstanceState, StopReason};
use crate::secret::Secret;
use crate::wire::{
    ByeReason, Exit, FromAgent, InstanceAction, InstanceReport, InstanceStatus, JobAction, JobResult,
    Progress, ToAgent, Totals,
};

fn failed_with(deployment: &Deployment) -> Option<FailureReason> {
    match deployment.outcome() {
        Some(Outcome::Failed { failure }) => Some(failure.reason),
        _ => None,
    }
}

#[tokio::test]
async fn progress_waits_for_the_lines_before_it() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    let deployment = bench.deploy("hello", "main").await;
    let mut job = agent.take_job().await;
    job.progress(&agent, Progress::StepStarted { step: Step::Resolve }).await;
    job.hold(&["one", "two"]);
    job.progress(&agent, Progress::StepStarted { step: Step::Build }).await;
    agent.hear(|message| matches!(message, ToAgent::Ack { lines: 0, progress: 1, .. })).await;
    let seen = bench.platform.deployment(deployment.id.into()).await.expect("known");
    assert_eq!(seen.steps.len(), 1, "the second step comes after lines that are not there yet");
    job.lines_from(&agent, 1).await;
    agent.hear(|message| matches!(message, ToAgent::Ack { lines: 2, progress: 2, .. })).await;
    let seen = bench.platform.deployment(deployment.id.into()).await.expect("known");
    assert_eq!(
        seen.steps.iter().map(|s| (s.step, s.first_line)).collect::<Vec<_>>(),
        [(Step::Resolve, 1), (Step::Build, 3)]
    );
}

#[tokio::test]
async fn a_gap_is_asked_for_again_and_what_comes_twice_counts_once() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    let deployment = bench.deploy("hello", "main").await;
    let mut job = agent.take_job().await;
    job.lines(&agent, &["one"]).await;
    job.hold(&["two", "three"]);
    job.lines_from(&agent, 3).await;
    agent.hear(|message| matches!(message, ToAgent::Rewind { lines: 1, .. })).await;
    job.lines_from(&agent, 1).await;
    job.lines_from(&agent, 2).await;
    job.progress(&agent, Progress::StepStarted { step: Step::Build }).await;
    job.progress_again(&agent, 1, Progress::StepStarted { step: Step::Build }).await;
    job.progress_again(&agent, 3, Progress::StepStarted { step: Step::Start }).await;
    agent.hear(|message| matches!(message, ToAgent::Rewind { lines: 3, progress: 1, .. })).await;
    job.end(&agent, JobResult::Cancelled {}).await;
    agent.done_ok(&job).await;
    let lines = bench.platform.logs().window(deployment.id, 1, 10).await.expect("reads");
    let texts: Vec<_> = lines.iter().map(|line| String::from_utf8_lossy(&line.bytes).into_owned()).collect();
    assert_eq!(texts, ["one", "two", "three"]);
    let steps = bench.story(&deployment).await.matches("step_started").count();
    assert_eq!(steps, 1);
}

#[tokio::test]
async fn after_a_cut_the_agent_goes_on_where_the_server_is() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    let deployment = bench.deploy("hello", "main").await;
    let mut job = agent.take_job().await;
    job.lines(&agent, &["one", "two"]).await;
    job.progress(&agent, Progress::StepStarted { step: Step::Build }).await;
    agent.hear(|message| matches!(message, ToAgent::Ack { lines: 2, progress: 1, .. })).await;
    agent.reconnect(&bench.platform).await;
    let Some(ToAgent::Welcome { epoch, jobs, .. }) = agent.welcome.clone() else { panic!("no welcome") };
    assert_eq!(epoch.0, 2);
    // This agent says that it holds no line: it is told what they add up to.
    let ahead = Some(Totals { bytes: 8, checksum: crc32fast::hash(b"one\ntwo\n") });
    assert_eq!(jobs[0].action, JobAction::Send { lines: 2, progress: 1, ahead });
    job.lines(&agent, &["three"]).await;
    job.progress(&agent, Progress::Resolved { commit: commit('a') }).await;
    job.end(&agent, JobResult::Cancelled {}).await;
    agent.done_ok(&job).await;
    // Nobody asked for the cancel.
    assert_eq!(failed_with(&bench.ended(&deployment).await), Some(FailureReason::AgentRestarted));
    assert_eq!(bench.platform.logs().held(deployment.id).await.expect("reads"), 3);
}

#[tokio::test]
async fn only_a_newer_connection_supersedes_and_a_stop_says_come_again() {
    let bench = Bench::start().await;
    let mut old = bench.agent("vm-1").await;
    let mut new = bench.agent("vm-1").await;
    let bye =
        |wanted| move |message: &ToAgent| matches!(message, ToAgent::Bye { reason, .. } if *reason == wanted);
    old.hear(bye(ByeReason::Superseded)).await;
    let platform = bench.platform.clone();
    let (_, ()) = tokio::join!(new.hear(bye(ByeReason::Restart)), platform.stop());
}

#[tokio::test]
async fn a_hello_that_was_left_behind_by_a_cut_connection_does_not_supersede_the_next_one() {
    let bench = Bench::start().await;
    let mut cut = bench.platform.connect_agent(name("vm-1")).await.expect("connects");
    let mut agent = bench.agent("vm-1").await;
    cut.tx.send(agent.hello_of(2).into()).await.expect("sent");
    let answer = cut.rx.recv().await;
    assert!(matches!(answer, Some(ToAgent::Bye { reason: ByeReason::Restart, .. })), "{answer:?}");
    bench.deploy("hello", "main").await;
    agent.take_job().await;
}

#[tokio::test]
async fn what_dies_with_an_agent_is_said_when_it_is_back() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    bench.deploy("ledger", "main").await;
    let live = agent.deploy(commit('a'), 5001).await.spec.instance;
    let deployment = bench.deploy("hello", "main").await;
    let mut job = agent.take_job().await;
    job.progress(&agent, Progress::StepStarted { step: Step::Build }).await;
    agent.hear(|message| matches!(message, ToAgent::Ack { progress: 1, .. })).await;
    agent.boot = BootId::new();
    agent.jobs.clear();
    agent.instances.clear();
    agent.reconnect(&bench.platform).await;
    assert_eq!(failed_with(&bench.ended(&deployment).await), Some(FailureReason::AgentRestarted));
    let gone = bench.platform.instance(live).await.expect("known");
    assert_eq!(gone.state, InstanceState::Stopped { reason: StopReason::AgentRestarted {} });
}

/// A job whose agent was restarted before it had built anything.
async fn interrupted(bench: &Bench, credential: Option<GitCredential>) -> (PlayedAgent, Deployment) {
    let mut agent = bench.agent("vm-1").await;
    let order = Deploy { credential, ..Deploy::new(name("hello")) };
    let deployment = bench.platform.deploy(&alice(), order).await.expect("taken");
    let mut job = agent.take_job().await;
    job.progress(&agent, Progress::StepStarted { step: Step::Resolve }).await;
    agent.hear(|message| matches!(message, ToAgent::Ack { progress: 1, .. })).await;
    agent.boot = BootId::new();
    agent.jobs[0].interrupted = true;
    (agent, deployment)
}

fn login() -> Option<GitCredential> {
    Some(GitCredential { username: "alice".into(), password: Secret::new("pw") })
}

#[tokio::test]
async fn a_job_that_was_interrupted_is_sent_again_with_its_credential() {
    let bench = Bench::start().await;
    let (mut agent, deployment) = interrupted(&bench, login()).await;
    agent.reconnect(&bench.platform).await;
    let Some(ToAgent::Welcome { jobs, .. }) = agent.welcome.clone() else { panic!("no welcome") };
    assert!(matches!(jobs[0].action, JobAction::Send { progress: 1, .. }));
    let again = agent.hear(|message| matches!(message, ToAgent::Deploy { .. })).await;
    let ToAgent::Deploy { deployment: id, attempt: 1, credential: Some(login), .. } = again else {
        panic!("{again:?}")
    };
    assert_eq!((id, login.password.expose()), (deployment.id, "pw"));
}

#[tokio::test]
async fn a_job_that_was_interrupted_and_whose_credential_is_gone_fails_at_once() {
    let mut bench = Bench::start().await;
    let (mut agent, deployment) = interrupted(&bench, login()).await;
    bench.restart().await;
    agent.reconnect(&bench.platform).await;
    let Some(ToAgent::Welcome { jobs, .. }) = agent.welcome.clone() else { panic!("no welcome") };
    assert_eq!(jobs[0].action, JobAction::Forget {});
    assert_eq!(failed_with(&bench.ended(&deployment).await), Some(FailureReason::CredentialsGone));
    // Without one there is nothing to be gone.
    let mut bench = Bench::start().await;
    let (mut agent, _) = interrupted(&bench, None).await;
    bench.restart().await;
    agent.reconnect(&bench.platform).await;
    agent.hear(|message| matches!(message, ToAgent::Deploy { attempt: 1, credential: None, .. })).await;
}

#[tokio::test]
async fn an_agent_that_stays_away_loses_its_deployments_and_instances() {
    let bench = Bench::with(|config| config.lost_after = Duration::from_millis(100)).await;
    let mut agent = bench.agent("vm-1").await;
    bench.deploy("ledger", "main").await;
    let live = agent.deploy(commit('a'), 5001).await.spec.instance;
    let deployment = bench.deploy("hello", "main").await;
    let mut job = agent.take_job().await;
    job.progress(&agent, Progress::StepStarted { step: Step::Build }).await;
    agent.hear(|message| matches!(message, ToAgent::Ack { progress: 1, .. })).await;
    drop(agent);
    assert_eq!(failed_with(&bench.ended(&deployment).await), Some(FailureReason::AgentLost));
    bench.event(|event| event.about.instance == Some(live) && event.kind == EventKind::InstanceLost {}).await;
}

#[tokio::test]
async fn after_a_restart_of_the_server_deployments_go_on() {
    let mut bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    bench.deploy("ledger", "main").await;
    let live = agent.deploy(commit('a'), 5001).await;
    let deployment = bench.deploy("hello", "main").await;
    let mut job = agent.take_job().await;
    job.lines(&agent, &["one"]).await;
    job.progress(&agent, Progress::StepStarted { step: Step::Build }).await;
    agent.hear(|message| matches!(message, ToAgent::Ack { lines: 1, progress: 1, .. })).await;
    let waiting = bench.deploy("hello", "next").await;
    bench.restart().await;
    agent.reconnect(&bench.platform).await;
    let Some(ToAgent::Welcome { jobs, instances, .. }) = agent.welcome.clone() else { panic!("no welcome") };
    assert!(matches!(jobs[0].action, JobAction::Send { lines: 1, progress: 1, .. }));
    assert_eq!(instances[0].action, InstanceAction::Keep);
    job.progress(&agent, Progress::Resolved { commit: commit('b') }).await;
    let address = "127.0.0.1:5002".parse().expect("an address");
    job.progress(&agent, Progress::Started { address }).await;
    agent.runs(&job, 5002);
    job.end(&agent, JobResult::Ready {}).await;
    agent.done_ok(&job).await;
    let next = agent.take_job().await;
    assert_eq!(next.deployment, waiting.id);
    let ended = bench.ended(&deployment).await;
    assert_eq!(ended.outcome(), Some(&Outcome::Succeeded {}));
    let live = bench.platform.instance(live.spec.instance).await.expect("known");
    assert_eq!(live.state, InstanceState::Live {});
    // The numbers go on, too.
    assert_eq!(bench.deploy("ledger", "main").await.number.0, 4);
}

#[tokio::test]
async fn each_welcome_says_when_an_instance_ends_and_one_that_drains_has_no_time_left() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    let deployment = bench.deploy("hello", "main").await;
    let live = agent.deploy(commit('a'), 5001).await.spec.instance;
    bench.ended(&deployment).await;
    let end = |agent: &PlayedAgent| match &agent.welcome {
        Some(ToAgent::Welcome { instances, .. }) => {
            assert_eq!((instances[0].instance, instances[0].action), (live, InstanceAction::Keep));
            instances[0].expires_at
        }
        other => panic!("{other:?}"),
    };
    agent.reconnect(&bench.platform).await;
    let sandbox = bench.platform.sandbox(&deployment.sandbox).await.expect("there");
    assert!(sandbox.expires_at.is_some());
    assert_eq!(end(&agent), sandbox.expires_at);
    bench.platform.delete_sandbox(&alice(), &deployment.sandbox, Power::Member).await.expect("deleted");
    agent.reconnect(&bench.platform).await;
    assert!(end(&agent).is_some_and(|end| end <= Timestamp::now()), "nobody starts it again");
    agent.stop(live).await;
}

#[tokio::test]
async fn a_log_that_does_not_agree_is_sent_again_and_the_third_time_ends_the_deployment() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    let deployment = bench.deploy("hello", "main").await;
    let mut job = agent.take_job().await;
    job.lines(&agent, &["one"]).await;
    job.progress(&agent, Progress::Ended { result: JobResult::Ready {} }).await;
    for _ in 0..2 {
        job.done(&agent, 1).await;
        agent.hear(|message| matches!(message, ToAgent::Rewind { lines: 0, .. })).await;
        job.lines_from(&agent, 1).await;
    }
    job.done(&agent, 1).await;
    agent.done_ok(&job).await;
    assert_eq!(failed_with(&bench.ended(&deployment).await), Some(FailureReason::LogIncomplete));
}

#[tokio::test]
async fn a_credential_is_passed_on_once_and_never_written_down() {
    let mut bench = Bench::start().await;
    let secret = "CANARY-d41d8cd98f00b204";
    let request = || Deploy {
        credential: Some(GitCredential { username: "alice".into(), password: Secret::new(secret) }),
        ..Deploy::new(name("hello"))
    };
    let gone = bench.platform.deploy(&alice(), request()).await.expect("taken");
    bench.restart().await;
    assert_eq!(failed_with(&bench.ended(&gone).await), Some(FailureReason::CredentialsGone));
    let mut agent = bench.agent("vm-1").await;
    bench.platform.deploy(&alice(), request()).await.expect("taken");
    assert!(agent.take_job().await.credential);
    bench.platform.stop().await;
    let grep =
        std::process::Command::new("grep").args(["-r", "-l", secret]).arg(bench.folder.path()).output();
    assert_eq!(String::from_utf8_lossy(&grep.expect("grep runs").stdout), "");
}

#[tokio::test]
async fn reports_of_a_deployment_that_is_another_agents_are_dropped() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    let deployment = bench.deploy("hello", "main").await;
    let job = agent.take_job().await;
    let mut stranger = bench.agent("vm-2").await;
    job.progress_again(
        &stranger,
        1,
        Progress::Resolved { commit: CommitId::parse("f".repeat(40)).expect("ok") },
    )
    .await;
    job.done(&stranger, 0).await;
    stranger.hear(|message| matches!(message, ToAgent::DoneOk { .. })).await;
    let seen = bench.platform.deployment(deployment.id.into()).await.expect("known");
    assert_eq!((seen.commit, seen.agent), (None, Some(name("vm-1"))));
}

#[tokio::test]
async fn a_cancel_that_crosses_a_ready_ends_and_asks_again_until_the_instance_is_gone() {
    let bench = Bench::with(|config| config.cancel_limit = Duration::from_millis(300)).await;
    let mut agent = bench.agent("vm-1").await;
    let deployment = bench.deploy("hello", "main").await;
    let mut job = agent.take_job().await;
    job.progress(&agent, Progress::Resolved { commit: commit('a') }).await;
    let address = "127.0.0.1:5001".parse().expect("an address");
    job.progress(&agent, Progress::Started { address }).await;
    agent.hear(|message| matches!(message, ToAgent::Ack { progress: 2, .. })).await;
    bench.platform.cancel(&alice(), deployment.id.into()).await.expect("asked");
    agent.runs(&job, 5001);
    job.end(&agent, JobResult::Ready {}).await;
    // The first order has no effect at the agent, and the deployment has an end all the same.
    let stop = |message: &ToAgent| matches!(message, ToAgent::StopInstance { .. });
    let ToAgent::StopInstance { command: first, .. } = agent.hear(stop).await else { unreachable!() };
    assert_eq!(failed_with(&bench.ended(&deployment).await), Some(FailureReason::AgentUnresponsive));
    agent.reconnect(&bench.platform).await;
    let ToAgent::StopInstance { command: second, .. } = agent.hear(stop).await else { unreachable!() };
    assert_ne!(first, second, "an agent that has answered the first must act on the second");
}

#[tokio::test]
async fn an_end_that_overtakes_its_ready_fails_the_deploy() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    let deployment = bench.deploy("hello", "main").await;
    let mut job = agent.take_job().await;
    job.progress(&agent, Progress::Resolved { commit: commit('a') }).await;
    let address = "127.0.0.1:5001".parse().expect("an address");
    job.progress(&agent, Progress::Started { address }).await;
    let status = InstanceStatus::Exited {
        exit: Exit { exit_code: Some(3), last_lines: vec!["no".into()], ..Exit::default() },
    };
    let report = InstanceReport { instance: job.spec.instance, deployment: deployment.id, status };
    agent.say(FromAgent::Instance { report }).await;
    job.end(&agent, JobResult::Ready {}).await;
    assert_eq!(failed_with(&bench.ended(&deployment).await), Some(FailureReason::Exited));
    assert!(agent.table.targets().count() == 0, "{:?}", agent.table);
}

#[tokio::test]
async fn a_router_that_comes_back_empty_is_told_the_table() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    let _running = bench.deploy("hello", "main").await;
    agent.take_job().await;
    agent.boot = BootId::new();
    agent.jobs.clear();
    agent.table = crate::routing::RouteTable::default();
    agent.reconnect(&bench.platform).await;
    while agent.table.environments.first().map_or(0, |place| place.services.len()) < 2 {
        agent.hear(|message| matches!(message, ToAgent::Routes { .. })).await;
    }
}

#[tokio::test]
async fn a_table_is_newer_than_what_any_router_has() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    // As after a restore of the server from a backup.
    agent.table.version = crate::id::RouteVersion(900);
    agent.reconnect(&bench.platform).await;
    agent.hear(|message| matches!(message, ToAgent::Routes { table } if table.version.0 > 900)).await;
    let deployment = bench.deploy("hello", "main").await;
    agent.deploy(commit('a'), 5001).await;
    assert_eq!(bench.ended(&deployment).await.outcome(), Some(&Outcome::Succeeded {}));
}
