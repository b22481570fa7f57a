use http::HeaderName;
use sdp_core::sandbox::SandboxRoute;

use super::*;

fn table() -> RouteTable {
    let service = |name: &str, prefix: &str, strip, baseline: Option<&str>| ServiceRoute {
        service: ServiceName::parse(name).unwrap(),
        prefix: PathPrefix::parse(prefix).unwrap(),
        strip,
        baseline: baseline.map(|url| url.parse().unwrap()),
    };
    let row = |sandbox: &str, service: &str, target| SandboxRoute {
        sandbox: SandboxName::parse(sandbox).unwrap(),
        service: ServiceName::parse(service).unwrap(),
        target,
    };
    let instance = |n: u16| RouteTarget::Instance {
        instance: InstanceId::new(),
        address: ([127, 0, 0, 1], n).into(),
        commit: CommitId::parse(format!("{n:040x}")).unwrap(),
    };
    RouteTable {
        version: RouteVersion(1),
        services: vec![
            service("admin", "/hello/admin", true, None),
            service("api", "/api/v1", false, Some("http://api.example")),
            service("hello", "/hello", true, Some("http://hello.example")),
            service("ledger", "/ledger", true, None),
        ],
        sandboxes: vec![
            row("alice", "admin", RouteTarget::Down { reason: "it crashed".into() }),
            row("alice", "api", instance(2)),
            row("alice", "hello", instance(1)),
            row("alice", "nosuch", instance(9)),
            row("bob", "hello", instance(3)),
        ],
        names: ["alice", "bob", "carol"].map(|name| SandboxName::parse(name).unwrap()).into(),
    }
}

/// What becomes of a request, in one line.
fn chosen(index: &Index, path: &str, headers: &[(&str, &str)]) -> String {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    match index.select(path, &map) {
        Ok(choice) => {
            let to = match &choice.target {
                Target::Instance { commit, .. } => {
                    format!(
                        "{}/{}@{}",
                        choice.sandbox.unwrap(),
                        choice.service.service,
                        &commit.as_str()[39..]
                    )
                }
                Target::Baseline { .. } => match choice.sandbox {
                    Some(sandbox) => format!("baseline/{} for {sandbox}", choice.service.service),
                    None => format!("baseline/{}", choice.service.service),
                },
            };
            format!(
                "{to} {} taken {}",
                choice.rest,
                if choice.taken.is_empty() { "-" } else { &choice.taken }
            )
        }
        Err(Refusal::NoTable) => "no table".into(),
        Err(Refusal::BadPath { .. }) => "bad path".into(),
        Err(Refusal::TwoSandboxes) => "two sandboxes".into(),
        Err(Refusal::UnknownSandbox { name, near }) => format!("no sandbox {name}, near {near:?}"),
        Err(Refusal::NoService { sandbox, services }) => {
            format!("no service for {sandbox:?} of {}", services.len())
        }
        Err(Refusal::NoTarget { sandbox, service }) => format!("nothing of {service} for {sandbox:?}"),
        Err(Refusal::Down { sandbox, service, reason }) => format!("{sandbox}/{service} down: {reason}"),
    }
}

