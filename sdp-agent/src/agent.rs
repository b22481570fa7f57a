//! The agent: one life of it, from the lock on its folder to the last task awaited.
//!
//! ```text
//!   open ─▶ ┌ connected: hello, welcome, commands ┐ ─▶ drain: jobs stopped, instances stopped, logs delivered ─▶ bye
//!           └────────── away: wait, dial ─────────┘
//! ```
//! [`run`] is called by `main`, the quickstart and tests, [`run_on`] by who has an engine of its own. `connection` speaks
//! with the server, `commands` does what it says, `lifetimes` what is to be done without it, [`crate::job`] does the work, [`crate::spool`] keeps what the work says.
//!
//! The invariant: [`run`] returns only when all that it started has ended. What the server may ask for while it is away
//! is not lost: commands come at least once, states are repeated in each hello, logs stay in the spool.

mod commands;
mod connection;
mod follow;
mod hello;
mod host;
mod lifetimes;
mod load;
mod recent;
mod resume;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{File, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sdp_core::id::{BootId, DeploymentId, InstanceId, RouteVersion};
use sdp_core::wire::{FromAgent, Preflight};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, User};
use crate::exec::Isolation;
use crate::git::{Git, GitConfigError};
use crate::job::{Begin, Stop, StopWhy};
use crate::link::Connector;
use crate::router::{self, Router};
use crate::runtime::process::RESTART_PAUSE;
use crate::runtime::{DockerRuntime, DockerRuntimeConfig, ProcessRuntime, Runtime, RuntimeConfig};
use crate::spool::{JobLog, Spool};
use crate::sync::Lock;
use crate::tools::Tools;
use crate::workspace::Workspaces;
use lifetimes::Lifetimes;
use recent::Recent;

/// When the agent ends, logs have so long to reach the server.
const DELIVER_WITHIN: Duration = Duration::from_secs(2);
/// How often it looks whether its disk gets full.
const LOOK_AT_DISK: Duration = Duration::from_secs(60);
/// So many drained instances are told again after a reconnect.
const DRAINED_KEPT: usize = 256;
/// So many questions (lists of branches, output) are answered at once; more wait.
const QUESTIONS: usize = 8;
/// So many questions are under way or wait; more are refused.
const WAITING: usize = 64;

/// Why an agent could not run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Its folder cannot be used.
    #[error("failed to use {path}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another agent uses its folder.
    #[error("another agent uses {0}; each needs a data_dir of its own")]
    InUse(PathBuf),
    /// Builds cannot run as the configured user.
    #[error("builds cannot run as `user` in [build]: {0}")]
    BuildUser(String),
    /// Git cannot be set up.
    #[error("failed to set up git")]
    Git(#[from] GitConfigError),
    /// The router cannot listen.
    #[error("failed to start the router on {listen} (`listen` in [router])")]
    Router {
        /// Where.
        listen: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The router ended though nobody asked it to.
    #[error("the router has ended")]
    RouterEnded,
    /// A fault of the agent; its log has the panic.
    #[error("the agent's connection has ended for good; this is a fault of the agent")]
    Fault,
}

/// Runs an agent until `shutdown`.
///
/// # Errors
/// When it cannot begin, or its router fails. What it had started has ended by then.
pub async fn run(
    config: Config,
    connector: Connector,
    shutdown: CancellationToken,
) -> Result<(), AgentError> {
    live(config, None, connector, shutdown).await
}

/// The same, with the caller's own runtime for instances instead of one that the configuration names.
///
/// # Errors
/// As [`run`].
pub async fn run_on(
    runtime: Arc<dyn Runtime>,
    config: Config,
    connector: Connector,
    shutdown: CancellationToken,
) -> Result<(), AgentError> {
    live(config, Some(runtime), connector, shutdown).await
}

async fn live(
    config: Config,
    runtime: Option<Arc<dyn Runtime>>,
    connector: Connector,
    shutdown: CancellationToken,
) -> Result<(), AgentError> {
    let agent = Arc::new(Agent::open(config, runtime).await?);
    let closing = &agent.closing;
    let mut router = agent.start_router(closing);
    agent.tasks.spawn({
        let (agent, closing) = (agent.clone(), closing.clone());
        async move { agent.keep_room(closing).await }
    });
    agent.tasks.spawn({
        let (agent, closing) = (agent.clone(), closing.clone());
        async move { agent.keep_lifetimes(closing).await }
    });
    agent.tasks.spawn({
        let (spool, closing) = (agent.spool.clone(), closing.clone());
        async move {
            // Ends with the agent.
            let _ended = closing.run_until_cancelled(spool.keep_written()).await;
        }
    });
    let mut connection = agent.tasks.spawn({
        let (agent, closing) = (agent.clone(), closing.clone());
        async move { agent.stay_connected(connector, closing).await }
    });
    let result = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        () = ended(&mut router) => Err(AgentError::RouterEnded),
        _ = &mut connection => Err(AgentError::Fault),
    };
    agent.drain().await;
    closing.cancel();
    agent.tasks.close();
    agent.tasks.wait().await;
    result
}

