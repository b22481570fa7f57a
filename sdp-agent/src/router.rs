//! The router: sends a sandbox's requests for a service to the instance that runs there, and all others to the baseline.
//!
//! The agent's link hands [`Router::apply`] each new [`RouteTable`] and reports what [`Router::next_applied`] and
//! [`Router::next_drained`] say; the agent owns [`Router::serve`]. There are two:
//!
//! ```text
//!  builtin   client ──▶ accept, limits ──▶ select (core, pure: which service, sandbox, target) ──▶ plan ──▶ forward ──▶ pools
//!                          apply ──▶ table, swapped whole ──▶ drain (requests under way, per instance) ──▶ next_drained
//!
//!  nginx     client ──▶ nginx (maps: the same choice) ──▶ instance, external, baseline
//!                          apply ──▶ render (pure) ──▶ nginx -t ──▶ reload ──▶ in effect ──▶ old workers gone ──▶ next_drained
//! ```
//! A request sees exactly one table. An instance is announced as drained only when the newest table does not name it and nothing
//! is under way to it. **How a request chooses** is [`sdp_core::routing`], for both; one table of tests holds them to it.
//!
//! **Why our own beside nginx**: the one process of the quickstart needs no nginx, and connections are never closed when a table
//! changes. `hyper-reverse-proxy` ended with hyper 0.14. `axum-reverse-proxy` fixes its target per path, passes hop-by-hop headers
//! on, rebuilds WebSockets message by message (so no other upgrade passes, and no extension), and has nothing to hold a count on.
//! Protocol, pool, retry and TLS are hyper, hyper-util and hyper-rustls; ours is the choice and the count.
//!
//! `sdp-served-by` is on every answer to a request that could be read; to what is no HTTP, or above
//! [`Limits::header_bytes`], hyper itself answers 400 or 431.
//!
//! Limits: [`Limits`]; pooled connections are kept `upstream::POOL_IDLE`. There is no limit on how long an answer may take
//! (server-sent events, long polls): a request ends when its client leaves, the instance ends or the router stops.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use ipnet::IpNet;
use sdp_core::id::{InstanceId, RouteVersion};
use sdp_core::routing::RouteTable;
use sdp_core::wire::{Preflight, ProbeHop, RouterReport};
use serde::{Deserialize, Deserializer};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::config::User;

mod answer;
mod builtin;
mod drain;
mod forward;
mod headers;
mod marks;
mod nginx;
mod plan;
mod probe;
mod table;
mod upstream;

#[cfg(test)]
mod tests;

pub use builtin::BuiltinRouter;
pub use nginx::NginxRouter;
pub use probe::{TraceId, probe};

/// The least that [`Limits::header_bytes`] can be: hyper's least buffer.
const LEAST_HEADER_BYTES: usize = 8192;

/// Where an nginx of the system is.
const NGINX: &str = "/usr/sbin/nginx";

/// A router. What it holds is its own: all may be called at any time, from anywhere.
pub trait Router: fmt::Debug + Send + Sync {
    /// What the server is told about it.
    fn report(&self) -> RouterReport;

    /// Where it listens.
    fn local_addr(&self) -> SocketAddr;

    /// Takes a table, unless it has a newer one, and returns the version in effect now. That may be an older one: the table takes
    /// effect later ([`Self::next_applied`]), or never, if it is bad or a newer one comes ([`Self::preflight`]).
    fn apply(&self, table: RouteTable) -> RouteVersion;

    /// The version in effect, once it is higher than this one. Nothing is lost when the future is dropped.
    fn next_applied(&self, after: RouteVersion) -> BoxFuture<'_, RouteVersion>;

    /// The next instance that the newest table does not name and that has no request under way any more: each exactly once per
    /// removal, also if it never had one. Nothing is lost when nobody waits, or when the future is dropped.
    fn next_drained(&self) -> BoxFuture<'_, InstanceId>;

    /// What it found out about itself.
    fn preflight(&self) -> Vec<Preflight>;

    /// Waits until [`Self::preflight`] says something else; `seen` begins as 0.
    fn next_change<'a>(&'a self, seen: &'a mut u64) -> BoxFuture<'a, ()>;

    /// The requests of a probe that passed, in the order in which they began.
    fn hops<'a>(&'a self, trace: &'a TraceId) -> BoxFuture<'a, Vec<ProbeHop>>;

    /// Serves until `shutdown`. Returns when all that it started has ended, but for an nginx, which goes on. A router serves once.
    fn serve(&self, shutdown: CancellationToken) -> BoxFuture<'_, ()>;
}

/// Opens the router that is configured; `data_dir` is the agent's folder.
///
/// # Errors
/// When it cannot listen, its folder cannot be used, or its configuration contradicts itself.
pub async fn open(config: &RouterConfig, data_dir: &Path) -> io::Result<Arc<dyn Router>> {
    Ok(match config.engine {
        Engine::Builtin => {
            NginxRouter::end_leftover(data_dir).await;
            Arc::new(BuiltinRouter::bind(config)?)
        }
        Engine::Nginx => Arc::new(NginxRouter::open(config, data_dir)?),
    })
}

fn next_version(
    mut versions: watch::Receiver<RouteVersion>,
    after: RouteVersion,
) -> BoxFuture<'static, RouteVersion> {
    Box::pin(async move {
        let found = versions.wait_for(|version| *version > after).await.map(|version| *version);
        match found {
            Ok(version) => version,
            // The router is gone.
            Err(_) => std::future::pending().await,
        }
    })
}

