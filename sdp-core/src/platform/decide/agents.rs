//! What an agent's hello and reports mean.

use std::time::Duration;

use jiff::Timestamp;

use super::super::input::{Hello, Report};
use super::super::world::{Note, Open, Running, Unfit, World};
use super::{Act, abandoned, after, cancelled, ended, failed, stop_command};
use crate::deployment::{Outcome, State, Step};
use crate::event::{About, EventKind};
use crate::failure::{Failure, FailureReason};
use crate::id::{DeploymentId, InstanceId};
use crate::name::AgentName;
use crate::principal::Principal;
use crate::sandbox::{InstanceState, StopReason};
use crate::wire::{
    Health, InstanceAction, InstanceDecision, InstanceReport, InstanceStatus, JobAction, JobDecision,
    JobResult, Progress, RejectReason, RestartCause, ToAgent,
};

/// For how long an agent that is busy, or whose disk is full, is not asked again.
const BUSY_FOR: Duration = Duration::from_secs(1);
const UNFIT_FOR: Duration = Duration::from_secs(30);

/// What follows from a hello: acts, and a decision for every job and every instance that it names. How many lines of a
/// job's log are there already is for the caller to fill in.
pub(crate) fn hello(
    world: &World,
    agent: &AgentName,
    hello: &Hello,
) -> (Vec<Act>, Vec<JobDecision>, Vec<InstanceDecision>) {
    let mut acts = Vec::new();
    let jobs = hello
        .jobs
        .iter()
        .map(|job| {
            let open =
                assigned(world, agent, job.deployment).filter(|open| open.deployment.attempt == job.attempt);
            let action = match open {
                None => JobAction::Forget {},
                // Its word that all is ready is here; that the agent lost it in a power cut changes nothing for what runs.
                Some(open) if open.is_ready() && !job.done => JobAction::Forget {},
                Some(open) => {
                    if !open.job.accepted {
                        acts.push(Act::Note(Note::Accepted(open.deployment.number)));
                    }
                    let progress = open.job.progress;
                    match open.cancel_asked {
                        Some(_) => JobAction::Cancel { lines: 0, progress, ahead: None },
                        None if job.interrupted && has_lost_credential(open) => {
                            let detail = "agent and server were both restarted before the fetch was over";
                            acts.extend(failed(open, FailureReason::CredentialsGone, detail.into()));
                            JobAction::Forget {}
                        }
                        None => {
                            if job.interrupted {
                                acts.push(Act::SendJob(open.deployment.number));
                            }
                            JobAction::Send { lines: 0, progress, ahead: None }
                        }
                    }
                }
            };
            JobDecision { deployment: job.deployment, attempt: job.attempt, action }
        })
        .collect();
    let instances = hello
        .instances
        .iter()
        .map(|report| InstanceDecision {
            instance: report.instance,
            action: instance_action(world, agent, report),
            expires_at: world.instances.get(&report.instance).and_then(|running| end_of(world, running)),
        })
        .collect();

    // What it should have and does not name is gone.
    for open in
        world.open.values().filter(|open| open.deployment.agent.as_ref() == Some(agent) && !open.is_ready())
    {
        if hello
            .jobs
            .iter()
            .any(|job| job.deployment == open.deployment.id && job.attempt == open.deployment.attempt)
        {
            continue;
        }
        if open.job.accepted {
            acts.extend(lost_with_restart(world, open));
        } else if open.cancel_asked.is_some() {
            acts.push(cancelled(open));
        } else if open.job.had_credential && open.credential.is_none() && open.deployment.commit.is_none() {
            let detail = "the server was restarted before the agent took it";
            let failure = Failure::new(None, FailureReason::CredentialsGone, detail);
            acts.push(ended(open, Outcome::Failed { failure }));
        } else {
            acts.push(Act::SendJob(open.deployment.number));
        }
    }
    if hello.degraded.is_some() {
        // "Cannot list" does not mean "there are none".
        return (acts, jobs, instances);
    }
    for running in
        world.instances.values().filter(|r| r.instance.agent == *agent && !r.instance.state.is_over())
    {
        let of_open = world.open_by_id(running.instance.deployment).is_some_and(|open| !open.is_ready());
        if of_open || hello.instances.iter().any(|report| report.instance == running.instance.id) {
            continue;
        }
        let reason = match &running.instance.state {
            InstanceState::Draining { reason } => reason.clone(),
            _ => StopReason::AgentRestarted {},
        };
        acts.push(Act::system(
            running.about(),
            EventKind::InstanceStopped { reason, last_lines: Vec::new() },
        ));
    }
    (acts, jobs, instances)
}

