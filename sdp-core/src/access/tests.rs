//! Tokens, sign-in codes and sessions: what opens a door, and what does not any more.

use super::value::{RANDOM_DIGITS, base62, is_token};
use super::*;
use crate::api::TokenKind;
use crate::principal::Principal;

async fn access() -> (Access, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("folder");
    (Access::open(folder.path()).await.expect("opened"), folder)
}

fn name(text: &str) -> TokenName {
    TokenName::parse(text).expect("valid")
}

/// A person whom the bot `chat` has named.
fn alice() -> Begun {
    let principal = Principal::person("alice".parse().expect("valid"));
    Begun { principal, account: None, token: Some(name("chat")), binding: None }
}

#[test]
fn base62_is_exact() {
    assert_eq!(base62(&[0], 3), "000");
    assert_eq!(base62(&61u32.to_be_bytes(), 2), "0z");
    assert_eq!(base62(&62u32.to_be_bytes(), 2), "10");
    assert_eq!(base62(&u32::MAX.to_be_bytes(), 6), "4gfFC3");
    let top = base62(&[255; 32], RANDOM_DIGITS);
    assert!(!top.starts_with("00"), "{top}: 43 digits are enough and not too many");
}

#[tokio::test]
async fn a_token_opens_only_with_every_character_right() {
    let (access, _folder) = access().await;
    let made = access.create_token(name("ci"), TokenKind::Admin).await.expect("made");
    let value = made.token.expose();
    assert!(value.starts_with("sdp_") && value.len() == 4 + 43 + 6, "{} characters", value.len());
    assert_eq!(access.token(value).await.expect("asked").expect("known").name, name("ci"));
    for at in 0..value.len() {
        let mut other = value.as_bytes().to_vec();
        other[at] = if other[at] == b'x' { b'y' } else { b'x' };
        let other = String::from_utf8(other).expect("text");
        assert_eq!(access.token(&other).await.expect("asked"), None, "changed at {at}");
    }
    for other in ["", "sdp_", &value[1..], &format!("{value}0"), &value.replace("sdp_", "sdpb_"), "sdp_'; --"]
    {
        assert_eq!(access.token(other).await.expect("asked"), None);
    }
    assert!(is_token(value), "the checksum is over the prefix too");
}

#[tokio::test]
async fn the_first_admin_token_is_made_once_and_the_last_one_stays() {
    let (access, _folder) = access().await;
    access.create_token(name("admin"), TokenKind::Agent).await.expect("made");
    let first = access.bootstrap().await.expect("asked").expect("made");
    assert_eq!(first.name, name("admin-2"));
    assert_eq!(access.bootstrap().await.expect("asked"), None);
    let error = access.delete_token(&first.name).await.expect_err("refused");
    assert_eq!(error.code(), "last_admin");
    access.create_token(name("second"), TokenKind::Admin).await.expect("made");
    access.delete_token(&first.name).await.expect("deleted");
    assert_eq!(access.token(first.token.expose()).await.expect("asked"), None);
    assert_eq!(access.delete_token(&first.name).await.expect_err("gone").code(), "unknown_token");
}

#[tokio::test]
async fn names_of_tokens_are_taken_once_and_agents_names_are_agents_names() {
    let (access, _folder) = access().await;
    access.create_token(name("vm-1"), TokenKind::Agent).await.expect("made");
    let error = access.create_token(name("vm-1"), TokenKind::Bot).await.expect_err("taken");
    assert_eq!(error.code(), "token_exists");
    let error = access.create_token(name("VM_1"), TokenKind::Agent).await.expect_err("no agent's name");
    assert_eq!(error.code(), "invalid_name");
    let kinds: Vec<_> =
        access.tokens().await.expect("listed").into_iter().map(|t| (t.name, t.kind)).collect();
    assert_eq!(kinds, [(name("vm-1"), TokenKind::Agent)]);
}

