//! A model of a container engine: the far side of the agent's [`Runtime`]. It outlives agents, as Docker does, and remembers
//! every container that was ever made.
//!
//! Each step takes a moment, in the middle of which an agent may be killed. What it holds an agent to: one attempt of a
//! deployment is given one container, ever, whichever the engine: the witness counts them over all.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use sdp_agent::exec::OnLine;
use sdp_agent::runtime::{CheckError, Printed, Runtime, StartError, StartSpec};
use sdp_core::catalog::HealthCheck;
use sdp_core::id::{DeploymentId, InstanceId};
use sdp_core::wire::{DOCKER, Exit, Health, InstanceReport, InstanceStatus, Preflight};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::witness::Witness;

/// What an engine takes for a step.
const MOMENT: Duration = Duration::from_millis(2);
/// The variable that says how an instance fares.
pub(crate) const HEALTH: &str = "HEALTH";
/// An instance that never answers.
pub(crate) const NEVER: &str = "never";
/// An instance that ends while it is checked.
pub(crate) const EXITS: &str = "exits";

#[derive(Debug)]
pub(crate) struct Engine {
    witness: Arc<Witness>,
    containers: Mutex<Containers>,
    generation: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Containers {
    known: BTreeMap<InstanceId, Container>,
    ports: u16,
}

#[derive(Debug)]
struct Container {
    deployment: DeploymentId,
    build: DeploymentId,
    address: SocketAddr,
    health: String,
    status: InstanceStatus,
}

impl Container {
    fn runs(&self) -> bool {
        matches!(self.status, InstanceStatus::Running { .. })
    }
}

impl Engine {
    pub(crate) fn new(witness: Arc<Witness>) -> Self {
        Self { witness, containers: Mutex::default(), generation: watch::Sender::new(0) }
    }

    fn containers(&self) -> MutexGuard<'_, Containers> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, instance: InstanceId, status: InstanceStatus) {
        if let Some(container) = self.containers().known.get_mut(&instance).filter(|known| known.runs()) {
            container.status = status;
        }
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// What runs.
    pub(crate) fn running(&self) -> BTreeSet<InstanceId> {
        let containers = self.containers();
        containers.known.iter().filter(|(_, container)| container.runs()).map(|(id, _)| *id).collect()
    }

    /// An instance ends by itself, if it runs.
    pub(crate) fn crash(&self, instance: InstanceId) {
        if self.running().contains(&instance) {
            self.witness.note(format!("{instance} crashes"));
            let exit = Exit::new(Some(1), None, false, vec!["out of luck".into()]);
            self.change(instance, InstanceStatus::Exited { exit });
        }
    }

    fn make(&self, spec: &StartSpec) -> Result<SocketAddr, StartError> {
        let mut containers = self.containers();
        if let Some(known) = containers.known.get(&spec.instance) {
            // How one has ended by itself its check says.
            let stopped = known.status == InstanceStatus::Stopped {};
            return if stopped { Err(StartError::Over) } else { Ok(known.address) };
        }
        self.witness.makes(spec.deployment, spec.attempt);
        let other =
            containers.known.values().find(|known| known.deployment == spec.deployment && known.runs());
        if other.is_some() {
            self.witness.wrong(format!("two containers of {} run on one machine", spec.deployment));
        }
        containers.ports += 1;
        let address = SocketAddr::from(([127, 0, 0, 1], 1000 + containers.ports));
        let container = Container {
            deployment: spec.deployment,
            build: spec.build,
            address,
            health: spec.env.get(HEALTH).cloned().unwrap_or_default(),
            status: InstanceStatus::Running {
                address,
                restarts: 0,
                last_restart: None,
                health: Health::Healthy {},
            },
        };
        containers.known.insert(spec.instance, container);
        drop(containers);
        self.witness.note(format!("{} of {} runs", spec.instance, spec.deployment));
        self.generation.send_modify(|generation| *generation += 1);
        Ok(address)
    }

