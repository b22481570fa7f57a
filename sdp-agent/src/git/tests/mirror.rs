//! What the mirror keeps, and that nothing that happens to it lasts.

use std::fs;

use super::http::hosted;
use super::*;

#[tokio::test]
async fn a_commit_in_the_mirror_needs_no_repository_any_more() {
    let (bench, host, _repo, [_, second]) = hosted(|_| {}).await;
    let url = host.url("x.git");
    bench.fetch(&url, "main", &second).await.expect("fetch");
    assert!(bench.git.has_commit(&url, &second).await);
    drop(host);
    assert_eq!(bench.fetch(&url, "main", &second).await.expect("again"), "Åsa Berg: Second");
    bench.checkout(&url, &second).await.expect("checkout");
}

#[tokio::test]
async fn a_torn_mirror_is_made_anew() {
    let (bench, host, repo, [_, second]) = hosted(|_| {}).await;
    let url = host.url("x.git");
    bench.fetch(&url, "main", &second).await.expect("fetch");
    let mirror = bench.mirrors().remove(0);

    // A ref of no length, as a power cut leaves it.
    let slot =
        fs::read_dir(mirror.join("refs/sdp")).expect("slots").next().expect("one").expect("one").path();
    fs::write(slot, "").expect("tear");
    let third = repo.commit("main", "Third", &[("a", "3")]);
    assert_eq!(bench.fetch(&url, "main", &third).await.expect("torn ref"), "Åsa Berg: Third");

    fs::remove_file(mirror.join("HEAD")).expect("tear");
    let fourth = repo.commit("main", "Fourth", &[("a", "4")]);
    assert_eq!(bench.fetch(&url, "main", &fourth).await.expect("no HEAD"), "Åsa Berg: Fourth");

    // A pack that lost bytes: the mirror still says that it has the commit, so the checkout finds it.
    for pack in fs::read_dir(mirror.join("objects/pack")).expect("packs").flatten() {
        if pack.path().extension().is_some_and(|e| e == "pack") {
            let length = pack.metadata().expect("meta").len();
            fs::remove_file(pack.path()).expect("remove");
            fs::write(pack.path(), vec![0; usize::try_from(length).expect("small")]).expect("tear");
        }
    }
    let failure = bench.checkout(&url, &fourth).await.expect_err("the pack is gone");
    assert_eq!(failure.reason, FailureReason::Internal, "{}", failure.detail);
    bench.fetch(&url, "main", &fourth).await.expect("anew");
    bench.checkout(&url, &fourth).await.expect("whole again");
    assert_eq!(bench.mirrors().len(), 1, "nothing is left aside");
}

#[tokio::test]
async fn what_an_interrupted_fetch_left_is_swept() {
    let (bench, host, repo, [_, second]) = hosted(|_| {}).await;
    let url = host.url("x.git");
    bench.fetch(&url, "main", &second).await.expect("fetch");
    let left = bench.mirrors().remove(0).join("objects/pack/pack_git2_abc123");
    fs::write(&left, "half a pack").expect("write");
    let third = repo.commit("main", "Third", &[("a", "3")]);
    bench.fetch(&url, "main", &third).await.expect("fetch");
    assert!(!left.exists());
    bench.checkout(&url, &second).await.expect("the whole packs are still there");
}

#[tokio::test]
async fn fetches_of_one_repository_wait_for_each_other_and_all_succeed() {
    let (bench, host, repo, _) = hosted(|_| {}).await;
    let bench = Arc::new(bench);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let commit = repo.commit(&format!("b{}", n % 4), &format!("C{n}"), &[("n", &n.to_string())]);
        let (bench, url) = (bench.clone(), host.url("x.git"));
        tasks.spawn(async move {
            bench.fetch(&url, &format!("b{}", n % 4), &commit).await.expect("fetch");
            let (tree, _) = bench.checkout(&url, &commit).await.expect("checkout");
            assert_eq!(fs::read_to_string(tree.join("n")).expect("n"), n.to_string());
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("no panic");
    }
    assert_eq!(bench.mirrors().len(), 1);
}
