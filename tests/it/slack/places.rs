//! Several services at once, sandboxes that come to their end, and locks, as people see them in Slack.

use std::time::Duration;

use insta::assert_snapshot;
use jiff::{SignedDuration, Timestamp};
use sdp_core::api::{BatchOutcome, BatchService, CreateBatch, Notify, SaveSandbox};
use serde_json::json;

use super::bot::Bot;
use super::fake::{Message, Slack};
use super::story;
use crate::harness::{Sdp, greeter, name, run_test};

const BUILD: &str = "while [ ! -e go ]; do sleep 0.1; done; if [ -e bad ]; then echo 'no luck'; exit 3; fi";

/// Two services; the second has these files beside, waits in its build until `go` is there, and fails if `bad` is.
async fn two(sdp: &Sdp, more: &[&str]) {
    sdp.push("hello", "main", &[("greeting.txt", "hello")]);
    sdp.service("hello", json!({})).await;
    let mut files = vec![("build.sh", BUILD), ("greeting.txt", "ledger")];
    files.extend(more.iter().map(|file| (*file, "")));
    sdp.push("ledger", "main", &files);
    let builder = json!({ "type": "command", "build": [["sh", "build.sh"]], "run": [greeter()] });
    sdp.service("ledger", json!({ "builder": builder })).await;
}

async fn root(slack: &Slack, words: &'static str) -> Message {
    slack
        .until(words, move |model| {
            model.find("#dev", |message| message.thread.is_none() && message.says(words)).cloned()
        })
        .await
}

async fn reply(slack: &Slack, root: &Message, words: &'static str) -> Message {
    let root = root.clone();
    slack.until(words, move |model| model.replies(&root).find(|reply| reply.says(words)).cloned()).await
}

#[test]
fn several_services_are_one_message_and_one_thread_that_a_restart_goes_on_with() {
    run_test(async |sdp| {
        two(sdp, &[]).await;
        let slack = Slack::start().await;
        let mut bot = Bot::started(sdp, &slack).await;
        let alice = slack.person("alice");
        let ack = alice.slash("#dev", "deploy hello=main ledger=main to qa-42").await.well();
        assert!(ack.took < Duration::from_secs(1), "{:?}", ack.took);
        let before = root(&slack, "deploying").await;
        slack.until("the first is ready", |m| m.says("#dev", "ready, waits for the others").cloned()).await;
        bot.kill();
        slack.until("it is gone", |model| (model.links() == 0).then_some(())).await;
        super::trouble::go(sdp);
        bot.start();
        let after = root(&slack, "succeeded after").await;
        assert_eq!(after.ts, before.ts);
        reply(&slack, &after, "go to all 2 services together").await;
        assert_eq!(after.buttons(), ["Sandbox", "Routes", "Share"]);
        let roots = slack.look(|m| m.messages("#dev").filter(|m| m.thread.is_none()).count());
        let ends =
            slack.look(|m| m.replies(&after).filter(|r| r.says("go to all 2 services together")).count());
        assert_eq!((roots, ends), (1, 1), "{}", slack.transcript("#dev"));
        for (service, greeting) in [("hello", "hello"), ("ledger", "ledger")] {
            assert_eq!(sdp.get(sdp.on_router(&format!("/~qa-42/{service}/"))).await.2, greeting);
        }
        slack.transcript("#dev");
        slack.finish();
    });
}

