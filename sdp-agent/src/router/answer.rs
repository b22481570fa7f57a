//! The answers that the router gives itself: plain text for programs, a small page for browsers. Each has a stable code (in
//! the header `sdp-error` too), says what is wrong and what to do.

use std::fmt::Write;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;
use sdp_core::catalog::MatchRule;
use sdp_core::name::{SandboxName, ServiceName};
use sdp_core::routing::select::{Refusal, Selector};
use sdp_core::routing::{ROUTING_KEY, route_url, service_url};
use url::Url;

use super::headers::SERVED_BY;

const ERROR: HeaderName = HeaderName::from_static("sdp-error");

/// Nothing but the page's own style.
pub(crate) const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";
/// The methods that are sent on.
pub(crate) const ALLOWED: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// How many services an answer lists.
const LISTED: usize = 50;

/// What went wrong, as told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    /// One sentence.
    pub(crate) what: String,
    /// What to do.
    pub(crate) next: String,
    /// Places that there are.
    pub(crate) places: Vec<(String, Url)>,
    /// How many more there are.
    pub(crate) more: usize,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, what: String, next: String) -> Self {
        Self { status, code, what, next, places: Vec::new(), more: 0 }
    }

    pub(crate) fn uri_too_long(limit: usize) -> Self {
        Self::new(
            StatusCode::URI_TOO_LONG,
            "uri_too_long",
            format!("Path and query are longer than {limit} bytes."),
            "Send the data in the body.".into(),
        )
    }

    pub(crate) fn method_not_allowed(method: &str) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            format!("{method} is not for this router."),
            "It sends requests to services; it is no forward proxy.".into(),
        )
    }

    /// Why a request was not sent anywhere.
    pub(crate) fn from_refusal(refusal: Refusal, base: &Url) -> Self {
        let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_GATEWAY);
        let (code, what) = (refusal.code(), refusal.to_string());
        let next = match refusal {
            Refusal::NoTable => "It gets them from the SDP server; try again in a moment.".to_owned(),
            Refusal::BadPath { .. } => "Send the path without it.".to_owned(),
            Refusal::TwoSandboxes { .. } => "Name one.".to_owned(),
            Refusal::UnknownSandbox { near: Some(near), .. } => {
                format!("Did you mean {near}? A sandbox is made by the first deploy to it.")
            }
            Refusal::UnknownSandbox { selector: Selector::Cookie, .. } => {
                let base = base.as_str().trim_end_matches('/');
                format!("It may have expired. Take the cookie back: {base}/~~/off/")
            }
            Refusal::UnknownSandbox { .. } => {
                "It may have expired, or been deleted. A sandbox is made by the first deploy to it."
                    .to_owned()
            }
            Refusal::NoService { sandbox, services } => {
                let listed = services.iter().take(LISTED);
                let places =
                    listed.map(|(service, rule)| place(base, sandbox.as_ref(), service, rule)).collect();
                let more = services.len().saturating_sub(LISTED);
                let next = if services.is_empty() {
                    "There are no services yet; an administrator adds them to the catalog."
                } else {
                    "These are the services:"
                };
                return Self { places, more, ..Self::new(status, code, what, next.into()) };
            }
            Refusal::NoTarget { sandbox: Some(sandbox), service } => {
                format!("Deploy it: /sdp deploy {service} <branch> to {sandbox}")
            }
            Refusal::NoTarget { sandbox: None, .. } => {
                format!("Name one in the path, {base}~<sandbox>/…, or its key in the header {ROUTING_KEY}.")
            }
            Refusal::Down { sandbox, service, .. } => {
                format!("Deploy it again: /sdp deploy {service} <branch> to {sandbox}")
            }
            _ => "Look at the router's log.".to_owned(),
        };
        Self::new(status, code, what, next)
    }

    /// As an answer to a request with this method and these headers.
    pub(crate) fn into_response(self, method: &Method, headers: &HeaderMap) -> Response<Full<Bytes>> {
        let page = headers
            .get_all(header::ACCEPT)
            .iter()
            .any(|value| value.to_str().is_ok_and(|value| value.to_ascii_lowercase().contains("text/html")));
        let (kind, text) = match page {
            true => ("text/html; charset=utf-8", self.page()),
            false => ("text/plain; charset=utf-8", self.text()),
        };
        // For a HEAD hyper leaves the body out and keeps its length.
        tracing::debug!(code = self.code, %method, "the router answers itself");
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
        headers.insert(SERVED_BY, HeaderValue::from_static("router"));
        headers.insert(ERROR, HeaderValue::from_static(self.code));
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static(ALLOWED));
        }
        response
    }

    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}\n{}\n", self.what, self.next);
        for (name, url) in &self.places {
            writeln!(text, "  {name}  {url}").expect("writing to a String does not fail");
        }
        if self.more > 0 {
            writeln!(text, "  and {} more", self.more).expect("writing to a String does not fail");
        }
        writeln!(text, "(sdp router: {})", self.code).expect("writing to a String does not fail");
        text
    }

    pub(crate) fn page(&self) -> String {
        let mut places = String::new();
        for (name, url) in &self.places {
            let (name, url) = (escape(name), escape(url.as_str()));
            writeln!(places, "<li><a href=\"{url}\">{name}</a>").expect("writing to a String does not fail");
        }
        if self.more > 0 {
            write!(places, "<li>and {} more", self.more).expect("writing to a String does not fail");
        }
        format!(
            "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
             <title>{status}</title><style>body{{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:4rem auto;\
             padding:0 1rem;color-scheme:light dark}}</style>\n<h1>{what}</h1>\n<p>{next}</p>\n<ul>{places}</ul>\n\
             <p><small>SDP router: {code}</small></p>\n",
            status = self.status,
            what = escape(&self.what),
            next = escape(&self.next),
            code = self.code,
        )
    }
}

