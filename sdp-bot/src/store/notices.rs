//! Events that concern one person: what is to be told of them, and what was.

use rusqlite::params;
use sdp_core::event::Event;
use sdp_core::id::EventSeq;

use super::{KEEP, Store, StoreError};

impl Store {
    /// Records that an event is going to be told; whether that is new.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn intend_notice(&self, event: Event) -> Result<bool, StoreError> {
        let seq = event.seq.0.cast_signed();
        let json = serde_json::to_string(&event).unwrap_or_default();
        self.call(move |db| {
            let new =
                db.execute("INSERT OR IGNORE INTO notice (seq, event) VALUES (?1, ?2)", params![seq, json])?;
            db.execute(
                "DELETE FROM notice WHERE told = 1 AND seq NOT IN \
                 (SELECT seq FROM notice ORDER BY seq DESC LIMIT ?1)",
                [KEEP],
            )
            .map(|_| new > 0)
        })
        .await
    }

    /// An event was told to all whom it concerns.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn notice_told(&self, seq: EventSeq) -> Result<(), StoreError> {
        self.call(move |db| {
            db.execute("UPDATE notice SET told = 1 WHERE seq = ?1", [seq.0.cast_signed()]).map(drop)
        })
        .await
    }

    /// Events that are still to be told, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open_notices(&self) -> Result<Vec<Event>, StoreError> {
        self.call(|db| {
            let mut statement = db.prepare("SELECT event FROM notice WHERE told = 0 ORDER BY seq")?;
            let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
            let mut events = Vec::new();
            for row in rows {
                // One that a newer version wrote is not ours to tell.
                events.extend(serde_json::from_str(&row?).ok());
            }
            Ok(events)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use sdp_core::event::{About, EventKind};
    use sdp_core::principal::Principal;

    use super::*;

    #[tokio::test]
    async fn an_event_is_to_be_told_once_and_until_it_was() {
        let store = Store::in_memory().unwrap();
        let event = |seq| Event {
            seq: EventSeq(seq),
            at: jiff::Timestamp::from_second(1_800_000_000).unwrap(),
            by: Principal::System,
            about: About { sandbox: Some("qa".parse().unwrap()), ..About::default() },
            kind: EventKind::SandboxExpired { owner: Principal::person("alice".parse().unwrap()) },
        };
        assert!(store.intend_notice(event(7)).await.unwrap());
        assert!(store.intend_notice(event(3)).await.unwrap());
        assert!(!store.intend_notice(event(7)).await.unwrap());
        assert_eq!(store.open_notices().await.unwrap(), [event(3), event(7)]);
        store.notice_told(EventSeq(3)).await.unwrap();
        assert_eq!(store.open_notices().await.unwrap(), [event(7)]);
        assert!(!store.intend_notice(event(3)).await.unwrap());
    }
}
