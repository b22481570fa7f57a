//! Accounts: people who logged in with a git account, what they may do, and the credential they logged in with.
//!
//! ```text
//! a git host has vouched for user and password ─▶ log_in ─▶ account (new or known) + sealed credential + session
//!                                                             └─ with a link from chat: + binding
//! ```
//! The credential is kept as long as its person has a session or a binding that holds, and goes only into commands whose
//! repository lies at the origin that vouched for it.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::session::{self, Origin};
use super::value::hash;
use super::{Access, AccessError, after, moment};
use crate::api::{BindingInfo, Person};
use crate::id::SessionId;
use crate::name::{PersonName, RepoUrl};
use crate::principal::{Principal, Role};
use crate::secret::{GitCredential, Secret};
use crate::store::StoreError;
use crate::vault::{Vault, VaultError};

const COLUMNS: &str = "name, role, git_origin, git_user, created_ms, login_ms,
    EXISTS (SELECT 1 FROM credential WHERE account = account.name)";
/// Its credential is kept only as long as this is true of an account; `?2` is now.
const IS_LOGGED_IN: &str =
    "(EXISTS (SELECT 1 FROM session WHERE session.account = ?1 AND session.expires_ms > ?2)
    OR EXISTS (SELECT 1 FROM binding WHERE binding.account = ?1 AND binding.expires_ms > ?2))";

/// Somebody whose git host has just said that user and password are right.
#[derive(Clone, Debug)]
pub struct Vouched {
    /// The git host: scheme, host and port.
    pub origin: String,
    /// The name under which the host knows them.
    pub user: String,
    /// What they logged in with.
    pub credential: GitCredential,
    /// What they may do if they have never been here; one who has keeps their role.
    pub role: Role,
    /// Whether the configuration makes them an admin.
    pub is_admin: bool,
}

/// Somebody has logged in.
#[derive(Clone, Debug)]
pub struct LoggedIn {
    /// Who.
    pub person: Person,
    /// The session's value; it goes into a cookie.
    pub session: Secret,
    /// The session's id.
    pub id: SessionId,
    /// Which user of a chat they are from now on, if they came by a link from there.
    pub bound: Option<BindingInfo>,
}

/// What is sealed.
#[derive(Serialize, Deserialize)]
struct Kept {
    origin: String,
    username: String,
    password: Secret,
}

impl Access {
    /// Logs somebody in whom their git host has vouched for: makes or finds their account, keeps their credential sealed and
    /// begins a session; with a `link` from chat, binds that chat's user to the account.
    ///
    /// # Errors
    /// [`AccessError::LinkUsed`] if there is a link and it does not work (any more): then nothing is done.
    pub async fn log_in(
        &self,
        vouched: Vouched,
        link: Option<&str>,
        from: Origin,
        binding_life: std::time::Duration,
    ) -> Result<LoggedIn, AccessError> {
        let vault = self.vault()?;
        let link = link.map(hash);
        let (id, session) = (SessionId::new(), super::value::random()?);
        let value = hash(session.expose());
        let now = Timestamp::now();
        let done = self.store.write(move |connection| {
            let chat_user = match link {
                None => None,
                Some(link) => match super::binding::use_up(connection, &link, now)? {
                    None => return Ok(Err(AccessError::LinkUsed)),
                    found => found,
                },
            };
            let name = find_or_make(connection, &vouched, now)?;
            let kept = Kept {
                origin: vouched.origin,
                username: vouched.credential.username,
                password: vouched.credential.password,
            };
            let Ok(sealed) = seal(&vault, &name, &kept) else {
                return Err(StoreError::Corrupt {
                    table: "credential",
                    problem: "it cannot be sealed".into(),
                });
            };
            connection.execute(
                "INSERT INTO credential (account, sealed) VALUES (?1, ?2)
                 ON CONFLICT (account) DO UPDATE SET sealed = excluded.sealed",
                params![name.as_str(), sealed],
            )?;
            let begun = session::Begun {
                principal: Principal::person(name.clone()),
                account: Some(name.clone()),
                token: None,
                binding: None,
            };
            session::insert(connection, id, &value, &begun, &from, now)?;
            let bound = chat_user
                .map(|chat_user| super::binding::bind(connection, chat_user, &name, now, binding_life))
                .transpose()?;
            Ok(Ok((person(connection, &name)?, bound)))
        });
        let (person, bound) = done.await??;
        let person = person.ok_or_else(|| corrupt("it was just made".into()))?;
        Ok(LoggedIn { person, session, id, bound })
    }

