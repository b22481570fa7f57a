//! Control groups of programs: limits that a program cannot leave, and a list of its processes that none can get off.
//!
//! ```text
//!   <the agent's own group>/                 v2: the agent itself moves to the leaf `agent`
//!       sdp-<folder's hash>-<pid>-<n>/       one per program; v1: once in each hierarchy (pids, memory, cpu)
//! ```
//! [`Groups::open`] is called once at the agent's start and ends what an earlier agent with the same data folder left in its
//! groups; `exec::spawn` makes a [`Group`] per program, which the child enters between fork and exec; `tree` finds and kills
//! by it. cgroup v2 needs a group that is the agent's own (`Delegate=yes` in its unit), v1 the right to make groups (root).
//! Everything here reads and writes small files of the kernel; nothing waits but [`Groups::open`], when it has to kill.
//!
//! Invariant: a group is removed only when it is empty; none is made beside the agent's own.

mod place;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use sha2::{Digest as _, Sha256};

use place::Places;

/// The agent's own leaf in a v2 group: a group with programs' groups beneath may hold no processes itself.
const LEAF: &str = "agent";
/// How often all that is left in a former agent's group is killed, and how long each time may take to show.
const KILL_ROUNDS: usize = 5;
const KILL_ROUND: Duration = Duration::from_millis(500);
/// How often the removal of an empty group is tried again: the kernel may still be letting go of its last process.
const REMOVE_TRIES: u32 = 20;
const REMOVE_AGAIN: Duration = Duration::from_millis(10);
/// The period of processor time, in microseconds: the kernel's own default.
const PERIOD: u64 = 100_000;

/// What a group may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Processes and threads at once.
    pub pids: Option<u32>,
    /// Memory in MiB, without swap.
    pub memory_mib: Option<u32>,
    /// Processor time in thousandths of a core.
    pub cpu_millis: Option<u32>,
}

/// Where the agent makes groups.
#[derive(Debug)]
pub(crate) struct Groups {
    places: Places,
    prefix: String,
    made: AtomicU64,
}

impl Groups {
    /// Finds out where groups can be made, and ends what an earlier agent of that data folder left in its own.
    ///
    /// # Errors
    /// Why there can be none, as a clause.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, String> {
        let places = Places::find()?;
        let digest = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
        let hash: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let groups = Self { places, prefix: format!("sdp-{hash}-"), made: AtomicU64::new(0) };
        groups.end_leftovers();
        // What the system promises by its modes it may still refuse: one is made for trial.
        let trial = groups.create(&Limits { pids: Some(10), memory_mib: Some(16), cpu_millis: None });
        trial.map_err(|error| format!("a group cannot be made: {error}"))?.remove_once();
        Ok(groups)
    }

    /// For people.
    pub(crate) fn describe(&self) -> String {
        self.places.describe()
    }

    /// An empty group with those limits.
    pub(crate) fn create(&self, limits: &Limits) -> io::Result<Group> {
        let name =
            format!("{}{}-{}", self.prefix, std::process::id(), self.made.fetch_add(1, Ordering::Relaxed));
        let mut group = Group { places: self.places.beneath(&name), procs: Vec::new() };
        for folder in group.places.folders() {
            fs::create_dir(folder)?;
        }
        group.limit(limits)?;
        for folder in group.places.folders() {
            group.procs.push(File::options().write(true).open(folder.join("cgroup.procs"))?);
        }
        Ok(group)
    }

    /// The groups that agents of this data folder have made.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names = BTreeSet::new();
        for folder in self.places.folders() {
            let Ok(entries) = fs::read_dir(folder) else { continue };
            let found = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            names.extend(found.filter(|name| name.starts_with(&self.prefix)));
        }
        names.into_iter().collect()
    }

    fn end_leftovers(&self) {
        for name in self.names() {
            let group = Group { places: self.places.beneath(&name), procs: Vec::new() };
            let killed = group.end();
            if killed > 0 {
                tracing::warn!(group = name, processes = killed, "killed what an earlier agent left running");
            }
        }
    }
}

/// A program's group. Dropped, it is removed if it is empty.
#[derive(Debug)]
pub(crate) struct Group {
    places: Places,
    /// Open for writing, one per hierarchy: who writes `0` enters.
    procs: Vec<File>,
}

impl Group {
    /// What the child writes `0` to, between fork and exec.
    pub(crate) fn entrances(&self) -> &[File] {
        &self.procs
    }

    /// Where those files are, for a process that is not a child of this one.
    pub(crate) fn entrance_paths(&self) -> Vec<PathBuf> {
        self.places.folders().into_iter().map(|folder| folder.join("cgroup.procs")).collect()
    }

