//! lock, freeze, steal, unlock, locks; and what is said where one of them stops somebody.

use jiff::Timestamp;
use sdp_core::api::{CreateLock, Lock, LockKind};
use sdp_core::client::ClientError;
use sdp_core::lock::LockPlace;
use sdp_core::name::{EnvironmentName, SandboxName, ServiceName};

use crate::bot::{Asker, Trouble};
use crate::command::{Lock as Wanted, LockOf, LockVerb};
use crate::message::{Message, locks as say};

impl Asker {
    pub(crate) async fn locks(&self) -> Result<Message, Trouble> {
        Ok(say::locks(&self.client.locks().await?, Timestamp::now()))
    }

    pub(crate) async fn lock(&self, wanted: Wanted) -> Result<Message, Trouble> {
        let Wanted { verb, of, lifetime, reason } = wanted;
        let place = self.place_of(verb, &of).await?;
        let held = match verb {
            LockVerb::Steal => self.held(&place).await?,
            LockVerb::Lock | LockVerb::Freeze => None,
        };
        let Some(reason) = reason else {
            return Err(say::why_steal(&of, held.as_ref(), Timestamp::now()).into());
        };
        let wanted = CreateLock {
            environment: Some(place.environment.clone()),
            sandbox: place.sandbox.clone(),
            service: place.service.clone(),
            kind: if verb == LockVerb::Freeze { LockKind::Freeze } else { LockKind::Lock },
            reason,
            hours: lifetime.map(|lifetime| lifetime.as_hours()),
            steal: verb == LockVerb::Steal,
        };
        match self.client.lock(&wanted).await {
            Ok(lock) => {
                let stolen = held.filter(|held| !held.is_of(&lock.owner));
                Ok(say::set(&lock, stolen.as_ref(), Timestamp::now()))
            }
            Err(error) if is_lock(&error) => match self.held(&place).await? {
                Some(held) => Err(say::in_the_way(&held, Timestamp::now()).into()),
                None => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) async fn unlock(&self, of: LockOf) -> Result<Message, Trouble> {
        let locks = self.client.locks().await?;
        // A sandbox before an environment of the same name.
        let is_it = |lock: &&Lock| {
            lock.place.service == of.service
                && lock.place.sandbox.as_ref().is_some_and(|sandbox| *sandbox == of.place)
        };
        let of_environment = |lock: &&Lock| {
            lock.place.service == of.service
                && lock.place.sandbox.is_none()
                && lock.place.environment.as_str() == of.place.as_str()
        };
        let Some(lock) = locks.iter().find(is_it).or_else(|| locks.iter().find(of_environment)) else {
            return Err(say::none_there(&of).into());
        };
        self.client.unlock(lock.id).await?;
        Ok(say::ended(lock))
    }

    /// The lock of exactly this place.
    async fn held(&self, place: &LockPlace) -> Result<Option<Lock>, Trouble> {
        Ok(self.client.locks().await?.into_iter().find(|lock| lock.place == *place))
    }

    /// What a name means: a sandbox, else an environment.
    async fn place_of(&self, verb: LockVerb, of: &LockOf) -> Result<LockPlace, Trouble> {
        let service = of.service.clone();
        match self.client.sandbox(&of.place).await {
            Ok(view) => {
                let environment = view.sandbox.environment;
                return Ok(LockPlace { environment, sandbox: Some(of.place.clone()), service });
            }
            Err(error) if error.code() == "unknown_sandbox" => {}
            Err(error) => return Err(error.into()),
        }
        let environments = self.client.environments().await?;
        let name = EnvironmentName::parse(of.place.as_str()).ok();
        if let Some(environment) = name.filter(|name| environments.iter().any(|known| known.name == *name)) {
            return Ok(LockPlace { environment, sandbox: None, service });
        }
        if service.is_none()
            && let Ok(service) = ServiceName::parse(of.place.as_str())
            && self.client.service(&service).await.is_ok()
        {
            return Err(say::where_of(verb, &service).into());
        }
        Err(say::no_such_place(of).into())
    }

    /// The lock that keeps somebody from changing a service in a sandbox, if the server's refusal is about one.
    pub(crate) async fn in_the_way(
        &self,
        error: &ClientError,
        sandbox: Option<&SandboxName>,
        services: &[ServiceName],
    ) -> Option<Message> {
        if !is_lock(error) {
            return None;
        }
        let sandbox = match sandbox {
            Some(sandbox) => sandbox.clone(),
            None => self.me().await.ok()?.own_sandbox,
        };
        let (locks, view) = tokio::join!(self.client.locks(), self.client.sandbox(&sandbox));
        let (locks, me) = (locks.ok()?, self.me().await.ok()?);
        let environment = view.ok().map(|view| view.sandbox.environment);
        let now = Timestamp::now();
        let covers = |lock: &&Lock| {
            // One that is not there yet has no environment that could be asked for.
            let environment = environment.as_ref().unwrap_or(&lock.place.environment);
            lock.stops(&me.principal, now)
                && services.iter().any(|service| lock.place.covers(environment, &sandbox, service))
        };
        locks.iter().find(covers).map(|lock| say::in_the_way(lock, now))
    }
}

pub(super) fn is_lock(error: &ClientError) -> bool {
    matches!(error.code(), "locked" | "frozen")
}
