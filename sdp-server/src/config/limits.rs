//! `[limits]` of the configuration: how much, how often, how long.

use std::time::Duration;

use sdp_core::platform::PlatformConfig;
use serde::{Deserialize, Deserializer};

use super::ConfigError;

/// An answer begins within 65 s, whatever the request.
const LONGEST_BODY: Duration = Duration::from_secs(60);

/// Limits. Times are written as `"90s"`, `"10m"`, `"2h"`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections at once, WebSockets and feeds among them; more wait.
    pub connections: usize,
    /// Connections at once from each address; what is more is hung up on. Trusted proxies have no such limit.
    pub connections_per_address: usize,
    /// Requests a minute of each person and each token; a bot has as much for each person it speaks for, and ten times as much in
    /// all. Agents have no such limit.
    pub requests_per_minute: u32,
    /// Of these, how many may change something.
    pub writes_per_minute: u32,
    /// Attempts to log in, from each address and for each user name.
    pub login_attempts_per_minute: u32,
    /// Answers to requests with a wrong token or an old session, to each address.
    pub refused_per_minute: u32,
    /// Feeds and viewers that each person and each token may have open at once.
    pub sockets_per_principal: usize,
    /// How long a request's body may take to arrive.
    #[serde(deserialize_with = "duration")]
    pub body: Duration,
    /// Resolve and fetch together.
    #[serde(deserialize_with = "duration")]
    pub fetch: Duration,
    /// Build.
    #[serde(deserialize_with = "duration")]
    pub build: Duration,
    /// Start.
    #[serde(deserialize_with = "duration")]
    pub start: Duration,
    /// Check.
    #[serde(deserialize_with = "duration")]
    pub check: Duration,
    /// How long a deployment may wait while no agent that fits is connected.
    #[serde(deserialize_with = "duration")]
    pub no_agent_after: Duration,
    /// How long a deployment may wait for its turn.
    #[serde(deserialize_with = "duration")]
    pub queue: Duration,
    /// How many deployments may wait.
    pub queue_size: usize,
    /// How long a replaced instance may take to finish the requests it has.
    #[serde(deserialize_with = "duration")]
    pub drain: Duration,
    /// After how long an agent's absence fails its deployments.
    #[serde(deserialize_with = "duration")]
    pub lost_after: Duration,
    /// How long an agent may take to answer a question.
    #[serde(deserialize_with = "duration")]
    pub answer: Duration,
    /// How long an agent or a viewer may take to accept a frame.
    #[serde(deserialize_with = "duration")]
    pub send: Duration,
    /// Below so many free MiB in the data folder new deployments are refused.
    pub disk_floor_mib: u64,
}

impl Default for Limits {
    fn default() -> Self {
        let PlatformConfig {
            steps,
            no_agent_after,
            queue_limit,
            queue_size,
            drain_limit,
            lost_after,
            answer_limit,
            disk_floor,
            ..
        } = PlatformConfig::new("");
        let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
        Self {
            connections: 4096,
            connections_per_address: 1024,
            requests_per_minute: 1200,
            writes_per_minute: 120,
            login_attempts_per_minute: 10,
            refused_per_minute: 60,
            sockets_per_principal: 200,
            body: Duration::from_secs(15),
            fetch: seconds(steps.fetch),
            build: seconds(steps.build),
            start: seconds(steps.start),
            check: seconds(steps.check),
            no_agent_after,
            queue: queue_limit,
            queue_size,
            drain: drain_limit,
            lost_after,
            answer: answer_limit,
            send: Duration::from_secs(30),
            disk_floor_mib: disk_floor >> 20,
        }
    }
}

impl Limits {
    /// What the types alone do not check.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, problem: String| Err(ConfigError::Value { key, problem });
        if self.connections == 0 || self.connections > 100_000 {
            return wrong("limits.connections", "1 to 100000".into());
        }
        if self.queue_size == 0 {
            return wrong("limits.queue_size", "at least 1".into());
        }
        for (key, step) in [
            ("limits.fetch", self.fetch),
            ("limits.build", self.build),
            ("limits.start", self.start),
            ("limits.check", self.check),
        ] {
            if step > Duration::from_secs(24 * 3600) {
                return wrong(key, "at most 24h".into());
            }
        }
        for (key, number) in [
            ("limits.requests_per_minute", self.requests_per_minute),
            ("limits.writes_per_minute", self.writes_per_minute),
            ("limits.login_attempts_per_minute", self.login_attempts_per_minute),
            ("limits.refused_per_minute", self.refused_per_minute),
        ] {
            if number == 0 {
                return wrong(key, "at least 1".into());
            }
        }
        for (key, number) in [
            ("limits.sockets_per_principal", self.sockets_per_principal),
            ("limits.connections_per_address", self.connections_per_address),
        ] {
            if number == 0 {
                return wrong(key, "at least 1".into());
            }
        }
        if self.body > LONGEST_BODY {
            // A request that is longer under way is answered before its body is there.
            return wrong("limits.body", format!("at most {} s", LONGEST_BODY.as_secs()));
        }
        Ok(())
    }
}

pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let signed: Option<jiff::SignedDuration> = text.parse().ok();
    match signed.map(Duration::try_from) {
        Some(Ok(duration)) if duration >= Duration::from_secs(1) => Ok(duration),
        _ => Err(serde::de::Error::custom(
            "expected a time of at least a second, such as \"90s\", \"10m\" or \"2h\"",
        )),
    }
}
