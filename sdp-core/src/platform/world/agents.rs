//! Agents: who has said hello, who is away, who is drained, who was forgotten.

use super::{Agent, World};
use crate::event::{Event, EventKind};
use crate::id::{BootId, Epoch, RouteVersion};
use crate::name::AgentName;
use crate::store::AgentRow;

impl World {
    /// Folds in what happened to an agent.
    pub(super) fn fold_agent(&mut self, name: &AgentName, event: &Event) {
        if event.kind == (EventKind::AgentForgotten {}) {
            self.agents.remove(name);
            self.unsaved.agents.remove(name);
            self.unsaved.writes.agents_gone.push(name.clone());
            return;
        }
        let Some(agent) = self.agents.get_mut(name) else { return };
        match &event.kind {
            EventKind::AgentDisconnected {} => {
                agent.connected = false;
                agent.row.since = event.at;
            }
            EventKind::AgentDrained {} => agent.row.draining = true,
            EventKind::AgentResumed {} => agent.row.draining = false,
            _ => return,
        }
        self.unsaved.agents.insert(name.clone());
    }

    /// An agent has said hello.
    pub(crate) fn agent_connected(&mut self, row: AgentRow, degraded: Option<String>, applied: RouteVersion) {
        self.unsaved.agents.insert(row.name.clone());
        if applied > self.table.version {
            self.version_floor = self.version_floor.max(applied);
            self.routes_changed = true;
        }
        let agent = Agent { row, connected: true, degraded, load: None, unfit: None, applied };
        for running in self.instances.values_mut().filter(|r| r.instance.agent == agent.row.name) {
            running.stop_sent = None;
        }
        for running in self.instances.values_mut() {
            running.drained_by.remove(&agent.row.name);
        }
        for open in self.open.values_mut().filter(|o| o.deployment.agent.as_ref() == Some(&agent.row.name)) {
            open.cancel_sent = None;
        }
        self.agents.insert(agent.row.name.clone(), agent);
    }

    pub(crate) fn is_draining(&self, agent: &AgentName) -> bool {
        self.agents.get(agent).is_some_and(|agent| agent.row.draining)
    }

    pub(crate) fn next_epoch(&self, agent: &AgentName) -> Epoch {
        self.agents.get(agent).map_or(Epoch(1), |agent| agent.row.epoch.next())
    }

    pub(crate) fn boot_of(&self, agent: &AgentName) -> Option<BootId> {
        self.agents.get(agent).map(|agent| agent.row.boot_id)
    }
}
