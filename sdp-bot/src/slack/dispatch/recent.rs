//! What came a moment ago, so that it is done once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How many are remembered; the oldest give way.
const MAX_KNOWN: usize = 20_000;

#[derive(Debug, Default)]
pub(super) struct Recent {
    until: Mutex<HashMap<String, Instant>>,
}

impl Recent {
    /// Whether it did not come before; from now on it has, for so long.
    pub(super) fn is_new(&self, key: &str, known_for: Duration) -> bool {
        self.is_new_at(key, known_for, Instant::now())
    }

    /// It did not come after all.
    pub(super) fn forget(&self, key: &str) {
        self.until.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    fn is_new_at(&self, key: &str, known_for: Duration, now: Instant) -> bool {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if until.get(key).is_some_and(|until| *until > now) {
            return false;
        }
        if until.len() >= MAX_KNOWN {
            until.retain(|_, until| *until > now);
        }
        if until.len() >= MAX_KNOWN
            && let Some(first) = until.iter().min_by_key(|(_, until)| **until).map(|(key, _)| key.clone())
        {
            until.remove(&first);
        }
        until.insert(key.to_owned(), now + known_for);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_is_known_for_a_while_and_the_first_give_way() {
        let recent = Recent::default();
        let (now, minute) = (Instant::now(), Duration::from_secs(60));
        assert!(recent.is_new_at("a", minute, now) && recent.is_new_at("b", minute, now));
        assert!(!recent.is_new_at("a", minute, now + minute - Duration::from_millis(1)));
        assert!(recent.is_new_at("a", minute, now + minute));
        for n in 0..MAX_KNOWN {
            assert!(recent.is_new_at(&n.to_string(), minute, now + minute + Duration::from_millis(1)));
        }
        assert!(recent.is_new_at("a", minute, now + minute + Duration::from_millis(2)));
        assert!(!recent.is_new_at(
            &(MAX_KNOWN - 1).to_string(),
            minute,
            now + minute + Duration::from_millis(2)
        ));
    }
}
