//! Browsers that are signed in, and the one-time codes that sign one in without a password.
//!
//! A session's value is changed once a day while it is used ([`ROTATE_AFTER`]); the one before works for another minute, for
//! requests that were under way. Its end moves along. Its id names it to its owner and opens nothing.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::account::{forget_credential, role};
use super::token::kind;
use super::value::{hash, random};
use super::{Access, AccessError, after, moment};
use crate::api::{SessionInfo, TokenKind};
use crate::id::{BindingId, SessionId};
use crate::name::{PersonName, TokenName};
use crate::principal::{Principal, Role};
use crate::secret::Secret;
use crate::store::StoreError;

/// How long a sign-in code can be used.
pub const CODE_LIFE: Duration = Duration::from_secs(10 * 60);
/// How long a session lives after it was last used.
pub const SESSION_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// A session's value is changed when it is used and is older than this.
pub const ROTATE_AFTER: Duration = Duration::from_secs(24 * 3600);
/// How long the value before the change still works.
const OVERLAP: Duration = Duration::from_secs(60);
/// When a session was used last is written down at most this often.
const USED_EVERY: i64 = 3600 * 1000;
/// More of what a browser says about itself is not kept, in characters.
const USER_AGENT: usize = 200;

/// From where a session was begun.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The browser's address.
    pub address: Option<String>,
    /// What the browser calls itself.
    pub user_agent: Option<String>,
}

/// A code that signs a browser in once.
#[derive(Clone, Debug)]
pub struct SignInCode {
    /// The code; it goes into a link.
    pub code: Secret,
    /// Until when it works.
    pub expires_at: Timestamp,
}

/// As whom a session acts, and through what it was made: it ends with that.
#[derive(Clone, Debug)]
pub struct Begun {
    /// As whom.
    pub principal: Principal,
    /// Their account, if they have one.
    pub account: Option<PersonName>,
    /// The token.
    pub token: Option<TokenName>,
    /// The binding.
    pub binding: Option<BindingId>,
}

/// A browser has just signed in.
#[derive(Clone, Debug)]
pub struct SignedIn {
    /// The session's value; it goes into a cookie.
    pub session: Secret,
    /// Who signed in.
    pub principal: Principal,
    /// The page to open.
    pub next: String,
}

/// What a session may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Standing {
    /// What this role may: a person with an account.
    Account(Role),
    /// What the token through which it was made may.
    Token(TokenKind),
    /// A person who has no account: a bot has said who it is.
    Named,
}

/// A session that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its id; it opens nothing.
    pub id: SessionId,
    /// Who it is.
    pub principal: Principal,
    /// The account, if there is one.
    pub account: Option<PersonName>,
    /// What it may do.
    pub standing: Standing,
    /// Its new value, if that was just changed: the browser's cookie should be, too.
    pub renewed: Option<Secret>,
}

