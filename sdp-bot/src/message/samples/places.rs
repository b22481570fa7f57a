//! Sandboxes with routes and an end, locks, templates, and several services at once: what is said about each.

use sdp_core::api::{Batch, Environment, Explanation, Lock, SandboxView, Template, VariableView};
use sdp_core::batch::BatchOutcome;
use sdp_core::deployment::Outcome;
use sdp_core::name::{SandboxName, ServiceName};
use sdp_core::principal::Principal;
use sdp_core::sandbox::{InstanceState, RouteChoice};
use serde_json::{Value, json};

use super::super::{locks, notice, places, together};
use super::{COMMIT, KEY, Sample, at, deployments, failed, instance, page, sandbox, thread};
use crate::command::{LockOf, LockVerb};
use crate::thread::Thread;

pub(super) fn sandbox_json(name: &str) -> Value {
    json!({ "name": name, "owner": Principal::person("alice".parse().unwrap()), "environment": "default", "key": KEY,
        "created_at": at(-90_000), "lifetime_hours": 168, "expires_at": at(200_000) })
}

/// One with everything that can be said of one.
pub(crate) fn full() -> SandboxView {
    let mut view = sandbox("qa-42", vec![instance("payments", "qa-42", InstanceState::Live {})]);
    view.sandbox.team = Some("checkout".parse().unwrap());
    view.sandbox.members = ["bob", "carol"].map(|name| name.parse().unwrap()).into();
    view.sandbox.notes = Some("for the <release> & nothing else\nask Bob".to_owned());
    view.sandbox.template = serde_json::from_value(json!({ "name": "shop", "version": 3 })).unwrap();
    view.locks = vec![lock("lock")];
    let route = |service: &str, target: Value, chosen: bool| {
        let instance = (target["type"] == "instance").then(|| view.instances[0].clone());
        json!({ "service": service, "rule": { "type": "path", "prefix": format!("/{service}") }, "target": target,
            "chosen": chosen, "instance": instance, "url": page(&format!("/~qa-42/{service}/")), "service_url": null,
            "baseline": "https://baseline.example.com/" })
    };
    let id = uuid::Uuid::from_u128(2);
    let routes = json!([
        route("cart", json!({ "type": "baseline" }), false),
        route("gateway", json!({ "type": "external", "address": "10.20.3.4:8080" }), true),
        route(
            "ledger",
            json!({ "type": "instance", "instance": id, "address": "10.0.0.1:1", "commit": COMMIT, "of": "bob" }),
            true
        ),
        route("mail", json!({ "type": "down", "reason": "it crashed" }), false),
        route(
            "payments",
            json!({ "type": "instance", "instance": id, "address": "10.0.0.1:1", "commit": COMMIT }),
            false
        ),
        route("search", json!({ "type": "baseline" }), true),
        route("users", json!({ "type": "baseline", "reason": "it crashed" }), false),
    ]);
    view.routes = serde_json::from_value(routes).unwrap();
    view
}

pub(crate) fn lock(kind: &str) -> Lock {
    let lock = json!({ "id": uuid::Uuid::from_u128(7), "kind": kind, "owner": Principal::person("bob".parse().unwrap()),
        "place": { "environment": "staging", "sandbox": "qa-42", "service": "payments" }, "created_at": at(-4000),
        "reason": "I test <refunds> & more", "expires_at": (kind == "lock").then(|| at(7200)) });
    serde_json::from_value(lock).unwrap()
}

fn explanation(target: Value) -> Explanation {
    let rule = |service: &str, matches: bool| {
        json!({ "service": service, "rule": { "type": "path", "prefix": format!("/{service}") }, "matches": matches,
            "why": "the path does not begin with it" })
    };
    let rules: Vec<Value> = [rule("payments", true)]
        .into_iter()
        .chain((0..12).map(|n| rule(&format!("other-{n}"), false)))
        .collect();
    let explanation = json!({ "version": 7, "summary": "qa-42's requests for payments go to its own instance",
        "environment": "staging", "sandbox": "qa-42", "service": "payments", "target": target, "taken": "/payments",
        "path": "/refunds", "rules": rules, "selectors": [
            { "selector": "the header sdp-routing-key", "says": KEY, "chosen": true, "why": "it is qa-42's" },
            { "selector": "a cookie", "chosen": false, "why": "it is not there" } ] });
    serde_json::from_value(explanation).unwrap()
}

fn template(name: &str) -> Template {
    let template = json!({ "name": name, "version": 3, "created_at": at(-900), "created_by": Principal::System, "spec": {
        "description": "The whole <shop>", "environment": "staging", "lifetime_hours": 72, "services": {
            "payments": { "git_ref": "feature/a" }, "ledger": {} } } });
    serde_json::from_value(template).unwrap()
}

fn environments() -> Vec<Environment> {
    let staging = json!({ "name": "staging", "description": "as in production", "domain": "sandboxes.shop.test",
        "services": { "payments": {}, "ledger": {} }, "default_lifetime_hours": 24, "max_lifetime_hours": 100,
        "deployers": { "people": ["alice", "bob"], "tokens": ["ci"] }, "quota": { "instances": 5 } });
    vec![Environment::default_one(), serde_json::from_value(staging).unwrap()]
}

fn variables() -> Vec<VariableView> {
    let variables = json!([
        { "name": "DB_PASSWORD", "value": null, "layer": "secret" },
        { "name": "LOG_LEVEL", "value": "debug & <more>", "layer": "deploy", "over": ["environment", "service"] },
        { "name": "SDP_SANDBOX", "value": "qa-42", "layer": "sdp" },
    ]);
    serde_json::from_value(variables).unwrap()
}

