//! What a container prints, as the engine keeps it: the last lines, or all that come from now on.
//!
//! Called by the agent. Lines are cut and redacted as those of a process. A follower goes on across restarts of the container
//! and of the engine, and misses or repeats nothing that the engine still has: it remembers how many lines of the newest second
//! it has handed over, for the engine can be asked for whole seconds only.
//!
//! Limits: [`MOST_BYTES`] of last lines, [`WAITING`] lines and [`WAITING_BYTES`] that wait for a follower; one that is slower slows only itself.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;

use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptionsBuilder;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use jiff::Timestamp;
use sdp_core::id::InstanceId;
use sdp_core::wire::{OutputLine, Stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::engine::{QUICK, said};
use super::{DockerRuntime, Entry};
use crate::exec::OnLine;
use crate::exec::lines::Lines;
use crate::runtime::Printed;
use crate::sync::Lock;

/// The most that is kept of last lines, in bytes; older ones are left out.
const MOST_BYTES: usize = 4 << 20;
/// So many lines wait for a follower.
const WAITING: usize = 1024;
/// And so many bytes.
const WAITING_BYTES: u32 = 1 << 20;
/// So many are handed over at once.
const PIECE: usize = 256;

impl DockerRuntime {
    pub(super) async fn output(&self, instance: InstanceId, lines: usize) -> Option<Vec<String>> {
        let entry = self.entry(instance)?;
        match self.last_lines(&entry, lines).await {
            Ok(lines) => Some(lines),
            Err(why) => {
                tracing::warn!(instance.id = %instance, %why, "failed to read what a container printed");
                None
            }
        }
    }

    /// The last lines that a container printed, oldest first.
    pub(super) async fn last_lines(&self, entry: &Entry, lines: usize) -> Result<Vec<String>, String> {
        let engine = self.engine()?;
        let kept: Arc<Lock<Tail>> = Arc::default();
        let on_line: OnLine = {
            let kept = kept.clone();
            Arc::new(move |_, line| kept.lock().push(line, lines))
        };
        let mut out = Lines::new(Stream::Stdout, &entry.redactor, &on_line);
        let mut err = Lines::new(Stream::Stderr, &entry.redactor, &on_line);
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail(&lines.to_string()).build();
        let mut frames = pin!(engine.api().logs(&entry.container, Some(options)));
        let read = async {
            while let Some(frame) = frames.next().await {
                match frame.map_err(|error| said(&error))? {
                    LogOutput::StdErr { message } => err.push(&message),
                    other => out.push(other.as_ref()),
                }
            }
            Ok(())
        };
        let read = timeout(QUICK, read).await.unwrap_or_else(|_| Err("the engine was too slow".to_owned()));
        out.finish();
        err.finish();
        let lines = std::mem::take(&mut kept.lock().lines);
        // Half an answer is better than none.
        if lines.is_empty() { read.map(|()| Vec::new()) } else { Ok(lines.into()) }
    }

    /// What an instance prints, beginning with so many of its last lines, until it has ended for good; none if it is unknown.
    #[must_use]
    pub fn follow(&self, instance: InstanceId, tail: usize) -> Option<BoxStream<'static, Printed>> {
        let entry = self.entry(instance)?;
        let (lines, followed) = follower();
        let runtime = self.clone();
        self.0.tasks.spawn(async move {
            tokio::select! {
                () = Box::pin(runtime.follow_into(&entry, tail, &lines)) => {}
                () = lines.queue.closed() => {}
                () = runtime.0.closing.cancelled() => {}
            }
        });
        let next = |mut followed: mpsc::Receiver<Weighed>| async move {
            let mut lines = Vec::new();
            let some = followed.recv_many(&mut lines, PIECE).await > 0;
            let lines = lines.into_iter().map(|(line, _room)| line).collect();
            // Nothing is left out: who is slow here makes the engine wait, which has all in its files.
            some.then_some((Printed { left_out: 0, lines }, followed))
        };
        Some(stream::unfold(followed, next).boxed())
    }

    async fn follow_into(&self, entry: &Entry, tail: usize, lines: &Follower) {
        let mut cursor = Cursor::new((tail == 0).then(Timestamp::now));
        let mut pulse = entry.pulse.subscribe();
        loop {
            pulse.mark_unchanged();
            // Asked before the lines: what has ended then prints nothing after them.
            let over = !entry.is_running();
            if let Err(why) = self.follow_once(entry, tail, &mut cursor, lines).await {
                tracing::debug!(instance.id = %entry.found.instance, %why, "a follower has to begin again");
            }
            if over || lines.queue.is_closed() {
                return;
            }
            // The engine ends the stream with the container's run; the next run, or its end, is told by the watch.
            if !entry.is_running() {
                continue;
            }
            if pulse.changed().await.is_err() {
                return;
            }
        }
    }

    /// Hands over lines until the container's run, or the engine, ends.
    async fn follow_once(
        &self,
        entry: &Entry,
        tail: usize,
        cursor: &mut Cursor,
        lines: &Follower,
    ) -> Result<(), String> {
        let engine = self.engine()?;
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).timestamps(true).follow(true);
        let options = match cursor.resume() {
            Some(second) => options.since(second).tail("all"),
            None => options.tail(&tail.to_string()),
        };
        let mut frames = pin!(engine.api().logs(&entry.container, Some(options.build())));
        let fresh: Arc<Lock<(Timestamp, Vec<OutputLine>)>> =
            Arc::new(Lock::new((Timestamp::UNIX_EPOCH, Vec::new())));
        let on_line: OnLine = {
            let fresh = fresh.clone();
            Arc::new(move |stream, line| {
                let mut fresh = fresh.lock();
                let at = fresh.0;
                fresh.1.push(OutputLine { at, stream, text: String::from_utf8_lossy(line).into_owned() });
            })
        };
        let mut out = Lines::new(Stream::Stdout, &entry.redactor, &on_line);
        let mut err = Lines::new(Stream::Stderr, &entry.redactor, &on_line);
        let mut result = Ok(());
        while let Some(frame) = frames.next().await {
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => {
                    result = Err(said(&error));
                    break;
                }
            };
            let Some((at, text)) = stamped(frame.as_ref()) else { continue };
            if !cursor.take(at) {
                continue;
            }
            fresh.lock().0 = at;
            match &frame {
                LogOutput::StdErr { .. } => err.push(text),
                _ => out.push(text),
            }
            let ready = std::mem::take(&mut fresh.lock().1);
            if !lines.send(ready).await {
                return Ok(());
            }
        }
        out.finish();
        err.finish();
        let ready = std::mem::take(&mut fresh.lock().1);
        // Whether somebody is still there or not.
        lines.send(ready).await;
        result
    }
}

