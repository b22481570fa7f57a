//! Who asks too often is told so, and nobody else notices.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use reqwest::{Method, RequestBuilder};
use sdp_core::api::{Problem, TokenKind, ViewerFrame};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::{Host, hello, ok, problem};
use crate::sockets::{bearer, connect, seen};

async fn status(request: RequestBuilder) -> u16 {
    request.send().await.expect("answered").status().as_u16()
}

/// The problem, and after how many seconds to try again.
async fn too_often(request: RequestBuilder) -> (Problem, u64) {
    let answer = request.send().await.expect("answered");
    let wait = answer.headers().get("retry-after").expect("when to come again").to_str().expect("text");
    let wait = wait.parse().expect("whole seconds");
    let problem = problem(answer, 429).await;
    assert_eq!(problem.code, "too_many_requests");
    assert!(wait >= 1 && problem.hint.is_some(), "{problem:?}");
    (problem, wait)
}

async fn refusals(host: &Host) -> f64 {
    let text = host.get("/metrics").send().await.expect("answered").text().await.expect("text");
    let line =
        text.lines().find(|line| line.starts_with("sdp_auth_refused_total{code=\"too_many_requests\"}"));
    line.and_then(|line| line.rsplit_once(' ')?.1.parse().ok()).expect("counted")
}

#[tokio::test]
async fn each_token_and_person_has_a_limit_of_their_own() {
    let host = Host::start_with(|config| {
        config.limits.requests_per_minute = 6;
        config.limits.writes_per_minute = 3;
    })
    .await;
    let ci = host.token(TokenKind::Admin, "ci").await;
    let bot = host.token(TokenKind::Bot, "chat").await;
    let read = |token: &str| host.with(token, Method::GET, "/api/v1/services");
    for _ in 0..6 {
        assert_eq!(status(read(&ci)).await, 200);
    }
    let (refused, wait) = too_often(read(&ci)).await;
    assert!(wait <= 10, "{wait}");
    assert_eq!(refused.detail.as_deref(), Some("at most 6 requests a minute"));
    // A person is shown a page.
    let page = host.with(&ci, Method::GET, "/").header("accept", "text/html").send().await.expect("answered");
    assert_eq!((page.status().as_u16(), page.headers().contains_key("retry-after")), (429, true));
    assert!(page.text().await.expect("a page").contains("You ask too often."));
    // The bot: each person as much, itself ten times.
    for _ in 0..6 {
        assert_eq!(status(read(&bot).header("sdp-on-behalf-of", "alice")).await, 200);
    }
    too_often(read(&bot).header("sdp-on-behalf-of", "alice")).await;
    assert_eq!(status(read(&bot).header("sdp-on-behalf-of", "bob")).await, 200);
    for _ in 0..20 {
        assert_eq!(status(read(&bot)).await, 200);
    }
    // Health is for everybody, however often.
    for _ in 0..20 {
        assert_eq!(status(host.bare(Method::GET, "/healthz")).await, 200);
    }
    host.stop().await;
}

#[tokio::test]
async fn writes_have_a_smaller_limit_and_what_was_refused_was_not_done() {
    let host = Host::start_with(|config| config.limits.writes_per_minute = 3).await;
    let save = |name: &str| {
        let mut service = hello();
        service["name"] = json!(name);
        host.post("/api/v1/services", &service)
    };
    for name in ["one", "two", "three"] {
        assert_eq!(status(save(name)).await, 201);
    }
    let (refused, wait) = too_often(save("four")).await;
    assert_eq!(refused.title, "You change things too often");
    assert!(wait <= 20, "{wait}");
    assert_eq!(status(host.get("/api/v1/services/four")).await, 404, "reading goes on");
    assert!(refusals(&host).await >= 1.0);
    host.stop().await;
}

