//! How a story comes to be followed: it was just asked for, or it was told when the bot ended.

use std::collections::{BTreeSet, HashMap};

use sdp_core::client::{ClientError, EventFilter};
use sdp_core::id::DeploymentId;
use sdp_core::name::PersonName;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::learn::{Learnt, view_of};
use super::{FollowError, Follower, Track, Tracked};
use crate::chat::{ChatGone, Conversation, Place};
use crate::store::{Kept, Store};
use crate::story::{Story, View};

impl Follower {
    /// After a restart: every message that may still change is brought up to date, whatever happened meanwhile.
    pub(super) async fn restore(&mut self) -> Result<(), FollowError> {
        let kept = self.store.open_messages().await?;
        let open_notices = self.restore_notices().await?;
        if !kept.is_empty() || self.channels.is_some() || self.notices {
            self.cursor = self.store.cursor().await?;
        }
        for kept in kept {
            let client = self.client.clone();
            self.learn(async move {
                let view = view_of(&client, kept.about).await;
                Learnt::Restored(Box::new(kept), view)
            });
        }
        if let Some(cursor) = self.cursor {
            self.begin_feed(cursor);
        } else if self.channels.is_some() || self.notices {
            self.feed = Some(self.client.feed_from_now(EventFilter::default()));
        }
        self.notices_again(open_notices);
        Ok(())
    }

    pub(super) async fn restored(
        &mut self,
        kept: Kept,
        view: Result<View, ClientError>,
    ) -> Result<(), ChatGone> {
        let view = match view {
            Ok(view) => view,
            Err(error) => {
                tracing::warn!(story.id = %kept.about, code = error.code(), "a message cannot be brought up to date");
                // Whatever else the server says may be otherwise at the next start.
                if error.problem().is_some_and(|problem| problem.status == 404) {
                    Self::note_store(self.store.close(kept.about).await);
                }
                return Ok(());
            }
        };
        let survives = self.chat.abilities.places_survive;
        let kept = Kept { place: kept.place.filter(|_| survives), ..kept };
        if kept.place.is_none() && view.is_ended() && (!survives || kept.told.contains("end")) {
            Self::note_store(self.store.close(kept.about).await);
            return Ok(());
        }
        // What was being said when the bot ended may be there although it was not written down.
        if survives && (kept.place.is_none() || !kept.told.contains("end")) {
            return self.recall(kept, view).await;
        }
        self.resume(kept, view).await
    }

    /// Takes up a message as it was left.
    pub(super) async fn resume(&mut self, kept: Kept, view: View) -> Result<(), ChatGone> {
        let told = if kept.place.is_some() { kept.told } else { BTreeSet::new() };
        let (ended, _) = oneshot::channel();
        let place = kept.place.map(|place| (place, kept.fingerprint));
        self.show(Story::of(view, told), kept.conversation, kept.person, place, ended).await
    }

    pub(super) async fn track(&mut self, track: Track) -> Result<(), ChatGone> {
        let Track { conversation, person, begun, log_link, ended } = track;
        let id = begun.about();
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
        let version = begun.version();
        let mut story = Story::begun(begun);
        if let Story::One(thread) = &mut story {
            thread.facts.log_link = log_link;
        }
        self.show(story, conversation, person, None, ended).await?;
        if self.feed.is_none() {
            self.begin_feed(version);
        }
        Ok(())
    }

    /// Posts the thread's root, unless it is there already, and follows it from now on.
    pub(super) async fn show(
        &mut self,
        mut story: Story,
        conversation: Conversation,
        person: Option<PersonName>,
        place: Option<(Place, i64)>,
        ended: oneshot::Sender<bool>,
    ) -> Result<(), ChatGone> {
        let id = story.about();
        let asked_by = match (&person, story.requested_by().as_person()) {
            (None, Some(account)) => chat_user_of(&self.store, account).await,
            _ => person.clone(),
        };
        story.asked_by(asked_by.as_ref());
        let (place, fingerprint) = match place {
            Some((place, fingerprint)) => (Some(place), fingerprint),
            None => (None, 0),
        };
        // What the feed gave while this was on its way here is in the view that is asked for below.
        story.await_views();
        let deployments: Vec<DeploymentId> =
            story.threads().iter().map(|thread| thread.deployment().id).collect();
        let tracked = Tracked {
            story,
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
            asking: HashMap::new(),
        };
        self.give_way().await;
        self.threads.insert(id, tracked);
        self.stories.extend(deployments.iter().map(|deployment| (*deployment, id)));
        self.post(id).await?;
        self.save(id).await;
        for deployment in deployments {
            self.ask_view(deployment);
            self.ask_usual(deployment);
            self.ask_instance(deployment);
        }
        self.advance(id).await
    }
}

/// Who of this chat has an account; none if that is not known.
pub(super) async fn chat_user_of(store: &Store, account: &PersonName) -> Option<PersonName> {
    store.chat_user_of(account).await.unwrap_or_else(|error| {
        Follower::note_store(Err(error));
        None
    })
}
