mod torn;

use std::fs;
use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::wire::lines::LineMeta;

/// The runtime for one test case.
fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime").block_on(future)
}

fn open(dir: &Path) -> Logs {
    let config = LogsConfig { window_bytes: u64::MAX, ..LogsConfig::default() };
    Logs::open(dir, config).expect("opens")
}

fn fresh() -> (TempDir, Logs, DeploymentId) {
    let dir = tempfile::tempdir().expect("tempdir");
    let logs = open(dir.path());
    (dir, logs, DeploymentId::new())
}

/// What the test expects of line `n`: time and step follow from its number.
fn meta(n: u64, text: &[u8]) -> LineMeta {
    LineMeta {
        length: u32::try_from(text.len()).expect("short"),
        at_ms: 1_000 + i64::try_from(n).expect("small"),
        step: Step::ALL[usize::try_from(n % 6).expect("small")],
        stream: Stream::from_u8(u8::try_from(n % 3).expect("small")),
    }
}

fn batch(id: DeploymentId, first: u64, texts: &[impl AsRef<[u8]>]) -> LinesBatch {
    LinesBatch {
        deployment: id,
        attempt: 1,
        first,
        lines: (first..).zip(texts).map(|(n, text)| meta(n, text.as_ref())).collect(),
        bytes: texts.iter().flat_map(|text| text.as_ref().to_vec()).collect(),
    }
}

fn log_path(dir: &Path, id: DeploymentId) -> PathBuf {
    dir.join(format!("{id}.log"))
}

fn idx_path(dir: &Path, id: DeploymentId) -> PathBuf {
    dir.join(format!("{id}.idx"))
}

fn texts(lines: &[Line]) -> Vec<Vec<u8>> {
    lines.iter().map(|line| line.bytes.to_vec()).collect()
}

/// Whole lines of a file, the plain way.
fn split(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut lines: Vec<Vec<u8>> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    lines.pop();
    lines
}

async fn all(logs: &Logs, id: DeploymentId) -> Vec<Line> {
    logs.window(id, 1, usize::MAX).await.expect("reads")
}

/// Everything that must hold of a log with these lines.
async fn assert_holds(logs: &Logs, dir: &Path, id: DeploymentId, expected: &[Vec<u8>]) {
    let lines = all(logs, id).await;
    assert!(texts(&lines) == expected, "{} lines, expected {}", lines.len(), expected.len());
    assert!(lines.iter().map(|line| line.n).eq(1..=expected.len() as u64), "numbers are dense from 1");
    assert_eq!(logs.lines(id), expected.len() as u64);
    let joined: Vec<u8> = expected.iter().flat_map(|line| [line.as_slice(), b"\n"].concat()).collect();
    let totals = logs.totals(id).await.expect("totals");
    assert_eq!(
        totals,
        LogTotals {
            lines: expected.len() as u64,
            bytes: joined.len() as u64,
            checksum: crc32fast::hash(&joined)
        }
    );
    if !expected.is_empty() {
        assert!(fs::read(log_path(dir, id)).expect("log") == joined, "the file holds the same");
        let index = fs::metadata(idx_path(dir, id)).expect("index").len();
        assert_eq!(index, 24 * expected.len() as u64);
    }
}

#[test]
fn what_is_appended_is_read_as_it_was() {
    run(async {
        let (dir, logs, id) = fresh();
        let odd: Vec<Vec<u8>> = vec![
            b"plain".to_vec(),
            b"".to_vec(),
            b"\xff\xfe no utf-8 \0 nul \r".to_vec(),
            vec![b'x'; 64 * 1024],
            b"".to_vec(),
        ];
        assert_eq!(logs.append(batch(id, 1, &odd)).await.expect("appends"), Appended::Added { last: 5 });
        assert_holds(&logs, dir.path(), id, &odd).await;
        for line in all(&logs, id).await {
            let expected = meta(line.n, &line.bytes);
            assert_eq!(
                (line.at_ms, line.step, line.stream),
                (expected.at_ms, expected.step, expected.stream)
            );
        }
        let mut raw = logs.raw(id).await.expect("raw");
        let mut bytes = Vec::new();
        raw.file.as_mut().expect("a file").read_to_end(&mut bytes).expect("reads");
        assert_eq!((bytes.len() as u64, split(&bytes)), (raw.bytes, odd));
    });
}