    /// All people who ever logged in, by name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn people(&self) -> Result<Vec<Person>, AccessError> {
        let rows = self.store.read(|connection| {
            let mut statement =
                connection.prepare(&format!("SELECT {COLUMNS} FROM account ORDER BY name"))?;
            let rows = statement.query_map([], columns)?;
            rows.map(|row| read(row?)).collect::<Result<Vec<_>, StoreError>>()
        });
        Ok(rows.await?)
    }

    /// One person's account, if there is one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn person(&self, name: &PersonName) -> Result<Option<Person>, AccessError> {
        let name = name.clone();
        Ok(self.store.read(move |connection| person(connection, &name)).await?)
    }

    /// Changes what a person may do, from their next request on.
    ///
    /// # Errors
    /// [`AccessError::UnknownPerson`].
    pub async fn set_role(&self, name: &PersonName, role: Role) -> Result<Person, AccessError> {
        let wanted = name.clone();
        let changed = self.store.write(move |connection| {
            connection.execute(
                "UPDATE account SET role = ?2 WHERE name = ?1",
                params![wanted.as_str(), role.as_str()],
            )?;
            person(connection, &wanted)
        });
        changed.await?.ok_or_else(|| AccessError::UnknownPerson { name: name.clone() })
    }

    /// Forgets an account with all that opens a door in its name: sessions, bindings, tokens, the credential. The person can log
    /// in again, as somebody new.
    ///
    /// # Errors
    /// [`AccessError::UnknownPerson`].
    pub async fn delete_person(&self, name: &PersonName) -> Result<(), AccessError> {
        let wanted = name.clone();
        let deleted = self.store.write(move |connection| {
            Ok(connection.execute("DELETE FROM account WHERE name = ?1", [wanted.as_str()])?)
        });
        match deleted.await? {
            0 => Err(AccessError::UnknownPerson { name: name.clone() }),
            _ => {
                self.revoked();
                Ok(())
            }
        }
    }

    /// Ends all that a person began: every session and binding, and with them the credential. Tokens stay.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn log_out_everywhere(&self, name: &PersonName) -> Result<(), AccessError> {
        let name = name.clone();
        let now = Timestamp::now();
        let done = self.store.write(move |connection| {
            for table in ["session", "binding", "sign_in_code"] {
                connection.execute(&format!("DELETE FROM {table} WHERE account = ?1"), [name.as_str()])?;
            }
            forget_credential(connection, &name, now)
        });
        done.await?;
        self.revoked();
        Ok(())
    }

    /// Forgets all git credentials: where nobody logs in, a name in chat is no proof of whose they are.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget_credentials(&self) -> Result<(), AccessError> {
        let done = self.store.write(|connection| {
            connection.execute("DELETE FROM credential", [])?;
            Ok(())
        });
        Ok(done.await?)
    }

    /// Drops what has expired: sessions, bindings, links, codes, tokens, and the credentials of those who are not logged in any
    /// more. The server calls it now and then; whoever asks before it gets the same answers.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sweep(&self) -> Result<(), AccessError> {
        let at = Timestamp::now();
        let now = at.as_millisecond();
        let swept = self.store.write(move |connection| {
            super::token::sweep(connection, at)?;
            super::binding::sweep(connection, at)?;
            for table in ["session", "login_link", "sign_in_code", "enrolment"] {
                connection.execute(&format!("DELETE FROM {table} WHERE expires_ms <= ?1"), [now])?;
            }
            let sql = format!(
                "DELETE FROM credential WHERE NOT {}",
                IS_LOGGED_IN.replace("?1", "credential.account")
            );
            connection.execute(&sql.replace("?2", "?1"), [now])?;
            Ok(())
        });
        Ok(swept.await?)
    }
}

/// The git credential of a person who is logged in, for a repository at the origin that vouched for it.
pub(crate) fn credential(
    connection: &Connection,
    vault: &Vault,
    name: &PersonName,
    repo: &RepoUrl,
    now: Timestamp,
) -> Result<Option<GitCredential>, StoreError> {
    let sql = format!("SELECT sealed FROM credential WHERE account = ?1 AND {IS_LOGGED_IN}");
    let sealed: Option<Vec<u8>> = connection
        .prepare_cached(&sql)?
        .query_row(params![name.as_str(), now.as_millisecond()], |row| row.get(0))
        .optional()?;
    let Some(sealed) = sealed else { return Ok(None) };
    // With another key they are as good as gone: the person logs in again.
    let Ok(opened) = vault.open(&place(name), &sealed) else { return Ok(None) };
    let kept: Option<Kept> = serde_json::from_slice(&opened).ok();
    Ok(kept
        .filter(|kept| repo.origin().as_deref() == Some(kept.origin.as_str()))
        .map(|kept| GitCredential { username: kept.username, password: kept.password }))
}

