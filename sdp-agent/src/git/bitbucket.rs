//! What Bitbucket's two REST APIs say: whose a login is, and which repositories it can read.
//!
//! Called by `account`. Data Center names the login's user in the header `X-AUSERNAME` of every answer; a list is read with
//! `start` and `nextPageStart`. Cloud says it at `/2.0/user`; its list over all workspaces is gone (CHANGE-2770), so the
//! workspaces are asked for first and then each of them, along `next`.
//!
//! Limits: [`MAX_PAGES`] pages and [`MAX_REPOSITORIES`] repositories; beyond these, and where the time is over when some
//! are known, the list says that it is not complete.

use http::HeaderValue;
use percent_encoding::percent_decode_str;
use sdp_core::failure::FailureReason;
use sdp_core::name::{GitRef, RepoUrl};
use sdp_core::wire::RepoInfo;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use url::Url;

use super::config::GitConfig;
use super::fault::{Fault, said, unreachable};
use super::rest::{Answered, Rest};
use super::source::Source;
use super::text;

/// How many pages are read for one list.
const MAX_PAGES: usize = 20;
/// How many repositories a list has.
const MAX_REPOSITORIES: usize = 2000;
/// How many a page is asked to have; more is not allowed there.
const PAGE: &str = "100";
/// The longest name that is shown, in characters.
const MAX_NAME: usize = 200;

/// Whose login it is, as Data Center says in a header. An answer to nobody in particular has none.
pub(super) fn data_center_user(rest: &Rest<'_>, given: &str) -> Result<String, Fault> {
    let url = rest.url(&["rest", "api", "1.0", "application-properties"], &[]);
    let answered: Answered<IgnoredAny> = rest.get(&url)?;
    let header = answered.headers.get("x-ausername").map(HeaderValue::to_str);
    let name = match header {
        Some(Ok(name)) if !name.is_empty() => name,
        _ => return Err(nobody(rest, "does not say whose login it is (no header X-AUSERNAME)")),
    };
    // Encoded or not: only what the person has typed shows which it is.
    let meant = percent_decode_str(name).decode_utf8_lossy();
    Ok(if meant.eq_ignore_ascii_case(given) { meant.into_owned() } else { name.to_owned() })
}

/// Whose login it is, as Cloud says. Its `nickname` would be no name: anybody may take anybody's.
pub(super) fn cloud_user(rest: &Rest<'_>) -> Result<String, Fault> {
    #[derive(Deserialize)]
    struct User {
        #[serde(rename = "type")]
        kind: String,
        username: Option<String>,
    }
    let user = rest.get::<User>(&rest.url(&["2.0", "user"], &[]))?.body;
    if user.kind != "user" {
        return Err(nobody(rest, "says that this login is a token's and no person's"));
    }
    let name = user.username.filter(|name| !name.is_empty());
    name.ok_or_else(|| nobody(rest, "does not say whose login it is (no username)"))
}

fn nobody(rest: &Rest<'_>, what: &str) -> Fault {
    said(FailureReason::CredentialsNeeded, format!("{} {what}", rest.name()))
}

#[derive(Deserialize)]
struct Links {
    #[serde(default)]
    clone: Vec<Link>,
}

#[derive(Deserialize)]
struct Link {
    name: String,
    href: String,
}

/// A list under way.
pub(super) struct Gathering<'a> {
    rest: Rest<'a>,
    config: &'a GitConfig,
    repos: Vec<RepoInfo>,
    pages: usize,
}

impl<'a> Gathering<'a> {
    pub(super) fn new(rest: Rest<'a>, config: &'a GitConfig) -> Self {
        Self { rest, config, repos: Vec::new(), pages: 0 }
    }

    /// By name, each once.
    pub(super) fn finish(mut self) -> Vec<RepoInfo> {
        self.repos.sort_by(|a, b| (&a.name, &a.url).cmp(&(&b.name, &b.url)));
        self.repos.dedup_by(|a, b| a.url == b.url);
        self.repos
    }

