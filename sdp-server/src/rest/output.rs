//! What a running service prints: its last lines, followed as server-sent events, or as a file.
//!
//! Nothing of it is stored here: it is asked of the instance's agent. A task each brings what is followed to its reader, so
//! that a reader who takes nothing for `limits.send` is let go, and gives its place among the followers back.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use sdp_core::api::{InstanceOutput, OutputEnd, OutputEndReason, Problem};
use sdp_core::id::InstanceId;
use sdp_core::platform::{Followed, OutputFollow};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use utoipa::IntoParams;

use crate::app::App;
use crate::edge::{Caller, Named, Proof, Query, still_holds};
use crate::problem::Refused;

const LINES: u32 = 100;
const LINES_LIMIT: u32 = 10_000;
/// How often a silent stream shows that it lives; proxies cut at 60 s.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
/// How often it is looked whether the token or session still holds.
const RECHECK: Duration = Duration::from_secs(30);

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct OutputQuery {
    /// At most so many lines (followed: of those that are there already).
    #[param(minimum = 0, maximum = 10_000, default = 100)]
    lines: Option<u32>,
    /// Go on with what it prints from then on, as server-sent events.
    #[param(default = false)]
    #[serde(default)]
    follow: bool,
}

/// What an instance printed last, asked of its agent; with `follow=true` also what it prints from then on.
///
/// Followed it is a stream of server-sent events: `lines` (data: an `OutputChunk`; the first comes at once, and may be empty) and at
/// last `end` (data: an `OutputEnd`). A reader who is too slow loses lines, which are counted. Nothing of it is stored: whoever follows
/// again begins with the last lines. Of an instance that is over there are the last lines that it printed, if it ended by itself.
#[utoipa::path(get, path = "/api/v1/instances/{instance}/output", operation_id = "get_instance_output", tag = "instances",
    params(("instance" = InstanceId, Path, description = "Its id"), OutputQuery),
    responses(
        (status = 200, description = "Its last lines; or a stream, if `follow=true`", content(
            (InstanceOutput = "application/json"), (String = "text/event-stream"))),
        (status = 404, description = "`unknown_instance`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`agent_away`, `too_many_followers`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn read(
    State(app): State<App>,
    caller: Caller,
    Named(id): Named<InstanceId>,
    Query(query): Query<OutputQuery>,
) -> Result<Response, Refused> {
    let lines = query.lines.unwrap_or(LINES);
    if lines > LINES_LIMIT {
        return Err(Refused::new("invalid_query", "the query cannot be used").detail("lines: 0 to 10000"));
    }
    if !query.follow {
        let lines = app.platform().instance_output(id, lines).await?;
        return Ok(Json(InstanceOutput { lines }).into_response());
    }
    let place = app.limits().socket(&caller).inspect_err(|refused| app.metrics().refused(refused.code()))?;
    let follow = app.platform().follow_output(id, lines).await?;
    let (to, events) = mpsc::channel(1);
    let requests = app.requests().clone();
    requests.spawn(async move {
        bring(&app, caller.proof, follow, to).await;
        drop(place);
    });
    let stream = unfold(events, |mut events| async move {
        let event = events.recv().await?;
        Some((Ok::<_, Infallible>(event), events))
    });
    let mut response = Sse::new(stream).keep_alive(KeepAlive::new().interval(SIGN_OF_LIFE)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would keep lines back until its buffer is full.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

/// Until it has ended, the reader has gone or is too slow, may not read any more, or the server stops.
async fn bring(app: &App, proof: Proof, mut follow: OutputFollow, to: mpsc::Sender<sse::Event>) {
    let mut recheck = interval_at(Instant::now() + RECHECK, RECHECK);
    recheck.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut revocations = app.access().revocations();
    revocations.mark_changed();
    loop {
        let followed = tokio::select! {
            () = to.closed() => return,
            () = app.drain().cancelled() => {
                Followed::End(OutputEnd { reason: OutputEndReason::Stopping, detail: None })
            }
            followed = follow.next() => match followed {
                Some(followed) => followed,
                None => return,
            },
            Ok(()) = revocations.changed() => {
                if still_holds(app, &proof).await {
                    continue;
                }
                return;
            }
            _ = recheck.tick() => {
                if still_holds(app, &proof).await {
                    continue;
                }
                return;
            }
        };
        let (kind, data, last) = match followed {
            Followed::Lines(chunk) => ("lines", serde_json::to_string(&chunk), false),
            Followed::End(end) => ("end", serde_json::to_string(&end), true),
        };
        let event = sse::Event::default().event(kind).data(data.unwrap_or_default());
        let taken = timeout(app.config().limits.send, to.send(event)).await;
        if last || !matches!(taken, Ok(Ok(()))) {
            return;
        }
    }
}

/// What is kept of what an instance printed, as a file: its last 10,000 lines at most.
#[utoipa::path(get, path = "/api/v1/instances/{instance}/output/raw", operation_id = "download_instance_output", tag = "instances",
    params(("instance" = InstanceId, Path, description = "Its id")),
    responses((status = 200, description = "The lines", content_type = "text/plain", body = String),
        (status = 404, description = "`unknown_instance`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`agent_away`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn raw(State(app): State<App>, Named(id): Named<InstanceId>) -> Result<Response, Refused> {
    let instance = app.platform().instance(id).await?;
    let lines = app.platform().instance_output(id, LINES_LIMIT).await?;
    let body: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
    let name = format!("{}-{}-{}", instance.service, instance.sandbox, instance.commit.short());
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if let Ok(name) = HeaderValue::try_from(format!("attachment; filename=\"{name}.log\"")) {
        headers.insert(header::CONTENT_DISPOSITION, name);
    }
    Ok(response)
}
