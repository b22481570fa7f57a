//! What every handler holds ([`App`]), and a server's life from [`start`] to its end.
//!
//! ```text
//! start: check configuration ─▶ Platform ─▶ first admin token ─▶ accept connections
//! shutdown: no new connections ─▶ requests finish, feeds and viewers are told to come again (at most 10 s)
//!           ─▶ Platform stops, agents are told (at most 10 s) ─▶ what is left is cut off
//! ```
//! The invariant: [`Server::ended`] returns only when every task that `start` began has ended.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sdp_core::access::{Access, AccessError};
use sdp_core::api::DeploymentView;
use sdp_core::audit::Audit;
use sdp_core::deployment::{Deployment, Outcome, State};
use sdp_core::id::{BootId, DeploymentNumber, EventSeq};
use sdp_core::name::{AgentName, ServiceName};
use sdp_core::platform::{DeploymentFilter, Line, Platform, PlatformError, StateFilter};
use sdp_core::secret::Secret;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use crate::config::{Config, ConfigError, TokenDigest};
use crate::edge::Limiter;
use crate::metrics::{Metrics, story};
use crate::rest::health::Found;
use crate::serve::tls::{self, Acceptor};
use crate::{edge, router, serve};

/// How long requests, feeds and viewers may take to finish when the server stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// How long agents' connections may take to close after that.
const LINKS_LIMIT: Duration = Duration::from_secs(10);

/// What every handler holds. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct App {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    platform: Platform,
    access: Access,
    audit: Audit,
    /// Connections and viewers.
    requests: TaskTracker,
    /// Agents' connections; the platform ends them.
    links: TaskTracker,
    /// The newest hello of each agent; as many as there are agents' tokens.
    boots: Mutex<HashMap<AgentName, BootId>>,
    metrics: Metrics,
    /// What opens `/metrics` alone.
    metrics_token: Option<TokenDigest>,
    /// Makes TLS of what connects, if the server does that itself.
    tls: Option<Acceptor>,
    limits: Limiter,
    /// How long services usually take, as it was asked last; as many as there are services.
    usual: Mutex<HashMap<ServiceName, (Instant, Option<Duration>)>>,
    /// What was found when readiness was looked at last.
    found: Found,
    /// Please finish.
    drain: CancellationToken,
    /// End now.
    abort: CancellationToken,
}

impl App {
    pub(crate) fn config(&self) -> &Config {
        &self.inner.config
    }

    pub(crate) fn platform(&self) -> &Platform {
        &self.inner.platform
    }

    pub(crate) fn access(&self) -> &Access {
        &self.inner.access
    }

    pub(crate) fn audit(&self) -> &Audit {
        &self.inner.audit
    }

    pub(crate) fn requests(&self) -> &TaskTracker {
        &self.inner.requests
    }

