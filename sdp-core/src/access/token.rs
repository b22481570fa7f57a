//! API tokens: of programs, bots and agents.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use subtle::ConstantTimeEq;

use super::value::{hash, is_token, new_value, prefix};
use super::{Access, AccessError, after, moment};
use crate::api::{TokenCreated, TokenInfo, TokenKind};
use crate::name::{AgentName, PersonName, ServiceName, TokenName};
use crate::store::StoreError;

/// When a token was used last is written down at most this often, so that a request is not a write.
const USED_EVERY: i64 = 3600 * 1000;
const COLUMNS: &str = "name, kind, owner, service, created_ms, expires_ms, used_ms";

/// A token to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    /// Its name.
    pub name: TokenName,
    /// What it may do.
    pub kind: TokenKind,
    /// Whose it is: it acts as that person, and may never do more than they. None: it acts as itself.
    pub owner: Option<PersonName>,
    /// The only service it may change.
    pub service: Option<ServiceName>,
    /// Until when it works; none: until it is revoked.
    pub expires_at: Option<Timestamp>,
}

impl Access {
    /// Makes the first admin token, named `admin`, if there is no admin token at all.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn bootstrap(&self) -> Result<Option<TokenCreated>, AccessError> {
        let kind = TokenKind::Admin;
        let token = new_value(prefix(kind))?;
        let hash = hash(token.expose());
        let now = Timestamp::now();
        let name = self
            .store
            .write(move |connection| {
                if count_admins(connection, "", now)? > 0 {
                    return Ok(None);
                }
                // `admin` may be taken by a bot's or an agent's token.
                for name in
                    ["admin", "admin-2", "admin-3", "admin-4"].iter().filter_map(|name| name.parse().ok())
                {
                    let new = NewToken { name, kind, owner: None, service: None, expires_at: None };
                    if insert(connection, &new, &hash, now)? {
                        return Ok(Some(new.name));
                    }
                }
                Ok(None)
            })
            .await?;
        Ok(name.map(|name| TokenCreated { name, kind, expires_at: None, token }))
    }

    /// Makes a token that is nobody's and works until it is revoked. Its value is in the answer and nowhere else.
    ///
    /// # Errors
    /// [`AccessError::TokenExists`], [`AccessError::InvalidAgentName`].
    pub async fn create_token(&self, name: TokenName, kind: TokenKind) -> Result<TokenCreated, AccessError> {
        self.issue_token(NewToken { name, kind, owner: None, service: None, expires_at: None }).await
    }

    /// Makes a token. Its value is in the answer and nowhere else.
    ///
    /// # Errors
    /// [`AccessError::TokenExists`], [`AccessError::InvalidAgentName`], [`AccessError::UnknownPerson`].
    pub async fn issue_token(&self, new: NewToken) -> Result<TokenCreated, AccessError> {
        if new.kind == TokenKind::Agent {
            AgentName::parse(new.name.as_str()).map_err(AccessError::InvalidAgentName)?;
        }
        let token = new_value(prefix(new.kind))?;
        let hash = hash(token.expose());
        let now = Timestamp::now();
        let row = new.clone();
        let inserted = self
            .store
            .write(move |connection| {
                if let Some(owner) = &row.owner
                    && !super::account::exists(connection, owner)?
                {
                    return Ok(None);
                }
                // A name is free again when what it named has expired.
                let expired = connection.execute(
                    "DELETE FROM token WHERE name = ?1 AND expires_ms <= ?2",
                    params![row.name.as_str(), now.as_millisecond()],
                )?;
                if expired > 0 {
                    end_through(connection, row.name.as_str())?;
                }
                insert(connection, &row, &hash, now).map(Some)
            })
            .await?;
        let NewToken { name, kind, owner, expires_at, .. } = new;
        match (inserted, owner) {
            (Some(true), _) => Ok(TokenCreated { name, kind, expires_at, token }),
            (None, Some(name)) => Err(AccessError::UnknownPerson { name }),
            _ => Err(AccessError::TokenExists { name }),
        }
    }

    /// Makes a token worthless at once, and ends the sessions that were made through it. Says of which kind it was: an agent's
    /// connection is for the caller to end.
    ///
    /// # Errors
    /// [`AccessError::UnknownToken`], [`AccessError::LastAdmin`].
    pub async fn delete_token(&self, name: &TokenName) -> Result<TokenKind, AccessError> {
        self.revoke_token(name, None).await
    }

    /// As [`delete_token`](Self::delete_token), but only a token of this owner.
    ///
    /// # Errors
    /// [`AccessError::UnknownToken`].
    pub async fn delete_token_of(
        &self,
        name: &TokenName,
        owner: &PersonName,
    ) -> Result<TokenKind, AccessError> {
        self.revoke_token(name, Some(owner.clone())).await
    }

    async fn revoke_token(
        &self,
        name: &TokenName,
        owner: Option<PersonName>,
    ) -> Result<TokenKind, AccessError> {
        enum Found {
            Deleted(TokenKind),
            Unknown,
            Last,
        }
        let row_name = name.clone();
        let now = Timestamp::now();
        let found = self
            .store
            .write(move |connection| {
                let name = row_name.as_str();
                let row: Option<(String, Option<String>)> = connection
                    .query_row("SELECT kind, owner FROM token WHERE name = ?1", [name], |row| {
                        Ok((row.get(0)?, row.get(1)?))
                    })
                    .optional()?;
                let Some((kind, found_owner)) = row else { return Ok(Found::Unknown) };
                if owner.is_some_and(|owner| Some(owner.as_str()) != found_owner.as_deref()) {
                    return Ok(Found::Unknown);
                }
                if kind == "admin" && found_owner.is_none() && count_admins(connection, name, now)? == 0 {
                    return Ok(Found::Last);
                }
                connection.execute("DELETE FROM token WHERE name = ?1", [name])?;
                end_through(connection, name)?;
                Ok(Found::Deleted(self::kind(&kind)?))
            })
            .await?;
        match found {
            Found::Deleted(kind) => {
                self.revoked();
                Ok(kind)
            }
            Found::Unknown => Err(AccessError::UnknownToken { name: name.clone() }),
            Found::Last => Err(AccessError::LastAdmin { name: name.clone() }),
        }
    }

    /// All tokens by name, without their values; expired ones are named until they are swept.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn tokens(&self) -> Result<Vec<TokenInfo>, AccessError> {
        let rows = self.store.read(|connection| {
            let mut statement = connection.prepare(&format!("SELECT {COLUMNS} FROM token ORDER BY name"))?;
            let rows = statement.query_map([], columns)?;
            rows.map(|row| info(row?)).collect::<Result<Vec<_>, StoreError>>()
        });
        Ok(rows.await?)
    }

    /// The token of this value, if there is one that has not expired.
    ///
    /// # Errors
    /// When the database fails; never because of the value.
    pub async fn token(&self, value: &str) -> Result<Option<TokenInfo>, AccessError> {
        if !is_token(value) {
            return Ok(None);
        }
        let wanted = hash(value);
        let now = Timestamp::now().as_millisecond();
        let row = self.store.read(move |connection| {
            let row = connection
                .prepare_cached(&format!("SELECT {COLUMNS}, hash FROM token WHERE hash = ?1"))?
                .query_row([&wanted[..]], |row| Ok((columns(row)?, row.get::<_, Vec<u8>>(7)?)))
                .optional()?;
            match row {
                Some((row, hash)) if bool::from(hash.ct_eq(&wanted)) => {
                    let used = row.used_ms;
                    Ok(Some((info(row)?, used)))
                }
                _ => Ok(None),
            }
        });
        let Some((token, used)) = row.await? else { return Ok(None) };
        if token.expires_at.is_some_and(|end| end.as_millisecond() <= now) {
            return Ok(None);
        }
        if used.is_none_or(|used| now - used > USED_EVERY) {
            let name = token.name.clone();
            let noted = self.store.write(move |connection| {
                connection
                    .execute("UPDATE token SET used_ms = ?2 WHERE name = ?1", params![name.as_str(), now])?;
                Ok(())
            });
            // It opens the door on a full disk, too.
            if let Err(error) = noted.await {
                tracing::debug!(%error, "when a token was used could not be written down");
            }
        }
        Ok(Some(token))
    }
}

