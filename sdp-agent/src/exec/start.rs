//! Starts programs: finds the file, makes the pipes, and forks it, or has a [shim](super::shim) do that.
//!
//! [`spawn`] is called by `exec::run_with` and by `runtime::process`. A start under a shim is one only when the shim has said
//! so: an error means the same either way, and nothing is left of it. A [`Tie`] is the agent's end of the shim's socket:
//! when it is dropped, or closed by the end of this process, all that runs under the shim is killed.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::isolation::{By, Entry, OOM_SCORE, keep_capabilities};
use super::shim::{self, ANSWER, Answer, Mode, Request};
use super::tree::{self, Tree};
use super::{ExecError, Isolation, Kind, Pipe, Program, REAP_LIMIT, Running};

/// How often a start is tried again when the file is still open for writing in a process that was just forked.
const BUSY_RETRIES: u32 = 20;
/// How long a shim may take to start a program; more than a machine that is busy with everything else.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long a shim may take to kill all; then they are looked for.
const END_LIMIT: Duration = Duration::from_secs(1);

/// Starts a program.
pub(crate) async fn spawn(
    program: &Program,
    kind: Kind,
    isolation: &Isolation,
) -> Result<Running, ExecError> {
    let (path, entry) = {
        let (program, isolation) = (program.clone(), isolation.clone());
        let prepare = move || Ok((resolve(&program)?, isolation.prepare(kind).map_err(ExecError::Spawn)?));
        tokio::task::spawn_blocking(prepare)
            .await
            .map_err(|error| ExecError::Spawn(io::Error::other(error)))??
    };
    let marker = tree::new_marker();
    let mut tries = 0;
    loop {
        let started = match isolation.shim() {
            Some((shim, mode)) => Box::pin(start_under(shim, mode, program, &path, &marker, &entry)).await,
            None => start(program, &path, &marker, &entry).await,
        };
        match started {
            // A file that was just written may still be open in another child of ours, between its fork and exec.
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY_RETRIES => {
                tries += 1;
                sleep(Duration::from_millis(5 * u64::from(tries))).await;
            }
            started => return started.map_err(ExecError::Spawn),
        }
    }
}

/// Starts it as a child of this process.
async fn start(program: &Program, path: &Path, marker: &str, entry: &Entry) -> io::Result<Running> {
    let mut command = Command::new(path);
    command
        .arg0(program.argv.first().map_or(OsStr::new(""), |name| name))
        .args(program.argv.iter().skip(1))
        .current_dir(&program.cwd)
        .env_clear()
        .envs(&program.env)
        .env(tree::MARKER, marker)
        .stdin(Stdio::null());
    let (admission, group) = (entry.admission(By::Agent), entry.group.clone());
    let setup = move || admission.enter(group.as_ref().map_or(&[], |group| group.entrances()));
    #[expect(unsafe_code, reason = "between fork and exec: system calls only, no allocation, no lock")]
    // SAFETY: rustix makes plain system calls, and its errors become io::Error without allocating.
    unsafe {
        command.pre_exec(setup);
    }
    let (child, pipe) = fork(&mut command, entry.kind)?;
    if let Some(pid) = child.id()
        && entry.kind == Kind::Build
    {
        // Makes it the one to go when memory runs out. Where the system forbids it, the build is still right.
        drop(std::fs::write(format!("/proc/{pid}/oom_score_adj"), OOM_SCORE));
    }
    running(child, pipe, None, marker, entry).await
}

