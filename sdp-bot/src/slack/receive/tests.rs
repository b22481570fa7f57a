//! Requests as Slack sends them, and as others would, over a real socket.

use std::time::Instant;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::*;
use crate::bot::Bot;
use crate::chat::{Chat, Request as ChatRequest};
use crate::slack::dispatch::Dispatch;
use crate::slack::inbound::Answers;
use crate::slack::web::{Identity, Web};
use crate::slack::{ABILITIES, dial};
use crate::store::Store;
use sdp_core::client::Client;

const SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";
const FORM: &str = "application/x-www-form-urlencoded";

struct Far {
    address: SocketAddr,
    /// What the bot wants to say.
    said: mpsc::Receiver<ChatRequest>,
    _tasks: JoinSet<()>,
}

impl Far {
    /// The receiver of an app `A1` in the workspace `T1`; SDP's server and Slack are both away.
    async fn start() -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let nobody: url::Url = "http://127.0.0.1:9".parse().unwrap();
        let web = Web::new(dial::dial(b"", None).unwrap(), &nobody, &Secret::new("xoxb-1"), None);
        let (chat, said) = Chat::new(ABILITIES);
        let store = Store::in_memory().unwrap();
        let client = Client::new(nobody.clone(), Secret::new("sdpb_x")).unwrap();
        let (bot, _follower) = Bot::new(client, chat.clone(), store.clone());
        let identity =
            Identity { url: None, team_id: Some("T1".into()), user_id: "UBOT".into(), bot_id: None };
        let app = Some("A1".to_owned());
        let answers = Answers::new(&"https://slack.com/api".parse().unwrap());
        let dispatch = Dispatch::new(bot, chat, Arc::new(web), store, answers, identity, app);
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(run(listener, Secret::new(SECRET), dispatch, CancellationToken::new()));
        Self { address, said, _tasks: tasks }
    }

    async fn post(&self, kind: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
        let mut head = format!(
            "POST /slack HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        self.raw(format!("{head}\r\n{body}").as_bytes()).await
    }

    async fn raw(&self, bytes: &[u8]) -> (u16, String) {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        // It may have answered before all of it was there.
        let _refused_early = socket.write_all(bytes).await.is_err();
        let mut answer = Vec::new();
        let _cut = socket.read_to_end(&mut answer).await.is_err();
        let answer = String::from_utf8(answer).unwrap();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        (status, answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
    }

    async fn signed(&self, kind: &str, body: &str) -> (u16, String) {
        let time = now().to_string();
        let signature = sign(SECRET, &time, body);
        let headers = [("x-slack-signature", signature.as_str()), ("x-slack-request-timestamp", &time)];
        self.post(kind, &headers, body).await
    }

    /// The one thing that the bot wants to say now.
    async fn says(&mut self) -> String {
        match self.said.recv().await.unwrap() {
            ChatRequest::Whisper { message, done, .. } => {
                done.send(Ok(())).unwrap();
                message.to_plain()
            }
            other => panic!("{other:?}"),
        }
    }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// HMAC-SHA256, as RFC 2104 has it.
fn sign(secret: &str, time: &str, body: &str) -> String {
    let mut key = [0_u8; 64];
    key[..secret.len()].copy_from_slice(secret.as_bytes());
    let pad = |with: u8| key.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(format!("v0:{time}:{body}")).finalize();
    let outer = Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize();
    format!("v0={}", outer.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

fn command(text: &str, trigger: &str) -> String {
    let text: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
    format!(
        "team_id=T1&api_app_id=A1&user_id=U1&channel_id=C1&command=%2Fsdp&text={text}&trigger_id={trigger}\
         &response_url=http%3A%2F%2F169.254.169.254%2Flatest"
    )
}

#[test]
fn slack_s_own_example_has_the_signature_that_slack_s_documentation_says() {
    let body = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
    let signature = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503";
    assert_eq!(sign("8f742231b10e8888abcd99yyyzzz85a5", "1531420618", body), signature);
}

#[tokio::test]
async fn what_slack_did_not_sign_just_now_is_refused_before_it_is_read() {
    let far = Far::start().await;
    let body = command("status", "1.1");
    let time = now().to_string();
    let right = sign(SECRET, &time, &body);
    let at = |seconds: i64| {
        let time = (now() + seconds).to_string();
        (sign(SECRET, &time, &body), time)
    };
    let (early, late) = (at(-302), at(302));
    let odd = |time: &str| (sign(SECRET, time, &body), time.to_owned());
    for (what, signature, time) in [
        ("missing", None, Some(time.clone())),
        ("no time", Some(right.clone()), None),
        ("empty", Some(String::new()), Some(time.clone())),
        ("wrong", Some(format!("v0={}", "0".repeat(64))), Some(time.clone())),
        ("another version", Some(right.replace("v0=", "v1=")), Some(time.clone())),
        ("upper case", Some(right.to_uppercase()), Some(time.clone())),
        ("cut", Some(right[..20].to_owned()), Some(time.clone())),
        ("another secret", Some(sign("x", &time, &body)), Some(time.clone())),
        ("of another body", Some(sign(SECRET, &time, &body.replace("%2F", "/"))), Some(time.clone())),
        ("too old", Some(early.0), Some(early.1)),
        ("from the future", Some(late.0), Some(late.1)),
        ("no number", Some(odd("soon").0), Some(odd("soon").1)),
        ("negative", Some(odd("-5").0), Some(odd("-5").1)),
        ("a sign", Some(odd(&format!("+{time}")).0), Some(format!("+{time}"))),
        ("too large", Some(odd("99999999999999999999").0), Some("99999999999999999999".to_owned())),
    ] {
        let mut headers = Vec::new();
        headers.extend(signature.as_deref().map(|value| ("x-slack-signature", value)));
        headers.extend(time.as_deref().map(|value| ("x-slack-request-timestamp", value)));
        let (status, _) = far.post(FORM, &headers, &body).await;
        assert_eq!(status, 401, "{what}");
    }
    // Twice the same header: whose counts would depend on who reads it.
    let wrong = format!("v0={}", "0".repeat(64));
    for twice in [[&right, &wrong], [&wrong, &right], [&right, &right]] {
        let headers = [
            ("x-slack-signature", twice[0].as_str()),
            ("x-slack-signature", twice[1].as_str()),
            ("x-slack-request-timestamp", &time),
        ];
        assert_eq!(far.post(FORM, &headers, &body).await.0, 401);
    }
    // What is no text cannot have been signed, and what cannot be parsed is refused for its signature all the same.
    assert_eq!(far.post("application/json", &[], "{").await.0, 401);
    // At the edge it is taken.
    for seconds in [-298, 298] {
        let (signature, time) = at(seconds);
        let headers = [("X-Slack-Signature", signature.as_str()), ("X-Slack-Request-Timestamp", &time)];
        assert_eq!(far.post(FORM, &headers, &body).await.0, 200, "{seconds}");
    }
    assert_eq!(far.signed(FORM, &body).await.0, 200);
}

#[tokio::test]
async fn a_body_that_is_too_large_too_slow_or_of_no_known_form_is_refused() {
    let far = Far::start().await;
    let large = format!("command=%2Fsdp&text={}", "x".repeat(MAX_BODY));
    assert_eq!(far.signed(FORM, &large).await.0, 413);
    for (kind, body) in [
        ("text/plain", "hello"),
        ("application/json", "[]"),
        ("application/json", "{"),
        ("application/json", "{\"type\":\"url_verification\"}"),
        (FORM, "payload=%7B"),
        (FORM, "a=b"),
        (FORM, ""),
    ] {
        assert_eq!(far.signed(kind, body).await.0, 400, "{kind} {body}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(far.signed("application/json", &deep).await.0, 400);
    // Half a body, and then nothing.
    let began = Instant::now();
    let head = "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 100\r\n\r\nhalf";
    assert_eq!(far.raw(head.as_bytes()).await.0, 408);
    assert!(began.elapsed() < SLOW + Duration::from_secs(5));
}

#[tokio::test]
async fn commands_come_here_once_and_others_requests_not_at_all() {
    let mut far = Far::start().await;
    let challenge = r#"{"type":"url_verification","challenge":"3eZbrw1a","token":"x"}"#;
    assert_eq!(far.signed("application/json", challenge).await, (200, "3eZbrw1a".to_owned()));
    assert_eq!(far.signed(FORM, "ssl_check=1&token=x").await.0, 200);
    let began = Instant::now();
    let body = command("sttus", "1.1");
    let copies = (0..20).map(|_| far.signed(FORM, &body));
    for (status, answer) in futures_util::future::join_all(copies).await {
        assert_eq!((status, answer.as_str()), (200, ""));
    }
    assert!(began.elapsed() < Duration::from_secs(3));
    // The address to answer to was none of Slack's, so it is said by Slack's API.
    assert!(far.says().await.contains("Did you mean status"));
    for (team, app) in [("T2", "A1"), ("T1", "A2")] {
        let body = command("sttus", "1.2").replace("T1", team).replace("A1", app);
        assert_eq!(far.signed(FORM, &body).await.0, 200);
    }
    assert_eq!(far.signed(FORM, &command("hlp", "1.3")).await.0, 200);
    // Of the copies, and of what was meant for others, nothing was heard.
    assert!(far.says().await.contains("Did you mean help"));
}
