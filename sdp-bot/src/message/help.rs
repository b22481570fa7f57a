//! How to use it.

use super::{Message, Tone};
use crate::command::Topic;
use crate::text::Text;

/// Name, usage, what it does, an example.
const COMMANDS: [(&str, &str, &str, &str); 31] = [
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
    (
        "sandbox",
        "sandbox [create|show|extend|pin|unpin|share|delete <name>]",
        "make a sandbox, see it, let it live longer, show others the way, delete it; alone: all of them",
        "sandbox create qa-42 from template shop for 3d",
    ),
    (
        "route",
        "route <service> [in <sandbox>] to baseline|<sandbox>|<host:port>|reset",
        "say where a sandbox's requests for a service go",
        "route payments in qa-42 to bob",
    ),
    (
        "routes",
        "routes [sandbox]   routes explain <address or path> [in <sandbox>]",
        "where a sandbox's requests go, and why",
        "routes explain /payments/refunds in qa-42",
    ),
    (
        "vars",
        "vars <service> [in <sandbox>]",
        "its variables, and where each value comes from",
        "vars payments in qa-42",
    ),
    (
        "lock",
        "lock <service> in <sandbox or environment> [for 2h] because <reason>",
        "keep a place for yourself: nobody else deploys there",
        "lock payments in qa-42 for 2h because I test refunds",
    ),
    (
        "freeze",
        "freeze <sandbox or environment> [for 2h] because <reason>",
        "keep a place as it is: nobody deploys there, you neither",
        "freeze staging for 1d because of the release",
    ),
    (
        "steal",
        "steal <place> [for 2h] because <reason>",
        "take a lock away; whoever has it is told why",
        "steal payments in qa-42 because production is down",
    ),
    ("unlock", "unlock <place>", "end a lock or a freeze", "unlock payments in qa-42"),
    ("locks", "locks", "who locks or freezes what, why, and until when", "locks"),
    ("templates", "templates", "what is deployed together, by name", "templates"),
    ("environments", "environments", "where sandboxes can be", "environments"),
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
            .line(Text::from("Variables have upper-case names; secrets do not belong in a chat."))
            .line(
                Text::new()
                    .plain("Several at once: ")
                    .code("deploy payments=feature/a ledger=feature/b to qa-42")
                    .plain(" or ")
                    .code("deploy template shop to qa-42"),
            ),
        "sandbox" => message
            .line(
                Text::new()
                    .code("sandbox extend qa-42 for 2d")
                    .plain(" (3h, 2d, 1w): so long from now; ")
                    .code("by 2d")
                    .plain(": so much later"),
            )
            .line(Text::from("pin keeps it until somebody deletes it; a deploy renews it, too.")),
        "cancel" => message.line(Text::new().plain("Several at once: ").code("cancel 412 413")),
        "login" => message
            .line(Text::from("What you type in this chat is done in your name from then on, for some days."))
            .line(Text::from("User name and password are typed into the page alone, never into a chat.")),
        "rollback" => message.line(Text::from("The kept build is started again, if it is still there.")),
        _ => message,
    }
}
