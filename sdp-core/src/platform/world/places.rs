//! Environments, templates, sandboxes, locks and batches: saved by a note where the event does not carry all of it, forgotten by an
//! event.

use std::collections::BTreeMap;

use super::World;
use crate::batch::{Batch, BatchOutcome};
use crate::catalog::{Environment, Service, Template};
use crate::deployment::Outcome;
use crate::event::{Event, EventKind};
use crate::id::{BatchId, DeploymentId};
use crate::name::{EnvName, EnvironmentName, SandboxName, ServiceName, TemplateName};
use crate::principal::Principal;
use crate::sandbox::Sandbox;

impl World {
    pub(crate) fn save_environment(&mut self, environment: Environment) {
        self.unsaved.writes.environments_gone.retain(|gone| *gone != environment.name);
        self.unsaved.writes.environments.push(environment.clone());
        self.environments.insert(environment.name.clone(), environment);
        self.routes_changed = true;
    }

    pub(crate) fn save_template(&mut self, template: Template) {
        self.unsaved.writes.templates_gone.retain(|gone| *gone != template.name);
        self.unsaved.writes.templates.push(template.clone());
        self.templates.insert(template.name.clone(), template);
    }

    pub(crate) fn save_sandbox(&mut self, sandbox: Sandbox) {
        self.unsaved.writes.sandboxes_gone.retain(|gone| *gone != sandbox.name);
        self.unsaved.writes.sandboxes.retain(|new| new.name != sandbox.name);
        self.unsaved.writes.sandboxes.push(sandbox.clone());
        self.sandboxes.insert(sandbox.name.clone(), sandbox);
        self.routes_changed = true;
    }

    /// What is deployed into a sandbox gets its requests, whatever was said before.
    pub(super) fn forget_choice(&mut self, sandbox: &SandboxName, service: &ServiceName) {
        let Some(known) = self.sandboxes.get(sandbox).filter(|s| s.routes.contains_key(service)) else {
            return;
        };
        let mut sandbox = known.clone();
        sandbox.routes.remove(service);
        self.save_sandbox(sandbox);
    }

    fn forget_sandbox(&mut self, name: &SandboxName) {
        self.sandboxes.remove(name);
        self.unsaved.writes.sandboxes.retain(|new| new.name != *name);
        self.unsaved.writes.sandboxes_gone.push(name.clone());
        self.routes_changed = true;
    }

    pub(super) fn fold_places(&mut self, event: &Event) {
        match &event.kind {
            EventKind::EnvironmentDeleted {} => {
                if let Some(name) = &event.about.environment {
                    self.environments.remove(name);
                    self.unsaved.writes.environments.retain(|new| new.name != *name);
                    self.unsaved.writes.environments_gone.push(name.clone());
                    self.routes_changed = true;
                }
            }
            EventKind::TemplateDeleted { name } => {
                self.templates.remove(name);
                self.unsaved.writes.templates.retain(|new| new.name != *name);
                self.unsaved.writes.templates_gone.push(name.clone());
            }
            EventKind::SandboxDeleted {} | EventKind::SandboxExpired { .. } => {
                if let Some(name) = &event.about.sandbox {
                    self.forget_sandbox(name);
                }
            }
            EventKind::Locked { lock, stolen } => {
                if let Some(stolen) = stolen {
                    self.locks.remove(&stolen.id);
                    self.unsaved.writes.locks_gone.push(stolen.id);
                }
                self.locks.insert(lock.id, lock.clone());
                self.unsaved.writes.locks.push(lock.clone());
            }
            EventKind::Unlocked { lock, .. } => {
                self.locks.remove(&lock.id);
                self.unsaved.writes.locks.retain(|new| new.id != lock.id);
                self.unsaved.writes.locks_gone.push(lock.id);
            }
            EventKind::BatchRequested { batch } => {
                self.batches.insert(batch.id, batch.clone());
                self.unsaved.writes.batches.push(batch.clone());
            }
            EventKind::BatchEnded { outcome, .. } => {
                if let Some(mut batch) = event.about.batch.and_then(|id| self.batches.remove(&id)) {
                    batch.outcome = Some(*outcome);
                    batch.ended_at = Some(event.at);
                    self.unsaved.writes.batches.push(batch);
                }
            }
            _ => {}
        }
    }

