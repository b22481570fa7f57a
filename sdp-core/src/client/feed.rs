//! The event feed as a stream that reconnects by itself.
//!
//! ```text
//!   connect (after = last seen) ──▶ read ──event──▶ yield, remember its number
//!        ▲                            │ ended, broke, silent for too long
//!        └── wait: full jitter, 0.5 s doubling to 30 s, from the start again after an event ◀──┘
//! ```
//! A server that says when to come again (429) is asked no sooner.
//! No event is lost or doubled by a reconnect: the server is asked for what comes after the last one seen. Kinds of events
//! that this version does not know are skipped. What will not heal by waiting (a refused token, 410 for a cursor older than
//! what the server keeps) ends the stream with the error.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{Stream, unfold};
use reqwest::header::ACCEPT;
use reqwest::{Method, Response};
use tokio::time::{sleep, timeout};

use super::sse::Parser;
use super::{Client, ClientError, FEED_SILENCE, REQUEST_TIMEOUT};
use crate::event::Event;
use crate::id::{DeploymentId, EventSeq};
use crate::name::{SandboxName, ServiceName};

const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// Which events of the global sequence a feed gives; all conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Only about this deployment.
    pub deployment: Option<DeploymentId>,
    /// Only about this service.
    pub service: Option<ServiceName>,
    /// Only about this sandbox.
    pub sandbox: Option<SandboxName>,
}

/// What a feed gives to those who want to know about the connection too.
#[derive(Debug)]
#[non_exhaustive]
pub enum FeedItem {
    /// The server answers; what comes after the cursor follows.
    Connected,
    /// Something happened.
    Event(Box<Event>),
    /// The server is away; it is tried again after `retry_in`.
    Away {
        /// What happened.
        error: ClientError,
        /// When it is tried again.
        retry_in: Duration,
    },
}

/// The feed with its connection; see [`Client::feed`]. Dropping it ends the connection.
pub struct FeedStream(Pin<Box<dyn Stream<Item = Result<FeedItem, ClientError>> + Send>>);

/// The feed; see [`Client::events`]. Dropping it ends the connection.
pub struct EventStream(FeedStream);

impl FeedStream {
    /// The next item; `None` after an error. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<FeedItem, ClientError>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

impl Stream for FeedStream {
    type Item = Result<FeedItem, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

impl EventStream {
    /// The next event; `None` after an error. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Event, ClientError>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

impl Stream for EventStream {
    type Item = Result<Event, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match std::task::ready!(Pin::new(&mut self.0).poll_next(context)) {
                Some(Ok(FeedItem::Event(event))) => return Poll::Ready(Some(Ok(*event))),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl std::fmt::Debug for FeedStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FeedStream")
    }
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EventStream")
    }
}

impl Client {
    /// Every event after `after` that passes the filter, then each new one as it happens. It reconnects by itself and ends
    /// only with an error that waiting does not heal.
    #[must_use]
    pub fn events(&self, after: EventSeq, filter: EventFilter) -> EventStream {
        EventStream(self.feed(after, filter))
    }

    /// As [`Client::events`], and tells when the server goes away and comes back.
    #[must_use]
    pub fn feed(&self, after: EventSeq, filter: EventFilter) -> FeedStream {
        self.feed_after(Some(after), filter)
    }

    /// As [`Client::feed`], beginning with what happens from now on: for those who have just looked how things stand.
    /// Look again after each [`FeedItem::Connected`] until the first event has come.
    #[must_use]
    pub fn feed_from_now(&self, filter: EventFilter) -> FeedStream {
        self.feed_after(None, filter)
    }

