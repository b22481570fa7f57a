//! What people and branches do wrong: a stable code, a sentence, a next step, and nothing half done.

use sdp_core::deployment::Step;
use sdp_core::failure::FailureReason;
use serde_json::{Value, json};

use crate::harness::{Sdp, greeter, run_test, run_test_with, wanted};

/// What the API answers to a request for a deployment.
async fn refused(sdp: &Sdp, body: Value) -> Value {
    let answer = sdp
        .http
        .post(sdp.url.join("/api/v1/deployments").expect("a URL"))
        .bearer_auth(sdp.admin_token.expose())
        .json(&body)
        .send()
        .await
        .expect("an answer");
    assert!(answer.status().is_client_error(), "{}", answer.status());
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    answer.json().await.expect("JSON")
}

#[test]
fn unknown_names_are_answered_with_what_was_probably_meant() {
    run_test(async |sdp| {
        sdp.hello().await;
        let problem = refused(sdp, json!({ "service": "helo" })).await;
        assert_eq!(
            (&problem["code"], &problem["did_you_mean"]),
            (&json!("unknown_service"), &json!("hello"))
        );
        let (failure, _) = sdp.failure("hello", "feature/greting").await;
        assert_eq!(failure.reason, FailureReason::RefNotFound);
        assert!(failure.detail.contains("feature/greeting"), "{}", failure.detail);
        let error = sdp.admin.sandbox(&"alicia".parse().expect("valid")).await.expect_err("unknown");
        assert_eq!(error.code(), "unknown_sandbox");
        assert!(error.hint().is_some());
    });
}

#[test]
fn dangerous_branches_are_refused_before_anything_is_spawned() {
    run_test(async |sdp| {
        sdp.hello().await;
        let long = "x".repeat(10 * 1024);
        for branch in [
            "-h",
            "--upload-pack=touch p",
            "--end-of-options",
            "@",
            "@{-1}",
            "HEAD",
            "a..b",
            "a:b",
            "+x:refs/heads/main",
            "x.lock",
            "x~1",
            "^x",
            "x\n",
            "x\u{202E}",
            "x\u{2028}",
            " x",
            "a|b",
            "${IFS}",
            "*",
            "../../etc",
            &long,
        ] {
            let problem = refused(sdp, json!({ "service": "hello", "git_ref": branch })).await;
            assert_eq!(problem["code"], "invalid_branch", "{branch:?}: {problem}");
            assert!(problem["hint"].is_string(), "{problem}");
        }
        let list = sdp.admin.deployments(&Default::default()).await.expect("a list");
        assert!(list.deployments.is_empty());
    });
}

#[test]
fn a_build_that_fails_names_its_exit_code_and_its_last_line() {
    run_test(async |sdp| {
        sdp.push("hello", "main", &[("greeting.txt", "x")]);
        let build = json!([["sh", "-c", "echo compiling; echo 'error: no such thing' >&2; exit 3"]]);
        let builder = json!({ "type": "command", "build": build, "run": [greeter()] });
        sdp.service("hello", json!({ "builder": builder })).await;
        let (failure, log) = sdp.failure("hello", "main").await;
        assert_eq!((failure.step, failure.reason), (Some(Step::Build), FailureReason::BuildFailed));
        assert_eq!(failure.exit_code, Some(3));
        assert!(failure.line.is_some());
        assert!(log.contains("error: no such thing"), "{log}");
        assert_eq!(sdp.processes(), Vec::<String>::new());
    });
}

#[test]
fn a_tool_or_folder_that_is_not_there_is_named() {
    run_test(async |sdp| {
        sdp.push("hello", "main", &[("greeting.txt", "x")]);
        let builder = json!({ "type": "command", "build": [["frobnicate", "--all"]], "run": [greeter()] });
        sdp.service("hello", json!({ "builder": builder })).await;
        let (failure, _) = sdp.failure("hello", "main").await;
        assert_eq!(failure.reason, FailureReason::ToolMissing);
        assert!(failure.detail.contains("frobnicate"), "{}", failure.detail);
        sdp.service("hello", json!({ "subdir": "cmd/none" })).await;
        let (failure, _) = sdp.failure("hello", "main").await;
        assert_eq!(failure.reason, FailureReason::UnsafeTree);
        assert!(failure.detail.contains("cmd/none"), "{}", failure.detail);
    });
}

#[test]
fn two_hundred_mebibytes_in_one_line_are_one_cut_line() {
    run_test(async |sdp| {
        sdp.push("hello", "main", &[("greeting.txt", "x")]);
        let build = json!([["sh", "-c", "head -c 209715200 /dev/zero | tr '\\0' x; echo; echo after"]]);
        let builder = json!({ "type": "command", "build": build, "run": [greeter()] });
        sdp.service("hello", json!({ "builder": builder })).await;
        let view = sdp.deploy("hello", "main").await;
        assert!(view.deployment.url.is_some(), "{:?}", view.deployment.outcome());
        let log = sdp.admin.log_tail(view.deployment.id.into(), 200).await.expect("a log");
        let cut = log.lines.iter().position(|line| line.text.starts_with("xxxx")).expect("the line is there");
        assert!(log.lines[cut].text.ends_with("[line cut at 64 KiB]"));
        assert!(log.lines[cut].text.len() < 70_000);
        assert_eq!(log.lines[cut + 1].text, "after");
    });
}

