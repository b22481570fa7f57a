//! Programs under the real `sdp-agent exec`: what holds without it holds with it, in a namespace and without one; and what only
//! it can do, which is to end all of them when the agent is killed (`killed`).
//!
//! Namespaces need root; where there are none the tests say so by asserting that the agent does.

#![expect(
    clippy::unwrap_used,
    reason = "what a test cannot unwrap has failed it, in functions beside the tests, too"
)]

mod agent;
mod killed;

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sdp_agent::config::{BuildConfig, BuildLimits, User};
use sdp_agent::exec::{ExecError, Isolation, OnLine, Options, Processes, Program, Shim, run_with};
use sdp_core::wire::Stream;
use sdp_core::wire::link::AgentFrame;
use tokio_util::sync::CancellationToken;

use agent::{Agent, Way};

const LONG: Duration = Duration::from_secs(60);
/// The `sdp-agent` of this build.
const AGENT: &str = env!("CARGO_BIN_EXE_sdp-agent");
const BUILDER: User = User { uid: 64100, gid: 64100 };

/// Ignores `SIGTERM`, leaves the session, clears its environment, has its parent die twice over, and goes on.
const EVADER: &str = r#"
trap '' TERM
setsid sh -c 'trap "" TERM; while :; do sleep 1; done' &
(setsid sh -c 'trap "" TERM; while :; do sleep 1; done' &)
(env -i /usr/bin/setsid sh -c 'trap "" TERM; (env -i /usr/bin/setsid sleep 1000 &); echo there >hidden; while :; do sleep 1; done' </dev/null >/dev/null 2>&1 &)
while [ ! -e hidden ]; do sleep 0.01; done
echo ready
while :; do sleep 1; done
"#;

/// A script in a folder of its own, by which its processes are found whatever they do.
struct Script {
    folder: tempfile::TempDir,
}

impl Script {
    fn new(text: &str) -> Self {
        let script = Self { folder: tempfile::tempdir().unwrap() };
        script.write("script", &format!("#!/bin/sh\n{text}"));
        script
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn program(&self) -> Program {
        let env = [("PATH", "/usr/bin:/bin"), ("EMPTY", ""), ("ODD", "a=b\n$(id)")];
        Program {
            argv: vec!["./script".into()],
            cwd: self.folder.path().to_owned(),
            env: env.map(|(name, value)| (name.into(), value.into())).into(),
        }
    }

    /// What the configuration asks for, with a shim; none where there is no namespace to be had.
    fn isolation(&self, namespaces: bool, user: Option<User>, limits: BuildLimits) -> Option<Isolation> {
        if let Some(user) = user {
            chown(self.folder.path(), Some(user.uid), Some(user.gid)).unwrap();
        }
        let shim = Some(Shim { program: AGENT.into(), namespaces });
        let config = BuildConfig { user, limits, shim, ..BuildConfig::default() };
        let isolation = Isolation::open(&config, self.folder.path()).unwrap();
        match isolation.processes() {
            Processes::Namespace => assert!(namespaces),
            Processes::Subreaper { why } => {
                assert!(!namespaces || why.contains("CAP_SYS_ADMIN") || why.contains("namespace"), "{why}");
                if namespaces {
                    return None;
                }
            }
            other @ Processes::Children => panic!("{other:?}"),
        }
        Some(isolation)
    }

    /// With a namespace, where there is one, and without.
    fn isolations(&self) -> impl Iterator<Item = Isolation> {
        [true, false]
            .into_iter()
            .filter_map(|namespaces| self.isolation(namespaces, None, BuildLimits::default()))
    }

    fn alive(&self) -> Vec<String> {
        alive_in(self.folder.path())
    }
}

/// Everybody alive who works in that folder, as `pid: arguments`.
fn alive_in(folder: &Path) -> Vec<String> {
    let pids =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    pids.filter(|pid| pid.bytes().all(|b| b.is_ascii_digit()))
        .filter(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(folder)))
        .filter(|pid| is_alive(pid))
        .map(|pid| {
            let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            format!("{pid}: {}", String::from_utf8_lossy(&arguments).replace('\0', " "))
        })
        .collect()
}

fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// The shims that a process has started.
fn shims_of(parent: u32) -> Vec<String> {
    let pids = std::fs::read_dir("/proc").unwrap();
    pids.filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|arguments| arguments.starts_with(b"sdp-agent\0exec\0"))
        })
        .filter(|pid| parent_of(pid) == Some(parent.to_string()))
        .collect()
}

