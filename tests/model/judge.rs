//! What must hold of a history once it is over.
//!
//! - Events are numbered densely. A deployment ends once; after that only its instance has a story.
//! - What an agent reported is applied in its order, once, without a gap.
//! - A log is a beginning of what one attempt's agent said; all of it, if the deployment ended by the agent's word. What
//!   programs printed is in it from the first line on, in their order.

use sdp_core::deployment::{Outcome, Step};
use sdp_core::event::{Event, EventKind};
use sdp_core::id::DeploymentId;
use sdp_core::logs::Line;
use sdp_core::platform::Platform;
use sdp_core::wire::{JobResult, Progress, Stream};

use crate::history::Branch;
use crate::witness::{Said, Witness};

pub(crate) fn events(witness: &Witness, events: &[Event]) {
    for (event, seq) in events.iter().zip(1_u64..) {
        if event.seq.0 != seq {
            witness.wrong(format!("event {} is in place {seq}", event.seq));
        }
    }
}

pub(crate) async fn deployment(witness: &Witness, platform: &Platform, events: &[Event], id: DeploymentId) {
    let story: Vec<&Event> = events.iter().filter(|event| event.about.deployment == Some(id)).collect();
    let Some(outcome) = ends_once(witness, &story, id) else { return };
    let deployment = platform.deployment(id.into()).await.expect("it is there");
    if deployment.outcome() != Some(outcome) {
        witness.wrong(format!("{id} ended as {outcome:?}, and its row has {:?}", deployment.outcome()));
    }
    let cancelled = story.iter().any(|event| event.kind == EventKind::CancelRequested {});
    if cancelled && *outcome == (Outcome::Succeeded {}) {
        witness.wrong(format!("{id} was to be cancelled, and has succeeded"));
    }
    applied(witness, &story, id);
    let lines = platform.logs().window(id, 1, usize::MAX).await.unwrap_or_default();
    let branch = Branch::ALL.into_iter().find(|branch| branch.name() == deployment.git_ref.as_str());
    let built =
        story.iter().any(|event| matches!(event.kind, EventKind::StepStarted { step: Step::Start, .. }));
    let built = built && deployment.reused_build != Some(true);
    printed(witness, &lines, branch.expect("a branch of ours").lines(), built, id);
    logged(witness, &lines, outcome, id);
}

fn ends_once<'a>(witness: &Witness, story: &[&'a Event], id: DeploymentId) -> Option<&'a Outcome> {
    let mut outcome = None;
    for event in story {
        match (&event.kind, outcome) {
            (EventKind::DeploymentEnded { outcome: ended, .. }, None) => outcome = Some(ended),
            (_, None) => {}
            (
                EventKind::InstanceLive { .. }
                | EventKind::InstanceRestarted { .. }
                | EventKind::InstanceDraining { .. }
                | EventKind::InstanceStopped { .. }
                | EventKind::InstanceLost {},
                Some(_),
            ) => {}
            (kind, Some(outcome)) => {
                witness.wrong(format!("{id} has ended as {outcome:?}, and then {kind:?}"));
            }
        }
    }
    if outcome.is_none() {
        witness.wrong(format!("{id} has not ended"));
    }
    outcome
}

/// The event that a report becomes.
fn event_of((after_line, what): &(u64, Progress)) -> Option<String> {
    let first_line = after_line + 1;
    let kind = match what {
        Progress::StepStarted { step } => EventKind::StepStarted { step: *step, first_line },
        Progress::Resolved { commit } => EventKind::CommitResolved { commit: commit.clone() },
        Progress::Fetched { info, changes } => {
            EventKind::CommitFetched { info: info.clone(), changes: changes.clone() }
        }
        Progress::BuildReused { reused } => EventKind::BuildReused { reused: *reused },
        Progress::Noted { text } => EventKind::Noted { text: text.clone() },
        Progress::Started { address } => return Some(format!("started at {address}")),
        Progress::Ended { result: JobResult::Ready {} } => {
            EventKind::StepStarted { step: Step::Switch, first_line }
        }
        _ => return None,
    };
    Some(format!("{kind:?}"))
}

/// What was reported of each attempt, as its events tell it.
fn applied(witness: &Witness, story: &[&Event], id: DeploymentId) {
    let mut attempts: Vec<(u32, Vec<String>)> = Vec::new();
    for event in story {
        let word = match &event.kind {
            EventKind::DeploymentSent { attempt, .. } => {
                attempts.push((*attempt, Vec::new()));
                continue;
            }
            EventKind::InstanceStarted { address, .. } => format!("started at {address}"),
            EventKind::StepStarted { .. }
            | EventKind::CommitResolved { .. }
            | EventKind::CommitFetched { .. }
            | EventKind::BuildReused { .. }
            | EventKind::Noted { .. } => format!("{:?}", event.kind),
            _ => continue,
        };
        match attempts.last_mut() {
            Some((_, words)) => words.push(word),
            None => witness.wrong(format!("{id} was never sent, and {word}")),
        }
    }
    // What is wrong is said when nobody looks at what was said any more.
    let wrong = witness.with_said(id, |said| {
        for (attempt, words) in &attempts {
            let reports = said.iter().find(|(n, _)| n == attempt).map(|(_, said)| said.progress.as_slice());
            let reported: Vec<String> = reports.unwrap_or_default().iter().filter_map(event_of).collect();
            if !reported.starts_with(words) {
                return Some(format!(
                    "{id}, attempt {attempt}: reported was {reported:?}, applied {words:?}"
                ));
            }
        }
        None
    });
    if let Some(wrong) = wrong {
        witness.wrong(wrong);
    }
}

/// What the build printed is a beginning of what it prints; all of it, if it has come to its end.
fn printed(witness: &Witness, lines: &[Line], all: usize, built: bool, id: DeploymentId) {
    let printed: Vec<&Line> =
        lines.iter().filter(|line| line.step == Step::Build && line.stream != Stream::Sdp).collect();
    let wrong = printed.iter().zip(1_usize..).find(|(line, n)| line.bytes != n.to_string().as_bytes());
    if let Some((line, n)) = wrong {
        witness.wrong(format!("{id}: the build's line {n} is {line:?}"));
    }
    if printed.len() > all || built && printed.len() != all {
        witness.wrong(format!("{id}: of {all} lines {} are in the log", printed.len()));
    }
}

fn logged(witness: &Witness, lines: &[Line], outcome: &Outcome, id: DeploymentId) {
    if let Some((line, n)) = lines.iter().zip(1_u64..).find(|(line, n)| line.n != *n) {
        witness.wrong(format!("{id}: line {n} of the log is {line:?}"));
    }
    let begins = |said: &Said| {
        lines.len() <= said.lines.len()
            && lines.iter().zip(&said.lines).all(|(line, sent)| {
                line.step == sent.step && line.stream == sent.stream && line.bytes == sent.text
            })
    };
    let verdict = witness.with_said(id, |said| {
        let Some((_, last)) = said.last() else { return lines.is_empty() };
        if last.ends_by_its_word(outcome) {
            return begins(last) && lines.len() == last.lines.len();
        }
        lines.is_empty() || said.iter().any(|(_, said)| begins(said))
    });
    if !verdict {
        let said: Vec<_> =
            witness.with_said(id, |said| said.iter().map(|(n, s)| (*n, s.lines.len())).collect());
        witness.wrong(format!(
            "{id}: the log's {} lines are not what its agents said ({said:?}, ended as {outcome:?})",
            lines.len()
        ));
    }
}
