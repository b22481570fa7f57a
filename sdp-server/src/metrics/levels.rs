//! What is so at the moment, read when Prometheus asks. Made anew each time, so that nothing is shown of what is gone.

use std::sync::atomic::AtomicU64;

use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use sdp_core::api::AgentView;
use sdp_core::platform::PlatformStats;

use super::AgentLabels;
use super::process::Process;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

/// What the server itself knows beside the platform.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Edge {
    pub(crate) connections: usize,
    pub(crate) agent_sockets: usize,
    /// None: the database cannot be read.
    pub(crate) sessions: Option<u64>,
    pub(crate) disk_floor: u64,
}

/// A level of anything; 53 bits are enough for bytes of disks.
type Level = Gauge<f64, AtomicU64>;

struct Levels<'a>(&'a mut Registry);

impl Levels<'_> {
    fn one(&mut self, name: &str, help: &str, value: impl Into<Option<f64>>) {
        if let Some(value) = value.into() {
            let level = Level::default();
            level.set(value);
            self.0.register(name, help, level);
        }
    }

    fn bytes(&mut self, name: &str, help: &str, value: impl Into<Option<u64>>) {
        if let Some(value) = value.into() {
            let level = Level::default();
            level.set(float(value));
            self.0.register_with_unit(name, help, Unit::Bytes, level);
        }
    }

    fn count(&mut self, name: &str, unit: Option<Unit>, help: &str, value: u64) {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        match unit {
            Some(unit) => self.0.register_with_unit(name, help, unit, counter),
            None => self.0.register(name, help, counter),
        }
    }

    fn by_state<'a>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (&'a &'static str, &'a u64)>,
    ) {
        let family = Family::<StateLabels, Level>::default();
        for (state, value) in values {
            family.get_or_create(&StateLabels { state }).set(float(*value));
        }
        self.0.register(name, help, family);
    }

    fn by_agent(
        &mut self,
        (name, unit, help): (&str, Option<Unit>, &str),
        agents: &[AgentView],
        value: impl Fn(&AgentView) -> Option<f64>,
    ) {
        let family = Family::<AgentLabels, Level>::default();
        for agent in agents {
            if let Some(value) = value(agent) {
                family.get_or_create(&AgentLabels::of(&agent.name)).set(value);
            }
        }
        match unit {
            Some(unit) => self.0.register_with_unit(name, help, unit, family),
            None => self.0.register(name, help, family),
        }
    }
}

fn float(value: u64) -> f64 {
    value as f64
}

