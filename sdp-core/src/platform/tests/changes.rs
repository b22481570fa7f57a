//! What a job's commit is compared with, and what is kept with a deployment: what its agent found, and where it is told.

use super::agent::commit;
use super::*;
use crate::deployment::{Changes, CommitInfo, Notify, Step};
use crate::failure::{Failure, FailureReason};
use crate::wire::{JobResult, Progress};

#[tokio::test]
async fn a_job_is_compared_with_what_serves_in_its_place() {
    let mut bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    bench.deploy("hello", "main").await;
    let first = agent.deploy(commit('a'), 5001).await;
    assert_eq!(first.spec.since, None, "nothing was there");

    let failing = bench.deploy("hello", "main").await;
    let mut job = agent.take_job().await;
    assert_eq!(job.spec.since, Some(commit('a')));
    // Asked for while the first serves; when it is sent, another does.
    let queued = bench.deploy("hello", "main").await;
    let failure = Failure::new(Step::Build, FailureReason::BuildFailed, "no");
    job.end(&agent, JobResult::Failed { failure }).await;
    agent.done_ok(&job).await;
    bench.ended(&failing).await;
    let mut job = agent.take_job().await;
    assert_eq!((job.deployment, &job.spec.since), (queued.id, &Some(commit('a'))));
    let next = bench.deploy("hello", "main").await;
    agent.bring_up(&mut job, commit('b'), 5002).await;
    agent.done_ok(&job).await;
    let mut job = agent.take_job().await;
    assert_eq!((job.deployment, &job.spec.since), (next.id, &Some(commit('b'))));
    let failure = Failure::new(Step::Build, FailureReason::BuildFailed, "no");
    job.end(&agent, JobResult::Failed { failure }).await;
    agent.done_ok(&job).await;

    // Nothing serves any more: what succeeded last counts, also after the server was restarted while it waits.
    let live = bench.platform.instances(InstanceFilter::default()).await.expect("a list");
    let live = live.iter().find(|instance| instance.commit == commit('b')).expect("it runs").id;
    bench.platform.stop_instance(&alice(), live).await.expect("stopped");
    agent.stop(live).await;
    drop(agent);
    let waits = bench.deploy("hello", "main").await;
    bench.restart().await;
    let mut agent = bench.agent("vm-1").await;
    let job = agent.take_job().await;
    assert_eq!((job.deployment, &job.spec.since), (waits.id, &Some(commit('b'))));

    bench.deploy_to("hello", "main", "bob").await;
    assert_eq!(agent.take_job().await.spec.since, None, "another sandbox is another place");
}

#[tokio::test]
async fn what_has_changed_is_in_the_event_and_stays_with_the_deployment() {
    let mut bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    let deployment = bench.deploy("hello", "main").await;
    let mut job = agent.take_job().await;
    let info = CommitInfo { author: "Åsa".into(), subject: "Greet".into() };
    // More than an agent may say.
    let told = Changes {
        since: commit('a'),
        added: 9,
        removed: 1,
        more: false,
        subjects: vec!["Greet ".repeat(1000); 9],
    };
    job.progress(&agent, Progress::StepStarted { step: Step::Fetch }).await;
    job.progress(&agent, Progress::Fetched { info: info.clone(), changes: Some(told) }).await;
    let event = bench.event(|event| matches!(event.kind, EventKind::CommitFetched { .. })).await;
    let EventKind::CommitFetched { changes: Some(changes), .. } = event.kind else { panic!("{event:?}") };
    assert_eq!((changes.added, changes.removed, changes.subjects.len()), (9, 1, Changes::SUBJECTS));
    assert!(changes.subjects[0].len() < 1000, "{}", changes.subjects[0].len());
    bench.restart().await;
    let kept = bench.platform.deployment(deployment.id.into()).await.expect("known");
    assert_eq!((kept.changes, kept.commit_info), (Some(changes), Some(info)));
}

#[tokio::test]
async fn where_a_deployment_is_told_is_kept_with_it() {
    let mut bench = Bench::start().await;
    let notify = Some(Notify { channel: name("#payments-ci") });
    let deploy = Deploy { notify: notify.clone(), ..Deploy::new(name("hello")) };
    let told = bench.platform.deploy(&alice(), deploy).await.expect("taken");
    assert_eq!(told.notify, notify);
    bench.restart().await;
    assert_eq!(bench.platform.deployment(told.id.into()).await.expect("known").notify, notify);
    let event = &bench.platform.events_of(told.id).await.expect("events")[0];
    assert_eq!(Deployment::begin(event).map(|deployment| deployment.notify), Some(notify));

    // As they were stored before there was such a thing.
    let mut stored = serde_json::to_value(&told).expect("JSON");
    let fields = stored.as_object_mut().expect("an object");
    assert!(fields.remove("notify").is_some() && fields.remove("changes").is_some());
    let read: Deployment = serde_json::from_value(stored).expect("a deployment");
    assert_eq!((read.notify, read.changes), (None, None));
    let mut stored = serde_json::to_value(&event.kind).expect("JSON");
    stored.as_object_mut().expect("an object").remove("notify").expect("it was there");
    let read: EventKind = serde_json::from_value(stored).expect("an event");
    assert!(matches!(read, EventKind::DeploymentRequested { notify: None, .. }), "{read:?}");
}

#[test]
fn what_was_stored_before_there_were_changes_is_read() {
    let event =
        serde_json::json!({ "type": "commit_fetched", "info": { "author": "Åsa", "subject": "Greet" } });
    let info = CommitInfo { author: "Åsa".into(), subject: "Greet".into() };
    let kind: EventKind = serde_json::from_value(event.clone()).expect("an event");
    assert_eq!(kind, EventKind::CommitFetched { info, changes: None });
    assert_eq!(serde_json::to_value(kind).expect("JSON"), event);
}
