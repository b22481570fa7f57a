//! `[secrets]`: where the key is that seals secrets of services and git credentials before they are stored.

use std::path::{Path, PathBuf};

use sdp_core::platform::VaultKey;
use serde::Deserialize;

use super::ConfigError;

/// What seals secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Secrets {
    /// The file with the key, mode 0600; without one `seal.key` in the data folder. It is made if it is not there. A file among
    /// systemd's credentials (`LoadCredential=`, then `/run/credentials/UNIT/NAME` here) will do. Keep a copy, and not beside the
    /// backups.
    pub key_file: Option<PathBuf>,
    /// Keep no key at all: people log in again after each restart, and services cannot have secret values.
    pub key: Option<KeptIn>,
}

/// Where a key is, if in no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum KeptIn {
    /// In the server's memory: it is gone with it.
    Memory,
}

impl Secrets {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, problem: &str| Err(ConfigError::Value { key, problem: problem.to_owned() });
        match (&self.key_file, self.key) {
            (Some(_), Some(_)) => wrong("secrets.key", "either key_file or key = \"memory\""),
            (Some(path), None) if path.as_os_str().is_empty() => {
                wrong("secrets.key_file", "the name of a file")
            }
            _ => Ok(()),
        }
    }

    /// None: the platform's own choice. `credentials` is where systemd has put the unit's.
    pub(super) fn vault(&self, credentials: Option<&Path>) -> Option<VaultKey> {
        let handed_over = |path: &Path| credentials.is_some_and(|folder| path.starts_with(folder));
        match (&self.key_file, self.key) {
            (_, Some(KeptIn::Memory)) => Some(VaultKey::Memory),
            (Some(path), None) if handed_over(path) => Some(VaultKey::Credential(path.clone())),
            (Some(path), None) => Some(VaultKey::File(path.clone())),
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    use super::*;

    #[test]
    fn a_file_or_memory_and_never_both() {
        let parse = |text: &str| {
            let text = format!("public_url = \"https://sdp.example.com\"\n[secrets]\n{text}");
            let config: Config = toml::from_str(&text).expect("it parses");
            config.check().map(|()| config.platform().vault).map_err(|error| error.to_string())
        };
        assert_eq!(parse(""), Ok(VaultKey::File("data/seal.key".into())));
        assert_eq!(parse("key_file = \"/etc/sdp/k\""), Ok(VaultKey::File("/etc/sdp/k".into())));
        assert_eq!(parse("key = \"memory\""), Ok(VaultKey::Memory));
        let both = parse("key_file = \"/etc/sdp/k\"\nkey = \"memory\"");
        assert_eq!(both, Err("secrets.key: either key_file or key = \"memory\"".to_owned()));
        assert!(parse("key_file = \"\"").is_err());
        let path = PathBuf::from("/run/credentials/sdp-server.service/seal.key");
        let secrets = Secrets { key_file: Some(path.clone()), key: None };
        let credentials = Path::new("/run/credentials/sdp-server.service");
        assert_eq!(secrets.vault(Some(credentials)), Some(VaultKey::Credential(path.clone())));
        assert_eq!(secrets.vault(Some(Path::new("/run/credentials/other"))), Some(VaultKey::File(path)));
    }
}
