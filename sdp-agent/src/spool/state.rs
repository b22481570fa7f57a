//! What a job's log holds: counted as it grows by [`super::log`], and once more from the disk by [`super::recover`].

use std::io;

use sdp_core::deployment::Step;
use sdp_core::wire::{LineMeta, Progress, Stream, Totals};

use super::journal::{Journal, ProgressItem, Written};
use super::record;
use super::tail::{Dropped, Tail};

/// Each so many lines their place in the file is remembered.
pub(super) const INDEX_EVERY: u64 = 1024;

/// What a log holds.
#[derive(Debug)]
pub(super) struct State {
    pub(super) buffer: Vec<u8>,
    /// Bytes in the file; `buffer` comes after them.
    pub(super) written: u64,
    pub(super) lines: u64,
    /// With a line feed for each line.
    pub(super) bytes: u64,
    pub(super) checksum: crc32fast::Hasher,
    /// Where lines 1, 1 + [`INDEX_EVERY`], … begin.
    pub(super) index: Vec<u64>,
    /// The last line that a program printed.
    pub(super) last_printed: u64,
    pub(super) tail: Option<Tail>,
    /// Lines that came after the disk broke.
    pub(super) unwritten: Dropped,
    pub(super) dropped: u64,
    pub(super) since_urgent: usize,
    pub(super) progress: Vec<ProgressItem>,
    pub(super) journal: Journal,
    pub(super) done: bool,
    /// Its work died with the agent's former process, and waits for its order.
    pub(super) interrupted: bool,
}

impl State {
    /// Of an empty log.
    pub(super) fn new(journal: Journal) -> Self {
        Self {
            buffer: Vec::new(),
            written: 0,
            lines: 0,
            bytes: 0,
            checksum: crc32fast::Hasher::new(),
            index: Vec::new(),
            last_printed: 0,
            tail: None,
            unwritten: Dropped::default(),
            dropped: 0,
            since_urgent: 0,
            progress: Vec::new(),
            journal,
            done: false,
            interrupted: false,
        }
    }

    /// Takes in a line that is in the file already.
    pub(super) fn count(&mut self, meta: LineMeta, line: &[u8]) {
        self.number(self.written, meta, line);
        if let Some(totals) = record::sum_of(meta, line) {
            self.add_up_to(totals);
        }
        self.written += (record::HEADER + line.len()) as u64;
    }

    /// The lines so far are not all here; this is what they add up to.
    pub(super) fn add_up_to(&mut self, totals: Totals) {
        self.bytes = totals.bytes;
        self.checksum = crc32fast::Hasher::new_with_initial_len(totals.checksum, totals.bytes);
    }

    /// Gives a line, whose record begins there, the next number.
    pub(super) fn number(&mut self, begins: u64, meta: LineMeta, line: &[u8]) {
        if self.lines.is_multiple_of(INDEX_EVERY) {
            self.index.push(begins);
        }
        self.checksum.update(line);
        self.checksum.update(b"\n");
        self.lines += 1;
        self.bytes += line.len() as u64 + 1;
        if meta.stream != Stream::Sdp {
            self.last_printed = self.lines;
        }
    }

    /// Takes in what is written of its progress. After a power cut an item may be there whose lines are not: it goes, for whoever
    /// has those lines has the item, too.
    pub(super) fn take_progress(&mut self, mut written: Vec<Written>) -> io::Result<()> {
        let there = written.iter().take_while(|written| written.item.after_line <= self.lines).count();
        written.truncate(there);
        self.journal.cut(&written)?;
        self.progress = written.into_iter().map(|written| written.item).collect();
        if let Some(ProgressItem { what: Progress::Ended { .. }, dropped, .. }) = self.progress.last() {
            (self.done, self.dropped) = (true, *dropped);
        }
        Ok(())
    }

    /// The end of a log that was too long, as it was left.
    pub(super) fn resume_tail(&mut self, tail: Tail) {
        self.tail = Some(tail);
    }

    /// Bytes in the file.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Where the next record begins.
    pub(super) fn end(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// The step that it is in.
    pub(super) fn step(&self) -> Step {
        let started = self.progress.iter().rev().find_map(|item| match item.what {
            Progress::StepStarted { step } => Some(step),
            _ => None,
        });
        started.unwrap_or(Step::Resolve)
    }
}
