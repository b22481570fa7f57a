//! Where a repository is, once the configuration has let it in. Every operation begins here; nothing else opens a
//! connection or a repository of somebody else.
//!
//! Invariant: a `Source` is on the allowlist. A host is compared as scheme, host and port after parsing, so no spelling
//! of another address passes; a path is compared after all links are followed.

use std::fs;
use std::path::{Path, PathBuf};

use sdp_core::failure::FailureReason;
use sdp_core::name::{RepoUrl, slug};
use sha2::{Digest, Sha256};
use url::Url;

use super::config::GitConfig;
use super::fault::{Fault, said};

/// How many steps of borrowed objects (`objects/info/alternates`) are followed, as git does.
const MAX_ALTERNATES: usize = 5;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Http(HttpSource),
    Local(LocalSource),
}

/// A repository at a git host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HttpSource {
    /// Without a slash at its end.
    pub(super) base: Url,
}

/// A repository on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LocalSource {
    /// Its git folder: the repository itself where it is bare, else its `.git`. All links followed.
    pub(super) git_dir: PathBuf,
}

impl Source {
    /// Touches the disk for local paths.
    pub(super) fn admit(repo: &RepoUrl, config: &GitConfig) -> Result<Self, Fault> {
        let text = repo.as_str();
        if text.starts_with('/') {
            return local(Path::new(text), config);
        }
        let url = Url::parse(text).map_err(|_| not_allowed("its address is not a URL"))?;
        match url.scheme() {
            "file" => {
                let path = url.to_file_path().map_err(|()| not_allowed("its address is not a path"))?;
                local(&path, config)
            }
            "https" | "http" => http(url, config),
            other => Err(not_allowed(format!("{other}:// is not understood"))),
        }
    }
}

impl HttpSource {
    /// A name for its mirror: readable, unique, safe as a folder.
    pub(super) fn mirror_name(&self) -> String {
        let path = self.base.path();
        let mut parts: Vec<&str> = path.trim_end_matches(".git").rsplit('/').take(2).collect();
        parts.reverse();
        let digest = Sha256::digest(self.base.as_str().as_bytes());
        let hash: String = digest.iter().take(10).map(|byte| format!("{byte:02x}")).collect();
        format!("{}-{hash}.git", slug(&parts.join("-"), 60))
    }
}

fn not_allowed(detail: impl Into<String>) -> Fault {
    said(FailureReason::RepoNotAllowed, detail)
}

/// Scheme, host and port; for people.
pub(super) fn origin_text(url: &Url) -> String {
    match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{}://{host}:{port}", url.scheme()),
        (Some(host), None) => format!("{}://{host}", url.scheme()),
        (None, _) => format!("{}:", url.scheme()),
    }
}

fn http(mut url: Url, config: &GitConfig) -> Result<Source, Fault> {
    if !url.username().is_empty() || url.password().is_some() {
        return Err(not_allowed("its address holds a user or password"));
    }
    if !config.origins.iter().any(|allowed| allowed.origin() == url.origin()) {
        return Err(not_allowed(format!("{} is not among the agent's git origins", origin_text(&url))));
    }
    url.set_query(None);
    url.set_fragment(None);
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(Source::Http(HttpSource { base: url }))
}

fn local(path: &Path, config: &GitConfig) -> Result<Source, Fault> {
    let shown = path.display();
    // A folder that is not there is left out: it may come later.
    let allowed: Vec<PathBuf> =
        config.local_paths.iter().filter_map(|path| fs::canonicalize(path).ok()).collect();
    let inside = |path: &Path| allowed.iter().any(|folder| path.starts_with(folder));
    let named = allowed.iter().chain(&config.local_paths).any(|folder| path.starts_with(folder));
    let refused =
        || not_allowed(format!("{shown} is not in one of the agent's folders for local repositories"));
    let absent = || said(FailureReason::RepoNotFound, format!("there is no git repository at {shown}"));

    let Ok(top) = fs::canonicalize(path) else {
        // What lies elsewhere is not told apart from what does not exist.
        return Err(if named { absent() } else { refused() });
    };
    if !inside(&top) {
        return Err(refused());
    }
    let git_dir =
        if is_git_dir(&top) { top } else { fs::canonicalize(top.join(".git")).map_err(|_| absent())? };
    if !inside(&git_dir) {
        return Err(refused());
    }
    if !is_git_dir(&git_dir) {
        // A work tree's or submodule's `.git` is a file that leads elsewhere.
        return Err(absent());
    }
    let objects = fs::canonicalize(git_dir.join("objects")).map_err(|_| absent())?;
    if !inside(&objects) || !alternates_stay_inside(&objects, &inside, 0) {
        return Err(not_allowed(format!("{shown} borrows objects from outside the agent's folders")));
    }
    Ok(Source::Local(LocalSource { git_dir }))
}

fn is_git_dir(path: &Path) -> bool {
    path.join("HEAD").is_file() && path.join("objects").is_dir() && path.join("refs").exists()
}

