//! One round: a fresh SDP, deployments and faults at the same time, then quiet, then the oracle.
//!
//! ```text
//!   ground ─▶ cluster ─▶ deployments, bot, viewers, feed ┐
//!                        faults at their times ──────────┴─▶ quiet: all ends ─▶ oracle ─▶ stop: nothing is left
//! ```

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use futures_util::FutureExt as _;
use jiff::Timestamp;
use sdp_core::client::{Client, DeploymentFilter};
use sdp_core::deployment::Deployment;
use sdp_core::id::DeploymentId;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::bots::{Executed, exec};
use crate::cluster::Cluster;
use crate::faults::{self, Fault};
use crate::ground::{Ground, Programs};
use crate::oracle::machine::{Decoys, docker};
use crate::oracle::{Evidence, asked_once, stuck};
use crate::processes::{Kind, sweep, working_in};
use crate::report::Findings;
use crate::rng::Rng;
use crate::viewers::{Feed, Seen, watch_log};
use crate::work::{Plan, ask_for_all, patiently};

/// How long after the last fault the last deployment may end: what still builds then, and a reconnect's longest waits.
const QUIET: Duration = Duration::from_secs(50);
/// A link that was half open is noticed by pings.
const HALF_OPEN: Duration = Duration::from_secs(45);
/// How long viewers may take to see the end.
const CAUGHT_UP: Duration = Duration::from_secs(15);
/// Deployments by the console, and by a script.
const TYPED: usize = 3;
const SCRIPTED: usize = 2;
/// So many deployments may wait to be watched.
const WATCH_QUEUE: usize = 64;

/// What a round needs to know.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) round: u32,
    pub(crate) seed: u64,
    pub(crate) folder: PathBuf,
    pub(crate) deployments: usize,
    pub(crate) docker: bool,
}

/// Runs it to its end; whatever it started is gone then, also after an error, a panic, or when it is `interrupted`.
pub(crate) async fn run(
    setup: &Setup,
    programs: &Programs,
    decoys: &Decoys,
    findings: &Findings,
    interrupted: &CancellationToken,
) -> anyhow::Result<()> {
    let mut rng = Rng::of(setup.seed, setup.round, 1);
    let ground = Arc::new(Ground::make(setup.folder.clone(), programs, setup.docker, &mut rng)?);
    let result = {
        let _swept = Sweep(ground.folder.clone());
        let play = AssertUnwindSafe(play(setup, ground.clone(), decoys, findings)).catch_unwind();
        tokio::select! {
            played = play => played.unwrap_or_else(|_| Err(anyhow!("it panicked"))),
            () = interrupted.cancelled() => Err(anyhow!("interrupted")),
        }
    };
    remove_containers(&ground).await?;
    result
}

/// Ends what is left of a round when it is dropped.
struct Sweep(PathBuf);

impl Drop for Sweep {
    fn drop(&mut self) {
        drop(sweep(&self.0));
    }
}

async fn play(
    setup: &Setup,
    ground: Arc<Ground>,
    decoys: &Decoys,
    findings: &Findings,
) -> anyhow::Result<()> {
    let cluster = Arc::new(Cluster::start(ground.clone(), findings.clone()).await?);
    let client = ground.client()?;
    let mut rng = Rng::of(setup.seed, setup.round, 2);
    let plans = draw_plans(&ground, setup.deployments, &mut rng)?;
    let faults = faults::draw(setup.round, ground.agents.len(), &mut Rng::of(setup.seed, setup.round, 3));
    let is_half_open =
        faults.iter().any(|(_, fault)| matches!(fault, Fault::Link { kind: Kind::HalfOpen, .. }));

    let stop = CancellationToken::new();
    let _stop_on_return = stop.clone().drop_guard();
    let feed = Feed::default();
    let (asked, to_watch) = mpsc::channel(WATCH_QUEUE);
    let (ended, ends) = watch::channel(0);
    let mut reading = JoinSet::new();
    reading.spawn(feed.clone().read(client.clone(), asked, ended, stop.clone()));
    let mut watching = JoinSet::new();
    let (finished, mut all_finished) = watch::channel(0);
    let enough_seen = stop.child_token();
    watching.spawn(watch_all(to_watch, ground.clone(), finished, enough_seen.clone()));

    let by_key = setup.deployments;
    let (keyed, others) = plans.split_at(by_key);
    let (typed, scripted) = others.split_at(TYPED);
    let asking = ask_for_all(&client, keyed, findings);
    let mut people = JoinSet::new();
    people.spawn(cluster.console.clone().converse(client.clone(), typed.to_vec(), stop.clone()));
    let mut scripts = JoinSet::new();
    for (n, plan) in scripted.iter().enumerate() {
        let kill_after = (n == 0 && rng.chance(50)).then(|| rng.millis(300, 4000));
        let (bot, config) = (ground.programs.bot.clone(), ground.bot_config.clone());
        scripts.spawn(exec(bot, config, plan.clone(), kill_after));
    }
    faults::inflict(&cluster, faults).await?;
    let quiet_since = Timestamp::now();

    let limit = if is_half_open { QUIET + HALF_OPEN } else { QUIET };
    let end = async {
        asking.join_all().await;
        while let Some(done) = people.join_next().await {
            done??;
        }
        let mut executed = Vec::new();
        while let Some(done) = scripts.join_next().await {
            executed.push(done??);
        }
        all_ended(&client, ends).await?;
        anyhow::Ok(executed)
    };
    let executed: Option<Vec<Executed>> = timeout(limit, end).await.ok().transpose()?;
    let deployments = list(&client).await?;
    let planned = pair(&plans, deployments);
    if executed.is_none() {
        for (plan, deployment) in planned.iter().filter(|(_, deployment)| !deployment.is_ended()) {
            stuck(findings, plan, deployment, quiet_since);
        }
        if planned.iter().all(|(_, deployment)| deployment.is_ended()) {
            findings.say(
                "stuck",
                "whoever asked",
                "all deployments have ended, and not everybody has learnt it",
            );
        }
    }
    let last_end = planned.iter().filter_map(|(_, deployment)| deployment.ended_at).max();
    if let Some(took) = last_end.map(|end| end.duration_since(quiet_since)).filter(|took| !took.is_negative())
    {
        findings.figures().endings.push(took.unsigned_abs());
    }
    let all: Vec<Deployment> = planned.iter().map(|(_, deployment)| deployment.clone()).collect();
    asked_once(findings, &plans, &all, by_key);

    // Viewers come back within a second, and read the rest.
    let _else_the_oracle_says_so =
        timeout(CAUGHT_UP, all_finished.wait_for(|many| *many >= planned.len())).await;
    enough_seen.cancel();
    let seen = watching.join_next().await.transpose()?.unwrap_or_default();
    let evidence = Evidence {
        cluster: &cluster,
        client: &client,
        http: &reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?,
        findings,
        decoys,
        deployments: &planned,
        events: &feed.events(),
        seen: &seen,
        incidents: &cluster.incidents(),
        copies: &cluster.copies(),
        executed: &executed.unwrap_or_default(),
    };
    evidence.examine().await?;
    stop.cancel();
    while let Some(read) = reading.join_next().await {
        findings.count("feed connections", read??);
    }
    cluster.stop().await;
    for left in working_in(&ground.folder) {
        let about = format!("process {}", left.pid);
        findings.say("orphan", about, format!("after everything was stopped: {}", left.command));
    }
    Ok(())
}

