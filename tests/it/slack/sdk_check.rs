//! Slack's own client for Python against the fake: what it understands, the fake says as Slack does. `sdk_check.py` asks for what
//! people do by lines of JSON on its output, and is answered on its input.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

use super::fake::{
    ALWAYS, APP_TOKEN, Ack, BOT_TOKEN, Fault, Kind, Model, Reason, RequestUrls, SIGNING_SECRET, Slack, Spot,
};

/// The whole check takes no longer.
const LIMIT: Duration = Duration::from_secs(120);

fn python() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    Path::new(env!("CARGO_MANIFEST_DIR")).join(target).join("validators/bin/python")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Slack's client for Python, which scripts/setup-test installs"]
async fn the_fake_is_what_slack_s_own_client_expects() {
    let slack = Slack::start().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/slack/sdk_check.py");
    let mut check = Command::new(python())
        .arg("-u")
        .arg(script)
        .args([&slack.api_url(), BOT_TOKEN, APP_TOKEN, SIGNING_SECRET])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("scripts/setup-test makes target/validators");
    let mut input = check.stdin.take().expect("piped");
    let mut lines = BufReader::new(check.stdout.take().expect("piped")).lines();
    let mut errors = check.stderr.take().expect("piped");
    let mut said = String::new();
    let talk = async {
        while let Some(line) = lines.next_line().await.expect("UTF-8") {
            let Some(asked) = line.strip_prefix("act ") else {
                said.push_str(&format!("{line}\n"));
                continue;
            };
            let asked: Value = serde_json::from_str(asked).expect("JSON");
            let answer = act(&slack, &asked).await;
            input.write_all(format!("{answer}\n").as_bytes()).await.expect("it listens");
        }
    };
    let mut trouble = String::new();
    let ended = tokio::time::timeout(LIMIT, async {
        tokio::join!(talk, errors.read_to_string(&mut trouble)).1.expect("UTF-8");
        check.wait().await.expect("it ran")
    })
    .await;
    let well = ended.is_ok_and(|status| status.success());
    assert!(well, "{said}{trouble}\n{}", slack.everything());
    assert!(said.contains("all of it is as Slack's client expects"), "{said}");
    slack.call_back(RequestUrls::all("http://127.0.0.1:1/"));
    slack.complaints();
    slack.violations();
}

fn shown(ack: &Ack) -> Value {
    json!({ "body": ack.body, "failed": ack.failed, "attempts": ack.attempts, "ms": ack.took.as_millis() as u64 })
}

/// Does what the script asks for.
async fn act(slack: &Slack, asked: &Value) -> Value {
    let text = |field: &str| asked[field].as_str().unwrap_or_default().to_owned();
    let person = slack.person("alice");
    let view = || slack.look(|model| model.view("alice").cloned()).expect("a form is open");
    match text("do").as_str() {
        "slash" => shown(&person.slash(&text("channel"), &text("text")).await),
        "mention" => shown(&person.mention(&text("channel"), None, &text("text")).await),
        "dm" => shown(&person.dm(&text("text")).await),
        "home" => shown(&person.open_home().await),
        "click" => {
            let spot = Spot::Message { channel: text("channel"), ts: text("ts") };
            shown(&person.click(spot, &text("label")).await.ack)
        }
        "click at home" => {
            let home = slack.look(|model| model.home("alice").cloned()).expect("a home");
            shown(&person.click(&home, &text("label")).await.ack)
        }
        "options" => json!(person.options(&view(), &text("action"), &text("typed")).await),
        "choose" => json!(person.choose(&view(), &text("action"), &text("label")).await.is_some()),
        "fill" => json!(person.fill(&view(), &text("action"), &text("text")).await.is_some()),
        "submit" => shown(&person.submit(&view()).await),
        "close" => json!(person.close(&view()).await.as_ref().map(shown)),
        "shows" => {
            let shown = match text("what").as_str() {
                "form" => slack.look(|model| model.view("alice").map(|view| view.id.clone())),
                _ => None,
            };
            shown.map_or(Value::Null, |id| json!(slack.view(&id)))
        }
        "transcript" => json!(slack.transcript(&text("channel"))),
        "whispers" => json!(slack.whispers("alice")),
        "again" => {
            let payload = asked["payload"].clone();
            json!(shown(&slack.deliver(Kind::Event, payload).await))
        }
        "links" => {
            let number = |field: &str| asked[field].as_u64().unwrap_or_default() as usize;
            let (open, asked_for) = (number("open"), number("asked for"));
            let is = |model: &Model| model.links() == open && model.opens().len() >= asked_for;
            slack.until("so many sockets are open", |model| is(model).then_some(())).await;
            Value::Null
        }
        "disconnect" => {
            slack.disconnect(if text("reason") == "warning" {
                Reason::Warning
            } else {
                Reason::RefreshRequested
            });
            Value::Null
        }
        "cut" => {
            slack.cut_links();
            Value::Null
        }
        "fail" => {
            let fault = match text("fault").as_str() {
                "ratelimited" => Fault::RateLimited(7),
                "status" => Fault::Status(502),
                "cut" => Fault::Cut,
                "hang" => Fault::Hang,
                _ => Fault::Error("internal_error"),
            };
            if asked["after"] == true {
                slack.lose_answers(&text("method"), 1, fault);
            } else {
                slack.fail(&text("method"), 1, fault);
            }
            Value::Null
        }
        "refuse" => {
            slack.fail(&text("method"), ALWAYS, Fault::Error("missing_scope"));
            Value::Null
        }
        "lift" => {
            slack.lift(&text("method"));
            Value::Null
        }
        "enforce" => {
            slack.enforce_limits();
            Value::Null
        }
        "call back" => {
            slack.call_back(RequestUrls::all(&text("url")));
            Value::Null
        }
        "pass" => {
            slack.pass(Duration::from_secs(asked["seconds"].as_u64().unwrap_or_default()));
            Value::Null
        }
        other => panic!("unknown: {other}"),
    }
}