#[tokio::test]
async fn a_code_signs_in_once_and_the_session_holds_until_it_is_ended() {
    let (access, _folder) = access().await;
    let code = access.create_sign_in_code(&alice(), "/deployments/1").await.expect("made").code;
    assert!(access.is_sign_in_code(code.expose()).await.expect("asked"), "looking does not use it up");
    let signed_in = access.sign_in(code.expose(), Origin::default()).await.expect("asked").expect("works");
    assert_eq!(signed_in.next, "/deployments/1");
    assert_eq!(signed_in.principal.to_string(), "alice");
    assert!(matches!(signed_in.principal, Principal::Person { .. }));
    assert!(access.sign_in(code.expose(), Origin::default()).await.expect("asked").is_none(), "used");
    let session = signed_in.session;
    let held = access.session(session.expose()).await.expect("asked").expect("holds");
    assert_eq!((held.principal, held.renewed, held.account), (signed_in.principal, None, None));
    access.sign_out(session.expose()).await.expect("ended");
    assert_eq!(access.session(session.expose()).await.expect("asked"), None);
}

#[tokio::test]
async fn old_codes_and_sessions_do_not_work_and_used_ones_are_renewed() {
    let (access, _folder) = access().await;
    let code = access.create_sign_in_code(&alice(), "/").await.expect("made").code;
    let session =
        access.sign_in(code.expose(), Origin::default()).await.expect("asked").expect("works").session;
    let code = access.create_sign_in_code(&alice(), "/").await.expect("made").code;
    let now = Timestamp::now().as_millisecond();
    let set = |sql: &'static str, at: i64| {
        let store = access.store.clone();
        async move {
            let write = store.write(move |connection| Ok(connection.execute(sql, [at])?));
            assert_eq!(write.await.expect("set"), 1);
        }
    };
    set("UPDATE sign_in_code SET expires_ms = ?1", now).await;
    assert!(!access.is_sign_in_code(code.expose()).await.expect("asked"));
    assert!(access.sign_in(code.expose(), Origin::default()).await.expect("asked").is_none());
    let day_ago = now - i64::try_from(ROTATE_AFTER.as_millis()).expect("fits") - 1;
    set("UPDATE session SET expires_ms = ?1", now + 60_000).await;
    set("UPDATE session SET rotated_ms = ?1", day_ago).await;
    let new =
        access.session(session.expose()).await.expect("asked").expect("holds").renewed.expect("changed");
    assert_ne!(new, session);
    let before = access.session(session.expose()).await.expect("asked").expect("holds for a moment");
    assert_eq!(before.renewed, None, "it is changed once");
    set("UPDATE session SET before_ms = ?1", now).await;
    assert_eq!(
        access.session(session.expose()).await.expect("asked"),
        None,
        "the value before works no more"
    );
    let session = new;
    let ends = access
        .store
        .read(|c| Ok(c.query_row("SELECT expires_ms FROM session", [], |row| row.get::<_, i64>(0))?));
    assert!(ends.await.expect("read") > now + 29 * 24 * 3600 * 1000, "its end moved");
    assert_eq!(access.session(session.expose()).await.expect("asked").expect("holds").renewed, None);
    set("UPDATE session SET expires_ms = ?1", now).await;
    assert_eq!(access.session(session.expose()).await.expect("asked"), None);
}

#[tokio::test]
async fn revoking_a_token_ends_the_sessions_made_through_it() {
    let (access, _folder) = access().await;
    access.create_token(name("chat"), TokenKind::Bot).await.expect("made");
    let code = access.create_sign_in_code(&alice(), "/").await.expect("made").code;
    let session =
        access.sign_in(code.expose(), Origin::default()).await.expect("asked").expect("works").session;
    let unused = access.create_sign_in_code(&alice(), "/").await.expect("made").code;
    access.delete_token(&name("chat")).await.expect("revoked");
    assert_eq!(access.session(session.expose()).await.expect("asked"), None);
    assert!(access.sign_in(unused.expose(), Origin::default()).await.expect("asked").is_none());
}

#[tokio::test]
async fn the_database_holds_no_value() {
    let folder = tempfile::tempdir().expect("folder");
    let access = Access::open(folder.path()).await.expect("opened");
    let token = access.create_token(name("ci"), TokenKind::Admin).await.expect("made").token;
    let code = access.create_sign_in_code(&alice(), "/").await.expect("made").code;
    let session =
        access.sign_in(code.expose(), Origin::default()).await.expect("asked").expect("works").session;
    for file in ["sdp.db", "sdp.db-wal"] {
        let bytes = std::fs::read(folder.path().join(file)).expect("file");
        for secret in [&token, &code, &session] {
            let needle = &secret.expose().as_bytes()[5..];
            assert!(!bytes.windows(needle.len()).any(|window| window == needle), "{file}");
        }
    }
}
