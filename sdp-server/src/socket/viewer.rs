//! `/ws/deployments/{deployment}?line=N&event=M`: a deployment's state and its log, live.
//!
//! ```text
//! deployment ─▶ lines … ─▶ deployment (after each event) ─▶ lines … ─▶ end
//!                                                                └▶ resume: too slow, or the server stops
//! ```
//! A viewer is a cursor over the log file and a reader of the feed: the bell only says that there is more. So a slow viewer
//! slows only itself, and costs one frame's memory; one that takes nothing for too long is told where to go on, in what is kept
//! free of its socket's buffer for that, and is let go. The first frame brings it up to date whatever it has missed,
//! so `event` need not be right; it is taken so that `resume` can be passed back as it came.
//!
//! Limits: frames of 500 lines or 64 KiB of text; `limits.send` for the browser to take one, then `resume` and the end.

use std::collections::VecDeque;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection};
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, header};
use axum::response::Response;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{Sink, SinkExt, StreamExt};
use sdp_core::api::{LogLine, Problem, ViewerFrame};
use sdp_core::feed::{EventFilter, Feed};
use sdp_core::id::{DeploymentId, DeploymentRef, EventSeq};
use sdp_core::platform::PlatformError;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use utoipa::IntoParams;

use super::{DEAD, LAST_WORD, PING, RECHECK, close, say_close, upgrade};
use crate::app::App;
use crate::edge::{Caller, Named, Proof, Query, still_holds};
use crate::problem::Refused;
use crate::rest::logs::log_line;
use crate::serve::Socket;

/// Lines read from the file at once.
const BATCH: usize = 500;
/// Bytes of text in a frame, unless one line is longer.
const FRAME_BYTES: usize = 64 * 1024;
/// How long it may take until a slow viewer's system has taken in where to go on; nothing but a busy machine holds it up.
const RESUME: Duration = Duration::from_secs(15);
/// How long a viewer that was told the end is listened to; one that reads answers at once.
const LINGER: Duration = Duration::from_millis(500);
/// How long one that was too slow may take to read where to go on.
const SLOW_LINGER: Duration = Duration::from_secs(300);
/// A viewer says nothing but pongs.
const FROM_VIEWER: usize = 4096;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ViewerQuery {
    /// The first line wanted.
    #[param(minimum = 1, default = 1)]
    line: Option<u64>,
    /// The newest event that is known.
    #[param(minimum = 0)]
    event: Option<u64>,
}

