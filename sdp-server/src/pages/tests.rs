//! What the pages say, from stories told in events.

mod account;
mod changes;
mod hostile;
mod places;
mod sandboxes;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use maud::Markup;
use sdp_core::api::{AgentView, DeploymentView, Load, Preflight};
use sdp_core::catalog::environment::default_name;
use sdp_core::deployment::{CommitInfo, DeployKind, Deployment, Outcome, Step};
use sdp_core::event::{About, Event, EventKind};
use sdp_core::failure::{Failure, FailureReason};
use sdp_core::id::{DeploymentId, DeploymentNumber, EventSeq, InstanceId};
use sdp_core::name::{AgentName, CommitId, GitRef, PersonName, RoutingKey, SandboxName, ServiceName};
use sdp_core::principal::Principal;
use sdp_core::sandbox::{Instance, InstanceState, LastRestart, Sandbox, StopReason, Unhealthy};

use super::home::{Home, Prefill};
use super::instance::InstancePage;
use super::log::LogPage;

pub(super) fn person(name: &str) -> Principal {
    Principal::person(PersonName::parse(name).unwrap())
}

fn begin() -> Timestamp {
    "2026-11-21T10:00:00Z".parse().unwrap()
}

/// A deployment and the seconds that have passed in it.
pub(super) struct Story {
    pub(super) deployment: Deployment,
    pub(super) at: Timestamp,
    seq: u64,
}

impl Story {
    pub(super) fn new(number: u64, service: &str, git_ref: &str) -> Self {
        Self::of_kind(number, service, git_ref, DeployKind::Deploy)
    }

    fn of_kind(number: u64, service: &str, git_ref: &str, kind: DeployKind) -> Self {
        let event = Event {
            seq: EventSeq(1),
            at: begin(),
            by: person("alice"),
            about: About { deployment: Some(DeploymentId::new()), ..About::default() },
            kind: EventKind::DeploymentRequested {
                number: DeploymentNumber(number),
                kind,
                service: ServiceName::parse(service).unwrap(),
                sandbox: SandboxName::parse("alice").unwrap(),
                git_ref: GitRef::parse(git_ref).unwrap(),
                commit: None,
                of: None,
                env: BTreeMap::new(),
                notify: None,
                batch: None,
            },
        };
        Self { deployment: Deployment::begin(&event).unwrap(), at: begin(), seq: 1 }
    }

    pub(super) fn then(mut self, seconds: i64, kind: EventKind) -> Self {
        self.seq += 1;
        self.at += SignedDuration::from_secs(seconds);
        let about = About { deployment: Some(self.deployment.id), ..About::default() };
        self.deployment.apply(&Event {
            seq: EventSeq(self.seq),
            at: self.at,
            by: person("bob"),
            about,
            kind,
        });
        self
    }

    pub(super) fn step(self, seconds: i64, step: Step, first_line: u64) -> Self {
        self.then(seconds, EventKind::StepStarted { step, first_line })
    }

    pub(super) fn building(self) -> Self {
        self.then(0, EventKind::DeploymentSent { agent: AgentName::parse("vm-1").unwrap(), attempt: 1 })
            .step(0, Step::Resolve, 1)
            .then(0, EventKind::CommitResolved { commit: commit() })
            .step(1, Step::Fetch, 2)
            .then(
                1,
                EventKind::CommitFetched {
                    info: CommitInfo { author: "Ada Lovelace".into(), subject: "Add refunds".into() },
                    changes: None,
                },
            )
            .step(0, Step::Build, 5)
    }

    pub(super) fn ended(self, seconds: i64, outcome: Outcome) -> Self {
        let url = matches!(outcome, Outcome::Succeeded {})
            .then(|| "http://127.0.0.1:8081/~alice/payments/".parse().unwrap());
        self.then(seconds, EventKind::DeploymentEnded { outcome, url })
    }

    pub(super) fn live(self) -> Self {
        self.building()
            .step(21, Step::Start, 90)
            .step(0, Step::Check, 91)
            .step(1, Step::Switch, 92)
            .ended(0, Outcome::Succeeded {})
    }

    pub(super) fn page(&self, after: i64, log_lines: u64, instance: Option<Instance>) -> LogPage {
        LogPage {
            principal: person("alice"),
            now: self.at + SignedDuration::from_secs(after),
            event: EventSeq(self.seq),
            view: DeploymentView {
                deployment: self.deployment.clone(),
                log_url: "http://127.0.0.1/deployments/412".parse().unwrap(),
                queue_position: Some(2),
                behind: None,
                starts_in_seconds: None,
                log_lines,
                superseded_by: None,
                waiting_for: None,
            },
            instance,
            newer: Some(DeploymentNumber(413)),
        }
    }
}

