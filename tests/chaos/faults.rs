//! Which faults a round has, and when: drawn from its seed before it begins, done to the [`Cluster`] at their times.
//!
//! A round has a theme, so that not every deployment dies of the same: in some the agents live and only server, bot and links
//! suffer, and then no outcome may change; one of five has a link that is half open, which takes as long as the pings take.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::cluster::{Cluster, Target};
use crate::processes::Kind;
use crate::rng::Rng;

/// Faults begin within so much time after the first deployment.
const WINDOW: u64 = 8000;
/// One round of so many has a half-open link.
const HALF_OPEN_EACH: u32 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Ended, and started again after a while.
    Restart { target: Target, kind: Kind, away: Duration },
    /// Gets no time.
    Pause { target: Target, time: Duration },
    /// Something with an agent's link; `much` is milliseconds, bytes or bytes per second.
    Link { agent: usize, kind: Kind, time: Duration, much: u64 },
}

/// The faults of a round, each with its time.
pub(crate) fn draw(round: u32, agents: usize, rng: &mut Rng) -> Vec<(Duration, Fault)> {
    let half_open = (round % HALF_OPEN_EACH == 3).then(|| rng.between(0, agents as u64 - 1) as usize);
    // Which agents are restarted: none, one, the other, both.
    let theme = rng.between(0, 3);
    let suffers = |agent: usize| theme >> agent & 1 == 1 && half_open != Some(agent);
    let mut faults = Vec::new();
    let kind = |rng: &mut Rng| if rng.chance(75) { Kind::Kill } else { Kind::Terminate };
    for _ in 0..rng.between(2, 4) {
        let (kind, away) = (kind(rng), rng.millis(0, 3000));
        faults.push((rng.millis(500, WINDOW), Fault::Restart { target: Target::Server, kind, away }));
    }
    for _ in 0..rng.between(1, 2) {
        let away = rng.millis(0, 2000);
        faults
            .push((rng.millis(500, WINDOW), Fault::Restart { target: Target::Bot, kind: Kind::Kill, away }));
    }
    for agent in 0..agents {
        if suffers(agent) {
            for _ in 0..rng.between(1, 2) {
                let (kind, away) = (kind(rng), rng.millis(0, 3000));
                faults.push((
                    rng.millis(500, WINDOW),
                    Fault::Restart { target: Target::Agent(agent), kind, away },
                ));
            }
        }
        if half_open == Some(agent) {
            let time = rng.millis(3000, 8000);
            faults.push((rng.millis(1500, 4000), Fault::Link { agent, kind: Kind::HalfOpen, time, much: 0 }));
            continue;
        }
        for _ in 0..rng.between(2, 4) {
            let kind = *rng.pick(&[
                Kind::Cut,
                Kind::Cut,
                Kind::CutInFrame,
                Kind::CutInFrame,
                Kind::Delay,
                Kind::Slow,
                Kind::Refuse,
            ]);
            let (time, much) = match kind {
                Kind::CutInFrame => (Duration::from_secs(2), rng.between(1, 20_000)),
                Kind::Delay => (rng.millis(500, 3000), rng.between(50, 2000)),
                Kind::Slow => (rng.millis(500, 3000), rng.between(2000, 50_000)),
                _ => (rng.millis(200, 3000), 0),
            };
            faults.push((rng.millis(300, WINDOW), Fault::Link { agent, kind, time, much }));
        }
    }
    if rng.chance(50) {
        let target = *rng.pick(&[Target::Server, Target::Agent(0), Target::Agent(agents - 1)]);
        faults.push((rng.millis(500, WINDOW), Fault::Pause { target, time: rng.millis(500, 2000) }));
    }
    faults.sort_by_key(|(at, _)| *at);
    faults
}

/// Does them all, and returns when the last one is over.
pub(crate) async fn inflict(cluster: &Arc<Cluster>, faults: Vec<(Duration, Fault)>) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for (at, fault) in faults {
        let cluster = cluster.clone();
        tasks.spawn(async move {
            sleep_until(begun + at).await;
            match fault {
                Fault::Restart { target, kind, away } => cluster.restart(target, kind, away).await,
                Fault::Pause { target, time } => {
                    cluster.pause(target, time).await;
                    Ok(())
                }
                Fault::Link { agent, kind, time, much } => cluster.link(agent, kind, time, much).await,
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_faults_and_over_the_rounds_every_kind_comes() {
        let faults = |round| draw(round, 2, &mut Rng::of(5, round, 2));
        assert_eq!(faults(1), faults(1));
        let all: Vec<Fault> = (1..=40).flat_map(faults).map(|(_, fault)| fault).collect();
        let is_there = |kind: Kind| {
            all.iter().any(|fault| match fault {
                Fault::Restart { kind: drawn, .. } | Fault::Link { kind: drawn, .. } => *drawn == kind,
                Fault::Pause { .. } => kind == Kind::Pause,
            })
        };
        for kind in [
            Kind::Kill,
            Kind::Terminate,
            Kind::Pause,
            Kind::Cut,
            Kind::CutInFrame,
            Kind::Delay,
            Kind::Slow,
            Kind::Refuse,
            Kind::HalfOpen,
        ] {
            assert!(is_there(kind), "{kind:?} never comes");
        }
        let half_open = |round| {
            let is = |fault: &Fault| matches!(fault, Fault::Link { kind: Kind::HalfOpen, .. });
            faults(round).iter().filter(|(_, fault)| is(fault)).count()
        };
        assert_eq!((1..=5).map(half_open).sum::<usize>(), 1, "one in five rounds takes that long");
    }
}
