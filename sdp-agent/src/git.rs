//! From a repository's address and a branch to a folder with files.
//!
//! ```text
//!                        ┌─ host ──refs──▶ commit ──pack──▶ mirror (bare, one per repository) ─┐
//!   RepoUrl ──admit──▶ Source   http.rs, pkt.rs             mirror.rs                           Store ──checkout──▶ folder
//!           allowlist    └─ local repository ──refs──▶ commit, read where it lies ──────────────┘      checkout.rs
//!                               local.rs
//! ```
//! The agent's jobs call it; so do the server's questions, which `account` and `bitbucket` answer beside `list_refs`. libgit2 keeps the mirrors (packs, refs, objects) and never speaks to a network: the few
//! requests of git's smart protocol are our own (`pkt`, `http`), so every fault of the network has a type, every wait
//! a limit, and a cancel cuts the connection. No program is started, no hook, filter or configuration of a repository is
//! used, and no credential leaves the one operation that it came with.
//!
//! Invariants: nothing outside the allowlist is asked or opened (`source`); a mirror is written by one operation at a
//! time; all blocking work is on threads that are awaited, also after a cancel.
//!
//! Limits are in [`GitConfig`]; what goes over one ends as `repo_too_large`, `git_unreachable` or `timeout`.

mod account;
mod bitbucket;
mod changes;
mod checkout;
mod config;
mod control;
mod fault;
mod http;
mod keep;
mod local;
mod mirror;
mod pkt;
mod refs;
mod remote;
mod rest;
mod source;
mod store;
#[cfg(test)]
mod tests;
mod text;

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use git2::Oid;
use sdp_core::deployment::{Changes, CommitInfo, Step};
use sdp_core::failure::{Failure, FailureReason};
use sdp_core::name::{CommitId, GitRef, RepoUrl};
use sdp_core::secret::GitCredential;
use sdp_core::wire::Answer;
use tokio::sync::OwnedMutexGuard;

pub use self::checkout::CheckoutInfo;
pub use self::config::{GitConfig, GitConfigError, GitHost, GitHostKind};
pub use self::control::GitOp;
pub use self::keep::Hold;

use self::control::{Control, Running};
use self::fault::{Fault, said};
use self::mirror::Mirror;
use self::refs::{Meaning, Ref, Refs, commit_id, short};
use self::remote::Remote;
use self::source::{HttpSource, Source};
use self::store::{Found, Store};

/// All repositories of an agent.
#[derive(Clone)]
pub struct Git {
    inner: Arc<Inner>,
}

struct Inner {
    config: GitConfig,
    mirrors: PathBuf,
    roots: http::Roots,
    /// Who writes to which mirror; an entry lives as long as somebody holds or awaits it.
    locks: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    /// Who uses which mirror, for whatever; see `keep`.
    holders: Mutex<HashMap<String, Weak<()>>>,
}

