//! The TOML file, the environment's overrides, and what is wrong with them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{self, Read};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sdp_core::name::{ImageRef, Label};
use sdp_core::secret::Secret;
use serde::{Deserialize, Deserializer};
use url::Url;

use super::limits::{DiskSection, LimitsSection};
use super::{BuildConfig, Config, DockerConfig, RuntimeConfig, SpoolLimits, Toolchain, User, user};
use crate::git::{GitConfig, GitConfigError};
use crate::link::InvalidLink;
use crate::network::NetworkConfig;
use crate::router::RouterConfig;

/// A longer file has no token or password in it.
const MAX_SECRET_FILE: u64 = 4096;

/// Looks up a variable of the environment.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not TOML, or has a key or value that is not known.
    #[error("{path}: {problem}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column and what is wrong there.
        problem: String,
    },
    /// Something that cannot be left out is missing.
    #[error("{key} is missing: {hint}")]
    Missing {
        /// Which key.
        key: &'static str,
        /// What to write.
        hint: &'static str,
    },
    /// A value that cannot be.
    #[error("{key}: {problem}")]
    Invalid {
        /// Which key, or which variable of the environment.
        key: String,
        /// What is wrong, as a clause.
        problem: String,
    },
    /// The way to the server cannot be used.
    #[error("the link to the server cannot be used")]
    Link(#[from] InvalidLink),
    /// The section `[git]` does not make sense.
    #[error(transparent)]
    Git(#[from] GitConfigError),
}

pub(super) fn invalid(key: impl Into<String>, problem: impl Into<String>) -> ConfigError {
    ConfigError::Invalid { key: key.into(), problem: problem.into() }
}

/// A configuration as it was read; [`Self::config`] and [`Self::connector`] say whether it can work.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConfigFile {
    server: Option<Url>,
    #[serde(skip)]
    token: Option<Secret>,
    token_file: Option<PathBuf>,
    /// Where systemd has put the unit's credentials.
    #[serde(skip)]
    credentials: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    insecure_http: bool,
    data_dir: Option<PathBuf>,
    labels: BTreeSet<Label>,
    capacity: Option<u32>,
    min_free_mib: Option<u64>,
    disk: DiskSection,
    git: GitConfig,
    runtime: RuntimeSection,
    docker: Option<DockerSection>,
    build: BuildSection,
    toolchain: Vec<ToolchainSection>,
    network: NetworkConfig,
    spool: SpoolSection,
    secrets: SecretsSection,
    router: Option<RouterConfig>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SecretsSection {
    folder: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RuntimeKind {
    #[default]
    Process,
    Docker,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RuntimeSection {
    kind: RuntimeKind,
    ports: Option<Ports>,
    advertise: Option<IpAddr>,
    stop_grace_seconds: Option<u32>,
    expiry_grace_seconds: Option<u32>,
    env: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct DockerSection {
    socket: Option<PathBuf>,
    memory_mib: Option<u32>,
    cpu_millis: Option<u32>,
    pids: Option<u32>,
    images: Option<Vec<ImageRef>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct BuildSection {
    keep: Option<usize>,
    path: Option<String>,
    user: Option<String>,
    limits: LimitsSection,
    env: BTreeMap<String, String>,
    composer_config: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolchainSection {
    label: Label,
    path: String,
    #[serde(default)]
    env: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SpoolSection {
    per_deployment_mib: Option<u64>,
    total_mib: Option<u64>,
}

/// `"20000-29999"`.
#[derive(Debug)]
struct Ports(RangeInclusive<u16>);

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let range = text.split_once('-').and_then(|(first, last)| {
            let range = first.trim().parse::<u16>().ok()?..=last.trim().parse::<u16>().ok()?;
            (*range.start() >= 1024 && !range.is_empty()).then_some(range)
        });
        range.map(Self).ok_or_else(|| {
            serde::de::Error::custom("expected a range of ports above 1023 such as \"20000-29999\"")
        })
    }
}

impl ConfigFile {
    /// Reads a file, if one is named, and the environment.
    ///
    /// # Errors
    /// When the file cannot be read or has something in it that is not known, or a variable cannot be understood.
    pub fn load(path: Option<&Path>, env: Environment<'_>) -> Result<Self, ConfigError> {
        let mut file = match path {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
                toml::from_str(&text).map_err(|error| ConfigError::Syntax {
                    path: path.to_owned(),
                    problem: place(&text, &error),
                })?
            }
            None => Self::default(),
        };
        file.apply(env)?;
        Ok(file)
    }

    fn apply(&mut self, env: Environment<'_>) -> Result<(), ConfigError> {
        let text = |name: &str| match env(name) {
            None => Ok(None),
            Some(value) if value.is_empty() => Ok(None),
            Some(value) => value.into_string().map(Some).map_err(|_| invalid(name, "its value is not UTF-8")),
        };
        if let Some(server) = text("SDP_AGENT_SERVER")? {
            let url = server.parse().map_err(|_| invalid("SDP_AGENT_SERVER", "it is not a URL"))?;
            self.server = Some(url);
        }
        if let Some(token) = text("SDP_AGENT_TOKEN")? {
            self.token = Some(Secret::new(token));
        }
        if let Some(path) = text("SDP_AGENT_TOKEN_FILE")? {
            self.token_file = Some(path.into());
        }
        self.credentials = env("CREDENTIALS_DIRECTORY").map(PathBuf::from).filter(|path| path.is_absolute());
        if let Some(path) = text("SDP_AGENT_CA_FILE")? {
            self.ca_file = Some(path.into());
        }
        if let Some(path) = text("SDP_AGENT_DATA_DIR")? {
            self.data_dir = Some(path.into());
        }
        if let Some(labels) = text("SDP_AGENT_LABELS")? {
            self.labels = labels
                .split(',')
                .map(|label| Label::parse(label.trim()))
                .collect::<Result<_, _>>()
                .map_err(|error| invalid("SDP_AGENT_LABELS", error.to_string()))?;
        }
        if let Some(capacity) = text("SDP_AGENT_CAPACITY")? {
            let number = capacity.parse().map_err(|_| invalid("SDP_AGENT_CAPACITY", "it is not a number"))?;
            self.capacity = Some(number);
        }
        if let Some(user) = text("SDP_AGENT_BUILD_USER")? {
            self.build.user = Some(user);
        }
        Ok(())
    }

    /// Checks all but the way to the server.
    ///
    /// # Errors
    /// The first thing that cannot work.
    pub fn config(&self) -> Result<Config, ConfigError> {
        let data_dir = self.data_dir.as_deref().ok_or(ConfigError::Missing {
            key: "data_dir",
            hint: "the agent's own folder, e.g. data_dir = \"/var/lib/sdp-agent\" (or SDP_AGENT_DATA_DIR)",
        })?;
        if !data_dir.is_absolute() {
            return Err(invalid("data_dir", format!("{} is not an absolute path", data_dir.display())));
        }
        let mut config = Config::new(data_dir);
        config.labels.clone_from(&self.labels);
        if self.labels.len() + self.toolchain.len() > 50 {
            return Err(invalid("labels", "at most 50, those of toolchains among them"));
        }
        if let Some(capacity) = self.capacity {
            if !(1..=256).contains(&capacity) {
                return Err(invalid("capacity", "1 to 256"));
            }
            config.capacity = capacity;
        }
        if let Some(mib) = self.min_free_mib {
            config.min_free = bytes("min_free_mib", mib)?;
        }
        config.disk = self.disk.config(config.min_free)?;
        self.git.validate()?;
        config.git = self.git.clone();
        for host in &mut config.git.hosts {
            if let Some(path) = &host.password_file {
                let read = read_secret("git.host.password_file", path, self.credentials.as_deref());
                host.password = Some(read?);
            }
        }
        config.runtime = self.runtime.config()?;
        config.build = self.build.config()?;
        let passwords = self.git.hosts.iter().filter_map(|host| host.password_file.as_ref());
        let secret_files = self.token_file.iter().chain(&self.build.composer_config).chain(passwords);
        config.secret_files = secret_files.cloned().collect();
        config.docker = self.docker(config.build.user)?;
        config.build.toolchains = self.toolchains()?;
        // A service that asks for one is to be placed here.
        config.labels.extend(config.build.toolchains.iter().map(|toolchain| toolchain.label.clone()));
        self.network.validate().map_err(|(key, problem)| invalid(key, problem))?;
        if let Some(path) = &self.network.ca_file {
            self.network
                .bundle()
                .map_err(|error| invalid("network.ca_file", format!("{}: {error}", path.display())))?;
        }
        config.build.network = self.network.clone();
        config.git.use_network(&self.network);
        config.spool = self.spool.limits()?;
        if let Some(folder) = &self.secrets.folder {
            if !folder.is_absolute() {
                let problem = format!("{} is not an absolute path", folder.display());
                return Err(invalid("secrets.folder", problem));
            }
            config.secrets_folder.clone_from(folder);
        }
        config.router.clone_from(&self.router);
        if let Some(router) = &config.router
            && router.listen.ip().is_unspecified()
            && router.base_url.is_none()
        {
            return Err(invalid("router.base_url", "needed when the router listens on all addresses"));
        }
        Ok(config)
    }

    fn toolchains(&self) -> Result<Vec<Toolchain>, ConfigError> {
        let mut seen = BTreeSet::new();
        let mut toolchains = Vec::new();
        for ToolchainSection { label, path, env } in &self.toolchain {
            if !seen.insert(label) {
                return Err(invalid("toolchain.label", format!("{label} is there twice")));
            }
            folders("toolchain.path", path)?;
            let env = variables("toolchain.env", env)?;
            toolchains.push(Toolchain { label: label.clone(), path: path.clone(), env });
        }
        Ok(toolchains)
    }

    /// The engine, if services run in containers. They never run as root.
    fn docker(&self, user: Option<User>) -> Result<Option<DockerConfig>, ConfigError> {
        if self.runtime.kind == RuntimeKind::Process {
            return match self.docker {
                Some(_) => Err(invalid("docker", "only with kind = \"docker\" in [runtime]")),
                None => Ok(None),
            };
        }
        if user.unwrap_or_else(User::own).is_root() {
            let problem = "needed when an agent that runs as root uses Docker, for services never run as root; \
                           a user of its own, e.g. user = \"sdp-build\" or \"64100:64100\"";
            return Err(invalid("build.user", problem));
        }
        let section = self.docker.as_ref();
        section.map_or_else(|| Ok(DockerConfig::default()), DockerSection::config).map(Some)
    }
}

/// Where a TOML error is and what it is, without the line itself: there may be a secret in it.
fn place(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    let line = before.map(|before| format!("line {}: ", before.matches('\n').count() + 1));
    format!("{}{}", line.unwrap_or_default(), error.message())
}

impl RuntimeSection {
    fn config(&self) -> Result<RuntimeConfig, ConfigError> {
        let mut config = RuntimeConfig::default();
        if let Some(Ports(range)) = &self.ports {
            config.ports = range.clone();
        }
        if let Some(address) = self.advertise {
            if address.is_unspecified() || address.is_multicast() {
                return Err(invalid("runtime.advertise", "an address at which routers reach this machine"));
            }
            config.advertise = address;
        }
        if let Some(seconds) = self.stop_grace_seconds {
            if !(1..=600).contains(&seconds) {
                return Err(invalid("runtime.stop_grace_seconds", "1 to 600"));
            }
            config.stop_grace = Duration::from_secs(seconds.into());
        }
        if let Some(seconds) = self.expiry_grace_seconds {
            if !(60..=86_400).contains(&seconds) {
                return Err(invalid("runtime.expiry_grace_seconds", "60 to 86400"));
            }
            config.expiry_grace = Duration::from_secs(seconds.into());
        }
        config.env = variables("runtime.env", &self.env)?;
        Ok(config)
    }
}

impl DockerSection {
    fn config(&self) -> Result<DockerConfig, ConfigError> {
        let mut config = DockerConfig::default();
        if let Some(socket) = &self.socket {
            if !socket.is_absolute() {
                return Err(invalid("docker.socket", "an absolute path, e.g. /var/run/docker.sock"));
            }
            config.socket.clone_from(socket);
        }
        let set = |to: &mut u32, value: Option<u32>, key: &str, range: RangeInclusive<u32>| match value {
            Some(value) if !range.contains(&value) => {
                Err(invalid(format!("docker.{key}"), format!("{} to {}", range.start(), range.end())))
            }
            Some(value) => {
                *to = value;
                Ok(())
            }
            None => Ok(()),
        };
        set(&mut config.memory_mib, self.memory_mib, "memory_mib", 16..=1_048_576)?;
        set(&mut config.cpu_millis, self.cpu_millis, "cpu_millis", 10..=1_024_000)?;
        set(&mut config.pids, self.pids, "pids", 10..=100_000)?;
        if let Some(images) = &self.images {
            if images.len() > 50 {
                return Err(invalid("docker.images", "at most 50"));
            }
            config.images.clone_from(images);
        }
        Ok(config)
    }
}

impl BuildSection {
    fn config(&self) -> Result<BuildConfig, ConfigError> {
        let mut config = BuildConfig::default();
        if let Some(keep) = self.keep {
            if keep > 100 {
                return Err(invalid("build.keep", "at most 100"));
            }
            config.keep = keep;
        }
        if let Some(path) = &self.path {
            folders("build.path", path)?;
            config.path.clone_from(path);
        }
        if let Some(name) = &self.user {
            let user = user::parse(name, Path::new(user::PASSWD))
                .map_err(|problem| invalid("build.user", problem))?;
            // Whether the agent may become that user depends on its capabilities: it says so when it starts.
            config.user = Some(user);
        }
        config.limits = self.limits.limits()?;
        config.env = variables("build.env", &self.env)?;
        config.composer_config = self.composer_config.as_deref().map(read_composer_config).transpose()?;
        Ok(config)
    }
}

impl SpoolSection {
    fn limits(&self) -> Result<SpoolLimits, ConfigError> {
        let mut limits = SpoolLimits::default();
        if let Some(mib) = self.per_deployment_mib {
            limits.per_deployment = bytes("spool.per_deployment_mib", mib)?;
            limits.total = limits.total.max(limits.per_deployment);
        }
        if let Some(mib) = self.total_mib {
            limits.total = bytes("spool.total_mib", mib)?;
        }
        if limits.total < limits.per_deployment {
            return Err(invalid("spool.total_mib", "less than spool.per_deployment_mib"));
        }
        Ok(limits)
    }
}

fn folders(key: &str, path: &str) -> Result<(), ConfigError> {
    let absolute = path.split(':').all(|folder| folder.starts_with('/'));
    if absolute { Ok(()) } else { Err(invalid(key, "absolute folders with : between them")) }
}

fn read_composer_config(path: &Path) -> Result<Secret, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let problem = match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(json) if json.is_object() => return Ok(Secret::new(text)),
        Ok(_) => "is not a JSON object".to_owned(),
        // Where, and not what: there may be a password in it.
        Err(error) => format!("is not JSON (line {}, column {})", error.line(), error.column()),
    };
    Err(invalid("build.composer_config", format!("{} {problem}", path.display())))
}

/// Names that every program could be given, and no NUL.
fn variables(key: &str, env: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, ConfigError> {
    let sane = |name: &str, value: &str| {
        !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0') && name != "PATH"
    };
    match env.iter().find(|(name, value)| !sane(name, value)) {
        Some((name, _)) if name == "PATH" => Err(invalid(key, "PATH is set with build.path")),
        Some((name, _)) => Err(invalid(key, format!("{name:?} cannot be a variable"))),
        None => Ok(env.clone()),
    }
}

pub(super) fn bytes(key: &str, mib: u64) -> Result<u64, ConfigError> {
    match mib {
        1..=16_777_216 => Ok(mib << 20),
        _ => Err(invalid(key, "1 to 16777216 MiB")),
    }
}

fn is_loopback(server: &Url) -> bool {
    match server.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}

/// Reads a token or password that its owner alone can read. Among systemd's `credentials` the bits of the group say how much a list of single
/// users may do at most; who is on it systemd has seen to.
fn read_secret(key: &str, path: &Path, credentials: Option<&Path>) -> Result<Secret, ConfigError> {
    let unreadable = |source| ConfigError::Read { path: path.to_owned(), source };
    let wrong = |problem: String| invalid(key, format!("{} {problem}", path.display()));
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let meta = file.metadata().map_err(unreadable)?;
    let mode = meta.permissions().mode() & 0o777;
    if !meta.is_file() {
        return Err(wrong("is not a file".into()));
    }
    let others = if credentials.is_some_and(|folder| path.starts_with(folder)) { 0o037 } else { 0o077 };
    if mode & others != 0 {
        return Err(wrong(format!("can be read by others (mode {mode:04o}): chmod 600 it")));
    }
    let mut text = String::new();
    file.take(MAX_SECRET_FILE).read_to_string(&mut text).map_err(unreadable)?;
    let secret = text.trim();
    if secret.is_empty() {
        return Err(wrong("is empty".into()));
    }
    Ok(Secret::new(secret))
}

pub(super) mod server;
#[cfg(test)]
mod tests;
