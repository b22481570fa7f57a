//! Tokens, sign-in codes and sessions: what opens a door, and what does not any more.

mod enrolment;

use super::value::{ENROLMENT, RANDOM_DIGITS, base62, is_token, new_value};
use super::*;
use crate::api::TokenKind;
use crate::name::RepoUrl;
use crate::principal::{Principal, Role};
use crate::secret::{GitCredential, Secret};

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

fn vouched(user: &str, password: &str) -> Vouched {
    Vouched {
        origin: "https://git.example.com".into(),
        user: user.into(),
        credential: GitCredential { username: user.into(), password: Secret::new(password) },
        role: Role::Developer,
        is_admin: false,
    }
}

/// As a server has it: with a vault.
async fn with_vault() -> (Access, tempfile::TempDir) {
    let (mut access, folder) = access().await;
    access.vault = Some(Vault::new(&[7; 32]));
    (access, folder)
}

async fn log_in(access: &Access, user: &str, link: Option<&str>) -> Result<LoggedIn, AccessError> {
    access.log_in(vouched(user, "hunter2hunter2"), link, Origin::default(), LINK_LIFE * 100).await
}

async fn credential_at(access: &Access, name: &PersonName, repo: &str) -> Option<GitCredential> {
    let (name, repo) = (name.clone(), repo.parse::<RepoUrl>().expect("valid"));
    let vault = access.vault.clone().expect("there");
    let now = Timestamp::now();
    let read = access.store.read(move |connection| credential(connection, &vault, &name, &repo, now));
    read.await.expect("read")
}

const REPO: &str = "https://git.example.com/shop/payments.git";

#[tokio::test]
async fn whoever_logs_in_again_is_the_same_person_with_the_same_role() {
    let (access, _folder) = with_vault().await;
    let first = log_in(&access, "alice", None).await.expect("logged in").person;
    assert_eq!((first.name.as_str(), first.role, first.has_credential), ("alice", Role::Developer, true));
    access.set_role(&first.name, Role::Viewer).await.expect("set");
    let again = log_in(&access, "alice", None).await.expect("logged in").person;
    assert_eq!((again.name.as_str(), again.role), ("alice", Role::Viewer));
    let admin = Vouched { is_admin: true, ..vouched("alice", "x") };
    let admin = access.log_in(admin, None, Origin::default(), LINK_LIFE).await.expect("logged in").person;
    assert_eq!(admin.role, Role::Admin, "the configuration says so");
    // The same name at another host, and names that are none here, are other people.
    let other = Vouched { origin: "https://other.example.com".into(), ..vouched("alice", "x") };
    let other = access.log_in(other, None, Origin::default(), LINK_LIFE).await.expect("logged in").person;
    assert_eq!(other.name.as_str(), "alice-2");
    for (user, name) in [("José Pérez", "Jos--P-rez"), ("--", "person"), ("<script>", "script-")] {
        assert_eq!(log_in(&access, user, None).await.expect("logged in").person.name.as_str(), name);
    }
}

