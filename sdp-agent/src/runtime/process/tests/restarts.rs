//! What is started again: after a crash, and with the agent's next life.

use std::os::unix::fs::PermissionsExt as _;

use futures_util::StreamExt as _;
use sdp_core::secret::Secret;
use sdp_core::wire::RestartCause;

use super::*;
use crate::runtime::Runtime as _;

/// Serves until there is a file `crash` beside it, which it takes away and obeys; while there is `sick` it listens nowhere.
const FRAGILE: &str = "crash() { rm crash; echo fatal: no money; exit 3; }; echo life
while [ -e sick ]; do [ -e crash ] && crash; sleep 0.02; done
SERVICE & while kill -0 $!; do [ -e crash ] && crash; sleep 0.02; done";

/// What an instance is when it is well and was started again so often.
fn healthy(wanted: u32) -> impl Fn(&InstanceStatus) -> bool {
    move |status| match status {
        InstanceStatus::Running { restarts, health: Health::Healthy {}, .. } => *restarts == wanted,
        _ => false,
    }
}

impl Fixture {
    /// An instance that crashes when it is told to.
    fn fragile(&self) -> StartSpec {
        let mut spec = self.service("ok");
        let words: Vec<_> = spec.run.argv.iter().map(|word| format!("'{word}'")).collect();
        spec.run.argv = vec!["sh".into(), "-c".into(), FRAGILE.replace("SERVICE", &words.join(" "))];
        spec
    }

    fn put(&self, name: &str) {
        std::fs::write(self.folder.path().join(name), "").unwrap();
    }

    /// Started, and its deployment's check passed.
    async fn ready(&self, spec: StartSpec) -> (InstanceId, SocketAddr) {
        let (instance, health) = (spec.instance, spec.health.clone());
        let address = self.runtime.start(spec).await.unwrap();
        self.runtime.check(instance, &health, LONG, &CancellationToken::new()).await.unwrap();
        (instance, address)
    }

    async fn until(&self, instance: InstanceId, so: impl Fn(&InstanceStatus) -> bool) -> InstanceStatus {
        let mut seen = 0;
        let wait = async {
            loop {
                if let Some(status) = self.status(instance).filter(&so) {
                    return status;
                }
                self.runtime.next_change(&mut seen).await;
            }
        };
        tokio::time::timeout(LONG, wait).await.unwrap_or_else(|_| panic!("still {:?}", self.status(instance)))
    }

    async fn until_exited(&self, instance: InstanceId) -> Exit {
        let status = self.until(instance, |status| matches!(status, InstanceStatus::Exited { .. })).await;
        let InstanceStatus::Exited { exit } = status else { unreachable!() };
        exit
    }

    /// The same with a pause before a restart that no test waits for.
    fn patient() -> Self {
        let fixture = Self::new();
        let config = RuntimeConfig { restart_pause: LONG * 10, ..fixture.runtime.0.config.clone() };
        Self { runtime: ProcessRuntime::new(config).unwrap(), ..fixture }
    }

