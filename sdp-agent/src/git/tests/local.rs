//! Local repositories: what a name means, what ends up in the mirror and in the folder.

use std::fs;

use sdp_core::wire::Answer;

use super::repo::Repo;
use super::*;

fn sample(bench: &Bench) -> (Repo, CommitId, CommitId) {
    let repo = Repo::bare(&bench.repo_path("x.git"));
    let first = repo.commit(
        "main",
        "First\n\nMore words",
        &[("main.go", "package main\n"), ("sub/run*", "#!/bin/sh\n")],
    );
    let second = repo.commit("main", "Second", &[("main.go", "package main // 2\n"), ("link@", "main.go")]);
    (repo, first, second)
}

#[tokio::test]
async fn a_branch_becomes_a_folder_with_files_and_nothing_else() {
    let bench = Bench::local();
    let (_repo, _, second) = sample(&bench);
    let url = bench.url("x.git");
    assert_eq!(bench.resolve(&url, "main").await.expect("resolve"), second);
    assert_eq!(bench.fetch(&url, "main", &second).await.expect("fetch"), "Åsa Berg: Second");
    assert!(bench.git.has_commit(&url, &second).await);

    let (tree, info) = bench.checkout(&url, &second).await.expect("checkout");
    assert_eq!((info.files, info.has_submodules, info.has_lfs), (2, false, false));
    assert_eq!(fs::read_to_string(tree.join("main.go")).expect("file"), "package main // 2\n");
    assert_eq!(fs::read_link(tree.join("link")).expect("link"), Path::new("main.go"));
    assert!(!tree.join(".git").exists());
    assert!(bench.mirrors().is_empty(), "it is read where it lies");
}

#[tokio::test]
async fn executable_files_stay_executable() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::local();
    let (_repo, first, _) = sample(&bench);
    let url = bench.url("x.git");
    bench.fetch(&url, "main", &first).await.expect("fetch");
    let (tree, _) = bench.checkout(&url, &first).await.expect("checkout");
    let mode = |path: &str| fs::metadata(tree.join(path)).expect(path).permissions().mode() & 0o111;
    assert_ne!(mode("sub/run"), 0);
    assert_eq!(mode("main.go"), 0);
}

#[tokio::test]
async fn tags_odd_branches_and_abbreviated_commits_resolve() {
    let bench = Bench::local();
    let (repo, first, second) = sample(&bench);
    repo.annotated_tag("v1", &first);
    repo.tag("light", &first);
    let long = "x/".repeat(100) + "y";
    for odd in ["feature/ünï-ØÅ", "a/b/c", "release/1.0+x", "$(id)", "it's;id", &long] {
        let commit = repo.commit(odd, "Odd", &[("odd", odd)]);
        let (tree, _) = bench.deploy(&bench.url("x.git"), odd).await.expect(odd);
        assert_eq!(fs::read_to_string(tree.join("odd")).expect("file"), odd);
        assert_eq!(bench.resolve(&bench.url("x.git"), odd).await.expect(odd), commit);
    }
    let url = bench.url("x.git");
    for (name, expected) in [
        ("v1", &first),
        ("light", &first),
        ("refs/tags/v1", &first),
        ("refs/heads/main", &second),
        (&first.as_str()[..7], &first),
        (&first.as_str()[..12].to_uppercase(), &first),
        (first.as_str(), &first),
        (&second.as_str()[..10], &second),
    ] {
        assert_eq!(&bench.resolve(&url, name).await.expect(name), expected, "{name}");
    }
}

