//! `sdp-agent exec`: runs one program so that it dies with the agent, and with it whatever it has forked.
//!
//! ```text
//!   agent ═══ socket ═══▶ watcher          ──▶ init                 ──▶ the program ──▶ …
//!     the request ─────────────────────────────▶ reads it, starts the program, reaps, says how it ended
//!     end of file ───────▶ kills init and all beneath it, and ends
//! ```
//! Watcher and init are this same executable, started by [`super::start`] with nothing but a marker in the environment:
//! the program's own variables come with the [`Request`], so that none of them (`LD_PRELOAD`, say) works in a process that has
//! the agent's rights, and none is seen among its arguments. [`take_over`] is the first thing in `main`: no runtime, no logging.
//!
//! The tie is the socket on standard input. The agent alone holds its other end, so that end closes when the agent's process
//! ends, in whatever way; a signal at the parent's death would come when the *thread* ends that happened to fork. Between init
//! and the watcher, which has one thread, that signal is right.
//!
//! - [`Mode::Namespace`]: init is the first process of a PID namespace. When it ends the kernel kills the rest, and nobody in
//!   there can prevent it. `/proc` shows that namespace alone.
//! - [`Mode::Subreaper`], without the right to make one: orphans come to init, and to the watcher should init be gone; so all are
//!   found by their parents and killed. A program that runs as the agent's own user can kill the watcher, too.
//!
//! Neither is in the program's control group: when that runs out of memory or processes, somebody is left to say so.
//! Invariant: the watcher says [`Answer::Gone`] only when init is reaped and, in a namespace, everybody in it.

mod message;

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{self, Pid, PidfdFlags, Signal, WaitOptions};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::tree;
pub(super) use message::{ANSWER, Answer, Request, Stage};

/// The first argument of the executable that is a shim.
const NAME: &str = "exec";

/// The program that others are run by, so that they die with the agent: one that calls [`take_over`] first of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shim {
    /// Its file, an absolute path.
    pub program: PathBuf,
    /// Whether PID namespaces are used where they can be had.
    pub namespaces: bool,
}

impl Shim {
    /// The executable of this very process, even if another file has taken its place meanwhile.
    #[must_use]
    pub fn own() -> Self {
        Self { program: "/proc/self/exe".into(), namespaces: true }
    }
}

/// How the processes of a program are held together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Namespace,
    Subreaper,
}

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Self::Namespace => "namespace",
            Self::Subreaper => "subreaper",
        }
    }
}

#[derive(Clone, Copy)]
enum Role {
    Watcher,
    Init,
}

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Self::Watcher => "watcher",
            Self::Init => "init",
        }
    }
}

/// The arguments of a watcher.
pub(super) fn arguments(mode: Mode) -> [&'static str; 3] {
    [NAME, Role::Watcher.name(), mode.name()]
}

/// Where the process was started as a shim: is one until its end. None otherwise. To be called first of all in `main`.
#[must_use]
pub fn take_over() -> Option<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    if words.next()? != NAME {
        return None;
    }
    let (role, mode) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let role = [Role::Watcher, Role::Init].into_iter().find(|one| role == one.name());
    let mode = [Mode::Namespace, Mode::Subreaper].into_iter().find(|one| mode == one.name());
    let is_socket = rustix::fs::fstat(io::stdin())
        .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_socket());
    let (Some(role), Some(mode), true) = (role, mode, is_socket) else {
        // If even that fails, nobody is there to read it.
        let _unsaid =
            writeln!(io::stderr(), "{NAME} is how the agent runs builds; it is of no use to anybody else");
        return Some(ExitCode::from(2));
    };
    let done = match role {
        Role::Watcher => watcher(mode),
        Role::Init => init(mode),
    };
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err((stage, error)) => {
            answer(Answer::Failed(
                stage,
                error.raw_os_error().unwrap_or(rustix::io::Errno::INVAL.raw_os_error()),
            ));
            ExitCode::FAILURE
        }
    })
}

type Fault = (Stage, io::Error);

fn at<E: Into<io::Error>>(stage: Stage) -> impl Fn(E) -> Fault {
    move |error| (stage, error.into())
}

