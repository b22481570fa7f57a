//! How to use it.

use super::{Message, Tone};
use crate::command::Topic;
use crate::text::Text;

/// Name, usage, what it does, an example.
const COMMANDS: [(&str, &str, &str, &str); 21] = [
    (
        "deploy",
        "deploy <service> [branch|tag|commit] [to <sandbox>] [KEY=value …]",
        "build a branch and run it in your sandbox",
        "deploy payments feature/refund",
    ),
    ("status", "status [sandbox|412]", "what runs, and where a deployment stands", "status 412"),
    ("list", "list [mine|all]", "sandboxes and what runs in them", "list all"),
    ("who", "who <service>", "who has it in their sandbox", "who payments"),
    ("where", "where <service>", "the addresses at which it answers", "where payments"),
    ("open", "open <service> [in <sandbox>]", "its address in a sandbox", "open payments"),
    (
        "logs",
        "logs <service|412> [in <sandbox>] [n]",
        "what a running service prints, or the end of a build",
        "logs payments 50",
    ),
    ("cancel", "cancel <service|412> [in <sandbox>]", "give up an unfinished deployment", "cancel 412"),
    (
        "stop",
        "stop <service|412> [in <sandbox>]",
        "stop it; requests go to the baseline again",
        "stop payments",
    ),
    ("restart", "restart <service|412> [in <sandbox>]", "start the running commit anew", "restart payments"),
    ("redeploy", "redeploy <service|412> [in <sandbox>]", "deploy the same commit again", "redeploy 412"),
    ("rollback", "rollback <service|412> [in <sandbox>]", "deploy what ran before", "rollback payments"),
    ("sandbox", "sandbox show|delete <name>", "look into a sandbox, or delete it", "sandbox show qa-42"),
    ("services", "services", "which services there are", "services"),
    ("branches", "branches <service> [text]", "its branches and tags", "branches payments refund"),
    (
        "agents",
        "agents [drain|resume <name>]",
        "the VMs that build and run; give one no new work, or work again",
        "agents drain vm-1",
    ),
    ("login", "login", "say which git account you are: you get a link, which nobody else sees", "login"),
    ("logout", "logout", "be nobody in this chat again", "logout"),
    ("whoami", "whoami", "who you are to SDP, and what you may do", "whoami"),
    ("help", "help [command|all]", "this", "help deploy"),
    ("quit", "quit", "leave the console (in a terminal)", "quit"),
];

/// The five that one needs first.
const FIRST: [&str; 5] = ["deploy", "status", "logs", "open", "rollback"];

/// How to use it: five verbs, all of them, or one.
#[must_use]
pub fn help(topic: Option<Topic>) -> Message {
    match topic {
        None => rows("what you can say", |name| FIRST.contains(&name))
            .line(Text::new().dim("everything else: ").code("help all")),
        Some(Topic::All) => rows("everything you can say", |_| true).line(
            Text::new().dim("without “to”, a deploy goes to your own sandbox; it is made on first use"),
        ),
        Some(Topic::Command(command)) => one(command),
    }
}

fn rows(title: &str, shown: impl Fn(&str) -> bool) -> Message {
    let message = Message::new(Tone::Plain, Text::new().plain(title));
    COMMANDS.iter().filter(|(name, ..)| shown(name)).fold(message, |message, (_, usage, what, _)| {
        message.line(Text::new().code(*usage).dim(format!("  {what}")))
    })
}

fn one(command: &str) -> Message {
    let Some((_, usage, what, example)) = COMMANDS.iter().find(|(name, ..)| *name == command) else {
        return help(Some(Topic::All));
    };
    let message = Message::new(Tone::Plain, Text::new().code(*usage))
        .line(Text::new().plain(*what))
        .line(Text::new().dim("for example ").code(*example));
    match command {
        "deploy" => message
            .line(Text::from(
                "Without a branch: the last one in that sandbox, else the service's default branch.",
            ))
            .line(Text::from(
                "payments@feature/a, a bare third word as sandbox, and addresses of branches work too.",
            ))
            .line(Text::from("Variables have upper-case names; secrets do not belong in a chat.")),
        "login" => message
            .line(Text::from("What you type in this chat is done in your name from then on, for some days."))
            .line(Text::from("User name and password are typed into the page alone, never into a chat.")),
        "rollback" => message.line(Text::from("The kept build is started again, if it is still there.")),
        _ => message,
    }
}
