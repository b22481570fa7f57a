//! The folders of deployments: `<root>/<deployment id>/{source,output,home,tmp}`, and which builds are kept in them.
//!
//! Called by the job (create, find, keep, remove) and by the agent at start and after each job (sweep). All of it touches
//! the disk: call it on a blocking thread. `find` reads memory and two directory entries.
//!
//! With a build user, the four folders are its own; the deployment's folder is not, so that a build cannot touch the record. It
//! stays closed to that user until the checked-out tree was handed over: another build of the same user, which runs at the
//! same time, could otherwise put links into the tree while the agent writes it.
//!
//! Invariant: paths are made of ids alone, never of names that somebody chose; nothing is followed out of a workspace;
//! a folder that is being removed is renamed first, so that half a build is never found. What is in the root and is not
//! ours is left alone.
//!
//! Limits: `MAX_RECORD` bytes for a kept build's record; how many builds are kept is the caller's configuration.

pub(crate) mod remove;

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, DirBuilder};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, lchown};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::process::{Gid, Uid};
use sdp_core::catalog::Builder;
use sdp_core::deployment::Step;
use sdp_core::failure::{Failure, FailureReason};
use sdp_core::id::DeploymentId;
use sdp_core::name::{CommitId, Label, RepoPath, SandboxName, ServiceName};
use sdp_core::wire::JobSpec;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::builder::{PlannedFile, RunPlan, Target};
use crate::config::User;
use crate::disk;

const SOURCE: &str = "source";
const OUTPUT: &str = "output";
/// What programs take for a person's home, and for temporary files; not kept.
const HOME: &str = "home";
const TMP: &str = "tmp";
const RECORD: &str = "kept.json";
/// Counts up when the same service is planned in another way than by an older agent.
const PLAN: u32 = 2;
const REMOVING: &str = ".removing-";
/// The longest record of a kept build, in bytes.
const MAX_RECORD: u64 = 1024 * 1024;

/// A build that can be started again without fetching or building.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptBuild {
    /// Of which service.
    pub service: ServiceName,
    /// Made for which sandbox; others may use it, too.
    pub sandbox: SandboxName,
    /// What was built.
    pub commit: CommitId,
    /// How, see [`spec_hash`].
    pub spec_hash: String,
    /// How to start it.
    pub run: RunPlan,
    /// Since when.
    pub kept_at: Timestamp,
}

/// All workspaces of an agent. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Workspaces(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    owner: Option<User>,
    kept: Mutex<BTreeMap<DeploymentId, KeptBuild>>,
}

