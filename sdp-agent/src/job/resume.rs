//! What becomes of a job that the agent's former life left: decided from what the job had said, as far as it is written. That is all of
//! it, but after a power cut; then the server may know better, and its welcome says so.
//!
//! | it was in | now |
//! | --- | --- |
//! | nothing yet, resolve, fetch | begins again when its order comes again: the credential went with the former life; at most [`BEGINNINGS`] times |
//! | build | fails with `agent_restarted`: builds die with the agent |
//! | start, check | goes on: what runs is adopted and checked, what does not is started from the kept build |
//! | start, check, of a service with secrets | the same, once its order comes again: nothing is started without them |

use std::net::SocketAddr;

use sdp_core::deployment::Step;
use sdp_core::failure::FailureReason;
use sdp_core::name::CommitId;
use sdp_core::wire::Progress;

use super::{Begin, Halt, steps};
use crate::builder::RunPlan;
use crate::spool::JobLog;
use crate::tools::Tools;

/// An agent that ends so often while it works on the same job may end because of it.
const BEGINNINGS: u32 = 3;

/// What becomes of a job.
#[derive(Debug)]
pub(crate) enum Left {
    /// It waits for its order.
    Interrupted,
    /// It waits for its order, and for the secrets in it; then it goes on.
    Waits(Begin),
    /// It goes on by itself.
    Goes(Begin),
}

/// A job that goes on.
#[derive(Debug)]
pub(crate) struct Resumed {
    /// Build: that is done, and the next step has not begun.
    pub(super) step: Step,
    pub(super) commit: CommitId,
    pub(super) run: RunPlan,
    /// Where its instance listens, if that was said already.
    pub(super) started: Option<SocketAddr>,
}

/// Decides, and reserves the build that a job goes on with.
pub(crate) async fn left(tools: &Tools, log: &JobLog) -> Left {
    let spec = log.spec();
    let said = log.so_far();
    let step = said.iter().rev().find_map(|what| match what {
        Progress::StepStarted { step } => Some(*step),
        _ => None,
    });
    let resolved = said.iter().rev().find_map(|what| match what {
        Progress::Resolved { commit } => Some(commit.clone()),
        _ => None,
    });
    let started = said.iter().rev().find_map(|what| match what {
        Progress::Started { address } => Some(*address),
        _ => None,
    });
    let over = |step, detail: &str| {
        Left::Goes(Begin::Over(Halt::failed(step, FailureReason::AgentRestarted, detail)))
    };
    let step = match step {
        None | Some(Step::Resolve | Step::Fetch) if log.begun() < BEGINNINGS => return Left::Interrupted,
        None | Some(Step::Resolve | Step::Fetch) => {
            let detail = format!("the agent ended {BEGINNINGS} times while it worked on it");
            return over(step.unwrap_or(Step::Resolve), &detail);
        }
        Some(step) => step,
    };
    let (deployment, instance) = (log.key().0, spec.instance);
    let hash = steps::spec_hash_of(tools, &spec);
    let kept = match resolved.or_else(|| spec.commit.clone()) {
        Some(commit) => {
            tools.find_kept(&spec.service, &commit, &hash, instance).await.map(|kept| (commit, kept.run))
        }
        None => None,
    };
    let own = tools.build_of(instance).await == Some(deployment);
    match kept {
        Some((commit, run)) if step != Step::Build || own => {
            let begin = Begin::At(Box::new(Resumed { step, commit, run, started }));
            if log.has_secrets() { Left::Waits(begin) } else { Left::Goes(begin) }
        }
        _ => {
            tools.release(instance).await;
            over(step, "its build died with the agent's former process")
        }
    }
}
