//! The engine's API as the other files use it: made when it is first there, each request with a limit, errors in words.
//!
//! Requests dial anew each time, so that an engine which was restarted is simply there again.
//! Limits: [`PATIENCE`] for a request; a stop has the container's grace on top.

use std::collections::HashMap;
use std::path::Path;
use std::pin::pin;
use std::sync::OnceLock;
use std::time::Duration;

use bollard::errors::Error;
use bollard::models::{ContainerInspectResponse, ContainerSummary, NetworkCreateRequest};
use bollard::query_parameters::{
    ListContainersOptionsBuilder, RemoveContainerOptionsBuilder, StopContainerOptionsBuilder,
    WaitContainerOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::StreamExt as _;
use tokio::time::timeout;

use super::label::{AGENT, AgentId};

/// How long the engine may take for an answer; making a container can be slow on a busy disk.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take for the quick questions that tell whether it is there.
pub(super) const QUICK: Duration = Duration::from_secs(5);
/// The oldest API that has all that is used here: Docker 20.10.
const OLDEST: (u32, u32) = (1, 41);

/// The engine.
#[derive(Debug)]
pub(super) struct Engine(Docker, OnceLock<u32>);

impl Engine {
    pub(super) fn new(socket: &Path) -> Result<Self, Error> {
        let path = socket.to_string_lossy();
        Ok(Self(Docker::connect_with_unix(&path, PATIENCE.as_secs(), API_DEFAULT_VERSION)?, OnceLock::new()))
    }

    pub(super) fn api(&self) -> &Docker {
        &self.0
    }

    /// For questions that must not hold anybody up.
    pub(super) fn quick(&self) -> Docker {
        self.0.clone().with_timeout(QUICK)
    }

    /// How many cores there are; none if it does not say.
    pub(super) async fn cores(&self) -> Option<u32> {
        if self.1.get().is_none() {
            let cores = self.quick().info().await.ok()?.ncpu.and_then(|cores| u32::try_from(cores).ok())?;
            return Some(*self.1.get_or_init(|| cores));
        }
        self.1.get().copied()
    }

    /// Its API's version, if it is new enough.
    pub(super) async fn check_version(&self) -> Result<String, String> {
        let version = self.quick().version().await.map_err(|error| said(&error))?;
        let api = version.api_version.unwrap_or_default();
        let number = api.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        match number {
            Some(number) if number >= OLDEST => Ok(version.version.unwrap_or(api)),
            _ => Err(format!("its API is {api:?}, and 1.41 (Docker 20.10) is the oldest that will do")),
        }
    }

    /// Every container with this agent's label, in whatever state.
    pub(super) async fn list(&self, agent: &AgentId) -> Result<Vec<ContainerSummary>, Error> {
        let filters = HashMap::from([("label", vec![agent.filter()])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        self.quick().list_containers(Some(options)).await
    }

    /// A container; none if there is none.
    pub(super) async fn inspect(&self, id: &str) -> Result<Option<ContainerInspectResponse>, Error> {
        missing_is_none(self.quick().inspect_container(id, None).await)
    }

    /// The id of an image that is here; none if it is not.
    pub(super) async fn image(&self, name: &str) -> Result<Option<String>, Error> {
        let found = missing_is_none(self.quick().inspect_image(name).await)?;
        Ok(found.and_then(|image| image.id))
    }

    /// Asks a container to end, then kills it; returns when it has ended.
    pub(super) async fn stop(&self, id: &str, grace: Duration) -> Result<(), Error> {
        let seconds = i32::try_from(grace.as_secs_f64().ceil() as i64).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::new().t(seconds).build();
        let patient = self.0.clone().with_timeout(PATIENCE + grace);
        missing_is_none(patient.stop_container(id, Some(options)).await).map(drop)
    }

    /// Removes a container with its own unnamed volumes, running or not; one that is gone, or going, is fine.
    pub(super) async fn remove(&self, id: &str) -> Result<(), Error> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match self.0.remove_container(id, Some(options)).await {
            // "removal of container … is already in progress"
            Err(error) if status(&error) == Some(409) => self.removed(id).await,
            other => missing_is_none(other).map(drop),
        }
    }

    /// Waits for a removal that is under way.
    async fn removed(&self, id: &str) -> Result<(), Error> {
        let options = WaitContainerOptionsBuilder::new().condition("removed").build();
        let mut waited = pin!(self.0.wait_container(id, Some(options)));
        match timeout(PATIENCE, waited.next()).await {
            Err(_) => Err(Error::RequestTimeoutError),
            // Its exit code is of no interest.
            Ok(Some(Err(Error::DockerContainerWaitError { .. }))) => Ok(()),
            Ok(Some(ended)) => missing_is_none(ended).map(drop),
            Ok(None) => Ok(()),
        }
    }

    /// The agent's own network, on which containers do not reach one another. Not to be called by two at once: the engine would
    /// make two of that name.
    pub(super) async fn ensure_network(&self, agent: &AgentId) -> Result<(), Error> {
        let name = agent.network();
        if missing_is_none(self.quick().inspect_network(&name, None).await)?.is_some() {
            return Ok(());
        }
        let words = |pairs: &[(&str, &str)]| {
            Some(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<HashMap<_, _>>())
        };
        let request = NetworkCreateRequest {
            name,
            driver: Some("bridge".to_owned()),
            options: words(&[("com.docker.network.bridge.enable_icc", "false")]),
            labels: words(&[(AGENT, agent.as_str())]),
            ..NetworkCreateRequest::default()
        };
        match self.0.create_network(request).await {
            Err(error) if status(&error) == Some(409) => Ok(()),
            other => other.map(drop),
        }
    }
}

fn missing_is_none<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if status(&error) == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the engine answered, if it did.
pub(super) fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// Whether the engine gave no answer at all, or only that it is going.
pub(super) fn is_away(error: &Error) -> bool {
    !matches!(status(error), Some(400..=502 | 505..))
        && !matches!(error, Error::JsonDataError { .. } | Error::JsonSerdeError { .. })
}

/// An error in one line, with its cause: the outermost alone often says nothing.
pub(super) fn said(error: &Error) -> String {
    match error {
        Error::DockerResponseServerError { message, .. } => one_line(message),
        Error::RequestTimeoutError => "it gave no answer in time".to_owned(),
        Error::SocketNotFoundError(path) => format!("there is no socket at {path}"),
        error => {
            let mut innermost: &dyn std::error::Error = error;
            while let Some(source) = innermost.source() {
                innermost = source;
            }
            let text = one_line(&innermost.to_string());
            if text.contains("Permission denied") {
                format!("{text}: the agent's user has to be in the group that may use the engine (docker)")
            } else {
                text
            }
        }
    }
}

fn one_line(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(400).collect();
    text.trim().to_owned()
}
