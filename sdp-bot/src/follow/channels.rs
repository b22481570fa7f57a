//! Where deployments are told that nobody asked for in a chat: in the channel that their request names, else by environment, else by
//! service. Several that were asked for together are told where the first of them is.

use std::collections::HashMap;

use sdp_core::event::{Event, EventKind};
use sdp_core::name::{EnvironmentName, ServiceName};
use sdp_core::principal::Principal;

use super::Follower;
use crate::chat::{About, Conversation};

/// Where deployments are told that nobody asked for in a chat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    /// Those of these services.
    pub services: HashMap<ServiceName, Conversation>,
    /// Those in these environments; they go before those of services.
    pub environments: HashMap<EnvironmentName, Conversation>,
}

impl Follower {
    /// The story that is to be told though nobody asked for it here, and where.
    pub(super) fn to_be_told(&self, event: &Event) -> Option<(About, Conversation)> {
        let channels = self.channels.as_ref()?;
        let EventKind::DeploymentRequested { service, notify, batch, .. } = &event.kind else { return None };
        let about = match batch {
            Some(batch) => About::Batch(*batch),
            None => About::Deployment(event.about.deployment?),
        };
        let conversation = match (notify, &event.by) {
            (Some(notify), _) => Conversation(match notify.channel.plain_name() {
                Some(name) => format!("#{name}"),
                None => notify.channel.to_string(),
            }),
            // Who asked in a chat hears it there.
            (None, Principal::Bot { .. }) => return None,
            (None, _) => {
                let environment = event.about.environment.as_ref();
                let of_environment = environment.and_then(|name| channels.environments.get(name));
                of_environment.or_else(|| channels.services.get(service))?.clone()
            }
        };
        Some((about, conversation))
    }
}
