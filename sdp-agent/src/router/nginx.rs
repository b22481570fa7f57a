//! The router on nginx: a process of its own, without privileges, whose configuration the agent writes for each table.
//!
//! ```text
//!  apply ─▶ wanted ─▶ render (pure) ─▶ write, sync ─▶ nginx -t ─▶ keep the table, rename ─▶ reload
//!                        ▲   │ refused: the old table stays, and why is in the preflight     │
//!                        └───┘ again after a while                                          ▼
//!           version in effect ◀── the version endpoint says so, and no old worker accepts any more
//!  next_drained ◀── no worker is left whose configuration named the instance
//! ```
//! The first change is made at once; what changes while nginx changes over is one change, the newest. nginx is nobody's child: it
//! serves while the agent is away, and the next agent takes it over. If it is killed it is started again with the same table.
//! The newest table lies in the folder, so that the router serves before the server has spoken.
//!
//! What differs from the built-in router: an upgraded connection ends [`RouterConfig::old_connections`] after the next change of
//! the table, not with its instance; requests are not sent again when a connection breaks; headers that `Connection` names are
//! passed on; trailers are not; of two headers of one name nginx before 1.23 sees the first; a baseline's name is looked up at the
//! configured resolvers and in `/etc/hosts` (search domains are not used), and a certificate for an address is not accepted; where
//! the policy is the baseline, a request's body is read before it is sent.
//!
//! Limits: [`SWITCH`] for a change, [`AGAIN`] until one that failed is tried again, [`LOG`] bytes of a log before it begins anew.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use sdp_core::id::{InstanceId, RouteVersion};
use sdp_core::routing::RouteTable;
use sdp_core::wire::{Preflight, ProbeHop, RouterReport};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::probe::TraceId;
use super::{Router, RouterConfig};
use crate::config::User;
use crate::sync::Lock;
use process::{Nginx, Process, Processes};
use render::Settings;

mod conf;
mod pass;
mod probes;
mod process;
mod refuse;
mod render;
mod surroundings;

/// How long nginx may take to change to a table.
const SWITCH: Duration = Duration::from_secs(20);
/// After how long a change that failed is tried again, and nginx is started again that could not be started.
const AGAIN: Duration = Duration::from_secs(5);
/// How often workers are looked for that have let go.
const LOOK: Duration = Duration::from_millis(200);
/// How often the logs' sizes are looked at.
const LOOK_AT_LOGS: Duration = Duration::from_secs(60);
/// A log above this begins anew; the one before it is kept.
const LOG: u64 = 8 << 20;
/// nginx's processes; more do not serve sandboxes faster.
const MOST_WORKERS: usize = 4;
/// A path of a socket has at most 107 bytes.
const LONGEST_FOLDER: usize = 90;
/// Who nginx is where the agent is root.
const NOBODY: User = User { uid: 65_534, gid: 65_534 };

/// A router on nginx. Clones are the same router.
#[derive(Clone, Debug)]
pub struct NginxRouter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    nginx: Nginx,
    settings: Settings,
    own_resolvers: bool,
    state: Lock<State>,
    /// Rings when there is a newer table.
    newer: Notify,
    applied: watch::Sender<RouteVersion>,
    /// Counts up when the preflight has changed.
    changes: watch::Sender<u64>,
    drained: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The newest that was given.
    wanted: Option<RouteTable>,
    kept: Kept,
    /// Workers that let go, and what their tables named.
    generations: Vec<Generation>,
    drained: VecDeque<InstanceId>,
    trouble: Option<String>,
}

/// What lies in the folder.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    /// In effect.
    table: RouteTable,
    /// What the version endpoint says of it.
    stamp: String,
    /// Taken out of the table, and maybe with requests under way.
    leaving: BTreeSet<InstanceId>,
}

#[derive(Debug)]
struct Generation {
    workers: BTreeSet<Process>,
    instances: BTreeSet<InstanceId>,
}

