//! One request through the router: choose, count, send, answer. Bodies stream in both directions and are never held.
//!
//! A request is sent again, once, on a new connection, if the connection it was sent on had been used before and broke
//! without an answer, the method is idempotent and there is no body (RFC 9110, 9.2.2). It is sent to the newer target if its
//! instance is gone and the table has changed meanwhile.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::{Either, Empty, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use sdp_core::name::{CommitId, SandboxName};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use super::Limits;
use super::answer::Problem;
use super::drain::Guard;
use super::headers::{self, Origin, SERVED_BY};
use super::select::{Choice, Refusal, SANDBOX, Target};
use super::table::{Live, Table};
use super::upstream::{Clients, RequestBody, Sent, Via};

/// How often a request looks at the table again, at most: each time is a newer table.
const TABLES: usize = 5;

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) table: Table,
    pub(crate) clients: Clients,
    pub(crate) base_url: Url,
    pub(crate) trust_forwarded: bool,
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

/// Where a request goes, with nothing borrowed from the table.
#[derive(Default)]
struct Plan {
    sandbox: Option<SandboxName>,
    by_path: bool,
    service: String,
    served_by: String,
    /// What was taken off the path, as seen from outside.
    prefix: String,
    uri: Uri,
    host: Option<HeaderValue>,
    baseline: Option<Url>,
}

pub(crate) async fn handle(
    shared: Arc<Shared>,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    let (mut parts, body) = request.into_parts();
    let answer = match relay(&shared, &peer, &mut parts, body).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(&parts.method, &parts.headers).map(Either::Right),
    };
    Ok(answer)
}

async fn relay(
    shared: &Arc<Shared>,
    peer: &Peer,
    parts: &mut Parts,
    body: Incoming,
) -> Result<Response<AnswerBody>, Problem> {
    accept(shared, parts)?;
    // Kept out of the copies of the head that are sent.
    let on_upgrade = parts.extensions.remove::<OnUpgrade>();
    let upgrade = headers::upgrade(parts.version, &parts.headers);
    let replayable = parts.method.is_idempotent() && body.is_end_stream() && upgrade.is_none();
    let mut body = Some(body);
    let mut again = false;
    for _ in 0..TABLES {
        let live = shared.table.live();
        let choice = choose(shared, &live, parts)?;
        let (via, guard, plan) = match &choice.target {
            Target::Instance { instance, commit } => {
                let Some(pool) = live.instances.get(instance) else { continue };
                // Not counted: the instance left the table after we looked, so there is a newer one.
                let Some(guard) = shared.table.drain.enter(pool.in_flight()) else { continue };
                (
                    Via::Instance(pool),
                    Some(guard),
                    Plan::to_instance(shared, &choice, pool.authority(), commit, parts)?,
                )
            }
            Target::Baseline { url } => {
                (Via::Baselines, None, Plan::to_baseline(shared, &choice, url, parts)?)
            }
        };
        let via = if upgrade.is_some() || again { Via::Fresh } else { via };
        let request = |body| upstream_request(shared, peer, parts, &plan, upgrade.as_ref(), body);
        let sent = match body.take() {
            Some(body) if !replayable => shared.clients.send(via, request(Either::Left(body))).await,
            _ => shared.clients.send(via, request(Either::Right(Empty::new()))).await,
        };
        match sent {
            Ok(response) => return answer(shared, peer, &plan, response, guard, upgrade, on_upgrade),
            Err(error) if !replayable => return Err(unanswered(&plan, &error)),
            Err(error) => {
                let newer = shared.table.version() > live.index.version();
                let stale = !again && error.on_used_connection();
                if !newer && !stale {
                    return Err(unanswered(&plan, &error));
                }
                tracing::debug!(served_by = plan.served_by, cause = error.cause(), "sent again");
                again = true;
            }
        }
    }
    Err(Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "routes_change",
        "The routes changed again and again while this request was on its way.".into(),
        "Send it again.".into(),
    ))
}

/// What no service gets to see.
fn accept(shared: &Shared, parts: &mut Parts) -> Result<(), Problem> {
    if matches!(parts.method, Method::CONNECT | Method::TRACE) {
        return Err(Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            format!("{} is not for this router.", parts.method),
            "It sends requests to services; it is no forward proxy.".into(),
        ));
    }
    let limit = shared.limits.uri_bytes;
    if parts.uri.path_and_query().is_some_and(|path| path.as_str().len() > limit) {
        return Err(Problem::new(
            StatusCode::URI_TOO_LONG,
            "uri_too_long",
            format!("Path and query are longer than {limit} bytes."),
            "Send the data in the body.".into(),
        ));
    }
    // `GET http://host/path`: the host of the request line is the one that counts (RFC 9112, 3.2.2).
    if let Some(authority) = parts.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        parts.headers.insert(header::HOST, host);
    }
    Ok(())
}

