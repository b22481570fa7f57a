//! One job's log: appended to by the job from any thread, read by the connection's [`super::Outflow`].
//!
//! ```text
//!   offset 0          written                end
//!   ├── lines file ───┼── buffer in memory ──┤        while it is short enough
//!   ├── beginning ─────────────┤ … ├── tail ring ──┤  when it is not: the ring joins it when the job ends
//! ```
//! Appending costs a copy into memory; each time [`BUFFER`] is full it is written to the file by whoever appends. That
//! goes to the page cache; if the disk cannot keep up, the build that prints so much is what waits. Nothing is sent that is
//! not written: what the server has, the agent's next life has, too ([`super::recover`]). What waits for nobody is written a
//! moment later ([`JobLog::write_down`]).
//!
//! The limit is on what the records take up on disk. Of it an eighth is the tail's. Lines in the tail have no number until
//! the job ends, so progress that happens meanwhile comes after the last line of the beginning.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use sdp_core::deployment::Step;
use sdp_core::wire::{
    FromAgent, JobReport, JobResult, JobSpec, LineMeta, LinesBatch, Progress, Stream, Totals,
};
use tokio_util::sync::CancellationToken;

use super::journal::ProgressItem;
use super::state::{INDEX_EVERY, State};
use super::tail::{Dropped, Tail};
use super::{Bell, JobKey, SpoolLimits, record};
use crate::sync::Lock;

/// Lines are written to the file in pieces of about this size.
const BUFFER: usize = 256 * 1024;
/// So many bytes wake the sender though its pause between two batches is not over.
const URGENT: usize = 64 * 1024;

/// A job's log. Clones are the same log.
#[derive(Clone, Debug)]
pub(crate) struct JobLog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    key: JobKey,
    folder: PathBuf,
    limits: SpoolLimits,
    /// Bytes that all logs together hold.
    held: Arc<AtomicU64>,
    bell: Arc<Bell>,
    file: File,
    /// Cancelled when the disk is full or broken: the job must end.
    broken: CancellationToken,
    state: Lock<State>,
}

/// A place in a log to read from. Lines before `wanted` are passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    /// The number of the line that begins at `offset`.
    line: u64,
    offset: u64,
    /// The next line to be sent.
    pub(super) wanted: u64,
}

/// What an [`super::Outflow`] wants to know of a log before it decides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    /// Bytes that come after the cursor.
    pub(super) bytes: u64,
    /// Lines up to here.
    pub(super) lines: u64,
    /// The next item of progress, if there is one: the line it comes after.
    pub(super) progress_after: Option<u64>,
    pub(super) done: bool,
}

impl JobLog {
    /// The log whose state is this, in this folder.
    pub(super) fn new(
        key: JobKey,
        folder: PathBuf,
        (limits, held, bell): (SpoolLimits, Arc<AtomicU64>, Arc<Bell>),
        file: File,
        state: State,
    ) -> Self {
        held.fetch_add(state.end(), Ordering::Relaxed);
        let broken = CancellationToken::new();
        Self(Arc::new(Inner { key, folder, limits, held, bell, file, broken, state: Lock::new(state) }))
    }

    pub(crate) fn key(&self) -> JobKey {
        self.0.key
    }

    /// Cancelled when what the job says cannot be kept, because the disk is full or broken.
    pub(crate) fn broken(&self) -> &CancellationToken {
        &self.0.broken
    }

    /// Appends a line, without its line feed, and returns its number if that is known already. Cheap; to be called from any
    /// thread. After the end it does nothing.
    pub(crate) fn line(&self, step: Step, stream: Stream, line: &[u8]) -> Option<u64> {
        let line = record::tidy(line);
        let meta = LineMeta { length: length(&line), at_ms: now_ms(), step, stream };
        let (urgent, number) = {
            let mut state = self.0.state.lock();
            if state.done {
                return None;
            }
            let before = state.lines;
            self.0.append(&mut state, meta, &line);
            let number = (state.lines > before).then_some(state.lines);
            let urgent = state.since_urgent >= URGENT;
            if urgent {
                state.since_urgent = 0;
            }
            (urgent, number)
        };
        if urgent {
            self.0.bell.ring_urgently();
        } else {
            self.0.bell.ring();
        }
        number
    }

    /// A line of SDP's own.
    pub(crate) fn say(&self, step: Step, text: &str) {
        self.line(step, Stream::Sdp, text.as_bytes());
    }

