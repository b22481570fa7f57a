//! What the bot's answers do: to a command, a click, a form, a search, and through a response URL.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::model::{BOT_USER, Mark, RESPONSE_LIVES, RESPONSE_USES, Response};
use super::view::View;
use super::{Delivery, Kind, World, blocks};

fn new_view(world: &mut World, user: &str, body: Value, previous: Option<&str>) -> View {
    let id = world.model.next("V");
    let hash = world.model.next("1700000000.hash");
    let root = previous.and_then(|previous| world.model.views.iter().find(|view| view.id == previous));
    let mut view = View {
        root: root.map_or_else(|| id.clone(), |view| view.root.clone()),
        id,
        hash: String::new(),
        user: user.to_owned(),
        body: Value::Null,
        open: true,
        versions: Vec::new(),
        errors: BTreeMap::new(),
        offered: BTreeMap::new(),
        state: BTreeMap::new(),
        previous: previous.map(str::to_owned),
        mark: Mark::default(),
    };
    view.show(body, hash);
    view
}

/// Puts a form on a person's screen, on top of another or alone.
pub(super) fn show_view(world: &mut World, user: &str, body: Value, on: Option<String>) -> Value {
    if on.is_none() {
        for view in world.model.views.iter_mut().filter(|view| view.user == user) {
            view.open = false;
        }
    }
    let view = new_view(world, user, body, on.as_deref());
    let shown = view.payload();
    world.model.views.push(view);
    shown
}

pub(super) fn show_home(world: &mut World, user: &str, body: Value) -> Value {
    if let Some(home) = world.model.homes.get_mut(user) {
        home.show(body, format!("{}x", home.hash));
        return home.payload();
    }
    let home = new_view(world, user, body, None);
    let shown = home.payload();
    world.model.homes.insert(user.to_owned(), home);
    shown
}

/// A message through a response URL.
pub(super) fn respond(world: &mut World, id: &str, said: &Value) -> Result<(), &'static str> {
    let now = world.model.now();
    let response = world.model.responses.get_mut(id).ok_or("invalid_url")?;
    if now > response.made + RESPONSE_LIVES {
        return Err("expired_url");
    }
    if response.uses >= RESPONSE_USES {
        return Err("used_url");
    }
    response.uses += 1;
    if !said.is_object() {
        return Err("invalid_payload");
    }
    let response = response.clone();
    say(world, id, &response, said)
}

fn say(world: &mut World, id: &str, to: &Response, said: &Value) -> Result<(), &'static str> {
    let mut content: Option<Vec<Value>> = said["blocks"].as_array().cloned();
    if let Some(given) = content.take() {
        let wrong = blocks::check_message(&given);
        if !wrong.is_empty() {
            world.complaints.push(format!("response: invalid_blocks: {}", wrong.join("; ")));
            return Err("invalid_blocks");
        }
        content = Some(world.model.named(given));
    }
    let text = said["text"].as_str().map(str::to_owned);
    if said["delete_original"] == true {
        if let Some(origin) = to.origin.as_ref().and_then(|ts| world.model.at_mut(&to.channel, ts)) {
            origin.deleted = true;
        }
        return Ok(());
    }
    if text.as_ref().is_none_or(String::is_empty) && content.as_ref().is_none_or(Vec::is_empty) {
        return Err("no_text");
    }
    if said["replace_original"] == true
        && let Some(origin) = to.origin.as_ref().and_then(|ts| world.model.at_mut(&to.channel, ts))
    {
        origin.change(text, content);
        return Ok(());
    }
    let message = world.model.post(&to.channel, BOT_USER, &text.unwrap_or_default());
    message.blocks = content.unwrap_or_default();
    message.thread = to.thread.clone().or_else(|| said["thread_ts"].as_str().map(str::to_owned));
    if said["response_type"] != "in_channel" {
        message.whispered_to = Some(to.user.clone());
    }
    let ts = message.ts.clone();
    // What a command was answered is what is replaced later.
    if let Some(response) = world.model.responses.get_mut(id) {
        response.origin.get_or_insert(ts);
    }
    Ok(())
}

/// What the answer to a delivery does.
pub(super) fn acknowledged(world: &mut World, delivery: &Delivery, body: &Value) {
    let nothing = body.as_object().map_or(body.is_null(), serde_json::Map::is_empty);
    let payload = &delivery.payload;
    match delivery.kind {
        Kind::Slash if nothing => {}
        Kind::Slash => {
            let url = payload["response_url"].as_str().unwrap_or_default();
            let id = url.rsplit('/').next().unwrap_or_default().to_owned();
            let Some(response) = world.model.responses.get(&id).cloned() else { return };
            if let Err(error) = say(world, &id, &response, body) {
                world.complaints.push(format!("a command was answered with what Slack refuses: {error}"));
            }
        }
        Kind::Options => {
            for wrong in blocks::check_options(body) {
                world.complaints.push(format!("options: {wrong}"));
            }
        }
        Kind::Interactive if payload["type"] == "view_submission" => {
            let view = payload["view"]["id"].as_str().unwrap_or_default();
            submitted(world, view, body);
        }
        Kind::Interactive | Kind::Event => {}
    }
}

/// What becomes of a form that was submitted.
fn submitted(world: &mut World, id: &str, body: &Value) {
    let Some(at) = world.model.views.iter().position(|view| view.id == id) else { return };
    let user = world.model.views[at].user.clone();
    match body["response_action"].as_str() {
        Some("errors") => {
            let errors = body["errors"].as_object().cloned().unwrap_or_default();
            for (block, error) in errors {
                let view = &mut world.model.views[at];
                let is = |known: &Value| known["block_id"] == block.as_str() && known["type"] == "input";
                if !view.blocks().iter().any(is) {
                    world.complaints.push(format!("a form's error is about {block:?}, which is no input"));
                }
                let view = &mut world.model.views[at];
                view.errors.insert(block, error.as_str().unwrap_or_default().to_owned());
            }
        }
        Some(action @ ("update" | "push")) => {
            let mut view = body["view"].clone();
            for wrong in blocks::check_view(&view) {
                world.complaints.push(format!("answer to a form: {wrong}"));
            }
            let blocks = view["blocks"].as_array().cloned().unwrap_or_default();
            view["blocks"] = json!(world.model.named(blocks));
            if action == "push" {
                show_view(world, &user, view, Some(id.to_owned()));
            } else {
                let hash = world.model.next("1700000000.hash");
                world.model.views[at].show(view, hash);
            }
        }
        Some("clear") => {
            for view in world.model.views.iter_mut().filter(|view| view.user == user) {
                view.open = false;
            }
        }
        Some(other) => world.complaints.push(format!("a form was answered with {other:?}")),
        None => close(world, id),
    }
}

pub(super) fn close(world: &mut World, id: &str) {
    for view in world.model.views.iter_mut().filter(|view| view.id == id) {
        view.open = false;
    }
}