/// All levels as a registry of their own.
pub(crate) fn levels(stats: &PlatformStats, edge: Edge, now: Timestamp) -> Registry {
    let mut registry = Registry::default();
    let mut levels = Levels(registry.sub_registry_with_prefix("sdp"));
    levels.0.register("build", "The version that runs", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
    levels.count("events", None, "Events stored since the database was made", stats.newest_event.0);
    deployments(&mut levels, stats, now);
    sandboxes(&mut levels, stats);
    agents(&mut levels, &stats.agents);
    data(&mut levels, stats, edge);
    levels.one("connections", "HTTP connections and viewers' sockets", float(edge.connections as u64));
    levels.one(
        "agent_sockets",
        "Sockets of agents, those included that have not said hello",
        float(edge.agent_sockets as u64),
    );
    levels.one("sessions", "Browser sessions that hold", edge.sessions.map(float));
    Process::read().register(registry.sub_registry_with_prefix("process"));
    registry
}

fn deployments(levels: &mut Levels<'_>, stats: &PlatformStats, now: Timestamp) {
    levels.by_state(
        "deployments_open",
        "Deployments that have not ended: queued, sent but not begun, or the step they are in",
        &stats.open,
    );
    let waited = stats.oldest_queued.map_or(0.0, |since| now.duration_since(since).as_secs_f64().max(0.0));
    let level = Level::default();
    level.set(waited);
    let help = "How long the deployment that waits longest has waited for its turn; 0: none waits";
    levels.0.register_with_unit("deployments_oldest_queued", help, Unit::Seconds, level);
    levels.one(
        "deployments_overdue",
        "Open deployments that should have gone on or ended by the server's own rules; anything but 0 is a fault",
        float(stats.overdue),
    );
    levels.by_state(
        "instances",
        "Instances; of those that are over only such as their requests are still refused for",
        &stats.instances,
    );
}

fn sandboxes(levels: &mut Levels<'_>, stats: &PlatformStats) {
    levels.one("sandboxes", "Sandboxes", float(stats.sandboxes));
    levels.one(
        "sandboxes_pinned",
        "Sandboxes that are kept until somebody deletes them",
        float(stats.pinned),
    );
    levels.one("locks", "Locks that hold", float(stats.locks));
    levels.one("freezes", "Freezes that hold: nobody deploys there", float(stats.freezes));
}

fn agents(levels: &mut Levels<'_>, agents: &[AgentView]) {
    let flag = |is: bool| Some(f64::from(u8::from(is)));
    let jobs = |count: u32| Some(f64::from(count));
    levels.by_agent(("agent_connected", None, "1: the agent is connected; 0: it is away"), agents, |agent| {
        flag(agent.connected)
    });
    levels.by_agent(
        ("agent_changed_timestamp", Some(Unit::Seconds), "When the agent connected or went away"),
        agents,
        |agent| Some(agent.since.as_duration().as_secs_f64()),
    );
    levels.by_agent(
        ("agent_degraded", None, "1: the agent is connected but takes no work"),
        agents,
        |agent| flag(agent.degraded.is_some()),
    );
    levels.by_agent(
        ("agent_draining", None, "1: the agent is being drained and gets no new work"),
        agents,
        |agent| flag(agent.draining),
    );
    levels.by_agent(("agent_jobs_running", None, "Jobs that the agent does"), agents, |agent| {
        jobs(agent.running)
    });
    levels.by_agent(("agent_jobs_capacity", None, "Jobs that the agent does at once"), agents, |agent| {
        jobs(agent.capacity)
    });
    levels.by_agent(
        ("agent_deployments_queued", None, "Deployments that wait and that the agent could do"),
        agents,
        |agent| jobs(agent.queued),
    );
    levels.by_agent(
        ("agent_preflight_failed", None, "Things that the agent found wrong with its machine"),
        agents,
        |agent| Some(float(agent.preflight.iter().filter(|check| !check.ok).count() as u64)),
    );
    levels.by_agent(
        ("agent_spool_jobs", None, "Jobs whose log the server does not have whole yet"),
        agents,
        |agent| jobs(agent.load?.spool_jobs),
    );
    levels.by_agent(
        ("agent_spool", Some(Unit::Bytes), "Bytes that the agent keeps of logs until the server has them"),
        agents,
        |agent| Some(float(agent.load?.spool_bytes)),
    );
    levels.by_agent(
        ("agent_disk_free", Some(Unit::Bytes), "Free bytes on the disk with the agent's data folder"),
        agents,
        |agent| agent.load?.disk_free.map(float),
    );
    levels.by_agent(("agent_disk_size", Some(Unit::Bytes), "All bytes of that disk"), agents, |agent| {
        agent.load?.disk_total.map(float)
    });
}

fn data(levels: &mut Levels<'_>, stats: &PlatformStats, edge: Edge) {
    let logs = &stats.logs;
    levels.count("log_lines_stored", None, "Lines of job logs that were stored", logs.lines);
    levels.count("log_stored", Some(Unit::Bytes), "Bytes of job logs that were stored", logs.bytes);
    levels.one(
        "log_unsynced_lines",
        "Lines of job logs that are held but not known to be on disk, and so not acknowledged",
        float(logs.unsynced_lines),
    );
    levels.bytes("log_unsynced", "Bytes that wait for the next sync", logs.unsynced_bytes);
    levels.one("log_files_open", "Job logs with open files", float(logs.open));
    levels.bytes(
        "data_free",
        "Free bytes on the disk with the data folder",
        stats.disk.map(|disk| disk.free),
    );
    levels.bytes("data_size", "All bytes of that disk", stats.disk.map(|disk| disk.total));
    levels.bytes("data_floor", "Below so many free bytes new deployments are refused", edge.disk_floor);
    let files = stats.disk.filter(|disk| disk.total_files > 0);
    levels.one(
        "data_free_files",
        "Files that can still be made there",
        files.map(|disk| float(disk.free_files)),
    );
    levels.one("data_total_files", "How many files there can be", files.map(|disk| float(disk.total_files)));
    levels.bytes("database_size", "Bytes of the database", stats.database_bytes);
    levels.bytes("database_wal_size", "Bytes of its write-ahead log", stats.wal_bytes);
}
