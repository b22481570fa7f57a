//! What the list of sandboxes and the pages of environments and templates say.

use sdp_core::api::SandboxView;
use sdp_core::catalog::{Environment, Template};
use sdp_core::name::TemplateName;

use super::super::places::{Environments, Templates};
use super::super::sandboxes::{Listed, Looked, Sandboxes};
use super::sandboxes::{environment, now, page_parts, sandbox, service, view};
use super::*;

pub(super) fn listed(view: SandboxView) -> Listed {
    Listed { sandbox: view.sandbox, instances: view.instances, locks: view.locks }
}

pub(super) fn list_of(all: Vec<Listed>) -> Sandboxes {
    Sandboxes { principal: person("alice"), now: now(), event: EventSeq(7), all, looked: Looked::default() }
}

fn all_sandboxes() -> Vec<Listed> {
    let bare = |mut sandbox: Sandbox| {
        sandbox.template = None;
        Listed { sandbox, instances: vec![], locks: vec![] }
    };
    let mut qa = sandbox("qa-42", "bob");
    (qa.team, qa.shared, qa.pinned, qa.expires_at) = (Some("checkout".parse().unwrap()), true, true, None);
    let mut soon = sandbox("demo", "bob");
    soon.members = [PersonName::parse("alice").unwrap()].into();
    soon.expires_at = Some(now() + SignedDuration::from_mins(30));
    vec![listed(view(0)), bare(sandbox("carol", "carol")), bare(soon), bare(qa)]
}

#[test]
fn the_list_has_ones_own_first_and_is_filtered_by_words() {
    insta::assert_snapshot!(read(&list_of(all_sandboxes()).render(), "sandboxes"), @r"
    Yours
    [/sandboxes/alice alice]Locked: ledger by bobEnds in 2 days
    yours · in staging · from shop version 3
    [/instances/ID gateway]@1a2b3c4d Unhealthy
    [/instances/ID payments]@1a2b3c4d Live
    [/sandboxes/demo demo]Ends in 30 min
    of bob, you are a member · in staging
    Nothing runs in it.
    All others
    [/sandboxes/carol carol]Ends in 2 days
    of carol · in staging
    Nothing runs in it.
    [/sandboxes/qa-42 qa-42]Pinned
    of the team checkout, made by bob · shared · in staging
    Nothing runs in it.
    ");
    let found = |q: &str| {
        let list = Sandboxes { looked: Looked { q: q.into() }, ..list_of(all_sandboxes()) };
        let html = list.render().0;
        let names = html.split("id=\"sandbox-").skip(1).map(|row| row.split('"').next().unwrap().to_owned());
        names.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(found("bob"), "demo qa-42");
    assert_eq!(found("CHECKOUT bob"), "qa-42");
    assert_eq!(found("feature/ref"), "alice");
    assert_eq!(found("nothing-like-that"), "");
}

#[test]
fn environments_and_templates_can_be_read() {
    let catalog = ["payments", "gateway", "search"].map(|name| {
        let entry = serde_json::json!({
            "name": name, "repo": "https://git.example/acme/x", "builder": { "type": "command", "run": ["./x"] },
            "baseline": format!("https://{name}.apps.ocp.shop.test")
        });
        (service(name), serde_json::from_value(entry).unwrap())
    });
    let environments = Environments {
        principal: person("alice"),
        now: now(),
        event: EventSeq(7),
        environments: vec![Environment::default_one(), environment()],
        services: catalog.into(),
    };
    let page = environments.render();
    insta::assert_snapshot!(page_parts(&page, &["environment-default", "environment-staging"]), @r"
    default
    [/sandboxes Its sandboxes]
    Domain
    none: sandboxes are reached by path, header, baggage or cookie
    Router
    every agent that has one
    Lifetime
    7 days, at most 30 days
    When down
    an answer 503 that names the service
    Who may deploy
    every developer
    Quota
    none
    ServiceRequestsBaselinegateway/gatewayhttps://gateway.apps.ocp.shop.test/payments/paymentshttps://payments.apps.ocp.shop.test/search/searchhttps://search.apps.ocp.shop.test/
    Every service of the catalog is part of it.

    staging
    [/sandboxes Its sandboxes]
    The shared test system.
    Domain
    &lt;sandbox&gt;.sandboxes.shop.test
    Router
    that of vm-1
    Lifetime
    7 days, at most 30 days
    When down
    the baseline answers, and says so
    Who may deploy
    alice, bob, the token ci
    Quota
    20 instances and 8,192 MiB of each owner
    Addresses outside
    10.20.0.0/16
    Variables
    REGION=eu
    ServiceRequestsBaselinegatewayhost api.shop.testhttps://gateway.apps.ocp.shop.test/payments/payments kepthttps://payments-staging.apps.ocp.shop.test/
    ");

    let spec = serde_json::json!({
        "description": "The whole shop.", "environment": "staging", "lifetime_hours": 48, "env": { "LOG": "debug" },
        "services": { "payments": { "git_ref": "main", "env": { "A": "1" } }, "gateway": {} },
        "routes": { "search": { "type": "borrowed", "sandbox": "qa-42" }, "users": { "type": "external", "address": "10.20.3.4:80" } },
    });
    let template = |version| Template {
        name: TemplateName::parse("shop").unwrap(),
        version,
        spec: serde_json::from_value(spec.clone()).unwrap(),
        created_at: begin(),
        created_by: person("bob"),
    };
    let list = |of, templates| Templates {
        principal: person("alice"),
        now: now(),
        event: EventSeq(7),
        of,
        templates,
    };
    insta::assert_snapshot!(read(&list(None, vec![template(3)]).render(), "template-shop"), @r"
    shop version 3
    by bob 3 h ago[/templates/shop All versions]
    The whole shop.
    Environment
    [/environments#environment-staging staging]
    Lifetime
    2 days
    Variables
    LOG=debug
    ServiceIsVariables of its owngatewaydeployed: its default branchpaymentsdeployed: main
    A=1
    searchborrowed from [/sandboxes/qa-42 qa-42]userssent to 10.20.3.4:80
    ");
    let versions = list(Some(TemplateName::parse("shop").unwrap()), vec![template(3), template(2)]).render();
    assert!(versions.0.contains("id=\"version-3\"") && versions.0.contains("id=\"version-2\""));
}
