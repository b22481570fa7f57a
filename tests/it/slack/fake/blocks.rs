//! Blocks as Slack takes them: the elements in them, and which limits they break. Complaints read like Slack's own.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// An element in a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found<'a> {
    /// Which block of all.
    pub(super) index: usize,
    pub(super) block: &'a Value,
    pub(super) element: &'a Value,
}

impl<'a> Found<'a> {
    pub(super) fn block_id(&self) -> &'a str {
        self.block["block_id"].as_str().unwrap_or_default()
    }

    pub(super) fn action_id(&self) -> &'a str {
        self.element["action_id"].as_str().unwrap_or_default()
    }

    pub(super) fn kind(&self) -> &'a str {
        self.element["type"].as_str().unwrap_or_default()
    }

    pub(super) fn is_button(&self, label: &str) -> bool {
        self.kind() == "button" && self.element["text"]["text"] == label
    }

    /// A choice in this element, by what a person reads.
    pub(super) fn option(&self, label: &str) -> Option<&'a Value> {
        options(self.element).find(|option| option["text"]["text"] == label)
    }
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// What can be chosen in an element, in groups or not.
pub(super) fn options(element: &Value) -> impl Iterator<Item = &Value> {
    let groups = list(element, "option_groups").iter().flat_map(|group| list(group, "options"));
    list(element, "options").iter().chain(groups)
}

/// All that a person can press, choose or fill in.
pub(super) fn elements(blocks: &[Value]) -> impl Iterator<Item = Found<'_>> {
    blocks.iter().enumerate().flat_map(|(index, block)| {
        let single = ["accessory", "element"].into_iter().filter_map(|field| block.get(field));
        let several = if block["type"] == "actions" { list(block, "elements") } else { &[] };
        let all = single.chain(several).filter(|element| element["type"] != "image");
        all.map(move |element| Found { index, block, element })
    })
}

pub(super) fn elements_mut(block: &mut Value) -> Vec<&mut Value> {
    let several = block["type"] == "actions";
    let Some(fields) = block.as_object_mut() else { return Vec::new() };
    let mut found = Vec::new();
    for (field, value) in fields {
        match field.as_str() {
            "accessory" | "element" if value["type"] != "image" => found.push(value),
            "elements" if several => found.extend(value.as_array_mut().into_iter().flatten()),
            _ => {}
        }
    }
    found
}

/// The labels of all buttons.
pub(super) fn labels(blocks: &[Value]) -> Vec<String> {
    let buttons = elements(blocks).filter(|found| found.kind() == "button");
    buttons.filter_map(|found| found.element["text"]["text"].as_str().map(str::to_owned)).collect()
}

/// What an element holds before anybody has touched it; `None` for what holds nothing.
pub(super) fn initial_state(element: &Value) -> Option<Value> {
    let kind = element["type"].as_str()?;
    let field = match kind {
        "button" | "overflow" | "image" => return None,
        "plain_text_input" | "number_input" | "url_text_input" | "email_text_input" => {
            return Some(json!({ "type": kind, "value": element["initial_value"] }));
        }
        "checkboxes" | "multi_static_select" | "multi_external_select" => {
            let chosen = element.get("initial_options").cloned().unwrap_or_else(|| json!([]));
            return Some(json!({ "type": kind, "selected_options": chosen }));
        }
        "users_select" => ("selected_user", "initial_user"),
        "conversations_select" => ("selected_conversation", "initial_conversation"),
        "channels_select" => ("selected_channel", "initial_channel"),
        "datepicker" => ("selected_date", "initial_date"),
        "timepicker" => ("selected_time", "initial_time"),
        _ => ("selected_option", "initial_option"),
    };
    Some(json!({ "type": kind, field.0: element[field.1] }))
}

/// What Slack would refuse in a message's blocks.
pub(super) fn check_message(blocks: &[Value]) -> Vec<String> {
    let mut check = Check::default();
    check.blocks(blocks, 50);
    check.wrong
}

/// What Slack would refuse in a form or home.
pub(super) fn check_view(view: &Value) -> Vec<String> {
    let mut check = Check::default();
    let home = view["type"] == "home";
    if !home && view["type"] != "modal" {
        check.say("/view/type", "must be a valid enum value");
    }
    let allowed: &[&str] = &[
        "type",
        "blocks",
        "title",
        "submit",
        "close",
        "private_metadata",
        "callback_id",
        "external_id",
        "clear_on_close",
        "notify_on_close",
        "submit_disabled",
    ];
    check.fields("/view", view, allowed);
    check.blocks(list(view, "blocks"), 100);
    if !home {
        check.text("/view/title", &view["title"], 24, true);
        for field in ["submit", "close"] {
            if view.get(field).is_some_and(|text| !text.is_null()) {
                check.text(&format!("/view/{field}"), &view[field], 24, true);
            }
        }
        if view["submit"].is_null() && list(view, "blocks").iter().any(|block| block["type"] == "input") {
            check.say("/view", "missing required field: submit");
        }
    }
    check.at_most("/view/private_metadata", &view["private_metadata"], 3000);
    check.at_most("/view/callback_id", &view["callback_id"], 255);
    check.at_most("/view/external_id", &view["external_id"], 255);
    check.wrong
}

