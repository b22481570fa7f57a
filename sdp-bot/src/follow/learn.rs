//! Questions that a thread needs answered: how a deployment stands, what a failure's message shows, how long such a
//! deployment usually takes. Asked beside the follower's loop, at most [`super::MAX_LEARNING`] at once.

use std::time::Duration;

use sdp_core::api::{DeploymentView, Instance};
use sdp_core::client::{Client, ClientError, DeploymentFilter, InstanceFilter, StateFilter};
use sdp_core::deployment::{Deployment, Outcome};
use sdp_core::id::{DeploymentId, InstanceId};
use sdp_core::name::PersonName;
use sdp_core::sandbox::InstanceState;
use tokio::time::{sleep, timeout};
use url::Url;

use super::notice::Notice;
use super::{Follower, TAIL_LINES, Tracked};
use crate::chat::{About, ChatGone};
use crate::store::Kept;
use crate::story::View;
use crate::thread::{Serving, Thread};

/// How long the questions for one failure may take in all; what is not known by then is not shown.
const LEARN_TIMEOUT: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Debug)]
pub(super) enum Learnt {
    View(DeploymentId, Result<Box<DeploymentView>, ClientError>),
    Failure(DeploymentId, Box<FailureFacts>),
    Usual(DeploymentId, Option<Duration>),
    Instance(DeploymentId, Result<Box<Instance>, ClientError>),
    Restored(Box<Kept>, Result<View, ClientError>),
    /// One that nobody asked for in a chat.
    Found(Box<Kept>, Result<View, ClientError>),
    /// What one person is to be told.
    Notice(Box<Notice>),
}

#[derive(Debug, Default)]
pub(super) struct FailureFacts {
    pub(super) tail: Vec<String>,
    pub(super) serving: Option<Serving>,
    pub(super) link: Option<Url>,
}

/// Questions to the server, asked beside the loop.
impl Follower {
    pub(super) fn learn(&mut self, question: impl Future<Output = Learnt> + Send + 'static) {
        let slots = self.learning_slots.clone();
        self.learning.spawn(async move {
            let _slot = slots.acquire_owned().await;
            question.await
        });
    }

    pub(super) fn ask_view(&mut self, id: DeploymentId) {
        let Some(tracked) = self.told_in(id) else { return };
        let asking = tracked.asking.entry(id).or_default();
        if asking.view {
            asking.view_again = true;
            return;
        }
        asking.view = true;
        let client = self.client.clone();
        self.learn(async move {
            Learnt::View(id, patiently(|| client.deployment(id.into())).await.map(Box::new))
        });
    }

    pub(super) fn ask_instance(&mut self, id: DeploymentId) {
        let Some(deployment) = self.thread(id).map(Thread::deployment) else { return };
        let (true, Some(instance)) = (deployment.is_ended(), deployment.instance) else { return };
        let client = self.client.clone();
        self.learn(async move { Learnt::Instance(id, instance_of(&client, instance).await.map(Box::new)) });
    }

    pub(super) fn ask_usual(&mut self, id: DeploymentId) {
        let Some(deployment) = self.thread(id).map(|thread| thread.deployment().clone()) else { return };
        if deployment.is_ended() {
            return;
        }
        let client = self.client.clone();
        self.learn(async move { Learnt::Usual(id, usual(&client, &deployment).await) });
    }

    pub(super) fn ask_failure(&mut self, id: DeploymentId) {
        let Some(thread) = self.thread(id) else { return };
        let (deployment, log_url) = (thread.deployment().clone(), thread.facts.log_url.clone());
        let Some(tracked) = self.stories.get(&id).and_then(|about| self.threads.get(about)) else { return };
        let link_for = tracked.person.clone().filter(|_| self.chat.abilities.private);
        let client = self.client.clone();
        self.learn(async move {
            let facts = failure_facts(&client, &deployment, &log_url, link_for);
            Learnt::Failure(id, Box::new(timeout(LEARN_TIMEOUT, facts).await.unwrap_or_default()))
        });
    }

