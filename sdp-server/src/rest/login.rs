//! Logging in with a git account: one check, behind the API and the page.
//!
//! ```text
//! user, password ─▶ an agent lists the branches of `login.repository` with them ─▶ right: account, sealed credential, session
//!                                                                             └─▶ wrong: the same 401, after the same time
//! /sdp login ─▶ POST /api/v1/login-links (a bot) ─▶ /login/{link}: the page names the chat's user, and binds them
//! ```
//! The password goes to one agent, for one question, and into the vault; never into a log, an address or an event.
//! Limits: [`CHECK_WITHIN`] for the git host's answer; attempts per address and user name as `limits` says.

use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, Form, RawPathParams, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sdp_core::access::{LoggedIn, Origin, Vouched};
use sdp_core::api::{LogIn, LoginLink, Person, Problem};
use sdp_core::audit::{AuditVia, AuditWho, DONE, NewEntry};
use sdp_core::failure::FailureReason;
use sdp_core::name::PersonName;
use sdp_core::platform::PlatformError;
use sdp_core::principal::Principal;
use sdp_core::secret::GitCredential;
use serde::Deserialize;
use tokio::time::Instant;

use super::located;
use super::sign_in::{cross_site, is_local};
use crate::app::App;
use crate::edge::audit;
use crate::edge::{
    Caller, CameFrom, ClientAddress, JsonBody, NotCrossSite, is_same_origin, presented_session,
    session_cookie,
};
use crate::openapi::examples;
use crate::pages::login::{self as page, Asked};
use crate::problem::Refused;

/// How long a git host may take to say whether a login is right.
const CHECK_WITHIN: Duration = Duration::from_secs(10);
/// A refusal is not given before, whatever was wrong, so that its time says nothing.
const WRONG_TAKES: Duration = Duration::from_secs(1);
/// The longest user name, in bytes.
const USERNAME: usize = 256;
/// The longest password, in bytes.
const PASSWORD: usize = 64 * 1024;

