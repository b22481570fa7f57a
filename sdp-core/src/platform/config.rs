//! Where the platform keeps its things, and every limit that it has.

use std::path::PathBuf;
use std::time::Duration;

use crate::logs::LogsConfig;
use crate::wire::StepLimits;

/// Where the key is with which credentials and secret values are sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VaultKey {
    /// In a file of mode 0600, which is made if it is not there.
    File(PathBuf),
    /// Nowhere: what was sealed cannot be opened after a restart.
    Memory,
}

/// Where the platform keeps its things, and its limits. Every wait has one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PlatformConfig {
    /// The data folder: `sdp.db` and `logs/` in it. Made if it is not there.
    pub data_dir: PathBuf,
    /// The key that seals; `seal.key` in the data folder.
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
    /// Limits of the job logs.
    pub logs: LogsConfig,
}

impl PlatformConfig {
    /// The defaults, with everything in this folder.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        Self {
            vault: VaultKey::File(data_dir.join("seal.key")),
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
            logs: LogsConfig::default(),
        }
    }
}
