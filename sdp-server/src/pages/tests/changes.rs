//! What the page of a deployment says of how its commit relates to the one before.

use std::fmt::Write as _;

use sdp_core::deployment::Changes;

use super::*;

pub(super) fn changes(added: u32, removed: u32, subjects: &[&str]) -> Changes {
    Changes {
        since: CommitId::parse("9f8e7d6c".repeat(5)).unwrap(),
        added,
        removed,
        more: added + removed >= Changes::MOST,
        subjects: subjects.iter().map(|subject| (*subject).to_owned()).collect(),
    }
}

#[test]
fn the_page_says_what_changes() {
    let five = ["Add refunds", "Fix rounding", "Round up", "Round down", "Round"];
    let mut said = String::new();
    for changes in [
        changes(0, 0, &[]),
        changes(1, 0, &five[..1]),
        changes(3, 0, &five[..3]),
        changes(6, 0, &five),
        changes(2, 1, &five[..2]),
        changes(0, 1, &[]),
        changes(0, 2, &[]),
        changes(1000, 0, &five),
        changes(700, 300, &five),
    ] {
        let info = CommitInfo { author: "Ada Lovelace".into(), subject: "Add refunds".into() };
        let story = Story::new(412, "payments", "main").building();
        let story = story.then(0, EventKind::CommitFetched { info, changes: Some(changes) });
        let head = read(&story.page(0, 3, None).render(), "head");
        let line = head.lines().skip_while(|line| !line.contains("Ada Lovelace")).nth(1);
        writeln!(said, "{}", line.unwrap_or("nothing")).unwrap();
    }
    insta::assert_snapshot!(said, @r"
    the same commit as before
    1 commit since 9f8e7d6c
    3 commits since 9f8e7d6c: Add refunds; Fix rounding; Round up
    6 commits since 9f8e7d6c: Add refunds; Fix rounding; Round up; Round down; Round; …
    2 commits more and 1 fewer than 9f8e7d6c: Add refunds; Fix rounding
    goes back 1 commit from 9f8e7d6c
    goes back 2 commits from 9f8e7d6c
    1,000+ commits since 9f8e7d6c: Add refunds; Fix rounding; Round up; Round down; Round; …
    700+ commits more and 300+ fewer than 9f8e7d6c: Add refunds; Fix rounding; Round up; Round down; Round; …
    ");
}
