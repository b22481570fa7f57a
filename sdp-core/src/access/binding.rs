//! Which account a user of a chat is.
//!
//! ```text
//! /sdp login ─▶ the bot asks for a link ─▶ only that person sees it ─▶ they log in on the page ─▶ binding, for a while
//! ```
//! A bot's token is one chat; a user there has one account at a time. A link works once, for [`LINK_LIFE`].

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::account::{forget_credential, role};
use super::value::{hash, random};
use super::{Access, AccessError, after, moment};
use crate::api::BindingInfo;
use crate::id::BindingId;
use crate::name::{PersonName, TokenName};
use crate::principal::Role;
use crate::secret::Secret;
use crate::store::StoreError;

/// How long a link to the login page works.
pub const LINK_LIFE: Duration = Duration::from_secs(10 * 60);
const COLUMNS: &str = "id, bot, chat_user, created_ms, expires_ms";

/// Whom a link to the login page is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatUser {
    /// The bot's token: one chat.
    pub bot: TokenName,
    /// The user there.
    pub user: PersonName,
}

/// The account of a user of a chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The binding.
    pub id: BindingId,
    /// The account.
    pub account: PersonName,
    /// What it may do.
    pub role: Role,
    /// Until when it holds.
    pub expires_at: Timestamp,
}

impl Access {
    /// Makes a link's code for one user of a chat.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn create_login_link(&self, of: &ChatUser) -> Result<(Secret, Timestamp), AccessError> {
        let code = random()?;
        let hash = hash(code.expose());
        let expires_at = Timestamp::now() + LINK_LIFE;
        let of = of.clone();
        let made = self.store.write(move |connection| {
            // The newest one counts.
            connection.execute(
                "DELETE FROM login_link WHERE bot = ?1 AND chat_user = ?2",
                [of.bot.as_str(), of.user.as_str()],
            )?;
            connection.execute(
                "INSERT INTO login_link (hash, bot, chat_user, expires_ms) VALUES (?1, ?2, ?3, ?4)",
                params![&hash[..], of.bot.as_str(), of.user.as_str(), expires_at.as_millisecond()],
            )?;
            Ok(())
        });
        made.await?;
        Ok((code, expires_at))
    }

    /// Whom a link's code is for, if it works; it is not used up by this.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn login_link(&self, code: &str) -> Result<Option<ChatUser>, AccessError> {
        let hash = hash(code);
        let now = Timestamp::now().as_millisecond();
        let found = self.store.read(move |connection| {
            let row: Option<(String, String)> = connection
                .query_row(
                    "SELECT bot, chat_user FROM login_link WHERE hash = ?1 AND expires_ms > ?2",
                    params![&hash[..], now],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .optional()?;
            row.map(chat_user).transpose()
        });
        Ok(found.await?)
    }

    /// The account of a user of a chat, if they are bound to one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn bound(&self, of: &ChatUser) -> Result<Option<Bound>, AccessError> {
        let of = of.clone();
        let now = Timestamp::now().as_millisecond();
        let found = self.store.read(move |connection| {
            let row: Option<(String, String, String, i64)> = connection
                .prepare_cached(
                    "SELECT binding.id, account.name, account.role, binding.expires_ms
                     FROM binding JOIN account ON account.name = binding.account
                     WHERE bot = ?1 AND chat_user = ?2 AND expires_ms > ?3",
                )?
                .query_row(params![of.bot.as_str(), of.user.as_str(), now], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
                })
                .optional()?;
            let bound = |(id, account, role_text, ends): (String, String, String, i64)| {
                Ok::<_, StoreError>(Bound {
                    id: after("binding", id.parse())?,
                    account: after("binding", account.parse())?,
                    role: role(&role_text)?,
                    expires_at: moment("binding", ends)?,
                })
            };
            row.map(bound).transpose()
        });
        Ok(found.await?)
    }

    /// A person's bindings, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn bindings(&self, account: &PersonName) -> Result<Vec<BindingInfo>, AccessError> {
        let account = account.clone();
        let now = Timestamp::now().as_millisecond();
        let rows = self.store.read(move |connection| {
            let mut statement = connection.prepare(&format!(
                "SELECT {COLUMNS} FROM binding WHERE account = ?1 AND expires_ms > ?2 ORDER BY created_ms DESC, id DESC"
            ))?;
            let rows = statement.query_map(params![account.as_str(), now], columns)?;
            rows.map(|row| info(row?)).collect::<Result<Vec<_>, StoreError>>()
        });
        Ok(rows.await?)
    }

    /// Ends a person's binding, and the sessions that were made through it.
    ///
    /// # Errors
    /// [`AccessError::UnknownBinding`] if it is not theirs.
    pub async fn delete_binding(&self, account: &PersonName, id: BindingId) -> Result<(), AccessError> {
        let account = account.clone();
        let now = Timestamp::now();
        let deleted = self.store.write(move |connection| {
            let deleted = connection.execute(
                "DELETE FROM binding WHERE id = ?1 AND account = ?2",
                [id.to_string().as_str(), account.as_str()],
            )?;
            if deleted == 1 {
                end_through(connection, &id.to_string())?;
                forget_credential(connection, &account, now)?;
            }
            Ok(deleted)
        });
        if deleted.await? == 0 {
            return Err(AccessError::UnknownBinding { id });
        }
        self.revoked();
        Ok(())
    }
}

