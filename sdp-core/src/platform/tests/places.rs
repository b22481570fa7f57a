//! Environments, templates, sandboxes and routes: what may be saved, who may change what, and what ends by itself.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::agent::commit;
use super::*;
use crate::api::{RenewSandbox, SaveSandbox, TemplateChoice, VariableLayer};
use crate::catalog::{Environment, TemplateSpec};
use crate::name::SandboxName;
use crate::routing::RouteTarget;
use crate::sandbox::RouteChoice;
use crate::secret::GivenTo;
use crate::wire::{SecretSource, ToAgent};

fn bob() -> Principal {
    Principal::person(name("bob"))
}

fn environment(value: serde_json::Value) -> Environment {
    serde_json::from_value(value).expect("an environment")
}

fn template(value: serde_json::Value) -> TemplateSpec {
    serde_json::from_value(value).expect("a template")
}

impl Bench {
    async fn put(&self, by: &Principal, sandbox: &str, wanted: serde_json::Value) -> Result<Sandbox, String> {
        let wanted: SaveSandbox = serde_json::from_value(wanted).expect("a sandbox");
        let put = self.platform.save_sandbox(by, &name(sandbox), wanted, Save::Put, Power::Member).await;
        put.map(|(sandbox, _)| sandbox).map_err(|error| format!("{}: {error}", error.code()))
    }

    async fn asked(&self, by: &Principal, service: &str, sandbox: &str) -> Result<Deployment, String> {
        let deploy = Deploy::new(name(service)).git_ref(name("main")).to(name(sandbox));
        self.platform.deploy(by, deploy).await.map_err(|error| format!("{}: {error}", error.code()))
    }

    async fn route(
        &self,
        sandbox: &str,
        service: &str,
        choice: Option<RouteChoice>,
    ) -> Result<Sandbox, String> {
        let (sandbox, service) = (name(sandbox), name(service));
        let chosen = self.platform.choose_route(&alice(), &sandbox, &service, choice, Power::Member).await;
        chosen.map_err(|error| format!("{}: {error}", error.code()))
    }

    async fn target(&self, sandbox: &str, service: &str) -> RouteTarget {
        let view = self.platform.sandbox_view(&name(sandbox)).await.expect("a sandbox");
        view.routes.into_iter().find(|route| route.service == name(service)).expect("a route").target
    }
}

#[tokio::test]
async fn environments_with_the_same_requests_are_refused_and_both_are_named() {
    let bench = Bench::start().await;
    let save = async |value| {
        let saved = bench.platform.save_environment(&alice(), environment(value), Save::Put).await;
        saved.map_err(|error| format!("{}: {error}", error.code()))
    };
    let rule = |prefix: &str| json!({ "rule": { "type": "path", "prefix": prefix } });
    let host = |host: &str| json!({ "rule": { "type": "host", "host": host } });
    let staging = json!({ "name": "staging", "domain": "staging.test",
        "services": { "hello": rule("/h"), "ledger": host("ledger.test") } });
    assert_eq!(save(staging.clone()).await, Ok(true));
    assert_eq!(save(staging).await, Ok(false));
    let table = [
        (
            json!({ "name": "two", "services": { "hello": rule("/x"), "ledger": rule("/x") } }),
            "route_conflict: paths below /x in two of ledger is already that of hello",
        ),
        (
            json!({ "name": "two", "services": { "hello": host("ledger.test") } }),
            "route_conflict: the host ledger.test of hello of two is already that of ledger of staging",
        ),
        (
            json!({ "name": "two", "domain": "staging.test" }),
            "route_conflict: the host staging.test of two is already that of staging",
        ),
        (
            json!({ "name": "two", "domain": "x.test", "services": { "hello": host("x.test") } }),
            "route_conflict: the host x.test of two is already that of one of its services",
        ),
        (
            json!({ "name": "two", "services": { "nosuch": {} } }),
            "unknown_service: there is no service named nosuch",
        ),
        (
            json!({ "name": "two", "max_lifetime_hours": 1 }),
            "invalid_service: default_lifetime_hours: at most max_lifetime_hours",
        ),
        (
            json!({ "name": "two", "services": { "hello": { "baseline": "ftp://x" } } }),
            "invalid_service: baseline: an http or https URL without user or password",
        ),
    ];
    for (value, expected) in table {
        assert_eq!(save(value).await, Err(expected.to_owned()));
    }
    let delete = async |text| {
        let deleted = bench.platform.delete_environment(&alice(), &name(text)).await;
        deleted.map_err(|error| format!("{}: {error}", error.code()))
    };
    bench.put(&alice(), "qa", json!({ "environment": "staging" })).await.expect("made");
    assert_eq!(delete("staging").await, Err("environment_in_use: staging still has the sandbox qa".into()));
    assert!(delete("default").await.is_err());
    bench.platform.delete_sandbox(&alice(), &name("qa"), Power::Member).await.expect("deleted");
    assert_eq!(delete("staging").await, Ok(()));
}

