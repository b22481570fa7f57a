//! Histories of a whole SDP under faults, made up by proptest: a real server, two real agents with their spools, git and builds, a
//! faulty link between them, and a model of a container engine behind each agent. However it goes, this holds:
//!
//! - an attempt is given at most one container, and a service in a sandbox one route;
//! - what has ended has ended, once;
//! - what is acknowledged is durable: no life of the server asks for it again;
//! - lines and progress are numbered densely, applied once, and the log is what the agent's copy is, byte for byte;
//! - a request that is made twice has one effect;
//! - **once faults stop, everything ends**, and what runs is what the server says and routes to.
//!
//! ```text
//!   people ─▶ Platform ◀── link: drop, duplicate, overtake, delay, cut, part ──▶ sdp_agent::run_on ─▶ Engine (model)
//!   (history)     │ events, logs        (witness looks on)                          │ real git, real builds
//!                 └───────────────▶ judge ◀──────────────────────────────────────────┘
//! ```
//! `history` says what may happen, `lives` and `link` make it happen, `witness` watches each frame, `judge` looks at the end.
//! Why a model of the engine, when nothing of our own is ever faked: the engine is the far side of `Runtime`, its state outlives
//! agents, and only a model can say of every container that was ever made whose it was. Docker itself is used elsewhere.
//!
//! **What the protocol promises inside a connection.** TCP keeps order and loses nothing, so most of it counts on that, and a
//! lost frame is healed by the next hello, or by a deadline:
//! lines and progress: gaps are asked for again, repetitions dropped; `deploy`, `accepted`: the accept limit, another attempt;
//! `cancel`, `stop_instance`: asked again; `done`, `done_ok`, an instance's state: the next hello (a job whose `done` is lost is
//! ended by its step's limit at the latest); `routes`, `routes_applied`, `drained`: their limits. Therefore faults end with one cut.
//!
//! **Failing again.** Histories come from a seed, but threads, timers and processes interleave as they like: a failing history may
//! need several runs. proptest shortens it, keeps its seed in `histories.proptest-regressions` (which is run first from then on),
//! and the failure shows the operations with all frames in their order.
//!
//! `SDP_MODEL_HISTORIES` says how many (300), `SDP_MODEL_SEED` from which seed (a number; `random`), `SDP_MODEL_THREADS` how many at
//! a time; `SDP_MODEL_SHOW=agent_lost` takes it for wrong that a deployment ends so, and shows how it came to that.
//! `scripts/test --long` lives through 10,000.

mod engine;
mod history;
mod judge;
mod link;
mod lives;
#[path = "../../examples/quickstart/samples.rs"]
#[expect(dead_code, reason = "shared with the quickstart, which uses more of it")]
mod samples;
mod story;
mod witness;

use std::collections::BTreeMap;
use std::panic;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use proptest::test_runner::{
    Config, FileFailurePersistence, RngAlgorithm, TestCaseError, TestRng, TestRunner,
};

use history::{Op, history};
use link::Fault;
use story::{Story, Tally};

/// A history is over after this, or it never is.
const HISTORY_WITHIN: Duration = Duration::from_secs(120);
/// So many histories have each kind of fault.
const MANY: u64 = 100;
const KEPT: &str = "tests/model/histories.proptest-regressions";

/// Panics, with the names of their threads: no task of SDP may have one, and tokio would hide it.
static PANICS: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());
/// Stories so far.
static STORIES: AtomicU64 = AtomicU64::new(0);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn setting(name: &str, otherwise: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// Lives through a history.
///
/// # Errors
/// What was wrong, with all that happened.
fn live(ops: &[Op]) -> Result<Tally, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let number = STORIES.fetch_add(1, Ordering::AcqRel);
        let mut story = Story::begin(number).await;
        let witness = story.witness();
        let living = async {
            for op in ops {
                story.apply(op).await;
                if witness.what_is_wrong().is_some() {
                    break;
                }
            }
            story.end().await
        };
        let tally = tokio::time::timeout(HISTORY_WITHIN, Box::pin(living)).await;
        let shown = std::env::var("SDP_MODEL_SHOW").unwrap_or_default();
        if tally.as_ref().is_ok_and(|tally| tally.outcomes.contains_key(&shown)) {
            witness.wrong(format!("a deployment ended as {shown}"));
        }
        if tally.is_err() {
            witness.wrong("the history is not over in time");
        }
        let name = lives::thread_name(number);
        for (_, panic) in lock(&PANICS).iter().filter(|(thread, _)| *thread == name) {
            witness.wrong(format!("a task panicked: {panic}"));
        }
        match (tally, witness.what_is_wrong()) {
            (Ok(tally), None) => Ok(tally),
            (_, wrong) => Err(format!("{}\n{}", wrong.unwrap_or_default(), witness.trace())),
        }
    })
}

