//! What the bot told people against what happened. See [`crate::bots`] for what it promises.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use sdp_core::deployment::{Deployment, Outcome};

use super::{Evidence, about};
use crate::bots::{Executed, Told, outcomes_told};

/// What ends so long after the console's last start is told by it, if it knew of it before.
const RESTORED: SignedDuration = SignedDuration::from_secs(10);

/// What the console said in each of its lives.
fn said(lives: &[Told]) -> anyhow::Result<Vec<BTreeMap<u64, Vec<&'static str>>>> {
    lives.iter().map(|life| Ok(outcomes_told(&std::fs::read_to_string(&life.output)?))).collect()
}

/// Whether the console's last life has told everything that it is to tell.
pub(crate) fn all_is_told(lives: &[Told], deployments: &[&Deployment]) -> anyhow::Result<bool> {
    Ok(untold(lives, deployments)?.is_empty())
}

fn untold(lives: &[Told], deployments: &[&Deployment]) -> anyhow::Result<Vec<u64>> {
    let said = said(lives)?;
    let (Some(last), Some(life)) = (said.last(), lives.last()) else { return Ok(Vec::new()) };
    let is_due = |deployment: &&&Deployment| {
        let number = deployment.number.0;
        let is_late = deployment.ended_at > Some(saturating_after(life.from));
        last.get(&number).is_some_and(Vec::is_empty)
            || is_late && said.iter().any(|life| life.contains_key(&number)) && !last.contains_key(&number)
    };
    Ok(deployments.iter().filter(is_due).map(|deployment| deployment.number.0).collect())
}

fn saturating_after(time: Timestamp) -> Timestamp {
    time.checked_add(RESTORED).unwrap_or(Timestamp::MAX)
}

/// The console's words.
pub(super) async fn console(evidence: &Evidence<'_>) -> anyhow::Result<()> {
    let Evidence { cluster, findings, .. } = evidence;
    let lives = cluster.console.lives().await;
    let deployments: Vec<&Deployment> =
        evidence.deployments.iter().map(|(_, deployment)| deployment).collect();
    for number in untold(&lives, &deployments)? {
        findings.say("bot", format!("#{number}"), "the console's last life did not tell its end");
    }
    for (n, said) in said(&lives)?.into_iter().enumerate() {
        for (number, outcomes) in said {
            let deployment = evidence.deployments.iter().find(|(_, one)| one.number.0 == number);
            let Some((plan, deployment)) = deployment else {
                findings.say(
                    "bot",
                    format!("#{number}"),
                    "the console told of a deployment that is not there",
                );
                continue;
            };
            findings.count("outcomes told by the console", outcomes.len() as u64);
            let expected = deployment.outcome().map_or("not ended", Outcome::code);
            if outcomes.len() > 1 || outcomes.iter().any(|outcome| *outcome != expected) {
                let detail =
                    format!("the console's life {} told {outcomes:?}, it ended as {expected}", n + 1);
                findings.say("bot", about(plan, deployment), detail);
            }
        }
    }
    Ok(())
}

/// A script's command: exit code 0 exactly if it succeeded, or a plain word that the server was not reached.
pub(super) fn script(evidence: &Evidence<'_>, executed: &Executed) {
    let Executed { plan, exit_code, output } = executed;
    let Some(code) = exit_code else { return };
    let found = evidence.deployments.iter().find(|(of, _)| of.branch == plan.branch);
    let outcome = found.and_then(|(_, deployment)| deployment.outcome()).map(Outcome::code);
    let knew = outcomes_told(output).into_values().next();
    let is_right = match (code, outcome) {
        (0, Some("succeeded")) => true,
        // It never heard that its request was taken.
        (1, None) => true,
        (1, Some(_)) if knew.is_none() => true,
        (1, Some(outcome)) => outcome != "succeeded",
        _ => false,
    };
    if !is_right {
        let detail =
            format!("the script's command ended with {code}, the deployment as {outcome:?}:\n{output}");
        evidence.findings.say("bot", &plan.branch, detail);
    }
}
