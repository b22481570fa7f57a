//! The steps of a job, one after the other.

mod go_on;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sdp_core::catalog::Builder;
use sdp_core::deployment::Step;
use sdp_core::failure::{Failure, FailureReason};
use sdp_core::name::CommitId;
use sdp_core::secret::Secret;
use sdp_core::wire::{JobSpec, Progress, Stream};
use tokio::time::Instant;

use super::{Begin, Halt, Order, Resumed, Stop, Undo};
use crate::builder::{self, BuildContext, LastLines, PlannedFile, RunPlan, Survey, Target, explain};
use crate::exec::{self, ExecError, Program};
use crate::git::GitOp;
use crate::redact::Redactor;
use crate::runtime::{CheckError, Context, StartError, StartSpec};
use crate::secrets::{Secrets, redactor};
use crate::spool::JobLog;
use crate::sync::Lock;
use crate::tools::Tools;
use crate::workspace::{self, KeptBuild, spec_hash};

/// So many lines of a service that does not become healthy go into the log.
const LAST_LINES: usize = 50;
const NO_ROOM: &str = "there is no room left in the agent's folder";

/// Work in progress.
pub(super) struct Steps<'a> {
    order: Order,
    tools: &'a Tools,
    log: &'a JobLog,
    stop: &'a Stop,
    undo: &'a mut Undo,
    /// What may not be seen, beside the service's secrets.
    hidden: Vec<Secret>,
    secrets: Secrets,
    /// Takes out all of them.
    redactor: Redactor,
}

impl<'a> Steps<'a> {
    pub(super) fn new(
        order: Order,
        tools: &'a Tools,
        log: &'a JobLog,
        stop: &'a Stop,
        undo: &'a mut Undo,
    ) -> Self {
        // The build never gets the credential; should it find its way there all the same, it is not printed.
        let mut hidden = tools.build.secrets();
        if let Some(login) = &order.credential {
            let password = login.password.expose();
            hidden.push(Secret::new(format!("{}:{password}", login.username)));
            hidden.push(login.password.clone());
        }
        let redactor = redactor(&hidden);
        Self { order, tools, log, stop, undo, hidden, secrets: Secrets::default(), redactor }
    }

    /// Before anything that could need or print them.
    async fn take_secrets(&mut self) -> Result<(), Halt> {
        let variables = std::mem::take(&mut self.order.secrets);
        if variables.is_empty() {
            return Ok(());
        }
        let hidden = self.hidden.clone();
        let taken = self
            .tools
            .take_secrets(variables, move |secrets| redactor(hidden.iter().chain(secrets.values())));
        let step = self.undo.step;
        match taken.await {
            Ok(Ok(taken)) => (self.secrets, self.redactor) = taken,
            Ok(Err(detail)) => return Err(Failure::new(step, FailureReason::SecretMissing, detail).into()),
            Err(_) => {
                let detail = "the agent has a fault; see its log";
                return Err(Failure::new(step, FailureReason::Internal, detail).into());
            }
        }
        Ok(())
    }

    pub(super) async fn run(mut self, begin: Begin) -> Result<(), Halt> {
        match begin {
            Begin::Anew => {}
            Begin::Again => self.note("the agent was restarted; it begins again"),
            Begin::At(resumed) => return Box::pin(self.go_on(*resumed)).await,
            Begin::Over(halt) => {
                if let Halt::Failed(failure) = &halt {
                    self.undo.step = failure.step;
                }
                (self.undo.instance, self.undo.workspace) = (true, true);
                return Err(halt);
            }
        }
        self.take_secrets().await?;
        let fetch_until = Instant::now() + seconds(self.order.spec.step_limits.fetch);
        let commit = match self.order.spec.commit.clone() {
            Some(commit) => commit,
            None => self.resolve(fetch_until).await?,
        };
        let plan = match self.reuse(&commit).await? {
            Some(plan) => plan,
            None => {
                let tree = Box::pin(self.fetch(&commit, fetch_until)).await?;
                Box::pin(self.build(&commit, &tree)).await?
            }
        };
        self.start(&commit, plan).await?;
        self.check().await
    }

    /// Says something in the log and to those who follow the deployment.
    fn note(&self, text: &str) {
        self.say(text);
        self.log.progress(Progress::Noted { text: text.to_owned() });
    }

