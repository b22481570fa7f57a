//! Where the platform keeps its things, and every limit that it has.

use std::path::PathBuf;
use std::time::Duration;

use crate::logs::LogsConfig;
use crate::wire::StepLimits;

/// The key's usual name in the data folder.
const KEY_FILE: &str = "seal.key";

/// Where the platform keeps its things, and its limits. Every wait has one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PlatformConfig {
    /// The data folder: `sdp.db`, `logs/` and, unless it is elsewhere, `seal.key` in it. Made if it is not there.
    pub data_dir: PathBuf,
    /// What seals secrets before they are stored.
    pub vault: VaultKey,
    /// How long each step may take on an agent.
    pub steps: StepLimits,
    /// How long a deployment may wait while no agent that fits is connected.
    pub no_agent_after: Duration,
    /// How long a deployment may wait for its turn.
    pub queue_limit: Duration,
    /// How many deployments may wait.
    pub queue_size: usize,
    /// How long an agent may take to accept work.
    pub accept_limit: Duration,
    /// How long a router may take to put a table into effect.
    pub switch_limit: Duration,
    /// How long an agent may take to stop everything after a cancel.
    pub cancel_limit: Duration,
    /// How often an agent is asked again whether it has cancelled something.
    pub ask_again: Duration,
    /// What a step may take beyond its limit before the platform stops believing that the agent ends it.
    pub step_grace: Duration,
    /// How long a replaced instance may take to finish the requests it has.
    pub drain_limit: Duration,
    /// How long agents take to dial again at most; a deployment that is to be switched waits so long for a router that is away.
    pub dial_again: Duration,
    /// After how long an agent's absence fails its deployments.
    pub lost_after: Duration,
    /// How long an agent may take to answer a question (branches, output).
    pub answer_limit: Duration,
    /// Below so many free bytes in the data folder new deployments are refused.
    pub disk_floor: u64,
    /// How often the branches that sandboxes run are looked for, with the agents' own logins: one whose branches are gone ends soon.
    pub look_for_branches: Duration,
    /// Limits of the job logs.
    pub logs: LogsConfig,
    /// How long lists of branches and repositories are kept, and how many.
    pub listings: ListingLimits,
}

/// How long lists of branches and repositories are kept in memory, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListingLimits {
    /// A list is at most so old when it is shown without asking again.
    pub fresh: Duration,
    /// One that is used and older is renewed in the background.
    pub renew_after: Duration,
    /// After a failure the git host is left alone so long.
    pub spare_for: Duration,
    /// How many lists are kept.
    pub lists: usize,
    /// How many branches, tags and repositories all of them may have together.
    pub items: usize,
    /// How many lists are asked for at once.
    pub asking: usize,
}

impl Default for ListingLimits {
    fn default() -> Self {
        Self {
            fresh: Duration::from_secs(60),
            renew_after: Duration::from_secs(20),
            spare_for: Duration::from_secs(2),
            lists: 1000,
            items: 200_000,
            asking: 256,
        }
    }
}

/// Where the key is that seals secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VaultKey {
    /// In this file, of mode 0600; it is made if it is not there.
    File(PathBuf),
    /// In this file, which systemd has put among the unit's credentials.
    Credential(PathBuf),
    /// Nowhere: it is gone with the process, and so is what it has sealed. Services cannot have secret values then, but files on
    /// their agents.
    Memory,
}

impl PlatformConfig {
    /// The defaults, with everything in this folder.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        Self {
            vault: VaultKey::File(data_dir.join(KEY_FILE)),
            data_dir,
            steps: StepLimits::default(),
            no_agent_after: Duration::from_secs(600),
            queue_limit: Duration::from_secs(2 * 3600),
            queue_size: 1000,
            accept_limit: Duration::from_secs(60),
            switch_limit: Duration::from_secs(30),
            cancel_limit: Duration::from_secs(75),
            ask_again: Duration::from_secs(15),
            step_grace: Duration::from_secs(60),
            drain_limit: Duration::from_secs(30),
            dial_again: Duration::from_secs(30),
            lost_after: Duration::from_secs(600),
            answer_limit: Duration::from_secs(30),
            disk_floor: 64 * 1024 * 1024,
            look_for_branches: Duration::from_secs(3600),
            logs: LogsConfig::default(),
            listings: ListingLimits::default(),
        }
    }
}
