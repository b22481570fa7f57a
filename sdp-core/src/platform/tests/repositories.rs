//! Branches, repositories and checks of credentials, asked of a played agent.

use std::time::Instant;

use super::*;
use crate::api::RepositoryList;
use crate::failure::{Failure, FailureReason};
use crate::id::CommandId;
use crate::name::RepoUrl;
use crate::secret::Secret;
use crate::wire::{Answer, FromAgent, RefInfo, RepoInfo, ToAgent};

fn credential(username: &str) -> GitCredential {
    GitCredential { username: username.to_owned(), password: Secret::new("x") }
}

fn refs(names: &[&str]) -> Answer {
    let branches =
        names.iter().map(|text| RefInfo { name: name(text), commit: agent::commit('a') }).collect();
    Answer::Refs { head: Some("main".into()), branches, tags: Vec::new() }
}

fn failed(reason: FailureReason) -> Answer {
    Answer::Failed { failure: Failure::new(None, reason, "no") }
}

/// The next question about branches, and whose credential came with it.
async fn asked(agent: &mut PlayedAgent) -> (CommandId, Option<String>) {
    match agent.hear(|message| matches!(message, ToAgent::ListRefs { .. })).await {
        ToAgent::ListRefs { command, credential, .. } => (command, credential.map(|given| given.username)),
        other => panic!("{other:?}"),
    }
}

async fn answer(agent: &mut PlayedAgent, command: CommandId, answer: Answer) {
    agent.say(FromAgent::Answer { command, answer }).await;
}

impl Bench {
    async fn branches(&self, as_seen_by: Option<&str>) -> Result<Vec<String>, PlatformError> {
        let list = self.platform.branches(&name("hello"), as_seen_by.map(credential)).await?;
        Ok(list.branches.iter().map(|branch| branch.name.to_string()).collect())
    }

    /// Asks for branches, has the agent answer, and says who the agent was asked as.
    async fn branches_asked(
        &self,
        agent: &mut PlayedAgent,
        who: Option<&str>,
        names: &[&str],
    ) -> Option<String> {
        let (list, seen_by) = tokio::join!(self.branches(who), async {
            let (command, seen_by) = asked(agent).await;
            answer(agent, command, refs(names)).await;
            seen_by
        });
        assert_eq!(list.expect("a list"), names);
        seen_by
    }
}

#[tokio::test]
async fn each_sees_what_their_own_credential_sees_and_the_agent_is_asked_once() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    assert_eq!(
        bench.branches_asked(&mut agent, Some("alice"), &["main", "secret"]).await.as_deref(),
        Some("alice")
    );
    assert_eq!(bench.branches_asked(&mut agent, Some("bob"), &["main"]).await.as_deref(), Some("bob"));
    assert_eq!(bench.branches_asked(&mut agent, None, &[]).await, None);
    let began = Instant::now();
    for (who, names) in [(Some("alice"), &["main", "secret"][..]), (Some("bob"), &["main"]), (None, &[])] {
        assert_eq!(bench.branches(who).await.expect("from memory"), names);
    }
    assert!(began.elapsed() < Duration::from_millis(300), "{:?}", began.elapsed());
    assert_eq!(agent.hear_now().await, None, "nobody is asked");
    let unknown = bench.platform.branches(&name("helo"), None).await.expect_err("unknown");
    assert_eq!(unknown.code(), "unknown_service");
    bench.platform.stop().await;
}

#[tokio::test]
async fn those_who_ask_at_once_wait_for_one_answer_though_the_first_leaves() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    let first = bench.branches(Some("alice"));
    let mut first = Box::pin(first);
    let command = tokio::select! {
        biased;
        _ = &mut first => panic!("nobody has answered"),
        (command, _) = asked(&mut agent) => command,
    };
    drop(first);
    let (second, third, ()) =
        tokio::join!(bench.branches(Some("alice")), bench.branches(Some("alice")), async {
            // The others have looked by the time the loop, which tells them the service first, answers this.
            bench.platform.services().await.expect("services");
            answer(&mut agent, command, refs(&["main"])).await;
        });
    assert_eq!(
        (second.expect("a list"), third.expect("a list")),
        (vec!["main".to_owned()], vec!["main".to_owned()])
    );
    assert_eq!(agent.hear_now().await, None, "asked once");
}

