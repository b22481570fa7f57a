//! What the store refuses, and why: a stable code, a sentence, a next step.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::ErrorCode;

/// The database could not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The disk is full.
    #[error("the disk is full")]
    DiskFull,
    /// The file was written by a newer SDP.
    #[error("{path} was written by a newer version of SDP (schema {found}, this one knows {known})")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// A server that runs on it is of an older version.
    #[error("{path} is in use by an older version of SDP (schema {found}, this one wants {known})")]
    Older {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// Another process owns the data folder.
    #[error("another process uses the data folder {}", folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// There was a database, and its file is not there.
    #[error("{} is missing, though there was a database in this folder", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file is there and nothing is in it.
    #[error("{} is empty, though there was a database in this folder", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file is no database, or one of another program.
    #[error("{} is no database of SDP: {what}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// The file is a database of SDP, but not the one that belongs to this folder.
    #[error("{} is the database of another data folder ({found}; {expected} belongs here)", path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// Its identity.
        found: String,
        /// That of the database that was here.
        expected: String,
    },
    /// Events that were committed are not in it.
    #[error(
        "{} ends at event {found}, but {committed} were committed: its write-ahead log ({}) was removed or cut, \
         or the file is an older copy",
        path.display(), wal(path).display()
    )]
    Behind {
        /// The file.
        path: PathBuf,
        /// Its newest event.
        found: u64,
        /// The newest event that is known to have been committed.
        committed: u64,
    },
    /// The file was cut or overwritten.
    #[error("{} is damaged: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite found.
        problem: String,
    },
    /// The database, or its write-ahead log, was removed or replaced while it was open.
    #[error("{} was removed or replaced while it was in use", path.display())]
    Gone {
        /// The file.
        path: PathBuf,
    },
    /// The file system refused something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// Anything else that SQLite says.
    #[error("database: {0}")]
    Sqlite(Arc<rusqlite::Error>),
    /// A row does not hold what it should.
    #[error("a row of {table} cannot be read: {problem}")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The store has been closed.
    #[error("the database is closed")]
    Closed,
}

impl StoreError {
    /// Stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::DiskFull => "disk_full",
            Self::Newer { .. } => "newer_database",
            Self::Older { .. } => "older_server",
            Self::InUse { .. } => "data_dir_in_use",
            Self::Missing { .. } => "database_missing",
            Self::Empty { .. } => "database_empty",
            Self::Foreign { .. } => "not_our_database",
            Self::Other { .. } => "other_database",
            Self::Behind { .. } => "database_behind",
            Self::Damaged { .. } => "database_damaged",
            Self::Gone { .. } => "database_gone",
            Self::Sqlite(_) if self.is_damage() => "database_damaged",
            Self::Io { .. } | Self::Sqlite(_) | Self::Corrupt { .. } | Self::Closed => "storage",
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::DiskFull => "free space on the server's data folder",
            Self::Newer { .. } => "start the newer version again, or restore a backup made by this one",
            Self::Older { .. } => "use the server's own version, or restart the server with this one first",
            Self::InUse { .. } => "stop the other one, or give this one a data_dir of its own",
            Self::Missing { .. } | Self::Empty { .. } => {
                "put the file back, or move everything out of the folder and restore a backup into it \
                 (`sdp-server restore`); to begin anew, move everything out of the folder and start"
            }
            Self::Foreign { .. } | Self::Other { .. } => {
                "check data_dir in the configuration; the file was left as it is"
            }
            Self::Behind { .. } => {
                "put the missing file back, or move everything out of the folder and restore a backup into it \
                 (`sdp-server restore`); to go on without those events, run `sdp-server accept-loss` once"
            }
            Self::Damaged { .. } => RESTORE,
            Self::Gone { .. } => {
                "move the file back and all goes on; else stop the server and restore a backup: \
                 what is acknowledged from now on would be lost, so nothing is"
            }
            Self::Sqlite(_) if self.is_damage() => RESTORE,
            Self::Io { .. } | Self::Sqlite(_) | Self::Corrupt { .. } | Self::Closed => {
                "look at the server's log and the disk under its data folder"
            }
        }
    }

    /// Whether it is no use to start again before a person has done something about the data folder.
    #[must_use]
    pub fn needs_a_person(&self) -> bool {
        matches!(
            self,
            Self::Newer { .. }
                | Self::Older { .. }
                | Self::Missing { .. }
                | Self::Empty { .. }
                | Self::Foreign { .. }
                | Self::Other { .. }
                | Self::Behind { .. }
                | Self::Damaged { .. }
        )
    }

    /// Whether the same write can succeed later, unchanged: the disk is full or read-only, the files are away, the system
    /// has no handles or memory left.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::DiskFull | Self::Gone { .. } => true,
            Self::Sqlite(error) => matches!(
                error.sqlite_error_code(),
                Some(
                    ErrorCode::ReadOnly
                        | ErrorCode::SystemIoFailure
                        | ErrorCode::CannotOpen
                        | ErrorCode::OutOfMemory
                        | ErrorCode::DatabaseBusy
                        | ErrorCode::DatabaseLocked
                        | ErrorCode::FileLockingProtocolFailed
                        | ErrorCode::PermissionDenied
                )
            ),
            _ => false,
        }
    }

    fn is_damage(&self) -> bool {
        let Self::Sqlite(error) = self else { return false };
        matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
    }

    /// Names the file where SQLite says that it is damaged.
    pub(super) fn at(self, path: &Path) -> Self {
        match &self {
            Self::Sqlite(error) if error.sqlite_error_code() == Some(ErrorCode::NotADatabase) => {
                Self::Foreign { path: path.to_owned(), what: "it is not a SQLite file" }
            }
            Self::Sqlite(error) if self.is_damage() => {
                Self::Damaged { path: path.to_owned(), problem: error.to_string() }
            }
            _ => self,
        }
    }

    pub(crate) fn from_io(action: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull,
            _ => Self::Io { action, path: path.to_owned(), source: Arc::new(source) },
        }
    }
}

const RESTORE: &str =
    "move everything out of the folder and restore a backup into it (`sdp-server restore`); check the disk";

/// The write-ahead log of a database file.
pub(super) fn wal(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::DiskFull,
            _ => Self::Sqlite(Arc::new(error)),
        }
    }
}
