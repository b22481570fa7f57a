//! Starts a container: image, files, port, network, then made, looked at, and started.
//!
//! The work is a task of the runtime's own, so that it comes to an end whatever becomes of the caller: a request that the
//! engine is at work on cannot be taken back, only undone. Who drops the future, or is gone when it succeeds, has it undone.

use std::net::SocketAddr;
use std::sync::Arc;

use bollard::errors::Error;
use bollard::query_parameters::CreateContainerOptionsBuilder;
use sdp_core::failure::FailureReason;
use sdp_core::id::InstanceId;
use sdp_core::wire::InstanceStatus;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::body::{Wanted, body, port};
use super::engine::{Engine, is_away, said, status};
use super::files::{Bound, Places, prepare, unmoved};
use super::label::{self, Found, Kind};
use super::{DockerRuntime, Entry};
use crate::builder::ContainerPlan;
use crate::runtime::{StartError, StartSpec};

/// So many ports are tried when somebody else takes one between our look and the engine's.
const PORT_TRIES: u32 = 3;

/// A container that was started and not yet handed over: dropped, it is undone.
struct Started {
    runtime: DockerRuntime,
    instance: InstanceId,
    address: SocketAddr,
    armed: bool,
}

impl Drop for Started {
    fn drop(&mut self) {
        if self.armed {
            let (runtime, instance) = (self.runtime.clone(), self.instance);
            self.runtime.0.tasks.spawn(async move {
                runtime.stop(instance).await;
                runtime.forget(instance);
            });
        }
    }
}

/// What a container is made of, beside its spec.
pub(super) struct Parts<'a> {
    pub(super) engine: &'a Engine,
    pub(super) plan: &'a ContainerPlan,
    pub(super) image_id: String,
    pub(super) bounds: Vec<Bound>,
}

impl DockerRuntime {
    pub(super) async fn start(&self, spec: StartSpec) -> Result<SocketAddr, StartError> {
        let gate = self.gate(spec.instance).lock_owned().await;
        if let Some(entry) = self.entry(spec.instance) {
            return match &*entry.status.borrow() {
                InstanceStatus::Stopped {} => Err(StartError::Over),
                _ => Ok(entry.address),
            };
        }
        if self.0.tasks.is_closed() {
            return Err(StartError::ShuttingDown);
        }
        let dropped = CancellationToken::new();
        let _cancels = dropped.clone().drop_guard();
        let (hand_over, started) = oneshot::channel();
        let runtime = self.clone();
        self.0.tasks.spawn(async move {
            let instance = spec.instance;
            runtime.0.making.lock().insert(instance);
            let result = Box::pin(runtime.make(&spec, &dropped)).await;
            if result.is_err() {
                runtime.undo(instance).await;
            }
            runtime.0.making.lock().remove(&instance);
            drop(gate);
            let result =
                result.map(|address| Started { runtime: runtime.clone(), instance, address, armed: true });
            // Nobody there: what comes back is dropped, and with it the container.
            drop(hand_over.send(result));
        });
        let mut started = started.await.unwrap_or(Err(StartError::ShuttingDown))?;
        started.armed = false;
        Ok(started.address)
    }

    /// What a start and a release have in common before the container is made.
    pub(super) async fn parts<'a>(&'a self, spec: &'a StartSpec) -> Result<Parts<'a>, StartError> {
        let away = |why| StartError::failed(FailureReason::EngineUnavailable, why);
        if let Some(why) = self.0.degraded.borrow().clone() {
            return Err(away(why));
        }
        let Some(plan) = &spec.run.container else {
            let detail = format!(
                "{} was built to run as a plain process, and this agent runs containers",
                spec.service
            );
            return Err(StartError::failed(FailureReason::StartFailed, detail));
        };
        let engine = self.engine().map_err(away)?;
        let image = async {
            match engine.image(plan.image.as_str()).await {
                Ok(Some(id)) => Ok(id),
                Ok(None) => {
                    let detail = format!(
                        "the image {} is not on this agent; bring it there with docker load or docker pull",
                        plan.image
                    );
                    Err(StartError::failed(FailureReason::ImageMissing, detail))
                }
                Err(error) => Err(failed("look for the image", &error)),
            }
        };
        let network = async {
            let _one = self.0.network.lock().await;
            engine.ensure_network(&self.0.agent).await.map_err(|error| failed("make the network", &error))
        };
        let files = async {
            let (config, plan, run) = (self.0.config.clone(), plan.clone(), spec.run.cwd.clone());
            let (folder, writable) = (config.folder(spec.instance), spec.writable.clone());
            let context = spec.context.clone();
            let prepared = tokio::task::spawn_blocking(move || {
                let places = Places { work: &config.work_dir, folder: &folder, user: config.user };
                prepare(places, &plan, &run, &writable, context.as_ref())
            });
            prepared.await.unwrap_or_else(|error| Err(StartError::Folder(std::io::Error::other(error))))
        };
        let (image_id, (), bounds) = tokio::try_join!(image, network, files)?;
        Ok(Parts { engine, plan, image_id, bounds })
    }

