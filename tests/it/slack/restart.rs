//! The bot is killed and started again; and many deploys at once.

use std::time::Duration;

use serde_json::json;

use super::bot::Bot;
use super::fake::{Fault, Message, Slack};
use super::trouble::{all_is_told, go, told};
use crate::harness::{Sdp, greeter, run_test};

/// A service whose build waits until [`go`].
async fn waiting(sdp: &Sdp) {
    sdp.push(
        "hello",
        "main",
        &[("build.sh", "while [ ! -e go ]; do sleep 0.1; done"), ("greeting.txt", "x")],
    );
    let builder = json!({ "type": "command", "build": [["sh", "build.sh"]], "run": [greeter()] });
    sdp.service("hello", json!({ "builder": builder })).await;
}

async fn again(bot: &mut Bot, slack: &Slack) {
    bot.kill();
    slack.until("it is gone", |model| (model.links() == 0).then_some(())).await;
    bot.start();
    slack.until("the bot is there", |model| (model.links() > 0).then_some(())).await;
}

#[test]
fn a_bot_that_is_killed_in_mid_deploy_finishes_the_same_message() {
    run_test(async |sdp| {
        waiting(sdp).await;
        let slack = Slack::start().await;
        let mut bot = Bot::started(sdp, &slack).await;
        let alice = slack.person("alice");
        alice.slash("#dev", "deploy hello main").await.well();
        let before = slack.until("it builds", |model| model.says("#dev", "building").cloned()).await;
        again(&mut bot, &slack).await;
        // Killed once more while nobody told it anything, and ended while it was away.
        bot.kill();
        go(sdp);
        sdp.wait("1".parse().expect("a number")).await;
        bot.start();
        let root = all_is_told(&slack, "#dev").await;
        assert_eq!(root.ts, before.ts);
        assert_eq!(told(&slack, &root), (1, 1), "{}", slack.transcript("#dev"));
        // What it is replaced by changes the same message, too.
        alice.click(&root, "Redeploy").await.ack.well();
        slack
            .until("it is replaced", |model| {
                model.message("#dev", &root.ts).filter(|root| root.says("replaced")).cloned()
            })
            .await;
        let second = slack
            .until("#2 runs", |m| m.find("#dev", |m| m.says("#2 hello") && m.says(": running")).cloned())
            .await;
        slack
            .until("all is told", |model| model.replies(&second).find(|r| r.says("running after")).cloned())
            .await;
        slack.transcript("#dev");
        slack.finish();
    });
}

/// Kills the bot after Slack has done so many calls of a method, whose answers it never hears.
async fn killed_after(sdp: &mut Sdp, method: &'static str, calls: usize) {
    waiting(sdp).await;
    let slack = Slack::start().await;
    let mut bot = Bot::started(sdp, &slack).await;
    let alice = slack.person("alice");
    slack.lose_answers(method, super::fake::ALWAYS, Fault::Hang);
    alice.slash("#dev", "deploy hello main").await.well();
    let what = format!("{calls} of {method}");
    slack.until(&what, |model| (model.calls(method).count() >= calls).then_some(())).await;
    again_without_fault(&mut bot, &slack, method).await;
    go(sdp);
    let root = all_is_told(&slack, "#dev").await;
    assert_eq!(told(&slack, &root), (1, 1), "{}", slack.transcript("#dev"));
    slack.transcript("#dev");
    slack.finish();
}

async fn again_without_fault(bot: &mut Bot, slack: &Slack, method: &'static str) {
    bot.kill();
    slack.lift(method);
    slack.until("it is gone", |model| (model.links() == 0).then_some(())).await;
    bot.start();
    slack.until("the bot is there", |model| (model.links() > 0).then_some(())).await;
}

#[test]
fn a_message_that_was_posted_as_the_bot_was_killed_is_found_and_not_posted_again() {
    run_test(async |sdp| killed_after(sdp, "chat.postMessage", 1).await);
}

#[test]
fn an_edit_that_was_under_way_as_the_bot_was_killed_is_made() {
    run_test(async |sdp| killed_after(sdp, "chat.update", 1).await);
}

#[test]
#[ignore = "needs the bot as a program: cargo build --workspace"]
fn the_program_is_killed_in_mid_deploy_and_the_next_one_finishes_the_same_message() {
    run_test(async |sdp| {
        waiting(sdp).await;
        let slack = Slack::start().await;
        let bot = Bot::new(sdp, &slack).await;
        let folder = tempfile::tempdir().expect("a folder");
        let mut program = bot.program(sdp, folder.path());
        slack.until("the bot is there", |model| (model.links() > 0).then_some(())).await;
        slack.person("alice").slash("#dev", "deploy hello main").await.well();
        let before = slack.until("it builds", |model| model.says("#dev", "building").cloned()).await;
        program.kill().await.expect("killed");
        slack.until("it is gone", |model| (model.links() == 0).then_some(())).await;
        let mut program = bot.program(sdp, folder.path());
        slack.until("the bot is there", |model| (model.links() > 0).then_some(())).await;
        go(sdp);
        let root = all_is_told(&slack, "#dev").await;
        assert_eq!(root.ts, before.ts);
        assert_eq!(told(&slack, &root), (1, 1), "{}", slack.transcript("#dev"));
        // Asked to, it ends by itself, and well.
        let pid =
            program.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())).expect("it runs");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("told");
        assert!(program.wait().await.expect("ends").success());
        slack.transcript("#dev");
        slack.finish();
    });
}

