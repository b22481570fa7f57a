//! What can be chosen in the form's searches.

use std::collections::HashSet;

use sdp_core::api::{BranchList, Service};
use sdp_core::name::GitRef;
use serde_json::{Value, json};
use slack_morphism::prelude::{SlackBlockChoiceItem, SlackBlockPlainTextOnly};

use super::{MAX_OPTION, MAX_OPTIONS, MAX_VALUE};
use crate::slack::render::{label, middle};
use crate::text::clean;

type Choice = SlackBlockChoiceItem<SlackBlockPlainTextOnly>;

/// One to choose; a long text is cut in the middle, because names differ at their ends.
pub(super) fn option(text: &str, value: &str) -> Choice {
    // An escaped character is longer than it looks, and cut at the end if need be.
    let text = middle(&clean(text, 300), MAX_OPTION);
    SlackBlockChoiceItem::new(label(&text, MAX_OPTION), value.to_owned())
}

/// Nothing to choose.
pub(in super::super) fn no_options() -> Value {
    json!({ "options": [] })
}

/// Services with what was typed in their names; those that begin so come first.
pub(in super::super) fn options_services(services: &[Service], typed: &str) -> Value {
    let typed = typed.trim().to_lowercase();
    let mut found: Vec<&str> =
        services.iter().map(|service| service.name.as_str()).filter(|name| name.contains(&typed)).collect();
    found.sort_by_key(|name| !name.starts_with(&typed));
    let options: Vec<Choice> = found.into_iter().take(MAX_OPTIONS).map(|name| option(name, name)).collect();
    json!({ "options": options })
}

/// The branches and tags of a service, and what was typed if it is none of them: it may be a commit, or newer than the list.
pub(in super::super) fn options_branches(list: &BranchList, typed: &str) -> Value {
    let typed = typed.trim();
    let mut left = MAX_OPTIONS;
    let known: HashSet<&str> =
        list.branches.iter().chain(&list.tags).map(|found| found.name.as_str()).collect();
    let mut groups = Vec::new();
    let mut group = |name: &str, options: Vec<Choice>| {
        if !options.is_empty() {
            groups.push(json!({ "label": label(name, MAX_OPTION), "options": options }));
        }
    };
    let as_typed = Some(typed).filter(|typed| !known.contains(typed) && can_be_chosen(typed));
    left -= usize::from(as_typed.is_some());

    let twice: HashSet<&str> = {
        let tags: HashSet<&str> = list.tags.iter().map(|tag| tag.name.as_str()).collect();
        list.branches.iter().map(|branch| branch.name.as_str()).filter(|name| tags.contains(name)).collect()
    };
    let choose = |name: &str, kind: &str| -> Option<Choice> {
        // A name that is both is named in full, because nobody could tell which is meant.
        let value = if twice.contains(name) { format!("refs/{kind}/{name}") } else { name.to_owned() };
        can_be_chosen(&value).then(|| option(name, &value))
    };
    let mut branches: Vec<&str> = list.branches.iter().map(|branch| branch.name.as_str()).collect();
    let is_head = |name: &str| list.head.as_deref() == Some(name);
    branches.sort_by_key(|name| (*name != typed, !(typed.is_empty() && is_head(name))));
    let branches: Vec<Choice> =
        branches.into_iter().filter_map(|name| choose(name, "heads")).take(left).collect();
    left -= branches.len();
    let mut tags: Vec<&str> = list.tags.iter().map(|tag| tag.name.as_str()).collect();
    tags.sort_by_key(|name| *name != typed);
    let tags: Vec<Choice> = tags.into_iter().filter_map(|name| choose(name, "tags")).take(left).collect();

    group("Branches", branches);
    group("Tags", tags);
    group("As typed", as_typed.map(|typed| option(typed, typed)).into_iter().collect());
    if groups.is_empty() { no_options() } else { json!({ "option_groups": groups }) }
}

/// Whether it can be deployed, and chosen here.
fn can_be_chosen(git_ref: &str) -> bool {
    git_ref.chars().count() <= MAX_VALUE && GitRef::parse(git_ref).is_ok()
}
