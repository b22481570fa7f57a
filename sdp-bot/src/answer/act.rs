//! Cancel, stop, restart, redeploy, rollback: on a number, or on a service in a sandbox. Drain and resume: on an agent.

use sdp_core::api::{AgainRequest, Deployment, DeploymentCreated, Instance};
use sdp_core::client::{ClientError, DeploymentFilter, InstanceFilter, StateFilter};
use sdp_core::deployment::Outcome;
use sdp_core::id::DeploymentRef;
use sdp_core::name::{AgentName, IdempotencyKey, SandboxName, ServiceName};
use sdp_core::sandbox::InstanceState;

use super::locks::is_lock;
use crate::bot::{Asker, Reaction, Trouble};
use crate::command::{Target, Verb};
use crate::message::{Message, agents, answer as say, down::down};
use crate::story::Begun;

impl Asker {
    pub(crate) async fn act(&self, verb: Verb, on: Target) -> Result<Reaction, Trouble> {
        match verb {
            Verb::Cancel => self.cancel(on).await,
            Verb::Stop => self.stop(on).await,
            Verb::Restart => self.restart(on).await,
            Verb::Redeploy => {
                let deployment = match on {
                    Target::Deployment(deployment) => deployment,
                    Target::Service { service, sandbox } => {
                        let sandbox = self.sandbox(sandbox).await?;
                        let newest = self.deployments(&service, &sandbox, None, 1).await?.into_iter().next();
                        newest.ok_or_else(|| say::never_deployed(&service, &sandbox))?.id.into()
                    }
                };
                self.redeploy(deployment).await
            }
            Verb::Rollback => {
                let deployment = match on {
                    Target::Deployment(deployment) => deployment,
                    Target::Service { service, sandbox } => {
                        let sandbox = self.sandbox(sandbox).await?;
                        let ended =
                            self.deployments(&service, &sandbox, Some(StateFilter::Ended), 50).await?;
                        let succeeded =
                            |past: &Deployment| matches!(past.outcome(), Some(Outcome::Succeeded {}));
                        let newest = ended.into_iter().find(succeeded);
                        newest.ok_or_else(|| say::nothing_to_go_back_to(&service, &sandbox))?.id.into()
                    }
                };
                {
                    let ask = |key: Option<IdempotencyKey>| {
                        let client = self.client.clone();
                        async move { client.rollback(deployment, &AgainRequest::default(), key.as_ref()).await }
                    };
                    self.again_of(self.once(ask).await, deployment).await
                }
            }
        }
    }

    /// A lock may stand in the way of what was deployed before, too.
    async fn again(
        &self,
        created: Result<DeploymentCreated, ClientError>,
        place: Option<(&SandboxName, &ServiceName)>,
    ) -> Result<Reaction, Trouble> {
        let error = match created {
            Ok(created) => return Ok(Reaction::Follow(Begun::One(Box::new(created)))),
            Err(error) => error,
        };
        if let Some((sandbox, service)) = place
            && let Some(message) = self.in_the_way(&error, Some(sandbox), std::slice::from_ref(service)).await
        {
            return Err(message.into());
        }
        Err(error.into())
    }

    /// The same for what is named by the deployment that is to be taken again.
    async fn again_of(
        &self,
        created: Result<DeploymentCreated, ClientError>,
        of: DeploymentRef,
    ) -> Result<Reaction, Trouble> {
        let locked = matches!(&created, Err(error) if is_lock(error));
        let view = match locked {
            true => self.client.deployment(of).await.ok(),
            false => None,
        };
        let place = view.as_ref().map(|view| (&view.deployment.sandbox, &view.deployment.service));
        self.again(created, place).await
    }

    async fn redeploy(&self, deployment: DeploymentRef) -> Result<Reaction, Trouble> {
        let ask = |key: Option<IdempotencyKey>| {
            let client = self.client.clone();
            async move { client.redeploy(deployment, &AgainRequest::default(), key.as_ref()).await }
        };
        self.again_of(self.once(ask).await, deployment).await
    }

    async fn cancel(&self, on: Target) -> Result<Reaction, Trouble> {
        let deployment = match on {
            Target::Deployment(deployment) => deployment,
            Target::Service { service, sandbox } => {
                let sandbox = self.sandbox(sandbox).await?;
                let unfinished = self.unfinished(&service, &sandbox).await?;
                unfinished.first().ok_or_else(|| say::nothing_to_cancel(&service, &sandbox))?.id.into()
            }
        };
        let view = self.client.cancel(deployment).await?;
        Ok(Reaction::Say(say::cancelling(&view.deployment)))
    }

