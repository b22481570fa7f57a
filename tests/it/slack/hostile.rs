//! What branches, commits and builds say, and what people type: nothing of it calls anybody, leads anywhere or breaks a message.

use serde_json::json;

use super::bot::Bot;
use super::fake::{Message, Slack};
use super::trouble::all_is_told;
use crate::harness::{Files, commit, greeter, run_test};

const SUBJECT: &str =
    "<!channel> <!here> @everyone <https://evil.example|ok> &lt;b&gt; *_~`x` \u{202e}txt.exe </code>";

/// Every text of a message that Slack would read for mentions and links.
fn read_by_slack(message: &Message) -> String {
    let mut all = vec![message.text.clone()];
    let mut open: Vec<&serde_json::Value> = message.blocks.iter().collect();
    while let Some(value) = open.pop() {
        match value {
            serde_json::Value::Object(fields) => {
                if fields.get("type").is_some_and(|kind| kind == "mrkdwn" || kind == "broadcast") {
                    all.push(value.to_string());
                }
                open.extend(fields.values());
            }
            serde_json::Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
    all.join("\n")
}

fn is_harmless(message: &Message) {
    let text = read_by_slack(message);
    for bad in ["<!", "<https://evil", "broadcast", "\u{202e}"] {
        assert!(!text.contains(bad), "{bad} in {text}");
    }
    let json = serde_json::to_string(&message.blocks).expect("JSON");
    assert!(!json.contains("\u{202e}") && !json.contains("\"url\":\"https://evil"), "{json}");
    assert!(json.len() < 40_000 && message.text.len() < 4000);
}

#[test]
fn what_a_branch_or_a_commit_says_calls_nobody() {
    run_test(async |sdp| {
        let branch = "feature/evil";
        sdp.push("hello", "main", &[("greeting.txt", "x"), ("build.sh", "true")]);
        let repository = git2::Repository::open_bare(sdp.repository("hello")).expect("opens");
        let files: Files<'_> =
            [("greeting.txt", "x"), ("build.sh", "cat evil; exit 3"), ("evil", EVIL)].into_iter().collect();
        let subject = format!("{SUBJECT}{}", "x".repeat(40_000));
        commit(&repository, branch, &files, &subject, None).expect("committed");
        let builder = json!({ "type": "command", "build": [["sh", "build.sh"]], "run": [greeter()] });
        sdp.service("hello", json!({ "builder": builder })).await;
        let slack = Slack::start().await;
        let _bot = Bot::started(sdp, &slack).await;
        let alice = slack.person("alice");
        // What no branch of SDP's may be called is refused, and repeated harmlessly.
        alice.slash("#dev", "deploy hello feature/&lt;!channel&gt;&amp;lt;_b_`").await.well();
        slack
            .until("it is refused", |m| m.whispers("alice").find(|w| w.says("no valid branch")).cloned())
            .await;
        slack.look(|model| model.whispers("alice").for_each(is_harmless));
        alice.slash("#dev", &format!("deploy hello {branch}")).await.well();
        let root = slack.until("it has failed", |model| model.says("#dev", "failed in build").cloned()).await;
        assert!(root.says(branch), "{}", root.words());
        slack.until("all is told", |model| model.replies(&root).find(|r| r.says("@UALICE")).cloned()).await;
        slack
            .look(|model| model.messages("#dev").filter(|message| message.is_by_bot()).for_each(is_harmless));
        slack.transcript("#dev");
        slack.finish();
    });
}

const EVIL: &str = "<!channel> <@UBOB> @here\n<https://evil.example|ok>\n```\n\u{1b}[2J\u{202e}gnp.exe\n";

#[test]
fn whatever_is_typed_is_answered_and_nothing_of_it_fires() {
    run_test(async |sdp| {
        sdp.hello().await;
        let slack = Slack::start().await;
        let _bot = Bot::started(sdp, &slack).await;
        let alice = slack.person("alice");
        let long = "x".repeat(40_000);
        for text in [
            "&lt;!channel&gt;",
            "<!channel>",
            "<https://evil.example|deploy>",
            "deploy <!here> &amp;amp;",
            "deploy \u{202e}olleh",
            "status <@UBOB>",
            "who \"a b\"",
            "deploy hello \"",
            "\u{0}\u{7}",
            long.as_str(),
        ] {
            let heard = slack.look(|model| model.whispers("alice").count());
            alice.slash("#dev", text).await.well();
            slack
                .until("it is answered", |model| (model.whispers("alice").count() > heard).then_some(()))
                .await;
        }
        slack.look(|model| model.whispers("alice").for_each(is_harmless));
        assert_eq!(slack.transcript("#dev"), "#dev\n");
        // Nothing of it was done.
        assert!(sdp.admin.deployments(&Default::default()).await.expect("listed").deployments.is_empty());
        alice.slash("#dev", "<https://evil.example|status>").await.well();
        slack.until("it is answered", |model| (model.whispers("alice").count() == 11).then_some(())).await;
        slack.whispers("alice");
        alice.mention("#dev", None, "deploy hello main").await.well();
        all_is_told(&slack, "#dev").await;
        slack.transcript("#dev");
        slack.finish();
    });
}
