mod recovery;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use sdp_core::catalog::{Builder, HealthCheck, Limits};
use sdp_core::deployment::Step;
use sdp_core::id::{DeploymentNumber, InstanceId};
use sdp_core::name::{GitRef, RepoPath, RepoUrl, SandboxName, ServiceName};
use sdp_core::wire::link::AgentFrame;
use sdp_core::wire::{CUT_MARKER, FromAgent, JobResult, MAX_LINE, Progress, StepLimits, Stream, Totals};

use super::*;

/// What a server would have of a job: it takes each frame as it comes, and checks that numbers are dense.
#[derive(Debug, Default)]
struct Received {
    lines: Vec<Vec<u8>>,
    progress: Vec<(u64, Progress)>,
    done: Option<FromAgent>,
}

impl Received {
    fn take(&mut self, frame: AgentFrame) {
        match frame {
            AgentFrame::Lines(batch) => {
                assert_eq!(batch.first, self.lines.len() as u64 + 1, "lines are dense");
                assert!(batch.encode().len() <= sdp_core::wire::MAX_FRAME);
                self.lines.extend(batch.iter().map(|(_, line)| line.to_vec()));
            }
            AgentFrame::Control(message) => match *message {
                FromAgent::Progress { number, after_line, what, .. } => {
                    assert_eq!(number, self.progress.len() as u64 + 1, "progress is dense");
                    assert!(after_line <= self.lines.len() as u64, "no item overtakes its lines");
                    self.progress.push((after_line, what));
                }
                done @ FromAgent::Done { .. } => self.done = Some(done),
                other => panic!("unexpected {other:?}"),
            },
            other => panic!("unexpected {other:?}"),
        }
    }

    fn text(&self) -> String {
        self.lines.iter().map(|line| String::from_utf8_lossy(line).into_owned() + "\n").collect()
    }

    /// Counts and checksum of `done` are those of what arrived.
    fn assert_complete(&self) {
        let mut all = Vec::new();
        for line in &self.lines {
            all.extend_from_slice(line);
            all.push(b'\n');
        }
        let Some(FromAgent::Done { progress, lines, bytes, checksum, .. }) = &self.done else {
            panic!("no done: {:?}", self.done)
        };
        assert_eq!(*progress, self.progress.len() as u64);
        assert_eq!((*lines, *bytes), (self.lines.len() as u64, all.len() as u64));
        assert_eq!(*checksum, crc32fast::hash(&all));
    }

    fn dropped(&self) -> u64 {
        match &self.done {
            Some(FromAgent::Done { dropped, .. }) => *dropped,
            other => panic!("no done: {other:?}"),
        }
    }
}

fn key() -> JobKey {
    (DeploymentId::new(), 1)
}

fn spool(folder: &tempfile::TempDir, limits: SpoolLimits) -> Arc<Spool> {
    Arc::new(Spool::open(folder.path().join("spool"), limits).unwrap())
}

fn create(spool: &Spool, key: JobKey) -> JobLog {
    let spec = JobSpec {
        number: DeploymentNumber(1),
        service: ServiceName::parse("hello").unwrap(),
        sandbox: SandboxName::parse("alice").unwrap(),
        instance: InstanceId::from(uuid::Uuid::nil()),
        repo: RepoUrl::parse("/srv/git/hello.git").unwrap(),
        git_ref: GitRef::parse("main").unwrap(),
        commit: None,
        since: None,
        reuse_build: false,
        subdir: RepoPath::parse(".").unwrap(),
        builder: Builder::Command { build: Vec::new(), run: vec!["./serve".to_owned()] },
        health: HealthCheck::Tcp {},
        env: BTreeMap::new(),
        port: None,
        image: None,
        limits: Limits::default(),
        writable: BTreeSet::new(),
        release: None,
        labels: BTreeSet::new(),
        step_limits: StepLimits::default(),
        place: None,
    };
    spool.create(key, &spec, false).unwrap()
}

/// Sends all that may be sent now, acknowledging each batch if `ack`.
async fn send_all(outflow: &Outflow, received: &mut Received, key: JobKey, ack: bool) {
    loop {
        match outflow.next().await.unwrap() {
            Next::Frame(frame) => {
                received.take(frame);
                if ack {
                    outflow.ack(key, received.lines.len() as u64);
                }
            }
            Next::Wait { until: Some(until) } => outflow.changed(Some(until)).await,
            Next::Wait { until: None } => return,
        }
    }
}

fn ready(_: u64) -> JobResult {
    JobResult::Ready {}
}

