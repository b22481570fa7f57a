//! The rules in the header of [`crate::routing`], as tables.

use super::*;
use crate::name::{HostName, PathPrefix};
use crate::routing::SandboxRoute;

mod explain;
mod paths;

/// Alice's key, Bob's and so on: seven times the same letter would do, but a key has 26.
pub(super) fn key(of: &str) -> RoutingKey {
    let letter = &of[..1];
    RoutingKey::parse(format!("rk_{}", letter.repeat(26))).unwrap()
}

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

pub(super) fn path_rule(prefix: &str, strip: bool) -> MatchRule {
    MatchRule::Path { prefix: PathPrefix::parse(prefix).unwrap(), strip }
}

pub(super) fn service(name: &str, rule: MatchRule, baseline: Option<&str>) -> ServiceRoute {
    let baseline = baseline.map(|url| url.parse().unwrap());
    ServiceRoute { service: ServiceName::parse(name).unwrap(), rule, baseline }
}

fn host_rule(host: &str) -> MatchRule {
    MatchRule::Host { host: HostName::parse(host).unwrap() }
}

fn sandbox(name: &str, routes: Vec<(&str, RouteTarget)>) -> SandboxRoutes {
    let row = |(service, target)| SandboxRoute { service: ServiceName::parse(service).unwrap(), target };
    SandboxRoutes {
        name: SandboxName::parse(name).unwrap(),
        key: key(name),
        expires_at: None,
        routes: routes.into_iter().map(row).collect(),
    }
}

fn instance(n: u16) -> RouteTarget {
    RouteTarget::Instance {
        instance: InstanceId::new(),
        address: ([127, 0, 0, 1], n).into(),
        commit: CommitId::parse(format!("{n:040x}")).unwrap(),
        of: None,
    }
}

fn of(lender: &str, mut target: RouteTarget) -> RouteTarget {
    if let RouteTarget::Instance { of, .. } = &mut target {
        *of = Some(SandboxName::parse(lender).unwrap());
    }
    target
}

/// Two environments: `default` without a domain, and `staging`.
pub(super) fn table() -> RouteTable {
    let down = |reason: &str| RouteTarget::Down { reason: reason.into() };
    let mut gone = sandbox("gone", vec![("hello", instance(7))]);
    gone.expires_at = Some(at(1000));
    let default = EnvironmentRoutes {
        name: EnvironmentName::parse("default").unwrap(),
        domain: None,
        when_down: WhenDown::Fail,
        services: vec![
            service("admin", path_rule("/hello/admin", true), None),
            service("api", path_rule("/api/v1", false), Some("http://api.example")),
            service("gateway", host_rule("api.shop.test"), Some("http://gateway.example")),
            service("hello", path_rule("/hello", true), Some("http://hello.example")),
            service("ledger", path_rule("/ledger", true), None),
        ],
        sandboxes: vec![
            sandbox(
                "alice",
                vec![
                    ("admin", down("it crashed")),
                    ("api", instance(2)),
                    ("gateway", instance(5)),
                    ("hello", instance(1)),
                    ("nosuch", instance(9)),
                ],
            ),
            sandbox(
                "bob",
                vec![
                    ("api", of("alice", instance(2))),
                    ("gateway", RouteTarget::External { address: ([10, 0, 0, 9], 8080).into() }),
                    ("hello", instance(3)),
                    ("ledger", RouteTarget::Baseline { reason: None }),
                ],
            ),
            sandbox("carol", vec![]),
            gone,
        ],
    };
    let staging = EnvironmentRoutes {
        name: EnvironmentName::parse("staging").unwrap(),
        domain: Some(HostName::parse("sandboxes.test").unwrap()),
        when_down: WhenDown::Baseline,
        services: vec![
            service("hello", path_rule("/hello", true), Some("https://hello.staging.example")),
            service("shop", host_rule("shop.sandboxes.test"), Some("http://shop.example")),
            service("web", path_rule("/", true), Some("http://web.example/base")),
        ],
        sandboxes: vec![sandbox(
            "dora",
            vec![
                ("hello", instance(4)),
                ("shop", instance(6)),
                ("web", RouteTarget::Baseline { reason: Some("it crashed".into()) }),
            ],
        )],
    };
    RouteTable { version: RouteVersion(1), environments: vec![default, staging] }
}

