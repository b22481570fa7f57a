//! The end of a log that is longer than may be kept: a ring of segments on disk, of which the oldest is given up.
//!
//! [`super::log`] fills it once the beginning is full, and empties it into the log when the job ends. A segment's name says what came
//! before it, so that a later life of the agent ([`Tail::recover`]) knows exactly what was given up:
//! `tail-<lines of the beginning>-<number>-<lines before it>-<bytes before it>`.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sdp_core::wire::LineMeta;

use super::record;

/// So many segments make the ring; at least all but one of them are kept.
const SEGMENTS: u64 = 8;
/// A segment's lines go to disk in pieces of this size.
const BUFFER: usize = 64 * 1024;
const PREFIX: &str = "tail-";

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
    /// The number of the last line before it.
    begins_after: u64,
    segments: VecDeque<Segment>,
    size: u64,
    pub(super) dropped: Dropped,
    /// All that was pushed.
    pushed: Dropped,
    made: u64,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    file: File,
    written: u64,
    buffer: Vec<u8>,
    holds: Dropped,
}

impl Segment {
    fn create(path: PathBuf) -> io::Result<Self> {
        let file = File::options().create(true).truncate(true).read(true).write(true).open(&path)?;
        Ok(Self { path, file, written: 0, buffer: Vec::new(), holds: Dropped::default() })
    }

    /// One of an earlier life; a torn last line in it goes.
    fn open(path: PathBuf) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(&path)?;
        let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, 0)?;
        let (mut written, mut holds) = (0, Dropped::default());
        while let Some((_, line, size)) = bytes.get(written..).and_then(record::first) {
            holds.add(line);
            written += size;
        }
        file.set_len(written as u64)?;
        Ok(Self { path, file, written: written as u64, buffer: Vec::new(), holds })
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
    /// An empty one, behind the beginning's last line.
    pub(super) fn new(folder: PathBuf, limit: u64, begins_after: u64) -> Self {
        Self {
            folder,
            limit,
            begins_after,
            segments: VecDeque::new(),
            size: 0,
            dropped: Dropped::default(),
            pushed: Dropped::default(),
            made: 0,
        }
    }

    /// What an earlier life left of one, if it left any. Blocking.
    pub(super) fn recover(folder: &Path, limit: u64) -> io::Result<Option<Self>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let numbers = entry.file_name().to_str().and_then(numbers);
            found.extend(numbers.map(|numbers| (numbers, entry.path())));
        }
        found.sort_unstable();
        let Some(([begins_after, _, lines, bytes], _)) = found.first() else { return Ok(None) };
        let mut tail = Self::new(folder.to_owned(), limit, *begins_after);
        tail.dropped = Dropped { lines: *lines, bytes: *bytes };
        tail.pushed = tail.dropped;
        for ([_, number, ..], path) in found {
            let segment = Segment::open(path)?;
            tail.size += segment.size();
            tail.pushed.lines += segment.holds.lines;
            tail.pushed.bytes += segment.holds.bytes;
            tail.made = number;
            tail.segments.push_back(segment);
        }
        Ok(Some(tail))
    }

    /// Removes what is on disk of one.
    pub(super) fn remove(folder: &Path) {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name().to_str().and_then(numbers).is_some()) {
            // It goes with its folder at the latest.
            drop(fs::remove_file(entry.path()));
        }
    }

    /// The number of the last line before it.
    pub(super) fn begins_after(&self) -> u64 {
        self.begins_after
    }

    /// Appends a line, and gives up the oldest segment when the ring is full.
    pub(super) fn push(&mut self, meta: LineMeta, line: &[u8]) -> io::Result<()> {
        let full = self.segments.back().is_none_or(|last| last.size() >= self.limit / SEGMENTS);
        if full {
            self.flush()?;
            let Dropped { lines, bytes } = self.pushed;
            self.made += 1;
            let name = format!("{PREFIX}{}-{}-{lines}-{bytes}", self.begins_after, self.made);
            match Segment::create(self.folder.join(name)) {
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
        self.pushed.add(line);
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

    /// Writes down what is in memory.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.segments.back_mut().map_or(Ok(()), Segment::flush)
    }

    fn give_up(&mut self, segment: &Segment) {
        self.size -= segment.size();
        self.dropped.lines += segment.holds.lines;
        self.dropped.bytes += segment.holds.bytes;
        // Left behind, it is in nobody's way: it goes with its folder.
        drop(fs::remove_file(&segment.path));
    }

    /// The next segment's records, oldest first; one that cannot be read counts as given up. Its file stays.
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

/// What a segment's name says.
fn numbers(name: &str) -> Option<[u64; 4]> {
    let mut numbers = name.strip_prefix(PREFIX)?.split('-').map(str::parse);
    let four = [(); 4].map(|()| numbers.next().and_then(Result::ok));
    match (four, numbers.next()) {
        ([Some(base), Some(number), Some(lines), Some(bytes)], None) => Some([base, number, lines, bytes]),
        _ => None,
    }
}