impl std::fmt::Debug for Git {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Git").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

impl Git {
    /// Reads the trusted certificates and makes the folder for mirrors. Blocks; for the agent's start.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub fn new(config: GitConfig, mirrors: PathBuf) -> Result<Self, GitConfigError> {
        config.validate()?;
        let roots = http::load_roots(&config)?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&mirrors)
            .map_err(|source| GitConfigError::Mirrors { path: mirrors.clone(), source })?;
        let (locks, holders) = (Mutex::default(), Mutex::default());
        Ok(Self { inner: Arc::new(Inner { config, mirrors, roots, locks, holders }) })
    }

    /// Which commit a branch, tag or commit id means now. An abbreviated id is looked for among the tips, then in the
    /// mirror, then after fetching all branches.
    ///
    /// # Errors
    /// `ref_not_found`, `ref_ambiguous`, or that the repository cannot be read.
    pub async fn resolve(
        &self,
        repo: &RepoUrl,
        wanted: &GitRef,
        credential: Option<&GitCredential>,
        op: &GitOp,
    ) -> Result<CommitId, Failure> {
        let work = async {
            let _held = self.hold(repo).await;
            let running = Running::begin(op);
            let job = Job::new(self, repo, credential);
            let again = job.clone();
            let word = wanted.clone();
            let http = match running.block(move |control| again.look_up(&word, control)).await? {
                Known::Here(commit) => return Ok(commit_id(commit)),
                Known::AskHost(http) => http,
            };
            let guard = running.wait(self.inner.lock(&http)).await?;
            let word = wanted.clone();
            running.block(move |control| job.search(&http, &guard, &word, control)).await.map(commit_id)
        };
        work.await.map_err(|fault: Fault| fault.into_failure(Step::Resolve, credential))
    }

    /// Brings a commit into the mirror. Where it is there already, neither network nor credential is used.
    ///
    /// # Errors
    /// `branch_moved` if the commit is not to be had any more, or that the repository cannot be read.
    pub async fn fetch(
        &self,
        repo: &RepoUrl,
        wanted: &GitRef,
        commit: &CommitId,
        credential: Option<&GitCredential>,
        op: &GitOp,
    ) -> Result<CommitInfo, Failure> {
        let work = async {
            let _held = self.hold(repo).await;
            let running = Running::begin(op);
            let job = Job::new(self, repo, credential);
            let id = object_id(commit)?;
            let again = job.clone();
            let word = wanted.clone();
            let http = match running.block(move |control| again.present(&word, id, control)).await? {
                Known::Here(info) => return Ok(info),
                Known::AskHost(http) => http,
            };
            let guard = running.wait(self.inner.lock(&http)).await?;
            let word = wanted.clone();
            running.block(move |control| job.fetch(&http, &guard, &word, id, control)).await
        };
        work.await.map_err(|fault: Fault| fault.into_failure(Step::Fetch, credential))
    }

    /// How a fetched commit relates to an earlier one, as far as what is on this disk tells; no network is used.
    pub async fn changes(
        &self,
        repo: &RepoUrl,
        since: &CommitId,
        commit: &CommitId,
        op: &GitOp,
    ) -> Option<Changes> {
        let _held = self.hold(repo).await;
        let (old, new) = (object_id(since).ok()?, object_id(commit).ok()?);
        let job = Job::new(self, repo, None);
        let work = Running::begin(op);
        let compared = work.block(move |_| match job.store(&job.admit()?)? {
            Some(store) => store.changes(old, new),
            None => Ok(None),
        });
        match compared.await {
            Ok(changes) => changes,
            Err(fault) => {
                let failure = fault.into_failure(Step::Fetch, None);
                tracing::debug!(
                    "{} cannot be compared with {}: {}",
                    commit.short(),
                    since.short(),
                    failure.detail
                );
                None
            }
        }
    }

    /// Whether the mirror holds a commit; false also where the repository is not allowed.
    pub async fn has_commit(&self, repo: &RepoUrl, commit: &CommitId) -> bool {
        let job = Job::new(self, repo, None);
        let Ok(id) = object_id(commit) else { return false };
        let held = tokio::task::spawn_blocking(move || {
            let source = job.admit().ok()?;
            Some(job.store(&source).ok()??.has(id))
        });
        held.await.ok().flatten().unwrap_or(false)
    }

    /// Writes a fetched commit's files into a folder that is not there yet or empty. On a failure nothing is left in it.
    ///
    /// # Errors
    /// `repo_too_large`, `unsafe_tree`, `disk_full`; `internal` if the commit was not fetched.
    pub async fn checkout(
        &self,
        repo: &RepoUrl,
        commit: &CommitId,
        into: &Path,
        op: &GitOp,
    ) -> Result<CheckoutInfo, Failure> {
        let work = async {
            let _held = self.hold(repo).await;
            let running = Running::begin(op);
            let job = Job::new(self, repo, None);
            let id = object_id(commit)?;
            let into = into.to_owned();
            let again = job.clone();
            match running.block(move |control| again.checkout(id, &into, control)).await {
                // It would fail for ever: the mirror would go on saying that it has the commit.
                Err(Fault::Damaged { detail }) => {
                    self.discard(&running, job).await?;
                    Err(Fault::Damaged { detail })
                }
                other => other,
            }
        };
        work.await.map_err(|fault: Fault| fault.into_failure(Step::Fetch, None))
    }

    /// Branches and tags of a repository, seen with this credential or else with the agent's own.
    ///
    /// # Errors
    /// That the repository cannot be read.
    pub async fn list_refs(
        &self,
        repo: &RepoUrl,
        credential: Option<&GitCredential>,
        op: &GitOp,
    ) -> Result<Answer, Failure> {
        let own = self.own_credential(repo, credential);
        let credential = credential.or(own.as_ref());
        let job = Job::new(self, repo, credential);
        let work = Running::begin(op);
        work.block(move |control| {
            let source = job.admit()?;
            Ok(job.refs(&source, control)?.answer())
        })
        .await
        .map_err(|fault| fault.into_failure(Step::Resolve, credential))
    }
}

impl Git {
    /// Removes a damaged mirror.
    async fn discard(&self, running: &Running, job: Job) -> Result<(), Fault> {
        let Source::Http(http) = running.block(move |_| job.admit()).await? else { return Ok(()) };
        let guard = running.wait(self.inner.lock(&http)).await?;
        let path = self.inner.mirror_path(&http);
        running
            .block(move |_| {
                let _held = guard;
                mirror::remove(&path)
            })
            .await
    }
}

