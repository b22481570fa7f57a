//! The catalog: which services there are, where their code is, how they are built, run, checked and routed.

pub mod environment;
pub mod template;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};
use url::Url;

pub use self::environment::{Deployers, Environment, EnvironmentService, MatchRule, Quota, WhenDown};
pub use self::template::{Template, TemplateService, TemplateSpec};
use crate::name::{
    EnvName, GitRef, ImageRef, Label, PathPrefix, RepoPath, RepoUrl, ServiceName, WritablePath,
};

/// A service that can be deployed.
///
/// ```
/// use sdp_core::catalog::Service;
/// let service: Service = serde_json::from_str(
///     r#"{ "name": "payments", "repo": "https://bitbucket.org/shop/payments.git", "subdir": "services/payments",
///          "builder": { "type": "go", "main_package": "cmd/payments" },
///          "health": { "type": "http", "path": "/healthz" } }"#,
/// )?;
/// service.check()?;
/// assert_eq!(service.prefix().as_str(), "/payments");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Its name, what people type.
    pub name: ServiceName,
    /// Where its code is.
    pub repo: RepoUrl,
    /// What is deployed when no branch is named and none was deployed before.
    #[serde(default = "default_branch")]
    #[cfg_attr(feature = "openapi", schema(default = "main"))]
    pub default_branch: GitRef,
    /// The folder inside the repository in which it is built and run (monorepo); `.` is the top.
    #[serde(default = "top")]
    #[cfg_attr(feature = "openapi", schema(default = "."))]
    pub subdir: RepoPath,
    /// How it is built and run.
    pub builder: Builder,
    /// When a new instance counts as healthy.
    #[serde(default)]
    pub health: HealthCheck,
    /// Variables that its instances (not its build) get.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, String>))]
    pub env: BTreeMap<EnvName, String>,
    /// The port on which it listens inside its container; without one: 8080. The variable `PORT` has it. A plain process (an
    /// agent without Docker) gets a port of its own in `PORT`, whatever stands here.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u16>, minimum = 1))]
    pub port: Option<NonZeroU16>,
    /// The image that it runs in, which the agent's engine must have; without one: the builder's. Containers only.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub image: Option<ImageRef>,
    /// How much an instance may use; what is not said here is the agent's default. In a container, and as a
    /// plain process where the agent has control groups.
    #[serde(default)]
    pub limits: Limits,
    /// Folders that it may write to. Each instance gets its own, filled with what the repository has there; what is written is
    /// gone with the instance. Everything else but `/tmp` is read-only. Containers only: a plain process can write to its folder.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeSet<String>))]
    pub writable: BTreeSet<WritablePath>,
    /// A command that is run once before the new instance is started, with the same image, files and variables: migrations, say.
    /// If it fails, so does the deployment, and what ran before goes on.
    #[serde(default)]
    pub release: Option<Vec<String>>,
    /// Labels that an agent must have to build and run it.
    #[serde(default)]
    pub labels: BTreeSet<Label>,
    /// Which requests are for it; the longest prefix wins. Without one: `/` and the service's name.
    #[serde(default)]
    pub path_prefix: Option<PathPrefix>,
    /// Whether the prefix is taken off the path before the service sees it.
    #[serde(default = "yes")]
    #[cfg_attr(feature = "openapi", schema(default = true))]
    pub strip_prefix: bool,
    /// Where requests go that belong to no sandbox.
    #[serde(default)]
    pub baseline: Option<Url>,
}

impl Service {
    /// Whether only an agent that runs containers can run it.
    #[must_use]
    pub fn needs_container(&self) -> bool {
        self.image.is_some() || matches!(self.builder, Builder::Php { .. })
    }

    /// The prefix of the paths that are for it.
    #[must_use]
    pub fn prefix(&self) -> PathPrefix {
        // A service name is a valid part of a path, so this cannot fail.
        self.path_prefix.clone().unwrap_or_else(|| {
            PathPrefix::parse(format!("/{}", self.name))
                .unwrap_or_else(|_| unreachable!("a service name is a path part"))
        })
    }
}

