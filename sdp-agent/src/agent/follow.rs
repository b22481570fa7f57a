//! What running instances print, sent while somebody looks.
//!
//! ```text
//!   runtime: follow ─▶ a task each: gathers ─▶ a short queue ─▶ speak: after control, in turns with logs
//! ```
//! Called by [`connection`](super::connection): `follow_output` begins, `stop_following` or the end of the connection ends. The
//! tasks are the agent's tracker's. The invariant: a reader holds nobody up. The runtime's stream is read only as far as there
//! is room, and the runtime leaves out (and counts) what waits for too long there; control and job logs do not wait for it.
//!
//! Limits: [`FOLLOWS`] at once, [`MOST_TAIL`] lines to begin with; [`FRAME`] bytes of text in a frame, unless one line has
//! more, and a frame each [`GATHER`] of each follow; [`FRAMES`] wait for the connection, which sends at most [`PACE`] bytes
//! a second of all of them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use sdp_core::failure::{Failure, FailureReason};
use sdp_core::id::{CommandId, InstanceId};
use sdp_core::wire::{FromAgent, OutputLine};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Agent;
use crate::runtime::Printed;

const FOLLOWS: usize = 64;
const MOST_TAIL: u32 = 10_000;
const FRAME: usize = 64 * 1024;
const GATHER: Duration = Duration::from_millis(10);
const FRAMES: usize = 4;
/// Bytes of text a second.
pub(super) const PACE: u32 = 8 << 20;
/// What a line costs beside its text.
const LINE: usize = 64;

/// A frame on its way to the connection.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) message: FromAgent,
    bytes: usize,
}

impl Frame {
    /// How long to wait after this one.
    pub(super) fn pace(&self) -> Duration {
        Duration::from_secs(1) * u32::try_from(self.bytes).unwrap_or(u32::MAX) / PACE
    }
}

/// What one connection follows. Dropping it ends all of it.
#[derive(Debug)]
pub(super) struct Follows {
    agent: Arc<Agent>,
    frames: mpsc::Sender<Frame>,
    under_way: HashMap<CommandId, CancellationToken>,
    connected: CancellationToken,
    _ends_with_it: DropGuard,
}

impl Follows {
    pub(super) fn new(agent: Arc<Agent>) -> (Self, mpsc::Receiver<Frame>) {
        let (frames, queue) = mpsc::channel(FRAMES);
        let connected = agent.closing.child_token();
        let follows = Self {
            agent,
            frames,
            under_way: HashMap::new(),
            _ends_with_it: connected.clone().drop_guard(),
            connected,
        };
        (follows, queue)
    }

    /// Begins; says so at once if it cannot.
    pub(super) fn begin(&mut self, command: CommandId, instance: InstanceId, tail: u32) -> Option<FromAgent> {
        self.under_way.retain(|_, stop| !stop.is_cancelled());
        if self.under_way.contains_key(&command) {
            // The same command again has no second effect.
            return None;
        }
        if self.under_way.len() >= FOLLOWS {
            let detail = format!("the agent follows {FOLLOWS} instances at once, and has them");
            let failure = Some(Failure::new(None, FailureReason::AgentRefused, detail));
            return Some(FromAgent::OutputEnded { command, failure });
        }
        let stop = self.connected.child_token();
        self.under_way.insert(command, stop.clone());
        let (agent, frames) = (self.agent.clone(), self.frames.clone());
        let tail = usize::try_from(tail.min(MOST_TAIL)).unwrap_or(0);
        self.agent.tasks.spawn(async move {
            // Also marks it as over.
            let _over = stop.clone().drop_guard();
            tokio::select! {
                () = stop.cancelled() => {}
                () = follow(&agent, command, instance, tail, &frames) => {}
            }
        });
        None
    }

    pub(super) fn stop(&mut self, command: CommandId) {
        if let Some(stop) = self.under_way.remove(&command) {
            stop.cancel();
        }
    }
}

