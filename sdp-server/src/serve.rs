//! Accepts connections, in the clear or with TLS, and serves HTTP/1.1 on them until the server stops.
//!
//! Called by [`app`](crate::app). Each request gets what only the connection knows: its [`Socket`], and the
//! [`ClientAddress`](crate::edge::ClientAddress). A handshake is done in the connection's own task, so that one that fails or
//! takes its time holds up nobody. Limits: so many connections at once, WebSockets among them (`limits.connections`; more wait
//! in the system's queue), so many of one address (`limits.connections_per_address`), 64 KiB of request head, 30 s to send a head (an idle connection is closed after that, too).

mod stream;
pub(crate) mod tls;

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::ServiceExt;

use crate::app::App;
use crate::edge::{ClientAddress, Place};
pub(crate) use stream::Socket;

const HEAD_LIMIT: Duration = Duration::from_secs(30);
const HEAD_BYTES: usize = 64 * 1024;
/// How long to wait before trying again when the system has no file handles left.
const BREATH: Duration = Duration::from_millis(100);

/// What a connection counts for while its socket is open.
#[derive(Debug)]
struct Places {
    _of_all: OwnedSemaphorePermit,
    /// None: a proxy of ours.
    _of_address: Option<Place>,
}

/// Returns when the server wants to stop; connections go on in `app.requests()`.
pub(crate) async fn accept(listener: TcpListener, router: Router, app: &App) {
    let places = Arc::new(Semaphore::new(app.config().limits.connections));
    let serving = async {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let (stream, peer) = match listener.accept().await {
                Ok((stream, peer)) => (stream, peer.ip()),
                Err(error) => {
                    // A connection that broke before it was accepted is nothing; no file handles left is worth a word.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(BREATH).await;
                    continue;
                }
            };
            let own = match app.config().proxy.trusts(peer.to_canonical()) {
                true => None,
                false => match app.limits().connection(ClientAddress(peer.to_canonical())) {
                    Some(own) => Some(own),
                    None => {
                        app.metrics().refused("too_many_requests");
                        tracing::debug!(%peer, "hung up on an address that has too many connections");
                        continue;
                    }
                },
            };
            let places = Places { _of_all: place, _of_address: own };
            let (router, app_) = (router.clone(), app.clone());
            app.requests().spawn(async move { begin(stream, peer, places, router, &app_).await });
        }
    };
    tokio::select! {
        () = app.drain().cancelled() => {}
        () = serving => {}
    }
}

/// The handshake, if there is to be one, and then the connection. The place is given back when the socket is closed.
async fn begin(stream: TcpStream, peer: IpAddr, places: Places, router: Router, app: &App) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let (stream, socket) = stream::share(stream, places);
    let Some(acceptor) = app.tls() else { return connection(stream, socket, peer, router, app).await };
    let accepted = tokio::select! {
        accepted = acceptor.accept(stream) => accepted,
        () = app.drain().cancelled() => return,
    };
    match accepted {
        Ok(stream) => Box::pin(connection(stream, socket, peer, router, app)).await,
        Err(error) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
    }
}

async fn connection<S>(stream: S, socket: Socket, peer: IpAddr, router: Router, app: &App)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        let address = ClientAddress::of(peer, request.headers(), &app.config().proxy);
        request.extensions_mut().insert(address);
        request.extensions_mut().insert(socket.clone());
        router.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let mut draining = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended early");
                }
                return;
            }
            () = app.drain().cancelled(), if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
            () = app.abort().cancelled() => return,
        }
    }
}
