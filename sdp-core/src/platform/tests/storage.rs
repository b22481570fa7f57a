//! A disk that is full, files that are away, logs that lost their end: work pauses, nothing acknowledged is lost.

use std::path::PathBuf;

use super::agent::{PlayedJob, commit};
use super::*;
use crate::deployment::Step;
use crate::store::StoreError;
use crate::wire::{JobAction, JobResult, Progress, ToAgent};

fn db(bench: &Bench) -> PathBuf {
    bench.folder.path().join("sdp.db")
}

async fn held(bench: &Bench, is_held: bool) {
    let mut storage = bench.platform.inner.storage.clone();
    let wait = storage.wait_for(|error: &Option<StoreError>| error.is_some() == is_held);
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("in time").expect("runs");
}

/// How often agents have connected so far.
async fn connections(platform: &Platform) -> usize {
    let mut feed = platform.feed(EventSeq(0), EventFilter::default());
    let mut count = 0;
    while let Some(event) = feed.try_next().await.expect("reads") {
        count += usize::from(matches!(event.kind, EventKind::AgentConnected { .. }));
    }
    count
}

#[tokio::test]
async fn a_log_that_lost_acknowledged_lines_gets_them_again() {
    let mut bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    let deployment = bench.deploy("hello", "main").await;
    let mut job = agent.take_job().await;
    job.lines(&agent, &["one", "two", "three"]).await;
    agent.hear(|message| matches!(message, ToAgent::Ack { lines: 3, .. })).await;
    bench.platform.stop().await;
    let log = bench.folder.path().join(format!("logs/{}.log", deployment.id));
    std::fs::write(&log, "one\ntw").expect("cut");
    bench.restart().await;
    agent.reconnect(&bench.platform).await;
    let Some(ToAgent::Welcome { jobs, .. }) = agent.welcome.clone() else { panic!("no welcome") };
    assert!(matches!(jobs[0].action, JobAction::Send { lines: 1, .. }), "{jobs:?}");
    job.lines_from(&agent, 2).await;
    job.lines(&agent, &["four"]).await;
    job.end(&agent, JobResult::Cancelled {}).await;
    agent.done_ok(&job).await;
    bench.ended(&deployment).await;
    assert_eq!(std::fs::read_to_string(&log).expect("the log"), "one\ntwo\nthree\nfour\n");
}

#[tokio::test]
async fn a_turn_that_cannot_be_stored_waits_and_nothing_of_it_is_lost() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    let deployment = bench.deploy("hello", "main").await;
    let mut job = agent.take_job().await;
    job.progress(&agent, Progress::StepStarted { step: Step::Resolve }).await;
    agent.hear(|message| matches!(message, ToAgent::Ack { progress: 1, .. })).await;

    let away = bench.folder.path().join("away");
    std::fs::rename(db(&bench), &away).expect("moved");
    job.lines(&agent, &["one"]).await;
    job.progress(&agent, Progress::Resolved { commit: commit('a') }).await;
    held(&bench, true).await;
    let error = bench.platform.deploy(&alice(), Deploy::new(name("ledger"))).await.expect_err("refused");
    assert_eq!((error.code(), error.hint().is_empty()), ("database_gone", false));
    assert_eq!(
        bench.platform.cancel(&alice(), deployment.id.into()).await.expect_err("too").code(),
        error.code()
    );
    assert_eq!(bench.platform.ready().await.expect_err("not ready").code(), "database_gone");
    assert!(bench.platform.agents().await.expect("answers")[0].connected, "the connection goes on");
    job.progress(&agent, Progress::StepStarted { step: Step::Build }).await;
    job.lines(&agent, &["two"]).await;
    let events = bench.platform.events_of(deployment.id).await;
    assert!(!db(&bench).exists(), "it is not made anew");
    assert!(events.is_ok(), "what is stored can be read");

    std::fs::rename(&away, db(&bench)).expect("moved back");
    agent.hear(|message| matches!(message, ToAgent::Ack { lines: 2, progress: 3, .. })).await;
    held(&bench, false).await;
    bench.platform.ready().await.expect("ready again");
    job.end(&agent, JobResult::Cancelled {}).await;
    agent.done_ok(&job).await;
    bench.ended(&deployment).await;
    assert!(bench.story(&deployment).await.contains("step_started(build)"));
}

