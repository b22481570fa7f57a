//! `sdp-server audit`: looks at the audit on the server's host; and what the other commands there write into it.

use anyhow::{Context, bail};
use clap::Subcommand;
use sdp_core::audit::{Audit as Entries, AuditVia, AuditWho, Chain, DONE, NewEntry};
use sdp_server::Config;

use crate::say;

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// Check that no entry was changed or taken out. Works while the server runs.
    Verify,
    /// Print all entries as JSON lines, oldest first.
    Export,
}

impl Audit {
    pub(crate) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let audit = open(config).await?;
        let done = match self {
            Self::Verify => verify(&audit).await,
            Self::Export => export(&audit).await,
        };
        audit.close().await;
        done
    }
}

async fn open(config: &Config) -> anyhow::Result<Entries> {
    let folder = config.data_dir.display();
    Entries::open(&config.data_dir).await.with_context(|| format!("cannot open the database in {folder}"))
}

async fn verify(audit: &Entries) -> anyhow::Result<()> {
    match audit.verify().await? {
        Chain::Whole { entries } => say(&format!("{entries} entries, each as it was written")),
        Chain::Broken { at } => bail!(
            "entry {at} does not follow from those before it: it, or one before, was changed or taken out"
        ),
    }
    Ok(())
}

async fn export(audit: &Entries) -> anyhow::Result<()> {
    let mut last = 0;
    loop {
        let page = audit.after(last).await?;
        let Some(newest) = page.last() else { return Ok(()) };
        last = newest.seq;
        for entry in &page {
            say(&serde_json::to_string(entry)?);
        }
    }
}

/// Writes down what a command on this host has done.
pub(crate) async fn record(config: &Config, action: &str, target: Option<String>) -> anyhow::Result<()> {
    let audit = open(config).await?;
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let name = variable("SUDO_USER").or_else(|| variable("USER")).or_else(|| variable("LOGNAME"));
    let entry = NewEntry {
        who: AuditWho::Host { name: name.unwrap_or_else(|| "somebody".to_owned()) },
        via: AuditVia::Host,
        address: None,
        action: action.to_owned(),
        target,
        result: DONE.to_owned(),
        request: None,
    };
    let written = audit.record(entry).await;
    audit.close().await;
    written.context("it was done, and is not in the audit")
}
