//! `sdp-server token`: works on the database in the data folder, beside a running server or without one.

use anyhow::{Context, bail};
use clap::{Subcommand, ValueEnum};
use jiff::{Timestamp, ToSpan};
use sdp_core::access::{Access, NewToken};
use sdp_core::api::TokenKind;
use sdp_core::name::{ServiceName, TokenName};
use sdp_server::Config;

use crate::{audit, say};

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token and print it, once, and nothing else.
    Create {
        /// What it may do.
        kind: Kind,
        /// Its name; for an agent the agent's name.
        name: TokenName,
        /// It stops to work after so many days; else it works until it is revoked.
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..=3650))]
        expires_in: Option<u16>,
        /// The only service that it may change; for `deploy`.
        #[arg(long, value_name = "NAME")]
        service: Option<ServiceName>,
    },
    /// List tokens: name, kind, owner, service, when it was made, until when it works.
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
    /// What a developer may: deploy, cancel, stop, restart.
    Deploy,
    /// Look.
    Read,
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
        let noted = match &self {
            Self::Create { kind, name, .. } => {
                Some(("create_token", format!("{name} ({kind:?})").to_lowercase()))
            }
            Self::Revoke { name } => Some(("delete_token", name.to_string())),
            Self::List => None,
        };
        let done = self.work(&access).await;
        access.close().await;
        if let (Ok(()), Some((action, target))) = (&done, noted) {
            audit::record(config, action, Some(target)).await?;
        }
        done
    }

    async fn work(self, access: &Access) -> anyhow::Result<()> {
        match self {
            Self::Create { kind, name, expires_in, service } => {
                let kind = match kind {
                    Kind::Admin => TokenKind::Admin,
                    Kind::Deploy => TokenKind::Deploy,
                    Kind::Read => TokenKind::Read,
                    Kind::Bot => TokenKind::Bot,
                    Kind::Agent => TokenKind::Agent,
                };
                if service.is_some() && kind != TokenKind::Deploy {
                    bail!("--service: only a token of the kind deploy can be for one service");
                }
                let ends = |days: u16| Timestamp::now().checked_add((i64::from(days) * 24).hours());
                let expires_at = expires_in.map(ends).transpose()?;
                let made =
                    access.issue_token(NewToken { name, kind, owner: None, service, expires_at }).await?;
                say(made.token.expose());
            }
            Self::List => {
                for token in access.tokens().await? {
                    let or = |text: Option<String>, none: &str| text.unwrap_or_else(|| none.to_owned());
                    let owner = or(token.owner.map(|owner| owner.to_string()), "-");
                    let service = or(token.service.map(|service| service.to_string()), "-");
                    let ends = or(token.expires_at.map(|at| format!("until {at:.0}")), "until revoked");
                    let (name, kind, made) = (token.name, token.kind.as_str(), token.created_at);
                    say(&format!("{name:<24} {kind:<6} {owner:<16} {service:<16} {made:.0} {ends}"));
                }
            }
            Self::Revoke { name } => drop(access.delete_token(&name).await?),
        }
        Ok(())
    }
}
