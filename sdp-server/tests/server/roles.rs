//! Every route of the document against everybody that there can be, over HTTP: who gets in is what the table says.

use reqwest::{Method, RequestBuilder};
use sdp_core::access::{ChatUser, LoggedIn, NewToken, Origin, Vouched};
use sdp_core::api::{Problem, TokenKind};
use sdp_core::name::PersonName;
use sdp_core::principal::Role;
use sdp_core::secret::{GitCredential, Secret};
use serde_json::{Value, json};

use crate::harness::{Host, ok, refused};

/// Somebody whom a git host has vouched for.
pub(crate) fn vouched(user: &str, role: Role) -> Vouched {
    Vouched {
        origin: "https://git.example.com".into(),
        user: user.into(),
        credential: GitCredential { username: user.into(), password: Secret::new("hunter2hunter2") },
        role,
        is_admin: false,
    }
}

/// Logs a person in, as user `user` of the bot's chat, too.
pub(crate) async fn log_in(host: &Host, user: &str, role: Role) -> LoggedIn {
    let of =
        ChatUser { bot: "chat".parse().expect("valid"), user: format!("U-{user}").parse().expect("valid") };
    let (link, _) = host.access().create_login_link(&of).await.expect("made");
    let life = std::time::Duration::from_secs(3600);
    let login = host.access().log_in(vouched(user, role), Some(link.expose()), Origin::default(), life);
    login.await.expect("logged in")
}

enum Holds {
    Token(String),
    Bot(String, Option<&'static str>),
    Browser(String),
}

impl Holds {
    fn with(&self, host: &Host, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::Token(token) => request.bearer_auth(token),
            Self::Bot(token, None) => request.bearer_auth(token),
            Self::Bot(token, Some(user)) => request.bearer_auth(token).header("sdp-on-behalf-of", *user),
            Self::Browser(session) => {
                request.header("cookie", format!("sdp={session}")).header("origin", &host.url)
            }
        }
    }
}

async fn own_token(host: &Host, name: &str, owner: &PersonName, kind: TokenKind) -> String {
    let new = NewToken {
        name: name.parse().expect("valid"),
        kind,
        owner: Some(owner.clone()),
        service: None,
        expires_at: None,
    };
    host.access().issue_token(new).await.expect("made").token.expose().to_owned()
}

