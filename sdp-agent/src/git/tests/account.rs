//! Whose a credential is, and what it opens: a real git host, and Bitbucket's REST APIs as they answer and as they should not.

use sdp_core::wire::{Answer as Wire, RepoInfo};
use serde_json::{Value, json};

use super::api::{Api, Page, answer, json as page, with};
use super::host::{Answer, Host};
use super::http::hosted;
use super::*;
use crate::git::{GitHost, GitHostKind};

const PROPERTIES: &str = "/rest/api/1.0/application-properties";
const FIRST: &str = "/rest/api/1.0/repos?permission=REPO_READ&limit=100&start=0";
const WORKSPACES: &str = "/2.0/user/workspaces?pagelen=100";

/// A bench with the host that serves `x.git` and lets `alice` with `right` in, of this kind, and its API.
async fn known_as(kind: GitHostKind) -> (Bench, Host, Api, tempfile::TempDir) {
    let api = Api::start().await;
    let dir = tempfile::tempdir().expect("tempdir");
    let host = Host::plain(dir.path()).await;
    super::repo::Repo::bare(&dir.path().join("x.git")).commit("main", "First", &[("a", "1")]);
    host.wants_login("alice", "right");
    let entry = GitHost { api: Some(api.origin()), ..GitHost::new(host.origin(), kind) };
    let bench = Bench::new(|_, config| {
        config.origins = vec![host.origin(), api.origin()];
        config.hosts = vec![entry];
    });
    (bench, host, api, dir)
}

fn login(username: &str, password: &str) -> GitCredential {
    GitCredential { username: username.into(), password: Secret::new(password) }
}

async fn check(bench: &Bench, url: &RepoUrl, credential: &GitCredential) -> String {
    match bench.git.check_credential(url, credential, &bench.op()).await {
        Ok(Wire::Account { user }) => user,
        Ok(other) => panic!("{other:?}"),
        Err(failure) => shown(&failure, bench),
    }
}

async fn list(bench: &Bench, url: &RepoUrl, credential: Option<&GitCredential>) -> (Vec<RepoInfo>, bool) {
    match bench.git.list_repos(url, credential, &bench.op()).await.expect("a list") {
        Wire::Repos { repos, complete } => (repos, complete),
        other => panic!("{other:?}"),
    }
}

fn without_ports(text: &str, ports: &[u16]) -> String {
    ports.iter().fold(text.to_owned(), |text, port| text.replace(&port.to_string(), "PORT"))
}

