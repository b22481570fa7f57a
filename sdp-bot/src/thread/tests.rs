//! Whole stories of deployments, as a chat would show them.

mod after;
mod changes;
mod queued;

use std::fmt::Write as _;

use insta::assert_snapshot;
use sdp_core::deployment::{Changes, CommitInfo, DeployKind, Outcome, Step};
use sdp_core::event::About;
use sdp_core::failure::{Failure, FailureReason};
use sdp_core::id::{DeploymentId, DeploymentNumber, EventSeq, InstanceId};
use sdp_core::principal::Principal;
use uuid::Uuid;

use super::*;

const COMMIT: &str = "1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d";

/// Makes events a second apart, and remembers them.
struct Story {
    id: DeploymentId,
    instance: InstanceId,
    seq: u64,
    by: Principal,
    changes: Option<Changes>,
    env: std::collections::BTreeMap<sdp_core::name::EnvName, String>,
}

impl Story {
    fn new() -> Self {
        let by = Principal::person("alice".parse().unwrap());
        let env = [("DEBUG".parse().unwrap(), "1".to_owned())].into();
        Self {
            changes: None,
            env,
            id: DeploymentId::from(Uuid::from_u128(1)),
            instance: InstanceId::from(Uuid::from_u128(2)),
            seq: 0,
            by,
        }
    }

    fn event(&mut self, kind: EventKind) -> Event {
        self.seq += 1;
        let about = About {
            deployment: Some(self.id),
            instance: matches!(
                kind,
                EventKind::InstanceStarted { .. }
                    | EventKind::InstanceRestarted { .. }
                    | EventKind::InstanceUnhealthy { .. }
                    | EventKind::InstanceRecovered {}
                    | EventKind::InstanceStopped { .. }
                    | EventKind::InstanceDraining { .. }
            )
            .then_some(self.instance),
            ..About::default()
        };
        Event { seq: EventSeq(self.seq), at: at(self.seq), by: self.by.clone(), about, kind }
    }

    fn requested(&mut self, git_ref: &str, sandbox: &str) -> Event {
        self.event(EventKind::DeploymentRequested {
            number: DeploymentNumber(412),
            kind: DeployKind::Deploy,
            service: "payments".parse().unwrap(),
            sandbox: sandbox.parse().unwrap(),
            git_ref: git_ref.parse().unwrap(),
            commit: None,
            of: None,
            env: self.env.clone(),
            notify: None,
            batch: None,
        })
    }

    fn until_build(&mut self) -> Vec<Event> {
        vec![
            self.event(EventKind::DeploymentSent { agent: "vm-1".parse().unwrap(), attempt: 1 }),
            self.event(EventKind::StepStarted { step: Step::Resolve, first_line: 1 }),
            self.event(EventKind::CommitResolved { commit: COMMIT.parse().unwrap() }),
            self.event(EventKind::StepStarted { step: Step::Fetch, first_line: 2 }),
            self.event(EventKind::CommitFetched {
                info: CommitInfo {
                    author: "Åsa".into(), subject: "Add \u{1b}[31mrefunds <!channel>".into()
                },
                changes: self.changes.clone(),
            }),
            self.event(EventKind::Noted { text: "submodules are left out".into() }),
            self.event(EventKind::StepStarted { step: Step::Build, first_line: 4 }),
        ]
    }

    fn until_it_runs(&mut self) -> Vec<Event> {
        let mut events = self.until_build();
        let address = "127.0.0.1:4000".parse().unwrap();
        events.extend([
            self.event(EventKind::StepStarted { step: Step::Start, first_line: 90 }),
            self.event(EventKind::InstanceStarted { commit: COMMIT.parse().unwrap(), address }),
            self.event(EventKind::StepStarted { step: Step::Check, first_line: 90 }),
            self.event(EventKind::StepStarted { step: Step::Switch, first_line: 91 }),
            self.event(EventKind::DeploymentEnded {
                outcome: Outcome::Succeeded {},
                url: Some("http://payments.alice.localhost/".parse().unwrap()),
            }),
        ]);
        events
    }

