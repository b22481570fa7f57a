//! The bot's configuration: one TOML file, each entry of which an environment variable overrides.
//!
//! | entry | variable | meaning |
//! | --- | --- | --- |
//! | `server` | `SDP_URL` | URL of the server |
//! | `token_file` | `SDP_TOKEN_FILE` | file with the bot's token |
//! | `ca_file` | `SDP_BOT_CA_FILE` | certificates (PEM) of authorities that are trusted beside the system's |
//! | — | `SDP_TOKEN` | the token itself, where a file is not possible |
//! | `person` | `SDP_BOT_PERSON` | who types in the console |
//! | `data_dir` | `SDP_BOT_DATA_DIR` | folder for the bot's own database; without one it remembers nothing after it ends |
//! | `log` | `SDP_BOT_LOG` | what is logged, e.g. `info` or `sdp_bot=debug` |
//! | `[slack]` | | see [`crate::slack::config`] |
//!
//! A token never stands in the file itself: files like this one are copied and checked in.

use std::path::{Path, PathBuf};

use sdp_core::name::PersonName;
use sdp_core::secret::Secret;
use serde::Deserialize;
use url::Url;

use crate::slack::SlackConfig;

/// The largest configuration or token file, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// The configuration, as far as it is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// URL of the server.
    pub server: Option<Url>,
    /// File with the bot's token.
    pub token_file: Option<PathBuf>,
    /// File with certificates of authorities that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Who types in the console.
    pub person: Option<PersonName>,
    /// Folder for the bot's own database.
    pub data_dir: Option<PathBuf>,
    /// What is logged.
    pub log: Option<String>,
    /// How the bot is set up for Slack.
    pub slack: Option<SlackConfig>,
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not as it should be.
    #[error("{}: {problem}", path.display())]
    Invalid {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A variable is not as it should be.
    #[error("{name}: {problem}")]
    Variable {
        /// Which.
        name: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// Something is missing.
    #[error("{what} is missing: {hint}")]
    Missing {
        /// What.
        what: &'static str,
        /// Where to give it.
        hint: &'static str,
    },
}

impl Config {
    /// Reads the file, if one is named.
    ///
    /// # Errors
    /// [`ConfigError`], naming the file and the line.
    pub fn read(path: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(path) = path else { return Ok(Self::default()) };
        toml::from_str(&read_file(path)?)
            .map_err(|error| ConfigError::Invalid { path: path.to_owned(), problem: error.to_string() })
    }

    /// Lays environment variables over it. `lookup` gives a variable's value; empty counts as not set.
    ///
    /// # Errors
    /// [`ConfigError`], naming the variable.
    pub fn with_env(mut self, lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        fn parsed<T>(
            name: &'static str,
            value: Option<String>,
            over: &mut Option<T>,
            parse: impl Fn(&str) -> Result<T, String>,
        ) -> Result<(), ConfigError> {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                *over = Some(parse(&value).map_err(|problem| ConfigError::Variable { name, problem })?);
            }
            Ok(())
        }
        parsed("SDP_URL", lookup("SDP_URL"), &mut self.server, |text| {
            text.parse().map_err(|error: url::ParseError| error.to_string())
        })?;
        parsed("SDP_TOKEN_FILE", lookup("SDP_TOKEN_FILE"), &mut self.token_file, |text| Ok(text.into()))?;
        parsed("SDP_BOT_CA_FILE", lookup("SDP_BOT_CA_FILE"), &mut self.ca_file, |text| Ok(text.into()))?;
        parsed("SDP_BOT_PERSON", lookup("SDP_BOT_PERSON"), &mut self.person, |text| {
            text.parse().map_err(|error: sdp_core::name::InvalidName| error.to_string())
        })?;
        parsed("SDP_BOT_DATA_DIR", lookup("SDP_BOT_DATA_DIR"), &mut self.data_dir, |text| Ok(text.into()))?;
        parsed("SDP_BOT_LOG", lookup("SDP_BOT_LOG"), &mut self.log, |text| Ok(text.to_owned()))?;
        Ok(self)
    }

    /// The server's URL.
    ///
    /// # Errors
    /// It is missing.
    pub fn server(&self) -> Result<Url, ConfigError> {
        self.server.clone().ok_or(ConfigError::Missing {
            what: "the server's URL",
            hint: "give --server, SDP_URL, or server in the configuration file",
        })
    }

    /// The authorities to be trusted beside the system's, as PEM; empty if none are named.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn authorities(&self) -> Result<String, ConfigError> {
        self.ca_file.as_deref().map_or_else(|| Ok(String::new()), read_file)
    }

    /// The token: from `SDP_TOKEN` (`from_env`), else from the file.
    ///
    /// # Errors
    /// It is missing, or its file cannot be read or is empty.
    pub fn token(&self, from_env: Option<Secret>) -> Result<Secret, ConfigError> {
        if let Some(token) = from_env.filter(|token| !token.expose().trim().is_empty()) {
            return Ok(token);
        }
        let Some(path) = &self.token_file else {
            return Err(ConfigError::Missing {
                what: "the token",
                hint: "give --token-file, SDP_TOKEN_FILE, SDP_TOKEN, or token_file in the configuration file",
            });
        };
        read_secret(path)
    }
}