#[tokio::test]
async fn a_credential_is_kept_for_its_own_host_as_long_as_somebody_is_logged_in() {
    let (access, folder) = with_vault().await;
    let login = log_in(&access, "alice", None).await.expect("logged in");
    let alice = login.person.name;
    let found = credential_at(&access, &alice, REPO).await.expect("kept");
    assert_eq!((found.username.as_str(), found.password.expose()), ("alice", "hunter2hunter2"));
    for elsewhere in
        ["https://git.example.com:8443/x.git", "https://evil.example.com/x.git", "/srv/git/x.git"]
    {
        assert_eq!(credential_at(&access, &alice, elsewhere).await, None, "{elsewhere}");
    }
    for file in ["sdp.db", "sdp.db-wal"] {
        let bytes = std::fs::read(folder.path().join(file)).unwrap_or_default();
        assert!(!bytes.windows(7).any(|part| part == b"hunter2"), "{file}");
    }
    let second = log_in(&access, "alice", None).await.expect("logged in");
    access.sign_out(login.session.expose()).await.expect("ended");
    assert!(credential_at(&access, &alice, REPO).await.is_some(), "another browser is signed in");
    access.delete_session(&alice, second.id).await.expect("ended");
    assert_eq!(credential_at(&access, &alice, REPO).await, None);
    assert!(!access.person(&alice).await.expect("asked").expect("known").has_credential);

    // Sessions that have run out count for nothing, before and after they are swept.
    log_in(&access, "alice", None).await.expect("logged in");
    let expire = access.store.write(|c| Ok(c.execute("UPDATE session SET expires_ms = 1", [])?));
    assert_eq!(expire.await.expect("set"), 1);
    assert_eq!(credential_at(&access, &alice, REPO).await, None);
    assert!(access.person(&alice).await.expect("asked").expect("known").has_credential);
    access.sweep().await.expect("swept");
    assert!(!access.person(&alice).await.expect("asked").expect("known").has_credential);

    // Sealed with another key: as good as gone.
    log_in(&access, "alice", None).await.expect("logged in");
    let other = Access { vault: Some(Vault::new(&[8; 32])), ..access.clone() };
    assert_eq!(credential_at(&other, &alice, REPO).await, None);
}

#[tokio::test]
async fn a_link_binds_one_user_of_a_chat_once() {
    let (access, _folder) = with_vault().await;
    let user = |text: &str| ChatUser { bot: name("slack"), user: text.parse().expect("valid") };
    let (older, _) = access.create_login_link(&user("U1")).await.expect("made");
    let (link, _) = access.create_login_link(&user("U1")).await.expect("made");
    assert_eq!(access.login_link(older.expose()).await.expect("asked"), None, "the newest one counts");
    assert_eq!(
        access.login_link(link.expose()).await.expect("asked"),
        Some(user("U1")),
        "looking uses nothing up"
    );
    assert_eq!(access.bound(&user("U1")).await.expect("asked"), None);
    let login = log_in(&access, "alice", Some(link.expose())).await.expect("logged in");
    assert_eq!(login.bound.expect("bound").chat_user.as_str(), "U1");
    let bound = access.bound(&user("U1")).await.expect("asked").expect("bound");
    assert_eq!((bound.account.as_str(), bound.role), ("alice", Role::Developer));
    assert_eq!(access.bound(&user("U2")).await.expect("asked"), None);

    // Used: nothing of the login is done.
    let people = access.people().await.expect("listed").len();
    let error = log_in(&access, "mallory", Some(link.expose())).await.expect_err("used");
    assert_eq!((error.code(), access.people().await.expect("listed").len()), ("link_used", people));

    // Who logs in as somebody else is that one from then on; what came through the old binding has ended.
    let begun = Begun {
        principal: Principal::person(bound.account.clone()),
        account: Some(bound.account.clone()),
        token: Some(name("slack")),
        binding: Some(bound.id),
    };
    let code = access.create_sign_in_code(&begun, "/").await.expect("made").code;
    let through = access.sign_in(code.expose(), Origin::default()).await.expect("asked").expect("works");
    assert!(access.session(through.session.expose()).await.expect("asked").is_some());
    let (link, _) = access.create_login_link(&user("U1")).await.expect("made");
    log_in(&access, "bob", Some(link.expose())).await.expect("logged in");
    assert_eq!(access.bound(&user("U1")).await.expect("asked").expect("bound").account.as_str(), "bob");
    assert_eq!(access.session(through.session.expose()).await.expect("asked"), None);

    // A revoked bot speaks for nobody.
    access.create_token(name("slack"), TokenKind::Bot).await.expect("made");
    access.delete_token(&name("slack")).await.expect("revoked");
    assert_eq!(access.bound(&user("U1")).await.expect("asked"), None);
}

