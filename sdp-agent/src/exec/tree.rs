//! Finds and kills all processes of a program, however they tried to get away, and no others.
//!
//! The *leader* is the agent's child: the program itself, or the [shim](super::shim) that runs it, which is asked for nothing but
//! goes with the rest. A process is the program's if it is the leader, in its session or process group, a descendant of one that
//! is (a build adopts orphans, and a shim does, so descent holds while that lives), or carries the program's marker in its environment
//! (which holds after it has ended), or is in its control group, where it has one. Without one, a process that clears its
//! environment, leaves the session *and* outlives a program that nobody asked to stop is not found.
//!
//! `/proc` is no snapshot: a process that forks and ends all the time can be between two ids just when it is looked for.
//! A look counts as certain only if nobody unknown vanished, died or was changing its program during it; an uncertain
//! one is repeated, at most [`LOOKS`] times, and [`DOUBTS`] times that before "none is left" is believed.
//!
//! Signals go through a pidfd that is opened before the process is looked at again, so a reused process id is never hit.
//! The program's own id cannot be reused while it is not reaped, which `exec::supervise` does last.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep, timeout};

use super::cgroup::Group;

/// The variable that marks a program's processes.
pub(crate) const MARKER: &str = "SDP_EXEC";

/// How long all that is left is killed over and over before it counts as unkillable.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// How long one round of kills may take to show.
const KILL_ROUND: Duration = Duration::from_secs(1);
/// How often processes are stopped before they are killed; a fork bomb needs a few.
const FREEZE_ROUNDS: usize = 20;
/// How often a look that is not certain is repeated.
const LOOKS: usize = 10;
/// How often "none is left, as far as could be seen" is doubted when everything is to be killed, and for how long. On a
/// machine where programs start and end all the time no look may ever be certain.
const DOUBTS: usize = 5;
const DOUBT: Duration = Duration::from_millis(10);
/// The most that is read of a process's environment.
const MAX_ENVIRON: u64 = 4 * 1024 * 1024;

pub(crate) fn new_marker() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// All processes of one program.
#[derive(Clone, Debug)]
pub(crate) struct Tree(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    leader: i32,
    /// The leader and its child are a shim, not the program.
    shim: bool,
    marker: Vec<u8>,
    /// Readable when the program has ended.
    leader_fd: AsyncFd<OwnedFd>,
    group: Option<Arc<Group>>,
    known: Mutex<Known>,
}

/// What earlier looks found out.
#[derive(Debug, Default)]
struct Known {
    /// Who was ours at the last look: whose parent is gone since still is.
    ours: BTreeSet<Process>,
    /// Who is somebody else's, or dead: start times by process id. Nobody becomes ours later.
    strangers: BTreeMap<i32, u64>,
    /// Who had no environment: a kernel thread, or somebody just starting a program.
    blank: BTreeSet<Process>,
}

/// What a program has run out of.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RanOut {
    pub(crate) memory: bool,
    pub(crate) pids: bool,
}

/// A process, for as long as it lives: the start time tells it from a later one with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Process {
    pid: i32,
    started: u64,
}

/// What `/proc/<pid>/stat` says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    process: Process,
    dead: bool,
    parent: i32,
    group: i32,
    session: i32,
}

impl Tree {
    pub(crate) fn new(leader: i32, shim: bool, marker: &str, group: Option<Arc<Group>>) -> io::Result<Self> {
        let fd = open(leader)?;
        let leader_fd = wait_on(fd)?;
        let marker = format!("{MARKER}={marker}").into_bytes();
        Ok(Self(Arc::new(Shared { leader, shim, marker, leader_fd, group, known: Mutex::default() })))
    }

    /// Returns when the leader has ended; it is not reaped by that.
    pub(crate) async fn leader_exited(&self) {
        if let Err(error) = self.0.leader_fd.readable().await {
            tracing::warn!(%error, "cannot wait for a process");
        }
    }

    /// What it has run out of, if its control group tells.
    pub(crate) fn ran_out(&self) -> RanOut {
        self.0.group.as_ref().map_or_else(RanOut::default, |group| RanOut {
            memory: group.ran_out_of_memory(),
            pids: group.ran_out_of_pids(),
        })
    }

    /// Removes its control group, when none of them is left.
    pub(crate) async fn remove_group(&self) {
        if let Some(group) = &self.0.group {
            group.remove().await;
        }
    }