/// A secret from a file of its own.
pub(crate) fn read_secret(path: &Path) -> Result<Secret, ConfigError> {
    let secret = read_file(path)?;
    if secret.trim().is_empty() {
        return Err(ConfigError::Invalid { path: path.to_owned(), problem: "it is empty".to_owned() });
    }
    Ok(Secret::new(secret.trim()))
}

fn read_file(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    if size > MAX_FILE {
        let problem = format!("it is larger than {MAX_FILE} bytes");
        return Err(ConfigError::Invalid { path: path.to_owned(), problem });
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_overrides_the_file_and_a_typing_error_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bot.toml");
        std::fs::write(&file, "server = \"http://127.0.0.1:1\"\nperson = \"alice\"\n").unwrap();
        let config = Config::read(Some(&file)).unwrap();
        let config = config.with_env(|name| (name == "SDP_BOT_PERSON").then(|| "bob".to_owned())).unwrap();
        assert_eq!(config.person.as_ref().map(PersonName::as_str), Some("bob"));
        assert_eq!(config.server().unwrap().as_str(), "http://127.0.0.1:1/");

        std::fs::write(&file, "servr = \"x\"\n").unwrap();
        let error = Config::read(Some(&file)).unwrap_err().to_string();
        assert!(error.contains("servr") && error.contains("bot.toml"), "{error}");
        let bad = Config::default().with_env(|name| (name == "SDP_URL").then(|| "::".to_owned()));
        assert!(bad.unwrap_err().to_string().starts_with("SDP_URL: "));
    }

    #[test]
    fn authorities_are_read_from_the_file_that_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let named = |name: &str| (name == "SDP_BOT_CA_FILE").then(|| file.display().to_string());
        let config = Config::default().with_env(named).unwrap();
        assert!(matches!(config.authorities(), Err(ConfigError::Unreadable { .. })));
        std::fs::write(&file, "certificates").unwrap();
        assert_eq!(config.authorities().unwrap(), "certificates");
        assert_eq!(Config::default().authorities().unwrap(), "");
    }

    #[test]
    fn the_token_comes_from_the_variable_else_from_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "from-file\n").unwrap();
        let config = Config { token_file: Some(file.clone()), ..Config::default() };
        assert_eq!(config.token(None).unwrap().expose(), "from-file");
        assert_eq!(config.token(Some(Secret::new("from-env"))).unwrap().expose(), "from-env");
        assert_eq!(config.token(Some(Secret::new(""))).unwrap().expose(), "from-file");
        std::fs::write(&file, " \n").unwrap();
        assert!(matches!(config.token(None), Err(ConfigError::Invalid { .. })));
        assert!(matches!(Config::default().token(None), Err(ConfigError::Missing { .. })));
    }
}
