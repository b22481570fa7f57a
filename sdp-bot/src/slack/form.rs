//! The form for a deploy: service, branch, sandbox, variables.
//!
//! Called by [`super::dispatch`]: [`loading`] at once, [`deploy`] when the server has said which services there are and again
//! when another one is chosen, [`options_branches`] while somebody searches, [`submitted`] when it is sent. Pure.
//!
//! The field for the branch is named after the service (`branch:payments`): so a search knows whose branches are wanted, and
//! another service begins with an empty field. Where the form was opened travels in it ([`Origin`]).
//!
//! Invariant: what [`submitted`] gives is a command that the grammar gives again, so a form does nothing that could not be
//! typed. A refusal repeats no value of a variable.
//!
//! Limits: [`MAX_OPTIONS`] to choose from at a time, the rest is searched; a branch whose name is longer than [`MAX_VALUE`]
//! cannot be chosen, but typed as a command.

mod options;
pub(super) mod steal;
#[cfg(test)]
mod tests;

use sdp_core::name::{GitRef, SandboxName, ServiceName};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use slack_morphism::prelude::{
    SlackBlock, SlackBlockExternalSelectElement, SlackBlockPlainText, SlackBlockPlainTextInputElement,
    SlackBlockStaticSelectElement, SlackContextBlock, SlackInputBlock, SlackInputBlockElement,
    SlackModalView, SlackView,
};

use super::render::{self, Numbers, label};
use crate::command::{self, Command, Deploy, MAX_TEXT, Wanted};
use crate::message::{Message, answer as say};
use crate::text::clean;

pub(super) use options::{no_options, options_branches, options_services};

/// The button that opens the form.
pub(super) const OPEN: &str = "sdp:form";
/// The field for the service.
pub(super) const SERVICE: &str = "sdp:service";
const BRANCH: &str = "sdp:branch";
const SANDBOX: &str = "sdp:sandbox";
const VARIABLES: &str = "sdp:variables";
const CALLBACK: &str = "sdp:deploy";

const SERVICE_BLOCK: &str = "service";
/// Then comes a colon and the service, if one is chosen.
const BRANCH_BLOCK: &str = "branch";
const SANDBOX_BLOCK: &str = "sandbox";
const VARIABLES_BLOCK: &str = "variables";

/// How many can be chosen from at a time.
const MAX_OPTIONS: usize = 100;
/// The longest value of an option, in characters.
const MAX_VALUE: usize = 150;
/// The longest text of an option, in characters.
const MAX_OPTION: usize = 75;
/// What a form can carry along, in characters.
const MAX_METADATA: usize = 3000;
/// The longest refusal beside a field, in characters.
const MAX_REFUSAL: usize = 500;

/// Where a form was opened; it comes back with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Origin {
    /// Empty: the person's own conversation with the app.
    #[serde(default)]
    pub(super) conversation: String,
    /// The lock that is to be taken away, as it is typed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) steal: Option<String>,
}

impl Origin {
    pub(super) fn new(conversation: &str) -> Self {
        Self { conversation: conversation.to_owned(), steal: None }
    }

    fn metadata(&self) -> String {
        serde_json::to_string(self)
            .ok()
            .filter(|json| json.chars().count() <= MAX_METADATA)
            .unwrap_or_else(|| "{}".to_owned())
    }
}

/// What the form shows.
#[derive(Clone, Debug)]
pub(super) struct Form {
    pub(super) services: Vec<ServiceName>,
    pub(super) chosen: Option<ServiceName>,
    /// Where a deploy goes to when no sandbox is named.
    pub(super) own_sandbox: Option<SandboxName>,
    pub(super) origin: Origin,
}

/// Why a form is not taken: shown beside the field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    block: String,
    text: String,
}

impl Refused {
    fn new(block: impl Into<String>, text: &str) -> Self {
        Self { block: block.into(), text: clean(text, MAX_REFUSAL) }
    }

    /// As Slack takes it in answer to a form.
    pub(super) fn to_json(&self) -> Value {
        json!({ "response_action": "errors", "errors": { &self.block: &self.text } })
    }
}

/// What is shown until the server has answered.
pub(super) fn loading(origin: &Origin) -> SlackView {
    let words = SlackBlockPlainText::new("Looking which services there are…".to_owned());
    modal(vec![SlackContextBlock::new(vec![words.into()]).into()], origin, None)
}

/// Words in place of the fields.
pub(super) fn unavailable(message: &Message) -> SlackView {
    let words = Message { actions: Vec::new(), ..message.clone() };
    modal(render::blocks(&words, &mut Numbers::default()), &Origin::default(), None)
}

