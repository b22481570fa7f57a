//! People with git accounts, against a real git host: who they are is checked there, they deploy private repositories in their
//! own name from page, REST and chat, and what they logged in with is found nowhere.

use reqwest::Method;
use sdp_bot::console::{self, Options};
use sdp_core::api::{CreateToken, LoginLink, TokenKind};
use sdp_core::client::Client;
use sdp_core::secret::Secret;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::git_host::{ALICE, BOB, GitHost};
use crate::harness::{Sdp, name, run_test_logged_with, run_test_with};
use crate::hunt::Hunt;

/// Server and agent log all that they can say.
const EVERYTHING: &str = "trace";

/// A host with a private service of the shop, and one of alice's alone.
pub(crate) fn host() -> GitHost {
    let host = GitHost::start();
    host.push("shop/login", "main", &[("README", "Who can read this works here.")]);
    host.push("shop/payments", "main", &[("greeting.txt", "payments from main")]);
    host.push("shop/payments", "feature/refund", &[("greeting.txt", "refunds")]);
    host.push("private/alice", "main", &[("greeting.txt", "alice's own")]);
    host.push("private/alice", "secret-plan", &[("greeting.txt", "alice's plan")]);
    host
}

pub(crate) fn logs_in(host: &GitHost) -> impl FnOnce(&mut sdp_server::Config, &mut sdp_agent::Config) {
    let (repository, origin, ca) = (host.url("shop/login"), host.origin(), host.ca_file());
    move |server, agent| {
        server.login.trust_bot = false;
        server.login.repository = Some(repository);
        agent.git.origins.push(origin.parse().expect("a URL"));
        agent.git.ca_file = Some(ca);
    }
}

pub(crate) async fn catalog(sdp: &Sdp, host: &GitHost) {
    sdp.service("payments", json!({ "repo": host.url("shop/payments") })).await;
    sdp.service("private", json!({ "repo": host.url("private/alice") })).await;
}

/// A browser: a cookie, and the word that our own page sends.
#[derive(Debug)]
struct Browser {
    url: url::Url,
    http: reqwest::Client,
    cookie: String,
}

impl Browser {
    fn ask(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let url = self.url.join(path).expect("a path");
        let origin = self.url.origin().ascii_serialization();
        self.http.request(method, url).header("cookie", &self.cookie).header("origin", origin)
    }

    async fn deploy(&self, sdp: &Sdp, service: &str, git_ref: &str) -> (String, String) {
        let body = json!({ "service": service, "git_ref": git_ref });
        let answer =
            self.ask(Method::POST, "/api/v1/deployments").json(&body).send().await.expect("answered");
        assert_eq!(answer.status(), 202);
        let created: Value = answer.json().await.expect("json");
        ended(sdp, created["number"].as_u64().expect("a number")).await
    }

    async fn branches(&self, service: &str) -> Vec<String> {
        let answer = self.ask(Method::GET, &format!("/api/v1/services/{service}/branches")).send().await;
        let answer = answer.expect("answered");
        if answer.status() != 200 {
            let problem: Value = answer.json().await.expect("json");
            return vec![problem["code"].as_str().expect("a code").to_owned()];
        }
        let list: Value = answer.json().await.expect("json");
        let branches = list["branches"].as_array().expect("a list");
        branches.iter().map(|branch| branch["name"].as_str().expect("a name").to_owned()).collect()
    }
}

fn reference(number: u64) -> sdp_core::id::DeploymentRef {
    sdp_core::id::DeploymentRef::Number(sdp_core::id::DeploymentNumber(number))
}

/// How a deployment ended, and who asked for it.
async fn ended(sdp: &Sdp, number: u64) -> (String, String) {
    let view = sdp.wait(reference(number)).await;
    let deployment = view.deployment;
    let outcome = match deployment.outcome().expect("ended") {
        sdp_core::deployment::Outcome::Failed { failure } => failure.reason.code().to_owned(),
        other => other.code().to_owned(),
    };
    (outcome, format!("{} {}", deployment.requested_by, deployment.sandbox))
}

async fn log_in(sdp: &Sdp, user: &str, password: &str) -> Result<Browser, (u16, Value)> {
    let url = sdp.url.join("/api/v1/login").expect("a path");
    let body = json!({ "username": user, "password": password });
    let answer = sdp.http.post(url).json(&body).send().await.expect("answered");
    let status = answer.status().as_u16();
    let cookie = answer.headers().get("set-cookie").map(|value| value.to_str().expect("text").to_owned());
    match cookie {
        Some(cookie) => {
            let cookie = cookie.split(';').next().expect("a value").to_owned();
            Ok(Browser { url: sdp.url.clone(), http: sdp.http.clone(), cookie })
        }
        None => Err((status, answer.json().await.expect("a problem"))),
    }
}

