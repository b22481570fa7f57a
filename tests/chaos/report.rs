//! What a run found: violations, each with what somebody needs to look into it, and the figures of the table at its end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) round: u32,
    /// One word of what kind it is; figures are counted by it.
    pub(crate) check: &'static str,
    /// The deployment's branch and number, a container, a program.
    pub(crate) about: String,
    pub(crate) detail: String,
}

/// Figures of the whole run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) rounds: u32,
    pub(crate) outcomes: BTreeMap<String, u64>,
    /// Things that were counted, by what they are; the order is that of the table.
    counts: Vec<(&'static str, u64)>,
    pub(crate) incidents: BTreeMap<String, u64>,
    /// From an agent's start to the first event of each deployment that it held.
    pub(crate) recoveries: Vec<Duration>,
    /// From the last fault to the end of the last deployment.
    pub(crate) endings: Vec<Duration>,
    violations: Vec<Violation>,
}

/// Where everybody says what they found; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Findings {
    round: u32,
    figures: Arc<Mutex<Figures>>,
}

impl Findings {
    pub(crate) fn new(round: u32, figures: Arc<Mutex<Figures>>) -> Self {
        Self { round, figures }
    }

    pub(crate) fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn say(&self, check: &'static str, about: impl ToString, detail: impl Into<String>) {
        let violation =
            Violation { round: self.round, check, about: about.to_string(), detail: detail.into() };
        self.figures().violations.push(violation);
    }

    pub(crate) fn count(&self, what: &'static str, many: u64) {
        self.figures().count(what, many);
    }

    /// How many violations this round has.
    pub(crate) fn violations(&self) -> usize {
        self.figures().violations.iter().filter(|violation| violation.round == self.round).count()
    }
}

/// So many rounds have some of everything.
const SEVERAL: u32 = 4;

/// What the table always says, and must say 0.
const LOSSES: [(&str, &[&str]); 6] = [
    ("lost lines", &["lost"]),
    ("doubled lines", &["doubled"]),
    ("reordered lines", &["reordered"]),
    ("stuck deployments", &["stuck"]),
    ("orphans", &["orphan"]),
    ("decoys touched", &["decoy"]),
];

impl Figures {
    pub(crate) fn count(&mut self, what: &'static str, many: u64) {
        match self.counts.iter_mut().find(|(name, _)| *name == what) {
            Some((_, count)) => *count += many,
            None => self.counts.push((what, many)),
        }
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }

    /// A run of several rounds in which hardly anything was deployed, or nothing was killed, shows nothing: what it lacks, which
    /// counts as violations, too.
    pub(crate) fn demand_substance(&mut self) -> Vec<String> {
        if self.rounds < SEVERAL {
            return Vec::new();
        }
        let ended = |outcome: &str| self.outcomes.get(outcome).copied().unwrap_or_default();
        let all: u64 = self.outcomes.values().sum();
        let happened = |kind: &str| self.incidents.get(kind).copied().unwrap_or_default();
        let cuts: u64 =
            self.incidents.iter().filter(|(kind, _)| kind.starts_with("link ")).map(|(_, n)| n).sum();
        let wants = [
            ("deployments that succeeded", ended("succeeded"), all / 4),
            ("deployments whose build failed", ended("failed: build_failed"), 1),
            ("deployments that were cancelled", ended("cancelled"), 1),
            ("kills of the server", happened("SIGKILL of server"), 1),
            ("kills of an agent", happened("SIGKILL of an agent"), 1),
            ("faults of links", cuts, 1),
        ];
        let lacks = wants.into_iter().filter(|(_, found, wanted)| found < wanted);
        let lacks: Vec<String> =
            lacks.map(|(what, found, wanted)| format!("{found} {what}, at least {wanted} wanted")).collect();
        self.violations.extend(lacks.iter().map(|lack| Violation {
            round: 0,
            check: "substance",
            about: "the run".to_owned(),
            detail: lack.clone(),
        }));
        lacks
    }

    fn violations_of(&self, checks: &[&str]) -> usize {
        self.violations.iter().filter(|violation| checks.contains(&violation.check)).count()
    }

