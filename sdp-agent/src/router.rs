//! The router: sends a sandbox's requests for a service to the instance that runs there, and all others to the baseline.
//!
//! The agent's link hands [`BuiltinRouter::apply`] each new [`sdp_core::sandbox::RouteTable`] and reports what
//! [`BuiltinRouter::next_drained`] says; `main` owns [`BuiltinRouter::serve`].
//!
//! ```text
//!  client ──▶ builtin (accept, limits) ──▶ select (pure: which service, sandbox, target) ──▶ forward ──▶ upstream (pools)
//!                        apply ──▶ table, swapped whole ──▶ drain (requests under way, per instance) ──▶ next_drained
//! ```
//! A request sees exactly one table, and is counted on its instance from before it is sent until its answer (or its
//! upgraded connection) has ended. An instance is announced as drained only when the newest table does not name it and its
//! count is zero.
//!
//! **How a request chooses.** The sandbox: a path that begins with `/~<sandbox>/` (taken off), else the header
//! `sdp-sandbox`, else the cookie `sdp-sandbox`; the first of them that is there wins, so a path is never overruled by
//! a header. An empty header or cookie counts as none. A name that no sandbox has is answered with 404, never with the
//! baseline. Then the longest path prefix chooses the service. These are selectors, not permissions: whoever reaches the
//! router reaches every sandbox.
//!
//! **Paths** are compared as they were sent, byte for byte, whole segments, without decoding (but `/%7E` is `/~`). Paths with
//! a `.` or `..` segment, however encoded, or with an encoded NUL, are refused with 400, so that what is chosen here and what
//! the service sees cannot differ. Several slashes where a prefix was taken off become one.
//!
//! **Why our own and no library**: `hyper-reverse-proxy` ended with hyper 0.14. `axum-reverse-proxy` fixes its target per
//! path, passes hop-by-hop headers on, rebuilds WebSockets message by message (so no other upgrade passes, and no
//! extension), and has nothing to hold a count on. Protocol, pool, retry and TLS are hyper, hyper-util and hyper-rustls;
//! ours is the choice and the count.
//!
//! `sdp-served-by` is on every answer to a request that could be read; to what is no HTTP, or above
//! [`Limits::header_bytes`], hyper itself answers 400 or 431.
//!
//! Limits: [`Limits`]; pooled connections are kept `upstream::POOL_IDLE`. There is no limit on how long an answer may take
//! (server-sent events, long polls): a request ends when its client leaves, the instance ends or the router stops.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use url::Url;

mod answer;
mod builtin;
mod drain;
mod forward;
mod headers;
mod select;
mod table;
mod upstream;

#[cfg(test)]
mod tests;

pub use builtin::BuiltinRouter;

/// `[router]` of the agent's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouterConfig {
    /// Where it listens, e.g. `127.0.0.1:8081`.
    pub listen: SocketAddr,
    /// The base of the URLs that people use, if it is not `http://<listen>`; needed when it listens on all addresses.
    /// If it has a path, the proxy in front takes that path off.
    #[serde(default)]
    pub base_url: Option<Url>,
    /// Whether `X-Forwarded-*` of a request are believed: only when nobody but a proxy in front can reach the router.
    #[serde(default)]
    pub trust_forwarded: bool,
    /// More certificate authorities (PEM) for `https` baselines, beside the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// How much of everything.
    #[serde(default)]
    pub limits: Limits,
}

impl RouterConfig {
    /// The defaults, listening there.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        Self { listen, base_url: None, trust_forwarded: false, ca_file: None, limits: Limits::default() }
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