#[tokio::test]
async fn lines_and_progress_arrive_in_order_with_counts_and_checksum() {
    let folder = tempfile::tempdir().unwrap();
    let spool = spool(&folder, SpoolLimits::default());
    let (key, mut received) = (key(), Received::default());
    let log = create(&spool, key);
    let outflow = Outflow::new(spool.clone());
    outflow.send_after(key, 0, 0);
    log.progress(Progress::StepStarted { step: Step::Build });
    log.line(Step::Build, Stream::Stdout, b"one");
    log.line(Step::Build, Stream::Stderr, b"");
    log.progress(Progress::Noted { text: "noted".into() });
    send_all(&outflow, &mut received, key, true).await;
    log.line(Step::Build, Stream::Stdout, b"caf\xe9 \x00 two\nhalves");
    log.finish(ready);
    log.line(Step::Build, Stream::Stdout, b"after the end");
    send_all(&outflow, &mut received, key, true).await;
    received.assert_complete();
    assert_eq!(received.lines, [b"one".to_vec(), vec![], b"caf\xe9 \x00 two halves".to_vec()]);
    let after: Vec<u64> = received.progress.iter().map(|(after, _)| *after).collect();
    assert_eq!(after, [0, 2, 3]);
    spool.remove(key);
    assert!(spool.reports().is_empty());
    assert_eq!(std::fs::read_dir(folder.path().join("spool")).unwrap().count(), 0, "nothing is left on disk");
    assert_eq!(spool.held.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_new_connection_goes_on_where_the_server_says() {
    let folder = tempfile::tempdir().unwrap();
    let spool = spool(&folder, SpoolLimits::default());
    let (key, mut received) = (key(), Received::default());
    let log = create(&spool, key);
    for number in 0..5000 {
        log.line(Step::Build, Stream::Stdout, format!("line {number} {}", "x".repeat(100)).as_bytes());
    }
    log.progress(Progress::Noted { text: "noted".into() });
    log.finish(ready);
    let first = Outflow::new(spool.clone());
    first.send_after(key, 0, 0);
    let Next::Frame(AgentFrame::Lines(batch)) = first.next().await.unwrap() else { panic!("no lines") };
    drop(first);
    // The server has half of that batch, and the first item of progress though it was never sent: it is not sent again.
    let half = usize::try_from(batch.last() / 2).unwrap();
    received.lines.extend(batch.iter().take(half).map(|(_, line)| line.to_vec()));
    received.progress.push((5000, Progress::Noted { text: "noted".into() }));
    let second = Outflow::new(spool.clone());
    second.send_after(key, half as u64, 1);
    send_all(&second, &mut received, key, true).await;
    received.assert_complete();
    assert_eq!(received.lines.len(), 5000);
    assert!(received.text().starts_with("line 0 x") && received.text().contains("\nline 4999 x"));
    // The checksum did not fit: from the beginning again, and done again.
    let mut again = Received::default();
    second.send_after(key, 0, 0);
    send_all(&second, &mut again, key, true).await;
    again.assert_complete();
    assert_eq!(again.lines, received.lines);
}

#[tokio::test]
async fn unacknowledged_lines_are_bounded_and_jobs_take_turns() {
    let folder = tempfile::tempdir().unwrap();
    let spool = spool(&folder, SpoolLimits::default());
    let (noisy, quiet) = (key(), key());
    let log = create(&spool, noisy);
    for _ in 0..200_000 {
        log.line(Step::Build, Stream::Stdout, &[b'x'; 100]);
    }
    let other = create(&spool, quiet);
    other.line(Step::Build, Stream::Stdout, b"here");
    let outflow = Outflow::new(spool.clone());
    outflow.send_after(noisy, 0, 0);
    outflow.send_after(quiet, 0, 0);
    let mut order = Vec::new();
    let mut bytes = 0;
    while let Next::Frame(frame) = outflow.next().await.unwrap() {
        let AgentFrame::Lines(batch) = frame else { panic!("no lines") };
        bytes += batch.encode().len();
        order.push(batch.deployment);
    }
    assert!(order[..2].contains(&quiet.0), "the quiet one did not wait for the noisy one");
    assert!((4 << 20..5 << 20).contains(&bytes), "{bytes} bytes under way");
    outflow.ack(noisy, 3000);
    assert!(matches!(outflow.next().await.unwrap(), Next::Frame(AgentFrame::Lines(_))), "the window moved");
}

#[tokio::test]
async fn a_log_that_is_too_long_keeps_its_beginning_and_end_and_says_exactly_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let limits = SpoolLimits { per_deployment: 1 << 20, total: 1 << 30 };
    let spool = spool(&folder, limits);
    let (key, mut received) = (key(), Received::default());
    let log = create(&spool, key);
    let outflow = Outflow::new(spool.clone());
    outflow.send_after(key, 0, 0);
    let printed: Vec<String> = (1..=100_000).map(|number| format!("line {number}")).collect();
    for (number, line) in printed.iter().enumerate() {
        log.line(Step::Build, Stream::Stdout, line.as_bytes());
        if number == 60_000 {
            log.progress(Progress::StepStarted { step: Step::Start });
        }
    }
    let mut last = 0;
    log.finish(|line| {
        last = line;
        JobResult::Ready {}
    });
    send_all(&outflow, &mut received, key, true).await;
    received.assert_complete();
    let text = received.text();
    let lines: Vec<&str> = text.lines().collect();
    let at = lines.iter().position(|line| line.starts_with('[')).expect("a marker");
    let missing = usize::try_from(received.dropped()).unwrap();
    assert_eq!(lines.len() - 1 + missing, printed.len(), "what is there and what is missing is all");
    assert_eq!(lines[..at], printed[..at], "the beginning is whole");
    assert_eq!(lines[at + 1..], printed[at + missing..], "so is the end");
    let missing_bytes: usize = printed[at..at + missing].iter().map(|line| line.len() + 1).sum();
    assert_eq!(
        lines[at],
        format!(
            "[{missing} lines ({missing_bytes} bytes) of this log are missing here: it is longer than the agent keeps]"
        )
    );
    assert_eq!(lines.iter().filter(|line| line.starts_with('[')).count(), 1);
    assert_eq!(last, lines.len() as u64, "the last line that the program printed");
    let kept: usize = lines.iter().map(|line| line.len() + record::HEADER).sum();
    assert!(kept <= 1 << 20, "{kept} bytes kept");
    assert!(kept > 9 << 16, "{kept} bytes kept");
    let on_disk = folder.path().join("spool").join(format!("{}-1", key.0)).join("lines");
    assert_eq!(std::fs::metadata(on_disk).unwrap().len(), kept as u64);
}

#[tokio::test]
async fn a_log_that_just_fits_has_no_marker() {
    let folder = tempfile::tempdir().unwrap();
    let limits = SpoolLimits { per_deployment: 1 << 20, total: 1 << 30 };
    let spool = spool(&folder, limits);
    let (key, mut received) = (key(), Received::default());
    let log = create(&spool, key);
    // Over the part for the beginning, but with the part for the end it fits.
    let count = (15 << 16) / (100 + record::HEADER);
    for _ in 0..count {
        log.line(Step::Build, Stream::Stdout, &[b'x'; 100]);
    }
    log.finish(ready);
    let outflow = Outflow::new(spool.clone());
    outflow.send_after(key, 0, 0);
    send_all(&outflow, &mut received, key, true).await;
    received.assert_complete();
    assert_eq!((received.lines.len(), received.dropped()), (count, 0));
    assert!(received.lines.iter().all(|line| line == &[b'x'; 100]));
}

#[tokio::test]
async fn all_logs_together_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let limits = SpoolLimits { per_deployment: 1 << 20, total: 1 << 20 };
    let spool = spool(&folder, limits);
    let logs: Vec<JobLog> = (0..4).map(|_| create(&spool, key())).collect();
    for _ in 0..20_000 {
        for log in &logs {
            log.line(Step::Build, Stream::Stdout, &[b'x'; 50]);
        }
    }
    for log in &logs {
        log.finish(ready);
        let mut received = Received::default();
        let outflow = Outflow::new(spool.clone());
        outflow.send_after(log.key(), 0, 0);
        send_all(&outflow, &mut received, log.key(), true).await;
        received.assert_complete();
        assert_eq!(received.lines.len() as u64 - 1 + received.dropped(), 20_000);
    }
    let held = spool.held.load(Ordering::Relaxed);
    assert!(held <= (1 << 20) + 4 * (1 << 17) + 4096, "{held} bytes held");
}

