//! Who asks: a bearer token or a session cookie becomes a [`Caller`] with its [`Principal`], or the request ends here.
//!
//! - Two `Authorization` headers, another scheme, an unknown value: always the same 401. A token in the address is no token.
//! - Only a bot's token may name a user of its chat, for whom it then speaks: as the account that they are bound to, else as
//!   somebody who may look. Where nobody logs in (`login.trust_bot`) the name is the person's.
//! - A person's token acts as that person, and may never do more than they.
//! - A cookie is sent by a browser whoever made it send a request. So a write with a cookie must come from our own pages: the
//!   browser says so in `Sec-Fetch-Site`, older ones in `Origin`. Neither of them: refused.

use axum::extract::{FromRequestParts, MatchedPath, OptionalFromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sdp_core::access::{self as session, Begun, Bound, ChatUser, SESSION_LIFE, Session};
use sdp_core::api::{ON_BEHALF_OF, TokenKind};
use sdp_core::id::SessionId;
use sdp_core::name::{PersonName, ServiceName, TokenName};
use sdp_core::platform::Power;
use sdp_core::principal::Principal;
use sdp_core::secret::Secret;

use super::audit;
use super::who::{Rank, SpeaksFor, Standing, Through, Who, methods, who};
use crate::app::App;
use crate::config::{Config, TokenDigest};
use crate::pages::sign_in::please_sign_in;
use crate::problem::Refused;

/// Somebody who may do what they ask.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) principal: Principal,
    pub(crate) proof: Proof,
    pub(crate) standing: Standing,
    /// Their account, if they are a person with one.
    pub(crate) account: Option<PersonName>,
    /// The only service that they may change.
    pub(crate) service: Option<ServiceName>,
    /// For whom a bot speaks.
    pub(crate) chat_user: Option<ChatUser>,
    /// What says which account that is.
    pub(crate) bound: Option<Bound>,
}

impl Caller {
    /// On whose authority they change what is somebody's own.
    pub(crate) fn power(&self) -> Power {
        match (self.standing.rank, &self.account) {
            (Rank::Admin, _) => Power::Administrator,
            (_, Some(person)) => Power::OfPerson(person.clone()),
            _ => Power::Member,
        }
    }
}

/// What was presented; long connections look again whether it still holds.
#[derive(Clone, Debug)]
pub(crate) enum Proof {
    Token { name: TokenName, value: Secret },
    Session { id: SessionId, value: Secret },
}

/// In a response's extensions, for the log.
#[derive(Clone, Debug)]
pub(crate) struct AskedBy(pub(crate) Principal);

impl Caller {
    pub(crate) fn has_session(&self) -> bool {
        matches!(self.proof, Proof::Session { .. })
    }

    /// Refuses to change another service than a limited token names.
    pub(crate) fn may_change(&self, service: &ServiceName) -> Result<(), Refused> {
        match &self.service {
            Some(only) if only != service => {
                Err(Refused::forbidden(format!("this token changes nothing but {only}")))
            }
            _ => Ok(()),
        }
    }

    /// The account of a person, where the route is theirs alone.
    pub(crate) fn as_account(&self) -> Result<&PersonName, Refused> {
        self.account.as_ref().ok_or_else(|| Refused::forbidden("this is for people who are logged in"))
    }

