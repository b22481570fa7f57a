//! `/ws/agent`: pumps frames between an agent's socket and the platform's end of its connection.
//!
//! ```text
//! socket ── decode ──▶ link ──▶ Platform::serve_agent
//!        ◀─ encode ───      ◀──
//! ```
//! The two directions run side by side, so that one which waits does not hold up the other; a bounded queue between
//! socket and platform lets a busy platform slow the agent down instead of filling memory. Who the agent is comes from
//! its token. The platform ends the connection (superseded, shutdown) by dropping its end.

use std::sync::OnceLock;
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection};
use axum::http::{HeaderMap, header};
use axum::response::Response;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use sdp_core::api::Problem;
use sdp_core::id::BootId;
use sdp_core::name::AgentName;
use sdp_core::principal::Principal;
use sdp_core::wire::link::{self, AgentEnd, AgentFrame, RawFrame};
use sdp_core::wire::{ByeReason, FromAgent, MAX_CONTROL_FRAME, ToAgent};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, timeout};

use super::{DEAD, LAST_WORD, PING, RECHECK, close, say_close, upgrade};
use crate::app::App;
use crate::edge::{Caller, Proof, still_holds};
use crate::problem::Refused;

/// Connect as an agent (WebSocket).
///
/// The protocol is in `sdp-core/src/wire.rs`. Needs an agent's token; a request with an `Origin` comes from a browser and is
/// refused.
#[utoipa::path(get, path = "/ws/agent", operation_id = "connect_agent", tag = "sockets",
    responses((status = 101, description = "Connected"),
        (status = 426, description = "No WebSocket handshake (`upgrade_required`)",
            body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn connect(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    handshake: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refused> {
    if headers.contains_key(header::ORIGIN) {
        return Err(Refused::new("origin_refused", "agents are no browsers"));
    }
    let Principal::Token { name } = &caller.principal else { return Err(Refused::unauthorised()) };
    let name = AgentName::parse(name.as_str())?;
    let handshake = upgrade(handshake)?.max_message_size(MAX_CONTROL_FRAME).max_frame_size(MAX_CONTROL_FRAME);
    Ok(handshake.on_upgrade(move |socket| {
        let links = app.links().clone();
        links.track_future(async move {
            tokio::select! {
                () = serve(&app, name, caller.proof, socket) => {}
                () = app.abort().cancelled() => {}
            }
        })
    }))
}

/// Why a connection ends.
enum End {
    /// The agent went, or the network.
    Gone,
    /// The platform ended it, and has said why.
    Platform,
    BadFrame,
    Unauthorised,
    Silent,
}

/// Which agent a connection is for, and which life of it: known once it has said hello.
struct Peer<'a> {
    app: &'a App,
    name: &'a AgentName,
    boot: OnceLock<BootId>,
}

impl Peer<'_> {
    /// Before the platform hears it, so that the connection which it ends for this one can compare.
    fn heard(&self, frame: &AgentFrame) {
        if let AgentFrame::Control(message) = frame
            && let FromAgent::Hello { boot_id, .. } = &**message
            && self.boot.set(*boot_id).is_ok()
        {
            self.app.note_boot(self.name, *boot_id);
        }
    }

    /// One process that connects again is everyday; two that take turns do no work, and a person must mend it.
    fn says(&self, frame: &ToAgent) {
        if let ToAgent::Rewind { .. } = frame {
            self.app.metrics().rewound(self.name);
        }
        if matches!(frame, ToAgent::Bye { reason: ByeReason::Superseded, .. })
            && self.boot.get() != self.app.newest_boot(self.name).as_ref()
        {
            tracing::warn!(
                agent.name = %self.name,
                "another process has connected with this agent's token and took over; each agent needs a token of its own"
            );
        }
    }
}

async fn serve(app: &App, name: AgentName, proof: Proof, socket: WebSocket) {
    let (AgentEnd { tx, mut rx }, server_end) = link::pair();
    let (mut sink, mut stream) = socket.split();
    let peer = Peer { app, name: &name, boot: OnceLock::new() };
    let pump = async {
        let end = tokio::select! {
            end = read(&peer, &mut stream, &tx) => end,
            end = write(&peer, &proof, &mut sink, &mut rx) => end,
        };
        // What the platform has still to say (why it ends the connection) goes out first; what the agent said is in.
        drop(tx);
        if matches!(end, End::Platform) {
            drop(timeout(LAST_WORD, flush(&peer, &mut sink, &mut rx)).await);
        }
        drop(rx);
        match end {
            End::Gone => {}
            End::Platform => say_close(&mut sink, close::AWAY, "bye").await,
            End::Silent => say_close(&mut sink, close::TOO_SLOW, "silent").await,
            End::BadFrame => {
                app.metrics().bad_frame(&name);
                say_bye(&mut sink, ByeReason::BadFrame).await;
                say_close(&mut sink, close::BAD_FRAME, "bad frame").await;
            }
            End::Unauthorised => {
                say_bye(&mut sink, ByeReason::Unauthorised).await;
                say_close(&mut sink, close::UNAUTHORISED, "unauthorised").await;
            }
        }
    };
    let (served, ()) = tokio::join!(app.platform().serve_agent(name.clone(), server_end), pump);
    if let Err(error) = served {
        tracing::debug!(agent.name = %name, %error, "an agent was not served");
    }
}

async fn read(peer: &Peer<'_>, stream: &mut SplitStream<WebSocket>, tx: &mpsc::Sender<AgentFrame>) -> End {
    loop {
        // The clock runs only while we listen: an agent that we keep waiting is not silent.
        let message = match timeout(DEAD, stream.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(error))) => {
                tracing::debug!(agent.name = %peer.name, %error, "an agent's socket failed");
                return if is_protocol(&error) { End::BadFrame } else { End::Gone };
            }
            Ok(None) => return End::Gone,
            Err(_) => return End::Silent,
        };
        let frame = match message {
            Message::Text(text) => RawFrame::Text(text.as_str().to_owned()),
            Message::Binary(bytes) => RawFrame::Binary(bytes),
            Message::Close(_) => return End::Gone,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        match AgentFrame::decode(&frame) {
            Ok(frame) => {
                peer.heard(&frame);
                if tx.send(frame).await.is_err() {
                    return End::Platform;
                }
            }
            Err(error) => {
                tracing::warn!(agent.name = %peer.name, %error, "an agent sent what is no frame");
                return End::BadFrame;
            }
        }
    }
}