/// Ends what was made through a token that is gone: its own sessions, and whom it spoke for. Another token of the same name
/// inherits nothing.
fn end_through(connection: &Connection, name: &str) -> Result<(), StoreError> {
    connection.execute("DELETE FROM session WHERE token = ?1", [name])?;
    connection.execute("DELETE FROM sign_in_code WHERE token = ?1", [name])?;
    super::binding::delete_of_bot(connection, name)
}

/// Drops the tokens that have expired, with all that was made through them.
pub(super) fn sweep(connection: &Connection, now: Timestamp) -> Result<(), StoreError> {
    let mut statement = connection.prepare("DELETE FROM token WHERE expires_ms <= ?1 RETURNING name")?;
    let gone: Vec<String> =
        statement.query_map([now.as_millisecond()], |row| row.get(0))?.collect::<Result<_, _>>()?;
    gone.iter().try_for_each(|name| end_through(connection, name))
}

/// How many admin tokens there are that are nobody's and work, but for one.
fn count_admins(connection: &Connection, but_for: &str, now: Timestamp) -> Result<i64, StoreError> {
    let sql = "SELECT count(*) FROM token WHERE kind = 'admin' AND owner IS NULL AND name <> ?1
               AND (expires_ms IS NULL OR expires_ms > ?2)";
    Ok(connection.query_row(sql, params![but_for, now.as_millisecond()], |row| row.get(0))?)
}

