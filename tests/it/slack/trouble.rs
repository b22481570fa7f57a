//! When Slack is slow, refuses, breaks off or says things twice; and when SDP's server is away.

use std::time::Duration;

use insta::assert_snapshot;
use serde_json::json;

use super::bot::Bot;
use super::fake::{ALWAYS, Fault, Kind, LinkFault, Message, Reason, Slack};
use crate::harness::{Sdp, run_test};

pub(crate) async fn all_is_told(slack: &Slack, channel: &'static str) -> Message {
    let root = slack.until("it runs", |model| model.says(channel, ": running").cloned()).await;
    slack.until("all is told", |model| model.replies(&root).find(|r| r.says("running after")).cloned()).await;
    root
}

/// How often each step is told, and how many messages there are beside the thread.
pub(crate) fn told(slack: &Slack, root: &Message) -> (usize, usize) {
    slack.look(|model| {
        let replies: String = model.replies(root).map(|reply| reply.words() + "\n").collect();
        let steps = ["resolve ", "fetch ", "build ", "start ", "check ", "switch ", "running after"];
        let most = steps.iter().map(|step| replies.matches(step).count()).max().unwrap_or(0);
        let roots = model.messages(&root.channel).filter(|m| m.is_by_bot() && m.thread.is_none()).count();
        (most, roots)
    })
}

#[test]
fn what_slack_did_as_its_answer_was_lost_is_not_done_twice() {
    run_test(async |sdp| {
        sdp.hello().await;
        let slack = Slack::start().await;
        let _bot = Bot::started(sdp, &slack).await;
        let alice = slack.person("alice");
        slack.lose_answers("chat.postMessage", 3, Fault::Status(500));
        slack.lose_answers("chat.update", 1, Fault::Cut);
        alice.slash("#dev", "deploy hello main").await.well();
        let root = all_is_told(&slack, "#dev").await;
        assert_eq!(told(&slack, &root), (1, 1), "{}", slack.transcript("#dev"));
        slack.transcript("#dev");
        slack.finish();
    });
}

#[test]
fn what_slack_puts_off_or_fails_to_do_is_done_later_and_the_last_state_comes() {
    run_test(async |sdp| {
        sdp.hello().await;
        let slack = Slack::start().await;
        let _bot = Bot::started(sdp, &slack).await;
        let alice = slack.person("alice");
        slack.fail("chat.postMessage", 1, Fault::RateLimited(2));
        slack.fail("chat.postMessage", 1, Fault::Status(503));
        slack.fail("chat.update", 2, Fault::RateLimited(1));
        slack.fail("chat.update", 1, Fault::Error("internal_error"));
        alice.slash("#dev", "deploy hello main").await.well();
        let root = all_is_told(&slack, "#dev").await;
        assert_eq!(told(&slack, &root), (1, 1), "{}", slack.transcript("#dev"));
        // What was asked too early would have been counted.
        slack.transcript("#dev");
        slack.finish();
    });
}