impl Access {
    /// Makes a code that signs a browser in once as this, and opens the page `next`, which the caller has checked.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn create_sign_in_code(&self, as_: &Begun, next: &str) -> Result<SignInCode, AccessError> {
        let code = random()?;
        let hash = hash(code.expose());
        let now = Timestamp::now();
        let expires_at = now + CODE_LIFE;
        let (as_, next) = (as_.clone(), next.to_owned());
        let principal = to_json(&as_.principal)?;
        let made = self.store.write(move |connection| {
            connection.execute("DELETE FROM sign_in_code WHERE expires_ms <= ?1", [now.as_millisecond()])?;
            connection.execute(
                "INSERT INTO sign_in_code (hash, principal, account, token, binding, next, expires_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    &hash[..],
                    principal,
                    as_.account.as_ref().map(PersonName::as_str),
                    as_.token.as_ref().map(TokenName::as_str),
                    as_.binding.map(|id| id.to_string()),
                    next,
                    expires_at.as_millisecond()
                ],
            )?;
            Ok(())
        });
        made.await?;
        Ok(SignInCode { code, expires_at })
    }

    /// Whether a code would work now; it is not used up by this.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn is_sign_in_code(&self, code: &str) -> Result<bool, AccessError> {
        let hash = hash(code);
        let now = Timestamp::now().as_millisecond();
        let found = self.store.read(move |connection| {
            let sql = "SELECT 1 FROM sign_in_code WHERE hash = ?1 AND expires_ms > ?2";
            let found = connection.query_row(sql, params![&hash[..], now], |_| Ok(())).optional()?;
            Ok(found.is_some())
        });
        Ok(found.await?)
    }

    /// Uses a code up and begins a session; `None` if it is unknown, used or too old.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sign_in(&self, code: &str, from: Origin) -> Result<Option<SignedIn>, AccessError> {
        type Row = (String, Option<String>, Option<String>, Option<String>, String);
        let code = hash(code);
        let session = random()?;
        let value = hash(session.expose());
        let now = Timestamp::now();
        let used = self.store.write(move |connection| {
            let row: Option<Row> = connection
                .query_row(
                    "DELETE FROM sign_in_code WHERE hash = ?1 AND expires_ms > ?2
                     RETURNING principal, account, token, binding, next",
                    params![&code[..], now.as_millisecond()],
                    |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)),
                )
                .optional()?;
            let Some((principal, account, token, binding, next)) = row else { return Ok(None) };
            let begun = Begun {
                principal: from_json(&principal)?,
                account: after("sign_in_code", account.map(|name| name.parse()).transpose())?,
                token: after("sign_in_code", token.map(|name| name.parse()).transpose())?,
                binding: after("sign_in_code", binding.map(|id| id.parse()).transpose())?,
            };
            insert(connection, SessionId::new(), &value, &begun, &from, now)?;
            Ok(Some((begun.principal, next)))
        });
        Ok(used.await?.map(|(principal, next)| SignedIn { session, principal, next }))
    }

    /// How many sessions hold.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn session_count(&self) -> Result<u64, AccessError> {
        let now = Timestamp::now().as_millisecond();
        let count: i64 = self
            .store
            .read(move |connection| {
                let sql = "SELECT COUNT(*) FROM session WHERE expires_ms > ?1";
                Ok(connection.query_row(sql, [now], |row| row.get(0))?)
            })
            .await?;
        Ok(count.unsigned_abs())
    }

    /// The session of this value, if it holds. Using it moves its end and, once a day, changes its value.
    ///
    /// # Errors
    /// When the database fails; never because of the value.
    pub async fn session(&self, value: &str) -> Result<Option<Session>, AccessError> {
        let wanted = hash(value);
        let now = Timestamp::now();
        let now_ms = now.as_millisecond();
        let row = self.store.read(move |connection| {
            let row = connection
                .prepare_cached(
                    "SELECT session.id, session.principal, session.account, account.role, session.token, token.kind,
                            session.rotated_ms, session.used_ms, session.hash = ?1
                     FROM session LEFT JOIN account ON account.name = session.account
                                  LEFT JOIN token ON token.name = session.token
                     WHERE (session.hash = ?1 OR (session.before = ?1 AND session.before_ms > ?2))
                       AND session.expires_ms > ?2
                       AND (token.expires_ms IS NULL OR token.expires_ms > ?2)
                       AND (session.binding IS NULL
                            OR EXISTS (SELECT 1 FROM binding WHERE id = session.binding AND binding.expires_ms > ?2))",
                )?
                .query_row(params![&wanted[..], now_ms], found)
                .optional()?;
            row.map(read).transpose()
        });
        let Some(found) = row.await? else { return Ok(None) };
        let Found { id, principal, account, standing, rotated_ms, used_ms, is_newest } = found;
        let age = now_ms - rotated_ms;
        let mut renewed = None;
        if is_newest && age > i64::try_from(ROTATE_AFTER.as_millis()).unwrap_or(i64::MAX) {
            let new = random()?;
            let new_hash = hash(new.expose());
            let changed = self.store.write(move |connection| {
                Ok(connection.execute(
                    "UPDATE session SET before = hash, before_ms = ?3, hash = ?2, rotated_ms = ?4, used_ms = ?4,
                            expires_ms = ?5 WHERE id = ?1 AND hash = ?6",
                    params![
                        id.to_string(),
                        &new_hash[..],
                        (now + OVERLAP).as_millisecond(),
                        now_ms,
                        (now + SESSION_LIFE).as_millisecond(),
                        &wanted[..]
                    ],
                )?)
            });
            // Of two requests at once one changes it; the other's cookie works for a minute, until the browser has the new one.
            match changed.await {
                Ok(1) => renewed = Some(new),
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "a session could not be renewed"),
            }
        } else if now_ms - used_ms > USED_EVERY {
            let noted = self.store.write(move |connection| {
                let sql = "UPDATE session SET used_ms = ?2 WHERE id = ?1";
                connection.execute(sql, params![id.to_string(), now_ms])?;
                Ok(())
            });
            if let Err(error) = noted.await {
                tracing::debug!(%error, "when a session was used could not be written down");
            }
        }
        Ok(Some(Session { id, principal, account, standing, renewed }))
    }

    /// Whether a session of this id holds.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn session_holds(&self, id: SessionId) -> Result<bool, AccessError> {
        let now = Timestamp::now().as_millisecond();
        let found = self.store.read(move |connection| {
            let sql = "SELECT 1 FROM session LEFT JOIN token ON token.name = session.token
                       WHERE session.id = ?1 AND session.expires_ms > ?2
                         AND (token.expires_ms IS NULL OR token.expires_ms > ?2)
                         AND (session.binding IS NULL
                              OR EXISTS (SELECT 1 FROM binding WHERE id = session.binding AND binding.expires_ms > ?2))";
            let found = connection
                .prepare_cached(sql)?
                .query_row(params![id.to_string(), now], |_| Ok(()))
                .optional()?;
            Ok(found.is_some())
        });
        Ok(found.await?)
    }

    /// A person's sessions, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sessions(&self, account: &PersonName) -> Result<Vec<SessionInfo>, AccessError> {
        let account = account.clone();
        let now = Timestamp::now().as_millisecond();
        let rows = self.store.read(move |connection| {
            let mut statement = connection.prepare(
                "SELECT id, address, user_agent, created_ms, used_ms, expires_ms FROM session
                 WHERE account = ?1 AND expires_ms > ?2 ORDER BY created_ms DESC, id DESC",
            )?;
            let rows = statement.query_map(params![account.as_str(), now], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
            })?;
            rows.map(|row| info(row?)).collect::<Result<Vec<_>, StoreError>>()
        });
        Ok(rows.await?)
    }

    /// Ends one of a person's sessions.
    ///
    /// # Errors
    /// [`AccessError::UnknownSession`] if it is not theirs.
    pub async fn delete_session(&self, account: &PersonName, id: SessionId) -> Result<(), AccessError> {
        let account = account.clone();
        let now = Timestamp::now();
        let deleted = self.store.write(move |connection| {
            let sql = "DELETE FROM session WHERE id = ?1 AND account = ?2";
            let deleted = connection.execute(sql, [id.to_string().as_str(), account.as_str()])?;
            forget_credential(connection, &account, now)?;
            Ok(deleted)
        });
        if deleted.await? == 0 {
            return Err(AccessError::UnknownSession { id });
        }
        self.revoked();
        Ok(())
    }

    /// Ends the session of this value; nothing happens if there is none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sign_out(&self, value: &str) -> Result<(), AccessError> {
        // Anybody may ask for this: what is no session costs no write, and wakes nobody.
        if self.session(value).await?.is_none() {
            return Ok(());
        }
        let hash = hash(value);
        let now = Timestamp::now();
        let done = self.store.write(move |connection| {
            let account: Option<Option<String>> = connection
                .query_row(
                    "DELETE FROM session WHERE hash = ?1 OR (before = ?1 AND before_ms > ?2) RETURNING account",
                    params![&hash[..], now.as_millisecond()],
                    |row| row.get(0),
                )
                .optional()?;
            if let Some(Some(account)) = account {
                forget_credential(connection, &after("session", account.parse())?, now)?;
            }
            Ok(())
        });
        done.await?;
        self.revoked();
        Ok(())
    }
}