impl Inner {
    fn mirror_path(&self, source: &HttpSource) -> PathBuf {
        self.mirrors.join(source.mirror_name())
    }

    async fn lock(&self, source: &HttpSource) -> OwnedMutexGuard<()> {
        let name = source.mirror_name();
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| lock.strong_count() > 0);
            let known = locks.get(&name).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let new = Arc::new(tokio::sync::Mutex::new(()));
                locks.insert(name, Arc::downgrade(&new));
                new
            })
        };
        lock.lock_owned().await
    }
}

/// What is known without asking a host for commits.
enum Known<T> {
    Here(T),
    AskHost(HttpSource),
}

/// What one operation's blocking parts share. The credential is wiped when the last of them is dropped.
#[derive(Clone)]
struct Job {
    git: Git,
    repo: RepoUrl,
    credential: Option<GitCredential>,
}

impl Job {
    fn new(git: &Git, repo: &RepoUrl, credential: Option<&GitCredential>) -> Self {
        Self { git: git.clone(), repo: repo.clone(), credential: credential.cloned() }
    }

    fn admit(&self) -> Result<Source, Fault> {
        Source::admit(&self.repo, &self.git.inner.config)
    }

    fn connect<'a>(&'a self, source: &HttpSource, control: &'a Control) -> Result<Remote<'a>, Fault> {
        let inner = &self.git.inner;
        Remote::connect(source, self.credential.as_ref(), &inner.config, &inner.roots, control)
    }

    fn refs(&self, source: &Source, control: &Control) -> Result<Refs, Fault> {
        match source {
            Source::Http(http) => Ok(self.connect(http, control)?.refs),
            Source::Local(local) => local.refs(control),
        }
    }

    /// What is on this disk of it.
    fn store(&self, source: &Source) -> Result<Option<Store>, Fault> {
        match source {
            Source::Http(http) => Ok(Mirror::open(&self.git.inner.mirror_path(http))),
            Source::Local(local) => local.store().map(Some),
        }
    }

    /// The commit if the names or what is on this disk tell it.
    fn look_up(&self, wanted: &GitRef, control: &Control) -> Result<Known<Oid>, Fault> {
        let source = self.admit()?;
        let refs = self.refs(&source, control)?;
        let (digits, mut all) = match refs.meaning(wanted)? {
            Meaning::Commit(commit) => return Ok(Known::Here(commit)),
            Meaning::Id { digits, tips } => (digits, tips),
        };
        let store = self.store(&source)?;
        if let Some(store) = &store {
            match store.find(&digits)? {
                Found::Nothing => {}
                Found::One(commit) => all.push(commit),
                Found::Several(commits) => all.extend(commits),
            }
        }
        all.sort_unstable();
        all.dedup();
        match (all.as_slice(), source) {
            ([commit], _) => Ok(Known::Here(*commit)),
            ([], Source::Http(http)) => Ok(Known::AskHost(http)),
            ([], Source::Local(_)) => Err(refs.not_found(wanted)),
            (several, _) => Err(ambiguous(&digits, store.as_ref(), several)),
        }
    }

    /// Fetches the commit of that id, or all branches, and looks again.
    fn search(
        &self,
        http: &HttpSource,
        _held: &OwnedMutexGuard<()>,
        wanted: &GitRef,
        control: &Control,
    ) -> Result<Oid, Fault> {
        let mirror = Mirror::open_or_create(&self.git.inner.mirror_path(http))?;
        let remote = self.connect(http, control)?;
        let digits = wanted.as_str().to_ascii_lowercase();
        if digits.len() == 40
            && let Ok(whole) = Oid::from_str(&digits)
        {
            match remote.bring(&mirror, &[whole]) {
                Ok(()) => {
                    mirror.keep(wanted.as_str(), whole)?;
                    return Ok(whole);
                }
                Err(Fault::NotHandedOut { .. }) => {}
                Err(fault) => return Err(fault),
            }
        }
        let mut missing = remote.refs.branch_tips();
        missing.retain(|tip| !mirror.store().has(*tip));
        if !missing.is_empty() {
            control.line(&format!("looking for {digits} in all branches"));
            remote.bring(&mirror, &missing)?;
            for branch in remote.refs.list.iter().filter(|r| r.name.starts_with("refs/heads/")) {
                mirror.keep(&branch.name, branch.commit())?;
            }
        }
        match mirror.store().find(&digits)? {
            Found::Nothing => Err(remote.refs.not_found(wanted)),
            Found::One(commit) => Ok(commit),
            Found::Several(commits) => Err(ambiguous(&digits, Some(mirror.store()), &commits)),
        }
    }

