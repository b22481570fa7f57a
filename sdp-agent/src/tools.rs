//! What all jobs of an agent share: git, the runtime, the folders they work in and the builds that are kept.
//!
//! It also makes room on the disk ([`Tools::make_room`], in the order of [`crate::disk`]).
//!
//! The invariant: a folder that a job or an instance uses is reserved here before anybody can sweep it away.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use sdp_core::catalog::Builder;
use sdp_core::failure::Failure;
use sdp_core::id::{DeploymentId, InstanceId};
use sdp_core::name::{CommitId, RepoPath, ServiceName};
use sdp_core::wire::SecretVariable;
use tokio::sync::{Mutex, OwnedRwLockReadGuard, RwLock};

use crate::builder::{self, PlannedFile, Survey};
use crate::config::{BuildConfig, Config};
use crate::disk::{self, Candidate};
use crate::exec::{Isolation, Reserve};
use crate::git::Git;
use crate::runtime::Runtime;
use crate::secrets::Secrets;
use crate::workspace::{self, KeptBuild, Workspaces};

/// What a sweep has removed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Gone {
    builds: usize,
    caches: usize,
    mirrors: usize,
}

#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) git: Git,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) build: BuildConfig,
    /// Shared by all builds, e.g. Go's.
    pub(crate) caches: PathBuf,
    /// As whom builds run, and how much they may take.
    pub(crate) isolation: Isolation,
    /// Where files with secrets are.
    secrets_folder: PathBuf,
    disk: Disk,
    /// Builds hold it shared; a cache is removed by who has it alone.
    caching: Arc<RwLock<()>>,
    workspaces: Workspaces,
    /// Whose folder each job or instance uses: its own, or that of the deployment whose build it runs.
    in_use: Arc<Mutex<HashMap<InstanceId, DeploymentId>>>,
}

/// What is to stay free, and what was done for it.
#[derive(Debug)]
struct Disk {
    folder: PathBuf,
    floor: u64,
    low: u64,
    target: u64,
    /// One sweep at a time.
    turn: Mutex<()>,
    last: StdMutex<Option<String>>,
}

impl Tools {
    pub(crate) fn new(
        config: &Config,
        git: Git,
        runtime: Arc<dyn Runtime>,
        workspaces: Workspaces,
        isolation: Isolation,
    ) -> Self {
        let disk = Disk {
            folder: config.data_dir.clone(),
            floor: config.min_free,
            low: config.disk.low.max(config.min_free),
            target: config.disk.target.max(config.min_free),
            turn: Mutex::default(),
            last: StdMutex::default(),
        };
        Self {
            git,
            runtime,
            build: config.build.clone(),
            caches: config.data_dir.join("caches"),
            isolation,
            secrets_folder: config.secrets_folder.clone(),
            disk,
            caching: Arc::default(),
            workspaces,
            in_use: Arc::default(),
        }
    }

    /// Keeps the caches as they are; for as long as a build runs.
    pub(crate) async fn use_caches(&self) -> OwnedRwLockReadGuard<()> {
        self.caching.clone().read_owned().await
    }

    /// What a build has to leave free: half of what has to be free before one begins, so that the agent can go on.
    pub(crate) fn reserve(&self) -> Option<Reserve> {
        let bytes = self.disk.floor / 2;
        // A floor that nothing can reach refuses work; it is no reason to stop what runs.
        (bytes > 0 && self.disk.floor < u64::MAX / 2)
            .then(|| Reserve { folder: self.disk.folder.clone(), bytes })
    }

