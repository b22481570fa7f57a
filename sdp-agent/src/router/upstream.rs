//! Connections to instances and baselines.
//!
//! Each instance has a pool of its own, which ends with it; the baselines share one. A pooled connection may be dying just
//! when it is used: pools keep idle connections for a shorter time than servers do ([`POOL_IDLE`]), hyper-util sends a
//! request again that it had not begun to send, and [`Sent::on_used_connection`] tells the caller when sending it again,
//! on a new connection, is right.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Authority;
use http::{Extensions, Request, Response, Uri};
use http_body_util::{Either, Empty};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::TokioTimer;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service;

use super::Limits;
use super::drain::InFlight;
use crate::sync::Lock;

/// How long an idle connection to an instance or a baseline is kept: shorter than the 5 s after which Apache and Node
/// close one, so that the two seldom meet.
pub(crate) const POOL_IDLE: Duration = Duration::from_secs(4);

/// How many idle connections are kept per instance or baseline.
const POOL_CONNECTIONS: usize = 64;

/// After how much silence the system asks whether the other end is still there.
pub(crate) const TCP_KEEPALIVE: Duration = Duration::from_secs(60);

/// The client's body, or none.
pub(crate) type RequestBody = Either<Lent, Empty<Bytes>>;

/// The client's body, which can be given to another request if the first could not be sent: where there was no connection, nobody
/// has read of it.
#[derive(Clone, Debug)]
pub(crate) struct Lent(Arc<Lock<Incoming>>);

impl Lent {
    pub(crate) fn new(body: Incoming) -> Self {
        Self(Arc::new(Lock::new(body)))
    }
}

impl Body for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut *self.0.lock()).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().size_hint()
    }
}

type Pool = Client<Connector, RequestBody>;

/// Runs what clients start in the background, so that it has an owner and an end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Background {
    tasks: TaskTracker,
    end: CancellationToken,
}

impl Background {
    pub(crate) async fn stop(&self) {
        self.end.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Background {
    fn execute(&self, future: F) {
        let end = self.end.clone();
        self.tasks.spawn(async move {
            end.run_until_cancelled_owned(future).await;
        });
    }
}

/// Makes pools, and holds those that outlive a table.
#[derive(Debug)]
pub(crate) struct Clients {
    background: Background,
    near: Connector,
    baselines: Pool,
    /// No pool: each request on a connection of its own.
    fresh: Pool,
}

/// An instance's connections.
#[derive(Debug)]
pub(crate) struct InstancePool {
    address: SocketAddr,
    authority: Authority,
    pool: Pool,
    in_flight: Arc<InFlight>,
}

impl InstancePool {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn in_flight(&self) -> &Arc<InFlight> {
        &self.in_flight
    }

    /// Where requests to it are sent.
    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }
}

/// Which connections may be used.
#[derive(Clone, Copy)]
pub(crate) enum Via<'p> {
    Instance(&'p InstancePool),
    Baselines,
    Fresh,
}

impl Clients {
    pub(crate) fn new(limits: &Limits, ca_file: Option<&Path>) -> io::Result<Self> {
        let tls = tls(ca_file)?;
        let background = Background::default();
        let near = Connector::new(&tls, limits.connect_timeout);
        let far = Connector::new(&tls, limits.baseline_connect_timeout);
        let baselines = pool(&background, far.clone(), POOL_CONNECTIONS);
        let fresh = pool(&background, far, 0);
        Ok(Self { background, near, baselines, fresh })
    }

    pub(crate) fn instance(&self, address: SocketAddr, in_flight: Arc<InFlight>) -> InstancePool {
        let authority = Authority::try_from(address.to_string()).expect("a socket address is an authority");
        let pool = pool(&self.background, self.near.clone(), POOL_CONNECTIONS);
        InstancePool { address, authority, pool, in_flight }
    }

