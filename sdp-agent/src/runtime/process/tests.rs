mod restarts;

use crate::builder::RunPlan;
use crate::redact::Redactor;
use sdp_core::catalog::Limits;
use sdp_core::id::DeploymentNumber;
use sdp_core::name::{SandboxName, ServiceName};
use sdp_core::wire::Exit;
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener};

use super::*;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_secs(3);

/// The service that the tests below start is this test program itself; run as a test it does nothing.
#[test]
fn the_service() {
    let Ok(mode) = std::env::var("SERVICE_MODE") else { return };
    let port: u16 = std::env::var("PORT").unwrap().parse().unwrap();
    let bind = |ip: &str, port| TcpListener::bind((ip, port)).unwrap();
    let (listener, answer) = match mode.as_str() {
        "ok" => (bind("127.0.0.1", port), "200 OK"),
        "everywhere" => (bind("0.0.0.0", port), "200 OK"),
        "redirects" => (bind("127.0.0.1", port), "302 Found"),
        "fails" => (bind("127.0.0.1", port), "500 Internal Server Error"),
        "elsewhere" => (bind("127.0.0.1", 0), "200 OK"),
        "silent" => (bind("127.0.0.1", port), ""),
        other => panic!("{other}"),
    };
    println!("listening, HOME={}", std::env::var("HOME").unwrap());
    let mut open = Vec::new();
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        if answer.is_empty() {
            open.push(stream);
            continue;
        }
        let mut lines = BufReader::new(&stream).lines();
        while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
        drop(stream.write_all(format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n").as_bytes()));
    }
}

struct Fixture {
    folder: tempfile::TempDir,
    runtime: ProcessRuntime,
}

impl Fixture {
    fn new() -> Self {
        Self::with_ports(40_000..=60_000)
    }

    fn with_ports(ports: RangeInclusive<u16>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = ProcessRuntime::new(RuntimeConfig {
            data_dir: folder.path().join("instances"),
            ports,
            advertise: Ipv4Addr::LOCALHOST.into(),
            stop_grace: Duration::from_millis(300),
            restart_pause: Duration::from_millis(10),
            isolation: crate::exec::Isolation::default(),
            base_env: BTreeMap::new(),
        })
        .unwrap();
        Self { folder, runtime }
    }

    fn spec(&self, argv: &[&str]) -> StartSpec {
        StartSpec {
            instance: InstanceId::new(),
            deployment: DeploymentId::new(),
            run: RunPlan {
                argv: argv.iter().map(|word| (*word).to_owned()).collect(),
                cwd: self.folder.path().to_owned(),
                container: None,
            },
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            number: DeploymentNumber(1),
            attempt: 1,
            build: DeploymentId::new(),
            service: ServiceName::parse("hello").unwrap(),
            sandbox: SandboxName::parse("alice").unwrap(),
            port: None,
            limits: Limits::default(),
            writable: BTreeSet::new(),
            context: None,
            health: http(),
            check_limit: LONG,
            redactor: Redactor::default(),
        }
    }

    fn shell(&self, script: &str) -> StartSpec {
        self.spec(&["sh", "-c", script])
    }

    fn service(&self, mode: &str) -> StartSpec {
        let own = std::env::current_exe().unwrap();
        let mut spec = self.spec(&[
            own.to_str().unwrap(),
            "--exact",
            "runtime::process::tests::the_service",
            "--nocapture",
        ]);
        spec.env.insert("SERVICE_MODE".into(), mode.into());
        spec
    }

    async fn check(
        &self,
        spec: StartSpec,
        check: HealthCheck,
        limit: Duration,
    ) -> Result<Duration, CheckError> {
        let instance = spec.instance;
        self.runtime.start(spec).await.unwrap();
        self.runtime.check(instance, &check, limit, &CancellationToken::new()).await
    }

    fn status(&self, instance: InstanceId) -> Option<InstanceStatus> {
        self.runtime
            .reports()
            .into_iter()
            .find(|report| report.instance == instance)
            .map(|report| report.status)
    }

    /// Waits until an instance prints this.
    async fn printed(&self, instance: InstanceId, text: &str) {
        let found = async {
            while !self.runtime.output(instance, 200).await.unwrap().iter().any(|line| line.contains(text)) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONG, found).await.unwrap();
    }
}

fn http() -> HealthCheck {
    HealthCheck::Http { path: "/healthz?x=1".into() }
}

fn detail(result: Result<Duration, CheckError>, address: SocketAddr) -> String {
    match result {
        Err(CheckError::NotHealthy { detail }) => detail.replace(&address.port().to_string(), "PORT"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn two_copies_overlap_each_healthy_on_its_own_port_and_stop_one_by_one() {
    let fixture = Fixture::new();
    let (old, new) = (fixture.service("ok"), fixture.service("everywhere"));
    let (old_id, new_id) = (old.instance, new.instance);
    let old_at = fixture.runtime.start(old.clone()).await.unwrap();
    let new_at = fixture.runtime.start(new).await.unwrap();
    assert_ne!(old_at, new_at);
    assert_eq!(fixture.runtime.start(old).await.unwrap(), old_at, "the same again is the same");
    let stop = CancellationToken::new();
    fixture.runtime.check(old_id, &http(), LONG, &stop).await.unwrap();
    fixture.runtime.check(new_id, &HealthCheck::Tcp {}, LONG, &stop).await.unwrap();
    fixture.runtime.stop(old_id).await;
    fixture.runtime.stop(old_id).await;
    assert_eq!(fixture.status(old_id), Some(InstanceStatus::Stopped {}));
    assert_eq!(
        fixture.status(new_id),
        Some(InstanceStatus::Running {
            address: new_at,
            restarts: 0,
            last_restart: None,
            health: Health::Healthy {}
        })
    );
    assert!(TcpListener::bind(old_at).is_ok(), "nothing listens there any more");
    fixture.printed(new_id, "/instances/").await;
    fixture.runtime.forget(old_id);
    fixture.runtime.forget(new_id);
    fixture.runtime.stop_all().await;
    assert_eq!(fixture.runtime.reports(), []);
    assert_eq!(std::fs::read_dir(fixture.folder.path().join("instances")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_redirect_counts_as_healthy() {
    let fixture = Fixture::new();
    fixture.check(fixture.service("redirects"), http(), LONG).await.unwrap();
    fixture.runtime.stop_all().await;
}

#[tokio::test]
async fn what_is_wrong_with_an_unhealthy_instance_is_said() {
    let fixture = Fixture::new();
    let cases = [
        ("fails", http()),
        ("silent", http()),
        ("elsewhere", http()),
        ("elsewhere", HealthCheck::Tcp {}),
        ("ok", HealthCheck::Uptime { seconds: 60 }),
    ];
    let checks = cases.map(|(name, check)| {
        let (fixture, spec) = (&fixture, fixture.service(name));
        async move {
            let (instance, address) = (spec.instance, fixture.runtime.start(spec).await.unwrap());
            fixture.printed(instance, "listening").await;
            let result = fixture.runtime.check(instance, &check, SHORT, &CancellationToken::new()).await;
            format!("{name}: {}", detail(result, address))
        }
    });
    let said = futures_util::future::join_all(checks).await;
    fixture.runtime.stop_all().await;
    insta::assert_snapshot!(said.join("\n"), @r"
    fails: GET /healthz?x=1 answered 500 (waited 3s)
    silent: it gave no answer on port PORT (waited 3s)
    elsewhere: nothing listens on port PORT (waited 3s)
    elsewhere: nothing listens on port PORT (waited 3s)
    ok: it shall stay up for 60 s, but the check may take only 3s
    ");
}

#[tokio::test]
async fn an_answer_from_somebody_else_does_not_count() {
    let fixture = Fixture::new();
    let spec = fixture.shell("sleep 1000");
    let instance = spec.instance;
    let address = fixture.runtime.start(spec).await.unwrap();
    let _somebody = TcpListener::bind(address).unwrap();
    let result =
        fixture.runtime.check(instance, &HealthCheck::Tcp {}, SHORT, &CancellationToken::new()).await;
    insta::assert_snapshot!(detail(result, address), @"something else listens on port PORT (waited 3s)");
    fixture.runtime.stop_all().await;
}

#[tokio::test]
async fn a_listener_in_a_grandchild_is_the_instances_own() {
    let fixture = Fixture::new();
    let mut spec = fixture.service("ok");
    let words: Vec<_> = spec.run.argv.iter().map(|word| format!("'{word}'")).collect();
    spec.run.argv = vec!["sh".into(), "-c".into(), format!("setsid {} & wait", words.join(" "))];
    fixture.check(spec, http(), LONG).await.unwrap();
    fixture.runtime.stop_all().await;
}

#[tokio::test]
async fn an_instance_that_ends_at_once_ends_its_check_with_its_last_words() {
    let fixture = Fixture::new();
    let spec = fixture
        .shell("i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); done; echo no database >&2; exit 3");
    let instance = spec.instance;
    let error = fixture.check(spec, http(), LONG).await.unwrap_err();
    let CheckError::Exited(Exit { exit_code: Some(3), signal: None, last_lines, .. }) = error else {
        panic!("{error:?}")
    };
    assert_eq!((last_lines.len(), last_lines[198].as_str()), (200, "line 299"));
    assert_eq!(last_lines[199], "no database", "in the order in which it was printed");
    assert!(matches!(
        fixture.status(instance),
        Some(InstanceStatus::Exited { exit: Exit { exit_code: Some(3), .. } })
    ));
    fixture.runtime.stop(instance).await;
    assert!(
        matches!(fixture.status(instance), Some(InstanceStatus::Exited { .. })),
        "a stop comes too late to matter"
    );
    fixture.runtime.start(fixture.shell("")).await.unwrap();
    fixture.runtime.stop_all().await;
}

#[tokio::test]
async fn a_signal_is_told_from_an_exit_code() {
    let fixture = Fixture::new();
    let error = fixture.check(fixture.shell("kill -SEGV $$"), http(), LONG).await.unwrap_err();
    assert!(matches!(error, CheckError::Exited(Exit { exit_code: None, signal: Some(11), .. })), "{error:?}");
    fixture.runtime.stop_all().await;
}

#[tokio::test]
async fn a_crash_is_reported_at_once_and_no_change_is_missed() {
    let fixture = Fixture::new();
    let mut seen = 0;
    let spec = fixture.shell("cat fifo; exit 1");
    let fifo = fixture.folder.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let instance = spec.instance;
    fixture.runtime.start(spec).await.unwrap();
    fixture.runtime.next_change(&mut seen).await;
    assert_eq!(seen, 1);
    assert!(matches!(fixture.status(instance), Some(InstanceStatus::Running { .. })));
    tokio::task::spawn_blocking(move || std::fs::write(fifo, "farewell\n").unwrap()).await.unwrap();
    tokio::time::timeout(LONG, fixture.runtime.next_change(&mut seen)).await.unwrap();
    let expected = InstanceStatus::Exited {
        exit: Exit { exit_code: Some(1), last_lines: vec!["farewell".into()], ..Exit::default() },
    };
    assert_eq!(fixture.status(instance), Some(expected));
    fixture.runtime.forget(instance);
    let mut late = 0;
    fixture.runtime.next_change(&mut late).await;
    assert_eq!(late, 3, "who comes late has the newest at once");
    fixture.runtime.stop_all().await;
}

#[tokio::test]
async fn a_check_ends_when_it_is_cancelled_or_the_instance_is_stopped() {
    let fixture = Fixture::new();
    let spec = fixture.service("silent");
    let instance = spec.instance;
    fixture.runtime.start(spec).await.unwrap();
    fixture.printed(instance, "listening").await;
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    assert_eq!(fixture.runtime.check(instance, &http(), LONG, &cancelled).await, Err(CheckError::Cancelled));
    let never = CancellationToken::new();
    let checks = http();
    let (result, ()) =
        tokio::join!(fixture.runtime.check(instance, &checks, LONG, &never), fixture.runtime.stop(instance));
    assert_eq!(result, Err(CheckError::Cancelled));
    fixture.runtime.stop_all().await;
}

#[tokio::test]
async fn an_instance_that_will_not_go_is_killed_with_all_its_children() {
    let fixture = Fixture::new();
    let spec = fixture.shell("trap '' TERM; setsid sh -c 'trap \"\" TERM; echo up; while :; do sleep 1; done' & wait; while :; do sleep 1; done");
    let instance = spec.instance;
    fixture.runtime.start(spec).await.unwrap();
    fixture.printed(instance, "up").await;
    let tree = fixture.runtime.entry(instance).unwrap().tree.lock().clone().unwrap();
    let pids: BTreeSet<_> = tree.pids().into_iter().collect();
    assert!(pids.len() >= 2);
    fixture.runtime.stop(instance).await;
    assert_eq!(fixture.status(instance), Some(InstanceStatus::Stopped {}));
    let left: Vec<_> = pids
        .into_iter()
        .filter(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| !c.is_empty()))
        .collect();
    assert_eq!(left, [0; 0]);
    fixture.runtime.stop_all().await;
}

#[tokio::test]
async fn an_instance_that_prints_without_end_is_kept_small_and_can_be_stopped() {
    let fixture = Fixture::new();
    let spec = fixture.spec(&["yes", "noise"]);
    let instance = spec.instance;
    fixture.runtime.start(spec).await.unwrap();
    fixture.printed(instance, "noise").await;
    tokio::time::timeout(LONG, fixture.runtime.stop(instance)).await.unwrap();
    assert_eq!(fixture.runtime.output(instance, 5).await.unwrap(), ["noise"; 5]);
    fixture.runtime.stop_all().await;
    let size: u64 = std::fs::read_dir(fixture.folder.path().join("instances").join(instance.to_string()))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(size < 9 * 1024 * 1024, "{size}");
}

#[tokio::test]
async fn secrets_do_not_reach_the_output() {
    let fixture = Fixture::new();
    let mut spec = fixture.shell("echo token=hunter2-hunter2; echo end; sleep 1000");
    spec.redactor = Redactor::new(["hunter2-hunter2"]);
    let instance = spec.instance;
    fixture.runtime.start(spec).await.unwrap();
    fixture.printed(instance, "end").await;
    assert_eq!(fixture.runtime.output(instance, 10).await.unwrap(), ["token=[redacted]", "end"]);
    fixture.runtime.stop_all().await;
}

#[tokio::test]
async fn what_cannot_be_started_leaves_no_port_taken_and_no_folder() {
    let probe = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = probe.local_addr().unwrap().port();
    drop(probe);
    let fixture = Fixture::with_ports(port..=port);
    let error = fixture.runtime.start(fixture.spec(&["no-such-tool"])).await.unwrap_err();
    assert_eq!(error.to_string(), "no-such-tool is not on this machine");
    let running = fixture.shell("sleep 1000");
    fixture.runtime.start(running.clone()).await.unwrap();
    let error = fixture.runtime.start(fixture.shell("sleep 1000")).await.unwrap_err();
    assert!(matches!(error, StartError::NoPort(_)), "{error:?}");
    fixture.runtime.stop(running.instance).await;
    assert!(matches!(fixture.runtime.start(running.clone()).await, Err(StartError::Over)));
    fixture.runtime.stop_all().await;
    assert!(matches!(fixture.runtime.start(fixture.shell("")).await, Err(StartError::ShuttingDown)));
    assert_eq!(fixture.runtime.reports().len(), 1);
    assert_eq!(std::fs::read_dir(fixture.folder.path().join("instances")).unwrap().count(), 1);
}

#[tokio::test]
async fn the_environment_is_the_operators_the_instances_and_ours_last() {
    let fixture = Fixture::new();
    let mut spec = fixture.shell("env; sleep 1000");
    spec.env.extend([("PORT".into(), "1".into()), ("GREETING".into(), "hello\nworld".into())]);
    let instance = spec.instance;
    let address = fixture.runtime.start(spec).await.unwrap();
    fixture.printed(instance, "GREETING").await;
    fixture.printed(instance, "SDP_EXEC").await;
    let lines = fixture.runtime.output(instance, 200).await.unwrap();
    assert!(lines.contains(&format!("PORT={}", address.port())), "{lines:?}");
    assert!(!lines.iter().any(|line| line.starts_with("CARGO")), "{lines:?}");
    fixture.runtime.stop_all().await;
}

#[tokio::test]
async fn a_start_that_is_dropped_while_its_record_is_written_leaves_nothing() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    drop(taken);
    let fixture = Fixture::with_ports(port..=port);
    let dropped = fixture.shell("exec sleep 60");
    let gone = dropped.instance;
    // Polled once: the writing has begun, on a thread of its own.
    assert!(futures_util::FutureExt::now_or_never(fixture.runtime.start(dropped)).is_none());
    // The only port is free again; a start waits for what is being taken back.
    let next = fixture.shell("exec sleep 60");
    let kept = next.instance;
    fixture.runtime.start(next).await.unwrap();
    assert_eq!(fixture.status(gone), None);
    fixture.runtime.stop_all().await;
    let folders = fs_names(&fixture.folder.path().join("instances"));
    assert_eq!(folders, [kept.to_string()]);
}

fn fs_names(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap();
    names.map(|found| found.unwrap().file_name().into_string().unwrap()).collect()
}
