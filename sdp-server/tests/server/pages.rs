//! What browsers are told about pages: no script that is not ours, nothing kept, no request from elsewhere.

use reqwest::{Method, RequestBuilder, Response};
use sdp_core::api::{Problem, SignInLink};
use serde_json::{Value, json};

use crate::harness::{Host, ok};
use crate::sign_in::session;

/// Whether a browser would run or apply anything that stands in the page itself.
fn inline(page: &str) -> Vec<&str> {
    let starts = page.split('<').skip(1).map(|tag| tag.split('>').next().unwrap_or(""));
    starts
        .filter(|tag| {
            let lower = tag.to_ascii_lowercase();
            let is_script = lower.starts_with("script") && !lower.contains(" src=\"/assets/");
            let handler = lower.split_whitespace().skip(1).any(|attribute| {
                attribute.starts_with("on") && attribute.contains('=') || attribute.starts_with("style=")
            });
            is_script || handler || lower.starts_with("style") || lower.contains("javascript:")
        })
        .collect()
}

fn header(answer: &Response, name: &str) -> String {
    answer.headers().get(name).map(|value| value.to_str().expect("text").to_owned()).unwrap_or_default()
}

/// What every answer says, whatever it is.
fn check_headers(name: &str, answer: &Response) {
    let policy = header(answer, "content-security-policy");
    assert!(
        policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"),
        "{name}: {policy}"
    );
    for part in ["frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"] {
        assert!(policy.contains(part), "{name}: {policy}");
    }
    for bad in ["unsafe", "*", "http:", "https:"] {
        assert!(!policy.contains(bad), "{name}: {policy}");
    }
    assert_eq!(header(answer, "x-content-type-options"), "nosniff", "{name}");
    assert_eq!(header(answer, "x-frame-options"), "DENY", "{name}");
    assert_eq!(header(answer, "referrer-policy"), "same-origin", "{name}");
    assert_eq!(header(answer, "cache-control"), "no-store", "{name}");
}

#[tokio::test]
async fn every_page_is_free_of_inline_scripts_and_is_not_kept() {
    let host = Host::start_with(|config| config.limits.refused_per_minute = 1).await;
    host.hello().await;
    let mut agent = host.agent().await;
    let created = host.deploy().await;
    let mut job = agent.take().await;
    agent.print(&mut job, &[b"<script>alert(1)</script>"]).await;
    let cookie = session(&host).await;
    let page = |path: &str| host.bare(Method::GET, path).header("accept", "text/html");
    let signed_in = |path: &str| page(path).header("cookie", &cookie);
    let deployment = format!("/deployments/{}", created.number);
    let cases: Vec<(&str, RequestBuilder, u16)> = vec![
        ("home", signed_in("/"), 200),
        ("home, filled in", signed_in("/?service=%3Cscript%3E&git_ref=%22onload%3Dx"), 200),
        ("a deployment", signed_in(&deployment), 200),
        ("the account", signed_in("/account"), 200),
        ("the audit", signed_in("/audit"), 200),
        ("the login", page("/login"), 404),
        ("no deployment", signed_in("/deployments/99"), 404),
        ("no number", signed_in("/deployments/%3Cscript%3E"), 422),
        ("no instance", signed_in("/instances/019a0000-0000-7000-8000-000000000000"), 404),
        ("no id", signed_in("/instances/%3Cscript%3E"), 422),
        ("nowhere", signed_in("/%3Cscript%3Ealert(1)%3C/script%3E"), 404),
        ("nowhere, nobody", page("/nowhere"), 404),
        ("nobody", page("/"), 401),
        ("nobody at a deployment", page(&deployment), 401),
        ("an old session", page("/").header("cookie", "sdp=sdps_old"), 401),
        ("an old session too often", page("/").header("cookie", "sdp=sdps_old"), 429),
        ("a link that is none", page("/sign-in/%3Cscript%3E"), 410),
        ("signed out", host.bare(Method::POST, "/sign-out").header("origin", &host.url), 200),
    ];
    for (name, request, status) in cases {
        let answer = request.send().await.expect("answered");
        assert_eq!(answer.status(), status, "{name}");
        check_headers(name, &answer);
        assert!(header(&answer, "content-type").starts_with("text/html"), "{name}");
        let text = answer.text().await.expect("a page");
        assert!(text.starts_with("<!DOCTYPE html>"), "{name}");
        assert_eq!(inline(&text), Vec::<&str>::new(), "{name}");
    }
    for (name, request, status) in [
        ("data", host.get("/api/v1/services"), 200),
        ("no token", host.bare(Method::GET, "/api/v1/services"), 401),
        ("no such data", host.get("/api/v1/services/nobody"), 404),
        ("no address", host.get("/nowhere"), 404),
        ("not with this method", host.with(&host.admin, Method::PATCH, "/api/v1/services"), 405),
        ("a bad body", host.with(&host.admin, Method::POST, "/api/v1/services").body("x"), 415),
    ] {
        let answer = request.send().await.expect("answered");
        assert_eq!(answer.status(), status, "{name}");
        check_headers(name, &answer);
    }
    host.stop().await;
}