#[test]
fn a_deployment_that_printed_nothing_has_an_empty_log_and_no_files() {
    run(async {
        let (dir, logs, id) = fresh();
        assert_eq!(logs.lines(id), 0);
        assert_eq!(all(&logs, id).await, []);
        assert_eq!(logs.tail(id, 10).await.expect("reads"), []);
        assert_eq!(logs.totals(id).await.expect("totals"), LogTotals::default());
        assert_eq!(logs.durable(id, 5).await.expect("nothing to wait for"), 0);
        assert!(logs.raw(id).await.expect("raw").file.is_none());
        logs.truncate_to(id, 0).await.expect("nothing to cut");
        logs.remove(id).await.expect("nothing to remove");
        logs.close(id).await.expect("nothing to close");
        assert_eq!(logs.append(batch(id, 2, &["x"])).await.expect("answers"), Appended::Gap { last: 0 });
        assert_eq!(
            logs.append(batch(id, 1, &[""; 0])).await.expect("answers"),
            Appended::Duplicate { last: 0 }
        );
        assert_eq!(fs::read_dir(dir.path()).expect("folder").count(), 0);
    });
}

#[test]
fn a_batch_that_overlaps_is_cut_to_its_new_part() {
    run(async {
        let (dir, logs, id) = fresh();
        logs.append(batch(id, 1, &["a", "b", "c"])).await.expect("appends");
        let overlapping = batch(id, 2, &["B", "C", "d", "e"]);
        assert_eq!(logs.append(overlapping.clone()).await.expect("appends"), Appended::Added { last: 5 });
        assert_eq!(logs.append(overlapping).await.expect("appends"), Appended::Duplicate { last: 5 });
        assert_eq!(logs.append(batch(id, 7, &["g"])).await.expect("appends"), Appended::Gap { last: 5 });
        let expected = ["a", "b", "c", "d", "e"].map(|text| text.as_bytes().to_vec());
        assert_holds(&logs, dir.path(), id, &expected).await;
    });
}

#[test]
fn a_malformed_batch_is_refused_and_changes_nothing() {
    run(async {
        let (dir, logs, id) = fresh();
        let mut too_short = batch(id, 1, &["abc"]);
        too_short.bytes = Bytes::from_static(b"ab");
        let bad = [
            too_short,
            batch(id, 1, &["a\nb"]),
            LinesBatch { first: 0, ..batch(id, 1, &["a"]) },
            LinesBatch { first: u64::MAX, ..batch(id, 1, &["a", "b"]) },
        ];
        for batch in bad {
            assert_eq!(logs.append(batch).await.expect_err("refused").code(), "malformed_batch");
        }
        assert_eq!(fs::read_dir(dir.path()).expect("folder").count(), 0);
    });
}

