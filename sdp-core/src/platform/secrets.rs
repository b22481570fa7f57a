//! Secrets of services: set, listed without their values, deleted. What a person gives is checked and sealed here, before it
//! goes any further; it is opened again in [`run`](super::run), for the one message that brings it to an agent.
//!
//! Invariant: a value is in no event, no row but its own (sealed), no answer and no log.
//!
//! Limits: [`secret::MOST_OF_A_SERVICE`] secrets of a service, [`secret::LONGEST`] bytes each and
//! [`secret::MOST_BYTES_OF_A_SERVICE`] together.

use super::config::VaultKey;
use super::input::{Command, Reply};
use super::{Platform, PlatformError};
use crate::api::{SecretInfo, SecretKind};
use crate::name::{EnvName, ServiceName};
use crate::principal::Principal;
use crate::secret::{self, GivenTo};
use crate::store::{Kept, SecretRow};
use crate::vault::{Vault, VaultError};
use crate::wire::SecretSource;

impl Platform {
    /// Sets a secret of a service, or replaces it; says whether it is new. Deployments that are sent from now on get it.
    ///
    /// # Errors
    /// [`PlatformError::UnknownService`], [`PlatformError::UnfitSecret`], [`PlatformError::VariableTaken`],
    /// [`PlatformError::TooManySecrets`], [`PlatformError::SecretsNeedAKey`].
    pub async fn set_secret(
        &self,
        by: &Principal,
        service: &ServiceName,
        name: EnvName,
        source: SecretSource,
        given_to: GivenTo,
    ) -> Result<(SecretInfo, bool), PlatformError> {
        let kept = match source {
            SecretSource::Value { value } => {
                secret::check_value(value.expose())?;
                if self.config().vault == VaultKey::Memory {
                    return Err(PlatformError::SecretsNeedAKey);
                }
                let place = SecretRow::place(service, &name);
                Kept::Sealed(self.vault().seal(&place, value.expose().as_bytes())?.into())
            }
            SecretSource::File { file } => Kept::File(file),
        };
        let (service, by_whom, at) = (service.clone(), by.clone(), self.inner.clock.now());
        let secret = SecretRow { service, name, given_to, kept, by: by_whom, at };
        let shown = info(&secret);
        match self.command(by, Command::SetSecret { secret: Box::new(secret) }).await? {
            Reply::Saved { created } => Ok((shown, created)),
            _ => Err(PlatformError::Stopping),
        }
    }

    /// The secrets of a service, by name, without their values.
    ///
    /// # Errors
    /// [`PlatformError::UnknownService`].
    pub async fn secrets(&self, service: &ServiceName) -> Result<Vec<SecretInfo>, PlatformError> {
        let service = service.clone();
        self.ask(move |world| {
            world.service(&service)?;
            Ok(world.secrets_of(&service).map(info).collect())
        })
        .await?
    }

    /// Deletes a secret of a service. What runs keeps it until it is replaced.
    ///
    /// # Errors
    /// [`PlatformError::UnknownService`], [`PlatformError::UnknownSecret`].
    pub async fn delete_secret(
        &self,
        by: &Principal,
        service: &ServiceName,
        name: &EnvName,
    ) -> Result<(), PlatformError> {
        let command = Command::DeleteSecret { service: service.clone(), name: name.clone() };
        self.command(by, command).await.map(drop)
    }

    /// What seals whatever is stored and must not be read.
    #[must_use]
    pub fn vault(&self) -> &Vault {
        &self.inner.vault
    }
}

fn info(secret: &SecretRow) -> SecretInfo {
    let source = match &secret.kept {
        Kept::Sealed(_) => SecretKind::Value {},
        Kept::File(file) => SecretKind::File { file: file.clone() },
    };
    let SecretRow { name, given_to, by, at, .. } = secret;
    SecretInfo { name: name.clone(), given_to: *given_to, source, by: by.clone(), at: *at }
}

/// The vault of a platform.
pub(super) async fn open_vault(key: &VaultKey) -> Result<Vault, PlatformError> {
    let key = key.clone();
    let opened = tokio::task::spawn_blocking(move || match key {
        VaultKey::Memory => Vault::fleeting(),
        VaultKey::File(path) => Vault::from_file(&path),
        VaultKey::Credential(path) => Vault::from_credential(&path),
    });
    Ok(opened.await.map_err(|_| PlatformError::Stopping)??)
}

/// Says so if secrets cannot be opened: otherwise people would only learn it from the first deployment that fails.
pub(super) fn warn_of_unreadable(vault: &Vault, secrets: &[SecretRow]) {
    let unreadable = |secret: &&SecretRow| match &secret.kept {
        Kept::Sealed(sealed) => vault.open(&SecretRow::place(&secret.service, &secret.name), sealed).is_err(),
        Kept::File(_) => false,
    };
    let count = secrets.iter().filter(unreadable).count();
    if count > 0 {
        let hint = VaultError::OtherKey.hint();
        tracing::error!(
            count,
            "secrets of services cannot be opened, and deployments of those will fail: {hint}"
        );
    }
}
