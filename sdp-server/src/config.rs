//! The configuration: one TOML file, with overrides from the environment, checked before anything starts.
//!
//! `SDP_SERVER_PUBLIC_URL` overrides `public_url`, `SDP_SERVER_LIMITS__BUILD` overrides `build` in `[limits]`. A key that
//! nobody knows is refused, in the file as in the environment.

mod limits;
mod login;
mod metrics;
mod proxy;
mod secrets;
mod tls;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sdp_core::platform::PlatformConfig;
use sdp_core::wire::StepLimits;
use serde::{Deserialize, Deserializer};
use url::{Host, Url};

pub use limits::Limits;
pub use login::Login;
pub use metrics::{Metrics, TokenDigest};
pub use proxy::Proxy;
pub use secrets::{KeptIn, Secrets};
pub use tls::Tls;
pub(crate) use tls::{Identity, provider};

/// What an environment variable of the configuration begins with.
pub const ENV_PREFIX: &str = "SDP_SERVER_";
/// Variables with that prefix that are not part of the file.
pub const ENV_OTHERS: [&str; 3] = ["SDP_SERVER_CONFIG", "SDP_SERVER_LOG", "SDP_SERVER_LOG_FORMAT"];

/// How a server is set up.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where it listens.
    #[serde(default = "default_listen", deserialize_with = "address")]
    pub listen: SocketAddr,
    /// How people reach it. Links, cookies and the check of a request's origin follow it.
    pub public_url: Url,
    /// Allow plain http elsewhere than on this machine. Whoever can read the network can then sign in as anybody.
    #[serde(default)]
    pub insecure_http: bool,
    /// Where it keeps the database and the logs.
    #[serde(default = "default_data_dir")]
    pub data_dir: PathBuf,
    /// Limits; every wait has one.
    #[serde(default)]
    pub limits: Limits,
    /// Who may read the metrics.
    #[serde(default)]
    pub metrics: Metrics,
    /// How people log in.
    #[serde(default)]
    pub login: Login,
    /// Its certificate, if it speaks TLS itself and no proxy does it.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// The proxies before it, which say for whom they ask.
    #[serde(default)]
    pub proxy: Proxy,
    /// What seals secrets.
    #[serde(default)]
    pub secrets: Secrets,
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8080))
}

fn default_data_dir() -> PathBuf {
    PathBuf::from("data")
}

/// A name such as `localhost` may mean several addresses, of which one would be chosen in silence.
fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(|_| {
        serde::de::Error::custom(
            "expected an IP address and a port, such as \"127.0.0.1:8080\" or \"[::1]:8080\" (no name of a host)",
        )
    })
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no TOML, or a key or value is wrong.
    #[error("{place}: {problem}")]
    Parse {
        /// The file, or the environment.
        place: String,
        /// What is wrong.
        problem: String,
    },
    /// Each key may be right, but together they cannot work.
    #[error("{key}: {problem}")]
    Value {
        /// Which key.
        key: &'static str,
        /// What is wrong, and what to do.
        problem: String,
    },
}

