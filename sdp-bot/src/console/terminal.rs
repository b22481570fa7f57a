//! The terminal that this process has: what it can do, how large it is, and its input.

use std::io::{IsTerminal, Read};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};
use tokio::io::{AsyncRead, BufReader, ReadBuf};
use tokio::sync::mpsc;

use super::Look;

/// The smallest terminal in which messages change in place.
const MIN_COLUMNS: usize = 40;
const MIN_ROWS: usize = 8;
/// How many reads may wait to be taken.
const INPUT_QUEUE: usize = 8;

/// How large the terminal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// As large as the standard output says at the moment.
    OfOutput,
    /// Columns and rows.
    Fixed(usize, usize),
}

impl Size {
    /// Columns and rows now.
    #[must_use]
    pub fn now(self) -> (usize, usize) {
        match self {
            Self::Fixed(columns, rows) => (columns, rows),
            Self::OfOutput => match tcgetwinsize(std::io::stdout()) {
                Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
                _ => (80, 24),
            },
        }
    }
}

/// How a console looks in this terminal or pipe, whether in colours, and whether the output is a terminal.
pub(super) fn detect() -> (Look, bool, bool) {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let steerable = std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
    let output = std::io::stdout().is_terminal();
    let colour = output && steerable && !is_set("NO_COLOR");
    let (columns, rows) = Size::OfOutput.now();
    let look = if !std::io::stdin().is_terminal() {
        Look::Script
    } else if output
        && steerable
        && columns >= MIN_COLUMNS
        && rows >= MIN_ROWS
        && tcgetattr(std::io::stdin()).is_ok()
    {
        Look::Live(Size::OfOutput)
    } else {
        Look::Lines
    };
    (look, colour, output)
}

/// The terminal hands over every key at once and echoes none; given back when dropped. Ctrl-C stays a signal.
pub(super) struct Raw {
    before: Termios,
}

impl Raw {
    pub(super) fn enter() -> Option<Self> {
        let before = tcgetattr(std::io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that has gone needs nothing back.
        let _gone = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// The standard input, read by a thread of its own.
///
/// A read from a terminal cannot be broken off. tokio's own would keep the runtime from ending until somebody presses a key;
/// this thread is detached on purpose and ends with the process.
#[derive(Debug)]
pub struct Stdin {
    reads: mpsc::Receiver<std::io::Result<Vec<u8>>>,
    left: Vec<u8>,
    at: usize,
}

/// The standard input, for [`super::run`].
#[must_use]
pub fn stdin() -> BufReader<Stdin> {
    let (sender, reads) = mpsc::channel(INPUT_QUEUE);
    let read = move || {
        let mut input = std::io::stdin().lock();
        let mut buffer = [0; 4096];
        loop {
            let read = match input.read(&mut buffer) {
                Ok(0) => return,
                Ok(n) => Ok(buffer[..n].to_vec()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let failed = read.is_err();
            if sender.blocking_send(read).is_err() || failed {
                return;
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("stdin".to_owned()).spawn(read) {
        tracing::error!(%error, "the standard input cannot be read");
    }
    BufReader::new(Stdin { reads, left: Vec::new(), at: 0 })
}

impl AsyncRead for Stdin {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.at == self.left.len() {
            match std::task::ready!(self.reads.poll_recv(context)) {
                Some(read) => {
                    self.left = read?;
                    self.at = 0;
                }
                None => return Poll::Ready(Ok(())),
            }
        }
        let n = buffer.remaining().min(self.left.len() - self.at);
        buffer.put_slice(&self.left[self.at..self.at + n]);
        self.at += n;
        Poll::Ready(Ok(()))
    }
}
