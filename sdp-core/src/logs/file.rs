//! One deployment's log: its two files and what is known of them. Everything here blocks and is called on blocking
//! threads only; the runtime's threads look at the bell and at `durable` alone.
//!
//! The invariant: the first `held` records of the index and the first `bytes` bytes of the log belong together, and
//! nothing that readers see lies beyond them. The index is written first: if the process dies between the two writes,
//! records without lines are left, which recovery drops, and never lines without their time and step.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::record::{Record, WIDTH};
use super::recover::{record, recover};
use super::{Appended, Line, LogTotals, LogsError};
use crate::id::DeploymentId;
use crate::wire::LinesBatch;
use crate::wire::lines::LineMeta;

/// Buffers above this are given back after use.
const KEPT_BUFFER: usize = 512 * 1024;
const CHUNK: usize = 256 * 1024;

pub(super) struct Files {
    pub(super) log: File,
    pub(super) idx: File,
    _count: OpenCount,
}

/// Counts the logs that have open files, those included that a reader still holds.
struct OpenCount(Arc<AtomicUsize>);

impl OpenCount {
    fn new(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for OpenCount {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) struct Log {
    pub(super) id: DeploymentId,
    log_path: PathBuf,
    idx_path: PathBuf,
    /// How many lines are held; set while `state` is locked.
    pub(super) bell: watch::Sender<u64>,
    /// How many of them are known to be on disk.
    pub(super) durable: AtomicU64,
    /// How often lines were dropped because they could not be brought to disk.
    pub(super) sync_failures: AtomicU64,
    /// When it was used last, by the registry's own count.
    pub(super) used: AtomicU64,
    open: Arc<AtomicUsize>,
    /// Whether the folder has been looked at: what `state` and `bell` say is right even while no file is open.
    known: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    files: Option<Arc<Files>>,
    held: u64,
    bytes: u64,
    /// Lines that were there when the log was opened: an earlier process may have acknowledged them.
    found: u64,
    /// Counts what makes former lines invalid: truncation and removal.
    generation: u64,
    /// A rollback did not work: bytes beyond `held` may be left in the files.
    torn: bool,
    /// The files were made and their folder is not synced yet.
    folder_dirty: bool,
    crc: Crc,
    text: Vec<u8>,
    records: Vec<u8>,
}

#[derive(Clone, Default)]
struct Crc {
    hasher: crc32fast::Hasher,
    covered: u64,
}

/// Which lines to read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Range {
    From { first: u64, count: u64 },
    Last { count: u64 },
}

impl Log {
    pub(super) fn new(dir: &Path, id: DeploymentId, open: &Arc<AtomicUsize>) -> Self {
        let (log_path, idx_path) = paths(dir, id);
        let held = held_on_disk(dir, id);
        Self {
            id,
            log_path,
            idx_path,
            bell: watch::Sender::new(held),
            durable: AtomicU64::new(0),
            sync_failures: AtomicU64::new(0),
            used: AtomicU64::new(0),
            open: Arc::clone(open),
            known: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is made after its file operations: a panic leaves the former, valid state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn failed(&self, action: &'static str) -> impl Fn(io::Error) -> LogsError + use<'_> {
        move |source| LogsError::from_io(action, &self.log_path, source)
    }

    /// Opens the files if there are any.
    fn open(&self, state: &mut State, create: bool) -> Result<Option<Arc<Files>>, LogsError> {
        if let Some(files) = &state.files {
            return Ok(Some(Arc::clone(files)));
        }
        let failed = self.failed("open");
        let open = |path: &Path, create: bool| {
            OpenOptions::new().read(true).write(true).create(create).truncate(false).mode(0o640).open(path)
        };
        if self.is_known() && state.held == 0 && !create {
            return Ok(None);
        }
        let log = match open(&self.log_path, create) {
            Ok(log) => log,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !create => {
                // Records of a log that is not there may be left; they count for nothing.
                state.torn = true;
                self.ring(0);
                self.known.store(true, Ordering::Release);
                return Ok(None);
            }
            Err(error) => return Err(failed(error)),
        };
        let idx = open(&self.idx_path, true).map_err(&failed)?;
        if !self.is_known() {
            let recovered = recover(&log, &idx).map_err(self.failed("recover"))?;
            if recovered.indexed_again + recovered.cut_bytes + recovered.cut_records > 0 {
                tracing::warn!(
                    deployment.id = %self.id,
                    lines = recovered.lines,
                    lines.indexed_again = recovered.indexed_again,
                    cut.bytes = recovered.cut_bytes,
                    cut.records = recovered.cut_records,
                    "log mended after an unclean end",
                );
            }
            (state.held, state.bytes, state.found) = (recovered.lines, recovered.bytes, recovered.lines);
            self.ring(state.held);
            self.known.store(true, Ordering::Release);
        }
        state.folder_dirty |= create;
        let files = Arc::new(Files { log, idx, _count: OpenCount::new(&self.open) });
        state.files = Some(Arc::clone(&files));
        Ok(Some(files))
    }

    fn ring(&self, held: u64) {
        self.bell.send_if_modified(|lines| std::mem::replace(lines, held) != held);
    }

    /// Whether it was opened, or found absent, before: then `bell` is exact.
    pub(super) fn is_known(&self) -> bool {
        self.known.load(Ordering::Acquire)
    }

    /// Lines held, after recovery.
    pub(super) fn held(&self) -> Result<u64, LogsError> {
        let mut state = self.state();
        self.open(&mut state, false)?;
        Ok(state.held)
    }

    /// To read without the lock: the files, the lines held now, and the generation that this is true for.
    pub(super) fn snapshot(&self) -> Result<Option<(Arc<Files>, u64, u64)>, LogsError> {
        let mut state = self.state();
        let files = self.open(&mut state, false)?;
        Ok(files.map(|files| (files, state.held, state.generation)))
    }

    pub(super) fn generation(&self) -> u64 {
        self.state().generation
    }

    /// Adds what is new in the batch. The second number is how many bytes the files have grown.
    pub(super) fn append(&self, batch: &LinesBatch) -> Result<(Appended, u64), LogsError> {
        check(batch)?;
        let mut guard = self.state();
        let state = &mut *guard;
        self.open(state, false)?;
        let last = state.held;
        if batch.first > last + 1 {
            return Ok((Appended::Gap { last }, 0));
        }
        if batch.last() <= last {
            return Ok((Appended::Duplicate { last }, 0));
        }
        let Some(files) = self.open(state, true)? else {
            return Ok((Appended::Gap { last }, 0));
        };
        if state.torn {
            cut(&files, last, state.bytes).map_err(self.failed("cut"))?;
            state.torn = false;
        }

        let held_already = usize::try_from(last + 1 - batch.first).unwrap_or(usize::MAX);
        fill(batch, held_already, state.bytes, &mut state.text, &mut state.records);
        let written = files
            .idx
            .write_all_at(&state.records, last * WIDTH)
            .and_then(|()| files.log.write_all_at(&state.text, state.bytes));
        if let Err(error) = written {
            state.torn = cut(&files, last, state.bytes).is_err();
            return Err(LogsError::from_io("append to", &self.log_path, error));
        }
        if state.crc.covered == state.bytes {
            state.crc.hasher.update(&state.text);
            state.crc.covered += state.text.len() as u64;
        }
        state.held = batch.last();
        state.bytes += state.text.len() as u64;
        let grown = (state.text.len() + state.records.len()) as u64;
        for buffer in [&mut state.text, &mut state.records] {
            buffer.clear();
            buffer.shrink_to(KEPT_BUFFER);
        }
        self.ring(state.held);
        Ok((Appended::Added { last: state.held }, grown))
    }

    /// Reads lines, at most `max_bytes` of them but always at least one.
    pub(super) fn read(&self, range: Range, max_bytes: u64) -> Result<Vec<Line>, LogsError> {
        loop {
            let Some((files, held, generation)) = self.snapshot()? else { return Ok(Vec::new()) };
            let lines = read_lines(&files, held, range, max_bytes);
            // What was read while the log was truncated may be a mixture.
            if self.generation() == generation {
                return lines.map_err(self.failed("read"));
            }
        }
    }

    /// A handle of its own on the log, with the length of the whole lines.
    pub(super) fn raw(&self) -> Result<(Option<File>, u64), LogsError> {
        let mut state = self.state();
        if self.open(&mut state, false)?.is_none() {
            return Ok((None, 0));
        }
        let file = File::open(&self.log_path).map_err(self.failed("open"))?;
        Ok((Some(file), state.bytes))
    }

    pub(super) fn totals(&self) -> Result<LogTotals, LogsError> {
        let failed = self.failed("read");
        // The bulk is read without the lock, so that a long log does not hold up its own growth.
        let (files, bytes, generation, mut crc) = {
            let mut state = self.state();
            let Some(files) = self.open(&mut state, false)? else { return Ok(LogTotals::default()) };
            (files, state.bytes, state.generation, state.crc.clone())
        };
        if crc.covered < bytes {
            crc.cover(&files.log, bytes).map_err(&failed)?;
        }
        let mut guard = self.state();
        let state = &mut *guard;
        if state.generation != generation {
            crc = state.crc.clone();
        }
        if state.crc.covered < crc.covered {
            state.crc = crc;
        }
        if let Some(files) = self.open(state, false)? {
            state.crc.cover(&files.log, state.bytes).map_err(failed)?;
        }
        let checksum = state.crc.hasher.clone().finalize();
        Ok(LogTotals { lines: state.held, bytes: state.bytes, checksum })
    }

    pub(super) fn truncate_to(&self, lines: u64) -> Result<(), LogsError> {
        let mut state = self.state();
        self.open(&mut state, false)?;
        self.truncate_locked(&mut state, lines)
    }

    fn truncate_locked(&self, state: &mut State, lines: u64) -> Result<(), LogsError> {
        let Some(files) = self.open(state, false)? else { return Ok(()) };
        if lines >= state.held {
            return Ok(());
        }
        let end = if lines == 0 {
            0
        } else {
            record(&files.idx, lines).map_err(self.failed("read the index of"))?.end
        };
        (state.held, state.bytes) = (lines, end);
        state.found = state.found.min(lines);
        state.generation += 1;
        self.durable.fetch_min(lines, Ordering::Relaxed);
        if state.crc.covered > end {
            state.crc = Crc::default();
        }
        self.ring(lines);
        state.torn = true;
        cut(&files, lines, end).map_err(self.failed("cut"))?;
        state.torn = false;
        Ok(())
    }

    /// Brings to disk what is held. If that fails, what was added since is dropped: the kernel may have forgotten it,
    /// and whoever sent it still has it, because it was never acknowledged.
    pub(super) fn sync(&self) -> Result<(), LogsError> {
        let (files, held, generation, folder_dirty) = {
            let mut state = self.state();
            let Some(files) = self.open(&mut state, false)? else { return Ok(()) };
            (files, state.held, state.generation, state.folder_dirty)
        };
        if self.durable.load(Ordering::Relaxed) >= held {
            return Ok(());
        }
        let synced = files.log.sync_data().and_then(|()| files.idx.sync_data()).and_then(|()| {
            match self.log_path.parent() {
                Some(dir) if folder_dirty => File::open(dir)?.sync_all(),
                _ => Ok(()),
            }
        });
        let mut state = self.state();
        if state.generation != generation {
            return Ok(());
        }
        match synced {
            Ok(()) => {
                self.durable.fetch_max(held, Ordering::Release);
                state.folder_dirty &= !folder_dirty;
                Ok(())
            }
            Err(error) => {
                self.sync_failures.fetch_add(1, Ordering::Release);
                let floor = state.found.max(self.durable.load(Ordering::Relaxed));
                self.truncate_locked(&mut state, floor)?;
                Err(LogsError::from_io("sync", &self.log_path, error))
            }
        }
    }

    /// Gives the file handles back, unless lines wait to be brought to disk through them. Says whether it did.
    pub(super) fn release(&self) -> bool {
        let Ok(mut state) = self.state.try_lock() else { return false };
        if !self.is_clean(&state) {
            return false;
        }
        state.text = Vec::new();
        state.records = Vec::new();
        state.files.take().is_some()
    }

    /// Whether nothing would be lost if this were forgotten: no open files, nothing that is not on disk.
    pub(super) fn is_idle(&self) -> bool {
        self.state.try_lock().is_ok_and(|state| state.files.is_none() && self.is_clean(&state))
    }

    fn is_clean(&self, state: &State) -> bool {
        state.held <= state.found.max(self.durable.load(Ordering::Relaxed))
    }

    pub(super) fn remove(&self) -> Result<(), LogsError> {
        let mut state = self.state();
        let generation = state.generation + 1;
        *state = State { generation, ..State::default() };
        self.durable.store(0, Ordering::Relaxed);
        self.known.store(true, Ordering::Release);
        self.ring(0);
        // The log first: an index without its log counts for nothing.
        for path in [&self.log_path, &self.idx_path] {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    self.known.store(false, Ordering::Release);
                    return Err(LogsError::from_io("remove", path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Crc {
    fn cover(&mut self, log: &File, until: u64) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK];
        while self.covered < until {
            let want = usize::try_from(until - self.covered).unwrap_or(CHUNK).min(CHUNK);
            log.read_exact_at(&mut chunk[..want], self.covered)?;
            self.hasher.update(&chunk[..want]);
            self.covered += want as u64;
        }
        Ok(())
    }
}

pub(super) fn paths(dir: &Path, id: DeploymentId) -> (PathBuf, PathBuf) {
    (dir.join(format!("{id}.log")), dir.join(format!("{id}.idx")))
}

/// What the index's length says; right unless the process that wrote it died.
///
/// Two looks at the folder, without reading: short enough for the runtime's threads.
pub(super) fn held_on_disk(dir: &Path, id: DeploymentId) -> u64 {
    let (log, idx) = paths(dir, id);
    match (std::fs::metadata(log), std::fs::metadata(idx)) {
        (Ok(_), Ok(idx)) => idx.len() / WIDTH,
        _ => 0,
    }
}

fn cut(files: &Files, lines: u64, bytes: u64) -> io::Result<()> {
    // The log first: records without lines are dropped by recovery, lines without records would come back.
    let log = files.log.set_len(bytes);
    let idx = files.idx.set_len(lines * WIDTH);
    log.and(idx)
}

/// A batch that came in process has not been decoded, so it is looked at here.
fn check(batch: &LinesBatch) -> Result<(), LogsError> {
    let length: u64 = batch.lines.iter().map(|line| u64::from(line.length)).sum();
    if batch.first == 0 || batch.first.checked_add(batch.lines.len() as u64).is_none() {
        Err(LogsError::Malformed("line number out of range"))
    } else if length != batch.bytes.len() as u64 {
        Err(LogsError::Malformed("lengths do not add up"))
    } else if batch.bytes.contains(&b'\n') {
        Err(LogsError::Malformed("line feed inside a line"))
    } else {
        Ok(())
    }
}

fn fill(batch: &LinesBatch, skip: usize, from: u64, text: &mut Vec<u8>, records: &mut Vec<u8>) {
    text.clear();
    records.clear();
    let mut at = batch.lines.iter().take(skip).map(|line| line.length as usize).sum::<usize>();
    for LineMeta { length, at_ms, step, stream } in batch.lines.iter().skip(skip).copied() {
        let end = at + length as usize;
        text.extend_from_slice(&batch.bytes[at..end]);
        text.push(b'\n');
        Record { end: from + text.len() as u64, at_ms, step, stream }.write_to(records);
        at = end;
    }
}

fn read_lines(files: &Files, held: u64, range: Range, max_bytes: u64) -> io::Result<Vec<Line>> {
    let (first, last) = match range {
        Range::From { first, count } => (first.max(1), first.max(1).saturating_add(count) - 1),
        Range::Last { count } => (held - count.min(held) + 1, held),
    };
    let last = last.min(held);
    if first > last {
        return Ok(Vec::new());
    }
    // One record more in front: it says where the first line begins.
    let front = u64::from(first > 1);
    let count = last - first + 1 + front;
    let mut bytes = vec![0; usize::try_from(count * WIDTH).map_err(io::Error::other)?];
    files.idx.read_exact_at(&mut bytes, (first - 1 - front) * WIDTH)?;
    let mut records = Record::read_all(&bytes);
    let origin = if front == 1 { records.next().map_or(0, |record| record.end) } else { 0 };
    let records: Vec<Record> = records.collect();
    let starts = || std::iter::once(origin).chain(records.iter().map(|record| record.end));
    if starts().zip(&records).any(|(start, record)| record.end <= start) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the index is damaged"));
    }

    let (skip, take) = match range {
        Range::From { .. } => {
            (0, records.iter().take_while(|record| record.end - origin <= max_bytes).count().max(1))
        }
        Range::Last { .. } => {
            let newest = records.last().map_or(origin, |record| record.end);
            let skip =
                starts().take(records.len() - 1).take_while(|start| newest - start > max_bytes).count();
            (skip, records.len() - skip)
        }
    };
    let origin = starts().nth(skip).unwrap_or(origin);
    let chosen = &records[skip..skip + take];
    let until = chosen.last().map_or(origin, |record| record.end);
    let mut bytes = vec![0; usize::try_from(until - origin).map_err(io::Error::other)?];
    files.log.read_exact_at(&mut bytes, origin)?;
    let bytes = Bytes::from(bytes);
    let mut at = 0;
    let lines = (first + skip as u64..).zip(chosen).map(|(n, record)| {
        let end = usize::try_from(record.end - origin).unwrap_or(usize::MAX);
        let line = bytes.slice(at..end - 1);
        at = end;
        Line { n, at_ms: record.at_ms, step: record.step, stream: record.stream, bytes: line }
    });
    Ok(lines.collect())
}
