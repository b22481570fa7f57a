//! One deployment in chat: the fold of its events, and what is to be shown of it. Pure.
//!
//! ```text
//!   events, views ──▶ Thread ──▶ root(now): the message, rendered whole, edited in place
//!                        └─────▶ due(): replies that were not told yet, in order; or what must be learnt first
//! ```
//! Called by [`crate::follow`]. What is shown depends on the *state*, not on the events that led to it: the replies follow
//! from the deployment, each has a key, and the keys that were told are kept in the store. So a restart, a gap in the feed
//! or a view that overtakes the feed neither loses nor doubles a reply.
//!
//! Events are folded without a gap: what happened before the thread was followed comes with a view, and events that come
//! before that view wait for it ([`Thread::await_view`]).
//!
//! Limits: a deployment has at most [`MAX_NOTES`] notes in its thread; at most [`MAX_WAITING`] events wait.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sdp_core::api::{Ahead, DeploymentView, Instance};
use sdp_core::deployment::{Deployment, Outcome, State};
use sdp_core::event::{Event, EventKind};
use sdp_core::id::DeploymentId;
use sdp_core::name::{CommitId, PersonName};
use sdp_core::sandbox::{InstanceState, LastRestart, StopReason, Unhealthy};
use url::Url;

use crate::message::{Message, deployment as say};
use crate::text::Text;

/// The most notes that a thread tells.
pub const MAX_NOTES: usize = 20;

/// The most events that wait for a view; a deployment has a few dozen in all.
pub const MAX_WAITING: usize = 1000;

/// Restarts of an instance that follow each other within this time are told once.
pub const IN_A_ROW: SignedDuration = SignedDuration::from_mins(10);

/// What is shown beside the deployment itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Who asked, by their name in this chat, which may be another than that of their account.
    pub asked_by: Option<PersonName>,
    /// Whether they are called when something goes wrong; otherwise somebody else sees to that.
    pub calls: bool,
    /// The page with the log.
    pub log_url: Url,
    /// The same page behind a link that signs in once; only where nobody else reads it.
    pub log_link: Option<Url>,
    /// Its place in the queue.
    pub queue_position: Option<u32>,
    /// What is right before it there.
    pub behind: Option<Ahead>,
    /// In how many seconds it will probably be begun.
    pub starts_in_seconds: Option<u64>,
    /// What it waits for.
    pub waiting_for: Option<String>,
    /// How often what it left running was started again.
    pub restarts: Option<Restarts>,
    /// Whether what it left running passes its check.
    pub health: Health,
    /// How long such a deployment usually takes.
    pub usual: Option<Duration>,
    /// Since when the server has been away.
    pub away_since: Option<Timestamp>,
    /// What serves although this one failed.
    pub serving: Option<Serving>,
    /// The last lines of the log of a failed one.
    pub tail: Vec<String>,
    /// The link to the line at which it failed, if it has to sign in.
    pub failure_link: Option<Url>,
    /// Whether what a failure needs (the three above) has been asked for and answered.
    pub failure_known: bool,
}

impl Facts {
    /// Who is called when something goes wrong: whoever asked. Only a name that the chat knows calls somebody; that of an
    /// account might be somebody else's there.
    #[must_use]
    pub fn called(&self, deployment: &Deployment) -> Text {
        if self.calls { self.whoever(deployment) } else { Text::new() }
    }

    /// Whoever asked, called.
    #[must_use]
    pub fn whoever(&self, deployment: &Deployment) -> Text {
        match (&self.asked_by, deployment.requested_by.as_person()) {
            (Some(user), _) => Text::new().mention(user).plain(" "),
            (None, Some(account)) => Text::new().strong(format!("@{account}")).plain(" "),
            (None, None) => Text::new(),
        }
    }
}

/// What serves a sandbox's requests for a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serving {
    /// What it runs.
    pub commit: CommitId,
    /// Where.
    pub url: Option<Url>,
}

/// Whether an instance that runs passes its check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Not known (yet): nothing is said about it.
    #[default]
    Unknown,
    /// It does.
    Well,
    /// It does not.
    Unhealthy(Unhealthy),
}

