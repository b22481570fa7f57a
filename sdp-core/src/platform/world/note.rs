//! What the world remembers though it is no event: how far things are, and what was asked of whom.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{Unfit, World};
use crate::catalog::{Environment, Template};
use crate::id::{DeploymentNumber, InstanceId, RouteVersion};
use crate::name::AgentName;
use crate::routing::RouteTable;
use crate::sandbox::{Sandbox, StopReason};
use crate::wire::{Load, Preflight};

/// A change that is no event.
#[derive(Clone, Debug)]
pub(crate) enum Note {
    /// The agent has taken a job.
    Accepted(DeploymentNumber),
    /// Progress up to this item is applied.
    Progress(DeploymentNumber, u64),
    /// Its lines cannot be stored at present, and with them not what its agent reports.
    Stalled(DeploymentNumber, Timestamp),
    /// No agent that fits is connected since then; or one is again.
    NoAgentSince(DeploymentNumber, Option<Timestamp>),
    /// The agent was told to cancel.
    CancelSent(DeploymentNumber, Timestamp),
    /// The agent was told to stop the instance.
    StopSent(InstanceId, Timestamp),
    /// A router has no request to the instance under way.
    Drained(InstanceId, AgentName),
    /// An agent's router has this table in effect.
    Applied(AgentName, RouteVersion),
    /// Do not ask this agent for a while.
    Unfit(AgentName, Unfit),
    /// An agent was sent it and said nothing.
    Unanswered(DeploymentNumber),
    /// Its instance has ended, though the agent's "ready" is still to come.
    Exited(DeploymentNumber, StopReason, Vec<String>),
    /// What an agent found out about itself.
    Preflight(AgentName, Vec<Preflight>),
    /// What an agent holds and has room for.
    Load(AgentName, Load),
    /// This is the table from now on.
    Table(RouteTable, Timestamp),
    /// An environment as it is now.
    Environment(Box<Environment>),
    /// A new version of a template.
    Template(Box<Template>),
    /// A sandbox as it is now.
    Sandbox(Box<Sandbox>),
    /// The same, but nothing that the routers know has changed.
    Warned(Box<Sandbox>),
}

impl World {
    pub(crate) fn note(&mut self, note: Note) {
        match note {
            Note::Accepted(number) => {
                if let Some(open) = self.open.get_mut(&number) {
                    open.job.accepted = true;
                    self.unsaved.jobs.insert(number);
                }
            }
            Note::Progress(number, progress) => {
                if let Some(open) = self.open.get_mut(&number) {
                    open.job.progress = progress;
                    // Whoever reports progress has taken the job, even if its word for that was lost.
                    open.job.accepted = true;
                    self.unsaved.jobs.insert(number);
                }
            }
            Note::Stalled(number, now) => {
                if let Some(open) = self.open.get_mut(&number) {
                    open.since = now;
                    // Nor is it the agent's fault that the word of its cancel waits behind a line.
                    open.cancel_asked = open.cancel_asked.map(|_| now);
                }
            }
            Note::NoAgentSince(number, since) => {
                if let Some(open) = self.open.get_mut(&number) {
                    open.no_agent_since = since;
                }
            }
            Note::CancelSent(number, at) => {
                if let Some(open) = self.open.get_mut(&number) {
                    open.cancel_sent = Some(at);
                }
            }
            Note::StopSent(id, at) => {
                if let Some(running) = self.instances.get_mut(&id) {
                    running.stop_sent = Some(at);
                }
            }
            // What the present table names cannot be drained: that is an old word, repeated.
            Note::Drained(id, router) => {
                let named = self.table.names_instance(id);
                if let Some(running) = self.instances.get_mut(&id).filter(|_| !named) {
                    running.drained_by.insert(router);
                }
            }
            Note::Applied(agent, version) => {
                if let Some(agent) = self.agents.get_mut(&agent) {
                    agent.applied = version;
                }
            }
            Note::Unfit(agent, unfit) => {
                if let Some(agent) = self.agents.get_mut(&agent) {
                    agent.unfit = Some(unfit);
                }
            }
            Note::Unanswered(number) => {
                if let Some(open) = self.open.get_mut(&number) {
                    open.unanswered += 1;
                }
            }
            Note::Exited(number, reason, last_lines) => {
                if let Some(open) = self.open.get_mut(&number) {
                    open.exited = Some((reason, last_lines));
                }
            }
            Note::Preflight(agent, checks) => {
                if let Some(agent) = self.agents.get_mut(&agent) {
                    agent.row.preflight = checks;
                    let name = agent.row.name.clone();
                    self.unsaved.agents.insert(name);
                }
            }
            Note::Load(agent, load) => {
                if let Some(agent) = self.agents.get_mut(&agent) {
                    agent.load = Some(load);
                }
            }
            Note::Table(table, now) => self.take_table(table, now),
            Note::Environment(environment) => self.save_environment(*environment),
            Note::Template(template) => self.save_template(*template),
            Note::Sandbox(sandbox) => self.save_sandbox(*sandbox),
            Note::Warned(sandbox) => {
                let changed = self.routes_changed;
                self.save_sandbox(*sandbox);
                self.routes_changed = changed;
            }
        }
    }

    fn take_table(&mut self, table: RouteTable, now: Timestamp) {
        let named: BTreeSet<InstanceId> = table.instances().map(|(instance, _)| instance).collect();
        for running in self.instances.values_mut() {
            if named.contains(&running.instance.id) {
                running.drained_by.clear();
                running.routed = true;
            }
        }
        for open in self.open.values_mut() {
            if open.is_ready() && open.switch.is_none() && named.contains(&open.job.instance) {
                open.switch = Some(table.version);
                // One of a batch may have been ready long before the others.
                open.since = now;
            }
        }
        self.table = table;
        self.table_routers = self.wanted_routers();
    }
}
