//! The orchestrator driven through its public face; the agent is played over the wire.

mod agent;
mod batches;
mod changes;
mod deploys;
mod fleet;
mod instances;
mod locks;
mod output;
mod places;
mod recovery;
mod repositories;
mod secrets;
mod storage;

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::catalog::Service;
use crate::deployment::{DeployKind, Deployment, Outcome};
use crate::event::Event;
use crate::event::EventKind;
use crate::id::EventSeq;
use crate::secret::GitCredential;
use agent::PlayedAgent;

pub(super) fn name<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("a valid name")
}

pub(super) fn alice() -> Principal {
    Principal::person(name("alice"))
}

pub(super) fn service(text: &str) -> Service {
    serde_json::from_value(serde_json::json!({
        "name": text, "repo": format!("/srv/{text}.git"), "builder": { "type": "command", "run": ["./serve"] },
        "baseline": "http://127.0.0.1:1/",
    }))
    .expect("a service")
}

pub(super) struct Bench {
    pub(super) platform: Platform,
    pub(super) folder: tempfile::TempDir,
}

impl Bench {
    pub(super) async fn start() -> Self {
        Self::with(|_| ()).await
    }

    pub(super) async fn with(change: impl FnOnce(&mut PlatformConfig)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let platform = start_in(folder.path(), change).await;
        for text in ["hello", "ledger"] {
            platform.save_service(&alice(), service(text), Save::Create).await.expect("saved");
        }
        Self { platform, folder }
    }

    /// Another life of the server on the same data.
    pub(super) async fn restart(&mut self) {
        self.platform.stop().await;
        self.platform = start_in(self.folder.path(), |_| ()).await;
    }

    pub(super) async fn agent(&self, text: &str) -> PlayedAgent {
        PlayedAgent::connect(&self.platform, text).await
    }

    pub(super) async fn deploy(&self, service: &str, git_ref: &str) -> Deployment {
        self.deploy_to(service, git_ref, "alice").await
    }

    pub(super) async fn deploy_to(&self, service: &str, git_ref: &str, sandbox: &str) -> Deployment {
        let deploy = Deploy::new(name(service)).git_ref(name(git_ref)).to(name(sandbox));
        self.platform.deploy(&alice(), deploy).await.expect("taken")
    }

    pub(super) async fn ended(&self, deployment: &Deployment) -> Deployment {
        let ended =
            self.platform.wait_ended(deployment.id.into(), Duration::from_secs(20)).await.expect("waits");
        assert!(ended.is_ended(), "did not end: {ended:#?}");
        ended
    }

    /// Waits for an event that fits, from the beginning of time.
    pub(super) async fn event(&self, fits: impl Fn(&Event) -> bool) -> Event {
        let mut feed = self.platform.feed(EventSeq(0), EventFilter::default());
        let found = async {
            loop {
                let event = feed.next().await.expect("a feed");
                if fits(&event) {
                    return event;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), found).await.expect("the event comes")
    }

    /// The story of a deployment, one word an event.
    pub(super) async fn story(&self, deployment: &Deployment) -> String {
        let events = self.platform.events_of(deployment.id).await.expect("events");
        let words = events.iter().map(|event| {
            let value = serde_json::to_value(&event.kind).expect("JSON");
            let step = value.get("step").and_then(|step| step.as_str()).map(|step| format!("({step})"));
            format!("{}{}", value["type"].as_str().expect("a type"), step.unwrap_or_default())
        });
        words.collect::<Vec<_>>().join(" ")
    }
}

async fn start_in(folder: &Path, change: impl FnOnce(&mut PlatformConfig)) -> Platform {
    let mut config = PlatformConfig::new(folder);
    change(&mut config);
    Platform::start(config).await.expect("starts")
}

#[tokio::test]
async fn the_catalog_says_what_was_probably_meant() {
    let bench = Bench::start().await;
    let error = bench.platform.deploy(&alice(), Deploy::new(name("helo"))).await.expect_err("unknown");
    insta::assert_snapshot!(
        format!("{}: {error}; did you mean {:?}; {}", error.code(), error.did_you_mean(), error.hint()),
        @r#"unknown_service: there is no service named helo; did you mean Some("hello"); see the catalog for the services there are"#
    );
    let mut taken = service("other");
    taken.path_prefix = Some(name("/hello"));
    let error = bench.platform.save_service(&alice(), taken, Save::Put).await.expect_err("taken");
    assert_eq!(error.code(), "prefix_taken");
    let error =
        bench.platform.save_service(&alice(), service("hello"), Save::Create).await.expect_err("exists");
    assert_eq!(error.code(), "service_exists");
}

#[tokio::test]
async fn a_feed_goes_on_where_it_was() {
    let bench = Bench::start().await;
    let mut feed = bench.platform.feed(EventSeq(0), EventFilter::default());
    assert_eq!(feed.next().await.expect("an event").kind, EventKind::ServiceSaved { created: true });
    let mut later = bench.platform.feed(feed.position(), EventFilter::default());
    assert_eq!(later.next().await.expect("an event").about.service, Some(name("ledger")));
    assert_eq!(later.try_next().await.expect("reads"), None);
    let mut filtered = bench
        .platform
        .feed(EventSeq(0), EventFilter { sandbox: Some(name("alice")), ..EventFilter::default() });
    let waiting = filtered.next();
    bench.deploy("hello", "main").await;
    assert_eq!(waiting.await.expect("an event").kind, EventKind::SandboxCreated {});
    bench.platform.stop().await;
    while filtered.next().await.is_ok() {}
}
