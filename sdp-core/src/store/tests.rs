//! The database: group commits, failures that stay alone, and files that are missing, torn, or from elsewhere.

use super::*;
use std::fs;

async fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(folder.path()).await.expect("opens");
    (folder, store)
}

async fn insert(store: &Store, name: &'static str) -> Result<(), StoreError> {
    store
        .write(move |db| {
            db.execute("INSERT INTO service (name, body) VALUES (?1, '{}')", [name])?;
            Ok(())
        })
        .await
}

async fn event(store: &Store) -> Result<(), StoreError> {
    store
        .write(|db| {
            db.execute("INSERT INTO event (at_ms, body) VALUES (0, '{}')", [])?;
            Ok(())
        })
        .await
}

async fn count(store: &Store) -> i64 {
    let read = store.read(|db| Ok(db.query_row("SELECT count(*) FROM service", [], |row| row.get(0))?));
    read.await.expect("reads")
}

async fn refusal(folder: &Path) -> StoreError {
    Store::open(folder).await.expect_err("refuses")
}

fn db(folder: &Path) -> PathBuf {
    folder.join("sdp.db")
}

#[tokio::test]
async fn a_write_that_fails_takes_no_other_along() {
    let (_folder, store) = store().await;
    let (a, bad, b) = tokio::join!(insert(&store, "a"), insert(&store, "a"), insert(&store, "b"));
    assert!(a.is_ok() && bad.is_err() && b.is_ok());
    assert_eq!(count(&store).await, 2);
}

#[tokio::test]
async fn what_was_written_is_there_after_opening_again() {
    let (folder, store) = store().await;
    insert(&store, "a").await.expect("writes");
    drop(store);
    let store = Store::open(folder.path()).await.expect("opens again");
    assert_eq!(count(&store).await, 1);
}

#[tokio::test]
async fn a_folder_that_is_in_use_is_refused_but_the_command_line_works_beside() {
    let (folder, store) = store().await;
    assert_eq!(refusal(folder.path()).await.code(), "data_dir_in_use");
    let beside = Store::open_beside(folder.path()).await.expect("opens");
    insert(&beside, "a").await.expect("writes");
    assert_eq!(count(&store).await, 1);
    beside.close().await;
    insert(&store, "b").await.expect("the owner goes on");
    store.close().await;
    assert!(matches!(insert(&store, "c").await, Err(StoreError::Closed)));
    assert_eq!(count(&store).await, 2, "reads go on");
    Store::open(folder.path()).await.expect("free again");
}