/// What routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Engine {
    /// The agent itself.
    #[default]
    Builtin,
    /// An nginx that the agent runs.
    Nginx,
}

/// `[router]` of the agent's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouterConfig {
    /// What routes.
    #[serde(default, alias = "kind")]
    pub engine: Engine,
    /// Where it listens, e.g. `127.0.0.1:8081`.
    pub listen: SocketAddr,
    /// The base of the URLs that people use, if it is not `http://<listen>`; needed when it listens on all addresses.
    /// If it has a path, the proxy in front takes that path off.
    #[serde(default)]
    pub base_url: Option<Url>,
    /// Whether `X-Forwarded-*` of a request are believed: only when nobody but a proxy in front can reach the router.
    #[serde(default)]
    pub trust_forwarded: bool,
    /// From where headers and cookies may choose a sandbox, such as `10.0.0.0/8`; none: from everywhere. With `trust_forwarded` it
    /// is whom the proxy in front names. Paths and hosts choose from everywhere.
    #[serde(default)]
    pub trusted_networks: Vec<IpNet>,
    /// More certificate authorities (PEM) for `https` baselines, beside the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// How much of everything.
    #[serde(default)]
    pub limits: Limits,
    /// The nginx to run; 1.21.1 or newer.
    #[serde(default = "system_nginx")]
    pub nginx: PathBuf,
    /// Who nginx is where the agent is root, `nobody` if it is not said; otherwise it is what the agent is.
    #[serde(default, deserialize_with = "user")]
    pub user: Option<User>,
    /// Where nginx looks up the names of baselines, such as `10.0.0.2:53`; none: the name servers in `/etc/resolv.conf`.
    #[serde(default)]
    pub resolvers: Vec<SocketAddr>,
    /// How long connections that were made under an earlier table may live on in nginx (WebSockets, long answers).
    #[serde(default = "old_connections", deserialize_with = "duration")]
    pub old_connections: Duration,
}

fn system_nginx() -> PathBuf {
    NGINX.into()
}

fn old_connections() -> Duration {
    Duration::from_secs(3600)
}

fn user<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<User>, D::Error> {
    let text = String::deserialize(deserializer)?;
    crate::config::parse_user(&text).map(Some).map_err(serde::de::Error::custom)
}

impl RouterConfig {
    /// The defaults, listening there.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            engine: Engine::Builtin,
            listen,
            base_url: None,
            trust_forwarded: false,
            trusted_networks: Vec::new(),
            ca_file: None,
            limits: Limits::default(),
            nginx: system_nginx(),
            user: None,
            resolvers: Vec::new(),
            old_connections: old_connections(),
        }
    }

    /// Whether it can work.
    fn check(&self) -> io::Result<()> {
        let config = self;
        let wrong = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, what.to_owned()));
        match &config.base_url {
            None if config.listen.ip().is_unspecified() => {
                return wrong("router.base_url is needed when router.listen is all addresses");
            }
            Some(url)
                if !matches!(url.scheme(), "http" | "https")
                    || !url.username().is_empty()
                    || url.password().is_some()
                    || url.query().is_some()
                    || url.fragment().is_some() =>
            {
                return wrong("router.base_url is an http or https URL without user, query or fragment");
            }
            _ => {}
        }
        if config.limits.connections == 0 || config.limits.connections > tokio::sync::Semaphore::MAX_PERMITS {
            return wrong("router.limits.connections is at least 1");
        }
        if config.limits.header_bytes < LEAST_HEADER_BYTES {
            return wrong("router.limits.header_bytes is at least 8192");
        }
        if config.limits.uri_bytes == 0 {
            return wrong("router.limits.uri_bytes is at least 1");
        }
        Ok(())
    }

    /// The base of the URLs that people use.
    fn base(&self) -> io::Result<Url> {
        match &self.base_url {
            Some(url) => Ok(url.clone()),
            None => Url::parse(&format!("http://{}", self.listen)).map_err(io::Error::other),
        }
    }
}

/// The router's limits.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections of clients, upgraded ones included; more wait to be accepted.
    pub connections: usize,
    /// Bytes of a request's line and headers; more is answered with 431.
    pub header_bytes: usize,
    /// Bytes of a request's path and query; more is answered with 414.
    pub uri_bytes: usize,
    /// How long a client may take for a request's headers, and how long an idle connection is kept.
    #[serde(deserialize_with = "duration")]
    pub header_read_timeout: Duration,
    /// How long a connection to an instance may take.
    #[serde(deserialize_with = "duration")]
    pub connect_timeout: Duration,
    /// How long a connection to a baseline may take, with name lookup and TLS.
    #[serde(deserialize_with = "duration")]
    pub baseline_connect_timeout: Duration,
    /// How long requests under way may go on when the router stops.
    #[serde(deserialize_with = "duration")]
    pub shutdown_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            header_bytes: 64 * 1024,
            uri_bytes: 16 * 1024,
            header_read_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(2),
            baseline_connect_timeout: Duration::from_secs(5),
            shutdown_grace: Duration::from_secs(5),
        }
    }
}

/// `"2s"`, `"500ms"`, `"1m 30s"`.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let signed = jiff::SignedDuration::deserialize(deserializer)?;
    match Duration::try_from(signed) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(serde::de::Error::custom("a duration above zero, e.g. \"2s\"")),
    }
}
