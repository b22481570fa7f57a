//! Who asks, and what is theirs: sessions, bindings.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sdp_core::api::{BindingList, Me, Problem, SessionInfo, SessionList};
use sdp_core::id::{BindingId, SessionId};

use crate::app::App;
use crate::edge::{Caller, Named, Proof, presented_session, session_cookie};
use crate::problem::Refused;

/// Who asks, as the server sees it.
#[utoipa::path(get, path = "/api/v1/me", operation_id = "get_me", tag = "me",
    responses((status = 200, description = "Who asks", body = Me)))]
pub(crate) async fn get(State(app): State<App>, caller: Caller) -> Result<Json<Me>, Refused> {
    Ok(Json(me(&app, &caller).await?))
}

pub(crate) async fn me(app: &App, caller: &Caller) -> Result<Me, Refused> {
    let account = match &caller.account {
        Some(name) => app.access().person(name).await?,
        None => None,
    };
    Ok(Me {
        principal: caller.principal.clone(),
        role: caller.standing.rank.role(),
        account,
        own_sandbox: caller.principal.own_sandbox(),
        chat_user: caller.chat_user.as_ref().map(|of| of.user.clone()),
        bound_until: caller.bound.as_ref().map(|bound| bound.expires_at),
        login: app.config().login.repository.is_some(),
    })
}

/// My sessions: the browsers in which I am signed in.
#[utoipa::path(get, path = "/api/v1/me/sessions", operation_id = "list_sessions", tag = "me",
    responses((status = 200, description = "My sessions", body = SessionList)))]
pub(crate) async fn sessions(State(app): State<App>, caller: Caller) -> Result<Json<SessionList>, Refused> {
    Ok(Json(SessionList { sessions: sessions_of(&app, &caller).await? }))
}

pub(crate) async fn sessions_of(app: &App, caller: &Caller) -> Result<Vec<SessionInfo>, Refused> {
    let mut sessions = app.access().sessions(caller.as_account()?).await?;
    if let Proof::Session { id, .. } = caller.proof {
        for session in &mut sessions {
            session.current = session.id == id;
        }
    }
    Ok(sessions)
}

/// Log out everywhere: end all my sessions and bindings, and forget my git credential. My tokens stay.
#[utoipa::path(delete, path = "/api/v1/me/sessions", operation_id = "log_out_everywhere", tag = "me",
    responses((status = 204, description = "Nobody is logged in as me any more")))]
pub(crate) async fn log_out_everywhere(State(app): State<App>, caller: Caller) -> Result<Response, Refused> {
    app.access().log_out_everywhere(caller.as_account()?).await?;
    Ok(without_cookie(&app))
}

/// End one of my sessions.
#[utoipa::path(delete, path = "/api/v1/me/sessions/{session}", operation_id = "delete_session", tag = "me",
    params(("session" = SessionId, Path, description = "Its id")),
    responses((status = 204, description = "That browser is signed out"),
        (status = 404, description = "`unknown_session`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn delete_session(
    State(app): State<App>,
    caller: Caller,
    Named(id): Named<SessionId>,
) -> Result<StatusCode, Refused> {
    app.access().delete_session(caller.as_account()?, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// My bindings: which users of which chats I am.
#[utoipa::path(get, path = "/api/v1/me/bindings", operation_id = "list_bindings", tag = "me",
    responses((status = 200, description = "My bindings", body = BindingList)))]
pub(crate) async fn bindings(State(app): State<App>, caller: Caller) -> Result<Json<BindingList>, Refused> {
    Ok(Json(BindingList { bindings: app.access().bindings(caller.as_account()?).await? }))
}

/// End one of my bindings, and the sessions that began through it.
#[utoipa::path(delete, path = "/api/v1/me/bindings/{binding}", operation_id = "delete_binding", tag = "me",
    params(("binding" = BindingId, Path, description = "Its id")),
    responses((status = 204, description = "That user of the chat is not me any more"),
        (status = 404, description = "`unknown_binding`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn delete_binding(
    State(app): State<App>,
    caller: Caller,
    Named(id): Named<BindingId>,
) -> Result<StatusCode, Refused> {
    app.access().delete_binding(caller.as_account()?, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Log out: end what this request came through, a browser's session or a binding of a chat.
#[utoipa::path(post, path = "/api/v1/logout", operation_id = "log_out", tag = "me",
    responses((status = 204, description = "Logged out; the git credential is forgotten with the last of them")))]
pub(crate) async fn log_out(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    if let Some(bound) = &caller.bound {
        app.access().delete_binding(caller.as_account()?, bound.id).await?;
    }
    if let Proof::Session { value, .. } = &caller.proof {
        app.access().sign_out(value.expose()).await?;
        if let Some(old) = presented_session(app.config(), &headers) {
            app.access().sign_out(old.expose()).await?;
        }
    }
    Ok(without_cookie(&app))
}

fn without_cookie(app: &App) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.headers_mut().insert(header::SET_COOKIE, session_cookie(app.config(), ""));
    response
}
