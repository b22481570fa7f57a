//! The end of a log that is longer than may be kept: a ring of segments on disk, of which the oldest is given up.
//!
//! [`super::log`] fills it once the beginning is full, and empties it into the log when the job ends. The segments' files
//! have no name: they vanish with the process.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sdp_core::wire::LineMeta;

use super::record;

/// So many segments make the ring; at least all but one of them are kept.
const SEGMENTS: u64 = 8;
/// A segment's lines go to disk in pieces of this size.
const BUFFER: usize = 64 * 1024;

/// What was given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) lines: u64,
    /// With a line feed for each line.
    pub(super) bytes: u64,
}

impl Dropped {
    pub(super) fn add(&mut self, line: &[u8]) {
        self.lines += 1;
        self.bytes += line.len() as u64 + 1;
    }
}

#[derive(Debug)]
pub(super) struct Tail {
    folder: PathBuf,
    /// At most so many bytes of records are kept.
    limit: u64,
    segments: VecDeque<Segment>,
    size: u64,
    pub(super) dropped: Dropped,
}

#[derive(Debug)]
struct Segment {
    file: File,
    written: u64,
    buffer: Vec<u8>,
    holds: Dropped,
}

impl Segment {
    fn create(folder: &Path) -> io::Result<Self> {
        let path = folder.join("tail");
        let file = File::options().create(true).truncate(true).read(true).write(true).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(Self { file, written: 0, buffer: Vec::new(), holds: Dropped::default() })
    }

    fn size(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

impl Tail {
    pub(super) fn new(folder: PathBuf, limit: u64) -> Self {
        Self { folder, limit, segments: VecDeque::new(), size: 0, dropped: Dropped::default() }
    }

    /// Appends a line, and gives up the oldest segment when the ring is full.
    pub(super) fn push(&mut self, meta: LineMeta, line: &[u8]) -> io::Result<()> {
        let full = self.segments.back().is_none_or(|last| last.size() >= self.limit / SEGMENTS);
        if full {
            match Segment::create(&self.folder) {
                Ok(segment) => self.segments.push_back(segment),
                Err(error) => {
                    self.dropped.add(line);
                    return Err(error);
                }
            }
        }
        let Some(last) = self.segments.back_mut() else { return Ok(()) };
        record::write(&mut last.buffer, meta, line);
        last.holds.add(line);
        self.size += (record::HEADER + line.len()) as u64;
        if last.buffer.len() >= BUFFER {
            last.flush()?;
        }
        while self.size > self.limit && self.segments.len() > 1 {
            if let Some(oldest) = self.segments.pop_front() {
                self.give_up(&oldest);
            }
        }
        Ok(())
    }

    fn give_up(&mut self, segment: &Segment) {
        self.size -= segment.size();
        self.dropped.lines += segment.holds.lines;
        self.dropped.bytes += segment.holds.bytes;
    }

    /// The next segment's records, oldest first; one that cannot be read counts as given up.
    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        loop {
            let segment = self.segments.pop_front()?;
            let mut bytes = vec![0; usize::try_from(segment.written).ok()?];
            if segment.file.read_exact_at(&mut bytes, 0).is_ok() {
                self.size -= segment.size();
                bytes.extend_from_slice(&segment.buffer);
                return Some(bytes);
            }
            self.give_up(&segment);
        }
    }

    /// Gives up all that is left.
    pub(super) fn clear(&mut self) {
        while let Some(segment) = self.segments.pop_front() {
            self.give_up(&segment);
        }
    }
}
