//! The end of a log, torn in every way: each byte of its last 64 KiB is once the last.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use super::*;
use crate::logs::record::{Record, WIDTH};
use crate::logs::recover::recover;

const TAIL: usize = 64 * 1024;

/// Numbers that look like chance and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| u8::try_from(self.below(256)).expect("a byte")).collect()
    }
}

/// A log of a little more than the tail, and its index, as they were before anything happened.
struct Whole {
    log: Vec<u8>,
    idx: Vec<u8>,
    /// Where each line ends.
    ends: Vec<u64>,
}

impl Whole {
    fn new() -> Self {
        let mut dice = Dice(7);
        let (mut log, mut idx, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        while log.len() < TAIL + 2000 {
            let length = usize::try_from(dice.below(800)).expect("small");
            let text: Vec<u8> =
                dice.bytes(length).iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte }).collect();
            log.extend_from_slice(&text);
            log.push(b'\n');
            let n = ends.len() as u64 + 1;
            let LineMeta { at_ms, step, stream, .. } = meta(n, &text);
            Record { end: log.len() as u64, at_ms, step, stream }.write_to(&mut idx);
            ends.push(log.len() as u64);
        }
        Self { log, idx, ends }
    }

    /// Whole lines in so many bytes.
    fn lines_in(&self, length: usize) -> usize {
        self.ends.partition_point(|end| *end <= length as u64)
    }
}

/// The two files, changed as little as possible from one cut to the next: there are 65,537 of them.
struct Files {
    log: File,
    idx: File,
    _dir: TempDir,
}

impl Files {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let open = |name: &str| {
            let mut options = OpenOptions::new();
            options
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(dir.path().join(name))
                .expect("opens")
        };
        Self { log: open("x.log"), idx: open("x.idx"), _dir: dir }
    }

    fn put(file: &File, bytes: &[u8]) {
        file.set_len(bytes.len() as u64).expect("cut");
        file.write_all_at(bytes, 0).expect("written");
    }

    /// Recovers, and says what the index holds then.
    fn recovered(&self, whole: &Whole, length: usize) -> Vec<Record> {
        let lines = whole.lines_in(length);
        let bytes = lines.checked_sub(1).map_or(0, |last| whole.ends[last]);
        let held = recover(&self.log, &self.idx).expect("recovers");
        assert_eq!((held.lines, held.bytes), (lines as u64, bytes), "cut to {length}");
        assert_eq!(self.log.metadata().expect("log").len(), bytes);
        let mut records = vec![0; lines * 24];
        assert_eq!(self.idx.metadata().expect("index").len(), records.len() as u64);
        self.idx.read_exact_at(&mut records, 0).expect("reads");
        let records: Vec<Record> = Record::read_all(&records).collect();
        assert!(records.iter().map(|record| record.end).eq(whole.ends[..lines].iter().copied()));
        records
    }
}

#[test]
fn a_log_cut_at_each_byte_of_its_last_64_kib_keeps_every_whole_line() {
    let (whole, files) = (Whole::new(), Files::new());
    let known: Vec<Record> = Record::read_all(&whole.idx).collect();
    Files::put(&files.log, &whole.log);
    Files::put(&files.idx, &whole.idx);
    let (mut log_end, mut idx_end) = (whole.log.len(), whole.idx.len());
    for cut in 0..=TAIL {
        let length = whole.log.len() - cut;
        // What the recovery before has taken away comes back, but for the last byte.
        files.log.set_len(log_end.min(length) as u64).expect("cut");
        if log_end < length {
            files.log.write_all_at(&whole.log[log_end..length], log_end as u64).expect("written");
        }
        files.idx.write_all_at(&whole.idx[idx_end..], idx_end as u64).expect("written");
        let records = files.recovered(&whole, length);
        assert!(records == known[..records.len()], "time, step and stream of each line are kept");
        (log_end, idx_end) = (records.last().map_or(0, |last| last.end as usize), records.len() * 24);
    }
}

