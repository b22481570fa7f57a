//! One feed, all threads: whatever happens to a deployment that somebody asked for here is shown where they asked.
//!
//! ```text
//!   Track (a deployment was taken) ──▶ Tracked ◀── feed: events
//!                                         │    ◀── learnt: views, a failure's last lines, usual durations
//!                                         ├──▶ post ─────┐
//!                                         ├──▶ reply ────┼──▶ chat ──▶ seen: where it sits, what was told ──▶ store
//!                                         └──▶ edit ─────┘    (coalesced: at most one per message and `edit_every`)
//! ```
//! One task ([`Follower::run`]) owns everything; nothing is shared, and nothing waits for a slow chat: what was handed over is
//! remembered in `Tracked` until it was seen. Invariants: a reply is told once, also across restarts (the chat is asked what
//! is there before anything is said again); the last state of a message is always sent; a message that may still change is
//! in the store. A view asked for after a thread is registered closes the gap between the two.
//!
//! Deployments that nobody asked for in a chat (CI's) are told in the channel that their request names, else where [`Channels`]
//! say. What concerns one person though they did not ask (a sandbox ends, a lock was taken away) is told to them alone (`notice`).
//!
//! A story is that of one deployment, or of several that were asked for together ([`Story`]); what follows is the same for both.
//!
//! Limits: [`MAX_THREADS`] threads are followed, the oldest finished ones give way; [`MAX_LEARNING`] questions to the server
//! at once; after [`AWAY_AFTER`] without the server the messages say so.

mod channels;
mod learn;
mod notice;
mod restore;
mod tell;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sdp_core::client::{Client, ClientError, EventFilter, FeedItem, FeedStream};
use sdp_core::deployment::State;
use sdp_core::event::{Event, EventKind};
use sdp_core::id::{DeploymentId, EventSeq};
use sdp_core::name::PersonName;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::chat::{About, Chat, ChatGone, Conversation, Place};
use crate::store::{Store, StoreError};
use crate::story::{Begun, Story};

pub use channels::Channels;
use learn::Learnt;
use tell::Told;

/// How many threads are followed.
pub const MAX_THREADS: usize = 1000;
/// How many questions to the server are open at once.
pub const MAX_LEARNING: usize = 8;
/// How many deployments may wait to be followed.
pub const TRACK_QUEUE: usize = 64;
/// How long the server may be away before messages say so.
pub const AWAY_AFTER: Duration = Duration::from_secs(5);
/// How many lines of a failed deployment's log are shown.
pub const TAIL_LINES: u32 = 15;
/// How long what was handed to the chat may take at the end.
const LEAVE: Duration = Duration::from_secs(5);
/// How often the place in the feed is written down.
const SAVE_CURSOR_EVERY: Duration = Duration::from_secs(1);

/// A deployment that somebody asked for, to be followed from now on.
#[derive(Debug)]
pub struct Track {
    /// Where they asked.
    pub conversation: Conversation,
    /// Who.
    pub person: Option<PersonName>,
    /// What the server answered.
    pub begun: Begun,
    /// A link to its log that signs in once.
    pub log_link: Option<Url>,
    /// Told when it has ended and its thread says so: whether it succeeded.
    pub ended: oneshot::Sender<bool>,
}

