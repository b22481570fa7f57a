//! Commits that are too large, or whose entries want to be somewhere else.

use std::fs;

use git2::Oid;

use super::repo::{RawEntry, Repo};
use super::*;

fn tight(change: impl FnOnce(&mut GitConfig)) -> Bench {
    Bench::new(|dir, config| {
        config.local_paths = vec![dir.join("repos")];
        change(config);
    })
}

async fn too_large(bench: &Bench, branch: &str) -> String {
    let failure = bench.deploy(&bench.url("x.git"), branch).await.expect_err("too large");
    assert_eq!(failure.reason, FailureReason::RepoTooLarge, "{}", failure.detail);
    failure.detail
}

#[tokio::test]
async fn each_limit_is_kept_before_a_byte_is_written() {
    let bench = tight(|config| {
        config.max_files = 50;
        config.max_tree_bytes = 10_000;
        config.max_depth = 20;
    });
    let repo = Repo::bare(&bench.repo_path("x.git"));
    let names: Vec<String> = (0..60).map(|n| format!("f{n}")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
    repo.commit("many", "Many", &files);
    repo.commit("big", "Big", &[("big", &"x".repeat(20_000))]);
    repo.commit("deep", "Deep", &[(&("d/".repeat(200) + "f"), "x")]);
    // Ten folders of ten folders … of one file: 10^12 paths from a handful of objects.
    let mut tree = repo.raw_tree(&[("100644", b"f", repo.blob("x"))]);
    for _ in 0..12 {
        let names: Vec<String> = (0..10).map(|n| n.to_string()).collect();
        let entries: Vec<RawEntry<'_>> = names.iter().map(|name| ("40000", name.as_bytes(), tree)).collect();
        tree = repo.raw_tree(&entries);
    }
    repo.commit_tree("bomb", None, "Bomb", tree);
    let mut all = Vec::new();
    for branch in ["many", "big", "deep", "bomb"] {
        all.push(too_large(&bench, branch).await);
    }
    insta::assert_snapshot!(all.join("\n"), @r#"
    the commit is too large: it has more than 50 files and folders (max_files)
    the commit is too large: its files have more than 9.8 KiB together (max_tree_bytes)
    the commit is too large: its folders lie more than 20 deep (max_depth)
    the commit is too large: it has more than 50 files and folders (max_files)
    "#);
}

#[tokio::test]
async fn entries_that_would_be_written_elsewhere_are_refused_and_nothing_is_left() {
    let bench = Bench::local();
    let repo = Repo::bare(&bench.repo_path("x.git"));
    let file = repo.blob("evil");
    let link = repo.blob("/tmp");
    let folder = repo.raw_tree(&[("100644", b"x", file)]);
    let long = vec![b'n'; 300];
    let cases: [(&str, Vec<RawEntry<'_>>); 9] = [
        ("dotdot", vec![("40000", b"..", folder)]),
        ("dot", vec![("40000", b".", folder)]),
        ("dotgit", vec![("40000", b".GIT", folder)]),
        ("slash", vec![("100644", b"../x", file)]),
        ("absolute", vec![("100644", b"/tmp/x", file)]),
        ("twice", vec![("120000", b"a", link), ("40000", b"a", folder)]),
        ("twice-apart", vec![("40000", b"a", folder), ("100644", b"b", file), ("120000", b"a", link)]),
        ("long", vec![("100644", &long, file)]),
        ("empty-first", vec![("100644", b"ok", file), ("40000", b".git", folder)]),
    ];
    for (branch, entries) in cases {
        let tree = repo.raw_tree(&entries);
        let commit = repo.commit_tree(branch, None, branch, tree);
        let url = bench.url("x.git");
        bench.fetch(&url, branch, &commit).await.expect(branch);
        let into = bench.dir.path().join(format!("out-{branch}"));
        let failure = bench.git.checkout(&url, &commit, &into, &bench.op()).await.expect_err(branch);
        assert!(!into.exists(), "{branch}");
        assert_eq!(failure.reason, FailureReason::UnsafeTree, "{branch}: {}", failure.detail);
    }
}

#[tokio::test]
async fn submodules_lfs_filters_hooks_and_line_ends_are_left_alone() {
    let bench = Bench::local();
    let repo = Repo::bare(&bench.repo_path("x.git"));
    let marker = bench.dir.path().join("ran");
    let touch = format!("touch {}", marker.display());
    repo.commit(
        "main",
        "Traps",
        &[
            (".gitattributes", "*.bin filter=lfs diff=lfs\n*.txt filter=evil text eol=crlf\n*.c ident\n"),
            (
                ".gitmodules",
                &format!("[submodule \"x\"]\n\tpath = x\n\turl = -u./{touch}\n\tupdate = !{touch}\n"),
            ),
            ("a.bin", "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n"),
            ("a.txt", "one\ntwo\n"),
            ("a.c", "$Id$\n"),
            ("hooks/post-checkout*", &format!("#!/bin/sh\n{touch}\n")),
            ("nested/config", &format!("[core]\n\tfsmonitor = {touch}\n")),
            ("nested/HEAD", "ref: refs/heads/main\n"),
        ],
    );
    // The repository's own configuration and hooks are no more obeyed than the commit's.
    let own = bench.repo_path("x.git");
    let config = format!(
        "[filter \"evil\"]\n\tsmudge = {touch}\n\trequired = true\n[uploadpack]\n\tpackObjectsHook = {touch}\n[core]\n\tfsmonitor = {touch}\n"
    );
    fs::write(own.join("config"), config).expect("config");
    fs::create_dir_all(own.join("hooks")).expect("hooks");
    for hook in ["post-checkout", "reference-transaction", "pre-auto-gc"] {
        fs::write(own.join("hooks").join(hook), format!("#!/bin/sh\n{touch}\n")).expect("hook");
    }
    let (tree, info) = bench.deploy(&bench.url("x.git"), "main").await.expect("deploy");
    assert!(info.has_lfs);
    assert_eq!(fs::read_to_string(tree.join("a.txt")).expect("a.txt"), "one\ntwo\n");
    assert_eq!(fs::read_to_string(tree.join("a.c")).expect("a.c"), "$Id$\n");
    assert!(!marker.exists(), "something was run");

    let gitlink = Oid::from_str(&"ab".repeat(20)).expect("id");
    let root = repo.raw_tree(&[("160000", b"lib", gitlink), ("100644", b"z", repo.blob("z"))]);
    repo.commit_tree("sub", None, "Submodule", root);
    let (tree, info) = bench.deploy(&bench.url("x.git"), "sub").await.expect("deploy");
    assert!(info.has_submodules);
    assert_eq!(fs::read_dir(tree.join("lib")).expect("an empty folder").count(), 0);
}

#[tokio::test]
async fn links_are_made_as_they_are_and_never_written_through() {
    let bench = Bench::local();
    let repo = Repo::bare(&bench.repo_path("x.git"));
    repo.commit("main", "Links", &[("passwd@", "/etc/passwd"), ("up@", "../../../../etc"), ("f", "x")]);
    let (tree, _) = bench.deploy(&bench.url("x.git"), "main").await.expect("deploy");
    assert_eq!(fs::read_link(tree.join("passwd")).expect("link"), Path::new("/etc/passwd"));
    assert_eq!(fs::read_link(tree.join("up")).expect("link"), Path::new("../../../../etc"));
}

#[tokio::test]
async fn a_folder_that_holds_something_is_not_written_to() {
    let bench = Bench::local();
    let repo = Repo::bare(&bench.repo_path("x.git"));
    let commit = repo.commit("main", "C", &[("f", "x")]);
    let url = bench.url("x.git");
    bench.fetch(&url, "main", &commit).await.expect("fetch");
    let into = bench.dir.path().join("busy");
    fs::create_dir(&into).expect("dir");
    fs::write(into.join("mine"), "mine").expect("file");
    assert_eq!(reason(bench.git.checkout(&url, &commit, &into, &bench.op()).await), FailureReason::Internal);
    assert_eq!(fs::read_to_string(into.join("mine")).expect("still there"), "mine");
}

#[tokio::test]
async fn folders_without_end_do_not_overflow_the_stack() {
    let bench = Bench::local();
    let repo = Repo::bare(&bench.repo_path("x.git"));
    repo.in_one_pack(|| {
        let file = repo.blob("x");
        let mut all = vec![file, repo.raw_tree(&[("100644", b"f", file)])];
        for _ in 0..30_000 {
            all.push(repo.raw_tree(&[("40000", b"d", *all.last().expect("a tree"))]));
        }
        let commit = repo.commit_tree("deep", None, "Deep", *all.last().expect("a tree"));
        all.push(Oid::from_str(commit.as_str()).expect("id"));
        all
    });
    assert!(too_large(&bench, "deep").await.contains("max_depth"));
}

/// A small file system of its own, unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, size: &str) -> Self {
        fs::create_dir_all(&at).expect("folder");
        let options = format!("size={size}");
        let ended = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "none"])
            .arg(&at)
            .status();
        assert!(ended.expect("mount").success());
        Self(at)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(std::process::Command::new("umount").arg(&self.0).status());
    }
}

