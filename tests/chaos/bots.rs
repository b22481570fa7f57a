//! The bot as people and scripts use it: a console that is killed and started again and to which its person types again what
//! was not taken, and single commands of scripts.
//!
//! What the bot promises for a console (see `sdp-bot/src/follow.rs`): what it has posted is told to its end, once and rightly,
//! as long as it lives; after a restart it posts again what is not over yet. What ends while it is away a console is not told.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use sdp_core::client::{Client, DeploymentFilter};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::Mutex;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::ground::Ground;
use crate::work::{Plan, patiently};

/// How long a person waits after the bot has come back before they type again.
const LOOKS_AFTER: Duration = Duration::from_millis(1500);
const POLL: Duration = Duration::from_millis(200);

/// A life of the console.
#[derive(Debug)]
struct Life {
    child: Child,
    input: ChildStdin,
}

/// When a life was, and what it said.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) from: Timestamp,
    pub(crate) to: Option<Timestamp>,
    pub(crate) output: PathBuf,
}

/// The console over all its lives.
#[derive(Debug)]
pub(crate) struct Console {
    program: PathBuf,
    config: PathBuf,
    folder: PathBuf,
    life: Mutex<Option<Life>>,
    lives: Mutex<Vec<Told>>,
}

impl Console {
    pub(crate) fn new(ground: &Ground) -> Self {
        Self {
            program: ground.programs.bot.clone(),
            config: ground.bot_config.clone(),
            folder: ground.folder.join("output"),
            life: Mutex::default(),
            lives: Mutex::default(),
        }
    }

    pub(crate) async fn start(&self) -> anyhow::Result<()> {
        let mut lives = self.lives.lock().await;
        let output = self.folder.join(format!("bot-{}.log", lives.len() + 1));
        let file = File::create(&output)?;
        let mut child = Command::new(&self.program)
            .arg("--config")
            .arg(&self.config)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(file.try_clone()?)
            .stderr(file)
            .kill_on_drop(true)
            .spawn()?;
        let input = child.stdin.take().context("it has an input")?;
        lives.push(Told { from: Timestamp::now(), to: None, output });
        *self.life.lock().await = Some(Life { child, input });
        Ok(())
    }

    pub(crate) async fn kill(&self) {
        if let Some(mut life) = self.life.lock().await.take() {
            let _ended_already = life.child.start_kill();
            let _status = life.child.wait().await;
        }
        if let Some(last) = self.lives.lock().await.last_mut() {
            last.to.get_or_insert(Timestamp::now());
        }
    }

    pub(crate) async fn lives(&self) -> Vec<Told> {
        self.lives.lock().await.clone()
    }

    /// Types a line; false: there is nobody to read it.
    async fn types(&self, text: &str) -> bool {
        match self.life.lock().await.as_mut() {
            Some(life) => life.input.write_all(format!("{text}\n").as_bytes()).await.is_ok(),
            None => false,
        }
    }

    /// Types the commands one after the other, each again after a restart if the server knows nothing of it.
    pub(crate) async fn converse(
        self: Arc<Self>,
        client: Client,
        plans: Vec<Arc<Plan>>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        for plan in plans {
            sleep(plan.after).await;
            let mut typed_in = 0;
            while !stop.is_cancelled() && !is_known(&client, &plan).await? {
                let life = self.lives.lock().await.len();
                if life > typed_in {
                    if typed_in > 0 {
                        // It may have been on its way to the server when the bot was killed.
                        sleep(LOOKS_AFTER).await;
                    }
                    if !is_known(&client, &plan).await? && self.types(&plan.command()).await {
                        typed_in = life;
                    }
                }
                sleep(POLL).await;
            }
        }
        Ok(())
    }
}

async fn is_known(client: &Client, plan: &Plan) -> anyhow::Result<bool> {
    let filter = DeploymentFilter { service: Some(plan.service.clone()), ..DeploymentFilter::default() };
    let list = patiently(|| client.deployments(&filter)).await?;
    Ok(list.deployments.iter().any(|deployment| deployment.git_ref == plan.branch))
}

/// How a script's command ended.
#[derive(Clone, Debug)]
pub(crate) struct Executed {
    pub(crate) plan: Arc<Plan>,
    /// None: it was killed.
    pub(crate) exit_code: Option<i32>,
    pub(crate) output: String,
}

/// Runs `sdp-bot exec`, and kills it after `kill_after`, if that is to be.
pub(crate) async fn exec(
    program: PathBuf,
    config: PathBuf,
    plan: Arc<Plan>,
    kill_after: Option<Duration>,
) -> anyhow::Result<Executed> {
    sleep(plan.after).await;
    let mut child = Command::new(program)
        .arg("exec")
        .arg(plan.command())
        .arg("--config")
        .arg(config)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(after) = kill_after {
        tokio::select! {
            _ = child.wait() => {}
            () = sleep(after) => child.start_kill()?,
        }
    }
    let out = child.wait_with_output().await?;
    let output = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    Ok(Executed { plan, exit_code: out.status.code(), output })
}

/// What an output says of each deployment's end, by number, in the order in which it was said.
pub(crate) fn outcomes_told(output: &str) -> BTreeMap<u64, Vec<&'static str>> {
    let mut told: BTreeMap<u64, Vec<&'static str>> = BTreeMap::new();
    let mut about = None;
    for line in output.lines() {
        match line.split_once('│') {
            None => {
                if let Some(number) = number(line) {
                    about = Some(number);
                    told.entry(number).or_default();
                }
            }
            Some((_, reply)) => {
                if let (Some(about), Some(outcome)) = (about, outcome(reply)) {
                    told.entry(about).or_default().push(outcome);
                }
            }
        }
    }
    told
}

/// The deployment that a message's first line is about: `▸ #12 payments main → alice: queued`.
fn number(line: &str) -> Option<u64> {
    let words = line.trim_start_matches(|c: char| !c.is_alphanumeric() && c != '#');
    words.strip_prefix('#')?.split_once(' ')?.0.parse().ok()
}

fn outcome(reply: &str) -> Option<&'static str> {
    let words = reply.trim_start_matches(|c: char| !c.is_alphanumeric() && c != '@');
    if words.starts_with("running after") {
        Some("succeeded")
    } else if words.starts_with("cancelled by") {
        Some("cancelled")
    } else if words.starts_with("superseded by") {
        Some("superseded")
    } else if words.starts_with('@') && (words.contains(" failed: ")) {
        Some("failed")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_console_said_is_read_as_a_person_would() {
        let said = "\
> deploy svc0-vm-1 plan-3 to qa-1
▸ #4 svc0-vm-1 plan-3 → qa-1 (asked by alice): queued
  log http://127.0.0.1:1/deployments/4
  │ ✓ resolve plan-3 is 1a2b3c4d 0 s
  #5 svc0-vm-1 plan-4 → qa-1
  │ ✗ @alice build failed: the build ended with an error (exit code 3)
  │   next look at the log
  #4 svc0-vm-1 plan-3 → qa-1
  │ ✓ running after 3 s http://127.0.0.1:2/~qa-1/svc0-vm-1/
▸ #6 svc0-vm-1 plan-5 → qa-1 (asked by alice): queued
  │ · cancelled by ops; nothing that it started is left
";
        let told = outcomes_told(said);
        assert_eq!(
            told,
            BTreeMap::from([(4, vec!["succeeded"]), (5, vec!["failed"]), (6, vec!["cancelled"])])
        );
    }
}
