//! What the agent's next life finds, wherever the former one was cut off.

use std::path::PathBuf;

use super::*;

/// A new life of the agent, with what is on disk.
fn reopen(folder: &tempfile::TempDir, limits: SpoolLimits) -> (Arc<Spool>, Vec<JobLog>) {
    let spool = spool(folder, limits);
    let logs = spool.logs();
    (spool, logs)
}

fn job_folder(folder: &tempfile::TempDir, key: JobKey) -> PathBuf {
    folder.path().join("spool").join(format!("{}-{}", key.0, key.1))
}

async fn delivered(spool: &Arc<Spool>, key: JobKey) -> Received {
    let (outflow, mut received) = (Outflow::new(spool.clone()), Received::default());
    outflow.send_after(key, 0, 0);
    send_all(&outflow, &mut received, key, true).await;
    received
}

#[tokio::test]
async fn a_job_that_had_ended_is_delivered_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let key = key();
    let log = create(&spool(&folder, SpoolLimits::default()), key);
    log.progress(Progress::StepStarted { step: Step::Build });
    log.line(Step::Build, Stream::Stderr, b"caf\xe9 \x00");
    log.finish(|last| {
        assert_eq!(last, 1);
        JobResult::Ready {}
    });
    let done = log.done_frame();
    let (spool, logs) = reopen(&folder, SpoolLimits::default());
    assert!(logs[0].is_done());
    let received = delivered(&spool, key).await;
    received.assert_complete();
    assert_eq!(received.done, Some(done));
    assert_eq!(received.lines, [b"caf\xe9 \x00".to_vec()]);
    spool.remove(key);
    assert_eq!(std::fs::read_dir(folder.path().join("spool")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_job_goes_on_behind_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let key = key();
    let log = create(&spool(&folder, SpoolLimits::default()), key);
    log.line(Step::Build, Stream::Stdout, b"one");
    log.write_down();
    log.line(Step::Build, Stream::Stdout, b"only in memory");
    log.begin_again().unwrap();
    let (spool, logs) = reopen(&folder, SpoolLimits::default());
    let log = &logs[0];
    assert_eq!((log.begun(), log.spec().service.as_str(), log.report().lines), (2, "hello", 1));
    log.line(Step::Build, Stream::Stdout, b"two");
    log.finish(ready);
    let received = delivered(&spool, key).await;
    received.assert_complete();
    assert_eq!(received.lines, [b"one".to_vec(), b"two".to_vec()]);
}

#[tokio::test]
async fn wherever_its_files_are_torn_what_is_whole_is_there_and_the_rest_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let key = key();
    let log = create(&spool(&folder, SpoolLimits::default()), key);
    for number in 0..20 {
        log.line(Step::Build, Stream::Stdout, "x".repeat(number).as_bytes());
        log.progress(Progress::Noted { text: format!("after {}", number + 1) });
    }
    let path = job_folder(&folder, key);
    let (lines, progress) = (path.join("lines"), path.join("progress"));
    let (all_lines, all_progress) = (std::fs::read(&lines).unwrap(), std::fs::read(&progress).unwrap());
    let check = |what: &str, cut: usize| {
        let (_, logs) = reopen(&folder, SpoolLimits::default());
        let held = logs[0].report();
        let whole = std::fs::read(&lines).unwrap();
        assert!(all_lines.starts_with(&whole), "{what} cut at {cut}");
        let mut counted = 0;
        let mut rest = whole.as_slice();
        while let Some((_, _, size)) = record::first(rest) {
            counted += 1;
            rest = &rest[size..];
        }
        assert_eq!((held.lines, rest.len()), (counted, 0), "{what} cut at {cut}");
        assert!(held.progress <= held.lines, "no item without its lines: {what} cut at {cut}");
        let kept = std::fs::read(&progress).unwrap();
        assert!(all_progress.starts_with(&kept), "{what} cut at {cut}");
        assert_eq!(kept.iter().filter(|byte| **byte == b'\n').count() as u64, held.progress);
        (held.lines, held.progress)
    };
    let ends: Vec<usize> = (0..20).map(|number| (0..=number).map(|n| record::HEADER + n).sum()).collect();
    for cut in 0..=all_lines.len() {
        std::fs::write(&lines, &all_lines[..cut]).unwrap();
        std::fs::write(&progress, &all_progress).unwrap();
        let whole = ends.iter().filter(|end| **end <= cut).count() as u64;
        assert_eq!(check("lines", cut), (whole, whole), "cut at {cut}");
    }
    for cut in 0..=all_progress.len() {
        std::fs::write(&lines, &all_lines).unwrap();
        std::fs::write(&progress, &all_progress[..cut]).unwrap();
        let whole = all_progress[..cut].iter().filter(|byte| **byte == b'\n').count() as u64;
        assert_eq!(check("progress", cut), (20, whole), "cut at {cut}");
    }
    // A power cut may leave zeros where records were to be.
    std::fs::write(&lines, [all_lines.as_slice(), &[0; 100]].concat()).unwrap();
    std::fs::write(&progress, &all_progress).unwrap();
    assert_eq!(check("zeros", 100), (20, 20));
}

