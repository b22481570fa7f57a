//! The verbs of environments, templates, sandboxes, routes, locks and batches.

mod shown;

use std::collections::BTreeMap;
use std::time::Duration;

use shown::{report, variables, view};

use super::input::{BatchOrder, Command, DeployCommand, LockOrder, Question, Reply, SandboxOrder};
use super::world::World;
use super::{Idempotency, Platform, PlatformError, Power, Save};
use crate::api::{
    CreateBatch, CreateLock, CreateProbe, ProbeReport, RenewSandbox, SandboxView, SaveSandbox,
    TemplateChoice, VariableView,
};
use crate::batch::Batch;
use crate::catalog::{Environment, InvalidService, Template, TemplateSpec};
use crate::deployment::{DeployKind, Deployment};
use crate::id::{BatchId, DeploymentId, LockId};
use crate::lock::Lock;
use crate::name::{EnvName, EnvironmentName, GitRef, RoutingKey, SandboxName, ServiceName, TemplateName};
use crate::principal::Principal;
use crate::routing::explain::Explanation;
use crate::routing::select::{Head, Index};
use crate::sandbox::{InstanceState, RouteChoice, Sandbox};
use crate::wire::{Answer, ProbeRequest};

/// Most services of a batch.
const MOST_IN_BATCH: usize = 50;
/// How long a probe may take: the request, and what follows from it.
const PROBE_WITHIN: Duration = Duration::from_secs(15);
/// Most of what a request that is explained may say.
const MOST_HEADERS: usize = 100;

impl Platform {
    // ── environments ──────────────────────────────────────────────────────────────────────────────────────────────

    /// All environments, by name.
    ///
    /// # Errors
    /// [`PlatformError::Stopping`].
    pub async fn environments(&self) -> Result<Vec<Environment>, PlatformError> {
        self.ask(|world| world.environments.values().cloned().collect()).await
    }

    /// One environment.
    ///
    /// # Errors
    /// [`PlatformError::UnknownEnvironment`].
    pub async fn environment(&self, name: &EnvironmentName) -> Result<Environment, PlatformError> {
        let name = name.clone();
        self.ask(move |world| world.environment(&name).cloned()).await?
    }

    /// Makes an environment or changes it; says whether it is new.
    ///
    /// # Errors
    /// [`PlatformError::InvalidService`], [`PlatformError::RouteConflict`], [`PlatformError::UnknownService`].
    pub async fn save_environment(
        &self,
        by: &Principal,
        environment: Environment,
        save: Save,
    ) -> Result<bool, PlatformError> {
        environment.check()?;
        match self.command(by, Command::SaveEnvironment { environment: Box::new(environment), save }).await? {
            Reply::Saved { created } => Ok(created),
            _ => Err(PlatformError::Stopping),
        }
    }

    /// Deletes an environment in which nothing is.
    ///
    /// # Errors
    /// [`PlatformError::UnknownEnvironment`], [`PlatformError::EnvironmentInUse`].
    pub async fn delete_environment(
        &self,
        by: &Principal,
        name: &EnvironmentName,
    ) -> Result<(), PlatformError> {
        self.command(by, Command::DeleteEnvironment { name: name.clone() }).await.map(drop)
    }

    // ── templates ─────────────────────────────────────────────────────────────────────────────────────────────────

    /// The newest version of every template, by name.
    ///
    /// # Errors
    /// [`PlatformError::Stopping`].
    pub async fn templates(&self) -> Result<Vec<Template>, PlatformError> {
        self.ask(|world| world.templates.values().cloned().collect()).await
    }

    /// A version of a template; without one the newest.
    ///
    /// # Errors
    /// [`PlatformError::UnknownTemplate`].
    pub async fn template(
        &self,
        name: &TemplateName,
        version: Option<u32>,
    ) -> Result<Template, PlatformError> {
        let wanted = name.clone();
        let newest = self.ask(move |world| world.template(&wanted).cloned()).await??;
        let Some(version) = version.filter(|version| *version != newest.version) else { return Ok(newest) };
        let wanted = name.clone();
        let read = move |connection: &_| crate::store::template_version(connection, &wanted, version);
        self.inner.store.read(read).await?.ok_or_else(|| PlatformError::UnknownTemplate {
            name: name.clone(),
            version: Some(version),
            did_you_mean: None,
        })
    }

