//! What ends by itself, and what outlives its agent.

use sdp_core::client::InstanceFilter;
use sdp_core::deployment::{Outcome, State, Step};
use sdp_core::id::InstanceId;
use sdp_core::sandbox::{InstanceState, StopReason};
use serde_json::json;

use super::engine::{Engine, Wire};
use super::{payments, push_payments, push_shop, run_container_test, run_container_test_at, shop};
use crate::harness::Sdp;

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
        // The router of its next life is told the routes after it has said hello.
        sdp.until("it answers", async |sdp| sdp.get(&url).await.2 == "paid / with its files").await;
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

/// Runs a container that sleeps, with these labels; its id.
fn sleeper(verb: &[&str], labels: &[(String, String)]) -> String {
    let labels: Vec<String> = labels.iter().map(|(name, value)| format!("--label={name}={value}")).collect();
    let labels = labels.iter().map(String::as_str);
    let words = verb.iter().copied().chain(labels).chain(["alpine:3.20", "sleep", "1000"]);
    Engine::docker(&words.collect::<Vec<_>>()).trim().to_owned()
}

/// Removes containers of nobody's.
struct Decoys(Vec<String>);

impl Drop for Decoys {
    fn drop(&mut self) {
        for id in &self.0 {
            Engine::docker(&["rm", "--force", id]);
        }
    }
}

#[test]
#[ignore = "needs Docker, Go and the base images; scripts/test runs it"]
fn what_is_ours_and_unknown_goes_but_not_while_the_engine_is_away_and_nothing_else_ever() {
    let mut wire = Wire::new();
    let socket = wire.socket();
    run_container_test_at(&socket, async |sdp| {
        wire.mend();
        push_payments(sdp, "main", "paid");
        payments(sdp, json!({})).await;
        sdp.until("its agent takes work", async |sdp| {
            sdp.admin.agents().await.is_ok_and(|agents| agents.iter().all(|agent| agent.degraded.is_none()))
        })
        .await;
        let url = sdp.deployed("payments", "main").await;
        let list = async |sdp: &Sdp| sdp.admin.instances(&InstanceFilter::default()).await.expect("a list");
        let known = list(sdp).await;
        let live = Engine::containers(sdp);
        let labels = Engine::inspect(live.first().expect("one"))["Config"]["Labels"].clone();
        // As ours in all, but of an instance that no server has heard of; and the same of another agent.
        let labels = |own: bool| -> Vec<(String, String)> {
            let labels = labels.as_object().expect("labels").iter();
            let other = labels.map(|(name, value)| match name.as_str() {
                "sdp.instance" | "sdp.deployment" => (name.clone(), InstanceId::new().to_string()),
                "sdp.agent" if !own => (name.clone(), "0123abcd".to_owned()),
                _ => (name.clone(), value.as_str().expect("text").to_owned()),
            });
            other.collect()
        };
        let agent: Vec<_> = labels(true).into_iter().filter(|(name, _)| name == "sdp.agent").collect();
        let decoys = Decoys(vec![
            sleeper(&["run", "-d"], &[]),
            sleeper(&["run", "-d"], &labels(false)),
            sleeper(&["create"], &[]),
            // With our label alone it is no instance.
            sleeper(&["run", "-d"], &agent),
        ]);
        sdp.stop_agent().await;
        let unknown = [sleeper(&["run", "-d"], &labels(true)), sleeper(&["create"], &labels(true))];
        let all = Engine::containers(sdp);
        wire.cut().await;
        sdp.start_agent().await;
        sdp.until("it says that it cannot tell", async |sdp| {
            sdp.admin.agents().await.is_ok_and(|agents| agents[0].degraded.is_some())
        })
        .await;
        assert_eq!(
            (Engine::containers(sdp), list(sdp).await),
            (all, known.clone()),
            "nothing is said to be gone"
        );
        wire.mend();
        sdp.until("what is unknown is gone", async |sdp| {
            unknown.iter().all(|id| !Engine::containers(sdp).contains(id))
        })
        .await;
        let there =
            |id: &String| Engine::docker(&["ps", "-aq", "--no-trunc", "--filter", &format!("id={id}")]);
        assert!(decoys.0.iter().all(|id| there(id).trim() == id.as_str()), "{:?}", decoys.0);
        assert_eq!(list(sdp).await, known, "and what is known is as it was");
        assert_eq!(sdp.get(&url).await.2, "paid / with its files");
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
