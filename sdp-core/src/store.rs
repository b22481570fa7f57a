//! The SQLite store, `<data>/sdp.db`: events and rows in one transaction.
//!
//! One writer thread drains its queue into one commit (group commit): whoever waits for a write gets its answer after the
//! commit that holds it. Each write is a savepoint, so that one that fails does not take its neighbours along. Reads
//! are short and run beside the writer (WAL). `rows` has the statements; [`Store`] knows only how to run them.
//!
//! Limits: 1,024 writes may wait; at most 256 share a commit; a locked file is waited for 5 s.

mod rows;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use tokio::sync::{mpsc, oneshot};

pub(crate) use rows::{
    AgentRow, EventRowFilter, IdempotencyRow, JobRow, Snapshot, Writes, deployment, deployments, instance,
    instances, is_routed, probe,
};

const SCHEMA: &[&str] = &[include_str!("store/schema.sql")];
const QUEUE: usize = 1024;
const SHARE: usize = 256;
const BUSY: Duration = Duration::from_secs(5);
const READERS: usize = 2;

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
            Self::Sqlite(_) | Self::Corrupt { .. } | Self::Closed => "storage",
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::DiskFull => "free space on the server's data folder",
            Self::Newer { .. } => "start the newer version again, or restore a backup made by this one",
            Self::Sqlite(_) | Self::Corrupt { .. } | Self::Closed => {
                "look at the server's log and the disk under its data folder"
            }
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::DiskFull,
            _ => Self::Sqlite(Arc::new(error)),
        }
    }
}

type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
type Write = Box<dyn FnOnce(Result<&Connection, StoreError>) -> Answer + Send>;

/// The database. Cheap to clone; the last clone closes it.
#[derive(Clone)]
pub(crate) struct Store {
    writes: mpsc::Sender<Write>,
    readers: Arc<Readers>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    /// Opens (or makes) the database file and brings its schema up to date.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let mut writer = Connection::open(path)?;
        configure(&writer)?;
        migrate(&mut writer, path)?;
        let readers = (0..READERS).map(|_| open_reader(path)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self::start(writer, Readers { pool: Mutex::new(readers), path: path.to_owned() }))
    }

    fn start(writer: Connection, readers: Readers) -> Self {
        let (writes, queue) = mpsc::channel(QUEUE);
        // The thread ends when the last sender is gone; what was queued before is written first.
        drop(std::thread::Builder::new().name("sdp-store".into()).spawn(move || write_loop(&writer, queue)));
        Self { writes, readers: Arc::new(readers) }
    }

    /// Runs `work` in the next commit, and answers when that commit is on disk.
    pub(crate) async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let write: Write = Box::new(move |connection| {
            let result = connection.and_then(|connection| in_savepoint(connection, work));
            Box::new(move |committed| {
                drop(answer.send(committed.and(result)));
            })
        });
        self.writes.send(write).await.map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    /// Runs a short read beside the writer.
    pub(crate) async fn read<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let readers = Arc::clone(&self.readers);
        tokio::task::spawn_blocking(move || readers.read(work)).await.map_err(|_| StoreError::Closed)?
    }
}

/// Connections for reading; one that is in use is taken out, a missing one is opened.
struct Readers {
    pool: Mutex<Vec<Connection>>,
    path: PathBuf,
}

impl Readers {
    fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let kept = self.pool.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match kept {
            Some(connection) => connection,
            None => open_reader(&self.path)?,
        };
        let result = work(&connection);
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.len() < READERS {
            pool.push(connection);
        }
        result
    }
}

fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let reader = Connection::open_with_flags(path, flags)?;
    reader.busy_timeout(BUSY)?;
    Ok(reader)
}

fn configure(connection: &Connection) -> Result<(), StoreError> {
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = i64::try_from(SCHEMA.len()).unwrap_or(i64::MAX);
    if found > known {
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    }
    for (version, script) in (1..).zip(SCHEMA).skip(usize::try_from(found).unwrap_or(0)) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(script)?;
        transaction.pragma_update(None, "user_version", version)?;
        transaction.commit()?;
    }
    Ok(())
}

fn in_savepoint<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    connection.execute_batch("SAVEPOINT w")?;
    let result = work(connection);
    let end = if result.is_ok() { "RELEASE w" } else { "ROLLBACK TO w; RELEASE w" };
    // A full disk may have ended the whole transaction already; then there is no savepoint to end.
    if let Err(error) = connection.execute_batch(end)
        && result.is_ok()
    {
        return Err(error.into());
    }
    result
}

fn write_loop(connection: &Connection, mut queue: mpsc::Receiver<Write>) {
    let mut answers = Vec::new();
    while let Some(first) = queue.blocking_recv() {
        let begun = connection.execute_batch("BEGIN IMMEDIATE").map_err(StoreError::from);
        let mut next = Some(first);
        while let Some(write) = next {
            answers.push(write(begun.clone().map(|()| connection)));
            // A full disk may have ended the transaction: what comes now would not be part of it.
            let shared = answers.len() < SHARE && !connection.is_autocommit();
            next = if shared { queue.try_recv().ok() } else { None };
        }
        let committed = begun.and_then(|()| connection.execute_batch("COMMIT").map_err(StoreError::from));
        if committed.is_err() && !connection.is_autocommit() {
            drop(connection.execute_batch("ROLLBACK"));
        }
        for answer in answers.drain(..) {
            answer(committed.clone());
        }
    }
}

#[cfg(test)]
mod tests;
