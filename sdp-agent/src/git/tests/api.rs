//! A REST API: answers as a test says, and keeps what it was asked.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use url::Url;

/// An answer; with `None` there is none, ever.
pub(super) type Page = Option<Response<Bytes>>;

struct State {
    pages: Mutex<HashMap<String, Page>>,
    /// Each with the login that came with it.
    asked: Mutex<Vec<(String, Option<String>)>>,
    stalled: watch::Sender<usize>,
}

pub(super) struct Api {
    pub(super) address: SocketAddr,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

impl Api {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let state = Arc::new(State {
            pages: Mutex::default(),
            asked: Mutex::default(),
            stalled: watch::Sender::new(0),
        });
        let mut tasks = JoinSet::new();
        let serving = state.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let state = serving.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| {
                        let state = state.clone();
                        async move { Ok::<_, Infallible>(state.answer(request).await) }
                    });
                    let connection = hyper::server::conn::http1::Builder::new();
                    drop(connection.serve_connection(TokioIo::new(socket), service).await);
                });
            }
        });
        Self { address, state, _tasks: tasks }
    }

    pub(super) fn origin(&self) -> Url {
        Url::parse(&format!("http://localhost:{}", self.address.port())).expect("url")
    }

    /// What it answers to a path with its query.
    pub(super) fn on(&self, path: &str, page: Page) {
        self.state.pages.lock().expect("pages").insert(path.to_owned(), page);
    }

    /// What it was asked since the last look: paths with their queries, and the logins (`user:password`).
    pub(super) fn asked(&self) -> Vec<(String, Option<String>)> {
        std::mem::take(&mut *self.state.asked.lock().expect("asked"))
    }

    /// Waits until it keeps somebody waiting.
    pub(super) async fn stalls(&self) {
        self.state.stalled.subscribe().wait_for(|count| *count > 0).await.expect("it runs");
    }
}

impl State {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().to_string();
        let login = request.headers().get(header::AUTHORIZATION).map(|value| {
            let text = value.to_str().expect("text").strip_prefix("Basic ").expect("basic");
            String::from_utf8(STANDARD.decode(text).expect("base64")).expect("text")
        });
        self.asked.lock().expect("asked").push((path.clone(), login));
        let page = self.pages.lock().expect("pages").get(&path).cloned();
        match page {
            Some(Some(response)) => response.map(Full::new),
            Some(None) => {
                self.stalled.send_modify(|count| *count += 1);
                std::future::pending().await
            }
            None => answer(404, "text/html", "<html>nothing").expect("one").map(Full::new),
        }
    }
}

pub(super) fn json(value: &serde_json::Value) -> Page {
    answer(200, "application/json;charset=UTF-8", &value.to_string())
}

pub(super) fn answer(status: u16, kind: &str, body: &str) -> Page {
    let response = Response::builder().status(status).header(header::CONTENT_TYPE, kind);
    Some(response.body(Bytes::copy_from_slice(body.as_bytes())).expect("a response"))
}

/// The same with one more header.
pub(super) fn with(page: Page, name: &'static str, value: &str) -> Page {
    page.map(|mut response| {
        response.headers_mut().insert(name, value.parse().expect("value"));
        response
    })
}