/// Everything that histories of one thread came to.
type Sum = Arc<Mutex<(BTreeMap<String, usize>, Tally)>>;

fn explore(histories: u32, seed: [u8; 32], sum: &Sum) -> Result<(), String> {
    let config = Config {
        cases: histories,
        max_shrink_iters: 60,
        max_shrink_time: 60_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(KEPT))),
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let result = runner.run(&history(), |ops| {
        let tally = live(&ops).map_err(TestCaseError::fail)?;
        let mut sum = lock(sum);
        for (outcome, count) in tally.outcomes {
            *sum.0.entry(outcome).or_default() += count;
        }
        for (fault, count) in tally.faults {
            *sum.1.faults.entry(fault).or_default() += count;
        }
        sum.1.lives += tally.lives;
        sum.1.servers_killed += tally.servers_killed;
        sum.1.agents_killed += tally.agents_killed;
        Ok(())
    });
    result.map_err(|error| error.to_string())
}

#[test]
fn whatever_happens_nothing_is_lost_and_everything_ends() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        lock(&PANICS).push((thread, info.to_string()));
        before(info);
    }));
    let filter = std::env::var("SDP_TEST_LOG").unwrap_or_else(|_| "off".to_owned());
    tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init().ok();
    let histories = setting("SDP_MODEL_HISTORIES", 300);
    let threads = setting("SDP_MODEL_THREADS", 6).clamp(1, histories.max(1));
    let seed = match std::env::var("SDP_MODEL_SEED").as_deref() {
        Ok("random") => u64::from_le_bytes(uuid::Uuid::new_v4().as_bytes()[..8].try_into().expect("8 bytes")),
        _ => setting("SDP_MODEL_SEED", 1),
    };
    let (begun, sum) = (Instant::now(), Sum::default());
    let failures: Vec<String> = std::thread::scope(|scope| {
        let explorers: Vec<_> = (0..threads)
            .map(|thread| {
                let share = histories / threads + u64::from(thread < histories % threads);
                let mut bytes = [0; 32];
                bytes[..8].copy_from_slice(&seed.to_le_bytes());
                bytes[8..16].copy_from_slice(&thread.to_le_bytes());
                let sum = sum.clone();
                scope.spawn(move || explore(u32::try_from(share).expect("few enough"), bytes, &sum))
            })
            .collect();
        explorers.into_iter().filter_map(|explorer| explorer.join().expect("no panic").err()).collect()
    });
    let sum = lock(&sum);
    let Tally { faults, lives, servers_killed, agents_killed, .. } = &sum.1;
    let seconds = begun.elapsed().as_secs();
    println!(
        "{histories} histories of seed {seed} in {seconds} s: {faults:?}, {lives} lives, {servers_killed} servers and \
         {agents_killed} agents killed, {:?}",
        sum.0
    );
    assert!(failures.is_empty(), "seed {seed}:\n{}", failures.join("\n\n"));
    let count = |outcome: &str| sum.0.get(outcome).copied().unwrap_or_default();
    let enough = usize::try_from(histories / 20).expect("few enough");
    for outcome in ["succeeded", "cancelled", "build_failed"] {
        assert!(count(outcome) >= enough, "too few are {outcome}: {:?}", sum.0);
    }
    // A few histories may have none of one kind.
    if histories >= MANY {
        for fault in Fault::WORDS {
            let many = faults.get(fault).copied().unwrap_or_default() as u64;
            assert!(many >= histories / 50, "too few frames are hit by {fault}: {faults:?}");
        }
        assert!(*servers_killed >= enough, "too few servers are killed: {servers_killed}");
        assert!(*agents_killed >= enough, "too few agents are killed: {agents_killed}");
    }
}
