//! A whole SDP for each test: real server, real agent over a real WebSocket, real git, real processes; all on loopback, on
//! ports that the system chooses. [`run_test`] starts it, runs the test, stops everything, and fails if a process is left.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sdp_agent::Connector;
use sdp_agent::link::WebSocket;
use sdp_agent::router::RouterConfig;
use sdp_core::api::{CreateDeployment, DeploymentCreated, DeploymentView, TokenKind};
use sdp_core::catalog::Service;
use sdp_core::client::Client;
use sdp_core::deployment::Outcome;
use sdp_core::failure::Failure;
use sdp_core::id::DeploymentRef;
use sdp_core::platform::Platform;
use sdp_core::secret::Secret;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use url::Url;

pub(crate) use crate::samples::{Files, bare, commit};

/// No test takes longer than this.
const LIMIT: Duration = Duration::from_secs(150);

pub(crate) fn name<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("valid")
}

/// Runs a test against a whole SDP.
pub(crate) fn run_test(test: impl AsyncFnOnce(&mut Sdp)) {
    run_test_with(|_, _| (), test);
}

/// The same, with a server and an agent set up otherwise.
pub(crate) fn run_test_with(
    change: impl FnOnce(&mut sdp_server::Config, &mut sdp_agent::Config),
    test: impl AsyncFnOnce(&mut Sdp),
) {
    rustls::crypto::ring::default_provider().install_default().ok();
    let filter = std::env::var("SDP_TEST_LOG").unwrap_or_else(|_| "off".to_owned());
    tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init().ok();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    run_on(&runtime.expect("a runtime"), change, test);
}

/// The same; gives what server and agent logged meanwhile through such a filter, as lines of JSON like those of the programs.
pub(crate) fn run_test_logged_with(
    filter: &str,
    change: impl FnOnce(&mut sdp_server::Config, &mut sdp_agent::Config),
    test: impl AsyncFnOnce(&mut Sdp),
) -> String {
    rustls::crypto::ring::default_provider().install_default().ok();
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(move || writer.clone()).finish();
    let subscriber = subscriber.with(filter_fn(sdp_core::logging::may_show));
    // Many libraries log with the crate `log`: as in the programs, what they say comes here, too.
    tracing_subscriber::registry().try_init().ok();
    let dispatch = tracing::Dispatch::new(subscriber);
    let on_threads = dispatch.clone();
    // For this runtime's threads alone: other tests of the same process have logs of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .on_thread_start(move || std::mem::forget(tracing::dispatcher::set_default(&on_threads)))
        .build();
    tracing::dispatcher::with_default(&dispatch, || run_on(&runtime.expect("a runtime"), change, test));
    let bytes = log.0.lock().expect("not poisoned").clone();
    String::from_utf8(bytes).expect("text")
}

/// Where a test's log goes.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn run_on(
    runtime: &tokio::runtime::Runtime,
    change: impl FnOnce(&mut sdp_server::Config, &mut sdp_agent::Config),
    test: impl AsyncFnOnce(&mut Sdp),
) {
    runtime.block_on(async {
        let run = async {
            let mut sdp = Sdp::start(change).await;
            test(&mut sdp).await;
            sdp.stop().await;
        };
        tokio::time::timeout(LIMIT, run).await.expect("the test ends in time");
    });
}

/// Where the certificate of the authority lies: beside the server's.
pub(crate) const AUTHORITY: &str = "authority.pem";

fn client(url: &Url, token: &Secret, authority: Option<&Path>) -> Client {
    let authority = authority.map(|path| std::fs::read(path).expect("it is there")).unwrap_or_default();
    Client::with_authorities(url.clone(), token.clone(), &authority).expect("a client")
}

/// Limits that no test reaches by being quick.
pub(crate) fn far_limits(limits: &mut sdp_server::config::Limits) {
    limits.requests_per_minute = 10_000_000;
    limits.writes_per_minute = 10_000_000;
    limits.login_attempts_per_minute = 10_000_000;
    limits.refused_per_minute = 10_000_000;
    limits.sockets_per_principal = 10_000;
    limits.connections_per_address = 100_000;
}

