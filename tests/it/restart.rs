//! What a service that serves goes through: crashes, and restarts of its agent. Each change is told once.

use std::time::Duration;

use sdp_core::client::{EventFilter, InstanceFilter};
use sdp_core::event::EventKind;
use sdp_core::id::EventSeq;
use sdp_core::sandbox::{Instance, InstanceState, StopReason};
use serde_json::json;

use crate::harness::{Sdp, run_test, run_test_with};

async fn instance(sdp: &Sdp) -> Instance {
    let all = InstanceFilter { all: true, ..InstanceFilter::default() };
    sdp.admin.instances(&all).await.expect("a list").remove(0)
}

/// What people are told of an instance until this is the last word, from the beginning of time.
async fn told(sdp: &Sdp, last: &str) -> Vec<String> {
    let mut feed = sdp.admin.events(EventSeq(0), EventFilter::default());
    let mut told = Vec::new();
    let reading = async {
        while told.last().map(String::as_str) != Some(last) {
            let event = feed.next().await.expect("not over").expect("a feed");
            let lines = |lines: Vec<String>| lines.last().cloned().unwrap_or_default();
            told.push(match event.kind {
                EventKind::InstanceRestarted { reason, restarts, last_lines } => {
                    format!("restarted {restarts}, {}: {}", why(&reason), lines(last_lines))
                }
                EventKind::InstanceUnhealthy { detail } => format!("unhealthy: {detail}"),
                EventKind::InstanceRecovered {} => "recovered".to_owned(),
                EventKind::InstanceStopped { reason, last_lines } => {
                    format!("stopped, {}: {}", why(&reason), lines(last_lines))
                }
                _ => continue,
            });
        }
    };
    tokio::time::timeout(Duration::from_secs(60), reading).await.expect("it is told");
    told
}

fn why(reason: &StopReason) -> String {
    match reason {
        StopReason::Crashed { exit_code: Some(code), .. } => format!("crashed with {code}"),
        StopReason::NotStarted { detail } => format!("not started, {detail}"),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_process_comes_back_with_its_agent_at_the_same_url_and_people_are_told_once() {
    run_test(async |sdp| {
        sdp.hello().await;
        let url = sdp.deployed("hello", "main").await;
        let before = instance(sdp).await;
        sdp.stop_agent().await;
        assert_eq!(sdp.processes(), Vec::<String>::new(), "nothing runs without it");
        sdp.start_agent().await;
        sdp.until("it answers again", async |sdp| sdp.get(&url).await.2 == "hello from main").await;
        let restarted = "restarted 1, AgentRestarted: ";
        assert_eq!(told(sdp, restarted).await, [restarted]);
        let after = instance(sdp).await;
        assert_eq!((after.id, after.address, after.restarts), (before.id, before.address, 1));
        assert_eq!(after.state, InstanceState::Live {});
        // Known to a server that comes back, too; and it is replaced like any other.
        sdp.stop_server().await;
        sdp.start_server().await;
        sdp.until("the agent is back", async |sdp| {
            sdp.admin.agents().await.is_ok_and(|list| list.iter().any(|agent| agent.connected))
        })
        .await;
        sdp.deployed("hello", "feature/greeting").await;
        assert_eq!(sdp.get(&url).await.2, "greetings from the branch");
        let replaced = "stopped, Replaced: ";
        assert_eq!(told(sdp, replaced).await, [restarted, replaced]);
    });
}

#[test]
fn a_crash_is_started_again_three_times_then_it_is_down_and_each_is_told_once() {
    run_test(async |sdp| {
        sdp.hello().await;
        let url = sdp.deployed("hello", "main").await;
        let crash = url.join("crash").expect("a URL");
        for restarts in 1..=3 {
            drop(sdp.http.get(crash.clone()).send().await);
            sdp.until("it is back, and known to be", async |sdp| {
                instance(sdp).await.restarts == restarts && sdp.get(&url).await.2 == "hello from main"
            })
            .await;
            // What was told is not told again with the next connection.
            sdp.stop_server().await;
            sdp.start_server().await;
            sdp.until("the agent is back", async |sdp| {
                sdp.admin.agents().await.is_ok_and(|list| list.iter().any(|agent| agent.connected))
            })
            .await;
        }
        drop(sdp.http.get(crash).send().await);
        let last = "stopped, crashed with 3: fatal: asked to crash";
        let again = |n: u32| format!("restarted {n}, crashed with 3: fatal: asked to crash");
        assert_eq!(told(sdp, last).await, [again(1), again(2), again(3), last.to_owned()]);
        sdp.until("the router says so", async |sdp| sdp.get(&url).await.0 == 503).await;
        let (_, _, body) = sdp.get(&url).await;
        assert!(body.contains("it crashed"), "{body}");
        // For good: not even another life of the agent starts it.
        sdp.restart_agent(|_| ()).await;
        assert_eq!(told(sdp, last).await.len(), 4);
        assert_eq!(sdp.get(&url).await.0, 503);
    });
}

#[test]
fn one_that_is_not_well_after_a_restart_is_unhealthy_serves_all_the_same_and_recovers() {
    run_test_with(
        |server, _| server.limits.check = Duration::from_secs(1),
        async |sdp| {
            sdp.hello().await;
            let url = sdp.deployed("hello", "main").await;
            let sick = sdp.agent_folder().join("work").join(instance(sdp).await.deployment.to_string());
            let sick = sick.join("source/sick");
            std::fs::write(&sick, "").expect("written");
            sdp.restart_agent(|_| ()).await;
            let restarted = "restarted 1, AgentRestarted: ";
            let unhealthy = "unhealthy: GET /healthz answered 500 (waited 1s)";
            assert_eq!(told(sdp, unhealthy).await, [restarted, unhealthy]);
            let known = instance(sdp).await;
            assert_eq!(known.state, InstanceState::Unhealthy {});
            let (status, served_by, _) = sdp.get(&url).await;
            assert!(status == 500 && served_by.contains("hello"), "by itself: {status} {served_by}");
            std::fs::remove_file(sick).expect("removed");
            assert_eq!(told(sdp, "recovered").await, [restarted, unhealthy, "recovered"]);
            assert_eq!(sdp.get(&url).await.0, 200);
            let known = instance(sdp).await;
            assert_eq!((known.state, known.unhealthy), (InstanceState::Live {}, None));
        },
    );
}

#[test]
fn what_cannot_come_back_is_down_and_says_why() {
    run_test(async |sdp| {
        sdp.hello().await;
        sdp.service("hello", json!({ "release": ["true"] })).await;
        let url = sdp.deployed("hello", "main").await;
        let known = instance(sdp).await;
        sdp.stop_agent().await;
        let build = sdp.agent_folder().join("work").join(known.deployment.to_string());
        std::fs::remove_dir_all(build).expect("removed");
        sdp.start_agent().await;
        let last = "stopped, not started, its build is not on the agent any more: ";
        assert_eq!(told(sdp, last).await, [last]);
        sdp.until("the router says so", async |sdp| sdp.get(&url).await.0 == 503).await;
        sdp.deployed("hello", "main").await;
        assert_eq!(sdp.get(&url).await.2, "hello from main");
    });
}
