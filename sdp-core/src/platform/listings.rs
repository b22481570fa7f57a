//! Lists of branches and repositories, kept for a moment, so that chat and pages have them at once and git hosts are spared.
//!
//! ```text
//!   look ─▶ fresh? ──yes──▶ from memory; older than renew_after: renewed in the background
//!             │ no
//!             ├─ failed a moment ago? ──▶ the same failure
//!             ├─ is being asked? ──▶ waits for that answer
//!             └─ asks (one at a time for each key), in a task that the platform owns
//! ```
//! Called by `repositories`, which knows how to ask. **Invariant: what one credential sees is shown to nobody else.** The key of
//! a list holds an [`Identity`]: a hash of user name and password under a key that this process made up, so that neither can
//! be found out from it; without a credential it is what the agents' own login sees. A credential that was refused takes what
//! it saw before with it.
//!
//! Limits are in [`ListingLimits`]: the list that was used least recently goes first; one that is older than `fresh` is not kept.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{ListingLimits, PlatformError};
use crate::failure::FailureReason;
use crate::secret::GitCredential;

/// Whose eyes a list was seen with.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Identity(Option<[u8; 32]>);

/// Makes identities.
pub(super) struct Identities([u8; 32]);

impl Identities {
    pub(super) fn new() -> Result<Self, PlatformError> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|_| PlatformError::NoRandom)?;
        Ok(Self(key))
    }

    pub(super) fn of(&self, credential: Option<&GitCredential>) -> Identity {
        Identity(credential.map(|GitCredential { username, password }| {
            let hash = Sha256::new()
                .chain_update(self.0)
                // No two pairs of texts are the same one after the other.
                .chain_update((username.len() as u64).to_be_bytes())
                .chain_update(username)
                .chain_update(password.expose());
            hash.finalize().into()
        }))
    }
}

/// How many branches, tags or repositories something holds.
pub(super) trait Items {
    fn items(&self) -> usize;
}

/// An answer, once it is there.
type Answered<V> = Option<Result<Arc<V>, PlatformError>>;

/// The lists of one kind.
pub(super) struct Listings<K, V> {
    limits: ListingLimits,
    state: Mutex<State<K, V>>,
}

struct State<K, V> {
    lists: HashMap<K, List<V>>,
    /// Counts the looks.
    uses: u64,
}

struct List<V> {
    kept: Option<Kept<V>>,
    failed: Option<(Instant, PlatformError)>,
    asking: Option<watch::Receiver<Answered<V>>>,
    /// The look that used it last.
    used: u64,
}

struct Kept<V> {
    value: Arc<V>,
    /// When it was asked for.
    at: Instant,
}

/// What was found.
pub(super) enum Found<V> {
    Here(Arc<V>),
    Failed(PlatformError),
    Asked(watch::Receiver<Answered<V>>),
}

impl<V> Found<V> {
    /// Waits for the answer, if it is on its way.
    pub(super) async fn answer(self) -> Result<Arc<V>, PlatformError> {
        let mut asked = match self {
            Self::Here(value) => return Ok(value),
            Self::Failed(error) => return Err(error),
            Self::Asked(asked) => asked,
        };
        let answered = asked.wait_for(Option::is_some).await.map(|answered| answered.clone());
        answered.ok().flatten().unwrap_or(Err(PlatformError::Stopping))
    }
}

impl<K: Clone + Eq + Hash, V: Items> Listings<K, V> {
    pub(super) fn new(limits: ListingLimits) -> Arc<Self> {
        Arc::new(Self { limits, state: Mutex::new(State { lists: HashMap::new(), uses: 0 }) })
    }