    async fn resolve(&mut self, until: Instant) -> Result<CommitId, Halt> {
        self.begin(Step::Resolve)?;
        let spec = &self.order.spec;
        self.say(&format!("looking for {} in {}", spec.git_ref, spec.repo));
        let operation = self.git_operation(until)?;
        let credential = self.order.credential.as_ref();
        let commit = self.tools.git.resolve(&spec.repo, &spec.git_ref, credential, &operation).await;
        let commit = self.settle(Step::Resolve, commit)?;
        self.say(&format!("{} is at commit {}", spec.git_ref, commit.short()));
        self.log.progress(Progress::Resolved { commit: commit.clone() });
        Ok(commit)
    }

    /// How to run a kept build of the commit, if one was asked for and is still there.
    async fn reuse(&mut self, commit: &CommitId) -> Result<Option<RunPlan>, Halt> {
        let spec = &self.order.spec;
        if !spec.reuse_build {
            return Ok(None);
        }
        let hash = self.spec_hash();
        let kept = self.tools.find_kept(&spec.service, commit, &hash, spec.instance).await;
        self.log.progress(Progress::BuildReused { reused: kept.is_some() });
        if let Some(kept) = kept {
            self.order.credential = None;
            return Ok(Some(kept.run));
        }
        let text = format!("the kept build of {} was gone; it is built again at that commit", commit.short());
        self.log.progress(Progress::Noted { text });
        Ok(None)
    }

    async fn fetch(&mut self, commit: &CommitId, until: Instant) -> Result<PathBuf, Halt> {
        self.begin(Step::Fetch)?;
        let spec = &self.order.spec;
        let operation = self.git_operation(until)?;
        let git = &self.tools.git;
        // From the fetch to the checkout, whatever is swept meanwhile.
        let _mirror = git.hold(&spec.repo).await;
        if git.has_commit(&spec.repo, commit).await {
            self.say(&format!("commit {} is here already", commit.short()));
        } else {
            self.say(&format!("fetching {} of {}", spec.git_ref, spec.repo));
        }
        let credential = self.order.credential.as_ref();
        let info = git.fetch(&spec.repo, &spec.git_ref, commit, credential, &operation).await;
        let info = self.settle(Step::Fetch, info)?;
        let changes = match &spec.since {
            Some(since) => git.changes(&spec.repo, since, commit, &operation).await,
            None => None,
        };
        self.log.progress(Progress::Fetched { info, changes });
        // Nothing after this needs it.
        self.order.credential = None;
        self.undo.workspace = true;
        let folder = self.tools.create_workspace(self.order.deployment, spec.instance).await;
        let tree = self.settle_io(Step::Fetch, folder)?.join("source");
        let checkout = git.checkout(&spec.repo, commit, &tree, &operation).await;
        let checkout = self.settle(Step::Fetch, checkout)?;
        self.settle_io(Step::Fetch, self.tools.hand_over(&tree).await)?;
        self.say(&format!("{} files", checkout.files));
        if checkout.has_submodules {
            self.say("the commit has submodules; they are left out");
        }
        if checkout.has_lfs {
            self.say("the commit keeps files in Git LFS; they are left as pointers");
        }
        Ok(tree)
    }

    async fn build(&mut self, commit: &CommitId, tree: &Path) -> Result<RunPlan, Halt> {
        self.begin(Step::Build)?;
        let spec = &self.order.spec;
        let until = Instant::now() + seconds(spec.step_limits.build);
        let target = self.target();
        let workspace = tree.parent().unwrap_or(tree).to_owned();
        let mut base_env = self.base_env(&workspace).await?;
        // Over the operator's, under what the builder itself sets.
        base_env.extend(self.secrets.of_builds().map(|(name, value)| (name.into(), value.expose().into())));
        let path = base_env.get(OsStr::new("PATH")).cloned().unwrap_or_default();
        let survey = self.survey(tree, &path).await?;
        let context = BuildContext {
            target,
            tree: tree.to_owned(),
            source: survey.source.clone(),
            output: workspace.join("output"),
            caches: self.tools.caches.clone(),
            base_env,
            composer_config: self.tools.build.composer_config.clone(),
            image: spec.image.clone(),
            limits: spec.limits,
            facts: survey.facts.clone(),
        };
        self.settle_io(Step::Build, tokio::fs::create_dir_all(&context.caches).await)?;
        let plan = self.settle(Step::Build, builder::plan(&spec.builder, &context))?;
        for note in &plan.notes {
            self.say(note);
        }
        let _caches = self.tools.use_caches().await;
        if plan.build.is_empty() {
            self.say("nothing to build");
        }
        let secrets: Vec<_> =
            plan.before.iter().filter(|file| file.secret).map(|file| file.path.clone()).collect();
        let written = self.tools.write_files(plan.before).await;
        self.settle_io(Step::Build, written)?;
        for program in plan.build {
            self.build_command(program, until).await?;
        }
        for path in secrets {
            // What is gone already is as well; the folder is nobody else's in any case.
            drop(tokio::task::spawn_blocking(move || workspace::remove_file(&path)).await);
        }
        // Asked again: the build ran programs of the repository, which may have put a link in a folder's place.
        let still = self.survey(tree, &path).await?;
        if (&still.source, &still.facts.document_root) != (&survey.source, &survey.facts.document_root) {
            let detail = "the build has put another folder in the place of the service's";
            return Err(Halt::failed(Step::Build, FailureReason::UnsafeTree, detail));
        }
        let left = self.tools.check_output(&context.output, plan.makes.as_deref()).await;
        let left = self.settle_io(Step::Build, left)?;
        self.settle(Step::Build, left)?;
        let written = self.tools.write_files(plan.after).await;
        self.settle_io(Step::Build, written)?;
        let kept = KeptBuild {
            service: spec.service.clone(),
            sandbox: spec.sandbox.clone(),
            commit: commit.clone(),
            spec_hash: self.spec_hash(),
            run: plan.run.clone(),
            kept_at: Timestamp::now(),
        };
        let kept = self.tools.keep(self.order.deployment, kept).await;
        self.settle_io(Step::Build, kept)?;
        Ok(plan.run)
    }

