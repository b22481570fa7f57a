//! Lives of a server and of agents, each in a tokio runtime of its own, so that it can be killed: its tasks are dropped where they
//! are, and nothing is awaited, stopped or said.
//!
//! What a killed life had handed to another thread (a commit, a write to a file) is let finish before the next one
//! begins: it was killed that much later. A power cut is not modelled.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sdp_agent::AgentError;
use sdp_agent::router::RouterConfig;
use sdp_core::platform::{Platform, PlatformConfig};
use sdp_core::wire::StepLimits;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;
use crate::link::Link;

/// How long what a life has begun may take to end.
const END_WITHIN: Duration = Duration::from_secs(30);

/// The threads bear the story's number, so that a panic of one is known to be its own.
fn runtime(story: u64) -> Owned {
    let name = thread_name(story);
    let runtime = Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build();
    Owned(Some(runtime.expect("a runtime")))
}

/// A runtime that may be dropped anywhere, as happens when a story fails.
struct Owned(Option<Runtime>);

impl Owned {
    fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.0.as_ref().expect("it is not shut down").spawn(task)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

pub(crate) fn thread_name(story: u64) -> String {
    format!("story-{story}")
}

/// Drops all tasks; returns when the threads have ended.
async fn shut_down(mut runtime: Owned) {
    if let Some(runtime) = runtime.0.take() {
        let ended = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(END_WITHIN)).await;
        ended.expect("a runtime shuts down");
    }
}

/// A life of the server.
pub(crate) struct Server {
    runtime: Owned,
    pub(crate) platform: Platform,
    folder: PathBuf,
}

impl Server {
    pub(crate) async fn start(story: u64, folder: &Path) -> Self {
        let runtime = runtime(story);
        let started = runtime.spawn(Platform::start(limits(folder))).await;
        let platform = started.expect("no panic").expect("the platform starts");
        Self { runtime, platform, folder: folder.to_owned() }
    }

    pub(crate) async fn kill(self) {
        let Self { runtime, platform, folder } = self;
        drop(platform);
        shut_down(runtime).await;
        closed(&folder).await;
    }

    pub(crate) async fn stop(self) {
        timeout(END_WITHIN, self.platform.stop()).await.expect("the platform stops in time");
        self.kill().await;
    }
}

/// Each wait so short that a history reaches it.
fn limits(folder: &Path) -> PlatformConfig {
    let ms = Duration::from_millis;
    let mut config = PlatformConfig::new(folder);
    config.steps = StepLimits { fetch: 5, build: 2, start: 5, check: 1 };
    config.no_agent_after = ms(1000);
    config.queue_limit = ms(10_000);
    config.accept_limit = ms(500);
    config.switch_limit = ms(700);
    config.cancel_limit = ms(1000);
    config.ask_again = ms(100);
    config.step_grace = ms(500);
    config.drain_limit = ms(200);
    config.dial_again = ms(300);
    config.lost_after = ms(700);
    config
}

/// Returns when no file beneath the folder is open: the store's thread has ended.
async fn closed(folder: &Path) {
    let is_open = || {
        let files = std::fs::read_dir("/proc/self/fd").expect("/proc").flatten();
        files.filter_map(|file| std::fs::read_link(file.path()).ok()).any(|file| file.starts_with(folder))
    };
    let closing = async {
        while is_open() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(END_WITHIN, closing).await.expect("files are closed");
}

/// Returns when an agent may begin in this folder. A program that another story starts has, until it is executed, this
/// process's files, a lock among them.
async fn unlocked(folder: &Path) {
    let is_locked = || File::open(folder.join("lock")).is_ok_and(|lock| lock.try_lock().is_err());
    let unlocking = async {
        while is_locked() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(END_WITHIN, unlocking).await.expect("the folder is unlocked");
}

/// A life of an agent.
pub(crate) struct Agent {
    runtime: Owned,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), AgentError>>,
    folder: PathBuf,
}

impl Agent {
    pub(crate) fn start(
        story: u64,
        folder: &Path,
        repositories: &Path,
        router: bool,
        engine: Arc<Engine>,
        link: &Arc<Link>,
    ) -> Self {
        let mut config = sdp_agent::Config::new(folder);
        config.git.local_paths = vec![repositories.to_owned()];
        config.capacity = 2;
        config.min_free = 0;
        config.router = router.then(|| RouterConfig::new(([127, 0, 0, 1], 0).into()));
        let (runtime, shutdown) = (runtime(story), CancellationToken::new());
        let task = runtime.spawn(sdp_agent::run_on(engine, config, link.connector(), shutdown.clone()));
        Self { runtime, shutdown, task, folder: folder.to_owned() }
    }

    /// Drops it where it is.
    ///
    /// # Errors
    /// When it had ended by itself.
    pub(crate) async fn kill(self) -> Result<(), String> {
        if self.task.is_finished() {
            let ended = self.task.await;
            shut_down(self.runtime).await;
            return Err(format!("an agent ended by itself: {ended:?}"));
        }
        shut_down(self.runtime).await;
        unlocked(&self.folder).await;
        Ok(())
    }

    /// # Errors
    /// When it does not end in time, or as it should.
    pub(crate) async fn stop(self) -> Result<(), String> {
        self.shutdown.cancel();
        let ended = timeout(END_WITHIN, self.task).await;
        shut_down(self.runtime).await;
        unlocked(&self.folder).await;
        match ended {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(ended) => Err(format!("an agent ended as {ended:?}")),
            Err(_) => Err("an agent did not stop in time".to_owned()),
        }
    }
}