#[tokio::test]
async fn a_forgotten_person_leaves_nothing_that_opens_a_door() {
    let (access, _folder) = with_vault().await;
    let login = log_in(&access, "alice", None).await.expect("logged in");
    let alice = login.person.name;
    let new = |token: &str, ends: Option<Timestamp>| NewToken {
        name: name(token),
        kind: TokenKind::Deploy,
        owner: Some(alice.clone()),
        service: Some("payments".parse().expect("valid")),
        expires_at: ends,
    };
    let token = access.issue_token(new("ci", None)).await.expect("made").token;
    let found = access.token(token.expose()).await.expect("asked").expect("known");
    assert_eq!((found.owner.as_ref(), found.service.is_some()), (Some(&alice), true));
    let error =
        access.delete_token_of(&name("ci"), &"bob".parse().expect("valid")).await.expect_err("not his");
    assert_eq!(error.code(), "unknown_token");
    let over = access.issue_token(new("over", Some(Timestamp::UNIX_EPOCH))).await.expect("made").token;
    assert_eq!(access.token(over.expose()).await.expect("asked"), None, "expired");
    access.issue_token(new("over", None)).await.expect("its name is free again");

    access.delete_person(&alice).await.expect("forgotten");
    assert_eq!(access.token(token.expose()).await.expect("asked"), None);
    assert_eq!(access.session(login.session.expose()).await.expect("asked"), None);
    assert_eq!(credential_at(&access, &alice, REPO).await, None);
    assert_eq!(access.delete_person(&alice).await.expect_err("gone").code(), "unknown_person");
    let nobodys = access.issue_token(new("later", None)).await.expect_err("nobody's");
    assert_eq!(nobodys.code(), "unknown_person");
}

#[tokio::test]
async fn what_expires_leaves_nothing_to_its_successor() {
    let (access, _folder) = with_vault().await;
    let of = ChatUser { bot: name("slack"), user: "U1".parse().expect("valid") };
    let bot = |ends: Option<Timestamp>| NewToken {
        name: name("slack"),
        kind: TokenKind::Bot,
        owner: None,
        service: None,
        expires_at: ends,
    };
    access.issue_token(bot(Some(Timestamp::now() + LINK_LIFE))).await.expect("made");
    let (link, _) = access.create_login_link(&of).await.expect("made");
    log_in(&access, "alice", Some(link.expose())).await.expect("logged in");
    let bound = access.bound(&of).await.expect("asked").expect("bound");
    let begun = Begun {
        principal: Principal::person(bound.account.clone()),
        account: Some(bound.account.clone()),
        token: Some(name("slack")),
        binding: Some(bound.id),
    };
    let session = async || {
        let code = access.create_sign_in_code(&begun, "/").await.expect("made").code;
        access.sign_in(code.expose(), Origin::default()).await.expect("asked").expect("works").session
    };
    let holds = async |value: &Secret| access.session(value.expose()).await.expect("asked").is_some();
    let (first, second) = (session().await, session().await);
    assert!(holds(&first).await && holds(&second).await);

    // The binding ends, before and after it is swept.
    let set = |sql: &'static str| access.store.write(move |connection| Ok(connection.execute(sql, [])?));
    set("UPDATE binding SET expires_ms = 1").await.expect("set");
    assert!(!holds(&first).await);
    access.sweep().await.expect("swept");
    set("UPDATE binding SET expires_ms = 9999999999999").await.expect("set");
    assert!(!holds(&second).await, "it has ended with its binding");

    // The token ends: another one of its name speaks for nobody.
    let (link, _) = access.create_login_link(&of).await.expect("made");
    log_in(&access, "alice", Some(link.expose())).await.expect("logged in");
    set("UPDATE token SET expires_ms = 1").await.expect("set");
    access.issue_token(bot(None)).await.expect("its name is free");
    assert_eq!(access.bound(&of).await.expect("asked"), None);
}
