//! The mark of a data folder, `<data>/sdp.lock`: who owns the folder, which database belongs in it, and how far that was.
//!
//! ```text
//! The mark of an SDP data folder. Do not edit or delete.
//! database 01890a5d-ac96-774b-bcce-b302099a8057
//! events   00000000000000000042
//! ended    no
//! ```
//! Whoever holds the file's lock owns the folder. The owner writes the mark in place after each commit that added events,
//! without waiting for the disk: the kernel keeps it when the process is killed, and after a power cut it may be older than the
//! database, never newer, because the commit was on disk before. So a database that ends before the mark's event has lost
//! something. `ended` says whether the last owner closed the database in an orderly way.
//!
//! Writing in place needs no new block: a full disk does not keep a server from starting.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::StoreError;

pub(crate) const FILE: &str = "sdp.lock";
const TITLE: &str = "The mark of an SDP data folder. Do not edit or delete.";
/// Longer than any mark.
const MAX: u64 = 4096;

/// What a mark says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Noted {
    /// The identity of the database.
    pub(super) database: String,
    /// The newest event that is known to have been committed.
    pub(super) events: u64,
    /// Whether the last owner ended in an orderly way.
    pub(super) ended: bool,
}

impl Noted {
    fn text(&self) -> String {
        let ended = if self.ended { "yes" } else { "no " };
        format!("{TITLE}\ndatabase {}\nevents   {:020}\nended    {ended}\n", self.database, self.events)
    }

    /// None when it is empty or incomplete: then nothing has been noted yet.
    fn parse(text: &str) -> Option<Self> {
        if !text.ends_with('\n') {
            return None;
        }
        let mut lines = text.lines();
        let mut value = |key: &str| lines.next()?.strip_prefix(key).map(str::trim);
        value(TITLE)?;
        let database = value("database ")?.to_owned();
        let events = value("events ")?.parse().ok()?;
        let ended = value("ended ")? == "yes";
        (!database.is_empty()).then_some(Self { database, events, ended })
    }
}

/// What the mark of a folder says, whoever owns it.
pub(super) fn look(folder: &Path) -> Option<Noted> {
    std::fs::read_to_string(folder.join(FILE)).ok().and_then(|text| Noted::parse(&text))
}

/// A data folder that is owned; dropping it gives it up.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
    path: PathBuf,
}

impl Mark {
    /// Takes the folder, if nobody has it.
    pub(super) fn take(folder: &Path) -> Result<Option<Self>, StoreError> {
        let path = folder.join(FILE);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(|error| StoreError::from_io("open", &path, error))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { file, path })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(StoreError::from_io("lock", &path, error)),
        }
    }

    pub(super) fn read(&self) -> Result<Option<Noted>, StoreError> {
        let mut bytes = vec![0; usize::try_from(MAX).unwrap_or(0)];
        let read = self.file.read_at(&mut bytes, 0).map_err(|error| self.failed("read", error))?;
        Ok(std::str::from_utf8(&bytes[..read]).ok().and_then(Noted::parse))
    }

    /// Writes it over what was there; it is as long as any other.
    pub(super) fn write(&self, noted: &Noted) -> Result<(), StoreError> {
        self.file.write_all_at(noted.text().as_bytes(), 0).map_err(|error| self.failed("write", error))
    }

    /// Nothing is noted any more.
    pub(super) fn clear(&self) -> Result<(), StoreError> {
        self.file.set_len(0).map_err(|error| self.failed("empty", error))
    }

    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        self.file
            .sync_data()
            .and_then(|()| File::open(folder)?.sync_all())
            .map_err(|error| self.failed("sync", error))
    }

    fn failed(&self, action: &'static str, error: io::Error) -> StoreError {
        StoreError::from_io(action, &self.path, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_as_it_was_written_and_is_always_as_long() {
        let folder = tempfile::tempdir().expect("a folder");
        let mark = Mark::take(folder.path()).expect("opens").expect("free");
        assert_eq!(mark.read().expect("reads"), None);
        let noted = Noted { database: "0189".into(), events: u64::MAX, ended: false };
        mark.write(&noted).expect("writes");
        assert_eq!(look(folder.path()), Some(noted.clone()));
        let length = noted.text().len();
        let noted = Noted { events: 0, ended: true, ..noted };
        mark.write(&noted).expect("writes");
        assert_eq!(mark.read().expect("reads"), Some(noted.clone()));
        assert_eq!(noted.text().len(), length);
        mark.clear().expect("empties");
        assert_eq!(mark.read().expect("reads"), None);
        for cut in 0..length {
            assert_eq!(Noted::parse(&noted.text()[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn a_folder_has_one_owner() {
        let folder = tempfile::tempdir().expect("a folder");
        let mark = Mark::take(folder.path()).expect("opens").expect("free");
        assert!(Mark::take(folder.path()).expect("opens").is_none());
        drop(mark);
        assert!(Mark::take(folder.path()).expect("opens").is_some());
    }
}
