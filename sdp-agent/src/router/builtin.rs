//! The built-in router: accepts connections, and hands each request to [`super::forward`].

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use sdp_core::id::{InstanceId, RouteVersion};
use sdp_core::routing::RouteTable;
use sdp_core::wire::{Preflight, ProbeHop, RouterReport};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use super::forward::{self, Peer, Shared};
use super::probe::{Probes, TraceId};
use super::table::Table;
use super::upstream::{Clients, TCP_KEEPALIVE};
use super::{Router, RouterConfig};

/// Connections that the system holds until they are accepted.
const BACKLOG: i32 = 1024;

/// How long accepting rests when the process has no file descriptor left.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// An in-process HTTP reverse proxy. Clones are the same router.
#[derive(Clone, Debug)]
pub struct BuiltinRouter {
    shared: Arc<Shared>,
    address: SocketAddr,
    listener: Arc<Mutex<Option<std::net::TcpListener>>>,
    applied: watch::Sender<RouteVersion>,
}

impl BuiltinRouter {
    /// Listens, so that its URL is known; connections wait until [`Self::serve`].
    ///
    /// # Errors
    /// When the address cannot be listened on, the certificate authorities cannot be read, or the configuration
    /// contradicts itself.
    pub fn bind(config: &RouterConfig) -> io::Result<Self> {
        config.check()?;
        let listener = listen(config.listen)?;
        let address = listener.local_addr()?;
        let base_url = match &config.base_url {
            Some(url) => url.clone(),
            None => Url::parse(&format!("http://{address}")).map_err(io::Error::other)?,
        };
        let shared = Shared {
            table: Table::default(),
            clients: Clients::new(&config.limits, config.ca_file.as_deref())?,
            base_url,
            trust_forwarded: config.trust_forwarded,
            trusted_networks: config.trusted_networks.clone(),
            probes: Probes::default(),
            limits: config.limits.clone(),
            tasks: TaskTracker::new(),
            tunnels_end: CancellationToken::new(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            address,
            listener: Arc::new(Mutex::new(Some(listener))),
            applied: watch::Sender::default(),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What the server is told about it.
    #[must_use]
    pub fn report(&self) -> RouterReport {
        RouterReport {
            kind: "builtin".into(),
            base_url: self.shared.base_url.clone(),
            applied: self.shared.table.version(),
        }
    }

    /// The requests of a probe that passed.
    pub(crate) fn hops(&self, trace: &TraceId) -> Vec<ProbeHop> {
        self.shared.probes.hops(trace)
    }

    /// Puts a table into effect at once, for all requests from now on, unless a newer one is. Returns the version in
    /// effect.
    pub fn apply(&self, table: RouteTable) -> RouteVersion {
        let version = self.shared.table.apply(table, &self.shared.clients);
        self.applied.send_if_modified(|applied| version > std::mem::replace(applied, version.max(*applied)));
        version
    }

    /// The next instance that the newest table does not name and that has no request under way any more: each exactly
    /// once per removal, also if it never had one. Nothing is lost when nobody waits, or when the future is dropped.
    pub async fn next_drained(&self) -> InstanceId {
        self.shared.table.drain.next().await
    }

    /// Serves until `shutdown`, then lets requests under way finish within [`super::Limits::shutdown_grace`]. Returns when all
    /// that it started has ended. A router serves once.
    pub async fn serve(&self, shutdown: CancellationToken) {
        let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner).take();
        let listener = match listener.map(TcpListener::from_std) {
            Some(Ok(listener)) => listener,
            Some(Err(error)) => return tracing::error!(%error, "the router cannot use its socket"),
            None => return tracing::error!("the router was asked to serve twice"),
        };
        let end = CancellationToken::new();
        self.accept(listener, &shutdown, &end).await;
        let tasks = &self.shared.tasks;
        self.shared.tunnels_end.cancel();
        tasks.close();
        if tokio::time::timeout(self.shared.limits.shutdown_grace, tasks.wait()).await.is_err() {
            tracing::warn!(connections = tasks.len(), "the router stops with requests under way");
            end.cancel();
            tasks.wait().await;
        }
        self.shared.clients.stop().await;
    }

    async fn accept(&self, listener: TcpListener, shutdown: &CancellationToken, end: &CancellationToken) {
        let limits = &self.shared.limits;
        let places = Arc::new(Semaphore::new(limits.connections));
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(limits.header_read_timeout)
            .max_header_size(limits.header_bytes)
            .max_buf_size(limits.header_bytes);
        loop {
            let place = tokio::select! {
                () = shutdown.cancelled() => return,
                Ok(place) = places.clone().acquire_owned() => Arc::new(place),
            };
            let (stream, address) = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Of one connection, or of the process: no descriptor is free until something closes.
                        if !is_of_connection(&error) {
                            tracing::warn!(%error, "cannot accept connections");
                            tokio::time::sleep(ACCEPT_REST).await;
                        }
                        continue;
                    }
                },
            };
            let peer = Peer { address, place };
            let connection =
                serve_connection(self.shared.clone(), http.clone(), stream, peer, shutdown.clone());
            let end = end.clone();
            self.shared.tasks.spawn(async move {
                end.run_until_cancelled_owned(connection).await;
            });
        }
    }
}

impl Router for BuiltinRouter {
    fn report(&self) -> RouterReport {
        self.report()
    }

    fn local_addr(&self) -> SocketAddr {
        self.address
    }

    fn apply(&self, table: RouteTable) -> RouteVersion {
        self.apply(table)
    }

    fn next_applied(&self, after: RouteVersion) -> BoxFuture<'_, RouteVersion> {
        super::next_version(self.applied.subscribe(), after)
    }

    fn next_drained(&self) -> BoxFuture<'_, InstanceId> {
        Box::pin(self.next_drained())
    }

    fn preflight(&self) -> Vec<Preflight> {
        Vec::new()
    }

    fn next_change<'a>(&'a self, _seen: &'a mut u64) -> BoxFuture<'a, ()> {
        Box::pin(std::future::pending())
    }

    fn hops<'a>(&'a self, trace: &'a TraceId) -> BoxFuture<'a, Vec<ProbeHop>> {
        Box::pin(std::future::ready(self.hops(trace)))
    }

    fn serve(&self, shutdown: CancellationToken) -> BoxFuture<'_, ()> {
        Box::pin(self.serve(shutdown))
    }
}

async fn serve_connection(
    shared: Arc<Shared>,
    http: http1::Builder,
    stream: TcpStream,
    peer: Peer,
    shutdown: CancellationToken,
) {
    let keepalive = TcpKeepalive::new().with_time(TCP_KEEPALIVE);
    if let Err(error) =
        stream.set_nodelay(true).and_then(|()| SockRef::from(&stream).set_tcp_keepalive(&keepalive))
    {
        tracing::debug!(%error, "cannot set a connection's options");
    }
    let service = service_fn(|request| forward::handle(shared.clone(), peer.clone(), request));
    let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, peer = %peer.address, "a client's connection broke");
    }
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn is_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
