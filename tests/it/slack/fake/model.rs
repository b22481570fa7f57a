//! What the fake knows of its workspace: people, channels, messages with all their versions, forms, homes, and what lives for a
//! short time only (triggers, response URLs). Pure: the time is the model's own and can be moved ([`Model::pass`]).
//!
//! What a test looks at is marked ([`Mark`]): looked at while a question was answered with "yes", or shown in a transcript.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::view::View;

pub(crate) const TEAM: &str = "T1";
pub(crate) const APP: &str = "A1";
pub(crate) const BOT_USER: &str = "UBOT";
pub(crate) const BOT: &str = "B1";

/// For so long something can be opened after a person did something.
pub(crate) const TRIGGER_LIVES: Duration = Duration::from_secs(3);
/// For so long, and so often, a response URL answers.
pub(crate) const RESPONSE_LIVES: Duration = Duration::from_secs(30 * 60);
pub(crate) const RESPONSE_USES: u32 = 5;

/// Whether a test has looked at something.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mark {
    touched: Cell<bool>,
    read: Cell<bool>,
}

impl Mark {
    pub(super) fn touch(&self) {
        self.touched.set(true);
    }

    pub(super) fn read(&self) {
        self.read.set(true);
    }

    pub(super) fn is_read(&self) -> bool {
        self.read.get()
    }

    fn begin(&self) {
        self.touched.set(false);
    }

    fn keep(&self) {
        self.read.set(self.read.get() || self.touched.get());
    }
}

/// What a message once said.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    pub(crate) text: String,
    pub(crate) blocks: Vec<Value>,
}

/// A message, also one that only one person sees.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// The channel's id.
    pub(crate) channel: String,
    pub(crate) ts: String,
    pub(crate) thread: Option<String>,
    /// A user's id.
    pub(crate) author: String,
    /// The only one who sees it.
    pub(crate) whispered_to: Option<String>,
    pub(crate) text: String,
    pub(crate) blocks: Vec<Value>,
    pub(crate) metadata: Option<Value>,
    pub(crate) unfurl_links: Option<bool>,
    /// What it said before, the oldest first.
    pub(crate) versions: Vec<Version>,
    pub(crate) deleted: bool,
    pub(super) mark: Mark,
}

impl Message {
    pub(crate) fn is_by_bot(&self) -> bool {
        self.author == BOT_USER
    }

    /// All its words as a person sees them, without buttons' addresses and the like.
    pub(crate) fn words(&self) -> String {
        super::render::words(&self.text, &self.blocks)
    }

    /// Whether a person sees these words.
    pub(crate) fn says(&self, words: &str) -> bool {
        self.words().contains(words)
    }

    /// The labels of its buttons.
    pub(crate) fn buttons(&self) -> Vec<String> {
        super::blocks::labels(&self.blocks)
    }

    pub(super) fn change(&mut self, text: Option<String>, blocks: Option<Vec<Value>>) {
        self.versions.push(Version { text: self.text.clone(), blocks: self.blocks.clone() });
        // Blocks stay only where neither they nor a text are given.
        match (text, blocks) {
            (text, Some(blocks)) => (self.text, self.blocks) = (text.unwrap_or_default(), blocks),
            (Some(text), None) => (self.text, self.blocks) = (text, Vec::new()),
            (None, None) => {}
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Channel {
    pub(crate) id: String,
    pub(crate) name: String,
    /// The person of a direct conversation.
    pub(crate) with: Option<String>,
    pub(crate) has_bot: bool,
    pub(crate) archived: bool,
}

/// Something the bot asked of the Web API.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) method: String,
    /// Without the token.
    pub(crate) arguments: Value,
    /// By the model's clock.
    pub(crate) at: Duration,
    /// `ok`, an error, or what became of it instead.
    pub(crate) answer: String,
}

#[derive(Debug, Clone)]
pub(super) struct Trigger {
    pub(super) user: String,
    pub(super) made: Duration,
    pub(super) used: bool,
}

/// What a response URL leads to.
#[derive(Debug, Clone)]
pub(super) struct Response {
    pub(super) channel: String,
    pub(super) user: String,
    pub(super) thread: Option<String>,
    /// The message with the button.
    pub(super) origin: Option<String>,
    pub(super) made: Duration,
    pub(super) uses: u32,
}

#[derive(Debug)]
pub(crate) struct Model {
    started: Instant,
    epoch: Duration,
    skipped: Duration,
    last: Duration,
    counter: u64,
    pub(super) users: BTreeMap<String, String>,
    pub(super) channels: BTreeMap<String, Channel>,
    pub(super) messages: Vec<Message>,
    pub(super) views: Vec<View>,
    pub(super) homes: BTreeMap<String, View>,
    pub(super) triggers: BTreeMap<String, Trigger>,
    pub(super) responses: BTreeMap<String, Response>,
    pub(super) calls: Vec<Call>,
    pub(super) opens: Vec<Duration>,
    pub(super) tickets: BTreeSet<String>,
    pub(super) links: usize,
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            epoch: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            skipped: Duration::ZERO,
            last: Duration::ZERO,
            counter: 0,
            users: BTreeMap::from([(BOT_USER.to_owned(), "sdp".to_owned())]),
            channels: BTreeMap::new(),
            messages: Vec::new(),
            views: Vec::new(),
            homes: BTreeMap::new(),
            triggers: BTreeMap::new(),
            responses: BTreeMap::new(),
            calls: Vec::new(),
            opens: Vec::new(),
            tickets: BTreeSet::new(),
            links: 0,
        }
    }

