//! What the bot must not forget: how far it has read the feed, where its messages sit, what it has told people who did not ask, and
//! who of this chat has which account. A small SQLite of its own.
//!
//! Called by [`crate::follow`] and `people`. A message is recorded before it is posted (an intent, without a place) and again when its
//! place is known, so that after a restart nothing that was promised is missing. Every call runs on a blocking thread.
//!
//! Limit: the newest [`KEEP`] messages are kept and those that may still change, and one user of the chat for each account.

mod notices;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};
use sdp_core::id::EventSeq;
use sdp_core::name::PersonName;

use crate::chat::{About, Conversation, Place};

/// How many messages are kept.
pub const KEEP: u32 = 5000;

const SCHEMA: &str = "
CREATE TABLE cursor (one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL) STRICT;
CREATE TABLE message (
    deployment TEXT PRIMARY KEY,
    conversation TEXT NOT NULL,
    person TEXT,
    place TEXT,
    told TEXT NOT NULL DEFAULT '[]',
    fingerprint INTEGER NOT NULL DEFAULT 0,
    over INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX message_open ON message (deployment) WHERE over = 0;
PRAGMA user_version = 1;
";

const SCHEMA_2: &str = "
CREATE TABLE account (name TEXT PRIMARY KEY, chat_user TEXT NOT NULL) STRICT;
PRAGMA user_version = 2;
";

const SCHEMA_3: &str = "
CREATE INDEX message_place ON message (place) WHERE place IS NOT NULL;
PRAGMA user_version = 3;
";

const SCHEMA_4: &str = "
CREATE TABLE notice (seq INTEGER PRIMARY KEY, event TEXT NOT NULL, told INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE INDEX notice_open ON notice (seq) WHERE told = 0;
PRAGMA user_version = 4;
";

/// The newest version that this program knows.
const VERSION: i64 = 4;

/// The store could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// SQLite's own.
    #[error("cannot use the bot's database")]
    Sqlite(#[from] rusqlite::Error),
    /// The file was written by a newer version.
    #[error("the bot's database has version {found}; this program knows up to {VERSION}")]
    Newer {
        /// Its version.
        found: i64,
    },
    /// The thread that worked on it has ended.
    #[error("the bot's database was interrupted")]
    Interrupted,
}

/// A message as it was left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Whose story it tells.
    pub about: About,
    /// Where it was asked for.
    pub conversation: Conversation,
    /// Who asked, where a person did.
    pub person: Option<PersonName>,
    /// Where it sits; none if that was not known yet.
    pub place: Option<Place>,
    /// Keys of the replies that are there.
    pub told: BTreeSet<String>,
    /// What it said last.
    pub fingerprint: i64,
}

impl Kept {
    /// A message that is to be posted.
    #[must_use]
    pub fn intended(about: About, conversation: Conversation) -> Self {
        Self { about, conversation, person: None, place: None, told: BTreeSet::new(), fingerprint: 0 }
    }
}

/// The bot's memory; clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    connection: Arc<Mutex<Connection>>,
}