pub(crate) struct Sdp {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) url: Url,
    /// Who made out the server's certificate, if it speaks TLS.
    authority: Option<PathBuf>,
    pub(crate) router: SocketAddr,
    /// With the admin token.
    pub(crate) admin: Client,
    pub(crate) admin_token: Secret,
    pub(crate) http: reqwest::Client,
    agent_config: sdp_agent::Config,
    pub(crate) agent_token: Secret,
    server_config: sdp_server::Config,
    server: Option<(sdp_server::Server, CancellationToken)>,
    agent: Option<(JoinSet<Result<(), sdp_agent::AgentError>>, CancellationToken)>,
}

impl Sdp {
    async fn start(change: impl FnOnce(&mut sdp_server::Config, &mut sdp_agent::Config)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("it is there");
        std::fs::create_dir(root.join("repositories")).expect("made");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url: Url = format!("http://{}", listener.local_addr().expect("bound")).parse().expect("a URL");
        let mut server_config = sdp_server::Config::new(url.clone(), root.join("server"));
        server_config.login.trust_bot = true;
        server_config.listen = listener.local_addr().expect("bound");
        let router = TcpListener::bind("127.0.0.1:0").await.expect("binds").local_addr().expect("bound");
        let mut agent_config = crate::samples::agent(&root, &root.join("repositories"));
        agent_config.capacity = 4;
        agent_config.router = Some(RouterConfig::new(router));
        agent_config.runtime.stop_grace = Duration::from_secs(2);
        far_limits(&mut server_config.limits);
        change(&mut server_config, &mut agent_config);
        let url = server_config.public_url.clone();
        let authority = server_config.tls.as_ref().map(|tls| tls.certificate.with_file_name(AUTHORITY));
        let shutdown = CancellationToken::new();
        let server =
            sdp_server::start(server_config.clone(), listener, shutdown.clone()).await.expect("starts");
        let admin_token = server.admin_token.clone().expect("the first start makes one");
        let agent_token =
            server.access.create_token(name("vm-1"), TokenKind::Agent).await.expect("made").token;
        let mut sdp = Self {
            admin: client(&url, &admin_token, authority.as_deref()),
            http: reqwest::Client::builder().timeout(Duration::from_secs(20)).build().expect("a client"),
            folder,
            url,
            authority,
            router,
            admin_token,
            agent_config,
            agent_token,
            server_config,
            server: Some((server, shutdown)),
            agent: None,
        };
        sdp.start_agent().await;
        sdp
    }

    /// A client with this token.
    pub(crate) fn client(&self, token: &Secret) -> Client {
        client(&self.url, token, self.authority.as_deref())
    }

    /// Its people, sessions and tokens.
    pub(crate) fn access(&self) -> &sdp_core::access::Access {
        &self.server.as_ref().expect("it runs").0.access
    }

    pub(crate) async fn start_agent(&mut self) {
        let authority = self.authority.as_deref();
        let socket = WebSocket::new(&self.url, &self.agent_token, authority).expect("an address");
        let shutdown = CancellationToken::new();
        let run = sdp_agent::run(self.agent_config.clone(), Connector::WebSocket(socket), shutdown.clone());
        let mut task = JoinSet::new();
        task.spawn(run);
        self.agent = Some((task, shutdown));
        self.until("the agent connects", async |sdp| {
            sdp.admin.agents().await.is_ok_and(|list| list.iter().any(|agent| agent.connected))
        })
        .await;
    }

    pub(crate) async fn stop_agent(&mut self) {
        if let Some((task, shutdown)) = self.agent.take() {
            shutdown.cancel();
            for result in task.join_all().await {
                result.expect("the agent ran");
            }
        }
    }

    /// Starts the agent anew, set up otherwise.
    pub(crate) async fn restart_agent(&mut self, change: impl FnOnce(&mut sdp_agent::Config)) {
        self.stop_agent().await;
        change(&mut self.agent_config);
        self.start_agent().await;
    }

