//! Deployments in every state, and what is said about each.

use sdp_core::api::{Deployment, DeploymentView, LogWindow};
use sdp_core::deployment::{Changes, DeployKind, Outcome, State, Step, StepTime};
use sdp_core::failure::{Failure, FailureReason};
use sdp_core::id::{DeploymentId, DeploymentNumber};
use sdp_core::principal::Principal;
use sdp_core::sandbox::{InstanceState, StopReason, Unhealthy};
use serde_json::json;

use super::super::{answer, deployment as say};
use super::{COMMIT, Sample, at, instances, lines, page};
use crate::text::Text;
use crate::thread::{After, Facts, Serving, Thread};

/// One that was just asked for.
pub(crate) fn deployment() -> Deployment {
    let deployment = json!({
        "id": DeploymentId::from(uuid::Uuid::from_u128(1)), "number": 412, "kind": "deploy",
        "service": "payments", "sandbox": "alice", "git_ref": "feature/refund", "commit": null, "of": null,
        "commit_info": null, "env": {}, "requested_by": Principal::person("alice".parse().unwrap()),
        "requested_at": at(-100), "state": { "type": "queued" }, "steps": [], "agent": null, "attempt": 0,
        "cancel_requested_by": null, "instance": null, "url": null, "reused_build": null, "notes": [],
        "ended_at": null, "version": 1
    });
    serde_json::from_value(deployment).unwrap()
}

/// One that is being built.
pub(crate) fn running() -> Deployment {
    let info = json!({ "author": "Åsa <asa@example.com>", "subject": "Add refunds <!channel> & more" });
    Deployment {
        commit: Some(COMMIT.parse().unwrap()),
        commit_info: serde_json::from_value(info).unwrap(),
        state: State::Running { step: Step::Build },
        steps: vec![step(Step::Resolve, Some(-80)), step(Step::Build, None)],
        agent: Some("vm-1".parse().unwrap()),
        ..deployment()
    }
}

fn step(step: Step, ended: Option<i64>) -> StepTime {
    StepTime { step, started_at: at(-90), ended_at: ended.map(at), first_line: 1 }
}

/// One that is over.
pub(crate) fn ended(outcome: Outcome) -> Deployment {
    let url =
        matches!(outcome, Outcome::Succeeded {}).then(|| "http://payments.alice.localhost/".parse().unwrap());
    let instance = url.is_some().then(|| uuid::Uuid::from_u128(2).into());
    Deployment { state: State::Ended { outcome }, ended_at: Some(at(-20)), url, instance, ..running() }
}

pub(crate) fn failed() -> Deployment {
    ended(Outcome::Failed { failure: failure(FailureReason::BuildFailed) })
}

fn failure(reason: FailureReason) -> Failure {
    let failure =
        Failure::new(Step::Build, reason, "undefined: Refund in <main.go>; did you mean feature/refunds?");
    Failure { exit_code: Some(2), line: Some(123), ..failure }
}

/// In every state.
pub(crate) fn each() -> Vec<Deployment> {
    let by = Principal::person("bob".parse().unwrap());
    let env = || [("DEBUG".parse().unwrap(), "1".to_owned())].into();
    let mut each = vec![
        deployment(),
        running(),
        Deployment { cancel_requested_by: Some(by.clone()), ..running() },
        Deployment { env: env(), requested_by: by.clone(), ..running() },
        ended(Outcome::Succeeded {}),
        ended(Outcome::Cancelled { by: by.clone() }),
        ended(Outcome::Superseded {
            by: DeploymentId::from(uuid::Uuid::from_u128(3)),
            number: DeploymentNumber(413),
        }),
        Deployment { env: env(), ..failed() },
    ];
    for kind in [DeployKind::Redeploy, DeployKind::Rollback, DeployKind::Restart] {
        each.push(Deployment { kind, of: Some(DeploymentNumber(400)), ..failed() });
    }
    each.extend(Step::ALL.map(|step| Deployment { state: State::Running { step }, ..running() }));
    for (added, removed) in [(0, 0), (1, 0), (3, 0), (700, 300), (0, 2)] {
        let changes = Changes {
            since: "9f8e7d6c".repeat(5).parse().unwrap(),
            added,
            removed,
            more: added + removed >= Changes::MOST,
            subjects: vec![
                "Add <refunds> <!channel> & `more`".to_owned();
                Changes::SUBJECTS.min(added as usize)
            ],
        };
        each.push(Deployment { changes: Some(changes), ..running() });
    }
    use FailureReason as Why;
    for reason in [
        Why::BuildFailed,
        Why::RefNotFound,
        Why::RefAmbiguous,
        Why::GitUnreachable,
        Why::NoAgent,
        Why::Exited,
    ] {
        each.push(ended(Outcome::Failed { failure: failure(reason) }));
    }
    each
}

