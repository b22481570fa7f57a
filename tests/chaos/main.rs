//! The chaos run: a whole SDP of real processes in which everything is killed and every link is cut while 20 deployments run,
//! round after round, and afterwards nothing may be lost, doubled, reordered, stuck or left over. `scripts/chaos` builds and
//! runs it; `scripts/test` has five rounds of it.
//!
//! ```text
//!   round ─┬─ ground      folder, ports, configuration, repositories, plans        (all by lot: rng)
//!          ├─ cluster     server, agents (processes) behind a proxy each, console; faults are done here
//!          ├─ work, bots  deployments by REST, console, script        viewers: logs and the feed, all the time
//!          ├─ faults      which, when
//!          └─ oracle      what is there against what was printed, promised and asked for     report: figures, violations
//! ```
//! The invariant it holds SDP to: what was acknowledged is there, what has begun ends, what is not ours is not touched. A round
//! can be asked for again by its seed and number; what the system's scheduler makes of it cannot.
//!
//! To let it grow: a new fault is a variant in `faults`, a new promise a check in `oracle`, a new kind of load a plan in `work`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it talks to whoever runs it")]

#[path = "../../examples/quickstart/samples.rs"]
#[expect(dead_code, reason = "shared with the quickstart, which uses more of it")]
mod samples;

mod bots;
mod cluster;
mod faults;
mod ground;
mod oracle;
mod processes;
mod proxy;
mod report;
mod rng;
mod round;
mod viewers;
mod work;

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context;
use clap::Parser;
use tokio_util::sync::CancellationToken;

use ground::Programs;
use oracle::machine::{Decoys, has_docker};
use report::{Figures, Findings};
use round::Setup;

/// Kills server, agents and bot at random moments, cuts and delays the links between them, while deployments run; then looks
/// whether anything was lost.
///
/// It fails with an account of each violation, and keeps the folder of the round in which it was: every program's log, the
/// data of server and agents, what each build printed.
#[derive(Debug, Parser)]
#[command(
    name = "chaos",
    after_help = "Examples:
  scripts/chaos                           five rounds, another seed each time
  scripts/chaos --rounds 30 --seed 7      as many as you like
  scripts/chaos --seed 7 --round 12       that round alone, again
  scripts/chaos --release --rounds 100    with the optimised programs"
)]
struct Cli {
    /// How many rounds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// What all chance comes from; without one it is drawn, and printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Only this round of the seed's.
    #[arg(long)]
    round: Option<u32>,
    /// Deployments of each round, beside the bot's.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=150))]
    deployments: u16,
    /// Keep the folders of rounds that found nothing, too.
    #[arg(long)]
    keep: bool,
    /// Plain processes alone, even where Docker answers.
    #[arg(long)]
    no_docker: bool,
    /// Where the programs are; the default is beside this one.
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    rustls::crypto::ring::default_provider().install_default().ok();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let ran = runtime.context("a runtime").and_then(|runtime| runtime.block_on(interruptible(cli)));
    match ran {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Ctrl-C and SIGTERM end it with everything that it has started.
async fn interruptible(cli: Cli) -> anyhow::Result<bool> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let interrupted = CancellationToken::new();
    let told = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        interrupted.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = told => Ok(false),
        ended = run(cli, &interrupted) => ended,
    }
}

async fn run(cli: Cli, interrupted: &CancellationToken) -> anyhow::Result<bool> {
    // Short enough to be typed.
    let seed = cli.seed.unwrap_or_else(|| u64::from(uuid::Uuid::new_v4().as_fields().0));
    let beside = std::env::current_exe()?;
    let beside = beside.ancestors().nth(2).context("the program lies in a folder")?.to_owned();
    let programs = Programs::find(cli.programs.as_ref().unwrap_or(&beside))?;
    let docker = !cli.no_docker && has_docker().await;
    println!("chaos: seed {seed}, {} Docker", if docker { "with" } else { "without" });
    let mut decoys = Decoys::default();
    let ran = async {
        if docker {
            decoys.start().await?;
        }
        rounds(&cli, seed, &programs, docker, &decoys, interrupted).await
    }
    .await;
    decoys.remove().await?;
    ran
}

async fn rounds(
    cli: &Cli,
    seed: u64,
    programs: &Programs,
    docker: bool,
    decoys: &Decoys,
    interrupted: &CancellationToken,
) -> anyhow::Result<bool> {
    let root = tempfile::Builder::new().prefix("sdp-chaos-").tempdir()?.keep();
    // The build user goes through it.
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o711))?;
    let figures = Arc::new(Mutex::new(Figures::default()));
    let rounds = match cli.round {
        Some(round) => round..=round,
        None => 1..=cli.rounds,
    };
    for round in rounds {
        let findings = Findings::new(round, figures.clone());
        let folder = root.join(format!("round-{round}"));
        let setup =
            Setup { round, seed, folder: folder.clone(), deployments: cli.deployments.into(), docker };
        let begun = Instant::now();
        let played = round::run(&setup, programs, decoys, &findings, interrupted).await;
        if interrupted.is_cancelled() {
            anyhow::bail!("interrupted; what there was is in {}", root.display());
        }
        if let Err(error) = played {
            findings.say("round", "the round itself", format!("{error:#}"));
        }
        findings.figures().rounds += 1;
        let violations = findings.violations();
        println!("round {round}: {:.1} s, {violations} violations", begun.elapsed().as_secs_f64());
        print!("{}", findings.figures().account(round, seed, &folder));
        if violations == 0 && !cli.keep {
            std::fs::remove_dir_all(&folder)?;
        }
    }
    // It goes where every round was clean.
    if std::fs::remove_dir(&root).is_err() {
        println!("kept: {}", root.display());
    }
    let mut figures = figures.lock().unwrap_or_else(PoisonError::into_inner);
    for lack in figures.demand_substance() {
        println!("the run shows too little: {lack}");
    }
    println!("\n{}", figures.table());
    Ok(figures.is_clean())
}
