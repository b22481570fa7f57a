//! Forms and homes: what is shown, and what a person has entered.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::blocks;
use super::model::{APP, BOT, Mark, TEAM};

/// A form (modal) or a home.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) id: String,
    pub(crate) hash: String,
    /// Whose screen it is on.
    pub(crate) user: String,
    /// As the bot sent it, each block and element with an id.
    pub(crate) body: Value,
    pub(crate) open: bool,
    /// What it showed before, the oldest first.
    pub(crate) versions: Vec<Value>,
    /// What the bot said about what was submitted, by block.
    pub(crate) errors: BTreeMap<String, String>,
    /// What a search has offered, by action.
    pub(super) offered: BTreeMap<String, Vec<Value>>,
    pub(super) state: BTreeMap<(String, String), Value>,
    pub(super) root: String,
    pub(super) previous: Option<String>,
    pub(super) mark: Mark,
}

impl View {
    pub(crate) fn title(&self) -> &str {
        self.body["title"]["text"].as_str().unwrap_or_default()
    }

    pub(crate) fn callback_id(&self) -> &str {
        self.body["callback_id"].as_str().unwrap_or_default()
    }

    pub(crate) fn external_id(&self) -> &str {
        self.body["external_id"].as_str().unwrap_or_default()
    }

    pub(crate) fn blocks(&self) -> &[Value] {
        self.body["blocks"].as_array().map(Vec::as_slice).unwrap_or_default()
    }

    /// All its words as a person sees them.
    pub(crate) fn words(&self) -> String {
        super::render::words("", self.blocks())
    }

    pub(crate) fn says(&self, words: &str) -> bool {
        self.title().contains(words) || self.words().contains(words)
    }

    pub(crate) fn buttons(&self) -> Vec<String> {
        blocks::labels(self.blocks())
    }

    /// What is entered or chosen, as text.
    pub(crate) fn entered(&self, action: &str) -> Option<String> {
        let (_, value) = self.state.iter().find(|((_, known), _)| known == action)?;
        let chosen = &value["selected_option"]["text"]["text"];
        value["value"].as_str().or(chosen.as_str()).map(str::to_owned)
    }

    /// Shows something else. What was entered in a block and element that are still there stays.
    pub(super) fn show(&mut self, body: Value, hash: String) {
        let before = std::mem::replace(&mut self.body, body);
        if !before.is_null() {
            self.versions.push(before);
        }
        self.hash = hash;
        self.errors.clear();
        let mut before = std::mem::take(&mut self.state);
        let mut state = BTreeMap::new();
        for found in blocks::elements(self.blocks()) {
            let Some(initial) = blocks::initial_state(found.element) else { continue };
            let key = (found.block_id().to_owned(), found.action_id().to_owned());
            let kept = before.remove(&key).filter(|kept| kept["type"] == initial["type"]);
            state.insert(key, kept.unwrap_or(initial));
        }
        self.state = state;
    }

    /// As Slack sends it.
    pub(super) fn payload(&self) -> Value {
        let mut values = json!({});
        for ((block, action), value) in &self.state {
            values[block][action] = value.clone();
        }
        let body = &self.body;
        let or = |field: &str, otherwise: Value| {
            if body[field].is_null() { otherwise } else { body[field].clone() }
        };
        json!({
            "id": self.id,
            "team_id": TEAM,
            "type": body["type"],
            "blocks": body["blocks"],
            "private_metadata": or("private_metadata", json!("")),
            "callback_id": or("callback_id", json!("")),
            "state": { "values": values },
            "hash": self.hash,
            "title": or("title", json!({ "type": "plain_text", "text": "View Title", "emoji": true })),
            "clear_on_close": or("clear_on_close", json!(false)),
            "notify_on_close": or("notify_on_close", json!(false)),
            "close": body["close"],
            "submit": body["submit"],
            "previous_view_id": self.previous,
            "root_view_id": self.root,
            "app_id": APP,
            "external_id": or("external_id", json!("")),
            "app_installed_team_id": TEAM,
            "bot_id": BOT,
        })
    }
}
