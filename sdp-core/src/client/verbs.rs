//! The verbs, one method each, named as everywhere else.

use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::{Method, Response};
use serde::de::DeserializeOwned;
use tokio::time::{sleep, timeout};
use url::Url;

use super::feed::jitter;
use super::{Client, ClientError, FEED_SILENCE, REQUEST_TIMEOUT};
use crate::api::{
    AgainRequest, AgentList, AgentView, BindingInfo, BindingList, BranchList, CreateDeployment,
    CreateSignInLink, CreateToken, DeploymentCreated, DeploymentList, DeploymentView, EnrolmentCreated,
    IDEMPOTENCY_KEY, Instance, InstanceList, InstanceOutput, LogMatches, LogWindow, LoginLink, Me, Person,
    PersonList, RepositoryList, SecretInfo, SecretList, Service, ServiceList, SessionInfo, SessionList,
    SetRole, SetSecret, SignInLink, TokenCreated, TokenInfo, TokenList,
};
use crate::deployment::Step;
use crate::id::{BindingId, DeploymentRef, InstanceId, SessionId};
use crate::name::{AgentName, EnvName, IdempotencyKey, PersonName, SandboxName, ServiceName, TokenName};
use crate::principal::Role;
use crate::wire::Stream;

/// How long one held request of [`Client::wait`] asks the server to hold it; proxies cut at 60 s.
const HOLD: Duration = Duration::from_secs(50);
/// How long [`Client::wait`] bears with a server that is away before it gives up.
const PATIENCE: Duration = Duration::from_secs(600);

/// Which deployments are listed; all conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeploymentFilter {
    /// Only of this service.
    pub service: Option<ServiceName>,
    /// Only in this sandbox.
    pub sandbox: Option<SandboxName>,
    /// Only in this state.
    pub state: Option<StateFilter>,
    /// At most so many on a page; the server has a limit of its own.
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// Where a deployment stands, as a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateFilter {
    /// It waits.
    Queued,
    /// It is being worked on.
    Running,
    /// It is over.
    Ended,
}

impl StateFilter {
    /// As in the query: `queued`, `running`, `ended`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Ended => "ended",
        }
    }
}

/// Which instances are listed; all conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstanceFilter {
    /// Only of this service.
    pub service: Option<ServiceName>,
    /// Only in this sandbox.
    pub sandbox: Option<SandboxName>,
    /// Those that are over, too.
    pub all: bool,
}

/// What [`Client::search_log`] searches for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSearch {
    /// Plain text, within one line as the log page shows it; at most 256 bytes.
    pub text: String,
    /// Whether upper and lower case differ.
    pub match_case: bool,
    /// Only lines of this step.
    pub step: Option<Step>,
    /// Only lines of this stream.
    pub stream: Option<Stream>,
    /// Lines before this one are not looked at, nor counted.
    pub first: Option<u64>,
    /// Matches are listed from this line on, itself included.
    pub from: Option<u64>,
    /// Towards older lines; without `from`, the newest matches.
    pub up: bool,
    /// At most so many are listed; the server has a limit of its own.
    pub limit: Option<u32>,
}

/// A log as the build printed it, chunk by chunk.
#[derive(Debug)]
pub struct RawLog {
    client: Client,
    response: Response,
}

impl RawLog {
    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// The connection broke, or nothing came for [`FEED_SILENCE`].
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        match timeout(FEED_SILENCE, self.response.chunk()).await {
            Ok(chunk) => chunk.map_err(|source| self.client.failed(source)),
            Err(_) => Err(ClientError::TimedOut { server: self.client.server(), after: FEED_SILENCE }),
        }
    }
}

pub(super) fn with_query(mut url: Url, pairs: &[(&str, Option<String>)]) -> Url {
    for (name, value) in pairs {
        if let Some(value) = value {
            url.query_pairs_mut().append_pair(name, value);
        }
    }
    url
}

/// Services.
///
/// All methods fail with [`ClientError`].
#[expect(clippy::missing_errors_doc, reason = "every method fails in the same ways; said once above")]
impl Client {
    /// All services, by name.
    pub async fn services(&self) -> Result<Vec<Service>, ClientError> {
        Ok(self.get::<ServiceList>(self.url(&["services"])).await?.services)
    }

