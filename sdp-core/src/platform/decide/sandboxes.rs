//! Sandboxes: how they are made, changed, renewed, routed and deleted, and who may do that.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::super::input::{Reply, SandboxOrder};
use super::super::world::{Note, World};
use super::super::{PlatformError, Power, Save};
use super::commands::Verdict;
use super::places::invalid;
use super::{Act, drain};
use crate::catalog::environment::default_name;
use crate::catalog::{Environment, Template};
use crate::event::{About, EventKind};
use crate::name::{PersonName, RoutingKey, SandboxName, ServiceName};
use crate::principal::Principal;
use crate::sandbox::{Instance, InstanceState, RouteChoice, Sandbox, StopReason, TemplateVersion};
use crate::wire::ToAgent;

/// Most of everything.
const MOST_MEMBERS: usize = 200;
const MOST_SANDBOXES: usize = 5000;
const MOST_NOTES: usize = 2000;

pub(super) fn in_environment(environment: &Environment, service: &ServiceName) -> Result<(), PlatformError> {
    if environment.has(service) {
        return Ok(());
    }
    Err(PlatformError::ServiceNotInEnvironment {
        service: service.clone(),
        environment: environment.name.clone(),
    })
}

pub(super) fn too_long(environment: &Environment) -> PlatformError {
    PlatformError::LifetimeTooLong {
        environment: environment.name.clone(),
        max_hours: environment.max_lifetime_hours,
    }
}

pub(super) fn owned_by(sandbox: &Sandbox) -> String {
    match &sandbox.team {
        Some(team) => format!("{} ({team})", sandbox.owner),
        None => sandbox.owner.to_string(),
    }
}

/// Whether somebody may change a sandbox: everybody a shared one, else its owner, its members and administrators.
pub(super) fn may_change(sandbox: &Sandbox, by: &Principal, power: &Power) -> Result<(), PlatformError> {
    if power.reaches(sandbox, by) {
        return Ok(());
    }
    Err(PlatformError::NotAMember { sandbox: sandbox.name.clone(), owner: owned_by(sandbox) })
}

/// A sandbox that a deploy, or somebody, makes, with what the environment says.
pub(super) fn new_sandbox(
    environment: &Environment,
    by: &Principal,
    name: SandboxName,
    key: RoutingKey,
    now: Timestamp,
) -> Sandbox {
    let own = by.as_person().is_some() && name == by.own_sandbox();
    let lifetime_hours = environment.default_lifetime_hours;
    Sandbox {
        name,
        owner: by.clone(),
        team: None,
        members: std::collections::BTreeSet::new(),
        shared: !own,
        environment: environment.name.clone(),
        template: None,
        key,
        created_at: now,
        lifetime_hours,
        expires_at: Some(end(now, lifetime_hours)),
        pinned: false,
        notes: None,
        env: BTreeMap::new(),
        routes: BTreeMap::new(),
        warned_hours: None,
        branches_gone: false,
        used_at: None,
    }
}

/// So many hours from now, at the next full minute, or (for a day and more) hour: what people read, and what does not change the
/// routers' table with every deploy.
pub(super) fn end(now: Timestamp, hours: u32) -> Timestamp {
    let end = now.checked_add(SignedDuration::from_hours(hours.into())).unwrap_or(Timestamp::MAX);
    let grain = if hours < 24 { 60 } else { 3600 };
    Timestamp::from_second((end.as_second() / grain + 1) * grain).unwrap_or(end)
}

