//! What was seen on the way: a trace for people, and what must hold of every frame.
//!
//! - An agent numbers lines and progress of an attempt densely from 1, and what has a number never changes. After a new life
//!   of the agent they go on from what the server has: the welcome says from where.
//! - What is acknowledged is in the log file by then, and is never asked for again.
//! - An attempt of a deployment is given one container, ever, over all engines.
//! - A route table sends a service's requests in a sandbox to one instance at most.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::{Debug, Write as _};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use sdp_core::deployment::{Outcome, Step};
use sdp_core::id::DeploymentId;
use sdp_core::routing::RouteTable;
use sdp_core::wire::link::AgentFrame;
use sdp_core::wire::{FromAgent, JobAction, JobResult, Progress, Stream, ToAgent};
use tokio::sync::watch;

use crate::link::Fault;

/// The trace shows so many of its last entries.
const SHOWN: usize = 400;

/// A line as its agent sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SentLine {
    pub(crate) step: Step,
    pub(crate) stream: Stream,
    pub(crate) text: Vec<u8>,
}

/// The agent's own copy of what it said of an attempt.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) lines: Vec<SentLine>,
    /// With the line that each comes after.
    pub(crate) progress: Vec<(u64, Progress)>,
    acked: (u64, u64),
    life: u64,
}

