//! What a command does.

use jiff::Timestamp;

use super::super::input::{Command, DeployCommand, Reply};
use super::super::world::World;
use super::super::{PlatformConfig, PlatformError, Save};
use super::{Act, drain, fleet, secrets};
use crate::catalog::Service;
use crate::deployment::Outcome;
use crate::event::{About, EventKind};
use crate::id::{DeploymentId, DeploymentNumber, InstanceId};
use crate::name::{AgentName, SandboxName, ServiceName};
use crate::principal::Principal;
use crate::sandbox::{InstanceState, StopReason};
use crate::store::{IdempotencyRow, SecretRow};

/// What a command does, and its answer once that is in the store.
pub(crate) enum Verdict {
    /// These acts, then this answer.
    Do(Vec<Act>, Reply),
    /// A new deployment; ids are inputs, so that the rules stay pure.
    Begin {
        before: Vec<Act>,
        command: Box<DeployCommand>,
        idempotency: Option<IdempotencyRow>,
        after: Vec<Act>,
    },
    /// The service's entry, then these acts.
    Save { service: Box<Service>, created: bool },
    /// A service's secret, then the word of it.
    SaveSecret { secret: Box<SecretRow>, created: bool },
    /// The end of the agent's connection, then these acts.
    Forget { agent: AgentName, acts: Vec<Act> },
}

pub(crate) fn command(
    world: &World,
    limits: &PlatformConfig,
    now: Timestamp,
    by: &Principal,
    command: Command,
    id: DeploymentId,
) -> Result<Verdict, PlatformError> {
    match command {
        Command::Deploy(deploy) => self::deploy(world, limits, now, by, deploy, id),
        Command::Cancel { deployment, number } => cancel(world, by, deployment, number),
        Command::SaveService { service, save } => save_service(world, service, save),
        Command::DeleteService { name } => delete_service(world, by, &name),
        Command::SetSecret { secret } => secrets::set(world, *secret),
        Command::DeleteSecret { service, name } => secrets::delete(world, by, service, name),
        Command::StopInstance { id } => stop_instance(world, by, id),
        Command::DeleteSandbox { name } => delete_sandbox(world, by, &name),
        Command::DrainAgent { name, draining } => fleet::drain(world, by, &name, draining),
        Command::ForgetAgent { name, force } => fleet::forget(world, by, &name, force),
    }
}

fn deploy(
    world: &World,
    limits: &PlatformConfig,
    now: Timestamp,
    by: &Principal,
    command: Box<DeployCommand>,
    id: DeploymentId,
) -> Result<Verdict, PlatformError> {
    let principal = principal_key(by);
    let mut idempotency = None;
    if let Some(wanted) = &command.idempotency {
        match world.known_request(&principal, &wanted.key) {
            Some((fingerprint, deployment)) if *fingerprint == wanted.fingerprint => {
                return Ok(Verdict::Do(Vec::new(), Reply::Known { deployment: *deployment }));
            }
            Some(_) => return Err(PlatformError::IdempotencyConflict { key: wanted.key.clone() }),
            None => {
                idempotency = Some(IdempotencyRow {
                    principal,
                    key: wanted.key.clone(),
                    fingerprint: wanted.fingerprint.clone(),
                    deployment: id,
                    at_ms: now.as_millisecond(),
                });
            }
        }
    }
    // It may have been deleted since the caller looked.
    world.service(&command.service)?;
    secrets::check_plain(world, &command.service, &command.env)?;
    let waiting = world.open.values().filter(|open| open.deployment.agent.is_none()).count();
    if waiting >= limits.queue_size {
        return Err(PlatformError::QueueFull { limit: limits.queue_size });
    }
    let mut before = Vec::new();
    if !world.sandboxes.contains_key(&command.sandbox) {
        let about = About { sandbox: Some(command.sandbox.clone()), ..About::default() };
        before.push(Act::Event { by: by.clone(), about, kind: EventKind::SandboxCreated {} });
    }
    let superseded = world
        .open
        .values()
        .filter(|open| open.is_in(&command.sandbox, &command.service))
        // One that has begun is never superseded; one whose cancel is asked for ends as cancelled.
        .filter(|open| open.deployment.agent.is_none() && open.cancel_asked.is_none());
    let number = world.number.next();
    let after = superseded
        .map(|open| Act::Event {
            by: by.clone(),
            about: open.about(),
            kind: EventKind::DeploymentEnded { outcome: Outcome::Superseded { by: id, number }, url: None },
        })
        .collect();
    Ok(Verdict::Begin { before, command, idempotency, after })
}

/// Whose idempotency keys they are: kind and name, so that a person and a token of the same name do not share any.
fn principal_key(by: &Principal) -> String {
    match by {
        Principal::Person { name } => format!("person:{name}"),
        Principal::Token { name } => format!("token:{name}"),
        Principal::Bot { name, person } => format!("bot:{name}:{person}"),
        Principal::System => "system".to_owned(),
    }
}

