//! One feed, all threads: whatever happens to a deployment that somebody asked for here is shown where they asked.
//!
//! ```text
//!   Track (a deployment was taken) ──▶ post ──▶ Tracked ◀── feed: events
//!                                        ▲         │  ◀── learnt: views, a failure's last lines, usual durations
//!                     store: where it sits, told   ├──▶ reply (at once)
//!                                                  └──▶ edit (coalesced: at most one per message and `edit_every`)
//! ```
//! One task ([`Follower::run`]) owns everything; nothing is shared. Invariants: a reply is told once, also across restarts; the
//! last state of a message is always sent; a message that may still change is in the store. A view asked for after a
//! thread is registered closes the gap between the two.
//!
//! Limits: [`MAX_THREADS`] threads are followed, the oldest finished ones give way; [`MAX_LEARNING`] questions to the server
//! at once; after [`AWAY_AFTER`] without the server the messages say so.

mod learn;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sdp_core::api::{DeploymentCreated, DeploymentView};
use sdp_core::client::{Client, ClientError, EventFilter, FeedItem, FeedStream};
use sdp_core::deployment::{Outcome, State};
use sdp_core::event::{Event, EventKind};
use sdp_core::id::{DeploymentId, EventSeq};
use sdp_core::name::PersonName;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::chat::{Chat, ChatGone, Conversation, Place};
use crate::store::{Kept, Store, StoreError};
use crate::thread::{Due, Thread};

use learn::{Learnt, patiently};

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
    tracks: mpsc::Receiver<Track>,
    threads: HashMap<DeploymentId, Tracked>,
    feed: Option<FeedStream>,
    /// The last event that was read; none: the feed has not begun.
    cursor: Option<EventSeq>,
    cursor_saved: (Option<EventSeq>, Instant),
    away_since: Option<(Timestamp, Instant)>,
    learning: JoinSet<Learnt>,
    learning_slots: Arc<Semaphore>,
    next_tick: Option<Instant>,
}

#[derive(Debug)]
struct Tracked {
    thread: Thread,
    person: Option<PersonName>,
    place: Place,
    ended: Option<oneshot::Sender<bool>>,
    fingerprint: i64,
    dirty: bool,
    /// Whether the edit that is called the last one was sent.
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

impl Follower {
    /// A follower and the queue of what it is to follow.
    #[must_use]
    pub fn new(client: Client, chat: Chat, store: Store) -> (Self, mpsc::Sender<Track>) {
        let (tracks, queue) = mpsc::channel(TRACK_QUEUE);
        let follower = Self {
            client,
            chat,
            store,
            tracks: queue,
            threads: HashMap::new(),
            feed: None,
            cursor: None,
            cursor_saved: (None, Instant::now()),
            away_since: None,
            learning: JoinSet::new(),
            learning_slots: Arc::new(Semaphore::new(MAX_LEARNING)),
            next_tick: None,
        };
        (follower, tracks)
    }

    /// Follows until `shutdown`, until the chat has gone, or until nobody can ask for anything more and all is told.
    ///
    /// # Errors
    /// [`FollowError`]: the server refuses the feed for good, or the database fails at the start.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), FollowError> {
        self.restore().await?;
        let mut open = true;
        loop {
            if !open && self.threads.values().all(|tracked| tracked.thread.is_told() && !tracked.dirty) {
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
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => self.woken().await,
            };
            if step == Err(ChatGone) {
                break;
            }
            self.save_cursor(false).await;
        }
        self.save_cursor(true).await;
        self.learning.shutdown().await;
        Ok(())
    }