/// Whether a job that begins again would have to ask its git host without the credential that it came with. One that is past
/// the fetch waits for the service's secrets alone.
fn has_lost_credential(open: &Open) -> bool {
    let fetches = !matches!(open.deployment.state, State::Running { step } if step > Step::Fetch);
    fetches && open.job.had_credential && open.credential.is_none() && !open.deployment.kind.may_reuse_build()
}

fn instance_action(world: &World, agent: &AgentName, report: &InstanceReport) -> InstanceAction {
    let known = world.instances.get(&report.instance).filter(|running| running.instance.agent == *agent);
    let of_open_job = assigned(world, agent, report.deployment)
        .is_some_and(|open| open.job.instance == report.instance && !open.is_ready());
    match known {
        _ if of_open_job => InstanceAction::Keep,
        // An exit is reported again after the welcome, and answered then.
        Some(running) if !running.instance.state.is_over() => InstanceAction::Keep,
        Some(_) | None => InstanceAction::Remove,
    }
}

/// When an instance ends by itself. One that drains has no time left, whatever its sandbox has: nobody shall start it again.
fn end_of(world: &World, running: &Running) -> Option<Timestamp> {
    match running.instance.state {
        InstanceState::Draining { .. } => Some(running.since),
        _ => world.sandboxes.get(&running.instance.sandbox).and_then(|sandbox| sandbox.expires_at),
    }
}

fn lost_with_restart(world: &World, open: &Open) -> Vec<Act> {
    let step = match open.deployment.state {
        State::Running { step } => Some(step),
        _ => None,
    };
    let mut acts = instance_gone(world, open);
    acts.push(match open.cancel_asked {
        Some(_) => cancelled(open),
        None => {
            let detail = "its job died with the agent's former process";
            ended(
                open,
                Outcome::Failed { failure: Failure::new(step, FailureReason::AgentRestarted, detail) },
            )
        }
    });
    acts
}

/// The instance of a job that ended badly: the agent has removed it already.
fn instance_gone(world: &World, open: &Open) -> Vec<Act> {
    let running = world.instances.get(&open.job.instance).filter(|running| !running.instance.state.is_over());
    let stopped = |about| {
        Act::system(
            about,
            EventKind::InstanceStopped { reason: StopReason::DeploymentEnded {}, last_lines: Vec::new() },
        )
    };
    running.map(|running| stopped(running.about())).into_iter().collect()
}

fn assigned<'a>(world: &'a World, agent: &AgentName, deployment: DeploymentId) -> Option<&'a Open> {
    world.open_by_id(deployment).filter(|open| open.deployment.agent.as_ref() == Some(agent))
}

fn assigned_attempt<'a>(
    world: &'a World,
    agent: &AgentName,
    deployment: DeploymentId,
    attempt: u32,
) -> Option<&'a Open> {
    assigned(world, agent, deployment).filter(|open| open.deployment.attempt == attempt)
}

/// What follows from a report. What is not this agent's to report is not believed.
pub(crate) fn report(world: &World, now: Timestamp, agent: &AgentName, report: Report) -> Vec<Act> {
    match report {
        Report::Accepted { deployment, attempt } => match assigned_attempt(world, agent, deployment, attempt)
        {
            Some(open) if !open.job.accepted => vec![Act::Note(Note::Accepted(open.deployment.number))],
            _ => Vec::new(),
        },
        Report::Rejected { deployment, attempt, reason, message } => {
            match assigned_attempt(world, agent, deployment, attempt) {
                Some(open) if !open.job.accepted => rejected(open, agent, reason, message, now),
                _ => Vec::new(),
            }
        }
        Report::Progress { deployment, attempt, number, after_line, what } => {
            let open = assigned(world, agent, deployment)
                .filter(|open| open.deployment.attempt == attempt && !open.is_ready());
            match open {
                Some(open) if number == open.job.progress + 1 => {
                    let mut acts = vec![Act::Note(Note::Progress(open.deployment.number, number))];
                    acts.extend(progress(world, now, agent, open, after_line, what));
                    acts
                }
                _ => Vec::new(),
            }
        }
        Report::Stalled { deployment } => match assigned(world, agent, deployment) {
            Some(open) if !open.is_ready() => vec![Act::Note(Note::Stalled(open.deployment.number, now))],
            _ => Vec::new(),
        },
        Report::LogIncomplete { deployment, detail } => match assigned(world, agent, deployment) {
            Some(open) => abandoned(open, agent, FailureReason::LogIncomplete, detail, now),
            None => Vec::new(),
        },
        Report::Instance(report) => instance(world, now, agent, report),
        Report::RoutesApplied { version } => vec![Act::Note(Note::Applied(agent.clone(), version))],
        Report::Drained { instance } => vec![Act::Note(Note::Drained(instance, agent.clone()))],
        Report::Preflight { checks } => vec![Act::Note(Note::Preflight(agent.clone(), checks))],
        Report::Load { load } => vec![Act::Note(Note::Load(agent.clone(), load))],
    }
}

