//! People's own git credentials: with which a command of theirs goes to an agent, and how it is had again after a restart.
//!
//! They are sealed in the store ([`access`](crate::access)) and opened for one command. A command's own credential goes before
//! the person's. What was sent with a deployment stays in memory until its fetch has ended; a server that starts opens it anew, as
//! long as the person is logged in, else the deployment ends with `credentials_gone`.

use std::collections::HashMap;

use jiff::Timestamp;
use rusqlite::Connection;

use super::{Platform, PlatformError};
use crate::access;
use crate::deployment::{State, Step};
use crate::id::DeploymentNumber;
use crate::name::{PersonName, RepoUrl};
use crate::principal::Principal;
use crate::secret::GitCredential;
use crate::store::{Snapshot, StoreError};
use crate::vault::Vault;

/// What a command takes along.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) credential: Option<GitCredential>,
    /// Whose own it is.
    pub(super) of: Option<PersonName>,
}

impl Platform {
    /// The asker's own git credential for a repository: there is one if they are logged in with a git account, and the repository
    /// is at the host that vouched for it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn credential_of(
        &self,
        by: &Principal,
        repo: &RepoUrl,
    ) -> Result<Option<GitCredential>, PlatformError> {
        let Some(person) = by.as_person().cloned() else { return Ok(None) };
        let (vault, repo, now) = (self.inner.vault.clone(), repo.clone(), Timestamp::now());
        let found = self
            .inner
            .store
            .read(move |connection| access::credential(connection, &vault, &person, &repo, now));
        Ok(found.await?)
    }

    /// The credential that came with a command, else the asker's own.
    pub(super) async fn credential_for(
        &self,
        by: &Principal,
        repo: &RepoUrl,
        given: Option<GitCredential>,
    ) -> Result<Taken, PlatformError> {
        if given.is_some() {
            return Ok(Taken { credential: given, of: None });
        }
        let credential = self.credential_of(by, repo).await?;
        let of = credential.as_ref().and_then(|_| by.as_person().cloned());
        Ok(Taken { credential, of })
    }
}

/// The credentials of what is under way, as far as their people are logged in.
pub(super) fn again(
    connection: &Connection,
    vault: &Vault,
    snapshot: &Snapshot,
) -> Result<HashMap<DeploymentNumber, GitCredential>, StoreError> {
    let now = Timestamp::now();
    let mut found = HashMap::new();
    for (deployment, job) in &snapshot.deployments {
        let Some(person) = &job.credential_of else { continue };
        // What is fetched already needs it no more.
        if let State::Running { step } = deployment.state
            && !matches!(step, Step::Resolve | Step::Fetch)
        {
            continue;
        }
        if let Some(credential) = access::credential(connection, vault, person, &job.service.repo, now)? {
            found.insert(deployment.number, credential);
        }
    }
    Ok(found)
}
