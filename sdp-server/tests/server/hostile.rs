//! Bodies, heads, ids and queries that nobody honest sends: each is refused with a 4xx, none is a fault of the server's, and the
//! server is fine afterwards.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::MissedTickBehavior;

use crate::harness::{Host, hello, ok, problem};

/// It answers, it can work, and it has not failed once.
async fn is_fine(host: &Host) {
    assert_eq!(host.get("/readyz").send().await.expect("answered").status(), 200);
    let metrics = host.get("/metrics").send().await.expect("answered").text().await.expect("text");
    let failed: Vec<&str> = metrics.lines().filter(|line| line.contains("status=\"5xx\"")).collect();
    assert!(failed.is_empty(), "{failed:?}");
}

/// What it is, headers, a body, the status of the answer.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str, u16);

#[tokio::test]
async fn hostile_bodies_are_refused_quickly() {
    let host = Host::start().await;
    host.hello().await;
    let nested = |open: &str, close: &str| open.repeat(10_000) + "1" + &close.repeat(10_000);
    let deep_object = nested("{\"service\":", "}");
    let deep_list = format!("{{\"service\": {}}}", nested("[", "]"));
    let deep_variable = format!("{{\"service\": \"hello\", \"env\": {{\"A\": {}}}}}", nested("[", "]"));
    let many = (0..50_000).map(|n| format!("\"V{n}\":\"\"")).collect::<Vec<_>>().join(",");
    let many = format!("{{\"service\": \"hello\", \"env\": {{{many}}}}}");
    let long_name = format!("{{\"service\": \"{}\"}}", "a".repeat(1_000_000));
    let json = ("content-type", "application/json");
    let (gzip, deflate) = (("content-encoding", "gzip"), ("content-encoding", "deflate"));
    let cases: [Case<'_>; 25] = [
        ("deep objects", &[json], &deep_object, 422),
        ("deep lists", &[json], &deep_list, 422),
        ("deep in a variable", &[json], &deep_variable, 422),
        ("fifty thousand variables", &[json], &many, 422),
        ("a long name", &[json], &long_name, 422),
        ("the same key twice", &[json], r#"{"service":"hello","service":"hello"}"#, 422),
        ("the same key twice, escaped", &[json], r#"{"service":"hello","\u0073ervice":"hello"}"#, 422),
        ("no number", &[json], r#"{"service": NaN}"#, 400),
        // 422 where the tests' build reads numbers of any size (a checker of theirs asks for it).
        ("infinity", &[json], r#"{"service": 1e999}"#, if reads_any_number() { 422 } else { 400 }),
        ("more than 64 bits", &[json], r#"{"service": 18446744073709551616}"#, 422),
        ("an unknown field", &[json], r#"{"service":"hello","privileged":true}"#, 422),
        ("another type", &[json], r#"{"service":["hello"]}"#, 422),
        ("half a pair of surrogates", &[json], r#"{"service":"\ud800"}"#, 400),
        ("a control character", &[json], "{\"service\":\"hel\0lo\"}", 400),
        ("two values", &[json], r#"{"service":"hello"}{"service":"hello"}"#, 400),
        ("nothing", &[json], "", 400),
        ("no content type", &[], r#"{"service":"hello"}"#, 415),
        ("text", &[("content-type", "text/plain")], r#"{"service":"hello"}"#, 415),
        ("a form", &[("content-type", "application/x-www-form-urlencoded")], "service=hello", 415),
        ("parts", &[("content-type", "multipart/form-data; boundary=x")], "--x--", 415),
        ("almost", &[("content-type", "application/jsonp")], r#"{"service":"hello"}"#, 415),
        ("packed", &[json, gzip], "\u{1f}", 415),
        ("packed otherwise", &[json, deflate], "x", 415),
        ("said to be packed, and is not", &[json, gzip], r#"{"service":"hello"}"#, 415),
        ("packed twice", &[json, ("content-encoding", "identity"), gzip], "x", 415),
    ];
    for (name, headers, body, status) in cases {
        let mut request = host.with(&host.admin, Method::POST, "/api/v1/deployments").body(body.to_owned());
        for (header, value) in headers {
            request = request.header(*header, *value);
        }
        let begun = Instant::now();
        let answer = request.send().await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(answer.status(), status, "{name}");
        problem(answer, status).await;
        // A debug build on a busy machine; what is quadratic takes minutes.
        assert!(begun.elapsed() < Duration::from_secs(5), "{name}: {:?}", begun.elapsed());
    }
    let plain = host.post("/api/v1/services", &hello()).header("content-encoding", "identity");
    assert_eq!(plain.send().await.expect("answered").status(), 409, "`identity` is as good as nothing");
    is_fine(&host).await;
    host.stop().await;
}

#[tokio::test]
async fn a_body_that_trickles_in_is_not_waited_for() {
    let host = Host::start_with(|config| config.limits.body = Duration::from_secs(1)).await;
    let address = host.url.strip_prefix("http://").expect("http");
    let head = format!(
        "POST /api/v1/deployments HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: 1000\r\n\r\n",
        host.admin
    );
    let socket = TcpStream::connect(address).await.expect("connected");
    let (mut reader, mut writer) = socket.into_split();
    writer.write_all(head.as_bytes()).await.expect("sent");
    let begun = Instant::now();
    let mut bytes = tokio::time::interval(Duration::from_millis(100));
    bytes.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        tokio::select! {
            read = reader.read(&mut piece) => match read {
                Ok(0) | Err(_) => break,
                Ok(read) => answer.extend_from_slice(&piece[..read]),
            },
            // It may be closed already.
            _ = bytes.tick() => drop(writer.write_all(b" ").await),
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("body_timeout"), "{answer}");
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(10), "{took:?}");
    is_fine(&host).await;
    host.stop().await;
}

#[tokio::test]
async fn heads_that_are_too_large_or_bent_are_refused() {
    let host = Host::start().await;
    let address = host.url.strip_prefix("http://").expect("http");
    let admin = &host.admin;
    let long = "x".repeat(1024 * 1024);
    let path = "x".repeat(64 * 1024);
    let many: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    let cases: [(&str, String, &[u16]); 9] = [
        ("a header of a MiB", format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx: {long}\r\n\r\n"), &[431]),
        (
            "a token of a MiB",
            format!("GET /api/v1/services HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {long}\r\n\r\n"),
            &[431],
        ),
        ("two hundred headers", format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{many}\r\n"), &[431]),
        ("an address of 64 KiB", format!("GET /{path} HTTP/1.1\r\nhost: x\r\n\r\n"), &[414, 431]),
        (
            "two tokens",
            format!(
                "GET /api/v1/services HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {admin}\r\n\
                 authorization: Bearer {admin}\r\nconnection: close\r\n\r\n"
            ),
            &[401],
        ),
        (
            "a token in the address",
            format!("GET /api/v1/services?token={admin} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
            &[401],
        ),
        (
            "two lengths",
            "POST /sign-out HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n".to_owned(),
            &[400],
        ),
        ("a header folded", "GET /healthz HTTP/1.1\r\nhost: x\r\nx: a\r\n b\r\n\r\n".to_owned(), &[400]),
        ("NUL in a header", "GET /healthz HTTP/1.1\r\nhost: x\r\nx: a\0b\r\n\r\n".to_owned(), &[400]),
    ];
    for (name, head, statuses) in cases {
        let mut socket = TcpStream::connect(address).await.expect("connected");
        let mut answer = Vec::new();
        let (mut reader, mut writer) = socket.split();
        // The server answers, and hangs up, before it has read all of it.
        let sending = async { drop(writer.write_all(head.as_bytes()).await) };
        let reading = async { drop(reader.read_to_end(&mut answer).await) };
        tokio::join!(sending, reading);
        let answer = String::from_utf8_lossy(&answer);
        let status = answer.get(9..12).and_then(|status| status.parse::<u16>().ok());
        // What is reset before it was read is lost: nothing at all is as good an answer to a MiB.
        let is_lost = answer.is_empty() && head.len() > 64 * 1024;
        assert!(is_lost || status.is_some_and(|status| statuses.contains(&status)), "{name}: {answer:.200}");
    }
    is_fine(&host).await;
    host.stop().await;
}

/// An operation of the document, with the names of those of its query's parameters that are numbers.
struct Operation {
    method: Method,
    path: String,
    numbers: Vec<String>,
}

fn operations(document: &Value) -> Vec<Operation> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("item") {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let numbers = parameters
                .filter(|one| one["in"] == "query" && one["schema"].to_string().contains("\"integer\""))
                .map(|one| one["name"].as_str().expect("a name").to_owned());
            all.push(Operation {
                method: method.to_uppercase().parse().expect("a method"),
                path: path.clone(),
                numbers: numbers.collect(),
            });
        }
    }
    all
}

#[tokio::test]
async fn no_id_and_no_number_in_any_address_is_a_fault() {
    let host = Host::start().await;
    host.hello().await;
    let created = host.deploy().await;
    let document: Value = ok(host.get("/api/v1/openapi.json").send().await.expect("answered"), 200).await;
    let long = "9".repeat(10_000);
    let ids = [
        "..%2f1",
        "1;drop",
        "%00",
        "%ff",
        "%0d%0ax:y",
        "-1",
        "1%27--",
        "%E2%80%AE",
        "18446744073709551616",
        &long,
    ];
    let (mut asked, mut numbers) = (0, 0);
    for Operation { method, path, numbers: queries } in operations(&document) {
        if let Some((before, rest)) = path.split_once('{') {
            let after = rest.split_once('}').expect("closed").1;
            for id in ids {
                let address = format!("{before}{id}{after}");
                let answer = host.with(&host.admin, method.clone(), &address).send().await.expect("answered");
                let status = answer.status().as_u16();
                assert!((400..500).contains(&status), "{method} {address:.100}: {status}");
                asked += 1;
            }
        }
        let whole = path.replace("{deployment}", &created.number.to_string()).replace("{service}", "hello");
        for name in &queries {
            for number in ["-1", "x", "1.5", "18446744073709551616", "%00", ""] {
                let answer = host.with(&host.admin, method.clone(), &format!("{whole}?{name}={number}"));
                let answer = answer.send().await.expect("answered");
                let status = answer.status().as_u16();
                assert!((400..500).contains(&status), "{method} {path}?{name}={number}: {status}");
                numbers += 1;
            }
        }
    }
    assert!(asked > 100 && numbers > 30, "{asked} {numbers}");
    is_fine(&host).await;
    host.stop().await;
}

/// Whether JSON is read here as in no program: see `arbitrary_precision` of `serde_json`.
fn reads_any_number() -> bool {
    serde_json::from_str::<serde_json::Value>("1e999").is_ok()
}
