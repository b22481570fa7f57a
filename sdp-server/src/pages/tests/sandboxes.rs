//! What the page of a sandbox says, and what its map shows.

use std::collections::BTreeMap;

use sdp_core::api::{RouteView, SandboxAccess, SandboxView, VariableLayer, VariableView};
use sdp_core::catalog::Environment;
use sdp_core::id::LockId;
use sdp_core::lock::{Lock, LockKind, LockPlace};
use sdp_core::name::{EnvironmentName, RoutingKey, TemplateName};
use sdp_core::routing::RouteTarget;
use sdp_core::sandbox::TemplateVersion;

use super::super::sandbox::SandboxPage;
use super::super::sandboxes::{Looked, Sandboxes};
use super::places::{list_of, listed};
use super::*;

pub(super) fn now() -> Timestamp {
    begin() + SignedDuration::from_hours(3)
}

pub(super) fn service(name: &str) -> ServiceName {
    ServiceName::parse(name).unwrap()
}

pub(super) fn sandbox(name: &str, owner: &str) -> Sandbox {
    Sandbox {
        name: SandboxName::parse(name).unwrap(),
        owner: person(owner),
        team: None,
        members: [].into(),
        shared: false,
        environment: EnvironmentName::parse("staging").unwrap(),
        template: None,
        key: RoutingKey::from_random([7; 16]),
        created_at: begin(),
        lifetime_hours: 168,
        expires_at: Some(now() + SignedDuration::from_hours(50)),
        pinned: false,
        notes: None,
        env: BTreeMap::new(),
        routes: BTreeMap::new(),
        warned_hours: None,
        branches_gone: false,
        used_at: None,
    }
}

fn runs(name: &str, in_: &str, git_ref: &str, state: InstanceState) -> Instance {
    let story = Story::new(412, name, "main").live();
    Instance {
        sandbox: SandboxName::parse(in_).unwrap(),
        git_ref: Some(GitRef::parse(git_ref).unwrap()),
        ..instance(&story, state, &[])
    }
}

fn route(name: &str, target: RouteTarget, instance: Option<Instance>) -> RouteView {
    RouteView {
        service: service(name),
        rule: serde_json::from_value(serde_json::json!({ "type": "path", "prefix": format!("/{name}") }))
            .unwrap(),
        target,
        chosen: false,
        instance,
        url: Some(format!("http://127.0.0.1:8081/~alice/{name}/").parse().unwrap()),
        service_url: Some(format!("http://127.0.0.1:8081/~alice/~{name}").parse().unwrap()),
        baseline: Some(format!("https://{name}-staging.apps.ocp.shop.test").parse().unwrap()),
    }
}

fn baseline(name: &str) -> RouteView {
    route(name, RouteTarget::Baseline { reason: None }, None)
}

fn answered(name: &str, of: Option<&str>, git_ref: &str, state: InstanceState) -> RouteView {
    let instance = runs(name, of.unwrap_or("alice"), git_ref, state);
    let target = RouteTarget::Instance {
        instance: instance.id,
        address: "10.0.0.5:21000".parse().unwrap(),
        commit: instance.commit.clone(),
        of: of.map(|of| SandboxName::parse(of).unwrap()),
    };
    route(name, target, Some(instance))
}

fn lock(of: &str, place: Option<&str>, kind: LockKind, reason: &str) -> Lock {
    Lock {
        id: LockId::new(),
        place: LockPlace {
            environment: EnvironmentName::parse("staging").unwrap(),
            sandbox: Some(SandboxName::parse("alice").unwrap()),
            service: place.map(service),
        },
        kind,
        owner: person(of),
        reason: reason.to_owned(),
        created_at: now() - SignedDuration::from_mins(20),
        expires_at: Some(now() + SignedDuration::from_mins(100)),
    }
}