#[tokio::test]
async fn a_line_that_is_too_long_is_cut_with_a_marker() {
    let folder = tempfile::tempdir().unwrap();
    let spool = spool(&folder, SpoolLimits::default());
    let (key, mut received) = (key(), Received::default());
    let log = create(&spool, key);
    log.line(Step::Build, Stream::Stdout, &vec![b'x'; MAX_LINE + 1]);
    let cut_before = [vec![b'y'; MAX_LINE], CUT_MARKER.into()].concat();
    log.line(Step::Build, Stream::Stdout, &cut_before);
    log.finish(ready);
    let outflow = Outflow::new(spool.clone());
    outflow.send_after(key, 0, 0);
    send_all(&outflow, &mut received, key, true).await;
    received.assert_complete();
    assert_eq!(received.lines, [[vec![b'x'; MAX_LINE], CUT_MARKER.into()].concat(), cut_before]);
}

#[tokio::test]
async fn a_full_disk_ends_the_job_and_the_log_says_what_is_missing() {
    // A device that has no room, in place of the file.
    let folder = tempfile::tempdir().unwrap();
    let spool = spool(&folder, SpoolLimits::default());
    let (key, mut received) = (key(), Received::default());
    let job = folder.path().join("spool").join(format!("{}-1", key.0));
    std::fs::create_dir_all(&job).unwrap();
    std::os::unix::fs::symlink("/dev/full", job.join("lines")).unwrap();
    let log = create(&spool, key);
    let mut printed = 0u64;
    while !log.broken().is_cancelled() {
        log.line(Step::Build, Stream::Stdout, &[b'x'; 1000]);
        printed += 1;
    }
    for _ in 0..10 {
        log.line(Step::Build, Stream::Stdout, b"more");
    }
    log.finish(ready);
    let outflow = Outflow::new(spool.clone());
    outflow.send_after(key, 0, 0);
    send_all(&outflow, &mut received, key, true).await;
    received.assert_complete();
    assert_eq!(received.lines.len() as u64, printed + 1);
    assert_eq!(received.dropped(), 10);
    assert_eq!(
        received.text().lines().last().unwrap(),
        "[10 lines (50 bytes) of this log are missing here: the agent's disk is full or broken]"
    );
}

