//! Everything that the bot says in Slack, at the pace that Slack allows: this plays the [`crate::chat::Chat`].
//!
//! ```text
//!   Requests ─┬─ post, reply, whisper ─▶ a lane for each channel ─┐
//!             ├─ update ─▶ one edit for each message, the newest ─┼─▶ calls ─▶ Slack ─▶ done, or again later
//!             └─ recall ─▶ one after the other ───────────────────┘
//! ```
//! One task owns everything; each call to Slack is a small task of its own. Invariants: of one channel one post is under way at a
//! time, of one message one edit; of the edits that wait for a message the newest counts, and the last state goes before
//! others; what Slack did not answer is looked for before it is said again; what cannot be said is told to whoever asked,
//! and nothing waits for it.
//!
//! Limits: [`MAX_CALLS`] calls at once, [`lane::MAX_JOBS`] posts wait in a channel, [`Rates`] between calls; at the end
//! what is under way has [`GRACE`].

mod call;
mod edits;
mod lane;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::pace::{Pace, Rates, pause};
use super::place::{At, channel_of};
use super::web::{Web, WebError};
use crate::chat::{About, Place, Recalled, Request, Unseen};

use call::{Called, Wanted};
use edits::{Edit, Edits};
use lane::{Done, Job, Kind, Lane, MAX_JOBS};

/// How many calls are under way at once.
pub(super) const MAX_CALLS: usize = 16;
/// How long what is under way may take at the end.
const GRACE: Duration = Duration::from_secs(5);
/// Of how many stories it is remembered that their message was posted.
const MAX_ROOTS: usize = 2000;
/// An answer is tried so often; a deployment's message and its story until they are there.
const MAX_TRIES: u32 = 6;

/// Plays the chat; see the module.
pub(super) struct Outbox {
    web: Arc<Web>,
    rates: Rates,
    requests: mpsc::Receiver<Request>,
    lanes: HashMap<String, Lane>,
    all_posts: Pace,
    /// Ids of channels that were given by name, as Slack said when something was posted there.
    ids: HashMap<String, String>,
    /// Deployments whose message waits, is being posted or was, the newest last.
    roots: VecDeque<About>,
    edits: Edits,
    recalls: VecDeque<Recall>,
    recalling: bool,
    looks: Pace,
    calls: JoinSet<Called>,
}

struct Recall {
    wanted: Wanted,
    done: oneshot::Sender<Recalled>,
}

impl Outbox {
    pub(super) fn new(web: Arc<Web>, rates: Rates, requests: mpsc::Receiver<Request>) -> Self {
        let now = Instant::now();
        Self {
            web,
            rates,
            requests,
            lanes: HashMap::new(),
            all_posts: Pace::new(rates.all_posts_every, Rates::ALL_POSTS_BURST, now),
            ids: HashMap::new(),
            roots: VecDeque::new(),
            edits: Edits::new(Pace::new(rates.edit_every, Rates::EDIT_BURST, now)),
            recalls: VecDeque::new(),
            recalling: false,
            looks: Pace::new(rates.edit_every, Rates::EDIT_BURST, now),
            calls: JoinSet::new(),
        }
    }

    /// Says what it is asked to, until `shutdown`.
    ///
    /// # Errors
    /// [`WebError::Barred`]: Slack knows the app no more.
    pub(super) async fn run(mut self, shutdown: CancellationToken) -> Result<(), WebError> {
        let result = loop {
            let now = Instant::now();
            self.begin(now);
            let wake = self.next_wake(now);
            tokio::select! {
                () = shutdown.cancelled() => break Ok(()),
                request = self.requests.recv() => match request {
                    Some(request) => self.take(request),
                    None => break Ok(()),
                },
                Some(called) = self.calls.join_next(), if !self.calls.is_empty() => {
                    if let Err(barred) = self.called(called) {
                        break Err(barred);
                    }
                }
                () = sleep_until(wake.unwrap_or(now)), if wake.is_some() => {}
            }
        };
        let ending = async {
            while let Some(called) = self.calls.join_next().await {
                drop(self.called(called));
            }
        };
        if timeout(GRACE, ending).await.is_err() {
            tracing::warn!(
                "Slack did not answer before the end; what was being said is looked for at the next start"
            );
        }
        result
    }

