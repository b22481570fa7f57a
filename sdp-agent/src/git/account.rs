//! Whether a credential is right and whose it is, and which repositories it opens.
//!
//! The server asks when somebody logs in, and when somebody looks for a repository. A login is checked with a repository
//! that not everybody can read: its refs are asked for without a credential, which must be refused, and then with it.
//!
//! ```text
//!   refs, nobody ──200──▶ login_repository_public: to be able to read it proves nothing
//!        │ 401, 403, 404
//!   refs, credential ──refused──▶ credentials_needed
//!        │ 200
//!   whose it is:  plain host: the user name that was given
//!                 Bitbucket: what its REST API says
//! ```
//! **What a plain host must do itself**: tie user name and password together. GitHub and GitLab take any user name with a
//! token, so there whoever has a token could log in under any name: a login must not be checked with a repository there.
//! Names that stand for a token and for no person are refused. Where the host is a Bitbucket, `[[git.host]]` has to say so on
//! each agent, or that agent takes it for a plain one.
//!
//! Invariant: a credential goes only to an origin of the allowlist and to the API that the configuration names for it; no
//! redirect is followed with it; it is kept nowhere, and no text that leaves here has it in it.

use sdp_core::failure::{Failure, FailureReason};
use sdp_core::name::RepoUrl;
use sdp_core::secret::GitCredential;
use sdp_core::wire::Answer;

use super::bitbucket::{self, Gathering};
use super::config::{GitHost, GitHostKind};
use super::control::{Control, Running};
use super::fault::{Fault, said};
use super::http::Host;
use super::rest::Rest;
use super::source::{HttpSource, Source, origin_text};
use super::{Git, GitOp, Job};

/// The longest user name, in bytes; longer ones are tokens.
const MAX_USER: usize = 100;
/// User names that go with somebody's or something's token.
const TOKEN_USERS: [&str; 14] = [
    "api",
    "apikey",
    "git",
    "gitlab-ci-token",
    "oauth",
    "oauth2",
    "oauth2accesstoken",
    "pat",
    "private-token",
    "token",
    "x-access-token",
    "x-bitbucket-api-token-auth",
    "x-oauth-basic",
    "x-token-auth",
];
/// How tokens begin that some hosts take as a user name.
const TOKENS: [&str; 8] =
    ["atatt", "atctt", "ghp_", "gho_", "ghs_", "github_pat_", "glpat-", "gitlab+deploy-token"];

impl Git {
    /// Whether a credential opens a repository that is not open to everybody, and whose it is.
    ///
    /// # Errors
    /// `credentials_needed` if it does not, `login_repository_public`, or that the repository cannot be asked.
    pub async fn check_credential(
        &self,
        repo: &RepoUrl,
        credential: &GitCredential,
        op: &GitOp,
    ) -> Result<Answer, Failure> {
        let job = Job::new(self, repo, Some(credential));
        let work = Running::begin(op);
        let user = work.block(move |control| job.account(control)).await;
        let user = user.map_err(|fault| fault.into_failure(None, Some(credential)))?;
        Ok(Answer::Account { user })
    }

    /// The repositories of this one's host that a credential (or the agent's own) can read, as far as the agent may use them.
    ///
    /// # Errors
    /// `repositories_unlisted` if the host has no such list, or that it cannot be asked.
    pub async fn list_repos(
        &self,
        repo: &RepoUrl,
        credential: Option<&GitCredential>,
        op: &GitOp,
    ) -> Result<Answer, Failure> {
        let own = self.own_credential(repo, credential);
        let credential = credential.or(own.as_ref());
        let job = Job::new(self, repo, credential);
        let work = Running::begin(op);
        let list = work.block(move |control| job.repositories(control)).await;
        list.map_err(|fault| fault.into_failure(None, credential))
    }

    /// The agent's own login for a repository's host, if none was given. For lists alone.
    pub(super) fn own_credential(
        &self,
        repo: &RepoUrl,
        given: Option<&GitCredential>,
    ) -> Option<GitCredential> {
        let url = url::Url::parse(repo.as_str()).ok().filter(|_| given.is_none())?;
        self.inner.config.host(&url)?.credential()
    }
}

