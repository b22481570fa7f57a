//! Builds that mean harm, as another user and in control groups. Root runs them; where the machine lets nobody make groups the
//! tests say so by asserting that the agent says so.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;

use super::*;
use crate::config::{BuildConfig, BuildLimits, User};

const BUILDER: User = User { uid: 64100, gid: 64100 };

/// A script in a folder that the build user can reach, and what it may take.
struct Bench {
    script: Script,
    isolation: Isolation,
}

impl Bench {
    fn new(text: &str, user: Option<User>, limits: BuildLimits) -> Self {
        let script = Script::new(text);
        let folder = script.folder.path();
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).unwrap();
        if let Some(user) = user {
            chown(folder, Some(user.uid), Some(user.gid)).unwrap();
        }
        let config = BuildConfig { user, limits, ..BuildConfig::default() };
        let isolation = Isolation::open(&config, folder).unwrap();
        Self { script, isolation }
    }

    /// Whether limits are kept here; if not, the reason is one that tells what to do.
    fn is_limited(&self) -> bool {
        match self.isolation.enforced() {
            Ok(how) => {
                assert!(how.contains("pids") && how.contains("memory"), "{how}");
                true
            }
            Err(why) => {
                assert!(why.contains("cgroup") || why.contains("control group"), "{why}");
                false
            }
        }
    }

    async fn run(&self, limit: Duration) -> (Result<ExitStatus, ExecError>, String) {
        let (on_line, lines, stop) = collect();
        let options = Options { isolation: self.isolation.clone(), ..quick() };
        let ended = Box::pin(run_with(self.script.program(), options, on_line, &stop, limit)).await;
        let said = lines
            .lock()
            .unwrap()
            .iter()
            .map(|(_, line)| String::from_utf8_lossy(line).into_owned() + "\n")
            .collect();
        (ended, said)
    }
}

fn limits(pids: u32, memory_mib: u32) -> BuildLimits {
    BuildLimits { enforce: true, pids, memory_mib, cpu_millis: None }
}

fn loose() -> BuildLimits {
    BuildLimits::default()
}

#[tokio::test]
#[ignore = "needs root to become another user; scripts/test runs it"]
async fn a_build_reads_nothing_of_the_agents_and_gains_no_rights() {
    let secrets = tempfile::tempdir().unwrap();
    std::fs::set_permissions(secrets.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let token = secrets.path().join("agent.token");
    std::fs::write(&token, "sdpa_hunter2").unwrap();
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    let socket = secrets.path().join("docker.sock");
    let _engine = UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o660)).unwrap();
    let mirrors = secrets.path().join("mirrors");
    std::fs::create_dir(&mirrors).unwrap();
    std::fs::set_permissions(&mirrors, std::fs::Permissions::from_mode(0o700)).unwrap();
    let agent = std::process::id();
    let text = format!(
        "for path in {} {} /proc/{agent}/environ /root/.ssh /proc/{agent}/root /etc/shadow; do\n\
         cat $path >/dev/null 2>&1 && echo read $path; ls $path/ >/dev/null 2>&1 && echo listed $path; done\n\
         [ -w {} ] && echo can use the engine\n\
         kill -0 {agent} 2>/dev/null && echo can kill the agent\n\
         id -u; id -g; id -G; umask; ulimit -c\n\
         grep -E 'Cap(Inh|Prm|Eff|Amb)|NoNewPrivs' /proc/self/status | tr -d '\\t'\n\
         echo x >made && stat -c %a,%u made",
        token.display(),
        mirrors.display(),
        socket.display()
    );
    let bench = Bench::new(&text, Some(BUILDER), loose());
    let (ended, said) = bench.run(LONG).await;
    assert!(ended.unwrap().success());
    insta::assert_snapshot!(said, @r"
    64100
    64100
    64100
    0022
    0
    CapInh:0000000000000000
    CapPrm:0000000000000000
    CapEff:0000000000000000
    CapAmb:0000000000000000
    NoNewPrivs:1
    644,64100
    ");
}

