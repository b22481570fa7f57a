//! Who may come in: API tokens, one-time sign-in codes and browser sessions, kept in the store as hashes only.
//!
//! The server asks it at every request, the command line on the server's host makes and revokes tokens with it. A value
//! is shown once, when it is made, and is then known to its holder alone.
//!
//! ```text
//! sdp_  + 43 base62 digits (256 random bits) + 6 base62 digits (CRC-32 of what is before)      admin
//! sdpb_ …                                                                                       bot
//! sdpa_ …                                                                                       agent
//! ```
//! The checksum lets scanners and typing errors be told from real tokens without asking the database. Values are looked
//! up by their SHA-256, so that comparing takes the same time whatever is presented.
//!
//! Limits: a sign-in code works once, for [`CODE_LIFE`]; a session ends [`SESSION_LIFE`] after it was last used. Revoking a
//! token ends the sessions that were made through it.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::api::{TokenCreated, TokenInfo, TokenKind};
use crate::name::{AgentName, InvalidName, TokenName};
use crate::platform::Platform;
use crate::principal::Principal;
use crate::secret::Secret;
use crate::store::{Store, StoreError};

/// How long a sign-in code can be used.
pub const CODE_LIFE: Duration = Duration::from_secs(10 * 60);
/// How long a session lives after it was last used.
pub const SESSION_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// A session's end is moved at most this often, so that reading a page is not a write.
const RENEW_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Base62 digits of 256 bits.
const RANDOM_DIGITS: usize = 43;
/// Base62 digits of a CRC-32.
const CHECK_DIGITS: usize = 6;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

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
    /// An agent's token is named like the agent.
    #[error("an agent's token is named like the agent: {0}")]
    InvalidAgentName(InvalidName),
    /// The system has no random numbers.
    #[error("the system gives no random numbers")]
    NoRandom,
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
            Self::InvalidAgentName(_) => "invalid_name",
            Self::NoRandom => "internal",
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
            Self::InvalidAgentName(invalid) => invalid.hint(),
            Self::NoRandom => "look at the server's log",
            Self::Store(error) => error.hint(),
        }
    }
}

/// A code that signs a browser in once.
#[derive(Clone, Debug)]
pub struct SignInCode {
    /// The code; it goes into a link.
    pub code: Secret,
    /// Until when it works.
    pub expires_at: Timestamp,
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

/// A session that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Who it is.
    pub principal: Principal,
    /// Whether its end was just moved, so that the browser's cookie should be too.
    pub renewed: bool,
}

/// Tokens, sign-in codes and sessions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Access {
    store: Store,
}

impl Access {
    /// That of a running platform.
    #[must_use]
    pub fn of(platform: &Platform) -> Self {
        Self { store: platform.store().clone() }
    }

    /// That of a data folder, beside a server that may be running on it or not. Where none runs this owns the folder, and a
    /// server that starts waits for a moment: [`close`](Self::close) it soon.
    ///
    /// # Errors
    /// When the database cannot be opened or made.
    pub async fn open(data_dir: impl Into<PathBuf>) -> Result<Self, AccessError> {
        Ok(Self { store: Store::open_beside(&data_dir.into()).await? })
    }

    /// Closes the database that [`open`](Self::open) opened, and returns when all is in its file. From now on nothing can be written.
    pub async fn close(&self) {
        self.store.close().await;
    }

