//! Objects to read commits from: those of a mirror, or those of a local repository where it lies.

use git2::{ErrorCode, ObjectType, Oid, Repository};
use sdp_core::deployment::CommitInfo;

use super::fault::{self, Fault};
use super::refs::{commit_id, short};
use super::text;

pub(super) struct Store {
    repo: Repository,
}

/// What a beginning of a commit id leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    One(Oid),
    Several(Vec<Oid>),
}

impl Store {
    pub(super) fn new(repo: Repository) -> Self {
        Self { repo }
    }

    pub(super) fn repo(&self) -> &Repository {
        &self.repo
    }

    pub(super) fn has(&self, commit: Oid) -> bool {
        self.repo.find_commit(commit).is_ok_and(|commit| commit.tree().is_ok())
    }

    /// The commits whose id begins with these lower-case digits.
    pub(super) fn find(&self, digits: &str) -> Result<Found, Fault> {
        let wrong = |error: git2::Error| fault::libgit("failed to look up a commit", &error);
        match self.repo.find_commit_by_prefix(digits) {
            Ok(commit) => return Ok(Found::One(commit.id())),
            Err(error) if error.code() == ErrorCode::NotFound => return Ok(Found::Nothing),
            // Files and folders have ids too; only commits count.
            Err(error) if error.code() == ErrorCode::Ambiguous => {}
            // It begins like one object, and that is no commit.
            Err(error) if error.class() == git2::ErrorClass::Invalid => return Ok(Found::Nothing),
            Err(error) => return Err(wrong(error)),
        }
        let odb = self.repo.odb().map_err(wrong)?;
        let mut all = Vec::new();
        odb.foreach(|id| {
            if id.to_string().starts_with(digits) {
                all.push(*id);
            }
            true
        })
        .map_err(wrong)?;
        all.retain(|id| odb.read_header(*id).is_ok_and(|(_, kind)| kind == ObjectType::Commit));
        all.sort_unstable();
        all.dedup();
        Ok(match all.len() {
            0 => Found::Nothing,
            1 => Found::One(all[0]),
            _ => Found::Several(all),
        })
    }

    pub(super) fn info(&self, commit: Oid) -> Result<CommitInfo, Fault> {
        let commit = self
            .repo
            .find_commit(commit)
            .map_err(|error| fault::libgit("failed to read the commit", &error))?;
        Ok(CommitInfo {
            author: text::one_line(commit.author().name_bytes(), 100),
            subject: text::one_line(commit.summary_bytes().unwrap_or_default(), 200),
        })
    }

    /// For people, when several commits begin alike.
    pub(super) fn describe(&self, commits: &[Oid]) -> String {
        let one = |id: &Oid| match self.info(*id) {
            Ok(info) => format!("{} ({})", short(*id), text::one_line(info.subject.as_bytes(), 40)),
            Err(_) => commit_id(*id).short().to_owned(),
        };
        commits.iter().take(5).map(one).collect::<Vec<_>>().join(", ")
    }
}