#[test]
fn a_batch_of_which_some_fail_calls_who_asked_once_with_every_reason() {
    run_test(async |sdp| {
        two(sdp, &["go", "bad"]).await;
        let slack = Slack::start().await;
        let _bot = Bot::started(sdp, &slack).await;
        let alice = slack.person("alice");
        alice.slash("#dev", "deploy hello=main ledger=main to qa-42").await.well();
        let partial = root(&slack, "partial").await;
        let end = reply(&slack, &partial, "1 of 2 serve in qa-42").await;
        assert!(end.text.contains("<@UALICE>"), "{}", end.text);
        let calls = slack.look(|m| m.replies(&partial).filter(|r| r.text.contains("<@UALICE>")).count());
        assert_eq!(calls, 1);
        assert_eq!(end.buttons(), ["Redeploy failed"]);
        // Which of the two is told first depends on the moment; each tells its steps in order.
        let told = story(&slack.transcript("#dev"));
        let first = told.find("  ↳").expect("replies");
        let last = told.rfind("  ↳").expect("replies");
        let steps: Vec<&str> = told
            .lines()
            .filter_map(|line| line.strip_prefix("  ↳ sdp: :white_check_mark: hello ")?.split(' ').next())
            .collect();
        assert_eq!(steps, ["resolve", "fetch", "build", "start", "check", "switch", "running"], "{told}");
        assert_snapshot!(format!("{}{}", &told[..first], &told[last..]), @r"
        #dev
        sdp: :x: hello, ledger → qa-42 (asked by UALICE): partial: 1 of 2 serve after N s   (edited)
             ✓ #1 hello `main` `COMMIT`: running after N s · log http://127.0.0.1:PORT/deployments/1↗
                url http://127.0.0.1:PORT/~qa-42/hello/↗
             ✗ #2 ledger `main` `COMMIT`: failed in build after N s · log http://127.0.0.1:PORT/deployments/2↗
             [Sandbox] [Redeploy failed]
          ↳ sdp: :x: @alice partial: 1 of 2 serve in qa-42, the rest is as it was
                 ledger build failed: the build ended with an error (sh: exit status: 3)
                 [Redeploy failed]
        ");
        // Once more, only what failed: one deployment of its own.
        sdp.push("ledger", "main", &[("build.sh", "true"), ("greeting.txt", "ledger")]);
        alice.click(&partial, "Redeploy failed").await.ack.well();
        root(&slack, "#3 ledger").await;
        slack
            .until("it runs", |m| m.find("#dev", |m| m.says("#3 ledger") && m.says(": running")).cloned())
            .await;
        slack.transcript("#dev");
        slack.finish();
    });
}

#[test]
fn cancel_ends_all_of_a_batch_that_run() {
    run_test(async |sdp| {
        two(sdp, &[]).await;
        sdp.push("hello", "main", &[("build.sh", BUILD), ("greeting.txt", "hello")]);
        let builder = json!({ "type": "command", "build": [["sh", "build.sh"]], "run": [greeter()] });
        sdp.service("hello", json!({ "builder": builder })).await;
        let slack = Slack::start().await;
        let _bot = Bot::started(sdp, &slack).await;
        let (alice, bob) = (slack.person("alice"), slack.person("bob"));
        alice.slash("#dev", "deploy hello=main ledger=main to qa-42").await.well();
        let message = root(&slack, "building").await;
        bob.click(&message, "Cancel").await.ack.well();
        let over = root(&slack, "none was let go to its end").await;
        reply(&slack, &over, "was cancelled by UBOB").await;
        assert_eq!(over.ts, message.ts);
        slack.whispers("bob");
        slack.transcript("#dev");
        slack.finish();
    });
}

#[test]
fn a_batch_that_ci_asks_for_is_told_in_the_channel_that_it_names() {
    run_test(async |sdp| {
        two(sdp, &["go"]).await;
        let slack = Slack::start().await;
        let mut bot = Bot::new(sdp, &slack).await.with(|slack| {
            slack.environments.insert(name("default"), "CDEV".to_owned());
        });
        slack.channel("#ci");
        bot.start();
        slack.until("the bot is there", |model| (model.links() > 0).then_some(())).await;
        // What it tells of this, it has heard from the feed: from here on it hears everything.
        slack.person("alice").dm("deploy hello main").await.well();
        slack.until("it runs", |model| model.says("@alice", ": running").cloned()).await;
        let service = |service: &str| BatchService {
            service: name(service),
            git_ref: Some(name("main")),
            env: Default::default(),
        };
        let order = CreateBatch {
            sandbox: Some(name("qa-42")),
            services: vec![service("hello"), service("ledger")],
            notify: Some(Notify { channel: name("#ci") }),
            ..CreateBatch::default()
        };
        let batch = sdp.admin.deploy_batch(&order, None).await.expect("taken");
        let ended = sdp.admin.wait_batch(batch.batch.id).await.expect("ends");
        assert_eq!(ended.batch.outcome, Some(BatchOutcome::Succeeded));
        let message = slack.until("it is told", |m| m.says("#ci", "succeeded after").cloned()).await;
        reply(&slack, &message, "go to all 2 services together").await;
        assert_eq!(slack.look(|m| m.messages("#ci").filter(|m| m.thread.is_none()).count()), 1);
        // What names no channel is told in that of its environment.
        sdp.request("hello", "main").await;
        let plain = super::trouble::all_is_told(&slack, "#dev").await;
        assert!(plain.says("#4 hello"), "{}", plain.words());
        slack.transcript("#ci");
        slack.transcript("#dev");
        slack.transcript("@alice");
        slack.complaints();
        slack.finish();
    });
}

#[test]
fn before_its_end_a_sandbox_s_owner_is_told_once_and_extends_it_there() {
    run_test(async |sdp| {
        sdp.hello().await;
        let slack = Slack::start().await;
        let mut bot = Bot::started(sdp, &slack).await;
        let alice = slack.person("alice");
        alice.slash("#dev", "sandbox create qa-42 for 3h").await.well();
        slack
            .until("it is there", |m| m.whispers("alice").find(|w| w.says("Sandbox qa-42 is there")).cloned())
            .await;
        let soon = Timestamp::now().checked_add(SignedDuration::from_mins(50)).expect("a time");
        let end = SaveSandbox { expires_at: Some(soon), ..SaveSandbox::default() };
        sdp.admin.save_sandbox(&name("qa-42"), &end).await.expect("changed");
        let told = slack.until("she is told", |m| m.says("@alice", "Sandbox qa-42 ends in").cloned()).await;
        assert_eq!(told.buttons(), ["Extend", "Keep", "Stop"]);
        // Another bot with the same memory says nothing again, though it reads the same events.
        bot.stop().await.expect("ends well");
        bot.start();
        slack.until("the bot is there", |model| (model.links() > 0).then_some(())).await;
        alice.click(&told, "Extend").await.ack.well();
        slack
            .until("it is longer", |m| {
                m.whispers("alice")
                    .find(|w| w.says("qa-42 ends in 3 h") || w.says("qa-42 ends in 2 h"))
                    .cloned()
            })
            .await;
        let view = sdp.admin.sandbox(&name("qa-42")).await.expect("there");
        assert!(view.sandbox.expires_at > Some(soon), "{:?}", view.sandbox);
        // Its end is told, too.
        let now = Timestamp::now().checked_add(SignedDuration::from_secs(2)).expect("a time");
        let end = SaveSandbox { expires_at: Some(now), ..SaveSandbox::default() };
        sdp.admin.save_sandbox(&name("qa-42"), &end).await.expect("changed");
        slack.until("it has ended", |m| m.says("@alice", "has come to its end").cloned()).await;
        let warnings =
            slack.look(|m| m.messages("@alice").filter(|m| m.says("Sandbox qa-42 ends in 4")).count());
        assert_eq!(warnings, 1, "{}", slack.transcript("@alice"));
        slack.transcript("@alice");
        slack.whispers("alice");
        slack.finish();
    });
}

#[test]
fn who_meets_a_lock_hears_whose_it_is_steals_it_with_a_reason_and_the_owner_is_told() {
    run_test(async |sdp| {
        sdp.hello().await;
        let slack = Slack::start().await;
        let _bot = Bot::started(sdp, &slack).await;
        let (alice, bob) = (slack.person("alice"), slack.person("bob"));
        alice.slash("#dev", "sandbox create qa-42").await.well();
        slack
            .until("it is there", |m| m.whispers("alice").find(|w| w.says("Sandbox qa-42 is there")).cloned())
            .await;
        alice.slash("#dev", "lock hello in qa-42 for 2h because I test refunds").await.well();
        slack
            .until("it is locked", |m| {
                m.whispers("alice").find(|w| w.says("nobody but you deploys")).cloned()
            })
            .await;

        bob.slash("#dev", "deploy hello main to qa-42").await.well();
        let refused = slack
            .until("he hears whose it is", |m| {
                m.whispers("bob").find(|w| w.says("locked by UALICE: I test refunds")).cloned()
            })
            .await;
        assert_eq!(refused.buttons(), ["Steal"]);
        bob.click(&refused, "Steal").await.ack.well();
        let form = slack
            .until("it asks why", |m| m.view("bob").filter(|v| v.says("Why do you need it?")).cloned())
            .await;
        bob.fill(&form, "sdp:reason", "production is down").await;
        let sent = bob.submit(&form).await.well();
        assert!(sent.body.is_null(), "{}", sent.body);
        let told =
            slack.until("she is told", |m| m.says("@alice", "has taken away your lock").cloned()).await;
        assert!(told.says("production is down") && told.says("UBOB"), "{}", told.words());
        slack
            .until("he has it", |m| {
                m.whispers("bob").find(|w| w.says("It was UALICE's, who is told")).cloned()
            })
            .await;
        bob.slash("#dev", "deploy hello main to qa-42").await.well();
        slack.until("it runs", |model| model.says("#dev", ": running").cloned()).await;
        alice.slash("#dev", "deploy hello main to qa-42").await.well();
        slack
            .until("now she meets it", |m| m.whispers("alice").find(|w| w.says("locked by UBOB")).cloned())
            .await;
        bob.slash("#dev", "unlock hello in qa-42").await.well();
        slack
            .until("it is open", |m| m.whispers("bob").find(|w| w.says("is not locked any more")).cloned())
            .await;
        slack.transcript("#dev");
        slack.whispers("alice");
        slack.whispers("bob");
        slack.finish();
    });
}

#[test]
fn a_sandbox_is_shown_routed_and_shared_with_everybody_in_the_channel() {
    run_test(async |sdp| {
        sdp.hello().await;
        sdp.service("hello", json!({ "baseline": "http://hello.shop.test/" })).await;
        let slack = Slack::start().await;
        let _bot = Bot::started(sdp, &slack).await;
        let alice = slack.person("alice");
        let said = async |text: &str, words: &'static str| {
            alice.slash("#dev", text).await.well();
            slack.until(words, |m| m.whispers("alice").filter(|w| w.says(words)).last().cloned()).await
        };
        said("sandbox create qa-42 for 3d", "Sandbox qa-42 is there").await;
        said("sandbox show qa-42", "for every developer").await;
        said("route hello in qa-42 to baseline", "go to the baseline, whatever is deployed").await;
        said("routes qa-42", "baseline (chosen)").await;
        said("route hello in qa-42 to reset", "or else the baseline").await;
        said("routes explain /hello/ in qa-42", "qa-42").await;
        said("vars hello in qa-42", "SDP_").await;
        said("templates", "no template yet").await;
        said("environments", "default").await;
        said("sandboxes", "ends in").await;
        said("sandbox pin qa-42", "is kept until somebody deletes it").await;
        said("locks", "Nothing is locked").await;
        said("route hello in qa-42 to 10.20.3.4:8080", "cannot be sent to").await;
        said("sandbox extend qa-43", "no sandbox named qa-43").await;
        alice.slash("#dev", "sandbox share qa-42").await.well();
        let shared = slack.until("all see it", |m| m.says("#dev", "shared by UALICE").cloned()).await;
        assert!(shared.says("sdp-routing-key: rk_"), "{}", shared.words());
        said("sandbox delete qa-42", "is deleted").await;
        slack.transcript("#dev");
        slack.whispers("alice");
        slack.finish();
    });
}
