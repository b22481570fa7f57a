//! What is written of a job beside its lines: its order (never with a credential) and its progress, each before anybody hears of it.
//!
//! ```text
//!   <spool>/<deployment>-<attempt>/job         the order without credential and secrets, as JSON; whole or not there
//!                                  progress    one item a line, as JSON; a torn last line is cut
//!                                  lines       see `log`
//! ```
//! Called by [`super::log`] and, for what an earlier life left, by [`super::recover`].

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use sdp_core::wire::{JobSpec, Progress};
use serde::{Deserialize, Serialize};

const JOB: &str = "job";
const PROGRESS: &str = "progress";
/// The longest of either file that is read, in bytes.
const LONGEST: u64 = 16 << 20;

/// A job as it was ordered, but for its credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct JobRecord {
    pub(super) spec: JobSpec,
    /// How many times the work was begun.
    pub(super) begun: u32,
    /// Its order had secrets of the service.
    #[serde(default)]
    pub(super) has_secrets: bool,
}

/// An item of progress.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ProgressItem {
    pub(super) number: u64,
    pub(super) after_line: u64,
    pub(super) what: Progress,
    /// With the last item: how many lines are missing from the log.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) dropped: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// An item of progress, and where in the file it ends.
#[derive(Debug)]
pub(super) struct Written {
    end: u64,
    pub(super) item: ProgressItem,
}

#[derive(Debug)]
pub(super) struct Journal {
    folder: PathBuf,
    record: JobRecord,
    progress: File,
}

impl Journal {
    /// Begins one, on disk when this returns. Blocking.
    pub(super) fn create(folder: &Path, spec: JobSpec, has_secrets: bool) -> io::Result<Self> {
        let record = JobRecord { spec, begun: 1, has_secrets };
        let progress = private().create(true).truncate(true).write(true).open(folder.join(PROGRESS))?;
        write_record(folder, &record)?;
        Ok(Self { folder: folder.to_owned(), record, progress })
    }

    /// What an earlier life wrote, and the progress in it; none where the order is not there. Blocking.
    pub(super) fn open(folder: &Path) -> io::Result<Option<(Self, Vec<Written>)>> {
        let Some(text) = read(&folder.join(JOB))? else { return Ok(None) };
        let record = serde_json::from_slice(&text)?;
        let text = read(&folder.join(PROGRESS))?.unwrap_or_default();
        let mut items: Vec<Written> = Vec::new();
        let mut end = 0;
        for line in text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            end += line.len() as u64;
            match serde_json::from_slice::<ProgressItem>(line) {
                Ok(item) if item.number == items.len() as u64 + 1 => items.push(Written { end, item }),
                _ => break,
            }
        }
        let progress = private().create(true).append(true).open(folder.join(PROGRESS))?;
        Ok(Some((Self { folder: folder.to_owned(), record, progress }, items)))
    }

    /// Cuts the progress behind these items.
    pub(super) fn cut(&mut self, items: &[Written]) -> io::Result<()> {
        self.progress.set_len(items.last().map_or(0, |last| last.end))
    }

    pub(super) fn record(&self) -> &JobRecord {
        &self.record
    }

    /// Counts another beginning; it is to be written.
    pub(super) fn begin_again(&mut self) -> Begun {
        self.record.begun += 1;
        Begun { folder: self.folder.clone(), record: self.record.clone() }
    }

    /// The file of the progress, to be brought to disk.
    pub(super) fn progress(&self) -> io::Result<File> {
        self.progress.try_clone()
    }

    pub(super) fn append(&mut self, item: &ProgressItem) -> io::Result<()> {
        let mut text = serde_json::to_vec(item)?;
        text.push(b'\n');
        self.progress.write_all(&text)
    }
}

/// An order with another beginning.
#[must_use]
pub(super) struct Begun {
    folder: PathBuf,
    record: JobRecord,
}

impl Begun {
    /// Writes it, on disk when this returns. Blocking.
    pub(super) fn write(&self) -> io::Result<()> {
        write_record(&self.folder, &self.record)
    }
}

fn private() -> fs::OpenOptions {
    let mut options = File::options();
    options.mode(0o600);
    options
}

fn write_record(folder: &Path, record: &JobRecord) -> io::Result<()> {
    let unfinished = folder.join("job.new");
    let mut file = private().create(true).truncate(true).write(true).open(&unfinished)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    file.sync_all()?;
    fs::rename(&unfinished, folder.join(JOB))?;
    File::open(folder)?.sync_all()
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(LONGEST).read_to_end(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(text))
}
