//! The process itself, from `/proc`, under the names that all Prometheus libraries use. Elsewhere than on Linux: nothing.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Clock ticks in a second, as `/proc` counts them; Linux shows programs no other number.
const TICKS: f64 = 100.0;

#[derive(Debug, Default, PartialEq)]
pub(super) struct Process {
    cpu_seconds: Option<f64>,
    start_seconds: Option<f64>,
    resident: Option<f64>,
    threads: Option<f64>,
    open_files: Option<f64>,
    most_files: Option<f64>,
}

impl Process {
    pub(super) fn read() -> Self {
        let file = |name: &str| std::fs::read_to_string(format!("/proc/{name}")).unwrap_or_default();
        let open_files = std::fs::read_dir("/proc/self/fd").map(|files| files.count() as f64).ok();
        let texts = (file("self/stat"), file("self/status"), file("self/limits"), file("stat"));
        Self { open_files, ..Self::parse(&texts.0, &texts.1, &texts.2, &texts.3) }
    }

    fn parse(stat: &str, status: &str, limits: &str, system: &str) -> Self {
        // The name, in parentheses, may hold anything.
        let fields: Vec<&str> =
            stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let line = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<f64>().ok()
        };
        let booted = line(system, "btime ");
        Self {
            cpu_seconds: field(14).zip(field(15)).map(|(user, system)| (user + system) / TICKS),
            start_seconds: booted.zip(field(22)).map(|(booted, ticks)| booted + ticks / TICKS),
            resident: line(status, "VmRSS:").map(|kib| kib * 1024.0),
            threads: line(status, "Threads:"),
            open_files: None,
            most_files: line(limits, "Max open files "),
        }
    }

    /// Puts it into a registry whose prefix is `process`: dashboards and alerts that everybody has look for that.
    pub(super) fn register(self, registry: &mut Registry) {
        let mut level = |name: &str, help: &str, unit: Option<Unit>, value: Option<f64>| {
            let Some(value) = value else { return };
            let gauge = Gauge::<f64, AtomicU64>::default();
            gauge.set(value);
            match unit {
                Some(unit) => registry.register_with_unit(name, help, unit, gauge),
                None => registry.register(name, help, gauge),
            }
        };
        level("start_time", "When the process began, since 1970", Some(Unit::Seconds), self.start_seconds);
        level("resident_memory", "Resident memory", Some(Unit::Bytes), self.resident);
        level("threads", "Threads", None, self.threads);
        level("open_fds", "Open file descriptors", None, self.open_files);
        level("max_fds", "How many file descriptors may be open", None, self.most_files);
        if let Some(seconds) = self.cpu_seconds {
            let counter = Counter::<f64, AtomicU64>::default();
            counter.inc_by(seconds);
            registry.register_with_unit("cpu", "User and system time", Unit::Seconds, counter);
        }
    }
}