    /// After a restart: every message that may still change is brought up to date, whatever happened meanwhile.
    async fn restore(&mut self) -> Result<(), FollowError> {
        let kept = self.store.open_messages().await?;
        if !kept.is_empty() {
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
                Self::note_store(self.store.close(kept.deployment).await);
                return Ok(());
            }
        };
        let survives = self.chat.abilities.places_survive;
        let place = kept.place.filter(|_| survives);
        if place.is_none() && view.deployment.is_ended() && (!survives || kept.told.contains("end")) {
            Self::note_store(self.store.close(kept.deployment).await);
            return Ok(());
        }
        let told = if place.is_some() { kept.told } else { BTreeSet::new() };
        let mut thread = Thread::new(view.deployment.clone(), view.log_url.clone(), told);
        thread.catch_up(view);
        let (ended, _) = oneshot::channel();
        self.show(thread, kept.conversation, kept.person, place.map(|place| (place, kept.fingerprint)), ended)
            .await
    }

    async fn track(&mut self, track: Track) -> Result<(), ChatGone> {
        let Track { conversation, person, created, log_link, ended } = track;
        let id = created.id;
        if let Some(known) = self.threads.get_mut(&id) {
            // The same request again, by its idempotency key: the thread is there.
            known.ended.get_or_insert(ended);
            return self.advance(id).await;
        }
        Self::note_store(self.store.intend(id, conversation.clone(), person.clone()).await);
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
            Some(place) => place,
            None => {
                let root = thread.root(Timestamp::now());
                let fingerprint = root.fingerprint();
                (self.chat.post(&conversation, root, id).await?, fingerprint)
            }
        };
        // What the feed gave while this was on its way here is in the view that is asked for below.
        thread.await_view();
        let tracked = Tracked {
            thread,
            person,
            place,
            ended: Some(ended),
            fingerprint,
            dirty: false,
            closed: false,
            next_edit: Instant::now() + self.chat.abilities.edit_every,
            asking: Asking::default(),
        };
        self.give_way().await;
        self.threads.insert(id, tracked);
        self.save(id).await;
        self.ask_view(id);
        self.ask_usual(id);
        self.ask_instance(id);
        self.advance(id).await
    }

    /// Makes room: the oldest message that has been told to its end is not followed any more.
    async fn give_way(&mut self) {
        if self.threads.len() < MAX_THREADS {
            return;
        }
        let told = self.threads.iter().filter(|(_, tracked)| tracked.thread.is_told() && !tracked.dirty);
        if let Some(oldest) = told.map(|(id, _)| *id).min() {
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

    /// Tells what is due, and edits the message if it may be edited now; otherwise that is done when its time has come.
    async fn advance(&mut self, id: DeploymentId) -> Result<(), ChatGone> {
        let mut told = false;
        let mut ask_failure = false;
        if let Some(tracked) = self.threads.get_mut(&id) {
            tracked.dirty = true;
            for due in tracked.thread.due() {
                match due {
                    Due::Reply { key, message } => {
                        self.chat.reply(&tracked.place, message).await?;
                        tracked.thread.was_told(key);
                        told = true;
                    }
                    Due::LearnFailure => ask_failure = !std::mem::replace(&mut tracked.asking.failure, true),
                }
            }
        }
        if told {
            self.save(id).await;
        }
        if ask_failure {
            self.ask_failure(id);
        }
        self.edit(id).await
    }

    async fn edit(&mut self, id: DeploymentId) -> Result<(), ChatGone> {
        let Some(tracked) = self.threads.get_mut(&id) else { return Ok(()) };
        if tracked.dirty && Instant::now() >= tracked.next_edit {
            let root = tracked.thread.root(Timestamp::now());
            let fingerprint = root.fingerprint();
            tracked.dirty = false;
            let last = tracked.thread.is_told();
            if fingerprint != tracked.fingerprint || last && !tracked.closed {
                self.chat.update(&tracked.place, root, last).await?;
                tracked.fingerprint = fingerprint;
                tracked.closed = last;
                tracked.next_edit = Instant::now() + self.chat.abilities.edit_every;
                self.save(id).await;
            }
        }
        let Some(tracked) = self.threads.get_mut(&id) else { return Ok(()) };
        if tracked.dirty || !tracked.thread.is_told() {
            return Ok(());
        }
        if let Some(ended) = tracked.ended.take() {
            let succeeded = matches!(tracked.thread.deployment().outcome(), Some(Outcome::Succeeded {}));
            // Whoever asked may have gone.
            let _nobody_waits = ended.send(succeeded);
        }
        if tracked.thread.is_over() {
            self.save(id).await;
            self.threads.remove(&id);
        }
        Ok(())
    }

    /// When something has to be done though nothing happens: an edit that had to wait, a growing time, an absence.
    fn next_wake(&mut self) -> Option<Instant> {
        let edits = self.threads.values().filter(|tracked| tracked.dirty).map(|tracked| tracked.next_edit);
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
        self.say_away().await?;
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
        let over = tracked.thread.is_over() && !tracked.dirty;
        let saved =
            self.store.save(id, tracked.place.clone(), tracked.thread.told(), tracked.fingerprint, over);
        let saved = saved.await;
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