#[tokio::test]
async fn somebodys_own_sandbox_takes_deploys_of_its_people_and_a_shared_one_everybodys() {
    let bench = Bench::start().await;
    bench.asked(&alice(), "hello", "alice").await.expect("taken");
    let own = bench.platform.sandbox(&name("alice")).await.expect("made");
    assert!(!own.shared && own.expires_at.is_some() && own.environment == name("default"));
    let refused = "not_a_member: alice is alice's sandbox";
    assert_eq!(bench.asked(&bob(), "hello", "alice").await.err().as_deref(), Some(refused));
    assert_eq!(bench.put(&bob(), "alice", json!({})).await.err().as_deref(), Some(refused));
    let deleted = bench.platform.delete_sandbox(&bob(), &name("alice"), Power::Member).await;
    assert_eq!(deleted.expect_err("not his").code(), "not_a_member");

    bench.put(&alice(), "alice", json!({ "members": ["bob"], "team": "checkout" })).await.expect("changed");
    bench.asked(&bob(), "hello", "alice").await.expect("a member");
    let carol = Principal::person(name("carol"));
    let refused = "not_a_member: alice is alice (checkout)'s sandbox";
    assert_eq!(bench.asked(&carol, "hello", "alice").await.err().as_deref(), Some(refused));

    // One with another name than the asker's is everybody's, until somebody says otherwise.
    bench.asked(&alice(), "hello", "qa").await.expect("taken");
    bench.asked(&bob(), "hello", "qa").await.expect("shared");
    bench.put(&alice(), "qa", json!({ "shared": false })).await.expect("changed");
    assert!(bench.asked(&bob(), "ledger", "qa").await.is_err());
    // A token of hers, and an administrator.
    let token = Principal::Token { name: name("hers") };
    for power in [Power::OfPerson(name("alice")), Power::Administrator] {
        let deploy = Deploy { power, ..Deploy::new(name("hello")).to(name("qa")) };
        bench.platform.deploy(&token, deploy).await.expect("taken");
    }
}

#[tokio::test]
async fn who_may_deploy_in_an_environment_is_what_it_says() {
    let bench = Bench::start().await;
    let closed =
        json!({ "name": "closed", "services": { "hello": {} }, "deployers": { "people": ["alice"] } });
    bench.platform.save_environment(&alice(), environment(closed), Save::Put).await.expect("saved");
    let refused = "not_a_deployer: you may not deploy in the environment closed";
    assert_eq!(
        bench.put(&bob(), "b", json!({ "environment": "closed" })).await.err().as_deref(),
        Some(refused)
    );
    bench.put(&alice(), "a", json!({ "environment": "closed", "shared": true })).await.expect("made");
    assert_eq!(bench.asked(&bob(), "hello", "a").await.err().as_deref(), Some(refused));
    bench.asked(&alice(), "hello", "a").await.expect("taken");
    let refused = "service_not_in_environment: ledger is no service of the environment closed";
    assert_eq!(bench.asked(&alice(), "ledger", "a").await.err().as_deref(), Some(refused));
}

