//! One request through the router: choose, count, send, answer. Bodies stream in both directions and are never held.
//!
//! A request is sent again, once, on a new connection, if the connection it was sent on had been used before and broke
//! without an answer, the method is idempotent and there is no body (RFC 9110, 9.2.2). It is sent to the newer target if its
//! instance is gone and the table has changed meanwhile. What could not even be connected to was sent nothing: then any request
//! goes to the newer target, or to the baseline, where that is the environment's policy.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header;
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::{Either, Empty, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use sdp_core::routing::COOKIE;
use sdp_core::routing::select::{Choice, Head, Refusal, SharedLink, Target};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use super::Limits;
use super::answer::Problem;
use super::drain::Guard;
use super::headers::{self, Origin, SERVED_BY};
use super::marks;
use super::plan::Plan;
use super::probe::{Hop, Probes};
use super::table::{Live, Table};
use super::upstream::{Clients, Lent, RequestBody, Sent, Via};

/// What chooses, beside the URL.
pub(crate) const VARY: &str = "sdp-routing-key, sdp-sandbox, baggage, tracestate, cookie";

/// How often a request looks at the table again, at most: each time is a newer table.
const TABLES: usize = 5;

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) table: Table,
    pub(crate) clients: Clients,
    pub(crate) base_url: Url,
    pub(crate) trust_forwarded: bool,
    pub(crate) trusted_networks: Vec<IpNet>,
    pub(crate) probes: Probes,
    pub(crate) limits: Limits,
    /// Client connections and upgraded ones.
    pub(crate) tasks: TaskTracker,
    /// Upgraded connections end with it: by themselves they may not end at all.
    pub(crate) tunnels_end: CancellationToken,
}

/// A client's connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// Its place among the connections, held by what it was upgraded to as well.
    pub(crate) place: Arc<OwnedSemaphorePermit>,
}

pub(crate) type AnswerBody = Either<Relayed, Full<Bytes>>;

/// An upstream's body, which counts as under way until it has ended.
#[derive(Debug)]
pub(crate) struct Relayed {
    body: Incoming,
    _guard: Option<Guard>,
}

impl Body for Relayed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

pub(crate) async fn handle(
    shared: Arc<Shared>,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    let (mut parts, body) = request.into_parts();
    let mut hop = shared.probes.begin(&parts.headers);
    let answer = match relay(&shared, &peer, &mut parts, body, &mut hop).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(&parts.method, &parts.headers).map(Either::Right),
    };
    if let Some(hop) = hop {
        shared.probes.end(hop, answer.status(), answer.headers());
    }
    Ok(answer)
}

async fn relay(
    shared: &Arc<Shared>,
    peer: &Peer,
    parts: &mut Parts,
    body: Incoming,
    hop: &mut Option<Hop>,
) -> Result<Response<AnswerBody>, Problem> {
    accept(shared, parts)?;
    // Kept out of the copies of the head that are sent.
    let on_upgrade = parts.extensions.remove::<OnUpgrade>();
    if let Some(link) = parts.uri.path_and_query().and_then(|sent| SharedLink::parse(sent.as_str())) {
        return follow(shared, &link);
    }
    let upgrade = headers::upgrade(parts.version, &parts.headers);
    let body = Some(body).filter(|body| !body.is_end_stream()).map(Lent::new);
    let replayable = parts.method.is_idempotent() && body.is_none() && upgrade.is_none();
    let again_body = || body.clone().map_or_else(|| Either::Right(Empty::new()), Either::Left);
    let mut again = false;
    for _ in 0..TABLES {
        let live = shared.table.live();
        let choice = choose(shared, &live, peer, parts)?;
        if let Some(hop) = hop {
            hop.chosen(&choice);
        }
        let (via, guard, plan, otherwise) = match &choice.target {
            Target::Instance { instance, otherwise, .. } => {
                let Some(pool) = live.instances.get(instance) else { continue };
                // Not counted: the instance left the table after we looked, so there is a newer one.
                let Some(guard) = shared.table.drain.enter(pool.in_flight()) else { continue };
                let plan = Plan::to_instance(&shared.base_url, &choice, pool.authority(), parts)?;
                (Via::Instance(pool), Some(guard), plan, *otherwise)
            }
            Target::External { address } => {
                let authority = Authority::try_from(address.to_string());
                let authority = authority.map_err(|_| no_address(shared))?;
                (Via::Baselines, None, Plan::to_instance(&shared.base_url, &choice, &authority, parts)?, None)
            }
            Target::Baseline { url, .. } => {
                (Via::Baselines, None, Plan::to_baseline(&shared.base_url, &choice, url, parts)?, None)
            }
        };
        let via = if upgrade.is_some() || again { Via::Fresh } else { via };
        let request =
            |plan: &Plan| upstream_request(shared, peer, parts, plan, upgrade.as_ref(), again_body());
        let error = match shared.clients.send(via, request(&plan)).await {
            Ok(response) => return answer(shared, peer, &plan, response, guard, upgrade, on_upgrade),
            Err(error) => error,
        };
        // Where there was no connection, nothing was sent.
        let newer = shared.table.version() > live.index.version();
        let stale = !again && error.on_used_connection();
        if (replayable && (newer || stale)) || (error.is_connect() && newer) {
            tracing::debug!(served_by = plan.served_by, cause = error.cause(), "sent again");
            again = true;
            continue;
        }
        let Some(url) = otherwise.filter(|_| error.is_connect()) else {
            return Err(unanswered(&plan, &error));
        };
        tracing::info!(served_by = plan.served_by, cause = error.cause(), "the baseline answers instead");
        drop(guard);
        let plan = Plan::to_baseline(&shared.base_url, &choice, url, parts)?;
        let via = if upgrade.is_some() { Via::Fresh } else { Via::Baselines };
        let sent = shared.clients.send(via, request(&plan)).await;
        let response = sent.map_err(|error| unanswered(&plan, &error))?;
        return answer(shared, peer, &plan, response, None, upgrade, on_upgrade);
    }
    Err(Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "routes_change",
        "The routes changed again and again while this request was on its way.".into(),
        "Send it again.".into(),
    ))
}

