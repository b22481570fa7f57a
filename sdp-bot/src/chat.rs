//! The seam between the bot and a chat: what a chat must be able to do, as a queue of requests.
//!
//! [`crate::follow`] and [`crate::bot`] hold a [`Chat`] and ask it to post, update, reply or whisper; whoever plays the
//! chat ([`crate::console`], [`crate::slack`]) reads the [`Request`]s, has its own pace and retries, and answers each when it
//! can be seen. There is no trait, because nothing is called; there is only a queue.
//!
//! A chat may be slow: [`crate::follow`] hands a request over and goes on ([`Chat::send`]), the others wait for the answer.
//! A chat reads its queue promptly all the same, and where a newer state of a message comes before the older one was shown,
//! it shows the newer one alone ([`Unseen::Superseded`]).
//!
//! Limit: at most [`QUEUE`] requests wait to be read; then the asker waits. A chat that has gone answers with [`ChatGone`].

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use sdp_core::id::{BatchId, DeploymentId, InvalidId};
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

/// Whose story a message tells: a deployment's, or that of several which were asked for together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum About {
    /// One deployment.
    Deployment(DeploymentId),
    /// Several.
    Batch(BatchId),
}

impl About {
    /// The deployment, if it is one.
    #[must_use]
    pub fn deployment(self) -> Option<DeploymentId> {
        match self {
            Self::Deployment(id) => Some(id),
            Self::Batch(_) => None,
        }
    }

    fn order(self) -> (uuid::Uuid, bool) {
        match self {
            Self::Deployment(id) => (id.as_uuid(), false),
            Self::Batch(id) => (id.as_uuid(), true),
        }
    }
}

impl From<DeploymentId> for About {
    fn from(id: DeploymentId) -> Self {
        Self::Deployment(id)
    }
}

impl From<BatchId> for About {
    fn from(id: BatchId) -> Self {
        Self::Batch(id)
    }
}

/// By creation.
impl Ord for About {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for About {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What stands behind the id of a batch, so that ids sort by creation as text, too.
const BATCH: &str = "+batch";

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deployment(id) => id.fmt(f),
            Self::Batch(id) => write!(f, "{id}{BATCH}"),
        }
    }
}

impl FromStr for About {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_suffix(BATCH) {
            Some(id) => id.parse().map(Self::Batch),
            None => text.parse().map(Self::Deployment),
        }
    }
}

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
    /// It has a pace of its own: a deployment's message that waits to be posted may be posted anew, and the newest state
    /// is; a message that says what it is to say needs no edit that calls it the last.
    pub paced: bool,
}

/// What is answered when people can see it.
pub type Seen<T> = Result<T, Unseen>;

/// Why something was not shown, though the chat goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unseen {
    /// A newer state of the same message took its place before it was shown.
    #[error("a newer state took its place")]
    Superseded,
    /// The chat does not take this state of it; the message is there all the same.
    #[error("the chat does not take this")]
    Refused,
    /// The message or its conversation is not there any more, or the chat does not take it.
    #[error("the chat does not take it")]
    Impossible,
}

/// Names a reply, so that it can be found again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// In the thread of which story.
    pub about: About,
    /// Its key within the thread.
    pub key: String,
}

/// What a chat finds of a deployment whose message may be there although nobody wrote down where, or what was told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recalled {
    /// Where its message sits.
    pub place: Option<Place>,
    /// Keys of the replies that are in its thread.
    pub told: BTreeSet<String>,
}

