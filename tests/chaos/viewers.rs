//! Who watches all the time, over all restarts: viewers of logs that put their pieces together, and a reader of the one feed.
//!
//! A viewer follows `/ws/deployments/{id}` from the first line, comes back after every cut with the next line that it lacks,
//! and ends with the `end` frame. What it has put together must be the log, which [`crate::oracle`] looks at.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use sdp_core::api::{LogLine, ViewerFrame};
use sdp_core::client::{Client, EventFilter, FeedItem};
use sdp_core::event::{Event, EventKind};
use sdp_core::id::{DeploymentId, EventSeq};
use sdp_core::secret::Secret;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_util::sync::CancellationToken;

/// Servers ping each 10 s; one that is silent for longer has gone.
const SILENCE: Duration = Duration::from_secs(25);
const AGAIN: Duration = Duration::from_millis(200);

/// What a viewer has seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) lines: Vec<LogLine>,
    /// The attempt that the lines are of.
    attempt: u32,
    /// What the `end` frame said.
    pub(crate) end: Option<u64>,
    pub(crate) connections: u64,
    /// Frames that did not go on where the one before ended.
    pub(crate) gaps: Vec<String>,
}

impl Seen {
    /// The next line that it lacks.
    fn next(&self) -> u64 {
        self.lines.len() as u64 + 1
    }

    /// Takes a frame; false: the connection is over.
    fn take(&mut self, frame: ViewerFrame) -> bool {
        match frame {
            ViewerFrame::Deployment { view } => {
                let attempt = view.deployment.attempt;
                if attempt > self.attempt && self.attempt > 0 && !self.lines.is_empty() {
                    // The log is begun anew with another attempt: so does whoever watches.
                    self.attempt = attempt;
                    self.lines.clear();
                    return false;
                }
                self.attempt = self.attempt.max(attempt);
                true
            }
            ViewerFrame::Lines { lines } => {
                for line in lines {
                    if line.n != self.next() {
                        self.gaps.push(format!("line {} came, {} was due", line.n, self.next()));
                    }
                    self.lines.push(line);
                }
                true
            }
            ViewerFrame::End { lines } => {
                self.end = Some(lines);
                false
            }
            ViewerFrame::Resume { line, .. } => {
                if line > self.next() {
                    self.gaps.push(format!("told to resume at {line}, {} was due", self.next()));
                }
                self.lines.truncate(usize::try_from(line.saturating_sub(1)).unwrap_or(usize::MAX));
                false
            }
            _ => true,
        }
    }
}

/// Watches one deployment's log to its end, or until it is told to stop.
pub(crate) async fn watch_log(
    server: std::net::SocketAddr,
    token: Secret,
    id: DeploymentId,
    stop: CancellationToken,
) -> (DeploymentId, Seen) {
    let mut seen = Seen::default();
    while seen.end.is_none() && !stop.is_cancelled() {
        tokio::select! {
            _ = connection(server, &token, id, &mut seen) => {}
            () = stop.cancelled() => break,
        }
        if seen.end.is_none() {
            sleep(AGAIN).await;
        }
    }
    (id, seen)
}

async fn connection(
    server: std::net::SocketAddr,
    token: &Secret,
    id: DeploymentId,
    seen: &mut Seen,
) -> anyhow::Result<()> {
    let mut request =
        format!("ws://{server}/ws/deployments/{id}?line={}", seen.next()).into_client_request()?;
    request.headers_mut().insert("authorization", format!("Bearer {}", token.expose()).parse()?);
    let (mut socket, _) = timeout(SILENCE, tokio_tungstenite::connect_async(request)).await??;
    seen.connections += 1;
    while let Some(message) = timeout(SILENCE, socket.next()).await? {
        if let Message::Text(text) = message?
            && !seen.take(serde_json::from_str(text.as_str())?)
        {
            return Ok(());
        }
    }
    Ok(())
}

/// The feed as one reader saw it who never left.
#[derive(Clone, Debug, Default)]
pub(crate) struct Feed {
    events: Arc<Mutex<Vec<Event>>>,
}

impl Feed {
    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads until it is told to stop; says of each deployment that it was asked for, and rings with each end. How often it
    /// connected.
    pub(crate) async fn read(
        self,
        client: Client,
        asked: mpsc::Sender<DeploymentId>,
        ended: watch::Sender<usize>,
        stop: CancellationToken,
    ) -> anyhow::Result<u64> {
        let mut connections = 0;
        let mut feed = client.feed(EventSeq(0), EventFilter::default());
        loop {
            let item = tokio::select! {
                item = feed.next() => item,
                () = stop.cancelled() => return Ok(connections),
            };
            match item {
                Some(Ok(FeedItem::Event(event))) => {
                    let is_end = matches!(event.kind, EventKind::DeploymentEnded { .. });
                    let is_new = matches!(event.kind, EventKind::DeploymentRequested { .. });
                    let new = event.about.deployment.filter(|_| is_new);
                    self.events.lock().unwrap_or_else(PoisonError::into_inner).push(*event);
                    if let Some(new) = new {
                        asked.send(new).await?;
                    }
                    if is_end {
                        ended.send_modify(|ended| *ended += 1);
                    }
                }
                Some(Ok(FeedItem::Connected)) => connections += 1,
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(connections),
            }
        }
    }
}

/// The feed as it is now, from the beginning to event `last`.
pub(crate) async fn read_again(client: &Client, last: EventSeq) -> anyhow::Result<Vec<Event>> {
    let mut events: Vec<Event> = Vec::new();
    let mut feed = client.events(EventSeq(0), EventFilter::default());
    while events.last().is_none_or(|event| event.seq < last) {
        match timeout(SILENCE, feed.next()).await? {
            Some(event) => events.push(event?),
            None => break,
        }
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sdp_core::deployment::Step;
    use sdp_core::wire::Stream;

    fn line(n: u64) -> LogLine {
        let at = jiff::Timestamp::UNIX_EPOCH;
        LogLine { n, at, step: Step::Build, stream: Stream::Stdout, text: format!("line {n}") }
    }

    #[test]
    fn pieces_are_put_together_and_a_gap_or_a_double_is_noticed() {
        let mut seen = Seen::default();
        assert!(seen.take(ViewerFrame::Lines { lines: vec![line(1), line(2)] }));
        assert!(!seen.take(ViewerFrame::Resume { line: 3, event: EventSeq(1) }));
        assert!(seen.take(ViewerFrame::Lines { lines: vec![line(3)] }));
        assert_eq!((seen.lines.len(), seen.gaps.len()), (3, 0));
        // The server may take lines back that it has shown and not acknowledged.
        assert!(!seen.take(ViewerFrame::Resume { line: 2, event: EventSeq(1) }));
        assert_eq!(seen.next(), 2);
        seen.take(ViewerFrame::Lines { lines: vec![line(4)] });
        seen.take(ViewerFrame::Lines { lines: vec![line(2)] });
        assert_eq!(seen.gaps, ["line 4 came, 2 was due", "line 2 came, 3 was due"]);
        assert!(!seen.take(ViewerFrame::End { lines: 3 }));
        assert_eq!(seen.end, Some(3));
    }
}
