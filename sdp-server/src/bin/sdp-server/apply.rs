//! `sdp-server apply`: brings a catalog file into a running server over the API. What is the same already is left alone, so
//! doing it again changes nothing. What is not in the file is left alone too. Services come first, then environments, then templates:
//! each names those before.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use sdp_core::api::{Environment, Service, TemplateSpec};
use sdp_core::client::{Client, ClientError};
use sdp_core::name::TemplateName;
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
  health  = { type = \"http\", path = \"/healthz\" }

  [[environment]]
  name     = \"staging\"
  services = { payments = { baseline = \"https://payments-staging.apps.example.com\" } }

  [[template]]
  name        = \"shop\"
  environment = \"staging\"
  services    = { payments = { git_ref = \"main\" } }")]
pub(crate) struct Apply {
    /// The catalog, a TOML file with tables `[[service]]`, `[[environment]]` and `[[template]]`.
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
    #[serde(default)]
    environment: Vec<Environment>,
    #[serde(default)]
    template: Vec<NamedTemplate>,
}

/// A template with its name beside what it says.
#[derive(Debug, Deserialize)]
#[serde(try_from = "toml::Table")]
struct NamedTemplate {
    name: TemplateName,
    spec: TemplateSpec,
}

impl TryFrom<toml::Table> for NamedTemplate {
    type Error = toml::de::Error;

    fn try_from(mut table: toml::Table) -> Result<Self, Self::Error> {
        let missing = || serde::de::Error::missing_field("name");
        let name = table.remove("name").ok_or_else(missing)?.try_into()?;
        Ok(Self { name, spec: table.try_into()? })
    }
}

impl Catalog {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let place = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {place}"))?;
        let catalog: Self = toml::from_str(&text).with_context(|| format!("{place} is no catalog"))?;
        let mut names = BTreeSet::new();
        let mut once = |name: String| match names.insert(name.clone()) {
            true => Ok(()),
            false => bail!("{place}: {name} is there twice"),
        };
        for service in &catalog.service {
            once(format!("service {}", service.name))?;
            service.check().with_context(|| format!("{place}: {}", service.name))?;
        }
        for environment in &catalog.environment {
            once(format!("environment {}", environment.name))?;
            environment.check().with_context(|| format!("{place}: {}", environment.name))?;
        }
        for template in &catalog.template {
            once(format!("template {}", template.name))?;
            template.spec.check().with_context(|| format!("{place}: {}", template.name))?;
        }
        Ok(catalog)
    }
}

impl Apply {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let catalog = Catalog::read(&self.file)?;
        let authorities = match &self.ca_file {
            Some(path) => std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?,
            None => Vec::new(),
        };
        let client = Client::with_authorities(self.server.clone(), self.token()?, &authorities);
        let client = &client.map_err(with_hint)?;

        // What is named comes before what names it.
        let known = client.services().await.map_err(with_hint)?;
        for wanted in &catalog.service {
            let present = known.iter().find(|known| known.name == wanted.name);
            let save = async || client.save_service(wanted).await.map(drop);
            self.bring("service", &wanted.name, present.map(|present| present == wanted), save).await?;
        }
        if !catalog.environment.is_empty() {
            let known = client.environments().await.map_err(with_hint)?;
            for wanted in &catalog.environment {
                let present = known.iter().find(|known| known.name == wanted.name);
                let save = async || client.save_environment(wanted).await.map(drop);
                self.bring("environment", &wanted.name, present.map(|present| present == wanted), save)
                    .await?;
            }
        }
        if !catalog.template.is_empty() {
            let known = client.templates().await.map_err(with_hint)?;
            for NamedTemplate { name, spec } in &catalog.template {
                let present = known.iter().find(|known| known.name == *name);
                let save = async || client.save_template(name, spec).await.map(drop);
                self.bring("template", name, present.map(|present| present.spec == *spec), save).await?;
            }
        }
        Ok(())
    }

    /// Saves one thing unless it is the same already, and says so. `same`: of one that is there.
    async fn bring(
        &self,
        kind: &str,
        name: &impl std::fmt::Display,
        same: Option<bool>,
        save: impl AsyncFn() -> Result<(), ClientError>,
    ) -> anyhow::Result<()> {
        let done = match same {
            Some(true) => "unchanged",
            Some(false) => "updated",
            None => "created",
        };
        if done != "unchanged" && !self.dry_run {
            patiently(save).await.map_err(with_hint).with_context(|| format!("{kind} {name}"))?;
        }
        let note = if self.dry_run && done != "unchanged" { " (not done: dry run)" } else { "" };
        // Services are what catalogs are full of.
        let kind = if kind == "service" { String::new() } else { format!("{kind} ") };
        say(&format!("{done:<9} {kind}{name}{note}"));
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
async fn patiently(save: impl AsyncFn() -> Result<(), ClientError>) -> Result<(), ClientError> {
    loop {
        let Err(error) = save().await else { return Ok(()) };
        let Some(wait) = error.retry_after() else { return Err(error) };
        tokio::time::sleep(wait).await;
    }
}

fn with_hint(error: ClientError) -> anyhow::Error {
    let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
    anyhow::anyhow!("{error}{hint}")
}
