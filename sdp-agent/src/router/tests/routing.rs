//! Where requests end up, and what they and their answers carry.

use super::*;

#[tokio::test]
async fn path_header_and_cookie_lead_to_the_sandbox_and_all_else_to_the_baseline() {
    let (alice, base) = (Backend::named("alice's").await, Backend::named("baseline").await);
    let world = World::new(Routes::default().baseline("hello", &base).baseline("ledger", &base).instance(
        "alice",
        "hello",
        InstanceId::new(),
        alice.address,
    ));
    for (path, headers, first_line, served_by) in [
        ("/hello/x?y=1&z", &[][..], "baseline GET /x?y=1&z", "baseline/hello"),
        ("/~alice/hello/x?y=1&z", &[], "alice's GET /x?y=1&z", "sandbox/alice/hello@01234567"),
        ("/~alice/hello/", &[], "alice's GET /", "sandbox/alice/hello@01234567"),
        ("/hello", &[("sdp-sandbox", "alice")], "alice's GET /", "sandbox/alice/hello@01234567"),
        (
            "/hello",
            &[("cookie", "sdp_routing_key=rk_alicealicealicealicealicea")],
            "alice's GET /",
            "sandbox/alice/hello@01234567",
        ),
        ("/~alice/ledger/x", &[], "baseline GET /x", "baseline/ledger"),
    ] {
        let answer = world.send(world.request(Method::GET, path, headers, "")).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!((answer.first_line(), answer.header("sdp-served-by")), (first_line, served_by), "{path}");
    }
    world.stop().await;
}

