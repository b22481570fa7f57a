//! How fast Slack lets one speak. Pure: what the time is comes in.
//!
//! Slack counts calls of each method; posts it counts for each channel, too. A [`Pace`] is asked before a call and told of it: it
//! lets a few go at once and then one each interval, and rests for as long as a 429 says.

use std::time::Duration;

use tokio::time::Instant;

/// Slack's rates, with a little left free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Between two posts to one channel, once [`Rates::POST_BURST`] went at once. Slack: about one a second.
    pub post_every: Duration,
    /// Between two posts to all channels. Slack: some hundred a minute.
    pub all_posts_every: Duration,
    /// Between two edits of any messages, once [`Rates::EDIT_BURST`] went at once. Slack: 50 a minute (tier 3).
    pub edit_every: Duration,
}

impl Rates {
    /// So many posts may go to a channel at once.
    pub const POST_BURST: u32 = 2;
    /// So many posts may go at once in all.
    pub const ALL_POSTS_BURST: u32 = 20;
    /// So many edits may go at once.
    pub const EDIT_BURST: u32 = 8;
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            post_every: Duration::from_secs(1),
            all_posts_every: Duration::from_millis(300),
            edit_every: Duration::from_millis(1500),
        }
    }
}

/// When the next call may go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    every: Duration,
    burst: u32,
    /// When the calls so far would have been made one each interval.
    paid: Instant,
    rests_until: Instant,
}

impl Pace {
    pub(super) fn new(every: Duration, burst: u32, now: Instant) -> Self {
        Self { every, burst, paid: now, rests_until: now }
    }

    /// The next call may go then, or later.
    pub(super) fn next(&self) -> Instant {
        let ahead = self.every * self.burst.saturating_sub(1);
        self.paid.checked_sub(ahead).map_or(self.rests_until, |at| at.max(self.rests_until))
    }

    pub(super) fn may(&self, now: Instant) -> bool {
        now >= self.next()
    }

    /// A call goes now.
    pub(super) fn took(&mut self, now: Instant) {
        self.paid = self.paid.max(now) + self.every;
    }

    /// No call may go for as long.
    pub(super) fn rest(&mut self, now: Instant, length: Duration) {
        self.rests_until = self.rests_until.max(now + length);
    }

    /// Whether it is as if nothing had been called.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        self.paid <= now && self.rests_until <= now
    }
}

/// How long to wait before the next try.
pub(super) fn pause(tried: u32) -> Duration {
    Duration::from_secs(1 << tried.min(5)).min(Duration::from_secs(30))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls as early as they may go: when each went, in milliseconds.
    fn calls(pace: &mut Pace, begin: Instant, count: usize) -> Vec<u128> {
        let mut now = begin;
        (0..count)
            .map(|_| {
                now = now.max(pace.next());
                assert!(pace.may(now));
                pace.took(now);
                (now - begin).as_millis()
            })
            .collect()
    }

    #[test]
    fn a_few_go_at_once_then_one_each_interval_and_never_too_many_in_a_minute() {
        let now = Instant::now();
        let mut posts = Pace::new(Duration::from_secs(1), 2, now);
        assert_eq!(calls(&mut posts, now, 5), [0, 0, 1000, 2000, 3000]);
        let rates = Rates::default();
        let mut edits = Pace::new(rates.edit_every, Rates::EDIT_BURST, now);
        let at = calls(&mut edits, now, 300);
        for from in &at {
            let in_a_minute = at.iter().filter(|at| *at >= from && **at < from + 60_000).count();
            assert!(in_a_minute <= 50, "{in_a_minute}");
        }
    }

    #[test]
    fn it_rests_for_as_long_as_it_is_told() {
        let now = Instant::now();
        let mut pace = Pace::new(Duration::from_secs(1), 2, now);
        pace.rest(now, Duration::from_secs(30));
        pace.rest(now, Duration::from_secs(3));
        assert!(!pace.may(now + Duration::from_secs(29)) && !pace.is_fresh(now));
        assert!(pace.may(now + Duration::from_secs(30)) && pace.is_fresh(now + Duration::from_secs(30)));
    }
}
