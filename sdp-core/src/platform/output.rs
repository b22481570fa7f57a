//! What running instances print, on its way from their agents' connections to whoever looks.
//!
//! ```text
//!   follow_output ─▶ run: follow_output ─▶ agent
//!   OutputFollow ◀─ a queue of pieces ◀─ Followers ◀─ session: output, output_ended
//! ```
//! Called by [`Platform::follow_output`], by `session` (which never waits here) and by `run` (a connection has ended).
//! Nothing of it is stored. Whoever reads slowly loses lines, which are counted, and slows nobody: neither the agent's
//! connection, nor the instance, nor another reader. Dropping an [`OutputFollow`] tells the agent to stop.
//!
//! Limits: [`FOLLOWERS`] of one agent's instances, [`PIECES`] pieces wait for one reader, [`MOST_TAIL`] lines to begin with.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};

use super::input::Input;
use super::{Platform, PlatformError};
use crate::api::{OutputChunk, OutputEnd, OutputEndReason};
use crate::failure::Failure;
use crate::id::{CommandId, Epoch, InstanceId};
use crate::name::AgentName;
use crate::sandbox::Instance;
use crate::wire::{OutputLine, Stream};

/// How often the output of one agent's instances is followed at once.
const FOLLOWERS: usize = 64;
/// How many pieces may wait for one reader; an agent's frames have at most 64 KiB of text.
const PIECES: usize = 16;
/// The most lines that a follower begins with.
const MOST_TAIL: u32 = 10_000;

/// Everybody who follows the output of an instance.
#[derive(Debug, Default)]
pub(super) struct Followers {
    all: Mutex<HashMap<CommandId, Follower>>,
    /// Who has gone, and whose agent is not told yet; no more than there were followers.
    left: Mutex<Vec<(AgentName, CommandId)>>,
}

#[derive(Debug)]
struct Follower {
    agent: AgentName,
    /// The connection over which it was asked for; none: not asked for yet.
    epoch: Option<Epoch>,
    to: mpsc::Sender<OutputChunk>,
    /// Lines that its queue had no room for.
    left_out: u64,
    end: Arc<Mutex<Option<LastWord>>>,
}

/// Why it has ended, and how many lines were left out at last.
#[derive(Debug)]
struct LastWord {
    left_out: u64,
    end: OutputEnd,
}

impl Followers {
    fn all(&self) -> MutexGuard<'_, HashMap<CommandId, Follower>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agents to be told that nobody looks any more, each with what it was asked.
    pub(super) fn take_left(&self) -> Vec<(AgentName, CommandId)> {
        std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn begin(
        &self,
        agent: &AgentName,
        inputs: mpsc::WeakSender<Input>,
        me: &Arc<Self>,
    ) -> Option<OutputFollow> {
        let mut all = self.all();
        if all.values().filter(|follower| follower.agent == *agent).count() >= FOLLOWERS {
            return None;
        }
        let (to, pieces) = mpsc::channel(PIECES);
        let (command, end) = (CommandId::new(), Arc::new(Mutex::new(None)));
        let follower = Follower { agent: agent.clone(), epoch: None, to, left_out: 0, end: end.clone() };
        all.insert(command, follower);
        drop(all);
        let upstream = Upstream { agent: agent.clone(), command, followers: me.clone(), inputs };
        Some(OutputFollow { pieces, end, upstream: Some(upstream) })
    }

    /// It is asked for over this connection; says whether anybody still looks.
    pub(super) fn sent(&self, command: CommandId, epoch: Epoch) -> bool {
        let mut all = self.all();
        let follower = all.get_mut(&command);
        follower.is_some_and(|follower| follower.epoch.replace(epoch).is_none())
    }

    /// Passes on what was printed; says whether anybody looks. Never waits.
    pub(super) fn printed(
        &self,
        agent: &AgentName,
        epoch: Epoch,
        command: CommandId,
        chunk: OutputChunk,
    ) -> bool {
        let mut all = self.all();
        let Some(follower) = all.get_mut(&command).filter(|f| f.is_of(agent, epoch)) else { return false };
        let left_out = follower.left_out + chunk.left_out;
        follower.left_out = match follower.to.try_send(OutputChunk { left_out, ..chunk }) {
            Ok(()) => 0,
            Err(error) => {
                let chunk = error.into_inner();
                chunk.left_out + chunk.lines.len() as u64
            }
        };
        true
    }

    /// The agent has nothing more to send.
    pub(super) fn ended(
        &self,
        agent: &AgentName,
        epoch: Epoch,
        command: CommandId,
        failure: Option<Failure>,
    ) {
        let mut all = self.all();
        if all.get(&command).is_some_and(|follower| follower.is_of(agent, epoch)) {
            let (reason, detail) = match failure {
                None => (OutputEndReason::Ended, None),
                Some(failure) => (OutputEndReason::Failed, Some(failure.detail)),
            };
            end(all.remove(&command), OutputEnd { reason, detail });
        }
    }

    /// An agent's connection has ended.
    pub(super) fn gone(&self, agent: &AgentName, epoch: Epoch) {
        let mut all = self.all();
        let detail = format!("the connection to {agent} was lost");
        for (_, follower) in all.extract_if(|_, follower| follower.is_of(agent, epoch)) {
            end(
                Some(follower),
                OutputEnd { reason: OutputEndReason::AgentAway, detail: Some(detail.clone()) },
            );
        }
    }

    /// The platform stops.
    pub(super) fn stop(&self) {
        for (_, follower) in self.all().drain() {
            end(Some(follower), OutputEnd { reason: OutputEndReason::Stopping, detail: None });
        }
    }
}

impl Follower {
    fn is_of(&self, agent: &AgentName, epoch: Epoch) -> bool {
        self.agent == *agent && self.epoch == Some(epoch)
    }
}

/// Leaves the last word; dropping the follower closes its queue, so that it is found behind what waits there.
fn end(follower: Option<Follower>, end: OutputEnd) {
    if let Some(Follower { left_out, end: slot, .. }) = follower {
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(LastWord { left_out, end });
    }
}

/// A piece of a followed output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Followed {
    /// It has printed something; a piece without lines says that it is being followed.
    Lines(OutputChunk),
    /// That was all.
    End(OutputEnd),
}