#[tokio::test]
async fn a_name_that_is_nothing_or_two_things_is_said() {
    let bench = Bench::local();
    let (repo, first, _) = sample(&bench);
    repo.tag("both", &first);
    repo.commit("both", "Both", &[("a", "b")]);
    repo.commit("feature/greeting", "G", &[("a", "b")]);
    let url = bench.url("x.git");
    let mut all = Vec::new();
    for name in ["feature/greting", "both", "0123456", &"0".repeat(40), "refs/tags/main"] {
        all.push(shown(&bench.resolve(&url, name).await.expect_err(name), &bench));
    }
    Repo::bare(&bench.repo_path("empty.git"));
    all.push(shown(&bench.resolve(&bench.url("empty.git"), "main").await.expect_err("empty"), &bench));
    all.push(shown(&bench.resolve(&bench.url("absent.git"), "main").await.expect_err("absent"), &bench));
    insta::assert_snapshot!(all.join("\n"), @r#"
    ref_not_found: there is no branch or tag feature/greting; did you mean feature/greeting?
    ref_ambiguous: both is a branch (refs/heads/both, f6f449a2) and a tag (refs/tags/both, e3f9d7fa)
    ref_not_found: there is no branch, tag or commit 0123456
    ref_not_found: there is no branch, tag or commit 0000000000000000000000000000000000000000
    ref_not_found: there is no tag main; did you mean refs/heads/main?
    ref_not_found: there is no branch or tag main; the repository is empty
    repo_not_found: there is no git repository at DIR/repos/absent.git
    "#);
}

#[tokio::test]
async fn refs_in_files_and_packed_ones_are_listed_alike() {
    let bench = Bench::local();
    let (repo, first, second) = sample(&bench);
    repo.annotated_tag("v1", &first);
    repo.commit("feature/x", "X", &[("a", "b")]);
    let url = bench.url("x.git");
    let listed = bench.git.list_refs(&url, None, &bench.op()).await.expect("refs");
    let Answer::Refs { head, branches, tags } = &listed else { panic!("refs") };
    assert_eq!(head.as_deref(), Some("main"));
    let names: Vec<&str> = branches.iter().map(|b| b.name.as_str()).collect();
    assert_eq!(names, ["feature/x", "main"]);
    assert_eq!((branches[1].commit.clone(), tags[0].commit.clone()), (second, first.clone()));

    let path = bench.repo_path("x.git");
    let git = |args: &[&str]| {
        let ended = std::process::Command::new("git").arg("-C").arg(&path).args(args).status().expect("git");
        assert!(ended.success());
    };
    git(&["pack-refs", "--all"]);
    assert!(!path.join("refs/heads/main").exists());
    assert_eq!(bench.git.list_refs(&url, None, &bench.op()).await.expect("refs"), listed);
    // A newer loose file wins over the packed line.
    let third = repo.commit("main", "Third", &[("a", "c")]);
    assert_eq!(bench.resolve(&url, "main").await.expect("main"), third);
}

#[tokio::test]
async fn a_forced_push_between_resolve_and_fetch_still_gives_the_pinned_commit() {
    let bench = Bench::local();
    let (repo, _, pinned) = sample(&bench);
    let url = bench.url("x.git");
    assert_eq!(bench.resolve(&url, "main").await.expect("resolve"), pinned);
    repo.force("main", "Another history", &[("other", "x")]);
    bench.fetch(&url, "main", &pinned).await.expect("its objects are still there");
    let (tree, _) = bench.checkout(&url, &pinned).await.expect("checkout");
    assert!(tree.join("main.go").exists());

    let gone = CommitId::parse("12".repeat(20)).expect("id");
    let failure = bench.fetch(&url, "main", &gone).await.expect_err("gone");
    assert_eq!(failure.reason, FailureReason::BranchMoved);
    assert!(failure.detail.contains("main was at 12121212"), "{}", failure.detail);
}

#[tokio::test]
async fn a_cancelled_operation_does_nothing() {
    let bench = Bench::local();
    let (_repo, _, second) = sample(&bench);
    let url = bench.url("x.git");
    bench.stop.cancel();
    assert_eq!(bench.resolve(&url, "main").await.expect_err("cancelled").detail, "it was cancelled");
    assert_eq!(bench.fetch(&url, "main", &second).await.expect_err("cancelled").detail, "it was cancelled");
    assert!(bench.mirrors().is_empty());
}
