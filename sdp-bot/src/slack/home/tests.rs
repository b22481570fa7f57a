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
    assert_snapshot!(shown(Ok(facts)), @r"
    You are *alice*.
    your sandbox *alice*
    you may look and act (developer)
    [Deploy…]!()
    ---
    # Your sandboxes
    *alice* · ends in 2 days · made 1 day ago
    [Extend](sandbox extend alice) [Delete sandbox]?(sandbox delete alice)
    :white_check_mark: *payments* `feature/refund` `1a2b3c4d` *running* for 1 hour
    <http://payments.alice.localhost/>
    [Open](http://payments.alice.localhost/) [Logs](logs payments in alice) [Redeploy](redeploy 412) [Roll back](rollback payments in alice) [Stop]?(stop payments in alice)
    :x: *payments* `feature/refund` `1a2b3c4d` *unhealthy*: GET /healthz answered 500
    <http://payments.alice.localhost/>
    [Open](http://payments.alice.localhost/) [Logs](logs payments in alice) [Redeploy](redeploy 412) [Roll back](rollback payments in alice) [Stop]?(stop payments in alice)
    :x: *payments* `feature/refund` `1a2b3c4d` *DOWN*: it crashed (exit code 2)
    [Logs](logs payments in alice) [Redeploy](redeploy 412) [Roll back](rollback payments in alice) [Stop]?(stop payments in alice)
    :heavy_minus_sign: *payments* `feature/refund` `1a2b3c4d` *stopped*
    [Logs](logs payments in alice) [Redeploy](redeploy 412)
    *qa-42* · ends in 2 days · made 1 day ago
    Nothing runs here; all its requests go to the baseline.
    [Extend](sandbox extend qa-42) [Delete sandbox]?(sandbox delete qa-42)
    ---
    # Your deployments
    :large_blue_circle: *#412 payments* `feature/refund` → *alice*: *building*
    [Log](logs 412) [Cancel](cancel 412)
    :x: *#412 payments* `feature/refund` → *alice*: *failed in build* less than a minute ago
    the build ended with an error
    [Log](logs 412) [Deploy again](deploy payments feature/refund)
    ");
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
    assert_snapshot!(text, @r"
    You are not logged in: you may look but not act.
    _next_ `/sdp login` gives you a link to log in with your git account
    [Log in]!(login)

    You are not logged in: you may look but not act.
    _next_ ask an administrator, for the server's [login] configuration

    You are *alice*.
    your sandbox *alice*
    you may look and act (developer)
    [Deploy…]!()
    ---
    # Your sandboxes
    You have no sandbox yet. One is made when you first deploy.
    ---
    # Your deployments
    Nothing was deployed to your sandboxes yet.

    :x: SDP's server does not answer at the moment. Nothing was done.
    that is http://sdp answered 502, not as SDP does: Bad Gateway
    _next_ try again in a minute; what already runs goes on without it
    ");
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