    /// Appends an item of progress; it comes after the lines so far.
    pub(crate) fn progress(&self, what: Progress) {
        let mut state = self.0.state.lock();
        if state.done {
            return;
        }
        self.0.push_progress(&mut state, what, 0);
        drop(state);
        self.0.bell.ring_urgently();
    }

    /// Ends the log: what was kept of its end joins it, and `result`, told the number of the last line that a program
    /// printed (0: none), becomes the last item of progress. Blocking.
    pub(crate) fn finish(&self, result: impl FnOnce(u64) -> JobResult) {
        let mut state = self.0.state.lock();
        if state.done {
            return;
        }
        self.0.join_tail(&mut state);
        if !self.0.broken.is_cancelled() && self.0.flush(&mut state).is_err() {
            self.0.broken.cancel();
        }
        let result = result(state.last_printed);
        let dropped = state.dropped;
        self.0.push_progress(&mut state, Progress::Ended { result }, dropped);
        state.done = true;
        // Only now: until its last word is written, another life would put the end behind the beginning once more.
        Tail::remove(&self.0.folder);
        drop(state);
        self.0.bell.ring_urgently();
    }

    /// How far the job had come, by what it has said.
    pub(crate) fn so_far(&self) -> Vec<Progress> {
        self.0.state.lock().progress.iter().map(|item| item.what.clone()).collect()
    }

    /// Its work died with the agent's former process, and begins again when its order comes again.
    pub(crate) fn interrupt(&self) {
        self.0.state.lock().interrupted = true;
    }

    /// Whether it waits for its order; from now on it does not.
    pub(crate) fn take_interrupted(&self) -> bool {
        std::mem::take(&mut self.0.state.lock().interrupted)
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.0.state.lock().interrupted
    }

    /// Counts another beginning of the work.
    ///
    /// # Errors
    /// When that cannot be written. Blocking.
    pub(crate) fn begin_again(&self) -> io::Result<()> {
        let begun = self.0.state.lock().journal.begin_again();
        begun.write()
    }

    /// Brings the progress so far to disk, for what must not be done twice even after a power cut.
    ///
    /// # Errors
    /// When the disk says no. Blocking.
    pub(crate) fn sync_progress(&self) -> io::Result<()> {
        let progress = self.0.state.lock().journal.progress()?;
        progress.sync_data()
    }

    /// What was ordered.
    pub(crate) fn spec(&self) -> JobSpec {
        self.0.state.lock().journal.record().spec.clone()
    }

    /// Whether its order had secrets of the service.
    pub(crate) fn has_secrets(&self) -> bool {
        self.0.state.lock().journal.record().has_secrets
    }

    /// How many times the work was begun.
    pub(crate) fn begun(&self) -> u32 {
        self.0.state.lock().journal.record().begun
    }

    /// The server has more of it than is here: this machine lost power after it had sent that. Numbers go on after the
    /// server's; what is missing here is never asked for, for it is there.
    pub(crate) fn catch_up(&self, lines: u64, progress: u64, totals: Option<Totals>) {
        let mut state = self.0.state.lock();
        if let Some(totals) = totals.filter(|_| lines > state.lines) {
            let mut meta =
                LineMeta { length: 0, at_ms: record::ELSEWHERE, step: state.step(), stream: Stream::Sdp };
            while state.lines + 1 < lines {
                self.0.push(&mut state, meta, b"");
            }
            // The last one says what they all add up to, for another life.
            let sum = record::sum(totals);
            meta.length = length(&sum);
            self.0.push(&mut state, meta, &sum);
            state.add_up_to(totals);
            // Where it cannot be written the job's next line finds out.
            drop(self.0.flush(&mut state));
            tracing::warn!(deployment.id = %self.0.key.0, lines, "the server has more of a log than was left here");
        }
        while (state.progress.len() as u64) < progress {
            self.0.push_progress(&mut state, Progress::Noted { text: String::new() }, 0);
        }
    }

    /// Writes down what is only in memory; what cannot be written ends the job. Blocking.
    pub(crate) fn write_down(&self) {
        let mut state = self.0.state.lock();
        let tail = state.tail.as_mut().map_or(Ok(()), Tail::flush);
        if let Err(error) = tail.and_then(|()| self.0.flush(&mut state)) {
            self.0.break_off(&error);
        }
    }