#[tokio::test]
async fn every_route_lets_in_whom_the_table_names() {
    let host = Host::start_with(|config| config.login.trust_bot = false).await;
    let bot = host.token(TokenKind::Bot, "chat").await;
    let one = NewToken {
        name: "one".parse().expect("valid"),
        kind: TokenKind::Deploy,
        owner: None,
        service: Some("other".parse().expect("valid")),
        expires_at: None,
    };
    let one = host.access().issue_token(one).await.expect("made").token.expose().to_owned();
    let viewer = log_in(&host, "vera", Role::Viewer).await;
    let developer = log_in(&host, "dan", Role::Developer).await;
    let admin = log_in(&host, "ada", Role::Admin).await;
    let everybody = [
        ('a', Holds::Token(host.token(TokenKind::Agent, "vm-9").await)),
        ('r', Holds::Token(host.token(TokenKind::Read, "read").await)),
        ('d', Holds::Token(host.token(TokenKind::Deploy, "deploy").await)),
        ('1', Holds::Token(one)),
        ('O', Holds::Token(host.admin.clone())),
        ('p', Holds::Token(own_token(&host, "dans", &developer.person.name, TokenKind::Admin).await)),
        ('P', Holds::Token(own_token(&host, "adas", &admin.person.name, TokenKind::Admin).await)),
        ('b', Holds::Bot(bot.clone(), None)),
        ('s', Holds::Bot(bot.clone(), Some("U-stranger"))),
        ('v', Holds::Bot(bot.clone(), Some("U-vera"))),
        ('e', Holds::Bot(bot.clone(), Some("U-dan"))),
        ('V', Holds::Browser(viewer.session.expose().to_owned())),
        ('D', Holds::Browser(developer.session.expose().to_owned())),
        ('A', Holds::Browser(admin.session.expose().to_owned())),
    ];
    let document: Value = ok(host.get("/api/v1/openapi.json").send().await.expect("answered"), 200).await;
    let mut table = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("item") {
            let operation_id = operation["operationId"].as_str().expect("an id");
            // They would end what the others come with; a socket is no request. Tests of their own look at them.
            if ["log_out", "log_out_everywhere", "sign_out"].contains(&operation_id)
                || path.starts_with("/ws/")
            {
                continue;
            }
            let is_open = operation["security"].as_array().is_some_and(Vec::is_empty);
            if is_open {
                continue;
            }
            let method: Method = method.to_uppercase().parse().expect("a method");
            // Names that nothing has: whoever gets in hears that it is not there.
            let id = "00000000-0000-7000-8000-000000000000";
            let address = path
                .replace("{deployment}", "999")
                .replace("{instance}", id)
                .replace("{session}", id)
                .replace("{binding}", id)
                .replace("{person}", "nobody")
                .replace(['{', '}'], "");
            let mut row = String::new();
            for (letter, holds) in &everybody {
                let answer = holds.with(&host, host.bare(method.clone(), &address)).send();
                let answer = answer.await.expect("answered");
                let status = answer.status();
                assert!(!status.is_server_error() || status == 503, "{method} {path} {letter}: {status}");
                row.push(if matches!(status.as_u16(), 401 | 403) { '·' } else { *letter });
            }
            table.push(format!("{row} {method:<6} {path}"));
        }
    }
    insta::assert_snapshot!(table.join("\n"), @r"
    ·rd1OpPbsveVDA GET /api/v1/agents
    ····O·P······A DELETE /api/v1/agents/{agent}
    ····O·P······A POST /api/v1/agents/{agent}/drain
    ····O·P······A POST /api/v1/agents/{agent}/enrolment
    ····O·P······A POST /api/v1/agents/{agent}/resume
    ····O·P······A GET /api/v1/audit
    ····O·P······A GET /api/v1/audit/export
    ··d1OpP···e·DA POST /api/v1/batches
    ·rd1OpPbsveVDA GET /api/v1/batches/{batch}
    ·rd1OpPbsveVDA GET /api/v1/deployments
    ··d1OpP···e·DA POST /api/v1/deployments
    ·rd1OpPbsveVDA GET /api/v1/deployments/{deployment}
    ··d1OpP···e·DA POST /api/v1/deployments/{deployment}/cancel
    ·rd1OpPbsveVDA GET /api/v1/deployments/{deployment}/logs
    ·rd1OpPbsveVDA GET /api/v1/deployments/{deployment}/logs/raw
    ·rd1OpPbsveVDA GET /api/v1/deployments/{deployment}/logs/search
    ··d1OpP···e·DA POST /api/v1/deployments/{deployment}/redeploy
    ··d1OpP···e·DA POST /api/v1/deployments/{deployment}/rollback
    ·············· POST /api/v1/enrol
    ·rd1OpPbsveVDA GET /api/v1/environments
    ····O·P······A POST /api/v1/environments
    ····O·P······A DELETE /api/v1/environments/{environment}
    ·rd1OpPbsveVDA GET /api/v1/environments/{environment}
    ····O·P······A PUT /api/v1/environments/{environment}
    ·rd1OpPbsveVDA GET /api/v1/events
    ·rd1OpPbsveVDA GET /api/v1/instances
    ·rd1OpPbsveVDA GET /api/v1/instances/{instance}
    ·rd1OpPbsveVDA GET /api/v1/instances/{instance}/output
    ·rd1OpPbsveVDA GET /api/v1/instances/{instance}/output/raw
    ··d1OpP···e·DA POST /api/v1/instances/{instance}/restart
    ··d1OpP···e·DA POST /api/v1/instances/{instance}/stop
    ·rd1OpPbsveVDA GET /api/v1/locks
    ··d1OpP···e·DA POST /api/v1/locks
    ··d1OpP···e·DA DELETE /api/v1/locks/{lock}
    ········sve··· POST /api/v1/login-links
    ·rd1OpPbsveVDA GET /api/v1/me
    ·········veVDA GET /api/v1/me/bindings
    ·········veVDA DELETE /api/v1/me/bindings/{binding}
    ·········veVDA GET /api/v1/me/sessions
    ·········veVDA DELETE /api/v1/me/sessions/{session}
    ·rd1OpPbsveVDA GET /api/v1/openapi.json
    ····O·P······A GET /api/v1/people
    ····O·P······A DELETE /api/v1/people/{person}
    ····O·P······A PUT /api/v1/people/{person}
    ·rd1OpPbsveVDA GET /api/v1/repositories
    ·rd1OpPbsveVDA GET /api/v1/routes/explain
    ·rd1OpPbsveVDA GET /api/v1/sandboxes
    ··d1OpP···e·DA POST /api/v1/sandboxes
    ··d·OpP···e·DA DELETE /api/v1/sandboxes/{sandbox}
    ·rd1OpPbsveVDA GET /api/v1/sandboxes/{sandbox}
    ··d1OpP···e·DA PUT /api/v1/sandboxes/{sandbox}
    ··d1OpP···e·DA POST /api/v1/sandboxes/{sandbox}/probe
    ··d1OpP···e·DA POST /api/v1/sandboxes/{sandbox}/renew
    ··d1OpP···e·DA PUT /api/v1/sandboxes/{sandbox}/routes/{service}
    ·rd1OpPbsveVDA GET /api/v1/sandboxes/{sandbox}/variables
    ·rd1OpPbsveVDA GET /api/v1/services
    ····O·P······A POST /api/v1/services
    ····O·P······A DELETE /api/v1/services/{service}
    ·rd1OpPbsveVDA GET /api/v1/services/{service}
    ····O·P······A PUT /api/v1/services/{service}
    ·rd1OpPbsveVDA GET /api/v1/services/{service}/branches
    ····O·P······A GET /api/v1/services/{service}/secrets
    ····O·P······A DELETE /api/v1/services/{service}/secrets/{name}
    ····O·P······A PUT /api/v1/services/{service}/secrets/{name}
    ····O····ve··· POST /api/v1/sign-in-links
    ·rd1OpPbsveVDA GET /api/v1/templates
    ··d·OpP···e·DA DELETE /api/v1/templates/{template}
    ·rd1OpPbsveVDA GET /api/v1/templates/{template}
    ··d·OpP···e·DA PUT /api/v1/templates/{template}
    ·rd1OpPbsveVDA GET /api/v1/templates/{template}/versions
    ····O······VDA GET /api/v1/tokens
    ····O······VDA POST /api/v1/tokens
    ····O······VDA DELETE /api/v1/tokens/{token}
    ·rd1OpPbsveVDA GET /metrics
    ");
    host.stop().await;
}

