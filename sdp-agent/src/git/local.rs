//! A repository on this machine, read as data where it lies: its refs from their files, its objects from their folder.
//!
//! The repository itself is never opened, so neither its configuration nor its hooks nor its owner matter: a folder that
//! belongs to another user works because the agent's configuration names it, and nothing of libgit2's owner check has to
//! be switched off for the whole process. Nothing is copied into a mirror either: that would cost a pack of everything
//! (measured: seconds to minutes), for objects that are on this disk already. A commit that a garbage collection there
//! has removed is gone.
//!
//! Limits: ref files of at most 4 KiB, `packed-refs` of at most 64 MiB, 500,000 refs, folders of refs 128 deep.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use git2::{Odb, Oid, Repository};
use sdp_core::failure::FailureReason;

use super::control::Control;
use super::fault::{self, Fault, said};
use super::pkt::sha256;
use super::refs::{Ref, Refs};
use super::source::LocalSource;
use super::store::Store;

const MAX_REF_FILE: u64 = 4096;
const MAX_PACKED: u64 = 64 << 20;
const MAX_REFS: usize = 500_000;
/// As deep as a name of 250 bytes can be.
const MAX_DEPTH: usize = 128;

impl LocalSource {
    pub(super) fn refs(&self, control: &Control) -> Result<Refs, Fault> {
        if self.git_dir.join("reftable").exists() {
            return Err(said(
                FailureReason::RepoNotAllowed,
                "the local repository keeps its branches as a reftable, which the agent cannot read",
            ));
        }
        let mut refs = Refs { head: self.head(), list: Vec::new() };
        let mut loose = Vec::new();
        for kind in ["refs/heads", "refs/tags"] {
            self.read_loose(kind, 0, &mut loose)?;
        }
        loose.sort_by(|a, b| a.name.cmp(&b.name));
        for packed in self.read_packed()? {
            // A loose file is newer than the packed list.
            if loose.binary_search_by(|r| r.name.cmp(&packed.name)).is_err() {
                refs.list.push(packed);
            }
        }
        refs.list.append(&mut loose);
        refs.list.sort_by(|a, b| a.name.cmp(&b.name));
        self.peel_tags(&mut refs, control)?;
        Ok(refs)
    }

    /// The repository's objects. Only they: no configuration, no refs, no owner.
    pub(super) fn store(&self) -> Result<Store, Fault> {
        let wrong = |error: git2::Error| fault::local(&error);
        let odb = Odb::new().map_err(wrong)?;
        odb.add_disk_alternate(&self.git_dir.join("objects").to_string_lossy()).map_err(wrong)?;
        Ok(Store::new(Repository::from_odb(odb).map_err(wrong)?))
    }

    fn head(&self) -> Option<String> {
        let text = read_small(&self.git_dir.join("HEAD"))?;
        text.strip_prefix("ref: ").map(|target| target.trim().to_owned())
    }

    fn read_loose(&self, at: &str, depth: usize, into: &mut Vec<Ref>) -> Result<(), Fault> {
        let Ok(entries) = fs::read_dir(self.git_dir.join(at)) else { return Ok(()) };
        for entry in entries.flatten() {
            let Ok(file_name) = entry.file_name().into_string() else { continue };
            let name = format!("{at}/{file_name}");
            // Of the entry itself: a link or a named pipe is left alone.
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() && depth < MAX_DEPTH {
                self.read_loose(&name, depth + 1, into)?;
            } else if kind.is_file()
                && let Some(text) = read_small(&entry.path())
            {
                if into.len() >= MAX_REFS {
                    return Err(too_many());
                }
                if let Some(id) = parse_id(text.trim_end())? {
                    into.push(Ref { name, id, peeled: None });
                }
            }
        }
        Ok(())
    }

    fn read_packed(&self) -> Result<Vec<Ref>, Fault> {
        let path = self.git_dir.join("packed-refs");
        if !fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file()) {
            return Ok(Vec::new());
        }
        let mut bytes = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(MAX_PACKED).read_to_end(&mut bytes))
            .map_err(|error| fault::disk("failed to read packed-refs", &error))?;
        let mut refs: Vec<Ref> = Vec::new();
        for line in bytes.split(|b| *b == b'\n').filter_map(|line| std::str::from_utf8(line).ok()) {
            if let Some(peeled) = line.strip_prefix('^') {
                if let Some(last) = refs.last_mut() {
                    last.peeled = parse_id(peeled)?;
                }
            } else if let Some((id, name)) = line.split_once(' ')
                && (name.starts_with("refs/heads/") || name.starts_with("refs/tags/"))
                && let Some(id) = parse_id(id)?
            {
                if refs.len() >= MAX_REFS {
                    return Err(too_many());
                }
                refs.push(Ref { name: name.to_owned(), id, peeled: None });
            }
        }
        Ok(refs)
    }

    /// Looks where annotated tags lead, for those of which no file says it.
    fn peel_tags(&self, refs: &mut Refs, control: &Control) -> Result<(), Fault> {
        let store = self.store()?;
        for tag in refs.list.iter_mut().filter(|r| r.name.starts_with("refs/tags/") && r.peeled.is_none()) {
            control.check()?;
            if let Ok(object) = store.repo().find_tag(tag.id) {
                tag.peeled = object.into_object().peel(git2::ObjectType::Any).ok().map(|target| target.id());
            }
        }
        Ok(())
    }
}

fn too_many() -> Fault {
    said(FailureReason::RepoTooLarge, format!("the repository has more than {MAX_REFS} branches and tags"))
}

fn read_small(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(MAX_REF_FILE).read_to_string(&mut text).ok()?;
    Some(text)
}

/// None for what is no id, such as a symbolic ref.
fn parse_id(text: &str) -> Result<Option<Oid>, Fault> {
    match text.len() {
        40 => Ok(Oid::from_str(text).ok()),
        64 if text.bytes().all(|b| b.is_ascii_hexdigit()) => Err(sha256()),
        _ => Ok(None),
    }
}
