//! Why a build failed, read from the last lines that its tool printed: a module or package that could not be fetched, or a
//! toolchain that is too old. Pure; called by the job when a build's program ends with an error.
//!
//! It knows the words of `go` (1.19 and later) and composer (2.2 and later), as the tests have them from real runs. What it does not
//! know stays "the build failed", with the tool's own words in the log.

use std::collections::VecDeque;

use sdp_core::catalog::Builder;
use sdp_core::failure::FailureReason;

/// So many lines are looked at.
pub(crate) const LINES: usize = 200;
/// So much of each, in bytes.
const LINE: usize = 2000;
/// So much of a tool's own words is repeated, in characters.
const WORDS: usize = 300;

/// The last lines of a build.
#[derive(Debug, Default)]
pub(crate) struct LastLines(VecDeque<(Option<u64>, String)>);

impl LastLines {
    /// One more; `number` is its place in the log.
    pub(crate) fn push(&mut self, number: Option<u64>, line: &[u8]) {
        if self.0.len() == LINES {
            self.0.pop_front();
        }
        let line = line.get(..LINE).unwrap_or(line);
        self.0.push_back((number, String::from_utf8_lossy(line).trim_end().to_owned()));
    }

    /// The last lines of a text, numbered from 1.
    #[cfg(test)]
    pub(crate) fn of(text: &str) -> Self {
        let mut lines = Self::default();
        for (at, line) in (1..).zip(text.lines()) {
            lines.push(Some(at), line.as_bytes());
        }
        lines
    }
}

/// What is known of a failed build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Explanation {
    pub(crate) reason: FailureReason,
    /// One line, for people.
    pub(crate) detail: String,
    /// The line of the log where it shows.
    pub(crate) line: Option<u64>,
}

/// Why it failed, if its lines say so. `mirror` is where the tool was told to look, e.g. the operator's `GOPROXY`.
pub(crate) fn explain(builder: &Builder, lines: &LastLines, mirror: Option<&str>) -> Option<Explanation> {
    let words = match builder {
        Builder::Go { .. } => go,
        Builder::Php { .. } => composer,
        _ => return None,
    };
    // The first line that tells is the cause; what follows is its consequence.
    (0..lines.0.len()).find_map(|at| {
        let (number, _) = lines.0[at];
        let text = |back: usize| at.checked_sub(back).map(|at| lines.0[at].1.as_str());
        let next = lines.0.get(at + 1).map(|(_, line)| line.as_str());
        let (reason, detail) = words(&text, next, mirror)?;
        Some(Explanation { reason, detail, line: number })
    })
}

/// A line's text by how far back it is, the line that is looked at being 0.
type Back<'a> = dyn Fn(usize) -> Option<&'a str> + 'a;

fn go<'a>(text: &Back<'a>, next: Option<&'a str>, mirror: Option<&str>) -> Option<(FailureReason, String)> {
    let line = text(0)?;
    if line.contains("unknown directive: toolchain")
        || line.contains("GOTOOLCHAIN=local)")
        || line.starts_with("note: module requires Go ")
    {
        let detail = format!(
            "the module wants a newer Go than this agent's, and none is downloaded ({}); ask an administrator for a \
             [[toolchain]] and name its label in the catalog, or lower the go and toolchain lines of go.mod",
            shortened(line)
        );
        return Some((FailureReason::BuildFailed, detail));
    }
    let sums = (line.contains("verifying module: ") || line.contains("verifying go.mod: "))
        && line.contains(": Get \"http");
    let why = if line.contains("module lookup disabled by GOPROXY=off") {
        "this agent's GOPROXY is off".to_owned()
    } else if sums {
        format!("the checksum database cannot be asked: {}", shortened(after(line, ": Get \"http")))
    } else if line.contains(": Get \"http") {
        shortened(after(line, ": Get \"http"))
    } else if let Some(answer) = unanswered(line) {
        shortened(answer)
    } else if line.contains("exec: \"git\": executable file not found") {
        "it would be fetched with git, which is not on this agent".to_owned()
    } else if line.contains(": git ") && line.contains(": exit status ") {
        let said = next.map(str::trim).filter(|said| !said.is_empty()).unwrap_or("git failed");
        shortened(said)
    } else {
        return None;
    };
    let module = (0..20).find_map(|back| module_of(text(back)?)).unwrap_or_else(|| "a module".to_owned());
    let place = match mirror {
        None | Some("off") => "add it to the mirror that GOPROXY in the agent's [build.env] names".to_owned(),
        Some(mirror) => format!("add it to the mirror (this agent's GOPROXY is {})", without_logins(mirror)),
    };
    let place = if sums { "set GONOSUMDB or GOSUMDB in the agent's [build.env]".to_owned() } else { place };
    let detail = format!(
        "{module} could not be fetched: {why}; commit it to the repository (go mod vendor), or ask an administrator to {place}"
    );
    Some((FailureReason::DependencyUnreachable, detail))
}

