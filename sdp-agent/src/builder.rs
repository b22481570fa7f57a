//! How a language is built and run, as data: from a service's builder and some folders follow the programs to run. Pure;
//! called by the job, whose `exec` and `runtime` run what comes out.
//!
//! No program sees anything of the agent's own environment: it gets what the operator configured for builds
//! ([`BuildContext::base_env`]) and what the builder sets.

mod command;
mod go;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use sdp_core::catalog::Builder;
use sdp_core::name::ImageRef;
use serde::{Deserialize, Serialize};

use crate::exec::Program;

/// Where to look for programs when the operator says nothing.
pub const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/go/bin";

/// Where things are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildContext {
    /// The service's folder in the checked-out tree.
    pub source: PathBuf,
    /// Where artefacts go; beside it there is a folder `home` for what programs think is a person's home, and `tmp`.
    pub output: PathBuf,
    /// What builds share between deployments, such as compilers' caches.
    pub caches: PathBuf,
    /// What the operator gives to all programs, such as `PATH`, `GOPROXY` or `HTTPS_PROXY`.
    pub base_env: BTreeMap<OsString, OsString>,
}

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildPlan {
    /// One after the other; the first that fails ends the build.
    pub build: Vec<Program>,
    /// Then this.
    pub run: RunPlan,
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

/// What to run for this builder in these folders.
#[must_use]
pub fn plan(builder: &Builder, cx: &BuildContext) -> BuildPlan {
    match builder {
        Builder::Command { build, run } => command::plan(build, run, cx),
        Builder::Go { main_package, args } => go::plan(main_package, args, cx),
        // `Builder` is non-exhaustive for other crates; the server's version is checked by the protocol number.
        other => unreachable!("this agent's protocol has no builder {other:?}"),
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
    let beside = |name| cx.output.with_file_name(name);
    let mut env = with_basics(&cx.base_env, beside("home"), beside("tmp"));
    // What most tools take as "nobody watches: no prompts, no progress bars".
    env.entry("CI".into()).or_insert_with(|| OsStr::new("true").into());
    env
}

#[cfg(test)]
mod tests;
