//! The less obvious parts of the fake, and how it is used: a bot of a few lines on a socket.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use insta::assert_snapshot;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message as Frame;

use super::*;

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

/// A bot that asks and acknowledges as it is told.
struct Bot {
    http: reqwest::Client,
    api: String,
}

impl Bot {
    fn new(slack: &Slack) -> Self {
        Self { http: reqwest::Client::builder().no_proxy().build().expect("a client"), api: slack.api_url() }
    }

    async fn ask(&self, method: &str, body: Value) -> Result<Value, reqwest::Error> {
        let token = if method == "apps.connections.open" { APP_TOKEN } else { BOT_TOKEN };
        let request = self.http.post(format!("{}/{method}", self.api)).bearer_auth(token).json(&body);
        request.send().await?.json().await
    }

    async fn call(&self, method: &str, body: Value) -> Value {
        let answer = self.ask(method, body).await.expect("answered");
        assert_eq!(answer["ok"], true, "{method}: {answer}");
        answer
    }

    async fn say(&self, words: &str) -> Value {
        self.call("chat.postMessage", json!({ "channel": "CDEV", "text": words })).await
    }

    /// A socket, before its hello.
    async fn socket(&self) -> Result<Socket, String> {
        let url = self.call("apps.connections.open", json!({})).await["url"].clone();
        let opened = tokio_tungstenite::connect_async(url.as_str().expect("a URL")).await;
        Ok(opened.map_err(|error| error.to_string())?.0)
    }

    async fn connected(&self) -> Socket {
        let mut socket = self.socket().await.expect("opens");
        assert_eq!(heard(&mut socket).await["type"], "hello");
        socket
    }
}

