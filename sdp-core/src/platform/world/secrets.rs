//! The secrets of services, as they are stored: sealed.

use super::World;
use crate::name::{EnvName, ServiceName};
use crate::store::SecretRow;

impl World {
    /// The secrets of a service, by name.
    pub(crate) fn secrets_of<'a>(&'a self, service: &'a ServiceName) -> impl Iterator<Item = &'a SecretRow> {
        self.secrets.values().filter(move |secret| secret.service == *service)
    }

    pub(crate) fn save_secret(&mut self, secret: SecretRow) {
        let key = (secret.service.clone(), secret.name.clone());
        self.unsaved.writes.secrets_gone.retain(|gone| *gone != key);
        self.unsaved.writes.secrets.push(secret.clone());
        self.secrets.insert(key, secret);
    }

    pub(super) fn forget_secret(&mut self, service: &ServiceName, name: &EnvName) {
        let key = (service.clone(), name.clone());
        if self.secrets.remove(&key).is_some() {
            self.unsaved.writes.secrets.retain(|new| (&new.service, &new.name) != (service, name));
            self.unsaved.writes.secrets_gone.push(key);
        }
    }

    /// The service goes, and all its secrets with it.
    pub(super) fn forget_secrets(&mut self, service: &ServiceName) {
        let names: Vec<EnvName> = self.secrets_of(service).map(|secret| secret.name.clone()).collect();
        for name in names {
            self.forget_secret(service, &name);
        }
    }
}