impl Workspaces {
    /// Those beneath this folder, which is made if need be and readable by nobody else.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn new(root: impl Into<PathBuf>) -> io::Result<Self> {
        Self::owned_by(root, None)
    }

    /// As [`Self::new`]; what builds write belongs to that user.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn owned_by(root: impl Into<PathBuf>, owner: Option<User>) -> io::Result<Self> {
        let root = root.into();
        DirBuilder::new().recursive(true).mode(0o700).create(&root)?;
        let_through(&root, owner)?;
        // Absolute and without links: these paths go into records and are compared.
        let root = root.canonicalize()?;
        let mut kept = BTreeMap::new();
        for entry in fs::read_dir(&root)? {
            let entry = entry?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            if name.starts_with(REMOVING) {
                if let Err(error) = remove::tree(&root, &name) {
                    tracing::warn!(%error, folder = name, "cannot remove what is left of a workspace");
                }
            } else if let Ok(id) = name.parse()
                && let Some(build) = read_record(&entry.path())
            {
                kept.insert(id, build);
            }
        }
        Ok(Self(Arc::new(Shared { root, owner, kept: Mutex::new(kept) })))
    }

    /// Makes the folders of a deployment, empty: what an earlier attempt left is removed. Nobody but the agent gets in
    /// until [`Self::hand_over`].
    ///
    /// # Errors
    /// When the disk says no.
    pub fn create(&self, id: DeploymentId) -> io::Result<PathBuf> {
        self.remove(id)?;
        let folder = self.folder(id);
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        builder.create(&folder)?;
        for name in [SOURCE, OUTPUT, HOME, TMP] {
            let path = folder.join(name);
            builder.create(&path)?;
            if let Some(User { uid, gid }) = self.0.owner {
                lchown(path, Some(uid), Some(gid))?;
            }
        }
        // Nobody gets through the folder above; a container that is shown one of these may run as somebody else.
        for name in [SOURCE, OUTPUT] {
            fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o755))?;
        }
        Ok(folder)
    }

    /// Gives a checked-out tree to the build user, if there is one, and only then lets it into the folder around it. Before
    /// anything of the repository runs: the tree is still as it was written.
    ///
    /// # Errors
    /// When the disk says no.
    pub fn hand_over(&self, tree: &Path) -> io::Result<()> {
        let Some(User { uid, gid }) = self.0.owner else { return Ok(()) };
        let mut todo = vec![tree.to_owned()];
        while let Some(path) = todo.pop() {
            lchown(&path, Some(uid), Some(gid))?;
            if fs::symlink_metadata(&path)?.is_dir() {
                for entry in fs::read_dir(&path)? {
                    todo.push(entry?.path());
                }
            }
        }
        let folder = tree.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let_through(folder, self.0.owner)
    }

    /// Writes a small file of the agent's own into a folder of a workspace, for builds to read.
    ///
    /// # Errors
    /// When it cannot be written, or its folder is a link.
    pub(crate) fn write_file(&self, file: &PlannedFile) -> io::Result<()> {
        write_file(file, self.0.owner)
    }

    /// Notes that a kept build was used now.
    pub(crate) fn used(&self, id: DeploymentId) {
        disk::touch(&self.folder(id).join(RECORD));
    }

    /// The kept builds, with which of them are in use.
    pub(crate) fn kept_builds(&self, in_use: &HashSet<DeploymentId>) -> Vec<disk::Build> {
        let kept = self.kept().clone();
        kept.into_iter()
            .map(|(deployment, build)| disk::Build {
                deployment,
                service: build.service,
                sandbox: build.sandbox,
                kept_at: build.kept_at,
                used_at: disk::touched_at(&self.folder(deployment).join(RECORD)).unwrap_or(build.kept_at),
                in_use: in_use.contains(&deployment),
            })
            .collect()
    }

    /// Where a deployment's tree is checked out.
    #[must_use]
    pub fn source_dir(&self, id: DeploymentId) -> PathBuf {
        self.folder(id).join(SOURCE)
    }

    /// Where a deployment's artefacts go.
    #[must_use]
    pub fn output_dir(&self, id: DeploymentId) -> PathBuf {
        self.folder(id).join(OUTPUT)
    }

    /// A service's folder in a checked-out tree, as a path without links. Ask again after the build: it runs programs of
    /// the repository, which may have put a link there.
    ///
    /// # Errors
    /// `unsafe_tree` when there is no such folder, or a link leads out of the tree.
    pub fn service_dir(&self, tree: &Path, subdir: &RepoPath) -> Result<PathBuf, Failure> {
        folder_beneath(tree, subdir.as_str(), &format!("the folder {subdir}"))
    }

    /// Remembers that a deployment's workspace holds a finished build.
    ///
    /// # Errors
    /// When its record cannot be written; then it is not kept.
    pub fn keep(&self, id: DeploymentId, build: KeptBuild) -> io::Result<()> {
        let folder = self.folder(id);
        let json = serde_json::to_vec_pretty(&build)?;
        let unfinished = folder.join(".kept.json.new");
        // The build may have put something there; it is not followed.
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(&json)?;
        file.sync_all()?;
        fs::rename(&unfinished, folder.join(RECORD))?;
        fs::File::open(&folder)?.sync_all()?;
        self.kept().insert(id, build);
        Ok(())
    }

    /// The newest kept build of exactly this, if its folders are still there.
    #[must_use]
    pub fn find(
        &self,
        service: &ServiceName,
        commit: &CommitId,
        spec_hash: &str,
    ) -> Option<(DeploymentId, KeptBuild)> {
        let fits = |build: &KeptBuild| {
            build.service == *service && build.commit == *commit && build.spec_hash == spec_hash
        };
        let found: Vec<_> = self
            .kept()
            .iter()
            .filter(|(_, build)| fits(build))
            .map(|(id, build)| (*id, build.clone()))
            .collect();
        found
            .into_iter()
            .filter(|(id, build)| build.run.folders().all(Path::is_dir) && self.output_dir(*id).is_dir())
            .max_by_key(|(id, build)| (build.kept_at, *id))
    }

    /// Removes a deployment's workspace; it need not exist. Links in it are removed, not followed.
    ///
    /// # Errors
    /// When something in it cannot be removed; what is left is tried again at the next start.
    pub fn remove(&self, id: DeploymentId) -> io::Result<()> {
        self.kept().remove(&id);
        let unwanted = format!("{REMOVING}{id}-{}", uuid::Uuid::new_v4().simple());
        match fs::rename(self.folder(id), self.0.root.join(&unwanted)) {
            Ok(()) => remove::tree(&self.0.root, &unwanted),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes the workspaces that are neither in use nor among the newest kept builds of their service and sandbox.
    /// Returns how many were removed. What cannot be removed is logged and tried again at the next start.
    pub fn sweep(&self, in_use: &HashSet<DeploymentId>, keep_per_service_and_sandbox: usize) -> usize {
        let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (id, build) in self.kept().iter() {
            let group = (build.service.clone(), build.sandbox.clone());
            groups.entry(group).or_default().push((build.kept_at, *id));
        }
        let mut wanted = in_use.clone();
        for mut builds in groups.into_values() {
            builds.sort_unstable();
            wanted.extend(builds.into_iter().rev().take(keep_per_service_and_sandbox).map(|(_, id)| id));
        }
        let entries = match fs::read_dir(&self.0.root) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(%error, "cannot list the workspaces");
                return 0;
            }
        };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<DeploymentId>().ok())
            .filter(|id| !wanted.contains(id))
            .filter(|id| match self.remove(*id) {
                Ok(()) => true,
                Err(error) => {
                    tracing::warn!(%error, deployment.id = %id, "cannot remove a workspace");
                    false
                }
            })
            .count()
    }

    fn folder(&self, id: DeploymentId) -> PathBuf {
        self.0.root.join(id.to_string())
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, BTreeMap<DeploymentId, KeptBuild>> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets a build user pass through a folder to what is its own in there, and see nothing else of it.
pub(crate) fn let_through(folder: &Path, user: Option<User>) -> io::Result<()> {
    let Some(user) = user else { return Ok(()) };
    lchown(folder, None, Some(user.gid))?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o710))
}

