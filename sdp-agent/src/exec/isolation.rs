//! As whom, within which limits, and held together how, programs that are not ours run.
//!
//! The agent makes an [`Isolation`] at its start and gives it to every build ([`super::Options`]) and to the process runtime;
//! `exec::spawn` has the child [enter](Admission::enter) it between fork and exec: the agent's own child, or the shim's.
//!
//! What every program gets: a session of its own, no way to gain rights (`no_new_privs`), no core file, umask 022. With a
//! build user also that user's id and group alone, and none of the agent's capabilities. With control groups a group of its
//! own; without them a build user's processes are at least counted ([`LOOSE_PROCESSES`]).

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;

use rustix::process::{Gid, Resource, Rlimit, Uid};

use super::cgroup::{Group, Groups, Limits};
use super::shim::{Mode, Shim};
use super::{Kind, start};
use crate::config::{BuildConfig, User};

/// The most files that one process of a build may have open.
const OPEN_FILES: u64 = 16_384;
/// Of a build, for the kernel to choose it when memory runs out: half of the memory more than it has.
pub(super) const OOM_SCORE: &str = "500";
/// Without control groups: the most processes of the build user, all its builds and services together.
const LOOSE_PROCESSES: u64 = 4096;

/// As whom, within which limits, and held together how, programs run. The default: as the agent itself, without limits, as its
/// children. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Isolation {
    user: Option<User>,
    limits: Limits,
    groups: Option<Arc<Groups>>,
    /// Why there are no groups, as a clause.
    why_loose: Option<Arc<str>>,
    tie: Tie,
}

/// What ties programs to the agent.
#[derive(Clone, Debug, Default)]
enum Tie {
    /// Nothing: they are its children.
    #[default]
    None,
    Shim {
        program: Arc<Path>,
        mode: Mode,
        /// Why not in a namespace, as a clause.
        why: Option<Arc<str>>,
    },
}

/// How the processes of one program are held together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processes<'a> {
    /// Each program has a PID namespace of its own, which ends with the agent.
    Namespace,
    /// They are found by their parents; they end with the agent, too.
    Subreaper {
        /// Why they have no namespace, as a clause.
        why: &'a str,
    },
    /// The agent finds them while it lives, or when it starts again.
    Children,
}

impl Isolation {
    /// What the configuration asks for, as far as the machine lets it. Ends what an earlier agent of that folder left in its
    /// control groups, and tries whether a namespace can be made. Blocks.
    ///
    /// # Errors
    /// When the agent may not run programs as the configured user, as a clause.
    pub fn open(config: &BuildConfig, data_dir: &Path) -> Result<Self, String> {
        if let Some(user) = config.user {
            may_become(user)?;
        }
        let limits = Limits {
            pids: Some(config.limits.pids),
            memory_mib: Some(config.limits.memory_mib),
            cpu_millis: config.limits.cpu_millis,
        };
        let groups = if config.limits.enforce {
            Groups::open(data_dir)
        } else {
            Err("they are switched off (enforce in [build.limits])".to_owned())
        };
        let (groups, why_loose) = match groups {
            Ok(groups) => (Some(Arc::new(groups)), None),
            Err(why) => (None, Some(why.into())),
        };
        let tie = config.shim.as_ref().map_or(Tie::None, |shim| {
            let (mode, why) = match may_make_namespaces(shim) {
                Ok(()) => (Mode::Namespace, None),
                Err(why) => (Mode::Subreaper, Some(why.into())),
            };
            Tie::Shim { program: shim.program.as_path().into(), mode, why }
        });
        Ok(Self { user: config.user, limits, groups, why_loose, tie })
    }

    /// As whom programs run, if not as the agent.
    #[must_use]
    pub fn user(&self) -> Option<User> {
        self.user
    }

    /// What each program may take.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The same with other limits.
    #[must_use]
    pub fn with_limits(&self, limits: Limits) -> Self {
        Self { limits, ..self.clone() }
    }

