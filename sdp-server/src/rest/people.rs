//! People who have logged in, and what they may do. Only admins see or change them.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use sdp_core::api::{Person, PersonList, Problem, SetRole};
use sdp_core::name::PersonName;

use crate::app::App;
use crate::edge::audit::touched;
use crate::edge::{JsonBody, Named};
use crate::problem::Refused;

/// Everybody who ever logged in.
#[utoipa::path(get, path = "/api/v1/people", operation_id = "list_people", tag = "people",
    responses((status = 200, description = "Everybody, by name", body = PersonList)))]
pub(crate) async fn list(State(app): State<App>) -> Result<Json<PersonList>, Refused> {
    Ok(Json(PersonList { people: app.access().people().await? }))
}

/// Change what a person may do, from their next request on.
///
/// Who is named in `login.admins` is an admin again after their next login.
#[utoipa::path(put, path = "/api/v1/people/{person}", operation_id = "set_role", tag = "people",
    params(("person" = PersonName, Path, description = "Their name")),
    request_body(content = SetRole, example = json!({ "role": "viewer" })),
    responses((status = 200, description = "The person", body = Person),
        (status = 404, description = "`unknown_person`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn set_role(
    State(app): State<App>,
    Named(name): Named<PersonName>,
    JsonBody(body): JsonBody<SetRole>,
) -> Result<Response, Refused> {
    let person = app.access().set_role(&name, body.role).await?;
    Ok(touched(format!("{name}: {}", person.role), Json(person)))
}

/// Forget a person: their sessions, bindings, tokens and git credential are worthless at once.
///
/// What they did stays in the story. They can log in again, with the role of somebody new.
#[utoipa::path(delete, path = "/api/v1/people/{person}", operation_id = "delete_person", tag = "people",
    params(("person" = PersonName, Path, description = "Their name")),
    responses((status = 204, description = "Nothing opens a door in their name any more"),
        (status = 404, description = "`unknown_person`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn delete(
    State(app): State<App>,
    Named(name): Named<PersonName>,
) -> Result<StatusCode, Refused> {
    app.access().delete_person(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}