    /// One service.
    pub async fn service(&self, name: &ServiceName) -> Result<Service, ClientError> {
        self.get(self.url(&["services", name.as_str()])).await
    }

    /// Adds a service, or replaces its entry.
    pub async fn save_service(&self, service: &Service) -> Result<Service, ClientError> {
        let url = self.url(&["services", service.name.as_str()]);
        self.json(self.request(Method::PUT, url).json(service), REQUEST_TIMEOUT).await
    }

    /// Takes a service out of the catalog.
    pub async fn delete_service(&self, name: &ServiceName) -> Result<(), ClientError> {
        self.nothing(self.request(Method::DELETE, self.url(&["services", name.as_str()]))).await
    }

    /// The secrets of a service, without their values.
    pub async fn secrets(&self, service: &ServiceName) -> Result<Vec<SecretInfo>, ClientError> {
        let url = self.url(&["services", service.as_str(), "secrets"]);
        Ok(self.get::<SecretList>(url).await?.secrets)
    }

    /// Sets a secret of a service, or replaces it.
    pub async fn set_secret(
        &self,
        service: &ServiceName,
        name: &EnvName,
        secret: &SetSecret,
    ) -> Result<SecretInfo, ClientError> {
        let url = self.url(&["services", service.as_str(), "secrets", name.as_str()]);
        self.json(self.request(Method::PUT, url).json(secret), REQUEST_TIMEOUT).await
    }

    /// Deletes a secret of a service. What runs keeps it until it is replaced.
    pub async fn delete_secret(&self, service: &ServiceName, name: &EnvName) -> Result<(), ClientError> {
        let url = self.url(&["services", service.as_str(), "secrets", name.as_str()]);
        self.nothing(self.request(Method::DELETE, url)).await
    }

    /// Branches and tags of a service's repository; with `q` those whose name contains it.
    pub async fn branches(&self, service: &ServiceName, q: Option<&str>) -> Result<BranchList, ClientError> {
        let url = self.url(&["services", service.as_str(), "branches"]);
        self.get(with_query(url, &[("q", q.map(str::to_owned))])).await
    }

    /// Repositories that services can be made of, and those that are; with `q` those whose name, address or service contains it.
    pub async fn repositories(&self, q: Option<&str>) -> Result<RepositoryList, ClientError> {
        self.get(with_query(self.url(&["repositories"]), &[("q", q.map(str::to_owned))])).await
    }
}

/// Deployments and their logs.
#[expect(clippy::missing_errors_doc, reason = "every method fails in the same ways, with ClientError")]
impl Client {
    /// Asks for a deployment. With a key the request is safe to repeat.
    pub async fn deploy(
        &self,
        wanted: &CreateDeployment,
        key: Option<&IdempotencyKey>,
    ) -> Result<DeploymentCreated, ClientError> {
        let request = self.request(Method::POST, self.url(&["deployments"])).json(wanted);
        self.once(request, key).await
    }

    /// Sends what is safe to repeat with a key.
    pub(super) async fn once<T: DeserializeOwned>(
        &self,
        request: reqwest::RequestBuilder,
        key: Option<&IdempotencyKey>,
    ) -> Result<T, ClientError> {
        let request = match key {
            Some(key) => request.header(IDEMPOTENCY_KEY, key.as_str()),
            None => request,
        };
        self.json(request, REQUEST_TIMEOUT).await
    }

    /// A deployment as it stands.
    pub async fn deployment(&self, deployment: DeploymentRef) -> Result<DeploymentView, ClientError> {
        self.get(self.url(&["deployments", &deployment.to_string()])).await
    }

    /// Waits until a deployment has ended, however long that takes. A superseded one has ended: its view names the
    /// successor. A server that is away is waited for, at most ten minutes at a time.
    pub async fn wait(&self, deployment: DeploymentRef) -> Result<DeploymentView, ClientError> {
        let url = self.url(&["deployments", &deployment.to_string()]);
        self.held(url, |view: &DeploymentView| view.deployment.is_ended()).await
    }

