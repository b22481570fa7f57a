//! Paths that could be read in two ways, and those that only look so.

use super::*;
use crate::name::PathPrefix;

fn rest(index: &Index, path: &str) -> String {
    ask((path, "", &[]), true, |head| match index.select(head, at(0)) {
        Ok(choice) => format!("{} {}", choice.service.service, choice.rest),
        Err(refusal) => refusal.code().to_owned(),
    })
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
        assert_eq!(rest(&index, bad), "bad_path", "{bad}");
    }
    for (odd, expected) in [
        ("/hello/..x", "hello /..x"),
        ("/hello/...", "hello /..."),
        ("/hello/.well-known/x", "hello /.well-known/x"),
        ("/hello/a%2Fb", "hello /a%2Fb"),
        ("/hello/%zz%", "hello /%zz%"),
        // Encoded twice: it is a name, not a path, for whoever decodes once.
        ("/hello/%252e%252e/x", "hello /%252e%252e/x"),
        // Slashes: compared as sent, and never left at the beginning where something was taken off.
        ("//hello/x", "no_service"),
        ("/hello//x", "hello /x"),
        ("/hello///evil.example/x", "hello /evil.example/x"),
        ("/~alice//hello/x", "no_service"),
        ("//~alice/hello", "no_service"),
        ("/api/v1//x", "api /api/v1//x"),
        ("/%68ello", "no_service"),
        ("/hello%2fx", "no_service"),
    ] {
        assert_eq!(rest(&index, odd), expected, "{odd}");
    }
}

#[test]
fn a_service_at_the_root_takes_what_no_other_does() {
    let mut table = table();
    let web = service("web", path_rule("/", true), Some("http://web.example"));
    table.environments[0].services.push(web);
    let index = Index::new(table);
    for (path, expected) in [
        ("/", "web /"),
        ("/x", "web /x"),
        ("/hellox", "web /hellox"),
        ("/hello/x", "hello /x"),
        ("/~carol", "web /"),
        ("/~carol//x", "web /x"),
        ("/~zoe/x", "unknown_sandbox"),
        ("//evil.example", "web //evil.example"),
        (&format!("/{}", "a/".repeat(500)), &format!("web /{}", "a/".repeat(500))),
        (&format!("/{}", "é".repeat(500)), &format!("web /{}", "é".repeat(500))),
    ] {
        assert_eq!(rest(&index, path), expected, "{path}");
    }
}

#[test]
fn the_longest_prefix_that_a_name_can_be_is_found() {
    let prefix = format!("/{}", "p".repeat(LONGEST_PREFIX - 1));
    assert!(PathPrefix::parse(format!("{prefix}p")).is_err());
    let mut table = table();
    table.environments[0].services[3].rule = path_rule(&prefix, true);
    let index = Index::new(table);
    assert_eq!(rest(&index, &prefix), "hello /");
    assert_eq!(rest(&index, &format!("{prefix}/x")), "hello /x");
    assert_eq!(rest(&index, &format!("{prefix}p")), "no_service");
}

proptest::proptest! {
    #[test]
    fn no_path_reaches_a_service_outside_its_prefix(
        path in "/[a-z~./%25eE;\\\\]{0,24}",
        tail in "(hello|api/v1|~alice/hello|~bob/~api)?[/.%2eE~a]{0,12}",
    ) {
        let index = Index::new(table());
        for path in [path, format!("/{tail}")] {
            ask((&path, "", &[]), true, |head| {
                if let Ok(choice) = index.select(head, at(0)) {
                    let decoded = percent_encoding::percent_decode_str(&choice.rest).decode_utf8_lossy();
                    proptest::prop_assert!(choice.rest.starts_with('/'));
                    proptest::prop_assert!(decoded.split(['/', '\\']).all(|part| part != ".." && part != "."));
                    if let MatchRule::Path { prefix, strip: false } = &choice.service.rule {
                        let named = choice.taken.contains("/~api");
                        proptest::prop_assert!(named || choice.rest.starts_with(prefix.as_str()));
                    }
                }
                Ok(())
            })?;
        }
    }
}
