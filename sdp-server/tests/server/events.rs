//! The event feed as server-sent events.

use reqwest::Response;
use sdp_core::event::{Event, EventKind};

use crate::harness::{Host, refused};

struct Feed {
    answer: Response,
    text: String,
}

impl Feed {
    async fn open(request: reqwest::RequestBuilder) -> Self {
        let answer = request.send().await.expect("answered");
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self { answer, text: String::new() }
    }

    /// The next event with its `id` and `event`; none at the end of the stream.
    async fn next(&mut self) -> Option<(u64, String, Event)> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let field =
                    |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                let found = field("data: ").map(|data| {
                    let id = field("id: ").expect("an id").parse().expect("a number");
                    (id, field("event: ").expect("a kind"), serde_json::from_str(&data).expect("an event"))
                });
                self.text = rest.to_owned();
                if found.is_some() {
                    return found;
                }
                continue;
            }
            let chunk = self.answer.chunk().await.expect("readable")?;
            self.text += std::str::from_utf8(&chunk).expect("text");
        }
    }
}

#[tokio::test]
async fn a_feed_goes_on_where_it_was() {
    let host = Host::start().await;
    host.hello().await;
    let mut feed = Feed::open(host.get("/api/v1/events?after=0")).await;
    let (id, kind, event) = feed.next().await.expect("an event");
    assert_eq!((id, kind.as_str()), (1, "service_saved"));
    assert_eq!(event.kind, EventKind::ServiceSaved { created: true });
    let mut live = Feed::open(host.get("/api/v1/events")).await;
    host.deploy().await;
    let mut seen = Vec::new();
    while !matches!(seen.last(), Some((_, EventKind::DeploymentRequested { .. }))) {
        let (id, _, event) = feed.next().await.expect("an event");
        assert_eq!(event.seq.0, id);
        seen.push((id, event.kind));
    }
    let (first, ..) = live.next().await.expect("an event");
    assert_eq!(first, seen[0].0, "without `after`: from now on");
    drop(feed);
    let last = seen[0].0;
    let mut again = Feed::open(host.get("/api/v1/events?after=0").header("last-event-id", last)).await;
    assert_eq!(again.next().await.expect("an event").0, last + 1, "the header wins");
    host.stop().await;
}

#[tokio::test]
async fn a_feed_can_be_about_one_thing_and_ends_with_the_server() {
    let host = Host::start().await;
    host.hello().await;
    let first = host.deploy().await;
    let mut feed = Feed::open(host.get(&format!("/api/v1/events?after=0&deployment={}", first.number))).await;
    let mut other = Feed::open(host.get("/api/v1/events?after=0&sandbox=nobody")).await;
    let newer = host.deploy().await;
    let mut kinds = Vec::new();
    while kinds.last().is_none_or(|kind| kind != "deployment_ended") {
        let (_, kind, event) = feed.next().await.expect("an event");
        assert_eq!(event.about.deployment, Some(first.id));
        kinds.push(kind);
    }
    assert_eq!(kinds, ["deployment_requested", "deployment_ended"]);
    assert_ne!(first.id, newer.id);
    refused(host.get("/api/v1/events?deployment=77"), 404, "unknown_deployment").await;
    refused(host.get("/api/v1/events?deployment=x"), 422, "invalid_id").await;
    host.shut_down();
    assert!(feed.next().await.is_none());
    assert!(other.next().await.is_none());
    host.stop().await;
}
