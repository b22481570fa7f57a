//! Slack's Web API, as far as the bot asks it: slack-morphism's client over our own connections, with a limit to every wait and
//! the answers sorted by what one does about them.
//!
//! Called by [`super::outbox`], [`super::dispatch`] and [`super::socket`]. Answers are read leniently, by the few fields that are
//! needed: a history full of other apps' messages must not fail for a field of theirs.
//!
//! Limits: a call takes at most [`TIMEOUT`], one that somebody's click waits for [`QUICK`].

use std::sync::OnceLock;
use std::time::Duration;

use sdp_core::secret::Secret;
use serde::Deserialize;
use serde_json::{Value, json};
use slack_morphism::SlackApiToken;
use slack_morphism::errors::SlackClientError;
use slack_morphism::prelude::{
    SlackApiPostWebhookMessageRequest, SlackClient, SlackClientHyperConnector, SlackMessageContent, SlackView,
};
use tokio::time::timeout;
use url::Url;

use super::dial::Dial;
use super::render::Rendered;

/// How long a call may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(15);
/// How long one may take that has to be answered within Slack's three seconds.
pub(super) const QUICK: Duration = Duration::from_millis(2500);
/// After a 429 that does not say for how long.
const PAUSE: Duration = Duration::from_secs(10);
/// The longest pause that is believed.
const MAX_PAUSE: Duration = Duration::from_secs(300);

/// What to do about a call that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WebError {
    /// Ask again after this time.
    #[error("Slack asks to wait for {} s", .0.as_secs())]
    TooMany(Duration),
    /// Slack does not know this app any more: nothing will be answered until somebody acts.
    #[error("Slack refuses the app's token: {0}")]
    Barred(String),
    /// It was not done, and will not be, as it is.
    #[error("Slack refuses it: {0}")]
    Refused(String),
    /// No answer that could be read: it may have been done or not.
    #[error("Slack did not answer: {0}")]
    Unclear(String),
}

impl WebError {
    /// Slack's code, or ours.
    pub(super) fn code(&self) -> &str {
        match self {
            Self::TooMany(_) => "ratelimited",
            Self::Barred(code) | Self::Refused(code) => code,
            Self::Unclear(_) => "no_answer",
        }
    }

    fn of_code(code: String) -> Self {
        match code.as_str() {
            "invalid_auth"
            | "not_authed"
            | "account_inactive"
            | "token_revoked"
            | "token_expired"
            | "org_login_required"
            | "not_allowed_token_type"
            | "app_not_found"
            | "link_disabled" => Self::Barred(code),
            "ratelimited" | "rate_limited" | "message_limit_exceeded" => Self::TooMany(PAUSE),
            "internal_error"
            | "fatal_error"
            | "service_unavailable"
            | "request_timeout"
            | "team_added_to_org"
            | "deprecated_endpoint" => Self::Unclear(code),
            _ => Self::Refused(code),
        }
    }
}

impl From<SlackClientError> for WebError {
    fn from(error: SlackClientError) -> Self {
        match error {
            SlackClientError::ApiError(error) => {
                if let Some(errors) = &error.errors {
                    tracing::debug!(code = error.code, ?errors, "Slack's reasons");
                }
                Self::of_code(error.code)
            }
            SlackClientError::RateLimitError(error) => {
                Self::TooMany(error.retry_after.unwrap_or(PAUSE).clamp(Duration::from_secs(1), MAX_PAUSE))
            }
            // The rest of what it says may hold whole bodies.
            SlackClientError::HttpError(error) => Self::Unclear(format!("HTTP {}", error.status_code)),
            SlackClientError::ProtocolError(_) => Self::Unclear("an answer that is no JSON".to_owned()),
            other => Self::Unclear(sources(&other)),
        }
    }
}

/// What lies behind an error, in one line.
fn sources(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    crate::text::clean(&innermost.to_string(), 200)
}

/// Who the bot is in this workspace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Identity {
    /// Of the workspace, e.g. `https://team.slack.com/`.
    pub(super) url: Option<Url>,
    pub(super) team_id: Option<String>,
    pub(super) user_id: String,
    pub(super) bot_id: Option<String>,
}

/// A page of messages, newest first in a channel, oldest first in a thread.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Page {
    #[serde(default)]
    pub(super) messages: Vec<Value>,
    response_metadata: Option<PageMetadata>,
}

#[derive(Debug, Default, Deserialize)]
struct PageMetadata {
    next_cursor: Option<String>,
}

