//! Limits under a clock that the tests move.

use crate::edge::Proof;
use governor::clock::FakeRelativeClock;

use super::*;

fn limits() -> Limits {
    Limits {
        requests_per_minute: 6,
        writes_per_minute: 2,
        login_attempts_per_minute: 3,
        refused_per_minute: 2,
        sockets_per_principal: 2,
        connections: 64,
        connections_per_address: 2,
        ..Limits::default()
    }
}

fn limiter() -> (Limiter<FakeRelativeClock>, FakeRelativeClock) {
    let clock = FakeRelativeClock::default();
    (Limiter::with_clock(&limits(), &clock), clock)
}

fn caller(principal: Principal, rank: Rank, through: Through, speaks_for: SpeaksFor) -> Caller {
    let proof =
        Proof::Token { name: "x".parse().expect("a name"), value: sdp_core::secret::Secret::new("x") };
    let standing = Standing { rank, through, account: false, speaks_for, limited: false };
    Caller { principal, proof, standing, account: None, service: None, chat_user: None, bound: None }
}

fn token(name: &str, rank: Rank, through: Through) -> Caller {
    caller(Principal::Token { name: name.parse().expect("a name") }, rank, through, SpeaksFor::Nobody)
}

fn program(name: &str) -> Caller {
    token(name, Rank::Admin, Through::Token)
}

fn chat() -> Caller {
    token("chat", Rank::Viewer, Through::Bot)
}

fn person(name: &str) -> Caller {
    let principal = Principal::person(name.parse().expect("a name"));
    caller(principal, Rank::Developer, Through::Session, SpeaksFor::Nobody)
}

fn bot_for(name: &str, speaks_for: SpeaksFor) -> Caller {
    let (name, person) = ("chat".parse().expect("a name"), name.parse().expect("a name"));
    caller(Principal::Bot { name, person }, Rank::Developer, Through::Bot, speaks_for)
}

/// As `authenticate` makes it of a user of the chat who has no account: the bot's principal, and for whom it speaks.
fn stranger(user: &str) -> Caller {
    let bot: sdp_core::name::TokenName = "chat".parse().expect("a name");
    let principal = Principal::Token { name: bot.clone() };
    let chat_user = sdp_core::access::ChatUser { bot, user: user.parse().expect("a name") };
    let caller = caller(principal, Rank::Viewer, Through::Bot, SpeaksFor::Stranger);
    Caller { chat_user: Some(chat_user), ..caller }
}

fn from(text: &str) -> ClientAddress {
    ClientAddress(text.parse().expect("an address"))
}

/// How many pass at once.
fn pass(mut ask: impl FnMut() -> Result<(), Refused>) -> usize {
    (0..1000).take_while(|_| ask().is_ok()).count()
}

#[test]
fn each_has_buckets_of_their_own_and_a_bot_larger_ones() {
    let (limiter, clock) = limiter();
    let ask = |caller: &Caller, is_write| pass(|| limiter.request(caller, is_write));
    assert_eq!(ask(&program("ci"), false), 6);
    assert_eq!(ask(&program("other"), false), 6, "somebody else is not held up");
    assert_eq!(ask(&person("alice"), true), 2, "writes have a smaller one");
    assert_eq!(ask(&person("alice"), false), 3, "which is a part of the larger one");
    assert_eq!(ask(&bot_for("alice", SpeaksFor::Person), false), 0, "a person is the same in chat");
    assert_eq!(
        ask(&bot_for("alice", SpeaksFor::Person), false),
        0,
        "and takes nothing of the bot's any more"
    );
    assert_eq!(ask(&bot_for("bob", SpeaksFor::Person), false), 6);
    assert_eq!(ask(&stranger("alice"), false), 6, "a stranger of that name is another");
    assert_eq!(ask(&chat(), false), 60 - 12, "what it did for others is in its own");
    assert_eq!(ask(&token("vm-1", Rank::Agent, Through::Token), true), 1000, "agents have none");
    clock.advance(Duration::from_secs(10));
    assert_eq!(ask(&program("ci"), false), 1, "it fills up evenly");
    clock.advance(Duration::from_secs(3600));
    assert_eq!(ask(&program("ci"), false), 6, "and never beyond its size");
}