#[test]
fn a_token_that_was_revoked_costs_no_message() {
    run_test(async |sdp| {
        waiting(sdp).await;
        let slack = Slack::start().await;
        let mut bot = Bot::started(sdp, &slack).await;
        slack.person("alice").slash("#dev", "deploy hello main").await.well();
        let before = slack.until("it builds", |model| model.says("#dev", "building").cloned()).await;
        bot.kill();
        sdp.admin.delete_token(&crate::harness::name("chat")).await.expect("revoked");
        bot.start();
        let error = bot.ended().await.to_string();
        assert!(error.contains("refuses the event feed"), "{error}");
        // With another one it goes on where it was.
        let mut bot = Bot::new(sdp, &slack).await;
        bot.start();
        go(sdp);
        let root = all_is_told(&slack, "#dev").await;
        assert_eq!((root.ts.clone(), told(&slack, &root)), (before.ts, (1, 1)));
        slack.transcript("#dev");
        slack.finish();
    });
}

#[test]
fn where_history_cannot_be_read_nothing_is_lost() {
    run_test(async |sdp| {
        waiting(sdp).await;
        let slack = Slack::start().await;
        let mut bot = Bot::started(sdp, &slack).await;
        slack.lose_answers("chat.postMessage", 1, Fault::Hang);
        slack.person("alice").slash("#dev", "deploy hello main").await.well();
        slack
            .until("it is posted", |model| (model.calls("chat.postMessage").count() > 0).then_some(()))
            .await;
        slack.fail("conversations.history", super::fake::ALWAYS, Fault::Error("missing_scope"));
        again(&mut bot, &slack).await;
        go(sdp);
        let root = all_is_told(&slack, "#dev").await;
        // The message is there twice, as the documentation says; its story once.
        assert_eq!(told(&slack, &root), (1, 2), "{}", slack.transcript("#dev"));
        slack.transcript("#dev");
        slack.complaints();
        slack.finish();
    });
}

#[test]
fn fifty_deploys_at_once_keep_slack_s_rates_and_each_last_state_is_right() {
    run_test(async |sdp| {
        sdp.hello().await;
        sdp.push("hello", "broken", &[("greeting.txt", "x"), ("behaviour.txt", "ends")]);
        let slack = Slack::start().await;
        let _bot = Bot::started(sdp, &slack).await;
        let alice = slack.person("alice");
        let channels = ["#dev", "#a", "#b", "#c", "#d"];
        channels[1..].iter().for_each(|channel| slack.channel(channel));
        let asks = (0..50).map(|n| {
            let branch = if n % 10 == 9 { "broken" } else { "main" };
            let text = format!("deploy hello {branch} to box-{n}");
            let alice = &alice;
            async move { alice.slash(channels[n % 5], &text).await.well().took }
        });
        for took in futures_util::future::join_all(asks).await {
            assert!(took < Duration::from_secs(1), "{took:?}");
        }
        let is_last = |message: &Message| {
            message.says(": running") || message.says("failed in start") || message.says("failed in check")
        };
        let began = std::time::Instant::now();
        // A command is acknowledged before the server has heard of it.
        let last = "50".parse().expect("a number");
        sdp.until("all are taken", async |sdp| sdp.admin.deployment(last).await.is_ok()).await;
        for n in 1..=50 {
            sdp.wait(n.to_string().parse().expect("a number")).await;
        }
        let worked = began.elapsed();
        // As long as it takes at this pace, but always further.
        for step in 1..=50 {
            slack
                .until(&format!("{step} have ended"), |model| {
                    let roots = channels.iter().flat_map(|channel| model.messages(channel));
                    (roots.filter(|m| m.is_by_bot() && m.thread.is_none() && is_last(m)).count() >= step)
                        .then_some(())
                })
                .await;
        }
        let shown = began.elapsed();
        let told = |model: &super::fake::Model| {
            let all = channels.iter().flat_map(|channel| model.messages(channel));
            all.filter(|m| m.thread.is_some() && (m.says("running after") || m.says("@UALICE"))).count()
        };
        for step in 1..=50 {
            slack.until(&format!("{step} are told"), |model| (told(model) >= step).then_some(())).await;
        }
        for n in 0..50 {
            let channel = channels[n % 5];
            let sandbox = format!("→ box-{n} ");
            let root = slack
                .until("its message is there", |model| {
                    model.find(channel, |m| m.thread.is_none() && m.words().contains(&sandbox)).cloned()
                })
                .await;
            assert_eq!(root.says(": running"), n % 10 != 9, "{}", root.words());
        }
        channels.iter().for_each(|channel| drop(slack.transcript(channel)));
        let calls = |method| slack.look(|model| model.calls(method).count());
        let mut out = std::io::stderr();
        let figures = format!(
            "{} posts, {} edits; all had ended after {worked:?}, were shown after {shown:?}, told after {:?}\n",
            calls("chat.postMessage"),
            calls("chat.update"),
            began.elapsed()
        );
        std::io::Write::write_all(&mut out, figures.as_bytes()).expect("written");
        assert_eq!(slack.violations(), []);
        slack.finish();
    });
}
