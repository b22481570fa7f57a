//! The bot against the real server: what people type, and what they see.

use sdp_bot::console::{self, Look, Options};
use sdp_core::api::{CreateToken, TokenKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, duplex};
use tokio_util::sync::CancellationToken;

use crate::harness::{Sdp, name, run_test};

/// Types commands one after the other, as bob; what the terminal shows, and whether all went well.
pub(crate) async fn typed(sdp: &Sdp, commands: &str) -> (String, bool) {
    let token = CreateToken::new(name("bot"), TokenKind::Bot);
    let token = match sdp.admin.create_token(&token).await {
        Ok(created) => created.token,
        Err(error) => panic!("{error}"),
    };
    let client = sdp.client(&token).on_behalf_of(name("bob"));
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

#[test]
fn what_a_service_prints_is_shown_in_chat_as_it_comes_until_it_ends() {
    run_test(async |sdp| {
        sdp.hello().await;
        let url = sdp.deployed("hello", "main").await;
        let token = CreateToken::new(name("bot"), TokenKind::Bot);
        let token = sdp.admin.create_token(&token).await.expect("made").token;
        let client = sdp.client(&token).on_behalf_of(name("alice"));
        let (mut keys, input) = duplex(4096);
        let (screen, mut shown) = duplex(1 << 20);
        let options = Options { look: Look::Lines, ..Options::script(Some(name("alice"))) };
        let console = console::run(client, BufReader::new(input), screen, options, CancellationToken::new());
        let talk = async {
            let mut seen = String::new();
            let mut until = async |wanted: &str| {
                let mut piece = [0; 4096];
                while !seen.contains(wanted) {
                    let read = shown.read(&mut piece).await.expect("reads");
                    assert!(read > 0, "{wanted:?} never came:\n{seen}");
                    seen.push_str(&String::from_utf8_lossy(&piece[..read]));
                }
            };
            keys.write_all(b"/sdp logs hello 5\n").await.expect("typed");
            until("prints, live").await;
            until("GET /healthz").await;
            until("/instances/").await;
            sdp.get(url.join("print/3").expect("a URL")).await;
            until("line 3").await;
            drop(sdp.http.get(url.join("end").expect("a URL")).send().await);
            until("has ended; its last words").await;
            keys.write_all(b"quit\n").await.expect("typed");
            // A line is said once, however often the message is edited.
            assert_eq!(seen.matches("line 2").count(), 1, "{seen}");
        };
        let (ended, ()) = tokio::join!(console, talk);
        assert!(ended.expect("it ran").success());
    });
}
