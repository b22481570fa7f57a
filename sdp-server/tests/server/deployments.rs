//! Deployments over REST: idempotency, pages, waiting, logs.

use std::time::{Duration, Instant};

use reqwest::Method;
use sdp_core::api::{DeploymentCreated, DeploymentList, DeploymentView, LogMatches, LogWindow};
use sdp_core::deployment::Outcome;
use serde_json::{Value, json};

use crate::harness::{Host, is_queued, ok, refused};

#[tokio::test]
async fn the_same_key_gives_the_same_deployment_and_another_request_is_refused() {
    let host = Host::start().await;
    host.hello().await;
    let deploy =
        |key: &str, body: Value| host.post("/api/v1/deployments", &body).header("idempotency-key", key);
    let with = |password: &str| {
        let credential = json!({ "username": "u", "password": password });
        json!({ "service": "hello", "sandbox": "alice", "git_credential": credential })
    };
    let first: DeploymentCreated = ok(deploy("ci-1", with("one")).send().await.expect("answered"), 202).await;
    assert!(is_queued(&first));
    assert_eq!(first.log_url.as_str(), format!("{}/deployments/{}", host.url, first.number));
    let again: DeploymentCreated = ok(deploy("ci-1", with("two")).send().await.expect("answered"), 202).await;
    assert_eq!(again.id, first.id, "a renewed password makes no other request");
    refused(deploy("ci-1", json!({ "service": "hello" })), 409, "idempotency_conflict").await;
    refused(deploy("", json!({ "service": "hello" })), 422, "invalid_name").await;
    refused(deploy("a b", json!({ "service": "hello" })), 422, "invalid_name").await;
    refused(deploy("a", json!({ "service": "hello" })).header("idempotency-key", "b"), 422, "invalid_header")
        .await;
    let other: DeploymentCreated = ok(deploy("ci-2", with("one")).send().await.expect("answered"), 202).await;
    assert_ne!(other.id, first.id);
    let text = host.get(&format!("/api/v1/deployments/{}", first.id)).send().await.expect("answered");
    assert!(!text.text().await.expect("body").contains("credential"), "write-only");
    host.stop().await;
}

