//! What containers print, what the release command says, and what the runtime says of the engine.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use sdp_core::wire::{Health, InstanceStatus, OutputLine, Stream};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::fixture::{Fixture, LONG};
use crate::exec::OnLine;
use crate::runtime::docker::DockerRuntime;
use crate::runtime::{Printed, Runtime as _, StartError, StartSpec};
use crate::sync::Lock;

impl Fixture {
    /// Waits until an instance prints this line; all that it has printed then.
    pub(super) async fn printed(&self, instance: sdp_core::id::InstanceId, text: &str) -> Vec<String> {
        let mut lines = self.runtime.follow(instance, 1000).unwrap();
        let mut all = Vec::new();
        let wait = async {
            while !all.iter().any(|line| line == text) {
                let Some(printed) = lines.next().await else { break };
                all.extend(printed.lines.into_iter().map(|line| line.text));
            }
        };
        tokio::time::timeout(LONG, wait).await.unwrap();
        assert_eq!(all.last().map(String::as_str), Some(text), "{all:?}");
        all
    }

    async fn release(
        &self,
        spec: &StartSpec,
        script: &str,
        stop: &CancellationToken,
    ) -> (Result<(), StartError>, Vec<String>) {
        let lines: Arc<Lock<Vec<String>>> = Arc::default();
        let on_line: OnLine = {
            let lines = lines.clone();
            Arc::new(move |stream, line| {
                let mark = if stream == Stream::Stderr { "!" } else { "" };
                lines.lock().push(format!("{mark}{}", String::from_utf8_lossy(line)));
            })
        };
        let argv = ["sh", "-c", script].map(str::to_owned);
        let result = self.runtime.release(spec, &argv, on_line, stop, LONG).await;
        let lines = lines.lock().clone();
        (result, lines)
    }
}

#[tokio::test]
#[ignore = "needs Docker and the base images; scripts/test runs it"]
async fn a_follower_hears_everything_once_across_restarts_and_ends_with_the_instance() {
    let fixture = Fixture::new().await;
    let script =
        "i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done; echo bad >&2; sleep 0.2; exit 1";
    let (instance, _) = fixture.start(fixture.shell(script)).await;
    let lines = fixture.runtime.follow(instance, 100_000).unwrap();
    let lines: Vec<_> = tokio::time::timeout(LONG, gather(lines)).await.unwrap();
    let out: Vec<_> =
        lines.iter().filter(|line| line.stream == Stream::Stdout).map(|line| line.text.clone()).collect();
    let expected: Vec<_> = (0..4).flat_map(|_| (0..500).map(|i| format!("line {i}"))).collect();
    assert_eq!(out, expected);
    assert_eq!(lines.iter().filter(|line| line.stream == Stream::Stderr).count(), 4);
    assert!(lines.iter().all(|line| line.at.as_second() > 1_000_000_000));
    let late = fixture.runtime.follow(instance, 2).unwrap();
    assert_eq!(tokio::time::timeout(LONG, gather(late)).await.unwrap().len(), 2);
    assert!(fixture.runtime.follow(sdp_core::id::InstanceId::new(), 2).is_none());
}

#[tokio::test]
#[ignore = "needs Docker and the base images; scripts/test runs it"]
async fn long_lines_are_whole_and_secrets_are_not_seen() {
    let fixture = Fixture::new().await;
    let mut spec = fixture.shell(
        "head -c 40000 /dev/zero | tr '\\0' x; echo; echo token=hunter2-hunter2; echo end; sleep 1000",
    );
    spec.redactor = crate::redact::Redactor::new(["hunter2-hunter2"]);
    let (instance, _) = fixture.start(spec).await;
    let lines = fixture.printed(instance, "end").await;
    assert_eq!((lines[0].len(), lines[1].as_str()), (40_000, "token=[redacted]"));
    let last = fixture.runtime.output(instance, 10).await.unwrap();
    assert_eq!((last[0].len(), last[1].as_str(), last.len()), (40_000, "token=[redacted]", 3));
}

