//! What one connection has sent of every job, and what it sends next. Made anew for each connection, from its welcome.
//!
//! The rules, in the order in which they are tried: progress whose lines were sent; lines, if the window is open and the
//! batch is worth sending; `done` once all is sent. Jobs take turns, so that a noisy build does not starve another. Lines
//! of one job go out at once after a pause, then at most each [`PACE`] unless a large batch has gathered.
//!
//! Limits: [`WINDOW`] bytes of one job, [`CONNECTION_WINDOW`] of all, are under way without an acknowledgement; at the
//! limit the lines wait on disk.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use sdp_core::wire::MAX_FRAME;
use sdp_core::wire::link::AgentFrame;
use tokio::time::Instant;

use super::log::{Cursor, JobLog};
use super::{JobKey, Spool, record};
use crate::sync::Lock;

/// Unacknowledged bytes of one job.
const WINDOW: u64 = 4 << 20;
/// Unacknowledged bytes of all jobs.
const CONNECTION_WINDOW: u64 = 16 << 20;
/// Between two small batches of one job.
const PACE: Duration = Duration::from_millis(5);
/// A batch of this size does not wait.
const WORTH_SENDING: u64 = 64 * 1024;
/// Bytes of records in a batch: a frame but for its header.
const BATCH: usize = MAX_FRAME - 64;

/// What to do next.
#[derive(Debug)]
pub(crate) enum Next {
    Frame(AgentFrame),
    /// Nothing before this time or before the bell rings.
    Wait {
        until: Option<Instant>,
    },
}

#[derive(Debug)]
pub(crate) struct Outflow {
    spool: Arc<Spool>,
    flows: Lock<Flows>,
}

#[derive(Debug, Default)]
struct Flows {
    jobs: BTreeMap<JobKey, Flow>,
    last: Option<JobKey>,
    under_way: u64,
}

#[derive(Debug)]
struct Flow {
    log: JobLog,
    cursor: Cursor,
    progress_sent: u64,
    /// Batches that are not acknowledged: last line, bytes.
    under_way: VecDeque<(u64, u64)>,
    under_way_bytes: u64,
    done_sent: bool,
    /// Small batches wait until then.
    not_before: Option<Instant>,
    /// Changes when the cursor is set anew while a batch is being read.
    turn: u64,
}

enum Choice {
    Frame(AgentFrame),
    Read { key: JobKey, log: JobLog, cursor: Cursor, turn: u64 },
    Wait(Option<Instant>),
}

impl Outflow {
    pub(crate) fn new(spool: Arc<Spool>) -> Self {
        Self { spool, flows: Lock::default() }
    }

    /// Sends a job from there on: at the welcome, for a new job, and when the server wants something again.
    pub(crate) fn send_after(&self, key: JobKey, lines: u64, progress: u64) {
        let Some(log) = self.spool.find(key) else { return };
        let cursor = log.after(lines);
        let progress_sent = progress.min(log.report().progress);
        {
            let mut flows = self.flows.lock();
            let turn = flows.jobs.get(&key).map_or(0, |flow| flow.turn + 1);
            flows.forget(key);
            let flow = Flow {
                log,
                cursor,
                progress_sent,
                under_way: VecDeque::new(),
                under_way_bytes: 0,
                done_sent: false,
                not_before: None,
                turn,
            };
            flows.jobs.insert(key, flow);
        }
        self.spool.bell().ring_urgently();
    }

    /// The server has everything up to there; the window moves on.
    pub(crate) fn ack(&self, key: JobKey, lines: u64) {
        {
            let mut flows = self.flows.lock();
            let Some(flow) = flows.jobs.get_mut(&key) else { return };
            let mut freed = 0;
            while let Some((_, bytes)) = flow.under_way.front().filter(|(last, _)| *last <= lines) {
                freed += bytes;
                flow.under_way.pop_front();
            }
            flow.under_way_bytes -= freed;
            flows.under_way -= freed;
        }
        self.spool.bell().ring_urgently();
    }

    /// Sends nothing more of a job.
    pub(crate) fn forget(&self, key: JobKey) {
        self.flows.lock().forget(key);
    }

