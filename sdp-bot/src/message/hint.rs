//! What to do next, in the words of a chat: the server's hints speak to programs.
//!
//! Called by [`super::answer`]. Pure.

use sdp_core::api::{ON_BEHALF_OF, Problem};

/// What to do next about a problem.
pub(super) fn hint(problem: &Problem) -> Option<&str> {
    let hint = problem.hint.as_deref();
    Some(match problem.code.as_str() {
        "unknown_service" => "services lists those there are",
        "unknown_deployment" | "unknown_instance" => {
            "list shows what runs, status <sandbox> what is under way"
        }
        "unauthorised" => "give the bot a valid token: --token-file <file>, or the variable SDP_TOKEN",
        "forbidden" if hint.is_some_and(|hint| hint.contains(ON_BEHALF_OF)) => {
            "name the person: --as <person>"
        }
        "forbidden" if hint.is_none() => "use a bot's token, with --as <person>",
        "not_found"
        | "malformed_json"
        | "invalid_body"
        | "invalid_query"
        | "method_not_allowed"
        | "unsupported_media_type" => {
            "check the server's address, and that bot and server have the same version"
        }
        "invalid_cursor" | "idempotency_conflict" => "say it again",
        "invalid_id" => "say the deployment's number, e.g. 412",
        "already_ended" => "stop <service> stops what runs",
        "no_commit" => "deploy <service> <branch>",
        "nothing_to_roll_back" => "deploy <service> <branch, tag or commit>",
        "instance_over" => "redeploy <service>",
        "unknown_agent" => "agents shows which there are",
        "unknown_sandbox" => "sandboxes lists those there are; sandbox create <name> makes one",
        "unknown_environment" => "environments lists those there are",
        "unknown_template" => "templates lists those there are",
        "unknown_lock" => "locks lists those there are; it may just have ended",
        "sandbox_exists" => "sandbox show <name> shows it; deploy to it, or take another name",
        "not_a_member" => {
            "ask its owner to make you a member, or deploy to a sandbox of your own: leave “to” away"
        }
        "not_a_deployer" => {
            "environments says who deploys there; deploy to a sandbox in another one, or ask an administrator"
        }
        "locked" | "frozen" => {
            "locks says who holds it and until when; ask them, or steal <place> because <reason>"
        }
        "not_your_lock" => "ask whoever holds it, or steal <place> because <reason>: they are told why",
        "quota_exceeded" => {
            "stop what you do not need: stop <service> in <sandbox>, sandbox delete <name>; sandboxes mine lists yours"
        }
        "lifetime_too_long" => "say a shorter one, or sandbox pin <name> keeps it until you delete it",
        "service_not_in_environment" => "routes <sandbox> lists the services that are in its environment",
        "route_conflict" => "give it another path or host, or change the one that has it",
        "agent_away" | "no_agent" => "agents shows which are connected; try again when one is",
        _ => return hint,
    })
}
