//! What nobody honest calls a place or a target: names with the syntax of a router's configuration in them, targets that are no
//! service's, two with the same requests, more than there may be. Each is refused at the API, and nothing of it is kept.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::harness::{Host, ok, problem, refused};

const BAD: [&str; 14] =
    [";", "{", "}", "\"", "\n", "\r", "#", "$host", "\\", " ", "`", "'", "\0", "\u{202e}"];

/// As a segment of a path.
fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

/// Everything that a router's table is made from.
async fn kept(host: &Host) -> Value {
    let mut all = Vec::new();
    for path in ["services", "environments", "templates", "sandboxes", "locks", "deployments"] {
        all.push(
            ok::<Value>(host.get(&format!("/api/v1/{path}")).send().await.expect("answered"), 200).await,
        );
    }
    json!(all)
}

#[tokio::test]
async fn names_that_a_configuration_could_be_broken_with_are_refused() {
    let host = Host::start().await;
    host.shop().await;
    let put = host.put("/api/v1/sandboxes/qa", &json!({}));
    assert_eq!(put.send().await.expect("answered").status(), 201);
    let before = kept(&host).await;
    for bad in BAD {
        let name = format!("pay{bad}ments");
        let (host_name, prefix, in_path) = (format!("{name}.test"), format!("/{name}"), escaped(&name));
        let service = |more: Value| {
            let mut service = json!({ "name": "other", "repo": "/srv/git/x.git", "builder": { "type": "command", "run": ["./x"] } });
            for (field, value) in more.as_object().expect("an object") {
                service[field] = value.clone();
            }
            host.post("/api/v1/services", &service)
        };
        let environment = |more: Value| {
            let mut environment = json!({ "name": "other" });
            for (field, value) in more.as_object().expect("an object") {
                environment[field] = value.clone();
            }
            host.post("/api/v1/environments", &environment)
        };
        let of_service = |own: Value| environment(json!({ "services": { "payments": own } }));
        let sandbox = |body: Value| host.put("/api/v1/sandboxes/qa", &body);
        let lock = |body: Value| host.post("/api/v1/locks", &body);
        let batch = |body: Value| host.post("/api/v1/batches", &body);
        let at = |method: Method, path: String| host.with(&host.admin, method, &path).json(&json!({}));
        let mut requests: Vec<(&str, RequestBuilder)> = vec![
            ("a service's name", service(json!({ "name": name }))),
            ("a service's prefix", service(json!({ "path_prefix": prefix }))),
            ("an environment's name", environment(json!({ "name": name }))),
            ("its domain", environment(json!({ "domain": host_name }))),
            ("its router", environment(json!({ "router": name }))),
            ("its service", environment(json!({ "services": { &name: {} } }))),
            ("its variable", environment(json!({ "env": { &name: "x" } }))),
            ("its network", environment(json!({ "external_networks": [format!("10.0.0.0/8{bad}")] }))),
            ("its deployer", environment(json!({ "deployers": { "people": [name] } }))),
            ("a rule's prefix", of_service(json!({ "rule": { "type": "path", "prefix": prefix } }))),
            ("a rule's host", of_service(json!({ "rule": { "type": "host", "host": host_name } }))),
            ("a sandbox in the path", at(Method::PUT, format!("/api/v1/sandboxes/{in_path}"))),
            ("a sandbox's name", host.post("/api/v1/sandboxes", &json!({ "name": name }))),
            ("a sandbox's environment", sandbox(json!({ "environment": name }))),
            ("a sandbox's team", sandbox(json!({ "team": name }))),
            ("a sandbox's member", sandbox(json!({ "members": [name] }))),
            ("a sandbox's route", sandbox(json!({ "routes": { &name: { "type": "baseline" } } }))),
            (
                "who lends it",
                sandbox(json!({ "routes": { "payments": { "type": "borrowed", "sandbox": name } } })),
            ),
            ("a route in the path", at(Method::PUT, format!("/api/v1/sandboxes/qa/routes/{in_path}"))),
            ("a template", at(Method::PUT, format!("/api/v1/templates/{in_path}"))),
            ("a template's service", host.put("/api/v1/templates/x", &json!({ "services": { &name: {} } }))),
            ("a lock's environment", lock(json!({ "reason": "x", "environment": name }))),
            ("a lock's sandbox", lock(json!({ "reason": "x", "sandbox": name }))),
            ("a lock's service", lock(json!({ "reason": "x", "service": name }))),
            ("a batch's sandbox", batch(json!({ "sandbox": name, "services": [{ "service": "payments" }] }))),
            ("a batch's service", batch(json!({ "services": [{ "service": name }] }))),
            ("a batch's template", batch(json!({ "template": { "name": name } }))),
        ];
        // A URL's parser escapes or drops these before anybody sees them.
        if !["\n", "\r"].contains(&bad) {
            let url = |url: String| of_service(json!({ "baseline": url }));
            // A backslash is a slash to browsers and their URLs.
            if bad != "\\" {
                requests.push(("a baseline's host", url(format!("https://pay{bad}ments.test"))));
            }
            requests.push((
                "a service's own baseline",
                service(json!({ "baseline": format!("https://a.test/?x={bad}") })),
            ));
        }
        if [";", "$host", "#", "'"].contains(&bad) {
            let url = json!({ "baseline": format!("https://a.test/pay{bad}ments") });
            requests.push(("a baseline's path", of_service(url)));
        }
        for (what, request) in requests {
            let answer = request.send().await.expect("answered");
            let status = answer.status().as_u16();
            assert_eq!(status, 422, "{what} with {bad:?}: {}", answer.text().await.expect("a body"));
        }
        let named = refused(environment(json!({ "domain": host_name })), 422, "invalid_name").await;
        assert_eq!(named.detail.as_deref(), Some("domain: invalid host name"));
    }
    assert_eq!(kept(&host).await, before);
    host.stop().await;
}