    async fn make(&self, spec: &StartSpec, dropped: &CancellationToken) -> Result<SocketAddr, StartError> {
        let parts = self.parts(spec).await?;
        let mut tries = 1;
        loop {
            if dropped.is_cancelled() || self.0.closing.is_cancelled() {
                return Err(StartError::Cancelled);
            }
            let ports = &self.0.ports;
            let lease = || ports.lease(spec.instance);
            let port = lease().ok_or_else(|| StartError::NoPort(self.0.config.ports.clone()))?;
            let address = SocketAddr::new(self.0.config.advertise, port);
            let container = self.create(&parts, spec, Kind::Instance, &spec.run.argv, Some(address)).await?;
            // Known before it runs, so that no event of it is missed.
            let entry = Arc::new(self.new_entry(container, spec, address));
            self.0.entries.lock().insert(spec.instance, entry.clone());
            if dropped.is_cancelled() {
                return Err(StartError::Cancelled);
            }
            match parts.engine.api().start_container(&entry.container, None).await {
                Ok(()) => {
                    self.verify_bounds(spec, parts.bounds).await?;
                    self.changed();
                    return Ok(address);
                }
                Err(error) if is_port_taken(&error) && tries < PORT_TRIES => {
                    // The port stays leased until the instance is forgotten, so that the next try gets another.
                    tries += 1;
                    self.0.entries.lock().remove(&spec.instance);
                    parts
                        .engine
                        .remove(&entry.container)
                        .await
                        .map_err(|error| failed("remove a container", &error))?;
                }
                Err(error) => return Err(not_started(&error, spec, parts.plan)),
            }
        }
    }

    fn new_entry(&self, container: String, spec: &StartSpec, address: SocketAddr) -> Entry {
        let found = Found {
            kind: Kind::Instance,
            instance: spec.instance,
            deployment: spec.deployment,
            attempt: spec.attempt,
            build: spec.build,
            port: port(spec),
            address: Some(address),
            check: Some((spec.health.clone(), spec.check_limit)),
        };
        Entry::new(container, found, address, spec.redactor.clone())
    }

    /// Makes a container, and makes sure that it sees what it was meant to.
    pub(super) async fn create(
        &self,
        parts: &Parts<'_>,
        spec: &StartSpec,
        kind: Kind,
        argv: &[String],
        address: Option<SocketAddr>,
    ) -> Result<String, StartError> {
        let cores = parts.engine.cores().await;
        let wanted = Wanted {
            config: &self.0.config,
            agent: &self.0.agent,
            kind,
            spec,
            plan: parts.plan,
            image_id: &parts.image_id,
            argv,
            bounds: &parts.bounds,
            address,
            cores,
        };
        let (name, body) = body(&wanted);
        let options = || Some(CreateContainerOptionsBuilder::new().name(&name).build());
        let api = parts.engine.api();
        let created = match api.create_container(options(), body.clone()).await {
            // What an earlier start left behind, if it is ours.
            Err(error)
                if status(&error) == Some(409)
                    && self.remove_left_over(parts.engine, &name, spec.instance).await =>
            {
                api.create_container(options(), body).await
            }
            other => other,
        };
        let id = created.map_err(|error| not_started(&error, spec, parts.plan))?.id;
        let seen = parts.engine.inspect(&id).await.map_err(|error| failed("look at the container", &error));
        let seen = match seen {
            Ok(seen) => seen.and_then(|seen| seen.mounts).unwrap_or_default(),
            Err(error) => {
                self.remove_now(parts.engine, &id).await;
                return Err(error);
            }
        };
        let binds: Vec<_> =
            seen.iter().filter(|mount| mount.source.as_ref().is_some_and(|s| !s.is_empty())).collect();
        let as_meant = binds.len() == parts.bounds.len()
            && parts.bounds.iter().all(|bound| {
                binds.iter().any(|mount| {
                    mount.source.as_deref() == bound.source.to_str()
                        && mount.destination.as_deref() == bound.target.to_str()
                        && mount.rw == Some(!bound.read_only)
                })
            });
        if !as_meant {
            self.remove_now(parts.engine, &id).await;
            let of = label::of(&spec.service, &spec.sandbox);
            tracing::error!(container.id = %id, ?binds, "the engine made a container for {of} with other folders than were asked for");
            let detail =
                "the engine gave the container other folders than were asked for; see the agent's log";
            return Err(StartError::failed(FailureReason::StartFailed, detail));
        }
        Ok(id)
    }

