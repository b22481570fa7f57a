//! Socket Mode: what people do in Slack comes over a WebSocket that the bot opens, so that no address has to be reachable.
//!
//! ```text
//!   apps.connections.open ─▶ connect ─▶ hello ─▶ serve ─┬─ envelope ─▶ a task ─▶ dispatch ─▶ ack
//!        ▲                                              ├─ disconnect ─▶ the next one is opened before this one is dropped
//!        └──────── a pause that grows, with jitter ◀────┘─ closed, silent, broken
//! ```
//! Called by [`super::run`]. Invariants: between two opens lies a step of [`Backoff`], unless the connection before lived for
//! [`PROVED`] ; an envelope is acknowledged whatever it holds; what was received before the end is acknowledged before the end.
//!
//! Limits: opening, handshake and hello take [`super::dial::TIMEOUT`] each; a frame has at most [`MAX_FRAME`] bytes;
//! [`MAX_ENVELOPES`] are worked on at once; a socket that is silent for [`SILENT`] is dropped; acks have [`GRACE`] at the end.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, sleep, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_util::sync::CancellationToken;

use super::dial::{self, Dial, Stream};
use super::dispatch::Dispatch;
use super::inbound::{Delivery, Kind};
use super::web::{Web, WebError};

/// The largest frame, in bytes.
const MAX_FRAME: usize = 4 * 1024 * 1024;
/// How many envelopes are worked on at once on one socket; the next one is read when one is done.
const MAX_ENVELOPES: usize = 64;
/// How often the other side is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(20);
/// A socket that has said nothing for as long is dropped.
const SILENT: Duration = Duration::from_secs(60);
/// A connection that lived for as long was a good one: the next one may be opened at once.
const PROVED: Duration = Duration::from_secs(30);
/// How long a socket is heard after the next one is there.
const LINGER: Duration = Duration::from_secs(5);
/// How long acks may take at the end.
const GRACE: Duration = Duration::from_secs(3);

type Socket = WebSocketStream<TokioIo<Stream>>;

/// The pause before the next open: it doubles up to a minute, with jitter so that not all bots come at once.
#[derive(Debug, Default)]
struct Backoff {
    failed: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(500);
    const LONGEST: Duration = Duration::from_secs(60);

    fn step(&mut self) -> Duration {
        let whole = (Self::FIRST * 2_u32.pow(self.failed.min(10))).min(Self::LONGEST);
        self.failed += 1;
        // Between the half and the whole of it, by the process's own hasher: no need of a random number generator.
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), self.failed) % 1000;
        whole / 2 + whole / 2 * u32::try_from(random).unwrap_or(0) / 1000
    }
}

/// Keeps a socket open until `shutdown`.
///
/// # Errors
/// [`WebError::Barred`]: Slack lets this app open none.
pub(super) async fn run(
    web: Arc<Web>,
    dial: Dial,
    dispatch: Dispatch,
    shutdown: CancellationToken,
) -> Result<(), WebError> {
    let mut backoff = Backoff::default();
    let mut serving = JoinSet::new();
    // Of the connection that is to be dropped once the next one is there.
    let mut before = CancellationToken::new();
    let result = loop {
        let opened = tokio::select! {
            opened = open(&web, &dial) => opened,
            () = shutdown.cancelled() => break Ok(()),
        };
        let began = Instant::now();
        let mut pause = None;
        match opened {
            Ok(socket) => {
                tracing::info!("connected to Slack");
                before.cancel();
                before = CancellationToken::new();
                let (notice, mut noticed) = oneshot::channel();
                serving.spawn(serve(socket, dispatch.clone(), notice, before.clone(), shutdown.clone()));
                let reason = loop {
                    tokio::select! {
                        reason = &mut noticed => break reason.unwrap_or_else(|_| "closed".to_owned()),
                        // Earlier connections.
                        Some(_) = serving.join_next(), if serving.len() > 1 => {}
                        () = shutdown.cancelled() => break "shutdown".to_owned(),
                    }
                };
                if shutdown.is_cancelled() {
                    break Ok(());
                }
                tracing::info!(reason, lived = ?began.elapsed(), "Slack's socket has to be replaced");
                if reason == "link_disabled" {
                    break Err(WebError::Barred(reason));
                }
            }
            Err(WebError::Barred(code)) => break Err(WebError::Barred(code)),
            Err(WebError::TooMany(length)) => pause = Some(length),
            Err(error) => tracing::warn!(%error, "no connection to Slack"),
        }
        if began.elapsed() >= PROVED {
            backoff = Backoff::default();
            continue;
        }
        let step = backoff.step().max(pause.unwrap_or_default());
        tokio::select! {
            () = sleep(step) => {}
            () = shutdown.cancelled() => break Ok(()),
        }
    };
    before.cancel();
    while serving.join_next().await.is_some() {}
    result
}

