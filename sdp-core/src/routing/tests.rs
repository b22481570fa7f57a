//! The route table as a function of environments, services, sandboxes and instances.

use super::*;
use crate::principal::Principal;

fn name<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("valid")
}

fn services(names: &[&str]) -> BTreeMap<ServiceName, Service> {
    let service = |text: &str| -> Service {
        serde_json::from_value(serde_json::json!({
            "name": text, "repo": "/srv/x.git", "builder": { "type": "command", "run": ["./x"] },
        }))
        .expect("a service")
    };
    names.iter().map(|text| (name(text), service(text))).collect()
}

fn sandbox(text: &str) -> Sandbox {
    serde_json::from_value(serde_json::json!({
        "name": text, "owner": Principal::System, "environment": "default",
        "key": format!("rk_{}", text[..1].repeat(26)), "created_at": "1970-01-01T00:00:00Z",
        "lifetime_hours": 1, "expires_at": "1970-01-01T01:00:00Z",
    }))
    .expect("a sandbox")
}

fn instance(n: u128, of: &str, state: InstanceState) -> Instance {
    let at = Timestamp::UNIX_EPOCH;
    Instance {
        id: uuid::Uuid::from_u128(n).into(),
        service: name("hello"),
        sandbox: name(of),
        environment: name("default"),
        deployment: uuid::Uuid::from_u128(n + 100).into(),
        commit: CommitId::parse("a".repeat(40)).expect("valid"),
        git_ref: None,
        agent: name("vm-1"),
        address: Some(SocketAddr::from(([127, 0, 0, 1], u16::try_from(n).expect("small")))),
        url: Some("http://127.0.0.1:8081/~alice/hello/".parse().expect("a URL")),
        state,
        started_at: at,
        stopped_at: None,
        restarts: 0,
        last_restart: None,
        unhealthy: None,
        last_lines: Vec::new(),
    }
}

fn table(environment: &Environment, sandboxes: &[Sandbox], instances: &[Instance]) -> RouteTable {
    route_table(RouteVersion(1), [environment], &services(&["hello", "ledger"]), sandboxes, instances)
}

/// What the sandbox has of `hello`: a port, a reason, or nothing.
fn said(table: &RouteTable, of: &str) -> String {
    match table.target(&name(of), &name("hello")) {
        None => "-".to_owned(),
        Some(RouteTarget::Instance { address, of: None, .. }) => address.port().to_string(),
        Some(RouteTarget::Instance { address, of: Some(lender), .. }) => {
            format!("{lender}'s {}", address.port())
        }
        Some(RouteTarget::Down { reason }) => format!("down: {reason}"),
        Some(RouteTarget::External { address }) => format!("outside {address}"),
        Some(RouteTarget::Baseline { reason }) => {
            format!("baseline: {}", reason.as_deref().unwrap_or("chosen"))
        }
    }
}

fn crashed() -> InstanceState {
    InstanceState::Stopped {
        reason: StopReason::Crashed { exit_code: Some(1), signal: None, out_of_memory: false },
    }
}

#[test]
fn the_newest_that_serves_wins_and_only_a_stop_on_purpose_gives_way_to_the_baseline() {
    let live = || InstanceState::Live {};
    let stopped = |reason| InstanceState::Stopped { reason };
    let on_purpose = || StopReason::Stopped { by: Principal::System };
    let rows: [(&str, Vec<InstanceState>); 15] = [
        ("-", vec![]),
        ("-", vec![InstanceState::Starting {}]),
        ("1", vec![live()]),
        ("2", vec![live(), live()]),
        ("1", vec![live(), InstanceState::Starting {}]),
        ("2", vec![InstanceState::Draining { reason: StopReason::Replaced {} }, live()]),
        ("1", vec![InstanceState::Unhealthy {}]),
        ("down: it crashed", vec![crashed()]),
        ("2", vec![crashed(), live()]),
        ("1", vec![live(), crashed()]),
        ("-", vec![crashed(), stopped(on_purpose())]),
        ("-", vec![crashed(), InstanceState::Draining { reason: on_purpose() }]),
        ("down: its agent is gone", vec![InstanceState::Lost {}]),
        ("down: its agent was restarted", vec![stopped(StopReason::AgentRestarted {})]),
        (
            "down: it could not be started again",
            vec![stopped(StopReason::NotStarted { detail: "its build is gone".into() })],
        ),
    ];
    let environment = Environment::default_one();
    for (wanted, states) in rows {
        let of_alice = |(n, state): (u128, &InstanceState)| instance(n, "alice", state.clone());
        let instances: Vec<_> = (1..).zip(&states).map(of_alice).collect();
        assert_eq!(
            said(&table(&environment, &[sandbox("alice")], &instances), "alice"),
            wanted,
            "{states:?}"
        );
        let backwards: Vec<_> = instances.into_iter().rev().collect();
        let again = said(&table(&environment, &[sandbox("alice")], &backwards), "alice");
        assert_eq!(again, wanted, "the order does not matter: {states:?}");
    }
}