fn place(
    base: &Url,
    sandbox: Option<&SandboxName>,
    service: &ServiceName,
    rule: &MatchRule,
) -> (String, Url) {
    let mut url = base.clone();
    let url = match (sandbox, rule) {
        (Some(sandbox), MatchRule::Path { prefix, .. }) => route_url(base, sandbox, prefix),
        (Some(sandbox), MatchRule::Host { .. }) => service_url(base, sandbox, service),
        (None, MatchRule::Path { prefix, .. }) => {
            let prefix = prefix.as_str().trim_end_matches('/');
            url.set_path(&format!("{}{prefix}/", base.path().trim_end_matches('/')));
            url
        }
        (None, MatchRule::Host { host }) => {
            url.set_host(Some(host.as_str())).ok();
            url
        }
    };
    (service.to_string(), url)
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use sdp_core::name::{HostName, PathPrefix};

    use super::*;

    fn shown(refusal: Refusal) -> String {
        let problem = Problem::from_refusal(refusal, &"http://127.0.0.1:8081".parse().unwrap());
        format!("{}\n{}", problem.status, problem.text())
    }

    #[test]
    fn every_refusal_says_what_is_wrong_and_what_to_do() {
        let alice = SandboxName::parse("alice").unwrap();
        let hello = ServiceName::parse("hello").unwrap();
        let path = |prefix: &str| MatchRule::Path { prefix: PathPrefix::parse(prefix).unwrap(), strip: true };
        let host = MatchRule::Host { host: HostName::parse("api.shop.test").unwrap() };
        let gateway = ServiceName::parse("gateway").unwrap();
        let services = vec![
            (gateway, host),
            (hello.clone(), path("/hello")),
            (ServiceName::parse("web").unwrap(), path("/")),
        ];
        let unknown = |name: &str, selector, near: Option<&str>| Refusal::UnknownSandbox {
            name: name.into(),
            selector,
            near: near.map(str::to_owned),
        };
        let all = [
            Refusal::NoTable,
            Refusal::BadPath { why: "it contains a NUL" },
            Refusal::TwoSandboxes { selector: Selector::Sandbox },
            unknown("alcie", Selector::Path, Some("alice")),
            unknown("bob\n<b>", Selector::Host, None),
            unknown("rk_x", Selector::Cookie, None),
            Refusal::NoService { sandbox: Some(alice.clone()), services: services.clone() },
            Refusal::NoService { sandbox: None, services },
            Refusal::NoService { sandbox: None, services: vec![] },
            Refusal::NoTarget { sandbox: Some(alice.clone()), service: hello.clone() },
            Refusal::NoTarget { sandbox: None, service: hello.clone() },
            Refusal::Down { sandbox: alice, service: hello, reason: "it crashed".into() },
        ];
        insta::assert_snapshot!(all.map(shown).join("\n"), @r#"
        503 Service Unavailable
        This router has no routes yet.
        It gets them from the SDP server; try again in a moment.
        (sdp router: no_routes)

        400 Bad Request
        This path is not accepted: it contains a NUL.
        Send the path without it.
        (sdp router: bad_path)

        400 Bad Request
        The header sdp-sandbox names two different sandboxes.
        Name one.
        (sdp router: two_sandboxes)

        404 Not Found
        There is no sandbox "alcie", which the path names.
        Did you mean alice? A sandbox is made by the first deploy to it.
        (sdp router: unknown_sandbox)

        404 Not Found
        There is no sandbox "bob\n<b>", which the host names.
        It may have expired, or been deleted. A sandbox is made by the first deploy to it.
        (sdp router: unknown_sandbox)

        404 Not Found
        There is no sandbox "rk_x", which the cookie sdp_routing_key names.
        It may have expired. Take the cookie back: http://127.0.0.1:8081/~~/off/
        (sdp router: unknown_sandbox)

        404 Not Found
        No service has this path or host.
        These are the services:
          gateway  http://127.0.0.1:8081/~alice/~gateway
          hello  http://127.0.0.1:8081/~alice/hello/
          web  http://127.0.0.1:8081/~alice/
        (sdp router: no_service)

        404 Not Found
        No service has this path or host.
        These are the services:
          gateway  http://api.shop.test:8081/
          hello  http://127.0.0.1:8081/hello/
          web  http://127.0.0.1:8081/
        (sdp router: no_service)

        404 Not Found
        No service has this path or host.
        There are no services yet; an administrator adds them to the catalog.
        (sdp router: no_service)

        404 Not Found
        Nothing runs of hello in the sandbox alice, and hello has no baseline.
        Deploy it: /sdp deploy hello <branch> to alice
        (sdp router: no_target)

        404 Not Found
        hello has no baseline, and this request names no sandbox.
        Name one in the path, http://127.0.0.1:8081/~<sandbox>/…, or its key in the header sdp-routing-key.
        (sdp router: no_target)

        503 Service Unavailable
        hello in the sandbox alice does not run: it crashed.
        Deploy it again: /sdp deploy hello <branch> to alice
        (sdp router: instance_down)
        "#);
    }

    #[test]
    fn what_was_sent_is_text_on_the_page() {
        let name = "<script>alert('1')</script>\"&".into();
        let refusal = Refusal::UnknownSandbox { name, selector: Selector::Path, near: None };
        let page = Problem::from_refusal(refusal, &"http://127.0.0.1:8081".parse().unwrap()).page();
        assert!(!page.contains("<script"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(&#39;1&#39;)"), "{page}");
    }
}