#[test]
fn path_header_and_cookie_choose_the_sandbox_and_the_longest_prefix_the_service() {
    let alice = [("sdp-sandbox", "alice")];
    let index = Index::new(table());
    for (path, headers, expected) in [
        // The service.
        ("/hello", &[][..], "baseline/hello / taken /hello"),
        ("/hello/", &[], "baseline/hello / taken /hello"),
        ("/hello/x/y", &[], "baseline/hello /x/y taken /hello"),
        ("/hellox", &[], "no service for None of 4"),
        ("/HELLO", &[], "no service for None of 4"),
        ("/", &[], "no service for None of 4"),
        ("/api/v1/x", &[], "baseline/api /api/v1/x taken -"),
        ("/api", &[], "no service for None of 4"),
        ("/hello/administrator", &[], "baseline/hello /administrator taken /hello"),
        ("/hello/admin/x", &[], "nothing of admin for None"),
        ("/ledger", &alice, "nothing of ledger for Some(\"alice\")"),
        // The sandbox, by path.
        ("/~alice/hello/x", &[], "alice/hello@1 /x taken /~alice/hello"),
        ("/~alice/hello", &[], "alice/hello@1 / taken /~alice/hello"),
        ("/~alice/api/v1", &[], "alice/api@2 /api/v1 taken /~alice"),
        ("/~carol/hello", &[], "baseline/hello for carol / taken /~carol/hello"),
        ("/~alice", &[], "no service for Some(\"alice\") of 4"),
        ("/~alice/", &[], "no service for Some(\"alice\") of 4"),
        ("/~alice/hello/admin", &[], "alice/admin down: it crashed"),
        ("/%7Ealice/hello/x", &[], "alice/hello@1 /x taken /~alice/hello"),
        ("/%7ealice/hello/x", &[], "alice/hello@1 /x taken /~alice/hello"),
        ("/~alicia/hello", &[], "no sandbox alicia, near Some(\"alice\")"),
        ("/~Alice/hello", &[], "no sandbox Alice, near Some(\"alice\")"),
        ("/~al%69ce/hello", &[], "no sandbox al%69ce, near None"),
        ("/~/hello", &[], "no sandbox , near None"),
        ("/~", &[], "no sandbox , near None"),
        ("/~alice~/hello", &[], "no sandbox alice~, near Some(\"alice\")"),
        ("/hello/~bob/x", &[], "baseline/hello /~bob/x taken /hello"),
        // By header.
        ("/hello/x", &alice, "alice/hello@1 /x taken /hello"),
        ("/hello/x", &[("sdp-sandbox", "carol")], "baseline/hello for carol /x taken /hello"),
        ("/hello/x", &[("sdp-sandbox", "dave")], "no sandbox dave, near None"),
        ("/hello/x", &[("sdp-sandbox", "")], "baseline/hello /x taken /hello"),
        ("/hello/x", &[("sdp-sandbox", "alice"), ("sdp-sandbox", "alice")], "alice/hello@1 /x taken /hello"),
        ("/hello/x", &[("sdp-sandbox", "alice"), ("sdp-sandbox", "bob")], "two sandboxes"),
        ("/hello/x", &[("sdp-sandbox", "alice,bob")], "no sandbox alice,bob, near None"),
        // By cookie.
        ("/hello/x", &[("cookie", "a=b; sdp-sandbox=bob; c=d")], "bob/hello@3 /x taken /hello"),
        ("/hello/x", &[("cookie", "a=b"), ("cookie", "sdp-sandbox=\"bob\"")], "bob/hello@3 /x taken /hello"),
        ("/hello/x", &[("cookie", "xsdp-sandbox=bob; sdp-sandbox=")], "baseline/hello /x taken /hello"),
        ("/hello/x", &[("cookie", "sdp-sandbox=dave")], "no sandbox dave, near None"),
        // The first of path, header and cookie wins.
        ("/~bob/hello", &[("sdp-sandbox", "alice")], "bob/hello@3 / taken /~bob/hello"),
        (
            "/hello",
            &[("sdp-sandbox", "alice"), ("cookie", "sdp-sandbox=bob")],
            "alice/hello@1 / taken /hello",
        ),
        ("/hello", &[("sdp-sandbox", ""), ("cookie", "sdp-sandbox=bob")], "bob/hello@3 / taken /hello"),
        ("/~carol/hello", &[("sdp-sandbox", "alice")], "baseline/hello for carol / taken /~carol/hello"),
    ] {
        assert_eq!(chosen(&index, path, headers), expected, "{path} {headers:?}");
    }
}