pub(crate) fn batch(template: bool) -> Batch {
    let template = template.then(|| json!({ "name": "shop", "version": 3 }));
    let batch = json!({ "id": uuid::Uuid::from_u128(9), "sandbox": "qa-42", "deployments": [], "template": template,
        "requested_by": Principal::person("alice".parse().unwrap()), "requested_at": at(-100) });
    serde_json::from_value(batch).unwrap()
}

fn together_samples() -> Vec<Sample> {
    let all: Vec<Thread> = deployments().iter().map(thread).collect();
    let ended = |outcome: Outcome| thread(&super::ended(outcome));
    let good = || ended(Outcome::Succeeded {});
    let bad = || thread(&failed());
    let cancelled = || ended(Outcome::Cancelled { by: Principal::person("bob".parse().unwrap()) });
    let url = page("/sandboxes/qa-42");
    let mut samples: Vec<Sample> = vec![
        ("together::root", together::root(&batch(true), &all, None, &url, at(0))),
        ("together::of_one", together::of_one(&failed(), notice::expired(&"qa".parse().unwrap()))),
    ];
    for (threads, outcome) in [
        (vec![good(), good()], BatchOutcome::Succeeded),
        (vec![good(), bad(), cancelled()], BatchOutcome::Partial),
        (vec![bad(), bad()], BatchOutcome::Failed),
        (vec![cancelled()], BatchOutcome::Failed),
    ] {
        samples.push(("together::root", together::root(&batch(false), &threads, Some(outcome), &url, at(0))));
        samples.push(("together::ended", together::ended(&batch(false), &threads, outcome)));
    }
    samples
}

pub(super) fn all() -> Vec<Sample> {
    let (view, now) = (full(), at(0));
    let empty = sandbox("qa-1", Vec::new());
    let mut pinned = empty.clone();
    (pinned.sandbox.pinned, pinned.sandbox.expires_at) = (true, None);
    pinned.access.share_url = None;
    let (service, name): (ServiceName, SandboxName) = ("payments".parse().unwrap(), "qa-42".parse().unwrap());
    let of = LockOf { service: Some(service.clone()), place: name.clone() };
    let (held, frozen) = (lock("lock"), lock("freeze"));
    let gone = "feature/a".parse().unwrap();
    let address = "10.20.3.4:8080".parse().unwrap();
    let mut all = vec![
        ("places::sandbox", places::sandbox(&view, now)),
        ("places::sandbox", places::sandbox(&empty, now)),
        ("places::sandbox", places::sandbox(&pinned, now)),
        ("places::created", places::created(&view, now)),
        ("places::created", places::created(&empty, now)),
        ("places::renewed", places::renewed(&empty.sandbox, now)),
        ("places::renewed", places::renewed(&pinned.sandbox, now)),
        ("places::share", places::share(&view, "bob", now)),
        ("places::share", places::share(&pinned, "bob", now)),
        ("places::routes", places::routes(&view, now)),
        ("places::routes", places::routes(&empty, now)),
        ("places::variables", places::variables(&service, &name, &variables())),
        ("places::variables", places::variables(&service, &name, &[])),
        ("places::templates", places::templates(&[])),
        ("places::templates", places::templates(&[template("shop")])),
        ("places::templates", places::templates(&[template("shop"), template("mail")])),
        ("places::environments", places::environments(&environments())),
        ("locks::locks", locks::locks(&[], now)),
        ("locks::locks", locks::locks(&[held.clone(), frozen.clone()], now)),
        ("locks::set", locks::set(&held, None, now)),
        ("locks::set", locks::set(&frozen, Some(&held), now)),
        ("locks::ended", locks::ended(&held)),
        ("locks::none_there", locks::none_there(&of)),
        ("locks::where_of", locks::where_of(LockVerb::Freeze, &service)),
        ("locks::no_such_place", locks::no_such_place(&of)),
        ("locks::in_the_way", locks::in_the_way(&held, now)),
        ("locks::in_the_way", locks::in_the_way(&frozen, now)),
        ("locks::why_steal", locks::why_steal(&of, None, now)),
        ("locks::why_steal", locks::why_steal(&of, Some(&held), now)),
        ("notice::expiring", notice::expiring(&name, at(3000), None, 0, now)),
        ("notice::expiring", notice::expiring(&name, at(90_000), Some(&gone), 2, now)),
        ("notice::expired", notice::expired(&name)),
        ("notice::stolen", notice::stolen(&held, &Principal::person("carol".parse().unwrap()), &frozen)),
    ];
    for choice in [
        None,
        Some(RouteChoice::Baseline {}),
        Some(RouteChoice::Borrowed { sandbox: "bob".parse().unwrap() }),
        Some(RouteChoice::External { address }),
    ] {
        all.push(("places::routed", places::routed(&service, &view.sandbox, choice.as_ref())));
    }
    for target in [
        json!({ "type": "instance", "instance": uuid::Uuid::from_u128(2), "address": "10.0.0.1:80", "commit": COMMIT, "of": "bob" }),
        json!({ "type": "external", "address": "10.20.3.4:8080" }),
        json!({ "type": "baseline", "url": "https://baseline.example.com/", "instead": "it crashed" }),
        json!({ "type": "refused", "status": 503, "code": "instance_down" }),
    ] {
        all.push(("places::explained", places::explained("/payments/refunds", &explanation(target))));
    }
    all.extend(together_samples());
    all
}
