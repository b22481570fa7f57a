//! The oracle: what must hold when the faults are over and everything has come to its end. It trusts nothing that SDP says of
//! itself alone: builds have written down what they printed, viewers have kept what they were shown, `docker` and `/proc` say
//! what is there.
//!
//! [`lines`] compares (pure), [`remains`] reads what the dead leave, [`logs`] lays all copies of a log side by side,
//! [`story`] looks at events and outcomes, [`told`] at the bot's words, [`machine`] at containers, processes and routes.

pub(crate) mod lines;
mod logs;
pub(crate) mod machine;
pub(crate) mod remains;
mod story;
pub(crate) mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sdp_core::client::Client;
use sdp_core::deployment::Deployment;
use sdp_core::event::{Event, EventKind};
use sdp_core::id::{DeploymentId, EventSeq};
use tokio::time::{Instant, sleep};

use crate::bots::Executed;
use crate::cluster::Cluster;
use crate::processes::Incident;
use crate::report::Findings;
use crate::viewers::{Seen, read_again};
use crate::work::Plan;
use machine::Decoys;
use remains::SpoolCopy;

/// How long routes, drained instances and the bot's words may take to settle after the last end.
const SETTLED: Duration = Duration::from_secs(20);

/// All that a round has left to be judged.
pub(crate) struct Evidence<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) client: &'a Client,
    pub(crate) http: &'a reqwest::Client,
    pub(crate) findings: &'a Findings,
    pub(crate) decoys: &'a Decoys,
    /// Every deployment with its plan.
    pub(crate) deployments: &'a [(Arc<Plan>, Deployment)],
    /// As the reader saw them who never left.
    pub(crate) events: &'a [Event],
    pub(crate) seen: &'a BTreeMap<DeploymentId, Seen>,
    pub(crate) incidents: &'a [Incident],
    pub(crate) copies: &'a [SpoolCopy],
    pub(crate) executed: &'a [Executed],
}

impl Evidence<'_> {
    /// Deployments in the order in which they ended.
    fn events_of_ends(&self) -> BTreeMap<EventSeq, &Deployment> {
        let ended =
            self.events.iter().filter(|event| matches!(event.kind, EventKind::DeploymentEnded { .. }));
        ended
            .filter_map(|event| {
                let of = |(_, one): &&(Arc<Plan>, Deployment)| Some(one.id) == event.about.deployment;
                Some((event.seq, &self.deployments.iter().find(of)?.1))
            })
            .collect()
    }

    /// Judges all of it.
    pub(crate) async fn examine(&self) -> anyhow::Result<()> {
        let Self { cluster, client, findings, .. } = self;
        self.settle().await?;
        let last = self.events.last().map_or(EventSeq(0), |event| event.seq);
        story::feed(findings, self.events, &read_again(client, last).await?);
        for (plan, deployment) in self.deployments {
            story::examine(self, plan, deployment);
            logs::examine(self, plan, deployment).await?;
        }
        story::recoveries(self);
        told::console(self).await?;
        for executed in self.executed {
            told::script(self, executed);
        }
        for agent in &cluster.agents {
            findings.count("acknowledgements seen", agent.proxy.acks().count);
            findings.count("bytes over the links", agent.proxy.bytes_passed());
        }
        for (index, agent) in cluster.agents.iter().enumerate() {
            for left in remains::of_agent(&cluster.ground, index)? {
                let detail = format!("{} still holds its log, attempt {}", agent.name, left.attempt);
                findings.say("spool", left.deployment, detail);
            }
        }
        for touched in self.decoys.touched().await {
            findings.say("decoy", "a container beside ours", touched);
        }
        findings.count("decoys looked at", self.decoys.count());
        Ok(())
    }

    /// Waits until the machine is as it should be, and says what is not so at the end of the time for it.
    async fn settle(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        let deployments: Vec<&Deployment> =
            self.deployments.iter().map(|(_, deployment)| deployment).collect();
        loop {
            let wrong = machine::examine(self).await?;
            let lives = self.cluster.console.lives().await;
            let is_told = told::all_is_told(&lives, &deployments)?;
            if (wrong.is_empty() && is_told) || begun.elapsed() > SETTLED {
                for (check, about, detail) in wrong {
                    self.findings.say(check, about, detail);
                }
                return Ok(());
            }
            sleep(Duration::from_millis(250)).await;
        }
    }
}

/// `plan-3 (#7, 0190…)`.
pub(crate) fn about(plan: &Plan, deployment: &Deployment) -> String {
    format!("{} (#{}, {})", plan.branch, deployment.number, deployment.id)
}

/// What has not ended in time.
pub(crate) fn stuck(findings: &Findings, plan: &Plan, deployment: &Deployment, quiet_since: Timestamp) {
    let quiet = Timestamp::now().duration_since(quiet_since).as_secs();
    let detail = format!(
        "{quiet} s after the last fault it is {:?} on {:?}, attempt {}",
        deployment.state, deployment.agent, deployment.attempt
    );
    findings.say("stuck", about(plan, deployment), detail);
}

/// Whether each plan has exactly one deployment; those that a person may have typed twice, and a script's that was not taken,
/// are not counted.
pub(crate) fn asked_once(
    findings: &Findings,
    plans: &[Arc<Plan>],
    deployments: &[Deployment],
    by_key: usize,
) {
    for plan in &plans[..by_key] {
        let of: Vec<_> = deployments.iter().filter(|one| one.git_ref == plan.branch).collect();
        if of.len() != 1 {
            let numbers: BTreeSet<_> = of.iter().map(|one| one.number.0).collect();
            findings.say("idempotency", &plan.branch, format!("one key made these deployments: {numbers:?}"));
        }
    }
}
