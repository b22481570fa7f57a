//! What the parts of a request say: pure functions over texts as they were sent.

use super::super::COOKIE;
use super::Refusal;
use crate::name::RoutingKey;

/// A shared link: whose cookie to set (none: to take it back), and where to go on. The place begins with one `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedLink {
    /// The key; none: the cookie is taken back.
    pub key: Option<RoutingKey>,
    /// Path and query to go on to.
    pub to: String,
}

impl SharedLink {
    /// Whether a path and query are a shared link's.
    #[must_use]
    pub fn parse(path_and_query: &str) -> Option<Self> {
        let (begin, after) = sandbox_in_path(path_and_query)?;
        if begin != "~" && !begin.eq_ignore_ascii_case("%7e") {
            return None;
        }
        let after = after.strip_prefix('/')?;
        let end = after.find(['/', '?']).unwrap_or(after.len());
        let (key, to) = after.split_at(end);
        let key = match key {
            "off" => None,
            key => Some(RoutingKey::parse(key).ok()?),
        };
        // Never `//host`, `/\host`: a browser would go there.
        let to = to.trim_start_matches(['/', '\\']);
        Some(Self { key, to: format!("/{to}") })
    }
}

/// A host in lower case without its port and final dot.
pub(in crate::routing) fn plain_host(host: &str) -> String {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// The one value that is not empty; two different ones are refused.
pub(super) fn one(values: Vec<String>, two: Refusal) -> Result<Option<String>, Refusal> {
    let mut found: Option<String> = None;
    for value in values {
        let value = value.trim().to_owned();
        match &found {
            _ if value.is_empty() => {}
            None => found = Some(value),
            Some(first) if *first == value => {}
            Some(_) => return Err(two),
        }
    }
    Ok(found)
}

/// The values of a member in lists such as `a=1;p=2, b=3`.
pub(super) fn members(lists: Vec<String>, wanted: &str) -> Vec<String> {
    let member = |text: &str| {
        let (name, value) = text.split(';').next()?.split_once('=')?;
        (name.trim() == wanted).then(|| value.trim().to_owned())
    };
    lists.iter().flat_map(|list| list.split(',')).filter_map(member).collect()
}

pub(super) fn cookies(headers: &[String]) -> impl Iterator<Item = String> {
    headers.iter().flat_map(|text| text.split(';')).filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let value = value.trim().trim_matches('"');
        (name.trim() == COOKIE && !value.is_empty()).then(|| value.to_owned())
    })
}

/// Refuses paths that another program could read as a different path.
pub(super) fn check(path: &str) -> Result<(), Refusal> {
    if !path.starts_with('/') {
        return Err(Refusal::BadPath { why: "it does not begin with /" });
    }
    if !path.contains(['%', '\\']) && !path.contains("/.") {
        return Ok(());
    }
    let decoded: Vec<u8> = percent_encoding::percent_decode_str(path).collect();
    if decoded.contains(&0) {
        return Err(Refusal::BadPath { why: "it contains a NUL" });
    }
    // `;` ends a segment's name for some servers: they read `/..;x/` as `/../`.
    let dots = decoded.split(|b| matches!(b, b'/' | b'\\')).any(|segment| {
        let name = segment.split(|b| *b == b';').next().unwrap_or(segment);
        matches!(name, b"." | b"..")
    });
    if dots {
        return Err(Refusal::BadPath { why: "a part of it is . or .., or an encoded form of them" });
    }
    Ok(())
}

/// `/~alice/rest` → `alice` and `/rest`.
pub(in crate::routing) fn sandbox_in_path(path: &str) -> Option<(&str, &str)> {
    let after = path.get(1..)?;
    let tail = match after.strip_prefix('~') {
        Some(tail) => tail,
        None => after.get(..3).filter(|code| code.eq_ignore_ascii_case("%7e")).map(|_| &after[3..])?,
    };
    Some(match tail.find('/') {
        Some(slash) => tail.split_at(slash),
        None => (tail, "/"),
    })
}