    /// All versions of a template, the newest first.
    ///
    /// # Errors
    /// [`PlatformError::UnknownTemplate`].
    pub async fn template_versions(&self, name: &TemplateName) -> Result<Vec<Template>, PlatformError> {
        self.template(name, None).await?;
        let name = name.clone();
        Ok(self
            .inner
            .store
            .read(move |connection| crate::store::template_versions(connection, &name))
            .await?)
    }

    /// Makes a new version of a template, if it says anything new; the version that says so.
    ///
    /// # Errors
    /// [`PlatformError::InvalidService`], [`PlatformError::UnknownService`], [`PlatformError::ServiceNotInEnvironment`],
    /// [`PlatformError::TargetRefused`], [`PlatformError::LifetimeTooLong`].
    pub async fn save_template(
        &self,
        by: &Principal,
        name: &TemplateName,
        spec: TemplateSpec,
    ) -> Result<Template, PlatformError> {
        spec.check()?;
        let command = Command::SaveTemplate { name: name.clone(), spec: Box::new(spec) };
        match self.command(by, command).await? {
            Reply::Template(template) => Ok(*template),
            _ => Err(PlatformError::Stopping),
        }
    }

    /// Deletes a template with all its versions. Sandboxes that were made from it stay, without its variables.
    ///
    /// # Errors
    /// [`PlatformError::UnknownTemplate`].
    pub async fn delete_template(&self, by: &Principal, name: &TemplateName) -> Result<(), PlatformError> {
        self.command(by, Command::DeleteTemplate { name: name.clone() }).await.map(drop)
    }

    // ── sandboxes ─────────────────────────────────────────────────────────────────────────────────────────────────

    /// Makes a sandbox, or changes and renews it; says whether it is new.
    ///
    /// # Errors
    /// [`PlatformError::SandboxExists`], [`PlatformError::NotAMember`], [`PlatformError::UnknownTemplate`],
    /// [`PlatformError::UnknownSandbox`] (the one it is made from), [`PlatformError::TargetRefused`],
    /// [`PlatformError::LifetimeTooLong`], [`PlatformError::InvalidService`].
    pub async fn save_sandbox(
        &self,
        by: &Principal,
        name: &SandboxName,
        wanted: SaveSandbox,
        save: Save,
        power: Power,
    ) -> Result<(Sandbox, bool), PlatformError> {
        let template = match &wanted.template {
            Some(choice) => Some(self.chosen(choice).await?),
            None => None,
        };
        let order = SandboxOrder { name: name.clone(), wanted, template, key: new_key()?, save, power };
        match self.command(by, Command::SaveSandbox(Box::new(order))).await? {
            Reply::Sandbox { sandbox, created } => Ok((*sandbox, created)),
            _ => Err(PlatformError::Stopping),
        }
    }

    async fn chosen(&self, choice: &TemplateChoice) -> Result<Template, PlatformError> {
        self.template(&choice.name, choice.version).await
    }

    /// Moves a sandbox's end.
    ///
    /// # Errors
    /// [`PlatformError::UnknownSandbox`], [`PlatformError::NotAMember`], [`PlatformError::LifetimeTooLong`].
    pub async fn renew_sandbox(
        &self,
        by: &Principal,
        name: &SandboxName,
        renew: RenewSandbox,
        power: Power,
    ) -> Result<Sandbox, PlatformError> {
        match self.command(by, Command::RenewSandbox { name: name.clone(), renew, power }).await? {
            Reply::Sandbox { sandbox, .. } => Ok(*sandbox),
            _ => Err(PlatformError::Stopping),
        }
    }

    /// Says where a sandbox's requests for a service go; `None`: to what was deployed there, or else the baseline.
    ///
    /// # Errors
    /// [`PlatformError::UnknownSandbox`], [`PlatformError::NotAMember`], [`PlatformError::UnknownService`],
    /// [`PlatformError::ServiceNotInEnvironment`], [`PlatformError::TargetRefused`], [`PlatformError::Locked`].
    pub async fn choose_route(
        &self,
        by: &Principal,
        sandbox: &SandboxName,
        service: &ServiceName,
        choice: Option<RouteChoice>,
        power: Power,
    ) -> Result<Sandbox, PlatformError> {
        let (sandbox, service) = (sandbox.clone(), service.clone());
        match self.command(by, Command::ChooseRoute { sandbox, service, choice, power }).await? {
            Reply::Sandbox { sandbox, .. } => Ok(*sandbox),
            _ => Err(PlatformError::Stopping),
        }
    }