    pub(crate) fn links(&self) -> &TaskTracker {
        &self.inner.links
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    pub(crate) fn metrics_token(&self) -> Option<&TokenDigest> {
        self.inner.metrics_token.as_ref()
    }

    pub(crate) fn tls(&self) -> Option<&Acceptor> {
        self.inner.tls.as_ref()
    }

    /// How often, and how much at once.
    pub(crate) fn limits(&self) -> &Limiter {
        &self.inner.limits
    }

    pub(crate) fn found(&self) -> &Found {
        &self.inner.found
    }

    /// Takes down which life of an agent speaks now.
    pub(crate) fn note_boot(&self, agent: &AgentName, boot: BootId) {
        self.boots().insert(agent.clone(), boot);
    }

    /// The life of an agent that spoke last.
    pub(crate) fn newest_boot(&self, agent: &AgentName) -> Option<BootId> {
        self.boots().get(agent).copied()
    }

    /// An agent was removed.
    pub(crate) fn forget_agent(&self, agent: &AgentName) {
        self.boots().remove(agent);
        self.metrics().forget_agent(agent);
    }

    fn boots(&self) -> MutexGuard<'_, HashMap<AgentName, BootId>> {
        self.inner.boots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cancelled when the server wants to stop: long answers end, and say where to go on.
    pub(crate) fn drain(&self) -> &CancellationToken {
        &self.inner.drain
    }

    /// Cancelled when the time to finish is over.
    pub(crate) fn abort(&self) -> &CancellationToken {
        &self.inner.abort
    }

    /// A page of this server as people reach it; `path` begins with `/`.
    pub(crate) fn public(&self, path: &str) -> Url {
        let mut url = self.inner.config.public_url.clone();
        url.set_path(path);
        url
    }

    /// The page with a deployment's live log.
    pub(crate) fn log_url(&self, number: DeploymentNumber) -> Url {
        self.public(&format!("/deployments/{number}"))
    }

    /// A deployment with what the server knows beside its events.
    pub(crate) async fn view(&self, deployment: Deployment) -> Result<DeploymentView, PlatformError> {
        let line = match deployment.state {
            State::Queued {} => self.platform().line(deployment.id).await?,
            _ => None,
        };
        let starts_in_seconds = match &line {
            Some(line) => self.starts_in(line).await.map(|length| length.as_secs()),
            None => None,
        };
        let waiting_for = match deployment.is_ended() {
            true => None,
            false => self.platform().waiting_for(deployment.id).await?,
        };
        let superseded_by = match deployment.outcome() {
            Some(Outcome::Superseded { by, .. }) => Some(*by),
            _ => None,
        };
        Ok(DeploymentView {
            log_url: self.log_url(deployment.number),
            queue_position: line.as_ref().map(|line| line.position),
            behind: line.and_then(|line| line.behind),
            starts_in_seconds,
            log_lines: self.platform().logs().lines(deployment.id),
            superseded_by,
            waiting_for,
            deployment,
        })
    }
}

impl App {
    /// In how long a deployment will probably be begun.
    async fn starts_in(&self, line: &Line) -> Option<Duration> {
        let services: BTreeSet<&ServiceName> = line.services().collect();
        let mut usual = HashMap::new();
        for service in services {
            usual.insert(service, self.usual(service).await?);
        }
        line.starts_in(|service| usual.get(service).copied())
    }