/// A socket that has said hello.
async fn open(web: &Web, dial: &Dial) -> Result<Socket, WebError> {
    let url = web.open_connection().await?;
    let unclear = |error: String| WebError::Unclear(crate::text::clean(&error, 200));
    let stream = dial::connect(dial, &url).await.map_err(|error| unclear(error.to_string()))?;
    let config = WebSocketConfig::default().max_message_size(Some(MAX_FRAME)).max_frame_size(Some(MAX_FRAME));
    let shaking =
        tokio_tungstenite::client_async_with_config(url.as_str(), TokioIo::new(stream), Some(config));
    let (mut socket, _) = timeout(dial::TIMEOUT, shaking)
        .await
        .map_err(|_| unclear("no handshake within 10 s".to_owned()))?
        .map_err(|error| unclear(error.to_string()))?;
    let hello = async {
        while let Some(frame) = socket.next().await {
            if let Frame::Text(text) = frame.map_err(|error| unclear(error.to_string()))?
                && let Ok(Value::Object(said)) = serde_json::from_str(&text)
            {
                match said.get("type").and_then(Value::as_str) {
                    Some("hello") => return Ok(()),
                    Some("disconnect") if said.get("reason") == Some(&json!("link_disabled")) => {
                        return Err(WebError::Barred("link_disabled".to_owned()));
                    }
                    _ => return Err(unclear("it said something else than hello".to_owned())),
                }
            }
        }
        Err(unclear("closed before hello".to_owned()))
    };
    timeout(dial::TIMEOUT, hello).await.map_err(|_| unclear("no hello within 10 s".to_owned()))??;
    Ok(socket)
}

/// Serves one socket until it ends or `stop`. `notice` hears why another one is needed: as soon as Slack says so, at the latest
/// when this one ends.
/// One that is replaced is heard for [`LINGER`] more: what Slack has sent that way comes by no other.
async fn serve(
    socket: Socket,
    dispatch: Dispatch,
    notice: oneshot::Sender<String>,
    replaced: CancellationToken,
    stop: CancellationToken,
) {
    let (mut sink, mut frames) = socket.split();
    let (acks, mut to_ack) = mpsc::channel::<Value>(MAX_ENVELOPES);
    let mut envelopes = JoinSet::new();
    let mut notice = Some(notice);
    let mut tell = |reason: &str| {
        if let Some(notice) = notice.take() {
            // Whoever asked may have gone.
            let _nobody_waits = notice.send(reason.to_owned()).is_ok();
        }
    };
    let mut heard = Instant::now();
    let mut until = None;
    let mut ping = interval_at(heard + PING_EVERY, PING_EVERY);
    let reason = loop {
        tokio::select! {
            () = stop.cancelled() => break "shutdown".to_owned(),
            () = replaced.cancelled(), if until.is_none() => until = Some(Instant::now() + LINGER),
            () = sleep_until(until.unwrap_or(heard)), if until.is_some() => break "replaced".to_owned(),
            Some(ack) = to_ack.recv() => {
                if let Err(error) = sink.send(Frame::text(ack.to_string())).await {
                    break error.to_string();
                }
            }
            Some(_) = envelopes.join_next(), if !envelopes.is_empty() => {}
            _ = ping.tick() => {
                if heard.elapsed() >= SILENT {
                    break "silent".to_owned();
                }
                if let Err(error) = sink.send(Frame::Ping(Vec::new().into())).await {
                    break error.to_string();
                }
            }
            frame = frames.next(), if envelopes.len() < MAX_ENVELOPES => {
                heard = Instant::now();
                match frame {
                    Some(Ok(Frame::Text(text))) => match read(&text) {
                        Read::Envelope(envelope) => {
                            let (dispatch, acks) = (dispatch.clone(), acks.clone());
                            envelopes.spawn(async move { answer(*envelope, &dispatch, &acks).await });
                        }
                        Read::Disconnect(reason) => tell(&reason),
                        Read::Other => {}
                    },
                    Some(Ok(_)) => {}
                    Some(Err(error)) => break error.to_string(),
                    None => break "closed".to_owned(),
                }
            }
        }
    };
    drop(acks);
    let ending = async {
        loop {
            tokio::select! {
                ack = to_ack.recv() => match ack {
                    Some(ack) => sink.send(Frame::text(ack.to_string())).await?,
                    // All senders have gone: every envelope is answered.
                    None => break,
                },
                Some(_) = envelopes.join_next(), if !envelopes.is_empty() => {}
            }
        }
        sink.close().await
    };
    if !matches!(timeout(GRACE, ending).await, Ok(Ok(()))) {
        tracing::debug!("Slack's socket ended before all was acknowledged; what it holds of it comes again");
    }
    envelopes.shutdown().await;
    tell(&crate::text::clean(&reason, 200));
}

