//! What is wrong with a body or query, said without repeating it: what somebody put into the wrong field may be a password.

use crate::problem::Refused;

/// What names are called in errors of their types, with the code of each.
const NAMES: &[(&str, &str)] = &[
    ("branch", "invalid_branch"),
    ("commit", "invalid_commit"),
    ("repository", "invalid_repository"),
    ("variable name", "invalid_variable"),
    ("path", "invalid_path"),
    ("channel", "invalid_channel"),
    ("path prefix", "invalid_name"),
    ("service name", "invalid_name"),
    ("sandbox name", "invalid_name"),
    ("environment name", "invalid_name"),
    ("template name", "invalid_name"),
    ("team name", "invalid_name"),
    ("host name", "invalid_name"),
    ("routing key", "invalid_name"),
    ("agent name", "invalid_name"),
    ("token name", "invalid_name"),
    ("person name", "invalid_name"),
    ("label", "invalid_name"),
    ("file name", "invalid_name"),
    ("idempotency key", "invalid_name"),
];

/// A refusal for what serde said about the value at `path`. `code` is for what has no code of its own.
pub(super) fn describe(code: &'static str, title: &'static str, path: &str, message: &str) -> Refused {
    let message = message.rsplit_once(" at line ").map_or(message, |(message, _)| message);
    let place = if path != "." && is_plain(path) { format!("{path}: ") } else { String::new() };
    let own = NAMES.iter().find_map(|(what, code)| {
        let expected = message.strip_prefix("invalid ")?.strip_prefix(what)?.strip_prefix(": ")?;
        Some((what, code, expected))
    });
    if let Some((what, code, expected)) = own {
        return Refused::new(code, title).detail(format!("{place}invalid {what}")).hint(expected);
    }
    let text = match message {
        "invalid socket address syntax" => {
            "expected an address and a port, such as 10.20.3.4:8080; no host name".into()
        }
        "invalid IP address syntax" => "expected a network, such as 10.20.0.0/16".into(),
        other => without_input(other),
    };
    Refused::new(code, title).detail(format!("{place}{text}"))
}

/// serde's sentence without the value that it complains about.
fn without_input(message: &str) -> String {
    let quoted = ["invalid type: ", "invalid value: ", "invalid length ", "unknown variant "];
    if quoted.iter().any(|start| message.starts_with(start)) {
        return match message.rfind(", expected ") {
            Some(at) => message[at + 2..].to_owned(),
            None => "cannot be read".to_owned(),
        };
    }
    if let Some(rest) = message.strip_prefix("unknown field `") {
        let (field, expected) = rest.split_once('`').unwrap_or(("", ""));
        let field =
            if is_plain(field) { format!("unknown field `{field}`") } else { "unknown field".to_owned() };
        return format!("{field}{expected}");
    }
    let known = ["missing field `", "duplicate field `", "not a ", "no variant", "a "];
    if known.iter().any(|start| message.starts_with(start)) && message.len() < 200 {
        return message.to_owned();
    }
    "cannot be read".to_owned()
}

fn is_plain(text: &str) -> bool {
    text.len() <= 60 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.[]".contains(&b))
}

/// The codes here are those of the names themselves.
#[cfg(test)]
mod tests {
    use sdp_core::name::{
        ChannelName, CommitId, EnvName, GitRef, InvalidName, PathPrefix, RepoPath, RepoUrl, ServiceName,
    };

    use super::*;

    fn said(message: &str) -> String {
        let refused = describe("invalid_body", "the body cannot be used", "x", message);
        let problem = refused.problem();
        format!(
            "{} | {} | {}",
            problem.code,
            problem.detail.as_deref().unwrap_or(""),
            problem.hint.as_deref().unwrap_or("")
        )
    }

    #[test]
    fn codes_of_names_are_their_own() {
        let errors: [InvalidName; 8] = [
            ChannelName::parse("@here").expect_err("bad"),
            GitRef::parse("-h").expect_err("bad"),
            CommitId::parse("x").expect_err("bad"),
            RepoUrl::parse("x").expect_err("bad"),
            EnvName::parse("PATH").expect_err("bad"),
            RepoPath::parse("..").expect_err("bad"),
            PathPrefix::parse("..").expect_err("bad"),
            ServiceName::parse("..").expect_err("bad"),
        ];
        for error in errors {
            let refused = describe("invalid_body", "x", "x", &format!("{error} at line 1 column 2"));
            assert_eq!(refused.code(), error.code());
            assert_eq!(refused.problem().hint.as_deref(), Some(error.hint()));
        }
    }

    #[test]
    fn nothing_that_was_sent_is_repeated() {
        for message in [
            "invalid type: string \"hunter2\", expected struct GitCredential at line 1 column 9",
            "invalid value: string \"hunter2, expected x\", expected relative URL without a base",
            "unknown variant `hunter2`, expected `go` or `command`",
            "unknown field `hunter2 is my password`, expected `a`",
            "something new about hunter2",
        ] {
            assert!(!said(message).contains("hunter2"), "{}", said(message));
        }
        let said = [
            said("invalid type: string \"hunter2\", expected struct GitCredential at line 1 column 9"),
            said("unknown field `sandbx`, expected `sandbox`"),
            said("missing field `service`"),
        ];
        insta::assert_snapshot!(said.join("\n"), @r"
        invalid_body | x: expected struct GitCredential | 
        invalid_body | x: unknown field `sandbx`, expected `sandbox` | 
        invalid_body | x: missing field `service` |
        ");
    }
}