impl Config {
    /// The defaults, for programs that embed a server.
    pub fn new(public_url: Url, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            listen: default_listen(),
            public_url,
            insecure_http: false,
            data_dir: data_dir.into(),
            limits: Limits::default(),
            metrics: Metrics::default(),
            login: Login::default(),
            tls: None,
            proxy: Proxy::default(),
            secrets: Secrets::default(),
        }
    }

    /// Reads a file, lets variables override it, and checks the whole.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn load(
        path: Option<&Path>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let text = match path {
            Some(path) => std::fs::read_to_string(path)
                .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?,
            None => String::new(),
        };
        let place = path.map(|path| path.display().to_string());
        let config = Self::parse(&text, place.as_deref(), variables)?;
        config.check()?;
        Ok(config)
    }

    fn parse(
        text: &str,
        file: Option<&str>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let wrong = |problem: String| ConfigError::Parse {
            place: file.unwrap_or("the environment").to_owned(),
            problem: problem.trim().to_owned(),
        };
        let overrides: BTreeMap<String, String> = variables
            .into_iter()
            .filter(|(name, _)| name.starts_with(ENV_PREFIX) && !ENV_OTHERS.contains(&name.as_str()))
            .collect();
        if overrides.is_empty() {
            return toml::from_str(text).map_err(|error| {
                if is_without_url(&error) { no_url(file) } else { wrong(error.to_string()) }
            });
        }
        let mut table: toml::Table = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        for (name, value) in &overrides {
            let keys: Vec<String> =
                name[ENV_PREFIX.len()..].split("__").map(str::to_ascii_lowercase).collect();
            set(&mut table, &keys, value).ok_or_else(|| ConfigError::Parse {
                place: name.clone(),
                problem: "no such key".to_owned(),
            })?;
        }
        let names: Vec<&str> = overrides.keys().map(String::as_str).collect();
        table.try_into().map_err(|error: toml::de::Error| {
            if is_without_url(&error) {
                return no_url(file);
            }
            wrong(format!("{} (with {})", error.message(), names.join(", ")))
        })
    }

    /// What the types alone do not check.
    ///
    /// # Errors
    /// The first key that cannot work.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, problem: String| Err(ConfigError::Value { key, problem });
        let url = &self.public_url;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return wrong("public_url", format!("{url} is no http or https URL with a host"));
        }
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if !bare || !url.username().is_empty() || url.password().is_some() {
            return wrong(
                "public_url",
                "only scheme, host and port are allowed, such as https://sdp.example.com".into(),
            );
        }
        if url.scheme() == "http" && !self.insecure_http && !is_loopback(url) {
            return wrong(
                "public_url",
                format!(
                    "{url} would send sign-in cookies and tokens over the network in the clear. Configure [tls], or put a \
                     reverse proxy with TLS before the server, and give the https URL; or set insecure_http = true if you accept that"
                ),
            );
        }
        if self.tls.is_some() && url.scheme() != "https" {
            return wrong(
                "public_url",
                format!(
                    "{url} is plain http, but [tls] is configured: give the https URL at which people reach the server"
                ),
            );
        }
        self.login.check()?;
        self.secrets.check()?;
        self.limits.check()?;
        Ok(())
    }

    /// What only the files that it names can tell: whether the certificate, its key and the token for metrics can be used.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn check_files(&self) -> Result<(), ConfigError> {
        self.metrics.token()?;
        if let Some(tls) = &self.tls {
            tls.read()?;
        }
        Ok(())
    }

    /// Makes the data folder if it is not there, for this user alone: it holds the database and people's logs. One that is
    /// there keeps the permissions that somebody gave it.
    ///
    /// # Errors
    /// What the system said.
    pub async fn make_data_dir(&self) -> std::io::Result<()> {
        tokio::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.data_dir).await
    }

    /// The platform's part of it.
    pub(crate) fn platform(&self) -> PlatformConfig {
        let limits = &self.limits;
        let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
        let mut config = PlatformConfig::new(&self.data_dir);
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        let credentials = credentials.filter(|folder| folder.is_absolute());
        if let Some(vault) = self.secrets.vault(credentials.as_deref()) {
            config.vault = vault;
        }
        config.steps = StepLimits {
            fetch: seconds(limits.fetch),
            build: seconds(limits.build),
            start: seconds(limits.start),
            check: seconds(limits.check),
        };
        config.no_agent_after = limits.no_agent_after;
        config.queue_limit = limits.queue;
        config.queue_size = limits.queue_size;
        config.drain_limit = limits.drain;
        config.lost_after = limits.lost_after;
        config.answer_limit = limits.answer;
        config.disk_floor = limits.disk_floor_mib << 20;
        config
    }

    /// Whether people reach it over TLS.
    pub(crate) fn is_https(&self) -> bool {
        self.public_url.scheme() == "https"
    }

    /// What a browser sends as `Origin` from our own pages.
    pub(crate) fn origin(&self) -> String {
        self.public_url.origin().ascii_serialization()
    }
}

/// The one key without a default is the first mistake of everybody who tries the server.
fn is_without_url(error: &toml::de::Error) -> bool {
    error.message() == "missing field `public_url`"
}

