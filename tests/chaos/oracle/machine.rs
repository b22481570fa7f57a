//! What is really there on this machine: containers, processes, ports, answers through the router, and the decoys that look
//! like ours. Asked from the outside: by `docker`, in `/proc`, over HTTP.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use sdp_core::api::Instance;
use sdp_core::client::InstanceFilter;
use sdp_core::deployment::{Deployment, Outcome};
use sdp_core::id::{EventSeq, InstanceId};
use sdp_core::sandbox::InstanceState;
use tokio::process::Command;

use super::Evidence;
use crate::cluster::Cluster;
use crate::ground::{Ground, IMAGE, listener};
use crate::processes::{Found, sockets, working_in};
use crate::work::{Plan, patiently};

/// Containers beside ours.
const DECOYS: usize = 10;

/// Runs `docker`; what it said.
pub(crate) async fn docker(args: &[&str]) -> anyhow::Result<String> {
    let out = Command::new("docker").args(args).kill_on_drop(true).output().await.context("docker")?;
    ensure!(out.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Whether there is an engine with the image that services run in.
pub(crate) async fn has_docker() -> bool {
    docker(&["image", "inspect", IMAGE]).await.is_ok()
}

/// Containers that look like an agent's and are nobody's; removed by their ids.
#[derive(Debug, Default)]
pub(crate) struct Decoys {
    /// Id and when it was started.
    started: Vec<(String, String)>,
}

impl Decoys {
    /// Starts them: some with names as ours have, some with our labels for another agent or without an agent.
    pub(crate) async fn start(&mut self) -> anyhow::Result<()> {
        for n in 0..DECOYS {
            let run = std::process::id();
            let name = match n % 3 {
                0 => format!("sdp-svc0-vm-2-{n}-1-{run:08x}"),
                1 => format!("sdp-decoy-{n}-{run}"),
                _ => format!("decoy-{n}-{run}"),
            };
            let labels: &[&str] = match n % 4 {
                0 => &["sdp.agent=0123abcd", "sdp.kind=instance", "sdp.attempt=1"],
                1 => &["sdp.kind=instance", "sdp.service=svc0-vm-2", "sdp.sandbox=anna"],
                2 => &["com.example.app=payments"],
                _ => &[],
            };
            let mut args = vec!["run", "--detach", "--network", "none", "--name", &name];
            args.extend(labels.iter().flat_map(|label| ["--label", label]));
            args.extend([IMAGE, "sleep", "86400"]);
            let id = docker(&args).await?.trim().to_owned();
            self.started.push((id, String::new()));
        }
        for (id, started) in &mut self.started {
            *started = life(id).await?;
        }
        Ok(())
    }

    /// Those that are gone, or were started again.
    pub(super) async fn touched(&self) -> Vec<String> {
        let mut touched = Vec::new();
        for (id, started) in &self.started {
            match life(id).await {
                Ok(now) if now == *started => {}
                Ok(now) => touched.push(format!("{id}: was {started}, is {now}")),
                Err(error) => touched.push(format!("{id}: {error}")),
            }
        }
        touched
    }

    pub(super) fn count(&self) -> u64 {
        self.started.len() as u64
    }

    pub(crate) async fn remove(&self) -> anyhow::Result<()> {
        for (id, _) in &self.started {
            docker(&["rm", "--force", id]).await?;
        }
        Ok(())
    }
}

async fn life(id: &str) -> anyhow::Result<String> {
    let format = "{{.State.StartedAt}} {{.State.Status}} {{.RestartCount}} {{.State.Pid}}";
    Ok(docker(&["inspect", "--format", format, id]).await?.trim().to_owned())
}

/// What is wrong, with the word that it is counted by. What is still settling is wrong, too: whoever asks asks again.
pub(super) async fn examine(evidence: &Evidence<'_>) -> anyhow::Result<Vec<(&'static str, String, String)>> {
    let Evidence { cluster, client, deployments, .. } = evidence;
    let filter = InstanceFilter { all: true, ..InstanceFilter::default() };
    let instances = patiently(|| client.instances(&filter)).await?;
    let mut wrong = Vec::new();
    for instance in &instances {
        if !matches!(instance.state, InstanceState::Live {} | InstanceState::Stopped { .. }) {
            let about = format!("instance {} of {}", instance.id, instance.service);
            wrong.push(("instance", about, format!("it is {:?}", instance.state)));
        }
    }
    let live: Vec<&Instance> =
        instances.iter().filter(|instance| matches!(instance.state, InstanceState::Live {})).collect();
    expected(evidence.events_of_ends(), deployments, &live, &mut wrong);
    for (agent, ground) in cluster.agents.iter().zip(&cluster.ground.agents) {
        let here: Vec<&Instance> =
            live.iter().copied().filter(|instance| instance.agent.as_str() == agent.name).collect();
        if ground.docker {
            containers(ground, &here, &mut wrong).await?;
        } else {
            processes(cluster, &here, &ground.ports, &mut wrong).await;
        }
        ports(&here, &ground.ports, &mut wrong);
    }
    routes(evidence, &live, &mut wrong).await;
    Ok(wrong)
}

/// Each service in each sandbox has the instance of its last deployment that succeeded, and no other.
fn expected(
    ends: BTreeMap<EventSeq, &Deployment>,
    deployments: &[(std::sync::Arc<Plan>, Deployment)],
    live: &[&Instance],
    wrong: &mut Vec<(&'static str, String, String)>,
) {
    let mut last = BTreeMap::new();
    for deployment in ends.into_values() {
        if deployment.outcome() == Some(&Outcome::Succeeded {}) {
            last.insert((&deployment.service, &deployment.sandbox), deployment);
        }
    }
    let pairs: BTreeSet<_> = deployments.iter().map(|(_, one)| (&one.service, &one.sandbox)).collect();
    for pair in pairs {
        let about = format!("{} in {}", pair.0, pair.1);
        let here: Vec<_> = live.iter().filter(|one| (&one.service, &one.sandbox) == pair).collect();
        match (last.get(&pair), here.as_slice()) {
            (None, []) => {}
            (Some(deployment), [instance]) if instance.deployment == deployment.id => {}
            (deployment, here) => {
                let detail = format!(
                    "the last that succeeded is {:?}, live are those of {:?}",
                    deployment.map(|deployment| deployment.number),
                    here.iter().map(|instance| instance.deployment).collect::<Vec<_>>()
                );
                wrong.push(("instance", about, detail));
            }
        }
    }
}

async fn containers(
    ground: &crate::ground::AgentGround,
    live: &[&Instance],
    wrong: &mut Vec<(&'static str, String, String)>,
) -> anyhow::Result<()> {
    let Some(id) = Ground::docker_id(ground) else { return Ok(()) };
    let filter = format!("label=sdp.agent={id}");
    let format = "{{.Names}}\t{{.State}}\t{{.Label \"sdp.kind\"}}\t{{.Label \"sdp.instance\"}}";
    let listed = docker(&["ps", "--all", "--filter", &filter, "--format", format]).await?;
    let mut due: BTreeSet<String> = live.iter().map(|instance| instance.id.to_string()).collect();
    for line in listed.lines() {
        let mut words = line.split('\t');
        let mut word = || words.next().unwrap_or_default();
        let (name, state, kind, instance) = (word(), word(), word(), word());
        if kind != "instance" || !due.remove(instance) {
            wrong.push(("orphan", format!("container {name}"), format!("{kind} of {instance}, {state}")));
        } else if state != "running" {
            wrong.push(("instance", format!("container {name}"), format!("it is {state}")));
        }
    }
    wrong.extend(due.into_iter().map(|instance| {
        ("instance", format!("instance {instance}"), "it is live, and has no container".to_owned())
    }));
    Ok(())
}

/// All that works in the round's folder: the programs under test, live instances, and what stands between them.
async fn processes(
    cluster: &Cluster,
    live: &[&Instance],
    range: &std::ops::Range<u16>,
    wrong: &mut Vec<(&'static str, String, String)>,
) {
    let mut known: BTreeSet<u32> = BTreeSet::new();
    known.extend(cluster.server.lock().await.pid());
    for agent in &cluster.agents {
        known.extend(agent.program.lock().await.pid());
    }
    known.insert(std::process::id());
    let found = working_in(&cluster.ground.folder);
    let ports: BTreeSet<u16> = live.iter().filter_map(|instance| Some(instance.address?.port())).collect();
    for orphan in orphans(&found, &known, &listeners(range, &ports)) {
        let Found { pid, parent, command } = orphan;
        wrong.push(("orphan", format!("process {pid}"), format!("{command} (its parent is {parent})")));
    }
}

/// The sockets that listen on these ports.
fn listeners(range: &std::ops::Range<u16>, ports: &BTreeSet<u16>) -> BTreeSet<u64> {
    let text = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let ours =
        text.lines().filter_map(listener).filter(|(port, _)| range.contains(port) && ports.contains(port));
    ours.map(|(_, inode)| inode).collect()
}

/// Those that neither are known, nor listen for a live instance, nor stand between one of them and its agent.
fn orphans(found: &[Found], known: &BTreeSet<u32>, listeners: &BTreeSet<u64>) -> Vec<Found> {
    let serves = |one: &&Found| sockets(one.pid).iter().any(|inode| listeners.contains(inode));
    let mut fine: BTreeSet<u32> = known.clone();
    for mut one in found.iter().filter(serves) {
        while fine.insert(one.pid) {
            match found.iter().find(|other| other.pid == one.parent) {
                Some(parent) => one = parent,
                None => break,
            }
        }
    }
    found.iter().filter(|one| !fine.contains(&one.pid)).cloned().collect()
}

/// Somebody listens for each live instance, and nobody else in the agent's range.
fn ports(live: &[&Instance], range: &std::ops::Range<u16>, wrong: &mut Vec<(&'static str, String, String)>) {
    let due: BTreeSet<u16> = live.iter().filter_map(|instance| Some(instance.address?.port())).collect();
    let there = crate::ground::listening().unwrap_or_default().range(range.clone()).copied().collect();
    for port in due.difference(&there) {
        wrong.push((
            "instance",
            format!("port {port}"),
            "a live instance has it, and nobody listens".to_owned(),
        ));
    }
    for port in there.difference(&due) {
        wrong.push((
            "orphan",
            format!("port {port}"),
            "somebody listens, and no live instance has it".to_owned(),
        ));
    }
}

/// Each live instance answers through the router with its own token; where none is live no instance answers.
async fn routes(
    evidence: &Evidence<'_>,
    live: &[&Instance],
    wrong: &mut Vec<(&'static str, String, String)>,
) {
    let Evidence { cluster, deployments, .. } = evidence;
    let by_instance: BTreeMap<InstanceId, &Plan> = deployments
        .iter()
        .filter_map(|(plan, deployment)| Some((deployment.instance?, plan.as_ref())))
        .collect();
    let pairs: BTreeSet<_> = deployments.iter().map(|(_, one)| (&one.service, &one.sandbox)).collect();
    for (service, sandbox) in pairs {
        let url = format!("http://{}/~{sandbox}/{service}/", cluster.ground.router);
        let instance = live.iter().find(|one| (&one.service, &one.sandbox) == (service, sandbox));
        let answer = match evidence.http.get(&url).send().await {
            Ok(answer) => answer,
            Err(error) => {
                wrong.push(("route", url, error.to_string()));
                continue;
            }
        };
        let served_by = answer.headers().get("sdp-served-by").and_then(|value| value.to_str().ok());
        let served_by = served_by.unwrap_or_default().to_owned();
        let (status, body) = (answer.status().as_u16(), answer.text().await.unwrap_or_default());
        let is_right = match instance {
            Some(instance) => {
                let plan = by_instance.get(&instance.id);
                status == 200
                    && plan.is_some_and(|plan| {
                        plan.branch.as_str() == body && plan.commit == instance.commit.as_str()
                    })
                    && served_by.starts_with(&format!("sandbox/{sandbox}/{service}@"))
            }
            None => status != 200 || !served_by.starts_with("sandbox/"),
        };
        if !is_right {
            let due = instance.and_then(|one| by_instance.get(&one.id)).map(|plan| plan.branch.to_string());
            let detail = format!("{status} \"{}\" by {served_by:?}, due was {due:?}", body.escape_debug());
            wrong.push(("route", url, detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_between_an_agent_and_its_instance_is_no_orphan() {
        let own = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let port = own.local_addr().expect("bound").port();
        let me = std::process::id();
        let one = |pid, parent| Found { pid, parent, command: String::new() };
        let found =
            [one(me, 4_000_001), one(4_000_001, 4_000_002), one(4_000_002, 1), one(4_000_003, 4_000_002)];
        let inodes = listeners(&(port..port + 1), &BTreeSet::from([port]));
        assert_eq!(inodes.len(), 1);
        let left = orphans(&found, &BTreeSet::from([4_000_002]), &inodes);
        assert_eq!(left.iter().map(|one| one.pid).collect::<Vec<_>>(), [4_000_003]);
        let left = orphans(&found, &BTreeSet::from([4_000_002]), &BTreeSet::new());
        assert_eq!(left.len(), 3, "nobody listens: the instance itself and its parent are left over");
    }
}