#[tokio::test]
#[ignore = "needs Docker and the base images; scripts/test runs it"]
async fn a_release_command_runs_once_with_the_instances_files_and_says_why_it_fails() {
    let fixture = Fixture::new().await;
    let mut spec = fixture.shell("cat storage/made; echo end; sleep 1000");
    spec.writable = ["storage".parse().unwrap()].into();
    spec.env.insert("GREETING".into(), "hello".into());
    let never = CancellationToken::new();
    let script = "cat hello.txt; sleep 0.3; echo $GREETING >&2; echo migrated > storage/made";
    let (result, lines) = fixture.release(&spec, script, &never).await;
    result.unwrap();
    assert_eq!(lines, ["hello from the tree", "!hello"]);
    let (result, _) = fixture.release(&spec, "echo no such table; exit 5", &never).await;
    let Err(StartError::Failed(failure)) = result else { panic!("{result:?}") };
    assert_eq!(failure.exit_code, Some(5));
    insta::assert_snapshot!(format!("{}: {}", failure.reason, failure.detail), @"the service's release command failed; what ran before goes on: sh: exit status 5: no such table");
    let (instance, _) = fixture.start(spec.clone()).await;
    assert_eq!(fixture.printed(instance, "end").await, ["migrated", "end"]);

    let other = StartSpec { instance: sdp_core::id::InstanceId::new(), ..spec };
    let stop = CancellationToken::new();
    let cancelled = fixture.release(&other, "echo up; sleep 1000", &stop);
    let cancel = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        stop.cancel();
    };
    let ((result, _), ()) = tokio::join!(cancelled, cancel);
    assert!(matches!(result, Err(StartError::Cancelled)), "{result:?}");
    fixture.runtime.shut_down().await;
    assert_eq!(fixture.containers().len(), 1, "only the instance is left");
}

#[tokio::test]
#[ignore = "needs Docker and the base images; scripts/test runs it"]
async fn an_engine_that_goes_away_is_said_and_nothing_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let wire = Wire::new(socket.clone());
    wire.mend();
    let fixture = Fixture::with(|config| config.engine.socket.clone_from(&socket)).await;
    assert_eq!(fixture.runtime.degraded(), None);
    let (instance, address) = fixture.start(fixture.httpd()).await;
    let (doomed, _) = fixture.start(fixture.httpd()).await;
    wire.cut().await;
    until(&fixture.runtime, |runtime| runtime.degraded().is_some()).await;
    let running =
        InstanceStatus::Running { address, restarts: 0, last_restart: None, health: Health::Checking {} };
    assert_eq!(fixture.status(instance), Some(running.clone()), "as it was");
    assert_eq!(fixture.runtime.builds_in_use(), None);
    let StartError::Failed(failure) = fixture.runtime.start(fixture.httpd()).await.unwrap_err() else {
        panic!()
    };
    assert_eq!(failure.reason.code(), "engine_unavailable");
    assert!(!fixture.runtime.preflight().await[0].ok);
    // Asked to go while nobody can be reached: it goes when somebody can.
    fixture.runtime.forget(doomed);
    wire.mend();
    until(&fixture.runtime, |runtime| runtime.degraded().is_none()).await;
    fixture.until(doomed, |status| status.is_none()).await;
    assert_eq!(fixture.status(instance), Some(running));
    assert_eq!(fixture.containers().len(), 1);
    let preflight = fixture.runtime.preflight().await;
    assert!(preflight.iter().any(|item| item.check == "image alpine:3.20" && item.ok), "{preflight:?}");
    wire.cut().await;
}

#[tokio::test]
#[ignore = "needs Docker and the base images; scripts/test runs it"]
async fn an_agent_may_start_before_its_engine() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let fixture = Fixture::with(|config| config.engine.socket.clone_from(&socket)).await;
    let why = fixture.runtime.degraded().unwrap();
    assert!(why.contains("there is no socket at"), "{why}");
    let wire = Wire::new(socket);
    wire.mend();
    until(&fixture.runtime, |runtime| runtime.degraded().is_none()).await;
    wire.cut().await;
}

async fn gather(followed: BoxStream<'static, Printed>) -> Vec<OutputLine> {
    followed.flat_map(|printed| futures_util::stream::iter(printed.lines)).collect().await
}

async fn until(runtime: &DockerRuntime, so: impl Fn(&DockerRuntime) -> bool) {
    let mut seen = 0;
    let wait = async {
        while !so(runtime) {
            runtime.next_change(&mut seen).await;
        }
    };
    tokio::time::timeout(LONG, wait).await.unwrap();
}

/// A socket before the engine's, which can be cut.
struct Wire {
    path: std::path::PathBuf,
    tasks: TaskTracker,
    cut: Lock<CancellationToken>,
}

impl Wire {
    fn new(path: std::path::PathBuf) -> Self {
        Self { path, tasks: TaskTracker::new(), cut: Lock::default() }
    }

    fn mend(&self) {
        let listener = UnixListener::bind(&self.path).unwrap();
        let cut = CancellationToken::new();
        *self.cut.lock() = cut.clone();
        let tasks = self.tasks.clone();
        self.tasks.spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = cut.cancelled() => return,
                };
                let (mut near, _) = accepted.unwrap();
                let cut = cut.clone();
                tasks.spawn(async move {
                    let mut far = UnixStream::connect("/var/run/docker.sock").await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        () = cut.cancelled() => {}
                    }
                });
            }
        });
    }

    async fn cut(&self) {
        self.cut.lock().cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
        std::fs::remove_file(&self.path).unwrap();
    }
}
