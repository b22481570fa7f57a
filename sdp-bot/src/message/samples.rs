//! One or more of every message that the bot can say, for chats to try whether they can show it.
//!
//! A message that is in no sample fails [`every_function_that_says_something_has_a_sample`].

mod deployments;
mod places;

use std::collections::HashMap;

use jiff::Timestamp;
use sdp_core::api::{
    AgentView, BranchList, CreateDeployment, Deployment, Load, LoginLink, Me, Preflight, Problem,
    SandboxView, Service,
};
use sdp_core::client::ClientError;
use sdp_core::principal::{Principal, Role};
use sdp_core::sandbox::{Instance, InstanceState, LastRestart, StopReason, Unhealthy};
use serde_json::json;

use super::*;
use crate::command::{Topic, VERBS, parse};

pub(crate) use deployments::{deployment, each as deployments, ended, failed, running, thread};
pub(crate) use places::batch;

/// What a message is called, and one such message.
pub(crate) type Sample = (&'static str, Message);

/// What somebody may have written to do harm or to be cut.
pub(crate) fn hostile_texts() -> Vec<String> {
    let harm = "<!channel> <!here> <!subteam^S012|x> <@U024BE7LH> @here @channel @everyone <#C1|c> <https://evil.example|ok> \
                &lt;b&gt; & < > *b* _i_ ~s~ `c` ```p``` :boom: \u{202e}txt.exe \u{1b}[31m \n > q \u{200b}";
    vec![
        harm.to_owned(),
        "x".repeat(40_000),
        "<&>".repeat(20_000),
        "\u{10348}é漢/".repeat(10_000),
        " ".to_owned(),
        String::new(),
    ]
}

/// The same message, with a text in place of each that it has.
pub(crate) fn all_words_replaced(message: &Message, text: &str) -> Message {
    let replace = |line: &Text| {
        line.spans().iter().fold(Text::new(), |line, span| match span {
            Span::Plain(_) => line.plain(text),
            Span::Strong(_) => line.strong(text),
            Span::Dim(_) => line.dim(text),
            Span::Code(_) => line.code(text),
            Span::Mention(_) => line.mention(text),
            Span::Link(url) => line.link(&longer(url, text)),
        })
    };
    let replaced = Message {
        tone: message.tone,
        title: replace(&message.title),
        lines: message.lines.iter().map(replace).collect(),
        notice: message.notice.as_ref().map(replace),
        block: Vec::new(),
        actions: message
            .actions
            .iter()
            .map(|action| {
                let does = match &action.does {
                    Does::Open(url) => Does::Open(longer(url, text)),
                    Does::Command(command) => Does::Command(format!("{command} {text}")),
                };
                Action { label: action.label, does }
            })
            .collect(),
    };
    replaced.block(message.block.iter().map(|_| text))
}

fn longer(url: &Url, text: &str) -> Url {
    let mut url = url.clone();
    url.set_query(Some(text));
    url
}

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

pub(crate) fn page(path: &str) -> Url {
    format!("https://sdp.example.com{path}").parse().unwrap()
}

pub(crate) const COMMIT: &str = "1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d";

pub(crate) fn instance(service: &str, sandbox: &str, state: InstanceState) -> Instance {
    Instance {
        id: uuid::Uuid::from_u128(2).into(),
        service: service.parse().unwrap(),
        sandbox: sandbox.parse().unwrap(),
        environment: "default".parse().unwrap(),
        git_ref: None,
        deployment: uuid::Uuid::from_u128(1).into(),
        commit: COMMIT.parse().unwrap(),
        agent: "vm-1".parse().unwrap(),
        address: None,
        url: Some(format!("http://{service}.{sandbox}.localhost/").parse().unwrap()),
        state,
        started_at: at(-4000),
        stopped_at: None,
        restarts: 0,
        last_restart: None,
        unhealthy: None,
        last_lines: Vec::new(),
    }
}

/// One of each state that is worth words.
pub(crate) fn instances() -> Vec<Instance> {
    let crash = StopReason::Crashed { exit_code: Some(2), signal: None, out_of_memory: false };
    let live = instance("payments", "alice", InstanceState::Live {});
    let restarted = Instance {
        restarts: 2,
        last_restart: Some(LastRestart { at: at(-60), reason: crash.clone() }),
        last_lines: lines(20),
        ..live.clone()
    };
    let unhealthy = Instance {
        state: InstanceState::Unhealthy {},
        unhealthy: Some(Unhealthy { since: at(-60), detail: "GET /healthz answered 500".to_owned() }),
        ..live.clone()
    };
    let down = Instance { last_lines: lines(20), ..live.clone() };
    let down = |reason: StopReason| Instance { state: InstanceState::Stopped { reason }, ..down.clone() };
    vec![
        live.clone(),
        Instance { url: None, state: InstanceState::Starting {}, ..live.clone() },
        restarted,
        unhealthy,
        Instance { state: InstanceState::Draining { reason: StopReason::Replaced {} }, ..live.clone() },
        Instance { state: InstanceState::Lost {}, ..live.clone() },
        down(crash),
        down(StopReason::Crashed { exit_code: None, signal: Some(9), out_of_memory: true }),
        down(StopReason::NotStarted { detail: "its build is gone".to_owned() }),
        down(StopReason::Stopped { by: Principal::person("bob".parse().unwrap()) }),
    ]
}

pub(crate) fn sandbox(name: &str, instances: Vec<Instance>) -> SandboxView {
    let access = json!({ "url": format!("http://router.example.com/~{name}/"), "host": format!("{name}.sandboxes.shop.test"),
        "share_url": format!("http://router.example.com/~~/{KEY}/"), "header": "sdp-routing-key", "key": KEY,
        "baggage": format!("sdp-routing-key={KEY}") });
    let view = json!({ "sandbox": places::sandbox_json(name), "instances": instances, "access": access, "routes": [], "locks": [] });
    serde_json::from_value(view).unwrap()
}

/// What marks requests as a sandbox's.
pub(crate) const KEY: &str = "rk_abcdefghijklmnopqrstuvwxyz";

fn lines(n: usize) -> Vec<String> {
    (1..=n).map(|n| format!("{n:>3} panic: <nil> & no money")).collect()
}

/// Who a user of the chat is.
pub(crate) fn me(account: Option<&str>, role: Role) -> Me {
    let person = account.map(|name| {
        json!({ "name": name, "role": role, "git_origin": "https://git.example.com", "git_user": "a.smith",
            "created_at": at(0), "logged_in_at": at(0), "has_credential": true })
    });
    let principal = match account {
        Some(name) => json!({ "kind": "bot", "name": "slack", "person": name }),
        None => json!({ "kind": "token", "name": "slack" }),
    };
    let me = json!({ "principal": principal, "role": role, "account": person, "chat_user": "U024BE7LH", "login": true,
        "own_sandbox": account.unwrap_or("slack"), "bound_until": account.map(|_| at(900_000)) });
    serde_json::from_value(me).unwrap()
}

pub(crate) fn away() -> ClientError {
    ClientError::Unexpected { server: "http://sdp".into(), status: 502, text: "Bad Gateway".into() }
}

fn problem(code: &str) -> Problem {
    let problem = json!({ "status": 404, "code": code, "title": "There is no service “pay<ments”.",
        "detail": "something else", "hint": "say services for a list", "did_you_mean": "payments" });
    serde_json::from_value(problem).unwrap()
}

pub(crate) fn services(names: &[&str]) -> Vec<Service> {
    let service = |name: &&str| {
        json!({ "name": name, "repo": format!("https://git.example.com/shop/{name}"),
            "builder": { "type": "go" } })
    };
    names.iter().map(|name| serde_json::from_value(service(name)).unwrap()).collect()
}

pub(crate) fn branch_list(branches: &[&str], tags: &[&str]) -> BranchList {
    let refs = |names: &[&str]| -> Vec<_> {
        names.iter().map(|name| json!({ "name": name, "commit": COMMIT })).collect()
    };
    let list = json!({ "head": "main", "branches": refs(branches), "tags": refs(tags) });
    serde_json::from_value(list).unwrap()
}

fn agent(name: &str, connected: bool) -> AgentView {
    AgentView {
        name: name.parse().unwrap(),
        connected,
        draining: !connected,
        since: at(-100),
        version: "0.1.0".into(),
        labels: vec!["linux".parse().unwrap()],
        capacity: 4,
        running: u32::from(connected),
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
        degraded: connected.then(|| "Docker does not answer".to_owned()),
        preflight: vec![Preflight { check: "go".into(), ok: false, detail: "not found in PATH".into() }],
    }
}

/// All of them.
pub(crate) fn all() -> Vec<Sample> {
    let mut all = deployments::all();
    all.extend(answers());
    all.extend(lists());
    all.extend(logins());
    all.extend(homes());
    all.extend(outputs());
    all.extend(places::all());
    all
}

fn answers() -> Vec<Sample> {
    let mut all: Vec<Sample> = [
        "",
        "dploy",
        "deploy",
        "deploy payments main AWS_SECRET=1",
        "deploy payments main to Ä!",
        "logs",
        "freeze x",
        "sandbox crate x",
    ]
    .into_iter()
    .filter_map(|typed| parse(typed).err())
    .map(|mistake| ("answer::mistake", answer::mistake(&mistake)))
    .collect();
    let wanted = CreateDeployment {
        service: "paymants".parse().unwrap(),
        git_ref: Some("main".parse().unwrap()),
        sandbox: Some("qa".parse().unwrap()),
        env: Default::default(),
        notify: None,
        git_credential: None,
    };
    let unknown = problem("unknown_service");
    let address = match parse("deploy https://git.example.com/shop/payments") {
        Ok(crate::command::Command::Deploy(crate::command::Deploy {
            service: crate::command::Wanted::Repo(address),
            ..
        })) => address,
        other => panic!("{other:?}"),
    };
    let (service, sandbox) = ("payments".parse().unwrap(), "alice".parse().unwrap());
    let stopped = instance("payments", "alice", InstanceState::Lost {});
    all.extend([
        ("answer::refused", answer::refused(&away())),
        ("answer::refused", answer::refused(&ClientError::Problem(Box::new(unknown.clone())))),
        ("answer::unknown_service", answer::unknown_service(&unknown, &wanted)),
        (
            "answer::unknown_service",
            answer::unknown_service(&Problem { did_you_mean: None, ..unknown }, &wanted),
        ),
        ("answer::no_service_at", answer::no_service_at(&address)),
        (
            "answer::several_services_at",
            answer::several_services_at(&address, &["a".parse().unwrap(), "b".parse().unwrap()]),
        ),
        ("answer::which_sandbox", answer::which_sandbox()),
        ("answer::never_deployed", answer::never_deployed(&service, &sandbox)),
        ("answer::nothing_to_go_back_to", answer::nothing_to_go_back_to(&service, &sandbox)),
        ("answer::nothing_to_cancel", answer::nothing_to_cancel(&service, &sandbox)),
        ("answer::nothing_runs", answer::nothing_runs(&service, &sandbox, None)),
        ("answer::nothing_runs", answer::nothing_runs(&service, &sandbox, Some(&running()))),
        ("answer::nothing_runs_of", answer::nothing_runs_of(&running())),
        ("answer::nothing_runs_of", answer::nothing_runs_of(&failed())),
        ("answer::stopping", answer::stopping(&stopped)),
        ("answer::sandbox_not_yet", answer::sandbox_not_yet(&sandbox)),
        ("elsewhere::may_not_post", elsewhere::may_not_post()),
        ("elsewhere::in_the_channel", elsewhere::in_the_channel(sdp_core::id::DeploymentNumber(412))),
        ("help::help", help::help(None)),
        ("help::help", help::help(Some(Topic::All))),
    ]);
    all.extend(VERBS.map(|verb| ("help::help", help::help(Some(Topic::Command(verb))))));
    all
}

fn lists() -> Vec<Sample> {
    let here = sandbox("alice", instances());
    let empty = sandbox("qa", Vec::new());
    // More than is shown.
    let many: Vec<SandboxView> = (1..=60).map(|n| sandbox(&format!("qa-{n}"), instances())).collect();
    let branches: HashMap<_, Deployment> = [(uuid::Uuid::from_u128(1).into(), running())].into();
    let service = "payments".parse().unwrap();
    let list = branch_list(&["feature/a", "main"], &["v1.0"]);
    let long: Vec<String> = (1..=60).map(|n| format!("feature/{n}-{}", "x".repeat(200))).collect();
    let long: Vec<&str> = long.iter().map(String::as_str).collect();
    let catalog = services(&["payments", "ledger"]);
    vec![
        ("answer::sandbox", answer::sandbox(&here, &[running(), deployment()], &branches, at(0))),
        ("answer::sandbox", answer::sandbox(&empty, &[], &branches, at(0))),
        ("answer::list", answer::list(std::slice::from_ref(&here), false, at(0))),
        ("answer::list", answer::list(&many, true, at(0))),
        ("answer::list", answer::list(&[], true, at(0))),
        ("answer::list", answer::list(&[], false, at(0))),
        ("answer::who", answer::who(&service, &here.instances, &many, &branches, at(0))),
        ("answer::who", answer::who(&service, &[], &[], &branches, at(0))),
        ("answer::where_is", answer::where_is(&catalog[0], &here.instances)),
        ("answer::open", answer::open(&here.instances[0])),
        ("answer::open", answer::open(&here.instances[1])),
        ("answer::sandbox_deleted", answer::sandbox_deleted(&here)),
        ("answer::sandbox_deleted", answer::sandbox_deleted(&empty)),
        ("answer::services", answer::services(&catalog)),
        ("answer::services", answer::services(&[])),
        ("answer::branches", answer::branches(&service, None, &list)),
        ("answer::branches", answer::branches(&service, Some("feature"), &branch_list(&long, &long))),
        ("answer::branches", answer::branches(&service, Some("x"), &branch_list(&[], &[]))),
        ("agents::agents", agents::agents(&[agent("vm-1", true), agent("vm-2", false)], at(0))),
        ("agents::agents", agents::agents(&[], at(0))),
        ("agents::drained", agents::drained(&agent("vm-1", true))),
        ("agents::drained", agents::drained(&agent("vm-2", false))),
    ]
}

fn logins() -> Vec<Sample> {
    let (alice, nobody) = (me(Some("alice"), Role::Developer), me(None, Role::Viewer));
    let named = Me { account: None, bound_until: None, login: false, ..alice.clone() };
    let closed = Me { login: false, ..nobody.clone() };
    let token = Me { chat_user: None, ..me(None, Role::Admin) };
    let link = LoginLink { url: page("/login/once"), expires_at: at(600) };
    let (server, account) = (page("/"), page("/account"));
    let mut all = vec![
        ("login::link", login::link(&link, &nobody)),
        ("login::link", login::link(&link, &alice)),
        ("login::logged_out", login::logged_out(&alice, &account)),
        ("login::logged_out", login::logged_out(&named, &account)),
        ("login::needed", login::needed("deploy")),
        ("login::no_sandbox_yet", login::no_sandbox_yet()),
        ("login::may_only_look", login::may_only_look(&me(Some("alice"), Role::Viewer), &account)),
    ];
    for me in [&alice, &nobody, &named, &closed, &token] {
        all.extend([
            ("login::whoami", login::whoami(me, &server)),
            ("login::nobody_logs_in", login::nobody_logs_in(me)),
            ("login::was_not_logged_in", login::was_not_logged_in(me)),
            ("home::who", home::who(me)),
        ]);
    }
    all
}

fn homes() -> Vec<Sample> {
    let mut all = vec![
        ("home::no_sandbox", home::no_sandbox()),
        ("home::sandbox", home::sandbox(&sandbox("alice", instances()), at(0))),
        ("home::sandbox", home::sandbox(&sandbox("qa", Vec::new()), at(0))),
        ("home::no_deployment", home::no_deployment()),
        ("home::more", home::more(7)),
    ];
    for instance in instances() {
        all.push(("home::instance", home::instance(&instance, Some(&running()), at(0))));
        all.push(("home::instance", home::instance(&instance, None, at(0))));
        all.push(("down::message", down::message(&instance, Some(&running()), 15)));
    }
    all.extend(deployments::each().iter().map(|one| ("home::deployment", home::deployment(one, at(0)))));
    all
}

fn outputs() -> Vec<Sample> {
    use crate::output::{Phase, Shown};
    let live = instance("payments", "alice", InstanceState::Live {});
    let page = page("/instances/1");
    let mut shown = Shown::new(live.clone(), page.clone(), 200);
    let mut all = vec![
        ("output::followed", super::output::followed(&shown)),
        ("output::last", super::output::last(&live, &[], &page)),
        ("output::last", super::output::last(&live, &lines(1), &page)),
        ("output::last", super::output::last(&live, &lines(200), &page)),
    ];
    shown.lines = lines(200).into();
    shown.left_out = 7;
    let cut = Phase::Cut { why: "the connection to vm-1 was lost".to_owned() };
    for phase in [Phase::Live, Phase::Ended, Phase::Paused, cut] {
        shown.phase = phase;
        all.push(("output::followed", super::output::followed(&shown)));
    }
    all
}

#[test]
fn every_function_that_says_something_has_a_sample() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/message");
    let known: std::collections::BTreeSet<&str> = all().iter().map(|(name, _)| *name).collect();
    let mut missing = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if !path.is_file() || matches!(module.as_str(), "samples" | "tests") {
            continue;
        }
        let source = std::fs::read_to_string(&path).unwrap();
        for function in source.split("\npub fn ").skip(1) {
            let head = function.split(" {\n").next().unwrap();
            let name = format!("{module}::{}", head.split(['(', '<']).next().unwrap());
            let says = head.rsplit("-> ").next().is_some_and(|gives| gives.contains("Message"));
            if says && !known.contains(name.as_str()) {
                missing.push(name);
            }
        }
    }
    assert!(missing.is_empty(), "no sample of {missing:?}");
}
