//! Service to service: a call stays in the sandbox, by the address that each instance is told or by the mark that it passes on.

use sdp_agent::router::Engine;
use sdp_core::api::CreateProbe;
use serde_json::json;

use super::ground::{Ground, asked, run};
use crate::harness::{Sdp, name};

#[test]
fn a_chain_of_two_stays_in_the_sandbox_with_the_built_in_router() {
    run(Engine::Builtin, chain);
}

#[test]
#[ignore = "needs nginx; scripts/test runs it"]
fn a_chain_of_two_stays_in_the_sandbox_with_nginx() {
    run(Engine::Nginx, chain);
}

async fn chain(sdp: &mut Sdp, ground: &Ground) {
    ground.deploy(sdp, "payments", "feature/a", "alice").await;
    // Ledger is the baseline's, until it is deployed: no restart of payments.
    let call = async |sdp: &Sdp| asked(sdp, "/~alice/payments/call/LEDGER", &[]).await;
    assert!(call(sdp).await.ends_with("payments of feature/a → ledger from the baseline"));
    let instance = sdp.platform().sandbox_view(&name("alice")).await.expect("there").instances[0].id;
    ground.deploy(sdp, "ledger", "feature/b", "alice").await;
    assert!(call(sdp).await.ends_with("payments of feature/a → ledger of feature/b"), "{}", call(sdp).await);
    let view = sdp.platform().sandbox_view(&name("alice")).await.expect("there");
    assert!(view.instances.iter().any(|running| running.id == instance), "it was not started anew");

    // By the mark: the same path for everybody, and the router knows whose request it is.
    let key = ground.key(sdp, "alice").await;
    let headers = [("sdp-routing-key", key.as_str())];
    let pass = asked(sdp, "/payments/pass/ledger/", &headers).await;
    assert!(pass.ends_with("payments of feature/a → ledger of feature/b"), "{pass}");
    let drop = asked(sdp, "/payments/drop/ledger/", &headers).await;
    assert!(drop.ends_with("payments of feature/a → ledger from the baseline"), "{drop}");

    // And who dropped it is named.
    let probe = async |path: &str| {
        let probe =
            CreateProbe { path: path.into(), host: None, through: vec![name("payments"), name("ledger")] };
        sdp.platform().probe(&name("alice"), probe).await.expect("probed")
    };
    let kept = probe("/payments/pass/ledger/").await;
    assert!(kept.kept, "{kept:#?}");
    let dropped = probe("/payments/drop/ledger/").await;
    assert_eq!((dropped.kept, dropped.dropped_by), (false, Some(name("payments"))), "{}", dropped.summary);
    let env = async |variable: &str| asked(sdp, &format!("/~alice/payments/env/{variable}"), &[]).await;
    assert!(env("SDP_SANDBOX").await.ends_with(": alice"));
    assert!(env("SDP_ROUTING_KEY").await.ends_with(key.as_str()));
    assert!(env("SDP_ROUTE_LEDGER").await.ends_with("/~alice/~ledger"));
    assert_eq!(env("SDP_COMMIT").await.len() - env("NOTHING").await.len(), 40);
    ground.sandbox(sdp, "alice", json!({})).await;
}
