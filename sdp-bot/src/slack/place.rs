//! Where things are in Slack, as the words in which [`crate::chat`] passes them around and [`crate::store`] keeps them.
//!
//! A conversation is `C024BE91L`, in a thread `C024BE91L/1595926230.009600`; a message is channel and time stamp likewise.

use crate::chat::{Conversation, Place};

/// Where a message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct At {
    pub(super) channel: String,
    pub(super) ts: String,
}

impl At {
    pub(super) fn read(place: &Place) -> Option<Self> {
        let (channel, ts) = place.0.split_once('/')?;
        Some(Self { channel: channel.to_owned(), ts: ts.to_owned() })
    }

    pub(super) fn place(&self) -> Place {
        Place(format!("{}/{}", self.channel, self.ts))
    }
}

pub(super) fn conversation(channel: &str, thread: Option<&str>) -> Conversation {
    Conversation(match thread {
        Some(thread) => format!("{channel}/{thread}"),
        None => channel.to_owned(),
    })
}

/// Channel and thread.
pub(super) fn channel_of(conversation: &Conversation) -> (String, Option<String>) {
    match conversation.0.split_once('/') {
        Some((channel, thread)) => (channel.to_owned(), Some(thread.to_owned())),
        None => (conversation.0.clone(), None),
    }
}
