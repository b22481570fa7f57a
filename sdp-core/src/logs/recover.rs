//! Makes the two files of a log agree again, after whatever ended the process that wrote them.
//!
//! Called when a log is opened. A line that is whole in the log is never lost, wherever the index was cut: it is
//! indexed again, with the file's time and the step of the line before it. An incomplete last line goes, and records
//! without a line go. Only the last [`CHECKED_LINES`] (or [`CHECKED_BYTES`]) are compared with the log, because whatever
//! is older was synced long ago; an index that is wrong at the edge of that stretch is made again from the first line.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::record::{Record, WIDTH};
use crate::deployment::Step;
use crate::wire::lines::Stream;

const CHECKED_LINES: u64 = 4096;
const CHECKED_BYTES: u64 = 4 * 1024 * 1024;
const CHUNK: usize = 256 * 1024;

/// What a log holds once its files agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Recovered {
    pub(super) lines: u64,
    pub(super) bytes: u64,
    /// Lines that had no record.
    pub(super) indexed_again: u64,
    /// Bytes of an incomplete last line.
    pub(super) cut_bytes: u64,
    /// Records that had no line, or were incomplete.
    pub(super) cut_records: u64,
}

pub(super) fn recover(log: &File, idx: &File) -> io::Result<Recovered> {
    let log_meta = log.metadata()?;
    let (log_len, idx_len) = (log_meta.len(), idx.metadata()?.len());
    let at_ms = log_meta.mtime() * 1000 + log_meta.mtime_nsec() / 1_000_000;

    let held = records_within(idx, idx_len / WIDTH, log_len)?;
    let base = checked_from(log, idx, held)?;
    let mut walk = Walk {
        records: Stored { idx, next: base, until: held, chunk: Vec::new(), at: 0 },
        fresh: Vec::new(),
        lines: base,
        bytes: if base == 0 { 0 } else { record(idx, base)?.end },
        last_step: if base == 0 { Step::Resolve } else { record(idx, base)?.step },
        kept: base,
        at_ms,
    };
    let mut chunk = vec![0; CHUNK];
    let mut at = walk.bytes;
    while at < log_len {
        let want = usize::try_from(log_len - at).unwrap_or(CHUNK).min(CHUNK);
        log.read_exact_at(&mut chunk[..want], at)?;
        for offset in memchr::memchr_iter(b'\n', &chunk[..want]) {
            walk.line_ends(at + offset as u64 + 1)?;
        }
        at += want as u64;
    }
    let Walk { fresh, lines, bytes, kept, .. } = walk;
    if !fresh.is_empty() {
        idx.write_all_at(&fresh, kept * WIDTH)?;
    }
    if idx_len != lines * WIDTH {
        idx.set_len(lines * WIDTH)?;
    }
    if log_len != bytes {
        log.set_len(bytes)?;
    }
    Ok(Recovered {
        lines,
        bytes,
        indexed_again: lines - kept,
        cut_bytes: log_len - bytes,
        cut_records: idx_len.div_ceil(WIDTH).saturating_sub(kept),
    })
}

pub(super) fn record(idx: &File, line: u64) -> io::Result<Record> {
    let mut bytes = [0; 24];
    idx.read_exact_at(&mut bytes, (line - 1) * WIDTH)?;
    Ok(Record::read(&bytes))
}

/// How many of the first `count` records speak of bytes that the log has.
fn records_within(idx: &File, count: u64, log_len: u64) -> io::Result<u64> {
    let (mut low, mut high) = (0, count);
    // The newest one nearly always does.
    if count == 0 || record(idx, count)?.end <= log_len {
        return Ok(count);
    }
    while low < high {
        let middle = low + (high - low) / 2;
        if record(idx, middle + 1)?.end <= log_len { low = middle + 1 } else { high = middle }
    }
    Ok(low)
}

/// After which line the index is compared with the log.
fn checked_from(log: &File, idx: &File, held: u64) -> io::Result<u64> {
    if held == 0 {
        return Ok(0);
    }
    let newest = record(idx, held)?.end;
    let mut base = held.saturating_sub(CHECKED_LINES);
    while base + 1 < held && newest.saturating_sub(record(idx, base + 1)?.end) > CHECKED_BYTES {
        base += (held - base) / 2;
    }
    if base == 0 {
        return Ok(0);
    }
    let end = record(idx, base)?.end;
    let mut last = [0];
    let sound = end > 0 && end <= newest && log.read_exact_at(&mut last, end - 1).is_ok() && last == *b"\n";
    Ok(if sound { base } else { 0 })
}

/// Goes through the lines of the log and through the records, side by side, until they first differ.
struct Walk<'a> {
    records: Stored<'a>,
    fresh: Vec<u8>,
    lines: u64,
    bytes: u64,
    last_step: Step,
    kept: u64,
    at_ms: i64,
}

impl Walk<'_> {
    fn line_ends(&mut self, end: u64) -> io::Result<()> {
        let stored = if self.fresh.is_empty() { self.records.next()? } else { None };
        match stored {
            Some(record) if record.end == end => {
                self.kept += 1;
                self.last_step = record.step;
            }
            _ => Record { end, at_ms: self.at_ms, step: self.last_step, stream: Stream::Stdout }
                .write_to(&mut self.fresh),
        }
        self.lines += 1;
        self.bytes = end;
        Ok(())
    }
}

/// Records read one after the other.
struct Stored<'a> {
    idx: &'a File,
    next: u64,
    until: u64,
    chunk: Vec<Record>,
    at: usize,
}

impl Stored<'_> {
    fn next(&mut self) -> io::Result<Option<Record>> {
        if self.at == self.chunk.len() {
            let count = (self.until - self.next).min(CHECKED_LINES);
            let mut bytes = vec![0; usize::try_from(count * WIDTH).unwrap_or(0)];
            self.idx.read_exact_at(&mut bytes, self.next * WIDTH)?;
            self.chunk = Record::read_all(&bytes).collect();
            self.next += count;
            self.at = 0;
        }
        let record = self.chunk.get(self.at).copied();
        self.at += usize::from(record.is_some());
        Ok(record)
    }
}
