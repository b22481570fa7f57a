//! One call to Slack each, and what it needs around it: where nothing may be posted it is told to the person alone, and what may
//! have been posted is looked for by its metadata before it is posted again.
//!
//! Limits: [`MAX_PAGES`] pages of a channel or thread are looked through; where nothing can be looked up, something is posted
//! [`MAX_BLIND`] times at most.

use std::collections::BTreeSet;

use sdp_core::name::PersonName;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::super::pace::pause;
use super::super::place::At;
use super::super::render;
use super::super::web::{Page, Web, WebError};
use super::edits::Edit;
use super::lane::{Job, Kind};
use crate::chat::{About, Place, Recalled};
use crate::message::{Message, elsewhere};

/// The kind of metadata of a story's message.
pub(super) const MESSAGE: &str = "sdp_deployment";
/// And of a reply in its thread.
const REPLY: &str = "sdp_reply";
/// And of what was told to one person who did not ask.
const NOTICE: &str = "sdp_notice";
/// How many pages are looked through, 200 messages each.
const MAX_PAGES: u32 = 10;
/// How often something is posted of which cannot be told whether it is there.
const MAX_BLIND: u32 = 3;
/// The server's clock and Slack's may differ by as much, in seconds.
const CLOCKS: i64 = 3600;
/// What is tried again was begun at most so many seconds ago.
const TRIED_FOR: i64 = 86_400;

/// What came of a call.
pub(super) enum Called {
    Posted(String, Job, Result<Place, WebError>),
    Edited(Place, Edit, Result<(), WebError>),
    /// The answer was given.
    Recalled,
}

/// What is to be looked for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) about: About,
    pub(super) channel: String,
    pub(super) person: Option<PersonName>,
    pub(super) at: Option<At>,
    /// Seconds since 1970.
    pub(super) since: i64,
    /// Whether its replies are wanted, too.
    pub(super) replies: bool,
}

pub(super) async fn post(web: &Web, channel: String, job: Job) -> Called {
    let result = match &job.kind {
        Kind::Root { about, person } => root(web, &channel, *about, person.as_ref(), &job).await,
        Kind::Say { thread, person } => {
            say(web, &channel, thread.as_deref(), person.as_ref(), &job.message).await
        }
        Kind::Whisper { thread, person } => {
            whisper(web, &channel, thread.as_deref(), person, &job.message).await
        }
        Kind::Direct { person, name, since } => direct(web, person, name, *since, &job).await,
        Kind::Reply { thread, about, keys } => reply(web, &channel, thread, *about, keys, &job).await,
    };
    Called::Posted(channel, job, result)
}

/// Where nothing can be read, something may be said twice; better than not at all.
fn cannot_look(error: WebError, channel: &str, job: &Job) -> Result<(), WebError> {
    match error {
        WebError::Refused(code) if job.tried < MAX_BLIND => {
            tracing::warn!(
                channel,
                code,
                "what is there already cannot be looked up; something may be said twice"
            );
            Ok(())
        }
        error => Err(error),
    }
}

/// Posts; a layout that Slack does not take is left away, so that at least the words are there.
async fn posted(
    web: &Web,
    channel: &str,
    thread: Option<&str>,
    message: &Message,
    metadata: Option<Value>,
) -> Result<Place, WebError> {
    let mut rendered = render::message(message);
    let result = match web.post(channel, thread, &rendered, metadata.clone()).await {
        Err(WebError::Refused(code)) if is_about_layout(&code) => {
            tracing::error!(code, "Slack does not take a layout; only the words are shown");
            rendered.blocks.clear();
            web.post(channel, thread, &rendered, metadata).await
        }
        result => result,
    };
    result.map(|(channel, ts)| At { channel, ts }.place())
}

fn is_about_layout(code: &str) -> bool {
    code.contains("blocks")
        || matches!(code, "msg_too_long" | "invalid_arguments" | "invalid_metadata_format")
}

/// Whether it is the channel that takes nothing from us.
fn is_closed_to_us(code: &str) -> bool {
    code.starts_with("restricted_action")
        || matches!(
            code,
            "not_in_channel"
                | "channel_not_found"
                | "is_archived"
                | "user_not_in_channel"
                | "no_permission"
                | "access_denied"
                | "ekm_access_denied"
                | "posting_to_channel_denied"
                | "method_not_supported_for_channel_type"
                | "messages_tab_disabled"
        )
}

