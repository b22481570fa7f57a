//! A repository on this machine, read as data: its refs from their files, its objects through our own mirror's handle.
//!
//! The repository itself is never opened, so neither its configuration nor its hooks nor its owner matter: a folder that
//! belongs to another user works because the agent's configuration names it, and nothing of libgit2's owner check has to
//! be switched off for the whole process.
//!
//! Limits: ref files of at most 4 KiB, `packed-refs` of at most 64 MiB, 500,000 refs, folders of refs 128 deep.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use git2::{ObjectType, Odb, OdbLookupFlags, Oid, PackBuilder, Repository};
use sdp_core::failure::FailureReason;

use super::control::Control;
use super::fault::{self, Fault, said};
use super::pkt::sha256;
use super::refs::{Ref, Refs};
use super::source::LocalSource;

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
        let wrong = |error: git2::Error| fault::local(&error);
        let odb = Odb::new().map_err(wrong)?;
        odb.add_disk_alternate(&self.git_dir.join("objects").to_string_lossy()).map_err(wrong)?;
        let repo = Repository::from_odb(odb).map_err(wrong)?;
        for tag in refs.list.iter_mut().filter(|r| r.name.starts_with("refs/tags/") && r.peeled.is_none()) {
            control.check()?;
            if let Ok(object) = repo.find_tag(tag.id) {
                tag.peeled = object.into_object().peel(git2::ObjectType::Any).ok().map(|target| target.id());
            }
        }
        Ok(())
    }

    /// Builds a pack of what leads to `want` and is not in the mirror. `handle` is a handle of the mirror that sees the
    /// local repository's objects too.
    pub(super) fn pack(
        &self,
        mirror: &Repository,
        handle: &Repository,
        want: &[Oid],
        have: &[Oid],
        limits: &Limits<'_>,
        mut each: impl FnMut(&[u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let wrong = |error: git2::Error| fault::local(&error);
        let control = limits.control;
        let odb = handle.odb().map_err(wrong)?;
        odb.add_disk_alternate(&self.git_dir.join("objects").to_string_lossy()).map_err(wrong)?;
        let mut walk = handle.revwalk().map_err(wrong)?;
        for id in want {
            walk.push(*id).map_err(|_| Fault::NotHandedOut { said: format!("it has no commit {id}") })?;
        }
        for id in have {
            // Every one is in the mirror, so it can be hidden.
            walk.hide(*id).map_err(wrong)?;
        }
        let mut builder = handle.packbuilder().map_err(wrong)?;
        builder.set_threads(0);
        let mut missing = Missing::new(mirror, handle, limits)?;
        for commit in walk {
            missing.insert_commit(commit.map_err(wrong)?, &mut builder)?;
        }
        let mut fault = None;
        let written = builder.foreach(|bytes| match control.check().and_then(|()| each(bytes)) {
            Ok(()) => true,
            Err(why) => {
                fault = Some(why);
                false
            }
        });
        match fault {
            Some(fault) => Err(fault),
            None => written.map_err(wrong),
        }
    }
}

/// What ends the building of a pack.
pub(super) struct Limits<'a> {
    pub(super) max_objects: u32,
    pub(super) control: &'a Control,
}

/// Collects the objects of commits that the mirror does not have. libgit2 would do it by itself, but it descends into
/// folders by recursion: a commit with 60,000 folders within each other overflows the stack and ends the agent.
struct Missing<'a> {
    mirror: Odb<'a>,
    handle: &'a Repository,
    limits: &'a Limits<'a>,
    seen: HashSet<Oid>,
}

impl<'a> Missing<'a> {
    fn new(mirror: &'a Repository, handle: &'a Repository, limits: &'a Limits<'a>) -> Result<Self, Fault> {
        let mirror = mirror.odb().map_err(|error| fault::libgit("failed to read the mirror", &error))?;
        Ok(Self { mirror, handle, limits, seen: HashSet::new() })
    }

    /// Whether it is to be added. What the mirror has, it has with all that it leads to.
    fn is_new(&mut self, id: Oid) -> Result<bool, Fault> {
        if !self.seen.insert(id) || self.mirror.exists_ext(id, OdbLookupFlags::NO_REFRESH) {
            return Ok(false);
        }
        if self.seen.len() as u64 > u64::from(self.limits.max_objects) {
            let most = self.limits.max_objects;
            return Err(said(
                FailureReason::RepoTooLarge,
                format!("the fetch brings more than {most} objects (max_objects)"),
            ));
        }
        Ok(true)
    }

    fn insert_commit(&mut self, commit: Oid, builder: &mut PackBuilder<'_>) -> Result<(), Fault> {
        let wrong = |error: git2::Error| fault::local(&error);
        if !self.is_new(commit)? {
            return Ok(());
        }
        builder.insert_object(commit, None).map_err(wrong)?;
        let root = self.handle.find_commit(commit).map_err(wrong)?.tree_id();
        let mut open = vec![(root, None)];
        while let Some((tree, name)) = open.pop() {
            self.limits.control.check()?;
            if !self.is_new(tree)? {
                continue;
            }
            builder.insert_object(tree, name.as_deref()).map_err(wrong)?;
            for entry in &self.handle.find_tree(tree).map_err(wrong)? {
                // The name brings files that resemble each other together.
                let name = entry.name().ok().map(str::to_owned);
                match entry.kind() {
                    Some(ObjectType::Tree) => open.push((entry.id(), name)),
                    Some(ObjectType::Blob) => {
                        if self.is_new(entry.id())? {
                            builder.insert_object(entry.id(), name.as_deref()).map_err(wrong)?;
                        }
                    }
                    // A submodule's commit is in its own repository.
                    _ => {}
                }
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
