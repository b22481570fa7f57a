//! Environments, templates and sandboxes over REST: made, read, changed, deleted, and whose they are.

use reqwest::Method;
use sdp_core::api::{
    CreateSandbox, Environment, RenewSandbox, RouteChoice, SandboxView, SaveSandbox, TemplateSpec,
};
use sdp_core::client::{Client, ClientError};
use sdp_core::secret::Secret;
use serde_json::{Value, json};

use crate::harness::{Host, ok, refused};

impl Host {
    /// The typed client of an administrator.
    pub(crate) fn client(&self) -> Client {
        Client::new(self.url.parse().expect("a url"), Secret::new(self.admin.as_str())).expect("a client")
    }

    /// Saves the environment `staging` of payments and ledger.
    pub(crate) async fn staging(&self) -> Environment {
        let staging = serde_json::from_value(staging()).expect("an environment");
        self.client().save_environment(&staging).await.expect("saved")
    }
}

fn staging() -> Value {
    json!({
        "name": "staging", "domain": "sandboxes.shop.test",
        "services": {
            "payments": { "rule": { "type": "path", "prefix": "/pay" }, "baseline": "https://pay.ocp.test" },
            "ledger": { "rule": { "type": "host", "host": "ledger.shop.test" } }
        },
        "external_networks": ["10.20.0.0/16"], "max_lifetime_hours": 400,
        "env": { "STAGE": "staging" }
    })
}

