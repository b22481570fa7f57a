//! The agent's configuration: one TOML file, then variables of the environment over it, then checks that name the exact
//! problem. Who the agent is does not stand in it: that comes from its token.
//!
//! `main` reads it with [`ConfigFile::load`]; programs that hold an agent (the quickstart, tests) make a [`Config`] in
//! code and give [`crate::run`] a connector of their own.

mod file;
mod limits;
mod secrets;
mod user;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;
use std::time::Duration;

use sdp_core::name::{ImageRef, Label};
use sdp_core::secret::Secret;

pub use file::server::read_token;
pub use file::{ConfigError, ConfigFile, Environment};
pub use limits::{BuildLimits, DiskConfig};

use crate::exec::Shim;
use crate::network::NetworkConfig;
use crate::router::RouterConfig;
pub use crate::spool::SpoolLimits;

/// A user as a configuration names it: `sdp-build`, or `64100:64100`.
///
/// # Errors
/// What is wrong, as a clause.
pub(crate) fn parse_user(text: &str) -> Result<User, String> {
    user::parse(text, Path::new(user::PASSWD))
}

/// What an agent needs to know, but for the way to its server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its folder: mirrors, work, logs on their way, caches. Nobody else's.
    pub data_dir: PathBuf,
    /// What services may ask for.
    pub labels: BTreeSet<Label>,
    /// How many jobs it does at once.
    pub capacity: u32,
    /// What it fetches.
    pub git: crate::git::GitConfig,
    /// How it runs what it built.
    pub runtime: RuntimeConfig,
    /// The engine, if it runs services in containers; without one they are plain processes.
    pub docker: Option<DockerConfig>,
    /// How it builds.
    pub build: BuildConfig,
    /// How much of the logs it keeps until they are delivered.
    pub spool: SpoolLimits,
    /// Below so many free bytes in its folder it takes no new work.
    pub min_free: u64,
    /// When it makes room there.
    pub disk: DiskConfig,
    /// Its router, if it is to have one.
    pub router: Option<RouterConfig>,
    /// Where services' secrets that are files lie: `root`'s or the agent's, closed to the user of builds.
    pub secrets_folder: PathBuf,
    /// Files that it was given and nobody else is to read: the preflight looks whether builds can.
    pub secret_files: Vec<PathBuf>,
}

/// How services are run, in whatever way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// Ports that services get.
    pub ports: RangeInclusive<u16>,
    /// The address at which routers reach the services.
    pub advertise: IpAddr,
    /// Between asking a service to end and killing it.
    pub stop_grace: Duration,
    /// An agent without a connection stops what runs so long after the end of its sandbox: in that time the server would have drained
    /// and stopped it, and the clocks of the two may differ.
    pub expiry_grace: Duration,
    /// Variables of all services.
    pub env: BTreeMap<String, String>,
}

/// The container engine, and what a container gets when its service says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerConfig {
    /// Where the engine listens.
    pub socket: PathBuf,
    /// Memory in MiB; there is no swap beyond it.
    pub memory_mib: u32,
    /// Processor time in thousandths of a core.
    pub cpu_millis: u32,
    /// Processes and threads at once.
    pub pids: u32,
    /// The images that are expected to be there: the preflight looks for them.
    pub images: Vec<ImageRef>,
}

/// A user of this machine, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// Its id.
    pub uid: u32,
    /// Its group's.
    pub gid: u32,
}

impl User {
    /// The agent itself.
    #[must_use]
    pub fn own() -> Self {
        use rustix::process::{getegid, geteuid};
        Self { uid: geteuid().as_raw(), gid: getegid().as_raw() }
    }

    /// Whether it may do everything.
    #[must_use]
    pub fn is_root(self) -> bool {
        self.uid == 0
    }
}

/// How services are built.
#[derive(Clone, PartialEq, Eq)]
pub struct BuildConfig {
    /// How many builds of a service in a sandbox are kept, beside those that run.
    pub keep: usize,
    /// The `PATH` of builds and services.
    pub path: String,
    /// Who owns what was built, and who it runs as in a container; without one: the agent itself.
    pub user: Option<User>,
    /// How much a build may take of the machine.
    pub limits: BuildLimits,
    /// What runs builds and services that are processes so that they die with the agent. Not for the configuration file: the
    /// `sdp-agent` program sets it. Without one, what an agent that was killed leaves behind is ended when it starts again.
    pub shim: Option<Shim>,
    /// More variables of all builds, e.g. `GOPROXY`.
    pub env: BTreeMap<String, String>,
    /// What composer shall know, as its `config.json`: mirrors, logins.
    pub composer_config: Option<Secret>,
    /// Programs that services choose by their labels.
    pub toolchains: Vec<Toolchain>,
    /// The way out of the machine.
    pub network: NetworkConfig,
}