    /// How the limits are kept, for people.
    ///
    /// # Errors
    /// Why they are not kept, as a clause.
    pub fn enforced(&self) -> Result<String, &str> {
        match (&self.groups, &self.why_loose) {
            (Some(groups), _) => Ok(groups.describe()),
            (None, Some(why)) => Err(why),
            (None, None) => Err("nobody asked for them"),
        }
    }

    /// How the processes of a program are held together.
    #[must_use]
    pub fn processes(&self) -> Processes<'_> {
        match &self.tie {
            Tie::None => Processes::Children,
            Tie::Shim { why: Some(why), .. } => Processes::Subreaper { why },
            Tie::Shim { why: None, .. } => Processes::Namespace,
        }
    }

    /// What runs the programs, if not the agent itself.
    pub(super) fn shim(&self) -> Option<(&Path, Mode)> {
        match &self.tie {
            Tie::None => None,
            Tie::Shim { program, mode, .. } => Some((program, *mode)),
        }
    }

    #[cfg(test)]
    pub(super) fn groups(&self) -> Option<&Groups> {
        self.groups.as_deref()
    }

    /// Makes the place that a program enters. Touches the kernel's files.
    pub(super) fn prepare(&self, kind: Kind) -> io::Result<Entry> {
        let group = match &self.groups {
            Some(groups) => {
                // It is what keeps the machine alive: without it nothing is run.
                let made = groups.create(&self.limits).map_err(|error| {
                    io::Error::new(error.kind(), format!("its control group cannot be made: {error}"))
                })?;
                Some(Arc::new(made))
            }
            None => None,
        };
        Ok(Entry { kind, user: self.user, group })
    }
}

/// Whether programs can be run as somebody else: root can, and who has the capabilities.
fn may_become(user: User) -> Result<(), String> {
    use rustix::thread::CapabilitySet;
    if user.uid == 0 {
        return Err("it may not be root".to_owned());
    }
    let own = User::own();
    if own == user {
        return Err("it is the agent's own user; builds could read what the agent keeps".to_owned());
    }
    let needed = [
        ("CAP_SETUID", CapabilitySet::SETUID),
        ("CAP_SETGID", CapabilitySet::SETGID),
        ("CAP_CHOWN", CapabilitySet::CHOWN),
        ("CAP_DAC_OVERRIDE", CapabilitySet::DAC_OVERRIDE),
        ("CAP_FOWNER", CapabilitySet::FOWNER),
        ("CAP_KILL", CapabilitySet::KILL),
        // To see which of their sockets and marked environments are whose.
        ("CAP_SYS_PTRACE", CapabilitySet::SYS_PTRACE),
    ];
    let have = rustix::thread::capabilities(None)
        .map_err(|error| format!("the agent's capabilities cannot be read: {error}"))?
        .effective;
    let missing: Vec<_> =
        needed.iter().filter(|(_, one)| !have.contains(*one)).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("the agent lacks {}; start it as root or with these capabilities", missing.join(", ")))
}

/// Whether each program can have a PID namespace with a `/proc` of its own. An unprivileged user namespace would allow it, too,
/// but in there every file that is not the agent's belongs to nobody, which compilers and package managers take amiss.
fn may_make_namespaces(shim: &Shim) -> Result<(), String> {
    use rustix::thread::{CapabilitySet, capabilities};
    if !shim.namespaces {
        return Err("they are switched off".to_owned());
    }
    if !capabilities(None).is_ok_and(|have| have.effective.contains(CapabilitySet::SYS_ADMIN)) {
        return Err("the agent lacks CAP_SYS_ADMIN".to_owned());
    }
    // What it may by its capabilities a container or a filter of system calls may still refuse.
    start::try_namespace(&shim.program).map_err(|error| error.to_string())
}

/// A program's place, made before the fork.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    user: Option<User>,
    pub(super) group: Option<Arc<Group>>,
}

impl Entry {
    /// What the child does to get there.
    pub(super) fn admission(&self, by: By) -> Admission {
        Admission { kind: self.kind, user: self.user, counted: self.group.is_none(), by }
    }
}

