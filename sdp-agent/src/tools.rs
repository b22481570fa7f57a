//! What all jobs of an agent share: git, the runtime, the folders they work in and the builds that are kept.
//!
//! The invariant: a folder that a job or an instance uses is reserved here before anybody can sweep it away.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sdp_core::catalog::Builder;
use sdp_core::failure::Failure;
use sdp_core::id::{DeploymentId, InstanceId};
use sdp_core::name::{CommitId, RepoPath, ServiceName};
use tokio::sync::Mutex;

use crate::builder::{self, PlannedFile, Survey};
use crate::config::BuildConfig;
use crate::git::Git;
use crate::runtime::Runtime;
use crate::workspace::{self, KeptBuild, Workspaces};

#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) git: Git,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) build: BuildConfig,
    /// Shared by all builds, e.g. Go's.
    pub(crate) caches: PathBuf,
    workspaces: Workspaces,
    /// Whose folder each job or instance uses: its own, or that of the deployment whose build it runs.
    in_use: Mutex<HashMap<InstanceId, DeploymentId>>,
}

impl Tools {
    pub(crate) fn new(
        git: Git,
        runtime: Arc<dyn Runtime>,
        build: BuildConfig,
        caches: PathBuf,
        workspaces: Workspaces,
    ) -> Self {
        Self { git, runtime, build, caches, workspaces, in_use: Mutex::default() }
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
        self.blocking(move |_| files.iter().try_for_each(workspace::write_file)).await?
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
        Some(build)
    }

    /// An instance does not use its folder any more.
    pub(crate) async fn release(&self, instance: InstanceId) {
        self.in_use.lock().await.remove(&instance);
    }

    /// Removes kept builds that nobody uses, but for the newest of each service in each sandbox.
    pub(crate) async fn sweep(&self) {
        // Held while it sweeps, so that nothing is found and swept at once.
        let in_use = self.in_use.lock().await;
        let used: HashSet<DeploymentId> = in_use.values().copied().collect();
        let keep = self.build.keep;
        let swept = self.blocking(move |workspaces| workspaces.sweep(&used, keep)).await;
        drop(in_use);
        match swept {
            Ok(0) => {}
            Ok(builds) => tracing::debug!(builds, "swept builds that nobody uses"),
            Err(error) => tracing::warn!(%error, "failed to sweep old builds"),
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Workspaces) -> T + Send + 'static,
    ) -> io::Result<T> {
        let workspaces = self.workspaces.clone();
        tokio::task::spawn_blocking(move || work(&workspaces)).await.map_err(io::Error::other)
    }
}
