//! `chat.*`: what is said, changed and whispered.

use serde_json::{Value, json};

use super::{Answer, Arguments, Refusal};
use crate::slack::fake::model::{BOT_USER, Channel, Message};
use crate::slack::fake::{World, blocks, payload};

/// No text is longer; an edit takes less.
const LONGEST_POST: usize = 40_000;
const LONGEST_EDIT: usize = 4000;

/// The channel that an id, a name or a person's id stands for, if the bot may speak there.
fn speaks_in(world: &World, given: &str) -> Result<Channel, Refusal> {
    let channels = &world.model.channels;
    let direct = || channels.values().find(|channel| channel.with.as_deref() == Some(given));
    let named = || channels.values().find(|channel| channel.name == given.trim_start_matches('#'));
    let channel = channels.get(given).or_else(direct).or_else(named).ok_or("channel_not_found")?;
    if channel.archived {
        Err("is_archived".into())
    } else if channel.has_bot || channel.open {
        Ok(channel.clone())
    } else {
        Err("not_in_channel".into())
    }
}

struct Content {
    text: Option<String>,
    blocks: Option<Vec<Value>>,
    metadata: Option<Value>,
}

fn content(world: &mut World, arguments: &Arguments, longest: usize) -> Result<Content, Refusal> {
    let text = arguments.text("text").map(str::to_owned);
    if text.as_ref().is_some_and(|text| text.chars().count() > longest) {
        return Err("msg_too_long".into());
    }
    let blocks = match arguments.json("blocks")? {
        None => None,
        Some(Value::Array(given)) => {
            let details = blocks::check_message(&given);
            if !details.is_empty() {
                return Err(Refusal { error: "invalid_blocks".to_owned(), details });
            }
            Some(world.model.named(given))
        }
        Some(_) => return Err("invalid_blocks_format".into()),
    };
    let metadata = arguments.json("metadata")?;
    if let Some(metadata) = &metadata {
        let is_one = metadata["event_type"].is_string() && metadata["event_payload"].is_object();
        if !is_one && metadata.as_object().is_none_or(|fields| !fields.is_empty()) {
            return Err("invalid_metadata_format".into());
        }
    }
    Ok(Content { text, blocks, metadata })
}

pub(super) fn post(world: &mut World, arguments: &Arguments) -> Answer {
    let channel = speaks_in(world, arguments.need("channel")?)?;
    let content = content(world, arguments, LONGEST_POST)?;
    if content.text.is_none() && content.blocks.as_ref().is_none_or(Vec::is_empty) {
        return Err("no_text".into());
    }
    let thread = arguments.text("thread_ts").map(str::to_owned);
    if let Some(ts) = &thread
        && world.model.at(&channel.id, ts).is_none_or(|root| root.whispered_to.is_some() || root.deleted)
    {
        return Err("thread_not_found".into());
    }
    let message = world.model.post(&channel.id, BOT_USER, &content.text.unwrap_or_default());
    message.blocks = content.blocks.unwrap_or_default();
    message.metadata = content.metadata.filter(|metadata| metadata["event_type"].is_string());
    message.thread = thread;
    message.unfurl_links = arguments.flag("unfurl_links");
    let message = message.clone();
    let shown = payload::message(&world.model, &message, true);
    if channel.with.is_some() {
        world.events.push(payload::heard(&message, &shown, None));
    }
    Ok(json!({ "channel": channel.id, "ts": message.ts, "message": shown }))
}

/// A message of the bot that everybody sees.
fn own<'a>(world: &'a mut World, channel: &str, ts: &str) -> Result<&'a mut Message, Refusal> {
    if !world.model.channels.contains_key(channel) {
        return Err("channel_not_found".into());
    }
    let found =
        world.model.at_mut(channel, ts).filter(|found| found.whispered_to.is_none() && !found.deleted);
    Ok(found.ok_or("message_not_found")?)
}

pub(super) fn update(world: &mut World, arguments: &Arguments) -> Answer {
    let (channel, ts) = (arguments.need("channel")?, arguments.need("ts")?);
    if !own(world, channel, ts)?.is_by_bot() {
        return Err("cant_update_message".into());
    }
    let content = content(world, arguments, LONGEST_EDIT)?;
    if content.text.is_none() && content.blocks.is_none() {
        return Err("no_text".into());
    }
    let message = own(world, channel, ts)?;
    message.change(content.text, content.blocks);
    if let Some(metadata) = content.metadata {
        message.metadata = Some(metadata).filter(|metadata| metadata["event_type"].is_string());
    }
    let message = message.clone();
    let shown = payload::message(&world.model, &message, true);
    if world.model.channels[channel].with.is_some() {
        let edited = world.model.tick();
        world.events.push(payload::heard(&message, &shown, Some(&edited)));
    }
    Ok(json!({ "channel": channel, "ts": ts, "text": message.text, "message": shown }))
}

pub(super) fn delete(world: &mut World, arguments: &Arguments) -> Answer {
    let (channel, ts) = (arguments.need("channel")?, arguments.need("ts")?);
    let message = own(world, channel, ts)?;
    if !message.is_by_bot() {
        return Err("cant_delete_message".into());
    }
    message.deleted = true;
    Ok(json!({ "channel": channel, "ts": ts }))
}

pub(super) fn whisper(world: &mut World, arguments: &Arguments) -> Answer {
    let channel = speaks_in(world, arguments.need("channel")?)?;
    let user = arguments.need("user")?.to_owned();
    if !world.model.users.contains_key(&user) || channel.with.as_ref().is_some_and(|with| *with != user) {
        return Err("user_not_in_channel".into());
    }
    let content = content(world, arguments, LONGEST_POST)?;
    if content.text.is_none() && content.blocks.as_ref().is_none_or(Vec::is_empty) {
        return Err("no_text".into());
    }
    let message = world.model.post(&channel.id, BOT_USER, &content.text.unwrap_or_default());
    message.blocks = content.blocks.unwrap_or_default();
    message.thread = arguments.text("thread_ts").map(str::to_owned);
    message.whispered_to = Some(user);
    Ok(json!({ "message_ts": message.ts }))
}

pub(super) fn permalink(world: &mut World, arguments: &Arguments) -> Answer {
    let (channel, ts) = (arguments.need("channel")?, arguments.need("message_ts")?);
    let thread = own(world, channel, ts)?.thread.clone();
    let mut link = format!("https://acme.slack.com/archives/{channel}/p{}", ts.replace('.', ""));
    if let Some(thread) = thread {
        link.push_str(&format!("?thread_ts={thread}&cid={channel}"));
    }
    Ok(json!({ "channel": channel, "permalink": link }))
}
