//! A router of either kind, with its folder and a client.

use super::tls::CA_FILE;
use super::*;
use crate::router::{Engine, Router, open};

/// A router of either kind, its folder, and a client of it.
pub(super) struct Rig {
    pub(super) router: Arc<dyn Router>,
    pub(super) config: RouterConfig,
    pub(super) folder: Arc<tempfile::TempDir>,
    pub(super) client: Client<HttpConnector, Body>,
    shutdown: CancellationToken,
    serving: JoinSet<()>,
    keep_nginx: bool,
}

/// A port that was free a moment ago: nginx cannot be told to take any.
pub(super) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(super) fn config(engine: Engine) -> RouterConfig {
    let port = if engine == Engine::Nginx { free_port() } else { 0 };
    let mut config = RouterConfig::new(([127, 0, 0, 1], port).into());
    config.engine = engine;
    config.ca_file = Some(CA_FILE.into());
    config
}

impl Rig {
    pub(super) async fn new(engine: Engine, routes: Routes) -> Self {
        Self::with(config(engine), routes).await
    }

    pub(super) async fn with(config: RouterConfig, routes: Routes) -> Self {
        let rig = Self::start(config, Arc::new(tempfile::tempdir().unwrap())).await;
        rig.apply(routes.version(1)).await;
        rig
    }

    /// Without a table.
    pub(super) async fn start(config: RouterConfig, folder: Arc<tempfile::TempDir>) -> Self {
        let router = open(&config, folder.path()).await.unwrap();
        let shutdown = CancellationToken::new();
        let mut serving = JoinSet::new();
        let (serve, until) = (router.clone(), shutdown.clone());
        serving.spawn(async move { serve.serve(until).await });
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http();
        Self { router, config, folder, client, shutdown, serving, keep_nginx: false }
    }

    pub(super) async fn apply(&self, routes: Routes) {
        let version = routes.0.version;
        self.router.apply(routes.0);
        let applied = tokio::time::timeout(PATIENCE, self.router.next_applied(RouteVersion(version.0 - 1)));
        assert_eq!(applied.await.ok(), Some(version), "{:?}", self.router.preflight());
    }

    pub(super) async fn send(&self, request: Request<Body>) -> Answer {
        let response = soon(self.client.request(request)).await.unwrap();
        let (parts, body) = response.into_parts();
        let text = String::from_utf8(soon(body.collect()).await.unwrap().to_bytes().into()).unwrap();
        Answer { status: parts.status, headers: parts.headers, text }
    }

    pub(super) fn request(&self, path: &str, headers: &[(&str, &str)]) -> http::request::Builder {
        let mut request = Request::builder().uri(format!("http://{}{path}", self.router.local_addr()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request
    }

    pub(super) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(self.request(path, headers).body(body("")).unwrap()).await
    }

    /// Ends the router alone, as when the agent is restarted; an nginx goes on.
    pub(super) async fn leave(mut self) -> (RouterConfig, Arc<tempfile::TempDir>) {
        self.keep_nginx = true;
        self.shutdown.cancel();
        soon(self.serving.join_next()).await.unwrap().unwrap();
        (self.config.clone(), self.folder.clone())
    }

    pub(super) fn signal(&self, which: &str, signal: rustix::process::Signal) -> usize {
        signal_in(self.folder.path(), which, signal)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !self.keep_nginx {
            self.shutdown.cancel();
            self.serving.abort_all();
            signal_in(self.folder.path(), "", rustix::process::Signal::KILL);
        }
    }
}

/// Tells the nginx processes of a folder whose title begins so; how many.
pub(super) fn signal_in(folder: &std::path::Path, which: &str, signal: rustix::process::Signal) -> usize {
    let folder = folder.join("router");
    let mut told = 0;
    // A master starts workers while it lives: it comes first.
    for kind in ["nginx: master", "nginx: worker"] {
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let path = entry.path();
            let Ok(title) = std::fs::read_to_string(path.join("cmdline")) else { continue };
            let ours = std::fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd == folder);
            if ours && title.starts_with(kind) && title["nginx: ".len()..].starts_with(which) {
                let pid = entry.file_name().to_str().unwrap().parse().unwrap();
                let _gone =
                    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal);
                told += 1;
            }
        }
    }
    told
}
