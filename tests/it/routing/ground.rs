//! A router VM, a service VM, and a baseline that behaves like OpenShift's router.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sdp_agent::Connector;
use sdp_agent::link::WebSocket;
use sdp_agent::router::Engine;
use sdp_core::api::{SandboxView, SaveSandbox, TokenKind};
use sdp_core::catalog::Environment;
use sdp_core::deployment::Outcome;
use sdp_core::name::{RoutingKey, SandboxName};
use sdp_core::platform::{Deploy, Power, Save};
use sdp_core::principal::Principal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::harness::{Sdp, name, run_test_with};

/// Runs a test with this router; `vm-1` routes and runs services, `vm-2` runs services with the label `second`.
pub(crate) fn run(engine: Engine, test: impl AsyncFnOnce(&mut Sdp, &Ground)) {
    let baseline = tempfile::tempdir().expect("a folder");
    let authority = baseline.path().join("ca.pem");
    let mut nginx = Nginx::default();
    let folder = std::sync::Mutex::new(PathBuf::new());
    run_test_with(
        |_, agent| {
            let router = agent.router.as_mut().expect("a router");
            router.engine = engine;
            router.ca_file = Some(authority.clone());
            *folder.lock().expect("free") = agent.data_dir.join("router");
            // Made before the agent reads it.
            std::fs::write(&authority, Ocp::issue(baseline.path())).expect("written");
        },
        async |sdp| {
            if engine == Engine::Nginx {
                nginx.folder = Some(folder.lock().expect("free").clone());
            }
            let ground = Ground::new(sdp, baseline.path()).await;
            test(sdp, &ground).await;
            ground.stop().await;
            // It would start nginx again.
            sdp.stop_agent().await;
            nginx.stop();
            sdp.until("nginx has ended", async |sdp| {
                sdp.processes().iter().all(|process| !process.starts_with("nginx"))
            })
            .await;
        },
    );
}

/// Ends the router's nginx, which outlives its agent.
#[derive(Default)]
struct Nginx {
    folder: Option<PathBuf>,
}

