//! The programs under test as processes: started, killed at any moment, stopped for a while, started again with the same
//! configuration. What they write goes to a file for each, over all lives.
//!
//! Nothing is left: a [`Program`] that is dropped is killed, and [`sweep`] ends by its id whatever still works in a round's
//! folder, also after a panic.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long a program may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(25);

/// One of the programs, running or not.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    path: PathBuf,
    args: Vec<String>,
    output: PathBuf,
    child: Option<Child>,
}

impl Program {
    pub(crate) fn new(name: &'static str, path: &Path, args: &[&str], folder: &Path) -> Self {
        Self {
            name,
            path: path.to_owned(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            output: folder.join("output").join(format!("{name}.log")),
            child: None,
        }
    }

    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        let output = File::options().create(true).append(true).open(&self.output)?;
        let child = Command::new(&self.path)
            .args(&self.args)
            .env_remove("SDP_TOKEN")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} does not start", self.path.display()))?;
        self.child = Some(child);
        Ok(())
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    fn signal(&self, signal: Signal) {
        let pid = self.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        if let Some(pid) = pid {
            // It may have ended by itself a moment ago: whoever waits for it finds out.
            let _ended = rustix::process::kill_process(pid, signal);
        }
    }

    /// Whether it has ended without being told to.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)))
    }

    /// At once, at whatever it does.
    pub(crate) async fn kill(&mut self) {
        self.signal(Signal::KILL);
        if let Some(mut child) = self.child.take() {
            let _status = child.wait().await;
        }
    }

    /// As a service manager does it; false: it had to be killed.
    pub(crate) async fn terminate(&mut self) -> bool {
        self.signal(Signal::TERM);
        let Some(child) = &mut self.child else { return true };
        let ended = timeout(GRACE, child.wait()).await.is_ok();
        self.kill().await;
        ended
    }

    /// It gets no time at all for so long.
    pub(crate) async fn pause(&self, time: Duration) {
        self.signal(Signal::STOP);
        tokio::time::sleep(time).await;
        self.signal(Signal::CONT);
    }
}

/// A process that works in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    pub(crate) command: String,
}

/// All processes whose working folder or program lies below `folder`.
pub(crate) fn working_in(folder: &Path) -> Vec<Found> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = entry.path();
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let is_below =
            |link: &str| std::fs::read_link(path.join(link)).is_ok_and(|to| to.starts_with(folder));
        let Ok(stat) = std::fs::read_to_string(path.join("stat")) else { continue };
        let Some((state, parent)) = state_and_parent(&stat) else { continue };
        // One that has ended and was not waited for works nowhere.
        if state != 'Z' && (is_below("cwd") || is_below("exe")) {
            let command = std::fs::read(path.join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ").trim().to_owned();
            found.push(Found { pid, parent, command });
        }
    }
    found
}

/// From `/proc/<pid>/stat`, in which the name may hold anything.
fn state_and_parent(stat: &str) -> Option<(char, u32)> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut words = rest.split(' ');
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?))
}

/// The inodes of a process's sockets.
pub(crate) fn sockets(pid: u32) -> Vec<u64> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let links = files.filter_map(|file| std::fs::read_link(file.path()).ok());
    links
        .filter_map(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())
        .collect()
}

/// Kills, by their ids, what still works in a folder; what that was.
pub(crate) fn sweep(folder: &Path) -> Vec<Found> {
    let found = working_in(folder);
    for process in &found {
        if let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) {
            let _ended = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
    found
}

/// Something that was done to a program or a link, for whoever explains what came of it.
#[derive(Clone, Debug)]
pub(crate) struct Incident {
    pub(crate) kind: Kind,
    /// `server`, `bot`, or an agent's name.
    pub(crate) target: &'static str,
    pub(crate) from: Timestamp,
    /// When it was over: started again, forwarding again.
    pub(crate) to: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Kill,
    Terminate,
    Pause,
    Cut,
    CutInFrame,
    Delay,
    Slow,
    Refuse,
    HalfOpen,
}

impl Kind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Kill => "SIGKILL",
            Self::Terminate => "SIGTERM",
            Self::Pause => "SIGSTOP",
            Self::Cut => "link cut",
            Self::CutInFrame => "link cut in a frame",
            Self::Delay => "link delayed",
            Self::Slow => "link slow",
            Self::Refuse => "link refused",
            Self::HalfOpen => "link half open",
        }
    }

    pub(crate) fn ends_the_process(self) -> bool {
        matches!(self, Self::Kill | Self::Terminate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_bracket_does_not_hide_a_processs_state() {
        assert_eq!(state_and_parent("7 (a) b) Z 3 7 7 0"), Some(('Z', 3)));
        assert_eq!(state_and_parent("7 (sh) S 12 7"), Some(('S', 12)));
        assert_eq!(state_and_parent("nonsense"), None);
    }

    #[tokio::test]
    async fn what_works_in_a_folder_is_found_and_swept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().canonicalize().expect("it is there");
        let mut child = Command::new("sleep").arg("600").current_dir(&path).spawn().expect("starts");
        let found = working_in(&path);
        assert_eq!(found.iter().map(|one| Some(one.pid)).collect::<Vec<_>>(), [child.id()]);
        assert_eq!(found[0].command, "sleep 600");
        assert_eq!(sweep(&path), found);
        child.wait().await.expect("it ended");
        assert_eq!(working_in(&path), []);
    }
}