#[tokio::test]
async fn at_a_plain_host_the_right_password_makes_the_given_name_true() {
    let (bench, host, ..) = hosted(|_| {}).await;
    host.wants_login("alice", "right");
    let url = host.url("x.git");
    assert_eq!(check(&bench, &url, &alice("right")).await, "alice");
    let asked: Vec<bool> = host.asked().iter().map(|asked| asked.login).collect();
    assert_eq!(asked, [false, true], "first without, then with it");
    let mut all = vec![check(&bench, &url, &alice("hunter2-wrong")).await];
    assert_eq!(host.asked().len(), 2, "one try is one try");
    all.push(check(&bench, &url, &login("x-token-auth", "right")).await);
    assert!(host.asked().is_empty(), "nothing is sent for a token's name");
    all.push(check(&bench, &host.url("absent.git"), &alice("right")).await);
    all.push(
        check(&bench, &RepoUrl::parse("https://elsewhere.example/x").expect("url"), &alice("right")).await,
    );
    let all = without_ports(&all.join("\n"), &[host.address.port()]);
    insta::assert_snapshot!(all, @r"
    credentials_needed: http://localhost:PORT refuses the login for /x.git: wrong user, password or token (401 Unauthorized)
    credentials_needed: that user name stands for a token and for no person: give your own name at the git host
    credentials_needed: http://localhost:PORT does not let this login read /absent.git
    repo_not_allowed: https://elsewhere.example is not among the agent's git origins
    ");
}

#[tokio::test]
async fn a_repository_that_everybody_can_read_vouches_for_nobody() {
    let (bench, host, ..) = hosted(|_| {}).await;
    let said = check(&bench, &host.url("x.git"), &alice("right")).await;
    let said = without_ports(&said, &[host.address.port()]);
    assert_eq!(said, "login_repository_public: http://localhost:PORT shows /x.git to everybody");
    assert_eq!(host.asked().iter().filter(|asked| asked.login).count(), 0, "the credential stays here");
    let local = Bench::local();
    super::repo::Repo::bare(&local.repo_path("x.git"));
    let said = check(&local, &local.url("x.git"), &alice("right")).await;
    assert!(said.starts_with("login_repository_public: it lies on the agent's machine"), "{said}");
}

#[tokio::test]
async fn a_check_follows_no_redirect_and_ends_in_time() {
    let (bench, host, ..) = hosted(|_| {}).await;
    host.on_refs(Answer::Redirect("/y.git/info/refs?service=git-upload-pack".into()));
    let said = check(&bench, &host.url("x.git"), &alice("right")).await;
    let said = without_ports(&said, &[host.address.port()]);
    assert_eq!(
        said,
        "redirect_refused: http://localhost:PORT redirects to /y.git: name that address instead"
    );
    assert_eq!(host.asked().len(), 1);
    for status in [429, 500] {
        host.on_refs(Answer::Status(status));
        let said = check(&bench, &host.url("x.git"), &alice("right")).await;
        assert!(said.starts_with("git_unreachable"), "{said}");
        assert_eq!(host.asked().iter().filter(|asked| asked.login).count(), 0);
    }
    host.on_refs(Answer::Silent);
    let op = bench.op_within(Duration::from_millis(200));
    let result = bench.git.check_credential(&host.url("x.git"), &alice("right"), &op).await;
    assert_eq!(reason(result), FailureReason::Timeout);
}

#[tokio::test]
async fn data_center_says_whose_the_credential_is() {
    let (bench, host, api, _dir) = known_as(GitHostKind::BitbucketDc).await;
    let url = host.url("x.git");
    let ok = || page(&json!({ "version": "9.4.0" }));
    let mut all = Vec::new();
    for answer in [
        with(ok(), "x-ausername", "alice"),
        with(ok(), "x-ausername", "Alice"),
        with(ok(), "x-ausername", "someone.else"),
        with(ok(), "x-ausername", "%61lice"),
        with(ok(), "x-ausername", "m%61llory"),
        ok(),
        answer(401, "application/json", "{}"),
        with(
            answer(403, "application/json", "{}"),
            "x-authentication-denied-reason",
            "CAPTCHA_CHALLENGE; login-url=x",
        ),
        answer(403, "application/json", "{}"),
        answer(404, "text/html", ""),
        answer(429, "application/json", "{}"),
        answer(500, "application/json", "{}"),
        with(answer(200, "text/html", "<html>log in"), "x-ausername", "alice"),
        with(answer(200, "application/json", "{"), "x-ausername", "alice"),
        with(answer(302, "text/html", ""), "location", "https://evil.example/right"),
    ] {
        api.on(PROPERTIES, answer);
        all.push(check(&bench, &url, &alice("right")).await);
        assert_eq!(api.asked(), [(PROPERTIES.to_owned(), Some("alice:right".to_owned()))]);
    }
    // What is wrong at git already is not asked of the API.
    all.push(check(&bench, &url, &alice("mistaken")).await);
    assert!(api.asked().is_empty());
    let all = without_ports(&all.join("\n"), &[host.address.port(), api.address.port()]);
    insta::assert_snapshot!(all, @r"
    alice
    Alice
    someone.else
    alice
    m%61llory
    credentials_needed: http://localhost:PORT does not say whose login it is (no header X-AUSERNAME)
    credentials_needed: http://localhost:PORT refuses the login for its REST API: wrong user, password or token (401 Unauthorized)
    credentials_needed: http://localhost:PORT wants a CAPTCHA solved first: log in on its own page once (403 Forbidden)
    credentials_needed: http://localhost:PORT does not let this login use its REST API (403 Forbidden)
    git_unreachable: http://localhost:PORT has nothing at /rest/api/1.0/application-properties (404 Not Found): check kind and api in [[git.host]]
    git_unreachable: http://localhost:PORT answers 429 Too Many Requests at /rest/api/1.0/application-properties
    git_unreachable: http://localhost:PORT answers 500 Internal Server Error at /rest/api/1.0/application-properties
    git_unreachable: http://localhost:PORT answers with text/html instead of JSON at /rest/api/1.0/application-properties
    git_unreachable: http://localhost:PORT answers with something unexpected at /rest/api/1.0/application-properties
    redirect_refused: http://localhost:PORT redirects /rest/api/1.0/application-properties to https://evil.example; nothing was sent there
    credentials_needed: http://localhost:PORT refuses the login for /x.git: wrong user, password or token (401 Unauthorized)
    ");
}

#[tokio::test]
async fn cloud_says_whose_the_credential_is_and_git_gets_the_name_that_it_knows() {
    let (bench, host, api, _dir) = known_as(GitHostKind::BitbucketCloud).await;
    host.wants_login("x-bitbucket-api-token-auth", "right");
    let url = host.url("x.git");
    let mut all = Vec::new();
    for user in [
        json!({ "type": "user", "username": "alice-berg", "nickname": "root", "account_id": "557058:1" }),
        json!({ "type": "user", "nickname": "root" }),
        json!({ "type": "app_user", "username": "deployer" }),
        json!(["alice"]),
    ] {
        api.on("/2.0/user", page(&user));
        all.push(check(&bench, &url, &login("alice@example.com", "right")).await);
        let expected = ("/2.0/user".to_owned(), Some("alice@example.com:right".to_owned()));
        assert_eq!(api.asked(), [expected], "the API knows the address, git the token");
    }
    // With the name that git knows, which the API does not.
    host.wants_login("alice", "right");
    api.on("/2.0/user", answer(401, "application/json", "{}"));
    all.push(check(&bench, &url, &alice("right")).await);
    let all = without_ports(&all.join("\n"), &[api.address.port()]);
    insta::assert_snapshot!(all, @r"
    alice-berg
    credentials_needed: http://localhost:PORT does not say whose login it is (no username)
    credentials_needed: http://localhost:PORT says that this login is a token's and no person's
    git_unreachable: http://localhost:PORT answers with something unexpected at /2.0/user
    credentials_needed: http://localhost:PORT refuses the login for its REST API: wrong user, password or token (401 Unauthorized); an API token goes with the email address of the Atlassian account
    ");
}

fn dc_repo(host: &Host, name: &str) -> Value {
    let http = format!("http://alice@localhost:{}/scm/shop/{name}.git", host.address.port());
    json!({ "slug": name, "project": { "key": "SHOP" }, "links": { "clone": [
        { "name": "ssh", "href": format!("ssh://git@localhost:7999/shop/{name}.git") }, { "name": "http", "href": http },
    ] } })
}

#[tokio::test]
async fn data_centers_list_is_read_page_by_page() {
    let (bench, host, api, _dir) = known_as(GitHostKind::BitbucketDc).await;
    let url = host.url("x.git");
    let mut elsewhere = dc_repo(&host, "elsewhere");
    elsewhere["links"]["clone"][1]["href"] = json!("https://elsewhere.example/scm/shop/elsewhere.git");
    let mut none = dc_repo(&host, "none");
    none["links"] = json!({});
    let mut odd = dc_repo(&host, "odd");
    odd["links"]["clone"] =
        json!([{ "name": "http", "href": "file:///etc" }, { "name": "https", "href": "::" }]);
    let values = json!([dc_repo(&host, "web"), elsewhere, none, odd]);
    api.on(FIRST, page(&json!({ "values": values, "isLastPage": false, "nextPageStart": 117, "size": 4 })));
    let second = FIRST.replace("start=0", "start=117");
    api.on(&second, page(&json!({ "values": [dc_repo(&host, "api"), dc_repo(&host, "web")], "isLastPage": true, "nextPageStart": null })));
    let (repos, complete) = list(&bench, &url, Some(&alice("right"))).await;
    let names: Vec<(&str, &str)> = repos.iter().map(|repo| (repo.name.as_str(), repo.url.as_str())).collect();
    let at = |name: &str| format!("http://localhost:{}/scm/shop/{name}.git", host.address.port());
    assert_eq!(
        names,
        [("SHOP/api", at("api").as_str()), ("SHOP/web", at("web").as_str())],
        "no user in an address"
    );
    assert!(complete);
    let login = Some("alice:right".to_owned());
    assert_eq!(api.asked(), [(FIRST.to_owned(), login.clone()), (second, login)]);
}

#[tokio::test]
async fn clouds_list_is_read_workspace_by_workspace() {
    let (bench, host, api, _dir) = known_as(GitHostKind::BitbucketCloud).await;
    let url = host.url("x.git");
    let member = |slug: &str| json!({ "type": "workspace_access", "workspace": { "type": "workspace_base", "slug": slug } });
    let more = format!("{}2.0/user/workspaces?page=2", api.origin());
    api.on(WORKSPACES, page(&json!({ "values": [member("team")], "next": more })));
    api.on("/2.0/user/workspaces?page=2", page(&json!({ "values": [member("../x y")] })));
    let repo = |name: &str, branch: Value| {
        let href = format!("http://alice@localhost:{}/{name}.git", host.address.port());
        let clone =
            json!([{ "name": "https", "href": href }, { "name": "ssh", "href": "git@localhost:x.git" }]);
        json!({ "full_name": name, "links": { "clone": clone }, "mainbranch": branch })
    };
    let more = format!("{}2.0/repositories/team?page=2", api.origin());
    let first = "/2.0/repositories/team?role=member&pagelen=100";
    api.on(first, page(&json!({ "values": [repo("team/b", json!({ "name": "trunk" }))], "next": more })));
    let values = json!([repo("team/a", json!(null)), repo("team/c", json!({ "name": "-bad" }))]);
    api.on("/2.0/repositories/team?page=2", page(&json!({ "values": values })));
    api.on("/2.0/repositories/..%2Fx%20y?role=member&pagelen=100", page(&json!({ "values": [] })));
    let (repos, complete) = list(&bench, &url, Some(&alice("right"))).await;
    let found: Vec<(&str, Option<&str>)> = repos
        .iter()
        .map(|repo| (repo.name.as_str(), repo.default_branch.as_ref().map(GitRef::as_str)))
        .collect();
    assert_eq!(found, [("team/a", None), ("team/b", Some("trunk")), ("team/c", None)]);
    assert!(complete && repos.iter().all(|repo| !repo.url.as_str().contains('@')));
    assert_eq!(api.asked().len(), 5);
    // The next page is never at somebody else's.
    api.on(
        first,
        page(&json!({ "values": [], "next": "https://evil.example/2.0/repositories/team?page=2" })),
    );
    let failure = bench.git.list_repos(&url, Some(&alice("right")), &bench.op()).await.expect_err("refused");
    let said = without_ports(&shown(&failure, &bench), &[api.address.port()]);
    assert_eq!(
        said,
        "redirect_refused: http://localhost:PORT leads on to https://evil.example; nothing was sent there"
    );
}

#[tokio::test]
async fn a_list_without_end_is_cut_and_says_so() {
    let (bench, host, api, _dir) = known_as(GitHostKind::BitbucketDc).await;
    let url = host.url("x.git");
    let path = |start: usize| FIRST.replace("start=0", &format!("start={start}"));
    let part = |from: usize, count: usize, last: bool| {
        let values: Vec<Value> = (from..from + count).map(|n| dc_repo(&host, &format!("r{n:05}"))).collect();
        page(&json!({ "values": values, "isLastPage": last, "nextPageStart": from + count }))
    };
    for n in 0..21 {
        api.on(&path(n * 50), part(n * 50, 50, false));
    }
    let (repos, complete) = list(&bench, &url, None).await;
    assert_eq!((repos.len(), complete, api.asked().len()), (1000, false, 20), "twenty pages");
    api.on(&path(0), part(0, 2001, true));
    let (repos, complete) = list(&bench, &url, None).await;
    assert_eq!((repos.len(), complete), (2000, false), "two thousand repositories");
    api.on(&path(0), part(0, 2000, true));
    assert!(list(&bench, &url, None).await.1, "as many as there may be are all");
    // What is known when the time is over is of use; nothing is not.
    api.on(&path(0), part(0, 50, false));
    api.on(&path(50), None);
    let op = bench.op_within(Duration::from_secs(5));
    let cut = bench.git.list_repos(&url, None, &op).await.expect("a part");
    assert!(matches!(&cut, Wire::Repos { repos, complete: false } if repos.len() == 50), "{cut:?}");
    api.on(&path(0), None);
    let op = bench.op_within(Duration::from_millis(100));
    assert_eq!(reason(bench.git.list_repos(&url, None, &op).await), FailureReason::Timeout);
    // A cancel cuts it.
    let op = bench.op();
    let work = bench.git.list_repos(&url, None, &op);
    let (ended, ()) = tokio::join!(work, async {
        api.stalls().await;
        bench.stop.cancel();
    });
    assert_eq!(reason(ended), FailureReason::Internal);
}

#[tokio::test]
async fn every_bad_answer_to_a_list_is_one_clear_failure() {
    let (bench, host, api, _dir) = known_as(GitHostKind::BitbucketDc).await;
    let url = host.url("x.git");
    let long = format!("{{\"x\": \"{}\"}}", "x".repeat(16 << 20));
    let mut all = Vec::new();
    let answers: Vec<Page> = vec![
        answer(401, "application/json", "{}"),
        answer(403, "application/json", "{}"),
        answer(410, "application/json", "{}"),
        answer(429, "application/json", "{}"),
        answer(500, "text/plain", "CANARY-1234"),
        answer(200, "text/html", "<html>please log in</html>"),
        answer(200, "application/json", "\u{0}CANARY-1234"),
        answer(200, "application/json", r#"{"values": [{"slug": 1}], "isLastPage": true}"#),
        answer(200, "application/json", r#"{"values": [], "isLastPage": false}"#),
        answer(200, "application/json", r#"{"values": [], "isLastPage": false, "nextPageStart": 0}"#),
        answer(200, "application/json", &long),
        with(answer(301, "text/html", ""), "location", "/rest/api/2.0/repos"),
    ];
    for answer in answers {
        api.on(FIRST, answer);
        let failure = bench.git.list_repos(&url, Some(&alice("CANARY-1234")), &bench.op()).await;
        all.push(shown(&failure.expect_err("bad"), &bench));
        assert_eq!(api.asked().len(), 1);
    }
    let plain = Bench::new(|_, config| config.origins = vec![host.origin()]);
    let failure = plain.git.list_repos(&url, None, &plain.op()).await.expect_err("a plain host");
    all.push(shown(&failure, &plain));
    let local = Bench::local();
    super::repo::Repo::bare(&local.repo_path("x.git"));
    let failure = local.git.list_repos(&local.url("x.git"), None, &local.op()).await.expect_err("a folder");
    all.push(shown(&failure, &local));
    let all = without_ports(&all.join("\n"), &[host.address.port(), api.address.port()]);
    assert!(!all.contains("CANARY"), "{all}");
    insta::assert_snapshot!(all, @r"
    credentials_needed: http://localhost:PORT refuses the login for its REST API: wrong user, password or token (401 Unauthorized)
    credentials_needed: http://localhost:PORT does not let this login use its REST API (403 Forbidden)
    git_unreachable: http://localhost:PORT has nothing at /rest/api/1.0/repos (410 Gone): check kind and api in [[git.host]]
    git_unreachable: http://localhost:PORT answers 429 Too Many Requests at /rest/api/1.0/repos
    git_unreachable: http://localhost:PORT answers 500 Internal Server Error at /rest/api/1.0/repos
    git_unreachable: http://localhost:PORT answers with text/html instead of JSON at /rest/api/1.0/repos
    git_unreachable: http://localhost:PORT answers with something unexpected at /rest/api/1.0/repos
    git_unreachable: http://localhost:PORT answers with something unexpected at /rest/api/1.0/repos
    git_unreachable: http://localhost:PORT has a list that does not go on
    git_unreachable: http://localhost:PORT has a list that does not go on
    git_unreachable: http://localhost:PORT answers with more than 16777216 bytes at /rest/api/1.0/repos
    redirect_refused: http://localhost:PORT redirects /rest/api/1.0/repos to http://localhost:PORT; nothing was sent there
    repositories_unlisted: the agent knows http://localhost:PORT as a plain git host
    repositories_unlisted: a folder of the agent's machine is no git host
    ");
}

#[tokio::test]
async fn the_agents_own_login_is_for_lists_that_come_without_one() {
    let api = Api::start().await;
    let dir = tempfile::tempdir().expect("tempdir");
    let host = Host::plain(dir.path()).await;
    let commit = super::repo::Repo::bare(&dir.path().join("x.git")).commit("main", "First", &[("a", "1")]);
    host.wants_login("sdp", "own-password");
    let mut entry =
        GitHost { api: Some(api.origin()), ..GitHost::new(host.origin(), GitHostKind::BitbucketDc) };
    entry.username = Some("sdp".into());
    entry.password = Some(Secret::new("own-password"));
    let bench = Bench::new(|_, config| {
        config.origins = vec![host.origin(), api.origin()];
        config.hosts = vec![entry];
    });
    let url = host.url("x.git");
    assert!(bench.git.list_refs(&url, None, &bench.op()).await.is_ok());
    api.on(FIRST, page(&json!({ "values": [], "isLastPage": true })));
    list(&bench, &url, None).await;
    list(&bench, &url, Some(&alice("hers"))).await;
    let logins: Vec<_> = api.asked().into_iter().filter_map(|(_, login)| login).collect();
    assert_eq!(logins, ["sdp:own-password", "alice:hers"]);
    // Somebody's own is never replaced by it, and a deployment never has it.
    let refused = FailureReason::CredentialsNeeded;
    assert_eq!(reason(bench.git.list_refs(&url, Some(&alice("hers")), &bench.op()).await), refused);
    assert_eq!(reason(bench.resolve(&url, "main").await), refused);
    assert_eq!(reason(bench.fetch(&url, "main", &commit).await), refused);
    assert!(!format!("{:?}", bench.git).contains("own-password"));
}
