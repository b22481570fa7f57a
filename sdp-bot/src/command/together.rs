//! Several services deployed together: named each with its branch, or those of a template.
//!
//! ```text
//! deploy payments=feature/a ledger=feature/b [to qa-42] [KEY=value …]       payments@feature/a ledger@feature/b
//! deploy template shop [ledger=feature/b …] [to qa-42]
//! ```

use std::collections::BTreeMap;
use std::fmt;

use sdp_core::name::{EnvName, GitRef, SandboxName, ServiceName, TemplateName};

use super::grammar::{branch, name, set_sandbox, shown, usage};
use super::words::{Word, quoted};
use super::{Command, Deploy, Mistake, Wanted, address};

/// Several services into one sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Together {
    /// The template whose services are deployed.
    pub template: Option<TemplateName>,
    /// Each once, in the order in which they were named.
    pub services: Vec<(ServiceName, GitRef)>,
    /// Where to.
    pub sandbox: Option<SandboxName>,
    /// Variables of each.
    pub env: BTreeMap<EnvName, String>,
}

impl fmt::Display for Together {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("deploy")?;
        if let Some(template) = &self.template {
            write!(f, " template {template}")?;
        }
        for (service, git_ref) in &self.services {
            write!(f, " {}", quoted(&format!("{service}={git_ref}")))?;
        }
        if let Some(sandbox) = &self.sandbox {
            write!(f, " to {sandbox}")?;
        }
        for (name, value) in &self.env {
            write!(f, " {name}={}", quoted(value))?;
        }
        Ok(())
    }
}

/// What the words of a deploy say, if it is one of several services; none: it is of one.
pub(super) fn read(
    plain: &[&Word],
    mut sandbox: Option<SandboxName>,
    env: &BTreeMap<EnvName, String>,
) -> Result<Option<Command>, Mistake> {
    let is_at = |word: &&Word| !word.quoted && !address::is_address(&word.text) && word.text.contains('@');
    let (template, words) = match plain {
        [first, template, rest @ ..] if !first.quoted && first.text.eq_ignore_ascii_case("template") => {
            (Some(name::<TemplateName>("template", &template.text)?), rest)
        }
        [first] if !first.quoted && first.text.eq_ignore_ascii_case("template") => {
            return Err(usage("deploy", "Which template?").hint("templates lists those there are"));
        }
        [first, ..] if first.text.contains('=') && !address::is_address(&first.text) => (None, plain),
        [first, second, ..] if is_at(first) && is_at(second) => (None, plain),
        _ => return Ok(None),
    };
    let mut services: Vec<(ServiceName, GitRef)> = Vec::new();
    for (n, word) in words.iter().enumerate() {
        let Some(at) = word.text.find(['=', '@']) else {
            if n + 1 == words.len() {
                set_sandbox(&mut sandbox, word)?;
                continue;
            }
            return Err(usage("deploy", &format!("Which branch of {}?", shown(&word.text)))
                .hint("deploy payments=feature/a ledger=feature/b to qa-42"));
        };
        let service = name::<ServiceName>("service", &word.text[..at])?;
        let text = Word { text: word.text[at + 1..].to_owned(), quoted: word.quoted };
        if services.iter().any(|(known, _)| *known == service) {
            return Err(usage("deploy", &format!("{service} is there twice.")));
        }
        services.push((service.clone(), branch(&text, &Wanted::Service(service))?));
    }
    if template.is_some() && !env.is_empty() {
        return Err(Mistake::new("incomplete_command", "Variables of a template stand in the template.")
            .hint("leave them away, or name the services: deploy payments=feature/a KEY=value"));
    }
    let env = env.clone();
    Ok(Some(match (template, services.as_slice()) {
        (None, [(service, git_ref)]) => Command::Deploy(Deploy {
            service: Wanted::Service(service.clone()),
            git_ref: Some(git_ref.clone()),
            sandbox,
            env,
        }),
        (template, _) => Command::DeployTogether(Together { template, services, sandbox, env }),
    }))
}
