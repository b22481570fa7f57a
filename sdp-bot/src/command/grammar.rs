//! Words to commands.

use std::collections::BTreeMap;
use std::str::FromStr;

use sdp_core::id::DeploymentRef;
use sdp_core::name::{AgentName, EnvName, GitRef, InvalidName, SandboxName, ServiceName, did_you_mean};

use super::words::{Word, split};
use super::{
    Command, Deploy, LockVerb, MAX_TEXT, Mistake, StatusOf, Target, Topic, VERBS, Verb, Wanted, address,
    locks, looks_like_a_secret, places, secrets, together,
};
use crate::text::clean;

/// The longest value of a variable, in bytes.
const MAX_VALUE: usize = 2000;
/// What people type for a command that has another name here.
const ALIASES: [(&str, &str); 29] = [
    ("?", "help"),
    ("man", "help"),
    ("ls", "list"),
    ("ps", "list"),
    ("log", "logs"),
    ("branch", "branches"),
    ("service", "services"),
    ("agent", "agents"),
    ("abort", "cancel"),
    ("undo", "rollback"),
    ("retry", "redeploy"),
    ("url", "open"),
    ("st", "status"),
    ("sandboxes", "sandbox"),
    ("template", "templates"),
    ("environment", "environments"),
    ("envs", "environments"),
    ("env", "environments"),
    ("variables", "vars"),
    ("var", "vars"),
    ("unfreeze", "unlock"),
    ("freezes", "locks"),
    ("roll-back", "rollback"),
    ("re-deploy", "redeploy"),
    ("info", "status"),
    ("signin", "login"),
    ("log-in", "login"),
    ("log-out", "logout"),
    ("me", "whoami"),
];
pub(super) fn parse(text: &str) -> Result<Command, Mistake> {
    if text.len() > MAX_TEXT {
        return Err(Mistake::new("too_long", format!("A command has at most {MAX_TEXT} characters.")));
    }
    let words = split(text)?;
    if words.iter().any(|word| looks_like_a_secret(&word.text)) || looks_like_a_secret(text) {
        return Err(secret());
    }
    let mut words = words.as_slice();
    while let [first, rest @ ..] = words
        && matches!(
            first.text.to_lowercase().trim_end_matches([':', ',']),
            "/sdp" | "sdp" | "@sdp" | "@sdp-bot"
        )
    {
        words = rest;
    }
    let [verb, rest @ ..] = words else { return Ok(Command::Help(None)) };
    let typed = verb.text.to_lowercase();
    let typed = typed.trim_start_matches('/');
    let verb = ALIASES.iter().find(|(alias, _)| *alias == typed).map_or(typed, |(_, verb)| verb);
    let rest = Rest { words: rest };
    match verb {
        "deploy" => deploy(rest),
        "status" => status(rest),
        "list" => match rest.all() {
            [] => Ok(Command::List { all: false }),
            [one] if one.text == "mine" => Ok(Command::List { all: false }),
            [one] if one.text == "all" => Ok(Command::List { all: true }),
            _ => Err(usage("list", "I know list mine and list all.")),
        },
        "who" => Ok(Command::Who(only_service("who", rest)?)),
        "where" => Ok(Command::Where(only_service("where", rest)?)),
        "open" => match target("open", rest)? {
            Target::Service { service, sandbox } => Ok(Command::Open { service, sandbox }),
            _ => Err(usage("open", "Say which service, not which deployment.")),
        },
        "logs" => logs(rest),
        "cancel" => act(Verb::Cancel, rest),
        "stop" => act(Verb::Stop, rest),
        "restart" => act(Verb::Restart, rest),
        "redeploy" => act(Verb::Redeploy, rest),
        "rollback" => act(Verb::Rollback, rest),
        "sandbox" => places::sandbox(rest),
        "share" => places::share(rest),
        "route" => places::route(rest),
        "routes" => places::routes(rest),
        "vars" => match target("vars", rest)? {
            Target::Service { service, sandbox } => Ok(Command::Vars { service, sandbox }),
            _ => Err(usage("vars", "Say which service, not which deployment.")),
        },
        "templates" => nothing("templates", rest, Command::Templates),
        "environments" => nothing("environments", rest, Command::Environments),
        "lock" => locks::lock(LockVerb::Lock, rest),
        "freeze" => locks::lock(LockVerb::Freeze, rest),
        "steal" => locks::lock(LockVerb::Steal, rest),
        "unlock" => locks::unlock(rest),
        "locks" => nothing("locks", rest, Command::Locks),
        "services" => nothing("services", rest, Command::Services),
        "branches" => branches(rest),
        "agents" => match rest.all() {
            [] => Ok(Command::Agents),
            [verb, name] if matches!(verb.text.as_str(), "drain" | "resume") => {
                let agent = self::name::<AgentName>("VM", &name.text)?;
                Ok(Command::Drain { agent, draining: verb.text == "drain" })
            }
            _ => Err(usage("agents", "I know agents, agents drain <name> and agents resume <name>.")),
        },
        "login" if !rest.all().is_empty() => Err(login_in_chat()),
        "login" => Ok(Command::Login),
        "logout" => nothing("logout", rest, Command::Logout),
        "whoami" => nothing("whoami", rest, Command::Whoami),
        "help" => help(rest),
        _ => Err(unknown_verb(typed)),
    }
}

