//! API tokens. Only admins see or change them.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use sdp_core::api::{CreateToken, Problem, TokenCreated, TokenList};
use sdp_core::name::TokenName;

use super::located;
use crate::app::App;
use crate::edge::{JsonBody, Named};
use crate::openapi::examples;
use crate::problem::Refused;

/// All tokens, without their values.
#[utoipa::path(get, path = "/api/v1/tokens", operation_id = "list_tokens", tag = "tokens",
    responses((status = 200, description = "All tokens", body = TokenList)))]
pub(crate) async fn list(State(app): State<App>) -> Result<Json<TokenList>, Refused> {
    Ok(Json(TokenList { tokens: app.access().tokens().await? }))
}

/// Make a token. Its value is in the answer and nowhere else.
#[utoipa::path(post, path = "/api/v1/tokens", operation_id = "create_token", tag = "tokens",
    request_body(content = CreateToken, example = json!(examples::create_token())),
    responses(
        (status = 201, description = "The token with its value", body = TokenCreated,
            headers(("location" = String, description = "Its address"))),
        (status = 409, description = "`token_exists`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(app): State<App>,
    JsonBody(body): JsonBody<CreateToken>,
) -> Result<Response, Refused> {
    let token = app.access().create_token(body.name, body.kind).await?;
    let location = format!("/api/v1/tokens/{}", token.name);
    Ok(located(&location, (StatusCode::CREATED, Json(token))))
}

/// Make a token worthless at once. Sessions that were made through it end; an agent with it is disconnected.
#[utoipa::path(delete, path = "/api/v1/tokens/{token}", operation_id = "delete_token", tag = "tokens",
    params(("token" = TokenName, Path, description = "Its name")),
    responses((status = 204, description = "It opens nothing any more"),
        (status = 404, description = "`unknown_token`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`last_admin`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn delete(
    State(app): State<App>,
    Named(name): Named<TokenName>,
) -> Result<StatusCode, Refused> {
    app.access().delete_token(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}
