//! Sandboxes with their end, where their requests go, and what there is to choose from: sandbox, routes, route, vars, templates,
//! environments.

use jiff::Timestamp;
use sdp_core::api::{
    CreateSandbox as WantedSandbox, RenewSandbox, RouteChoice, SandboxView, SaveSandbox, TemplateChoice,
};
use sdp_core::client::{ClientError, RouteQuestion};
use sdp_core::name::{SandboxName, ServiceName};
use url::Url;

use crate::bot::{Asker, Reaction, Trouble};
use crate::command::{CreateSandbox, Longer, MAX_HOURS, MadeFrom, Mistake, Route, RouteTo};
use crate::message::{Message, answer as say_answer, places as say};

impl Asker {
    /// A sandbox, and what is said where one's own is not there yet.
    async fn sandbox_view(&self, name: Option<SandboxName>) -> Result<SandboxView, Trouble> {
        let (own, name) = match name {
            Some(name) => (false, name),
            None => (true, self.own_sandbox().await?),
        };
        match self.client.sandbox(&name).await {
            Err(ClientError::Problem(problem)) if own && problem.code == "unknown_sandbox" => {
                Err(say_answer::sandbox_not_yet(&name).into())
            }
            view => Ok(view?),
        }
    }

    pub(crate) async fn sandbox_show(&self, name: Option<SandboxName>) -> Result<Message, Trouble> {
        Ok(say::sandbox(&self.sandbox_view(name).await?, Timestamp::now()))
    }

    pub(crate) async fn sandbox_create(&self, create: CreateSandbox) -> Result<Message, Trouble> {
        let CreateSandbox { name, from, environment, lifetime } = create;
        let (template, from) = match from {
            Some(MadeFrom::Template(name)) => (Some(TemplateChoice { name, version: None }), None),
            Some(MadeFrom::Sandbox(name)) => (None, Some(name)),
            None => (None, None),
        };
        let sandbox = SaveSandbox {
            environment,
            template,
            from,
            lifetime_hours: lifetime.map(|lifetime| lifetime.as_hours()),
            ..SaveSandbox::default()
        };
        self.client
            .create_sandbox(&WantedSandbox { name: Some(name.clone()), branch: None, sandbox })
            .await?;
        Ok(say::created(&self.client.sandbox(&name).await?, Timestamp::now()))
    }

    pub(crate) async fn sandbox_extend(
        &self,
        name: Option<SandboxName>,
        longer: Longer,
    ) -> Result<Message, Trouble> {
        let name = self.sandbox(name).await?;
        let now = Timestamp::now();
        let hours = match longer {
            Longer::Renewed => None,
            Longer::For(lifetime) => Some(lifetime.as_hours()),
            Longer::By(lifetime) => {
                let end = self.client.sandbox(&name).await?.sandbox.expires_at;
                let seconds = end.map_or(0, |end| end.duration_since(now).as_secs().max(0));
                let hours = u32::try_from(seconds.unsigned_abs().div_ceil(3600)).unwrap_or(u32::MAX);
                Some(hours.saturating_add(lifetime.as_hours()).min(MAX_HOURS))
            }
        };
        let renewed = self.client.renew_sandbox(&name, &RenewSandbox { hours, pinned: None }).await?;
        Ok(say::renewed(&renewed.sandbox, now))
    }

    pub(crate) async fn sandbox_pin(
        &self,
        name: Option<SandboxName>,
        pinned: bool,
    ) -> Result<Message, Trouble> {
        let name = self.sandbox(name).await?;
        let pin = RenewSandbox { hours: None, pinned: Some(pinned) };
        let renewed = self.client.renew_sandbox(&name, &pin).await?;
        Ok(say::renewed(&renewed.sandbox, Timestamp::now()))
    }

    /// For everybody who reads along.
    pub(crate) async fn sandbox_share(&self, name: Option<SandboxName>) -> Result<Reaction, Trouble> {
        let (view, me) = tokio::join!(self.sandbox_view(name), self.me());
        let by = me?.principal.to_string();
        Ok(Reaction::Aloud(Box::new(say::share(&view?, &by, Timestamp::now()))))
    }

    pub(crate) async fn routes(&self, sandbox: Option<SandboxName>) -> Result<Message, Trouble> {
        Ok(say::routes(&self.sandbox_view(sandbox).await?, Timestamp::now()))
    }

    pub(crate) async fn route(&self, route: Route) -> Result<Message, Trouble> {
        let Route { service, sandbox, to } = route;
        let sandbox = self.sandbox(sandbox).await?;
        let target = match to {
            RouteTo::Baseline => Some(RouteChoice::Baseline {}),
            // Its own is what it has without a choice.
            RouteTo::Sandbox(other) if other == sandbox => None,
            RouteTo::Sandbox(sandbox) => Some(RouteChoice::Borrowed { sandbox }),
            RouteTo::External(address) => Some(RouteChoice::External { address }),
            RouteTo::Reset => None,
        };
        let view = match self.client.choose_route(&sandbox, &service, target.clone()).await {
            Ok(view) => view,
            Err(error) => {
                return Err(match self.in_the_way(&error, Some(&sandbox), &[service]).await {
                    Some(message) => message.into(),
                    None => error.into(),
                });
            }
        };
        Ok(say::routed(&service, &view.sandbox, target.as_ref()))
    }

    pub(crate) async fn routes_explain(
        &self,
        what: String,
        sandbox: Option<SandboxName>,
    ) -> Result<Message, Trouble> {
        let mut question = asked_of(&what)?;
        if let Some(sandbox) = &sandbox {
            let access = self.client.sandbox(sandbox).await?.access;
            question.headers.push((access.header, access.key.to_string()));
        }
        Ok(say::explained(&what, &self.client.explain_route(&question).await?))
    }

    pub(crate) async fn vars(
        &self,
        service: ServiceName,
        sandbox: Option<SandboxName>,
    ) -> Result<Message, Trouble> {
        let sandbox = self.sandbox_view(sandbox).await?.sandbox.name;
        let variables = self.client.variables(&sandbox, &service).await?;
        Ok(say::variables(&service, &sandbox, &variables))
    }
}

/// Host and path of what somebody wants explained.
fn asked_of(what: &str) -> Result<RouteQuestion, Mistake> {
    let question = |host: Option<String>, path: &str| RouteQuestion {
        host,
        path: Some(path.to_owned()),
        headers: Vec::new(),
    };
    if what.starts_with('/') {
        return Ok(question(None, what));
    }
    let whole = if what.contains("://") { what.to_owned() } else { format!("http://{what}") };
    match whole.parse::<Url>() {
        Ok(url) if url.has_host() => Ok(question(url.host_str().map(str::to_owned), url.path())),
        _ => Err(Mistake {
            code: "incomplete_command",
            problem: "That is neither an address nor a path.".to_owned(),
            hint: Some("routes explain /payments/refunds in qa-42".to_owned()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_path_alone_has_none() {
        for (what, host, path) in [
            ("/payments/x", None, "/payments/x"),
            ("https://api.shop.test/payments?x=1", Some("api.shop.test"), "/payments"),
            ("api.shop.test", Some("api.shop.test"), "/"),
            ("api.shop.test:8080/x", Some("api.shop.test"), "/x"),
        ] {
            let question = asked_of(what).unwrap();
            assert_eq!((question.host.as_deref(), question.path.as_deref()), (host, Some(path)), "{what}");
        }
        assert_eq!(asked_of("http://").unwrap_err().code, "incomplete_command");
    }
}
