//! A headless Chromium, driven over its debugging protocol (CDP): what a person would see and do.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// How long anything may take to show on the page.
const PATIENCE_MS: u32 = 45_000;

pub(crate) struct Chromium {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: String,
    sent: u64,
    /// What happened in the page and should not have.
    faults: Vec<String>,
    /// Every address that was asked for.
    requested: Vec<String>,
    _process: Child,
    _profile: tempfile::TempDir,
}

impl Chromium {
    pub(crate) async fn start() -> Self {
        let profile = tempfile::tempdir().expect("a folder");
        let program = std::env::var("SDP_CHROMIUM").unwrap_or_else(|_| "chromium".to_owned());
        let mut process = Command::new(program)
            .args([
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--remote-debugging-port=0",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("Chromium is installed");
        let mut said = BufReader::new(process.stderr.take().expect("piped")).lines();
        let address = loop {
            let line = said.next_line().await.expect("readable").expect("Chromium says where it listens");
            if let Some((_, address)) = line.split_once("DevTools listening on ") {
                break address.trim().to_owned();
            }
        };
        let (socket, _) = connect_async(address).await.expect("Chromium answers");
        let mut chromium = Self {
            socket,
            session: String::new(),
            sent: 0,
            faults: Vec::new(),
            requested: Vec::new(),
            _process: process,
            _profile: profile,
        };
        let target = chromium.call("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = chromium.call("Target.attachToTarget", attach).await;
        chromium.session = attached["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page", "Runtime", "Network", "Log"] {
            chromium.call(&format!("{domain}.enable"), json!({})).await;
        }
        chromium.size(1280, 800).await;
        chromium
    }

    pub(crate) async fn call(&mut self, method: &str, params: Value) -> Value {
        self.sent += 1;
        let mut request = json!({ "id": self.sent, "method": method, "params": params });
        if !self.session.is_empty() {
            request["sessionId"] = self.session.clone().into();
        }
        self.socket.send(Message::text(request.to_string())).await.expect("Chromium lives");
        loop {
            let answer = tokio::time::timeout(Duration::from_secs(60), self.socket.next()).await;
            let answer = answer.expect("Chromium answers").expect("Chromium lives").expect("a message");
            let Message::Text(text) = answer else { continue };
            let message: Value = serde_json::from_str(&text).expect("JSON");
            if message["id"] == self.sent {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
            self.note(&message);
        }
    }

    fn note(&mut self, message: &Value) {
        let params = &message["params"];
        match message["method"].as_str().unwrap_or("") {
            "Page.javascriptDialogOpening" => self.faults.push(format!("a dialog: {}", params["message"])),
            "Runtime.exceptionThrown" => self.faults.push(params["exceptionDetails"].to_string()),
            // Violations of the content security policy, and nothing else, come with this source.
            "Log.entryAdded" if params["entry"]["source"] == "security" => {
                self.faults.push(params["entry"].to_string());
            }
            "Network.requestWillBeSent" => {
                self.requested.push(params["request"]["url"].as_str().unwrap_or("").to_owned());
            }
            _ => {}
        }
    }

    pub(crate) async fn size(&mut self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500 });
        self.call("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// What the reader has chosen for all pages: `light` or `dark`.
    pub(crate) async fn scheme(&mut self, scheme: &str) {
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.call("Emulation.setEmulatedMedia", json!({ "features": [feature] })).await;
    }

    pub(crate) async fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({ "url": url })).await;
        self.until("document.readyState === 'complete'").await;
    }

    /// What an expression is in the page.
    pub(crate) async fn eval(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": true });
        // While the page changes its address there is nobody to answer.
        let answer = self.call("Runtime.evaluate", params).await;
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true in the page.
    pub(crate) async fn until(&mut self, expression: &str) {
        let begun = std::time::Instant::now();
        let wait = format!(
            "new Promise((ok, no) => {{
               const begun = Date.now();
               const look = () => {{
                 let is = false;
                 try {{ is = ({expression}); }} catch {{}}
                 if (is) ok(true);
                 else if (Date.now() - begun > {PATIENCE_MS}) ok(document.body.innerText.slice(0, 2000) || 'empty');
                 else setTimeout(look, 15);
               }};
               look();
             }})"
        );
        loop {
            let params = json!({ "expression": wait, "awaitPromise": true, "returnByValue": true });
            self.sent += 1;
            let id = self.sent;
            let request = json!({ "id": id, "method": "Runtime.evaluate", "params": params, "sessionId": self.session });
            self.socket.send(Message::text(request.to_string())).await.expect("Chromium lives");
            let answer = loop {
                let Message::Text(text) =
                    self.socket.next().await.expect("Chromium lives").expect("a message")
                else {
                    continue;
                };
                let message: Value = serde_json::from_str(&text).expect("JSON");
                if message["id"] == id {
                    break message;
                }
                self.note(&message);
            };
            // The page went elsewhere while it was asked: ask the new one.
            let moved = answer["error"].is_object() || answer["result"]["exceptionDetails"].is_object();
            if moved && begun.elapsed() < Duration::from_millis(PATIENCE_MS.into()) {
                continue;
            }
            let value = &answer["result"]["result"]["value"];
            assert!(value == true, "never: {expression}\n{answer}\n{:?}", self.faults);
            return;
        }
    }

    /// Says that all went well: no script failed, no dialog opened, nothing was asked of anybody else.
    pub(crate) fn assert_well(&self, server: &str) {
        assert!(self.faults.is_empty(), "{:#?}", self.faults);
        for url in &self.requested {
            let ours = url.starts_with(server) || url.starts_with("data:") || url.starts_with("about:");
            assert!(ours, "asked for {url}");
        }
    }

    /// Keeps a picture for people, where `SDP_SHOTS` names a folder.
    pub(crate) async fn shot(&mut self, name: &str) {
        let Ok(folder) = std::env::var("SDP_SHOTS") else { return };
        let shot = self.call("Page.captureScreenshot", json!({ "format": "png" })).await;
        let bytes = decode(shot["data"].as_str().expect("a picture"));
        std::fs::write(Path::new(&folder).join(format!("{name}.png")), bytes).expect("written");
    }
}

/// Base64, which is how pictures come.
fn decode(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut word, mut bits) = (0u32, 0);
    for byte in text.bytes() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        word = word << 6 | u32::from(digit);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((word >> bits) as u8);
            word &= (1 << bits) - 1;
        }
    }
    out
}