/// A user of a chat whose bot has this token types something; what is shown.
async fn typed(sdp: &Sdp, bot: &Secret, user: &str, commands: &str) -> (String, bool) {
    let client = Client::new(sdp.url.clone(), bot.clone()).expect("a client").on_behalf_of(name(user));
    let mut output = Vec::new();
    let options = Options::script(Some(name(user)));
    let ended =
        console::run(client, commands.as_bytes(), &mut output, options, CancellationToken::new()).await;
    (String::from_utf8(output).expect("UTF-8"), ended.expect("it ran").success())
}

async fn bot(sdp: &Sdp) -> Secret {
    sdp.admin.create_token(&CreateToken::new(name("chat"), TokenKind::Bot)).await.expect("made").token
}

/// Logs a user of the chat in by a link, as a person does on the page.
async fn bind(sdp: &Sdp, bot: &Secret, chat_user: &str, user: &str, password: &str) -> u16 {
    let ask = sdp.http.post(sdp.url.join("/api/v1/login-links").expect("a path")).bearer_auth(bot.expose());
    let answer = ask.header("sdp-on-behalf-of", chat_user).send().await.expect("answered");
    let link: LoginLink = answer.json().await.expect("a link");
    let fields = [("username", user), ("password", password)];
    let form: String = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let origin = sdp.url.origin().ascii_serialization();
    let request = sdp.http.post(link.url).header("origin", origin).body(form);
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    request.send().await.expect("answered").status().as_u16()
}

#[test]
#[ignore = "needs nginx and fcgiwrap"]
fn people_log_in_at_their_git_host_and_deploy_what_is_theirs() {
    let host = host();
    run_test_with(logs_in(&host), async |sdp| {
        catalog(sdp, &host).await;
        // The host is asked once with the wrong password; nobody is told what was wrong.
        for (user, password) in [("alice", BOB), ("nobody", ALICE)] {
            let before = host.asked().len();
            let (status, problem) = log_in(sdp, user, password).await.expect_err("refused");
            assert_eq!((status, &problem["code"]), (401, &json!("login_wrong")));
            let asked = host.asked()[before..].iter().filter(|line| line.starts_with(user)).count();
            assert_eq!(asked, 1, "{:?}", host.asked());
        }
        let alice = log_in(sdp, "alice", ALICE).await.expect("logged in");
        let bob = log_in(sdp, "bob", BOB).await.expect("logged in");

        // Page, token and chat: each the person, with their own credential.
        assert_eq!(alice.deploy(sdp, "payments", "main").await, ("succeeded".into(), "alice alice".into()));
        assert_eq!(alice.deploy(sdp, "private", "main").await, ("succeeded".into(), "alice alice".into()));
        let (outcome, _) = bob.deploy(sdp, "private", "main").await;
        assert!(["credentials_needed", "repo_not_found"].contains(&&*outcome), "{outcome}");
        let made = alice.ask(Method::POST, "/api/v1/tokens").json(&json!({ "name": "ci", "kind": "deploy" }));
        let made: Value = made.send().await.expect("answered").json().await.expect("json");
        let ci = Client::new(sdp.url.clone(), Secret::new(made["token"].as_str().expect("a value")));
        let ci = ci.expect("a client");
        let mut wanted = crate::harness::wanted("private", "main");
        wanted.sandbox = None;
        let created = ci.deploy(&wanted, None).await.expect("taken");
        assert_eq!(ended(sdp, created.number.0).await, ("succeeded".into(), "alice alice".into()));
        let bot = bot(sdp).await;
        let (said, well) = typed(sdp, &bot, "U1", "/sdp deploy private main\n").await;
        assert!(!well, "who is not logged in may not act: {said}");
        let (said, _) = typed(sdp, &bot, "U1", "/sdp services\n").await;
        assert!(said.contains("payments"), "but look: {said}");
        assert_eq!(bind(sdp, &bot, "U1", "alice", BOB).await, 401);
        assert_eq!(bind(sdp, &bot, "U1", "alice", ALICE).await, 200);
        let (said, well) = typed(sdp, &bot, "U1", "/sdp deploy private main to chats\n").await;
        assert!(well, "{said}");
        assert_eq!(sdp.get(sdp.on_router("/~chats/private/")).await.2, "alice's own");

        // Branches: each sees what they may, and a list that was just read is not read again.
        assert_eq!(alice.branches("private").await, ["main", "secret-plan"]);
        let refused = bob.branches("private").await;
        assert!(["credentials_needed", "repo_not_found"].contains(&&*refused[0]), "{refused:?}");

        // What is asked for while the server goes down is fetched with the credential that the next one unseals.
        sdp.stop_agent().await;
        let body = json!({ "service": "payments", "git_ref": "feature/refund", "sandbox": "late" });
        let taken =
            alice.ask(Method::POST, "/api/v1/deployments").json(&body).send().await.expect("answered");
        let taken: Value = taken.json().await.expect("json");
        sdp.stop_server().await;
        sdp.start_server().await;
        sdp.start_agent().await;
        let number = taken["number"].as_u64().expect("a number");
        assert_eq!(ended(sdp, number).await, ("succeeded".into(), "alice late".into()));

        // Logged out in chat: it may look again. Logged out everywhere: her token acts as her, but nothing of hers is left to
        // fetch with.
        let out = sdp.http.post(sdp.url.join("/api/v1/logout").expect("a path")).bearer_auth(bot.expose());
        let out = out.header("sdp-on-behalf-of", "U1").send().await.expect("answered");
        assert_eq!(out.status(), 204);
        let (said, well) = typed(sdp, &bot, "U1", "/sdp deploy private main\n").await;
        assert!(!well, "{said}");
        assert_eq!(
            alice.ask(Method::DELETE, "/api/v1/me/sessions").send().await.expect("answered").status(),
            204
        );
        assert_eq!(alice.ask(Method::GET, "/api/v1/me").send().await.expect("answered").status(), 401);
        host.push("private/alice", "main", &[("greeting.txt", "newer")]);
        let created = ci.deploy(&wanted, None).await.expect("taken");
        assert_eq!(ended(sdp, created.number.0).await.0, "credentials_needed");

        // Revoked: it opens nothing any more.
        sdp.admin.delete_token(&name("ci")).await.expect("revoked");
        assert!(ci.deploy(&wanted, None).await.is_err());
    });
}