#[derive(Clone, Copy)]
pub(super) struct Rest<'a> {
    words: &'a [Word],
}

impl<'a> Rest<'a> {
    pub(super) fn all(self) -> &'a [Word] {
        self.words
    }
}

fn nothing(verb: &'static str, rest: Rest<'_>, command: Command) -> Result<Command, Mistake> {
    match rest.all() {
        [] => Ok(command),
        [extra, ..] => Err(usage(verb, &format!("{verb} takes no {}.", shown(&extra.text)))),
    }
}

fn deploy(rest: Rest<'_>) -> Result<Command, Mistake> {
    let mut env = BTreeMap::new();
    let mut plain = Vec::new();
    let mut sandbox = None;
    let mut words = rest.all().iter();
    while let Some(word) = words.next() {
        let lower = word.text.to_lowercase();
        if !word.quoted && word.text.starts_with("--") && word.text.len() > 2 {
            return Err(flag(&word.text));
        }
        if let Some((name, value)) = variable(word) {
            let (name, value) = checked(name, value)?;
            if env.insert(name.clone(), value).is_some() {
                return Err(usage("deploy", &format!("{name} is there twice.")));
            }
        } else if !plain.is_empty() && !word.quoted && matches!(lower.as_str(), "to" | "in" | "on" | "into") {
            let Some(name) = words.next() else {
                return Err(usage("deploy", &format!("Which sandbox? After “{lower}” comes its name.")));
            };
            set_sandbox(&mut sandbox, name)?;
        } else {
            plain.push(word);
        }
    }
    let (first, rest) = match plain.as_slice() {
        [] => return Err(usage("deploy", "Which service?")),
        [first, rest @ ..] => (*first, rest),
    };
    if let Some(together) = together::read(&plain, sandbox.clone(), &env)? {
        return Ok(together);
    }
    let (service, mut git_ref) = service_and_ref(&first.text)?;
    let mut rest = rest.iter();
    if git_ref.is_none() {
        git_ref = match rest.next() {
            Some(word) => Some(branch(word, &service)?),
            None => None,
        };
    }
    if let Some(word) = rest.next() {
        set_sandbox(&mut sandbox, word)?;
    }
    if let Some(extra) = rest.next() {
        return Err(usage("deploy", &format!("I do not know what {} is for.", shown(&extra.text))));
    }
    Ok(Command::Deploy(Deploy { service, git_ref, sandbox, env }))
}

pub(super) fn set_sandbox(sandbox: &mut Option<SandboxName>, word: &Word) -> Result<(), Mistake> {
    let name = name::<SandboxName>("sandbox", &word.text)?;
    match sandbox.replace(name) {
        None => Ok(()),
        Some(before) => {
            Err(usage("deploy", &format!("To {before} or to {}? One sandbox at a time.", shown(&word.text))))
        }
    }
}

/// `payments`, `payments@feature/a`, or an address.
fn service_and_ref(text: &str) -> Result<(Wanted, Option<GitRef>), Mistake> {
    if address::is_address(text) {
        let page = address::read(text)?;
        return Ok((Wanted::Repo(page.repo), page.git_ref));
    }
    match text.split_once('@') {
        Some((service, at)) => Ok((Wanted::Service(name("service", service)?), Some(git_ref(at)?))),
        None => Ok((Wanted::Service(name("service", text)?), None)),
    }
}

/// A branch, or a page's address: of the same repository, if the service was named by its repository too.
pub(super) fn branch(word: &Word, service: &Wanted) -> Result<GitRef, Mistake> {
    if !address::is_address(&word.text) {
        return git_ref(&word.text);
    }
    let page = address::read(&word.text)?;
    match (page.git_ref, service) {
        (Some(_), Wanted::Repo(repo)) if *repo != page.repo => {
            Err(usage("deploy", "The two addresses are of different repositories."))
        }
        (Some(git_ref), _) => Ok(git_ref),
        (None, _) => Err(usage("deploy", "That address names no branch.")),
    }
}