pub(super) fn save_sandbox(
    world: &World,
    now: Timestamp,
    by: &Principal,
    order: SandboxOrder,
) -> Result<Verdict, PlatformError> {
    let SandboxOrder { name, wanted, template, key, save, power } = order;
    let known = world.sandboxes.get(&name);
    if save == Save::Create && known.is_some() {
        return Err(PlatformError::SandboxExists { name });
    }
    let mut sandbox = match known {
        Some(known) => {
            may_change(known, by, &power)?;
            if wanted.environment.as_ref().is_some_and(|wanted| *wanted != known.environment) {
                return Err(invalid("environment", "of a sandbox that exists it cannot be changed"));
            }
            known.clone()
        }
        None => made_from(world, now, by, &name, &wanted, template.as_ref(), key)?,
    };
    let environment = world.environment(&sandbox.environment)?;
    if known.is_none() && !power.deploys_in(environment, by) {
        return Err(PlatformError::NotADeployer { environment: environment.name.clone() });
    }
    let before = sandbox.clone();
    if let Some(team) = wanted.team {
        sandbox.team = Some(team);
    }
    if let Some(members) = wanted.members {
        if members.len() > MOST_MEMBERS {
            return Err(invalid("members", format!("at most {MOST_MEMBERS}")));
        }
        sandbox.members = members;
    }
    sandbox.shared = wanted.shared.unwrap_or(sandbox.shared);
    if let Some(notes) = wanted.notes {
        if !crate::catalog::environment::is_note(&notes, MOST_NOTES) {
            return Err(invalid("notes", "at most 2000 characters, no control characters"));
        }
        sandbox.notes = Some(notes).filter(|notes| !notes.is_empty());
    }
    if let Some(env) = wanted.env {
        crate::catalog::check_variables(&env)?;
        sandbox.env = env;
    }
    if let Some(routes) = wanted.routes {
        for (service, choice) in &routes {
            world.service(service)?;
            in_environment(environment, service)?;
            check_choice(world, environment, Some(&sandbox), service, choice)?;
        }
        let differs = |service: &&ServiceName| routes.get(*service) != sandbox.routes.get(*service);
        for service in routes.keys().chain(sandbox.routes.keys()).filter(differs) {
            if let Some(lock) = world.lock_against(by, &environment.name, &name, service, now) {
                return Err(PlatformError::Locked { lock: Box::new(lock.clone()) });
            }
        }
        sandbox.routes = routes;
    }
    if sandbox.shared {
        for (service, choice) in &sandbox.routes {
            if matches!(choice, RouteChoice::External { .. }) {
                check_choice(world, environment, Some(&sandbox), service, choice)?;
            }
        }
    }
    let access = |of: &Sandbox| (of.team.clone(), of.members.clone(), of.shared);
    if known.is_some() && access(&before) != access(&sandbox) && !power.owns(&before, by) {
        return Err(PlatformError::NotAMember { sandbox: name, owner: owned_by(&before) });
    }
    if let Some(hours) = wanted.lifetime_hours {
        check_hours(environment, hours)?;
        sandbox.lifetime_hours = hours;
    }
    let fields = changed(&before, &sandbox);
    sandbox.pinned = wanted.pinned.unwrap_or(sandbox.pinned);
    sandbox.expires_at = match wanted.expires_at {
        _ if sandbox.pinned => None,
        Some(at) if at <= now => return Err(invalid("expires_at", "it is over already")),
        Some(at) if at > end(now, environment.max_lifetime_hours) => return Err(too_long(environment)),
        Some(at) => Some(at),
        None => {
            let renewed = end(now, sandbox.lifetime_hours.min(environment.max_lifetime_hours));
            // As with a deploy, who says nothing of its life does not make it shorter.
            let before = known.filter(|_| wanted.lifetime_hours.is_none());
            Some(before.and_then(|known| known.expires_at).map_or(renewed, |end| end.max(renewed)))
        }
    };
    if known.is_none_or(|known| known.expires_at != sandbox.expires_at) {
        sandbox.warned_hours = None;
    }

    let about = About {
        sandbox: Some(name.clone()),
        environment: Some(sandbox.environment.clone()),
        ..About::default()
    };
    let event = |kind| Act::Event { by: by.clone(), about: about.clone(), kind };
    let mut acts = Vec::new();
    match known {
        None => acts.push(event(EventKind::SandboxCreated {})),
        Some(known) => {
            if !fields.is_empty() {
                acts.push(event(EventKind::SandboxChanged { fields }));
            }
            if known.expires_at != sandbox.expires_at {
                acts.push(event(EventKind::SandboxRenewed { expires_at: sandbox.expires_at }));
                acts.extend(tell_lifetimes(world, &name, sandbox.expires_at));
            }
        }
    }
    acts.insert(0, Act::Note(Note::Sandbox(Box::new(sandbox.clone()))));
    Ok(Verdict::Do(acts, Reply::Sandbox { sandbox: Box::new(sandbox), created: known.is_none() }))
}

