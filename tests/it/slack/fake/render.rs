//! The chat as text: what people see, for snapshots, and without what differs from run to run ([`redacted`]).
//!
//! A link shows as its words and an arrow, a person as `@name`. `@CHANNEL` in capitals is a mention of everybody.

use serde_json::Value;

use super::blocks;
use super::model::{BOT_USER, Message, Model};
use super::view::View;

/// What people read in a text: mentions and links by their names, escapes undone.
pub(super) fn plain(model: Option<&Model>, text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('<') {
        shown.push_str(before);
        let Some((inside, after)) = after.split_once('>') else {
            shown.push('<');
            rest = after;
            continue;
        };
        let (target, label) = inside.split_once('|').map_or((inside, None), |(to, label)| (to, Some(label)));
        let name = |id: &str| model.map_or_else(|| id.to_owned(), |model| model.user_name(id));
        match (target.chars().next(), label) {
            (Some('@'), _) => shown.push_str(&format!("@{}", name(&target[1..]))),
            (Some('#'), Some(label)) => shown.push_str(&format!("#{label}")),
            (Some('#'), None) => shown.push_str(&target[1..]),
            (Some('!'), Some(label)) if target.starts_with("!date") => shown.push_str(label),
            (Some('!'), _) => shown.push_str(&format!("@{}", target[1..].to_uppercase())),
            (_, label) => shown.push_str(&format!("{}↗", label.unwrap_or(target))),
        }
        rest = after;
    }
    shown.push_str(rest);
    shown.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}

fn text(model: Option<&Model>, value: &Value) -> String {
    let text = value["text"].as_str().unwrap_or_default();
    if value["type"] == "plain_text" { text.to_owned() } else { plain(model, text) }
}

/// An element as people see it.
fn element(element: &Value, state: Option<&Value>) -> String {
    let label = |value: &Value| value["text"]["text"].as_str().unwrap_or_default().to_owned();
    let placeholder = element["placeholder"]["text"].as_str().unwrap_or_default();
    let state = state.cloned().or_else(|| blocks::initial_state(element)).unwrap_or_default();
    match element["type"].as_str().unwrap_or_default() {
        "button" => format!("[{}]", label(element)),
        "overflow" => {
            let options: Vec<String> = blocks::options(element).map(label).collect();
            format!("[⋯ {}]", options.join(" | "))
        }
        "image" => format!("({})", element["alt_text"].as_str().unwrap_or_default()),
        kind if kind.ends_with("_input") => {
            let value = state["value"].as_str().map_or_else(|| format!("({placeholder})"), str::to_owned);
            format!("[{value}]")
        }
        _ => {
            let several = state["selected_options"].as_array().into_iter().flatten();
            let single = Some(&state["selected_option"]).filter(|option| option.is_object());
            let chosen: Vec<String> = single.into_iter().chain(several).map(label).collect();
            let shown = if chosen.is_empty() { format!("({placeholder})") } else { chosen.join(", ") };
            format!("[{shown} ▾]")
        }
    }
}

fn block(model: Option<&Model>, view: Option<&View>, block: &Value) -> String {
    let list = |field: &str| block[field].as_array().map(Vec::as_slice).unwrap_or_default();
    let id = block["block_id"].as_str().unwrap_or_default();
    let shown = |found: &Value| {
        let key = (id.to_owned(), found["action_id"].as_str().unwrap_or_default().to_owned());
        element(found, view.and_then(|view| view.state.get(&key)))
    };
    match block["type"].as_str().unwrap_or_default() {
        "section" => {
            let mut lines = Vec::new();
            if block["text"].is_object() {
                lines.push(text(model, &block["text"]));
            }
            lines.extend(list("fields").iter().map(|field| text(model, field)));
            let accessory = block.get("accessory").map(|found| format!(" {}", shown(found)));
            lines.join("\n") + &accessory.unwrap_or_default()
        }
        "header" => format!("# {}", text(model, &block["text"])),
        "context" => {
            let parts = list("elements").iter().map(|part| match part["type"].as_str() {
                Some("image") => element(part, None),
                _ => text(model, part),
            });
            format!("~ {}", parts.collect::<Vec<_>>().join(" · "))
        }
        "actions" => list("elements").iter().map(shown).collect::<Vec<_>>().join(" "),
        "input" => {
            let needed = if block["optional"] == true { "" } else { "*" };
            let error = view.and_then(|view| view.errors.get(id)).map(|error| format!("\n  ! {error}"));
            let label = text(model, &block["label"]);
            format!("{label}{needed}: {}{}", shown(&block["element"]), error.unwrap_or_default())
        }
        "rich_text" => super::rich::text(model, block),
        "divider" => "---".to_owned(),
        "markdown" => block["text"].as_str().unwrap_or_default().to_owned(),
        other => format!("({other})"),
    }
}