impl Nginx {
    fn stop(&self) {
        if let Some(pid) = self.folder.as_ref().and_then(|folder| master(folder)) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The pid of the router's nginx.
pub(crate) fn master(folder: &std::path::Path) -> Option<rustix::process::Pid> {
    let text = std::fs::read_to_string(folder.join("nginx.pid")).ok()?;
    rustix::process::Pid::from_raw(text.trim().parse().ok()?)
}

/// The shared deployment: TLS, and an answer only to who calls it by its name, in TLS and in HTTP.
struct Ocp {
    port: u16,
    _task: JoinSet<()>,
}

impl Ocp {
    /// An authority, and a certificate of its for `localhost`; gives the authority's.
    fn issue(folder: &std::path::Path) -> String {
        let mut params = CertificateParams::new(Vec::new()).expect("valid");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // One with the same name as what it has signed is taken for self-signed.
        params.distinguished_name.push(DnType::CommonName, "the test's authority");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"));
        let authority = authority.expect("made");
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("valid");
        let certificate = params.signed_by(&key, &authority).expect("signed");
        std::fs::write(folder.join("ocp.pem"), certificate.pem()).expect("written");
        std::fs::write(folder.join("ocp.key"), key.serialize_pem()).expect("written");
        authority.pem()
    }

    async fn start(folder: &std::path::Path) -> Self {
        let certificate = CertificateDer::from_pem_file(folder.join("ocp.pem")).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(folder.join("ocp.key")).expect("a key");
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a configuration");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("bound").port();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let right_name = stream.get_ref().1.server_name() == Some("localhost");
                    let mut bytes = Vec::new();
                    let mut piece = [0; 4096];
                    while let Ok(n @ 1..) = stream.read(&mut piece).await {
                        bytes.extend_from_slice(&piece[..n]);
                        if bytes.windows(4).any(|end| end == b"\r\n\r\n") {
                            let head = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
                            let right_host = head.contains(&format!("\r\nhost: localhost:{port}\r\n"));
                            let path = head.split(' ').nth(1).unwrap_or("/").to_owned();
                            let service = path.split('/').nth(1).unwrap_or_default().to_owned();
                            let (status, body) = match right_name && right_host {
                                true => ("200 OK", format!("{service} from the baseline")),
                                false => {
                                    ("503 Service Unavailable", "application is not available".to_owned())
                                }
                            };
                            let answer =
                                format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                            if stream.write_all(answer.as_bytes()).await.is_err() {
                                return;
                            }
                            bytes.clear();
                        }
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { port, _task: task }
    }
}

pub(crate) struct Ground {
    ocp: Ocp,
    second: (JoinSet<Result<(), sdp_agent::AgentError>>, CancellationToken),
}

/// Whoever does everything.
pub(crate) fn alice() -> Principal {
    Principal::person(name("alice"))
}

impl Ground {
    async fn new(sdp: &Sdp, folder: &std::path::Path) -> Self {
        let ocp = Ocp::start(folder).await;
        let token = sdp.access().create_token(name("vm-2"), TokenKind::Agent).await.expect("made").token;
        let mut config = crate::samples::agent(&sdp.folder.path().join("vm-2"), &sdp.repositories());
        config.labels = [name("second")].into();
        config.capacity = 2;
        let socket = WebSocket::new(&sdp.url, &token, None).expect("an address");
        let shutdown = CancellationToken::new();
        let mut task = JoinSet::new();
        task.spawn(sdp_agent::run(config, Connector::WebSocket(socket), shutdown.clone()));
        let ground = Self { ocp, second: (task, shutdown) };
        // payments runs on the first machine, ledger on the second one, users nowhere but in the baseline.
        for (service, labels) in
            [("payments", json!([])), ("ledger", json!(["second"])), ("users", json!([]))]
        {
            for branch in ["main", "feature/a", "feature/b"] {
                sdp.push(service, branch, &[("greeting.txt", &format!("{service} of {branch}"))]);
            }
            let fields = json!({ "labels": labels, "baseline": ground.baseline(service) });
            sdp.service(service, fields).await;
        }
        ground.environment(sdp, json!({})).await;
        sdp.until("both agents are there", async |sdp| {
            sdp.admin
                .agents()
                .await
                .is_ok_and(|list| list.iter().filter(|agent| agent.connected).count() == 2)
        })
        .await;
        ground
    }

    pub(crate) fn baseline(&self, service: &str) -> String {
        format!("https://localhost:{}/{service}", self.ocp.port)
    }

    /// The environment `default` with a domain, and what a test wants else.
    pub(crate) async fn environment(&self, sdp: &Sdp, more: Value) {
        let mut entry = json!({ "name": "default", "every_service": true, "domain": "sandboxes.test" });
        entry.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        let environment: Environment = serde_json::from_value(entry).expect("an environment");
        sdp.platform().save_environment(&alice(), environment, Save::Put).await.expect("saved");
    }

    /// Makes or renews a sandbox.
    pub(crate) async fn sandbox(&self, sdp: &Sdp, sandbox: &str, wanted: Value) -> SandboxView {
        let wanted: SaveSandbox = serde_json::from_value(wanted).expect("a sandbox");
        let (name, by) = (name::<SandboxName>(sandbox), alice());
        sdp.platform().save_sandbox(&by, &name, wanted, Save::Put, Power::Member).await.expect("saved");
        sdp.platform().sandbox_view(&name).await.expect("there")
    }

    pub(crate) async fn key(&self, sdp: &Sdp, sandbox: &str) -> RoutingKey {
        sdp.platform().sandbox(&name(sandbox)).await.expect("there").key
    }

    /// Deploys there, and waits until it serves.
    pub(crate) async fn deploy(&self, sdp: &Sdp, service: &str, branch: &str, sandbox: &str) {
        let mut deploy = Deploy::new(name(service)).git_ref(name(branch)).to(name(sandbox));
        deploy.env.insert(name("GATEWAY"), format!("http://{}", sdp.router));
        let deployment = sdp.platform().deploy(&alice(), deploy).await.expect("taken");
        let ended = sdp.platform().wait_ended(deployment.id.into(), Duration::from_secs(60)).await;
        let ended = ended.expect("ends");
        assert_eq!(ended.outcome(), Some(&Outcome::Succeeded {}), "{ended:#?}");
    }

    async fn stop(mut self) {
        self.second.1.cancel();
        while let Some(ended) = self.second.0.join_next().await {
            ended.expect("no panic").expect("the agent ran");
        }
    }
}

/// What the router answers: status, who, and the text.
pub(crate) async fn asked(sdp: &Sdp, path: &str, headers: &[(&str, &str)]) -> String {
    let send = async || {
        let mut request = sdp.http.get(sdp.on_router(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await
    };
    // A worker of before may end a kept connection at the moment when it is used again.
    let answer = match send().await {
        Ok(answer) => answer,
        Err(_) => send().await.expect("the router answers"),
    };
    let by = answer.headers().get("sdp-served-by").map(|by| by.to_str().expect("text").to_owned());
    let by = by.unwrap_or_default();
    // A commit is another one each time.
    let by = by.split('@').next().unwrap_or_default().to_owned();
    let status = answer.status().as_u16();
    if status == 502 {
        let log = std::fs::read_to_string(sdp.agent_folder().join("router/error.log")).unwrap_or_default();
        tracing::warn!(said = log.lines().last().unwrap_or_default(), "nginx");
    }
    let text = answer.text().await.expect("a body");
    format!("{status} {by}: {}", text.lines().next().unwrap_or_default())
}
