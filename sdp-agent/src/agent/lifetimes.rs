//! When the sandboxes of this agent's instances end, and what it does about that by itself.
//!
//! ```text
//!   job, welcome, lifetimes ──▶ the ends, in memory and in `lifetimes.json`
//!   connected: nothing; the server decides                       ┌─ the end is over for good: reported, and forgotten
//!   away: [`Clock`] says that one is over ──▶ suspended ──▶ welcome ┴─ the sandbox goes on: started again, and reported then
//! ```
//! Without a connection an instance is suspended, which keeps all that it needs to be started again, once its end and
//! [`RuntimeConfig::expiry_grace`](crate::config::RuntimeConfig) are over: in that time the server would have drained and stopped it,
//! and it covers what the two clocks differ.
//!
//! Invariants: only the wall clock is asked, for the agent may have been away itself; what one reading says has no effect until the
//! next one agrees (see [`Clock`]). The newest word of the server counts, also after a restart. What its jobs still work on is theirs.
//! An instance whose end is not known, because the file was lost, is not stopped.
//!
//! Limits: an entry for each instance that runs or is being made; others are dropped with the next look.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use sdp_core::id::InstanceId;
use sdp_core::wire::{InstanceAction, InstanceDecision};
use tokio_util::sync::CancellationToken;

use super::Agent;
use crate::sync::Lock;

/// The file in the agent's folder.
const FILE: &str = "lifetimes.json";
/// The longest that is read, in bytes.
const LONGEST: u64 = 16 << 20;
/// The clock is asked so often within the grace, and at least and at most each so often.
const LOOKS: u32 = 20;
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Why an instance is suspended, as a clause.
const ENDED: &str = "its sandbox had ended while the server was away";

/// The ends of instances, and what is under way because of them.
#[derive(Debug)]
pub(super) struct Lifetimes {
    path: PathBuf,
    state: Lock<State>,
    /// One writes.
    writing: tokio::sync::Mutex<()>,
    /// Suspending and waking happen one after the other.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// Those that end.
    ends: BTreeMap<InstanceId, Timestamp>,
    /// The file has something else.
    changed: bool,
    suspending: BTreeSet<InstanceId>,
    /// They are suspended, and the server wants them to go on: what they are until then is no news.
    waking: BTreeSet<InstanceId>,
}

impl State {
    fn set(&mut self, instance: InstanceId, end: Option<Timestamp>) {
        let known = match end {
            Some(end) => self.ends.insert(instance, end),
            None => self.ends.remove(&instance),
        };
        self.changed |= known != end;
    }
}

impl Lifetimes {
    /// What the agent's former life knew. Blocking.
    pub(super) fn open(data_dir: &Path) -> Self {
        let path = data_dir.join(FILE);
        let ends = match read(&path) {
            Ok(ends) => ends,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "cannot read when sandboxes end; the server says it again");
                BTreeMap::new()
            }
        };
        let state = Lock::new(State { ends, ..State::default() });
        Self { path, state, writing: tokio::sync::Mutex::default(), turn: tokio::sync::Mutex::default() }
    }

    /// The server has said when an instance ends, or that it does not by itself.
    pub(super) fn learn(&self, ends: impl IntoIterator<Item = (InstanceId, Option<Timestamp>)>) {
        let mut state = self.state.lock();
        for (instance, end) in ends {
            state.set(instance, end);
        }
    }

    /// Whether an instance is about to be started again.
    pub(super) fn is_waking(&self, instance: InstanceId) -> bool {
        self.state.lock().waking.contains(&instance)
    }

    /// Keeps what was learnt. A disk that takes nothing is tried again with the next look.
    pub(super) async fn write_down(&self) {
        let _one = self.writing.lock().await;
        let ends = {
            let mut state = self.state.lock();
            if !std::mem::take(&mut state.changed) {
                return;
            }
            state.ends.clone()
        };
        let path = self.path.clone();
        let written = tokio::task::spawn_blocking(move || write(&path, &ends)).await;
        if let Ok(Err(error)) = written {
            self.state.lock().changed = true;
            tracing::warn!(%error, "failed to keep when sandboxes end; it is tried again");
        }
    }
}

fn read(path: &Path) -> io::Result<BTreeMap<InstanceId, Timestamp>> {
    let mut text = String::new();
    fs::File::open(path)?.take(LONGEST).read_to_string(&mut text)?;
    Ok(serde_json::from_str(&text)?)
}

fn write(path: &Path, ends: &BTreeMap<InstanceId, Timestamp>) -> io::Result<()> {
    let unfinished = path.with_extension("json.new");
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(&serde_json::to_vec(ends)?)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
}

