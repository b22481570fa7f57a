//! The form for a deploy. Pure.

use sdp_core::api::{BranchList, Service};
use sdp_core::name::{SandboxName, ServiceName};
use serde_json::{Value, json};
use slack_morphism::prelude::{SlackModalView, SlackView};

use crate::command::Deploy;
use crate::message::Message;

pub(super) const SERVICE: &str = "sdp:service";
pub(super) const OPEN: &str = "sdp:form";

#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) conversation: String,
}

impl Origin {
    pub(super) fn new(conversation: &str) -> Self {
        Self { conversation: conversation.to_owned() }
    }
}

pub(super) struct Form {
    pub(super) services: Vec<ServiceName>,
    pub(super) chosen: Option<ServiceName>,
    pub(super) own_sandbox: Option<SandboxName>,
    pub(super) origin: Origin,
}

pub(super) struct Refused;

impl Refused {
    pub(super) fn to_json(&self) -> Value {
        json!({})
    }
}

fn empty() -> SlackView {
    SlackView::Modal(SlackModalView::new("Deploy".into(), Vec::new()))
}

pub(super) fn loading(_origin: &Origin) -> SlackView {
    empty()
}
pub(super) fn deploy(form: &Form) -> SlackView {
    let _ = (&form.services, &form.chosen, &form.own_sandbox, &form.origin);
    empty()
}
pub(super) fn unavailable(_message: &Message) -> SlackView {
    empty()
}
pub(super) fn origin_of(_view: &Value) -> Origin {
    Origin::new("")
}
pub(super) fn service_chosen(_payload: &Value) -> Option<ServiceName> {
    None
}
pub(super) fn service_of_suggestion(_payload: &Value) -> Option<ServiceName> {
    None
}
pub(super) fn options_services(_services: &[Service], _typed: &str) -> Value {
    no_options()
}
pub(super) fn options_branches(_list: &BranchList, _typed: &str) -> Value {
    no_options()
}
pub(super) fn no_options() -> Value {
    json!({ "options": [] })
}
pub(super) fn submitted(_view: &Value) -> Result<(Deploy, Origin), Refused> {
    Err(Refused)
}
pub(super) fn refused_by_server(_view: &Value, _message: &Message, _code: &str) -> Value {
    json!({})
}