    /// Their process ids at the moment, for who wants to know what they do.
    pub(crate) fn pids(&self) -> Vec<i32> {
        self.members().into_iter().map(|process| process.pid).collect()
    }

    /// Asks all of them to end.
    pub(crate) async fn terminate(&self) {
        self.blocking(|tree| {
            for process in tree.members().into_iter().filter(|process| !tree.is_shim(*process)) {
                signal(process, Signal::TERM);
            }
        })
        .await;
    }

    /// Whether it is there only to run the program: watcher and init end when there is nobody left to watch.
    fn is_shim(&self, process: Process) -> bool {
        let leader = self.0.leader;
        self.0.shim && (process.pid == leader || stat(process.pid).is_some_and(|stat| stat.parent == leader))
    }

    /// Returns when none is left.
    pub(crate) async fn gone(&self) {
        loop {
            let left = self.blocking(|tree| watch(&tree.members())).await;
            if left.is_empty() {
                return;
            }
            ended(left).await;
        }
    }

    /// Kills all that is left until none is; returns those that would not go.
    pub(crate) async fn kill(&self) -> Vec<i32> {
        let deadline = Instant::now() + KILL_LIMIT;
        let mut doubts = 0;
        loop {
            let (killed, certain) = self.blocking(Self::freeze_and_kill).await;
            if killed.is_empty() {
                if certain || doubts == DOUBTS {
                    return Vec::new();
                }
                doubts += 1;
                sleep(DOUBT).await;
                continue;
            }
            if Instant::now() >= deadline {
                return killed.iter().map(|process| process.pid).collect();
            }
            drop(timeout(KILL_ROUND, ended(watch(&killed))).await);
        }
    }

    /// Kills all that is left, once, without waiting. Blocks for some milliseconds.
    pub(crate) fn kill_now(&self) {
        self.freeze_and_kill();
    }

    /// Stops processes until no new ones turn up (what is stopped cannot fork), then kills them all. Returns whom, and
    /// whether it is certain that there are no others.
    fn freeze_and_kill(&self) -> (Vec<Process>, bool) {
        if let Some(group) = &self.0.group {
            group.forbid_forks();
        }
        let mut frozen = BTreeSet::new();
        // At once when one is found: some do not stay for long.
        let mut freeze = |process| {
            let new = frozen.insert(process);
            if new {
                signal(process, Signal::STOP);
            }
            new
        };
        let mut certain = false;
        for _ in 0..FREEZE_ROUNDS {
            let mut any_new = false;
            let found;
            (found, certain) = self.find(&mut |process| any_new |= freeze(process));
            for process in found {
                any_new |= freeze(process);
            }
            if !any_new {
                break;
            }
        }
        (frozen.into_iter().inspect(|process| signal(*process, Signal::KILL)).collect(), certain)
    }

