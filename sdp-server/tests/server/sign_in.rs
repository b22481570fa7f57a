//! Browser sessions: from a link to a cookie, and what a cookie may.

use reqwest::{Method, Response};
use sdp_core::api::{SignInLink, TokenKind};
use serde_json::json;

use crate::harness::{Host, hello, ok, problem, refused};

/// A path on the host that signs in.
async fn link(host: &Host, next: &str) -> String {
    let answer = host.post("/api/v1/sign-in-links", &json!({ "next": next })).send().await.expect("answered");
    let link: SignInLink = ok(answer, 201).await;
    assert!(link.url.as_str().starts_with(&host.url));
    link.url[url::Position::BeforePath..].to_owned()
}

fn cookie(answer: &Response) -> String {
    let cookie = answer.headers()["set-cookie"].to_str().expect("text");
    cookie.split(';').next().expect("a value").to_owned()
}

pub(crate) async fn session(host: &Host) -> String {
    let path = link(host, "/").await;
    cookie(&host.bare(Method::POST, &path).send().await.expect("answered"))
}

#[tokio::test]
async fn a_link_signs_in_once_and_looking_at_it_does_not_use_it_up() {
    let host = Host::start().await;
    let path = link(&host, "/deployments/1").await;
    for _ in 0..3 {
        let page = host.bare(Method::GET, &path).send().await.expect("answered");
        assert_eq!(page.status(), 200);
        assert!(!page.headers().contains_key("set-cookie"));
        assert_eq!(page.headers()["cache-control"], "no-store");
        let text = page.text().await.expect("a page");
        assert!(
            text.contains("method=\"post\"") && text.contains("/sign-in.js\""),
            "the form sends itself: {text}"
        );
    }
    let answer = host.bare(Method::POST, &path).header("origin", &host.url).send().await.expect("answered");
    assert_eq!(answer.status(), 303);
    assert_eq!(answer.headers()["location"], "/deployments/1");
    let set = answer.headers()["set-cookie"].to_str().expect("text").to_owned();
    assert!(
        set.starts_with("sdp=") && set.ends_with("; Path=/; HttpOnly; SameSite=Lax; Max-Age=2592000"),
        "{set}"
    );
    for method in [Method::GET, Method::POST] {
        assert_eq!(host.bare(method, &path).send().await.expect("answered").status(), 410, "used");
    }
    let read =
        host.bare(Method::GET, "/api/v1/services").header("cookie", format!("a=b; {}", cookie(&answer)));
    assert_eq!(read.send().await.expect("answered").status(), 200);
    host.stop().await;
}

#[tokio::test]
async fn a_used_link_still_leads_a_signed_in_browser_to_its_page() {
    let host = Host::start().await;
    let path = link(&host, "/deployments/7#L88").await;
    assert!(path.ends_with("?next=/deployments/7%23L88"), "{path}");
    let signed_in = host.bare(Method::POST, &path).send().await.expect("answered");
    assert_eq!(signed_in.headers()["location"], "/deployments/7#L88");
    let session = cookie(&signed_in);
    for method in [Method::GET, Method::POST] {
        let again = host.bare(method.clone(), &path).header("cookie", &session).send().await;
        let again = again.expect("answered");
        assert_eq!(again.status(), 303, "{method}");
        assert_eq!(again.headers()["location"], "/deployments/7#L88");
        assert!(!again.headers().contains_key("set-cookie"), "no other session begins");

        for stranger in ["", "sdp=sdps_wrong"] {
            let page = host.bare(method.clone(), &path).header("cookie", stranger).send().await;
            let page = page.expect("answered");
            assert_eq!(page.status(), 410, "{method}");
            assert!(!page.headers().contains_key("set-cookie"));
            let text = page.text().await.expect("a page");
            assert!(text.contains("href=\"/deployments/7#L88\""), "{text}");
        }
    }
    for (next, leads) in [("//evil.example", "/"), ("https://evil.example", "/"), ("/sign-out", "/")] {
        let bent = format!("{}?next={next}", path.split('?').next().expect("a path"));
        let answer = host.bare(Method::GET, &bent).header("cookie", &session).send().await.expect("answered");
        assert_eq!(answer.headers()["location"], leads);
        let page = host.bare(Method::GET, &bent).send().await.expect("answered");
        assert_eq!(page.status(), 410);
        assert!(!page.text().await.expect("a page").contains(next), "{next}");
    }
    // Whoever bends the link of somebody else sends nobody elsewhere: what was kept with the code counts.
    let path = link(&host, "/").await;
    let bent = path.replace("next=/", "next=/deployments/7");
    let answer = host.bare(Method::POST, &bent).send().await.expect("answered");
    assert_eq!(answer.headers()["location"], "/");
    host.stop().await;
}

