//! Questions about credentials and repositories, over the wire.

use sdp_core::secret::{GitCredential, Secret};
use sdp_core::wire::Answer;
use tokio::net::TcpListener;

use super::*;

fn credential() -> GitCredential {
    GitCredential { username: "alice".into(), password: Secret::new("right") }
}

/// The code of a question's failure.
async fn refused(world: &mut World, question: CommandId) -> &'static str {
    world.server.until(|server| server.answers.contains_key(&question)).await;
    match &world.server.answers[&question] {
        Answer::Failed { failure } => failure.reason.code(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_local_repository_vouches_for_nobody_and_has_no_list() {
    let mut world = World::start().await;
    world.commit(&[("file", "")]);
    let repo = RepoUrl::parse(world.repo().to_str().unwrap()).unwrap();
    let (check, list) = (CommandId::new(), CommandId::new());
    let ask = ToAgent::CheckCredential {
        command: check,
        repo: repo.clone(),
        credential: credential(),
        within_ms: 20_000,
    };
    world.server.say(ask).await;
    world.server.say(ToAgent::ListRepos { command: list, repo, credential: Some(credential()) }).await;
    assert_eq!(refused(&mut world, check).await, "login_repository_public");
    assert_eq!(refused(&mut world, list).await, "repositories_unlisted");
    world.stop().await;
}

#[tokio::test]
async fn a_check_ends_when_its_time_is_over_also_while_it_waits_for_its_turn() {
    // Takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", silent.local_addr().unwrap());
    let mut world = World::start_with(|config| config.git.origins = vec![origin.parse().unwrap()]).await;
    let repo = RepoUrl::parse(format!("{origin}/x.git")).unwrap();
    let ask = |within_ms| {
        let command = CommandId::new();
        (
            command,
            ToAgent::CheckCredential { command, repo: repo.clone(), credential: credential(), within_ms },
        )
    };
    let (asked, message) = ask(100);
    world.server.say(message).await;
    assert_eq!(refused(&mut world, asked).await, "timeout");
    let mut held = vec![silent.accept().await.unwrap()];
    let mut others = Vec::new();
    for _ in 0..crate::agent::QUESTIONS {
        let (other, message) = ask(u32::MAX);
        world.server.say(message).await;
        others.push(other);
    }
    while held.len() <= crate::agent::QUESTIONS {
        held.push(silent.accept().await.unwrap());
    }
    let (asked, message) = ask(100);
    world.server.say(message).await;
    assert_eq!(refused(&mut world, asked).await, "timeout");
    assert!(others.iter().all(|other| !world.server.answers.contains_key(other)), "it did not wait for them");
    // The others are cut off with the agent, whatever they wait for.
    world.stop().await;
}
