//! What is handed to the chat, and what becomes of it: the message, its edits, the replies in its thread.
//!
//! ```text
//!   due, root ──▶ Request ──▶ chat … ──▶ Told ──▶ where it sits, what was told, what it says ──▶ store, and what is due next
//! ```
//! The follower's loop never waits for the chat: each request's answer is awaited in a small task of its own. Of each thread at
//! most one of each reply and a few edits are under way; of those the newest counts.

use jiff::Timestamp;
use sdp_core::id::EventSeq;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::learn::{Learnt, view_of};
use super::{Conversation, Follower};
use crate::chat::{About, ChatGone, Place, Recalled, Reply, Request, Seen, Unseen};
use crate::store::Kept;
use crate::story::View;
use crate::thread::Due;

/// What came of a request to the chat.
#[derive(Debug)]
pub(super) enum Told {
    Posted(About, i64, Seen<Place>),
    Replied(About, String),
    Edited(About, i64, bool, Seen<()>),
    Recalled(Box<Kept>, View, Recalled),
    /// One of those whom an event concerns was told.
    Noticed(EventSeq),
}

impl Follower {
    pub(super) fn await_answer<T: Send + 'static>(
        &mut self,
        answer: oneshot::Receiver<T>,
        told: impl FnOnce(T) -> Told + Send + 'static,
    ) {
        self.telling.spawn(async move { answer.await.map(told).map_err(|_| ChatGone) });
    }

    /// Looks into the chat for what may be there already.
    pub(super) async fn recall(&mut self, kept: Kept, view: View) -> Result<(), ChatGone> {
        let answer = self
            .chat
            .send(|done| Request::Recall {
                about: kept.about,
                conversation: kept.conversation.clone(),
                person: kept.person.clone(),
                place: kept.place.clone(),
                since: view.requested_at(),
                done,
            })
            .await?;
        self.await_answer(answer, |recalled| Told::Recalled(Box::new(kept), view, recalled));
        Ok(())
    }

    /// A deployment that nobody asked for in a chat is told as if it had been.
    pub(super) async fn tell_of(&mut self, id: About, conversation: Conversation) {
        if self.threads.contains_key(&id) {
            return;
        }
        // Before the place in the feed may be written down that lies behind it.
        match self.store.intend(id, conversation.clone(), None).await {
            Ok(false) => return,
            Ok(true) => {}
            Err(error) => Self::note_store(Err(error)),
        }
        let client = self.client.clone();
        self.learn(async move {
            let view = view_of(&client, id).await;
            Learnt::Found(Box::new(Kept::intended(id, conversation)), view)
        });
    }

    /// Posts the thread's root, unless it is there already; again while it waits, if it says something else now.
    pub(super) async fn post(&mut self, id: About) -> Result<(), ChatGone> {
        let Some(tracked) = self.threads.get_mut(&id).filter(|tracked| tracked.place.is_none()) else {
            return Ok(());
        };
        let message = tracked.story.root(Timestamp::now());
        let fingerprint = message.fingerprint();
        tracked.dirty = false;
        tracked.next_edit = Instant::now() + self.chat.abilities.edit_every;
        if tracked.sent.replace(fingerprint) == Some(fingerprint) {
            return Ok(());
        }
        let (conversation, person) = (tracked.conversation.clone(), tracked.person.clone());
        let answer = self
            .chat
            .send(|done| Request::Post {
                conversation,
                person,
                message,
                about: Some(id),
                changes: true,
                done,
            })
            .await?;
        self.await_answer(answer, move |seen| Told::Posted(id, fingerprint, seen));
        Ok(())
    }

    /// Tells what is due, and edits the message if it may be edited now; otherwise that is done when its time has come.
    pub(super) async fn advance(&mut self, id: About) -> Result<(), ChatGone> {
        if let Some(tracked) = self.threads.get_mut(&id) {
            tracked.dirty = true;
        }
        self.tell_due(id).await?;
        self.edit(id).await
    }

    async fn tell_due(&mut self, id: About) -> Result<(), ChatGone> {
        let mut ask_failure = Vec::new();
        let mut handed = Vec::new();
        if let Some(tracked) = self.threads.get_mut(&id) {
            for due in tracked.story.due() {
                match (due, &tracked.place) {
                    (Due::LearnFailure(deployment), _) => {
                        let asking = tracked.asking.entry(deployment).or_default();
                        if !std::mem::replace(&mut asking.failure, true) {
                            ask_failure.push(deployment);
                        }
                    }
                    (Due::Reply { key, message }, Some(place)) if tracked.telling.insert(key.clone()) => {
                        let (place, name) = (place.clone(), Reply { about: id, key: key.clone() });
                        let answer =
                            self.chat.send(|done| Request::Reply { place, message, name, done }).await?;
                        handed.push((key, answer));
                    }
                    (Due::Reply { .. }, _) => {}
                }
            }
        }
        for (key, answer) in handed {
            self.await_answer(answer, move |_: Seen<()>| Told::Replied(id, key));
        }
        for deployment in ask_failure {
            self.ask_failure(deployment);
        }
        Ok(())
    }

    pub(super) async fn edit(&mut self, id: About) -> Result<(), ChatGone> {
        let Some(tracked) = self.threads.get_mut(&id) else { return Ok(()) };
        let paced = self.chat.abilities.paced;
        if !tracked.dirty || Instant::now() < tracked.next_edit {
            return self.settle(id).await;
        }
        if tracked.place.is_none() && paced {
            self.post(id).await?;
        } else if let Some(place) = tracked.place.clone() {
            let message = tracked.story.root(Timestamp::now());
            let fingerprint = message.fingerprint();
            tracked.dirty = false;
            let last = tracked.story.is_told();
            let newest = tracked.sent.unwrap_or(tracked.fingerprint);
            let to_close = last && !tracked.closed && tracked.sent.is_none() && !paced;
            if fingerprint != newest || to_close {
                tracked.sent = Some(fingerprint);
                tracked.next_edit = Instant::now() + self.chat.abilities.edit_every;
                let answer = self
                    .chat
                    .send(|done| Request::Update { place, message, about: Some(id), last, done })
                    .await?;
                self.await_answer(answer, move |seen| Told::Edited(id, fingerprint, last, seen));
            }
        }
        self.settle(id).await
    }

    /// Says that it has ended, and lets go of what nothing can happen to any more.
    async fn settle(&mut self, id: About) -> Result<(), ChatGone> {
        let Some(tracked) = self.threads.get_mut(&id).filter(|tracked| tracked.is_settled()) else {
            return Ok(());
        };
        if let Some(ended) = tracked.ended.take() {
            let succeeded = tracked.story.succeeded();
            // Whoever asked may have gone.
            let _nobody_waits = ended.send(succeeded);
        }
        if tracked.story.is_over() {
            self.save(id).await;
            self.forget(id);
        }
        Ok(())
    }

    /// Writes down what was seen, and does nothing more about it.
    pub(super) async fn note_told(&mut self, told: Told) {
        let (id, tracked) = match &told {
            Told::Posted(id, ..) | Told::Replied(id, ..) | Told::Edited(id, ..) => {
                (*id, self.threads.get_mut(id))
            }
            Told::Noticed(seq) => return self.noticed(*seq).await,
            Told::Recalled(..) => return,
        };
        let Some(tracked) = tracked else { return };
        match told {
            Told::Posted(_, fingerprint, Ok(place)) => {
                tracked.place = Some(place);
                tracked.fingerprint = fingerprint;
            }
            Told::Replied(_, key) => tracked.story.was_told(key),
            Told::Edited(_, fingerprint, _, Ok(())) => tracked.fingerprint = fingerprint,
            _ => return,
        }
        tracked.dirty = true;
        self.save(id).await;
    }

    pub(super) async fn told(&mut self, told: Told) -> Result<(), ChatGone> {
        let (id, seen) = match told {
            Told::Noticed(seq) => {
                self.noticed(seq).await;
                return Ok(());
            }
            Told::Recalled(mut kept, view, recalled) => {
                kept.place = kept.place.or(recalled.place);
                kept.told.extend(recalled.told);
                return self.resume(*kept, view).await;
            }
            Told::Posted(id, fingerprint, seen) => {
                let Some(tracked) = self.threads.get_mut(&id) else { return Ok(()) };
                if tracked.sent == Some(fingerprint) || seen.is_ok() {
                    tracked.sent = None;
                }
                let seen = seen.map(|place| {
                    tracked.place = Some(place);
                    tracked.fingerprint = fingerprint;
                    tracked.next_edit = Instant::now() + self.chat.abilities.edit_every;
                    // It may have waited for long.
                    tracked.dirty = true;
                });
                (id, seen)
            }
            Told::Replied(id, key) => {
                let Some(tracked) = self.threads.get_mut(&id) else { return Ok(()) };
                tracked.telling.remove(&key);
                // What a chat does not take is not said again; the message itself may be there all the same.
                tracked.story.was_told(key);
                (id, Ok(()))
            }
            Told::Edited(id, fingerprint, last, seen) => {
                let Some(tracked) = self.threads.get_mut(&id) else { return Ok(()) };
                if tracked.sent == Some(fingerprint) {
                    tracked.sent = None;
                }
                // What is refused once is not tried again as it is: only the next state is.
                if matches!(seen, Ok(()) | Err(Unseen::Refused)) {
                    tracked.fingerprint = fingerprint;
                    tracked.closed |= last;
                }
                (id, seen)
            }
        };
        if seen == Err(Unseen::Impossible) {
            tracing::warn!(story.id = %id, "a message is not there any more, or cannot be; it is not followed further");
            self.forget(id);
            Self::note_store(self.store.close(id).await);
            return Ok(());
        }
        if let Some(tracked) = self.threads.get_mut(&id) {
            tracked.dirty |= tracked.story.is_told() && !tracked.closed && tracked.sent.is_none();
        }
        self.save(id).await;
        self.tell_due(id).await?;
        self.edit(id).await
    }
}
