//! Our own copy of a repository: a bare folder per repository, filled with the packs of the commits that were asked for.
//!
//! Invariant: a commit that is found here is here with everything that it leads to, because a pack is put in place only
//! when it is whole. Refs live under `refs/sdp/`, one per name that was fetched, named by a hash of that name: what a host
//! calls its branches never becomes a file name here, and `a` and `a/b` do not clash. They only say what is here already.
//! A mirror that cannot be opened or whose refs are torn is removed and made anew; it holds nothing that is not elsewhere.
//!
//! One fetch at a time (the caller holds the mirror's lock); reading needs no lock.

use std::cell::Cell;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use git2::{ErrorCode, Indexer, Oid, Repository, RepositoryInitOptions, Sort};
use sdp_core::failure::FailureReason;
use sha2::{Digest, Sha256};

use super::config::GitConfig;
use super::control::Control;
use super::fault::{self, Fault, said};
use super::store::Store;
use super::text;

/// The most commits that a request names as present.
const MAX_HAVE: usize = 256;
/// How often a line of progress is written.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
const SLOTS: &str = "refs/sdp/";

pub(super) struct Mirror {
    store: Store,
    path: PathBuf,
}

impl Mirror {
    /// What the mirror at `path` holds, if there is one that can be opened.
    pub(super) fn open(path: &Path) -> Option<Store> {
        Some(Store::new(Repository::open_bare(path).ok()?))
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// The mirror at `path`; made where there is none, made anew where it is damaged. The caller holds its lock.
    pub(super) fn open_or_create(path: &Path) -> Result<Self, Fault> {
        match Repository::open_bare(path) {
            Ok(repo) => {
                let mirror = Self { store: Store::new(repo), path: path.to_owned() };
                if mirror.is_sound() {
                    mirror.sweep();
                    return Ok(mirror);
                }
                drop(mirror);
                tracing::warn!("the mirror {} is damaged: removed, to be fetched anew", path.display());
            }
            // Whoever started the agent as another user should hear of it.
            Err(error) if error.code() == ErrorCode::Owner => {
                return Err(said(
                    FailureReason::Internal,
                    format!("the mirror {} belongs to another user than the agent's", path.display()),
                ));
            }
            Err(error) if path.exists() => {
                tracing::warn!(
                    "the mirror {} cannot be opened, removed: {}",
                    path.display(),
                    error.message()
                );
            }
            Err(_) => {}
        }
        remove(path)?;
        let mut options = RepositoryInitOptions::new();
        options.bare(true).no_reinit(true).external_template(false).initial_head("none");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| fault::disk("failed to make the folder of a mirror", &error))?;
        let repo = Repository::init_opts(path, &options)
            .map_err(|error| fault::libgit("failed to make a mirror", &error))?;
        Ok(Self { store: Store::new(repo), path: path.to_owned() })
    }

    /// Whether every ref can be read and leads to something.
    fn is_sound(&self) -> bool {
        let (Ok(odb), Ok(refs)) = (self.store.repo().odb(), self.store.repo().references_glob("refs/sdp/*"))
        else {
            return false;
        };
        refs.into_iter().all(|r| r.is_ok_and(|r| r.target().is_some_and(|id| odb.exists(id))))
    }

    /// Removes what an interrupted fetch has left.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(self.packs()) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            // A whole pack is pack-<hash>.pack and .idx; libgit2 writes to other names first.
            if !name.starts_with("pack-")
                && let Err(error) = fs::remove_file(entry.path())
            {
                tracing::warn!("failed to remove {}: {error}", entry.path().display());
            }
        }
    }

    fn packs(&self) -> PathBuf {
        self.path.join("objects/pack")
    }

    /// Remembers that what was fetched under this name is here.
    pub(super) fn keep(&self, name: &str, commit: Oid) -> Result<(), Fault> {
        let digest = Sha256::digest(name.as_bytes());
        let hash: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        self.store
            .repo()
            .reference(&format!("{SLOTS}{hash}"), commit, true, "")
            .map(drop)
            .map_err(|error| fault::libgit("failed to write to the mirror", &error))
    }

    /// Commits that are here, the newest first: the tips of all that was fetched, then what led to them.
    pub(super) fn have(&self) -> Result<Vec<Oid>, Fault> {
        let wrong = |error: git2::Error| fault::libgit("failed to read the mirror", &error);
        let mut walk = self.store.repo().revwalk().map_err(wrong)?;
        walk.set_sorting(Sort::TIME).map_err(wrong)?;
        walk.push_glob("refs/sdp/*").map_err(wrong)?;
        walk.take(MAX_HAVE).collect::<Result<_, _>>().map_err(wrong)
    }

    /// A place for a pack; nothing of it is seen before [`Receiver::finish`].
    pub(super) fn receive<'a>(
        &self,
        config: &GitConfig,
        control: &'a Control,
    ) -> Result<Receiver<'a>, Fault> {
        let mut indexer = Indexer::new(None, &self.packs(), 0, false)
            .map_err(|error| fault::libgit("failed to begin a pack", &error))?;
        indexer.progress(|_| control.is_running());
        Ok(Receiver {
            indexer,
            control,
            head: Vec::with_capacity(PACK_HEAD),
            objects: 0,
            bytes: 0,
            max_bytes: config.max_pack_bytes,
            max_objects: config.max_objects,
            began: Instant::now(),
            spoke: Cell::new(Instant::now()),
        })
    }
}

