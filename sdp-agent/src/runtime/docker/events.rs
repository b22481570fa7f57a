//! What the engine's events say, and in which order they are to be believed. Pure; called by `watch`.

use bollard::errors::Error;
use bollard::models::EventMessage;

/// The exit code of who was killed, as the engine says it: 128 + SIGKILL.
const KILLED: &str = "137";

/// An event, or why there are no more.
pub(super) type Event = Result<EventMessage, Error>;

/// Which container did what, and with which exit code.
fn what(event: &Event) -> Option<(&str, &str, Option<&str>)> {
    let event = event.as_ref().ok()?;
    let actor = event.actor.as_ref()?;
    let code = actor.attributes.as_ref().and_then(|all| all.get("exitCode")).map(String::as_str);
    Some((actor.id.as_deref()?, event.action.as_deref()?, code))
}

/// Whether it is the end of a container that something killed.
pub(super) fn was_killed(event: &Event) -> bool {
    matches!(what(event), Some((_, "die", Some(KILLED))))
}

/// Puts each word that a container had no memory left before its end, if that was said first.
pub(super) fn put_causes_first(batch: &mut [Event]) {
    for at in 0..batch.len() {
        let Some((container, "oom", _)) = what(&batch[at]) else { continue };
        let before =
            batch[..at].iter().rposition(|event| what(event).is_some_and(|(id, ..)| id == container));
        if let Some(end) = before.filter(|before| was_killed(&batch[*before])) {
            batch[end..=at].rotate_right(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn why_somebody_was_killed_counts_also_when_it_is_said_after_that_they_were() {
        let event = |container: &str, action: &str, code: Option<&str>| -> Event {
            let attributes = code.map(|code| HashMap::from([("exitCode".to_owned(), code.to_owned())]));
            let actor = bollard::models::EventActor { id: Some(container.to_owned()), attributes };
            Ok(EventMessage {
                action: Some(action.to_owned()),
                actor: Some(actor),
                ..EventMessage::default()
            })
        };
        let mut batch = vec![
            event("a", "start", None),
            event("a", "die", Some("137")),
            event("b", "die", Some("137")),
            event("c", "die", Some("1")),
            event("a", "oom", None),
            event("b", "start", None),
            event("b", "oom", None),
            event("c", "oom", None),
        ];
        assert!(batch.iter().any(was_killed) && !was_killed(&event("c", "die", Some("1"))));
        put_causes_first(&mut batch);
        let order: Vec<_> =
            batch.iter().map(|event| what(event).map(|(id, action, _)| (id, action))).collect();
        // What follows another start is of the next run.
        let expected = [
            ("a", "start"),
            ("a", "oom"),
            ("a", "die"),
            ("b", "die"),
            ("c", "die"),
            ("b", "start"),
            ("b", "oom"),
            ("c", "oom"),
        ];
        assert_eq!(order, expected.map(Some));
    }
}