/// Who starts a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Agent,
    Shim,
}

/// What a process does between fork and exec to become a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Admission {
    pub(super) kind: Kind,
    pub(super) user: Option<User>,
    /// Whether it has no control group, so that the user's processes are counted.
    pub(super) counted: bool,
    pub(super) by: By,
}

impl Admission {
    /// Takes the calling process in, and into the groups with these files. Between fork and exec: system calls only, no
    /// allocation, no lock.
    pub(super) fn enter(&self, entrances: &[File]) -> io::Result<()> {
        use rustix::{process, thread};
        process::setsid()?;
        // Still as the agent, who may.
        for file in entrances {
            rustix::io::write(file.as_fd(), b"0")?;
        }
        // A core file would be a copy of the memory, secrets and all, and fill the disk.
        limit(Resource::Core, 0)?;
        if self.kind == Kind::Build {
            limit(Resource::Nofile, OPEN_FILES)?;
            match self.by {
                // Orphans come to the program, not to init, so that they stay in its tree. (Any process id means "yes".) Not
                // for services: one that runs for weeks would collect dead children that it does not know of.
                By::Agent => process::set_child_subreaper(Some(process::getpid()))?,
                // Orphans come to the shim. Nobody else knows this process yet: the agent would do it for its own child.
                By::Shim => prefer_for_oom(),
            }
            // Where the system forbids it, the build is still right, only less polite.
            let _ = process::nice(10);
        }
        if let Some(user) = self.user {
            if self.counted {
                limit(Resource::Nproc, LOOSE_PROCESSES)?;
            }
            let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
            thread::set_thread_groups(&[])?;
            thread::set_thread_res_gid(gid, gid, gid)?;
            thread::set_thread_res_uid(uid, uid, uid)?;
        }
        // An agent that is not root but has capabilities would hand them on to the build's user; and gives them to a shim, so that
        // it can do all this. Root as itself keeps what root has.
        let by_shim = self.by == By::Shim;
        if self.user.is_some() || by_shim && !process::geteuid().is_root() {
            thread::clear_ambient_capability_set()?;
            let none = thread::CapabilitySet::empty();
            thread::set_capabilities(
                None,
                thread::CapabilitySets { effective: none, permitted: none, inheritable: none },
            )?;
        }
        if by_shim {
            // Forgotten by whoever becomes another user, so not before. (A shim has one thread.)
            process::set_parent_process_death_signal(Some(process::Signal::KILL))?;
        }
        thread::set_no_new_privs(true)?;
        process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
        Ok(())
    }
}

/// Makes the calling process the one to go when memory runs out. Where the system forbids it, the build is still right.
fn prefer_for_oom() {
    use rustix::fs::{Mode, OFlags, open};
    if let Ok(file) = open(c"/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
        let _ = rustix::io::write(file, OOM_SCORE.as_bytes());
    }
}

/// Gives the calling process's capabilities to the program that it is about to become: to the shim, which does for the agent what
/// needs them. Root's programs have them anyway. Between fork and exec: system calls only, no allocation, no lock.
pub(super) fn keep_capabilities() -> io::Result<()> {
    use rustix::thread;
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let mut have = thread::capabilities(None)?;
    have.inheritable = have.permitted;
    thread::set_capabilities(None, have)?;
    for one in have.permitted.iter() {
        thread::configure_capability_in_ambient_set(one, true)?;
    }
    Ok(())
}

/// Lowers a limit for good; one that is lower already stays.
fn limit(resource: Resource, most: u64) -> rustix::io::Result<()> {
    let now = rustix::process::getrlimit(resource);
    let most = now.maximum.map_or(most, |hard| hard.min(most));
    rustix::process::setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
}

/// Makes the calling process one whose memory nobody but root can read or have dumped. For the `sdp-agent` program: tokens
/// and credentials pass through it.
///
/// # Errors
/// When the system refuses.
pub fn hide_own_memory() -> io::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(limit(Resource::Core, 0)?)
}
