//! Secrets of services.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::name::{EnvName, FileName};
use crate::principal::Principal;
pub use crate::secret::GivenTo;
use crate::secret::Secret;

/// A secret of a service: a value, or the name of a file on the agent that holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetSecret {
    /// The value: 6 bytes to 64 KiB, no NUL, and not one character again and again. It is sealed before it is stored, and
    /// never shown again. Write-only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(write_only, value_type = Option<String>, format = Password, max_length = 65536))]
    pub value: Option<Secret>,
    /// Instead of a value: the name of a file in the folder for secrets of the agent that builds and runs the service. The
    /// server never sees what is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileName>,
    /// Who gets it.
    #[serde(default)]
    pub given_to: GivenTo,
}

/// A secret of a service, without its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SecretInfo {
    /// The variable.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub name: EnvName,
    /// Who gets it.
    pub given_to: GivenTo,
    /// Where its value is.
    pub source: SecretKind,
    /// Who set it.
    pub by: Principal,
    /// When.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub at: Timestamp,
}

/// Where a secret's value is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SecretKind {
    /// On the server, sealed.
    Value {},
    /// In a file on the agent.
    File {
        /// Its name.
        file: FileName,
    },
}

/// The secrets of a service, without their values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SecretList {
    /// By name.
    pub secrets: Vec<SecretInfo>,
}