#[tokio::test]
async fn the_end_of_a_log_that_is_too_long_is_found_again_with_exactly_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let limits = SpoolLimits { per_deployment: 1 << 20, total: 1 << 30 };
    let key = key();
    let mut log = create(&spool(&folder, limits), key);
    let printed: Vec<String> = (1..=100_000).map(|number| format!("line {number}")).collect();
    for (number, line) in printed.iter().enumerate() {
        log.line(Step::Build, Stream::Stdout, line.as_bytes());
        if number % 25_000 == 7 {
            log.write_down();
            log = reopen(&folder, limits).1.remove(0);
        }
    }
    // Cut off while the end is put behind the beginning: as if its last word had not been written.
    log.write_down();
    let progress = job_folder(&folder, key).join("progress");
    let before = std::fs::read(&progress).unwrap();
    let tails = || {
        let names = std::fs::read_dir(job_folder(&folder, key)).unwrap();
        names
            .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with("tail-"))
            .count()
    };
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(job_folder(&folder, key)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    assert!(tails() > 1);
    log.finish(ready);
    assert_eq!(tails(), 0);
    std::fs::write(&progress, before).unwrap();
    for entry in std::fs::read_dir(copy.path()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap();
        if name.to_str().unwrap().starts_with("tail-") {
            std::fs::copy(&path, job_folder(&folder, key).join(name)).unwrap();
        }
    }
    let (spool, logs) = reopen(&folder, limits);
    assert!(!logs[0].is_done());
    logs[0].finish(ready);
    let received = delivered(&spool, key).await;
    received.assert_complete();
    let text = received.text();
    let lines: Vec<&str> = text.lines().collect();
    let at = lines.iter().position(|line| line.starts_with('[')).expect("a marker");
    let missing = usize::try_from(received.dropped()).unwrap();
    assert_eq!(lines.len() - 1 + missing, printed.len(), "what is there and what is missing is all");
    assert_eq!(lines[..at], printed[..at], "the beginning is whole");
    assert_eq!(lines[at + 1..], printed[at + missing..], "so is the end");
    assert_eq!(lines.iter().filter(|line| line.starts_with('[')).count(), 1);
    // Found once more after that, it is the same.
    let (spool, _) = reopen(&folder, limits);
    let again = delivered(&spool, key).await;
    assert_eq!((&again.lines, &again.done), (&received.lines, &received.done));
}

#[tokio::test]
async fn where_the_server_has_more_the_log_goes_on_behind_that() {
    let folder = tempfile::tempdir().unwrap();
    let spool = spool(&folder, SpoolLimits::default());
    let key = key();
    let log = create(&spool, key);
    log.line(Step::Build, Stream::Stdout, b"one");
    log.progress(Progress::StepStarted { step: Step::Build });
    // The server has "one", "two", "three", and three items of progress.
    let noted = || Progress::Noted { text: "lost here".into() };
    let mut received = Received {
        lines: ["one", "two", "three"].map(|line| line.as_bytes().to_vec()).to_vec(),
        progress: vec![(1, Progress::StepStarted { step: Step::Build }), (2, noted()), (3, noted())],
        done: None,
    };
    let totals = Totals { bytes: 14, checksum: crc32fast::hash(b"one\ntwo\nthree\n") };
    log.catch_up(3, 3, Some(totals));
    // Known to the next life as well.
    let (spool, logs) = reopen(&folder, SpoolLimits::default());
    let log = &logs[0];
    assert_eq!((log.report().lines, log.report().progress), (3, 3));
    let outflow = Outflow::new(spool.clone());
    outflow.send_after(key, 3, 3);
    log.line(Step::Build, Stream::Stdout, b"four");
    log.finish(ready);
    send_all(&outflow, &mut received, key, true).await;
    received.assert_complete();
    assert_eq!(received.text(), "one\ntwo\nthree\nfour\n");
    assert_eq!(received.progress.len(), 4);
}

#[tokio::test]
async fn a_job_that_cannot_be_read_is_set_aside_and_the_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let (bad, good) = (key(), key());
    let former = spool(&folder, SpoolLimits::default());
    drop((create(&former, bad), create(&former, good)));
    std::fs::write(job_folder(&folder, bad).join("job"), "{\"spec\": \"of another version\"}").unwrap();
    for _ in 0..2 {
        let (_, logs) = reopen(&folder, SpoolLimits::default());
        assert_eq!(logs.iter().map(JobLog::key).collect::<Vec<_>>(), [good]);
        assert!(
            job_folder(&folder, bad).with_extension("unreadable").join("job").exists(),
            "nothing is thrown away"
        );
    }
}

#[test]
fn a_job_that_cannot_be_made_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, key) = (spool(&folder, SpoolLimits::default()), key());
    // Its order cannot be written there.
    std::fs::create_dir_all(job_folder(&folder, key).join("job/in the way")).unwrap();
    let spec = create(&spool, self::key()).spec();
    assert!(spool.create(key, &spec, false).is_err());
    assert!(!job_folder(&folder, key).exists());
}

#[test]
fn what_is_no_job_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let key = key();
    drop(create(&spool(&folder, SpoolLimits::default()), key));
    // Cut off before its order was written: nobody was told that it was taken.
    std::fs::remove_file(job_folder(&folder, key).join("job")).unwrap();
    let (_, logs) = reopen(&folder, SpoolLimits::default());
    assert!(logs.is_empty());
    assert_eq!(std::fs::read_dir(folder.path().join("spool")).unwrap().count(), 0);
}
