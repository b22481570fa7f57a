//! What ends by itself, and what outlives its agent.

use sdp_core::client::InstanceFilter;
use sdp_core::deployment::{Outcome, State, Step};
use sdp_core::sandbox::{InstanceState, StopReason};
use serde_json::json;

use super::engine::Engine;
use super::{payments, push_payments, push_shop, run_container_test, shop};

#[test]
#[ignore = "needs Docker, Go and the base images; scripts/test runs it"]
fn a_container_outlives_its_agent_and_answers_from_the_same_place_afterwards() {
    run_container_test(async |sdp| {
        push_payments(sdp, "main", "paid");
        payments(sdp, json!({})).await;
        let url = sdp.deployed("payments", "main").await;
        let before =
            (Engine::containers(sdp), sdp.admin.instances(&InstanceFilter::default()).await.expect("a list"));
        sdp.stop_agent().await;
        assert_eq!(Engine::containers(sdp), before.0, "it runs without its agent");
        sdp.start_agent().await;
        assert_eq!(sdp.get(&url).await.2, "paid / with its files");
        let after = sdp.admin.instances(&InstanceFilter::default()).await.expect("a list");
        assert_eq!((Engine::containers(sdp), after), before);
        // It is still replaced and removed like any other.
        push_payments(sdp, "main", "paid again");
        sdp.deployed("payments", "main").await;
        sdp.until("the old one is gone", async |sdp| Engine::containers(sdp).is_disjoint(&before.0)).await;
        assert_eq!(sdp.get(&url).await.2, "paid again / with its files");
    });
}

#[test]
#[ignore = "needs Docker, Go and the base images; scripts/test runs it"]
fn a_container_that_is_being_checked_when_its_agent_ends_is_the_one_that_goes_live() {
    run_container_test(async |sdp| {
        push_shop(sdp, "main", "hello");
        shop(sdp, json!({ "health": { "type": "uptime", "seconds": 4 } })).await;
        let created = sdp.request("shop", "main").await;
        sdp.until("it is checked", async |sdp| {
            let view = sdp.admin.deployment(created.id.into()).await.expect("known");
            view.deployment.state == State::Running { step: Step::Check }
        })
        .await;
        let before = Engine::containers(sdp);
        assert_eq!(before.len(), 1);
        sdp.stop_agent().await;
        sdp.start_agent().await;
        let ended = sdp.wait(created.id.into()).await.deployment;
        assert_eq!(ended.outcome(), Some(&Outcome::Succeeded {}), "{:?}", ended.notes);
        assert_eq!(ended.steps.iter().filter(|taken| taken.step == Step::Start).count(), 1);
        assert_eq!(Engine::containers(sdp), before);
        assert!(sdp.get(ended.url.expect("it has a URL")).await.2.starts_with("hello / for alice"));
    });
}

const GROWS: &str = r#"package main

import (
	"fmt"
	"net/http"
	"os"
)

var kept [][]byte

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "small") })
	http.HandleFunc("/grow", func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("taking more and more")
		for {
			more := make([]byte, 1<<20)
			for i := range more {
				more[i] = 1
			}
			kept = append(kept, more)
		}
	})
	panic(http.ListenAndServe(":"+os.Getenv("PORT"), nil))
}
"#;

#[test]
#[ignore = "needs Docker, Go and the base images; scripts/test runs it"]
fn who_takes_too_much_memory_is_restarted_three_times_then_down_and_people_are_told_why() {
    run_container_test(async |sdp| {
        sdp.push("hog", "main", &[("go.mod", "module hog\n\ngo 1.19\n"), ("main.go", GROWS)]);
        let entry = json!({ "builder": { "type": "go" }, "limits": { "memory_mib": 32 } });
        sdp.service("hog", entry).await;
        let url = sdp.deployed("hog", "main").await;
        let all = InstanceFilter { all: true, ..InstanceFilter::default() };
        for restarts in 1..=3 {
            drop(sdp.http.get(url.join("grow").expect("a URL")).send().await);
            sdp.until("it was restarted, and is known to be", async |sdp| {
                let instances = sdp.admin.instances(&all).await.expect("a list");
                instances.iter().all(|instance| instance.restarts == restarts)
                    && sdp.get(&url).await.2 == "small"
            })
            .await;
        }
        drop(sdp.http.get(url.join("grow").expect("a URL")).send().await);
        sdp.until("it is given up", async |sdp| {
            let instances = sdp.admin.instances(&all).await.expect("a list");
            instances.iter().all(|instance| matches!(instance.state, InstanceState::Stopped { .. }))
        })
        .await;
        let instance = sdp.admin.instances(&all).await.expect("a list").remove(0);
        let InstanceState::Stopped { reason: StopReason::Crashed { out_of_memory, .. } } = instance.state
        else {
            panic!("{instance:?}")
        };
        assert!(out_of_memory);
        assert!(instance.last_lines.iter().any(|line| line == "taking more and more"), "{instance:?}");
        let (status, _, body) = sdp.get(&url).await;
        assert!(status == 503 && body.contains("memory"), "{status} {body}");
    });
}
