//! Room on the agent's disk: how much there is, and what goes first when it gets short.
//!
//! Called by [`crate::tools`], which removes what [`order`] names until enough is free, by the agent before it takes work, by
//! `exec` while a build runs, and by the preflight.
//!
//! ```text
//!   free:   0 ── floor/2 ──────── floor ─────────── low ───────────── target ──▶
//!               builds are        no new work       room is made until here
//!               stopped
//! ```
//! Invariant: what runs and the build that ran before it are never named; nor is anything that a job uses (whoever removes
//! asks again, under the lock that says so). The order is: kept builds, then caches, then mirrors, each the least recently
//! used first, for a build can be made again from the two others, and a cache more cheaply than a mirror.
//!
//! Limits: [`LOOKED_AT`] entries of a cache are looked at for when it was used last.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use jiff::Timestamp;
use sdp_core::id::DeploymentId;
use sdp_core::name::{SandboxName, ServiceName};

/// So many entries of a cache are looked at for when it was used last.
const LOOKED_AT: usize = 5000;

/// Free bytes for programs that are not root.
pub(crate) fn free(folder: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Free bytes for programs that are not root, and all bytes of the disk.
pub(crate) fn room(folder: &Path) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
}

/// Free files and folders, and how many there can be; none where the file system does not count them.
pub(crate) fn free_inodes(folder: &Path) -> io::Result<Option<(u64, u64)>> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok((stat.f_files > 0).then_some((stat.f_favail, stat.f_files)))
}

/// A kept build, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Build {
    pub(crate) deployment: DeploymentId,
    pub(crate) service: ServiceName,
    pub(crate) sandbox: SandboxName,
    pub(crate) kept_at: Timestamp,
    pub(crate) used_at: Timestamp,
    /// An instance runs it, or a job is about to.
    pub(crate) in_use: bool,
}

/// A folder of a builder's cache, e.g. `go/build`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cache {
    /// Beneath the folder of all caches: the builder's folder, and the one in it.
    pub(crate) builder: PathBuf,
    pub(crate) name: String,
    pub(crate) used_at: Timestamp,
}

/// A mirror of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptMirror {
    pub(crate) name: String,
    pub(crate) used_at: Timestamp,
}

/// What may be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Candidate {
    Build(DeploymentId),
    Cache(Cache),
    Mirror(String),
}

/// What goes first, and so on.
pub(crate) fn order(builds: &[Build], caches: Vec<Cache>, mirrors: Vec<KeptMirror>) -> Vec<Candidate> {
    let mut groups: BTreeMap<_, Vec<&Build>> = BTreeMap::new();
    for build in builds {
        groups.entry((&build.service, &build.sandbox)).or_default().push(build);
    }
    let mut spare: Vec<&Build> = Vec::new();
    for mut group in groups.into_values() {
        group.sort_by_key(|build| (build.kept_at, build.deployment));
        // One whose successor is in use is what to go back to.
        let kept = |at: usize| group[at].in_use || group.get(at + 1).is_some_and(|next| next.in_use);
        spare.extend((0..group.len()).filter(|at| !kept(*at)).map(|at| group[at]));
    }
    spare.sort_by_key(|build| (build.used_at, build.deployment));
    let mut caches = caches;
    caches.sort_by(|a, b| (a.used_at, &a.builder, &a.name).cmp(&(b.used_at, &b.builder, &b.name)));
    let mut mirrors = mirrors;
    mirrors.sort_by(|a, b| (a.used_at, &a.name).cmp(&(b.used_at, &b.name)));
    let builds = spare.into_iter().map(|build| Candidate::Build(build.deployment));
    let caches = caches.into_iter().map(Candidate::Cache);
    builds.chain(caches).chain(mirrors.into_iter().map(|mirror| Candidate::Mirror(mirror.name))).collect()
}

/// The folders of builders' caches. Blocks.
pub(crate) fn caches(root: &Path) -> Vec<Cache> {
    let folders = |path: &Path| {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        // Of the entries themselves: a build may have put a link there.
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.filter_map(|entry| entry.file_name().into_string().ok()).collect::<Vec<_>>()
    };
    let mut caches = Vec::new();
    for builder in folders(root) {
        for name in folders(&root.join(&builder)) {
            let used_at = last_used(&root.join(&builder).join(&name));
            caches.push(Cache { builder: builder.clone().into(), name, used_at });
        }
    }
    caches
}

/// When something in a folder was last read or written, as far as can be seen quickly.
fn last_used(folder: &Path) -> Timestamp {
    let mut newest = SystemTime::UNIX_EPOCH;
    let mut todo = vec![folder.to_owned()];
    let mut looked_at = 0;
    while let Some(path) = todo.pop() {
        if let Ok(meta) = fs::symlink_metadata(&path) {
            newest = newest.max(meta.modified().unwrap_or(newest));
            if meta.is_file() {
                newest = newest.max(meta.accessed().unwrap_or(newest));
            } else if meta.is_dir() {
                let entries = fs::read_dir(&path).into_iter().flatten().flatten();
                let room = LOOKED_AT.saturating_sub(looked_at + todo.len());
                todo.extend(entries.take(room).map(|entry| entry.path()));
            }
        }
        looked_at += 1;
    }
    time(newest)
}

/// When a file was written last: how the time of the last use is kept.
pub(crate) fn touched_at(file: &Path) -> Option<Timestamp> {
    Some(time(fs::symlink_metadata(file).ok()?.modified().ok()?))
}

/// Notes that something was used now.
pub(crate) fn touch(file: &Path) {
    let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
    // It then counts as used when it was last noted.
    let no_follow = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    let _ = rustix::fs::utimensat(rustix::fs::CWD, file, &times, no_follow);
}

fn time(at: SystemTime) -> Timestamp {
    Timestamp::try_from(at).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