#[test]
#[ignore = "needs nginx and fcgiwrap"]
fn what_somebody_logs_in_with_is_found_nowhere() {
    let host = host();
    let mut hunt = Hunt::new("alice", ALICE);
    let mut control = Hunt::new("nobody", "this-is-printed-by-the-build-and-no-secret");
    // The build prints all that it can see, and what it should see, too.
    host.push(
        "shop/payments",
        "nosy",
        &[
            ("greeting.txt", "nosy"),
            (
                "build.sh",
                "env; for file in /proc/*/cmdline /proc/*/environ .git/config ../*/config; do \
                 tr '\\0' '\\n' <$file; echo; done 2>/dev/null; echo this-is-printed-by-the-build-and-no-secret",
            ),
        ],
    );
    let logged = run_test_logged_with(EVERYTHING, logs_in(&host), async |sdp| {
        catalog(sdp, &host).await;
        let builder =
            json!({ "type": "command", "build": [["sh", "build.sh"]], "run": [crate::harness::greeter()] });
        sdp.service("nosy", json!({ "repo": host.url("shop/payments"), "builder": builder })).await;
        let bot = bot(sdp).await;
        assert_eq!(bind(sdp, &bot, "U1", "alice", ALICE).await, 200);
        let alice = log_in(sdp, "alice", ALICE).await.expect("logged in");
        assert_eq!(alice.deploy(sdp, "nosy", "nosy").await.0, "succeeded");
        assert_eq!(alice.deploy(sdp, "payments", "no-such-branch").await.0, "ref_not_found");
        let (said, well) = typed(sdp, &bot, "U1", "/sdp deploy private main to chats\n/sdp logs 1\n").await;
        assert!(well, "{said}");
        hunt.look("the chat", said.as_bytes());
        // With a credential of the request's own, too.
        let mut wanted = crate::harness::wanted("payments", "feature/refund");
        wanted.git_credential =
            Some(sdp_core::secret::GitCredential { username: "alice".into(), password: Secret::new(ALICE) });
        let created = sdp.admin.deploy(&wanted, None).await.expect("taken");
        assert_eq!(ended(sdp, created.number.0).await.0, "succeeded");
        hunt.look_at_processes();
        for path in
            ["deployments", "events?after=0&limit=1", "me", "people", "tokens", "me/sessions", "instances"]
        {
            let answer = alice.ask(Method::GET, &format!("/api/v1/{path}"));
            // A feed does not end by itself; its beginning will do.
            let answer = answer.timeout(std::time::Duration::from_millis(500)).send().await;
            let Ok(mut answer) = answer else { continue };
            while let Ok(Some(part)) = answer.chunk().await {
                hunt.look(path, &part);
            }
        }
        for number in 1..=4u64 {
            let log = sdp.admin.log_tail(reference(number), 1000).await.expect("a log");
            let text: String = log.lines.iter().map(|line| format!("{}\n", line.text)).collect();
            hunt.look(format!("the log of {number}"), text.as_bytes());
            control.look("a log", text.as_bytes());
        }
        hunt.look_below(sdp.server_folder());
        hunt.look_below(sdp.agent_folder());
        control.look_below(sdp.server_folder());
        sdp.stop_agent().await;
        sdp.stop_server().await;
        hunt.look_below(sdp.server_folder());
        hunt.look_below(sdp.agent_folder());
        hunt.look("what the host was asked", &std::fs::read(host.access_log()).expect("read"));
    });
    assert!(logged.len() > 10_000, "they logged all that they can say");
    hunt.look("what server and agent log", logged.as_bytes());
    assert!(!control.end().2.is_empty(), "what is no secret is found");
    hunt.expect_nothing();
}
