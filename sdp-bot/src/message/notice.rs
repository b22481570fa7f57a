//! What is said to one person although they did not ask: a sandbox comes to its end, a lock was taken away.
//!
//! Called by [`crate::follow`]. Pure.

use jiff::Timestamp;
use sdp_core::lock::{Lock, LockKind};
use sdp_core::name::{GitRef, SandboxName};
use sdp_core::principal::Principal;

use super::locks::{capital, typed};
use super::places::{left, moment};
use super::{Message, Tone};
use crate::text::Text;

/// A sandbox comes to its end.
#[must_use]
pub fn expiring(
    sandbox: &SandboxName,
    expires_at: Timestamp,
    branch_gone: Option<&GitRef>,
    runs: usize,
    now: Timestamp,
) -> Message {
    let text = Text::new().plain("Sandbox ").strong(sandbox).plain(" ends in ").strong(left(expires_at, now));
    let mut message = Message::new(Tone::Waiting, text.dim(format!(" ({})", moment(expires_at))));
    if let Some(branch) = branch_gone {
        message =
            message.line(Text::new().dim("because ").code(branch).plain(" is gone from its repository"));
    }
    message = message.line(Text::new().plain(match runs {
        0 => "Nothing runs in it. If nobody does anything, it is deleted.".to_owned(),
        1 => "If nobody does anything, it is deleted, and what runs in it stops.".to_owned(),
        n => format!("If nobody does anything, it is deleted, and the {n} services in it stop."),
    }));
    message
        .offer("Extend", format!("sandbox extend {sandbox}"))
        .offer("Keep", format!("sandbox pin {sandbox}"))
        .offer("Stop", format!("sandbox delete {sandbox}"))
}

/// A sandbox has come to its end.
#[must_use]
pub fn expired(sandbox: &SandboxName) -> Message {
    let title = Text::new()
        .plain("Sandbox ")
        .strong(sandbox)
        .plain(" has come to its end, and is deleted; what ran in it is being stopped.");
    Message::new(Tone::Over, title)
        .line(Text::new().dim("next ").plain("deploy to it again, and it is made anew"))
}

/// Somebody has taken a lock away.
#[must_use]
pub fn stolen(had: &Lock, by: &Principal, now_held: &Lock) -> Message {
    let what = if had.kind == LockKind::Freeze { "freeze" } else { "lock" };
    let title = Text::new()
        .strong(by.to_string())
        .plain(format!(" has taken away your {what} of {}: ", had.place))
        .plain(&now_held.reason);
    Message::new(Tone::Bad, title)
        .line(Text::new().dim("yours said ").plain(&had.reason))
        .line(
            Text::new()
                .dim("next ")
                .plain(format!("ask {by}, or take it back; {} is theirs now", capital(&typed(&had.place)))),
        )
        .offer("Take it back", format!("steal {}", typed(&had.place)))
}