    /// The commit if it is on this disk.
    fn present(&self, wanted: &GitRef, commit: Oid, control: &Control) -> Result<Known<CommitInfo>, Fault> {
        let source = self.admit()?;
        if let Some(store) = self.store(&source)?.filter(|store| store.has(commit)) {
            return store.info(commit).map(Known::Here);
        }
        match source {
            Source::Http(http) => Ok(Known::AskHost(http)),
            Source::Local(local) => Err(moved(wanted, commit, &local.refs(control)?)),
        }
    }

    fn fetch(
        &self,
        http: &HttpSource,
        held: &OwnedMutexGuard<()>,
        wanted: &GitRef,
        commit: Oid,
        control: &Control,
    ) -> Result<CommitInfo, Fault> {
        match self.fetch_once(http, held, wanted, commit, control) {
            Err(Fault::Damaged { detail }) => {
                control.line("the agent's mirror of the repository is damaged: fetching it anew");
                tracing::warn!("a mirror of {} is damaged, removed: {detail}", self.repo);
                mirror::remove(&self.git.inner.mirror_path(http))?;
                self.fetch_once(http, held, wanted, commit, control)
            }
            other => other,
        }
    }

    fn fetch_once(
        &self,
        http: &HttpSource,
        _held: &OwnedMutexGuard<()>,
        wanted: &GitRef,
        commit: Oid,
        control: &Control,
    ) -> Result<CommitInfo, Fault> {
        let mirror = Mirror::open_or_create(&self.git.inner.mirror_path(http))?;
        // Somebody else may have fetched it while we waited.
        if !mirror.store().has(commit) {
            let remote = self.connect(http, control)?;
            match remote.bring(&mirror, &[commit]) {
                Err(Fault::NotHandedOut { said }) => fetch_by_name(&remote, &mirror, wanted, commit, said)?,
                other => other?,
            }
        }
        mirror.keep(wanted.as_str(), commit)?;
        mirror.store().info(commit)
    }

    fn checkout(&self, commit: Oid, into: &Path, control: &Control) -> Result<CheckoutInfo, Fault> {
        let source = self.admit()?;
        let store = self
            .store(&source)?
            .filter(|store| store.has(commit))
            .ok_or_else(|| said(FailureReason::Internal, format!("the commit {commit} was not fetched")))?;
        let written = checkout::plan(store.repo(), commit, &self.git.inner.config, control)
            .and_then(|plan| plan.write(store.repo(), into, control));
        match (written, source) {
            (Err(Fault::Damaged { detail }), Source::Local(_)) => {
                Err(said(FailureReason::GitUnreachable, format!("the local repository is damaged: {detail}")))
            }
            (written, _) => written,
        }
    }
}

/// For hosts that hand out only the tips of branches and tags.
fn fetch_by_name(
    remote: &Remote<'_>,
    mirror: &Mirror,
    wanted: &GitRef,
    commit: Oid,
    why: String,
) -> Result<(), Fault> {
    match remote.refs.named(wanted)?.map(Ref::commit) {
        Some(tip) if tip == commit => return Err(Fault::NotHandedOut { said: why }),
        Some(tip) => {
            remote.bring(mirror, &[tip])?;
            mirror.keep(wanted.as_str(), tip)?;
        }
        None => {}
    }
    if mirror.store().has(commit) { Ok(()) } else { Err(moved(wanted, commit, &remote.refs)) }
}

/// The pinned commit is gone; where the name is now.
fn moved(wanted: &GitRef, commit: Oid, refs: &Refs) -> Fault {
    let now = match refs.named(wanted) {
        Ok(Some(r)) => format!("it is at {} now", short(r.commit())),
        _ => "there is no such branch or tag now".to_owned(),
    };
    let detail = format!("{wanted} was at {}, which is not to be had any more; {now}", short(commit));
    said(FailureReason::BranchMoved, detail)
}

fn object_id(commit: &CommitId) -> Result<Oid, Fault> {
    match commit.as_str().len() {
        40 => Oid::from_str(commit.as_str())
            .map_err(|error| fault::libgit("failed to read a commit id", &error)),
        _ => Err(pkt::sha256()),
    }
}

fn ambiguous(digits: &str, store: Option<&Store>, commits: &[Oid]) -> Fault {
    let which = match store {
        Some(store) => store.describe(commits),
        None => commits.iter().take(5).map(|id| short(*id)).collect::<Vec<_>>().join(", "),
    };
    said(FailureReason::RefAmbiguous, format!("{} commits begin with {digits}: {which}", commits.len()))
}
