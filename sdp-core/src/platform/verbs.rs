//! The verbs: what people and programs ask for, in the order of the catalog, deployments, instances and sandboxes.
//!
//! A command goes to the loop and is answered once it is in the store; a question is answered by the store, or by an agent.

use std::collections::BTreeMap;
use std::time::Duration;

use super::input::{Command, DeployCommand, Question, Reply};
use super::{
    Again, Deploy, DeploymentFilter, InstanceFilter, Line, Platform, PlatformError, Power, Save, StateFilter,
};
use crate::batch::Batch;
use crate::catalog::Service;
use crate::deployment::{DeployKind, Deployment, Outcome};
use crate::event::EventKind;
use crate::feed::EventFilter;
use crate::id::{BatchId, DeploymentId, DeploymentRef, InstanceId};
use crate::name::{CommitId, EnvName, GitRef, SandboxName, ServiceName};
use crate::principal::Principal;
use crate::sandbox::{Instance, Sandbox};
use crate::wire::Answer;

impl Platform {
    // ── catalog ───────────────────────────────────────────────────────────────────────────────────────────────────

    /// All services, by name.
    ///
    /// # Errors
    /// [`PlatformError::Stopping`].
    pub async fn services(&self) -> Result<Vec<Service>, PlatformError> {
        self.ask(|world| world.services.values().cloned().collect()).await
    }

    /// One service.
    ///
    /// # Errors
    /// [`PlatformError::UnknownService`].
    pub async fn service(&self, name: &ServiceName) -> Result<Service, PlatformError> {
        let name = name.clone();
        self.ask(move |world| world.service(&name).cloned()).await?
    }

    /// Adds a service to the catalog or changes its entry; says whether it is new.
    ///
    /// # Errors
    /// [`PlatformError::InvalidService`], [`PlatformError::ServiceExists`], [`PlatformError::PrefixTaken`].
    pub async fn save_service(
        &self,
        by: &Principal,
        service: Service,
        save: Save,
    ) -> Result<bool, PlatformError> {
        service.check()?;
        match self.command(by, Command::SaveService { service: Box::new(service), save }).await? {
            Reply::Saved { created } => Ok(created),
            _ => Err(PlatformError::Stopping),
        }
    }

    /// Takes a service out of the catalog.
    ///
    /// # Errors
    /// [`PlatformError::UnknownService`], [`PlatformError::ServiceInUse`].
    pub async fn delete_service(&self, by: &Principal, name: &ServiceName) -> Result<(), PlatformError> {
        self.command(by, Command::DeleteService { name: name.clone() }).await.map(drop)
    }

    // ── deployments ───────────────────────────────────────────────────────────────────────────────────────────────

    /// Asks for a deployment. The answer comes at once; follow its events, or look again.
    ///
    /// # Errors
    /// [`PlatformError::UnknownService`], [`PlatformError::IdempotencyConflict`], [`PlatformError::DiskLow`],
    /// [`PlatformError::QueueFull`].
    pub async fn deploy(&self, by: &Principal, deploy: Deploy) -> Result<Deployment, PlatformError> {
        crate::catalog::check_variables(&deploy.env)?;
        let service = self.service(&deploy.service).await?;
        let sandbox = deploy.sandbox.unwrap_or_else(|| by.own_sandbox());
        let git_ref = match deploy.git_ref {
            Some(git_ref) => git_ref,
            None => self.last_ref(&deploy.service, &sandbox).await?.unwrap_or(service.default_branch),
        };
        let template_env = self.template_env_of(&sandbox, &deploy.service).await?;
        let taken = self.credential_for(by, &service.repo, deploy.credential).await?;
        let command = DeployCommand {
            service: deploy.service,
            sandbox,
            git_ref,
            env: deploy.env,
            notify: deploy.notify,
            batch: None,
            kind: DeployKind::Deploy,
            key: super::places::new_key()?,
            template_env,
            commit: None,
            of: None,
            since: None,
            prefer: None,
            credential: taken.credential,
            credential_of: taken.of,
            idempotency: deploy.idempotency,
            power: deploy.power,
        };
        self.start_deployment(by, command).await
    }

    /// Deploys the commit of an earlier deployment again, from its kept build if that is still there.
    ///
    /// # Errors
    /// [`PlatformError::UnknownDeployment`], [`PlatformError::NoCommit`], and as [`Platform::deploy`].
    pub async fn redeploy(
        &self,
        by: &Principal,
        reference: DeploymentRef,
        again: Again,
    ) -> Result<Deployment, PlatformError> {
        let earlier = self.deployment(reference).await?;
        self.deploy_again(by, earlier, DeployKind::Redeploy, again).await
    }

