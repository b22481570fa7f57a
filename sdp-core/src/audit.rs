//! The audit: who did what, when, from where, and what came of it. Entries are added and never changed.
//!
//! The server writes one for each request that was to change something, whether it did or was refused, before it answers;
//! the commands on its host that write to the database, one each; the store, in the same transaction as the event, for what SDP
//! ends by itself (`automatic`). Each entry's digest is over the one before and its own fields, so that a row that was
//! changed or taken out later is found ([`Audit::verify`]); who can write the database can also write a whole new chain.
//!
//! ```text
//! digest(n) = SHA-256( digest(n-1) ‖ seq ‖ time ‖ who ‖ via ‖ address ‖ action ‖ target ‖ result ‖ request )
//!             each field behind its length in bytes (8, little-endian); one that is missing: eight times 255
//! ```
//! Invariant: what an entry says was written durably before anybody was told the outcome, but for a full disk: then the server
//! answers all the same and says in its log that there is no entry. A server that is killed between an effect and its entry
//! leaves the event, which names who caused it, and no entry.
//!
//! Limits: a text is cut at [`LONGEST`] characters. Nothing is ever dropped; an entry takes about 350 bytes.

use std::path::PathBuf;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use sha2::{Digest, Sha256};

use crate::access::{AccessError, is_token};
pub use crate::api::{AuditEntry, AuditVia, AuditWho};
use crate::deployment::Outcome;
use crate::event::{Event, EventKind};
use crate::failure::FailureReason;
use crate::platform::Platform;
use crate::principal::Principal;
use crate::store::{Store, StoreError};

/// What was done; every other result is the code of a refusal.
pub const DONE: &str = "done";
/// More of a text is not kept, in characters.
pub const LONGEST: usize = 300;
/// How many entries are read at once where all are.
const PAGE: u32 = 500;
const COLUMNS: &str = "seq, at_ms, who, via, address, action, target, result, request, digest";

/// An entry to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEntry {
    /// Who it was.
    pub who: AuditWho,
    /// Through what.
    pub via: AuditVia,
    /// From where, if that is known.
    pub address: Option<String>,
    /// What was asked for: the API's name of the operation.
    pub action: String,
    /// On what.
    pub target: Option<String>,
    /// [`DONE`], or the code of the refusal.
    pub result: String,
    /// The request's id, as the answer's header has it.
    pub request: Option<String>,
}

/// Which entries to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Only older ones than this.
    pub before: Option<u64>,
    /// Only of this name, whoever has it.
    pub who: Option<String>,
    /// Only this action.
    pub action: Option<String>,
    /// Only with this result.
    pub result: Option<String>,
    /// Only through this.
    pub via: Option<AuditVia>,
    /// At most so many, newest first.
    pub limit: u32,
}

/// What a look at the whole chain found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chain {
    /// So many entries, each as it was written.
    Whole {
        /// How many.
        entries: u64,
    },
    /// From this entry on it is not what was written.
    Broken {
        /// The first that does not follow from those before.
        at: u64,
    },
}

/// The audit of a data folder. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Audit {
    store: Store,
}

impl Audit {
    /// That of a running platform.
    #[must_use]
    pub fn of(platform: &Platform) -> Self {
        Self { store: platform.store().clone() }
    }

    /// That of a data folder, beside a server that may be running on it or not; [`close`](Self::close) it soon.
    ///
    /// # Errors
    /// When the database cannot be opened.
    pub async fn open(data_dir: impl Into<PathBuf>) -> Result<Self, AccessError> {
        Ok(Self { store: Store::open_beside(&data_dir.into()).await? })
    }

    /// Closes the database that [`open`](Self::open) opened.
    pub async fn close(&self) {
        self.store.close().await;
    }