/// Begins a session.
pub(super) fn insert(
    connection: &Connection,
    id: SessionId,
    value: &[u8; 32],
    begun: &Begun,
    from: &Origin,
    now: Timestamp,
) -> Result<(), StoreError> {
    let user_agent: Option<String> =
        from.user_agent.as_ref().map(|text| text.chars().take(USER_AGENT).collect());
    connection.execute(
        "INSERT INTO session (id, hash, principal, account, token, binding, address, user_agent,
                              created_ms, rotated_ms, used_ms, expires_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9, ?9, ?10)",
        params![
            id.to_string(),
            &value[..],
            to_json(&begun.principal)?,
            begun.account.as_ref().map(PersonName::as_str),
            begun.token.as_ref().map(TokenName::as_str),
            begun.binding.map(|id| id.to_string()),
            from.address,
            user_agent,
            now.as_millisecond(),
            (now + SESSION_LIFE).as_millisecond()
        ],
    )?;
    Ok(())
}

struct Columns {
    id: String,
    principal: String,
    account: Option<String>,
    role: Option<String>,
    token: Option<String>,
    kind: Option<String>,
    rotated_ms: i64,
    used_ms: i64,
    is_newest: bool,
}

fn found(row: &Row<'_>) -> rusqlite::Result<Columns> {
    Ok(Columns {
        id: row.get(0)?,
        principal: row.get(1)?,
        account: row.get(2)?,
        role: row.get(3)?,
        token: row.get(4)?,
        kind: row.get(5)?,
        rotated_ms: row.get(6)?,
        used_ms: row.get(7)?,
        is_newest: row.get(8)?,
    })
}

