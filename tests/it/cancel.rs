//! Cancel: everything that was started is gone, and it is said only then.

use sdp_core::deployment::{Outcome, State, Step};
use serde_json::json;

use crate::harness::{Sdp, greeter, run_test};

async fn in_step(sdp: &Sdp, number: &str, wanted: Step) {
    sdp.until("the step begins", async |sdp| {
        let view = sdp.admin.deployment(number.parse().expect("a number")).await.expect("known");
        assert!(!view.deployment.is_ended(), "{:?}", view.deployment.state);
        view.deployment.state == State::Running { step: wanted }
    })
    .await;
}

#[test]
fn a_build_that_ignores_sigterm_and_has_forked_is_gone_after_a_cancel() {
    run_test(async |sdp| {
        let script = "trap '' TERM; setsid sh -c \"trap '' TERM; while :; do sleep 1; done\" & echo forked; while :; do sleep 1; done";
        sdp.push("hello", "main", &[("build.sh", script), ("greeting.txt", "x")]);
        let builder = json!({ "type": "command", "build": [["sh", "build.sh"]], "run": [greeter()] });
        sdp.service("hello", json!({ "builder": builder })).await;
        let created = sdp.request("hello", "main").await;
        in_step(sdp, "1", Step::Build).await;
        sdp.until("it has forked", async |sdp| {
            sdp.admin
                .log_tail(created.id.into(), 50)
                .await
                .is_ok_and(|log| log.lines.iter().any(|line| line.text == "forked"))
        })
        .await;
        assert!(!sdp.processes().is_empty());
        sdp.admin.cancel(created.id.into()).await.expect("asked");
        let ended = sdp.wait(created.id.into()).await.deployment;
        assert!(matches!(ended.outcome(), Some(Outcome::Cancelled { .. })), "{:?}", ended.outcome());
        assert_eq!(sdp.processes(), Vec::<String>::new(), "said only when true");
    });
}

#[test]
fn cancel_while_it_is_checked_leaves_the_old_one_serving() {
    run_test(async |sdp| {
        sdp.hello().await;
        let url = sdp.deployed("hello", "main").await;
        sdp.push("hello", "deaf", &[("greeting.txt", "x"), ("behaviour.txt", "deaf")]);
        let created = sdp.request("hello", "deaf").await;
        in_step(sdp, "2", Step::Check).await;
        sdp.admin.cancel(created.id.into()).await.expect("asked");
        let ended = sdp.wait(created.id.into()).await.deployment;
        assert!(matches!(ended.outcome(), Some(Outcome::Cancelled { .. })), "{:?}", ended.outcome());
        assert_eq!(sdp.processes().len(), 1, "only the old one runs: {:?}", sdp.processes());
        assert_eq!(sdp.get(&url).await.2, "hello from main");
    });
}

#[test]
fn cancel_while_it_waits_ends_it_at_once() {
    run_test(async |sdp| {
        sdp.hello().await;
        sdp.stop_agent().await;
        let created = sdp.request("hello", "main").await;
        let view = sdp.admin.cancel(created.id.into()).await.expect("cancelled");
        assert!(matches!(view.deployment.outcome(), Some(Outcome::Cancelled { .. })));
        let error = sdp.admin.cancel(created.id.into()).await.expect_err("ended");
        assert_eq!(error.code(), "already_ended");
    });
}