/// The form.
pub(super) fn deploy(form: &Form) -> SlackView {
    if form.services.is_empty() {
        return unavailable(&say::services(&[]));
    }
    let chosen = match form.services.as_slice() {
        [only] => Some(only),
        _ => form.chosen.as_ref(),
    };
    let blocks = vec![
        service_field(&form.services, chosen),
        branch_field(chosen),
        sandbox_field(form.own_sandbox.as_ref()),
        variables_field(),
    ];
    modal(blocks, &form.origin, Some("Deploy"))
}

fn modal(blocks: Vec<SlackBlock>, origin: &Origin, submit: Option<&str>) -> SlackView {
    let view = SlackModalView::new("Deploy".into(), blocks)
        .with_close(if submit.is_some() { "Cancel" } else { "Close" }.into())
        .opt_submit(submit.map(Into::into))
        .with_callback_id(CALLBACK.into())
        .with_private_metadata(origin.metadata());
    SlackView::Modal(view)
}

fn service_field(services: &[ServiceName], chosen: Option<&ServiceName>) -> SlackBlock {
    let placeholder = label("Which service?", MAX_VALUE);
    let chosen = chosen.map(|service| options::option(service.as_str(), service.as_str()));
    let element: SlackInputBlockElement = if services.len() <= MAX_OPTIONS {
        let all =
            services.iter().map(|service| options::option(service.as_str(), service.as_str())).collect();
        SlackBlockStaticSelectElement::new()
            .with_action_id(SERVICE.into())
            .with_placeholder(placeholder)
            .with_options(all)
            .opt_initial_option(chosen)
            .into()
    } else {
        SlackBlockExternalSelectElement::new()
            .with_action_id(SERVICE.into())
            .with_placeholder(placeholder)
            .with_min_query_length(0)
            .opt_initial_option(chosen)
            .into()
    };
    field(SERVICE_BLOCK, "Service", element).with_dispatch_action(true).into()
}

fn branch_field(service: Option<&ServiceName>) -> SlackBlock {
    let (block, placeholder) = match service {
        Some(service) => (format!("{BRANCH_BLOCK}:{service}"), "The last one there, else the default"),
        None => (BRANCH_BLOCK.to_owned(), "Choose a service first"),
    };
    let element = SlackBlockExternalSelectElement::new()
        .with_action_id(BRANCH.into())
        .with_placeholder(label(placeholder, MAX_VALUE))
        .with_min_query_length(0);
    field(&block, "Branch, tag or commit", element.into()).with_optional(true).into()
}

fn sandbox_field(own: Option<&SandboxName>) -> SlackBlock {
    let placeholder = own.map_or_else(|| "Which sandbox?".to_owned(), |own| format!("{own} (your own)"));
    let element = SlackBlockPlainTextInputElement::new()
        .with_action_id(SANDBOX.into())
        .with_placeholder(label(&placeholder, MAX_VALUE))
        .with_max_length(100);
    field(SANDBOX_BLOCK, "Sandbox", element.into())
        .with_optional(own.is_some())
        .with_hint(label("It is made when something is first deployed to it.", 2000))
        .into()
}

fn variables_field() -> SlackBlock {
    let element = SlackBlockPlainTextInputElement::new()
        .with_action_id(VARIABLES.into())
        .with_placeholder(label("LOG_LEVEL=debug", MAX_VALUE))
        .with_multiline(true)
        .with_max_length(3000);
    field(VARIABLES_BLOCK, "Variables", element.into())
        .with_optional(true)
        .with_hint(label("KEY=value, one on each line. Secrets do not belong here.", 2000))
        .into()
}

fn field(block: &str, name: &str, element: SlackInputBlockElement) -> SlackInputBlock {
    SlackInputBlock::new(label(name, 2000), element).with_block_id(block.into())
}

/// Where a form was opened.
pub(super) fn origin_of(view: &Value) -> Origin {
    view["private_metadata"].as_str().and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
}

/// The service that was just chosen.
pub(super) fn service_chosen(payload: &Value) -> Option<ServiceName> {
    let actions = payload["actions"].as_array()?;
    let chosen = actions.iter().find(|action| action["action_id"] == SERVICE)?;
    chosen["selected_option"]["value"].as_str()?.parse().ok()
}

/// The service whose branches are searched.
pub(super) fn service_of_suggestion(payload: &Value) -> Option<ServiceName> {
    let named = payload["block_id"].as_str().and_then(|block| block.strip_prefix("branch:"));
    named.and_then(|name| name.parse().ok()).or_else(|| chosen_value(&payload["view"], SERVICE)?.parse().ok())
}

