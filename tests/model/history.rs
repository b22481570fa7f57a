//! What may happen in a history: what people ask for, faults of the link, lives that end, time that passes.
//!
//! Each operation makes sense at any time (what is not there is passed over), so that a history shrinks by leaving some out.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::link::{Direction, Fault};

/// The branches of the services' repository, and what each one's `build` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Branch {
    Quick,
    Chatty,
    Slow,
    Fails,
    Endless,
}

impl Branch {
    pub(crate) const ALL: [Self; 5] = [Self::Quick, Self::Chatty, Self::Slow, Self::Fails, Self::Endless];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Chatty => "chatty",
            Self::Slow => "slow",
            Self::Fails => "fails",
            Self::Endless => "endless",
        }
    }

    /// How many numbered lines it prints.
    pub(crate) fn lines(self) -> usize {
        match self {
            Self::Quick => 20,
            Self::Chatty => 3000,
            Self::Slow => 12,
            Self::Fails => 10,
            Self::Endless => 5,
        }
    }

    pub(crate) fn script(self) -> String {
        let lines = self.lines();
        match self {
            Self::Quick | Self::Chatty => format!("seq 1 {lines}\n"),
            Self::Slow => format!("for n in $(seq 1 {lines}); do echo $n; sleep 0.02; done\n"),
            Self::Fails => format!("seq 1 {lines}\nexit 3\n"),
            Self::Endless => format!("seq 1 {lines}\nexec sleep 1000\n"),
        }
    }
}

/// How an instance fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Fine,
    Never,
    Exits,
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// Somebody deploys.
    Deploy {
        service: usize,
        sandbox: usize,
        branch: Branch,
        health: Health,
    },
    /// A request that was made is made again, word for word.
    Repeat(Index),
    Redeploy(Index),
    Cancel(Index),
    StopInstance(Index),
    DeleteSandbox(usize),
    /// A container ends by itself.
    Crash(Index),
    /// After so many more frames, one fares badly.
    Fault {
        agent: usize,
        direction: Direction,
        after: usize,
        fault: Fault,
    },
    /// The connection breaks; the agent connects again.
    Cut(usize),
    /// The connection breaks, and no other comes about until `Mend`.
    Part(usize),
    Mend,
    /// SIGKILL; started again after so many milliseconds.
    KillServer(u64),
    /// SIGTERM; started again after so many milliseconds.
    StopServer(u64),
    /// SIGKILL; it stays away until `StartAgents`.
    KillAgent(usize),
    /// SIGTERM.
    StopAgent(usize),
    StartAgents,
    /// Everything goes on until so many more frames have passed (or nothing moves).
    Frames(u64),
    /// Milliseconds pass.
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let branch = prop_oneof![
        6 => Just(Branch::Quick),
        2 => Just(Branch::Chatty),
        4 => Just(Branch::Slow),
        1 => Just(Branch::Fails),
        2 => Just(Branch::Endless),
    ];
    let health = prop_oneof![8 => Just(Health::Fine), 1 => Just(Health::Never), 1 => Just(Health::Exits)];
    let deploy = (0..2_usize, 0..2_usize, branch, health)
        .prop_map(|(service, sandbox, branch, health)| Op::Deploy { service, sandbox, branch, health });
    let direction = prop_oneof![2 => Just(Direction::ToServer), 1 => Just(Direction::ToAgent)];
    let fault = prop_oneof![
        3 => Just(Fault::Drop),
        2 => Just(Fault::Duplicate),
        2 => Just(Fault::Overtake),
        1 => (1..60_u64).prop_map(Fault::Delay),
        2 => Just(Fault::Cut),
    ];
    let fault = (0..2_usize, direction, 0..8_usize, fault)
        .prop_map(|(agent, direction, after, fault)| Op::Fault { agent, direction, after, fault });
    let index = any::<Index>;
    prop_oneof![
        12 => deploy,
        1 => index().prop_map(Op::Repeat),
        1 => index().prop_map(Op::Redeploy),
        3 => index().prop_map(Op::Cancel),
        1 => index().prop_map(Op::StopInstance),
        1 => (0..2_usize).prop_map(Op::DeleteSandbox),
        1 => index().prop_map(Op::Crash),
        9 => fault,
        1 => (0..2_usize).prop_map(Op::Cut),
        1 => (0..2_usize).prop_map(Op::Part),
        1 => Just(Op::Mend),
        2 => (0..60_u64).prop_map(Op::KillServer),
        1 => (0..60_u64).prop_map(Op::StopServer),
        2 => (0..2_usize).prop_map(Op::KillAgent),
        1 => (0..2_usize).prop_map(Op::StopAgent),
        3 => Just(Op::StartAgents),
        6 => (1..50_u64).prop_map(Op::Frames),
        2 => (1..500_u64).prop_map(Op::Pass),
    ]
}

/// A history, but for how it interleaves.
pub(crate) fn history() -> impl Strategy<Value = Vec<Op>> {
    vec(op(), 6..28)
}