#[tokio::test]
async fn what_a_person_may_is_looked_at_with_each_request() {
    let host = Host::start_with(|config| config.login.trust_bot = false).await;
    host.hello().await;
    let bot = host.token(TokenKind::Bot, "chat").await;
    let dan = log_in(&host, "dan", Role::Developer).await;
    let own = own_token(&host, "dans", &dan.person.name, TokenKind::Deploy).await;
    let deploy = |request: RequestBuilder| request.json(&json!({ "service": "hello" }));
    let as_bot = |user: &'static str| {
        deploy(host.with(&bot, Method::POST, "/api/v1/deployments")).header("sdp-on-behalf-of", user)
    };
    let browser = || {
        let cookie = format!("sdp={}", dan.session.expose());
        deploy(host.bare(Method::POST, "/api/v1/deployments"))
            .header("cookie", cookie)
            .header("origin", &host.url)
    };
    let mut seen = Vec::new();
    for request in [as_bot("U-dan"), browser(), deploy(host.with(&own, Method::POST, "/api/v1/deployments"))]
    {
        let created: Value = ok(request.send().await.expect("answered"), 202).await;
        assert_eq!(created["deployment"]["sandbox"], "dan", "everywhere the same person");
        seen.push(created["deployment"]["requested_by"]["kind"].as_str().expect("a kind").to_owned());
    }
    assert_eq!(seen, ["bot", "person", "person"]);
    let refusal = refused(as_bot("U-eve"), 403, "login_needed").await;
    assert!(refusal.hint.expect("a hint").contains("/sdp login"));

    let set = host.with(&host.admin, Method::PUT, "/api/v1/people/dan").json(&json!({ "role": "viewer" }));
    assert_eq!(set.send().await.expect("answered").status(), 200);
    for request in [as_bot("U-dan"), browser(), deploy(host.with(&own, Method::POST, "/api/v1/deployments"))]
    {
        refused(request, 403, "forbidden").await;
    }
    let gone = host.with(&host.admin, Method::DELETE, "/api/v1/people/dan").send().await.expect("answered");
    assert_eq!(gone.status(), 204);
    refused(as_bot("U-dan"), 403, "login_needed").await;
    refused(browser(), 401, "unauthorised").await;
    refused(deploy(host.with(&own, Method::POST, "/api/v1/deployments")), 401, "unauthorised").await;
    host.stop().await;
}

