//! Edits that wait: of each message the newest; those first that say how something ended, then whichever waits longest. Pure.

use std::collections::HashMap;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::pace::Pace;
use super::super::place::At;
use super::lane::Done;
use crate::chat::{About, Place, Seen, Unseen};
use crate::message::{Message, Tone};

/// A message as it is to be.
#[derive(Debug)]
pub(super) struct Edit {
    pub(super) at: At,
    pub(super) about: Option<About>,
    pub(super) message: Message,
    pub(super) done: oneshot::Sender<Seen<()>>,
    pub(super) tried: u32,
    pub(super) not_before: Instant,
}

#[derive(Debug)]
pub(super) struct Edits {
    messages: HashMap<Place, Waiting>,
    pub(super) pace: Pace,
}

#[derive(Debug)]
struct Waiting {
    /// Since when it says what is not so any more.
    since: Instant,
    edit: Option<Edit>,
    busy: bool,
}

impl Edits {
    pub(super) fn new(pace: Pace) -> Self {
        Self { messages: HashMap::new(), pace }
    }

    pub(super) fn put(&mut self, place: Place, edit: Edit, now: Instant) {
        let waiting =
            self.messages.entry(place).or_insert_with(|| Waiting { since: now, edit: None, busy: false });
        match waiting.edit.take() {
            Some(older) => Done::Seen(older.done).tell(Err(Unseen::Superseded)),
            None => waiting.since = now,
        }
        waiting.edit = Some(edit);
    }

    /// The next one that may go now.
    pub(super) fn take(&mut self, now: Instant) -> Option<(Place, Edit)> {
        if !self.pace.may(now) {
            return None;
        }
        let ready = self.messages.iter().filter_map(|(place, waiting)| {
            let edit = waiting.edit.as_ref().filter(|edit| !waiting.busy && edit.not_before <= now)?;
            // What still goes on changes again anyway.
            let goes_on = matches!(edit.message.tone, Tone::Waiting | Tone::Working);
            Some((goes_on, waiting.since, place))
        });
        let place = ready.min_by_key(|(goes_on, since, _)| (*goes_on, *since))?.2.clone();
        let waiting = self.messages.get_mut(&place)?;
        let edit = waiting.edit.take()?;
        waiting.busy = true;
        self.pace.took(now);
        Some((place, edit))
    }

    /// It was seen, or never will be.
    pub(super) fn done(&mut self, place: &Place) {
        if let Some(waiting) = self.messages.get_mut(place) {
            waiting.busy = false;
            if waiting.edit.is_none() {
                self.messages.remove(place);
            }
        }
    }

    /// It has to be tried again, unless a newer one waits.
    pub(super) fn again(&mut self, place: Place, edit: Edit) {
        let Some(waiting) = self.messages.get_mut(&place) else { return };
        waiting.busy = false;
        match &mut waiting.edit {
            Some(newer) => {
                newer.not_before = newer.not_before.max(edit.not_before);
                newer.tried = edit.tried;
                Done::Seen(edit.done).tell(Err(Unseen::Superseded));
            }
            none => *none = Some(edit),
        }
    }

    pub(super) fn nothing_is_busy(&mut self) {
        self.messages.values_mut().for_each(|waiting| waiting.busy = false);
    }

    /// When one may go; none: none waits.
    pub(super) fn next(&self) -> Option<Instant> {
        let waiting = self.messages.values().filter(|waiting| !waiting.busy);
        waiting.filter_map(|waiting| Some(waiting.edit.as_ref()?.not_before.max(self.pace.next()))).min()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::text::Text;

    fn edit(now: Instant, says: &str, last: bool) -> (Edit, oneshot::Receiver<Seen<()>>) {
        let (done, seen) = oneshot::channel();
        let at = At { channel: "C1".into(), ts: "1".into() };
        let tone = if last { Tone::Good } else { Tone::Working };
        let message = Message::new(tone, Text::from(says));
        (Edit { at, about: None, message, done, tried: 0, not_before: now }, seen)
    }

    #[test]
    fn the_newest_state_is_shown_the_last_ones_first_and_each_message_once_at_a_time() {
        let now = Instant::now();
        let mut edits = Edits::new(Pace::new(Duration::from_secs(1), 10, now));
        let place = |name: &str| Place(name.to_owned());
        let (a1, mut a1_seen) = edit(now, "a1", false);
        let (a2, mut a2_seen) = edit(now, "a2", false);
        let (b1, _b1_seen) = edit(now, "b1", false);
        let (c1, _c1_seen) = edit(now, "c1", true);
        edits.put(place("a"), a1, now);
        edits.put(place("b"), b1, now + Duration::from_millis(1));
        edits.put(place("c"), c1, now + Duration::from_millis(2));
        edits.put(place("a"), a2, now + Duration::from_millis(3));
        assert_eq!(a1_seen.try_recv(), Ok(Err(Unseen::Superseded)));
        let (c_place, c) = edits.take(now).unwrap();
        let (a_place, a) = edits.take(now).unwrap();
        assert_eq!((c.message.title.words(), a.message.title.words()), ("c1".into(), "a2".into()));
        // A newer state while the older one is under way waits for it, and takes its place if it did not go well.
        let (a3, _a3_seen) = edit(now, "a3", false);
        edits.put(a_place.clone(), a3, now + Duration::from_millis(4));
        let (_, b) = edits.take(now).unwrap();
        assert_eq!(b.message.title.words(), "b1");
        assert!(edits.take(now).is_none() && edits.next().is_none());
        edits.again(a_place, a);
        assert_eq!(a2_seen.try_recv(), Ok(Err(Unseen::Superseded)));
        assert_eq!(edits.take(now).unwrap().1.message.title.words(), "a3");
        edits.again(c_place.clone(), Edit { not_before: now + Duration::from_secs(5), ..c });
        assert_eq!(edits.next(), Some(now + Duration::from_secs(5)));
        assert_eq!(edits.take(now + Duration::from_secs(5)).unwrap().0, c_place);
        edits.done(&place("b"));
        edits.done(&place("a"));
        edits.done(&place("c"));
        assert!(edits.messages.is_empty());
    }
}