fn parent_of(pid: &str) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.to_owned())
}

type Lines = Arc<Mutex<Vec<(Stream, Vec<u8>)>>>;

/// Collects lines, and says stop when one of them is `ready`.
fn collect() -> (OnLine, Lines, CancellationToken) {
    let (lines, stop) = (Lines::default(), CancellationToken::new());
    let on_line: OnLine = {
        let (lines, stop) = (lines.clone(), stop.clone());
        Arc::new(move |stream, line: &[u8]| {
            if line == b"ready" {
                stop.cancel();
            }
            lines.lock().unwrap().push((stream, line.to_vec()));
        })
    };
    (on_line, lines, stop)
}

async fn run(program: Program, isolation: &Isolation) -> (Result<ExitStatus, ExecError>, Vec<String>) {
    let (on_line, lines, stop) = collect();
    let options =
        Options { isolation: isolation.clone(), grace: Duration::from_millis(200), ..Options::default() };
    let ended = Box::pin(run_with(program, options, on_line, &stop, LONG)).await;
    let said =
        lines.lock().unwrap().iter().map(|(_, line)| String::from_utf8_lossy(line).into_owned()).collect();
    (ended, said)
}

#[tokio::test]
async fn every_byte_arrives_on_its_stream_with_the_exit_code() {
    let script = Script::new(r"printf 'out\r\n\000\377\n\nlast'; printf 'err\n' >&2; exit 7");
    for isolation in script.isolations() {
        let (on_line, lines, stop) = collect();
        let options = Options { isolation, ..Options::default() };
        let status = Box::pin(run_with(script.program(), options, on_line, &stop, LONG)).await.unwrap();
        assert_eq!(status.code(), Some(7));
        let lines = lines.lock().unwrap();
        let of =
            |stream| lines.iter().filter(|(s, _)| *s == stream).map(|(_, l)| l.clone()).collect::<Vec<_>>();
        assert_eq!(of(Stream::Stdout), [&b"out\r"[..], b"\0\xff", b"", b"last"]);
        assert_eq!(of(Stream::Stderr), [b"err"]);
    }
}

#[tokio::test]
async fn a_hundred_thousand_lines_arrive_in_order() {
    let script = Script::new("exec seq 1 100000");
    for isolation in script.isolations() {
        let (ended, said) = run(script.program(), &isolation).await;
        assert!(ended.unwrap().success());
        assert_eq!(said.len(), 100_000);
        assert!(said.iter().zip(1..).all(|(line, number)| *line == number.to_string()));
    }
}

#[tokio::test]
async fn the_signal_that_ended_it_is_told_from_an_exit_code() {
    for (text, code, signal, shown) in [
        ("exit 0", Some(0), None, "exit status: 0"),
        ("exit 137", Some(137), None, "exit status: 137"),
        ("kill -KILL $$", None, Some(9), "signal: 9 (SIGKILL)"),
        ("kill -SEGV $$", None, Some(11), "signal: 11 (SIGSEGV)"),
        ("kill -TERM $$", None, Some(15), "signal: 15 (SIGTERM)"),
    ] {
        let script = Script::new(text);
        for isolation in script.isolations() {
            let status = run(script.program(), &isolation).await.0.unwrap();
            assert_eq!((status.code(), status.signal()), (code, signal), "{text}");
            assert_eq!(status.to_string(), shown);
        }
    }
}

#[tokio::test]
async fn a_program_has_the_environment_arguments_and_descriptors_that_it_would_have_without_a_shim() {
    let script = Script::new(
        r#"env -0 | tr '\0\n' '\n|' | sort; cat; echo "$0 $1 $#"; ls /proc/self/fd; readlink /proc/self/fd/0
           trap; grep -E 'Sig(Blk|Ign)|NoNewPrivs' /proc/$$/status | tr -d '\t'; grep -c . /proc/self/cgroup
           nice; cat /proc/self/oom_score_adj; ulimit -a; umask; pwd; [ "$(cut -d' ' -f6 /proc/$$/stat)" = $$ ] && echo leads"#,
    );
    let mut program = script.program();
    program.argv.push("$(id) `id` *".into());
    let unmarked = |said: Vec<String>| -> Vec<String> {
        let marker = said.iter().position(|line| line.starts_with("SDP_EXEC=")).expect("a marker");
        said.into_iter().enumerate().filter(|(n, _)| *n != marker).map(|(_, line)| line).collect()
    };
    let (ended, without) = run(program.clone(), &Isolation::default()).await;
    assert!(ended.unwrap().success());
    let without = unmarked(without);
    for line in ["EMPTY=", "ODD=a=b|$(id)", "/dev/null", "leads", "500", "NoNewPrivs:1"] {
        assert!(without.iter().any(|have| have == line), "{line}: {without:#?}");
    }
    for isolation in script.isolations() {
        let (ended, with) = run(program.clone(), &isolation).await;
        assert!(ended.unwrap().success());
        assert_eq!(unmarked(with), without);
    }
}