/// What an instance prints, as it comes; see [`Platform::follow_output`]. Dropping it ends the following.
#[derive(Debug)]
pub struct OutputFollow {
    pieces: mpsc::Receiver<OutputChunk>,
    end: Arc<Mutex<Option<LastWord>>>,
    /// None: the instance was over.
    upstream: Option<Upstream>,
}

#[derive(Debug)]
struct Upstream {
    agent: AgentName,
    command: CommandId,
    followers: Arc<Followers>,
    /// Weak: a reader does not keep the platform alive.
    inputs: mpsc::WeakSender<Input>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let follower = self.followers.all().remove(&self.command);
        // Its agent was asked, and has not ended it.
        let followed = follower.is_some_and(|follower| follower.epoch.is_some());
        if followed && let Some(inputs) = self.inputs.upgrade() {
            let left = &self.followers.left;
            left.lock().unwrap_or_else(PoisonError::into_inner).push((self.agent.clone(), self.command));
            // Only wakes the loop: where there is no room, a turn is to come anyway.
            inputs.try_send(Input::Unfollow).ok();
        }
    }
}

impl OutputFollow {
    /// The next piece; `None` after the end. Cancel-safe.
    pub async fn next(&mut self) -> Option<Followed> {
        if let Some(chunk) = self.pieces.recv().await {
            return Some(Followed::Lines(chunk));
        }
        let mut last = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let word = last.as_mut()?;
        let left_out = std::mem::take(&mut word.left_out);
        if left_out > 0 {
            return Some(Followed::Lines(OutputChunk { left_out, lines: Vec::new() }));
        }
        last.take().map(|word| Followed::End(word.end))
    }

    /// What is kept of one that is over.
    fn of_over(instance: Instance, tail: u32) -> Self {
        let at = instance.stopped_at.unwrap_or(instance.started_at);
        let skip = instance.last_lines.len().saturating_sub(usize::try_from(tail).unwrap_or(usize::MAX));
        let lines = instance.last_lines.into_iter().skip(skip);
        let lines = lines.map(|text| OutputLine { at, stream: Stream::Stdout, text }).collect();
        let (to, pieces) = mpsc::channel(1);
        to.try_send(OutputChunk { left_out: 0, lines }).ok();
        let end = OutputEnd { reason: OutputEndReason::Ended, detail: None };
        Self { pieces, end: Arc::new(Mutex::new(Some(LastWord { left_out: 0, end }))), upstream: None }
    }
}

impl Platform {
    /// Follows what an instance prints: its last `tail` lines (at most 10,000, as far as its agent has them), then more as it
    /// comes, until it has ended or its agent's connection has. Of one that is over: its last lines, all with the time at
    /// which it stopped.
    ///
    /// # Errors
    /// [`PlatformError::UnknownInstance`], [`PlatformError::AgentAway`], [`PlatformError::TooManyFollowers`].
    pub async fn follow_output(&self, id: InstanceId, tail: u32) -> Result<OutputFollow, PlatformError> {
        let instance = self.instance(id).await?;
        let tail = tail.min(MOST_TAIL);
        if instance.state.is_over() {
            return Ok(OutputFollow::of_over(instance, tail));
        }
        let (agent, followers) = (instance.agent, &self.inner.followers);
        let Some(follow) = followers.begin(&agent, self.inner.inputs.downgrade(), followers) else {
            return Err(PlatformError::TooManyFollowers { agent, limit: FOLLOWERS });
        };
        let Some(Upstream { command, .. }) = follow.upstream else { return Err(PlatformError::Stopping) };
        let (answer, answered) = oneshot::channel();
        self.input(Input::Follow { agent, instance: id, tail, command, answer }).await?;
        answered.await.map_err(|_| PlatformError::Stopping)??;
        Ok(follow)
    }
}
