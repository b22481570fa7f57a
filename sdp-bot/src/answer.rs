//! What each command asks of the server, and which message answers it.
//!
//! Called by [`crate::bot`], one function per verb of the same name. Nothing is decided here that the server decides: who may
//! do what, which names exist, what a state allows.

mod act;
pub(crate) mod home;
mod login;
mod look;

use sdp_core::api::CreateDeployment;
use sdp_core::client::ClientError;
use sdp_core::name::{IdempotencyKey, ServiceName};
use uuid::Uuid;

use crate::bot::{Asker, Reaction, Trouble};
use crate::command::{Deploy, RepoAddress, Wanted};
use crate::message::answer as say;

impl Asker {
    pub(crate) async fn deploy(&self, deploy: Deploy) -> Result<Reaction, Trouble> {
        let Deploy { service, git_ref, sandbox, env } = deploy;
        let service = match service {
            Wanted::Service(service) => service,
            Wanted::Repo(address) => self.service_at(&address).await?,
        };
        let wanted = CreateDeployment { service, git_ref, sandbox, env, notify: None, git_credential: None };
        // The key makes it safe to ask again when the connection breaks before the answer is there.
        let key = self.key.clone().or_else(|| IdempotencyKey::parse(format!("bot-{}", Uuid::new_v4())).ok());
        let created = match self.client.deploy(&wanted, key.as_ref()).await {
            Err(ClientError::Broken { .. }) if key.is_some() => {
                self.client.deploy(&wanted, key.as_ref()).await
            }
            answer => answer,
        };
        match created {
            Ok(created) => Ok(Reaction::Follow(Box::new(created))),
            Err(ClientError::Problem(problem)) if problem.code == "unknown_service" => {
                Err(say::unknown_service(&problem, &wanted).into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The one service whose code is at an address.
    async fn service_at(&self, address: &RepoAddress) -> Result<ServiceName, Trouble> {
        let services = self.client.services().await?;
        let mut there: Vec<ServiceName> = services
            .into_iter()
            .filter(|service| RepoAddress::of(&service.repo) == *address)
            .map(|service| service.name)
            .collect();
        if there.len() > 1
            && let Some(named) = there.iter().position(|name| name.as_str() == address.last())
        {
            return Ok(there.swap_remove(named));
        }
        match (there.pop(), there.is_empty()) {
            (Some(service), true) => Ok(service),
            (None, _) => Err(say::no_service_at(address).into()),
            (Some(last), false) => {
                there.push(last);
                Err(say::several_services_at(address, &there).into())
            }
        }
    }
}
