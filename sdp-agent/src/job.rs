//! A job: one deployment's work on this agent, from a branch to a healthy instance.
//!
//! ```text
//!   Resolve ──▶ Fetch ──▶ Build ──▶ Start ──▶ Check ──▶ Ended{Ready}       the instance goes on, the build is kept
//!      │                              ▲
//!      └── kept build of the commit ──┘
//!   at any point: cancel, limit, failure, full disk ──▶ undo ──▶ Ended{Cancelled | Failed}
//! ```
//! [`crate::agent`] starts it and may stop it. All that it says goes into its [`JobLog`].
//!
//! The invariant: whatever it started or wrote is undone before it says that it failed or was cancelled; only a job that
//! ended as ready leaves something behind. The git credential is dropped when the fetch ends.
//!
//! When the agent ends in the middle, its next life goes on as [`Begin`] says: before the build it is done again from the first
//! step, from the start on it goes on where it was; only a build cannot be taken up. What a job was given and nobody keeps (its
//! credential, the service's secrets) comes with its order, which is sent again to a job that waits for it.
//!
//! Limits: [`sdp_core::wire::StepLimits`] for each step; resolve and fetch share one.

mod resume;
mod steps;
mod stop;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use sdp_core::deployment::Step;
use sdp_core::failure::{Failure, FailureReason};
use sdp_core::id::{DeploymentId, InstanceId};
use sdp_core::secret::GitCredential;
use sdp_core::wire::{JobResult, JobSpec, SecretVariable};

use crate::spool::JobLog;
use crate::tools::Tools;
pub(crate) use resume::{Left, Resumed, left};
pub(crate) use stop::{Stop, StopWhy};

/// A job as it was ordered.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) deployment: DeploymentId,
    pub(crate) attempt: u32,
    pub(crate) spec: JobSpec,
    pub(crate) credential: Option<GitCredential>,
    /// In memory only, like the credential.
    pub(crate) secrets: Vec<SecretVariable>,
}

/// Where a job begins.
#[derive(Debug)]
pub(crate) enum Begin {
    /// With the first step.
    Anew,
    /// With the first step, once more: the agent's former life ended before anything was built.
    Again,
    /// Where the agent's former life left it: what was built is there.
    At(Box<Resumed>),
    /// Nowhere: what is left of it is removed, and this said.
    Over(Halt),
}

/// Why the work did not come to its end.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The user's failure.
    Failed(Box<Failure>),
    /// Asked to stop; why is in the [`Stop`].
    Stopped,
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
}

impl Halt {
    fn failed(step: Step, reason: FailureReason, detail: impl Into<String>) -> Self {
        Failure::new(step, reason, detail).into()
    }
}

/// What has to be undone if the job does not end as ready.
#[derive(Debug, Default)]
struct Undo {
    step: Option<Step>,
    instance: bool,
    workspace: bool,
}