fn cancel(
    world: &World,
    by: &Principal,
    deployment: DeploymentId,
    number: DeploymentNumber,
) -> Result<Verdict, PlatformError> {
    let Some(open) = world.open_by_id(deployment) else { return Err(PlatformError::AlreadyEnded { number }) };
    if open.cancel_asked.is_some() {
        return Ok(Verdict::Do(Vec::new(), Reply::Done));
    }
    let asked = Act::Event { by: by.clone(), about: open.about(), kind: EventKind::CancelRequested {} };
    Ok(Verdict::Do(vec![asked], Reply::Done))
}

fn save_service(world: &World, service: Box<Service>, save: Save) -> Result<Verdict, PlatformError> {
    let known = world.services.get(&service.name);
    if save == Save::Create && known.is_some() {
        return Err(PlatformError::ServiceExists { name: service.name });
    }
    if known == Some(&*service) {
        return Ok(Verdict::Do(Vec::new(), Reply::Saved { created: false }));
    }
    secrets::check_plain(world, &service.name, &service.env)?;
    let prefix = service.prefix();
    let taken = world.services.values().find(|other| other.name != service.name && other.prefix() == prefix);
    if let Some(other) = taken {
        return Err(PlatformError::PrefixTaken { name: service.name.clone(), other: other.name.clone() });
    }
    Ok(Verdict::Save { created: known.is_none(), service })
}

fn delete_service(world: &World, by: &Principal, name: &ServiceName) -> Result<Verdict, PlatformError> {
    world.service(name)?;
    let open = world.open.values().find(|open| open.deployment.service == *name);
    let running =
        world.instances.values().find(|r| r.instance.service == *name && !r.instance.state.is_over());
    let used = open
        .map(|open| &open.deployment.sandbox)
        .or_else(|| running.map(|running| &running.instance.sandbox));
    if let Some(sandbox) = used {
        return Err(PlatformError::ServiceInUse { name: name.clone(), sandbox: sandbox.clone() });
    }
    let about = About { service: Some(name.clone()), ..About::default() };
    let deleted = Act::Event { by: by.clone(), about, kind: EventKind::ServiceDeleted {} };
    Ok(Verdict::Do(vec![deleted], Reply::Done))
}

fn stop_instance(world: &World, by: &Principal, id: InstanceId) -> Result<Verdict, PlatformError> {
    let Some(running) = world.instances.get(&id) else { return Err(PlatformError::InstanceOver { id }) };
    let reason = StopReason::Stopped { by: by.clone() };
    let event = |kind| vec![Act::Event { by: by.clone(), about: running.about(), kind }];
    let acts = match &running.instance.state {
        // A person has seen that it is down: from now on the baseline answers.
        InstanceState::Stopped { .. } | InstanceState::Lost {} => {
            event(EventKind::InstanceStopped { reason, last_lines: running.instance.last_lines.clone() })
        }
        InstanceState::Draining { .. } => Vec::new(),
        InstanceState::Starting {} if world.open_by_id(running.instance.deployment).is_some() => {
            let asked =
                world.open_by_id(running.instance.deployment).is_some_and(|open| open.cancel_asked.is_some());
            if asked { Vec::new() } else { event(EventKind::CancelRequested {}) }
        }
        _ => event(EventKind::InstanceDraining { reason }),
    };
    Ok(Verdict::Do(acts, Reply::Done))
}

fn delete_sandbox(world: &World, by: &Principal, name: &SandboxName) -> Result<Verdict, PlatformError> {
    world.sandbox(name)?;
    let mut acts = Vec::new();
    for open in
        world.open.values().filter(|open| open.deployment.sandbox == *name && open.cancel_asked.is_none())
    {
        acts.push(Act::Event { by: by.clone(), about: open.about(), kind: EventKind::CancelRequested {} });
    }
    for running in world.instances.values().filter(|running| running.instance.sandbox == *name) {
        match &running.instance.state {
            InstanceState::Live {} | InstanceState::Unhealthy {} => {
                acts.push(drain(running, StopReason::SandboxDeleted {}));
            }
            state if state.is_over() => {
                let last_lines = running.instance.last_lines.clone();
                let kind = EventKind::InstanceStopped { reason: StopReason::SandboxDeleted {}, last_lines };
                acts.push(Act::Event { by: by.clone(), about: running.about(), kind });
            }
            _ => {}
        }
    }
    let about = About { sandbox: Some(name.clone()), ..About::default() };
    acts.push(Act::Event { by: by.clone(), about, kind: EventKind::SandboxDeleted {} });
    Ok(Verdict::Do(acts, Reply::Done))
}