    /// Writes an entry, and returns when it is on disk.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn record(&self, entry: NewEntry) -> Result<(), AccessError> {
        let now = Timestamp::now();
        Ok(self.store.write(move |connection| insert(connection, now, entry)).await?)
    }

    /// Entries, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list(&self, filter: AuditFilter) -> Result<Vec<AuditEntry>, AccessError> {
        let rows = self.store.read(move |connection| {
            let sql = format!(
                "SELECT {COLUMNS} FROM audit
                 WHERE (?1 IS NULL OR seq < ?1)
                   AND (?2 IS NULL OR coalesce(json_extract(who, '$.principal.person'), json_extract(who, '$.principal.name'),
                                               json_extract(who, '$.name'), 'SDP') = ?2)
                   AND (?3 IS NULL OR action = ?3) AND (?4 IS NULL OR result = ?4) AND (?5 IS NULL OR via = ?5)
                 ORDER BY seq DESC LIMIT ?6"
            );
            let mut statement = connection.prepare_cached(&sql)?;
            let before = filter.before.map(|seq| i64::try_from(seq).unwrap_or(i64::MAX));
            let via = filter.via.map(AuditVia::as_str);
            let found = statement
                .query_map(params![before, filter.who, filter.action, filter.result, via, filter.limit], columns)?;
            found.map(|row| Ok(read(row?)?.0)).collect::<Result<Vec<_>, StoreError>>()
        });
        Ok(rows.await?)
    }

    /// The entries after this one, oldest first, at most a page of them; none: that were all.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn after(&self, seq: u64) -> Result<Vec<AuditEntry>, AccessError> {
        let rows = self.store.read(move |connection| page(connection, seq));
        Ok(rows.await?.into_iter().map(|(entry, _)| entry).collect())
    }

    /// Goes through the whole chain.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn verify(&self) -> Result<Chain, AccessError> {
        let (mut entries, mut seq, mut before) = (0, 0, vec![0; 32]);
        loop {
            let rows = self.store.read(move |connection| page(connection, seq)).await?;
            let Some((last, _)) = rows.last() else { return Ok(Chain::Whole { entries }) };
            let last = last.seq;
            for (entry, digest) in rows {
                entries += 1;
                if entry.seq != entries || digest_of(&before, &entry)? != digest {
                    return Ok(Chain::Broken { at: entry.seq });
                }
                before = digest;
            }
            seq = last;
        }
    }
}

/// What SDP ended by itself and people should be able to look up: deployments for which nobody was there, or that could not be
/// gone on with, and instances whose agent is gone. What a build or a service did is its own story.
pub(crate) fn automatic(event: &Event) -> Option<NewEntry> {
    use FailureReason::{
        AgentLost, AgentUnresponsive, CredentialsGone, LogIncomplete, NoAgent, QueueTimeout, RouteNotApplied,
    };
    if event.by != Principal::System {
        return None;
    }
    let (action, result) = match &event.kind {
        EventKind::DeploymentEnded { outcome: Outcome::Failed { failure }, .. } => match failure.reason {
            reason @ (NoAgent | QueueTimeout | AgentUnresponsive | AgentLost | RouteNotApplied
            | CredentialsGone | LogIncomplete) => ("end_deployment", reason.code()),
            _ => return None,
        },
        EventKind::InstanceLost {} => ("lose_instance", AgentLost.code()),
        _ => return None,
    };
    let about = &event.about;
    let mut target = Vec::new();
    target.extend(about.service.as_ref().map(ToString::to_string));
    target.extend(about.sandbox.as_ref().map(|sandbox| format!("in {sandbox}")));
    target.extend(about.agent.as_ref().map(|agent| format!("at {agent}")));
    target.extend(about.deployment.map(|id| format!("({id})")));
    Some(NewEntry {
        who: AuditWho::Known { principal: Principal::System },
        via: AuditVia::Automatic,
        address: None,
        action: action.to_owned(),
        target: Some(target.join(" ")),
        result: result.to_owned(),
        request: None,
    })
}