fn git_ref(text: &str) -> Result<GitRef, Mistake> {
    GitRef::parse(text).map_err(|error| {
        Mistake::new(error.code(), format!("{} is no valid branch, tag or commit.", shown(text)))
            .hint(format!("expected: {}", error.hint()))
    })
}

/// `KEY=value`, where the key is in capitals. A branch may hold `=` too, but hardly begins so.
fn variable(word: &Word) -> Option<(&str, &str)> {
    let (name, value) = word.text.split_once('=')?;
    let capitals = name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    capitals.then_some((name, value))
}

fn checked(name: &str, value: &str) -> Result<(EnvName, String), Mistake> {
    if secrets::is_secret_name(name) {
        return Err(secret());
    }
    let parsed = EnvName::parse(name).map_err(|error| {
        Mistake::new(error.code(), format!("{} cannot be set.", shown(name)))
            .hint(format!("expected: {}", error.hint()))
    })?;
    if value.len() > MAX_VALUE || value.chars().any(|c| c.is_control()) {
        return Err(Mistake::new(
            "invalid_value",
            format!("The value of {name} must be one line of at most {MAX_VALUE} bytes."),
        ));
    }
    Ok((parsed, value.to_owned()))
}

/// `KEY=value`, one on each line. What is wrong is said without what was typed: it may be a secret.
pub(super) fn variables(text: &str) -> Result<BTreeMap<EnvName, String>, Mistake> {
    let mut env = BTreeMap::new();
    for (n, line) in text.lines().enumerate().map(|(n, line)| (n + 1, line.trim())) {
        if line.is_empty() {
            continue;
        }
        if looks_like_a_secret(line) {
            return Err(secret());
        }
        let word = Word { text: line.to_owned(), quoted: false };
        let Some((name, value)) = variable(&word) else {
            let problem = format!("Line {n} is not KEY=value with a key in capitals.");
            return Err(Mistake::new("incomplete_command", problem));
        };
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
        let (name, value) = checked(name, value)?;
        if env.insert(name.clone(), value).is_some() {
            return Err(Mistake::new("incomplete_command", format!("{name} is there twice.")));
        }
    }
    Ok(env)
}

fn status(rest: Rest<'_>) -> Result<Command, Mistake> {
    let words = match rest.all() {
        [word, rest @ ..] if is_in(word) && !rest.is_empty() => rest,
        words => words,
    };
    match words {
        [] => Ok(Command::Status(None)),
        [one] => match DeploymentRef::from_str(&one.text) {
            Ok(deployment) => Ok(Command::Status(Some(StatusOf::Deployment(deployment)))),
            Err(_) => Ok(Command::Status(Some(StatusOf::Sandbox(name("sandbox", &one.text)?)))),
        },
        _ => Err(usage("status", "Say one sandbox or one number.")),
    }
}

pub(super) fn is_in(word: &Word) -> bool {
    !word.quoted && matches!(word.text.to_lowercase().as_str(), "in" | "on" | "to" | "of" | "for" | "from")
}

fn only_service(verb: &'static str, rest: Rest<'_>) -> Result<ServiceName, Mistake> {
    match rest.all() {
        [one] => name("service", &one.text),
        [] => Err(usage(verb, "Which service?")),
        _ => Err(usage(verb, "One service at a time.")),
    }
}

/// `412`, `payments`, `payments in qa`, `payments qa`.
fn target(verb: &'static str, rest: Rest<'_>) -> Result<Target, Mistake> {
    let (first, rest) = match rest.all() {
        [] => return Err(usage(verb, "Which service, or which number?")),
        [first, rest @ ..] => (first, rest),
    };
    let rest = match rest {
        [word] if is_in(word) => return Err(usage(verb, "Which sandbox?")),
        [word, rest @ ..] if is_in(word) => rest,
        rest => rest,
    };
    if let Ok(deployment) = DeploymentRef::from_str(&first.text) {
        return match rest {
            [] => Ok(Target::Deployment(deployment)),
            _ => Err(usage(verb, "A number names one deployment; it needs no sandbox.")),
        };
    }
    let service = name("service", &first.text)?;
    match rest {
        [] => Ok(Target::Service { service, sandbox: None }),
        [sandbox] => Ok(Target::Service { service, sandbox: Some(name("sandbox", &sandbox.text)?) }),
        _ => Err(usage(verb, "One service and one sandbox at a time.")),
    }
}

