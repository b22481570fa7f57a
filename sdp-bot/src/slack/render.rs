//! Messages as Slack's blocks. Pure.

use slack_morphism::prelude::{SlackBlock, SlackBlockPlainTextOnly, SlackSectionBlock};

use crate::message::Message;

/// A message as Slack takes it.
#[derive(Clone, Debug)]
pub(crate) struct Rendered {
    pub(super) text: String,
    pub(super) blocks: Vec<SlackBlock>,
}

/// A message as Slack takes it.
pub(crate) fn message(message: &Message) -> Rendered {
    let text: String = message.to_plain().chars().take(2900).collect();
    let section = SlackSectionBlock::new().with_text(SlackBlockPlainTextOnly::from(text.clone()).into());
    Rendered { text, blocks: vec![section.into()] }
}
