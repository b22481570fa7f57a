use std::os::unix::fs::PermissionsExt as _;
use std::sync::Mutex;
use std::time::Instant;

use sdp_core::wire::{CUT_MARKER, MAX_LINE};
use tokio::process::Command;

use super::*;

mod isolation;

const LONG: Duration = Duration::from_secs(60);

/// A script in a folder of its own, and a tag by which its processes are found afterwards.
struct Script {
    folder: tempfile::TempDir,
    tag: String,
}

impl Script {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("script");
        std::fs::write(&path, format!("#!/bin/sh\n{text}")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder, tag: uuid::Uuid::new_v4().to_string() }
    }

    fn program(&self) -> Program {
        let env = [("PATH", "/usr/bin:/bin"), ("TAG", &self.tag)];
        Program {
            argv: vec!["./script".into()],
            cwd: self.folder.path().to_owned(),
            env: env.map(|(name, value)| (name.into(), value.into())).into(),
        }
    }

    fn alive(&self) -> Vec<String> {
        let mut alive = carrying(&format!("TAG={}", self.tag));
        // Processes that cleared their environment have written down their ids.
        let pids = std::fs::read_to_string(self.folder.path().join("pids")).unwrap_or_default();
        alive.extend(pids.split_whitespace().filter(|pid| is_alive(pid)).map(str::to_owned));
        alive
    }

    /// Returns when those that are alive have ended.
    async fn gone(&self) {
        let fds = self.alive().into_iter().filter_map(|pid| tree::open(pid.parse().unwrap()).ok());
        tree::ended(fds.collect()).await;
        assert_eq!(self.alive(), [""; 0]);
    }
}

fn carrying(entry: &str) -> Vec<String> {
    let pids = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name());
    pids.filter_map(|pid| pid.into_string().ok())
        .filter(|pid| pid.bytes().all(|b| b.is_ascii_digit()))
        .filter(|pid| {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|b| *b == 0).any(|have| have == entry.as_bytes())
        })
        .filter(|pid| is_alive(pid))
        .collect()
}

fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

type Line = (Stream, Vec<u8>);

/// Collects lines, and says stop when one of them is `ready`.
fn collect() -> (OnLine, Arc<Mutex<Vec<Line>>>, CancellationToken) {
    let (lines, stop) = (Arc::new(Mutex::new(Vec::new())), CancellationToken::new());
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

fn quick() -> Options {
    Options { grace: Duration::from_millis(200), ..Options::default() }
}

#[tokio::test]
async fn every_line_arrives_byte_for_byte_with_its_stream_and_the_exit_code() {
    let script = Script::new(r"printf 'out\r\n\000\377\n\nlast'; printf 'err\n' >&2; exit 7");
    let (on_line, lines, stop) = collect();
    let status = run(script.program(), on_line, &stop, LONG).await.unwrap();
    assert_eq!(status.code(), Some(7));
    let lines = lines.lock().unwrap();
    let of = |stream| lines.iter().filter(|(s, _)| *s == stream).map(|(_, l)| l.clone()).collect::<Vec<_>>();
    assert_eq!(of(Stream::Stdout), [&b"out\r"[..], b"\0\xff", b"", b"last"]);
    assert_eq!(of(Stream::Stderr), [b"err"]);
}

#[tokio::test]
async fn a_program_sees_its_own_environment_no_input_and_no_shell() {
    let script = Script::new(r#"env | cut -d= -f1 | sort; cat; echo "arg $1""#);
    let mut program = script.program();
    program.argv.push("$(id) `id` ;id ${IFS} *".into());
    let (on_line, lines, stop) = collect();
    run(program, on_line, &stop, LONG).await.unwrap();
    let lines: Vec<_> =
        lines.lock().unwrap().iter().map(|(_, line)| String::from_utf8_lossy(line).into_owned()).collect();
    // The shell itself adds PWD, and some OLDPWD, SHLVL and _.
    let own: Vec<_> =
        lines.iter().filter(|l| !["PWD", "OLDPWD", "SHLVL", "_"].contains(&l.as_str())).collect();
    assert_eq!(own, ["PATH", "SDP_EXEC", "TAG", "arg $(id) `id` ;id ${IFS} *"]);
}

#[tokio::test]
async fn a_missing_program_is_named() {
    let script = Script::new("");
    let missing = script.folder.path().join("orphan");
    std::fs::write(&missing, "#!/no/such/interpreter -x\n").unwrap();
    std::fs::set_permissions(&missing, std::fs::Permissions::from_mode(0o755)).unwrap();
    for (name, said) in [
        ("no-such-tool", "no-such-tool is not on this machine"),
        ("./missing", "./missing is not on this machine"),
        ("./orphan", "/no/such/interpreter (the interpreter of ./orphan) is not on this machine"),
        ("orphan", "orphan is not on this machine"),
    ] {
        let program = Program { argv: vec![name.into()], ..script.program() };
        let (on_line, _, stop) = collect();
        let error = run(program, on_line, &stop, LONG).await.unwrap_err();
        assert!(matches!(error, ExecError::NotFound { .. }), "{error:?}");
        assert_eq!(error.to_string(), said);
    }
}

#[tokio::test]
async fn what_cannot_be_started_is_an_error_not_a_panic() {
    let script = Script::new("");
    let here = script.program();
    let (on_line, _, stop) = collect();
    for program in [
        Program { argv: vec![], ..here.clone() },
        Program { cwd: "/no/such/folder".into(), ..here.clone() },
        Program { argv: vec!["./script".into(), "nul\0".into()], ..here },
    ] {
        let error = run(program, on_line.clone(), &stop, LONG).await.unwrap_err();
        assert!(matches!(error, ExecError::Spawn(_)), "{error:?}");
    }
}

#[tokio::test]
async fn two_hundred_mebibytes_in_one_line_give_one_cut_line() {
    let script = Script::new("head -c 209715200 /dev/zero; echo; echo after");
    let (on_line, lines, stop) = collect();
    run(script.program(), on_line, &stop, LONG).await.unwrap();
    let lines = lines.lock().unwrap();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].1.len() <= MAX_LINE + CUT_MARKER.len());
    assert!(lines[0].1.ends_with(CUT_MARKER.as_bytes()));
    assert_eq!(lines[1].1, b"after");
}

