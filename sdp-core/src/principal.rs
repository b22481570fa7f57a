//! Who asks: every command carries a [`Principal`], and every event that somebody caused names it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::name::{PersonName, SandboxName, TokenName};

/// The person, program or part of SDP on whose authority something happens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Principal {
    /// A person who signed in on a page.
    Person {
        /// Who.
        name: PersonName,
    },
    /// A program with an API token: CI, a tool.
    Token {
        /// The token's name, not its value.
        name: TokenName,
    },
    /// The chat bot, speaking on behalf of a person.
    Bot {
        /// The bot's token.
        name: TokenName,
        /// The person who typed the command.
        person: PersonName,
    },
    /// SDP itself: a deadline, a recovery.
    System,
}

/// What a person may do; each may what those before may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Role {
    /// Look at everything.
    Viewer,
    /// Deploy, cancel, stop, restart, delete.
    Developer,
    /// Change the catalog, tokens, agents and people; read the audit.
    Admin,
}

impl Role {
    /// As it is written in JSON and configurations.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Developer => "developer",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Principal {
    /// A person.
    #[must_use]
    pub fn person(name: PersonName) -> Self {
        Self::Person { name }
    }

    /// The person behind it, if there is one.
    #[must_use]
    pub fn as_person(&self) -> Option<&PersonName> {
        match self {
            Self::Person { name } | Self::Bot { person: name, .. } => Some(name),
            Self::Token { .. } | Self::System => None,
        }
    }

    /// The sandbox that a deploy goes to when none is named: the person's own, or one named like the token.
    #[must_use]
    pub fn own_sandbox(&self) -> SandboxName {
        match self {
            Self::Person { name } | Self::Bot { person: name, .. } => SandboxName::from_text(name.as_str()),
            Self::Token { name } => SandboxName::from_text(name.as_str()),
            Self::System => SandboxName::from_text("system"),
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Person { name } | Self::Bot { person: name, .. } => name.fmt(f),
            Self::Token { name } => name.fmt(f),
            Self::System => f.write_str("SDP"),
        }
    }
}
