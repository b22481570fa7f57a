//! What concerns one person though they did not ask: their sandbox comes to its end, their lock was taken away. Told to them alone.
//!
//! ```text
//!   event ─▶ store (it is to be told) ─▶ who, and is it still so? ─▶ chat, one message for each ─▶ seen ─▶ store (it was told)
//! ```
//! Invariant: each event is told once. It is written down before anybody is asked, so that a bot which was killed tells it after its
//! next start; a chat is asked then whether it is there already. What is not so any more (the sandbox was renewed) is not told.
//!
//! Limit: only people are told whose user in this chat is known: they have said something here, or logged in.

use std::collections::BTreeSet;

use jiff::Timestamp;
use sdp_core::api::SandboxView;
use sdp_core::client::{Client, ClientError};
use sdp_core::event::{Event, EventKind};
use sdp_core::id::EventSeq;
use sdp_core::name::{PersonName, SandboxName};

use super::learn::{Learnt, patiently};
use super::restore::chat_user_of;
use super::tell::Told;
use super::{FollowError, Follower};
use crate::chat::{ChatGone, Request, Seen};
use crate::message::{Message, notice as say};
use crate::store::Store;

/// What is to be told of one event.
#[derive(Debug)]
pub(super) struct Notice {
    seq: EventSeq,
    /// Users of this chat.
    people: BTreeSet<PersonName>,
    message: Option<Message>,
    /// It may have been told since then.
    since: Option<Timestamp>,
}

fn concerns_somebody(kind: &EventKind) -> bool {
    matches!(
        kind,
        EventKind::SandboxExpiring { .. }
            | EventKind::SandboxExpired { .. }
            | EventKind::Locked { stolen: Some(_), .. }
    )
}

impl Follower {
    /// Tells whom an event concerns.
    pub(super) async fn notice(&mut self, event: &Event) {
        if !self.notices || !concerns_somebody(&event.kind) {
            return;
        }
        // Before the place in the feed may be written down that lies behind it.
        match self.store.intend_notice(event.clone()).await {
            Ok(false) => return,
            Ok(true) => {}
            Err(error) => Self::note_store(Err(error)),
        }
        self.look_into(event.clone(), None);
    }

    fn look_into(&mut self, event: Event, since: Option<Timestamp>) {
        let (client, store) = (self.client.clone(), self.store.clone());
        self.learn(async move { Learnt::Notice(Box::new(notice_of(&client, &store, &event, since).await)) });
    }

    /// What was to be told when the bot ended.
    pub(super) async fn restore_notices(&mut self) -> Result<Vec<Event>, FollowError> {
        if !self.notices {
            return Ok(Vec::new());
        }
        Ok(self.store.open_notices().await?)
    }

    /// Tells it, if that was not done.
    pub(super) fn notices_again(&mut self, events: Vec<Event>) {
        let survives = self.chat.abilities.places_survive;
        for event in events {
            let since = Some(event.at).filter(|_| survives);
            self.look_into(event, since);
        }
    }

    pub(super) async fn tell_notice(&mut self, notice: Notice) -> Result<(), ChatGone> {
        let Notice { seq, people, message, since } = notice;
        let Some(message) = message.filter(|_| !people.is_empty()) else {
            self.noticed(seq).await;
            return Ok(());
        };
        self.noticing.insert(seq, people.len());
        for person in people {
            let (message, name) = (message.clone(), format!("{seq}:{person}"));
            let answer =
                self.chat.send(|done| Request::Direct { person, message, name, since, done }).await?;
            // What a chat does not take is not said again.
            self.await_answer(answer, move |_: Seen<()>| Told::Noticed(seq));
        }
        Ok(())
    }

    /// One of those whom it concerns has seen it, or never will.
    pub(super) async fn noticed(&mut self, seq: EventSeq) {
        if let Some(left) = self.noticing.get_mut(&seq).filter(|left| **left > 1) {
            *left -= 1;
            return;
        }
        self.noticing.remove(&seq);
        Self::note_store(self.store.notice_told(seq).await);
    }
}

async fn notice_of(client: &Client, store: &Store, event: &Event, since: Option<Timestamp>) -> Notice {
    let mut notice = Notice { seq: event.seq, people: BTreeSet::new(), message: None, since };
    let now = Timestamp::now();
    match &event.kind {
        EventKind::SandboxExpiring { expires_at, branch_gone, owner, hours } => {
            let Some(name) = &event.about.sandbox else { return notice };
            match sandbox(client, name).await {
                Ok(Some(view)) if is_still_so(&view, *expires_at, *hours) && *expires_at > now => {
                    let members = view.sandbox.members.iter().cloned();
                    let people = owner.as_person().cloned().into_iter().chain(members).collect();
                    notice.people = users(store, people).await;
                    let runs = view.instances.len();
                    notice.message = Some(say::expiring(name, *expires_at, branch_gone.as_ref(), runs, now));
                }
                // It was renewed, kept or deleted meanwhile.
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(sandbox = %name, code = error.code(), "a sandbox that ends could not be looked up");
                    notice.people = users(store, owner.as_person().cloned().into_iter().collect()).await;
                    notice.message = Some(say::expiring(name, *expires_at, branch_gone.as_ref(), 1, now));
                }
            }
        }
        EventKind::SandboxExpired { owner } => {
            let Some(name) = &event.about.sandbox else { return notice };
            notice.people = users(store, owner.as_person().cloned().into_iter().collect()).await;
            notice.message = Some(say::expired(name));
        }
        EventKind::Locked { lock, stolen: Some(had) } => {
            notice.people = users(store, had.owner.as_person().cloned().into_iter().collect()).await;
            notice.message = Some(say::stolen(had, &event.by, lock));
        }
        _ => {}
    }
    notice
}

/// Whether it still ends then, and no later word of that has been said.
fn is_still_so(view: &SandboxView, expires_at: Timestamp, hours: u32) -> bool {
    view.sandbox.expires_at == Some(expires_at) && view.sandbox.warned_hours.is_none_or(|said| said >= hours)
}

/// A sandbox as it is; none: it is not any more.
async fn sandbox(client: &Client, name: &SandboxName) -> Result<Option<SandboxView>, ClientError> {
    match patiently(|| client.sandbox(name)).await {
        Ok(view) => Ok(Some(view)),
        Err(error) if error.problem().is_some_and(|problem| problem.status == 404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Those of them who are known in this chat.
async fn users(store: &Store, accounts: Vec<PersonName>) -> BTreeSet<PersonName> {
    let mut users = BTreeSet::new();
    for account in accounts {
        users.extend(chat_user_of(store, &account).await);
    }
    users
}
