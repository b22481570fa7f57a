//! Cancel in each step: when it is said to be cancelled, nothing of it is left.

use std::net::TcpListener;

use sdp_core::api::DeploymentCreated;
use sdp_core::deployment::{Outcome, State, Step};
use serde_json::json;

use super::engine::Engine;
use super::{payments, push_payments, run_container_test};
use crate::harness::Sdp;

/// Waits for the step (and a line of its log), cancels, and looks what is left.
async fn cancelled_in(sdp: &Sdp, created: &DeploymentCreated, step: Step, line: &str) {
    sdp.until(&format!("it is in {step}"), async |sdp| {
        let view = sdp.admin.deployment(created.id.into()).await.expect("known");
        assert!(!view.deployment.is_ended(), "{:?}\n{}", view.deployment.state, sdp.log(&view).await);
        view.deployment.state == State::Running { step } && sdp.log(&view).await.contains(line)
    })
    .await;
    sdp.admin.cancel(created.id.into()).await.expect("asked");
    let view = sdp.wait(created.id.into()).await;
    let log = sdp.log(&view).await;
    assert!(matches!(view.deployment.outcome(), Some(Outcome::Cancelled { .. })), "{step}: {log}");
    sdp.until("nothing is left of it", async |sdp| Engine::containers(sdp).is_empty()).await;
    assert_eq!(sdp.processes(), Vec::<String>::new(), "{step}");
    let work = std::fs::read_dir(sdp.agent_folder().join("work")).expect("it is there");
    let left: Vec<_> =
        work.flatten().filter(|entry| entry.file_name() == created.id.to_string().as_str()).collect();
    assert!(left.is_empty(), "{step}: {left:?}");
}

#[test]
#[ignore = "needs Docker, Go and the base images; scripts/test runs it"]
fn cancel_in_any_step_leaves_no_container_no_process_and_no_folder() {
    run_container_test(async |sdp| {
        push_payments(sdp, "main", "paid");

        // A git host that takes the connection and says nothing.
        let silent = TcpListener::bind("127.0.0.1:0").expect("binds");
        let host = format!("http://{}", silent.local_addr().expect("bound"));
        sdp.restart_agent(|agent| agent.git.origins.push(host.parse().expect("an origin"))).await;
        payments(sdp, json!({ "repo": format!("{host}/payments.git") })).await;
        let created = sdp.request("payments", "main").await;
        cancelled_in(sdp, &created, Step::Resolve, "looking for").await;

        let slow = [
            "sh",
            "-c",
            "trap '' TERM; setsid sh -c 'while :; do sleep 1; done' & echo forked; while :; do sleep 1; done",
        ];
        let command = json!({ "type": "command", "build": [slow], "run": ["true"] });
        payments(sdp, json!({ "builder": command, "image": "alpine:3.20" })).await;
        let created = sdp.request("payments", "main").await;
        cancelled_in(sdp, &created, Step::Build, "forked").await;

        let release = ["sh", "-c", "trap '' TERM; echo migrating; while :; do sleep 1; done"];
        payments(sdp, json!({ "release": release })).await;
        let created = sdp.request("payments", "main").await;
        cancelled_in(sdp, &created, Step::Start, "migrating").await;

        let deaf =
            json!({ "type": "command", "run": ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"] });
        payments(sdp, json!({ "builder": deaf, "image": "alpine:3.20" })).await;
        let created = sdp.request("payments", "main").await;
        cancelled_in(sdp, &created, Step::Check, "").await;

        // And after all that it is deployed as if nothing had been.
        payments(sdp, json!({})).await;
        let url = sdp.deployed("payments", "main").await;
        assert_eq!(sdp.get(&url).await.2, "paid / with its files");
    });
}
