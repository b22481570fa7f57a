//! `[login]`: how people log in, and what they may do.

use std::collections::BTreeSet;
use std::time::Duration;

use sdp_core::name::RepoUrl;
use sdp_core::principal::Role;
use serde::Deserialize;

use super::ConfigError;

/// How people log in.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Login {
    /// The repository whose branches an agent lists with somebody's git user and password, to see whether they are right. It must
    /// not be open to everybody, and everybody who works with SDP must be able to read it. None: nobody logs in.
    pub repository: Option<RepoUrl>,
    /// What people may do who come for the first time.
    pub role: Role,
    /// Git users who are admins, from their next login on.
    pub admins: BTreeSet<String>,
    /// For how many days a user of a chat is the account that they logged in with.
    pub binding_days: u16,
    /// Take the users of a bot's chat for the people they are named after, without a login; for trying SDP out, and where the chat's
    /// own login is as good as the git host's. Their own git credentials are not known then.
    pub trust_bot: bool,
}

impl Default for Login {
    fn default() -> Self {
        Self {
            repository: None,
            role: Role::Developer,
            admins: BTreeSet::new(),
            binding_days: 90,
            trust_bot: false,
        }
    }
}

impl Login {
    /// For how long a user of a chat is bound.
    pub(crate) fn binding_life(&self) -> Duration {
        Duration::from_secs(u64::from(self.binding_days) * 24 * 3600)
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, problem: &str| Err(ConfigError::Value { key, problem: problem.to_owned() });
        if let Some(repository) = &self.repository
            && repository.origin().is_none()
        {
            return wrong("login.repository", "a git host must vouch for people: an https:// URL");
        }
        if self.trust_bot && self.repository.is_some() {
            return wrong(
                "login.trust_bot",
                "either people log in with a repository, or the chat's names are taken for people's",
            );
        }
        if self.binding_days == 0 || self.binding_days > 3650 {
            return wrong("login.binding_days", "1 to 3650");
        }
        Ok(())
    }
}
