//! The `[git]` section of the agent's configuration: which repositories may be used, how they are reached, how large they may
//! be; and in `[[git.host]]` what kind a host is, and whether the agent has a login of its own there.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use sdp_core::secret::{GitCredential, Secret};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::network::NetworkConfig;

/// The user name of anybody's API token, for git at Bitbucket Cloud.
pub(super) const CLOUD_GIT_USER: &str = "x-bitbucket-api-token-auth";

/// The `[git]` section. Nothing is allowed until it is named.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GitConfig {
    /// Hosts that may be asked: exact scheme, host and port, e.g. `https://bitbucket.org`. A redirect never leaves them.
    pub origins: Vec<Url>,
    /// What is known of some of them.
    #[serde(rename = "host")]
    pub hosts: Vec<GitHost>,
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
            hosts: Vec::new(),
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
            .field("hosts", &self.hosts)
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

/// What speaks at a git host beside git itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GitHostKind {
    /// Nothing that the agent understands.
    #[default]
    Git,
    /// Bitbucket Data Center: `/rest/api/1.0`.
    BitbucketDc,
    /// Bitbucket Cloud: `/2.0`.
    BitbucketCloud,
}

/// A `[[git.host]]` section: one of the origins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GitHost {
    /// Which.
    pub origin: Url,
    /// What it is.
    #[serde(default)]
    pub kind: GitHostKind,
    /// Where its REST API begins, if not at the origin; Bitbucket Cloud: `https://api.bitbucket.org`.
    #[serde(default)]
    pub api: Option<Url>,
    /// The agent's own login, for lists of branches and repositories that come without one. Never for a deployment.
    #[serde(default)]
    pub username: Option<String>,
    /// A file with its password or token, readable by its owner alone. Read when the configuration is.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// What was in it.
    #[serde(skip)]
    pub password: Option<Secret>,
}

impl GitHost {
    /// One of which only the kind is known.
    #[must_use]
    pub fn new(origin: Url, kind: GitHostKind) -> Self {
        Self { origin, kind, api: None, username: None, password_file: None, password: None }
    }

    /// Where its REST API begins.
    pub(super) fn api(&self) -> Url {
        let given = self.api.clone();
        given.unwrap_or_else(|| match self.kind {
            GitHostKind::BitbucketCloud => {
                Url::parse("https://api.bitbucket.org").unwrap_or_else(|_| self.origin.clone())
            }
            GitHostKind::Git | GitHostKind::BitbucketDc => self.origin.clone(),
        })
    }

    /// The agent's own login.
    pub(super) fn credential(&self) -> Option<GitCredential> {
        let (username, password) = self.username.clone().zip(self.password.clone())?;
        Some(GitCredential { username, password })
    }

    fn problem(&self, origins: &[Url]) -> Option<&'static str> {
        let listed = |url: &Url| origins.iter().any(|origin| origin.origin() == url.origin());
        if !is_bare(&self.origin) || !listed(&self.origin) {
            return Some("its origin is not among git.origins");
        }
        if let Some(api) = &self.api {
            let plain = api.username().is_empty()
                && api.password().is_none()
                && api.query().is_none()
                && api.fragment().is_none();
            if !matches!(api.scheme(), "https" | "http") || !plain {
                return Some("api is to be an address such as https://host or https://host/bitbucket");
            }
            if api.scheme() == "http" && !listed(api) {
                return Some(
                    "api over http would send logins in the clear; name its origin in git.origins if that is meant",
                );
            }
        }
        match (&self.username, &self.password_file, &self.password) {
            (None, None, None) => None,
            (Some(name), ..)
                if name.is_empty() || name.contains(':') || name.chars().any(char::is_control) =>
            {
                Some("username is empty, or has a colon or a control character")
            }
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) => None,
            _ => Some("username and password_file come together"),
        }
    }
}

/// Scheme, host and port, and nothing else.
fn is_bare(origin: &Url) -> bool {
    matches!(origin.scheme(), "https" | "http")
        && origin.host_str().is_some_and(|host| !host.is_empty())
        && origin.username().is_empty()
        && origin.password().is_none()
        && origin.path() == "/"
        && origin.query().is_none()
        && origin.fragment().is_none()
}

