//! As whom, and within which limits, programs that are not ours run.
//!
//! The agent makes an [`Isolation`] at its start and gives it to every build ([`super::Options`]) and to the process runtime;
//! `exec::spawn` has the child [enter](Entry::enter) it between fork and exec.
//!
//! What every program gets: a session of its own, no way to gain rights (`no_new_privs`), no core file, umask 022. With a
//! build user also that user's id and group alone, and none of the agent's capabilities. With control groups a group of its
//! own; without them a build user's processes are at least counted ([`LOOSE_PROCESSES`]).

use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;

use rustix::process::{Gid, Resource, Rlimit, Uid};

use super::Kind;
use super::cgroup::{Group, Groups, Limits};
use crate::config::{BuildConfig, User};

/// The most files that one process of a build may have open.
const OPEN_FILES: u64 = 16_384;
/// Without control groups: the most processes of the build user, all its builds and services together.
const LOOSE_PROCESSES: u64 = 4096;

/// As whom, and within which limits, programs run. The default: as the agent itself, without limits. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Isolation {
    user: Option<User>,
    limits: Limits,
    groups: Option<Arc<Groups>>,
    /// Why there are no groups, as a clause.
    why_loose: Option<Arc<str>>,
}

impl Isolation {
    /// What the configuration asks for, as far as the machine lets it. Ends what an earlier agent of that folder left in its
    /// control groups. Blocks.
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
        Ok(Self { user: config.user, limits, groups, why_loose })
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

/// A program's place, made before the fork.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    user: Option<User>,
    pub(super) group: Option<Arc<Group>>,
}

impl Entry {
    /// Takes the calling process in. Between fork and exec: system calls only, no allocation, no lock.
    pub(super) fn enter(&self) -> io::Result<()> {
        use rustix::{process, thread};
        process::setsid()?;
        // Still as the agent, who may.
        for file in self.group.iter().flat_map(|group| group.entrances()) {
            rustix::io::write(file.as_fd(), b"0")?;
        }
        // A core file would be a copy of the memory, secrets and all, and fill the disk.
        limit(Resource::Core, 0)?;
        if self.kind == Kind::Build {
            limit(Resource::Nofile, OPEN_FILES)?;
            // Orphans come to the program, not to init, so that they stay in its tree. (Any process id means "yes".) Not
            // for services: one that runs for weeks would collect dead children that it does not know of.
            process::set_child_subreaper(Some(process::getpid()))?;
            // Where the system forbids it, the build is still right, only less polite.
            let _ = process::nice(10);
        }
        if let Some(user) = self.user {
            if self.group.is_none() {
                limit(Resource::Nproc, LOOSE_PROCESSES)?;
            }
            let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
            thread::set_thread_groups(&[])?;
            thread::set_thread_res_gid(gid, gid, gid)?;
            thread::set_thread_res_uid(uid, uid, uid)?;
            // An agent that is not root but has capabilities would hand them on.
            thread::clear_ambient_capability_set()?;
            let none = thread::CapabilitySet::empty();
            thread::set_capabilities(
                None,
                thread::CapabilitySets { effective: none, permitted: none, inheritable: none },
            )?;
        }
        thread::set_no_new_privs(true)?;
        process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
        Ok(())
    }
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