fn no_address(shared: &Shared) -> Problem {
    Problem::from_refusal(Refusal::BadPath { why: "its target is no address" }, &shared.base_url)
}

/// Sets or takes back the cookie of a shared link, and leads on.
fn follow(shared: &Shared, link: &SharedLink) -> Result<Response<AnswerBody>, Problem> {
    let live = shared.table.live();
    let followed = live.index.follow(link, jiff::Timestamp::now());
    followed.map_err(|refusal| Problem::from_refusal(refusal, &shared.base_url))?;
    let base = &shared.base_url;
    let secure = if base.scheme() == "https" { "; Secure" } else { "" };
    let cookie = match &link.key {
        Some(key) => format!("{COOKIE}={key}; Path=/; HttpOnly; SameSite=Lax{secure}"),
        None => format!("{COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax{secure}"),
    };
    let mut response = Response::new(Either::Right(Full::default()));
    *response.status_mut() = StatusCode::FOUND;
    let headers = response.headers_mut();
    headers::set(headers, header::LOCATION, &format!("{}{}", base.path().trim_end_matches('/'), link.to));
    headers::set(headers, header::SET_COOKIE, &cookie);
    headers::set(headers, header::CACHE_CONTROL, "no-store");
    headers::set(headers, SERVED_BY, "router");
    Ok(response)
}

/// What no service gets to see.
fn accept(shared: &Shared, parts: &mut Parts) -> Result<(), Problem> {
    if matches!(parts.method, Method::CONNECT | Method::TRACE) {
        return Err(Problem::method_not_allowed(parts.method.as_str()));
    }
    let limit = shared.limits.uri_bytes;
    if parts.uri.path_and_query().is_some_and(|path| path.as_str().len() > limit) {
        return Err(Problem::uri_too_long(limit));
    }
    // `GET http://host/path`: the host of the request line is the one that counts (RFC 9112, 3.2.2).
    if let Some(authority) = parts.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        parts.headers.insert(header::HOST, host);
    }
    Ok(())
}

fn choose<'t>(shared: &Shared, live: &'t Live, peer: &Peer, parts: &Parts) -> Result<Choice<'t>, Problem> {
    let trusted = marks::is_trusted(
        &shared.trusted_networks,
        peer.address.ip().to_canonical(),
        shared.trust_forwarded,
        &parts.headers,
    );
    let headers = |name: &str| {
        let values = parts.headers.get_all(name).iter();
        values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
    };
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let head = Head { path: parts.uri.path(), host, headers: &headers, trusted };
    live.index
        .select(&head, jiff::Timestamp::now())
        .map_err(|refusal| Problem::from_refusal(refusal, &shared.base_url))
}

