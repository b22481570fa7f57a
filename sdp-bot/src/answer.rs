//! What each command asks of the server, and which message answers it.
//!
//! Called by [`crate::bot`], one function per verb of the same name. Nothing is decided here that the server decides: who may
//! do what, which names exist, what a state allows.

mod act;
pub(crate) mod home;
mod locks;
mod login;
mod look;
mod places;
mod together;

use std::time::{Duration, Instant};

use sdp_core::api::CreateDeployment;
use sdp_core::client::ClientError;
use sdp_core::name::{IdempotencyKey, ServiceName};
use tokio::time::sleep;
use uuid::Uuid;

use crate::bot::{Asker, Reaction, Trouble};
use crate::command::{Deploy, RepoAddress, Wanted};
use crate::message::answer as say;
use crate::story::Begun;

/// How long it is asked again whether a deployment was taken.
const ASK_AGAIN_FOR: Duration = Duration::from_secs(60);
/// How long to wait before that.
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl Asker {
    pub(crate) async fn deploy(&self, deploy: Deploy) -> Result<Reaction, Trouble> {
        let Deploy { service, git_ref, sandbox, env } = deploy;
        let service = match service {
            Wanted::Service(service) => service,
            Wanted::Repo(address) => self.service_at(&address).await?,
        };
        let wanted = CreateDeployment { service, git_ref, sandbox, env, notify: None, git_credential: None };
        match self
            .once(|key| {
                let (client, wanted) = (self.client.clone(), wanted.clone());
                async move { client.deploy(&wanted, key.as_ref()).await }
            })
            .await
        {
            Ok(created) => Ok(Reaction::Follow(Begun::One(Box::new(created)))),
            Err(ClientError::Problem(problem)) if problem.code == "unknown_service" => {
                Err(say::unknown_service(&problem, &wanted).into())
            }
            Err(error) => {
                let services = std::slice::from_ref(&wanted.service);
                match self.in_the_way(&error, wanted.sandbox.as_ref(), services).await {
                    Some(message) => Err(message.into()),
                    None => Err(error.into()),
                }
            }
        }
    }

    /// Asks for a deployment until it is known whether it was taken: the key makes it safe to ask again where an answer was lost.
    pub(crate) async fn once<T, F>(&self, ask: impl Fn(Option<IdempotencyKey>) -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let key = self.key.clone().or_else(|| IdempotencyKey::parse(format!("bot-{}", Uuid::new_v4())).ok());
        let began = Instant::now();
        let mut answer = ask(key.clone()).await;
        let maybe_taken = matches!(answer, Err(ClientError::Broken { .. } | ClientError::TimedOut { .. }));
        while maybe_taken
            && key.is_some()
            && began.elapsed() < ASK_AGAIN_FOR
            && matches!(&answer, Err(error) if error.is_away())
        {
            sleep(ASK_AGAIN).await;
            answer = ask(key.clone()).await;
        }
        answer
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
