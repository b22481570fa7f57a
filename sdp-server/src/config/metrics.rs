//! Who may read `/metrics`: whoever may read anything; and, if the configuration says so, whoever has a token for that alone, or
//! everybody.

use std::path::PathBuf;

use sdp_core::secret::Secret;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::ConfigError;

/// A shorter token can be guessed.
const SHORTEST: usize = 20;

/// `[metrics]` of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Everybody who reaches the server may read them. They name agents, and no deployment, branch, sandbox or person.
    pub open: bool,
    /// A file with a token that opens the metrics and nothing else, for Prometheus' `credentials_file`.
    pub token_file: Option<PathBuf>,
}

/// What is kept of a token: comparing takes the same time whatever is presented.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    fn of(value: &str) -> Self {
        Self(Sha256::digest(value).into())
    }

    pub(crate) fn is_of(&self, value: &Secret) -> bool {
        // Whoever times the comparison of digests learns nothing of a value that has this one.
        Self::of(value.expose()) == *self
    }
}

impl Metrics {
    /// Reads the token's file.
    pub(crate) fn token(&self) -> Result<Option<TokenDigest>, ConfigError> {
        let Some(path) = &self.token_file else { return Ok(None) };
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        let value = text.trim();
        if value.len() < SHORTEST || value.contains(char::is_whitespace) {
            return Err(ConfigError::Value {
                key: "metrics.token_file",
                problem: format!(
                    "{} holds no token: one line of at least {SHORTEST} characters without spaces, such as `openssl rand -hex 32` gives",
                    path.display()
                ),
            });
        }
        Ok(Some(TokenDigest::of(value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_line_and_no_short_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("metrics.token");
        let metrics = Metrics { open: false, token_file: Some(path.clone()) };
        assert!(matches!(metrics.token(), Err(ConfigError::Read { .. })), "none yet");
        for (text, is_token) in [
            ("", false),
            ("short\n", false),
            ("two words of some length\n", false),
            ("0123456789abcdef0123\n", true),
        ] {
            std::fs::write(&path, text).expect("written");
            let token = metrics.token();
            assert_eq!(token.is_ok(), is_token, "{text:?} {token:?}");
        }
        let token = metrics.token().expect("read").expect("there");
        assert!(token.is_of(&Secret::new("0123456789abcdef0123")));
        assert!(!token.is_of(&Secret::new("0123456789abcdef012")));
        assert_eq!(Metrics::default().token().expect("none is needed"), None);
    }
}