fn insert(
    connection: &Connection,
    new: &NewToken,
    hash: &[u8; 32],
    now: Timestamp,
) -> Result<bool, StoreError> {
    let inserted = connection.execute(
        "INSERT INTO token (name, kind, hash, owner, service, created_ms, expires_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (name) DO NOTHING",
        params![
            new.name.as_str(),
            new.kind.as_str(),
            &hash[..],
            new.owner.as_ref().map(PersonName::as_str),
            new.service.as_ref().map(ServiceName::as_str),
            now.as_millisecond(),
            new.expires_at.map(Timestamp::as_millisecond),
        ],
    )?;
    Ok(inserted == 1)
}

struct Columns {
    name: String,
    kind: String,
    owner: Option<String>,
    service: Option<String>,
    created_ms: i64,
    expires_ms: Option<i64>,
    used_ms: Option<i64>,
}

fn columns(row: &Row<'_>) -> rusqlite::Result<Columns> {
    Ok(Columns {
        name: row.get(0)?,
        kind: row.get(1)?,
        owner: row.get(2)?,
        service: row.get(3)?,
        created_ms: row.get(4)?,
        expires_ms: row.get(5)?,
        used_ms: row.get(6)?,
    })
}

fn info(row: Columns) -> Result<TokenInfo, StoreError> {
    Ok(TokenInfo {
        name: after("token", row.name.parse())?,
        kind: kind(&row.kind)?,
        owner: after("token", row.owner.map(|owner| owner.parse()).transpose())?,
        service: after("token", row.service.map(|service| service.parse()).transpose())?,
        created_at: moment("token", row.created_ms)?,
        expires_at: row.expires_ms.map(|end| moment("token", end)).transpose()?,
        used_at: row.used_ms.map(|used| moment("token", used)).transpose()?,
    })
}

pub(super) fn kind(text: &str) -> Result<TokenKind, StoreError> {
    match text {
        "admin" => Ok(TokenKind::Admin),
        "deploy" => Ok(TokenKind::Deploy),
        "read" => Ok(TokenKind::Read),
        "bot" => Ok(TokenKind::Bot),
        "agent" => Ok(TokenKind::Agent),
        other => Err(StoreError::Corrupt { table: "token", problem: format!("kind {other}") }),
    }
}
