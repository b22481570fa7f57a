//! What is said with what a running service prints.

use sdp_core::api::Instance;
use url::Url;

use super::answer::count;
use super::{Message, Tone};
use crate::output::{Phase, Shown};
use crate::text::Text;

fn name(instance: &Instance) -> Text {
    let name = Text::new().strong(format!("{} in {}", instance.service, instance.sandbox));
    name.plain(" ").code(instance.commit.short())
}

/// What it printed last.
#[must_use]
pub fn last(instance: &Instance, lines: &[String], page: &Url) -> Message {
    let title = match lines.len() {
        0 => name(instance).plain(" has printed nothing yet"),
        1 => name(instance).dim(": its last line"),
        n => name(instance).dim(format!(": its last {n} lines")),
    };
    Message::new(Tone::Plain, title).line(Text::new().dim("live ").link(page)).block(lines).open("Live", page)
}

/// The same while it goes on, and when it does not any more.
#[must_use]
pub fn followed(shown: &Shown) -> Message {
    let name = name(&shown.instance);
    let (tone, title) = match &shown.phase {
        Phase::Live => (Tone::Working, name.plain(" prints, live")),
        Phase::Ended => (Tone::Over, name.plain(" has ended; its last words")),
        Phase::Paused => (Tone::Plain, name.plain(" goes on; this is not kept up to date any more")),
        Phase::Cut { why } => (Tone::Note, name.plain(format!(" cannot be followed any more: {why}"))),
    };
    let mut message = Message::new(tone, title).line(Text::new().dim("live ").link(&shown.page));
    if shown.lines.is_empty() && shown.phase == Phase::Live {
        message = message.line(Text::from("it has printed nothing yet"));
    }
    if shown.left_out > 0 {
        let lines = count(usize::try_from(shown.left_out).unwrap_or(usize::MAX), "line", "lines");
        message =
            message.line(Text::new().dim(format!("{lines} left out: it prints faster than can be shown")));
    }
    let message = message.block(&shown.lines).open("Live", &shown.page);
    match &shown.phase {
        Phase::Live => message,
        Phase::Ended => message.offer("Status", format!("status {}", shown.instance.sandbox)),
        Phase::Paused | Phase::Cut { .. } => {
            message.offer("Go on", format!("logs {} in {}", shown.instance.service, shown.instance.sandbox))
        }
    }
}
