//! How often somebody may ask, and how much they may have open at once, so that one who asks without end costs the others
//! nothing.
//!
//! ```text
//! request ─▶ refusals ─▶ who asks ─▶ requests ─▶ handler ─▶ place for a feed or viewer
//!            (answers with 401,      (a person, a token, a bot)
//!             by address)
//! ```
//! Each limit is a bucket that is full at first and fills up evenly: so many at once, then so many a minute. A person has one,
//! whether they use pages or chat. A bot has that of the person it speaks for and one of its own, ten times as large. Agents have
//! none. A right token is never refused for the wrong ones that come from its address: those alone are counted there.
//!
//! The invariant: memory is bounded. Buckets that are full again are forgotten ([`forget`], each [`FORGET_EACH`]); beyond
//! [`KEYS`] of a kind, those that come share [`CROWD`] buckets. An IPv6 address counts as its network (/64), which is what a
//! customer of a provider has.
//!
//! Connections themselves are counted by the address at their other end, before anything is known of them: one that has too many
//! is hung up on. A proxy of ours has no such limit; it is the one to count its clients.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use sdp_core::name::{PersonName, TokenName};
use sdp_core::principal::Principal;
use sha2::{Digest, Sha256};
use tokio::time::{MissedTickBehavior, interval};

use super::who::{Rank, SpeaksFor, Standing, Through};
use super::{Caller, ClientAddress, presented_session};
use crate::app::App;
use crate::config::Limits;
use crate::pages::{sign_in::problem_page, wants_page};
use crate::problem::Refused;

/// How much more a bot may than a person.
const BOT: u32 = 10;
/// How many buckets of a kind are kept.
const KEYS: usize = 50_000;
/// How many those share who come when there are so many.
const CROWD: u64 = 1024;
/// How often buckets that are full again are forgotten.
const FORGET_EACH: Duration = Duration::from_secs(60);
/// Feeds and viewers together may hold so much of all connections: the rest is for requests.
const LONG_SHARE: (usize, usize) = (3, 4);
/// When somebody whose feeds are too many may try again; nobody knows when one of them ends.
const SOCKETS_RETRY: Duration = Duration::from_secs(10);

/// Whose bucket it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Person(PersonName),
    Token(TokenName),
    /// A user of a bot's chat who is bound to no account.
    Stranger(TokenName, PersonName),
    /// IPv6: the network.
    Address(IpAddr),
    /// Who somebody says they are: a digest, for it may be of any length.
    User([u8; 32]),
    /// One of those for whom there was no room.
    Crowd(u64),
}

impl Key {
    fn address(ClientAddress(address): ClientAddress) -> Self {
        Self::Address(match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(address) => {
                let network = u128::from(address) >> 64 << 64;
                IpAddr::V6(network.into())
            }
        })
    }
}

/// Who has to have room in their buckets: themselves, and the bot that asks for them.
struct Askers {
    own: Option<Key>,
    bot: Option<Key>,
}

impl Askers {
    fn of(caller: &Caller) -> Self {
        let Standing { rank, through, speaks_for, .. } = caller.standing;
        // Who in a chat is called as a person need not be that person.
        if let (SpeaksFor::Stranger, Some(of)) = (speaks_for, &caller.chat_user) {
            let stranger = Key::Stranger(of.bot.clone(), of.user.clone());
            return Self { own: Some(stranger), bot: Some(Key::Token(of.bot.clone())) };
        }
        match &caller.principal {
            Principal::Bot { name, person } => {
                Self { own: Some(Key::Person(person.clone())), bot: Some(Key::Token(name.clone())) }
            }
            Principal::Person { name } => Self { own: Some(Key::Person(name.clone())), bot: None },
            Principal::Token { .. } if rank == Rank::Agent => Self { own: None, bot: None },
            Principal::Token { name } if through == Through::Bot => {
                Self { own: None, bot: Some(Key::Token(name.clone())) }
            }
            Principal::Token { name } => Self { own: Some(Key::Token(name.clone())), bot: None },
            _ => Self { own: None, bot: None },
        }
    }
}

type Keyed<C> = RateLimiter<Key, HashMapStateStore<Key>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// Buckets of one size.
struct Buckets<C: Clock> {
    keyed: Keyed<C>,
    clock: C,
    hasher: RandomState,
    per_minute: u32,
    keys: usize,
}