fn default_branch() -> GitRef {
    GitRef::parse("main").unwrap_or_else(|_| unreachable!("main is a valid branch"))
}

fn top() -> RepoPath {
    RepoPath::parse(".").unwrap_or_else(|_| unreachable!(". is a valid path"))
}

fn yes() -> bool {
    true
}

/// How a language is built and run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Builder {
    /// Any program: no shell is involved; each command is a list of words.
    Command {
        /// Commands run one after the other in the service's folder; none: nothing to build.
        #[serde(default)]
        build: Vec<Vec<String>>,
        /// The command that serves; it listens on the port in the variable `PORT`.
        run: Vec<String>,
    },
    /// A Go program: `go build` with CGO off, then the binary is run.
    Go {
        /// The main package, relative to the service's folder; `.` is the folder itself.
        #[serde(default = "top")]
        #[cfg_attr(feature = "openapi", schema(default = "."))]
        main_package: RepoPath,
        /// Arguments of the program.
        #[serde(default)]
        args: Vec<String>,
    },
    /// A PHP site: `composer install` where there is something to install, then Apache with PHP. Containers only.
    Php {
        /// The folder that is served, relative to the service's folder; without one: `public` if there is one, else the
        /// service's folder itself.
        #[serde(default)]
        #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
        document_root: Option<RepoPath>,
    },
}

/// How much an instance may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Memory in MiB, 16 to 1048576; there is no swap beyond it. Who takes more is ended ("out of memory").
    #[cfg_attr(feature = "openapi", schema(minimum = 16, maximum = 1_048_576))]
    pub memory_mib: Option<u32>,
    /// Processor time in thousandths of a core, 10 to 1024000.
    #[cfg_attr(feature = "openapi", schema(minimum = 10, maximum = 1_024_000))]
    pub cpu_millis: Option<u32>,
    /// Processes and threads at once, 10 to 100000.
    #[cfg_attr(feature = "openapi", schema(minimum = 10, maximum = 100_000))]
    pub pids: Option<u32>,
}

/// When a new instance counts as healthy. Until then the old one serves. Asked again whenever an instance was started again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum HealthCheck {
    /// `GET` of this path answers with 200 to 399.
    Http {
        /// Path and query, beginning with `/`.
        path: String,
    },
    /// Its own process listens on its port.
    Tcp {},
    /// It stays up for this long; for programs that serve no port.
    Uptime {
        /// Seconds, 1 to 60.
        #[serde(default = "ten")]
        #[cfg_attr(feature = "openapi", schema(default = 10, minimum = 1, maximum = 60))]
        seconds: u32,
    },
}

fn ten() -> u32 {
    10
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self::Tcp {}
    }
}

/// What is wrong with a service that parses but cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidService {
    /// The field, e.g. `builder.run`.
    pub field: &'static str,
    /// What is wrong, as a fragment of a sentence.
    pub problem: String,
}

/// Longest command, in words; longest word, in bytes; most variables; longest value, in bytes.
const MAX_WORDS: usize = 200;
const MAX_WORD: usize = 4096;
const MAX_VARIABLES: usize = 200;
const MAX_VALUE: usize = 32 * 1024;
const MAX_BASELINE: usize = 1000;