    /// Brings back what ran before the present commit, in the place (service and sandbox) of this deployment. Rolling back
    /// twice goes back two commits.
    ///
    /// # Errors
    /// [`PlatformError::UnknownDeployment`], [`PlatformError::NothingToRollBack`], and as [`Platform::deploy`].
    pub async fn rollback(
        &self,
        by: &Principal,
        reference: DeploymentRef,
        again: Again,
    ) -> Result<Deployment, PlatformError> {
        let place = self.deployment(reference).await?;
        let earlier = self.before_present(&place.service, &place.sandbox).await?;
        self.deploy_again(by, earlier, DeployKind::Rollback, again).await
    }

    /// Starts a running instance's commit anew and puts it in its place.
    ///
    /// # Errors
    /// [`PlatformError::UnknownInstance`], and as [`Platform::deploy`].
    pub async fn restart(
        &self,
        by: &Principal,
        id: InstanceId,
        again: Again,
    ) -> Result<Deployment, PlatformError> {
        let instance = self.instance(id).await?;
        let earlier = self.deployment(instance.deployment.into()).await?;
        self.deploy_again(by, earlier, DeployKind::Restart, again).await
    }

    /// Cancels a deployment. One that waits has ended when this returns; one that runs ends when everything it started is gone.
    ///
    /// # Errors
    /// [`PlatformError::UnknownDeployment`], [`PlatformError::AlreadyEnded`].
    pub async fn cancel(
        &self,
        by: &Principal,
        reference: DeploymentRef,
    ) -> Result<Deployment, PlatformError> {
        let deployment = self.deployment(reference).await?;
        self.command(by, Command::Cancel { deployment: deployment.id, number: deployment.number }).await?;
        self.deployment(deployment.id.into()).await
    }

    /// One deployment.
    ///
    /// # Errors
    /// [`PlatformError::UnknownDeployment`].
    pub async fn deployment(&self, reference: DeploymentRef) -> Result<Deployment, PlatformError> {
        let found =
            self.inner.store.read(move |connection| crate::store::deployment(connection, reference)).await?;
        found.ok_or(PlatformError::UnknownDeployment { reference })
    }

