//! A sandbox ends: also when the server is away.

use jiff::{SignedDuration, Timestamp};
use sdp_agent::router::Engine;
use serde_json::json;

use super::ground::{Ground, asked, run};
use crate::harness::Sdp;

#[test]
fn a_sandbox_ends_though_the_server_is_away_with_the_built_in_router() {
    run(Engine::Builtin, ends);
}

#[test]
#[ignore = "needs nginx; scripts/test runs it"]
fn a_sandbox_ends_though_the_server_is_away_with_nginx() {
    run(Engine::Nginx, ends);
}

async fn ends(sdp: &mut Sdp, ground: &Ground) {
    ground.deploy(sdp, "payments", "feature/a", "qa").await;
    ground.deploy(sdp, "payments", "feature/b", "stays").await;
    let soon = Timestamp::now().checked_add(SignedDuration::from_secs(4)).expect("a time");
    let lent = json!({ "payments": { "type": "borrowed", "sandbox": "stays" } });
    ground.sandbox(sdp, "qa", json!({ "expires_at": soon, "routes": lent })).await;
    // The router has the table with the end before the server goes away.
    sdp.until("the router has it", async |sdp| {
        asked(sdp, "/~qa/payments/", &[]).await.starts_with("200 sandbox/stays")
    })
    .await;
    sdp.stop_server().await;
    sdp.until("it has ended", async |sdp| {
        asked(sdp, "/~qa/payments/", &[]).await.starts_with("404 router: There is no sandbox \"qa\"")
    })
    .await;
    assert!(Timestamp::now() >= soon);
    assert!(asked(sdp, "/~stays/payments/", &[]).await.starts_with("200 sandbox/stays/payments"));
    sdp.start_server().await;
    sdp.until("its instance is stopped", async |sdp| {
        let all = sdp.platform().instances(sdp_core::platform::InstanceFilter::default()).await;
        all.is_ok_and(|all| all.iter().all(|instance| instance.sandbox.as_str() == "stays"))
    })
    .await;
}
