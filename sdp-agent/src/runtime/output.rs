//! What an instance prints: the last lines in memory, more of it in two files that are rotated, and never in its way.
//!
//! `line` is called by `exec` as lines come; `write` runs beside it as a task of the runtime and puts them into the files.
//! The instance never waits for the disk: what the disk cannot take is left out, and counted in one line. Nor does it wait
//! for those who [follow](Output::follow): each is a cursor over the lines in memory, and what has gone from there before it
//! came by is left out for it, and counted.
//!
//! Limits: [`RING_LINES`] lines and [`RING_BYTES`] in memory, of which the last [`TAIL_LINES`] and [`TAIL_BYTES`] are an
//! instance's last words; [`PIECE`] lines at once for a follower; [`PENDING`] bytes on their way to the disk, two files of
//! [`FILE`] bytes.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::stream::{BoxStream, StreamExt as _, unfold};
use jiff::Timestamp;
use sdp_core::wire::{OutputLine, Stream};
use tokio::sync::Notify;

use super::Printed;

pub(super) const TAIL_LINES: usize = sdp_core::wire::bound::MOST_LAST_LINES;
const TAIL_BYTES: usize = 256 * 1024;
const RING_LINES: usize = 8192;
const RING_BYTES: usize = 1024 * 1024;
const PIECE: usize = 500;
const PENDING: usize = 1024 * 1024;
const FILE: u64 = 4 * 1024 * 1024;

/// One instance's output.
#[derive(Debug)]
pub(super) struct Output {
    folder: PathBuf,
    state: Mutex<State>,
    wake: Notify,
    printed: Notify,
}

#[derive(Debug, Default)]
struct State {
    ring: VecDeque<Line>,
    ring_bytes: usize,
    /// How many lines have gone from the ring: the number of its first one.
    gone: u64,
    pending: Vec<u8>,
    left_out: u64,
    closed: bool,
}

#[derive(Debug)]
struct Line {
    at: Timestamp,
    stream: Stream,
    text: Box<[u8]>,
}

impl Output {
    pub(super) fn new(folder: PathBuf) -> Arc<Self> {
        Arc::new(Self { folder, state: Mutex::default(), wake: Notify::new(), printed: Notify::new() })
    }

    /// Takes a line.
    pub(super) fn line(&self, stream: Stream, line: &[u8]) {
        let mut state = self.state();
        state.ring_bytes += line.len();
        state.ring.push_back(Line { at: Timestamp::now(), stream, text: line.into() });
        while state.ring.len() > RING_LINES || (state.ring_bytes > RING_BYTES && state.ring.len() > 1) {
            let dropped = state.ring.pop_front().map_or(0, |line| line.text.len());
            state.ring_bytes -= dropped;
            state.gone += 1;
        }
        if state.pending.len() + line.len() < PENDING {
            state.pending.extend_from_slice(line);
            state.pending.push(b'\n');
        } else {
            state.left_out += 1;
        }
        drop(state);
        self.wake.notify_one();
        self.printed.notify_waiters();
    }