impl Page {
    /// Where the next one begins.
    pub(super) fn next(&self) -> Option<String> {
        self.response_metadata.as_ref()?.next_cursor.clone().filter(|cursor| !cursor.is_empty())
    }
}

/// Slack's Web API with the app's tokens.
pub(super) struct Web {
    client: SlackClient<SlackClientHyperConnector<Dial>>,
    bot: SlackApiToken,
    app: Option<SlackApiToken>,
    identity: OnceLock<Identity>,
}

impl std::fmt::Debug for Web {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Web")
    }
}

fn token(secret: &Secret) -> SlackApiToken {
    SlackApiToken::new(secret.expose().to_owned().into())
}

impl Web {
    pub(super) fn new(dial: Dial, api: &Url, bot: &Secret, app: Option<&Secret>) -> Self {
        let connector = SlackClientHyperConnector::with_connector(dial)
            .with_slack_api_url(api.as_str().trim_end_matches('/'));
        Self {
            client: SlackClient::new(connector),
            bot: token(bot),
            app: app.map(token),
            identity: OnceLock::new(),
        }
    }

    async fn call<T>(&self, method: &str, body: &Value, within: Duration) -> Result<T, WebError>
    where
        T: for<'de> Deserialize<'de> + Send,
    {
        self.call_as(&self.bot, method, body, within).await
    }

    async fn call_as<T>(
        &self,
        token: &SlackApiToken,
        method: &str,
        body: &Value,
        within: Duration,
    ) -> Result<T, WebError>
    where
        T: for<'de> Deserialize<'de> + Send,
    {
        let session = self.client.open_session(token);
        let calling = session.http_session_api.http_post(method, body, None);
        let result = match timeout(within, calling).await {
            Ok(result) => result.map_err(WebError::from),
            Err(_) => Err(WebError::Unclear(format!("nothing within {} s", within.as_secs()))),
        };
        if let Err(error) = &result {
            tracing::debug!(method, %error, "a call to Slack failed");
        }
        result
    }