fn body(model: Option<&Model>, view: Option<&View>, text: &str, blocks: &[Value]) -> String {
    if blocks.is_empty() {
        return plain(model, text);
    }
    blocks.iter().map(|shown| block(model, view, shown)).collect::<Vec<_>>().join("\n")
}

/// All that is written in a message or view.
pub(super) fn words(text: &str, blocks: &[Value]) -> String {
    body(None, None, text, blocks)
}

fn indented(text: &str, by: usize) -> String {
    text.replace('\n', &format!("\n{}", " ".repeat(by)))
}

fn message(model: &Model, message: &Message, indent: usize, prefix: &str) -> String {
    let name = model.user_name(&message.author);
    let mut shown = body(Some(model), None, &message.text, &message.blocks);
    if !message.versions.is_empty() && message.author == BOT_USER {
        let mark = format!("   (edited {} times)", message.versions.len());
        let end = shown.find('\n').unwrap_or(shown.len());
        shown.insert_str(end, &mark);
    }
    let indent = indent + prefix.chars().count() + name.chars().count() + 2;
    format!("{prefix}{name}: {}\n", indented(&shown, indent))
}

pub(super) fn thread(model: &Model, root: &Message) -> String {
    root.mark.read();
    let mut shown = message(model, root, 0, "");
    let replies = model.shown(&root.channel).filter(|reply| reply.thread.as_ref() == Some(&root.ts));
    for reply in replies {
        reply.mark.read();
        shown.push_str("  ");
        shown.push_str(&message(model, reply, 2, "↳ "));
    }
    shown
}

pub(super) fn transcript(model: &Model, channel: &str) -> String {
    let mut shown = format!("{}\n", model.place_name(&model.place(channel)));
    for root in model.shown(channel).filter(|message| message.thread.is_none()) {
        shown.push_str(&thread(model, root));
    }
    shown
}

pub(super) fn whispers(model: &Model, person: &str) -> String {
    let user = model.user_id(person);
    let mine = |message: &&Message| message.whispered_to.as_ref() == Some(&user) && !message.deleted;
    let mut shown = String::new();
    for whisper in model.messages.iter().filter(mine) {
        whisper.mark.read();
        let prefix = format!("{}, only {person} sees: ", model.place_name(&whisper.channel));
        shown.push_str(&message(model, whisper, 0, &prefix));
    }
    shown
}

pub(super) fn view(model: &Model, view: &View) -> String {
    view.mark.read();
    let shown = body(Some(model), Some(view), "", view.blocks());
    let who = model.user_name(&view.user);
    if view.body["type"] == "home" {
        return format!("home of {who}\n{shown}\n");
    }
    let buttons =
        ["close", "submit"].map(|field| view.body[field]["text"].as_str().map(|text| format!("[{text}]")));
    let buttons: Vec<String> = buttons.into_iter().flatten().collect();
    let state = if view.open { "" } else { " (closed)" };
    format!(
        "┌ {} · form of {who}{state}\n│ {}\n└ {}\n",
        view.title(),
        shown.replace('\n', "\n│ "),
        buttons.join(" ")
    )
}

