//! What a repository calls its commits, and which commit a person's word for it means. Pure.

use git2::Oid;
use sdp_core::failure::FailureReason;
use sdp_core::name::{CommitId, GitRef, did_you_mean};
use sdp_core::wire::{Answer, RefInfo};

use super::fault::{Fault, said};

/// The most branches and tags together in an answer, so that it fits into a control frame; branches come first.
const MAX_LISTED: usize = 20_000;

const HEADS: &str = "refs/heads/";
const TAGS: &str = "refs/tags/";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ref {
    /// The full name, e.g. `refs/heads/main`.
    pub(super) name: String,
    /// What it points at.
    pub(super) id: Oid,
    /// For an annotated tag, what that points at.
    pub(super) peeled: Option<Oid>,
}

impl Ref {
    pub(super) fn commit(&self) -> Oid {
        self.peeled.unwrap_or(self.id)
    }
}

/// All refs of a repository, in the order in which it named them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Refs {
    /// The full name of the default branch, where the repository says so.
    pub(super) head: Option<String>,
    pub(super) list: Vec<Ref>,
}

/// What a person's word for a commit means, as far as the names tell.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The commit at the tip of a branch or tag.
    Commit(Oid),
    /// No branch or tag, but perhaps the beginning (or whole) of a commit id; lower case. The tips that begin so are given.
    Id { digits: String, tips: Vec<Oid> },
}

impl Refs {
    /// Takes the next ref of an advertisement; `name^{}` says what the tag before it points at.
    pub(super) fn push(&mut self, name: &str, id: Oid) {
        match (name.strip_suffix("^{}"), self.list.last_mut()) {
            (Some(tag), Some(last)) if last.name == tag => last.peeled = Some(id),
            (Some(_), _) => {}
            (None, _) => self.list.push(Ref { name: name.to_owned(), id, peeled: None }),
        }
    }

    pub(super) fn find(&self, full: &str) -> Option<&Ref> {
        self.list.iter().find(|r| r.name == full)
    }

    /// The ref that a branch's or tag's name stands for.
    pub(super) fn named(&self, wanted: &GitRef) -> Result<Option<&Ref>, Fault> {
        let name = wanted.as_str();
        if name.starts_with(HEADS) || name.starts_with(TAGS) {
            return Ok(self.find(name));
        }
        match (self.find(&format!("{HEADS}{name}")), self.find(&format!("{TAGS}{name}"))) {
            (Some(branch), Some(tag)) => Err(said(
                FailureReason::RefAmbiguous,
                format!(
                    "{name} is a branch ({HEADS}{name}, {}) and a tag ({TAGS}{name}, {})",
                    short(branch.commit()),
                    short(tag.commit())
                ),
            )),
            (branch, tag) => Ok(branch.or(tag)),
        }
    }

    /// What somebody means by `wanted`.
    pub(super) fn meaning(&self, wanted: &GitRef) -> Result<Meaning, Fault> {
        if let Some(found) = self.named(wanted)? {
            return Ok(Meaning::Commit(found.commit()));
        }
        if !wanted.may_be_commit() {
            return Err(self.not_found(wanted));
        }
        let digits = wanted.as_str().to_ascii_lowercase();
        let mut tips: Vec<Oid> =
            self.list.iter().map(Ref::commit).filter(|id| id.to_string().starts_with(&digits)).collect();
        tips.sort_unstable();
        tips.dedup();
        Ok(Meaning::Id { digits, tips })
    }

    pub(super) fn not_found(&self, wanted: &GitRef) -> Fault {
        let typed = wanted.as_str();
        let kind = if typed.starts_with(HEADS) {
            "branch"
        } else if typed.starts_with(TAGS) {
            "tag"
        } else if wanted.may_be_commit() {
            "branch, tag or commit"
        } else {
            "branch or tag"
        };
        let bare =
            |full: &'_ str| full.strip_prefix(HEADS).or_else(|| full.strip_prefix(TAGS)).map(str::to_owned);
        let word = bare(typed).unwrap_or_else(|| typed.to_owned());
        let known: Vec<(String, &str)> =
            self.list.iter().filter_map(|r| Some((bare(&r.name)?, r.name.as_str()))).collect();
        let mut detail = format!("there is no {kind} {word}");
        if self.list.is_empty() {
            detail.push_str("; the repository is empty");
        } else if let Some(close) = did_you_mean(&word, known.iter().map(|(word, _)| word.as_str())) {
            // Who wrote the whole name is answered with a whole name.
            let full = known.iter().find(|(word, _)| word == close).map(|(_, full)| *full);
            let meant = if typed.starts_with("refs/") { full.unwrap_or(close) } else { close };
            detail.push_str(&format!("; did you mean {meant}?"));
        }
        said(FailureReason::RefNotFound, detail)
    }

    /// Distinct commits of all branches.
    pub(super) fn branch_tips(&self) -> Vec<Oid> {
        let mut tips: Vec<Oid> =
            self.list.iter().filter(|r| r.name.starts_with(HEADS)).map(Ref::commit).collect();
        tips.sort_unstable();
        tips.dedup();
        tips
    }