/// A line that waits, and the room that it takes up until it is handed over.
type Weighed = (OutputLine, OwnedSemaphorePermit);

/// Where lines wait for a follower, bounded in number and bytes.
#[derive(Debug)]
struct Follower {
    queue: mpsc::Sender<Weighed>,
    room: Arc<Semaphore>,
}

fn follower() -> (Follower, mpsc::Receiver<Weighed>) {
    let (queue, followed) = mpsc::channel(WAITING);
    (Follower { queue, room: Arc::new(Semaphore::new(WAITING_BYTES as usize)) }, followed)
}

impl Follower {
    /// Waits until there is room for each; says whether anybody is still there.
    async fn send(&self, lines: Vec<OutputLine>) -> bool {
        for line in lines {
            let bytes = u32::try_from(line.text.len()).unwrap_or(WAITING_BYTES).min(WAITING_BYTES);
            let Ok(room) = self.room.clone().acquire_many_owned(bytes).await else { return false };
            if self.queue.send((line, room)).await.is_err() {
                return false;
            }
        }
        true
    }
}

/// The last lines, bounded in number and bytes.
#[derive(Debug, Default)]
struct Tail {
    lines: VecDeque<String>,
    bytes: usize,
}

impl Tail {
    fn push(&mut self, line: &[u8], most: usize) {
        let line = String::from_utf8_lossy(line).into_owned();
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.lines.len() > most || (self.bytes > MOST_BYTES && self.lines.len() > 1) {
            self.bytes -= self.lines.pop_front().map_or(0, |line| line.len());
        }
    }
}

/// A piece of output, and when it was printed.
fn stamped(frame: &[u8]) -> Option<(Timestamp, &[u8])> {
    let space = memchr::memchr(b' ', frame.get(..40.min(frame.len()))?)?;
    let at = std::str::from_utf8(&frame[..space]).ok()?.parse().ok()?;
    Some((at, &frame[space + 1..]))
}

