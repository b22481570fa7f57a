//! Values that must not be seen: they cannot be printed, and are wiped when dropped.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// A secret text. `Debug` hides it, there is no `Display`; it is wiped from memory when dropped.
///
/// It can be serialised, because a credential travels inside one command to an agent. What is written to disk (events,
/// rows, an agent's journal) is built from types that hold no `Secret`.
///
/// ```
/// use sdp_core::secret::Secret;
/// let token = Secret::new("hunter2");
/// assert_eq!(format!("{token:?}"), "Secret(…)");
/// assert_eq!(token.expose(), "hunter2");
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a text as a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The secret itself. Every call is a place to look at in a review.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What git needs to log in: passed through to one operation on an agent, never stored or logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct GitCredential {
    /// User name at the git host; with an access token often `x-token-auth`.
    #[cfg_attr(feature = "openapi", schema(write_only, max_length = 256))]
    pub username: String,
    /// Password or access token. Write-only.
    #[cfg_attr(feature = "openapi", schema(write_only, value_type = String, format = Password, max_length = 65536))]
    pub password: Secret,
}
