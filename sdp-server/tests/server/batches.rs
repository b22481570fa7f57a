//! Several deployments at once over REST, and what a token for one service may of all this.

use reqwest::Method;
use sdp_core::access::NewToken;
use sdp_core::api::{BatchView, CreateBatch, TokenKind};
use sdp_core::batch::BatchOutcome;
use serde_json::{Value, json};

use crate::harness::{Host, ok, refused};

#[tokio::test]
async fn a_batch_is_taken_followed_and_ends_partly() {
    let host = Host::start().await;
    host.shop().await;
    let client = host.client();
    let mut agent = host.router().await;
    let body = json!({ "sandbox": "qa", "services": [
        { "service": "payments", "git_ref": "feature/a", "env": { "A": "1" } }, { "service": "ledger", "git_ref": "feature/b" }] });
    let wanted: CreateBatch = serde_json::from_value(body.clone()).expect("valid");
    let key = "ci-412".parse().expect("a key");
    let ask = |body: &Value| host.post("/api/v1/batches", body).header("idempotency-key", "ci-412");
    let answer = ask(&body).send().await.expect("answered");
    let location = answer.headers()["location"].to_str().expect("text").to_owned();
    let taken: BatchView = ok(answer, 202).await;
    assert_eq!(location, format!("/api/v1/batches/{}", taken.batch.id));
    assert_eq!(taken.url.path(), "/sandboxes/qa");
    let asked: Vec<_> = taken.deployments.iter().map(|d| format!("{}={}", d.service, d.git_ref)).collect();
    assert_eq!((asked.len(), taken.batch.outcome), (2, None), "{asked:?}");
    // The same again is the same, another with its key is not.
    assert_eq!(client.deploy_batch(&wanted, Some(&key)).await.expect("known").batch.id, taken.batch.id);
    let other = json!({ "sandbox": "qa", "services": [{ "service": "ledger" }] });
    refused(ask(&other), 409, "idempotency_conflict").await;
    assert_eq!(client.batch(taken.batch.id).await.expect("there").deployments.len(), 2);
    let open: BatchView = ok(host.get(&location).send().await.expect("answered"), 200).await;
    assert_eq!(open.batch.outcome, None);

    let first = agent.take().await;
    let second = agent.take().await;
    agent.fail(second).await;
    agent.succeed(first, 8081).await;
    let held = agent.while_waiting(host.get(&format!("{location}?wait=50")).send()).await.expect("answered");
    let ended: BatchView = ok(held, 200).await;
    assert_eq!(ended.batch.outcome, Some(BatchOutcome::Partial));
    assert_eq!((ended.batch.succeeded.len(), ended.batch.failed.len()), (1, 1));
    assert!(ended.deployments.iter().all(|deployment| deployment.is_ended()));
    assert_eq!(client.wait_batch(taken.batch.id).await.expect("ended").batch, ended.batch);

    let audit: Value = ok(
        host.get("/api/v1/audit?action=create_batch&result=done&limit=1").send().await.expect("answered"),
        200,
    )
    .await;
    let target = audit["entries"][0]["target"].as_str().expect("a target");
    assert!(target.contains("payments") && target.ends_with("to qa"), "{target}");
    refused(host.get(&format!("{location}?wait=51")), 422, "invalid_query").await;
    refused(host.get("/api/v1/batches/00000000-0000-7000-8000-000000000000"), 404, "unknown_batch").await;
    refused(host.get("/api/v1/batches/412"), 422, "invalid_id").await;
    host.stop().await;
}

#[tokio::test]
async fn all_of_a_batch_are_taken_or_none() {
    let host = Host::start().await;
    host.shop().await;
    let template = json!({ "services": { "payments": { "git_ref": "v1" }, "ledger": {} } });
    assert_eq!(host.put("/api/v1/templates/shop", &template).send().await.expect("answered").status(), 201);
    let many: Vec<_> = (0..51).map(|n| json!({ "service": format!("s{n}") })).collect();
    for (body, status, code) in [
        (json!({}), 422, "invalid_service"),
        (json!({ "services": [] }), 422, "invalid_service"),
        (
            json!({ "services": [{ "service": "payments" }, { "service": "payments" }] }),
            422,
            "invalid_service",
        ),
        (json!({ "services": [{ "service": "payments" }, { "service": "nosuch" }] }), 404, "unknown_service"),
        (
            json!({ "services": [{ "service": "payments", "git_ref": "--upload-pack=x" }] }),
            422,
            "invalid_branch",
        ),
        (json!({ "services": many }), 422, "invalid_service"),
        (json!({ "template": { "name": "nosuch" } }), 404, "unknown_template"),
        (json!({ "template": { "name": "shop", "version": 7 } }), 404, "unknown_template"),
        (
            json!({ "services": [{ "service": "payments" }], "git_credential": { "username": "a:b", "password": "hunter2hunter2" } }),
            422,
            "invalid_body",
        ),
    ] {
        let problem = refused(host.post("/api/v1/batches", &body), status, code).await;
        assert!(!format!("{problem:?}").contains("hunter2"), "{problem:?}");
    }
    let none: Value = ok(host.get("/api/v1/deployments").send().await.expect("answered"), 200).await;
    assert_eq!(none["deployments"], json!([]));
    let body = json!({ "sandbox": "qa", "template": { "name": "shop" } });
    let taken: BatchView = ok(host.post("/api/v1/batches", &body).send().await.expect("answered"), 202).await;
    let asked: Vec<_> = taken.deployments.iter().map(|d| format!("{}={}", d.service, d.git_ref)).collect();
    assert_eq!(asked, ["ledger=main", "payments=v1"]);
    assert_eq!(taken.batch.template.map(|template| template.version), Some(1));
    host.stop().await;
}

