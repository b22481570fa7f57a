//! Accepts connections and serves HTTP/1.1 on them until the server stops.
//!
//! Called by [`app`](crate::app). Limits: so many connections at once (`limits.connections`; more wait in the system's
//! queue), 64 KiB of request head, 30 s to send a head (an idle connection is closed after that, too).

mod stream;

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::pin::pin;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower::ServiceExt;

use crate::app::App;
pub(crate) use stream::Socket;

const HEAD_LIMIT: Duration = Duration::from_secs(30);
const HEAD_BYTES: usize = 64 * 1024;
/// How long to wait before trying again when the system has no file handles left.
const BREATH: Duration = Duration::from_millis(100);

/// Returns when the server wants to stop; connections go on in `app.requests()`.
pub(crate) async fn accept(listener: TcpListener, router: Router, app: &App) {
    let places = Arc::new(Semaphore::new(app.config().limits.connections));
    let serving = async {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // A connection that broke before it was accepted is nothing; no file handles left is worth a word.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(BREATH).await;
                    continue;
                }
            };
            let (router, app_) = (router.clone(), app.clone());
            app.requests().spawn(async move {
                connection(stream, router, &app_).await;
                drop(place);
            });
        }
    };
    tokio::select! {
        () = app.drain().cancelled() => {}
        () = serving => {}
    }
}

async fn connection(stream: TcpStream, router: Router, app: &App) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let (stream, socket) = stream::share(stream);
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
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