    /// Makes the first admin token, named `admin`, if there is no admin token at all.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn bootstrap(&self) -> Result<Option<TokenCreated>, AccessError> {
        let kind = TokenKind::Admin;
        let token = new_token(kind)?;
        let hash = hash(token.expose());
        let name = self
            .store
            .write(move |connection| {
                let admins: i64 =
                    connection
                        .query_row("SELECT count(*) FROM token WHERE kind = 'admin'", [], |row| row.get(0))?;
                if admins > 0 {
                    return Ok(None);
                }
                // `admin` may be taken by a bot's or an agent's token.
                for name in
                    ["admin", "admin-2", "admin-3", "admin-4"].iter().filter_map(|name| name.parse().ok())
                {
                    if insert(connection, &name, kind, &hash)? {
                        return Ok(Some(name));
                    }
                }
                Ok(None)
            })
            .await?;
        Ok(name.map(|name| TokenCreated { name, kind, token }))
    }

    /// Makes a token. Its value is in the answer and nowhere else.
    ///
    /// # Errors
    /// [`AccessError::TokenExists`], [`AccessError::InvalidAgentName`].
    pub async fn create_token(&self, name: TokenName, kind: TokenKind) -> Result<TokenCreated, AccessError> {
        if kind == TokenKind::Agent {
            AgentName::parse(name.as_str()).map_err(AccessError::InvalidAgentName)?;
        }
        let token = new_token(kind)?;
        let hash = hash(token.expose());
        let row_name = name.clone();
        let inserted = self.store.write(move |connection| insert(connection, &row_name, kind, &hash)).await?;
        if inserted { Ok(TokenCreated { name, kind, token }) } else { Err(AccessError::TokenExists { name }) }
    }

    /// Makes a token worthless at once, and ends the sessions that were made through it.
    ///
    /// # Errors
    /// [`AccessError::UnknownToken`], [`AccessError::LastAdmin`].
    pub async fn delete_token(&self, name: &TokenName) -> Result<(), AccessError> {
        enum Found {
            Deleted,
            Unknown,
            Last,
        }
        let row_name = name.clone();
        let found = self
            .store
            .write(move |connection| {
                let name = row_name.as_str();
                let kind: Option<String> = connection
                    .query_row("SELECT kind FROM token WHERE name = ?1", [name], |row| row.get(0))
                    .optional()?;
                let others: i64 = connection.query_row(
                    "SELECT count(*) FROM token WHERE kind = 'admin' AND name <> ?1",
                    [name],
                    |row| row.get(0),
                )?;
                match kind.as_deref() {
                    None => return Ok(Found::Unknown),
                    Some("admin") if others == 0 => return Ok(Found::Last),
                    Some(_) => {}
                }
                connection.execute("DELETE FROM token WHERE name = ?1", [name])?;
                for table in ["session", "sign_in_code"] {
                    connection.execute(
                        &format!(
                            "DELETE FROM {table} WHERE json_extract(principal, '$.kind') IN ('token', 'bot')
                             AND json_extract(principal, '$.name') = ?1"
                        ),
                        [name],
                    )?;
                }
                Ok(Found::Deleted)
            })
            .await?;
        match found {
            Found::Deleted => Ok(()),
            Found::Unknown => Err(AccessError::UnknownToken { name: name.clone() }),
            Found::Last => Err(AccessError::LastAdmin { name: name.clone() }),
        }
    }

    /// All tokens by name, without their values.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn tokens(&self) -> Result<Vec<TokenInfo>, AccessError> {
        let rows = self.store.read(|connection| {
            let mut statement =
                connection.prepare("SELECT name, kind, created_ms FROM token ORDER BY name")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            rows.map(|row| info(row?)).collect::<Result<Vec<_>, StoreError>>()
        });
        Ok(rows.await?)
    }

    /// The token of this value, if there is one.
    ///
    /// # Errors
    /// When the database fails; never because of the value.
    pub async fn token(&self, value: &str) -> Result<Option<TokenInfo>, AccessError> {
        if !is_token(value) {
            return Ok(None);
        }
        let wanted = hash(value);
        let row = self.store.read(move |connection| {
            let row = connection
                .prepare_cached("SELECT name, kind, created_ms, hash FROM token WHERE hash = ?1")?
                .query_row([&wanted[..]], |row| {
                    Ok(((row.get(0)?, row.get(1)?, row.get(2)?), row.get::<_, Vec<u8>>(3)?))
                })
                .optional()?;
            match row {
                Some((row, hash)) if bool::from(hash.ct_eq(&wanted)) => info(row).map(Some),
                _ => Ok(None),
            }
        });
        Ok(row.await?)
    }

    /// Makes a code that signs a browser in once as the person behind `issuer` (or as the token that it is), and opens the
    /// page `next`, which the caller has checked.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn create_sign_in_code(
        &self,
        issuer: &Principal,
        next: &str,
    ) -> Result<SignInCode, AccessError> {
        let code = random()?;
        let hash = hash(code.expose());
        let now = Timestamp::now();
        let expires_at = now + CODE_LIFE;
        let (principal, next) = (to_json(issuer)?, next.to_owned());
        self.store
            .write(move |connection| {
                connection
                    .execute("DELETE FROM sign_in_code WHERE expires_ms <= ?1", [now.as_millisecond()])?;
                connection.execute(
                    "INSERT INTO sign_in_code (hash, principal, next, expires_ms) VALUES (?1, ?2, ?3, ?4)",
                    params![&hash[..], principal, next, expires_at.as_millisecond()],
                )?;
                Ok(())
            })
            .await?;
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
            let found = connection
                .query_row(
                    "SELECT 1 FROM sign_in_code WHERE hash = ?1 AND expires_ms > ?2",
                    params![&hash[..], now],
                    |_| Ok(()),
                )
                .optional()?;
            Ok(found.is_some())
        });
        Ok(found.await?)
    }

    /// Uses a code up and begins a session; `None` if it is unknown, used or too old.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sign_in(&self, code: &str) -> Result<Option<SignedIn>, AccessError> {
        let code = hash(code);
        let session = random()?;
        let session_hash = hash(session.expose());
        let now = Timestamp::now();
        let ends = now + SESSION_LIFE;
        let used = self
            .store
            .write(move |connection| {
                let row: Option<(String, String)> = connection
                    .query_row(
                        "DELETE FROM sign_in_code WHERE hash = ?1 AND expires_ms > ?2 RETURNING principal, next",
                        params![&code[..], now.as_millisecond()],
                        |row| Ok((row.get(0)?, row.get(1)?)),
                    )
                    .optional()?;
                let Some((principal, next)) = row else { return Ok(None) };
                connection.execute("DELETE FROM session WHERE expires_ms <= ?1", [now.as_millisecond()])?;
                connection.execute(
                    "INSERT INTO session (hash, principal, created_ms, expires_ms) VALUES (?1, ?2, ?3, ?4)",
                    params![&session_hash[..], principal, now.as_millisecond(), ends.as_millisecond()],
                )?;
                Ok(Some((from_json("sign_in_code", &principal)?, next)))
            })
            .await?;
        Ok(used.map(|(issuer, next)| SignedIn { session, principal: signed_in_as(issuer), next }))
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

    /// The session of this value, if it holds. Using it moves its end.
    ///
    /// # Errors
    /// When the database fails; never because of the value.
    pub async fn session(&self, value: &str) -> Result<Option<Session>, AccessError> {
        let hash = hash(value);
        let now = Timestamp::now();
        let row = self.store.read(move |connection| {
            let row: Option<(String, i64)> = connection
                .prepare_cached(
                    "SELECT principal, expires_ms FROM session WHERE hash = ?1 AND expires_ms > ?2",
                )?
                .query_row(params![&hash[..], now.as_millisecond()], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            row.map(|(principal, ends)| Ok((from_json("session", &principal)?, ends))).transpose()
        });
        let Some((issuer, ends)) = row.await? else { return Ok(None) };
        let new_end = (now + SESSION_LIFE).as_millisecond();
        let renewed = new_end - ends > i64::try_from(RENEW_AFTER.as_millis()).unwrap_or(i64::MAX);
        if renewed {
            self.store
                .write(move |connection| {
                    connection.execute(
                        "UPDATE session SET expires_ms = ?2 WHERE hash = ?1",
                        params![&hash[..], new_end],
                    )?;
                    Ok(())
                })
                .await?;
        }
        Ok(Some(Session { principal: signed_in_as(issuer), renewed }))
    }

    /// Ends a session; nothing happens if there is none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sign_out(&self, value: &str) -> Result<(), AccessError> {
        let hash = hash(value);
        let done = self.store.write(move |connection| {
            connection.execute("DELETE FROM session WHERE hash = ?1", [&hash[..]])?;
            Ok(())
        });
        Ok(done.await?)
    }
}

