//! What people do in Slack, read from what Slack sends. Pure.
//!
//! Both ways in ([`super::socket`], [`super::receive`]) hand over the raw JSON as a [`Delivery`]; [`read`] takes from it the few
//! fields that are needed and lets everything else be as it may: a click is not lost because some field of it has a form that
//! nobody expected. What is not known is [`Inbound::Other`], which is acknowledged and ignored.
//!
//! Invariant: a user is a Slack user id (`U…`, `W…`), so that nobody speaks under the name of an account; an address to answer to
//! is Slack's own.

use sdp_core::name::PersonName;
use serde_json::Value;
use sha2::{Digest, Sha256};
use url::Url;

use super::place::At;

/// The longest id that is believed to be one.
const MAX_ID: usize = 100;

/// What came, by whichever way.
#[derive(Clone, Debug)]
pub(super) struct Delivery {
    pub(super) kind: Kind,
    pub(super) payload: Value,
    /// The envelope's, where there are envelopes.
    pub(super) id: Option<String>,
    /// How often it was delivered before.
    pub(super) retry: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Command,
    Interaction,
    Event,
    Unknown(String),
}

/// What somebody did.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Inbound {
    /// Typed a slash command.
    Command {
        user: PersonName,
        channel: String,
        text: String,
        trigger: Option<String>,
        answer_to: Option<Url>,
    },
    /// Clicked, or chose something.
    Click(Box<Click>),
    /// Sent a form.
    Submit { user: PersonName, view: Value },
    /// Typed into a search of a form.
    Search { user: PersonName, action: String, typed: String },
    /// Called the bot in a channel.
    Mention { user: PersonName, at: At, thread: Option<String>, text: String },
    /// Wrote to the bot.
    Direct { user: PersonName, at: At, thread: Option<String>, text: String },
    /// Opened the app's home.
    Home { user: PersonName },
    /// Wants the form, from the menu of shortcuts.
    Shortcut { user: PersonName, trigger: String },
    /// The app was taken out of the workspace.
    Uninstalled,
    /// Nothing that concerns us.
    Other(String),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Click {
    pub(super) user: PersonName,
    pub(super) action: String,
    /// What the button carries; none: an address was opened, or a field of a form was set.
    pub(super) value: Option<String>,
    /// The message that holds the button.
    pub(super) at: Option<At>,
    /// In whose thread.
    pub(super) thread: Option<String>,
    /// The form or home that holds it.
    pub(super) view: Option<String>,
    pub(super) trigger: Option<String>,
    pub(super) answer_to: Option<Url>,
}

/// Whose addresses to answer to are believed.
#[derive(Clone, Debug)]
pub(super) struct Answers {
    api: Url,
}

impl Answers {
    pub(super) fn new(api: &Url) -> Self {
        Self { api: api.clone() }
    }

    /// Slack's own, or that of a Slack that plays on this machine.
    fn allow(&self, url: &Url) -> bool {
        let slack = url.scheme() == "https"
            && url.port().is_none()
            && matches!(url.host_str(), Some("hooks.slack.com" | "hooks.slack-gov.com"));
        slack || super::config::is_loopback(&self.api) && url.origin() == self.api.origin()
    }
}

/// Reads what came.
pub(super) fn read(delivery: &Delivery, answers: &Answers) -> Inbound {
    let payload = &delivery.payload;
    let read = match &delivery.kind {
        Kind::Command => command(payload, answers),
        Kind::Interaction => interaction(payload, answers),
        Kind::Event => event(payload),
        Kind::Unknown(kind) => return Inbound::Other(kind.clone()),
    };
    read.unwrap_or_else(|| {
        let kind = text(payload, "type").or_else(|| text(&payload["event"], "type")).unwrap_or_default();
        Inbound::Other(crate::text::clean(&kind, 40))
    })
}