    /// Asks again and again with `wait`, until what is answered has ended.
    pub(super) async fn held<T: DeserializeOwned>(
        &self,
        url: Url,
        has_ended: impl Fn(&T) -> bool,
    ) -> Result<T, ClientError> {
        let url = with_query(url, &[("wait", Some(HOLD.as_secs().to_string()))]);
        let mut away_since: Option<Instant> = None;
        let mut backoff = Duration::from_millis(500);
        loop {
            let asked_at = Instant::now();
            let request = self.request(Method::GET, url.clone());
            match self.json::<T>(request, HOLD + REQUEST_TIMEOUT).await {
                Ok(view) if has_ended(&view) => return Ok(view),
                Ok(_) => {
                    away_since = None;
                    backoff = Duration::from_millis(500);
                    // A server that does not hold the request must not be asked in a circle.
                    if asked_at.elapsed() < Duration::from_secs(1) {
                        sleep(Duration::from_secs(1)).await;
                    }
                }
                Err(error) if error.is_away() && away_since.get_or_insert(asked_at).elapsed() < PATIENCE => {
                    sleep(jitter(backoff) + error.retry_after().unwrap_or_default()).await;
                    backoff = (backoff * 2).min(Duration::from_secs(30));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// One page of deployments, newest first.
    pub async fn deployments(&self, filter: &DeploymentFilter) -> Result<DeploymentList, ClientError> {
        let DeploymentFilter { service, sandbox, state, limit, cursor } = filter;
        let query = [
            ("service", service.as_ref().map(ToString::to_string)),
            ("sandbox", sandbox.as_ref().map(ToString::to_string)),
            ("state", state.map(|state| state.as_str().to_owned())),
            ("limit", limit.map(|limit| limit.to_string())),
            ("cursor", cursor.clone()),
        ];
        self.get(with_query(self.url(&["deployments"]), &query)).await
    }

    /// Asks for a deployment to be cancelled; it has ended when everything that it started is gone.
    pub async fn cancel(&self, deployment: DeploymentRef) -> Result<DeploymentView, ClientError> {
        let url = self.url(&["deployments", &deployment.to_string(), "cancel"]);
        self.json(self.request(Method::POST, url), REQUEST_TIMEOUT).await
    }

    /// Deploys the same commit again. With a key the request is safe to repeat.
    pub async fn redeploy(
        &self,
        deployment: DeploymentRef,
        again: &AgainRequest,
        key: Option<&IdempotencyKey>,
    ) -> Result<DeploymentCreated, ClientError> {
        let url = self.url(&["deployments", &deployment.to_string(), "redeploy"]);
        self.once(self.request(Method::POST, url).json(again), key).await
    }

    /// Deploys the commit that ran before. With a key the request is safe to repeat.
    pub async fn rollback(
        &self,
        deployment: DeploymentRef,
        again: &AgainRequest,
        key: Option<&IdempotencyKey>,
    ) -> Result<DeploymentCreated, ClientError> {
        let url = self.url(&["deployments", &deployment.to_string(), "rollback"]);
        self.once(self.request(Method::POST, url).json(again), key).await
    }

    /// Lines of a log from number `from` (the first is 1), at most `limit`.
    pub async fn logs(
        &self,
        deployment: DeploymentRef,
        from: u64,
        limit: u32,
    ) -> Result<LogWindow, ClientError> {
        let url = self.url(&["deployments", &deployment.to_string(), "logs"]);
        let query = [("from", Some(from.to_string())), ("limit", Some(limit.to_string()))];
        self.get(with_query(url, &query)).await
    }

    /// The last `lines` lines of a log.
    pub async fn log_tail(&self, deployment: DeploymentRef, lines: u32) -> Result<LogWindow, ClientError> {
        let url = self.url(&["deployments", &deployment.to_string(), "logs"]);
        self.get(with_query(url, &[("tail", Some(lines.to_string()))])).await
    }

    /// Which lines of a log contain a text, and how many there are in all.
    pub async fn search_log(
        &self,
        deployment: DeploymentRef,
        search: &LogSearch,
    ) -> Result<LogMatches, ClientError> {
        let LogSearch { text, match_case, step, stream, first, from, up, limit } = search;
        let stream = stream.map(|stream| match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
            Stream::Sdp => "sdp",
        });
        let query = [
            ("q", Some(text.clone())),
            ("match_case", match_case.then(|| "true".to_owned())),
            ("step", step.map(|step| step.as_str().to_owned())),
            ("stream", stream.map(str::to_owned)),
            ("first", first.map(|line| line.to_string())),
            ("from", from.map(|line| line.to_string())),
            ("direction", up.then(|| "up".to_owned())),
            ("limit", limit.map(|limit| limit.to_string())),
        ];
        let url = self.url(&["deployments", &deployment.to_string(), "logs", "search"]);
        self.get(with_query(url, &query)).await
    }

    /// The whole log, byte for byte.
    pub async fn log_raw(&self, deployment: DeploymentRef) -> Result<RawLog, ClientError> {
        let url = self.url(&["deployments", &deployment.to_string(), "logs", "raw"]);
        let request = self.request(Method::GET, url);
        let response = self.within(REQUEST_TIMEOUT, self.send(request)).await?;
        Ok(RawLog { client: self.clone(), response })
    }
}

/// What runs, and where.
#[expect(clippy::missing_errors_doc, reason = "every method fails in the same ways, with ClientError")]
impl Client {
    /// Instances, newest first.
    pub async fn instances(&self, filter: &InstanceFilter) -> Result<Vec<Instance>, ClientError> {
        let query = [
            ("service", filter.service.as_ref().map(ToString::to_string)),
            ("sandbox", filter.sandbox.as_ref().map(ToString::to_string)),
            ("all", filter.all.then(|| "true".to_owned())),
        ];
        Ok(self.get::<InstanceList>(with_query(self.url(&["instances"]), &query)).await?.instances)
    }

    /// One instance.
    pub async fn instance(&self, instance: InstanceId) -> Result<Instance, ClientError> {
        self.get(self.url(&["instances", &instance.to_string()])).await
    }

    /// Stops an instance.
    pub async fn stop_instance(&self, instance: InstanceId) -> Result<Instance, ClientError> {
        let url = self.url(&["instances", &instance.to_string(), "stop"]);
        self.json(self.request(Method::POST, url), REQUEST_TIMEOUT).await
    }

    /// Starts the running commit anew, in place of the instance. With a key the request is safe to repeat.
    pub async fn restart_instance(
        &self,
        instance: InstanceId,
        again: &AgainRequest,
        key: Option<&IdempotencyKey>,
    ) -> Result<DeploymentCreated, ClientError> {
        let url = self.url(&["instances", &instance.to_string(), "restart"]);
        self.once(self.request(Method::POST, url).json(again), key).await
    }

    /// What an instance printed last.
    pub async fn instance_output(
        &self,
        instance: InstanceId,
        lines: u32,
    ) -> Result<Vec<String>, ClientError> {
        let url = self.url(&["instances", &instance.to_string(), "output"]);
        let url = with_query(url, &[("lines", Some(lines.to_string()))]);
        Ok(self.get::<InstanceOutput>(url).await?.lines)
    }

    /// All agents.
    pub async fn agents(&self) -> Result<Vec<AgentView>, ClientError> {
        Ok(self.get::<AgentList>(self.url(&["agents"])).await?.agents)
    }

    /// Gives an agent no new work until it is resumed; what it has goes on.
    pub async fn drain_agent(&self, agent: &AgentName) -> Result<AgentView, ClientError> {
        let url = self.url(&["agents", agent.as_str(), "drain"]);
        self.json(self.request(Method::POST, url), REQUEST_TIMEOUT).await
    }

    /// Gives an agent work again.
    pub async fn resume_agent(&self, agent: &AgentName) -> Result<AgentView, ClientError> {
        let url = self.url(&["agents", agent.as_str(), "resume"]);
        self.json(self.request(Method::POST, url), REQUEST_TIMEOUT).await
    }

    /// Removes an agent and its token; with `force` even if it has work, which ends as lost then.
    pub async fn forget_agent(&self, agent: &AgentName, force: bool) -> Result<(), ClientError> {
        let mut url = self.url(&["agents", agent.as_str()]);
        if force {
            url.query_pairs_mut().append_pair("force", "true");
        }
        self.nothing(self.request(Method::DELETE, url)).await
    }

    /// Makes what an agent enrols with, once, within an hour (`sdp-agent enrol`).
    pub async fn create_enrolment(&self, agent: &AgentName) -> Result<EnrolmentCreated, ClientError> {
        let url = self.url(&["agents", agent.as_str(), "enrolment"]);
        self.json(self.request(Method::POST, url), REQUEST_TIMEOUT).await
    }
}

/// Access.
#[expect(clippy::missing_errors_doc, reason = "every method fails in the same ways, with ClientError")]
impl Client {
    /// A link that signs a browser in once and opens the page `next`.
    pub async fn sign_in_link(&self, next: Option<&str>) -> Result<SignInLink, ClientError> {
        self.post(&["sign-in-links"], &CreateSignInLink { next: next.map(str::to_owned) }).await
    }

    /// Makes a token; its value is in the answer and nowhere else.
    pub async fn create_token(&self, wanted: &CreateToken) -> Result<TokenCreated, ClientError> {
        self.post(&["tokens"], wanted).await
    }

    /// All tokens, without their values.
    pub async fn tokens(&self) -> Result<Vec<TokenInfo>, ClientError> {
        Ok(self.get::<TokenList>(self.url(&["tokens"])).await?.tokens)
    }

    /// Makes a token worthless at once.
    pub async fn delete_token(&self, name: &TokenName) -> Result<(), ClientError> {
        self.nothing(self.request(Method::DELETE, self.url(&["tokens", name.as_str()]))).await
    }
}

/// Who asks, and what is theirs.
#[expect(clippy::missing_errors_doc, reason = "every method fails in the same ways, with ClientError")]
impl Client {
    /// Who this client is to the server.
    pub async fn me(&self) -> Result<Me, ClientError> {
        self.get(self.url(&["me"])).await
    }

    /// The browsers in which they are signed in, newest first.
    pub async fn sessions(&self) -> Result<Vec<SessionInfo>, ClientError> {
        Ok(self.get::<SessionList>(self.url(&["me", "sessions"])).await?.sessions)
    }

    /// Ends one of their sessions.
    pub async fn delete_session(&self, id: SessionId) -> Result<(), ClientError> {
        self.nothing(self.request(Method::DELETE, self.url(&["me", "sessions", &id.to_string()]))).await
    }

    /// Ends all their sessions and bindings, and with them their git credential. Their tokens stay.
    pub async fn log_out_everywhere(&self) -> Result<(), ClientError> {
        self.nothing(self.request(Method::DELETE, self.url(&["me", "sessions"]))).await
    }

    /// Which users of which chats they are, newest first.
    pub async fn bindings(&self) -> Result<Vec<BindingInfo>, ClientError> {
        Ok(self.get::<BindingList>(self.url(&["me", "bindings"])).await?.bindings)
    }

    /// Ends one of their bindings, and the sessions that began through it.
    pub async fn delete_binding(&self, id: BindingId) -> Result<(), ClientError> {
        self.nothing(self.request(Method::DELETE, self.url(&["me", "bindings", &id.to_string()]))).await
    }

    /// A link to the login page for the user of the chat on whose behalf this is: for their eyes alone.
    pub async fn login_link(&self) -> Result<LoginLink, ClientError> {
        self.json(self.request(Method::POST, self.url(&["login-links"])), REQUEST_TIMEOUT).await
    }

    /// Ends what this came through: for a bot the binding of the user of its chat.
    pub async fn log_out(&self) -> Result<(), ClientError> {
        self.nothing(self.request(Method::POST, self.url(&["logout"]))).await
    }
}

/// People who have logged in; for admins.
#[expect(clippy::missing_errors_doc, reason = "every method fails in the same ways, with ClientError")]
impl Client {
    /// Everybody who ever logged in, by name.
    pub async fn people(&self) -> Result<Vec<Person>, ClientError> {
        Ok(self.get::<PersonList>(self.url(&["people"])).await?.people)
    }

    /// Changes what a person may do, from their next request on.
    pub async fn set_role(&self, name: &PersonName, role: Role) -> Result<Person, ClientError> {
        let request = self.request(Method::PUT, self.url(&["people", name.as_str()])).json(&SetRole { role });
        self.json(request, REQUEST_TIMEOUT).await
    }

    /// Forgets a person, with all that opens a door in their name.
    pub async fn delete_person(&self, name: &PersonName) -> Result<(), ClientError> {
        self.nothing(self.request(Method::DELETE, self.url(&["people", name.as_str()]))).await
    }
}