#[test]
fn where_nothing_may_be_posted_it_is_told_to_whoever_asked_alone() {
    run_test(async |sdp| {
        sdp.hello().await;
        let slack = Slack::start().await;
        let _bot = Bot::started(sdp, &slack).await;
        let alice = slack.person("alice");
        alice.slash("#random", "deploy hello main").await.well();
        all_is_told(&slack, "@alice").await;
        assert_snapshot!(super::story(&slack.transcript("@alice")), @r"
        @alice
        sdp: :white_check_mark: #1 hello `main` → ualice: running after N s   (edited)
             `COMMIT` Change main · Sam Sample
             url http://127.0.0.1:PORT/~ualice/hello/↗
             [Open] [Log] [Redeploy] [Roll back] [Stop]
          ↳ sdp: :information_source: I may not write in the channel where you asked, so I tell you alone.
                 next invite me there, so that others see it, too
          ↳ sdp: :white_check_mark: resolve `main` is `COMMIT` N s
          ↳ sdp: :white_check_mark: fetch Change main · Sam Sample N s
          ↳ sdp: :white_check_mark: build N s
          ↳ sdp: :white_check_mark: start on vm-1 N s
          ↳ sdp: :white_check_mark: check it is healthy N s
          ↳ sdp: :white_check_mark: switch ualice's requests for hello go to it N s
          ↳ sdp: :white_check_mark: running after N s http://127.0.0.1:PORT/~ualice/hello/↗
        ");
        slack.complaints();
        slack.finish();
    });
}

#[test]
fn edits_that_slack_refuses_end_no_story_and_are_not_tried_again_as_they_are() {
    run_test(async |sdp| {
        sdp.hello().await;
        let slack = Slack::start().await;
        let _bot = Bot::started(sdp, &slack).await;
        let alice = slack.person("alice");
        slack.fail("chat.update", ALWAYS, Fault::Error("edit_window_closed"));
        alice.slash("#dev", "deploy hello main").await.well();
        let root = slack.until("it is there", |model| model.says("#dev", "#1 hello").cloned()).await;
        slack
            .until("all is told", |model| model.replies(&root).find(|r| r.says("running after")).cloned())
            .await;
        slack.until("its last state was tried", |m| (m.calls("chat.update").count() > 0).then_some(())).await;
        // Three more stories take longer than several pauses between two edits.
        for n in 2..=4 {
            alice.slash("#dev", &format!("deploy hello main to box-{n}")).await.well();
            let sandbox = format!("→ box-{n}");
            let next = slack.until("it is there", |m| m.find("#dev", |m| m.says(&sandbox)).cloned()).await;
            slack
                .until("all is told", |model| model.replies(&next).find(|r| r.says("running after")).cloned())
                .await;
        }
        let tries = |model: &super::fake::Model| -> Vec<String> {
            model.calls("chat.update").map(|call| call.arguments.to_string()).collect()
        };
        let mut tries = slack.look(tries);
        let all = tries.len();
        tries.sort_unstable();
        tries.dedup();
        assert_eq!(tries.len(), all, "a state was tried again that had been refused");
        slack.transcript("#dev");
        slack.complaints();
        slack.finish();
    });
}

#[test]
fn in_a_channel_of_which_the_bot_is_no_member_a_lost_answer_loses_nothing() {
    run_test(async |sdp| {
        sdp.hello().await;
        let slack = Slack::start().await;
        slack.open("#random");
        let _bot = Bot::started(sdp, &slack).await;
        let alice = slack.person("alice");
        alice.slash("#random", "deploy hello main").await.well();
        let first = slack.until("it is there", |model| model.says("#random", "#1 hello").cloned()).await;
        // Nothing can be looked up there: what may not have been said is said again.
        slack.fail("chat.postMessage", 1, Fault::Status(500));
        let root = all_is_told(&slack, "#random").await;
        assert_eq!((root.ts, told(&slack, &first).1), (first.ts.clone(), 1));
        slack.transcript("#random");
        slack.complaints();
        slack.finish();
    });
}

#[test]
fn a_token_that_slack_knows_no_more_ends_the_bot_with_a_clear_word() {
    run_test(async |sdp| {
        let slack = Slack::start().await;
        slack.fail("auth.test", 1, Fault::Error("invalid_auth"));
        let mut bot = Bot::new(sdp, &slack).await;
        bot.start();
        let error = bot.ended().await.to_string();
        assert!(error.contains("invalid_auth") && error.contains("look at its tokens"), "{error}");
        // And in the middle of everything.
        sdp.hello().await;
        bot.start();
        slack.until("the bot is there", |model| (model.links() > 0).then_some(())).await;
        slack.fail("chat.postMessage", ALWAYS, Fault::Error("token_revoked"));
        slack.person("alice").slash("#dev", "deploy hello main").await.well();
        assert!(bot.ended().await.to_string().contains("token_revoked"));
        // What was promised is said by the next life.
        slack.lift("chat.postMessage");
        bot.start();
        let root = all_is_told(&slack, "#dev").await;
        assert_eq!(told(&slack, &root), (1, 1));
        slack.disconnect(Reason::LinkDisabled);
        assert!(bot.ended().await.to_string().contains("link_disabled"));
        slack.transcript("#dev");
        slack.complaints();
        slack.finish();
    });
}

#[test]
fn a_socket_that_fails_is_opened_again_with_growing_pauses_and_never_in_a_hot_loop() {
    run_test(async |sdp| {
        let slack = Slack::start().await;
        slack.fail_links(4, LinkFault::ClosesAtOnce);
        slack.fail_links(1, LinkFault::RefusesHandshake);
        let mut bot = Bot::new(sdp, &slack).await;
        bot.start();
        slack.until("it is connected at last", |model| (model.links() > 0).then_some(())).await;
        let opens = slack.look(|model| model.opens().to_vec());
        assert_eq!(opens.len(), 6, "{opens:?}");
        for (n, pair) in opens.windows(2).enumerate() {
            let step = Duration::from_millis(250) * 2_u32.pow(u32::try_from(n).expect("few"));
            assert!(pair[1] - pair[0] >= step, "{n}: {opens:?}");
        }
        slack.finish();
    });
}

#[test]
fn a_socket_is_replaced_before_it_goes_and_what_was_sent_meanwhile_is_answered() {
    run_test(async |sdp| {
        sdp.hello().await;
        let slack = Slack::start().await;
        let _bot = Bot::started(sdp, &slack).await;
        let alice = slack.person("alice");
        slack.disconnect(Reason::RefreshRequested);
        alice.slash("#dev", "services").await.well();
        slack.until("there is another", |model| (model.opens().len() == 2).then_some(())).await;
        alice.slash("#dev", "services").await.well();
        slack.until("both are answered", |model| (model.whispers("alice").count() == 2).then_some(())).await;
        slack.cut_links();
        slack
            .until("and another", |model| (model.opens().len() == 3 && model.links() > 0).then_some(()))
            .await;
        alice.slash("#dev", "services").await.well();
        slack.until("it is answered", |model| (model.whispers("alice").count() == 3).then_some(())).await;
        slack.whispers("alice");
        slack.finish();
    });
}

#[test]
fn deliveries_that_come_again_do_one_thing() {
    run_test(async |sdp| {
        sdp.hello().await;
        let slack = Slack::start().await;
        let mut bot = Bot::started(sdp, &slack).await;
        let alice = slack.person("alice");
        let typed = alice.slash("#dev", "deploy hello main").await.well();
        for copy in slack.deliver_again(&typed, 20).await {
            assert!(copy.well().took < Duration::from_secs(3));
        }
        let root = all_is_told(&slack, "#dev").await;
        let called = alice.mention("#dev", None, "deploy hello feature/greeting").await.well();
        for copy in slack.deliver_again(&called, 5).await {
            copy.well();
        }
        let second = slack.until("#2 runs", |model| {
            model.find("#dev", |m| m.says("#2 hello") && m.says(": running")).cloned()
        });
        let second = second.await;
        slack
            .until("all is told", |model| model.replies(&second).find(|r| r.says("running after")).cloned())
            .await;
        // Also after a restart, by what the server remembers.
        bot.stop().await.expect("ends well");
        bot.start();
        slack.until("the bot is there", |model| (model.links() > 0).then_some(())).await;
        for copy in
            slack.deliver_again(&typed, 2).await.into_iter().chain(slack.deliver_again(&called, 2).await)
        {
            copy.well();
        }
        alice.slash("#dev", "services").await.well();
        slack.until("it is answered", |model| (model.whispers("alice").count() > 0).then_some(())).await;
        let all = sdp.admin.deployments(&Default::default()).await.expect("listed").deployments;
        assert_eq!(all.len(), 2);
        assert_eq!(told(&slack, &root), (1, 2));
        slack.transcript("#dev");
        slack.whispers("alice");
        slack.finish();
    });
}

#[test]
fn while_the_server_is_away_people_get_a_plain_sentence_and_then_all_goes_on() {
    run_test(async |sdp| {
        sdp.push(
            "hello",
            "main",
            &[("build.sh", "while [ ! -e go ]; do sleep 0.1; done"), ("greeting.txt", "x")],
        );
        let builder =
            json!({ "type": "command", "build": [["sh", "build.sh"]], "run": [crate::harness::greeter()] });
        sdp.service("hello", json!({ "builder": builder })).await;
        let slack = Slack::start().await;
        let _bot = Bot::started(sdp, &slack).await;
        let alice = slack.person("alice");
        alice.slash("#dev", "deploy hello main").await.well();
        let root = slack.until("it builds", |model| model.says("#dev", "building").cloned()).await;
        sdp.stop_server().await;
        alice.slash("#dev", "deploy hello main").await.well();
        alice.open_home().await.well();
        alice.slash("#dev", "deploy").await.well();
        slack
            .until("it is said alone", |model| {
                model.whispers("alice").find(|whisper| whisper.says("does not answer")).cloned()
            })
            .await;
        slack
            .until("home says so", |model| {
                model.home("alice").filter(|home| home.says("does not answer")).cloned()
            })
            .await;
        slack
            .until("the form says so", |model| {
                model.view("alice").filter(|form| form.says("does not answer")).cloned()
            })
            .await;
        slack
            .until("its message says so", |model| {
                model.message("#dev", &root.ts).filter(|root| root.says("has not answered for")).cloned()
            })
            .await;
        go(sdp);
        sdp.start_server().await;
        all_is_told(&slack, "#dev").await;
        slack.transcript("#dev");
        slack.whispers("alice");
        slack.home("alice");
        slack.finish();
    });
}

/// Lets the build end that waits for it.
pub(crate) fn go(sdp: &Sdp) {
    let waits = |folder: &std::path::Path| folder.join("build.sh").is_file();
    let mut open = vec![sdp.agent_folder().to_owned()];
    while let Some(folder) = open.pop() {
        if waits(&folder) {
            std::fs::write(folder.join("go"), "").expect("written");
        }
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        open.extend(entries.map(|entry| entry.path()).filter(|path| path.is_dir() && !path.is_symlink()));
    }
}

#[test]
fn whatever_comes_over_the_socket_is_acknowledged() {
    run_test(async |sdp| {
        let slack = Slack::start().await;
        let _bot = Bot::started(sdp, &slack).await;
        for envelope in [
            json!({ "envelope_id": "1", "type": "made_up", "payload": { "x": [1, { "y": null }] } }),
            json!({ "envelope_id": "2", "payload": { "text": "hi" } }),
            json!({ "envelope_id": "3", "type": "interactive", "payload": null }),
            json!({ "envelope_id": "4", "type": "interactive", "payload": { "type": "block_actions", "user": { "id": "UALICE" }, "actions": [] } }),
            json!({ "envelope_id": "5", "type": "slash_commands", "payload": { "user_id": 7 } }),
            json!({ "envelope_id": "6", "type": "events_api", "payload": { "event": { "type": "novel" } } }),
        ] {
            assert!(slack.envelope(&envelope).await.is_some(), "{envelope}");
        }
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures/slack");
        for file in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(sample) =
                serde_json::from_slice::<serde_json::Value>(&std::fs::read(file.path()).expect("read"))
            else {
                continue;
            };
            if sample.get("envelope_id").is_some() {
                assert!(slack.envelope(&sample).await.is_some(), "{sample}");
            } else if sample["type"] == "event_callback" {
                slack.deliver(Kind::Event, sample).await.well();
            } else if sample["type"].is_null() {
                slack.deliver(Kind::Slash, sample).await.well();
            } else if sample["type"] != "hello" && sample["type"] != "disconnect" {
                slack.deliver(Kind::Interactive, sample).await.well();
            }
        }
        slack.complaints();
        slack.finish();
    });
}
