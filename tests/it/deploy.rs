//! The main job: a branch, built and run, at one URL for each sandbox and service.

use sdp_core::client::InstanceFilter;
use sdp_core::deployment::Outcome;
use serde_json::json;

use crate::harness::{Load, name, run_test, wanted};

#[test]
fn a_second_branch_takes_the_same_url_and_no_request_fails() {
    run_test(async |sdp| {
        sdp.hello().await;
        let url = sdp.deployed("hello", "main").await;
        let (status, served_by, body) = sdp.get(&url).await;
        assert_eq!((status, body.as_str()), (200, "hello from main"));
        assert!(served_by.starts_with("sandbox/alice/hello@"), "{served_by}");

        let load = [(); 4].map(|()| Load::start(&sdp.http, url.clone()));
        let again = sdp.deployed("hello", "feature/greeting").await;
        assert_eq!(again, url);
        assert_eq!(sdp.get(&url).await.2, "greetings from the branch");
        // The old instance is drained and stopped while the load goes on.
        sdp.until("one instance is left", async |sdp| {
            sdp.admin.instances(&InstanceFilter::default()).await.is_ok_and(|list| list.len() == 1)
        })
        .await;
        for load in load {
            let (requests, failures) = load.stop().await;
            assert!(requests > 0, "the load asked for nothing");
            assert_eq!(failures, Vec::<String>::new(), "of {requests}");
        }
    });
}

#[test]
fn the_other_service_and_other_people_still_get_the_baseline() {
    run_test(async |sdp| {
        sdp.hello().await;
        sdp.push("ledger", "main", &[("greeting.txt", "accounts")]);
        let baseline = sdp.deployed("hello", "main").await;
        sdp.service("ledger", json!({ "baseline": baseline })).await;
        let (_, served_by, body) = sdp.get(sdp.on_router("/~alice/ledger/")).await;
        assert_eq!((served_by.as_str(), body.as_str()), ("baseline/ledger", "hello from main"));
        let (_, served_by, _) = sdp.get(sdp.on_router("/ledger/")).await;
        assert_eq!(served_by, "baseline/ledger");
        sdp.deployed("ledger", "main").await;
        assert_eq!(sdp.get(sdp.on_router("/~alice/ledger/")).await.2, "accounts");
        assert_eq!(sdp.get(sdp.on_router("/ledger/")).await.2, "hello from main");
        let (status, _, _) = sdp.get(sdp.on_router("/~nobody/ledger/")).await;
        assert_eq!(status, 404);
    });
}

#[test]
fn variables_reach_the_service_and_a_sandbox_can_be_deleted() {
    run_test(async |sdp| {
        sdp.hello().await;
        sdp.service("hello", json!({ "env": { "MODE": "shared", "LEVEL": "1" } })).await;
        let mut request = wanted("hello", "main");
        request.env = [(name("MODE"), "mine".to_owned())].into();
        let created = sdp.admin.deploy(&request, None).await.expect("taken");
        let url = sdp.wait(created.id.into()).await.deployment.url.expect("it runs");
        for (variable, value) in
            [("MODE", "mine"), ("LEVEL", "1"), ("SDP_SANDBOX", "alice"), ("SDP_SERVICE", "hello")]
        {
            assert_eq!(
                sdp.get(url.join(&format!("env/{variable}")).expect("a URL")).await.2,
                value,
                "{variable}"
            );
        }
        sdp.admin.delete_sandbox(&name("alice")).await.expect("deleted");
        sdp.until("its instance has ended", async |sdp| {
            sdp.admin.instances(&InstanceFilter::default()).await.is_ok_and(|list| list.is_empty())
        })
        .await;
        assert_eq!(sdp.get(&url).await.0, 404);
    });
}

#[test]
fn odd_but_valid_branches_work_end_to_end() {
    run_test(async |sdp| {
        sdp.hello().await;
        let long = format!("long/{}", "y".repeat(195));
        for branch in
            ["feature/ünï-ØÅ", "a/b/c", "release/1.0+x", "$(id)", ";id", "it's", "fix#123", "a%2Fb", &long]
        {
            sdp.push("hello", branch, &[("greeting.txt", branch)]);
            let url = sdp.deployed("hello", branch).await;
            assert_eq!(sdp.get(&url).await.2, branch);
        }
    });
}

#[test]
fn many_sandboxes_at_once_each_get_their_own() {
    run_test(async |sdp| {
        sdp.hello().await;
        let mut created = Vec::new();
        for n in 0..8 {
            let branch = format!("b{n}");
            sdp.push("hello", &branch, &[("greeting.txt", &branch)]);
            let mut request = wanted("hello", &branch);
            request.sandbox = Some(name(&format!("s{n}")));
            created.push(sdp.admin.deploy(&request, None).await.expect("taken"));
        }
        for (n, created) in created.iter().enumerate() {
            let view = sdp.wait(created.id.into()).await;
            assert_eq!(view.deployment.outcome(), Some(&Outcome::Succeeded {}));
            assert_eq!(sdp.get(view.deployment.url.expect("a URL")).await.2, format!("b{n}"));
        }
    });
}

#[test]
fn an_end_is_seen_and_never_covered_up_by_the_baseline() {
    run_test(async |sdp| {
        sdp.hello().await;
        let url = sdp.deployed("hello", "main").await;
        drop(sdp.http.get(url.join("end").expect("a URL")).send().await);
        sdp.until("the router says so", async |sdp| sdp.get(&url).await.0 == 503).await;
        let (_, served_by, body) = sdp.get(&url).await;
        assert_eq!(served_by, "router");
        assert!(body.contains("hello") && body.contains("alice") && body.contains("crashed"), "{body}");
        let filter = InstanceFilter { all: true, ..InstanceFilter::default() };
        let instance = sdp.admin.instances(&filter).await.expect("a list").remove(0);
        assert!(instance.last_lines.iter().any(|line| line.contains("asked to end")), "{instance:?}");
        sdp.deployed("hello", "main").await;
        assert_eq!(sdp.get(&url).await.0, 200);
    });
}
