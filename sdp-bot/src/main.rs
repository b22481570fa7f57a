//! The bot as a program: in Slack, a console on the terminal, or one command for scripts.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use sdp_bot::config::Config;
use sdp_bot::console::{self, Look, Options};
use sdp_bot::slack::{self, SlackConfig};
use sdp_bot::store::Store;
use sdp_core::client::Client;
use sdp_core::name::PersonName;
use sdp_core::secret::Secret;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use url::Url;

/// SDP's chat bot: say `deploy payments feature/refund`, and watch it until it runs.
///
/// Settings come from the file given by --config; environment variables override it (SDP_URL, SDP_TOKEN_FILE,
/// SDP_TOKEN, SDP_BOT_CA_FILE, SDP_BOT_PERSON, SDP_BOT_DATA_DIR, SDP_BOT_LOG, SDP_BOT_LOG_FORMAT; for Slack SDP_SLACK_BOT_TOKEN_FILE,
/// SDP_SLACK_APP_TOKEN_FILE, SDP_SLACK_SIGNING_SECRET_FILE, SDP_SLACK_LISTEN, SDP_SLACK_PROXY), and options override those.
#[derive(Parser)]
#[expect(clippy::doc_markdown, reason = "shown as it stands by --help")]
#[command(
    version,
    after_help = "Examples:
  sdp-bot --server https://sdp.example.com --token-file bot.token --as alice
  sdp-bot exec 'deploy hello main' --server https://sdp.example.com --token-file ci.token
  echo 'status' | sdp-bot console --config bot.toml
  sdp-bot slack --config bot.toml
  sdp-bot slack --config bot.toml --check-config"
)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Args)]
#[expect(clippy::doc_markdown, reason = "shown as it stands by --help")]
struct Settings {
    /// Configuration file (TOML: server, token_file, ca_file, person, data_dir, log, and the part [slack]).
    #[arg(long, global = true, value_name = "FILE", env = "SDP_BOT_CONFIG")]
    config: Option<PathBuf>,
    /// Say whether the configuration can be used, and end.
    #[arg(long, global = true)]
    check_config: bool,
    /// URL of the server.
    #[arg(long, global = true, value_name = "URL")]
    server: Option<Url>,
    /// File with the token. Without it: the variable SDP_TOKEN.
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// File with certificates (PEM) of authorities that are trusted beside the system's.
    #[arg(long, global = true, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// The person to speak for; needs a bot's token.
    #[arg(long = "as", global = true, value_name = "PERSON")]
    person: Option<PersonName>,
    /// Folder for the bot's own database.
    #[arg(long, global = true, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// How the log is written: for people, or as JSON, one object a line.
    #[arg(long, env = "SDP_BOT_LOG_FORMAT", value_parser = ["text", "json"], default_value = "text", global = true)]
    log_format: String,
}

#[derive(Subcommand)]
enum What {
    /// Play the bot in Slack, as the part [slack] of the configuration says (README: In Slack).
    Slack,
    /// Play the chat on this terminal; piped input is run line by line, each command to its end (the default).
    Console,
    /// Run one command, print its story, and exit with 0 if it succeeded, else 1.
    Exec {
        /// The command, e.g. 'deploy hello main'.
        #[arg(required = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
}

fn main() -> ExitCode {
    let _already_there = rustls::crypto::ring::default_provider().install_default();
    match run(Cli::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            complain(&format!("sdp-bot: {error:#}"));
            ExitCode::from(2)
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<u8> {
    let Settings { config, check_config, server, token_file, ca_file, person, data_dir, log_format } =
        cli.settings;
    let config = Config::read(config.as_deref())?.with_env(|name| std::env::var(name).ok())?;
    let config = Config {
        server: server.or(config.server),
        token_file: token_file.clone().or(config.token_file),
        ca_file: ca_file.or(config.ca_file),
        person: person.or(config.person),
        data_dir: data_dir.or(config.data_dir),
        log: config.log,
        slack: config.slack,
    };
    // An option is meant for this one call: it wins over the variable.
    let from_env = std::env::var("SDP_TOKEN").ok().filter(|_| token_file.is_none()).map(Secret::new);
    let authorities = config.authorities()?;
    let client = Client::with_authorities(config.server()?, config.token(from_env)?, authorities.as_bytes())?;
    let in_slack = matches!(cli.what, Some(What::Slack));
    // A service's log is read by whoever runs it; a terminal is for whoever types.
    let usual = if in_slack { "info" } else { "off" };
    let filter = EnvFilter::try_new(config.log.as_deref().unwrap_or(usual)).context("log")?;
    let slack = match config.slack.clone().or(in_slack.then(SlackConfig::default)) {
        Some(slack) if in_slack || check_config => Some(slack.resolve(|name| std::env::var(name).ok())?),
        _ => None,
    };
    if in_slack && config.data_dir.is_none() {
        anyhow::bail!(
            "data_dir is missing: give --data-dir, SDP_BOT_DATA_DIR, or data_dir in the configuration file; there the bot keeps \
             where its messages sit, so that a restart neither loses nor doubles any"
        );
    }
    if check_config {
        say(&format!("the configuration can be used; the server is {}", client.base()));
        return Ok(0);
    }
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let may_show = filter_fn(sdp_core::logging::may_show);
    match log_format.as_str() {
        "json" => log.json().finish().with(may_show).init(),
        _ => log.finish().with(may_show).init(),
    }
    let store = match &config.data_dir {
        Some(folder) => {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
            Some(folder.join("bot.db"))
        }
        None => None,
    };

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let mut signals = tokio::task::JoinSet::new();
        signals.spawn(on_signal(shutdown.clone()));
        let output = tokio::io::stdout();
        let ended = match cli.what.unwrap_or(What::Console) {
            What::Slack => {
                let (Some(slack), Some(path)) = (slack, store) else {
                    anyhow::bail!("the part [slack] is missing")
                };
                let store = Store::open(&path).with_context(|| format!("cannot use {}", path.display()))?;
                let ended = slack::run(client, slack, authorities.as_bytes(), store, shutdown).await;
                ended.map(|()| console::Ended::default()).map_err(anyhow::Error::from)
            }
            What::Console => {
                let options = Options { store, ..Options::detect(config.person) };
                console::run(client, console::stdin(), output, options, shutdown).await.map_err(Into::into)
            }
            What::Exec { command } => {
                let detected = Options::detect(config.person);
                let options = Options { look: Look::Script, store: None, ..detected };
                console::exec(client, &command.join(" "), output, options, shutdown).await.map_err(Into::into)
            }
        };
        signals.shutdown().await;
        ended
    });
    Ok(result?.exit_code())
}

/// Ctrl-C or SIGTERM.
async fn on_signal(shutdown: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    shutdown.cancel();
}

#[expect(clippy::print_stdout, reason = "the program's own output")]
fn say(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "the program's own output")]
fn complain(text: &str) {
    eprintln!("{text}");
}
