//! How often Slack lets an app ask, and when it was asked more often. Pure.
//!
//! Posting: one a second for a channel, averaged over any ten seconds, and three more in a burst; 300 a minute in the workspace.
//! Other methods have tiers: so many in any minute.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
/// Over which time posts to a channel are averaged.
const WINDOW: Duration = Duration::from_secs(10);
/// How many posts to a channel fit into it: one a second and a burst.
const POSTS_IN_WINDOW: usize = 13;

/// The bot asked more often than Slack allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// The method, and the channel where it counts by channel.
    pub(crate) what: String,
    pub(crate) count: usize,
    pub(crate) allowed: usize,
    pub(crate) window: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Limits {
    taken: HashMap<String, VecDeque<Duration>>,
    pub(super) violations: Vec<Violation>,
    /// Refuse what is too much (429) instead of only counting it.
    pub(super) enforced: bool,
}

impl Limits {
    /// Takes a request, or says after how many seconds it may come again.
    pub(super) fn take(&mut self, method: &str, channel: &str, now: Duration) -> Result<(), u64> {
        let rules = rules(method, channel);
        for (what, window, allowed) in &rules {
            let taken = self.taken.entry(what.clone()).or_default();
            while taken.front().is_some_and(|&first| first + *window <= now) {
                taken.pop_front();
            }
            let count = taken.len() + 1;
            if count <= *allowed {
                continue;
            }
            if self.enforced {
                let free = taken.front().map_or(*window, |&first| (first + *window).saturating_sub(now));
                return Err((free.as_millis().div_ceil(1000) as u64).max(1));
            }
            let (what, window, allowed) = (what.clone(), *window, *allowed);
            self.violations.push(Violation { what, count, allowed, window });
        }
        for (what, ..) in rules {
            self.taken.entry(what).or_default().push_back(now);
        }
        Ok(())
    }
}

/// What counts, over which time, and how often it may be.
fn rules(method: &str, channel: &str) -> Vec<(String, Duration, usize)> {
    let in_a_minute = match method {
        "chat.postMessage" => {
            let channel = (format!("{method} {channel}"), WINDOW, POSTS_IN_WINDOW);
            return vec![channel, (method.to_owned(), MINUTE, 300)];
        }
        "chat.update"
        | "conversations.history"
        | "conversations.replies"
        | "conversations.info"
        | "conversations.open" => 50,
        "views.open" | "views.update" | "views.publish" | "views.push" | "users.info"
        | "chat.postEphemeral" => 100,
        _ => return Vec::new(),
    };
    vec![(method.to_owned(), MINUTE, in_a_minute)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn posts(limits: &mut Limits, channel: &str, every: Duration, count: u32) -> usize {
        for index in 0..count {
            limits.take("chat.postMessage", channel, Duration::from_secs(1000) + every * index).ok();
        }
        limits.violations.len()
    }

    #[test]
    fn a_channel_takes_one_post_a_second_and_a_burst() {
        for (every, count, expected) in [(1000, 200, 0), (0, 13, 0), (0, 15, 2), (700, 13, 0), (700, 60, 47)]
        {
            let every = Duration::from_millis(every);
            assert_eq!(
                posts(&mut Limits::default(), "C1", every, count),
                expected,
                "{count} every {every:?}"
            );
        }
    }

    #[test]
    fn channels_count_apart_and_together() {
        let mut limits = Limits::default();
        for channel in 0..25 {
            posts(&mut limits, &format!("C{channel}"), Duration::from_millis(1), 13);
        }
        assert_eq!(limits.violations.len(), 25, "325 posts in a minute are 25 too many");
        assert_eq!(limits.violations[0].what, "chat.postMessage");
    }

    #[test]
    fn what_is_refused_does_not_count_and_is_taken_when_it_comes_as_told() {
        let mut limits = Limits { enforced: true, ..Limits::default() };
        let at = |tenths: u64| Duration::from_millis(100 * tenths);
        for index in 0..50 {
            assert_eq!(limits.take("chat.update", "C1", at(index)), Ok(()));
        }
        assert_eq!(limits.take("chat.update", "C2", at(55)), Err(55));
        assert_eq!(limits.take("chat.update", "C2", at(605)), Ok(()));
        assert_eq!(limits.violations, []);
    }
}
