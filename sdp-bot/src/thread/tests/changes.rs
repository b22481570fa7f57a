//! What changes with a deployment, as its message says it.

use super::*;

fn changes(added: u32, removed: u32, subjects: &[&str]) -> Changes {
    Changes {
        since: "9f8e7d6c".repeat(5).parse().unwrap(),
        added,
        removed,
        more: added + removed >= Changes::MOST,
        subjects: subjects.iter().map(|subject| (*subject).to_owned()).collect(),
    }
}

#[test]
fn a_fetched_one_says_what_it_changes() {
    let hostile = "x\u{202e}<!channel> `rm`\u{1b}[31m";
    let five = ["Add refunds", "Fix rounding", "Round up", "Round down", "Round"];
    let mut said = String::new();
    for changes in [
        changes(0, 0, &[]),
        changes(1, 0, &five[..1]),
        changes(3, 0, &five[..3]),
        changes(4, 0, &five[..4]),
        changes(2, 1, &five[..2]),
        changes(0, 1, &[]),
        changes(0, 2, &[]),
        changes(1000, 0, &five),
        changes(700, 300, &five),
        changes(2, 0, &[hostile, hostile]),
    ] {
        let mut story = Story::new();
        story.changes = Some(changes);
        let mut events = vec![story.requested("main", "alice")];
        events.extend(story.until_build());
        let (thread, _) = told(&events, |_| {});
        let root = thread.root(at(20)).to_plain();
        let line = root.lines().skip_while(|line| !line.contains("Åsa")).nth(1).unwrap_or("nothing");
        said += &format!("{line}\n");
    }
    assert_snapshot!(said, @r"
    same commit as before
    1 commit since `9f8e7d6c`
    3 commits since `9f8e7d6c`: Add refunds; Fix rounding; Round up
    4 commits since `9f8e7d6c`: Add refunds; Fix rounding; Round up; …
    2 commits more and 1 fewer than `9f8e7d6c`: Add refunds; Fix rounding
    goes back 1 commit from `9f8e7d6c`
    goes back 2 commits from `9f8e7d6c`
    1000+ commits since `9f8e7d6c`: Add refunds; Fix rounding; Round up; …
    700+ commits more and 300+ fewer than `9f8e7d6c`: Add refunds; Fix rounding; Round up; …
    2 commits since `9f8e7d6c`: x<!channel> `rm`; x<!channel> `rm`
    ");
}

#[test]
fn without_a_commit_before_it_there_is_no_word_of_it() {
    let mut story = Story::new();
    let mut events = vec![story.requested("main", "alice")];
    events.extend(story.until_it_runs());
    let (thread, _) = told(&events, |_| {});
    assert!(!thread.root(at(20)).to_plain().contains("commit"));
}