fn choose<'t>(shared: &Shared, live: &'t Live, parts: &Parts) -> Result<Choice<'t>, Problem> {
    live.index
        .select(parts.uri.path(), &parts.headers)
        .map_err(|refusal| Problem::from_refusal(refusal, &shared.base_url))
}

impl Plan {
    fn to_instance(
        shared: &Shared,
        choice: &Choice<'_>,
        authority: &Authority,
        commit: &CommitId,
        parts: &Parts,
    ) -> Result<Self, Problem> {
        let sandbox = choice.sandbox.map_or("", SandboxName::as_str);
        let served_by = format!("sandbox/{sandbox}/{}@{}", choice.service.service, commit.short());
        // What the client asked for, so that the service can build URLs; HTTP/1.0 may not say.
        let host = parts.headers.get(header::HOST).cloned().or_else(|| as_value(authority));
        let origin = Some((Scheme::HTTP, authority.clone()));
        Self::new(shared, choice, origin, "", parts, Self { served_by, host, ..Self::default() })
    }

    fn to_baseline(shared: &Shared, choice: &Choice<'_>, url: &Url, parts: &Parts) -> Result<Self, Problem> {
        let served_by = format!("baseline/{}", choice.service.service);
        let origin = origin_of(url);
        // Its own, by which OpenShift's router finds it.
        let host = origin.as_ref().and_then(|(_, authority)| as_value(authority));
        let base = url.path().trim_end_matches('/');
        let rest = Self { served_by, host, baseline: Some(url.clone()), ..Self::default() };
        Self::new(shared, choice, origin, base, parts, rest)
    }

    fn new(
        shared: &Shared,
        choice: &Choice<'_>,
        origin: Option<(Scheme, Authority)>,
        base: &str,
        parts: &Parts,
        rest: Self,
    ) -> Result<Self, Problem> {
        let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let mut uri = http::uri::Parts::default();
        (uri.scheme, uri.authority) = origin.unzip();
        uri.path_and_query = PathAndQuery::try_from(format!("{base}{}{query}", choice.rest)).ok();
        let uri = Uri::from_parts(uri).map_err(|_| {
            Problem::from_refusal(Refusal::BadPath { why: "it is no path of a URL" }, &shared.base_url)
        })?;
        Ok(Self {
            sandbox: choice.sandbox.cloned(),
            by_path: choice.by_path,
            service: choice.service.service.to_string(),
            prefix: format!("{}{}", shared.base_url.path().trim_end_matches('/'), choice.taken),
            uri,
            ..rest
        })
    }
}

fn as_value(authority: &Authority) -> Option<HeaderValue> {
    HeaderValue::from_str(authority.as_str()).ok()
}

fn origin_of(url: &Url) -> Option<(Scheme, Authority)> {
    let scheme = Scheme::try_from(url.scheme()).ok()?;
    let authority = match url.port() {
        Some(port) => format!("{}:{port}", url.host_str()?),
        None => url.host_str()?.to_owned(),
    };
    Some((scheme, Authority::try_from(authority).ok()?))
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
    headers::strip_sessions(&mut sent);
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
    match &plan.sandbox {
        Some(sandbox) => headers::set(&mut sent, http::HeaderName::from_static(SANDBOX), sandbox.as_str()),
        None => {
            sent.remove(SANDBOX);
        }
    }
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
    if !plan.by_path {
        // A cache must not give one sandbox's answer to another.
        response.headers_mut().append(header::VARY, HeaderValue::from_static("sdp-sandbox, cookie"));
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
    let at = place_of(plan);
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
    let next = match &plan.sandbox {
        Some(sandbox) if plan.baseline.is_none() => format!("See how it is: /sdp status {sandbox}"),
        _ => "Tell whoever runs the baseline.".into(),
    };
    Problem::new(status, code, format!("{} cannot be reached: {cause}.", place_of(plan)), next)
}

/// As people read it.
fn place_of(plan: &Plan) -> String {
    match (&plan.baseline, &plan.sandbox) {
        (None, Some(sandbox)) => {
            let commit = plan.served_by.rsplit('@').next().unwrap_or_default();
            format!("{} in the sandbox {sandbox} (commit {commit})", plan.service)
        }
        _ => format!("The baseline of {}", plan.service),
    }
}
