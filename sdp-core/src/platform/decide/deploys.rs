//! Whether a deploy may be: its sandbox, its environment, locks and quotas; all looked at in the turn that takes it, so that nothing
//! slips in between.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::super::PlatformError;
use super::super::input::DeployCommand;
use super::super::world::{Note, World};
use super::sandboxes::{end, in_environment, made_from, may_change, owner_name, tell_lifetimes};
use super::{Act, secrets};
use crate::api::SaveSandbox;
use crate::catalog::Template;
use crate::event::{About, EventKind};
use crate::name::{RoutingKey, SandboxName, ServiceName};
use crate::principal::Principal;
use crate::sandbox::Sandbox;

/// A sandbox as a deploy leaves it.
pub(super) struct Taken {
    pub(super) sandbox: Sandbox,
    created: bool,
    /// Whether its end is another one now.
    moved: bool,
}

impl Taken {
    /// What makes it so.
    pub(super) fn acts(&self, world: &World, by: &Principal) -> Vec<Act> {
        let sandbox = &self.sandbox;
        let mut acts = vec![Act::Note(Note::Sandbox(Box::new(sandbox.clone())))];
        if self.created {
            let about = About {
                sandbox: Some(sandbox.name.clone()),
                environment: Some(sandbox.environment.clone()),
                ..About::default()
            };
            acts.push(Act::Event { by: by.clone(), about, kind: EventKind::SandboxCreated {} });
        } else if self.moved {
            acts.extend(tell_lifetimes(world, &sandbox.name, sandbox.expires_at));
        }
        acts
    }
}

/// The sandbox that a deploy goes to: made if it is not there, and renewed. A deploy never makes a life shorter.
pub(super) fn sandbox_for(
    world: &World,
    now: Timestamp,
    by: &Principal,
    name: &SandboxName,
    template: Option<&Template>,
    key: RoutingKey,
) -> Result<Taken, PlatformError> {
    let Some(known) = world.sandboxes.get(name) else {
        let made = made_from(world, now, by, name, &SaveSandbox::default(), template, key)?;
        let expires_at = Some(end(now, made.lifetime_hours));
        let sandbox = Sandbox { used_at: Some(now), expires_at, ..made };
        return Ok(Taken { sandbox, created: true, moved: false });
    };
    let environment = world.environment(&known.environment)?;
    let renewed = end(now, known.lifetime_hours.min(environment.max_lifetime_hours));
    let expires_at = known.expires_at.map(|known| known.max(renewed));
    let moved = expires_at != known.expires_at;
    let warned_hours = known.warned_hours.filter(|_| !moved);
    let sandbox =
        Sandbox { used_at: Some(now), expires_at, warned_hours, branches_gone: false, ..known.clone() };
    Ok(Taken { sandbox, created: false, moved })
}

/// Whether these may be deployed into it.
pub(super) fn check(
    world: &World,
    now: Timestamp,
    by: &Principal,
    sandbox: &Sandbox,
    commands: &[&DeployCommand],
) -> Result<(), PlatformError> {
    let environment = world.environment(&sandbox.environment)?;
    for command in commands {
        // It may have been deleted since the caller looked.
        world.service(&command.service)?;
        in_environment(environment, &command.service)?;
        secrets::check_plain(world, &command.service, &command.env)?;
        secrets::check_plain(world, &command.service, &command.template_env)?;
        secrets::check_plain(world, &command.service, &sandbox.env)?;
    }
    for command in commands {
        if !command.power.deploys_in(environment, by) {
            return Err(PlatformError::NotADeployer { environment: environment.name.clone() });
        }
        may_change(sandbox, by, &command.power)?;
        let lock = world.lock_against(by, &environment.name, &sandbox.name, &command.service, now);
        if let Some(lock) = lock {
            return Err(PlatformError::Locked { lock: Box::new(lock.clone()) });
        }
    }
    quota(world, sandbox, commands.iter().map(|command| &command.service))
}

/// Whether the sandbox's owner may have these places as well.
fn quota<'a>(
    world: &'a World,
    sandbox: &'a Sandbox,
    wanted: impl Iterator<Item = &'a ServiceName>,
) -> Result<(), PlatformError> {
    let environment = world.environment(&sandbox.environment)?;
    let quota = environment.quota;
    if quota.instances.is_none() && quota.memory_mib.is_none() {
        return Ok(());
    }
    let owner = owner_name(&sandbox.owner);
    let owned: BTreeSet<&SandboxName> = world
        .sandboxes
        .values()
        .filter(|other| other.environment == environment.name && owner_name(&other.owner) == owner)
        .map(|other| &other.name)
        .chain([&sandbox.name])
        .collect();
    let instances = world.instances.values().map(|running| &running.instance);
    let running = instances.filter(|i| !i.state.is_over()).map(|i| (&i.sandbox, &i.service));
    let open = world.open.values().map(|open| (&open.deployment.sandbox, &open.deployment.service));
    let mut places: BTreeSet<(&SandboxName, &ServiceName)> =
        running.chain(open).filter(|(sandbox, _)| owned.contains(*sandbox)).collect();
    let memory = |places: &BTreeSet<(&SandboxName, &ServiceName)>| -> u64 {
        let limit = |service| world.services.get(service).and_then(|service| service.limits.memory_mib);
        places.iter().filter_map(|(_, service)| limit(*service)).map(u64::from).sum()
    };
    let (had, had_memory) = (places.len(), memory(&places));
    places.extend(wanted.map(|service| (&sandbox.name, service)));
    let (wants, wants_memory) = (places.len(), memory(&places));
    let more_instances = quota.instances.filter(|limit| wants > *limit as usize && wants > had);
    let more_memory =
        quota.memory_mib.filter(|limit| wants_memory > u64::from(*limit) && wants_memory > had_memory);
    let (has, limit) = match (more_instances, more_memory) {
        (Some(limit), _) => (format!("{had} instances"), format!("{limit}")),
        (None, Some(limit)) => (format!("{had_memory} MiB"), format!("{limit} MiB")),
        (None, None) => return Ok(()),
    };
    let mut sandboxes: Vec<&Sandbox> = world
        .sandboxes
        .values()
        .filter(|other| owned.contains(&other.name) && places.iter().any(|(place, _)| **place == other.name))
        .collect();
    sandboxes.sort_by_key(|other| (other.used_at, other.name.clone()));
    let sandboxes = sandboxes.iter().map(|other| other.name.clone()).collect();
    Err(PlatformError::QuotaExceeded { owner, environment: environment.name.clone(), has, limit, sandboxes })
}
