//! The route table as a function of services, sandboxes and instances.

use super::*;

fn name<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("valid")
}

fn service(text: &str) -> Service {
    serde_json::from_value(serde_json::json!({
        "name": text, "repo": "/srv/x.git", "builder": { "type": "command", "run": ["./x"] },
    }))
    .expect("a service")
}

fn instance(n: u128, state: InstanceState) -> Instance {
    let at = Timestamp::UNIX_EPOCH;
    Instance {
        id: uuid::Uuid::from_u128(n).into(),
        service: name("hello"),
        sandbox: name("alice"),
        deployment: uuid::Uuid::from_u128(n + 100).into(),
        commit: CommitId::parse("a".repeat(40)).expect("valid"),
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

/// What the one route says: a port, a reason, or nothing.
fn route(instances: &[Instance]) -> String {
    let table = route_table(RouteVersion(1), [&service("hello")], [], instances);
    match table.sandboxes.as_slice() {
        [] => "baseline".to_owned(),
        [SandboxRoute { target: RouteTarget::Instance { address, .. }, .. }] => address.port().to_string(),
        [SandboxRoute { target: RouteTarget::Down { reason }, .. }] => reason.clone(),
        more => panic!("{more:?}"),
    }
}

#[test]
fn the_newest_that_serves_wins_and_only_a_stop_on_purpose_gives_way_to_the_baseline() {
    let by = Principal::System;
    let live = || InstanceState::Live {};
    let stopped = |reason| InstanceState::Stopped { reason };
    let crashed = || stopped(StopReason::Crashed { exit_code: Some(1), signal: None, out_of_memory: false });
    let on_purpose = || StopReason::Stopped { by: by.clone() };
    let table: [(&str, Vec<InstanceState>); 12] = [
        ("baseline", vec![]),
        ("baseline", vec![InstanceState::Starting {}]),
        ("1", vec![live()]),
        ("2", vec![live(), live()]),
        ("1", vec![live(), InstanceState::Starting {}]),
        ("2", vec![InstanceState::Draining { reason: StopReason::Replaced {} }, live()]),
        ("1", vec![InstanceState::Unhealthy {}]),
        ("it crashed", vec![crashed()]),
        ("2", vec![crashed(), live()]),
        ("1", vec![live(), crashed()]),
        ("baseline", vec![crashed(), stopped(on_purpose())]),
        ("baseline", vec![crashed(), InstanceState::Draining { reason: on_purpose() }]),
    ];
    for (wanted, states) in table {
        let instances: Vec<_> = (1..).zip(&states).map(|(n, state)| instance(n, state.clone())).collect();
        assert_eq!(route(&instances), wanted, "{states:?}");
        let backwards: Vec<_> = instances.into_iter().rev().collect();
        assert_eq!(route(&backwards), wanted, "the order does not matter: {states:?}");
    }
    assert_eq!(route(&[instance(1, InstanceState::Lost {})]), "its agent is gone");
    assert_eq!(route(&[instance(1, stopped(StopReason::AgentRestarted {}))]), "its agent was restarted");
    let not_started = StopReason::NotStarted { detail: "its build is gone".into() };
    assert_eq!(route(&[instance(1, stopped(not_started))]), "it could not be started again");
}

#[test]
fn the_table_names_every_service_and_every_sandbox() {
    let sandbox = Sandbox { name: name("bob"), owner: Principal::System, created_at: Timestamp::UNIX_EPOCH };
    let mut odd = service("ledger");
    odd.path_prefix = Some(name("/api/ledger"));
    odd.strip_prefix = false;
    let table = route_table(RouteVersion(7), [&odd, &service("hello")], [&sandbox], []);
    let services: Vec<_> =
        table.services.iter().map(|s| (s.service.as_str(), s.prefix.as_str(), s.strip)).collect();
    assert_eq!(services, [("hello", "/hello", true), ("ledger", "/api/ledger", false)]);
    assert_eq!(table.names, [name("bob")].into());
}
