//! The verbs of environments, templates, sandboxes, routes, locks and batches.

use reqwest::Method;

use super::verbs::with_query;
use super::{Client, ClientError, REQUEST_TIMEOUT};
use crate::api::{
    BatchView, ChooseRoute, CreateBatch, CreateLock, CreateProbe, CreateSandbox, Environment,
    EnvironmentList, Explanation, Lock, LockList, ProbeReport, RenewSandbox, RouteChoice, SandboxList,
    SandboxView, SaveSandbox, Template, TemplateList, TemplateSpec, VariableList, VariableView,
};
use crate::id::{BatchId, LockId};
use crate::name::{EnvironmentName, IdempotencyKey, SandboxName, ServiceName, TemplateName};

/// Which request [`Client::explain_route`] explains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteQuestion {
    /// The host that it is sent to; without one a router's own address.
    pub host: Option<String>,
    /// Its path, beginning with `/`; without one: `/`.
    pub path: Option<String>,
    /// Its headers; a name may be there more than once.
    pub headers: Vec<(String, String)>,
}

/// Environments and templates.
#[expect(clippy::missing_errors_doc, reason = "every method fails in the same ways, with ClientError")]
impl Client {
    /// All environments, by name.
    pub async fn environments(&self) -> Result<Vec<Environment>, ClientError> {
        Ok(self.get::<EnvironmentList>(self.url(&["environments"])).await?.environments)
    }

    /// One environment.
    pub async fn environment(&self, name: &EnvironmentName) -> Result<Environment, ClientError> {
        self.get(self.url(&["environments", name.as_str()])).await
    }

    /// Makes an environment, or changes it.
    pub async fn save_environment(&self, environment: &Environment) -> Result<Environment, ClientError> {
        let url = self.url(&["environments", environment.name.as_str()]);
        self.json(self.request(Method::PUT, url).json(environment), REQUEST_TIMEOUT).await
    }

    /// Deletes an environment in which nothing is.
    pub async fn delete_environment(&self, name: &EnvironmentName) -> Result<(), ClientError> {
        self.nothing(self.request(Method::DELETE, self.url(&["environments", name.as_str()]))).await
    }

    /// The newest version of every template, by name.
    pub async fn templates(&self) -> Result<Vec<Template>, ClientError> {
        Ok(self.get::<TemplateList>(self.url(&["templates"])).await?.templates)
    }

    /// A version of a template; without one the newest.
    pub async fn template(&self, name: &TemplateName, version: Option<u32>) -> Result<Template, ClientError> {
        let url = self.url(&["templates", name.as_str()]);
        self.get(with_query(url, &[("version", version.map(|version| version.to_string()))])).await
    }

    /// All versions of a template, the newest first.
    pub async fn template_versions(&self, name: &TemplateName) -> Result<Vec<Template>, ClientError> {
        let url = self.url(&["templates", name.as_str(), "versions"]);
        Ok(self.get::<TemplateList>(url).await?.templates)
    }

    /// Makes a new version of a template, if it says anything new; the version that says so.
    pub async fn save_template(
        &self,
        name: &TemplateName,
        spec: &TemplateSpec,
    ) -> Result<Template, ClientError> {
        let url = self.url(&["templates", name.as_str()]);
        self.json(self.request(Method::PUT, url).json(spec), REQUEST_TIMEOUT).await
    }

    /// Deletes a template with all its versions. Sandboxes that were made from it stay.
    pub async fn delete_template(&self, name: &TemplateName) -> Result<(), ClientError> {
        self.nothing(self.request(Method::DELETE, self.url(&["templates", name.as_str()]))).await
    }
}

/// Sandboxes and their routes.
#[expect(clippy::missing_errors_doc, reason = "every method fails in the same ways, with ClientError")]
impl Client {
    /// All sandboxes, by name, with what runs in them and where their requests go.
    pub async fn sandboxes(&self) -> Result<Vec<SandboxView>, ClientError> {
        Ok(self.get::<SandboxList>(self.url(&["sandboxes"])).await?.sandboxes)
    }

    /// One sandbox.
    pub async fn sandbox(&self, name: &SandboxName) -> Result<SandboxView, ClientError> {
        self.get(self.url(&["sandboxes", name.as_str()])).await
    }

    /// Makes a sandbox, or changes and renews it.
    pub async fn save_sandbox(
        &self,
        name: &SandboxName,
        wanted: &SaveSandbox,
    ) -> Result<SandboxView, ClientError> {
        let url = self.url(&["sandboxes", name.as_str()]);
        self.json(self.request(Method::PUT, url).json(wanted), REQUEST_TIMEOUT).await
    }

