//! A git host: real `git http-backend` behind a small HTTP server that can misbehave, over TCP or TLS, and a proxy.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use url::Url;

type Body = BoxBody<Bytes, io::Error>;

/// How the host answers one kind of request.
#[derive(Clone, Debug, Default)]
pub(super) enum Answer {
    #[default]
    Git,
    Status(u16),
    Redirect(String),
    /// 200 with this type and body.
    Page(&'static str, &'static str),
    /// Takes the request and says nothing.
    Silent,
    /// Says this many bytes of git's answer, then nothing more.
    SilentAfter(usize),
    /// Breaks the connection off after this many bytes of git's answer.
    CutAfter(usize),
    /// A byte now and then, for ever: a legal answer without an end.
    Trickle,
}

/// What it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) line: String,
    pub(super) login: bool,
    pub(super) gzip: bool,
    /// How long git's answer was.
    pub(super) answered: usize,
}

struct State {
    root: PathBuf,
    login: Mutex<Option<String>>,
    refs: Mutex<Answer>,
    pack: Mutex<Answer>,
    asked: Mutex<Vec<Asked>>,
    stalled: watch::Sender<usize>,
    connections: watch::Sender<usize>,
}

pub(super) struct Host {
    pub(super) address: SocketAddr,
    scheme: &'static str,
    state: Arc<State>,
    task: AbortHandle,
    _tasks: JoinSet<()>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Host {
    pub(super) async fn plain(root: &Path) -> Self {
        Self::start(root, None).await
    }

    pub(super) async fn tls(root: &Path, tls: Arc<ServerConfig>) -> Self {
        Self::start(root, Some(TlsAcceptor::from(tls))).await
    }

    async fn start(root: &Path, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let state = Arc::new(State {
            root: root.to_owned(),
            login: Mutex::default(),
            refs: Mutex::default(),
            pack: Mutex::default(),
            asked: Mutex::default(),
            stalled: watch::Sender::new(0),
            connections: watch::Sender::new(0),
        });
        let mut tasks = JoinSet::new();
        let task = tasks.spawn(accept(listener, tls, state.clone()));
        Self { address, scheme, state, task, _tasks: tasks }
    }

    pub(super) fn origin(&self) -> Url {
        Url::parse(&format!("{}://localhost:{}", self.scheme, self.address.port())).expect("url")
    }

    pub(super) fn url(&self, repo: &str) -> sdp_core::name::RepoUrl {
        sdp_core::name::RepoUrl::parse(format!("{}{repo}", self.origin())).expect("url")
    }

    pub(super) fn wants_login(&self, user: &str, password: &str) {
        let value = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        *self.state.login.lock().expect("login") = Some(value);
    }

    pub(super) fn on_refs(&self, answer: Answer) {
        *self.state.refs.lock().expect("refs") = answer;
    }

    pub(super) fn on_pack(&self, answer: Answer) {
        *self.state.pack.lock().expect("pack") = answer;
    }

    /// What it was asked since the last look.
    pub(super) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.state.asked.lock().expect("asked"))
    }

    pub(super) fn connections(&self) -> usize {
        *self.state.connections.borrow()
    }

    /// Waits until it keeps somebody waiting.
    pub(super) async fn stalls(&self) {
        let mut stalled = self.state.stalled.subscribe();
        stalled.wait_for(|count| *count > 0).await.expect("the host runs");
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        state.connections.send_modify(|count| *count += 1);
        let (tls, state) = (tls.clone(), state.clone());
        connections.spawn(async move {
            match tls {
                // A client that does not trust us breaks off the handshake.
                Some(tls) => {
                    if let Ok(socket) = tls.accept(socket).await {
                        serve(socket, state).await;
                    }
                }
                None => serve(socket, state).await,
            }
        });
    }
}

async fn serve(socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, state: Arc<State>) {
    let service = service_fn(move |request| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(state.answer(request).await) }
    });
    // It ends in an error where a test cuts it.
    drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).await);
}

