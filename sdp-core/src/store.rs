//! The SQLite store, `<data>/sdp.db`: events and rows in one transaction.
//!
//! One writer thread drains its queue into one commit (group commit): whoever waits for a write gets its answer after the
//! commit that holds it. Each write is a savepoint, so that one that fails does not take its neighbours along. Reads
//! are short and run beside the writer (WAL). `rows` has the statements; [`Store`] knows only how to run them.
//!
//! What is guaranteed:
//! - **Acknowledged is on disk**: WAL, `synchronous=FULL`, the answer comes after the commit.
//! - **One owner**: a data folder has one server, which holds the lock on its `mark`. The command line works beside it.
//! - **No silent new database**: where there was a database, a missing, empty, foreign, older or damaged file is refused
//!   with a sentence (`open` has the table). Events that were committed do not go missing unnoticed.
//! - **Nothing is acknowledged into the void**: when the database or its log is removed or replaced while it is open, writes
//!   fail with [`StoreError::Gone`] until it is back in its place. It is never made anew by a process that runs.
//! - **A full or failing disk** fails the write and nothing else; the same write can be made again.
//!
//! Limits: 1,024 writes may wait; at most 256 share a commit; a locked file is waited for 5 s, an owned folder, too.

pub(crate) mod backup;
mod error;
mod mark;
mod open;
mod rows;
mod secrets;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::{mpsc, oneshot};

pub(crate) use error::StoreError;
use mark::Mark;
use open::Opened;
pub(crate) use rows::{
    AgentRow, EventRowFilter, IdempotencyRow, JobRow, Snapshot, Writes, batch, deployment, deployments,
    instance, instances, is_routed, last_succeeded, probe, template_version, template_versions,
};
pub(crate) use secrets::{Kept, SecretRow};

const SCHEMA: &[&str] = &[
    include_str!("store/schema.sql"),
    include_str!("store/schema_2.sql"),
    include_str!("store/schema_3.sql"),
    include_str!("store/schema_4.sql"),
    include_str!("store/schema_5.sql"),
    include_str!("store/schema_6.sql"),
];
const QUEUE: usize = 1024;
const SHARE: usize = 256;
const BUSY: Duration = Duration::from_secs(5);
/// The command line holds a folder for a moment only; a server holds it as long as it runs.
const OWNED: Duration = Duration::from_secs(5);
/// Between two looks at a folder that somebody else owns.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const READERS: usize = 2;

type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
type Write = Box<dyn FnOnce(Result<&Connection, StoreError>) -> Answer + Send>;

enum Order {
    Write(Write),
    /// Answered when the file is closed and the folder given up.
    Close(oneshot::Sender<()>),
}

/// The database. Cheap to clone; the last clone closes it.
#[derive(Clone)]
pub(crate) struct Store {
    orders: mpsc::Sender<Order>,
    readers: Arc<Readers>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the database of this folder, or makes it if there never was one, and brings its schema up to date. The folder is
    /// this store's until it is closed.
    pub(crate) async fn open(folder: &Path) -> Result<Self, StoreError> {
        let mark = take(folder, |_| true).await?;
        let Some(mark) = mark else { return Err(StoreError::InUse { folder: folder.to_owned() }) };
        let folder = folder.to_owned();
        Self::start_with(move || open::own(&folder, mark)).await
    }

    /// Opens it for a moment: as its owner if nobody else is, else beside the server that runs on it.
    pub(crate) async fn open_beside(folder: &Path) -> Result<Self, StoreError> {
        // An owner that has not noted anything yet is just making the database.
        let mark = take(folder, |folder| mark::look(folder).is_none()).await?;
        let folder = folder.to_owned();
        Self::start_with(move || match mark {
            Some(mark) => open::own(&folder, mark),
            None => open::beside(&folder),
        })
        .await
    }

    async fn start_with(
        open: impl FnOnce() -> Result<Opened, StoreError> + Send + 'static,
    ) -> Result<Self, StoreError> {
        let opened = move || {
            let opened = open()?;
            let path = opened.path.clone();
            let readers = (0..READERS).map(|_| open_reader(&path)).collect::<Result<Vec<_>, _>>()?;
            Ok(Self::start(opened, Readers { pool: Mutex::new(readers), path }))
        };
        tokio::task::spawn_blocking(opened).await.map_err(|_| StoreError::Closed)?
    }

