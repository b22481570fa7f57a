//! Signing a browser in with a one-time link, and out.
//!
//! ```text
//! POST /api/v1/sign-in-links ─▶ link ─▶ GET /sign-in/{code}: a page whose form sends itself
//!                                        ─▶ POST /sign-in/{code}: the code is used up, the session begins, on to `next`
//! ```
//! A link names its `next` as well (`/sign-in/{code}?next=/deployments/412`), so that it still leads there when the code is
//! used up: at once in a browser that is signed in, else from a page that says so. Only the code signs in, and where it
//! does, the `next` that was kept with it counts.
//!
//! Chats fetch links to show a preview. That is why GET changes nothing: programs that fetch do not send forms, a
//! browser does so at once (or on a click, where scripts are off), and nobody types anything.

use axum::Json;
use axum::extract::{RawPathParams, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use maud::html;
use sdp_core::access::Session;
use sdp_core::api::{CreateSignInLink, Problem, SignInLink};
use sdp_core::audit::{AuditVia, AuditWho, DONE, NewEntry};

use url::form_urlencoded;

use super::located;
use crate::app::App;
use crate::edge::audit;
use crate::edge::{Caller, CameFrom, JsonBody, is_same_origin, presented_session, session_cookie};
use crate::openapi::examples;
use crate::pages::sign_in::{plain_page, signing_in};
use crate::problem::Refused;

/// The longest page address that a link may lead to.
const NEXT_LIMIT: usize = 500;

/// Make a link that signs a browser in once.
///
/// With a bot's token it signs in the person that the bot speaks for.
#[utoipa::path(post, path = "/api/v1/sign-in-links", operation_id = "create_sign_in_link", tag = "sign-in",
    request_body(content = CreateSignInLink, example = json!(examples::create_sign_in_link())),
    responses((status = 201, description = "The link; it works once, for ten minutes", body = SignInLink)))]
pub(crate) async fn create_link(
    State(app): State<App>,
    caller: Caller,
    JsonBody(body): JsonBody<CreateSignInLink>,
) -> Result<(StatusCode, Json<SignInLink>), Refused> {
    let next = body.next.unwrap_or_else(|| "/".to_owned());
    if !is_local(&next) {
        return Err(Refused::new("invalid_body", "the body cannot be used")
            .detail("next: a path on this server, such as /deployments/412"));
    }
    let code = app.access().create_sign_in_code(&caller.begun(), &next).await?;
    let mut url = app.public(&format!("/sign-in/{}", code.code.expose()));
    url.set_query(Some(&query_with(&next)));
    Ok((StatusCode::CREATED, Json(SignInLink { url, expires_at: code.expires_at })))
}

/// The query of a link that leads to `next`; slashes need no escape there and are easier to read without.
fn query_with(next: &str) -> String {
    let value: String = form_urlencoded::byte_serialize(next.as_bytes()).collect();
    format!("next={}", value.replace("%2F", "/"))
}

/// Where a link's query leads; anybody can write one, so it counts only if it stays on this server.
fn next_in(query: Option<&str>) -> Option<String> {
    form_urlencoded::parse(query?.as_bytes())
        .find(|(key, _)| key == "next")
        .map(|(_, next)| next.into_owned())
        .filter(|next| is_local(next))
}

/// Whether a browser that is sent there stays on this server: `//host` and `/\host` are other servers.
pub(super) fn is_local(next: &str) -> bool {
    next.starts_with('/')
        && !next.starts_with("//")
        && next.len() <= NEXT_LIMIT
        && next.bytes().all(|b| b.is_ascii_graphic() && b != b'\\')
        // Where it would sign out or in again at once.
        && !next.starts_with("/sign-")
        && !next.starts_with("/login")
}

/// Open a sign-in link in a browser.
///
/// The page sends its form at once; nothing is used up by looking at it.
#[utoipa::path(get, path = "/sign-in/{code}", operation_id = "open_sign_in_link", tag = "sign-in",
    params(("code" = String, Path, description = "From the link"),
        ("next" = Option<String>, Query, description = "The page it leads to, from the link")),
    responses((status = 200, description = "A page that signs in", content_type = "text/html", body = String),
        (status = 303, description = "The link was used, or is too old, but this browser is signed in; on to the page",
            headers(("location" = String, description = "The page"))),
        (status = 410, description = "The link was used, or is too old", content_type = "text/html", body = String)))]
pub(crate) async fn open(
    State(app): State<App>,
    headers: HeaderMap,
    params: RawPathParams,
    RawQuery(query): RawQuery,
) -> Result<Response, Refused> {
    if !app.access().is_sign_in_code(code(&params)).await? {
        return used(&app, &headers, query.as_deref()).await;
    }
    Ok(signing_in())
}

/// Sign in with a link's code.
///
/// The code is used up, a cookie is set, and the browser is sent on.
#[utoipa::path(post, path = "/sign-in/{code}", operation_id = "sign_in", tag = "sign-in",
    params(("code" = String, Path, description = "From the link"),
        ("next" = Option<String>, Query, description = "The page it leads to, from the link")),
    responses(
        (status = 303, description = "Signed in, now or before; on to the page", headers(
            ("location" = String, description = "The page"),
            ("set-cookie" = String, description = "The session, if it began now"))),
        (status = 403, description = "Another site's page sent it (`cross_site`)",
            body = Problem, content_type = "application/problem+json"),
        (status = 410, description = "The link was used, or is too old", content_type = "text/html", body = String)))]