/// What follows a marker, with the marker's own words but for its leading `: `.
fn after<'a>(line: &'a str, marker: &str) -> &'a str {
    line.find(marker).map_or(line, |at| line[at..].trim_start_matches(": "))
}

/// `reading <URL>: <what it answered>`, where it is no page.
fn unanswered(line: &str) -> Option<&str> {
    let at = line.find("reading http").or_else(|| line.find("reading file:"))?;
    let rest = &line[at..];
    let told = rest.contains(": no such file or directory")
        || ["400", "401", "403", "404", "407", "410", "429", "500", "502", "503", "504"]
            .iter()
            .any(|status| rest.contains(&format!(": {status} ")));
    told.then_some(rest)
}

/// The module that a line of Go's is about, with its version.
fn module_of(line: &str) -> Option<String> {
    if let Some(rest) = line.strip_prefix("go: downloading ") {
        return Some(rest.trim().to_owned());
    }
    if let Some((_, rest)) = line.split_once("unrecognized import path \"") {
        return rest.split('"').next().map(str::to_owned);
    }
    if let Some((_, rest)) = line.split_once("reading ")
        && let Some((path, rest)) = rest.split_once("/go.mod at revision ")
        && !path.contains("://")
    {
        return Some(format!("{path} {}", rest.split(':').next().unwrap_or_default()));
    }
    line.split_whitespace().find_map(|word| {
        let (path, version) =
            word.trim_end_matches([':', ',', ')']).trim_start_matches('(').split_once('@')?;
        let known = path.contains(['.', '/']) && !path.contains([':', '"']) && version.starts_with('v');
        known.then(|| format!("{path} {version}"))
    })
}

fn composer<'a>(
    text: &Back<'a>,
    next: Option<&'a str>,
    mirror: Option<&str>,
) -> Option<(FailureReason, String)> {
    let line = text(0)?.trim().trim_start_matches("- ");
    let lacking = line.contains("could not be found in any version")
        || line.starts_with("Could not find a matching version of package")
        || line.starts_with("Could not find package ");
    let unreachable = line.contains("file could not be downloaded")
        || line.starts_with("curl error ") && line.contains(" while downloading ")
        || line.contains("URL required authentication (HTTP ")
        || line.contains("URL could not be accessed (HTTP ")
        || line.starts_with("Failed to download ") && line.contains(" from dist: ")
        || line.starts_with("Failed to clone ")
        || line.starts_with("Failed to execute git clone ");
    if !lacking && !unreachable {
        return None;
    }
    let package = if lacking {
        line.split_once(" requires ")
            .map(|(_, rest)| rest)
            .or_else(|| line.split_once("package ").map(|(_, rest)| rest))
    } else {
        (0..30).find_map(|back| package_of(text(back)?))
    };
    let package = package
        .map(|rest| rest.split([',', ' ']).next().unwrap_or(rest).to_owned())
        .filter(|name| name.contains('/') && !name.contains(':'))
        .unwrap_or_else(|| "the list of packages".to_owned());
    let mut why = shortened(line);
    if line.ends_with(':')
        && let Some(next) = next
    {
        why = shortened(&format!("{line} {}", next.trim()));
    }
    let place = match mirror {
        Some(_) => "add it to the mirror that the agent's composer_config names",
        None => "name a mirror in the agent's [build] composer_config",
    };
    let detail = format!(
        "{package} could not be fetched: {why}; commit vendor/ to the repository, or ask an administrator to {place}"
    );
    Some((FailureReason::DependencyUnreachable, detail))
}

/// The package that composer is at work on.
fn package_of(line: &str) -> Option<&str> {
    let line = line.trim();
    ["- Downloading ", "- Installing ", "- Syncing ", "Failed to download "]
        .iter()
        .find_map(|words| line.strip_prefix(words))
}

fn shortened(text: &str) -> String {
    let text = text.trim().trim_end_matches(['.', ';']);
    if text.chars().count() <= WORDS {
        return text.to_owned();
    }
    text.chars().take(WORDS).chain(['…']).collect()
}

/// Addresses without what stands before an `@` in them.
fn without_logins(text: &str) -> String {
    let mut parts = text.split("://");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(['/', ',', '|']).unwrap_or(part.len());
        let (authority, rest) = part.split_at(end);
        out.push_str("://");
        out.push_str(authority.rsplit_once('@').map_or(authority, |(_, host)| host));
        out.push_str(rest);
    }
    out
}

#[cfg(test)]
mod tests;
