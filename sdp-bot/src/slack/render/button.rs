//! What one can do next, as buttons.
//!
//! What cannot be taken back is red and asks first; what one probably wants is green, at most one of a message. Buttons that
//! say the same get what they are about beside.
//!
//! Limits: [`MAX_ROW`] buttons; one whose command or address is too long for Slack is left out.

use slack_morphism::prelude::{
    SlackActionBlockElement, SlackActionsBlock, SlackBlock, SlackBlockButtonElement, SlackBlockButtonStyle,
    SlackBlockConfirmItem,
};

use super::{label, opens, weight};
use crate::command;
use crate::message::{Action, Does, confirm};
use crate::text::clean;

/// How many buttons a row has.
const MAX_ROW: usize = 25;
/// The longest text of a button, in characters.
const MAX_LABEL: usize = 75;
/// The longest command that a button carries, in characters.
const MAX_VALUE: usize = 2000;
/// What is green; the first of them.
const PRIMARY: [&str; 7] = ["Open", "Deploy", "Retry", "Deploy again", "Log in", "Go on", "Extend"];

/// Gives each button of a message, form or home a number, so that no two are named alike.
#[derive(Debug, Default)]
pub(in super::super) struct Numbers {
    last: usize,
    /// None is green from now on: where many stand below each other, that would be too much.
    pub(in super::super) calm: bool,
}

impl Numbers {
    fn next(&mut self) -> usize {
        self.last += 1;
        self.last
    }
}

/// A row of buttons, of those that there is room for.
pub(super) fn row(actions: &[Action], numbers: &mut Numbers, mut room: usize) -> Option<SlackBlock> {
    let mut once: Vec<&Action> = Vec::new();
    for action in actions {
        if !once.contains(&action) {
            once.push(action);
        }
    }
    let actions = once;
    let primary = PRIMARY
        .iter()
        .find_map(|label| actions.iter().position(|action| action.label == *label && is_possible(action)));
    let mut row: Vec<SlackActionBlockElement> = Vec::new();
    for (n, action) in actions.iter().copied().enumerate() {
        let is_ambiguous = actions.iter().filter(|other| other.label == action.label).count() > 1;
        let Some(mut button) = button(action, is_ambiguous, numbers) else { continue };
        if primary == Some(n) && !numbers.calm && button.style.is_none() {
            button.style = Some(SlackBlockButtonStyle::Primary);
        }
        let needed = weight(&button);
        if row.len() == MAX_ROW || needed > room {
            break;
        }
        room -= needed;
        row.push(button.into());
    }
    (!row.is_empty()).then(|| SlackActionsBlock::new(row).into())
}

fn is_possible(action: &Action) -> bool {
    match &action.does {
        Does::Open(url) => opens(url),
        Does::Command(command) => command.chars().count() <= MAX_VALUE && !command.is_empty(),
    }
}

/// A button; none: Slack would not take it.
fn button(action: &Action, is_ambiguous: bool, numbers: &mut Numbers) -> Option<SlackBlockButtonElement> {
    if !is_possible(action) {
        return None;
    }
    let id = format!("sdp:{}:{}", numbers.next(), sdp_core::name::slug(action.label, 40));
    let button = |text: &str| SlackBlockButtonElement::new(label(text, MAX_LABEL)).with_action_id(id.into());
    let command = match &action.does {
        Does::Open(url) => return Some(button(action.label).with_url(url.clone())),
        Does::Command(command) => command,
    };
    let about = command.split_once(' ').map(|(_, about)| clean(about, MAX_LABEL)).unwrap_or_default();
    let text = match is_ambiguous {
        true => format!("{} {about}", action.label),
        false => action.label.to_owned(),
    };
    let button = button(text.trim()).with_value(command.clone());
    let asks = command::parse(command).ok().and_then(|command| confirm::confirm(&command));
    Some(match asks {
        Some(asks) => button.with_style(SlackBlockButtonStyle::Danger).with_confirm(
            SlackBlockConfirmItem::new(
                label(&asks.title, 100),
                label(&asks.text, 300).into(),
                label(asks.yes, 30),
                label(asks.no, 30),
            )
            .with_style("danger".to_owned()),
        ),
        None => button,
    })
}
