//! Deploys as people see them in Slack.

use std::time::Duration;

use insta::assert_snapshot;
use serde_json::json;

use super::bot::Bot;
use super::fake::Slack;
use super::story;
use crate::harness::{greeter, run_test};

#[test]
fn a_deploy_is_one_message_that_ends_in_running_and_its_thread_tells_the_story() {
    run_test(async |sdp| {
        sdp.hello().await;
        let slack = Slack::start().await;
        let mut bot = Bot::started(sdp, &slack).await;
        let alice = slack.person("alice");
        let ack = alice.slash("#dev", "deploy hello feature/greeting").await.well();
        assert!(ack.took < Duration::from_secs(1), "{:?}", ack.took);
        let root = slack.until("it runs", |model| model.says("#dev", ": running").cloned()).await;
        slack
            .until("all is told", |model| model.replies(&root).find(|r| r.says("running after")).cloned())
            .await;
        assert_eq!(root.buttons(), ["Open", "Log", "Redeploy", "Roll back", "Stop"]);
        assert_snapshot!(story(&slack.transcript("#dev")), @r"
        #dev
        sdp: :white_check_mark: #1 hello `feature/greeting` → ualice: running after N s   (edited)
             `COMMIT` Change feature/greeting · Sam Sample
             url http://127.0.0.1:PORT/~ualice/hello/↗
             [Open] [Log] [Redeploy] [Roll back] [Stop]
          ↳ sdp: :white_check_mark: resolve `feature/greeting` is `COMMIT` N s
          ↳ sdp: :white_check_mark: fetch Change feature/greeting · Sam Sample N s
          ↳ sdp: :white_check_mark: build N s
          ↳ sdp: :white_check_mark: start on vm-1 N s
          ↳ sdp: :white_check_mark: check it is healthy N s
          ↳ sdp: :white_check_mark: switch ualice's requests for hello go to it N s
          ↳ sdp: :white_check_mark: running after N s http://127.0.0.1:PORT/~ualice/hello/↗
        ");
        assert_eq!(sdp.get(sdp.on_router("/~ualice/hello/")).await.2, "greetings from the branch");
        bot.stop().await.expect("ends well");
        slack.finish();
    });
}

#[test]
fn a_branch_that_does_not_build_calls_who_asked_with_the_reason_and_the_way_on() {
    run_test(async |sdp| {
        sdp.push(
            "hello",
            "main",
            &[("build.sh", "echo compiling; echo 'main.go:3: undefined: refund'; exit 2")],
        );
        let builder = json!({ "type": "command", "build": [["sh", "build.sh"]], "run": [greeter()] });
        sdp.service("hello", json!({ "builder": builder })).await;
        let slack = Slack::start().await;
        let _bot = Bot::started(sdp, &slack).await;
        let alice = slack.person("alice");
        alice.slash("#dev", "deploy hello main").await.well();
        let root = slack.until("it has failed", |model| model.says("#dev", "failed in build").cloned()).await;
        let reply = |words: &'static str| {
            let root = root.clone();
            slack.until(words, move |model| model.replies(&root).find(|reply| reply.says(words)).cloned())
        };
        let failure = reply("build failed").await;
        assert!(failure.text.contains("<@UALICE>"), "{}", failure.text);
        assert_snapshot!(story(&slack.transcript("#dev")), @r"
        #dev
        sdp: :x: #1 hello `main` → ualice: failed in build after N s   (edited)
             `COMMIT` Change main · Sam Sample
             [Log] [Deploy again]
          ↳ sdp: :white_check_mark: resolve `main` is `COMMIT` N s
          ↳ sdp: :white_check_mark: fetch Change main · Sam Sample N s
          ↳ sdp: :x: @alice build failed: the build ended with an error (exit code 2)
                 sh: exit status: 2
                 next read the last lines of the log, mend the branch and deploy again
                 log http://127.0.0.1:PORT/deployments/1#L7↗
                 | looking for main in /tmp/RUN/repositories/hello.git
                 | main is at commit COMMIT
                 | commit COMMIT is here already
                 | 1 files
                 | sh build.sh
                 | compiling
                 | main.go:3: undefined: refund
                 | failed: the build ended with an error: sh: exit status: 2
                 [Deploy again]
        ");
        slack.finish();
    });
}

#[test]
fn buttons_cancel_and_roll_back_and_a_double_click_is_one() {
    run_test(async |sdp| {
        sdp.push("hello", "main", &[("greeting.txt", "one")]);
        sdp.service("hello", json!({})).await;
        let slack = Slack::start().await;
        let _bot = Bot::started(sdp, &slack).await;
        let (alice, bob) = (slack.person("alice"), slack.person("bob"));
        alice.slash("#dev", "deploy hello main to qa").await.well();
        slack
            .until("#1 runs", |model| model.find("#dev", |m| m.says("#1") && m.says(": running")).cloned())
            .await;
        sdp.push("hello", "main", &[("greeting.txt", "two")]);
        alice.slash("#dev", "deploy hello to qa").await.well();
        let second = slack
            .until("#2 runs", |m| m.find("#dev", |m| m.says("#2 hello") && m.says(": running")).cloned())
            .await;
        assert_eq!(sdp.get(sdp.on_router("/~qa/hello/")).await.2, "two");
        // Bob is quick.
        let clicks =
            futures_util::future::join(bob.click(&second, "Roll back"), bob.click(&second, "Roll back"))
                .await;
        clicks.0.ack.well();
        clicks.1.ack.well();
        slack
            .until("#3 runs", |m| m.find("#dev", |m| m.says("#3 hello") && m.says(": running")).cloned())
            .await;
        assert_eq!(sdp.get(sdp.on_router("/~qa/hello/")).await.2, "one");
        slack
            .until("#2 is replaced", |m| {
                m.find("#dev", |m| m.says("#2 hello") && m.says("replaced")).cloned()
            })
            .await;

        // A build that never ends, until somebody has seen enough of it.
        sdp.push("hello", "slow", &[("build.sh", "while :; do sleep 1; done"), ("greeting.txt", "x")]);
        let builder = json!({ "type": "command", "build": [["sh", "build.sh"]], "run": [greeter()] });
        sdp.service("hello", json!({ "builder": builder })).await;
        alice.slash("#dev", "deploy hello slow").await.well();
        let slow = slack
            .until("#4 builds", |m| m.find("#dev", |m| m.says("#4 hello") && m.says("building")).cloned())
            .await;
        alice.click(&slow, "Cancel").await.ack.well();
        slack
            .until("it is cancelled", |m| {
                m.find("#dev", |m| m.says("#4 hello") && m.says("cancelled by")).cloned()
            })
            .await;
        slack
            .until("and says so", |m| {
                m.replies(&slow).find(|r| r.says("nothing that it started is left")).cloned()
            })
            .await;
        assert_snapshot!(slack.whispers("alice"), @r"#dev, only alice sees: sdp: :large_blue_circle: #4 hello `slow` → ualice: cancelling; it is said here when everything that it started is gone");
        assert_snapshot!(story(&slack.transcript("#dev")), @r"
        #dev
        sdp: :heavy_minus_sign: #1 hello `main` → qa (asked by UALICE): replaced by a newer deployment   (edited)
             `COMMIT` Change main · Sam Sample
             [Log] [Redeploy]
          ↳ sdp: :white_check_mark: resolve `main` is `COMMIT` N s
          ↳ sdp: :white_check_mark: fetch Change main · Sam Sample N s
          ↳ sdp: :white_check_mark: build N s
          ↳ sdp: :white_check_mark: start on vm-1 N s
          ↳ sdp: :white_check_mark: check it is healthy N s
          ↳ sdp: :white_check_mark: switch qa's requests for hello go to it N s
          ↳ sdp: :white_check_mark: running after N s http://127.0.0.1:PORT/~qa/hello/↗
        sdp: :heavy_minus_sign: #2 hello `main` → qa (asked by UALICE): replaced by a newer deployment   (edited)
             `COMMIT` Change main · Sam Sample
             1 commit since `COMMIT`
             [Log] [Redeploy]
          ↳ sdp: :white_check_mark: resolve `main` is `COMMIT` N s
          ↳ sdp: :white_check_mark: fetch Change main · Sam Sample N s
          ↳ sdp: :white_check_mark: build N s
          ↳ sdp: :white_check_mark: start on vm-1 N s
          ↳ sdp: :white_check_mark: check it is healthy N s
          ↳ sdp: :white_check_mark: switch qa's requests for hello go to it N s
          ↳ sdp: :white_check_mark: running after N s http://127.0.0.1:PORT/~qa/hello/↗
        sdp: :white_check_mark: #3 hello rollback to #1 `main` → qa (asked by UBOB): running after N s   (edited)
             `COMMIT`
             url http://127.0.0.1:PORT/~qa/hello/↗
             [Open] [Log] [Redeploy] [Roll back] [Stop]
          ↳ sdp: :information_source: The kept build of `COMMIT` is used: nothing to fetch, nothing to build
          ↳ sdp: :white_check_mark: start on vm-1 N s
          ↳ sdp: :white_check_mark: check it is healthy N s
          ↳ sdp: :white_check_mark: switch qa's requests for hello go to it N s
          ↳ sdp: :white_check_mark: running after N s http://127.0.0.1:PORT/~qa/hello/↗
        sdp: :heavy_minus_sign: #4 hello `slow` → ualice: cancelled by UALICE   (edited)
             `COMMIT` Change slow · Sam Sample
             [Log] [Deploy again]
          ↳ sdp: :white_check_mark: resolve `slow` is `COMMIT` N s
          ↳ sdp: :white_check_mark: fetch Change slow · Sam Sample N s
          ↳ sdp: :information_source: UALICE asked to cancel #4; stopping what it started
          ↳ sdp: :heavy_minus_sign: cancelled by UALICE; nothing that it started is left
        ");
        let all = sdp.admin.deployments(&Default::default()).await.expect("listed").deployments;
        assert_eq!(all.len(), 4);
        slack.finish();
    });
}
