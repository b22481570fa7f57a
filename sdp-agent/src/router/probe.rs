//! Probes: a request through the router as a sandbox's, and which requests followed from it.
//!
//! A probe's `traceparent` has a trace id that begins with [`PREFIX`]. Whoever passes trace context on (any tracing library does)
//! brings it back to the router with each call; the router keeps a hop of each. A hop without the sandbox names the service that
//! dropped the sandbox's mark. What follows from the answer is waited for until nothing new has come for [`QUIET`].
//!
//! Limit: the newest [`KEPT`] hops are kept by the built-in router; nginx's are read from its log.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use sdp_core::name::{SandboxName, ServiceName};
use sdp_core::routing::ROUTING_KEY;
use sdp_core::routing::select::Choice;
use sdp_core::wire::ProbeHop;
use sdp_core::wire::{Answer, ProbeRequest};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::Router;
use super::headers::SERVED_BY;
use crate::sync::Lock;

/// How long nothing new comes before it is said that nothing follows.
const QUIET: Duration = Duration::from_millis(500);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(25);
/// How much of an answer is read.
const MOST_BODY: usize = 1 << 20;
/// The longest that a probe may take.
const MOST: Duration = Duration::from_secs(60);

/// How the trace id of a probe begins.
pub(crate) const PREFIX: &str = "5d9b0be0";
/// How many hops are kept, of all probes together.
const KEPT: usize = 1000;

/// The trace id of a probe: a beginning that all of them have, and random.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceId(String);

impl TraceId {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        let random = uuid::Uuid::new_v4().simple().to_string();
        Self(format!("{PREFIX}{}", &random[PREFIX.len()..]))
    }

    /// That of a `traceparent`, if it is a probe's.
    pub(crate) fn parse(traceparent: &str) -> Option<Self> {
        let id = traceparent.strip_prefix("00-")?.get(..32)?;
        let valid = id.starts_with(PREFIX) && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        valid.then(|| Self(id.to_owned()))
    }

    /// 32 hexadecimal digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Sends a request through the router as a sandbox's, and says which requests followed from it.
///
/// # Errors
/// Why it could not be sent, as a sentence.
pub async fn probe(router: &dyn Router, probe: &ProbeRequest) -> Result<Answer, String> {
    let until = Instant::now() + Duration::from_millis(probe.within_ms.into()).min(MOST);
    let trace = TraceId::random();
    let sent = timeout_at(until, send(router.local_addr(), probe, &trace)).await;
    let response = match sent {
        Ok(response) => Some(response.map_err(|error| format!("the probe was not answered: {error}"))?),
        // The hops tell where it got stuck.
        Err(_) => None,
    };
    let (mut seen, mut since) = (0, Instant::now());
    let hops = loop {
        let hops = router.hops(&trace).await;
        if hops.len() > seen {
            (seen, since) = (hops.len(), Instant::now());
        }
        if Instant::now() >= until || (seen > 0 && since.elapsed() >= QUIET) {
            break hops;
        }
        sleep(LOOK).await;
    };
    let Some(response) = response else {
        return match hops.is_empty() {
            true => Err("there was no answer in time".to_owned()),
            false => Ok(Answer::Probed { status: 504, served_by: None, hops }),
        };
    };
    let served_by = response.headers.get(SERVED_BY).and_then(|value| value.to_str().ok());
    Ok(Answer::Probed { status: response.status.as_u16(), served_by: served_by.map(str::to_owned), hops })
}

async fn send(
    listen: SocketAddr,
    probe: &ProbeRequest,
    trace: &TraceId,
) -> Result<Parts, Box<dyn std::error::Error + Send + Sync>> {
    // One that listens on all addresses is reached on the machine's own.
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let stream = TcpStream::connect((ip, listen.port())).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let host = probe.host.as_ref().map_or_else(|| listen.to_string(), ToString::to_string);
    let parent = uuid::Uuid::new_v4().simple().to_string();
    let request = Request::get(&probe.path)
        .header(header::HOST, host)
        .header(ROUTING_KEY, probe.key.as_str())
        .header("baggage", format!("{ROUTING_KEY}={}", probe.key))
        .header("traceparent", format!("00-{}-{}-01", trace.as_str(), &parent[..16]))
        .header(header::USER_AGENT, "sdp-probe")
        .body(Empty::<Bytes>::new())?;
    let answered = async move {
        let (parts, mut body) = sender.send_request(request).await?.into_parts();
        // Read, so that nobody sees a client that left; but there may be no end to it.
        let read = async {
            let mut left = MOST_BODY;
            while let Some(Ok(frame)) = body.frame().await
                && left > 0
            {
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            }
        };
        let _ended = timeout(QUIET, read).await;
        Ok(parts)
    };
    // The connection ends with the sender.
    let (answered, _ended) = tokio::join!(answered, connection);
    answered
}

/// The hops of probes that passed the built-in router.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    seen: Lock<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    begun: u64,
    /// By when they began.
    hops: VecDeque<(u64, TraceId, ProbeHop)>,
}

/// A hop under way.
#[derive(Debug)]
pub(crate) struct Hop {
    number: u64,
    trace: TraceId,
    service: Option<ServiceName>,
    sandbox: Option<SandboxName>,
    named_by: Option<String>,
}

impl Hop {
    pub(crate) fn chosen(&mut self, choice: &Choice<'_>) {
        self.service = Some(choice.service.service.clone());
        self.sandbox = choice.sandbox.map(|(sandbox, _)| sandbox.name.clone());
        self.named_by = choice.sandbox.map(|(_, by)| by.as_str().to_owned());
    }
}

impl Probes {
    /// Of a probe's request.
    pub(crate) fn begin(&self, headers: &HeaderMap) -> Option<Hop> {
        let trace = TraceId::parse(headers.get("traceparent")?.to_str().ok()?)?;
        let mut seen = self.seen.lock();
        seen.begun += 1;
        Some(Hop { number: seen.begun, trace, service: None, sandbox: None, named_by: None })
    }

    /// It has been answered.
    pub(crate) fn end(&self, hop: Hop, status: StatusCode, headers: &HeaderMap) {
        let served_by = headers.get(SERVED_BY).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let Hop { number, trace, service, sandbox, named_by } = hop;
        let served_by = served_by.to_owned();
        let hop = ProbeHop { service, sandbox, named_by, served_by, status: status.as_u16() };
        let mut seen = self.seen.lock();
        if seen.hops.len() >= KEPT {
            seen.hops.pop_front();
        }
        seen.hops.push_back((number, trace, hop));
    }

    pub(crate) fn hops(&self, trace: &TraceId) -> Vec<ProbeHop> {
        let mut found: Vec<_> =
            self.seen.lock().hops.iter().filter(|(_, of, _)| of == trace).cloned().collect();
        found.sort_by_key(|(number, ..)| *number);
        found.into_iter().map(|(_, _, hop)| hop).collect()
    }
}
