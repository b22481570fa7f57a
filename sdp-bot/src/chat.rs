//! The seam between the bot and a chat: what a chat must be able to do, as a queue of requests.
//!
//! [`crate::follow`] and [`crate::answer`] hold a [`Chat`] and ask it to post, update, reply or whisper; whoever plays the
//! chat (today [`crate::console`]) reads the [`Request`]s and answers each. Slack joins by reading the same queue from a task
//! of its own, with its own pace and retries: nothing in `thread`, `message` or `follow` changes. There is no trait,
//! because nothing is called; there is only a queue.
//!
//! Limit: at most [`QUEUE`] requests wait; then the asker waits. A chat that has gone answers with [`ChatGone`].

use std::time::Duration;

use sdp_core::id::DeploymentId;
use sdp_core::name::PersonName;
use tokio::sync::{mpsc, oneshot};

use crate::message::Message;

/// How many requests may wait for a chat.
pub const QUEUE: usize = 64;

/// Where a message sits, in words that only its chat understands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place(pub String);

/// A channel, a group or a direct conversation, in words that only its chat understands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Conversation(pub String);

/// What a chat can do, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// A message is edited at most this often; the last state is always sent.
    pub edit_every: Duration,
    /// How often a growing time is shown anew; none: only when something happens.
    pub tick: Option<Duration>,
    /// Nobody but the person who asked reads along, so that a link that signs in may be shown.
    pub private: bool,
    /// Places mean the same after the bot has been restarted.
    pub places_survive: bool,
    /// Somebody looks while messages change, so that an answer is worth being kept up to date.
    pub watched: bool,
}

/// What a chat is asked to do. Each request is answered when people can see it.
#[derive(Debug)]
pub enum Request {
    /// A new message.
    Post {
        /// Where.
        conversation: Conversation,
        /// What.
        message: Message,
        /// The deployment whose message it is, so that replies and edits will follow; it goes into the message's metadata
        /// where a chat has that. None: an answer.
        about: Option<DeploymentId>,
        /// Whether edits and replies will follow; otherwise it is said once.
        changes: bool,
        /// Where it sits then.
        done: oneshot::Sender<Place>,
    },
    /// A message in place of the one that is there.
    Update {
        /// Which.
        place: Place,
        /// What it says now.
        message: Message,
        /// Whether it will hardly change again.
        last: bool,
        /// Done.
        done: oneshot::Sender<()>,
    },
    /// A message in the thread of another.
    Reply {
        /// Of which.
        place: Place,
        /// What.
        message: Message,
        /// Done.
        done: oneshot::Sender<()>,
    },
    /// A message that only one person sees.
    Whisper {
        /// Where.
        conversation: Conversation,
        /// To whom.
        person: PersonName,
        /// What.
        message: Message,
        /// Done.
        done: oneshot::Sender<()>,
    },
}

/// The chat has ended and shows nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the chat has ended")]
pub struct ChatGone;

/// A handle on a chat; clones ask the same one.
#[derive(Clone, Debug)]
pub struct Chat {
    requests: mpsc::Sender<Request>,
    /// What it can do.
    pub abilities: Abilities,
}

impl Chat {
    /// A chat and the queue that whoever plays it reads.
    #[must_use]
    pub fn new(abilities: Abilities) -> (Self, mpsc::Receiver<Request>) {
        let (requests, queue) = mpsc::channel(QUEUE);
        (Self { requests, abilities }, queue)
    }

    /// Says something, once.
    ///
    /// # Errors
    /// [`ChatGone`].
    pub async fn say(&self, conversation: &Conversation, message: Message) -> Result<(), ChatGone> {
        let conversation = conversation.clone();
        self.ask(|done| Request::Post { conversation, message, about: None, changes: false, done })
            .await
            .map(drop)
    }

    /// Posts a deployment's message.
    ///
    /// # Errors
    /// [`ChatGone`].
    pub async fn post(
        &self,
        conversation: &Conversation,
        message: Message,
        about: DeploymentId,
    ) -> Result<Place, ChatGone> {
        let conversation = conversation.clone();
        self.ask(|done| Request::Post { conversation, message, about: Some(about), changes: true, done })
            .await
    }

    /// Posts an answer that will be edited.
    ///
    /// # Errors
    /// [`ChatGone`].
    pub async fn show(&self, conversation: &Conversation, message: Message) -> Result<Place, ChatGone> {
        let conversation = conversation.clone();
        self.ask(|done| Request::Post { conversation, message, about: None, changes: true, done }).await
    }

    /// Edits a message.
    ///
    /// # Errors
    /// [`ChatGone`].
    pub async fn update(&self, place: &Place, message: Message, last: bool) -> Result<(), ChatGone> {
        let place = place.clone();
        self.ask(|done| Request::Update { place, message, last, done }).await
    }

    /// Replies in a message's thread.
    ///
    /// # Errors
    /// [`ChatGone`].
    pub async fn reply(&self, place: &Place, message: Message) -> Result<(), ChatGone> {
        let place = place.clone();
        self.ask(|done| Request::Reply { place, message, done }).await
    }

    /// Says something to one person only.
    ///
    /// # Errors
    /// [`ChatGone`].
    pub async fn whisper(
        &self,
        conversation: &Conversation,
        person: &PersonName,
        message: Message,
    ) -> Result<(), ChatGone> {
        let (conversation, person) = (conversation.clone(), person.clone());
        self.ask(|done| Request::Whisper { conversation, person, message, done }).await
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, ChatGone> {
        let (done, answer) = oneshot::channel();
        self.requests.send(request(done)).await.map_err(|_| ChatGone)?;
        answer.await.map_err(|_| ChatGone)
    }
}
