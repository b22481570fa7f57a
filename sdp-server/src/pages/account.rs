//! The account: who one is here, where one is signed in, and with what; for admins everybody's tokens and roles, too.
//!
//! Each part is shown to whom the API would answer, by the same table ([`Who`]): whoever may not see a list there does not see
//! it here. A new token's value is put into the page by its script and is nowhere in what is rendered. The lists are as long as
//! the API's, which has no pages of them either.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use jiff::Timestamp;
use maud::{Markup, html};
use sdp_core::api::{BindingInfo, Me, Person, SessionInfo, TokenInfo, TokenKind};
use sdp_core::id::EventSeq;
use sdp_core::name::ServiceName;
use sdp_core::principal::{Principal, Role};

use super::layout::{Frame, page, respond};
use super::parts::{self, Delete, delete};
use super::{sign_in, words};
use crate::app::App;
use crate::edge::{Caller, Proof, Who};
use crate::problem::Refused;
use crate::rest::me::{me, sessions_of};
use crate::rest::tokens::{LONGEST, may_make, tokens_of};

/// How many days a token works if nobody says otherwise.
const DAYS: u16 = 90;
/// What a token may be for, as the form offers it.
const KINDS: [TokenKind; 5] =
    [TokenKind::Deploy, TokenKind::Read, TokenKind::Admin, TokenKind::Bot, TokenKind::Agent];

/// What the page shows; a list that is none is not for whoever looks.
pub(super) struct AccountPage {
    pub(super) me: Me,
    /// Whether whoever has no account is a person, by the name that the chat gave.
    pub(super) named: bool,
    pub(super) now: Timestamp,
    pub(super) sessions: Option<Vec<SessionInfo>>,
    pub(super) bindings: Option<Vec<BindingInfo>>,
    pub(super) tokens: Option<Vec<TokenInfo>>,
    /// The kinds of tokens that one may make.
    pub(super) kinds: Vec<TokenKind>,
    /// For which one may be.
    pub(super) services: Vec<ServiceName>,
    pub(super) people: Option<Vec<Person>>,
}

pub(super) async fn show(State(app): State<App>, caller: Caller) -> Response {
    match read(&app, &caller).await {
        Ok(account) => respond(StatusCode::OK, account.render()),
        Err(refused) => sign_in::problem_page(refused, Some(&caller.principal)),
    }
}

async fn read(app: &App, caller: &Caller) -> Result<AccountPage, Refused> {
    let may = |who: Who| who.allows(caller.standing);
    let (mut sessions, mut bindings, mut tokens, mut people) = (None, None, None, None);
    if may(Who::Me) {
        sessions = Some(sessions_of(app, caller).await?);
        bindings = Some(app.access().bindings(caller.as_account()?).await?);
    }
    if may(Who::Tokens) {
        tokens = Some(tokens_of(app, caller).await?);
    }
    if may(Who::Admin) {
        people = Some(app.access().people().await?);
    }
    let makes = tokens.is_some() && matches!(caller.proof, Proof::Session { .. });
    let kinds = KINDS.into_iter().filter(|kind| makes && may_make(caller.standing.rank, *kind));
    Ok(AccountPage {
        me: me(app, caller).await?,
        named: matches!(caller.principal, Principal::Person { .. }),
        now: Timestamp::now(),
        sessions,
        bindings,
        tokens,
        kinds: kinds.collect(),
        services: app.platform().services().await?.into_iter().map(|service| service.name).collect(),
        people,
    })
}

impl AccountPage {
    pub(super) fn render(&self) -> Markup {
        let frame = Frame {
            title: "Account",
            class: "account-page",
            script: Some("account.js"),
            principal: Some(&self.me.principal),
            event: EventSeq(0),
            now: self.now,
        };
        page(
            &frame,
            html! {
                (self.who())
                (self.sessions())
                (self.bindings())
                (self.tokens())
                (self.people())
            },
        )
    }

    // ── who ───────────────────────────────────────────────────────────────────────────────────────────────────────

    fn who(&self) -> Markup {
        html! {
            section id="who" data-part class="card" aria-labelledby="who-title" {
                div class="line" {
                    h1 id="who-title" { (self.me.principal) }
                    (role_badge(self.me.role))
                    span class="grow" {}
                    @if self.sessions.is_some() {
                        (delete(&Delete {
                            label: "Log out everywhere",
                            path: "/api/v1/me/sessions".into(),
                            arm: "Log out everywhere?".into(),
                            done: "You are logged out everywhere.".into(),
                            then: Some("/login"),
                            about: "ends all your sessions and chats, and forgets your git credential".into(),
                        }))
                    }
                }
                @match &self.me.account {
                    Some(person) => { (self.account(person)) }
                    None => { (self.without_account()) }
                }
            }
        }
    }