    /// What it left running.
    fn left(&self, state: InstanceState) -> Instance {
        Instance {
            id: self.instance,
            service: "payments".parse().unwrap(),
            sandbox: "alice".parse().unwrap(),
            environment: "default".parse().unwrap(),
            git_ref: None,
            deployment: self.id,
            commit: COMMIT.parse().unwrap(),
            agent: "vm-1".parse().unwrap(),
            address: None,
            url: Some("http://payments.alice.localhost/".parse().unwrap()),
            state,
            started_at: at(1),
            stopped_at: None,
            restarts: 0,
            last_restart: None,
            unhealthy: None,
            last_lines: vec!["panic: no money".into()],
        }
    }

    fn ended(&mut self, outcome: Outcome) -> Event {
        self.event(EventKind::DeploymentEnded { outcome, url: None })
    }
}

fn at(second: u64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + i64::try_from(second).unwrap()).unwrap()
}

fn begin(event: &Event) -> Thread {
    let log_url = "https://sdp.example.com/deployments/1".parse().unwrap();
    Thread::new(Deployment::begin(event).unwrap(), log_url, BTreeSet::new())
}

/// Tells what is due, and gives it as text; what must be learnt first is learnt as given.
fn tell(thread: &mut Thread, learn: impl Fn(&mut Facts)) -> String {
    let mut out = String::new();
    for _ in 0..2 {
        for due in thread.due() {
            match due {
                Due::Reply { key, message } => {
                    write!(out, "    {}", message.to_plain().replace("\n  ", "\n      ")).unwrap();
                    thread.was_told(key);
                }
                Due::LearnFailure(_) => {
                    learn(&mut thread.facts);
                    thread.facts.failure_known = true;
                }
            }
        }
    }
    out
}

/// The whole story: after each event the message's first line, if it changed, and the replies.
fn told(events: &[Event], learn: impl Fn(&mut Facts)) -> (Thread, String) {
    let mut thread = begin(&events[0]);
    let mut out = thread.root(events[0].at).to_plain();
    for event in &events[1..] {
        if thread.apply(event) {
            let root = thread.root(event.at).to_plain();
            writeln!(out, "{}", root.lines().next().unwrap()).unwrap();
            out.push_str(&tell(&mut thread, &learn));
        }
    }
    let end = events.last().unwrap().at;
    write!(out, "---\n{}", thread.root(end).to_plain()).unwrap();
    (thread, out)
}

