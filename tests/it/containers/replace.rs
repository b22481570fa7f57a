//! A newer instance takes over while people work with the older one.

use serde_json::json;

use super::engine::Engine;
use super::{payments, push_payments, push_shop, run_container_test, shop};
use crate::harness::Load;

const ROUNDS: u32 = 10;

#[test]
#[ignore = "needs Docker, Go and the base images; scripts/test runs it"]
fn twenty_replacements_under_load_fail_no_request() {
    run_container_test(async |sdp| {
        payments(sdp, json!({})).await;
        shop(sdp, json!({})).await;
        push_payments(sdp, "main", "paid 0");
        push_shop(sdp, "main", "shop 0");
        let (go, php) = (sdp.deployed("payments", "main").await, sdp.deployed("shop", "main").await);
        let load = [go.clone(), go.clone(), php.clone(), php.clone()].map(|url| Load::start(&sdp.http, url));
        for round in 1..=ROUNDS {
            push_payments(sdp, "main", &format!("paid {round}"));
            push_shop(sdp, "main", &format!("shop {round}"));
            tokio::join!(sdp.deployed("payments", "main"), sdp.deployed("shop", "main"));
            assert_eq!(sdp.get(&go).await.2, format!("paid {round} / with its files"));
            assert_eq!(sdp.get(&php).await.2, format!("shop {round} / for alice by php"));
        }
        for load in load {
            let (requests, failures) = load.stop().await;
            assert!(requests > u64::from(ROUNDS), "the load asked for nothing");
            assert_eq!(failures, Vec::<String>::new(), "of {requests}");
        }
        sdp.until("two are left", async |sdp| Engine::containers(sdp).len() == 2).await;
    });
}