    /// Deployments, newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn deployments(&self, filter: DeploymentFilter) -> Result<Vec<Deployment>, PlatformError> {
        Ok(self.inner.store.read(move |connection| crate::store::deployments(connection, &filter)).await?)
    }

    /// A queued deployment's place in the queue, from 1; none if it does not wait.
    ///
    /// # Errors
    /// [`PlatformError::Stopping`].
    pub async fn queue_position(&self, id: DeploymentId) -> Result<Option<u32>, PlatformError> {
        self.ask(move |world| world.queue_position(id)).await
    }

    /// The queue before a deployment; none if it does not wait for an agent.
    ///
    /// # Errors
    /// [`PlatformError::Stopping`].
    pub async fn line(&self, id: DeploymentId) -> Result<Option<Line>, PlatformError> {
        let now = self.inner.clock.now();
        self.ask(move |world| Line::of(world, id, now)).await
    }

    /// What a deployment waits for, if it waits: a clause without a full stop, such as `payments in alice is being deployed (#12)`.
    ///
    /// # Errors
    /// [`PlatformError::Stopping`].
    pub async fn waiting_for(&self, id: DeploymentId) -> Result<Option<String>, PlatformError> {
        let now = self.inner.clock.now();
        self.ask(move |world| super::decide::waiting::waiting_for(world, id, now)).await
    }

    /// Waits until a deployment has ended, at most so long, and gives it as it stands then.
    ///
    /// # Errors
    /// [`PlatformError::UnknownDeployment`].
    pub async fn wait_ended(
        &self,
        reference: DeploymentRef,
        limit: Duration,
    ) -> Result<Deployment, PlatformError> {
        let mut deployment = self.deployment(reference).await?;
        let filter = EventFilter { deployment: Some(deployment.id), ..EventFilter::default() };
        let mut feed = self.feed(deployment.version, filter);
        let follow = async {
            while !deployment.is_ended() {
                deployment.apply(&feed.next().await?);
            }
            Ok::<_, PlatformError>(())
        };
        match tokio::time::timeout(limit, follow).await {
            Ok(Err(PlatformError::Stopping)) | Ok(Ok(())) | Err(_) => Ok(deployment),
            Ok(Err(error)) => Err(error),
        }
    }

    /// Waits until all deployments of a batch have ended, at most so long, and gives it as it stands then.
    ///
    /// # Errors
    /// [`PlatformError::UnknownBatch`].
    pub async fn wait_batch(
        &self,
        id: BatchId,
        limit: Duration,
    ) -> Result<(Batch, Vec<Deployment>), PlatformError> {
        let after = self.newest_event();
        let found = self.batch(id).await?;
        if found.0.outcome.is_some() {
            return Ok(found);
        }
        let filter = EventFilter { sandbox: Some(found.0.sandbox.clone()), ..EventFilter::default() };
        let mut feed = self.feed(after, filter);
        let follow = async {
            loop {
                let event = feed.next().await?;
                if event.about.batch == Some(id) && matches!(event.kind, EventKind::BatchEnded { .. }) {
                    return Ok::<_, PlatformError>(());
                }
            }
        };
        match tokio::time::timeout(limit, follow).await {
            Ok(Err(PlatformError::Stopping)) | Ok(Ok(())) | Err(_) => self.batch(id).await,
            Ok(Err(error)) => Err(error),
        }
    }

    // ── instances and sandboxes ───────────────────────────────────────────────────────────────────────────────────

    /// Instances, newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn instances(&self, filter: InstanceFilter) -> Result<Vec<Instance>, PlatformError> {
        Ok(self.inner.store.read(move |connection| crate::store::instances(connection, &filter)).await?)
    }

    /// One instance.
    ///
    /// # Errors
    /// [`PlatformError::UnknownInstance`].
    pub async fn instance(&self, id: InstanceId) -> Result<Instance, PlatformError> {
        let found = self.inner.store.read(move |connection| crate::store::instance(connection, id)).await?;
        found.ok_or(PlatformError::UnknownInstance { id })
    }

    /// Stops an instance: its requests go to the baseline from now on, and it ends when those under way have finished.
    ///
    /// # Errors
    /// [`PlatformError::UnknownInstance`], [`PlatformError::InstanceOver`].
    pub async fn stop_instance(&self, by: &Principal, id: InstanceId) -> Result<Instance, PlatformError> {
        self.instance(id).await?;
        self.command(by, Command::StopInstance { id }).await?;
        self.instance(id).await
    }

    /// What an instance printed last, asked of its agent.
    ///
    /// # Errors
    /// [`PlatformError::UnknownInstance`], [`PlatformError::AgentAway`].
    pub async fn instance_output(&self, id: InstanceId, lines: u32) -> Result<Vec<String>, PlatformError> {
        let instance = self.instance(id).await?;
        if instance.state.is_over() {
            return Ok(instance.last_lines);
        }
        match self.question(Question::ReadOutput { agent: instance.agent, instance: id, lines }).await? {
            Answer::Output { lines } => Ok(lines),
            Answer::Failed { failure } => Err(PlatformError::Failed(failure)),
            _ => Err(PlatformError::NoAgent),
        }
    }

    /// All sandboxes, by name.
    ///
    /// # Errors
    /// [`PlatformError::Stopping`].
    pub async fn sandboxes(&self) -> Result<Vec<Sandbox>, PlatformError> {
        self.ask(|world| world.sandboxes.values().cloned().collect()).await
    }

    /// One sandbox.
    ///
    /// # Errors
    /// [`PlatformError::UnknownSandbox`].
    pub async fn sandbox(&self, name: &SandboxName) -> Result<Sandbox, PlatformError> {
        let name = name.clone();
        self.ask(move |world| world.sandbox(&name).cloned()).await?
    }

    /// Deletes a sandbox: cancels what is under way in it, and stops what runs in it.
    ///
    /// # Errors
    /// [`PlatformError::UnknownSandbox`], [`PlatformError::NotAMember`].
    pub async fn delete_sandbox(
        &self,
        by: &Principal,
        name: &SandboxName,
        power: Power,
    ) -> Result<(), PlatformError> {
        self.command(by, Command::DeleteSandbox { name: name.clone(), power }).await.map(drop)
    }

    // ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────

    async fn start_deployment(
        &self,
        by: &Principal,
        mut command: DeployCommand,
    ) -> Result<Deployment, PlatformError> {
        self.room()?;
        command.since = self.last_commit(&command.service, &command.sandbox).await?;
        match self.command(by, Command::Deploy(Box::new(command))).await? {
            Reply::Deployment(deployment) => Ok(*deployment),
            Reply::Known { deployment } => self.deployment(deployment.into()).await,
            _ => Err(PlatformError::Stopping),
        }
    }

    async fn deploy_again(
        &self,
        by: &Principal,
        earlier: Deployment,
        kind: DeployKind,
        again: Again,
    ) -> Result<Deployment, PlatformError> {
        let commit = earlier.commit.ok_or(PlatformError::NoCommit { number: earlier.number })?;
        let service = self.service(&earlier.service).await?;
        let template_env = self.template_env_of(&earlier.sandbox, &earlier.service).await?;
        let taken = self.credential_for(by, &service.repo, again.credential).await?;
        let command = DeployCommand {
            service: earlier.service,
            sandbox: earlier.sandbox,
            git_ref: earlier.git_ref,
            env: earlier.env,
            notify: again.notify,
            batch: None,
            kind,
            key: super::places::new_key()?,
            template_env,
            commit: Some(commit),
            of: Some(earlier.number),
            since: None,
            prefer: earlier.agent,
            credential: taken.credential,
            credential_of: taken.of,
            idempotency: again.idempotency,
            power: again.power,
        };
        self.start_deployment(by, command).await
    }

    /// What the template of a sandbox, if there is one, says of a service's variables.
    async fn template_env_of(
        &self,
        sandbox: &SandboxName,
        service: &ServiceName,
    ) -> Result<BTreeMap<EnvName, String>, PlatformError> {
        match self.sandbox(sandbox).await {
            Ok(sandbox) => self.template_env(&sandbox, service).await,
            Err(PlatformError::UnknownSandbox { .. }) => Ok(BTreeMap::new()),
            Err(error) => Err(error),
        }
    }

    /// The commit of the newest deployment that succeeded there.
    pub(super) async fn last_commit(
        &self,
        service: &ServiceName,
        sandbox: &SandboxName,
    ) -> Result<Option<CommitId>, PlatformError> {
        let (service, sandbox) = (service.clone(), sandbox.clone());
        let last = move |connection: &_| crate::store::last_succeeded(connection, &service, &sandbox);
        Ok(self.inner.store.read(last).await?.and_then(|deployment| deployment.commit))
    }

    pub(super) async fn last_ref(
        &self,
        service: &ServiceName,
        sandbox: &SandboxName,
    ) -> Result<Option<GitRef>, PlatformError> {
        // A name that was never found is a typing error; nobody wants it again.
        let filter = DeploymentFilter {
            service: Some(service.clone()),
            sandbox: Some(sandbox.clone()),
            limit: 20,
            ..DeploymentFilter::default()
        };
        let found =
            self.deployments(filter).await?.into_iter().find(|deployment| deployment.commit.is_some());
        Ok(found.map(|deployment| deployment.git_ref))
    }

    /// The newest deployment before the present one that succeeded with another commit. Where the present one is itself a
    /// rollback, "before" counts from the one it went back to.
    async fn before_present(
        &self,
        service: &ServiceName,
        sandbox: &SandboxName,
    ) -> Result<Deployment, PlatformError> {
        let mut before = None;
        let mut present: Option<Deployment> = None;
        loop {
            let filter = DeploymentFilter {
                service: Some(service.clone()),
                sandbox: Some(sandbox.clone()),
                state: Some(StateFilter::Ended),
                before,
                limit: 50,
            };
            let page = self.deployments(filter).await?;
            for deployment in &page {
                if !matches!(deployment.outcome(), Some(Outcome::Succeeded {})) {
                    continue;
                }
                match &present {
                    None => present = Some(self.origin(deployment.clone()).await?),
                    Some(present)
                        if deployment.number < present.number && deployment.commit != present.commit =>
                    {
                        return Ok(deployment.clone());
                    }
                    Some(_) => {}
                }
            }
            before = match page.last() {
                Some(last) => Some(last.number),
                None => {
                    let (service, sandbox) = (service.clone(), sandbox.clone());
                    return Err(PlatformError::NothingToRollBack { service, sandbox });
                }
            };
        }
    }

    /// The deployment that first brought this one's commit, as far as it is a repetition.
    async fn origin(&self, mut deployment: Deployment) -> Result<Deployment, PlatformError> {
        while let (DeployKind::Rollback | DeployKind::Restart | DeployKind::Redeploy, Some(of)) =
            (deployment.kind, deployment.of)
        {
            deployment = self.deployment(DeploymentRef::Number(of)).await?;
        }
        Ok(deployment)
    }
}