    pub(crate) fn now(&self) -> Duration {
        self.wall() + self.skipped
    }

    /// The time by the bot's clock, by which requests are signed.
    pub(super) fn wall(&self) -> Duration {
        self.epoch + self.started.elapsed()
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.skipped += time;
    }

    /// A time stamp that nothing else has.
    pub(super) fn tick(&mut self) -> String {
        let now = self.now();
        self.last = now.max(self.last + Duration::from_micros(1));
        format!("{}.{:06}", self.last.as_secs(), self.last.subsec_micros())
    }

    pub(super) fn next(&mut self, prefix: &str) -> String {
        self.counter += 1;
        format!("{prefix}{:05}", self.counter)
    }

    pub(super) fn add_person(&mut self, name: &str) -> String {
        let id = format!("U{}", upper(name));
        self.users.insert(id.clone(), name.to_owned());
        let direct = format!("D{}", upper(name));
        let channel = Channel {
            id: direct.clone(),
            name: "directmessage".to_owned(),
            with: Some(id.clone()),
            has_bot: true,
            archived: false,
        };
        self.channels.entry(direct).or_insert(channel);
        id
    }

    pub(super) fn add_channel(&mut self, name: &str, has_bot: bool) {
        let id = self.place(name);
        let name = name.trim_start_matches('#').to_owned();
        let channel = Channel { id: id.clone(), name, with: None, has_bot, archived: false };
        self.channels.insert(id, channel);
    }

    /// The id of `#channel`, of the direct conversation with `@person`, or what already is an id.
    pub(crate) fn place(&self, name: &str) -> String {
        if let Some(channel) = name.strip_prefix('#') {
            format!("C{}", upper(channel))
        } else if let Some(person) = name.strip_prefix('@') {
            format!("D{}", upper(person))
        } else {
            name.to_owned()
        }
    }

    /// What people call a channel.
    pub(crate) fn place_name(&self, id: &str) -> String {
        match self.channels.get(id) {
            Some(Channel { with: Some(user), .. }) => format!("@{}", self.user_name(user)),
            Some(channel) => format!("#{}", channel.name),
            None => id.to_owned(),
        }
    }

    pub(crate) fn user_name(&self, id: &str) -> String {
        self.users.get(id).cloned().unwrap_or_else(|| id.to_owned())
    }

    pub(super) fn user_id(&self, name: &str) -> String {
        let known = self.users.iter().find(|(_, known)| *known == name);
        known.map_or_else(|| format!("U{}", upper(name)), |(id, _)| id.clone())
    }

    pub(super) fn post(&mut self, channel: &str, author: &str, text: &str) -> &mut Message {
        let ts = self.tick();
        self.messages.push(Message {
            channel: channel.to_owned(),
            ts,
            thread: None,
            author: author.to_owned(),
            whispered_to: None,
            text: text.to_owned(),
            blocks: Vec::new(),
            metadata: None,
            unfurl_links: None,
            versions: Vec::new(),
            deleted: false,
            mark: Mark::default(),
        });
        self.messages.last_mut().expect("just pushed")
    }

    /// Blocks with what Slack adds: ids for those that have none, and that plain text may have emoji.
    pub(super) fn named(&mut self, mut blocks: Vec<Value>) -> Vec<Value> {
        for block in &mut blocks {
            with_emoji(block);
            if block.get("block_id").is_none_or(Value::is_null) {
                block["block_id"] = json!(self.next("b"));
            }
            for element in super::blocks::elements_mut(block) {
                if element.get("action_id").is_none_or(Value::is_null) {
                    element["action_id"] = json!(self.next("a"));
                }
            }
        }
        blocks
    }

    pub(super) fn trigger(&mut self, user: &str) -> String {
        let id = self.next("1700000000.1.trigger");
        let made = self.now();
        self.triggers.insert(id.clone(), Trigger { user: user.to_owned(), made, used: false });
        id
    }

    pub(super) fn response(
        &mut self,
        channel: &str,
        user: &str,
        thread: Option<String>,
        origin: Option<String>,
    ) -> String {
        let id = self.next("R");
        let (channel, user, made) = (channel.to_owned(), user.to_owned(), self.now());
        self.responses.insert(id.clone(), Response { channel, user, thread, origin, made, uses: 0 });
        id
    }