#[test]
fn what_a_sandbox_says_of_a_route_stands_above_what_runs_there() {
    let live = |n, of: &str| instance(n, of, InstanceState::Live {});
    let lent = || RouteChoice::Borrowed { sandbox: name("bob") };
    let outside = |last| RouteChoice::External { address: ([10, 0, 0, last], 8080).into() };
    let networks = vec!["10.0.0.8/31".parse().expect("a network")];
    let environment = Environment { external_networks: networks, ..Environment::default_one() };
    let rows = [
        ("baseline: chosen", RouteChoice::Baseline {}, vec![live(1, "alice")]),
        ("outside 10.0.0.9:8080", outside(9), vec![live(1, "alice")]),
        (
            "down: 10.0.0.7 is in none of the networks of default: 10.0.0.8/31",
            outside(7),
            vec![live(1, "alice")],
        ),
        ("bob's 2", lent(), vec![live(1, "alice"), live(2, "bob")]),
        ("down: bob, which lends it, does not run it", lent(), vec![live(1, "alice")]),
        ("down: it crashed", lent(), vec![live(1, "alice"), instance(2, "bob", crashed())]),
    ];
    for (wanted, choice, instances) in rows {
        let mut alice = sandbox("alice");
        alice.routes.insert(name("hello"), choice);
        let table = table(&environment, &[alice, sandbox("bob")], &instances);
        assert_eq!(said(&table, "alice"), wanted);
    }
}

#[test]
fn where_the_policy_is_the_baseline_it_answers_and_the_reason_is_kept() {
    let mut environment = Environment::default_one();
    environment.when_down = WhenDown::Baseline;
    let table = table(&environment, &[sandbox("alice")], &[instance(1, "alice", crashed())]);
    assert_eq!(said(&table, "alice"), "baseline: it crashed");
}

#[test]
fn the_table_names_every_service_and_every_sandbox_of_an_environment_with_its_key_and_end() {
    let mut elsewhere = sandbox("carol");
    elsewhere.environment = name("nowhere");
    let mut environment = Environment::default_one();
    let rule = MatchRule::Path { prefix: name("/api/ledger"), strip: false };
    let own = serde_json::json!({ "rule": rule, "baseline": "https://ledger.test" });
    environment.services.insert(name("ledger"), serde_json::from_value(own).unwrap());
    let table = table(&environment, &[sandbox("bob"), sandbox("alice"), elsewhere], &[]);
    let [routes] = table.environments.as_slice() else { panic!("{table:?}") };
    let rules: Vec<_> =
        routes.services.iter().map(|route| format!("{} {}", route.service, route.rule)).collect();
    assert_eq!(rules, ["hello paths below /hello", "ledger paths below /api/ledger"]);
    assert_eq!(routes.services[1].baseline.as_ref().map(Url::as_str), Some("https://ledger.test/"));
    let names: Vec<_> = routes.sandboxes.iter().map(|sandbox| sandbox.name.as_str()).collect();
    assert_eq!(names, ["alice", "bob"]);
    assert_eq!(routes.sandboxes[0].key.as_str(), format!("rk_{}", "a".repeat(26)));
    assert_eq!(routes.sandboxes[0].expires_at, Some(Timestamp::from_second(3600).unwrap()));
}
