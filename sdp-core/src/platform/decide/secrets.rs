//! What setting and deleting a service's secret does, and what a variable may be: plain or secret, never both.
//!
//! | who comes second | is |
//! | --- | --- |
//! | a secret named like a variable of the service's env | refused |
//! | a service's env with a variable named like one of its secrets | refused |
//! | a deployment's own env with such a variable, also when it is done again | refused |
//!
//! A deployment that was taken before the secret was set may have both: its agent gives it the secret.

use std::collections::BTreeMap;

use super::super::PlatformError;
use super::super::input::Reply;
use super::super::world::World;
use super::Act;
use super::commands::Verdict;
use crate::event::{About, EventKind};
use crate::name::{EnvName, ServiceName};
use crate::principal::Principal;
use crate::secret::{MOST_BYTES_OF_A_SERVICE, MOST_OF_A_SERVICE};
use crate::store::{Kept, SecretRow};
use crate::vault::OVERHEAD;

pub(super) fn set(world: &World, secret: SecretRow) -> Result<Verdict, PlatformError> {
    let service = world.service(&secret.service)?;
    if service.env.contains_key(&secret.name) {
        let (service, name) = (secret.service, secret.name);
        return Err(PlatformError::VariableTaken { service, name, is_secret: false });
    }
    let others = || world.secrets_of(&secret.service).filter(|other| other.name != secret.name);
    let bytes: usize = others().map(length).sum();
    if others().count() >= MOST_OF_A_SERVICE || bytes + length(&secret) > MOST_BYTES_OF_A_SERVICE {
        return Err(PlatformError::TooManySecrets { service: secret.service });
    }
    let created = world.secrets_of(&secret.service).all(|other| other.name != secret.name);
    Ok(Verdict::SaveSecret { secret: Box::new(secret), created })
}

/// Of its value, as far as it is known here.
fn length(secret: &SecretRow) -> usize {
    match &secret.kept {
        Kept::Sealed(sealed) => sealed.len().saturating_sub(OVERHEAD),
        Kept::File(_) => 0,
    }
}

pub(super) fn delete(
    world: &World,
    by: &Principal,
    service: ServiceName,
    name: EnvName,
) -> Result<Verdict, PlatformError> {
    world.service(&service)?;
    if world.secrets_of(&service).all(|secret| secret.name != name) {
        return Err(PlatformError::UnknownSecret { service, name });
    }
    let about = About { service: Some(service), ..About::default() };
    let deleted = Act::Event { by: by.clone(), about, kind: EventKind::SecretDeleted { name } };
    Ok(Verdict::Do(vec![deleted], Reply::Done))
}

/// Whether none of these plain variables is a secret of the service.
pub(super) fn check_plain(
    world: &World,
    service: &ServiceName,
    env: &BTreeMap<EnvName, String>,
) -> Result<(), PlatformError> {
    match world.secrets_of(service).find(|secret| env.contains_key(&secret.name)) {
        Some(secret) => {
            let (service, name) = (service.clone(), secret.name.clone());
            Err(PlatformError::VariableTaken { service, name, is_secret: true })
        }
        None => Ok(()),
    }
}