pub(crate) async fn sign_in(
    State(app): State<App>,
    headers: HeaderMap,
    params: RawPathParams,
    RawQuery(query): RawQuery,
    CameFrom(from): CameFrom,
) -> Result<Response, Refused> {
    // Another site's page must not sign somebody in as somebody else.
    if is_same_origin(app.config(), &headers) == Some(false) {
        return Err(cross_site());
    }
    let Some(signed_in) = app.access().sign_in(code(&params), from.clone()).await? else {
        return used(&app, &headers, query.as_deref()).await;
    };
    // A session that this browser had before is replaced, not kept beside.
    if let Some(old) = presented_session(app.config(), &headers) {
        app.access().sign_out(old.expose()).await?;
    }
    tracing::info!(by = %signed_in.principal, "signed in");
    let entry = NewEntry {
        who: AuditWho::Known { principal: signed_in.principal.clone() },
        via: AuditVia::Page,
        address: from.address,
        action: "sign_in".to_owned(),
        target: None,
        result: DONE.to_owned(),
        request: None,
    };
    audit::record(&app, entry).await;
    let mut response = located(&signed_in.next, StatusCode::SEE_OTHER);
    response
        .headers_mut()
        .insert(header::SET_COOKIE, session_cookie(app.config(), signed_in.session.expose()));
    Ok(response)
}

/// End the browser's session.
#[utoipa::path(post, path = "/sign-out", operation_id = "sign_out", tag = "sign-in",
    responses(
        (status = 200, description = "Signed out", content_type = "text/html", body = String),
        (status = 403, description = "Another site's page sent it (`cross_site`)",
            body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn sign_out(State(app): State<App>, headers: HeaderMap) -> Result<Response, Refused> {
    if is_same_origin(app.config(), &headers) == Some(false) {
        return Err(cross_site());
    }
    if let Some(session) = presented_session(app.config(), &headers) {
        app.access().sign_out(session.expose()).await?;
    }
    let content = html! {
        h1 { "Signed out" }
        p { "This browser is signed out. A link from chat signs it in again, or " a href="/login" { "log in" } "." }
    };
    let mut response = plain_page(StatusCode::OK, "Signed out", content);
    response.headers_mut().insert(header::SET_COOKIE, session_cookie(app.config(), ""));
    Ok(response)
}

/// A link whose code is worth nothing (any more). Who is signed in does not need the code, only the page.
async fn used(app: &App, headers: &HeaderMap, query: Option<&str>) -> Result<Response, Refused> {
    let next = next_in(query);
    if let Some(session) = presented_session(app.config(), headers)
        && let Some(Session { renewed, .. }) = app.access().session(session.expose()).await?
    {
        let mut response = located(next.as_deref().unwrap_or("/"), StatusCode::SEE_OTHER);
        if let Some(value) = renewed {
            let cookie = session_cookie(app.config(), value.expose());
            response.headers_mut().insert(header::SET_COOKIE, cookie);
        }
        return Ok(response);
    }
    let content = html! {
        h1 { "This link does not work any more" }
        p { "A sign-in link works once, for ten minutes. Ask for a new one in chat." }
        @if let Some(next) = &next {
            p { "It led to " a href=(next) { (next) } ", which opens when you are signed in." }
        }
    };
    Ok(plain_page(StatusCode::GONE, "This link does not work any more", content))
}

pub(super) fn cross_site() -> Refused {
    Refused::new("cross_site", "the request did not come from a page of this server")
}

fn code(params: &RawPathParams) -> &str {
    params.iter().next().map_or("", |(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_nowhere_else() {
        for good in ["/", "/deployments/412", "/deployments/412?x=1#L120"] {
            assert!(is_local(good), "{good}");
        }
        for bad in [
            "",
            "//evil",
            "/\\evil",
            "https://evil",
            "evil",
            "/a b",
            "/\n",
            "/sign-in/x",
            "/sign-out",
            "javascript:x",
        ] {
            assert!(!is_local(bad), "{bad}");
            assert_eq!(next_in(Some(&query_with(bad))), None, "{bad}");
        }
    }

    #[test]
    fn where_a_link_leads_is_in_it_as_it_was_asked_for() {
        assert_eq!(query_with("/deployments/7#L88"), "next=/deployments/7%23L88");
        for next in ["/", "/deployments/7#L88", "/a?b=c&next=/d+e%2F%252F#f", "/?next=//evil"] {
            let mut url = url::Url::parse("https://sdp.example.com/sign-in/x").expect("valid");
            url.set_query(Some(&query_with(next)));
            assert_eq!(url.fragment(), None, "a fragment would not be sent");
            assert_eq!(next_in(url.query()).as_deref(), Some(next), "{url}");
        }
        assert_eq!(next_in(None), None);
        assert_eq!(next_in(Some("next=/%0d%0aset-cookie:x")), None);
        assert_eq!(next_in(Some("next=//evil&next=/")), None);
    }
}
