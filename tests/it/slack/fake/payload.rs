//! What Slack sends, field by field as its own SDKs have it in their tests.

use serde_json::{Value, json};

use super::model::{APP, BOT, BOT_USER, Message, Model, TEAM};

/// The old way of proving that it is Slack; nobody uses it, and it still comes.
const VERIFICATION: &str = "verification-token";

/// A message as the Web API and payloads show it.
pub(super) fn message(model: &Model, message: &Message, with_metadata: bool) -> Value {
    let mut shown = json!({
        "type": "message", "user": message.author, "text": message.text, "ts": message.ts, "team": TEAM,
    });
    if message.is_by_bot() {
        shown["bot_id"] = json!(BOT);
        shown["app_id"] = json!(APP);
        shown["bot_profile"] = json!({
            "id": BOT, "app_id": APP, "user_id": BOT_USER, "name": "sdp", "deleted": false,
            "updated": 1_700_000_000, "team_id": TEAM,
            "icons": { "image_36": "https://example.com/36.png" },
        });
    }
    if !message.blocks.is_empty() {
        shown["blocks"] = json!(message.blocks);
    }
    if !message.versions.is_empty() {
        shown["edited"] = json!({ "user": message.author, "ts": message.ts });
    }
    if let Some(metadata) = message.metadata.as_ref().filter(|_| with_metadata) {
        shown["metadata"] = metadata.clone();
    }
    let replies = model.shown(&message.channel).filter(|reply| reply.thread.as_ref() == Some(&message.ts));
    let replies: Vec<&Message> = replies.collect();
    if let Some(last) = replies.last() {
        shown["thread_ts"] = json!(message.ts);
        shown["reply_count"] = json!(replies.len());
        shown["latest_reply"] = json!(last.ts);
    }
    if let Some(thread) = &message.thread {
        shown["thread_ts"] = json!(thread);
        let root = model.at(&message.channel, thread);
        shown["parent_user_id"] = json!(root.map(|root| &root.author));
    }
    shown
}

pub(super) fn user(model: &Model, id: &str) -> Value {
    let name = model.user_name(id);
    json!({ "id": id, "username": name, "name": name, "team_id": TEAM })
}

/// Who did it, as most payloads have it.
fn who(model: &Model, id: &str, org: bool) -> Value {
    let enterprise = json!({ "id": "E1", "name": "Acme Org" });
    json!({
        "user": user(model, id),
        "api_app_id": APP,
        "token": VERIFICATION,
        // Where the app is installed in the whole organization, the team is not said.
        "team": if org { Value::Null } else { json!({ "id": TEAM, "domain": "acme" }) },
        "enterprise": if org { enterprise } else { Value::Null },
        "is_enterprise_install": org,
    })
}

fn with(mut base: Value, more: Value) -> Value {
    if let (Some(base), Value::Object(more)) = (base.as_object_mut(), more) {
        base.extend(more);
    }
    base
}

/// A command, as its form has it: all is text.
pub(super) fn slash(model: &Model, user: &str, channel: &str, text: &str, org: bool) -> Value {
    let place = model.channels.get(channel);
    let mut fields = json!({
        "token": VERIFICATION, "team_id": TEAM, "team_domain": "acme", "channel_id": channel,
        "channel_name": place.map_or("unknown", |place| place.name.as_str()), "user_id": user,
        "user_name": model.user_name(user), "command": "/sdp", "text": text, "api_app_id": APP,
        "is_enterprise_install": org.to_string(),
    });
    if org {
        fields["enterprise_id"] = json!("E1");
        fields["enterprise_name"] = json!("Acme Org");
    }
    fields
}

/// Where a button is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Spot {
    /// In a message, also one that only one person sees.
    Message { channel: String, ts: String },
    /// In a form.
    View(String),
    /// In somebody's home.
    Home(String),
}