/// What a connection may do to an outflow.
#[derive(Clone, Debug)]
enum Act {
    Print(usize, usize),
    Send(usize),
    Ack,
    Lose(usize, usize),
    Restart,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        3 => (1usize..400, 0usize..3000).prop_map(|(count, size)| Act::Print(count, size)),
        3 => (1usize..8).prop_map(Act::Send),
        1 => Just(Act::Ack),
        1 => (0usize..100, 0usize..100).prop_map(|(lines, progress)| Act::Lose(lines, progress)),
        1 => Just(Act::Restart),
    ];
    prop::collection::vec(act, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    /// Whatever is lost or acknowledged on the way, and however often the agent is killed, the server ends up with exactly what was
    /// said; what a killed agent had only in memory was heard by nobody.
    #[test]
    fn nothing_is_lost_or_doubled(acts in acts()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let mut spool = spool(&folder, SpoolLimits::default());
            let (key, mut received) = (key(), Received::default());
            let mut log = create(&spool, key);
            let mut printed: Vec<Vec<u8>> = Vec::new();
            let mut outflow = Outflow::new(spool.clone());
            outflow.send_after(key, 0, 0);
            for act in acts {
                match act {
                    Act::Print(count, size) => for _ in 0..count {
                        let line = format!("{} {}", printed.len(), "x".repeat(size)).into_bytes();
                        log.line(Step::Build, Stream::Stdout, &line);
                        printed.push(line);
                        if printed.len().is_multiple_of(100) {
                            log.progress(Progress::Noted { text: printed.len().to_string() });
                        }
                    },
                    Act::Send(frames) => for _ in 0..frames {
                        match outflow.next().await.unwrap() {
                            Next::Frame(frame) => received.take(frame),
                            Next::Wait { .. } => break,
                        }
                    },
                    Act::Ack => outflow.ack(key, received.lines.len() as u64),
                    Act::Lose(lines, progress) => {
                        // The connection and what the server had not made durable are lost.
                        received.lines.truncate(received.lines.len() * lines / 100);
                        received.progress.truncate(received.progress.len() * progress / 100);
                        let durable = received.lines.len() as u64;
                        received.progress.retain(|(after, _)| *after <= durable);
                        outflow = Outflow::new(spool.clone());
                        outflow.send_after(key, durable, received.progress.len() as u64);
                    }
                    Act::Restart => {
                        drop((outflow, log));
                        spool = self::spool(&folder, SpoolLimits::default());
                        log = spool.find(key).expect("it is still there");
                        let held = log.report();
                        let (lines, progress) = (received.lines.len() as u64, received.progress.len() as u64);
                        assert!(held.lines >= lines && held.progress >= progress, "what was sent was written");
                        printed.truncate(usize::try_from(held.lines).unwrap());
                        outflow = Outflow::new(spool.clone());
                        outflow.send_after(key, lines, progress);
                    }
                }
            }
            log.finish(ready);
            outflow.ack(key, received.lines.len() as u64);
            send_all(&outflow, &mut received, key, true).await;
            received.assert_complete();
            assert_eq!(received.lines, printed);
        });
    }
}