/// Whether it was what the agent sent, rather than the network.
fn is_protocol(error: &axum::Error) -> bool {
    let text = error.to_string();
    text.contains("too big")
        || text.contains("too long")
        || text.contains("protocol")
        || text.contains("UTF-8")
}

async fn write(
    peer: &Peer<'_>,
    proof: &Proof,
    sink: &mut SplitSink<WebSocket, Message>,
    rx: &mut mpsc::Receiver<ToAgent>,
) -> End {
    let mut ping = tokio::time::interval_at(tokio::time::Instant::now() + PING, PING);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pings = 0u32;
    // What was revoked while this connection came about counts, too.
    let mut revocations = peer.app.access().revocations();
    revocations.mark_changed();
    loop {
        let message = tokio::select! {
            frame = rx.recv() => match frame {
                Some(frame) => {
                    peer.says(&frame);
                    match to_message(&frame) {
                        Some(message) => message,
                        None => continue,
                    }
                }
                None => return End::Platform,
            },
            Ok(()) = revocations.changed() => {
                if still_holds(peer.app, proof).await {
                    continue;
                }
                return End::Unauthorised;
            }
            _ = ping.tick() => {
                pings = pings.wrapping_add(1);
                if pings.is_multiple_of(RECHECK) && !still_holds(peer.app, proof).await {
                    return End::Unauthorised;
                }
                Message::Ping(axum::body::Bytes::new())
            }
        };
        match timeout(peer.app.config().limits.send, sink.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return End::Gone,
            Err(_) => return End::Silent,
        }
    }
}

async fn flush(peer: &Peer<'_>, sink: &mut SplitSink<WebSocket, Message>, rx: &mut mpsc::Receiver<ToAgent>) {
    while let Some(frame) = rx.recv().await {
        peer.says(&frame);
        let Some(message) = to_message(&frame) else { continue };
        if sink.send(message).await.is_err() {
            return;
        }
    }
}

fn to_message(frame: &ToAgent) -> Option<Message> {
    match frame.encode() {
        Ok(RawFrame::Text(text)) => Some(Message::text(text)),
        Ok(RawFrame::Binary(bytes)) => Some(Message::binary(bytes)),
        Err(error) => {
            tracing::error!(%error, "a frame for an agent cannot be written");
            None
        }
    }
}

async fn say_bye(sink: &mut SplitSink<WebSocket, Message>, reason: ByeReason) {
    if let Some(message) = to_message(&ToAgent::Bye { reason, retry_after_ms: None }) {
        let limit: Duration = LAST_WORD;
        drop(timeout(limit, sink.send(message)).await);
    }
}
