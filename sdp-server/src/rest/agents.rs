//! Agents: which there are, how a new one comes in, how one goes.
//!
//! ```text
//! POST …/agents/vm-1/enrolment (admin) ─▶ sdpe_… ─▶ on the VM: sdp-agent enrol ─▶ POST …/enrol ─▶ sdpa_…, in its token file
//! ```

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode};
use sdp_core::api::{AgentList, AgentView, Enrolled, EnrolmentCreated, Problem};
use sdp_core::audit::{AuditVia, AuditWho, DONE, NewEntry};
use sdp_core::name::{AgentName, TokenName};
use sdp_core::platform::PlatformError;
use sdp_core::principal::Principal;
use serde::Deserialize;

use crate::app::App;
use crate::edge::{Caller, ClientAddress, Named, Query, audit, bearer};
use crate::problem::Refused;

/// All agents that ever connected and were not removed, by name.
#[utoipa::path(get, path = "/api/v1/agents", operation_id = "list_agents", tag = "agents",
    responses((status = 200, description = "All agents", body = AgentList)))]
pub(crate) async fn list(State(app): State<App>) -> Result<Json<AgentList>, Refused> {
    Ok(Json(AgentList { agents: app.platform().agents().await? }))
}

/// Give an agent no new work.
///
/// What it works on it finishes, what runs on it serves on. It stays so, over restarts too, until it is resumed.
#[utoipa::path(post, path = "/api/v1/agents/{agent}/drain", operation_id = "drain_agent", tag = "agents",
    params(("agent" = AgentName, Path, description = "Its name")),
    responses((status = 200, description = "It is being drained", body = AgentView),
        (status = 404, description = "`unknown_agent`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn drain(
    State(app): State<App>,
    caller: Caller,
    Named(name): Named<AgentName>,
) -> Result<Json<AgentView>, Refused> {
    app.platform().drain_agent(&caller.principal, &name).await?;
    Ok(Json(app.platform().agent(&name).await?))
}

/// Give an agent work again.
#[utoipa::path(post, path = "/api/v1/agents/{agent}/resume", operation_id = "resume_agent", tag = "agents",
    params(("agent" = AgentName, Path, description = "Its name")),
    responses((status = 200, description = "It gets work", body = AgentView),
        (status = 404, description = "`unknown_agent`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn resume(
    State(app): State<App>,
    caller: Caller,
    Named(name): Named<AgentName>,
) -> Result<Json<AgentView>, Refused> {
    app.platform().resume_agent(&caller.principal, &name).await?;
    Ok(Json(app.platform().agent(&name).await?))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Forget {
    force: bool,
}

/// Remove an agent: its token opens nothing any more, its connection ends, it is listed no more.
#[utoipa::path(delete, path = "/api/v1/agents/{agent}", operation_id = "forget_agent", tag = "agents",
    params(("agent" = AgentName, Path, description = "Its name"),
        ("force" = Option<bool>, Query, description = "Even if it has work: deployments and instances there end as lost")),
    responses((status = 204, description = "It is gone"),
        (status = 404, description = "`unknown_agent`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It has unfinished deployments or instances (`agent_in_use`)",
            body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn forget(
    State(app): State<App>,
    caller: Caller,
    Named(name): Named<AgentName>,
    Query(Forget { force }): Query<Forget>,
) -> Result<StatusCode, Refused> {
    match app.platform().forget_agent(&caller.principal, &name, force).await {
        // It has never connected; but what it could come in with may be there.
        Err(error @ PlatformError::UnknownAgent { .. }) => {
            if !app.access().forget_agent(&name).await? {
                return Err(error.into());
            }
            app.platform().disconnect_agent(&name).await?;
        }
        forgotten => forgotten?,
    }
    app.forget_agent(&name);
    Ok(StatusCode::NO_CONTENT)
}

/// Make what an agent enrols with: once, within an hour.
///
/// For a new agent, or for one whose token is lost or known to others: that one works until the enrolment is used. A newer enrolment
/// of the same agent replaces this one. On the VM: `sdp-agent enrol`.
#[utoipa::path(post, path = "/api/v1/agents/{agent}/enrolment", operation_id = "create_enrolment", tag = "agents",
    params(("agent" = AgentName, Path, description = "Its name, known or new")),
    responses((status = 201, description = "The enrolment; its value is in this answer and nowhere else", body = EnrolmentCreated),
        (status = 409, description = "A token that is no agent's has the name (`token_exists`)",
            body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create_enrolment(
    State(app): State<App>,
    Named(name): Named<AgentName>,
) -> Result<(StatusCode, Json<EnrolmentCreated>), Refused> {
    Ok((StatusCode::CREATED, Json(app.access().create_enrolment(name).await?)))
}

/// Swap an enrolment for the agent's own token.
///
/// The enrolment is sent as the bearer token; nothing else opens this, and an enrolment opens nothing else. The token that the
/// agent had before is worthless from now on, and a connection with it ends.
#[utoipa::path(post, path = "/api/v1/enrol", operation_id = "enrol", tag = "agents",
    responses((status = 200, description = "The agent's token; it is in this answer and nowhere else", body = Enrolled),
        (status = 401, description = "No enrolment, or one that was used or replaced, or is too old (`unauthorised`)",
            body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "A token that is no agent's has the name (`token_exists`)",
            body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn enrol(
    State(app): State<App>,
    Extension(address): Extension<ClientAddress>,
    headers: HeaderMap,
) -> Result<Json<Enrolled>, Refused> {
    let value = bearer(&headers).ok_or_else(Refused::unauthorised)?;
    let enrolled = app.access().enrol(value.expose()).await?.ok_or_else(Refused::unauthorised)?;
    app.platform().disconnect_agent(&enrolled.agent).await?;
    tracing::info!(agent.name = %enrolled.agent, "an agent has enrolled");
    // Like all without a valid proof, those that are refused are only counted.
    let entry = NewEntry {
        who: AuditWho::Known {
            principal: Principal::Token { name: TokenName::parse(enrolled.agent.as_str())? },
        },
        via: AuditVia::Api,
        address: Some(address.0.to_string()),
        action: "enrol".to_owned(),
        target: Some(enrolled.agent.to_string()),
        result: DONE.to_owned(),
        request: None,
    };
    audit::record(&app, entry).await;
    Ok(Json(enrolled))
}
