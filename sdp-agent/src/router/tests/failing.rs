//! Services that break, clients that cheat, limits that are reached.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// Answers the first request of its first connection, then closes that connection at the next one without an answer;
/// answers every request of later connections.
async fn closes_a_used_connection(seen: Arc<AtomicUsize>) -> Backend {
    let connections = shared(AtomicUsize::new(0));
    Backend::raw(move |mut stream| {
        let (seen, connection) = (seen.clone(), connections.fetch_add(1, Ordering::SeqCst));
        async move {
            for n in 0.. {
                if read_head(&mut stream).await.is_empty() {
                    return;
                }
                seen.fetch_add(1, Ordering::SeqCst);
                if connection == 0 && n == 1 {
                    return;
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_request_that_meets_a_dying_pooled_connection_is_sent_again_once() {
    let seen = shared(AtomicUsize::new(0));
    let backend = closes_a_used_connection(seen.clone()).await;
    let (world, _) = World::of_alice(backend.address);
    assert_eq!(world.get("/~alice/hello/").await.text, "ok");
    assert_eq!(world.get("/~alice/hello/").await.text, "ok");
    assert_eq!(seen.load(Ordering::SeqCst), 3);
    world.stop().await;
}

#[tokio::test]
async fn a_request_that_may_have_had_an_effect_is_not_sent_again() {
    let seen = shared(AtomicUsize::new(0));
    let backend = closes_a_used_connection(seen.clone()).await;
    let (world, _) = World::of_alice(backend.address);
    assert_eq!(world.get("/~alice/hello/").await.text, "ok");
    let answer = world.send(world.request(Method::POST, "/~alice/hello/", &[], "")).await;
    assert_eq!((answer.status, answer.header("sdp-error")), (StatusCode::BAD_GATEWAY, "no_answer"));
    assert!(
        answer.text.starts_with("hello in the sandbox alice (commit 01234567) gave no answer"),
        "{}",
        answer.text
    );
    assert_eq!(seen.load(Ordering::SeqCst), 2);
    world.stop().await;
}

#[tokio::test]
async fn an_instance_that_always_breaks_is_not_asked_twice() {
    let seen = shared(AtomicUsize::new(0));
    let backend = {
        let seen = seen.clone();
        Backend::raw(move |mut stream| {
            let seen = seen.clone();
            async move {
                read_head(&mut stream).await;
                seen.fetch_add(1, Ordering::SeqCst);
            }
        })
        .await
    };
    let (world, _) = World::of_alice(backend.address);
    assert_eq!(world.get("/~alice/hello/").await.status, StatusCode::BAD_GATEWAY);
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    world.stop().await;
}

#[tokio::test]
async fn an_instance_that_is_gone_is_named() {
    let gone = Backend::named("gone").await.address;
    let (world, _) = World::of_alice(gone);
    let answer = world.get("/~alice/hello/").await;
    assert_eq!((answer.status, answer.header("sdp-error")), (StatusCode::BAD_GATEWAY, "unreachable"));
    insta::assert_snapshot!(answer.text.replace(&gone.to_string(), "GONE"), @r"
    hello in the sandbox alice (commit 01234567) cannot be reached: connection refused.
    See how it is: /sdp status alice
    (sdp router: unreachable)
    ");
    world.stop().await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_broken_for_the_client_too() {
    let backend = Backend::raw(|mut stream| async move {
        read_head(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n")
            .await
            .unwrap();
    })
    .await;
    let (world, _) = World::of_alice(backend.address);
    let response =
        soon(world.client.request(world.request(Method::GET, "/~alice/hello/", &[], ""))).await.unwrap();
    assert!(soon(response.into_body().collect()).await.is_err());
    world.stop().await;
}

#[tokio::test]
async fn a_baseline_that_does_not_answer_the_connection_is_given_up() {
    // Accepts, and never says a word of TLS.
    let backend = Backend::raw(|stream| async move {
        let _held = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let mut config = RouterConfig::new(([127, 0, 0, 1], 0).into());
    config.limits.baseline_connect_timeout = Duration::from_millis(100);
    let url = format!("https://localhost:{}", backend.address.port());
    let world = World::with(config, Routes::default().service("hello", Some(&url)));
    let answer = world.get("/hello/").await;
    assert_eq!((answer.status, answer.header("sdp-error")), (StatusCode::GATEWAY_TIMEOUT, "connect_timeout"));
    assert!(answer.text.starts_with("The baseline of hello cannot be reached: no connection within 100ms."));
    world.stop().await;
}

#[tokio::test]
async fn a_request_with_two_lengths_cannot_smuggle_another() {
    let seen = shared(std::sync::Mutex::new(Vec::new()));
    let backend = {
        let seen = seen.clone();
        Backend::start(move |request| {
            let seen = seen.clone();
            async move {
                let told = told("hello", &request);
                let sent = request.into_body().collect().await.unwrap().to_bytes();
                seen.lock().unwrap().push((told.lines().next().unwrap().to_owned(), sent.clone()));
                Response::new(body(told))
            }
        })
        .await
    };
    let (world, _) = World::of_alice(backend.address);
    let smuggled = "GET /admin HTTP/1.1\r\nhost: x\r\n\r\n";
    for head in [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        "content-length: 5\r\ncontent-length: 50\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding : chunked\r\n",
        "content-length: +5\r\n",
        "content-length: 5\r\n folded: x\r\n",
    ] {
        let text = format!(
            "POST /~alice/hello/ HTTP/1.1\r\nhost: x\r\n{head}connection: close\r\n\r\n0\r\n\r\n{smuggled}"
        );
        let answer = world.raw(&text).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{head}: {answer}");
        for (line, sent) in seen.lock().unwrap().drain(..) {
            assert_eq!(line, "hello POST /", "{head}");
            assert!(sent.is_empty(), "{head}");
            assert!(!answer.contains("content-length: 5\n"), "{head}: {answer}");
        }
    }
    world.stop().await;
}

#[tokio::test]
async fn requests_above_the_limits_are_refused() {
    let backend = Backend::named("hello").await;
    let mut config = RouterConfig::new(([127, 0, 0, 1], 0).into());
    config.limits.header_bytes = 8192;
    config.limits.uri_bytes = 1000;
    let routes = Routes::default().service("hello", None);
    let world = World::with(config, routes.instance("alice", "hello", InstanceId::new(), backend.address));
    let ask = |path: &str, header: &str| {
        format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}\r\n")
    };
    let long = "y".repeat(2000);
    for (request, status) in [
        (ask("/~alice/hello/", ""), "200 OK"),
        (ask(&format!("/~alice/hello/{long}"), ""), "414 URI Too Long"),
        (ask("/~alice/hello/", &format!("x: {}\r\n", long.repeat(3))), "200 OK"),
        (ask("/~alice/hello/", &format!("x: {}\r\n", long.repeat(5))), "431 Request Header Fields Too Large"),
        (ask("/~alice/hello/", &"x: y\r\n".repeat(200)), "431 Request Header Fields Too Large"),
        ("CONNECT x:443 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".into(), "405 Method Not Allowed"),
        ("TRACE / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".into(), "405 Method Not Allowed"),
        ("OPTIONS * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".into(), "400 Bad Request"),
    ] {
        let answer = world.raw(&request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{status}: {answer}");
    }
    world.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_finish_its_headers_is_left() {
    let mut config = RouterConfig::new(([127, 0, 0, 1], 0).into());
    config.limits.header_read_timeout = Duration::from_millis(100);
    let world = World::with(config, Routes::default());
    let answer = world.raw("GET / HTTP/1.1\r\nhost: x\r\nx-slow:").await;
    assert_eq!(answer, "");
    world.stop().await;
}

#[tokio::test]
async fn connections_above_the_limit_wait_for_a_place() {
    let mut config = RouterConfig::new(([127, 0, 0, 1], 0).into());
    config.limits.connections = 1;
    let world = World::with(config, Routes::default());
    let mut first = world.connect().await;
    first.write_all(b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(soon(read_head(&mut first)).await.starts_with("HTTP/1.1 404"));
    let mut second = world.connect().await;
    second.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    // The first is asked again and again; the second has no answer all the while.
    for _ in 0..50 {
        first.write_all(b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert!(soon(read_head(&mut first)).await.starts_with("HTTP/1.1 404"));
    }
    assert_eq!(second.try_read(&mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    drop(first);
    assert!(soon(read_head(&mut second)).await.starts_with("HTTP/1.1 404"));
    drop(second);
    world.stop().await;
}
