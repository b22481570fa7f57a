//! The page /account, for each who may open it: what it shows is what the API would answer them.

use reqwest::Method;
use sdp_core::access::Origin;
use sdp_core::api::TokenKind;
use sdp_core::principal::Role;
use serde_json::json;

use crate::harness::Host;
use crate::roles::vouched;
use crate::sign_in::session;

/// What a browser with this cookie is shown.
async fn account(host: &Host, cookie: &str) -> String {
    let answer = host.bare(Method::GET, "/account").header("cookie", cookie).send().await.expect("answered");
    assert_eq!(answer.status(), 200);
    answer.text().await.expect("a page")
}

#[tokio::test]
async fn a_person_sees_what_is_theirs_as_text_and_an_admin_what_is_everybodys() {
    let host = Host::start_with(|config| config.login.trust_bot = false).await;
    host.hello().await;
    host.token(TokenKind::Bot, "chat").await;
    let life = std::time::Duration::from_secs(3600);
    let from = Origin {
        address: Some("192.0.2.7".into()),
        user_agent: Some("<script>alert(1)</script>\u{202e}<img src=x>".into()),
    };
    let dan =
        host.access().log_in(vouched("dan", Role::Developer), None, from, life).await.expect("logged in");
    let ada = crate::roles::log_in(&host, "ada", Role::Admin).await;
    let cookie = format!("sdp={}", dan.session.expose());
    let page = account(&host, &cookie).await;
    for shown in [
        "192.0.2.7",
        "&lt;script&gt;alert(1)&lt;/script&gt;⟨U+202E⟩&lt;img",
        "this browser",
        &format!("data-delete=\"/api/v1/me/sessions/{}\"", dan.id),
        "https://git.example.com",
        "data-delete=\"/api/v1/me/sessions\"",
        "option value=\"deploy\"",
        "option value=\"hello\"",
    ] {
        assert!(page.contains(shown), "{shown:?} is missing: {page}");
    }
    for not_theirs in ["<script>alert", "<img", "hunter2", "option value=\"admin\"", "data-person", "U-ada"] {
        assert!(!page.contains(not_theirs), "{not_theirs:?}: {page}");
    }
    assert!(!page.contains("/api/v1/tokens/"), "he has none: {page}");

    // His own token is there, by its name; its value is in the answer that made it alone.
    let made =
        host.bare(Method::POST, "/api/v1/tokens").header("cookie", &cookie).header("origin", &host.url);
    let made = made.json(&json!({ "name": "ci-dan", "kind": "deploy", "service": "hello" })).send().await;
    let made: serde_json::Value = crate::harness::ok(made.expect("answered"), 201).await;
    let page = account(&host, &cookie).await;
    assert!(page.contains("/api/v1/tokens/ci-dan") && page.contains("works until it is revoked"), "{page}");
    assert!(!page.contains(made["token"].as_str().expect("a value")), "{page}");

    let page = account(&host, &format!("sdp={}", ada.session.expose())).await;
    for shown in [
        "/api/v1/tokens/ci-dan",
        "of dan",
        "of the operators",
        "data-person=\"dan\"",
        "U-ada",
        "in the chat of chat",
    ] {
        assert!(page.contains(shown), "{shown:?} is missing: {page}");
    }
    assert!(!page.contains("192.0.2.7"), "where others are signed in is theirs: {page}");
    let out = host.bare(Method::DELETE, "/api/v1/me/sessions").header("cookie", &cookie);
    assert_eq!(out.header("origin", &host.url).send().await.expect("answered").status(), 204);
    let gone = host.bare(Method::GET, "/account").header("cookie", &cookie).send().await.expect("answered");
    assert_eq!(gone.status(), 401);
    host.stop().await;
}

#[tokio::test]
async fn a_name_and_an_operator_have_no_account_and_are_told_so() {
    let host = Host::start().await;
    let bot = host.token(TokenKind::Bot, "chat").await;
    let link = host.with(&bot, Method::POST, "/api/v1/sign-in-links").header("sdp-on-behalf-of", "bob");
    let link = link.json(&json!({})).send().await.expect("answered");
    let link: sdp_core::api::SignInLink = crate::harness::ok(link, 201).await;
    let signed_in = host.bare(Method::POST, link.url.path()).send().await.expect("answered");
    let cookie =
        signed_in.headers()["set-cookie"].to_str().expect("text").split(';').next().expect("a value");
    let page = account(&host, cookie).await;
    assert!(page.contains("without an account") && page.contains("developer: may look"), "{page}");
    assert!(!page.contains("data-delete=") && !page.contains("token-form"), "{page}");

    let page = account(&host, &session(&host).await).await;
    assert!(page.contains("not by a person") && page.contains("Nobody has logged in yet"), "{page}");
    assert!(
        !page.contains("/api/v1/tokens") && !page.contains("token-form"),
        "a browser makes none for operators: {page}"
    );
    // With the token itself the list is read, and nothing in it is pressed.
    let page = host.get("/account").send().await.expect("answered").text().await.expect("a page");
    assert!(page.contains("of the operators") && !page.contains("token-form"), "{page}");
    for token in [bot, host.token(TokenKind::Read, "reads").await] {
        let answer = host.with(&token, Method::GET, "/account").send().await.expect("answered");
        assert_eq!(answer.status(), 403);
    }
    host.stop().await;
}