    async fn survey(&self, tree: &Path, path: &OsStr) -> Result<Survey, Halt> {
        let spec = &self.order.spec;
        let survey = self.tools.survey(&spec.builder, tree, &spec.subdir, path).await;
        let survey = self.settle_io(Step::Build, survey)?;
        self.settle(Step::Build, survey)
    }

    fn target(&self) -> Target {
        Target::of_runtime(self.tools.runtime.kind())
    }

    fn spec_hash(&self) -> String {
        spec_hash_of(self.tools, &self.order.spec)
    }

    async fn build_command(&self, program: Program, until: Instant) -> Result<(), Halt> {
        let name = program.argv.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
        let words: Vec<_> = program.argv.iter().map(|word| word.to_string_lossy()).collect();
        self.say(&words.join(" "));
        let log = self.log.clone();
        let last_lines = Arc::new(Lock::new(LastLines::default()));
        let on_line = {
            let last_lines = last_lines.clone();
            Arc::new(move |stream: Stream, line: &[u8]| {
                let number = log.line(Step::Build, stream, line);
                last_lines.lock().push(number, line);
            })
        };
        let mirror = self.mirror(&program);
        let options = exec::Options {
            redactor: self.redactor.clone(),
            isolation: self.tools.isolation.clone(),
            reserve: self.tools.reserve(),
            ..exec::Options::default()
        };
        let limit = until.saturating_duration_since(Instant::now());
        let ended = Box::pin(exec::run_with(program, options, on_line, self.stop.token(), limit)).await;
        let halt = |reason, detail: String| Err(Halt::failed(Step::Build, reason, detail));
        match ended {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => {
                let mut failure =
                    Failure::new(Step::Build, FailureReason::BuildFailed, format!("{name}: {status}"));
                if let Some(known) = explain(&self.order.spec.builder, &last_lines.lock(), mirror.as_deref())
                {
                    failure.reason = known.reason;
                    failure.detail = self.redactor.text(&known.detail).into_owned();
                    failure.line = known.line;
                }
                failure.exit_code = status.code();
                Err(failure.into())
            }
            Err(ExecError::Cancelled) => Err(Halt::Stopped),
            Err(ExecError::TimedOut) => halt(
                FailureReason::Timeout,
                format!("the build took longer than {} s", self.order.spec.step_limits.build),
            ),
            Err(ExecError::NotFound { program }) => {
                halt(FailureReason::ToolMissing, format!("{program} is not on this agent"))
            }
            Err(error @ ExecError::OutOfDisk { .. }) => {
                halt(FailureReason::DiskFull, format!("{name}: {error}"))
            }
            Err(error) => {
                let detail = match std::error::Error::source(&error) {
                    Some(source) => format!("{name}: {error}: {source}"),
                    None => format!("{name}: {error}"),
                };
                halt(FailureReason::BuildFailed, detail)
            }
        }
    }

    async fn start(&mut self, commit: &CommitId, run: RunPlan) -> Result<(), Halt> {
        self.begin(Step::Start)?;
        self.say(&run.argv.join(" "));
        let start = self.start_spec(commit, run).await;
        self.undo.instance = true;
        let until = Instant::now() + seconds(self.order.spec.step_limits.start);
        self.release(&start, until).await?;
        let address = self.launch(start, until).await?;
        self.log.progress(Progress::Started { address });
        Ok(())
    }

