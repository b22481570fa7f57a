//! The `[git]` section of the agent's configuration: which repositories may be used, how they are reached, how large they may be.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::network::NetworkConfig;

/// The `[git]` section. Nothing is allowed until it is named.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GitConfig {
    /// Hosts that may be asked: exact scheme, host and port, e.g. `https://bitbucket.org`. A redirect never leaves them.
    pub origins: Vec<Url>,
    /// Folders in which local repositories may lie; links are followed before it is looked at.
    pub local_paths: Vec<PathBuf>,
    /// Certificates (PEM) of authorities that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// An HTTP proxy for all hosts, with its own user and password where it wants them.
    pub proxy: Option<Url>,
    /// Hosts that are reached without the proxy, see [`crate::network::NoProxy`].
    pub no_proxy: Vec<String>,
    /// How long a name lookup and a connection may each take, in seconds. A cancel waits for them, so keep it short.
    #[serde(with = "seconds")]
    pub connect_timeout: Duration,
    /// How long a host may be silent, in seconds.
    #[serde(with = "seconds")]
    pub read_timeout: Duration,
    /// The most that one fetch may bring, in bytes.
    pub max_pack_bytes: u64,
    /// The most objects (commits, folders, files) that one fetch may bring.
    pub max_objects: u32,
    /// The most files and folders in a commit.
    pub max_files: u64,
    /// The most bytes that a commit's files may have together.
    pub max_tree_bytes: u64,
    /// How many folders may lie within each other.
    pub max_depth: usize,
}

impl Default for GitConfig {
    fn default() -> Self {
        Self {
            origins: Vec::new(),
            local_paths: Vec::new(),
            ca_file: None,
            proxy: None,
            no_proxy: Vec::new(),
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(30),
            max_pack_bytes: 2 << 30,
            max_objects: 20_000_000,
            max_files: 250_000,
            max_tree_bytes: 4 << 30,
            max_depth: 100,
        }
    }
}

impl fmt::Debug for GitConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The proxy's URL may hold a password.
        let proxy = self.proxy.as_ref().and_then(Url::host_str);
        f.debug_struct("GitConfig")
            .field("origins", &self.origins)
            .field("local_paths", &self.local_paths)
            .field("ca_file", &self.ca_file)
            .field("proxy", &proxy)
            .field("no_proxy", &self.no_proxy)
            .field("connect_timeout", &self.connect_timeout)
            .field("read_timeout", &self.read_timeout)
            .field("max_pack_bytes", &self.max_pack_bytes)
            .field("max_objects", &self.max_objects)
            .field("max_files", &self.max_files)
            .field("max_tree_bytes", &self.max_tree_bytes)
            .field("max_depth", &self.max_depth)
            .finish()
    }
}

/// A `[git]` section that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GitConfigError {
    /// An origin is more or less than scheme, host and port.
    #[error("git.origins: {0} is not of the form https://host or https://host:port")]
    Origin(String),
    /// A folder for local repositories is relative.
    #[error("git.local_paths: {0} is not an absolute path")]
    LocalPath(PathBuf),
    /// The proxy is not an HTTP proxy.
    #[error("git.proxy: only http://host:port and https://host:port are understood")]
    Proxy,
    /// The file with certificates cannot be read, or holds none.
    #[error("git.ca_file: {path}: {what}")]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The folder for mirrors cannot be made.
    #[error("failed to make the folder for mirrors {path}")]
    Mirrors {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl GitConfig {
    /// Takes from `[network]` what this section does not say itself: the certificates; the proxy with those who are
    /// reached without it.
    pub fn use_network(&mut self, network: &NetworkConfig) {
        if self.ca_file.is_none() {
            self.ca_file.clone_from(&network.ca_file);
        }
        if self.proxy.is_none() {
            self.proxy.clone_from(&network.proxy);
            if self.no_proxy.is_empty() && !network.no_proxy.is_empty() {
                self.no_proxy = vec![network.no_proxy.text()];
            }
        }
    }

    /// Looks whether the section makes sense, without touching the disk.
    ///
    /// # Errors
    /// The first thing that does not.
    pub fn validate(&self) -> Result<(), GitConfigError> {
        for origin in &self.origins {
            let bare = matches!(origin.scheme(), "https" | "http")
                && origin.host_str().is_some_and(|host| !host.is_empty())
                && origin.username().is_empty()
                && origin.password().is_none()
                && origin.path() == "/"
                && origin.query().is_none()
                && origin.fragment().is_none();
            if !bare {
                // Only what cannot hold a password is repeated.
                let shown = format!("{}://{}", origin.scheme(), origin.host_str().unwrap_or_default());
                return Err(GitConfigError::Origin(shown));
            }
        }
        if let Some(path) = self.local_paths.iter().find(|path| !path.is_absolute()) {
            return Err(GitConfigError::LocalPath(path.clone()));
        }
        if let Some(proxy) = &self.proxy
            && (!matches!(proxy.scheme(), "http" | "https") || proxy.host_str().is_none())
        {
            return Err(GitConfigError::Proxy);
        }
        Ok(())
    }
}

mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(value.as_secs())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        match u32::deserialize(deserializer)? {
            0 => Err(serde::de::Error::custom("at least 1 second")),
            seconds => Ok(Duration::from_secs(u64::from(seconds))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<GitConfig, String> {
        let config: GitConfig = toml::from_str(text).map_err(|error| error.to_string())?;
        config.validate().map_err(|error| error.to_string())?;
        Ok(config)
    }

    #[test]
    fn origins_are_scheme_host_and_port_and_nothing_else() {
        for bad in [
            "https://bitbucket.org/team",
            "https://user:pw@bitbucket.org",
            "https://bitbucket.org?x",
            "ssh://bitbucket.org",
            "file:///srv",
        ] {
            let error = parse(&format!("origins = [{bad:?}]")).expect_err(bad);
            assert!(error.starts_with("git.origins"), "{error}");
            assert!(!error.contains("pw"), "{error}");
        }
        let good = parse(r#"origins = ["https://bitbucket.org", "http://127.0.0.1:8080/"]"#).expect("good");
        assert_eq!(good.origins.len(), 2);
    }

    #[test]
    fn unknown_keys_and_silly_values_are_refused() {
        for bad in ["origin = []", "connect_timeout = 0", "local_paths = [\"srv\"]", "proxy = \"socks5://x\""]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let config = parse("connect_timeout = 3").expect("good");
        assert_eq!(config.connect_timeout, Duration::from_secs(3));
        assert_eq!(config.read_timeout, Duration::from_secs(30));
    }

    #[test]
    fn the_password_of_the_proxy_is_not_printed() {
        let config = parse(r#"proxy = "http://me:hunter2@proxy:3128""#).expect("good");
        let shown = format!("{config:?}");
        assert!(shown.contains("proxy: Some(\"proxy\")"), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