#[tokio::test]
async fn a_list_in_use_is_renewed_behind_the_readers_back() {
    let bench = Bench::with(|config| config.listings.renew_after = Duration::ZERO).await;
    let mut agent = bench.agent("vm-1").await;
    bench.branches_asked(&mut agent, None, &["main"]).await;
    assert_eq!(bench.branches(None).await.expect("from memory"), ["main"], "at once, as it was");
    let (command, _) = asked(&mut agent).await;
    assert_eq!(bench.branches(None).await.expect("from memory"), ["main"], "while the agent is asked");
    answer(&mut agent, command, refs(&["main", "new"])).await;
    let mut lists = Vec::new();
    while lists.last().is_none_or(|list: &Vec<String>| list.len() < 2) {
        lists.push(bench.branches(None).await.expect("from memory"));
        tokio::task::yield_now().await;
    }
    // Who has lost the right sees nothing any more.
    let (command, _) = asked(&mut agent).await;
    answer(&mut agent, command, failed(FailureReason::CredentialsNeeded)).await;
    while bench.branches(None).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let error = bench.branches(None).await.expect_err("refused");
    assert_eq!(error.code(), "credentials_needed");
}

#[tokio::test]
async fn a_failure_is_not_kept_longer_than_the_host_is_spared() {
    let bench = Bench::with(|config| config.listings.spare_for = Duration::ZERO).await;
    let error = bench.branches(None).await.expect_err("no agent");
    assert_eq!(error.code(), "no_agent");
    let mut agent = bench.agent("vm-1").await;
    let (list, ()) = tokio::join!(bench.branches(None), async {
        let (command, _) = asked(&mut agent).await;
        answer(&mut agent, command, failed(FailureReason::GitUnreachable)).await;
    });
    assert_eq!(list.expect_err("unreachable").code(), "git_unreachable");
    bench.branches_asked(&mut agent, None, &["main"]).await;
    let spared = Bench::start().await;
    let mut agent = spared.agent("vm-1").await;
    let (list, ()) = tokio::join!(spared.branches(None), async {
        let (command, _) = asked(&mut agent).await;
        answer(&mut agent, command, failed(FailureReason::GitUnreachable)).await;
    });
    assert_eq!(list.expect_err("unreachable").code(), "git_unreachable");
    assert_eq!(spared.branches(None).await.expect_err("the same").code(), "git_unreachable");
    assert_eq!(agent.hear_now().await, None, "the host is spared");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_an_agent_that_does_not_answer() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    let (list, ()) = tokio::join!(bench.branches(None), async {
        asked(&mut agent).await;
        bench.platform.stop().await;
    });
    assert_eq!(list.expect_err("stopping").code(), "stopping");
}

fn repo(text: &str) -> RepoInfo {
    RepoInfo {
        name: text.to_owned(),
        url: name(&format!("https://git.example/{text}.git")),
        default_branch: None,
    }
}

fn shown(list: &RepositoryList) -> String {
    let lines = list.repositories.iter().map(|one| {
        let service = one.service.as_ref().map_or("-", |service| service.as_str());
        format!("{} {} {service}\n", one.name, one.url)
    });
    lines.collect::<String>() + if list.complete { "all" } else { "not all" }
}