#[tokio::test]
async fn nobody_makes_a_token_that_may_more_than_they() {
    let host = Host::start().await;
    host.hello().await;
    let dan = log_in(&host, "dan", Role::Developer).await;
    let vera = log_in(&host, "vera", Role::Viewer).await;
    let make = |of: &LoggedIn, body: Value| {
        let cookie = format!("sdp={}", of.session.expose());
        let request = host.bare(Method::POST, "/api/v1/tokens").header("cookie", cookie);
        request.header("origin", &host.url).json(&body)
    };
    for (of, kind) in [(&dan, "admin"), (&dan, "bot"), (&dan, "agent"), (&vera, "deploy")] {
        refused(make(of, json!({ "name": "x", "kind": kind })), 403, "forbidden").await;
    }
    let limited = json!({ "name": "x", "kind": "read", "service": "hello" });
    refused(make(&dan, limited), 422, "invalid_body").await;
    refused(make(&dan, json!({ "name": "x", "kind": "deploy", "service": "nix" })), 404, "unknown_service")
        .await;
    refused(make(&dan, json!({ "name": "x", "kind": "deploy", "expires_in_days": 0 })), 422, "invalid_body")
        .await;
    let body = json!({ "name": "ci", "kind": "deploy", "service": "hello", "expires_in_days": 90 });
    let made: Value = ok(make(&dan, body).send().await.expect("answered"), 201).await;
    let token = made["token"].as_str().expect("a value");
    assert!(token.starts_with("sdp_") && made["expires_at"].is_string(), "{}", made["name"]);

    // It deploys that service as its owner, touches no other one, and makes no tokens.
    let deploy = |service: &str| {
        host.with(token, Method::POST, "/api/v1/deployments").json(&json!({ "service": service }))
    };
    let created: Value = ok(deploy("hello").send().await.expect("answered"), 202).await;
    assert_eq!(created["deployment"]["requested_by"], json!({ "kind": "person", "name": "dan" }));
    refused(deploy("other"), 403, "forbidden").await;
    refused(host.with(token, Method::DELETE, "/api/v1/sandboxes/dan"), 403, "forbidden").await;
    refused(host.with(token, Method::GET, "/api/v1/tokens"), 403, "forbidden").await;

    // Its owner sees and revokes it, others do not.
    let list = |of: &LoggedIn| {
        host.bare(Method::GET, "/api/v1/tokens").header("cookie", format!("sdp={}", of.session.expose()))
    };
    let listed: Value = ok(list(&dan).send().await.expect("answered"), 200).await;
    assert_eq!(
        (listed["tokens"].as_array().expect("a list").len(), &listed["tokens"][0]["name"]),
        (1, &json!("ci"))
    );
    let listed: Value = ok(list(&vera).send().await.expect("answered"), 200).await;
    assert_eq!(listed["tokens"], json!([]));
    let revoke = |of: &LoggedIn| {
        let cookie = format!("sdp={}", of.session.expose());
        host.bare(Method::DELETE, "/api/v1/tokens/ci").header("cookie", cookie).header("origin", &host.url)
    };
    refused(revoke(&vera), 404, "unknown_token").await;
    assert_eq!(revoke(&dan).send().await.expect("answered").status(), 204);
    refused(deploy("hello"), 401, "unauthorised").await;
    host.stop().await;
}