    /// All sandboxes, by name, with what runs in them and where their requests go.
    ///
    /// # Errors
    /// [`PlatformError::Stopping`].
    pub async fn sandbox_views(&self) -> Result<Vec<SandboxView>, PlatformError> {
        self.ask(|world| world.sandboxes.values().map(|sandbox| view(world, sandbox)).collect()).await
    }

    /// A sandbox with what runs in it and where its requests go.
    ///
    /// # Errors
    /// [`PlatformError::UnknownSandbox`].
    pub async fn sandbox_view(&self, name: &SandboxName) -> Result<SandboxView, PlatformError> {
        let name = name.clone();
        self.ask(move |world| world.sandbox(&name).map(|sandbox| view(world, sandbox))).await?
    }

    /// The variables that a service's instances get in a sandbox, and where each value comes from. Those of the deployment that
    /// runs there now are among them; a secret has no value here.
    ///
    /// # Errors
    /// [`PlatformError::UnknownSandbox`], [`PlatformError::UnknownService`].
    pub async fn variables(
        &self,
        sandbox: &SandboxName,
        service: &ServiceName,
    ) -> Result<Vec<VariableView>, PlatformError> {
        let known = self.sandbox(sandbox).await?;
        self.service(service).await?;
        let template = self.template_env(&known, service).await?;
        let deployed = self.deployed(sandbox, service).await?;
        let deploy = deployed.map(|deployment| deployment.env).unwrap_or_default();
        let service = service.clone();
        self.ask(move |world| variables(world, &known, &service, &template, &deploy)).await?
    }

    /// The deployment whose instance serves there.
    async fn deployed(
        &self,
        sandbox: &SandboxName,
        service: &ServiceName,
    ) -> Result<Option<Deployment>, PlatformError> {
        let (sandbox, service) = (sandbox.clone(), service.clone());
        let id = self
            .ask(move |world| {
                let here = world.instances.values().rev().map(|running| &running.instance);
                let mut here = here.filter(|instance| {
                    instance.sandbox == sandbox
                        && instance.service == service
                        && matches!(instance.state, InstanceState::Live {} | InstanceState::Unhealthy {})
                });
                here.next().map(|instance| instance.deployment)
            })
            .await?;
        match id {
            Some(id) => Ok(Some(self.deployment(id.into()).await?)),
            None => Ok(None),
        }
    }

    /// What a sandbox's template says of a service's variables; nothing where there is no such version any more.
    pub(super) async fn template_env(
        &self,
        sandbox: &Sandbox,
        service: &ServiceName,
    ) -> Result<BTreeMap<EnvName, String>, PlatformError> {
        let Some(from) = &sandbox.template else { return Ok(BTreeMap::new()) };
        match self.template(&from.name, Some(from.version)).await {
            Ok(template) => Ok(env_of(&template, service)),
            Err(PlatformError::UnknownTemplate { .. }) => Ok(BTreeMap::new()),
            Err(error) => Err(error),
        }
    }

    // ── routes ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Where the routers send a request, and why: by the newest table. Names of headers in any case.
    ///
    /// # Errors
    /// [`PlatformError::InvalidService`] for more than 100 headers.
    pub async fn explain_route(
        &self,
        host: Option<String>,
        path: String,
        headers: Vec<(String, String)>,
    ) -> Result<Explanation, PlatformError> {
        if headers.len() > MOST_HEADERS {
            return Err(invalid("header", "at most 100"));
        }
        let now = self.inner.clock.now();
        let table = self.ask(|world| world.table.clone()).await?;
        let index = Index::new(table);
        let values = |name: &str| -> Vec<String> {
            let of_name = headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
            of_name.map(|(_, value)| value.clone()).collect()
        };
        // As the routers do: the query is not looked at.
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let head = Head { path, host: host.as_deref(), headers: &values, trusted: true };
        Ok(index.explain(&head, now))
    }