fn afters() -> Vec<After> {
    let by = Principal::person("bob".parse().unwrap());
    let crashed = |exit_code, signal, out_of_memory| StopReason::Crashed { exit_code, signal, out_of_memory };
    let reasons = [
        StopReason::Replaced {},
        StopReason::Stopped { by },
        StopReason::SandboxDeleted {},
        crashed(Some(2), None, false),
        crashed(None, Some(9), false),
        crashed(None, None, true),
        StopReason::AgentRestarted {},
        StopReason::EngineRestarted {},
        StopReason::NotStarted { detail: "its build is gone".to_owned() },
    ];
    let mut afters = vec![After::Lost, After::Draining { reason: StopReason::Replaced {} }];
    afters.extend(reasons.map(|reason| After::Stopped { reason, last_lines: lines(30) }));
    afters
}

pub(crate) fn thread(deployment: &Deployment) -> Thread {
    Thread::new(deployment.clone(), page("/deployments/1"), Default::default())
}

/// All that a chat may have to say beside a deployment.
fn facts(deployment: &Deployment) -> Facts {
    let mut thread = thread(deployment);
    let view = view(deployment);
    thread.facts.queue_position = view.queue_position;
    thread.facts.behind = view.behind;
    thread.facts.starts_in_seconds = view.starts_in_seconds;
    thread.facts.waiting_for = Some("payments in alice is being deployed (#12)".to_owned());
    thread.facts.usual = Some(std::time::Duration::from_secs(130));
    thread.facts.away_since = Some(at(-30));
    thread.facts.asked_by = Some("U024BE7LH".parse().unwrap());
    thread.facts.tail = lines(15);
    thread.facts.serving = Some(Serving { commit: COMMIT.parse().unwrap(), url: Some(page("/serves")) });
    thread.facts
}

/// As the server shows it.
fn view(deployment: &Deployment) -> DeploymentView {
    let ahead = json!({ "number": 411, "service": "payments", "sandbox": "bob", "requested_by": deployment.requested_by });
    let view = json!({ "deployment": deployment, "log_url": page("/deployments/1"), "queue_position": 3, "behind": ahead,
        "starts_in_seconds": 190, "log_lines": 200, "superseded_by": null });
    serde_json::from_value(view).unwrap()
}

/// What is said about them.
pub(crate) fn all() -> Vec<Sample> {
    let mut all = Vec::new();
    for one in each() {
        let bare = thread(&one);
        all.push(("deployment::root", bare.root(at(0))));
        all.push(("deployment::root", say::root(&one, &facts(&one), None, at(0))));
        all.push(("answer::cancelling", answer::cancelling(&one)));
        let view = view(&one);
        all.push(("answer::deployment_status", answer::deployment_status(&view, None, at(0))));
        for left in instances().iter().filter(|_| one.instance.is_some()) {
            all.push(("answer::deployment_status", answer::deployment_status(&view, Some(left), at(0))));
        }
        if let Some(Outcome::Failed { failure }) = one.outcome() {
            all.push(("deployment::failure", say::failure(&one, failure, &bare.facts)));
            all.push(("deployment::failure", say::failure(&one, failure, &facts(&one))));
        }
    }
    all.extend(replies());
    all
}

fn replies() -> Vec<Sample> {
    let (running, done) = (running(), ended(Outcome::Succeeded {}));
    let called = &Text::new().mention("U024BE7LH").plain(" ");
    let mut all = vec![
        ("deployment::build_reused", say::build_reused(&running, true)),
        ("deployment::build_reused", say::build_reused(&deployment(), false)),
        ("deployment::note", say::note("submodules are left out")),
        ("deployment::cancel_requested", say::cancel_requested(&running, "bob")),
        ("deployment::succeeded", say::succeeded(&done)),
        ("deployment::cancelled", say::cancelled("bob")),
        ("deployment::superseded", say::superseded(DeploymentNumber(413))),
        ("deployment::recovered", say::recovered(&done)),
    ];
    let line = |n: u64, text: &str| json!({ "n": n, "at": at(0), "step": "build", "stream": "stdout", "text": text });
    let window =
        json!({ "total": 200, "complete": true, "lines": [line(199, "go: <building>"), line(200, "")] });
    let window: LogWindow = serde_json::from_value(window).unwrap();
    all.push(("answer::build_log", answer::build_log(&view(&done), &window)));
    all.extend(
        Step::ALL.map(|one| ("deployment::step_done", say::step_done(&running, &step(one, Some(-20))))),
    );
    for after in afters() {
        let mut thread = thread(&done);
        thread.instance_is(&instances()[2]);
        let restarts = thread.facts.restarts.clone();
        all.push(("deployment::root", say::root(&done, &thread.facts, Some(&after), at(0))));
        all.extend(
            say::broke(&done, called, &after, restarts.as_ref())
                .map(|message| ("deployment::broke", message)),
        );
        if let Some(restarts) = restarts {
            all.push(("deployment::restarted", say::restarted(&done, called, &restarts)));
        }
    }
    for left in instances() {
        let mut thread = thread(&done);
        thread.instance_is(&left);
        all.push(("deployment::root", thread.root(at(0))));
        if left.state == (InstanceState::Unhealthy {}) {
            let unhealthy = Unhealthy { since: at(-60), detail: "GET /healthz answered 500".to_owned() };
            all.push(("deployment::unhealthy", say::unhealthy(&done, called, &unhealthy)));
        }
    }
    all
}
