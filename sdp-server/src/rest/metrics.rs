//! Metrics for Prometheus; what there is, is in [`crate::metrics`].

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use sdp_core::api::Problem;

use crate::app::App;
use crate::metrics::{Edge, levels};
use crate::problem::Refused;

/// Counts, durations and levels, for Prometheus.
///
/// OpenMetrics 1.0 for those who accept `application/openmetrics-text`, else the older text format (0.0.4). Needs a token or a
/// session; the configuration may name a token that opens this alone (`metrics.token_file`), or open it to all who reach the
/// server (`metrics.open`).
#[utoipa::path(get, path = "/metrics", operation_id = "get_metrics", tag = "health",
    responses((status = 200, description = "The metrics as text", content(
            (String = "application/openmetrics-text"), (String = "text/plain"))),
        (status = 503, description = "The server is stopping (`stopping`)",
            body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn read(State(app): State<App>, headers: HeaderMap) -> Result<Response, Refused> {
    let accepts = |accept: &str| accept.contains("application/openmetrics-text");
    let accept = headers.get_all(header::ACCEPT).iter();
    let open_metrics = accept.filter_map(|accept| accept.to_str().ok()).any(accepts);
    let stats = app.platform().stats().await?;
    app.metrics().story.caught_up(stats.newest_event).await;
    let edge = Edge {
        connections: app.requests().len(),
        agent_sockets: app.links().len(),
        // What cannot be read is left out: the other levels are wanted most when something is wrong.
        sessions: app.access().session_count().await.ok(),
        disk_floor: app.platform().config().disk_floor,
    };
    let levels = levels(&stats, edge, Timestamp::now());
    let written = app.metrics().write(&levels, open_metrics);
    let (text, kind) = written.map_err(|error| Refused::internal(&error))?;
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}
