//! Addresses of branches, as people copy them from their git host's pages.

use std::fmt;

use sdp_core::name::{GitRef, RepoUrl};
use url::Url;

use super::Mistake;

/// A repository's address without scheme and `.git`, so that a page's address and a clone address are the same:
/// `bitbucket.org/team/payments`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoAddress(String);

impl RepoAddress {
    /// The address of a catalog entry's repository.
    #[must_use]
    pub fn of(repo: &RepoUrl) -> Self {
        match Url::parse(repo.as_str()) {
            Ok(url) if url.has_host() => Self::from_url(&url, url.path()),
            _ => Self(repo.as_str().trim_end_matches('/').trim_end_matches(".git").to_owned()),
        }
    }

    fn from_url(url: &Url, path: &str) -> Self {
        let host = url.host_str().unwrap_or_default();
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        // Bitbucket Server: the clone address is /scm/<project>/<repo>.git.
        let path = path.trim_matches('/').trim_end_matches(".git");
        let path = path.strip_prefix("scm/").unwrap_or(path);
        Self(format!("{host}{port}/{path}").to_ascii_lowercase())
    }

    /// The repository's own name, to look for a service of that name.
    #[must_use]
    pub fn last(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for RepoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.0)
    }
}

/// What a page's address says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) repo: RepoAddress,
    pub(super) git_ref: Option<GitRef>,
}

/// Whether a word is an address at all.
pub(super) fn is_address(word: &str) -> bool {
    word.starts_with("https://") || word.starts_with("http://")
}

/// Reads an address of Bitbucket, GitHub or GitLab: of a repository, a branch, a tag or a commit.
pub(super) fn read(word: &str) -> Result<Page, Mistake> {
    let unknown = || {
        Mistake::new("unknown_address", "That address does not name a branch in a way I know.")
            .hint("type the service and the branch: deploy payments feature/refund")
    };
    let url = Url::parse(word).map_err(|_| unknown())?;
    let path = percent_decoded(url.path()).ok_or_else(unknown)?;
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    // Bitbucket Server: /projects/<project>/repos/<repo>/browse?at=refs/heads/<branch>.
    if let ["projects" | "users", project, "repos", repo, rest @ ..] = parts.as_slice() {
        if rest.first() == Some(&"pull-requests") {
            return Err(pull_request());
        }
        let at = url.query_pairs().find(|(name, _)| name == "at" || name == "until").map(|(_, value)| value);
        let git_ref = match (rest, at) {
            (["commits", commit, ..], _) => Some(git_ref(commit)?),
            (_, Some(at)) => Some(git_ref(&at)?),
            _ => None,
        };
        return Ok(Page { repo: RepoAddress::from_url(&url, &format!("{project}/{repo}")), git_ref });
    }
    // GitLab puts `-` between repository and page, with any depth of groups before it.
    let (repo, page) = match parts.iter().position(|part| *part == "-") {
        Some(at) => (&parts[..at], &parts[at + 1..]),
        None => parts.split_at(parts.len().min(2)),
    };
    if repo.len() < 2 {
        return Err(unknown());
    }
    let found = match page {
        [] => None,
        ["pull" | "pull-requests" | "merge_requests", ..] => return Err(pull_request()),
        ["tree" | "branch" | "commits" | "commit" | "src" | "blob", first, rest @ ..] => {
            // GitHub may spell it out: /tree/refs/heads/<branch>.
            let one = std::iter::once(first).chain(rest).copied().collect::<Vec<_>>().join("/");
            Some(git_ref(&one)?)
        }
        ["releases", "tag", rest @ ..] if !rest.is_empty() => {
            Some(git_ref(&format!("refs/tags/{}", rest.join("/")))?)
        }
        _ => return Err(unknown()),
    };
    Ok(Page { repo: RepoAddress::from_url(&url, &repo.join("/")), git_ref: found })
}

fn git_ref(text: &str) -> Result<GitRef, Mistake> {
    let text = text.trim_end_matches('/');
    GitRef::parse(text.strip_prefix("refs/heads/").unwrap_or(text))
        .map_err(|error| Mistake::new(error.code(), format!("The address names no valid branch: {error}.")))
}

fn pull_request() -> Mistake {
    Mistake::new("pull_request_address", "I cannot see which branch a pull request is of.")
        .hint("type its branch: deploy payments feature/refund")
}

fn percent_decoded(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(bytes).ok()
}