    /// What there is; and, if it is to be asked for, the promise of an answer that the caller has to keep.
    pub(super) fn look(self: &Arc<Self>, key: K, now: Instant) -> (Found<V>, Option<Promise<K, V>>) {
        let ListingLimits { fresh, renew_after, spare_for, asking, .. } = self.limits;
        let mut state = self.state();
        state.uses += 1;
        let used = state.uses;
        let is_full = state.lists.values().filter(|list| list.asking.is_some()).count() >= asking;
        let list = state.lists.entry(key.clone()).or_insert_with(List::empty);
        list.used = used;
        let kept = list.kept.as_ref().filter(|kept| kept.is_within(fresh, now));
        let failed = list.failed.as_ref().filter(|(at, _)| now.saturating_duration_since(*at) < spare_for);
        let here = match (kept, failed, &list.asking) {
            (Some(kept), failed, asked) => {
                let may_renew = failed.is_none() && asked.is_none() && !is_full;
                if !may_renew || kept.is_within(renew_after, now) {
                    return (Found::Here(kept.value.clone()), None);
                }
                Some(kept.value.clone())
            }
            (None, Some((_, error)), _) => return (Found::Failed(error.clone()), None),
            (None, None, Some(asked)) => return (Found::Asked(asked.clone()), None),
            (None, None, None) if is_full => {
                state.make_room(now, self.limits);
                return (Found::Failed(PlatformError::TooManyListings { limit: asking }), None);
            }
            (None, None, None) => None,
        };
        let (answer, asked) = watch::channel(None);
        list.asking = Some(asked.clone());
        let found = here.map_or(Found::Asked(asked), Found::Here);
        (found, Some(Promise { listings: self.clone(), key, at: now, answer }))
    }

    fn state(&self) -> MutexGuard<'_, State<K, V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many lists and items are kept.
    #[cfg(test)]
    fn size(&self) -> (usize, usize) {
        let state = self.state();
        (state.lists.values().filter(|list| list.kept.is_some()).count(), state.items())
    }
}

impl<V> List<V> {
    fn empty() -> Self {
        Self { kept: None, failed: None, asking: None, used: 0 }
    }

    /// Whether nothing in it is of use any more.
    fn is_empty(&self, now: Instant, limits: ListingLimits) -> bool {
        self.asking.is_none()
            && self.kept.as_ref().is_none_or(|kept| !kept.is_within(limits.fresh, now))
            && self
                .failed
                .as_ref()
                .is_none_or(|(at, _)| now.saturating_duration_since(*at) >= limits.spare_for)
    }
}

impl<V> Kept<V> {
    fn is_within(&self, age: std::time::Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < age
    }
}

impl<K: Clone + Eq + Hash, V: Items> State<K, V> {
    fn items(&self) -> usize {
        self.lists.values().filter_map(|list| list.kept.as_ref()).map(|kept| kept.value.items()).sum()
    }

    /// Lets go of what is over, then of what was used least recently, until the limits hold.
    fn make_room(&mut self, now: Instant, limits: ListingLimits) {
        self.lists.retain(|_, list| !list.is_empty(now, limits));
        let mut items = self.items();
        while self.lists.len() > limits.lists || items > limits.items {
            // What is being asked for has somebody who waits for it.
            let idle = self.lists.iter().filter(|(_, list)| list.asking.is_none());
            let Some((key, _)) = idle.min_by_key(|(_, list)| list.used) else { return };
            let key = key.clone();
            let gone = self.lists.remove(&key).and_then(|list| list.kept);
            items -= gone.map_or(0, |kept| kept.value.items());
        }
    }
}

/// Somebody asks; dropped without an answer, those who wait hear that the platform stops.
pub(super) struct Promise<K: Clone + Eq + Hash, V: Items> {
    listings: Arc<Listings<K, V>>,
    key: K,
    at: Instant,
    answer: watch::Sender<Answered<V>>,
}

impl<K: Clone + Eq + Hash, V: Items> Promise<K, V> {
    pub(super) fn keep(self, answer: Result<V, PlatformError>, now: Instant) {
        let answer = answer.map(Arc::new);
        let limits = self.listings.limits;
        {
            let mut state = self.listings.state();
            let list = state.lists.entry(self.key.clone()).or_insert_with(List::empty);
            list.asking = None;
            match &answer {
                Ok(value) => {
                    list.kept = Some(Kept { value: value.clone(), at: self.at });
                    list.failed = None;
                }
                Err(error) => {
                    if shuts_out(error) {
                        list.kept = None;
                    }
                    list.failed = is_the_hosts(error).then(|| (now, error.clone()));
                }
            }
            state.make_room(now, limits);
        }
        self.answer.send_replace(Some(answer));
    }
}

