//! What a commit changes, read from a real repository or mirror.

use sdp_core::deployment::Changes;

use super::http::hosted;
use super::repo::Repo;
use super::*;

fn said(changes: Option<Changes>) -> String {
    let Some(Changes { added, removed, more, subjects, .. }) = changes else { return "nothing".into() };
    format!("{added} added, {removed} removed{}: {}", if more { ", more" } else { "" }, subjects.join(" | "))
}

#[tokio::test]
async fn a_branch_goes_on_and_is_written_anew_and_nothing_is_fetched_for_it() {
    let (bench, host, repo, [first, second]) = hosted(|_| {}).await;
    let url = host.url("x.git");
    bench.fetch(&url, "main", &second).await.expect("fetch");
    let mut told = Vec::new();
    let mut tell = async |since: &CommitId, commit: &CommitId| {
        host.asked();
        told.push(said(bench.git.changes(&url, since, commit, &bench.op()).await));
        assert!(host.asked().is_empty(), "the host was asked");
    };
    tell(&first, &second).await;
    tell(&second, &first).await;
    tell(&second, &second).await;
    let mut tip = second.clone();
    for n in 3..=9 {
        tip = repo.commit("main", &format!("Change {n}\n\nIn {n} words"), &[("a", &n.to_string())]);
    }
    tell(&second, &tip).await;
    bench.fetch(&url, "main", &tip).await.expect("fetch");
    tell(&second, &tip).await;
    let anew = repo.force("main", "Begin again", &[("a", "0")]);
    bench.fetch(&url, "main", &anew).await.expect("fetch");
    tell(&tip, &anew).await;
    insta::assert_snapshot!(told.join("\n"), @r"
    1 added, 0 removed: Second
    0 added, 1 removed: 
    0 added, 0 removed: 
    nothing
    7 added, 0 removed: Change 9 | Change 8 | Change 7 | Change 6 | Change 5
    1 added, 9 removed: Begin again
    ");
}

#[tokio::test]
async fn what_the_repository_does_not_have_is_not_compared() {
    let bench = Bench::local();
    let repo = Repo::bare(&bench.repo_path("x.git"));
    let commit = repo.commit("main", "First", &[("a", "1")]);
    let url = bench.url("x.git");
    let changes = async |since: &str| {
        bench.git.changes(&url, &since.parse().expect("a commit"), &commit, &bench.op()).await
    };
    assert_eq!(changes(&"0".repeat(40)).await, None);
    assert_eq!(changes(&"0".repeat(64)).await, None, "another kind of id");
    let tree = repo.git.find_commit(commit.as_str().parse().expect("an id")).expect("it").tree_id();
    assert_eq!(changes(&tree.to_string()).await, None, "no commit");
    assert_eq!(said(changes(commit.as_str()).await), "0 added, 0 removed: ");
    bench.stop.cancel();
    assert_eq!(changes(commit.as_str()).await, None, "cancelled");
}

#[tokio::test]
async fn subjects_are_harmless_lines() {
    let bench = Bench::local();
    let repo = Repo::bare(&bench.repo_path("x.git"));
    let first = repo.commit("main", "First", &[("a", "1")]);
    for (n, subject) in ["\u{1b}[31mred\u{202e}", &"x".repeat(10_000), "", "<!channel>"].iter().enumerate() {
        repo.commit("main", subject, &[("a", &n.to_string())]);
    }
    let url = bench.url("x.git");
    let tip = bench.resolve(&url, "main").await.expect("resolve");
    let changes = bench.git.changes(&url, &first, &tip, &bench.op()).await.expect("both are here");
    assert_eq!(changes.added, 4);
    let wanted = ["<!channel>", &("x".repeat(100) + "…"), "[31mred "];
    assert_eq!(changes.subjects.iter().map(|subject| subject.trim_start()).collect::<Vec<_>>(), wanted);
}
