//! `sdp-server sign-in`: for the first sign-in, before there is a chat, and for whoever has lost it.

use anyhow::Context;
use clap::Args;
use sdp_core::access::Access;
use sdp_core::name::PersonName;
use sdp_core::principal::Principal;
use sdp_server::Config;

use crate::say;

#[derive(Debug, Args)]
pub(crate) struct SignIn {
    /// The person, named as in chat.
    person: PersonName,
}

impl SignIn {
    pub(crate) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let folder = config.data_dir.display();
        let access = Access::open(&config.data_dir)
            .await
            .with_context(|| format!("cannot open the database in {folder}"))?;
        let code = access.create_sign_in_code(&Principal::person(self.person), "/").await;
        access.close().await;
        let code = code?;
        let mut url = config.public_url.clone();
        url.set_path(&format!("/sign-in/{}", code.code.expose()));
        say(url.as_str());
        Ok(())
    }
}
