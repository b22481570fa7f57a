//! Where a request comes from: the socket's other end, or, if that is a proxy of ours, whom it names.
//!
//! ```text
//! client 203.0.113.9 ─▶ proxy 10.0.0.2 ─▶ proxy 127.0.0.1 ─▶ server
//!                       X-Forwarded-For: (what the client made up), 203.0.113.9, 10.0.0.2
//!                                                                   ▲ the rightmost that is no proxy of ours
//! ```
//! A client can write anything into the header, but only to the left of what the first proxy adds. So the addresses are read
//! from the right, as long as proxies of `[proxy] trusted` vouch for them. What cannot be read ends the search there.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;

use crate::config::Proxy;

const FORWARDED_FOR: &str = "x-forwarded-for";
/// The most addresses that are looked at; real chains have two or three.
const HOPS: usize = 20;

/// Where a request comes from, in its extensions. An IPv4 address is never in IPv6 form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ClientAddress(pub(crate) IpAddr);

impl ClientAddress {
    /// The address behind `peer`, which is the socket's other end.
    pub(crate) fn of(peer: IpAddr, headers: &HeaderMap, proxy: &Proxy) -> Self {
        let mut nearest = peer.to_canonical();
        let mut said = headers
            .get_all(FORWARDED_FOR)
            .iter()
            .rev()
            .flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','))
            .take(HOPS);
        while proxy.trusts(nearest) {
            match said.next().and_then(address) {
                Some(address) => nearest = address,
                None => break,
            }
        }
        Self(nearest)
    }
}

/// `203.0.113.9`, `2001:db8::1`, and with a port as some proxies write it.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address =
        bare.parse::<IpAddr>().or_else(|_| text.parse::<SocketAddr>().map(|with_port| with_port.ip()));
    address.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn seen(peer: &str, said: &[&str]) -> String {
        let trusted = ["127.0.0.1/32", "10.0.0.0/8", "fd00::/8"].map(|one| one.parse().expect("a network"));
        let proxy = Proxy { trusted: trusted.to_vec() };
        let mut headers = HeaderMap::new();
        for value in said {
            headers.append(FORWARDED_FOR, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
        }
        ClientAddress::of(peer.parse().expect("an address"), &headers, &proxy).0.to_string()
    }

    #[test]
    fn only_our_proxies_say_who_asks_and_nobody_else_can() {
        for (peer, said, expected) in [
            // Nobody to be believed.
            ("203.0.113.9", &[][..], "203.0.113.9"),
            ("203.0.113.9", &["198.51.100.1"], "203.0.113.9"),
            ("::ffff:203.0.113.9", &["198.51.100.1"], "203.0.113.9"),
            // One proxy, and two.
            ("127.0.0.1", &[], "127.0.0.1"),
            ("127.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("::ffff:127.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("127.0.0.1", &["203.0.113.9, 10.0.0.2"], "203.0.113.9"),
            ("fd00::1", &["2001:db8::7"], "2001:db8::7"),
            // What the client made up stands to the left.
            ("127.0.0.1", &["198.51.100.1, 203.0.113.9"], "203.0.113.9"),
            ("127.0.0.1", &["127.0.0.1, 10.0.0.1, 203.0.113.9"], "203.0.113.9"),
            ("127.0.0.1", &["198.51.100.1", "203.0.113.9"], "203.0.113.9"),
            ("127.0.0.1", &["203.0.113.9", "198.51.100.1,10.0.0.2"], "198.51.100.1"),
            // All of them are ours: the farthest.
            ("127.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            // With a port, with brackets, in IPv6 form.
            ("127.0.0.1", &["203.0.113.9:4711"], "203.0.113.9"),
            ("127.0.0.1", &["[2001:db8::7]:4711"], "2001:db8::7"),
            ("127.0.0.1", &["[2001:db8::7]"], "2001:db8::7"),
            ("127.0.0.1", &["::ffff:203.0.113.9"], "203.0.113.9"),
            // What cannot be read: the last one who is known.
            ("127.0.0.1", &["unknown"], "127.0.0.1"),
            ("127.0.0.1", &[""], "127.0.0.1"),
            ("127.0.0.1", &["203.0.113.9, "], "127.0.0.1"),
            ("127.0.0.1", &["203.0.113.9, <script>, 10.0.0.2"], "10.0.0.2"),
            ("127.0.0.1", &["203.0.113.9, 999.0.0.1"], "127.0.0.1"),
        ] {
            assert_eq!(seen(peer, said), expected, "{peer} {said:?}");
        }
        let long = "10.0.0.1, ".repeat(5000) + "10.0.0.2";
        assert_eq!(seen("127.0.0.1", &[&long]), "10.0.0.1", "the end of patience");
    }
}
