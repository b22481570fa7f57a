//! Enrolments: once, in time, for one agent.

use super::*;
use crate::name::AgentName;

fn vm(text: &str) -> AgentName {
    AgentName::parse(text).expect("valid")
}

#[tokio::test]
async fn an_enrolment_is_swapped_once_for_the_agents_own_token() {
    let (access, _folder) = access().await;
    let made = access.create_enrolment(vm("vm-1")).await.expect("made");
    assert!(made.token.expose().starts_with("sdpe_") && is_token(made.token.expose()));
    let within = made.expires_at.as_millisecond() - Timestamp::now().as_millisecond();
    assert!((3_590_000..=3_600_000).contains(&within), "an hour: {within} ms");
    assert_eq!(access.token(made.token.expose()).await.expect("asked"), None, "it opens nothing itself");

    let enrolled = access.enrol(made.token.expose()).await.expect("asked").expect("works");
    assert_eq!(enrolled.agent, vm("vm-1"));
    let token = access.token(enrolled.token.expose()).await.expect("asked").expect("known");
    assert_eq!((token.name, token.kind, token.expires_at), (name("vm-1"), TokenKind::Agent, None));
    assert_eq!(access.enrol(made.token.expose()).await.expect("asked"), None, "once");
    assert_eq!(
        access.token(enrolled.token.expose()).await.expect("asked").map(|token| token.name),
        Some(name("vm-1")),
        "trying again takes nothing away"
    );
}

#[tokio::test]
async fn a_newer_enrolment_replaces_one_and_a_new_token_the_one_before() {
    let (access, _folder) = access().await;
    let before = access.create_token(name("vm-1"), TokenKind::Agent).await.expect("made").token;
    let first = access.create_enrolment(vm("vm-1")).await.expect("made").token;
    let second = access.create_enrolment(vm("vm-1")).await.expect("made").token;
    let other = access.create_enrolment(vm("vm-2")).await.expect("made").token;
    assert_eq!(access.enrol(first.expose()).await.expect("asked"), None, "replaced");
    assert!(access.token(before.expose()).await.expect("asked").is_some(), "it works until then");

    let mut revocations = access.revocations();
    let enrolled = access.enrol(second.expose()).await.expect("asked").expect("works");
    assert!(revocations.has_changed().expect("open"), "whoever is connected with the old one is told");
    revocations.mark_unchanged();
    assert_eq!(access.token(before.expose()).await.expect("asked"), None);
    let vm_2 = access.enrol(other.expose()).await.expect("asked").expect("another agent's is its own");
    assert_eq!(vm_2.agent, vm("vm-2"));
    assert!(access.token(enrolled.token.expose()).await.expect("asked").is_some());

    assert!(access.forget_agent(&vm("vm-2")).await.expect("done"));
    assert_eq!(access.token(vm_2.token.expose()).await.expect("asked"), None);
    assert!(!access.forget_agent(&vm("vm-2")).await.expect("done"), "nothing is left");
}

#[tokio::test]
async fn after_an_hour_it_is_worthless() {
    let (access, _folder) = access().await;
    let made = access.create_enrolment(vm("vm-1")).await.expect("made").token;
    let now = Timestamp::now().as_millisecond();
    let moved = access
        .store
        .write(move |connection| Ok(connection.execute("UPDATE enrolment SET expires_ms = ?1", [now])?));
    assert_eq!(moved.await.expect("moved"), 1);
    assert_eq!(access.enrol(made.expose()).await.expect("asked"), None);
    assert_eq!(access.tokens().await.expect("listed"), []);
}

#[tokio::test]
async fn of_many_that_come_at_once_one_wins() {
    let (access, _folder) = access().await;
    let made = access.create_enrolment(vm("vm-1")).await.expect("made").token;
    let all = futures_util::future::join_all((0..16).map(|_| access.enrol(made.expose()))).await;
    let won: Vec<_> = all.into_iter().filter_map(|answer| answer.expect("asked")).collect();
    assert_eq!(won.len(), 1);
    assert!(access.token(won[0].token.expose()).await.expect("asked").is_some(), "and its token works");
}

#[tokio::test]
async fn nothing_else_enrols() {
    let (access, _folder) = access().await;
    let made = access.create_enrolment(vm("vm-1")).await.expect("made").token;
    let admin = access.create_token(name("ops"), TokenKind::Admin).await.expect("made").token;
    let agent = access.create_token(name("vm-2"), TokenKind::Agent).await.expect("made").token;
    let value = made.expose();
    let others = [
        String::new(),
        "sdpe_".to_owned(),
        format!("{value}0"),
        value[..value.len() - 1].to_owned(),
        value.replace("sdpe_", "sdpa_"),
        value.to_uppercase(),
        format!("sdpe_{}", &admin.expose()[4..]),
        new_value(ENROLMENT).expect("random").expose().to_owned(),
        admin.expose().to_owned(),
        agent.expose().to_owned(),
    ];
    for other in others {
        assert_eq!(access.enrol(&other).await.expect("asked"), None);
    }
    assert!(access.enrol(value).await.expect("asked").is_some(), "the right one still does");
}

#[tokio::test]
async fn a_name_that_another_kind_of_token_has_is_not_taken_from_it() {
    let (access, _folder) = access().await;
    let bot = access.create_token(name("chat"), TokenKind::Bot).await.expect("made").token;
    assert_eq!(access.create_enrolment(vm("chat")).await.expect_err("taken").code(), "token_exists");
    let made = access.create_enrolment(vm("vm-1")).await.expect("made").token;
    access.create_token(name("vm-1"), TokenKind::Bot).await.expect("made");
    assert_eq!(access.enrol(made.expose()).await.expect_err("taken").code(), "token_exists");
    access.delete_token(&name("vm-1")).await.expect("deleted");
    assert!(access.enrol(made.expose()).await.expect("asked").is_some(), "it was not used up");
    assert!(!access.forget_agent(&vm("chat")).await.expect("done"));
    assert!(access.token(bot.expose()).await.expect("asked").is_some());
}

#[tokio::test]
async fn only_hashes_are_kept() {
    let (access, folder) = access().await;
    let made = access.create_enrolment(vm("vm-1")).await.expect("made").token;
    access.create_enrolment(vm("vm-2")).await.expect("made");
    let token = access.enrol(made.expose()).await.expect("asked").expect("works").token;
    access.close().await;
    for file in std::fs::read_dir(folder.path()).expect("a folder") {
        let bytes = std::fs::read(file.expect("a file").path()).unwrap_or_default();
        for secret in [made.expose(), token.expose()] {
            let found = bytes.windows(24).any(|window| window == &secret.as_bytes()[5..29]);
            assert!(!found, "a value is on disk");
        }
    }
}