    async fn start_spec(&self, commit: &CommitId, run: RunPlan) -> StartSpec {
        let spec = &self.order.spec;
        let mut env: BTreeMap<String, String> =
            spec.env.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
        let ours = [
            ("SDP_SERVICE", spec.service.to_string()),
            ("SDP_SANDBOX", spec.sandbox.to_string()),
            ("SDP_COMMIT", commit.to_string()),
            ("SDP_REF", spec.git_ref.to_string()),
            ("SDP_DEPLOYMENT", spec.number.to_string()),
        ];
        env.extend(ours.map(|(name, value)| (name.to_owned(), value)));
        env.extend(spec.place.iter().flat_map(|place| place.variables(&spec.sandbox)));
        StartSpec {
            instance: spec.instance,
            deployment: self.order.deployment,
            number: spec.number,
            attempt: self.order.attempt,
            build: self.tools.build_of(spec.instance).await.unwrap_or(self.order.deployment),
            service: spec.service.clone(),
            sandbox: spec.sandbox.clone(),
            run,
            env,
            secrets: self.secrets.of_the_service(),
            port: spec.port,
            limits: spec.limits,
            writable: spec.writable.clone(),
            context: Context::of(spec, commit),
            health: spec.health.clone(),
            check_limit: seconds(spec.step_limits.check),
            redactor: self.redactor.clone(),
        }
    }

    async fn launch(&self, start: StartSpec, until: Instant) -> Result<SocketAddr, Halt> {
        let spec = &self.order.spec;
        let started = tokio::select! {
            started = tokio::time::timeout_at(until, self.tools.runtime.start(start)) => started,
            () = self.stop.token().cancelled() => return Err(Halt::Stopped),
        };
        match started {
            Ok(Ok(address)) => Ok(address),
            Ok(Err(error)) => Err(self.not_started(error)),
            Err(_) => {
                let detail = format!("the start took longer than {} s", spec.step_limits.start);
                Err(Halt::failed(Step::Start, FailureReason::Timeout, detail))
            }
        }
    }

    /// Runs the service's release command, if it has one.
    async fn release(&self, start: &StartSpec, until: Instant) -> Result<(), Halt> {
        let Some(argv) = &self.order.spec.release else { return Ok(()) };
        // Not twice unasked, even after a power cut.
        let log = self.log.clone();
        let synced = tokio::task::spawn_blocking(move || log.sync_progress()).await;
        self.settle_io(Step::Start, synced.unwrap_or_else(|error| Err(io::Error::other(error))))?;
        self.say(&format!("release: {}", argv.join(" ")));
        let log = self.log.clone();
        let on_line = Arc::new(move |stream: Stream, line: &[u8]| {
            log.line(Step::Start, stream, line);
        });
        let limit = until.saturating_duration_since(Instant::now());
        let released = self.tools.runtime.release(start, argv, on_line, self.stop.token(), limit).await;
        released.map_err(|error| self.not_started(error))
    }

    async fn check(&mut self) -> Result<(), Halt> {
        self.begin(Step::Check)?;
        self.until_healthy().await
    }

    async fn until_healthy(&self) -> Result<(), Halt> {
        let spec = &self.order.spec;
        let limit = seconds(spec.step_limits.check);
        let runtime = &self.tools.runtime;
        let checked = Box::pin(runtime.check(spec.instance, &spec.health, limit, self.stop.token())).await;
        match checked {
            Ok(took) => {
                self.say(&format!("healthy after {} ms", took.as_millis()));
                // Between here and the end it must not be cancelled any more, or somebody would be told both.
                if self.stop.is_set() { Err(Halt::Stopped) } else { Ok(()) }
            }
            Err(CheckError::Cancelled) => Err(Halt::Stopped),
            Err(CheckError::Exited(exit)) => {
                self.print(&exit.last_lines);
                let detail = format!("the service ended before it was healthy: {exit}");
                let mut failure = Failure::new(Step::Check, FailureReason::Exited, detail);
                failure.exit_code = exit.exit_code;
                Err(failure.into())
            }
            Err(error) => {
                // What it printed is the best hint at why.
                self.print(&runtime.output(spec.instance, LAST_LINES).await.unwrap_or_default());
                Err(Halt::failed(Step::Check, FailureReason::HealthCheckFailed, error.to_string()))
            }
        }
    }

    fn print(&self, lines: &[String]) {
        for line in lines {
            self.log.line(Step::Check, Stream::Stdout, line.as_bytes());
        }
    }