fn rejected(
    open: &Open,
    agent: &AgentName,
    reason: RejectReason,
    message: String,
    now: Timestamp,
) -> Vec<Act> {
    let wait = match reason {
        RejectReason::Unsupported => {
            let failure = Failure::new(None, FailureReason::AgentRefused, format!("{agent}: {message}"));
            return vec![ended(open, Outcome::Failed { failure })];
        }
        RejectReason::Busy => BUSY_FOR,
        RejectReason::Draining | RejectReason::DiskFull | RejectReason::EngineUnavailable => UNFIT_FOR,
    };
    let to_do = match reason {
        RejectReason::DiskFull => "; free space there",
        RejectReason::EngineUnavailable => "; check Docker there",
        _ => "",
    };
    let unfit = Unfit { until: after(now, wait), why: format!("{message}{to_do}") };
    vec![
        Act::Note(Note::Unfit(agent.clone(), unfit)),
        Act::system(open.about(), EventKind::DeploymentReturned { reason: format!("{agent}: {message}") }),
    ]
}

fn progress(
    world: &World,
    now: Timestamp,
    agent: &AgentName,
    open: &Open,
    after_line: u64,
    what: Progress,
) -> Vec<Act> {
    let about = About { agent: Some(agent.clone()), ..open.about() };
    let kind = match what {
        Progress::StepStarted { step } => EventKind::StepStarted { step, first_line: after_line + 1 },
        Progress::Resolved { commit } => EventKind::CommitResolved { commit },
        Progress::Fetched { info, changes } => EventKind::CommitFetched { info, changes },
        Progress::BuildReused { reused } => EventKind::BuildReused { reused },
        Progress::Noted { text } => EventKind::Noted { text },
        Progress::Started { address } => {
            let Some(commit) = open.deployment.commit.clone() else {
                let detail = "the agent started an unknown commit".to_owned();
                return abandoned(open, agent, FailureReason::Internal, detail, now);
            };
            let about = About { instance: Some(open.job.instance), ..about };
            // The end may have been moved while it was built.
            let sandbox = world.sandboxes.get(&open.deployment.sandbox);
            let lifetime = sandbox.map(|sandbox| ToAgent::Lifetimes {
                instances: [(open.job.instance, sandbox.expires_at)].into(),
            });
            let lifetime = lifetime.map(|message| Act::Send(agent.clone(), message));
            let started = Act::system(about, EventKind::InstanceStarted { commit, address });
            return [started].into_iter().chain(lifetime).collect();
        }
        Progress::Ended { result } => {
            return match result {
                JobResult::Ready {} if open.exited.is_some() => exited(world, now, agent, open),
                JobResult::Ready {} => {
                    vec![Act::system(
                        about,
                        EventKind::StepStarted { step: Step::Switch, first_line: after_line + 1 },
                    )]
                }
                JobResult::Failed { mut failure } => {
                    if failure.reason == FailureReason::SecretMissing {
                        // It does not know its own name.
                        failure.detail = format!("{agent}: {}", failure.detail);
                    }
                    let mut acts = instance_gone(world, open);
                    acts.push(ended(open, Outcome::Failed { failure }));
                    acts
                }
                JobResult::Cancelled {} if open.cancel_asked.is_some() => {
                    let mut acts = instance_gone(world, open);
                    acts.push(cancelled(open));
                    acts
                }
                // Nobody asked for it: the agent goes away and takes its work with it.
                JobResult::Cancelled {} => lost_with_restart(world, open),
            };
        }
    };
    vec![Act::system(about, kind)]
}

