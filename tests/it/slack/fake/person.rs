//! What people do in Slack: type, click, choose, fill in and submit. Each act gives how the bot answered.

use std::sync::Arc;

use serde_json::{Value, json};

use super::deliver::{Ack, Kind};
use super::model::{BOT_USER, Message};
use super::payload::{self, Spot};
use super::view::View;
use super::{Shared, blocks, effects};

/// How the ids begin that people's programs give to messages.
const CLIENT_MESSAGE: &str = "6f1f2a3e-0000-4000-8000-0000000";

/// A person of the workspace.
#[derive(Clone)]
pub(crate) struct Person {
    pub(super) shared: Arc<Shared>,
    /// The user's id.
    pub(crate) id: String,
    pub(crate) name: String,
}

/// What came of a click.
#[derive(Debug, Clone)]
pub(crate) struct Click {
    pub(crate) ack: Ack,
    /// Where the button leads.
    pub(crate) url: Option<String>,
    /// What is asked before, if something is; here the answer is always yes.
    pub(crate) confirm: Option<Value>,
}

impl Person {
    /// Types a command: `text` is what follows `/sdp`.
    pub(crate) async fn slash(&self, channel: &str, text: &str) -> Ack {
        let payload = self.shared.look_mut(|world| {
            let (model, org) = (&mut world.model, world.org_install);
            let channel = model.place(channel);
            let mut payload = payload::slash(model, &self.id, &channel, text, org);
            payload["trigger_id"] = json!(model.trigger(&self.id));
            let response = model.response(&channel, &self.id, None, None);
            payload["response_url"] = json!(self.shared.response_url(&response));
            payload
        });
        self.shared.deliver(self.shared.new_delivery(Kind::Slash, payload)).await
    }

    /// Says `@sdp text` in a channel or in a thread of it.
    pub(crate) async fn mention(&self, channel: &str, thread: Option<&Message>, text: &str) -> Ack {
        let event = self.shared.change(|world| {
            let channel = world.model.place(channel);
            let message = world.model.post(&channel, &self.id, &format!("<@{BOT_USER}> {text}"));
            message.thread = thread.map(|root| root.thread.clone().unwrap_or_else(|| root.ts.clone()));
            let elements = json!([
                { "type": "user", "user_id": BOT_USER }, { "type": "text", "text": format!(" {text}") },
            ]);
            message.blocks = typed(&elements);
            let message = message.clone();
            let mut event = payload::message(&world.model, &message, false);
            event["type"] = json!("app_mention");
            event["channel"] = json!(channel);
            event["event_ts"] = json!(message.ts);
            event["client_msg_id"] = json!(world.model.next(CLIENT_MESSAGE));
            event
        });
        self.shared.deliver(self.shared.new_event(event)).await
    }

    /// Writes to the bot alone.
    pub(crate) async fn dm(&self, text: &str) -> Ack {
        let event = self.shared.change(|world| {
            let channel = world.model.place(&format!("@{}", self.name));
            let message = world.model.post(&channel, &self.id, text);
            message.blocks = typed(&json!([{ "type": "text", "text": text }]));
            let message = message.clone();
            let mut shown = payload::message(&world.model, &message, false);
            shown["client_msg_id"] = json!(world.model.next(CLIENT_MESSAGE));
            payload::heard(&message, &shown, None)
        });
        self.shared.deliver(self.shared.new_event(event)).await
    }

    /// Opens the app's home.
    pub(crate) async fn open_home(&self) -> Ack {
        let event = self.shared.look_mut(|world| {
            let ts = world.model.tick();
            let channel = world.model.place(&format!("@{}", self.name));
            let mut event = json!({
                "type": "app_home_opened", "user": self.id, "channel": channel, "tab": "home", "event_ts": ts,
            });
            if let Some(home) = world.model.homes.get(&self.id) {
                event["view"] = home.payload();
            }
            event
        });
        self.shared.deliver(self.shared.new_event(event)).await
    }

    /// Presses a button, or chooses from a button's menu, by its label. There must be exactly one.
    pub(crate) async fn click(&self, on: impl Into<Spot>, label: &str) -> Click {
        self.press(on.into(), None, label).await
    }

