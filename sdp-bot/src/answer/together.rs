//! Several services deployed together, and several deployments cancelled together.

use std::collections::BTreeMap;

use sdp_core::api::{BatchService, CreateBatch, TemplateChoice};
use sdp_core::id::DeploymentRef;
use sdp_core::name::{IdempotencyKey, ServiceName};

use crate::bot::{Asker, Reaction, Trouble};
use crate::command::Together;
use crate::message::{Message, answer as say};
use crate::story::Begun;

impl Asker {
    pub(crate) async fn deploy_together(&self, together: Together) -> Result<Reaction, Trouble> {
        let Together { template, services, sandbox, env } = together;
        let named: Vec<ServiceName> = services.iter().map(|(service, _)| service.clone()).collect();
        let wanted = CreateBatch {
            sandbox,
            template: template.map(|name| TemplateChoice { name, version: None }),
            services: services
                .into_iter()
                .map(|(service, git_ref)| BatchService { service, git_ref: Some(git_ref), env: env.clone() })
                .collect(),
            notify: None,
            git_credential: None,
        };
        let ask = |key: Option<IdempotencyKey>| {
            let (client, wanted) = (self.client.clone(), wanted.clone());
            async move { client.deploy_batch(&wanted, key.as_ref()).await }
        };
        match self.once(ask).await {
            Ok(view) => Ok(Reaction::Follow(Begun::Several(Box::new(view)))),
            Err(error) => {
                let mut services = named;
                if let Some(template) = &wanted.template
                    && let Ok(template) = self.client.template(&template.name, None).await
                {
                    services.extend(template.spec.services.into_keys());
                }
                match self.in_the_way(&error, wanted.sandbox.as_ref(), &services).await {
                    Some(message) => Err(message.into()),
                    None => Err(error.into()),
                }
            }
        }
    }

    /// Cancels each; what could not be cancelled does not keep the others.
    pub(crate) async fn cancel_all(&self, all: Vec<DeploymentRef>) -> Result<Message, Trouble> {
        let mut said = BTreeMap::new();
        let mut first_refusal = None;
        for (n, deployment) in all.into_iter().enumerate() {
            match self.client.cancel(deployment).await {
                Ok(view) => drop(said.insert(n, say::cancelling(&view.deployment))),
                Err(error) if error.code() == "already_ended" => {
                    let view = self.view(deployment).await?;
                    said.insert(n, say::cancelling(&view.deployment));
                }
                Err(error) => drop(first_refusal.get_or_insert(error)),
            }
        }
        match (first_refusal, said.is_empty()) {
            (Some(error), true) => Err(error.into()),
            (Some(error), false) => Ok(Message::joined(said.into_values().chain([say::refused(&error)]))),
            (None, _) => Ok(Message::joined(said.into_values())),
        }
    }
}