    /// Sends a request through a sandbox's router as the sandbox's, and says which service did not pass its mark on.
    ///
    /// # Errors
    /// [`PlatformError::UnknownSandbox`], [`PlatformError::InvalidService`], [`PlatformError::NoAgent`] (no router is
    /// connected), [`PlatformError::NoAnswer`], [`PlatformError::Failed`].
    pub async fn probe(
        &self,
        sandbox: &SandboxName,
        probe: CreateProbe,
    ) -> Result<ProbeReport, PlatformError> {
        let plain = probe.path.bytes().all(|b| b.is_ascii_graphic());
        if !probe.path.starts_with('/') || !plain || probe.path.len() > 2000 {
            return Err(invalid("path", "begins with /, visible ASCII characters, at most 2000"));
        }
        if probe.through.len() > MOST_IN_BATCH {
            return Err(invalid("through", "at most 50 services"));
        }
        for service in &probe.through {
            self.service(service).await?;
        }
        let known = self.sandbox(sandbox).await?;
        let environment = known.environment.clone();
        let router =
            move |world: &World| world.routers_of(&environment).next().map(|agent| agent.row.name.clone());
        let agent = self.ask(router).await?.ok_or(PlatformError::NoAgent)?;
        let request = ProbeRequest {
            key: known.key,
            path: probe.path,
            host: probe.host,
            within_ms: u32::try_from(PROBE_WITHIN.as_millis()).unwrap_or(u32::MAX),
        };
        match self.question(Question::Probe { agent, probe: request }).await? {
            Answer::Probed { status, served_by, hops } => {
                Ok(report(sandbox, &probe.through, status, served_by, hops))
            }
            Answer::Failed { failure } => Err(PlatformError::Failed(failure)),
            _ => Err(PlatformError::NoAgent),
        }
    }

    // ── locks ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// All locks and freezes, the oldest first.
    ///
    /// # Errors
    /// [`PlatformError::Stopping`].
    pub async fn locks(&self) -> Result<Vec<Lock>, PlatformError> {
        self.ask(|world| world.locks.values().cloned().collect()).await
    }

    /// Sets a lock or a freeze. One's own in the same place is replaced.
    ///
    /// # Errors
    /// [`PlatformError::Locked`] if somebody else holds it and it is not to be stolen, [`PlatformError::NotAMember`],
    /// [`PlatformError::NotADeployer`], [`PlatformError::InvalidService`].
    pub async fn lock(
        &self,
        by: &Principal,
        wanted: CreateLock,
        power: Power,
    ) -> Result<Lock, PlatformError> {
        let order = LockOrder { id: LockId::new(), wanted, power };
        match self.command(by, Command::Lock(Box::new(order))).await? {
            Reply::Lock(lock) => Ok(*lock),
            _ => Err(PlatformError::Stopping),
        }
    }

    /// Ends a lock or a freeze.
    ///
    /// # Errors
    /// [`PlatformError::UnknownLock`], [`PlatformError::NotYourLock`].
    pub async fn unlock(&self, by: &Principal, id: LockId, power: Power) -> Result<Lock, PlatformError> {
        match self.command(by, Command::Unlock { id, power }).await? {
            Reply::Lock(lock) => Ok(*lock),
            _ => Err(PlatformError::Stopping),
        }
    }

    // ── batches ───────────────────────────────────────────────────────────────────────────────────────────────────

