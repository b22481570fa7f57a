//! Job logs: a window, the tail, and the bytes as they were printed.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use sdp_core::api::{LogLine, LogWindow, Problem};
use sdp_core::id::DeploymentRef;
use sdp_core::logs::Line;
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;
use utoipa::IntoParams;

use crate::app::App;
use crate::edge::{Named, Query};
use crate::problem::Refused;

const WINDOW: usize = 500;
const WINDOW_LIMIT: usize = 1000;
/// The raw log is read and sent in pieces of so many bytes.
const PIECE: usize = 64 * 1024;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogQuery {
    /// The first line wanted; lines are numbered from 1.
    #[param(minimum = 1, default = 1)]
    from: Option<u64>,
    /// At most so many lines. There may be fewer where lines are long: go on after the last one.
    #[param(minimum = 1, maximum = 1000, default = 500)]
    limit: Option<usize>,
    /// Instead of both: so many lines from the end.
    #[param(minimum = 1, maximum = 1000)]
    tail: Option<usize>,
}

/// Lines of a deployment's log.
#[utoipa::path(get, path = "/api/v1/deployments/{deployment}/logs", operation_id = "get_log", tag = "deployments",
    params(("deployment" = String, Path, description = "Its id or number", example = "412"), LogQuery),
    responses((status = 200, description = "The lines", body = LogWindow),
        (status = 404, description = "`unknown_deployment`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn window(
    State(app): State<App>,
    Named(reference): Named<DeploymentRef>,
    Query(query): Query<LogQuery>,
) -> Result<Json<LogWindow>, Refused> {
    let refuse = |detail: &str| Err(Refused::new("invalid_query", "the query cannot be used").detail(detail));
    let LogQuery { from, limit, tail } = query;
    if tail.is_some() && (from.is_some() || limit.is_some()) {
        return refuse("either `tail`, or `from` and `limit`");
    }
    if from.is_some_and(|from| from == 0 || i64::try_from(from).is_err()) {
        return refuse("from: lines are numbered from 1");
    }
    if [limit, tail].into_iter().flatten().any(|lines| !(1..=WINDOW_LIMIT).contains(&lines)) {
        return refuse("limit, tail: 1 to 1000");
    }
    let deployment = app.platform().deployment(reference).await?;
    let logs = app.platform().logs();
    let lines = match tail {
        Some(lines) => logs.tail(deployment.id, lines).await?,
        None => logs.window(deployment.id, from.unwrap_or(1), limit.unwrap_or(WINDOW)).await?,
    };
    let total = logs.lines(deployment.id);
    let lines = lines.into_iter().map(log_line).collect();
    Ok(Json(LogWindow { total, complete: deployment.is_ended(), lines }))
}

/// A line as the API shows it.
pub(crate) fn log_line(line: Line) -> LogLine {
    LogLine {
        n: line.n,
        // A time out of range can only come from a broken clock.
        at: Timestamp::from_millisecond(line.at_ms).unwrap_or_default(),
        step: line.step,
        stream: line.stream,
        text: String::from_utf8_lossy(&line.bytes).into_owned(),
    }
}

/// The whole log as it was printed, byte for byte (after redaction).
#[utoipa::path(get, path = "/api/v1/deployments/{deployment}/logs/raw", operation_id = "download_log", tag = "deployments",
    params(("deployment" = String, Path, description = "Its id or number", example = "412")),
    responses((status = 200, description = "The log", content_type = "text/plain", body = String),
        (status = 404, description = "`unknown_deployment`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn raw(
    State(app): State<App>,
    Named(reference): Named<DeploymentRef>,
) -> Result<Response, Refused> {
    let deployment = app.platform().deployment(reference).await?;
    let raw = app.platform().logs().raw(deployment.id).await?;
    let body = match raw.file {
        // The log may grow while it is sent: the answer ends where it ended when it was asked for.
        Some(file) => {
            let file = tokio::fs::File::from_std(file).take(raw.bytes);
            Body::from_stream(ReaderStream::with_capacity(file, PIECE))
        }
        None => Body::empty(),
    };
    let name = format!("attachment; filename=\"{}-{}.log\"", deployment.service, deployment.number);
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(raw.bytes));
    if let Ok(name) = HeaderValue::try_from(name) {
        headers.insert(header::CONTENT_DISPOSITION, name);
    }
    Ok(response)
}
