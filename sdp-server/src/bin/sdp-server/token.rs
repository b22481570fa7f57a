//! `sdp-server token`: works on the database in the data folder, beside a running server or without one.

use anyhow::Context;
use clap::{Subcommand, ValueEnum};
use sdp_core::access::Access;
use sdp_core::api::TokenKind;
use sdp_core::name::TokenName;
use sdp_server::Config;

use crate::say;

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token and print it, once, and nothing else.
    Create {
        /// What it may do.
        kind: Kind,
        /// Its name; for an agent the agent's name.
        name: TokenName,
    },
    /// List tokens: name, kind, when it was made.
    List,
    /// Make a token worthless. A running server obeys at once, and ends connections with it within half a minute.
    Revoke {
        /// Its name.
        name: TokenName,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Kind {
    /// Everything.
    Admin,
    /// Speak for the people in chat.
    Bot,
    /// Connect as an agent, and nothing else.
    Agent,
}

impl Token {
    pub(crate) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let data_dir = &config.data_dir;
        config.make_data_dir().await.with_context(|| format!("cannot make {}", data_dir.display()))?;
        let access = Access::open(data_dir)
            .await
            .with_context(|| format!("cannot open the database in {}", data_dir.display()))?;
        let done = self.work(&access).await;
        access.close().await;
        done
    }

    async fn work(self, access: &Access) -> anyhow::Result<()> {
        match self {
            Self::Create { kind, name } => {
                let kind = match kind {
                    Kind::Admin => TokenKind::Admin,
                    Kind::Bot => TokenKind::Bot,
                    Kind::Agent => TokenKind::Agent,
                };
                let made = access.create_token(name, kind).await?;
                say(made.token.expose());
            }
            Self::List => {
                for token in access.tokens().await? {
                    let kind = match token.kind {
                        TokenKind::Admin => "admin",
                        TokenKind::Bot => "bot",
                        TokenKind::Agent => "agent",
                        _ => "?",
                    };
                    say(&format!("{:<24} {kind:<6} {:.0}", token.name, token.created_at));
                }
            }
            Self::Revoke { name } => access.delete_token(&name).await?,
        }
        Ok(())
    }
}
