//! Search in a job log: which lines contain a text, how many there are in all, and which are next.
//!
//! ```text
//! index records ──▶ blocks of whole lines ──▶ as shown (colours and overwritten text gone) ──▶ is the text in it?
//! ```
//! **What counts:** a line matches if the text stands in it the way the log page shows it ([`shown`]): colours inside a
//! word do not part it, what a progress bar overwrote is not there, and an invisible character is found by its name
//! (`U+202E`). It is plain text, not a pattern, and lies within one line. Unless case is to match, letters match in both
//! cases, where the other case is a single letter too.
//!
//! The count is exact for the lines that were held when the search began, of which the answer names the last; a log that
//! grows meanwhile is no matter, and [`LogSearch::first`] lets whoever counted up to there go on with the rest.
//!
//! Limits: [`SearchText::MAX`] bytes of text, [`LogsConfig::search_matches`](super::LogsConfig) lines in an answer,
//! [`LogsConfig::searches`](super::LogsConfig) at a time (others wait); memory for one block and 8192 records. It runs on a
//! blocking thread and stops, within a block, when nobody waits for it any more.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use memchr::memmem::Finder;

use super::LogsError;
use super::file::{Files, Log};
use super::record::{Record, WIDTH};
use super::recover::record;
use super::shown::{is_plain, shown};
use crate::deployment::Step;
use crate::wire::lines::Stream;

const RECORDS: u64 = 8192;
const BLOCK: u64 = 256 * 1024;

/// A text that can be searched for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchText(String);

/// A text that cannot be searched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a search text has 1 to {} bytes and no line break", SearchText::MAX)]
pub struct InvalidSearchText;

impl SearchText {
    /// The most bytes.
    pub const MAX: usize = 256;

    /// Takes a text.
    ///
    /// # Errors
    /// It is empty, too long, or has a line feed: no line has one.
    pub fn parse(text: &str) -> Result<Self, InvalidSearchText> {
        if text.is_empty() || text.len() > Self::MAX || text.contains('\n') {
            return Err(InvalidSearchText);
        }
        Ok(Self(text.to_owned()))
    }
}

/// Which way to look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Towards newer lines.
    #[default]
    Down,
    /// Towards older lines.
    Up,
}

/// What to search for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSearch {
    /// The text.
    pub text: SearchText,
    /// Whether upper and lower case differ.
    pub match_case: bool,
    /// Only lines of this step.
    pub step: Option<Step>,
    /// Only lines of this stream.
    pub stream: Option<Stream>,
    /// Lines before this one are not looked at, nor counted.
    pub first: u64,
    /// Matches are listed from this line on, itself included; without it from the beginning, or upwards from the end.
    pub from: Option<u64>,
    /// Which way they are listed.
    pub direction: Direction,
    /// How many of them at most; bounded by [`LogsConfig::search_matches`](super::LogsConfig) too.
    pub limit: usize,
}

impl LogSearch {
    /// Everywhere, in both cases, the first 100 matches.
    #[must_use]
    pub fn new(text: SearchText) -> Self {
        Self {
            text,
            match_case: false,
            step: None,
            stream: None,
            first: 1,
            from: None,
            direction: Direction::Down,
            limit: 100,
        }
    }
}

/// A line that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// Its number.
    pub n: u64,
    /// The how many-th matching line it is, from 1.
    pub position: u64,
}

/// What a search found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The last line that was looked at: the last one held when the search began.
    pub lines: u64,
    /// How many lines match in all.
    pub total: u64,
    /// Those asked for, in the order of the log.
    pub matches: Vec<Match>,
}