#[tokio::test]
async fn sessions_and_bindings_are_listed_and_ended_by_their_owner() {
    let host = Host::start_with(|config| config.login.trust_bot = false).await;
    let bot = host.token(TokenKind::Bot, "chat").await;
    let first = log_in(&host, "dan", Role::Developer).await;
    let second = log_in(&host, "dan", Role::Developer).await;
    let vera = log_in(&host, "vera", Role::Viewer).await;
    let ask = |of: &LoggedIn, method: Method, path: &str| {
        let cookie = format!("sdp={}", of.session.expose());
        host.bare(method, path).header("cookie", cookie).header("origin", &host.url)
    };
    let list: Value =
        ok(ask(&first, Method::GET, "/api/v1/me/sessions").send().await.expect("answered"), 200).await;
    let current: Vec<_> =
        list["sessions"].as_array().expect("a list").iter().map(|s| &s["current"]).collect();
    assert_eq!(current, [&json!(false), &json!(true)], "newest first");
    let path = format!("/api/v1/me/sessions/{}", second.id);
    refused(ask(&vera, Method::DELETE, &path), 404, "unknown_session").await;
    assert_eq!(ask(&first, Method::DELETE, &path).send().await.expect("answered").status(), 204);
    refused(ask(&second, Method::GET, "/api/v1/me"), 401, "unauthorised").await;

    let me = host.with(&bot, Method::GET, "/api/v1/me").header("sdp-on-behalf-of", "U-dan");
    let me: Value = ok(me.send().await.expect("answered"), 200).await;
    assert_eq!((&me["account"]["name"], &me["role"]), (&json!("dan"), &json!("developer")));
    assert!(me["bound_until"].is_string() && me["account"]["has_credential"] == json!(true));
    let out = host.with(&bot, Method::POST, "/api/v1/logout").header("sdp-on-behalf-of", "U-dan");
    assert_eq!(out.send().await.expect("answered").status(), 204);
    let again = host.with(&bot, Method::POST, "/api/v1/logout").header("sdp-on-behalf-of", "U-dan");
    refused(again, 403, "login_needed").await;
    let bindings: Value =
        ok(ask(&first, Method::GET, "/api/v1/me/bindings").send().await.expect("answered"), 200).await;
    assert_eq!(bindings["bindings"], json!([]));

    let everywhere = ask(&first, Method::DELETE, "/api/v1/me/sessions").send().await.expect("answered");
    assert_eq!(everywhere.status(), 204);
    refused(ask(&first, Method::GET, "/api/v1/me"), 401, "unauthorised").await;
    let person = host.access().person(&first.person.name).await.expect("asked").expect("known");
    assert!(!person.has_credential, "forgotten with the last of them");
    let unused: Problem =
        refused(host.with(&bot, Method::GET, "/api/v1/me/sessions"), 403, "forbidden").await;
    assert!(unused.hint.is_some());
    host.stop().await;
}
