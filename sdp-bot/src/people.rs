//! Who the users of the chat are. The server knows; this remembers it for a moment.
//!
//! ```text
//! user of the chat (U024BE7LH) ─▶ me ─▶ account (alice) ─▶ her sandbox, her role
//!                                 └──▶ store: alice is U024BE7LH here, for whoever is to be called
//! ```
//! Called by [`crate::bot`]. What people do, they do as their account, which may be named otherwise than they are here: so
//! nothing is told from a user's name. Whoever is not logged in may be at any moment, and is asked about each time.
//!
//! Limits: an answer is good for [`GOOD_FOR`]; of at most [`MAX_KNOWN`] users.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sdp_core::api::Me;
use sdp_core::client::{Client, ClientError};
use sdp_core::name::PersonName;
use tokio::time::Instant;

use crate::store::Store;

/// How long an answer is good for.
pub(crate) const GOOD_FOR: Duration = Duration::from_secs(60);
/// Of how many users the answer is remembered.
pub(crate) const MAX_KNOWN: usize = 1000;

/// Who the users of the chat are; clones remember the same.
#[derive(Clone, Debug)]
pub(crate) struct People {
    store: Store,
    known: Arc<Mutex<Known>>,
}

/// Without a user: whoever the token belongs to.
type Known = HashMap<Option<PersonName>, (Instant, Me)>;

impl People {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, known: Arc::default() }
    }

    /// Who a user of the chat is; `client` speaks for them.
    pub(crate) async fn me(&self, client: &Client, user: Option<&PersonName>) -> Result<Me, ClientError> {
        let user = user.cloned();
        if let Some((at, me)) = self.known().get(&user)
            && at.elapsed() < GOOD_FOR
        {
            return Ok(me.clone());
        }
        let me = client.me().await?;
        if !is_settled(&me) {
            return Ok(me);
        }
        if let (Some(user), Some(account)) = (&user, me.principal.as_person())
            && let Err(error) = self.store.is_here(account, user).await
        {
            tracing::error!(%error, "the bot's database failed");
        }
        let mut known = self.known();
        if known.len() >= MAX_KNOWN {
            known.retain(|_, (at, _)| at.elapsed() < GOOD_FOR);
        }
        if known.len() < MAX_KNOWN {
            known.insert(user, (Instant::now(), me.clone()));
        }
        drop(known);
        Ok(me)
    }

    /// What was known of a user does not hold any more.
    pub(crate) fn forget(&self, user: Option<&PersonName>) {
        self.known().remove(&user.cloned());
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether it will hardly be otherwise in a moment: a person who does not log in while we look the other way.
fn is_settled(me: &Me) -> bool {
    me.principal.as_person().is_some() && (me.account.is_some() || !me.login)
}