async fn ended(task: &mut Option<tokio::task::JoinHandle<()>>) {
    match task {
        Some(task) => drop(task.await),
        None => std::future::pending().await,
    }
}

#[derive(Debug)]
struct Agent {
    config: Config,
    boot: BootId,
    tools: Arc<Tools>,
    spool: Arc<Spool>,
    router: Option<Arc<dyn Router>>,
    tasks: TaskTracker,
    /// Jobs whose work is not over.
    running: Lock<HashMap<DeploymentId, Arc<Running>>>,
    /// Held while an order becomes a job.
    taking: tokio::sync::Mutex<()>,
    /// Counts up when a job ends, and when the agent begins to drain.
    ended: watch::Sender<u64>,
    commands: Lock<Recent>,
    lifetimes: Lifetimes,
    /// Turns to answer a question, and places to wait for one.
    questions: Semaphore,
    waiting: Semaphore,
    closing: CancellationToken,
    /// To the server, while there is a connection.
    outbox: Lock<Option<mpsc::Sender<FromAgent>>>,
    drained: Drained,
    draining: AtomicBool,
    /// Instances that are to go and that their runtime cannot end yet.
    going: Lock<HashSet<InstanceId>>,
    /// Work was refused because the disk is full.
    room_wanted: Notify,
    /// What was found out last about this machine.
    preflight: Lock<Vec<Preflight>>,
    /// Jobs of a former life that go on with the first welcome.
    left: Lock<Vec<(JobLog, Begin)>>,
    /// Held for as long as the agent lives.
    _lock: File,
}

/// A job whose work is not over.
#[derive(Debug)]
struct Running {
    attempt: u32,
    instance: InstanceId,
    stop: Arc<Stop>,
    /// The server wants to hear nothing of it any more.
    forgotten: AtomicBool,
    /// Cancelled when all of it is over.
    over: CancellationToken,
}

/// Instances that a router said are drained: the newest [`DRAINED_KEPT`], numbered.
#[derive(Debug)]
struct Drained {
    newest: watch::Sender<u64>,
    kept: Lock<VecDeque<(u64, InstanceId)>>,
}

impl Drained {
    fn push(&self, instance: InstanceId) {
        let mut kept = self.kept.lock();
        let number = *self.newest.borrow() + 1;
        kept.push_back((number, instance));
        if kept.len() > DRAINED_KEPT {
            kept.pop_front();
        }
        drop(kept);
        self.newest.send_replace(number);
    }

    fn after(&self, number: u64) -> Vec<(u64, InstanceId)> {
        self.kept.lock().iter().filter(|(n, _)| *n > number).copied().collect()
    }
}