    /// Makes a sandbox with a name that is free, or the one of a branch, which is renewed if it is there already.
    pub async fn create_sandbox(&self, wanted: &CreateSandbox) -> Result<SandboxView, ClientError> {
        self.post(&["sandboxes"], wanted).await
    }

    /// Stops everything in a sandbox and deletes it.
    pub async fn delete_sandbox(&self, name: &SandboxName) -> Result<(), ClientError> {
        self.nothing(self.request(Method::DELETE, self.url(&["sandboxes", name.as_str()]))).await
    }

    /// Moves a sandbox's end.
    pub async fn renew_sandbox(
        &self,
        name: &SandboxName,
        renew: &RenewSandbox,
    ) -> Result<SandboxView, ClientError> {
        self.post(&["sandboxes", name.as_str(), "renew"], renew).await
    }

    /// Says where a sandbox's requests for a service go; `None`: to what was deployed there, or else the baseline.
    pub async fn choose_route(
        &self,
        sandbox: &SandboxName,
        service: &ServiceName,
        target: Option<RouteChoice>,
    ) -> Result<SandboxView, ClientError> {
        let url = self.url(&["sandboxes", sandbox.as_str(), "routes", service.as_str()]);
        self.json(self.request(Method::PUT, url).json(&ChooseRoute { target }), REQUEST_TIMEOUT).await
    }

    /// The variables that a service's instances get in a sandbox, by name, and where each value comes from.
    pub async fn variables(
        &self,
        sandbox: &SandboxName,
        service: &ServiceName,
    ) -> Result<Vec<VariableView>, ClientError> {
        let url = self.url(&["sandboxes", sandbox.as_str(), "variables"]);
        let url = with_query(url, &[("service", Some(service.to_string()))]);
        Ok(self.get::<VariableList>(url).await?.variables)
    }

    /// Sends a request through a sandbox's router as the sandbox's, and says which service did not pass its mark on.
    pub async fn probe(
        &self,
        sandbox: &SandboxName,
        probe: &CreateProbe,
    ) -> Result<ProbeReport, ClientError> {
        self.post(&["sandboxes", sandbox.as_str(), "probe"], probe).await
    }

    /// Where the routers send a request, and why.
    pub async fn explain_route(&self, asked: &RouteQuestion) -> Result<Explanation, ClientError> {
        let RouteQuestion { host, path, headers } = asked;
        let mut query = vec![("host", host.clone()), ("path", path.clone())];
        query.extend(headers.iter().map(|(name, value)| ("header", Some(format!("{name}:{value}")))));
        self.get(with_query(self.url(&["routes", "explain"]), &query)).await
    }
}

/// Locks, and several deployments at once.
#[expect(clippy::missing_errors_doc, reason = "every method fails in the same ways, with ClientError")]
impl Client {
    /// All locks and freezes, the oldest first.
    pub async fn locks(&self) -> Result<Vec<Lock>, ClientError> {
        Ok(self.get::<LockList>(self.url(&["locks"])).await?.locks)
    }

    /// Sets a lock or a freeze. One's own in the same place is replaced.
    pub async fn lock(&self, wanted: &CreateLock) -> Result<Lock, ClientError> {
        self.post(&["locks"], wanted).await
    }

    /// Ends a lock or a freeze.
    pub async fn unlock(&self, lock: LockId) -> Result<(), ClientError> {
        self.nothing(self.request(Method::DELETE, self.url(&["locks", &lock.to_string()]))).await
    }

    /// Asks for several deployments into one sandbox together. With a key the request is safe to repeat.
    pub async fn deploy_batch(
        &self,
        wanted: &CreateBatch,
        key: Option<&IdempotencyKey>,
    ) -> Result<BatchView, ClientError> {
        let request = self.request(Method::POST, self.url(&["batches"])).json(wanted);
        self.once(request, key).await
    }

    /// A batch and its deployments as they stand.
    pub async fn batch(&self, batch: BatchId) -> Result<BatchView, ClientError> {
        self.get(self.url(&["batches", &batch.to_string()])).await
    }

    /// Waits until all deployments of a batch have ended, however long that takes. A server that is away is waited for, at most ten
    /// minutes at a time.
    pub async fn wait_batch(&self, batch: BatchId) -> Result<BatchView, ClientError> {
        let url = self.url(&["batches", &batch.to_string()]);
        self.held(url, |view: &BatchView| view.batch.outcome.is_some()).await
    }
}
