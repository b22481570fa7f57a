//! How often an instance was started again, also after the engine, which counts anew after its own restart, has forgotten.
//!
//! Called by `watch`. Kept in the instance's folder, so that an agent that comes back goes on counting: a server takes a restart
//! for news only if there are more than before.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Its name in the instance's folder.
const FILE: &str = "restarts";
/// The longest that is read, in bytes.
const LONGEST: u64 = 1024;

/// Restarts of an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Restarts {
    /// Those that the engine does not count any more.
    before: u32,
    /// Those that it counted when it was asked the last time.
    counted: u32,
}

impl Restarts {
    /// Takes the engine's number; how many there were in all.
    pub(super) fn count(&mut self, now: u32) -> u32 {
        if now < self.counted {
            self.begin_again();
        }
        self.counted = now;
        self.before.saturating_add(now)
    }

    /// The engine counts from 0 again.
    pub(super) fn begin_again(&mut self) {
        self.before = self.before.saturating_add(self.counted);
        self.counted = 0;
    }

    /// What was kept; none where nothing was, or not by us. Blocking.
    pub(super) fn read(folder: &Path) -> Self {
        let mut text = String::new();
        let read =
            fs::File::open(folder.join(FILE)).and_then(|file| file.take(LONGEST).read_to_string(&mut text));
        read.ok().and_then(|_| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    /// Keeps it. Blocking.
    pub(super) fn write(self, folder: &Path) -> io::Result<()> {
        let unfinished = folder.join("restarts.new");
        fs::write(&unfinished, serde_json::to_vec(&self)?)?;
        fs::rename(&unfinished, folder.join(FILE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_only_become_more_although_the_engine_counts_anew() {
        let folder = tempfile::tempdir().unwrap();
        let mut restarts = Restarts::read(folder.path());
        assert_eq!([0, 1, 2].map(|now| restarts.count(now)), [0, 1, 2]);
        restarts.write(folder.path()).unwrap();
        // Another agent, and meanwhile the machine was restarted.
        let mut restarts = Restarts::read(folder.path());
        assert_eq!([0, 0, 1].map(|now| restarts.count(now)), [2, 2, 3]);
        restarts.begin_again();
        assert_eq!([0, 1].map(|now| restarts.count(now)), [3, 4]);
        fs::write(folder.path().join(FILE), "torn").unwrap();
        assert_eq!(Restarts::read(folder.path()), Restarts::default());
    }
}