#[tokio::test]
async fn a_template_has_versions_and_a_sandbox_keeps_the_one_it_was_made_from() {
    let mut bench = Bench::start().await;
    let shop: crate::name::TemplateName = name("shop");
    let spec = |value: &str| {
        template(json!({ "services": { "hello": { "git_ref": "v1", "env": { "LEVEL": value } } },
            "env": { "LEVEL": "template", "SHOP": "yes" }, "lifetime_hours": 5 }))
    };
    let save = async |value| bench.platform.save_template(&alice(), &shop, spec(value)).await.expect("saved");
    assert_eq!((save("one").await.version, save("one").await.version, save("two").await.version), (1, 1, 2));
    let old = TemplateChoice { name: shop.clone(), version: Some(1) };
    let made = bench.put(&alice(), "old", json!({ "template": old })).await.expect("made");
    assert_eq!((made.lifetime_hours, made.template.map(|t| t.version)), (5, Some(1)));
    let unknown = bench.put(&alice(), "x", json!({ "template": { "name": "shop", "version": 9 } })).await;
    assert_eq!(
        unknown.err().as_deref(),
        Some("unknown_template: there is no template named shop with a version 9")
    );

    bench.restart().await;
    let mut agent = bench.agent("vm-1").await;
    bench.asked(&alice(), "hello", "old").await.expect("taken");
    let job = agent.take_job().await;
    let env: Vec<_> = job.spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(env, ["LEVEL=one", "SHOP=yes"]);
    let versions = bench.platform.template_versions(&shop).await.expect("read");
    assert_eq!(versions.iter().map(|t| t.version).collect::<Vec<_>>(), [2, 1]);
}