    /// As whom a browser is signed in by a code that this caller asks for.
    pub(crate) fn begun(&self) -> Begun {
        let principal = match &self.principal {
            Principal::Bot { person, .. } => Principal::person(person.clone()),
            other => other.clone(),
        };
        let token = match &self.proof {
            Proof::Token { name, .. } => Some(name.clone()),
            Proof::Session { .. } => None,
        };
        Begun {
            principal,
            account: self.account.clone(),
            token,
            binding: self.bound.as_ref().map(|bound| bound.id),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        parts.extensions.get::<Self>().cloned().ok_or_else(Refused::unauthorised)
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Caller {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Self::Rejection> {
        Ok(parts.extensions.get::<Self>().cloned())
    }
}

/// The cookie's name: a browser takes a `__Host-` cookie only over TLS, for this host alone.
pub(crate) fn cookie_name(config: &Config) -> &'static str {
    if config.is_https() { "__Host-sdp" } else { "sdp" }
}

/// `Set-Cookie` for a session; an empty value takes it away.
pub(crate) fn session_cookie(config: &Config, value: &str) -> HeaderValue {
    let name = cookie_name(config);
    let secure = if config.is_https() { "; Secure" } else { "" };
    let life = if value.is_empty() { 0 } else { SESSION_LIFE.as_secs() };
    let text = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax; Max-Age={life}{secure}");
    // Our values are letters and digits.
    let mut value = HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// Whether a browser says that our own page sent this. `None`: it says nothing, or it is no browser.
pub(crate) fn is_same_origin(config: &Config, headers: &HeaderMap) -> Option<bool> {
    let site = headers.get("sec-fetch-site").map(|site| matches!(site.as_bytes(), b"same-origin" | b"none"));
    let origin = headers.get(header::ORIGIN).map(|origin| origin.as_bytes() == config.origin().as_bytes());
    match (site, origin) {
        (None, None) => None,
        (site, origin) => Some(site.unwrap_or(true) && origin.unwrap_or(true)),
    }
}

/// Passes unless a browser says that another site's page sent this: it must not log somebody in as somebody else.
pub(crate) struct NotCrossSite;

impl FromRequestParts<App> for NotCrossSite {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refused> {
        if is_same_origin(app.config(), &parts.headers) == Some(false) {
            return Err(Refused::new("cross_site", "the request did not come from a page of this server"));
        }
        Ok(Self)
    }
}

/// Whether what a long connection began with still opens the door.
pub(crate) async fn still_holds(app: &App, proof: &Proof) -> bool {
    let held = match proof {
        Proof::Token { value, .. } => app.access().token(value.expose()).await.map(|token| token.is_some()),
        Proof::Session { id, .. } => app.access().session_holds(*id).await,
    };
    // A database that cannot be read has its own troubles; it does not throw everybody out.
    held.unwrap_or(true)
}

/// Lets a request pass that may, with its [`Caller`] in the extensions.
pub(crate) async fn authenticate(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let Some(route) = request.extensions().get::<MatchedPath>().cloned() else {
        return next.run(request).await;
    };
    let Some(wanted) = who(request.method(), route.as_str()) else {
        return unlisted(route.as_str()).into_response();
    };
    let found = match identify(&app, request.headers(), wanted).await {
        Ok(found) => found,
        Err(refused) if wanted == Who::Page && refused.code() == "unauthorised" => {
            let next = request.uri().path_and_query().map_or("/", |address| address.as_str());
            return please_sign_in(app.config().login.repository.is_some(), next);
        }
        Err(refused) => {
            app.metrics().refused(refused.code());
            return refused.into_response();
        }
    };
    let Some((caller, renewed)) = found else { return next.run(request).await };
    let asked = audit::Asked::of(&request, route.as_str(), &caller);
    let cookie = renewed.map(|value| session_cookie(app.config(), value.expose()));
    let by = AskedBy(caller.principal.clone());
    let mut response = match may(&app, &request, wanted, &caller) {
        Ok(()) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(refused) => {
            app.metrics().refused(refused.code());
            // What is refused counts like what is done: it is written down, too.
            match app.limits().request(&caller, asked.is_some()) {
                Ok(()) => refused.into_response(),
                Err(too_many) => too_many.into_response(),
            }
        }
    };
    if let Some(entry) = asked.and_then(|asked| asked.answered(&response)) {
        audit::record(&app, entry).await;
    }
    response.extensions_mut().insert(by);
    if let Some(cookie) = cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// Whether somebody may do what they ask, and has asked for it themselves.
fn may(app: &App, request: &Request, wanted: Who, caller: &Caller) -> Result<(), Refused> {
    allowed(wanted, caller.standing)?;
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    if caller.has_session() && !is_read && is_same_origin(app.config(), request.headers()) != Some(true) {
        return Err(Refused::new("cross_site", "the request did not come from a page of this server")
            .hint("use a token for programs"));
    }
    Ok(())
}

/// The caller, and its session's new value if that was changed; `None` where nobody is asked.
async fn identify(
    app: &App,
    headers: &HeaderMap,
    wanted: Who,
) -> Result<Option<(Caller, Option<Secret>)>, Refused> {
    // An enrolment is for its own handler to look at.
    if matches!(wanted, Who::Open | Who::Enrol) || (wanted == Who::Metrics && may_read_metrics(app, headers))
    {
        return Ok(None);
    }
    if headers.contains_key(header::AUTHORIZATION) {
        return Ok(Some((by_token(app, headers).await?, None)));
    }
    if headers.contains_key(ON_BEHALF_OF) {
        return Err(Refused::unauthorised());
    }
    let value = cookie(headers, cookie_name(app.config())).ok_or_else(Refused::unauthorised)?;
    let session = app.access().session(value.expose()).await?.ok_or_else(Refused::unauthorised)?;
    let Session { id, principal, account, standing, renewed } = session;
    let login = &app.config().login;
    let rank = match standing {
        session::Standing::Account(role) => Some(Rank::of(role)),
        session::Standing::Token(kind) => Rank::of_token(kind),
        session::Standing::Named if login.trust_bot => Some(Rank::of(login.role)),
        // Somebody whom a bot named when that was enough.
        _ => None,
    };
    let rank = rank.ok_or_else(Refused::unauthorised)?;
    let standing = Standing {
        rank,
        through: Through::Session,
        account: account.is_some(),
        speaks_for: SpeaksFor::Nobody,
        limited: false,
    };
    let proof = Proof::Session { id, value: renewed.clone().unwrap_or(value) };
    let caller = Caller { principal, proof, standing, account, service: None, chat_user: None, bound: None };
    Ok(Some((caller, renewed)))
}

/// Whether metrics are open to all, or this is the token for them. A token in the header that is another one is looked at as usual.
fn may_read_metrics(app: &App, headers: &HeaderMap) -> bool {
    let opens = |token: &TokenDigest| bearer(headers).is_some_and(|value| token.is_of(&value));
    app.config().metrics.open || app.metrics_token().is_some_and(opens)
}

async fn by_token(app: &App, headers: &HeaderMap) -> Result<Caller, Refused> {
    let value = bearer(headers).ok_or_else(Refused::unauthorised)?;
    let token = app.access().token(value.expose()).await?.ok_or_else(Refused::unauthorised)?;
    let named = on_behalf_of(headers)?;
    if named.is_some() && token.kind != TokenKind::Bot {
        return Err(Refused::forbidden("only a bot may speak for somebody else"));
    }
    // A kind that this version does not know opens nothing.
    let rank = Rank::of_token(token.kind).ok_or_else(Refused::unauthorised)?;
    let name = token.name;
    let proof = Proof::Token { name: name.clone(), value };
    let mut caller = Caller {
        principal: Principal::Token { name: name.clone() },
        proof,
        standing: Standing {
            rank,
            through: if token.kind == TokenKind::Bot { Through::Bot } else { Through::Token },
            account: false,
            speaks_for: SpeaksFor::Nobody,
            limited: token.service.is_some(),
        },
        account: None,
        service: token.service,
        chat_user: None,
        bound: None,
    };
    if let Some(owner) = token.owner {
        // A token goes with its owner's account.
        let person = app.access().person(&owner).await?.ok_or_else(Refused::unauthorised)?;
        caller.principal = Principal::person(owner.clone());
        caller.standing.rank = rank.min(Rank::of(person.role));
        caller.standing.account = true;
        caller.account = Some(owner);
    }
    if let Some(user) = named {
        speak_for(app, &mut caller, ChatUser { bot: name, user }).await?;
    }
    Ok(caller)
}

/// A bot speaks for a user of its chat.
async fn speak_for(app: &App, caller: &mut Caller, of: ChatUser) -> Result<(), Refused> {
    let login = &app.config().login;
    if let Some(bound) = app.access().bound(&of).await? {
        caller.principal = Principal::Bot { name: of.bot.clone(), person: bound.account.clone() };
        caller.standing.rank = Rank::of(bound.role);
        caller.standing.account = true;
        caller.standing.speaks_for = SpeaksFor::Person;
        caller.account = Some(bound.account.clone());
        caller.bound = Some(bound);
    } else if login.trust_bot {
        caller.principal = Principal::Bot { name: of.bot.clone(), person: of.user.clone() };
        caller.standing.rank = Rank::of(login.role);
        caller.standing.speaks_for = SpeaksFor::Person;
    } else {
        caller.standing.speaks_for = SpeaksFor::Stranger;
    }
    caller.chat_user = Some(of);
    Ok(())
}

fn allowed(wanted: Who, asks: Standing) -> Result<(), Refused> {
    if wanted.allows(asks) {
        return Ok(());
    }
    Err(match (wanted, asks.rank, asks.through) {
        (_, Rank::Agent, _) => Refused::forbidden("an agent's token opens nothing but /ws/agent"),
        (Who::Agent, ..) => Refused::forbidden("this is for agents, with an agent's token"),
        (_, _, Through::Bot) if asks.speaks_for == SpeaksFor::Stranger => {
            Refused::new("login_needed", "you are not logged in, so you may look but not act")
                .hint("type /sdp login: it gives you a link to log in with your git account")
        }
        (_, _, Through::Bot) if asks.speaks_for == SpeaksFor::Nobody => {
            Refused::forbidden("a bot may do this only on behalf of a person")
                .hint(format!("name the user of the chat in the header `{ON_BEHALF_OF}`"))
        }
        (Who::Chat, ..) => Refused::forbidden("this is for bots, on behalf of a user of their chat"),
        (Who::Issue, ..) => Refused::forbidden("this needs a token"),
        (Who::Me | Who::Tokens, ..) => {
            Refused::forbidden("this is for people who are logged in with their git account")
                .hint("log in on the page /login, or ask an admin")
        }
        (Who::Admin, ..) if !asks.limited => {
            Refused::forbidden("this is for admins").hint("ask an admin, or one to make you an admin")
        }
        (Who::Deploy | Who::Develop, Rank::Viewer, Through::Token) => {
            Refused::forbidden("this token may only read").hint("make one of the kind `deploy`")
        }
        (Who::Deploy | Who::Develop, Rank::Viewer, _) => {
            Refused::forbidden("you may look but not act").hint("ask an admin to make you a developer")
        }
        _ if asks.limited => Refused::forbidden("this token may change one service, and nothing else"),
        _ => Refused::forbidden("this token may not do that"),
    })
}

/// The one bearer token; `None` if there is none, or more than one, or something else.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<Secret> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, value) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| Secret::new(value.trim()))
}

fn on_behalf_of(headers: &HeaderMap) -> Result<Option<PersonName>, Refused> {
    let mut values = headers.get_all(ON_BEHALF_OF).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refused::new("invalid_header", "more than one person was named"));
    }
    Ok(Some(PersonName::parse(value.to_str().unwrap_or_default())?))
}

/// A cookie's value; the first one of that name.
fn cookie(headers: &HeaderMap, name: &str) -> Option<Secret> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| Secret::new(value))
}

/// The session's value that a browser sent, whether it holds or not.
pub(crate) fn presented_session(config: &Config, headers: &HeaderMap) -> Option<Secret> {
    cookie(headers, cookie_name(config))
}

/// A route of the API that knows other methods only, or one that is missing in the table and answers nobody.
fn unlisted(route: &str) -> Response {
    let allow = methods(route);
    match HeaderValue::try_from(allow) {
        Ok(allow) if !allow.is_empty() => {
            let mut response = super::wrong_method().into_response();
            response.headers_mut().insert(header::ALLOW, allow);
            response
        }
        _ => Refused::not_found().into_response(),
    }
}
