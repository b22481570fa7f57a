//! The router with real sockets on both sides.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use sdp_core::catalog::{MatchRule, WhenDown};
use sdp_core::id::{InstanceId, RouteVersion};
use sdp_core::name::{CommitId, EnvironmentName, HostName, PathPrefix, RoutingKey, SandboxName, ServiceName};
use sdp_core::routing::{
    EnvironmentRoutes, RouteTable, RouteTarget, SandboxRoute, SandboxRoutes, ServiceRoute,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite;
use tokio_util::sync::CancellationToken;

use super::{BuiltinRouter, RouterConfig};

mod both;
mod failing;
mod nginx;
mod passing;
mod rig;
mod routing;
mod splice;
mod stopping;
mod switching;
mod tls;

type WebSocket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<TcpStream>>;
type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Longer than anything here takes; a wait that reaches it is a failure.
const PATIENCE: Duration = Duration::from_secs(30);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it takes too long")
}

fn body(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed_unsync()
}

/// A service of ours. Its connections end when it is dropped.
struct Backend {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Backend {
    /// Answers each request with `answer`.
    async fn start<A, F>(answer: A) -> Self
    where
        A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
        F: Future<Output = Response<Body>> + Send,
    {
        Self::raw(move |stream| {
            let answer = answer.clone();
            async move {
                let service = service_fn(move |request| {
                    let answer = answer(request);
                    async { Ok::<_, Infallible>(answer.await) }
                });
                // A connection that breaks is what some tests are about.
                let _ended = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades()
                    .await;
            }
        })
        .await
    }

    /// Gives each connection to `serve`.
    async fn raw<S, F>(serve: S) -> Self
    where
        S: Fn(TcpStream) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, _tasks: tasks }
    }

    /// Says what it is and what it was asked.
    async fn named(name: &'static str) -> Self {
        Self::start(move |request| async move { Response::new(body(told(name, &request))) }).await
    }
}

fn told(name: &str, request: &Request<Incoming>) -> String {
    let mut lines: Vec<_> =
        request.headers().iter().map(|(k, v)| format!("{k}: {}", v.to_str().unwrap_or("?"))).collect();
    lines.sort_unstable();
    format!("{name} {} {}\n{}", request.method(), request.uri(), lines.join("\n"))
}

/// The key of a sandbox in a [`Routes`].
fn key_of(sandbox: &str) -> RoutingKey {
    let letters: String = sandbox.chars().filter(char::is_ascii_lowercase).cycle().take(26).collect();
    RoutingKey::parse(format!("rk_{letters}")).unwrap()
}

/// A table of one environment under construction.
#[derive(Clone)]
struct Routes(RouteTable);

impl Default for Routes {
    fn default() -> Self {
        let environment = EnvironmentRoutes {
            name: EnvironmentName::parse("default").unwrap(),
            domain: None,
            when_down: WhenDown::Fail,
            services: Vec::new(),
            sandboxes: Vec::new(),
        };
        Self(RouteTable { version: RouteVersion::default(), environments: vec![environment] })
    }
}

impl Routes {
    fn version(mut self, version: u64) -> Self {
        self.0.version = RouteVersion(version);
        self
    }

    fn environment(&mut self) -> &mut EnvironmentRoutes {
        &mut self.0.environments[0]
    }

    fn domain(mut self, domain: &str, when_down: WhenDown) -> Self {
        self.environment().domain = Some(HostName::parse(domain).unwrap());
        self.environment().when_down = when_down;
        self
    }

    fn rule(mut self, name: &str, rule: MatchRule, baseline: Option<&str>) -> Self {
        self.environment().services.push(ServiceRoute {
            service: ServiceName::parse(name).unwrap(),
            rule,
            baseline: baseline.map(|url| url.parse().unwrap()),
        });
        self
    }

    fn service(self, name: &str, baseline: Option<&str>) -> Self {
        let prefix = PathPrefix::parse(format!("/{name}")).unwrap();
        self.rule(name, MatchRule::Path { prefix, strip: true }, baseline)
    }