/// What Slack would refuse in an answer to a search.
pub(super) fn check_options(answer: &Value) -> Vec<String> {
    let mut check = Check::default();
    if !answer["options"].is_array() && !answer["option_groups"].is_array() {
        check.say("/options", "missing required field: options");
    }
    check.options("", answer, 100);
    check.wrong
}

#[derive(Default)]
struct Check {
    wrong: Vec<String>,
}

impl Check {
    fn say(&mut self, at: &str, what: &str) {
        self.wrong.push(format!("[ERROR] {what} [json-pointer:{at}]"));
    }

    fn fields(&mut self, at: &str, value: &Value, allowed: &[&str]) {
        for field in value.as_object().into_iter().flat_map(|fields| fields.keys()) {
            if !allowed.contains(&field.as_str()) {
                self.say(at, &format!("invalid additional property: {field}"));
            }
        }
    }

    fn at_most(&mut self, at: &str, value: &Value, most: usize) {
        if value.as_str().is_some_and(|text| text.chars().count() > most) {
            self.say(at, &format!("must be less than {} characters", most + 1));
        }
    }

    fn needed(&mut self, at: &str, value: &Value, most: usize) {
        if value.as_str().is_none_or(str::is_empty) {
            self.say(at, "must be more than 0 characters");
        }
        self.at_most(at, value, most);
    }

    fn text(&mut self, at: &str, value: &Value, most: usize, plain: bool) {
        match value["type"].as_str() {
            Some("plain_text") => self.fields(at, value, &["type", "text", "emoji"]),
            Some("mrkdwn") if !plain => self.fields(at, value, &["type", "text", "verbatim"]),
            _ => self.say(&format!("{at}/type"), "must be a valid text object"),
        }
        self.needed(&format!("{at}/text"), &value["text"], most);
    }

    fn count(&mut self, at: &str, items: usize, least: usize, most: usize) {
        if items > most {
            self.say(at, &format!("no more than {most} items allowed"));
        } else if items < least {
            self.say(at, &format!("must have at least {least} items"));
        }
    }

    fn blocks(&mut self, blocks: &[Value], most: usize) {
        self.count("/blocks", blocks.len(), 0, most);
        let mut ids = BTreeSet::new();
        for (index, block) in blocks.iter().enumerate() {
            let at = format!("/blocks/{index}");
            if let Some(id) = block["block_id"].as_str()
                && !ids.insert(id)
            {
                self.say(&format!("{at}/block_id"), "`block_id` already exists");
            }
            self.at_most(&format!("{at}/block_id"), &block["block_id"], 255);
            self.block(&at, block);
        }
    }

    fn block(&mut self, at: &str, block: &Value) {
        let inner = |field: &str| format!("{at}/{field}");
        let allowed: &[&str] = match block["type"].as_str().unwrap_or_default() {
            "section" => {
                let fields = list(block, "fields");
                if block.get("text").is_some() || fields.is_empty() {
                    self.text(&inner("text"), &block["text"], 3000, false);
                }
                self.count(&inner("fields"), fields.len(), 0, 10);
                for (index, field) in fields.iter().enumerate() {
                    self.text(&inner(&format!("fields/{index}")), field, 2000, false);
                }
                if let Some(element) = block.get("accessory") {
                    self.element(&inner("accessory"), element);
                }
                &["text", "fields", "accessory", "expand"]
            }
            "header" => {
                self.text(&inner("text"), &block["text"], 150, true);
                &["text", "level"]
            }
            "context" => {
                let elements = list(block, "elements");
                self.count(&inner("elements"), elements.len(), 1, 10);
                for (index, element) in elements.iter().enumerate() {
                    if element["type"] != "image" {
                        self.text(&inner(&format!("elements/{index}")), element, 3000, false);
                    }
                }
                &["elements"]
            }
            "actions" => {
                let elements = list(block, "elements");
                self.count(&inner("elements"), elements.len(), 1, 25);
                let mut ids = BTreeSet::new();
                for (index, element) in elements.iter().enumerate() {
                    let at = inner(&format!("elements/{index}"));
                    if element["action_id"].as_str().is_some_and(|id| !ids.insert(id)) {
                        self.say(&format!("{at}/action_id"), "`action_id` already exists");
                    }
                    self.element(&at, element);
                }
                &["elements"]
            }
            "input" => {
                self.text(&inner("label"), &block["label"], 2000, true);
                if block.get("hint").is_some() {
                    self.text(&inner("hint"), &block["hint"], 2000, true);
                }
                if block["element"]["type"] == "button" {
                    self.say(&inner("element"), "unsupported type: button");
                }
                self.element(&inner("element"), &block["element"]);
                &["label", "hint", "element", "optional", "dispatch_action"]
            }
            "image" => {
                self.needed(&inner("alt_text"), &block["alt_text"], 2000);
                &["image_url", "slack_file", "alt_text", "title"]
            }
            "markdown" => {
                self.needed(&inner("text"), &block["text"], 12_000);
                &["text"]
            }
            "divider" => &[],
            "rich_text" => &["elements"],
            other => {
                let what = format!("unsupported type: {other}");
                return self.say(at, &what);
            }
        };
        self.fields(at, block, &[&["type", "block_id"], allowed].concat());
    }

