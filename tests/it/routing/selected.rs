//! The service that is deployed answers from the sandbox, all others from the baseline; by each selector, for two sandboxes at once.

use sdp_agent::router::Engine;
use sdp_core::routing::explain::ExplainedTarget;
use serde_json::json;

use super::ground::{Ground, asked, run};
use crate::harness::Sdp;

#[test]
fn each_selector_leads_to_its_sandbox_with_the_built_in_router() {
    run(Engine::Builtin, each_selector);
}

#[test]
#[ignore = "needs nginx; scripts/test runs it"]
fn each_selector_leads_to_its_sandbox_with_nginx() {
    run(Engine::Nginx, each_selector);
}

async fn each_selector(sdp: &mut Sdp, ground: &Ground) {
    ground.deploy(sdp, "payments", "feature/a", "alice").await;
    ground.deploy(sdp, "payments", "feature/b", "qa").await;
    ground.deploy(sdp, "ledger", "feature/b", "qa").await;
    let (alice, qa) = (ground.key(sdp, "alice").await, ground.key(sdp, "qa").await);

    let baseline = |service: &str| format!("200 baseline/{service}: {service} from the baseline");
    let own = |sandbox: &str, service: &str, branch: &str| {
        format!("200 sandbox/{sandbox}/{service}: {service} of {branch}")
    };
    for service in ["payments", "ledger", "users"] {
        assert_eq!(asked(sdp, &format!("/{service}/"), &[]).await, baseline(service));
    }
    for (sandbox, key) in [("alice", &alice), ("qa", &qa)] {
        let selectors = [
            (format!("/~{sandbox}"), "accept", "*/*".to_owned()),
            (String::new(), "host", format!("{sandbox}.sandboxes.test")),
            (String::new(), "sdp-routing-key", key.to_string()),
            (String::new(), "sdp-sandbox", sandbox.to_owned()),
            (String::new(), "baggage", format!("user=7,sdp-routing-key={key};x=1")),
            (String::new(), "tracestate", format!("vendor=1,sdp={key}")),
            (String::new(), "cookie", format!("a=b; sdp_routing_key={key}")),
        ];
        for (before, header, value) in selectors {
            let ask = async |service: &str| {
                asked(sdp, &format!("{before}/{service}/"), &[(header, value.as_str())]).await
            };
            let payments = if sandbox == "alice" { "feature/a" } else { "feature/b" };
            assert_eq!(ask("payments").await, own(sandbox, "payments", payments), "{header}: {value}");
            let ledger = match sandbox {
                "alice" => baseline("ledger"),
                _ => own("qa", "ledger", "feature/b"),
            };
            assert_eq!(ask("ledger").await, ledger, "{header}: {value}");
            assert_eq!(ask("users").await, baseline("users"), "{header}: {value}");

            // The explanation is what happens.
            let headers = vec![(header.to_owned(), value.clone())];
            let host = (header == "host").then(|| value.clone());
            let path = format!("{before}/ledger/");
            let explained = sdp.platform().explain_route(host, path, headers).await.expect("explained");
            let is_baseline = matches!(explained.target, ExplainedTarget::Baseline { .. });
            assert_eq!(is_baseline, sandbox == "alice", "{explained:#?}");
            assert_eq!(explained.sandbox.as_ref().map(ToString::to_string).as_deref(), Some(sandbox));
        }
    }
    let unknown = asked(sdp, "/payments/", &[("sdp-routing-key", "rk_aaaaaaaaaaaaaaaaaaaaaaaaaa")]).await;
    assert!(unknown.starts_with("404 router: There is no sandbox"), "{unknown}");
}

#[test]
fn a_broken_instance_gets_what_the_environment_says_with_the_built_in_router() {
    run(Engine::Builtin, when_down);
}

#[test]
#[ignore = "needs nginx; scripts/test runs it"]
fn a_broken_instance_gets_what_the_environment_says_with_nginx() {
    run(Engine::Nginx, when_down);
}

async fn when_down(sdp: &mut Sdp, ground: &Ground) {
    ground.deploy(sdp, "payments", "feature/a", "alice").await;
    ground.environment(sdp, json!({ "when_down": "fail" })).await;
    // It is started again a few times.
    for _ in 0..8 {
        sdp.http.get(sdp.on_router("/~alice/payments/crash")).send().await.ok();
        sdp.until("it is up again, or given up", async |sdp| {
            let answer = asked(sdp, "/~alice/payments/", &[]).await;
            answer.starts_with("200 sandbox") || answer.contains("does not run")
        })
        .await;
    }
    let down = asked(sdp, "/~alice/payments/", &[]).await;
    assert_eq!(down, "503 router: payments in the sandbox alice does not run: it crashed.");
    ground.environment(sdp, json!({ "when_down": "baseline" })).await;
    sdp.until("the baseline answers", async |sdp| {
        let answer = asked(sdp, "/~alice/payments/", &[]).await;
        answer == "200 baseline/payments; instead-of=\"it crashed\": payments from the baseline"
    })
    .await;
}
