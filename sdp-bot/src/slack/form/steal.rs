//! The form that asks why a lock is taken away: whoever holds it is told.
//!
//! Called by [`super::super::dispatch`]: [`form`] when somebody steals without a reason, [`submitted`] when it is sent. Pure.
//! Invariant: what [`submitted`] gives is a command that the grammar gives again.

use serde_json::Value;
use slack_morphism::prelude::{
    SlackBlock, SlackBlockPlainTextInputElement, SlackModalView, SlackSectionBlock, SlackView,
};

use super::super::render::label;
use super::{Origin, Refused, field, typed_value};
use crate::command::{self, Command, Lock, LockOf, LockVerb};
use crate::text::clean;

pub(in super::super) const CALLBACK: &str = "sdp:steal";
const REASON: &str = "sdp:reason";
const REASON_BLOCK: &str = "reason";

/// What somebody wants to take away without having said why.
pub(in super::super) fn wanted(command: &str) -> Option<LockOf> {
    match command::parse(command) {
        Ok(Command::Lock(Lock { verb: LockVerb::Steal, of, reason: None, .. })) => Some(of),
        _ => None,
    }
}

/// The form; where it was opened, and what is to be taken, travel in it.
pub(in super::super) fn form(of: &LockOf, origin: Origin) -> SlackView {
    let element = SlackBlockPlainTextInputElement::new()
        .with_action_id(REASON.into())
        .with_placeholder(label("Production is down, and the mend has to be tried", 150))
        .with_max_length(500);
    let words = format!("You take away the lock of {}.", clean(&of.to_string(), 100));
    let blocks: Vec<SlackBlock> = vec![
        SlackSectionBlock::new().with_text(label(&words, 300).into()).into(),
        field(REASON_BLOCK, "Why do you need it?", element.into())
            .with_hint(label("Whoever holds it is told this.", 2000))
            .into(),
    ];
    let origin = Origin { steal: Some(of.to_string()), ..origin };
    let view = SlackModalView::new("Steal the lock".into(), blocks)
        .with_close("Cancel".into())
        .with_submit("Steal".into())
        .with_callback_id(CALLBACK.into())
        .with_private_metadata(origin.metadata());
    SlackView::Modal(view)
}

/// What a form that was sent asks for.
///
/// # Errors
/// [`Refused`]: why not.
pub(in super::super) fn submitted(view: &Value) -> Result<(Command, Origin), Refused> {
    let origin = super::origin_of(view);
    let refused = |text: &str| Refused::new(REASON_BLOCK, text);
    let of = origin.steal.as_deref().and_then(|of| wanted(&format!("steal {of}")));
    let of = of.ok_or_else(|| refused("This form is too old; click Steal again."))?;
    let reason =
        typed_value(view, REASON).map(|reason| reason.split_whitespace().collect::<Vec<_>>().join(" "));
    let reason = reason.ok_or_else(|| refused("Why do you need it?"))?;
    if command::looks_like_a_secret(&reason) {
        return Err(refused(super::NO_SECRETS));
    }
    let lock = Command::Lock(Lock { verb: LockVerb::Steal, of, lifetime: None, reason: Some(reason) });
    match command::parse(&lock.to_string()) {
        Ok(parsed) if parsed == lock => Ok((lock, origin)),
        Ok(_) => Err(refused("That cannot be passed on as it is; say it in plain words.")),
        Err(mistake) => Err(refused(&mistake.problem)),
    }
}

/// The server's refusal, beside the field.
pub(in super::super) fn refused_by_server(words: &str) -> Value {
    Refused::new(REASON_BLOCK, words).to_json()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::render::check;
    use super::*;

    fn sent(reason: &str, of: &str) -> Value {
        json!({ "callback_id": CALLBACK, "private_metadata": json!({ "conversation": "C1", "steal": of }).to_string(),
            "state": { "values": { REASON_BLOCK: { REASON: { "value": reason } } } } })
    }

    #[test]
    fn it_asks_why_and_gives_a_command() {
        let of = wanted("steal payments in qa-42").unwrap();
        assert_eq!(wanted("steal qa-42 because fire"), None);
        let view = form(&of, Origin::new("C1"));
        check::view(&view);
        let json = serde_json::to_value(&view).unwrap();
        assert_eq!(super::super::origin_of(&json).steal.as_deref(), Some("payments in qa-42"));
        let (command, origin) = submitted(&sent("  production \n is “down”  ", "payments in qa-42")).unwrap();
        assert_eq!(command.to_string(), "steal payments in qa-42 because \"production is “down”\"");
        assert_eq!(origin.conversation, "C1");
        for (reason, of) in
            [("", "qa-42"), ("ghp_hunter2hunter2hunter2hunter2", "qa-42"), ("x", "Not A Place")]
        {
            let refused = submitted(&sent(reason, of)).unwrap_err().to_json().to_string();
            assert!(refused.contains("errors") && !refused.contains("hunter2"), "{refused}");
        }
    }
}