fn no_url(file: Option<&str>) -> ConfigError {
    let how = match file {
        Some(file) => format!("add to {file} a line such as"),
        None => "set SDP_SERVER_PUBLIC_URL, or give a file with --config that has a line such as".to_owned(),
    };
    ConfigError::Value {
        key: "public_url",
        problem: format!(
            "missing; it is how people reach the server. To mend it, {how}\n\n  public_url = \"http://127.0.0.1:8080\""
        ),
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}

/// Sets a nested key; `None` if something on the way is no table.
fn set(table: &mut toml::Table, keys: &[String], value: &str) -> Option<()> {
    let (key, rest) = keys.split_first()?;
    if rest.is_empty() {
        // A number or a yes/no where that is what it is; a text in all other cases.
        let value = match (value.parse::<i64>(), value.parse::<bool>()) {
            (Ok(number), _) => toml::Value::Integer(number),
            (_, Ok(yes)) => toml::Value::Boolean(yes),
            _ => toml::Value::String(value.to_owned()),
        };
        table.insert(key.clone(), value);
        return Some(());
    }
    let inner = table.entry(key.clone()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
    set(inner.as_table_mut()?, rest, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let config = Config::parse(text, Some("sdp.toml"), variables).map_err(|error| error.to_string())?;
        config.check().map_err(|error| error.to_string())?;
        Ok(config)
    }

    #[test]
    fn a_file_and_its_overrides() {
        let text = "public_url = \"https://sdp.example.com\"\n[limits]\nbuild = \"45m\"\n";
        let config = parse(text, &[]).expect("valid");
        assert_eq!(config.limits.build, Duration::from_secs(45 * 60));
        assert_eq!(config.limits.queue_size, 1000);
        let config = parse(
            text,
            &[
                ("SDP_SERVER_LISTEN", "0.0.0.0:9000"),
                ("SDP_SERVER_LIMITS__QUEUE_SIZE", "7"),
                ("SDP_SERVER_LIMITS__BUILD", "1h"),
                ("SDP_SERVER_LOG", "debug"),
                ("PATH", "/bin"),
            ],
        )
        .expect("valid");
        assert_eq!(config.listen.port(), 9000);
        assert_eq!(config.limits.queue_size, 7);
        assert_eq!(config.platform().steps.build, 3600);
        let config =
            parse("", &[("SDP_SERVER_PUBLIC_URL", "http://127.0.0.1:8080")]).expect("no file is needed");
        assert_eq!(config.origin(), "http://127.0.0.1:8080");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let mistakes: [(&str, &[(&str, &str)]); 16] = [
            ("", &[]),
            ("", &[("SDP_SERVER_LISTEN", "127.0.0.1:1")]),
            ("public_url = \"https://x\"\nlisten = \"localhost:8080\"", &[]),
            ("public_url = \"https://x\"", &[("SDP_SERVER_LISTEN", "localhost:8080")]),
            ("public_url = \"https://x\"\nlisten_on = 1", &[]),
            ("public_url = \"https://x\"\n[limits]\nbuild = \"soon\"", &[]),
            ("public_url = \"https://x\"\n[limits]\nbuild = \"-1m\"", &[]),
            ("public_url = \"https://x\"", &[("SDP_SERVER_LIMIT", "1")]),
            ("public_url = \"https://x\"\nlisten = \"127.0.0.1:1\"", &[("SDP_SERVER_LISTEN__PORT", "1")]),
            ("public_url = \"https://x/sdp\"", &[]),
            ("public_url = \"ftp://x\"", &[]),
            ("public_url = \"http://sdp.example.com\"", &[]),
            ("public_url = \"http://127.0.0.1\"\n[tls]\ncertificate = \"a\"\nkey = \"b\"", &[]),
            ("public_url = \"https://x\"\n[limits]\nwrites_per_minute = 0", &[]),
            ("public_url = \"https://x\"\n[limits]\nbody = \"2m\"", &[]),
            ("public_url = \"https://x\"\n[proxy]\ntrusted = [\"10.0.0.1/8\"]", &[]),
        ];
        let said = mistakes.map(|(text, variables)| parse(text, variables).expect_err("refused"));
        insta::assert_snapshot!(said.join("\n---\n"), @r#"
        public_url: missing; it is how people reach the server. To mend it, add to sdp.toml a line such as

          public_url = "http://127.0.0.1:8080"
        ---
        public_url: missing; it is how people reach the server. To mend it, add to sdp.toml a line such as

          public_url = "http://127.0.0.1:8080"
        ---
        sdp.toml: TOML parse error at line 2, column 10
          |
        2 | listen = "localhost:8080"
          |          ^^^^^^^^^^^^^^^^
        expected an IP address and a port, such as "127.0.0.1:8080" or "[::1]:8080" (no name of a host)
        ---
        sdp.toml: expected an IP address and a port, such as "127.0.0.1:8080" or "[::1]:8080" (no name of a host) (with SDP_SERVER_LISTEN)
        ---
        sdp.toml: TOML parse error at line 2, column 1
          |
        2 | listen_on = 1
          | ^^^^^^^^^
        unknown field `listen_on`, expected one of `listen`, `public_url`, `insecure_http`, `data_dir`, `limits`, `metrics`, `login`, `tls`, `proxy`, `secrets`
        ---
        sdp.toml: TOML parse error at line 3, column 9
          |
        3 | build = "soon"
          |         ^^^^^^
        expected a time of at least a second, such as "90s", "10m" or "2h"
        ---
        sdp.toml: TOML parse error at line 3, column 9
          |
        3 | build = "-1m"
          |         ^^^^^
        expected a time of at least a second, such as "90s", "10m" or "2h"
        ---
        sdp.toml: unknown field `limit`, expected one of `listen`, `public_url`, `insecure_http`, `data_dir`, `limits`, `metrics`, `login`, `tls`, `proxy`, `secrets` (with SDP_SERVER_LIMIT)
        ---
        SDP_SERVER_LISTEN__PORT: no such key
        ---
        public_url: only scheme, host and port are allowed, such as https://sdp.example.com
        ---
        public_url: ftp://x/ is no http or https URL with a host
        ---
        public_url: http://sdp.example.com/ would send sign-in cookies and tokens over the network in the clear. Configure [tls], or put a reverse proxy with TLS before the server, and give the https URL; or set insecure_http = true if you accept that
        ---
        public_url: http://127.0.0.1/ is plain http, but [tls] is configured: give the https URL at which people reach the server
        ---
        limits.writes_per_minute: at least 1
        ---
        limits.body: at most 60 s
        ---
        sdp.toml: TOML parse error at line 3, column 11
          |
        3 | trusted = ["10.0.0.1/8"]
          |           ^^^^^^^^^^^^^^
        "10.0.0.1/8" is no address and no network, such as "127.0.0.1", "10.0.0.0/8" or "fd00::/8"
        "#);
    }

    #[test]
    fn without_a_file_it_says_how_to_begin() {
        let error = Config::load(None, []).expect_err("refused");
        insta::assert_snapshot!(error, @r#"
        public_url: missing; it is how people reach the server. To mend it, set SDP_SERVER_PUBLIC_URL, or give a file with --config that has a line such as

          public_url = "http://127.0.0.1:8080"
        "#);
    }

    #[tokio::test]
    async fn a_new_data_folder_is_for_its_owner_alone_and_an_old_one_is_left_alone() {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let config = Config::new("http://127.0.0.1".parse().unwrap(), &data);
        config.make_data_dir().await.unwrap();
        assert_eq!(mode(&data), 0o700);
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o750)).unwrap();
        config.make_data_dir().await.unwrap();
        assert_eq!(mode(&data), 0o750);
    }

    #[test]
    fn plain_http_is_for_this_machine_unless_somebody_insists() {
        for url in ["http://127.0.0.1:1", "http://localhost", "http://[::1]:80", "http://sdp.localhost:9"] {
            assert!(parse(&format!("public_url = \"{url}\""), &[]).is_ok(), "{url}");
        }
        for url in
            ["http://127.0.0.1.nip.io", "http://10.0.0.1", "http://localhost.example.com", "http://0.0.0.0"]
        {
            assert!(parse(&format!("public_url = \"{url}\""), &[]).is_err(), "{url}");
            assert!(parse(&format!("public_url = \"{url}\"\ninsecure_http = true"), &[]).is_ok(), "{url}");
        }
    }
}