/// A new sandbox as its template, or the one that it is a copy of, says.
pub(super) fn made_from(
    world: &World,
    now: Timestamp,
    by: &Principal,
    name: &SandboxName,
    wanted: &crate::api::SaveSandbox,
    template: Option<&Template>,
    key: RoutingKey,
) -> Result<Sandbox, PlatformError> {
    if world.sandboxes.len() >= MOST_SANDBOXES {
        let words = format!("there are {MOST_SANDBOXES} sandboxes, as many as there may be");
        return Err(invalid("name", words));
    }
    let from = wanted.from.as_ref().map(|from| world.sandbox(from)).transpose()?;
    if from.is_some() && template.is_some() {
        return Err(invalid("from", "from a template or from another sandbox, not from both"));
    }
    let environment = wanted.environment.clone();
    let given = template.map(|template| &template.spec.environment).or(from.map(|from| &from.environment));
    if let (Some(wanted), Some(given)) = (&environment, given)
        && wanted != given
    {
        return Err(invalid("environment", format!("what it is made from is in {given}")));
    }
    let environment = environment.or_else(|| given.cloned()).unwrap_or_else(default_name);
    let environment = world.environment(&environment)?;
    let mut sandbox = new_sandbox(environment, by, name.clone(), key, now);
    if let Some(template) = template {
        sandbox.template = Some(TemplateVersion { name: template.name.clone(), version: template.version });
        sandbox.routes.clone_from(&template.spec.routes);
        sandbox.lifetime_hours = template.spec.lifetime_hours.unwrap_or(sandbox.lifetime_hours);
    }
    if let Some(from) = from {
        sandbox.template.clone_from(&from.template);
        sandbox.env.clone_from(&from.env);
        sandbox.notes.clone_from(&from.notes);
        sandbox.lifetime_hours = from.lifetime_hours;
        sandbox.routes.clone_from(&from.routes);
        let runs = world.instances.values().map(|running| &running.instance);
        let runs = runs.filter(|instance| instance.sandbox == from.name && !instance.state.is_over());
        for instance in runs {
            let lent = RouteChoice::Borrowed { sandbox: from.name.clone() };
            sandbox.routes.entry(instance.service.clone()).or_insert(lent);
        }
        // What that one borrows, or has on somebody's laptop, is not passed on.
        sandbox.routes.retain(|_, route| !matches!(route, RouteChoice::External { .. }));
    }
    sandbox.lifetime_hours = sandbox.lifetime_hours.min(environment.max_lifetime_hours);
    Ok(sandbox)
}

fn changed(before: &Sandbox, after: &Sandbox) -> Vec<String> {
    let fields = [
        ("team", before.team != after.team),
        ("members", before.members != after.members),
        ("shared", before.shared != after.shared),
        ("notes", before.notes != after.notes),
        ("env", before.env != after.env),
        ("routes", before.routes != after.routes),
        ("lifetime_hours", before.lifetime_hours != after.lifetime_hours),
    ];
    fields.iter().filter(|(_, changed)| *changed).map(|(name, _)| (*name).to_owned()).collect()
}

fn check_hours(environment: &Environment, hours: u32) -> Result<(), PlatformError> {
    match hours {
        0 => Err(invalid("lifetime_hours", "1 or more")),
        hours if hours > environment.max_lifetime_hours => Err(too_long(environment)),
        _ => Ok(()),
    }
}

