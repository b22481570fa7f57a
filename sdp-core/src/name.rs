//! Names that people choose. Parsing is validating: a value of these types is safe as a folder name, a host label, a log
//! field and (escaped) in chat. What git allows is wider than what is safe, so refs have an allowlist of our own.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use unicode_normalization::UnicodeNormalization;

/// A text that is no valid name of the wanted kind, and what is expected instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what}: {expected}")]
pub struct InvalidName {
    what: &'static str,
    expected: &'static str,
}

impl InvalidName {
    /// Stable code, e.g. `invalid_branch`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self.what {
            "branch" => "invalid_branch",
            "commit" => "invalid_commit",
            "repository" => "invalid_repository",
            "variable name" => "invalid_variable",
            "path" => "invalid_path",
            "channel" => "invalid_channel",
            _ => "invalid_name",
        }
    }

    /// What a valid one looks like.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        self.expected
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $expected:literal, $max:tt, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        #[cfg_attr(feature = "openapi", schema(value_type = String, min_length = 1, max_length = $max))]
        pub struct $name(String);

        impl $name {
            /// Parses and validates.
            ///
            /// # Errors
            /// [`InvalidName`], which says what is expected.
            pub fn parse(text: impl Into<String>) -> Result<Self, InvalidName> {
                let text = text.into();
                let valid: fn(&str) -> bool = $valid;
                if text.is_empty() || text.len() > $max || !valid(&text) {
                    return Err(InvalidName { what: $what, expected: $expected });
                }
                Ok(Self(text))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::parse(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(text).map_err(serde::de::Error::custom)
            }
        }
    };
}