struct Envelope {
    id: String,
    delivery: Delivery,
}

enum Read {
    Envelope(Box<Envelope>),
    Disconnect(String),
    Other,
}

/// Reads what came; whatever it is, it is no reason to end.
fn read(text: &str) -> Read {
    let Ok(Value::Object(mut said)) = serde_json::from_str(text) else {
        tracing::warn!(
            length = text.len(),
            "Slack's socket brought something that is no JSON object; ignored"
        );
        return Read::Other;
    };
    let kind = said.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    if kind == "disconnect" {
        return Read::Disconnect(said.get("reason").and_then(Value::as_str).unwrap_or("unknown").to_owned());
    }
    let Some(id) = said.get("envelope_id").and_then(Value::as_str).map(str::to_owned) else {
        return Read::Other;
    };
    let delivery = Delivery {
        kind: match kind.as_str() {
            "slash_commands" => Kind::Command,
            "interactive" => Kind::Interaction,
            "events_api" => Kind::Event,
            other => Kind::Unknown(crate::text::clean(other, 40)),
        },
        payload: said.remove("payload").unwrap_or_default(),
        id: Some(id.clone()),
        retry: said.get("retry_attempt").and_then(Value::as_u64).unwrap_or(0),
    };
    Read::Envelope(Box::new(Envelope { id, delivery }))
}

async fn answer(envelope: Envelope, dispatch: &Dispatch, acks: &mpsc::Sender<Value>) {
    let Envelope { id, delivery } = envelope;
    let mut ack = json!({ "envelope_id": id });
    if let Some(body) = dispatch.receive(delivery).await {
        ack["payload"] = body;
    }
    // The socket may have ended.
    let _gone = acks.send(ack).await.is_err();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_a_minute_and_is_never_short() {
        let mut backoff = Backoff::default();
        let mut whole = Duration::from_millis(500);
        for _ in 0..20 {
            let step = backoff.step();
            assert!(step >= whole / 2 && step <= whole, "{step:?} of {whole:?}");
            whole = (whole * 2).min(Duration::from_secs(60));
        }
    }

    #[test]
    fn whatever_comes_is_read_and_what_has_an_id_is_answered() {
        let is = |text: &str| match read(text) {
            Read::Envelope(envelope) => format!("{} {:?}", envelope.id, envelope.delivery.kind),
            Read::Disconnect(reason) => format!("disconnect: {reason}"),
            Read::Other => "other".to_owned(),
        };
        for (text, read) in [
            (r#"{"type":"hello","num_connections":1}"#, "other"),
            (r#"{"type":"disconnect","reason":"warning"}"#, "disconnect: warning"),
            (r#"{"type":"disconnect"}"#, "disconnect: unknown"),
            (r#"{"envelope_id":"e","type":"slash_commands","payload":{}}"#, "e Command"),
            (r#"{"envelope_id":"e","payload":{"text":"hi"}}"#, "e Unknown(\"\")"),
            (r#"{"envelope_id":"e","type":"made_up"}"#, "e Unknown(\"made_up\")"),
            (r#"{"envelope_id":7,"type":"interactive"}"#, "other"),
            ("[]", "other"),
            ("{", "other"),
        ] {
            assert_eq!(is(text), read, "{text}");
        }
    }
}