    /// No more lines come.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.wake.notify_one();
        self.printed.notify_waiters();
    }

    /// The last lines in memory, then more as they come, until it is closed.
    pub(super) fn follow(self: Arc<Self>, tail: usize) -> BoxStream<'static, Printed> {
        let cursor = {
            let state = self.state();
            state.gone + state.ring.len().saturating_sub(tail) as u64
        };
        unfold((self, cursor), |(output, mut cursor)| async move {
            loop {
                // Asked for before it is looked: what is printed in between rings.
                let printed = output.printed.notified();
                match output.state().after(&mut cursor) {
                    After::Lines(lines) => return Some((lines, (output.clone(), cursor))),
                    After::Nothing => {}
                    After::Closed => return None,
                }
                printed.await;
            }
        })
        .boxed()
    }

    /// Writes lines to the files until it is closed and all are written.
    pub(super) async fn write(self: Arc<Self>) {
        let mut file = None;
        loop {
            let (batch, left_out, closed) = {
                let mut state = self.state();
                (std::mem::take(&mut state.pending), std::mem::take(&mut state.left_out), state.closed)
            };
            if batch.is_empty() && left_out == 0 {
                if closed {
                    return;
                }
                self.wake.notified().await;
                continue;
            }
            let folder = self.folder.clone();
            let written = tokio::task::spawn_blocking(move || {
                let mut file = file;
                let result = append(&folder, &mut file, &batch, left_out);
                (file, result)
            })
            .await;
            file = match written {
                Ok((file, Ok(()))) => file,
                // It was forgotten, files and all, before its last words were written.
                Ok((_, Err(error))) if error.kind() == io::ErrorKind::NotFound => None,
                Ok((_, Err(error))) => {
                    tracing::warn!(%error, folder = %self.folder.display(), "cannot write an instance's output");
                    None
                }
                // The runtime is going down.
                Err(_) => return,
            };
        }
    }

    /// The last lines in memory, oldest first; its last words, if that is all that is asked for.
    pub(super) fn tail(&self, lines: usize) -> Vec<String> {
        let most = if lines <= TAIL_LINES { TAIL_BYTES } else { RING_BYTES };
        let mut bytes = 0;
        let state = self.state();
        let last = state.ring.iter().rev().take(lines).enumerate();
        let fitting = last.take_while(|(index, line)| {
            bytes += line.text.len();
            *index == 0 || bytes <= most
        });
        let mut tail: Vec<String> = fitting.map(|(_, line)| line.text()).collect();
        tail.reverse();
        tail
    }

    /// The last lines, from the files if there are more than memory holds. Reads the disk.
    pub(super) fn last(&self, lines: usize) -> Vec<String> {
        let tail = self.tail(lines);
        if lines <= tail.len() {
            return tail;
        }
        let mut bytes = Vec::new();
        for name in [OLDER, NEWER] {
            if let Ok(file) = open(&self.folder.join(name), OpenOptions::new().read(true)) {
                // A file that is being rotated under us is no more than a gap.
                drop(file.take(FILE + PENDING as u64).read_to_end(&mut bytes));
            }
        }
        let all: Vec<&[u8]> = bytes.strip_suffix(b"\n").unwrap_or(&bytes).split(|b| *b == b'\n').collect();
        if bytes.is_empty() || all.len() < tail.len() {
            return tail;
        }
        let skip = all.len().saturating_sub(lines);
        all.iter().skip(skip).map(|line| String::from_utf8_lossy(line).into_owned()).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What comes after a cursor.
enum After {
    Lines(Printed),
    Nothing,
    Closed,
}

impl State {
    fn after(&self, cursor: &mut u64) -> After {
        let left_out = self.gone.saturating_sub(*cursor);
        let from = usize::try_from((*cursor).saturating_sub(self.gone)).unwrap_or(usize::MAX);
        let lines: Vec<OutputLine> = self
            .ring
            .iter()
            .skip(from)
            .take(PIECE)
            .map(|line| OutputLine { at: line.at, stream: line.stream, text: line.text() })
            .collect();
        *cursor += left_out + lines.len() as u64;
        match (lines.is_empty(), self.closed) {
            (false, _) => After::Lines(Printed { left_out, lines }),
            (true, false) => After::Nothing,
            (true, true) => After::Closed,
        }
    }
}

impl Line {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.text).into_owned()
    }
}

const NEWER: &str = "output.log";
const OLDER: &str = "output.1.log";

fn append(folder: &Path, file: &mut Option<File>, batch: &[u8], left_out: u64) -> io::Result<()> {
    let path = folder.join(NEWER);
    let mut current = match file.take() {
        Some(file) => file,
        None => open(&path, OpenOptions::new().append(true).create(true).mode(0o600))?,
    };
    if current.seek(SeekFrom::End(0))? + batch.len() as u64 > FILE {
        std::fs::rename(&path, folder.join(OLDER))?;
        current = open(&path, OpenOptions::new().append(true).create(true).mode(0o600))?;
    }
    current.write_all(batch)?;
    if left_out > 0 {
        writeln!(current, "[{left_out} lines left out: the disk was too slow]")?;
    }
    *file = Some(current);
    Ok(())
}

