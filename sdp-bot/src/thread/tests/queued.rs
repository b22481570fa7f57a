//! What a deployment says while it waits for its turn.

use super::*;

#[test]
fn a_queued_one_says_its_place() {
    let mut story = Story::new();
    let mut thread = begin(&story.requested("main", "alice"));
    let mut view = DeploymentView {
        deployment: thread.deployment().clone(),
        log_url: thread.facts.log_url.clone(),
        queue_position: Some(2),
        behind: None,
        starts_in_seconds: None,
        log_lines: 0,
        superseded_by: None,
        waiting_for: None,
    };
    assert!(thread.catch_up(view.clone()));
    assert!(!thread.catch_up(view.clone()), "nothing new");
    assert!(thread.root(at(1)).title.words().ends_with(": queued, 2nd in line"));
    view.behind = Some(sdp_core::api::Ahead {
        number: "411".parse().unwrap(),
        service: "ledger".parse().unwrap(),
        sandbox: "bob".parse().unwrap(),
        requested_by: Principal::Person { name: "bob".parse().unwrap() },
    });
    for (seconds, about) in
        [(0, ""), (12, ", about 20 s"), (59, ", about 60 s"), (89, ", about 1 min"), (170, ", about 3 min")]
    {
        view.starts_in_seconds = Some(seconds);
        assert!(thread.catch_up(view.clone()));
        let ending = format!(": queued, 2nd in line, behind bob's #411 ledger{about}");
        assert!(thread.root(at(1)).title.words().ends_with(&ending), "{ending}");
    }
    view = DeploymentView { queue_position: Some(1), behind: None, starts_in_seconds: None, ..view };
    assert!(thread.catch_up(view));
    assert!(thread.root(at(1)).title.words().ends_with(": queued, next in line"));
}