    /// These methods take no JSON.
    async fn list(&self, method: &str, params: &[(&str, Option<String>)]) -> Result<Page, WebError> {
        let session = self.client.open_session(&self.bot);
        let params: Vec<(&str, Option<&String>)> =
            params.iter().map(|(name, value)| (*name, value.as_ref())).collect();
        let calling = session.http_session_api.http_get(method, &params, None);
        match timeout(TIMEOUT, calling).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(WebError::Unclear(format!("nothing within {} s", TIMEOUT.as_secs()))),
        }
    }

    /// Asks who the bot is, and remembers it.
    pub(super) async fn auth_test(&self) -> Result<&Identity, WebError> {
        let identity = self.call("auth.test", &json!({}), TIMEOUT).await?;
        Ok(self.identity.get_or_init(|| identity))
    }

    /// Whether the bot wrote a message.
    pub(super) fn is_ours(&self, message: &Value) -> bool {
        let Some(us) = self.identity.get() else { return true };
        message["user"] == us.user_id.as_str()
            || us.bot_id.as_deref().is_some_and(|us| message["bot_id"] == us)
    }

    /// Where the next socket connects to.
    pub(super) async fn open_connection(&self) -> Result<Url, WebError> {
        #[derive(Deserialize)]
        struct Opened {
            url: Url,
        }
        let app = self.app.as_ref().ok_or_else(|| WebError::Barred("no_app_token".to_owned()))?;
        let opened: Opened =
            self.call_as(app, "apps.connections.open", &json!({}), super::dial::TIMEOUT).await?;
        Ok(opened.url)
    }

    /// Posts a message; where it sits: channel and time stamp.
    pub(super) async fn post(
        &self,
        channel: &str,
        thread: Option<&str>,
        message: &Rendered,
        metadata: Option<Value>,
    ) -> Result<(String, String), WebError> {
        #[derive(Deserialize)]
        struct Posted {
            channel: String,
            ts: String,
        }
        let mut body = content(message, metadata);
        body["channel"] = channel.into();
        body["unfurl_links"] = false.into();
        body["unfurl_media"] = false.into();
        if let Some(thread) = thread {
            body["thread_ts"] = thread.into();
        }
        let posted: Posted = self.call("chat.postMessage", &body, TIMEOUT).await?;
        Ok((posted.channel, posted.ts))
    }

    pub(super) async fn update(
        &self,
        channel: &str,
        ts: &str,
        message: &Rendered,
        metadata: Option<Value>,
    ) -> Result<(), WebError> {
        let mut body = content(message, metadata);
        body["channel"] = channel.into();
        body["ts"] = ts.into();
        self.call::<Done>("chat.update", &body, TIMEOUT).await?.is_done()
    }

    /// A message that one person sees, until they reload.
    pub(super) async fn post_ephemeral(
        &self,
        channel: &str,
        thread: Option<&str>,
        user: &str,
        message: &Rendered,
    ) -> Result<(), WebError> {
        let mut body = content(message, None);
        body["channel"] = channel.into();
        body["user"] = user.into();
        if let Some(thread) = thread {
            body["thread_ts"] = thread.into();
        }
        self.call::<Done>("chat.postEphemeral", &body, TIMEOUT).await?.is_done()
    }

    /// The conversation of the app with one person.
    pub(super) async fn direct(&self, user: &str) -> Result<String, WebError> {
        #[derive(Deserialize)]
        struct Opened {
            channel: Channel,
        }
        #[derive(Deserialize)]
        struct Channel {
            id: String,
        }
        let opened: Opened = self.call("conversations.open", &json!({ "users": user }), TIMEOUT).await?;
        Ok(opened.channel.id)
    }

    /// Messages of a channel, newest first. `oldest`: seconds since 1970.
    pub(super) async fn history(
        &self,
        channel: &str,
        oldest: i64,
        cursor: Option<String>,
    ) -> Result<Page, WebError> {
        let params = [
            ("channel", Some(channel.to_owned())),
            ("oldest", Some(oldest.to_string())),
            ("limit", Some("200".to_owned())),
            ("include_all_metadata", Some("true".to_owned())),
            ("cursor", cursor),
        ];
        self.list("conversations.history", &params).await
    }

    /// Messages of a thread, its root first.
    pub(super) async fn replies(
        &self,
        channel: &str,
        ts: &str,
        cursor: Option<String>,
    ) -> Result<Page, WebError> {
        let params = [
            ("channel", Some(channel.to_owned())),
            ("ts", Some(ts.to_owned())),
            ("limit", Some("200".to_owned())),
            ("include_all_metadata", Some("true".to_owned())),
            ("cursor", cursor),
        ];
        self.list("conversations.replies", &params).await
    }

    /// Opens a form; its id.
    pub(super) async fn open_view(&self, trigger: &str, view: &SlackView) -> Result<String, WebError> {
        let body = json!({ "trigger_id": trigger, "view": view });
        let opened: Opened = self.call("views.open", &body, QUICK).await?;
        Ok(opened.view.id)
    }

    pub(super) async fn update_view(&self, id: &str, view: &SlackView) -> Result<(), WebError> {
        self.call::<Done>("views.update", &json!({ "view_id": id, "view": view }), TIMEOUT).await?.is_done()
    }

    /// Shows somebody's home.
    pub(super) async fn publish_home(&self, user: &str, view: &SlackView) -> Result<(), WebError> {
        self.call::<Done>("views.publish", &json!({ "user_id": user, "view": view }), TIMEOUT)
            .await?
            .is_done()
    }

    /// Answers to the address that came with a command or a click: only whoever asked sees it.
    pub(super) async fn respond(&self, to: &Url, message: &Rendered) -> Result<(), WebError> {
        let content =
            SlackMessageContent::new().with_text(message.text.clone()).with_blocks(message.blocks.clone());
        let request = SlackApiPostWebhookMessageRequest::new(content).with_replace_original(false);
        match timeout(TIMEOUT, self.client.post_webhook_message(to, &request)).await {
            Ok(result) => result.map(drop).map_err(WebError::from),
            Err(_) => Err(WebError::Unclear(format!("nothing within {} s", TIMEOUT.as_secs()))),
        }
    }
}

/// What is not said by Slack (a page of some proxy's counts as `{}`) was not done by it.
#[derive(Deserialize)]
struct Done {
    #[serde(default)]
    ok: bool,
}

impl Done {
    fn is_done(&self) -> Result<(), WebError> {
        if self.ok { Ok(()) } else { Err(WebError::Unclear("an answer that is not Slack's".to_owned())) }
    }
}

#[derive(Deserialize)]
struct Opened {
    view: OpenedView,
}

#[derive(Deserialize)]
struct OpenedView {
    id: String,
}

fn content(message: &Rendered, metadata: Option<Value>) -> Value {
    let mut body = json!({ "text": message.text, "blocks": message.blocks });
    if let Some(metadata) = metadata {
        body["metadata"] = metadata;
    }
    body
}