impl<C: Clock + Clone> Buckets<C> {
    fn new(per_minute: u32, clock: &C) -> Self {
        let quota = Quota::per_minute(NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN));
        Self {
            keyed: RateLimiter::hashmap_with_clock(quota, clock.clone()),
            clock: clock.clone(),
            hasher: RandomState::new(),
            per_minute,
            keys: KEYS,
        }
    }

    /// Takes one out; else says when there is one again.
    fn take(&self, key: &Key) -> Result<(), Duration> {
        let crowd;
        let key = if self.keyed.len() < self.keys {
            key
        } else {
            crowd = Key::Crowd(self.hasher.hash_one(key) % CROWD);
            &crowd
        };
        self.keyed.check_key(key).map_err(|until| until.wait_time_from(self.clock.now()))
    }

    fn take_for(&self, key: Option<&Key>) -> Result<(), Duration> {
        key.map_or(Ok(()), |key| self.take(key))
    }

    fn forget(&self) {
        self.keyed.retain_recent();
        self.keyed.shrink_to_fit();
    }
}

/// All limits of this kind.
pub(crate) struct Limiter<C: Clock = DefaultClock> {
    requests: Buckets<C>,
    bot_requests: Buckets<C>,
    writes: Buckets<C>,
    bot_writes: Buckets<C>,
    logins: Buckets<C>,
    refusals: Buckets<C>,
    open: Arc<Open>,
    /// Feeds and viewers of each, and of all together.
    sockets: usize,
    places: usize,
    connected: Arc<Open>,
    connections: usize,
}

/// What is open, of each.
#[derive(Debug, Default)]
struct Open {
    of: Mutex<HashMap<Key, usize>>,
}

impl Open {
    fn of(&self) -> MutexGuard<'_, HashMap<Key, usize>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(self: &Arc<Self>, keys: Vec<Key>) -> Place {
        let mut of = self.of();
        for key in &keys {
            *of.entry(key.clone()).or_default() += 1;
        }
        Place { open: self.clone(), keys }
    }
}

/// The right to have something open; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    open: Arc<Open>,
    keys: Vec<Key>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut of = self.open.of();
        for key in &self.keys {
            if let Some(count) = of.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    of.remove(key);
                }
            }
        }
    }
}

impl<C: Clock> std::fmt::Debug for Limiter<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limiter")
            .field("open", &self.open)
            .field("connected", &self.connected)
            .finish_non_exhaustive()
    }
}

impl Limiter {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self::with_clock(limits, &DefaultClock::default())
    }
}

impl<C: Clock + Clone> Limiter<C> {
    fn with_clock(limits: &Limits, clock: &C) -> Self {
        let buckets = |per_minute: u32| Buckets::new(per_minute, clock);
        let (share, of) = LONG_SHARE;
        Self {
            requests: buckets(limits.requests_per_minute),
            bot_requests: buckets(limits.requests_per_minute.saturating_mul(BOT)),
            writes: buckets(limits.writes_per_minute),
            bot_writes: buckets(limits.writes_per_minute.saturating_mul(BOT)),
            logins: buckets(limits.login_attempts_per_minute),
            refusals: buckets(limits.refused_per_minute),
            open: Arc::default(),
            sockets: limits.sockets_per_principal,
            places: (limits.connections * share / of).max(1),
            connected: Arc::default(),
            connections: limits.connections_per_address,
        }
    }

    /// Counts a request of somebody who is known.
    pub(crate) fn request(&self, caller: &Caller, is_write: bool) -> Result<(), Refused> {
        let Askers { own, bot } = Askers::of(caller);
        // In this order: whoever has had their share takes nothing of their bot's, which is there for others, too.
        for (buckets, key) in [(&self.requests, &own), (&self.bot_requests, &bot)] {
            buckets.take_for(key.as_ref()).map_err(|wait| {
                too_often(
                    "you ask too often",
                    &format!("at most {} requests a minute", buckets.per_minute),
                    wait,
                )
            })?;
        }
        let writes = [(&self.writes, &own), (&self.bot_writes, &bot)];
        for (buckets, key) in writes.into_iter().filter(|_| is_write) {
            buckets.take_for(key.as_ref()).map_err(|wait| {
                let most = format!("at most {} changes a minute", buckets.per_minute);
                too_often("you change things too often", &most, wait)
            })?;
        }
        Ok(())
    }

