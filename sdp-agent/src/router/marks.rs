//! What marks a request as a sandbox's, on its way on: pure functions over a [`HeaderMap`].
//!
//! Whatever a request says by which sandboxes are chosen is taken off; what the router chose is put on. So services can pass it
//! on in whatever way they pass anything on, and what did not choose (another selector was stronger, the origin is not trusted)
//! does not choose at the next hop either. Cookies with the key are for browsers: no service gets to see them, nor the session of
//! SDP's own pages (cookies know no ports, so where server and router share a host's name, every service would be handed it).

use std::net::IpAddr;

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;
use sdp_core::name::{RoutingKey, SandboxName};
use sdp_core::routing::{COOKIE, ROUTING_KEY, SANDBOX, TRACESTATE};

use super::headers::set;

const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
const STATE: HeaderName = HeaderName::from_static("tracestate");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What W3C allows in a `tracestate`.
const MOST_STATES: usize = 32;

/// Whether headers and cookies may choose a sandbox. Where what a proxy in front says is believed, the origin is whom it names last.
pub(crate) fn is_trusted(networks: &[IpNet], peer: IpAddr, behind_proxy: bool, headers: &HeaderMap) -> bool {
    if networks.is_empty() {
        return true;
    }
    let said = headers.get_all(FORWARDED_FOR).iter().next_back().filter(|_| behind_proxy);
    let origin = match said.map(|value| value.to_str()) {
        None => Some(peer),
        Some(Ok(list)) => list.rsplit(',').next().and_then(|last| last.trim().parse::<IpAddr>().ok()),
        Some(Err(_)) => None,
    };
    origin.is_some_and(|origin| networks.iter().any(|network| network.contains(&origin.to_canonical())))
}

/// Puts the sandbox's marks in the place of all that the request had.
pub(crate) fn set_marks(headers: &mut HeaderMap, sandbox: Option<(&SandboxName, &RoutingKey)>) {
    headers.remove(ROUTING_KEY);
    headers.remove(SANDBOX);
    let baggage = others(headers, &BAGGAGE, ROUTING_KEY);
    let state = others(headers, &STATE, TRACESTATE);
    take_cookies(headers);
    let Some((name, key)) = sandbox else {
        replace(headers, BAGGAGE, baggage);
        replace(headers, STATE, state);
        return;
    };
    set(headers, HeaderName::from_static(ROUTING_KEY), key.as_str());
    set(headers, HeaderName::from_static(SANDBOX), name.as_str());
    let own = format!("{ROUTING_KEY}={key}").into_bytes();
    let members = baggage.unwrap_or_else(|| values(headers, &BAGGAGE));
    replace(headers, BAGGAGE, Some(members.into_iter().chain([own]).collect()));
    // Passed on by tracing libraries, and only together with `traceparent`: where there is none, ours would be lost.
    let members = state.unwrap_or_else(|| values(headers, &STATE));
    if headers.contains_key(&STATE) {
        let own = format!("{TRACESTATE}={key}").into_bytes();
        let members = std::iter::once(own).chain(members).take(MOST_STATES);
        let members = members.collect();
        replace(headers, STATE, Some(members));
    }
}

/// The members of a list without those of this name; none: it has no such member, and stays as it is.
fn others(headers: &HeaderMap, header: &HeaderName, name: &str) -> Option<Vec<Vec<u8>>> {
    let is_named = |member: &Vec<u8>| {
        member.split(|byte| matches!(byte, b'=' | b';')).next().unwrap_or_default().trim_ascii()
            == name.as_bytes()
    };
    let members = values(headers, header);
    members.iter().any(is_named).then(|| members.into_iter().filter(|member| !is_named(member)).collect())
}

fn values(headers: &HeaderMap, header: &HeaderName) -> Vec<Vec<u8>> {
    let values = headers.get_all(header).iter();
    let members = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    members.map(|member| member.trim_ascii().to_vec()).filter(|member| !member.is_empty()).collect()
}

fn replace(headers: &mut HeaderMap, header: HeaderName, members: Option<Vec<Vec<u8>>>) {
    let Some(members) = members else { return };
    headers.remove(&header);
    if let Ok(value) = HeaderValue::from_bytes(&members.join(&b','))
        && !value.is_empty()
    {
        headers.insert(header, value);
    }
}