fn commit() -> CommitId {
    CommitId::parse("1a2b3c4d".repeat(5)).unwrap()
}

pub(super) fn instance(of: &Story, state: InstanceState, last_lines: &[&str]) -> Instance {
    Instance {
        id: InstanceId::new(),
        service: of.deployment.service.clone(),
        sandbox: of.deployment.sandbox.clone(),
        environment: default_name(),
        deployment: of.deployment.id,
        commit: commit(),
        git_ref: Some(of.deployment.git_ref.clone()),
        agent: AgentName::parse("vm-1").unwrap(),
        address: None,
        url: of.deployment.url.clone(),
        state,
        started_at: of.at,
        stopped_at: None,
        restarts: 0,
        last_restart: None,
        unhealthy: None,
        last_lines: last_lines.iter().map(|&line| line.to_owned()).collect(),
    }
}

pub(super) fn failed() -> Story {
    let failure = Failure {
        exit_code: Some(1),
        line: Some(88),
        ..Failure::new(Step::Build, FailureReason::BuildFailed, "go build: main.go:12:2: undefined: refund")
    };
    Story::new(412, "payments", "feature/refund").building().ended(9, Outcome::Failed { failure })
}

/// The text that a reader sees, a line for each block, and where buttons and links lead.
fn read(markup: &Markup, id: &str) -> String {
    let html = &markup.0;
    let from = html.find(&format!("id=\"{id}\"")).expect("the part is there");
    let html = &html[from + html[from..].find('>').unwrap() + 1..];
    let html = &html[..html.find("</section>").unwrap()];
    let mut out = String::new();
    let mut rest = html;
    while let Some(open) = rest.find('<') {
        out.push_str(&rest[..open]);
        let close = open + rest[open..].find('>').unwrap();
        let tag = &rest[open + 1..close];
        let name = tag.trim_start_matches('/').split(' ').next().unwrap();
        let attribute = |name: &str| {
            tag.split(&format!(" {name}=\"")).nth(1).map(|v| v.split('"').next().unwrap().to_owned())
        };
        if let Some(path) = ["data-post", "data-delete", "href"].into_iter().find_map(attribute) {
            out.push_str(&format!("[{} ", path.split('?').next().unwrap()));
        } else if matches!(tag, "/a" | "/button") {
            out.push(']');
        }
        if matches!(name, "p" | "div" | "li" | "h1" | "h2" | "h3" | "ol" | "ul" | "dt") {
            out.push('\n');
        }
        rest = &rest[close + 1..];
    }
    let text = out + rest;
    let hidden = uuids(&text);
    hidden.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

fn uuids(text: &str) -> String {
    let parts: Vec<_> = text
        .split('/')
        .map(|part| match part.split_at_checked(36) {
            Some((id, rest)) if id.matches('-').count() == 4 && !id.contains(' ') => format!("ID{rest}"),
            _ => part.to_owned(),
        })
        .collect();
    parts.join("/")
}

#[test]
fn a_queued_deployment_says_its_place_and_can_be_cancelled() {
    let story = Story::new(412, "payments", "feature/refund");
    insta::assert_snapshot!(read(&story.page(72, 0, None).render(), "head"), @r"
    payments #412
    Queued2nd in the queue, for 1 min 12 s
    [/api/v1/deployments/ID/cancel Cancel]
    feature/refund
    to [/sandboxes/alice alice] · asked by alice 1 min ago
    Resolve
    Fetch
    Build
    Start
    Check
    Switch
    ");
}

#[test]
fn a_deployment_that_waits_says_for_what() {
    let story = Story::new(412, "payments", "feature/refund");
    let mut page = story.page(72, 0, None);
    page.view.waiting_for = Some("no connected agent has all of its labels: go, gpu".to_owned());
    let html = page.render();
    assert!(
        read(&html, "head").contains("It waits: no connected agent has all of its labels: go, gpu."),
        "{html:?}"
    );
}

#[test]
fn the_page_of_an_instance_says_what_runs_and_how_often_it_was_started_again() {
    let story = Story::new(412, "payments", "feature/refund").live();
    let mut live = instance(&story, InstanceState::Live {}, &["fatal: out of memory"]);
    let crashed = StopReason::Crashed { exit_code: None, signal: Some(9), out_of_memory: true };
    live.address = Some("10.0.0.5:21000".parse().unwrap());
    live.restarts = 2;
    live.last_restart =
        Some(LastRestart { at: story.at + SignedDuration::from_secs(60), reason: crashed.clone() });
    let mut page = InstancePage {
        principal: person("alice"),
        now: story.at + SignedDuration::from_secs(90),
        event: EventSeq(77),
        instance: live,
        deployment: Some(story.deployment.clone()),
        newer: None,
    };
    insta::assert_snapshot!(read(&page.render(), "head"), @r"
    payments in [/sandboxes/alice alice]
    Livefor 1 min 30 s
    [http://127.0.0.1:8081/~alice/payments/ Open ↗][/api/v1/instances/ID/restart Restart][/api/v1/instances/ID/stop Stop]
    feature/refund 1a2b3c4d Add refunds
    started by [/deployments/412 #412] of alice 1 min ago · on vm-1 at 10.0.0.5:21000 · http://127.0.0.1:8081/~alice/payments/
    It was started again twice. It took more memory than it may, and was ended. That was 30 s ago.
    Its last line before it was started againfatal: out of memory
    ");
    page.instance.state = InstanceState::Unhealthy {};
    let since = story.at + SignedDuration::from_secs(80);
    page.instance.unhealthy = Some(Unhealthy { since, detail: "GET /healthz answered 500".into() });
    let html = page.render();
    assert!(read(&html, "head").contains("Unhealthyfor 1 min 30 s"), "{}", read(&html, "head"));
    let why =
        "It runs, but has not passed its health check since it was started again: GET /healthz answered 500.";
    assert!(read(&html, "head").contains(why), "{}", read(&html, "head"));
    page.instance.unhealthy = None;
    page.instance.state = InstanceState::Stopped { reason: crashed };
    page.instance.stopped_at = Some(story.at + SignedDuration::from_secs(75));
    let html = page.render();
    insta::assert_snapshot!(read(&html, "head"), @r"
    payments in [/sandboxes/alice alice]
    Crashedfor 1 min 15 s
    [/api/v1/deployments/ID/redeploy Redeploy]
    feature/refund 1a2b3c4d Add refunds
    started by [/deployments/412 #412] of alice 1 min ago · on vm-1 at 10.0.0.5:21000 · http://127.0.0.1:8081/~alice/payments/
    It took more memory than it may, and was ended.
    It was started again twice. It took more memory than it may, and was ended. That was 30 s ago.
    Its last linefatal: out of memory
    ");
    assert!(html.0.contains("<details class=\"last-lines\" open>"), "{html:?}");
}

#[test]
fn home_says_what_an_agent_found_wrong_and_what_is_well() {
    let mut home = home();
    let check = |name: &str, ok, detail: &str| Preflight { check: name.into(), ok, detail: detail.into() };
    home.agents[0].degraded = Some("Docker does not answer".to_owned());
    home.agents[0].load = Some(Load {
        running: 1,
        spool_jobs: 3,
        spool_bytes: 300 << 20,
        disk_free: Some(9 << 30),
        disk_total: Some(80 << 30),
    });
    home.agents[0].preflight = vec![
        check("git", true, "built in"),
        check("docker", false, "no answer"),
        check("disk", true, "9 GiB free"),
    ];
    insta::assert_snapshot!(read(&home.render(), "agents"), @r"
    Agents
    vm-1Connected1 of 4 busy
    9.0 of 80.0 GiB free, 2 logs to be delivered (300 MiB)
    It takes no work: Docker does not answer.
    docker: no answer
    git, disk: as it should be
    vm-2Awaysince 7 min ago
    It is being drained: it gets no new work, and what runs on it serves on.
    ");
}

#[test]
fn a_running_deployment_marks_its_step() {
    let story = Story::new(412, "payments", "feature/refund").building();
    insta::assert_snapshot!(read(&story.page(4, 80, None).render(), "head"), @r"
    payments #412
    Buildingfor 6.0 s
    [/api/v1/deployments/ID/cancel Cancel]
    feature/refund 1a2b3c4d Add refunds by Ada Lovelace
    to [/sandboxes/alice alice] · asked by alice just now · on vm-1
    [#L1 Resolve] 1.0 s
    [#L2 Fetch] 1.0 s
    [#L5 Build] 4.0 s
    Start
    Check
    Switch
    ");
}

#[test]
fn a_failed_deployment_says_why_and_what_next() {
    insta::assert_snapshot!(read(&failed().page(60, 88, None).render(), "head"), @r"
    payments #412
    Failed in buildin 11 s
    [/api/v1/deployments Retry]
    feature/refund 1a2b3c4d Add refunds by Ada Lovelace
    to [/sandboxes/alice alice] · asked by alice 1 min ago · on vm-1
    [#L1 Resolve] 1.0 s
    [#L2 Fetch] 1.0 s
    [#L5 Build] 9.0 s
    Start
    Check
    Switch
    The build ended with an error. exit code 1
    go build: main.go:12:2: undefined: refund
    Next: read the last lines of the log, mend the branch and deploy again. [#L88 Go to line 88]
    What served before still serves.
    ");
}

#[test]
fn a_live_deployment_opens_and_can_be_taken_back() {
    let story = Story::new(412, "payments", "feature/refund").live();
    let live = instance(&story, InstanceState::Live {}, &[]);
    insta::assert_snapshot!(read(&story.page(60, 95, Some(live)).render(), "head"), @r"
    payments #412
    Succeededin 24 s
    [http://127.0.0.1:8081/~alice/payments/ Open ↗][/api/v1/deployments/ID/redeploy Redeploy][/api/v1/deployments/ID/rollback Roll back][/api/v1/instances/ID/stop Stop]
    feature/refund 1a2b3c4d Add refunds by Ada Lovelace
    to [/sandboxes/alice alice] · asked by alice 1 min ago · on vm-1 · [/instances/ID what it prints]
    [#L1 Resolve] 1.0 s
    [#L2 Fetch] 1.0 s
    [#L5 Build] 21 s
    [#L90 Start] 0.0 s
    [#L91 Check] 1.0 s
    [#L92 Switch] 0.0 s
    ");
}

#[test]
fn a_replaced_deployment_leads_to_its_successor() {
    let story = Story::new(412, "payments", "feature/refund").live();
    let replaced = instance(&story, InstanceState::Stopped { reason: StopReason::Replaced {} }, &[]);
    insta::assert_snapshot!(read(&story.page(60, 95, Some(replaced)).render(), "head"), @r"
    payments #412
    Succeededin 24 s
    [/api/v1/deployments/ID/redeploy Redeploy]
    feature/refund 1a2b3c4d Add refunds by Ada Lovelace
    to [/sandboxes/alice alice] · asked by alice 1 min ago · on vm-1 · [/instances/ID what it prints]
    [#L1 Resolve] 1.0 s
    [#L2 Fetch] 1.0 s
    [#L5 Build] 21 s
    [#L90 Start] 0.0 s
    [#L91 Check] 1.0 s
    [#L92 Switch] 0.0 s
    Stopped A newer deployment took its place. See [/deployments/413 #413].
    ");
}

#[test]
fn a_missing_git_login_leads_to_the_form_and_not_to_a_retry() {
    let failure = Failure::new(Step::Resolve, FailureReason::CredentialsNeeded, "git.example wants a login");
    let story = Story::new(412, "payments", "feature/a&b=c")
        .step(0, Step::Resolve, 1)
        .ended(1, Outcome::Failed { failure });
    let html = story.page(0, 0, None).render().0;
    assert!(
        html.contains(
            "/?service=payments&amp;git_ref=feature%2Fa%26b%3Dc&amp;sandbox=alice&amp;login=true#deploy"
        ),
        "{html}"
    );
    assert!(!html.contains("Retry"));
}

#[test]
fn a_retry_deploys_the_branch_with_the_same_variables() {
    let html = failed().page(0, 0, None).render().0;
    let body = html.split("data-body=\"").nth(1).unwrap().split('"').next().unwrap().replace("&quot;", "\"");
    assert_eq!(body, r#"{"service":"payments","git_ref":"feature/refund","sandbox":"alice"}"#);
}

pub(super) fn home() -> Home {
    let live = Story::new(411, "payments", "feature/refund").live();
    let crashed = Story::new(410, "ledger", "main").live();
    let now = live.at + SignedDuration::from_hours(3);
    let mut lying = instance(
        &crashed,
        InstanceState::Stopped {
            reason: StopReason::Crashed { exit_code: Some(2), signal: None, out_of_memory: false },
        },
        &["panic: runtime error: index out of range [3]"],
    );
    lying.stopped_at = Some(now - SignedDuration::from_mins(5));
    let mut waiting = Story::new(413, "ledger", "feature/limits").deployment;
    waiting.requested_at = now - SignedDuration::from_secs(20);
    let service = |name: &str| {
        serde_json::from_value(serde_json::json!({
            "name": name, "repo": "https://git.example/acme/x", "builder": { "type": "command", "run": ["./x"] }
        }))
        .unwrap()
    };
    let agent = |name: &str, connected| AgentView {
        name: AgentName::parse(name).unwrap(),
        connected,
        draining: name == "vm-2",
        since: now - SignedDuration::from_mins(7),
        version: "0.1.0".into(),
        labels: Vec::new(),
        capacity: 4,
        running: u32::from(connected),
        runtimes: vec!["process".into()],
        router: connected,
        queued: 0,
        load: None,
        degraded: None,
        preflight: Vec::new(),
    };
    Home {
        principal: person("alice"),
        now,
        event: EventSeq(77),
        services: vec![service("ledger"), service("payments")],
        sandboxes: vec![Sandbox {
            name: SandboxName::parse("alice").unwrap(),
            owner: person("alice"),
            team: None,
            members: BTreeSet::new(),
            shared: false,
            environment: default_name(),
            template: None,
            key: RoutingKey::from_random([7; 16]),
            created_at: begin(),
            lifetime_hours: 168,
            expires_at: None,
            pinned: false,
            notes: None,
            env: BTreeMap::new(),
            routes: BTreeMap::new(),
            warned_hours: None,
            branches_gone: false,
            used_at: None,
        }],
        running: vec![
            (instance(&live, InstanceState::Live {}, &[]), Some(live.deployment.clone())),
            (lying, Some(crashed.deployment.clone())),
        ],
        under_way: vec![waiting],
        recent: vec![failed().deployment, live.deployment, crashed.deployment],
        older: Some(DeploymentNumber(391)),
        agents: vec![agent("vm-1", true), agent("vm-2", false)],
        prefill: Prefill::default(),
    }
}

#[test]
fn home_says_what_runs_what_is_under_way_and_what_was() {
    let page = home().render();
    let parts = ["sandbox-alice", "deployments", "agents"].map(|part| read(&page, part)).join("\n\n");
    insta::assert_snapshot!(parts, @r"
    [/sandboxes/alice alice] yours
    [/instances/ID ledger]Crashed
    main 1a2b3c4d Add refunds
    It ended by itself with exit code 2.
    panic: runtime error: index out of range [3]
    5 min ago by alice on vm-1[/deployments/410 Log][/api/v1/deployments/ID/redeploy Redeploy][/api/v1/deployments/ID/rollback Roll back]
    [/instances/ID payments]Live[http://127.0.0.1:8081/~alice/payments/ Open ↗]
    feature/refund 1a2b3c4d Add refunds
    3 h ago by alice on vm-1[/deployments/411 Log][/api/v1/instances/ID/restart Restart][/api/v1/deployments/ID/redeploy Redeploy][/api/v1/deployments/ID/rollback Roll back][/api/v1/instances/ID/stop Stop]

    Deployments
    Under way
    [/deployments/413 #413]ledgerto aliceQueued
    feature/limits
    alice · 20 s ago · waiting for 20 s
    Recent
    [/deployments/412 #412]paymentsto aliceFailed in build
    feature/refund 1a2b3c4d Add refunds
    The build ended with an error.
    alice · 3 h ago · took 11 s
    [/deployments/411 #411]paymentsto aliceSucceeded
    feature/refund 1a2b3c4d Add refunds
    alice · 3 h ago · took 24 s
    [/deployments/410 #410]ledgerto aliceSucceeded
    main 1a2b3c4d Add refunds
    alice · 3 h ago · took 24 s
    [/ Older →]

    Agents
    vm-1Connected1 of 4 busy
    vm-2Awaysince 7 min ago
    It is being drained: it gets no new work, and what runs on it serves on.
    ");
}

#[test]
fn an_empty_home_says_what_to_do_next() {
    let empty = Home {
        services: vec![],
        running: vec![],
        under_way: vec![],
        recent: vec![],
        agents: vec![],
        older: None,
        ..home()
    };
    let page = empty.render();
    let parts = ["running", "deploy", "deployments", "agents"].map(|part| read(&page, part)).join("\n\n");
    insta::assert_snapshot!(parts, @r"
    Running
    Nothing runs in a sandbox yet. Every request is answered by the baseline.
    First add a service to the catalog: write it into a file and run sdp-server apply FILE.

    Deploy a branch
    There is no service in the catalog yet. Write one into a file and run sdp-server apply FILE.

    Deployments
    No deployment yet. The first one shows here, live.

    Agents
    No agent has connected yet, so deployments wait. Start sdp-agent on a VM.
    ");
}
