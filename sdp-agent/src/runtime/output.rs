//! What an instance prints: the last lines in memory, more of it in two files that are rotated, and never in its way.
//!
//! `line` is called by `exec` as lines come; `write` runs beside it as a task of the runtime and puts them into the files.
//! The instance never waits for the disk: what the disk cannot take is left out, and counted in one line.
//!
//! Limits: [`TAIL_LINES`] lines and [`TAIL_BYTES`] in memory, [`PENDING`] bytes on their way to the disk, two files of
//! [`FILE`] bytes.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

pub(super) const TAIL_LINES: usize = 200;
const TAIL_BYTES: usize = 256 * 1024;
const PENDING: usize = 1024 * 1024;
const FILE: u64 = 4 * 1024 * 1024;

/// One instance's output.
#[derive(Debug)]
pub(super) struct Output {
    folder: PathBuf,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    tail: VecDeque<Box<[u8]>>,
    tail_bytes: usize,
    pending: Vec<u8>,
    left_out: u64,
    closed: bool,
}

impl Output {
    pub(super) fn new(folder: PathBuf) -> Arc<Self> {
        Arc::new(Self { folder, state: Mutex::default(), wake: Notify::new() })
    }

    /// Takes a line.
    pub(super) fn line(&self, line: &[u8]) {
        let mut state = self.state();
        state.tail_bytes += line.len();
        state.tail.push_back(line.into());
        while state.tail.len() > TAIL_LINES || (state.tail_bytes > TAIL_BYTES && state.tail.len() > 1) {
            let dropped = state.tail.pop_front().map_or(0, |line| line.len());
            state.tail_bytes -= dropped;
        }
        if state.pending.len() + line.len() < PENDING {
            state.pending.extend_from_slice(line);
            state.pending.push(b'\n');
        } else {
            state.left_out += 1;
        }
        drop(state);
        self.wake.notify_one();
    }

    /// No more lines come.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.wake.notify_one();
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

    /// The last lines in memory, oldest first.
    pub(super) fn tail(&self, lines: usize) -> Vec<String> {
        let state = self.state();
        let skip = state.tail.len().saturating_sub(lines);
        state.tail.iter().skip(skip).map(|line| String::from_utf8_lossy(line).into_owned()).collect()
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
                output.line(&line);
            }
            output.line(format!("round {round}").as_bytes());
            output.state().closed = true;
            output.clone().write().await;
            assert!(output.state().tail_bytes <= TAIL_BYTES);
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
            output.line(&vec![b'x'; 60 * 1024]);
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
            output.line(format!("line {number}").as_bytes());
        }
        output.close();
        output.clone().write().await;
        assert_eq!(output.last(3), ["line 997", "line 998", "line 999"]);
        assert_eq!(output.last(500).first().map(String::as_str), Some("line 500"));
        assert_eq!(output.last(5000).len(), 1000);
        assert_eq!(output.tail(5000).len(), TAIL_LINES);
    }

    #[tokio::test]
    async fn a_link_in_place_of_the_file_is_not_written_through() {
        let folder = tempfile::tempdir().unwrap();
        let victim = folder.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, folder.path().join(NEWER)).unwrap();
        let output = Output::new(folder.path().to_owned());
        output.line(b"gotcha");
        output.close();
        output.clone().write().await;
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(output.last(10), ["gotcha"], "memory still has it");
    }
}