/// A link that the bot gives to a person signs in that person; one made with an admin token is that token's.
fn signed_in_as(issuer: Principal) -> Principal {
    match issuer {
        Principal::Bot { person, .. } => Principal::Person { name: person },
        other => other,
    }
}

fn insert(
    connection: &Connection,
    name: &TokenName,
    kind: TokenKind,
    hash: &[u8; 32],
) -> Result<bool, StoreError> {
    let inserted = connection.execute(
        "INSERT INTO token (name, kind, hash, created_ms) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (name) DO NOTHING",
        params![name.as_str(), kind_text(kind), &hash[..], Timestamp::now().as_millisecond()],
    )?;
    Ok(inserted == 1)
}

fn info((name, kind, created_ms): (String, String, i64)) -> Result<TokenInfo, StoreError> {
    let corrupt = |problem: String| StoreError::Corrupt { table: "token", problem };
    let kind = match kind.as_str() {
        "admin" => TokenKind::Admin,
        "bot" => TokenKind::Bot,
        "agent" => TokenKind::Agent,
        other => return Err(corrupt(format!("kind {other}"))),
    };
    Ok(TokenInfo {
        name: name.parse().map_err(|error: InvalidName| corrupt(error.to_string()))?,
        kind,
        created_at: Timestamp::from_millisecond(created_ms).map_err(|error| corrupt(error.to_string()))?,
    })
}

