//! Logging in with a git account: by API and page, with a link from chat; the git host is played by an agent.

use reqwest::{Method, RequestBuilder, Response};
use sdp_core::api::{LoginLink, TokenKind};
use serde_json::{Value, json};

use crate::harness::{Host, ok, refused};

const REPO: &str = "https://git.example.com/shop/login.git";

async fn host() -> Host {
    Host::start_with(|config| {
        config.login.trust_bot = false;
        config.login.repository = Some(REPO.parse().expect("valid"));
        config.login.admins = ["ada".to_owned()].into();
    })
    .await
}

fn cookie(answer: &Response) -> String {
    let cookie = answer.headers()["set-cookie"].to_str().expect("text");
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax") && cookie.contains("Path=/"),
        "{cookie}"
    );
    cookie.split(';').next().expect("a value").to_owned()
}

fn log_in(host: &Host, user: &str, password: &str) -> RequestBuilder {
    host.bare(Method::POST, "/api/v1/login").json(&json!({ "username": user, "password": password }))
}

fn form(host: &Host, path: &str, user: &str, password: &str) -> RequestBuilder {
    let fields = [("username", user), ("password", password), ("next", "/deployments/7")];
    let body: String = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let request = host.bare(Method::POST, path).header("content-type", "application/x-www-form-urlencoded");
    request.header("origin", &host.url).body(body)
}

#[tokio::test]
async fn who_is_vouched_for_is_logged_in_and_acts_with_their_own_credential() {
    let host = host().await;
    let mut agent = host.agent().await;
    let (answer, asked) =
        tokio::join!(log_in(&host, "alice", "right-password").send(), agent.vouch("right-password"));
    assert_eq!((asked.username.as_str(), asked.password.expose()), ("alice", "right-password"));
    let answer = answer.expect("answered");
    let session = cookie(&answer);
    let person: Value = ok(answer, 200).await;
    assert_eq!((&person["name"], &person["role"]), (&json!("alice"), &json!("developer")));
    assert_eq!(person["git_origin"], "https://git.example.com");

    // Their credential goes with what they deploy from that host, and nowhere else.
    for (name, repo) in
        [("mine", "https://git.example.com/shop/mine.git"), ("other", "https://other.example.com/x.git")]
    {
        let service = json!({ "name": name, "repo": repo, "builder": { "type": "command", "run": ["./x"] } });
        assert_eq!(host.post("/api/v1/services", &service).send().await.expect("answered").status(), 201);
        let deploy = host.bare(Method::POST, "/api/v1/deployments").json(&json!({ "service": name }));
        let deploy = deploy.header("cookie", &session).header("origin", &host.url);
        assert_eq!(deploy.send().await.expect("answered").status(), 202);
        let sent = agent.take_credential().await;
        let sent = sent.map(|credential| credential.password.expose().to_owned());
        assert_eq!(sent.as_deref(), (name == "mine").then_some("right-password"), "{name}");
    }
    host.stop().await;
}