impl<K: Clone + Eq + Hash, V: Items> Drop for Promise<K, V> {
    fn drop(&mut self) {
        // After `keep` there is nothing of it.
        let mut state = self.listings.state();
        if let Some(list) = state.lists.get_mut(&self.key)
            && list.asking.as_ref().is_some_and(|asked| asked.same_channel(&self.answer.subscribe()))
        {
            list.asking = None;
        }
    }
}

/// Whether the git host, or the agent in its stead, took the trouble: it is not asked again at once.
fn is_the_hosts(error: &PlatformError) -> bool {
    matches!(error, PlatformError::Failed(_) | PlatformError::NoAnswer { .. })
}

/// Whether what was seen before may not be seen any more.
fn shuts_out(error: &PlatformError) -> bool {
    use FailureReason::{CredentialsNeeded, RepoNotAllowed, RepoNotFound};
    matches!(error, PlatformError::Failed(failure)
        if matches!(failure.reason, CredentialsNeeded | RepoNotAllowed | RepoNotFound))
}

/// The tasks that ask; they end with the platform, at the latest after its limit for an answer.
#[derive(Debug, Default)]
pub(super) struct Asking(Mutex<JoinSet<()>>);

impl Asking {
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// Waits until all have ended.
    pub(super) async fn ended(&self) {
        let mut tasks = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        while tasks.join_next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::failure::Failure;
    use crate::secret::Secret;

    impl Items for usize {
        fn items(&self) -> usize {
            *self
        }
    }

    type Numbers = Arc<Listings<&'static str, usize>>;

    fn listings(change: impl FnOnce(&mut ListingLimits)) -> (Numbers, Instant) {
        let mut limits = ListingLimits::default();
        change(&mut limits);
        (Listings::new(limits), Instant::now())
    }

    fn failed(reason: FailureReason) -> PlatformError {
        PlatformError::Failed(Failure::new(None, reason, "no"))
    }

    /// Looks, and answers if that is to be asked for; says what was found and whether it was asked for.
    fn look(
        listings: &Numbers,
        key: &'static str,
        now: Instant,
        answer: Result<usize, PlatformError>,
    ) -> String {
        let (found, promise) = listings.look(key, now);
        let asked = if promise.is_some() { ", asks" } else { "" };
        if let Some(promise) = promise {
            promise.keep(answer, now);
        }
        match found {
            Found::Here(value) => format!("{value}{asked}"),
            Found::Failed(error) => format!("{}{asked}", error.code()),
            Found::Asked(answered) => match &*answered.borrow() {
                Some(Ok(value)) => format!("waits for {value}{asked}"),
                Some(Err(error)) => format!("waits for {}{asked}", error.code()),
                None => "waits".to_owned(),
            },
        }
    }

    #[test]
    fn a_list_is_kept_renewed_while_it_is_used_and_asked_for_again_when_it_is_old() {
        let (listings, start) = listings(|_| {});
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(look(&listings, "a", start, Ok(1)), "waits for 1, asks");
        assert_eq!(look(&listings, "a", after(19), Ok(2)), "1");
        assert_eq!(look(&listings, "a", after(20), Ok(2)), "1, asks", "renewed behind the reader's back");
        assert_eq!(look(&listings, "a", after(39), Ok(3)), "2");
        assert_eq!(look(&listings, "a", after(80), Ok(3)), "waits for 3, asks", "too old to be shown");
        assert_eq!(look(&listings, "b", after(80), Ok(4)), "waits for 4, asks", "another key");
        // A renewal that fails is not repeated at once, and takes nothing away while the list is fresh.
        let unreachable = || Err(failed(FailureReason::GitUnreachable));
        assert_eq!(look(&listings, "a", after(110), unreachable()), "3, asks");
        assert_eq!(look(&listings, "a", after(111), Ok(5)), "3");
        assert_eq!(look(&listings, "a", after(112), unreachable()), "3, asks");
        assert_eq!(look(&listings, "a", after(140), unreachable()), "waits for git_unreachable, asks");
        assert_eq!(look(&listings, "a", after(141), Ok(5)), "git_unreachable", "the host is spared");
        assert_eq!(look(&listings, "a", after(142), Ok(5)), "waits for 5, asks");
    }

    #[test]
    fn who_is_shut_out_sees_nothing_any_more() {
        for reason in [FailureReason::CredentialsNeeded, FailureReason::RepoNotFound] {
            let (listings, start) = listings(|_| {});
            let after = |seconds| start + Duration::from_secs(seconds);
            look(&listings, "a", start, Ok(1));
            assert_eq!(look(&listings, "a", after(30), Err(failed(reason))), "1, asks");
            assert_eq!(look(&listings, "a", after(31), Ok(1)), reason.code());
        }
    }

    #[test]
    fn only_the_hosts_failures_are_kept() {
        let (listings, start) = listings(|_| {});
        assert_eq!(look(&listings, "a", start, Err(PlatformError::NoAgent)), "waits for no_agent, asks");
        assert_eq!(look(&listings, "a", start, Ok(1)), "waits for 1, asks");
    }

    #[test]
    fn one_asks_and_the_others_wait_for_its_answer() {
        let (listings, now) = listings(|limits| limits.asking = 1);
        let (_, promise) = listings.look("a", now);
        let promise = promise.expect("the first asks");
        let (second, none) = listings.look("a", now);
        assert!(none.is_none());
        let (other, none) = listings.look("b", now);
        assert!(
            none.is_none() && matches!(other, Found::Failed(PlatformError::TooManyListings { limit: 1 }))
        );
        promise.keep(Ok(7), now);
        let Found::Asked(second) = second else { panic!("it waits") };
        assert!(matches!(&*second.borrow(), Some(Ok(value)) if **value == 7));
        // One that is given up leaves the way free.
        drop(listings.look("b", now).1.expect("asks"));
        assert_eq!(look(&listings, "b", now, Ok(8)), "waits for 8, asks");
    }

    #[test]
    fn what_was_used_least_recently_goes_first() {
        let (listings, now) = listings(|limits| (limits.lists, limits.items) = (3, 100));
        for key in ["a", "b", "c"] {
            look(&listings, key, now, Ok(10));
        }
        assert_eq!(look(&listings, "a", now, Ok(0)), "10");
        look(&listings, "d", now, Ok(10));
        assert_eq!(listings.size(), (3, 30));
        assert_eq!(look(&listings, "a", now, Ok(0)), "10", "b went");
        look(&listings, "e", now, Ok(90));
        assert_eq!(listings.size(), (2, 100));
        assert_eq!(look(&listings, "huge", now, Ok(101)), "waits for 101, asks", "shown, and not kept");
        assert_eq!(listings.size(), (0, 0));
        // What is too old to be shown is not kept until somebody wants its place.
        look(&listings, "a", now, Ok(10));
        look(&listings, "b", now + Duration::from_secs(60), Ok(20));
        assert_eq!(listings.size(), (1, 20));
    }

    #[test]
    fn an_identity_is_of_name_and_password_and_of_this_process_alone() {
        let credential = |username: &str, password: &str| GitCredential {
            username: username.to_owned(),
            password: Secret::new(password),
        };
        let (here, elsewhere) = (Identities::new().expect("random"), Identities::new().expect("random"));
        let alice = here.of(Some(&credential("alice", "x")));
        assert!(alice == here.of(Some(&credential("alice", "x"))));
        for other in [
            Some(credential("alice", "y")),
            Some(credential("bob", "x")),
            Some(credential("alic", "ex")),
            None,
        ] {
            assert!(alice != here.of(other.as_ref()), "{other:?}");
        }
        assert!(alice != elsewhere.of(Some(&credential("alice", "x"))));
    }
}
