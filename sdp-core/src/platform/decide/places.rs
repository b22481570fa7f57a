//! Environments and templates: what may be saved, and what goes only when nothing is left in it.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::super::input::Reply;
use super::super::world::{Note, World};
use super::super::{PlatformError, Save};
use super::Act;
use super::commands::Verdict;
use super::sandboxes::{check_choice, in_environment, too_long};
use crate::catalog::environment::default_name;
use crate::catalog::{Environment, InvalidService, MatchRule, Service, Template, TemplateSpec};
use crate::event::{About, EventKind};
use crate::name::{EnvironmentName, HostName, ServiceName, TemplateName};
use crate::principal::Principal;
use crate::sandbox::TemplateVersion;

/// Most of everything.
const MOST_ENVIRONMENTS: usize = 100;
const MOST_TEMPLATES: usize = 500;

pub(super) fn save_environment(
    world: &World,
    by: &Principal,
    environment: Box<Environment>,
    save: Save,
) -> Result<Verdict, PlatformError> {
    let known = world.environments.get(&environment.name);
    if save == Save::Create && known.is_some() {
        return Err(PlatformError::EnvironmentExists { name: environment.name.clone() });
    }
    if known == Some(&*environment) {
        return Ok(Verdict::Do(Vec::new(), Reply::Saved { created: false }));
    }
    if known.is_none() && world.environments.len() >= MOST_ENVIRONMENTS {
        return Err(invalid(
            "name",
            format!("there are {MOST_ENVIRONMENTS} environments, as many as there may be"),
        ));
    }
    // One that the catalog has no more may stay where it was.
    let known_services = known.map(|known| &known.services);
    for service in environment.services.keys() {
        if known_services.is_none_or(|known| !known.contains_key(service)) {
            world.service(service)?;
        }
    }
    let running = world.instances.values().map(|running| &running.instance);
    let mut left_out = running.filter(|instance| {
        !instance.state.is_over()
            && world.environment_of(&instance.sandbox) == environment.name
            && !environment.has(&instance.service)
    });
    if let Some(instance) = left_out.next() {
        let has = format!("{} in the sandbox {}", instance.service, instance.sandbox);
        return Err(PlatformError::EnvironmentInUse { name: environment.name.clone(), has });
    }
    let domain_is_service = environment.domain.as_ref().filter(|domain| {
        environment
            .services
            .values()
            .any(|service| service.rule.as_ref().and_then(MatchRule::host) == Some(domain))
    });
    if let Some(domain) = domain_is_service {
        return Err(conflict(&environment.name, "one of its services", format!("the host {domain}")));
    }
    check_rules(world, &environment, &world.services)?;
    let created = known.is_none();
    let about = About { environment: Some(environment.name.clone()), ..About::default() };
    let saved = Act::Event { by: by.clone(), about, kind: EventKind::EnvironmentSaved { created } };
    Ok(Verdict::Do(vec![Act::Note(Note::Environment(environment)), saved], Reply::Saved { created }))
}

/// Whether the rules of an environment, with these services, are told from each other and from those of all others.
pub(super) fn check_rules(
    world: &World,
    environment: &Environment,
    services: &BTreeMap<ServiceName, Service>,
) -> Result<(), PlatformError> {
    let routes = environment.routes(services);
    for (at, route) in routes.iter().enumerate() {
        if let Some(other) = routes[..at].iter().find(|other| other.rule.overlaps(&route.rule)) {
            return Err(PlatformError::RouteConflict {
                name: route.service.to_string(),
                other: other.service.to_string(),
                what: format!("{} in {}", route.rule, environment.name),
            });
        }
    }
    let hosts = |of: &Environment| -> Vec<(HostName, String)> {
        let routes = of.routes(services);
        let rules = routes.iter().filter_map(|route| {
            Some((route.rule.host()?.clone(), format!("{} of {}", route.service, of.name)))
        });
        of.domain.iter().map(|domain| (domain.clone(), of.name.to_string())).chain(rules).collect()
    };
    let own = hosts(environment);
    let others = world.environments.values().filter(|other| other.name != environment.name);
    for (host, other) in others.flat_map(hosts) {
        if let Some((host, name)) = own.iter().find(|(own, _)| *own == host) {
            return Err(PlatformError::RouteConflict {
                name: name.clone(),
                other,
                what: format!("the host {host}"),
            });
        }
    }
    Ok(())
}

