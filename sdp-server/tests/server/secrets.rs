//! Secrets of services over REST: in, and never out.

use reqwest::{Method, RequestBuilder};
use sdp_core::api::{SecretInfo, SecretKind, SecretList, TokenKind};
use sdp_server::config::KeptIn;
use serde_json::{Value, json};

use crate::harness::{Host, hello, ok, problem, refused};

const VALUE: &str = "postgres://payments:hunter2@db/payments";

impl Host {
    fn put_secret(&self, name: &str, body: &Value) -> RequestBuilder {
        let path = format!("/api/v1/services/hello/secrets/{name}");
        self.with(&self.admin, Method::PUT, &path).json(body)
    }

    fn delete_secret(&self, name: &str) -> RequestBuilder {
        self.with(&self.admin, Method::DELETE, &format!("/api/v1/services/hello/secrets/{name}"))
    }
}

#[tokio::test]
async fn a_secret_is_set_listed_without_its_value_replaced_and_deleted() {
    let host = Host::start().await;
    host.hello().await;
    let answer = host.put_secret("DB", &json!({ "value": VALUE })).send().await.expect("answered");
    assert_eq!(answer.headers()["location"], "/api/v1/services/hello/secrets");
    let made: SecretInfo = ok(answer, 201).await;
    assert_eq!((made.name.as_str(), &made.source), ("DB", &SecretKind::Value {}));
    let from_file = json!({ "file": "payments-db", "given_to": "both" });
    let replaced: SecretInfo =
        ok(host.put_secret("DB", &from_file).send().await.expect("answered"), 200).await;
    assert_eq!(replaced.source, SecretKind::File { file: "payments-db".parse().expect("a name") });
    host.put_secret("DB", &json!({ "value": VALUE, "given_to": "build" })).send().await.expect("answered");
    let text = host.get("/api/v1/services/hello/secrets").send().await.expect("answered").text().await;
    let text = text.expect("a body");
    assert!(!text.contains("hunter2"), "{text}");
    let list: SecretList = serde_json::from_str(&text).expect("a list");
    assert_eq!(list.secrets.len(), 1);
    for path in ["/api/v1/services/hello", "/api/v1/services"] {
        let text = host.get(path).send().await.expect("answered").text().await.expect("a body");
        assert!(!text.contains("hunter2") && !text.contains("DB"), "{text}");
    }
    assert_eq!(host.delete_secret("DB").send().await.expect("answered").status(), 204);
    refused(host.delete_secret("DB"), 404, "unknown_secret").await;
    host.stop().await;
}

#[tokio::test]
async fn what_is_wrong_is_said_without_the_value() {
    let host = Host::start().await;
    host.hello().await;
    for (name, body, status, code) in [
        ("DB", json!({ "value": "short" }), 422, "secret_too_short"),
        ("DB", json!({ "value": "[redacted]" }), 422, "secret_unfit"),
        ("DB", json!({ "value": "hunter2\u{0}x" }), 422, "secret_unfit"),
        ("DB", json!({ "value": "hunter2".repeat(10_000) }), 422, "secret_too_long"),
        ("DB", json!({ "value": VALUE, "file": "x" }), 422, "invalid_body"),
        ("DB", json!({}), 422, "invalid_body"),
        ("DB", json!({ "value": ["hunter2"] }), 422, "invalid_body"),
        ("DB", json!({ "value": VALUE, "given_to": "hunter2" }), 422, "invalid_body"),
        ("DB", json!({ "value": VALUE, "hunter2": 1 }), 422, "invalid_body"),
        ("DB", json!({ "file": "../hunter2" }), 422, "invalid_name"),
        ("PATH", json!({ "value": VALUE }), 422, "invalid_variable"),
        ("lower", json!({ "value": VALUE }), 422, "invalid_variable"),
        ("SDP_TOKEN", json!({ "value": VALUE }), 422, "invalid_variable"),
    ] {
        let answer = host.put_secret(name, &body).send().await.expect("answered");
        let problem = problem(answer, status).await;
        assert_eq!(problem.code, code, "{problem:?}");
        let known_field = body.get("hunter2").is_some();
        assert!(known_field || !format!("{problem:?}").contains("hunter2"), "{problem:?}");
        assert!(problem.hint.is_some() || problem.detail.is_some(), "{problem:?}");
    }
    let mut with_env = hello();
    with_env["env"] = json!({ "LEVEL": "1" });
    host.with(&host.admin, Method::PUT, "/api/v1/services/hello")
        .json(&with_env)
        .send()
        .await
        .expect("saved");
    refused(host.put_secret("LEVEL", &json!({ "value": VALUE })), 409, "variable_taken").await;
    host.put_secret("DB", &json!({ "value": VALUE })).send().await.expect("answered");
    let deploy = json!({ "service": "hello", "sandbox": "alice", "env": { "DB": "plain" } });
    refused(host.post("/api/v1/deployments", &deploy), 409, "variable_taken").await;
    let other = host.with(&host.admin, Method::PUT, "/api/v1/services/other/secrets/DB");
    refused(other.json(&json!({ "value": VALUE })), 404, "unknown_service").await;
    host.stop().await;
}

