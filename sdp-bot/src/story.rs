//! What a message in chat tells: one deployment ([`Thread`]), or several that were asked for together ([`Several`]). Pure.
//!
//! ```text
//!                    ┌─ One ── Thread ───────────────┐
//!   events, views ──▶│                               ├──▶ root(now): the message      due(): replies, what must be learnt
//!                    └─ Several ── a Thread of each ─┘
//! ```
//! Called by [`crate::follow`], which asks a story the same whatever it tells. Of several the replies of each are told in one thread,
//! under the service's name; what they came to together is the last of them.
//!
//! Invariant: a reply of one of several has the key `<n>:<its key>`, `n` being its place among them, so that what was told is known
//! after a restart as well.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use jiff::Timestamp;
use sdp_core::api::{Batch, BatchView, DeploymentCreated, DeploymentView};
use sdp_core::batch::BatchOutcome;
use sdp_core::deployment::Outcome;
use sdp_core::event::Event;
use sdp_core::id::{DeploymentId, DeploymentNumber, EventSeq};
use sdp_core::name::PersonName;
use sdp_core::principal::Principal;
use url::Url;

use crate::chat::About;
use crate::message::{Message, together as say};
use crate::thread::{Due, Thread};

/// The key of what several came to together.
const END: &str = "end";

/// What the server answered, of one or of several.
#[derive(Clone, Debug)]
pub enum Begun {
    /// One deployment.
    One(Box<DeploymentCreated>),
    /// Several.
    Several(Box<BatchView>),
}

impl Begun {
    /// Whose story it will be.
    #[must_use]
    pub fn about(&self) -> About {
        match self {
            Self::One(created) => created.id.into(),
            Self::Several(view) => view.batch.id.into(),
        }
    }

    /// The number by which people know it; of several that of the first.
    #[must_use]
    pub fn number(&self) -> DeploymentNumber {
        match self {
            Self::One(created) => created.number,
            Self::Several(view) => view.deployments.first().map(|first| first.number).unwrap_or_default(),
        }
    }

    /// From where on the feed says what happens to it.
    #[must_use]
    pub fn version(&self) -> EventSeq {
        match self {
            Self::One(created) => created.deployment.version,
            Self::Several(view) => {
                view.deployments.iter().map(|deployment| deployment.version).min().unwrap_or_default()
            }
        }
    }
}

/// How the server sees a story.
#[derive(Clone, Debug)]
pub enum View {
    /// One deployment.
    One(Box<DeploymentView>),
    /// Several.
    Several(Box<BatchView>),
}

impl View {
    /// From where on the feed says what happens to it.
    #[must_use]
    pub fn version(&self) -> EventSeq {
        match self {
            Self::One(view) => view.deployment.version,
            Self::Several(view) => {
                view.deployments.iter().map(|deployment| deployment.version).min().unwrap_or_default()
            }
        }
    }

    /// When it was asked for.
    #[must_use]
    pub fn requested_at(&self) -> Timestamp {
        match self {
            Self::One(view) => view.deployment.requested_at,
            Self::Several(view) => view.batch.requested_at,
        }
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        match self {
            Self::One(view) => view.deployment.is_ended(),
            Self::Several(view) => view.deployments.iter().all(sdp_core::deployment::Deployment::is_ended),
        }
    }
}

/// What one message tells.
#[derive(Clone, Debug)]
pub enum Story {
    /// One deployment.
    One(Box<Thread>),
    /// Several that were asked for together.
    Several(Box<Several>),
}

/// Several deployments that were asked for together.
#[derive(Clone, Debug)]
pub struct Several {
    batch: Batch,
    /// The sandbox's page.
    url: Url,
    /// In the batch's order.
    threads: Vec<Thread>,
    /// What was told of them, and what they came to.
    told: BTreeSet<String>,
}

impl Story {
    /// The story of what was just begun; `told`: keys of the replies that are there already.
    #[must_use]
    pub fn begun(begun: Begun) -> Self {
        match begun {
            Begun::One(created) => {
                Self::One(Box::new(Thread::new(created.deployment, created.log_url, BTreeSet::new())))
            }
            Begun::Several(view) => Self::Several(Box::new(Several::new(*view, BTreeSet::new()))),
        }
    }

    /// The story as the server sees it now; `told`: keys of the replies that are there already.
    #[must_use]
    pub fn of(view: View, told: BTreeSet<String>) -> Self {
        match view {
            View::One(view) => {
                let mut thread = Thread::new(view.deployment.clone(), view.log_url.clone(), told);
                thread.catch_up(*view);
                Self::One(Box::new(thread))
            }
            View::Several(view) => Self::Several(Box::new(Several::new(*view, told))),
        }
    }

    /// Whose it is.
    #[must_use]
    pub fn about(&self) -> About {
        match self {
            Self::One(thread) => thread.deployment().id.into(),
            Self::Several(several) => several.batch.id.into(),
        }
    }

    /// Its deployments.
    #[must_use]
    pub fn threads(&self) -> &[Thread] {
        match self {
            Self::One(thread) => std::slice::from_ref(thread),
            Self::Several(several) => &several.threads,
        }
    }

    /// Its deployments, to be changed.
    pub fn threads_mut(&mut self) -> &mut [Thread] {
        match self {
            Self::One(thread) => std::slice::from_mut(thread),
            Self::Several(several) => &mut several.threads,
        }
    }

    /// One of its deployments.
    #[must_use]
    pub fn thread(&self, id: DeploymentId) -> Option<&Thread> {
        self.threads().iter().find(|thread| thread.deployment().id == id)
    }