/// Tells a search to stop when nobody waits for it any more.
pub(super) struct StopOnDrop(pub(super) Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Log {
    pub(super) fn search(&self, search: &LogSearch, stop: &AtomicBool) -> Result<Found, LogsError> {
        loop {
            let Some((files, held, generation)) = self.snapshot()? else { return Ok(Found::default()) };
            let found = find(&files, held, search, stop);
            if stop.load(Ordering::Relaxed) {
                return Err(LogsError::ShuttingDown);
            }
            // What was read while the log was truncated may be a mixture.
            if self.generation() == generation {
                return found.map_err(self.failed("search"));
            }
        }
    }
}

fn find(files: &Files, held: u64, search: &LogSearch, stop: &AtomicBool) -> io::Result<Found> {
    let mut found = Found { lines: held, ..Found::default() };
    let mut matches = VecDeque::new();
    let first = search.first.max(1);
    if first <= held {
        let down = search.direction == Direction::Down;
        let from = search.from.unwrap_or(if down { first } else { u64::MAX });
        scan(files, first, held, search, stop, |n| {
            found.total += 1;
            let hit = Match { n, position: found.total };
            if down && n >= from && matches.len() < search.limit {
                matches.push_back(hit);
            } else if !down && n <= from && search.limit > 0 {
                if matches.len() == search.limit {
                    matches.pop_front();
                }
                matches.push_back(hit);
            }
        })?;
    }
    found.matches = matches.into();
    Ok(found)
}

/// Calls `hit` for each matching line, in order.
fn scan(
    files: &Files,
    first: u64,
    held: u64,
    search: &LogSearch,
    stop: &AtomicBool,
    mut hit: impl FnMut(u64),
) -> io::Result<()> {
    let needle = Needle::new(search);
    let mut origin = if first > 1 { record(&files.idx, first - 1)?.end } else { 0 };
    let mut n = first;
    let (mut raw, mut records, mut block) = (Vec::new(), Vec::new(), Vec::new());
    while n <= held {
        let count = (held - n + 1).min(RECORDS);
        raw.resize(usize::try_from(count * WIDTH).map_err(io::Error::other)?, 0);
        files.idx.read_exact_at(&mut raw, (n - 1) * WIDTH)?;
        records.clear();
        records.extend(Record::read_all(&raw));
        let mut rest = records.as_slice();
        while !rest.is_empty() {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let fits = |record: &&Record| record.end.saturating_sub(origin) <= BLOCK;
            let (lines, after) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            let starts = std::iter::once(origin).chain(lines.iter().map(|record| record.end));
            if starts.zip(lines).any(|(start, record)| record.end <= start) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the index is damaged"));
            }
            let end = lines.last().map_or(origin, |record| record.end);
            block.resize(usize::try_from(end - origin).map_err(io::Error::other)?, 0);
            files.log.read_exact_at(&mut block, origin)?;
            needle.block(&mut block, origin, lines, |at| hit(n + at as u64));
            origin = end;
            n += lines.len() as u64;
            rest = after;
        }
    }
    Ok(())
}

struct Needle<'a> {
    finder: Finder<'static>,
    search: &'a LogSearch,
}

impl<'a> Needle<'a> {
    fn new(search: &'a LogSearch) -> Self {
        let text = &search.text.0;
        let needle = if search.match_case { text.clone() } else { folded(text) };
        Self { finder: Finder::new(needle.as_bytes()).into_owned(), search }
    }

    /// Calls `hit` with the place of each matching line among these, which are the block.
    fn block(&self, block: &mut [u8], origin: u64, lines: &[Record], mut hit: impl FnMut(usize)) {
        let end_of = |line: usize| usize::try_from(lines[line].end - origin).unwrap_or(usize::MAX);
        if is_plain(block) {
            // Nothing in it needs a closer look: from match to match through all lines at once.
            if !self.search.match_case {
                block.make_ascii_lowercase();
            }
            let (mut at, mut line) = (0, 0);
            while let Some(place) = self.finder.find(&block[at..]) {
                while end_of(line) <= at + place {
                    line += 1;
                }
                if self.wants(&lines[line]) {
                    hit(line);
                }
                at = end_of(line);
            }
            return;
        }
        let mut start = 0;
        for (place, line) in lines.iter().enumerate() {
            let end = end_of(place);
            if self.wants(line) && self.is_in(&mut block[start..end - 1]) {
                hit(place);
            }
            start = end;
        }
    }

    fn wants(&self, line: &Record) -> bool {
        self.search.step.is_none_or(|step| line.step == step)
            && self.search.stream.is_none_or(|stream| line.stream == stream)
    }

    fn is_in(&self, line: &mut [u8]) -> bool {
        if is_plain(line) {
            if !self.search.match_case {
                line.make_ascii_lowercase();
            }
            return self.finder.find(line).is_some();
        }
        let text = shown(line);
        if self.search.match_case {
            self.finder.find(text.as_bytes()).is_some()
        } else {
            self.finder.find(folded(&text).as_bytes()).is_some()
        }
    }
}

/// In lower case, letter by letter; a letter whose lower case is not a single one stays. The page does the same.
fn folded(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let lower = |c: char| {
        let mut lower = c.to_lowercase();
        match (lower.next(), lower.next()) {
            (Some(lower), None) => lower,
            _ => c,
        }
    };
    text.chars().map(lower).collect()
}