/// Watch a deployment and its log (WebSocket).
///
/// Frames are JSON texts with `type`: `deployment` (`view`), `lines` (`lines`), `end` (`lines`), `resume` (`line`, `event`: connect
/// again with these).
#[utoipa::path(get, path = "/ws/deployments/{deployment}", operation_id = "watch_deployment", tag = "sockets",
    params(("deployment" = String, Path, description = "Its id or number", example = "412"), ViewerQuery),
    responses((status = 101, description = "Connected"),
        (status = 404, description = "`unknown_deployment`", body = Problem, content_type = "application/problem+json"),
        (status = 426, description = "No WebSocket handshake (`upgrade_required`)",
            body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn connect(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Extension(tcp): Extension<Socket>,
    Named(reference): Named<DeploymentRef>,
    Query(query): Query<ViewerQuery>,
    handshake: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refused> {
    // A browser sends its cookie along whichever page opens the socket, and names that page here.
    let origin = headers.get(header::ORIGIN);
    let is_ours = origin.is_some_and(|origin| origin.as_bytes() == app.config().origin().as_bytes());
    if !is_ours && (origin.is_some() || caller.has_session()) {
        return Err(Refused::new("origin_refused", "the socket was not opened by a page of this server"));
    }
    let line = query.line.unwrap_or(1);
    if line == 0 || i64::try_from(line).is_err() {
        return Err(Refused::new("invalid_query", "the query cannot be used").detail("line: numbered from 1"));
    }
    let deployment = app.platform().deployment(reference).await?;
    let handshake = upgrade(handshake)?.max_message_size(FROM_VIEWER).max_frame_size(FROM_VIEWER);
    let place = app.limits().socket(&caller).inspect_err(|refused| app.metrics().refused(refused.code()))?;
    Ok(handshake.on_upgrade(move |socket| {
        let requests = app.requests().clone();
        let span = tracing::info_span!("viewer", deployment.id = %deployment.id);
        let from = (line, query.event.unwrap_or(0));
        let serving = async move {
            tokio::select! {
                () = serve(&app, deployment.id, from, caller.proof, socket, &tcp) => {}
                () = app.abort().cancelled() => {}
            }
            // A viewer that has stopped reading counts for as long as it lingers.
            drop(place);
        };
        requests.track_future(serving.instrument(span))
    }))
}

/// Why a viewer's connection ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Done,
    Gone,
    TooSlow,
    Stopping,
    Unauthorised,
    Failed,
}

struct Viewer<'a> {
    app: &'a App,
    id: DeploymentId,
    out: Outbox<SplitSink<WebSocket, Message>>,
    /// The next line to send.
    line: u64,
    /// How many lines the log had when it was last looked at.
    held: u64,
    /// The newest event that is shown.
    event: EventSeq,
    /// Whether the deployment has ended: no line comes after those that are there.
    ended: bool,
    /// Read, not sent yet; about a frame.
    ready: VecDeque<LogLine>,
    /// How many lines are read at once: as many as probably fill a frame.
    batch: usize,
}

async fn serve(
    app: &App,
    id: DeploymentId,
    (line, event): (u64, u64),
    proof: Proof,
    socket: WebSocket,
    tcp: &Socket,
) {
    tcp.keep_room();
    let present = app.metrics().viewer();
    let (sink, mut stream) = socket.split();
    let out = Outbox { sink, limit: app.config().limits.send, drain: app.drain().clone() };
    let mut viewer = Viewer {
        app,
        id,
        out,
        line,
        held: 0,
        event: EventSeq(event),
        ended: false,
        ready: VecDeque::new(),
        batch: BATCH,
    };
    let end = match viewer.run(&mut stream, &proof).await {
        Ok(end) | Err(end) => end,
    };
    match end {
        End::Gone => return,
        End::Done => say_close(&mut viewer.out.sink, close::DONE, "end").await,
        End::Unauthorised => say_close(&mut viewer.out.sink, close::UNAUTHORISED, "unauthorised").await,
        End::Failed => say_close(&mut viewer.out.sink, close::INTERNAL, "the log cannot be read").await,
        End::TooSlow | End::Stopping => {
            if end == End::TooSlow {
                app.metrics().slow_viewer();
            }
            tcp.use_room();
            let resume = ViewerFrame::Resume { line: viewer.line, event: viewer.event };
            let limit = if end == End::TooSlow { RESUME } else { LAST_WORD };
            drop(timeout(limit, viewer.out.sink.send(to_message(&resume))).await);
            let code = if matches!(end, End::TooSlow) { close::TOO_SLOW } else { close::AWAY };
            say_close(&mut viewer.out.sink, code, "resume").await;
        }
    }
    // A socket that is closed before the viewer has read it all, or before all of its own is read, may take back what it was told
    // last; the system forgets it after half a minute. Only the system's buffers are held meanwhile.
    drop((viewer, present));
    let gone = async { while let Some(Ok(_)) = stream.next().await {} };
    let limit = if end == End::TooSlow { SLOW_LINGER } else { LINGER };
    tokio::select! {
        _ = timeout(limit, gone) => {}
        () = app.drain().cancelled(), if end == End::TooSlow => {}
    }
}

impl Viewer<'_> {
    async fn run(&mut self, stream: &mut SplitStream<WebSocket>, proof: &Proof) -> Result<End, End> {
        let app = self.app;
        let mut bell = app.platform().logs().watch(self.id);
        // Opening mends the log, so that the bell tells the truth.
        app.platform().logs().held(self.id).await.map_err(|error| failed(&error))?;
        self.show().await?;
        let filter = EventFilter { deployment: Some(self.id), ..EventFilter::default() };
        let mut feed = app.platform().feed(self.event, filter);
        let mut ping = tokio::time::interval_at(Instant::now() + PING, PING);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut heard, mut pings) = (Instant::now(), 0u32);
        let mut revocations = app.access().revocations();
        revocations.mark_changed();
        loop {
            let has_more = self.read(&mut bell).await?;
            if self.ended && !has_more {
                let lines = *bell.borrow();
                self.send(&ViewerFrame::End { lines }).await?;
                return Ok(End::Done);
            }
            tokio::select! {
                biased;
                () = app.drain().cancelled() => return Ok(End::Stopping),
                message = stream.next() => match message {
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(End::Gone),
                    Some(Ok(_)) => heard = Instant::now(),
                },
                Ok(()) = revocations.changed() => {
                    if !still_holds(app, proof).await {
                        return Ok(End::Unauthorised);
                    }
                }
                _ = ping.tick() => {
                    if heard.elapsed() > DEAD {
                        // It may still find in its buffer where to go on.
                        return Ok(End::TooSlow);
                    }
                    pings = pings.wrapping_add(1);
                    if pings.is_multiple_of(RECHECK) && !still_holds(app, proof).await {
                        return Ok(End::Unauthorised);
                    }
                    self.out.put(Message::Ping(axum::body::Bytes::new())).await?;
                }
                event = next(&mut feed), if !self.ended => {
                    event?;
                    // Several events that happened together are shown once.
                    while feed.try_next().await.map_err(|error| failed(&error))?.is_some() {}
                    self.show().await?;
                }
                () = std::future::ready(()), if has_more => self.send_ready().await?,
                changed = bell.changed(), if !has_more => changed.map_err(|_| End::Stopping)?,
            }
        }
    }

    /// Sends the deployment as it stands.
    async fn show(&mut self) -> Result<(), End> {
        let deployment =
            self.app.platform().deployment(self.id.into()).await.map_err(|error| failed(&error))?;
        self.event = deployment.version;
        self.ended = deployment.is_ended();
        let view = self.app.view(deployment).await.map_err(|error| failed(&error))?;
        self.send(&ViewerFrame::Deployment { view: Box::new(view) }).await
    }

    /// Reads on if nothing is ready; says whether there is something to send.
    async fn read(&mut self, bell: &mut watch::Receiver<u64>) -> Result<bool, End> {
        if !self.ready.is_empty() {
            return Ok(true);
        }
        let held = *bell.borrow_and_update();
        if held < self.held && held + 1 < self.line {
            // The log was begun anew (another attempt): the viewer comes again, and sees it from where it stands.
            self.line = held + 1;
            return Err(End::TooSlow);
        }
        self.held = held;
        if held < self.line {
            return Ok(false);
        }
        let lines = self.app.platform().logs().window(self.id, self.line, self.batch).await;
        let mut lines = lines.map_err(|error| failed(&error))?;
        let bytes: usize = lines.iter().map(|line| line.bytes.len()).sum();
        if !lines.is_empty() {
            self.batch = fitting(lines.len(), bytes);
        }
        // Whoever does not take them holds up no more than a frame's memory: long lines are read again.
        if bytes > 2 * FRAME_BYTES {
            lines.truncate(self.batch);
        }
        self.ready = lines.into_iter().map(log_line).collect();
        Ok(!self.ready.is_empty())
    }

    /// Sends one frame of what is ready.
    async fn send_ready(&mut self) -> Result<(), End> {
        let mut bytes = 0;
        let mut lines = Vec::new();
        while let Some(line) = self.ready.front() {
            bytes += line.text.len();
            if !lines.is_empty() && bytes > FRAME_BYTES {
                break;
            }
            lines.extend(self.ready.pop_front());
        }
        let Some(last) = lines.last().map(|line| line.n) else { return Ok(()) };
        let message = to_message(&ViewerFrame::Lines { lines });
        // Once it is in the socket's buffer it goes out before anything that follows, a `resume` included.
        self.out.feed(message).await?;
        self.line = last + 1;
        self.out.flush().await
    }

    async fn send(&mut self, frame: &ViewerFrame) -> Result<(), End> {
        self.out.put(to_message(frame)).await
    }
}

