//! Whether Slack would take what is built here, and a way to read it.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use slack_morphism::prelude::{
    SlackActionBlockElement, SlackBlock, SlackBlockButtonStyle, SlackBlockText, SlackContextBlockElement,
    SlackInputBlockElement, SlackRichTextElement, SlackRichTextInlineElement, SlackView,
};

use super::{Rendered, weight};

/// A message: taken by a checker that nobody of us wrote, read back as what it is, and calling nobody whom it may not.
pub(in super::super) fn message(rendered: &Rendered) {
    let payload = json!({ "channel": "C1", "text": rendered.text, "blocks": rendered.blocks });
    let checked = slackblocks::MessagePayload::try_from(payload);
    assert!(checked.is_ok(), "{:?}\n{rendered:#?}", checked.err());
    blocks(&rendered.blocks);
    assert!(weight(&rendered.blocks) <= 13_000, "{} is too heavy", weight(&rendered.blocks));
    assert!(!rendered.text.trim().is_empty() && rendered.text.chars().count() <= 3000, "{:?}", rendered.text);
    let rest = without_users(&rendered.text);
    assert!(!rest.contains(['<', '>']), "something in it is read by Slack: {rest}");
    let entities = ["&amp;", "&lt;", "&gt;"];
    assert!(
        rest.match_indices('&').all(|(at, _)| entities.iter().any(|entity| rest[at..].starts_with(entity)))
    );
}

/// A form or a home, likewise.
pub(in super::super) fn view(view: &SlackView) {
    let json = serde_json::to_value(view).unwrap();
    let back: SlackView = serde_json::from_value(json.clone()).unwrap();
    assert_eq!(back, *view);
    let (checked, all, most) = match view {
        SlackView::Home(home) => {
            (slackblocks::HomeTabView::try_from(json.clone()).err(), &home.blocks, 250_000)
        }
        SlackView::Modal(modal) => {
            (slackblocks::ModalView::try_from(json.clone()).err(), &modal.blocks, 250_000)
        }
    };
    assert!(checked.is_none(), "{checked:?}\n{json:#}");
    blocks(all);
    assert!(weight(view) <= most);
}

fn blocks(blocks: &[SlackBlock]) {
    let json = serde_json::to_value(blocks).unwrap();
    let back: Vec<SlackBlock> = serde_json::from_value(json.clone()).unwrap();
    assert_eq!(back, blocks);
    assert!(back.iter().all(|block| !matches!(block, SlackBlock::Unknown(_))), "{json:#}");
    let mut ids = BTreeSet::new();
    inspect(&json, &mut ids);
}

