//! WebSockets: agents that dial in, and browsers that watch a log.
//!
//! Both are served by tasks that the server awaits at its end. Limits: a read buffer of 4 KiB per socket, frames as
//! [`wire`](sdp_core::wire) says (from viewers: 4 KiB), a ping each 10 s, dead after 30 s of silence, `limits.send` for the other side
//! to take a frame. Tokens and sessions are looked at again each 30 s, and at once when this process has made any worthless.

pub(crate) mod agent;
pub(crate) mod viewer;

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocketUpgrade, rejection::WebSocketUpgradeRejection};
use futures_util::{Sink, SinkExt};

use crate::problem::Refused;

const READ_BUFFER: usize = 4096;
const PING: Duration = Duration::from_secs(10);
const DEAD: Duration = Duration::from_secs(30);
/// A token or session is looked at again each so many pings.
const RECHECK: u32 = 3;
/// How long a last word may take.
const LAST_WORD: Duration = Duration::from_secs(2);

/// Close codes; 4000 and above are ours.
mod close {
    pub(super) const DONE: u16 = 1000;
    pub(super) const AWAY: u16 = 1001;
    pub(super) const INTERNAL: u16 = 1011;
    pub(super) const BAD_FRAME: u16 = 4400;
    pub(super) const UNAUTHORISED: u16 = 4401;
    pub(super) const TOO_SLOW: u16 = 4408;
}

fn upgrade(
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<WebSocketUpgrade, Refused> {
    let upgrade = upgrade.map_err(|_| {
        Refused::new("upgrade_required", "this address is a WebSocket").hint("connect with ws:// or wss://")
    })?;
    Ok(upgrade.read_buffer_size(READ_BUFFER).write_buffer_size(READ_BUFFER))
}

/// Says goodbye; whether it arrives does not matter any more.
async fn say_close<S: Sink<Message> + Unpin>(sink: &mut S, code: u16, reason: &'static str) {
    let frame = CloseFrame { code, reason: reason.into() };
    drop(tokio::time::timeout(LAST_WORD, sink.send(Message::Close(Some(frame)))).await);
}
