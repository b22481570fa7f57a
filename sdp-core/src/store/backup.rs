//! The database's part of a backup and of a restore. Everything here blocks.

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
        Ok::<_, StoreError>(Contents {
            database: open::identity(&connection)?.unwrap_or_default(),
            newest_event: open::newest_event(&connection)?,
            deployments,
            tokens: tokens.unsigned_abs(),
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
    /// Takes a folder that exists.
    pub(crate) fn take(folder: &Path) -> Result<Self, StoreError> {
        let Some(mark) = Mark::take(folder)? else {
            return Err(StoreError::InUse { folder: folder.to_owned() });
        };
        let entries =
            std::fs::read_dir(folder).map_err(|error| StoreError::from_io("read", folder, error))?;
        let only_mark = entries.flatten().all(|entry| entry.file_name() == MARK);
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
        std::fs::rename(&part, &file).map_err(|error| StoreError::from_io("rename", &part, error))?;
        let marked =
            self.mark.write(&Noted { database, events, ended: true }).and_then(|()| self.mark.sync());
        if let Err(error) = marked {
            // A database without its mark would be taken as it is, without the logs that the caller takes back.
            drop(std::fs::rename(&file, &part));
            return Err(error.into());
        }
        Ok(events)
    }
}