impl Agent {
    async fn open(config: Config, runtime: Option<Arc<dyn Runtime>>) -> Result<Self, AgentError> {
        let opened = tokio::task::spawn_blocking(move || Opened::open(config)).await;
        let Opened { config, lock, spool, git, workspaces, isolation, lifetimes } =
            opened.map_err(|_| AgentError::Fault)??;
        // Before the runtime, which starts what the former life ran: nothing may fail after that.
        let router = match &config.router {
            Some(router) => {
                let listen = router.listen;
                let opened = router::open(router, &config.data_dir).await;
                Some(opened.map_err(|source| AgentError::Router { listen, source })?)
            }
            None => None,
        };
        let runtime = match runtime {
            Some(runtime) => runtime,
            None => open_runtime(&config, isolation.clone()).await?,
        };
        let tools = Tools::new(&config, git, runtime, workspaces, isolation);
        let left = resume::decide(&tools, &spool).await;
        // No job is at work yet: what goes are half-done ones, and builds over the number to be kept that neither an instance runs
        // nor a job goes on with.
        tools.sweep().await;
        let mut preflight = hello::tools_found(&config, &tools.isolation).await;
        preflight.extend(router.iter().flat_map(|router| router.preflight()));
        preflight.extend(tools.runtime.preflight().await);
        Ok(Self {
            config,
            boot: BootId::new(),
            tools: Arc::new(tools),
            spool: Arc::new(spool),
            router,
            tasks: TaskTracker::new(),
            running: Lock::default(),
            taking: tokio::sync::Mutex::default(),
            ended: watch::Sender::new(0),
            commands: Lock::default(),
            lifetimes,
            questions: Semaphore::new(QUESTIONS),
            waiting: Semaphore::new(WAITING),
            closing: CancellationToken::new(),
            outbox: Lock::default(),
            drained: Drained { newest: watch::Sender::new(0), kept: Lock::default() },
            draining: AtomicBool::new(false),
            going: Lock::default(),
            room_wanted: Notify::new(),
            preflight: Lock::new(preflight),
            left: Lock::new(left),
            _lock: lock,
        })
    }

    /// Makes room from time to time, for services write, too; and when work was refused for want of it.
    async fn keep_room(&self, closing: CancellationToken) {
        loop {
            tokio::select! {
                () = closing.cancelled() => return,
                () = tokio::time::sleep(LOOK_AT_DISK) => {}
                () = self.room_wanted.notified() => {}
            }
            tokio::select! {
                () = closing.cancelled() => return,
                () = self.tools.make_room() => {}
            }
        }
    }

    fn start_router(self: &Arc<Self>, closing: &CancellationToken) -> Option<tokio::task::JoinHandle<()>> {
        let router = self.router.clone()?;
        let listening = {
            let (agent, closing, router) = (self.clone(), closing.clone(), router.clone());
            async move {
                loop {
                    tokio::select! {
                        () = closing.cancelled() => return,
                        instance = router.next_drained() => agent.drained.push(instance),
                    }
                }
            }
        };
        self.tasks.spawn(listening);
        let telling = {
            let (agent, closing, router) = (self.clone(), closing.clone(), router.clone());
            async move {
                let mut told = RouteVersion::default();
                while let Some(version) = closing.run_until_cancelled(router.next_applied(told)).await {
                    told = version;
                    agent.tell(FromAgent::RoutesApplied { version }).await;
                }
            }
        };
        self.tasks.spawn(telling);
        let closing = closing.clone();
        Some(self.tasks.spawn(async move { router.serve(closing).await }))
    }

    /// Takes no more work, ends what there is, and gives the server a moment to hear of it.
    async fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        let running: Vec<_> = self.running.lock().values().cloned().collect();
        for job in &running {
            job.stop.set(StopWhy::AgentStops);
        }
        for job in running {
            job.over.cancelled().await;
        }
        // What outlives the agent goes on, and is found again by the next one.
        self.tools.runtime.shut_down().await;
        self.spool.write_down().await;
        let connected = self.outbox.lock().is_some();
        if connected && timeout(DELIVER_WITHIN, self.spool.delivered()).await.is_err() {
            tracing::warn!(
                "the server has not taken all logs; it gets the rest when this agent starts again"
            );
        }
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Says something to the server, if there is a connection. To be used for what each hello repeats, and for answers,
    /// which the server asks for again.
    async fn tell(&self, message: FromAgent) {
        let outbox = self.outbox.lock().clone();
        if let Some(outbox) = outbox {
            // A connection that has ended meanwhile hears it by the next hello.
            drop(outbox.send(message).await);
        }
    }
}

