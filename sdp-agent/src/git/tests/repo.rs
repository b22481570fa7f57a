//! Makes repositories, also such as git itself would refuse to make.

use std::io::Write;
use std::path::Path;

use git2::{ObjectType, Oid, Repository, RepositoryInitOptions, Signature, Time};
use sdp_core::name::CommitId;

pub(super) struct Repo {
    pub(super) git: Repository,
}

/// A file of a commit: path and content. A path that ends in `*` is executable, one that ends in `@` a link.
pub(super) type Files<'a> = &'a [(&'a str, &'a str)];

/// An entry of a tree: mode, name and object.
pub(super) type RawEntry<'a> = (&'a str, &'a [u8], Oid);

impl Repo {
    pub(super) fn bare(path: &Path) -> Self {
        let mut options = RepositoryInitOptions::new();
        options.bare(true).mkpath(true).initial_head("main").external_template(false);
        Self { git: Repository::init_opts(path, &options).expect("init") }
    }

    /// A commit on top of the branch as it is.
    pub(super) fn commit(&self, branch: &str, subject: &str, files: Files<'_>) -> CommitId {
        let parent = self.git.refname_to_id(&format!("refs/heads/{branch}")).ok();
        self.commit_on(branch, parent, subject, files)
    }

    /// A commit that replaces the branch, as a forced push does.
    pub(super) fn force(&self, branch: &str, subject: &str, files: Files<'_>) -> CommitId {
        self.commit_on(branch, None, subject, files)
    }

    fn commit_on(&self, branch: &str, parent: Option<Oid>, subject: &str, files: Files<'_>) -> CommitId {
        let mut index = git2::Index::new().expect("index");
        for (path, content) in files {
            let (path, mode) = match (path.strip_suffix('*'), path.strip_suffix('@')) {
                (Some(path), _) => (path, 0o100_755),
                (_, Some(path)) => (path, 0o120_000),
                _ => (*path, 0o100_644),
            };
            let id = self.git.blob(content.as_bytes()).expect("blob");
            let zero = git2::IndexTime::new(0, 0);
            let entry = git2::IndexEntry {
                ctime: zero,
                mtime: zero,
                dev: 0,
                ino: 0,
                mode,
                uid: 0,
                gid: 0,
                file_size: 0,
                id,
                flags: 0,
                flags_extended: 0,
                path: path.as_bytes().to_vec(),
            };
            index.add(&entry).expect(path);
        }
        let tree = index.write_tree_to(&self.git).expect("tree");
        self.commit_tree(branch, parent, subject, tree)
    }

    pub(super) fn commit_tree(
        &self,
        branch: &str,
        parent: Option<Oid>,
        subject: &str,
        tree: Oid,
    ) -> CommitId {
        let who = Signature::new("Åsa Berg", "asa@example.com", &Time::new(1_700_000_000, 0)).expect("who");
        // Written as data, so that trees that git would not accept can be committed too.
        let parent = parent.map(|id| format!("parent {id}\n")).unwrap_or_default();
        let text = format!(
            "tree {tree}\n{parent}author {} <asa@example.com> 1700000000 +0000\ncommitter {} <asa@example.com> 1700000000 +0000\n\n{subject}\n",
            who.name().expect("name"),
            who.name().expect("name"),
        );
        let id = self.git.odb().expect("odb").write(ObjectType::Commit, text.as_bytes()).expect("commit");
        self.git.reference(&format!("refs/heads/{branch}"), id, true, "").expect("branch");
        CommitId::parse(id.to_string()).expect("id")
    }

    /// A tree with exactly these entries, in this order.
    pub(super) fn raw_tree(&self, entries: &[RawEntry<'_>]) -> Oid {
        let mut bytes = Vec::new();
        for (mode, name, id) in entries {
            bytes.extend_from_slice(mode.as_bytes());
            bytes.push(b' ');
            bytes.extend_from_slice(name);
            bytes.push(0);
            bytes.extend_from_slice(id.as_bytes());
        }
        self.git.odb().expect("odb").write(ObjectType::Tree, &bytes).expect("tree")
    }

    /// Keeps the objects that `write` names in one pack: many times faster than a file for each.
    pub(super) fn in_one_pack(&self, write: impl FnOnce() -> Vec<Oid>) {
        let odb = self.git.odb().expect("odb");
        let _memory = odb.add_new_mempack_backend(1000).expect("mempack");
        let mut builder = self.git.packbuilder().expect("builder");
        for id in write() {
            builder.insert_object(id, None).expect("an object");
        }
        let mut pack = git2::Buf::new();
        builder.write_buf(&mut pack).expect("pack");
        let folder = self.git.path().join("objects/pack");
        let mut indexer = git2::Indexer::new(None, &folder, 0, false).expect("indexer");
        indexer.write_all(&pack).expect("write");
        indexer.commit().expect("commit");
    }

    pub(super) fn blob(&self, content: &str) -> Oid {
        self.git.blob(content.as_bytes()).expect("blob")
    }

    pub(super) fn tag(&self, name: &str, commit: &CommitId) {
        let id = Oid::from_str(commit.as_str()).expect("id");
        self.git.reference(&format!("refs/tags/{name}"), id, true, "").expect("tag");
    }

    pub(super) fn annotated_tag(&self, name: &str, commit: &CommitId) {
        let who = Signature::new("Åsa Berg", "asa@example.com", &Time::new(1_700_000_000, 0)).expect("who");
        let target = self.git.find_object(Oid::from_str(commit.as_str()).expect("id"), None).expect("target");
        self.git.tag(name, &target, &who, "a tag", true).expect("tag");
    }
}