impl From<&Message> for Spot {
    fn from(message: &Message) -> Self {
        Self::Message { channel: message.channel.clone(), ts: message.ts.clone() }
    }
}

impl From<&super::View> for Spot {
    fn from(view: &super::View) -> Self {
        if view.body["type"] == "home" { Self::Home(view.user.clone()) } else { Self::View(view.id.clone()) }
    }
}

pub(super) fn place(model: &Model, channel: &str) -> Value {
    json!({ "id": channel, "name": model.channels.get(channel).map(|channel| &channel.name) })
}

pub(super) fn block_actions(model: &Model, user: &str, spot: &Spot, action: Value, org: bool) -> Value {
    let base = with(who(model, user, org), json!({ "type": "block_actions", "actions": [action] }));
    let view = match spot {
        Spot::Message { channel, ts } => {
            let found = model.at(channel, ts).expect("it is there");
            let ephemeral = found.whispered_to.is_some();
            let mut container = json!({
                "type": "message", "message_ts": ts, "channel_id": channel, "is_ephemeral": ephemeral,
            });
            if let Some(thread) = &found.thread {
                container["thread_ts"] = json!(thread);
            }
            let mut more = json!({
                "container": container, "channel": place(model, channel), "state": { "values": {} },
            });
            if !ephemeral {
                more["message"] = message(model, found, true);
            }
            return with(base, more);
        }
        Spot::View(id) => model.views.iter().find(|view| view.id == *id),
        Spot::Home(user) => model.homes.get(user),
    };
    let view = view.expect("it is there");
    let container = json!({ "type": "view", "view_id": view.id });
    with(base, json!({ "container": container, "view": view.payload() }))
}

pub(super) fn suggestion(
    model: &Model,
    view: &super::View,
    block: &str,
    action: &str,
    typed: &str,
    org: bool,
) -> Value {
    let more = json!({
        "type": "block_suggestion", "container": { "type": "view", "view_id": view.id },
        "action_id": action, "block_id": block, "value": typed, "view": view.payload(),
    });
    with(who(model, &view.user, org), more)
}

pub(super) fn submission(model: &Model, view: &super::View, org: bool) -> Value {
    let more = json!({ "type": "view_submission", "view": view.payload(), "response_urls": [] });
    with(who(model, &view.user, org), more)
}

pub(super) fn closed(model: &Model, view: &super::View, org: bool) -> Value {
    let more = json!({ "type": "view_closed", "view": view.payload(), "is_cleared": false });
    with(who(model, &view.user, org), more)
}

/// The event that a direct conversation has a message, the bot's own included, or a changed one.
pub(super) fn heard(message: &Message, shown: &Value, edited: Option<&str>) -> Value {
    let place = json!({ "channel": message.channel, "channel_type": "im" });
    let Some(edited) = edited else {
        return with(with(shown.clone(), json!({ "event_ts": message.ts })), place);
    };
    let changed = json!({
        "type": "message", "subtype": "message_changed", "message": shown, "hidden": true,
        "ts": edited, "event_ts": edited,
    });
    with(changed, place)
}

/// An event as it is wrapped.
pub(super) fn event(model: &mut Model, event: Value, org: bool) -> Value {
    let time = model.now().as_secs();
    let mut wrapped = json!({
        "token": VERIFICATION, "team_id": TEAM, "context_team_id": TEAM, "context_enterprise_id": null,
        "api_app_id": APP, "event": event, "type": "event_callback", "event_id": model.next("Ev"),
        "event_time": time,
        "authorizations": [{
            "enterprise_id": if org { json!("E1") } else { Value::Null },
            "team_id": if org { Value::Null } else { json!(TEAM) },
            "user_id": BOT_USER, "is_bot": true, "is_enterprise_install": org,
        }],
        "is_ext_shared_channel": false, "event_context": "4-context",
    });
    if org {
        wrapped["enterprise_id"] = json!("E1");
    }
    wrapped
}
