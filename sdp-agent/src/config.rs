//! The agent's configuration: one TOML file, then variables of the environment over it, then checks that name the exact
//! problem. Who the agent is does not stand in it: that comes from its token.
//!
//! `main` reads it with [`ConfigFile::load`]; programs that hold an agent (the quickstart, tests) make a [`Config`] in
//! code and give [`crate::run`] a connector of their own.

mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

use sdp_core::name::Label;

pub use file::{ConfigError, ConfigFile, Environment};

use crate::router::RouterConfig;
pub use crate::spool::SpoolLimits;

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
    /// How it builds.
    pub build: BuildConfig,
    /// How much of the logs it keeps until they are delivered.
    pub spool: SpoolLimits,
    /// Below so many free bytes in its folder it takes no new work.
    pub min_free: u64,
    /// Its router, if it is to have one.
    pub router: Option<RouterConfig>,
}

/// How the `process` runtime runs services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// Ports that services get.
    pub ports: RangeInclusive<u16>,
    /// The address at which routers reach the services.
    pub advertise: IpAddr,
    /// Between asking a service to end and killing it.
    pub stop_grace: Duration,
    /// Variables of all services.
    pub env: BTreeMap<String, String>,
}

/// How services are built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildConfig {
    /// How many builds of a service in a sandbox are kept, beside those that run.
    pub keep: usize,
    /// The `PATH` of builds and services.
    pub path: String,
    /// More variables of all builds, e.g. `GOPROXY`.
    pub env: BTreeMap<String, String>,
}

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
            build: BuildConfig::default(),
            spool: SpoolLimits::default(),
            min_free: 512 << 20,
            router: None,
        }
    }
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self {
            ports: 20_000..=29_999,
            advertise: IpAddr::from([127, 0, 0, 1]),
            stop_grace: Duration::from_secs(10),
            env: BTreeMap::new(),
        }
    }
}

impl Default for BuildConfig {
    fn default() -> Self {
        Self { keep: 2, path: crate::builder::DEFAULT_PATH.to_owned(), env: BTreeMap::new() }
    }
}
