//! The words of answers.

mod login;

use std::collections::HashMap;

use insta::assert_snapshot;
use sdp_core::api::{AgentView, BranchList, CreateDeployment, Load, Preflight, Problem};
use sdp_core::client::ClientError;
use sdp_core::principal::Principal;
use sdp_core::sandbox::{Instance, InstanceState, StopReason};
use serde_json::json;

use super::samples::{at, sandbox};
use super::*;

fn instance(service: &str, sandbox: &str, state: InstanceState) -> Instance {
    Instance {
        id: sdp_core::id::InstanceId::new(),
        service: service.parse().unwrap(),
        sandbox: sandbox.parse().unwrap(),
        environment: "default".parse().unwrap(),
        git_ref: None,
        deployment: sdp_core::id::DeploymentId::new(),
        commit: "1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d".parse().unwrap(),
        agent: "vm-1".parse().unwrap(),
        address: None,
        url: Some(format!("http://{sandbox}.localhost/{service}").parse().unwrap()),
        state,
        started_at: at(-4000),
        stopped_at: None,
        restarts: 0,
        last_restart: None,
        unhealthy: None,
        last_lines: Vec::new(),
    }
}

#[test]
fn durations_read_as_people_say_them() {
    let said: Vec<String> = [0, 40, 999, 9_940, 12_400, 65_000, 3_720_000, 90_000_000, 900_000_000]
        .into_iter()
        .map(|ms| duration(Duration::from_millis(ms)))
        .collect();
    assert_snapshot!(said.join(", "), @"0.0 s, 0.0 s, 1.0 s, 9.9 s, 12 s, 1 min 05 s, 1 h 02 min, 1 day, 10 days");
    assert_eq!(
        [1, 2, 3, 4, 11, 12, 13, 21, 102, 111].map(ordinal).join(" "),
        "1st 2nd 3rd 4th 11th 12th 13th 21st 102nd 111th"
    );
}