#[tokio::test]
async fn each_variable_comes_from_the_strongest_layer_that_has_it() {
    let bench = Bench::start().await;
    let mut own = service("hello");
    own.env = BTreeMap::from([(name("B"), "service".into()), (name("C"), "service".into())]);
    bench.platform.save_service(&alice(), own, Save::Put).await.expect("saved");
    let source = SecretSource::File { file: name("stripe-key") };
    let (hello, variable) = (name("hello"), name("S"));
    bench.platform.set_secret(&alice(), &hello, variable, source, GivenTo::Run).await.expect("set");
    let default = json!({ "name": "default", "every_service": true,
        "env": { "A": "environment", "B": "environment", "S": "environment" } });
    bench.platform.save_environment(&alice(), environment(default), Save::Put).await.expect("saved");
    bench.put(&alice(), "qa", json!({ "env": { "C": "sandbox", "D": "sandbox" } })).await.expect("made");
    let mut agent = bench.agent("vm-1").await;
    let mut deploy = Deploy::new(name("hello")).git_ref(name("main")).to(name("qa"));
    deploy.env = BTreeMap::from([(name("D"), "deploy".into())]);
    let deployment = bench.platform.deploy(&alice(), deploy).await.expect("taken");
    let job = agent.deploy(commit('1'), 9001).await;
    bench.ended(&deployment).await;
    let env: Vec<_> = job.spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(env, ["A=environment", "B=service", "C=sandbox", "D=deploy"], "the secret goes another way");

    let shown = bench.platform.variables(&name("qa"), &name("hello")).await.expect("shown");
    let own = shown.iter().filter(|variable| variable.layer != VariableLayer::Sdp);
    let lines: Vec<_> = own
        .map(|v| {
            format!("{} {:?} {:?} over {:?}", v.name, v.value.as_deref().unwrap_or("-"), v.layer, v.over)
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    A "environment" Environment over []
    B "service" Service over [Environment]
    C "sandbox" Sandbox over [Service]
    D "deploy" Deploy over [Sandbox]
    S "-" Secret over [Environment]
    "#);
    let sdp: Vec<_> =
        shown.iter().filter(|v| v.layer == VariableLayer::Sdp).map(|v| v.name.as_str()).collect();
    assert_eq!(
        sdp,
        ["SDP_ENVIRONMENT", "SDP_ROUTE_HELLO", "SDP_ROUTE_LEDGER", "SDP_ROUTING_KEY", "SDP_SANDBOX"]
    );
    assert_eq!(
        job.spec.place.expect("a place").routes[&name::<crate::name::ServiceName>("ledger")].path(),
        "/~qa/~ledger"
    );
}

#[tokio::test]
async fn a_route_leads_where_somebody_says_until_something_is_deployed() {
    let bench = Bench::start().await;
    let default = json!({ "name": "default", "every_service": true, "external_networks": ["10.20.0.0/16"] });
    bench.platform.save_environment(&alice(), environment(default), Save::Put).await.expect("saved");
    let mut agent = bench.agent("vm-1").await;
    let lent = bench.asked(&alice(), "hello", "lender").await.expect("taken");
    let job = agent.deploy(commit('1'), 9001).await;
    bench.ended(&lent).await;
    bench.put(&alice(), "alice", json!({})).await.expect("made");

    let borrow = |from: &str| Some(RouteChoice::Borrowed { sandbox: name(from) });
    let external = |address: &str| Some(RouteChoice::External { address: address.parse().expect("valid") });
    let refused = [
        ("hello", borrow("alice"), "hello cannot be sent to alice: it is the sandbox itself"),
        ("ledger", borrow("lender"), "ledger cannot be sent to lender: ledger does not run there"),
        (
            "hello",
            external("10.21.0.1:80"),
            "hello cannot be sent to 10.21.0.1:80: 10.21.0.1 is in none of the networks of default: 10.20.0.0/16",
        ),
        (
            "hello",
            external("127.0.0.1:80"),
            "hello cannot be sent to 127.0.0.1:80: 127.0.0.1 is an address of the machine itself, of many, or of a cloud's metadata",
        ),
        (
            "hello",
            external("169.254.169.254:80"),
            "hello cannot be sent to 169.254.169.254:80: 169.254.169.254 is an address of the machine itself, of many, or of a cloud's metadata",
        ),
        (
            "hello",
            external("[::ffff:127.0.0.1]:80"),
            "hello cannot be sent to [::ffff:127.0.0.1]:80: 127.0.0.1 is an address of the machine itself, of many, or of a cloud's metadata",
        ),
        ("hello", external("10.20.0.1:22"), "hello cannot be sent to 10.20.0.1:22: port 22 is no service's"),
        ("hello", external("10.20.0.1:0"), "hello cannot be sent to 10.20.0.1:0: port 0 is no service's"),
    ];
    for (service, choice, why) in refused {
        assert_eq!(bench.route("alice", service, choice).await.err(), Some(format!("target_refused: {why}")));
    }
    bench.put(&alice(), "shared", json!({ "shared": true })).await.expect("made");
    let shared = bench.route("shared", "hello", external("10.20.0.1:8080")).await;
    assert!(shared.expect_err("refused").contains("only in a sandbox of one's own"));

    bench.route("alice", "hello", external("10.20.0.1:8080")).await.expect("chosen");
    assert!(matches!(bench.target("alice", "hello").await, RouteTarget::External { .. }));
    // Nor does it become everybody's afterwards.
    assert!(bench.put(&alice(), "alice", json!({ "shared": true })).await.is_err());
    bench.route("alice", "hello", borrow("lender")).await.expect("chosen");
    let borrowed = bench.target("alice", "hello").await;
    assert!(
        matches!(&borrowed, RouteTarget::Instance { instance, of: Some(of), .. }
            if *instance == job.spec.instance && *of == name::<SandboxName>("lender")),
        "{borrowed:?}"
    );

    let own = bench.asked(&alice(), "hello", "alice").await.expect("taken");
    let job = agent.deploy(commit('2'), 9002).await;
    bench.ended(&own).await;
    let deployed = bench.target("alice", "hello").await;
    assert!(
        matches!(deployed, RouteTarget::Instance { instance, of: None, .. } if instance == job.spec.instance)
    );
    bench.route("alice", "hello", Some(RouteChoice::Baseline {})).await.expect("chosen");
    assert_eq!(bench.target("alice", "hello").await, RouteTarget::Baseline { reason: None });
    bench.route("alice", "hello", None).await.expect("reset");
    assert!(matches!(bench.target("alice", "hello").await, RouteTarget::Instance { of: None, .. }));
}

#[tokio::test]
async fn a_copy_of_a_sandbox_borrows_what_runs_there() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    bench.put(&alice(), "first", json!({ "env": { "A": "1" }, "notes": "for QA" })).await.expect("made");
    let deployment = bench.asked(&alice(), "hello", "first").await.expect("taken");
    agent.deploy(commit('1'), 9001).await;
    bench.ended(&deployment).await;
    let copy = bench.put(&bob(), "second", json!({ "from": "first" })).await.expect("made");
    let first = bench.platform.sandbox(&name("first")).await.expect("there");
    assert_ne!(copy.key, first.key);
    assert_eq!((copy.env, copy.notes.as_deref()), (first.env, Some("for QA")));
    assert!(matches!(bench.target("second", "hello").await, RouteTarget::Instance { of: Some(_), .. }));
    bench.platform.delete_sandbox(&alice(), &name("first"), Power::Member).await.expect("deleted");
    let gone = bench.target("second", "hello").await;
    assert_eq!(gone, RouteTarget::Down { reason: "first, which lends it, does not run it".into() });
}

#[tokio::test]
async fn a_sandbox_ends_by_itself_after_its_people_were_told_once() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    let deployment = bench.asked(&alice(), "hello", "qa").await.expect("taken");
    let job = agent.deploy(commit('1'), 9001).await;
    bench.ended(&deployment).await;
    let soon = |seconds| Timestamp::now().checked_add(SignedDuration::from_secs(seconds)).expect("a time");
    bench.put(&alice(), "qa", json!({ "expires_at": soon(3) })).await.expect("changed");
    let lifetimes = agent.hear(|message| matches!(message, ToAgent::Lifetimes { .. })).await;
    assert!(
        matches!(lifetimes, ToAgent::Lifetimes { instances } if instances.contains_key(&job.spec.instance))
    );
    let told = bench.event(|event| matches!(event.kind, EventKind::SandboxExpiring { .. })).await;
    assert!(matches!(told.kind, EventKind::SandboxExpiring { hours: 1, branch_gone: None, .. }), "{told:?}");
    bench.event(|event| matches!(event.kind, EventKind::SandboxExpired { .. })).await;
    agent.stop(job.spec.instance).await;
    let stopped = bench.event(|event| matches!(event.kind, EventKind::InstanceStopped { .. })).await;
    assert!(format!("{stopped:?}").contains("SandboxExpired"), "{stopped:?}");
    let mut feed = bench.platform.feed(EventSeq(0), EventFilter::default());
    let mut warnings = 0;
    while let Ok(Some(event)) = feed.try_next().await {
        warnings += usize::from(matches!(event.kind, EventKind::SandboxExpiring { .. }));
    }
    assert_eq!(warnings, 1);
}