/// What readings of the wall clock mean, one after the other. Pure.
///
/// A clock may be set, and it may be wrong for a moment. So an instance is over when two readings in a row say so; and a reading that
/// is before the last one says nothing, neither that it is nor that it is not, but begins anew.
#[derive(Debug, Default)]
struct Clock {
    last: Option<Timestamp>,
    /// Those that were over at the last reading.
    over: BTreeSet<InstanceId>,
}

impl Clock {
    /// Takes a reading; those that are over.
    fn read(
        &mut self,
        now: Timestamp,
        ends: &BTreeMap<InstanceId, Timestamp>,
        grace: Duration,
    ) -> BTreeSet<InstanceId> {
        let is_back = self.last.is_some_and(|last| now < last);
        self.last = Some(now);
        let over: BTreeSet<InstanceId> = match is_back {
            true => BTreeSet::new(),
            false => ends.iter().filter(|(_, end)| is_over(**end, grace, now)).map(|(id, _)| *id).collect(),
        };
        let before = std::mem::replace(&mut self.over, over);
        self.over.intersection(&before).copied().collect()
    }

    /// There is a connection: what it said before counts no more.
    fn rest(&mut self) {
        self.over.clear();
    }
}

/// Whether the end is past by the whole grace.
fn is_over(end: Timestamp, grace: Duration, now: Timestamp) -> bool {
    let grace = SignedDuration::try_from(grace).unwrap_or(SignedDuration::MAX);
    // One that no calendar has never comes.
    end.checked_add(grace).is_ok_and(|end| now >= end)
}

