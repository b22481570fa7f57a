//! The bot against the real server: what people type, and what they see.

use sdp_bot::console::{self, Options};
use sdp_core::api::{CreateToken, TokenKind};
use sdp_core::client::Client;
use tokio_util::sync::CancellationToken;

use crate::harness::{Sdp, name, run_test};

/// Types commands one after the other, as bob; what the terminal shows, and whether all went well.
async fn typed(sdp: &Sdp, commands: &str) -> (String, bool) {
    let token = CreateToken { name: name("bot"), kind: TokenKind::Bot };
    let token = match sdp.admin.create_token(&token).await {
        Ok(created) => created.token,
        Err(error) => panic!("{error}"),
    };
    let client = Client::new(sdp.url.clone(), token).expect("a client").on_behalf_of(name("bob"));
    let mut output = Vec::new();
    let options = Options::script(Some(name("bob")));
    let ended =
        console::run(client, commands.as_bytes(), &mut output, options, CancellationToken::new()).await;
    sdp.admin.delete_token(&name("bot")).await.expect("revoked");
    (String::from_utf8(output).expect("UTF-8"), ended.expect("it ran").success())
}

#[test]
fn a_conversation_about_a_deploy() {
    run_test(async |sdp| {
        sdp.hello().await;
        let (said, well) = typed(
            sdp,
            "/sdp deploy hello main\n/sdp deploy hello feature/greeting\n/sdp status\n/sdp rollback hello\n/sdp logs hello\n",
        )
        .await;
        assert!(well, "{said}");
        for wanted in ["#1 hello main", "#2 hello feature/greeting", "/~bob/hello/", "#3", "starting with"] {
            assert!(said.contains(wanted), "{wanted:?} is missing from\n{said}");
        }
        assert_eq!(sdp.get(sdp.on_router("/~bob/hello/")).await.2, "hello from main");
        let (said, well) = typed(sdp, "/sdp stop hello\n").await;
        assert!(well, "{said}");
        sdp.until("the baseline would answer", async |sdp| {
            sdp.get(sdp.on_router("/~bob/hello/")).await.0 != 200
        })
        .await;
    });
}

#[test]
fn a_failure_says_what_happened_and_what_to_do() {
    run_test(async |sdp| {
        sdp.push("hello", "main", &[("greeting.txt", "x"), ("behaviour.txt", "ends")]);
        sdp.service("hello", serde_json::json!({})).await;
        let (said, well) = typed(sdp, "/sdp deploy hello main\n").await;
        assert!(!well, "{said}");
        assert!(said.contains("fatal: no database"), "the last lines are shown:\n{said}");
        let (said, well) = typed(sdp, "/sdp deploy helo main\n/sdp dploy hello\n").await;
        assert!(!well);
        assert_eq!(said.matches("id you mean").count(), 2, "{said}");
    });
}