#[tokio::test]
async fn secrets_are_taken_out_before_lines_are_cut() {
    let secret = "s3cret-".repeat(10);
    // The cut falls into the secret.
    let text =
        format!("head -c {} /dev/zero; printf '%s' '{secret}'; head -c 70000 /dev/zero", MAX_LINE - 70);
    let script = Script::new(&text);
    let (on_line, lines, stop) = collect();
    let options = Options { redactor: Redactor::new([secret.as_str()]), ..Options::default() };
    run_with(script.program(), options, on_line, &stop, LONG).await.unwrap();
    let line = String::from_utf8_lossy(&lines.lock().unwrap()[0].1).into_owned();
    assert!(!line.contains("s3c"), "{}", &line[line.len() - 200..]);
}

#[tokio::test]
async fn a_program_that_takes_too_long_is_ended() {
    let script = Script::new("sleep 1000");
    let (on_line, _, stop) = collect();
    let error = run(script.program(), on_line, &stop, Duration::from_millis(100)).await.unwrap_err();
    assert!(matches!(error, ExecError::TimedOut));
    assert_eq!(script.alive(), [""; 0]);
}

#[tokio::test]
async fn a_stop_before_the_start_starts_nothing() {
    let script = Script::new("touch started");
    let (on_line, _, stop) = collect();
    stop.cancel();
    assert!(matches!(run(script.program(), on_line, &stop, LONG).await, Err(ExecError::Cancelled)));
    assert!(!script.folder.path().join("started").exists());
}

/// Ignores `SIGTERM`, leaves the session, clears its environment, has its parent die, and goes on.
const EVADER: &str = r#"
trap '' TERM
setsid sh -c 'trap "" TERM; while :; do sleep 1; done' &
(setsid sh -c 'trap "" TERM; while :; do sleep 1; done' &)
(env -i /usr/bin/setsid sh -c 'trap "" TERM; echo $$ >>pids; (sleep 1000 & echo $! >>pids); while :; do sleep 1; done' </dev/null >/dev/null 2>&1 &)
while [ "$(wc -l <pids 2>/dev/null || echo 0)" -lt 2 ]; do sleep 0.01; done
echo ready
while :; do sleep 1; done
"#;

#[tokio::test]
async fn nothing_is_left_of_a_build_that_ignores_signals_and_hides() {
    let script = Script::new(EVADER);
    // Nobody else's process may come to harm.
    let mut bystander = Command::new("sleep").arg("1000").kill_on_drop(true).spawn().unwrap();
    let (on_line, _, stop) = collect();
    let asked = async {
        stop.cancelled().await;
        Instant::now()
    };
    let (result, asked) = tokio::join!(run_with(script.program(), quick(), on_line, &stop, LONG), asked);
    assert!(matches!(result, Err(ExecError::Cancelled)), "{result:?}");
    assert_eq!(script.alive(), [""; 0]);
    // Far less, but on a machine that is busy with something else.
    assert!(asked.elapsed() < LONG / 2, "{:?}", asked.elapsed());
    assert!(bystander.try_wait().unwrap().is_none(), "a bystander was killed");
}

