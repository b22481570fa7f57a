//! SDP inside a program of your own: an orchestrator and an agent in this process, one deploy, its events, its URL.
//!
//! `cargo run --example embed` deploys a sample; `cargo run --example embed -- REPOSITORY BRANCH PROGRAM` deploys the branch
//! of a local repository whose PROGRAM serves HTTP on the port in the variable PORT.

#![expect(clippy::print_stdout, reason = "it talks to whoever runs it")]

#[path = "quickstart/samples.rs"]
mod samples;

use std::sync::Arc;

use sdp_agent::Connector;
use sdp_agent::router::RouterConfig;
use sdp_core::event::EventKind;
use sdp_core::feed::EventFilter;
use sdp_core::platform::{Deploy, Platform, PlatformConfig, Save};
use sdp_core::principal::Principal;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider().install_default().ok();
    let data = tempfile::tempdir()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();

    // The catalog: one service.
    let (service, branch, repositories) = match arguments.as_slice() {
        [repository, branch, program] => {
            let repository = std::path::Path::new(repository).canonicalize()?;
            let entry = serde_json::json!({
                "name": "mine", "repo": repository, "builder": { "type": "command", "run": [program] },
            });
            (serde_json::from_value(entry)?, branch.clone(), repository)
        }
        _ => {
            let samples = samples::Samples::make(&data.path().join("repositories"))?;
            (samples.service("hello", None)?, "feature/greeting".to_owned(), samples.folder)
        }
    };
    let me = Principal::person("me".parse()?);
    let platform = Platform::start(PlatformConfig::new(data.path())).await?;
    let name = service.name.clone();
    platform.save_service(&me, service, Save::Put).await?;

    // An agent with a router; it dials the platform in process.
    let mut config = samples::agent(data.path(), &repositories);
    config.router = Some(RouterConfig::new("127.0.0.1:0".parse()?));
    let shutdown = CancellationToken::new();
    let connector = Connector::InProcess(Arc::new(platform.connector("here".parse()?)));
    let mut agent = JoinSet::new();
    agent.spawn(sdp_agent::run(config, connector, shutdown.clone()));

    // Deploy, and follow what happens.
    let deployment = platform.deploy(&me, Deploy::new(name).git_ref(branch.parse()?)).await?;
    let mut feed = platform
        .feed(deployment.version, EventFilter { deployment: Some(deployment.id), ..Default::default() });
    loop {
        match feed.next().await?.kind {
            EventKind::StepStarted { step, .. } => println!("{step} …"),
            EventKind::CommitResolved { commit } => println!("  {branch} is {}", commit.short()),
            EventKind::DeploymentEnded { outcome, url } => {
                println!("{}", outcome.code());
                for line in platform.logs().tail(deployment.id, 5).await? {
                    println!("  | {}", String::from_utf8_lossy(&line.bytes));
                }
                if let Some(url) = url {
                    println!("it answers at {url}; Enter ends it");
                    std::io::stdin().read_line(&mut String::new())?;
                }
                break;
            }
            _ => {}
        }
    }
    shutdown.cancel();
    agent.join_all().await.into_iter().collect::<Result<(), _>>()?;
    platform.stop().await;
    Ok(())
}