#[tokio::test]
async fn targets_that_are_no_services_are_refused() {
    let host = Host::start().await;
    host.shop().await;
    host.staging().await;
    let all = json!({ "name": "wide", "services": { "payments": { "rule": { "type": "path", "prefix": "/p" } } },
        "external_networks": ["0.0.0.0/0", "::/0"] });
    assert_eq!(host.post("/api/v1/environments", &all).send().await.expect("answered").status(), 201);
    for (name, environment) in [("near", "staging"), ("far", "wide")] {
        let body = json!({ "environment": environment, "shared": false });
        let put = host.put(&format!("/api/v1/sandboxes/{name}"), &body);
        assert_eq!(put.send().await.expect("answered").status(), 201);
    }
    let before = kept(&host).await;
    let route = |sandbox: &str, address: &str| {
        let body = json!({ "target": { "type": "external", "address": address } });
        host.put(&format!("/api/v1/sandboxes/{sandbox}/routes/payments"), &body)
    };
    let never = [
        "127.0.0.1:8080",
        "127.8.8.8:8080",
        "0.0.0.0:8080",
        "0.1.2.3:8080",
        "169.254.169.254:80",
        "224.0.0.1:8080",
        "255.255.255.255:8080",
        "[::1]:8080",
        "[::]:8080",
        "[fe80::1]:8080",
        "[ff02::1]:8080",
        "[::ffff:127.0.0.1]:8080",
        "[::ffff:169.254.169.254]:80",
        "10.20.0.1:0",
        "10.20.0.1:22",
        "10.20.0.1:2375",
        "10.20.0.1:2376",
        "10.20.0.1:6443",
        "10.20.0.1:10250",
        "10.20.0.1:65535",
    ];
    for address in never {
        for sandbox in ["near", "far"] {
            let problem = refused(route(sandbox, address), 422, "target_refused").await;
            assert!(problem.title.contains(address), "{problem:?}");
        }
    }
    let outside = refused(route("near", "10.21.0.1:8080"), 422, "target_refused").await;
    assert!(outside.title.contains("10.20.0.0/16"), "{outside:?}");
    let no_address = [
        "10.20.0.1:65536",
        "10.20.0.1:-1",
        "10.20.0.1",
        "10.20.0.1:80/x",
        "10.20.0.1:80;return 200",
        "010.020.000.001:80",
        "0x7f000001:80",
        "2130706433:80",
        "unix:/var/run/docker.sock",
        "unix:/run/x.sock:80",
        "localhost:8080",
        "metadata.google.internal:80",
        "payments.ocp.test:443",
        "http://10.20.0.1:8080",
        "[fe80::1%25eth0]:80 ",
        "$host:80",
        "",
    ];
    for address in no_address {
        let problem = refused(route("near", address), 422, "invalid_body").await;
        let detail = problem.detail.expect("a detail");
        assert!(detail.contains("an address and a port, such as 10.20.3.4:8080"), "{address}: {detail}");
    }
    for target in [
        json!("10.20.0.1:80"),
        json!({ "type": "unix", "path": "/x" }),
        json!({ "type": "external" }),
        json!({}),
        json!(1),
    ] {
        let body = json!({ "target": target });
        refused(host.put("/api/v1/sandboxes/near/routes/payments", &body), 422, "invalid_body").await;
    }
    // A network is no name either, and what is external is nobody's in a shared sandbox or a template.
    for network in ["localhost", "10.20.0.0/33", "10.20.0.0", "unix:/x", "::/129"] {
        let body = json!({ "name": "x", "external_networks": [network] });
        let problem = refused(host.post("/api/v1/environments", &body), 422, "invalid_body").await;
        assert!(problem.detail.expect("a detail").contains("such as 10.20.0.0/16"), "{network}");
    }
    for baseline in [
        "ftp://x.test",
        "unix:/x",
        "http://user:hunter2@x.test",
        "https://x.test:0",
        "https://x.test:65536",
        "x.test",
        "//x.test",
        "file:///etc/passwd",
    ] {
        let body = json!({ "name": "x", "services": { "payments": { "baseline": baseline } } });
        let answer = host.post("/api/v1/environments", &body).send().await.expect("answered");
        let said = format!("{:?}", problem(answer, 422).await);
        assert!(!said.contains("hunter2"), "{said}");
    }
    assert_eq!(kept(&host).await, before);
    // And one that may be.
    for (sandbox, address) in [("near", "10.20.3.4:8080"), ("far", "[2001:db8::7]:8080")] {
        assert_eq!(route(sandbox, address).send().await.expect("answered").status(), 200);
    }
    refused(host.put("/api/v1/sandboxes/near", &json!({ "shared": true })), 422, "target_refused").await;
    host.stop().await;
}

