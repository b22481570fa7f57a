//! The server's binary: reads the configuration, runs the server until a signal comes, or does one errand.

mod apply;
mod audit;
mod backup;
mod enrol;
mod sign_in;
mod token;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use sdp_core::access::AccessError;
use sdp_core::backup::BackupError;
use sdp_core::platform::PlatformError;
use sdp_server::{Config, ConfigError};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

const EXAMPLES: &str = "\
Examples:
  sdp-server --config /etc/sdp/server.toml                     run the server
  sdp-server --config /etc/sdp/server.toml --check-config      say whether the configuration is valid
  sdp-server enrol vm-1 --config /etc/sdp/server.toml > vm-1.enrolment            # for `sdp-agent enrol` on the VM
  sdp-server sign-in ops --config /etc/sdp/server.toml         a link that signs a browser in as this admin token, or as a person
  sdp-server token create deploy ci --service payments --expires-in 90 --config /etc/sdp/server.toml > ci.token
  sdp-server audit verify --config /etc/sdp/server.toml        that no entry was changed or taken out
  sdp-server backup /backups/sdp-$(date +%F) --config /etc/sdp/server.toml        while it runs, or not
  sdp-server restore /backups/sdp-2026-05-04 --config /etc/sdp/server.toml       into an empty data_dir, as the server's user
  sdp-server apply catalog.toml --server https://sdp.example.com --token-file admin.token

