//! Where a deployment is told that nobody asked for in a chat: it comes over REST, and whoever follows the feed finds it.

use sdp_core::api::{AgainRequest, Notify};
use sdp_core::client::{Client, EventFilter};
use sdp_core::event::EventKind;
use sdp_core::id::EventSeq;
use serde_json::json;

use crate::harness::{name, run_test, wanted};

fn told_in(channel: &str) -> Option<Notify> {
    Some(Notify { channel: name(channel) })
}

/// Where each deployment is told, in the order in which they were asked for, as the feed has it.
async fn feed(client: &Client, count: usize) -> Vec<Option<Notify>> {
    let mut feed = client.events(EventSeq(0), EventFilter::default());
    let mut found = Vec::new();
    while found.len() < count {
        let event = feed.next().await.expect("goes on").expect("an event");
        if let EventKind::DeploymentRequested { notify, .. } = event.kind {
            found.push(notify);
        }
    }
    found
}

#[test]
fn a_deploy_from_ci_says_where_it_is_told() {
    run_test(async |sdp| {
        sdp.hello().await;
        let order = sdp_core::api::CreateDeployment {
            notify: told_in("#payments-ci"),
            ..wanted("hello", "feature/greeting")
        };
        let first = sdp.admin.deploy(&order, None).await.expect("taken");
        assert_eq!(first.deployment.notify, told_in("#payments-ci"));
        let view = sdp.wait(first.id.into()).await;
        assert_eq!(view.deployment.notify, told_in("#payments-ci"));
        sdp.deploy("hello", "main").await;

        let told = AgainRequest { notify: told_in("C024BE91L"), ..AgainRequest::default() };
        let back = sdp.admin.rollback(first.id.into(), &told, None).await.expect("taken");
        assert_eq!(back.deployment.notify, told_in("C024BE91L"));
        sdp.wait(back.id.into()).await;
        // It belongs to the one request, and is no part of what is done again.
        let plain = AgainRequest::default();
        let again = sdp.admin.redeploy(first.id.into(), &plain, None).await.expect("taken");
        assert_eq!(again.deployment.notify, None);
        sdp.wait(again.id.into()).await;

        let wanted = [told_in("#payments-ci"), None, told_in("C024BE91L"), None];
        assert_eq!(feed(&sdp.admin, 4).await, wanted);
        sdp.stop_server().await;
        sdp.start_server().await;
        assert_eq!(feed(&sdp.admin, 4).await, wanted);
        let kept = sdp.admin.deployment(first.id.into()).await.expect("known");
        assert_eq!(kept.deployment.notify, told_in("#payments-ci"));
    });
}

#[test]
fn the_same_key_with_another_channel_is_another_request() {
    run_test(async |sdp| {
        sdp.hello().await;
        let ask = async |channel: &str| {
            let url = sdp.url.join("/api/v1/deployments").expect("a URL");
            let body = json!({ "service": "hello", "git_ref": "main", "notify": { "channel": channel } });
            let request = sdp.http.post(url).bearer_auth(sdp.admin_token.expose()).json(&body);
            request.header("idempotency-key", "build-7").send().await.expect("an answer").status().as_u16()
        };
        assert_eq!(ask("#payments-ci").await, 202);
        assert_eq!(ask("#payments-ci").await, 202);
        assert_eq!(ask("#everybody").await, 409);
        assert_eq!(sdp.admin.deployments(&Default::default()).await.expect("a list").deployments.len(), 1);
    });
}