pub(super) fn renew_sandbox(
    world: &World,
    now: Timestamp,
    by: &Principal,
    name: &SandboxName,
    renew: &crate::api::RenewSandbox,
    power: &Power,
) -> Result<Verdict, PlatformError> {
    let known = world.sandbox(name)?;
    may_change(known, by, power)?;
    let environment = world.environment(&known.environment)?;
    let mut sandbox = known.clone();
    sandbox.pinned = renew.pinned.unwrap_or(sandbox.pinned);
    let hours = renew.hours.unwrap_or(sandbox.lifetime_hours.min(environment.max_lifetime_hours));
    check_hours(environment, hours)?;
    sandbox.expires_at = (!sandbox.pinned).then(|| end(now, hours));
    sandbox.warned_hours = None;
    let about = About {
        sandbox: Some(name.clone()),
        environment: Some(sandbox.environment.clone()),
        ..About::default()
    };
    let kind = EventKind::SandboxRenewed { expires_at: sandbox.expires_at };
    let mut acts =
        vec![Act::Note(Note::Sandbox(Box::new(sandbox.clone()))), Act::Event { by: by.clone(), about, kind }];
    acts.extend(tell_lifetimes(world, name, sandbox.expires_at));
    Ok(Verdict::Do(acts, Reply::Sandbox { sandbox: Box::new(sandbox), created: false }))
}

/// The agents that have its instances must know when it ends: they stop them when nobody tells them anything any more.
pub(super) fn tell_lifetimes(world: &World, name: &SandboxName, expires_at: Option<Timestamp>) -> Vec<Act> {
    let mut by_agent: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for running in world.instances.values() {
        let instance = &running.instance;
        if instance.sandbox == *name && !instance.state.is_over() {
            by_agent.entry(instance.agent.clone()).or_default().insert(instance.id, expires_at);
        }
    }
    by_agent
        .into_iter()
        .map(|(agent, instances)| Act::Send(agent, ToAgent::Lifetimes { instances }))
        .collect()
}

pub(super) fn delete_sandbox(
    world: &World,
    by: &Principal,
    name: &SandboxName,
    power: &Power,
) -> Result<Verdict, PlatformError> {
    let sandbox = world.sandbox(name)?;
    may_change(sandbox, by, power)?;
    // What somebody else holds on this sandbox keeps it; one on all of the environment keeps nobody from tidying up.
    let mut held = super::locks::of_place(world, &sandbox.environment, Some(name));
    if *power != Power::Administrator
        && let Some(lock) = held.find(|lock| !lock.is_of(by))
    {
        return Err(PlatformError::Locked { lock: Box::new(lock.clone()) });
    }
    let mut acts = emptied(world, by, sandbox, &StopReason::SandboxDeleted {});
    acts.push(Act::Event { by: by.clone(), about: about(sandbox), kind: EventKind::SandboxDeleted {} });
    Ok(Verdict::Do(acts, Reply::Done))
}

pub(super) fn about(sandbox: &Sandbox) -> About {
    About {
        sandbox: Some(sandbox.name.clone()),
        environment: Some(sandbox.environment.clone()),
        ..About::default()
    }
}

/// Cancels what is under way in a sandbox, stops what runs in it, and ends the locks on it.
pub(super) fn emptied(world: &World, by: &Principal, sandbox: &Sandbox, reason: &StopReason) -> Vec<Act> {
    let name = &sandbox.name;
    let mut acts = Vec::new();
    for open in
        world.open.values().filter(|open| open.deployment.sandbox == *name && open.cancel_asked.is_none())
    {
        acts.push(Act::Event { by: by.clone(), about: open.about(), kind: EventKind::CancelRequested {} });
    }
    for running in world.instances.values().filter(|running| running.instance.sandbox == *name) {
        match &running.instance.state {
            InstanceState::Live {} | InstanceState::Unhealthy {} => {
                acts.push(drain(running, reason.clone()));
            }
            state if state.is_over() => {
                let last_lines = running.instance.last_lines.clone();
                let kind = EventKind::InstanceStopped { reason: reason.clone(), last_lines };
                acts.push(Act::Event { by: by.clone(), about: running.about(), kind });
            }
            _ => {}
        }
    }
    acts.extend(super::locks::of_place(world, &sandbox.environment, Some(name)).map(super::locks::over));
    acts
}