#[tokio::test]
async fn what_cannot_be_started_is_said_as_without_a_shim() {
    let script = Script::new("");
    script.write("orphan", "#!/no/such/interpreter -x\n");
    script.write("garbage", "\u{7f}ELF and nothing more");
    script.write("closed", "#!/bin/sh\n");
    std::fs::set_permissions(script.folder.path().join("closed"), std::fs::Permissions::from_mode(0o644))
        .unwrap();
    let named = |name: &str| Program { argv: vec![name.into()], ..script.program() };
    let programs = [
        named("no-such-tool"),
        named("./missing"),
        named("./orphan"),
        named("./garbage"),
        named("./closed"),
        Program { argv: vec![], ..script.program() },
        Program { cwd: "/no/such/folder".into(), ..script.program() },
        Program { argv: vec!["./script".into(), "nul\0".into()], ..script.program() },
        Program { argv: vec!["./script".into(), "x".repeat(3 << 20).into()], ..script.program() },
    ];
    for isolation in script.isolations() {
        for program in &programs {
            let (with, said) = run(program.clone(), &isolation).await;
            let (without, expected) = run(program.clone(), &Isolation::default()).await;
            assert_eq!((in_full(with), said), (in_full(without), expected));
        }
    }
    assert_eq!(shims_of(std::process::id()), [""; 0]);
}

fn in_full(ended: Result<ExitStatus, ExecError>) -> String {
    match ended {
        Ok(status) => status.to_string(),
        Err(ExecError::Spawn(error)) => format!("cannot start the program: {:?}, {error}", error.kind()),
        Err(error) => format!("{error:?}"),
    }
}

#[tokio::test]
async fn a_file_that_is_still_being_written_is_waited_for() {
    let script = Script::new("");
    let path = script.folder.path().join("script");
    std::fs::copy("/bin/true", &path).unwrap();
    for isolation in script.isolations() {
        let open = std::fs::File::options().append(true).open(&path).unwrap();
        let closing = async {
            // Long enough that the first try is over; and any number of tries is right.
            tokio::time::sleep(Duration::from_millis(50)).await;
            drop(open);
        };
        let ((ended, _), ()) = tokio::join!(run(script.program(), &isolation), closing);
        assert!(ended.unwrap().success());
    }
}

#[tokio::test]
async fn a_cancel_leaves_nothing_of_a_build_that_ignores_signals_and_hides() {
    for namespaces in [true, false] {
        let script = Script::new(EVADER);
        let Some(isolation) = script.isolation(namespaces, None, BuildLimits::default()) else { continue };
        let begin = Instant::now();
        let (ended, said) = run(script.program(), &isolation).await;
        assert!(matches!(ended, Err(ExecError::Cancelled)), "{ended:?}");
        assert_eq!(said, ["ready"]);
        assert_eq!(script.alive(), [""; 0]);
        assert_eq!(shims_of(std::process::id()), [""; 0]);
        assert!(begin.elapsed() < Duration::from_secs(12), "{:?}", begin.elapsed());
    }
}