    /// Counts an attempt to log in, right or wrong, before it is looked at. The answer does not tell which of the two limits it
    /// was: from an address, for a user name.
    pub(crate) fn login(&self, address: ClientAddress, username: &str) -> Result<(), Refused> {
        let user = Key::User(Sha256::digest(username.trim().to_lowercase()).into());
        for key in [Key::address(address), user] {
            self.logins
                .take(&key)
                .map_err(|wait| too_often("there were too many attempts to log in", "", wait))?;
        }
        Ok(())
    }

    /// Counts an answer to a wrong token.
    fn refused(&self, address: ClientAddress) -> Result<(), Refused> {
        self.refusals.take(&Key::address(address)).map_err(|wait| {
            too_often(
                "too many requests with a token that is not valid came from this address",
                &format!("at most {} a minute are answered otherwise", self.refusals.per_minute),
                wait,
            )
        })
    }

    /// A place for a feed or viewer, to be kept as long as it is open.
    pub(crate) fn socket(&self, caller: &Caller) -> Result<Place, Refused> {
        let Askers { own, bot } = Askers::of(caller);
        let bot_sockets = self.sockets.saturating_mul(BOT as usize);
        let of = self.open.of();
        // A bot that speaks for somebody holds two keys; that it counts twice here does no harm.
        if of.values().sum::<usize>() >= self.places {
            return Err(Refused::new(
                "too_many_connections",
                "the server holds as many feeds and viewers as it may",
            ));
        }
        let mut keys = Vec::new();
        for (key, most) in [(own, self.sockets), (bot, bot_sockets)] {
            let Some(key) = key else { continue };
            if of.get(&key).is_some_and(|count| *count >= most) {
                return Err(Refused::new("too_many_requests", "you have too many feeds and viewers open")
                    .detail(format!("at most {most} at once"))
                    .hint("close pages and programs that follow events or logs, then try again")
                    .retry_after(SOCKETS_RETRY));
            }
            keys.push(key);
        }
        drop(of);
        Ok(self.open.take(keys))
    }

    /// A place for a connection from this address; none if it has as many as it may.
    pub(crate) fn connection(&self, address: ClientAddress) -> Option<Place> {
        let key = Key::address(address);
        let is_full = self.connected.of().get(&key).is_some_and(|count| *count >= self.connections);
        (!is_full).then(|| self.connected.take(vec![key]))
    }

    fn forget(&self) {
        let Self { requests, bot_requests, writes, bot_writes, logins, refusals, .. } = self;
        for buckets in [requests, bot_requests, writes, bot_writes, logins, refusals] {
            buckets.forget();
        }
    }
}

fn too_often(title: &str, detail: &str, wait: Duration) -> Refused {
    let refused = Refused::new("too_many_requests", title).retry_after(wait);
    let seconds = refused.seconds_to_wait().unwrap_or(1);
    let refused = refused.hint(format!("try again in {seconds} s"));
    if detail.is_empty() { refused } else { refused.detail(detail) }
}

/// Lets pass who does not ask too often. Comes after it is known who asks.
pub(crate) async fn limit_requests(State(app): State<App>, request: Request, next: Next) -> Response {
    let Some(caller) = request.extensions().get::<Caller>() else { return next.run(request).await };
    let is_write = !matches!(*request.method(), Method::GET | Method::HEAD);
    match app.limits().request(caller, is_write) {
        Ok(()) => next.run(request).await,
        Err(refused) => answer(&app, refused, wants_page(request.headers()), Some(&caller.principal)),
    }
}

/// Counts the answers with 401 to those who presented something, and beyond the limit says that instead. Comes before it is
/// known who asks.
pub(crate) async fn limit_refusals(State(app): State<App>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let presented =
        headers.contains_key(header::AUTHORIZATION) || presented_session(app.config(), headers).is_some();
    let address = request.extensions().get::<ClientAddress>().copied();
    let is_page = wants_page(headers);
    let response = next.run(request).await;
    match address {
        Some(address) if presented && response.status() == StatusCode::UNAUTHORIZED => {
            match app.limits().refused(address) {
                Ok(()) => response,
                Err(refused) => answer(&app, refused, is_page, None),
            }
        }
        _ => response,
    }
}

fn answer(app: &App, refused: Refused, is_page: bool, principal: Option<&Principal>) -> Response {
    app.metrics().refused(refused.code());
    if is_page { problem_page(refused, principal) } else { refused.into_response() }
}

/// Forgets what is not needed any more, until the server stops.
pub(crate) async fn forget(app: App) {
    let mut tick = interval(FORGET_EACH);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = app.drain().cancelled() => return,
            _ = tick.tick() => app.limits().forget(),
        }
    }
}