    async fn stop(&self, on: Target) -> Result<Reaction, Trouble> {
        match self.there(&on).await? {
            // Stopping what is down says that it was seen: from then on the baseline answers.
            Some(instance) => {
                let stopped = self.client.stop_instance(instance.id).await?;
                Ok(Reaction::Say(say::stopping(&stopped)))
            }
            None => Err(self.nothing_runs(on).await?),
        }
    }

    async fn restart(&self, on: Target) -> Result<Reaction, Trouble> {
        match self.there(&on).await? {
            // Nothing is there to be replaced; its kept build is started.
            Some(instance) if instance.state.is_over() => self.redeploy(instance.deployment.into()).await,
            Some(instance) => {
                let ask = |key: Option<IdempotencyKey>| {
                    let client = self.client.clone();
                    async move {
                        client.restart_instance(instance.id, &AgainRequest::default(), key.as_ref()).await
                    }
                };
                self.again(self.once(ask).await, Some((&instance.sandbox, &instance.service))).await
            }
            None => Err(self.nothing_runs(on).await?),
        }
    }

    /// Gives an agent no new work, or work again.
    pub(crate) async fn drain(&self, agent: &AgentName, draining: bool) -> Result<Message, Trouble> {
        let view = match draining {
            true => self.client.drain_agent(agent).await?,
            false => self.client.resume_agent(agent).await?,
        };
        Ok(agents::drained(&view))
    }

    /// What runs or is down; a number names what that deployment left running.
    async fn there(&self, on: &Target) -> Result<Option<Instance>, Trouble> {
        match on {
            Target::Deployment(deployment) => {
                let view = self.client.deployment(*deployment).await?;
                let Some(instance) = view.deployment.instance else { return Ok(None) };
                let instance = self.client.instance(instance).await?;
                if !instance.state.is_over() {
                    return Ok(Some(instance));
                }
                let now = self.there_in(&instance.service, &instance.sandbox).await?;
                Ok(now.filter(|now| now.id == instance.id))
            }
            Target::Service { service, sandbox } => {
                let sandbox = self.sandbox(sandbox.clone()).await?;
                self.there_in(service, &sandbox).await
            }
        }
    }

    /// What serves a service in a sandbox: the live one, else the newest that is not on its way out, else the one that
    /// is down.
    pub(super) async fn there_in(
        &self,
        service: &ServiceName,
        sandbox: &SandboxName,
    ) -> Result<Option<Instance>, Trouble> {
        let mut filter =
            InstanceFilter { service: Some(service.clone()), sandbox: Some(sandbox.clone()), all: false };
        let mut instances = self.client.instances(&filter).await?;
        instances.retain(|instance| {
            !instance.state.is_over() && !matches!(instance.state, InstanceState::Draining { .. })
        });
        let live = instances.iter().position(|instance| {
            matches!(instance.state, InstanceState::Live {} | InstanceState::Unhealthy {})
        });
        if instances.is_empty() {
            filter.all = true;
            return Ok(down(&self.client.instances(&filter).await?).pop());
        }
        Ok(Some(instances.swap_remove(live.unwrap_or(0))))
    }

    /// Nothing runs; but perhaps something is on its way, which can be cancelled.
    pub(super) async fn nothing_runs(&self, on: Target) -> Result<Trouble, Trouble> {
        Ok(match on {
            Target::Deployment(deployment) => {
                let view = self.client.deployment(deployment).await?;
                say::nothing_runs_of(&view.deployment).into()
            }
            Target::Service { service, sandbox } => {
                let sandbox = self.sandbox(sandbox).await?;
                let unfinished = self.unfinished(&service, &sandbox).await?;
                say::nothing_runs(&service, &sandbox, unfinished.first()).into()
            }
        })
    }

    /// Deployments that have not ended, the running ones first.
    pub(super) async fn unfinished(
        &self,
        service: &ServiceName,
        sandbox: &SandboxName,
    ) -> Result<Vec<Deployment>, Trouble> {
        let mut unfinished = self.deployments(service, sandbox, Some(StateFilter::Running), 10).await?;
        unfinished.extend(self.deployments(service, sandbox, Some(StateFilter::Queued), 10).await?);
        Ok(unfinished)
    }

    async fn deployments(
        &self,
        service: &ServiceName,
        sandbox: &SandboxName,
        state: Option<StateFilter>,
        limit: u32,
    ) -> Result<Vec<Deployment>, Trouble> {
        let filter = DeploymentFilter {
            service: Some(service.clone()),
            sandbox: Some(sandbox.clone()),
            state,
            limit: Some(limit),
            cursor: None,
        };
        Ok(self.client.deployments(&filter).await?.deployments)
    }

    /// A deployment as it stands, by number.
    pub(super) async fn view(
        &self,
        deployment: DeploymentRef,
    ) -> Result<sdp_core::api::DeploymentView, Trouble> {
        Ok(self.client.deployment(deployment).await?)
    }
}