/// Following has ended although nobody asked for that.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// The server refuses the feed: a token that is not valid any more.
    #[error("the server refuses the event feed")]
    Feed(#[source] ClientError),
    /// The bot's own database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Follows the feed and drives all threads; see the module.
#[derive(Debug)]
pub struct Follower {
    client: Client,
    chat: Chat,
    store: Store,
    /// None: only what was asked for here is told.
    channels: Option<Channels>,
    tracks: mpsc::Receiver<Track>,
    threads: HashMap<About, Tracked>,
    /// Which deployment is told in which story.
    stories: HashMap<DeploymentId, About>,
    /// Whether people are told what concerns them though they did not ask.
    notices: bool,
    /// How many of those whom an event concerns have not seen it yet.
    noticing: HashMap<EventSeq, usize>,
    feed: Option<FeedStream>,
    /// The last event that was read; none: the feed has not begun.
    cursor: Option<EventSeq>,
    cursor_saved: (Option<EventSeq>, Instant),
    away_since: Option<(Timestamp, Instant)>,
    /// What was handed to the chat and not seen yet.
    telling: JoinSet<Result<Told, ChatGone>>,
    learning: JoinSet<Learnt>,
    learning_slots: Arc<Semaphore>,
    next_tick: Option<Instant>,
}

#[derive(Debug)]
struct Tracked {
    story: Story,
    conversation: Conversation,
    person: Option<PersonName>,
    /// None: its message is on its way.
    place: Option<Place>,
    ended: Option<oneshot::Sender<bool>>,
    /// Of what its message says.
    fingerprint: i64,
    /// Of the newest post or edit that was handed over and not seen yet.
    sent: Option<i64>,
    /// Replies that were handed over and not seen yet.
    telling: BTreeSet<String>,
    dirty: bool,
    /// Whether the edit that is called the last one was seen.
    closed: bool,
    next_edit: Instant,
    /// Of each deployment.
    asking: HashMap<DeploymentId, Asking>,
}

/// Which questions are open, so that none is asked twice.
#[derive(Debug, Default, Clone, Copy)]
struct Asking {
    view: bool,
    view_again: bool,
    failure: bool,
}

impl Tracked {
    /// Whether it is told to its end, and all of it was seen.
    fn is_settled(&self) -> bool {
        self.story.is_told() && !self.dirty && self.sent.is_none() && self.telling.is_empty()
    }
}

impl Follower {
    /// A follower and the queue of what it is to follow.
    #[must_use]
    pub fn new(client: Client, chat: Chat, store: Store) -> (Self, mpsc::Sender<Track>) {
        let (tracks, queue) = mpsc::channel(TRACK_QUEUE);
        let follower = Self {
            client,
            chat,
            store,
            channels: None,
            tracks: queue,
            threads: HashMap::new(),
            stories: HashMap::new(),
            notices: false,
            noticing: HashMap::new(),
            feed: None,
            cursor: None,
            cursor_saved: (None, Instant::now()),
            away_since: None,
            telling: JoinSet::new(),
            learning: JoinSet::new(),
            learning_slots: Arc::new(Semaphore::new(MAX_LEARNING)),
            next_tick: None,
        };
        (follower, tracks)
    }

    /// Tells deployments that nobody asked for in a chat, too.
    #[must_use]
    pub fn telling(mut self, channels: Channels) -> Self {
        self.channels = Some(channels);
        self
    }

    /// Tells people what concerns them though they did not ask, too.
    #[must_use]
    pub fn with_notices(mut self) -> Self {
        self.notices = true;
        self
    }

    /// Follows until `shutdown`, until the chat has gone, or until nobody can ask for anything more and all is told.
    ///
    /// # Errors
    /// [`FollowError`]: the server refuses the feed for good, or the database fails at the start.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), FollowError> {
        self.restore().await?;
        let mut open = true;
        loop {
            if !open && self.threads.values().all(Tracked::is_settled) {
                break;
            }
            let wake = self.next_wake();
            let step = tokio::select! {
                () = shutdown.cancelled() => break,
                track = self.tracks.recv(), if open => match track {
                    Some(track) => self.track(track).await,
                    None => { open = false; Ok(()) }
                },
                item = next(&mut self.feed), if self.feed.is_some() => self.feed_item(item).await?,
                Some(learnt) = self.learning.join_next(), if !self.learning.is_empty() => match learnt {
                    Ok(learnt) => self.learnt(learnt).await,
                    Err(error) => { tracing::error!(%error, "a question to the server broke off"); Ok(()) }
                },
                Some(told) = self.telling.join_next(), if !self.telling.is_empty() => match told {
                    Ok(Ok(told)) => self.told(told).await,
                    Ok(Err(gone)) => Err(gone),
                    Err(error) => { tracing::error!(%error, "telling broke off"); Ok(()) }
                },
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => self.woken().await,
            };
            if step == Err(ChatGone) {
                break;
            }
            self.save_cursor(false).await;
        }
        self.leave().await;
        Ok(())
    }

    /// Writes down what is known: what was promised and not begun, what the chat has shown by now.
    async fn leave(&mut self) {
        self.tracks.close();
        while let Ok(track) = self.tracks.try_recv() {
            let intended = self.store.intend(track.begun.about(), track.conversation, track.person).await;
            Self::note_store(intended.map(drop));
        }
        self.save_cursor(true).await;
        self.learning.shutdown().await;
        let seeing = async {
            while let Some(told) = self.telling.join_next().await {
                if let Ok(Ok(told)) = told {
                    self.note_told(told).await;
                }
            }
        };
        drop(timeout(LEAVE, seeing).await);
        self.telling.shutdown().await;
    }

    /// Makes room: the oldest message that has been told to its end is not followed any more.
    async fn give_way(&mut self) {
        while self.threads.len() >= MAX_THREADS {
            let told = self.threads.iter().filter(|(_, tracked)| tracked.is_settled());
            let Some(oldest) = told.map(|(id, _)| *id).min() else { return };
            self.forget(oldest);
            Self::note_store(self.store.close(oldest).await);
        }
    }

    fn forget(&mut self, id: About) {
        if let Some(tracked) = self.threads.remove(&id) {
            for thread in tracked.story.threads() {
                self.stories.remove(&thread.deployment().id);
            }
        }
    }

    fn begin_feed(&mut self, after: EventSeq) {
        self.cursor = Some(after);
        self.feed = Some(self.client.feed(after, EventFilter::default()));
    }

    async fn feed_item(
        &mut self,
        item: Option<Result<FeedItem, ClientError>>,
    ) -> Result<Result<(), ChatGone>, FollowError> {
        match item {
            Some(Ok(FeedItem::Event(event))) => Ok(self.event(&event).await),
            Some(Ok(FeedItem::Connected)) => Ok(self.connected().await),
            Some(Ok(FeedItem::Away { error, retry_in })) => {
                if self.away_since.is_none() {
                    tracing::warn!(code = error.code(), error = %error, ?retry_in, "the server is away");
                    self.away_since = Some((Timestamp::now(), Instant::now()));
                }
                Ok(self.say_away().await)
            }
            Some(Ok(_)) => Ok(Ok(())),
            Some(Err(error)) if error.problem().is_some_and(|problem| problem.status == 410) => {
                // Older than what the server keeps: from now on; how things stand is asked once it is connected.
                tracing::warn!("the feed's beginning is gone; taking up every message as it stands");
                self.cursor = None;
                self.feed = Some(self.client.feed_from_now(EventFilter::default()));
                self.threads.values_mut().for_each(|tracked| tracked.story.await_views());
                Ok(Ok(()))
            }
            // Nothing was promised: whoever asks for something is told.
            Some(Err(error)) if self.threads.is_empty() && self.channels.is_none() => {
                tracing::warn!(code = error.code(), "the server refuses the event feed");
                self.feed = None;
                Ok(Ok(()))
            }
            Some(Err(error)) => Err(FollowError::Feed(error)),
            None => {
                self.feed = None;
                Ok(Ok(()))
            }
        }
    }

    async fn event(&mut self, event: &Event) -> Result<(), ChatGone> {
        self.cursor = self.cursor.max(Some(event.seq));
        let moves_queue = matches!(
            event.kind,
            EventKind::DeploymentEnded { .. }
                | EventKind::DeploymentSent { .. }
                | EventKind::StepStarted { .. }
        );
        let moves_agents = matches!(
            event.kind,
            EventKind::AgentConnected { .. }
                | EventKind::AgentDisconnected {}
                | EventKind::AgentDrained {}
                | EventKind::AgentResumed {}
                | EventKind::AgentForgotten {}
        );
        if let Some((id, conversation)) = self.to_be_told(event) {
            self.tell_of(id, conversation).await;
        }
        self.notice(event).await;
        for id in self.ids() {
            let Some(tracked) = self.threads.get_mut(&id) else { continue };
            let mut ask = Vec::new();
            let mut changed = false;
            for thread in tracked.story.threads_mut() {
                let deployment = thread.deployment();
                let (queued, ended) = (matches!(deployment.state, State::Queued {}), deployment.is_ended());
                let deployment = deployment.id;
                if moves_agents && !ended {
                    ask.push(deployment);
                } else if thread.apply(event) {
                    changed = true;
                } else if moves_queue && queued {
                    ask.push(deployment);
                }
            }
            for deployment in ask {
                self.ask_view(deployment);
            }
            if changed {
                self.advance(id).await?;
            }
        }
        Ok(())
    }

    async fn connected(&mut self) -> Result<(), ChatGone> {
        if self.cursor.is_none() {
            for id in self.stories.keys().copied().collect::<Vec<_>>() {
                self.ask_view(id);
                self.ask_instance(id);
            }
        }
        if self.away_since.take().is_none() {
            return Ok(());
        }
        tracing::info!("the server is back");
        for id in self.ids() {
            if self.threads.get_mut(&id).is_some_and(|tracked| tracked.story.away(None)) {
                self.advance(id).await?;
            }
        }
        Ok(())
    }

    async fn say_away(&mut self) -> Result<(), ChatGone> {
        let Some((since, began)) = self.away_since.filter(|(_, began)| began.elapsed() >= AWAY_AFTER) else {
            return Ok(());
        };
        tracing::debug!(away = ?began.elapsed(), "the server is still away");
        for id in self.ids() {
            if self.threads.get_mut(&id).is_some_and(|tracked| tracked.story.away(Some(since))) {
                self.advance(id).await?;
            }
        }
        Ok(())
    }

    /// When something has to be done though nothing happens: an edit that had to wait, a growing time, an absence.
    fn next_wake(&mut self) -> Option<Instant> {
        let edits = self
            .threads
            .values()
            .filter(|tracked| tracked.dirty && (tracked.place.is_some() || self.chat.abilities.paced))
            .map(|tracked| tracked.next_edit);
        let away = self.away_since.map(|(_, began)| began + AWAY_AFTER).filter(|at| *at > Instant::now());
        self.next_tick = match self.chat.abilities.tick {
            Some(tick) if self.threads.values().any(|tracked| tracked.story.ticks()) => {
                Some(self.next_tick.unwrap_or_else(|| Instant::now() + tick))
            }
            _ => None,
        };
        edits.chain(away).chain(self.next_tick).min()
    }

    async fn woken(&mut self) -> Result<(), ChatGone> {
        // Once it has been away for a while; then its length grows with the ticks.
        if self.threads.values().any(|tracked| tracked.story.knows_nothing_of_absence()) {
            self.say_away().await?;
        }
        let tick = self.next_tick.is_some_and(|at| at <= Instant::now());
        if tick {
            self.next_tick = None;
        }
        for id in self.ids() {
            if let Some(tracked) = self.threads.get_mut(&id) {
                tracked.dirty |= tick && tracked.story.ticks();
            }
            self.edit(id).await?;
        }
        Ok(())
    }

    fn ids(&self) -> Vec<About> {
        self.threads.keys().copied().collect()
    }

    async fn save(&mut self, id: About) {
        let Some(tracked) = self.threads.get(&id) else { return };
        let Some(place) = tracked.place.clone() else { return };
        let over = tracked.story.is_over() && tracked.is_settled();
        let saved = self.store.save(id, place, tracked.story.told(), tracked.fingerprint, over).await;
        Self::note_store(saved);
    }

    async fn save_cursor(&mut self, now: bool) {
        let (saved, at) = self.cursor_saved;
        if let Some(cursor) = self.cursor
            && Some(cursor) != saved
            && (now || at.elapsed() >= SAVE_CURSOR_EVERY)
        {
            let result = self.store.save_cursor(cursor).await;
            Self::note_store(result);
            self.cursor_saved = (Some(cursor), Instant::now());
        }
    }

    /// A database that fails must not silence the bot: what it shows is right all the same.
    fn note_store(result: Result<(), StoreError>) {
        if let Err(error) = result {
            tracing::error!(error = %error, source = ?std::error::Error::source(&error), "the bot's database failed");
        }
    }
}

/// Never ready while there is no feed.
async fn next(feed: &mut Option<FeedStream>) -> Option<Result<FeedItem, ClientError>> {
    match feed {
        Some(feed) => feed.next().await,
        None => std::future::pending().await,
    }
}