#[tokio::test]
async fn a_cookie_writes_only_from_our_own_pages() {
    let host = Host::start().await;
    let session = session(&host).await;
    let write = || host.bare(Method::POST, "/api/v1/services").header("cookie", &session).json(&hello());
    refused(write(), 403, "cross_site").await;
    refused(write().header("origin", "https://evil.example"), 403, "cross_site").await;
    refused(write().header("origin", "null"), 403, "cross_site").await;
    refused(write().header("sec-fetch-site", "cross-site"), 403, "cross_site").await;
    refused(write().header("sec-fetch-site", "same-site").header("origin", &host.url), 403, "cross_site")
        .await;
    let ours = write().header("sec-fetch-site", "same-origin").header("origin", &host.url);
    assert_eq!(ours.send().await.expect("answered").status(), 201);
    let get = |path: &str| host.bare(Method::GET, path).header("cookie", &session);
    refused(get("/api/v1/tokens"), 403, "forbidden").await;
    let issue = host.bare(Method::POST, "/api/v1/sign-in-links").header("cookie", &session).json(&json!({}));
    refused(issue.header("origin", &host.url), 403, "forbidden").await;
    refused(get("/api/v1/services").header("sdp-on-behalf-of", "bob"), 401, "unauthorised").await;
    host.stop().await;
}

#[tokio::test]
async fn another_sites_page_signs_nobody_in_or_out() {
    let host = Host::start().await;
    let path = link(&host, "/").await;
    let post = |path: &str| host.bare(Method::POST, path).header("sec-fetch-site", "cross-site");
    let answer = post(&path).send().await.expect("answered");
    assert_eq!(problem(answer, 403).await.code, "cross_site");
    let first = cookie(&host.bare(Method::POST, &path).send().await.expect("answered"));
    assert_eq!(post("/sign-out").header("cookie", &first).send().await.expect("answered").status(), 403);
    let read = || host.bare(Method::GET, "/api/v1/services").header("cookie", &first);
    assert_eq!(read().send().await.expect("answered").status(), 200, "still signed in");
    let path = link(&host, "/").await;
    let answer = host.bare(Method::POST, &path).header("cookie", &first).send().await.expect("answered");
    assert_ne!(cookie(&answer), first);
    refused(read(), 401, "unauthorised").await;
    let second = cookie(&answer);
    let out = host.bare(Method::POST, "/sign-out").header("cookie", &second).send().await.expect("answered");
    assert!(out.headers()["set-cookie"].to_str().expect("text").contains("Max-Age=0"));
    refused(host.bare(Method::GET, "/api/v1/services").header("cookie", &second), 401, "unauthorised").await;
    host.stop().await;
}

#[tokio::test]
async fn links_lead_only_to_this_server_and_are_made_by_tokens() {
    let host = Host::start().await;
    for next in ["//evil.example", "https://evil.example", "/\\evil.example", "evil", ""] {
        let request = host.post("/api/v1/sign-in-links", &json!({ "next": next }));
        refused(request, 422, "invalid_body").await;
    }
    let bot = host.token(TokenKind::Bot, "chat").await;
    let ask = || host.with(&bot, Method::POST, "/api/v1/sign-in-links").json(&json!({}));
    refused(ask(), 403, "forbidden").await;
    let answer = ask().header("sdp-on-behalf-of", "alice").send().await.expect("answered");
    let link: SignInLink = ok(answer, 201).await;
    let session = cookie(&host.bare(Method::POST, link.url.path()).send().await.expect("answered"));
    host.hello().await;
    let deploy =
        host.bare(Method::POST, "/api/v1/deployments").header("cookie", &session).header("origin", &host.url);
    let created: serde_json::Value =
        ok(deploy.json(&json!({ "service": "hello" })).send().await.expect("answered"), 202).await;
    assert_eq!(created["deployment"]["requested_by"], json!({ "kind": "person", "name": "alice" }));
    let revoke =
        host.with(&host.admin, Method::DELETE, "/api/v1/tokens/chat").send().await.expect("answered");
    assert_eq!(revoke.status(), 204);
    refused(host.bare(Method::GET, "/api/v1/services").header("cookie", &session), 401, "unauthorised").await;
    host.stop().await;
}

#[tokio::test]
async fn over_https_the_cookie_is_for_this_host_alone() {
    let host =
        Host::start_with(|config| config.public_url = "https://sdp.example.com".parse().expect("a url"))
            .await;
    let answer = host.post("/api/v1/sign-in-links", &json!({})).send().await.expect("answered");
    let link: SignInLink = ok(answer, 201).await;
    assert_eq!(link.url.host_str(), Some("sdp.example.com"));
    let answer = host.bare(Method::POST, link.url.path()).send().await.expect("answered");
    let set = answer.headers()["set-cookie"].to_str().expect("text");
    assert!(set.starts_with("__Host-sdp=") && set.ends_with("; Secure") && !set.contains("Domain"), "{set}");
    assert!(answer.headers().contains_key("strict-transport-security"));
    let value = cookie(&answer).replace("__Host-sdp", "sdp");
    refused(host.bare(Method::GET, "/api/v1/services").header("cookie", value), 401, "unauthorised").await;
    host.stop().await;
}