/// Drops the credential of a person who has neither session nor binding any more.
pub(super) fn forget_credential(
    connection: &Connection,
    name: &PersonName,
    now: Timestamp,
) -> Result<(), StoreError> {
    let sql = format!("DELETE FROM credential WHERE account = ?1 AND NOT {IS_LOGGED_IN}");
    connection.execute(&sql, params![name.as_str(), now.as_millisecond()])?;
    Ok(())
}

pub(super) fn exists(connection: &Connection, name: &PersonName) -> Result<bool, StoreError> {
    let found = connection
        .prepare_cached("SELECT 1 FROM account WHERE name = ?1")?
        .query_row([name.as_str()], |_| Ok(()))
        .optional()?;
    Ok(found.is_some())
}

fn person(connection: &Connection, name: &PersonName) -> Result<Option<Person>, StoreError> {
    let row = connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM account WHERE name = ?1"))?
        .query_row([name.as_str()], columns)
        .optional()?;
    row.map(read).transpose()
}

/// The name of an account, which is the git host's if that is free and can be a name.
fn find_or_make(
    connection: &Connection,
    vouched: &Vouched,
    now: Timestamp,
) -> Result<PersonName, StoreError> {
    let Vouched { origin, user, .. } = vouched;
    let known: Option<String> = connection
        .query_row(
            "SELECT name FROM account WHERE git_origin = ?1 AND git_user = ?2",
            [origin, user],
            |row| row.get(0),
        )
        .optional()?;
    let now = now.as_millisecond();
    if let Some(name) = known {
        let sql = if vouched.is_admin {
            "UPDATE account SET login_ms = ?2, role = 'admin' WHERE name = ?1"
        } else {
            "UPDATE account SET login_ms = ?2 WHERE name = ?1"
        };
        connection.execute(sql, params![name, now])?;
        return after("account", name.parse());
    }
    let wanted = name_of(user);
    let role = if vouched.is_admin { Role::Admin } else { vouched.role };
    for n in 1..1000 {
        let name = if n == 1 { wanted.clone() } else { format!("{wanted}-{n}") };
        let made = connection.execute(
            "INSERT INTO account (name, git_origin, git_user, role, created_ms, login_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?5) ON CONFLICT (name) DO NOTHING",
            params![name, origin, user, role.as_str(), now],
        )?;
        if made == 1 {
            return after("account", name.parse());
        }
    }
    Err(corrupt(format!("there are a thousand people named {wanted}")))
}

fn corrupt(problem: String) -> StoreError {
    StoreError::Corrupt { table: "account", problem }
}

/// A git host's user name as a person's name.
fn name_of(user: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-@+".contains(c);
    let name: String = user.chars().map(|c| if allowed(c) { c } else { '-' }).take(90).collect();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    if name.is_empty() { "person".to_owned() } else { name.to_owned() }
}

fn place(name: &PersonName) -> String {
    format!("credential/{name}")
}

fn seal(vault: &Vault, name: &PersonName, kept: &Kept) -> Result<Vec<u8>, VaultError> {
    let text = Zeroizing::new(serde_json::to_vec(kept).map_err(|_| VaultError::Damaged)?);
    vault.seal(&place(name), &text)
}

struct Columns {
    name: String,
    role: String,
    git_origin: String,
    git_user: String,
    created_ms: i64,
    login_ms: i64,
    has_credential: bool,
}

fn columns(row: &Row<'_>) -> rusqlite::Result<Columns> {
    Ok(Columns {
        name: row.get(0)?,
        role: row.get(1)?,
        git_origin: row.get(2)?,
        git_user: row.get(3)?,
        created_ms: row.get(4)?,
        login_ms: row.get(5)?,
        has_credential: row.get(6)?,
    })
}

fn read(row: Columns) -> Result<Person, StoreError> {
    Ok(Person {
        name: after("account", row.name.parse())?,
        role: role(&row.role)?,
        git_origin: row.git_origin,
        git_user: row.git_user,
        created_at: moment("account", row.created_ms)?,
        logged_in_at: moment("account", row.login_ms)?,
        has_credential: row.has_credential,
    })
}

pub(super) fn role(text: &str) -> Result<Role, StoreError> {
    match text {
        "viewer" => Ok(Role::Viewer),
        "developer" => Ok(Role::Developer),
        "admin" => Ok(Role::Admin),
        other => Err(StoreError::Corrupt { table: "account", problem: format!("role {other}") }),
    }
}