    fn feed_after(&self, after: Option<EventSeq>, filter: EventFilter) -> FeedStream {
        let feed = Feed {
            client: self.clone(),
            filter,
            after,
            connection: None,
            ready: VecDeque::new(),
            backoff: FIRST_BACKOFF,
            wait: None,
            over: false,
        };
        FeedStream(Box::pin(unfold(
            feed,
            |mut feed| async move { feed.step().await.map(|item| (item, feed)) },
        )))
    }
}

struct Feed {
    client: Client,
    filter: EventFilter,
    /// The last one seen; none: whatever comes.
    after: Option<EventSeq>,
    connection: Option<(Response, Parser)>,
    /// Read but not given yet: at most one chunk's worth.
    ready: VecDeque<Event>,
    backoff: Duration,
    /// To be waited before the next attempt.
    wait: Option<Duration>,
    over: bool,
}

impl Feed {
    async fn step(&mut self) -> Option<Result<FeedItem, ClientError>> {
        if self.over {
            return None;
        }
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.after = self.after.max(Some(event.seq));
                self.backoff = FIRST_BACKOFF;
                return Some(Ok(FeedItem::Event(Box::new(event))));
            }
            if let Some(wait) = self.wait.take() {
                sleep(wait).await;
            }
            let result = match &mut self.connection {
                None => match self.connect().await {
                    Ok(response) => {
                        self.connection = Some((response, Parser::default()));
                        return Some(Ok(FeedItem::Connected));
                    }
                    Err(error) => Err(error),
                },
                Some((response, parser)) => {
                    let result = read(&self.client, response, parser).await;
                    result.map(|events| self.ready.extend(events))
                }
            };
            if let Err(error) = result {
                self.connection = None;
                if !error.is_away() {
                    self.over = true;
                    return Some(Err(error));
                }
                let retry_in = jitter(self.backoff) + error.retry_after().unwrap_or_default();
                self.backoff = (self.backoff * 2).min(LONGEST_BACKOFF);
                self.wait = Some(retry_in);
                return Some(Ok(FeedItem::Away { error, retry_in }));
            }
        }
    }

    async fn connect(&self) -> Result<Response, ClientError> {
        let mut url = self.client.url(&["events"]);
        {
            let mut query = url.query_pairs_mut();
            if let Some(after) = self.after {
                query.append_pair("after", &after.to_string());
            }
            let EventFilter { deployment, service, sandbox } = &self.filter;
            if let Some(deployment) = deployment {
                query.append_pair("deployment", &deployment.to_string());
            }
            if let Some(service) = service {
                query.append_pair("service", service.as_str());
            }
            if let Some(sandbox) = sandbox {
                query.append_pair("sandbox", sandbox.as_str());
            }
        }
        if url.query() == Some("") {
            url.set_query(None);
        }
        let mut request = self.client.request(Method::GET, url).header(ACCEPT, "text/event-stream");
        if let Some(after) = self.after {
            request = request.header("last-event-id", after.to_string());
        }
        self.client.within(REQUEST_TIMEOUT, self.client.send(request)).await
    }
}

/// Reads one chunk. The end of the stream counts as the server being away: servers restart, proxies cut.
async fn read(
    client: &Client,
    response: &mut Response,
    parser: &mut Parser,
) -> Result<Vec<Event>, ClientError> {
    let away = || ClientError::TimedOut { server: client.server(), after: FEED_SILENCE };
    let chunk = timeout(FEED_SILENCE, response.chunk()).await.map_err(|_| away())?;
    let Some(chunk) = chunk.map_err(|source| client.failed(source))? else {
        return Err(ClientError::Unexpected {
            server: client.server(),
            status: 503,
            text: "the feed ended".to_owned(),
        });
    };
    let messages = parser
        .push(&chunk)
        .map_err(|_| ClientError::TooLarge { server: client.server(), limit: super::sse::MAX_MESSAGE })?;
    let parse = |message: super::sse::Message| match serde_json::from_str::<Event>(&message.data) {
        Ok(event) => Some(event),
        Err(error) => {
            tracing::debug!(event.kind = message.event, event.seq = message.id, %error, "an event of an unknown kind was skipped");
            None
        }
    };
    Ok(messages.into_iter().filter_map(parse).collect())
}

/// Full jitter: anything up to `limit`, so that clients do not come back all at once.
pub(super) fn jitter(limit: Duration) -> Duration {
    let random = uuid::Uuid::new_v4().as_u128() & 0xffff_ffff;
    let limit = limit.as_millis();
    Duration::from_millis(u64::try_from(limit * random / 0xffff_ffff).unwrap_or(0))
}
