//! The audit's entries.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::principal::Principal;

/// Who did something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum AuditWho {
    /// Somebody who has proved who they are, or SDP itself.
    Known {
        /// Who.
        principal: Principal,
    },
    /// Somebody who has said so, and proved nothing.
    Claimed {
        /// What they said.
        name: String,
    },
    /// A user of the server's host, at its command line.
    Host {
        /// The user's name there.
        name: String,
    },
}

impl std::fmt::Display for AuditWho {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Known { principal } => principal.fmt(f),
            Self::Claimed { name } => write!(f, "“{name}”"),
            Self::Host { name } => write!(f, "{name} on the host"),
        }
    }
}

/// Through what something was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AuditVia {
    /// A page, in a browser.
    Page,
    /// The API, with a token.
    Api,
    /// A chat's bot.
    Chat,
    /// By SDP itself: a deadline, a recovery.
    Automatic,
    /// The command line on the server's host.
    Host,
}

impl AuditVia {
    /// As it is written in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Page => "page",
            Self::Api => "api",
            Self::Chat => "chat",
            Self::Automatic => "automatic",
            Self::Host => "host",
        }
    }

    /// From what is written in JSON.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Page, Self::Api, Self::Chat, Self::Automatic, Self::Host]
            .into_iter()
            .find(|via| via.as_str() == text)
    }
}

/// Something that somebody did, or wanted to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditEntry {
    /// Its place, from 1, without a gap.
    pub seq: u64,
    /// When.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub at: Timestamp,
    /// Who.
    pub who: AuditWho,
    /// Through what.
    pub via: AuditVia,
    /// From where, if that is known: an IP address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// What: the operation's name in the API, such as `create_deployment`.
    pub action: String,
    /// On what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// `done`, or the code of the refusal.
    pub result: String,
    /// The request's id, as the answer's header `x-request-id` had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

/// One page of the audit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditList {
    /// Newest first.
    pub entries: Vec<AuditEntry>,
    /// Pass it as `before` for the next page; none: this was the last.
    pub next_before: Option<u64>,
}