    /// The next frame to send.
    pub(crate) async fn next(&self) -> io::Result<Next> {
        loop {
            self.spool.bell().looked();
            let choice = self.flows.lock().choose(Instant::now());
            match choice {
                Choice::Frame(frame) => return Ok(Next::Frame(frame)),
                Choice::Wait(until) => return Ok(Next::Wait { until }),
                Choice::Read { key, log, cursor, turn } => {
                    let read = move || {
                        let mut cursor = cursor;
                        log.read(&mut cursor, BATCH).map(|batch| batch.map(|batch| (cursor, batch)))
                    };
                    let result = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?;
                    // A log that was removed meanwhile can still be read, so an error is one of the disk.
                    let Some((cursor, batch)) = result? else { continue };
                    let mut flows = self.flows.lock();
                    let flows = &mut *flows;
                    let Some(flow) = flows.jobs.get_mut(&key).filter(|flow| flow.turn == turn) else {
                        continue;
                    };
                    // As on the wire, so that empty lines count too.
                    let bytes = (batch.bytes.len() + batch.lines.len() * record::HEADER) as u64;
                    flow.cursor = cursor;
                    flow.under_way.push_back((batch.last(), bytes));
                    flow.under_way_bytes += bytes;
                    flow.not_before = Some(Instant::now() + PACE);
                    flows.under_way += bytes;
                    flows.last = Some(key);
                    return Ok(Next::Frame(AgentFrame::Lines(batch)));
                }
            }
        }
    }

    /// Returns when [`Self::next`] may have something else to say than `Wait { until }`.
    pub(crate) async fn changed(&self, until: Option<Instant>) {
        let bell = self.spool.bell();
        match until {
            Some(until) => tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                () = bell.urgent.notified() => {}
            },
            None => tokio::select! {
                () = bell.any.notified() => {}
                () = bell.urgent.notified() => {}
            },
        }
    }
}

impl Flows {
    fn forget(&mut self, key: JobKey) {
        if let Some(flow) = self.jobs.remove(&key) {
            self.under_way -= flow.under_way_bytes;
        }
    }

    fn choose(&mut self, now: Instant) -> Choice {
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let up_to = self.last.map_or(Bound::Unbounded, Bound::Included);
        let first = self.jobs.range((after, Bound::Unbounded));
        let turns: Vec<JobKey> = match self.last {
            Some(_) => first.chain(self.jobs.range((Bound::Unbounded, up_to))).map(|(key, _)| *key).collect(),
            None => first.map(|(key, _)| *key).collect(),
        };
        let connection_open = self.under_way < CONNECTION_WINDOW;
        let mut wait: Option<Instant> = None;
        for key in turns {
            let Some(flow) = self.jobs.get_mut(&key) else { continue };
            match flow.choose(key, connection_open, now) {
                Choice::Wait(until) => wait = [wait, until].into_iter().flatten().min(),
                choice => {
                    self.last = Some(key);
                    return choice;
                }
            }
        }
        Choice::Wait(wait)
    }
}

impl Flow {
    fn choose(&mut self, key: JobKey, connection_open: bool, now: Instant) -> Choice {
        let waiting = self.log.waiting(&self.cursor, self.progress_sent);
        let lines_sent = self.cursor.wanted - 1;
        if waiting.progress_after.is_some_and(|after| after <= lines_sent)
            && let Some(frame) = self.log.progress_frame(self.progress_sent + 1)
        {
            self.progress_sent += 1;
            return Choice::Frame(frame.into());
        }
        if waiting.lines > lines_sent {
            if !connection_open || self.under_way_bytes >= WINDOW {
                return Choice::Wait(None);
            }
            let hurry = waiting.bytes >= WORTH_SENDING || waiting.progress_after.is_some() || waiting.done;
            return match self.not_before {
                Some(until) if until > now && !hurry => Choice::Wait(Some(until)),
                _ => Choice::Read { key, log: self.log.clone(), cursor: self.cursor, turn: self.turn },
            };
        }
        if waiting.done && waiting.progress_after.is_none() && !self.done_sent {
            self.done_sent = true;
            return Choice::Frame(self.log.done_frame().into());
        }
        Choice::Wait(None)
    }
}
