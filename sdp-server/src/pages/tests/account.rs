//! The account page, for each who may look at it.

use sdp_core::api::{BindingInfo, Me, Person, SessionInfo, TokenInfo, TokenKind};
use sdp_core::id::{BindingId, SessionId};
use sdp_core::principal::Role;

use super::super::account::AccountPage;
use super::*;

const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";

fn ago(minutes: i64) -> Timestamp {
    begin() - SignedDuration::from_mins(minutes)
}

fn account(name: &str, role: Role) -> Person {
    Person {
        name: name.parse().unwrap(),
        role,
        git_origin: "https://git.example.com".into(),
        git_user: name.into(),
        created_at: ago(90 * 24 * 60),
        logged_in_at: ago(65),
        has_credential: true,
    }
}

fn session(current: bool, user_agent: &str) -> SessionInfo {
    SessionInfo {
        id: SessionId::new(),
        current,
        address: Some("192.0.2.7".into()),
        user_agent: Some(user_agent.into()),
        created_at: ago(3000),
        used_at: ago(1),
        expires_at: begin() + SignedDuration::from_hours(720),
    }
}

fn token(name: &str, kind: TokenKind, owner: Option<&str>) -> TokenInfo {
    TokenInfo {
        name: name.parse().unwrap(),
        kind,
        owner: owner.map(|owner| owner.parse().unwrap()),
        service: None,
        created_at: ago(600),
        expires_at: None,
        used_at: None,
    }
}

fn me(principal: Principal, role: Role, account: Option<Person>) -> Me {
    let own_sandbox = principal.own_sandbox();
    Me { principal, role, account, own_sandbox, chat_user: None, bound_until: None, login: true }
}

/// Somebody with an account, at two browsers and in one chat.
fn developer() -> AccountPage {
    let binding = BindingInfo {
        id: BindingId::new(),
        bot: "slack".parse().unwrap(),
        chat_user: "U024BE7LH".parse().unwrap(),
        created_at: ago(600),
        expires_at: begin() + SignedDuration::from_hours(240),
    };
    let ci = TokenInfo {
        service: Some("payments".parse().unwrap()),
        expires_at: Some(begin() + SignedDuration::from_hours(240)),
        used_at: Some(ago(7)),
        ..token("ci", TokenKind::Deploy, Some("alice"))
    };
    AccountPage {
        me: me(person("alice"), Role::Developer, Some(account("alice", Role::Developer))),
        named: true,
        now: begin(),
        sessions: Some(vec![session(true, FIREFOX), session(false, "curl/8.5.0")]),
        bindings: Some(vec![binding]),
        tokens: Some(vec![ci]),
        kinds: vec![TokenKind::Deploy, TokenKind::Read],
        services: vec!["ledger".parse().unwrap(), "payments".parse().unwrap()],
        people: None,
    }
}

fn parts(html: &Markup, ids: &[&str]) -> String {
    ids.iter().map(|id| read(html, id)).collect::<Vec<_>>().join("\n")
}

#[test]
fn somebody_sees_who_they_are_where_they_are_logged_in_and_what_acts_as_them() {
    let html = developer().render();
    insta::assert_snapshot!(parts(&html, &["who", "sessions", "chats", "tokens"]), @r"
    alice
    developer[/api/v1/me/sessions Log out everywhere]
    Role
    developer: may look, deploy and stop what runs
    Git account
    alice at https://git.example.com
    Git credential
    kept, sealed; it fetches what you deploy, and goes when you are logged out everywhere
    Your sandbox
    alice
    Logged in
    1 h ago
    Sessions
    The browsers in which you are signed in.
    Firefox on Linuxthis browser[/api/v1/me/sessions/ID Sign out]
    from 192.0.2.7 · since 2 days ago · last used 1 min ago · ends 2026-12-21 if it is not used
    curl/8.5.0[/api/v1/me/sessions/ID Sign out]
    from 192.0.2.7 · since 2 days ago · last used 1 min ago · ends 2026-12-21 if it is not used
    Chats
    What these users type in chat is done in your name.
    U024BE7LHin the chat of slack[/api/v1/me/bindings/ID Unbind]
    since 10 h ago · until 2026-12-01
    Tokens
    A token of yours is you to a program, and may never do more than you.
    cideployonly payments[/api/v1/tokens/ci Revoke]
    made 10 h ago · last used 7 min ago · works until 2026-12-01
    A new token
    Name
    Kinddeployread
    Only forall servicesledgerpayments
    Days
    Make it]
    Copy it now: it is shown this once. The token  is not kept anywhere that it could be read again.
    Copy]
    Tokens are made and revoked with scripts, or by the API.
    ");
    assert_eq!(read(&html, "people"), "", "that is for admins");
    assert!(html.0.contains("<a class=\"who\" href=\"/account\""), "{}", html.0);
}

