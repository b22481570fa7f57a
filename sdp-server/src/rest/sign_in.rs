//! Signing a browser in with a one-time link, and out.
//!
//! ```text
//! POST /api/v1/sign-in-links ─▶ link ─▶ GET /sign-in/{code}: a page whose form sends itself
//!                                        ─▶ POST /sign-in/{code}: the code is used up, the session begins, on to `next`
//! ```
//! Chats fetch links to show a preview. That is why GET changes nothing: programs that fetch do not send forms, a
//! browser does so at once (or on a click, where scripts are off), and nobody types anything.

use axum::Json;
use axum::extract::{RawPathParams, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use maud::html;
use sdp_core::api::{CreateSignInLink, Problem, SignInLink};

use super::located;
use crate::app::App;
use crate::edge::{Caller, JsonBody, is_same_origin, presented_session, session_cookie};
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
    let code = app.access().create_sign_in_code(&caller.principal, &next).await?;
    let url = app.public(&format!("/sign-in/{}", code.code.expose()));
    Ok((StatusCode::CREATED, Json(SignInLink { url, expires_at: code.expires_at })))
}

/// Whether a browser that is sent there stays on this server: `//host` and `/\host` are other servers.
fn is_local(next: &str) -> bool {
    next.starts_with('/')
        && !next.starts_with("//")
        && next.len() <= NEXT_LIMIT
        && next.bytes().all(|b| b.is_ascii_graphic() && b != b'\\')
        // Where it would sign out or in again at once.
        && !next.starts_with("/sign-")
}

/// Open a sign-in link in a browser.
///
/// The page sends its form at once; nothing is used up by looking at it.
#[utoipa::path(get, path = "/sign-in/{code}", operation_id = "open_sign_in_link", tag = "sign-in",
    params(("code" = String, Path, description = "From the link")),
    responses((status = 200, description = "A page that signs in", content_type = "text/html", body = String),
        (status = 410, description = "The link was used, or is too old", content_type = "text/html", body = String)))]
pub(crate) async fn open(State(app): State<App>, params: RawPathParams) -> Result<Response, Refused> {
    if !app.access().is_sign_in_code(code(&params)).await? {
        return Ok(used());
    }
    Ok(signing_in())
}

/// Sign in with a link's code.
///
/// The code is used up, a cookie is set, and the browser is sent on.
#[utoipa::path(post, path = "/sign-in/{code}", operation_id = "sign_in", tag = "sign-in",
    params(("code" = String, Path, description = "From the link")),
    responses(
        (status = 303, description = "Signed in; on to the page", headers(
            ("location" = String, description = "The page"), ("set-cookie" = String, description = "The session"))),
        (status = 403, description = "Another site's page sent it (`cross_site`)",
            body = Problem, content_type = "application/problem+json"),
        (status = 410, description = "The link was used, or is too old", content_type = "text/html", body = String)))]
pub(crate) async fn sign_in(
    State(app): State<App>,
    headers: HeaderMap,
    params: RawPathParams,
) -> Result<Response, Refused> {
    // Another site's page must not sign somebody in as somebody else.
    if is_same_origin(app.config(), &headers) == Some(false) {
        return Err(cross_site());
    }
    let Some(signed_in) = app.access().sign_in(code(&params)).await? else { return Ok(used()) };
    // A session that this browser had before is replaced, not kept beside.
    if let Some(old) = presented_session(app.config(), &headers) {
        app.access().sign_out(old.expose()).await?;
    }
    tracing::info!(by = %signed_in.principal, "signed in");
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
        p { "This browser is signed out. Another link from chat signs it in again." }
    };
    let mut response = plain_page(StatusCode::OK, "Signed out", content);
    response.headers_mut().insert(header::SET_COOKIE, session_cookie(app.config(), ""));
    Ok(response)
}

fn used() -> Response {
    let content = html! {
        h1 { "This link does not work any more" }
        p { "A sign-in link works once, for ten minutes. Ask for a new one in chat." }
    };
    plain_page(StatusCode::GONE, "This link does not work any more", content)
}

fn cross_site() -> Refused {
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
        }
    }
}
