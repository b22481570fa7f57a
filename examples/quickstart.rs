//! SDP in one process, to try it: `cargo quickstart`, or `printf '/sdp deploy hello main\n' | cargo quickstart`.
//!
//! Server, agent (process runtime, built-in router) and bot run together on this machine, with two sample services in git
//! repositories and a baseline for them. The terminal plays the chat. The same parts, started apart with a configuration
//! file each, are production.
//!
//! Everything lies in a temporary folder and is gone at the end; `SDP_QUICKSTART_DATA=FOLDER` keeps it there.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it talks to whoever runs it")]

#[path = "quickstart/baseline.rs"]
mod baseline;
#[path = "quickstart/routing.rs"]
mod routing;
#[path = "quickstart/samples.rs"]
mod samples;

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use sdp_agent::Connector;
use sdp_agent::router::RouterConfig;
use sdp_bot::console::{self, Options};
use sdp_core::api::TokenKind;
use sdp_core::client::Client;
use sdp_core::name::{PersonName, TokenName};
use sdp_core::platform::Save;
use sdp_core::principal::Principal;
use tokio::net::TcpListener;
use tokio::signal::unix::{self, SignalKind};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::Url;

const USAGE: &str = "SDP in one process, to try it. It takes no arguments:

  cargo quickstart                                        then type /sdp help
  printf '/sdp deploy hello main\n' | cargo quickstart    the same without a terminal

SDP_QUICKSTART_DATA=FOLDER keeps its data there; SDP_LOG=info shows what its parts log.";

/// Where server and router listen if nobody else does.
const SERVER: u16 = 8080;
const ROUTER: u16 = 8081;

fn main() -> ExitCode {
    rustls::crypto::ring::default_provider().install_default().ok();
    tracing_subscriber::fmt()
        .with_env_filter(std::env::var("SDP_LOG").unwrap_or_else(|_| "error".to_owned()))
        .with_writer(std::io::stderr)
        .init();
    if std::env::args().len() > 1 {
        println!("{USAGE}");
        return ExitCode::from(u8::from(!std::env::args().any(|word| word == "--help" || word == "-h")) * 2);
    }
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run() -> anyhow::Result<ExitCode> {
    let (data, _temporary) = data_folder()?;
    let shutdown = CancellationToken::new();
    let mut signals = JoinSet::new();
    signals.spawn(self::signals(shutdown.clone()));

    let samples = samples::Samples::make(&data.join("repositories"))?;
    let baseline = baseline::Baseline::start().await?;

    // The server.
    let listener = listen(SERVER).await?;
    let public_url: Url = format!("http://{}", listener.local_addr()?).parse()?;
    let mut config = sdp_server::Config::new(public_url.clone(), data.join("server"));
    // The terminal plays the chat, and whoever types there is who they say they are.
    config.login.trust_bot = true;
    let server = sdp_server::start(config, listener, shutdown.clone()).await?;
    let person = person();
    let admin = Principal::person(person.clone());
    for name in ["hello", "ledger"] {
        let service = samples.service(name, Some(&baseline.url(name)?))?;
        server.platform.save_service(&admin, service, Save::Put).await?;
    }

    // The agent, with the built-in router.
    // Whoever has the usual port of the server tries for the usual one of the router, too; others do not get in the way.
    let usual = public_url.port() == Some(SERVER);
    let router: SocketAddr = listen(if usual { ROUTER } else { 0 }).await?.local_addr()?;
    let mut config = samples::agent(&data, &samples.folder);
    config.router = Some(RouterConfig::new(router));
    let connector = Connector::InProcess(Arc::new(server.platform.connector("quickstart".parse()?)));
    let stop_agent = CancellationToken::new();
    let mut agent = JoinSet::new();
    agent.spawn(sdp_agent::run(config, connector, stop_agent.clone()));

    // The bot, with the terminal as its chat.
    let name: TokenName = "quickstart-bot".parse()?;
    if server.access.tokens().await?.iter().any(|token| token.name == name) {
        server.access.delete_token(&name).await?;
    }
    let token = server.access.create_token(name, TokenKind::Bot).await?.token;
    let client = Client::new(public_url.clone(), token)?.on_behalf_of(person.clone());
    let options = Options::detect(Some(person.clone()));
    let tour = routing::Tour::new(&server.platform, &admin, router).await?;
    let terminal = std::io::stdin().is_terminal();
    if terminal {
        welcome(&public_url, &tour, &samples.folder, &person);
    }
    let chat = console::run(client, console::stdin(), tokio::io::stdout(), options, shutdown.clone());
    let ended = tokio::select! {
        ended = chat => ended.context("the console could not go on"),
        // Without an agent nothing would ever be deployed.
        Some(Ok(Err(error))) = agent.join_next() => Err(error).context("the agent could not run"),
    };

    if !terminal && ended.is_ok() {
        tour.show().await?;
    }

    // Everything that was started ends: services first, while there is still somebody to report to.
    stop_agent.cancel();
    let agent: Result<(), _> = agent.join_all().await.into_iter().collect();
    shutdown.cancel();
    server.ended().await;
    baseline.stop().await;
    signals.shutdown().await;
    agent.context("the agent could not run")?;
    Ok(ExitCode::from(ended?.exit_code()))
}

fn data_folder() -> anyhow::Result<(PathBuf, Option<tempfile::TempDir>)> {
    if let Some(folder) = std::env::var_os("SDP_QUICKSTART_DATA") {
        let folder = PathBuf::from(folder);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        return Ok((folder.canonicalize()?, None));
    }
    let temporary = tempfile::Builder::new().prefix("sdp-quickstart-").tempdir()?;
    Ok((temporary.path().canonicalize()?, Some(temporary)))
}

/// The port that people can remember, or any other if that is taken.
async fn listen(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind(("127.0.0.1", port)).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind(("127.0.0.1", 0)).await,
    }
}

/// Whoever sits at the terminal.
fn person() -> PersonName {
    let user = std::env::var("USER").ok().and_then(|user| user.parse().ok());
    user.unwrap_or_else(|| PersonName::parse("dev").unwrap_or_else(|_| unreachable!("a valid name")))
}

async fn signals(shutdown: CancellationToken) {
    let signal = async |kind| match unix::signal(kind) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        () = signal(SignalKind::interrupt()) => {}
        () = signal(SignalKind::terminate()) => {}
        // The terminal was closed.
        () = signal(SignalKind::hangup()) => {}
    }
    shutdown.cancel();
}

fn welcome(server: &Url, tour: &routing::Tour, repositories: &Path, person: &PersonName) {
    println!("SDP runs: pages and API at {server}, sandboxes at {}", tour.router);
    println!(
        "Two services, hello and ledger, answer from the shared baseline. You are {person}, and have a sandbox. Try:"
    );
    println!(
        "  /sdp deploy hello feature/greeting     that branch takes your sandbox's traffic for hello, nothing else"
    );
    println!("Then ask twice for the same path, and once for the service that you did not touch:");
    println!("{}", tour.commands());
    println!("  /sdp deploy hello main                 replaces it, without a failed request");
    println!("  /sdp routes      /sdp status      /sdp rollback hello      /sdp help");
    println!("Your sandbox as a picture: {server}sandboxes/{}", tour.sandbox);
    println!("The repositories are in {}: clone one, push a branch, deploy it.", repositories.display());
    println!("Ctrl-C ends everything.\n");
}
