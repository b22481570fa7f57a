//! What is counted and measured for Prometheus, and how it is written: `GET /metrics`.
//!
//! ```text
//! events ─▶ story ─▶ counters, histograms ┐
//! edge, sockets ───▶ (since the start)    ├─▶ OpenMetrics, or Prometheus' older text
//! platform, /proc ─▶ levels, when asked   ┘
//! ```
//! [`edge`](crate::edge) and the sockets count here; [`story`] folds the feed of events; [`levels`] reads what is so at the
//! moment. Whoever adds a metric keeps its labels few and from closed sets: agents (one token each), steps, reasons, routes as
//! they are written in the router. Never a deployment, branch, sandbox or person.
//!
//! Counters and histograms begin with the process, as Prometheus expects; only `sdp_events_total` goes on for ever.

mod levels;
mod process;
pub(crate) mod story;

use std::time::Duration;

use axum::http::{Method, StatusCode};
use prometheus_client::encoding::{EncodeLabelSet, prometheus_text, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use sdp_core::name::AgentName;

pub(crate) use levels::{Edge, levels};
use story::Story;

/// The content type of OpenMetrics.
pub(crate) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The content type of Prometheus' older text.
pub(crate) const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// An answer begins within these; held requests take up to 60 s.
const REQUEST_SECONDS: [f64; 10] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 20.0, 60.0];

/// All that is counted since the start.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) story: Story,
    requests: Family<RequestLabels, Histogram, fn() -> Histogram>,
    refused: Family<RefusedLabels, Counter>,
    rewinds: Family<AgentLabels, Counter>,
    bad_frames: Family<AgentLabels, Counter>,
    slow_viewers: Counter,
    viewers: Gauge,
    feeds: Gauge,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: String,
    status: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RefusedLabels {
    code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct AgentLabels {
    agent: String,
}

impl AgentLabels {
    fn of(agent: &AgentName) -> Self {
        Self { agent: agent.to_string() }
    }
}

/// Somebody who is there; counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Present(Gauge);

impl Present {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("sdp");
        let story = Story::register(&mut registry);
        let mut metrics = Self {
            registry: Registry::default(),
            story,
            requests: Family::new_with_constructor(|| Histogram::new(REQUEST_SECONDS)),
            refused: Family::default(),
            rewinds: Family::default(),
            bad_frames: Family::default(),
            slow_viewers: Counter::default(),
            viewers: Gauge::default(),
            feeds: Gauge::default(),
        };
        registry.register_with_unit(
            "http_request_duration",
            "Time until an HTTP answer begins; a request that is held counts for as long",
            Unit::Seconds,
            metrics.requests.clone(),
        );
        registry.register(
            "auth_refused",
            "Requests that were refused for who asks, or how often, by the code of the problem",
            metrics.refused.clone(),
        );
        registry.register(
            "log_rewinds",
            "Times that an agent was told to send a part of a log again",
            metrics.rewinds.clone(),
        );
        registry.register(
            "agent_bad_frames",
            "Connections of agents that ended because of a frame that is none",
            metrics.bad_frames.clone(),
        );
        registry.register(
            "slow_viewers",
            "Viewers of logs that took nothing for too long and were told where to go on",
            metrics.slow_viewers.clone(),
        );
        registry.register("viewers", "Viewers of logs that are connected", metrics.viewers.clone());
        registry.register("feeds", "Readers that follow the events over HTTP", metrics.feeds.clone());
        for code in ["unauthorised", "forbidden", "cross_site", "too_many_requests"] {
            drop(metrics.refused.get_or_create(&RefusedLabels { code }));
        }
        metrics.registry = registry;
        metrics
    }

    /// A request was answered.
    pub(crate) fn answered(&self, method: &Method, route: Option<&str>, status: StatusCode, took: Duration) {
        let labels = RequestLabels {
            method: method_label(method),
            route: route.unwrap_or("(none)").to_owned(),
            status: match status.as_u16() / 100 {
                1 => "1xx",
                2 => "2xx",
                3 => "3xx",
                4 => "4xx",
                _ => "5xx",
            },
        };
        self.requests.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Somebody was refused for who they are, or are not, or for asking too often.
    pub(crate) fn refused(&self, code: &str) {
        let code = match code {
            "unauthorised" => "unauthorised",
            "forbidden" => "forbidden",
            "cross_site" => "cross_site",
            "too_many_requests" => "too_many_requests",
            _ => "other",
        };
        self.refused.get_or_create(&RefusedLabels { code }).inc();
    }

    pub(crate) fn rewound(&self, agent: &AgentName) {
        self.rewinds.get_or_create(&AgentLabels::of(agent)).inc();
    }

    pub(crate) fn bad_frame(&self, agent: &AgentName) {
        self.bad_frames.get_or_create(&AgentLabels::of(agent)).inc();
    }

    /// An agent was removed: what is counted of it is shown no more.
    pub(crate) fn forget_agent(&self, agent: &AgentName) {
        self.rewinds.remove(&AgentLabels::of(agent));
        self.bad_frames.remove(&AgentLabels::of(agent));
    }

    pub(crate) fn slow_viewer(&self) {
        self.slow_viewers.inc();
    }

    pub(crate) fn viewer(&self) -> Present {
        Present::new(&self.viewers)
    }

    pub(crate) fn feed(&self) -> Present {
        Present::new(&self.feeds)
    }

    /// Everything as text, with its content type.
    pub(crate) fn write(
        &self,
        levels: &Registry,
        open_metrics: bool,
    ) -> Result<(String, &'static str), std::fmt::Error> {
        let mut out = String::new();
        if open_metrics {
            text::encode_registry(&mut out, &self.registry)?;
            text::encode_registry(&mut out, levels)?;
            text::encode_eof(&mut out)?;
            return Ok((out, OPEN_METRICS));
        }
        prometheus_text::encode(&mut out, &self.registry)?;
        prometheus_text::encode(&mut out, levels)?;
        Ok((out, PROMETHEUS_TEXT))
    }
}

fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        // Whoever makes up methods makes no new series.
        _ => "other",
    }
}