    fn account(&self, person: &Person) -> Markup {
        html! {
            dl {
                dt { "Role" } dd { (role_words(self.me.role)) }
                dt { "Git account" } dd { b { bdi { (words::visible(&person.git_user)) } } " at " (words::visible(&person.git_origin)) }
                dt { "Git credential" }
                dd {
                    @if person.has_credential { "kept, sealed; it fetches what you deploy, and goes when you are logged out everywhere" }
                    @else { "not kept; " a href="/login" { "log in again" } " to fetch what only you may read" }
                }
                dt { "Your sandbox" } dd { (self.me.own_sandbox) }
                dt { "Logged in" } dd { (parts::ago(person.logged_in_at, self.now)) }
            }
        }
    }

    fn without_account(&self) -> Markup {
        html! {
            dl {
                dt { "Role" } dd { (role_words(self.me.role)) }
                @if self.named { dt { "Your sandbox" } dd { (self.me.own_sandbox) } }
            }
            @if self.named {
                p class="hint" {
                    "You are signed in by the name that the chat gave, without an account: there are no sessions, chats or tokens of "
                    "yours to show."
                }
            } @else {
                p class="hint" {
                    "This browser was signed in through the token " b { (self.me.principal) } ", not by a person: it has no sessions, chats "
                    "or tokens of its own. It is signed out when that token is revoked."
                }
                p class="hint" {
                    "Operators make and revoke tokens by the API, with the token itself, or on the server's host with "
                    code { "sdp-server token" } "."
                }
            }
            @if self.me.login { p { a class="btn primary" href="/login?next=/account" { "Log in with your git account" } } }
        }
    }

    // ── sessions and chats ────────────────────────────────────────────────────────────────────────────────────────

    fn sessions(&self) -> Markup {
        let Some(sessions) = &self.sessions else { return absent("sessions") };
        html! {
            section id="sessions" data-part aria-labelledby="sessions-title" {
                h2 id="sessions-title" { "Sessions" }
                p class="hint" { "The browsers in which you are signed in." }
                ul class="rows" { @for session in sessions { (self.session(session)) } }
            }
        }
    }

    fn session(&self, session: &SessionInfo) -> Markup {
        let agent = session.user_agent.as_deref().unwrap_or("");
        let address = words::visible(session.address.as_deref().unwrap_or("an unknown address"));
        let (arm, then) =
            if session.current { ("Sign out here?", Some("/login")) } else { ("Sign it out?", None) };
        html! {
            li id={ "session-" (session.id) } class="row" {
                div class="line" {
                    b title=(words::visible(agent)) { (browser(agent)) }
                    @if session.current { span class="badge ok" { "this browser" } }
                    span class="grow" {}
                    (delete(&Delete {
                        label: "Sign out",
                        path: format!("/api/v1/me/sessions/{}", session.id),
                        arm: arm.into(),
                        done: "That browser is signed out.".into(),
                        then,
                        about: format!("the session from {address}"),
                    }))
                }
                p class="meta" {
                    "from " (address) " · since " (parts::ago(session.created_at, self.now))
                    " · last used " (parts::ago(session.used_at, self.now))
                    " · ends " (day(session.expires_at)) " if it is not used"
                }
            }
        }
    }

    fn bindings(&self) -> Markup {
        let Some(bindings) = &self.bindings else { return absent("chats") };
        html! {
            section id="chats" data-part aria-labelledby="chats-title" {
                h2 id="chats-title" { "Chats" }
                p class="hint" { "What these users type in chat is done in your name." }
                @if bindings.is_empty() {
                    p class="empty" { "You are nobody in chat yet: type " code { "/sdp login" } " there." }
                } @else {
                    ul class="rows" { @for binding in bindings { (self.binding(binding)) } }
                }
            }
        }
    }