/// Everything, for the one who has to find out why a test fails.
pub(super) fn everything(model: &Model) -> String {
    let mut shown = String::new();
    for id in model.channels.keys().filter(|id| model.shown(id).next().is_some()) {
        shown.push_str(&transcript(model, id));
    }
    for (id, name) in &model.users {
        shown.push_str(&whispers(model, name));
        shown.push_str(&model.homes.get(id).map(|home| view(model, home)).unwrap_or_default());
    }
    model.views.iter().for_each(|form| shown.push_str(&view(model, form)));
    let calls: Vec<String> =
        model.calls.iter().map(|call| format!("{} {}", call.method, call.answer)).collect();
    let last = calls.len().saturating_sub(40);
    format!("{shown}sockets: {}; last calls:\n  {}\n", model.links, calls[last..].join("\n  "))
}

/// Without durations (`N s`), times (`HH:MM`), dates, commits, ports and how often something was edited.
pub(crate) fn redacted(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let is_part = |part: char| part.is_ascii_alphanumeric() || ".:-".contains(part);
        let end = rest.find(|part| !is_part(part)).unwrap_or(rest.len());
        let word = rest[..end].trim_end_matches(['.', ':', '-']);
        if word.is_empty() {
            let next = rest.chars().next().map_or(1, char::len_utf8);
            shown.push_str(&rest[..next]);
            rest = &rest[next..];
            continue;
        }
        rest = &rest[word.len()..];
        if let Some(after) = duration(word, rest) {
            rest = after;
            if !shown.ends_with("N s ") {
                shown.push_str("N s");
            } else {
                shown.pop();
            }
            continue;
        }
        shown.push_str(&stable(word));
    }
    edits(&shown)
}

const UNITS: [&str; 10] = ["ms", "s", "min", "h", "second", "seconds", "minute", "minutes", "hour", "hours"];

/// What comes after a duration that begins with this word.
fn duration<'a>(word: &str, rest: &'a str) -> Option<&'a str> {
    let number = word.trim_start_matches(|part: char| part.is_ascii_digit() || part == '.');
    if number.len() == word.len() {
        return None;
    }
    if UNITS.contains(&number) {
        return Some(rest);
    }
    let after = rest.strip_prefix([' ', '\u{a0}']).filter(|_| number.is_empty())?;
    let end = after.find(|part: char| !part.is_ascii_alphabetic()).unwrap_or(after.len());
    UNITS.contains(&&after[..end]).then(|| &after[end..])
}

fn stable(word: &str) -> String {
    let parts = |by: char| word.split(by).map(|part| (part.len(), part.bytes().all(|b| b.is_ascii_digit())));
    let are = |found: &mut dyn Iterator<Item = (usize, bool)>, lengths: &[usize]| {
        let found: Vec<_> = found.collect();
        found.iter().all(|(_, digits)| *digits)
            && found.iter().map(|(length, _)| *length).eq(lengths.iter().copied())
    };
    if [&[1, 2][..], &[2, 2], &[2, 2, 2]].iter().any(|lengths| are(&mut parts(':'), lengths)) {
        return "HH:MM".to_owned();
    }
    if are(&mut parts('-'), &[4, 2, 2]) {
        return "DATE".to_owned();
    }
    if let Some((host, port)) = word.rsplit_once(':')
        && ["127.0.0.1", "localhost"].contains(&host)
        && port.bytes().all(|byte| byte.is_ascii_digit())
    {
        return format!("{host}:PORT");
    }
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let is_commit = (7..=40).contains(&word.len()) && word.bytes().all(hex);
    if is_commit && word.bytes().any(|byte| byte.is_ascii_digit()) {
        "COMMIT".to_owned()
    } else {
        word.to_owned()
    }
}

fn edits(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("(edited ") {
        shown.push_str(before);
        shown.push_str("(edited)");
        rest = after.split_once(')').map_or("", |(_, after)| after);
    }
    shown + rest
}