#[tokio::test]
async fn wrong_tokens_are_counted_by_address_and_right_ones_pass_all_the_same() {
    let host = Host::start_with(|config| {
        config.limits.refused_per_minute = 5;
        config.proxy.trusted = vec!["127.0.0.1/32".parse().expect("a network")];
    })
    .await;
    let guess =
        |from: &str| host.with("sdp_wrong", Method::GET, "/api/v1/services").header("x-forwarded-for", from);
    for _ in 0..5 {
        assert_eq!(status(guess("203.0.113.9")).await, 401);
    }
    too_often(guess("203.0.113.9")).await;
    too_often(guess("198.51.100.7, 203.0.113.9")).await;
    assert_eq!(status(guess("198.51.100.7")).await, 401, "another address");
    assert_eq!(status(host.get("/api/v1/services").header("x-forwarded-for", "203.0.113.9")).await, 200);
    for _ in 0..10 {
        let nothing = host.bare(Method::GET, "/api/v1/services").header("x-forwarded-for", "203.0.113.9");
        assert_eq!(status(nothing).await, 401, "who presents nothing guesses nothing");
    }
    let old = host.bare(Method::GET, "/api/v1/services").header("cookie", "sdp=sdps_old");
    too_often(old.header("x-forwarded-for", "203.0.113.9")).await;
    host.stop().await;
}

#[tokio::test]
async fn the_word_of_somebody_who_is_no_proxy_does_not_count() {
    let host = Host::start_with(|config| config.limits.refused_per_minute = 5).await;
    let guess = |from: usize| {
        let guess = host.with("sdp_wrong", Method::GET, "/api/v1/services");
        guess.header("x-forwarded-for", format!("203.0.113.{from}"))
    };
    for from in 0..5 {
        assert_eq!(status(guess(from)).await, 401);
    }
    too_often(guess(99)).await;
    host.stop().await;
}

#[tokio::test]
async fn viewers_and_feeds_have_a_limit_and_give_their_places_back() {
    let host = Host::start_with(|config| config.limits.sockets_per_principal = 3).await;
    host.hello().await;
    let created = host.deploy().await;
    let path = format!("/ws/deployments/{}", created.number);
    let ci = host.token(TokenKind::Admin, "ci").await;
    let (admin, other) = (bearer(&host.admin), bearer(&ci));
    let mut viewers = Vec::new();
    for _ in 0..2 {
        let mut viewer = connect(&host, &path, &[("authorization", &admin)]).await.expect("connected");
        assert!(matches!(seen(&mut viewer).await, Some(ViewerFrame::Deployment { .. })));
        viewers.push(viewer);
    }
    let feed = host.get("/api/v1/events?after=0").send().await.expect("answered");
    assert_eq!(feed.status(), 200);
    assert_eq!(connect(&host, &path, &[("authorization", &admin)]).await.expect_err("refused"), 429);
    too_often(host.get("/api/v1/events")).await;
    connect(&host, &path, &[("authorization", &other)]).await.expect("somebody else has places");
    assert_eq!(status(host.get("/api/v1/services")).await, 200, "and requests are answered");
    drop((viewers, feed));
    // The server finds out that they have gone, and that is all it needs.
    let begun = Instant::now();
    loop {
        match connect(&host, &path, &[("authorization", &admin)]).await {
            Ok(_) => break,
            Err(429) => assert!(begun.elapsed() < Duration::from_secs(20), "places come back"),
            Err(other) => panic!("{other}"),
        }
    }
    host.stop().await;
}

#[tokio::test]
async fn web_sockets_count_among_the_connections_and_leave_room_for_requests() {
    let host = Host::start_with(|config| config.limits.connections = 8).await;
    host.hello().await;
    let created = host.deploy().await;
    let path = format!("/ws/deployments/{}", created.number);
    let admin = bearer(&host.admin);
    let mut viewers = Vec::new();
    for _ in 0..6 {
        viewers.push(connect(&host, &path, &[("authorization", &admin)]).await.expect("connected"));
    }
    assert_eq!(connect(&host, &path, &[("authorization", &admin)]).await.expect_err("refused"), 503);
    assert_eq!(status(host.get("/api/v1/services")).await, 200);
    // Six sockets, and the two connections that are left are taken: whoever comes next waits for a place.
    let address = host.url.strip_prefix("http://").expect("http");
    let mut idle = Vec::new();
    let alone = || reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("a client");
    for _ in 0..3 {
        idle.push(TcpStream::connect(address).await.expect("connected"));
    }
    let waiting =
        tokio::time::timeout(Duration::from_secs(1), alone().get(format!("{}/healthz", host.url)).send());
    assert!(waiting.await.is_err(), "a place came from somewhere");
    drop(idle);
    assert_eq!(status(alone().get(format!("{}/healthz", host.url))).await, 200);
    drop(viewers);
    host.stop().await;
}