/// A `[git]` section that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GitConfigError {
    /// An origin is more or less than scheme, host and port.
    #[error("git.origins: {0} is not of the form https://host or https://host:port")]
    Origin(String),
    /// What is said of a host does not fit together.
    #[error("git.host: {origin}: {problem}")]
    Host {
        /// Which.
        origin: String,
        /// What is wrong.
        problem: &'static str,
    },
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

    /// What is known of the host of this address.
    pub(super) fn host(&self, of: &Url) -> Option<&GitHost> {
        self.hosts.iter().find(|host| host.origin.origin() == of.origin())
    }

    /// The user name that git is given. Bitbucket Cloud's REST API knows a person by their email address and its git by
    /// another name; a token's git name that fits everybody makes one credential do for both.
    pub(super) fn git_user<'a>(&self, at: &Url, credential: &'a GitCredential) -> &'a str {
        let is_cloud = self.host(at).is_some_and(|host| host.kind == GitHostKind::BitbucketCloud);
        if is_cloud && credential.username.contains('@') { CLOUD_GIT_USER } else { &credential.username }
    }

    /// Looks whether the section makes sense, without touching the disk.
    ///
    /// # Errors
    /// The first thing that does not.
    pub fn validate(&self) -> Result<(), GitConfigError> {
        // Only what cannot hold a password is repeated.
        let shown = |url: &Url| format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default());
        if let Some(origin) = self.origins.iter().find(|origin| !is_bare(origin)) {
            return Err(GitConfigError::Origin(shown(origin)));
        }
        for (at, host) in self.hosts.iter().enumerate() {
            let again = self.hosts[..at].iter().any(|other| other.origin.origin() == host.origin.origin());
            let problem = again.then_some("it is there twice").or_else(|| host.problem(&self.origins));
            if let Some(problem) = problem {
                return Err(GitConfigError::Host { origin: shown(&host.origin), problem });
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
    fn a_host_is_one_of_the_origins_and_has_a_whole_login_or_none() {
        let with = |host: &str| {
            parse(&format!("origins = [\"https://git.example\", \"http://127.0.0.1:80\"]\n[[host]]\n{host}"))
        };
        let origin = "origin = \"https://git.example\"\n";
        let all: Vec<String> = [
            "origin = \"https://other.example\"",
            "origin = \"https://me:hunter2@git.example\"",
            "origin = \"https://git.example\"\napi = \"http://git.example\"",
            "origin = \"https://git.example\"\napi = \"https://me:hunter2@git.example\"",
            "origin = \"https://git.example\"\nusername = \"x\"",
            "origin = \"https://git.example\"\npassword_file = \"/x\"",
            "origin = \"https://git.example\"\nusername = \"a:b\"\npassword_file = \"/x\"",
            "origin = \"https://git.example\"\n[[host]]\norigin = \"https://git.example:443\"",
        ]
        .iter()
        .map(|host| with(host).expect_err(host))
        .collect();
        insta::assert_snapshot!(all.join("\n"), @r"
        git.host: https://other.example: its origin is not among git.origins
        git.host: https://git.example: its origin is not among git.origins
        git.host: https://git.example: api over http would send logins in the clear; name its origin in git.origins if that is meant
        git.host: https://git.example: api is to be an address such as https://host or https://host/bitbucket
        git.host: https://git.example: username and password_file come together
        git.host: https://git.example: username and password_file come together
        git.host: https://git.example: username is empty, or has a colon or a control character
        git.host: https://git.example: it is there twice
        ");
        assert!(with(&format!("{origin}kind = \"gitea\"")).is_err());
        let good = with(&format!("{origin}kind = \"bitbucket_dc\"\napi = \"http://127.0.0.1/bitbucket\""))
            .expect("good");
        let host = good.host(&"https://git.example/team/x".parse().expect("a URL")).expect("known");
        assert_eq!(
            (host.kind, host.api().as_str()),
            (GitHostKind::BitbucketDc, "http://127.0.0.1/bitbucket")
        );
        assert!(good.host(&"https://git.example:444/x".parse().expect("a URL")).is_none());
        let cloud = GitHost::new(host.origin.clone(), GitHostKind::BitbucketCloud);
        assert_eq!(cloud.api().as_str(), "https://api.bitbucket.org/");
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