#[tokio::test]
async fn parallel_requests_with_one_key_make_one_deployment() {
    let host = Host::start().await;
    host.hello().await;
    let requests = (0..20).map(|_| {
        host.post("/api/v1/deployments", &json!({ "service": "hello" })).header("idempotency-key", "k").send()
    });
    let mut ids = Vec::new();
    for answer in futures_util::future::join_all(requests).await {
        let created: DeploymentCreated = ok(answer.expect("answered"), 202).await;
        ids.push(created.id);
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    host.stop().await;
}

#[tokio::test]
async fn pages_hold_everything_once_newest_first() {
    let host = Host::start().await;
    host.hello().await;
    for n in 0..5 {
        let body = json!({ "service": "hello", "sandbox": format!("s-{n}") });
        assert_eq!(host.post("/api/v1/deployments", &body).send().await.expect("answered").status(), 202);
    }
    let (mut numbers, mut cursor, mut pages) = (Vec::new(), None::<String>, 0);
    loop {
        let mut path = "/api/v1/deployments?limit=2&service=hello".to_owned();
        if let Some(cursor) = &cursor {
            path = path + "&cursor=" + cursor;
        }
        let page: DeploymentList = ok(host.get(&path).send().await.expect("answered"), 200).await;
        numbers.extend(page.deployments.iter().map(|deployment| deployment.number.0));
        pages += 1;
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!((numbers, pages), (vec![5, 4, 3, 2, 1], 3));
    let some: DeploymentList =
        ok(host.get("/api/v1/deployments?sandbox=s-3&state=queued").send().await.expect("answered"), 200)
            .await;
    assert_eq!(some.deployments.len(), 1);
    let none: DeploymentList =
        ok(host.get("/api/v1/deployments?state=ended").send().await.expect("answered"), 200).await;
    assert_eq!((none.deployments.len(), none.next_cursor), (0, None));
    host.stop().await;
}

#[tokio::test]
async fn a_held_request_is_answered_when_the_deployment_ends() {
    let host = Host::start().await;
    host.hello().await;
    let first = host.deploy().await;
    let held = host.get(&format!("/api/v1/deployments/{}?wait=50", first.number)).send();
    let newer = async {
        let view: DeploymentView =
            ok(host.get(&format!("/api/v1/deployments/{}", first.id)).send().await.expect("answered"), 200)
                .await;
        assert_eq!((view.queue_position, view.log_lines), (Some(1), 0));
        host.deploy().await
    };
    let (held, newer) = tokio::join!(held, newer);
    let view: DeploymentView = ok(held.expect("answered"), 200).await;
    assert_eq!(view.superseded_by, Some(newer.id));
    assert!(matches!(view.deployment.outcome(), Some(Outcome::Superseded { .. })));
    let begun = Instant::now();
    let path = format!("/api/v1/deployments/{}?wait=1", newer.id);
    let view: DeploymentView = ok(host.get(&path).send().await.expect("answered"), 200).await;
    assert!(!view.deployment.is_ended() && begun.elapsed() >= Duration::from_secs(1), "the time was up");
    let cancel =
        |number| host.with(&host.admin, Method::POST, &format!("/api/v1/deployments/{number}/cancel"));
    let view: DeploymentView = ok(cancel(newer.number).send().await.expect("answered"), 202).await;
    assert!(matches!(view.deployment.outcome(), Some(Outcome::Cancelled { .. })));
    refused(cancel(newer.number), 409, "already_ended").await;
    let again = |verb: &str| {
        host.with(&host.admin, Method::POST, &format!("/api/v1/deployments/{}/{verb}", newer.id))
    };
    refused(again("redeploy"), 409, "no_commit").await;
    refused(again("redeploy").json(&Value::Null), 409, "no_commit").await;
    refused(again("rollback"), 409, "nothing_to_roll_back").await;
    refused(again("rollback").json(&json!({ "x": 1 })), 422, "invalid_body").await;
    host.stop().await;
}

#[tokio::test]
async fn a_server_that_stops_answers_held_requests() {
    let host = Host::start().await;
    host.hello().await;
    let created = host.deploy().await;
    let request = host.get(&format!("/api/v1/deployments/{}?wait=50", created.id));
    let begun = Instant::now();
    let (answer, ()) = tokio::join!(request.send(), async {
        // A second connection's answer shows that the server is busy with the first by now, or will not begin it.
        assert_eq!(host.get("/readyz").send().await.expect("answered").status(), 200);
        host.shut_down();
    });
    if let Ok(answer) = answer {
        let view: DeploymentView = ok(answer, 200).await;
        assert!(!view.deployment.is_ended());
    }
    host.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(9), "nothing had to be cut off");
}

#[tokio::test]
async fn a_log_is_read_by_number_from_the_end_and_byte_for_byte() {
    let host = Host::start().await;
    host.hello().await;
    let mut agent = host.agent().await;
    let created = host.deploy().await;
    let mut job = agent.take().await;
    let lines: Vec<Vec<u8>> = (1..=1200).map(|n| format!("line {n}").into_bytes()).collect();
    agent.print(&mut job, &lines.iter().map(Vec::as_slice).collect::<Vec<_>>()).await;
    agent.print(&mut job, &[b"<script>\x1b[31mred\x00\xff\xfe", b""]).await;
    let printed = agent.fail(job).await;
    let path = format!("/api/v1/deployments/{}", created.number);
    let view: DeploymentView =
        ok(host.get(&format!("{path}?wait=50")).send().await.expect("answered"), 200).await;
    let Some(Outcome::Failed { failure }) = view.deployment.outcome() else { panic!("{view:?}") };
    assert_eq!(failure.reason.code(), "ref_not_found");
    let window = async |query: &str| -> LogWindow {
        ok(host.get(&format!("{path}/logs{query}")).send().await.expect("answered"), 200).await
    };
    let first = window("").await;
    assert_eq!((first.total, first.complete, first.lines.len()), (1202, true, 500));
    assert_eq!((first.lines[0].n, first.lines[0].text.as_str()), (1, "line 1"));
    let middle = window("?from=1199&limit=1000").await;
    let texts: Vec<_> = middle.lines.iter().map(|line| line.text.as_str()).collect();
    assert_eq!(texts, ["line 1199", "line 1200", "<script>\u{1b}[31mred\0\u{fffd}\u{fffd}", ""]);
    assert_eq!(window("?tail=1").await.lines[0].n, 1202);
    assert!(window("?from=99999999").await.lines.is_empty());
    let search = async |query: &str| -> String {
        let answer = host.get(&format!("{path}/logs/search?{query}")).send().await.expect("answered");
        let LogMatches { lines, complete, total, matches } = ok(answer, 200).await;
        assert_eq!((lines, complete), (1202, true));
        let matches: Vec<_> = matches.iter().map(|hit| format!("{}: {}", hit.position, hit.n)).collect();
        format!("{total} [{}]", matches.join(", "))
    };
    assert_eq!(search("q=LINE+120").await, "2 [1: 120, 2: 1200]");
    assert_eq!(search("q=LINE+120&match_case=true").await, "0 []");
    assert_eq!(search("q=line&limit=2&from=700").await, "1200 [700: 700, 701: 701]");
    assert_eq!(search("q=line&limit=2&from=700&direction=up").await, "1200 [699: 699, 700: 700]");
    assert_eq!(search("q=line&limit=1&direction=up").await, "1200 [1200: 1200]");
    assert_eq!(search("q=line&limit=1&first=1200").await, "1 [1: 1200]");
    assert_eq!(search("q=%3Cscript%3ERED&step=resolve&stream=stdout").await, "1 [1: 1201]");
    assert_eq!(search("q=red&step=build").await, "0 []");
    assert_eq!(search("q=red&stream=stderr").await, "0 []");
    let raw = host.get(&format!("{path}/logs/raw")).send().await.expect("answered");
    let header = |name: &str| raw.headers()[name].to_str().expect("text").to_owned();
    assert_eq!(header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(header("x-content-type-options"), "nosniff");
    assert_eq!(header("content-disposition"), "attachment; filename=\"hello-1.log\"");
    assert_eq!(header("content-length"), printed.len().to_string());
    assert!(raw.bytes().await.expect("bytes") == printed, "byte for byte");
    host.stop().await;
}