/// What a form that was sent asks for.
///
/// # Errors
/// [`Refused`]: which field, and why.
pub(super) fn submitted(view: &Value) -> Result<(Deploy, Origin), Refused> {
    let service: ServiceName = chosen_value(view, SERVICE)
        .and_then(|service| service.parse().ok())
        .ok_or_else(|| Refused::new(SERVICE_BLOCK, "Which service?"))?;
    let git_ref = chosen_value(view, BRANCH).map(|text| git_ref(view, text)).transpose()?;
    let block = block_of(view, BRANCH_BLOCK);
    let of_another = block.strip_prefix("branch:").is_some_and(|of| of != service.as_str());
    if git_ref.is_some() && of_another {
        return Err(Refused::new(
            block,
            "That is a branch of the service that was chosen before; choose again.",
        ));
    }
    let sandbox = typed_value(view, SANDBOX).map(sandbox).transpose()?;
    let env =
        command::parse_variables(typed_value(view, VARIABLES).unwrap_or_default()).map_err(|mistake| {
            let text = match (mistake.code, mistake.hint) {
                ("secret_in_chat", _) => NO_SECRETS.to_owned(),
                (_, Some(hint)) => format!("{} – {hint}", mistake.problem),
                (_, None) => mistake.problem,
            };
            Refused::new(VARIABLES_BLOCK, &text)
        })?;
    let deploy = Deploy { service: Wanted::Service(service), git_ref, sandbox, env };
    let typed = deploy.to_string();
    if command::parse(&typed) == Ok(Command::Deploy(deploy.clone())) {
        return Ok((deploy, origin_of(view)));
    }
    Err(if typed.len() > MAX_TEXT {
        let text = format!("All together may have {MAX_TEXT} characters at most.");
        Refused::new(VARIABLES_BLOCK, &text)
    } else if deploy.env.is_empty() {
        Refused::new(
            block_of(view, BRANCH_BLOCK),
            "This branch cannot be named in a command; try refs/heads/….",
        )
    } else {
        Refused::new(VARIABLES_BLOCK, "A value holds what cannot be passed on; leave it out.")
    })
}

const NO_SECRETS: &str = "That looks like a secret, and it does not belong in a chat. Nothing was done with it. Ask an \
                          administrator to set it as a secret of the service.";

fn git_ref(view: &Value, text: &str) -> Result<GitRef, Refused> {
    text.parse().map_err(|_| {
        let text = format!("“{}” is no valid branch, tag or commit.", clean(text, 60));
        Refused::new(block_of(view, BRANCH_BLOCK), &text)
    })
}

fn sandbox(text: &str) -> Result<SandboxName, Refused> {
    let text = text.trim();
    if command::looks_like_a_secret(text) {
        return Err(Refused::new(SANDBOX_BLOCK, NO_SECRETS));
    }
    text.to_lowercase().parse().map_err(|error: sdp_core::name::InvalidName| {
        let text = format!("“{}” cannot be its name – expected: {}", clean(text, 60), error.hint());
        Refused::new(SANDBOX_BLOCK, &text)
    })
}

/// The server's refusal, beside the field that it is about; `code`: the server's.
pub(super) fn refused_by_server(view: &Value, message: &Message, code: &str) -> Value {
    let field = match code {
        code if code.contains("service") => SERVICE_BLOCK,
        code if code.contains("sandbox") => SANDBOX_BLOCK,
        "secret_in_chat" | "invalid_value" | "too_long" => VARIABLES_BLOCK,
        _ => BRANCH_BLOCK,
    };
    let lines = message.lines.iter().map(crate::text::Text::words);
    let words: Vec<String> = std::iter::once(message.title.words()).chain(lines).collect();
    Refused::new(block_of(view, field), &words.join(" – ")).to_json()
}

/// The name that a field has in this form: Slack takes no refusal for a field that is not there.
fn block_of(view: &Value, field: &str) -> String {
    let is_it = |id: &str| id == field || id.strip_prefix(field).is_some_and(|rest| rest.starts_with(':'));
    let shown =
        view["blocks"].as_array().into_iter().flatten().filter_map(|block| block["block_id"].as_str());
    let sent =
        view["state"]["values"].as_object().into_iter().flat_map(|values| values.keys().map(String::as_str));
    shown.chain(sent).find(|id| is_it(id)).unwrap_or(field).to_owned()
}

/// The value of a field, in whichever block it is.
fn value_of<'a>(view: &'a Value, action: &str) -> Option<&'a Value> {
    view["state"]["values"].as_object()?.values().find_map(|block| block.get(action))
}

fn chosen_value<'a>(view: &'a Value, action: &str) -> Option<&'a str> {
    value_of(view, action)?["selected_option"]["value"].as_str()
}

fn typed_value<'a>(view: &'a Value, action: &str) -> Option<&'a str> {
    value_of(view, action)?["value"].as_str().filter(|text| !text.trim().is_empty())
}
