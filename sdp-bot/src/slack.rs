//! The bot in Slack.
//!
//! ```text
//!                 ┌─ socket  (Socket Mode: the bot connects) ─┐
//!   people ─Slack─┤                                           ├─▶ inbound (what they did) ─▶ dispatch ─▶ Bot ─▶ server
//!                 └─ receive (HTTP: signed requests)  ────────┘                                 │
//!                                                                  answers, form, home ◀────────┤
//!   Slack ◀─ web ◀─ outbox (pace, order, again) ◀─ render (blocks) ◀─ Chat ◀─ Follower ◀────────┘ event feed
//! ```
//! [`run`] starts all of it and ends when one part cannot go on. Nothing in `thread` or `message` knows any of this. Where
//! a message sits is kept in [`crate::store`]; a bot that was killed looks into the channel for what it had said already
//! before it says anything again.

pub mod config;
mod dial;
mod dispatch;
mod form;
mod home;
mod inbound;
mod outbox;
mod pace;
mod place;
mod receive;
mod render;
mod socket;
#[cfg(test)]
mod tests;
mod web;

use std::sync::Arc;
use std::time::Duration;

use sdp_core::client::Client;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::bot::Bot;
use crate::chat::{Abilities, Chat, Conversation};
use crate::follow::{Channels, FollowError};
use crate::store::Store;

pub use config::{Slack, SlackConfig, Way};
pub use dial::DialError;
pub use pace::Rates;

use dispatch::Dispatch;
use inbound::Answers;
use outbox::Outbox;
use web::{Web, WebError};

/// How long the parts have to end, each.
const GRACE: Duration = Duration::from_secs(8);

/// Why the bot cannot go on in Slack.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SlackError {
    /// Slack knows the app no more, or not this way.
    #[error(
        "Slack refuses the app: {code}; look at its tokens and whether it is installed and Socket Mode is on"
    )]
    Barred {
        /// Slack's code.
        code: String,
    },
    /// Connections cannot be set up.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The address for Slack's requests cannot be used.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The server refuses the bot, or its database fails.
    #[error(transparent)]
    Follow(#[from] FollowError),
    /// A part ended as no part should.
    #[error("a part of the bot broke off")]
    Broken,
}

impl From<WebError> for SlackError {
    fn from(error: WebError) -> Self {
        Self::Barred { code: error.code().to_owned() }
    }
}

/// What a chat in Slack can do.
const ABILITIES: Abilities = Abilities {
    edit_every: Duration::from_secs(2),
    tick: Some(Duration::from_secs(15)),
    private: false,
    places_survive: true,
    watched: false,
    paced: true,
};

/// Runs the bot in Slack until `shutdown`. `authorities`: certificates (PEM) that are trusted beside the system's.
///
/// # Errors
/// [`SlackError`]: it cannot go on; what is to be said is kept and said after the next start.
pub async fn run(
    client: Client,
    slack: Slack,
    authorities: &[u8],
    store: Store,
    shutdown: CancellationToken,
) -> Result<(), SlackError> {
    let dial = dial::dial(authorities, slack.proxy.as_ref())?;
    let app_token = match &slack.way {
        Way::Socket { app_token } => Some(app_token),
        Way::Http { .. } => None,
    };
    let listener = match &slack.way {
        Way::Http { listen, .. } => Some(receive::bind(*listen).await?),
        Way::Socket { .. } => None,
    };
    let web = Arc::new(Web::new(dial.clone(), &slack.api_url, &slack.bot_token, app_token));
    let identity = tokio::select! {
        identity = identity(&web) => identity?,
        () = shutdown.cancelled() => return Ok(()),
    };
    tracing::info!(
        user = identity.user_id,
        workspace = identity.url.as_ref().map(url::Url::as_str),
        "in Slack"
    );

    let (chat, requests) = Chat::new(ABILITIES);
    let (bot, follower) = Bot::new(client, chat.clone(), store.clone());
    let services =
        slack.channels.into_iter().map(|(service, channel)| (service, Conversation(channel))).collect();
    let environments =
        slack.environments.into_iter().map(|(name, channel)| (name, Conversation(channel))).collect();
    let follower = follower.telling(Channels { services, environments }).with_notices();
    let answers = Answers::new(&slack.api_url);
    let dispatch = Dispatch::new(bot, chat, web.clone(), store, answers, identity, slack.app_id);

    // Those who take, those who do, those who say end in this order, so that what was taken is done and said.
    let (taking, doing, saying) =
        (shutdown.child_token(), CancellationToken::new(), CancellationToken::new());
    let _all_end_with_this = [doing.clone().drop_guard(), saying.clone().drop_guard()];
    let mut takers: JoinSet<Result<(), SlackError>> = JoinSet::new();
    match slack.way {
        Way::Socket { .. } => {
            let (web, dispatch, taking) = (web.clone(), dispatch.clone(), taking.clone());
            takers.spawn(async move { Ok(socket::run(web, dial, dispatch, taking).await?) });
        }
        Way::Http { signing_secret, .. } => {
            let (dispatch, taking) = (dispatch.clone(), taking.clone());
            takers.spawn(async move {
                let Some(listener) = listener else { return Err(SlackError::Broken) };
                receive::run(listener, signing_secret, dispatch, taking).await;
                Ok(())
            });
        }
    }
    let mut doers: JoinSet<Result<(), SlackError>> = JoinSet::new();
    {
        let doing = doing.clone();
        doers.spawn(async move {
            dispatch.run(doing).await;
            Ok(())
        });
    }
    let mut sayers: JoinSet<Result<(), SlackError>> = JoinSet::new();
    let following = saying.clone();
    sayers.spawn(async move { Ok(follower.run(following).await?) });
    let speaking = saying.clone();
    sayers.spawn(async move { Ok(Outbox::new(web, slack.rates, requests).run(speaking).await?) });

    let ended = tokio::select! {
        ended = takers.join_next() => ended,
        ended = doers.join_next() => ended,
        ended = sayers.join_next() => ended,
    };
    let result = match ended {
        Some(Ok(Err(error))) => Err(error),
        _ if shutdown.is_cancelled() => Ok(()),
        _ => Err(SlackError::Broken),
    };
    for (token, tasks) in [(taking, &mut takers), (doing, &mut doers), (saying, &mut sayers)] {
        token.cancel();
        let ending = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, ending).await.is_err() {
            tracing::warn!("a part of the bot did not end in time");
            tasks.shutdown().await;
        }
    }
    result
}

/// Who the bot is; asked until Slack says so, one way or the other.
async fn identity(web: &Web) -> Result<web::Identity, SlackError> {
    let mut tried = 0;
    loop {
        let pause = match web.auth_test().await {
            Ok(identity) => return Ok(identity.clone()),
            Err(WebError::Barred(code) | WebError::Refused(code)) => return Err(SlackError::Barred { code }),
            Err(WebError::TooMany(pause)) => pause,
            Err(error @ WebError::Unclear(_)) => {
                tracing::warn!(%error, "Slack cannot be reached; trying again");
                pace::pause(tried)
            }
        };
        tried += 1;
        sleep(pause).await;
    }
}