    /// One of its deployments, to be changed.
    pub fn thread_mut(&mut self, id: DeploymentId) -> Option<&mut Thread> {
        self.threads_mut().iter_mut().find(|thread| thread.deployment().id == id)
    }

    /// Who asked for it.
    #[must_use]
    pub fn requested_by(&self) -> &Principal {
        match self {
            Self::One(thread) => &thread.deployment().requested_by,
            Self::Several(several) => &several.batch.requested_by,
        }
    }

    /// Who asked, by their name in this chat.
    pub fn asked_by(&mut self, person: Option<&PersonName>) {
        for thread in self.threads_mut() {
            thread.facts.asked_by = person.cloned();
        }
    }

    /// Since when the server has been away, as far as that matters here; whether that is new.
    pub fn away(&mut self, since: Option<Timestamp>) -> bool {
        let mut changed = false;
        for thread in self.threads_mut() {
            let since = since.filter(|_| !thread.deployment().is_ended());
            changed |= thread.facts.away_since != since;
            thread.facts.away_since = since;
        }
        changed
    }

    /// Whether it goes on and does not say yet that the server is away.
    #[must_use]
    pub fn knows_nothing_of_absence(&self) -> bool {
        let unsaid = |thread: &Thread| thread.facts.away_since.is_none() && !thread.deployment().is_ended();
        self.threads().iter().any(unsaid)
    }

    /// From now on events wait until a view of each has come.
    pub fn await_views(&mut self) {
        self.threads_mut().iter_mut().for_each(Thread::await_view);
    }

    /// Folds in an event; whether anything changed.
    pub fn apply(&mut self, event: &Event) -> bool {
        let mut changed = false;
        for thread in self.threads_mut() {
            changed |= thread.apply(event);
        }
        changed
    }

    /// Whether all of it has ended well.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        let well = |thread: &Thread| matches!(thread.deployment().outcome(), Some(Outcome::Succeeded {}));
        self.threads().iter().all(well)
    }

    /// Whether it has ended and its thread has said so.
    #[must_use]
    pub fn is_told(&self) -> bool {
        match self {
            Self::One(thread) => thread.is_told(),
            Self::Several(several) => several.told.contains(END),
        }
    }

    /// Whether nothing more can happen to it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_told() && self.threads().iter().all(Thread::is_over)
    }

    /// Whether it shows a time that grows.
    #[must_use]
    pub fn ticks(&self) -> bool {
        self.threads().iter().any(Thread::ticks)
    }

    /// Keys of the replies that were told.
    #[must_use]
    pub fn told(&self) -> &BTreeSet<String> {
        match self {
            Self::One(thread) => thread.told(),
            Self::Several(several) => &several.told,
        }
    }

    /// Remembers that a reply was told.
    pub fn was_told(&mut self, key: String) {
        match self {
            Self::One(thread) => thread.was_told(key),
            Self::Several(several) => several.was_told(key),
        }
    }

    /// The message, whole.
    #[must_use]
    pub fn root(&self, now: Timestamp) -> Message {
        match self {
            Self::One(thread) => thread.root(now),
            Self::Several(several) => {
                say::root(&several.batch, &several.threads, several.outcome(), &several.url, now)
            }
        }
    }

    /// What is to be done now, in order.
    #[must_use]
    pub fn due(&self) -> Vec<Due> {
        match self {
            Self::One(thread) => thread.due(),
            Self::Several(several) => several.due(),
        }
    }
}

impl Several {
    fn new(view: BatchView, told: BTreeSet<String>) -> Self {
        let BatchView { batch, deployments, url } = view;
        let threads = deployments.into_iter().enumerate().map(|(n, deployment)| {
            let own = told.iter().filter_map(|key| key.strip_prefix(&format!("{n}:")).map(str::to_owned));
            let log = say::log_page(&url, deployment.number);
            Thread::new(deployment, log, own.collect())
        });
        let mut several = Self { batch, threads: threads.collect(), url, told };
        several.call();
        several
    }

    /// Nobody is called for each that fails, but once for all; what happens after that is a matter of its own.
    fn call(&mut self) {
        let calls = self.told.contains(END);
        self.threads.iter_mut().for_each(|thread| thread.facts.calls = calls);
    }

    /// What they came to; none: some are on their way.
    fn outcome(&self) -> Option<BatchOutcome> {
        let ended = |thread: &Thread| thread.deployment().is_ended();
        let well = |thread: &&Thread| matches!(thread.deployment().outcome(), Some(Outcome::Succeeded {}));
        let all = self.threads.iter().all(ended);
        all.then(|| BatchOutcome::of(self.threads.iter().filter(well).count(), self.threads.len()))
    }

    fn was_told(&mut self, key: String) {
        if let Some((n, own)) = key.split_once(':')
            && let Some(thread) = n.parse().ok().and_then(|n: usize| self.threads.get_mut(n))
        {
            thread.was_told(own.to_owned());
        }
        self.told.insert(key);
        self.call();
    }

    fn due(&self) -> Vec<Due> {
        let mut due = Vec::new();
        let mut learns = false;
        for (n, thread) in self.threads.iter().enumerate() {
            for one in thread.due() {
                due.push(match one {
                    Due::Reply { key, message } => Due::Reply {
                        key: format!("{n}:{key}"),
                        message: say::of_one(thread.deployment(), message),
                    },
                    Due::LearnFailure(id) => {
                        learns = true;
                        Due::LearnFailure(id)
                    }
                });
            }
        }
        // The last word, when all before it was said.
        if let Some(outcome) = self.outcome()
            && !learns
            && !self.told.contains(END)
        {
            let message = say::ended(&self.batch, &self.threads, outcome);
            due.push(Due::Reply { key: END.to_owned(), message });
        }
        due
    }
}