/// All plans of a round: those that CI asks for, those that a person types, those of scripts.
fn draw_plans(ground: &Ground, by_key: usize, rng: &mut Rng) -> anyhow::Result<Vec<Arc<Plan>>> {
    let all = 0..by_key + TYPED + SCRIPTED;
    all.map(|n| Ok(Arc::new(Plan::draw(ground, n, n >= by_key, rng)?))).collect()
}

/// Watches every deployment from when it is asked for; tells how many have come to their end.
async fn watch_all(
    mut asked: mpsc::Receiver<DeploymentId>,
    ground: Arc<Ground>,
    finished: watch::Sender<usize>,
    stop: CancellationToken,
) -> BTreeMap<DeploymentId, Seen> {
    let mut watching = JoinSet::new();
    let mut seen = BTreeMap::new();
    loop {
        tokio::select! {
            Some(id) = asked.recv() => {
                watching.spawn(watch_log(ground.server, ground.admin_token.clone(), id, stop.clone()));
            }
            Some(Ok((id, one))) = watching.join_next(), if !watching.is_empty() => {
                seen.insert(id, one);
                finished.send_replace(seen.len());
            }
            () = stop.cancelled() => break,
        }
    }
    while let Some(Ok((id, one))) = watching.join_next().await {
        seen.insert(id, one);
    }
    seen
}

/// Returns when no deployment is open any more.
async fn all_ended(client: &Client, mut ends: watch::Receiver<usize>) -> anyhow::Result<()> {
    loop {
        ends.borrow_and_update();
        if list(client).await?.iter().all(Deployment::is_ended) {
            return Ok(());
        }
        // The feed may be on its way back: then it is looked at again after a while.
        let _the_next_end = timeout(Duration::from_secs(1), ends.changed()).await;
    }
}

async fn list(client: &Client) -> anyhow::Result<Vec<Deployment>> {
    let filter = DeploymentFilter { limit: Some(200), ..DeploymentFilter::default() };
    Ok(patiently(|| client.deployments(&filter)).await?.deployments)
}

/// Deployments with their plans, in the order in which they were asked for.
fn pair(plans: &[Arc<Plan>], mut deployments: Vec<Deployment>) -> Vec<(Arc<Plan>, Deployment)> {
    deployments.sort_by_key(|deployment| deployment.number);
    let plan = |deployment: &Deployment| plans.iter().find(|plan| plan.branch == deployment.git_ref).cloned();
    deployments.into_iter().filter_map(|deployment| Some((plan(&deployment)?, deployment))).collect()
}

/// Containers outlive their agent; those of this round's agents go, and nobody else's.
async fn remove_containers(ground: &Ground) -> anyhow::Result<()> {
    for agent in ground.agents.iter().filter(|agent| agent.docker) {
        let Some(id) = Ground::docker_id(agent) else { continue };
        let filter = format!("label=sdp.agent={id}");
        for container in docker(&["ps", "--all", "--quiet", "--filter", &filter]).await?.lines() {
            docker(&["rm", "--force", container]).await?;
        }
        for network in docker(&["network", "ls", "--quiet", "--filter", &filter]).await?.lines() {
            docker(&["network", "rm", network]).await?;
        }
    }
    Ok(())
}
