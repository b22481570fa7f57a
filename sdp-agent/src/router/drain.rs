//! How many requests are under way to each instance, and which instances have none left.
//!
//! [`InFlight`] is one number per instance, with one bit that says "no more": a request is counted only while that bit is
//! clear, so none can slip in after the count was seen to be zero. [`Drain`] keeps the instances that were taken out of the
//! table until their count is zero, then the queue of those to announce.
//!
//! Invariant: an instance is in at most one of table, `retiring` and `drained`. Only the holder of the book's lock moves it.
//!
//! Limit: [`ANNOUNCEMENTS`] wait to be taken; with more the oldest is dropped (whoever waits for it has a deadline of its own).

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sdp_core::id::InstanceId;
use tokio::sync::Notify;

/// How many announcements wait at most.
const ANNOUNCEMENTS: usize = 65_536;

const RETIRED: usize = 1 << (usize::BITS - 1);

/// The requests under way to one instance.
#[derive(Debug)]
pub(crate) struct InFlight {
    instance: InstanceId,
    /// The count, and [`RETIRED`].
    state: AtomicUsize,
}

impl InFlight {
    pub(crate) fn new(instance: InstanceId) -> Arc<Self> {
        Arc::new(Self { instance, state: AtomicUsize::new(0) })
    }

    /// Counts one in, unless the instance was taken out of the table.
    fn enter(&self) -> bool {
        self.state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
                (state & RETIRED == 0).then_some(state + 1)
            })
            .is_ok()
    }

    /// Counts one out; true if it was the last of a retired instance.
    fn leave(&self) -> bool {
        self.state.fetch_sub(1, Ordering::AcqRel) == RETIRED + 1
    }

    /// No more; true if there is none.
    fn retire(&self) -> bool {
        self.state.fetch_or(RETIRED, Ordering::AcqRel) & !RETIRED == 0
    }

    fn reopen(&self) {
        self.state.fetch_and(!RETIRED, Ordering::AcqRel);
    }

    fn is_done(&self) -> bool {
        self.state.load(Ordering::Acquire) == RETIRED
    }
}

/// A request under way; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Guard {
    in_flight: Arc<InFlight>,
    drain: Arc<Drain>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.in_flight.leave() {
            self.drain.finished(self.in_flight.instance);
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Drain {
    book: Mutex<Book>,
    bell: Notify,
}

/// Held while the table changes.
#[derive(Debug, Default)]
pub(crate) struct Book {
    retiring: HashMap<InstanceId, Arc<InFlight>>,
    drained: VecDeque<InstanceId>,
}

impl Drain {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Book> {
        // Nothing that holds the lock can leave the book half-changed.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request to this instance; `None` if the newest table does not name the instance any more.
    pub(crate) fn enter(self: &Arc<Self>, in_flight: &Arc<InFlight>) -> Option<Guard> {
        in_flight.enter().then(|| Guard { in_flight: in_flight.clone(), drain: self.clone() })
    }

    /// The table does not name these any more.
    pub(crate) fn retire(&self, book: &mut Book, gone: impl IntoIterator<Item = Arc<InFlight>>) {
        for in_flight in gone {
            if in_flight.retire() {
                book.announce(in_flight.instance);
            } else {
                book.retiring.insert(in_flight.instance, in_flight);
            }
        }
        self.bell.notify_one();
    }

    fn finished(&self, instance: InstanceId) {
        let mut book = self.lock();
        // It may have come back into the table, and may have left it again, since the count was zero.
        if book.retiring.get(&instance).is_some_and(|in_flight| in_flight.is_done()) {
            book.retiring.remove(&instance);
            book.announce(instance);
            self.bell.notify_one();
        }
    }

    /// The next instance that is drained. Nothing is lost when the future is dropped.
    pub(crate) async fn next(&self) -> InstanceId {
        loop {
            {
                let mut book = self.lock();
                if let Some(instance) = book.drained.pop_front() {
                    if !book.drained.is_empty() {
                        self.bell.notify_one();
                    }
                    return instance;
                }
            }
            self.bell.notified().await;
        }
    }
}

impl Book {
    /// The count of an instance that comes back into the table, if it is still draining.
    pub(crate) fn revive(&mut self, instance: InstanceId) -> Option<Arc<InFlight>> {
        self.drained.retain(|drained| *drained != instance);
        let in_flight = self.retiring.remove(&instance)?;
        in_flight.reopen();
        Some(in_flight)
    }

    fn announce(&mut self, instance: InstanceId) {
        if self.drained.len() >= ANNOUNCEMENTS
            && let Some(instance) = self.drained.pop_front()
        {
            tracing::warn!(instance.id = %instance, "nobody takes the drained instances; the oldest is forgotten");
        }
        self.drained.push_back(instance);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(drain: &Drain) -> Vec<InstanceId> {
        drain.lock().drained.drain(..).collect()
    }

    fn retire(drain: &Arc<Drain>, in_flight: &Arc<InFlight>) {
        drain.retire(&mut drain.lock(), [in_flight.clone()]);
    }

    #[test]
    fn an_instance_without_requests_is_drained_at_once_and_takes_no_more() {
        let drain = Arc::new(Drain::default());
        let one = InFlight::new(InstanceId::new());
        retire(&drain, &one);
        assert_eq!(taken(&drain), [one.instance]);
        assert!(drain.enter(&one).is_none());
        assert_eq!(taken(&drain), []);
    }

    #[test]
    fn an_instance_is_drained_once_when_its_last_request_ends() {
        let drain = Arc::new(Drain::default());
        let one = InFlight::new(InstanceId::new());
        let (first, second) = (drain.enter(&one), drain.enter(&one));
        retire(&drain, &one);
        drop(first);
        assert_eq!(taken(&drain), []);
        drop(second);
        assert_eq!(taken(&drain), [one.instance]);
    }

    #[test]
    fn an_instance_that_comes_back_is_not_announced_until_it_leaves_again() {
        let drain = Arc::new(Drain::default());
        let one = InFlight::new(InstanceId::new());
        let first = drain.enter(&one);
        retire(&drain, &one);
        assert!(drain.lock().revive(one.instance).is_some());
        drop(first);
        assert_eq!(taken(&drain), []);
        let second = drain.enter(&one);
        retire(&drain, &one);
        // Whoever brought the count to zero before it came back is late with saying so.
        drain.finished(one.instance);
        assert_eq!(taken(&drain), []);
        drop(second);
        assert_eq!(taken(&drain), [one.instance]);

        // Announced but not taken yet: the announcement would be wrong now.
        retire(&drain, &InFlight::new(one.instance));
        assert!(drain.lock().revive(one.instance).is_none());
        assert_eq!(taken(&drain), []);
    }

    #[tokio::test]
    async fn announcements_wait_for_whoever_asks_later() {
        let drain = Arc::new(Drain::default());
        let all: Vec<_> = (0..3).map(|_| InFlight::new(InstanceId::new())).collect();
        drain.retire(&mut drain.lock(), all.clone());
        for one in &all {
            assert_eq!(drain.next().await, one.instance);
        }
    }
}
