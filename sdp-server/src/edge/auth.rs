//! Who asks: a bearer token or a session cookie becomes a [`Caller`] with its [`Principal`], or the request ends here.
//!
//! - Two `Authorization` headers, another scheme, an unknown value: always the same 401. A token in the address is no token.
//! - Only a bot's token may name a person that it speaks for; without one it may read.
//! - A cookie is sent by a browser whoever made it send a request. So a write with a cookie must come from our own pages: the
//!   browser says so in `Sec-Fetch-Site`, older ones in `Origin`. Neither of them: refused.

use axum::extract::{FromRequestParts, MatchedPath, OptionalFromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sdp_core::access::{SESSION_LIFE, Session};
use sdp_core::api::{ON_BEHALF_OF, TokenKind};
use sdp_core::name::PersonName;
use sdp_core::principal::Principal;
use sdp_core::secret::Secret;

use super::who::{Role, Who, methods, who};
use crate::app::App;
use crate::config::{Config, TokenDigest};
use crate::pages::sign_in::please_sign_in;
use crate::problem::Refused;

/// Somebody who may do what they ask.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) principal: Principal,
    pub(crate) proof: Proof,
}

/// What was presented; long connections look again whether it still holds.
#[derive(Clone, Debug)]
pub(crate) enum Proof {
    Token(Secret),
    Session(Secret),
}

/// In a response's extensions, for the log.
#[derive(Clone, Debug)]
pub(crate) struct AskedBy(pub(crate) Principal);

impl Caller {
    pub(crate) fn has_session(&self) -> bool {
        matches!(self.proof, Proof::Session(_))
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

/// Whether what a long connection began with still opens the door.
pub(crate) async fn still_holds(app: &App, proof: &Proof) -> bool {
    let held = match proof {
        Proof::Token(value) => app.access().token(value.expose()).await.map(|token| token.is_some()),
        Proof::Session(value) => app.access().session(value.expose()).await.map(|session| session.is_some()),
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
    let found = match caller(&app, request.method(), request.headers(), wanted).await {
        Ok(found) => found,
        Err(refused) if wanted == Who::Page && refused.code() == "unauthorised" => {
            return please_sign_in();
        }
        Err(refused) => {
            app.metrics().refused(refused.code());
            return refused.into_response();
        }
    };
    let Some((caller, renewed)) = found else { return next.run(request).await };
    let cookie = match &caller.proof {
        Proof::Session(value) if renewed => Some(session_cookie(app.config(), value.expose())),
        _ => None,
    };
    let by = AskedBy(caller.principal.clone());
    request.extensions_mut().insert(caller);
    let mut response = next.run(request).await;
    response.extensions_mut().insert(by);
    if let Some(cookie) = cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// The caller, and whether its session's end was moved; `None` where nobody is asked.
async fn caller(
    app: &App,
    method: &Method,
    headers: &HeaderMap,
    wanted: Who,
) -> Result<Option<(Caller, bool)>, Refused> {
    if wanted == Who::Open || (wanted == Who::Metrics && may_read_metrics(app, headers)) {
        return Ok(None);
    }
    if headers.contains_key(header::AUTHORIZATION) {
        let (caller, role) = by_token(app, headers).await?;
        allowed(wanted, role)?;
        return Ok(Some((caller, false)));
    }
    if headers.contains_key(ON_BEHALF_OF) {
        return Err(Refused::unauthorised());
    }
    let value = cookie(headers, cookie_name(app.config())).ok_or_else(Refused::unauthorised)?;
    let Session { principal, renewed } =
        app.access().session(value.expose()).await?.ok_or_else(Refused::unauthorised)?;
    allowed(wanted, Role::Session)?;
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    if !is_read && is_same_origin(app.config(), headers) != Some(true) {
        return Err(Refused::new("cross_site", "the request did not come from a page of this server")
            .hint("use a token for programs"));
    }
    Ok(Some((Caller { principal, proof: Proof::Session(value) }, renewed)))
}

/// Whether metrics are open to all, or this is the token for them. A token in the header that is another one is looked at as usual.
fn may_read_metrics(app: &App, headers: &HeaderMap) -> bool {
    let opens = |token: &TokenDigest| bearer(headers).is_some_and(|value| token.is_of(&value));
    app.config().metrics.open || app.metrics_token().is_some_and(opens)
}

async fn by_token(app: &App, headers: &HeaderMap) -> Result<(Caller, Role), Refused> {
    let value = bearer(headers).ok_or_else(Refused::unauthorised)?;
    let token = app.access().token(value.expose()).await?.ok_or_else(Refused::unauthorised)?;
    let person = on_behalf_of(headers)?;
    if person.is_some() && token.kind != TokenKind::Bot {
        return Err(Refused::forbidden("only a bot may speak for somebody else"));
    }
    let name = token.name;
    let (principal, role) = match (token.kind, person) {
        (TokenKind::Admin, _) => (Principal::Token { name }, Role::Admin),
        (TokenKind::Bot, Some(person)) => (Principal::Bot { name, person }, Role::Bot { for_person: true }),
        (TokenKind::Bot, None) => (Principal::Token { name }, Role::Bot { for_person: false }),
        (TokenKind::Agent, _) => (Principal::Token { name }, Role::Agent),
        // A kind that this version does not know opens nothing.
        _ => return Err(Refused::unauthorised()),
    };
    Ok((Caller { principal, proof: Proof::Token(value) }, role))
}

fn allowed(wanted: Who, role: Role) -> Result<(), Refused> {
    if wanted.allows(role) {
        return Ok(());
    }
    Err(match (wanted, role) {
        (Who::Write | Who::Issue, Role::Bot { for_person: false }) => {
            Refused::forbidden("a bot may do this only on behalf of a person")
                .hint(format!("name the person in the header `{ON_BEHALF_OF}`"))
        }
        (Who::Admin, _) => Refused::forbidden("this needs an admin token"),
        (Who::Agent, _) => Refused::forbidden("this is for agents, with an agent's token"),
        (_, Role::Agent) => Refused::forbidden("an agent's token opens nothing but /ws/agent"),
        (Who::Issue, _) => Refused::forbidden("this needs a token"),
        _ => Refused::forbidden("this token may not do that"),
    })
}

/// The one bearer token; `None` if there is none, or more than one, or something else.
fn bearer(headers: &HeaderMap) -> Option<Secret> {
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