#[tokio::test]
async fn a_program_that_heeds_the_signal_has_its_say_and_its_children_are_asked_too() {
    let script = Script::new(
        "exec 2>/dev/null # where shells say how their children ended\n\
         sh -c 'trap \"echo child; exit\" TERM; echo up; while :; do sleep 0.01; done' &\n\
         trap 'wait; echo bye; exit 3' TERM; sleep 0.1; echo ready; while :; do sleep 0.01; done",
    );
    for isolation in script.isolations() {
        let (on_line, lines, stop) = collect();
        let options = Options { isolation, grace: LONG, ..Options::default() };
        let begin = Instant::now();
        let ended = Box::pin(run_with(script.program(), options, on_line, &stop, LONG)).await;
        assert!(matches!(ended, Err(ExecError::Cancelled)), "{ended:?}");
        assert!(begin.elapsed() < LONG / 2, "{:?}", begin.elapsed());
        let said: Vec<_> = lines
            .lock()
            .unwrap()
            .iter()
            .map(|(_, line)| String::from_utf8_lossy(line).into_owned())
            .collect();
        assert_eq!(said, ["up", "ready", "child", "bye"]);
    }
}

#[tokio::test]
async fn the_last_words_of_what_outlives_the_program_are_heard_and_then_it_is_ended() {
    // As of `exec > >(tee log)`: the program has ended when the other end writes what it had not yet written.
    let script = Script::new(
        "(sleep 0.2; echo late; exec sleep 1000) & sleep 1000 >/dev/null 2>&1 & echo done; exit 5",
    );
    for isolation in script.isolations() {
        let (ended, said) = run(script.program(), &isolation).await;
        assert_eq!(ended.unwrap().code(), Some(5));
        assert_eq!(said, ["done", "late"]);
        assert_eq!(script.alive(), [""; 0]);
    }
}

#[tokio::test]
async fn a_dropped_future_leaves_nothing() {
    for namespaces in [true, false] {
        let script = Script::new(EVADER);
        let Some(isolation) = script.isolation(namespaces, None, BuildLimits::default()) else { continue };
        let (on_line, _, ready) = collect();
        let never = CancellationToken::new();
        let options = Options { isolation, ..Options::default() };
        tokio::select! {
            out = Box::pin(run_with(script.program(), options, on_line, &never, LONG)) => panic!("{out:?}"),
            () = ready.cancelled() => {}
        }
        killed::gone(script.folder.path(), LONG).await;
    }
}