    /// Nothing was put in the place of a folder while the container was made.
    async fn verify_bounds(&self, spec: &StartSpec, bounds: Vec<Bound>) -> Result<(), StartError> {
        let (config, folder) = (self.0.config.clone(), self.0.config.folder(spec.instance));
        let checked = tokio::task::spawn_blocking(move || {
            unmoved(Places { work: &config.work_dir, folder: &folder, user: config.user }, &bounds)
        });
        checked.await.unwrap_or_else(|error| Err(StartError::Folder(std::io::Error::other(error))))
    }

    /// Removes the container of that name if it is ours and nobody's.
    async fn remove_left_over(&self, engine: &Engine, name: &str, instance: InstanceId) -> bool {
        let Ok(Some(found)) = engine.inspect(name).await else { return false };
        let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
        let Some(ours) = label::read(&self.0.agent, &labels) else { return false };
        let known =
            self.entry(ours.instance).is_some_and(|entry| Some(&entry.container) == found.id.as_ref());
        // Another instance's would have the same hash, once in some millions.
        ours.instance == instance && !known && engine.remove(name).await.is_ok()
    }

    pub(super) async fn remove_now(&self, engine: &Engine, id: &str) {
        if let Err(error) = engine.remove(id).await {
            tracing::warn!(container.id = %id, error = said(&error), "failed to remove a container; it is tried again with the next list");
        }
    }

    /// Takes back what a start that failed has made. Called with the instance's gate held.
    async fn undo(&self, instance: InstanceId) {
        if let Some(entry) = self.entry(instance) {
            entry.unwanted.store(true, std::sync::atomic::Ordering::Release);
            entry.forgotten.store(true, std::sync::atomic::Ordering::Release);
            let removed = match self.engine() {
                Ok(engine) => engine.remove(&entry.container).await.map_err(|error| said(&error)),
                Err(why) => Err(why),
            };
            if let Err(why) = removed {
                // The watch removes it with one of the next lists.
                tracing::warn!(instance.id = %instance, %why, "failed to remove a container; it is tried again");
                return;
            }
        }
        self.drop_entry(instance).await;
    }
}

/// A request that failed: the engine's absence is told from its refusal.
pub(super) fn failed(what: &str, error: &Error) -> StartError {
    let detail = format!("cannot {what}: {}", said(error));
    let reason = if is_away(error) { FailureReason::EngineUnavailable } else { FailureReason::StartFailed };
    StartError::failed(reason, detail)
}

fn is_port_taken(error: &Error) -> bool {
    let text = said(error);
    text.contains("port is already allocated") || text.contains("address already in use")
}

/// Why a container was not made or started, in the user's words where they are known.
pub(super) fn not_started(error: &Error, spec: &StartSpec, plan: &ContainerPlan) -> StartError {
    let text = said(error);
    if text.contains("No such image") {
        let detail = format!("the image {} is not on this agent any more", plan.image);
        return StartError::failed(FailureReason::ImageMissing, detail);
    }
    if text.contains("executable file not found") {
        let name = spec.run.argv.first().map_or("", String::as_str);
        return StartError::failed(
            FailureReason::ToolMissing,
            format!("{name} is not in the image {}", plan.image),
        );
    }
    failed("start the container", error)
}