#[test]
fn a_deploy_that_succeeds() {
    let mut story = Story::new();
    let mut events = vec![story.requested("feature/refund", "alice")];
    events.extend(story.until_it_runs());
    let (thread, text) = told(&events, |_| {});
    assert!(thread.is_told() && !thread.is_over(), "what runs may still stop");
    assert_snapshot!(text, @r"
    … #412 payments `feature/refund` → alice: queued
      with DEBUG
      log https://sdp.example.com/deployments/1
      [Log] https://sdp.example.com/deployments/1
      [Cancel] cancel 412
    … #412 payments `feature/refund` → alice: queued
    ▸ #412 payments `feature/refund` → alice: resolving 0 s
    ▸ #412 payments `feature/refund` → alice: resolving 1 s
    ▸ #412 payments `feature/refund` → alice: fetching 0 s
        ✓ resolve `feature/refund` is `1a2b3c4d` 2.0 s
    ▸ #412 payments `feature/refund` → alice: fetching 1 s
    ▸ #412 payments `feature/refund` → alice: fetching 2 s
        i submodules are left out
    ▸ #412 payments `feature/refund` → alice: building 0 s
        ✓ fetch Add refunds <!channel> · Åsa 3.0 s
    ▸ #412 payments `feature/refund` → alice: starting 0 s
        ✓ build 1.0 s
    ▸ #412 payments `feature/refund` → alice: starting 1 s
    ▸ #412 payments `feature/refund` → alice: checking 0 s
        ✓ start on vm-1 2.0 s
    ▸ #412 payments `feature/refund` → alice: switching 0 s
        ✓ check it is healthy 1.0 s
    ✓ #412 payments `feature/refund` → alice: running after 12 s
        ✓ switch alice's requests for payments go to it 1.0 s
        ✓ running after 12 s http://payments.alice.localhost/
    ---
    ✓ #412 payments `feature/refund` → alice: running after 12 s
      `1a2b3c4d` Add refunds <!channel> · Åsa
      with DEBUG
      url http://payments.alice.localhost/
      log https://sdp.example.com/deployments/1
      [Open] http://payments.alice.localhost/
      [Log] https://sdp.example.com/deployments/1
      [Redeploy] redeploy 412
      [Roll back] rollback 412
      [Stop] stop 412
    ");
}

#[test]
fn a_build_that_fails_calls_who_asked_and_says_what_still_serves() {
    let mut story = Story::new();
    let mut events = vec![story.requested("feature/refund", "qa-42")];
    events.extend(story.until_build());
    let failure = Failure {
        exit_code: Some(2),
        line: Some(88),
        ..Failure::new(Step::Build, FailureReason::BuildFailed, "go build: undefined: refund")
    };
    events.push(story.ended(Outcome::Failed { failure }));
    let (thread, text) = told(&events, |facts| {
        facts.tail = vec!["# payments".into(), "\u{1b}[1m./main.go:3: undefined: refund\u{1b}[0m".into()];
        facts.serving = Some(Serving {
            commit: "0".repeat(40).parse().unwrap(),
            url: Some("http://payments.qa-42.localhost/".parse().unwrap()),
        });
    });
    assert!(thread.is_over());
    assert_snapshot!(text, @r"
    … #412 payments `feature/refund` → qa-42 (asked by alice): queued
      with DEBUG
      log https://sdp.example.com/deployments/1
      [Log] https://sdp.example.com/deployments/1
      [Cancel] cancel 412
    … #412 payments `feature/refund` → qa-42 (asked by alice): queued
    ▸ #412 payments `feature/refund` → qa-42 (asked by alice): resolving 0 s
    ▸ #412 payments `feature/refund` → qa-42 (asked by alice): resolving 1 s
    ▸ #412 payments `feature/refund` → qa-42 (asked by alice): fetching 0 s
        ✓ resolve `feature/refund` is `1a2b3c4d` 2.0 s
    ▸ #412 payments `feature/refund` → qa-42 (asked by alice): fetching 1 s
    ▸ #412 payments `feature/refund` → qa-42 (asked by alice): fetching 2 s
        i submodules are left out
    ▸ #412 payments `feature/refund` → qa-42 (asked by alice): building 0 s
        ✓ fetch Add refunds <!channel> · Åsa 3.0 s
    ✗ #412 payments `feature/refund` → qa-42 (asked by alice): failed in build after 8.0 s
        ✗ @alice build failed: the build ended with an error (exit code 2)
          go build: undefined: refund
          next read the last lines of the log, mend the branch and deploy again
          Nothing was switched: `00000000` still serves payments in qa-42 http://payments.qa-42.localhost/
          log https://sdp.example.com/deployments/1#L88
          again `deploy payments feature/refund to qa-42` with DEBUG as before
          | # payments
          | ./main.go:3: undefined: refund
    ---
    ✗ #412 payments `feature/refund` → qa-42 (asked by alice): failed in build after 8.0 s
      `1a2b3c4d` Add refunds <!channel> · Åsa
      with DEBUG
      log https://sdp.example.com/deployments/1
      again `deploy payments feature/refund to qa-42` with DEBUG as before
      [Log] https://sdp.example.com/deployments/1
    ");
}

#[test]
fn a_cancelled_and_a_superseded_one_say_by_whom() {
    let mut story = Story::new();
    let mut events = vec![story.requested("main", "alice")];
    events.extend(story.until_build());
    story.by = Principal::person("bob".parse().unwrap());
    events.push(story.event(EventKind::CancelRequested {}));
    let by = story.by.clone();
    events.push(story.ended(Outcome::Cancelled { by }));
    let (thread, text) = told(&events, |_| {});
    assert!(thread.is_over());
    let tail: Vec<&str> = text.lines().skip_while(|line| !line.contains("cancelling")).collect();
    assert_snapshot!(tail.join("\n"), @r"
    ▸ #412 payments `main` → alice: cancelling
        i bob asked to cancel #412; stopping what it started
    – #412 payments `main` → alice: cancelled by bob
        – cancelled by bob; nothing that it started is left
    ---
    – #412 payments `main` → alice: cancelled by bob
      `1a2b3c4d` Add refunds <!channel> · Åsa
      with DEBUG
      log https://sdp.example.com/deployments/1
      [Log] https://sdp.example.com/deployments/1
      [Retry] redeploy 412
    ");

    let mut story = Story::new();
    let superseded = Outcome::Superseded { by: DeploymentId::new(), number: DeploymentNumber(413) };
    let events = [story.requested("main", "alice"), story.ended(superseded)];
    let (thread, text) = told(&events, |_| {});
    assert!(thread.is_over());
    assert_snapshot!(text, @r"
    … #412 payments `main` → alice: queued
      with DEBUG
      log https://sdp.example.com/deployments/1
      [Log] https://sdp.example.com/deployments/1
      [Cancel] cancel 412
    – #412 payments `main` → alice: superseded by #413, which was asked for later
        – superseded by #413; nothing was built
          [Status] status 413
    ---
    – #412 payments `main` → alice: superseded by #413, which was asked for later
      with DEBUG
      log https://sdp.example.com/deployments/1
      [Log] https://sdp.example.com/deployments/1
    ");
}

#[test]
fn time_grows_and_an_absent_server_is_said() {
    let mut story = Story::new();
    let mut events = vec![story.requested("main", "alice")];
    events.extend(story.until_build());
    let (mut thread, _) = told(&events, |_| {});
    assert!(thread.ticks());
    thread.facts.usual = Some(Duration::from_millis(41_300));
    thread.facts.away_since = Some(at(20));
    thread.facts.log_link = Some("https://sdp.example.com/sign-in/once".parse().unwrap());
    assert_snapshot!(thread.root(at(75)).to_plain(), @r"
    ▸ #412 payments `main` → alice: building 1 min 07 s (1 min 14 s in all, usually 41 s)
      `1a2b3c4d` Add refunds <!channel> · Åsa
      with DEBUG
      log https://sdp.example.com/sign-in/once
      ! SDP's server has not answered for 55 s; what runs goes on, but this may be out of date
      [Log] https://sdp.example.com/deployments/1
      [Cancel] cancel 412
    ");
}

#[test]
fn whatever_comes_first_and_however_often_each_reply_is_told_once() {
    let mut story = Story::new();
    let mut events = vec![story.requested("main", "alice")];
    events.extend(story.until_it_runs());
    let (whole, _) = told(&events, |_| {});
    for cut in 1..events.len() {
        let (mut thread, _) = told(&events[..cut], |_| {});
        // The bot is restarted here, or the view overtakes the feed.
        let (now, _) = told(&events, |_| {});
        let view = DeploymentView {
            deployment: now.deployment().clone(),
            log_url: now.facts.log_url.clone(),
            queue_position: None,
            behind: None,
            starts_in_seconds: None,
            log_lines: 0,
            superseded_by: None,
            waiting_for: None,
        };
        let before = thread.told().len();
        let mut restarted = Thread::new(view.deployment.clone(), view.log_url.clone(), thread.told().clone());
        assert_eq!(restarted.due().len(), whole.told().len() - before, "after {cut} events");
        tell(&mut restarted, |_| {});
        assert_eq!(restarted.told(), whole.told());
        thread.catch_up(view);
        tell(&mut thread, |_| {});
        for event in &events[cut..] {
            thread.apply(event);
            assert!(thread.due().is_empty(), "after {cut} events, {:?}", event.kind);
        }
        assert_eq!(thread.root(at(50)), whole.root(at(50)));
    }
}

#[test]
fn what_happened_before_it_was_followed_is_not_missed_however_late_the_view_is() {
    let mut story = Story::new();
    let mut events = vec![story.requested("main", "alice")];
    events.extend(story.until_it_runs());
    let (whole, _) = told(&events, |_| {});
    let view_after = |n: usize| {
        let (then, _) = told(&events[..n], |_| {});
        DeploymentView {
            deployment: then.deployment().clone(),
            log_url: then.facts.log_url.clone(),
            queue_position: None,
            behind: None,
            starts_in_seconds: None,
            log_lines: 0,
            superseded_by: None,
            waiting_for: None,
        }
    };
    // Followed after `missed` events; the view is from then, or from later, and comes after all events.
    for missed in 1..events.len() {
        for seen in missed..=events.len() {
            let mut thread = begin(&events[0]);
            thread.await_view();
            for event in &events[missed..] {
                assert!(!thread.apply(event));
            }
            thread.catch_up(view_after(seen));
            tell(&mut thread, |_| {});
            assert_eq!(thread.deployment(), whole.deployment(), "missed {missed}, view after {seen}");
            assert_eq!(thread.told(), whole.told());
        }
    }
}

/// What is offered after a failure.
fn after_failure(env: bool, sandbox: &str, failure: Failure) -> String {
    let mut story = Story::new();
    if !env {
        story.env.clear();
    }
    let events = [story.requested("feature/refund", sandbox), story.ended(Outcome::Failed { failure })];
    let (thread, _) = told(&events, |_| {});
    let mut restarted =
        Thread::new(thread.deployment().clone(), thread.facts.log_url.clone(), BTreeSet::new());
    tell(&mut restarted, |_| {}) + &restarted.root(at(9)).to_plain()
}

#[test]
fn after_a_failure_the_branch_is_offered_and_not_the_commit_that_failed() {
    let build = || Failure::new(Step::Build, FailureReason::BuildFailed, "go build: undefined: refund");
    let mut text = after_failure(false, "alice", build());
    text += &after_failure(false, "qa-42", build());
    text += &after_failure(true, "alice", build());
    assert_snapshot!(text, @r"
        ✗ @alice build failed: the build ended with an error
          go build: undefined: refund
          next read the last lines of the log, mend the branch and deploy again
          log https://sdp.example.com/deployments/1
          [Deploy again] deploy payments feature/refund
    ✗ #412 payments `feature/refund` → alice: failed in build after 1.0 s
      log https://sdp.example.com/deployments/1
      [Log] https://sdp.example.com/deployments/1
      [Deploy again] deploy payments feature/refund
        ✗ @alice build failed: the build ended with an error
          go build: undefined: refund
          next read the last lines of the log, mend the branch and deploy again
          log https://sdp.example.com/deployments/1
          [Deploy again] deploy payments feature/refund to qa-42
    ✗ #412 payments `feature/refund` → qa-42 (asked by alice): failed in build after 1.0 s
      log https://sdp.example.com/deployments/1
      [Log] https://sdp.example.com/deployments/1
      [Deploy again] deploy payments feature/refund to qa-42
        ✗ @alice build failed: the build ended with an error
          go build: undefined: refund
          next read the last lines of the log, mend the branch and deploy again
          log https://sdp.example.com/deployments/1
          again `deploy payments feature/refund` with DEBUG as before
    ✗ #412 payments `feature/refund` → alice: failed in build after 1.0 s
      with DEBUG
      log https://sdp.example.com/deployments/1
      again `deploy payments feature/refund` with DEBUG as before
      [Log] https://sdp.example.com/deployments/1
    ");
}

#[test]
fn a_name_that_was_probably_meant_is_offered_and_a_reason_is_said_once() {
    let not_found = |detail| Failure::new(Step::Resolve, FailureReason::RefNotFound, detail);
    let detail = "there is no branch or tag feature/refnd; did you mean feature/refund?";
    let mut text = after_failure(false, "alice", not_found(detail));
    text += &after_failure(false, "alice", not_found("there is no branch or tag x"));
    let detail = "the service ended before it was healthy: exit status 3";
    text += &after_failure(false, "alice", Failure::new(Step::Check, FailureReason::Exited, detail));
    assert_snapshot!(text, @r"
        ✗ @alice resolve failed: there is no such branch, tag or commit
          there is no branch or tag feature/refnd; did you mean feature/refund?
          next check its name, and that it is pushed
          log https://sdp.example.com/deployments/1
          [Deploy again] deploy payments feature/refund
    ✗ #412 payments `feature/refund` → alice: failed in resolve after 1.0 s
      log https://sdp.example.com/deployments/1
      [Log] https://sdp.example.com/deployments/1
      [Deploy again] deploy payments feature/refund
        ✗ @alice resolve failed: there is no such branch, tag or commit
          there is no branch or tag x
          next check its name, and that it is pushed
          log https://sdp.example.com/deployments/1
    ✗ #412 payments `feature/refund` → alice: failed in resolve after 1.0 s
      log https://sdp.example.com/deployments/1
      [Log] https://sdp.example.com/deployments/1
        ✗ @alice check failed: the service ended before it was healthy
          exit status 3
          next read its last lines in the log
          log https://sdp.example.com/deployments/1
          [Deploy again] deploy payments feature/refund
    ✗ #412 payments `feature/refund` → alice: failed in check after 1.0 s
      log https://sdp.example.com/deployments/1
      [Log] https://sdp.example.com/deployments/1
      [Deploy again] deploy payments feature/refund
    ");
}

#[test]
fn the_status_of_one_that_runs_no_more_says_so() {
    let mut story = Story::new();
    let mut events = vec![story.requested("main", "alice")];
    events.extend(story.until_it_runs());
    let (thread, _) = told(&events, |_| {});
    let view = DeploymentView {
        deployment: thread.deployment().clone(),
        log_url: thread.facts.log_url.clone(),
        queue_position: None,
        behind: None,
        starts_in_seconds: None,
        log_lines: 0,
        superseded_by: None,
        waiting_for: None,
    };
    let left = |state| story.left(state);
    let mut text = String::new();
    for reason in [
        StopReason::Replaced {},
        StopReason::Stopped { by: story.by.clone() },
        StopReason::Crashed { exit_code: None, signal: Some(9), out_of_memory: false },
    ] {
        let left = left(InstanceState::Stopped { reason });
        text += &crate::message::answer::deployment_status(&view, Some(&left), at(99)).to_plain();
    }
    let live = left(InstanceState::Live {});
    let runs = crate::message::answer::deployment_status(&view, Some(&live), at(99)).to_plain();
    assert!(runs.contains("url http"), "{runs}");
    assert_snapshot!(text, @r"
    – #412 payments `main` → alice: replaced by a newer deployment
      `1a2b3c4d` Add refunds <!channel> · Åsa
      with DEBUG
      log https://sdp.example.com/deployments/1
      [Log] https://sdp.example.com/deployments/1
      [Redeploy] redeploy 412
    – #412 payments `main` → alice: stopped by alice
      `1a2b3c4d` Add refunds <!channel> · Åsa
      with DEBUG
      log https://sdp.example.com/deployments/1
      [Log] https://sdp.example.com/deployments/1
      [Redeploy] redeploy 412
    ✗ #412 payments `main` → alice: crashed, ended by signal 9
      `1a2b3c4d` Add refunds <!channel> · Åsa
      with DEBUG
      log https://sdp.example.com/deployments/1
      | panic: no money
      [Log] https://sdp.example.com/deployments/1
      [Redeploy] redeploy 412
    ");
}

#[test]
fn one_that_waits_says_for_what_until_something_happens() {
    let mut story = Story::new();
    let first = story.requested("main", "alice");
    let mut thread = begin(&first);
    let view = DeploymentView {
        deployment: thread.deployment().clone(),
        log_url: thread.facts.log_url.clone(),
        queue_position: Some(1),
        behind: None,
        starts_in_seconds: None,
        log_lines: 0,
        superseded_by: None,
        waiting_for: Some("agent vm-1 is degraded: Docker does not answer".to_owned()),
    };
    assert!(thread.catch_up(view));
    let waits = "  waits agent vm-1 is degraded: Docker does not answer\n";
    let said = thread.root(at(9)).to_plain();
    assert!(said.contains(waits), "{said}");
    thread.apply(&story.until_build()[0]);
    let said = thread.root(at(9)).to_plain();
    assert!(!said.contains("waits"), "{said}");
}