impl Said {
    /// Whether the deployment ended so because its agent said so. That it was cancelled, the server may also say by itself:
    /// there the agent's word counts if it was acked.
    pub(crate) fn ends_by_its_word(&self, outcome: &Outcome) -> bool {
        let result = self.progress.iter().zip(1_u64..).find_map(|((_, what), number)| match what {
            Progress::Ended { result } => Some((result, number)),
            _ => None,
        });
        match (result, outcome) {
            (Some((JobResult::Ready {}, _)), Outcome::Succeeded {}) => true,
            (Some((JobResult::Cancelled {}, number)), Outcome::Cancelled { .. }) => self.acked.1 >= number,
            (Some((JobResult::Failed { failure: said }, _)), Outcome::Failed { failure }) => said == failure,
            _ => false,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Witness {
    begun: Instant,
    /// Where the server keeps its logs.
    logs: PathBuf,
    frames: watch::Sender<u64>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    trace: Vec<String>,
    wrong: Vec<String>,
    said: HashMap<(DeploymentId, u32), Said>,
    table: RouteTable,
    /// Attempts that were given a container, on any machine.
    made: HashSet<(DeploymentId, u32)>,
    /// How often each kind of fault has hit a frame.
    faults: BTreeMap<&'static str, usize>,
}

impl Witness {
    pub(crate) fn new(logs: PathBuf) -> Self {
        Self { begun: Instant::now(), logs, frames: watch::Sender::new(0), seen: Mutex::default() }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn note(&self, text: impl Into<String>) {
        let at = self.begun.elapsed().as_millis();
        self.seen().trace.push(format!("{at:>6} ms  {}", text.into()));
    }

    /// Something that must not be.
    pub(crate) fn wrong(&self, text: impl Into<String>) {
        let text = text.into();
        self.note(format!("WRONG: {text}"));
        self.seen().wrong.push(text);
    }

    pub(crate) fn fault(&self, agent: usize, fault: Fault, frame: &impl Debug) {
        self.note(format!("vm-{}: {fault:?} hits {}", agent + 1, short(frame)));
        *self.seen().faults.entry(fault.word()).or_default() += 1;
    }

    /// Counts the frames that have been seen.
    pub(crate) fn frames(&self) -> watch::Receiver<u64> {
        self.frames.subscribe()
    }

    pub(crate) fn faults(&self) -> BTreeMap<&'static str, usize> {
        self.seen().faults.clone()
    }

    /// An engine makes a container for an attempt.
    pub(crate) fn makes(&self, deployment: DeploymentId, attempt: u32) {
        let is_first = self.seen().made.insert((deployment, attempt));
        if !is_first {
            self.wrong(format!("a second container for attempt {attempt} of {deployment}"));
        }
    }

    pub(crate) fn what_is_wrong(&self) -> Option<String> {
        let seen = self.seen();
        (!seen.wrong.is_empty()).then(|| seen.wrong.join("; "))
    }

    pub(crate) fn trace(&self) -> String {
        let seen = self.seen();
        let left_out = seen.trace.len().saturating_sub(SHOWN);
        let mut text = if left_out > 0 { format!("({left_out} entries before)\n") } else { String::new() };
        for entry in &seen.trace[left_out..] {
            writeln!(text, "{entry}").ok();
        }
        text
    }

    pub(crate) fn table(&self) -> RouteTable {
        self.seen().table.clone()
    }

    /// What an agent said of each attempt of a deployment.
    pub(crate) fn with_said<T>(&self, id: DeploymentId, look: impl FnOnce(&[(u32, &Said)]) -> T) -> T {
        let seen = self.seen();
        let mut said: Vec<_> =
            seen.said.iter().filter(|((of, _), _)| *of == id).map(|((_, n), said)| (*n, said)).collect();
        said.sort_by_key(|(attempt, _)| *attempt);
        look(&said)
    }

    /// An agent sends this.
    pub(crate) fn said(&self, agent: usize, frame: &AgentFrame) {
        self.note(format!("vm-{} → {}", agent + 1, short(frame)));
        self.frames.send_modify(|frames| *frames += 1);
        let mut wrong = None;
        match frame {
            AgentFrame::Lines(batch) => {
                let key = (batch.deployment, batch.attempt);
                let mut seen = self.seen();
                let said = seen.said.entry(key).or_default();
                for (number, (meta, text)) in (batch.first..).zip(batch.iter()) {
                    let line = SentLine { step: meta.step, stream: meta.stream, text: text.to_vec() };
                    let at = usize::try_from(number - 1).expect("short logs");
                    match said.lines.get(at) {
                        Some(known) if *known != line => {
                            wrong =
                                Some(format!("line {number} of {key:?} has changed: {known:?}, {line:?}"));
                        }
                        Some(_) => {}
                        None if at == said.lines.len() => said.lines.push(line),
                        None => {
                            wrong =
                                Some(format!("line {number} of {key:?} follows line {}", said.lines.len()));
                        }
                    }
                }
            }
            AgentFrame::Control(message) => {
                if let FromAgent::Progress { deployment, attempt, number, after_line, what } = &**message {
                    let key = (*deployment, *attempt);
                    let item = (*after_line, what.clone());
                    let mut seen = self.seen();
                    let said = seen.said.entry(key).or_default();
                    let at = usize::try_from(number - 1).expect("few items");
                    match said.progress.get(at) {
                        Some(known) if *known != item => {
                            wrong =
                                Some(format!("item {number} of {key:?} has changed: {known:?}, {item:?}"));
                        }
                        Some(_) => {}
                        None if at == said.progress.len() => said.progress.push(item),
                        None => {
                            wrong = Some(format!(
                                "item {number} of {key:?} follows item {}",
                                said.progress.len()
                            ));
                        }
                    }
                }
            }
            _ => {}
        }
        if let Some(wrong) = wrong {
            self.wrong(wrong);
        }
    }

    /// The server sends this.
    pub(crate) fn ordered(&self, frame: &ToAgent) {
        let ToAgent::Routes { table } = frame else { return };
        let mut places = BTreeSet::new();
        for (sandbox, service, _) in table.targets() {
            if !places.insert((sandbox, service)) {
                self.wrong(format!("two routes for {service} in {sandbox}: {table:?}"));
            }
        }
        let mut seen = self.seen();
        if table.version >= seen.table.version {
            seen.table.clone_from(table);
        }
    }

    /// This arrives at an agent.
    pub(crate) fn told(&self, agent: usize, life: u64, frame: &ToAgent) {
        self.note(format!("vm-{} ← {}", agent + 1, short(frame)));
        self.frames.send_modify(|frames| *frames += 1);
        match frame {
            ToAgent::Ack { deployment, attempt, lines, progress } => {
                let durable = self.in_file(*deployment);
                if *lines > durable {
                    self.wrong(format!("{lines} lines of {deployment} are acked, {durable} are in the file"));
                }
                let mut seen = self.seen();
                let acked = &mut seen.said.entry((*deployment, *attempt)).or_default().acked;
                *acked = (acked.0.max(*lines), acked.1.max(*progress));
            }
            ToAgent::Rewind { deployment, attempt, lines, progress } => {
                self.asks(*deployment, *attempt, *lines, *progress);
            }
            ToAgent::Welcome { jobs, .. } => {
                for job in jobs {
                    let (JobAction::Send { lines, progress, .. } | JobAction::Cancel { lines, progress, .. }) =
                        job.action
                    else {
                        continue;
                    };
                    self.asks(job.deployment, job.attempt, lines, progress);
                    let mut seen = self.seen();
                    let said = seen.said.entry((job.deployment, job.attempt)).or_default();
                    if std::mem::replace(&mut said.life, life) != life {
                        said.lines.truncate(usize::try_from(lines).expect("short logs"));
                        said.progress.truncate(usize::try_from(progress).expect("few items"));
                    }
                }
            }
            ToAgent::Deploy { deployment, attempt, .. } => {
                self.seen().said.entry((*deployment, *attempt)).or_default().life = life;
            }
            _ => {}
        }
    }

    /// The server wants what comes after these.
    fn asks(&self, deployment: DeploymentId, attempt: u32, lines: u64, progress: u64) {
        let acked = self.seen().said.get(&(deployment, attempt)).map_or((0, 0), |said| said.acked);
        if lines < acked.0 || progress < acked.1 {
            self.wrong(format!(
                "{deployment} is wanted after line {lines} and item {progress}, though {acked:?} are acked"
            ));
        }
    }

    fn in_file(&self, deployment: DeploymentId) -> u64 {
        let bytes = std::fs::read(self.logs.join(format!("{deployment}.log"))).unwrap_or_default();
        bytes.iter().filter(|byte| **byte == b'\n').count() as u64
    }
}

/// A frame on one line, without what is long.
fn short(frame: &impl Debug) -> String {
    const LONGEST: usize = 260;
    let text = format!("{frame:?}");
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text,
    }
}
