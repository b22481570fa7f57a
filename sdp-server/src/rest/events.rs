//! The one feed of events, as server-sent events.
//!
//! Each event has its number as `id`, so that a client which reconnects goes on where it was (`Last-Event-ID`). A slow reader
//! slows only itself: it is a reader of the store. The stream ends when the server stops or the token is revoked.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use sdp_core::api::Problem;
use sdp_core::event::Event;
use sdp_core::feed::{EventFilter, Feed};
use sdp_core::id::{DeploymentRef, EventSeq};
use sdp_core::name::{SandboxName, ServiceName};
use sdp_core::platform::PlatformError;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};
use utoipa::IntoParams;

use crate::app::App;
use crate::edge::{Caller, Place, Proof, Query, still_holds};
use crate::metrics::Present;
use crate::problem::Refused;

/// How often a silent stream shows that it lives; proxies cut at 60 s.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
/// How often it is looked whether the token or session still holds.
const RECHECK: Duration = Duration::from_secs(30);

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct FeedQuery {
    /// Events after this one; 0: from the beginning. Without it: what happens from now on.
    #[param(minimum = 0)]
    after: Option<u64>,
    /// Only about this deployment, by id or number.
    deployment: Option<String>,
    /// Only about this service.
    service: Option<ServiceName>,
    /// Only about this sandbox.
    sandbox: Option<SandboxName>,
}

/// Follow what happens, as server-sent events.
///
/// Each has `id` (its number), `event` (its kind, such as `deployment_ended`) and `data` (an `Event` as JSON). Comments in
/// between keep the connection alive. Kinds may be added: skip those that you do not know.
#[utoipa::path(get, path = "/api/v1/events", operation_id = "follow_events", tag = "events",
    params(FeedQuery,
        ("last-event-id" = Option<u64>, Header, description = "As browsers send it when they reconnect; it wins over `after`")),
    responses((status = 200, description = "A stream that ends when the server stops", content_type = "text/event-stream"),
        (status = 404, description = "`unknown_deployment`", body = Problem, content_type = "application/problem+json"),
        (status = 410, description = "Events from there on are not kept any more (`feed_gone`)",
            body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn follow(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Query(query): Query<FeedQuery>,
) -> Result<Response, Refused> {
    let last =
        headers.get("last-event-id").map(|value| {
            value.to_str().ok().and_then(|value| value.parse().ok()).filter(in_range).ok_or_else(|| {
                Refused::new("invalid_header", "the header last-event-id is no event's number")
            })
        });
    let after = match (last.transpose()?, query.after.map(EventSeq)) {
        (Some(last), _) => last,
        (None, Some(after)) if in_range(&after) => after,
        (None, Some(_)) => {
            return Err(
                Refused::new("invalid_query", "the query cannot be used").detail("after: out of range")
            );
        }
        (None, None) => app.platform().newest_event(),
    };
    let deployment = match query.deployment {
        Some(text) => Some(app.platform().deployment(text.parse::<DeploymentRef>()?).await?.id),
        None => None,
    };
    let place = app.limits().socket(&caller).inspect_err(|refused| app.metrics().refused(refused.code()))?;
    let filter = EventFilter { deployment, service: query.service, sandbox: query.sandbox };
    let mut feed = app.platform().feed(after, filter);
    // The first page is read before the answer begins, so that a cursor which is too old is a 410 and no empty stream.
    let first = feed.try_next().await?;
    let mut recheck = tokio::time::interval_at(tokio::time::Instant::now() + RECHECK, RECHECK);
    recheck.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let present = app.metrics().feed();
    let mut revocations = app.access().revocations();
    revocations.mark_changed();
    let proof = caller.proof;
    let reader = Reader { app, feed, first, proof, recheck, revocations, _present: present, _place: place };
    let stream = unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        Some((Ok::<_, Infallible>(to_sse(&event)), reader))
    });
    let mut response = Sse::new(stream).keep_alive(KeepAlive::new().interval(SIGN_OF_LIFE)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would keep events back until its buffer is full.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

/// SQLite's numbers are signed.
fn in_range(seq: &EventSeq) -> bool {
    i64::try_from(seq.0).is_ok()
}

struct Reader {
    app: App,
    feed: Feed,
    first: Option<Event>,
    proof: Proof,
    recheck: Interval,
    revocations: watch::Receiver<()>,
    _present: Present,
    _place: Place,
}

impl Reader {
    /// The next event; `None` when the stream is to end.
    async fn next(&mut self) -> Option<Event> {
        if let Some(event) = self.first.take() {
            return Some(event);
        }
        loop {
            tokio::select! {
                () = self.app.drain().cancelled() => return None,
                event = self.feed.next() => match event {
                    Ok(event) => return Some(event),
                    Err(PlatformError::Stopping) => return None,
                    Err(error) => {
                        tracing::error!(%error, "a feed could not be read");
                        return None;
                    }
                },
                Ok(()) = self.revocations.changed() => {
                    if !still_holds(&self.app, &self.proof).await {
                        return None;
                    }
                }
                _ = self.recheck.tick() => {
                    if !still_holds(&self.app, &self.proof).await {
                        return None;
                    }
                }
            }
        }
    }
}

fn to_sse(event: &Event) -> sse::Event {
    let kind = serde_json::to_value(&event.kind).ok();
    let kind =
        kind.as_ref().and_then(|kind| kind.get("type")).and_then(|kind| kind.as_str()).unwrap_or("event");
    let data = serde_json::to_string(event).unwrap_or_default();
    sse::Event::default().id(event.seq.to_string()).event(kind).data(data)
}