#[test]
fn a_refusal_says_when_to_come_again() {
    let (limiter, clock) = limiter();
    let alice = person("alice");
    assert_eq!(pass(|| limiter.request(&alice, true)), 2);
    let refused = limiter.request(&alice, true).expect_err("too many");
    assert_eq!((refused.code(), refused.seconds_to_wait()), ("too_many_requests", Some(30)));
    assert_eq!(refused.problem().hint.as_deref(), Some("try again in 30 s"));
    clock.advance(Duration::from_millis(29_900));
    let refused = limiter.request(&alice, true).expect_err("too many");
    assert_eq!(refused.seconds_to_wait(), Some(1), "a whole second at least");
    let response = refused.into_response();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["retry-after"]),
        (429, &"1".parse().expect("ok"))
    );
    clock.advance(Duration::from_millis(200));
    assert_eq!(pass(|| limiter.request(&alice, true)), 1);
}

#[test]
fn logins_are_counted_by_address_and_by_name() {
    let (limiter, clock) = limiter();
    let guess = |address: &str, name: &str| pass(|| limiter.login(from(address), name));
    assert_eq!(guess("203.0.113.9", "alice"), 3);
    assert_eq!(guess("203.0.113.9", "bob"), 0, "the address has had its share");
    assert_eq!(guess("198.51.100.1", "Alice "), 0, "and so has the name");
    assert_eq!(guess("192.0.2.1", "bob"), 3);
    clock.advance(Duration::from_secs(60));
    // The same network, whatever the rest of the address.
    assert_eq!(guess("2001:db8:0:1::1", "carol"), 3);
    assert_eq!(guess("2001:db8:0:1:ffff::2", "dave"), 0);
    assert_eq!(guess("2001:db8:0:2::1", "dave"), 3);
    assert_eq!(pass(|| limiter.refused(from("203.0.113.9"))), 2);
}

#[test]
fn places_for_feeds_come_back_and_leave_room_for_requests() {
    let (limiter, _) = limiter();
    let alice = person("alice");
    let first = limiter.socket(&alice).expect("a place");
    let second = limiter.socket(&bot_for("alice", SpeaksFor::Person)).expect("a place");
    let refused = limiter.socket(&alice).expect_err("two are there");
    assert_eq!((refused.code(), refused.seconds_to_wait()), ("too_many_requests", Some(10)));
    drop(first);
    let third = limiter.socket(&alice).expect("one has gone");
    let bots: Vec<_> = (0..19).map(|_| limiter.socket(&chat()).expect("a place")).collect();
    assert!(limiter.socket(&chat()).is_err(), "twenty with that for alice");
    drop((second, third, bots));
    assert!(limiter.open.of().is_empty(), "nothing is kept of those who have gone");
    let all: Vec<_> = (0..100).map_while(|n| limiter.socket(&person(&format!("p{n}"))).ok()).collect();
    assert_eq!(all.len(), 48, "three quarters of the connections");
    assert_eq!(limiter.socket(&alice).expect_err("none is left").code(), "too_many_connections");
}

#[test]
fn memory_is_bounded_and_what_is_full_again_is_forgotten() {
    let clock = FakeRelativeClock::default();
    let mut buckets = Buckets::new(2, &clock);
    buckets.keys = 100;
    let address = |n: u32| Key::Address(IpAddr::V4(n.into()));
    for n in 0..100_000 {
        // Beyond the room for keys some are refused for others: they share.
        let _shared = buckets.take(&address(n));
    }
    let most = 100 + usize::try_from(CROWD).expect("small");
    assert!(buckets.keyed.len() <= most, "{}", buckets.keyed.len());
    buckets.forget();
    assert!(buckets.keyed.len() > 100, "they are not full yet");
    clock.advance(Duration::from_secs(3600));
    buckets.forget();
    assert_eq!(buckets.keyed.len(), 0);
    assert_eq!(pass(|| buckets.take(&address(7)).map_err(|wait| too_often("", "", wait))), 2);
}

#[test]
fn an_address_has_so_many_connections_and_another_its_own() {
    let (limiter, _) = limiter();
    let first = limiter.connection(from("203.0.113.9")).expect("a place");
    let second = limiter.connection(from("203.0.113.9")).expect("a place");
    assert!(limiter.connection(from("203.0.113.9")).is_none());
    let other = limiter.connection(from("198.51.100.1")).expect("a place");
    drop(first);
    let third = limiter.connection(from("203.0.113.9")).expect("one has gone");
    drop((second, third, other));
    assert!(limiter.connected.of().is_empty(), "nothing is kept of those who have gone");
}