    pub(super) fn at(&self, channel: &str, ts: &str) -> Option<&Message> {
        self.messages.iter().find(|message| message.channel == channel && message.ts == ts)
    }

    pub(super) fn at_mut(&mut self, channel: &str, ts: &str) -> Option<&mut Message> {
        self.messages.iter_mut().find(|message| message.channel == channel && message.ts == ts)
    }

    /// What everybody in a channel sees, replies included, the oldest first. For looking without marking.
    pub(super) fn shown(&self, channel: &str) -> impl Iterator<Item = &Message> {
        let channel = self.place(channel);
        self.messages.iter().filter(move |message| {
            message.channel == channel && message.whispered_to.is_none() && !message.deleted
        })
    }

    // What tests ask. Each message that a question with an answer has passed counts as looked at.

    /// All messages of a channel, in threads and out of them, the oldest first.
    pub(crate) fn messages(&self, channel: &str) -> impl Iterator<Item = &Message> {
        self.shown(channel).inspect(|message| message.mark.touch())
    }

    /// The first message that is so; only that one counts as looked at.
    pub(crate) fn find(&self, channel: &str, is: impl Fn(&Message) -> bool) -> Option<&Message> {
        self.shown(channel).find(|message| is(message)).inspect(|message| message.mark.touch())
    }

    /// The first message of the bot with these words.
    pub(crate) fn says(&self, channel: &str, words: &str) -> Option<&Message> {
        self.find(channel, |message| message.is_by_bot() && message.says(words))
    }

    /// As it is now.
    pub(crate) fn message(&self, channel: &str, ts: &str) -> Option<&Message> {
        self.at(&self.place(channel), ts).inspect(|message| message.mark.touch())
    }

    /// What was said in the thread of a message.
    pub(crate) fn replies<'a>(&'a self, root: &'a Message) -> impl Iterator<Item = &'a Message> {
        self.shown(&root.channel)
            .filter(|message| message.thread.as_ref() == Some(&root.ts))
            .inspect(|message| message.mark.touch())
    }

    /// What only this person sees, wherever that is.
    pub(crate) fn whispers(&self, person: &str) -> impl Iterator<Item = &Message> {
        let user = self.user_id(person);
        let whispers = self.messages.iter();
        whispers
            .filter(move |message| message.whispered_to.as_ref() == Some(&user) && !message.deleted)
            .inspect(|message| message.mark.touch())
    }

    /// The form that lies on top of this person's screen.
    pub(crate) fn view(&self, person: &str) -> Option<&View> {
        let user = self.user_id(person);
        let found = self.views.iter().rev().find(|view| view.open && view.user == user);
        found.inspect(|view| view.mark.touch())
    }

    pub(crate) fn home(&self, person: &str) -> Option<&View> {
        self.homes.get(&self.user_id(person)).inspect(|view| view.mark.touch())
    }

    /// What the bot asked; `*` for all methods.
    pub(crate) fn calls(&self, method: &str) -> impl Iterator<Item = &Call> {
        self.calls.iter().filter(move |call| method == "*" || call.method == method)
    }

    /// When a connection was asked for.
    pub(crate) fn opens(&self) -> &[Duration] {
        &self.opens
    }

    /// How many sockets are open and have said hello; those that were told to go do not count.
    pub(crate) fn links(&self) -> usize {
        self.links
    }

    fn marks(&self) -> impl Iterator<Item = &Mark> {
        let messages = self.messages.iter().map(|message| &message.mark);
        messages.chain(self.views.iter().chain(self.homes.values()).map(|view| &view.mark))
    }

    pub(super) fn ask<T>(&self, question: impl FnOnce(&Self) -> Option<T>) -> Option<T> {
        self.marks().for_each(Mark::begin);
        let answer = question(self)?;
        self.marks().for_each(Mark::keep);
        Some(answer)
    }

    /// What the bot said and showed and no test has looked at.
    pub(super) fn unread(&self) -> Vec<String> {
        let messages = self.messages.iter().filter(|message| message.is_by_bot() && !message.mark.is_read());
        let messages = messages.map(|message| {
            let only = message.whispered_to.as_ref().map(|user| format!(" (only {})", self.user_name(user)));
            let place = self.place_name(&message.channel);
            format!("{place}{}: {}", only.unwrap_or_default(), message.words())
        });
        let views = self.views.iter().filter(|view| !view.mark.is_read());
        let views = views.map(|view| format!("form of {}: {}", self.user_name(&view.user), view.title()));
        messages.chain(views).collect()
    }
}

fn with_emoji(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(with_emoji),
        Value::Object(fields) => {
            fields.values_mut().for_each(with_emoji);
            if fields.get("type").is_some_and(|kind| kind == "plain_text") {
                fields.entry("emoji").or_insert(json!(true));
            }
        }
        _ => {}
    }
}

fn upper(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_uppercase()).collect()
}