/// The way to the viewer, which may be slow: each wait has a limit, and ends when the server stops.
struct Outbox<S> {
    sink: S,
    limit: Duration,
    drain: CancellationToken,
}

impl<S: Sink<Message> + Unpin> Outbox<S> {
    /// Puts a message into the socket's buffer, once there is room.
    async fn feed(&mut self, message: Message) -> Result<(), End> {
        within(self.limit, &self.drain, self.sink.feed(message)).await
    }

    /// Waits until the buffer has gone out.
    async fn flush(&mut self) -> Result<(), End> {
        within(self.limit, &self.drain, self.sink.flush()).await
    }

    async fn put(&mut self, message: Message) -> Result<(), End> {
        self.feed(message).await?;
        self.flush().await
    }
}

async fn within<E>(
    limit: Duration,
    drain: &CancellationToken,
    sending: impl Future<Output = Result<(), E>>,
) -> Result<(), End> {
    tokio::select! {
        biased;
        sent = timeout(limit, sending) => match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(End::TooSlow),
        },
        () = drain.cancelled() => Err(End::Stopping),
    }
}

/// How many lines probably fill a frame, where so many had so many bytes.
fn fitting(lines: usize, bytes: usize) -> usize {
    let most = lines.saturating_mul(FRAME_BYTES) / bytes.max(1);
    most.clamp(1, BATCH)
}