#[tokio::test]
async fn who_is_not_vouched_for_hears_the_same_after_the_same_time() {
    let host = host().await;
    let mut agent = host.agent().await;
    let mut answers = Vec::new();
    // A known user, an unknown one; what no git host could be asked with.
    let (known, _) = tokio::join!(log_in(&host, "alice", "right").send(), agent.vouch("right"));
    assert_eq!(known.expect("answered").status(), 200);
    for (user, password, is_asked) in [
        ("alice", "wrong", true),
        ("nobody", "wrong", true),
        ("", "x", false),
        ("a:b", "x", false),
        ("a", "x\ny", false),
    ] {
        let begun = std::time::Instant::now();
        let request = log_in(&host, user, password);
        let answer = if is_asked {
            tokio::join!(request.send(), agent.vouch("right")).0
        } else {
            request.send().await
        };
        let answer = answer.expect("answered");
        assert!(!answer.headers().contains_key("set-cookie"));
        assert!(begun.elapsed().as_millis() >= 1000, "{user}: its time says nothing");
        let problem: Value = ok(answer, 401).await;
        assert_eq!(problem["code"], "login_wrong");
        answers.push(problem);
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
    host.stop().await;
}

#[tokio::test]
async fn a_link_from_chat_binds_its_user_on_the_page() {
    let host = host().await;
    let mut agent = host.agent().await;
    let bot = host.token(TokenKind::Bot, "slack").await;
    let ask = || host.with(&bot, Method::POST, "/api/v1/login-links").header("sdp-on-behalf-of", "U024BE7LH");
    refused(host.with(&bot, Method::POST, "/api/v1/login-links"), 403, "forbidden").await;
    refused(host.with(&host.admin, Method::POST, "/api/v1/login-links"), 403, "forbidden").await;
    let link: LoginLink = ok(ask().send().await.expect("answered"), 201).await;
    let path = link.url.path().to_owned();
    for _ in 0..2 {
        let page = host.bare(Method::GET, &path).send().await.expect("answered");
        assert_eq!(
            (page.status().as_u16(), &page.headers()["cache-control"]),
            (200, &"no-store".parse().expect("a value"))
        );
        let text = page.text().await.expect("a page");
        assert!(text.contains("U024BE7LH") && text.contains("type=\"password\""), "{text}");
    }
    // Not from another site's page, and not without a browser's word.
    let foreign = form(&host, &path, "a", "b").header("sec-fetch-site", "cross-site");
    refused(foreign, 403, "cross_site").await;
    let (wrong, _) = tokio::join!(form(&host, &path, "alice", "wrong").send(), agent.vouch("right"));
    let wrong = wrong.expect("answered");
    assert_eq!(wrong.status(), 401);
    let text = wrong.text().await.expect("a page");
    assert!(
        text.contains("wrong") && text.contains("value=\"alice\"") && !text.contains("value=\"wrong\""),
        "{text}"
    );

    let (right, _) = tokio::join!(form(&host, &path, "alice", "right").send(), agent.vouch("right"));
    let right = right.expect("answered");
    assert_eq!(right.status(), 200, "a wrong password has not used the link up");
    let session = cookie(&right);
    assert!(right.text().await.expect("a page").contains("You are logged in"));
    let me = host.bare(Method::GET, "/api/v1/me").header("cookie", session);
    let me: Value = ok(me.send().await.expect("answered"), 200).await;
    assert_eq!(me["account"]["name"], "alice");
    let me = host.with(&bot, Method::GET, "/api/v1/me").header("sdp-on-behalf-of", "U024BE7LH");
    let me: Value = ok(me.send().await.expect("answered"), 200).await;
    assert_eq!(me["principal"], json!({ "kind": "bot", "name": "slack", "person": "alice" }));

    // Used, for everybody.
    assert_eq!(host.bare(Method::GET, &path).send().await.expect("answered").status(), 410);
    assert_eq!(form(&host, &path, "mallory", "right").send().await.expect("answered").status(), 410);
    host.stop().await;
}

#[tokio::test]
async fn the_page_leads_on_and_replaces_the_session_before() {
    let host = host().await;
    let mut agent = host.agent().await;
    let page = host.bare(Method::GET, "/login?next=/deployments/7").send().await.expect("answered");
    assert!(page.text().await.expect("a page").contains("value=\"/deployments/7\""));
    let foreign = host.bare(Method::GET, "/login?next=//evil.example").send().await.expect("answered");
    assert!(!foreign.text().await.expect("a page").contains("evil.example"));
    let (first, _) = tokio::join!(form(&host, "/login", "ada", "right").send(), agent.vouch("right"));
    let first = first.expect("answered");
    assert_eq!(
        (first.status().as_u16(), &first.headers()["location"]),
        (303, &"/deployments/7".parse().expect("a value"))
    );
    let before = cookie(&first);
    let again = form(&host, "/login", "ada", "right").header("cookie", &before);
    let (second, _) = tokio::join!(again.send(), agent.vouch("right"));
    let now = cookie(&second.expect("answered"));
    assert_ne!(before, now, "never the value that a browser brought along");
    refused(host.bare(Method::GET, "/api/v1/me").header("cookie", &before), 401, "unauthorised").await;
    let me: Value =
        ok(host.bare(Method::GET, "/api/v1/me").header("cookie", &now).send().await.expect("answered"), 200)
            .await;
    assert_eq!(me["role"], "admin", "the configuration names her");
    // A page that needs somebody says how to come in, and leads back.
    let page = host.bare(Method::GET, "/deployments/7").send().await.expect("answered");
    assert_eq!(page.status(), 401);
    assert!(page.text().await.expect("a page").contains("/login?next=%2Fdeployments%2F7"));
    host.stop().await;
}

#[tokio::test]
async fn where_nobody_can_vouch_that_is_said() {
    let nobody = Host::start().await;
    refused(log_in(&nobody, "alice", "right"), 404, "no_login").await;
    assert_eq!(nobody.bare(Method::GET, "/login").send().await.expect("answered").status(), 404);
    nobody.stop().await;
    let host = host().await;
    refused(log_in(&host, "alice", "right"), 503, "no_agent").await;
    refused(host.bare(Method::POST, "/api/v1/login").json(&json!({ "username": "x" })), 422, "invalid_body")
        .await;
    let cross = log_in(&host, "alice", "right").header("origin", "https://evil.example");
    refused(cross, 403, "cross_site").await;
    host.stop().await;
}
