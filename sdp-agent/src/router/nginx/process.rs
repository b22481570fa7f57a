//! nginx's processes: tested, started, found again, told.
//!
//! They are found by their working folder, which nobody else has, and by what nginx calls them in `/proc`. So what an earlier agent
//! started is known again, and so are workers whose master was killed. nginx is nobody's child: it goes on when the agent ends.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use crate::config::User;

/// How long nginx may take to read a configuration, and to start.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long workers without a master may take to let go of the address.
const LET_GO: Duration = Duration::from_secs(5);
/// How often `/proc` is looked at while something is awaited.
const LOOK: Duration = Duration::from_millis(15);
/// How often it is looked whether the master is there.
const LOOK_AT_MASTER: Duration = Duration::from_millis(100);
/// How long the version endpoint may take.
const ASK_LIMIT: Duration = Duration::from_secs(1);

/// A program and its folder.
#[derive(Clone, Debug)]
pub(super) struct Nginx {
    pub(super) program: PathBuf,
    pub(super) folder: PathBuf,
    pub(super) user: Option<User>,
}

/// A process, not to be taken for a later one of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Process {
    pid: i32,
    /// In the system's ticks.
    started: u64,
}

/// What runs.
#[derive(Debug, Default)]
pub(super) struct Processes {
    pub(super) master: Option<Process>,
    /// Those that accept connections.
    pub(super) workers: BTreeSet<Process>,
    /// Those that only finish what they have.
    pub(super) leaving: BTreeSet<Process>,
}

impl Nginx {
    fn command(&self, config: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.arg0("nginx").arg("-p").arg(&self.folder).arg("-e").arg(self.folder.join("error.log"));
        command.arg("-c").arg(config).current_dir(&self.folder).env_clear();
        if let Some(User { uid, gid }) = self.user {
            command.uid(uid).gid(gid);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    async fn run(&self, mut command: Command) -> Result<(), String> {
        let named = |error: io::Error| format!("{} cannot be run: {error}", self.program.display());
        let child = command.spawn().map_err(named)?;
        let ended = timeout(START_LIMIT, child.wait_with_output()).await;
        let output = ended.map_err(|_| format!("nginx took longer than {START_LIMIT:?}"))?.map_err(named)?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let worst = said.lines().find(|line| line.contains("[emerg]")).or_else(|| said.lines().next());
        let worst = worst.unwrap_or("it said nothing").trim_start_matches("nginx: ");
        Err(worst.chars().take(500).collect())
    }

    /// Whether nginx accepts a configuration.
    ///
    /// # Errors
    /// nginx's words.
    pub(super) async fn test(&self, config: &Path) -> Result<(), String> {
        let mut command = self.command(config);
        command.arg("-t").arg("-q");
        self.run(command).await
    }

    /// Ends what runs: it finishes what it has, and holds the address no longer when this returns.
    pub(super) async fn let_go(&self) {
        let until = Instant::now() + LET_GO;
        loop {
            let found = self.processes();
            if found.master.is_none() && found.workers.is_empty() {
                return;
            }
            let late = Instant::now() >= until;
            for process in found.master.iter().chain(&found.workers) {
                process.signal(if late { Signal::KILL } else { Signal::QUIT });
            }
            // A master that waits for its workers holds the address no longer.
            if found.workers.is_empty() && !found.leaving.is_empty() {
                return;
            }
            sleep(LOOK).await;
        }
    }

    /// Starts it. What is left of one whose master is gone lets go of the address first.
    ///
    /// # Errors
    /// nginx's words.
    pub(super) async fn start(&self, config: &Path) -> Result<(), String> {
        self.let_go().await;
        // One that was killed leaves its socket.
        drop(std::fs::remove_file(self.folder.join("status.sock")));
        self.run(self.command(config)).await
    }

    /// Has the master read its configuration again.
    pub(super) fn reload(&self) {
        if let Some(master) = self.processes().master {
            master.signal(Signal::HUP);
        }
    }

    /// Has all open their logs again.
    pub(super) fn reopen(&self) {
        if let Some(master) = self.processes().master {
            master.signal(Signal::USR1);
        }
    }

    /// Which table new requests meet: what the version endpoint says.
    pub(super) async fn stamp(&self) -> Option<String> {
        let ask = async {
            let mut stream = UnixStream::connect(self.folder.join("status.sock")).await.ok()?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            Some(answer.split_once("\r\n\r\n")?.1.trim().to_owned())
        };
        timeout(ASK_LIMIT, ask).await.ok().flatten()
    }

    /// Waits until new requests meet this table (none: any) and none of `old` accepts any more.
    ///
    /// # Errors
    /// When it takes longer than `limit`.
    pub(super) async fn in_effect(
        &self,
        stamp: Option<&str>,
        old: &BTreeSet<Process>,
        limit: Duration,
    ) -> Result<Processes, String> {
        let until = Instant::now() + limit;
        loop {
            let found = self.processes();
            if found.master.is_some()
                && !found.workers.is_empty()
                && found.workers.is_disjoint(old)
                && let Some(said) = self.stamp().await
                && stamp.is_none_or(|stamp| stamp == said)
            {
                return Ok(found);
            }
            if Instant::now() > until {
                return Err(format!(
                    "nginx did not change to the new table within {limit:?}; see its error.log"
                ));
            }
            sleep(LOOK).await;
        }
    }

    /// What runs now in this folder.
    pub(super) fn processes(&self) -> Processes {
        let mut found = Processes::default();
        let Ok(all) = std::fs::read_dir("/proc") else { return found };
        for entry in all.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            let path = entry.path();
            let Ok(title) = std::fs::read(path.join("cmdline")) else { continue };
            let Some(title) = title.strip_prefix(b"nginx: ") else { continue };
            if std::fs::read_link(path.join("cwd")).ok().as_deref() != Some(self.folder.as_path()) {
                continue;
            }
            let Some(started) = started(pid) else { continue };
            let process = Process { pid, started };
            if title.starts_with(b"master process") {
                found.master = Some(process);
            } else if title.starts_with(b"worker process is shutting down") {
                found.leaving.insert(process);
            } else if title.starts_with(b"worker process") {
                found.workers.insert(process);
            }
        }
        found
    }
}

impl Process {
    fn pid(self) -> Option<Pid> {
        Pid::from_raw(self.pid)
    }

    pub(super) fn signal(self, signal: Signal) {
        if self.is_there()
            && let Some(pid) = self.pid()
        {
            // It may have ended meanwhile.
            let _gone = kill_process(pid, signal);
        }
    }

    pub(super) fn is_there(self) -> bool {
        started(self.pid) == Some(self.started)
    }

    /// Returns when it has ended.
    pub(super) async fn ended(self) {
        while self.is_there() {
            sleep(LOOK_AT_MASTER).await;
        }
    }
}

/// When a process was started, if it is there and no zombie.
fn started(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(started)
}
