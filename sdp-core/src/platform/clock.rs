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

#[cfg(test)]
mod tests {
    use super::*;

    /// As a process sees it whose machine's clock was set an hour on or back after it started.
    #[test]
    fn a_step_of_the_wall_clock_moves_no_deadline() {
        for step in [Duration::ZERO, Duration::from_secs(3600)] {
            for start in [Timestamp::now() - step, Timestamp::now() + step] {
                let clock = Clock { start, since: Instant::now() };
                let before = clock.now();
                let deadline = before.checked_add(Duration::from_secs(60)).expect("in range");
                let wait = clock.instant(deadline).duration_since(Instant::now());
                assert!((50..=60).contains(&wait.as_secs()), "{wait:?}");
                assert!(clock.now() >= before, "it never runs backwards");
                assert!(clock.now().duration_since(start).as_secs() < 60, "it goes on from its start");
            }
        }
        let clock = Clock::start();
        let far = clock.instant(Timestamp::MAX).duration_since(Instant::now());
        assert!(far <= FAR, "looked at again in time");
        assert!(clock.instant(Timestamp::MIN) <= Instant::now(), "what is over is over");
    }
}