impl Job {
    fn account(&self, control: &Control) -> Result<String, Fault> {
        let Some(credential) = &self.credential else {
            return Err(said(FailureReason::CredentialsNeeded, "none was given"));
        };
        let Source::Http(source) = self.admit()? else {
            let what = "it lies on the agent's machine, where nobody is asked for a login";
            return Err(said(FailureReason::LoginRepositoryPublic, what));
        };
        refuse_tokens(credential)?;
        let (name, path) = (origin_text(&source.base), source.base.path());
        let hidden = match self.ask(&source, None, control) {
            Ok(()) => {
                let what = format!("{name} shows {path} to everybody");
                return Err(said(FailureReason::LoginRepositoryPublic, what));
            }
            Err(Fault::Said { reason: FailureReason::CredentialsNeeded, .. }) => false,
            // Many hosts say so of what they do not show.
            Err(Fault::Said { reason: FailureReason::RepoNotFound, .. }) => true,
            Err(fault) => return Err(fault),
        };
        match self.ask(&source, Some(credential), control) {
            Ok(()) => {}
            // It is there, for it wanted a login.
            Err(Fault::Said { reason: FailureReason::RepoNotFound, .. }) if !hidden => {
                let what = format!("{name} does not let this login read {path}");
                return Err(said(FailureReason::CredentialsNeeded, what));
            }
            Err(fault) => return Err(fault),
        }
        let user = match self.host(&source) {
            Some(host) if host.kind == GitHostKind::BitbucketDc => {
                let rest = self.rest(host, Some(credential), control)?;
                bitbucket::data_center_user(&rest, &credential.username)?
            }
            Some(host) if host.kind == GitHostKind::BitbucketCloud => {
                let rest = self.rest(host, Some(credential), control)?;
                bitbucket::cloud_user(&rest).map_err(|fault| ask_for_address(fault, credential))?
            }
            _ => credential.username.clone(),
        };
        if user.len() > MAX_USER || user.chars().any(char::is_control) {
            return Err(said(
                FailureReason::CredentialsNeeded,
                format!("{name} names a user that cannot be one"),
            ));
        }
        Ok(user)
    }

    fn repositories(&self, control: &Control) -> Result<Answer, Fault> {
        let unlisted = |what: String| said(FailureReason::RepositoriesUnlisted, what);
        let Source::Http(source) = self.admit()? else {
            return Err(unlisted("a folder of the agent's machine is no git host".to_owned()));
        };
        let known = self.host(&source).filter(|host| host.kind != GitHostKind::Git);
        let Some(host) = known else {
            return Err(unlisted(format!(
                "the agent knows {} as a plain git host",
                origin_text(&source.base)
            )));
        };
        let rest = self.rest(host, self.credential.as_ref(), control)?;
        let mut gathering = Gathering::new(rest, &self.git.inner.config);
        let complete = match host.kind {
            GitHostKind::BitbucketCloud => gathering.cloud()?,
            GitHostKind::BitbucketDc | GitHostKind::Git => gathering.data_center()?,
        };
        Ok(Answer::Repos { repos: gathering.finish(), complete })
    }

    fn host(&self, source: &HttpSource) -> Option<&GitHost> {
        self.git.inner.config.host(&source.base)
    }

    /// Reads the refs, at this address and no other.
    fn ask(
        &self,
        source: &HttpSource,
        credential: Option<&GitCredential>,
        control: &Control,
    ) -> Result<(), Fault> {
        let inner = &self.git.inner;
        let host = Host::new(&source.base, credential, &inner.config, &inner.roots, control)?;
        host.where_it_is().refs().map(drop)
    }

    fn rest<'a>(
        &'a self,
        host: &GitHost,
        credential: Option<&GitCredential>,
        control: &'a Control,
    ) -> Result<Rest<'a>, Fault> {
        let inner = &self.git.inner;
        Rest::new(&host.api(), credential, &inner.config, &inner.roots, control)
    }
}

/// What most people do wrong at Bitbucket Cloud.
fn ask_for_address(fault: Fault, credential: &GitCredential) -> Fault {
    match fault {
        Fault::Said { reason: FailureReason::CredentialsNeeded, detail }
            if !credential.username.contains('@') =>
        {
            let hint = "an API token goes with the email address of the Atlassian account";
            said(FailureReason::CredentialsNeeded, format!("{detail}; {hint}"))
        }
        other => other,
    }
}

/// Refuses what is a token's user name, or a token itself, before it is sent anywhere.
fn refuse_tokens(credential: &GitCredential) -> Result<(), Fault> {
    let refuse = |what: &str| Err(said(FailureReason::CredentialsNeeded, what));
    let user = credential.username.to_ascii_lowercase();
    if user.is_empty() || user.len() > MAX_USER || user.chars().any(char::is_control) {
        return refuse("that is no user name: give your own name at the git host");
    }
    if TOKEN_USERS.contains(&user.as_str()) || TOKENS.iter().any(|begins| user.starts_with(begins)) {
        return refuse(
            "that user name stands for a token and for no person: give your own name at the git host",
        );
    }
    if credential.password.expose().is_empty() {
        return refuse("the password is empty");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sdp_core::secret::Secret;

    use super::*;

    #[test]
    fn a_token_is_no_person() {
        let with = |username: &str, password: &str| {
            refuse_tokens(&GitCredential { username: username.into(), password: Secret::new(password) })
        };
        for user in ["alice", "Alice.Berg@example.com", "github", "tokenizer", "gitte"] {
            assert!(with(user, "x").is_ok(), "{user}");
        }
        let long = "a".repeat(101);
        for user in
            ["x-token-auth", "X-Access-Token", "git", "OAuth2", "", "ghp_16C7e42F292c6912E7", &long, "a\tb"]
        {
            let fault = with(user, "x").expect_err(user);
            assert!(matches!(fault, Fault::Said { reason: FailureReason::CredentialsNeeded, .. }), "{user}");
        }
        assert!(with("alice", "").is_err());
    }
}
