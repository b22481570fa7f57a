//! Job logs: a window, the tail, a search, and the bytes as they were printed.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use sdp_core::api::{LogLine, LogMatch, LogMatches, LogWindow, Problem};
use sdp_core::deployment::Step;
use sdp_core::id::DeploymentRef;
use sdp_core::logs::{Direction, Line, LogSearch, SearchText};
use sdp_core::wire::Stream;
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;
use utoipa::{IntoParams, ToSchema};

use crate::app::App;
use crate::edge::{Named, Query};
use crate::problem::Refused;

const WINDOW: usize = 500;
const WINDOW_LIMIT: usize = 1000;
const MATCHES: usize = 100;
const MATCHES_LIMIT: usize = 1000;
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

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SearchQuery {
    /// What to search for: plain text, not a pattern, within one line as the log page shows it. Colours inside a word do
    /// not part it, and what a progress bar overwrote does not count. At most 256 bytes.
    #[param(min_length = 1, max_length = 256, example = "error:")]
    q: String,
    /// Whether upper and lower case differ.
    #[param(default = false)]
    match_case: Option<bool>,
    /// Only lines of this step.
    step: Option<Step>,
    /// Only lines of this stream.
    stream: Option<Stream>,
    /// Lines before this one are neither looked at nor counted: whoever counted up to line N goes on with N + 1.
    #[param(minimum = 1, default = 1)]
    first: Option<u64>,
    /// Matches are listed from this line on, itself included. Without it: from the beginning, or upwards from the end.
    #[param(minimum = 1)]
    from: Option<u64>,
    /// `down` lists the matches at and after `from`, `up` those at and before it; both in the order of the log. Without it: `down`.
    #[param(inline)]
    direction: Option<Way>,
    /// At most so many matches; the count is of all of them.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Way {
    Down,
    Up,
}

/// Which lines of a deployment's log contain a text, and how many there are in all.
#[utoipa::path(get, path = "/api/v1/deployments/{deployment}/logs/search", operation_id = "search_log", tag = "deployments",
    params(("deployment" = String, Path, description = "Its id or number", example = "412"), SearchQuery),
    responses((status = 200, description = "The matching lines asked for, and the exact count of all", body = LogMatches),
        (status = 404, description = "`unknown_deployment`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn search(
    State(app): State<App>,
    Named(reference): Named<DeploymentRef>,
    Query(query): Query<SearchQuery>,
) -> Result<Json<LogMatches>, Refused> {
    let refuse = |detail: String| Refused::new("invalid_query", "the query cannot be used").detail(detail);
    let text = SearchText::parse(&query.q).map_err(|error| refuse(format!("q: {error}")))?;
    if [query.first, query.from].into_iter().flatten().any(|line| line == 0 || i64::try_from(line).is_err()) {
        return Err(refuse("first, from: lines are numbered from 1".to_owned()));
    }
    let limit = query.limit.unwrap_or(MATCHES);
    if !(1..=MATCHES_LIMIT).contains(&limit) {
        return Err(refuse("limit: 1 to 1000".to_owned()));
    }
    let search = LogSearch {
        match_case: query.match_case.unwrap_or(false),
        step: query.step,
        stream: query.stream,
        first: query.first.unwrap_or(1),
        from: query.from,
        direction: match query.direction {
            Some(Way::Up) => Direction::Up,
            Some(Way::Down) | None => Direction::Down,
        },
        limit,
        ..LogSearch::new(text)
    };
    let deployment = app.platform().deployment(reference).await?;
    let found = app.platform().logs().search(deployment.id, search).await?;
    let matches = found.matches.iter().map(|hit| LogMatch { n: hit.n, position: hit.position }).collect();
    Ok(Json(LogMatches { lines: found.lines, complete: deployment.is_ended(), total: found.total, matches }))
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