    /// How long a service usually takes from the first step on: the median of the last successful ones, asked for once a minute.
    async fn usual(&self, service: &ServiceName) -> Option<Duration> {
        let known = self.inner.usual.lock().unwrap_or_else(PoisonError::into_inner).get(service).copied();
        if let Some((at, usual)) = known
            && at.elapsed() < USUAL_FOR
        {
            return usual;
        }
        let filter = DeploymentFilter {
            service: Some(service.clone()),
            state: Some(StateFilter::Ended),
            limit: USUAL_OF,
            ..DeploymentFilter::default()
        };
        let past = self.platform().deployments(filter).await.unwrap_or_default();
        let mut lengths: Vec<Duration> = past
            .iter()
            .filter(|past| matches!(past.outcome(), Some(Outcome::Succeeded {})))
            .filter_map(|past| {
                let began = past.steps.first()?.started_at;
                past.ended_at?.duration_since(began).try_into().ok()
            })
            .collect();
        lengths.sort_unstable();
        let usual = lengths.get(lengths.len() / 2).copied();
        let mut all = self.inner.usual.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(service.clone(), (Instant::now(), usual));
        usual
    }
}

/// How long it is believed how long a service usually takes.
const USUAL_FOR: Duration = Duration::from_secs(60);
/// Of how many of its last deployments that is told.
const USUAL_OF: u32 = 10;

/// How often expired sessions, bindings and tokens are dropped, and with them the credentials of those who are logged in no more.
const SWEEP: Duration = Duration::from_secs(10 * 60);

async fn sweep(app: App) {
    loop {
        tokio::select! {
            () = app.drain().cancelled() => return,
            () = tokio::time::sleep(SWEEP) => {}
        }
        if let Err(error) = app.access().sweep().await {
            tracing::warn!(%error, "what has expired could not be dropped");
        }
    }
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data folder is not there and cannot be made.
    #[error("cannot make the data folder {}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The data folder, the database or the logs cannot be used.
    #[error("the data folder cannot be used")]
    Platform(#[from] PlatformError),
    /// The tokens cannot be read.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The listener is not usable.
    #[error("the listener cannot be used")]
    Listener(#[from] std::io::Error),
}

/// A server that runs.
#[derive(Debug)]
#[non_exhaustive]
pub struct Server {
    /// Its platform, for programs that embed the server.
    pub platform: Platform,
    /// Its tokens, sign-in codes and sessions.
    pub access: Access,
    /// Where it listens.
    pub local_addr: SocketAddr,
    /// How people reach it.
    pub public_url: Url,
    /// The first admin token, if it was made just now; it is never shown again.
    pub admin_token: Option<Secret>,
    task: JoinHandle<()>,
}

impl Server {
    /// Returns when the server has stopped and everything that it started has ended. It stops when the token given to
    /// [`start`] is cancelled.
    pub async fn ended(self) {
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the server's task failed");
        }
    }
}

/// Starts a server on a listener that the caller has bound; it runs until `shutdown` is cancelled.
///
/// # Errors
/// When the configuration cannot work, or the data folder cannot be used.
pub async fn start(
    config: Config,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<Server, StartError> {
    config.check()?;
    let metrics_token = config.metrics.token()?;
    let identity = config.tls.as_ref().map(|tls| tls.read()).transpose()?;
    let tls = identity.as_ref().map(Acceptor::new).transpose()?;
    let local_addr = listener.local_addr()?;
    let public_url = config.public_url.clone();
    config
        .make_data_dir()
        .await
        .map_err(|source| StartError::Folder { path: config.data_dir.clone(), source })?;
    let platform = Platform::start(config.platform()).await?;
    let begun = platform.newest_event();
    let access = Access::of(&platform);
    if config.login.repository.is_none() {
        // Kept from when people logged in here.
        access.forget_credentials().await?;
    }
    let admin_token = match access.bootstrap().await {
        Ok(made) => made.map(|made| made.token),
        Err(error) => {
            platform.stop().await;
            return Err(error.into());
        }
    };
    let limits = Limiter::new(&config.limits);
    let app = App {
        inner: Arc::new(Inner {
            config,
            platform: platform.clone(),
            access: access.clone(),
            audit: Audit::of(&platform),
            requests: TaskTracker::new(),
            links: TaskTracker::new(),
            boots: Mutex::default(),
            metrics: Metrics::new(),
            metrics_token,
            tls,
            limits,
            usual: Mutex::default(),
            found: Found::default(),
            drain: shutdown,
            abort: CancellationToken::new(),
        }),
    };
    let running = TaskTracker::new();
    let task = running.spawn(run(app, listener, begun, identity.map(|identity| identity.digest)));
    Ok(Server { platform, access, local_addr, public_url, admin_token, task })
}

async fn run(app: App, listener: TcpListener, begun: EventSeq, certificate: Option<[u8; 32]>) {
    let readers = TaskTracker::new();
    readers.spawn(story::follow(app.clone(), begun));
    readers.spawn(sweep(app.clone()));
    readers.spawn(edge::forget(app.clone()));
    if let (Some(acceptor), Some(tls), Some(digest)) = (app.tls(), &app.config().tls, certificate) {
        readers.spawn(tls::follow(acceptor.clone(), tls.clone(), digest, app.drain().clone()));
    }
    let router = router::router(app.clone());
    serve::accept(listener, router, &app).await;
    let App { inner } = &app;
    inner.requests.close();
    inner.links.close();
    if tokio::time::timeout(DRAIN_LIMIT, inner.requests.wait()).await.is_err() {
        tracing::warn!(left = inner.requests.len(), "requests did not finish in time and are cut off");
    }
    inner.platform.stop().await;
    if tokio::time::timeout(LINKS_LIMIT, inner.links.wait()).await.is_err() {
        tracing::warn!(left = inner.links.len(), "agents' connections did not close in time and are cut off");
    }
    inner.abort.cancel();
    inner.requests.wait().await;
    inner.links.wait().await;
    readers.close();
    readers.wait().await;
}