    /// Reads Data Center's list; says whether it is whole.
    pub(super) fn data_center(&mut self) -> Result<bool, Fault> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Page {
            values: Vec<Repository>,
            is_last_page: bool,
            next_page_start: Option<u64>,
        }
        #[derive(Deserialize)]
        struct Repository {
            slug: String,
            project: Project,
            links: Links,
        }
        #[derive(Deserialize)]
        struct Project {
            key: String,
        }
        let mut start = 0;
        loop {
            let from = start.to_string();
            let query = [("permission", "REPO_READ"), ("limit", PAGE), ("start", from.as_str())];
            let url = self.rest.url(&["rest", "api", "1.0", "repos"], &query);
            let Some(page) = self.page::<Page>(&url)? else { return Ok(false) };
            for Repository { slug, project, links } in page.values {
                if !self.take(&format!("{}/{slug}", project.key), &links, None) {
                    return Ok(false);
                }
            }
            start = match page.next_page_start {
                _ if page.is_last_page => return Ok(true),
                Some(next) if next > start => next,
                _ => return Err(unreachable(self.rest.name(), "has a list that does not go on")),
            };
        }
    }

    /// Reads Cloud's list, a workspace after the other; says whether it is whole.
    pub(super) fn cloud(&mut self) -> Result<bool, Fault> {
        #[derive(Deserialize)]
        struct Page<T> {
            values: Vec<T>,
            next: Option<String>,
        }
        #[derive(Deserialize)]
        struct Membership {
            workspace: Workspace,
        }
        #[derive(Deserialize)]
        struct Workspace {
            slug: String,
        }
        #[derive(Deserialize)]
        struct Repository {
            full_name: String,
            links: Links,
            mainbranch: Option<Branch>,
        }
        #[derive(Deserialize)]
        struct Branch {
            name: String,
        }
        let mut workspaces = Vec::new();
        let mut next = Some(self.rest.url(&["2.0", "user", "workspaces"], &[("pagelen", PAGE)]));
        while let Some(url) = next {
            let Some(page) = self.page::<Page<Membership>>(&url)? else { return Ok(false) };
            workspaces.extend(page.values.into_iter().map(|membership| membership.workspace.slug));
            next = self.leads_to(page.next)?;
        }
        for workspace in workspaces {
            let query = [("role", "member"), ("pagelen", PAGE)];
            next = Some(self.rest.url(&["2.0", "repositories", &workspace], &query));
            while let Some(url) = next {
                let Some(page) = self.page::<Page<Repository>>(&url)? else { return Ok(false) };
                for Repository { full_name, links, mainbranch } in page.values {
                    let branch = mainbranch.and_then(|branch| GitRef::parse(branch.name).ok());
                    if !self.take(&full_name, &links, branch) {
                        return Ok(false);
                    }
                }
                next = self.leads_to(page.next)?;
            }
        }
        Ok(true)
    }

    fn leads_to(&self, next: Option<String>) -> Result<Option<Url>, Fault> {
        let next = next.map(|next| Url::parse(&next)).transpose();
        next.map_err(|_| unreachable(self.rest.name(), "names a next page that is no address"))
    }

    /// The next page; none: there are enough.
    fn page<T: DeserializeOwned>(&mut self, url: &Url) -> Result<Option<T>, Fault> {
        if self.pages == MAX_PAGES {
            return Ok(None);
        }
        self.pages += 1;
        match self.rest.get(url) {
            Ok(answered) => Ok(Some(answered.body)),
            // What is known by then is of use.
            Err(_)
                if !self.repos.is_empty() && matches!(self.rest.control().check(), Err(Fault::Deadline)) =>
            {
                Ok(None)
            }
            Err(fault) => Err(fault),
        }
    }

    /// Takes a repository if the agent could clone it; says whether there is room for one more.
    fn take(&mut self, name: &str, links: &Links, default_branch: Option<GitRef>) -> bool {
        if self.repos.len() == MAX_REPOSITORIES {
            return false;
        }
        if let Some(url) = links.clone.iter().find_map(|link| self.clone_url(link)) {
            let name = text::one_line(name.as_bytes(), MAX_NAME);
            self.repos.push(RepoInfo { name, url, default_branch });
        }
        true
    }

    /// Without the user that Bitbucket puts into it.
    fn clone_url(&self, link: &Link) -> Option<RepoUrl> {
        if !matches!(link.name.as_str(), "http" | "https") {
            return None;
        }
        let mut url = Url::parse(&link.href).ok()?;
        if !matches!(url.scheme(), "http" | "https") {
            return None;
        }
        url.set_username("").ok()?;
        url.set_password(None).ok()?;
        let url = RepoUrl::parse(url.as_str()).ok()?;
        Source::admit(&url, self.config).is_ok().then_some(url)
    }
}