    async fn blocking<T: Send + 'static>(&self, work: fn(&Self) -> T) -> T {
        let tree = self.clone();
        match tokio::task::spawn_blocking(move || work(&tree)).await {
            Ok(out) => out,
            // The runtime is going down: then this thread may as well be held up for some milliseconds.
            Err(_) => work(self),
        }
    }

    /// Everyone alive who belongs to it.
    fn members(&self) -> Vec<Process> {
        self.find(&mut |_| {}).0
    }

    /// Them, with a word to each at the moment at which it is recognised (descendants are recognised only in the end); and
    /// whether that is certain to be all, if it is none.
    fn find(&self, found: &mut impl FnMut(Process)) -> (Vec<Process>, bool) {
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..LOOKS {
            let (members, certain) = self.look(&mut known, found);
            // Whoever finds some deals with them and looks again; only "none" has to be certain.
            if certain || !members.is_empty() {
                return (members, certain);
            }
        }
        (Vec::new(), false)
    }

    fn look(&self, known: &mut Known, found: &mut impl FnMut(Process)) -> (Vec<Process>, bool) {
        let mut certain = true;
        let grouped = self.0.group.as_ref().map(|group| group.pids()).unwrap_or_default();
        let leader = stat(self.0.leader).map(|stat| stat.process.started);
        let mut all: BTreeMap<i32, Stat> = BTreeMap::new();
        let mut ours: BTreeSet<i32> = BTreeSet::new();
        for pid in process_ids() {
            let Some(stat) = stat(pid) else {
                // It was gone before it was looked at.
                certain &= known.strangers.contains_key(&pid);
                continue;
            };
            all.insert(pid, stat);
            let started = stat.process.started;
            if grouped.contains(&pid) && !stat.dead {
                ours.insert(pid);
                found(stat.process);
                continue;
            }
            if known.strangers.get(&pid) == Some(&started) {
                continue;
            }
            // Nobody can have come from the program who was there before it.
            if leader.is_some_and(|leader| started < leader) {
                known.strangers.insert(pid, started);
                continue;
            }
            if stat.dead {
                // Who knows what it left just now; from the next look on it has left nothing more.
                certain = false;
                known.strangers.insert(pid, started);
                continue;
            }
            let related = pid == self.0.leader
                || stat.session == self.0.leader
                || stat.group == self.0.leader
                || known.ours.contains(&stat.process);
            match if related { Some(true) } else { self.is_marked(stat.process) } {
                Some(true) => {
                    ours.insert(pid);
                    found(stat.process);
                }
                Some(false) => drop(known.strangers.insert(pid, started)),
                None if known.blank.remove(&stat.process) => drop(known.strangers.insert(pid, started)),
                None => {
                    certain = false;
                    known.blank.insert(stat.process);
                }
            }
        }
        grow(&mut ours, &all);
        let members: Vec<_> = ours
            .iter()
            .filter_map(|pid| all.get(pid))
            .filter(|stat| !stat.dead)
            .map(|stat| stat.process)
            .collect();
        known.strangers.retain(|pid, _| all.contains_key(pid) && !ours.contains(pid));
        known.blank.retain(|process| all.contains_key(&process.pid));
        known.ours = members.iter().copied().collect();
        (members, certain)
    }

    /// Whether a process carries the marker; none if it has no environment at all.
    fn is_marked(&self, process: Process) -> Option<bool> {
        match environ(process.pid) {
            Ok(bytes) if bytes.is_empty() => None,
            Ok(bytes) => Some(bytes.split(|b| *b == 0).any(|entry| entry == self.0.marker)),
            // Somebody else's.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Some(false),
            Err(_) => None,
        }
    }
}

/// Adds all descendants.
fn grow(ours: &mut BTreeSet<i32>, all: &BTreeMap<i32, Stat>) {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for stat in all.values() {
        children.entry(stat.parent).or_default().push(stat.process.pid);
    }
    let mut todo: Vec<i32> = ours.iter().copied().collect();
    while let Some(pid) = todo.pop() {
        for child in children.get(&pid).into_iter().flatten() {
            if ours.insert(*child) {
                todo.push(*child);
            }
        }
    }
}

/// Kills what earlier lives of an agent left behind: every process that carries a marker and whose `HOME` lies beneath
/// `root`, the agent's data folder. Called once at start, before anything is run; blocks for some milliseconds.
/// Returns how many there were.
pub fn kill_leftovers(root: &Path) -> usize {
    let home = [b"HOME=".as_slice(), root.as_os_str().as_bytes(), b"/"].concat();
    let marker = format!("{MARKER}=").into_bytes();
    let frozen = freeze_all(|all| {
        let is_ours = |pid: &i32| {
            let environ = environ(*pid).unwrap_or_default();
            let has = |start: &[u8]| environ.split(|b| *b == 0).any(|entry| entry.starts_with(start));
            has(&marker) && has(&home)
        };
        all.keys().copied().filter(is_ours).collect()
    });
    for process in &frozen {
        signal(*process, Signal::KILL);
    }
    frozen.len()
}

/// Stops these and their descendants until no new ones turn up. Returns whom.
fn freeze_all(roots: impl Fn(&BTreeMap<i32, Stat>) -> BTreeSet<i32>) -> BTreeSet<Process> {
    let mut frozen = BTreeSet::new();
    for _ in 0..FREEZE_ROUNDS {
        let all: BTreeMap<_, _> =
            process_ids().into_iter().filter_map(|pid| Some((pid, stat(pid)?))).collect();
        let mut ours = roots(&all);
        grow(&mut ours, &all);
        let found: Vec<_> = ours
            .iter()
            .filter_map(|pid| all.get(pid))
            .filter(|stat| !stat.dead)
            .map(|stat| stat.process)
            .filter(|process| frozen.insert(*process))
            .collect();
        if found.is_empty() {
            break;
        }
        for process in found {
            signal(process, Signal::STOP);
        }
    }
    frozen
}

