//! What an earlier life of the agent left in the spool: each job's order, progress and lines, as far as they were written.
//!
//! Called by [`super::Spool`] when it is opened, before anything else is done. A torn last line or item goes; nobody has heard of it,
//! for nothing is sent that is not written. What lies behind the last word of a job that had not ended is the end of a long log on its
//! way to the beginning: it is put back where it was, and joined again when the job ends.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::path::Path;

use sdp_core::wire::{LineMeta, Progress};

use super::JobKey;
use super::journal::{Journal, ProgressItem, Written};
use super::record;
use super::state::State;
use super::tail::Tail;

/// So much is read at once.
const CHUNK: usize = 256 * 1024;
const _: () = assert!(CHUNK > record::LARGEST, "a record fits");

/// A job of an earlier life.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) file: File,
    pub(super) state: State,
}

/// Opens a job's folder; none if there is no job in it. `tail` is how much of a long log's end is kept. Blocking.
pub(super) fn recover(folder: &Path, tail: u64) -> io::Result<Option<Recovered>> {
    let Some((journal, progress)) = Journal::open(folder)? else { return Ok(None) };
    let tail = match progress.last() {
        Some(Written { item: ProgressItem { what: Progress::Ended { .. }, .. }, .. }) => None,
        _ => Tail::recover(folder, tail)?,
    };
    let file =
        File::options().create(true).truncate(false).read(true).write(true).open(folder.join("lines"))?;
    let mut state = State::new(journal);
    walk(&file, tail.as_ref().map_or(u64::MAX, Tail::begins_after), |meta, line| state.count(meta, line))?;
    file.set_len(state.written())?;
    state.take_progress(progress)?;
    if let Some(tail) = tail.filter(|tail| tail.begins_after() == state.lines) {
        state.resume_tail(tail);
    }
    Ok(Some(Recovered { file, state }))
}

/// Goes through the first whole records, at most so many.
fn walk(mut file: &File, most: u64, mut each: impl FnMut(LineMeta, &[u8])) -> io::Result<()> {
    file.rewind()?;
    let mut bytes = Vec::with_capacity(CHUNK);
    let mut lines = 0;
    loop {
        let left = (CHUNK - bytes.len()) as u64;
        let read = file.take(left).read_to_end(&mut bytes)?;
        let mut rest = bytes.as_slice();
        while lines < most
            && let Some((meta, line, size)) = record::first(rest)
        {
            // What a power cut may have left in the place of records is none: zeros, or anything.
            let is_line = !line.contains(&b'\n') || record::sum_of(meta, line).is_some();
            if meta.at_ms == 0 || line.len() > record::LARGEST - record::HEADER || !is_line {
                return Ok(());
            }
            each(meta, line);
            lines += 1;
            rest = &rest[size..];
        }
        let used = bytes.len() - rest.len();
        if read == 0 || lines == most || (used == 0 && bytes.len() == CHUNK) {
            return Ok(());
        }
        bytes.drain(..used);
    }
}

/// The job that a folder is of, by its name.
pub(super) fn key(name: &str) -> Option<JobKey> {
    let (deployment, attempt) = name.rsplit_once('-')?;
    Some((deployment.parse().ok()?, attempt.parse().ok()?))
}
