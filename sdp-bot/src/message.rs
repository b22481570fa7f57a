//! Every word that the bot says, one function for each thing it says, in a form that any chat can render.
//!
//! Called by [`crate::thread`] (what a deployment's message and its thread say) and [`crate::answer`] (what commands
//! answer); rendered by [`crate::console`], and by Slack once it joins. Pure: what the time is comes in. All text goes
//! through [`Text`], so it is clean by construction.
//!
//! Limits: a block has at most [`MAX_BLOCK_LINES`] lines of at most [`crate::text::MAX_SPAN`] characters.

pub mod agents;
pub mod answer;
pub mod confirm;
pub mod deployment;
pub mod down;
pub mod elsewhere;
pub mod help;
mod hint;
pub mod home;
pub mod locks;
pub mod login;
pub mod notice;
pub mod output;
pub mod places;
#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
pub mod together;

use std::time::Duration;

use serde::Serialize;
use url::Url;

use crate::text::{MAX_SPAN, Span, Text, clean};

/// The most lines that a block of output has.
pub const MAX_BLOCK_LINES: usize = 200;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// How it is meant.
    pub tone: Tone,
    /// Its first line.
    pub title: Text,
    /// What follows.
    pub lines: Vec<Text>,
    /// What makes the rest doubtful for now: the server does not answer.
    pub notice: Option<Text>,
    /// Output of programs, in a fixed-width block; clean.
    pub block: Vec<String>,
    /// What one can do next.
    pub actions: Vec<Action>,
}

/// How a message is meant: a mark and a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Tone {
    /// An answer.
    Plain,
    /// It waits.
    Waiting,
    /// Something is being done.
    Working,
    /// Done.
    Good,
    /// Somebody must act.
    Bad,
    /// Over, and nobody has to act.
    Over,
    /// A remark.
    Note,
}

/// What one can do next: a button where a chat has buttons.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Action {
    /// What the button says.
    pub label: &'static str,
    /// What it does.
    pub does: Does,
}

/// What an action does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Does {
    /// Opens a page.
    Open(Url),
    /// The same as this command, typed by whoever clicks.
    Command(String),
}

impl Message {
    /// A message of one line.
    #[must_use]
    pub fn new(tone: Tone, title: Text) -> Self {
        Self { tone, title, lines: Vec::new(), notice: None, block: Vec::new(), actions: Vec::new() }
    }

    /// With another line.
    #[must_use]
    pub fn line(mut self, line: Text) -> Self {
        self.lines.push(line);
        self
    }

    /// With output of a program.
    #[must_use]
    pub fn block<S: AsRef<str>>(mut self, lines: impl IntoIterator<Item = S>) -> Self {
        self.block.extend(
            lines.into_iter().take(MAX_BLOCK_LINES).map(|line| clean(line.as_ref().trim_end(), MAX_SPAN)),
        );
        self
    }

    /// With a command to offer.
    #[must_use]
    pub fn offer(mut self, label: &'static str, command: impl Into<String>) -> Self {
        self.actions.push(Action { label, does: Does::Command(command.into()) });
        self
    }

    /// With a page to open.
    #[must_use]
    pub fn open(mut self, label: &'static str, url: &Url) -> Self {
        self.actions.push(Action { label, does: Does::Open(url.clone()) });
        self
    }

    /// Several messages as one: each begins with its mark, but for the first.
    #[must_use]
    pub fn joined(messages: impl IntoIterator<Item = Self>) -> Self {
        let mut messages = messages.into_iter();
        let mut all = messages.next().unwrap_or_else(|| Self::new(Tone::Note, Text::new()));
        for next in messages {
            all.lines.push(Text::new().plain(format!("{} ", next.tone.mark())).then(next.title));
            all.lines.extend(next.lines);
            all.notice = all.notice.or(next.notice);
            all.block.extend(next.block);
            all.actions.extend(next.actions);
        }
        all
    }

    /// Whether somebody is called by it.
    #[must_use]
    pub fn calls_somebody(&self) -> bool {
        let mut spans = self.lines.iter().chain([&self.title]).flat_map(Text::spans);
        spans.any(|span| matches!(span, Span::Mention(_)))
    }

    /// A number that changes when anything of it changes, the same after a restart (FNV-1a over its JSON).
    #[must_use]
    pub fn fingerprint(&self) -> i64 {
        let json = serde_json::to_vec(self).unwrap_or_default();
        let hash = json.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
        hash.cast_signed()
    }

    /// As plain text, line by line: for logs, tests and chats without any style.
    #[must_use]
    pub fn to_plain(&self) -> String {
        let mut out = format!("{} {}\n", self.tone.mark(), self.title.words());
        for line in &self.lines {
            out.push_str(&format!("  {}\n", line.words()));
        }
        if let Some(notice) = &self.notice {
            out.push_str(&format!("  ! {}\n", notice.words()));
        }
        for line in &self.block {
            out.push_str(&format!("  | {line}\n"));
        }
        for action in &self.actions {
            match &action.does {
                Does::Open(url) => out.push_str(&format!("  [{}] {url}\n", action.label)),
                Does::Command(command) => out.push_str(&format!("  [{}] {command}\n", action.label)),
            }
        }
        out
    }
}

impl Tone {
    /// One character that stands for it.
    #[must_use]
    pub fn mark(self) -> char {
        match self {
            Self::Plain => '·',
            Self::Waiting => '…',
            Self::Working => '▸',
            Self::Good => '✓',
            Self::Bad => '✗',
            Self::Over => '–',
            Self::Note => 'i',
        }
    }
}

/// A duration as people say it: `0.4 s`, `12 s`, `2 min 05 s`, `1 h 02 min`, `3 days`.
#[must_use]
pub fn duration(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", length.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
        86_400..172_800 => "1 day".to_owned(),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// A running duration: without tenths, because it is shown while it grows.
fn elapsed(length: Duration) -> String {
    if length.as_secs() < 10 { format!("{} s", length.as_secs()) } else { duration(length) }
}

/// `1st`, `2nd`, `3rd`, `11th`.
fn ordinal(n: u32) -> String {
    let ending = match (n % 10, n % 100) {
        (1, rest) if rest != 11 => "st",
        (2, rest) if rest != 12 => "nd",
        (3, rest) if rest != 13 => "rd",
        _ => "th",
    };
    format!("{n}{ending}")
}
