//! Redeploy, rollback and restart: from kept builds, without fetch, build or git login.

use sdp_core::api::{AgainRequest, DeploymentCreated};
use sdp_core::client::InstanceFilter;
use sdp_core::deployment::{DeployKind, Outcome};
use serde_json::json;

use crate::harness::{Sdp, greeter, run_test, run_test_with};

async fn succeeded(sdp: &Sdp, created: &DeploymentCreated) -> sdp_core::deployment::Deployment {
    let view = sdp.wait(created.id.into()).await;
    let log = sdp.log(&view).await;
    assert_eq!(view.deployment.outcome(), Some(&Outcome::Succeeded {}), "{log}");
    view.deployment
}

/// A service with a build step that can be told from its output.
async fn built(sdp: &Sdp) {
    sdp.push("hello", "main", &[("greeting.txt", "one")]);
    let build = [["cp", "greeting.txt", "built.txt"]];
    let builder = json!({ "type": "command", "build": build, "run": [greeter()] });
    sdp.service("hello", json!({ "builder": builder })).await;
}

#[test]
fn rollback_starts_the_kept_build_though_the_repository_is_gone() {
    run_test(async |sdp| {
        built(sdp).await;
        let url = sdp.deployed("hello", "main").await;
        sdp.push("hello", "main", &[("greeting.txt", "two")]);
        let second = sdp.deploy("hello", "main").await;
        assert_eq!(sdp.get(&url).await.2, "two");
        std::fs::rename(sdp.repository("hello"), sdp.repository("elsewhere")).expect("moved");

        let place = second.deployment.id.into();
        let back = sdp.admin.rollback(place, &AgainRequest::default(), None).await.expect("taken");
        let back = succeeded(sdp, &back).await;
        assert_eq!((back.kind, back.reused_build), (DeployKind::Rollback, Some(true)));
        assert_eq!(sdp.get(&url).await.2, "one");
        let forward = sdp.admin.redeploy(place, &AgainRequest::default(), None).await.expect("taken");
        assert_eq!(succeeded(sdp, &forward).await.reused_build, Some(true));
        assert_eq!(sdp.get(&url).await.2, "two");
        let instance = sdp.admin.instances(&InstanceFilter::default()).await.expect("a list").remove(0);
        let restarted =
            sdp.admin.restart_instance(instance.id, &AgainRequest::default(), None).await.expect("taken");
        assert_eq!(succeeded(sdp, &restarted).await.kind, DeployKind::Restart);
        assert_eq!(sdp.get(&url).await.2, "two");
    });
}

#[test]
fn a_build_that_was_swept_is_built_again_at_its_commit_and_says_so() {
    run_test_with(
        |_, agent| agent.build.keep = 1,
        async |sdp| {
            built(sdp).await;
            let url = sdp.deployed("hello", "main").await;
            let first = sdp.admin.deployment("1".parse().expect("a number")).await.expect("known");
            for text in ["two", "three", "four"] {
                sdp.push("hello", "main", &[("greeting.txt", text)]);
                sdp.deployed("hello", "main").await;
            }
            let back = sdp
                .admin
                .redeploy(first.deployment.id.into(), &AgainRequest::default(), None)
                .await
                .expect("taken");
            let back = succeeded(sdp, &back).await;
            assert_eq!(back.reused_build, Some(false), "{:?}", back.notes);
            assert!(!back.notes.is_empty());
            assert_eq!(back.commit, first.deployment.commit);
            assert_eq!(sdp.get(&url).await.2, "one");
        },
    );
}