/// Uses a link up: whom it was for, if it works.
pub(super) fn use_up(
    connection: &Connection,
    link: &[u8; 32],
    now: Timestamp,
) -> Result<Option<ChatUser>, StoreError> {
    let row: Option<(String, String)> = connection
        .query_row(
            "DELETE FROM login_link WHERE hash = ?1 AND expires_ms > ?2 RETURNING bot, chat_user",
            params![&link[..], now.as_millisecond()],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    row.map(chat_user).transpose()
}

/// Binds a user of a chat to an account; whatever account they were before, they are it no more.
pub(super) fn bind(
    connection: &Connection,
    ChatUser { bot, user }: ChatUser,
    account: &PersonName,
    now: Timestamp,
    life: Duration,
) -> Result<BindingInfo, StoreError> {
    let before: Option<(String, String)> = connection
        .query_row(
            "DELETE FROM binding WHERE bot = ?1 AND chat_user = ?2 RETURNING id, account",
            [bot.as_str(), user.as_str()],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    if let Some((id, account)) = before {
        end_through(connection, &id)?;
        forget_credential(connection, &after("binding", account.parse())?, now)?;
    }
    let info =
        BindingInfo { id: BindingId::new(), bot, chat_user: user, created_at: now, expires_at: now + life };
    connection.execute(
        "INSERT INTO binding (id, bot, chat_user, account, created_ms, expires_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            info.id.to_string(),
            info.bot.as_str(),
            info.chat_user.as_str(),
            account.as_str(),
            now.as_millisecond(),
            info.expires_at.as_millisecond()
        ],
    )?;
    Ok(info)
}

/// Drops the bindings that have expired, and ends the sessions that were made through them.
pub(super) fn sweep(connection: &Connection, now: Timestamp) -> Result<(), StoreError> {
    let mut statement = connection.prepare("DELETE FROM binding WHERE expires_ms <= ?1 RETURNING id")?;
    let gone: Vec<String> =
        statement.query_map([now.as_millisecond()], |row| row.get(0))?.collect::<Result<_, _>>()?;
    gone.iter().try_for_each(|id| end_through(connection, id))
}

/// Ends what was bound through a bot's token.
pub(super) fn delete_of_bot(connection: &Connection, bot: &str) -> Result<(), StoreError> {
    let mut statement = connection.prepare("DELETE FROM binding WHERE bot = ?1 RETURNING id, account")?;
    let gone: Vec<(String, String)> =
        statement.query_map([bot], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    for (id, account) in gone {
        end_through(connection, &id)?;
        forget_credential(connection, &after("binding", account.parse())?, Timestamp::now())?;
    }
    connection.execute("DELETE FROM login_link WHERE bot = ?1", [bot])?;
    Ok(())
}

fn end_through(connection: &Connection, binding: &str) -> Result<(), StoreError> {
    connection.execute("DELETE FROM session WHERE binding = ?1", [binding])?;
    connection.execute("DELETE FROM sign_in_code WHERE binding = ?1", [binding])?;
    Ok(())
}

fn chat_user((bot, user): (String, String)) -> Result<ChatUser, StoreError> {
    Ok(ChatUser { bot: after("login_link", bot.parse())?, user: after("login_link", user.parse())? })
}

type Columns = (String, String, String, i64, i64);

fn columns(row: &Row<'_>) -> rusqlite::Result<Columns> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
}

fn info((id, bot, chat_user, created, expires): Columns) -> Result<BindingInfo, StoreError> {
    Ok(BindingInfo {
        id: after("binding", id.parse())?,
        bot: after("binding", bot.parse())?,
        chat_user: after("binding", chat_user.parse())?,
        created_at: moment("binding", created)?,
        expires_at: moment("binding", expires)?,
    })
}