/// What a build depends on beside the commit: a kept one is used only where this is the same.
#[must_use]
pub fn spec_hash(spec: &JobSpec, target: Target, toolchains: &[&Label]) -> String {
    // Its plan for the container depends on how much it may use; no other builder's does.
    let limits =
        matches!(spec.builder, Builder::Php { .. }).then_some((spec.limits.memory_mib, spec.limits.pids));
    // Field order is the declaration's, so the text is the same every time.
    let parts = (PLAN, target, &spec.builder, &spec.subdir, &spec.image, limits, toolchains);
    let text = serde_json::to_vec(&parts).unwrap_or_default();
    Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A kept build's record; none if there is none, or it is not what we wrote.
fn read_record(folder: &Path) -> Option<KeptBuild> {
    let no_follow = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(no_follow).ok()?)
        .open(folder.join(RECORD))
        .ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    file.take(MAX_RECORD).read_to_string(&mut text).ok()?;
    let build: KeptBuild = serde_json::from_str(&text).ok()?;
    // It was written beside what a build could write to: it may not lead anywhere else.
    let inside = |path: &Path| {
        path.starts_with(folder) && !path.components().any(|part| matches!(part, Component::ParentDir))
    };
    let believed = build.run.folders().all(inside);
    believed.then_some(build)
}