/// What is opened on disk before anything else.
struct Opened {
    config: Config,
    lock: File,
    spool: Spool,
    git: Git,
    workspaces: Workspaces,
    isolation: Isolation,
    lifetimes: Lifetimes,
}

impl Opened {
    /// Takes the data folder, and cleans up what a former life left in it. Blocking.
    fn open(mut config: Config) -> Result<Self, AgentError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| AgentError::Folder { path, source }
        };
        create_private(&config.data_dir).map_err(at(&config.data_dir))?;
        // Without links: paths in it are compared.
        config.data_dir = config.data_dir.canonicalize().map_err(at(&config.data_dir))?;
        let data = &config.data_dir;
        let path = data.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&path).map_err(at(&path))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(AgentError::InUse(data.clone())),
            Err(error) => return Err(at(&path)(error.into())),
        }
        // Processes of a former life are ended before their files are taken away.
        let left = crate::exec::kill_leftovers(data);
        if left > 0 {
            tracing::warn!(processes = left, "killed what an earlier agent left running");
        }
        let isolation = Isolation::open(&config.build, data).map_err(AgentError::BuildUser)?;
        let user = isolation.user();
        if user.is_some() {
            // Its group stays: systemd gives a whole state folder back to the agent when the folder's owner has changed.
            std::fs::set_permissions(data, Permissions::from_mode(0o711)).map_err(at(data))?;
        }
        let path = data.join("caches");
        own_folder(&path, user).map_err(at(&path))?;
        let path = data.join("spool");
        let spool = Spool::open(path.clone(), config.spool).map_err(at(&path))?;
        let path = data.join("work");
        let workspaces = Workspaces::owned_by(&path, user).map_err(at(&path))?;
        let git = Git::new(config.git.clone(), data.join("mirrors"))?;
        let lifetimes = Lifetimes::open(data);
        Ok(Self { config, lock, spool, git, workspaces, isolation, lifetimes })
    }
}

async fn open_runtime(config: &Config, isolation: Isolation) -> Result<Arc<dyn Runtime>, AgentError> {
    let runtime = &config.runtime;
    let (ports, advertise, stop_grace) = (runtime.ports.clone(), runtime.advertise, runtime.stop_grace);
    let path = config.data_dir.join("instances");
    let at = |source| AgentError::Folder { path: path.clone(), source };
    if let Some(engine) = &config.docker {
        let runtime = DockerRuntimeConfig {
            data_dir: config.data_dir.clone(),
            work_dir: config.data_dir.join("work"),
            engine: engine.clone(),
            ports,
            advertise,
            stop_grace,
            env: runtime.env.clone(),
            user: config.build.user.unwrap_or_else(User::own),
        };
        return Ok(Arc::new(DockerRuntime::open(runtime).await.map_err(at)?));
    }
    let path_of_services = ("PATH".into(), config.build.path.clone().into());
    let base_env = runtime.env.iter().map(|(name, value)| (name.into(), value.into()));
    let base_env = base_env.chain([path_of_services]).collect();
    let data_dir = path.clone();
    let restart_pause = RESTART_PAUSE;
    let runtime =
        RuntimeConfig { data_dir, ports, advertise, stop_grace, restart_pause, base_env, isolation };
    let opened = tokio::task::spawn_blocking(move || ProcessRuntime::new(runtime)).await;
    Ok(Arc::new(opened.map_err(|_| AgentError::Fault)?.map_err(at)?))
}

/// A folder that the build user, if there is one, owns; else the agent.
fn own_folder(path: &Path, user: Option<User>) -> io::Result<()> {
    create_private(path)?;
    match user {
        Some(User { uid, gid }) => std::os::unix::fs::lchown(path, Some(uid), Some(gid)),
        None => Ok(()),
    }
}

/// A folder that nobody else can look into.
fn create_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests;