/// The slowest of some quick requests, one after the other.
async fn slowest(host: &Host, token: &str) -> Duration {
    let mut slowest = Duration::ZERO;
    for _ in 0..100 {
        let begun = Instant::now();
        assert_eq!(status(host.with(token, Method::GET, "/api/v1/services")).await, 200);
        slowest = slowest.max(begun.elapsed());
    }
    slowest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_deploys_a_minute_by_one_hold_up_nobody_else() {
    let host = Host::start_with(|config| config.limits.writes_per_minute = 120).await;
    host.hello().await;
    let ci = host.token(TokenKind::Admin, "ci").await;
    let mut flood = JoinSet::new();
    for _ in 0..8 {
        let request = host.with(&ci, Method::POST, "/api/v1/deployments");
        let request = request.json(&json!({ "service": "hello", "sandbox": "flood" }));
        flood.spawn(async move {
            let mut refused = 0;
            for _ in 0..125 {
                match status(request.try_clone().expect("a body in memory")).await {
                    202 | 503 => {}
                    429 => refused += 1,
                    other => panic!("{other}"),
                }
            }
            refused
        });
    }
    let during = slowest(&host, &host.admin).await;
    let refused: i32 = flood.join_all().await.into_iter().sum();
    assert!((870..=880).contains(&refused), "{refused}");
    assert!(during < Duration::from_secs(2), "{during:?}");
    let list: serde_json::Value =
        ok(host.get("/api/v1/deployments?limit=200").send().await.expect("answered"), 200).await;
    assert!(list["deployments"].as_array().expect("a list").len() <= 130);
    host.stop().await;
}

#[tokio::test]
async fn logins_are_counted_by_address_and_by_user_name_before_a_git_host_is_asked() {
    let host = Host::start_with(|config| {
        config.limits.login_attempts_per_minute = 3;
        config.proxy.trusted = vec!["127.0.0.1/32".parse().expect("a network")];
        config.login.trust_bot = false;
        config.login.repository = Some("https://git.example.com/team/all.git".parse().expect("a repository"));
    })
    .await;
    let attempt = |from: &str, username: &str| {
        let attempt = host.bare(Method::POST, "/api/v1/login").header("x-forwarded-for", from);
        attempt.json(&json!({ "username": username, "password": "guess" }))
    };
    for _ in 0..3 {
        // No agent is there to ask a git host; that is how far these came.
        assert_eq!(status(attempt("203.0.113.9", "alice")).await, 503);
    }
    too_often(attempt("203.0.113.9", "alice")).await;
    too_often(attempt("203.0.113.9", "bob")).await;
    let (refused, _) = too_often(attempt("198.51.100.1", "alice")).await;
    assert_eq!(refused.detail, None, "it does not say which of the two it was");
    assert_eq!(status(attempt("198.51.100.1", "bob")).await, 503);
    let form = host.bare(Method::POST, "/login").header("x-forwarded-for", "203.0.113.9");
    let form = form.header("origin", &host.url).header("content-type", "application/x-www-form-urlencoded");
    let page = form.body("username=carol&password=guess").send().await.expect("answered");
    assert_eq!((page.status().as_u16(), page.headers().contains_key("retry-after")), (429, true));
    let text = page.text().await.expect("a page");
    assert!(text.contains("too many attempts to log in") && !text.contains("guess"), "{text}");
    host.stop().await;
}

#[tokio::test]
async fn one_address_does_not_take_all_connections() {
    let host = Host::start_with(|config| config.limits.connections_per_address = 10).await;
    let address = host.url.strip_prefix("http://").expect("http");
    let mut sockets = Vec::new();
    for _ in 0..100 {
        sockets.push(TcpStream::connect(address).await.expect("connected"));
    }
    // Of those beyond the limit the server hangs up; which these are shows in that they can be read to the end.
    let mut gone = JoinSet::new();
    for mut socket in sockets {
        gone.spawn(async move {
            drop(socket.read(&mut [0]).await);
            drop(socket);
        });
    }
    let begun = Instant::now();
    for _ in 0..90 {
        gone.join_next().await.expect("many").expect("read");
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "who sends no head is hung up on after 30 s anyway");
    let other = reqwest::Client::builder().local_address(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2))).no_proxy();
    let other = other.build().expect("a client").get(format!("{}/healthz", host.url));
    assert_eq!(status(other).await, 200, "another address has its own");
    gone.shutdown().await;
    host.stop().await;
}