async fn heard(socket: &mut Socket) -> Value {
    loop {
        match socket.next().await.expect("open").expect("reads") {
            Frame::Text(text) => return serde_json::from_str(&text).expect("JSON"),
            Frame::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn acknowledge(socket: &mut Socket, envelope: &Value, payload: Option<Value>) {
    let mut ack = json!({ "envelope_id": envelope["envelope_id"] });
    if let Some(payload) = payload {
        ack["payload"] = payload;
    }
    socket.send(Frame::text(ack.to_string())).await.expect("sends");
}

#[tokio::test]
async fn a_conversation_reads_like_the_chat() {
    let slack = Slack::start().await;
    let bot = Bot::new(&slack);
    let mut socket = bot.connected().await;
    let alice = slack.person("alice");
    let answer = async {
        let command = heard(&mut socket).await;
        acknowledge(&mut socket, &command, Some(json!({ "text": "One moment, <@UALICE>" }))).await;
    };
    let (ack, ()) = tokio::join!(alice.slash("#dev", "deploy hello main"), answer);
    assert!(ack.well().took < Duration::from_secs(3));
    let button = |label: &str, more: Value| {
        let mut button =
            json!({ "type": "button", "action_id": label, "text": { "type": "plain_text", "text": label } });
        button.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
        button
    };
    let blocks = |words: &str| {
        json!([
            { "type": "section", "text": { "type": "mrkdwn", "text": words } },
            { "type": "context", "elements": [{ "type": "mrkdwn", "text": "<http://127.0.0.1:4567/|log> · 3fa9c1e &amp; more" }] },
            { "type": "actions", "elements": [
                button("Open", json!({ "url": "http://127.0.0.1:4567/" })), button("Stop", json!({ "value": "1", "style": "danger" })),
            ] },
        ])
    };
    let root = bot.call(
        "chat.postMessage",
        json!({
            "channel": "CDEV", "text": "hello", "blocks": blocks("*hello* `main`: building since 2 min 3 s"),
        }),
    );
    let root = root.await;
    let edit = json!({ "channel": "CDEV", "ts": root["ts"], "text": "hello", "blocks": blocks("*hello* `main` runs after 3.5 s") });
    bot.call("chat.update", edit).await;
    bot.call(
        "chat.postMessage",
        json!({ "channel": "CDEV", "thread_ts": root["ts"], "text": "✓ build\n✓ start, 12:03" }),
    )
    .await;
    let root = slack.until("it runs", |model| model.says("#dev", "runs").cloned()).await;
    assert_eq!((root.buttons(), root.versions.len()), (vec!["Open".to_owned(), "Stop".to_owned()], 1));
    assert!(
        root.versions[0].blocks[0]["text"]["text"].as_str().is_some_and(|text| text.contains("building"))
    );
    assert_snapshot!(slack.transcript("#dev"), @r"
    #dev
    sdp: *hello* `main` runs after N s   (edited)
         ~ log↗ · COMMIT & more
         [Open] [Stop]
      ↳ sdp: ✓ build
             ✓ start, HH:MM
    ");
    assert_snapshot!(slack.whispers("alice"), @r"
    #dev, only alice sees: sdp: One moment, @alice
    ");
    let click = async {
        let envelope = heard(&mut socket).await;
        assert_eq!(envelope["payload"]["actions"][0]["value"], "1");
        acknowledge(&mut socket, &envelope, None).await;
    };
    let (clicked, ()) = tokio::join!(alice.click_near(&root, "hello", "Stop"), click);
    assert_eq!((clicked.ack.failed, clicked.url, clicked.confirm), (None, None, None));
    slack.finish();
}

#[tokio::test]
async fn forms_and_homes_are_shown_as_people_see_them() {
    let slack = Slack::start().await;
    let bot = Bot::new(&slack);
    let mut socket = bot.connected().await;
    slack.channel("#ops");
    slack.invite("#ops", false);
    let alice = slack.person("alice");
    let text = |text: &str| json!({ "type": "plain_text", "text": text });
    let options =
        json!([{ "text": text("hello"), "value": "hello" }, { "text": text("ledger"), "value": "ledger" }]);
    let service = json!({ "type": "static_select", "action_id": "service", "options": options });
    let ttl = json!({ "type": "plain_text_input", "action_id": "ttl", "placeholder": text("2d") });
    let form = json!({
        "type": "modal", "callback_id": "deploy", "title": text("Deploy"), "submit": text("Go"), "close": text("No"),
        "blocks": [
            { "type": "input", "block_id": "s", "label": text("Service"), "element": service },
            { "type": "input", "block_id": "t", "label": text("For how long"), "element": ttl, "optional": true },
        ],
    });
    let answer = async {
        let command = heard(&mut socket).await;
        acknowledge(&mut socket, &command, None).await;
        let late = json!({ "trigger_id": command["payload"]["trigger_id"], "view": form });
        bot.call("views.open", late.clone()).await;
        assert_eq!(bot.ask("views.open", late).await.expect("JSON")["error"], "exchanged_trigger_id");
        let response = command["payload"]["response_url"].as_str().expect("a URL").to_owned();
        bot.http.post(response).json(&json!({ "text": "pick one" })).send().await.expect("answered");
    };
    tokio::join!(alice.slash("#ops", "deploy"), answer);
    let open = slack.until("a form is open", |model| model.view("alice").cloned()).await;
    assert_eq!((open.callback_id(), open.entered("service")), ("deploy", None));
    assert!(open.says("Service*") && open.buttons().is_empty() && !open.words().contains("Deploy"));
    alice.choose(&open, "service", "ledger").await;
    assert_eq!(slack.look(|model| model.view("alice")?.entered("service")).as_deref(), Some("ledger"));
    let answer = async {
        let submitted = heard(&mut socket).await;
        let errors = json!({ "response_action": "errors", "errors": { "s": "is frozen" } });
        acknowledge(&mut socket, &submitted, Some(errors)).await;
    };
    tokio::join!(alice.submit(&open), answer);
    assert_snapshot!(slack.view(&open.id), @r"
    ┌ Deploy · form of alice
    │ Service*: [ledger ▾]
    │   ! is frozen
    │ For how long: [(2d)]
    └ [No] [Go]
    ");
    let whisper = slack.look(|model| model.whispers("alice").next().cloned()).expect("a whisper");
    assert!(whisper.says("pick one"));
    let home = json!({ "type": "home", "blocks": [
        { "type": "header", "text": text("My sandboxes") },
        { "type": "section", "text": { "type": "mrkdwn", "text": "~alice" }, "accessory":
            { "type": "button", "action_id": "x", "text": text("Stop") } },
    ] });
    bot.call("views.publish", json!({ "user_id": "UALICE", "view": home })).await;
    assert_snapshot!(slack.home("alice"), @r"
    home of alice
    # My sandboxes
    ~alice [Stop]
    ");
    let root = bot.say("root").await["ts"].clone();
    bot.call("chat.postMessage", json!({ "channel": "CDEV", "thread_ts": root, "text": "reply" })).await;
    bot.call("chat.update", json!({ "channel": "CDEV", "ts": root, "text": "changed" })).await;
    let root = slack.look(|model| model.message("#dev", root.as_str()?).cloned()).expect("it is there");
    assert_eq!(root.versions[0].text, "root");
    assert_eq!(slack.look(|model| model.replies(&root).count()), 1);
    assert_snapshot!(slack.thread(&root), @r"
    sdp: changed   (edited)
      ↳ sdp: reply
    ");
    let answer = async {
        let opened = heard(&mut socket).await;
        assert_eq!(opened["payload"]["event"]["view"]["type"], "home");
        acknowledge(&mut socket, &opened, None).await;
    };
    tokio::join!(alice.open_home(), answer);
    slack.finish();
}

#[tokio::test]
#[should_panic(expected = "unread: [\n    \"#dev: nobody reads this\",\n]")]
async fn what_no_test_looks_at_fails_it() {
    let slack = Slack::start().await;
    let bot = Bot::new(&slack);
    bot.say("nobody reads this").await;
    bot.say("this somebody does").await;
    slack.until("it is said", |model| model.find("#dev", |message| message.says("somebody")).cloned()).await;
    slack.finish();
}

#[tokio::test]
async fn an_event_that_is_not_acknowledged_comes_again_and_a_command_does_not() {
    let slack = Slack::start().await;
    let bot = Bot::new(&slack);
    let mut socket = bot.connected().await;
    let alice = slack.person("alice");
    let answer = async {
        let first = heard(&mut socket).await;
        assert_eq!(first["retry_attempt"], 0);
        // Lost with its socket.
        slack.cut_links();
        let mut socket = bot.connected().await;
        let again = heard(&mut socket).await;
        assert_eq!((&again["envelope_id"], &again["retry_attempt"]), (&first["envelope_id"], &json!(1)));
        acknowledge(&mut socket, &again, None).await;
        socket
    };
    let (ack, mut socket) = tokio::join!(alice.mention("#dev", None, "status"), answer);
    assert_eq!(ack.well().attempts, 2);
    let answer = async {
        heard(&mut socket).await;
        slack.cut_links();
    };
    let (ack, ()) = tokio::join!(alice.slash("#dev", "status"), answer);
    assert_eq!((ack.failed, ack.attempts), (Some("dispatch_failed"), 1));
    assert_eq!(slack.complaints().len(), 1, "a person was told so");
    let mut socket = bot.connected().await;
    let answer = async {
        for _ in 0..3 {
            let envelope = heard(&mut socket).await;
            assert_eq!(envelope["envelope_id"], ack.delivery.envelope_id.as_str());
            acknowledge(&mut socket, &envelope, None).await;
        }
    };
    let (again, ()) = tokio::join!(slack.deliver_again(&ack, 3), answer);
    assert!(again.iter().all(|ack| ack.failed.is_none()));
    slack.finish();
}

#[tokio::test]
async fn sockets_fail_in_every_way() {
    let slack = Slack::start().await;
    slack.ping_every(Duration::from_millis(10));
    let bot = Bot::new(&slack);
    slack.fail_links(1, LinkFault::RefusesHandshake);
    assert!(bot.socket().await.expect_err("refused").contains("503"));
    slack.fail_links(1, LinkFault::ClosesAtOnce);
    let mut closed = bot.socket().await.expect("opens");
    assert!(!matches!(closed.next().await, Some(Ok(Frame::Text(_)))));
    slack.fail_links(ALWAYS, LinkFault::NeverSaysHello);
    let mut silent = bot.socket().await.expect("opens");
    let waited = tokio::time::timeout(Duration::from_millis(100), silent.next()).await;
    assert!(waited.is_err(), "{waited:?}");
    drop(silent);
    slack.lift_links();
    slack.fail_links(1, LinkFault::HalfOpen);
    let mut dead = bot.connected().await;
    let waited = tokio::time::timeout(Duration::from_millis(100), dead.next()).await;
    assert!(waited.is_err(), "pings would come: {waited:?}");
    assert_eq!(slack.look(Model::links), 1, "nobody was told");
    drop(dead);
    slack.until("it is gone", |model| (model.links() == 0).then_some(())).await;
    let mut socket = bot.connected().await;
    slack.half_open_links();
    assert!(slack.envelope(&json!({ "envelope_id": "x", "type": "unheard of" })).await.is_none());
    slack.cut_links();
    assert!(socket.next().await.is_none_or(|frame| frame.is_err()));
    let mut socket = bot.connected().await;
    slack.disconnect(Reason::LinkDisabled);
    assert_eq!(heard(&mut socket).await["reason"], "link_disabled");
    assert!(matches!(socket.next().await, Some(Ok(Frame::Close(_)))));
    assert_eq!(slack.look(|model| model.opens().len()), 6);
    slack.finish();
}

#[tokio::test]
async fn an_answer_is_lost_after_the_effect_and_a_call_before_it() {
    let slack = Slack::start().await;
    let bot = Bot::new(&slack);
    let say = |words: &str| bot.ask("chat.postMessage", json!({ "channel": "CDEV", "text": words }));
    slack.fail("chat.postMessage", 1, Fault::Cut);
    say("not said").await.expect_err("cut");
    slack.lose_answers("chat.postMessage", 1, Fault::Cut);
    say("said").await.expect_err("cut");
    slack.fail("*", ALWAYS, Fault::Error("invalid_auth"));
    assert_eq!(say("not said").await.expect("answered")["error"], "invalid_auth");
    slack.lift("*");
    assert_snapshot!(slack.transcript("#dev"), @r"
    #dev
    sdp: said
    ");
    let answers = slack
        .look(|model| model.calls("chat.postMessage").map(|call| call.answer.clone()).collect::<Vec<_>>());
    assert_eq!(answers, ["Cut", "ok, then Cut", "Error(\"invalid_auth\")"]);
    let spaced = slack.look(|model| {
        model.calls("*").all(|call| call.at <= model.now() && call.arguments["channel"] == "CDEV")
    });
    assert!(spaced);
    slack.finish();
}

#[tokio::test]
async fn too_much_is_counted_or_refused() {
    let slack = Slack::start().await;
    let bot = Bot::new(&slack);
    for _ in 0..14 {
        bot.say("again").await;
    }
    let violations = slack.violations();
    assert_eq!((violations.len(), violations[0].count, violations[0].allowed), (1, 14, 13), "{violations:?}");
    slack.enforce_limits();
    let refused = bot.ask("chat.postMessage", json!({ "channel": "CDEV", "text": "again" })).await;
    assert_eq!(refused.expect("JSON")["error"], "ratelimited");
    slack.pass(Duration::from_secs(10));
    bot.say("later").await;
    assert_eq!(slack.look(|model| model.messages("#dev").count()), 15);
    slack.finish();
}

#[tokio::test]
async fn a_request_can_be_tampered_with() {
    let slack = Slack::start().await;
    slack.call_back(RequestUrls::all("http://127.0.0.1:1/slack"));
    slack.installed_in_org();
    let ack = slack.person("dora").slash("#dev", "status").await;
    assert_eq!(ack.failed, Some("dispatch_failed"), "nobody listens");
    assert_eq!(ack.delivery.payload["enterprise_id"], "E1");
    let post = slack.post(&ack.delivery);
    let signature = |post: &Post| post.headers.iter().find(|(name, _)| name == "X-Slack-Signature").cloned();
    let changed = post.clone().body("text=other").header("X-Slack-Request-Timestamp", None);
    assert_eq!(signature(&post), signature(&changed));
    assert_eq!(changed.headers.len(), post.headers.len() - 1);
    slack.send(&changed).await.expect_err("nobody listens");
    slack.complaints();
    slack.finish();
}

/// The example of Slack's documentation.
#[test]
fn it_signs_as_slack_documents() {
    let body = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V\
        &channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=\
        &response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN\
        &trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
    let signed = callback::signature("8f742231b10e8888abcd99yyyzzz85a5", 1_531_420_618, body.as_bytes());
    assert_eq!(signed, "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503");
}

#[test]
fn what_differs_from_run_to_run_is_left_out() {
    for (shown, expected) in [
        ("runs after 2 min 3.5 s.", "runs after N s."),
        ("(3s), 200ms: 12:03:59", "(N s), N s: HH:MM"),
        ("#412 at 3fa9c1e, 2026-11-28", "#412 at COMMIT, DATE"),
        ("http://127.0.0.1:4567/x 4 services, defaced 2", "http://127.0.0.1:PORT/x 4 services, defaced 2"),
        ("runs   (edited 12 times)\nnext", "runs   (edited)\nnext"),
    ] {
        assert_eq!(render::redacted(shown), expected);
    }
}
