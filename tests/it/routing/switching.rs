//! Routes are switched under load, and whatever is stopped meanwhile: no request fails that the old or the new table could answer.

use std::time::Duration;

use sdp_agent::router::Engine;
use sdp_core::platform::Power;
use sdp_core::sandbox::RouteChoice;
use serde_json::json;

use super::ground::{Ground, alice, asked, master, run};
use crate::harness::{Load, Sdp, name};

#[test]
fn fifty_switches_fail_no_request_with_the_built_in_router() {
    run(Engine::Builtin, fifty);
}

#[test]
#[ignore = "needs nginx; scripts/test runs it"]
fn fifty_switches_fail_no_request_with_nginx() {
    run(Engine::Nginx, fifty);
}

/// A client whose requests are new connections.
fn fresh() -> reqwest::Client {
    reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .timeout(Duration::from_secs(20))
        .build()
        .expect("a client")
}

async fn choose(sdp: &Sdp, choice: Option<RouteChoice>) {
    let (by, qa, payments) = (alice(), name("qa"), name("payments"));
    sdp.platform().choose_route(&by, &qa, &payments, choice, Power::Member).await.expect("chosen");
}

async fn until_served_by(sdp: &Sdp, by: &str) {
    sdp.until(by, async |sdp| asked(sdp, "/~qa/payments/", &[]).await.starts_with(by)).await;
}

async fn fifty(sdp: &mut Sdp, ground: &Ground) {
    ground.deploy(sdp, "payments", "feature/a", "alice").await;
    ground.deploy(sdp, "payments", "feature/b", "qa").await;
    let url: url::Url = sdp.on_router("/~qa/payments/").parse().expect("a URL");
    let loads = [Load::start(&fresh(), url.clone()), Load::start(&fresh(), url)];
    for round in 0..50 {
        let (choice, by) = match round % 3 {
            0 => (Some(RouteChoice::Borrowed { sandbox: name("alice") }), "200 sandbox/alice/payments"),
            1 => (Some(RouteChoice::Baseline {}), "200 baseline/payments"),
            _ => (None, "200 sandbox/qa/payments"),
        };
        choose(sdp, choice).await;
        until_served_by(sdp, by).await;
    }
    for load in loads {
        let (requests, failures) = load.stop().await;
        assert!(failures.is_empty() && requests > 50, "{} of {requests}: {failures:?}", failures.len());
    }
}

#[test]
fn two_services_are_switched_together_with_the_built_in_router() {
    run(Engine::Builtin, together);
}

#[test]
#[ignore = "needs nginx; scripts/test runs it"]
fn two_services_are_switched_together_with_nginx_whatever_is_killed() {
    run(Engine::Nginx, together);
}

/// Payments and ledger are lent to `qa` by `first` or by `second`, always both by the same: in one change of the sandbox.
async fn together(sdp: &mut Sdp, ground: &Ground) {
    for (lender, branch) in [("first", "feature/a"), ("second", "feature/b")] {
        for service in ["payments", "ledger"] {
            ground.deploy(sdp, service, branch, lender).await;
        }
    }
    ground.sandbox(sdp, "qa", json!({})).await;
    let http = fresh();
    let router = sdp.agent_folder().join("router");
    // For some milliseconds of a reload nginx has workers of both: each request sees one table, but not all the same.
    let at_once = master(&router).is_none();
    for round in 0..12 {
        let lender = if round % 2 == 0 { "first" } else { "second" };
        let borrowed = json!({ "type": "borrowed", "sandbox": lender });
        ground.sandbox(sdp, "qa", json!({ "routes": { "payments": borrowed, "ledger": borrowed } })).await;
        match round % 6 {
            // nginx's master, in the middle of what it does. Its workers stay, and hold the port.
            1 | 4 => {
                if let Some(pid) = master(&router) {
                    rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
                }
            }
            2 => {
                sdp.stop_agent().await;
                sdp.start_agent().await;
            }
            5 => {
                sdp.stop_server().await;
                sdp.start_server().await;
            }
            _ => {}
        }
        // Whatever was stopped: asked for payments, ledger and payments again, an answer between two that agree agrees as well.
        // What runs on an agent that is started anew is away for a moment: its answers say nothing of the table.
        let lent_by = |text: &str| {
            let rest = text.strip_prefix("sandbox/")?;
            rest.split('/').next().map(str::to_owned)
        };
        let ask = async |service: &str| {
            let answer = http.get(sdp.on_router(&format!("/~qa/{service}/"))).send().await.ok()?;
            let served = answer.headers().get("sdp-served-by")?.to_str().ok()?.to_owned();
            assert!(
                round == 0 || !served.starts_with("baseline/"),
                "neither the old nor the new table: {served}"
            );
            assert!(round == 0 || answer.status() != 404, "the sandbox is known all the time");
            lent_by(&served)
        };
        sdp.until("the new one is in effect", async |_| {
            let asked = [ask("payments").await, ask("ledger").await, ask("payments").await];
            if let [Some(before), Some(between), Some(after)] = &asked
                && at_once
                && before == after
            {
                assert_eq!(before, between, "mixed");
            }
            asked.iter().all(|by| by.as_deref() == Some(lender))
        })
        .await;
    }
}