#[test]
fn an_admin_sees_everybodys_tokens_and_changes_roles() {
    let mut page = developer();
    page.me = me(person("ada"), Role::Admin, Some(account("ada", Role::Admin)));
    page.tokens =
        Some(vec![token("ci", TokenKind::Deploy, Some("alice")), token("root", TokenKind::Admin, None)]);
    page.people = Some(vec![account("ada", Role::Admin), account("alice", Role::Viewer)]);
    let html = page.render();
    insta::assert_snapshot!(parts(&html, &["token-list", "people"]), @r"
    cideployof alice[/api/v1/tokens/ci Revoke]
    made 10 h ago · never used · works until it is revoked
    rootadminof the operators[/api/v1/tokens/root Revoke]
    made 10 h ago · never used · works until it is revoked
    A new token
    Name
    Kinddeployread
    Only forall servicesledgerpayments
    Days
    Make it]
    Copy it now: it is shown this once. The token  is not kept anywhere that it could be read again.
    Copy]
    Tokens are made and revoked with scripts, or by the API.
    People
    Everybody who ever logged in. What they did is in [/audit the audit].
    adayouadminviewerdeveloperadmin[/api/v1/people/ada Delete]
    ada at https://git.example.com · first seen 2026-08-23 · logged in 1 h ago
    aliceviewerviewerdeveloperadmin[/api/v1/people/alice Delete]
    alice at https://git.example.com · first seen 2026-08-23 · logged in 1 h ago
    ");
    assert_eq!(html.0.matches("<option value=\"viewer\" selected>").count(), 1, "{}", html.0);
    assert!(html.0.contains("data-person=\"alice\""), "{}", html.0);
}

#[test]
fn who_has_no_account_is_told_so_and_sees_what_there_is() {
    let mut named = developer();
    named.me = Me { login: false, ..me(person("bob"), Role::Developer, None) };
    (named.sessions, named.bindings, named.tokens) = (None, None, None);
    named.kinds.clear();
    let html = named.render();
    insta::assert_snapshot!(read(&html, "who"), @r"
    bob
    developer
    Role
    developer: may look, deploy and stop what runs
    Your sandbox
    bob
    You are signed in by the name that the chat gave, without an account: there are no sessions, chats or tokens of yours to show.
    ");
    assert_eq!(parts(&html, &["sessions", "chats", "tokens", "people"]).trim(), "");
    assert!(!html.0.contains("token-form") && !html.0.contains("Log out everywhere"), "{}", html.0);

    let mut operator = named;
    operator.me = me(Principal::Token { name: "root".parse().unwrap() }, Role::Admin, None);
    operator.named = false;
    operator.people = Some(Vec::new());
    let html = operator.render();
    insta::assert_snapshot!(parts(&html, &["who", "people"]), @r"
    root
    admin
    Role
    admin: may do everything, and change services, people and tokens
    This browser was signed in through the token root, not by a person: it has no sessions, chats or tokens of its own. It is signed out when that token is revoked.
    Operators make and revoke tokens by the API, with the token itself, or on the server's host with sdp-server token.
    [/login Log in with your git account]
    People
    Everybody who ever logged in. What they did is in [/audit the audit].
    Nobody has logged in yet.
    ");
}

#[test]
fn what_browsers_and_git_hosts_say_is_text() {
    let evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u{202e}";
    let mut page = developer();
    let mut person = account("alice", Role::Admin);
    (person.git_user, person.git_origin) = (evil.into(), evil.into());
    page.me = me(super::person("alice"), Role::Admin, Some(person.clone()));
    page.sessions = Some(vec![SessionInfo { address: Some(evil.into()), ..session(true, evil) }]);
    page.people = Some(vec![person]);
    let html = page.render().0;
    assert!(!html.contains("<script>alert") && !html.contains("<img"), "{html}");
    assert!(!html.contains('\u{202e}') && html.contains("⟨U+202E⟩"), "{html}");
    assert!(!html.contains(" style=") && !html.contains(" onclick="), "{html}");
}
