//! What happened according to the feed, and whether it may have: each deployment ends once, in a way that its plan and the
//! faults explain; nothing comes after its end; what REST shows is the fold of its events.

use jiff::{SignedDuration, Timestamp};
use sdp_core::deployment::{Deployment, Outcome, Step};
use sdp_core::event::{Event, EventKind};
use sdp_core::failure::FailureReason;
use sdp_core::id::EventSeq;

use super::{Evidence, about};
use crate::processes::{Incident, Kind};
use crate::report::Findings;
use crate::work::{Ends, Plan};

/// So soon after its agent is back a deployment has gone on or ended.
pub(crate) const RECOVERY: SignedDuration = SignedDuration::from_secs(15);

/// The feed as one reader saw it against the feed as it is: dense, the same, in order.
pub(super) fn feed(findings: &Findings, seen: &[Event], now: &[Event]) {
    findings.count("events compared", now.len() as u64);
    for (n, event) in seen.iter().enumerate() {
        if event.seq != EventSeq(n as u64 + 1) {
            let detail = format!("event {} came where {} was due", event.seq, n + 1);
            return findings.say("feed", "the one feed", detail);
        }
    }
    if let Some(at) = (0..seen.len().max(now.len())).find(|at| seen.get(*at) != now.get(*at)) {
        let detail =
            format!("event {} was {:?} when it happened, and is {:?}", at + 1, seen.get(at), now.get(at));
        findings.say("feed", "the one feed", detail);
    }
}

/// One deployment's events and its end.
pub(super) fn examine(evidence: &Evidence<'_>, plan: &Plan, deployment: &Deployment) {
    let findings = evidence.findings;
    let about = about(plan, deployment);
    let events: Vec<&Event> =
        evidence.events.iter().filter(|event| event.about.deployment == Some(deployment.id)).collect();
    for fault in told_wrongly(&events, deployment) {
        findings.say("feed", &about, fault);
    }
    let code = match deployment.outcome() {
        Some(Outcome::Failed { failure }) => format!("failed: {}", failure.reason.code()),
        Some(outcome) => outcome.code().to_owned(),
        None => "not ended".to_owned(),
    };
    *findings.figures().outcomes.entry(code).or_default() += 1;
    let agent = evidence.cluster.agents[plan.agent].name;
    let stops: Vec<Kind> = evidence
        .incidents
        .iter()
        .filter(|incident| incident.target == agent && incident.kind.ends_the_process())
        // What the agent did not bring over before it was stopped is told by its next life.
        .filter(|incident| {
            incident.to >= deployment.requested_at && deployment.ended_at >= Some(incident.from)
        })
        .map(|incident| incident.kind)
        .collect();
    let docker = evidence.cluster.ground.agents[plan.agent].docker;
    if let Some(problem) = unexplained(plan, deployment, &stops, docker) {
        findings.say("outcome", &about, problem);
    }
    if let Some(Outcome::Superseded { by, number }) = deployment.outcome() {
        let newer = evidence.deployments.iter().map(|(_, other)| other).any(|other| {
            other.id == *by
                && other.number == *number
                && other.number > deployment.number
                && (&other.service, &other.sandbox) == (&deployment.service, &deployment.sandbox)
        });
        if !newer {
            findings.say("outcome", &about, format!("no newer one of its place superseded it: {number}"));
        }
    }
}

/// What is wrong with a deployment's events.
fn told_wrongly(events: &[&Event], deployment: &Deployment) -> Vec<String> {
    let mut faults = Vec::new();
    let mut fold: Option<Deployment> = None;
    let mut step: Option<Step> = None;
    for event in events {
        let is_after_the_end = fold.as_ref().is_some_and(Deployment::is_ended);
        // Its instance lives on, and has a story of its own.
        let is_of_the_job =
            event.about.instance.is_none() || matches!(event.kind, EventKind::InstanceStarted { .. });
        if is_after_the_end && is_of_the_job {
            faults.push(format!("event {} comes after its end: {:?}", event.seq, event.kind));
        }
        match &event.kind {
            EventKind::DeploymentRequested { .. } if fold.is_some() => {
                faults.push(format!("event {} asks for it again", event.seq));
            }
            // With another attempt, and with a job that its agent begins again, the first steps come again.
            EventKind::DeploymentSent { .. } => step = None,
            EventKind::StepStarted { step: next, .. } => {
                let begun_again = *next <= Step::Fetch && step <= Some(Step::Fetch);
                if step >= Some(*next) && !begun_again {
                    faults.push(format!("event {}: {next} begins in or after {step:?}", event.seq));
                }
                step = Some(*next);
            }
            _ => {}
        }
        match &mut fold {
            None => fold = Deployment::begin(event),
            Some(fold) => fold.apply(event),
        }
    }
    if fold.as_ref() != Some(deployment) {
        faults.push(format!("its events make {fold:?}, REST shows {deployment:?}"));
    }
    faults
}