/// What names a delivery, the same each time that it is delivered.
pub(super) fn key(delivery: &Delivery) -> String {
    let payload = &delivery.payload;
    let id = |name: &str| text(payload, name).filter(|id| !id.is_empty() && id.len() <= MAX_ID);
    let named = match delivery.kind {
        Kind::Event => id("event_id"),
        // One of a search names the form, not the search.
        _ => id("trigger_id"),
    };
    // Ids of samples and tests may be the same for different things; what was done may not.
    let mut digest = Sha256::new();
    match named {
        Some(named) => digest.update(named),
        None => digest.update(delivery.id.as_deref().unwrap_or_default()),
    }
    digest.update([0]);
    for part in ["type", "command", "text", "user_id", "user", "actions", "action_id", "value"] {
        digest.update(payload[part].to_string());
    }
    digest.update(payload["event"]["type"].to_string());
    digest.update(payload["event"]["ts"].to_string());
    digest.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// The workspace whose people did it; none: it does not say, or the app belongs to a whole organization.
pub(super) fn team(payload: &Value) -> Option<String> {
    let is = |org: &Value| *org == Value::Bool(true) || *org == "true";
    if is(&payload["is_enterprise_install"]) || is(&payload["authorizations"][0]["is_enterprise_install"]) {
        return None;
    }
    // In a channel that two workspaces share, an event is sent by ours about a person of theirs.
    let event = &payload["event"];
    text(&payload["user"], "team_id")
        .or_else(|| text(event, "user_team"))
        .or_else(|| text(event, "team"))
        .or_else(|| text(&event["user_profile"], "team"))
        .or_else(|| text(payload, "team_id"))
        .or_else(|| text(&payload["team"], "id"))
}

/// The app that it was sent to.
pub(super) fn app(payload: &Value) -> Option<String> {
    text(payload, "api_app_id")
}

fn text(value: &Value, name: &str) -> Option<String> {
    value.get(name)?.as_str().map(str::to_owned)
}

/// A user of Slack.
pub(super) fn user(id: &str) -> Option<PersonName> {
    let is_id = id.len() >= 2
        && id.len() <= 30
        && id.starts_with(['U', 'W'])
        && id.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    is_id.then(|| id.parse().ok()).flatten()
}

/// A channel's id: it becomes part of how places are written down.
fn channel(id: &str) -> Option<String> {
    let is_id = !id.is_empty() && id.len() <= MAX_ID && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_id.then(|| id.to_owned())
}

fn time_stamp(ts: &str) -> Option<String> {
    let is_one = !ts.is_empty() && ts.len() <= MAX_ID && ts.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    is_one.then(|| ts.to_owned())
}

fn answer_to(payload: &Value, answers: &Answers) -> Option<Url> {
    let url: Url = payload["response_url"].as_str()?.parse().ok()?;
    let allowed = answers.allow(&url);
    if !allowed {
        tracing::warn!(host = url.host_str(), "an address to answer to that is not Slack's; not used");
    }
    allowed.then_some(url)
}

fn command(payload: &Value, answers: &Answers) -> Option<Inbound> {
    Some(Inbound::Command {
        user: user(payload["user_id"].as_str()?)?,
        channel: channel(payload["channel_id"].as_str()?)?,
        text: unescaped(payload["text"].as_str().unwrap_or_default()),
        trigger: text(payload, "trigger_id"),
        answer_to: answer_to(payload, answers),
    })
}

fn interaction(payload: &Value, answers: &Answers) -> Option<Inbound> {
    let user = user(payload["user"]["id"].as_str()?)?;
    match payload["type"].as_str()? {
        "block_actions" => {
            let action = payload["actions"].as_array()?.first()?;
            let container = &payload["container"];
            let channel =
                payload["channel"]["id"].as_str().or(container["channel_id"].as_str()).and_then(channel);
            let ts =
                container["message_ts"].as_str().or(payload["message"]["ts"].as_str()).and_then(time_stamp);
            let thread = container["thread_ts"].as_str().or(payload["message"]["thread_ts"].as_str());
            Some(Inbound::Click(Box::new(Click {
                user,
                action: text(action, "action_id")?,
                value: text(action, "value"),
                // A message with replies names itself as the thread.
                thread: thread.and_then(time_stamp).filter(|thread| ts.as_ref() != Some(thread)),
                at: channel.zip(ts).map(|(channel, ts)| At { channel, ts }),
                view: text(&payload["view"], "id").or_else(|| text(container, "view_id")),
                trigger: text(payload, "trigger_id"),
                answer_to: answer_to(payload, answers),
            })))
        }
        "view_submission" => Some(Inbound::Submit { user, view: payload["view"].clone() }),
        "block_suggestion" => Some(Inbound::Search {
            user,
            action: text(payload, "action_id")?,
            typed: text(payload, "value").unwrap_or_default(),
        }),
        "shortcut" => Some(Inbound::Shortcut { user, trigger: text(payload, "trigger_id")? }),
        _ => None,
    }
}

fn event(payload: &Value) -> Option<Inbound> {
    let event = &payload["event"];
    let kind = event["type"].as_str()?;
    if matches!(kind, "app_uninstalled") {
        return Some(Inbound::Uninstalled);
    }
    // What bots say, ours among them, is nothing that somebody asked for.
    let typed = match event["subtype"].as_str() {
        None => event["subtype"].is_null(),
        // Typed by a person, and a little more than that.
        Some(more) => matches!(more, "file_share" | "thread_broadcast" | "me_message"),
    };
    if !typed || !event["bot_id"].is_null() || !event["bot_profile"].is_null() {
        return None;
    }
    let user = user(event["user"].as_str()?)?;
    let said = || {
        let at = At { channel: channel(event["channel"].as_str()?)?, ts: time_stamp(event["ts"].as_str()?)? };
        let thread = event["thread_ts"].as_str().and_then(time_stamp);
        Some((at, thread, unescaped(without_mentions(event["text"].as_str().unwrap_or_default()))))
    };
    match kind {
        "app_mention" => {
            let (at, thread, text) = said()?;
            Some(Inbound::Mention { user, at, thread, text })
        }
        "message" if event["channel_type"] == "im" => {
            let (at, thread, text) = said()?;
            Some(Inbound::Direct { user, at, thread, text })
        }
        "app_home_opened" if event["tab"] != "messages" => Some(Inbound::Home { user }),
        _ => None,
    }
}

/// What stands after the calls with which it begins.
fn without_mentions(text: &str) -> &str {
    let mut rest = text.trim_start();
    while let Some(after) = rest.strip_prefix("<@")
        && let Some((_, after)) = after.split_once('>')
    {
        rest = after.trim_start_matches([':', ',']).trim_start();
    }
    rest
}

/// As it was typed: Slack writes three characters otherwise.
fn unescaped(text: impl AsRef<str>) -> String {
    text.as_ref().replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    fn answers() -> Answers {
        Answers::new(&"https://slack.com/api".parse().unwrap())
    }

    fn delivery(kind: Kind, payload: Value) -> Delivery {
        Delivery { kind, payload, id: None, retry: 0 }
    }

    /// As [`super::super::socket`] and [`super::super::receive`] sort them.
    fn delivery_of_sample(sample: Value) -> Delivery {
        let envelope = sample.get("envelope_id").is_some();
        let (kind, payload) = match sample["type"].as_str() {
            Some("slash_commands") => (Kind::Command, sample["payload"].clone()),
            Some("interactive") => (Kind::Interaction, sample["payload"].clone()),
            Some("events_api") => (Kind::Event, sample["payload"].clone()),
            _ if envelope => (Kind::Unknown(String::new()), sample["payload"].clone()),
            Some("event_callback") => (Kind::Event, sample),
            Some("hello" | "disconnect") => (Kind::Unknown("socket".into()), sample),
            Some(_) => (Kind::Interaction, sample),
            None => (Kind::Command, sample),
        };
        delivery(kind, payload)
    }

    #[test]
    fn every_payload_of_slack_s_own_kits_is_accepted() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures/slack");
        let Ok(entries) = std::fs::read_dir(&folder) else {
            // Not part of the repository: without them there is nothing to see here.
            let mut out = std::io::stderr();
            std::io::Write::write_all(&mut out, b"skipped: no samples of Slack beside the checkout\n")
                .unwrap();
            return;
        };
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|ext| ext == "json"));
        files.sort();
        let mut read_as = String::new();
        for file in files {
            let sample: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
            let delivery = delivery_of_sample(sample);
            let inbound = format!("{:?}", read(&delivery, &answers()));
            let kind: String = inbound.chars().take_while(|c| c.is_alphanumeric()).collect();
            assert!(!key(&delivery).is_empty());
            read_as.push_str(&format!("{} {kind}\n", file.file_stem().unwrap().to_str().unwrap()));
        }
        insta::assert_snapshot!(read_as, @r"
        block_actions-1 Click
        block_actions-3 Click
        block_actions-5 Click
        block_suggestion-1 Search
        envelope_events_api-1 Other
        envelope_events_api-3 Other
        envelope_events_api-5 Other
        envelope_interactive-1 Shortcut
        envelope_interactive-3 Shortcut
        envelope_other-1 Other
        envelope_slash_commands-1 Command
        envelope_slash_commands-3 Command
        event_app_home_opened-1 Other
        event_app_mention-1 Mention
        event_app_mention-3 Mention
        event_app_mention-5 Mention
        event_app_mention-7 Mention
        event_app_mention-9 Other
        event_app_uninstalled-1 Uninstalled
        event_app_uninstalled-3 Uninstalled
        event_message-1 Other
        event_message-3 Other
        event_message-5 Other
        message_action-1 Other
        shortcut-1 Shortcut
        shortcut-3 Shortcut
        slash_command-1 Command
        socket_disconnect-1 Other
        socket_hello-1 Other
        view_closed-1 Other
        view_submission-1 Submit
        view_submission-3 Submit
        view_submission-5 Submit
        ");
    }

    #[test]
    fn what_has_an_unexpected_form_costs_that_field_and_not_the_click() {
        let click = json!({ "type": "block_actions", "user": { "id": "U1", "team_id": null }, "team": null,
            "container": { "message_ts": "1.2", "channel_id": "C1", "thread_ts": 7 },
            "message": { "metadata": { "event_payload": { "n": 7 } }, "blocks": [{ "type": "novel" }] },
            "response_url": "https://evil.example/", "trigger_id": null,
            "actions": [{ "action_id": "sdp:0:cancel", "value": "cancel 412", "type": "novel" }] });
        let Inbound::Click(click) = read(&delivery(Kind::Interaction, click), &answers()) else { panic!() };
        assert_eq!(click.value.as_deref(), Some("cancel 412"));
        assert_eq!(click.at, Some(At { channel: "C1".into(), ts: "1.2".into() }));
        assert_eq!((&click.thread, &click.answer_to, &click.trigger), (&None, &None, &None));
    }

    #[test]
    fn answers_go_to_slack_alone() {
        let slack = answers();
        let here = Answers::new(&"http://127.0.0.1:7000/api".parse().unwrap());
        for (url, to_slack, to_here) in [
            ("https://hooks.slack.com/commands/T1/1/x", true, true),
            ("http://hooks.slack.com/commands/T1/1/x", false, false),
            ("https://hooks.slack.com:8443/x", false, false),
            ("https://hooks.slack.com.evil.example/x", false, false),
            ("https://user@evil.example/hooks.slack.com", false, false),
            ("http://169.254.169.254/latest", false, false),
            ("http://127.0.0.1:7000/response/1", false, true),
            ("http://127.0.0.1:7001/response/1", false, false),
            ("file:///etc/passwd", false, false),
        ] {
            let url: Url = url.parse().unwrap();
            assert_eq!((slack.allow(&url), here.allow(&url)), (to_slack, to_here), "{url}");
        }
    }

    #[test]
    fn only_slack_s_own_ids_name_a_user_and_what_bots_say_is_nothing() {
        for (id, is) in
            [("U024BE7LH", true), ("W1", true), ("alice", false), ("U", false), ("U1;", false), ("", false)]
        {
            assert_eq!(user(id).is_some(), is, "{id}");
        }
        let said = |more: Value| {
            let mut event = json!({ "type": "message", "channel_type": "im", "user": "U1", "channel": "D1", "ts": "1.2", "text": "status" });
            event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            read(&delivery(Kind::Event, json!({ "type": "event_callback", "event": event })), &answers())
        };
        for more in [json!({}), json!({ "subtype": "file_share" }), json!({ "subtype": "thread_broadcast" })]
        {
            assert!(matches!(said(more), Inbound::Direct { .. }));
        }
        for more in [
            json!({ "bot_id": "B1" }),
            json!({ "subtype": "message_changed" }),
            json!({ "user": null }),
            json!({ "channel_type": "channel" }),
        ] {
            assert!(matches!(said(more), Inbound::Other(_)));
        }
    }

    #[test]
    fn whoever_did_it_counts_and_not_whose_event_it_is() {
        for (payload, wanted) in [
            (
                json!({ "team_id": "T1", "event": { "user": "UEXT", "team": "T1", "user_team": "T2" } }),
                Some("T2"),
            ),
            (json!({ "team_id": "T1", "event": { "user": "UEXT", "team": "T2" } }), Some("T2")),
            (json!({ "team_id": "T1", "event": { "user": "U1" } }), Some("T1")),
            (json!({ "team": { "id": "T1" }, "user": { "id": "U1", "team_id": "T2" } }), Some("T2")),
            (json!({ "team": { "id": "T1" }, "user": { "id": "U1" } }), Some("T1")),
            (json!({ "team_id": "T1", "authorizations": [{ "is_enterprise_install": true }] }), None),
            (json!({ "team_id": "T1", "is_enterprise_install": "true" }), None),
        ] {
            assert_eq!(team(&payload).as_deref(), wanted, "{payload}");
        }
    }

    #[test]
    fn what_was_typed_is_read_as_it_was_typed() {
        for (text, read) in [
            ("<@U1> deploy hello", "deploy hello"),
            ("<@U1>: <@U2|sdp>, status", "status"),
            ("  status &lt;x&gt; &amp;amp;", "status <x> &amp;"),
            ("<@U1", "<@U1"),
            ("", ""),
        ] {
            assert_eq!(unescaped(without_mentions(text)), read, "{text}");
        }
    }

    #[test]
    fn the_same_delivery_has_the_same_key_and_another_one_another() {
        let command = |text: &str, trigger: &str| {
            key(&delivery(Kind::Command, json!({ "text": text, "trigger_id": trigger, "user_id": "U1" })))
        };
        assert_eq!(command("deploy hello", "1.2"), command("deploy hello", "1.2"));
        assert_ne!(command("deploy hello", "1.2"), command("deploy hello", "1.3"));
        assert_ne!(command("deploy hello", "1.2"), command("deploy bye", "1.2"));
        let event = |id: &str, retry| {
            key(&Delivery {
                retry,
                ..delivery(Kind::Event, json!({ "event_id": id, "event": { "type": "app_mention" } }))
            })
        };
        assert_eq!(event("Ev1", 0), event("Ev1", 2));
        assert_ne!(event("Ev1", 0), event("Ev2", 0));
        // As samples have it, without any name: the envelope's counts.
        let bare =
            |id: &str| key(&Delivery { id: Some(id.into()), ..delivery(Kind::Interaction, json!({})) });
        assert_ne!(bare("a"), bare("b"));
    }
}