async fn root(
    web: &Web,
    channel: &str,
    about: About,
    person: Option<&PersonName>,
    job: &Job,
) -> Result<Place, WebError> {
    if job.unclear {
        let wanted = Wanted {
            about,
            channel: channel.to_owned(),
            person: person.cloned(),
            at: None,
            since: jiff::Timestamp::now().as_second() - TRIED_FOR,
            replies: false,
        };
        match look(web, &wanted).await {
            Ok(Recalled { place: Some(place), .. }) => return Ok(place),
            Ok(_) => {}
            Err(error) => cannot_look(error, channel, job)?,
        }
    }
    let metadata = super::message_metadata(about);
    match (posted(web, channel, None, &job.message, Some(metadata.clone())).await, person) {
        (Err(WebError::Refused(code)), Some(person)) if is_closed_to_us(&code) => {
            tracing::info!(channel, code, "nothing may be posted there; it is told to whoever asked alone");
            let direct = web.direct(person.as_str()).await?;
            let place = posted(web, &direct, None, &job.message, Some(metadata)).await?;
            if let Some(At { channel: direct, ts }) = At::read(&place)
                && let Err(error) = posted(web, &direct, Some(&ts), &elsewhere::may_not_post(), None).await
            {
                tracing::info!(code = error.code(), "why it is told there could not be said");
            }
            Ok(place)
        }
        (result, _) => result,
    }
}

async fn say(
    web: &Web,
    channel: &str,
    thread: Option<&str>,
    person: Option<&PersonName>,
    message: &Message,
) -> Result<Place, WebError> {
    match (posted(web, channel, thread, message, None).await, person) {
        (Err(WebError::Refused(code)), Some(person)) if is_closed_to_us(&code) => {
            let direct = web.direct(person.as_str()).await?;
            posted(web, &direct, None, message, None).await
        }
        (result, _) => result,
    }
}

async fn whisper(
    web: &Web,
    channel: &str,
    thread: Option<&str>,
    person: &PersonName,
    message: &Message,
) -> Result<Place, WebError> {
    let rendered = render::message(message);
    match web.post_ephemeral(channel, thread, person.as_str(), &rendered).await {
        Ok(()) => Ok(Place(String::new())),
        // Nobody else reads what is said to them alone.
        Err(WebError::Refused(_)) => {
            let direct = web.direct(person.as_str()).await?;
            posted(web, &direct, None, message, None).await
        }
        Err(error) => Err(error),
    }
}

/// Tells one person something in their conversation with the app, once.
async fn direct(
    web: &Web,
    person: &PersonName,
    name: &str,
    since: Option<jiff::Timestamp>,
    job: &Job,
) -> Result<Place, WebError> {
    let channel = web.direct(person.as_str()).await?;
    if job.unclear || since.is_some() {
        let oldest = since.map_or(jiff::Timestamp::now().as_second() - TRIED_FOR, |since| since.as_second());
        let is_it = |message: &Value| {
            let metadata = &message["metadata"];
            metadata["event_type"] == NOTICE && metadata["event_payload"]["name"] == name
        };
        match find(web, &channel, oldest, is_it).await {
            Ok(Some(at)) => return Ok(at.place()),
            Ok(None) => {}
            Err(error) => cannot_look(error, &channel, job)?,
        }
    }
    let metadata = json!({ "event_type": NOTICE, "event_payload": { "name": name } });
    posted(web, &channel, None, &job.message, Some(metadata)).await
}

async fn reply(
    web: &Web,
    channel: &str,
    thread: &str,
    about: About,
    keys: &[String],
    job: &Job,
) -> Result<Place, WebError> {
    let at = At { channel: channel.to_owned(), ts: thread.to_owned() };
    if job.unclear {
        match told(web, &at, about).await {
            Ok(told) if keys.iter().all(|key| told.contains(key)) => return Ok(at.place()),
            Ok(_) => {}
            Err(error) => cannot_look(error, channel, job)?,
        }
    }
    let (story, id) = named(about);
    let payload = json!({ story: id, "keys": keys.join(",") });
    let metadata = json!({ "event_type": REPLY, "event_payload": payload });
    posted(web, channel, Some(thread), &job.message, Some(metadata)).await
}