#[test]
fn with_an_index_that_is_torn_or_wrong_as_well_every_whole_line_is_kept() {
    let (whole, files) = (Whole::new(), Files::new());
    let known: Vec<Record> = Record::read_all(&whole.idx).collect();
    let mut dice = Dice(11);
    let garbage = dice.bytes(whole.idx.len());
    for cut in 0..=TAIL {
        let length = whole.log.len() - cut;
        Files::put(&files.log, &whole.log[..length]);
        let end = usize::try_from(dice.below(whole.idx.len() as u64 + 1)).expect("small");
        let mut kept = 0;
        match cut % 8 {
            // Cut anywhere, seldom at the end of a record.
            0..=3 => {
                Files::put(&files.idx, &whole.idx[..end]);
                kept = end / 24;
            }
            4 => Files::put(&files.idx, &garbage[..end]),
            5 => Files::put(&files.idx, &[]),
            6 => Files::put(&files.idx, &vec![0; end]),
            // A stretch of it was never written.
            _ => {
                let mut idx = whole.idx.clone();
                let hole = end.min(idx.len() - 24);
                idx[hole..hole + 24].fill(0);
                Files::put(&files.idx, &idx);
                kept = hole / 24;
            }
        }
        let records = files.recovered(&whole, length);
        let kept = kept.min(records.len());
        assert!(records[..kept] == known[..kept], "what was sound is kept");
    }
}

/// The same through the logs themselves, for some of the cuts: they read, go on, and read again.
#[test]
fn torn_logs_are_read_and_go_on() {
    let whole = Whole::new();
    let dir = tempfile::tempdir().expect("tempdir");
    let mut dice = Dice(13);
    run(async {
        for round in 0..120 {
            let log =
                &whole.log[..whole.log.len() - usize::try_from(dice.below(TAIL as u64)).expect("small")];
            let end = usize::try_from(dice.below(whole.idx.len() as u64 + 1)).expect("small");
            match round % 4 {
                0 => assert_metas_kept(&recovered(dir.path(), log, &whole.idx).await, usize::MAX),
                1 => drop(recovered(dir.path(), log, &whole.idx[..end]).await),
                2 => drop(recovered(dir.path(), log, &dice.bytes(end)).await),
                _ => {
                    // Without any index.
                    let id = DeploymentId::new();
                    fs::write(log_path(dir.path(), id), log).expect("log");
                    let logs = open(dir.path());
                    assert_holds(&logs, dir.path(), id, &split(log)).await;
                }
            }
        }
    });
}

#[test]
fn an_index_without_its_log_counts_for_nothing() {
    let whole = Whole::new();
    run(async {
        for idx in [Some(&whole.idx[..]), Some(&whole.idx[..1000]), Some(&[]), None] {
            let dir = tempfile::tempdir().expect("tempdir");
            let id = DeploymentId::new();
            if let Some(idx) = idx {
                fs::write(idx_path(dir.path(), id), idx).expect("index");
            }
            let logs = open(dir.path());
            assert_eq!((logs.lines(id), logs.held(id).await.expect("opens")), (0, 0));
            assert_eq!(logs.append(batch(id, 5, &["x"])).await.expect("answers"), Appended::Gap { last: 0 });
            logs.append(batch(id, 1, &["again", "from", "the start"])).await.expect("appends");
            let expected = ["again", "from", "the start"].map(|text| text.as_bytes().to_vec());
            assert_holds(&logs, dir.path(), id, &expected).await;
            assert_eq!(logs.durable(id, 3).await.expect("syncs"), 3);
            drop(logs);
            assert_eq!(fs::metadata(idx_path(dir.path(), id)).expect("index").len(), 3 * WIDTH);
            assert_holds(&open(dir.path()), dir.path(), id, &expected).await;
        }
    });
}

/// Two files as a server left them: about 6 KiB of lines of all lengths.
fn two_files() -> (Vec<u8>, Vec<u8>) {
    let (dir, logs, id) = fresh();
    let lines: Vec<Vec<u8>> = (0..200u8).map(|n| vec![b'a' + n % 26; usize::from(n) * 7 % 60]).collect();
    run(async {
        logs.append(batch(id, 1, &lines)).await.expect("appends");
        assert_holds(&logs, dir.path(), id, &lines).await;
    });
    (fs::read(log_path(dir.path(), id)).expect("log"), fs::read(idx_path(dir.path(), id)).expect("index"))
}