    /// Crashes an instance of a [patient](Self::patient) one; returns when it is down.
    async fn crash(&self, address: SocketAddr) {
        self.put("crash");
        let down = async {
            while tokio::net::TcpStream::connect(address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONG, down).await.unwrap();
    }

    /// Another life of the agent, after a stop as by SIGTERM.
    async fn restart(self) -> Self {
        self.runtime.stop_all().await;
        self.reopen()
    }

    fn reopen(self) -> Self {
        let Self { folder, runtime } = self;
        let config = RuntimeConfig { restart_pause: Duration::from_millis(10), ..runtime.0.config.clone() };
        // With it go the locks of its ports.
        drop(runtime);
        Self { folder, runtime: ProcessRuntime::new(config).unwrap() }
    }
}

#[tokio::test]
async fn a_crash_is_started_again_three_times_at_its_port_and_then_given_up() {
    let fixture = Fixture::new();
    let (instance, address) = fixture.ready(fixture.fragile()).await;
    let followed = fixture.runtime.follow(instance, 100).unwrap();
    for wanted in 1..=3 {
        fixture.put("crash");
        let status = fixture.until(instance, healthy(wanted)).await;
        let InstanceStatus::Running { address: at, last_restart, .. } = status else { unreachable!() };
        let Some(RestartCause::Exited { exit }) = last_restart else { panic!("{last_restart:?}") };
        assert_eq!((at, exit.exit_code), (address, Some(3)));
        assert_eq!(exit.last_lines.last().map(String::as_str), Some("fatal: no money"));
        TcpListener::bind(address).expect_err("it listens there again");
    }
    fixture.put("crash");
    let exit = fixture.until_exited(instance).await;
    assert_eq!((exit.exit_code, &exit.not_started), (Some(3), &None));
    assert_eq!(exit.last_lines.iter().filter(|line| *line == "life").count(), 4);
    TcpListener::bind(address).expect("nothing is left of it");
    let lines: Vec<_> =
        followed.flat_map(|printed| futures_util::stream::iter(printed.lines)).collect().await;
    assert_eq!(lines.iter().filter(|line| line.text == "life").count(), 4, "one stream over all runs");
    fixture.runtime.stop_all().await;
}

#[tokio::test]
async fn who_ends_without_an_error_or_before_its_check_is_not_started_again() {
    let fixture = Fixture::new();
    let mut spec = fixture.shell("echo done; while [ ! -e go ]; do sleep 0.02; done");
    spec.health = HealthCheck::Uptime { seconds: 0 };
    let (instance, _) = fixture.ready(spec).await;
    fixture.put("go");
    let exit = fixture.until_exited(instance).await;
    assert_eq!((exit.exit_code, exit.last_lines), (Some(0), vec!["done".to_owned()]));
    let early = fixture.shell("exit 4");
    let instance = early.instance;
    fixture.runtime.start(early.clone()).await.unwrap();
    assert_eq!(fixture.until_exited(instance).await.exit_code, Some(4));
    // As a job does that is taken up again: the check tells how it ended.
    fixture.runtime.start(early).await.unwrap();
    let checked = fixture.runtime.check(instance, &http(), LONG, &CancellationToken::new()).await;
    assert!(matches!(&checked, Err(CheckError::Exited(exit)) if exit.exit_code == Some(4)), "{checked:?}");
    fixture.runtime.stop_all().await;
}

#[tokio::test]
async fn a_stop_ends_the_wait_for_a_restart() {
    let fixture = Fixture::patient();
    let (instance, address) = fixture.ready(fixture.fragile()).await;
    fixture.crash(address).await;
    let status = fixture.status(instance);
    assert!(matches!(status, Some(InstanceStatus::Running { restarts: 0, .. })), "as before: {status:?}");
    tokio::time::timeout(LONG, fixture.runtime.stop(instance)).await.unwrap();
    assert_eq!(fixture.status(instance), Some(InstanceStatus::Stopped {}));
    fixture.runtime.stop_all().await;
}

#[tokio::test]
async fn who_is_not_well_after_a_restart_is_reported_so_until_it_is() {
    let fixture = Fixture::new();
    let mut spec = fixture.fragile();
    spec.check_limit = Duration::from_millis(200);
    let (instance, address) = fixture.ready(spec).await;
    fixture.put("sick");
    fixture.put("crash");
    let unhealthy = |status: &InstanceStatus| {
        matches!(status, InstanceStatus::Running { health: Health::Unhealthy { .. }, .. })
    };
    let status = fixture.until(instance, unhealthy).await;
    let InstanceStatus::Running { restarts: 1, health: Health::Unhealthy { detail }, .. } = status else {
        panic!("{status:?}")
    };
    assert_eq!(detail, format!("nothing listens on port {} (waited 200ms)", address.port()));
    std::fs::remove_file(fixture.folder.path().join("sick")).unwrap();
    fixture.until(instance, healthy(1)).await;
    fixture.runtime.stop_all().await;
}

#[tokio::test]
async fn the_agents_next_life_starts_what_ran_at_the_same_port_and_counts_on() {
    let fixture = Fixture::new();
    let (spec, ended, stopped) =
        (fixture.fragile(), fixture.shell("echo bye; exit 7"), fixture.shell("sleep 1000"));
    let (build, deployment) = (spec.build, spec.deployment);
    let (ended_id, stopped_id) = (ended.instance, stopped.instance);
    let (instance, address) = fixture.ready(spec.clone()).await;
    for spec in [ended, stopped] {
        fixture.runtime.start(spec).await.unwrap();
    }
    fixture.until_exited(ended_id).await;
    fixture.runtime.stop(stopped_id).await;
    fixture.put("crash");
    fixture.until(instance, healthy(1)).await;
    let record = fixture.folder.path().join(format!("instances/{instance}/instance.json"));
    assert_eq!(std::fs::metadata(record).unwrap().permissions().mode() & 0o777, 0o600);

    let fixture = fixture.restart().await;
    let reports = fixture.runtime.reports();
    assert!(reports.iter().any(|report| report.instance == instance && report.deployment == deployment));
    assert!(fixture.runtime.builds_in_use().unwrap().contains(&build), "before anything is swept");
    let again = InstanceStatus::Running {
        address,
        restarts: 2,
        last_restart: Some(RestartCause::AgentRestarted {}),
        health: Health::Healthy {},
    };
    assert_eq!(fixture.until(instance, healthy(2)).await, again);
    assert_eq!(fixture.runtime.start(spec).await.unwrap(), address, "a job that is taken up again finds it");
    let exit = fixture.until_exited(ended_id).await;
    assert_eq!((exit.exit_code, exit.last_lines), (Some(7), vec!["bye".to_owned()]));
    assert_eq!(fixture.runtime.output(ended_id, 5).await.unwrap(), ["bye"]);
    assert_eq!(fixture.status(stopped_id), Some(InstanceStatus::Stopped {}));

    // Two crashes are left to it: no end of an agent is one.
    for wanted in [3, 4] {
        fixture.put("crash");
        fixture.until(instance, healthy(wanted)).await;
    }
    let fixture = fixture.restart().await;
    fixture.until(instance, healthy(5)).await;
    fixture.put("crash");
    assert_eq!(fixture.until_exited(instance).await.exit_code, Some(3));
    for instance in [instance, ended_id, stopped_id] {
        fixture.runtime.forget(instance);
    }
    let fixture = fixture.restart().await;
    assert_eq!(fixture.runtime.reports(), [], "what was forgotten does not come back");
    fixture.runtime.stop_all().await;
}

#[tokio::test]
async fn what_waited_for_its_restart_when_the_agent_ended_is_started_for_the_same_reason() {
    let fixture = Fixture::patient();
    let (instance, address) = fixture.ready(fixture.fragile()).await;
    fixture.crash(address).await;
    let fixture = fixture.restart().await;
    let status = fixture.until(instance, healthy(1)).await;
    let InstanceStatus::Running { last_restart: Some(RestartCause::Exited { exit }), .. } = status else {
        panic!("{status:?}")
    };
    assert_eq!(exit.exit_code, Some(3));
    fixture.runtime.stop_all().await;
}

#[tokio::test]
async fn an_instance_whose_check_was_not_passed_yet_goes_on_for_its_job() {
    let fixture = Fixture::new();
    let spec = fixture.fragile();
    let instance = spec.instance;
    let address = fixture.runtime.start(spec.clone()).await.unwrap();
    let fixture = fixture.restart().await;
    assert_eq!(fixture.runtime.start(spec).await.unwrap(), address);
    fixture.runtime.check(instance, &http(), LONG, &CancellationToken::new()).await.unwrap();
    assert!(fixture.status(instance).is_some_and(|status| healthy(0)(&status)));
    fixture.runtime.stop_all().await;
}

#[tokio::test]
async fn what_cannot_be_started_again_says_why() {
    let fixture = Fixture::new();
    let gone = tempfile::tempdir().unwrap();
    let mut built = fixture.fragile();
    built.run.cwd = gone.path().to_owned();
    let (built_id, _) = fixture.ready(built).await;
    let (robbed_id, robbed_at) = fixture.ready(fixture.fragile()).await;
    fixture.runtime.stop_all().await;
    drop(gone);
    let _stranger = TcpListener::bind(robbed_at).unwrap();
    let fixture = fixture.reopen();
    let why = fixture.until_exited(built_id).await.not_started.unwrap();
    assert_eq!(why, "its build is not on the agent any more");
    let why = fixture.until_exited(robbed_id).await.not_started.unwrap();
    assert_eq!(why, format!("its port {} is taken by another program", robbed_at.port()));
    // The next one knows that.
    let fixture = fixture.restart().await;
    assert!(fixture.until_exited(robbed_id).await.not_started.is_some());
    fixture.runtime.stop_all().await;
}

#[tokio::test]
async fn what_a_killed_agent_left_is_killed_and_started_once_and_folders_without_a_record_go() {
    let fixture = Fixture::new();
    let (instance, address) = fixture.ready(fixture.fragile()).await;
    let tree = fixture.runtime.entry(instance).unwrap().tree.lock().clone().unwrap();
    let before: BTreeSet<_> = tree.pids().into_iter().collect();
    let instances = fixture.folder.path().join("instances");
    let (half, scratch) = (InstanceId::new().to_string(), format!("{}-release", InstanceId::new()));
    for name in [&half, &scratch, "of somebody else"] {
        std::fs::create_dir_all(instances.join(name).join("home")).unwrap();
    }
    std::fs::write(instances.join(&half).join("instance.json"), "{\"spec\":").unwrap();
    // The former agent is still there, but does nothing any more, and its lock of the port is gone as if it were.
    let config = fixture.runtime.0.config.clone();
    fixture.runtime.0.ports.release(instance);
    let _held = fixture.runtime.entry(instance).unwrap().record.clone().lock_owned().await;
    let folder = tempfile::tempdir().unwrap();
    let next = Fixture { folder, runtime: ProcessRuntime::new(config).unwrap() };
    next.until(instance, healthy(1)).await;
    assert!(TcpListener::bind(address).is_err(), "it listens there");
    let left: Vec<_> = tree.pids().into_iter().filter(|pid| before.contains(pid)).collect();
    assert_eq!(left, [0; 0], "the former processes are gone");
    next.runtime.stop_all().await;
    let names = std::fs::read_dir(&instances).unwrap();
    let names: BTreeSet<_> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names, BTreeSet::from([instance.to_string(), "of somebody else".to_owned()]));
}

