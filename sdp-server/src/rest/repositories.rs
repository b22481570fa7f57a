//! Repositories that services can be made of.

use axum::Json;
use axum::extract::State;
use sdp_core::api::{Problem, RepositoryList};
use serde::Deserialize;
use utoipa::IntoParams;

use super::check_part;
use crate::app::App;
use crate::edge::{Caller, Query};
use crate::problem::Refused;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RepositoryQuery {
    /// Only those whose name, address or service contains this, in upper or lower case.
    #[param(max_length = 250)]
    q: Option<String>,
}

/// The repositories of the git host, and which of them are services.
///
/// An agent asks the host; what it said is shown again for a minute at most. Where no host can be asked, the repositories of
/// the catalog.
#[utoipa::path(get, path = "/api/v1/repositories", operation_id = "list_repositories", tag = "services",
    params(RepositoryQuery),
    responses((status = 200, description = "Repositories", body = RepositoryList),
        (status = 422, description = "What the git host said, such as `credentials_needed`",
            body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`no_agent`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<RepositoryQuery>,
) -> Result<Json<RepositoryList>, Refused> {
    check_part(query.q.as_deref())?;
    // The host that people log in with; what one may see depends on who one is there.
    let host = app.config().login.repository.clone();
    let credential = match &host {
        Some(repo) => app.platform().credential_of(&caller.principal, repo).await?,
        None => None,
    };
    let mut list = app.platform().repositories(host, credential).await?;
    let part = query.q.unwrap_or_default().to_lowercase();
    let fits = |text: &str| text.to_lowercase().contains(&part);
    list.repositories.retain(|one| {
        fits(&one.name)
            || fits(one.url.as_str())
            || one.service.as_ref().is_some_and(|name| fits(name.as_str()))
    });
    Ok(Json(list))
}