/// Starts init, and waits for it or for the end of the agent.
fn watcher(mode: Mode) -> Result<(), Fault> {
    match mode {
        Mode::Namespace => unshare(UnshareFlags::NEWPID).map_err(at(Stage::Namespace))?,
        Mode::Subreaper => adopt().map_err(at(Stage::Init))?,
    }
    let mut command = Command::new("/proc/self/exe");
    command.arg0("sdp-agent").args([NAME, Role::Init.name(), mode.name()]);
    // As soon as there is an init. It also makes this a plain fork: what `posix_spawn` starts ignores two signals of the C
    // library, and the program would inherit that.
    let setup = || Ok(die_with_the_watcher()?);
    #[expect(unsafe_code, reason = "between fork and exec: system calls only, no allocation, no lock")]
    // SAFETY: rustix makes plain system calls, and its errors become io::Error without allocating.
    unsafe {
        command.pre_exec(setup);
    }
    let mut init = command.spawn().map_err(at(Stage::Init))?;
    let watched = let_go_of_output().and_then(|()| Ok(pidfd(&init)?)).and_then(|fd| {
        ended_or_alone(&fd)?;
        Ok(fd)
    });
    let none_left = match mode {
        Mode::Namespace => {
            // If it has ended, that is what was wanted. It cannot be reused before it is waited for.
            drop(init.kill());
            init.wait().is_ok()
        }
        // An init that ends by itself has waited for everybody.
        Mode::Subreaper
            if init.try_wait().is_ok_and(|ended| ended.is_some_and(|status| status.success())) =>
        {
            true
        }
        Mode::Subreaper => {
            let none_left = tree::kill_descendants();
            // Reaped already, as a rule.
            drop(init.wait());
            none_left
        }
    };
    watched.map_err(at(Stage::Init))?;
    if none_left {
        answer(Answer::Gone);
    }
    Ok(())
}

fn pidfd(child: &Child) -> rustix::io::Result<OwnedFd> {
    process::pidfd_open(Pid::from_child(child), PidfdFlags::empty())
}

/// Returns when the process has ended, or the agent has, or it has let go.
fn ended_or_alone(process: &OwnedFd) -> rustix::io::Result<()> {
    let agent = io::stdin();
    let mut watched =
        [PollFd::new(process, PollFlags::IN), PollFd::from_borrowed_fd(agent.as_fd(), PollFlags::RDHUP)];
    loop {
        match poll(&mut watched, None) {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map(drop),
        }
    }
}

/// Starts the program as the request says, and reaps whoever comes until nobody is left.
fn init(mode: Mode) -> Result<(), Fault> {
    // Again: the kernel forgets it when an executable gives more rights than its parent had.
    die_with_the_watcher().map_err(at(Stage::Init))?;
    match mode {
        Mode::Namespace => mount_proc().map_err(at(Stage::Proc))?,
        Mode::Subreaper => adopt().map_err(at(Stage::Init))?,
    }
    let request = Request::read(&mut io::stdin().lock()).map_err(at(Stage::Init))?;
    if request.argv.is_empty() {
        // A trial: all that there is to try has worked.
        answer(Answer::Started);
        return Ok(());
    }
    let program = start(request)?;
    let_go_of_output().map_err(at(Stage::Init))?;
    answer(Answer::Started);
    loop {
        match process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == program => answer(Answer::Ended(status.as_raw())),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            // Nobody is left.
            Err(_) => return Ok(()),
        }
    }
}

/// Has the kernel kill this process when its parent, which has one thread, ends.
fn die_with_the_watcher() -> rustix::io::Result<()> {
    process::set_parent_process_death_signal(Some(Signal::KILL))
}

/// A `/proc` of this namespace, where only its own processes see it.
fn mount_proc() -> rustix::io::Result<()> {
    unshare(UnshareFlags::NEWNS)?;
    // What is mounted here stays here; what the machine unmounts is not held by a service that runs for weeks.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    mount("proc", "/proc", "proc", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)
}

fn unshare(what: UnshareFlags) -> rustix::io::Result<()> {
    #[expect(unsafe_code, reason = "it is unsafe for descriptors alone, which are not unshared")]
    // SAFETY: only with `FILES` do descriptors of other threads become invalid; and there are no other threads.
    unsafe {
        unshare_unsafe(what)
    }
}

/// Orphans of descendants come to this process. (Any process id means "yes".)
fn adopt() -> rustix::io::Result<()> {
    process::set_child_subreaper(Some(process::getpid()))
}

/// The program's process id.
fn start(request: Request) -> Result<Pid, Fault> {
    let Request { admission, entrances, path, cwd, argv, env } = request;
    let opened: io::Result<Vec<File>> =
        entrances.iter().map(|path| OpenOptions::new().write(true).open(path)).collect();
    let entrances = opened.map_err(at(Stage::Group))?;
    let mut words = argv.into_iter();
    let mut command = Command::new(path);
    command
        .arg0(words.next().unwrap_or_default())
        .args(words)
        .current_dir(cwd)
        .env_clear()
        .envs(env)
        .stdin(Stdio::null());
    let setup = move || admission.enter(&entrances);
    #[expect(unsafe_code, reason = "between fork and exec: system calls only, no allocation, no lock")]
    // SAFETY: rustix makes plain system calls, and its errors become io::Error without allocating.
    unsafe {
        command.pre_exec(setup);
    }
    // It is waited for with all others.
    let child = command.spawn().map_err(at(Stage::Program))?;
    Ok(Pid::from_child(&child))
}

/// The program alone holds its pipes: their end is seen when it has closed them.
fn let_go_of_output() -> io::Result<()> {
    let nowhere = OpenOptions::new().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&nowhere)?;
    Ok(rustix::stdio::dup2_stderr(&nowhere)?)
}

fn answer(answer: Answer) {
    // So few bytes go at once; and if the agent is gone there is nobody to tell.
    let _ = rustix::io::write(io::stdin(), &answer.bytes());
}
