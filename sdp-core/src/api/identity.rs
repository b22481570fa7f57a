//! People, how they come in, and tokens.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::id::{BindingId, SessionId};
use crate::name::{AgentName, PersonName, SandboxName, ServiceName, TokenName};
use crate::principal::{Principal, Role};
use crate::secret::Secret;

/// Ask for a link that signs a browser in once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateSignInLink {
    /// The page to open, a path on this server; without one: the home page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A link that signs a browser in once, within ten minutes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SignInLink {
    /// Open it in a browser.
    pub url: Url,
    /// Until when it works.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub expires_at: Timestamp,
}

/// A link to the login page for one user of a chat; the login there says which account they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LoginLink {
    /// Open it in a browser; nobody else should see it.
    pub url: Url,
    /// Until when it works.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub expires_at: Timestamp,
}

/// Log in with a git account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct LogIn {
    /// User name at the git host.
    #[cfg_attr(feature = "openapi", schema(max_length = 256))]
    pub username: String,
    /// Password or access token of that user. Write-only.
    #[cfg_attr(feature = "openapi", schema(write_only, value_type = String, format = Password, max_length = 65536))]
    pub password: Secret,
}

/// Who asks, as the server sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Me {
    /// Who it is.
    pub principal: Principal,
    /// What they may do.
    pub role: Role,
    /// Their account, if they logged in with a git account.
    pub account: Option<Person>,
    /// The sandbox that a deploy goes to when none is named.
    pub own_sandbox: SandboxName,
    /// The user of the chat for whom a bot speaks, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_user: Option<PersonName>,
    /// Until when that user of the chat is this account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub bound_until: Option<Timestamp>,
    /// Whether people log in with a git account here; else the chat's names are people's.
    pub login: bool,
}

/// A person who has logged in with a git account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Person {
    /// The name they have here.
    pub name: PersonName,
    /// What they may do.
    pub role: Role,
    /// The git host that vouched for them: scheme, host and port.
    pub git_origin: String,
    /// Their name there.
    pub git_user: String,
    /// When they came first.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// When they logged in last.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub logged_in_at: Timestamp,
    /// Whether their git credential is kept at present.
    pub has_credential: bool,
}

/// People.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PersonList {
    /// By name.
    pub people: Vec<Person>,
}

/// Change what a person may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetRole {
    /// What they may do from now on.
    pub role: Role,
}

/// A browser that is signed in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SessionInfo {
    /// Its id; it opens nothing.
    pub id: SessionId,
    /// Whether it is the one that asks.
    pub current: bool,
    /// From where it signed in.
    pub address: Option<String>,
    /// What the browser calls itself.
    pub user_agent: Option<String>,
    /// When it signed in.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// When it was used last, to the hour.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub used_at: Timestamp,
    /// When it ends if it is not used.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub expires_at: Timestamp,
}

/// Somebody's sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SessionList {
    /// Newest first.
    pub sessions: Vec<SessionInfo>,
}

/// Which account a user of a chat is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BindingInfo {
    /// Its id.
    pub id: BindingId,
    /// The bot's token: one chat.
    pub bot: TokenName,
    /// The user's name or id there.
    pub chat_user: PersonName,
    /// Since when.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// Until when.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub expires_at: Timestamp,
}

/// Somebody's bindings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BindingList {
    /// Newest first.
    pub bindings: Vec<BindingInfo>,
}

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TokenKind {
    /// Everything.
    Admin,
    /// What a developer may.
    Deploy,
    /// What a viewer may.
    Read,
    /// Speak for the people in chat.
    Bot,
    /// Connect as the agent of that name; nothing else.
    Agent,
}

impl TokenKind {
    /// As it is written in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Deploy => "deploy",
            Self::Read => "read",
            Self::Bot => "bot",
            Self::Agent => "agent",
        }
    }
}

/// Ask for a token. A person's token acts as that person and may never do more than they.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// Its name; for an agent's token the agent's name.
    pub name: TokenName,
    /// What it may do. Bots and agents: only admins make them.
    pub kind: TokenKind,
    /// The only service that it may change; of a token that deploys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// After how many days it stops to work; none: it works until it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 3650))]
    pub expires_in_days: Option<u16>,
}

impl CreateToken {
    /// One that may change everything that its kind may, until it is revoked.
    #[must_use]
    pub fn new(name: TokenName, kind: TokenKind) -> Self {
        Self { name, kind, service: None, expires_in_days: None }
    }
}

/// A new token; its value is shown this once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenCreated {
    /// Its name.
    pub name: TokenName,
    /// What it may do.
    pub kind: TokenKind,
    /// Until when it works; none: until it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub expires_at: Option<Timestamp>,
    /// Its value.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub token: Secret,
}

/// An enrolment of an agent: its value is shown once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EnrolmentCreated {
    /// Whose.
    pub agent: AgentName,
    /// What the agent enrols with, once.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub token: Secret,
    /// Until when it works.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub expires_at: Timestamp,
}

/// An agent that has enrolled: its own token is shown once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Enrolled {
    /// Which agent it is.
    pub agent: AgentName,
    /// Its token, with which it connects.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub token: Secret,
}

/// Tokens, without their values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenList {
    /// By name.
    pub tokens: Vec<TokenInfo>,
}

/// A token, without its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenInfo {
    /// Its name.
    pub name: TokenName,
    /// What it may do.
    pub kind: TokenKind,
    /// Whose it is; none: the operators'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<PersonName>,
    /// The only service that it may change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// When it was made.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// Until when it works; none: until it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub expires_at: Option<Timestamp>,
    /// When it was used last, to the hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub used_at: Option<Timestamp>,
}