/// Where a follower is. The engine can be asked for what came since a second; of that the follower leaves out as many pieces as
/// it has had, which stand there in the same order.
#[derive(Debug)]
struct Cursor {
    /// Nothing from before is wanted.
    from: Option<Timestamp>,
    /// The newest second that something came from, and how many pieces of it and later came.
    second: Option<i64>,
    /// The earliest of those, for what a tail left out before it is not wanted later either.
    least: Timestamp,
    had: u64,
    skip: u64,
}

impl Cursor {
    fn new(from: Option<Timestamp>) -> Self {
        Self { from, least: Timestamp::UNIX_EPOCH, second: None, had: 0, skip: 0 }
    }

    /// From which second to ask, if something has come.
    fn resume(&mut self) -> Option<i32> {
        self.skip = self.had;
        let second = self.second.or_else(|| Some(self.from?.as_second()))?;
        i32::try_from(second).ok()
    }

    /// Whether a piece is new.
    fn take(&mut self, at: Timestamp) -> bool {
        if self.from.is_some_and(|from| at < from) {
            return false;
        }
        let second = at.as_second();
        if self.skip > 0 && self.second.is_some_and(|newest| second >= newest) {
            if at >= self.least {
                self.skip -= 1;
            }
            return false;
        }
        match self.second {
            Some(newest) if second < newest => {}
            Some(newest) if second == newest => (self.had, self.least) = (self.had + 1, self.least.min(at)),
            _ => (self.second, self.had, self.least) = (Some(second), 1, at),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        format!("2026-01-01T00:00:{text}Z").parse().unwrap()
    }

    #[test]
    fn a_follower_that_begins_again_repeats_and_misses_nothing() {
        let mut cursor = Cursor::new(None);
        assert_eq!(cursor.resume(), None, "nothing has come: as at first");
        let log = ["01.5", "02.1", "02.3", "02.2", "02.3"].map(at);
        // It began with the last three of these.
        assert!(log[2..].iter().all(|at| cursor.take(*at)));
        assert_eq!(cursor.resume(), Some(i32::try_from(at("02").as_second()).unwrap()));
        // The engine repeats the whole second, then come new ones, one with a time from before.
        let taken: Vec<bool> =
            ["02.1", "02.3", "02.2", "02.3", "02.25", "03.1"].map(|text| cursor.take(at(text))).to_vec();
        assert_eq!(taken, [false, false, false, false, true, true]);
    }

    #[test]
    fn who_wants_only_what_comes_gets_nothing_from_before() {
        let mut cursor = Cursor::new(Some(at("05.5")));
        assert!(cursor.resume().is_some());
        assert_eq!(["05.4", "05.6", "06.0"].map(|text| cursor.take(at(text))), [false, true, true]);
    }

    #[test]
    fn the_engines_stamp_is_taken_off() {
        let (when, text) = stamped(b"2026-01-01T00:00:01.500000000Z a b\n").unwrap();
        assert_eq!((when, text), (at("01.5"), &b"a b\n"[..]));
        assert_eq!(stamped(b"no stamp\n"), None);
        assert_eq!(stamped(b""), None);
    }

    #[tokio::test]
    async fn what_waits_for_a_follower_is_bounded_in_bytes() {
        use futures_util::FutureExt as _;
        let (follower, mut followed) = follower();
        let line = || OutputLine { at: at("01"), stream: Stream::Stdout, text: "x".repeat(64 << 10) };
        assert_eq!(follower.send((0..16).map(|_| line()).collect()).now_or_never(), Some(true));
        assert_eq!(follower.send(vec![line()]).now_or_never(), None, "it is full");
        drop(followed.recv().await);
        assert_eq!(follower.send(vec![line()]).now_or_never(), Some(true));
        drop(followed);
        assert!(!follower.send(vec![line()]).await, "nobody is there");
    }

    #[test]
    fn last_lines_are_bounded() {
        let mut tail = Tail::default();
        for number in 0..10 {
            tail.push(format!("line {number}").as_bytes(), 3);
        }
        assert_eq!(tail.lines, ["line 7", "line 8", "line 9"]);
        tail.push(&vec![b'x'; MOST_BYTES], 3);
        assert_eq!(tail.lines.len(), 1);
    }
}