#[test]
fn what_is_inline_is_found() {
    for bad in [
        "<p><script>x</script>",
        "<script src=\"https://evil.example/x.js\"></script>",
        "<img src=x onerror=alert(1)>",
        "<p style=\"color: red\">",
        "<style>p {}</style>",
        "<a href=\"javascript:x\">",
    ] {
        assert!(!inline(bad).is_empty(), "{bad}");
    }
    assert!(
        inline("<script type=\"module\" src=\"/assets/1/home.js\"></script><p class=\"one\">on=1</p>")
            .is_empty()
    );
}

#[tokio::test]
async fn no_write_with_a_cookie_comes_from_elsewhere() {
    let host = Host::start().await;
    let cookie = session(&host).await;
    let document: Value = ok(host.get("/api/v1/openapi.json").send().await.expect("answered"), 200).await;
    let subdomain = host.url.replace("http://", "http://evil.");
    let other_port = "http://127.0.0.1:1".to_owned();
    let https = host.url.replace("http://", "https://");
    let elsewhere: Vec<Vec<(&str, &str)>> = vec![
        vec![],
        vec![("origin", "null")],
        vec![("origin", "https://evil.example")],
        vec![("origin", &subdomain)],
        vec![("origin", &other_port)],
        vec![("origin", &https)],
        vec![("sec-fetch-site", "cross-site")],
        vec![("sec-fetch-site", "same-site")],
        vec![("sec-fetch-site", "cross-site"), ("origin", &host.url)],
        vec![("sec-fetch-site", "same-site"), ("origin", &host.url)],
        vec![("sec-fetch-site", "same-origin"), ("origin", "https://evil.example")],
        vec![("referer", &host.url)],
    ];
    let (mut tried, mut cross_site) = (0, 0);
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in
            item.as_object().expect("item").iter().filter(|(method, _)| *method != "get")
        {
            let method: Method = method.to_uppercase().parse().expect("a method");
            let address = path.replace("{deployment}", "1").replace(['{', '}'], "");
            let is_open = operation["security"].as_array().is_some_and(Vec::is_empty);
            for headers in &elsewhere {
                // Signing in and out needs no session, so programs that say nothing of where they come from may, too.
                let says_nothing = headers.iter().all(|(name, _)| *name == "referer");
                if is_open && says_nothing {
                    continue;
                }
                let mut request = host.bare(method.clone(), &address).header("cookie", &cookie);
                if path == "/api/v1/login" {
                    // It is looked at after the body.
                    request = request.json(&json!({ "username": "alice", "password": "x" }));
                }
                for (name, value) in headers {
                    request = request.header(*name, *value);
                }
                let answer = request.send().await.expect("answered");
                assert_eq!(answer.status(), 403, "{method} {path} {headers:?}");
                let problem: Problem = answer.json().await.expect("a problem");
                // What a session may not at all is refused for that.
                assert!(["cross_site", "forbidden"].contains(&&*problem.code), "{method} {path} {problem:?}");
                tried += 1;
                cross_site += usize::from(problem.code == "cross_site");
            }
        }
    }
    assert!(tried > 100 && cross_site > 80, "{tried} {cross_site}");
    host.stop().await;
}

#[tokio::test]
async fn every_cookie_is_for_this_server_alone_and_no_script_reads_it() {
    for (public_url, name) in [(None, "sdp="), (Some("https://sdp.example.com"), "__Host-sdp=")] {
        let host = Host::start_with(|config| {
            if let Some(url) = public_url {
                config.public_url = url.parse().expect("a url");
            }
        })
        .await;
        let link: SignInLink =
            ok(host.post("/api/v1/sign-in-links", &json!({})).send().await.expect("answered"), 201).await;
        for path in [link.url.path(), "/sign-out"] {
            let answer = host.bare(Method::POST, path).send().await.expect("answered");
            let mut cookies = answer.headers().get_all("set-cookie").iter().peekable();
            assert!(cookies.peek().is_some(), "{path}");
            for cookie in cookies {
                let cookie = cookie.to_str().expect("text");
                let flags: Vec<&str> = cookie.split("; ").skip(1).collect();
                assert!(cookie.starts_with(name), "{cookie}");
                assert!(
                    ["Path=/", "HttpOnly", "SameSite=Lax"].iter().all(|flag| flags.contains(flag)),
                    "{cookie}"
                );
                assert_eq!(flags.contains(&"Secure"), public_url.is_some(), "{cookie}");
                assert!(!flags.iter().any(|flag| flag.starts_with("Domain")), "{cookie}");
            }
        }
        host.stop().await;
    }
}
