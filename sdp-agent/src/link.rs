//! How the agent reaches its server: over a WebSocket, or in process. Either way what comes out is the same
//! [`AgentEnd`], and `crate::agent` knows no difference.
//!
//! The agent dials; nothing listens for control on its VM. The token goes in a header, never into a URL or a log. A
//! WebSocket is pinged each `PING_EACH` and given up `DEAD_AFTER` without a sign of life.
//!
//! Limits: `CONNECT_WITHIN` for a connection; the queues of [`link::pair`] between socket and agent.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::header::{AUTHORIZATION, HeaderValue, USER_AGENT};
use sdp_core::secret::Secret;
use sdp_core::wire::link::{self, AgentEnd, RawFrame, ServerEnd};
use sdp_core::wire::{MAX_CONTROL_FRAME, ToAgent};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_tls_with_config};
use tokio_util::task::TaskTracker;
use url::Url;

/// How long connecting may take, TLS and the upgrade included.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Between two pings.
const PING_EACH: Duration = Duration::from_secs(10);
/// Without any frame for so long the connection is dead.
const DEAD_AFTER: Duration = Duration::from_secs(30);
/// How long the last frames may take when the agent ends the connection.
const FLUSH_WITHIN: Duration = Duration::from_secs(5);

/// Hands out connections in process; `None` while the server is away.
pub type InProcess = Arc<dyn Fn() -> Option<AgentEnd> + Send + Sync>;

/// How to reach the server.
#[derive(Clone)]
pub enum Connector {
    /// Over the network.
    WebSocket(WebSocket),
    /// In the same process.
    InProcess(InProcess),
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WebSocket(socket) => f.debug_tuple("WebSocket").field(socket).finish(),
            Self::InProcess(_) => f.write_str("InProcess"),
        }
    }
}

/// What a WebSocket connection needs.
#[derive(Clone, Debug)]
pub struct WebSocket {
    url: Url,
    authorization: HeaderValue,
    tls: Arc<rustls::ClientConfig>,
}

/// A server address, token or certificate that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidLink {
    /// Neither `http` nor `https`, or with more than a host, port and path in it.
    #[error("the server's address must be like https://sdp.example.com, without user, password, ? or #")]
    Url,
    /// Characters that a header cannot carry.
    #[error("the token has characters that no token has")]
    Token,
    /// The file of certificates.
    #[error("failed to read certificates from {path}")]
    CaFile {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The TLS library refuses the set-up.
    #[error("failed to set up TLS")]
    Tls(#[from] rustls::Error),
}

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("the server refuses this agent's token (401)")]
    Unauthorised,
    #[error("{}", status_means(*.0))]
    Status(http::StatusCode),
    #[error("the server did not answer within {} s", CONNECT_WITHIN.as_secs())]
    TimedOut,
    #[error("failed to connect")]
    Socket(#[source] Box<SocketError>),
    #[error("the server in this process takes no agents now")]
    Away,
}

/// Why there is no socket to this address.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {error}")]
pub(crate) struct SocketError {
    url: Url,
    error: tungstenite::Error,
}

fn status_means(status: http::StatusCode) -> String {
    match status {
        http::StatusCode::FORBIDDEN => {
            "the server knows the token, but not as an agent's (403): make one for this agent with \
             `sdp-server enrol NAME`, and give it to `sdp-agent enrol`"
                .to_owned()
        }
        status => format!("the server answered {status} instead of opening a WebSocket"),
    }
}

impl WebSocket {
    /// A connection to `<server>/ws/agent`.
    ///
    /// # Errors
    /// When the address, the token or the certificates cannot be used.
    pub fn new(server: &Url, token: &Secret, ca_file: Option<&std::path::Path>) -> Result<Self, InvalidLink> {
        let mut url = server.clone();
        let scheme = match url.scheme() {
            "https" => "wss",
            "http" => "ws",
            _ => return Err(InvalidLink::Url),
        };
        if !is_plain(server) || url.set_scheme(scheme).is_err() {
            return Err(InvalidLink::Url);
        }
        let path = format!("{}/ws/agent", url.path().trim_end_matches('/'));
        url.set_path(&path);
        let mut authorization =
            HeaderValue::from_str(&format!("Bearer {}", token.expose())).map_err(|_| InvalidLink::Token)?;
        authorization.set_sensitive(true);
        Ok(Self { url, authorization, tls: Arc::new(tls(ca_file)?) })
    }