fn code<T: std::fmt::Debug>(result: Result<T, ClientError>) -> String {
    match result.expect_err("refused") {
        ClientError::Problem(problem) => format!("{} {}", problem.status, problem.code),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn an_environment_is_made_changed_and_deleted() {
    let host = Host::start().await;
    host.shop().await;
    let client = host.client();
    let answer = host.post("/api/v1/environments", &staging()).send().await.expect("answered");
    assert_eq!(answer.headers()["location"], "/api/v1/environments/staging");
    let made: Environment = ok(answer, 201).await;
    refused(host.post("/api/v1/environments", &staging()), 409, "environment_exists").await;
    let name = made.name.clone();
    assert_eq!(client.environment(&name).await.expect("there"), made);
    let listed: Vec<_> =
        client.environments().await.expect("listed").into_iter().map(|e| e.name.to_string()).collect();
    assert_eq!(listed, ["default", "staging"]);

    let changed = Environment { default_lifetime_hours: 24, ..made };
    assert_eq!(client.save_environment(&changed).await.expect("saved"), changed);
    assert_eq!(client.environment(&name).await.expect("there"), changed);
    let mut other = staging();
    other["name"] = json!("other");
    refused(host.put("/api/v1/environments/staging", &other), 422, "invalid_body").await;
    other["domain"] = json!("x.test");
    other["services"] = json!({ "gateway": {} });
    let put = host.put("/api/v1/environments/other", &other).send().await.expect("answered");
    assert_eq!(put.status(), 201, "PUT makes one, too");

    let qa = "qa".parse().expect("a name");
    let wanted = SaveSandbox { environment: Some(name.clone()), ..SaveSandbox::default() };
    client.save_sandbox(&qa, &wanted).await.expect("made");
    let in_use = host.with(&host.admin, Method::DELETE, "/api/v1/environments/staging");
    let in_use = refused(in_use, 409, "environment_in_use").await;
    assert!(in_use.title.contains("the sandbox qa"), "{in_use:?}");
    client.delete_sandbox(&qa).await.expect("deleted");
    client.delete_environment(&name).await.expect("deleted");
    assert_eq!(code(client.environment(&name).await), "404 unknown_environment");
    assert_eq!(code(client.delete_environment(&name).await), "404 unknown_environment");
    assert_eq!(
        code(client.delete_environment(&"default".parse().expect("a name")).await),
        "409 environment_in_use"
    );
    host.stop().await;
}

#[tokio::test]
async fn a_template_has_a_version_for_each_change() {
    let host = Host::start().await;
    host.shop().await;
    let client = host.client();
    let name = "shop".parse().expect("a name");
    let spec = |level: &str| -> TemplateSpec {
        let spec = json!({ "services": { "payments": { "git_ref": "v1" } }, "env": { "LEVEL": level },
            "routes": { "ledger": { "type": "baseline" } } });
        serde_json::from_value(spec).expect("a template")
    };
    let put = |level: &str| {
        let body = serde_json::to_value(spec(level)).expect("json");
        host.put("/api/v1/templates/shop", &body)
    };
    let first = put("one").send().await.expect("answered");
    assert_eq!(
        (first.status().as_u16(), &first.headers()["location"]),
        (201, &"/api/v1/templates/shop".parse().expect("text"))
    );
    assert_eq!(put("one").send().await.expect("answered").status(), 200);
    assert_eq!(client.save_template(&name, &spec("one")).await.expect("saved").version, 1, "nothing new");
    assert_eq!(client.save_template(&name, &spec("two")).await.expect("saved").version, 2);
    let levels = |template: sdp_core::api::Template| template.spec.env.into_values().next().expect("one");
    assert_eq!(levels(client.template(&name, None).await.expect("there")), "two");
    assert_eq!(levels(client.template(&name, Some(1)).await.expect("there")), "one");
    assert_eq!(code(client.template(&name, Some(3)).await), "404 unknown_template");
    let versions: Vec<_> =
        client.template_versions(&name).await.expect("listed").into_iter().map(|t| t.version).collect();
    assert_eq!(versions, [2, 1]);
    assert_eq!(client.templates().await.expect("listed").len(), 1);

    let refusals = [
        (json!({ "environment": "nosuch" }), 404, "unknown_environment"),
        (json!({ "services": { "nosuch": {} } }), 404, "unknown_service"),
        (
            json!({ "routes": { "ledger": { "type": "borrowed", "sandbox": "nosuch" } } }),
            404,
            "unknown_sandbox",
        ),
        (
            json!({ "routes": { "ledger": { "type": "external", "address": "10.20.0.1:80" } } }),
            422,
            "target_refused",
        ),
        (json!({ "lifetime_hours": 721 }), 422, "lifetime_too_long"),
        (json!({ "lifetime_hours": 0 }), 422, "invalid_service"),
        (json!({ "nonsense": 1 }), 422, "invalid_body"),
    ];
    for (body, status, code) in refusals {
        refused(host.put("/api/v1/templates/other", &body), status, code).await;
    }
    client.delete_template(&name).await.expect("deleted");
    assert_eq!(code(client.template_versions(&name).await), "404 unknown_template");
    host.stop().await;
}

#[tokio::test]
async fn put_makes_a_sandbox_or_renews_it_and_answers_with_address_key_and_header() {
    let host = Host::start().await;
    host.shop().await;
    host.staging().await;
    let put = |body: &Value| host.put("/api/v1/sandboxes/qa", body);
    let wanted = json!({ "environment": "staging", "lifetime_hours": 48, "notes": "for QA",
        "members": ["bob"], "team": "checkout", "shared": false, "env": { "A": "1" },
        "routes": { "payments": { "type": "baseline" } } });
    let answer = put(&wanted).send().await.expect("answered");
    assert_eq!(answer.headers()["location"], "/api/v1/sandboxes/qa");
    let made: SandboxView = ok(answer, 201).await;
    assert_eq!((made.access.url.as_ref(), made.access.share_url.as_ref()), (None, None), "no router yet");

    let _router = host.router().await;
    let again: SandboxView = ok(
        host.bare(Method::PUT, "/api/v1/sandboxes/qa")
            .bearer_auth(&host.admin)
            .send()
            .await
            .expect("answered"),
        200,
    )
    .await;
    let key = again.access.key.to_string();
    assert!(key.starts_with("rk_") && again.access.key == made.access.key, "{key}");
    let access = serde_json::to_value(&again.access).expect("json");
    assert_eq!(
        access,
        json!({
            "url": "http://router.test/~qa/", "share_url": format!("http://router.test/~~/{key}/"),
            "host": "qa.sandboxes.shop.test", "header": "sdp-routing-key", "key": key,
            "baggage": format!("sdp-routing-key={key}")
        })
    );
    // What was not said stays.
    let said = |view: &SandboxView| {
        let sandbox = &view.sandbox;
        (
            sandbox.lifetime_hours,
            sandbox.notes.clone(),
            sandbox.members.len(),
            sandbox.env.len(),
            sandbox.shared,
        )
    };
    assert_eq!(said(&again), said(&made));
    let routes: Vec<_> =
        again.routes.iter().map(|r| format!("{} {} {}", r.service, r.rule, r.chosen)).collect();
    assert_eq!(routes, ["ledger the host ledger.shop.test false", "payments paths below /pay true"]);
    let url = |at: usize| again.routes[at].url.as_ref().map(ToString::to_string);
    assert_eq!(url(1).as_deref(), Some("http://router.test/~qa/pay/"));
    assert_eq!(again.routes[1].service_url.as_ref().map(|u| u.path()), Some("/~qa/~payments"));

    // It is renewed by each.
    let end = again.sandbox.expires_at.expect("an end");
    let soon = end.checked_sub(jiff::SignedDuration::from_hours(10)).expect("a time");
    let sooner: SandboxView =
        ok(put(&json!({ "expires_at": soon })).send().await.expect("answered"), 200).await;
    assert_eq!(sooner.sandbox.expires_at, Some(soon));
    let renewed: SandboxView = ok(put(&json!({})).send().await.expect("answered"), 200).await;
    assert!(renewed.sandbox.expires_at.expect("an end") >= end);
    for (body, status, code) in [
        (json!({ "environment": "default" }), 422, "invalid_service"),
        (json!({ "lifetime_hours": 401 }), 422, "lifetime_too_long"),
        (json!({ "expires_at": "2020-01-01T00:00:00Z" }), 422, "invalid_service"),
        (json!({ "expires_at": "2200-01-01T00:00:00Z" }), 422, "lifetime_too_long"),
        (json!({ "routes": { "gateway": { "type": "baseline" } } }), 422, "service_not_in_environment"),
        (json!({ "routes": { "ledger": { "type": "borrowed", "sandbox": "qa" } } }), 422, "target_refused"),
        (json!({ "key": "rk_aaaaaaaaaaaaaaaaaaaaaaaaaa" }), 422, "invalid_body"),
    ] {
        refused(put(&body), status, code).await;
    }
    host.stop().await;
}

#[tokio::test]
async fn a_sandbox_is_made_by_name_by_branch_from_a_template_and_from_another() {
    let host = Host::start().await;
    host.shop().await;
    let client = host.client();
    let spec = json!({ "services": { "payments": {} }, "routes": { "ledger": { "type": "baseline" } }, "lifetime_hours": 5 });
    let spec = serde_json::from_value(spec).expect("a template");
    client.save_template(&"shop".parse().expect("a name"), &spec).await.expect("saved");
    let create = |body: Value| host.post("/api/v1/sandboxes", &body);
    let of_template =
        json!({ "name": "qa", "sandbox": { "template": { "name": "shop" }, "env": { "A": "1" } } });
    let made: SandboxView = ok(create(of_template.clone()).send().await.expect("answered"), 201).await;
    assert_eq!(
        (made.sandbox.lifetime_hours, made.sandbox.template.as_ref().map(|t| t.version)),
        (5, Some(1))
    );
    refused(create(of_template), 409, "sandbox_exists").await;
    let copy: SandboxView = ok(
        create(json!({ "name": "two", "sandbox": { "from": "qa" } })).send().await.expect("answered"),
        201,
    )
    .await;
    assert_eq!((copy.sandbox.env.len(), copy.sandbox.routes.len(), copy.sandbox.lifetime_hours), (1, 1, 5));
    assert_ne!(copy.access.key, made.access.key);

    let branch = CreateSandbox {
        branch: Some("feature/Refund".parse().expect("a branch")),
        ..CreateSandbox::default()
    };
    let first = client.create_sandbox(&branch).await.expect("made");
    assert!(first.sandbox.name.as_str().starts_with("feature-refund-"), "{}", first.sandbox.name);
    let same = create(json!({ "branch": "refs/heads/feature/Refund" })).send().await.expect("answered");
    let same: SandboxView = ok(same, 200).await;
    assert_eq!(same.sandbox.name, first.sandbox.name);
    for (body, status, code) in [
        (json!({}), 422, "invalid_body"),
        (json!({ "name": "x", "branch": "y" }), 422, "invalid_body"),
        (json!({ "branch": "-x" }), 422, "invalid_branch"),
        (json!({ "name": "x", "sandbox": { "template": { "name": "nosuch" } } }), 404, "unknown_template"),
        (json!({ "name": "x", "sandbox": { "from": "nosuch" } }), 404, "unknown_sandbox"),
        (
            json!({ "name": "x", "sandbox": { "from": "qa", "template": { "name": "shop" } } }),
            422,
            "invalid_service",
        ),
        (json!({ "name": "x", "sandbox": { "environment": "nosuch" } }), 404, "unknown_environment"),
    ] {
        refused(create(body), status, code).await;
    }

    let qa = &made.sandbox.name;
    let hours = RenewSandbox { hours: Some(100), pinned: None };
    let later = client.renew_sandbox(qa, &hours).await.expect("renewed");
    assert!(later.sandbox.expires_at > made.sandbox.expires_at);
    let bare =
        host.with(&host.admin, Method::POST, "/api/v1/sandboxes/qa/renew").send().await.expect("answered");
    assert!(ok::<SandboxView>(bare, 200).await.sandbox.expires_at < later.sandbox.expires_at);
    let pinned = client.renew_sandbox(qa, &RenewSandbox { hours: None, pinned: Some(true) }).await;
    assert_eq!(pinned.expect("pinned").sandbox.expires_at, None);
    assert_eq!(client.sandboxes().await.expect("listed").len(), 3);
    client.delete_sandbox(qa).await.expect("deleted");
    assert_eq!(code(client.sandbox(qa).await), "404 unknown_sandbox");
    assert_eq!(code(client.renew_sandbox(qa, &hours).await), "404 unknown_sandbox");
    host.stop().await;
}

#[tokio::test]
async fn somebodys_own_sandbox_is_theirs_and_a_shared_one_everybodys() {
    let host = Host::start().await;
    host.shop().await;
    let chat = host.chat().await;
    let deploy = |person: &str, sandbox: &str| chat.deploy(person, "payments", sandbox);
    let taken = async |request: reqwest::RequestBuilder| {
        assert_eq!(request.send().await.expect("answered").status(), 202);
    };
    taken(deploy("alice", "alice")).await;
    let refusal = refused(deploy("bob", "alice"), 403, "not_a_member").await;
    assert_eq!(refusal.title, "Alice is alice's sandbox");
    let renew = |person: &str| chat.post(person, "/api/v1/sandboxes/alice/renew", &json!({}));
    let route = |person: &str| {
        let target = json!({ "target": { "type": "baseline" } });
        chat.put(person, "/api/v1/sandboxes/alice/routes/ledger", &target)
    };
    let everything_refused = async |person: &str| {
        refused(chat.put(person, "/api/v1/sandboxes/alice", &json!({})), 403, "not_a_member").await;
        refused(renew(person), 403, "not_a_member").await;
        refused(route(person), 403, "not_a_member").await;
        refused(chat.of(person, Method::DELETE, "/api/v1/sandboxes/alice"), 403, "not_a_member").await;
        let lock = json!({ "sandbox": "alice", "reason": "mine" });
        refused(chat.post(person, "/api/v1/locks", &lock), 403, "not_a_member").await;
        let batch = json!({ "sandbox": "alice", "services": [{ "service": "ledger" }] });
        refused(chat.post(person, "/api/v1/batches", &batch), 403, "not_a_member").await;
    };
    everything_refused("bob").await;

    let member = chat.put("alice", "/api/v1/sandboxes/alice", &json!({ "members": ["bob"] }));
    ok::<SandboxView>(member.send().await.expect("answered"), 200).await;
    taken(deploy("bob", "alice")).await;
    ok::<SandboxView>(renew("bob").send().await.expect("answered"), 200).await;
    ok::<SandboxView>(route("bob").send().await.expect("answered"), 200).await;
    everything_refused("carol").await;
    taken(deploy("alice", "qa")).await;
    taken(deploy("carol", "qa")).await;

    // A freeze stops its own people, and the member, and everybody elsewhere.
    let freeze = json!({ "kind": "freeze", "environment": "default", "reason": "release" });
    assert_eq!(chat.post("dave", "/api/v1/locks", &freeze).send().await.expect("answered").status(), 201);
    for (person, sandbox) in [("alice", "alice"), ("bob", "alice"), ("carol", "qa"), ("dave", "qa")] {
        refused(deploy(person, sandbox), 409, "frozen").await;
    }
    refused(route("alice"), 409, "frozen").await;
    host.stop().await;
}

#[tokio::test]
async fn over_the_quota_ones_own_least_used_sandboxes_are_named() {
    let host = Host::start().await;
    host.shop().await;
    let client = host.client();
    let default = json!({ "name": "default", "every_service": true, "quota": { "instances": 12 } });
    client.save_environment(&serde_json::from_value(default).expect("valid")).await.expect("saved");
    let chat = host.chat().await;
    let taken = async |person: &str, sandbox: &str| {
        let answer = chat.deploy(person, "payments", sandbox).send().await.expect("answered");
        assert_eq!(answer.status(), 202, "{person} {sandbox}");
    };
    for number in 1..=12 {
        taken("alice", &format!("qa-{number}")).await;
    }
    taken("alice", "qa-1").await;
    let refusal = refused(chat.deploy("alice", "payments", "qa-13"), 409, "quota_exceeded").await;
    assert_eq!(refusal.title, "Alice has 12 instances in default, and may have 12");
    assert_eq!(
        refusal.detail.as_deref(),
        Some(
            "the least lately used first: qa-2, qa-3, qa-4, qa-5, qa-6, qa-7, qa-8, qa-9, qa-10, qa-11 and 2 more"
        )
    );
    assert_eq!(refusal.hint.as_deref(), Some("stop or delete what you do not need any more"));
    let batch = json!({ "sandbox": "qa-13", "services": [{ "service": "ledger" }] });
    refused(chat.post("alice", "/api/v1/batches", &batch), 409, "quota_exceeded").await;
    taken("bob", "his").await;
    host.stop().await;
}

#[tokio::test]
async fn a_route_is_chosen_and_the_view_says_so() {
    let host = Host::start().await;
    host.shop().await;
    host.staging().await;
    let mut agent = host.router().await;
    let client = host.client();
    let own = |environment: &str| json!({ "environment": environment, "shared": false });
    for sandbox in ["lender", "qa"] {
        let put = host.put(&format!("/api/v1/sandboxes/{sandbox}"), &own("staging"));
        assert_eq!(put.send().await.expect("answered").status(), 201);
    }
    let body = json!({ "service": "payments", "sandbox": "lender" });
    assert_eq!(host.post("/api/v1/deployments", &body).send().await.expect("answered").status(), 202);
    let job = agent.take().await;
    let number = host.platform.deployment(job.id.into()).await.expect("there").number;
    agent.succeed(job, 8080).await;
    let wait = host.get(&format!("/api/v1/deployments/{number}?wait=50"));
    let ended: Value = ok(agent.while_waiting(wait.send()).await.expect("answered"), 200).await;
    assert_eq!(ended["deployment"]["state"]["outcome"]["type"], "succeeded", "{ended}");

    let (qa, payments) = ("qa".parse().expect("a name"), "payments".parse().expect("a name"));
    let target = async |choice: Option<RouteChoice>| {
        let view = client.choose_route(&qa, &payments, choice).await.expect("chosen");
        let route = view.routes.into_iter().find(|route| route.service == payments).expect("there");
        let target =
            serde_json::to_value(route.target).expect("json")["type"].as_str().expect("a type").to_owned();
        (target, route.chosen, route.instance.map(|instance| instance.sandbox.to_string()))
    };
    let lender = RouteChoice::Borrowed { sandbox: "lender".parse().expect("a name") };
    assert_eq!(target(Some(lender)).await, ("instance".into(), true, Some("lender".into())));
    assert_eq!(target(Some(RouteChoice::Baseline {})).await, ("baseline".into(), true, None));
    let laptop = RouteChoice::External { address: "10.20.0.7:8080".parse().expect("an address") };
    assert_eq!(target(Some(laptop)).await, ("external".into(), true, None));
    assert_eq!(target(None).await, ("baseline".into(), false, None));
    // An instance is borrowed by its sandbox's name, not by its address.
    let staging = json!({ "external_networks": ["10.0.0.0/8"] });
    let mut all = self::staging();
    all["external_networks"] = staging["external_networks"].clone();
    ok::<Environment>(host.put("/api/v1/environments/staging", &all).send().await.expect("answered"), 200)
        .await;
    let direct = json!({ "target": { "type": "external", "address": "10.9.0.1:8080" } });
    let refusal =
        refused(host.put("/api/v1/sandboxes/qa/routes/payments", &direct), 422, "target_refused").await;
    assert!(refusal.title.contains("payments of lender runs there"), "{refusal:?}");
    refused(
        host.put("/api/v1/sandboxes/qa/routes/gateway", &json!({ "target": null })),
        422,
        "service_not_in_environment",
    )
    .await;
    refused(
        host.put("/api/v1/sandboxes/qa/routes/nosuch", &json!({ "target": null })),
        404,
        "unknown_service",
    )
    .await;
    refused(
        host.put("/api/v1/sandboxes/nosuch/routes/payments", &json!({ "target": null })),
        404,
        "unknown_sandbox",
    )
    .await;
    refused(host.put("/api/v1/sandboxes/qa/routes/payments", &json!({})), 422, "invalid_body").await;
    host.stop().await;
}

#[tokio::test]
async fn variables_are_shown_with_their_layers_and_secrets_without_their_values() {
    let host = Host::start().await;
    host.shop().await;
    let client = host.client();
    host.staging().await;
    let secret = json!({ "value": "postgres://payments:hunter2@db/payments" });
    let set = host.put("/api/v1/services/payments/secrets/DB", &secret).send().await.expect("answered");
    assert_eq!(set.status(), 201);
    let mut service = client.service(&"payments".parse().expect("a name")).await.expect("there");
    service.env =
        serde_json::from_value(json!({ "STAGE": "of the service", "LEVEL": "service" })).expect("valid");
    client.save_service(&service).await.expect("saved");
    let spec = json!({ "environment": "staging", "services": { "payments": { "env": { "LEVEL": "of payments" } } },
        "env": { "LEVEL": "template", "SHOP": "yes" } });
    let shop = "shop".parse().expect("a name");
    client.save_template(&shop, &serde_json::from_value(spec).expect("valid")).await.expect("saved");
    let wanted = json!({ "template": { "name": "shop" }, "env": { "SHOP": "no" } });
    assert_eq!(host.put("/api/v1/sandboxes/qa", &wanted).send().await.expect("answered").status(), 201);
    let _router = host.router().await;
    let text = host.get("/api/v1/sandboxes/qa/variables?service=payments").send().await.expect("answered");
    let text = text.text().await.expect("a body");
    assert!(!text.contains("hunter2"), "{text}");
    let (qa, payments) = ("qa".parse().expect("a name"), "payments".parse().expect("a name"));
    let shown = client.variables(&qa, &payments).await.expect("shown");
    let lines: Vec<_> = shown
        .iter()
        .filter(|v| v.name != "SDP_ROUTING_KEY")
        .map(|v| {
            format!("{} = {} ({:?}, over {:?})", v.name, v.value.as_deref().unwrap_or("?"), v.layer, v.over)
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    DB = ? (Secret, over [])
    LEVEL = of payments (Template, over [Service])
    SDP_ENVIRONMENT = staging (Sdp, over [])
    SDP_ROUTE_LEDGER = http://router.test/~qa/~ledger (Sdp, over [])
    SDP_ROUTE_PAYMENTS = http://router.test/~qa/~payments (Sdp, over [])
    SDP_SANDBOX = qa (Sdp, over [])
    SHOP = no (Sandbox, over [Template])
    STAGE = of the service (Service, over [Environment])
    ");
    refused(host.get("/api/v1/sandboxes/qa/variables"), 422, "invalid_query").await;
    refused(host.get("/api/v1/sandboxes/qa/variables?service=nosuch"), 404, "unknown_service").await;
    refused(host.get("/api/v1/sandboxes/nosuch/variables?service=ledger"), 404, "unknown_sandbox").await;
    host.stop().await;
}
