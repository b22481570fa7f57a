//! A service's release command: once, before the start, in a container like the instance's but without a port.
//!
//! As with a start, the work is a task of the runtime's own, which holds the instance's gate: whatever becomes of the caller, the
//! container is removed before anybody else does something with the instance. What an agent that was killed leaves behind goes
//! when the next one opens.

use std::time::Duration;

use bollard::container::LogOutput;
use bollard::query_parameters::AttachContainerOptionsBuilder;
use futures_util::StreamExt as _;
use sdp_core::wire::Stream;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::DockerRuntime;
use super::label::Kind;
use super::start::{Parts, failed, not_started};
use crate::exec::OnLine;
use crate::exec::lines::Lines;
use crate::runtime::{LastLine, StartError, StartSpec, release_failed, release_timed_out};

impl DockerRuntime {
    pub(super) async fn release(
        &self,
        spec: &StartSpec,
        argv: &[String],
        on_line: OnLine,
        stop: &CancellationToken,
        limit: Duration,
    ) -> Result<(), StartError> {
        let gate = self.gate(spec.instance).lock_owned().await;
        if self.0.tasks.is_closed() {
            return Err(StartError::ShuttingDown);
        }
        let (last, on_line) = LastLine::of(on_line);
        let dropped = self.0.closing.child_token();
        let _cancels = dropped.clone().drop_guard();
        let (hand_over, ran) = oneshot::channel();
        let (runtime, spec, command) = (self.clone(), spec.clone(), argv.to_vec());
        self.0.tasks.spawn(async move {
            runtime.0.making.lock().insert(spec.instance);
            let ran = Box::pin(runtime.run_once(&spec, &command, &on_line, &dropped)).await;
            runtime.0.making.lock().remove(&spec.instance);
            drop(gate);
            // Nobody may be there any more.
            drop(hand_over.send(ran));
        });
        let code = tokio::select! {
            ran = ran => ran.unwrap_or(Err(StartError::ShuttingDown))?,
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

    /// Runs it to its end, or until nobody waits for it any more; its exit code, if that is to be had. Its container is gone then.
    async fn run_once(
        &self,
        spec: &StartSpec,
        argv: &[String],
        on_line: &OnLine,
        dropped: &CancellationToken,
    ) -> Result<Option<i64>, StartError> {
        let parts = self.parts(spec).await?;
        if dropped.is_cancelled() {
            return Err(StartError::Cancelled);
        }
        // Not cut off: what the engine is at work on cannot be taken back.
        let container = self.create(&parts, spec, Kind::Release, argv, None).await?;
        let ran = tokio::select! {
            biased;
            () = dropped.cancelled() => Err(StartError::Cancelled),
            ran = self.attend(&parts, spec, &container, on_line) => ran,
        };
        self.remove_now(parts.engine, &container).await;
        ran
    }

    /// Starts the container, and listens until it has ended.
    async fn attend(
        &self,
        parts: &Parts<'_>,
        spec: &StartSpec,
        id: &str,
        on_line: &OnLine,
    ) -> Result<Option<i64>, StartError> {
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
        match waited.next().await {
            Some(Ok(ended)) => Ok(Some(ended.status_code)),
            // How the client says that it is not 0.
            Some(Err(bollard::errors::Error::DockerContainerWaitError { code, .. })) => Ok(Some(code)),
            Some(Err(error)) => Err(failed("wait for the release command", &error)),
            None => Ok(None),
        }
    }
}