/// A sandbox with one service of every kind, and others.
pub(super) fn view(others: usize) -> SandboxView {
    let mut sandbox = sandbox("alice", "alice");
    sandbox.template = Some(TemplateVersion { name: TemplateName::parse("shop").unwrap(), version: 3 });
    sandbox.notes = Some("Refunds in the currency of the payment.\nAsk before you change ledger.".into());
    let mut routes = vec![
        answered("payments", None, "feature/refund", InstanceState::Live {}),
        answered(
            "gateway",
            None,
            "feature/a-rather-long-name-of-a-branch-that-nobody-wants-to-type",
            InstanceState::Unhealthy {},
        ),
        RouteView { chosen: true, ..answered("ledger", Some("bob"), "fix/rounding", InstanceState::Live {}) },
        RouteView {
            chosen: true,
            ..route("orders", RouteTarget::External { address: "10.20.3.4:8080".parse().unwrap() }, None)
        },
        route("search", RouteTarget::Down { reason: "it crashed".into() }, None),
        route("stock", RouteTarget::Baseline { reason: Some("it ran out of memory".into()) }, None),
        RouteView { chosen: true, ..baseline("users") },
    ];
    routes.extend((0..others).map(|n| baseline(&format!("other-{n:02}"))));
    routes.sort_by(|a, b| a.service.cmp(&b.service));
    SandboxView {
        instances: routes
            .iter()
            .filter_map(|route| route.instance.clone())
            .filter(|i| i.sandbox == sandbox.name)
            .collect(),
        access: SandboxAccess {
            url: Some("http://127.0.0.1:8081/~alice/".parse().unwrap()),
            share_url: Some(format!("http://127.0.0.1:8081/~~/{}/", sandbox.key).parse().unwrap()),
            host: Some("alice.sandboxes.shop.test".parse().unwrap()),
            header: "sdp-routing-key".into(),
            key: sandbox.key.clone(),
            baggage: format!("sdp-routing-key={}", sandbox.key),
        },
        routes,
        locks: vec![lock("bob", Some("ledger"), LockKind::Lock, "demo on Thursday")],
        sandbox,
    }
}

pub(super) fn sandbox_page(view: SandboxView) -> SandboxPage {
    let coming = Story::new(413, "payments", "feature/refund").building().deployment;
    let new = Story::new(414, "other-00", "main").deployment;
    let instances = view.routes.iter().filter_map(|route| route.instance.as_ref());
    let started = instances.map(|instance| {
        (instance.deployment, Story::new(412, "payments", "feature/refund").live().deployment)
    });
    SandboxPage {
        principal: person("alice"),
        now: now(),
        event: EventSeq(77),
        environment: Some(environment()),
        started: started.collect(),
        under_way: vec![new, coming],
        recent: vec![failed().deployment],
        others: vec![SandboxName::parse("bob").unwrap()],
        variables: Some((service("payments"), variables())),
        may_change: true,
        may_lock: true,
        may_unlock_all: false,
        view,
    }
}

pub(super) fn environment() -> Environment {
    serde_json::from_value(serde_json::json!({
        "name": "staging", "description": "The shared test system.", "domain": "sandboxes.shop.test", "router": "vm-1",
        "services": {
            "payments": { "rule": { "type": "path", "prefix": "/payments", "strip": false }, "baseline": "https://payments-staging.apps.ocp.shop.test" },
            "gateway": { "rule": { "type": "host", "host": "api.shop.test" } },
        },
        "default_lifetime_hours": 168, "max_lifetime_hours": 720, "when_down": "baseline",
        "deployers": { "people": ["alice", "bob"], "tokens": ["ci"] },
        "env": { "REGION": "eu" }, "external_networks": ["10.20.0.0/16"], "quota": { "instances": 20, "memory_mib": 8192 },
    }))
    .unwrap()
}

fn variables() -> Vec<VariableView> {
    let of = |name: &str, value: Option<&str>, layer, over: &[VariableLayer]| VariableView {
        name: name.into(),
        value: value.map(str::to_owned),
        layer,
        over: over.to_vec(),
    };
    vec![
        of("DB_PASSWORD", None, VariableLayer::Secret, &[]),
        of(
            "LOG",
            Some("debug"),
            VariableLayer::Deploy,
            &[VariableLayer::Environment, VariableLayer::Sandbox],
        ),
        of("SDP_SANDBOX", Some("alice"), VariableLayer::Sdp, &[]),
    ]
}