/// How often an instance was started again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restarts {
    /// How often so far.
    pub times: u32,
    /// The last time.
    pub last: Option<LastRestart>,
    /// What it printed before that.
    pub last_lines: Vec<String>,
    /// With which restart the present row of them began: it is told once.
    first: u32,
}

/// What became of the instance that a successful deployment left running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum After {
    /// No new requests are sent to it.
    Draining {
        /// Why.
        reason: StopReason,
    },
    /// It does not run any more.
    Stopped {
        /// Why.
        reason: StopReason,
        /// What it printed last.
        last_lines: Vec<String>,
    },
    /// Its agent is gone.
    Lost,
}

/// What is to be done for a thread now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Reply in the thread, and remember the key.
    Reply {
        /// Names the reply within its thread.
        key: String,
        /// What it says.
        message: Message,
    },
    /// Ask the server for what the reply of a failed one needs: the end of the log, and what still serves.
    LearnFailure(DeploymentId),
}

/// One deployment in chat.
#[derive(Clone, Debug)]
pub struct Thread {
    deployment: Deployment,
    /// What is shown beside it.
    pub facts: Facts,
    after: Option<After>,
    told: BTreeSet<String>,
    /// Events that came while a view is awaited; none: no view is awaited.
    waiting: Option<VecDeque<Event>>,
}

impl Thread {
    /// A thread whose root message shows `deployment`; `told`: keys of the replies that are there already.
    #[must_use]
    pub fn new(deployment: Deployment, log_url: Url, told: BTreeSet<String>) -> Self {
        let facts = Facts {
            asked_by: None,
            calls: true,
            log_url,
            log_link: None,
            queue_position: None,
            behind: None,
            starts_in_seconds: None,
            waiting_for: None,
            restarts: None,
            health: Health::Unknown,
            usual: None,
            away_since: None,
            serving: None,
            tail: Vec::new(),
            failure_link: None,
            failure_known: false,
        };
        Self { deployment, facts, after: None, told, waiting: None }
    }

    /// The deployment as it stands.
    #[must_use]
    pub fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    /// What became of what it left running.
    #[must_use]
    pub fn after(&self) -> Option<&After> {
        self.after.as_ref()
    }

    /// Keys of the replies that were told.
    #[must_use]
    pub fn told(&self) -> &BTreeSet<String> {
        &self.told
    }

    /// From now on events wait until a view has come: some before them may have been missed.
    pub fn await_view(&mut self) {
        self.waiting.get_or_insert_default();
        self.facts.health = Health::Unknown;
    }

    /// No view will come; whether the events that waited changed anything.
    pub fn give_up_view(&mut self) -> bool {
        let mut changed = false;
        for event in self.waiting.take().unwrap_or_default() {
            changed |= self.apply(&event);
        }
        changed
    }

    /// Folds in an event; whether anything changed. Events about anything else change nothing.
    pub fn apply(&mut self, event: &Event) -> bool {
        if let Some(waiting) = &mut self.waiting {
            if event.about.deployment == Some(self.deployment.id) {
                if waiting.len() == MAX_WAITING {
                    waiting.pop_front();
                }
                waiting.push_back(event.clone());
            }
            return false;
        }
        let before = self.deployment.version;
        self.deployment.apply(event);
        if self.deployment.version != before {
            // Something happens: it does not wait for what it waited for.
            self.facts.waiting_for = None;
        }
        self.after_event(event) || self.deployment.version != before
    }

    fn after_event(&mut self, event: &Event) -> bool {
        if event.about.instance.is_none() || event.about.instance != self.deployment.instance {
            return false;
        }
        match &event.kind {
            EventKind::InstanceDraining { reason } => {
                self.becomes(After::Draining { reason: reason.clone() })
            }
            EventKind::InstanceLost {} => self.becomes(After::Lost),
            EventKind::InstanceStopped { reason, last_lines } => {
                self.becomes(After::Stopped { reason: reason.clone(), last_lines: last_lines.clone() })
            }
            EventKind::InstanceLive { .. } => self.after.take().is_some(),
            EventKind::InstanceUnhealthy { detail } => {
                self.health_is(Health::Unhealthy(Unhealthy { since: event.at, detail: detail.clone() }))
            }
            EventKind::InstanceRecovered {} => self.health_is(Health::Well),
            EventKind::InstanceRestarted { reason, restarts, last_lines } => {
                let last = LastRestart { at: event.at, reason: reason.clone() };
                self.restarted(*restarts, Some(last), last_lines.clone())
            }
            _ => false,
        }
    }