    fn binding(&self, binding: &BindingInfo) -> Markup {
        html! {
            li id={ "chat-" (binding.id) } class="row" {
                div class="line" {
                    b { (binding.chat_user) } span class="meta" { "in the chat of " (binding.bot) }
                    span class="grow" {}
                    (delete(&Delete {
                        label: "Unbind",
                        path: format!("/api/v1/me/bindings/{}", binding.id),
                        arm: "Unbind it?".into(),
                        done: format!("{} in the chat of {} is not you any more.", binding.chat_user, binding.bot),
                        then: None,
                        about: format!("{} in the chat of {}", binding.chat_user, binding.bot),
                    }))
                }
                p class="meta" { "since " (parts::ago(binding.created_at, self.now)) " · until " (day(binding.expires_at)) }
            }
        }
    }

    // ── tokens ────────────────────────────────────────────────────────────────────────────────────────────────────

    fn tokens(&self) -> Markup {
        let Some(tokens) = &self.tokens else { return absent("tokens") };
        let of_all = self.me.role == Role::Admin;
        html! {
            section id="tokens" aria-labelledby="tokens-title" {
                h2 id="tokens-title" { "Tokens" }
                p class="hint" {
                    @if of_all { "Everybody's, and the operators'. " }
                    "A token of yours is you to a program, and may never do more than you."
                }
                div id="token-list" data-part {
                    @if tokens.is_empty() { p class="empty" { "There is none." } }
                    @else { ul class="rows" { @for token in tokens { (self.token(token, of_all)) } } }
                }
                @if !self.kinds.is_empty() { (self.token_form()) }
            }
        }
    }

    fn token(&self, token: &TokenInfo, of_all: bool) -> Markup {
        html! {
            li id={ "token-" (token.name) } class="row" {
                div class="line" {
                    b { (token.name) } span class="badge" { (token.kind.as_str()) }
                    @if let Some(service) = &token.service { span class="meta" { "only " b { (service) } } }
                    @if of_all {
                        span class="meta" {
                            @match &token.owner { Some(owner) => { "of " (owner) } None => { "of the operators" } }
                        }
                    }
                    span class="grow" {}
                    (delete(&Delete {
                        label: "Revoke",
                        path: format!("/api/v1/tokens/{}", token.name),
                        arm: format!("Revoke {}?", token.name),
                        done: format!("The token {} opens nothing any more.", token.name),
                        then: None,
                        about: format!("the token {}", token.name),
                    }))
                }
                p class="meta" {
                    "made " (parts::ago(token.created_at, self.now)) " · "
                    @match token.used_at { Some(at) => { "last used " (parts::ago(at, self.now)) } None => { "never used" } }
                    " · "
                    @match token.expires_at { Some(at) => { "works until " (day(at)) } None => { "works until it is revoked" } }
                }
            }
        }
    }

    fn token_form(&self) -> Markup {
        html! {
            form id="token-form" class="card scripted" autocomplete="off" {
                h3 { "A new token" }
                div class="fields" {
                    p {
                        label for="token-name" { "Name" }
                        input id="token-name" name="name" required maxlength="63" placeholder="ci-payments" autocapitalize="none" spellcheck="false";
                    }
                    p {
                        label for="token-kind" { "Kind" }
                        select id="token-kind" name="kind" {
                            @for kind in &self.kinds { option value=(kind.as_str()) { (kind_words(*kind)) } }
                        }
                    }
                    p {
                        label for="token-service" { "Only for" }
                        select id="token-service" name="service" {
                            option value="" { "all services" }
                            @for service in &self.services { option value=(service) { (service) } }
                        }
                    }
                    p {
                        label for="token-days" { "Days" }
                        input id="token-days" name="days" type="number" min="1" max=(LONGEST) value=(DAYS) placeholder="for ever";
                    }
                    button class="btn primary" type="submit" { "Make it" }
                }
                p id="token-problem" class="problem" role="alert" hidden {}
            }
            div id="token-made" class="card made" role="status" hidden {
                p { b { "Copy it now: it is shown this once." } " The token " b id="token-made-name" {} " is not kept anywhere that it could be read again." }
                div class="line" { code id="token-value" {} button id="token-copy" type="button" class="btn small" { "Copy" } }
            }
            p class="no-script hint" { "Tokens are made and revoked with scripts, or by the API." }
        }
    }

    // ── people ────────────────────────────────────────────────────────────────────────────────────────────────────

    fn people(&self) -> Markup {
        let Some(people) = &self.people else { return absent("people") };
        html! {
            section id="people" data-part aria-labelledby="people-title" {
                h2 id="people-title" { "People" }
                p class="hint" { "Everybody who ever logged in. What they did is in " a href="/audit" { "the audit" } "." }
                @if people.is_empty() { p class="empty" { "Nobody has logged in yet." } }
                @else { ul class="rows" { @for person in people { (self.person(person)) } } }
            }
        }
    }