    /// Asks for several deployments into one sandbox together: all are taken, or none. Requests are switched to all that have
    /// become healthy at once, when none is on its way any more.
    ///
    /// # Errors
    /// As [`Platform::deploy`], and [`PlatformError::UnknownTemplate`], [`PlatformError::InvalidService`].
    pub async fn deploy_batch(
        &self,
        by: &Principal,
        wanted: CreateBatch,
        idempotency: Option<Idempotency>,
        power: Power,
    ) -> Result<Batch, PlatformError> {
        let template = match &wanted.template {
            Some(choice) => Some(self.chosen(choice).await?),
            None => None,
        };
        let sandbox = wanted.sandbox.clone().unwrap_or_else(|| by.own_sandbox());
        let asked = asked_for(&wanted, template.as_ref())?;
        let known = match self.sandbox(&sandbox).await {
            Ok(known) => Some(known),
            Err(PlatformError::UnknownSandbox { .. }) => None,
            Err(error) => return Err(error),
        };
        let mut deploys = Vec::new();
        for (service, (git_ref, env)) in asked {
            crate::catalog::check_variables(&env)?;
            let entry = self.service(&service).await?;
            let template_env = match (&known, &template) {
                (Some(known), _) => self.template_env(known, &service).await?,
                (None, Some(template)) => env_of(template, &service),
                (None, None) => BTreeMap::new(),
            };
            let git_ref = match git_ref {
                Some(git_ref) => git_ref,
                None => self.last_ref(&service, &sandbox).await?.unwrap_or(entry.default_branch),
            };
            let taken = self.credential_for(by, &entry.repo, wanted.git_credential.clone()).await?;
            let command = DeployCommand {
                since: self.last_commit(&service, &sandbox).await?,
                service,
                sandbox: sandbox.clone(),
                git_ref,
                env,
                notify: wanted.notify.clone(),
                batch: None,
                kind: DeployKind::Deploy,
                key: new_key()?,
                template_env,
                commit: None,
                of: None,
                prefer: None,
                credential: taken.credential,
                credential_of: taken.of,
                idempotency: None,
                power: power.clone(),
            };
            deploys.push((DeploymentId::new(), command));
        }
        self.room()?;
        let id = BatchId::new();
        for (_, command) in &mut deploys {
            command.batch = Some(id);
        }
        let order = BatchOrder { id, sandbox, deploys, template, key: new_key()?, idempotency };
        match self.command(by, Command::Batch(Box::new(order))).await? {
            Reply::Batch(batch) => Ok(*batch),
            Reply::Known { deployment } => {
                let first = self.deployment(deployment.into()).await?;
                let id =
                    first.batch.ok_or(PlatformError::UnknownDeployment { reference: deployment.into() })?;
                Ok(self.batch(id).await?.0)
            }
            _ => Err(PlatformError::Stopping),
        }
    }

    /// A batch and its deployments, in its order.
    ///
    /// # Errors
    /// [`PlatformError::UnknownBatch`].
    pub async fn batch(&self, id: BatchId) -> Result<(Batch, Vec<Deployment>), PlatformError> {
        let read = move |connection: &_| crate::store::batch(connection, id);
        let batch = self.inner.store.read(read).await?.ok_or(PlatformError::UnknownBatch { id })?;
        let mut deployments = Vec::new();
        for id in &batch.deployments {
            deployments.push(self.deployment((*id).into()).await?);
        }
        Ok((batch, deployments))
    }
}

fn invalid(field: &'static str, problem: &str) -> PlatformError {
    PlatformError::InvalidService(InvalidService { field, problem: problem.to_owned() })
}

/// A key that nobody can guess.
pub(super) fn new_key() -> Result<RoutingKey, PlatformError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|_| PlatformError::NoRandom)?;
    Ok(RoutingKey::from_random(random))
}

fn env_of(template: &Template, service: &ServiceName) -> BTreeMap<EnvName, String> {
    let mut env = template.spec.env.clone();
    env.extend(template.spec.services.get(service).map(|own| own.env.clone()).unwrap_or_default());
    env
}

type Asked = BTreeMap<ServiceName, (Option<GitRef>, BTreeMap<EnvName, String>)>;

/// What a batch deploys, each service once.
fn asked_for(wanted: &CreateBatch, template: Option<&Template>) -> Result<Asked, PlatformError> {
    let mut asked = Asked::new();
    for one in &wanted.services {
        let of_template = template.and_then(|template| template.spec.services.get(&one.service));
        let git_ref = one.git_ref.clone().or_else(|| of_template.and_then(|own| own.git_ref.clone()));
        if asked.insert(one.service.clone(), (git_ref, one.env.clone())).is_some() {
            return Err(invalid("services", &format!("{} is there twice", one.service)));
        }
    }
    // With a template, services that are named stand for what differs: the rest of it is deployed, too.
    for (service, own) in template.iter().flat_map(|template| &template.spec.services) {
        asked.entry(service.clone()).or_insert_with(|| (own.git_ref.clone(), BTreeMap::new()));
    }
    match asked.len() {
        0 => Err(invalid("services", "name at least one service, or a template that has some")),
        1..=MOST_IN_BATCH => Ok(asked),
        _ => Err(invalid("services", "at most 50")),
    }
}
