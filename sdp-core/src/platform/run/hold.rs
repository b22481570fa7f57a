//! A turn that the store does not take yet, because the disk is full or read-only, or the file is away for a moment.
//!
//! It is held and tried again each [`STORE_PAUSE`] until it is stored: nothing of it is lost, and nothing is said to anybody
//! before it is. Meanwhile connections stay as they are, so agents work on and keep what is not acknowledged:
//!
//! | what comes | becomes |
//! | --- | --- |
//! | commands, questions, hellos, followers | refused with the store's error |
//! | reports | kept for the next turn, up to [`HELD`] |
//! | questions about what is known | answered from memory, where the held turn has happened already |
//!
//! Above the limit the turn is given up: everybody is disconnected and says hello again to what the store has. The time of
//! a hold is nobody's fault: deadlines of deployments begin anew after it.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Run, STORE_PAUSE, Turn};
use crate::platform::input::{Input, Report};
use crate::store::{StoreError, Writes};

/// How many reports are kept while a turn is held.
const HELD: usize = 1024;

impl Run {
    /// Stores what a turn has changed; waits for as long as it may still become possible.
    ///
    /// # Errors
    /// When it never will, when too much waits, or when the platform is told to stop: nothing of the turn is stored.
    pub(super) async fn commit(&mut self, writes: Writes) -> Result<(), StoreError> {
        let writes = Arc::new(writes);
        let mut is_held = false;
        loop {
            let again = Arc::clone(&writes);
            let stored = self.store.write(move |db| again.save(db)).await;
            match stored {
                Err(error) if error.may_pass() && self.waiting.len() < HELD && !*self.stopping.borrow() => {
                    if !is_held {
                        tracing::error!(code = error.code(), %error, "a turn cannot be stored now; it is tried again until it can");
                    }
                    is_held = true;
                    self.storage.send_replace(Some(error.clone()));
                    self.pause(&error).await;
                }
                stored => {
                    if is_held {
                        self.storage.send_replace(None);
                        self.world.begin_deadlines_anew(self.clock.now());
                    }
                    if is_held && stored.is_ok() {
                        tracing::info!("the held turn is stored, and all goes on");
                    }
                    return stored;
                }
            }
        }
    }

    /// Takes what comes for a while.
    async fn pause(&mut self, error: &StoreError) {
        let until = Instant::now() + STORE_PAUSE;
        while self.waiting.len() < HELD {
            let input = tokio::select! {
                input = self.queue.recv() => input,
                () = tokio::time::sleep_until(until) => return,
            };
            match input {
                None | Some(Input::Stop) => {
                    self.stopping.send_replace(true);
                    return;
                }
                Some(Input::Command { answer, .. }) => drop(answer.send(Err(error.clone().into()))),
                Some(Input::Question { answer, .. }) => drop(answer.send(Err(error.clone().into()))),
                Some(Input::Hello { answer, .. }) => drop(answer.send(Err(error.clone().into()))),
                Some(Input::Follow { answer, .. }) => drop(answer.send(Err(error.clone().into()))),
                // All deadlines begin anew after the hold; it comes again each second.
                Some(Input::Report { report: Report::Stalled { .. }, .. }) => {}
                Some(input @ (Input::Report { .. } | Input::Gone { .. } | Input::Disconnect { .. })) => {
                    self.waiting.push_back(input);
                }
                // These change nothing that is stored, and say nothing to an agent.
                Some(
                    input @ (Input::Read(_)
                    | Input::Serve { .. }
                    | Input::Answered { .. }
                    | Input::Assignment { .. }
                    | Input::Unfollow),
                ) => self.take(input, &mut Turn::default()),
            }
        }
    }
}
