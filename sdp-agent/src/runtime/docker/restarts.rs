//! How often an instance was started again, also after the engine, which counts anew after its own restart, has forgotten. The
//! engine gives up after 3 restarts that it counts; an end of the engine or of the machine is none of these.
//!
//! Called by `watch`. Kept in the instance's folder, so that an agent that comes back goes on counting: a server takes a restart
//! for news only if there are more than before.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use jiff::Timestamp;
use sdp_core::wire::{Exit, RestartCause};
use serde::{Deserialize, Serialize};

/// Its name in the instance's folder.
const FILE: &str = "restarts";
/// The longest that is read, in bytes.
const LONGEST: u64 = 1024;

/// Restarts of an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Restarts {
    /// Those that the engine does not count any more.
    before: u32,
    /// Those that it counted when it was asked the last time.
    counted: u32,
    /// Those with the engine or the machine, which it does not count.
    with_engine: u32,
    /// Whether the last was one of these.
    engine_last: bool,
    /// Whether that was because its sandbox was renewed.
    renewed_last: bool,
    /// It is being started again for that reason.
    renewed: bool,
    /// It went down with the engine or the machine, and does not run again yet.
    down: bool,
    /// When its present run began, by the engine's clock.
    run: Option<Timestamp>,
}

impl Restarts {
    /// How many there were in all.
    pub(super) fn total(&self) -> u32 {
        self.before.saturating_add(self.counted).saturating_add(self.with_engine)
    }

    /// Why it was started again the last time; `exit` is how it ended by itself.
    pub(super) fn cause(&self, exit: Option<Exit>) -> Option<RestartCause> {
        match (self.total(), self.engine_last) {
            (0, _) => None,
            (_, true) if self.renewed_last => Some(RestartCause::SandboxRenewed {}),
            (_, true) => Some(RestartCause::EngineRestarted {}),
            (_, false) => Some(RestartCause::Exited { exit: exit.unwrap_or_default() }),
        }
    }

    /// Takes what the engine says of a container that runs: how often it started it again, and when this run began. `blind`: what
    /// happened before was not seen, so that another run than the known one, of which the engine does not say that it ended by
    /// itself, is the engine's or the machine's restart. Whether it is another run.
    pub(super) fn see(&mut self, count: u32, run: Option<Timestamp>, blind: bool) -> bool {
        if count < self.counted {
            self.begin_again();
        }
        let ended_by_itself = count > self.counted;
        self.counted = count;
        let another = run.is_some() && run != self.run;
        if ended_by_itself {
            self.engine_last = false;
        } else if another && (self.down || blind && self.run.is_some()) {
            self.with_engine = self.with_engine.saturating_add(1);
            self.engine_last = true;
            self.renewed_last = self.renewed;
        }
        if another {
            self.run = run;
            (self.down, self.renewed) = (false, false);
        }
        another
    }

    /// It went down with the engine or the machine and is started by us, so that the engine counts from 0 again.
    pub(super) fn went_down(&mut self, count: u32) {
        self.see(count, None, false);
        self.begin_again();
        self.down = true;
    }

    /// It was suspended, and is started by us.
    pub(super) fn woken(&mut self, count: u32) {
        self.went_down(count);
        self.renewed = true;
    }

    /// The engine counts from 0 again.
    fn begin_again(&mut self) {
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

    /// What the engine counts, and the second in which the run began, each with whether it was seen: how often in all.
    fn totals(restarts: &mut Restarts, seen: &[(u32, i64, bool)]) -> Vec<u32> {
        let total = |(count, second, blind): &(u32, i64, bool)| {
            restarts.see(*count, Some(Timestamp::from_second(*second).unwrap()), *blind);
            restarts.total()
        };
        seen.iter().map(total).collect()
    }

    #[test]
    fn restarts_only_become_more_although_the_engine_counts_anew() {
        let folder = tempfile::tempdir().unwrap();
        let mut restarts = Restarts::read(folder.path());
        assert_eq!(restarts.cause(None), None);
        let crashes = [(0, 1, true), (1, 2, false), (1, 2, true), (2, 3, false)];
        assert_eq!(totals(&mut restarts, &crashes), [0, 1, 1, 2]);
        assert_eq!(restarts.cause(None), Some(RestartCause::Exited { exit: Exit::default() }));
        restarts.write(folder.path()).unwrap();
        // Another agent, and meanwhile the machine was restarted; then it crashes again.
        let mut restarts = Restarts::read(folder.path());
        assert_eq!(totals(&mut restarts, &[(0, 4, true), (0, 4, true)]), [3, 3]);
        assert_eq!(restarts.cause(Some(Exit::default())), Some(RestartCause::EngineRestarted {}));
        assert_eq!(totals(&mut restarts, &[(1, 5, false), (2, 6, true)]), [4, 5]);
        assert!(matches!(restarts.cause(None), Some(RestartCause::Exited { .. })));
        // It was down, and we start it.
        restarts.went_down(3);
        assert_eq!(restarts.total(), 6);
        assert_eq!(totals(&mut restarts, &[(0, 7, false), (0, 7, false), (0, 7, true)]), [7, 7, 7]);
        assert_eq!(restarts.cause(None), Some(RestartCause::EngineRestarted {}));
        // By hand, while somebody looks: nothing that anybody need hear.
        assert_eq!(totals(&mut restarts, &[(0, 8, false)]), [7]);
        // Suspended and woken.
        restarts.woken(0);
        assert_eq!(totals(&mut restarts, &[(0, 9, false), (0, 9, true)]), [8, 8]);
        assert_eq!(restarts.cause(None), Some(RestartCause::SandboxRenewed {}));
        restarts.went_down(0);
        assert_eq!(totals(&mut restarts, &[(0, 10, false)]), [9]);
        assert_eq!(restarts.cause(None), Some(RestartCause::EngineRestarted {}));
        fs::write(folder.path().join(FILE), "torn").unwrap();
        assert_eq!(Restarts::read(folder.path()), Restarts::default());
        fs::write(folder.path().join(FILE), r#"{"before":1,"counted":2}"#).unwrap();
        let mut older = Restarts::read(folder.path());
        assert_eq!(totals(&mut older, &[(2, 9, true)]), [3], "an older agent knew no runs");
    }
}
