//! Enrolment: how an agent comes by its token without anybody having carried that token about.
//!
//! ```text
//! admin: create_enrolment ─▶ sdpe_…, for one agent, once, within an hour ─▶ carried to the VM
//!                                      agent: enrol(sdpe_…) ─▶ sdpa_…, its own; the enrolment and its token before are worthless
//! ```
//! Called by the server's routes, and on its host by `sdp-server enrol`. Invariants: of both values only hashes are kept; using up
//! the enrolment and making the token is one transaction, so of two that come at once one wins. There is one enrolment for each
//! agent: a newer one replaces it. Which agent it is comes from the table, never from who presents it.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::value::{ENROLMENT, hash, is_token, new_value, prefix};
use super::{Access, AccessError, after};
use crate::api::{Enrolled, EnrolmentCreated, TokenKind};
use crate::name::{AgentName, TokenName};
use crate::store::StoreError;

/// How long an enrolment works.
pub const ENROLMENT_LIFE: Duration = Duration::from_secs(3600);

impl Access {
    /// Makes an enrolment for an agent, known or new. Its value is in the answer and nowhere else. The token that the agent has
    /// works on until the enrolment is used.
    ///
    /// # Errors
    /// [`AccessError::TokenExists`] if what has the agent's name is another kind of token.
    pub async fn create_enrolment(&self, agent: AgentName) -> Result<EnrolmentCreated, AccessError> {
        let token = new_value(ENROLMENT)?;
        let hash = hash(token.expose());
        let expires_at = Timestamp::now().checked_add(ENROLMENT_LIFE).unwrap_or(Timestamp::MAX);
        let name = agent.clone();
        let made = self.store.write(move |connection| {
            if !is_free(connection, &name)? {
                return Ok(false);
            }
            connection.execute(
                "INSERT INTO enrolment (hash, agent, expires_ms) VALUES (?1, ?2, ?3)
                 ON CONFLICT (agent) DO UPDATE SET hash = excluded.hash, expires_ms = excluded.expires_ms",
                params![&hash[..], name.as_str(), expires_at.as_millisecond()],
            )?;
            Ok(true)
        });
        match made.await? {
            true => Ok(EnrolmentCreated { agent, token, expires_at }),
            false => Err(taken(&agent)?),
        }
    }

    /// Swaps an enrolment for the agent's own token, once. None: it was never made, was used or replaced, or is too old, which is
    /// not told apart.
    ///
    /// # Errors
    /// [`AccessError::TokenExists`] if another kind of token has taken the agent's name meanwhile; the enrolment works on.
    pub async fn enrol(&self, value: &str) -> Result<Option<Enrolled>, AccessError> {
        enum Found {
            Nothing,
            Taken(AgentName),
            Enrolled(AgentName),
        }
        if !value.starts_with(ENROLMENT) || !is_token(value) {
            return Ok(None);
        }
        let wanted = hash(value);
        let token = new_value(prefix(TokenKind::Agent))?;
        let token_hash = hash(token.expose());
        let now = Timestamp::now().as_millisecond();
        let found = self.store.write(move |connection| {
            let agent: Option<String> = connection
                .query_row(
                    "SELECT agent FROM enrolment WHERE hash = ?1 AND expires_ms > ?2",
                    params![&wanted[..], now],
                    |row| row.get(0),
                )
                .optional()?;
            let Some(agent) = agent else { return Ok(Found::Nothing) };
            let agent: AgentName = after("enrolment", agent.parse())?;
            if !is_free(connection, &agent)? {
                return Ok(Found::Taken(agent));
            }
            forget(connection, &agent)?;
            connection.execute(
                "INSERT INTO token (name, kind, hash, created_ms) VALUES (?1, 'agent', ?2, ?3)",
                params![agent.as_str(), &token_hash[..], now],
            )?;
            Ok(Found::Enrolled(agent))
        });
        match found.await? {
            Found::Nothing => Ok(None),
            Found::Taken(agent) => Err(taken(&agent)?),
            Found::Enrolled(agent) => {
                self.revoked();
                Ok(Some(Enrolled { agent, token }))
            }
        }
    }

    /// Makes an agent's token and its enrolment worthless; whether there was one of them.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget_agent(&self, agent: &AgentName) -> Result<bool, AccessError> {
        let agent = agent.clone();
        let forgotten = self.store.write(move |connection| forget(connection, &agent)).await?;
        self.revoked();
        Ok(forgotten)
    }
}

fn taken(agent: &AgentName) -> Result<AccessError, AccessError> {
    let name = TokenName::parse(agent.as_str()).map_err(AccessError::InvalidAgentName)?;
    Ok(AccessError::TokenExists { name })
}

/// Whether no token but an agent's has this name.
fn is_free(connection: &Connection, agent: &AgentName) -> Result<bool, StoreError> {
    let sql = "SELECT count(*) FROM token WHERE name = ?1 AND kind <> 'agent'";
    let others: i64 = connection.query_row(sql, [agent.as_str()], |row| row.get(0))?;
    Ok(others == 0)
}

/// Takes away what an agent could come in with; whether there was anything.
pub(crate) fn forget(connection: &Connection, agent: &AgentName) -> Result<bool, StoreError> {
    let tokens =
        connection.execute("DELETE FROM token WHERE name = ?1 AND kind = 'agent'", [agent.as_str()])?;
    let enrolments = connection.execute("DELETE FROM enrolment WHERE agent = ?1", [agent.as_str()])?;
    Ok(tokens + enrolments > 0)
}