#[test]
fn a_window_is_bounded_by_lines_and_by_bytes() {
    run(async {
        let dir = tempfile::tempdir().expect("tempdir");
        let config = LogsConfig { window_lines: 4, window_bytes: 10, ..LogsConfig::default() };
        let logs = Logs::open(dir.path(), config).expect("opens");
        let id = DeploymentId::new();
        let lines = ["1", "2", "3", "4", "5", "1234567", "8", "a line over the limit", "9"];
        logs.append(batch(id, 1, &lines)).await.expect("appends");
        let numbers = |lines: Vec<Line>| lines.iter().map(|line| line.n).collect::<Vec<_>>();
        let window = async |from, limit| numbers(logs.window(id, from, limit).await.expect("reads"));
        let tail = async |n| numbers(logs.tail(id, n).await.expect("reads"));

        assert_eq!(window(1, 100).await, [1, 2, 3, 4], "by lines");
        assert_eq!(window(0, 2).await, [1, 2], "0 is the first");
        assert_eq!(window(5, 100).await, [5, 6], "by bytes");
        assert_eq!(window(8, 100).await, [8], "one in any case");
        assert_eq!(window(9, 100).await, [9]);
        assert_eq!(window(10, 100).await, [0; 0]);
        assert_eq!(window(u64::MAX, usize::MAX).await, [0; 0]);
        assert_eq!(window(3, 0).await, [0; 0]);
        assert_eq!(tail(0).await, [0; 0]);
        assert_eq!(tail(1).await, [9]);
        assert_eq!(tail(3).await, [9], "by bytes, from the end");
        logs.truncate_to(id, 8).await.expect("cuts");
        assert_eq!(tail(3).await, [8], "one in any case");
        logs.truncate_to(id, 5).await.expect("cuts");
        assert_eq!(tail(100).await, [2, 3, 4, 5], "by lines");
    });
}

#[test]
fn the_bell_rings_on_growth_and_on_truncation() {
    run(async {
        let (_dir, logs, id) = fresh();
        let mut bell = logs.watch(id);
        assert_eq!(*bell.borrow_and_update(), 0);
        logs.append(batch(id, 1, &["a", "b"])).await.expect("appends");
        bell.changed().await.expect("rings");
        assert_eq!(*bell.borrow_and_update(), 2);
        logs.append(batch(id, 1, &["a"])).await.expect("appends");
        logs.close(id).await.expect("closes");
        assert!(!bell.has_changed().expect("still there"), "nothing new, no ring");
        logs.append(batch(id, 3, &["c"])).await.expect("a closed log takes lines again");
        assert_eq!(*bell.borrow_and_update(), 3, "the same bell after closing");
        logs.truncate_to(id, 1).await.expect("cuts");
        bell.changed().await.expect("rings");
        assert_eq!(*bell.borrow_and_update(), 1);
        logs.remove(id).await.expect("removes");
        assert_eq!(*bell.borrow_and_update(), 0);
    });
}

#[test]
fn after_a_truncation_the_lines_come_again() {
    run(async {
        let (dir, logs, id) = fresh();
        logs.append(batch(id, 1, &["a", "bad", "c"])).await.expect("appends");
        assert_eq!(logs.durable(id, 3).await.expect("syncs"), 3);
        logs.truncate_to(id, 1).await.expect("cuts");
        assert_eq!(logs.append(batch(id, 3, &["c"])).await.expect("answers"), Appended::Gap { last: 1 });
        assert_eq!(logs.durable(id, 3).await.expect("syncs"), 1);
        logs.append(batch(id, 2, &["b", "c"])).await.expect("appends");
        let expected = ["a", "b", "c"].map(|text| text.as_bytes().to_vec());
        assert_holds(&logs, dir.path(), id, &expected).await;
        logs.truncate_to(id, 0).await.expect("cuts");
        assert_holds(&logs, dir.path(), id, &[]).await;
    });
}

#[test]
fn a_removed_log_is_gone_and_its_readers_read_on() {
    run(async {
        let (dir, logs, id) = fresh();
        logs.append(batch(id, 1, &["a"])).await.expect("appends");
        let mut raw = logs.raw(id).await.expect("raw").file.expect("a file");
        logs.remove(id).await.expect("removes");
        assert_eq!(fs::read_dir(dir.path()).expect("folder").count(), 0);
        assert_eq!((logs.lines(id), all(&logs, id).await), (0, vec![]));
        let mut text = String::new();
        raw.read_to_string(&mut text).expect("reads");
        assert_eq!(text, "a\n");
        assert_eq!(logs.append(batch(id, 1, &["b"])).await.expect("appends"), Appended::Added { last: 1 });
        assert_holds(&logs, dir.path(), id, &[b"b".to_vec()]).await;
    });
}

