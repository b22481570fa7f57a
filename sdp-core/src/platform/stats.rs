//! Counts and levels of the platform at one moment, for whoever watches over it.
//!
//! Called by the server for its metrics and its readiness. Reading them costs one turn of the loop and a few system calls,
//! and changes nothing.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use jiff::Timestamp;

use super::world::World;
use super::{Platform, PlatformConfig, PlatformError, decide};
use crate::api::AgentView;
use crate::deployment::State;
use crate::id::EventSeq;
use crate::lock::LockKind;
use crate::logs::LogStats;
use crate::sandbox::InstanceState;

/// Where an open deployment can stand, in order; see [`PlatformStats::open`].
pub const OPEN_STATES: [&str; 8] =
    ["queued", "sent", "resolve", "fetch", "build", "start", "check", "switch"];
/// Where an instance can stand; see [`PlatformStats::instances`].
pub const INSTANCE_STATES: [&str; 6] = ["starting", "live", "unhealthy", "draining", "stopped", "lost"];

/// The platform at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PlatformStats {
    /// The place of the newest event.
    pub newest_event: EventSeq,
    /// How many deployments have not ended, by where they stand: one of [`OPEN_STATES`], each of which is there.
    pub open: BTreeMap<&'static str, u64>,
    /// Since when the one that waits longest has waited for its turn.
    pub oldest_queued: Option<Timestamp>,
    /// How many open deployments should have gone on or ended long ago by the platform's own rules. Anything but 0 is a fault.
    pub overdue: u64,
    /// How many instances there are, by one of [`INSTANCE_STATES`], each of which is there. Those that are over are counted only
    /// while requests for them are answered with a refusal.
    pub instances: BTreeMap<&'static str, u64>,
    /// How many sandboxes there are.
    pub sandboxes: u64,
    /// How many of them are kept until somebody deletes them.
    pub pinned: u64,
    /// How many locks hold.
    pub locks: u64,
    /// How many freezes hold.
    pub freezes: u64,
    /// All agents.
    pub agents: Vec<AgentView>,
    /// The job logs.
    pub logs: LogStats,
    /// The disk with the data folder, if the system says.
    pub disk: Option<DiskSpace>,
    /// Bytes of the database file.
    pub database_bytes: u64,
    /// Bytes of its write-ahead log.
    pub wal_bytes: u64,
}

/// Room on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskSpace {
    /// Bytes that this user may still use.
    pub free: u64,
    /// All bytes.
    pub total: u64,
    /// Files that can still be made; 0 where the file system does not count them.
    pub free_files: u64,
    /// How many files there can be; 0 where the file system does not count them.
    pub total_files: u64,
}

impl DiskSpace {
    fn of(folder: &Path) -> io::Result<Self> {
        let disk = rustix::fs::statvfs(folder)?;
        Ok(Self {
            free: disk.f_bavail.saturating_mul(disk.f_frsize),
            total: disk.f_blocks.saturating_mul(disk.f_frsize),
            free_files: disk.f_favail,
            total_files: disk.f_files,
        })
    }
}

/// What the world has of them.
struct Levels {
    open: BTreeMap<&'static str, u64>,
    oldest_queued: Option<Timestamp>,
    overdue: u64,
    instances: BTreeMap<&'static str, u64>,
    sandboxes: u64,
    pinned: u64,
    locks: u64,
    freezes: u64,
    agents: Vec<AgentView>,
}

impl Platform {
    /// Counts and levels at this moment.
    ///
    /// # Errors
    /// [`PlatformError::Stopping`].
    pub async fn stats(&self) -> Result<PlatformStats, PlatformError> {
        let (config, now) = (self.inner.config.clone(), self.inner.clock.now());
        let levels = self.ask(move |world| Levels::of(world, &config, now)).await?;
        let folder = self.inner.config.data_dir.clone();
        let (disk, database_bytes, wal_bytes) = tokio::task::spawn_blocking(move || {
            let size = |name| std::fs::metadata(folder.join(name)).map_or(0, |file| file.len());
            (DiskSpace::of(&folder).ok(), size("sdp.db"), size("sdp.db-wal"))
        })
        .await
        .map_err(|_| PlatformError::Stopping)?;
        let Levels { open, oldest_queued, overdue, instances, sandboxes, pinned, locks, freezes, agents } =
            levels;
        Ok(PlatformStats {
            newest_event: self.newest_event(),
            open,
            oldest_queued,
            overdue,
            instances,
            sandboxes,
            pinned,
            locks,
            freezes,
            agents,
            logs: self.inner.logs.stats(),
            disk,
            database_bytes,
            wal_bytes,
        })
    }

    /// Whether the orchestrator takes commands and answers.
    ///
    /// # Errors
    /// [`PlatformError::Stopping`].
    pub async fn answers(&self) -> Result<(), PlatformError> {
        self.ask(|_| ()).await
    }

    /// Whether the database can be written.
    ///
    /// # Errors
    /// What is wrong with it.
    pub async fn can_store(&self) -> Result<(), PlatformError> {
        if let Some(error) = self.inner.storage.borrow().clone() {
            return Err(error.into());
        }
        Ok(self.inner.store.write(crate::store::probe).await?)
    }
}

impl Levels {
    fn of(world: &World, config: &PlatformConfig, now: Timestamp) -> Self {
        let mut open: BTreeMap<_, _> = OPEN_STATES.map(|state| (state, 0)).into();
        for one in world.open.values() {
            let state = match (&one.deployment.state, &one.deployment.agent) {
                (State::Running { step }, _) => step.as_str(),
                (_, Some(_)) => "sent",
                (_, None) => "queued",
            };
            *open.entry(state).or_default() += 1;
        }
        let mut instances: BTreeMap<_, _> = INSTANCE_STATES.map(|state| (state, 0)).into();
        for one in world.instances.values() {
            let state = match one.instance.state {
                InstanceState::Starting {} => "starting",
                InstanceState::Live {} => "live",
                InstanceState::Unhealthy {} => "unhealthy",
                InstanceState::Draining { .. } => "draining",
                InstanceState::Stopped { .. } => "stopped",
                InstanceState::Lost {} => "lost",
            };
            *instances.entry(state).or_default() += 1;
        }
        let waiting = world.open.values().filter(|one| one.deployment.agent.is_none());
        let freezes = world.locks.values().filter(|lock| lock.kind == LockKind::Freeze).count() as u64;
        Self {
            open,
            oldest_queued: waiting.map(|one| one.deployment.requested_at).min(),
            overdue: decide::overdue(world, config, now),
            instances,
            sandboxes: world.sandboxes.len() as u64,
            pinned: world.sandboxes.values().filter(|sandbox| sandbox.pinned).count() as u64,
            locks: world.locks.len() as u64 - freezes,
            freezes,
            agents: world.agents.values().map(|agent| agent.view(world)).collect(),
        }
    }
}