/// Why an outcome should not be, given the plan and how its agent was stopped meanwhile.
fn unexplained(plan: &Plan, deployment: &Deployment, stops: &[Kind], docker: bool) -> Option<String> {
    let say = |problem: &str| {
        Some(format!("{problem}: {:?} (its agent was stopped by {stops:?})", deployment.state))
    };
    match deployment.outcome() {
        None => None,
        Some(Outcome::Succeeded {}) if plan.ends != Ends::Well => say("its build cannot have succeeded"),
        Some(Outcome::Cancelled { .. }) if plan.cancel_after.is_none() => say("nobody cancelled it"),
        Some(Outcome::Failed { failure }) => match (failure.reason, failure.step) {
            (FailureReason::BuildFailed, Some(Step::Build)) if plan.ends == Ends::Fails => None,
            (FailureReason::BuildFailed, _) => say("its build does not fail"),
            (FailureReason::AgentRestarted, _) if stops.is_empty() => say("its agent was not restarted"),
            (FailureReason::AgentRestarted, Some(Step::Build)) => None,
            // A container that is not there yet, and a process that died with its agent.
            (FailureReason::AgentRestarted, Some(Step::Start)) => None,
            (FailureReason::AgentRestarted, Some(Step::Check)) if !docker => None,
            (FailureReason::AgentRestarted, _) => say("in this step it should have gone on"),
            _ => say("neither its plan nor the faults explain it"),
        },
        Some(_) => None,
    }
}

/// How long it took, after each restart of an agent, until the deployments that it held went on or ended. Other faults on the
/// way put the beginning off.
pub(super) fn recoveries(evidence: &Evidence<'_>) {
    let findings = evidence.findings;
    for (stop, plan, deployment) in evidence.incidents.iter().flat_map(|stop| {
        let held = evidence.deployments.iter().map(move |(plan, deployment)| (stop, plan, deployment));
        held.filter(|(stop, plan, _)| {
            stop.kind.ends_the_process() && stop.target == evidence.cluster.agents[plan.agent].name
        })
    }) {
        let mine = || evidence.events.iter().filter(|event| event.about.deployment == Some(deployment.id));
        let was_sent = mine()
            .any(|event| matches!(event.kind, EventKind::DeploymentSent { .. }) && event.at < stop.from);
        let was_over = deployment.ended_at.is_some_and(|ended| ended < stop.to);
        // In the last step the agent has done its part already.
        let was_done = mine().any(|event| {
            matches!(event.kind, EventKind::StepStarted { step: Step::Switch, .. }) && event.at < stop.from
        });
        if !was_sent || was_over || was_done {
            continue;
        }
        let Some(next) = mine().map(|event| event.at).find(|at| *at > stop.to) else {
            findings.say("recovery", about(plan, deployment), "it never went on after its agent's restart");
            continue;
        };
        let back = undisturbed(stop, next, evidence.incidents);
        let took = next.duration_since(back).max(SignedDuration::ZERO);
        if took > RECOVERY {
            let detail =
                format!("{:.1} s after {} was back nothing had happened", took.as_secs_f64(), stop.target);
            findings.say("recovery", about(plan, deployment), detail);
        }
        findings.figures().recoveries.push(took.unsigned_abs());
    }
}

/// From when on nothing was in an agent's way any more before `next`: its own stops, the server's, its link's.
fn undisturbed(stop: &Incident, next: Timestamp, incidents: &[Incident]) -> Timestamp {
    let in_its_way = |incident: &&Incident| {
        (incident.target == stop.target || incident.target == "server") && incident.from < next
    };
    incidents.iter().filter(in_its_way).map(|incident| incident.to.min(next)).fold(stop.to, Timestamp::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recovery_is_measured_from_the_last_fault_in_its_way() {
        let at = |second: i64| Timestamp::from_second(second).expect("in range");
        let incident = |kind, target, from, to| Incident { kind, target, from: at(from), to: at(to) };
        let stop = incident(Kind::Kill, "vm-1", 10, 12);
        let all = [
            stop.clone(),
            incident(Kind::Kill, "server", 13, 15),
            incident(Kind::Cut, "vm-2", 16, 16),
            incident(Kind::Cut, "vm-1", 30, 30),
        ];
        assert_eq!(undisturbed(&stop, at(20), &all), at(15));
        assert_eq!(undisturbed(&stop, at(14), &all), at(14), "it came before that fault was over");
        assert_eq!(undisturbed(&stop, at(20), &all[..1]), at(12));
    }
}