    /// As it goes to the server: sorted, and only what can be deployed under its name.
    pub(super) fn answer(&self) -> Answer {
        let mut branches = self.infos(HEADS);
        let mut tags = self.infos(TAGS);
        branches.truncate(MAX_LISTED);
        tags.truncate(MAX_LISTED - branches.len());
        let head = self.head.as_deref().and_then(|full| full.strip_prefix(HEADS)).map(str::to_owned);
        Answer::Refs { head, branches, tags }
    }

    fn infos(&self, prefix: &str) -> Vec<RefInfo> {
        let mut infos: Vec<RefInfo> = self
            .list
            .iter()
            .filter_map(|r| {
                let name = GitRef::parse(r.name.strip_prefix(prefix)?).ok()?;
                Some(RefInfo { name, commit: commit_id(r.commit()) })
            })
            .collect();
        infos.sort_by(|a, b| a.name.cmp(&b.name));
        infos
    }
}

pub(super) fn commit_id(id: Oid) -> CommitId {
    CommitId::parse(id.to_string()).expect("an object id is 40 lower-case hexadecimal digits")
}

pub(super) fn short(id: Oid) -> String {
    id.to_string()[..8].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(c: char) -> Oid {
        c.to_string().repeat(40).parse().expect("id")
    }

    fn refs() -> Refs {
        let mut refs = Refs { head: Some("refs/heads/main".into()), ..Refs::default() };
        for (name, at) in [
            ("HEAD", 'a'),
            ("refs/heads/main", 'a'),
            ("refs/heads/feature/greeting", 'b'),
            ("refs/heads/feature/ünï-ØÅ", 'b'),
            ("refs/heads/release/1.0+x", 'c'),
            ("refs/heads/both", 'c'),
            ("refs/heads/deadbeef", 'd'),
            ("refs/heads/bad name", 'd'),
            ("refs/pull/1/head", '1'),
            ("refs/tags/both", 'd'),
            ("refs/tags/v1", 'e'),
            ("refs/tags/v1^{}", 'a'),
        ] {
            refs.push(name, id(at));
        }
        refs
    }

    fn meaning(name: &str) -> String {
        match refs().meaning(&GitRef::parse(name).expect(name)) {
            Ok(Meaning::Commit(id)) => short(id),
            Ok(Meaning::Id { digits, tips }) => format!("id {digits}, {} tips", tips.len()),
            Err(Fault::Said { reason, detail }) => format!("{}: {detail}", reason.code()),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_name_means_a_branch_a_tag_or_a_commit() {
        let all: Vec<String> = [
            "main",
            "refs/heads/main",
            "v1",
            "refs/tags/v1",
            "feature/ünï-ØÅ",
            "release/1.0+x",
            "both",
            "refs/heads/both",
            "refs/tags/both",
            "deadbeef",
            "AAAAAAA",
            "1111111",
            "ffffffff",
            "feature/greting",
            "refs/heads/v1",
            "refs/tags/v2",
            "xyzzy",
        ]
        .iter()
        .map(|name| format!("{name} → {}", meaning(name)))
        .collect();
        insta::assert_snapshot!(all.join("\n"), @r#"
    main → aaaaaaaa
    refs/heads/main → aaaaaaaa
    v1 → aaaaaaaa
    refs/tags/v1 → aaaaaaaa
    feature/ünï-ØÅ → bbbbbbbb
    release/1.0+x → cccccccc
    both → ref_ambiguous: both is a branch (refs/heads/both, cccccccc) and a tag (refs/tags/both, dddddddd)
    refs/heads/both → cccccccc
    refs/tags/both → dddddddd
    deadbeef → dddddddd
    AAAAAAA → id aaaaaaa, 1 tips
    1111111 → id 1111111, 1 tips
    ffffffff → id ffffffff, 0 tips
    feature/greting → ref_not_found: there is no branch or tag feature/greting; did you mean feature/greeting?
    refs/heads/v1 → ref_not_found: there is no branch v1; did you mean refs/tags/v1?
    refs/tags/v2 → ref_not_found: there is no tag v2; did you mean refs/tags/v1?
    xyzzy → ref_not_found: there is no branch or tag xyzzy
    "#);
    }

    #[test]
    fn the_answer_lists_what_can_be_deployed() {
        let Answer::Refs { head, branches, tags } = refs().answer() else { panic!("refs") };
        assert_eq!(head.as_deref(), Some("main"));
        let names = |list: &[RefInfo]| list.iter().map(|r| r.name.to_string()).collect::<Vec<_>>();
        assert_eq!(
            names(&branches),
            ["both", "deadbeef", "feature/greeting", "feature/ünï-ØÅ", "main", "release/1.0+x"]
        );
        assert_eq!(names(&tags), ["both", "v1"]);
        assert_eq!(tags[1].commit, commit_id(id('a')));
    }

    #[test]
    fn an_empty_repository_says_so() {
        let fault = Refs::default().meaning(&GitRef::parse("main").expect("ref")).expect_err("nothing there");
        let Fault::Said { detail, .. } = fault else { panic!("said") };
        assert_eq!(detail, "there is no branch or tag main; the repository is empty");
    }
}
