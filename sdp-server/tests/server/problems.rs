//! Whatever is wrong, the answer is a problem with a stable code, and nothing that was sent comes back.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Host, hello, ok, problem, refused};

#[tokio::test]
async fn wrong_addresses_and_methods_are_problems() {
    let host = Host::start().await;
    for path in [
        "/nowhere",
        "/api",
        "/api/v1",
        "/api/v2/services",
        "/api/v1/services/",
        "/ws",
        "/%2e%2e/x",
        "/docs/nothing.js",
    ] {
        refused(host.get(path), 404, "not_found").await;
    }
    for (method, path, allow) in [
        (Method::PATCH, "/api/v1/services", "GET, POST, HEAD"),
        (Method::DELETE, "/api/v1/deployments", "GET, POST, HEAD"),
        (Method::PUT, "/healthz", "GET, HEAD"),
    ] {
        let answer = host.with(&host.admin, method, path).send().await.expect("answered");
        assert_eq!(answer.headers()["allow"], allow, "{path}");
        assert_eq!(problem(answer, 405).await.code, "method_not_allowed");
    }
    let head = host.with(&host.admin, Method::HEAD, "/api/v1/services").send().await.expect("answered");
    assert_eq!(head.status(), 200);
    refused(host.get("/ws/agent"), 403, "forbidden").await;
    refused(host.get("/ws/deployments/1"), 404, "unknown_deployment").await;
    host.stop().await;
}

#[tokio::test]
async fn wrong_bodies_are_problems() {
    let host = Host::start().await;
    let deep = "[".repeat(10_000);
    let post = |body: &str| {
        host.with(&host.admin, Method::POST, "/api/v1/deployments")
            .header("content-type", "application/json")
            .body(body.to_owned())
    };
    for bad in ["", "{", "nonsense", "{\"service\": NaN}", "\u{feff}{}", "{\"service\":\"hello\"} x"] {
        refused(post(bad), 400, "malformed_json").await;
    }
    for bad in [
        "null",
        "[]",
        "[\"hello\"]",
        &deep,
        "{}",
        "{\"service\": 1}",
        "{\"service\": \"hello\", \"privileged\": true}",
        "{\"service\": \"hello\", \"service\": \"hello\"}",
        "{\"service\": \"hello\", \"env\": {\"A\": 1}}",
        "{\"service\": \"hello\", \"git_credential\": {\"username\": \"u\", \"password\": \"\"}}",
        "{\"service\": \"hello\", \"git_credential\": {\"username\": \"u:v\", \"password\": \"p\"}}",
    ] {
        refused(post(bad), 422, "invalid_body").await;
    }
    for (body, code) in [
        (json!({ "service": "../../etc" }), "invalid_name"),
        (json!({ "service": "hello", "sandbox": "A" }), "invalid_name"),
        (json!({ "service": "hello", "git_ref": "--upload-pack=touch p" }), "invalid_branch"),
        (json!({ "service": "hello", "git_ref": "x\u{202E}y" }), "invalid_branch"),
        (json!({ "service": "hello", "env": { "LD_PRELOAD": "x" } }), "invalid_variable"),
        (json!({ "service": "hello", "notify": { "channel": "<!channel>" } }), "invalid_channel"),
        (json!({ "service": "hello", "notify": { "channel": "@here" } }), "invalid_channel"),
        (json!({ "service": "hello", "notify": { "channel": "x".repeat(10_000) } }), "invalid_channel"),
        (json!({ "service": "hello", "notify": { "channel": "" } }), "invalid_channel"),
        (json!({ "service": "hello", "notify": "#payments" }), "invalid_body"),
        (json!({ "service": "hello", "notify": {} }), "invalid_body"),
        (json!({ "service": "hello", "notify": { "channel": ["#payments"] } }), "invalid_body"),
        (json!({ "service": "hello", "notify": { "channel": "#payments", "text": "x" } }), "invalid_body"),
    ] {
        refused(post(&body.to_string()), 422, code).await;
    }
    let text = host.with(&host.admin, Method::POST, "/api/v1/deployments").body("{}");
    refused(text, 415, "unsupported_media_type").await;
    refused(post("{\"service\": \"helo\"}"), 404, "unknown_service").await;
    host.hello().await;
    let typo = refused(post("{\"service\": \"helo\"}"), 404, "unknown_service").await;
    assert_eq!(typo.did_you_mean.as_deref(), Some("hello"));
    host.stop().await;
}

