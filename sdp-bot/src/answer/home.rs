//! What somebody sees at home: who they are, their sandboxes and what runs in them, their deployments.

use std::collections::HashMap;

use sdp_core::api::{Deployment, Me, SandboxView};
use sdp_core::client::{ClientError, DeploymentFilter};
use sdp_core::id::DeploymentId;

use crate::bot::Asker;

/// Of how many sandboxes the deployments are shown.
const MAX_SANDBOXES: usize = 5;
/// How many deployments of each.
const MAX_DEPLOYMENTS: u32 = 10;

/// What a home shows.
#[derive(Clone, Debug)]
pub(crate) struct HomeFacts {
    /// Who they are.
    pub(crate) me: Me,
    /// Theirs, with what runs in them.
    pub(crate) sandboxes: Vec<SandboxView>,
    /// What started what runs.
    pub(crate) branches: HashMap<DeploymentId, Deployment>,
    /// In their sandboxes: those under way first, then the newest.
    pub(crate) deployments: Vec<Deployment>,
}

impl Asker {
    /// Asks for all that a home shows.
    ///
    /// # Errors
    /// The server is away, or refuses.
    pub(crate) async fn home(&self) -> Result<HomeFacts, ClientError> {
        self.forget_me();
        let (me, all) = tokio::join!(self.me(), self.client.sandboxes());
        let me = me?;
        let mut sandboxes = Vec::new();
        let mut deployments: Vec<Deployment> = Vec::new();
        if let Some(person) = me.principal.as_person() {
            sandboxes = all?;
            sandboxes.retain(|view| view.sandbox.owner.as_person() == Some(person));
            for view in sandboxes.iter().take(MAX_SANDBOXES) {
                let filter = DeploymentFilter {
                    sandbox: Some(view.sandbox.name.clone()),
                    limit: Some(MAX_DEPLOYMENTS),
                    ..DeploymentFilter::default()
                };
                deployments.extend(self.client.deployments(&filter).await?.deployments);
            }
        }
        deployments.sort_by_key(|deployment| (deployment.is_ended(), std::cmp::Reverse(deployment.id)));
        let running: Vec<_> = sandboxes.iter().flat_map(|view| view.instances.clone()).collect();
        let branches = self.branches_of(&running).await;
        Ok(HomeFacts { me, sandboxes, branches, deployments })
    }
}
