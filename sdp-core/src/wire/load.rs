//! How an agent stands at the moment: a level, said after each welcome and when it changes noticeably.
//!
//! Made by the agent; kept by the platform in memory, shown with the agent and read by whoever watches over SDP.

use serde::{Deserialize, Serialize};

/// What an agent holds and has room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Load {
    /// Jobs whose work is not over.
    pub running: u32,
    /// Jobs whose log the server does not have whole yet, those at work included.
    pub spool_jobs: u32,
    /// Bytes that the spool keeps for them.
    pub spool_bytes: u64,
    /// Free bytes on the disk with the agent's data folder; none: it cannot tell.
    pub disk_free: Option<u64>,
    /// All bytes of that disk.
    pub disk_total: Option<u64>,
}

impl Load {
    /// Whether the difference is worth a word: another number of jobs, or a size that has changed by a sixteenth of what
    /// it was (of the whole disk, for what is free) and by more than a MiB.
    #[must_use]
    pub fn differs_noticeably(&self, from: &Self) -> bool {
        let size = |now: u64, was: u64, whole: u64| now.abs_diff(was) > (whole / 16).max(1 << 20);
        let disk = match (self.disk_free, from.disk_free) {
            (Some(now), Some(was)) => size(now, was, self.disk_total.unwrap_or(was)),
            (now, was) => now.is_some() != was.is_some(),
        };
        let emptied = (self.spool_bytes == 0) != (from.spool_bytes == 0);
        self.running != from.running
            || self.spool_jobs != from.spool_jobs
            || emptied
            || size(self.spool_bytes, from.spool_bytes, from.spool_bytes)
            || disk
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_changes_of_a_size_are_not_worth_a_word() {
        let was = Load {
            running: 1,
            spool_jobs: 2,
            spool_bytes: 64 << 20,
            disk_free: Some(40 << 30),
            disk_total: Some(80 << 30),
        };
        let same = |now: Load| !now.differs_noticeably(&was);
        assert!(same(was));
        assert!(same(Load { spool_bytes: 67 << 20, ..was }));
        assert!(same(Load { disk_free: Some(36 << 30), ..was }));
        assert!(!same(Load { running: 2, ..was }));
        assert!(!same(Load { spool_jobs: 1, ..was }));
        assert!(!same(Load { spool_bytes: 69 << 20, ..was }));
        assert!(!same(Load { spool_bytes: 0, ..was }));
        assert!(!same(Load { disk_free: Some(34 << 30), ..was }));
        assert!(!same(Load { disk_free: None, ..was }));
        let idle = Load::default();
        assert!(!Load { spool_bytes: 1 << 10, ..idle }.differs_noticeably(&Load { spool_bytes: 9, ..idle }));
    }
}
