//! Opens the database of a data folder, or says why not. Nothing here makes a new database where there was one.
//!
//! Called by [`Store`](super::Store). What is looked at, in this order, before anything is changed:
//!
//! | the file | with a mark, or with job logs beside it | else |
//! | --- | --- | --- |
//! | is not there | `database_missing` | it is made |
//! | is empty | `database_empty` | it is made |
//! | is no SQLite file, or another program's | `not_our_database` | the same |
//! | has a newer schema | `newer_database` | the same |
//! | has another identity than the mark names | `other_database` | (without a mark it is taken as it is) |
//! | ends before the event that the mark names | `database_behind` | |
//! | is not sound | `database_damaged` | the same |
//!
//! Whether it is sound is looked at when the last owner was killed, up to [`CHECKED`] bytes (0.3 s for each 100 MB; a database
//! with 10,000 deployments has about that); in a larger one damage is found when the damaged page is read.
//!
//! `database_behind` is what a removed, cut or older write-ahead log looks like: SQLite itself would show the last checkpoint
//! and say nothing. Exactly: no event that was committed goes missing unnoticed, unless the machine lost power (then those of the
//! last seconds may, if someone has removed the log too). Tokens, sign-in codes and sessions are no events and are not counted.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::error::wal;
use super::mark::{self, Mark, Noted};
use super::{BUSY, SCHEMA, StoreError};

/// A larger database is not looked through at start.
const CHECKED: u64 = 512 << 20;
pub(crate) const FILE: &str = "sdp.db";
/// As in `schema_2.sql`.
const APPLICATION: i64 = 1_396_985_857;
/// Where a restore puts its files until they are all there.
pub(crate) const UNFINISHED: &str = "restore.part";

/// An open database.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) path: PathBuf,
    /// The owner's; none in a process that works beside the owner.
    pub(super) mark: Option<(Mark, Noted)>,
    pub(super) place: Place,
}

/// Opens it as the owner of the folder, making it if there never was one.
pub(super) fn own(folder: &Path, mark: Mark) -> Result<Opened, StoreError> {
    let path = folder.join(FILE);
    let noted = mark.read()?;
    let had_one = noted.is_some() || has_logs(folder) || folder.join(UNFINISHED).exists();
    let length = match std::fs::metadata(&path) {
        Ok(found) if found.len() > 0 => found.len(),
        Ok(_) if had_one => return Err(StoreError::Empty { path }),
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(StoreError::from_io("look at", &path, error));
        }
        Err(_) if had_one => return Err(StoreError::Missing { path }),
        Ok(_) | Err(_) => 0,
    };
    let is_there = length > 0;
    let open = || -> Result<(Connection, Noted), StoreError> {
        let mut connection =
            connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        if is_there {
            let found = recognise(&connection, &path)?;
            if let Some(noted) = &noted {
                compare(&connection, &path, found, noted)?;
            }
        }
        let ended = noted.as_ref().is_some_and(|noted| noted.ended);
        if is_there && !ended && length <= CHECKED {
            check(&connection, &path)?;
        }
        configure(&connection)?;
        migrate(&mut connection)?;
        let noted = Noted {
            database: identity(&connection)?.unwrap_or_default(),
            events: newest_event(&connection)?,
            ended: false,
        };
        Ok((connection, noted))
    };
    let (connection, noted) = open().map_err(|error| error.at(&path))?;
    mark.write(&noted)?;
    mark.sync()?;
    let place = Place::of(&path)?;
    Ok(Opened { connection, path, mark: Some((mark, noted)), place })
}

/// Opens it beside its owner. Nothing is made and no schema changed.
pub(super) fn beside(folder: &Path) -> Result<Opened, StoreError> {
    let path = folder.join(FILE);
    let open = || {
        let connection = inspect(folder, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        configure(&connection)?;
        Ok::<_, StoreError>(connection)
    };
    let connection = open().map_err(|error| error.at(&path))?;
    let place = Place::of(&path)?;
    Ok(Opened { connection, path, mark: None, place })
}

/// A connection to the database of a folder that must have one, of this version.
pub(super) fn inspect(folder: &Path, access: OpenFlags) -> Result<Connection, StoreError> {
    let path = folder.join(FILE);
    match std::fs::metadata(&path) {
        Ok(found) if found.len() == 0 => return Err(StoreError::Empty { path }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StoreError::Missing { path }),
        Err(error) => return Err(StoreError::from_io("look at", &path, error)),
        Ok(_) => {}
    }
    let connection = connect(&path, access)?;
    let look = || {
        let found = recognise(&connection, &path)?;
        if let Some(noted) = mark::look(folder) {
            compare(&connection, &path, found, &noted)?;
        }
        if found < known_schema() {
            return Err(StoreError::Older { path: path.clone(), found, known: known_schema() });
        }
        Ok(())
    };
    look().map_err(|error| error.at(&path))?;
    Ok(connection)
}

pub(super) fn connect(path: &Path, access: OpenFlags) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY)?;
    Ok(connection)
}

fn has_logs(folder: &Path) -> bool {
    std::fs::read_dir(folder.join("logs")).is_ok_and(|mut entries| entries.next().is_some())
}

fn known_schema() -> i64 {
    i64::try_from(SCHEMA.len()).unwrap_or(i64::MAX)
}

