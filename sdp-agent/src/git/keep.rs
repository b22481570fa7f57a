//! Which mirrors are in use, when each was used last, and how one that nobody uses is removed.
//!
//! Every operation on a repository holds its mirror ([`Git::hold`]); a job does so from its fetch to its checkout. The
//! agent asks for [`Git::mirrors`] when its disk gets full, and removes with [`Git::remove_idle`].
//!
//! Invariant: a mirror that somebody holds is not removed; who comes later finds none, and fetches anew.

use std::fs;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use jiff::Timestamp;
use sdp_core::name::RepoUrl;

use super::source::Source;
use super::{Git, Job};
use crate::disk::{self, KeptMirror};

/// A file in the mirror whose time is that of the last use; libgit2 takes no notice of it.
const USED: &str = "sdp-used";
const ASIDE: &str = "swept";

/// Somebody uses a mirror. A local repository has none.
#[derive(Debug)]
pub struct Hold(#[expect(dead_code, reason = "it is held, not read")] Option<Arc<()>>);

impl Git {
    /// Keeps a repository's mirror from being removed.
    pub async fn hold(&self, repo: &RepoUrl) -> Hold {
        let job = Job::new(self, repo, None);
        let held = tokio::task::spawn_blocking(move || {
            let Ok(Source::Http(http)) = job.admit() else { return None };
            let inner = &job.git.inner;
            let name = http.mirror_name();
            let hold = {
                let mut holders = inner.holders.lock().unwrap_or_else(PoisonError::into_inner);
                holders.retain(|_, holder| holder.strong_count() > 0);
                let held = holders.get(&name).and_then(std::sync::Weak::upgrade);
                held.unwrap_or_else(|| {
                    let new = Arc::new(());
                    holders.insert(name.clone(), Arc::downgrade(&new));
                    new
                })
            };
            note_use(&inner.mirrors.join(name));
            Some(hold)
        });
        Hold(held.await.ok().flatten())
    }

    #[cfg(test)]
    pub(crate) fn mirror_name(&self, repo: &RepoUrl) -> Option<String> {
        match Source::admit(repo, &self.inner.config) {
            Ok(Source::Http(http)) => Some(http.mirror_name()),
            _ => None,
        }
    }

    /// The mirrors, and when each was used last. Blocks.
    pub(crate) fn mirrors(&self) -> Vec<KeptMirror> {
        let entries = fs::read_dir(&self.inner.mirrors).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| {
                let path = entry.path();
                // One that was never used counts from when its folder was written.
                let used_at = disk::touched_at(&path.join(USED)).or_else(|| disk::touched_at(&path));
                let name = entry.file_name().into_string().ok()?;
                Some(KeptMirror { name, used_at: used_at.unwrap_or(Timestamp::UNIX_EPOCH) })
            })
            .collect()
    }

    /// Removes a mirror unless somebody uses it; says whether it did. Blocks.
    pub(crate) fn remove_idle(&self, name: &str) -> bool {
        let path = self.inner.mirrors.join(name);
        let aside = path.with_extension(format!("{}.{ASIDE}", uuid::Uuid::new_v4().simple()));
        {
            let holders = self.inner.holders.lock().unwrap_or_else(PoisonError::into_inner);
            if holders.get(name).is_some_and(|holder| holder.strong_count() > 0) {
                return false;
            }
            // Quickly, while nobody can begin to use it.
            if fs::rename(&path, &aside).is_err() {
                return false;
            }
        }
        match fs::remove_dir_all(&aside) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!("failed to remove {}: {error}", aside.display());
                false
            }
        }
    }
}

fn note_use(mirror: &Path) {
    if mirror.is_dir() {
        let path = mirror.join(USED);
        drop(fs::File::options().create(true).append(true).open(&path));
        disk::touch(&path);
    }
}
