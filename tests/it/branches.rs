//! Branches of a private repository: each sees their own, and the git host is asked once.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::{OriginalUri, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sdp_agent::git::{GitHost, GitHostKind};
use sdp_core::secret::{GitCredential, Secret};
use serde_json::json;
use tokio::task::JoinSet;

use crate::harness::{Sdp, name, run_test_with};

/// What each user, known by the header of their login, sees at `/team/private.git`.
type Seen = BTreeMap<String, Vec<&'static str>>;

/// What it was asked, each with the login that came with it.
type Asked = Arc<Mutex<Vec<String>>>;

/// A git host that knows one repository, and what it was asked.
struct Host {
    listener: TcpListener,
    seen: Arc<Seen>,
    asked: Asked,
}

fn credential(username: &str) -> GitCredential {
    GitCredential { username: username.to_owned(), password: Secret::new(format!("{username}-password")) }
}

/// `Basic …` for that user.
fn header_of(username: &str) -> String {
    let request = reqwest::Client::new()
        .get("http://127.0.0.1/")
        .basic_auth(username, Some(credential(username).password.expose()))
        .build()
        .expect("a request");
    request.headers()[header::AUTHORIZATION].to_str().expect("text").to_owned()
}

impl Host {
    fn bind(seen: &[(&str, &[&'static str])]) -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        listener.set_nonblocking(true).expect("it can");
        let seen = seen.iter().map(|(user, branches)| (header_of(user), branches.to_vec())).collect();
        Self { listener, seen: Arc::new(seen), asked: Arc::default() }
    }

    fn origin(&self) -> String {
        format!("http://{}", self.listener.local_addr().expect("bound"))
    }

    fn serve(&self) -> JoinSet<()> {
        let listener = self.listener.try_clone().expect("cloned");
        let listener = tokio::net::TcpListener::from_std(listener).expect("listens");
        let app = axum::Router::new().fallback(refs).with_state((self.seen.clone(), self.asked.clone()));
        let mut task = JoinSet::new();
        task.spawn(async move { axum::serve(listener, app).await.expect("serves") });
        task
    }

    /// What it was asked since the last look.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().expect("not poisoned"))
    }
}

async fn refs(
    State((seen, asked)): State<(Arc<Seen>, Asked)>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
) -> Response {
    let login = headers.get(header::AUTHORIZATION).map(|value| value.to_str().expect("text"));
    asked.lock().expect("not poisoned").push(format!("{uri} {}", login.unwrap_or("nobody")));
    let Some(branches) = login.and_then(|login| seen.get(login)) else {
        return StatusCode::UNAUTHORIZED.into_response();
    };
    let line = |text: String| format!("{:04x}{text}", text.len() + 4);
    let id = "a".repeat(40);
    let mut body = line("# service=git-upload-pack\n".to_owned()) + "0000";
    body += &line(format!("{id} HEAD\0symref=HEAD:refs/heads/main\n"));
    body.extend(branches.iter().map(|branch| line(format!("{id} refs/heads/{branch}\n"))));
    body += "0000";
    ([(header::CONTENT_TYPE, "application/x-git-upload-pack-advertisement")], body).into_response()
}

async fn seen_by(sdp: &Sdp, who: Option<&str>) -> Vec<String> {
    let list = sdp.platform().branches(&name("private"), who.map(credential)).await.expect("a list");
    list.branches.iter().map(|branch| branch.name.to_string()).collect()
}

#[test]
fn two_people_see_their_own_branches_and_the_second_look_asks_nobody() {
    let host = Host::bind(&[
        ("alice", &["feature/secret", "main"]),
        ("bob", &["main"]),
        ("sdp", &["main", "release"]),
    ]);
    let origin: url::Url = host.origin().parse().expect("a URL");
    let mut known = GitHost::new(origin.clone(), GitHostKind::Git);
    known.username = Some("sdp".into());
    known.password = Some(credential("sdp").password);
    let git = (vec![origin], vec![known]);
    run_test_with(
        move |_, agent| (agent.git.origins, agent.git.hosts) = git,
        async |sdp| {
            let _serving = host.serve();
            let repo = format!("{}/team/private.git", host.origin());
            sdp.service("private", json!({ "repo": repo })).await;
            // Before anybody who may has looked, and after: who may not sees nothing.
            let mallory = async |sdp: &Sdp| {
                let list = sdp.platform().branches(&name("private"), Some(credential("mallory"))).await;
                list.expect_err("refused").code().to_owned()
            };
            assert_eq!(mallory(sdp).await, "credentials_needed");
            assert_eq!(seen_by(sdp, Some("alice")).await, ["feature/secret", "main"]);
            assert_eq!(seen_by(sdp, Some("bob")).await, ["main"]);
            assert_eq!(seen_by(sdp, None).await, ["main", "release"], "as the agent's own login sees it");
            assert_eq!(mallory(sdp).await, "credentials_needed");
            let asked = host.asked();
            let logins = ["mallory", "alice", "bob", "sdp"].map(header_of);
            assert!(logins.iter().all(|login| asked.iter().any(|line| line.ends_with(login))), "{asked:?}");
            assert!(asked.iter().all(|line| line.starts_with("/team/private.git/info/refs?")), "{asked:?}");

            let began = Instant::now();
            assert_eq!(seen_by(sdp, Some("alice")).await, ["feature/secret", "main"]);
            assert_eq!(seen_by(sdp, Some("bob")).await, ["main"]);
            let over_rest = sdp.admin.branches(&name("private"), Some("REL")).await.expect("a list");
            assert_eq!(over_rest.branches.len(), 1, "the agents' own login, from memory, too");
            assert!(began.elapsed() < Duration::from_millis(300), "{:?}", began.elapsed());
            assert_eq!(host.asked(), Vec::<String>::new(), "from memory");

            // The password alone makes the difference.
            let mut wrong = credential("alice");
            wrong.password = Secret::new("bob-password");
            let list = sdp.platform().branches(&name("private"), Some(wrong)).await;
            assert_eq!(list.expect_err("refused").code(), "credentials_needed");
            assert_eq!(host.asked().len(), 1);
        },
    );
}

#[test]
fn a_login_is_checked_with_the_host_each_time() {
    let host = Host::bind(&[("alice", &["main"])]);
    let origins = vec![host.origin().parse().expect("a URL")];
    run_test_with(
        move |_, agent| agent.git.origins = origins,
        async |sdp| {
            let _serving = host.serve();
            let repo = format!("{}/team/private.git", host.origin()).parse().expect("an address");
            let check = async |username: &str| {
                let checked = sdp
                    .platform()
                    .check_credential(&repo, credential(username), Duration::from_secs(20))
                    .await;
                checked.map_err(|error| error.code().to_owned())
            };
            for _ in 0..2 {
                assert_eq!(check("alice").await, Ok("alice".to_owned()));
                assert_eq!(check("mallory").await, Err("credentials_needed".to_owned()));
                assert_eq!(host.asked().len(), 4, "each time without the credential and with it");
            }
            assert_eq!(check("x-token-auth").await, Err("credentials_needed".to_owned()));
            assert!(host.asked().is_empty());
        },
    );
}
