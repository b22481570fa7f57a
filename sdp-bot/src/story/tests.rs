//! The story of several deployments, as a chat would show it.

use std::fmt::Write as _;

use insta::assert_snapshot;
use sdp_core::deployment::{Deployment, Step};
use sdp_core::event::{About as Of, EventKind};
use sdp_core::failure::{Failure, FailureReason};

use super::*;
use crate::message::samples::{self, at, page};

const SERVICES: [&str; 2] = ["payments", "ledger"];

fn id(n: usize) -> DeploymentId {
    uuid::Uuid::from_u128(10 + n as u128).into()
}

fn view() -> BatchView {
    let deployments: Vec<Deployment> = SERVICES
        .iter()
        .enumerate()
        .map(|(n, service)| Deployment {
            id: id(n),
            number: DeploymentNumber(412 + n as u64),
            service: service.parse().unwrap(),
            sandbox: "qa-42".parse().unwrap(),
            ..samples::deployment()
        })
        .collect();
    BatchView { batch: samples::batch(false), deployments, url: page("/sandboxes/qa-42") }
}

/// Events, a second apart, of one deployment or the other.
#[derive(Default)]
struct Feed {
    seq: u64,
}

impl Feed {
    fn event(&mut self, n: usize, kind: EventKind) -> Event {
        self.seq += 1;
        Event {
            seq: EventSeq(10 + self.seq),
            at: at(i64::try_from(self.seq).unwrap()),
            by: Principal::System,
            about: Of { deployment: Some(id(n)), ..Of::default() },
            kind,
        }
    }

    fn step(&mut self, n: usize, step: Step) -> Event {
        self.event(n, EventKind::StepStarted { step, first_line: 1 })
    }

    fn ended(&mut self, n: usize, outcome: Outcome) -> Event {
        let url =
            matches!(outcome, Outcome::Succeeded {}).then(|| page(&format!("/~qa-42/{}/", SERVICES[n])));
        self.event(n, EventKind::DeploymentEnded { outcome, url })
    }
}

fn failed() -> Outcome {
    let failure = Failure::new(Step::Build, FailureReason::BuildFailed, "undefined: Refund");
    Outcome::Failed { failure: Failure { exit_code: Some(2), ..failure } }
}

fn begun() -> Story {
    let mut story = Story::begun(Begun::Several(Box::new(view())));
    story.asked_by(Some(&"U1".parse().unwrap()));
    story
}

/// What is due now, as text; what must be learnt is learnt.
fn tell(story: &mut Story) -> String {
    let mut out = String::new();
    for _ in 0..2 {
        for due in story.due() {
            match due {
                Due::Reply { key, message } => {
                    write!(out, "  {key}: {}", message.to_plain().replace("\n  ", "\n      ")).unwrap();
                    story.was_told(key);
                }
                Due::LearnFailure(id) => {
                    let facts = &mut story.thread_mut(id).unwrap().facts;
                    facts.tail = vec!["main.go:3: undefined: Refund".to_owned()];
                    facts.failure_known = true;
                }
            }
        }
    }
    out
}