#[tokio::test]
async fn those_who_come_first_at_the_same_time_make_one_database() {
    let folder = tempfile::tempdir().expect("a folder");
    let (a, b, c) = tokio::join!(
        Store::open_beside(folder.path()),
        Store::open_beside(folder.path()),
        Store::open_beside(folder.path())
    );
    for (store, name) in [(a, "a"), (b, "b"), (c, "c")] {
        insert(&store.expect("opens"), name).await.expect("writes");
    }
    assert_eq!(count(&Store::open(folder.path()).await.expect("opens")).await, 3);
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_with_both_versions_named() {
    let (folder, store) = store().await;
    store.close().await;
    let newer = Connection::open(db(folder.path())).expect("opens");
    newer.pragma_update(None, "user_version", 99).expect("sets");
    drop(newer);
    let error = refusal(folder.path()).await;
    assert_eq!((error.code(), error.needs_a_person()), ("newer_database", true));
    let text = error.to_string();
    assert!(
        text.contains("99") && text.contains(&format!("knows {}", SCHEMA.len())) && text.contains("sdp.db"),
        "{text}"
    );
}

#[tokio::test]
async fn a_database_of_the_first_version_is_taken_and_brought_up_to_date() {
    let folder = tempfile::tempdir().expect("a folder");
    let old = Connection::open(db(folder.path())).expect("opens");
    old.execute_batch(SCHEMA[0]).expect("version 1");
    old.execute("INSERT INTO service (name, body) VALUES ('a', '{}')", []).expect("writes");
    old.pragma_update(None, "user_version", 1).expect("sets");
    drop(old);
    fs::create_dir(folder.path().join("logs")).expect("made");
    fs::write(folder.path().join("logs/x.log"), "line\n").expect("written");
    let store = Store::open(folder.path()).await.expect("opens");
    assert_eq!(count(&store).await, 1);
}

/// Files that are not what they should be: each is refused with its own code, and left as it is.
#[tokio::test]
async fn a_file_that_is_not_the_database_is_refused_and_left_alone() {
    let (folder, store) = store().await;
    for _ in 0..20 {
        event(&store).await.expect("writes");
    }
    store.close().await;
    let path = db(folder.path());
    let whole = fs::read(&path).expect("reads");
    let foreign = tempfile::tempdir().expect("a folder");
    let other_program = foreign.path().join("x.db");
    let program = Connection::open(&other_program).expect("opens");
    program.execute_batch("CREATE TABLE tune (name TEXT)").expect("made");
    drop(program);
    let another = tempfile::tempdir().expect("a folder");
    Store::open(another.path()).await.expect("opens").close().await;
    let mut garbled = whole.clone();
    garbled[4096..].fill(b'x');
    let cases: [(&str, Vec<u8>); 7] = [
        ("database_empty", Vec::new()),
        ("not_our_database", "something that somebody wrote".repeat(200).into_bytes()),
        ("not_our_database", fs::read(&other_program).expect("reads")),
        ("other_database", fs::read(db(another.path())).expect("reads")),
        ("database_damaged", whole[..whole.len() / 2].to_vec()),
        ("database_damaged", whole[..5000].to_vec()),
        ("database_damaged", garbled),
    ];
    for (code, bytes) in cases {
        fs::write(&path, &bytes).expect("writes");
        let error = refusal(folder.path()).await;
        assert_eq!((error.code(), error.needs_a_person()), (code, true), "{error}");
        assert!(!error.hint().is_empty() && error.to_string().contains("sdp.db"), "{error}");
        assert!(fs::read(&path).expect("reads") == bytes, "{code}: left as it is");
        let beside = Store::open_beside(folder.path()).await.expect_err("the command line, too");
        assert_eq!(beside.code(), code);
    }
    fs::remove_file(&path).expect("removed");
    assert_eq!(refusal(folder.path()).await.code(), "database_missing");
    assert_eq!(Store::open_beside(folder.path()).await.expect_err("too").code(), "database_missing");
    assert!(!path.exists(), "no new one is made");
    fs::write(&path, &whole).expect("put back");
    Store::open(folder.path()).await.expect("as it was");
}

#[tokio::test]
async fn after_an_end_that_was_not_orderly_the_whole_file_is_looked_through() {
    let (folder, store) = store().await;
    let many = store.write(|db| {
        let mut insert = db.prepare("INSERT INTO event (at_ms, body) VALUES (0, '{}')")?;
        for _ in 0..5000 {
            insert.execute([])?;
        }
        Ok(())
    });
    many.await.expect("writes");
    store.close().await;
    let path = db(folder.path());
    let mut bytes = fs::read(&path).expect("reads");
    // A page of old events, which no start reads: the newest are on another.
    let is_full = |page: &[u8]| page.windows(2).filter(|pair| pair == b"{}").count() > 100;
    let full: Vec<usize> =
        (0..bytes.len() / 4096).filter(|n| is_full(&bytes[n * 4096..(n + 1) * 4096])).collect();
    assert!(full.len() > 8, "{full:?}");
    let page = full[full.len() / 2] * 4096;
    bytes[page..page + 4096].fill(b'x');
    fs::write(&path, &bytes).expect("writes");
    let mark = folder.path().join("sdp.lock");
    let text = fs::read_to_string(&mark).expect("reads");
    assert!(text.ends_with("ended    yes\n"), "{text}");
    fs::write(&mark, text.replace("yes\n", "no \n")).expect("writes");
    assert_eq!(refusal(folder.path()).await.code(), "database_damaged");
}

#[tokio::test]
async fn where_logs_are_there_was_a_database_and_an_empty_folder_begins_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("logs")).expect("made");
    Store::open(folder.path()).await.expect("an empty folder of logs is none").close().await;
    for name in ["sdp.db", "sdp.lock"] {
        fs::remove_file(folder.path().join(name)).expect("removed");
    }
    fs::write(folder.path().join("logs/x.log"), "line\n").expect("written");
    assert_eq!(refusal(folder.path()).await.code(), "database_missing");
    fs::remove_dir_all(folder.path().join("logs")).expect("removed");
    fs::remove_file(folder.path().join("sdp.lock")).ok();
    Store::open(folder.path()).await.expect("begins anew");
}

