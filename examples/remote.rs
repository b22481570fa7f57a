//! A program of yours that deploys through the REST API: feature `client` of sdp-core is all it needs.
//!
//! `SDP_TOKEN=… cargo run --example remote -- https://sdp.example.com payments feature/refund`

#![expect(clippy::print_stdout, reason = "it talks to whoever runs it")]

use sdp_core::api::CreateDeployment;
use sdp_core::client::Client;
use sdp_core::id::DeploymentRef;
use sdp_core::secret::Secret;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider().install_default().ok();
    let usage = "remote SERVER SERVICE BRANCH, with the token in SDP_TOKEN";
    let [server, service, branch] = <[String; 3]>::try_from(std::env::args().skip(1).collect::<Vec<_>>())
        .map_err(|_| anyhow::anyhow!("usage: {usage}"))?;
    let client = Client::new(server.parse()?, Secret::new(std::env::var("SDP_TOKEN")?))?;
    let request = CreateDeployment {
        service: service.parse()?,
        git_ref: Some(branch.parse()?),
        sandbox: None,
        env: Default::default(),
        notify: None,
        git_credential: None,
    };
    let created = client.deploy(&request, None).await?;
    println!("deployment {}: {}", created.number, created.log_url);
    let ended = client.wait(DeploymentRef::Id(created.id)).await?.deployment;
    match (ended.outcome(), &ended.url) {
        (_, Some(url)) => println!("running at {url}"),
        (outcome, None) => anyhow::bail!("it did not succeed: {outcome:?}"),
    }
    Ok(())
}