#[tokio::test]
async fn a_token_for_one_service_changes_nothing_of_the_others() {
    let host = Host::start().await;
    host.shop().await;
    let spec = |services: Value| json!({ "services": services });
    for (name, services) in
        [("pay", json!({ "payments": {} })), ("all", json!({ "payments": {}, "ledger": {} }))]
    {
        let put = host.put(&format!("/api/v1/templates/{name}"), &spec(services));
        assert_eq!(put.send().await.expect("answered").status(), 201);
    }
    let new = NewToken {
        name: "ci".parse().expect("valid"),
        kind: TokenKind::Deploy,
        owner: None,
        service: Some("payments".parse().expect("valid")),
        expires_at: None,
    };
    let token = host.access().issue_token(new).await.expect("made").token.expose().to_owned();
    let ask = |method: &Method, path: &str, body: &Value| host.with(&token, method.clone(), path).json(body);
    let (put, post) = (Method::PUT, Method::POST);
    let services = |names: &[&str]| {
        let of = |name: &&str| json!({ "service": name });
        json!({ "sandbox": "qa", "services": names.iter().map(of).collect::<Vec<_>>() })
    };
    let with_template = |name: &str| json!({ "sandbox": "qa", "template": { "name": name } });
    let route = json!({ "target": { "type": "baseline" } });
    let theirs = json!({ "routes": { "ledger": { "type": "baseline" } } });
    let own = json!({ "routes": { "payments": { "type": "baseline" } } });
    let cases = [
        (&put, "/api/v1/sandboxes/qa", json!({ "template": { "name": "all" } }), 201),
        (&put, "/api/v1/sandboxes/qa", json!({}), 200),
        (&put, "/api/v1/sandboxes/qa", own, 200),
        (&put, "/api/v1/sandboxes/qa", theirs, 403),
        (&put, "/api/v1/sandboxes/qa", json!({ "env": { "A": "1" } }), 403),
        (&put, "/api/v1/sandboxes/qa", json!({ "shared": false }), 403),
        (&put, "/api/v1/sandboxes/qa", json!({ "lifetime_hours": 1 }), 403),
        (&post, "/api/v1/sandboxes", json!({ "name": "x", "sandbox": { "members": ["bob"] } }), 403),
        (&post, "/api/v1/sandboxes", json!({ "branch": "feature/x" }), 201),
        (&post, "/api/v1/sandboxes/qa/renew", json!({}), 200),
        (&post, "/api/v1/sandboxes/qa/renew", json!({ "hours": 1 }), 403),
        (&post, "/api/v1/sandboxes/qa/renew", json!({ "pinned": true }), 403),
        (&put, "/api/v1/sandboxes/qa/routes/payments", route.clone(), 200),
        (&put, "/api/v1/sandboxes/qa/routes/ledger", route, 403),
        (&post, "/api/v1/batches", services(&["payments"]), 202),
        (&post, "/api/v1/batches", services(&["payments", "ledger"]), 403),
        (&post, "/api/v1/batches", with_template("pay"), 202),
        (&post, "/api/v1/batches", with_template("all"), 403),
        (&post, "/api/v1/locks", json!({ "sandbox": "qa", "service": "payments", "reason": "x" }), 201),
        (&post, "/api/v1/locks", json!({ "sandbox": "qa", "service": "ledger", "reason": "x" }), 403),
        (&post, "/api/v1/locks", json!({ "sandbox": "qa", "reason": "x" }), 403),
        (&put, "/api/v1/templates/pay", spec(json!({})), 403),
        (&put, "/api/v1/environments/default", json!({ "name": "default" }), 403),
        (&Method::DELETE, "/api/v1/sandboxes/qa", json!({}), 403),
    ];
    for (method, path, body, status) in cases {
        let answer = ask(method, path, &body).send().await.expect("answered");
        let found = answer.status().as_u16();
        assert_eq!(found, status, "{method} {path} {body}: {}", answer.text().await.expect("a body"));
    }
    // A lock of its own is its own to end, one on everything is not, though the same token's name is on it.
    let locks = host.client().locks().await.expect("listed");
    let end = |id| host.with(&token, Method::DELETE, &format!("/api/v1/locks/{id}"));
    assert_eq!(end(locks[0].id).send().await.expect("answered").status(), 204);
    let all = host
        .post("/api/v1/locks", &json!({ "sandbox": "qa", "reason": "x" }))
        .send()
        .await
        .expect("answered");
    let all: sdp_core::api::Lock = ok(all, 201).await;
    refused(end(all.id), 403, "forbidden").await;
    host.stop().await;
}
