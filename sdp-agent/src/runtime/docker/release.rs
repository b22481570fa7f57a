//! A service's release command: once, before the start, in a container like the instance's but without a port.
//!
//! As with a start, the container is removed whatever becomes of the caller: when the future is dropped, a task of the runtime's
//! own removes it; what an agent that was killed leaves behind goes when the next one opens.

use std::time::Duration;

use bollard::container::LogOutput;
use bollard::query_parameters::AttachContainerOptionsBuilder;
use futures_util::StreamExt as _;
use sdp_core::wire::Stream;
use tokio_util::sync::CancellationToken;

use super::DockerRuntime;
use super::engine::Engine;
use super::label::Kind;
use super::start::{failed, not_started};
use crate::exec::OnLine;
use crate::exec::lines::Lines;
use crate::runtime::{LastLine, StartError, StartSpec, release_failed, release_timed_out};

/// Removes a container when it is dropped.
struct Removed<'a> {
    runtime: &'a DockerRuntime,
    container: String,
}

impl Removed<'_> {
    /// At once, so that the next one may have its name.
    async fn now(mut self, engine: &Engine) {
        let container = std::mem::take(&mut self.container);
        self.runtime.remove_now(engine, &container).await;
    }
}

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        if self.container.is_empty() {
            return;
        }
        let (runtime, container) = (self.runtime.clone(), std::mem::take(&mut self.container));
        self.runtime.0.tasks.spawn(async move {
            if let Ok(engine) = runtime.engine() {
                runtime.remove_now(engine, &container).await;
            }
        });
    }
}

impl DockerRuntime {
    pub(super) async fn release(
        &self,
        spec: &StartSpec,
        argv: &[String],
        on_line: OnLine,
        stop: &CancellationToken,
        limit: Duration,
    ) -> Result<(), StartError> {
        let gate = self.gate(spec.instance);
        let _one_by_one = gate.lock().await;
        if self.0.tasks.is_closed() {
            return Err(StartError::ShuttingDown);
        }
        let (last, on_line) = LastLine::of(on_line);
        let ran = Box::pin(self.run_once(spec, argv, &on_line));
        let code = tokio::select! {
            ran = ran => ran?,
            () = stop.cancelled() => return Err(StartError::Cancelled),
            () = self.0.closing.cancelled() => return Err(StartError::ShuttingDown),
            () = tokio::time::sleep(limit) => return Err(release_timed_out(argv, limit)),
        };
        match code {
            Some(0) => Ok(()),
            Some(code) => {
                let code = i32::try_from(code).ok();
                let how = code.map_or("unknown exit status".to_owned(), |code| format!("exit status {code}"));
                Err(release_failed(argv, code, &how, &last))
            }
            None => Err(release_failed(argv, None, "its container was removed while it ran", &last)),
        }
    }

    /// Runs it to its end; its exit code, if that is to be had.
    async fn run_once(
        &self,
        spec: &StartSpec,
        argv: &[String],
        on_line: &OnLine,
    ) -> Result<Option<i64>, StartError> {
        let parts = self.parts(spec).await?;
        let container = self.create(&parts, spec, Kind::Release, argv, None).await?;
        let removed = Removed { runtime: self, container };
        let id = removed.container.as_str();
        let api = parts.engine.api();
        // Before it runs, so that its first words are heard.
        let options = AttachContainerOptionsBuilder::new().stdout(true).stderr(true).stream(true).build();
        let attached = api.attach_container(id, Some(options)).await;
        let mut frames = attached.map_err(|error| failed("listen to the release command", &error))?.output;
        api.start_container(id, None).await.map_err(|error| not_started(&error, spec, parts.plan))?;
        let mut out = Lines::new(Stream::Stdout, &spec.redactor, on_line);
        let mut err = Lines::new(Stream::Stderr, &spec.redactor, on_line);
        while let Some(frame) = frames.next().await {
            match frame.map_err(|error| failed("listen to the release command", &error))? {
                LogOutput::StdErr { message } => err.push(&message),
                other => out.push(other.as_ref()),
            }
        }
        out.finish();
        err.finish();
        let mut waited = std::pin::pin!(api.wait_container(id, None));
        let code = match waited.next().await {
            Some(Ok(ended)) => Some(ended.status_code),
            // How the client says that it is not 0.
            Some(Err(bollard::errors::Error::DockerContainerWaitError { code, .. })) => Some(code),
            Some(Err(error)) => return Err(failed("wait for the release command", &error)),
            None => None,
        };
        removed.now(parts.engine).await;
        Ok(code)
    }
}
