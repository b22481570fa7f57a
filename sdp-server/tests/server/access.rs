//! Who may what: every route against every kind of caller.

use reqwest::Method;
use sdp_core::api::{TokenKind, TokenList};
use serde_json::{Value, json};

use crate::harness::{Host, hello, ok, refused};

#[tokio::test]
async fn nothing_but_health_and_signing_in_is_open() {
    let host = Host::start().await;
    let agent = host.token(TokenKind::Agent, "vm-9").await;
    let bot = host.token(TokenKind::Bot, "chat").await;
    let document: Value = ok(host.get("/api/v1/openapi.json").send().await.expect("answered"), 200).await;
    let (mut first, mut open) = (None, Vec::new());
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("item") {
            let method: Method = method.to_uppercase().parse().expect("a method");
            let address = path.replace("{deployment}", "1").replace(['{', '}'], "");
            let is_open = operation["security"].as_array().is_some_and(Vec::is_empty);
            let answer = host.bare(method.clone(), &address).send().await.expect("answered");
            if is_open {
                open.push(operation["operationId"].as_str().expect("an id").to_owned());
                assert_ne!(answer.status(), 401, "{method} {path}");
                continue;
            }
            assert_eq!(answer.status(), 401, "{method} {path}");
            assert_eq!(answer.headers()["www-authenticate"], "Bearer");
            let body = answer.text().await.expect("body");
            assert_eq!(&body, first.get_or_insert_with(|| body.clone()), "always the same: {method} {path}");
            // Nobody's token is an enrolment.
            if path == "/api/v1/enrol" {
                for token in [&agent, &bot, &host.admin] {
                    let answer = host.with(token, method.clone(), &address).send().await.expect("answered");
                    assert_eq!(answer.text().await.expect("body"), body);
                }
                continue;
            }
            if path != "/ws/agent" {
                let answer = host.with(&agent, method.clone(), &address).send().await.expect("answered");
                assert_eq!(answer.status(), 403, "an agent at {method} {path}");
            }
            if method != Method::GET {
                let answer = host.with(&bot, method.clone(), &address).send().await.expect("answered");
                assert_eq!(answer.status(), 403, "a bot for nobody at {method} {path}");
            }
            if path.starts_with("/api/v1/tokens") || path == "/ws/agent" {
                let request = host.with(&bot, method.clone(), &address).header("sdp-on-behalf-of", "alice");
                assert_eq!(request.send().await.expect("answered").status(), 403, "a bot at {method} {path}");
            }
        }
    }
    open.sort();
    assert_eq!(open, ["health", "log_in", "open_sign_in_link", "readiness", "sign_in", "sign_out"]);
    host.stop().await;
}

#[tokio::test]
async fn what_is_no_token_opens_nothing() {
    let host = Host::start().await;
    let path = "/api/v1/services";
    let admin = host.admin.clone();
    for bad in ["", "x", "sdp_", &admin[1..], &format!("{admin}x"), &admin.replace("sdp_", "sdpb_")] {
        refused(host.with(bad, Method::GET, path), 401, "unauthorised").await;
    }
    let with = |value: String| host.bare(Method::GET, path).header("authorization", value);
    refused(with(admin.clone()), 401, "unauthorised").await;
    refused(with(format!("Basic {admin}")), 401, "unauthorised").await;
    refused(with(format!("Bearer {admin}")).header("authorization", "Bearer x"), 401, "unauthorised").await;
    for query in ["token", "access_token", "authorization"] {
        refused(host.bare(Method::GET, &format!("{path}?{query}={admin}")), 401, "unauthorised").await;
    }
    refused(host.bare(Method::GET, path).header("cookie", format!("sdp={admin}")), 401, "unauthorised").await;
    let answer = with(format!("bearer {admin}")).send().await.expect("answered");
    assert_eq!(answer.status(), 200, "the scheme's name has no case");
    host.stop().await;
}

#[tokio::test]
async fn only_a_bot_speaks_for_a_person_and_only_for_one() {
    let host = Host::start().await;
    host.hello().await;
    let bot = host.token(TokenKind::Bot, "chat").await;
    let deploy = |token: &str| {
        host.with(token, Method::POST, "/api/v1/deployments").json(&json!({ "service": "hello" }))
    };
    refused(deploy(&bot), 403, "forbidden").await;
    refused(deploy(&host.admin).header("sdp-on-behalf-of", "alice"), 403, "forbidden").await;
    refused(deploy(&bot).header("sdp-on-behalf-of", "<script>"), 422, "invalid_name").await;
    let twice = deploy(&bot).header("sdp-on-behalf-of", "alice").header("sdp-on-behalf-of", "bob");
    refused(twice, 422, "invalid_header").await;
    let answer =
        deploy(&bot).header("sdp-on-behalf-of", "alice.b@example.com").send().await.expect("answered");
    let created: Value = ok(answer, 202).await;
    let by = json!({ "kind": "bot", "name": "chat", "person": "alice.b@example.com" });
    assert_eq!(created["deployment"]["requested_by"], by);
    assert_eq!(created["deployment"]["sandbox"], "alice-b");
    let answer = host.with(&bot, Method::GET, "/api/v1/services").send().await.expect("answered");
    assert_eq!(answer.status(), 200, "reading is allowed for nobody in particular");
    host.stop().await;
}

#[tokio::test]
async fn tokens_are_made_listed_and_revoked() {
    let host = Host::start().await;
    let made = host.token(TokenKind::Admin, "ci").await;
    let again = host.post("/api/v1/tokens", &json!({ "kind": "bot", "name": "ci" }));
    refused(again, 409, "token_exists").await;
    let no_agent = host.post("/api/v1/tokens", &json!({ "kind": "agent", "name": "VM 1" }));
    refused(no_agent, 422, "invalid_name").await;
    let list = host.get("/api/v1/tokens").send().await.expect("answered").text().await.expect("body");
    assert!(!list.contains(&made) && !list.contains(&host.admin), "values are shown once");
    let list: TokenList = serde_json::from_str(&list).expect("a list");
    assert_eq!(list.tokens.iter().map(|token| token.name.as_str()).collect::<Vec<_>>(), ["admin", "ci"]);
    let revoke = |name: &str| host.with(&made, Method::DELETE, &format!("/api/v1/tokens/{name}"));
    assert_eq!(revoke("admin").send().await.expect("answered").status(), 204);
    refused(revoke("ci"), 409, "last_admin").await;
    refused(revoke("nobody"), 404, "unknown_token").await;
    refused(host.get("/api/v1/services"), 401, "unauthorised").await;
    host.stop().await;
}

#[tokio::test]
async fn answers_tell_browsers_what_not_to_do() {
    let host = Host::start().await;
    for path in ["/healthz", "/api/v1/services", "/nowhere", "/docs/"] {
        let answer = host.get(path).send().await.expect("answered");
        let header = |name: &str| answer.headers()[name].to_str().expect("text").to_owned();
        assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(header("x-frame-options"), "DENY", "{path}");
        assert_eq!(header("referrer-policy"), "same-origin", "{path}");
        assert!(header("content-security-policy").starts_with("default-src 'none'"), "{path}");
        assert!(!answer.headers().contains_key("strict-transport-security"), "http");
    }
    host.stop().await;
}

#[tokio::test]
async fn a_write_that_was_refused_has_changed_nothing() {
    let host = Host::start().await;
    let agent = host.token(TokenKind::Agent, "vm-9").await;
    refused(host.with(&agent, Method::POST, "/api/v1/services").json(&hello()), 403, "forbidden").await;
    refused(host.get("/api/v1/services/hello"), 404, "unknown_service").await;
    host.stop().await;
}