fn conflict(name: &EnvironmentName, other: &str, what: String) -> PlatformError {
    PlatformError::RouteConflict { name: name.to_string(), other: other.to_owned(), what }
}

pub(super) fn invalid(field: &'static str, problem: impl Into<String>) -> PlatformError {
    PlatformError::InvalidService(InvalidService { field, problem: problem.into() })
}

pub(super) fn delete_environment(
    world: &World,
    by: &Principal,
    name: &EnvironmentName,
) -> Result<Verdict, PlatformError> {
    world.environment(name)?;
    if *name == default_name() {
        let has = "to be there: it is where sandboxes are that say nothing else".to_owned();
        return Err(PlatformError::EnvironmentInUse { name: name.clone(), has });
    }
    let sandboxes = world.sandboxes.values().filter(|sandbox| sandbox.environment == *name);
    let sandboxes = sandboxes.map(|sandbox| format!("the sandbox {}", sandbox.name));
    let templates = world.templates.values().filter(|template| template.spec.environment == *name);
    let templates = templates.map(|template| format!("the template {}", template.name));
    let has: Vec<String> = sandboxes.chain(templates).take(10).collect();
    if !has.is_empty() {
        return Err(PlatformError::EnvironmentInUse { name: name.clone(), has: has.join(", ") });
    }
    let about = About { environment: Some(name.clone()), ..About::default() };
    let mut acts: Vec<Act> = super::locks::of_place(world, name, None).map(super::locks::over).collect();
    acts.push(Act::Event { by: by.clone(), about, kind: EventKind::EnvironmentDeleted {} });
    Ok(Verdict::Do(acts, Reply::Done))
}

// ── templates ───────────────────────────────────────────────────────────────────────────────────────────────────────

pub(super) fn save_template(
    world: &World,
    now: Timestamp,
    by: &Principal,
    name: TemplateName,
    spec: TemplateSpec,
) -> Result<Verdict, PlatformError> {
    let environment = world.environment(&spec.environment)?;
    for service in spec.services.keys().chain(spec.routes.keys()) {
        world.service(service)?;
        in_environment(environment, service)?;
    }
    for (service, route) in &spec.routes {
        check_choice(world, environment, None, service, route)?;
    }
    if spec.lifetime_hours.is_some_and(|hours| hours > environment.max_lifetime_hours) {
        return Err(too_long(environment));
    }
    let known = world.templates.get(&name);
    if let Some(known) = known.filter(|known| known.spec == spec) {
        return Ok(Verdict::Do(Vec::new(), Reply::Template(Box::new(known.clone()))));
    }
    if known.is_none() && world.templates.len() >= MOST_TEMPLATES {
        return Err(invalid(
            "name",
            format!("there are {MOST_TEMPLATES} templates, as many as there may be"),
        ));
    }
    let version = known.map_or(0, |known| known.version) + 1;
    let template = Template { name: name.clone(), version, spec, created_at: now, created_by: by.clone() };
    let kind = EventKind::TemplateSaved { template: TemplateVersion { name, version } };
    let about = About { environment: Some(template.spec.environment.clone()), ..About::default() };
    let acts = vec![
        Act::Note(Note::Template(Box::new(template.clone()))),
        Act::Event { by: by.clone(), about, kind },
    ];
    Ok(Verdict::Do(acts, Reply::Template(Box::new(template))))
}

pub(super) fn delete_template(
    world: &World,
    by: &Principal,
    name: &TemplateName,
) -> Result<Verdict, PlatformError> {
    let template = world.template(name)?;
    let about = About { environment: Some(template.spec.environment.clone()), ..About::default() };
    let kind = EventKind::TemplateDeleted { name: name.clone() };
    Ok(Verdict::Do(vec![Act::Event { by: by.clone(), about, kind }], Reply::Done))
}