    fn take(&mut self, request: Request) {
        let now = Instant::now();
        match request {
            Request::Post { conversation, person, message, about, done, changes: _ } => {
                let (channel, thread) = channel_of(&conversation);
                let kind = match about {
                    Some(about) => Kind::Root { about, person },
                    None => Kind::Say { thread, person },
                };
                self.post(channel, kind, message, Done::Place(done), now);
            }
            Request::Whisper { conversation, person, message, done } => {
                let (channel, thread) = channel_of(&conversation);
                self.post(channel, Kind::Whisper { thread, person }, message, Done::Seen(done), now);
            }
            Request::Direct { person, message, name, since, done } => {
                let kind = Kind::Direct { person: person.clone(), name, since };
                self.post(person.to_string(), kind, message, Done::Seen(done), now);
            }
            Request::Reply { place, message, name, done } => match At::read(&place) {
                Some(at) => {
                    let kind = Kind::Reply { thread: at.ts, about: name.about, keys: vec![name.key] };
                    self.post(at.channel, kind, message, Done::Seen(done), now);
                }
                None => Done::Seen(done).tell(Err(Unseen::Impossible)),
            },
            Request::Update { place, message, about, done, last: _ } => match At::read(&place) {
                Some(at) => {
                    self.edits.put(place, Edit { at, about, message, done, tried: 0, not_before: now }, now);
                }
                None => Done::Seen(done).tell(Err(Unseen::Impossible)),
            },
            Request::Recall { about, conversation, person, place, since, done } => {
                let (channel, _) = channel_of(&conversation);
                let at = place.as_ref().and_then(At::read);
                let wanted = Wanted { about, channel, person, at, since: since.as_second(), replies: true };
                self.recalls.push_back(Recall { wanted, done });
            }
        }
    }

    fn post(
        &mut self,
        channel: String,
        kind: Kind,
        message: crate::message::Message,
        done: Done,
        now: Instant,
    ) {
        let channel = self.ids.get(&channel).cloned().unwrap_or(channel);
        let lane = self
            .lanes
            .entry(channel)
            .or_insert_with(|| Lane::new(Pace::new(self.rates.post_every, Rates::POST_BURST, now)));
        if let Kind::Root { about, .. } = &kind {
            if self.roots.contains(about) {
                // A newer state of one that waits; where it is on its way, the older one is what is seen first.
                return match lane.waiting_root(*about) {
                    Some(waits) => {
                        waits.message = message;
                        let older = std::mem::replace(&mut waits.done, vec![done]);
                        older.into_iter().for_each(|done| done.tell(Err(Unseen::Superseded)));
                    }
                    None => done.tell(Err(Unseen::Superseded)),
                };
            }
            self.roots.push_back(*about);
            if self.roots.len() > MAX_ROOTS {
                self.roots.pop_front();
            }
        }
        if lane.jobs.len() >= MAX_JOBS {
            tracing::error!(limit = MAX_JOBS, "too much waits to be said in one channel; left out");
            done.tell(Err(Unseen::Impossible));
            return;
        }
        lane.jobs.push_back(Job {
            kind,
            message,
            done: vec![done],
            tried: 0,
            unclear: false,
            since: now,
            not_before: now,
        });
    }

    /// Begins every call that may go now.
    fn begin(&mut self, now: Instant) {
        let room = |calls: &JoinSet<Called>| calls.len() < MAX_CALLS;
        self.lanes.retain(|_, lane| lane.busy || !lane.jobs.is_empty() || !lane.pace.is_fresh(now));
        // What is new goes before what goes on, and whoever has waited longest first.
        let mut channels: Vec<String> = self.lanes.keys().cloned().collect();
        channels.sort_by_cached_key(|channel| self.lanes.get(channel).and_then(Lane::urgency));
        for channel in channels {
            if !room(&self.calls) || !self.all_posts.may(now) {
                break;
            }
            let Some(job) = self.lanes.get_mut(&channel).and_then(|lane| lane.take(now)) else { continue };
            self.all_posts.took(now);
            let web = self.web.clone();
            self.calls.spawn(async move { call::post(&web, channel, job).await });
        }
        while room(&self.calls)
            && let Some((place, edit)) = self.edits.take(now)
        {
            let web = self.web.clone();
            self.calls.spawn(async move { call::edit(&web, place, edit).await });
        }
        if !self.recalling
            && room(&self.calls)
            && self.looks.may(now)
            && let Some(Recall { wanted, done }) = self.recalls.pop_front()
        {
            self.recalling = true;
            self.looks.took(now);
            let web = self.web.clone();
            self.calls.spawn(async move { call::recall(&web, wanted, done).await });
        }
    }

