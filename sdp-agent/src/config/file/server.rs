//! The way to the server: where it is, which certificates count, and the agent's token.

use std::path::{Path, PathBuf};

use sdp_core::secret::Secret;
use url::Url;

use super::{ConfigError, ConfigFile, invalid, is_loopback, read_secret};
use crate::enrol::Enrolment;
use crate::link::{Connector, WebSocket};

const NO_TOKEN_FILE: ConfigError = ConfigError::Missing {
    key: "token_file",
    hint: "a file with the agent's token, readable by its owner alone (or SDP_AGENT_TOKEN)",
};

impl ConfigFile {
    /// Checks the way to the server, and reads the token.
    ///
    /// # Errors
    /// What is missing or cannot be used.
    pub fn connector(&self) -> Result<Connector, ConfigError> {
        let server = self.server()?;
        let token = match (&self.token, &self.token_file) {
            (Some(token), _) => token.clone(),
            (None, Some(path)) => read_secret("token_file", path, self.credentials.as_deref())?,
            (None, None) => return Err(NO_TOKEN_FILE),
        };
        Ok(Connector::WebSocket(WebSocket::new(server, &token, self.authorities().as_deref())?))
    }

    /// The way to the server for an agent that has no token yet.
    ///
    /// # Errors
    /// What is missing or cannot be used.
    pub fn enrolment(&self) -> Result<Enrolment, ConfigError> {
        let server = self.server()?;
        let token_file = self.token_file.as_deref().ok_or(NO_TOKEN_FILE)?;
        Ok(Enrolment::new(server, self.authorities().as_deref(), token_file)?)
    }

    fn server(&self) -> Result<&Url, ConfigError> {
        let server = self.server.as_ref().ok_or(ConfigError::Missing {
            key: "server",
            hint: "the server's address, e.g. server = \"https://sdp.example.com\" (or SDP_AGENT_SERVER)",
        })?;
        if server.scheme() == "http" && !self.insecure_http && !is_loopback(server) {
            let problem = "http would send the token in the clear; use https, or set insecure_http = true";
            return Err(invalid("server", problem));
        }
        Ok(server)
    }

    fn authorities(&self) -> Option<PathBuf> {
        self.ca_file.as_ref().or(self.network.ca_file.as_ref()).cloned()
    }
}

/// An enrolment token from a file that its owner alone can read.
///
/// # Errors
/// When it cannot be read, is empty, or can be read by others.
pub fn read_token(path: &Path) -> Result<Secret, ConfigError> {
    read_secret("--token-file", path, None)
}