/// Lower-case letters, digits and inner hyphens, beginning with a letter: valid as a DNS label, folder and host name.
fn is_label(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

name!(
    /// A service of the catalog, e.g. `payments`.
    ServiceName, "service name", "lower-case letters, digits and hyphens, beginning with a letter, at most 40", 40, is_label
);
name!(
    /// A sandbox, e.g. `alice` or `qa-42`.
    SandboxName, "sandbox name", "lower-case letters, digits and hyphens, beginning with a letter, at most 40", 40, is_label
);
name!(
    /// An environment: a baseline and its router, e.g. `staging`.
    EnvironmentName, "environment name", "lower-case letters, digits and hyphens, beginning with a letter, at most 40", 40, is_label
);
name!(
    /// A template of sandboxes, e.g. `shop`.
    TemplateName, "template name", "lower-case letters, digits and hyphens, beginning with a letter, at most 40", 40, is_label
);
name!(
    /// A team that owns sandboxes, e.g. `checkout`.
    TeamName, "team name", "lower-case letters, digits and hyphens, beginning with a letter, at most 40", 40, is_label
);
name!(
    /// A DNS name in lower case, e.g. `sandboxes.shop.test`; no address, no port.
    HostName, "host name", "labels of lower-case letters, digits and inner hyphens, with dots between them, at most 190; no address, no port", 190, is_host_name
);
name!(
    /// What marks a request as a sandbox's, in a header, `baggage`, `tracestate` or a cookie: `rk_` and 26 characters that nobody can
    /// guess. It is a selector, not a permission. No sandbox's name has a `_`, so that a key is never taken for a name.
    RoutingKey, "routing key", "rk_ and 26 lower-case letters and digits", 29,
    |text| text.strip_prefix("rk_").is_some_and(|rest| rest.len() == 26
        && rest.bytes().all(|b| b.is_ascii_lowercase() || (b'2'..=b'7').contains(&b)))
);
name!(
    /// An agent, e.g. `vm-3`; it comes from the agent's token.
    AgentName, "agent name", "lower-case letters, digits and hyphens, beginning with a letter, at most 40", 40, is_label
);
name!(
    /// A label that an agent has and a service may ask for, e.g. `docker` or `go-1.24`.
    Label, "label", "letters, digits and . _ - =, at most 63", 63,
    |text| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-=".contains(&b))
);
name!(
    /// A person: the name under which they sign in.
    PersonName, "person name", "letters, digits and . _ - @ +, beginning with a letter or digit, at most 100", 100,
    |text| text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-@+".contains(&b))
);
name!(
    /// The name of an API token, not its value.
    TokenName, "token name", "letters, digits and . _ -, beginning with a letter or digit, at most 63", 63,
    |text| text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
);
name!(
    /// The name of a file in a folder that is known: no path.
    FileName, "file name", "letters, digits and . _ -, beginning with a letter or digit, at most 100", 100,
    |text| text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
);
name!(
    /// A client's key for "the same request again", e.g. a CI job's id.
    IdempotencyKey, "idempotency key", "1 to 200 visible ASCII characters", 200,
    |text| text.bytes().all(|b| b.is_ascii_graphic())
);
name!(
    /// A channel of the team's chat: its id, e.g. `C024BE91L`, or its name, e.g. `#payments-ci`, with or without the `#`. Names are
    /// in lower case and ids in upper case, so that neither is taken for the other.
    ChannelName, "channel",
    "its id, such as C024BE91L, or its name, such as #payments-ci: lower-case letters, digits and - _ ., at most 80 bytes", 81,
    |text| is_channel_id(text) || is_channel_name(text.strip_prefix('#').unwrap_or(text))
);
name!(
    /// A full git commit id: 40 (SHA-1) or 64 (SHA-256) lower-case hexadecimal digits.
    CommitId, "commit", "40 or 64 lower-case hexadecimal digits", 64,
    |text| matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
);
name!(
    /// What to deploy: a branch, a tag, a commit (7 to 64 hexadecimal digits), or a full `refs/heads/…` or `refs/tags/…`.
    ///
    /// Narrower than what git allows: letters and digits of any script, and `/ . _ - + # @ = , ! ( ) $ & ' ; %`,
    /// at most 250 bytes. Nothing that git reads as an option, a range, a reflog entry or another ref's syntax, and no
    /// invisible or direction-changing character.
    GitRef, "branch",
    "letters, digits and / . _ - + # @, at most 250 bytes, as `git branch` allows", 250, is_git_ref
);
name!(
    /// A name for an environment variable of a service. Names that change how programs are loaded or that SDP sets itself are refused.
    EnvName, "variable name",
    "upper-case letters, digits and _, beginning with a letter; not PATH, PORT, HOME, LD_*, DYLD_*, GIT_*, DOCKER_*, SDP_*", 100,
    is_env_name
);
name!(
    /// A path inside a repository, relative, with `/` between its parts, e.g. `cmd/payments`. `.` is the top.
    RepoPath, "path", "relative, with / between its parts; no .., empty part, backslash, colon or comma", 300, is_repo_path
);
name!(
    /// A folder that a service may write to while all else is read-only: relative to the service's folder, e.g. `storage`,
    /// or an absolute path inside its container, e.g. `/var/lib/payments`.
    WritablePath, "writable path", "a folder relative to the service's own, or an absolute path outside of /dev, /proc and /sys; no .., empty part, backslash, colon or comma", 300, is_writable_path
);
name!(
    /// A container image as people name it, e.g. `alpine:3.20` or `registry.example.com/base/php:8.3@sha256:…`. It is never
    /// pulled: the agent's engine must have it already.
    ImageRef, "image", "[host[:port]/]name[:tag][@sha256:…] in lower case", 400, is_image_ref
);
name!(
    /// A path that begins a URL's path, e.g. `/payments`; `/` takes everything.
    PathPrefix, "path prefix", "begins with /, letters, digits and - _ . ~, does not end with /", 200, is_path_prefix
);
name!(
    /// Where a git repository is: an `https://` or `http://` URL without user or password, a `file://` URL, or an absolute
    /// path. Which of them may be used is the agent's configuration (exact origins; local paths only where named).
    RepoUrl, "repository", "https://host/path without user or password, or an absolute path", 1000, is_repo_url
);

/// Of a channel, not of a person or of a conversation between two.
fn is_channel_id(text: &str) -> bool {
    (8..=20).contains(&text.len())
        && text.starts_with(['C', 'G'])
        && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
}

fn is_channel_name(text: &str) -> bool {
    (1..=80).contains(&text.len())
        && text.chars().any(char::is_alphanumeric)
        && text.chars().all(|c| (c.is_alphanumeric() && !c.is_uppercase()) || "-_.".contains(c))
}

fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    // A last label of digits alone is read as an address.
    let last = text.rsplit('.').next().unwrap_or(text);
    text.split('.').all(label) && !last.bytes().all(|b| b.is_ascii_digit()) && !last.starts_with("0x")
}

fn is_git_ref(text: &str) -> bool {
    let allowed = |c: char| {
        c.is_ascii_alphanumeric() || (!c.is_ascii() && c.is_alphanumeric()) || "/._-+#@=,!()$&';%".contains(c)
    };
    let rest = match text.strip_prefix("refs/") {
        Some(full) => match full.strip_prefix("heads/").or_else(|| full.strip_prefix("tags/")) {
            Some(rest) => rest,
            None => return false,
        },
        None => text,
    };
    !rest.is_empty()
        && rest.chars().all(allowed)
        && !rest.starts_with('-')
        && !rest.ends_with('.')
        && !rest.contains("..")
        && !rest.contains("@{")
        && rest != "@"
        && rest != "HEAD"
        && rest.split('/').all(|part| {
            !part.is_empty() && !part.starts_with('.') && !part.starts_with('-') && !part.ends_with(".lock")
        })
        && !rest.to_ascii_lowercase().contains("%00")
}