#[test]
fn open_files_are_bounded_and_closed_logs_go_on() {
    run(async {
        let dir = tempfile::tempdir().expect("tempdir");
        let config = LogsConfig { max_open: 3, ..LogsConfig::default() };
        let logs = Logs::open(dir.path(), config).expect("opens");
        let ids: Vec<DeploymentId> = (0..20).map(|_| DeploymentId::new()).collect();
        for n in 1..=3 {
            for id in &ids {
                logs.append(batch(*id, n, &[format!("{id} {n}")])).await.expect("appends");
                logs.durable(*id, n).await.expect("syncs");
            }
        }
        for id in &ids {
            let expected: Vec<Vec<u8>> = (1..=3).map(|n| format!("{id} {n}").into_bytes()).collect();
            assert_holds(&logs, dir.path(), *id, &expected).await;
            assert!(logs.inner.registry.open_files() <= 3, "{}", logs.inner.registry.open_files());
        }
    });
}

#[test]
fn logs_with_unsynced_lines_keep_their_files() {
    run(async {
        let dir = tempfile::tempdir().expect("tempdir");
        let logs =
            Logs::open(dir.path(), LogsConfig { max_open: 1, ..LogsConfig::default() }).expect("opens");
        let ids: Vec<DeploymentId> = (0..4).map(|_| DeploymentId::new()).collect();
        for id in &ids {
            logs.append(batch(*id, 1, &["a"])).await.expect("appends");
        }
        assert_eq!(logs.inner.registry.open_files(), 4);
        assert_eq!(logs.durable(ids[0], 1).await.expect("syncs"), 1);
        for id in &ids {
            assert_eq!(logs.inner.registry.log(*id).durable.load(std::sync::atomic::Ordering::Relaxed), 1);
        }
        logs.held(ids[0]).await.expect("opens");
        assert_eq!(logs.inner.registry.open_files(), 1, "one pass served all; now they can be closed");
    });
}

#[test]
fn a_patient_sync_is_hurried_by_a_prompt_one() {
    run(async {
        let dir = tempfile::tempdir().expect("tempdir");
        // Only the prompt waiter can end this: the window is an hour.
        let config = LogsConfig { sync_window_ms: 3_600_000, sync_bytes: u64::MAX, ..LogsConfig::default() };
        let logs = Logs::open(dir.path(), config).expect("opens");
        let (noisy, other) = (DeploymentId::new(), DeploymentId::new());
        logs.append(batch(noisy, 1, &["a"])).await.expect("appends");
        assert_eq!(logs.durable_soon(noisy, 1).await.expect("the first does not wait"), 1);
        logs.append(batch(noisy, 2, &["b"])).await.expect("appends");
        logs.append(batch(other, 1, &["x"])).await.expect("appends");
        let (patient, prompt) = tokio::join!(biased; logs.durable_soon(noisy, 2), logs.durable(other, 1));
        assert_eq!((patient.expect("syncs"), prompt.expect("syncs")), (2, 1));
    });
}

#[test]
fn a_patient_sync_begins_when_enough_waits_and_when_the_window_is_over() {
    run(async {
        let dir = tempfile::tempdir().expect("tempdir");
        let config = LogsConfig { sync_window_ms: 3_600_000, sync_bytes: 1000, ..LogsConfig::default() };
        let logs = Logs::open(dir.path(), config).expect("opens");
        let id = DeploymentId::new();
        logs.append(batch(id, 1, &["a"])).await.expect("appends");
        logs.durable_soon(id, 1).await.expect("the first does not wait");
        logs.append(batch(id, 2, &["b"])).await.expect("appends");
        let (soon, grown) =
            tokio::join!(biased; logs.durable_soon(id, 2), logs.append(batch(id, 3, &["c".repeat(1000)])));
        assert!(soon.expect("syncs") >= 2);
        grown.expect("appends");

        let config = LogsConfig { sync_window_ms: 20, sync_bytes: u64::MAX, ..LogsConfig::default() };
        let logs = Logs::open(dir.path(), config).expect("opens");
        let id = DeploymentId::new();
        logs.append(batch(id, 1, &["a"])).await.expect("appends");
        logs.durable_soon(id, 1).await.expect("the first does not wait");
        logs.append(batch(id, 2, &["b"])).await.expect("appends");
        assert_eq!(logs.durable_soon(id, 2).await.expect("syncs"), 2);
    });
}