/// Takes out the key's cookie, and the session of SDP's own pages.
fn take_cookies(headers: &mut HeaderMap) {
    let is_ours = |pair: &[u8]| {
        let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
        name == b"sdp" || name == b"__Host-sdp" || name == COOKIE.as_bytes()
    };
    let sent: Vec<HeaderValue> = headers.get_all(header::COOKIE).iter().cloned().collect();
    if !sent.iter().any(|value| value.as_bytes().split(|byte| *byte == b';').any(is_ours)) {
        return;
    }
    headers.remove(header::COOKIE);
    for value in sent {
        let kept: Vec<&[u8]> =
            value.as_bytes().split(|byte| *byte == b';').filter(|pair| !is_ours(pair)).collect();
        let kept = kept.join(&b';');
        if let Ok(kept) = HeaderValue::from_bytes(kept.trim_ascii())
            && !kept.is_empty()
        {
            headers.append(header::COOKIE, kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn shown(headers: &HeaderMap) -> String {
        let mut lines: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort_unstable();
        lines.join("\n")
    }

    #[test]
    fn what_was_chosen_takes_the_place_of_all_that_was_said() {
        let sent = [
            ("sdp-routing-key", "rk_x"),
            ("sdp-sandbox", "eve"),
            ("baggage", "a=1;p=2, sdp-routing-key=rk_x;q"),
            ("baggage", "b=2"),
            ("tracestate", "v=1,sdp=rk_x"),
            ("cookie", "a=1; sdp_routing_key=rk_x; sdp=session; b=2"),
        ];
        let (name, key) = (SandboxName::parse("alice").unwrap(), RoutingKey::from_random([7; 16]));
        let mut headers = map(&sent);
        set_marks(&mut headers, Some((&name, &key)));
        insta::assert_snapshot!(shown(&headers).replace(key.as_str(), "KEY"), @r"
        baggage: a=1;p=2,b=2,sdp-routing-key=KEY
        cookie: a=1; b=2
        sdp-routing-key: KEY
        sdp-sandbox: alice
        tracestate: sdp=KEY,v=1
        ");
        let mut headers = map(&sent);
        set_marks(&mut headers, None);
        insta::assert_snapshot!(shown(&headers), @r"
        baggage: a=1;p=2,b=2
        cookie: a=1; b=2
        tracestate: v=1
        ");
        let mut headers = map(&[("accept", "x")]);
        set_marks(&mut headers, Some((&name, &key)));
        insta::assert_snapshot!(shown(&headers).replace(key.as_str(), "KEY"), @r"
        accept: x
        baggage: sdp-routing-key=KEY
        sdp-routing-key: KEY
        sdp-sandbox: alice
        ");
        let mut headers = map(&[("baggage", "a=1 ,  b=2")]);
        set_marks(&mut headers, None);
        assert_eq!(shown(&headers), "baggage: a=1 ,  b=2");
    }

    #[test]
    fn no_service_is_handed_the_session_of_a_browser_or_the_cookie_of_a_shared_link() {
        for (sent, kept) in [
            ("sdp=abc", None),
            ("sdp_routing_key=rk_x", None),
            ("a=1; sdp=abc; b=2", Some("a=1; b=2")),
            ("__Host-sdp=abc; x=alice", Some("x=alice")),
            ("sdpx=1; x=sdp", Some("sdpx=1; x=sdp")),
        ] {
            let mut headers = map(&[("cookie", sent)]);
            take_cookies(&mut headers);
            assert_eq!(headers.get("cookie").map(|value| value.to_str().expect("text")), kept, "{sent}");
        }
    }

    #[test]
    fn an_origin_is_the_peer_or_whom_a_proxy_names_last() {
        let networks = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        for (peer, behind_proxy, forwarded, trusted) in [
            ("10.1.2.3", false, None, true),
            ("::ffff:10.1.2.3", false, None, true),
            ("fd00::1", false, None, true),
            ("192.168.0.1", false, None, false),
            ("192.168.0.1", false, Some("10.0.0.1"), false),
            ("127.0.0.1", true, Some("192.168.0.1, 10.0.0.1"), true),
            ("127.0.0.1", true, Some("10.0.0.1, 192.168.0.1"), false),
            ("10.0.0.1", true, Some("nobody"), false),
            ("10.0.0.1", true, None, true),
        ] {
            let headers = forwarded.map_or_else(HeaderMap::new, |list| map(&[("x-forwarded-for", list)]));
            let found = is_trusted(&networks, peer.parse().unwrap(), behind_proxy, &headers);
            assert_eq!(found, trusted, "{peer} {forwarded:?}");
            assert!(is_trusted(&[], peer.parse().unwrap(), behind_proxy, &headers));
        }
    }
}
