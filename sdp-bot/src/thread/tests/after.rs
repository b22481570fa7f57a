//! What is told of an instance after its deployment has succeeded.

use super::*;

/// A thread that has told that it runs.
fn running(story: &mut Story) -> Thread {
    let mut events = vec![story.requested("main", "alice")];
    events.extend(story.until_it_runs());
    told(&events, |_| {}).0
}

/// What a bot knows that was restarted: what it told, and what the server says of the instance.
fn restarted(before: &Thread, instance: &Instance) -> Thread {
    let log_url = before.facts.log_url.clone();
    let mut thread = Thread::new(before.deployment().clone(), log_url, before.told().clone());
    thread.await_view();
    thread.give_up_view();
    thread.instance_is(instance);
    thread
}

fn first_line(thread: &Thread) -> String {
    thread.root(at(99)).title.words()
}

#[test]
fn one_that_is_not_well_calls_the_owner_once_and_so_does_its_recovery_also_after_a_restart_of_the_bot() {
    let mut story = Story::new();
    let mut thread = running(&mut story);
    let detail = "GET /healthz answered 500".to_owned();
    let event = story.event(EventKind::InstanceUnhealthy { detail: detail.clone() });
    assert!(thread.apply(&event));
    let mut text = tell(&mut thread, |_| {}) + &first_line(&thread) + "\n";
    assert!(!thread.apply(&event) && thread.due().is_empty(), "said once");

    let mut instance = story.left(InstanceState::Unhealthy {});
    instance.unhealthy = Some(Unhealthy { since: event.at, detail });
    let mut thread = restarted(&thread, &instance);
    assert!(thread.due().is_empty(), "told already");
    assert!(first_line(&thread).contains("unhealthy"));

    let recovered = story.event(EventKind::InstanceRecovered {});
    assert!(thread.apply(&recovered));
    // A view that was asked for before.
    assert!(!thread.instance_is(&instance));
    text += &tell(&mut thread, |_| {});
    text += &first_line(&thread);
    assert_snapshot!(text, @r"
        ✗ @alice payments in alice runs, but is unhealthy: GET /healthz answered 500
          Requests still go to it; it is checked until it is well
          next `logs payments in alice` shows what it prints; `redeploy 412`
          [Logs] logs payments in alice
          [Redeploy] redeploy 412
    #412 payments `main` → alice: running after 12 s, but unhealthy: GET /healthz answered 500
        ✓ payments in alice is healthy again
    #412 payments `main` → alice: running after 12 s
    ");
    let thread = restarted(&thread, &story.left(InstanceState::Live {}));
    assert!(thread.due().is_empty(), "told already");
    // Another time is told again.
    let mut thread = thread;
    thread.apply(&story.event(EventKind::InstanceUnhealthy { detail: "nothing listens".into() }));
    assert_eq!(tell(&mut thread, |_| {}).matches("unhealthy").count(), 1);
    thread.apply(&story.event(EventKind::InstanceRecovered {}));
    assert_eq!(tell(&mut thread, |_| {}).matches("healthy again").count(), 1);
}

#[test]
fn a_recovery_that_the_bot_missed_is_told_and_an_end_says_more_than_either() {
    let mut story = Story::new();
    let mut thread = running(&mut story);
    thread.apply(&story.event(EventKind::InstanceUnhealthy { detail: "nothing listens".into() }));
    tell(&mut thread, |_| {});
    let mut back = restarted(&thread, &story.left(InstanceState::Live {}));
    assert_eq!(tell(&mut back, |_| {}).matches("healthy again").count(), 1);
    let reason = StopReason::NotStarted { detail: "its build is not on the agent any more".into() };
    thread.apply(&story.event(EventKind::InstanceStopped { reason, last_lines: vec![] }));
    assert_snapshot!(tell(&mut thread, |_| {}) + &first_line(&thread), @r"
        ✗ @alice payments in alice could not be started again: its build is not on the agent any more
          next redeploy 412
          [Redeploy] redeploy 412
    #412 payments `main` → alice: could not be started again: its build is not on the agent any more
    ");
}

#[test]
fn with_its_agent_or_its_machine_it_is_told_why_it_was_started_again() {
    let mut text = String::new();
    for reason in [StopReason::AgentRestarted {}, StopReason::EngineRestarted {}] {
        let mut story = Story::new();
        let mut thread = running(&mut story);
        let kind = EventKind::InstanceRestarted { reason, restarts: 1, last_lines: vec![] };
        let event = story.event(kind);
        thread.apply(&event);
        text += &tell(&mut thread, |_| {});
        text += &(first_line(&thread) + "\n");
        assert!(!thread.apply(&event) && thread.due().is_empty(), "said once");
    }
    assert_snapshot!(text, @r"
        ✗ @alice payments in alice was started again: its agent was restarted
          next `logs payments in alice` shows whether it is well now
          [Logs] logs payments in alice
    #412 payments `main` → alice: running after 12 s, restarted once: its agent was restarted
        ✗ @alice payments in alice was started again: its container engine was restarted
          next `logs payments in alice` shows whether it is well now
          [Logs] logs payments in alice
    #412 payments `main` → alice: running after 12 s, restarted once: its container engine was restarted
    ");
}

fn crashed(out_of_memory: bool) -> StopReason {
    StopReason::Crashed { exit_code: None, signal: Some(9), out_of_memory }
}

#[test]
fn a_crash_after_the_end_calls_the_owner_once() {
    let mut story = Story::new();
    let mut events = vec![story.requested("main", "alice")];
    events.extend(story.until_it_runs());
    let (mut thread, _) = told(&events, |_| {});
    let reason = StopReason::Crashed { exit_code: Some(3), signal: None, out_of_memory: false };
    let crash =
        story.event(EventKind::InstanceStopped { reason, last_lines: vec!["panic: no money".into()] });
    assert!(thread.apply(&crash));
    let text = tell(&mut thread, |_| {}) + &thread.root(crash.at).to_plain();
    assert!(!thread.apply(&crash) && thread.due().is_empty(), "said once");
    assert!(thread.is_over());
    assert_snapshot!(text, @r"
        ✗ @alice payments in alice crashed with exit code 3
          next redeploy 412
          | panic: no money
          [Redeploy] redeploy 412
    ✗ #412 payments `main` → alice: crashed with exit code 3
      `1a2b3c4d` Add refunds <!channel> · Åsa
      with DEBUG
      log https://sdp.example.com/deployments/1
      [Log] https://sdp.example.com/deployments/1
      [Redeploy] redeploy 412
    ");
}

#[test]
fn being_replaced_changes_the_message_and_bothers_nobody() {
    let mut story = Story::new();
    let mut events = vec![story.requested("main", "alice")];
    events.extend(story.until_it_runs());
    let (mut thread, _) = told(&events, |_| {});
    for kind in [
        EventKind::InstanceDraining { reason: StopReason::Replaced {} },
        EventKind::InstanceStopped { reason: StopReason::Replaced {}, last_lines: vec![] },
    ] {
        assert!(thread.apply(&story.event(kind)));
        assert!(thread.due().is_empty());
        assert!(thread.root(at(99)).title.words().ends_with("replaced by a newer deployment"));
    }
    assert!(thread.is_over());
}

#[test]
fn restarts_in_a_row_are_told_once_with_reason_and_last_lines_and_counted_in_the_message() {
    let mut story = Story::new();
    let mut events = vec![story.requested("main", "alice")];
    events.extend(story.until_it_runs());
    for restarts in 1..=3 {
        let last_lines = vec![format!("life {restarts}"), "allocating".to_owned()];
        events.push(story.event(EventKind::InstanceRestarted {
            reason: crashed(true),
            restarts,
            last_lines,
        }));
    }
    let mut thread = begin(&events[0]);
    let mut text = String::new();
    for event in &events[1..] {
        thread.apply(event);
        for due in thread.due() {
            let Due::Reply { key, message } = due else { continue };
            if key.starts_with("restart") {
                text += &message.to_plain();
            }
            thread.was_told(key);
        }
    }
    text += &thread.root(at(99)).to_plain();
    assert_snapshot!(text, @r"
    ✗ @alice payments in alice was started again: it ran out of memory
      next `logs payments in alice` shows whether it is well now
      | life 1
      | allocating
      [Logs] logs payments in alice
    ✓ #412 payments `main` → alice: running after 12 s, restarted 3 times: it ran out of memory
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
    // Much later it is news again.
    let mut event =
        story.event(EventKind::InstanceRestarted { reason: crashed(false), restarts: 4, last_lines: vec![] });
    event.at += IN_A_ROW;
    assert!(thread.apply(&event));
    let told: Vec<_> = thread.due();
    assert!(matches!(told.as_slice(), [Due::Reply { key, .. }] if key == "restart:4"), "{told:?}");
    // And once more when it is given up.
    tell(&mut thread, |_| {});
    let last_lines = vec!["panic: no money".into()];
    thread.apply(&story.event(EventKind::InstanceStopped { reason: crashed(false), last_lines }));
    assert_snapshot!(tell(&mut thread, |_| {}), @r"
        ✗ @alice payments in alice crashed, ended by signal 9; it was restarted 4 times before
          next redeploy 412
          | panic: no money
          [Redeploy] redeploy 412
    ");
}

#[test]
fn whoever_asked_is_called_by_the_name_that_the_chat_knows_and_not_by_that_of_their_account() {
    let mut story = Story::new();
    let thread = running(&mut story);
    let mut called = |kind: EventKind| {
        let mut thread = thread.clone();
        thread.facts.asked_by = Some("U024BE7LH".parse().unwrap());
        thread.apply(&story.event(kind));
        tell(&mut thread, |_| {})
    };
    let crashed = || StopReason::Crashed { exit_code: Some(3), signal: None, out_of_memory: false };
    for text in [
        called(EventKind::InstanceUnhealthy { detail: "nothing listens".into() }),
        called(EventKind::InstanceStopped { reason: crashed(), last_lines: Vec::new() }),
        called(EventKind::InstanceRestarted { reason: crashed(), restarts: 1, last_lines: Vec::new() }),
    ] {
        assert!(text.contains("✗ @U024BE7LH payments in alice "), "{text}");
    }
    let mut story = Story::new();
    let mut events = vec![story.requested("main", "alice")];
    events.extend(story.until_build());
    let failure = Failure::new(Step::Build, FailureReason::BuildFailed, "make: *** [all] Error 2");
    events.push(story.event(EventKind::DeploymentEnded { outcome: Outcome::Failed { failure }, url: None }));
    let (_, text) = told(&events, |facts| facts.asked_by = Some("U024BE7LH".parse().unwrap()));
    assert!(text.contains("✗ @U024BE7LH build failed"), "{text}");
}
