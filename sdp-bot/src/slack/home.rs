//! Somebody's home. Pure.

use jiff::Timestamp;
use sdp_core::client::ClientError;
use slack_morphism::prelude::{SlackHomeView, SlackView};

use crate::answer::home::HomeFacts;

pub(super) fn home(facts: &Result<HomeFacts, ClientError>, _now: Timestamp) -> SlackView {
    if let Ok(facts) = facts {
        let _ = (&facts.me, &facts.sandboxes, &facts.branches, &facts.deployments);
    }
    SlackView::Home(SlackHomeView::new(Vec::new()))
}
