//! Who one is, how to log in and out, and what that is needed for.
//!
//! Called by [`crate::answer`] and [`crate::bot`]. Pure. A link to the login page goes to one person alone.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use sdp_core::api::{LoginLink, Me};
use sdp_core::principal::Role;
use url::Url;

use super::{Message, Tone};
use crate::text::Text;

/// The way to log in: for the eyes of one person.
#[must_use]
pub fn link(link: &LoginLink, me: &Me) -> Message {
    let message = Message::new(Tone::Plain, Text::from("Log in with your git account"))
        .line(Text::new().link(&link.url))
        .line(Text::from("It works once, for 10 minutes."))
        .line(Text::from(
            "It is for you alone, so do not pass it on: whoever logs in there is who you are in this chat.",
        ));
    let message = match (&me.account, me.bound_until) {
        (Some(account), Some(until)) => message.line(
            Text::new()
                .plain("You are logged in already, as ")
                .strong(&account.name)
                .plain(format!(" until {}; this logs you in anew.", day(until))),
        ),
        _ => message,
    };
    message.open("Log in", &link.url)
}

/// There is nothing to log in with.
#[must_use]
pub fn nobody_logs_in(me: &Me) -> Message {
    let text = Text::from("Nobody logs in with a git account here.");
    match me.principal.as_person() {
        Some(person) => {
            Message::new(Tone::Note, text.plain(" You are ").strong(person).plain(" all the same."))
                .line(Text::new().dim("you may ").plain(may(me.role)))
        }
        None => Message::new(Tone::Bad, text.plain(" You may look but not act.")).line(ask_an_admin()),
    }
}

/// This chat does not know who one is any more.
#[must_use]
pub fn logged_out(me: &Me, account_page: &Url) -> Message {
    let text = Text::from("Logged out");
    let text = match &me.account {
        Some(account) => text.plain(": in this chat you are not ").strong(&account.name).plain(" any more."),
        None => text.plain("."),
    };
    Message::new(Tone::Good, text)
        .line(Text::from("Your git credential is forgotten, unless you are still logged in elsewhere."))
        .line(Text::new().dim("browsers ").link(account_page))
}

/// There was nothing to log out of.
#[must_use]
pub fn was_not_logged_in(me: &Me) -> Message {
    let message = Message::new(Tone::Note, Text::from("You were not logged in."));
    if me.login { message.offer("Log in", "login") } else { message }
}

/// Who one is to SDP.
#[must_use]
pub fn whoami(me: &Me, server: &Url) -> Message {
    let message = match (me.principal.as_person(), &me.chat_user) {
        (Some(person), chat_user) => {
            let text = Text::new().plain("You are ").strong(person);
            let text = match chat_user {
                Some(user) if user != person => text.dim(format!(" ({user} in this chat)")),
                _ => text,
            };
            let message = Message::new(Tone::Plain, text);
            let message = match &me.account {
                Some(account) => {
                    let at = format!("{} at {}", account.git_user, account.git_origin);
                    message.line(Text::new().dim("git account ").plain(at))
                }
                None => message,
            };
            let message = match me.bound_until {
                Some(until) => {
                    message.line(Text::new().dim("logged in ").plain(format!("until {}", day(until))))
                }
                None => message,
            };
            message
                .line(Text::new().dim("you may ").plain(may(me.role)))
                .line(Text::new().dim("your sandbox ").plain(&me.own_sandbox))
        }
        (None, Some(user)) => {
            let text = Text::new()
                .plain("You are ")
                .strong(user)
                .plain(" here, and nobody to SDP yet: you may look but not act.");
            let message = Message::new(Tone::Plain, text);
            if me.login { message.line(how()).offer("Log in", "login") } else { message.line(ask_an_admin()) }
        }
        (None, None) => {
            let text = "You are nobody by name: this token speaks for itself, and no sandbox is yours";
            Message::new(Tone::Plain, Text::from(text))
                .line(Text::new().dim("token ").plain(me.principal.to_string()))
                .line(Text::new().dim("you may ").plain(may(me.role)))
                .line(
                    Text::new()
                        .dim("next ")
                        .plain("name a person with a bot's token: --as <person>; or say to <sandbox>"),
                )
        }
    };
    message.line(Text::new().dim("server ").link(server))
}

/// What somebody wanted is for those who are logged in.
#[must_use]
pub fn needed(wanted: &str) -> Message {
    let title = Text::new().code(wanted).plain(" needs a login: until then you may look but not act.");
    Message::new(Tone::Bad, title).line(how()).offer("Log in", "login")
}

/// No sandbox is one's own before one has logged in.
#[must_use]
pub fn no_sandbox_yet() -> Message {
    let title = "Which sandbox? You are not logged in, so none is yours.";
    Message::new(Tone::Bad, Text::from(title))
        .line(how())
        .line(Text::new().dim("or ").plain("name one; ").code("list all").plain(" shows them"))
        .offer("Log in", "login")
}

/// Who is logged in may look, and wanted to act.
#[must_use]
pub fn may_only_look(me: &Me, account_page: &Url) -> Message {
    let text = Text::new().plain("You are logged in as ").strong(me.principal.to_string());
    Message::new(Tone::Bad, text.plain(", who may look but not act.")).line(
        Text::new()
            .dim("next ")
            .plain("ask an admin to make you a developer; they do that at ")
            .link(account_page),
    )
}

pub(super) fn ask_an_admin() -> Text {
    Text::new().dim("next ").plain("ask an administrator, for the server's [login] configuration")
}

pub(super) fn how() -> Text {
    Text::new().dim("next ").code("/sdp login").plain(" gives you a link to log in with your git account")
}

pub(super) fn may(role: Role) -> &'static str {
    match role {
        Role::Developer => "look and act (developer)",
        Role::Admin => "do everything (admin)",
        _ => "look, but not act (viewer); ask an admin to make you a developer",
    }
}

fn day(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).date().to_string()
}