async fn follow(
    agent: &Agent,
    command: CommandId,
    instance: InstanceId,
    tail: usize,
    frames: &mpsc::Sender<Frame>,
) {
    let Some(mut printed) = agent.tools.runtime.follow(instance, tail).await else {
        let detail = "the agent has no output of this instance any more";
        let failure = Some(Failure::new(None, FailureReason::AgentRestarted, detail));
        drop(frames.send(Frame { message: FromAgent::OutputEnded { command, failure }, bytes: 0 }).await);
        return;
    };
    // The first frame, even if it is empty, says that it is being followed.
    let mut gathered = Gathered { due: true, ..Gathered::default() };
    let mut not_before = Instant::now();
    let mut more = true;
    while more || gathered.due {
        tokio::select! {
            biased;
            room = room(frames, not_before), if gathered.due => {
                let Some(room) = room else { return };
                room.send(gathered.frame(command));
                not_before = Instant::now() + GATHER;
            }
            next = printed.next(), if more && gathered.bytes < FRAME => match next {
                Some(next) => gathered.take(next),
                None => more = false,
            },
        }
    }
    drop(frames.send(Frame { message: FromAgent::OutputEnded { command, failure: None }, bytes: 0 }).await);
}

/// Room for a frame, but not before then.
async fn room(frames: &mpsc::Sender<Frame>, not_before: Instant) -> Option<mpsc::Permit<'_, Frame>> {
    sleep_until(not_before).await;
    frames.reserve().await.ok()
}

/// Lines that wait to be sent.
#[derive(Debug, Default)]
struct Gathered {
    /// Each with how many were left out before it.
    lines: VecDeque<(u64, OutputLine)>,
    bytes: usize,
    /// Whether there is something to say.
    due: bool,
}

impl Gathered {
    fn take(&mut self, printed: Printed) {
        let Printed { mut left_out, lines } = printed;
        for line in lines {
            self.due = true;
            self.bytes += line.text.len() + LINE;
            self.lines.push_back((std::mem::take(&mut left_out), line));
        }
    }

    /// As much as one frame says: up to the next gap, or until it is full.
    fn frame(&mut self, command: CommandId) -> Frame {
        let mut bytes = 0;
        let mut left_out = 0;
        let mut lines = Vec::new();
        while let Some((gap, line)) = self.lines.front() {
            let cost = line.text.len() + LINE;
            if !lines.is_empty() && (*gap > 0 || bytes + cost > FRAME) {
                break;
            }
            bytes += cost;
            left_out += gap;
            lines.extend(self.lines.pop_front().map(|(_, line)| line));
        }
        self.bytes -= bytes;
        self.due = !self.lines.is_empty();
        Frame { message: FromAgent::Output { command, left_out, lines }, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sdp_core::wire::Stream;

    fn printed(left_out: u64, texts: impl IntoIterator<Item = String>) -> Printed {
        let line = |text| OutputLine { at: jiff::Timestamp::UNIX_EPOCH, stream: Stream::Stdout, text };
        Printed { left_out, lines: texts.into_iter().map(line).collect() }
    }

    fn said(gathered: &mut Gathered) -> (u64, Vec<String>) {
        match gathered.frame(CommandId::new()).message {
            FromAgent::Output { left_out, lines, .. } => {
                (left_out, lines.into_iter().map(|line| line.text).collect())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lines_go_in_frames_of_a_bounded_size_in_order() {
        let mut gathered = Gathered::default();
        gathered.take(printed(0, (0..10_000).map(|n| format!("line {n}"))));
        let (mut next, mut frames) = (0, 0);
        while gathered.due {
            let (left_out, lines) = said(&mut gathered);
            assert_eq!(left_out, 0);
            assert!(lines.len() * LINE <= FRAME);
            for line in lines {
                assert_eq!(line, format!("line {next}"));
                next += 1;
            }
            frames += 1;
        }
        assert_eq!((next, gathered.bytes), (10_000, 0));
        assert!(frames > 10, "{frames}");
    }

    #[test]
    fn a_gap_is_told_where_it_is() {
        let mut gathered = Gathered::default();
        gathered.take(printed(2, ["a".to_owned(), "b".to_owned()]));
        gathered.take(printed(5, ["h".to_owned()]));
        assert_eq!(said(&mut gathered), (2, vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(said(&mut gathered), (5, vec!["h".to_owned()]));
    }

    #[test]
    fn one_line_that_is_longer_than_a_frame_goes_alone() {
        let mut gathered = Gathered::default();
        gathered.take(printed(0, ["x".repeat(3 * FRAME), "y".to_owned()]));
        assert_eq!(said(&mut gathered).1[0].len(), 3 * FRAME);
        assert_eq!(said(&mut gathered).1, ["y"]);
        assert!(!gathered.due);
    }
}
