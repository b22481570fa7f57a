//! "Give me what comes after N, then wait": a reader of the one global sequence of events.
//!
//! A feed reads the store in pages and waits on the number of the newest event. There is no queue between the writer and its
//! readers, so a slow reader slows only itself, and there is no seam between what was and what comes.

use std::collections::VecDeque;

use tokio::sync::watch;

use crate::event::Event;
use crate::id::{DeploymentId, EventSeq};
use crate::name::{SandboxName, ServiceName};
use crate::platform::PlatformError;
use crate::store::{EventRowFilter, Store};

/// How many events are read at once.
const PAGE: u32 = 200;

/// Which events a feed gives; all given conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Only about this deployment.
    pub deployment: Option<DeploymentId>,
    /// Only about this service.
    pub service: Option<ServiceName>,
    /// Only about this sandbox.
    pub sandbox: Option<SandboxName>,
}

/// A reader of events. Dropping it costs nobody anything.
///
/// ```
/// use sdp_core::event::EventKind;
/// use sdp_core::feed::EventFilter;
/// use sdp_core::id::EventSeq;
/// # use sdp_core::platform::{Deploy, Platform, PlatformConfig, Save};
/// # use sdp_core::principal::Principal;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let data = tempfile::tempdir()?;
/// # let platform = Platform::start(PlatformConfig::new(data.path())).await?;
/// # let alice = Principal::person("alice".parse()?);
/// # let service = serde_json::from_str(
/// #     r#"{ "name": "hello", "repo": "/srv/x.git", "builder": { "type": "command", "run": ["./serve"] } }"#)?;
/// # platform.save_service(&alice, service, Save::Create).await?;
/// // From the beginning; a reader that remembers `position()` goes on from there.
/// let mut feed = platform.feed(EventSeq(0), EventFilter::default());
/// let event = feed.next().await?;
/// assert_eq!(event.kind, EventKind::ServiceSaved { created: true });
/// assert_eq!(feed.position(), event.seq);
/// # platform.stop().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Feed {
    store: Store,
    newest: watch::Receiver<EventSeq>,
    filter: EventFilter,
    after: EventSeq,
    page: VecDeque<Event>,
}

impl Feed {
    pub(crate) fn new(
        store: Store,
        newest: watch::Receiver<EventSeq>,
        after: EventSeq,
        filter: EventFilter,
    ) -> Self {
        Self { store, newest, filter, after, page: VecDeque::new() }
    }

    /// The next event; waits until there is one. Cancel safe.
    ///
    /// # Errors
    /// [`PlatformError::Stopping`] when the platform has stopped and all is read; a store that cannot be read.
    pub async fn next(&mut self) -> Result<Event, PlatformError> {
        loop {
            if let Some(event) = self.try_next().await? {
                return Ok(event);
            }
            let after = self.after;
            self.newest.wait_for(|newest| *newest > after).await.map_err(|_| PlatformError::Stopping)?;
        }
    }

    /// The next event that is there already, or `None`.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub async fn try_next(&mut self) -> Result<Option<Event>, PlatformError> {
        if self.page.is_empty() {
            let newest = *self.newest.borrow_and_update();
            if newest <= self.after {
                return Ok(None);
            }
            let filter = EventRowFilter { after: self.after, filter: self.filter.clone(), limit: PAGE };
            let events = self.store.read(move |connection| filter.load(connection)).await?;
            if events.len() < PAGE as usize {
                // Nothing up to `newest` is left: the next read starts there, not at the last match.
                self.page = events.into();
                if self.page.is_empty() {
                    self.after = self.after.max(newest);
                }
            } else {
                self.page = events.into();
            }
        }
        let Some(event) = self.page.pop_front() else { return Ok(None) };
        self.after = event.seq;
        Ok(Some(event))
    }

    /// The place of the last event given (or skipped as not matching).
    #[must_use]
    pub fn position(&self) -> EventSeq {
        self.after
    }
}