fn is_env_name(text: &str) -> bool {
    const EXACT: [&str; 8] = ["PATH", "PORT", "HOME", "SHELL", "IFS", "ENV", "BASH_ENV", "TMPDIR"];
    const PREFIXES: [&str; 6] = ["LD_", "DYLD_", "GIT_", "DOCKER_", "SDP_", "SSH_"];
    text.starts_with(|c: char| c.is_ascii_uppercase())
        && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
        && !EXACT.contains(&text)
        && !PREFIXES.iter().any(|prefix| text.starts_with(prefix))
}

fn is_repo_path(text: &str) -> bool {
    text == "."
        || text.split('/').all(|part| {
            !part.is_empty()
                && part != "."
                && part != ".."
                && !part.starts_with('-')
                && !part.eq_ignore_ascii_case(".git")
                && part.chars().all(|c| !c.is_control() && !"\\:,\"'`$;|&<>*?".contains(c))
        })
}

fn is_writable_path(text: &str) -> bool {
    match text.strip_prefix('/') {
        Some(absolute) => {
            let top = absolute.split('/').next().unwrap_or_default();
            absolute != "." && is_repo_path(absolute) && !["dev", "proc", "sys"].contains(&top)
        }
        None => text != "." && is_repo_path(text),
    }
}

fn is_image_ref(text: &str) -> bool {
    let (text, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (text, None),
    };
    let is_hex = |hex: &str| hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if digest.is_some_and(|digest| !digest.strip_prefix("sha256:").is_some_and(is_hex)) {
        return false;
    }
    // A colon after the last slash begins the tag; one before it, a registry's port.
    let (path, tag) = match text.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (text, None),
    };
    let is_tag = |tag: &str| {
        (1..=128).contains(&tag.len())
            && tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return false;
    }
    let is_alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut parts = path.split('/').peekable();
    let first = parts.peek().copied().unwrap_or_default();
    if path.contains('/')
        && let Some((host, port)) = first.split_once(':')
    {
        parts.next();
        let plain = |b: u8| is_alphanumeric(&b) || b == b'.' || b == b'-';
        let host = !host.is_empty() && host.bytes().all(plain) && !host.starts_with(['.', '-']);
        if !host || port.parse::<u16>().is_err() {
            return false;
        }
    }
    parts.all(|part| {
        part.as_bytes().first().is_some_and(is_alphanumeric)
            && part.as_bytes().last().is_some_and(is_alphanumeric)
            && part.bytes().all(|b| is_alphanumeric(&b) || b"._-".contains(&b))
    })
}

fn is_path_prefix(text: &str) -> bool {
    text == "/"
        || (text.starts_with('/')
            && !text.ends_with('/')
            && text[1..].split('/').all(|part| {
                !part.is_empty()
                    && part != "."
                    && part != ".."
                    && !part.starts_with('~')
                    && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~".contains(&b))
            }))
}

fn is_repo_url(text: &str) -> bool {
    let clean = text.chars().all(|c| !c.is_control() && !c.is_whitespace() && c != '\\')
        && !text.split('/').any(|part| part == ".." || part.starts_with('-'));
    if !clean {
        return false;
    }
    if text.starts_with('/') {
        return !text.starts_with("//");
    }
    let Ok(url) = url::Url::parse(text) else { return false };
    let authority_has_user =
        text.split("://").nth(1).and_then(|rest| rest.split('/').next()).is_some_and(|a| a.contains('@'));
    if authority_has_user || url.query().is_some() || url.fragment().is_some() {
        return false;
    }
    match url.scheme() {
        "https" | "http" => url.host_str().is_some_and(|host| !host.is_empty()) && url.path() != "/",
        "file" => url.host_str().is_none() && url.path().starts_with('/') && url.path() != "/",
        _ => false,
    }
}

impl RepoUrl {
    /// Scheme, host and port, such as `https://git.example.com`; none of a local path.
    #[must_use]
    pub fn origin(&self) -> Option<String> {
        let url = url::Url::parse(&self.0).ok()?;
        matches!(url.scheme(), "https" | "http").then(|| url.origin().ascii_serialization())
    }
}

impl ChannelName {
    /// The id, if it is one.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        is_channel_id(&self.0).then_some(self.0.as_str())
    }

    /// The name without its `#`, if it is no id.
    #[must_use]
    pub fn plain_name(&self) -> Option<&str> {
        self.id().is_none().then(|| self.0.strip_prefix('#').unwrap_or(&self.0))
    }
}