/// Programs for the services that have its label.
#[derive(Clone, PartialEq, Eq)]
pub struct Toolchain {
    /// The label; the agent has it, too.
    pub label: Label,
    /// Folders with programs, which come before those of `build.path`.
    pub path: String,
    /// Variables of builds that use it.
    pub env: BTreeMap<String, String>,
}

impl fmt::Debug for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { label, path, env } = self;
        let names: Vec<_> = env.keys().collect();
        f.debug_struct("Toolchain").field("label", label).field("path", path).field("env", &names).finish()
    }
}

impl fmt::Debug for BuildConfig {
    // Values of variables may be secrets: names only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { keep, path, user, limits, shim, env, composer_config, toolchains, network } = self;
        f.debug_struct("BuildConfig")
            .field("keep", keep)
            .field("path", path)
            .field("user", user)
            .field("limits", limits)
            .field("shim", shim)
            .field("env", &env.keys().collect::<Vec<_>>())
            .field("composer_config", composer_config)
            .field("toolchains", toolchains)
            .field("network", network)
            .finish()
    }
}

impl BuildConfig {
    /// The toolchains of a service, in the order in which they are configured.
    pub fn toolchains_for<'a>(&'a self, labels: &'a BTreeSet<Label>) -> impl Iterator<Item = &'a Toolchain> {
        self.toolchains.iter().filter(|toolchain| labels.contains(&toolchain.label))
    }

    /// The variables of a service's builds. Of several toolchains with the same program or variable the first counts; they
    /// all count more than `[build]`, and that more than `[network]`.
    #[must_use]
    pub fn variables(&self, labels: &BTreeSet<Label>, bundle: Option<&Path>) -> BTreeMap<String, String> {
        let mut env = self.network.variables(bundle);
        env.extend(self.env.clone());
        let chosen: Vec<_> = self.toolchains_for(labels).collect();
        for toolchain in chosen.iter().rev() {
            env.extend(toolchain.env.clone());
        }
        let path: Vec<&str> =
            chosen.iter().map(|one| one.path.as_str()).chain([self.path.as_str()]).collect();
        env.insert("PATH".to_owned(), path.join(":"));
        env
    }

    /// What may not be seen in a build's output: passwords in URLs, values of variables that are named like secrets, and
    /// the logins in composer's configuration.
    #[must_use]
    pub fn secrets(&self) -> Vec<Secret> {
        let mut found = Vec::new();
        let toolchains = self.toolchains.iter().flat_map(|toolchain| &toolchain.env);
        for (name, value) in self.env.iter().chain(toolchains) {
            secrets::of_variable(name, value, &mut found);
        }
        if let Some(proxy) = &self.network.proxy {
            secrets::of_variable("", proxy.as_str(), &mut found);
        }
        if let Some(config) = &self.composer_config {
            secrets::of_json(config.expose(), &mut found);
        }
        found
    }
}

/// Where secrets that are files lie, unless the configuration says otherwise.
const SECRETS: &str = "/etc/sdp/secrets";

impl Config {
    /// The defaults, in that folder.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            labels: BTreeSet::new(),
            capacity: available_parallelism()
                .map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX)),
            git: crate::git::GitConfig::default(),
            runtime: RuntimeConfig::default(),
            docker: None,
            build: BuildConfig::default(),
            spool: SpoolLimits::default(),
            min_free: 512 << 20,
            disk: DiskConfig::above(512 << 20),
            router: None,
            secrets_folder: SECRETS.into(),
            secret_files: Vec::new(),
        }
    }
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self {
            ports: 20_000..=29_999,
            advertise: IpAddr::from([127, 0, 0, 1]),
            stop_grace: Duration::from_secs(10),
            expiry_grace: Duration::from_secs(300),
            env: BTreeMap::new(),
        }
    }
}

impl Default for DockerConfig {
    fn default() -> Self {
        let image = |name: &str| {
            ImageRef::parse(name).unwrap_or_else(|_| unreachable!("{name} is a valid name of an image"))
        };
        Self {
            socket: "/var/run/docker.sock".into(),
            memory_mib: 512,
            cpu_millis: 1000,
            pids: 256,
            images: vec![image("alpine:3.20"), image("php:8.3-apache")],
        }
    }
}

impl Default for BuildConfig {
    fn default() -> Self {
        Self {
            keep: 2,
            path: crate::builder::DEFAULT_PATH.to_owned(),
            user: None,
            limits: BuildLimits::default(),
            shim: None,
            env: BTreeMap::new(),
            composer_config: None,
            toolchains: Vec::new(),
            network: NetworkConfig::default(),
        }
    }
}