pub(super) async fn edit(web: &Web, place: Place, edit: Edit) -> Called {
    let metadata = edit.about.map(super::message_metadata);
    let mut rendered = render::message(&edit.message);
    let (channel, ts) = (&edit.at.channel, &edit.at.ts);
    let result = match web.update(channel, ts, &rendered, metadata.clone()).await {
        Err(WebError::Refused(code)) if is_about_layout(&code) => {
            tracing::error!(code, "Slack does not take a layout; only the words are shown");
            rendered.blocks.clear();
            web.update(channel, ts, &rendered, metadata).await
        }
        result => result,
    };
    Called::Edited(place, edit, result)
}

pub(super) async fn recall(web: &Web, wanted: Wanted, done: oneshot::Sender<Recalled>) -> Called {
    let mut asked = 0;
    let recalled = loop {
        asked += 1;
        match look(web, &wanted).await {
            Ok(recalled) => break recalled,
            // Until it is known nothing is said, or it might be said twice.
            Err(WebError::TooMany(length)) => sleep(length).await,
            Err(WebError::Unclear(_)) => sleep(pause(asked)).await,
            Err(error) => {
                // A message may be there twice then; better than none.
                tracing::warn!(
                    channel = wanted.channel,
                    code = error.code(),
                    "what is there already cannot be looked up; something may be said twice"
                );
                break Recalled { place: wanted.at.as_ref().map(At::place), told: BTreeSet::new() };
            }
        }
    };
    // Whoever asked may have gone.
    let _nobody_waits = done.send(recalled).is_ok();
    Called::Recalled
}

/// Looks for a story's message, where it was to be and in the person's own conversation, and for its replies.
async fn look(web: &Web, wanted: &Wanted) -> Result<Recalled, WebError> {
    let at = match &wanted.at {
        Some(at) => Some(at.clone()),
        None => match find_root(web, &wanted.channel, wanted).await {
            Ok(Some(at)) => Some(at),
            // Where the channel cannot be read, it may have been told to the person.
            Ok(None) | Err(WebError::Refused(_)) if wanted.person.is_some() => {
                let person = wanted.person.as_ref().map_or("", PersonName::as_str);
                let direct = web.direct(person).await?;
                find_root(web, &direct, wanted).await?
            }
            result => result?,
        },
    };
    let told = match &at {
        Some(at) if wanted.replies => told(web, at, wanted.about).await?,
        _ => BTreeSet::new(),
    };
    Ok(Recalled { place: at.as_ref().map(At::place), told })
}

async fn find_root(web: &Web, channel: &str, wanted: &Wanted) -> Result<Option<At>, WebError> {
    find(web, channel, wanted.since, |message| is_of(message, MESSAGE, wanted.about)).await
}

/// Looks for a message of ours; `since`: seconds since 1970.
async fn find(
    web: &Web,
    channel: &str,
    since: i64,
    is_it: impl Fn(&Value) -> bool,
) -> Result<Option<At>, WebError> {
    let mut cursor = None;
    for _ in 0..MAX_PAGES {
        let page = web.history(channel, since - CLOCKS, cursor).await?;
        let ours = page.messages.iter().find(|message| web.is_ours(message) && is_it(message));
        if let Some(ts) = ours.and_then(|message| message["ts"].as_str()) {
            return Ok(Some(At { channel: channel.to_owned(), ts: ts.to_owned() }));
        }
        cursor = page.next();
        if cursor.is_none() {
            break;
        }
    }
    Ok(None)
}

/// Keys of the replies in a thread.
async fn told(web: &Web, at: &At, about: About) -> Result<BTreeSet<String>, WebError> {
    let mut told = BTreeSet::new();
    let mut cursor = None;
    for _ in 0..MAX_PAGES {
        let page: Page = web.replies(&at.channel, &at.ts, cursor).await?;
        for message in
            page.messages.iter().filter(|message| web.is_ours(message) && is_of(message, REPLY, about))
        {
            let keys = message["metadata"]["event_payload"]["keys"].as_str().unwrap_or_default();
            told.extend(keys.split(',').map(str::to_owned));
        }
        cursor = page.next();
        if cursor.is_none() {
            break;
        }
    }
    Ok(told)
}

/// Whether its metadata says so.
fn is_of(message: &Value, kind: &str, about: About) -> bool {
    let metadata = &message["metadata"];
    let (name, id) = named(about);
    metadata["event_type"] == kind && metadata["event_payload"][name] == id.as_str()
}

/// How metadata name a story.
pub(super) fn named(about: About) -> (&'static str, String) {
    match about {
        About::Deployment(id) => ("deployment", id.to_string()),
        About::Batch(id) => ("batch", id.to_string()),
    }
}
