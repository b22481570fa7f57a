//! The `sdp-agent` program: reads its configuration, runs the agent until it is told to stop.
//!
//! Started by itself as `sdp-agent exec …` it is what a build runs under; [`sdp_agent::exec::take_over`] knows.

use std::io::{IsTerminal, Read as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use sdp_agent::config::ConfigError;
use sdp_agent::config::{Config, ConfigFile, read_token};
use sdp_agent::exec::Shim;
use sdp_agent::link::Connector;
use sdp_core::secret::Secret;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Builds and runs branches on this machine, for an SDP server.
#[derive(Debug, Parser)]
#[command(name = "sdp-agent", version, after_help = EXAMPLES)]
struct Arguments {
    /// The configuration file (TOML). Without one, the environment alone counts.
    #[arg(long, value_name = "FILE", env = "SDP_AGENT_CONFIG", global = true)]
    config: Option<PathBuf>,
    /// Say whether the configuration can work, and end.
    #[arg(long)]
    check_config: bool,
    /// How the log is written: for people, or as JSON, one object a line.
    #[arg(long, env = "SDP_AGENT_LOG_FORMAT", value_parser = ["text", "json"], default_value = "text")]
    log_format: String,
    /// The same as --log-format json.
    #[arg(long, env = "SDP_AGENT_LOG_JSON")]
    log_json: bool,
    #[command(subcommand)]
    errand: Option<Errand>,
}

#[derive(Debug, Subcommand)]
enum Errand {
    /// Get this agent's own token, with an enrolment token that an admin has made (`sdp-server enrol NAME`).
    ///
    /// The enrolment token is read from a file or from standard input; it works once. The agent's token goes into `token_file`.
    Enrol(Enrol),
}

#[derive(Debug, Args)]
struct Enrol {
    /// The file with the enrolment token, readable by its owner alone; without it standard input is read.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Write over a token that is there.
    #[arg(long)]
    force: bool,
}

const EXAMPLES: &str = r#"Examples:
  sdp-agent --config /etc/sdp/agent.toml
  sdp-agent --config agent.toml --check-config
  sdp-agent enrol --config agent.toml --token-file vm-1.enrolment      # once: gets the agent's own token

A configuration:
  server     = "https://sdp.example.com"
  token_file = "/etc/sdp/agent.token"     # mode 0600; the agent's name comes with the token
  data_dir   = "/var/lib/sdp-agent"
  labels     = ["go"]                     # what services may ask for
  capacity   = 4                          # jobs at once; default: cores

  [git]
  origins     = ["https://bitbucket.org"] # hosts it may fetch from; exact scheme, host and port
  local_paths = ["/srv/git"]

  [[git.host]]                            # what one of them is; on each agent the same
  origin = "https://bitbucket.org"
  kind   = "bitbucket_cloud"              # or "bitbucket_dc"; "git": only git itself is spoken there
  username      = "sdp@example.com"       # a login that may read, for lists that come without one, never for deployments
  password_file = "/etc/sdp/git.password" # mode 0600; api = "https://host/bitbucket" if REST is not at the origin

  [runtime]
  kind      = "process"                   # or "docker": in containers, never as root
  ports     = "20000-29999"               # services get one each, in the variable PORT
  advertise = "127.0.0.1"                 # where the router reaches them

  [docker]                                # only with kind = "docker"
  socket     = "/var/run/docker.sock"
  memory_mib = 512                        # of a container whose service says nothing; also cpu_millis, pids
  images     = ["alpine:3.20", "php:8.3-apache"]   # the preflight looks for them; nothing is ever pulled

  [build]
  user = "sdp-build"                      # who builds and services run as, or "64100:64100"; needs root, or the unit's capabilities
  keep = 2                                # builds kept of each service in each sandbox
  limits = { pids = 512, memory_mib = 2048 }
  env  = { GOPROXY = "https://proxy.golang.org" }
  composer_config = "/etc/sdp/composer.json"   # composer's mirrors and logins

  [[toolchain]]                           # for services with this label; the agent has it, too
  label = "go-1.23"
  path  = "/opt/go1.23/bin"

  [network]                               # for git and builds; the server is always reached directly
  proxy    = "http://proxy:3128"
  no_proxy = "localhost, .corp.example, 10.0.0.0/8"
  ca_file  = "/etc/ssl/company.pem"       # trusted besides the system's certificates; for the server, too

  [disk]                                  # below min_free_mib (512) it takes no new work
  low_mib    = 2048                       # below this, what was used least recently is removed,
  target_mib = 3072                       # until this is free

  [spool]
  per_deployment_mib = 256                # a longer log keeps its beginning and its end

  [secrets]
  folder   = "/etc/sdp/secrets"           # services' secrets that are files

  [router]                                # only where this agent is to route
  engine   = "builtin"                    # or "nginx": one that the agent runs, and that goes on while the agent is away
  listen   = "127.0.0.1:8081"
  base_url = "http://127.0.0.1:8081"
  trusted_networks = ["10.0.0.0/8"]       # from where headers and cookies choose a sandbox; without it: from everywhere
  ca_file  = "/etc/ssl/ocp-ca.pem"        # for https baselines, besides the system's certificates
  nginx    = "/usr/sbin/nginx"            # only with engine = "nginx", as are the next ones
  resolvers       = ["10.0.0.2:53"]       # for names of baselines; without it: those in /etc/resolv.conf
  old_connections = "1h"                  # WebSockets live so long after the next change of routes
  user     = "sdp-router"                 # who nginx is where the agent is root; without it: nobody

Variables that override it: SDP_AGENT_SERVER, SDP_AGENT_TOKEN, SDP_AGENT_TOKEN_FILE, SDP_AGENT_CA_FILE,
SDP_AGENT_DATA_DIR, SDP_AGENT_LABELS (with commas), SDP_AGENT_CAPACITY, SDP_AGENT_BUILD_USER. SDP_AGENT_LOG sets
what is logged, e.g. "info" or "sdp_agent=debug"; SDP_AGENT_LOG_FORMAT=json how.

Its memory is for root alone: no core dumps, and no debugger of the same user.

SIGTERM and Ctrl-C end it: builds and services that are processes are stopped, and what they said is delivered first.
Containers run on. The next start takes them over, starts those services again, and goes on with what was deployed.
"#;

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the program's own output")]
fn main() -> ExitCode {
    // Before anything else: what runs a build is to be there in no time, and keeps the capabilities that the agent gave it.
    if let Some(code) = sdp_agent::exec::take_over() {
        return code;
    }
    let arguments = Arguments::parse();
    // What the unit lets the agent do (become the build's user, …) is for the agent, not for the programs that it starts, which
    // would be given it otherwise. Before there is a second thread. Where it fails, the kernel knows no such capabilities.
    let _known_to_the_kernel = rustix::thread::clear_ambient_capability_set();
    let loaded = ConfigFile::load(arguments.config.as_deref(), &|name| std::env::var_os(name));
    if let Some(Errand::Enrol(enrol)) = &arguments.errand {
        return enrol.run(loaded);
    }
    let configuration = loaded.and_then(|file| Ok((file.config()?, file.connector()?)));
    let (mut config, connector) = match configuration {
        Ok(configuration) => configuration,
        Err(error) => {
            eprintln!("sdp-agent: {:#}", anyhow::Error::new(error));
            return ExitCode::from(2);
        }
    };
    if arguments.check_config {
        println!("ok");
        return ExitCode::SUCCESS;
    }
    config.build.shim = Some(Shim::own());
    start_logging(arguments.log_json || arguments.log_format == "json");
    if let Err(error) = sdp_agent::exec::hide_own_memory() {
        tracing::warn!("the agent's memory can be dumped: {error}");
    }
    match run(config, connector) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// More is no token.
const MAX_TOKEN: u64 = 4096;

impl Enrol {
    #[expect(clippy::print_stdout, clippy::print_stderr, reason = "the program's own output")]
    fn run(&self, loaded: Result<ConfigFile, ConfigError>) -> ExitCode {
        let ready = loaded.and_then(|file| file.enrolment()).map_err(anyhow::Error::new);
        let ready = ready.and_then(|enrolment| Ok((enrolment, self.token()?)));
        let (enrolment, token) = match ready {
            Ok(ready) => ready,
            Err(error) => {
                eprintln!("sdp-agent: {error:#}");
                return ExitCode::from(2);
            }
        };
        let enrolled = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map(|runtime| runtime.block_on(enrolment.enrol(&token, self.force)));
        match enrolled {
            Ok(Ok(agent)) => {
                let file = enrolment.token_file().display();
                println!("enrolled as {agent}; its token is in {file}");
                println!("  next: start the agent, or restart it if it runs; the enrolment token is used up");
                ExitCode::SUCCESS
            }
            Ok(Err(error)) => {
                let (code, hint) = (error.code(), error.hint().to_owned());
                eprintln!("sdp-agent: {:#} ({code})\n  next: {hint}", anyhow::Error::new(error));
                ExitCode::FAILURE
            }
            Err(error) => {
                eprintln!("sdp-agent: {:#}", anyhow::Error::new(error));
                ExitCode::FAILURE
            }
        }
    }

    fn token(&self) -> Result<Secret> {
        match &self.token_file {
            Some(path) => Ok(read_token(path)?),
            None => {
                let mut text = String::new();
                std::io::stdin()
                    .take(MAX_TOKEN)
                    .read_to_string(&mut text)
                    .context("failed to read standard input")?;
                Ok(Secret::new(text.trim()))
            }
        }
    }
}

fn start_logging(json: bool) {
    let filter = EnvFilter::try_from_env("SDP_AGENT_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    let may_show = filter_fn(sdp_core::logging::may_show);
    if json {
        log.json().finish().with(may_show).init();
    } else {
        log.finish().with(may_show).init();
    }
}

#[tokio::main]
async fn run(config: Config, connector: Connector) -> Result<()> {
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for Ctrl-C")?;
    let agent = sdp_agent::run(config, connector, shutdown.clone());
    tokio::pin!(agent);
    let told = async {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "Ctrl-C",
        }
    };
    tokio::select! {
        ended = &mut agent => return Ok(ended?),
        signal = told => tracing::info!(signal, "ending: builds and services that are processes are being stopped"),
    }
    shutdown.cancel();
    // A second one is for the impatient: processes are killed when this one ends.
    tokio::select! {
        ended = &mut agent => Ok(ended?),
        _ = terminate.recv() => anyhow::bail!("ended at once, as told twice"),
        _ = interrupt.recv() => anyhow::bail!("ended at once, as told twice"),
    }
}