    async fn examine(&self, instance: InstanceId, limit: Duration) -> Result<Duration, CheckError> {
        let health = self.containers().known.get(&instance).map(|known| known.health.clone());
        sleep(MOMENT).await;
        match health.as_deref() {
            None => Err(CheckError::NotHealthy { detail: "there is no such instance".into() }),
            Some(NEVER) => {
                sleep(limit).await;
                Err(CheckError::NotHealthy { detail: "it never answered".into() })
            }
            Some(EXITS) => {
                self.crash(instance);
                std::future::pending().await
            }
            Some(_) => Ok(MOMENT),
        }
    }

    /// Returns when the instance has ended.
    async fn ended(&self, instance: InstanceId) -> CheckError {
        let mut generation = self.generation.subscribe();
        loop {
            let status = self.containers().known.get(&instance).map(|known| known.status.clone());
            match status {
                Some(InstanceStatus::Exited { exit }) => return CheckError::Exited(exit),
                Some(InstanceStatus::Stopped {}) => return CheckError::Cancelled,
                _ => {}
            }
            if generation.changed().await.is_err() {
                return CheckError::Cancelled;
            }
        }
    }
}

impl Runtime for Engine {
    fn kind(&self) -> &'static str {
        DOCKER
    }

    fn degraded(&self) -> Option<String> {
        None
    }

    fn preflight(&self) -> BoxFuture<'_, Vec<Preflight>> {
        Box::pin(std::future::ready(Vec::new()))
    }

    fn start(&self, spec: StartSpec) -> BoxFuture<'_, Result<SocketAddr, StartError>> {
        Box::pin(async move {
            sleep(MOMENT).await;
            let address = self.make(&spec)?;
            sleep(MOMENT).await;
            Ok(address)
        })
    }

    fn release<'a>(
        &'a self,
        _: &'a StartSpec,
        _: &'a [String],
        _: OnLine,
        _: &'a CancellationToken,
        _: Duration,
    ) -> BoxFuture<'a, Result<(), StartError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn check<'a>(
        &'a self,
        instance: InstanceId,
        _: &'a HealthCheck,
        limit: Duration,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Duration, CheckError>> {
        Box::pin(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => Err(CheckError::Cancelled),
                error = self.ended(instance) => Err(error),
                healthy = self.examine(instance, limit) => healthy,
            }
        })
    }

    fn stop(&self, instance: InstanceId) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            sleep(MOMENT).await;
            self.change(instance, InstanceStatus::Stopped {});
        })
    }

    fn suspend<'a>(&'a self, instance: InstanceId, why: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            sleep(MOMENT).await;
            let exit = Exit { not_started: Some(why.to_owned()), ..Exit::default() };
            self.change(instance, InstanceStatus::Exited { exit });
        })
    }

    fn is_suspended(&self, _: InstanceId) -> bool {
        // No sandbox ends in a story: nobody asks.
        false
    }

    fn wake(&self, _: InstanceId) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn builds_in_use(&self) -> Option<HashSet<DeploymentId>> {
        let containers = self.containers();
        Some(containers.known.values().filter(|known| known.runs()).map(|known| known.build).collect())
    }

    fn reports(&self) -> Vec<InstanceReport> {
        let report = |(instance, container): (&InstanceId, &Container)| InstanceReport {
            instance: *instance,
            deployment: container.deployment,
            status: container.status.clone(),
        };
        self.containers().known.iter().map(report).collect()
    }

    fn next_change<'a>(&'a self, seen: &'a mut u64) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let mut generation = self.generation.subscribe();
            if let Ok(now) = generation.wait_for(|now| *now > *seen).await {
                *seen = *now;
            }
        })
    }

    fn output(&self, _: InstanceId, _: usize) -> BoxFuture<'_, Option<Vec<String>>> {
        Box::pin(std::future::ready(None))
    }

    fn follow(&self, _: InstanceId, _: usize) -> BoxFuture<'_, Option<BoxStream<'static, Printed>>> {
        Box::pin(std::future::ready(None))
    }

    fn forget(&self, instance: InstanceId) {
        self.containers().known.remove(&instance);
        self.generation.send_modify(|generation| *generation += 1);
    }

    fn shut_down(&self) -> BoxFuture<'_, ()> {
        // Containers outlive their agent.
        Box::pin(std::future::ready(()))
    }
}