#[tokio::test]
async fn what_is_pinned_or_renewed_stays_and_no_life_is_longer_than_the_environment_says() {
    let bench = Bench::start().await;
    bench.put(&alice(), "qa", json!({ "lifetime_hours": 2 })).await.expect("made");
    let renew = async |renew| {
        let renewed = bench.platform.renew_sandbox(&alice(), &name("qa"), renew, Power::Member).await;
        renewed.map_err(|error| error.code())
    };
    let before = bench.platform.sandbox(&name("qa")).await.expect("there").expires_at.expect("an end");
    let later = renew(RenewSandbox { hours: Some(50), pinned: None }).await.expect("renewed");
    assert!(later.expires_at.expect("an end") > before);
    assert_eq!(later.lifetime_hours, 2, "this once");
    assert_eq!(renew(RenewSandbox { hours: Some(721), pinned: None }).await, Err("lifetime_too_long"));
    let pinned = renew(RenewSandbox { hours: None, pinned: Some(true) }).await.expect("pinned");
    assert_eq!(pinned.expires_at, None);
    bench.asked(&alice(), "hello", "qa").await.expect("taken");
    assert_eq!(bench.platform.sandbox(&name("qa")).await.expect("there").expires_at, None);
    let unpinned = renew(RenewSandbox { hours: None, pinned: Some(false) }).await.expect("unpinned");
    assert!(unpinned.expires_at.is_some());
}