/// A request: the path, the host (empty: none), headers.
pub(super) type Asked<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

pub(super) fn ask<T>(
    (path, host, headers): Asked<'_>,
    trusted: bool,
    then: impl FnOnce(&Head<'_>) -> T,
) -> T {
    let all = |name: &str| {
        headers.iter().filter(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()).collect()
    };
    then(&Head { path, host: Some(host).filter(|host| !host.is_empty()), headers: &all, trusted })
}

/// What becomes of a request, in one line.
fn chosen(index: &Index, asked: Asked<'_>, trusted: bool, now: Timestamp) -> String {
    ask(asked, trusted, |head| match index.select(head, now) {
        Ok(choice) => {
            let by = match choice.sandbox {
                Some((sandbox, by)) => format!("{} by {by:?}", sandbox.name),
                None => "-".into(),
            };
            let taken = if choice.taken.is_empty() { "-" } else { &choice.taken };
            let served = choice.served_by();
            let served = served.replace("00000000", "");
            format!("{by} | {served} | {} taken {taken}", choice.rest)
        }
        Err(refusal) => format!("{} {refusal}", refusal.status()),
    })
}

fn all_choose(rows: &[(Asked<'_>, &str)]) {
    let index = Index::new(table());
    for (asked, expected) in rows {
        assert_eq!(chosen(&index, *asked, true, at(0)), *expected, "{asked:?}");
    }
}

#[test]
fn each_selector_chooses_the_sandbox() {
    let (a, b) = (key("alice"), key("bob"));
    let (a, b) = (a.as_str(), b.as_str());
    let list = format!("a=1, sdp-routing-key={a};p=1,b=2");
    let state = format!("vendor=x, sdp={b}");
    let pair = format!("x=y; sdp_routing_key={b}; z=1");
    let quoted = format!("sdp_routing_key=\"{b}\"");
    all_choose(&[
        (("/hello/x", "", &[]), "- | baseline/hello | /x taken /hello"),
        (("/~alice/hello/x", "", &[]), "alice by Path | sandbox/alice/hello@ | /x taken /~alice/hello"),
        (("/%7Ealice/hello", "", &[]), "alice by Path | sandbox/alice/hello@ | / taken /~alice/hello"),
        (("/%7ealice/hello", "", &[]), "alice by Path | sandbox/alice/hello@ | / taken /~alice/hello"),
        (("/hello/x", "dora.sandboxes.test", &[]), "dora by Host | sandbox/dora/hello@ | /x taken /hello"),
        (("/hello/", "DORA.sandboxes.test.:80", &[]), "dora by Host | sandbox/dora/hello@ | / taken /hello"),
        (("/hello", "", &[(ROUTING_KEY, a)]), "alice by RoutingKey | sandbox/alice/hello@ | / taken /hello"),
        (("/hello", "", &[(SANDBOX, "bob")]), "bob by Sandbox | sandbox/bob/hello@ | / taken /hello"),
        (("/hello", "", &[("baggage", &list)]), "alice by Baggage | sandbox/alice/hello@ | / taken /hello"),
        (
            ("/hello", "", &[("baggage", "a=1"), ("baggage", &list)]),
            "alice by Baggage | sandbox/alice/hello@ | / taken /hello",
        ),
        (
            ("/hello", "", &[("tracestate", &state)]),
            "bob by Tracestate | sandbox/bob/hello@ | / taken /hello",
        ),
        (("/hello", "", &[("cookie", &pair)]), "bob by Cookie | sandbox/bob/hello@ | / taken /hello"),
        (
            ("/hello", "", &[("cookie", "a=b"), ("cookie", &quoted)]),
            "bob by Cookie | sandbox/bob/hello@ | / taken /hello",
        ),
        // The environment is the sandbox's, whatever the host.
        (
            ("/hello", "api.shop.test", &[(SANDBOX, "dora")]),
            "dora by Sandbox | sandbox/dora/hello@ | / taken /hello",
        ),
    ]);
}

#[test]
fn of_several_selectors_the_strongest_wins_even_if_it_is_wrong() {
    let keys: Vec<RoutingKey> = ["alice", "bob", "carol"].map(key).into();
    let unknown = key("zoe");
    let cookie = |key: &RoutingKey| format!("sdp_routing_key={key}");
    let baggage = |key: &RoutingKey| format!("sdp-routing-key={key}");
    let state = |key: &RoutingKey| format!("sdp={key}");
    let (cookie_a, baggage_b, state_c) = (cookie(&keys[0]), baggage(&keys[1]), state(&keys[2]));
    let (two, same) = (
        format!("{},{}", baggage(&keys[0]), baggage(&keys[1])),
        format!("{},{}", baggage(&keys[0]), baggage(&keys[0])),
    );
    let wrong = baggage(&unknown);
    let everything: &[(&str, &str)] = &[
        ("cookie", &cookie_a),
        ("tracestate", &state_c),
        ("baggage", &baggage_b),
        (SANDBOX, "dora"),
        (ROUTING_KEY, keys[0].as_str()),
    ];
    let rows: &[(Asked<'_>, &str)] = &[
        (
            ("/~carol/hello", "dora.sandboxes.test", everything),
            "carol by Path | baseline/hello | / taken /~carol/hello",
        ),
        (
            ("/hello", "dora.sandboxes.test", everything),
            "dora by Host | sandbox/dora/hello@ | / taken /hello",
        ),
        (("/hello", "", everything), "alice by RoutingKey | sandbox/alice/hello@ | / taken /hello"),
        (("/hello", "", &everything[..4]), "dora by Sandbox | sandbox/dora/hello@ | / taken /hello"),
        (("/hello", "", &everything[..3]), "bob by Baggage | sandbox/bob/hello@ | / taken /hello"),
        (("/hello", "", &everything[..2]), "carol by Tracestate | baseline/hello | / taken /hello"),
        (("/hello", "", &everything[..1]), "alice by Cookie | sandbox/alice/hello@ | / taken /hello"),
        // Empty is not there.
        (
            ("/hello", "", &[(ROUTING_KEY, " "), (SANDBOX, ""), ("cookie", &cookie_a)]),
            "alice by Cookie | sandbox/alice/hello@ | / taken /hello",
        ),
        (
            ("/hello", "", &[("cookie", "sdp_routing_key=; xsdp_routing_key=1")]),
            "- | baseline/hello | / taken /hello",
        ),
        (
            ("/hello", "", &[("baggage", "sdp-routing-key=, xsdp-routing-key=1")]),
            "- | baseline/hello | / taken /hello",
        ),
        // What is there and wrong is not overruled.
        (("/~zoe/hello", "", everything), "404 There is no sandbox \"zoe\", which the path names."),
        (("/~/hello", "", everything), "404 There is no sandbox \"\", which the path names."),
        (("/~", "", &[]), "404 There is no sandbox \"\", which the path names."),
        (("/~Alice/hello", "", &[]), "404 There is no sandbox \"Alice\", which the path names."),
        (("/~al%69ce/hello", "", &[]), "404 There is no sandbox \"al%69ce\", which the path names."),
        (
            ("/hello", "zoe.sandboxes.test", everything),
            "404 There is no sandbox \"zoe\", which the host names.",
        ),
        (
            ("/hello", "", &[(SANDBOX, "alice,bob")]),
            "404 There is no sandbox \"alice,bob\", which the header sdp-sandbox names.",
        ),
        // A name is no key, and a key no name.
        (
            ("/hello", "", &[(ROUTING_KEY, "alice")]),
            "404 There is no sandbox \"alice\", which the header sdp-routing-key names.",
        ),
        (
            ("/hello", "", &[("baggage", &wrong), ("cookie", &cookie_a)]),
            "404 There is no sandbox \"rk_zzzzzzzzzzzzzzzzzzzzzzzzzz\", which the header baggage names.",
        ),
        // Said twice.
        (("/hello", "", &[("baggage", &two)]), "400 The header baggage names two different sandboxes."),
        (("/hello", "", &[("baggage", &same)]), "alice by Baggage | sandbox/alice/hello@ | / taken /hello"),
        (
            ("/hello", "", &[(SANDBOX, "alice"), (SANDBOX, "bob")]),
            "400 The header sdp-sandbox names two different sandboxes.",
        ),
        (
            ("/hello", "", &[(SANDBOX, "alice"), (SANDBOX, "alice")]),
            "alice by Sandbox | sandbox/alice/hello@ | / taken /hello",
        ),
        (
            ("/~carol/hello", "", &[("baggage", &two)]),
            "carol by Path | baseline/hello | / taken /~carol/hello",
        ),
    ];
    all_choose(rows);
}

#[test]
fn headers_and_cookies_of_origins_that_are_not_trusted_count_as_absent() {
    let index = Index::new(table());
    let key = key("alice");
    let (bag, state, cookie) =
        (format!("sdp-routing-key={key}"), format!("sdp={key}"), format!("sdp_routing_key={key}"));
    let headers: &[(&str, &str)] = &[
        (ROUTING_KEY, key.as_str()),
        (SANDBOX, "alice"),
        ("baggage", &bag),
        ("tracestate", &state),
        ("cookie", &cookie),
    ];
    for (path, host, expected) in [
        ("/hello", "", "- | baseline/hello | / taken /hello"),
        ("/~bob/hello", "", "bob by Path | sandbox/bob/hello@ | / taken /~bob/hello"),
        ("/hello", "dora.sandboxes.test", "dora by Host | sandbox/dora/hello@ | / taken /hello"),
    ] {
        assert_eq!(chosen(&index, (path, host, headers), false, at(0)), expected, "{path} {host}");
    }
}

#[test]
fn an_expired_sandbox_is_unknown() {
    let index = Index::new(table());
    let key = key("gone");
    let by_key: &[(&str, &str)] = &[(ROUTING_KEY, key.as_str())];
    assert!(chosen(&index, ("/~gone/hello", "", &[]), true, at(999)).starts_with("gone by Path"));
    assert!(chosen(&index, ("/hello", "", by_key), true, at(999)).starts_with("gone by RoutingKey"));
    for asked in [("/~gone/hello", "", &[][..]), ("/hello", "", by_key)] {
        assert!(chosen(&index, asked, true, at(1000)).starts_with("404 There is no sandbox"), "{asked:?}");
    }
    assert_eq!(table().next_expiry(at(0)), Some(at(1000)));
    assert_eq!(table().next_expiry(at(1000)), None);
    let left = table().at(at(1000));
    let names = left.environments[0].sandboxes.iter().map(|sandbox| sandbox.name.as_str());
    assert_eq!(names.collect::<Vec<_>>(), ["alice", "bob", "carol"]);
}

#[test]
fn without_a_sandbox_the_host_chooses_the_environment() {
    all_choose(&[
        (("/hello", "sandboxes.test", &[]), "- | baseline/hello | / taken /hello"),
        (("/", "sandboxes.test", &[]), "- | baseline/web | / taken -"),
        (("/hello", "shop.sandboxes.test", &[]), "- | baseline/shop | /hello taken -"),
        (("/hello", "a.b.sandboxes.test", &[]), "- | baseline/hello | / taken /hello"),
        // Of `default` all that no other environment has.
        (("/", "elsewhere.test", &[]), "404 No service has this path or host."),
        (("/", "", &[]), "404 No service has this path or host."),
        (("/hello/x", "api.shop.test:8443", &[]), "- | baseline/gateway | /hello/x taken -"),
    ]);
    let mut one = table();
    one.environments.remove(0);
    let only = Index::new(one);
    assert_eq!(chosen(&only, ("/x", "elsewhere.test", &[]), true, at(0)), "- | baseline/web | /x taken -");
    let mut two = table();
    two.environments[0].name = EnvironmentName::parse("other").unwrap();
    let none = Index::new(two);
    assert_eq!(
        chosen(&none, ("/hello", "elsewhere.test", &[]), true, at(0)),
        "404 No service has this path or host."
    );
}

#[test]
fn a_service_is_found_by_name_by_host_and_by_the_longest_prefix() {
    all_choose(&[
        // By name: at its own root, whatever its rule.
        (("/~alice/~hello/x", "", &[]), "alice by Path | sandbox/alice/hello@ | /x taken /~alice/~hello"),
        (("/~alice/~hello", "", &[]), "alice by Path | sandbox/alice/hello@ | / taken /~alice/~hello"),
        (("/~alice/%7Eapi/v1/x", "", &[]), "alice by Path | sandbox/alice/api@ | /v1/x taken /~alice/~api"),
        (
            ("/%7Ealice/%7egateway/x", "", &[]),
            "alice by Path | sandbox/alice/gateway@ | /x taken /~alice/~gateway",
        ),
        (
            ("/~bob/~hello//evil.test", "", &[]),
            "bob by Path | sandbox/bob/hello@ | /evil.test taken /~bob/~hello",
        ),
        (("/~alice/~nosuch/x", "", &[]), "404 No service has this path or host."),
        (("/~alice/~HELLO/x", "", &[]), "404 No service has this path or host."),
        (("/~alice/~/x", "", &[]), "404 No service has this path or host."),
        // Only after a sandbox.
        (
            ("/~hello/x", "", &[(SANDBOX, "alice")]),
            "404 There is no sandbox \"hello\", which the path names.",
        ),
        // By host.
        (
            ("/x", "api.shop.test", &[(SANDBOX, "alice")]),
            "alice by Sandbox | sandbox/alice/gateway@ | /x taken -",
        ),
        (("/~alice/x", "API.shop.test", &[]), "alice by Path | sandbox/alice/gateway@ | /x taken /~alice"),
        (
            ("/hello", "shop.sandboxes.test", &[(SANDBOX, "dora")]),
            "dora by Sandbox | sandbox/dora/shop@ | /hello taken -",
        ),
        // By prefix, in whole segments.
        (("/hello/", "", &[]), "- | baseline/hello | / taken /hello"),
        (("/hello/x/y", "", &[]), "- | baseline/hello | /x/y taken /hello"),
        (("/hellox", "", &[]), "404 No service has this path or host."),
        (("/HELLO", "", &[]), "404 No service has this path or host."),
        (("/api/v1/x", "", &[]), "- | baseline/api | /api/v1/x taken -"),
        (("/api", "", &[]), "404 No service has this path or host."),
        (("/hello/administrator", "", &[]), "- | baseline/hello | /administrator taken /hello"),
        (("/hello/admin/x", "", &[]), "404 admin has no baseline, and this request names no sandbox."),
        (("/~alice/api/v1", "", &[]), "alice by Path | sandbox/alice/api@ | /api/v1 taken /~alice"),
        (("/hello/~bob/x", "", &[]), "- | baseline/hello | /~bob/x taken /hello"),
        (("/~alice", "", &[]), "404 No service has this path or host."),
        (("/~dora/x", "", &[]), "dora by Path | baseline/web; instead-of=\"it crashed\" | /x taken /~dora"),
        (("/~dora", "", &[]), "dora by Path | baseline/web; instead-of=\"it crashed\" | / taken /~dora"),
    ]);
}

#[test]
fn a_target_is_an_instance_one_of_another_sandbox_an_address_outside_or_the_baseline() {
    all_choose(&[
        (("/~bob/api/v1", "", &[]), "bob by Path | sandbox/alice/api@ | /api/v1 taken /~bob"),
        (("/~bob/~gateway/x", "", &[]), "bob by Path | external/gateway | /x taken /~bob/~gateway"),
        (("/~carol/hello", "", &[]), "carol by Path | baseline/hello | / taken /~carol/hello"),
        (
            ("/~carol/ledger", "", &[]),
            "404 Nothing runs of ledger in the sandbox carol, and ledger has no baseline.",
        ),
        (
            ("/~bob/ledger", "", &[]),
            "404 Nothing runs of ledger in the sandbox bob, and ledger has no baseline.",
        ),
        (("/~alice/hello/admin", "", &[]), "503 admin in the sandbox alice does not run: it crashed."),
    ]);
    // Where to if the instance cannot be reached: the environment's policy.
    let index = Index::new(table());
    let otherwise = |path: &str| {
        ask((path, "", &[]), true, |head| match index.select(head, at(0)).unwrap().target {
            Target::Instance { otherwise, .. } => otherwise.map(ToString::to_string),
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(otherwise("/~alice/hello"), None);
    assert_eq!(otherwise("/~dora/hello").as_deref(), Some("https://hello.staging.example/"));
}

#[test]
fn what_was_probably_meant_is_said_of_names_alone() {
    let index = Index::new(table());
    let near = |asked| {
        ask(asked, true, |head| match index.select(head, at(0)).unwrap_err() {
            Refusal::UnknownSandbox { near, .. } => near,
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(near(("/~alicia/hello", "", &[])).as_deref(), Some("alice"));
    assert_eq!(near(("/hello", "dara.sandboxes.test", &[])).as_deref(), Some("dora"));
    let close = format!("{}b", &key("alice").as_str()[..28]);
    assert_eq!(near(("/hello", "", &[(ROUTING_KEY, &close)])), None);
    let long = format!("/~{}/x", "x".repeat(5000));
    ask((&long, "", &[]), true, |head| match index.select(head, at(0)).unwrap_err() {
        Refusal::UnknownSandbox { name, .. } => assert_eq!(name.len(), ECHO),
        other => panic!("{other:?}"),
    });
}

#[test]
fn without_a_table_nothing_is_chosen() {
    assert_eq!(
        chosen(&Index::default(), ("/hello", "", &[]), true, at(0)),
        "503 This router has no routes yet."
    );
}

#[test]
fn a_shared_link_leads_to_a_path_of_the_same_host_and_nowhere_else() {
    let key = key("alice");
    let parsed = |rest: &str| SharedLink::parse(&rest.replace("KEY", key.as_str()));
    let link = |to: &str| Some(SharedLink { key: Some(key.clone()), to: to.to_owned() });
    for (sent, expected) in [
        ("/~~/KEY/", link("/")),
        ("/~~/KEY", link("/")),
        ("/%7E~/KEY", link("/")),
        ("/~%7e/KEY/x", link("/x")),
        ("/~~/KEY/cart?item=1", link("/cart?item=1")),
        ("/~~/KEY?item=1", link("/?item=1")),
        ("/~~/off/cart", Some(SharedLink { key: None, to: "/cart".into() })),
        ("/~~/off", Some(SharedLink { key: None, to: "/".into() })),
        // Nowhere else.
        ("/~~/KEY//evil.test", link("/evil.test")),
        ("/~~/KEY///evil.test", link("/evil.test")),
        ("/~~/KEY/\\evil.test", link("/evil.test")),
        ("/~~/KEY/\\/evil.test", link("/evil.test")),
        ("/~~/KEY/http://evil.test", link("/http://evil.test")),
        // No links.
        ("/~~/", None),
        ("/~~", None),
        ("/~~/alice/", None),
        ("/~~/OFF/", None),
        ("/~~/rk_short/", None),
        ("/x/~~/KEY/", None),
    ] {
        assert_eq!(parsed(sent), expected, "{sent}");
    }
    assert_eq!(
        SharedLink::parse(super::super::share_url(&"http://r.test".parse().unwrap(), &key).path()),
        link("/")
    );
}

#[test]
fn a_shared_link_is_followed_while_its_sandbox_lives() {
    let index = Index::new(table());
    let link = |key| SharedLink { key, to: "/".into() };
    assert_eq!(index.follow(&link(Some(key("gone"))), at(999)), Ok(()));
    assert_eq!(index.follow(&link(None), at(0)), Ok(()));
    for (key, now) in [(key("gone"), 1000), (key("zoe"), 0)] {
        let refusal = index.follow(&link(Some(key.clone())), at(now)).unwrap_err();
        assert_eq!(refusal.to_string(), format!("There is no sandbox \"{key}\", which the path names."));
    }
    assert_eq!(Index::default().follow(&link(None), at(0)), Err(Refusal::NoTable));
}