async fn recovered(dir: &Path, log: &[u8], idx: &[u8]) -> Vec<Line> {
    let id = DeploymentId::new();
    fs::write(log_path(dir, id), log).expect("log");
    fs::write(idx_path(dir, id), idx).expect("index");
    let logs = open(dir);
    let lines = all(&logs, id).await;
    let mut expected = split(log);
    assert!(texts(&lines) == expected, "{} lines of {}", lines.len(), expected.len());
    logs.append(batch(id, lines.len() as u64 + 1, &["next"])).await.expect("goes on");
    expected.push(b"next".to_vec());
    assert_holds(&logs, dir, id, &expected).await;
    logs.remove(id).await.expect("removes");
    lines
}

fn assert_metas_kept(lines: &[Line], kept: usize) {
    for line in lines.iter().take(kept) {
        let expected = meta(line.n, &line.bytes);
        assert_eq!((line.at_ms, line.step, line.stream), (expected.at_ms, expected.step, expected.stream));
    }
    for line in &lines[kept.min(lines.len())..] {
        let before = if kept == 0 { Step::Resolve } else { meta(kept as u64, b"").step };
        assert_eq!((line.step, line.stream), (before, Stream::Stdout), "line {}", line.n);
        assert!(line.at_ms > 1_700_000_000_000, "the file's time");
    }
}

#[test]
fn a_log_cut_at_any_byte_keeps_every_whole_line() {
    let (log, idx) = two_files();
    let dir = tempfile::tempdir().expect("tempdir");
    run(async {
        for cut in 0..=4096 {
            let log = &log[..log.len() - cut];
            let lines = recovered(dir.path(), log, &idx).await;
            assert_metas_kept(&lines, lines.len());
        }
    });
}

#[test]
fn an_index_cut_at_any_byte_loses_no_line() {
    let (log, idx) = two_files();
    let dir = tempfile::tempdir().expect("tempdir");
    run(async {
        for end in 0..=idx.len() {
            let lines = recovered(dir.path(), &log, &idx[..end]).await;
            assert_metas_kept(&lines, end / 24);
        }
        let torn = [log.as_slice(), b"torn"].concat();
        recovered(dir.path(), &torn, &idx).await;
        let zeros = [idx.as_slice(), &[0; 24 * 7 + 5]].concat();
        recovered(dir.path(), &log, &zeros).await;
        recovered(dir.path(), &log, &vec![0; idx.len()]).await;
        recovered(dir.path(), &log, &vec![0xff; idx.len()]).await;
    });
}

#[test]
fn a_long_log_is_mended_as_well() {
    // Longer than the stretch that is compared, in lines and in bytes.
    let (dir, logs, id) = fresh();
    let lines: Vec<Vec<u8>> = (0..9000u32).map(|n| format!("{n:>1000}").into_bytes()).collect();
    run(async { logs.append(batch(id, 1, &lines)).await.expect("appends") });
    let log = fs::read(log_path(dir.path(), id)).expect("log");
    let idx = fs::read(idx_path(dir.path(), id)).expect("index");
    let mended = |log: &[u8], idx: &[u8]| {
        let (log_file, idx_file) = (log_path(dir.path(), id), idx_path(dir.path(), id));
        fs::write(&log_file, log).expect("log");
        fs::write(&idx_file, idx).expect("index");
        run(async {
            let logs = open(dir.path());
            assert_holds(&logs, dir.path(), id, &split(log)).await;
            all(&logs, id).await
        })
    };
    for cut in [0, 1, 700, 1001, 2_000_000, 8_000_000, log.len()] {
        let lines = mended(&log[..log.len() - cut], &idx);
        assert_metas_kept(&lines, lines.len());
    }
    for records in [0, 1, 10, 4095, 4096, 4097, 8999] {
        assert_metas_kept(&mended(&log, &idx[..24 * records]), records);
    }
    // A record in the stretch that is compared is wrong: those before it are kept.
    let mut damaged = idx.clone();
    damaged[24 * 8_000] ^= 1;
    assert_metas_kept(&mended(&log, &damaged), 8_000);
}