    fn not_started(&self, error: StartError) -> Halt {
        let (reason, detail) = match &error {
            StartError::Failed(failure) => return failure.as_ref().clone().into(),
            StartError::ToolMissing { .. } => (FailureReason::ToolMissing, error.to_string()),
            StartError::Spawn(source) => (FailureReason::StartFailed, format!("{error}: {source}")),
            StartError::Folder(source) if is_full(source) => (FailureReason::DiskFull, NO_ROOM.to_owned()),
            StartError::Folder(source) => {
                tracing::error!(deployment.id = %self.order.deployment, error = %source, "failed to make an instance's folder");
                (FailureReason::Internal, error.to_string())
            }
            StartError::NoPort(_) => (FailureReason::StartFailed, error.to_string()),
            StartError::Cancelled => return Halt::Stopped,
            StartError::Over | StartError::ShuttingDown => (FailureReason::AgentRestarted, error.to_string()),
        };
        Halt::failed(Step::Start, reason, detail)
    }

    /// A step begins, unless the job is to stop.
    fn begin(&mut self, step: Step) -> Result<(), Halt> {
        if self.stop.is_set() {
            return Err(Halt::Stopped);
        }
        self.undo.step = Some(step);
        self.log.progress(Progress::StepStarted { step });
        Ok(())
    }

    fn say(&self, text: &str) {
        self.log.say(self.undo.step.unwrap_or(Step::Resolve), text);
    }

    fn git_operation(&self, until: Instant) -> Result<GitOp, Halt> {
        let step = self.undo.step.unwrap_or(Step::Resolve);
        let limit = until.saturating_duration_since(Instant::now());
        if limit.is_zero() {
            let detail = format!("it took longer than {} s", self.order.spec.step_limits.fetch);
            return Err(Halt::failed(step, FailureReason::Timeout, detail));
        }
        let log = self.log.clone();
        let redactor = self.redactor.clone();
        let on_line = Arc::new(move |line: &str| log.say(step, &redactor.text(line)));
        Ok(GitOp { stop: self.stop.token().clone(), limit, on_line })
    }

    /// A failure that comes from being stopped is none.
    fn settle<T>(&self, step: Step, result: Result<T, Failure>) -> Result<T, Halt> {
        match result {
            Ok(value) => Ok(value),
            Err(_) if self.stop.is_set() => Err(Halt::Stopped),
            Err(mut failure) => {
                failure.step = failure.step.or(Some(step));
                failure.detail = self.redactor.text(&failure.detail).into_owned();
                Err(failure.into())
            }
        }
    }

    fn settle_io<T>(&self, step: Step, result: io::Result<T>) -> Result<T, Halt> {
        result.map_err(|error| {
            tracing::error!(deployment.id = %self.order.deployment, %step, %error, "a job met a fault of the disk");
            let (reason, detail) = if is_full(&error) {
                (FailureReason::DiskFull, NO_ROOM)
            } else {
                (FailureReason::Internal, "the agent could not use its own folder; see its log")
            };
            Halt::failed(step, reason, detail)
        })
    }

    /// What the operator gives to builds; of the agent's own environment they get nothing.
    async fn base_env(&self, workspace: &Path) -> Result<BTreeMap<OsString, OsString>, Halt> {
        let bundle = match self.settle_io(Step::Build, self.tools.certificates().await)? {
            Some(text) => {
                let path = workspace.join("home/certificates.pem");
                let file = PlannedFile { path: path.clone(), text, secret: false };
                let written = self.tools.write_files(vec![file]).await;
                self.settle_io(Step::Build, written)?;
                Some(path)
            }
            None => None,
        };
        let variables = self.tools.build.variables(&self.order.spec.labels, bundle.as_deref());
        Ok(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }

    /// Where a build's tool was told to look for modules or packages.
    fn mirror(&self, program: &Program) -> Option<String> {
        match &self.order.spec.builder {
            Builder::Go { .. } => {
                program.env.get(OsStr::new("GOPROXY")).map(|value| value.to_string_lossy().into_owned())
            }
            _ => self.tools.build.composer_config.as_ref().map(|_| "composer_config".to_owned()),
        }
    }
}

/// What a kept build must have been made with to serve for this.
pub(super) fn spec_hash_of(tools: &Tools, spec: &JobSpec) -> String {
    let toolchains: Vec<_> =
        tools.build.toolchains_for(&spec.labels).map(|toolchain| &toolchain.label).collect();
    spec_hash(spec, Target::of_runtime(tools.runtime.kind()), &toolchains)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds))
}
