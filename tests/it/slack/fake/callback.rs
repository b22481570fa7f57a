//! HTTP callbacks: what Slack posts to an app that has addresses of its own, and its signature.

use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{Delivery, Kind, SIGNING_SECRET};

/// Where the app wants to be asked.
#[derive(Debug, Clone)]
pub(crate) struct RequestUrls {
    pub(crate) commands: String,
    pub(crate) interactions: String,
    pub(crate) options: String,
    pub(crate) events: String,
}

impl RequestUrls {
    /// Everything at one address.
    pub(crate) fn all(url: &str) -> Self {
        let url = url.to_owned();
        Self { commands: url.clone(), interactions: url.clone(), options: url.clone(), events: url }
    }

    pub(super) fn of(&self, kind: Kind) -> &str {
        match kind {
            Kind::Slash => &self.commands,
            Kind::Interactive => &self.interactions,
            Kind::Options => &self.options,
            Kind::Event => &self.events,
        }
    }
}

/// A request, ready to be sent or to be tampered with.
#[derive(Debug, Clone)]
pub(crate) struct Post {
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: String,
}

impl Answered {
    /// What it says, as an acknowledgement has it: JSON, or a text.
    pub(super) fn said(&self) -> Value {
        let kind = self.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if self.body.is_empty() {
            Value::Null
        } else if kind.starts_with("application/json") {
            serde_json::from_str(&self.body).unwrap_or_else(|_| Value::String(self.body.clone()))
        } else {
            serde_json::json!({ "text": self.body })
        }
    }
}

impl Post {
    /// Signed as Slack signs.
    pub(crate) fn signed(url: &str, kind: &str, body: Vec<u8>, timestamp: u64) -> Self {
        let headers = vec![
            ("Content-Type".to_owned(), kind.to_owned()),
            ("User-Agent".to_owned(), "Slackbot 1.0 (+https://api.slack.com/robots)".to_owned()),
            ("X-Slack-Request-Timestamp".to_owned(), timestamp.to_string()),
            ("X-Slack-Signature".to_owned(), signature(SIGNING_SECRET, timestamp, &body)),
        ];
        Self { url: url.to_owned(), headers, body }
    }

    /// With another value of a header, or without it.
    pub(crate) fn header(mut self, name: &str, value: Option<&str>) -> Self {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.extend(value.map(|value| (name.to_owned(), value.to_owned())));
        self
    }

    /// With another body, under the signature of the first one.
    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) async fn send(
        &self,
        http: &reqwest::Client,
        within: Duration,
    ) -> Result<Answered, reqwest::Error> {
        let mut request = http.post(&self.url).timeout(within).body(self.body.clone());
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answered { status, headers, body: response.text().await? })
    }
}

/// What is posted for something that happened.
pub(super) fn post(delivery: &Delivery, url: &str, timestamp: u64, attempt: u32, why: &str) -> Post {
    const FORM: &str = "application/x-www-form-urlencoded";
    let payload = &delivery.payload;
    let form = |pairs: &mut dyn Iterator<Item = (String, String)>| {
        url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish().into_bytes()
    };
    let (kind, body) = match delivery.kind {
        Kind::Event => ("application/json", payload.to_string().into_bytes()),
        Kind::Slash => {
            let fields = payload.as_object().into_iter().flatten();
            let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            (FORM, form(&mut fields.map(|(name, value)| (name.clone(), text(value)))))
        }
        Kind::Interactive | Kind::Options => {
            (FORM, form(&mut std::iter::once(("payload".to_owned(), payload.to_string()))))
        }
    };
    let mut post = Post::signed(url, kind, body, timestamp);
    if attempt > 0 {
        post = post.header("X-Slack-Retry-Num", Some(&attempt.to_string()));
        post = post.header("X-Slack-Retry-Reason", Some(why));
    }
    post
}

/// `v0=` and the HMAC-SHA256 of `v0:time:body`.
pub(crate) fn signature(secret: &str, timestamp: u64, body: &[u8]) -> String {
    let mut key = [0_u8; 64];
    key[..secret.len()].copy_from_slice(secret.as_bytes());
    let pad = |with: u8| key.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(format!("v0:{timestamp}:"));
    let inner = inner.chain_update(body).finalize();
    let outer = Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize();
    outer.iter().fold("v0=".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}