impl State {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let given = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        self.asked.lock().expect("asked").push(Asked {
            line: format!("{} {}", parts.method, parts.uri),
            login: given.is_some(),
            gzip: parts.headers.contains_key(header::CONTENT_ENCODING),
            answered: 0,
        });
        let wanted = self.login.lock().expect("login").clone();
        if wanted.is_some() && wanted.as_deref() != given {
            return whole(StatusCode::UNAUTHORIZED, "text/plain", Bytes::from("who are you?"));
        }
        let how = if parts.method == Method::GET { &self.refs } else { &self.pack };
        let how = how.lock().expect("answer").clone();
        match how {
            Answer::Status(status) => {
                whole(StatusCode::from_u16(status).expect("status"), "text/plain", Bytes::from("no"))
            }
            Answer::Page(kind, text) => whole(StatusCode::OK, kind, Bytes::from(text)),
            Answer::Redirect(to) => {
                // Once: the same answer for the new place would go round in circles.
                *self.refs.lock().expect("refs") = Answer::Git;
                let mut response = whole(StatusCode::MOVED_PERMANENTLY, "text/plain", Bytes::new());
                response.headers_mut().insert(header::LOCATION, to.parse().expect("location"));
                response
            }
            Answer::Silent => {
                self.stalled.send_modify(|count| *count += 1);
                std::future::pending().await
            }
            Answer::Git => self.git(&parts.method, &parts.uri, &parts.headers, body).await,
            Answer::SilentAfter(_) | Answer::CutAfter(_) | Answer::Trickle => {
                let response = self.git(&parts.method, &parts.uri, &parts.headers, body).await;
                self.spoil(response, &how).await
            }
        }
    }

    async fn spoil(&self, response: Response<Body>, how: &Answer) -> Response<Body> {
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("git's answer").to_bytes();
        let stalled = self.stalled.clone();
        let body = match how {
            Answer::SilentAfter(count) => {
                let first = bytes.slice(..(*count).min(bytes.len()));
                let silence = stream::once(async move {
                    stalled.send_modify(|count| *count += 1);
                    std::future::pending::<io::Result<Frame<Bytes>>>().await
                });
                StreamBody::new(stream::iter([Ok(Frame::data(first))]).chain(silence)).into_body()
            }
            Answer::CutAfter(count) => {
                let first = bytes.slice(..(*count).min(bytes.len()));
                let parts = [Ok(Frame::data(first)), Err(io::Error::other("cut"))];
                StreamBody::new(stream::iter(parts)).into_body()
            }
            _ => {
                // Progress packets are legal for ever.
                let words = stream::unfold((), move |()| async move {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Some((Ok(Frame::data(Bytes::from_static(b"0006\x02."))), ()))
                });
                StreamBody::new(words).into_body()
            }
        };
        Response::from_parts(parts, body)
    }

    async fn git(
        &self,
        method: &Method,
        uri: &http::Uri,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Response<Body> {
        let text = |name: header::HeaderName| {
            headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        let mut child = tokio::process::Command::new("git")
            .arg("http-backend")
            .env("GIT_PROJECT_ROOT", &self.root)
            .env("GIT_HTTP_EXPORT_ALL", "1")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("REQUEST_METHOD", method.as_str())
            .env("PATH_INFO", uri.path())
            .env("QUERY_STRING", uri.query().unwrap_or_default())
            .env("CONTENT_TYPE", text(header::CONTENT_TYPE))
            .env("CONTENT_LENGTH", body.len().to_string())
            .env("HTTP_CONTENT_ENCODING", text(header::CONTENT_ENCODING))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("git http-backend");
        let mut stdin = child.stdin.take().expect("stdin");
        let (written, output) = tokio::join!(
            async move {
                // It may answer without reading everything.
                drop(stdin.write_all(&body).await);
                drop(stdin);
            },
            child.wait_with_output()
        );
        let () = written;
        let output = output.expect("git http-backend").stdout;
        let end = output.windows(4).position(|window| window == b"\r\n\r\n").expect("a header");
        let mut response = whole(StatusCode::OK, "text/plain", Bytes::copy_from_slice(&output[end + 4..]));
        for line in String::from_utf8_lossy(&output[..end]).lines() {
            let (name, value) = line.split_once(": ").expect("a header line");
            if name == "Status" {
                *response.status_mut() = value[..3].parse().expect("status");
            } else {
                let name: header::HeaderName = name.parse().expect("name");
                response.headers_mut().insert(name, value.parse().expect("value"));
            }
        }
        if let Some(last) = self.asked.lock().expect("asked").last_mut() {
            last.answered = output.len() - end - 4;
        }
        response
    }
}

trait Boxed {
    fn into_body(self) -> Body;
}

impl<S> Boxed for StreamBody<S>
where
    S: stream::Stream<Item = io::Result<Frame<Bytes>>> + Send + Sync + 'static,
{
    fn into_body(self) -> Body {
        BoxBody::new(self)
    }
}

fn whole(status: StatusCode, kind: &str, body: Bytes) -> Response<Body> {
    let body = Full::new(body).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, kind.parse().expect("type"));
    response
}

/// An authority and a certificate of its for `name`; the authority's certificate as PEM.
pub(super) fn certificate(name: &str) -> (Arc<ServerConfig>, String) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    let mut authority = CertificateParams::new(Vec::new()).expect("params");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority =
        CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("key")).expect("authority");
    let key = KeyPair::generate().expect("key");
    let leaf = CertificateParams::new(vec![name.to_owned()]).expect("params");
    let leaf = leaf.signed_by(&key, &authority).expect("leaf");
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .expect("certificate");
    (Arc::new(config), authority.pem())
}

/// A proxy that connects (CONNECT) and keeps what it was told.
pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// With `refuse`, every request is answered with 407.
    pub(super) async fn start(refuse: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let mut tasks = JoinSet::new();
        let log = heard.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(pass(socket, refuse, log.clone()));
            }
        });
        Self { address, heard, _tasks: tasks }
    }

    /// The requests that it got, each with its headers.
    pub(super) fn heard(&self) -> Vec<String> {
        self.heard.lock().expect("heard").clone()
    }
}

async fn pass(mut from: TcpStream, refuse: bool, heard: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match from.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
    heard.lock().expect("heard").push(head);
    if refuse {
        drop(
            from.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n").await,
        );
        return;
    }
    let Ok(mut to) = TcpStream::connect(target).await else { return };
    if from.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.is_ok() {
        drop(tokio::io::copy_bidirectional(&mut from, &mut to).await);
    }
}