async fn next(feed: &mut Feed) -> Result<(), End> {
    match feed.next().await {
        Ok(_) => Ok(()),
        Err(PlatformError::Stopping) => Err(End::Stopping),
        Err(error) => Err(failed(&error)),
    }
}

fn failed(error: &dyn std::error::Error) -> End {
    tracing::error!(error = %error, "a viewer could not be served");
    End::Failed
}

fn to_message(frame: &ViewerFrame) -> Message {
    Message::text(serde_json::to_string(frame).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A socket whose buffer holds one message, and the end that reads or does not.
    fn outbox(limit: Duration) -> (Outbox<impl Sink<Message> + Unpin>, tokio::sync::mpsc::Receiver<Message>) {
        let (to, from) = tokio::sync::mpsc::channel(1);
        let sink = tokio_util::sync::PollSender::new(to);
        (Outbox { sink, limit, drain: CancellationToken::new() }, from)
    }

    #[tokio::test]
    async fn a_viewer_that_takes_nothing_for_the_limit_is_too_slow() {
        let limit = Duration::from_millis(20);
        let (mut out, mut socket) = outbox(limit);
        let begun = Instant::now();
        assert_eq!(out.put(Message::text("1")).await, Ok(()));
        assert_eq!(out.put(Message::text("2")).await, Err(End::TooSlow));
        assert!(begun.elapsed() >= limit);
        assert_eq!(socket.recv().await, Some(Message::text("1")));
        assert_eq!(out.put(Message::text("2")).await, Ok(()), "one that reads again is not");
        drop(socket);
        assert_eq!(out.put(Message::text("3")).await, Err(End::Gone));
    }

    #[test]
    fn about_a_frame_is_read_at_once_however_long_the_lines_are() {
        for (lines, bytes, next) in [
            (500, 5_000, 500),
            (500, 500 * 1000, 65),
            (4, 4 << 20, 1),
            (1, 0, 500),
            (1, 100_000, 1),
            (65, 6500, 500),
        ] {
            assert_eq!(fitting(lines, bytes), next, "{lines} lines of {bytes} bytes");
        }
    }

    #[tokio::test]
    async fn a_server_that_stops_does_not_wait_for_a_slow_viewer() {
        let (mut out, _socket) = outbox(Duration::from_secs(600));
        assert_eq!(out.put(Message::text("1")).await, Ok(()));
        let drain = out.drain.clone();
        let (sent, ()) = tokio::join!(out.put(Message::text("2")), async { drain.cancel() });
        assert_eq!(sent, Err(End::Stopping));
    }
}
