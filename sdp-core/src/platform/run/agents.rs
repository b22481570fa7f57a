//! Agents come and go: what the loop does with a hello, with the end of a connection, and with an agent that is thrown out.

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use super::{OUTBOX, Run, Turn};
use crate::event::{About, EventKind};
use crate::id::{Epoch, RouteVersion};
use crate::name::AgentName;
use crate::platform::PlatformError;
use crate::platform::decide::{self, Act};
use crate::platform::input::{Hello, Welcomed};
use crate::principal::Principal;
use crate::store::AgentRow;
use crate::wire::{ByeReason, ToAgent};

impl Run {
    pub(super) fn hello(
        &mut self,
        now: Timestamp,
        agent: AgentName,
        hello: Hello,
        answer: oneshot::Sender<Result<Welcomed, PlatformError>>,
        turn: &mut Turn,
    ) {
        // The hello of the newest connection wins: the older connection is told why it ends, if it still listens.
        if let Some((epoch, outbox)) = self.outboxes.get(&agent) {
            let bye = ToAgent::Bye { reason: ByeReason::Superseded, retry_after_ms: None };
            outbox.try_send(bye).ok();
            let epoch = *epoch;
            self.gone(&agent, epoch, turn);
        }
        // What this turn had to say to the older connection is decided anew for this one.
        turn.sends.retain(|(to, _)| *to != agent);
        let epoch = self.world.next_epoch(&agent);
        if self.world.boot_of(&agent).is_some_and(|boot| boot != hello.boot_id) {
            tracing::info!(agent.name = %agent, "the agent was restarted");
        }
        let (acts, jobs, instances) = decide::agents::hello(&self.world, &agent, &hello);
        let degraded = hello.degraded;
        if let Some(why) = &degraded {
            tracing::warn!(agent.name = %agent, why, "the agent is degraded; it gets no work");
        }
        let applied = hello.router.as_ref().map_or(RouteVersion(0), |router| router.applied);
        let row = AgentRow {
            name: agent.clone(),
            epoch,
            boot_id: hello.boot_id,
            since: now,
            version: hello.version.clone(),
            labels: hello.labels,
            capacity: hello.capacity,
            runtimes: hello.runtimes,
            preflight: hello.preflight,
            router: hello.router.map(|router| router.base_url),
            draining: self.world.is_draining(&agent),
        };
        let (outbox, receiver) = mpsc::channel(OUTBOX);
        let has_router = row.router.is_some();
        self.world.agent_connected(row, degraded, applied);
        self.outboxes.insert(agent.clone(), (epoch, outbox));
        let about = About { agent: Some(agent.clone()), ..About::default() };
        let connected = EventKind::AgentConnected { version: hello.version };
        self.perform(vec![Act::Event { by: Principal::System, about, kind: connected }], turn);
        self.perform(acts, turn);
        if has_router {
            // Whatever it has, it is told; a table that it has already changes nothing.
            self.settle(turn);
            let table = self.world.table_for(&agent);
            turn.sends.push((agent, ToAgent::Routes { table }));
        }
        turn.answers.push(Box::new(move |stored| {
            let welcomed = Welcomed { epoch, jobs, instances, outbox: receiver };
            drop(answer.send(stored.map(|()| welcomed)));
        }));
    }

    pub(super) fn gone(&mut self, agent: &AgentName, epoch: Epoch, turn: &mut Turn) {
        if self.outboxes.get(agent).is_none_or(|(present, _)| *present != epoch) {
            return;
        }
        self.outboxes.remove(agent);
        self.followers.gone(agent, epoch);
        self.asked_is_gone(agent);
        let acts = decide::agents::gone(&self.world, agent);
        self.perform(acts, turn);
    }

    /// What the agent came in with is worthless: its connection ends with this turn, and whatever the turn had to say to it is not
    /// said. A hello of a connection that began before is not taken any more.
    pub(super) fn disconnect(&mut self, agent: &AgentName, turn: &mut Turn) {
        self.newest.insert(agent.clone(), self.connections);
        turn.sends.retain(|(to, _)| to != agent);
        let Some((epoch, outbox)) = self.outboxes.get(agent).map(|(epoch, outbox)| (*epoch, outbox.clone()))
        else {
            return;
        };
        self.gone(agent, epoch, turn);
        // Dropped without a word if the turn cannot be stored: then it comes again.
        turn.farewells.push(outbox);
    }
}