    fn person(&self, person: &Person) -> Markup {
        let is_me = self.me.account.as_ref().is_some_and(|me| me.name == person.name);
        html! {
            li id={ "person-" (person.name) } class="row" {
                div class="line" {
                    b { (person.name) }
                    @if is_me { span class="badge ok" { "you" } }
                    span class="no-script" { (person.role) }
                    span class="grow" {}
                    select class="scripted role" data-person=(person.name) aria-label={ "Role of " (person.name) } {
                        @for role in [Role::Viewer, Role::Developer, Role::Admin] {
                            option value=(role) selected[role == person.role] { (role) }
                        }
                    }
                    (delete(&Delete {
                        label: "Delete",
                        path: format!("/api/v1/people/{}", person.name),
                        arm: if is_me { "Delete yourself?".into() } else { format!("Delete {}?", person.name) },
                        done: format!("{} is forgotten, with all sessions, chats and tokens.", person.name),
                        then: is_me.then_some("/login"),
                        about: format!("{}, with all their sessions, chats and tokens", person.name),
                    }))
                }
                p class="meta" {
                    bdi { (words::visible(&person.git_user)) } " at " (words::visible(&person.git_origin))
                    " · first seen " (day(person.created_at)) " · logged in " (parts::ago(person.logged_in_at, self.now))
                }
            }
        }
    }
}

/// A part that is not for whoever looks: a page that was fetched again takes it away.
fn absent(id: &str) -> Markup {
    html! { section id=(id) data-part hidden {} }
}

fn day(at: Timestamp) -> Markup {
    html! { time datetime=(at) title=(at) { (words::date(at)) } }
}

fn role_badge(role: Role) -> Markup {
    html! { span class="badge" { (role) } }
}

fn role_words(role: Role) -> &'static str {
    match role {
        Role::Developer => "developer: may look, deploy and stop what runs",
        Role::Admin => "admin: may do everything, and change services, people and tokens",
        _ => "viewer: may look, but not act; ask an admin to make you a developer",
    }
}

fn kind_words(kind: TokenKind) -> &'static str {
    match kind {
        TokenKind::Admin => "admin: everything",
        TokenKind::Deploy => "deploy",
        TokenKind::Bot => "bot: speak for a chat",
        TokenKind::Agent => "agent of that name",
        _ => "read",
    }
}

/// What a browser says about itself, short: `Firefox on Linux`. What is not known is shown as it is.
fn browser(agent: &str) -> String {
    // Each names those that it wants to be taken for, so the rarer ones come first.
    let names = [
        ("Edg/", "Edge"),
        ("OPR/", "Opera"),
        ("Firefox/", "Firefox"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
    ];
    let systems = [
        ("Windows", "Windows"),
        ("Android", "Android"),
        ("iPhone", "an iPhone"),
        ("iPad", "an iPad"),
        ("Mac OS X", "a Mac"),
        ("Linux", "Linux"),
    ];
    let find = |known: &[(&str, &'static str)]| {
        known.iter().find(|(part, _)| agent.contains(part)).map(|(_, word)| *word)
    };
    match (find(&names), find(&systems)) {
        (Some(name), Some(system)) if agent.starts_with("Mozilla/5.0 (") => format!("{name} on {system}"),
        _ if agent.is_empty() => "A program that does not say its name".to_owned(),
        _ => {
            let short: String = agent.chars().take(60).collect();
            let end = if short.len() < agent.len() { "…" } else { "" };
            format!("{}{end}", words::visible(&short))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::browser;

    #[test]
    fn browsers_have_short_names_and_others_are_cut() {
        for (agent, shown) in [
            ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox on Linux"),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36 Edg/140.0",
                "Edge on Windows",
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Mobile/15E148 Safari/604.1",
                "Safari on an iPhone",
            ),
            ("curl/8.5.0", "curl/8.5.0"),
            ("", "A program that does not say its name"),
            ("Chrome/1 Linux", "Chrome/1 Linux"),
            ("a\u{202e}b", "a⟨U+202E⟩b"),
        ] {
            assert_eq!(browser(agent), shown);
        }
        assert_eq!(browser(&"ü".repeat(61)).chars().count(), 61);
    }
}
