//! What a command does.

use jiff::Timestamp;

use super::super::input::{BatchOrder, Command, DeployCommand, Reply};
use super::super::world::World;
use super::super::{Idempotency, PlatformConfig, PlatformError, Save};
use super::{Act, deploys, ends, fleet, locks, places, sandboxes, secrets};
use crate::batch::Batch;
use crate::catalog::Service;
use crate::deployment::Outcome;
use crate::event::{About, EventKind};
use crate::id::{DeploymentId, DeploymentNumber, InstanceId};
use crate::name::{AgentName, ServiceName};
use crate::principal::Principal;
use crate::sandbox::{InstanceState, StopReason, TemplateVersion};
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
    /// Several new deployments: what comes before them all, and after each.
    BeginBatch {
        before: Vec<Act>,
        begins: Vec<(DeploymentId, DeployCommand, Vec<Act>)>,
        idempotency: Option<IdempotencyRow>,
        batch: Box<Batch>,
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
        Command::SaveEnvironment { environment, save } => {
            places::save_environment(world, by, environment, save)
        }
        Command::DeleteEnvironment { name } => places::delete_environment(world, by, &name),
        Command::SaveTemplate { name, spec } => places::save_template(world, now, by, name, *spec),
        Command::DeleteTemplate { name } => places::delete_template(world, by, &name),
        Command::SaveSandbox(order) => sandboxes::save_sandbox(world, now, by, *order),
        Command::RenewSandbox { name, renew, power } => {
            sandboxes::renew_sandbox(world, now, by, &name, &renew, &power)
        }
        Command::DeleteSandbox { name, power } => sandboxes::delete_sandbox(world, by, &name, &power),
        Command::ChooseRoute { sandbox, service, choice, power } => {
            sandboxes::choose_route(world, now, by, &sandbox, &service, choice, &power)
        }
        Command::Lock(order) => locks::lock(world, now, by, *order),
        Command::Unlock { id, power } => locks::unlock(world, by, id, &power),
        Command::Batch(order) => batch(world, limits, now, by, *order),
        Command::BranchesSeen { repo, names } => {
            Ok(Verdict::Do(ends::branches_seen(world, now, &repo, &names), Reply::Done))
        }
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
    let idempotency = match remembered(world, now, by, command.idempotency.as_ref(), id)? {
        Remembered::Known(deployment) => {
            return Ok(Verdict::Do(Vec::new(), Reply::Known { deployment }));
        }
        Remembered::New(row) => row,
    };
    let room = room_for(world, limits, 1)?;
    let taken = deploys::sandbox_for(world, now, by, &command.sandbox, None, command.key.clone())?;
    deploys::check(world, now, by, &taken.sandbox, &[&command])?;
    let before = taken.acts(world, by);
    let after = supersede(world, by, &command, id, room);
    Ok(Verdict::Begin { before, command, idempotency, after })
}

fn batch(
    world: &World,
    limits: &PlatformConfig,
    now: Timestamp,
    by: &Principal,
    order: BatchOrder,
) -> Result<Verdict, PlatformError> {
    let BatchOrder { id, sandbox, deploys, template, key, idempotency } = order;
    let Some((first, _)) = deploys.first() else { return Ok(Verdict::Do(Vec::new(), Reply::Done)) };
    let idempotency = match remembered(world, now, by, idempotency.as_ref(), *first)? {
        Remembered::Known(deployment) => {
            return Ok(Verdict::Do(Vec::new(), Reply::Known { deployment }));
        }
        Remembered::New(row) => row,
    };
    let mut number = room_for(world, limits, deploys.len())?;
    let taken = deploys::sandbox_for(world, now, by, &sandbox, template.as_ref(), key)?;
    let commands: Vec<&DeployCommand> = deploys.iter().map(|(_, command)| command).collect();
    deploys::check(world, now, by, &taken.sandbox, &commands)?;
    let batch = Batch {
        id,
        sandbox: sandbox.clone(),
        deployments: deploys.iter().map(|(id, _)| *id).collect(),
        template: template.map(|template| TemplateVersion { name: template.name, version: template.version }),
        requested_by: by.clone(),
        requested_at: now,
        outcome: None,
        ended_at: None,
        succeeded: Vec::new(),
        failed: Vec::new(),
    };
    let mut before = taken.acts(world, by);
    let about = About {
        batch: Some(id),
        sandbox: Some(sandbox),
        environment: Some(taken.sandbox.environment.clone()),
        ..About::default()
    };
    let kind = EventKind::BatchRequested { batch: batch.clone() };
    before.push(Act::Event { by: by.clone(), about, kind });
    let mut begins = Vec::new();
    for (id, command) in deploys {
        let after = supersede(world, by, &command, id, number);
        number = number.next();
        begins.push((id, command, after));
    }
    Ok(Verdict::BeginBatch { before, begins, idempotency, batch: Box::new(batch) })
}

enum Remembered {
    Known(DeploymentId),
    New(Option<IdempotencyRow>),
}

/// Whether the same was asked for already.
fn remembered(
    world: &World,
    now: Timestamp,
    by: &Principal,
    wanted: Option<&Idempotency>,
    deployment: DeploymentId,
) -> Result<Remembered, PlatformError> {
    let Some(wanted) = wanted else { return Ok(Remembered::New(None)) };
    let principal = principal_key(by);
    match world.known_request(&principal, &wanted.key) {
        Some((fingerprint, deployment)) if *fingerprint == wanted.fingerprint => {
            Ok(Remembered::Known(*deployment))
        }
        Some(_) => Err(PlatformError::IdempotencyConflict { key: wanted.key.clone() }),
        None => Ok(Remembered::New(Some(IdempotencyRow {
            principal,
            key: wanted.key.clone(),
            fingerprint: wanted.fingerprint.clone(),
            deployment,
            at_ms: now.as_millisecond(),
        }))),
    }
}

/// The number of the next deployment, if so many may wait.
fn room_for(
    world: &World,
    limits: &PlatformConfig,
    deploys: usize,
) -> Result<DeploymentNumber, PlatformError> {
    let waiting = world.open.values().filter(|open| open.deployment.agent.is_none()).count();
    if waiting + deploys > limits.queue_size {
        return Err(PlatformError::QueueFull { limit: limits.queue_size });
    }
    Ok(world.number.next())
}

/// Ends what waits in the same place for this one.
fn supersede(
    world: &World,
    by: &Principal,
    command: &DeployCommand,
    id: DeploymentId,
    number: DeploymentNumber,
) -> Vec<Act> {
    let superseded = world
        .open
        .values()
        .filter(|open| open.is_in(&command.sandbox, &command.service))
        // One that has begun is never superseded; one whose cancel is asked for ends as cancelled.
        .filter(|open| open.deployment.agent.is_none() && open.cancel_asked.is_none());
    superseded
        .map(|open| Act::Event {
            by: by.clone(),
            about: open.about(),
            kind: EventKind::DeploymentEnded { outcome: Outcome::Superseded { by: id, number }, url: None },
        })
        .collect()
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
    let mut services = world.services.clone();
    services.insert(service.name.clone(), (*service).clone());
    for environment in world.environments.values() {
        places::check_rules(world, environment, &services)?;
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