#[tokio::test]
async fn a_stop_ends_a_turn_that_cannot_be_stored_and_its_reports_come_again() {
    let mut bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    let deployment = bench.deploy("hello", "main").await;
    let mut job = agent.take_job().await;
    job.progress(&agent, Progress::StepStarted { step: Step::Resolve }).await;
    agent.hear(|message| matches!(message, ToAgent::Ack { progress: 1, .. })).await;
    let away = bench.folder.path().join("away");
    std::fs::rename(db(&bench), &away).expect("moved");
    job.progress(&agent, Progress::StepStarted { step: Step::Build }).await;
    held(&bench, true).await;
    bench.platform.stop().await;
    std::fs::rename(&away, db(&bench)).expect("moved back");
    bench.restart().await;
    agent.reconnect(&bench.platform).await;
    let Some(ToAgent::Welcome { jobs, .. }) = agent.welcome.clone() else { panic!("no welcome") };
    assert!(matches!(jobs[0].action, JobAction::Send { progress: 1, .. }), "{jobs:?}");
    job.progress_again(&agent, 2, Progress::StepStarted { step: Step::Build }).await;
    agent.hear(|message| matches!(message, ToAgent::Ack { progress: 2, .. })).await;
    assert!(!bench.platform.deployment(deployment.id.into()).await.expect("known").is_ended());
}

#[tokio::test]
async fn a_job_whose_lines_cannot_be_stored_holds_up_no_other() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    let full = bench.deploy("hello", "main").await;
    // Writing to it fails as on a full disk.
    let log = bench.folder.path().join(format!("logs/{}.log", full.id));
    std::os::unix::fs::symlink("/dev/full", log).expect("linked");
    let mut paused = agent.take_job().await;
    let other = bench.deploy("ledger", "main").await;
    let mut job = agent.take_job().await;
    paused.lines(&agent, &["one"]).await;
    paused.lines(&agent, &["two"]).await;
    job.lines(&agent, &["one"]).await;
    job.progress(&agent, Progress::StepStarted { step: Step::Build }).await;
    let of = |id| move |message: &ToAgent| matches!(message, ToAgent::Ack { deployment, lines: 1, .. } if *deployment == id);
    agent.hear(of(other.id)).await;
    // It is asked for again, and nothing of it was acknowledged.
    let asked = agent.hear(|message| matches!(message, ToAgent::Rewind { .. })).await;
    assert!(
        matches!(asked, ToAgent::Rewind { deployment, lines: 0, .. } if deployment == full.id),
        "{asked:?}"
    );
    paused.lines_from(&agent, 1).await;
    job.end(&agent, JobResult::Cancelled {}).await;
    agent.done_ok(&job).await;
    bench.ended(&other).await;
    assert_eq!(connections(&bench.platform).await, 1, "the connection goes on");
}

/// Runs a test of this file again as a process of its own that sees a small tmpfs, which goes with it; the folder in there.
fn in_tmpfs(test: &str, size: &str) -> Option<PathBuf> {
    const MOUNTED: &str = "SDP_TEST_TMPFS";
    if let Some(folder) = std::env::var_os(MOUNTED) {
        return Some(folder.into());
    }
    let folder = tempfile::tempdir().expect("tempdir");
    let inside = std::process::Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-ec"])
        .arg(format!("mount -t tmpfs -o size={size} tmpfs \"$0\"; exec \"$@\""))
        .arg(folder.path())
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", "--include-ignored", &format!("platform::tests::storage::{test}")])
        .env(MOUNTED, folder.path())
        .output()
        .expect("unshare starts");
    let said = String::from_utf8_lossy(&inside.stdout);
    assert!(inside.status.success(), "{said}{}", String::from_utf8_lossy(&inside.stderr));
    assert!(said.contains("1 passed"), "{said}");
    None
}

/// Jobs of one agent that print whatever happens, and what the server has acknowledged of them.
struct Printing {
    agent: PlayedAgent,
    jobs: Vec<(PlayedJob, u64)>,
}

impl Printing {
    /// Does what the server asks for; the deployment whose end it has confirmed.
    async fn obey(&mut self, message: ToAgent) -> Option<DeploymentId> {
        match message {
            ToAgent::Rewind { deployment, lines, .. } => {
                let (job, _) = self.jobs.iter().find(|(job, _)| job.deployment == deployment)?;
                if lines < job.printed() {
                    job.lines_from(&self.agent, lines + 1).await;
                }
                None
            }
            ToAgent::Ack { deployment, lines, .. } => {
                let (_, acked) = self.jobs.iter_mut().find(|(job, _)| job.deployment == deployment)?;
                *acked = lines.max(*acked);
                None
            }
            ToAgent::DoneOk { deployment, .. } => Some(deployment),
            _ => None,
        }
    }

    async fn listen(&mut self) {
        while let Some(message) = self.agent.hear_now().await {
            assert_eq!(self.obey(message).await, None, "no end before it was told");
        }
    }
}

/// Fills the disk to the last byte.
fn fill(ballast: &Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(ballast).expect("opens");
    for size in [64 * 1024, 4096, 1] {
        while file.write(&vec![b'x'; size]).is_ok() {}
    }
}

