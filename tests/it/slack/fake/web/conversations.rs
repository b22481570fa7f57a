//! `conversations.*` and `users.info`: who and what is there.

use serde_json::{Value, json};

use super::{Answer, Arguments, Refusal};
use crate::slack::fake::model::{BOT_USER, Channel, Message, Model, TEAM};
use crate::slack::fake::{World, payload};

pub(super) fn open(world: &mut World, arguments: &Arguments) -> Answer {
    let users = arguments.need("users")?;
    let mut direct = world.model.channels.values();
    let channel = direct.find(|channel| channel.with.as_deref() == Some(users)).ok_or("user_not_found")?;
    let mut shown = json!({ "id": channel.id });
    if arguments.flag("return_im") == Some(true) {
        shown = described(channel);
    }
    Ok(json!({ "no_op": true, "already_open": true, "channel": shown }))
}

fn described(channel: &Channel) -> Value {
    match &channel.with {
        Some(user) => json!({
            "id": channel.id, "created": 1_700_000_000, "is_im": true, "is_org_shared": false, "user": user,
            "is_archived": false, "is_user_deleted": false, "is_open": true, "priority": 0,
        }),
        None => json!({
            "id": channel.id, "name": channel.name, "name_normalized": channel.name, "is_channel": true,
            "is_group": false, "is_im": false, "is_mpim": false, "is_private": false,
            "created": 1_700_000_000, "is_archived": channel.archived, "is_general": false,
            "is_member": channel.has_bot, "creator": "UALICE", "context_team_id": TEAM, "unlinked": 0,
            "is_shared": false, "is_org_shared": false, "is_ext_shared": false, "previous_names": [],
            "topic": { "value": "", "creator": "", "last_set": 0 },
            "purpose": { "value": "", "creator": "", "last_set": 0 },
        }),
    }
}

fn known<'a>(world: &'a World, arguments: &Arguments) -> Result<&'a Channel, Refusal> {
    let channel = world.model.channels.get(arguments.need("channel")?);
    Ok(channel.ok_or("channel_not_found")?)
}

fn readable<'a>(world: &'a World, arguments: &Arguments) -> Result<&'a Channel, Refusal> {
    let channel = known(world, arguments)?;
    if channel.has_bot { Ok(channel) } else { Err("not_in_channel".into()) }
}

pub(super) fn info(world: &mut World, arguments: &Arguments) -> Answer {
    Ok(json!({ "channel": described(known(world, arguments)?) }))
}

pub(super) fn user(world: &mut World, arguments: &Arguments) -> Answer {
    let id = arguments.need("user")?;
    let name = world.model.users.get(id).ok_or("user_not_found")?;
    Ok(json!({ "user": {
        "id": id, "team_id": TEAM, "name": name, "deleted": false, "real_name": name,
        "tz": "Europe/Berlin", "tz_label": "Central European Time", "tz_offset": 3600,
        "profile": {
            "real_name": name, "real_name_normalized": name, "display_name": name,
            "display_name_normalized": name, "email": format!("{name}@example.com"), "team": TEAM,
        },
        "is_admin": false, "is_owner": false, "is_bot": id == BOT_USER, "is_app_user": false, "updated": 1_700_000_000,
    } }))
}

/// Which messages of those a page shows; the cursor is the time stamp after which it goes on.
fn page<'a>(
    model: &Model,
    messages: Vec<&'a Message>,
    arguments: &Arguments,
    limit: usize,
    newest_first: bool,
) -> Result<Value, Refusal> {
    let limit = arguments.number("limit").unwrap_or(limit);
    if !(1..=1000).contains(&limit) {
        return Err("invalid_limit".into());
    }
    let inclusive = arguments.flag("inclusive") == Some(true);
    // Time stamps have as many digits each: they compare as text.
    let (oldest, latest) = (arguments.text("oldest"), arguments.text("latest"));
    let after = |ts: &str, oldest: &str| ts > oldest || inclusive && ts == oldest;
    let before = |ts: &str, latest: &str| ts < latest || inclusive && ts == latest;
    let from = match arguments.text("cursor") {
        None => None,
        Some(cursor) => Some(cursor.strip_prefix("next_ts:").ok_or("invalid_cursor")?),
    };
    let mut fitting: Vec<&'a Message> = messages
        .into_iter()
        .filter(|message| oldest.is_none_or(|oldest| after(&message.ts, oldest)))
        .filter(|message| latest.is_none_or(|latest| before(&message.ts, latest)))
        .collect();
    if newest_first {
        fitting.reverse();
    }
    let start = match from {
        None => 0,
        Some(from) => fitting.iter().position(|message| message.ts == from).ok_or("invalid_cursor")?,
    };
    let with_metadata = arguments.flag("include_all_metadata") == Some(true);
    let shown = fitting.iter().skip(start).take(limit);
    let shown: Vec<Value> = shown.map(|message| payload::message(model, message, with_metadata)).collect();
    let next = fitting.get(start + limit);
    let mut answer = json!({ "messages": shown, "has_more": next.is_some(), "pin_count": 0 });
    if let Some(next) = next {
        answer["response_metadata"] = json!({ "next_cursor": format!("next_ts:{}", next.ts) });
    }
    Ok(answer)
}

pub(super) fn history(world: &mut World, arguments: &Arguments) -> Answer {
    let channel = readable(world, arguments)?;
    let roots = world.model.shown(&channel.id).filter(|message| message.thread.is_none()).collect();
    page(&world.model, roots, arguments, 100, true)
}

pub(super) fn replies(world: &mut World, arguments: &Arguments) -> Answer {
    let channel = readable(world, arguments)?;
    let ts = arguments.need("ts")?;
    let root = world.model.at(&channel.id, ts).filter(|root| root.whispered_to.is_none());
    let root = root.ok_or("thread_not_found")?;
    let root = root.thread.clone().unwrap_or_else(|| root.ts.clone());
    let all = world.model.shown(&channel.id);
    let all = all.filter(|message| message.ts == root || message.thread.as_ref() == Some(&root)).collect();
    page(&world.model, all, arguments, 1000, false)
}
