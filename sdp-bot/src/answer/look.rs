//! Commands that only look: status, list, who, where, open, logs, sandbox, branches.

use std::collections::HashMap;

use jiff::Timestamp;
use sdp_core::api::{Deployment, Instance, SandboxView};
use sdp_core::client::{ClientError, DeploymentFilter, InstanceFilter, StateFilter};
use sdp_core::id::DeploymentId;
use sdp_core::name::{SandboxName, ServiceName};

use crate::bot::{Asker, Reaction, Trouble};
use crate::command::{StatusOf, Target};
use crate::message::{Message, answer as say, down, login, output as say_output};
use crate::output::page_of;

/// How many lines `logs` shows when no number is given.
const LOG_LINES: u32 = 20;
/// How many lines of a running service it shows then.
const OUTPUT_LINES: u32 = 15;
/// How many running instances are looked up by branch name in one answer.
const MAX_LOOKED_UP: usize = 30;

impl Asker {
    pub(crate) async fn status(&self, of: Option<StatusOf>) -> Result<Message, Trouble> {
        let sandbox = match of {
            Some(StatusOf::Deployment(deployment)) => {
                let view = self.view(deployment).await?;
                let left = match view.deployment.instance.filter(|_| view.deployment.is_ended()) {
                    Some(instance) => Some(self.client.instance(instance).await?),
                    None => None,
                };
                return Ok(say::deployment_status(&view, left.as_ref(), Timestamp::now()));
            }
            Some(StatusOf::Sandbox(sandbox)) => sandbox,
            None => self.sandbox(None).await?,
        };
        match self.sandbox_status(&sandbox).await {
            Err(Trouble::Server(ClientError::Problem(problem))) if problem.status == 404 => {
                // People also ask for the status of a service.
                if let Ok(service) = sandbox.as_str().parse::<ServiceName>()
                    && self.client.service(&service).await.is_ok()
                {
                    return self.where_is(service).await;
                }
                if self.own_sandbox().await.is_ok_and(|own| own == sandbox) {
                    return Ok(say::sandbox_not_yet(&sandbox));
                }
                Err(ClientError::Problem(problem).into())
            }
            answer => answer,
        }
    }

    async fn sandbox_status(&self, sandbox: &SandboxName) -> Result<Message, Trouble> {
        let of = |state| DeploymentFilter {
            sandbox: Some(sandbox.clone()),
            state: Some(state),
            limit: Some(20),
            ..DeploymentFilter::default()
        };
        let (running, queued) = (of(StateFilter::Running), of(StateFilter::Queued));
        let all = InstanceFilter { sandbox: Some(sandbox.clone()), all: true, service: None };
        let (view, all, running, queued) = tokio::join!(
            self.client.sandbox(sandbox),
            self.client.instances(&all),
            self.client.deployments(&running),
            self.client.deployments(&queued)
        );
        let mut view = view?;
        view.instances.extend(down::down(&all?));
        let mut under_way = running?.deployments;
        under_way.extend(queued?.deployments);
        let branches = self.branches_of(&view.instances).await;
        Ok(say::sandbox(&view, &under_way, &branches, Timestamp::now()))
    }

    /// Which deployments started these instances, so that people see branches and not only commits. What cannot be
    /// looked up is left out.
    pub(super) async fn branches_of(&self, instances: &[Instance]) -> HashMap<DeploymentId, Deployment> {
        let mut found = HashMap::new();
        for instance in instances.iter().take(MAX_LOOKED_UP) {
            if let Ok(view) = self.client.deployment(instance.deployment.into()).await {
                found.insert(instance.deployment, view.deployment);
            }
        }
        found
    }

    pub(crate) async fn list(&self, all: bool) -> Result<Message, Trouble> {
        if all {
            return Ok(say::list(&self.client.sandboxes().await?, all, Timestamp::now()));
        }
        let (me, sandboxes) = tokio::join!(self.me(), self.client.sandboxes());
        let (me, mut sandboxes) = (me?, sandboxes?);
        let person = me.principal.as_person();
        if person.is_none() && me.chat_user.is_some() {
            return Err(login::no_sandbox_yet().into());
        }
        sandboxes.retain(|SandboxView { sandbox, .. }| match person {
            // The same person, whether they came by page or chat.
            Some(_) => sandbox.owner.as_person() == person,
            None => sandbox.owner == me.principal,
        });
        Ok(say::list(&sandboxes, all, Timestamp::now()))
    }

