//! What a workspace's admin installs, against what the bot does.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use slack_morphism::prelude::SlackAppManifest;

/// Which permission each method of the Web API needs that [`super::web`] calls, and each event that [`super::inbound`] reads.
const SCOPES: [(&str, &[&str]); 12] = [
    ("auth.test", &[]),
    ("apps.connections.open", &[]),
    ("chat.postMessage", &["chat:write", "chat:write.public"]),
    ("chat.update", &["chat:write"]),
    ("chat.postEphemeral", &["chat:write"]),
    ("conversations.open", &["im:write"]),
    ("conversations.history", &["channels:history", "groups:history", "im:history", "mpim:history"]),
    ("conversations.replies", &["channels:history", "groups:history", "im:history", "mpim:history"]),
    ("views.open", &[]),
    ("views.update", &[]),
    ("views.publish", &[]),
    ("", &["commands", "app_mentions:read", "im:history"]),
];

fn sample(file: &str) -> (Value, SlackAppManifest) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/slack").join(file);
    let text = std::fs::read_to_string(path).unwrap();
    (serde_json::from_str(&text).unwrap(), serde_json::from_str(&text).unwrap())
}

#[test]
fn the_manifests_ask_for_what_the_bot_uses_and_for_nothing_else() {
    let web = include_str!("web.rs");
    let called: BTreeSet<&str> = web
        .split('"')
        .filter(|part| {
            part.split_once('.')
                .is_some_and(|(group, _)| ["auth", "apps", "chat", "conversations", "views"].contains(&group))
        })
        .collect();
    let known: BTreeSet<&str> = SCOPES.iter().map(|(method, _)| *method).filter(|m| !m.is_empty()).collect();
    assert_eq!(called, known);
    let needed: BTreeSet<&str> = SCOPES.iter().flat_map(|(_, scopes)| scopes.iter().copied()).collect();
    for file in ["socket-mode.json", "http.json"] {
        let (json, _) = sample(file);
        let asked: BTreeSet<&str> = json["oauth_config"]["scopes"]["bot"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| s.as_str().unwrap())
            .collect();
        assert_eq!(asked, needed, "{file}");
        let events: Vec<_> =
            json["settings"]["event_subscriptions"]["bot_events"].as_array().unwrap().iter().collect();
        assert_eq!(events, ["app_home_opened", "app_mention", "app_uninstalled", "message.im"], "{file}");
        assert_eq!(json["features"]["slash_commands"][0]["command"], "/sdp");
        assert_eq!(json["features"]["app_home"]["home_tab_enabled"], true);
        assert_eq!(json["features"]["app_home"]["messages_tab_read_only_enabled"], false);
    }
}

#[test]
fn the_manifests_differ_in_the_way_in_alone() {
    let (mut socket, _) = sample("socket-mode.json");
    let (mut http, read) = sample("http.json");
    assert_eq!(socket["settings"]["socket_mode_enabled"].take(), true);
    assert_eq!(http["settings"]["socket_mode_enabled"].take(), false);
    let command = &mut http["features"]["slash_commands"][0];
    let url = command.as_object_mut().unwrap().remove("url").unwrap();
    for (part, field) in [
        ("event_subscriptions", "request_url"),
        ("interactivity", "request_url"),
        ("interactivity", "message_menu_options_url"),
    ] {
        assert_eq!(http["settings"][part].as_object_mut().unwrap().remove(field), Some(url.clone()));
    }
    assert_eq!(socket, http);
    assert_eq!(read.display_information.name, "SDP");
}

#[test]
fn the_sample_configuration_can_be_used() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/config/bot-slack.toml");
    let config = crate::config::Config::read(Some(&path)).unwrap();
    let slack = config.slack.unwrap();
    let error = slack.resolve(|_| None).unwrap_err().to_string();
    assert_eq!(error, "cannot read slack-bot.token", "only the files are missing");
}