/// Log in with a git account.
///
/// The answer sets a cookie with a session. A program that writes with it says `Origin: {the server's public URL}`; a token is
/// what programs should use.
#[utoipa::path(post, path = "/api/v1/login", operation_id = "log_in", tag = "sign-in",
    request_body(content = LogIn, example = json!(examples::log_in())),
    responses(
        (status = 200, description = "Logged in", body = Person,
            headers(("set-cookie" = String, description = "The session"))),
        (status = 401, description = "User name or password is wrong (`login_wrong`)",
            body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "Another site's page sent it (`cross_site`)",
            body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "Nobody logs in here (`no_login`)",
            body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The git host cannot vouch for anybody, such as `repo_not_found`",
            body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Too many attempts from this address, or with this user name (`too_many_requests`)",
            headers(("Retry-After" = u64, description = "Seconds after which another one may be made")),
            body = Problem, content_type = "application/problem+json"),
        (status = 502, description = "`git_unreachable`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`no_agent`", body = Problem, content_type = "application/problem+json"),
        (status = 504, description = "The git host or the agent did not answer in time (`timeout`, `no_answer`)",
            body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn log_in(
    State(app): State<App>,
    _: NotCrossSite,
    headers: HeaderMap,
    CameFrom(from): CameFrom,
    Extension(address): Extension<ClientAddress>,
    JsonBody(body): JsonBody<LogIn>,
) -> Result<Response, Refused> {
    let logged_in = attempt(&app, body, None, from, address, AuditVia::Api).await?;
    end_session_before(&app, &headers).await?;
    let mut response = Json(logged_in.person).into_response();
    let cookie = session_cookie(app.config(), logged_in.session.expose());
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    Ok(response)
}

/// Make a link with which one user of a chat logs in and is bound to their account.
///
/// For that user's eyes alone; it works once, for ten minutes, and replaces the one before.
#[utoipa::path(post, path = "/api/v1/login-links", operation_id = "create_login_link", tag = "sign-in",
    responses((status = 201, description = "The link", body = LoginLink),
        (status = 404, description = "Nobody logs in here (`no_login`)",
            body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create_link(
    State(app): State<App>,
    caller: Caller,
) -> Result<(StatusCode, Json<LoginLink>), Refused> {
    if app.config().login.repository.is_none() {
        return Err(no_login());
    }
    let Some(user) = &caller.chat_user else {
        return Err(Refused::forbidden("this is for bots, on behalf of a user of their chat"));
    };
    let (code, expires_at) = app.access().create_login_link(user).await?;
    let url = app.public(&format!("/login/{}", code.expose()));
    Ok((StatusCode::CREATED, Json(LoginLink { url, expires_at })))
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Next {
    next: Option<String>,
}

/// The login page.
pub(crate) async fn open(
    State(app): State<App>,
    axum::extract::Query(query): axum::extract::Query<Next>,
) -> Response {
    page::ask(&app, StatusCode::OK, &Asked { next: local(query.next), ..Asked::default() })
}

/// The login page behind a link from chat.
pub(crate) async fn open_link(State(app): State<App>, params: RawPathParams) -> Result<Response, Refused> {
    Ok(match app.access().login_link(code(&params)).await? {
        Some(chat_user) => {
            page::ask(&app, StatusCode::OK, &Asked { chat_user: Some(chat_user), ..Asked::default() })
        }
        None => page::link_used(),
    })
}

/// What the page's form sends.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LoginForm {
    username: String,
    password: sdp_core::secret::Secret,
    #[serde(default)]
    next: Option<String>,
}

/// The form of the login page, with a link from chat or without.
pub(crate) async fn submit(
    State(app): State<App>,
    headers: HeaderMap,
    params: RawPathParams,
    CameFrom(from): CameFrom,
    Extension(address): Extension<ClientAddress>,
    form: Result<Form<LoginForm>, axum::extract::rejection::FormRejection>,
) -> Result<Response, Refused> {
    if is_same_origin(app.config(), &headers) != Some(true) {
        return Err(cross_site());
    }
    let Ok(Form(form)) = form else {
        return Err(Refused::new("invalid_body", "the form cannot be read").hint("open the page again"));
    };
    let link = params.iter().next().map(|(_, value)| value);
    let chat_user = match link {
        None => None,
        Some(link) => match app.access().login_link(link).await? {
            None => return Ok(page::link_used()),
            found => found,
        },
    };
    let next = local(form.next);
    let username = form.username.clone();
    let given = LogIn { username: form.username, password: form.password };
    match attempt(&app, given, link, from, address, AuditVia::Page).await {
        Ok(logged_in) => {
            end_session_before(&app, &headers).await?;
            let cookie = session_cookie(app.config(), logged_in.session.expose());
            let mut response = match &logged_in.bound {
                Some(bound) => page::bound(&logged_in.person, bound),
                None => located(next.as_deref().unwrap_or("/"), StatusCode::SEE_OTHER),
            };
            response.headers_mut().insert(header::SET_COOKIE, cookie);
            Ok(response)
        }
        Err(refused) if refused.code() == "link_used" => Ok(page::link_used()),
        Err(refused) => {
            let status =
                StatusCode::from_u16(refused.problem().status).unwrap_or(StatusCode::UNPROCESSABLE_ENTITY);
            let wait = refused.seconds_to_wait();
            let asked = Asked { chat_user, next, username, refused: Some(refused) };
            let mut response = page::ask(&app, status, &asked);
            if let Some(seconds) = wait {
                response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
            }
            Ok(response)
        }
    }
}

/// Logs somebody in, or not; either is in the audit, but for what is beyond the limits.
async fn attempt(
    app: &App,
    given: LogIn,
    link: Option<&str>,
    from: Origin,
    address: ClientAddress,
    via: AuditVia,
) -> Result<LoggedIn, Refused> {
    let claimed = given.username.clone();
    let outcome = check(app, given, link, from, address).await;
    let (who, result, target) = match &outcome {
        Ok(logged_in) => {
            let principal = Principal::person(logged_in.person.name.clone());
            let bound = logged_in.bound.as_ref();
            let target = bound.map(|bound| format!("{} in the chat of {}", bound.chat_user, bound.bot));
            (AuditWho::Known { principal }, DONE, target)
        }
        Err(refused) if refused.code() == "too_many_requests" => return outcome,
        Err(refused) => (who_claims(app, &claimed).await, refused.code(), None),
    };
    let entry = NewEntry {
        who,
        via,
        address: Some(address.0.to_string()),
        action: "log_in".to_owned(),
        target,
        result: result.to_owned(),
        request: None,
    };
    audit::record(app, entry).await;
    outcome
}

/// Whom somebody claims to be, if that is anybody: people type passwords where their name belongs.
async fn who_claims(app: &App, name: &str) -> AuditWho {
    let known = match PersonName::parse(name) {
        Ok(name) => app.access().person(&name).await.ok().flatten().is_some(),
        Err(_) => false,
    };
    AuditWho::Claimed { name: if known { name.to_owned() } else { "a name that nobody has".to_owned() } }
}

/// Checks user and password at the git host, and logs in.
async fn check(
    app: &App,
    given: LogIn,
    link: Option<&str>,
    from: Origin,
    address: ClientAddress,
) -> Result<LoggedIn, Refused> {
    let begun = Instant::now();
    let login = &app.config().login;
    let Some(repository) = &login.repository else { return Err(no_login()) };
    app.limits()
        .login(address, &given.username)
        .inspect_err(|refused| app.metrics().refused(refused.code()))?;
    let credential = GitCredential { username: given.username, password: given.password };
    let checked = if is_sendable(&credential) {
        app.platform().check_credential(repository, credential.clone(), CHECK_WITHIN).await
    } else {
        Ok(String::new())
    };
    let user = match checked {
        Ok(user) if !user.is_empty() => user,
        Err(PlatformError::Failed(failure)) if failure.reason != FailureReason::CredentialsNeeded => {
            tracing::warn!(code = failure.reason.code(), "the git host cannot vouch for anybody");
            return Err(PlatformError::Failed(failure).into());
        }
        Err(error) if !matches!(error, PlatformError::Failed(_)) => return Err(error.into()),
        _ => {
            tokio::time::sleep_until(begun + WRONG_TAKES).await;
            return Err(Refused::new("login_wrong", "user name or password is wrong")
                .hint("use what `git clone` takes at your git host: your user name there, and your password or an access token"));
        }
    };
    let is_admin = login.admins.contains(&user);
    let origin = repository.origin().unwrap_or_default();
    let vouched = Vouched { origin, user, credential, role: login.role, is_admin };
    let logged_in = app.access().log_in(vouched, link, from, login.binding_life()).await?;
    tracing::info!(by = %logged_in.person.name, bound = logged_in.bound.is_some(), "logged in");
    Ok(logged_in)
}

/// Whether a git host can be asked with it at all.
fn is_sendable(credential: &GitCredential) -> bool {
    let GitCredential { username, password } = credential;
    let password = password.expose();
    !username.is_empty()
        && username.len() <= USERNAME
        && !username.chars().any(|c| c.is_control() || c == ':')
        && !password.is_empty()
        && password.len() <= PASSWORD
        && !password.chars().any(char::is_control)
}

/// A session that this browser had before is replaced, not kept beside.
async fn end_session_before(app: &App, headers: &HeaderMap) -> Result<(), Refused> {
    if let Some(old) = presented_session(app.config(), headers) {
        app.access().sign_out(old.expose()).await?;
    }
    Ok(())
}

fn local(next: Option<String>) -> Option<String> {
    next.filter(|next| is_local(next))
}

fn no_login() -> Refused {
    Refused::new("no_login", "nobody logs in with a git account on this server")
        .hint("an administrator names a repository in the server's [login] section")
}

fn code(params: &RawPathParams) -> &str {
    params.iter().next().map_or("", |(_, value)| value)
}