#[tokio::test]
async fn two_that_would_get_the_same_requests_are_both_named() {
    let host = Host::start().await;
    host.shop().await;
    host.staging().await;
    let before = kept(&host).await;
    let path = |prefix: &str| json!({ "rule": { "type": "path", "prefix": prefix } });
    let of_host = |host: &str| json!({ "rule": { "type": "host", "host": host } });
    let save = |body: &Value| {
        host.put(&format!("/api/v1/environments/{}", body["name"].as_str().expect("a name")), body)
    };
    for (body, names) in [
        (
            json!({ "name": "two", "services": { "payments": path("/x"), "ledger": path("/x") } }),
            ["payments", "ledger"],
        ),
        (
            json!({ "name": "two", "services": { "payments": path("/"), "ledger": path("/") } }),
            ["payments", "ledger"],
        ),
        (
            json!({ "name": "two", "services": { "payments": path("/gateway"), "gateway": {} } }),
            ["payments", "gateway"],
        ),
        (
            json!({ "name": "two", "services": { "payments": of_host("a.test"), "ledger": of_host("a.test") } }),
            ["payments", "ledger"],
        ),
        (
            json!({ "name": "two", "services": { "gateway": of_host("ledger.shop.test") } }),
            ["gateway of two", "ledger of staging"],
        ),
        (json!({ "name": "two", "domain": "sandboxes.shop.test" }), ["two", "staging"]),
        (json!({ "name": "two", "domain": "ledger.shop.test" }), ["two", "ledger of staging"]),
        (
            json!({ "name": "two", "services": { "gateway": of_host("sandboxes.shop.test") } }),
            ["gateway of two", "staging"],
        ),
    ] {
        let problem = refused(save(&body), 409, "route_conflict").await;
        let detail = problem.detail.clone().expect("a detail");
        for name in names {
            assert!(detail.contains(name) && problem.title.to_lowercase().contains(name), "{problem:?}");
        }
    }
    // A service that is changed later may not get another's requests either.
    let service = json!({ "name": "gateway", "repo": "/srv/git/gateway.git", "path_prefix": "/payments",
        "builder": { "type": "command", "run": ["./x"] } });
    let answer = host.put("/api/v1/services/gateway", &service).send().await.expect("answered");
    assert_eq!(answer.status(), 409, "{}", answer.text().await.expect("a body"));
    assert_eq!(kept(&host).await, before);
    // The longer of two prefixes is more exact, and a host is no path.
    let nested = json!({ "name": "two", "services": { "payments": path("/"), "ledger": path("/api"), "gateway": path("/api/v1") } });
    assert_eq!(save(&nested).send().await.expect("answered").status(), 201);
    host.stop().await;
}

