//! Brings to the bot what people did, through a socket if one is open, else to its addresses, and waits for its answer.
//!
//! Events that nobody acknowledged come again, three times; commands, clicks and forms never do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::callback::{self, Answered, Post};
use super::{Shared, effects, payload};

/// So long Slack waits for an answer.
pub(crate) const ACK_WITHIN: Duration = Duration::from_secs(3);
/// How often an event comes again.
const RETRIES: u32 = 3;
/// How long an event waits for a socket.
const EVENT_WAITS: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Slash,
    /// A click or a form.
    Interactive,
    /// A search, which is interactive with an address of its own.
    Options,
    Event,
}

/// Something that the bot is to hear.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) kind: Kind,
    pub(crate) payload: Value,
    pub(crate) envelope_id: String,
}

/// What the bot answered.
#[derive(Debug, Clone)]
pub(crate) struct Ack {
    pub(crate) took: Duration,
    /// What came with it; null for nothing.
    pub(crate) body: Value,
    /// What Slack tells the person instead (`operation_timeout`, `dispatch_failed`, `http_error`).
    pub(crate) failed: Option<&'static str>,
    /// How often it was delivered until somebody acknowledged it.
    pub(crate) attempts: u32,
    pub(crate) delivery: Arc<Delivery>,
}

impl Ack {
    /// Panics if it was not acknowledged in time.
    pub(crate) fn well(self) -> Self {
        assert_eq!(self.failed, None, "not acknowledged: {}", self.delivery.payload);
        self
    }
}

impl Delivery {
    fn envelope(&self, attempt: u32) -> Value {
        let kind = match self.kind {
            Kind::Slash => "slash_commands",
            Kind::Interactive | Kind::Options => "interactive",
            Kind::Event => "events_api",
        };
        let answered =
            ["view_submission", "block_suggestion"].contains(&self.payload["type"].as_str().unwrap_or(""));
        let mut envelope = json!({
            "envelope_id": self.envelope_id, "payload": self.payload, "type": kind,
            "accepts_response_payload": self.kind == Kind::Slash || answered,
        });
        if self.kind == Kind::Event {
            envelope["retry_attempt"] = json!(attempt);
            envelope["retry_reason"] = json!(if attempt > 0 { "timeout" } else { "" });
        }
        envelope
    }
}

enum Way {
    Socket(oneshot::Receiver<Value>),
    Http(Box<Post>),
    None,
}

impl Shared {
    fn way(&self, delivery: &Delivery, attempt: u32, why: &str) -> Way {
        self.look_mut(|world| {
            if let Some(acknowledged) = world.send_envelope(&delivery.envelope(attempt)) {
                return Way::Socket(acknowledged);
            }
            let Some(urls) = &world.urls else { return Way::None };
            let (url, time) = (urls.of(delivery.kind), world.model.wall().as_secs());
            Way::Http(Box::new(callback::post(delivery, url, time, attempt, why)))
        })
    }

    async fn attempt(&self, delivery: &Delivery, attempt: u32, why: &str) -> Result<Value, &'static str> {
        match self.way(delivery, attempt, why) {
            Way::None => Err("dispatch_failed"),
            Way::Socket(acknowledged) => match timeout(ACK_WITHIN, acknowledged).await {
                Ok(Ok(body)) => Ok(body),
                Ok(Err(_)) => Err("dispatch_failed"),
                Err(_) => Err("operation_timeout"),
            },
            Way::Http(post) => match post.send(&self.http, ACK_WITHIN).await {
                Ok(answer @ Answered { status: 200..=299, .. }) => Ok(answer.said()),
                Ok(answer) if answer.headers.contains_key("x-slack-no-retry") => Err("http_error, no retry"),
                Ok(_) => Err("http_error"),
                Err(error) if error.is_timeout() => Err("operation_timeout"),
                Err(_) => Err("dispatch_failed"),
            },
        }
    }

    /// Brings it, with all its repetitions, and does what the answer says.
    pub(super) async fn deliver(&self, delivery: Arc<Delivery>) -> Ack {
        let began = Instant::now();
        let mut attempts = 0;
        if delivery.kind == Kind::Event {
            self.reachable().await;
        }
        let mut why = "";
        let result = loop {
            let result = self.attempt(&delivery, attempts, why).await;
            attempts += 1;
            why = match result {
                Err("http_error") => "http_error",
                Err("dispatch_failed") => "connection_failed",
                _ => "http_timeout",
            };
            let again = !matches!(result, Ok(_) | Err("http_error, no retry"));
            if delivery.kind != Kind::Event || !again || attempts > RETRIES || !self.reachable().await {
                break result;
            }
        };
        let (body, failed) = match result {
            Ok(body) => (body, None),
            Err(error) => (Value::Null, Some(error)),
        };
        self.change(|world| match failed {
            None => effects::acknowledged(world, &delivery, &body),
            Some(error) => {
                let what = &delivery.payload;
                let text =
                    [&what["text"], &what["type"]].into_iter().find_map(Value::as_str).unwrap_or_default();
                let late = format!("{:?} {text:?} was not acknowledged: {error}", delivery.kind);
                world.complaints.push(late);
            }
        });
        Ack { took: began.elapsed(), body, failed, attempts, delivery }
    }

    /// Waits until there is a way to the bot.
    async fn reachable(&self) -> bool {
        let mut changed = self.changed.subscribe();
        let is = changed.wait_for(|_| self.look(|world| world.urls.is_some() || world.model.links > 0));
        matches!(timeout(EVENT_WAITS, is).await, Ok(Ok(_)))
    }

    pub(super) fn new_delivery(&self, kind: Kind, payload: Value) -> Arc<Delivery> {
        let envelope_id = self.look_mut(|world| world.model.next("envelope-"));
        Arc::new(Delivery { kind, payload, envelope_id })
    }

    pub(super) fn new_event(&self, event: Value) -> Arc<Delivery> {
        let payload = self.look_mut(|world| {
            let org = world.org_install;
            payload::event(&mut world.model, event, org)
        });
        self.new_delivery(Kind::Event, payload)
    }
}