    pub(super) fn report(&self) -> JobReport {
        let state = self.0.state.lock();
        JobReport {
            deployment: self.0.key.0,
            attempt: self.0.key.1,
            done: state.done,
            interrupted: state.interrupted,
            lines: state.lines,
            progress: state.progress.len() as u64,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.0.state.lock().done
    }

    /// The frame that says that all was sent.
    pub(super) fn done_frame(&self) -> FromAgent {
        let state = self.0.state.lock();
        FromAgent::Done {
            deployment: self.0.key.0,
            attempt: self.0.key.1,
            progress: state.progress.len() as u64,
            lines: state.lines,
            bytes: state.bytes,
            dropped: state.dropped,
            checksum: state.checksum.clone().finalize(),
        }
    }

    /// Item `number` of progress.
    pub(super) fn progress_frame(&self, number: u64) -> Option<FromAgent> {
        let state = self.0.state.lock();
        let item = state.progress.get(usize::try_from(number.checked_sub(1)?).ok()?)?;
        Some(FromAgent::Progress {
            deployment: self.0.key.0,
            attempt: self.0.key.1,
            number,
            after_line: item.after_line,
            what: item.what.clone(),
        })
    }

    /// A cursor for what comes after a line.
    pub(super) fn after(&self, line: u64) -> Cursor {
        let state = self.0.state.lock();
        let wanted = line.min(state.lines) + 1;
        let block = (wanted - 1) / INDEX_EVERY;
        let block = block.min((state.index.len() as u64).saturating_sub(1));
        let offset = usize::try_from(block).ok().and_then(|block| state.index.get(block)).copied();
        Cursor { line: block * INDEX_EVERY + 1, offset: offset.unwrap_or(0), wanted }
    }

    pub(super) fn waiting(&self, cursor: &Cursor, progress_sent: u64) -> Waiting {
        let state = self.0.state.lock();
        let next = usize::try_from(progress_sent).ok().and_then(|next| state.progress.get(next));
        Waiting {
            bytes: state.end() - cursor.offset,
            lines: state.lines,
            progress_after: next.map(|item| item.after_line),
            done: state.done,
        }
    }

    /// The lines after the cursor, as many as fit into `max` bytes of records, and moves the cursor behind them. `None`
    /// when there are none. Blocking.
    pub(super) fn read(&self, cursor: &mut Cursor, max: usize) -> io::Result<Option<LinesBatch>> {
        debug_assert!(max >= record::LARGEST, "a batch takes at least one line");
        loop {
            let mut chunk;
            {
                let mut state = self.0.state.lock();
                if cursor.offset >= state.end() {
                    return Ok(None);
                }
                if let Some(from) = cursor.offset.checked_sub(state.written) {
                    let from = usize::try_from(from).unwrap_or(usize::MAX);
                    let rest = state.buffer.get(from..).unwrap_or_default();
                    chunk = rest[..rest.len().min(max)].to_vec();
                    // Written before it is sent. Where that fails the job ends, and what was said is sent from memory.
                    if !self.0.broken.is_cancelled()
                        && let Err(error) = self.0.flush(&mut state)
                    {
                        self.0.break_off(&error);
                    }
                } else {
                    let left = usize::try_from(state.written - cursor.offset).unwrap_or(usize::MAX);
                    drop(state);
                    chunk = vec![0; left.min(max)];
                    // What is written never changes, so this needs no lock.
                    self.0.file.read_exact_at(&mut chunk, cursor.offset)?;
                }
            }
            let before = cursor.offset;
            let mut lines = Vec::new();
            let mut bytes = Vec::with_capacity(chunk.len());
            let mut rest = chunk.as_slice();
            while let Some((meta, line, size)) = record::first(rest) {
                if cursor.line >= cursor.wanted {
                    lines.push(meta);
                    bytes.extend_from_slice(line);
                }
                rest = &rest[size..];
                cursor.line += 1;
                cursor.offset += size as u64;
            }
            if cursor.offset == before {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the spool's file is damaged"));
            }
            if !lines.is_empty() {
                let first = cursor.wanted;
                cursor.wanted = cursor.line;
                let (deployment, attempt) = self.0.key;
                return Ok(Some(LinesBatch { deployment, attempt, first, lines, bytes: Bytes::from(bytes) }));
            }
        }
    }

    /// Removes it from the disk. Blocking.
    pub(super) fn remove(&self) {
        self.0.held.fetch_sub(self.0.state.lock().end(), Ordering::Relaxed);
        if let Err(error) = std::fs::remove_dir_all(&self.0.folder) {
            tracing::warn!(folder = %self.0.folder.display(), %error, "failed to remove a delivered log");
        }
    }
}

impl Inner {
    fn append(&self, state: &mut State, meta: LineMeta, line: &[u8]) {
        if self.broken.is_cancelled() {
            state.unwritten.add(line);
            return;
        }
        let size = (record::HEADER + line.len()) as u64;
        if state.tail.is_none() {
            let tail = self.limits.tail();
            let over = state.end() + size > self.limits.per_deployment - tail
                || self.held.load(Ordering::Relaxed) + size > self.limits.total;
            if over {
                state.tail = Some(Tail::new(self.folder.clone(), tail, state.lines));
                let text = format!(
                    "the log is long: what follows line {} is shown when the work is over, and of it only the end",
                    state.lines
                );
                self.push_progress(state, Progress::Noted { text }, 0);
            }
        }
        let result = match &mut state.tail {
            Some(tail) => {
                self.bell.unwritten.notify_one();
                tail.push(meta, line)
            }
            None => {
                self.push(state, meta, line);
                if state.buffer.len() >= BUFFER { self.flush(state) } else { Ok(()) }
            }
        };
        if let Err(error) = result {
            self.break_off(&error);
        }
    }