impl SandboxName {
    /// The nearest valid sandbox name to a text such as a person's name; always succeeds.
    ///
    /// ```
    /// use sdp_core::name::SandboxName;
    /// assert_eq!(SandboxName::from_text("Åsa.Berg@example.com").as_str(), "asa-berg");
    /// assert_eq!(SandboxName::from_text("42").as_str(), "s-42");
    /// ```
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        let local = text.split('@').next().unwrap_or(text);
        let slug = slug(local, 38);
        let name = match slug.chars().next() {
            Some(first) if first.is_ascii_lowercase() => slug,
            Some(_) => format!("s-{slug}"),
            None => "sandbox".to_owned(),
        };
        Self(name)
    }
}

impl SandboxName {
    /// A name for a branch's sandbox: a slug for people and a short hash, so that no two branches share one. Always the same for the
    /// same branch.
    ///
    /// ```
    /// use sdp_core::name::{GitRef, SandboxName};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let name = SandboxName::of_branch(&GitRef::parse("feature/Refund_ünï")?);
    /// assert_eq!(name.as_str(), "feature-refund-uni-e7de53");
    /// assert_ne!(name, SandboxName::of_branch(&GitRef::parse("feature/refund-uni")?));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn of_branch(branch: &GitRef) -> Self {
        let text = branch.as_str().strip_prefix("refs/heads/").unwrap_or(branch.as_str());
        let slug = slug(text, 31);
        let slug = match slug.chars().next() {
            Some(first) if first.is_ascii_lowercase() => slug,
            Some(_) => format!("b-{slug}"),
            None => "b".to_owned(),
        };
        Self(format!("{slug}-{}", short_hash(text)))
    }
}

/// Six hexadecimal digits that tell texts apart whose slugs are the same (FNV-1a, folded): no protection against people who
/// look for two texts with the same ones.
#[must_use]
pub fn short_hash(text: &str) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in text.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{:06x}", (hash ^ (hash >> 24) ^ (hash >> 48)) & 0xff_ffff)
}

impl RoutingKey {
    /// A key from 16 random bytes.
    ///
    /// ```
    /// let key = sdp_core::name::RoutingKey::from_random([7; 16]);
    /// assert_eq!(key, sdp_core::name::RoutingKey::parse(key.as_str())?);
    /// # Ok::<(), sdp_core::name::InvalidName>(())
    /// ```
    #[must_use]
    pub fn from_random(random: [u8; 16]) -> Self {
        const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let mut number = u128::from_be_bytes(random);
        let mut text = String::from("rk_");
        for _ in 0..26 {
            text.push(char::from(DIGITS[(number & 31) as usize]));
            number >>= 5;
        }
        Self(text)
    }
}

impl CommitId {
    /// The first eight digits, what people read.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..8]
    }
}

impl GitRef {
    /// The branch's or tag's own name, without `refs/heads/` or `refs/tags/`.
    #[must_use]
    pub fn plain(&self) -> Self {
        let text = self.0.strip_prefix("refs/heads/").or_else(|| self.0.strip_prefix("refs/tags/"));
        Self(text.unwrap_or(&self.0).to_owned())
    }

    /// Whether the text could be a commit id, whole or abbreviated (7 to 64 hexadecimal digits).
    #[must_use]
    pub fn may_be_commit(&self) -> bool {
        (7..=64).contains(&self.0.len()) && self.0.bytes().all(|b| b.is_ascii_hexdigit())
    }
}

/// Lower-case ASCII letters, digits and single inner hyphens, at most `max` long; accents are dropped.
///
/// ```
/// assert_eq!(sdp_core::name::slug("feature/Ünï--x", 20), "feature-uni-x");
/// ```
#[must_use]
pub fn slug(text: &str, max: usize) -> String {
    let mut out = String::new();
    for c in text.nfkd() {
        if out.len() >= max {
            break;
        }
        if c.is_ascii_alphanumeric() {
            out.push(c.to_ascii_lowercase());
        } else if unicode_normalization::char::is_combining_mark(c) {
        } else if !out.is_empty() && !out.ends_with('-') {
            out.push('-');
        }
    }
    out.truncate(out.trim_end_matches('-').len());
    out
}

/// The closest of `known` to what somebody typed, for "did you mean …": within two typing errors, or a third of the
/// length, whichever is more.
///
/// ```
/// assert_eq!(sdp_core::name::did_you_mean("helo", ["ledger", "hello"]), Some("hello"));
/// assert_eq!(sdp_core::name::did_you_mean("xyz", ["ledger", "hello"]), None);
/// ```
pub fn did_you_mean<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed: Vec<char> = typed.chars().take(100).flat_map(char::to_lowercase).collect();
    let limit = (typed.len() / 3).max(if typed.len() > 3 { 2 } else { 1 });
    known
        .into_iter()
        .map(|name| {
            (distance(&typed, &name.chars().take(100).flat_map(char::to_lowercase).collect::<Vec<_>>()), name)
        })
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let substituted = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let swapped = if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    rows[i - 2][j - 2] + 1
                } else {
                    usize::MAX
                };
                (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(substituted).min(swapped)
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests;
