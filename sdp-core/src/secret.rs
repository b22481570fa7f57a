//! Values that must not be seen: they cannot be printed, and are wiped when dropped.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// What a secret becomes where it was about to be seen.
pub const MASK: &str = "[redacted]";
/// Shorter values are not looked for in what programs print, in bytes without line breaks: they would turn logs to stars.
pub const SHORTEST: usize = 6;
/// The longest value of a service's secret, in bytes.
pub const LONGEST: usize = 64 * 1024;
/// The most secrets that a service has, and what their values have together, in bytes.
pub const MOST_OF_A_SERVICE: usize = 64;
/// See [`MOST_OF_A_SERVICE`]. What takes them out of a service's output has some 300 times that in memory.
pub const MOST_BYTES_OF_A_SERVICE: usize = 128 * 1024;

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

/// Who gets a secret of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum GivenTo {
    /// Its builds.
    Build,
    /// The running service, and its release command.
    #[default]
    Run,
    /// All of them.
    Both,
}

impl GivenTo {
    /// Whether builds get it.
    #[must_use]
    pub fn build(self) -> bool {
        matches!(self, Self::Build | Self::Both)
    }

    /// Whether the running service gets it.
    #[must_use]
    pub fn run(self) -> bool {
        matches!(self, Self::Run | Self::Both)
    }
}

/// Why a value cannot be a service's secret: it could not be given to a program, or not be kept out of logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnfitSecret {
    /// Less than [`SHORTEST`] bytes.
    #[error("the value is too short to be kept out of logs")]
    TooShort,
    /// More than [`LONGEST`] bytes.
    #[error("the value is too long")]
    TooLong,
    /// A variable of the environment ends at a NUL.
    #[error("the value holds a NUL")]
    Nul,
    /// To take it out would hide next to nothing, or all sorts of other things.
    #[error("the value is one character again and again, only white space, or what secrets are replaced by")]
    Plain,
}

impl UnfitSecret {
    /// Stable code, e.g. `secret_too_short`.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::TooShort => "secret_too_short",
            Self::TooLong => "secret_too_long",
            Self::Nul | Self::Plain => "secret_unfit",
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(self) -> &'static str {
        match self {
            Self::TooShort => {
                "6 bytes or more, line breaks not counted; what is shorter and no secret goes into the service's env"
            }
            Self::TooLong => "at most 64 KiB; give what is longer to the service as a file of the machine",
            Self::Nul => "give it in base64 and let the service decode it",
            Self::Plain => "choose another value",
        }
    }
}

/// Whether a value can be a service's secret.
///
/// # Errors
/// Why not.
pub fn check_value(value: &str) -> Result<(), UnfitSecret> {
    if value.len() > LONGEST {
        return Err(UnfitSecret::TooLong);
    }
    if value.contains('\0') {
        return Err(UnfitSecret::Nul);
    }
    if value.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')).count() < SHORTEST {
        return Err(UnfitSecret::TooShort);
    }
    let repeated = value.chars().next().is_some_and(|first| value.chars().all(|c| c == first));
    if repeated || value.trim().is_empty() || MASK.contains(value.trim()) {
        return Err(UnfitSecret::Plain);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_kept_out_of_logs_is_no_secret() {
        for good in ["hunter2", "six666", "a b c d", "line 1\nline 2\n", "ünïcø", &"ab".repeat(LONGEST / 2)]
        {
            assert_eq!(check_value(good), Ok(()), "{}", &good[..7.min(good.len())]);
        }
        for (bad, why) in [
            ("", UnfitSecret::TooShort),
            ("12345", UnfitSecret::TooShort),
            ("a\nb\nc\nd\n", UnfitSecret::TooShort),
            ("aaaaaaaa", UnfitSecret::Plain),
            ("üüüüüüüü", UnfitSecret::Plain),
            (" \t \t \t \t", UnfitSecret::Plain),
            (MASK, UnfitSecret::Plain),
            ("redacted", UnfitSecret::Plain),
            ("[redacted]\n", UnfitSecret::Plain),
            ("hunter2\0", UnfitSecret::Nul),
        ] {
            assert_eq!(check_value(bad), Err(why), "{bad:?}");
        }
        assert_eq!(check_value(&"ab".repeat(LONGEST / 2 + 1)), Err(UnfitSecret::TooLong));
    }
}