fn act(verb: Verb, rest: Rest<'_>) -> Result<Command, Mistake> {
    if verb == Verb::Cancel
        && let [_, _, ..] = rest.all()
        && let Ok(all) = rest.all().iter().map(|word| DeploymentRef::from_str(&word.text)).collect()
    {
        return Ok(Command::CancelAll(all));
    }
    Ok(Command::Act { verb, on: target(verb.as_str(), rest)? })
}

/// The last word may be a number of lines, unless it is the only word.
fn logs(rest: Rest<'_>) -> Result<Command, Mistake> {
    let words = rest.all();
    let (words, lines) = match words {
        [before @ .., last] if !before.is_empty() && last.text.bytes().all(|b| b.is_ascii_digit()) => {
            let lines = last.text.parse::<u32>().ok().filter(|lines| (1..=200).contains(lines));
            let Some(lines) = lines else { return Err(usage("logs", "I show 1 to 200 lines.")) };
            (before, Some(lines))
        }
        words => (words, None),
    };
    Ok(Command::Logs { of: target("logs", Rest { words })?, lines })
}

fn branches(rest: Rest<'_>) -> Result<Command, Mistake> {
    match rest.all() {
        [] => Err(usage("branches", "Of which service?")),
        [service] => Ok(Command::Branches { service: name("service", &service.text)?, text: None }),
        [service, text] => {
            Ok(Command::Branches { service: name("service", &service.text)?, text: Some(text.text.clone()) })
        }
        _ => Err(usage("branches", "One service, and one part of a name.")),
    }
}

fn help(rest: Rest<'_>) -> Result<Command, Mistake> {
    let Some(word) = rest.all().first() else { return Ok(Command::Help(None)) };
    let typed = word.text.to_lowercase();
    let typed = typed.trim_start_matches('/');
    if typed == "all" {
        return Ok(Command::Help(Some(Topic::All)));
    }
    let verb = ALIASES.iter().find(|(alias, _)| *alias == typed).map_or(typed, |(_, verb)| verb);
    match VERBS.iter().find(|known| **known == verb) {
        Some(verb) => Ok(Command::Help(Some(Topic::Command(verb)))),
        None => Err(unknown_verb(typed)),
    }
}

pub(super) fn name<N: FromStr<Err = InvalidName>>(what: &str, text: &str) -> Result<N, Mistake> {
    text.parse().or_else(|error: InvalidName| {
        // Phones begin a line with a capital.
        text.to_lowercase().parse().map_err(|_| {
            Mistake::new(error.code(), format!("{} cannot be the name of a {what}.", shown(text)))
                .hint(format!("expected: {}", error.hint()))
        })
    })
}

pub(super) fn usage(verb: &'static str, problem: &str) -> Mistake {
    Mistake::new("incomplete_command", problem).hint(format!("help {verb}"))
}

fn flag(text: &str) -> Mistake {
    match text.split('=').next().unwrap_or(text) {
        "--ttl" => {
            Mistake::new("incomplete_command", "A deploy renews its sandbox for as long as that lives.")
                .hint("leave --ttl away; sandbox create qa-42 for 2d, sandbox extend qa-42 for 2d")
        }
        "--plan" => Mistake::new("not_yet", "A plan cannot be shown yet.").hint("leave --plan away"),
        other => usage("deploy", &format!("I do not know {}.", shown(other))),
    }
}

fn unknown_verb(typed: &str) -> Mistake {
    let meant = did_you_mean(typed, VERBS).map(|verb| format!(" Did you mean {verb}?")).unwrap_or_default();
    Mistake::new("unknown_command", format!("I do not know {}.{meant}", shown(typed))).hint("help")
}

fn secret() -> Mistake {
    Mistake::new("secret_in_chat", "That looks like a secret, and everybody here can read it. Nothing was done with it.")
        .hint(
            "ask an administrator to set it as a secret of the service (PUT /api/v1/services/SERVICE/secrets/NAME), never here; if \
             it is real, replace it now, because it has been in a chat",
        )
}

/// Words after `login` may be a password: they are not repeated.
fn login_in_chat() -> Mistake {
    Mistake::new("secret_in_chat", "Say login and nothing else: what you log in with is typed into the page alone.").hint(
        "if that was a password, replace it now, because it has been in a chat; then say login for a link to the page",
    )
}

/// What was typed, fit to be repeated.
pub(super) fn shown(text: &str) -> String {
    format!("“{}”", clean(text, 60))
}
