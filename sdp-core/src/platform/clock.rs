//! Time for deadlines.

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// A deadline that is farther away is looked at again after this.
const FAR: Duration = Duration::from_secs(24 * 3600);

/// Time that never jumps: the wall clock when it was started, and the monotonic clock since.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Timestamp,
    since: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { start: Timestamp::now(), since: Instant::now() }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.start.checked_add(self.since.elapsed()).unwrap_or(Timestamp::MAX)
    }

    pub(super) fn instant(&self, at: Timestamp) -> Instant {
        let wait = Duration::try_from(at.duration_since(self.now())).unwrap_or_default();
        Instant::now() + wait.min(FAR)
    }
}
