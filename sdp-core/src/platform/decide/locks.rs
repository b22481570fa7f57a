//! Locks and freezes: who may set them, and steal them.

use jiff::{SignedDuration, Timestamp};

use super::super::input::{LockOrder, Reply};
use super::super::world::World;
use super::super::{PlatformError, Power};
use super::Act;
use super::commands::Verdict;
use super::sandboxes::{in_environment, may_change};
use crate::catalog::InvalidService;
use crate::catalog::environment::{LONGEST_LIFETIME_HOURS, default_name, is_note};
use crate::event::{About, EventKind};
use crate::id::LockId;
use crate::lock::{Lock, LockPlace};
use crate::name::{EnvironmentName, SandboxName};
use crate::principal::Principal;

/// As many as there may be.
const MOST: usize = 5000;

pub(super) fn lock(
    world: &World,
    now: Timestamp,
    by: &Principal,
    order: LockOrder,
) -> Result<Verdict, PlatformError> {
    let LockOrder { id, wanted, power } = order;
    let sandbox = wanted.sandbox.as_ref().map(|name| world.sandbox(name)).transpose()?;
    let environment = wanted.environment.clone();
    let environment = environment.or_else(|| sandbox.map(|sandbox| sandbox.environment.clone()));
    let environment = world.environment(&environment.unwrap_or_else(default_name))?;
    let invalid = |field, problem: &str| {
        Err(PlatformError::InvalidService(InvalidService { field, problem: problem.to_owned() }))
    };
    if let Some(sandbox) = sandbox {
        if sandbox.environment != environment.name {
            return invalid("environment", "it is not the sandbox's");
        }
        may_change(sandbox, by, &power)?;
    }
    if !power.deploys_in(environment, by) {
        return Err(PlatformError::NotADeployer { environment: environment.name.clone() });
    }
    if let Some(service) = &wanted.service {
        world.service(service)?;
        in_environment(environment, service)?;
    }
    let reason = wanted.reason.trim();
    if reason.is_empty() || !is_note(reason, 500) {
        return invalid("reason", "1 to 500 characters, no control characters");
    }
    if wanted.hours.is_some_and(|hours| !(1..=LONGEST_LIFETIME_HOURS).contains(&hours)) {
        return invalid("hours", "1 to 8760");
    }
    let ends = |hours: u32| now.checked_add(SignedDuration::from_hours(hours.into())).ok();
    let lock = Lock {
        id,
        place: LockPlace {
            environment: environment.name.clone(),
            sandbox: wanted.sandbox,
            service: wanted.service,
        },
        kind: wanted.kind,
        owner: by.clone(),
        reason: reason.to_owned(),
        created_at: now,
        expires_at: wanted.hours.and_then(ends),
    };
    let known = world.locks.values().find(|known| known.place == lock.place);
    let mut acts = Vec::new();
    let stolen = match known {
        Some(known) if known.is_of(by) => {
            acts.push(released(known, by, false));
            None
        }
        Some(known) if !wanted.steal => return Err(PlatformError::Locked { lock: Box::new(known.clone()) }),
        other => other.cloned(),
    };
    if known.is_none() && world.locks.len() >= MOST {
        return invalid("reason", "there are 5000 locks, as many as there may be");
    }
    let kind = EventKind::Locked { lock: lock.clone(), stolen };
    acts.push(Act::Event { by: by.clone(), about: about(&lock.place), kind });
    Ok(Verdict::Do(acts, Reply::Lock(Box::new(lock))))
}

pub(super) fn unlock(
    world: &World,
    by: &Principal,
    id: LockId,
    power: &Power,
) -> Result<Verdict, PlatformError> {
    let lock = world.locks.get(&id).ok_or(PlatformError::UnknownLock { id })?;
    if *power != Power::Administrator && !lock.is_of(by) {
        return Err(PlatformError::NotYourLock { owner: lock.owner.to_string() });
    }
    Ok(Verdict::Do(vec![released(lock, by, false)], Reply::Lock(Box::new(lock.clone()))))
}

/// Locks on one place of an environment, or (without a sandbox) on all of it and on all that is in it.
pub(super) fn of_place<'a>(
    world: &'a World,
    environment: &'a EnvironmentName,
    sandbox: Option<&'a SandboxName>,
) -> impl Iterator<Item = &'a Lock> {
    world.locks.values().filter(move |lock| {
        lock.place.environment == *environment
            && (sandbox.is_none() || lock.place.sandbox.as_ref() == sandbox)
    })
}

/// The place that it is about is gone.
pub(super) fn over(lock: &Lock) -> Act {
    released(lock, &Principal::System, false)
}

pub(super) fn due(lock: &Lock, now: Timestamp) -> Option<Act> {
    lock.expires_at.filter(|end| now >= *end).map(|_| released(lock, &Principal::System, true))
}

fn released(lock: &Lock, by: &Principal, expired: bool) -> Act {
    let kind = EventKind::Unlocked { lock: lock.clone(), expired };
    Act::Event { by: by.clone(), about: about(&lock.place), kind }
}

fn about(place: &LockPlace) -> About {
    About {
        environment: Some(place.environment.clone()),
        sandbox: place.sandbox.clone(),
        service: place.service.clone(),
        ..About::default()
    }
}