#[tokio::test]
#[ignore = "needs root and control groups; scripts/test runs it"]
async fn who_takes_more_memory_than_it_may_is_started_again_and_that_is_the_reason() {
    let fixture = Fixture::new();
    let limits = crate::config::BuildLimits { enforce: true, ..Default::default() };
    let config = crate::config::BuildConfig { limits, ..Default::default() };
    let isolation = Isolation::open(&config, fixture.folder.path()).unwrap();
    if let Err(why) = isolation.enforced() {
        assert!(why.contains("cgroup") || why.contains("control group"), "{why}");
        return;
    }
    let config = RuntimeConfig { isolation, ..fixture.runtime.0.config.clone() };
    let fixture = Fixture { runtime: ProcessRuntime::new(config).unwrap(), ..fixture };
    let grow = "my @a; push @a, \"x\" x 1048576 while @a < 4096";
    let mut spec = fixture.spec(&[
        "sh",
        "-c",
        "while [ ! -e crash ]; do sleep 0.02; done; rm crash; exec perl -e \"$1\"",
        "sh",
        grow,
    ]);
    spec.health = HealthCheck::Uptime { seconds: 0 };
    spec.limits.memory_mib = Some(64);
    let (instance, _) = fixture.ready(spec).await;
    fixture.put("crash");
    let status = fixture.until(instance, healthy(1)).await;
    let InstanceStatus::Running { last_restart: Some(RestartCause::Exited { exit }), .. } = status else {
        panic!("{status:?}")
    };
    assert!(exit.out_of_memory, "{exit:?}");
    fixture.runtime.stop_all().await;
}

#[tokio::test]
async fn the_next_life_hides_what_a_service_was_given_and_nobody_else_can_read_it() {
    let fixture = Fixture::new();
    let script =
        "echo $DB | base64; echo x >> lives; echo \"given $DB in life $(wc -l < lives)\"; sleep 1000";
    let mut spec = fixture.shell(script);
    spec.secrets = [("DB".to_owned(), Secret::new("hunter2-hunter2"))].into();
    spec.redactor = crate::secrets::redactor(spec.secrets.values());
    spec.health = HealthCheck::Uptime { seconds: 0 };
    assert!(!format!("{spec:?}").contains("hunter2"));
    let (instance, _) = fixture.ready(spec).await;
    fixture.printed(instance, "in life 1").await;
    let folder = fixture.folder.path().join("instances").join(instance.to_string());
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&folder), mode(&folder.join("instance.json"))), (0o700, 0o600));
    let fixture = fixture.restart().await;
    fixture.printed(instance, "in life 2").await;
    let lines = fixture.runtime.output(instance, 100).await.unwrap();
    assert!(lines.iter().all(|line| line.contains("[redacted]")), "{lines:?}");
    fixture.runtime.stop_all().await;
}