#[tokio::test]
async fn an_instance_is_told_who_asked_and_for_what() {
    let backend = Backend::named("hello").await;
    let (world, _) = World::of_alice(backend.address);
    let headers = [
        ("connection", "close, x-hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-authorization", "Basic eDp5"),
        ("x-forwarded-for", "6.6.6.6"),
        ("sdp-sandbox", "someone-else"),
        ("te", "trailers, deflate"),
        ("expect", "100-continue"),
        ("host", "dev.example.com"),
        ("x-kept", "1"),
    ];
    let answer = world.send(world.request(Method::PUT, "/~alice/hello/a", &headers, "x")).await;
    insta::assert_snapshot!(answer.text, @r"
    hello PUT /a
    baggage: sdp-routing-key=rk_alicealicealicealicealicea
    content-length: 1
    host: dev.example.com
    sdp-routing-key: rk_alicealicealicealicealicea
    sdp-sandbox: alice
    te: trailers
    x-forwarded-for: 127.0.0.1
    x-forwarded-host: dev.example.com
    x-forwarded-prefix: /~alice/hello
    x-forwarded-proto: http
    x-kept: 1
    ");
    world.stop().await;
}

#[tokio::test]
async fn a_baseline_gets_its_own_host_its_own_path_and_the_sandbox_to_pass_on() {
    let base = Backend::named("base").await;
    let url = format!("http://{}/apps/hello/", base.address);
    let nobody = RouteTarget::Down { reason: "it crashed".into() };
    let world = World::new(
        Routes::default()
            .service("hello", Some(&url))
            .service("other", None)
            .target("alice", "other", nobody),
    );
    let answer = world.get("/~alice/hello/a?b").await;
    assert_eq!(answer.first_line(), "base GET /apps/hello/a?b");
    assert!(answer.text.contains(&format!("host: {}", base.address)), "{}", answer.text);
    assert!(answer.text.contains("sdp-sandbox: alice"), "{}", answer.text);
    assert!(answer.text.contains("x-forwarded-prefix: /~alice/hello"), "{}", answer.text);
    let answer = world.get("/hello").await;
    assert_eq!(answer.first_line(), "base GET /apps/hello/");
    assert!(!answer.text.contains("sdp-sandbox"), "{}", answer.text);
    world.stop().await;
}

#[tokio::test]
async fn what_a_service_says_about_the_way_it_was_reached_is_replaced() {
    let backend = Backend::start(|_| async {
        Response::builder()
            .status(302)
            .header("location", "/login")
            .header("sdp-served-by", "the moon")
            .header("connection", "x-hop")
            .header("x-hop", "1")
            .header("x-kept", "1")
            .body(body(""))
            .unwrap()
    })
    .await;
    let (world, _) = World::of_alice(backend.address);
    let answer = world.get("/~alice/hello/private").await;
    assert_eq!(answer.status, StatusCode::FOUND);
    assert_eq!(answer.header("location"), "/~alice/hello/login");
    assert_eq!(answer.headers.get_all("sdp-served-by").iter().count(), 1);
    assert_eq!(answer.header("sdp-served-by"), "sandbox/alice/hello@01234567");
    assert_eq!((answer.header("x-hop"), answer.header("x-kept")), ("", "1"));
    assert_eq!(answer.header("vary"), "", "the path alone decides");
    let by_header = world.send(world.request(Method::GET, "/hello", &[("sdp-sandbox", "alice")], "")).await;
    assert_eq!(by_header.header("vary"), crate::router::forward::VARY);
    world.stop().await;
}

#[tokio::test]
async fn refusals_name_sandbox_and_service_and_say_what_to_do() {
    let down = RouteTarget::Down { reason: "it crashed".into() };
    let world = World::new(
        Routes::default().service("hello", None).service("ledger", None).target("alice", "hello", down),
    );
    let mut seen = String::new();
    for path in ["/~alice/hello/x", "/~alcie/hello", "/~alice/ledger", "/~alice/nothing", "/hello/../x"] {
        let path = path.replace("..", "%2e%2e");
        let answer = world.get(&path).await;
        assert_eq!(answer.header("sdp-served-by"), "router");
        assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
        seen.push_str(&format!(
            "{} {}\n{}\n",
            answer.status,
            answer.header("sdp-error"),
            answer.settled(&world)
        ));
    }
    insta::assert_snapshot!(seen, @r#"
    503 Service Unavailable instance_down
    hello in the sandbox alice does not run: it crashed.
    Deploy it again: /sdp deploy hello <branch> to alice
    (sdp router: instance_down)

    404 Not Found unknown_sandbox
    There is no sandbox "alcie", which the path names.
    Did you mean alice? A sandbox is made by the first deploy to it.
    (sdp router: unknown_sandbox)

    404 Not Found no_target
    Nothing runs of ledger in the sandbox alice, and ledger has no baseline.
    Deploy it: /sdp deploy ledger <branch> to alice
    (sdp router: no_target)

    404 Not Found no_service
    No service has this path or host.
    These are the services:
      hello  http://ROUTER/~alice/hello/
      ledger  http://ROUTER/~alice/ledger/
    (sdp router: no_service)

    400 Bad Request bad_path
    This path is not accepted: a part of it is . or .., or an encoded form of them.
    Send the path without it.
    (sdp router: bad_path)
    "#);
    world.stop().await;
}

#[tokio::test]
async fn a_browser_gets_a_page_in_which_names_are_text() {
    let world = World::new(Routes::default().service("hello", None));
    let headers =
        [("accept", "text/html,application/xhtml+xml,*/*;q=0.8"), ("sdp-sandbox", "<script>x</script>")];
    let answer = world.send(world.request(Method::GET, "/hello", &headers, "")).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert!(answer.text.contains("&lt;script&gt;"), "{}", answer.text);
    assert!(!answer.text.contains("<script"), "{}", answer.text);
    world.stop().await;
}

#[tokio::test]
async fn a_router_without_a_table_says_so_and_an_older_table_changes_nothing() {
    let router = BuiltinRouter::bind(&RouterConfig::new(([127, 0, 0, 1], 0).into())).unwrap();
    let report = router.report();
    assert_eq!((report.kind.as_str(), report.applied), ("builtin", RouteVersion(0)));
    assert_eq!(report.base_url.as_str(), format!("http://{}/", router.local_addr()));
    assert_eq!(router.apply(Routes::default().version(7).0), RouteVersion(7));
    assert_eq!(router.apply(Routes::default().version(6).service("hello", None).0), RouteVersion(7));
    assert_eq!(router.report().applied, RouteVersion(7));
}

#[test]
fn the_configuration_says_what_it_wants() {
    let parse = |text: &str| toml::from_str::<RouterConfig>(text);
    let config = parse("listen = '127.0.0.1:0'\n[limits]\nconnect_timeout = '1500ms'").unwrap();
    assert_eq!(config.limits.connect_timeout, Duration::from_millis(1500));
    assert_eq!(config.limits.header_read_timeout, Duration::from_secs(30));
    for bad in ["limits = { connect_timeout = '0s' }", "limits = { connect_timeout = '-2s' }", "nosuch = 1"] {
        assert!(parse(&format!("listen = '127.0.0.1:0'\n{bad}")).is_err(), "{bad}");
    }
    for (bad, why) in [
        ("listen = '0.0.0.0:0'", "router.base_url is needed when router.listen is all addresses"),
        ("listen = '127.0.0.1:0'\nbase_url = 'ftp://x'", "router.base_url is an http or https URL"),
        (
            "listen = '127.0.0.1:0'\nlimits = { header_bytes = 100 }",
            "router.limits.header_bytes is at least 8192",
        ),
        ("listen = '127.0.0.1:0'\nlimits = { connections = 0 }", "router.limits.connections is at least 1"),
        ("listen = '127.0.0.1:0'\nca_file = '/nonexistent'", "router.ca_file /nonexistent: No such file"),
    ] {
        let error = BuiltinRouter::bind(&parse(bad).unwrap()).unwrap_err().to_string();
        assert!(error.starts_with(why), "{error}");
    }
}
