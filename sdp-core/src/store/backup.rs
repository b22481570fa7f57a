//! The database's part of a backup and of a restore. Everything here blocks.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use rusqlite::OpenFlags;

use super::StoreError;
use super::mark::{Mark, Noted};
use super::open::{self, UNFINISHED};
use crate::id::DeploymentId;

pub(crate) use super::mark::FILE as MARK;
pub(crate) use super::open::{FILE, UNFINISHED as PART};

/// What a database holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Its identity.
    pub(crate) database: String,
    pub(crate) newest_event: u64,
    pub(crate) deployments: Vec<DeploymentId>,
    pub(crate) tokens: u64,
    /// How many values are sealed in it.
    pub(crate) sealed: u64,
}

/// Copies the database of a data folder as it is at one moment, while a server may be writing to it, and looks through the
/// copy, which is one file.
pub(crate) fn copy(folder: &Path, to: &Path) -> Result<Contents, StoreError> {
    let connection = open::inspect(folder, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let name = to.to_string_lossy();
    connection.execute("VACUUM INTO ?1", [name.as_ref()]).map_err(|error| StoreError::from(error).at(to))?;
    look_through(to)
}

/// Whether a copy is sound, and what it holds.
pub(crate) fn look_through(file: &Path) -> Result<Contents, StoreError> {
    let look = || {
        let connection = open::connect(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        open::recognise(&connection, file)?;
        open::check(&connection, file)?;
        let mut deployments = connection.prepare("SELECT id FROM deployment ORDER BY number")?;
        let deployments = deployments
            .query_map([], |row| row.get::<_, String>(0))?
            .map(|id| {
                id?.parse().map_err(|error: crate::id::InvalidId| StoreError::Corrupt {
                    table: "deployment",
                    problem: error.to_string(),
                })
            })
            .collect::<Result<_, StoreError>>()?;
        let tokens: i64 = connection.query_row("SELECT count(*) FROM token", [], |row| row.get(0))?;
        let mut sealed: i64 = 0;
        // Backups of earlier versions have neither.
        for table in ["secret", "credential"] {
            let known = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?1";
            if connection.query_row(known, [table], |row| row.get::<_, i64>(0))? > 0 {
                let count = format!("SELECT count(*) FROM {table} WHERE sealed IS NOT NULL");
                sealed += connection.query_row(&count, [], |row| row.get::<_, i64>(0))?;
            }
        }
        Ok::<_, StoreError>(Contents {
            database: open::identity(&connection)?.unwrap_or_default(),
            newest_event: open::newest_event(&connection)?,
            deployments,
            tokens: tokens.unsigned_abs(),
            sealed: sealed.unsigned_abs(),
        })
    };
    look().map_err(|error| error.at(file))
}

/// A folder that is about to be filled from a backup; nobody else can take it meanwhile.
#[derive(Debug)]
pub(crate) struct Claim {
    mark: Mark,
    /// Whether something was or is in the folder that a restore must not touch.
    pub(crate) is_empty: bool,
}

impl Claim {
    /// Whether the folder has a mark, or nothing: taking another would leave a mark in what is none of SDP's.
    pub(crate) fn is_worth_taking(folder: &Path) -> Result<bool, StoreError> {
        let entries = entries(folder)?;
        Ok(entries.is_empty() || entries.iter().any(|name| name == MARK))
    }

    /// Takes a folder that exists.
    pub(crate) fn take(folder: &Path) -> Result<Self, StoreError> {
        let Some(mark) = Mark::take(folder)? else {
            return Err(StoreError::InUse { folder: folder.to_owned() });
        };
        let only_mark = entries(folder)?.iter().all(|name| name == MARK);
        let is_empty = only_mark && mark.read()?.is_none();
        Ok(Self { mark, is_empty })
    }

    /// The database in the part folder becomes this folder's; its numbers go on above what may have been given out since.
    /// From which event they do.
    pub(crate) fn fill(&self, folder: &Path) -> Result<u64, StoreError> {
        let (part, file) = (folder.join(UNFINISHED).join(open::FILE), folder.join(open::FILE));
        let moved_on = || {
            let connection = open::connect(&part, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            open::move_on(&connection, 0)?;
            Ok::<_, StoreError>((
                open::identity(&connection)?.unwrap_or_default(),
                open::newest_event(&connection)?,
            ))
        };
        let (database, events) = moved_on().map_err(|error| error.at(&part))?;
        // The mark first: a folder that has one and no database is refused, a database without one would be taken as it is.
        let mut is_there = false;
        let put = || {
            self.mark.write(&Noted { database, events, ended: true })?;
            self.mark.sync()?;
            std::fs::rename(&part, &file).map_err(|error| StoreError::from_io("rename", &part, error))?;
            is_there = true;
            self.mark.sync()
        };
        if let Err(error) = put() {
            // Taken back in the order in which no server ever finds a database alone.
            if is_there {
                std::fs::rename(&file, &part).map_err(|error| StoreError::from_io("rename", &file, error))?;
            }
            self.mark.clear()?;
            return Err(error);
        }
        Ok(events)
    }
}

/// What is in a folder, without what a file system of its own has at its top.
fn entries(folder: &Path) -> Result<Vec<OsString>, StoreError> {
    let read = || {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if !(entry.file_name() == "lost+found" && has_nothing(&entry.path())) {
                names.push(entry.file_name());
            }
        }
        Ok(names)
    };
    read().map_err(|error| StoreError::from_io("read", folder, error))
}

/// The superuser alone may look into a real `lost+found`; then it is none of this user's.
fn has_nothing(folder: &Path) -> bool {
    match std::fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_was_not_filled_has_no_mark_and_can_be_filled_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        std::fs::create_dir_all(&old).expect("made");
        let mark = Mark::take(&old).expect("opens").expect("free");
        let old_one = open::own(&old, mark).expect("opens");
        std::fs::create_dir_all(new.join("lost+found")).expect("made");
        let claim = Claim::take(&new).expect("free");
        assert!(claim.is_empty, "lost+found is the file system's");
        std::fs::create_dir(new.join(PART)).expect("made");
        let contents = copy(&old, &new.join(PART).join(FILE)).expect("copied");
        // Something that no file can take the place of.
        std::fs::create_dir(new.join(FILE)).expect("made");
        claim.fill(&new).expect_err("there is something");
        assert_eq!(claim.mark.read().expect("reads"), None);
        assert!(new.join(PART).join(FILE).exists(), "the database is where it was");
        std::fs::remove_dir(new.join(FILE)).expect("removed");
        let events = claim.fill(&new).expect("filled");
        let noted = Noted { database: contents.database, events, ended: true };
        assert_eq!(claim.mark.read().expect("reads"), Some(noted));
        drop(old_one);
    }
}