#[test]
fn a_path_that_could_be_read_as_another_is_refused() {
    let index = Index::new(table());
    for bad in [
        "/hello/..",
        "/hello/../ledger",
        "/hello/./x",
        "/hello/.",
        "/hello/%2e%2e/ledger",
        "/hello/%2E./ledger",
        "/hello/.%2e",
        "/hello/..%2fledger",
        "/hello/x%2F..%2Fy",
        "/hello/..\\ledger",
        "/hello/..%5Cledger",
        "/hello/..;a=b/ledger",
        "/hello/%2e%2e%3ba/ledger",
        "/~alice/../hello",
        "/~alice%2f..",
        "/../hello",
        "/hello/x%00",
        "*",
        "",
    ] {
        assert_eq!(chosen(&index, bad, &[]), "bad path", "{bad}");
    }
    for (odd, expected) in [
        ("/hello/..x", "baseline/hello /..x taken /hello"),
        ("/hello/...", "baseline/hello /... taken /hello"),
        ("/hello/.well-known/x", "baseline/hello /.well-known/x taken /hello"),
        ("/hello/a%2Fb", "baseline/hello /a%2Fb taken /hello"),
        ("/hello/%zz%", "baseline/hello /%zz% taken /hello"),
        // Encoded twice: it is a name, not a path, for whoever decodes once.
        ("/hello/%252e%252e/x", "baseline/hello /%252e%252e/x taken /hello"),
        // Slashes: compared as sent, and never left at the beginning where something was taken off.
        ("//hello/x", "no service for None of 4"),
        ("/hello//x", "baseline/hello /x taken /hello"),
        ("/hello///evil.example/x", "baseline/hello /evil.example/x taken /hello"),
        ("/~alice//hello/x", "no service for Some(\"alice\") of 4"),
        ("//~alice/hello", "no service for None of 4"),
        ("/api/v1//x", "baseline/api /api/v1//x taken -"),
        ("/%68ello", "no service for None of 4"),
        ("/hello%2fx", "no service for None of 4"),
    ] {
        assert_eq!(chosen(&index, odd, &[]), expected, "{odd}");
    }
}

#[test]
fn a_service_at_the_root_takes_what_no_other_does_but_no_sandbox_name() {
    let mut table = table();
    table.services.push(ServiceRoute {
        service: ServiceName::parse("web").unwrap(),
        prefix: PathPrefix::parse("/").unwrap(),
        strip: true,
        baseline: Some("http://web.example".parse().unwrap()),
    });
    let index = Index::new(table);
    for (path, expected) in [
        ("/", "baseline/web / taken -"),
        ("/x", "baseline/web /x taken -"),
        ("/hellox", "baseline/web /hellox taken -"),
        ("/hello/x", "baseline/hello /x taken /hello"),
        ("/~alice", "baseline/web for alice / taken /~alice"),
        ("/~alice/x", "baseline/web for alice /x taken /~alice"),
        ("/~alice//x", "baseline/web for alice /x taken /~alice"),
        ("/~dave/x", "no sandbox dave, near None"),
        ("//evil.example", "baseline/web //evil.example taken -"),
        (&format!("/{}", "a/".repeat(500)), &format!("baseline/web /{} taken -", "a/".repeat(500))),
        (&format!("/{}", "é".repeat(500)), &format!("baseline/web /{} taken -", "é".repeat(500))),
    ] {
        assert_eq!(chosen(&index, path, &[]), expected, "{path}");
    }
}

#[test]
fn the_longest_prefix_that_a_name_can_be_is_found() {
    let prefix = format!("/{}", "p".repeat(LONGEST_PREFIX - 1));
    let mut table = table();
    table.services[2].prefix = PathPrefix::parse(prefix.as_str()).unwrap();
    let index = Index::new(table);
    assert_eq!(chosen(&index, &prefix, &[]), format!("baseline/hello / taken {prefix}"));
    assert_eq!(chosen(&index, &format!("{prefix}/x"), &[]), format!("baseline/hello /x taken {prefix}"));
    assert_eq!(chosen(&index, &format!("{prefix}p"), &[]), "no service for None of 4");
}

#[test]
fn without_a_table_nothing_is_chosen() {
    assert_eq!(chosen(&Index::default(), "/hello", &[]), "no table");
}

proptest::proptest! {
    #[test]
    fn no_path_reaches_a_service_outside_its_prefix(path in "/[a-z~./%25eE;\\\\]{0,24}", tail in "(hello|api/v1|~alice/hello)?[/.%2eE~a]{0,12}") {
        let index = Index::new(table());
        for path in [path, format!("/{tail}")] {
            if let Ok(choice) = index.select(&path, &HeaderMap::new()) {
                let prefix = choice.service.prefix.as_str();
                let decoded = percent_encoding::percent_decode_str(&choice.rest).decode_utf8_lossy();
                proptest::prop_assert!(choice.rest.starts_with('/'));
                proptest::prop_assert!(decoded.split(['/', '\\']).all(|part| part != ".." && part != "."));
                proptest::prop_assert!(choice.service.strip || choice.rest.starts_with(prefix));
            }
        }
    }
}