/// The files of a database as they are after its process was killed.
async fn killed(events: usize) -> tempfile::TempDir {
    let (folder, store) = store().await;
    for _ in 0..events {
        event(&store).await.expect("writes");
    }
    let copy = tempfile::tempdir().expect("a folder");
    for name in ["sdp.db", "sdp.db-wal", "sdp.lock"] {
        // Read by another process: closing a file in this one would give up SQLite's locks on it.
        let copied = std::process::Command::new("cp").arg(folder.path().join(name)).arg(copy.path()).status();
        assert!(copied.expect("cp runs").success());
    }
    copy
}

#[tokio::test]
async fn after_a_kill_all_is_there() {
    let folder = killed(30).await;
    let store = Store::open(folder.path()).await.expect("opens");
    let count = store.read(open::newest_event).await.expect("reads");
    assert_eq!(count, 30);
}

#[tokio::test]
async fn a_log_that_is_gone_or_cut_anywhere_loses_no_event_in_silence() {
    let killed = killed(30).await;
    let wal = fs::read(killed.path().join("sdp.db-wal")).expect("reads");
    let mut behind = 0;
    for end in (0..wal.len()).step_by(199).chain([wal.len() - 1]) {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["sdp.db", "sdp.lock"] {
            fs::copy(killed.path().join(name), folder.path().join(name)).expect("copied");
        }
        fs::write(folder.path().join("sdp.db-wal"), &wal[..end]).expect("writes");
        if end == 0 {
            fs::remove_file(folder.path().join("sdp.db-wal")).expect("removed");
        }
        match Store::open(folder.path()).await {
            Ok(store) => assert_eq!(store.read(open::newest_event).await.expect("reads"), 30),
            Err(error) => {
                assert!(["database_behind", "database_empty"].contains(&error.code()), "{end}: {error}");
                behind += 1;
                if error.code() == "database_behind" {
                    assert!(error.to_string().contains("30 were committed"), "{error}");
                    assert!(error.hint().contains("accept-loss"), "{}", error.hint());
                }
            }
        }
    }
    assert!(behind > 100, "{behind}");
}

#[tokio::test]
async fn a_loss_that_is_accepted_moves_the_numbers_on() {
    let folder = killed(30).await;
    // As an older copy of the same database would be.
    let whole = Connection::open(db(folder.path())).expect("opens");
    whole.execute("DELETE FROM event WHERE seq > 12", []).expect("deleted");
    drop(whole);
    let error = refusal(folder.path()).await;
    assert_eq!(error.code(), "database_behind");
    assert_eq!(accept_loss(folder.path()).await.expect("accepted"), (12, 30));
    let store = Store::open(folder.path()).await.expect("opens");
    let snapshot = store.read(Snapshot::load).await.expect("reads");
    assert_eq!((snapshot.seq.0, snapshot.number.0), (1_000_030, 1_000));
    assert_eq!(accept_loss(folder.path()).await.expect_err("a server runs").code(), "data_dir_in_use");
    store.close().await;
    assert_eq!(accept_loss(folder.path()).await.expect("nothing to do"), (1_000_030, 1_000_030));
}

#[tokio::test]
async fn what_is_removed_while_it_is_open_takes_nothing_until_it_is_back() {
    for name in ["sdp.db", "sdp.db-wal"] {
        let (folder, store) = store().await;
        event(&store).await.expect("writes");
        let (here, away) = (folder.path().join(name), folder.path().join("away"));
        fs::rename(&here, &away).expect("moved");
        let error = event(&store).await.expect_err("nothing is acknowledged");
        assert_eq!((error.code(), error.may_pass()), ("database_gone", true), "{name}");
        assert!(!here.exists(), "nothing is made in its place");
        fs::rename(&away, &here).expect("moved back");
        event(&store).await.expect("goes on");
        store.close().await;
        let store = Store::open(folder.path()).await.expect("opens");
        assert_eq!(store.read(open::newest_event).await.expect("reads"), 2);
    }
}