    fn limit(&self, limits: &Limits) -> io::Result<()> {
        let Places { pids, memory, cpu, .. } = &self.places;
        if let Some(most) = limits.pids {
            fs::write(pids.join("pids.max"), most.to_string())?;
        }
        if let Some(mib) = limits.memory_mib {
            let bytes = (u64::from(mib) << 20).to_string();
            if self.places.is_v2() {
                fs::write(memory.join("memory.max"), bytes)?;
                if_there(fs::write(memory.join("memory.swap.max"), "0"))?;
                // All of it goes at once: half a compiler is of no use, and the answer is clear.
                if_there(fs::write(memory.join("memory.oom.group"), "1"))?;
            } else {
                fs::write(memory.join("memory.limit_in_bytes"), &bytes)?;
                if_there(fs::write(memory.join("memory.memsw.limit_in_bytes"), &bytes))?;
            }
        }
        let Some(cpu) = cpu else { return Ok(()) };
        let quota = limits.cpu_millis.map(|millis| u64::from(millis) * PERIOD / 1000);
        if self.places.is_v2() {
            if_there(fs::write(cpu.join("cpu.weight"), "50"))?;
            if let Some(quota) = quota {
                if_there(fs::write(cpu.join("cpu.max"), format!("{quota} {PERIOD}")))?;
            }
        } else {
            if_there(fs::write(cpu.join("cpu.shares"), "512"))?;
            if let Some(quota) = quota {
                if_there(fs::write(cpu.join("cpu.cfs_period_us"), PERIOD.to_string()))?;
                if_there(fs::write(cpu.join("cpu.cfs_quota_us"), quota.to_string()))?;
            }
        }
        Ok(())
    }

    /// Who is in it.
    pub(crate) fn pids(&self) -> BTreeSet<i32> {
        let mut pids = BTreeSet::new();
        for folder in self.places.folders() {
            let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            // 0: a process of another pid namespace.
            pids.extend(text.lines().filter_map(|line| line.parse().ok()).filter(|pid: &i32| *pid > 0));
        }
        pids
    }

    /// From now on nobody in it can fork, so that a look at it stays true.
    pub(crate) fn forbid_forks(&self) {
        if let Err(error) = fs::write(self.places.pids.join("pids.max"), "0")
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "cannot keep a group from making processes");
        }
    }

    /// Whether somebody in it was killed for want of memory.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        let name = if self.places.is_v2() { "memory.events" } else { "memory.oom_control" };
        counter(&self.places.memory.join(name), "oom_kill") > 0
    }

    /// Whether somebody in it was refused a process or a thread.
    pub(crate) fn ran_out_of_pids(&self) -> bool {
        counter(&self.places.pids.join("pids.events"), "max") > 0
    }

    /// Removes it once it is empty; what is left for longer than the kernel takes is removed by the next agent.
    pub(crate) async fn remove(&self) {
        for _ in 0..REMOVE_TRIES {
            if self.remove_once() {
                return;
            }
            tokio::time::sleep(REMOVE_AGAIN).await;
        }
        tracing::warn!("a control group is not empty: {}", self.places.pids.display());
    }

    fn remove_once(&self) -> bool {
        let gone = |folder: &PathBuf| match fs::remove_dir(folder) {
            Ok(()) => true,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        // Each is tried.
        self.places.folders().into_iter().filter(|folder| !gone(folder)).count() == 0
    }

    /// Kills all in it, and removes it. Blocks until they are gone, or would not go. Returns how many there were.
    fn end(&self) -> usize {
        self.forbid_forks();
        let mut killed = BTreeSet::new();
        for _ in 0..KILL_ROUNDS {
            let fds = self.kill();
            killed.extend(fds.iter().map(|(pid, _)| *pid));
            for (_, fd) in &fds {
                wait(fd);
            }
            if fds.is_empty() && self.remove_once() {
                break;
            }
        }
        killed.len()
    }

    /// Kills who is in it now. A process id that was reused between the list and the signal is not hit.
    fn kill(&self) -> Vec<(i32, OwnedFd)> {
        let open = |pid| Some((pid, pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?));
        let mut fds: Vec<_> = self.pids().into_iter().filter_map(open).collect();
        let still = self.pids();
        fds.retain(|(pid, _)| still.contains(pid));
        for (_, fd) in &fds {
            // It may have ended meanwhile, which is what was wanted.
            let _ = pidfd_send_signal(fd, Signal::KILL);
        }
        fds
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.remove_once();
    }
}

/// Returns when a process has ended, or after a while.
pub(super) fn wait(fd: &OwnedFd) {
    poll_for(&mut [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)], KILL_ROUND);
}

/// Returns after that time. For a process that does nothing else: it blocks.
pub(super) fn pause(time: Duration) {
    poll_for(&mut [], time);
}

fn poll_for(fds: &mut [PollFd<'_>], limit: Duration) {
    let millis = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
    let limit = rustix::event::Timespec { tv_sec: millis / 1000, tv_nsec: (millis % 1000) * 1_000_000 };
    let _ = poll(fds, Some(&limit));
}

/// Not every kernel has every file.
fn if_there(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            Ok(())
        }
        other => other,
    }
}

/// The number behind a name in one of the kernel's lists.
fn counter(file: &Path, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}
