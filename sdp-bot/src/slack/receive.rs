//! HTTP mode: Slack's requests, each signed with the app's signing secret.
//!
//! ```text
//!   POST, any path ─▶ body, limited in size and time ─▶ signature ─▶ what it is ─▶ dispatch ─▶ answer
//!        413, 408, 400 ◀──────────┘                        └──▶ 401, before anything of the body is read
//! ```
//! Called by [`super::run`]. One address serves commands, interactions and events alike: what came is told by the body. TLS is a
//! reverse proxy's; `GET /healthz` is for it.
//!
//! Invariants: nothing of a body is parsed before its signature is right for its exact bytes and its time at most five minutes
//! away; signature and time must be there exactly once.
//!
//! Limits: [`MAX_BODY`] bytes, within [`SLOW`], after a head of [`MAX_HEAD`] bytes within [`HEAD`]; [`MAX_OPEN`] requests and
//! [`MAX_CONNECTIONS`] connections at once.

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use sdp_core::secret::Secret;
use serde_json::Value;
use slack_morphism::signature_verifier::SlackEventSignatureVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::SlackError;
use super::dispatch::Dispatch;
use super::inbound::{Delivery, Kind};

/// The largest body, in bytes.
const MAX_BODY: usize = 1024 * 1024;
/// How long a body may take to arrive.
const SLOW: Duration = Duration::from_secs(5);
/// How long a head may take, and an idle connection stay.
const HEAD: Duration = Duration::from_secs(15);
/// The largest head, in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// How many connections are open at once; more wait in the system's queue.
const MAX_CONNECTIONS: usize = 500;
/// How long to wait before trying again when the system has no file handles left.
const BREATH: Duration = Duration::from_millis(100);
/// How many requests are being answered at once; more are told to come again.
const MAX_OPEN: usize = 200;

/// # Errors
/// The address cannot be used.
pub(super) async fn bind(address: SocketAddr) -> Result<TcpListener, SlackError> {
    TcpListener::bind(address).await.map_err(|source| SlackError::Listen { address, source })
}

#[derive(Clone)]
struct Receiver {
    verifier: Arc<SlackEventSignatureVerifier>,
    dispatch: Dispatch,
    open: Arc<Semaphore>,
}

/// Answers requests until `shutdown`.
pub(super) async fn run(
    listener: TcpListener,
    signing_secret: Secret,
    dispatch: Dispatch,
    shutdown: CancellationToken,
) {
    let verifier = SlackEventSignatureVerifier::new(&signing_secret.expose().to_owned().into());
    let receiver =
        Receiver { verifier: Arc::new(verifier), dispatch, open: Arc::new(Semaphore::new(MAX_OPEN)) };
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/", post(receive))
        .route("/{*path}", post(receive))
        .with_state(receiver);
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "waiting for Slack's requests");
    }
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            place = places.clone().acquire_owned() => match place {
                Ok(place) => tokio::select! {
                    () = shutdown.cancelled() => break,
                    accepted = listener.accept() => accepted.map(|(stream, _)| (stream, place)),
                },
                Err(_) => break,
            },
        };
        match accepted {
            Ok((stream, place)) => {
                let serving = serve(stream, router.clone(), shutdown.clone());
                connections.spawn(async move {
                    serving.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(BREATH).await;
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

/// Answers what comes on one connection.
async fn serve(stream: TcpStream, router: Router, shutdown: CancellationToken) {
    let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        router.clone().oneshot(request.map(Body::new))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

async fn receive(State(receiver): State<Receiver>, request: Request) -> Response {
    let Ok(_open) = receiver.open.try_acquire() else {
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], "too many at once\n")
            .into_response();
    };
    let (parts, body) = request.into_parts();
    let body = match whole(body).await {
        Ok(body) => body,
        Err(status) => return status.into_response(),
    };
    if !is_signed(&receiver.verifier, &parts.headers, &body) {
        tracing::warn!("a request without a signature of Slack's; refused");
        return (StatusCode::UNAUTHORIZED, "not signed by Slack for this app\n").into_response();
    }
    let Some(came) = read(&parts.headers, &body) else {
        return (StatusCode::BAD_REQUEST, "neither a command, an interaction nor an event\n").into_response();
    };
    match came {
        Came::Challenge(challenge) => challenge.into_response(),
        Came::Delivery(delivery) => match receiver.dispatch.receive(delivery).await {
            Some(answer) => Json(answer).into_response(),
            None => StatusCode::OK.into_response(),
        },
    }
}

/// The body, if it is not too large and comes in time.
async fn whole(body: Body) -> Result<String, StatusCode> {
    let bytes = match timeout(SLOW, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(bytes)) => bytes,
        // A connection that breaks off hears nothing anyway.
        Ok(Err(_)) => return Err(StatusCode::PAYLOAD_TOO_LARGE),
        Err(_) => return Err(StatusCode::REQUEST_TIMEOUT),
    };
    String::from_utf8(bytes.into()).map_err(|_| StatusCode::UNAUTHORIZED)
}

/// Whether Slack signed exactly this, and not long ago.
fn is_signed(verifier: &SlackEventSignatureVerifier, headers: &HeaderMap, body: &str) -> bool {
    let one = |name: &str| {
        let mut values = headers.get_all(name).iter();
        let value = values.next()?.to_str().ok()?;
        values.next().is_none().then_some(value)
    };
    let (Some(signature), Some(time)) = (
        one(SlackEventSignatureVerifier::SLACK_SIGNED_HASH_HEADER),
        one(SlackEventSignatureVerifier::SLACK_SIGNED_TIMESTAMP),
    ) else {
        return false;
    };
    // Digits alone: what parses as a number otherwise (a sign) is not what Slack sends.
    !time.is_empty()
        && time.bytes().all(|byte| byte.is_ascii_digit())
        && verifier.verify(signature, body, time).is_ok()
}

enum Came {
    /// Slack asks whether this is the address.
    Challenge(String),
    Delivery(Delivery),
}

fn read(headers: &HeaderMap, body: &str) -> Option<Came> {
    let kind =
        headers.get(header::CONTENT_TYPE)?.to_str().ok()?.split(';').next()?.trim().to_ascii_lowercase();
    let retry =
        headers.get("x-slack-retry-num").and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0);
    let delivery = |kind, payload| Came::Delivery(Delivery { kind, payload, id: None, retry });
    match kind.as_str() {
        "application/json" => {
            let payload: Value = serde_json::from_str(body).ok()?;
            if payload["type"] == "url_verification" {
                return Some(Came::Challenge(payload["challenge"].as_str()?.to_owned()));
            }
            payload.is_object().then(|| delivery(Kind::Event, payload))
        }
        "application/x-www-form-urlencoded" => {
            let mut fields = serde_json::Map::new();
            for (name, value) in url::form_urlencoded::parse(body.as_bytes()) {
                // The first of a name counts.
                fields.entry(name).or_insert_with(|| value.into());
            }
            match fields.get("payload").and_then(Value::as_str) {
                Some(payload) => Some(delivery(Kind::Interaction, serde_json::from_str(payload).ok()?)),
                // Slack asks this way whether TLS works.
                None if fields.contains_key("ssl_check") => {
                    Some(delivery(Kind::Unknown("ssl_check".to_owned()), Value::Null))
                }
                None => fields.contains_key("command").then(|| delivery(Kind::Command, fields.into())),
            }
        }
        _ => None,
    }
}