impl Store {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::with(Connection::open(path)?)
    }

    /// A memory that ends with the process.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn in_memory() -> Result<Self, StoreError> {
        Self::with(Connection::open_in_memory()?)
    }

    fn with(mut connection: Connection) -> Result<Self, StoreError> {
        connection.busy_timeout(Duration::from_secs(5))?;
        // In-memory databases answer `memory`; files get a write-ahead log.
        let _mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        connection.execute_batch("PRAGMA synchronous = NORMAL")?;
        let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if !(0..=VERSION).contains(&version) {
            return Err(StoreError::Newer { found: version });
        }
        let transaction = connection.transaction()?;
        if version < 1 {
            transaction.execute_batch(SCHEMA)?;
        }
        if version < 2 {
            transaction.execute_batch(SCHEMA_2)?;
        }
        if version < 3 {
            transaction.execute_batch(SCHEMA_3)?;
        }
        if version < 4 {
            transaction.execute_batch(SCHEMA_4)?;
        }
        transaction.commit()?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)) })
    }

    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let connection = self.connection.clone();
        let done = tokio::task::spawn_blocking(move || {
            work(&connection.lock().unwrap_or_else(PoisonError::into_inner))
        });
        Ok(done.await.map_err(|_| StoreError::Interrupted)??)
    }

    /// The last event that was read.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn cursor(&self) -> Result<Option<EventSeq>, StoreError> {
        let seq =
            self.call(|db| db.query_row("SELECT seq FROM cursor", [], |row| row.get::<_, i64>(0)).optional());
        Ok(seq.await?.map(|seq| EventSeq(seq.cast_unsigned())))
    }

    /// Remembers the last event that was read.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn save_cursor(&self, seq: EventSeq) -> Result<(), StoreError> {
        self.call(move |db| {
            db.execute(
                "INSERT INTO cursor (one, seq) VALUES (1, ?1) ON CONFLICT (one) DO UPDATE SET seq = ?1",
                [seq.0.cast_signed()],
            )
            .map(drop)
        })
        .await
    }

    /// Remembers who of this chat has an account: one at a time, either way.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn is_here(&self, account: &PersonName, chat_user: &PersonName) -> Result<(), StoreError> {
        let (account, chat_user) = (account.clone(), chat_user.clone());
        self.call(move |db| {
            db.execute(
                "DELETE FROM account WHERE chat_user = ?2 AND name <> ?1",
                [account.as_str(), chat_user.as_str()],
            )?;
            db.execute(
                "INSERT INTO account (name, chat_user) VALUES (?1, ?2)
                 ON CONFLICT (name) DO UPDATE SET chat_user = excluded.chat_user",
                [account.as_str(), chat_user.as_str()],
            )
            .map(drop)
        })
        .await
    }

    /// Who of this chat has an account, if that is known.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn chat_user_of(&self, account: &PersonName) -> Result<Option<PersonName>, StoreError> {
        let account = account.clone();
        let user: Option<String> = self
            .call(move |db| {
                let sql = "SELECT chat_user FROM account WHERE name = ?1";
                db.query_row(sql, [account.as_str()], |row| row.get(0)).optional()
            })
            .await?;
        Ok(user.and_then(|user| user.parse().ok()))
    }

    /// The story whose message sits there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn message_at(&self, place: Place) -> Result<Option<About>, StoreError> {
        let id: Option<String> = self
            .call(move |db| {
                let sql = "SELECT deployment FROM message WHERE place = ?1";
                db.query_row(sql, [place.0], |row| row.get(0)).optional()
            })
            .await?;
        Ok(id.and_then(|id| id.parse().ok()))
    }

    /// Records that a message is going to be posted; whether that is new.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn intend(
        &self,
        about: About,
        conversation: Conversation,
        person: Option<PersonName>,
    ) -> Result<bool, StoreError> {
        self.call(move |db| {
            let new = db.execute(
                "INSERT OR IGNORE INTO message (deployment, conversation, person) VALUES (?1, ?2, ?3)",
                params![about.to_string(), conversation.0, person.as_ref().map(PersonName::as_str)],
            )?;
            // Ids sort by creation.
            db.execute(
                "DELETE FROM message WHERE over = 1 AND deployment NOT IN \
                 (SELECT deployment FROM message ORDER BY deployment DESC LIMIT ?1)",
                [KEEP],
            )
            .map(|_| new > 0)
        })
        .await
    }

    /// Records where a message sits, what was told in its thread, and what it said last.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn save(
        &self,
        about: About,
        place: Place,
        told: &BTreeSet<String>,
        fingerprint: i64,
        over: bool,
    ) -> Result<(), StoreError> {
        let told = serde_json::to_string(told).unwrap_or_else(|_| "[]".to_owned());
        self.call(move |db| {
            db.execute(
                "UPDATE message SET place = ?2, told = ?3, fingerprint = ?4, over = ?5 WHERE deployment = ?1",
                params![about.to_string(), place.0, told, fingerprint, over],
            )
            .map(drop)
        })
        .await
    }

    /// Nothing more can happen to this message.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn close(&self, about: About) -> Result<(), StoreError> {
        self.call(move |db| {
            db.execute("UPDATE message SET over = 1 WHERE deployment = ?1", [about.to_string()]).map(drop)
        })
        .await
    }

    /// The messages that may still change, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open_messages(&self) -> Result<Vec<Kept>, StoreError> {
        self.call(|db| {
            let mut statement = db.prepare(
                "SELECT deployment, conversation, person, place, told, fingerprint FROM message \
                 WHERE over = 0 ORDER BY deployment",
            )?;
            let rows = statement.query_map([], |row| {
                Ok((
                    row.get::<_, String>(0)?,
                    row.get::<_, String>(1)?,
                    row.get::<_, Option<String>>(2)?,
                    row.get::<_, Option<String>>(3)?,
                    row.get::<_, String>(4)?,
                    row.get::<_, i64>(5)?,
                ))
            })?;
            let mut kept = Vec::new();
            for row in rows {
                let (about, conversation, person, place, told, fingerprint) = row?;
                // Only this file's own writer writes it; a row that does not parse is not ours to show.
                let Ok(about) = about.parse() else { continue };
                kept.push(Kept {
                    about,
                    conversation: Conversation(conversation),
                    person: person.and_then(|person| person.parse().ok()),
                    place: place.map(Place),
                    told: serde_json::from_str(&told).unwrap_or_default(),
                    fingerprint,
                });
            }
            Ok(kept)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_intended_and_shown_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bot.db");
        let one = About::from(sdp_core::id::DeploymentId::new());
        let two = About::from(sdp_core::id::BatchId::new());
        let alice: PersonName = "alice".parse().unwrap();
        let channel = Conversation("C1".into());
        {
            let store = Store::open(&file).unwrap();
            assert_eq!(store.cursor().await.unwrap(), None);
            store.save_cursor(EventSeq(7)).await.unwrap();
            store.save_cursor(EventSeq(9)).await.unwrap();
            store.intend(one, channel.clone(), Some(alice.clone())).await.unwrap();
            store.intend(two, channel.clone(), None).await.unwrap();
            let told = BTreeSet::from(["step:0".to_owned()]);
            store.save(two, Place("P".into()), &told, -5, false).await.unwrap();
        }
        let store = Store::open(&file).unwrap();
        assert_eq!(store.cursor().await.unwrap(), Some(EventSeq(9)));
        let kept = store.open_messages().await.unwrap();
        assert_eq!(kept.iter().map(|kept| kept.about).collect::<Vec<_>>(), [one, two]);
        assert_eq!((kept[0].place.clone(), kept[0].told.len()), (None, 0));
        assert_eq!((kept[1].place.clone(), kept[1].fingerprint), (Some(Place("P".into())), -5));
        assert!(kept[1].told.contains("step:0"));
        store.close(one).await.unwrap();
        assert_eq!(store.open_messages().await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn an_account_is_one_user_of_the_chat_and_a_user_one_account() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bot.db");
        // As the version before left it.
        Connection::open(&file).unwrap().execute_batch(SCHEMA).unwrap();
        let name = |name: &str| -> PersonName { name.parse().unwrap() };
        let store = Store::open(&file).unwrap();
        assert_eq!(store.chat_user_of(&name("alice")).await.unwrap(), None);
        for (account, user) in [("alice", "U1"), ("bob", "U2"), ("alice", "U3"), ("alice-2", "U2")] {
            store.is_here(&name(account), &name(user)).await.unwrap();
        }
        drop(store);
        let store = Store::open(&file).unwrap();
        for (account, user) in [("alice", Some("U3")), ("alice-2", Some("U2")), ("bob", None)] {
            assert_eq!(store.chat_user_of(&name(account)).await.unwrap(), user.map(name), "{account}");
        }
    }

    #[test]
    fn a_file_of_a_newer_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bot.db");
        Connection::open(&file).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
        assert!(matches!(Store::open(&file), Err(StoreError::Newer { found: 99 })));
    }
}