    fn next_wake(&self, now: Instant) -> Option<Instant> {
        if self.calls.len() >= MAX_CALLS {
            return None;
        }
        let posts = self.lanes.values().filter_map(Lane::next).min().map(|at| at.max(self.all_posts.next()));
        let looks = (!self.recalling && !self.recalls.is_empty()).then(|| self.looks.next());
        posts.into_iter().chain(self.edits.next()).chain(looks).min().map(|at| at.max(now))
    }

    fn called(&mut self, called: Result<Called, tokio::task::JoinError>) -> Result<(), WebError> {
        let now = Instant::now();
        match called {
            Ok(Called::Posted(channel, job, result)) => self.posted(channel, job, result, now),
            Ok(Called::Edited(place, edit, result)) => self.edited(place, edit, result, now),
            Ok(Called::Recalled) => {
                self.recalling = false;
                Ok(())
            }
            Err(error) => {
                // Never, but if: nothing else is to stand still for it.
                tracing::error!(%error, "a call to Slack broke off");
                self.recalling = false;
                self.lanes.values_mut().for_each(|lane| lane.busy = false);
                self.edits.nothing_is_busy();
                Ok(())
            }
        }
    }

    fn posted(
        &mut self,
        channel: String,
        mut job: Job,
        result: Result<Place, WebError>,
        now: Instant,
    ) -> Result<(), WebError> {
        let Some(lane) = self.lanes.get_mut(&channel) else { return Ok(()) };
        lane.busy = false;
        let error = match result {
            Ok(place) => {
                if channel.starts_with('#')
                    && let Some(at) = At::read(&place)
                {
                    self.ids.insert(channel, at.channel);
                }
                job.done.into_iter().for_each(|done| done.tell(Ok(place.clone())));
                return Ok(());
            }
            Err(error) => error,
        };
        let story = matches!(job.kind, Kind::Root { .. } | Kind::Reply { .. } | Kind::Direct { .. });
        let again = match &error {
            WebError::Barred(_) => return Err(error),
            WebError::Refused(_) => false,
            WebError::TooMany(pause) => {
                lane.pace.rest(now, *pause);
                self.all_posts.rest(now, *pause);
                true
            }
            WebError::Unclear(_) => {
                job.unclear = true;
                job.not_before = now + pause(job.tried);
                story || job.tried < MAX_TRIES
            }
        };
        job.tried += 1;
        if again {
            tracing::info!(channel, %error, tried = job.tried, "a post has to be tried again");
            lane.jobs.push_front(job);
        } else {
            tracing::warn!(channel, code = error.code(), "Slack does not take a post");
            if let Kind::Root { about, .. } = job.kind {
                self.roots.retain(|root| *root != about);
            }
            job.done.into_iter().for_each(|done| done.tell(Err(Unseen::Impossible)));
        }
        Ok(())
    }

    fn edited(
        &mut self,
        place: Place,
        mut edit: Edit,
        result: Result<(), WebError>,
        now: Instant,
    ) -> Result<(), WebError> {
        let error = match result {
            Ok(()) => {
                self.edits.done(&place);
                Done::Seen(edit.done).tell(Ok(place));
                return Ok(());
            }
            Err(error) => error,
        };
        match &error {
            WebError::Barred(_) => return Err(error),
            WebError::Refused(code) => {
                tracing::warn!(channel = edit.at.channel, code, "Slack does not take an edit");
                self.edits.done(&place);
                let gone = matches!(code.as_str(), "message_not_found" | "channel_not_found");
                let unseen = if gone { Unseen::Impossible } else { Unseen::Refused };
                Done::Seen(edit.done).tell(Err(unseen));
                return Ok(());
            }
            WebError::TooMany(pause) => self.edits.pace.rest(now, *pause),
            WebError::Unclear(_) => edit.not_before = now + pause(edit.tried),
        }
        tracing::info!(channel = edit.at.channel, %error, tried = edit.tried, "an edit has to be tried again");
        edit.tried += 1;
        self.edits.again(place, edit);
        Ok(())
    }
}

/// What names a story's message in its metadata.
pub(super) fn message_metadata(about: About) -> serde_json::Value {
    let (name, id) = call::named(about);
    serde_json::json!({ "event_type": call::MESSAGE, "event_payload": { name: id } })
}