impl NginxRouter {
    /// Prepares the folder, and reads what a former life left there. nginx is started, or taken over, by [`Router::serve`].
    ///
    /// # Errors
    /// When the folder cannot be used, the certificate authorities cannot be read, or the configuration contradicts itself.
    pub fn open(config: &RouterConfig, data_dir: &Path) -> io::Result<Self> {
        let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
        config.check()?;
        if config.listen.port() == 0 {
            return Err(wrong("router.listen needs a port where nginx is the engine".into()));
        }
        let user = User::own().is_root().then(|| config.user.unwrap_or(NOBODY));
        if user.is_some() {
            // nginx passes through it to its own.
            let mode = std::fs::metadata(data_dir)?.permissions().mode();
            std::fs::set_permissions(data_dir, std::fs::Permissions::from_mode(mode | 0o011))?;
        }
        let folder = data_dir.join("router");
        let text = folder.to_str().ok_or_else(|| wrong("data_dir is not UTF-8".into()))?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,@=:".contains(c);
        if text.len() > LONGEST_FOLDER || !text.chars().all(plain) {
            let limit = LONGEST_FOLDER - "/router".len();
            return Err(wrong(format!(
                "where nginx is the engine, data_dir has at most {limit} plain characters"
            )));
        }
        for path in [folder.clone(), folder.join("temp")] {
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            if let Some(User { uid, gid }) = user {
                std::os::unix::fs::lchown(&path, Some(uid), Some(gid))?;
            }
        }
        // As the processes name it in /proc.
        let folder = folder.canonicalize()?;
        let nginx = Nginx { program: config.nginx.clone(), folder: folder.clone(), user };
        write(&nginx, "ca.pem", surroundings::bundle(config.ca_file.as_deref())?.as_bytes())?;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let settings = Settings {
            listen: config.listen,
            base_url: config.base()?,
            trust_forwarded: config.trust_forwarded,
            trusted_networks: config.trusted_networks.clone(),
            limits: config.limits.clone(),
            folder,
            workers: cores.min(MOST_WORKERS),
            old_connections: config.old_connections.as_secs().max(1),
            resolvers: config.resolvers.clone(),
            ipv6: false,
            hosts: std::collections::BTreeMap::new(),
        };
        let mut state = State { kept: read_kept(&nginx.folder), ..State::default() };
        state.wanted = Some(state.kept.table.clone());
        let shared = Shared {
            nginx,
            settings,
            own_resolvers: !config.resolvers.is_empty(),
            state: Lock::new(state),
            newer: Notify::new(),
            applied: watch::Sender::new(RouteVersion::default()),
            changes: watch::Sender::new(0),
            drained: Notify::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Ends one that an earlier configuration has left, for another router to take its place: `data_dir` as in [`Self::open`].
    pub(crate) async fn end_leftover(data_dir: &Path) {
        if let Ok(folder) = data_dir.join("router").canonicalize() {
            Nginx { program: PathBuf::new(), folder, user: None }.let_go().await;
        }
    }
}

fn read_kept(folder: &Path) -> Kept {
    match std::fs::read(folder.join("table.json")) {
        Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
            tracing::warn!(%error, "the route table that was kept cannot be read; the server sends it again");
            Kept::default()
        }),
        Err(_) => Kept::default(),
    }
}

/// Writes a file that is whole or not there.
fn write(nginx: &Nginx, name: &str, text: &[u8]) -> io::Result<()> {
    let new = nginx.folder.join(format!("{name}.new"));
    write_new(nginx, &new, text)?;
    std::fs::rename(&new, nginx.folder.join(name))?;
    std::fs::File::open(&nginx.folder)?.sync_all()
}

fn write_new(nginx: &Nginx, path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    if let Some(User { uid, gid }) = nginx.user {
        std::os::unix::fs::lchown(path, Some(uid), Some(gid))?;
    }
    file.write_all(text)?;
    file.sync_all()
}

impl Shared {
    fn config(&self) -> PathBuf {
        self.nginx.folder.join("nginx.conf")
    }

