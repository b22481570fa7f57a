use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::id::DeploymentId;
use crate::logs::{Logs, LogsConfig};
use crate::wire::LinesBatch;
use crate::wire::lines::LineMeta;

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime").block_on(future)
}

fn fresh() -> (TempDir, Logs, DeploymentId) {
    let dir = tempfile::tempdir().expect("tempdir");
    let logs = Logs::open(dir.path(), LogsConfig::default()).expect("opens");
    (dir, logs, DeploymentId::new())
}

/// Odd lines are of the build and on standard error, even ones of the check and on standard output.
async fn say(logs: &Logs, id: DeploymentId, texts: &[impl AsRef<[u8]>]) {
    let first = logs.held(id).await.expect("opens") + 1;
    let meta = |(n, text): (u64, &[u8])| LineMeta {
        length: u32::try_from(text.len()).expect("short"),
        at_ms: 0,
        step: if n % 2 == 1 { Step::Build } else { Step::Check },
        stream: if n % 2 == 1 { Stream::Stderr } else { Stream::Stdout },
    };
    let lines = (first..).zip(texts.iter().map(AsRef::as_ref)).map(meta).collect();
    let bytes: Vec<u8> = texts.iter().flat_map(|text| text.as_ref().to_vec()).collect();
    let batch = LinesBatch { deployment: id, attempt: 1, first, lines, bytes: Bytes::from(bytes) };
    logs.append(batch).await.expect("appends");
}

fn text(text: &str) -> LogSearch {
    LogSearch::new(SearchText::parse(text).expect("a text"))
}

fn numbers(found: &Found) -> Vec<u64> {
    found.matches.iter().map(|hit| hit.n).collect()
}

async fn lines_with(logs: &Logs, id: DeploymentId, search: LogSearch) -> Vec<u64> {
    let found = logs.search(id, search).await.expect("searches");
    assert_eq!(found.total, found.matches.len() as u64);
    numbers(&found)
}

#[test]
fn a_line_matches_when_the_text_stands_in_it_as_it_is_shown() {
    run(async {
        let (_dir, logs, id) = fresh();
        let lines: &[&[u8]] = &[
            b"FATAL: connection refused",
            b"\x1b[31mfat\x1b[1mal\x1b[0m: con\x1b[0mnection",
            b"fetching 50%\rfetching fatal\r\x1b[Kdone",
            b"\x1b]0;fatal\x07title",
            "FATÀL \u{130}stanbul STRASSE stra\u{df}e".as_bytes(),
            b"evil\xe2\x80\xaegnp.exe broken \xff fatal\r",
            b"",
            b"fa",
            b"tal",
            b"a.b*c[d]\\e",
        ];
        say(&logs, id, lines).await;
        for (wanted, both_cases, this_case) in [
            ("fatal", &[1, 2, 6][..], &[2, 6][..]),
            ("FATAL", &[1, 2, 6], &[1]),
            ("Fatal: CONNECTION", &[1, 2], &[]),
            ("fat\u{e0}l", &[5], &[]),
            ("\u{130}STANBUL", &[5], &[]),
            ("strasse", &[5], &[]),
            ("fetching", &[], &[]),
            ("done", &[3], &[3]),
            ("title", &[4], &[4]),
            ("u+202e", &[6], &[]),
            ("\u{fffd}", &[6], &[6]),
            ("[31m", &[], &[]),
            (".b*c[D]\\", &[10], &[]),
            (" ", &[1, 2, 5, 6], &[1, 2, 5, 6]),
            ("nowhere", &[], &[]),
        ] {
            let search = text(wanted);
            assert_eq!(lines_with(&logs, id, search.clone()).await, both_cases, "{wanted}");
            let search = LogSearch { match_case: true, ..search };
            assert_eq!(lines_with(&logs, id, search).await, this_case, "{wanted}, this case");
        }
    });
}