/// Kills all descendants of the calling process, which adopts orphans. Blocks until none is left; false if some would not go.
pub(super) fn kill_descendants() -> bool {
    let deadline = std::time::Instant::now() + KILL_LIMIT;
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    loop {
        let frozen = freeze_all(|_| BTreeSet::from([own]));
        let killed: Vec<_> = frozen.iter().filter_map(|process| open_checked(*process)).collect();
        for fd in &killed {
            // It may have ended meanwhile, which is what was wanted.
            let _ = pidfd_send_signal(fd, Signal::KILL);
        }
        for fd in &killed {
            super::cgroup::wait(fd);
        }
        // What one look does not see is a child that still has to be reaped.
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Ok(None) => break,
                Err(_) => return true,
            }
        }
        if killed.is_empty() {
            // Whoever is left was not seen, or is on its way out.
            super::cgroup::pause(DOUBT);
        }
        if std::time::Instant::now() >= deadline {
            return false;
        }
    }
}

/// Every process, the newest first (as a rule), without ourselves and init.
fn process_ids() -> Vec<i32> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let mut pids: Vec<i32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != own && *pid != 1)
        .collect();
    pids.sort_unstable_by(|a, b| b.cmp(a));
    pids
}

fn stat(pid: i32) -> Option<Stat> {
    parse_stat(pid, &std::fs::read(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(pid: i32, text: &[u8]) -> Option<Stat> {
    // The name in parentheses is the program's to choose: it may hold anything, parentheses and line feeds too.
    let end = memchr::memrchr(b')', text)?;
    let mut fields = std::str::from_utf8(text.get(end + 1..)?).ok()?.split_ascii_whitespace();
    let state = fields.next()?;
    let mut number = || fields.next()?.parse::<i32>().ok();
    let (parent, group, session) = (number()?, number()?, number()?);
    // Fields 7 to 21 stand between the session and the start time, field 22.
    let started = fields.nth(15)?.parse().ok()?;
    let dead = matches!(state, "Z" | "X" | "x");
    Some(Stat { process: Process { pid, started }, dead, parent, group, session })
}

fn environ(pid: i32) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(format!("/proc/{pid}/environ"))?.take(MAX_ENVIRON).read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn open(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::NONBLOCK).or_else(|_| pidfd_open(pid, PidfdFlags::empty()))?)
}

/// A pidfd of exactly this process; none if it is gone.
fn open_checked(process: Process) -> Option<OwnedFd> {
    let fd = open(process.pid).ok()?;
    // Looked at after opening: if it is still the same, the pidfd is of this one.
    stat(process.pid).filter(|stat| stat.process == process && !stat.dead)?;
    Some(fd)
}

fn signal(process: Process, signal: Signal) {
    if let Some(fd) = open_checked(process) {
        // It may have ended meanwhile, which is what was wanted.
        let _ = pidfd_send_signal(fd, signal);
    }
}

fn watch(processes: &[Process]) -> Vec<OwnedFd> {
    processes.iter().filter_map(|process| open_checked(*process)).collect()
}

/// A pidfd is readable once its process has ended.
fn wait_on(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(
        unsafe_code,
        reason = "the safe constructor is deprecated: tokio asks for a descriptor that stays the same"
    )]
    // SAFETY: an `OwnedFd` owns one descriptor for all its life, and closes it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// Returns when all of them have ended.
pub(super) async fn ended(fds: Vec<OwnedFd>) {
    for fd in fds {
        match wait_on(fd) {
            Ok(fd) => drop(fd.readable().await),
            // Out of descriptors: look again a little later.
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let text = b"7 (a) R 1 1 1 (\n) S 5 6 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 0 0\n";
        let stat = parse_stat(7, text).unwrap();
        assert_eq!(stat.process, Process { pid: 7, started: 12345 });
        assert_eq!((stat.parent, stat.group, stat.session, stat.dead), (5, 6, 7, false));
        for end in 0..60 {
            assert!(parse_stat(7, &text[..end]).is_none());
        }
    }

    #[test]
    fn a_process_that_reuses_an_id_is_not_hit() {
        let own = i32::try_from(std::process::id()).unwrap();
        let real = stat(own).unwrap().process;
        assert!(open_checked(real).is_some());
        assert!(open_checked(Process { started: real.started + 1, ..real }).is_none());
    }
}
