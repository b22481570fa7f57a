//! Several deployments together: all or none are taken, and requests are switched to all at once.

use serde_json::json;

use super::agent::commit;
use super::*;
use crate::api::CreateBatch;
use crate::batch::BatchOutcome;
use crate::deployment::{State, Step};
use crate::failure::{Failure, FailureReason};
use crate::wire::{JobResult, ToAgent};

impl Bench {
    async fn batch(&self, wanted: serde_json::Value) -> Result<crate::batch::Batch, String> {
        let wanted: CreateBatch = serde_json::from_value(wanted).expect("a batch");
        let taken = self.platform.deploy_batch(&alice(), wanted, None, Power::Member).await;
        taken.map_err(|error| format!("{}: {error}", error.code()))
    }

    async fn outcome(&self) -> BatchOutcome {
        let ended = self.event(|event| matches!(event.kind, EventKind::BatchEnded { .. })).await;
        let EventKind::BatchEnded { outcome, .. } = ended.kind else { unreachable!() };
        let (batch, _) = self.platform.batch(ended.about.batch.expect("a batch")).await.expect("there");
        assert_eq!(batch.outcome, Some(outcome));
        outcome
    }
}

fn two() -> serde_json::Value {
    json!({ "sandbox": "qa", "services": [
        { "service": "hello", "git_ref": "feature/a" }, { "service": "ledger", "git_ref": "feature/b" }] })
}

#[tokio::test]
async fn all_of_a_batch_is_switched_at_once_when_none_is_on_its_way() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    let batch = bench.batch(two()).await.expect("taken");
    let mut first = agent.take_job().await;
    let mut second = agent.take_job().await;
    agent.bring_up(&mut first, commit('1'), 9001).await;
    agent.done_ok(&first).await;
    bench
        .event(|event| {
            event.about.deployment == Some(first.deployment)
                && matches!(event.kind, EventKind::StepStarted { step: Step::Switch, .. })
        })
        .await;
    let waits = bench.platform.deployment(first.deployment.into()).await.expect("there");
    assert_eq!(waits.state, State::Running { step: Step::Switch });
    assert_eq!(agent.table.targets().count(), 0, "{:?}", agent.table);

    agent.bring_up(&mut second, commit('2'), 9002).await;
    agent.done_ok(&second).await;
    agent.hear(|m| matches!(m, ToAgent::Routes { table } if table.targets().count() > 0)).await;
    assert_eq!(agent.table.targets().count(), 2, "no table has one of them alone");
    assert_eq!(bench.outcome().await, BatchOutcome::Succeeded);
    let (_, deployments) = bench.platform.batch(batch.id).await.expect("there");
    let services: Vec<_> = deployments.iter().map(|d| (d.service.as_str(), d.git_ref.as_str())).collect();
    assert_eq!(services, [("hello", "feature/a"), ("ledger", "feature/b")]);
}

#[tokio::test]
async fn what_is_healthy_serves_though_another_of_the_batch_failed() {
    let mut bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    bench.batch(two()).await.expect("taken");
    let mut first = agent.take_job().await;
    let mut second = agent.take_job().await;
    agent.bring_up(&mut first, commit('1'), 9001).await;
    agent.done_ok(&first).await;
    // A server that is started anew knows it all again.
    bench.restart().await;
    agent.reconnect(&bench.platform).await;
    second.progress(&agent, crate::wire::Progress::StepStarted { step: Step::Resolve }).await;
    let failure = Failure::new(Step::Resolve, FailureReason::BuildFailed, "no");
    second.end(&agent, JobResult::Failed { failure }).await;
    agent.hear(|m| matches!(m, ToAgent::Routes { table } if table.targets().count() > 0)).await;
    assert_eq!(agent.table.targets().count(), 1);
    assert_eq!(bench.outcome().await, BatchOutcome::Partial);
}