#[test]
fn a_build_that_never_ends_and_a_port_that_never_answers_are_ended() {
    run_test_with(
        |server, _| {
            server.limits.build = std::time::Duration::from_secs(1);
            server.limits.check = std::time::Duration::from_secs(1);
        },
        async |sdp| {
            sdp.push("hello", "main", &[("greeting.txt", "x")]);
            let builder = json!({ "type": "command", "build": [["sleep", "3600"]], "run": [greeter()] });
            sdp.service("hello", json!({ "builder": builder })).await;
            let (failure, _) = sdp.failure("hello", "main").await;
            assert_eq!((failure.step, failure.reason), (Some(Step::Build), FailureReason::Timeout));
            sdp.push("deaf", "main", &[("greeting.txt", "x"), ("behaviour.txt", "deaf")]);
            sdp.service("deaf", json!({ "health": { "type": "tcp" } })).await;
            let (failure, _) = sdp.failure("deaf", "main").await;
            assert_eq!((failure.step, failure.reason), (Some(Step::Check), FailureReason::HealthCheckFailed));
            assert!(!failure.reason.hint().is_empty());
            assert_eq!(sdp.processes(), Vec::<String>::new());
        },
    );
}

#[test]
fn a_service_that_ends_at_once_shows_why() {
    run_test(async |sdp| {
        sdp.push("hello", "main", &[("greeting.txt", "x"), ("behaviour.txt", "ends")]);
        sdp.service("hello", json!({})).await;
        let (failure, log) = sdp.failure("hello", "main").await;
        assert_eq!((failure.step, failure.reason), (Some(Step::Check), FailureReason::Exited));
        assert_eq!(failure.exit_code, Some(7));
        assert!(log.contains("fatal: no database"), "{log}");
    });
}

#[test]
fn an_agent_that_is_away_is_said_and_a_repository_that_is_not_there_too() {
    run_test_with(
        |server, _| server.limits.no_agent_after = std::time::Duration::from_secs(1),
        async |sdp| {
            sdp.service("hello", json!({})).await;
            let (failure, _) = sdp.failure("hello", "main").await;
            assert_eq!(failure.reason, FailureReason::RepoNotFound);
            sdp.service("foreign", json!({ "repo": "https://git.example.com/x/y.git" })).await;
            let (failure, _) = sdp.failure("foreign", "main").await;
            assert_eq!(failure.reason, FailureReason::RepoNotAllowed);
            sdp.service("outside", json!({ "repo": "/etc/something.git" })).await;
            let (failure, _) = sdp.failure("outside", "main").await;
            assert_eq!(failure.reason, FailureReason::RepoNotAllowed);
            sdp.stop_agent().await;
            let (failure, _) = sdp.failure("hello", "main").await;
            assert_eq!((failure.step, failure.reason), (None, FailureReason::NoAgent));
        },
    );
}

#[test]
fn a_link_that_leads_out_of_the_repository_is_refused() {
    run_test(async |sdp| {
        sdp.push("hello", "main", &[("greeting.txt", "x")]);
        let repository = git2::Repository::open_bare(sdp.repository("hello")).expect("opens");
        let mut tree = repository.treebuilder(None).expect("a builder");
        let target = repository.blob(b"/etc").expect("a blob");
        tree.insert("service", target, 0o120_000).expect("inserted");
        let tree = repository.find_tree(tree.write().expect("written")).expect("found");
        let author = git2::Signature::now("Mallory", "m@example.com").expect("a name");
        repository.commit(Some("refs/heads/link"), &author, &author, "Link", &tree, &[]).expect("committed");
        sdp.service("hello", json!({ "subdir": "service" })).await;
        let (failure, _) = sdp.failure("hello", "link").await;
        assert_eq!(failure.reason, FailureReason::UnsafeTree);
    });
}

#[test]
fn the_same_key_with_another_body_is_a_conflict() {
    run_test(async |sdp| {
        sdp.hello().await;
        let key = "job-7".parse().expect("a key");
        let first = sdp.admin.deploy(&wanted("hello", "main"), Some(&key)).await.expect("taken");
        let again = sdp.admin.deploy(&wanted("hello", "main"), Some(&key)).await.expect("the same");
        assert_eq!(again.id, first.id);
        let error =
            sdp.admin.deploy(&wanted("hello", "feature/greeting"), Some(&key)).await.expect_err("another");
        assert_eq!(error.code(), "idempotency_conflict");
        sdp.wait(first.id.into()).await;
    });
}