    fn break_off(&self, error: &io::Error) {
        if !self.broken.is_cancelled() {
            tracing::error!(deployment.id = %self.key.0, %error, "failed to spool a log; its job is ended");
            self.broken.cancel();
        }
    }

    /// Numbers a line and appends it to what is in memory.
    fn push(&self, state: &mut State, meta: LineMeta, line: &[u8]) {
        if state.buffer.is_empty() {
            self.bell.unwritten.notify_one();
        }
        state.number(state.end(), meta, line);
        record::write(&mut state.buffer, meta, line);
        state.since_urgent += record::HEADER + line.len();
        self.held.fetch_add((record::HEADER + line.len()) as u64, Ordering::Relaxed);
    }

    /// Writes what is in memory. If it fails, it stays there, and nothing is lost of it.
    fn flush(&self, state: &mut State) -> io::Result<()> {
        self.file.write_all_at(&state.buffer, state.written)?;
        state.written += state.buffer.len() as u64;
        state.buffer.clear();
        Ok(())
    }

    fn push_progress(&self, state: &mut State, what: Progress, dropped: u64) {
        let number = state.progress.len() as u64 + 1;
        let item = ProgressItem { number, after_line: state.lines, what, dropped };
        // Its lines first, then itself, and all that before it is sent.
        let written = match self.broken.is_cancelled() {
            true => Ok(()),
            false => self.flush(state),
        };
        if let Err(error) = written.and_then(|()| state.journal.append(&item)) {
            self.break_off(&error);
        }
        state.progress.push(item);
    }

    /// Puts the kept end behind the beginning, with a marker between them if something is missing there.
    fn join_tail(&self, state: &mut State) {
        let mut marked = Dropped::default();
        if let Some(mut tail) = state.tail.take() {
            if self.broken.is_cancelled() {
                tail.clear();
            }
            self.mark(state, tail.dropped, "it is longer than the agent keeps");
            marked = tail.dropped;
            while let Some(segment) = tail.pop() {
                let mut rest = segment.as_slice();
                while let Some((meta, line, size)) = record::first(rest) {
                    self.push(state, meta, line);
                    rest = &rest[size..];
                }
                if !self.broken.is_cancelled() && self.flush(state).is_err() {
                    self.broken.cancel();
                    // What is in memory stays there; the rest is not worth the agent's memory.
                    tail.clear();
                }
            }
            let late = Dropped {
                lines: tail.dropped.lines - marked.lines,
                bytes: tail.dropped.bytes - marked.bytes,
            };
            self.mark(state, late, "the agent's disk is full or broken");
            marked = tail.dropped;
        }
        let unwritten = state.unwritten;
        self.mark(state, unwritten, "the agent's disk is full or broken");
        state.dropped = marked.lines + unwritten.lines;
    }

    fn mark(&self, state: &mut State, missing: Dropped, why: &str) {
        if missing.lines == 0 {
            return;
        }
        let Dropped { lines, bytes } = missing;
        let text = format!("[{lines} lines ({bytes} bytes) of this log are missing here: {why}]");
        let step = state.step();
        let meta = LineMeta { length: length(text.as_bytes()), at_ms: now_ms(), step, stream: Stream::Sdp };
        self.push(state, meta, text.as_bytes());
    }
}

fn length(line: &[u8]) -> u32 {
    u32::try_from(line.len()).unwrap_or(u32::MAX)
}

fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
