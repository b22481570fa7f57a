//! How long it takes beside the git CLI, on the same host and disk.

use std::time::Instant;

use super::host::Host;
use super::repo::Repo;
use super::*;

fn sample(path: &Path) -> PathBuf {
    let repo = Repo::bare(path);
    for n in 0..30 {
        let text = n.to_string();
        let commit = repo.commit("main", &text, &[("a/b", &text), ("c", "c"), ("d/e/f", "f")]);
        let branch = match n {
            10 => "b249",
            20 => "b259",
            _ => continue,
        };
        let id = git2::Oid::from_str(commit.as_str()).expect("id");
        repo.git.reference(&format!("refs/heads/{branch}"), id, true, "").expect("branch");
    }
    path.to_owned()
}

/// `SDP_GIT_REPO=/path/to/bare.git cargo nextest run … --run-ignored only -E 'test(beside_the_git_cli)' --no-capture`, with
/// branches `b249`, `b259` and `main`; a small repository is made where none is named.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a quiet machine to say anything: it measures; scripts/test runs it"]
async fn times_beside_the_git_cli() {
    let made = tempfile::tempdir().expect("tempdir");
    let big = match std::env::var_os("SDP_GIT_REPO") {
        Some(path) => PathBuf::from(path),
        None => sample(&made.path().join("sample.git")),
    };
    let root = big.parent().expect("a folder").to_owned();
    let name = big.file_name().expect("a name").to_str().expect("UTF-8").to_owned();
    let host = Host::plain(&root).await;
    let bench = Bench::new(|_, config| {
        config.origins = vec![host.origin()];
        config.local_paths = vec![root.clone()];
    });
    let http = host.url(&name);
    let local = RepoUrl::parse(big.display().to_string()).expect("path");
    let op = bench.op();
    let cli = |args: Vec<String>| {
        let dir = bench.dir.path().to_owned();
        async move {
            let began = Instant::now();
            let ended =
                tokio::process::Command::new("git").current_dir(dir).args(args).output().await.expect("git");
            assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
            began.elapsed()
        }
    };
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    for (kind, url) in [("http", &http), ("local", &local)] {
        let mut best = [Duration::MAX; 3];
        for _ in 0..5 {
            let began = Instant::now();
            bench.git.list_refs(url, None, &op).await.expect("list");
            best[0] = best[0].min(began.elapsed());
            best[1] = best[1].min(cli(words(&format!("ls-remote -q {url}"))).await);
        }
        println!("{kind}: list {:?}, git ls-remote {:?}", best[0], best[1]);
        for (step, branch) in
            [("b249 into an empty mirror", "b249"), ("update to b259", "b259"), ("update to main", "main")]
        {
            let began = Instant::now();
            let commit = bench.git.resolve(url, &git_ref(branch), None, &op).await.expect("resolve");
            let resolved = began.elapsed();
            bench.git.fetch(url, &git_ref(branch), &commit, None, &op).await.expect("fetch");
            let ours = began.elapsed();
            if step.contains("empty") {
                cli(words(&format!("init -q --bare {kind}.git"))).await;
            }
            let theirs = cli(words(&format!(
                "-C {kind}.git fetch -q --no-tags {url} +refs/heads/{branch}:refs/x/{branch}"
            )))
            .await;
            let began = Instant::now();
            bench.git.fetch(url, &git_ref(branch), &commit, None, &op).await.expect("no-op");
            let noop = began.elapsed();
            let cli_noop = cli(words(&format!(
                "-C {kind}.git fetch -q --no-tags {url} +refs/heads/{branch}:refs/x/{branch}"
            )))
            .await;
            let began = Instant::now();
            let (_, info) = bench.checkout(url, &commit).await.expect("checkout");
            let checkout = began.elapsed();
            cli(words(&format!(
                "-C {kind}.git worktree add -q --detach ../wt-{kind}-{branch} refs/x/{branch}"
            )))
            .await;
            let began = Instant::now();
            cli(words(&format!(
                "-C {kind}.git worktree add -q --detach ../wt2-{kind}-{branch} refs/x/{branch}"
            )))
            .await;
            let cli_checkout = began.elapsed();
            println!(
                "{kind}: {step}: resolve+fetch {ours:?} (resolve {resolved:?}), git {theirs:?}; fetch again {noop:?}, git {cli_noop:?}; \
                 checkout of {} files {checkout:?}, git worktree add {cli_checkout:?}",
                info.files
            );
        }
    }
}
