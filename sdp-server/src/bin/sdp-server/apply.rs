//! `sdp-server apply`: brings a catalog file into a running server over the API. What is the same already is left alone, so
//! doing it again changes nothing. Services that are not in the file are left alone too.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use sdp_core::api::Service;
use sdp_core::client::{Client, ClientError};
use sdp_core::secret::Secret;
use serde::Deserialize;
use url::Url;

use crate::say;

#[derive(Debug, Args)]
#[command(after_help = "\
A catalog:
  [[service]]
  name    = \"payments\"
  repo    = \"https://bitbucket.org/team/payments.git\"
  builder = { type = \"go\", main_package = \"cmd/payments\" }
  health  = { type = \"http\", path = \"/healthz\" }")]
pub(crate) struct Apply {
    /// The catalog, a TOML file with `[[service]]` tables.
    file: PathBuf,
    /// The server's public URL.
    #[arg(long, value_name = "URL", env = "SDP_URL")]
    server: Url,
    /// A file with an admin token.
    #[arg(long, value_name = "FILE", env = "SDP_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// A file with certificates (PEM) of authorities that are trusted beside the system's.
    #[arg(long, value_name = "FILE", env = "SDP_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Catalog {
    #[serde(default)]
    service: Vec<Service>,
}

impl Apply {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let place = self.file.display();
        let text = std::fs::read_to_string(&self.file).with_context(|| format!("cannot read {place}"))?;
        let catalog: Catalog = toml::from_str(&text).with_context(|| format!("{place} is no catalog"))?;
        let mut names = BTreeSet::new();
        for service in &catalog.service {
            service.check().with_context(|| format!("{place}: {}", service.name))?;
            if !names.insert(&service.name) {
                bail!("{place}: {} is there twice", service.name);
            }
        }
        let authorities = match &self.ca_file {
            Some(path) => std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?,
            None => Vec::new(),
        };
        let client = Client::with_authorities(self.server.clone(), self.token()?, &authorities);
        let client = client.map_err(with_hint)?;
        let known: BTreeMap<_, _> = client
            .services()
            .await
            .map_err(with_hint)?
            .into_iter()
            .map(|service| (service.name.clone(), service))
            .collect();
        for service in &catalog.service {
            let done = match known.get(&service.name) {
                Some(present) if present == service => "unchanged",
                Some(_) => "updated",
                None => "created",
            };
            if done != "unchanged" && !self.dry_run {
                save(&client, service).await.map_err(with_hint).with_context(|| service.name.to_string())?;
            }
            let note = if self.dry_run && done != "unchanged" { " (not done: dry run)" } else { "" };
            say(&format!("{:<9} {}{note}", done, service.name));
        }
        Ok(())
    }

    /// From the file, or from `SDP_TOKEN`; never from the command line, which everybody on the machine can read.
    fn token(&self) -> anyhow::Result<Secret> {
        match &self.token_file {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read the token in {}", path.display()))?;
                Ok(Secret::new(text.trim()))
            }
            None => std::env::var("SDP_TOKEN")
                .map(Secret::new)
                .context("give a token: --token-file, or SDP_TOKEN"),
        }
    }
}

/// A catalog may be longer than the server takes at once: then this takes its time.
async fn save(client: &Client, service: &Service) -> Result<(), ClientError> {
    loop {
        let Err(error) = client.save_service(service).await else { return Ok(()) };
        let Some(wait) = error.retry_after() else { return Err(error) };
        tokio::time::sleep(wait).await;
    }
}

fn with_hint(error: ClientError) -> anyhow::Error {
    let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
    anyhow::anyhow!("{error}{hint}")
}