    pub(crate) async fn who(&self, service: ServiceName) -> Result<Message, Trouble> {
        let (instances, sandboxes) = self.instances_and_sandboxes(&service).await?;
        let branches = self.branches_of(&instances).await;
        Ok(say::who(&service, &instances, &sandboxes, &branches, Timestamp::now()))
    }

    pub(crate) async fn where_is(&self, service: ServiceName) -> Result<Message, Trouble> {
        let known = self.client.service(&service).await?;
        let filter = InstanceFilter { service: Some(service), sandbox: None, all: true };
        let instances = down::present(&self.client.instances(&filter).await?);
        Ok(say::where_is(&known, &instances))
    }

    async fn instances_and_sandboxes(
        &self,
        service: &ServiceName,
    ) -> Result<(Vec<Instance>, Vec<SandboxView>), Trouble> {
        let filter = InstanceFilter { service: Some(service.clone()), sandbox: None, all: true };
        let (known, instances, sandboxes) = tokio::join!(
            self.client.service(service),
            self.client.instances(&filter),
            self.client.sandboxes()
        );
        known?;
        Ok((down::present(&instances?), sandboxes?))
    }

    pub(crate) async fn open(
        &self,
        service: ServiceName,
        sandbox: Option<SandboxName>,
    ) -> Result<Message, Trouble> {
        let sandbox = self.sandbox(sandbox).await?;
        match self.there_in(&service, &sandbox).await? {
            Some(instance) if instance.state.is_over() => Err(self.down(&instance, LOG_LINES).await.into()),
            Some(instance) => Ok(say::open(&instance)),
            None => {
                // Whether there is such a service at all: the server says what was probably meant.
                self.client.service(&service).await?;
                Err(self.nothing_runs(Target::Service { service, sandbox: Some(sandbox) }).await?)
            }
        }
    }

    /// `watched`: whether what a service prints is worth being kept up to date.
    pub(crate) async fn logs(
        &self,
        of: Target,
        lines: Option<u32>,
        watched: bool,
    ) -> Result<Reaction, Trouble> {
        let (service, sandbox) = match of {
            Target::Deployment(deployment) => {
                let lines = lines.unwrap_or(LOG_LINES);
                let (view, window) =
                    tokio::join!(self.client.deployment(deployment), self.client.log_tail(deployment, lines));
                return Ok(Reaction::Say(say::build_log(&view?, &window?)));
            }
            Target::Service { service, sandbox } => (service, self.sandbox(sandbox).await?),
        };
        let lines = lines.unwrap_or(OUTPUT_LINES);
        match self.there_in(&service, &sandbox).await? {
            Some(instance) if instance.state.is_over() => {
                Ok(Reaction::Say(self.down(&instance, lines).await))
            }
            Some(instance) if watched => Ok(Reaction::Watch(Box::new(instance), lines)),
            Some(instance) => {
                let output = self.client.instance_output(instance.id, lines).await?;
                let page = page_of(&self.client, instance.id);
                Ok(Reaction::Say(say_output::last(&instance, &output, &page)))
            }
            None => {
                self.client.service(&service).await?;
                Err(self.nothing_runs(Target::Service { service, sandbox: Some(sandbox) }).await?)
            }
        }
    }

    async fn down(&self, instance: &Instance, lines: u32) -> Message {
        let branches = self.branches_of(std::slice::from_ref(instance)).await;
        let lines = usize::try_from(lines).unwrap_or(usize::MAX);
        down::message(instance, branches.get(&instance.deployment), lines)
    }

    pub(crate) async fn sandbox_delete(&self, name: &SandboxName) -> Result<Message, Trouble> {
        let view = self.client.sandbox(name).await?;
        self.client.delete_sandbox(name).await?;
        Ok(say::sandbox_deleted(&view))
    }

    pub(crate) async fn branches(
        &self,
        service: &ServiceName,
        text: Option<&str>,
    ) -> Result<Message, Trouble> {
        let list = self.client.branches(service, text).await?;
        Ok(say::branches(service, text, &list))
    }
}