pub(super) fn page_parts(page: &Markup, parts: &[&str]) -> String {
    parts.iter().map(|part| read(page, part)).collect::<Vec<_>>().join("\n\n")
}

/// What is written on the map, a line for each text.
fn drawn(page: &Markup) -> String {
    let svg = &page.0[page.0.find("<svg class=\"routing\"").unwrap()..];
    let svg = &svg[..svg.find("The same in words").unwrap()];
    let texts = svg.split("<text").skip(1).map(|text| {
        let text = &text[text.find('>').unwrap() + 1..];
        &text[..text.find("</text>").unwrap()]
    });
    texts.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_map_draws_what_differs_first_and_counts_the_rest() {
    let page = sandbox_page(view(38)).render();
    insta::assert_snapshot!(drawn(&page), @r"
    Router
    of staging
    alice.sandboxe…op.test
    gateway
    /gateway
    feature/a-rather-long…ts-to-type
    Unhealthy
    1a2b3c4d · vm-1
    #412
    ledger
    /ledger
    fix/rounding
    Live
    borrowed from bob · 1a2b3c4d · vm-1
    #412
    orders
    /orders
    10.20.3.4:8080
    Not checked
    an address outside
    payments
    /payments
    feature/refund
    Live
    1a2b3c4d · vm-1
    ↻ #413 Building
    #412
    search
    /search
    Nobody answers
    Down
    503: it crashed
    stock
    /stock
    stock-staging.ap…hop.test
    Baseline instead
    it ran out of memory
    users
    /users
    users-staging.apps.ocp.shop.test
    Baseline
    chosen
    other-00
    /other-00
    other-00-staging.apps.….shop.test
    Baseline

    ↻ #414 Queued
    other-01
    Baseline
    other-01-staging.apps.ocp.shop.test
    other-02
    Baseline
    other-02-staging.apps.ocp.shop.test
    other-03
    Baseline
    other-03-staging.apps.ocp.shop.test
    and 34 more
    go to the baseline
    ");
    let kinds: Vec<_> =
        page.0.split("class=\"way ").skip(1).map(|way| way.split('"').next().unwrap()).collect();
    insta::assert_snapshot!(kinds.join(", "), @r"own sick, borrowed, external, own, down, instead, baseline, baseline, baseline, baseline, baseline, baseline rest");
    let titles = page
        .0
        .split("class=\"way ")
        .skip(1)
        .map(|way| way.split("<title>").nth(1).unwrap().split('<').next().unwrap());
    insta::assert_snapshot!(titles.take(7).collect::<Vec<_>>().join("\n"), @r"
    gateway goes to feature/a-rather-long-name-of-a-branch-that-nobody-wants-to-type of this sandbox (1a2b3c4d, vm-1): unhealthy.
    ledger goes to fix/rounding (borrowed from bob, 1a2b3c4d, vm-1): live.
    orders goes to 10.20.3.4:8080, an address outside.
    payments goes to feature/refund of this sandbox (1a2b3c4d, vm-1): live.
    search is answered by nobody (503: it crashed).
    stock goes to its baseline stock-staging.apps.ocp.shop.test, because what should answer does not: it ran out of memory.
    users goes to its baseline users-staging.apps.ocp.shop.test, as somebody chose.
    ");
}

#[test]
fn a_map_of_hundreds_stays_a_picture() {
    let mut all = view(300);
    all.routes
        .extend((0..40).map(|n| answered(&format!("more-{n:02}"), None, "main", InstanceState::Live {})));
    let page = sandbox_page(all).render();
    let rows = page.0.matches("class=\"way ").count();
    assert_eq!(rows, 24 + 3 + 1);
    insta::assert_snapshot!(drawn(&page).lines().rev().take(2).collect::<Vec<_>>().join("\n"), @r"
    24 go elsewhere, 296 to the baseline
    and 320 more
    ");
    // All of them are in the table.
    assert_eq!(page.0.matches("<tr id=\"route-").count(), 347);
}

#[test]
fn the_page_says_what_there_is_to_know_and_offers_what_may_be_done() {
    let page = sandbox_page(view(2)).render();
    insta::assert_snapshot!(page_parts(&page, &["head", "routes", "deployments", "access", "about", "locks", "variables"]), @r"
    alice
    Ends in 2 days
    [http://127.0.0.1:8081/~alice/ Open ↗][/api/v1/sandboxes/alice/renew Extend][/api/v1/sandboxes/alice/renew Pin][/api/v1/sandboxes/alice Delete]
    yours · in [/environments#environment-staging staging] · from [/templates/shop#version-3 shop version 3] · made 3 h ago
    Refunds in the currency of the payment.Ask before you change ledger.

    ServiceGo toStatePages and buttonsgateway
    /gateway
    feature/a-rather-long-name-of-a-branch-that-nobody-wants-to-type
    1a2b3c4d on vm-1
    Unhealthy[http://127.0.0.1:8081/~alice/gateway/ Open ↗][/instances/ID Instance][/deployments/412 Log of #412]To the baseline]ledger
    /ledger
    fix/rounding
    borrowed from [/sandboxes/bob bob] · 1a2b3c4d on vm-1
    Live[http://127.0.0.1:8081/~alice/ledger/ Open ↗][/instances/ID Instance][/deployments/412 Log of #412]To the baseline]Reset]orders
    /orders
    10.20.3.4:8080
    an address outside
    Not checked[http://127.0.0.1:8081/~alice/orders/ Open ↗]To the baseline]Reset]payments
    /payments
    feature/refund
    1a2b3c4d on vm-1
    Live[http://127.0.0.1:8081/~alice/payments/ Open ↗][/instances/ID Instance][/deployments/412 Log of #412]To the baseline]search
    /search
    nobody
    503: it crashed
    Down[http://127.0.0.1:8081/~alice/search/ Open ↗]To the baseline]stock
    /stock
    the baseline stock-staging.apps.ocp.shop.test
    because what should answer does not: it ran out of memory
    Baseline instead[http://127.0.0.1:8081/~alice/stock/ Open ↗]To the baseline]users
    /users
    the baseline users-staging.apps.ocp.shop.test
    chosen
    Baseline[http://127.0.0.1:8081/~alice/users/ Open ↗]Reset]other-00
    /other-00
    the baseline other-00-staging.apps.ocp.shop.testBaseline[http://127.0.0.1:8081/~alice/other-00/ Open ↗]other-01
    /other-01
    the baseline other-01-staging.apps.ocp.shop.testBaseline[http://127.0.0.1:8081/~alice/other-01/ Open ↗]
    Send a service's requests elsewhere
    Requests ofgatewayledgerordersother-00other-01paymentssearchstockusers
    Go tothe baselinewhat another sandbox runsan address outsidewhat was deployed here
    Sandboxbob
    Address and port
    Send them there]

    Deployments
    [/ Deploy a branch here]
    [/deployments/414 #414]other-00main alice · 3 h agoQueued
    [/deployments/413 #413]paymentsfeature/refund 1a2b3c4dalice · 3 h agoBuilding
    [/deployments/412 #412]paymentsfeature/refund 1a2b3c4dalice · 3 h agoFailed in build
    The build ended with an error.

    How to reach it
    Any one of these makes a request its own. None of them is a permission.
    Address
    http://127.0.0.1:8081/~alice/Copy]
    Link to share
    http://127.0.0.1:8081/~~/rk_hyboqd4ahyboqd4ahyboqd4aha/Copy]
    Whoever opens it has this sandbox in their browser, by a cookie.
    Host
    alice.sandboxes.shop.testCopy]
    Header
    sdp-routing-key: rk_hyboqd4ahyboqd4ahyboqd4ahaCopy]
    Baggage
    sdp-routing-key=rk_hyboqd4ahyboqd4ahyboqd4ahaCopy]
    What services pass on, so that a chain of them stays in this sandbox.

    Owner
    alice
    Who may deploy
    its owner, its members and administrators
    Members
    none
    Lives
    7 days after it was renewed; a deploy renews it
    At most
    30 days, as staging saysChange it
    NotesRefunds in the currency of the payment.
    Ask before you change ledger.
    Members, with commas
    Who may deployevery developerowner and members
    Team
    Lifetime in hours
    Save]
    Saving renews it, too.

    Lockedledger in aliceby bob 20 min ago: nobody else deploys, ends in 1 h
    demo on Thursday
    Steal it
    bob is told, with your reason; the lock is a lock of yours then.
    Why
    Steal]
    Lock or freeze
    Whateverything heregatewayledgerordersother-00other-01paymentssearchstockusers
    Howonly I deploynobody deploys
    Why
    Hours
    Lock]

    VariableValueFromInstead ofDB_PASSWORDa secret, sealedsecretLOGdebugdeployenvironment, sandboxSDP_SANDBOXaliceSDP
    Each layer stands above those before it: environment, service, secret, template, sandbox, deploy, SDP.
    ");
}

#[test]
fn whoever_may_only_look_has_no_buttons_and_no_forms() {
    let page = SandboxPage {
        may_change: false,
        may_lock: false,
        principal: person("carol"),
        ..sandbox_page(view(2))
    };
    let html = page.render().0;
    for wrong in [
        "data-post",
        "data-put",
        "data-delete",
        "id=\"route-form\"",
        "id=\"lock-form\"",
        "id=\"settings-form\"",
        "data-steal",
    ] {
        assert!(!html.contains(wrong), "{wrong}");
    }
    assert!(html.contains("id=\"way-payments\"") && html.contains("data-copy=\"access-share\""));
    assert!(sandbox_page(view(2)).render().0.contains("data-steal=\"staging\""));
}

#[test]
fn what_people_wrote_is_text_in_the_picture_too() {
    let evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u{202e}";
    let mut hostile = view(0);
    hostile.sandbox.notes = Some(evil.into());
    hostile.routes.push(route("evil", RouteTarget::Down { reason: evil.into() }, None));
    hostile.routes.push(route("late", RouteTarget::Baseline { reason: Some(evil.into()) }, None));
    hostile.routes.push(answered("branch", None, "a'b&c=$(x);d", InstanceState::Live {}));
    hostile.routes.push(answered(
        "wide",
        None,
        &format!("機能/{}", "返金".repeat(30)),
        InstanceState::Live {},
    ));
    hostile.routes.push(RouteView { url: Some("javascript:alert(1)".parse().unwrap()), ..baseline("link") });
    hostile.locks.push(lock("bob", None, LockKind::Freeze, evil));
    let variable = VariableView {
        name: "LOG".into(),
        value: Some(evil.into()),
        layer: VariableLayer::Sandbox,
        over: vec![],
    };
    let page = SandboxPage {
        variables: Some((service("payments"), vec![variable])),
        ..sandbox_page(hostile.clone())
    };
    let list = Sandboxes {
        principal: person("alice"),
        now: now(),
        event: EventSeq(7),
        all: vec![listed(hostile)],
        looked: Looked { q: String::new() },
    };
    let none =
        Sandboxes { all: vec![listed(view(0))], looked: Looked { q: evil.into() }, ..list_of(Vec::new()) };
    for html in [page.render().0, list.render().0, none.render().0] {
        assert!(!html.contains("<img") && !html.contains("<script>alert"), "{html}");
        assert!(!html.contains("javascript:"), "{html}");
        assert!(
            !html.contains(" style=") && !html.contains(" onclick="),
            "the policy forbids inline style and script"
        );
    }
    // What is in a field is what was written: saved again it must be the same.
    let html = page.render().0;
    let (before, field) = html.split_once("<textarea").unwrap();
    let shown = format!("{before}{}", field.split_once("</textarea>").unwrap().1);
    assert!(!shown.contains('\u{202e}') && shown.contains("⟨U+202E⟩"));
    assert!(shown.contains("a'b&amp;c=$(x);d"));
}
