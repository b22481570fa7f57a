//! The same over signed requests: no socket.

use std::net::SocketAddr;
use std::time::Duration;

use sdp_bot::slack::Way;
use sdp_core::secret::Secret;
use tokio::net::TcpListener;

use super::bot::Bot;
use super::fake::{Kind, RequestUrls, SIGNING_SECRET, Slack};
use super::trouble::{all_is_told, told};
use crate::harness::{Sdp, run_test};

async fn started(sdp: &Sdp, slack: &Slack) -> (Bot, String) {
    let free = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let listen: SocketAddr = free.local_addr().expect("bound");
    drop(free);
    let url = format!("http://{listen}/slack");
    let way = Way::Http { signing_secret: Secret::new(SIGNING_SECRET), listen };
    let mut bot = Bot::new(sdp, slack).await.with(|slack| slack.way = way);
    bot.start();
    sdp.until("it listens", async |sdp| {
        sdp.http.get(format!("http://{listen}/healthz")).send().await.is_ok()
    })
    .await;
    slack.call_back(RequestUrls::all(&url));
    (bot, url)
}

#[test]
fn everything_works_over_signed_requests_too() {
    run_test(async |sdp| {
        sdp.hello().await;
        let slack = Slack::start().await;
        let (mut bot, _) = started(sdp, &slack).await;
        let alice = slack.person("alice");
        let ack = alice.slash("#dev", "deploy hello main").await.well();
        assert!(ack.took < Duration::from_secs(1), "{:?}", ack.took);
        let root = all_is_told(&slack, "#dev").await;
        alice.mention("#dev", Some(&root), "status").await.well();
        slack
            .until("it is said in the thread", |model| {
                model.replies(&root).filter(|reply| reply.says("running after")).nth(1).cloned()
            })
            .await;
        alice.slash("#dev", "deploy").await.well();
        let form = slack
            .until("it is filled", |model| model.view("alice").filter(|v| v.says("Service")).cloned())
            .await;
        alice.choose(&form, "sdp:service", "hello").await.expect("it is told").well();
        let form = slack.until("it knows the service", |model| {
            model
                .view("alice")
                .filter(|view| view.entered("sdp:service").as_deref() == Some("hello"))
                .cloned()
        });
        let form = form.await;
        assert!(!alice.options(&form, "sdp:branch", "feat").await.is_empty());
        alice.close(&form).await;
        alice.open_home().await.well();
        slack
            .until("it is shown", |model| model.home("alice").filter(|home| home.says("hello")).cloned())
            .await;
        alice.click(&root, "Stop").await.ack.well();
        slack
            .until("it is stopped", |model| {
                model.message("#dev", &root.ts).filter(|root| root.says("stopped by")).cloned()
            })
            .await;
        bot.stop().await.expect("ends well");
        slack.transcript("#dev");
        slack.whispers("alice");
        slack.view(&form.id);
        slack.finish();
    });
}

#[test]
fn what_is_sent_again_or_was_tampered_with_does_nothing() {
    run_test(async |sdp| {
        sdp.hello().await;
        let slack = Slack::start().await;
        let (_bot, _) = started(sdp, &slack).await;
        let alice = slack.person("alice");
        let typed = alice.slash("#dev", "deploy hello main").await.well();
        for copy in slack.deliver_again(&typed, 20).await {
            copy.well();
        }
        let post = slack.post(&typed.delivery);
        let changed = slack
            .post(&typed.delivery)
            .body("command=%2Fsdp&text=deploy+hello+feature%2Fgreeting&user_id=UBOB&channel_id=CDEV");
        assert_eq!(slack.send(&changed).await.expect("answered").status, 401);
        assert_eq!(slack.send(&post).await.expect("answered").status, 200);
        let root = all_is_told(&slack, "#dev").await;
        assert_eq!(told(&slack, &root), (1, 1));
        assert_eq!(sdp.admin.deployments(&Default::default()).await.expect("listed").deployments.len(), 1);
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures/slack");
        for file in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let text = std::fs::read(file.path()).expect("read");
            let Ok(sample) = serde_json::from_slice::<serde_json::Value>(&text) else { continue };
            let kind = match sample["type"].as_str() {
                Some("event_callback") => Kind::Event,
                None if sample.get("envelope_id").is_none() => Kind::Slash,
                Some(
                    "block_actions" | "view_submission" | "shortcut" | "message_action" | "view_closed"
                    | "block_suggestion",
                ) => Kind::Interactive,
                _ => continue,
            };
            slack.deliver(kind, sample).await.well();
        }
        slack.complaints();
        slack.transcript("#dev");
        slack.finish();
    });
}