#[test]
fn a_waiter_that_is_given_up_or_forgotten_does_not_keep_others_waiting() {
    run(async {
        let (_dir, logs, id) = fresh();
        let mut forgotten = Vec::new();
        for n in 1..=30 {
            logs.append(batch(id, n, &["a"])).await.expect("appends");
            let other = logs.clone();
            let mut waiter = Box::pin(async move { other.durable(id, n).await });
            // It asks, and is never polled again.
            let asked = std::future::poll_fn(|cx| std::task::Poll::Ready(waiter.as_mut().poll(cx))).await;
            assert!(asked.is_pending());
            if n % 2 == 0 {
                forgotten.push(waiter);
            }
            assert_eq!(logs.durable(id, n).await.expect("syncs"), n);
        }
        for waiter in forgotten {
            assert_eq!(waiter.await.expect("served long ago"), 30);
        }
    });
}

#[test]
fn a_sync_that_died_with_its_runtime_is_made_by_the_next_who_asks() {
    let (_dir, logs, id) = fresh();
    run(async {
        logs.append(batch(id, 1, &["a"])).await.expect("appends");
        let mut waiter = Box::pin(logs.durable(id, 1));
        let asked = std::future::poll_fn(|cx| std::task::Poll::Ready(waiter.as_mut().poll(cx))).await;
        assert!(asked.is_pending());
    });
    assert_eq!(run(logs.durable(id, 1)).expect("syncs"), 1);
}

#[test]
fn a_full_disk_leaves_whole_lines_only() {
    run(async {
        // Writing to /dev/full fails as on a full disk.
        let (dir, logs, id) = fresh();
        std::os::unix::fs::symlink("/dev/full", log_path(dir.path(), id)).expect("link");
        let error = logs.append(batch(id, 1, &["a"])).await.expect_err("full");
        assert_eq!(error.code(), "disk_full");
        assert_eq!((logs.lines(id), all(&logs, id).await), (0, vec![]));
        assert_eq!(
            fs::metadata(idx_path(dir.path(), id)).expect("index").len(),
            0,
            "no record without a line"
        );
    });
}

/// On a tmpfs of 64 KiB that fills up, and is given room again. It is mounted where nobody else sees it, and goes away
/// with the process: the test starts itself in a mount namespace of its own.
#[test]
#[ignore = "needs unshare and the right to mount a tmpfs; scripts/test runs it"]
fn a_disk_that_was_full_takes_lines_again() {
    const MOUNTED: &str = "SDP_TEST_TMPFS";
    let Some(dir) = std::env::var_os(MOUNTED) else {
        let dir = tempfile::tempdir().expect("tempdir");
        let inside = std::process::Command::new("unshare")
            .args(["--map-root-user", "--mount", "sh", "-ec"])
            .arg("mount -t tmpfs -o size=64k tmpfs \"$0\"; exec \"$@\"")
            .arg(dir.path())
            .arg(std::env::current_exe().expect("this program"))
            .args(["--exact", "--include-ignored", "logs::tests::a_disk_that_was_full_takes_lines_again"])
            .env(MOUNTED, dir.path())
            .output()
            .expect("unshare starts");
        let said = String::from_utf8_lossy(&inside.stdout);
        assert!(inside.status.success(), "{said}{}", String::from_utf8_lossy(&inside.stderr));
        assert!(said.contains("1 passed"), "{said}");
        return;
    };
    let dir = Path::new(&dir);
    run(async {
        let logs = open(dir);
        let id = DeploymentId::new();
        let ballast = dir.join("ballast");
        fs::write(&ballast, vec![0; 16 * 1024]).expect("fits");
        let mut held = Vec::new();
        let error = loop {
            let text = format!("line {} {}", held.len() + 1, "x".repeat(300)).into_bytes();
            let texts: Vec<Vec<u8>> = vec![text; 7];
            match logs.append(batch(id, held.len() as u64 + 1, &texts)).await {
                Ok(_) => held.extend(texts),
                Err(error) => break error,
            }
        };
        assert_eq!(error.code(), "disk_full");
        assert!(held.len() > 50, "{}", held.len());
        assert!(logs.free_bytes().expect("statvfs") < 8 * 1024);
        assert_holds(&logs, dir, id, &held).await;
        assert_eq!(logs.durable(id, u64::MAX).await.expect("what is held is safe"), held.len() as u64);
        fs::remove_file(ballast).expect("room");
        logs.append(batch(id, held.len() as u64 + 1, &["room again"])).await.expect("appends");
        held.push(b"room again".to_vec());
        assert_holds(&logs, dir, id, &held).await;
        drop(logs);
        assert_holds(&open(dir), dir, id, &held).await;
    });
}