#[test]
fn sandboxes_and_who_runs_what() {
    let view = sandbox(
        "alice",
        vec![
            instance("hello", "alice", InstanceState::Live {}),
            instance("ledger", "alice", InstanceState::Starting {}),
        ],
    );
    let none = HashMap::new();
    let mut text = answer::sandbox(&view, &[], &none, at(0)).to_plain();
    text += &answer::sandbox(&sandbox("empty", vec![]), &[], &none, at(0)).to_plain();
    text += &answer::list(&[view.clone(), sandbox("qa", vec![])], true, at(0)).to_plain();
    text += &answer::list(&[], false, at(0)).to_plain();
    let service = "hello".parse().unwrap();
    text +=
        &answer::who(&service, &view.instances[..1], std::slice::from_ref(&view), &none, at(0)).to_plain();
    text += &answer::who(&service, &[], &[], &none, at(0)).to_plain();
    text += &answer::sandbox_deleted(&view).to_plain();
    text += &answer::open(&view.instances[0]).to_plain();
    assert_snapshot!(text, @r"
    · alice of alice
      hello `1a2b3c4d` running for 1 h 06 min
        http://alice.localhost/hello
      ledger `1a2b3c4d` starting
    · empty of alice
      nothing runs here; all requests go to the baseline
    · 2 sandboxes
      alice of alice: hello 1a2b3c4d, ledger 1a2b3c4d · ends in 2 days
      qa of alice: nothing runs · ends in 2 days
    · You have no sandbox yet.
      one is made when you first deploy: deploy <service> <branch>
    · hello runs in
      alice `1a2b3c4d` running for 1 h 06 min · alice · ends in 2 days
    · Nobody has hello in a sandbox; all its requests go to the baseline.
      [Deploy] deploy hello
    ✓ Sandbox alice is deleted; the 2 services that ran in it are being stopped.
      hello `1a2b3c4d`
      ledger `1a2b3c4d`
    · hello in alice http://alice.localhost/hello
      [Open] http://alice.localhost/hello
    ");
}

#[test]
fn a_refusal_says_what_was_meant_and_what_to_do() {
    let problem: Problem = serde_json::from_value(json!({
        "status": 404, "code": "unknown_service", "title": "There is no service “helo”.",
        "hint": "say services for a list", "did_you_mean": "hello"
    }))
    .unwrap();
    let wanted = CreateDeployment {
        service: "helo".parse().unwrap(),
        git_ref: Some("main".parse().unwrap()),
        sandbox: None,
        env: Default::default(),
        notify: None,
        git_credential: None,
    };
    let mut text = answer::unknown_service(&problem, &wanted).to_plain();
    text += &answer::refused(&ClientError::Problem(Box::new(problem))).to_plain();
    text += &answer::refused(&ClientError::Unexpected {
        server: "http://sdp".into(),
        status: 502,
        text: "Bad Gateway".into(),
    })
    .to_plain();
    assert_snapshot!(text, @r"
    ✗ There is no service “helo”. Did you mean `hello`?
      next services lists those there are
      [Deploy] deploy hello main
    ✗ There is no service “helo”. Did you mean `hello`?
      next services lists those there are
    ✗ SDP's server does not answer at the moment. Nothing was done.
      that is http://sdp answered 502, not as SDP does: Bad Gateway
      next try again in a minute; what already runs goes on without it
    ");
}

#[test]
fn agents_and_branches() {
    let agent = |name: &str, connected| AgentView {
        name: name.parse().unwrap(),
        connected,
        draining: name == "vm-2",
        since: at(-100),
        version: "0.1.0".into(),
        labels: if connected { vec!["linux".parse().unwrap(), "go-1.23".parse().unwrap()] } else { vec![] },
        capacity: 4,
        running: 1,
        queued: 2,
        load: connected.then_some(Load {
            running: 1,
            spool_jobs: 3,
            spool_bytes: 300 << 20,
            disk_free: Some(9 << 30),
            disk_total: Some(80 << 30),
        }),
        runtimes: vec!["process".into()],
        router: connected,
        degraded: (name == "vm-1").then(|| "Docker does not answer".to_owned()),
        preflight: ["git", "go", "disk"]
            .map(|name| Preflight {
                check: name.into(),
                ok: name != "go",
                detail: "not found in PATH".into(),
            })
            .into(),
    };
    let commit: sdp_core::name::CommitId = "1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d".parse().unwrap();
    let list: BranchList = serde_json::from_value(json!({
        "head": "main",
        "branches": [{"name": "feature/a", "commit": commit}, {"name": "main", "commit": commit}],
        "tags": [{"name": "v1.0", "commit": commit}]
    }))
    .unwrap();
    let mut text = agents::agents(&[agent("vm-1", true), agent("vm-2", false)], at(0)).to_plain();
    text += &answer::branches(&"hello".parse().unwrap(), None, &list).to_plain();
    assert_snapshot!(text, @r"
    · 1 of 2 agents connected
      vm-1 1 of 4 jobs, 2 waiting · process, router · connected for 1 min 40 s · 0.1.0
        labels: linux, go-1.23
        disk: 9.0 GiB of 80 GiB free · spool: 300 MiB, 2 jobs wait to be delivered
        takes no work: Docker does not answer
        go: not found in PATH
        ok: git, disk
      vm-2 away for 1 min 40 s · 0.1.0
        is being drained: it gets no new work
        go: not found in PATH
        ok: git, disk
    · hello has 2 branches and 1 tag
      `feature/a` 1a2b3c4d
      `main` 1a2b3c4d · the repository's default
      tag `v1.0` 1a2b3c4d
    ");
}

#[test]
fn help_shows_five_verbs_first() {
    let mut text = help::help(None).to_plain();
    text += &help::help(Some(crate::command::Topic::Command("deploy"))).to_plain();
    assert_snapshot!(text, @r"
    · what you can say
      `deploy <service> [branch|tag|commit] [to <sandbox>] [KEY=value …]`  build a branch and run it in your sandbox
      `status [sandbox|412]`  what runs, and where a deployment stands
      `open <service> [in <sandbox>]`  its address in a sandbox
      `logs <service|412> [in <sandbox>] [n]`  what a running service prints, or the end of a build
      `rollback <service|412> [in <sandbox>]`  deploy what ran before
      everything else: `help all`
    · `deploy <service> [branch|tag|commit] [to <sandbox>] [KEY=value …]`
      build a branch and run it in your sandbox
      for example `deploy payments feature/refund`
      Without a branch: the last one in that sandbox, else the service's default branch.
      payments@feature/a, a bare third word as sandbox, and addresses of branches work too.
      Variables have upper-case names; secrets do not belong in a chat.
      Several at once: `deploy payments=feature/a ledger=feature/b to qa-42` or `deploy template shop to qa-42`
    ");
    let all = help::help(Some(crate::command::Topic::All)).to_plain();
    for verb in crate::command::VERBS {
        assert!(all.contains(&format!("`{verb}")), "{verb}");
    }
}

#[test]
fn a_fingerprint_changes_with_the_words_and_only_with_them() {
    let message = |words: &str| Message::new(Tone::Plain, Text::from(words));
    assert_eq!(message("a").fingerprint(), message("a").fingerprint());
    assert_ne!(message("a").fingerprint(), message("b").fingerprint());
    assert_ne!(message("a").fingerprint(), message("a").line(Text::from("")).fingerprint());
}

#[test]
fn what_is_down_is_said_with_what_brings_it_back() {
    let crashed = |service: &str| Instance {
        restarts: 0,
        last_restart: None,
        unhealthy: None,
        last_lines: (1..=5).map(|n| format!("line {n}")).collect(),
        ..instance(
            service,
            "alice",
            InstanceState::Stopped {
                reason: StopReason::Crashed { exit_code: None, signal: Some(9), out_of_memory: false },
            },
        )
    };
    let payments = crashed("payments");
    let ledger = instance("ledger", "alice", InstanceState::Lost {});
    let view = sandbox("alice", vec![payments.clone(), ledger.clone()]);
    let none = HashMap::new();
    let mut text = answer::sandbox(&view, &[], &none, at(0)).to_plain();
    text += &answer::who(&payments.service, &view.instances[..1], &[], &none, at(0)).to_plain();
    text += &down::message(&payments, None, 2).to_plain();
    text += &down::message(&ledger, None, 2).to_plain();
    text += &answer::stopping(&payments).to_plain();
    assert_snapshot!(text, @r"
    · alice of alice
      payments `1a2b3c4d` DOWN: it crashed (signal 9)
        | line 3
        | line 4
        | line 5
        next `redeploy payments in alice` starts it again; `stop payments in alice` sends its requests to the baseline
      ledger `1a2b3c4d` DOWN: its agent is gone
        next `redeploy ledger in alice` starts it again; `stop ledger in alice` sends its requests to the baseline
      [Redeploy] redeploy payments in alice
      [Redeploy] redeploy ledger in alice
    · payments runs in
      alice `1a2b3c4d` DOWN: it crashed (signal 9)
    ✗ payments in alice `1a2b3c4d` is DOWN: it crashed (signal 9)
      next `redeploy payments in alice` starts it again; `stop payments in alice` sends its requests to the baseline
      | line 4
      | line 5
      [Redeploy] redeploy payments in alice
    ✗ ledger in alice `1a2b3c4d` is DOWN: its agent is gone
      next `redeploy ledger in alice` starts it again; `stop ledger in alice` sends its requests to the baseline
      [Redeploy] redeploy ledger in alice
    ✓ payments in alice is stopped; alice's requests for it go to the baseline.
      [Redeploy] redeploy payments in alice
    ");
}

#[test]
fn what_is_said_to_be_down_is_what_the_router_answers_with_an_error() {
    use sdp_core::routing::{RouteTarget, route_table};
    let by = Principal::person("alice".parse().unwrap());
    let stopped = |reason| InstanceState::Stopped { reason };
    let states = [
        InstanceState::Live {},
        InstanceState::Starting {},
        InstanceState::Unhealthy {},
        InstanceState::Lost {},
        InstanceState::Draining { reason: StopReason::Replaced {} },
        InstanceState::Draining { reason: StopReason::Stopped { by: by.clone() } },
        stopped(StopReason::Stopped { by }),
        stopped(StopReason::Replaced {}),
        stopped(StopReason::DeploymentEnded {}),
        stopped(StopReason::SandboxDeleted {}),
        stopped(StopReason::SandboxExpired {}),
        stopped(StopReason::AgentRestarted {}),
        stopped(StopReason::NotStarted { detail: "its build is gone".into() }),
        stopped(StopReason::Crashed { exit_code: Some(1), signal: None, out_of_memory: false }),
    ];
    let environment = sdp_core::catalog::Environment::default_one();
    let payments = super::samples::services(&["payments"]).remove(0);
    let services = [(payments.name.clone(), payments.clone())].into();
    let alice = sandbox("alice", Vec::new()).sandbox;
    for older in &states {
        for newer in &states {
            let instances: Vec<Instance> = [(1_u128, older), (2, newer)]
                .map(|(id, state)| Instance {
                    id: sdp_core::id::InstanceId::from(uuid::Uuid::from_u128(id)),
                    address: Some("127.0.0.1:4000".parse().unwrap()),
                    ..instance("payments", "alice", state.clone())
                })
                .into();
            let version = sdp_core::id::RouteVersion(1);
            let table = route_table(version, [&environment], &services, [&alice], &instances);
            let is_down = matches!(table.target(&alice.name, &payments.name), Some(RouteTarget::Down { .. }));
            assert_eq!(down::down(&instances).len(), usize::from(is_down), "{older:?}, then {newer:?}");
        }
    }
}

#[test]
fn hints_for_programs_reach_a_chat_in_its_own_words() {
    let text: String = [
        ("unknown_service", "see the catalog for the services there are"),
        ("unknown_deployment", "see the list of deployments"),
        ("forbidden", "name the person in the header `sdp-on-behalf-of`"),
        (
            "unauthorised",
            "send a valid token in the header `Authorization: Bearer …`, or open a sign-in link",
        ),
        ("queue_full", "wait until some have ended, then try again"),
    ]
    .into_iter()
    .map(|(code, hint)| {
        let problem = json!({ "status": 400, "code": code, "title": code, "hint": hint });
        answer::refused(&ClientError::Problem(serde_json::from_value(problem).unwrap())).to_plain()
    })
    .collect();
    let problem = json!({
        "status": 429, "code": "too_many_requests", "title": "You ask too often",
        "detail": "at most 1200 requests a minute", "hint": "try again in 3 s"
    });
    let text = text
        + &answer::refused(&ClientError::TooManyRequests {
            problem: serde_json::from_value(problem).unwrap(),
            retry_after: std::time::Duration::from_secs(3),
        })
        .to_plain();
    assert_snapshot!(text, @r"
    ✗ unknown_service.
      next services lists those there are
    ✗ unknown_deployment.
      next list shows what runs, status <sandbox> what is under way
    ✗ forbidden.
      next name the person: --as <person>
    ✗ unauthorised.
      next give the bot a valid token: --token-file <file>, or the variable SDP_TOKEN
    ✗ queue_full.
      next wait until some have ended, then try again
    ✗ You ask too often.
      at most 1200 requests a minute
      next try again in 3 s
    ");
}

#[test]
fn what_a_service_prints_while_it_goes_on_and_when_it_has_ended() {
    use crate::output::Shown;
    use sdp_core::api::{OutputChunk, OutputEnd, OutputEndReason, OutputLine};
    use sdp_core::client::OutputItem;
    let line =
        |text: &str| OutputLine { at: at(0), stream: sdp_core::wire::Stream::Stdout, text: text.into() };
    let piece = |left_out, texts: &[&str]| {
        Some(Ok(OutputItem::Lines(OutputChunk {
            left_out,
            lines: texts.iter().map(|text| line(text)).collect(),
        })))
    };
    let page: url::Url = "https://sdp.example.com/instances/1".parse().unwrap();
    let mut shown = Shown::new(instance("hello", "alice", InstanceState::Live {}), page.clone(), 3);
    let mut text = super::output::followed(&shown).to_plain();
    assert!(!shown.take(piece(0, &[])), "an empty piece changes nothing");
    assert!(shown.take(piece(0, &["one", "two"])));
    assert!(shown.take(piece(7, &["\u{1b}[31mten", "eleven"])));
    text += &super::output::followed(&shown).to_plain();
    let end = OutputEnd { reason: OutputEndReason::Ended, detail: None };
    assert!(shown.take(Some(Ok(OutputItem::End(end)))));
    text += &super::output::followed(&shown).to_plain();
    let mut cut = Shown::new(instance("hello", "alice", InstanceState::Live {}), page.clone(), 3);
    let detail = Some("the connection to vm-1 was lost".to_owned());
    cut.take(Some(Ok(OutputItem::End(OutputEnd { reason: OutputEndReason::AgentAway, detail }))));
    text += &super::output::followed(&cut).to_plain();
    text +=
        &super::output::last(&instance("hello", "alice", InstanceState::Live {}), &["one".to_owned()], &page)
            .to_plain();
    assert_snapshot!(text, @r"
    ▸ hello in alice `1a2b3c4d` prints, live
      live https://sdp.example.com/instances/1
      it has printed nothing yet
      [Live] https://sdp.example.com/instances/1
    ▸ hello in alice `1a2b3c4d` prints, live
      live https://sdp.example.com/instances/1
      7 lines left out: it prints faster than can be shown
      | two
      | ten
      | eleven
      [Live] https://sdp.example.com/instances/1
    – hello in alice `1a2b3c4d` has ended; its last words
      live https://sdp.example.com/instances/1
      7 lines left out: it prints faster than can be shown
      | two
      | ten
      | eleven
      [Live] https://sdp.example.com/instances/1
      [Status] status alice
    i hello in alice `1a2b3c4d` cannot be followed any more: the connection to vm-1 was lost
      live https://sdp.example.com/instances/1
      [Live] https://sdp.example.com/instances/1
      [Go on] logs hello in alice
    · hello in alice `1a2b3c4d`: its last line
      live https://sdp.example.com/instances/1
      | one
      [Live] https://sdp.example.com/instances/1
    ");
}