impl Service {
    /// Checks what the types alone do not.
    ///
    /// # Errors
    /// The first field that cannot work.
    pub fn check(&self) -> Result<(), InvalidService> {
        let err = |field, problem: &str| Err(InvalidService { field, problem: problem.to_owned() });
        let words_are_sane = |argv: &[String]| {
            !argv.is_empty()
                && !argv[0].is_empty()
                && argv.len() <= MAX_WORDS
                && argv.iter().all(|word| word.len() <= MAX_WORD && !word.contains('\0'))
        };
        match &self.builder {
            Builder::Command { build, run } => {
                if !words_are_sane(run) {
                    return err("builder.run", "a command is 1 to 200 words of at most 4096 bytes");
                }
                if build.len() > 50 || !build.iter().all(|argv| words_are_sane(argv)) {
                    return err(
                        "builder.build",
                        "at most 50 commands of 1 to 200 words of at most 4096 bytes",
                    );
                }
            }
            Builder::Go { args, .. } => {
                if args.len() > MAX_WORDS
                    || args.iter().any(|word| word.len() > MAX_WORD || word.contains('\0'))
                {
                    return err("builder.args", "at most 200 words of at most 4096 bytes");
                }
            }
            Builder::Php { .. } => {}
        }
        match &self.health {
            HealthCheck::Http { path } => {
                let plain = path.bytes().all(|b| b.is_ascii_graphic());
                if !path.starts_with('/') || path.starts_with("//") || !plain || path.len() > 500 {
                    return err("health.path", "begins with one /, visible ASCII characters, at most 500");
                }
            }
            HealthCheck::Uptime { seconds } if !(1..=60).contains(seconds) => {
                return err("health.seconds", "1 to 60");
            }
            HealthCheck::Uptime { .. } | HealthCheck::Tcp {} => {}
        }
        check_variables(&self.env)?;
        if self.release.as_ref().is_some_and(|argv| !words_are_sane(argv)) {
            return err("release", "a command is 1 to 200 words of at most 4096 bytes");
        }
        if self.writable.len() > 20 {
            return err("writable", "at most 20");
        }
        let Limits { memory_mib, cpu_millis, pids } = self.limits;
        if memory_mib.is_some_and(|mib| !(16..=1_048_576).contains(&mib)) {
            return err("limits.memory_mib", "16 to 1048576");
        }
        if cpu_millis.is_some_and(|millis| !(10..=1_024_000).contains(&millis)) {
            return err("limits.cpu_millis", "10 to 1024000");
        }
        if pids.is_some_and(|pids| !(10..=100_000).contains(&pids)) {
            return err("limits.pids", "10 to 100000");
        }
        if self.labels.len() > 20 {
            return err("labels", "at most 20");
        }
        check_baseline(self.baseline.as_ref())
    }
}

fn check_baseline(baseline: Option<&Url>) -> Result<(), InvalidService> {
    let Some(url) = baseline else { return Ok(()) };
    let err = |problem: &str| Err(InvalidService { field: "baseline", problem: problem.to_owned() });
    let open = url.username().is_empty() && url.password().is_none();
    if !matches!(url.scheme(), "http" | "https") || !open || url.host().is_none() {
        return err("an http or https URL without user or password");
    }
    // A URL may have more in it than this, but a router's configuration has no good place for that.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let host = match url.host() {
        Some(url::Host::Domain(name)) => name.bytes().all(plain),
        _ => true,
    };
    let path = url.path().bytes().all(|byte| plain(byte) || b"/%+@,=:".contains(&byte));
    let bare = url.query().is_none() && url.fragment().is_none() && url.port() != Some(0);
    if !host || !path || !bare || url.as_str().len() > MAX_BASELINE {
        return err("letters, digits and - . _ ~ / % + @ , = : only; no query, no fragment; at most 1000");
    }
    Ok(())
}

/// Checks the values of variables (their names are checked by their type).
///
/// # Errors
/// When there are too many, or a value is too long or has a NUL.
pub fn check_variables(env: &BTreeMap<EnvName, String>) -> Result<(), InvalidService> {
    if env.len() > MAX_VARIABLES {
        return Err(InvalidService { field: "env", problem: "at most 200 variables".into() });
    }
    match env.iter().find(|(_, value)| value.len() > MAX_VALUE || value.contains('\0')) {
        Some((name, _)) => {
            Err(InvalidService { field: "env", problem: format!("{name}: at most 32768 bytes, no NUL") })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
