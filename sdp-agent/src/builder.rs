//! How a language is built and run, as data: from a service's builder and some folders follow the programs to run. Pure;
//! called by the job, whose `exec` and `runtime` run what comes out.
//!
//! No program sees anything of the agent's own environment: it gets what the operator configured for builds
//! ([`BuildContext::base_env`]) and what the builder sets.

mod apache;
mod command;
mod explain;
mod facts;
mod go;
mod php;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use sdp_core::catalog::{Builder, Limits};
use sdp_core::deployment::Step;
use sdp_core::failure::{Failure, FailureReason};
use sdp_core::name::ImageRef;
use sdp_core::secret::Secret;
use sdp_core::wire;
use serde::{Deserialize, Serialize};

use crate::exec::Program;

pub(crate) use explain::{LastLines, explain};
pub use facts::Facts;
pub(crate) use facts::{Survey, check_output, find_program, survey};

/// Where to look for programs when the operator says nothing.
pub const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/go/bin";

/// Where the repository's top is in a container, but for PHP.
const SRC: &str = "/src";
/// Where what was built is in a container.
const OUT: &str = "/out";

/// What will run the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// This machine, as a plain process.
    Process,
    /// A container engine on this machine.
    Container,
}

impl Target {
    /// By the runtime's name in `hello`.
    #[must_use]
    pub fn of_runtime(kind: &str) -> Self {
        if kind == wire::DOCKER { Self::Container } else { Self::Process }
    }
}

/// Where things are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildContext {
    /// What will run the result.
    pub target: Target,
    /// The top of the checked-out repository.
    pub tree: PathBuf,
    /// The service's folder in it.
    pub source: PathBuf,
    /// Where artefacts go; beside it there is a folder `home` for what programs think is a person's home, and `tmp`.
    pub output: PathBuf,
    /// What builds share between deployments, such as compilers' caches.
    pub caches: PathBuf,
    /// What the operator gives to all programs, such as `PATH`, `GOPROXY` or `HTTPS_PROXY`.
    pub base_env: BTreeMap<OsString, OsString>,
    /// What composer shall know, as its `config.json`.
    pub composer_config: Option<Secret>,
    /// The image that the service names.
    pub image: Option<ImageRef>,
    /// How much an instance may use.
    pub limits: Limits,
    /// What was found in the tree and on the machine.
    pub facts: Facts,
}

impl BuildContext {
    /// Where a folder of the tree is in a container that has the tree there.
    fn inside(&self, top: &str, folder: &Path) -> PathBuf {
        match folder.strip_prefix(&self.tree) {
            Ok(below) if !below.as_os_str().is_empty() => Path::new(top).join(below),
            _ => PathBuf::from(top),
        }
    }

    /// What is beside the artefacts.
    fn beside(&self, name: &str) -> PathBuf {
        self.output.with_file_name(name)
    }
}

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildPlan {
    /// What the log shall say before anything runs.
    pub notes: Vec<String>,
    /// Files that are written before anything runs.
    pub before: Vec<PlannedFile>,
    /// One after the other; the first that fails ends the build.
    pub build: Vec<Program>,
    /// A file that the build must have left.
    pub makes: Option<PathBuf>,
    /// Files that are written when all has run, so that no program of the repository has a hand in them.
    pub after: Vec<PlannedFile>,
    /// Then this.
    pub run: RunPlan,
}

/// A small file that the agent writes. What is there under its name is replaced; links are not followed.
#[derive(Clone, PartialEq, Eq)]
pub struct PlannedFile {
    /// Where; its folder exists, or is to be made.
    pub path: PathBuf,
    /// What is in it.
    pub text: String,
    /// Whether there may be a secret in it: then nobody else can read it.
    pub secret: bool,
}

impl fmt::Debug for PlannedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlannedFile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// How a built service is started; kept with the build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunPlan {
    /// The program and its arguments; without a slash it is looked up in `PATH`, with one relative to `cwd`.
    pub argv: Vec<String>,
    /// The folder in which it runs; in a container, a path inside it.
    pub cwd: PathBuf,
    /// The container that it is made for; none: it runs as a plain process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerPlan>,
}