    /// What the server's handlers ask.
    pub(crate) fn platform(&self) -> &Platform {
        &self.server.as_ref().expect("the server runs").0.platform
    }

    /// The agent's own folder.
    pub(crate) fn agent_folder(&self) -> &Path {
        &self.agent_config.data_dir
    }

    /// The server's data folder.
    pub(crate) fn server_folder(&self) -> &Path {
        &self.server_config.data_dir
    }

    pub(crate) async fn stop_server(&mut self) {
        if let Some((server, shutdown)) = self.server.take() {
            shutdown.cancel();
            server.ended().await;
        }
    }

    pub(crate) async fn start_server(&mut self) {
        let listener = TcpListener::bind(self.server_config.listen).await.expect("binds again");
        let shutdown = CancellationToken::new();
        let server = sdp_server::start(self.server_config.clone(), listener, shutdown.clone()).await;
        self.server = Some((server.expect("starts again"), shutdown));
    }

    async fn stop(&mut self) {
        self.stop_agent().await;
        self.stop_server().await;
        let left = self.processes();
        assert!(left.is_empty(), "left running: {left:?}");
    }

    /// Processes that work in this test's folder.
    pub(crate) fn processes(&self) -> Vec<String> {
        let root = self.folder.path().canonicalize().expect("it is there");
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
            let path = entry.path();
            let works_here = std::fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(&root));
            if works_here {
                let command = std::fs::read(path.join("cmdline")).unwrap_or_default();
                found.push(String::from_utf8_lossy(&command).replace('\0', " "));
            }
        }
        found
    }

    /// Asks again and again until something outside of SDP's events is so.
    pub(crate) async fn until(&self, what: &str, holds: impl AsyncFn(&Self) -> bool) {
        let asking = async {
            while !holds(self).await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), asking)
            .await
            .unwrap_or_else(|_| panic!("never: {what}"));
    }

    // ── repositories and catalog ──────────────────────────────────────────────────────────────────────────────────

    /// The folder with the repositories.
    pub(crate) fn repositories(&self) -> PathBuf {
        self.folder.path().canonicalize().expect("it is there").join("repositories")
    }

    pub(crate) fn repository(&self, name: &str) -> PathBuf {
        self.repositories().join(format!("{name}.git"))
    }

    /// Commits files to a branch of a repository, which is made if it is not there.
    pub(crate) fn push(&self, repository: &str, branch: &str, files: &[(&str, &str)]) -> String {
        let path = self.repository(repository);
        let repository = if path.exists() {
            git2::Repository::open_bare(&path).expect("opens")
        } else {
            bare(&path).expect("made")
        };
        let parent = repository.refname_to_id(&format!("refs/heads/{branch}")).ok();
        let files: Files<'_> = files.iter().copied().collect();
        commit(&repository, branch, &files, &format!("Change {branch}"), parent)
            .expect("committed")
            .to_string()
    }

    /// A service that serves `greeting.txt` of its commit; fields of `more` replace those of its entry.
    pub(crate) async fn service(&self, service: &str, more: Value) -> Service {
        let mut entry = json!({
            "name": service,
            "repo": self.repository(service),
            "builder": { "type": "command", "run": [greeter()] },
            "health": { "type": "http", "path": "/healthz" },
        });
        let fields = more.as_object().cloned().unwrap_or_default();
        entry.as_object_mut().expect("an object").extend(fields);
        let service: Service = serde_json::from_value(entry).expect("a service");
        self.admin.save_service(&service).await.expect("saved");
        service
    }

    /// The usual: service `hello`, with `main` and `feature/greeting`.
    pub(crate) async fn hello(&self) {
        self.push("hello", "main", &[("greeting.txt", "hello from main")]);
        self.push("hello", "feature/greeting", &[("greeting.txt", "greetings from the branch")]);
        self.service("hello", json!({})).await;
    }

    // ── deployments ───────────────────────────────────────────────────────────────────────────────────────────────

    pub(crate) async fn request(&self, service: &str, git_ref: &str) -> DeploymentCreated {
        self.admin.deploy(&wanted(service, git_ref), None).await.expect("taken")
    }

    /// Deploys to alice's sandbox and waits for the end.
    pub(crate) async fn deploy(&self, service: &str, git_ref: &str) -> DeploymentView {
        let created = self.request(service, git_ref).await;
        self.wait(created.id.into()).await
    }

    pub(crate) async fn wait(&self, reference: DeploymentRef) -> DeploymentView {
        self.admin.wait(reference).await.expect("ends")
    }

    /// A deploy that must fail; its reason.
    pub(crate) async fn failure(&self, service: &str, git_ref: &str) -> (Failure, String) {
        let view = self.deploy(service, git_ref).await;
        let log = self.log(&view).await;
        match view.deployment.outcome() {
            Some(Outcome::Failed { failure }) => (failure.clone(), log),
            other => panic!("it ended as {other:?}\n{log}"),
        }
    }

    /// A deploy that must succeed; its URL.
    pub(crate) async fn deployed(&self, service: &str, git_ref: &str) -> Url {
        let view = self.deploy(service, git_ref).await;
        let log = self.log(&view).await;
        assert_eq!(view.deployment.outcome(), Some(&Outcome::Succeeded {}), "{log}");
        view.deployment.url.expect("a deployment that succeeded has a URL")
    }

    pub(crate) async fn log(&self, view: &DeploymentView) -> String {
        let log = self.admin.log_tail(view.deployment.id.into(), 200).await.expect("a log");
        log.lines.iter().map(|line| format!("{}\n", line.text)).collect()
    }

    /// GET through the router.
    pub(crate) async fn get(&self, url: impl AsRef<str>) -> (u16, String, String) {
        let answer = self.http.get(url.as_ref()).send().await.expect("the router answers");
        let served_by = answer.headers().get("sdp-served-by").map(|v| v.to_str().expect("text").to_owned());
        (answer.status().as_u16(), served_by.unwrap_or_default(), answer.text().await.expect("a body"))
    }

    pub(crate) fn on_router(&self, path: &str) -> String {
        format!("http://{}{path}", self.router)
    }
}

