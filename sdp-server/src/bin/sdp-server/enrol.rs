//! `sdp-server enrol`: for a new agent, and for one whose token is lost. Works on the database, beside a running server.

use anyhow::Context;
use clap::Args;
use sdp_core::access::Access;
use sdp_core::name::AgentName;
use sdp_server::Config;

use crate::{audit, say};

#[derive(Debug, Args)]
pub(crate) struct Enrol {
    /// The agent's name.
    agent: AgentName,
}

impl Enrol {
    pub(crate) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let data_dir = &config.data_dir;
        config.make_data_dir().await.with_context(|| format!("cannot make {}", data_dir.display()))?;
        let access = Access::open(data_dir)
            .await
            .with_context(|| format!("cannot open the database in {}", data_dir.display()))?;
        let made = access.create_enrolment(self.agent).await;
        access.close().await;
        let made = made?;
        audit::record(config, "create_enrolment", Some(made.agent.to_string())).await?;
        say(made.token.expose());
        Ok(())
    }
}
