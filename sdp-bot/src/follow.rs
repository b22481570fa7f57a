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
//! say.
//!
//! Limits: [`MAX_THREADS`] threads are followed, the oldest finished ones give way; [`MAX_LEARNING`] questions to the server
//! at once; after [`AWAY_AFTER`] without the server the messages say so.

mod learn;
mod tell;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sdp_core::api::{DeploymentCreated, DeploymentView};
use sdp_core::client::{Client, ClientError, EventFilter, FeedItem, FeedStream};
use sdp_core::deployment::State;
use sdp_core::event::{Event, EventKind};
use sdp_core::id::{DeploymentId, EventSeq};
use sdp_core::name::{PersonName, ServiceName};
use sdp_core::principal::Principal;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::chat::{Chat, ChatGone, Conversation, Place};
use crate::store::{Kept, Store, StoreError};
use crate::thread::Thread;

use learn::{Learnt, patiently};
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
    pub created: DeploymentCreated,
    /// A link to its log that signs in once.
    pub log_link: Option<Url>,
    /// Told when it has ended and its thread says so: whether it succeeded.
    pub ended: oneshot::Sender<bool>,
}

/// Where deployments are told that nobody asked for in a chat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    /// Those of these services.
    pub services: HashMap<ServiceName, Conversation>,
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
    threads: HashMap<DeploymentId, Tracked>,
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
    thread: Thread,
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
    asking: Asking,
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
        self.thread.is_told() && !self.dirty && self.sent.is_none() && self.telling.is_empty()
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
            let intended = self.store.intend(track.created.id, track.conversation, track.person).await;
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

    /// After a restart: every message that may still change is brought up to date, whatever happened meanwhile.
    async fn restore(&mut self) -> Result<(), FollowError> {
        let kept = self.store.open_messages().await?;
        if !kept.is_empty() || self.channels.is_some() {
            self.cursor = self.store.cursor().await?;
        }
        for kept in kept {
            let client = self.client.clone();
            self.learn(async move {
                let view = patiently(|| client.deployment(kept.deployment.into())).await;
                Learnt::Restored(Box::new(kept), view.map(Box::new))
            });
        }
        if let Some(cursor) = self.cursor {
            self.begin_feed(cursor);
        } else if self.channels.is_some() {
            self.feed = Some(self.client.feed_from_now(EventFilter::default()));
        }
        Ok(())
    }

    async fn restored(
        &mut self,
        kept: Kept,
        view: Result<Box<DeploymentView>, ClientError>,
    ) -> Result<(), ChatGone> {
        let view = match view {
            Ok(view) => *view,
            Err(error) => {
                tracing::warn!(deployment.id = %kept.deployment, code = error.code(), "a message cannot be brought up to date");
                // Whatever else the server says may be otherwise at the next start.
                if error.problem().is_some_and(|problem| problem.status == 404) {
                    Self::note_store(self.store.close(kept.deployment).await);
                }
                return Ok(());
            }
        };
        let survives = self.chat.abilities.places_survive;
        let kept = Kept { place: kept.place.filter(|_| survives), ..kept };
        if kept.place.is_none() && view.deployment.is_ended() && (!survives || kept.told.contains("end")) {
            Self::note_store(self.store.close(kept.deployment).await);
            return Ok(());
        }
        // What was being said when the bot ended may be there although it was not written down.
        if survives && (kept.place.is_none() || !kept.told.contains("end")) {
            return self.recall(kept, view).await;
        }
        self.resume(kept, view).await
    }

    /// Takes up a message as it was left.
    async fn resume(&mut self, kept: Kept, view: DeploymentView) -> Result<(), ChatGone> {
        let told = if kept.place.is_some() { kept.told } else { BTreeSet::new() };
        let mut thread = Thread::new(view.deployment.clone(), view.log_url.clone(), told);
        thread.catch_up(view);
        let (ended, _) = oneshot::channel();
        let place = kept.place.map(|place| (place, kept.fingerprint));
        self.show(thread, kept.conversation, kept.person, place, ended).await
    }

    async fn track(&mut self, track: Track) -> Result<(), ChatGone> {
        let Track { conversation, person, created, log_link, ended } = track;
        let id = created.id;
        if let Some(known) = self.threads.get_mut(&id) {
            // The same request again, by its idempotency key: the thread is there.
            known.ended.get_or_insert(ended);
            return self.advance(id).await;
        }
        match self.store.intend(id, conversation.clone(), person.clone()).await {
            // Its thread was told to the end long ago, and the same request came again.
            Ok(false) => return Ok(()),
            Ok(true) => {}
            Err(error) => Self::note_store(Err(error)),
        }
        let version = created.deployment.version;
        let mut thread = Thread::new(created.deployment, created.log_url, BTreeSet::new());
        thread.facts.log_link = log_link;
        self.show(thread, conversation, person, None, ended).await?;
        if self.feed.is_none() {
            self.begin_feed(version);
        }
        Ok(())
    }

    /// Posts the thread's root, unless it is there already, and follows it from now on.
    async fn show(
        &mut self,
        mut thread: Thread,
        conversation: Conversation,
        person: Option<PersonName>,
        place: Option<(Place, i64)>,
        ended: oneshot::Sender<bool>,
    ) -> Result<(), ChatGone> {
        let id = thread.deployment().id;
        thread.facts.asked_by = match (&person, thread.deployment().requested_by.as_person()) {
            (None, Some(account)) => chat_user_of(&self.store, account).await,
            _ => person.clone(),
        };
        let (place, fingerprint) = match place {
            Some((place, fingerprint)) => (Some(place), fingerprint),
            None => (None, 0),
        };
        // What the feed gave while this was on its way here is in the view that is asked for below.
        thread.await_view();
        let tracked = Tracked {
            thread,
            conversation,
            person,
            place,
            ended: Some(ended),
            fingerprint,
            sent: None,
            telling: BTreeSet::new(),
            dirty: false,
            closed: false,
            next_edit: Instant::now() + self.chat.abilities.edit_every,
            asking: Asking::default(),
        };
        self.give_way().await;
        self.threads.insert(id, tracked);
        self.post(id).await?;
        self.save(id).await;
        self.ask_view(id);
        self.ask_usual(id);
        self.ask_instance(id);
        self.advance(id).await
    }

    /// Makes room: the oldest message that has been told to its end is not followed any more.
    async fn give_way(&mut self) {
        while self.threads.len() >= MAX_THREADS {
            let told = self.threads.iter().filter(|(_, tracked)| tracked.is_settled());
            let Some(oldest) = told.map(|(id, _)| *id).min() else { return };
            self.threads.remove(&oldest);
            Self::note_store(self.store.close(oldest).await);
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
                self.threads.values_mut().for_each(|tracked| tracked.thread.await_view());
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
        if let Some(conversation) = self.to_be_told(event)
            && let Some(id) = event.about.deployment
        {
            self.tell_of(id, conversation).await;
        }
        for id in self.ids() {
            let Some(tracked) = self.threads.get_mut(&id) else { continue };
            let queued = matches!(tracked.thread.deployment().state, State::Queued {});
            if moves_agents && !tracked.thread.deployment().is_ended() {
                self.ask_view(id);
                continue;
            }
            if tracked.thread.apply(event) {
                self.advance(id).await?;
            } else if moves_queue && queued {
                self.ask_view(id);
            }
        }
        Ok(())
    }

    /// Where a deployment is to be told that nobody asked for here.
    fn to_be_told(&self, event: &Event) -> Option<Conversation> {
        let channels = self.channels.as_ref()?;
        let EventKind::DeploymentRequested { service, notify, .. } = &event.kind else { return None };
        match (notify, &event.by) {
            (Some(notify), _) => Some(Conversation(match notify.channel.plain_name() {
                Some(name) => format!("#{name}"),
                None => notify.channel.to_string(),
            })),
            // Who asked in a chat hears it there.
            (None, Principal::Bot { .. }) => None,
            (None, _) => channels.services.get(service).cloned(),
        }
    }

    async fn connected(&mut self) -> Result<(), ChatGone> {
        if self.cursor.is_none() {
            for id in self.ids() {
                self.ask_view(id);
                self.ask_instance(id);
            }
        }
        if self.away_since.take().is_none() {
            return Ok(());
        }
        tracing::info!("the server is back");
        for id in self.ids() {
            if let Some(tracked) = self.threads.get_mut(&id)
                && tracked.thread.facts.away_since.take().is_some()
            {
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
            if let Some(tracked) = self.threads.get_mut(&id)
                && !tracked.thread.deployment().is_ended()
            {
                tracked.thread.facts.away_since = Some(since);
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
            Some(tick) if self.threads.values().any(|tracked| tracked.thread.ticks()) => {
                Some(self.next_tick.unwrap_or_else(|| Instant::now() + tick))
            }
            _ => None,
        };
        edits.chain(away).chain(self.next_tick).min()
    }

    async fn woken(&mut self) -> Result<(), ChatGone> {
        // Once it has been away for a while; then its length grows with the ticks.
        let unsaid = |tracked: &Tracked| {
            tracked.thread.facts.away_since.is_none() && !tracked.thread.deployment().is_ended()
        };
        if self.threads.values().any(unsaid) {
            self.say_away().await?;
        }
        let tick = self.next_tick.is_some_and(|at| at <= Instant::now());
        if tick {
            self.next_tick = None;
        }
        for id in self.ids() {
            if let Some(tracked) = self.threads.get_mut(&id) {
                tracked.dirty |= tick && tracked.thread.ticks();
            }
            self.edit(id).await?;
        }
        Ok(())
    }

    fn ids(&self) -> Vec<DeploymentId> {
        self.threads.keys().copied().collect()
    }

    async fn save(&mut self, id: DeploymentId) {
        let Some(tracked) = self.threads.get(&id) else { return };
        let Some(place) = tracked.place.clone() else { return };
        let over = tracked.thread.is_over() && tracked.is_settled();
        let saved = self.store.save(id, place, tracked.thread.told(), tracked.fingerprint, over).await;
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

/// Who of this chat has an account; none if that is not known.
async fn chat_user_of(store: &Store, account: &PersonName) -> Option<PersonName> {
    store.chat_user_of(account).await.unwrap_or_else(|error| {
        Follower::note_store(Err(error));
        None
    })
}

/// Never ready while there is no feed.
async fn next(feed: &mut Option<FeedStream>) -> Option<Result<FeedItem, ClientError>> {
    match feed {
        Some(feed) => feed.next().await,
        None => std::future::pending().await,
    }
}
