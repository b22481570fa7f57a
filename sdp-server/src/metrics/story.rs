//! Folds the feed of events into counters and histograms, and says in the log how deployments go.
//!
//! [`follow`] is a reader of the feed like any other: what it counts is in the store, and nobody waits for it. It remembers
//! the deployments that have not ended, which are as many as may wait and run; of those that were requested before the
//! process began it knows only what it has seen.
//!
//! The LOGGING rule of `sdp_core`: what a deployment goes through is logged here and nowhere else in the server, with
//! the ids; never a branch, a variable or what a person wrote.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use sdp_core::deployment::{DeployKind, Outcome, Step};
use sdp_core::event::{Event, EventKind};
use sdp_core::feed::EventFilter;
use sdp_core::id::{DeploymentId, DeploymentNumber, EventSeq};
use sdp_core::platform::PlatformError;
use tokio::sync::watch;

use super::AgentLabels;
use crate::app::App;

/// From a step that does nothing to a build's usual limit.
const SECONDS: [f64; 14] =
    [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 1800.0];

#[derive(Debug)]
pub(crate) struct Story {
    steps: Family<StepLabels, Histogram, fn() -> Histogram>,
    queue_wait: Histogram,
    durations: Family<OutcomeLabels, Histogram, fn() -> Histogram>,
    requested: Family<KindLabels, Counter>,
    returned: Counter,
    ended: Family<EndLabels, Counter>,
    connections: Family<AgentLabels, Counter>,
    restarts: Counter,
    open: Mutex<HashMap<DeploymentId, Open>>,
    /// The newest event that is folded in.
    told: watch::Sender<EventSeq>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StepLabels {
    step: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EndLabels {
    outcome: &'static str,
    reason: &'static str,
}

/// What is remembered of a deployment that has not ended.
#[derive(Debug, Default)]
struct Open {
    number: Option<DeploymentNumber>,
    requested: Option<Timestamp>,
    waits_since: Option<Timestamp>,
    step: Option<(Step, Timestamp)>,
}

impl Story {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(SECONDS);
        let story = Self {
            steps: Family::new_with_constructor(histogram),
            queue_wait: histogram(),
            durations: Family::new_with_constructor(histogram),
            requested: Family::default(),
            returned: Counter::default(),
            ended: Family::default(),
            connections: Family::default(),
            restarts: Counter::default(),
            open: Mutex::default(),
            told: watch::Sender::new(EventSeq(0)),
        };
        registry.register_with_unit(
            "deployment_step_duration",
            "How long a step of a deployment took, and how it ended",
            Unit::Seconds,
            story.steps.clone(),
        );
        registry.register_with_unit(
            "deployment_queue_wait",
            "How long a deployment waited until it was sent to an agent",
            Unit::Seconds,
            story.queue_wait.clone(),
        );
        registry.register_with_unit(
            "deployment_duration",
            "How long a deployment took from the request to its end, the wait included",
            Unit::Seconds,
            story.durations.clone(),
        );
        registry.register("deployments_requested", "Deployments asked for", story.requested.clone());
        registry.register(
            "deployments_returned",
            "Deployments that an agent gave back",
            story.returned.clone(),
        );
        registry.register(
            "deployments_ended",
            "Deployments that have ended, by outcome and, if they failed, the code of the reason",
            story.ended.clone(),
        );
        registry.register(
            "agent_connections",
            "Times that an agent has connected",
            story.connections.clone(),
        );
        registry.register(
            "instance_restarts",
            "Times that an instance ended by itself and was started again",
            story.restarts.clone(),
        );
        // A rate needs a first value.
        for outcome in ["succeeded", "cancelled", "superseded"] {
            drop(story.ended.get_or_create(&EndLabels { outcome, reason: NO_REASON }));
        }
        story
    }

    /// Waits until all events up to this one are folded in, so that counts and levels of one answer agree; but not for long.
    pub(crate) async fn caught_up(&self, with: EventSeq) {
        let mut told = self.told.subscribe();
        let wait = told.wait_for(|told| *told >= with);
        drop(tokio::time::timeout(CATCH_UP, wait).await);
    }

    /// Folds in one event.
    pub(super) fn tell(&self, event: &Event) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let EventKind::AgentConnected { .. } = event.kind
            && let Some(agent) = &event.about.agent
        {
            self.connections.get_or_create(&AgentLabels::of(agent)).inc();
        }
        if let EventKind::AgentForgotten {} = event.kind
            && let Some(agent) = &event.about.agent
        {
            self.connections.remove(&AgentLabels::of(agent));
        }
        if let EventKind::InstanceRestarted { .. } = event.kind {
            self.restarts.inc();
        }
        let Some(id) = event.about.deployment else { return };
        match &event.kind {
            EventKind::DeploymentRequested { number, kind, .. } => {
                self.requested.get_or_create(&KindLabels { kind: kind_label(*kind) }).inc();
                let at = Some(event.at);
                open.insert(id, Open { number: Some(*number), requested: at, waits_since: at, step: None });
            }
            EventKind::DeploymentSent { .. } => {
                let waited = open.entry(id).or_default().waits_since.take();
                if let Some(since) = waited {
                    self.queue_wait.observe(seconds(since, event.at));
                }
            }
            EventKind::DeploymentReturned { .. } => {
                self.returned.inc();
                let one = open.entry(id).or_default();
                (one.waits_since, one.step) = (Some(event.at), None);
            }
            EventKind::StepStarted { step, .. } => {
                let before = open.entry(id).or_default().step.replace((*step, event.at));
                self.step_over(before, "succeeded", event.at);
            }
            EventKind::DeploymentEnded { outcome, .. } => {
                let one = open.remove(&id).unwrap_or_default();
                let code = outcome.code();
                self.step_over(one.step, code, event.at);
                if let Some(requested) = one.requested {
                    let labels = OutcomeLabels { outcome: code };
                    self.durations.get_or_create(&labels).observe(seconds(requested, event.at));
                }
                self.ended.get_or_create(&EndLabels { outcome: code, reason: reason(outcome) }).inc();
            }
            _ => {}
        }
    }

