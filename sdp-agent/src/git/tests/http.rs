//! A git host over HTTP: the good path, and every way in which a host or the network can be bad.

use std::fs;
use std::time::Instant;

use super::host::{Answer, Host, Proxy, certificate};
use super::repo::Repo;
use super::*;

/// A bench with a plain host that serves its `repos`, among them `x.git` with two commits on main.
pub(super) async fn hosted(change: impl FnOnce(&mut GitConfig)) -> (Bench, Host, Repo, [CommitId; 2]) {
    let dir = tempfile::tempdir().expect("tempdir");
    let host = Host::plain(&dir.path().join("repos")).await;
    let repo = Repo::bare(&dir.path().join("repos/x.git"));
    let first = repo.commit("main", "First", &[("a", "1"), ("b", "1")]);
    let second = repo.commit("main", "Second", &[("a", "2"), ("b", "1")]);
    let mut config = GitConfig { origins: vec![host.origin()], ..GitConfig::default() };
    change(&mut config);
    let git = Git::new(config, dir.path().join("mirrors")).expect("a good configuration");
    let bench = Bench { dir, git, stop: CancellationToken::new(), lines: Arc::default() };
    (bench, host, repo, [first, second])
}

fn lines(host: &Host) -> Vec<String> {
    host.asked().into_iter().map(|asked| asked.line).collect()
}

#[tokio::test]
async fn a_branch_comes_over_http_with_the_login_sent_at_once() {
    let (bench, host, _repo, [_, second]) = hosted(|_| {}).await;
    host.wants_login("alice", "s3cret-token");
    let url = host.url("x.git");
    let login = alice("s3cret-token");
    let op = bench.op();
    let commit = bench.git.resolve(&url, &git_ref("main"), Some(&login), &op).await.expect("resolve");
    assert_eq!(commit, second);
    bench.git.fetch(&url, &git_ref("main"), &commit, Some(&login), &op).await.expect("fetch");
    let asked = host.asked();
    assert!(asked.iter().all(|asked| asked.login), "{asked:?}");
    let asked: Vec<&str> = asked.iter().map(|asked| asked.line.as_str()).collect();
    assert_eq!(
        asked,
        [
            "GET /x.git/info/refs?service=git-upload-pack",
            "GET /x.git/info/refs?service=git-upload-pack",
            "POST /x.git/git-upload-pack"
        ]
    );
    let (tree, _) = bench.checkout(&url, &commit).await.expect("checkout");
    assert_eq!(fs::read_to_string(tree.join("a")).expect("a"), "2");
    // What is here already needs neither network nor login.
    bench.fetch(&url, "main", &commit).await.expect("again");
    assert!(host.asked().is_empty());
    let said = bench.lines.lock().expect("lines").join("\n");
    assert!(said.contains("received 6 objects"), "{said}");
    assert!(
        said.contains("remote: Enumerating objects") || said.contains("remote: Counting objects"),
        "{said}"
    );
    assert!(!said.contains("s3cret"), "{said}");
}

