//! The words about logging in.

use insta::assert_snapshot;
use sdp_core::api::{LoginLink, Me};
use sdp_core::principal::Role;

use super::super::login;
use super::super::samples::{at, me, page};

#[test]
fn a_link_is_for_one_person_and_says_whom_it_replaces() {
    let link = LoginLink { url: page("/login/once"), expires_at: at(600) };
    let mut text = login::link(&link, &me(None, Role::Viewer)).to_plain();
    text += &login::link(&link, &me(Some("alice"), Role::Developer)).to_plain();
    assert_snapshot!(text, @r"
    · Log in with your git account
      https://sdp.example.com/login/once
      It works once, for 10 minutes.
      It is for you alone, so do not pass it on: whoever logs in there is who you are in this chat.
      [Log in] https://sdp.example.com/login/once
    · Log in with your git account
      https://sdp.example.com/login/once
      It works once, for 10 minutes.
      It is for you alone, so do not pass it on: whoever logs in there is who you are in this chat.
      You are logged in already, as alice until 2027-01-25; this logs you in anew.
      [Log in] https://sdp.example.com/login/once
    ");
}

#[test]
fn who_one_is_says_what_one_may_and_how_to_be_more() {
    let server = page("/");
    let mut text = login::whoami(&me(Some("alice"), Role::Developer), &server).to_plain();
    text += &login::whoami(&me(None, Role::Viewer), &server).to_plain();
    let named = Me {
        account: None,
        bound_until: None,
        login: false,
        chat_user: Some("alice".parse().unwrap()),
        ..me(Some("alice"), Role::Developer)
    };
    text += &login::whoami(&named, &server).to_plain();
    text += &login::whoami(&Me { login: false, ..me(None, Role::Viewer) }, &server).to_plain();
    text += &login::whoami(&Me { chat_user: None, ..me(None, Role::Admin) }, &server).to_plain();
    assert_snapshot!(text, @r"
    · You are alice (U024BE7LH in this chat)
      git account a.smith at https://git.example.com
      logged in until 2027-01-25
      you may look and act (developer)
      your sandbox alice
      server https://sdp.example.com/
    · You are U024BE7LH here, and nobody to SDP yet: you may look but not act.
      next `/sdp login` gives you a link to log in with your git account
      server https://sdp.example.com/
      [Log in] login
    · You are alice
      you may look and act (developer)
      your sandbox alice
      server https://sdp.example.com/
    · You are U024BE7LH here, and nobody to SDP yet: you may look but not act.
      next ask an administrator, for the server's [login] configuration
      server https://sdp.example.com/
    · You are nobody by name: this token speaks for itself, and no sandbox is yours
      token slack
      you may do everything (admin)
      next name a person with a bot's token: --as <person>; or say to <sandbox>
      server https://sdp.example.com/
    ");
}

#[test]
fn logging_out_says_what_is_left() {
    let account = page("/account");
    let mut text = login::logged_out(&me(Some("alice"), Role::Developer), &account).to_plain();
    text += &login::was_not_logged_in(&me(None, Role::Viewer)).to_plain();
    let named = Me { account: None, login: false, ..me(Some("bob"), Role::Developer) };
    text += &login::was_not_logged_in(&named).to_plain();
    text += &login::nobody_logs_in(&named).to_plain();
    text += &login::nobody_logs_in(&Me { login: false, ..me(None, Role::Viewer) }).to_plain();
    assert_snapshot!(text, @r"
    ✓ Logged out: in this chat you are not alice any more.
      Your git credential is forgotten, unless you are still logged in elsewhere.
      browsers https://sdp.example.com/account
    i You were not logged in.
      [Log in] login
    i You were not logged in.
    i Nobody logs in with a git account here. You are bob all the same.
      you may look and act (developer)
    ✗ Nobody logs in with a git account here. You may look but not act.
      next ask an administrator, for the server's [login] configuration
    ");
}

#[test]
fn who_may_not_is_told_how_or_whom_to_ask() {
    let mut text = login::needed("deploy").to_plain();
    text += &login::no_sandbox_yet().to_plain();
    text += &login::may_only_look(&me(Some("alice"), Role::Viewer), &page("/account")).to_plain();
    assert_snapshot!(text, @r"
    ✗ `deploy` needs a login: until then you may look but not act.
      next `/sdp login` gives you a link to log in with your git account
      [Log in] login
    ✗ Which sandbox? You are not logged in, so none is yours.
      next `/sdp login` gives you a link to log in with your git account
      or name one; `list all` shows them
      [Log in] login
    ✗ You are logged in as alice, who may look but not act.
      next ask an admin to make you a developer; they do that at https://sdp.example.com/account
    ");
}