A configuration:
  listen     = \"127.0.0.1:8080\"
  public_url = \"https://sdp.example.com\"        # how people reach it
  data_dir   = \"/var/lib/sdp\"
  [login]                                        # people log in with their git account
  repository = \"https://git.example.com/team/login.git\"  # who can read it is somebody; it must not be public
  admins     = [\"alice\"]
  [secrets]
  key_file   = \"/var/lib/sdp/seal.key\"         # seals git credentials and services' secrets; keep a copy, apart from backups
  [limits]
  build      = \"45m\"
  requests_per_minute = 1200                     # of each person and each token; writes_per_minute = 120 of them
  [tls]                                          # or leave it to a reverse proxy: examples/nginx
  certificate = \"/etc/sdp/tls.pem\"             # read again when it changes
  key        = \"/etc/sdp/tls.key\"              # mode 0600
  [proxy]
  trusted    = [\"127.0.0.1\", \"10.0.0.0/8\"]    # whose X-Forwarded-For counts
  [metrics]                                      # /metrics, for Prometheus: examples/prometheus
  token_file = \"/etc/sdp/metrics.token\"        # opens the metrics and nothing else; open = true: for everybody

The first start prints an admin token, once. To keep it out of a service manager's journal make one before:
  sdp-server token create admin NAME --config FILE

Every key can be overridden: SDP_SERVER_PUBLIC_URL, SDP_SERVER_LIMITS__BUILD=1h.
Logs: SDP_SERVER_LOG=debug (or sdp_server=debug,info), SDP_SERVER_LOG_FORMAT=json.
Its memory is for root alone: no core dumps, and no debugger of the same user.";

/// SDP, the Sandbox Deployment Platform: the server.
#[derive(Debug, Parser)]
#[command(name = "sdp-server", version, about, after_help = EXAMPLES, subcommand_negates_reqs = true)]
struct Cli {
    #[command(flatten)]
    setup: Setup,
    /// Say whether the configuration is valid, and end.
    #[arg(long)]
    check_config: bool,
    #[command(subcommand)]
    errand: Option<Errand>,
}

#[derive(Debug, Args)]
struct Setup {
    /// The configuration, a TOML file; without one everything comes from the environment.
    #[arg(long, value_name = "FILE", env = "SDP_SERVER_CONFIG", global = true)]
    config: Option<PathBuf>,
    /// Write the log as JSON, one object a line.
    #[arg(long, env = "SDP_SERVER_LOG_FORMAT", value_parser = ["text", "json"], default_value = "text", global = true)]
    log_format: String,
}

#[derive(Debug, Subcommand)]
enum Errand {
    /// Run the server (as without a subcommand).
    Serve,
    /// Load a catalog of services into a running server. Doing it again changes nothing.
    Apply(apply::Apply),
    /// Make, list and revoke API tokens, on the server's host. Works while the server runs.
    #[command(subcommand)]
    Token(token::Token),
    /// Print what an agent enrols with (`sdp-agent enrol`), once, within an hour, and nothing else. Works while the server runs.
    Enrol(enrol::Enrol),
    /// Print a link that signs a browser in once, on the server's host. Works while the server runs.
    SignIn(sign_in::SignIn),
    /// Look at the audit, on the server's host.
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Copy the data folder: database and job logs, whole and checked. Works while the server runs.
    Backup(backup::Backup),
    /// Fill an empty data folder from a backup. The server must not run.
    Restore(backup::Restore),
    /// After `database_behind`: let the server start though events that were committed are missing from its database.
    AcceptLoss,
    /// Print the OpenAPI document.
    Openapi,
}

fn main() -> ExitCode {
    // An error means that somebody has chosen a provider already, which is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    let cli = Cli::parse();
    start_log(&cli.setup);
    if let Err(error) = hide_own_memory() {
        tracing::warn!("the server's memory can be dumped: {error}");
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    match runtime.block_on(run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let config = || load(cli.setup.config.as_deref());
    match cli.errand {
        Some(Errand::Openapi) => {
            say(sdp_server::openapi_json().trim_end());
            Ok(())
        }
        Some(Errand::Apply(apply)) => apply.run().await,
        Some(Errand::SignIn(sign_in)) => sign_in.run(&config()?).await,
        Some(Errand::Enrol(enrol)) => enrol.run(&config()?).await,
        Some(Errand::Token(token)) => token.run(&config()?).await,
        Some(Errand::Audit(audit)) => audit.run(&config()?).await,
        Some(Errand::Backup(backup)) => backup.run(&config()?).await,
        Some(Errand::Restore(restore)) => restore.run(&config()?).await,
        Some(Errand::AcceptLoss) => backup::accept_loss(&config()?).await,
        None | Some(Errand::Serve) => {
            let config = config()?;
            if cli.check_config {
                config.check_files().context("the configuration cannot be used")?;
                say("the configuration is valid");
                return Ok(());
            }
            serve(config).await
        }
    }
}

fn load(path: Option<&Path>) -> anyhow::Result<Config> {
    Config::load(path, std::env::vars()).context("the configuration cannot be used")
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.listen))?;
    // Before anything is started, so that no signal finds nobody.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let shutdown = CancellationToken::new();
    let server = sdp_server::start(config, listener, shutdown.clone()).await?;
    tracing::info!(listen = %server.local_addr, public_url = %server.public_url, "ready");
    if let Some(token) = &server.admin_token {
        say(&format!(
            "The first admin token; it is not shown again:\n\n    {}\n\nMake others with it, or with `sdp-server token create`.",
            token.expose()
        ));
    }
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!(signal = name, "stopping");
    shutdown.cancel();
    tokio::select! {
        () = server.ended() => tracing::info!("stopped"),
        _ = interrupt.recv() => anyhow::bail!("interrupted again; what was under way is cut off"),
    }
    Ok(())
}

/// Tokens, credentials and the key that seals them pass through this process: nobody but root can read its memory or have it
/// dumped.
fn hide_own_memory() -> rustix::io::Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
}

fn start_log(setup: &Setup) {
    let filter = std::env::var("SDP_SERVER_LOG").unwrap_or_default();
    let filter = EnvFilter::try_new(if filter.is_empty() { "info" } else { &filter })
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let may_show = filter_fn(sdp_core::logging::may_show);
    if setup.log_format == "json" {
        log.json().finish().with(may_show).init();
    } else {
        log.finish().with(may_show).init();
    }
}

#[expect(clippy::print_stdout, reason = "what the program is asked to print")]
fn say(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "the program's last word")]
fn failed(error: &anyhow::Error) -> ExitCode {
    let about = error.chain().find_map(About::of);
    match &about {
        Some(About { code, hint, .. }) => eprintln!("sdp-server: {error:#} ({code})\n  next: {hint}"),
        None => eprintln!("sdp-server: {error:#}"),
    }
    // As agent and bot do: with 2 a person must do something first, and starting again does not help.
    if error.is::<ConfigError>() || about.is_some_and(|about| about.needs_a_person) {
        ExitCode::from(2)
    } else {
        ExitCode::FAILURE
    }
}

/// What is known of a failure beside its sentence.
struct About {
    code: &'static str,
    hint: &'static str,
    needs_a_person: bool,
}

impl About {
    fn of(cause: &(dyn std::error::Error + 'static)) -> Option<Self> {
        if let Some(error) = cause.downcast_ref::<PlatformError>() {
            let (code, hint, needs_a_person) = (error.code(), error.hint(), error.needs_a_person());
            return Some(Self { code, hint, needs_a_person });
        }
        if let Some(error) = cause.downcast_ref::<BackupError>() {
            let (code, hint, needs_a_person) = (error.code(), error.hint(), error.needs_a_person());
            return Some(Self { code, hint, needs_a_person });
        }
        let error = cause.downcast_ref::<AccessError>()?;
        Some(Self { code: error.code(), hint: error.hint(), needs_a_person: error.needs_a_person() })
    }
}