/// Removes a mirror, aside first, so that nobody finds half of it.
pub(super) fn remove(path: &Path) -> Result<(), Fault> {
    let doing = "failed to remove a damaged mirror";
    let aside = path.with_extension("removed");
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fault::disk(doing, &error)),
        _ => Ok(()),
    };
    gone(fs::remove_dir_all(&aside))?;
    gone(fs::rename(path, &aside))?;
    gone(fs::remove_dir_all(&aside))
}

/// Signature, version and number of objects.
const PACK_HEAD: usize = 12;

/// Takes a pack piece by piece. Dropped unfinished, it leaves nothing.
pub(super) struct Receiver<'a> {
    indexer: Indexer<'a>,
    control: &'a Control,
    head: Vec<u8>,
    objects: u32,
    bytes: u64,
    max_bytes: u64,
    max_objects: u32,
    began: Instant,
    spoke: Cell<Instant>,
}

impl Receiver<'_> {
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.control.check()?;
        self.read_head(bytes)?;
        self.bytes += bytes.len() as u64;
        if self.bytes > self.max_bytes {
            return Err(said(
                FailureReason::RepoTooLarge,
                format!("the fetch brings more than {} (max_pack_bytes)", text::size(self.max_bytes)),
            ));
        }
        self.indexer.write_all(bytes).map_err(|error| self.wrong(&error))?;
        if self.spoke.get().elapsed() >= PROGRESS_EVERY {
            self.spoke.set(Instant::now());
            self.control.line(&format!("receiving {} objects: {}", self.objects, text::size(self.bytes)));
        }
        Ok(())
    }

    /// The number of objects stands at the beginning, and libgit2 makes room for that many at once.
    fn read_head(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if self.head.len() == PACK_HEAD {
            return Ok(());
        }
        let missing = PACK_HEAD - self.head.len();
        self.head.extend_from_slice(&bytes[..missing.min(bytes.len())]);
        if let Some((b"PACK", rest)) = self.head.split_first_chunk::<4>()
            && let Some(count) = rest.last_chunk::<4>()
            && self.head.len() == PACK_HEAD
        {
            self.objects = u32::from_be_bytes(*count);
            if self.objects > self.max_objects {
                return Err(said(
                    FailureReason::RepoTooLarge,
                    format!(
                        "the fetch brings {} objects, more than {} (max_objects)",
                        self.objects, self.max_objects
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Puts the pack in place.
    pub(super) fn finish(self) -> Result<(), Fault> {
        self.control.check()?;
        if self.head.len() < PACK_HEAD || self.objects == 0 {
            // A host has nothing to send when all is here already.
            return Ok(());
        }
        let (objects, bytes, began, control) = (self.objects, self.bytes, self.began, self.control);
        self.indexer.commit().map_err(|error| broken_pack(&error))?;
        let seconds = began.elapsed().as_secs_f64();
        control.line(&format!("received {objects} objects, {} in {seconds:.1} s", text::size(bytes)));
        Ok(())
    }

    fn wrong(&self, error: &io::Error) -> Fault {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<git2::Error>()) {
            Some(error) => broken_pack(error),
            None => fault::disk("failed to write a pack", error),
        }
    }
}

/// While a pack is taken in, a fault that is not the disk's lies in what was sent.
fn broken_pack(error: &git2::Error) -> Fault {
    match fault::libgit("failed to write a pack", error) {
        Fault::Said { reason: FailureReason::DiskFull, detail } => said(FailureReason::DiskFull, detail),
        _ => said(
            FailureReason::GitUnreachable,
            format!("the pack that was sent is broken: {}", error.message()),
        ),
    }
}
