//! Homes: shown when somebody opens theirs, after each click in it, and kept up to date for a while.
//!
//! Slack does not say when a home is left, so one that was opened is kept up to date for [`WATCHED`], and sent only when it
//! changed.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use sdp_core::name::PersonName;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::super::home;
use super::Inner;

/// How long a home is kept up to date after it was opened.
const WATCHED: Duration = Duration::from_secs(600);
/// How often it is looked at.
const EVERY: Duration = Duration::from_secs(10);
/// How many homes are kept up to date.
const MAX_WATCHED: usize = 100;

#[derive(Debug, Default)]
pub(super) struct Homes {
    open: Mutex<HashMap<PersonName, Open>>,
}

#[derive(Clone, Debug)]
struct Open {
    since: Instant,
    /// Of what it shows.
    digest: Vec<u8>,
}

impl Homes {
    /// Whether it shows something else than this.
    fn differs(&self, person: &PersonName, digest: &[u8]) -> bool {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(person).is_none_or(|open| open.digest != digest)
    }

    fn shows(&self, person: &PersonName, digest: Vec<u8>, opened: bool) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        open.retain(|_, open| open.since.elapsed() < WATCHED);
        let room = open.len() < MAX_WATCHED;
        match open.get_mut(person) {
            Some(known) => {
                known.digest = digest;
                if opened {
                    known.since = now;
                }
            }
            None if room => {
                open.insert(person.clone(), Open { since: now, digest });
            }
            None => {}
        }
    }

    fn watched(&self) -> Vec<PersonName> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter()
            .filter(|(_, open)| open.since.elapsed() < WATCHED)
            .map(|(person, _)| person.clone())
            .collect()
    }
}

impl Inner {
    /// Shows somebody's home as it is now.
    pub(super) async fn show_home(&self, person: &PersonName) {
        self.publish(person, true).await;
    }

    async fn publish(&self, person: &PersonName, opened: bool) {
        let facts = self.bot.asker(Some(person.clone())).home().await;
        let view = home::home(&facts, Timestamp::now());
        let json = serde_json::to_vec(&view).unwrap_or_default();
        let digest = Sha256::digest(&json).to_vec();
        if !opened && !self.homes.differs(person, &digest) {
            return;
        }
        match self.web.publish_home(person.as_str(), &view).await {
            Ok(()) => self.homes.shows(person, digest, opened),
            Err(error) => tracing::warn!(code = error.code(), "a home could not be shown"),
        }
    }

    /// Keeps those up to date that were opened a while ago.
    pub(super) async fn keep_homes(&self, shutdown: &CancellationToken) {
        let mut every = interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = every.tick() => {}
            }
            for person in self.homes.watched() {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = self.publish(&person, false) => {}
                }
            }
        }
    }
}
