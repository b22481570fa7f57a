//! The words about everything that did not win.

use super::*;
use crate::routing::explain::Explanation;

fn explained(asked: Asked<'_>, trusted: bool) -> Explanation {
    ask(asked, trusted, |head| Index::new(table()).explain(head, at(0)))
}

fn shown(asked: Asked<'_>, trusted: bool) -> String {
    let it = explained(asked, trusted);
    let mut text = it.summary;
    for selector in &it.selectors {
        let says = selector.says.as_deref().unwrap_or("-");
        let mark = if selector.chosen { "*" } else { " " };
        text += &format!("\n{mark} {} {says}: {}", selector.selector, selector.why);
    }
    for rule in &it.rules {
        let mark = if rule.matches { "*" } else { " " };
        text += &format!("\n{mark} {}: {}", rule.service, rule.why);
    }
    text
}

#[test]
fn a_request_is_explained_with_what_did_not_win() {
    let key = key("bob");
    let headers: &[(&str, &str)] = &[(SANDBOX, "alice"), (ROUTING_KEY, key.as_str()), ("cookie", "a=b")];
    insta::assert_snapshot!(shown(("/hello/x", "dev.test", headers), true), @r"
    It is bob's (by the header sdp-routing-key), and goes to hello there, commit 00000000.
      the path -: it is not there
      the host -: it is not there
    * the header sdp-routing-key rk_bbbbbbbbbbbbbbbbbbbbbbbbbb: it is the strongest that is there
      the header sdp-sandbox alice: the header sdp-routing-key is stronger
      the header baggage -: it is not there
      the header tracestate -: it is not there
      the cookie sdp_routing_key -: it is not there
    * hello: /hello is the longest prefix of /hello/x
      admin: /hello/x does not begin with /hello/admin
      api: /hello/x does not begin with /api/v1
      gateway: the host is dev.test, not api.shop.test
      ledger: /hello/x does not begin with /ledger
    ");
    insta::assert_snapshot!(shown(("/hello/x", "dev.test", headers), false), @r"
    It names no sandbox, and goes to the baseline of hello.
      the path -: it is not there
      the host -: it is not there
      the header sdp-routing-key rk_bbbbbbbbbbbbbbbbbbbbbbbbbb: where it comes from is not trusted
      the header sdp-sandbox alice: where it comes from is not trusted
      the header baggage -: it is not there
      the header tracestate -: it is not there
      the cookie sdp_routing_key -: it is not there
    * hello: /hello is the longest prefix of /hello/x
      admin: /hello/x does not begin with /hello/admin
      api: /hello/x does not begin with /api/v1
      gateway: the host is dev.test, not api.shop.test
      ledger: /hello/x does not begin with /ledger
    ");
}

#[test]
fn paths_that_name_sandbox_and_service_are_explained_however_they_are_written() {
    insta::assert_snapshot!(shown(("/%7Ealice/%7Eapi/v1", "", &[]), true), @r#"
    It is alice's (by the path), and goes to api there, commit 00000000.
    * the path alice: it is the strongest that is there
      the host -: it is not there
      the header sdp-routing-key -: it is not there
      the header sdp-sandbox -: it is not there
      the header baggage -: it is not there
      the header tracestate -: it is not there
      the cookie sdp_routing_key -: it is not there
    * api: the path names it: /~api
      admin: the path names "api"
      gateway: the path names "api"
      hello: the path names "api"
      ledger: the path names "api"
    "#);
    insta::assert_snapshot!(shown(("/~dora/hello/x", "", &[]), true), @r"
    It is dora's (by the path), and goes to hello there, commit 00000000.
    * the path dora: it is the strongest that is there
      the host -: it is not there
      the header sdp-routing-key -: it is not there
      the header sdp-sandbox -: it is not there
      the header baggage -: it is not there
      the header tracestate -: it is not there
      the cookie sdp_routing_key -: it is not there
    * hello: /hello is the longest prefix of /hello/x
      shop: the host is not shop.sandboxes.test
      web: hello is more exact
    ");
}

#[test]
fn refusals_are_explained_too() {
    insta::assert_snapshot!(shown(("/~alice/hello/admin/x", "", &[]), true), @r"
    admin in the sandbox alice does not run: it crashed.
    * the path alice: it is the strongest that is there
      the host -: it is not there
      the header sdp-routing-key -: it is not there
      the header sdp-sandbox -: it is not there
      the header baggage -: it is not there
      the header tracestate -: it is not there
      the cookie sdp_routing_key -: it is not there
    * admin: /hello/admin is the longest prefix of /hello/admin/x
      api: /hello/admin/x does not begin with /api/v1
      gateway: the host is not api.shop.test
      hello: admin is more exact
      ledger: /hello/admin/x does not begin with /ledger
    ");
    insta::assert_snapshot!(shown(("/~alice/~nosuch/x", "", &[]), true), @r#"
    No service has this path or host.
    * the path alice: it is the strongest that is there
      the host -: it is not there
      the header sdp-routing-key -: it is not there
      the header sdp-sandbox -: it is not there
      the header baggage -: it is not there
      the header tracestate -: it is not there
      the cookie sdp_routing_key -: it is not there
      admin: the path names "nosuch"
      api: the path names "nosuch"
      gateway: the path names "nosuch"
      hello: the path names "nosuch"
      ledger: the path names "nosuch"
    "#);
    insta::assert_snapshot!(shown(("/hello", "", &[(SANDBOX, "zoe")]), true), @r#"
    There is no sandbox "zoe", which the header sdp-sandbox names.
      the path -: it is not there
      the host -: it is not there
      the header sdp-routing-key -: it is not there
      the header sdp-sandbox zoe: no sandbox has it, or the one that had it has expired
      the header baggage -: it is not there
      the header tracestate -: it is not there
      the cookie sdp_routing_key -: it is not there
    "#);
    insta::assert_snapshot!(shown(("/hello/..", "", &[]), true), @r"
    This path is not accepted: a part of it is . or .., or an encoded form of them.
      the path -: it is not there
      the host -: it is not there
      the header sdp-routing-key -: it is not there
      the header sdp-sandbox -: it is not there
      the header baggage -: it is not there
      the header tracestate -: it is not there
      the cookie sdp_routing_key -: it is not there
      admin: /hello/.. does not begin with /hello/admin
      api: /hello/.. does not begin with /api/v1
      gateway: the host is not api.shop.test
      hello:  is more exact
      ledger: /hello/.. does not begin with /ledger
    ");
}