#[tokio::test]
async fn a_shim_that_is_killed_takes_its_program_along() {
    for namespaces in [true, false] {
        let script = Script::new("echo started; exec sleep 1000");
        let Some(isolation) = script.isolation(namespaces, None, BuildLimits::default()) else { continue };
        let (started, wait) = (CancellationToken::new(), CancellationToken::new());
        let on_line: OnLine = {
            let started = started.clone();
            Arc::new(move |_, _| started.cancel())
        };
        let options = Options { isolation, ..Options::default() };
        let kill = async {
            started.cancelled().await;
            // Of this test alone, for a test has a process of its own or at least a script.
            let own = script.alive();
            let [program] = own.as_slice() else { panic!("{own:?}") };
            let init = parent_of(program.split(':').next().unwrap()).unwrap();
            let watcher = parent_of(&init).unwrap();
            // Neither holds the pipes: else their end would be seen only when the shim's is.
            for (pid, number) in [(&init, 1), (&init, 2), (&watcher, 1), (&watcher, 2)] {
                let path = format!("/proc/{pid}/fd/{number}");
                while std::fs::read_link(&path).unwrap() != Path::new("/dev/null") {
                    tokio::task::yield_now().await;
                }
            }
            let pid = rustix::process::Pid::from_raw(watcher.parse().unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        };
        let run = Box::pin(run_with(script.program(), options, on_line, &wait, LONG));
        let (ended, ()) = tokio::join!(run, kill);
        assert_eq!(ended.unwrap().signal(), Some(9));
        assert_eq!(script.alive(), [""; 0]);
    }
}

#[tokio::test]
async fn in_a_namespace_a_build_sees_and_reaches_its_own_processes_alone() {
    let agent = std::process::id();
    let script = Script::new(&format!(
        "echo /proc/[0-9]*; tr '\\0' ' ' </proc/1/cmdline; echo; echo $PPID\n\
         kill -0 {agent} 2>/dev/null && echo reached\n[ -e /proc/{agent}/environ ] && echo seen\n\
         sleep 1000 & kill -9 -1; echo alive",
    ));
    let Some(isolation) = script.isolation(true, None, BuildLimits::default()) else { return };
    let mut bystander = tokio::process::Command::new("sleep").arg("1000").kill_on_drop(true).spawn().unwrap();
    let (ended, said) = run(script.program(), &isolation).await;
    assert!(ended.unwrap().success());
    // Init and the script; what expands the pattern is the script itself.
    assert_eq!(said, ["/proc/1 /proc/2", "sdp-agent exec init namespace ", "1", "alive"]);
    assert!(bystander.try_wait().unwrap().is_none());
    // And this process sees what it did before.
    assert!(Path::new(&format!("/proc/{agent}/stat")).exists());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert_eq!(mounts.lines().filter(|line| line.split(' ').nth(4) == Some("/proc")).count(), 1, "{mounts}");
}

#[tokio::test]
#[ignore = "needs root to become another user; scripts/test runs it"]
async fn a_build_is_its_user_and_has_none_of_the_shims_rights() {
    let script = Script::new(
        "id -u; id -g; id -G; umask; grep -E 'Cap(Inh|Prm|Eff|Amb)|NoNewPrivs' /proc/self/status | tr -d '\\t'\n\
         kill -9 $PPID 2>/dev/null && echo killed the shim\n\
         cat /proc/$PPID/environ >/dev/null 2>&1 && echo read its environment\n\
         echo x >made && stat -c %a,%u made",
    );
    for namespaces in [true, false] {
        let Some(isolation) = script.isolation(namespaces, Some(BUILDER), BuildLimits::default()) else {
            continue;
        };
        let (ended, said) = run(script.program(), &isolation).await;
        assert!(ended.unwrap().success());
        insta::allow_duplicates! {
            insta::assert_snapshot!(said.join("\n"), @r"
            64100
            64100
            64100
            0022
            CapInh:0000000000000000
            CapPrm:0000000000000000
            CapEff:0000000000000000
            CapAmb:0000000000000000
            NoNewPrivs:1
            644,64100
            ");
        }
    }
}

#[tokio::test]
#[ignore = "needs root to give the agent capabilities; scripts/test runs it"]
async fn what_the_unit_lets_the_agent_do_its_builds_may_not() {
    let script = "grep -E 'Cap(Inh|Prm|Eff|Amb)' /proc/self/status | grep -v '\t0*$' || echo has none; echo ready; exec sleep 1000";
    for way in [Way::Unit, Way::UnitWithAdmin, Way::UnitAlone] {
        let mut agent = Agent::start(way, &[("evader", script)]).await;
        let command = killed::deploy(&agent, killed::At::Build);
        agent.say(command).await;
        let mut said = String::new();
        agent
            .until(|frame| {
                if let AgentFrame::Lines(batch) = frame {
                    said.extend(
                        batch.iter().map(|(_, line)| String::from_utf8_lossy(&line).into_owned() + "\n"),
                    );
                }
                said.contains("\nready\n")
            })
            .await;
        assert!(said.contains("has none\nready\n"), "{way:?}: {said}");
        agent.kill().await;
    }
}

#[tokio::test]
#[ignore = "needs root and control groups; scripts/test runs it"]
async fn limits_are_the_programs_and_what_it_ran_out_of_is_said() {
    // One process more than it may; the shim's do not count.
    let forks = "n=1\nwhile [ $n -lt 3 ]; do sleep 1000 & n=$((n+1)); done\necho three\nsleep 1000";
    let hungry = "exec perl -e 'my @a; push @a, \"x\" x 1048576 while @a < 4096; print scalar @a'";
    for namespaces in [true, false] {
        for (text, pids, said, error) in [
            (forks, 3, "three", "it made more processes and threads than the agent allows (3)"),
            (hungry, 50, "", "it took more memory than the agent allows (64 MiB)"),
        ] {
            let script = Script::new(text);
            let limits = BuildLimits { enforce: true, pids, memory_mib: 64, cpu_millis: None };
            let Some(isolation) = script.isolation(namespaces, Some(BUILDER), limits) else { continue };
            if isolation.enforced().is_err() {
                continue;
            }
            let (ended, lines) = run(script.program(), &isolation).await;
            assert_eq!(ended.unwrap_err().to_string(), error);
            assert!(said.is_empty() || lines.iter().any(|line| line == said), "{lines:?}");
            assert_eq!(script.alive(), [""; 0]);
        }
    }
}

#[test]
fn a_person_who_starts_the_shim_is_told_what_it_is() {
    let output = std::process::Command::new(AGENT).args(["exec", "make"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    insta::assert_snapshot!(
        String::from_utf8_lossy(&output.stderr),
        @"exec is how the agent runs builds; it is of no use to anybody else"
    );
}
