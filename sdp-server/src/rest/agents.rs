//! Agents.

use axum::Json;
use axum::extract::State;
use sdp_core::api::AgentList;

use crate::app::App;
use crate::problem::Refused;

/// All agents that ever connected, by name.
#[utoipa::path(get, path = "/api/v1/agents", operation_id = "list_agents", tag = "agents",
    responses((status = 200, description = "All agents", body = AgentList)))]
pub(crate) async fn list(State(app): State<App>) -> Result<Json<AgentList>, Refused> {
    Ok(Json(AgentList { agents: app.platform().agents().await? }))
}