#[tokio::test]
async fn only_admins_see_or_change_them() {
    let host = Host::start().await;
    host.hello().await;
    let bot = host.token(TokenKind::Bot, "chat").await;
    let agent = host.token(TokenKind::Agent, "vm-1").await;
    for token in [&bot, &agent] {
        for (method, path) in [
            (Method::GET, "/api/v1/services/hello/secrets"),
            (Method::PUT, "/api/v1/services/hello/secrets/DB"),
            (Method::DELETE, "/api/v1/services/hello/secrets/DB"),
        ] {
            let request = host.with(token, method, path).header("sdp-on-behalf-of", "alice");
            refused(request.json(&json!({ "value": VALUE })), 403, "forbidden").await;
        }
    }
    refused(host.bare(Method::GET, "/api/v1/services/hello/secrets"), 401, "unauthorised").await;
    host.stop().await;
}

#[tokio::test]
async fn a_server_that_keeps_no_key_takes_no_values() {
    let host = Host::start_with(|config| config.secrets.key = Some(KeptIn::Memory)).await;
    host.hello().await;
    let problem = refused(host.put_secret("DB", &json!({ "value": VALUE })), 409, "secrets_need_a_key").await;
    assert!(problem.hint.expect("a hint").contains("secrets.key_file"));
    let from_file = json!({ "file": "payments-db" });
    assert_eq!(host.put_secret("DB", &from_file).send().await.expect("answered").status(), 201);
    host.stop().await;
}

#[tokio::test]
async fn a_backup_has_what_is_sealed_and_not_the_key() {
    let host = Host::start().await;
    host.hello().await;
    host.put_secret("DB", &json!({ "value": VALUE })).send().await.expect("answered");
    let place = tempfile::tempdir().expect("a folder");
    let backup = place.path().join("backup");
    let made = sdp_core::backup::backup(host.data(), &backup).expect("made");
    assert_eq!(made.sealed, 1);
    assert!(made.to_string().ends_with("1 sealed secrets, without the key that opens them"), "{made}");
    let key = std::fs::read(host.data().join("seal.key")).expect("the key");
    for entry in
        std::fs::read_dir(&backup).expect("a folder").flatten().filter(|entry| entry.path().is_file())
    {
        let bytes = std::fs::read(entry.path()).expect("reads");
        for secret in [&key[..], VALUE.as_bytes()] {
            assert!(!bytes.windows(secret.len()).any(|part| part == secret), "{:?}", entry.path());
        }
    }
    // With the former key put back, what was restored opens.
    let data = place.path().join("data");
    sdp_core::backup::restore(&backup, &data).expect("restored");
    std::fs::copy(host.data().join("seal.key"), data.join("seal.key")).expect("copied");
    let config = sdp_core::platform::PlatformConfig::new(&data);
    let platform = sdp_core::platform::Platform::start(config).await.expect("starts");
    let name = "vm-1".parse().expect("a name");
    let end = platform.connect_agent(name).await.expect("connected");
    let mut agent = crate::harness::Agent::begin(end, crate::harness::hello_frame()).await;
    let by = sdp_core::principal::Principal::person("alice".parse().expect("a name"));
    let deploy = sdp_core::platform::Deploy::new("hello".parse().expect("a name"));
    platform.deploy(&by, deploy).await.expect("taken");
    let secrets = agent.take_with_secrets().await;
    let expected = sdp_core::wire::SecretSource::Value { value: sdp_core::secret::Secret::new(VALUE) };
    assert_eq!(secrets[0].source, expected);
    platform.stop().await;
    host.stop().await;
}
