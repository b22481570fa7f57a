//! A service's release command: once, before the start, with the instance's files and variables but in a folder of its own.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{ProcessRuntime, RELEASE, context_variable};
use crate::builder::with_basics;
use crate::exec::{self, ExecError, OnLine, Options, Program};
use crate::runtime::{LastLine, StartError, StartSpec, release_failed, release_timed_out};

impl ProcessRuntime {
    pub(super) async fn release(
        &self,
        spec: &StartSpec,
        argv: &[String],
        on_line: OnLine,
        stop: &CancellationToken,
        limit: Duration,
    ) -> Result<(), StartError> {
        if self.0.tasks.is_closed() {
            return Err(StartError::ShuttingDown);
        }
        let config = &self.0.config;
        // Not the instance's: that begins empty.
        let folder = config.data_dir.join(format!("{}{RELEASE}", spec.instance));
        let _scratch = Scratch { runtime: self, folder: &folder };
        let (shared, place, context) = (self.0.clone(), folder.clone(), spec.context.clone());
        let made = tokio::task::spawn_blocking(move || shared.make(&place, context.as_ref())).await;
        made.map_err(io::Error::other).and_then(|made| made).map_err(StartError::Folder)?;
        let mut env = config.base_env.clone();
        env.extend(spec.variables().map(|(name, value)| (name.into(), value.into())));
        let mut env = with_basics(&env, folder.join("home"), folder.join("tmp"));
        env.extend(context_variable(spec, &folder));
        let program = Program { argv: argv.iter().map(Into::into).collect(), cwd: spec.run.cwd.clone(), env };
        let options = Options {
            redactor: spec.redactor.clone(),
            grace: config.stop_grace,
            isolation: config.isolation.clone(),
            ..Options::default()
        };
        let (last, on_line) = LastLine::of(on_line);
        let ended = Box::pin(exec::run_with(program, options, on_line, stop, limit)).await;
        match ended {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(release_failed(argv, status.code(), &status.to_string(), &last)),
            Err(ExecError::Cancelled) => Err(StartError::Cancelled),
            Err(ExecError::TimedOut) => Err(release_timed_out(argv, limit)),
            Err(ExecError::NotFound { program }) => Err(StartError::ToolMissing { program }),
            Err(ExecError::Spawn(error)) => Err(StartError::Spawn(error)),
            Err(error @ ExecError::Unkillable { .. }) => Err(StartError::Spawn(io::Error::other(error))),
            // Out of memory, processes or disk.
            Err(error) => Err(release_failed(argv, None, &error.to_string(), &last)),
        }
    }
}

/// The folder of something that runs once; removed when that is over, or dropped half-way.
struct Scratch<'a> {
    runtime: &'a ProcessRuntime,
    folder: &'a Path,
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        self.runtime.remove_folder(self.folder.to_owned());
    }
}