/// What a chat is asked to do. Each request is answered when people can see it.
#[derive(Debug)]
pub enum Request {
    /// A new message.
    Post {
        /// Where.
        conversation: Conversation,
        /// Who asked: where nothing may be posted there, it is told to them alone.
        person: Option<PersonName>,
        /// What.
        message: Message,
        /// The story whose message it is, so that replies and edits will follow; it goes into the message's metadata
        /// where a chat has that. The same again takes the place of the one that waits ([`Abilities::paced`]). None: an answer.
        about: Option<About>,
        /// Whether edits and replies will follow; otherwise it is said once.
        changes: bool,
        /// Where it sits then.
        done: oneshot::Sender<Seen<Place>>,
    },
    /// A message in place of the one that is there.
    Update {
        /// Which.
        place: Place,
        /// What it says now.
        message: Message,
        /// The story whose message it is.
        about: Option<About>,
        /// Whether it will hardly change again.
        last: bool,
        /// Done.
        done: oneshot::Sender<Seen<()>>,
    },
    /// A message in the thread of another.
    Reply {
        /// Of which.
        place: Place,
        /// What.
        message: Message,
        /// Its name, which goes into its metadata where a chat has that.
        name: Reply,
        /// Done.
        done: oneshot::Sender<Seen<()>>,
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
        done: oneshot::Sender<Seen<()>>,
    },
    /// Something to one person, who did not ask for it.
    Direct {
        /// Who.
        person: PersonName,
        /// What.
        message: Message,
        /// Its name, which goes into its metadata where a chat has that.
        name: String,
        /// It may be there already, since then: the chat looks before it says it again.
        since: Option<Timestamp>,
        /// Done.
        done: oneshot::Sender<Seen<()>>,
    },
    /// What is there already of a story that was to be shown when the bot ended.
    Recall {
        /// Which.
        about: About,
        /// Where it was to be posted.
        conversation: Conversation,
        /// Who asked.
        person: Option<PersonName>,
        /// Where its message sits, if that is known: then only its replies are looked for.
        place: Option<Place>,
        /// It cannot be older than this.
        since: Timestamp,
        /// What was found.
        done: oneshot::Sender<Recalled>,
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

    /// Hands a request over, without waiting for what comes of it.
    ///
    /// # Errors
    /// [`ChatGone`].
    pub async fn send<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<oneshot::Receiver<T>, ChatGone> {
        let (done, answer) = oneshot::channel();
        self.requests.send(request(done)).await.map_err(|_| ChatGone)?;
        Ok(answer)
    }

    /// Says something, once.
    ///
    /// # Errors
    /// [`ChatGone`].
    pub async fn say(&self, conversation: &Conversation, message: Message) -> Result<Seen<()>, ChatGone> {
        let conversation = conversation.clone();
        let said = self.ask(|done| Request::Post {
            conversation,
            person: None,
            message,
            about: None,
            changes: false,
            done,
        });
        Ok(said.await?.map(drop))
    }

    /// Answers somebody, once; alone, where nothing may be posted there.
    ///
    /// # Errors
    /// [`ChatGone`].
    pub async fn answer(
        &self,
        conversation: &Conversation,
        person: &PersonName,
        message: Message,
    ) -> Result<Seen<()>, ChatGone> {
        let (conversation, person) = (conversation.clone(), Some(person.clone()));
        let said = self.ask(|done| Request::Post {
            conversation,
            person,
            message,
            about: None,
            changes: false,
            done,
        });
        Ok(said.await?.map(drop))
    }

    /// Posts an answer that will be edited.
    ///
    /// # Errors
    /// [`ChatGone`].
    pub async fn show(&self, conversation: &Conversation, message: Message) -> Result<Seen<Place>, ChatGone> {
        let conversation = conversation.clone();
        self.ask(|done| Request::Post {
            conversation,
            person: None,
            message,
            about: None,
            changes: true,
            done,
        })
        .await
    }

    /// Edits a message.
    ///
    /// # Errors
    /// [`ChatGone`].
    pub async fn update(&self, place: &Place, message: Message, last: bool) -> Result<Seen<()>, ChatGone> {
        let place = place.clone();
        self.ask(|done| Request::Update { place, message, about: None, last, done }).await
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
    ) -> Result<Seen<()>, ChatGone> {
        let (conversation, person) = (conversation.clone(), person.clone());
        self.ask(|done| Request::Whisper { conversation, person, message, done }).await
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, ChatGone> {
        self.send(request).await?.await.map_err(|_| ChatGone)
    }
}