fn alternates_stay_inside(objects: &Path, inside: &dyn Fn(&Path) -> bool, depth: usize) -> bool {
    let Ok(text) = fs::read_to_string(objects.join("info/alternates")) else { return true };
    depth < MAX_ALTERNATES
        && text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).all(|line| {
            match fs::canonicalize(objects.join(line)) {
                Ok(path) => inside(&path) && alternates_stay_inside(&path, inside, depth + 1),
                // It is not there, so nothing is read from it.
                Err(_) => true,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(origins: &[&str], local: &[&Path]) -> GitConfig {
        GitConfig {
            origins: origins.iter().map(|text| Url::parse(text).expect("url")).collect(),
            local_paths: local.iter().map(|path| path.to_path_buf()).collect(),
            ..GitConfig::default()
        }
    }

    fn reason(repo: &str, config: &GitConfig) -> Result<Source, FailureReason> {
        let repo = RepoUrl::parse(repo).expect("a RepoUrl");
        Source::admit(&repo, config).map_err(|fault| match fault {
            Fault::Said { reason, .. } => reason,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn only_the_exact_origin_is_let_in() {
        let config = config(&["https://bitbucket.org", "https://git.example:8443"], &[]);
        for good in [
            "https://bitbucket.org/team/x.git",
            "https://BITBUCKET.org:443/team/x.git/",
            "https://git.example:8443/x",
        ] {
            assert!(reason(good, &config).is_ok(), "{good}");
        }
        for bad in [
            "http://bitbucket.org/team/x.git",
            "https://bitbucket.org.evil.tld/x",
            "https://bitbucket.org:444/x",
            "https://bitbucket.org./x",
            "https://git.example/x",
            "https://169.254.169.254/x",
            "https://[::1]/x",
            "https://127.1/x",
            "https://0x7f000001/x",
            "https://localhost./x",
            "file:///etc",
            "/etc",
        ] {
            assert_eq!(reason(bad, &config), Err(FailureReason::RepoNotAllowed), "{bad}");
        }
    }

    #[test]
    fn every_spelling_of_an_address_is_compared_as_the_address_it_means() {
        let config = config(&["http://127.0.0.1:80"], &[]);
        assert!(reason("http://127.1/x", &config).is_ok());
        assert!(reason("http://0x7f000001/x", &config).is_ok());
        assert_eq!(reason("http://127.0.0.2/x", &config), Err(FailureReason::RepoNotAllowed));
    }

    #[test]
    fn a_local_repository_must_lie_in_a_named_folder_with_all_links_followed() {
        let top = tempfile::tempdir().expect("tempdir");
        let (allowed, outside) = (top.path().join("allowed"), top.path().join("outside"));
        git2::Repository::init_bare(allowed.join("good.git")).expect("init");
        git2::Repository::init(allowed.join("tree")).expect("init");
        git2::Repository::init_bare(outside.join("secret.git")).expect("init");
        std::os::unix::fs::symlink(outside.join("secret.git"), allowed.join("link.git")).expect("link");
        fs::create_dir(allowed.join("gitlink")).expect("dir");
        fs::write(allowed.join("gitlink/.git"), format!("gitdir: {}/secret.git\n", outside.display()))
            .expect("file");
        git2::Repository::init_bare(allowed.join("borrower.git")).expect("init");
        fs::create_dir_all(allowed.join("borrower.git/objects/info")).expect("dir");
        fs::write(
            allowed.join("borrower.git/objects/info/alternates"),
            format!("{}/secret.git/objects\n", outside.display()),
        )
        .expect("file");

        let config = config(&[], &[&allowed]);
        let at = |name: &str| reason(&format!("{}/{name}", allowed.display()), &config);
        assert!(at("good.git").is_ok());
        assert!(at("tree").is_ok());
        assert!(reason(&format!("file://{}/good.git", allowed.display()), &config).is_ok());
        assert_eq!(at("link.git"), Err(FailureReason::RepoNotAllowed));
        assert_eq!(at("borrower.git"), Err(FailureReason::RepoNotAllowed));
        assert_eq!(at("gitlink"), Err(FailureReason::RepoNotFound));
        assert_eq!(at("absent"), Err(FailureReason::RepoNotFound));
        assert_eq!(
            reason(&format!("{}/secret.git", outside.display()), &config),
            Err(FailureReason::RepoNotAllowed)
        );
        assert_eq!(
            reason(&format!("{}/absent", outside.display()), &config),
            Err(FailureReason::RepoNotAllowed)
        );
    }

    #[test]
    fn mirrors_have_readable_and_distinct_names() {
        let config = config(&["https://bitbucket.org", "https://other.org"], &[]);
        let name = |url: &str| match reason(url, &config).expect("allowed") {
            Source::Http(http) => http.mirror_name(),
            Source::Local(_) => panic!("a URL"),
        };
        assert_eq!(
            name("https://bitbucket.org/Team/Payments.git"),
            name("https://bitbucket.org/Team/Payments.git/")
        );
        assert!(name("https://bitbucket.org/Team/Payments.git").starts_with("team-payments-"));
        assert_ne!(name("https://bitbucket.org/Team/x"), name("https://bitbucket.org/team/x"));
        assert_ne!(name("https://bitbucket.org/team/x"), name("https://other.org/team/x"));
    }
}