#[tokio::test]
async fn what_was_sent_is_not_repeated() {
    let host = Host::start().await;
    for body in [
        json!({ "service": "hello", "git_credential": "CANARY" }),
        json!({ "service": "hello", "git_credential": { "username": "u", "password": ["CANARY"] } }),
        json!({ "service": "hello", "git_credential": { "username": "u", "passwort": "x", "password": "CANARY" } }),
        json!({ "service": "hello", "git_credential": { "username": 1, "password": "CANARY" } }),
        json!({ "service": "CANARY" }),
        json!({ "service": "hello", "env": { "CANARY!": "CANARY" } }),
        json!({ "service": "hello", "notify": { "channel": "CANARY!" } }),
    ] {
        let answer = host.post("/api/v1/deployments", &body).send().await.expect("answered");
        assert_eq!(answer.status(), 422, "{body}");
        let headers = format!("{:?}", answer.headers());
        let text = answer.text().await.expect("body");
        assert!(!text.contains("CANARY") && !headers.contains("CANARY"), "{text}");
    }
    for path in ["/api/v1/deployments?limit=CANARY", "/api/v1/deployments?canary+CANARY=1", "/api/v1/CANARY"]
    {
        let text = host.get(path).send().await.expect("answered").text().await.expect("body");
        assert!(!text.contains("CANARY"), "{text}");
    }
    host.stop().await;
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_before_it_is_read() {
    let host = Host::start().await;
    let addr = host.url.strip_prefix("http://").expect("http");
    let head = |length: &str| {
        format!(
            "POST /api/v1/deployments HTTP/1.1\r\nhost: {addr}\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\nconnection: close\r\n{length}\r\n\r\n",
            host.admin
        )
    };
    // Declared: refused without a byte of it.
    let mut socket = TcpStream::connect(addr).await.expect("connected");
    socket.write_all(head("content-length: 10485760").as_bytes()).await.expect("sent");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("read");
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("body_too_large"), "{answer}");
    // Not declared: refused when there is too much of it.
    let mut socket = TcpStream::connect(addr).await.expect("connected");
    socket.write_all(head("transfer-encoding: chunked").as_bytes()).await.expect("sent");
    let piece = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
    for _ in 0..17 {
        socket.write_all(&piece).await.expect("sent");
    }
    let mut start = [0; 12];
    socket.read_exact(&mut start).await.expect("read");
    assert_eq!(&start, b"HTTP/1.1 413");
    host.stop().await;
}

#[tokio::test]
async fn hostile_heads_do_not_harm() {
    let host = Host::start().await;
    let addr = host.url.strip_prefix("http://").expect("http");
    let long = "x".repeat(1024 * 1024);
    for head in [
        format!("GET / HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {long}\r\n\r\n"),
        "GET / HTTP/1.1\r\n\r\n\r\n".to_owned(),
        "nonsense\r\n\r\n".to_owned(),
        "GET /\0 HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "POST /api/v1/services HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n"
            .to_owned(),
    ] {
        let mut socket = TcpStream::connect(addr).await.expect("connected");
        // The server may hang up in the middle.
        drop(socket.write_all(head.as_bytes()).await);
        drop(socket.shutdown().await);
        let mut answer = Vec::new();
        drop(socket.read_to_end(&mut answer).await);
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.starts_with("HTTP/1.1 5"), "{answer}");
    }
    assert_eq!(host.get("/healthz").send().await.expect("answered").status(), 200);
    host.stop().await;
}