    /// Sends a request with an absolute URI.
    pub(crate) async fn send(
        &self,
        via: Via<'_>,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Sent> {
        let pool = match via {
            Via::Instance(instance) => &instance.pool,
            Via::Baselines => &self.baselines,
            Via::Fresh => &self.fresh,
        };
        match pool.request(request).await {
            Ok(response) => {
                if let Some(Used(used)) = response.extensions().get() {
                    used.store(true, Ordering::Relaxed);
                }
                Ok(response)
            }
            Err(error) => Err(Sent(error)),
        }
    }

    pub(crate) async fn stop(&self) {
        self.background.stop().await;
    }
}

/// A request that got no answer.
#[derive(Debug, thiserror::Error)]
#[error("no answer")]
pub(crate) struct Sent(#[source] ClientError);

impl Sent {
    /// Whether there was no connection.
    pub(crate) fn is_connect(&self) -> bool {
        self.0.is_connect()
    }

    pub(crate) fn is_timeout(&self) -> bool {
        self.causes().any(|cause| {
            cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
        })
    }

    /// Whether the connection had carried a request before, so that it may have been closed for its age.
    pub(crate) fn on_used_connection(&self) -> bool {
        let mut extensions = Extensions::new();
        if let Some(info) = self.0.connect_info() {
            info.get_extras(&mut extensions);
        }
        extensions.get::<Used>().is_some_and(|Used(used)| used.load(Ordering::Relaxed))
    }

    /// The innermost cause, as people read it.
    pub(crate) fn cause(&self) -> String {
        let Some(cause) = self.causes().last() else { return String::new() };
        match cause.downcast_ref::<io::Error>() {
            Some(error) if error.raw_os_error().is_some() => error.kind().to_string(),
            _ => cause.to_string(),
        }
    }

    fn causes(&self) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
        std::iter::successors(Some(&self.0 as &(dyn std::error::Error + 'static)), |cause| cause.source())
    }
}

fn pool(background: &Background, connector: Connector, idle: usize) -> Pool {
    Client::builder(background.clone())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(idle)
        .retry_canceled_requests(true)
        .set_host(false)
        .build(connector)
}

/// The system's certificate authorities and ours.
fn tls(ca_file: Option<&Path>) -> io::Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::warn!(%error, "cannot read some of the system's certificate authorities");
    }
    roots.add_parsable_certificates(system.certs);
    if let Some(path) = ca_file {
        let named = |error: &dyn std::fmt::Display| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("router.ca_file {}: {error}", path.display()))
        };
        let pem = fs::read(path).map_err(|error| named(&error))?;
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| named(&error))?;
            roots.add(certificate).map_err(|error| named(&error))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// Name lookup, TCP and TLS, within one limit.
#[derive(Clone, Debug)]
struct Connector {
    inner: HttpsConnector<HttpConnector>,
    limit: Duration,
}

impl Connector {
    fn new(tls: &rustls::ClientConfig, limit: Duration) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(TCP_KEEPALIVE));
        let inner = HttpsConnectorBuilder::new()
            .with_tls_config(tls.clone())
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        Self { inner, limit }
    }
}

type Stream = <HttpsConnector<HttpConnector> as Service<Uri>>::Response;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Service<Uri> for Connector {
    type Response = Tracked;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Tracked, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, limit) = (self.inner.call(uri), self.limit);
        Box::pin(async move {
            let timed_out =
                |_| io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {limit:?}"));
            let stream = tokio::time::timeout(limit, connecting).await.map_err(timed_out)??;
            Ok(Tracked { stream, used: Used::default() })
        })
    }
}

/// Whether a connection has brought an answer.
#[derive(Clone, Debug, Default)]
struct Used(Arc<AtomicBool>);

/// A connection that knows whether it was used.
struct Tracked {
    stream: Stream,
    used: Used,
}

impl Connection for Tracked {
    fn connected(&self) -> Connected {
        self.stream.connected().extra(self.used.clone())
    }
}

impl Read for Tracked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl Write for Tracked {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}
