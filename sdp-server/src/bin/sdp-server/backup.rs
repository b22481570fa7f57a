//! `sdp-server backup`, `restore` and `accept-loss`: what is done to a data folder as a whole, on the server's host.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use sdp_core::backup;
use sdp_server::Config;

use crate::say;

#[derive(Debug, Args)]
#[command(after_help = "\
The backup is a folder, readable by its owner alone, that any tool can copy elsewhere:
  sdp.db        the database: catalog, sandboxes, deployments, events, hashes of tokens, sealed secrets
  logs/         the job logs
  backup.json   what is in it, with checksums
It is checked before it gets its name; exit code 0 means that it is whole and on disk.")]
pub(crate) struct Backup {
    /// Where to: a folder that is not there yet.
    to: PathBuf,
}

impl Backup {
    pub(crate) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let (data_dir, to) = (config.data_dir.clone(), self.to.clone());
        let made = tokio::task::spawn_blocking(move || backup::backup(&data_dir, &to)).await??;
        say(&format!("{}: {made}", self.to.display()));
        Ok(())
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Stop the server, move everything out of its data_dir, restore, put the key file back (seal.key, unless
secrets.key_file names another place; no backup has it), start the server. What happened after the backup
is forgotten: agents drop jobs and remove instances that the server does not know any more when they connect.
The backup is checked first, and is left as it is.
Run it as the server's user, who owns what it makes: sudo -u sdp-server sdp-server restore ... That user must be able
to read the backup.")]
pub(crate) struct Restore {
    /// The folder that `sdp-server backup` has made.
    from: PathBuf,
}

impl Restore {
    pub(crate) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let data_dir = config.data_dir.clone();
        let restored = tokio::task::spawn_blocking(move || backup::restore(&self.from, &data_dir)).await??;
        let made_at = restored.made_at;
        say(&format!("{}: as it was at {made_at:.0}: {restored}", config.data_dir.display()));
        if restored.sealed > 0 {
            say(
                "Before the server is started, put its former key file back (secrets.key_file, by default seal.key in data_dir): \
                 with a new key people must log in again, and services' secrets be set again.",
            );
        }
        Ok(())
    }
}

pub(crate) async fn accept_loss(config: &Config) -> anyhow::Result<()> {
    let folder = config.data_dir.display();
    let loss = backup::accept_loss(&config.data_dir)
        .await
        .with_context(|| format!("nothing is done to {folder}"))?;
    if loss.newest_event >= loss.committed {
        say(&format!("{folder}: nothing is missing, and nothing was changed"));
    } else {
        say(&format!(
            "{folder}: goes on from event {}; those up to {} are lost",
            loss.newest_event, loss.committed
        ));
    }
    Ok(())
}