    /// The table.
    pub(crate) fn table(&self) -> String {
        let mut rows = vec![("rounds".to_owned(), self.rounds.to_string())];
        rows.extend(
            self.outcomes
                .iter()
                .map(|(outcome, count)| (format!("deployments {outcome}"), count.to_string())),
        );
        rows.extend(self.incidents.iter().map(|(kind, count)| (kind.clone(), count.to_string())));
        rows.extend(self.counts.iter().map(|(what, count)| ((*what).to_owned(), count.to_string())));
        rows.push(("recovery after a restart of an agent".to_owned(), spread(&self.recoveries)));
        rows.push(("last fault to last end".to_owned(), spread(&self.endings)));
        for (name, checks) in LOSSES {
            rows.push((name.to_owned(), self.violations_of(checks).to_string()));
        }
        let listed: Vec<&str> = LOSSES.iter().flat_map(|(_, checks)| *checks).copied().collect();
        let others = self.violations.iter().filter(|violation| !listed.contains(&violation.check)).count();
        rows.push(("other violations".to_owned(), others.to_string()));
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        rows.iter().fold(String::new(), |mut table, (name, value)| {
            let _infallible = writeln!(table, "{name:width$}  {value}");
            table
        })
    }

    /// Every violation of a round, with how to come back to it.
    pub(crate) fn account(&self, round: u32, seed: u64, folder: &Path) -> String {
        let mut text = String::new();
        let ours: Vec<_> = self.violations.iter().filter(|violation| violation.round == round).collect();
        for Violation { check, about, detail, .. } in &ours {
            let _infallible = writeln!(text, "  {check}: {about}: {detail}");
        }
        if !ours.is_empty() {
            let _infallible = writeln!(
                text,
                "  kept: {}; again: scripts/chaos --seed {seed} --round {round}",
                folder.display()
            );
        }
        text
    }
}

/// `median 1.2 s, longest 3.4 s (17)`.
fn spread(times: &[Duration]) -> String {
    let mut times = times.to_vec();
    times.sort_unstable();
    match (times.get(times.len() / 2), times.last()) {
        (Some(median), Some(longest)) => format!(
            "median {:.1} s, longest {:.1} s (of {})",
            median.as_secs_f64(),
            longest.as_secs_f64(),
            times.len()
        ),
        _ => "none".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_several_rounds_in_which_nothing_was_deployed_or_killed_is_not_clean() {
        let mut idle = Figures { rounds: SEVERAL, ..Figures::default() };
        assert_eq!(idle.demand_substance().len(), 5, "of none a quarter is none");
        assert!(!idle.is_clean());
        let counted = |counts: &[(&str, u64)]| counts.iter().map(|(k, n)| ((*k).to_owned(), *n)).collect();
        let outcomes = [("succeeded", 30), ("failed: build_failed", 8), ("cancelled", 20)];
        let incidents = [("SIGKILL of server", 4), ("SIGKILL of an agent", 4), ("link cut in a frame", 1)];
        let busy = |outcomes: &[(&str, u64)]| Figures {
            rounds: SEVERAL,
            outcomes: counted(outcomes),
            incidents: counted(&incidents),
            ..Figures::default()
        };
        assert_eq!(busy(&outcomes).demand_substance(), [""; 0]);
        let mut failing = busy(&[("failed: build_failed", 40), ("cancelled", 20)]);
        assert_eq!(failing.demand_substance(), ["0 deployments that succeeded, at least 15 wanted"]);
        failing.rounds = 1;
        assert_eq!(failing.demand_substance(), [""; 0], "one round may be anything");
    }

    #[test]
    fn the_table_counts_losses_and_the_account_says_how_to_come_back() {
        let figures = Arc::new(Mutex::new(Figures { rounds: 2, ..Figures::default() }));
        let findings = Findings::new(2, figures.clone());
        findings.count("lines compared", 40);
        findings.count("lines compared", 2);
        findings.say("lost", "plan-3 (#7)", "line 4 of stdout");
        findings.say("feed", "event 9", "twice");
        findings.figures().recoveries = [3, 1, 2].map(Duration::from_secs).to_vec();
        assert_eq!((findings.violations(), Findings::new(1, figures).violations()), (2, 0));
        let figures = findings.figures();
        let table = figures.table();
        let row = |name: &str| {
            let line = table.lines().find(|line| line.starts_with(name)).expect("a row");
            line[name.len()..].trim().to_owned()
        };
        assert_eq!(row("lines compared"), "42");
        assert_eq!(row("lost lines"), "1");
        assert_eq!(row("doubled lines"), "0");
        assert_eq!(row("other violations"), "1");
        assert_eq!(row("recovery after a restart of an agent"), "median 2.0 s, longest 3.0 s (of 3)");
        let account = figures.account(2, 77, Path::new("/tmp/x"));
        assert!(account.contains("lost: plan-3 (#7): line 4 of stdout\n"), "{account}");
        assert!(account.contains("kept: /tmp/x; again: scripts/chaos --seed 77 --round 2"), "{account}");
        assert_eq!(figures.account(1, 77, Path::new("/tmp/x")), "");
    }
}
