//! One table of requests that both routers answer alike.

use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::io::ReaderStream;

use super::rig::{Rig, config, free_port};
use super::tls::behind_tls;
use super::*;
use crate::router::Engine;

fn target(instance: InstanceId, address: SocketAddr, of: Option<&str>) -> RouteTarget {
    let commit = CommitId::parse("0123456789abcdef0123456789abcdef01234567").unwrap();
    let of = of.map(|name| SandboxName::parse(name).unwrap());
    RouteTarget::Instance { instance, address, commit, of }
}

fn path_rule(prefix: &str, strip: bool) -> MatchRule {
    MatchRule::Path { prefix: PathPrefix::parse(prefix).unwrap(), strip }
}

fn host_rule(host: &str) -> MatchRule {
    MatchRule::Host { host: HostName::parse(host).unwrap() }
}

/// What a request gets: status, `sdp-served-by` and `sdp-error`, the request as the service saw it.
async fn got(rig: &Rig, path: &str, headers: &[(&str, &str)]) -> String {
    let answer = rig.get(path, headers).await;
    let seen =
        if answer.header("sdp-error").is_empty() { answer.first_line() } else { answer.header("sdp-error") };
    format!("{} {} {seen}", answer.status.as_u16(), answer.header("sdp-served-by"))
}

