//! The database: group commits, failures that stay alone, and files from elsewhere.

use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(&folder.path().join("sdp.db")).expect("opens");
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

async fn count(store: &Store) -> i64 {
    let read = store.read(|db| Ok(db.query_row("SELECT count(*) FROM service", [], |row| row.get(0))?));
    read.await.expect("reads")
}

#[tokio::test]
async fn a_write_that_fails_takes_no_other_along() {
    let (_folder, store) = store();
    let (a, bad, b) = tokio::join!(insert(&store, "a"), insert(&store, "a"), insert(&store, "b"));
    assert!(a.is_ok() && bad.is_err() && b.is_ok());
    assert_eq!(count(&store).await, 2);
}

#[tokio::test]
async fn what_was_written_is_there_after_opening_again() {
    let (folder, store) = store();
    insert(&store, "a").await.expect("writes");
    drop(store);
    let store = Store::open(&folder.path().join("sdp.db")).expect("opens again");
    assert_eq!(count(&store).await, 1);
}

#[test]
fn a_database_of_a_newer_version_is_refused_with_both_versions_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sdp.db");
    let db = Connection::open(&path).expect("opens");
    db.pragma_update(None, "user_version", 99).expect("sets");
    drop(db);
    let error = Store::open(&path).expect_err("refuses");
    assert_eq!(error.code(), "newer_database");
    let text = error.to_string();
    assert!(text.contains("99") && text.contains('1') && text.contains("sdp.db"), "{text}");
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sdp.db");
    std::fs::write(
        &path,
        "something that somebody wrote, long enough to be no header of SQLite at all".repeat(20),
    )
    .expect("writes");
    let before = std::fs::read(&path).expect("reads");
    assert!(Store::open(&path).is_err());
    assert_eq!(std::fs::read(&path).expect("reads"), before);
}