#[tokio::test]
async fn a_batch_is_taken_whole_or_not_at_all() {
    let bench = Bench::start().await;
    let refused = [
        (
            json!({ "services": [] }),
            "invalid_service: services: name at least one service, or a template that has some",
        ),
        (
            json!({ "services": [{ "service": "hello" }, { "service": "nosuch" }] }),
            "unknown_service: there is no service named nosuch",
        ),
        (
            json!({ "services": [{ "service": "hello" }, { "service": "hello" }] }),
            "invalid_service: services: hello is there twice",
        ),
        (json!({ "template": { "name": "nosuch" } }), "unknown_template: there is no template named nosuch"),
    ];
    for (wanted, why) in refused {
        assert_eq!(bench.batch(wanted).await.err().as_deref(), Some(why));
    }
    let lock = serde_json::from_value(
        json!({ "environment": "default", "service": "ledger", "kind": "freeze", "reason": "x" }),
    );
    bench.platform.lock(&alice(), lock.expect("a lock"), Power::Member).await.expect("frozen");
    assert!(bench.batch(two()).await.expect_err("refused").starts_with("frozen"));
    assert_eq!(
        bench
            .platform
            .deployments(DeploymentFilter { limit: 9, ..DeploymentFilter::default() })
            .await
            .expect("read"),
        []
    );
    assert_eq!(bench.platform.sandboxes().await.expect("read"), [], "nor is its sandbox made");
}

#[tokio::test]
async fn a_template_is_deployed_with_what_differs_and_makes_its_sandbox() {
    let bench = Bench::start().await;
    let spec = json!({ "services": { "hello": { "git_ref": "v1" }, "ledger": { "git_ref": "v2" } }, "lifetime_hours": 3 });
    let spec = serde_json::from_value(spec).expect("a template");
    bench.platform.save_template(&alice(), &name("shop"), spec).await.expect("saved");
    let wanted = json!({ "sandbox": "qa", "template": { "name": "shop" },
        "services": [{ "service": "ledger", "git_ref": "feature/b" }] });
    let batch = bench.batch(wanted).await.expect("taken");
    let (_, deployments) = bench.platform.batch(batch.id).await.expect("there");
    let refs: Vec<_> = deployments.iter().map(|d| format!("{}={}", d.service, d.git_ref)).collect();
    assert_eq!(refs, ["hello=v1", "ledger=feature/b"]);
    let sandbox = bench.platform.sandbox(&name("qa")).await.expect("made");
    assert_eq!((sandbox.lifetime_hours, sandbox.template.map(|t| t.version)), (3, Some(1)));
    for deployment in deployments {
        bench.platform.cancel(&alice(), deployment.id.into()).await.expect("cancelled");
    }
    assert_eq!(bench.outcome().await, BatchOutcome::Failed);
}

#[tokio::test]
async fn the_same_batch_asked_for_twice_is_one() {
    let bench = Bench::start().await;
    let ask = async || {
        let wanted: CreateBatch = serde_json::from_value(two()).expect("a batch");
        let again = Idempotency { key: name("ci-1"), fingerprint: "same".into() };
        bench.platform.deploy_batch(&alice(), wanted, Some(again), Power::Member).await.expect("taken").id
    };
    assert_eq!(ask().await, ask().await);
}

#[tokio::test]
async fn what_was_ready_long_before_the_others_has_as_long_as_they_to_be_switched() {
    let limit = Duration::from_secs(1);
    let bench = Bench::with(|config| config.switch_limit = limit).await;
    let mut agent = bench.agent("vm-1").await;
    bench.batch(two()).await.expect("taken");
    let mut first = agent.take_job().await;
    let mut second = agent.take_job().await;
    agent.bring_up(&mut first, commit('1'), 9001).await;
    agent.done_ok(&first).await;
    let ready =
        bench.event(|event| matches!(event.kind, EventKind::StepStarted { step: Step::Switch, .. })).await.at;
    while jiff::Timestamp::now() <= ready.checked_add(limit).expect("a time") {
        bench.platform.services().await.expect("there");
    }
    agent.bring_up(&mut second, commit('2'), 9002).await;
    agent.done_ok(&second).await;
    agent.hear(|m| matches!(m, ToAgent::Routes { table } if table.targets().count() > 0)).await;
    assert_eq!(bench.outcome().await, BatchOutcome::Succeeded);
}
