//! Secrets of services as they are stored: sealed values, or names of files on agents. Saved in the turn that sets them,
//! loaded with what a start needs.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::StoreError;
use super::rows::{json, parse};
use crate::name::{EnvName, FileName, InvalidName, ServiceName};
use crate::principal::Principal;
use crate::secret::GivenTo;

/// A secret of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SecretRow {
    pub(crate) service: ServiceName,
    /// The variable.
    pub(crate) name: EnvName,
    pub(crate) given_to: GivenTo,
    pub(crate) kept: Kept,
    pub(crate) by: Principal,
    pub(crate) at: Timestamp,
}

/// Where its value is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Here, for the place [`SecretRow::place`].
    Sealed(Arc<[u8]>),
    /// In a file on the agent.
    File(FileName),
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sealed(_) => f.write_str("Sealed(…)"),
            Self::File(name) => f.debug_tuple("File").field(name).finish(),
        }
    }
}

impl SecretRow {
    /// What a value is sealed for: it opens nowhere else.
    pub(crate) fn place(service: &ServiceName, name: &EnvName) -> String {
        format!("secret/{service}/{name}")
    }

    pub(super) fn save(&self, db: &Connection) -> Result<(), StoreError> {
        let (file, sealed) = match &self.kept {
            Kept::Sealed(sealed) => (None, Some(&sealed[..])),
            Kept::File(name) => (Some(name.as_str()), None),
        };
        let given_to = match self.given_to {
            GivenTo::Build => "build",
            GivenTo::Run => "run",
            GivenTo::Both => "both",
        };
        db.prepare_cached(
            "INSERT OR REPLACE INTO secret (service, name, given_to, file, sealed, by, at_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            self.service.as_str(),
            self.name.as_str(),
            given_to,
            file,
            sealed,
            json(&self.by)?,
            self.at.as_millisecond()
        ])?;
        Ok(())
    }

    pub(super) fn remove(db: &Connection, service: &ServiceName, name: &EnvName) -> Result<(), StoreError> {
        db.prepare_cached("DELETE FROM secret WHERE service = ?1 AND name = ?2")?
            .execute([service.as_str(), name.as_str()])?;
        Ok(())
    }

    pub(super) fn all(db: &Connection) -> Result<Vec<Self>, StoreError> {
        let corrupt = |problem: String| StoreError::Corrupt { table: "secret", problem };
        let invalid = |error: InvalidName| corrupt(error.to_string());
        let mut statement = db.prepare(
            "SELECT service, name, given_to, file, sealed, by, at_ms FROM secret ORDER BY service, name",
        )?;
        let mut rows = statement.query([])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let kept = match (row.get::<_, Option<String>>(3)?, row.get::<_, Option<Vec<u8>>>(4)?) {
                (Some(file), None) => Kept::File(FileName::parse(file).map_err(invalid)?),
                (None, Some(sealed)) => Kept::Sealed(sealed.into()),
                _ => return Err(corrupt("neither a value nor a file".to_owned())),
            };
            found.push(Self {
                service: ServiceName::parse(row.get::<_, String>(0)?).map_err(invalid)?,
                name: EnvName::parse(row.get::<_, String>(1)?).map_err(invalid)?,
                given_to: match row.get_ref(2)?.as_str().map_err(|error| corrupt(error.to_string()))? {
                    "build" => GivenTo::Build,
                    "run" => GivenTo::Run,
                    "both" => GivenTo::Both,
                    other => return Err(corrupt(format!("it is given to {other}"))),
                },
                kept,
                by: parse("secret", row.get_ref(5)?)?,
                at: Timestamp::from_millisecond(row.get(6)?).map_err(|error| corrupt(error.to_string()))?,
            });
        }
        Ok(found)
    }
}