#[tokio::test]
async fn a_sandbox_whose_branches_are_gone_ends_soon_but_not_at_once() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    let deploy = Deploy::new(name("hello")).git_ref(name("feature/x")).to(name("qa"));
    let deployment = bench.platform.deploy(&alice(), deploy).await.expect("taken");
    agent.deploy(commit('1'), 9001).await;
    bench.ended(&deployment).await;
    let before = bench.platform.sandbox(&name("qa")).await.expect("there").expires_at.expect("an end");
    let seen = async |names: &[&str]| {
        let names = names.iter().map(|text| name(text)).collect();
        let command = Command::BranchesSeen { repo: name("/srv/hello.git"), names };
        bench.platform.command(&Principal::System, command).await.expect("told");
        bench.platform.sandbox(&name("qa")).await.expect("there").expires_at.expect("an end")
    };
    assert_eq!(seen(&["main", "feature/x"]).await, before);
    let after = seen(&["main"]).await;
    assert!(after < before && after > Timestamp::now(), "{after}");
    let told = bench.event(|event| matches!(event.kind, EventKind::SandboxExpiring { .. })).await;
    assert!(matches!(told.kind, EventKind::SandboxExpiring { branch_gone: Some(_), .. }), "{told:?}");
    assert_eq!(seen(&["main"]).await, after, "told once");
}