#[test]
fn matches_are_listed_from_a_line_both_ways_and_the_count_is_of_all() {
    run(async {
        let (_dir, logs, id) = fresh();
        let lines: Vec<_> = (1..=100).map(|n| if n % 10 == 0 { "ten" } else { "-" }).collect();
        say(&logs, id, &lines).await;
        let ask = async |search: LogSearch| {
            let found = logs.search(id, search).await.expect("searches");
            assert_eq!((found.lines, found.total), (100, 10));
            found.matches.iter().map(|hit| (hit.n, hit.position)).collect::<Vec<_>>()
        };
        let base = LogSearch { limit: 2, ..text("ten") };
        assert_eq!(ask(base.clone()).await, [(10, 1), (20, 2)]);
        for (from, down, up) in [
            (1, &[(10, 1), (20, 2)][..], &[][..]),
            (30, &[(30, 3), (40, 4)], &[(20, 2), (30, 3)]),
            (31, &[(40, 4), (50, 5)], &[(20, 2), (30, 3)]),
            (99, &[(100, 10)], &[(80, 8), (90, 9)]),
            (101, &[], &[(90, 9), (100, 10)]),
        ] {
            let down_search = LogSearch { from: Some(from), ..base.clone() };
            assert_eq!(ask(down_search.clone()).await, down, "down from {from}");
            let up_search = LogSearch { direction: Direction::Up, ..down_search };
            assert_eq!(ask(up_search).await, up, "up from {from}");
        }
        let newest = LogSearch { direction: Direction::Up, ..base.clone() };
        assert_eq!(ask(newest).await, [(90, 9), (100, 10)]);
        assert!(ask(LogSearch { limit: 0, ..base.clone() }).await.is_empty());

        let rest = logs.search(id, LogSearch { first: 61, ..base }).await.expect("searches");
        assert_eq!((rest.lines, rest.total, numbers(&rest)), (100, 4, vec![70, 80]));
    });
}

#[test]
fn only_lines_of_the_step_and_stream_asked_for_count() {
    run(async {
        let (_dir, logs, id) = fresh();
        // Plain lines, and others among them that need a closer look.
        say(&logs, id, &["word", "word", "\x1b[1mword", "w\x1b[0mord", "word"]).await;
        let all = text("word");
        assert_eq!(lines_with(&logs, id, all.clone()).await, [1, 2, 3, 4, 5]);
        let build = LogSearch { step: Some(Step::Build), ..all.clone() };
        assert_eq!(lines_with(&logs, id, build).await, [1, 3, 5]);
        let stdout = LogSearch { stream: Some(Stream::Stdout), ..all.clone() };
        assert_eq!(lines_with(&logs, id, stdout).await, [2, 4]);
        let neither = LogSearch { step: Some(Step::Build), stream: Some(Stream::Stdout), ..all };
        assert!(lines_with(&logs, id, neither).await.is_empty());
    });
}

#[test]
fn no_match_is_lost_where_one_block_ends_and_the_next_begins() {
    run(async {
        let (_dir, logs, id) = fresh();
        // Longer than several blocks of bytes and of records; the text at either end of its line, or the whole of it.
        let mut lines = Vec::new();
        for n in 0..20_000usize {
            lines.push(match n % 4 {
                0 => format!("needle{}", "x".repeat(n * 7 % 300)),
                1 => format!("{}needle", "x".repeat(n * 11 % 300)),
                2 => "needle".to_owned(),
                _ => "need".to_owned() + if n % 8 == 3 { "" } else { "\u{e9}" },
            });
        }
        for part in lines.chunks(5000) {
            say(&logs, id, part).await;
        }
        assert!(logs.totals(id).await.expect("reads").bytes > 4 * BLOCK);
        let found = logs.search(id, text("NEEDLE")).await.expect("searches");
        assert_eq!((found.lines, found.total), (20_000, 15_000));
        assert_eq!(found.matches.len(), 100);
        let whole = LogSearch { limit: usize::MAX, from: Some(19_000), ..text("needle") };
        let expected: Vec<u64> = (19_000..=20_000).filter(|n| n % 4 != 0).collect();
        assert_eq!(numbers(&logs.search(id, whole).await.expect("searches")), expected);
        // A line that is longer than a block.
        let huge = [vec![b'y'; 400_000], b"needle".to_vec()].concat();
        say(&logs, id, &[huge.as_slice(), b"needle"]).await;
        let newest = LogSearch { first: 20_001, ..text("needle") };
        assert_eq!(lines_with(&logs, id, newest).await, [20_001, 20_002]);
    });
}