#[test]
#[ignore = "needs unshare and the right to mount a tmpfs; scripts/test runs it"]
fn a_disk_that_is_full_at_random_moments_loses_nothing() {
    let Some(folder) = in_tmpfs("a_disk_that_is_full_at_random_moments_loses_nothing", "16m") else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(full_at_random_moments(&folder));
}

async fn full_at_random_moments(folder: &Path) {
    let seed = std::env::var("SDP_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(42);
    let mut dice: u64 = seed;
    let mut below = |bound: usize| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(dice >> 33).expect("fits") % bound
    };
    let (data, ballast) = (folder.join("data"), folder.join("ballast"));
    let small = |config: &mut PlatformConfig| config.disk_floor = 1 << 20;
    let platform = start_in(&data, small).await;
    for text in ["hello", "ledger"] {
        platform.save_service(&alice(), service(text), Save::Create).await.expect("saved");
    }
    let agent = PlayedAgent::connect(&platform, "vm-1").await;
    let mut printing = Printing { agent, jobs: Vec::new() };
    let mut all = Vec::new();
    for round in 0..10 {
        for text in ["hello", "ledger"] {
            let deploy = Deploy::new(name(text)).git_ref(name("main")).to(name("alice"));
            platform.deploy(&alice(), deploy).await.expect("taken");
            let job = printing.agent.take_job().await;
            printing.jobs.push((job, 0));
        }
        let (full_at, free_at) = (below(30), 30 + below(10));
        for batch in 0..40 {
            if batch == full_at {
                fill(&ballast);
                let refused = platform.deploy(&alice(), Deploy::new(name("hello"))).await.expect_err("full");
                assert_eq!(refused.code(), "disk_low", "{refused}");
                assert!(
                    ["disk_low", "disk_full"].contains(&platform.ready().await.expect_err("full").code())
                );
            }
            if batch == free_at {
                std::fs::remove_file(&ballast).expect("freed");
            }
            for at in 0..printing.jobs.len() {
                let text = format!("round {round} batch {batch} {}", "x".repeat(below(3000)));
                let (job, _) = &mut printing.jobs[at];
                job.lines(&printing.agent, &[&text, "", &text]).await;
                if below(8) == 0 {
                    job.progress(&printing.agent, Progress::Noted { text: format!("batch {batch}") }).await;
                }
                printing.listen().await;
            }
            if let Some((job, acked)) = printing.jobs.get(below(2)) {
                let held = platform.logs().held(job.deployment).await.expect("opens");
                assert!(held >= *acked, "{held} lines are there, {acked} were acknowledged");
            }
        }
        for (job, _) in &mut printing.jobs {
            job.end(&printing.agent, JobResult::Cancelled {}).await;
        }
        let mut ended = Vec::new();
        while ended.len() < printing.jobs.len() {
            let message = printing.agent.hear(|message| {
                matches!(message, ToAgent::Rewind { .. } | ToAgent::Ack { .. } | ToAgent::DoneOk { .. })
            });
            let message = message.await;
            ended.extend(printing.obey(message).await);
        }
        printing.agent.jobs.clear();
        for (job, _) in printing.jobs.drain(..) {
            let waited = platform.wait_ended(job.deployment.into(), Duration::from_secs(20)).await;
            assert!(waited.expect("waits").is_ended());
            let printed = job.text();
            assert!(log_of(&data, job.deployment) == printed, "round {round}");
            all.push((job.deployment, printed));
            // So that the disk holds ten rounds.
            if all.len() > 6 {
                platform.logs().remove(all.remove(0).0).await.expect("removed");
            }
        }
    }
    assert_eq!(connections(&platform).await, 1, "one connection for all of it");
    platform.stop().await;

    let database = rusqlite::Connection::open(data.join("sdp.db")).expect("opens");
    let sound: String =
        database.pragma_query_value(None, "integrity_check", |row| row.get(0)).expect("checked");
    assert_eq!(sound, "ok");
    drop((database, platform, printing));
    remounted_read_only(folder, &data).await;
    let platform = start_in(&data, small).await;
    for (id, printed) in all {
        assert!(log_of(&data, id) == printed);
        assert!(platform.deployment(id.into()).await.expect("known").is_ended());
    }
    platform.stop().await;
}

/// A start on a file system that can only be read is refused with a sentence, and harms nothing.
async fn remounted_read_only(folder: &Path, data: &Path) {
    let remount = |how: &str| {
        let mount = std::process::Command::new("mount").args(["-o", how]).arg(folder).status();
        assert!(mount.expect("mount runs").success());
    };
    remount("remount,ro");
    let error = Platform::start(PlatformConfig::new(data)).await.expect_err("refused");
    assert_eq!(error.code(), "storage", "{error}");
    assert!(error.to_string().contains("sdp."), "{error}");
    remount("remount,rw");
}

fn log_of(data: &Path, id: DeploymentId) -> String {
    std::fs::read_to_string(data.join(format!("logs/{id}.log"))).expect("a log")
}