#[expect(clippy::too_many_lines, reason = "a table")]
async fn every_request_goes_where_the_rules_say(engine: Engine) {
    let (alice, bob, base) =
        (Backend::named("alice's").await, Backend::named("bob's").await, Backend::named("base").await);
    let (outside, tls) = (Backend::named("outside").await, behind_tls().await);
    let gone = Backend::named("gone").await.address;
    let based = format!("http://{}/apps", base.address);
    let secure = format!("https://localhost:{}", tls.address.port());
    let down = || RouteTarget::Down { reason: "it $crashed \"badly\"".into() };
    let because = RouteTarget::Baseline { reason: Some("it crashed".into()) };
    let mut routes = Routes::default()
        .domain("sandboxes.test", WhenDown::Fail)
        .baseline("hello", &base)
        .rule("api", path_rule("/api/v1", false), Some(&based))
        .rule("deep", path_rule("/hello/admin", true), None)
        .rule("gateway", host_rule("api.shop.test"), Some(&based))
        .service("secure", Some(&secure))
        .service("lost", Some("http://no-such-name.invalid"))
        .service("gone", None)
        .service("ledger", None)
        .target("alice", "hello", target(InstanceId::new(), alice.address, None))
        .target("alice", "api", target(InstanceId::new(), alice.address, None))
        .target("alice", "gateway", target(InstanceId::new(), alice.address, None))
        .target("alice", "ledger", down())
        .target("alice", "gone", target(InstanceId::new(), gone, None))
        .target("bob", "hello", target(InstanceId::new(), bob.address, None))
        .target("bob", "api", target(InstanceId::new(), alice.address, Some("alice")))
        .target("bob", "gateway", because)
        .target("bob", "ledger", RouteTarget::External { address: outside.address })
        .sandbox("carol")
        .sandbox("late");
    routes.environment().sandboxes.last_mut().unwrap().expires_at = Some(jiff::Timestamp::UNIX_EPOCH);
    let mut second = routes.environment().clone();
    second.name = EnvironmentName::parse("soft").unwrap();
    second.domain = Some(HostName::parse("soft.test").unwrap());
    second.when_down = WhenDown::Baseline;
    second.services.retain(|route| route.service.as_str() == "hello");
    second.sandboxes.retain(|sandbox| sandbox.name.as_str() == "carol");
    second.sandboxes[0].name = SandboxName::parse("dora").unwrap();
    second.sandboxes[0].key = key_of("dora");
    let row = SandboxRoute {
        service: ServiceName::parse("hello").unwrap(),
        target: target(InstanceId::new(), gone, None),
    };
    second.sandboxes[0].routes.push(row);
    routes.0.environments.push(second);
    let rig = Rig::new(engine, routes).await;

    let (a, b) = (key_of("alice"), key_of("bob"));
    let (a, b) = (a.as_str(), b.as_str());
    let (bag, two) = (
        format!("x=1, sdp-routing-key={a};p=1,y=2"),
        format!("sdp-routing-key={a},x=1, sdp-routing-key={b}"),
    );
    let (state, cookie) = (format!("v=1,sdp={b}"), format!("q=1; sdp_routing_key={b}; z=2"));
    let (alices, bobs) =
        ("200 sandbox/alice/hello@01234567 alice's GET", "200 sandbox/bob/hello@01234567 bob's GET");
    let long = format!("/hello/{}", "y".repeat(17_000));
    for (path, headers, expected) in [
        // Each selector; two sandboxes at once.
        ("/hello/x?y=1&z", &[][..], "200 baseline/hello base GET /x?y=1&z".into()),
        ("/~alice/hello/x?y=1&z", &[], format!("{alices} /x?y=1&z")),
        ("/~bob/hello", &[], format!("{bobs} /")),
        ("/%7Ealice/hello/x", &[], format!("{alices} /x")),
        ("/hello/x", &[("host", "alice.sandboxes.test")], format!("{alices} /x")),
        ("/hello/x", &[("host", "BOB.sandboxes.test:80")], format!("{bobs} /x")),
        ("/hello/x", &[("sdp-routing-key", a)], format!("{alices} /x")),
        ("/hello/x", &[("sdp-sandbox", "bob")], format!("{bobs} /x")),
        ("/hello/x", &[("baggage", &bag)], format!("{alices} /x")),
        ("/hello/x", &[("tracestate", &state)], format!("{bobs} /x")),
        ("/hello/x", &[("cookie", &cookie)], format!("{bobs} /x")),
        // The stronger one wins, and is not overruled.
        ("/~bob/hello", &[("sdp-routing-key", a)], format!("{bobs} /")),
        ("/hello", &[("sdp-sandbox", "bob"), ("baggage", &bag)], format!("{bobs} /")),
        ("/hello", &[("sdp-routing-key", ""), ("cookie", &cookie)], format!("{bobs} /")),
        ("/~zoe/hello", &[("sdp-routing-key", a)], "404 router unknown_sandbox".into()),
        ("/~Alice/hello", &[], "404 router unknown_sandbox".into()),
        ("/~/hello", &[], "404 router unknown_sandbox".into()),
        ("/hello", &[("host", "zoe.sandboxes.test")], "404 router unknown_sandbox".into()),
        (
            "/hello",
            &[("sdp-routing-key", "rk_nosuch"), ("cookie", &cookie)],
            "404 router unknown_sandbox".into(),
        ),
        ("/hello", &[("sdp-routing-key", "alice")], "404 router unknown_sandbox".into()),
        ("/hello", &[("sdp-sandbox", "ALICE")], "404 router unknown_sandbox".into()),
        ("/hello", &[("sdp-sandbox", a)], "404 router unknown_sandbox".into()),
        ("/hello", &[("baggage", &two)], "400 router two_sandboxes".into()),
        ("/~bob/hello", &[("baggage", &two)], format!("{bobs} /")),
        ("/~late/hello", &[], "404 router unknown_sandbox".into()),
        ("/hello", &[("sdp-sandbox", "late")], "404 router unknown_sandbox".into()),
        // Services: by prefix, kept or stripped, by host, by name.
        ("/~carol/hello//evil.test", &[], "200 baseline/hello base GET /evil.test".into()),
        ("/api/v1/x", &[], "200 baseline/api base GET /apps/api/v1/x".into()),
        ("/~alice/api/v1/x", &[], "200 sandbox/alice/api@01234567 alice's GET /api/v1/x".into()),
        ("/hellox", &[], "404 router no_service".into()),
        ("/HELLO", &[], "404 router no_service".into()),
        ("//hello", &[], "404 router no_service".into()),
        ("/~alice", &[], "404 router no_service".into()),
        ("/x%2Fy?%7E", &[("host", "api.shop.test")], "200 baseline/gateway base GET /apps/x%2Fy?%7E".into()),
        (
            "/hello",
            &[("host", "api.shop.test"), ("sdp-sandbox", "alice")],
            "200 sandbox/alice/gateway@01234567 alice's GET /hello".into(),
        ),
        ("/~alice/~hello/x", &[], format!("{alices} /x")),
        ("/~alice/%7Ehello", &[], format!("{alices} /")),
        ("/~alice/~gateway/x/y", &[], "200 sandbox/alice/gateway@01234567 alice's GET /x/y".into()),
        ("/~alice/~HELLO/x", &[], "404 router no_service".into()),
        ("/~alice/~nosuch/x", &[], "404 router no_service".into()),
        // Targets and policies.
        ("/~bob/api/v1", &[], "200 sandbox/alice/api@01234567 alice's GET /api/v1".into()),
        ("/~bob/ledger/x", &[], "200 external/ledger outside GET /x".into()),
        ("/~bob/~gateway/x", &[], "200 baseline/gateway; instead-of=\"it crashed\" base GET /apps/x".into()),
        ("/~alice/ledger", &[], "503 router instance_down".into()),
        ("/~alice/hello/admin", &[], "404 router no_target".into()),
        ("/hello/admin", &[], "404 router no_target".into()),
        ("/~alice/gone", &[], "502 router unreachable".into()),
        ("/~dora/hello/x", &[], "200 baseline/hello; instead-of=\"it cannot be reached\" base GET /x".into()),
        ("/hello/x", &[("host", "soft.test")], "200 baseline/hello base GET /x".into()),
        ("/api/v1", &[("host", "soft.test")], "404 router no_service".into()),
        // A baseline behind TLS is called by its name; one without an address harms nobody else.
        ("/secure/", &[], format!("200 baseline/secure localhost, host: localhost:{}", tls.address.port())),
        ("/lost/", &[], "502 router unreachable".into()),
        // What no service gets to see.
        ("/hello/%2e%2e/x", &[], "400 router bad_path".into()),
        ("/hello/..;x/y", &[], "400 router bad_path".into()),
        ("/hello/..x", &[], "200 baseline/hello base GET /..x".into()),
        ("/hello/a%20b/%252e%252e/x", &[], "200 baseline/hello base GET /a%20b/%252e%252e/x".into()),
        (&long, &[], "414 router uri_too_long".into()),
    ] {
        assert_eq!(got(&rig, path, headers).await, expected, "{path} {headers:?}");
    }
    for (path, words) in [
        ("/~alice/ledger", "ledger in the sandbox alice does not run: it $crashed"),
        ("/~zoe/hello", "There is no sandbox \"zoe\", which the path names."),
        ("/~alice/gone", "gone in the sandbox alice (commit 01234567) cannot be reached"),
        ("/~alice/x", &format!("  hello  http://{}/~alice/hello/", rig.router.local_addr())),
        ("/nothing", &format!("  hello  http://{}/hello/", rig.router.local_addr())),
        ("/~bob/hello/admin", "Deploy it: /sdp deploy deep <branch> to bob"),
        ("/lost/", "The baseline of lost cannot be reached"),
    ] {
        let answer = rig.get(path, &[]).await;
        assert!(answer.text.contains(words), "{path}: {}", answer.text);
        assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8", "{path}");
        let page = rig.get(path, &[("accept", "text/html,*/*")]).await;
        assert_eq!(page.header("content-type"), "text/html; charset=utf-8", "{path}");
        assert!(page.text.starts_with("<!doctype html>"), "{path}: {}", page.text);
    }
    // A body goes to the baseline, too, if its instance cannot be reached.
    let echo = rig.request("/~dora/hello/x", &[]).method(Method::POST).body(body("some text")).unwrap();
    let answer = rig.send(echo).await;
    assert!(answer.text.contains("content-length: 9"), "{}", answer.text);
}