pub(crate) fn wanted(service: &str, git_ref: &str) -> CreateDeployment {
    CreateDeployment {
        service: name(service),
        git_ref: Some(name(git_ref)),
        sandbox: Some(name("alice")),
        env: Default::default(),
        notify: None,
        git_credential: None,
    }
}

/// The program of the services that tests deploy; compiled once for all tests.
pub(crate) fn greeter() -> String {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/service.rs");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let text = std::fs::read_to_string(&source).expect("the source");
    let digest = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let program = folder.join(format!("greeter-{digest:016x}"));
    if !program.exists() {
        // Others may do the same at this moment: each works in a folder of its own, and the last rename wins.
        let mine = tempfile::tempdir_in(folder).expect("a folder");
        let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
        let made = mine.path().join("greeter");
        let status = Command::new(rustc).args(["--edition", "2021", "-o"]).arg(&made).arg(&source).status();
        assert!(status.expect("rustc runs").success());
        std::fs::rename(&made, &program).expect("renamed");
    }
    program.to_str().expect("UTF-8").to_owned()
}

/// A load of GET requests to one URL until it is told to stop: how many, and the failures.
pub(crate) struct Load {
    stop: CancellationToken,
    task: JoinSet<(u64, Vec<String>)>,
}

impl Load {
    pub(crate) fn start(http: &reqwest::Client, url: Url) -> Self {
        let stop = CancellationToken::new();
        let (stopped, http) = (stop.clone(), http.clone());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let (mut requests, mut failures) = (0, Vec::new());
            while !stopped.is_cancelled() {
                requests += 1;
                match http.get(url.clone()).send().await {
                    Ok(answer) if answer.status().is_success() => drop(answer.bytes().await),
                    Ok(answer) => failures.push(answer.status().to_string()),
                    Err(error) => failures.push(error.to_string()),
                }
            }
            (requests, failures)
        });
        Self { stop, task }
    }

    pub(crate) async fn stop(self) -> (u64, Vec<String>) {
        self.stop.cancel();
        self.task.join_all().await.remove(0)
    }
}
