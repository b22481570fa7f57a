//! What changed since the last deploy of a service in a sandbox, from a real repository.

use sdp_core::api::AgainRequest;
use sdp_core::deployment::{Changes, Deployment};

use crate::harness::{Sdp, run_test};
use crate::samples::commit;

/// Puts a commit on top of `main`.
fn say(sdp: &Sdp, subject: &str) -> String {
    let repository = git2::Repository::open_bare(sdp.repository("hello")).expect("opens");
    let parent = repository.refname_to_id("refs/heads/main").ok();
    let files = [("greeting.txt", subject)].into_iter().collect();
    commit(&repository, "main", &files, subject, parent).expect("committed").to_string()
}

fn told(deployment: &Deployment) -> (u32, u32, Vec<&str>) {
    let changes = deployment.changes.as_ref().expect("it is compared");
    (changes.added, changes.removed, changes.subjects.iter().map(String::as_str).collect())
}

#[test]
fn a_deploy_says_what_changed_since_the_last_one_there() {
    run_test(async |sdp| {
        sdp.hello().await;
        let first = sdp.deploy("hello", "main").await.deployment;
        assert_eq!(first.changes, None, "nothing was there before");
        let base = first.commit.clone().expect("a commit");
        for subject in ["Add refunds", "Fix rounding", "Round up"] {
            say(sdp, subject);
        }
        let second = sdp.deploy("hello", "main").await.deployment;
        assert_eq!(told(&second), (3, 0, vec!["Round up", "Fix rounding", "Add refunds"]));
        let Some(Changes { since, more, .. }) = &second.changes else { unreachable!() };
        assert_eq!((since, more), (&base, &false));

        let again = sdp.deploy("hello", "main").await.deployment;
        assert_eq!(told(&again), (0, 0, vec![]), "the same commit");
        let back = sdp.deploy("hello", base.as_str()).await.deployment;
        assert_eq!(told(&back), (0, 3, vec![]), "it goes back");

        // The branch is written anew from where it began.
        let repository = git2::Repository::open_bare(sdp.repository("hello")).expect("opens");
        sdp.deploy("hello", "main").await;
        let begin = base.as_str().parse().expect("an id");
        repository.reference("refs/heads/main", begin, true, "").expect("rewound");
        say(sdp, "Refunds, better");
        let anew = sdp.deploy("hello", "main").await.deployment;
        assert_eq!(told(&anew), (1, 3, vec!["Refunds, better"]));

        // Nothing is fetched for what has a kept build.
        let place = anew.id.into();
        let rolled = sdp.admin.rollback(place, &AgainRequest::default(), None).await.expect("taken");
        let rolled = sdp.wait(rolled.id.into()).await.deployment;
        assert_eq!((rolled.reused_build, &rolled.changes), (Some(true), &None));
        let events = sdp.platform().events_of(anew.id).await.expect("events");
        let mut fold = Deployment::begin(&events[0]).expect("a deployment");
        events.iter().for_each(|event| fold.apply(event));
        assert_eq!(fold.changes, anew.changes, "the events tell it too");
    });
}