#[tokio::test]
async fn a_wrong_or_missing_login_is_one_request_and_never_shown() {
    let (bench, host, ..) = hosted(|_| {}).await;
    host.wants_login("alice", "right");
    let url = host.url("x.git");
    let mut all = Vec::new();
    for credential in [None, Some(alice("hunter2-wrong"))] {
        let failure = bench.git.list_refs(&url, credential.as_ref(), &bench.op()).await.expect_err("refused");
        all.push(shown(&failure, &bench));
        assert_eq!(host.asked().len(), 1);
    }
    host.on_refs(Answer::Status(403));
    let failure = bench.git.list_refs(&url, Some(&alice("right")), &bench.op()).await.expect_err("forbidden");
    all.push(shown(&failure, &bench));
    let all = all.join("\n").replace(&host.address.port().to_string(), "PORT");
    assert!(!all.contains("hunter2"), "{all}");
    insta::assert_snapshot!(all, @r#"
    credentials_needed: http://localhost:PORT wants a login for /x.git, and none was given (401 Unauthorized)
    credentials_needed: http://localhost:PORT refuses the login for /x.git: wrong user, password or token (401 Unauthorized)
    credentials_needed: http://localhost:PORT does not let this login read /x.git (403 Forbidden)
    "#);
}

#[tokio::test]
async fn every_bad_answer_is_one_clear_failure() {
    let (bench, host, ..) = hosted(|_| {}).await;
    let url = host.url("x.git");
    let mut all = Vec::new();
    for answer in [
        Answer::Status(404),
        Answer::Status(410),
        Answer::Status(429),
        Answer::Status(503),
        Answer::Page("text/html; charset=utf-8", "<html>please log in</html>"),
        Answer::Page("text/plain", "dumb"),
        Answer::Page("application/x-git-upload-pack-advertisement; charset=x", "0000"),
        Answer::Page("application/x-git-upload-pack-advertisement", "<html>"),
        Answer::Page("application/x-git-upload-pack-advertisement", ""),
        Answer::CutAfter(100),
    ] {
        host.on_refs(answer.clone());
        let failure = bench.resolve(&url, "main").await.expect_err("bad");
        all.push(shown(&failure, &bench));
        assert_eq!(host.asked().len(), 1, "{answer:?}");
    }
    host.on_refs(Answer::Status(404));
    let failure = bench.git.list_refs(&url, Some(&alice("token")), &bench.op()).await.expect_err("404");
    all.push(shown(&failure, &bench));
    host.on_refs(Answer::Git);
    all.push(shown(&bench.resolve(&host.url("absent.git"), "main").await.expect_err("absent"), &bench));
    let all = all.join("\n").replace(&host.address.port().to_string(), "PORT");
    insta::assert_snapshot!(all, @r#"
    repo_not_found: http://localhost:PORT knows no repository /x.git: it is not there, or it is private: many hosts say so when a login is missing
    repo_not_found: http://localhost:PORT knows no repository /x.git: it is not there, or it is private: many hosts say so when a login is missing
    git_unreachable: http://localhost:PORT answers 429 Too Many Requests
    git_unreachable: http://localhost:PORT answers 503 Service Unavailable
    git_unreachable: http://localhost:PORT answers with a web page instead of git's protocol: perhaps a login page, or not a repository's address
    git_unreachable: http://localhost:PORT answers with text/plain instead of git's smart protocol
    git_unreachable: http://localhost:PORT answers with application/x-git-upload-pack-advertisement; charset=x instead of git's smart protocol
    git_unreachable: http://localhost:PORT answers with something that is not git's protocol
    git_unreachable: http://localhost:PORT answers with something that is not git's protocol
    git_unreachable: http://localhost:PORT broke off in the middle of its answer
    repo_not_found: http://localhost:PORT knows no repository /x.git: it is not there, or this login may not see it
    repo_not_found: http://localhost:PORT knows no repository /absent.git: it is not there, or it is private: many hosts say so when a login is missing
    "#);
}

#[tokio::test]
async fn a_password_that_a_host_repeats_is_masked() {
    let (bench, host, ..) = hosted(|_| {}).await;
    host.on_refs(Answer::Page(
        "application/x-git-upload-pack-advertisement",
        "001dERR bad token CANARY-1234",
    ));
    let login = alice("CANARY-1234");
    let failure = bench.git.list_refs(&host.url("x.git"), Some(&login), &bench.op()).await.expect_err("ERR");
    assert!(failure.detail.ends_with("says: bad token ***"), "{}", failure.detail);
}

#[tokio::test]
async fn a_redirect_elsewhere_is_refused_and_nothing_arrives_there() {
    let (bench, host, ..) = hosted(|_| {}).await;
    let elsewhere = Host::plain(bench.dir.path()).await;
    let port = host.address.port();
    let mut all = Vec::new();
    for to in [
        format!("http://localhost:{}/x.git/info/refs?service=git-upload-pack", elsewhere.address.port()),
        format!("http://127.0.0.1:{port}/x.git/info/refs?service=git-upload-pack"),
        format!("https://localhost:{port}/x.git/info/refs?service=git-upload-pack"),
        format!("http://me:pw@localhost:{port}/x.git/info/refs"),
        "//evil.example/x.git/info/refs".to_owned(),
        "file:///etc/passwd".to_owned(),
        "/login?next=/x.git".to_owned(),
        "http://[".to_owned(),
    ] {
        host.on_refs(Answer::Redirect(to.clone()));
        let login = alice("token-1");
        let failure =
            bench.git.list_refs(&host.url("x.git"), Some(&login), &bench.op()).await.expect_err(&to);
        all.push(shown(&failure, &bench));
        assert_eq!(host.asked().len(), 1, "{to}");
    }
    assert_eq!(elsewhere.connections(), 0);
    let all = all.join("\n").replace(&port.to_string(), "PORT");
    let all = all.replace(&elsewhere.address.port().to_string(), "OTHER");
    insta::assert_snapshot!(all, @r#"
    redirect_refused: http://localhost:PORT redirects to http://localhost:OTHER; nothing was sent there
    redirect_refused: http://localhost:PORT redirects to http://127.0.0.1:PORT; nothing was sent there
    redirect_refused: http://localhost:PORT redirects to https://localhost:PORT; nothing was sent there
    redirect_refused: http://localhost:PORT redirects to http://localhost:PORT; nothing was sent there
    redirect_refused: http://localhost:PORT redirects to http://evil.example; nothing was sent there
    redirect_refused: http://localhost:PORT redirects to file:; nothing was sent there
    redirect_refused: http://localhost:PORT redirects to /login, which is no repository: perhaps a login page
    redirect_refused: http://localhost:PORT redirects to something that is no URL
    "#);
}

#[tokio::test]
async fn a_renamed_repository_on_the_same_host_is_followed_for_the_pack_too() {
    let (bench, host, _repo, [_, second]) = hosted(|_| {}).await;
    host.on_refs(Answer::Redirect("/x.git/info/refs?service=git-upload-pack".to_owned()));
    bench.fetch(&host.url("old-name"), "main", &second).await.expect("fetch");
    assert_eq!(
        lines(&host),
        [
            "GET /old-name/info/refs?service=git-upload-pack",
            "GET /x.git/info/refs?service=git-upload-pack",
            "POST /x.git/git-upload-pack"
        ]
    );
    host.on_pack(Answer::Redirect("/elsewhere".to_owned()));
    assert_eq!(
        reason(bench.fetch(&host.url("x.git"), "main", &second).await),
        FailureReason::RedirectRefused
    );
}

#[tokio::test]
async fn an_update_brings_only_what_is_new() {
    let (bench, host, repo, [_, second]) = hosted(|_| {}).await;
    let url = host.url("x.git");
    let big: String = (0..40_000).map(|n: u32| n.wrapping_mul(2_654_435_761).to_string()).collect();
    let base = repo.commit("main", "Big", &[("big", &big), ("a", "3")]);
    bench.fetch(&url, "main", &base).await.expect("first");
    let whole = host.asked().last().expect("POST").answered;
    let next = repo.commit("main", "Next", &[("big", &big), ("a", "4")]);
    bench.fetch(&url, "main", &next).await.expect("second");
    let update = host.asked().last().expect("POST").answered;
    assert!(update < 2_000 && whole > 100_000, "{update} of {whole}");
    // Another branch that shares the history brings only its own.
    repo.git
        .reference("refs/heads/other", repo.git.refname_to_id("refs/heads/main").expect("main"), true, "")
        .expect("ref");
    let other = repo.commit("other", "Other", &[("big", &big), ("a", "5")]);
    bench.fetch(&url, "other", &other).await.expect("other");
    assert!(host.asked().last().expect("POST").answered < 2_000);
    // An older commit of the history is here already.
    bench.fetch(&url, "main", &second).await.expect("older");
    assert!(host.asked().is_empty());
    let (tree, _) = bench.checkout(&url, &other).await.expect("checkout");
    assert_eq!(fs::read_to_string(tree.join("big")).expect("big"), big);
}

#[tokio::test]
async fn a_long_request_is_compressed_and_understood() {
    let (bench, host, repo, _) = hosted(|_| {}).await;
    let url = host.url("x.git");
    let mut last = None;
    for n in 0..60 {
        last = Some(repo.commit("main", "C", &[("n", &n.to_string())]));
    }
    bench.fetch(&url, "main", &last.expect("60")).await.expect("first");
    let next = repo.commit("main", "Next", &[("n", "next")]);
    host.asked();
    bench.fetch(&url, "main", &next).await.expect("second");
    let asked = host.asked();
    assert!(asked.last().expect("POST").gzip, "{asked:?}");
    assert!(asked.last().expect("POST").answered < 2_000, "{asked:?}");
}

#[tokio::test]
async fn a_branch_that_moved_on_still_gives_the_pinned_commit_and_a_forced_one_is_said() {
    let (bench, host, repo, [_, pinned]) = hosted(|_| {}).await;
    let url = host.url("x.git");
    assert_eq!(bench.resolve(&url, "main").await.expect("resolve"), pinned);
    repo.commit("main", "Third", &[("a", "3")]);
    bench.fetch(&url, "main", &pinned).await.expect("it is in the history");
    let (tree, _) = bench.checkout(&url, &pinned).await.expect("checkout");
    assert_eq!(fs::read_to_string(tree.join("a")).expect("a"), "2");

    let pinned = repo.commit("feature", "Pinned", &[("f", "1")]);
    repo.force("feature", "Forced", &[("f", "2")]);
    let failure = bench.fetch(&url, "feature", &pinned).await.expect_err("gone");
    let moved = shown(&failure, &bench).replace(pinned.short(), "PINNED");
    repo.git.find_reference("refs/heads/feature").expect("ref").delete().expect("delete");
    let failure = bench.fetch(&url, "feature", &pinned).await.expect_err("gone");
    let deleted = shown(&failure, &bench).replace(pinned.short(), "PINNED");
    insta::assert_snapshot!(format!("{moved}\n{deleted}"), @r#"
    branch_moved: feature was at PINNED, which is not to be had any more; it is at ef4e7398 now
    branch_moved: feature was at PINNED, which is not to be had any more; there is no such branch or tag now
    "#);
}

#[tokio::test]
async fn a_commit_is_found_by_its_digits_though_no_branch_ends_there() {
    let (bench, host, repo, [first, second]) = hosted(|_| {}).await;
    let url = host.url("x.git");
    repo.commit("main", "Third", &[("a", "3")]);
    assert_eq!(bench.resolve(&url, &first.as_str()[..9]).await.expect("abbreviated"), first);
    assert_eq!(lines(&host).len(), 3, "look up, then all branches");
    assert_eq!(bench.resolve(&url, &second.as_str()[..7]).await.expect("now in the mirror"), second);
    assert_eq!(lines(&host).len(), 1);

    let other = Repo::bare(&bench.repo_path("y.git"));
    let old = other.commit("main", "Old", &[("a", "1")]);
    other.commit("main", "New", &[("a", "2")]);
    assert_eq!(bench.resolve(&host.url("y.git"), old.as_str()).await.expect("whole id"), old);
    assert_eq!(reason(bench.resolve(&host.url("y.git"), &"ab".repeat(20)).await), FailureReason::RefNotFound);
    assert_eq!(reason(bench.resolve(&host.url("y.git"), "abababab").await), FailureReason::RefNotFound);
}

#[tokio::test]
async fn a_cancel_ends_every_stall_at_once() {
    for stalls_at in ["refs", "refs-body", "pack", "pack-body"] {
        let (bench, host, _repo, [_, second]) = hosted(|_| {}).await;
        match stalls_at {
            "refs" => host.on_refs(Answer::Silent),
            "refs-body" => host.on_refs(Answer::SilentAfter(60)),
            "pack" => host.on_pack(Answer::Silent),
            _ => host.on_pack(Answer::SilentAfter(60)),
        }
        let url = host.url("x.git");
        let fetch = bench.fetch(&url, "main", &second);
        let cancel = async {
            host.stalls().await;
            bench.stop.cancel();
            Instant::now()
        };
        let (ended, cancelled_at) = tokio::join!(fetch, cancel);
        let took = cancelled_at.elapsed();
        assert_eq!(ended.expect_err("cancelled").detail, "it was cancelled");
        assert!(took < Duration::from_secs(1), "{stalls_at}: {took:?}");
        assert!(packs(&bench).is_empty(), "{stalls_at}");
    }
}

/// Files in the only mirror's folder for packs; none where there is no mirror.
fn packs(bench: &Bench) -> Vec<PathBuf> {
    let Some(mirror) = bench.mirrors().pop() else { return Vec::new() };
    let entries = fs::read_dir(mirror.join("objects/pack")).expect("packs");
    entries.map(|entry| entry.expect("entry").path()).collect()
}

#[tokio::test]
async fn dropping_the_future_ends_the_work() {
    let (bench, host, _repo, [_, second]) = hosted(|_| {}).await;
    host.on_pack(Answer::SilentAfter(60));
    let url = host.url("x.git");
    tokio::select! {
        _ = bench.fetch(&url, "main", &second) => panic!("it stalls"),
        () = host.stalls() => {}
    }
    // The mirror's lock is free as soon as the dropped work has ended.
    host.on_pack(Answer::Git);
    bench.fetch(&url, "main", &second).await.expect("the next one gets its turn");
}

#[tokio::test]
async fn an_endless_trickle_ends_at_the_deadline() {
    let (bench, host, _repo, [_, second]) = hosted(|_| {}).await;
    host.on_pack(Answer::Trickle);
    let began = Instant::now();
    let op = bench.op_within(Duration::from_millis(700));
    let ended = bench.git.fetch(&host.url("x.git"), &git_ref("main"), &second, None, &op).await;
    assert_eq!(reason(ended), FailureReason::Timeout);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(700) && took < Duration::from_secs(3), "{took:?}");
    assert!(packs(&bench).is_empty());
}

#[tokio::test]
async fn waiting_for_ones_turn_ends_with_cancel_and_deadline() {
    let (bench, host, repo, [_, second]) = hosted(|_| {}).await;
    let other = repo.commit("other", "Other", &[("o", "1")]);
    host.on_pack(Answer::Silent);
    let url = host.url("x.git");
    let first = bench.fetch(&url, "main", &second);
    let next = async {
        host.stalls().await;
        let op = bench.op_within(Duration::from_millis(200));
        let late = bench.git.fetch(&url, &git_ref("other"), &other, None, &op).await;
        bench.stop.cancel();
        late
    };
    let (first, late) = tokio::join!(first, next);
    assert_eq!(reason(late), FailureReason::Timeout);
    assert_eq!(first.expect_err("cancelled").detail, "it was cancelled");
    assert_eq!(lines(&host).iter().filter(|line| line.starts_with("POST")).count(), 1);
}

#[tokio::test]
async fn a_silent_host_is_given_up() {
    let (bench, host, ..) = hosted(|config| config.read_timeout = Duration::from_millis(300)).await;
    let url = host.url("x.git");
    for answer in [Answer::Silent, Answer::SilentAfter(60)] {
        host.on_refs(answer);
        let failure = bench.resolve(&url, "main").await.expect_err("silent");
        assert_eq!(failure.reason, FailureReason::GitUnreachable);
        assert!(failure.detail.ends_with("did not answer in time"), "{}", failure.detail);
    }
}

#[tokio::test]
async fn a_broken_pack_leaves_nothing_and_the_next_fetch_works() {
    let (bench, host, repo, [_, second]) = hosted(|_| {}).await;
    let url = host.url("x.git");
    for length in [0, 20, 60, 200, 400] {
        host.on_pack(Answer::CutAfter(length));
        let failure = bench.fetch(&url, "main", &second).await.expect_err("cut");
        assert_eq!(failure.reason, FailureReason::GitUnreachable, "{length}: {}", failure.detail);
        assert!(packs(&bench).is_empty(), "{length}");
        assert!(!bench.git.has_commit(&url, &second).await);
    }
    // Whole packets, but what is in them is no pack.
    for body in ["0008NAK\n0008\u{1}abc0000", "0008NAK\n001a\u{1}PACK\0\0\0\u{2}\0\0\0\u{5}garbagex!0000"] {
        host.on_pack(Answer::Page("application/x-git-upload-pack-result", body));
        let failure = bench.fetch(&url, "main", &second).await.expect_err("garbage");
        assert_eq!(failure.reason, FailureReason::GitUnreachable, "{}", failure.detail);
        assert!(packs(&bench).is_empty());
    }
    // A good mirror is not thrown away for what a host sends.
    host.on_pack(Answer::Git);
    bench.fetch(&url, "main", &second).await.expect("whole");
    let third = repo.commit("main", "Third", &[("a", "3")]);
    host.on_pack(Answer::Page("application/x-git-upload-pack-result", "0008NAK\n0008\u{1}abc0000"));
    drop(bench.fetch(&url, "main", &third).await.expect_err("garbage"));
    assert!(bench.git.has_commit(&url, &second).await);
}

#[tokio::test]
async fn a_pack_that_is_too_large_is_refused_while_it_comes() {
    let (bench, host, _repo, [_, second]) = hosted(|config| config.max_pack_bytes = 100).await;
    let failure = bench.fetch(&host.url("x.git"), "main", &second).await.expect_err("too large");
    assert_eq!(
        shown(&failure, &bench),
        "repo_too_large: the fetch brings more than 100 bytes (max_pack_bytes)"
    );
    assert!(packs(&bench).is_empty());

    let (bench, host, _repo, [_, second]) = hosted(|config| config.max_objects = 3).await;
    let failure = bench.fetch(&host.url("x.git"), "main", &second).await.expect_err("too many");
    assert_eq!(
        shown(&failure, &bench),
        "repo_too_large: the fetch brings 6 objects, more than 3 (max_objects)"
    );

    // Four thousand million objects that never come take no room.
    let (bench, host, _repo, [_, second]) = hosted(|_| {}).await;
    let body = "0008NAK\n0011\u{1}PACK\0\0\0\u{2}\u{7f}\u{7f}\u{7f}\u{7f}0000";
    host.on_pack(Answer::Page("application/x-git-upload-pack-result", body));
    assert_eq!(reason(bench.fetch(&host.url("x.git"), "main", &second).await), FailureReason::RepoTooLarge);
}

#[tokio::test]
async fn what_cannot_be_reached_says_why() {
    let (bench, host, ..) = hosted(|config| {
        config.origins.push("http://no-such-host.invalid".parse().expect("url"));
        config.origins.push("http://localhost:1".parse().expect("url"));
    })
    .await;
    let mut all = Vec::new();
    for url in ["http://no-such-host.invalid/x.git", "http://localhost:1/x.git", "http://127.0.0.1:1/x.git"] {
        let url = RepoUrl::parse(url).expect("url");
        all.push(shown(&bench.resolve(&url, "main").await.expect_err("unreachable"), &bench));
    }
    // TLS to a port that does not speak it.
    let tls = format!("https://localhost:{}", host.address.port());
    let other = Bench::new(|_, config| config.origins = vec![tls.parse().expect("url")]);
    let url = RepoUrl::parse(format!("{tls}/x.git")).expect("url");
    let failure = other.resolve(&url, "main").await.expect_err("no TLS");
    assert_eq!(failure.reason, FailureReason::GitUnreachable);
    insta::assert_snapshot!(all.join("\n"), @r#"
    git_unreachable: http://no-such-host.invalid is not known to the agent's DNS
    git_unreachable: http://localhost:1 refuses the connection
    repo_not_allowed: http://127.0.0.1:1 is not among the agent's git origins
    "#);
}

#[tokio::test]
async fn https_trusts_the_configured_authority_and_no_other() {
    let dir = tempfile::tempdir().expect("tempdir");
    let repo = Repo::bare(&dir.path().join("x.git"));
    let commit = repo.commit("main", "First", &[("a", "1")]);
    let (tls, authority) = certificate("localhost");
    let (other_tls, other_authority) = certificate("other.example");
    let (host, misnamed) = (Host::tls(dir.path(), tls).await, Host::tls(dir.path(), other_tls).await);
    let bench = |pem: Option<String>| {
        Bench::new(|dir, config| {
            config.origins = vec![host.origin(), misnamed.origin()];
            config.ca_file = pem.map(|pem| {
                fs::write(dir.join("ca.pem"), pem).expect("write");
                dir.join("ca.pem")
            });
        })
    };
    let trusting = bench(Some(authority + &other_authority));
    trusting.fetch(&host.url("x.git"), "main", &commit).await.expect("trusted");
    assert_eq!(host.connections(), 1, "one handshake serves both requests");
    let mut all =
        vec![shown(&trusting.resolve(&misnamed.url("x.git"), "main").await.expect_err("name"), &trusting)];
    let strict = bench(None);
    all.push(shown(&strict.resolve(&host.url("x.git"), "main").await.expect_err("unknown"), &strict));
    assert!(misnamed.asked().is_empty());
    let all = all.join("\n").replace(&host.address.port().to_string(), "PORT");
    insta::assert_snapshot!(all.replace(&misnamed.address.port().to_string(), "PORT"), @r#"
    git_unreachable: https://localhost:PORT shows a certificate for another name
    git_unreachable: https://localhost:PORT shows a certificate of an authority that the agent does not trust: name it as ca_file in [network]
    "#);
}

#[tokio::test]
async fn a_proxy_connects_and_learns_no_login() {
    let proxy = Proxy::start(false).await;
    let through = format!("http://me:proxy-pw@{}", proxy.address);
    let (bench, host, _repo, [_, second]) =
        hosted(|config| config.proxy = Some(through.parse().expect("url"))).await;
    host.wants_login("alice", "token-1");
    let login = alice("token-1");
    bench
        .git
        .fetch(&host.url("x.git"), &git_ref("main"), &second, Some(&login), &bench.op())
        .await
        .expect("fetch");
    let heard = proxy.heard().join("\n");
    assert!(heard.starts_with("CONNECT localhost:"), "{heard}");
    assert!(heard.to_ascii_lowercase().contains("proxy-authorization"), "{heard}");
    assert!(!heard.to_ascii_lowercase().contains("\nauthorization"), "{heard}");

    let (bench, host, ..) = hosted(|config| {
        config.proxy = Some(through.parse().expect("url"));
        config.no_proxy = vec!["localhost".to_owned()];
    })
    .await;
    bench.resolve(&host.url("x.git"), "main").await.expect("without the proxy");
    assert_eq!(proxy.heard().len(), 1);

    let refusing = Proxy::start(true).await;
    let through = format!("http://{}", refusing.address);
    let (bench, host, ..) = hosted(|config| config.proxy = Some(through.parse().expect("url"))).await;
    let failure = bench.resolve(&host.url("x.git"), "main").await.expect_err("407");
    assert_eq!(failure.reason, FailureReason::GitUnreachable);
    assert!(failure.detail.contains("proxy"), "{}", failure.detail);
    assert_eq!(host.connections(), 0);
}

#[tokio::test]
async fn the_network_section_is_enough_for_https_through_a_proxy() {
    let dir = tempfile::tempdir().expect("tempdir");
    let repo = Repo::bare(&dir.path().join("x.git"));
    let commit = repo.commit("main", "First", &[("a", "1")]);
    let (tls, authority) = certificate("localhost");
    let host = Host::tls(dir.path(), tls).await;
    let proxy = Proxy::start(false).await;
    fs::write(dir.path().join("ca.pem"), authority).expect("write");
    let network = |no_proxy: &str| crate::network::NetworkConfig {
        proxy: Some(format!("http://{}", proxy.address).parse().expect("url")),
        no_proxy: crate::network::NoProxy::parse([no_proxy]),
        ca_file: Some(dir.path().join("ca.pem")),
    };
    for (no_proxy, heard) in [(".localhost,10.0.0.0/8", 1), ("other.example, localhost", 1)] {
        let bench = Bench::new(|_, config| {
            config.origins = vec![host.origin()];
            config.use_network(&network(no_proxy));
        });
        bench.fetch(&host.url("x.git"), "main", &commit).await.expect("fetched");
        assert_eq!(proxy.heard().len(), heard, "{no_proxy}");
    }
    // What [git] says itself counts more.
    let bench = Bench::new(|_, config| {
        config.origins = vec![host.origin()];
        config.proxy = Some("http://127.0.0.1:1".parse().expect("url"));
        config.use_network(&network(""));
    });
    assert!(bench.resolve(&host.url("x.git"), "main").await.is_err());
}

#[tokio::test]
async fn logins_of_operations_side_by_side_are_not_mixed_up() {
    let (bench, host, ..) = hosted(|_| {}).await;
    host.wants_login("alice", "right");
    let url = host.url("x.git");
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..40 {
        let (git, url, op) = (bench.git.clone(), url.clone(), bench.op());
        tasks.spawn(async move {
            let password = if n % 2 == 0 { "right" } else { "wrong" };
            let listed = git.list_refs(&url, Some(&alice(password)), &op).await;
            assert_eq!(listed.is_ok(), n % 2 == 0, "{n}: {listed:?}");
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("no mix-up");
    }
    assert_eq!(host.asked().len(), 40);
}

#[tokio::test]
async fn what_is_not_allowed_is_never_asked() {
    let (bench, host, ..) = hosted(|_| {}).await;
    let port = host.address.port();
    for url in [
        format!("http://127.0.0.1:{port}/x.git"),
        format!("https://localhost:{port}/x.git"),
        format!("http://localhost.:{port}/x.git"),
        format!("file://{}", bench.repo_path("x.git").display()),
        bench.repo_path("x.git").display().to_string(),
    ] {
        let repo = RepoUrl::parse(url.clone()).expect("a RepoUrl");
        assert_eq!(reason(bench.resolve(&repo, "main").await), FailureReason::RepoNotAllowed, "{url}");
    }
    assert_eq!(host.connections(), 0);
}
