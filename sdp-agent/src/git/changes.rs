//! How a commit relates to an earlier one: how many were added, how many are gone, and what the newest say.
//!
//! A job's fetch calls it; what it cannot tell it leaves out, since nobody's deployment shall fail for it. Both histories are
//! walked together, the newest commit first; one that both have hides all that it comes from. [`relation`] is pure: it is
//! given what a commit comes from.
//!
//! Limits: [`Changes::MOST`] commits are counted, [`READ`] are looked at. Within them the answer is exact where no commit is older
//! than one that it comes from; what clocks that disagree have written is hidden only as far as it was looked at.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use git2::Oid;
use sdp_core::deployment::Changes;

use super::fault::{self, Fault};
use super::refs::commit_id;
use super::store::Store;
use super::text;

/// So many commits are read at most: merges have commits on their other side that both histories have.
const READ: usize = 4_000;

/// What is to be known of a commit.
#[derive(Clone, Debug)]
struct Origin {
    at: i64,
    parents: Vec<Oid>,
}

/// What [`relation`] found.
#[derive(Debug, PartialEq, Eq)]
struct Relation {
    /// The newest first; of a line that was written in one second, too, each before what it comes from.
    added: Vec<Oid>,
    removed: u32,
    more: bool,
}

impl Store {
    /// How `commit` relates to `since`. None where the store does not have `since`.
    pub(super) fn changes(&self, since: Oid, commit: Oid) -> Result<Option<Changes>, Fault> {
        if !self.has(since) {
            return Ok(None);
        }
        let wrong = |error: git2::Error| fault::libgit("failed to compare with the former commit", &error);
        let origin = |id: Oid| {
            let commit = self.repo().find_commit(id)?;
            Ok(Origin { at: commit.time().seconds(), parents: commit.parent_ids().collect() })
        };
        let found = relation(since, commit, Limits::default(), origin).map_err(wrong)?;
        let mut subjects = Vec::new();
        for id in found.added.iter().take(Changes::SUBJECTS) {
            let commit = self.repo().find_commit(*id).map_err(wrong)?;
            let subject = text::one_line(commit.summary_bytes().unwrap_or_default(), Changes::SUBJECT);
            if !subject.is_empty() {
                subjects.push(subject);
            }
        }
        Ok(Some(Changes {
            since: commit_id(since),
            added: u32::try_from(found.added.len()).unwrap_or(u32::MAX),
            removed: found.removed,
            more: found.more,
            subjects,
        }))
    }
}

#[derive(Clone, Copy)]
struct Limits {
    counted: usize,
    read: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { counted: Changes::MOST as usize, read: READ }
    }
}

/// Which of the two histories a commit is in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Old,
    New,
    /// First in a heap among those of the same second: what it hides is to be hidden before more of it is looked at.
    Both,
}

impl Side {
    fn and(self, other: Self) -> Self {
        if self == other { self } else { Self::Both }
    }
}

struct Seen {
    origin: Origin,
    side: Side,
    /// As what it was passed on to its parents last.
    passed: Option<Side>,
}

fn relation<E>(
    old: Oid,
    new: Oid,
    limits: Limits,
    mut origin: impl FnMut(Oid) -> Result<Origin, E>,
) -> Result<Relation, E> {
    let mut walk = Walk::default();
    walk.meet(new, Side::New, origin(new)?);
    match walk.seen.contains_key(&old) {
        true => walk.reach(old, Side::Old),
        false => walk.meet(old, Side::Old, origin(old)?),
    }
    let mut order = Vec::new();
    let mut more = false;
    // As long as only what both have is left, nothing can change but what was taken for one side's though it is as new.
    let mut oldest = i64::MAX;
    while let Some((at, side, _, id)) = walk.queue.pop() {
        if walk.one_sided == 0 && at < oldest {
            break;
        }
        let Some(seen) = walk.seen.get_mut(&id).filter(|seen| seen.side == side && seen.passed != Some(side))
        else {
            continue;
        };
        if side != Side::Both {
            if order.len() == limits.counted {
                more = true;
                break;
            }
            walk.one_sided -= 1;
            oldest = oldest.min(at);
            order.push(id);
        }
        seen.passed = Some(side);
        for parent in seen.origin.parents.clone() {
            if walk.seen.contains_key(&parent) {
                walk.reach(parent, side);
            } else if walk.seen.len() < limits.read {
                walk.meet(parent, side, origin(parent)?);
            } else {
                more |= side != Side::Both;
            }
        }
        if more {
            break;
        }
    }
    let is = |side, id: &Oid| walk.seen.get(id).is_some_and(|seen| seen.side == side);
    let removed = order.iter().filter(|id| is(Side::Old, id)).count();
    Ok(Relation {
        removed: u32::try_from(removed).unwrap_or(u32::MAX),
        added: order.into_iter().filter(|id| is(Side::New, id)).collect(),
        more,
    })
}

#[derive(Default)]
struct Walk {
    seen: HashMap<Oid, Seen>,
    /// The newest first; what came first among equals. One whose side has changed is there twice.
    queue: BinaryHeap<(i64, Side, Reverse<usize>, Oid)>,
    queued: usize,
    /// How many in the queue only one of the two has, as far as is known.
    one_sided: usize,
}

impl Walk {
    fn meet(&mut self, id: Oid, side: Side, origin: Origin) {
        self.one_sided += usize::from(side != Side::Both);
        self.push(origin.at, side, id);
        self.seen.insert(id, Seen { origin, side, passed: None });
    }

    fn reach(&mut self, id: Oid, side: Side) {
        let Some(seen) = self.seen.get_mut(&id) else { return };
        let now = seen.side.and(side);
        if now != seen.side {
            self.one_sided -= usize::from(seen.passed.is_none());
            seen.side = now;
            let at = seen.origin.at;
            self.push(at, now, id);
        }
    }

    fn push(&mut self, at: i64, side: Side, id: Oid) {
        self.queued += 1;
        self.queue.push((at, side, Reverse(self.queued), id));
    }
}

#[cfg(test)]
mod tests;