impl RunPlan {
    /// The folders of this machine that it runs in or is shown.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        let (cwd, container) = match &self.container {
            None => (Some(self.cwd.as_path()), None),
            Some(container) => (None, Some(container)),
        };
        let shown = container.into_iter().flat_map(|container| {
            let mounts = container.mounts.iter().map(|mount| mount.source.as_path());
            mounts.chain([container.source.as_path()])
        });
        cwd.into_iter().chain(shown)
    }
}

/// What a built service needs of its container. How much it may use, where it listens and its variables are not the build's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerPlan {
    /// The image, which the engine must have. Its entrypoint stays; the plan's `argv` is its command.
    pub image: ImageRef,
    /// What of this machine it sees, read-only.
    pub mounts: Vec<Mount>,
    /// The service's folder on this machine: what its writable folders begin with.
    pub source: PathBuf,
    /// Folders in memory, beside `/tmp`.
    pub tmpfs: Vec<PathBuf>,
    /// Linux capabilities that it cannot do without, e.g. `NET_BIND_SERVICE`; all others are dropped.
    pub capabilities: Vec<String>,
    /// Variables that the builder sets.
    pub env: BTreeMap<String, String>,
}

/// A folder or file of this machine inside a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// On this machine.
    pub source: PathBuf,
    /// In the container.
    pub target: PathBuf,
}

impl Mount {
    fn new(source: &Path, target: &str) -> Self {
        Self { source: source.to_owned(), target: target.into() }
    }
}

/// What to run for this builder in these folders.
///
/// # Errors
/// When the service cannot run where this agent runs services.
pub fn plan(builder: &Builder, cx: &BuildContext) -> Result<BuildPlan, Failure> {
    match builder {
        Builder::Command { build, run } => command::plan(build, run, cx),
        Builder::Go { main_package, args } => go::plan(main_package, args, cx),
        Builder::Php { .. } => php::plan(cx),
        // `Builder` is non-exhaustive for other crates; a server that knows more has another protocol number.
        _ => Err(fail(FailureReason::AgentRefused, "this agent does not know the service's builder")),
    }
}

fn fail(reason: FailureReason, detail: impl Into<String>) -> Failure {
    Failure::new(Step::Build, reason, detail)
}

/// The image of a builder when the service names none.
fn image(cx: &BuildContext, usual: &str) -> Result<ImageRef, Failure> {
    match &cx.image {
        Some(image) => Ok(image.clone()),
        None => {
            ImageRef::parse(usual).map_err(|_| fail(FailureReason::Internal, "the usual image has no name"))
        }
    }
}

/// A container that sees the tree there, and nothing else yet.
fn container(image: ImageRef, top: &str, cx: &BuildContext) -> ContainerPlan {
    ContainerPlan {
        image,
        mounts: vec![Mount::new(&cx.tree, top)],
        source: cx.source.clone(),
        tmpfs: Vec::new(),
        capabilities: Vec::new(),
        env: BTreeMap::new(),
    }
}

/// The operator's environment with what every program needs.
pub(crate) fn with_basics(
    base: &BTreeMap<OsString, OsString>,
    home: PathBuf,
    tmp: PathBuf,
) -> BTreeMap<OsString, OsString> {
    let mut env = base.clone();
    env.entry("PATH".into()).or_insert_with(|| DEFAULT_PATH.into());
    env.entry("LANG".into()).or_insert_with(|| "C.UTF-8".into());
    env.insert("HOME".into(), home.into());
    env.insert("TMPDIR".into(), tmp.into());
    env
}

fn build_env(cx: &BuildContext) -> BTreeMap<OsString, OsString> {
    let mut env = with_basics(&cx.base_env, cx.beside("home"), cx.beside("tmp"));
    // What most tools take as "nobody watches: no prompts, no progress bars".
    env.entry("CI".into()).or_insert_with(|| OsStr::new("true").into());
    env
}

#[cfg(test)]
mod tests;