#[tokio::test]
async fn wrong_ids_and_queries_are_problems() {
    let host = Host::start().await;
    host.hello().await;
    for id in ["..%2f1", "1;drop", "%00", "x", "1.5", "-1", "99999999999999999999"] {
        refused(host.get(&format!("/api/v1/deployments/{id}")), 422, "invalid_id").await;
        refused(host.get(&format!("/api/v1/instances/{id}")), 422, "invalid_id").await;
    }
    refused(host.get("/api/v1/deployments/%ff"), 422, "invalid_name").await;
    for id in ["1", "18446744073709551615", "019a0000-0000-7000-8000-000000000000"] {
        refused(host.get(&format!("/api/v1/deployments/{id}")), 404, "unknown_deployment").await;
    }
    refused(host.get("/api/v1/instances/019a0000-0000-7000-8000-000000000000"), 404, "unknown_instance")
        .await;
    refused(host.get("/api/v1/sandboxes/nobody"), 404, "unknown_sandbox").await;
    refused(host.get("/api/v1/sandboxes/..%2f.."), 422, "invalid_name").await;
    let id = host.deploy().await.id;
    for (path, code) in [
        ("/api/v1/deployments?limit=0", "invalid_query"),
        ("/api/v1/deployments?limit=201", "invalid_query"),
        ("/api/v1/deployments?limit=-1", "invalid_query"),
        ("/api/v1/deployments?limit=1&limit=2", "invalid_query"),
        ("/api/v1/deployments?state=lost", "invalid_query"),
        ("/api/v1/deployments?service=A", "invalid_name"),
        ("/api/v1/deployments?cursor=x", "invalid_cursor"),
        ("/api/v1/deployments?page=1", "invalid_query"),
        ("/api/v1/instances?all=maybe", "invalid_query"),
        ("/api/v1/events?after=-1", "invalid_query"),
        ("/api/v1/events?after=18446744073709551615", "invalid_query"),
        ("/api/v1/audit?before=0", "invalid_query"),
        ("/api/v1/audit?before=9223372036854775808", "invalid_query"),
        (&format!("/api/v1/audit?who={}", "a".repeat(301)), "invalid_query"),
        ("/api/v1/audit/export?after=9223372036854775808", "invalid_query"),
        (&format!("/api/v1/repositories?q={}", "a".repeat(251)), "invalid_query"),
        (&format!("/api/v1/services/hello/branches?q={}", "a".repeat(251)), "invalid_query"),
    ] {
        refused(host.get(path), 422, code).await;
    }
    for query in ["wait=51", "wait=-1", "wait=x"] {
        refused(host.get(&format!("/api/v1/deployments/{id}?{query}")), 422, "invalid_query").await;
    }
    for query in
        ["from=0", "from=9223372036854775808", "limit=0", "limit=1001", "tail=0", "tail=1&from=1", "lines=1"]
    {
        refused(host.get(&format!("/api/v1/deployments/{id}/logs?{query}")), 422, "invalid_query").await;
    }
    let long = format!("q={}", "x".repeat(257));
    for query in [
        "",
        "q=",
        "q=a%0Ab",
        &long,
        "q=a&first=0",
        "q=a&from=0",
        "q=a&from=-1",
        "q=a&limit=0",
        "q=a&limit=1001",
        "q=a&direction=left",
        "q=a&step=cook",
        "q=a&stream=stdin",
        "q=a&match_case=1",
        "q=a&q=b",
        "q=a&regex=true",
    ] {
        refused(host.get(&format!("/api/v1/deployments/{id}/logs/search?{query}")), 422, "invalid_query")
            .await;
    }
    refused(host.get("/api/v1/deployments/99/logs/search?q=a"), 404, "unknown_deployment").await;
    let after = host.get("/api/v1/events").header("last-event-id", "x");
    refused(after, 422, "invalid_header").await;
    host.stop().await;
}

#[tokio::test]
async fn the_document_and_its_page_are_served() {
    let host = Host::start().await;
    let document: Value = ok(host.get("/api/v1/openapi.json").send().await.expect("answered"), 200).await;
    assert_eq!(document["openapi"], "3.1.0");
    let page = host.get("/docs/").send().await.expect("answered");
    assert_eq!(page.status(), 200);
    assert!(!page.text().await.expect("a page").contains("://"), "nothing from outside");
    let script =
        host.get("/docs/swagger-initializer.js").send().await.expect("answered").text().await.expect("text");
    assert!(script.contains("/api/v1/openapi.json"), "{script}");
    refused(
        host.post("/api/v1/services", &hello()).header("content-encoding", "gzip").body("x"),
        415,
        "unsupported_media_type",
    )
    .await;
    host.stop().await;
}