/// Does a job to its end. Never panics, never leaves the log without an end.
pub(crate) async fn run(order: Order, begin: Begin, tools: Arc<Tools>, log: JobLog, stop: Arc<Stop>) {
    let (deployment, instance) = (order.deployment, order.spec.instance);
    let begun = Instant::now();
    tracing::info!(deployment.id = %deployment, "a job began");
    let mut undo = Undo::default();
    let work = {
        let steps = steps::Steps::new(order, &tools, &log, &stop, &mut undo);
        let broken = log.broken().clone();
        let work = AssertUnwindSafe(Box::pin(steps.run(begin))).catch_unwind();
        tokio::pin!(work);
        loop {
            tokio::select! {
                result = &mut work => break result,
                () = broken.cancelled(), if !stop.is_set() => stop.set(StopWhy::DiskFull),
            }
        }
    };
    let step = undo.step;
    if matches!(work, Ok(Err(Halt::Stopped)))
        && stop.why() == Some(StopWhy::AgentStops)
        && step != Some(Step::Build)
    {
        return leave(&tools, &log, deployment, instance, &undo).await;
    }
    let result = match work {
        Ok(Ok(())) => None,
        Ok(Err(Halt::Failed(failure))) => Some(JobResult::Failed { failure: *failure }),
        Ok(Err(Halt::Stopped)) => Some(stopped(&stop, step)),
        Err(_) => {
            tracing::error!(deployment.id = %deployment, "a job panicked; its deployment has failed");
            let failure = Failure::new(step, FailureReason::Internal, "the agent has a fault; see its log");
            Some(JobResult::Failed { failure })
        }
    };
    if result.is_some() {
        if undo.instance {
            tools.runtime.stop(instance).await;
            tools.runtime.forget(instance);
        }
        tools.release(instance).await;
        if undo.workspace {
            tools.remove_workspace(deployment).await;
        }
    }
    let result = result.unwrap_or(JobResult::Ready {});
    say_how_it_ended(&log, step, &result);
    let (how, reason) = how_it_ended(&result);
    let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(deployment.id = %deployment, job.result = how, deployment.reason = reason, ms, "a job has ended");
    let finished = {
        let log = log.clone();
        let result = result.clone();
        tokio::task::spawn_blocking(move || log.finish(|last| with_line(result, last))).await
    };
    match finished {
        Ok(()) => {}
        // The runtime is going down: the next life decides.
        Err(error) if error.is_cancelled() => std::future::pending().await,
        Err(_) => log.finish(|last| with_line(result, last)),
    }
}

/// The agent ends: what its next life can go on with stays, and nothing is said.
async fn leave(tools: &Tools, log: &JobLog, deployment: DeploymentId, instance: InstanceId, undo: &Undo) {
    if undo.step.is_none_or(|step| step < Step::Build) {
        tools.release(instance).await;
        if undo.workspace {
            tools.remove_workspace(deployment).await;
        }
    }
    let log = log.clone();
    drop(tokio::task::spawn_blocking(move || log.write_down()).await);
}

/// How a job that was asked to stop has ended.
fn stopped(stop: &Stop, step: Option<Step>) -> JobResult {
    let failed = |reason, detail: &str| JobResult::Failed { failure: Failure::new(step, reason, detail) };
    match stop.why() {
        None | Some(StopWhy::Cancelled) => JobResult::Cancelled {},
        Some(StopWhy::AgentStops) => {
            failed(FailureReason::AgentRestarted, "the agent was stopped while it worked")
        }
        Some(StopWhy::DiskFull) => {
            failed(FailureReason::DiskFull, "the agent could not keep the log of this deployment")
        }
    }
}

/// For the log: what a failure says beside its code may be the words of a program or of a person.
fn how_it_ended(result: &JobResult) -> (&'static str, Option<&'static str>) {
    match result {
        JobResult::Ready {} => ("ready", None),
        JobResult::Failed { failure } => ("failed", Some(failure.reason.code())),
        JobResult::Cancelled {} => ("cancelled", None),
        _ => ("other", None),
    }
}

fn say_how_it_ended(log: &JobLog, step: Option<Step>, result: &JobResult) {
    let step = step.unwrap_or(Step::Resolve);
    match result {
        JobResult::Failed { failure } => {
            log.say(step, &format!("failed: {}: {}", failure.reason, failure.detail));
        }
        JobResult::Cancelled {} => log.say(step, "cancelled; all that was started is gone"),
        _ => {}
    }
}

/// Says where a failing program shows: the last line that it printed.
fn with_line(result: JobResult, last_printed: u64) -> JobResult {
    match result {
        JobResult::Failed { mut failure } => {
            let shows = matches!(
                failure.reason,
                FailureReason::BuildFailed
                    | FailureReason::DependencyUnreachable
                    | FailureReason::ReleaseFailed
                    | FailureReason::Exited
                    | FailureReason::HealthCheckFailed
            );
            if shows && failure.line.is_none() && last_printed > 0 {
                failure.line = Some(last_printed);
            }
            JobResult::Failed { failure }
        }
        other => other,
    }
}