    fn becomes(&mut self, after: After) -> bool {
        let changed = self.after.as_ref() != Some(&after);
        self.after = Some(after);
        changed
    }

    fn health_is(&mut self, health: Health) -> bool {
        let changed = self.facts.health != health;
        self.facts.health = health;
        changed
    }

    fn restarted(&mut self, times: u32, last: Option<LastRestart>, last_lines: Vec<String>) -> bool {
        let known = self.facts.restarts.as_ref();
        if times <= known.map_or(0, |known| known.times) {
            return false;
        }
        let in_a_row = |known: &&Restarts| match (&known.last, &last) {
            (Some(before), Some(last)) => last.at.duration_since(before.at) < IN_A_ROW,
            _ => true,
        };
        // After a restart of the bot: a row that was told already is not told again.
        let told = self.told.iter().filter_map(|key| key.strip_prefix("restart:")?.parse().ok()).max();
        let first = match known {
            Some(known) => Some(known).filter(in_a_row).map_or(times, |known| known.first),
            None => told.unwrap_or(times),
        };
        self.facts.restarts = Some(Restarts { times, last, last_lines, first });
        true
    }

    /// Takes the server's view, unless it is older than what is known; whether anything changed.
    pub fn catch_up(&mut self, view: DeploymentView) -> bool {
        let queue_position =
            view.queue_position.filter(|_| matches!(view.deployment.state, State::Queued {}));
        let mut changed = self.facts.log_url != view.log_url;
        self.facts.log_url = view.log_url;
        if view.deployment.version >= self.deployment.version {
            changed |= self.deployment != view.deployment
                || self.facts.queue_position != queue_position
                || self.facts.waiting_for != view.waiting_for
                || self.facts.behind != view.behind
                || self.facts.starts_in_seconds != view.starts_in_seconds;
            self.deployment = view.deployment;
            self.facts.queue_position = queue_position;
            self.facts.behind = view.behind;
            self.facts.starts_in_seconds = view.starts_in_seconds;
            self.facts.waiting_for = view.waiting_for;
        }
        self.give_up_view() || changed
    }

    /// Takes the server's view of the instance that it left running; whether anything changed.
    pub fn instance_is(&mut self, instance: &Instance) -> bool {
        if Some(instance.id) != self.deployment.instance {
            return false;
        }
        let last = instance.last_restart.clone();
        let restarted = self.restarted(instance.restarts, last, instance.last_lines.clone());
        // What events said is as new, or newer.
        let restarted = match (&instance.state, &instance.unhealthy) {
            _ if self.facts.health != Health::Unknown => restarted,
            (InstanceState::Unhealthy {}, Some(unhealthy)) => {
                self.health_is(Health::Unhealthy(unhealthy.clone())) || restarted
            }
            (InstanceState::Live {}, _) => self.health_is(Health::Well) || restarted,
            _ => restarted,
        };
        let becomes = match &instance.state {
            InstanceState::Draining { reason } => self.becomes(After::Draining { reason: reason.clone() }),
            InstanceState::Lost {} => self.becomes(After::Lost),
            InstanceState::Stopped { reason } => self
                .becomes(After::Stopped { reason: reason.clone(), last_lines: instance.last_lines.clone() }),
            _ => self.after.take().is_some(),
        };
        becomes || restarted
    }