#[tokio::test]
async fn a_process_that_keeps_changing_its_id_is_caught() {
    let hopper = r#"
trap '' TERM
if [ -z "$HOPPING" ]; then HOPPING=1; export HOPPING; (setsid ./script &); echo ready; while :; do sleep 1; done; fi
sleep 0.005
setsid ./script &
"#;
    let script = Script::new(hopper);
    let (on_line, _, stop) = collect();
    let error = run_with(script.program(), quick(), on_line, &stop, LONG).await.unwrap_err();
    assert!(matches!(error, ExecError::Cancelled), "{error}");
    assert_eq!(script.alive(), [""; 0]);
}

#[tokio::test]
async fn a_daemon_that_a_build_leaves_behind_does_not_hold_it_up_and_is_ended() {
    let script = Script::new("sleep 1000 & setsid sleep 1000 >/dev/null 2>&1 & echo done");
    let (on_line, lines, stop) = collect();
    let begin = Instant::now();
    assert!(run(script.program(), on_line, &stop, LONG).await.unwrap().success());
    assert!(begin.elapsed() < PIPE_GRACE + Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(lines.lock().unwrap()[0].1, b"done");
    assert_eq!(script.alive(), [""; 0]);
}

#[tokio::test]
async fn a_program_that_heeds_the_signal_has_its_say_and_is_not_waited_for() {
    let script = Script::new("trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done");
    let (on_line, lines, stop) = collect();
    let begin = Instant::now();
    let options = Options { grace: LONG, ..Options::default() };
    let error = run_with(script.program(), options, on_line, &stop, LONG).await.unwrap_err();
    assert!(matches!(error, ExecError::Cancelled));
    assert!(begin.elapsed() < LONG / 2, "{:?}", begin.elapsed());
    assert!(lines.lock().unwrap().contains(&(Stream::Stdout, b"bye".to_vec())));
}

#[tokio::test]
async fn a_dropped_future_leaves_nothing() {
    let script = Script::new(EVADER);
    let (on_line, _, ready) = collect();
    let never = CancellationToken::new();
    tokio::select! {
        out = run(script.program(), on_line, &never, LONG) => panic!("{out:?}"),
        () = ready.cancelled() => {}
    }
    // They have been killed; their going is seen a moment later.
    timeout(LONG, script.gone()).await.unwrap();
}

#[tokio::test]
async fn builds_are_polite() {
    // Told by its parent, a moment after it was started.
    let script = Script::new(
        "nice; i=0; while [ \"$(cat /proc/self/oom_score_adj)\" != 500 ] && [ $i -lt 1000 ]; do sleep 0.01; i=$((i+1)); done; \
         cat /proc/self/oom_score_adj; ulimit -c",
    );
    let own = rustix::process::getpriority_process(None).unwrap();
    let (on_line, lines, stop) = collect();
    run(script.program(), on_line, &stop, LONG).await.unwrap();
    let lines: Vec<_> =
        lines.lock().unwrap().iter().map(|(_, line)| String::from_utf8_lossy(line).into_owned()).collect();
    assert_eq!(lines, [(own + 10).min(19).to_string(), "500".into(), "0".into()]);
}

#[tokio::test]
async fn what_a_killed_agent_left_behind_is_found_by_its_folder() {
    let (ours, other) = (Script::new(EVADER), Script::new(EVADER));
    for script in [&ours, &other] {
        let mut program = script.program();
        program.env.insert("HOME".into(), script.folder.path().join("home").into());
        let mut running = spawn(&program, Kind::Build, &Isolation::default()).await.unwrap();
        let mut lines = tokio::io::BufReader::new(running.stdout.take().unwrap());
        let mut line = String::new();
        tokio::io::AsyncBufReadExt::read_line(&mut lines, &mut line).await.unwrap();
        assert_eq!(line, "ready\n");
        // As if the agent had been killed: nobody looks after it any more.
        running.over = true;
    }
    let root = ours.folder.path().to_owned();
    assert!(tokio::task::spawn_blocking(move || kill_leftovers(&root)).await.unwrap() >= 3);
    timeout(LONG, ours.gone()).await.unwrap();
    assert!(!other.alive().is_empty(), "another agent's were killed");
    kill_leftovers(other.folder.path());
}

#[test]
fn variables_are_not_shown() {
    let program = Program {
        argv: vec!["go".into()],
        cwd: "/".into(),
        env: [("GOPROXY".into(), "https://u:hunter2@proxy".into())].into(),
    };
    insta::assert_snapshot!(format!("{program:?}"), @r#"Program { argv: ["go"], cwd: "/", env: ["GOPROXY"] }"#);
}