/// Writes a small file of the agent's own into a folder of a workspace, which is made if need be. What is there under its
/// name is removed, not followed. Blocking.
///
/// # Errors
/// When it cannot be written, or its folder is a link.
pub(crate) fn write_file(file: &PlannedFile, owner: Option<User>) -> io::Result<()> {
    let (Some(folder), Some(name)) = (file.path.parent(), file.path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let ids = owner.map(|User { uid, gid }| (Uid::from_raw(uid), Gid::from_raw(gid))).unzip();
    let made = match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        other => other.is_ok(),
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty())?;
    if made {
        rustix::fs::chownat(&folder, "", ids.0, ids.1, AtFlags::EMPTY_PATH)?;
    }
    match rustix::fs::unlinkat(&folder, name, AtFlags::empty()) {
        Err(error) if error != rustix::io::Errno::NOENT => return Err(error.into()),
        _ => {}
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = if file.secret { Mode::RUSR | Mode::WUSR } else { Mode::from(0o644) };
    let mut opened = fs::File::from(rustix::fs::openat(&folder, name, flags, mode)?);
    // Whatever the agent's umask is.
    opened.set_permissions(fs::Permissions::from_mode(mode.bits()))?;
    rustix::fs::fchown(&opened, ids.0, ids.1)?;
    opened.write_all(file.text.as_bytes())
}

/// Removes a file of the agent's own from a folder of a workspace; through a link that a build put in the folder's place it
/// removes nothing. Blocking.
///
/// # Errors
/// When it is not there, or its folder is a link.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty())?;
    Ok(rustix::fs::unlinkat(&folder, name, AtFlags::empty())?)
}

/// A folder in a checked-out tree, as a path without links; `what` names it.
///
/// # Errors
/// `unsafe_tree` when there is no such folder, or a link leads out of the tree.
pub(crate) fn folder_beneath(tree: &Path, folder: &str, what: &str) -> Result<PathBuf, Failure> {
    beneath(tree, folder).map_err(|error| {
        let problem = match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
            Some(rustix::io::Errno::NOENT) => "is not in this commit",
            Some(rustix::io::Errno::NOTDIR) => "is not a folder",
            Some(rustix::io::Errno::XDEV | rustix::io::Errno::LOOP) => {
                "is a link that leads out of the repository"
            }
            _ => {
                let detail = format!("cannot open {what}: {error}");
                return Failure::new(Step::Fetch, FailureReason::Internal, detail);
            }
        };
        Failure::new(Step::Fetch, FailureReason::UnsafeTree, format!("{what} {problem}"))
    })
}

/// Opens a folder beneath another and says where it really is.
fn beneath(tree: &Path, subdir: &str) -> io::Result<PathBuf> {
    let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::open(tree, folder | OFlags::NOFOLLOW, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(&top, subdir, folder, Mode::empty(), resolve) {
        Ok(found) => {
            use std::os::fd::AsRawFd as _;
            fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))
        }
        // Kernels before 5.6, and sandboxes that do not know the call.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => beneath_by_name(tree, subdir),
        Err(error) => Err(error.into()),
    }
}

fn beneath_by_name(tree: &Path, subdir: &str) -> io::Result<PathBuf> {
    let found = tree.join(subdir).canonicalize()?;
    if !found.starts_with(tree.canonicalize()?) {
        return Err(rustix::io::Errno::XDEV.into());
    }
    if !found.is_dir() {
        return Err(rustix::io::Errno::NOTDIR.into());
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