#[tokio::test]
async fn there_is_a_most_of_everything() {
    let host = Host::start().await;
    host.shop().await;
    let put = host.put("/api/v1/sandboxes/qa", &json!({}));
    assert_eq!(put.send().await.expect("answered").status(), 201);
    let map = |count: usize, value: Value| -> Value {
        let names = (0..count).map(|n| (format!("s{n}"), value.clone()));
        Value::Object(names.collect())
    };
    let variables =
        |count: usize| -> Value { Value::Object((0..count).map(|n| (format!("V{n}"), json!(""))).collect()) };
    let list = |count: usize, text: &str| -> Value {
        (0..count).map(|n| json!(text.replace('#', &n.to_string()))).collect()
    };
    let environment = |field: &str, value: Value| {
        let mut body = json!({ "name": "x" });
        body[field] = value;
        host.post("/api/v1/environments", &body)
    };
    let template = |field: &str, value: Value| host.put("/api/v1/templates/x", &json!({ field: value }));
    let sandbox = |field: &str, value: Value| host.put("/api/v1/sandboxes/qa", &json!({ field: value }));
    let renew = |hours: i64| host.post("/api/v1/sandboxes/qa/renew", &json!({ "hours": hours }));
    let long = "x".repeat(2001);
    let cases = [
        ("services of an environment", environment("services", map(501, json!({})))),
        ("variables of an environment", environment("env", variables(201))),
        ("networks", environment("external_networks", list(51, "10.0.#.0/24"))),
        ("deployers", environment("deployers", json!({ "people": list(1001, "p#") }))),
        ("lifetime 0", environment("default_lifetime_hours", json!(0))),
        ("lifetime of more than a year", environment("max_lifetime_hours", json!(8761))),
        ("default above the most", environment("default_lifetime_hours", json!(721))),
        ("a quota of nothing", environment("quota", json!({ "instances": 0 }))),
        ("a quota of too much", environment("quota", json!({ "memory_mib": 100_000_001 }))),
        ("a description", environment("description", json!(long))),
        ("a description with a control character", environment("description", json!("a\u{1b}[31m"))),
        ("services of a template", template("services", map(51, json!({})))),
        ("routes of a template", template("routes", map(501, json!({ "type": "baseline" })))),
        ("variables of a template", template("env", variables(201))),
        ("lifetime of a template", template("lifetime_hours", json!(8761))),
        ("members", sandbox("members", list(201, "p#"))),
        ("notes", sandbox("notes", json!(long))),
        ("notes with a control character", sandbox("notes", json!("a\0"))),
        ("variables of a sandbox", sandbox("env", variables(201))),
        ("a value of a variable", sandbox("env", json!({ "A": "x".repeat(32 * 1024 + 1) }))),
        ("no lifetime", sandbox("lifetime_hours", json!(0))),
        ("a negative lifetime", sandbox("lifetime_hours", json!(-1))),
        ("a lifetime of 4294967296 hours", sandbox("lifetime_hours", json!(4_294_967_296_u64))),
        ("an end that is none", sandbox("expires_at", json!("tomorrow"))),
        ("renewed by nothing", renew(0)),
        ("renewed by too much", renew(721)),
        ("renewed by less than nothing", renew(-5)),
    ];
    for (what, request) in cases {
        let answer = request.send().await.expect("answered");
        let status = answer.status();
        assert_eq!(status, 422, "{what}: {}", answer.text().await.expect("a body"));
    }
    let large = json!({ "notes": "x".repeat(1024 * 1024) });
    refused(host.put("/api/v1/sandboxes/qa", &large), 413, "body_too_large").await;
    host.stop().await;
}
