//! How fast the job logs are, beside what the file system does in the same run: `cargo bench -p sdp-core --bench logs`.
//!
//! 100-byte lines in batches of 100. Figures of one run are to be compared with each other, not with another machine's.
#![expect(clippy::print_stdout, reason = "a program that prints figures")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sdp_core::deployment::Step;
use sdp_core::id::DeploymentId;
use sdp_core::logs::{Appended, LogSearch, Logs, LogsConfig, LogsError, SearchText};
use sdp_core::wire::LinesBatch;
use sdp_core::wire::lines::{LineMeta, Stream};

const LINES: u64 = 1_000_000;
const BATCH: u64 = 100;
const LENGTH: usize = 99;
const ROUNDS: usize = 5;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    // Beside the build's output: a real disk, where /tmp may be memory.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;

    let mut raw = Vec::new();
    let mut alone = Vec::new();
    let mut acked = Vec::new();
    let mut eight = Vec::new();
    // In turns, so that a noisy machine is noisy for all of them.
    for round in 0..ROUNDS {
        raw.push(raw_append(&dir.path().join("raw"))?);
        let open = |what: &str| Logs::open(dir.path().join(format!("{what}{round}")), LogsConfig::default());
        alone.push(runtime.block_on(append(open("alone")?, LINES, false))?);
        acked.push(runtime.block_on(append(open("acked")?, LINES, true))?);
        eight.push(runtime.block_on(append_eight(&open("eight")?))?);
        for what in ["alone", "acked", "eight"] {
            if round > 0 {
                fs::remove_dir_all(dir.path().join(format!("{what}{round}")))?;
            }
        }
    }
    println!(
        "append of {LINES} lines of 100 bytes in batches of {BATCH}, median of {ROUNDS}, synced at the end"
    );
    let floor = median(&mut raw);
    for (what, mut times) in [
        ("one write a batch", raw),
        ("Logs, one log", alone),
        ("Logs, acked as it goes", acked),
        ("Logs, 8 logs at once", eight),
    ] {
        let time = median(&mut times);
        let rate = LINES as f64 / time.as_secs_f64() / 1e6;
        println!(
            "  {what:<24} {rate:>6.2} M lines/s   {:>5.2} of the raw write",
            floor.as_secs_f64() / time.as_secs_f64()
        );
    }

    println!("one sync after a batch, median / max of 200");
    print_times("fdatasync of a file", &mut raw_syncs(&dir.path().join("raw"))?);
    print_times(
        "Logs::durable",
        &mut runtime.block_on(syncs(Logs::open(dir.path().join("sync"), LogsConfig::default())?))?,
    );

    println!("a log of {LINES} lines, median / max");
    let dir = dir.path().join("alone0");
    let id: DeploymentId = fs::read_dir(&dir)?
        .filter_map(|entry| entry.ok()?.path().file_stem()?.to_str()?.parse().ok())
        .next()
        .ok_or("no log")?;
    runtime.block_on(read(&dir, id))?;

    println!("search of {LINES} lines of 100 bytes, with the exact count, median / max of 10");
    runtime.block_on(search(&Logs::open(dir, LogsConfig::default())?))
}

fn batch(deployment: DeploymentId, first: u64, bytes: &Bytes) -> LinesBatch {
    let meta = LineMeta { length: LENGTH as u32, at_ms: 1, step: Step::Build, stream: Stream::Stdout };
    LinesBatch { deployment, attempt: 1, first, lines: vec![meta; BATCH as usize], bytes: bytes.clone() }
}

fn text() -> Bytes {
    Bytes::from(vec![b'x'; LENGTH * BATCH as usize])
}

fn raw_append(path: &Path) -> io::Result<Duration> {
    let mut file = File::create(path)?;
    let block = [vec![b'x'; LENGTH], b"\n".to_vec()].concat().repeat(BATCH as usize);
    let start = Instant::now();
    for _ in 0..LINES / BATCH {
        file.write_all(&block)?;
    }
    file.sync_data()?;
    Ok(start.elapsed())
}

async fn append(logs: Logs, lines: u64, acked: bool) -> Result<Duration, LogsError> {
    let (id, text) = (DeploymentId::new(), text());
    let start = Instant::now();
    let writer = async {
        for first in (1..=lines).step_by(BATCH as usize) {
            logs.append(batch(id, first, &text)).await?;
        }
        logs.durable(id, lines).await
    };
    let acks = async {
        let mut bell = logs.watch(id);
        let mut durable = 0;
        while acked && durable < lines {
            let held = *bell.borrow_and_update();
            if held > durable {
                durable = logs.durable_soon(id, held).await?;
            } else if bell.changed().await.is_err() {
                break;
            }
        }
        Ok::<_, LogsError>(())
    };
    tokio::try_join!(writer, acks)?;
    Ok(start.elapsed())
}