    fn start(opened: Opened, readers: Readers) -> Self {
        let (orders, queue) = mpsc::channel(QUEUE);
        // The thread ends when the last sender is gone; what was queued before is written first.
        drop(std::thread::Builder::new().name("sdp-store".into()).spawn(move || {
            let closed = write_loop(&opened, queue);
            // Whoever opens the folder next finds it closed and free.
            drop(opened);
            if let Some(closed) = closed {
                closed.send(()).ok();
            }
        }));
        Self { orders, readers: Arc::new(readers) }
    }

    /// Writes what was queued before, closes the file in an orderly way and gives up the folder. From now on writes fail with
    /// [`StoreError::Closed`]; reads go on.
    pub(crate) async fn close(&self) {
        let (closed, wait) = oneshot::channel();
        if self.orders.send(Order::Close(closed)).await.is_ok() {
            drop(wait.await);
        }
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
        self.orders.send(Order::Write(write)).await.map_err(|_| StoreError::Closed)?;
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

/// Takes the folder; none if somebody else keeps it, or if it need not be waited for.
async fn take(folder: &Path, wait: impl Fn(&Path) -> bool) -> Result<Option<Mark>, StoreError> {
    let until = Instant::now() + OWNED;
    loop {
        let mark = Mark::take(folder)?;
        if mark.is_some() || !wait(folder) || Instant::now() >= until {
            return Ok(mark);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Lets the folder's database go on as it is though events are missing from it; how many it has, and how many it had.
pub(crate) async fn accept_loss(folder: &Path) -> Result<(u64, u64), StoreError> {
    let mark = take(folder, |_| true).await?;
    let Some(mark) = mark else { return Err(StoreError::InUse { folder: folder.to_owned() }) };
    let folder = folder.to_owned();
    let accept = move || open::accept_loss(&folder, &mark);
    tokio::task::spawn_blocking(accept).await.map_err(|_| StoreError::Closed)?
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

/// Returns when nobody is left who could write, or with whom to tell that it was told to close.
fn write_loop(opened: &Opened, mut queue: mpsc::Receiver<Order>) -> Option<oneshot::Sender<()>> {
    let connection = &opened.connection;
    let mut noted = opened.mark.as_ref().map_or(0, |(_, noted)| noted.events);
    let mut answers = Vec::new();
    let mut close = None;
    while close.is_none()
        && let Some(first) = queue.blocking_recv()
    {
        let begin = || Ok(connection.execute_batch("BEGIN IMMEDIATE")?);
        let mut begun = None;
        let mut next = Some(first);
        while let Some(order) = next {
            match order {
                Order::Write(write) => {
                    let begun = begun.get_or_insert_with(|| opened.place.check().and_then(|()| begin()));
                    answers.push(write(begun.clone().map(|()| connection)));
                    // A full disk may have ended the transaction: what comes now would not be part of it.
                    let shared = answers.len() < SHARE && !connection.is_autocommit();
                    next = if shared { queue.try_recv().ok() } else { None };
                }
                Order::Close(closed) => {
                    close = Some(closed);
                    next = None;
                }
            }
        }
        let Some(begun) = begun else { continue };
        let committed = begun.and_then(|()| connection.execute_batch("COMMIT").map_err(StoreError::from));
        if committed.is_err() && !connection.is_autocommit() {
            drop(connection.execute_batch("ROLLBACK"));
        }
        if committed.is_ok() {
            note(opened, &mut noted);
        }
        for answer in answers.drain(..) {
            answer(committed.clone());
        }
    }
    end(opened);
    close
}

/// Notes how far the database is. A mark that cannot be written stays behind, which is allowed.
fn note(opened: &Opened, noted: &mut u64) {
    let Some((mark, before)) = &opened.mark else { return };
    match open::newest_event(&opened.connection) {
        Ok(newest) if newest > *noted => {
            *noted = newest;
            if let Err(error) = mark.write(&mark::Noted { events: newest, ..before.clone() }) {
                tracing::debug!(%error, "the data folder's mark could not be written");
            }
        }
        Ok(_) => {}
        Err(error) => tracing::debug!(%error, "the newest event could not be read"),
    }
}

/// Puts all into the one file, and notes that it was closed in an orderly way.
fn end(opened: &Opened) {
    let Some((mark, noted)) = &opened.mark else { return };
    let end = || {
        opened.place.check()?;
        let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
        opened.connection.query_row(checkpoint, [], |_| Ok(()))?;
        mark.write(&mark::Noted {
            events: open::newest_event(&opened.connection)?,
            ended: true,
            ..noted.clone()
        })?;
        mark.sync()
    };
    if let Err(error) = end() {
        tracing::warn!(%error, "the database could not be closed in an orderly way; the next start looks through it");
    }
}

#[cfg(test)]
mod tests;