async fn asked_for_repositories(agent: &mut PlayedAgent) -> (CommandId, Option<String>) {
    match agent.hear(|message| matches!(message, ToAgent::ListRepos { .. })).await {
        ToAgent::ListRepos { command, credential, .. } => (command, credential.map(|given| given.username)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_hosts_repositories_are_listed_with_their_services() {
    let bench = Bench::start().await;
    for (text, address) in
        [("web", "https://GIT.example/shop/web"), ("web-admin", "https://git.example:443/shop/web.git/")]
    {
        let mut service = service(text);
        service.repo = name(address);
        bench.platform.save_service(&alice(), service, Save::Create).await.expect("saved");
    }
    insta::assert_snapshot!(shown(&bench.platform.repositories(None, None).await.expect("the catalog's")), @r"
    shop/web https://GIT.example/shop/web web
    shop/web https://git.example:443/shop/web.git/ web-admin
    srv/hello /srv/hello.git hello
    srv/ledger /srv/ledger.git ledger
    all
    ");
    let host: RepoUrl = name("https://git.example/login.git");
    let list = |who: &str| bench.platform.repositories(Some(host.clone()), Some(credential(who)));
    assert_eq!(list("alice").await.expect_err("no agent").code(), "no_agent");
    // The first agent does not know the host, the second does.
    let (mut other, mut agent) = (bench.agent("vm-1").await, bench.agent("vm-2").await);
    let (alices, ()) = tokio::join!(list("alice"), async {
        let (command, who) = asked_for_repositories(&mut other).await;
        assert_eq!(who.as_deref(), Some("alice"));
        answer(&mut other, command, failed(FailureReason::RepoNotAllowed)).await;
        let (command, _) = asked_for_repositories(&mut agent).await;
        let repos = vec![repo("shop/api"), repo("shop/web")];
        answer(&mut agent, command, Answer::Repos { repos, complete: false }).await;
    });
    insta::assert_snapshot!(shown(&alices.expect("a list")), @r"
    shop/api https://git.example/shop/api.git -
    shop/web https://git.example/shop/web.git web
    shop/web https://git.example/shop/web.git web-admin
    not all
    ");
    // Each sees their own; the second look is from memory.
    let (bobs, ()) = tokio::join!(list("bob"), async {
        let (command, _) = asked_for_repositories(&mut other).await;
        answer(&mut other, command, Answer::Repos { repos: vec![repo("shop/api")], complete: true }).await;
    });
    assert_eq!(bobs.expect("a list").repositories.len(), 1);
    assert_eq!(list("alice").await.expect("a list").repositories.len(), 3);
    assert_eq!(list("bob").await.expect("a list").repositories.len(), 1);
    assert_eq!((other.hear_now().await, agent.hear_now().await), (None, None));
    // A plain host has no list: then the catalog's.
    let (plain, ()) = tokio::join!(list("carol"), async {
        for agent in [&mut other, &mut agent] {
            let (command, _) = asked_for_repositories(agent).await;
            answer(agent, command, failed(FailureReason::RepositoriesUnlisted)).await;
        }
    });
    assert_eq!(plain.expect("the catalog's").repositories.len(), 4);
}

#[tokio::test]
async fn a_credential_is_checked_anew_each_time_and_by_an_agent_that_knows_the_host() {
    let bench = Bench::start().await;
    let repo: RepoUrl = name("https://git.example/login.git");
    let check = |within| bench.platform.check_credential(&repo, credential("alice"), within);
    let long = Duration::from_secs(20);
    assert_eq!(check(long).await.expect_err("no agent").code(), "no_agent");
    let (mut other, mut agent) = (bench.agent("vm-1").await, bench.agent("vm-2").await);
    let asked = async |agent: &mut PlayedAgent| match agent
        .hear(|message| matches!(message, ToAgent::CheckCredential { .. }))
        .await
    {
        ToAgent::CheckCredential { command, within_ms, .. } => {
            assert!((1..=20_000).contains(&within_ms), "{within_ms}");
            command
        }
        other => panic!("{other:?}"),
    };
    for outcome in
        [Ok("Alice"), Err(FailureReason::CredentialsNeeded), Err(FailureReason::LoginRepositoryPublic)]
    {
        let (user, ()) = tokio::join!(check(long), async {
            let command = asked(&mut other).await;
            answer(&mut other, command, failed(FailureReason::RepoNotAllowed)).await;
            let command = asked(&mut agent).await;
            let said = outcome.map_or_else(failed, |user| Answer::Account { user: user.to_owned() });
            answer(&mut agent, command, said).await;
        });
        match outcome {
            Ok(user_expected) => assert_eq!(user.expect("right"), user_expected),
            Err(reason) => assert_eq!(user.expect_err("wrong").code(), reason.code()),
        }
    }
    // A wrong credential is not tried elsewhere.
    let (user, ()) = tokio::join!(check(long), async {
        let command = asked(&mut other).await;
        answer(&mut other, command, failed(FailureReason::CredentialsNeeded)).await;
    });
    assert_eq!(user.expect_err("wrong").code(), "credentials_needed");
    assert_eq!(agent.hear_now().await, None);
    // An agent that goes away leaves it to the next.
    let (user, ()) = tokio::join!(check(long), async {
        asked(&mut other).await;
        other.reconnect(&bench.platform).await;
        let command = asked(&mut agent).await;
        answer(&mut agent, command, Answer::Account { user: "alice".to_owned() }).await;
    });
    assert_eq!(user.expect("right"), "alice");
    assert_eq!(check(Duration::ZERO).await.expect_err("no time").code(), "no_agent");
}