    /// Takes the secrets of a job, as [`Secrets::take`], and what follows from them.
    pub(crate) async fn take_secrets<T: Send + 'static>(
        &self,
        variables: Vec<SecretVariable>,
        with: impl FnOnce(&Secrets) -> T + Send + 'static,
    ) -> io::Result<Result<(Secrets, T), String>> {
        let (folder, user) = (self.secrets_folder.clone(), self.isolation.user());
        self.blocking(move |_| {
            let secrets = Secrets::take(variables, &folder, user)?;
            let what = with(&secrets);
            Ok((secrets, what))
        })
        .await
    }

    /// Gives a checked-out tree to the build user, if there is one.
    pub(crate) async fn hand_over(&self, tree: &Path) -> io::Result<()> {
        let tree = tree.to_owned();
        self.blocking(move |workspaces| workspaces.hand_over(&tree)).await?
    }

    /// A new folder for a deployment, reserved for its instance.
    pub(crate) async fn create_workspace(
        &self,
        deployment: DeploymentId,
        instance: InstanceId,
    ) -> io::Result<PathBuf> {
        self.in_use.lock().await.insert(instance, deployment);
        self.blocking(move |workspaces| workspaces.create(deployment)).await?
    }

    pub(crate) async fn remove_workspace(&self, deployment: DeploymentId) {
        let removed = self.blocking(move |workspaces| workspaces.remove(deployment)).await;
        if let Ok(Err(error)) | Err(error) = removed {
            tracing::warn!(deployment.id = %deployment, %error, "failed to remove a job's folder");
        }
    }

    /// What a builder has to know of a tree and of this machine.
    pub(crate) async fn survey(
        &self,
        builder: &Builder,
        tree: &Path,
        subdir: &RepoPath,
        path: &OsStr,
    ) -> io::Result<Result<Survey, Failure>> {
        let (builder, tree, subdir, path) =
            (builder.clone(), tree.to_owned(), subdir.clone(), path.to_owned());
        self.blocking(move |_| builder::survey(&builder, &tree, &subdir, &path)).await
    }

    /// Writes files of the agent's own into a workspace.
    pub(crate) async fn write_files(&self, files: Vec<PlannedFile>) -> io::Result<()> {
        self.blocking(move |workspaces| files.iter().try_for_each(|file| workspaces.write_file(file))).await?
    }

    /// Checks what a build has left.
    pub(crate) async fn check_output(
        &self,
        output: &Path,
        makes: Option<&Path>,
    ) -> io::Result<Result<(), Failure>> {
        let (output, makes) = (output.to_owned(), makes.map(Path::to_owned));
        self.blocking(move |_| builder::check_output(&output, makes.as_deref())).await
    }

    /// All certificates that builds shall trust, where the operator has named some.
    pub(crate) async fn certificates(&self) -> io::Result<Option<String>> {
        if self.build.network.ca_file.is_none() {
            return Ok(None);
        }
        let network = self.build.network.clone();
        self.blocking(move |_| network.bundle()).await?
    }

    pub(crate) async fn keep(&self, deployment: DeploymentId, build: KeptBuild) -> io::Result<()> {
        self.blocking(move |workspaces| workspaces.keep(deployment, build)).await?
    }

    /// A kept build of that commit, reserved for that instance.
    pub(crate) async fn find_kept(
        &self,
        service: &ServiceName,
        commit: &CommitId,
        spec_hash: &str,
        instance: InstanceId,
    ) -> Option<KeptBuild> {
        let mut in_use = self.in_use.lock().await;
        let (service, commit, hash) = (service.clone(), commit.clone(), spec_hash.to_owned());
        let found = self.blocking(move |workspaces| workspaces.find(&service, &commit, &hash)).await;
        let (owner, build) = found.ok().flatten()?;
        in_use.insert(instance, owner);
        drop(in_use);
        self.note_use(owner).await;
        Some(build)
    }

    /// Whose build an instance runs, or is to run.
    pub(crate) async fn build_of(&self, instance: InstanceId) -> Option<DeploymentId> {
        self.in_use.lock().await.get(&instance).copied()
    }

    /// An instance does not use its folder any more.
    pub(crate) async fn release(&self, instance: InstanceId) {
        let released = self.in_use.lock().await.remove(&instance);
        if let Some(owner) = released {
            self.note_use(owner).await;
        }
    }

    async fn note_use(&self, owner: DeploymentId) {
        drop(self.blocking(move |workspaces| workspaces.used(owner)).await);
    }

    /// Removes kept builds that nobody uses, but for the newest of each service in each sandbox.
    pub(crate) async fn sweep(&self) {
        // Held while it sweeps, so that nothing is found and swept at once; by the sweep itself, which goes on when this is dropped.
        let in_use = self.in_use.clone().lock_owned().await;
        let Some(running) = self.runtime.builds_in_use() else {
            tracing::debug!("no build is swept while it cannot be told which of them run");
            return;
        };
        let used: HashSet<DeploymentId> = in_use.values().copied().chain(running).collect();
        let keep = self.build.keep;
        let sweep = move |workspaces: &Workspaces| {
            let _in_use = in_use;
            workspaces.sweep(&used, keep)
        };
        let swept = self.blocking(sweep).await;
        match swept {
            Ok(0) => {}
            Ok(builds) => tracing::debug!(builds, "swept builds that nobody uses"),
            Err(error) => tracing::warn!(%error, "failed to sweep old builds"),
        }
    }

    /// Free bytes on the disk; where the system cannot say, the work itself will find out.
    pub(crate) async fn free(&self) -> Option<u64> {
        let folder = self.disk.folder.clone();
        tokio::task::spawn_blocking(move || disk::free(&folder)).await.ok()?.ok()
    }

    /// What was removed last to make room, for people.
    pub(crate) fn last_sweep(&self) -> Option<String> {
        self.disk.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When less than the low mark is free: removes what was used least recently until the target is free or nothing is left
    /// that may go.
    pub(crate) async fn make_room(&self) {
        let _turn = self.disk.turn.lock().await;
        let Some(before) = self.free().await.filter(|free| *free < self.disk.low) else { return };
        let mut gone = Gone::default();
        for candidate in self.candidates().await {
            if self.free().await.is_none_or(|free| free >= self.disk.target) {
                break;
            }
            match &candidate {
                Candidate::Build(deployment) if self.remove_spare(*deployment).await => gone.builds += 1,
                Candidate::Cache(cache) if self.remove_cache(cache).await => gone.caches += 1,
                Candidate::Mirror(name) if self.remove_mirror(name).await => gone.mirrors += 1,
                _ => continue,
            }
            tracing::info!(?candidate, "removed to make room");
        }
        if gone == Gone::default() {
            return;
        }
        let mib = |bytes: u64| bytes >> 20;
        let after = self.free().await.unwrap_or(before);
        let Gone { builds, caches, mirrors } = gone;
        let text = format!(
            "removed {builds} kept builds, {caches} caches, {mirrors} mirrors: {} MiB free, {} MiB before",
            mib(after),
            mib(before)
        );
        tracing::info!("{text}");
        *self.disk.last.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(format!("{text} ({:.0})", jiff::Timestamp::now()));
    }

    async fn candidates(&self) -> Vec<Candidate> {
        // While it cannot be told which builds run, none goes, and with them nothing else: it is not for long.
        let Some(running) = self.runtime.builds_in_use() else { return Vec::new() };
        let used: HashSet<DeploymentId> = self.in_use.lock().await.values().copied().chain(running).collect();
        let (git, folder) = (self.git.clone(), self.caches.clone());
        let look = move |workspaces: &Workspaces| {
            disk::order(&workspaces.kept_builds(&used), disk::caches(&folder), git.mirrors())
        };
        self.blocking(look).await.unwrap_or_default()
    }

    /// Removes a kept build, unless somebody has begun to use it.
    async fn remove_spare(&self, deployment: DeploymentId) -> bool {
        let in_use = self.in_use.clone().lock_owned().await;
        let runs = self.runtime.builds_in_use().is_none_or(|running| running.contains(&deployment));
        if runs || in_use.values().any(|used| *used == deployment) {
            return false;
        }
        // Who removes it has the lock, even when this is dropped meanwhile.
        let remove = move |workspaces: &Workspaces| {
            let _in_use = in_use;
            workspaces.remove(deployment)
        };
        let removed = self.blocking(remove).await;
        removed.is_ok_and(|removed| removed.is_ok())
    }

    /// Removes a cache, unless a build runs.
    async fn remove_cache(&self, cache: &disk::Cache) -> bool {
        let Ok(alone) = self.caching.clone().try_write_owned() else { return false };
        let (parent, name) = (self.caches.join(&cache.builder), cache.name.clone());
        let removed = tokio::task::spawn_blocking(move || {
            let _alone = alone;
            workspace::remove::tree(&parent, &name)
        });
        removed.await.is_ok_and(|removed| removed.is_ok())
    }

    async fn remove_mirror(&self, name: &str) -> bool {
        let (git, name) = (self.git.clone(), name.to_owned());
        tokio::task::spawn_blocking(move || git.remove_idle(&name)).await.unwrap_or(false)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Workspaces) -> T + Send + 'static,
    ) -> io::Result<T> {
        let workspaces = self.workspaces.clone();
        match tokio::task::spawn_blocking(move || work(&workspaces)).await {
            Ok(value) => Ok(value),
            // The runtime is going down: what would follow from an error here must not be done.
            Err(error) if error.is_cancelled() => std::future::pending().await,
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

#[cfg(test)]
mod tests;
