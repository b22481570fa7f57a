//! What happens to headers on their way through: pure functions over a [`HeaderMap`].

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Version};
use url::Url;

/// On every answer: what answered.
pub(crate) const SERVED_BY: HeaderName = HeaderName::from_static("sdp-served-by");

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Meant for the next hop alone (RFC 9110, 7.6.1), beside those that `Connection` names. `Trailer` stays: hyper passes
/// on only the trailers that it announces.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Takes off what is meant for this hop alone. A `Content-Length` beside a `Transfer-Encoding` goes too: the body has
/// been read by the latter, and two lengths are how requests are smuggled.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .filter(|name| *name != header::HOST && *name != header::CONTENT_LENGTH)
        .collect();
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Whether a list-valued header contains this, whatever its case.
fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|item| item.split(';').next().is_some_and(|item| item.trim().eq_ignore_ascii_case(wanted)))
}

pub(crate) fn accepts_trailers(headers: &HeaderMap) -> bool {
    lists(headers, &header::TE, "trailers")
}

/// The protocol that a request wants to change to. Never `h2c`: what is said in it would not be seen by the router.
pub(crate) fn upgrade(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    let mut protocols = headers.get_all(header::UPGRADE).iter();
    let protocol = protocols.next()?;
    let allowed = version == Version::HTTP_11
        && protocols.next().is_none()
        && lists(headers, &header::CONNECTION, "upgrade")
        && !lists(headers, &header::UPGRADE, "h2c");
    allowed.then(|| protocol.clone())
}

/// Who asked, and for what.
pub(crate) struct Origin<'o> {
    pub(crate) peer: std::net::IpAddr,
    /// Whether what a proxy in front says is believed.
    pub(crate) trusted: bool,
    /// Of the URLs that people use.
    pub(crate) scheme: &'static str,
    pub(crate) host: Option<&'o HeaderValue>,
    /// What was taken off the path; empty: nothing.
    pub(crate) prefix: &'o str,
}

/// Says to the service who asked, and for what.
pub(crate) fn set_forwarded(headers: &mut HeaderMap, origin: &Origin<'_>) {
    if !origin.trusted {
        for name in [FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST, REAL_IP, header::FORWARDED] {
            headers.remove(name);
        }
    }
    let peer = origin.peer.to_string();
    let before: Vec<&str> =
        headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()).collect();
    let chain = if before.is_empty() { peer } else { format!("{}, {peer}", before.join(", ")) };
    set(headers, FORWARDED_FOR, &chain);
    headers.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static(origin.scheme));
    if let Some(host) = origin.host {
        headers.entry(FORWARDED_HOST).or_insert_with(|| host.clone());
    }
    if origin.prefix.is_empty() {
        headers.remove(FORWARDED_PREFIX);
    } else {
        set(headers, FORWARDED_PREFIX, origin.prefix);
    }
}

/// Sets a header to a text of ours: names, numbers and paths that were parsed, so it is a valid value.
pub(crate) fn set(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    match HeaderValue::from_str(text) {
        Ok(value) => {
            headers.insert(name, value);
        }
        Err(error) => tracing::error!(%error, %name, "a value of ours is no header value"),
    }
}