    fn baseline(self, name: &str, backend: &Backend) -> Self {
        self.service(name, Some(&format!("http://{}", backend.address)))
    }

    fn sandbox(mut self, name: &str) -> Self {
        let name = SandboxName::parse(name).unwrap();
        if !self.environment().sandboxes.iter().any(|sandbox| sandbox.name == name) {
            let key = key_of(name.as_str());
            self.environment().sandboxes.push(SandboxRoutes {
                name,
                key,
                expires_at: None,
                routes: Vec::new(),
            });
        }
        self
    }

    fn target(self, sandbox: &str, service: &str, target: RouteTarget) -> Self {
        let mut routes = self.sandbox(sandbox);
        let service = ServiceName::parse(service).unwrap();
        let of = |known: &&mut SandboxRoutes| known.name.as_str() == sandbox;
        routes
            .environment()
            .sandboxes
            .iter_mut()
            .find(of)
            .unwrap()
            .routes
            .push(SandboxRoute { service, target });
        routes
    }

    fn instance(self, sandbox: &str, service: &str, instance: InstanceId, address: SocketAddr) -> Self {
        let commit = CommitId::parse("0123456789abcdef0123456789abcdef01234567").unwrap();
        self.target(sandbox, service, RouteTarget::Instance { instance, address, commit, of: None })
    }
}

/// A router that serves, and a client of it.
struct World {
    router: BuiltinRouter,
    client: Client<HttpConnector, Body>,
    shutdown: CancellationToken,
    serving: JoinSet<()>,
}

impl World {
    fn new(routes: Routes) -> Self {
        Self::with(RouterConfig::new(([127, 0, 0, 1], 0).into()), routes)
    }

    fn with(config: RouterConfig, routes: Routes) -> Self {
        let router = BuiltinRouter::bind(&config).unwrap();
        let version = if routes.0.version == RouteVersion(0) { 1 } else { routes.0.version.0 };
        assert_eq!(router.apply(routes.version(version).0), RouteVersion(version));
        let shutdown = CancellationToken::new();
        let mut serving = JoinSet::new();
        let (serve, until) = (router.clone(), shutdown.clone());
        serving.spawn(async move { serve.serve(until).await });
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { router, client, shutdown, serving }
    }

    /// A router and one service `hello` of alice.
    fn of_alice(address: SocketAddr) -> (Self, InstanceId) {
        let instance = InstanceId::new();
        (
            Self::new(Routes::default().service("hello", None).instance("alice", "hello", instance, address)),
            instance,
        )
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = soon(self.client.request(request)).await.unwrap();
        let (parts, body) = response.into_parts();
        let text = String::from_utf8(soon(body.collect()).await.unwrap().to_bytes().into()).unwrap();
        Answer { status: parts.status, headers: parts.headers, text }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path, &[], "")).await
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        text: &'static str,
    ) -> Request<Body> {
        let mut request =
            Request::builder().method(method).uri(format!("http://{}{path}", self.router.local_addr()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(body(text)).unwrap()
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.router.local_addr()).await.unwrap()
    }

    async fn websocket(
        &self,
        path: &str,
    ) -> Result<(WebSocket, Response<Option<Vec<u8>>>), tungstenite::Error> {
        let url = format!("ws://{}{path}", self.router.local_addr());
        soon(Box::pin(tokio_tungstenite::connect_async(url))).await
    }

    /// Sends these bytes and reads until the router closes; ask for `Connection: close`.
    async fn raw(&self, text: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        soon(stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Ends the router, which must not leave anything behind.
    async fn stop(mut self) {
        drop(self.client);
        self.shutdown.cancel();
        soon(self.serving.join_next()).await.unwrap().unwrap();
    }
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn first_line(&self) -> &str {
        self.text.lines().next().unwrap_or("")
    }

    /// The text without what differs from run to run.
    fn settled(&self, world: &World) -> String {
        self.text.replace(&world.router.local_addr().to_string(), "ROUTER")
    }
}

/// What a raw connection says up to the first empty line.
async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

fn shared<T>(value: T) -> Arc<T> {
    Arc::new(value)
}
