//! How a job is told to stop: once, with a reason, from outside or inside.

use std::sync::OnceLock;

use tokio_util::sync::CancellationToken;

/// Why a job must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopWhy {
    /// The server said so.
    Cancelled,
    /// The agent goes away.
    AgentStops,
    /// What it says cannot be kept.
    DiskFull,
}

/// Set at most once; the first reason stays.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    token: CancellationToken,
    why: OnceLock<StopWhy>,
}

impl Stop {
    pub(crate) fn set(&self, why: StopWhy) {
        // A later reason does not matter: the job is stopping already.
        self.why.get_or_init(|| why);
        self.token.cancel();
    }

    pub(crate) fn is_set(&self) -> bool {
        self.token.is_cancelled()
    }

    pub(crate) fn why(&self) -> Option<StopWhy> {
        self.why.get().copied()
    }

    /// For what can be cancelled.
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.token
    }
}
