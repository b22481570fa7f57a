//! Somebody's home: who they are, what runs in their sandboxes, their deployments, each with what one can do about it.
//!
//! Called by [`super::dispatch`]. Pure: the words are those of [`crate::message::home`], laid out as [`super::render`] does.
//!
//! Limits: Slack takes [`MAX_BLOCKS`] blocks. The newest [`MAX_DEPLOYMENTS`] deployments have their room; the rest is for what
//! runs, and what has none is counted.

#[cfg(test)]
mod tests;

use jiff::Timestamp;
use sdp_core::client::ClientError;
use slack_morphism::prelude::{
    SlackActionsBlock, SlackBlock, SlackBlockButtonElement, SlackBlockButtonStyle, SlackDividerBlock,
    SlackHeaderBlock, SlackHomeView, SlackView,
};

use super::form;
use super::render::{self, Numbers, label};
use crate::answer::home::HomeFacts;
use crate::message::{Message, answer as say, home as words};

/// How many blocks a home has.
const MAX_BLOCKS: usize = 100;
/// How many deployments are shown.
const MAX_DEPLOYMENTS: usize = 10;
/// The most blocks that one message becomes: words, notice, buttons.
const OF_ONE: usize = 3;
/// The longest heading, in characters.
const MAX_HEADING: usize = 150;

/// Somebody's home; where the server does not say what is in it, its refusal.
pub(super) fn home(facts: &Result<HomeFacts, ClientError>, now: Timestamp) -> SlackView {
    let mut page = Page::default();
    match facts {
        Ok(facts) => fill(&mut page, facts, now),
        Err(error) => {
            page.say(&say::refused(error));
        }
    }
    SlackView::Home(SlackHomeView::new(page.blocks))
}

fn fill(page: &mut Page, facts: &HomeFacts, now: Timestamp) {
    page.say(&words::who(&facts.me));
    if facts.me.principal.as_person().is_none() {
        return;
    }
    page.blocks.push(deploy_button());
    page.numbers.calm = true;

    let deployments: Vec<Message> = facts
        .deployments
        .iter()
        .take(MAX_DEPLOYMENTS)
        .map(|deployment| words::deployment(deployment, now))
        .collect();
    // Divider and heading before, "and N more" after; the same for the sandboxes.
    let kept = deployments.len().max(1) * OF_ONE + 2 + 1;
    page.heading("Your sandboxes");
    if facts.sandboxes.is_empty() {
        page.say(&words::no_sandbox());
    }
    let mut things: Vec<Message> = Vec::new();
    for view in &facts.sandboxes {
        things.push(words::sandbox(view, now));
        things.extend(
            view.instances
                .iter()
                .map(|instance| words::instance(instance, facts.branches.get(&instance.deployment), now)),
        );
    }
    for (n, thing) in things.iter().enumerate() {
        if page.blocks.len() + OF_ONE + kept + 1 > MAX_BLOCKS {
            page.say(&words::more(things.len() - n));
            break;
        }
        page.say(thing);
    }

    page.heading("Your deployments");
    if deployments.is_empty() {
        page.say(&words::no_deployment());
    }
    for deployment in &deployments {
        page.say(deployment);
    }
    if facts.deployments.len() > MAX_DEPLOYMENTS {
        page.say(&words::more(facts.deployments.len() - MAX_DEPLOYMENTS));
    }
}

/// Opens the form.
fn deploy_button() -> SlackBlock {
    let button = SlackBlockButtonElement::new("Deploy…".into())
        .with_action_id(form::OPEN.into())
        .with_style(SlackBlockButtonStyle::Primary);
    SlackActionsBlock::new(vec![button.into()]).into()
}

/// A page that grows.
#[derive(Default)]
struct Page {
    blocks: Vec<SlackBlock>,
    numbers: Numbers,
}

impl Page {
    fn say(&mut self, message: &Message) {
        self.blocks.extend(render::blocks(message, &mut self.numbers));
    }

    fn heading(&mut self, text: &str) {
        self.blocks.push(SlackDividerBlock::new().into());
        self.blocks.push(SlackHeaderBlock::new(label(text, MAX_HEADING)).into());
    }
}