fn upstream_request(
    shared: &Shared,
    peer: &Peer,
    parts: &Parts,
    plan: &Plan,
    upgrade: Option<&HeaderValue>,
    body: RequestBody,
) -> Request<RequestBody> {
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = plan.uri.clone();
    let mut sent = parts.headers.clone();
    let trailers = headers::accepts_trailers(&sent);
    headers::strip_hop_by_hop(&mut sent);
    // The router says 100 itself when the service begins to take the body.
    sent.remove(header::EXPECT);
    let origin = Origin {
        peer: peer.address.ip().to_canonical(),
        trusted: shared.trust_forwarded,
        scheme: if shared.base_url.scheme() == "https" { "https" } else { "http" },
        host: parts.headers.get(header::HOST),
        prefix: &plan.prefix,
    };
    headers::set_forwarded(&mut sent, &origin);
    match &plan.host {
        Some(host) => sent.insert(header::HOST, host.clone()),
        None => sent.remove(header::HOST),
    };
    marks::set_marks(&mut sent, plan.sandbox.as_ref().map(|(name, key)| (name, key)));
    if trailers {
        sent.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = upgrade {
        sent.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        sent.insert(header::UPGRADE, protocol.clone());
    }
    *request.headers_mut() = sent;
    request
}

fn answer(
    shared: &Arc<Shared>,
    peer: &Peer,
    plan: &Plan,
    mut response: Response<Incoming>,
    guard: Option<Guard>,
    upgrade: Option<HeaderValue>,
    client: Option<OnUpgrade>,
) -> Result<Response<AnswerBody>, Problem> {
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let protocol = response.headers().get(header::UPGRADE).cloned();
    let upstream = switched.then(|| hyper::upgrade::on(&mut response));
    headers::strip_hop_by_hop(response.headers_mut());
    headers::set(response.headers_mut(), SERVED_BY, &plan.served_by);
    if let Some(location) = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok()) {
        let host = plan.host.as_ref().and_then(|host| host.to_str().ok());
        if let Some(location) = headers::location(location, &plan.prefix, host, plan.baseline.as_ref()) {
            headers::set(response.headers_mut(), header::LOCATION, &location);
        }
    }
    if !plan.by_url {
        // A cache must not give one sandbox's answer to another.
        response.headers_mut().append(header::VARY, HeaderValue::from_static(VARY));
    }
    *response.version_mut() = Version::HTTP_11;
    let Some(upstream) = upstream else {
        return Ok(response.map(|body| Either::Left(Relayed { body, _guard: guard })));
    };
    let (Some(asked), Some(got), Some(client)) = (upgrade, protocol, client) else {
        return Err(broke(plan, "it changed the protocol without being asked"));
    };
    if !asked.as_bytes().eq_ignore_ascii_case(got.as_bytes()) {
        return Err(broke(plan, "it changed to another protocol than was asked for"));
    }
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(header::UPGRADE, got);
    let (end, place) = (shared.tunnels_end.clone(), peer.place.clone());
    shared.tasks.spawn(async move {
        end.run_until_cancelled(tunnel(client, upstream)).await;
        drop((guard, place));
    });
    Ok(response.map(|_| Either::Right(Full::default())))
}

/// Carries bytes until both sides have ended. No limit of its own: the router's end, the instance's end, or the system's
/// keep-alive of a side that is gone.
async fn tunnel(client: OnUpgrade, upstream: OnUpgrade) {
    let ends = async { Ok::<(Upgraded, Upgraded), hyper::Error>((client.await?, upstream.await?)) };
    match ends.await {
        Ok((client, upstream)) => {
            let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
            if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut upstream).await {
                tracing::debug!(%error, "an upgraded connection broke");
            }
        }
        Err(error) => tracing::debug!(%error, "a connection was not upgraded"),
    }
}

fn broke(plan: &Plan, why: &str) -> Problem {
    let at = &plan.place;
    tracing::info!(served_by = plan.served_by, why, "no answer");
    Problem::new(
        StatusCode::BAD_GATEWAY,
        "no_answer",
        format!("{at} gave no answer: {why}."),
        "Look at what it printed, and send the request again.".into(),
    )
}

fn unanswered(plan: &Plan, error: &Sent) -> Problem {
    let cause = error.cause();
    if !error.is_connect() {
        return broke(plan, &cause);
    }
    tracing::info!(served_by = plan.served_by, cause, "cannot connect");
    let (status, code) = match error.is_timeout() {
        true => (StatusCode::GATEWAY_TIMEOUT, "connect_timeout"),
        false => (StatusCode::BAD_GATEWAY, "unreachable"),
    };
    let what = format!("{} cannot be reached: {cause}.", plan.place);
    Problem::new(status, code, what, plan.next.clone())
}
