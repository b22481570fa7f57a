//! What ends a sandbox without anybody's word: its time, and branches that are gone. Its people are told before.

use jiff::{SignedDuration, Timestamp};

use super::super::world::{Note, World};
use super::Act;
use super::sandboxes::{about, emptied, tell_lifetimes};
use crate::event::EventKind;
use crate::principal::Principal;
use crate::sandbox::{Sandbox, StopReason};

/// How long before its end a sandbox's people are told, in hours.
const WARNINGS: [u32; 2] = [24, 1];
/// How long a sandbox lives on whose branches are gone.
const AFTER_BRANCH: SignedDuration = SignedDuration::from_hours(24);

pub(super) fn sandbox_due(world: &World, sandbox: &Sandbox, now: Timestamp) -> Vec<Act> {
    let Some(expires_at) = sandbox.expires_at else { return Vec::new() };
    if now >= expires_at {
        let mut acts = emptied(world, &Principal::System, sandbox, &StopReason::SandboxExpired {});
        let kind = EventKind::SandboxExpired { owner: sandbox.owner.clone() };
        acts.push(Act::system(about(sandbox), kind));
        return acts;
    }
    match warnings(sandbox).filter(|(at, _)| now >= *at).last() {
        Some((_, hours)) => {
            let warned = Sandbox { warned_hours: Some(hours), ..sandbox.clone() };
            let kind = EventKind::SandboxExpiring {
                expires_at,
                hours,
                branch_gone: None,
                owner: sandbox.owner.clone(),
            };
            vec![Act::Note(Note::Warned(Box::new(warned))), Act::system(about(sandbox), kind)]
        }
        None => Vec::new(),
    }
}

pub(super) fn sandbox_deadline(sandbox: &Sandbox) -> Option<Timestamp> {
    let end = sandbox.expires_at?;
    Some(warnings(sandbox).map(|(at, _)| at).chain([end]).min().unwrap_or(end))
}

/// The words still to be said that it will end, and when: the earliest first. What lives no longer than that is not warned of.
fn warnings(sandbox: &Sandbox) -> impl Iterator<Item = (Timestamp, u32)> {
    let to_say = WARNINGS.into_iter().filter(|hours| {
        sandbox.lifetime_hours > *hours && sandbox.warned_hours.is_none_or(|warned| *hours < warned)
    });
    to_say.filter_map(|hours| {
        let before = SignedDuration::from_hours(hours.into());
        Some((sandbox.expires_at?.checked_sub(before).ok()?, hours))
    })
}

/// The branches of a repository that exist: a sandbox all of whose instances come from branches that are gone ends soon.
pub(super) fn branches_seen(
    world: &World,
    now: Timestamp,
    repo: &crate::name::RepoUrl,
    names: &std::collections::BTreeSet<crate::name::GitRef>,
) -> Vec<Act> {
    let mut acts = Vec::new();
    for sandbox in world.sandboxes.values() {
        let soon = now.checked_add(AFTER_BRANCH).unwrap_or(Timestamp::MAX);
        if sandbox.branches_gone || sandbox.expires_at.is_none_or(|end| end <= soon) {
            continue;
        }
        let mut gone = None;
        let all = world
            .instances
            .values()
            .map(|running| &running.instance)
            .filter(|instance| instance.sandbox == sandbox.name && !instance.state.is_over());
        let mut some = false;
        let every = all.into_iter().all(|instance| {
            some = true;
            let here = world.services.get(&instance.service).is_some_and(|service| service.repo == *repo);
            let Some(git_ref) = instance.git_ref.as_ref().filter(|_| here) else { return false };
            let is_gone = !git_ref.may_be_commit() && !names.contains(&git_ref.plain());
            gone = gone.take().or_else(|| is_gone.then(|| git_ref.clone()));
            is_gone
        });
        if let Some(branch) = gone.filter(|_| some && every) {
            let ends = Sandbox {
                expires_at: Some(soon),
                warned_hours: Some(24),
                branches_gone: true,
                ..sandbox.clone()
            };
            let kind = EventKind::SandboxExpiring {
                expires_at: soon,
                hours: 24,
                branch_gone: Some(branch),
                owner: sandbox.owner.clone(),
            };
            acts.push(Act::Note(Note::Sandbox(Box::new(ends))));
            acts.push(Act::system(about(sandbox), kind));
            acts.extend(tell_lifetimes(world, &sandbox.name, Some(soon)));
        }
    }
    acts
}