async fn marks_pass_on_and_nothing_else_chooses(engine: Engine) {
    let (alice, base) = (Backend::named("alice's").await, Backend::named("base").await);
    let routes = || {
        Routes::default()
            .baseline("hello", &base)
            .baseline("other", &base)
            .instance("alice", "hello", InstanceId::new(), alice.address)
            .sandbox("eve")
    };
    let rig = Rig::new(engine, routes()).await;
    let (a, e) = (key_of("alice"), key_of("eve"));
    let bag = format!("x=1, sdp-routing-key={e};p, y=2");
    let state = format!("v=1,sdp={e}");
    let cookie = format!("a=1; sdp_routing_key={e}; sdp=session; b=2");
    let marked = [
        ("sdp-sandbox", "eve"),
        ("baggage", bag.as_str()),
        ("tracestate", state.as_str()),
        ("cookie", cookie.as_str()),
        ("host", "dev.test"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-proto", "https"),
        ("forwarded", "for=6.6.6.6"),
    ];
    let seen = |answer: &Answer| {
        let kept = answer.text.lines().skip(1).filter(|line| !line.starts_with("connection"));
        let lines: Vec<_> = kept.map(|line| line.replace(", ", ",").replace("; ", ";")).collect();
        lines.join("\n")
    };
    for path in ["/~alice/hello/x", "/~alice/other/x"] {
        let answer = rig.get(path, &marked).await;
        let text = seen(&answer);
        assert!(text.contains(&format!("sdp-routing-key: {a}\nsdp-sandbox: alice")), "{text}");
        assert!(text.contains(&format!("baggage: x=1,y=2,sdp-routing-key={a}")), "{text}");
        assert!(text.contains(&format!("tracestate: sdp={a},v=1")), "{text}");
        assert!(text.contains("cookie: a=1;b=2"), "{text}");
        assert!(text.contains("x-forwarded-for: 127.0.0.1\nx-forwarded-host: dev.test"), "{text}");
        assert!(text.contains("x-forwarded-proto: http"), "{text}");
        let prefix = path.trim_end_matches("/x");
        assert!(text.contains(&format!("x-forwarded-prefix: {prefix}")), "{text}");
        assert!(!text.contains("6.6.6.6") && !text.contains(e.as_str()), "{text}");
    }
    let text = rig.get("/hello/x", &[("accept", "*/*"), ("baggage", "q=1")]).await.text;
    assert!(!text.contains("sdp-") && text.contains("baggage: q=1"), "{text}");
    let answer = rig.get("/hello/x", &marked[..1]).await;
    assert_eq!(answer.header("vary"), crate::router::forward::VARY);
    assert_eq!(rig.get("/~alice/hello/x", &[]).await.header("vary"), "");
    drop(rig);

    // Origins that are not trusted choose by path and host alone.
    let mut config = config(engine);
    config.trusted_networks = vec!["10.0.0.0/8".parse().unwrap()];
    let rig = Rig::with(config.clone(), routes()).await;
    let answer = rig.get("/hello/x", &marked).await;
    assert_eq!(answer.header("sdp-served-by"), "baseline/hello");
    assert!(!answer.text.contains(e.as_str()) && !answer.text.contains("sdp-"), "{}", answer.text);
    let answer = rig.get("/~alice/hello/x", &marked).await;
    assert_eq!(answer.header("sdp-served-by"), "sandbox/alice/hello@01234567");
    drop(rig);
    config.trust_forwarded = true;
    if engine == Engine::Nginx {
        config.listen.set_port(free_port());
    }
    let rig = Rig::with(config, routes()).await;
    for (origin, served_by) in
        [("6.6.6.6, 10.1.2.3", "sandbox/alice/hello@01234567"), ("10.1.2.3, 6.6.6.6", "baseline/hello")]
    {
        let answer = rig.get("/hello/x", &[("sdp-sandbox", "alice"), ("x-forwarded-for", origin)]).await;
        assert_eq!(answer.header("sdp-served-by"), served_by, "{origin}");
        assert!(answer.text.contains(&format!("x-forwarded-for: {origin}, 127.0.0.1")), "{}", answer.text);
    }
}

async fn a_shared_link_sets_the_cookie_and_leads_on(engine: Engine) {
    let mut config = config(engine);
    config.base_url = Some("https://dev.test/sdp".parse().unwrap());
    let rig = Rig::with(config, Routes::default().service("hello", None).sandbox("alice")).await;
    let key = key_of("alice");
    let set = format!("sdp_routing_key={key}; Path=/; HttpOnly; SameSite=Lax; Secure");
    for (path, to) in [
        ("/~~/KEY/", "/sdp/"),
        ("/~~/KEY", "/sdp/"),
        ("/~~/KEY/cart?item=1", "/sdp/cart?item=1"),
        ("/~~/KEY?item=1", "/sdp/?item=1"),
        ("/~%7E/KEY//evil.test/x", "/sdp/evil.test/x"),
    ] {
        let answer = rig.get(&path.replace("KEY", key.as_str()), &[]).await;
        assert_eq!((answer.status, answer.header("location")), (StatusCode::FOUND, to), "{path}");
        assert_eq!((answer.header("set-cookie"), answer.header("sdp-served-by")), (set.as_str(), "router"));
        assert_eq!(answer.header("cache-control"), "no-store");
    }
    let off = rig.get("/~~/off/cart", &[]).await;
    assert_eq!((off.status, off.header("location")), (StatusCode::FOUND, "/sdp/cart"));
    assert!(off.header("set-cookie").starts_with("sdp_routing_key=; Path=/; Max-Age=0;"));
    for wrong in [format!("/~~/{}/", key_of("zoe")), "/~~/alice/".into(), "/~~/".into(), "/~~".into()] {
        assert_eq!(got(&rig, &wrong, &[]).await, "404 router unknown_sandbox", "{wrong}");
    }
}

async fn redirects_lead_back_to_where_the_request_came_from(engine: Engine) {
    let redirects = || {
        Backend::start(|request: Request<Incoming>| async move {
            let to = request.headers()["to"]
                .to_str()
                .unwrap()
                .replace("HOST", request.headers()["host"].to_str().unwrap());
            Response::builder()
                .status(302)
                .header("location", to)
                .header("sdp-served-by", "the moon")
                .header("x-accel-redirect", "/-sdp/unlink")
                .body(body(""))
                .unwrap()
        })
    };
    let (own, base) = (redirects().await, redirects().await);
    let below = format!("http://{}/app/", base.address);
    let routes = Routes::default().service("hello", Some(&below)).instance(
        "alice",
        "hello",
        InstanceId::new(),
        own.address,
    );
    let rig = Rig::new(engine, routes).await;
    let at = rig.router.local_addr();
    for (path, to, expected) in [
        ("/~alice/hello/x", "/login?a=/b", "/~alice/hello/login?a=/b".to_owned()),
        ("/~alice/hello/x", "/~alice/hello/login", "/~alice/hello/login".to_owned()),
        ("/~alice/hello/x", "/~alice/helloworld", "/~alice/hello/~alice/helloworld".to_owned()),
        ("/~alice/hello/x", "http://HOST/login", "/~alice/hello/login".to_owned()),
        ("/~alice/hello/x", "http://HOST", "/~alice/hello/".to_owned()),
        ("/~alice/hello/x", "http://HOST//evil.test", format!("http://{at}//evil.test")),
        ("/~alice/hello/x", "http://elsewhere/login", "http://elsewhere/login".to_owned()),
        ("/~alice/hello/x", "//elsewhere/login", "//elsewhere/login".to_owned()),
        ("/~alice/hello/x", "login", "login".to_owned()),
        ("/hello/x", "/app/login", "/hello/login".to_owned()),
        ("/hello/x", "http://HOST/app/login", "/hello/login".to_owned()),
        ("/hello/x", "http://HOST/app", "/hello/".to_owned()),
        ("/hello/x", "/elsewhere", "/elsewhere".to_owned()),
        ("/~carol/hello/x", "/app/login", "/~carol/hello/login".to_owned()),
    ] {
        if path.contains("carol") {
            continue;
        }
        let answer = rig.get(path, &[("to", to)]).await;
        assert_eq!(
            (answer.status, answer.header("location")),
            (StatusCode::FOUND, expected.as_str()),
            "{path} {to}"
        );
        assert_eq!(answer.headers.get_all("sdp-served-by").iter().count(), 1);
        assert!(!answer.header("sdp-served-by").contains("moon"));
    }
}

async fn websockets_streams_and_large_bodies_pass(engine: Engine) {
    const SIZE: u64 = 50 * 1024 * 1024;
    let sockets = Backend::raw(|stream| async move {
        let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
        while let Some(Ok(message)) = socket.next().await {
            if message.is_close() || socket.send(message).await.is_err() {
                return;
            }
        }
    })
    .await;
    let pieces = Backend::start(|request| async move {
        let pieces = request.into_body().into_data_stream().map(|piece| Ok(Frame::data(piece.unwrap())));
        Response::new(StreamBody::new(pieces).boxed_unsync())
    })
    .await;
    let large = Backend::start(|request| async move {
        let mut received = 0;
        let mut sent = request.into_body();
        while let Some(frame) = sent.frame().await {
            received += frame.unwrap().into_data().map_or(0, |data| data.len() as u64);
        }
        assert_eq!(received, SIZE);
        let back = ReaderStream::with_capacity(tokio::io::repeat(b'y').take(SIZE), 64 * 1024);
        Response::new(StreamBody::new(back.map(|piece| Ok(Frame::data(piece.unwrap())))).boxed_unsync())
    })
    .await;
    let events = Backend::raw(|mut stream| async move {
        read_head(&mut stream).await;
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(b"9\r\ndata: 1\n\n\r\n").await.unwrap();
        // Nothing more until the client leaves.
        let _end = stream.read(&mut [0; 1]).await;
    })
    .await;
    let mut routes = Routes::default().baseline("base", &sockets);
    for (service, backend) in
        [("sockets", &sockets), ("pieces", &pieces), ("large", &large), ("events", &events)]
    {
        routes = routes.service(service, None).instance("alice", service, InstanceId::new(), backend.address);
    }
    let rig = Rig::new(engine, routes).await;
    for path in ["/base/ws", "/~alice/sockets/ws"] {
        let url = format!("ws://{}{path}", rig.router.local_addr());
        let (mut socket, answer) = soon(Box::pin(tokio_tungstenite::connect_async(url))).await.unwrap();
        assert!(answer.headers().contains_key("sdp-served-by"));
        for message in [Message::text("hello"), Message::binary(vec![7; 300_000])] {
            socket.send(message.clone()).await.unwrap();
            assert_eq!(soon(socket.next()).await.unwrap().unwrap(), message);
        }
    }

    let (sender, mut queue) = mpsc::channel::<Bytes>(1);
    let sent = futures_util::stream::poll_fn(move |cx| {
        queue.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    });
    let request = rig.request("/~alice/pieces/", &[]).method(Method::POST);
    sender.send("first".into()).await.unwrap();
    let request = request.body(StreamBody::new(sent).boxed_unsync()).unwrap();
    let mut back = soon(rig.client.request(request)).await.unwrap().into_body();
    for (piece, next) in [("first", Some("second")), ("second", None)] {
        assert_eq!(soon(back.frame()).await.unwrap().unwrap().into_data().unwrap(), piece);
        if let Some(next) = next {
            sender.send(next.into()).await.unwrap();
        }
    }
    drop(sender);
    assert!(soon(back.frame()).await.is_none());

    let request = rig.request("/~alice/events/", &[]).body(body("")).unwrap();
    let mut back = soon(rig.client.request(request)).await.unwrap().into_body();
    assert_eq!(soon(back.frame()).await.unwrap().unwrap().into_data().unwrap(), "data: 1\n\n");

    let sent = ReaderStream::with_capacity(tokio::io::repeat(b'x').take(SIZE), 64 * 1024);
    let sent = StreamBody::new(sent.map(|piece| Ok(Frame::data(piece.unwrap())))).boxed_unsync();
    let request = rig.request("/~alice/large/", &[]).method(Method::PUT).body(sent).unwrap();
    let mut back = soon(rig.client.request(request)).await.unwrap().into_body();
    let mut received = 0;
    while let Some(frame) = soon(back.frame()).await {
        received += frame.unwrap().into_data().map_or(0, |data| data.len() as u64);
    }
    assert_eq!(received, SIZE);
}

async fn a_probe_names_the_service_that_dropped_the_mark(engine: Engine) {
    // The first asks the second, the second asks the third and passes on the trace alone.
    let calls = |next: &'static str,
                 passes: &'static [&'static str],
                 router: Arc<std::sync::OnceLock<SocketAddr>>| {
        Backend::start(move |request: Request<Incoming>| {
            let router = router.clone();
            async move {
                let client: Client<HttpConnector, Body> = Client::builder(TokioExecutor::new()).build_http();
                let mut call = Request::get(format!("http://{}{next}", router.get().unwrap()));
                for (name, value) in
                    request.headers().iter().filter(|(name, _)| passes.contains(&name.as_str()))
                {
                    call = call.header(name, value);
                }
                let answered = client.request(call.body(body("")).unwrap()).await.unwrap();
                Response::builder().status(answered.status()).body(body("")).unwrap()
            }
        })
    };
    let at = Arc::new(std::sync::OnceLock::new());
    let first = calls("/second", &["traceparent", "baggage"], at.clone()).await;
    let second = calls("/third", &["traceparent"], at.clone()).await;
    let third = Backend::named("third").await;
    let routes = Routes::default()
        .service("first", None)
        .baseline("second", &second)
        .baseline("third", &third)
        .instance("alice", "first", InstanceId::new(), first.address);
    let rig = Rig::new(engine, routes).await;
    at.set(rig.router.local_addr()).unwrap();
    let probe = |path: &str| sdp_core::wire::ProbeRequest {
        key: key_of("alice"),
        path: path.into(),
        host: None,
        within_ms: 20_000,
    };
    let sdp_core::wire::Answer::Probed { status, served_by, hops } =
        soon(crate::router::probe(&*rig.router, &probe("/first/x?y"))).await.unwrap()
    else {
        panic!("it is another answer");
    };
    assert_eq!((status, served_by.as_deref()), (200, Some("sandbox/alice/first@01234567")));
    let told = hops.iter().map(|hop| {
        let name = |name: Option<String>| name.unwrap_or_else(|| "-".into());
        let service = name(hop.service.as_ref().map(ToString::to_string));
        let sandbox = name(hop.sandbox.as_ref().map(ToString::to_string));
        format!("{service} {sandbox} {} {} {}", name(hop.named_by.clone()), hop.served_by, hop.status)
    });
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            "first alice the header sdp-routing-key sandbox/alice/first@01234567 200",
            "second alice the header baggage baseline/second 200",
            "third - - baseline/third 200",
        ]
    );
    let refused = soon(crate::router::probe(&*rig.router, &probe("/nothing"))).await.unwrap();
    let sdp_core::wire::Answer::Probed { status: 404, hops, .. } = refused else { panic!("{refused:?}") };
    assert_eq!((hops.len(), hops[0].served_by.as_str()), (1, "router"));
}

async fn without_a_table_it_says_so(engine: Engine) {
    let rig = Rig::start(config(engine), Arc::new(tempfile::tempdir().unwrap())).await;
    let first = || rig.client.request(rig.request("/", &[]).body(body("")).unwrap());
    soon(async { while first().await.is_err() {} }).await;
    for path in ["/hello", "/~alice/hello", "/~~/off/"] {
        assert_eq!(got(&rig, path, &[]).await, "503 router no_routes", "{path}");
    }
    assert_eq!(rig.router.report().applied, RouteVersion(0));
}

macro_rules! of_both {
    ($($name:ident),*) => {
        mod builtin {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(Engine::Builtin).await;
            })*
        }
        mod nginx {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            #[ignore = "needs nginx"]
            async fn $name() {
                super::$name(Engine::Nginx).await;
            })*
        }
    };
}
of_both!(
    every_request_goes_where_the_rules_say,
    marks_pass_on_and_nothing_else_chooses,
    a_shared_link_sets_the_cookie_and_leads_on,
    redirects_lead_back_to_where_the_request_came_from,
    websockets_streams_and_large_bodies_pass,
    a_probe_names_the_service_that_dropped_the_mark,
    without_a_table_it_says_so
);
