//! The login page: its form, what went wrong, and who is bound to which chat now.

use axum::http::StatusCode;
use axum::response::Response;
use maud::html;
use sdp_core::access::ChatUser;
use sdp_core::api::{BindingInfo, Person};

use super::sign_in::plain_page;
use super::{parts, words};
use crate::app::App;
use crate::problem::Refused;

/// What the form is to ask, and what came of it.
#[derive(Default)]
pub(crate) struct Asked {
    /// Who will be bound.
    pub(crate) chat_user: Option<ChatUser>,
    /// The page to go on to.
    pub(crate) next: Option<String>,
    /// What was typed before.
    pub(crate) username: String,
    /// Why that did not work.
    pub(crate) refused: Option<Refused>,
}

/// The form. It is sent back to the address that it came from.
pub(crate) fn ask(app: &App, status: StatusCode, asked: &Asked) -> Response {
    let Some(repository) = &app.config().login.repository else {
        let content = html! {
            h1 { "Nobody logs in here" }
            p { "This server does not ask for a git account. An administrator names a repository in its [login] section." }
        };
        return plain_page(StatusCode::NOT_FOUND, "Nobody logs in here", content);
    };
    let host = repository.origin().unwrap_or_default();
    let content = html! {
        h1 { "Log in with your git account" }
        @if let Some(ChatUser { bot, user }) = &asked.chat_user {
            p class="notice" {
                "From now on " b { (user) } " in the chat of " b { (bot) } " will be you: what they type there is done in your name. "
                "Go on only if that is yourself, and you have just typed " code { "/sdp login" } "."
            }
        }
        @if let Some(refused) = &asked.refused {
            div class="problem" role="alert" {
                p { b { (words::capitalised(&refused.problem().title)) "." } }
                @if let Some(detail) = &refused.problem().detail { p { (words::visible(detail)) } }
                @if let Some(hint) = &refused.problem().hint { p { (parts::coded(&words::capitalised(hint))) "." } }
            }
        }
        form method="post" class="login" {
            @if let Some(next) = &asked.next { input type="hidden" name="next" value=(next); }
            label for="username" { "User name at " (host) }
            input id="username" name="username" value=(asked.username) autocomplete="username" autocapitalize="none"
                spellcheck="false" maxlength="256" required autofocus;
            label for="password" { "Password or access token" }
            input id="password" name="password" type="password" autocomplete="current-password" maxlength="65536" required;
            button class="btn primary" type="submit" { "Log in" }
        }
        p class="hint" {
            "It is tried at the git host. While you are logged in it is kept sealed, and used to fetch what you deploy; nobody can "
            "read it, and it goes when you log out."
        }
    };
    plain_page(status, "Log in", content)
}

/// A link from chat that was used, or is too old.
pub(crate) fn link_used() -> Response {
    let content = html! {
        h1 { "This link does not work any more" }
        p { "A login link works once, for ten minutes. Type " code { "/sdp login" } " again for a new one." }
    };
    plain_page(StatusCode::GONE, "This link does not work any more", content)
}

/// Somebody came by a link from chat, and is bound.
pub(crate) fn bound(person: &Person, bound: &BindingInfo) -> Response {
    let content = html! {
        h1 { "You are logged in" }
        p { b { (bound.chat_user) } " in the chat of " b { (bound.bot) } " is " b { (person.name) } " from now on, until "
            (words::date(bound.expires_at)) "." }
        p { "Go back to the chat, and deploy. " a href="/account" { "Your account" } " shows where you are logged in." }
    };
    plain_page(StatusCode::OK, "You are logged in", content)
}
