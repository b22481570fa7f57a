//! How much builds may take of the machine, and how much of the disk is to stay free: `[build.limits]` and `[disk]`.
//!
//! Called by `file`; what is made of it is done by [`crate::exec`] and [`crate::disk`].

use serde::Deserialize;

use super::ConfigError;
use super::file::{bytes, invalid};

/// What one build may take. Kept by control groups, where the machine lets the agent make them; the preflight says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildLimits {
    /// Whether the agent looks for control groups. Programs that hold an agent of their own leave it off: it may have to move
    /// the whole process into a group.
    pub enforce: bool,
    /// Processes and threads at once.
    pub pids: u32,
    /// Memory in MiB; there is no swap beyond it.
    pub memory_mib: u32,
    /// Processor time in thousandths of a core; none: as much as others leave.
    pub cpu_millis: Option<u32>,
}

impl Default for BuildLimits {
    fn default() -> Self {
        Self { enforce: false, pids: 512, memory_mib: 2048, cpu_millis: None }
    }
}

/// When the agent makes room in its folder. Below [`Config::min_free`](super::Config::min_free) it takes no new work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskConfig {
    /// With fewer free bytes than this, what was used least recently is removed …
    pub low: u64,
    /// … until so many are free.
    pub target: u64,
}

impl DiskConfig {
    /// What fits that floor: four times it, and six times.
    #[must_use]
    pub fn above(floor: u64) -> Self {
        Self { low: floor.saturating_mul(4), target: floor.saturating_mul(6) }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct LimitsSection {
    enforce: Option<bool>,
    pids: Option<u32>,
    memory_mib: Option<u32>,
    cpu_millis: Option<u32>,
}

impl LimitsSection {
    pub(super) fn limits(&self) -> Result<BuildLimits, ConfigError> {
        let defaults = BuildLimits::default();
        let within = |key: &str, value: u32, least: u32, most: u32| {
            let range = least..=most;
            let wrong = || invalid(format!("build.limits.{key}"), format!("{least} to {most}"));
            range.contains(&value).then_some(value).ok_or_else(wrong)
        };
        Ok(BuildLimits {
            enforce: self.enforce.unwrap_or(true),
            pids: within("pids", self.pids.unwrap_or(defaults.pids), 10, 100_000)?,
            memory_mib: within("memory_mib", self.memory_mib.unwrap_or(defaults.memory_mib), 16, 1_048_576)?,
            cpu_millis: self
                .cpu_millis
                .map(|millis| within("cpu_millis", millis, 10, 1_024_000))
                .transpose()?,
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct DiskSection {
    low_mib: Option<u64>,
    target_mib: Option<u64>,
}

impl DiskSection {
    pub(super) fn config(&self, floor: u64) -> Result<DiskConfig, ConfigError> {
        let usual = DiskConfig::above(floor);
        let low = self.low_mib.map_or(Ok(usual.low), |mib| bytes("disk.low_mib", mib))?;
        let target = match self.target_mib {
            Some(mib) => bytes("disk.target_mib", mib)?,
            None => usual.target.max(low),
        };
        if low < floor {
            return Err(invalid(
                "disk.low_mib",
                "less than min_free_mib: room is made before work is refused",
            ));
        }
        if target < low {
            return Err(invalid("disk.target_mib", "less than disk.low_mib"));
        }
        Ok(DiskConfig { low, target })
    }
}