struct Found {
    id: SessionId,
    principal: Principal,
    account: Option<PersonName>,
    standing: Standing,
    rotated_ms: i64,
    used_ms: i64,
    is_newest: bool,
}

fn read(row: Columns) -> Result<Found, StoreError> {
    let standing = match (&row.role, &row.token, &row.kind) {
        (Some(text), ..) => Standing::Account(role(text)?),
        (None, Some(_), Some(text)) => match kind(text)? {
            // A bot makes them for people, not for itself.
            TokenKind::Bot => Standing::Named,
            kind => Standing::Token(kind),
        },
        // A session ends with its token: this one has just gone.
        (None, Some(_), None) => Standing::Token(TokenKind::Agent),
        (None, None, _) => Standing::Named,
    };
    Ok(Found {
        id: after("session", row.id.parse())?,
        principal: from_json(&row.principal)?,
        account: after("session", row.account.map(|name| name.parse()).transpose())?,
        standing,
        rotated_ms: row.rotated_ms,
        used_ms: row.used_ms,
        is_newest: row.is_newest,
    })
}

type Listed = (String, Option<String>, Option<String>, i64, i64, i64);

fn info((id, address, user_agent, created, used, expires): Listed) -> Result<SessionInfo, StoreError> {
    Ok(SessionInfo {
        id: after("session", id.parse())?,
        current: false,
        address,
        user_agent,
        created_at: moment("session", created)?,
        used_at: moment("session", used)?,
        expires_at: moment("session", expires)?,
    })
}

fn to_json(principal: &Principal) -> Result<String, StoreError> {
    serde_json::to_string(principal)
        .map_err(|error| StoreError::Corrupt { table: "session", problem: error.to_string() })
}

fn from_json(text: &str) -> Result<Principal, StoreError> {
    serde_json::from_str(text)
        .map_err(|error| StoreError::Corrupt { table: "session", problem: error.to_string() })
}
