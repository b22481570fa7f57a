//! Deployments that nobody asked for in Slack are told there all the same.

use sdp_core::api::{CreateDeployment, Notify};
use serde_json::json;

use super::bot::Bot;
use super::fake::Slack;
use super::trouble::{all_is_told, told};
use crate::harness::{name, run_test, wanted};

#[test]
fn ci_s_deploys_are_told_in_the_channel_of_their_request_or_of_their_service() {
    run_test(async |sdp| {
        sdp.hello().await;
        sdp.push("other", "main", &[("greeting.txt", "x")]);
        sdp.service("other", json!({})).await;
        let slack = Slack::start().await;
        slack.channel("#ci");
        let mut bot = Bot::new(sdp, &slack).await.with(|slack| {
            slack.channels.insert(name("hello"), "CDEV".to_owned());
        });
        bot.start();
        slack.until("the bot is there", |model| (model.links() > 0).then_some(())).await;
        // What it tells of this, it has heard from the feed: from here on it hears everything.
        slack.person("alice").slash("#random", "deploy hello main to random").await.well();
        slack.until("it runs", |model| model.says("@alice", ": running").cloned()).await;
        sdp.request("hello", "main").await;
        let root = all_is_told(&slack, "#dev").await;
        assert_eq!(told(&slack, &root), (1, 1));

        // Of a service without a channel nothing is said; where the request names one, it is said there.
        sdp.deployed("other", "main").await;
        let notify = Some(Notify { channel: name("#ci") });
        let asked = CreateDeployment { notify, ..wanted("other", "main") };
        // Killed before it hears of it, it tells it when it is back.
        bot.kill();
        sdp.admin.deploy(&asked, None).await.expect("taken");
        bot.start();
        let root = all_is_told(&slack, "#ci").await;
        assert_eq!(told(&slack, &root), (1, 1), "{}", slack.transcript("#ci"));
        assert!(root.says("#4 other"), "{}", root.words());
        // By now the bot knows which channel that is, and finds there what it cannot be sure to have said.
        slack.lose_answers("chat.postMessage", 2, super::fake::Fault::Status(500));
        sdp.admin.deploy(&asked, None).await.expect("taken");
        let last = slack.until("it runs", |model| {
            model.find("#ci", |m| m.says("#5 other") && m.says(": running")).cloned()
        });
        let last = last.await;
        slack
            .until("all is told", |model| model.replies(&last).find(|r| r.says("running after")).cloned())
            .await;
        assert_eq!(told(&slack, &last), (1, 2), "{}", slack.transcript("#ci"));
        slack.transcript("#dev");
        slack.transcript("#ci");
        slack.transcript("@alice");
        slack.complaints();
        slack.finish();
    });
}