/// Whatever the models are: no kind of piece that calls many, each button's id once, no text that turns around.
fn inspect(json: &Value, ids: &mut BTreeSet<String>) {
    match json {
        Value::Object(fields) => {
            let kind = fields.get("type").and_then(Value::as_str).unwrap_or_default();
            assert!(!["broadcast", "usergroup", "channel", "mrkdwn", "markdown"].contains(&kind), "{json:#}");
            if let Some(user) = fields.get("user_id").and_then(Value::as_str) {
                assert_eq!(without_users(&format!("<@{user}>")), "", "{json:#}");
            }
            if let Some(id) = fields.get("action_id").and_then(Value::as_str) {
                assert!(ids.insert(id.to_owned()), "{id} is there twice");
            }
            if kind == "plain_text" {
                let text = fields["text"].as_str().unwrap();
                assert!(!text.contains(['<', '>']) && !text.is_empty(), "{json:#}");
            }
            if kind == "text" {
                assert_ne!(fields["text"], "", "{json:#}");
            }
            for (name, value) in fields {
                // A command is not shown.
                if name != "value" && name != "private_metadata" {
                    inspect(value, ids);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| inspect(item, ids)),
        Value::String(text) => assert!(!text.contains(['\u{202e}', '\u{1b}']), "{text:?}"),
        _ => {}
    }
}

/// Without mentions of users.
fn without_users(text: &str) -> String {
    let mut parts = text.split("<@");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let id = part.split('>').next().unwrap_or_default();
        let is_id = id.len() >= 5
            && id.starts_with(['U', 'W'])
            && id.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
        match part.strip_prefix(&format!("{id}>")) {
            Some(rest) if is_id => out.push_str(rest),
            _ => out.push_str(&format!("<@{part}")),
        }
    }
    out
}

/// Blocks, to be read: `*strong*`, `_about_`, `` `code` ``, `| output`, `[button]`, `[green]!`, `[red]?`.
pub(in super::super) fn show(blocks: &[SlackBlock]) -> String {
    blocks.iter().map(|block| show_block(block) + "\n").collect()
}

fn show_block(block: &SlackBlock) -> String {
    match block {
        SlackBlock::RichText(block) => {
            let parts = block.elements.iter().map(|element| match element {
                SlackRichTextElement::Section(section) => show_words(&section.elements),
                SlackRichTextElement::Preformatted(output) => {
                    let lines = show_words(&output.elements);
                    lines.lines().map(|line| format!("| {line}")).collect::<Vec<_>>().join("\n")
                }
                other => format!("{other:?}"),
            });
            parts.collect::<Vec<_>>().join("\n")
        }
        SlackBlock::Context(block) => {
            let parts = block.elements.iter().map(|element| match element {
                SlackContextBlockElement::Plain(text) => text.text.clone(),
                other => format!("{other:?}"),
            });
            format!("({})", parts.collect::<Vec<_>>().join(" "))
        }
        SlackBlock::Actions(block) => block.elements.iter().map(show_action).collect::<Vec<_>>().join(" "),
        SlackBlock::Header(block) => format!("# {}", text_of(&block.text.clone().into())),
        SlackBlock::Divider(_) => "---".to_owned(),
        SlackBlock::Input(block) => {
            let (kind, hint) = match &block.element {
                SlackInputBlockElement::StaticSelect(select) => ("one of", select.placeholder.clone()),
                SlackInputBlockElement::ExternalSelect(select) => ("search", select.placeholder.clone()),
                SlackInputBlockElement::PlainTextInput(input) => ("text", input.placeholder.clone()),
                other => panic!("{other:?}"),
            };
            let hint = hint.map(|hint| text_of(&hint.into())).unwrap_or_default();
            let optional = if block.optional == Some(true) { " (optional)" } else { "" };
            let id = block.block_id.clone().map(|id| id.0).unwrap_or_default();
            format!("{}{optional}: {kind} “{hint}” {{{id}}}", text_of(&block.label.clone().into()))
        }
        other => format!("{other:?}"),
    }
}

fn show_action(element: &SlackActionBlockElement) -> String {
    let SlackActionBlockElement::Button(button) = element else { return format!("{element:?}") };
    let label = text_of(&button.text.clone().into());
    let style = match button.style {
        Some(SlackBlockButtonStyle::Primary) => "!",
        Some(SlackBlockButtonStyle::Danger) => "?",
        None => "",
    };
    let does =
        button.url.as_ref().map(ToString::to_string).or_else(|| button.value.clone()).unwrap_or_default();
    format!("[{label}]{style}({does})")
}

fn show_words(elements: &[SlackRichTextInlineElement]) -> String {
    let show = |element: &SlackRichTextInlineElement| match element {
        SlackRichTextInlineElement::Text(text) => {
            let style = text.style.clone();
            let has = |flag: Option<bool>| flag == Some(true);
            let around = match style {
                Some(style) if has(style.bold) => "*",
                Some(style) if has(style.italic) => "_",
                Some(style) if has(style.code) => "`",
                _ => "",
            };
            format!("{around}{}{around}", text.text)
        }
        SlackRichTextInlineElement::Emoji(emoji) => format!(":{}:", emoji.name.0),
        SlackRichTextInlineElement::User(user) => format!("<@{}>", user.user_id.0),
        SlackRichTextInlineElement::Link(link) => match &link.text {
            Some(text) => format!("<{}|{text}>", link.url.0),
            None => format!("<{}>", link.url.0),
        },
        other => format!("{other:?}"),
    };
    elements.iter().map(show).collect()
}

fn text_of(text: &SlackBlockText) -> String {
    match text {
        SlackBlockText::Plain(text) => text.text.clone(),
        SlackBlockText::MarkDown(text) => text.text.clone(),
    }
}