/// Writes an entry behind the last one.
pub(crate) fn insert(connection: &Connection, now: Timestamp, new: NewEntry) -> Result<(), StoreError> {
    let last: Option<(i64, Vec<u8>)> = connection
        .prepare_cached("SELECT seq, digest FROM audit ORDER BY seq DESC LIMIT 1")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (seq, before) = last.unwrap_or((0, vec![0; 32]));
    let entry = AuditEntry {
        seq: seq.unsigned_abs() + 1,
        // As precise as the row.
        at: Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now),
        who: match new.who {
            AuditWho::Claimed { name } => AuditWho::Claimed { name: shown(&name) },
            AuditWho::Host { name } => AuditWho::Host { name: shown(&name) },
            known => known,
        },
        via: new.via,
        address: new.address.as_deref().map(shown),
        action: shown(&new.action),
        target: new.target.as_deref().map(shown),
        result: shown(&new.result),
        request: new.request.as_deref().map(shown),
    };
    let digest = digest_of(&before, &entry)?;
    connection
        .prepare_cached(&format!(
            "INSERT INTO audit ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"
        ))?
        .execute(params![
            seq + 1,
            entry.at.as_millisecond(),
            who_text(&entry.who)?,
            entry.via.as_str(),
            entry.address,
            entry.action,
            entry.target,
            entry.result,
            entry.request,
            digest
        ])?;
    Ok(())
}

/// A text that may come from anywhere, on one line; what looks like a token is no text.
fn shown(text: &str) -> String {
    if text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(is_token) {
        return "[a token]".to_owned();
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect()
}

fn page(connection: &Connection, after: u64) -> Result<Vec<(AuditEntry, Vec<u8>)>, StoreError> {
    let after = i64::try_from(after).unwrap_or(i64::MAX);
    let sql = format!("SELECT {COLUMNS} FROM audit WHERE seq > ?1 ORDER BY seq LIMIT ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map(params![after, PAGE], columns)?;
    rows.map(|row| read(row?)).collect()
}

fn digest_of(before: &[u8], entry: &AuditEntry) -> Result<Vec<u8>, StoreError> {
    let mut hash = Sha256::new();
    hash.update(before);
    let mut field = |bytes: Option<&[u8]>| match bytes {
        Some(bytes) => {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        }
        None => hash.update([255; 8]),
    };
    field(Some(&entry.seq.to_le_bytes()));
    field(Some(&entry.at.as_millisecond().to_le_bytes()));
    field(Some(who_text(&entry.who)?.as_bytes()));
    field(Some(entry.via.as_str().as_bytes()));
    field(entry.address.as_deref().map(str::as_bytes));
    field(Some(entry.action.as_bytes()));
    field(entry.target.as_deref().map(str::as_bytes));
    field(Some(entry.result.as_bytes()));
    field(entry.request.as_deref().map(str::as_bytes));
    Ok(hash.finalize().to_vec())
}

fn who_text(who: &AuditWho) -> Result<String, StoreError> {
    serde_json::to_string(who).map_err(|error| corrupt(&error))
}

fn corrupt(problem: &dyn std::fmt::Display) -> StoreError {
    StoreError::Corrupt { table: "audit", problem: problem.to_string() }
}

struct Columns {
    seq: i64,
    at_ms: i64,
    who: String,
    via: String,
    address: Option<String>,
    action: String,
    target: Option<String>,
    result: String,
    request: Option<String>,
    digest: Vec<u8>,
}

fn columns(row: &Row<'_>) -> rusqlite::Result<Columns> {
    Ok(Columns {
        seq: row.get(0)?,
        at_ms: row.get(1)?,
        who: row.get(2)?,
        via: row.get(3)?,
        address: row.get(4)?,
        action: row.get(5)?,
        target: row.get(6)?,
        result: row.get(7)?,
        request: row.get(8)?,
        digest: row.get(9)?,
    })
}

fn read(row: Columns) -> Result<(AuditEntry, Vec<u8>), StoreError> {
    let entry = AuditEntry {
        seq: row.seq.unsigned_abs(),
        at: Timestamp::from_millisecond(row.at_ms).map_err(|error| corrupt(&error))?,
        who: serde_json::from_str(&row.who).map_err(|error| corrupt(&error))?,
        via: AuditVia::parse(&row.via).ok_or_else(|| corrupt(&row.via))?,
        address: row.address,
        action: row.action,
        target: row.target,
        result: row.result,
        request: row.request,
    };
    Ok((entry, row.digest))
}

#[cfg(test)]
mod tests;