    /// Whether the deployment has ended and its thread has said so.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.deployment.is_ended() && self.told.contains("end")
    }

    /// Whether nothing more can happen to it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let stays = matches!(self.deployment.outcome(), Some(Outcome::Succeeded {}))
            && self.deployment.instance.is_some()
            && !matches!(self.after, Some(After::Stopped { .. } | After::Lost));
        self.is_told() && !stays && self.due().is_empty()
    }

    /// Whether it shows a time that grows.
    #[must_use]
    pub fn ticks(&self) -> bool {
        !self.deployment.is_ended()
            && (matches!(self.deployment.state, State::Running { .. }) || self.facts.away_since.is_some())
    }

    /// The message, whole.
    #[must_use]
    pub fn root(&self, now: Timestamp) -> Message {
        say::root(&self.deployment, &self.facts, self.after.as_ref(), now)
    }

    /// Remembers that a reply was told.
    pub fn was_told(&mut self, key: String) {
        self.told.insert(key);
    }

    /// What is to be done now, in order: replies not told yet, or what must be learnt before the next one.
    #[must_use]
    pub fn due(&self) -> Vec<Due> {
        let mut due = Vec::new();
        let mut tell = |key: String, message: Message| {
            if !self.told.contains(&key) {
                due.push(Due::Reply { key, message });
            }
        };
        let deployment = &self.deployment;
        let called = &self.facts.called(deployment);
        if let Some(reused) = deployment.reused_build {
            tell("reused".to_owned(), say::build_reused(deployment, reused));
        }
        for (index, note) in deployment.notes.iter().take(MAX_NOTES).enumerate() {
            tell(format!("note:{index}"), say::note(note));
        }
        let outcome = deployment.outcome();
        // The step in which it failed or was cancelled did not go well.
        let last = deployment.steps.last().map(|last| last.step);
        let last_went_well = match outcome {
            None | Some(Outcome::Succeeded {}) => true,
            Some(Outcome::Failed { failure }) => failure.step.is_some() && failure.step != last,
            Some(_) => false,
        };
        let well = deployment.steps.len().saturating_sub(usize::from(!last_went_well));
        for (index, step) in deployment.steps.iter().take(well).enumerate() {
            if step.ended_at.is_some() {
                tell(format!("step:{index}"), say::step_done(deployment, step));
            }
        }
        if let Some(by) = &deployment.cancel_requested_by {
            tell("cancel".to_owned(), say::cancel_requested(deployment, &by.to_string()));
        }
        let end = match outcome {
            None => return due,
            Some(Outcome::Succeeded {}) => say::succeeded(deployment),
            Some(Outcome::Failed { .. }) if !self.facts.failure_known && !self.told.contains("end") => {
                due.push(Due::LearnFailure(deployment.id));
                return due;
            }
            Some(Outcome::Failed { failure }) => say::failure(deployment, failure, &self.facts),
            Some(Outcome::Cancelled { by }) => say::cancelled(&by.to_string()),
            Some(Outcome::Superseded { number, .. }) => say::superseded(number),
            Some(other) => say::note(other.code()),
        };
        tell("end".to_owned(), end);
        if let Some(restarts) = &self.facts.restarts {
            tell(format!("restart:{}", restarts.first), say::restarted(deployment, called, restarts));
        }
        // Each time that it turns out not to be well is told once, and its end, by the moment at which it began.
        let told = self.told.iter().filter_map(|key| key.strip_prefix("unhealthy:"));
        match &self.facts.health {
            _ if self.after.is_some() => {}
            Health::Unhealthy(unhealthy) => {
                tell(moment("unhealthy", unhealthy), say::unhealthy(deployment, called, unhealthy));
            }
            Health::Well => {
                if let Some(since) = told.max() {
                    tell(format!("recovered:{since}"), say::recovered(deployment));
                }
            }
            Health::Unknown => {}
        }
        if let Some(after) = &self.after
            && let Some(message) = say::broke(deployment, called, after, self.facts.restarts.as_ref())
        {
            tell("broke".to_owned(), message);
        }
        due
    }
}

/// The key of a reply about a time in which an instance was not well; those of one thread sort by time.
fn moment(what: &str, unhealthy: &Unhealthy) -> String {
    format!("{what}:{:015}", unhealthy.since.as_millisecond())
}
