//! What it is all for, as requests: the same path, with a sandbox's key and without it.

use std::net::SocketAddr;

use sdp_core::api::SaveSandbox;
use sdp_core::name::{RoutingKey, SandboxName};
use sdp_core::platform::{Platform, PlatformError, Power, Save};
use sdp_core::principal::Principal;
use sdp_core::routing::{ROUTING_KEY, SERVED_BY};
use url::Url;

/// The paths that are asked for: one of a service that is deployed in the first minute, one of another.
const PATHS: [&str; 2] = ["hello/", "ledger/"];

pub(crate) struct Tour {
    pub(crate) router: Url,
    pub(crate) sandbox: SandboxName,
    key: RoutingKey,
}

impl Tour {
    /// The asker's own sandbox, made if it is not there.
    pub(crate) async fn new(
        platform: &Platform,
        by: &Principal,
        router: SocketAddr,
    ) -> Result<Self, anyhow::Error> {
        let name = by.own_sandbox();
        let known = match platform.sandbox(&name).await {
            Err(PlatformError::UnknownSandbox { .. }) => {
                let wanted = SaveSandbox::default();
                platform.save_sandbox(by, &name, wanted, Save::Put, Power::Member).await?.0
            }
            known => known?,
        };
        Ok(Self { router: format!("http://{router}/").parse()?, sandbox: name, key: known.key })
    }

    /// What to type.
    pub(crate) fn commands(&self) -> String {
        let (router, key) = (&self.router, &self.key);
        format!(
            "  curl {router}hello/\n  curl -H '{ROUTING_KEY}: {key}' {router}hello/\n  \
             curl -H '{ROUTING_KEY}: {key}' {router}ledger/"
        )
    }

    /// Asks, and prints who answered.
    pub(crate) async fn show(&self) -> anyhow::Result<()> {
        let http = reqwest::Client::builder().no_proxy().build()?;
        println!("\nWho answers at the router, without and with the key of the sandbox {}:", self.sandbox);
        for path in PATHS {
            for key in [None, Some(&self.key)] {
                let mut request = http.get(self.router.join(path)?);
                if let Some(key) = key {
                    request = request.header(ROUTING_KEY, key.as_str());
                }
                let answer = request.send().await?;
                let by = answer.headers().get(SERVED_BY).and_then(|by| by.to_str().ok());
                let with = key.map_or_else(String::new, |key| format!(" -H '{ROUTING_KEY}: {key}'"));
                println!("  curl{with} {}{path}  →  {}", self.router, by.unwrap_or("?"));
            }
        }
        Ok(())
    }
}
