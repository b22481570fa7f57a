//! What git hosts are asked beside deployments: branches, repositories, and whether a credential is right. An agent asks.
//!
//! Lists come from memory where they are fresh enough ([`super::listings`]), each seen with the credential that it was asked
//! for with; a deployment never uses them. The check of a credential is made anew each time, and nothing of it is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use url::Url;

use super::input::{Command, Input, Question};
use super::listings::{Asking, Identities, Identity, Items, Listings, Promise};
use super::world::World;
use super::{ListingLimits, Platform, PlatformError};
use crate::api::{BranchList, Repository, RepositoryList};
use crate::catalog::Service;
use crate::failure::FailureReason;
use crate::name::{AgentName, GitRef, Label, RepoUrl, ServiceName};
use crate::principal::Principal;
use crate::secret::GitCredential;
use crate::wire::{Answer, RepoInfo};

/// The lists that are kept.
pub(super) struct Lists {
    identities: Identities,
    branches: Arc<Listings<BranchesOf, BranchList>>,
    repositories: Arc<Listings<RepositoriesOf, Repositories>>,
    pub(super) asking: Asking,
}

impl std::fmt::Debug for Lists {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lists(…)")
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct BranchesOf {
    repo: RepoUrl,
    /// They choose the agent, and with it the login that a list without a credential is made with.
    labels: BTreeSet<Label>,
    seen_by: Identity,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct RepositoriesOf {
    /// Scheme, host and port.
    host: String,
    seen_by: Identity,
}

struct Repositories {
    repos: Vec<RepoInfo>,
    complete: bool,
}

impl Items for BranchList {
    fn items(&self) -> usize {
        self.branches.len() + self.tags.len()
    }
}

impl Items for Repositories {
    fn items(&self) -> usize {
        self.repos.len()
    }
}

impl Lists {
    pub(super) fn new(limits: ListingLimits) -> Result<Self, PlatformError> {
        Ok(Self {
            identities: Identities::new()?,
            branches: Listings::new(limits),
            repositories: Listings::new(limits),
            asking: Asking::default(),
        })
    }
}

impl Platform {
    /// Branches and tags of a service's repository, as this credential (or else the agent's own) sees them; at most a minute old.
    ///
    /// # Errors
    /// [`PlatformError::UnknownService`], [`PlatformError::NoAgent`], [`PlatformError::Failed`] with the git host's answer,
    /// [`PlatformError::TooManyListings`].
    pub async fn branches(
        &self,
        name: &ServiceName,
        credential: Option<GitCredential>,
    ) -> Result<Arc<BranchList>, PlatformError> {
        let Service { repo, labels, .. } = self.service(name).await?;
        let lists = &self.inner.lists;
        let seen_by = lists.identities.of(credential.as_ref());
        let key = BranchesOf { repo: repo.clone(), labels: labels.clone(), seen_by };
        let (found, promise) = lists.branches.look(key, Instant::now());
        if let Some(promise) = promise {
            let question = Question::ListRefs { repo: repo.clone(), labels, credential };
            self.ask_for(promise, |inputs| async move {
                match question_over(&inputs, question).await? {
                    Answer::Refs { head, branches, tags } => {
                        let names = branches.iter().chain(&tags).map(|known| known.name.clone());
                        branches_seen(&inputs, repo, names.collect()).await;
                        Ok(BranchList { head, branches, tags })
                    }
                    other => Err(refusal(other)),
                }
            });
        }
        found.answer().await
    }

    /// Lists the branches of every service that runs in a sandbox with an end. Whoever cannot be asked, or refuses, is asked again the
    /// next time; a private repository is seen only where its agent has a login of its own.
    pub(super) async fn look_for_branches(&self) {
        let wanted = self.ask(|world| {
            let running = world.instances.values().map(|running| &running.instance);
            let ends = |name| world.sandboxes.get(name).is_some_and(|sandbox| sandbox.expires_at.is_some());
            let here = running.filter(|instance| !instance.state.is_over() && ends(&instance.sandbox));
            here.map(|instance| instance.service.clone()).collect::<BTreeSet<ServiceName>>()
        });
        for service in wanted.await.unwrap_or_default() {
            if let Err(error) = self.branches(&service, None).await {
                tracing::debug!(service.name = %service, %error, "its branches cannot be listed");
            }
        }
    }

    /// The repositories of a git host that this credential (or else the agents' own) can read, at most a minute old. Those of
    /// the registered services where no host is named, and where the agents know no way to ask it.
    ///
    /// # Errors
    /// [`PlatformError::NoAgent`], [`PlatformError::Failed`] with the git host's answer, [`PlatformError::TooManyListings`].
    pub async fn repositories(
        &self,
        host: Option<RepoUrl>,
        credential: Option<GitCredential>,
    ) -> Result<RepositoryList, PlatformError> {
        let services = self.services().await?;
        let Some(repo) = host else { return Ok(registered(services)) };
        let lists = &self.inner.lists;
        let seen_by = lists.identities.of(credential.as_ref());
        let key = RepositoriesOf { host: origin(&repo), seen_by };
        let (found, promise) = lists.repositories.look(key, Instant::now());
        if let Some(promise) = promise {
            let within = self.inner.config.answer_limit;
            self.ask_for(promise, move |inputs| async move {
                let ask = |agent, _| {
                    let (repo, credential) = (repo.clone(), credential.clone());
                    Question::ListRepos { agent, repo, credential }
                };
                match any_agent(&inputs, within, ask).await? {
                    Answer::Repos { repos, complete } => Ok(Repositories { repos, complete }),
                    other => Err(refusal(other)),
                }
            });
        }
        match found.answer().await {
            Ok(found) => Ok(joined(&found, &services)),
            Err(PlatformError::Failed(failure)) if failure.reason == FailureReason::RepositoriesUnlisted => {
                Ok(registered(services))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a credential opens a repository that not everybody can read, and the name under which its host knows whose it is.
    /// Asked anew each time; waits at most `within` for the host.
    ///
    /// # Errors
    /// [`PlatformError::Failed`] with `credentials_needed` if it is wrong, `login_repository_public`, or why it cannot be said;
    /// [`PlatformError::NoAgent`], [`PlatformError::NoAnswer`].
    pub async fn check_credential(
        &self,
        repo: &RepoUrl,
        credential: GitCredential,
        within: Duration,
    ) -> Result<String, PlatformError> {
        let ask = |agent, within| {
            let (repo, credential) = (repo.clone(), credential.clone());
            Question::CheckCredential { agent, repo, credential, within }
        };
        match any_agent(&self.inner.inputs, within, ask).await? {
            Answer::Account { user } => Ok(user),
            other => Err(refusal(other)),
        }
    }

    /// Keeps a promise in a task of the platform's: whoever waits may leave, and others wait with them.
    fn ask_for<K, V, F>(&self, promise: Promise<K, V>, ask: impl FnOnce(mpsc::Sender<Input>) -> F)
    where
        K: Clone + Eq + std::hash::Hash + Send + Sync + 'static,
        V: Items + Send + Sync + 'static,
        F: Future<Output = Result<V, PlatformError>> + Send + 'static,
    {
        let asking = ask(self.inner.inputs.clone());
        self.inner.lists.asking.spawn(async move { promise.keep(asking.await, Instant::now()) });
    }
}

/// A repository's branches were listed: sandboxes whose branches are gone end soon.
async fn branches_seen(inputs: &mpsc::Sender<Input>, repo: RepoUrl, names: BTreeSet<GitRef>) {
    let (answer, done) = oneshot::channel();
    let command = Command::BranchesSeen { repo, names };
    // Whoever stops has no need of it.
    if inputs.send(Input::Command { by: Principal::System, command, answer }).await.is_ok() {
        done.await.ok();
    }
}

pub(super) async fn question_over(
    inputs: &mpsc::Sender<Input>,
    question: Question,
) -> Result<Answer, PlatformError> {
    let (answer, answered) = oneshot::channel();
    let sent = inputs.send(Input::Question { question, answer }).await;
    sent.map_err(|_| PlatformError::Stopping)?;
    answered.await.map_err(|_| PlatformError::Stopping)?
}

/// Asks one agent after the other, until one knows the host or the time is over; its answer, or the last one's.
async fn any_agent(
    inputs: &mpsc::Sender<Input>,
    within: Duration,
    ask: impl Fn(AgentName, Duration) -> Question,
) -> Result<Answer, PlatformError> {
    let began = Instant::now();
    let (answer, answered) = oneshot::channel();
    let connected = |world: &World| {
        let agents = world.agents.values().filter(|agent| agent.connected && agent.row.capacity > 0);
        drop(answer.send(agents.map(|agent| agent.row.name.clone()).collect::<Vec<_>>()));
    };
    inputs.send(Input::Read(Box::new(connected))).await.map_err(|_| PlatformError::Stopping)?;
    let agents = answered.await.map_err(|_| PlatformError::Stopping)?;
    let mut last = Err(PlatformError::NoAgent);
    for agent in agents {
        let left = within.saturating_sub(began.elapsed());
        if left.is_zero() {
            break;
        }
        last = question_over(inputs, ask(agent, left)).await;
        let may_be_known_elsewhere = match &last {
            Ok(Answer::Failed { failure }) => matches!(
                failure.reason,
                FailureReason::RepoNotAllowed
                    | FailureReason::RepositoriesUnlisted
                    | FailureReason::AgentRefused
            ),
            Err(PlatformError::AgentAway { .. }) => true,
            _ => false,
        };
        if !may_be_known_elsewhere {
            break;
        }
    }
    last
}

fn refusal(answer: Answer) -> PlatformError {
    match answer {
        Answer::Failed { failure } => PlatformError::Failed(failure),
        _ => PlatformError::NoAgent,
    }
}

/// Scheme, host and port; of a folder the whole.
fn origin(repo: &RepoUrl) -> String {
    match Url::parse(repo.as_str()) {
        Ok(url) if url.has_host() => url.origin().ascii_serialization(),
        _ => repo.as_str().to_owned(),
    }
}

/// The same for all spellings of an address that mean one repository.
fn address(repo: &RepoUrl) -> String {
    let text =
        Url::parse(repo.as_str()).map_or_else(|_| repo.as_str().to_owned(), |url| url.as_str().to_owned());
    let text = text.trim_end_matches('/');
    text.strip_suffix(".git").unwrap_or(text).to_owned()
}

fn joined(found: &Repositories, services: &[Service]) -> RepositoryList {
    let mut built: BTreeMap<String, Vec<&ServiceName>> = BTreeMap::new();
    for service in services {
        built.entry(address(&service.repo)).or_default().push(&service.name);
    }
    let repositories = found.repos.iter().flat_map(|RepoInfo { name, url, default_branch }| {
        let services = built.get(&address(url)).map_or(&[][..], Vec::as_slice);
        let services = services.iter().map(|service| Some((*service).clone()));
        let none = services.len() == 0;
        services.chain(none.then_some(None)).map(|service| Repository {
            name: name.clone(),
            url: url.clone(),
            default_branch: default_branch.clone(),
            service,
        })
    });
    RepositoryList { repositories: repositories.collect(), complete: found.complete }
}

fn registered(services: Vec<Service>) -> RepositoryList {
    let repository = |service: Service| {
        let mut end: Vec<&str> = service.repo.as_str().trim_end_matches('/').rsplit('/').take(2).collect();
        end.reverse();
        let name = end.join("/");
        Repository {
            name: name.strip_suffix(".git").unwrap_or(&name).to_owned(),
            url: service.repo,
            default_branch: Some(service.default_branch),
            service: Some(service.name),
        }
    };
    let mut repositories: Vec<_> = services.into_iter().map(repository).collect();
    repositories.sort_by(|a, b| (&a.name, &a.service).cmp(&(&b.name, &b.service)));
    RepositoryList { repositories, complete: true }
}
