//! What people are shown of a sandbox: where its requests go, its variables by layer, what a probe found. Pure.

use std::collections::BTreeMap;

use crate::api::{ProbeReport, RouteView, SandboxAccess, SandboxView, VariableLayer, VariableView};
use crate::name::{EnvName, HostName, SandboxName, ServiceName};
use crate::platform::PlatformError;
use crate::platform::world::World;
use crate::routing::{ROUTING_KEY, RouteTarget, route_url, service_url, share_url};
use crate::sandbox::{Instance, Sandbox};
use crate::wire::ProbeHop;

pub(super) fn view(world: &World, sandbox: &Sandbox) -> SandboxView {
    let environment = world.environments.get(&sandbox.environment);
    let base = world.router_base(&sandbox.environment);
    let here = world.instances.values().rev().map(|running| &running.instance);
    let instances: Vec<Instance> =
        here.filter(|i| i.sandbox == sandbox.name && !i.state.is_over()).cloned().collect();
    let routes = environment.map(|environment| environment.routes(&world.services)).unwrap_or_default();
    let own = world.table.routes_of(&sandbox.environment, &sandbox.name);
    let routes = routes.into_iter().map(|route| {
        let own = own.iter().find(|own| own.service == route.service);
        let target = own.map(|own| own.target.clone());
        let target = target.unwrap_or(match &route.baseline {
            Some(_) => RouteTarget::Baseline { reason: None },
            None => RouteTarget::Down { reason: "nothing runs, and it has no baseline".to_owned() },
        });
        let instance = match &target {
            RouteTarget::Instance { instance, .. } => world.instances.get(instance),
            _ => None,
        };
        let url = base.as_ref().map(|base| match route.rule.prefix() {
            Some(prefix) => route_url(base, &sandbox.name, prefix),
            None => service_url(base, &sandbox.name, &route.service),
        });
        RouteView {
            chosen: sandbox.routes.contains_key(&route.service),
            instance: instance.map(|running| running.instance.clone()),
            url,
            service_url: base.as_ref().map(|base| service_url(base, &sandbox.name, &route.service)),
            service: route.service,
            rule: route.rule,
            target,
            baseline: route.baseline,
        }
    });
    let host = environment.and_then(|environment| environment.domain.as_ref());
    let mut url = base.clone();
    if let Some(url) = &mut url {
        url.set_path(&format!("{}/~{}/", url.path().trim_end_matches('/'), sandbox.name));
    }
    let access = SandboxAccess {
        url,
        share_url: base.as_ref().map(|base| share_url(base, &sandbox.key)),
        host: host.and_then(|domain| HostName::parse(format!("{}.{domain}", sandbox.name)).ok()),
        header: ROUTING_KEY.to_owned(),
        key: sandbox.key.clone(),
        baggage: format!("{ROUTING_KEY}={}", sandbox.key),
    };
    let locks = world.locks.values().filter(|lock| {
        lock.place.environment == sandbox.environment
            && lock.place.sandbox.as_ref().is_none_or(|name| *name == sandbox.name)
    });
    SandboxView {
        sandbox: sandbox.clone(),
        instances,
        access,
        routes: routes.collect(),
        locks: locks.cloned().collect(),
    }
}

pub(super) fn variables(
    world: &World,
    sandbox: &Sandbox,
    service: &ServiceName,
    template: &BTreeMap<EnvName, String>,
    deploy: &BTreeMap<EnvName, String>,
) -> Result<Vec<VariableView>, PlatformError> {
    let entry = world.service(service)?;
    let environment = world.environment(&sandbox.environment)?;
    let mut found: BTreeMap<String, Vec<(VariableLayer, Option<String>)>> = BTreeMap::new();
    let mut add = |layer, name: String, value: Option<String>| {
        found.entry(name).or_default().push((layer, value));
    };
    let plain = [
        (VariableLayer::Environment, &environment.env),
        (VariableLayer::Service, &entry.env),
        (VariableLayer::Template, template),
        (VariableLayer::Sandbox, &sandbox.env),
        (VariableLayer::Deploy, deploy),
    ];
    for (layer, env) in plain {
        for (name, value) in env {
            add(layer, name.to_string(), Some(value.clone()));
        }
    }
    for secret in world.secrets_of(service) {
        add(VariableLayer::Secret, secret.name.to_string(), None);
    }
    if let Some(place) = world.job_place(&sandbox.name) {
        for (name, value) in place.variables(&sandbox.name) {
            add(VariableLayer::Sdp, name, Some(value));
        }
    }
    let view = |(name, mut values): (String, Vec<(VariableLayer, Option<String>)>)| {
        values.sort_by_key(|(layer, _)| *layer);
        let (layer, value) = values.pop()?;
        Some(VariableView { name, value, layer, over: values.into_iter().map(|(layer, _)| layer).collect() })
    };
    Ok(found.into_iter().filter_map(view).collect())
}

/// What the requests of a probe say. The first that lost the mark, or is missing, shows who dropped it: whoever was asked before.
pub(super) fn report(
    sandbox: &SandboxName,
    through: &[ServiceName],
    status: u16,
    served_by: Option<String>,
    hops: Vec<ProbeHop>,
) -> ProbeReport {
    let mut last: Option<ServiceName> = None;
    let mut lost: Option<String> = None;
    for hop in &hops {
        if hop.sandbox.as_ref() != Some(sandbox) {
            let to = hop.service.as_ref().map_or_else(|| "the router".to_owned(), ToString::to_string);
            lost = Some(match &last {
                Some(by) => {
                    format!("{by} asked {to} without the mark of {sandbox}: pass on the header baggage.")
                }
                None => format!("the first request, for {to}, is not {sandbox}'s."),
            });
            break;
        }
        last = hop.service.clone().or(last);
    }
    let reached = |service: &ServiceName| hops.iter().any(|hop| hop.service.as_ref() == Some(service));
    let missing = through.iter().position(|service| !reached(service));
    let kept = lost.is_none() && missing.is_none() && !hops.is_empty();
    let (dropped_by, summary) = match (lost, missing) {
        (Some(lost), _) => (last, lost),
        (None, Some(0)) => {
            let first = &through[0];
            (None, format!("The request did not reach {first}: look at its path and host."))
        }
        (None, Some(at)) => {
            let (by, to) = (&through[at - 1], &through[at]);
            let summary = format!(
                "{by} did not ask {to} by way of the router: it has another address, or did not ask at all. Give it \
                 SDP_ROUTE_{}.",
                crate::wire::job::variable_part(to)
            );
            (Some(by.clone()), summary)
        }
        (None, None) if hops.is_empty() => (None, "The request did not pass the router.".to_owned()),
        (None, None) => {
            let names: Vec<_> =
                hops.iter().filter_map(|hop| hop.service.as_ref()).map(ToString::to_string).collect();
            (None, format!("The mark of {sandbox} was passed on all the way: {}.", names.join(" → ")))
        }
    };
    ProbeReport { kept, dropped_by, summary, status, served_by, hops }
}