/// Where a service's redirect leads from outside. Services that do not know what was taken off their path redirect to
/// places that are not theirs here. `None`: it is right as it is.
///
/// `prefix` was taken off the path; `host` was sent as `Host`; `baseline` is the baseline's URL, if it answered.
pub(crate) fn location(
    value: &str,
    prefix: &str,
    host: Option<&str>,
    baseline: Option<&Url>,
) -> Option<String> {
    let path = if value.starts_with('/') && !value[1..].starts_with(['/', '\\']) {
        value
    } else {
        let (scheme, rest) = value.split_once("://")?;
        let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let ours = matches!(scheme, "http" | "https") && host.is_some_and(|host| host == &rest[..at]);
        if !ours {
            return None;
        }
        &rest[at..]
    };
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let under = |path: &str, prefix: &str| {
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']))
    };
    let base = baseline.map_or("", |url| url.path().trim_end_matches('/'));
    if baseline.is_none() && (prefix.is_empty() || under(&path, prefix)) {
        return None;
    }
    // Never `//host`, `/\host`: a browser would go there.
    if !under(&path, base) || path[1..].starts_with(['/', '\\']) {
        return None;
    }
    let inside = &path[base.len()..];
    let slash = if inside.starts_with('/') { "" } else { "/" };
    let out =
        if !prefix.is_empty() && under(&path, prefix) { path } else { format!("{prefix}{slash}{inside}") };
    (out != value).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        headers
    }

    #[test]
    fn what_connection_names_does_not_pass() {
        let mut headers = map(&[
            ("connection", "close, X-Secret"),
            ("connection", "host"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("host", "h"),
            ("accept", "a"),
        ]);
        strip_hop_by_hop(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "host"]);
    }

    #[test]
    fn forwarded_headers_of_strangers_are_not_believed() {
        let host = HeaderValue::from_static("router:8081");
        let mut origin = Origin {
            peer: [10, 0, 0, 7].into(),
            trusted: false,
            scheme: "http",
            host: Some(&host),
            prefix: "/~alice",
        };
        let sent = [
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "dev.example.com"),
            ("x-forwarded-prefix", "/x"),
            ("forwarded", "for=1.2.3.4"),
        ];
        let shown = |headers: &HeaderMap| {
            let mut lines: Vec<_> =
                headers.iter().map(|(k, v)| format!("{k}: {}", v.to_str().unwrap())).collect();
            lines.sort_unstable();
            lines.join("\n")
        };
        let mut headers = map(&sent);
        set_forwarded(&mut headers, &origin);
        insta::assert_snapshot!(shown(&headers), @r"
        x-forwarded-for: 10.0.0.7
        x-forwarded-host: router:8081
        x-forwarded-prefix: /~alice
        x-forwarded-proto: http
        ");
        origin.trusted = true;
        let mut headers = map(&sent);
        set_forwarded(&mut headers, &origin);
        insta::assert_snapshot!(shown(&headers), @r"
        forwarded: for=1.2.3.4
        x-forwarded-for: 1.2.3.4, 10.0.0.7
        x-forwarded-host: dev.example.com
        x-forwarded-prefix: /~alice
        x-forwarded-proto: https
        ");
    }

    #[test]
    fn only_one_upgrade_and_never_h2c() {
        let upgrades = |pairs: &[(&str, &str)]| upgrade(Version::HTTP_11, &map(pairs)).is_some();
        assert!(upgrades(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]));
        assert!(!upgrades(&[("upgrade", "websocket")]));
        assert!(!upgrades(&[("connection", "upgrade"), ("upgrade", "h2c")]));
        assert!(!upgrades(&[("connection", "upgrade"), ("upgrade", "websocket, h2c")]));
        assert!(!upgrades(&[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "x")]));
        assert!(
            upgrade(Version::HTTP_10, &map(&[("connection", "upgrade"), ("upgrade", "websocket")])).is_none()
        );
    }

    #[test]
    fn redirects_lead_back_to_where_the_request_came_from() {
        let bare: Url = "https://hello.example.com".parse().unwrap();
        let below: Url = "https://apps.example.com/hello/".parse().unwrap();
        let prefix = "/~alice/hello";
        for (value, prefix, host, baseline, expected) in [
            ("/login", prefix, "r:1", None, Some("/~alice/hello/login")),
            ("/login?a=/b", prefix, "r:1", None, Some("/~alice/hello/login?a=/b")),
            ("/~alice/hello/login", prefix, "r:1", None, None),
            ("/~alice/hello", prefix, "r:1", None, None),
            ("/~alice/helloworld", prefix, "r:1", None, Some("/~alice/hello/~alice/helloworld")),
            ("http://r:1/login", prefix, "r:1", None, Some("/~alice/hello/login")),
            ("http://r:1", prefix, "r:1", None, Some("/~alice/hello/")),
            ("http://r:1/login", "", "r:1", None, None),
            ("http://elsewhere/login", prefix, "r:1", None, None),
            ("//elsewhere/login", prefix, "r:1", None, None),
            ("/\\elsewhere", prefix, "r:1", None, None),
            ("login", prefix, "r:1", None, None),
            ("", prefix, "r:1", None, None),
            ("/login", "", "r:1", None, None),
            ("/login", "/hello", "hello.example.com", Some(&bare), Some("/hello/login")),
            ("https://hello.example.com/login", "", "hello.example.com", Some(&bare), Some("/login")),
            ("/login", "", "hello.example.com", Some(&bare), None),
            ("/hello/login", "/~alice/hello", "apps.example.com", Some(&below), Some("/~alice/hello/login")),
            ("/hello/login", "", "apps.example.com", Some(&below), Some("/login")),
            ("/elsewhere", "/~alice/hello", "apps.example.com", Some(&below), None),
            ("https://hello.example.com//evil.test", "", "hello.example.com", Some(&bare), None),
            ("http://r:1//evil.test", prefix, "r:1", None, None),
        ] {
            assert_eq!(
                location(value, prefix, Some(host), baseline).as_deref(),
                expected,
                "{value} {prefix}"
            );
        }
    }
}