#[tokio::test]
#[ignore = "needs root to mount a small tmpfs; scripts/test runs it"]
async fn a_full_disk_is_said_and_nothing_half_done_is_left() {
    let dir = tempfile::tempdir().expect("tempdir");
    let host = super::host::Host::plain(&dir.path().join("repos")).await;
    let repo = Repo::bare(&dir.path().join("repos/x.git"));
    let noise: String = (0..60_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_string()).collect();
    let small = repo.commit("small", "Small", &[("a", "1")]);
    let large = repo.commit("large", "Large", &[("noise", &noise)]);
    let zeros = repo.commit("zeros", "Zeros", &[("f", "x"), ("zeros", &"0".repeat(4 << 20))]);
    let disk = SmallDisk::mount(dir.path().join("mirrors"), "200k");
    let config = GitConfig { origins: vec![host.origin()], ..GitConfig::default() };
    let git = Git::new(config, disk.0.clone()).expect("a good configuration");
    let bench = Bench { dir, git, stop: CancellationToken::new(), lines: Arc::default() };
    let url = host.url("x.git");

    let failure = bench.fetch(&url, "large", &large).await.expect_err("200 KiB are too few");
    assert_eq!(failure.reason, FailureReason::DiskFull, "{}", failure.detail);
    assert!(!bench.git.has_commit(&url, &large).await);
    // There is room again for what fits.
    bench.fetch(&url, "small", &small).await.expect("small");
    bench.fetch(&url, "zeros", &zeros).await.expect("it compresses well");
    let into = disk.0.join("tree");
    let failure = bench.git.checkout(&url, &zeros, &into, &bench.op()).await.expect_err("4 MiB");
    assert_eq!(failure.reason, FailureReason::DiskFull, "{}", failure.detail);
    assert!(!into.exists());
    bench.git.checkout(&url, &small, &into, &bench.op()).await.expect("small");
    // Before the folder that it is mounted in.
    drop(disk);
}