#[tokio::test]
async fn over_the_quota_the_owners_least_used_sandboxes_are_named() {
    let bench = Bench::start().await;
    let default = json!({ "name": "default", "every_service": true, "quota": { "instances": 2 } });
    bench.platform.save_environment(&alice(), environment(default), Save::Put).await.expect("saved");
    bench.asked(&alice(), "hello", "one").await.expect("taken");
    bench.asked(&alice(), "hello", "two").await.expect("taken");
    let refused = bench.platform.deploy(&alice(), Deploy::new(name("hello")).to(name("three"))).await;
    let Err(PlatformError::QuotaExceeded { sandboxes, has, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!((sandboxes, has.as_str()), (vec![name("one"), name("two")], "2 instances"));
    bench.asked(&alice(), "hello", "two").await.expect("no more than before");
    bench.asked(&bob(), "hello", "his").await.expect("another owner");
}

#[tokio::test]
async fn the_branches_that_sandboxes_run_are_looked_for_by_itself() {
    let bench = Bench::with(|config| config.look_for_branches = Duration::from_millis(50)).await;
    let mut agent = bench.agent("vm-1").await;
    let deploy = Deploy::new(name("hello")).git_ref(name("feature/x")).to(name("qa"));
    let deployment = bench.platform.deploy(&alice(), deploy).await.expect("taken");
    agent.deploy(commit('1'), 9001).await;
    bench.ended(&deployment).await;
    let asked = agent.hear(|message| matches!(message, ToAgent::ListRefs { .. })).await;
    let ToAgent::ListRefs { command, credential: None, .. } = asked else { panic!("{asked:?}") };
    let answer = crate::wire::Answer::Refs { head: None, branches: Vec::new(), tags: Vec::new() };
    agent.say(crate::wire::FromAgent::Answer { command, answer }).await;
    let told = bench.event(|event| matches!(event.kind, EventKind::SandboxExpiring { .. })).await;
    assert!(matches!(told.kind, EventKind::SandboxExpiring { branch_gone: Some(_), .. }), "{told:?}");
}

#[tokio::test]
async fn the_routers_hear_that_an_environment_has_another_router() {
    let bench = Bench::start().await;
    let (mut one, mut two) = (bench.agent("vm-1").await, bench.agent("vm-2").await);
    let staging = |router: &str| {
        let services = json!({ "hello": { "rule": { "type": "path", "prefix": "/h" } } });
        environment(json!({ "name": "staging", "router": router, "services": services }))
    };
    let has = |message: &ToAgent, wanted: bool| {
        matches!(message, ToAgent::Routes { table }
            if table.environments.iter().any(|routes| routes.name == name("staging")) == wanted)
    };
    bench.platform.save_environment(&alice(), staging("vm-1"), Save::Put).await.expect("saved");
    one.hear(|message| has(message, true)).await;
    let before = two.table.version;
    bench.platform.save_environment(&alice(), staging("vm-2"), Save::Put).await.expect("saved");
    two.hear(|message| has(message, true)).await;
    assert!(two.table.version > before);
    let held = one.table.version;
    one.hear(|message| matches!(message, ToAgent::Routes { table } if table.version > held)).await;
    assert!(one.table.environments.iter().all(|routes| routes.name != name("staging")));
}

#[tokio::test]
async fn each_table_is_newer_than_all_that_were_sent_though_the_routers_had_newer_ones_before() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    agent.table.version = crate::id::RouteVersion(50_000);
    agent.reconnect(&bench.platform).await;
    let mut newest = agent.table.version;
    for sandbox in ["one", "two", "three"] {
        bench.put(&alice(), sandbox, json!({})).await.expect("made");
        let has = |message: &ToAgent| {
            matches!(message, ToAgent::Routes { table }
                if table.environments.iter().any(|e| e.sandboxes.iter().any(|s| s.name == name(sandbox))))
        };
        agent.hear(has).await;
        assert!(agent.table.version > newest, "{sandbox}: {:?} after {newest:?}", agent.table.version);
        newest = agent.table.version;
    }
}

#[tokio::test]
async fn an_external_target_ends_with_the_network_that_allowed_it() {
    let bench = Bench::start().await;
    let default = |networks: &[&str]| {
        environment(json!({ "name": "default", "every_service": true, "external_networks": networks }))
    };
    bench.platform.save_environment(&alice(), default(&["10.20.0.0/16"]), Save::Put).await.expect("saved");
    bench.put(&alice(), "alice", json!({})).await.expect("made");
    let laptop = RouteChoice::External { address: "10.20.0.1:8080".parse().expect("valid") };
    bench.route("alice", "hello", Some(laptop)).await.expect("chosen");
    assert!(matches!(bench.target("alice", "hello").await, RouteTarget::External { .. }));
    bench.platform.save_environment(&alice(), default(&["10.21.0.0/16"]), Save::Put).await.expect("saved");
    let target = bench.target("alice", "hello").await;
    assert!(matches!(&target, RouteTarget::Down { reason } if reason.contains("10.21.0.0/16")), "{target:?}");
}

#[tokio::test]
async fn an_instance_has_the_end_that_its_sandbox_was_given_while_it_was_built() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    bench.asked(&alice(), "hello", "qa").await.expect("taken");
    let mut job = agent.take_job().await;
    assert!(job.spec.place.as_ref().expect("a place").expires_at.is_some());
    let pin = RenewSandbox { hours: None, pinned: Some(true) };
    bench.platform.renew_sandbox(&alice(), &name("qa"), pin, Power::Member).await.expect("pinned");
    agent.bring_up(&mut job, commit('1'), 9001).await;
    let told = agent.hear(|message| matches!(message, ToAgent::Lifetimes { .. })).await;
    assert_eq!(told, ToAgent::Lifetimes { instances: [(job.spec.instance, None)].into() });
}

