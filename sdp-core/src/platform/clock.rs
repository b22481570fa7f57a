//! Time for deadlines.

use std::time::{Duration, Instant};

use jiff::Timestamp;

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
        let wait = at.duration_since(self.start).unsigned_abs();
        if at <= self.start { self.since } else { self.since + wait.min(Duration::from_secs(30 * 24 * 3600)) }
    }
}