/// Never through a link: the folder is beside what the service may write to.
fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = options.custom_flags(i32::try_from(flags.bits()).unwrap_or(0)).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_service_that_prints_without_end_fills_neither_memory_nor_disk() {
        let folder = tempfile::tempdir().unwrap();
        let output = Output::new(folder.path().to_owned());
        let line = vec![b'x'; 60 * 1024];
        for round in 0..20 {
            for _ in 0..15 {
                output.line(Stream::Stdout, &line);
            }
            output.line(Stream::Stdout, format!("round {round}").as_bytes());
            output.state().closed = true;
            output.clone().write().await;
            assert!(output.state().ring_bytes <= RING_BYTES);
            assert!(output.tail(TAIL_LINES).iter().map(String::len).sum::<usize>() <= TAIL_BYTES);
        }
        let size: u64 =
            [NEWER, OLDER].iter().map(|name| folder.path().join(name).metadata().unwrap().len()).sum();
        assert!(size > FILE && size <= 2 * FILE, "{size}");
        assert_eq!(output.tail(1), ["round 19"]);
    }

    #[tokio::test]
    async fn what_a_slow_disk_cannot_take_is_counted_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let output = Output::new(folder.path().to_owned());
        for _ in 0..40 {
            output.line(Stream::Stdout, &vec![b'x'; 60 * 1024]);
        }
        output.close();
        output.clone().write().await;
        let text = std::fs::read_to_string(folder.path().join(NEWER)).unwrap();
        assert_eq!(text.lines().last(), Some("[23 lines left out: the disk was too slow]"));
    }

    #[tokio::test]
    async fn more_lines_than_memory_holds_come_from_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let output = Output::new(folder.path().to_owned());
        for number in 0..1000 {
            output.line(Stream::Stdout, format!("line {number}").as_bytes());
        }
        output.close();
        output.clone().write().await;
        assert_eq!(output.last(3), ["line 997", "line 998", "line 999"]);
        assert_eq!(output.last(500).first().map(String::as_str), Some("line 500"));
        assert_eq!(output.last(5000).len(), 1000);
        assert_eq!(output.tail(5000).len(), 1000);
        assert_eq!(output.tail(TAIL_LINES).len(), TAIL_LINES);
    }

    #[tokio::test]
    async fn a_link_in_place_of_the_file_is_not_written_through() {
        let folder = tempfile::tempdir().unwrap();
        let victim = folder.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, folder.path().join(NEWER)).unwrap();
        let output = Output::new(folder.path().to_owned());
        output.line(Stream::Stdout, b"gotcha");
        output.close();
        output.clone().write().await;
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(output.last(10), ["gotcha"], "memory still has it");
    }

    fn numbers(printed: &Printed) -> Vec<u64> {
        let number = |line: &OutputLine| line.text.strip_prefix("line ").unwrap().parse().unwrap();
        printed.lines.iter().map(number).collect()
    }

    #[tokio::test]
    async fn a_follower_gets_the_tail_then_what_comes_with_stream_and_time_until_it_is_closed() {
        let output = Output::new("/nowhere".into());
        for number in 0..1000 {
            output.line(Stream::Stdout, format!("line {number}").as_bytes());
        }
        let mut follow = output.clone().follow(3);
        let first = follow.next().await.unwrap();
        assert_eq!((first.left_out, numbers(&first)), (0, vec![997, 998, 999]));
        let (next, ()) = tokio::join!(follow.next(), async {
            tokio::task::yield_now().await;
            output.line(Stream::Stderr, b"line 1000");
        });
        let next = next.unwrap();
        assert_eq!((numbers(&next), next.lines[0].stream), (vec![1000], Stream::Stderr));
        assert!(next.lines[0].at >= first.lines[2].at);
        let mut other = output.clone().follow(0);
        let (end, other_end, ()) = tokio::join!(follow.next(), other.next(), async {
            tokio::task::yield_now().await;
            output.close();
        });
        assert_eq!((end, other_end), (None, None));
        assert_eq!(
            output.follow(1).next().await.map(|printed| numbers(&printed)),
            Some(vec![1000]),
            "its last words stay"
        );
    }

    #[tokio::test]
    async fn a_follower_that_is_slow_loses_lines_which_are_counted_and_slows_nobody() {
        let output = Output::new("/nowhere".into());
        let mut follow = output.clone().follow(0);
        for number in 0..100_000 {
            output.line(Stream::Stdout, format!("line {number}").as_bytes());
        }
        output.close();
        let (mut left_out, mut next) = (0, 0);
        while let Some(printed) = follow.next().await {
            assert!(printed.lines.len() <= PIECE);
            left_out += printed.left_out;
            next += printed.left_out;
            for number in numbers(&printed) {
                assert_eq!(number, next, "in order, and every gap is counted");
                next += 1;
            }
        }
        assert_eq!((left_out, next), (100_000 - RING_LINES as u64, 100_000));
    }
}