#[tokio::test]
async fn who_renews_a_sandbox_whose_branches_are_gone_keeps_it() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    let deployment = bench.asked(&alice(), "hello", "qa").await.expect("taken");
    agent.deploy(commit('1'), 9001).await;
    bench.ended(&deployment).await;
    let gone = async || {
        let names = std::collections::BTreeSet::new();
        let command = Command::BranchesSeen { repo: name("/srv/hello.git"), names };
        bench.platform.command(&Principal::System, command).await.expect("told");
        bench.platform.sandbox(&name("qa")).await.expect("there").expires_at.expect("an end")
    };
    let soon = gone().await;
    let renew = RenewSandbox { hours: Some(100), pinned: None };
    let kept = bench.platform.renew_sandbox(&alice(), &name("qa"), renew, Power::Member).await;
    let kept = kept.expect("renewed").expires_at.expect("an end");
    assert!(kept > soon);
    assert_eq!(gone().await, kept);
    // What is deployed anew and goes away again is another matter.
    bench.asked(&alice(), "hello", "qa").await.expect("taken");
    assert!(gone().await < kept);
}

#[tokio::test]
async fn nobody_makes_a_life_shorter_or_too_long_by_saying_nothing_of_it() {
    let bench = Bench::start().await;
    bench.put(&alice(), "qa", json!({ "lifetime_hours": 500 })).await.expect("made");
    let end = async || bench.platform.sandbox(&name("qa")).await.expect("there").expires_at.expect("an end");
    let renew = RenewSandbox { hours: Some(700), pinned: None };
    bench.platform.renew_sandbox(&alice(), &name("qa"), renew, Power::Member).await.expect("renewed");
    let long = end().await;
    bench.put(&alice(), "qa", json!({ "notes": "x" })).await.expect("changed");
    assert_eq!(end().await, long);
    bench.put(&alice(), "qa", json!({ "lifetime_hours": 500 })).await.expect("changed");
    assert!(end().await < long);
    // The environment may have become stricter.
    let strict = json!({ "name": "default", "every_service": true,
        "default_lifetime_hours": 10, "max_lifetime_hours": 10 });
    bench.platform.save_environment(&alice(), environment(strict), Save::Put).await.expect("saved");
    let renew = RenewSandbox { hours: None, pinned: None };
    bench.platform.renew_sandbox(&alice(), &name("qa"), renew, Power::Member).await.expect("renewed");
    let most = Timestamp::now().checked_add(SignedDuration::from_hours(11)).expect("a time");
    assert!(end().await <= most);
    bench.asked(&alice(), "hello", "qa").await.expect("taken");
    assert!(end().await <= most);
}

#[tokio::test]
async fn who_else_may_change_a_shared_sandbox_is_for_its_owner_to_say() {
    let bench = Bench::start().await;
    bench.put(&alice(), "qa", json!({})).await.expect("made");
    bench.put(&bob(), "qa", json!({ "notes": "for QA", "shared": true })).await.expect("everybody's");
    let refused = "not_a_member: qa is alice's sandbox";
    for wanted in [json!({ "shared": false, "members": ["bob"] }), json!({ "team": "bobs" })] {
        assert_eq!(bench.put(&bob(), "qa", wanted).await.err().as_deref(), Some(refused));
    }
    bench.put(&alice(), "qa", json!({ "shared": false })).await.expect("hers");
}
