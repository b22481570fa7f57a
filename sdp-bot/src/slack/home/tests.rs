//! Whether Slack takes every home, and how one looks.

use insta::assert_snapshot;
use sdp_core::api::SandboxView;
use sdp_core::principal::Role;

use super::super::render::check;
use super::*;
use crate::message::samples::{self, at};

fn facts(sandboxes: Vec<SandboxView>) -> HomeFacts {
    let running = samples::running();
    HomeFacts {
        me: samples::me(Some("alice"), Role::Developer),
        sandboxes,
        branches: [(running.id, running)].into(),
        deployments: samples::deployments(),
    }
}

fn shown(facts: Result<HomeFacts, ClientError>) -> String {
    let view = home(&facts, at(0));
    check::view(&view);
    let SlackView::Home(home) = view else { panic!("{view:?}") };
    assert!(home.blocks.len() <= MAX_BLOCKS, "{}", home.blocks.len());
    check::show(&home.blocks)
}

#[test]
fn a_home_shows_what_runs_and_what_was_deployed_with_what_one_can_do() {
    let mut facts = facts(vec![
        samples::sandbox("alice", samples::instances().into_iter().step_by(3).collect()),
        samples::sandbox("qa-42", Vec::new()),
    ]);
    facts.deployments = vec![samples::running(), samples::failed()];
    assert_snapshot!(shown(Ok(facts)), @"");
}

#[test]
fn whoever_is_new_is_told_how_to_begin() {
    let nobody = samples::me(None, Role::Viewer);
    let closed = sdp_core::api::Me { login: false, ..nobody.clone() };
    let mut text = String::new();
    for me in [nobody, closed, samples::me(Some("alice"), Role::Developer)] {
        let facts =
            HomeFacts { me, deployments: Vec::new(), branches: Default::default(), ..facts(Vec::new()) };
        text += &shown(Ok(facts));
        text += "\n";
    }
    text += &shown(Err(samples::away()));
    assert_snapshot!(text, @"");
}

#[test]
fn what_has_no_room_is_counted() {
    for sandboxes in 0..40 {
        let views: Vec<SandboxView> =
            (0..sandboxes).map(|n| samples::sandbox(&format!("qa-{n}"), samples::instances())).collect();
        let mut facts = facts(views);
        shown(Ok(facts.clone()));
        facts.deployments.truncate(sandboxes % 12);
        let text = shown(Ok(facts));
        let things = sandboxes * (1 + samples::instances().len());
        let deletes = text.matches("sandbox delete").count();
        let rows = text.matches("*payments* `feature/refund` `1a2b3c4d`").count();
        let left = match text.split_once("# Your deployments").unwrap().0.rsplit_once("\nand ") {
            Some((_, left)) => left.split(' ').next().unwrap().parse().unwrap(),
            None => 0,
        };
        assert_eq!(deletes + rows + left, things, "{text}");
    }
}

#[test]
fn a_home_is_the_same_until_something_happens() {
    let facts = Ok(facts(vec![samples::sandbox("alice", samples::instances())]));
    let view = |second| serde_json::to_string(&home(&facts, at(second))).unwrap();
    assert!(view(45) == view(95));
    assert!(view(45) != view(105));
}