    /// The same where there are several: the first one in or after the block with these words.
    pub(crate) async fn click_near(&self, on: impl Into<Spot>, words: &str, label: &str) -> Click {
        self.press(on.into(), Some(words), label).await
    }

    async fn press(&self, spot: Spot, near: Option<&str>, label: &str) -> Click {
        let (payload, url, confirm) = self.shared.look_mut(|world| {
            let shown = blocks_at(world, &spot);
            let from = near.map_or(0, |words| {
                let says =
                    |block: &Value| super::render::words("", std::slice::from_ref(block)).contains(words);
                shown.iter().position(says).unwrap_or_else(|| panic!("{words:?} is nowhere in {spot:?}"))
            });
            let is = |found: &blocks::Found<'_>| {
                found.index >= from
                    && (found.is_button(label) || found.kind() == "overflow" && found.option(label).is_some())
            };
            let mut found = blocks::elements(&shown).filter(is);
            let pressed = found.next().unwrap_or_else(|| {
                panic!("no button {label:?} in {spot:?}, only {:?}", blocks::labels(&shown))
            });
            assert!(near.is_some() || found.next().is_none(), "several buttons {label:?}; say near what");
            let option = pressed.option(label);
            let mut action = json!({
                "action_id": pressed.action_id(), "block_id": pressed.block_id(), "type": pressed.kind(),
                "action_ts": world.model.tick(),
            });
            for field in ["text", "value", "style"] {
                if let Some(value) = pressed.element.get(field) {
                    action[field] = value.clone();
                }
            }
            if let Some(option) = option {
                action["selected_option"] = option.clone();
            }
            let url = option.and_then(|option| option["url"].as_str()).or(pressed.element["url"].as_str());
            let (url, confirm) = (url.map(str::to_owned), pressed.element.get("confirm").cloned());
            (self.acted(world, &spot, action), url, confirm)
        });
        let ack = self.shared.deliver(self.shared.new_delivery(Kind::Interactive, payload)).await;
        Click { ack, url, confirm }
    }

    fn acted(&self, world: &mut super::World, spot: &Spot, action: Value) -> Value {
        let org = world.org_install;
        let mut payload = payload::block_actions(&world.model, &self.id, spot, action, org);
        payload["trigger_id"] = json!(world.model.trigger(&self.id));
        if let Spot::Message { channel, ts } = spot {
            let thread = world.model.at(channel, ts).and_then(|message| message.thread.clone());
            let response = world.model.response(channel, &self.id, thread, Some(ts.clone()));
            payload["response_url"] = json!(self.shared.response_url(&response));
        }
        payload
    }

    /// Types into a search field of a form; what is offered, as label and value.
    pub(crate) async fn options(&self, view: &View, action: &str, typed: &str) -> Vec<(String, String)> {
        let payload = self.shared.look_mut(|world| {
            let org = world.org_install;
            let view = known(&world.model.views, &view.id);
            let mut all = blocks::elements(view.blocks());
            let found = all.find(|found| found.action_id() == action && found.kind().contains("external"));
            let found = found.unwrap_or_else(|| panic!("no search field {action:?} in the form"));
            payload::suggestion(&world.model, view, found.block_id(), action, typed, org)
        });
        let ack = self.shared.deliver(self.shared.new_delivery(Kind::Options, payload)).await.well();
        let offered: Vec<Value> = blocks::options(&ack.body).cloned().collect();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let shown =
            offered.iter().map(|option| (text(&option["text"]["text"]), text(&option["value"]))).collect();
        self.shared.change(|world| {
            known_mut(&mut world.model.views, &view.id).offered.insert(action.to_owned(), offered);
        });
        shown
    }

    /// Writes into a field of a form.
    pub(crate) async fn fill(&self, view: &View, action: &str, text: &str) -> Option<Ack> {
        self.enter(view, action, json!({ "type": "plain_text_input", "value": text })).await
    }

    /// Chooses what a form or a search offers, by its label. The bot hears of it at once where it asked for that.
    pub(crate) async fn choose(&self, view: &View, action: &str, label: &str) -> Option<Ack> {
        let state = self.shared.look(|world| {
            let view = known(&world.model.views, &view.id);
            let mut all = blocks::elements(view.blocks());
            let found = all.find(|found| found.action_id() == action);
            let found = found.unwrap_or_else(|| panic!("no {action:?} in the form"));
            let offered = view.offered.get(action).into_iter().flatten();
            let option = blocks::options(found.element)
                .chain(offered)
                .find(|option| option["text"]["text"] == label)
                .unwrap_or_else(|| panic!("{label:?} is not offered for {action:?}"));
            match found.kind() {
                kind @ ("checkboxes" | "multi_static_select" | "multi_external_select") => {
                    json!({ "type": kind, "selected_options": [option] })
                }
                kind => json!({ "type": kind, "selected_option": option }),
            }
        });
        self.enter(view, action, state).await
    }

    async fn enter(&self, view: &View, action: &str, state: Value) -> Option<Ack> {
        let payload = self.shared.change(|world| {
            let view = known_mut(&mut world.model.views, &view.id);
            let mut all = blocks::elements(view.blocks());
            let found = all.find(|found| found.action_id() == action);
            let found = found.unwrap_or_else(|| panic!("no {action:?} in the form"));
            let heard = found.block["type"] != "input" || found.block["dispatch_action"] == true;
            let key = (found.block_id().to_owned(), action.to_owned());
            let mut acted = json!({ "action_id": action, "block_id": key.0 });
            drop(all);
            acted.as_object_mut().expect("an object").extend(state.as_object().cloned().unwrap_or_default());
            view.state.insert(key, state);
            let spot = Spot::View(view.id.clone());
            acted["action_ts"] = json!(world.model.tick());
            heard.then(|| self.acted(world, &spot, acted))
        })?;
        Some(self.shared.deliver(self.shared.new_delivery(Kind::Interactive, payload)).await)
    }

    /// Presses a form's submit button. Panics where Slack would not let them: something required is empty.
    pub(crate) async fn submit(&self, view: &View) -> Ack {
        let payload = self.shared.look_mut(|world| {
            let org = world.org_install;
            let view = known(&world.model.views, &view.id);
            assert!(view.open, "the form is not open");
            for found in blocks::elements(view.blocks()) {
                let needed = found.block["type"] == "input" && found.block["optional"] != true;
                let key = (found.block_id().to_owned(), found.action_id().to_owned());
                let state = view.state.get(&key).and_then(Value::as_object);
                let empty = |value: &Value| value.is_null() || value == "" || *value == json!([]);
                let filled = state
                    .is_some_and(|state| state.iter().any(|(field, value)| field != "type" && !empty(value)));
                assert!(!needed || filled, "{} is required", found.block["label"]["text"]);
            }
            let mut payload = payload::submission(&world.model, view, org);
            payload["trigger_id"] = json!(world.model.trigger(&self.id));
            payload
        });
        self.shared.deliver(self.shared.new_delivery(Kind::Interactive, payload)).await
    }

    /// Closes a form; the bot hears of it where it asked for that.
    pub(crate) async fn close(&self, view: &View) -> Option<Ack> {
        let payload = self.shared.change(|world| {
            effects::close(world, &view.id);
            let view = known(&world.model.views, &view.id);
            let heard = view.body["notify_on_close"] == true;
            heard.then(|| payload::closed(&world.model, view, world.org_install))
        })?;
        Some(self.shared.deliver(self.shared.new_delivery(Kind::Interactive, payload)).await)
    }
}

/// What somebody typed, as Slack's own programs make it.
fn typed(elements: &Value) -> Vec<Value> {
    let section = json!({ "type": "rich_text_section", "elements": elements });
    vec![json!({ "type": "rich_text", "block_id": "r1", "elements": [section] })]
}

fn known<'a>(views: &'a [View], id: &str) -> &'a View {
    views.iter().find(|view| view.id == id).expect("a form that was shown")
}

fn known_mut<'a>(views: &'a mut [View], id: &str) -> &'a mut View {
    views.iter_mut().find(|view| view.id == id).expect("a form that was shown")
}

fn blocks_at(world: &super::World, spot: &Spot) -> Vec<Value> {
    match spot {
        Spot::Message { channel, ts } => {
            let message = world.model.at(channel, ts).filter(|message| !message.deleted);
            message.expect("the message is there").blocks.clone()
        }
        Spot::View(id) => known(&world.model.views, id).blocks().to_vec(),
        Spot::Home(user) => world.model.homes.get(user).expect("a home was published").blocks().to_vec(),
    }
}
