//! A commit's files into an empty folder, with every limit and every name looked at before the first byte is written.
//!
//! Files come out byte for byte as they were committed: no filter, no line-end conversion, no hook, no submodule, no LFS
//! download, and no `.git`. Links are made as they are; who reads the tree later refuses those that leave it. Names are
//! such that no entry can be written through another: within a folder every name occurs once, and files and folders are
//! only ever created, never opened.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use git2::{ObjectType, Oid, Repository};
use sdp_core::failure::FailureReason;

use super::config::GitConfig;
use super::control::Control;
use super::fault::{self, Fault, said};
use super::text;

/// The longest path inside the folder, in bytes; Linux ends at 4096 with the folder's own.
const MAX_PATH: usize = 3000;
/// The longest name of one file, in bytes.
const MAX_NAME: usize = 255;
/// The longest target of a link, in bytes.
const MAX_LINK: usize = 4095;
/// How much of a `.gitattributes` is looked at for LFS.
const MAX_ATTRIBUTES: usize = 256 * 1024;

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckoutInfo {
    /// Files and links.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The commit names submodules; their folders are left empty.
    pub has_submodules: bool,
    /// The commit keeps files in Git LFS; they are left as pointers.
    pub has_lfs: bool,
}

enum Kind {
    Folder,
    File { executable: bool },
    Link,
}

struct Entry {
    path: PathBuf,
    kind: Kind,
    id: Oid,
}

/// What is to be written; nothing has been yet.
pub(super) struct Plan {
    entries: Vec<Entry>,
    info: CheckoutInfo,
}

/// Walks the commit's tree and holds it against the limits.
pub(super) fn plan(
    repo: &Repository,
    commit: Oid,
    config: &GitConfig,
    control: &Control,
) -> Result<Plan, Fault> {
    let wrong = |error: git2::Error| fault::libgit("failed to read the commit's files", &error);
    let odb = repo.odb().map_err(wrong)?;
    let root = repo.find_commit(commit).map(|commit| commit.tree_id()).map_err(wrong)?;
    let mut plan = Plan { entries: Vec::new(), info: CheckoutInfo::default() };
    let mut open = vec![(root, PathBuf::new(), 0_usize)];
    while let Some((tree, path, depth)) = open.pop() {
        control.check()?;
        if depth > config.max_depth {
            return Err(too_large(format!(
                "its folders lie more than {} deep (max_depth)",
                config.max_depth
            )));
        }
        let tree = repo.find_tree(tree).map_err(wrong)?;
        let mut names = HashSet::new();
        for entry in &tree {
            let name = entry.name_bytes();
            if !is_plain(name) || !names.insert(name.to_vec()) {
                return Err(unsafe_name(&path, name));
            }
            let path = path.join(OsStr::from_bytes(name));
            if path.as_os_str().len() > MAX_PATH {
                return Err(too_large(format!("it has a path of more than {MAX_PATH} bytes")));
            }
            let kind = match entry.filemode() {
                0o040_000 => {
                    open.push((entry.id(), path.clone(), depth + 1));
                    Kind::Folder
                }
                0o160_000 => {
                    plan.info.has_submodules = true;
                    Kind::Folder
                }
                0o120_000 => Kind::Link,
                mode => Kind::File { executable: mode & 0o111 != 0 },
            };
            if !matches!(kind, Kind::Folder) {
                let (size, object) = odb.read_header(entry.id()).map_err(wrong)?;
                if object != ObjectType::Blob {
                    return Err(Fault::Damaged { detail: format!("{} is no file", entry.id()) });
                }
                if matches!(kind, Kind::Link) && size > MAX_LINK {
                    return Err(unsafe_name(&path, b"(a link that is too long)"));
                }
                plan.info.files += 1;
                plan.info.bytes += size as u64;
                if plan.info.bytes > config.max_tree_bytes {
                    let most = text::size(config.max_tree_bytes);
                    return Err(too_large(format!(
                        "its files have more than {most} together (max_tree_bytes)"
                    )));
                }
                if name == b".gitattributes" && !plan.info.has_lfs && size <= MAX_ATTRIBUTES {
                    let blob = repo.find_blob(entry.id()).map_err(wrong)?;
                    plan.info.has_lfs = blob.content().windows(10).any(|window| window == b"filter=lfs");
                }
            }
            plan.entries.push(Entry { path, kind, id: entry.id() });
            if plan.entries.len() as u64 > config.max_files {
                return Err(too_large(format!(
                    "it has more than {} files and folders (max_files)",
                    config.max_files
                )));
            }
        }
    }
    Ok(plan)
}

impl Plan {
    /// Writes everything into a folder that is not there yet or empty. What was written is removed again on a fault.
    pub(super) fn write(
        &self,
        repo: &Repository,
        into: &Path,
        control: &Control,
    ) -> Result<CheckoutInfo, Fault> {
        let empty = match fs::create_dir_all(into).and_then(|()| fs::read_dir(into)) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) => return Err(fault::disk("failed to make the folder for the files", &error)),
        };
        if !empty {
            return Err(said(FailureReason::Internal, format!("{} is not empty", into.display())));
        }
        let written = self.write_all(repo, into, control);
        if written.is_err()
            && let Err(error) = fs::remove_dir_all(into)
        {
            tracing::warn!("failed to remove the half-written folder {}: {error}", into.display());
        }
        written.map(|()| self.info)
    }

    fn write_all(&self, repo: &Repository, into: &Path, control: &Control) -> Result<(), Fault> {
        let wrong = |error: git2::Error| fault::libgit("failed to read the commit's files", &error);
        // A folder stands before what is in it.
        for entry in &self.entries {
            control.check()?;
            let path = into.join(&entry.path);
            let made = match entry.kind {
                Kind::Folder => fs::create_dir(&path),
                Kind::Link => {
                    let blob = repo.find_blob(entry.id).map_err(wrong)?;
                    symlink(OsStr::from_bytes(blob.content()), &path)
                }
                Kind::File { executable } => {
                    let blob = repo.find_blob(entry.id).map_err(wrong)?;
                    create(&path, executable).and_then(|mut file| file.write_all(blob.content()))
                }
            };
            made.map_err(|error| {
                fault::disk(
                    &format!("failed to write {}", text::one_line(entry.path.as_os_str().as_bytes(), 100)),
                    &error,
                )
            })?;
        }
        Ok(())
    }
}

/// A new file; never one that is there, never through a link.
fn create(path: &Path, executable: bool) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(if executable { 0o755 } else { 0o644 }).open(path)
}

fn is_plain(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME
        && name != b"."
        && name != b".."
        && !name.eq_ignore_ascii_case(b".git")
        && !name.contains(&b'/')
        && !name.contains(&0)
}

fn too_large(detail: String) -> Fault {
    said(FailureReason::RepoTooLarge, format!("the commit is too large: {detail}"))
}

fn unsafe_name(folder: &Path, name: &[u8]) -> Fault {
    said(
        FailureReason::UnsafeTree,
        format!(
            "the commit has an entry that cannot be written safely: {} in /{}",
            text::one_line(name, 60),
            text::one_line(folder.as_os_str().as_bytes(), 100)
        ),
    )
}