#[test]
fn a_log_that_grows_is_searched_as_far_as_it_was() {
    run(async {
        let (_dir, logs, id) = fresh();
        assert_eq!(logs.search(id, text("a")).await.expect("searches"), Found::default());
        let mut counted = Found::default();
        for round in 1..=20u64 {
            let ((), found) = tokio::join!(say(&logs, id, &["a", "b", "a"]), logs.search(id, text("a")));
            let found = found.expect("searches");
            assert!(found.lines == 3 * (round - 1) || found.lines == 3 * round, "{found:?}");
            assert_eq!(found.total, found.lines / 3 * 2, "the count is of those lines and no others");
            // Going on from the last line that was counted comes to the same.
            let rest = LogSearch { first: counted.lines + 1, ..text("a") };
            let rest = logs.search(id, rest).await.expect("searches");
            counted = Found { lines: rest.lines, total: counted.total + rest.total, matches: vec![] };
            assert_eq!((counted.lines, counted.total), (3 * round, 2 * round));
        }
    });
}

#[test]
fn a_search_that_nobody_waits_for_gives_its_turn_back() {
    run(async {
        let dir = tempfile::tempdir().expect("tempdir");
        let config = LogsConfig { searches: 1, search_matches: 3, ..LogsConfig::default() };
        let logs = Logs::open(dir.path(), config).expect("opens");
        let id = DeploymentId::new();
        say(&logs, id, &["a"; 5]).await;
        for _ in 0..50 {
            let mut search = Box::pin(logs.search(id, text("a")));
            // It asks, and is never polled again.
            let asked = std::future::poll_fn(|cx| std::task::Poll::Ready(search.as_mut().poll(cx))).await;
            drop(asked);
        }
        let found = logs.search(id, text("a")).await.expect("has its turn");
        assert_eq!((found.total, found.matches.len()), (5, 3), "no more than the limit are listed");
    });
}

#[test]
fn a_search_stops_when_it_is_told_to() {
    run(async {
        let (_dir, logs, id) = fresh();
        say(&logs, id, &["a"]).await;
        let log = logs.inner.registry.log(id);
        let stopped = log.search(&text("a"), &AtomicBool::new(true));
        assert!(matches!(stopped, Err(LogsError::ShuttingDown)));
        let stop = Arc::new(AtomicBool::new(false));
        drop(StopOnDrop(Arc::clone(&stop)));
        assert!(stop.load(Ordering::Relaxed));
    });
}

#[test]
fn a_text_that_no_line_can_have_is_refused() {
    for (text, is_one) in [
        ("", false),
        ("a\nb", false),
        (" ", true),
        (&"x".repeat(256), true),
        (&"x".repeat(257), false),
        (&"é".repeat(129), false),
    ] {
        assert_eq!(SearchText::parse(text).is_ok(), is_one, "{text}");
    }
    assert_eq!(InvalidSearchText.to_string(), "a search text has 1 to 256 bytes and no line break");
}

proptest! {
    #[test]
    fn a_search_finds_what_looking_at_every_line_finds(
        lines in prop::collection::vec("[abAB\u{e9}\u{c9}\r\u{8}\u{1b}\\[;1mK \u{202e}]{0,12}", 1..40),
        wanted in "[abAB\u{e9} ]{1,3}",
        match_case: bool,
    ) {
        run(async {
            let (_dir, logs, id) = fresh();
            say(&logs, id, &lines).await;
            let search = LogSearch { match_case, ..text(&wanted) };
            let is_in = |line: &String| {
                let shown = shown(line.as_bytes());
                if match_case { shown.contains(&wanted) } else { folded(&shown).contains(&folded(&wanted)) }
            };
            let expected: Vec<u64> = (1..).zip(&lines).filter(|(_, line)| is_in(line)).map(|(n, _)| n).collect();
            prop_assert_eq!(lines_with(&logs, id, search).await, expected);
            Ok(())
        })?;
    }
}
