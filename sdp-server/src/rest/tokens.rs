//! API tokens. Operators and admins see and revoke all of them; everybody else their own.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use jiff::{Timestamp, ToSpan};
use sdp_core::access::NewToken;
use sdp_core::api::{CreateToken, Problem, TokenCreated, TokenKind, TokenList};
use sdp_core::name::{AgentName, TokenName};

use super::located;
use crate::app::App;
use crate::edge::audit::touched;
use crate::edge::{Caller, JsonBody, Named, Rank};
use crate::openapi::examples;
use crate::problem::Refused;

/// The longest that a token which expires may live, in days.
pub(crate) const LONGEST: u16 = 3650;

/// Tokens, without their values: all of them for admins, else one's own.
#[utoipa::path(get, path = "/api/v1/tokens", operation_id = "list_tokens", tag = "tokens",
    responses((status = 200, description = "The tokens", body = TokenList)))]
pub(crate) async fn list(State(app): State<App>, caller: Caller) -> Result<Json<TokenList>, Refused> {
    Ok(Json(TokenList { tokens: tokens_of(&app, &caller).await? }))
}

pub(crate) async fn tokens_of(app: &App, caller: &Caller) -> Result<Vec<sdp_core::api::TokenInfo>, Refused> {
    let mut tokens = app.access().tokens().await?;
    if caller.standing.rank < Rank::Admin {
        tokens.retain(|token| token.owner.is_some() && token.owner == caller.account);
    }
    Ok(tokens)
}

/// Make a token. Its value is in the answer and nowhere else.
///
/// A person's token acts as that person, and may never do more than they. An operator's token belongs to nobody.
#[utoipa::path(post, path = "/api/v1/tokens", operation_id = "create_token", tag = "tokens",
    request_body(content = CreateToken, example = json!(examples::create_token())),
    responses(
        (status = 201, description = "The token with its value", body = TokenCreated,
            headers(("location" = String, description = "Its address"))),
        (status = 403, description = "You may not do so much yourself (`forbidden`)",
            body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`token_exists`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    JsonBody(body): JsonBody<CreateToken>,
) -> Result<Response, Refused> {
    if !may_make(caller.standing.rank, body.kind) {
        return Err(Refused::forbidden(format!(
            "a token of the kind `{}` may do more than you",
            body.kind.as_str()
        ))
        .hint("ask an admin for it"));
    }
    let wrong = |detail: &str| Refused::new("invalid_body", "the body cannot be used").detail(detail);
    if body.service.is_some() && body.kind != TokenKind::Deploy {
        return Err(wrong("service: only a token of the kind `deploy` can be for one service"));
    }
    if let Some(service) = &body.service {
        app.platform().service(service).await?;
    }
    let expires_at = match body.expires_in_days {
        None => None,
        Some(days @ 1..=LONGEST) => Timestamp::now().checked_add((i64::from(days) * 24).hours()).ok(),
        Some(_) => return Err(wrong("expires_in_days: 1 to 3650")),
    };
    // Bots and agents are machines of the operators, whoever set them up.
    let owner = caller.account.clone().filter(|_| !is_of_a_machine(body.kind));
    let new = NewToken { name: body.name, kind: body.kind, owner, service: body.service, expires_at };
    let token = app.access().issue_token(new).await?;
    let location = format!("/api/v1/tokens/{}", token.name);
    let what = format!("{} ({})", token.name, token.kind.as_str());
    Ok(touched(what, located(&location, (StatusCode::CREATED, Json(token)))))
}

/// Whether somebody of this rank may make a token of this kind: never one that may do more than they.
pub(crate) fn may_make(rank: Rank, kind: TokenKind) -> bool {
    let wanted = Rank::of_token(kind).filter(|_| !is_of_a_machine(kind)).unwrap_or(Rank::Admin);
    rank >= wanted
}

fn is_of_a_machine(kind: TokenKind) -> bool {
    matches!(kind, TokenKind::Bot | TokenKind::Agent)
}

/// Make a token worthless at once. Sessions that were made through it end; an agent with it is disconnected.
#[utoipa::path(delete, path = "/api/v1/tokens/{token}", operation_id = "delete_token", tag = "tokens",
    params(("token" = TokenName, Path, description = "Its name")),
    responses((status = 204, description = "It opens nothing any more"),
        (status = 404, description = "`unknown_token`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`last_admin`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Named(name): Named<TokenName>,
) -> Result<StatusCode, Refused> {
    let kind = match caller.standing.rank {
        Rank::Admin => app.access().delete_token(&name).await?,
        _ => app.access().delete_token_of(&name, caller.as_account()?).await?,
    };
    if kind == TokenKind::Agent {
        app.platform().disconnect_agent(&AgentName::parse(name.as_str())?).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}