impl Agent {
    /// Suspends what is over while there is no connection, until the agent ends.
    pub(super) async fn keep_lifetimes(&self, closing: CancellationToken) {
        let grace = self.config.runtime.expiry_grace;
        let pause = (grace / LOOKS).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        let mut clock = Clock::default();
        loop {
            self.drop_lifetimes_of_others();
            self.lifetimes.write_down().await;
            if self.outbox.lock().is_some() {
                clock.rest();
            } else {
                let ends = self.lifetimes.state.lock().ends.clone();
                let over = clock.read(Timestamp::now(), &ends, grace);
                self.suspend(over).await;
            }
            tokio::select! {
                () = closing.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn suspend(&self, mut over: BTreeSet<InstanceId>) {
        over.retain(|instance| self.runs(*instance) && !self.is_at_work_on(*instance));
        if over.is_empty() {
            return;
        }
        let _turn = self.lifetimes.turn.lock().await;
        {
            // Under the lock: a welcome comes before this, and is heeded, or sees what is under way.
            let mut state = self.lifetimes.state.lock();
            if self.outbox.lock().is_some() {
                return;
            }
            state.suspending.clone_from(&over);
        }
        let runtime = &self.tools.runtime;
        join_all(over.into_iter().map(async |instance| {
            tracing::warn!(instance.id = %instance, "the sandbox of an instance has ended and the server is away; it is stopped");
            runtime.suspend(instance, ENDED).await;
        }))
        .await;
        self.lifetimes.state.lock().suspending.clear();
    }

    /// Takes from a welcome when each instance ends; starts those again that were suspended and go on.
    pub(super) fn take_lifetimes(self: &Arc<Self>, decisions: &[InstanceDecision]) {
        let (now, runtime) = (Timestamp::now(), &self.tools.runtime);
        let waking = {
            let mut state = self.lifetimes.state.lock();
            state.waking.clear();
            for InstanceDecision { instance, action, expires_at } in decisions {
                state.set(*instance, *expires_at);
                let goes_on = *action == InstanceAction::Keep && expires_at.is_none_or(|end| now < end);
                if goes_on && (state.suspending.contains(instance) || runtime.is_suspended(*instance)) {
                    state.waking.insert(*instance);
                }
            }
            state.waking.clone()
        };
        // Where nothing can be started now, the agent says hello again when it can.
        if waking.is_empty() || runtime.degraded().is_some() {
            return;
        }
        let agent = self.clone();
        self.tasks.spawn(async move {
            let turn = agent.lifetimes.turn.lock().await;
            join_all(waking.iter().map(|instance| agent.tools.runtime.wake(*instance))).await;
            agent.lifetimes.state.lock().waking.clear();
            drop(turn);
            // What they are is news now.
            agent.ended.send_modify(|count| *count += 1);
        });
    }

    fn drop_lifetimes_of_others(&self) {
        if self.tools.runtime.degraded().is_some() || self.lifetimes.state.lock().ends.is_empty() {
            return;
        }
        // Held: one that becomes a job meanwhile would be missed.
        let Ok(_taking) = self.taking.try_lock() else { return };
        let mut known: HashSet<InstanceId> =
            self.tools.runtime.reports().into_iter().map(|report| report.instance).collect();
        known.extend(self.spool.logs().iter().map(|log| log.spec().instance));
        let mut state = self.lifetimes.state.lock();
        let before = state.ends.len();
        state.ends.retain(|instance, _| known.contains(instance));
        state.changed |= state.ends.len() != before;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(300);

    fn id(n: u128) -> InstanceId {
        InstanceId::from(uuid::Uuid::from_u128(n))
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// The same end at each reading: whether it is over.
    fn over(readings: &[i64], end: i64) -> Vec<bool> {
        let (mut clock, ends) = (Clock::default(), BTreeMap::from([(id(1), at(end))]));
        readings.iter().map(|now| !clock.read(at(*now), &ends, GRACE).is_empty()).collect()
    }

    #[test]
    fn an_instance_is_over_when_two_readings_in_a_row_say_so_and_none_of_them_went_back() {
        for (readings, end, expected) in [
            // Exactly the grace, and a second less.
            (&[1300, 1301][..], 1000, &[false, true][..]),
            (&[1299, 1299, 1300, 1315], 1000, &[false, false, false, true]),
            // Not over, and long over.
            (&[100, 1200, 1299], 1000, &[false, false, false]),
            (&[9000, 9000], 1000, &[false, true]),
            // The clock is far ahead for one reading.
            (&[1000, 99_000, 1015, 1030, 1045], 1000, &[false, false, false, false, false]),
            // It is set ahead, and stays there.
            (&[1000, 99_000, 99_015], 1000, &[false, false, true]),
            // It is set back from where it was over to where it is not, and the other way round.
            (&[1300, 1315, 900, 915], 1000, &[false, true, false, false]),
            (&[1400, 1350, 1365, 1380], 1000, &[false, false, false, true]),
            // It is behind for one reading.
            (&[1300, 0, 1315, 1330], 1000, &[false, false, false, true]),
            // It goes back all the time: nothing is believed.
            (&[1900, 1800, 1700, 1600], 1000, &[false, false, false, false]),
        ] {
            assert_eq!(over(readings, end), expected, "{readings:?}");
        }
        // An end that no calendar has does not come.
        let ends = BTreeMap::from([(id(1), Timestamp::MAX)]);
        let mut clock = Clock::default();
        assert!((0..3).all(|_| clock.read(Timestamp::MAX, &ends, GRACE).is_empty()));
    }

    #[test]
    fn each_instance_has_its_own_end_and_the_newest_counts() {
        let mut clock = Clock::default();
        let mut ends = BTreeMap::from([(id(1), at(1000)), (id(2), at(1100))]);
        assert_eq!(clock.read(at(1390), &ends, GRACE), [].into());
        assert_eq!(clock.read(at(1400), &ends, GRACE), [id(1)].into());
        // Another end comes between two readings.
        ends.insert(id(2), at(5000));
        assert_eq!(clock.read(at(1410), &ends, GRACE), [id(1)].into());
        ends.remove(&id(1));
        assert_eq!(clock.read(at(1420), &ends, GRACE), [].into());
        // A connection between two readings.
        ends.insert(id(1), at(1000));
        assert_eq!(clock.read(at(1430), &ends, GRACE), [].into());
        clock.rest();
        assert_eq!(clock.read(at(1440), &ends, GRACE), [].into());
        assert_eq!(clock.read(at(1450), &ends, GRACE), [id(1)].into());
    }

    #[tokio::test]
    async fn what_was_learnt_last_is_there_again_and_a_torn_file_is_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let ends = |lifetimes: &Lifetimes| lifetimes.state.lock().ends.clone();
        let lifetimes = Lifetimes::open(folder.path());
        assert!(ends(&lifetimes).is_empty());
        lifetimes.learn([(id(1), Some(at(1))), (id(2), Some(at(2))), (id(3), None)]);
        lifetimes.write_down().await;
        lifetimes.learn([(id(1), None), (id(2), Some(at(20)))]);
        lifetimes.write_down().await;
        let expected = BTreeMap::from([(id(2), at(20))]);
        assert_eq!(ends(&Lifetimes::open(folder.path())), expected);
        let file = folder.path().join(FILE);
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        let before = inode(&file);
        lifetimes.learn([(id(2), Some(at(20)))]);
        lifetimes.write_down().await;
        assert_eq!(inode(&file), before, "nothing new");
        fs::write(&file, r#"{"00000000-0000-0000-0000-0000000000"#).unwrap();
        assert!(ends(&Lifetimes::open(folder.path())).is_empty());
    }
}