#[test]
fn one_message_and_one_thread_tell_of_all_and_who_asked_is_called_once() {
    let (mut story, mut feed) = (begun(), Feed::default());
    let mut out = story.root(at(0)).to_plain();
    for event in [
        feed.step(0, Step::Resolve),
        feed.step(1, Step::Resolve),
        feed.step(0, Step::Build),
        feed.ended(1, failed()),
    ] {
        assert!(story.apply(&event));
        out += &tell(&mut story);
    }
    out += &format!("---\n{}", story.root(at(5)).to_plain());
    assert!(!story.is_told() && story.ticks());
    assert!(story.apply(&feed.ended(0, Outcome::Succeeded {})));
    out += &tell(&mut story);
    assert!(story.is_told() && !story.succeeded() && story.due().is_empty());
    out += &format!("---\n{}", story.root(at(6)).to_plain());
    assert_eq!(out.matches("@U1").count(), 1, "{out}");
    assert_snapshot!(out, @r"
    … payments, ledger → qa-42 (asked by alice): queued
      … #412 payments `feature/refund`: queued · log https://sdp.example.com/deployments/412
      … #413 ledger `feature/refund`: queued · log https://sdp.example.com/deployments/413
      [Sandbox] https://sdp.example.com/sandboxes/qa-42
      [Cancel] cancel 412 413
      0:step:0: ✓ payments resolve `feature/refund` is `` 2.0 s
      1:step:0: ✓ ledger resolve `feature/refund` is `` 2.0 s
      1:end: ✗ ledger build failed: the build ended with an error (exit code 2)
          undefined: Refund
          next read the last lines of the log, mend the branch and deploy again
          log https://sdp.example.com/deployments/413
          | main.go:3: undefined: Refund
          [Deploy again] deploy ledger feature/refund to qa-42
    ---
    ▸ payments, ledger → qa-42 (asked by alice): deploying, 1 of 2 done
      ▸ #412 payments `feature/refund`: building 2 s · log https://sdp.example.com/deployments/412
      ✗ #413 ledger `feature/refund`: failed in build after 1 min 44 s · log https://sdp.example.com/deployments/413
      [Sandbox] https://sdp.example.com/sandboxes/qa-42
      [Cancel] cancel 412
      0:step:1: ✓ payments build 2.0 s
      0:end: ✓ payments running after 1 min 45 s https://sdp.example.com/~qa-42/payments/
      end: ✗ @U1 partial: 1 of 2 serve in qa-42, the rest is as it was
          ledger build failed: the build ended with an error (undefined: Refund)
          [Redeploy failed] deploy ledger feature/refund to qa-42
    ---
    ✗ payments, ledger → qa-42 (asked by alice): partial: 1 of 2 serve after 1 min 45 s
      ✓ #412 payments `feature/refund`: running after 1 min 45 s · log https://sdp.example.com/deployments/412
         url https://sdp.example.com/~qa-42/payments/
      ✗ #413 ledger `feature/refund`: failed in build after 1 min 44 s · log https://sdp.example.com/deployments/413
      [Sandbox] https://sdp.example.com/sandboxes/qa-42
      [Redeploy failed] deploy ledger feature/refund to qa-42
    ");
}

#[test]
fn all_that_succeed_are_told_so_together_and_nobody_is_called() {
    let (mut story, mut feed) = (begun(), Feed::default());
    let mut out = String::new();
    for n in [1, 0] {
        assert!(story.apply(&feed.ended(n, Outcome::Succeeded {})));
        out += &tell(&mut story);
    }
    assert!(story.succeeded() && story.is_told());
    out += &format!("---\n{}", story.root(at(6)).to_plain());
    assert_snapshot!(out, @r"
      1:end: ✓ ledger running after 1 min 41 s https://sdp.example.com/~qa-42/ledger/
      0:end: ✓ payments running after 1 min 42 s https://sdp.example.com/~qa-42/payments/
      end: ✓ succeeded: qa-42's requests go to all 2 services together
    ---
    ✓ payments, ledger → qa-42 (asked by alice): succeeded after 1 min 42 s
      ✓ #412 payments `feature/refund`: running after 1 min 42 s · log https://sdp.example.com/deployments/412
         url https://sdp.example.com/~qa-42/payments/
      ✓ #413 ledger `feature/refund`: running after 1 min 41 s · log https://sdp.example.com/deployments/413
         url https://sdp.example.com/~qa-42/ledger/
      [Sandbox] https://sdp.example.com/sandboxes/qa-42
      [Routes] routes qa-42
      [Share] sandbox share qa-42
    ");
}

#[test]
fn what_was_told_before_a_restart_is_not_told_again() {
    let (mut story, mut feed) = (begun(), Feed::default());
    let events = [
        feed.step(0, Step::Resolve),
        feed.step(0, Step::Build),
        feed.ended(0, Outcome::Succeeded {}),
        feed.ended(1, failed()),
    ];
    for event in &events[..2] {
        story.apply(event);
        tell(&mut story);
    }
    let told = story.told().clone();
    let mut view = view();
    for event in &events {
        view.deployments.iter_mut().for_each(|deployment| deployment.apply(event));
    }
    let mut again = Story::of(View::Several(Box::new(view.clone())), told);
    again.asked_by(Some(&"U1".parse().unwrap()));
    let said = tell(&mut again);
    assert!(!said.contains("0:step:0") && said.contains("0:end") && said.contains("\n  end: "), "{said}");
    let mut last = Story::of(View::Several(Box::new(view)), again.told().clone());
    assert_eq!(tell(&mut last), "");
    assert!(last.is_told());
}

#[test]
fn a_story_s_name_is_read_as_it_is_written_and_sorts_by_creation() {
    let (one, two) = (About::from(DeploymentId::new()), About::from(sdp_core::id::BatchId::new()));
    for about in [one, two] {
        assert_eq!(about.to_string().parse(), Ok(about));
    }
    let later = About::from(DeploymentId::new());
    assert!(one < two && two < later);
    assert!(one.to_string() < two.to_string() && two.to_string() < later.to_string());
}
