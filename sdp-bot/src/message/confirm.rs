//! What is asked before something is done that ends what others may use.
//!
//! Called by chats that have buttons. Pure.

use sdp_core::id::DeploymentRef;

use crate::command::{Command, Target, Verb};

/// A question before a command is carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirm {
    /// The question.
    pub title: String,
    /// What will happen.
    pub text: String,
    /// The button that does it.
    pub yes: &'static str,
    /// The button that does not.
    pub no: &'static str,
}

/// What is asked before a command; none: nothing ends by it that cannot be taken up again.
#[must_use]
pub fn confirm(command: &Command) -> Option<Confirm> {
    match command {
        Command::Act { verb: Verb::Stop, on } => Some(Confirm {
            title: "Stop it?".to_owned(),
            text: format!(
                "{} stops, and its requests go to the baseline. You can deploy it again at any time.",
                what(on)
            ),
            yes: "Stop",
            no: "Let it run",
        }),
        Command::SandboxDelete(name) => Some(Confirm {
            title: "Delete the sandbox?".to_owned(),
            text: format!("All that runs in {name} stops, and {name} is no more. Nothing else is touched."),
            yes: "Delete",
            no: "Keep it",
        }),
        _ => None,
    }
}

fn what(target: &Target) -> String {
    match target {
        Target::Deployment(DeploymentRef::Number(number)) => format!("What #{number} left running"),
        Target::Deployment(_) => "What this deployment left running".to_owned(),
        Target::Service { service, sandbox: Some(sandbox) } => format!("{service} in {sandbox}"),
        Target::Service { service, sandbox: None } => format!("{service} in your sandbox"),
    }
}
