//! What is said where somebody is told something in another place than they asked.

use sdp_core::id::DeploymentNumber;

use super::{Message, Tone};
use crate::text::Text;

/// It is told here because nothing may be posted where it was asked for.
#[must_use]
pub fn may_not_post() -> Message {
    Message::new(
        Tone::Note,
        Text::from("I may not write in the channel where you asked, so I tell you alone."),
    )
    .line(Text::new().dim("next ").plain("invite me there, so that others see it, too"))
}

/// A deployment that was asked for in a thread has its message outside of it.
#[must_use]
pub fn in_the_channel(number: DeploymentNumber) -> Message {
    Message::new(
        Tone::Note,
        Text::new().strong(format!("#{number}")).plain(" is on its way; its message is in the channel"),
    )
}