/// Has a shim start it.
async fn start_under(
    shim: &Path,
    mode: Mode,
    program: &Program,
    path: &Path,
    marker: &str,
    entry: &Entry,
) -> io::Result<Running> {
    let marked = (tree::MARKER.into(), marker.into());
    let request = Request {
        admission: entry.admission(By::Shim),
        entrances: entry.group.as_ref().map(|group| group.entrance_paths()).unwrap_or_default(),
        path: path.to_owned(),
        cwd: program.cwd.clone(),
        argv: program.argv.clone(),
        env: program.env.clone().into_iter().chain([marked]).collect(),
    };
    let request = request.bytes()?;
    let (ours, theirs) = UnixStream::pair()?;
    let theirs = theirs.into_std()?;
    theirs.set_nonblocking(false)?;
    let mut command = Command::from(watcher(shim, mode, theirs.into()));
    // By these the next life of an agent finds what this one leaves.
    command.env(tree::MARKER, marker);
    if let Some(home) = program.env.get(OsStr::new("HOME")) {
        command.env("HOME", home);
    }
    let (child, pipe) = fork(&mut command, entry.kind).map_err(|error| {
        io::Error::new(error.kind(), format!("{} cannot be started: {error}", shim.display()))
    })?;
    // With it goes this process's copy of the shim's end.
    drop(command);
    let mut running = running(child, pipe, Some(Tie::new(ours, mode)), marker, entry).await?;
    let Running { child, tie: Some(tie), over, .. } = &mut running else { return Ok(running) };
    match timeout(START_LIMIT, tie.begin(&request)).await {
        Ok(Ok(())) => Ok(running),
        Ok(Err(error)) => {
            // Nothing was started. The shim ends by itself, and the control group stays as it is for another try.
            tie.end_all().await;
            *over = matches!(timeout(REAP_LIMIT, child.wait()).await, Ok(Ok(_)));
            Err(error)
        }
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "it did not start in time")),
    }
}

/// A shim that does nothing yet.
fn watcher(shim: &Path, mode: Mode, socket: OwnedFd) -> std::process::Command {
    let mut command = std::process::Command::new(shim);
    command.arg0("sdp-agent").args(shim::arguments(mode)).current_dir("/").env_clear().stdin(socket);
    let setup = || {
        // What is typed at the agent's terminal is for the agent.
        rustix::process::setsid()?;
        keep_capabilities()
    };
    #[expect(unsafe_code, reason = "between fork and exec: system calls only, no allocation, no lock")]
    // SAFETY: rustix makes plain system calls, and its errors become io::Error without allocating.
    unsafe {
        command.pre_exec(setup);
    }
    command
}

