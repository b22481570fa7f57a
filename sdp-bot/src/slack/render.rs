//! Messages as Slack's blocks.
//!
//! Called by [`super::outbox`] and [`super::web`] (messages), [`super::form`] and [`super::home`] (parts of them). Pure.
//!
//! Words go into `rich_text`, whose pieces carry their style beside the text and not in it: whatever a branch or a commit
//! says is a piece of text, so it calls nobody, links nowhere and opens no formatting. Only [`Span::Mention`] calls, and only
//! a user's id. Where Slack reads a text for itself (the fallback that notifications show, text of buttons and menus),
//! [`plain`] escapes.
//!
//! ```text
//!   mark title            ─┐
//!   lines                  ├─ rich_text
//!   block of output       ─┘
//!   notice                 ── context
//!   [button] [button]      ── actions
//! ```
//! Limits: what is too long is cut, never refused: the lines from below, the block from above (its last lines matter most).
//! Slack counts a message's blocks as JSON, and takes some 13,000 characters ([`MAX_WEIGHT`]).

mod button;
#[cfg(test)]
pub(super) mod check;
#[cfg(test)]
mod tests;

use slack_morphism::prelude::{
    SlackBlock, SlackBlockPlainText, SlackBlockPlainTextOnly, SlackContextBlock, SlackEmojiName,
    SlackRichTextBlock, SlackRichTextEmoji, SlackRichTextInlineElement, SlackRichTextLink,
    SlackRichTextPreformatted, SlackRichTextSection, SlackRichTextText, SlackRichTextUser,
};
use url::Url;

use crate::message::{Does, Message, Tone};
use crate::text::{Span, Text};

pub(super) use button::Numbers;

/// How much the blocks of a message weigh at most; see [`weight`].
const MAX_WEIGHT: usize = 12_000;
/// What the title weighs at most.
const MAX_TITLE: usize = 3000;
/// What the buttons weigh at most.
const MAX_BUTTONS: usize = 4000;
/// What is kept for the block of output, if there is one.
const FOR_BLOCK: usize = 4000;
/// The longest text of Slack's text objects, in characters.
const MAX_TEXT: usize = 3000;
/// The longest address that is shown in full, in characters.
const MAX_SHOWN_URL: usize = 60;
/// The longest address that Slack takes.
const MAX_URL: usize = 3000;

/// A message as Slack takes it.
#[derive(Clone, Debug)]
pub(crate) struct Rendered {
    /// What notifications show: the title.
    pub(super) text: String,
    pub(super) blocks: Vec<SlackBlock>,
}

/// A message as Slack takes it.
pub(crate) fn message(message: &Message) -> Rendered {
    Rendered { text: fallback(message), blocks: blocks(message, &mut Numbers::default()) }
}