    pub(super) async fn learnt(&mut self, learnt: Learnt) -> Result<(), ChatGone> {
        let id = match learnt {
            Learnt::Restored(kept, view) => {
                let about = kept.about;
                if self.feed.is_none()
                    && let Ok(view) = &view
                {
                    self.begin_feed(view.version());
                }
                self.restored(*kept, view).await?;
                return self.advance(about).await;
            }
            Learnt::Notice(notice) => return self.tell_notice(*notice).await,
            Learnt::Found(kept, Ok(view)) => return self.resume(*kept, view).await,
            Learnt::Found(kept, Err(error)) => {
                tracing::warn!(story.id = %kept.about, code = error.code(), "a deployment could not be looked up");
                return Ok(());
            }
            Learnt::View(id, view) => {
                let Some(tracked) = self.told_in(id) else { return Ok(()) };
                let asking = tracked.asking.entry(id).or_default();
                asking.view = false;
                let again = std::mem::take(&mut asking.view_again);
                let Some(thread) = tracked.story.thread_mut(id) else { return Ok(()) };
                let changed = match view {
                    Ok(view) => thread.catch_up(*view),
                    Err(error) => {
                        tracing::warn!(deployment.id = %id, code = error.code(), "a deployment could not be looked up");
                        thread.give_up_view()
                    }
                };
                if again {
                    self.ask_view(id);
                }
                if !changed {
                    return Ok(());
                }
                id
            }
            Learnt::Failure(id, facts) => {
                let Some(thread) = self.thread_mut(id) else { return Ok(()) };
                let FailureFacts { tail, serving, link } = *facts;
                thread.facts.tail = tail;
                thread.facts.serving = serving;
                thread.facts.failure_link = link;
                thread.facts.failure_known = true;
                id
            }
            Learnt::Usual(id, usual) => {
                let Some(thread) = self.thread_mut(id) else { return Ok(()) };
                thread.facts.usual = usual;
                id
            }
            Learnt::Instance(id, instance) => {
                let Some(thread) = self.thread_mut(id) else { return Ok(()) };
                match instance {
                    Ok(instance) => drop(thread.instance_is(&instance)),
                    Err(error) => {
                        tracing::warn!(deployment.id = %id, code = error.code(), "an instance could not be looked up");
                    }
                }
                id
            }
        };
        match self.stories.get(&id) {
            Some(about) => self.advance(*about).await,
            None => Ok(()),
        }
    }

    /// The story in which a deployment is told.
    pub(super) fn told_in(&mut self, id: DeploymentId) -> Option<&mut Tracked> {
        self.threads.get_mut(self.stories.get(&id)?)
    }

    fn thread(&self, id: DeploymentId) -> Option<&Thread> {
        self.threads.get(self.stories.get(&id)?)?.story.thread(id)
    }

    fn thread_mut(&mut self, id: DeploymentId) -> Option<&mut Thread> {
        self.told_in(id)?.story.thread_mut(id)
    }
}

/// How a story stands.
pub(super) async fn view_of(client: &Client, about: About) -> Result<View, ClientError> {
    match about {
        About::Deployment(id) => {
            let view = patiently(|| client.deployment(id.into())).await?;
            Ok(View::One(Box::new(view)))
        }
        About::Batch(id) => Ok(View::Several(Box::new(patiently(|| client.batch(id)).await?))),
    }
}

/// Asks again while the server is away; the feed tells people so meanwhile.
pub(super) async fn patiently<T, F: Future<Output = Result<T, ClientError>>>(
    question: impl Fn() -> F,
) -> Result<T, ClientError> {
    let mut pause = Duration::from_millis(500);
    loop {
        match question().await {
            Err(error) if error.is_away() => {
                sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(30));
            }
            answer => return answer,
        }
    }
}

async fn instance_of(client: &Client, instance: InstanceId) -> Result<Instance, ClientError> {
    patiently(|| client.instance(instance)).await
}

/// The median of the last successful ones; none if there are fewer than three.
async fn usual(client: &Client, deployment: &Deployment) -> Option<Duration> {
    let filter = DeploymentFilter {
        service: Some(deployment.service.clone()),
        state: Some(StateFilter::Ended),
        limit: Some(20),
        ..DeploymentFilter::default()
    };
    let list = client.deployments(&filter).await.ok()?;
    let mut lengths: Vec<Duration> = list
        .deployments
        .iter()
        .filter(|past| past.kind == deployment.kind && matches!(past.outcome(), Some(Outcome::Succeeded {})))
        .filter_map(|past| past.ended_at?.duration_since(past.requested_at).try_into().ok())
        .collect();
    lengths.sort_unstable();
    (lengths.len() >= 3).then(|| lengths[lengths.len() / 2])
}

async fn failure_facts(
    client: &Client,
    deployment: &Deployment,
    log_url: &Url,
    link_for: Option<PersonName>,
) -> FailureFacts {
    let filter = InstanceFilter {
        service: Some(deployment.service.clone()),
        sandbox: Some(deployment.sandbox.clone()),
        all: false,
    };
    let line = match deployment.outcome() {
        Some(Outcome::Failed { failure }) => failure.line,
        _ => None,
    };
    let link = async {
        let fragment = line.map(|line| format!("#L{line}")).unwrap_or_default();
        let next = format!("{}{fragment}", log_url.path());
        client.on_behalf_of(link_for?).sign_in_link(Some(&next)).await.ok().map(|link| link.url)
    };
    let (tail, instances, link) =
        tokio::join!(client.log_tail(deployment.id.into(), TAIL_LINES), client.instances(&filter), link);
    if let Err(error) = &tail {
        tracing::warn!(deployment.id = %deployment.id, code = error.code(), "the end of a log could not be read");
    }
    let serving = instances.unwrap_or_default().into_iter().find(|instance| {
        matches!(instance.state, InstanceState::Live {} | InstanceState::Unhealthy {})
            && instance.deployment != deployment.id
    });
    FailureFacts {
        tail: tail.map(|window| window.lines.into_iter().map(|line| line.text).collect()).unwrap_or_default(),
        serving: serving.map(|instance| Serving { commit: instance.commit, url: instance.url }),
        link,
    }
}
