//! What a running service prints, in one message that is kept up to date for a while.
//!
//! ```text
//!   begin: the last lines ─▶ post ─▶ run: what comes ─▶ Shown (pure) ─▶ edit, at most one each `edit_every`
//!                                      └─ it ends, is cut, or the time is over: the last edit says so
//! ```
//! Called by [`crate::bot`]; whoever plays the chat runs it, and drops it when nobody looks any more. Nothing of it is kept: after
//! a restart of the bot the message stays as it was.
//!
//! Limits: [`WATCH_FOR`], [`EDIT_EVERY`] at the least between two edits, as many lines as were asked for (200 at most).

use std::collections::VecDeque;
use std::time::Duration;

use sdp_core::api::{Instance, OutputEndReason};
use sdp_core::client::{Client, ClientError, OutputItem, OutputStream};
use sdp_core::id::InstanceId;
use tokio::time::{Instant, sleep_until, timeout};
use url::Url;

use crate::chat::{Chat, ChatGone, Conversation, Place, Seen, Unseen};
use crate::message::output as say;

/// How long a message is kept up to date.
pub const WATCH_FOR: Duration = Duration::from_secs(120);
/// Between two edits, where the chat would allow more.
pub const EDIT_EVERY: Duration = Duration::from_millis(250);
/// The first lines are there when none has come for so long.
const SETTLED: Duration = Duration::from_millis(150);
/// The message is posted by then, whatever has come.
const POST_WITHIN: Duration = Duration::from_secs(1);

/// The page on which an instance's output is followed.
#[must_use]
pub fn page_of(client: &Client, instance: InstanceId) -> Url {
    let mut url = client.base().clone();
    let path = format!("{}/instances/{instance}", url.path().trim_end_matches('/'));
    url.set_path(&path);
    url
}

/// Whether there is more to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Yes.
    Live,
    /// No: the instance has ended.
    Ended,
    /// It goes on, but the message does not.
    Paused,
    /// It cannot be followed any more.
    Cut {
        /// Why.
        why: String,
    },
}

/// What such a message shows. Pure.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Of what.
    pub instance: Instance,
    /// Its page.
    pub page: Url,
    /// The newest lines.
    pub lines: VecDeque<String>,
    /// How many lines were left out since it began.
    pub left_out: u64,
    /// Whether there is more to come.
    pub phase: Phase,
    keep: usize,
}

impl Shown {
    /// Nothing yet; it will hold the newest `keep` lines.
    #[must_use]
    pub fn new(instance: Instance, page: Url, keep: usize) -> Self {
        Self { instance, page, lines: VecDeque::new(), left_out: 0, phase: Phase::Live, keep }
    }

    /// Takes the next piece of the stream; whether anything changed.
    pub fn take(&mut self, item: Option<Result<OutputItem, ClientError>>) -> bool {
        match item {
            Some(Ok(OutputItem::Lines(chunk))) => {
                let changed = chunk.left_out > 0 || !chunk.lines.is_empty();
                self.left_out += chunk.left_out;
                self.lines.extend(chunk.lines.into_iter().map(|line| line.text));
                let over = self.lines.len().saturating_sub(self.keep);
                self.lines.drain(..over);
                return changed;
            }
            Some(Ok(OutputItem::End(end))) if end.reason == OutputEndReason::Ended => {
                self.phase = Phase::Ended;
            }
            Some(Ok(OutputItem::End(end))) => {
                let why = match end.reason {
                    OutputEndReason::Stopping => "the server restarts".to_owned(),
                    _ => end.detail.unwrap_or_else(|| "its agent is away".to_owned()),
                };
                self.phase = Phase::Cut { why };
            }
            Some(Ok(_)) => return false,
            Some(Err(error)) => self.phase = Phase::Cut { why: error.to_string() },
            None => self.phase = Phase::Cut { why: "the connection was lost".to_owned() },
        }
        true
    }
}

/// A message that shows what a service prints.
#[derive(Debug)]
pub struct Watch {
    chat: Chat,
    place: Place,
    stream: OutputStream,
    shown: Shown,
    until: Instant,
}

impl Watch {
    /// Posts the last lines.
    ///
    /// # Errors
    /// [`ChatGone`].
    pub(crate) async fn begin(
        chat: &Chat,
        conversation: &Conversation,
        mut stream: OutputStream,
        instance: Instance,
        page: Url,
        lines: u32,
    ) -> Result<Seen<Self>, ChatGone> {
        let mut shown = Shown::new(instance, page, usize::try_from(lines).unwrap_or(usize::MAX));
        let first = async {
            while shown.phase == Phase::Live {
                match timeout(SETTLED, stream.next()).await {
                    Ok(item) => drop(shown.take(item)),
                    Err(_) if shown.lines.is_empty() => {}
                    Err(_) => return,
                }
            }
        };
        // One that prints nothing, or without end, is shown as it is.
        drop(timeout(POST_WITHIN, first).await);
        // What was there before is no loss.
        shown.left_out = 0;
        let shows = |place| Self {
            chat: chat.clone(),
            place,
            stream,
            until: Instant::now() + WATCH_FOR,
            shown: shown.clone(),
        };
        Ok(chat.show(conversation, say::followed(&shown)).await?.map(shows))
    }

    /// Keeps the message up to date, until it has ended or the time is over.
    ///
    /// # Errors
    /// [`ChatGone`].
    pub async fn run(mut self) -> Result<(), ChatGone> {
        let every = self.chat.abilities.edit_every.max(EDIT_EVERY);
        let mut next_edit = Instant::now() + every;
        let mut dirty = false;
        while self.shown.phase == Phase::Live {
            tokio::select! {
                () = sleep_until(self.until) => self.shown.phase = Phase::Paused,
                () = sleep_until(next_edit), if dirty => {
                    match self.chat.update(&self.place, say::followed(&self.shown), false).await? {
                        Ok(()) | Err(Unseen::Superseded | Unseen::Refused) => {}
                        Err(Unseen::Impossible) => return Ok(()),
                    }
                    next_edit = Instant::now() + every;
                    dirty = false;
                }
                item = self.stream.next() => dirty |= self.shown.take(item),
            }
        }
        self.chat.update(&self.place, say::followed(&self.shown), true).await.map(drop)
    }
}