    /// What this table is rendered with: the machine's files are read anew.
    fn settings_now(&self) -> Settings {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let mut settings = self.settings.clone();
        if !self.own_resolvers {
            settings.resolvers = surroundings::resolvers(&read("/etc/resolv.conf"));
        }
        settings.ipv6 = surroundings::has_ipv6(&read("/proc/net/if_inet6"));
        settings.hosts = surroundings::hosts(&read("/etc/hosts"));
        settings
    }

    fn set_trouble(&self, trouble: Option<String>) {
        let mut state = self.state.lock();
        if state.trouble != trouble {
            state.trouble = trouble;
            drop(state);
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// Puts a table into effect.
    ///
    /// # Errors
    /// Why it is not, as a sentence; the old one stays.
    async fn switch(self: &Arc<Self>, table: RouteTable) -> Result<(), String> {
        let shared = self.clone();
        let now = Timestamp::now();
        let stamp = format!("{}-{}", table.version, now.as_nanosecond());
        let (rendered, stamped) = (table.clone(), stamp.clone());
        let prepared = tokio::task::spawn_blocking(move || {
            let text = render::render(&rendered.at(now), &shared.settings_now(), &stamped);
            write_new(&shared.nginx, &shared.nginx.folder.join("nginx.conf.new"), text.as_bytes())
        });
        let failed = |error: &dyn std::fmt::Display| format!("the configuration cannot be written: {error}");
        prepared.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        let new = self.nginx.folder.join("nginx.conf.new");
        self.nginx.test(&new).await?;
        let named: BTreeSet<InstanceId> = table.instances().map(|(instance, _)| instance).collect();
        let kept = {
            let state = self.state.lock();
            let before = state.kept.table.instances().map(|(instance, _)| instance);
            let leaving = state.kept.leaving.iter().copied().chain(before).filter(|id| !named.contains(id));
            Kept { table, stamp: stamp.clone(), leaving: leaving.collect() }
        };
        self.keep(&kept)?;
        std::fs::rename(&new, self.config()).map_err(|error| failed(&error))?;
        std::fs::File::open(&self.nginx.folder)
            .and_then(|it| it.sync_all())
            .map_err(|error| failed(&error))?;
        let before = self.nginx.processes();
        if before.master.is_some() {
            self.nginx.reload();
        } else {
            self.nginx.start(&self.config()).await?;
        }
        self.nginx.in_effect(Some(&stamp), &before.workers, SWITCH).await?;
        let version = kept.table.version;
        let mut state = self.state.lock();
        let old = state.kept.table.instances().map(|(instance, _)| instance).collect();
        state.generations.push(Generation { workers: before.workers, instances: old });
        state.kept = kept;
        drop(state);
        self.applied.send_replace(version);
        tracing::info!(route.version = %version, "nginx has the route table");
        Ok(())
    }

    fn keep(&self, kept: &Kept) -> Result<(), String> {
        let failed = |error: &dyn std::fmt::Display| format!("the table cannot be kept: {error}");
        let text = serde_json::to_vec(kept).map_err(|error| failed(&error))?;
        write(&self.nginx, "table.json", &text).map_err(|error| failed(&error))
    }

    /// Takes over what runs, or starts it. Returns the master.
    async fn ensure_running(self: &Arc<Self>) -> Result<Process, String> {
        let mut found = self.nginx.processes();
        if found.master.is_none() {
            tracing::info!("nginx does not run: it is started");
            let table = self.state.lock().kept.table.clone();
            // Rendered anew: what lies there may be for another address, or of no use to this nginx.
            if let Err(error) = self.switch(table).await {
                if !self.config().exists() {
                    return Err(error);
                }
                // Where nothing can be written it serves what it had.
                if self.nginx.processes().master.is_none() {
                    self.nginx.start(&self.config()).await?;
                }
            }
            found = self.nginx.in_effect(None, &BTreeSet::new(), SWITCH).await?;
        }
        self.take_over(&found);
        found.master.ok_or_else(|| "nginx has ended at once; see its error.log".to_owned())
    }

    /// Notes workers of former lives.
    fn take_over(&self, found: &Processes) {
        let mut state = self.state.lock();
        let known: BTreeSet<Process> =
            state.generations.iter().flat_map(|generation| generation.workers.iter().copied()).collect();
        let workers: BTreeSet<Process> = found.leaving.difference(&known).copied().collect();
        if !workers.is_empty() {
            let instances = state.kept.leaving.clone();
            state.generations.push(Generation { workers, instances });
        }
    }

    /// Announces instances that no worker can send to any more. Whether there are others.
    fn look_for_drained(&self) -> bool {
        let mut state = self.state.lock();
        for generation in &mut state.generations {
            generation.workers.retain(|worker| worker.is_there());
        }
        state.generations.retain(|generation| !generation.workers.is_empty());
        let held: BTreeSet<InstanceId> =
            state.generations.iter().flat_map(|generation| generation.instances.iter().copied()).collect();
        let (left, gone): (BTreeSet<_>, BTreeSet<_>) =
            state.kept.leaving.iter().copied().partition(|instance| held.contains(instance));
        if !gone.is_empty() {
            state.kept.leaving.clone_from(&left);
            state.drained.extend(gone);
            self.drained.notify_one();
            if let Err(error) = self.keep(&state.kept) {
                tracing::warn!(error, "it is not kept which instances are drained");
            }
        }
        !left.is_empty()
    }

    /// Whether the table that was kept is what nginx serves, rendered as it would be today.
    async fn is_current(&self) -> bool {
        let (table, stamp) = {
            let state = self.state.lock();
            (state.kept.table.clone(), state.kept.stamp.clone())
        };
        let text = render::render(&table.at(Timestamp::now()), &self.settings_now(), &stamp);
        let same = std::fs::read(self.config()).is_ok_and(|known| known == text.as_bytes());
        same && self.nginx.stamp().await.as_deref() == Some(stamp.as_str())
    }

    fn begin_logs_anew(&self) {
        let mut begun = false;
        for name in ["error.log", "probes.log"] {
            let path = self.nginx.folder.join(name);
            if std::fs::metadata(&path).is_ok_and(|file| file.len() > LOG) {
                drop(std::fs::rename(&path, self.nginx.folder.join(format!("{name}.1"))));
                begun = true;
            }
        }
        if begun {
            self.nginx.reopen();
        }
    }

    async fn supervise(self: &Arc<Self>) {
        // What a former life left may be right as it is.
        let mut first = true;
        let mut again: Option<Instant> = None;
        let mut logs = Instant::now() + LOOK_AT_LOGS;
        loop {
            let master = match self.ensure_running().await {
                Ok(master) => master,
                Err(error) => {
                    tracing::error!(error, "nginx cannot be started");
                    self.set_trouble(Some(format!("nginx cannot be started: {error}")));
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            };
            if std::mem::take(&mut first) && self.is_current().await {
                let version = self.state.lock().kept.table.version;
                self.applied.send_replace(version);
            }
            let draining = self.look_for_drained();
            let due = again.is_none_or(|at| at <= Instant::now());
            if let Some(table) = self.wanted().filter(|_| due) {
                let version = table.version;
                again = match self.switch(table).await {
                    Ok(()) => {
                        self.set_trouble(None);
                        None
                    }
                    Err(error) => {
                        let stays = *self.applied.borrow();
                        tracing::error!(route.version = %version, stays = %stays, error, "the route table did not take effect");
                        self.set_trouble(Some(format!(
                            "table {version} did not take effect, {stays} stays: {error}"
                        )));
                        if let Some(old) = self.expired()
                            && let Err(error) = self.switch(old).await
                        {
                            tracing::error!(error, "a sandbox that has expired is still routed");
                        }
                        Some(Instant::now() + AGAIN)
                    }
                };
                continue;
            }
            let expiry = Self::next_expiry(&self.state.lock()).map(|end| {
                let left = Duration::try_from(end.duration_since(Timestamp::now())).unwrap_or_default();
                Instant::now() + left
            });
            let at = |when: Option<Instant>| async move {
                match when {
                    Some(when) => sleep_until(when).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // What was wrong with the one before it need not be wrong with this one.
                () = self.newer.notified() => again = None,
                () = at(again) => {}
                () = at(expiry) => {}
                () = at(draining.then(|| Instant::now() + LOOK)) => {}
                () = sleep_until(logs) => {
                    logs = Instant::now() + LOOK_AT_LOGS;
                    self.begin_logs_anew();
                }
                () = master.ended() => tracing::warn!("nginx has ended: it is started again"),
            }
        }
    }

    /// A table that is to be put into effect.
    fn wanted(&self) -> Option<RouteTable> {
        let expired = self.expired();
        let mut state = self.state.lock();
        let applied = *self.applied.borrow();
        if state.wanted.as_ref().is_some_and(|wanted| wanted.version <= applied) {
            state.wanted = None;
        }
        state.wanted.clone().or(expired)
    }

    /// The table in effect, if a sandbox of it has expired since nginx was given it.
    fn expired(&self) -> Option<RouteTable> {
        let state = self.state.lock();
        let expired = Self::next_expiry(&state).is_some_and(|end| end <= Timestamp::now());
        expired.then(|| state.kept.table.clone())
    }

    /// When the next sandbox expires that nginx still knows.
    fn next_expiry(state: &State) -> Option<Timestamp> {
        let nanoseconds = state.kept.stamp.rsplit('-').next().and_then(|text| text.parse().ok());
        let rendered = nanoseconds.and_then(|at| Timestamp::from_nanosecond(at).ok());
        state.kept.table.next_expiry(rendered.unwrap_or(Timestamp::UNIX_EPOCH))
    }
}

impl Router for NginxRouter {
    fn report(&self) -> RouterReport {
        RouterReport {
            kind: "nginx".into(),
            base_url: self.shared.settings.base_url.clone(),
            applied: *self.shared.applied.borrow(),
        }
    }

    fn local_addr(&self) -> SocketAddr {
        self.shared.settings.listen
    }

    fn apply(&self, table: RouteTable) -> RouteVersion {
        let applied = *self.shared.applied.borrow();
        let mut state = self.shared.state.lock();
        if table.version > applied
            && state.wanted.as_ref().is_none_or(|wanted| wanted.version < table.version)
        {
            state.wanted = Some(table);
            self.shared.newer.notify_one();
        }
        applied
    }

    fn next_applied(&self, after: RouteVersion) -> BoxFuture<'_, RouteVersion> {
        super::next_version(self.shared.applied.subscribe(), after)
    }

    fn next_drained(&self) -> BoxFuture<'_, InstanceId> {
        Box::pin(async {
            loop {
                if let Some(instance) = self.shared.state.lock().drained.pop_front() {
                    self.shared.drained.notify_one();
                    return instance;
                }
                self.shared.drained.notified().await;
            }
        })
    }

    fn preflight(&self) -> Vec<Preflight> {
        let trouble = self.shared.state.lock().trouble.clone();
        let check = "router".to_owned();
        let ok = trouble.is_none();
        let detail = trouble.unwrap_or_else(|| {
            format!("nginx on {}, table {}", self.shared.settings.listen, *self.shared.applied.borrow())
        });
        vec![Preflight { check, ok, detail }]
    }

    fn next_change<'a>(&'a self, seen: &'a mut u64) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let mut changes = self.shared.changes.subscribe();
            // The sender lives as long as this router.
            if let Ok(count) = changes.wait_for(|count| *count > *seen).await {
                *seen = *count;
            }
        })
    }

    fn hops<'a>(&'a self, trace: &'a TraceId) -> BoxFuture<'a, Vec<ProbeHop>> {
        let folder = self.shared.nginx.folder.clone();
        Box::pin(async move {
            let trace = trace.clone();
            tokio::task::spawn_blocking(move || probes::read(&folder, &trace)).await.unwrap_or_default()
        })
    }

    fn serve(&self, shutdown: CancellationToken) -> BoxFuture<'_, ()> {
        // nginx goes on: the next agent takes it over.
        Box::pin(async move {
            let _ended = shutdown.run_until_cancelled(self.shared.supervise()).await;
        })
    }
}