    fn step_over(&self, step: Option<(Step, Timestamp)>, outcome: &'static str, at: Timestamp) {
        if let Some((step, since)) = step {
            let labels = StepLabels { step: step.as_str(), outcome };
            self.steps.get_or_create(&labels).observe(seconds(since, at));
        }
    }

    fn number(&self, id: DeploymentId) -> Option<u64> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(&id)?.number.map(|number| number.0)
    }
}

/// Whoever asks waits so long for the reader of events at most.
const CATCH_UP: Duration = Duration::from_secs(1);
/// Events that cannot be read are tried again so much later.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// The label of what has no reason.
const NO_REASON: &str = "none";

fn reason(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Failed { failure } => failure.reason.code(),
        _ => NO_REASON,
    }
}

fn kind_label(kind: DeployKind) -> &'static str {
    match kind {
        DeployKind::Deploy => "deploy",
        DeployKind::Redeploy => "redeploy",
        DeployKind::Rollback => "rollback",
        DeployKind::Restart => "restart",
        _ => "other",
    }
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    // A clock that was put back makes no negative durations.
    to.duration_since(from).as_secs_f64().max(0.0)
}

/// Reads events until the platform has stopped and all is read.
pub(crate) async fn follow(app: App, after: EventSeq) {
    let mut feed = app.platform().feed(after, EventFilter::default());
    app.metrics().story.told.send_replace(after);
    loop {
        let event = tokio::select! {
            event = feed.next() => event,
            () = app.abort().cancelled() => return,
        };
        match event {
            Ok(event) => {
                let story = &app.metrics().story;
                // Its number is known before its end is told, and after its beginning.
                let before = event.about.deployment.and_then(|id| story.number(id));
                story.tell(&event);
                let number = before.or_else(|| event.about.deployment.and_then(|id| story.number(id)));
                log(&event, number);
                story.told.send_replace(event.seq);
            }
            Err(PlatformError::Stopping) => return,
            Err(error) => {
                tracing::error!(%error, event.after = %feed.position(), "the events cannot be read, so nothing is counted; it is tried again");
                tokio::select! {
                    () = tokio::time::sleep(TRY_AGAIN) => {}
                    () = app.abort().cancelled() => return,
                }
            }
        }
    }
}

/// One line for what somebody may look for in the log of a server.
fn log(event: &Event, number: Option<u64>) {
    let about = &event.about;
    let deployment = about.deployment.map(tracing::field::display);
    let instance = about.instance.map(tracing::field::display);
    let agent = about.agent.as_ref().map(tracing::field::display);
    let service = about.service.as_ref().map(tracing::field::display);
    let sandbox = about.sandbox.as_ref().map(tracing::field::display);
    // One macro, so that every line has the same fields.
    macro_rules! say {
        ($level:ident, $($rest:tt)+) => {
            tracing::$level!(
                deployment.id = deployment, deployment.number = number, instance.id = instance, agent.name = agent,
                service.name = service, sandbox.name = sandbox, event.seq = event.seq.0, $($rest)+
            )
        };
    }
    match &event.kind {
        EventKind::DeploymentRequested { kind, .. } => {
            say!(info, deployment.kind = kind_label(*kind), "a deployment was requested");
        }
        EventKind::DeploymentSent { agent, attempt } => {
            let agent = tracing::field::display(agent);
            say!(info, agent.name = agent, deployment.attempt = attempt, "a deployment was sent to an agent");
        }
        EventKind::DeploymentReturned { .. } => say!(warn, "a deployment was given back and waits again"),
        EventKind::StepStarted { step, .. } => {
            say!(debug, deployment.step = step.as_str(), "a step of a deployment began");
        }
        EventKind::CancelRequested {} => say!(info, "a deployment is to be cancelled"),
        EventKind::DeploymentEnded { outcome, .. } => {
            say!(
                info,
                deployment.outcome = outcome.code(),
                deployment.reason = reason(outcome),
                "a deployment has ended"
            );
        }
        EventKind::InstanceStarted { .. } => say!(debug, "an instance was started"),
        EventKind::InstanceLive { .. } => say!(info, "an instance is live"),
        EventKind::InstanceRestarted { restarts, .. } => {
            say!(warn, instance.restarts = restarts, "an instance ended by itself and was started again");
        }
        EventKind::InstanceDraining { .. } => say!(debug, "an instance is drained"),
        EventKind::InstanceStopped { .. } => say!(info, "an instance has stopped"),
        EventKind::InstanceLost {} => say!(warn, "an instance is lost with its agent"),
        EventKind::AgentDrained {} => say!(info, "an agent gets no new work"),
        EventKind::AgentResumed {} => say!(info, "an agent gets work again"),
        EventKind::AgentForgotten {} => say!(info, "an agent was removed"),
        _ => {}
    }
}