fn to_json(principal: &Principal) -> Result<String, StoreError> {
    serde_json::to_string(principal)
        .map_err(|error| StoreError::Corrupt { table: "sign_in_code", problem: error.to_string() })
}

fn from_json(table: &'static str, text: &str) -> Result<Principal, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Corrupt { table, problem: error.to_string() })
}

fn kind_text(kind: TokenKind) -> &'static str {
    match kind {
        TokenKind::Admin => "admin",
        TokenKind::Bot => "bot",
        TokenKind::Agent => "agent",
    }
}

fn prefix(kind: TokenKind) -> &'static str {
    match kind {
        TokenKind::Admin => "sdp_",
        TokenKind::Bot => "sdpb_",
        TokenKind::Agent => "sdpa_",
    }
}

fn new_token(kind: TokenKind) -> Result<Secret, AccessError> {
    let body = format!("{}{}", prefix(kind), random()?.expose());
    let check = base62(&crc32fast::hash(body.as_bytes()).to_be_bytes(), CHECK_DIGITS);
    Ok(Secret::new(body + &check))
}

/// Whether a text has the form of a token, checksum included.
fn is_token(text: &str) -> bool {
    let Some((_, digits)) = text.split_once('_') else { return false };
    let known = [TokenKind::Admin, TokenKind::Bot, TokenKind::Agent]
        .iter()
        .any(|kind| text.starts_with(prefix(*kind)));
    if !known
        || digits.len() != RANDOM_DIGITS + CHECK_DIGITS
        || !digits.bytes().all(|b| b.is_ascii_alphanumeric())
    {
        return false;
    }
    let (body, check) = text.split_at(text.len() - CHECK_DIGITS);
    base62(&crc32fast::hash(body.as_bytes()).to_be_bytes(), CHECK_DIGITS) == check
}

/// 256 random bits.
fn random() -> Result<Secret, AccessError> {
    let mut bytes = zeroize::Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes).map_err(|_| AccessError::NoRandom)?;
    Ok(Secret::new(base62(&*bytes, RANDOM_DIGITS)))
}

/// A big-endian number in base 62, with leading zeros up to `width` digits.
fn base62(number: &[u8], width: usize) -> String {
    let mut rest = zeroize::Zeroizing::new(number.to_vec());
    let mut digits = vec![0; width];
    for digit in digits.iter_mut().rev() {
        let mut remainder = 0u32;
        for byte in rest.iter_mut() {
            let value = (remainder << 8) | u32::from(*byte);
            *byte = u8::try_from(value / 62).unwrap_or(u8::MAX);
            remainder = value % 62;
        }
        *digit = BASE62[remainder as usize];
    }
    digits.into_iter().map(char::from).collect()
}

fn hash(value: &str) -> [u8; 32] {
    Sha256::digest(value.as_bytes()).into()
}

#[cfg(test)]
mod tests;
