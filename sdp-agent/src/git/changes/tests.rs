//! Against the definition, on histories of any shape.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use proptest::prelude::*;

use super::*;

fn id(n: usize) -> Oid {
    Oid::from_str(&format!("{:040x}", n + 1)).expect("an id")
}

/// Commits by number, each with its time and what it comes from.
#[derive(Clone, Debug, Default)]
struct History(BTreeMap<Oid, Origin>);

impl History {
    fn add(&mut self, at: i64, parents: &[usize]) -> usize {
        let n = self.0.len();
        self.0.insert(id(n), Origin { at, parents: parents.iter().map(|n| id(*n)).collect() });
        n
    }

    /// One after the other, so many.
    fn line(&mut self, from: Option<usize>, length: usize, at: impl Fn(usize) -> i64) -> usize {
        let mut last = from;
        for n in 0..length {
            last = Some(self.add(at(n), last.as_slice()));
        }
        last.expect("at least one")
    }

    fn origin(&self, id: Oid) -> Result<Origin, Infallible> {
        Ok(self.0[&id].clone())
    }

    fn relation(&self, old: usize, new: usize, limits: Limits) -> Relation {
        let Ok(found) = relation(id(old), id(new), limits, |id| self.origin(id));
        found
    }

    /// Added, removed, and whether there are more.
    fn counts(&self, old: usize, new: usize) -> (usize, u32, bool) {
        let found = self.relation(old, new, Limits::default());
        (found.added.len(), found.removed, found.more)
    }

    fn reached(&self, from: usize) -> BTreeSet<Oid> {
        let mut reached = BTreeSet::new();
        let mut left = vec![id(from)];
        while let Some(id) = left.pop() {
            if reached.insert(id) {
                left.extend(&self.0[&id].parents);
            }
        }
        reached
    }
}

#[test]
fn a_line_goes_on_goes_back_and_stays() {
    // Whether a second passes between commits, or all are written in the same one.
    for step in [1, 0] {
        let mut history = History::default();
        let tip = history.line(None, 100, |n| n as i64 * step);
        assert_eq!(history.counts(tip - 3, tip), (3, 0, false), "{step}");
        assert_eq!(history.counts(tip, tip - 2), (0, 2, false), "{step}");
        assert_eq!(history.counts(tip, tip), (0, 0, false), "{step}");
        let found = history.relation(tip - 3, tip, Limits::default());
        assert_eq!(found.added, [id(tip), id(tip - 1), id(tip - 2)]);
    }
}

#[test]
fn a_branch_that_was_written_anew_has_added_and_removed() {
    let mut history = History::default();
    let base = history.line(None, 10, |n| n as i64);
    let old = history.line(Some(base), 2, |n| 20 + n as i64);
    let new = history.line(Some(base), 3, |n| 20 + n as i64);
    assert_eq!(history.counts(old, new), (3, 2, false));
    let other = history.line(None, 4, |n| n as i64);
    assert_eq!(history.counts(old, other), (4, 12, false), "nothing in common");
}

#[test]
fn a_merge_counts_what_it_brings_in() {
    let mut history = History::default();
    let base = history.line(None, 10, |n| n as i64);
    let side = history.line(Some(base - 5), 3, |n| 5 + n as i64);
    let merge = history.add(30, &[base, side]);
    assert_eq!(history.counts(base, merge), (4, 0, false));
    assert_eq!(history.counts(side, merge), (6, 0, false));
}

#[test]
fn a_commit_of_another_age_changes_no_count() {
    let mut history = History::default();
    let base = history.line(None, 300, |n| n as i64);
    let ancient = history.add(i64::MIN, &[base]);
    let tip = history.add(5000, &[ancient]);
    assert_eq!(history.counts(base, tip), (2, 0, false));
    let of_the_future = history.add(i64::MAX, &[tip]);
    assert_eq!(history.counts(tip, of_the_future), (1, 0, false));
    assert_eq!(history.counts(of_the_future, base), (0, 3, false));
}

#[test]
fn what_is_too_much_is_not_counted_to_its_end() {
    let mut history = History::default();
    let tip = history.line(None, 5000, |n| n as i64);
    let most = Changes::MOST;
    assert_eq!(history.counts(tip - 1000, tip), (1000, 0, false));
    assert_eq!(history.counts(tip - 1001, tip), (1000, 0, true));
    assert_eq!(history.counts(tip, 0), (0, most, true));
    // A commit that comes from more others than are looked at.
    let mut history = History::default();
    let roots: Vec<usize> = (0..2 * READ).map(|n| history.add(n as i64, &[])).collect();
    let octopus = history.add(1 << 20, &roots);
    let mut read = 0;
    let Ok(found) = relation(id(roots[0]), id(octopus), Limits::default(), |id| {
        read += 1;
        history.origin(id)
    });
    assert!(found.more);
    assert_eq!(read, READ);
}

#[test]
fn a_history_that_cannot_be_read_is_an_error() {
    let mut history = History::default();
    let tip = history.line(None, 10, |n| n as i64);
    let read = |oid: Oid| if oid == id(5) { Err("gone") } else { Ok(history.0[&oid].clone()) };
    assert_eq!(relation(id(0), id(tip), Limits::default(), read), Err("gone"));
    // What lies behind the commits that are compared is not needed.
    assert_eq!(relation(id(7), id(tip), Limits::default(), read).map(|found| found.added.len()), Ok(2));
}

fn histories() -> impl Strategy<Value = History> {
    let commit = (0..3_i64, prop::collection::vec(any::<prop::sample::Index>(), 0..4));
    prop::collection::vec(commit, 1..40).prop_map(|commits| {
        let mut history = History::default();
        let mut at = 0;
        for (later, parents) in commits {
            at += later;
            let known = history.0.len();
            let parents: BTreeSet<usize> =
                parents.iter().filter(|_| known > 0).map(|parent| parent.index(known)).collect();
            history.add(at, &parents.into_iter().collect::<Vec<_>>());
        }
        history
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn it_is_what_the_one_reaches_and_the_other_does_not(
        history in histories(),
        old in any::<prop::sample::Index>(),
        new in any::<prop::sample::Index>(),
    ) {
        let (old, new) = (old.index(history.0.len()), new.index(history.0.len()));
        let found = history.relation(old, new, Limits::default());
        let (of_old, of_new) = (history.reached(old), history.reached(new));
        let added: BTreeSet<Oid> = found.added.iter().copied().collect();
        prop_assert_eq!(&added, &of_new.difference(&of_old).copied().collect());
        prop_assert_eq!(found.removed as usize, of_old.difference(&of_new).count());
        prop_assert!(!found.more);
        for (place, commit) in found.added.iter().enumerate() {
            let before: BTreeSet<Oid> = found.added[..place].iter().copied().collect();
            let origin = &history.0[commit];
            // By which side of a merge it is come to first makes no difference between those of the same second.
            let mut older = origin.parents.iter().filter(|parent| history.0[*parent].at < origin.at);
            prop_assert!(older.all(|parent| !before.contains(parent)), "{commit}");
        }
        // With any limits it ends, and says when that was early.
        for limit in 0..6 {
            let less = history.relation(old, new, Limits { counted: limit, read: 40 });
            prop_assert!(less.added.len() + less.removed as usize <= limit);
            prop_assert!(less.more || (less.added.len(), less.removed) == (found.added.len(), found.removed));
        }
    }
}
