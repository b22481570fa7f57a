//! Who may come in: people with accounts, browser sessions, users of a chat, API tokens, kept in the store as hashes only.
//!
//! The server asks it at every request, the command line on the server's host makes and revokes tokens with it. A value
//! is shown once, when it is made, and is then known to its holder alone.
//!
//! ```text
//! sdp_  + 43 base62 digits (256 random bits) + 6 base62 digits (CRC-32 of what is before)   admin, deploy, read
//! sdpb_ …                                                                                    bot
//! sdpa_ …                                                                                    agent
//! sdpe_ …                                                                                    enrolment of an agent
//! ```
//! The checksum lets scanners and typing errors be told from real tokens without asking the database. Values are looked
//! up by their SHA-256, so that comparing takes the same time whatever is presented.
//!
//! | file | noun |
//! | --- | --- |
//! | `account` | people, their roles and the git credential they logged in with |
//! | `session` | browsers that are signed in, one-time codes |
//! | `binding` | which account a user of a chat is |
//! | `token` | programs, bots, agents |
//! | `enrolment` | how an agent comes by its token |
//!
//! Limits: a code or link works once, for ten minutes; a session ends [`SESSION_LIFE`] after it was last used. Revoking a token or
//! a binding ends the sessions that were made through it; an account's git credential goes with its last session or binding.

mod account;
mod binding;
mod enrolment;
mod session;
mod token;
mod value;

use std::path::PathBuf;

use jiff::Timestamp;
use tokio::sync::watch;

pub use account::{LoggedIn, Vouched};
pub use binding::{Bound, ChatUser, LINK_LIFE};
pub use enrolment::ENROLMENT_LIFE;
pub use session::{
    Begun, CODE_LIFE, Origin, ROTATE_AFTER, SESSION_LIFE, Session, SignInCode, SignedIn, Standing,
};
pub use token::NewToken;

pub(crate) use account::credential;
pub(crate) use enrolment::forget as forget_agent;
pub use value::is_token;

use crate::id::{BindingId, SessionId};
use crate::name::{InvalidName, PersonName, TokenName};
use crate::platform::Platform;
use crate::store::{Store, StoreError};
use crate::vault::Vault;

/// What access refuses.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// A token of that name exists already.
    #[error("a token named {name} exists already")]
    TokenExists {
        /// Its name.
        name: TokenName,
    },
    /// No such token.
    #[error("there is no token named {name}")]
    UnknownToken {
        /// What was asked for.
        name: TokenName,
    },
    /// Without it nobody could make another one over the API.
    #[error("{name} is the last admin token")]
    LastAdmin {
        /// Its name.
        name: TokenName,
    },
    /// No such account.
    #[error("{name} has never logged in")]
    UnknownPerson {
        /// What was asked for.
        name: PersonName,
    },
    /// No such session of this person.
    #[error("there is no such session")]
    UnknownSession {
        /// What was asked for.
        id: SessionId,
    },
    /// No such binding of this person.
    #[error("there is no such binding")]
    UnknownBinding {
        /// What was asked for.
        id: BindingId,
    },
    /// A link from chat was used, or is too old.
    #[error("this login link was used, or is too old")]
    LinkUsed,
    /// An agent's token is named like the agent.
    #[error("an agent's token is named like the agent: {0}")]
    InvalidAgentName(InvalidName),
    /// The system has no random numbers.
    #[error("the system gives no random numbers")]
    NoRandom,
    /// Nothing can be sealed here.
    #[error("there is no key to seal credentials with")]
    NoKey,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AccessError {
    /// Whether it is no use to try again before a person has done something about the data folder.
    #[must_use]
    pub fn needs_a_person(&self) -> bool {
        matches!(self, Self::Store(error) if error.needs_a_person())
    }

    /// Stable code, e.g. `unknown_token`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TokenExists { .. } => "token_exists",
            Self::UnknownToken { .. } => "unknown_token",
            Self::LastAdmin { .. } => "last_admin",
            Self::UnknownPerson { .. } => "unknown_person",
            Self::UnknownSession { .. } => "unknown_session",
            Self::UnknownBinding { .. } => "unknown_binding",
            Self::LinkUsed => "link_used",
            Self::InvalidAgentName(_) => "invalid_name",
            Self::NoRandom | Self::NoKey => "internal",
            Self::Store(error) => error.code(),
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::TokenExists { .. } => "revoke it first, or choose another name",
            Self::UnknownToken { .. } => "see the list of tokens",
            Self::LastAdmin { .. } => "make another admin token first",
            Self::UnknownPerson { .. } => "see the list of people",
            Self::UnknownSession { .. } => "see the list of your sessions",
            Self::UnknownBinding { .. } => "see the list of your bindings",
            Self::LinkUsed => "type /sdp login again for a new one",
            Self::InvalidAgentName(invalid) => invalid.hint(),
            Self::NoRandom | Self::NoKey => "look at the server's log",
            Self::Store(error) => error.hint(),
        }
    }
}

/// Accounts, sessions, bindings and tokens. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Access {
    store: Store,
    vault: Option<Vault>,
    /// Rung when something that opened a door has been made worthless.
    revocations: watch::Sender<()>,
}

impl Access {
    /// That of a running platform.
    #[must_use]
    pub fn of(platform: &Platform) -> Self {
        Self {
            store: platform.store().clone(),
            vault: Some(platform.vault().clone()),
            revocations: platform.revocations().clone(),
        }
    }

    /// That of a data folder, beside a server that may be running on it or not. Where none runs this owns the folder, and a
    /// server that starts waits for a moment: [`close`](Self::close) it soon. Nobody can log in with a git account here.
    ///
    /// # Errors
    /// When the database cannot be opened or made.
    pub async fn open(data_dir: impl Into<PathBuf>) -> Result<Self, AccessError> {
        let store = Store::open_beside(&data_dir.into()).await?;
        Ok(Self { store, vault: None, revocations: watch::Sender::new(()) })
    }

    /// Closes the database that [`open`](Self::open) opened, and returns when all is in its file. From now on nothing can be written.
    pub async fn close(&self) {
        self.store.close().await;
    }

    /// Rings whenever this process has made a token, a session or a binding worthless: whoever serves long connections looks again
    /// whether what they began with holds. What another process revokes (the command line) it does not hear of.
    #[must_use]
    pub fn revocations(&self) -> watch::Receiver<()> {
        self.revocations.subscribe()
    }

    fn revoked(&self) {
        self.revocations.send_replace(());
    }

    fn vault(&self) -> Result<Vault, AccessError> {
        self.vault.clone().ok_or(AccessError::NoKey)
    }
}

/// What a row holds was checked when it was written: else the table is corrupt.
fn after<T, E: std::fmt::Display>(table: &'static str, parsed: Result<T, E>) -> Result<T, StoreError> {
    parsed.map_err(|error| StoreError::Corrupt { table, problem: error.to_string() })
}

fn moment(table: &'static str, ms: i64) -> Result<Timestamp, StoreError> {
    after(table, Timestamp::from_millisecond(ms))
}

#[cfg(test)]
mod tests;