/// Whether it is ours and can be read by this version; its schema.
pub(super) fn recognise(connection: &Connection, path: &Path) -> Result<i64, StoreError> {
    let foreign = |what| StoreError::Foreign { path: path.to_owned(), what };
    let application: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables: Vec<String> = connection
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    if application != APPLICATION && application != 0 {
        return Err(foreign("its application_id is another program's"));
    }
    if found > known_schema() {
        return Err(StoreError::Newer { path: path.to_owned(), found, known: known_schema() });
    }
    // A file that was begun and never finished has no table at all.
    let ours = found > 0 && tables.iter().any(|name| name == "event");
    if !ours && !tables.is_empty() {
        return Err(foreign("it has the tables of another program"));
    }
    Ok(found)
}

fn configure(connection: &Connection) -> Result<(), StoreError> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for (version, script) in (1..).zip(SCHEMA).skip(usize::try_from(found).unwrap_or(0)) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(script)?;
        transaction.pragma_update(None, "user_version", version)?;
        transaction.commit()?;
    }
    connection.execute(
        "INSERT OR IGNORE INTO identity (one, id, seq_floor, number_floor) VALUES (1, ?1, 0, 0)",
        [uuid::Uuid::now_v7().to_string()],
    )?;
    Ok(())
}

pub(super) fn identity(connection: &Connection) -> Result<Option<String>, StoreError> {
    Ok(connection.query_row("SELECT id FROM identity", [], |row| row.get(0)).optional()?)
}

/// The number of the newest event, or from where they go on.
pub(super) fn newest_event(connection: &Connection) -> Result<u64, StoreError> {
    let sql = "SELECT max(coalesce((SELECT max(seq) FROM event), 0), (SELECT seq_floor FROM identity))";
    let newest: i64 = connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
    Ok(newest.unsigned_abs())
}

/// Whether it is the database that the mark names, and has all that the mark knows of.
fn compare(connection: &Connection, path: &Path, schema: i64, noted: &Noted) -> Result<(), StoreError> {
    let path = path.to_owned();
    // With its log it may have lost even its tables.
    if schema == 0 {
        return Err(StoreError::Empty { path });
    }
    // The first version had no identity, and no mark.
    let found = if schema < 2 { None } else { identity(connection)? };
    let newest = if found.is_none() { 0 } else { newest_event(connection)? };
    match found {
        Some(found) if found != noted.database => {
            Err(StoreError::Other { path, found, expected: noted.database.clone() })
        }
        Some(_) if newest >= noted.events => Ok(()),
        _ => Err(StoreError::Behind { path, found: newest, committed: noted.events }),
    }
}

/// Goes through the whole file.
pub(super) fn check(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let found: String = connection.pragma_query_value(None, "quick_check", |row| row.get(0))?;
    if found == "ok" {
        return Ok(());
    }
    Err(StoreError::Damaged { path: path.to_owned(), problem: found })
}

/// Lets a database that is behind its mark be taken as it is, and moves its numbers on; the newest event that it has, and
/// the newest that is known to have been committed.
pub(super) fn accept_loss(folder: &Path, mark: &Mark) -> Result<(u64, u64), StoreError> {
    let path = folder.join(FILE);
    let Some(noted) = mark.read()? else { return Err(StoreError::Missing { path }) };
    let accept = || {
        let connection = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let found = recognise(&connection, &path)?;
        check(&connection, &path)?;
        compare(&connection, &path, found, &Noted { events: 0, ..noted.clone() })?;
        let newest = newest_event(&connection)?;
        if newest < noted.events {
            move_on(&connection, noted.events)?;
            mark.write(&Noted { events: newest_event(&connection)?, ended: true, ..noted.clone() })?;
            mark.sync()?;
        }
        Ok::<_, StoreError>(newest)
    };
    let newest = accept().map_err(|error| error.at(&path))?;
    Ok((newest, noted.events))
}

/// So many events are left out after a restore: whoever follows the feed has seen fewer than that since the backup.
const EVENTS_LEFT_OUT: u64 = 1_000_000;
/// The next deployment gets a number after a multiple of this.
const NUMBERS_LEFT_OUT: u64 = 1_000;

/// What was given out after the state of this database is not given out a second time: a reader of the feed that is
/// ahead of it misses nothing, and a deployment's number in somebody's chat means no other deployment.
pub(super) fn move_on(connection: &Connection, at_least: u64) -> Result<(), StoreError> {
    let seq = newest_event(connection)?.max(at_least) + EVENTS_LEFT_OUT;
    let number: i64 = connection.query_row(
        "SELECT max(coalesce((SELECT max(number) FROM deployment), 0), (SELECT number_floor FROM identity))",
        [],
        |row| row.get(0),
    )?;
    let number = (number.unsigned_abs() / NUMBERS_LEFT_OUT + 1) * NUMBERS_LEFT_OUT;
    let int = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    connection.execute("UPDATE identity SET seq_floor = ?1, number_floor = ?2", [int(seq), int(number)])?;
    Ok(())
}

/// Where the files of an open database are. SQLite goes on writing to files that were removed, and what it writes then is lost.
#[derive(Debug)]
pub(super) struct Place {
    files: Vec<(PathBuf, (u64, u64))>,
}

impl Place {
    fn of(path: &Path) -> Result<Self, StoreError> {
        let file = |path: PathBuf| {
            let found = std::fs::metadata(&path);
            let found = found.map_err(|error| StoreError::from_io("look at", &path, error))?;
            Ok::<_, StoreError>((path, id(&found)))
        };
        Ok(Self { files: vec![file(path.to_owned())?, file(wal(path))?] })
    }

    /// Two looks at the folder.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        for (path, expected) in &self.files {
            let found = std::fs::metadata(path);
            if !found.is_ok_and(|found| id(&found) == *expected) {
                return Err(StoreError::Gone { path: path.clone() });
            }
        }
        Ok(())
    }
}

fn id(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}