    async fn dial(&self) -> Result<Socket, ConnectError> {
        let mut request = self.url.as_str().into_client_request().map_err(|error| self.failed(error))?;
        request.headers_mut().insert(AUTHORIZATION, self.authorization.clone());
        let agent = HeaderValue::from_static(concat!("sdp-agent/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().insert(USER_AGENT, agent);
        let config = WebSocketConfig::default()
            .read_buffer_size(4096)
            .max_message_size(Some(MAX_CONTROL_FRAME))
            .max_frame_size(Some(MAX_CONTROL_FRAME));
        let tls = tokio_tungstenite::Connector::Rustls(self.tls.clone());
        let connecting = Box::pin(connect_async_tls_with_config(request, Some(config), true, Some(tls)));
        match timeout(CONNECT_WITHIN, connecting).await {
            Ok(Ok((socket, _))) => Ok(socket),
            Ok(Err(error)) => Err(self.failed(error)),
            Err(_) => Err(ConnectError::TimedOut),
        }
    }

    fn failed(&self, error: tungstenite::Error) -> ConnectError {
        match error {
            tungstenite::Error::Http(response) if response.status() == http::StatusCode::UNAUTHORIZED => {
                ConnectError::Unauthorised
            }
            tungstenite::Error::Http(response) => ConnectError::Status(response.status()),
            error => ConnectError::Socket(Box::new(SocketError { url: self.url.clone(), error })),
        }
    }
}

/// Whether an address is a host, perhaps a port and a path, and nothing else.
pub(crate) fn is_plain(url: &Url) -> bool {
    url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none()
        && url.host_str().is_some()
}

/// What the agent trusts: the system's certificates, and those in the file.
pub(crate) fn tls(ca_file: Option<&std::path::Path>) -> Result<rustls::ClientConfig, InvalidLink> {
    let mut roots = rustls::RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(native.certs);
    if let Some(path) = ca_file {
        use rustls::pki_types::CertificateDer;
        use rustls::pki_types::pem::PemObject;
        let broken = |source| InvalidLink::CaFile { path: path.to_owned(), source };
        let pem = std::fs::read(path).map_err(broken)?;
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|error| broken(io::Error::new(io::ErrorKind::InvalidData, format!("{error:?}"))))?;
        if certificates.is_empty() {
            return Err(broken(io::Error::new(io::ErrorKind::InvalidData, "no certificate in it")));
        }
        for certificate in certificates {
            roots.add(certificate)?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

impl Connector {
    /// Connects. What must go on for the connection to live runs on `tasks`, and ends with it.
    pub(crate) async fn connect(&self, tasks: &TaskTracker) -> Result<AgentEnd, ConnectError> {
        match self {
            Self::InProcess(connect) => connect().ok_or(ConnectError::Away),
            Self::WebSocket(target) => {
                let socket = target.dial().await?;
                let (agent, server) = link::pair();
                tasks.spawn(async move {
                    let why = pump(socket, server).await;
                    tracing::debug!(%why, "the WebSocket to the server has ended");
                });
                Ok(agent)
            }
        }
    }

    /// Where the server is, for people.
    pub(crate) fn target(&self) -> String {
        match self {
            Self::InProcess(_) => "this process".to_owned(),
            Self::WebSocket(target) => target.url.to_string(),
        }
    }

    /// Whether a lost connection is tried again at once: in process there is nothing that a crowd could overload.
    pub(crate) fn is_in_process(&self) -> bool {
        matches!(self, Self::InProcess(_))
    }
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Carries frames between a WebSocket and the agent until either ends; returns why.
async fn pump(socket: Socket, agent: ServerEnd) -> String {
    let ServerEnd { tx: to_agent, rx: mut from_agent } = agent;
    let (mut out, mut inward) = socket.split();
    let outward = async {
        let mut ping = interval(PING_EACH);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let message = tokio::select! {
                biased;
                frame = from_agent.recv() => match frame.map(|frame| frame.encode()) {
                    None => break,
                    Some(Ok(RawFrame::Text(text))) => Message::Text(Utf8Bytes::from(text)),
                    Some(Ok(RawFrame::Binary(bytes))) => Message::Binary(bytes),
                    // Ending the connection would help nobody: the next one would have to say the same.
                    Some(Err(error)) => {
                        tracing::error!(%error, "the agent had something to say that cannot be sent; it is left out");
                        continue;
                    }
                },
                _ = ping.tick() => Message::Ping(bytes::Bytes::new()),
            };
            // A peer that takes nothing for so long is as dead as one that says nothing.
            match timeout(DEAD_AFTER, out.send(message)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error.to_string(),
                Err(_) => return "the server takes nothing any more".to_owned(),
            }
        }
        // The agent has ended the connection; all it said was sent.
        drop(timeout(FLUSH_WITHIN, out.close()).await);
        "the agent ended it".to_owned()
    };
    let inward = async {
        loop {
            let message = match timeout(DEAD_AFTER, inward.next()).await {
                Err(_) => return "no sign of life from the server".to_owned(),
                Ok(None) => return "closed by the server".to_owned(),
                Ok(Some(Err(error))) => return error.to_string(),
                Ok(Some(Ok(message))) => message,
            };
            let frame = match message {
                Message::Text(text) => RawFrame::Text(text.as_str().to_owned()),
                Message::Binary(bytes) => RawFrame::Binary(bytes),
                Message::Close(_) => return "closed by the server".to_owned(),
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            };
            match ToAgent::decode(&frame) {
                Ok(frame) => {
                    if to_agent.send(frame).await.is_err() {
                        // The agent does not listen any more, but what it said last is still to be sent.
                        std::future::pending::<()>().await;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the server sent something that is no frame of protocol {}", sdp_core::wire::PROTOCOL);
                    return error.to_string();
                }
            }
        }
    };
    tokio::select! {
        why = outward => why,
        why = inward => why,
    }
}

/// The waits between two attempts to connect: full jitter, doubling; from the start again after a steady connection.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// A connection that lasted so long was steady.
    pub(crate) const STEADY: Duration = Duration::from_secs(60);

    pub(crate) fn new(in_process: bool) -> Self {
        let (first, longest) = if in_process { (20, 500) } else { (500, 30_000) };
        let first = Duration::from_millis(first);
        Self { first, longest: Duration::from_millis(longest), next: first }
    }

    /// Says how long the last connection lasted.
    pub(crate) fn lasted(&mut self, time: Duration) {
        if time >= Self::STEADY {
            self.next = self.first;
        }
    }

    /// The next wait; `dice` is uniform over all its values.
    pub(crate) fn wait(&mut self, dice: u32) -> Duration {
        let wait = self.next.mul_f64(f64::from(dice) / f64::from(u32::MAX));
        self.next = (self.next * 2).min(self.longest);
        wait
    }
}

/// Random enough to spread agents that lost the same server.
pub(crate) fn dice() -> u32 {
    let [a, b, c, d, ..] = *uuid::Uuid::new_v4().as_bytes();
    u32::from_be_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_waits_double_up_to_half_a_minute_and_start_again_after_a_steady_connection() {
        let mut backoff = Backoff::new(false);
        let waits: Vec<_> = (0..8).map(|_| backoff.wait(u32::MAX).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        backoff.lasted(Duration::from_secs(59));
        assert_eq!(backoff.wait(0), Duration::ZERO, "full jitter goes down to nothing");
        assert_eq!(backoff.wait(u32::MAX), Duration::from_secs(30));
        backoff.lasted(Duration::from_secs(60));
        assert_eq!(backoff.wait(u32::MAX), Duration::from_millis(500));
    }

    #[test]
    fn what_keeps_it_from_connecting_says_what_to_do() {
        let server = Url::parse("http://sdp.example.com:8080").unwrap();
        let socket = WebSocket::new(&server, &Secret::new("sdpa_x"), None).unwrap();
        let answered = |status: u16| {
            let answer = http::Response::builder().status(status).body(None).unwrap();
            socket.failed(tungstenite::Error::Http(answer.into())).to_string()
        };
        insta::assert_snapshot!(answered(403), @"the server knows the token, but not as an agent's (403): make one for this agent with `sdp-server enrol NAME`, and give it to `sdp-agent enrol`");
        insta::assert_snapshot!(answered(502), @"the server answered 502 Bad Gateway instead of opening a WebSocket");
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let ConnectError::Socket(why) = socket.failed(tungstenite::Error::Io(refused)) else {
            panic!("no socket")
        };
        insta::assert_snapshot!(why, @"ws://sdp.example.com:8080/ws/agent: IO error: connection refused");
    }

    #[test]
    fn the_token_shows_nowhere_and_the_address_is_plain() {
        let token = Secret::new("sdpa_hunter2");
        let server = |text: &str| Url::parse(text).unwrap();
        let socket = WebSocket::new(&server("https://sdp.example.com/base/"), &token, None).unwrap();
        assert_eq!(socket.url.as_str(), "wss://sdp.example.com/base/ws/agent");
        assert!(!format!("{socket:?}").contains("hunter2"));
        assert!(!format!("{:?}", Connector::WebSocket(socket)).contains("hunter2"));
        for bad in ["ftp://x/", "https://u@x/", "https://u:p@x/", "https://x/?token=1", "https://x/#y"] {
            assert!(matches!(WebSocket::new(&server(bad), &token, None), Err(InvalidLink::Url)), "{bad}");
        }
        let two_lines = Secret::new("a\nb");
        assert!(matches!(WebSocket::new(&server("https://x/"), &two_lines, None), Err(InvalidLink::Token)));
    }
}