async fn append_eight(logs: &Logs) -> Result<Duration, LogsError> {
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        tasks.spawn(append(logs.clone(), LINES / 8, true));
    }
    for done in tasks.join_all().await {
        done?;
    }
    Ok(start.elapsed())
}

fn raw_syncs(path: &Path) -> io::Result<Vec<Duration>> {
    let mut file = OpenOptions::new().append(true).open(path)?;
    let block = vec![b'x'; 10_000];
    (0..200)
        .map(|_| {
            file.write_all(&block)?;
            let start = Instant::now();
            file.sync_data()?;
            Ok(start.elapsed())
        })
        .collect()
}

async fn syncs(logs: Logs) -> Result<Vec<Duration>, LogsError> {
    let (id, text) = (DeploymentId::new(), text());
    let mut times = Vec::new();
    for n in 0..200 {
        let last = logs.append(batch(id, n * BATCH + 1, &text)).await.map(Appended::last)?;
        let start = Instant::now();
        logs.durable(id, last).await?;
        times.push(start.elapsed());
    }
    Ok(times)
}

async fn read(dir: &Path, id: DeploymentId) -> Outcome<()> {
    let mut times: [Vec<Duration>; 5] = Default::default();
    for n in 0..200 {
        let from = (n * 7919 * 127) % (LINES - 500) + 1;
        let start = Instant::now();
        let logs = Logs::open(dir, LogsConfig::default())?;
        let lines = logs.window(id, from, 500).await?;
        times[0].push(start.elapsed());
        assert_eq!(lines.len(), 500);
        let start = Instant::now();
        logs.window(id, LINES - from, 500).await?;
        times[1].push(start.elapsed());
        let start = Instant::now();
        logs.tail(id, 500).await?;
        times[2].push(start.elapsed());
        if n < 10 {
            let start = Instant::now();
            logs.totals(id).await?;
            times[3].push(start.elapsed());
        }
    }
    let idx = dir.join(format!("{id}.idx"));
    for _ in 0..5 {
        OpenOptions::new().write(true).open(&idx)?.set_len(0)?;
        let start = Instant::now();
        assert_eq!(Logs::open(dir, LogsConfig::default())?.held(id).await?, LINES);
        times[4].push(start.elapsed());
    }
    let names = [
        "open, and 500 lines at any place",
        "500 lines at any place",
        "the last 500 lines",
        "totals after a restart",
        "index made again from nothing",
    ];
    for (name, times) in names.into_iter().zip(&mut times) {
        print_times(name, times);
    }
    Ok(())
}

/// Lines as builds print them, plain and with colours.
async fn search(logs: &Logs) -> Outcome<()> {
    let line = |colour: &str, reset: &str| {
        let line = format!(
            "{colour}2026-11-21T21:48:00Z{reset} {colour}INFO{reset} compiling a module of the service "
        );
        format!("{line:.<LENGTH$}")
    };
    for (kind, line) in [("plain", line("", "")), ("coloured", line("\x1b[32m", "\x1b[0m"))] {
        let id = DeploymentId::new();
        let text = Bytes::from(line.repeat(BATCH as usize));
        for first in (1..=LINES).step_by(BATCH as usize) {
            logs.append(batch(id, first, &text)).await?;
        }
        for (what, wanted, match_case, total) in [
            ("nowhere", "error: linking", false, 0),
            ("nowhere, this case", "error: linking", true, 0),
            ("in every line", "INFO compiling", false, LINES),
        ] {
            let search = LogSearch { match_case, ..LogSearch::new(SearchText::parse(wanted)?) };
            let mut times = Vec::new();
            for _ in 0..10 {
                let start = Instant::now();
                assert_eq!(logs.search(id, search.clone()).await?.total, total);
                times.push(start.elapsed());
            }
            print_times(&format!("{kind}, {what}"), &mut times);
        }
    }
    Ok(())
}

fn print_times(what: &str, times: &mut [Duration]) {
    let middle = median(times);
    println!("  {what:<34} {middle:>10.3?} / {:.3?}", times.last().copied().unwrap_or_default());
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}
