//! `sdp-server sign-in`: for the first sign-in, before there is a chat or an agent, and for whoever has lost it.

use anyhow::{Context, bail};
use clap::Args;
use sdp_core::access::{Access, Begun};
use sdp_core::api::TokenKind;
use sdp_core::name::{PersonName, TokenName};
use sdp_core::principal::Principal;
use sdp_server::Config;

use crate::{audit, say};

#[derive(Debug, Args)]
pub(crate) struct SignIn {
    /// A person who has logged in before, or an operator's admin token by its name (the first one is `admin`); where bots are
    /// trusted, anybody by their name in chat.
    name: PersonName,
}

impl SignIn {
    pub(crate) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let folder = config.data_dir.display();
        let access = Access::open(&config.data_dir)
            .await
            .with_context(|| format!("cannot open the database in {folder}"))?;
        let link = self.link(&access, config).await;
        access.close().await;
        let link = link?;
        audit::record(config, "create_sign_in_link", Some(self.name.to_string())).await?;
        say(&link);
        Ok(())
    }

    async fn link(&self, access: &Access, config: &Config) -> anyhow::Result<String> {
        let code = access.create_sign_in_code(&self.whom(access, config).await?, "/").await?;
        let mut url = config.public_url.clone();
        url.set_path(&format!("/sign-in/{}", code.code.expose()));
        Ok(url.into())
    }

    async fn whom(&self, access: &Access, config: &Config) -> anyhow::Result<Begun> {
        let person = Principal::person(self.name.clone());
        let begun = Begun { principal: person, account: None, token: None, binding: None };
        if access.person(&self.name).await?.is_some() {
            return Ok(Begun { account: Some(self.name.clone()), ..begun });
        }
        let is_admin = |token: &sdp_core::api::TokenInfo| {
            token.kind == TokenKind::Admin
                && token.owner.is_none()
                && token.name.as_str() == self.name.as_str()
        };
        if access.tokens().await?.iter().any(is_admin) {
            let name = TokenName::parse(self.name.as_str())?;
            return Ok(Begun {
                principal: Principal::Token { name: name.clone() },
                token: Some(name),
                ..begun
            });
        }
        if config.login.trust_bot {
            return Ok(begun);
        }
        bail!(
            "nobody named {0} has logged in here, and no admin token has that name; `sdp-server token list` names the tokens",
            self.name
        )
    }
}