#[derive(Clone, Debug)]
enum Act {
    Append { back: u64, texts: Vec<Vec<u8>> },
    Reopen,
    Close,
    Truncate { drop: u64 },
    Durable,
}

fn act() -> impl Strategy<Value = Act> {
    let text = prop::collection::vec(any::<u8>().prop_map(|b| if b == b'\n' { b' ' } else { b }), 0..40);
    prop_oneof![
        8 => (0..6u64, prop::collection::vec(text, 0..8)).prop_map(|(back, texts)| Act::Append { back, texts }),
        1 => Just(Act::Reopen),
        1 => Just(Act::Close),
        1 => (0..5u64).prop_map(|drop| Act::Truncate { drop }),
        1 => Just(Act::Durable),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_done_the_log_is_the_list_of_its_lines(acts in prop::collection::vec(act(), 1..30)) {
        let dir = tempfile::tempdir().expect("tempdir");
        let id = DeploymentId::new();
        let mut logs = open(dir.path());
        let mut model: Vec<Vec<u8>> = Vec::new();
        run(async {
            for act in acts {
                let held = model.len() as u64;
                match act {
                    // `back` 0 leaves a gap, 1 fits, more overlaps with other text that must not replace what is held.
                    Act::Append { back, texts } => {
                        let first = (held + 2).saturating_sub(back).max(1);
                        let last = first + texts.len() as u64 - 1;
                        let expected = if first > held + 1 {
                            Appended::Gap { last: held }
                        } else if last <= held {
                            Appended::Duplicate { last: held }
                        } else {
                            let known = usize::try_from(held + 1 - first).expect("small");
                            model.extend(texts[known..].iter().cloned());
                            Appended::Added { last }
                        };
                        prop_assert_eq!(logs.append(batch(id, first, &texts)).await.expect("appends"), expected);
                    }
                    Act::Reopen => logs = open(dir.path()),
                    Act::Close => logs.close(id).await.expect("closes"),
                    Act::Truncate { drop } => {
                        logs.truncate_to(id, held.saturating_sub(drop)).await.expect("cuts");
                        model.truncate(model.len().saturating_sub(usize::try_from(drop).expect("small")));
                    }
                    Act::Durable => {
                        prop_assert_eq!(logs.durable(id, u64::MAX).await.expect("syncs"), held);
                    }
                }
                prop_assert_eq!(logs.lines(id), model.len() as u64);
            }
            assert_holds(&logs, dir.path(), id, &model).await;
            for from in 1..=model.len() {
                for limit in [1, 3, 50] {
                    let window = logs.window(id, from as u64, limit).await.expect("reads");
                    let naive: Vec<Vec<u8>> = model.iter().skip(from - 1).take(limit).cloned().collect();
                    prop_assert_eq!(texts(&window), naive);
                }
                let tail = logs.tail(id, from).await.expect("reads");
                prop_assert_eq!(texts(&tail), &model[model.len() - from..]);
            }
            Ok(())
        })?;
    }
}