#[tokio::test]
#[ignore = "needs root and control groups; scripts/test runs it"]
async fn a_fork_bomb_gets_no_further_than_its_limit_and_all_of_it_is_gone() {
    let bench = Bench::new(
        "n=0\nwhile [ $n -lt 200 ]; do sleep 1000 & n=$((n+1)); done\nwait",
        Some(BUILDER),
        limits(20, 256),
    );
    if !bench.is_limited() {
        return;
    }
    let watch = async {
        loop {
            let alive = bench.script.alive().len();
            assert!(alive <= 20, "{alive} processes");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (ended, said) = tokio::select! {
        ended = bench.run(LONG) => ended,
        () = watch => unreachable!(),
    };
    let error = ended.unwrap_err();
    insta::assert_snapshot!(error, @"it made more processes and threads than the agent allows (20)");
    assert!(said.to_lowercase().contains("fork"), "{said}");
    bench.script.gone().await;
    assert_eq!(left_groups(&bench), [""; 0]);
}

#[tokio::test]
#[ignore = "needs root and control groups; scripts/test runs it"]
async fn a_build_that_takes_too_much_memory_is_killed_and_that_is_said() {
    let bench = Bench::new(
        "echo $$ >>pids\nexec perl -e 'my @a; push @a, \"x\" x 1048576 while @a < 4096; print scalar @a'",
        Some(BUILDER),
        limits(50, 64),
    );
    if !bench.is_limited() {
        return;
    }
    let (ended, _) = bench.run(LONG).await;
    insta::assert_snapshot!(ended.unwrap_err(), @"it took more memory than the agent allows (64 MiB)");
    bench.script.gone().await;
    assert_eq!(left_groups(&bench), [""; 0]);
}

#[tokio::test]
#[ignore = "needs root and control groups; scripts/test runs it"]
async fn a_daemon_that_leaves_the_session_clears_its_environment_and_outlives_the_build_is_gone() {
    // Started twice removed and waited for, so that it is nobody's child when the build ends.
    let text = "setsid env -i /bin/sh -c 'setsid env -i /bin/sh -c \"echo \\$\\$ >>pids; exec sleep 1000\" >/dev/null 2>&1 </dev/null & \
                echo \\$\\$ >>pids' >/dev/null 2>&1\nwhile [ $(wc -l <pids) -lt 2 ]; do :; done";
    let bench = Bench::new(text, Some(BUILDER), limits(50, 256));
    let (ended, _) = bench.run(LONG).await;
    assert!(ended.unwrap().success());
    let written = std::fs::read_to_string(bench.script.folder.path().join("pids")).unwrap();
    assert_eq!(written.lines().count(), 2);
    if bench.is_limited() {
        assert_eq!(bench.script.alive(), [""; 0]);
        assert_eq!(left_groups(&bench), [""; 0]);
    } else {
        // Without groups it may get away, as the preflight says.
        for pid in bench.script.alive() {
            drop(std::process::Command::new("kill").args(["-9", &pid]).status());
        }
    }
}

#[tokio::test]
#[ignore = "needs root and control groups; scripts/test runs it"]
async fn what_an_agent_that_was_killed_left_in_its_groups_is_ended_by_the_next() {
    let bench = Bench::new("echo $$ >>pids\necho ready\nexec sleep 1000", Some(BUILDER), limits(50, 256));
    if !bench.is_limited() {
        return;
    }
    let running = spawn(&bench.script.program(), Kind::Build, &bench.isolation).await.unwrap();
    // As if this agent's memory were gone.
    std::mem::forget(running);
    assert_eq!(left_groups(&bench).len(), 1);
    let config = BuildConfig { user: Some(BUILDER), limits: limits(50, 256), ..BuildConfig::default() };
    let folder = bench.script.folder.path().to_owned();
    tokio::task::spawn_blocking(move || Isolation::open(&config, &folder).unwrap()).await.unwrap();
    bench.script.gone().await;
    assert_eq!(left_groups(&bench), [""; 0]);
}

/// Groups of this bench's folder that are still there.
fn left_groups(bench: &Bench) -> Vec<String> {
    bench.isolation.groups().map(|groups| groups.names()).unwrap_or_default()
}

#[tokio::test]
async fn a_build_that_fills_the_disk_is_stopped() {
    let script = Script::new("echo ready; exec sleep 1000");
    let reserve = Reserve { folder: script.folder.path().to_owned(), bytes: u64::MAX };
    let options = Options { reserve: Some(reserve), ..quick() };
    let on_line: OnLine = Arc::new(|_, _| {});
    let stop = CancellationToken::new();
    let ended = Box::pin(run_with(script.program(), options, on_line, &stop, LONG)).await;
    assert!(matches!(ended, Err(ExecError::OutOfDisk { .. })), "{ended:?}");
    assert_eq!(script.alive(), [""; 0]);
}

#[test]
fn a_build_user_that_is_none_is_refused() {
    let open = |user| {
        let config = BuildConfig { user: Some(user), ..BuildConfig::default() };
        Isolation::open(&config, Path::new("/nowhere")).map(drop).unwrap_err()
    };
    insta::assert_snapshot!(open(User { uid: 0, gid: 0 }), @"it may not be root");
    let own = User::own();
    if own.is_root() {
        return;
    }
    insta::assert_snapshot!(open(own), @"it is the agent's own user; builds could read what the agent keeps");
    let said = open(User { uid: own.uid + 1, gid: own.gid + 1 });
    assert!(said.contains("CAP_SETUID"), "{said}");
}