/// Fit for where Slack reads a text for itself: nothing in it is a mention, a link or an entity.
pub(crate) fn plain(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A text object of at most `max` characters as Slack counts them, that is escaped; never empty, as Slack wants.
pub(super) fn label(text: &str, max: usize) -> SlackBlockPlainTextOnly {
    SlackBlockPlainText::new(escaped(text, max)).with_emoji(false).into()
}

/// Escaped, and cut so that no entity is torn.
fn escaped(text: &str, max: usize) -> String {
    let whole = plain(text);
    if whole.trim().is_empty() {
        return "–".to_owned();
    }
    if whole.chars().count() <= max {
        return whole;
    }
    let mut out = String::new();
    // The ellipsis.
    let mut length = 1;
    for c in text.chars() {
        let piece = plain(c.encode_utf8(&mut [0; 4]));
        length += piece.chars().count();
        if length > max {
            break;
        }
        out.push_str(&piece);
    }
    out + "…"
}

/// The blocks of a message that may be one of several: `numbers` go on from one to the next.
pub(super) fn blocks(message: &Message, numbers: &mut Numbers) -> Vec<SlackBlock> {
    let mut left = MAX_WEIGHT;
    let buttons = button::row(&message.actions, numbers, MAX_BUTTONS);
    left = left.saturating_sub(buttons.as_ref().map_or(0, weight));
    let notice = message.notice.as_ref().map(notice);
    left = left.saturating_sub(notice.as_ref().map_or(0, weight));

    let mut words = vec![];
    if let Some(mark) = emoji(message.tone) {
        words.push(SlackRichTextEmoji::new(SlackEmojiName(mark.to_owned())).into());
        words.push(" ".into());
    }
    let mut budget = MAX_TITLE;
    words.extend(cut(spans(&message.title), &mut budget));
    left = left.saturating_sub(MAX_TITLE - budget);
    let for_block = if message.block.is_empty() { 0 } else { FOR_BLOCK };
    let mut budget = left.saturating_sub(for_block);
    let for_lines = budget;
    words.extend(lines(message, &mut budget));
    left = left.saturating_sub(for_lines - budget);
    if words.is_empty() {
        words.push("–".into());
    }

    let mut elements = vec![SlackRichTextSection::new(merged(words)).into()];
    if !message.block.is_empty() {
        elements.push(SlackRichTextPreformatted::new(vec![newest(&message.block, left).into()]).into());
    }
    let mut blocks = vec![SlackRichTextBlock::new(elements).into()];
    blocks.extend(notice);
    blocks.extend(buttons);
    blocks
}

/// Neighbours without style as one piece.
fn merged(pieces: Vec<SlackRichTextInlineElement>) -> Vec<SlackRichTextInlineElement> {
    let mut out: Vec<SlackRichTextInlineElement> = Vec::new();
    for piece in pieces {
        match (out.last_mut(), piece) {
            (
                Some(SlackRichTextInlineElement::Text(SlackRichTextText { text, style: None })),
                SlackRichTextInlineElement::Text(SlackRichTextText { text: more, style: None }),
            ) => text.push_str(&more),
            (_, piece) => out.push(piece),
        }
    }
    out
}

/// What notifications show, and where blocks cannot be shown.
fn fallback(message: &Message) -> String {
    let mut out = mark(message.tone).map(|mark| format!("{mark} ")).unwrap_or_default();
    let mut length = out.chars().count();
    for span in message.title.spans() {
        let piece = match (span, user_of(span)) {
            (_, Some(user)) => format!("<@{user}>"),
            (Span::Mention(name), None) => escaped(&format!("@{name}"), MAX_TEXT),
            (span, None) if span.words().is_empty() => continue,
            (span, None) if span.words().trim().is_empty() => " ".to_owned(),
            (span, None) => escaped(span.words(), MAX_TEXT),
        };
        length += piece.chars().count();
        if length >= MAX_TEXT {
            out.push('…');
            break;
        }
        out.push_str(&piece);
    }
    if out.trim().is_empty() { "SDP".to_owned() } else { out }
}

/// The lines that a button does not say already, as many as there is room for.
fn lines(message: &Message, budget: &mut usize) -> Vec<SlackRichTextInlineElement> {
    let shown: Vec<&Text> = message.lines.iter().filter(|line| !is_a_button(line, message)).collect();
    let mut out = Vec::new();
    for (n, line) in shown.iter().enumerate() {
        let mut pieces: Vec<SlackRichTextInlineElement> = vec!["\n".into()];
        pieces.extend(spans(line));
        let needed = weight(&pieces);
        // Room for "and 123 more" is kept.
        if needed + 60 > *budget {
            out.push(format!("\nand {} more", shown.len() - n).into());
            *budget = budget.saturating_sub(60);
            break;
        }
        *budget -= needed;
        out.extend(pieces);
    }
    out
}

/// Whether a line is an address that a button of the same name opens: `log https://…` beside [Log].
fn is_a_button(line: &Text, message: &Message) -> bool {
    let [Span::Dim(label), Span::Link(url)] = line.spans() else { return false };
    message.actions.iter().any(|action| {
        action.does == Does::Open(url.clone()) && action.label.eq_ignore_ascii_case(label.trim())
    })
}

/// As many pieces as there is room for.
fn cut(pieces: Vec<SlackRichTextInlineElement>, budget: &mut usize) -> Vec<SlackRichTextInlineElement> {
    let mut out = Vec::new();
    for piece in pieces {
        let needed = weight(&piece);
        if needed > *budget {
            out.push("…".into());
            break;
        }
        *budget -= needed;
        out.push(piece);
    }
    out
}

fn spans(text: &Text) -> Vec<SlackRichTextInlineElement> {
    let mut out = Vec::new();
    let leads = text.spans().len() > 1;
    for (n, span) in text.spans().iter().enumerate() {
        let words = span.words();
        if words.is_empty() {
            continue;
        }
        let piece = SlackRichTextText::new(words.to_owned());
        let piece = match span {
            Span::Strong(_) => piece.bold().into(),
            Span::Code(_) => piece.code().into(),
            // What a line is about: `next`, `log`.
            Span::Dim(words) if n == 0 && leads && is_a_label(words) => {
                let label = words.trim();
                let (before, after) = words.split_once(label).unwrap_or_default();
                out.extend(Some(before).filter(|before| !before.is_empty()).map(Into::into));
                out.push(SlackRichTextText::new(label.to_owned()).italic().into());
                after.into()
            }
            Span::Plain(_) | Span::Dim(_) => piece.into(),
            Span::Link(url) => link(url),
            Span::Mention(name) => match user_of(span) {
                Some(user) => SlackRichTextUser::new(user.into()).into(),
                None => format!("@{name}").into(),
            },
        };
        out.push(piece);
    }
    out
}

fn is_a_label(words: &str) -> bool {
    let label = words.trim();
    words.ends_with(' ') && !label.is_empty() && label.chars().all(char::is_alphabetic)
}

fn link(url: &Url) -> SlackRichTextInlineElement {
    if !opens(url) {
        return middle(url.as_str(), MAX_SHOWN_URL).into();
    }
    let link = SlackRichTextLink::new(url.into());
    match url.as_str().chars().count() > MAX_SHOWN_URL {
        true => link.with_text(middle(url.as_str(), MAX_SHOWN_URL)).into(),
        false => link.into(),
    }
}

/// Whether Slack opens it.
fn opens(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https") && url.as_str().len() <= MAX_URL
}

/// Cut in the middle: where it begins and how it ends tell one from another.
pub(super) fn middle(text: &str, max: usize) -> String {
    let length = text.chars().count();
    if length <= max {
        return text.to_owned();
    }
    let end = max / 3;
    let begin: String = text.chars().take(max - end - 1).collect();
    let end: String = text.chars().skip(length - end).collect();
    format!("{begin}…{end}")
}

/// The user of Slack that is called, if it is one.
fn user_of(span: &Span) -> Option<String> {
    let Span::Mention(name) = span else { return None };
    let is_id = name.len() >= 5
        && name.starts_with(['U', 'W'])
        && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    is_id.then(|| name.clone())
}

fn notice(text: &Text) -> SlackBlock {
    let words = SlackBlockPlainText::new(escaped(&format!("⚠️ {}", text.words()), 1000));
    SlackContextBlock::new(vec![words.into()]).into()
}

/// The last lines, as many as there is room for.
fn newest(lines: &[String], room: usize) -> String {
    // Room for the element around it and for the line that says what is missing.
    let mut room = room.saturating_sub(200);
    let mut kept = Vec::new();
    for line in lines.iter().rev() {
        let Some(rest) = room.checked_sub(text_weight(line) + 2) else { break };
        room = rest;
        kept.push(line.as_str());
    }
    if kept.len() < lines.len() {
        kept.push("…");
    }
    kept.reverse();
    let text = kept.join("\n");
    if text.trim().is_empty() { " ".to_owned() } else { text }
}

/// How many characters a thing has as the JSON that Slack counts: all but ASCII escaped, slashes too.
fn weight(thing: &impl serde::Serialize) -> usize {
    serde_json::to_string(thing).map_or(usize::MAX, |json| {
        json.chars().map(|c| if c.is_ascii() { 1 + usize::from(c == '/') } else { 6 * c.len_utf16() }).sum()
    })
}

fn text_weight(text: &str) -> usize {
    weight(&text)
}

/// The name of an emoji for how a message is meant.
fn emoji(tone: Tone) -> Option<&'static str> {
    Some(match tone {
        Tone::Plain => return None,
        Tone::Waiting => "hourglass_flowing_sand",
        Tone::Working => "large_blue_circle",
        Tone::Good => "white_check_mark",
        Tone::Bad => "x",
        Tone::Over => "heavy_minus_sign",
        Tone::Note => "information_source",
    })
}

/// The same as a character.
fn mark(tone: Tone) -> Option<&'static str> {
    Some(match tone {
        Tone::Plain => return None,
        Tone::Waiting => "⏳",
        Tone::Working => "🔵",
        Tone::Good => "✅",
        Tone::Bad => "❌",
        Tone::Over => "➖",
        Tone::Note => "ℹ️",
    })
}