    /// A deployment of a batch has ended.
    pub(super) fn count_in_batch(&mut self, id: BatchId, deployment: DeploymentId, outcome: &Outcome) {
        let Some(batch) = self.batches.get_mut(&id) else { return };
        match outcome {
            Outcome::Succeeded {} => batch.succeeded.push(deployment),
            _ => batch.failed.push(deployment),
        }
        self.unsaved.writes.batches.push(batch.clone());
    }

    /// Whether no deployment of a batch is still on its way to being ready.
    pub(crate) fn batch_is_ready(&self, id: BatchId) -> bool {
        self.open.values().filter(|open| open.deployment.batch == Some(id)).all(super::Open::is_ready)
    }

    /// Batches of which every deployment has ended, with how.
    pub(crate) fn batches_over(&self) -> impl Iterator<Item = (&Batch, BatchOutcome)> {
        let over = |batch: &&Batch| batch.succeeded.len() + batch.failed.len() >= batch.deployments.len();
        self.batches
            .values()
            .filter(over)
            .map(|batch| (batch, BatchOutcome::of(batch.succeeded.len(), batch.deployments.len())))
    }

    /// A service as it is deployed into a sandbox: its variables are those of the environment, of the service, of the sandbox's
    /// template and of the sandbox, each above the one before. A secret of the service stands above the environment's.
    pub(crate) fn effective(
        &self,
        service: &ServiceName,
        sandbox: &SandboxName,
        template_env: &BTreeMap<EnvName, String>,
    ) -> Option<Service> {
        let mut service = self.services.get(service)?.clone();
        let sandbox = self.sandboxes.get(sandbox);
        let environment = sandbox.and_then(|sandbox| self.environments.get(&sandbox.environment));
        let mut env = environment.map(|environment| environment.env.clone()).unwrap_or_default();
        env.retain(|name, _| !self.secrets_of(&service.name).any(|secret| secret.name == *name));
        env.append(&mut service.env);
        env.extend(template_env.clone());
        env.extend(sandbox.map(|sandbox| sandbox.env.clone()).unwrap_or_default());
        service.env = env;
        Some(service)
    }

    pub(crate) fn environment(
        &self,
        name: &EnvironmentName,
    ) -> Result<&Environment, crate::platform::PlatformError> {
        self.environments.get(name).ok_or_else(|| crate::platform::PlatformError::UnknownEnvironment {
            did_you_mean: near(name.as_str(), self.environments.keys().map(EnvironmentName::as_str)),
            name: name.clone(),
        })
    }

    pub(crate) fn template(&self, name: &TemplateName) -> Result<&Template, crate::platform::PlatformError> {
        self.templates.get(name).ok_or_else(|| crate::platform::PlatformError::UnknownTemplate {
            version: None,
            did_you_mean: near(name.as_str(), self.templates.keys().map(TemplateName::as_str)),
            name: name.clone(),
        })
    }

    /// The lock that keeps somebody from deploying a service into a sandbox.
    pub(crate) fn lock_against(
        &self,
        by: &Principal,
        environment: &EnvironmentName,
        sandbox: &SandboxName,
        service: &ServiceName,
        now: jiff::Timestamp,
    ) -> Option<&crate::lock::Lock> {
        let mut locks = self.locks.values().filter(|lock| lock.place.covers(environment, sandbox, service));
        locks.find(|lock| lock.stops(by, now))
    }
}

fn near<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    crate::name::did_you_mean(typed, known).map(str::to_owned)
}