/// The agent said "ready", and before that (though later by its clock) that the instance has ended.
fn exited(world: &World, now: Timestamp, agent: &AgentName, open: &Open) -> Vec<Act> {
    let id = open.job.instance;
    let (reason, last_lines) = open.exited.clone().unwrap_or((StopReason::DeploymentEnded {}, Vec::new()));
    let exit_code = match &reason {
        StopReason::Crashed { exit_code, .. } => *exit_code,
        _ => None,
    };
    let stopped = world
        .instances
        .get(&id)
        .map(|running| Act::system(running.about(), EventKind::InstanceStopped { reason, last_lines }));
    let failure = Failure {
        exit_code,
        ..Failure::new(Step::Check, FailureReason::Exited, "it ended just after its check")
    };
    let forget =
        Act::Send(agent.clone(), ToAgent::StopInstance { command: stop_command(id, now), instance: id });
    let end = match open.cancel_asked {
        Some(_) => cancelled(open),
        None => ended(open, Outcome::Failed { failure }),
    };
    stopped.into_iter().chain([end, forget]).collect()
}

fn instance(world: &World, now: Timestamp, agent: &AgentName, report: InstanceReport) -> Vec<Act> {
    let forget = |id: InstanceId| {
        Act::Send(agent.clone(), ToAgent::StopInstance { command: stop_command(id, now), instance: id })
    };
    let of_job = assigned(world, agent, report.deployment)
        .filter(|open| open.job.instance == report.instance && !open.is_ready());
    if let Some(open) = of_job {
        // Its job says what became of it; but an end after its "ready" may come first.
        return match report.status {
            InstanceStatus::Exited { exit } => {
                vec![Act::Note(Note::Exited(open.deployment.number, exit.reason(), exit.last_lines))]
            }
            _ => Vec::new(),
        };
    }
    let known = world
        .instances
        .get(&report.instance)
        .filter(|running| running.instance.agent == *agent && !running.instance.state.is_over());
    let Some(running) = known else {
        return match report.status {
            InstanceStatus::Stopped {} => Vec::new(),
            InstanceStatus::Running { .. } | InstanceStatus::Exited { .. } => vec![forget(report.instance)],
        };
    };
    let asked_for = match &running.instance.state {
        InstanceState::Draining { reason } => Some(reason.clone()),
        _ => None,
    };
    let (reason, last_lines, answer) = match report.status {
        InstanceStatus::Running { restarts, last_restart, health, .. } => {
            return running_on(running, restarts, last_restart, health);
        }
        InstanceStatus::Exited { exit } => {
            (asked_for.unwrap_or(exit.reason()), exit.last_lines, Some(forget(report.instance)))
        }
        InstanceStatus::Stopped {} => (asked_for.unwrap_or(StopReason::AgentRestarted {}), Vec::new(), None),
    };
    let stopped = EventKind::InstanceStopped { reason, last_lines };
    [Act::system(running.about(), stopped)].into_iter().chain(answer).collect()
}

/// What has changed with an instance that runs. Levels: what happened several times since the last report is told once, with the
/// newest reason, and what was told before not at all.
fn running_on(
    running: &Running,
    restarts: u32,
    last_restart: Option<RestartCause>,
    health: Health,
) -> Vec<Act> {
    let again = last_restart.filter(|_| restarts > running.instance.restarts).map(|cause| {
        let reason = cause.reason();
        let last_lines = match cause {
            RestartCause::Exited { exit } => exit.last_lines,
            _ => Vec::new(),
        };
        EventKind::InstanceRestarted { reason, restarts, last_lines }
    });
    let healthy = match (&running.instance.state, health) {
        (InstanceState::Live {}, Health::Unhealthy { detail }) => {
            Some(EventKind::InstanceUnhealthy { detail })
        }
        (InstanceState::Unhealthy {}, Health::Healthy {}) => Some(EventKind::InstanceRecovered {}),
        // While it is checked, what was known before stands; and what is on its way in or out is judged by its deployment.
        _ => None,
    };
    again.into_iter().chain(healthy).map(|kind| Act::system(running.about(), kind)).collect()
}

/// What follows from the end of an agent's connection.
pub(crate) fn gone(world: &World, agent: &AgentName) -> Vec<Act> {
    match world.agents.get(agent) {
        Some(known) if known.connected => {
            let about = About { agent: Some(agent.clone()), ..About::default() };
            vec![Act::Event { by: Principal::System, about, kind: EventKind::AgentDisconnected {} }]
        }
        _ => Vec::new(),
    }
}
