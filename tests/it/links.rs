//! Agents and servers that come and go in the middle of things.

use std::collections::BTreeSet;

use sdp_core::client::EventFilter;
use sdp_core::deployment::{Outcome, State, Step};
use sdp_core::event::EventKind;
use sdp_core::failure::FailureReason;
use serde_json::json;

use crate::harness::{greeter, run_test, run_test_with};

#[test]
fn a_server_that_is_restarted_in_the_middle_of_a_build_loses_nothing() {
    run_test(async |sdp| {
        sdp.push("hello", "main", &[("greeting.txt", "x")]);
        // Prints numbered lines until the test says that it is enough.
        let script =
            "n=0; while [ ! -e \"$1\" ]; do n=$((n+1)); echo line $n; sleep 0.01; done; echo last $n";
        let enough = sdp.folder.path().join("enough");
        let build = json!([["sh", "-c", script, "sh", enough]]);
        let builder = json!({ "type": "command", "build": build, "run": [greeter()] });
        sdp.service("hello", json!({ "builder": builder })).await;
        let created = sdp.request("hello", "main").await;
        let printed = async |sdp: &crate::harness::Sdp| {
            sdp.admin.deployment(created.id.into()).await.map_or(0, |view| view.log_lines)
        };
        sdp.until("it prints", async |sdp| printed(sdp).await > 20).await;
        sdp.stop_server().await;
        sdp.start_server().await;
        let before = printed(sdp).await;
        sdp.until("it goes on", async |sdp| printed(sdp).await > before + 20).await;
        std::fs::write(&enough, "").expect("written");
        let view = sdp.wait(created.id.into()).await;
        assert_eq!(view.deployment.outcome(), Some(&Outcome::Succeeded {}));
        let log = sdp.admin.logs(created.id.into(), 1, 1000).await.expect("a log");
        let numbers: Vec<u64> =
            log.lines.iter().filter_map(|line| line.text.strip_prefix("line ")?.parse().ok()).collect();
        assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
        assert!(log.lines.iter().any(|line| line.text == format!("last {}", numbers.len())));
    });
}

#[test]
fn a_build_dies_with_its_agent_and_that_is_said_when_it_is_back() {
    run_test(async |sdp| {
        sdp.hello().await;
        let url = sdp.deployed("hello", "main").await;
        sdp.push("slow", "main", &[("greeting.txt", "x")]);
        let builder = json!({ "type": "command", "build": [["sleep", "3600"]], "run": [greeter()] });
        sdp.service("slow", json!({ "builder": builder })).await;
        let created = sdp.request("slow", "main").await;
        sdp.until("it builds", async |sdp| {
            let view = sdp.admin.deployment(created.id.into()).await.expect("known");
            view.deployment.state == State::Running { step: Step::Build }
        })
        .await;
        sdp.stop_agent().await;
        assert_eq!(sdp.processes(), Vec::<String>::new(), "builds and processes die with it");
        sdp.start_agent().await;
        let ended = sdp.wait(created.id.into()).await.deployment;
        let Some(Outcome::Failed { failure }) = ended.outcome() else { panic!("{:?}", ended.outcome()) };
        assert_eq!(failure.reason, FailureReason::AgentRestarted);
        // What served does so again.
        sdp.until("it answers", async |sdp| sdp.get(&url).await.2 == "hello from main").await;
    });
}

#[test]
fn a_server_that_is_told_to_end_changes_no_outcome_of_twenty_running_deployments() {
    let twenty = |_: &mut sdp_server::Config, agent: &mut sdp_agent::Config| agent.capacity = 20;
    run_test_with(twenty, async |sdp| {
        // Half of them fail in the end, each with a number of its own.
        let script = "while [ ! -e \"$1\" ]; do sleep 0.05; done; read -r status <status.txt; exit $status";
        let enough = sdp.folder.path().join("enough");
        let build = json!([["sh", "-c", script, "sh", enough]]);
        let mut wanted = Vec::new();
        for n in 1..=20 {
            let (service, status) = (format!("service-{n}"), if n % 2 == 0 { 0 } else { n });
            sdp.push(&service, "main", &[("greeting.txt", &service), ("status.txt", &format!("{status}\n"))]);
            let builder = json!({ "type": "command", "build": build, "run": [greeter()] });
            sdp.service(&service, json!({ "builder": builder })).await;
            wanted.push((sdp.request(&service, "main").await, status));
        }
        sdp.until("all build", async |sdp| {
            for (created, _) in &wanted {
                let view = sdp.admin.deployment(created.id.into()).await.expect("known");
                if view.deployment.state != (State::Running { step: Step::Build }) {
                    return false;
                }
            }
            true
        })
        .await;
        let newest = sdp.admin.deployment(wanted[19].0.id.into()).await.expect("known").deployment.version;
        sdp.stop_server().await;
        // Some end while nobody is there to hear of it.
        std::fs::write(&enough, "").expect("written");
        sdp.start_server().await;
        for (created, status) in &wanted {
            let ended = sdp.wait(created.id.into()).await.deployment;
            match (ended.outcome(), status) {
                (Some(Outcome::Succeeded {}), 0) => {}
                (Some(Outcome::Failed { failure }), status) => {
                    assert_eq!(
                        (failure.reason, failure.exit_code),
                        (FailureReason::BuildFailed, Some(*status))
                    );
                }
                other => panic!("{other:?}"),
            }
        }
        // The feed goes on behind what was heard before, with each end once.
        let mut feed = sdp.admin.events(newest, EventFilter::default());
        let mut ended = BTreeSet::new();
        while ended.len() < 20 {
            let event = feed.next().await.expect("a feed").expect("an event");
            if let EventKind::DeploymentEnded { .. } = event.kind {
                assert!(ended.insert(event.about.deployment), "ended twice: {event:?}");
            }
        }
    });
}

#[test]
fn an_agent_that_is_restarted_goes_on_with_what_it_was_checking() {
    run_test(async |sdp| {
        sdp.hello().await;
        sdp.push("hello", "late", &[("greeting.txt", "late, but here"), ("behaviour.txt", "deaf")]);
        let created = sdp.request("hello", "late").await;
        sdp.until("it is checked", async |sdp| {
            let view = sdp.admin.deployment(created.id.into()).await.expect("known");
            view.deployment.state == State::Running { step: Step::Check }
        })
        .await;
        sdp.stop_agent().await;
        sdp.start_agent().await;
        let view = sdp.admin.deployment(created.id.into()).await.expect("known").deployment;
        assert_eq!(view.state, State::Running { step: Step::Check });
        sdp.until("it says so", async |sdp| {
            let view = sdp.admin.deployment(created.id.into()).await.expect("known");
            view.deployment.notes == ["the agent was restarted; it goes on where it was"]
        })
        .await;
        sdp.admin.cancel(created.id.into()).await.expect("asked");
        let ended = sdp.wait(created.id.into()).await.deployment;
        assert!(matches!(ended.outcome(), Some(Outcome::Cancelled { .. })), "{:?}", ended.outcome());
    });
}