/// Tries whether a shim can make a namespace. Blocks.
pub(super) fn try_namespace(shim: &Path) -> io::Result<()> {
    let (mut ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_read_timeout(Some(START_LIMIT))?;
    let mut command = watcher(shim, Mode::Namespace, theirs.into());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    drop(command);
    let mut tried = || {
        ours.write_all(&Request::trial().bytes()?)?;
        let mut bytes = [0; ANSWER];
        ours.read_exact(&mut bytes)?;
        started(Answer::parse(bytes))
    };
    let tried = tried();
    drop(child.kill());
    drop(child.wait());
    tried
}

/// What a shim's first word means.
fn started(answer: Option<Answer>) -> io::Result<()> {
    match answer {
        Some(Answer::Started) => Ok(()),
        Some(Answer::Failed(stage, errno)) => Err(stage.fault(errno)),
        _ => Err(io::Error::new(io::ErrorKind::BrokenPipe, "what runs the program has ended")),
    }
}

/// The child, and its pipe if it has only one.
fn fork(command: &mut Command, kind: Kind) -> io::Result<(Child, Option<Pipe>)> {
    if kind == Kind::Build {
        return command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map(|child| (child, None));
    }
    let (reader, writer) = io::pipe()?;
    let pipe = pipe::Receiver::from_owned_fd(reader.into())?;
    let child = command.stdout(writer.try_clone()?).stderr(writer).spawn()?;
    Ok((child, Some(Box::new(pipe))))
}

async fn running(
    mut child: Child,
    pipe: Option<Pipe>,
    tie: Option<Tie>,
    marker: &str,
    entry: &Entry,
) -> io::Result<Running> {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    let tree = match pid.map(|pid| Tree::new(pid, tie.is_some(), marker, entry.group.clone())) {
        Some(Ok(tree)) => tree,
        other => {
            // Without pidfd nothing could be watched or killed safely.
            drop(child.start_kill());
            drop(child.wait().await);
            return Err(match other {
                Some(Err(error)) => error,
                _ => io::Error::other("it has no process id"),
            });
        }
    };
    let stdout = pipe.or_else(|| Some(Box::new(child.stdout.take()?)));
    let stderr = child.stderr.take().map(|pipe| Box::new(pipe) as Pipe);
    Ok(Running { child, stdout, stderr, tree, tie, over: false })
}

/// The agent's end of a shim's socket.
#[derive(Debug)]
pub(super) struct Tie {
    socket: UnixStream,
    mode: Mode,
    /// The beginning of an answer.
    partial: [u8; ANSWER],
    filled: usize,
    ended: Option<i32>,
    gone: bool,
}

impl Tie {
    fn new(socket: UnixStream, mode: Mode) -> Self {
        Self { socket, mode, partial: [0; ANSWER], filled: 0, ended: None, gone: false }
    }

    /// Has the program started.
    async fn begin(&mut self, request: &[u8]) -> io::Result<()> {
        // A shim that fails early does not read it all; its answer says more than that.
        drop(self.socket.write_all(request).await);
        started(self.next().await)
    }

    /// Returns when the program has ended, or the shim.
    pub(super) async fn program_ended(&mut self) {
        while self.ended.is_none() && self.next().await.is_some() {}
    }

    /// How the program ended, if the shim has said so.
    pub(super) fn status(&self) -> Option<ExitStatus> {
        self.ended.map(ExitStatus::from_raw)
    }

    /// Has the shim kill whatever is left. False if it is not certain that nobody is.
    pub(super) async fn end_all(&mut self) -> bool {
        let ending = async {
            if self.socket.shutdown().await.is_ok() {
                while self.next().await.is_some() {}
            }
        };
        drop(timeout(END_LIMIT, ending).await);
        // What has no namespace may have got away from its shim.
        self.gone && self.mode == Mode::Namespace
    }

    /// The next answer; none if there will be no more. Can be dropped and called again.
    async fn next(&mut self) -> Option<Answer> {
        while self.filled < ANSWER {
            match self.socket.read(&mut self.partial[self.filled..]).await {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.filled += read,
            }
        }
        self.filled = 0;
        let answer = Answer::parse(self.partial)?;
        match answer {
            Answer::Ended(status) => self.ended = Some(status),
            Answer::Gone => self.gone = true,
            Answer::Started | Answer::Failed(..) => {}
        }
        Some(answer)
    }
}

/// Finds the program's file: what `execvp` would do, but with the program's own `PATH` and folder, and a clear answer.
fn resolve(program: &Program) -> Result<PathBuf, ExecError> {
    let Some(name) = program.argv.first().filter(|name| !name.is_empty()) else {
        return Err(ExecError::Spawn(io::Error::new(io::ErrorKind::InvalidInput, "the command is empty")));
    };
    let not_found = || ExecError::NotFound { program: name.to_string_lossy().into_owned() };
    if !program.cwd.is_dir() {
        let text = format!("its folder {} is not there", program.cwd.display());
        return Err(ExecError::Spawn(io::Error::new(io::ErrorKind::NotADirectory, text)));
    }
    let path = if name.as_encoded_bytes().contains(&b'/') {
        // A file that may not be executed is for the system to refuse, with its own words.
        Some(program.cwd.join(name)).filter(|path| path.is_file())
    } else {
        let path = program.env.get(OsStr::new("PATH")).map(OsString::as_os_str).unwrap_or_default();
        std::env::split_paths(path)
            .filter(|folder| folder.is_absolute())
            .map(|folder| folder.join(name))
            .find(|path| is_executable(path))
    }
    .ok_or_else(not_found)?;
    if let Some(interpreter) = interpreter(&path)
        && !interpreter.is_file()
    {
        let program = format!("{} (the interpreter of {})", interpreter.display(), name.to_string_lossy());
        return Err(ExecError::NotFound { program });
    }
    Ok(path)
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// What a script's first line names; a missing one makes the system say "no such file" of the script itself.
fn interpreter(path: &Path) -> Option<PathBuf> {
    use std::io::Read as _;
    let mut start = [0; 256];
    let read = std::fs::File::open(path).ok()?.read(&mut start).ok()?;
    let line = start[..read].strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?;
    let word = line.split(|b| matches!(b, b' ' | b'\t')).find(|word| !word.is_empty())?;
    Some(PathBuf::from(std::str::from_utf8(word).ok()?)).filter(|path| path.is_absolute())
}