pub(super) fn choose_route(
    world: &World,
    now: Timestamp,
    by: &Principal,
    name: &SandboxName,
    service: &ServiceName,
    choice: Option<RouteChoice>,
    power: &Power,
) -> Result<Verdict, PlatformError> {
    let known = world.sandbox(name)?;
    may_change(known, by, power)?;
    world.service(service)?;
    let environment = world.environment(&known.environment)?;
    in_environment(environment, service)?;
    if !power.deploys_in(environment, by) {
        return Err(PlatformError::NotADeployer { environment: environment.name.clone() });
    }
    if let Some(lock) = world.lock_against(by, &environment.name, name, service, now) {
        return Err(PlatformError::Locked { lock: Box::new(lock.clone()) });
    }
    if let Some(choice) = &choice {
        check_choice(world, environment, Some(known), service, choice)?;
    }
    let mut sandbox = known.clone();
    match &choice {
        Some(choice) => sandbox.routes.insert(service.clone(), choice.clone()),
        None => sandbox.routes.remove(service),
    };
    if sandbox.routes == known.routes {
        return Ok(Verdict::Do(Vec::new(), Reply::Sandbox { sandbox: Box::new(sandbox), created: false }));
    }
    let about = About { service: Some(service.clone()), ..about(&sandbox) };
    let acts = vec![
        Act::Note(Note::Sandbox(Box::new(sandbox.clone()))),
        Act::Event { by: by.clone(), about, kind: EventKind::RouteChosen { choice } },
    ];
    Ok(Verdict::Do(acts, Reply::Sandbox { sandbox: Box::new(sandbox), created: false }))
}

/// Whether a route may lead there. An external target is for somebody's own sandbox alone.
pub(super) fn check_choice(
    world: &World,
    environment: &Environment,
    sandbox: Option<&Sandbox>,
    service: &ServiceName,
    choice: &RouteChoice,
) -> Result<(), PlatformError> {
    let refused = |target: String, why: String| {
        Err(PlatformError::TargetRefused { service: service.clone(), target, why })
    };
    match choice {
        RouteChoice::Baseline {} => {
            let baseline = world.service(service).ok().and_then(|service| environment.baseline(service));
            match baseline {
                Some(_) => Ok(()),
                None => refused("the baseline".into(), "it has none".into()),
            }
        }
        RouteChoice::Borrowed { sandbox: lender } => {
            let target = lender.to_string();
            if sandbox.is_some_and(|sandbox| sandbox.name == *lender) {
                return refused(target, "it is the sandbox itself".into());
            }
            let lends = world.sandbox(lender)?;
            if lends.environment != environment.name {
                return refused(
                    target,
                    format!("it is in {}, not in {}", lends.environment, environment.name),
                );
            }
            let runs = world.instances.values().any(|running| {
                let instance = &running.instance;
                instance.sandbox == *lender && instance.service == *service && !instance.state.is_over()
            });
            match runs {
                true => Ok(()),
                false => refused(target, format!("{service} does not run there")),
            }
        }
        RouteChoice::External { address } => {
            if sandbox.is_none_or(|sandbox| sandbox.shared) {
                let why = "only in a sandbox of one's own, which is not shared".to_owned();
                return refused(address.to_string(), why);
            }
            let instances = world.instances.values().map(|running| &running.instance);
            let mut there = instances.filter(|instance| !instance.state.is_over());
            if let Some(there) = there.find(|instance| instance.address == Some(*address)) {
                let Instance { service, sandbox, .. } = there;
                return refused(
                    address.to_string(),
                    format!("{service} of {sandbox} runs there, which can be borrowed"),
                );
            }
            environment.check_external(*address).or_else(|why| refused(address.to_string(), why))
        }
    }
}

/// The name that somebody's quota goes by.
pub(super) fn owner_name(owner: &Principal) -> String {
    match owner.as_person() {
        Some(person) => PersonName::to_string(person),
        None => owner.to_string(),
    }
}
