//! What people and programs wrote is text, whatever it looks like.

use super::*;

#[test]
fn what_people_and_programs_wrote_is_text() {
    let evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u{202e}";
    let info = CommitInfo { author: evil.into(), subject: evil.into() };
    let changes = changes::changes(2, 0, &[evil, evil]);
    // Quotes and ampersands are allowed in branches.
    let story = Story::new(412, "payments", "a'b&c=$(x);d")
        .building()
        .then(0, EventKind::Noted { text: evil.into() });
    let mut story = story.then(0, EventKind::CommitFetched { info, changes: Some(changes) });
    let running = story.page(0, 3, None).render().0;
    let failure = Failure::new(Step::Build, FailureReason::BuildFailed, evil);
    story = story.ended(1, Outcome::Failed { failure });
    let crashed = instance(
        &story,
        InstanceState::Stopped {
            reason: StopReason::Crashed { exit_code: None, signal: Some(9), out_of_memory: false },
        },
        &[evil],
    );
    let failed = story.page(0, 3, Some(crashed.clone())).render().0;
    let list = Home {
        running: vec![(crashed, Some(story.deployment.clone()))],
        recent: vec![story.deployment.clone()],
        ..home()
    };
    let prefill: Prefill = serde_json::from_value(
        serde_json::json!({ "git_ref": "a'b&c=$(x);d", "service": evil, "sandbox": evil }),
    )
    .unwrap();
    let list = Home { prefill, ..list }.render().0;
    for html in [running, failed, list] {
        assert!(!html.contains("<img") && !html.contains("<script>alert"), "{html}");
        assert!(!html.contains('\u{202e}') && html.contains("⟨U+202E⟩"), "{html}");
        assert!(
            !html.contains(" style=") && !html.contains(" onclick="),
            "the policy forbids inline style and script"
        );
        // maud leaves single quotes alone, and puts every attribute into double ones.
        assert!(html.contains("a'b&amp;c=$(x);d"), "{html}");
    }
}

#[test]
fn only_web_addresses_become_links() {
    let story = Story::new(412, "payments", "main").live();
    let mut live = instance(&story, InstanceState::Live {}, &[]);
    live.url = Some("javascript:alert(1)".parse().unwrap());
    let mut deployment = story.deployment.clone();
    deployment.url.clone_from(&live.url);
    let html = Home { running: vec![(live, Some(deployment))], ..home() }.render().0;
    assert!(!html.contains("javascript:"), "{html}");
}