    fn element(&mut self, at: &str, element: &Value) {
        let inner = |field: &str| format!("{at}/{field}");
        self.at_most(&inner("action_id"), &element["action_id"], 255);
        if let Some(confirm) = element.get("confirm") {
            self.text(&inner("confirm/title"), &confirm["title"], 100, true);
            self.text(&inner("confirm/text"), &confirm["text"], 300, false);
            self.text(&inner("confirm/confirm"), &confirm["confirm"], 30, true);
            self.text(&inner("confirm/deny"), &confirm["deny"], 30, true);
        }
        if element.get("placeholder").is_some() {
            self.text(&inner("placeholder"), &element["placeholder"], 150, true);
        }
        match element["type"].as_str().unwrap_or_default() {
            "button" => {
                let allowed =
                    ["type", "text", "action_id", "url", "value", "style", "confirm", "accessibility_label"];
                self.fields(at, element, &allowed);
                self.text(&inner("text"), &element["text"], 75, true);
                self.at_most(&inner("value"), &element["value"], 2000);
                self.at_most(&inner("url"), &element["url"], 3000);
                if element["url"].as_str().is_some_and(|url| url::Url::parse(url).is_err()) {
                    self.say(&inner("url"), "must be a valid URL");
                }
                if !matches!(element["style"].as_str(), None | Some("primary" | "danger")) {
                    self.say(&inner("style"), "must be a valid enum value");
                }
            }
            "static_select" | "multi_static_select" => {
                self.count(&inner("options"), options(element).count(), 1, 10_000);
                self.options(at, element, 100);
                self.initial(at, element);
            }
            "overflow" => {
                self.count(&inner("options"), options(element).count(), 1, 5);
                self.options(at, element, 5);
            }
            "radio_buttons" | "checkboxes" => {
                self.count(&inner("options"), options(element).count(), 1, 10);
                self.options(at, element, 10);
                self.initial(at, element);
            }
            "external_select" | "multi_external_select" => {
                if let Some(option) = element.get("initial_option") {
                    self.option(&inner("initial_option"), option);
                }
            }
            "plain_text_input" | "number_input" | "url_text_input" | "email_text_input" => {
                let most = element["max_length"].as_u64().unwrap_or(3000);
                self.at_most(&inner("initial_value"), &element["initial_value"], most as usize);
            }
            "users_select"
            | "conversations_select"
            | "channels_select"
            | "datepicker"
            | "timepicker"
            | "image" => {}
            other => self.say(at, &format!("unsupported type: {other}")),
        }
    }

    /// Slack takes only what can be chosen.
    fn initial(&mut self, at: &str, element: &Value) {
        let single = element.get("initial_option");
        for initial in single.into_iter().chain(list(element, "initial_options")) {
            if !options(element).any(|option| option == initial) {
                self.say(&format!("{at}/initial_option"), "must match one of the options");
            }
        }
    }

    fn options(&mut self, at: &str, holder: &Value, most: usize) {
        self.count(&format!("{at}/options"), list(holder, "options").len(), 0, most);
        self.count(&format!("{at}/option_groups"), list(holder, "option_groups").len(), 0, 100);
        for (index, group) in list(holder, "option_groups").iter().enumerate() {
            let at = format!("{at}/option_groups/{index}");
            self.text(&format!("{at}/label"), &group["label"], 75, true);
            self.count(&format!("{at}/options"), list(group, "options").len(), 1, 100);
        }
        for (index, option) in options(holder).enumerate() {
            self.option(&format!("{at}/options/{index}"), option);
        }
    }

    fn option(&mut self, at: &str, option: &Value) {
        self.fields(at, option, &["text", "value", "description", "url"]);
        self.text(&format!("{at}/text"), &option["text"], 75, false);
        self.needed(&format!("{at}/value"), &option["value"], 150);
        if option.get("description").is_some() {
            self.text(&format!("{at}/description"), &option["description"], 75, false);
        }
    }
}
