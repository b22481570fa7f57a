//! Real repositories made with git2, and for HTTP a real `git http-backend` on the far side.

mod account;
mod api;
mod changes;
mod host;
mod http;
mod local;
mod mirror;
mod repo;
mod times;
mod tree;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sdp_core::failure::{Failure, FailureReason};
use sdp_core::name::{CommitId, GitRef, RepoUrl};
use sdp_core::secret::{GitCredential, Secret};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{CheckoutInfo, Git, GitConfig, GitOp};

/// An agent's git with a folder of its own.
struct Bench {
    dir: TempDir,
    git: Git,
    stop: CancellationToken,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    fn new(change: impl FnOnce(&Path, &mut GitConfig)) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut config = GitConfig::default();
        change(dir.path(), &mut config);
        let git = Git::new(config, dir.path().join("mirrors")).expect("a good configuration");
        Self { dir, git, stop: CancellationToken::new(), lines: Arc::default() }
    }

    /// One that may use local repositories under `repos`.
    fn local() -> Self {
        Self::new(|dir, config| config.local_paths = vec![dir.join("repos")])
    }

    fn op(&self) -> GitOp {
        self.op_within(Duration::from_secs(60))
    }

    fn op_within(&self, limit: Duration) -> GitOp {
        let lines = self.lines.clone();
        let on_line = move |line: &str| lines.lock().expect("lines").push(line.to_owned());
        GitOp { stop: self.stop.clone(), limit, on_line: Arc::new(on_line) }
    }

    fn repo_path(&self, name: &str) -> PathBuf {
        self.dir.path().join("repos").join(name)
    }

    fn url(&self, name: &str) -> RepoUrl {
        RepoUrl::parse(self.repo_path(name).display().to_string()).expect("a path")
    }

    async fn resolve(&self, url: &RepoUrl, name: &str) -> Result<CommitId, Failure> {
        self.git.resolve(url, &git_ref(name), None, &self.op()).await
    }

    async fn fetch(&self, url: &RepoUrl, name: &str, commit: &CommitId) -> Result<String, Failure> {
        let info = self.git.fetch(url, &git_ref(name), commit, None, &self.op()).await?;
        Ok(format!("{}: {}", info.author, info.subject))
    }

    /// Resolve, fetch and checkout; gives the folder.
    async fn deploy(&self, url: &RepoUrl, name: &str) -> Result<(PathBuf, CheckoutInfo), Failure> {
        let commit = self.resolve(url, name).await?;
        self.fetch(url, name, &commit).await?;
        self.checkout(url, &commit).await
    }

    async fn checkout(&self, url: &RepoUrl, commit: &CommitId) -> Result<(PathBuf, CheckoutInfo), Failure> {
        let into = tempfile::tempdir_in(self.dir.path()).expect("tempdir").keep().join("tree");
        let info = self.git.checkout(url, commit, &into, &self.op()).await?;
        Ok((into, info))
    }

    fn mirrors(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.dir.path().join("mirrors")).expect("mirrors");
        entries.map(|entry| entry.expect("entry").path()).collect()
    }
}

fn git_ref(name: &str) -> GitRef {
    GitRef::parse(name).expect(name)
}

fn alice(password: &str) -> GitCredential {
    GitCredential { username: "alice".into(), password: Secret::new(password) }
}

/// `code: detail`, with the folder of the test taken out.
fn shown(failure: &Failure, bench: &Bench) -> String {
    let detail = failure.detail.replace(&bench.dir.path().display().to_string(), "DIR");
    format!("{}: {detail}", failure.reason.code())
}

fn reason<T: std::fmt::Debug>(result: Result<T, Failure>) -> FailureReason {
    result.expect_err("a failure").reason
}
