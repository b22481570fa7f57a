//! What is said of locks and freezes: who holds them, why, until when, and how to come by them.
//!
//! Called by [`crate::answer`], and by [`crate::bot`] where a lock stops somebody. Pure.

use jiff::Timestamp;
use sdp_core::lock::{Lock, LockKind, LockPlace};
use sdp_core::name::{SandboxName, ServiceName};

use super::answer::{MAX_ROWS, count, more};
use super::places::{left, moment};
use super::{Message, Tone};
use crate::command::{LockOf, LockVerb};
use crate::text::Text;

/// The place as it is typed: `payments in qa-42`, `staging`.
#[must_use]
pub fn typed(place: &LockPlace) -> String {
    let at = place.sandbox.as_ref().map_or(place.environment.as_str(), SandboxName::as_str);
    match &place.service {
        Some(service) => format!("{service} in {at}"),
        None => at.to_owned(),
    }
}

fn is(lock: &Lock) -> &'static str {
    match lock.kind {
        LockKind::Freeze => "frozen",
        _ => "locked",
    }
}

fn until(lock: &Lock, now: Timestamp) -> String {
    match lock.expires_at {
        Some(end) => format!("for another {} (until {})", left(end, now), moment(end)),
        None => "until somebody ends it".to_owned(),
    }
}

/// `locked payments in qa-42 by bob: testing · for another 2 h`.
pub(super) fn row(lock: &Lock, now: Timestamp) -> Text {
    Text::new()
        .strong(is(lock))
        .plain(format!(" {} by {}: ", lock.place, lock.owner))
        .plain(&lock.reason)
        .dim(format!(" · {}", until(lock, now)))
}

/// Which locks and freezes there are.
#[must_use]
pub fn locks(locks: &[Lock], now: Timestamp) -> Message {
    if locks.is_empty() {
        return Message::new(Tone::Plain, Text::from("Nothing is locked or frozen."));
    }
    let title = format!("{} held", count(locks.len(), "lock or freeze is", "locks and freezes are"));
    let message = locks
        .iter()
        .take(MAX_ROWS)
        .fold(Message::new(Tone::Plain, Text::new().plain(title)), |message, lock| {
            message.line(row(lock, now))
        });
    more(message, locks.len())
}

/// A lock or a freeze was set; `stolen`: from whom.
#[must_use]
pub fn set(lock: &Lock, stolen: Option<&Lock>, now: Timestamp) -> Message {
    let who = match lock.kind {
        LockKind::Freeze => "nobody deploys there",
        _ => "nobody but you deploys there",
    };
    let title = Text::new()
        .plain(capital(&lock.place.to_string()))
        .plain(" is ")
        .strong(is(lock))
        .plain(format!(": {who}, {}.", until(lock, now)));
    let message = Message::new(Tone::Good, title).line(Text::new().dim("because ").plain(&lock.reason));
    let message = match stolen {
        Some(stolen) => message.line(Text::new().plain(format!("It was {}'s, who is told.", stolen.owner))),
        None => message,
    };
    message.offer("Unlock", format!("unlock {}", typed(&lock.place)))
}

/// A lock or a freeze is over.
#[must_use]
pub fn ended(lock: &Lock) -> Message {
    let title = format!("{} is not {} any more.", capital(&lock.place.to_string()), is(lock));
    Message::new(Tone::Good, Text::new().plain(title))
}

/// There is none to be ended.
#[must_use]
pub fn none_there(of: &LockOf) -> Message {
    let title = Text::new().strong(of.to_string()).plain(" is neither locked nor frozen.");
    Message::new(Tone::Bad, title).offer("Locks", "locks")
}

/// Where a service is to be locked.
#[must_use]
pub fn where_of(verb: LockVerb, service: &ServiceName) -> Message {
    let verb = verb.as_str();
    let title = Text::new().plain(format!("Where? {service} is in many places."));
    Message::new(Tone::Bad, title).line(
        Text::new()
            .dim("next ")
            .code(format!("{verb} {service} in <sandbox or environment> because <reason>")),
    )
}

/// There is no such sandbox, environment or service.
#[must_use]
pub fn no_such_place(of: &LockOf) -> Message {
    let title =
        Text::new().plain("There is neither a sandbox nor an environment named ").code(&of.place).plain(".");
    Message::new(Tone::Bad, title).offer("Sandboxes", "sandboxes").offer("Environments", "environments")
}

/// A lock stands in the way: who has it, why, until when, and how to come by it.
#[must_use]
pub fn in_the_way(lock: &Lock, now: Timestamp) -> Message {
    let title = Text::new()
        .plain(capital(&lock.place.to_string()))
        .plain(" is ")
        .strong(is(lock))
        .plain(format!(" by {}: ", lock.owner))
        .plain(&lock.reason);
    let place = typed(&lock.place);
    Message::new(Tone::Bad, title)
        .line(Text::new().plain(capital(&until(lock, now))))
        .line(
            Text::new()
                .dim("next ")
                .plain(format!("ask {}, or ", lock.owner))
                .code(format!("steal {place} because <reason>"))
                .plain(": they are told why"),
        )
        .offer("Steal", format!("steal {place}"))
}

/// Whoever steals has to say why.
#[must_use]
pub fn why_steal(of: &LockOf, held: Option<&Lock>, now: Timestamp) -> Message {
    let title = match held {
        Some(lock) => Text::new()
            .plain(format!("{} holds {} ", lock.owner, lock.place))
            .plain(until(lock, now))
            .plain(". Why do you need it? They are told."),
        None => Text::new().plain("Why do you need it? Whoever holds it is told."),
    };
    let message = Message::new(Tone::Bad, title)
        .line(Text::new().dim("next ").code(format!("steal {of} because <reason>")));
    match held {
        Some(lock) => message.line(Text::new().dim("they say ").plain(&lock.reason)),
        None => message,
    }
}

pub(super) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
