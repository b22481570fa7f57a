//! Locks and freezes over REST: set, refused, stolen, ended, and seen by those whom they stop.

use reqwest::{Method, RequestBuilder};
use sdp_core::api::{CreateLock, Lock, SandboxView};
use serde_json::{Value, json};

use crate::harness::{Host, ok, refused};

async fn set(request: RequestBuilder) -> Lock {
    let answer = request.send().await.expect("answered");
    let location = answer.headers().get("location").map(|value| value.to_str().expect("text").to_owned());
    let lock: Lock = ok(answer, 201).await;
    assert_eq!(location, Some(format!("/api/v1/locks/{}", lock.id)));
    lock
}

#[tokio::test]
async fn a_lock_is_set_stolen_and_ended_and_says_whose_it_is() {
    let host = Host::start().await;
    host.shop().await;
    let client = host.client();
    let chat = host.chat().await;
    let deployed = chat.deploy("alice", "payments", "qa").send().await.expect("answered");
    assert_eq!(deployed.status(), 202);
    let lock = |person: &str, more: Value| {
        let mut body = json!({ "sandbox": "qa", "service": "payments", "reason": "the demo" });
        for (name, value) in more.as_object().expect("an object") {
            body[name] = value.clone();
        }
        chat.post(person, "/api/v1/locks", &body)
    };
    let first = set(lock("alice", json!({ "hours": 2 }))).await;
    assert_eq!(client.locks().await.expect("listed"), std::slice::from_ref(&first));
    let view: SandboxView = ok(host.get("/api/v1/sandboxes/qa").send().await.expect("answered"), 200).await;
    assert_eq!(view.locks, std::slice::from_ref(&first));

    let refusal = refused(chat.deploy("bob", "payments", "qa"), 409, "locked").await;
    assert_eq!(refusal.title, "Payments in qa is locked by alice: the demo");
    let detail = refusal.detail.expect("a detail");
    let end = first.expires_at.expect("an end").to_string();
    assert!(
        detail.contains("alice") && detail.contains(&end) && detail.contains(&first.id.to_string()),
        "{detail}"
    );
    for allowed in [chat.deploy("alice", "payments", "qa"), chat.deploy("bob", "ledger", "qa")] {
        assert_eq!(allowed.send().await.expect("answered").status(), 202);
    }
    let batch = json!({ "sandbox": "qa", "services": [{ "service": "ledger" }, { "service": "payments" }] });
    refused(chat.post("bob", "/api/v1/batches", &batch), 409, "locked").await;
    let target = json!({ "target": { "type": "baseline" } });
    refused(chat.put("bob", "/api/v1/sandboxes/qa/routes/payments", &target), 409, "locked").await;

    refused(lock("bob", json!({})), 409, "locked").await;
    let stolen = set(lock("bob", json!({ "steal": true, "reason": "a hotfix" }))).await;
    assert_eq!(client.locks().await.expect("listed"), std::slice::from_ref(&stolen));
    refused(chat.deploy("alice", "payments", "qa"), 409, "locked").await;
    let delete = |person: &str, id| chat.of(person, Method::DELETE, &format!("/api/v1/locks/{id}"));
    refused(delete("alice", stolen.id), 403, "not_your_lock").await;
    refused(delete("bob", first.id), 404, "unknown_lock").await;
    assert_eq!(delete("bob", stolen.id).send().await.expect("answered").status(), 204);
    refused(delete("bob", stolen.id), 404, "unknown_lock").await;
    // An administrator ends anybody's.
    let third = set(lock("alice", json!({}))).await;
    client.unlock(third.id).await.expect("ended");
    assert_eq!(client.locks().await.expect("listed"), []);

    for (body, status, code) in [
        (json!({ "reason": "" }), 422, "invalid_service"),
        (json!({ "reason": "x".repeat(501) }), 422, "invalid_service"),
        (json!({ "reason": "x", "hours": 0 }), 422, "invalid_service"),
        (json!({ "reason": "x", "hours": 8761 }), 422, "invalid_service"),
        (json!({ "reason": "x", "kind": "nonsense" }), 422, "invalid_body"),
        (json!({ "reason": "x", "environment": "nosuch" }), 404, "unknown_environment"),
        (json!({ "reason": "x", "sandbox": "nosuch" }), 404, "unknown_sandbox"),
        (json!({ "reason": "x", "service": "nosuch" }), 404, "unknown_service"),
        (json!({}), 422, "invalid_body"),
    ] {
        refused(host.post("/api/v1/locks", &body), status, code).await;
    }
    refused(host.with(&host.admin, Method::DELETE, "/api/v1/locks/x"), 422, "invalid_id").await;
    let wanted: CreateLock =
        serde_json::from_value(json!({ "reason": "all", "kind": "freeze" })).expect("valid");
    let all = client.lock(&wanted).await.expect("frozen");
    assert_eq!(all.place.to_string(), "everything in default");
    host.stop().await;
}

#[tokio::test]
async fn the_audit_says_what_was_locked() {
    let host = Host::start().await;
    host.shop().await;
    let freeze = json!({ "service": "ledger", "kind": "freeze", "reason": "release" });
    let lock = set(host.post("/api/v1/locks", &freeze)).await;
    let end = host.with(&host.admin, Method::DELETE, &format!("/api/v1/locks/{}", lock.id));
    assert_eq!(end.send().await.expect("answered").status(), 204);
    let audit: Value = ok(host.get("/api/v1/audit?limit=2").send().await.expect("answered"), 200).await;
    let entries = audit["entries"].as_array().expect("a list").iter();
    let said: Vec<_> = entries.map(|entry| format!("{} {}", entry["action"], entry["target"])).collect();
    assert_eq!(
        said,
        [r#""delete_lock" "ledger in default, frozen""#, r#""create_lock" "ledger in default, frozen""#]
    );
    host.stop().await;
}
