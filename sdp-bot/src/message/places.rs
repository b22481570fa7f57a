//! What is said of sandboxes, their end, where their requests go, and what there is to choose from.
//!
//! Called by [`crate::answer`]. Pure. A routing key is a selector and no secret, so it may be shown; a secret's value never comes here.

use jiff::Timestamp;
use sdp_core::api::{
    Environment, Explanation, Instance, RouteView, SandboxView, Template, VariableLayer, VariableView,
};
use sdp_core::name::{SandboxName, ServiceName};
use sdp_core::routing::RouteTarget;
use sdp_core::routing::explain::ExplainedTarget;
use sdp_core::sandbox::{RouteChoice, Sandbox};

use super::answer::{MAX_ROWS, ago, count, more, state_word};
use super::{Message, Tone, down, locks};
use crate::text::Text;

/// How many rules are named that are not a request's.
const OTHER_RULES: usize = 8;

/// A moment as people read it: `Mon 30 Nov 14:05 UTC`.
pub(super) fn moment(at: Timestamp) -> String {
    at.strftime("%a %-d %b %H:%M UTC").to_string()
}

/// How long until then, in the two largest units: `2 days`, `5 h`, `20 min`.
pub(super) fn left(until: Timestamp, now: Timestamp) -> String {
    let minutes = until.duration_since(now).as_secs().max(0) / 60;
    let of = |n: i64, one: &str, many: &str| count(usize::try_from(n).unwrap_or(usize::MAX), one, many);
    match minutes {
        0 => "less than a minute".to_owned(),
        1..120 => format!("{minutes} min"),
        120..2880 => format!("{} h", minutes / 60),
        _ => of(minutes / 1440, "day", "days"),
    }
}

/// Until when a sandbox is there.
#[must_use]
pub fn ends(sandbox: &Sandbox, now: Timestamp) -> String {
    match sandbox.expires_at {
        Some(end) if end <= now => "ends now".to_owned(),
        Some(end) => format!("ends in {} ({})", left(end, now), moment(end)),
        None => "is kept until somebody deletes it".to_owned(),
    }
}

/// A sandbox: whose, until when, where each service's requests go, how to get there.
#[must_use]
pub fn sandbox(view: &SandboxView, now: Timestamp) -> Message {
    let sandbox = &view.sandbox;
    let name = &sandbox.name;
    let title = Text::new().strong(name).dim(format!(" of {} in {}", sandbox.owner, sandbox.environment));
    let mut message = Message::new(Tone::Plain, title);
    message = message.line(Text::new().dim("it ").plain(ends(sandbox, now)));
    if let Some(who) = who_may(sandbox) {
        message = message.line(Text::new().dim("for ").plain(who));
    }
    if let Some(template) = &sandbox.template {
        let made = format!("{}, version {}", template.name, template.version);
        message = message.line(Text::new().dim("from template ").plain(made));
    }
    for line in sandbox.notes.iter().flat_map(|notes| notes.lines()).take(5) {
        message = message.line(Text::new().dim("note ").plain(line));
    }
    message = rows(message, view, now, false);
    for lock in &view.locks {
        message = message.line(locks::row(lock, now));
    }
    message = access(message, view);
    if let Some(url) = &view.access.url {
        message = message.open("Open", url);
    }
    message = message.offer("Extend", format!("sandbox extend {name}"));
    message = match sandbox.pinned {
        true => message.offer("Let it end", format!("sandbox unpin {name}")),
        false => message.offer("Keep", format!("sandbox pin {name}")),
    };
    message.offer("Share", format!("sandbox share {name}")).offer("Delete", format!("sandbox delete {name}"))
}

fn who_may(sandbox: &Sandbox) -> Option<String> {
    let mut who = Vec::new();
    if let Some(team) = &sandbox.team {
        who.push(format!("team {team}"));
    }
    if sandbox.shared {
        who.push("every developer".to_owned());
    } else if !sandbox.members.is_empty() {
        let members: Vec<&str> = sandbox.members.iter().take(MAX_ROWS).map(AsRef::as_ref).collect();
        who.push(members.join(", "));
    }
    (!who.is_empty()).then(|| who.join("; "))
}

/// How its requests are marked.
fn access(message: Message, view: &SandboxView) -> Message {
    let access = &view.access;
    let mut message = message;
    if let Some(url) = &access.url {
        message = message.line(Text::new().dim("url ").link(url));
    }
    if let Some(host) = &access.host {
        message = message.line(Text::new().dim("host ").code(host));
    }
    if let Some(url) = &access.share_url {
        message = message.line(Text::new().dim("for a browser ").link(url));
    }
    message.line(Text::new().dim("header ").code(format!("{}: {}", access.header, access.key)))
}

/// Services that go to the baseline because nothing else was said are counted, unless all are wanted.
fn rows(message: Message, view: &SandboxView, now: Timestamp, all: bool) -> Message {
    let plain =
        |route: &&RouteView| !route.chosen && matches!(route.target, RouteTarget::Baseline { reason: None });
    let shown: Vec<&RouteView> = view.routes.iter().filter(|route| all || !plain(route)).collect();
    let mut message = shown.iter().take(MAX_ROWS).fold(message, |message, route| {
        let row = row(&view.sandbox.name, route, now);
        message.line(if all { row.dim(format!(" · {}", route.rule)) } else { row })
    });
    message = more(message, shown.len());
    let rest: Vec<&str> = match all {
        true => Vec::new(),
        false => view.routes.iter().filter(plain).map(|route| route.service.as_str()).collect(),
    };
    match (shown.is_empty(), rest.as_slice()) {
        (true, []) => message.line(Text::from("its environment has no services")),
        (_, []) => message,
        (true, _) => message.line(Text::from("nothing runs here; all requests go to the baseline")),
        (false, rest) => {
            let names: Vec<&str> = rest.iter().take(10).copied().collect();
            let others = rest.len() - names.len();
            let others = if others > 0 { format!(" and {others} more") } else { String::new() };
            message.line(Text::new().dim(format!("to the baseline: {}{others}", names.join(", "))))
        }
    }
}

/// `payments → feature/refund 1a2b3c4d running for 2 h`.
fn row(sandbox: &SandboxName, route: &RouteView, now: Timestamp) -> Text {
    let text = Text::new().strong(&route.service).plain(" → ");
    match &route.target {
        RouteTarget::Instance { commit, of, .. } => {
            let text = match of {
                Some(of) => text.strong(of).plain("'s "),
                None => text,
            };
            let text = match &route.instance {
                Some(instance) => runs(text, instance, now),
                None => text.code(commit.short()),
            };
            if of.is_some() { text.dim(" (borrowed)") } else { text }
        }
        RouteTarget::External { address } => {
            text.strong("external ").code(address.to_string()).dim(" (not SDP's)")
        }
        RouteTarget::Baseline { reason: Some(reason) } => {
            text.plain("baseline, because ").plain(reason).dim(format!(" (in {sandbox})"))
        }
        RouteTarget::Baseline { reason: None } if route.chosen => text.plain("baseline").dim(" (chosen)"),
        RouteTarget::Baseline { reason: None } => text.plain("baseline"),
        // Not broken: there never was anything.
        RouteTarget::Down { reason } if reason.starts_with("nothing runs") => text.dim(reason),
        RouteTarget::Down { reason } => text.strong("DOWN").plain(format!(": {reason}")),
        _ => text.plain("somewhere else"),
    }
}

fn runs(text: Text, instance: &Instance, now: Timestamp) -> Text {
    let text = match &instance.git_ref {
        Some(git_ref) => text.code(git_ref).plain(" "),
        None => text,
    };
    let text = text.code(instance.commit.short()).plain(" ");
    if let Some(reason) = down::broke(&instance.state) {
        return text.strong("DOWN").plain(format!(": {reason}"));
    }
    let text = text.plain(state_word(&instance.state)).dim(format!(" for {}", ago(instance.started_at, now)));
    match &instance.unhealthy {
        Some(unhealthy) => text.plain(format!(" ({})", unhealthy.detail)),
        None => text,
    }
}

/// A sandbox was made, or was there already and is renewed.
#[must_use]
pub fn created(view: &SandboxView, now: Timestamp) -> Message {
    let sandbox = &view.sandbox;
    let name = &sandbox.name;
    let title = Text::new().plain("Sandbox ").strong(name).plain(format!(
        " is there, in {}; it {}.",
        sandbox.environment,
        ends(sandbox, now)
    ));
    let mut message = Message::new(Tone::Good, title);
    if let Some(template) = &sandbox.template {
        let deploy = format!("deploy template {} to {name}", template.name);
        message = message.line(Text::new().dim("next ").code(&deploy)).offer("Deploy", deploy);
    } else {
        message = message.line(Text::new().dim("next ").code(format!("deploy <service> <branch> to {name}")));
    }
    message = rows(message, view, now, false);
    access(message, view).offer("Share", format!("sandbox share {name}"))
}

/// A sandbox's end was moved, or it is kept, or not any longer.
#[must_use]
pub fn renewed(sandbox: &Sandbox, now: Timestamp) -> Message {
    let name = &sandbox.name;
    let title = Text::new().strong(name).plain(format!(" {}.", ends(sandbox, now)));
    let message = Message::new(Tone::Good, title);
    match sandbox.pinned {
        true => message
            .line(Text::new().dim("next ").code(format!("sandbox unpin {name}")).plain(" lets it end again")),
        false => message,
    }
}

/// How others use a sandbox: for everybody who reads along.
#[must_use]
pub fn share(view: &SandboxView, by: &str, now: Timestamp) -> Message {
    let sandbox = &view.sandbox;
    let title = Text::new()
        .strong(&sandbox.name)
        .plain(format!(" of {}, shared by {by}", sandbox.owner))
        .dim(format!("; it {}", ends(sandbox, now)));
    let message = rows(Message::new(Tone::Plain, title), view, now, false);
    let message = access(message, view);
    match &view.access.share_url {
        Some(url) => message
            .line(Text::from("The link for a browser marks its requests until it is taken back at /~~/off/."))
            .open("Open", url),
        None => message.line(Text::from("No router has ever connected, so there is no link yet.")),
    }
}

/// Where all its requests go.
#[must_use]
pub fn routes(view: &SandboxView, now: Timestamp) -> Message {
    let sandbox = &view.sandbox;
    let title =
        Text::new().plain("requests of ").strong(&sandbox.name).dim(format!(" in {}", sandbox.environment));
    rows(Message::new(Tone::Plain, title), view, now, true)
}

/// Somebody has said where requests go.
#[must_use]
pub fn routed(service: &ServiceName, sandbox: &Sandbox, choice: Option<&RouteChoice>) -> Message {
    let name = &sandbox.name;
    let text = Text::new().strong(name).plain("'s requests for ").strong(service).plain(" go to ");
    let text = match choice {
        Some(RouteChoice::Baseline {}) => text.plain("the baseline, whatever is deployed there."),
        Some(RouteChoice::Borrowed { sandbox }) => text.plain(format!("what {sandbox} runs.")),
        Some(RouteChoice::External { address }) => text.code(address.to_string()).plain("."),
        None => text.plain("what was deployed there, or else the baseline."),
        Some(_) => text.plain("where that says."),
    };
    let message = Message::new(Tone::Good, text).offer("Routes", format!("routes {name}"));
    match choice {
        Some(_) => message.offer("Reset", format!("route {service} in {name} to reset")),
        None => message,
    }
}

/// Why a request goes where it goes.
#[must_use]
pub fn explained(what: &str, explanation: &Explanation) -> Message {
    let tone = match explanation.target {
        ExplainedTarget::Refused { .. } => Tone::Bad,
        _ => Tone::Plain,
    };
    let mut message = Message::new(tone, Text::new().code(what).plain(" ").plain(&explanation.summary));
    message = message.line(match &explanation.target {
        ExplainedTarget::Instance { commit, address, of, .. } => {
            let text = Text::new().dim("to ").code(address).plain(" ").code(commit.short());
            match of {
                Some(of) => text.dim(format!(" (borrowed from {of})")),
                None => text,
            }
        }
        ExplainedTarget::External { address } => Text::new().dim("to ").code(address).dim(" (external)"),
        ExplainedTarget::Baseline { url, instead } => {
            let text = Text::new().dim("to the baseline ").link(url);
            match instead {
                Some(why) => text.plain(format!(", because {why}")),
                None => text,
            }
        }
        ExplainedTarget::Refused { status, code } => {
            Text::new().dim("answered with ").plain(format!("{status} {code}"))
        }
        _ => Text::from("somewhere else"),
    });
    if let Some(path) = explanation.path.as_ref().filter(|_| !explanation.taken.is_empty()) {
        message = message
            .line(Text::new().dim("it sees ").code(path).dim(format!(", without {}", explanation.taken)));
    }
    for selector in explanation.selectors.iter().filter(|selector| selector.says.is_some()) {
        let mark = if selector.chosen { "+ " } else { "- " };
        message = message
            .line(Text::new().plain(mark).plain(&selector.selector).dim(format!(": {}", selector.why)));
    }
    let (yes, no): (Vec<_>, Vec<_>) = explanation.rules.iter().partition(|rule| rule.matches);
    for rule in yes {
        message = message.line(
            Text::new()
                .plain("+ ")
                .strong(&rule.service)
                .plain(format!(" {}", rule.rule))
                .dim(format!(": {}", rule.why)),
        );
    }
    for rule in no.iter().take(OTHER_RULES) {
        message = message.line(
            Text::new()
                .plain("- ")
                .plain(&rule.service)
                .plain(format!(" {}", rule.rule))
                .dim(format!(": {}", rule.why)),
        );
    }
    match no.len().checked_sub(OTHER_RULES) {
        None | Some(0) => message,
        Some(left) => message.line(Text::new().dim(format!("and {left} more that do not match"))),
    }
}

/// Where the values of a service's variables come from.
#[must_use]
pub fn variables(service: &ServiceName, sandbox: &SandboxName, variables: &[VariableView]) -> Message {
    if variables.is_empty() {
        let title = format!("{service} gets no variables in {sandbox}.");
        return Message::new(Tone::Plain, Text::new().plain(title));
    }
    let title = Text::new().strong(service).plain(" in ").strong(sandbox).plain(" gets");
    let message =
        variables.iter().take(MAX_ROWS).fold(Message::new(Tone::Plain, title), |message, variable| {
            let text = Text::new().code(&variable.name);
            let text = match &variable.value {
                Some(value) => text.plain("=").plain(value),
                None => text.dim(" (a secret)"),
            };
            let text = text.dim(format!(" · {}", layer(variable.layer)));
            let over: Vec<&str> = variable.over.iter().rev().map(|over| layer(*over)).collect();
            message.line(if over.is_empty() { text } else { text.dim(format!(", over {}", over.join(", "))) })
        });
    more(message, variables.len())
}

fn layer(layer: VariableLayer) -> &'static str {
    match layer {
        VariableLayer::Environment => "environment",
        VariableLayer::Service => "service",
        VariableLayer::Secret => "secret",
        VariableLayer::Template => "template",
        VariableLayer::Sandbox => "sandbox",
        VariableLayer::Deploy => "this deploy",
        VariableLayer::Sdp => "SDP",
        _ => "somewhere",
    }
}

/// Which templates there are.
#[must_use]
pub fn templates(templates: &[Template]) -> Message {
    if templates.is_empty() {
        return Message::new(Tone::Plain, Text::from("There is no template yet.")).line(
            Text::new()
                .dim("next ")
                .plain("an administrator makes one: sdp-server apply, or the page of templates"),
        );
    }
    let title = count(templates.len(), "template", "templates");
    let message = templates.iter().take(MAX_ROWS).fold(
        Message::new(Tone::Plain, Text::new().plain(title)),
        |message, template| {
            let spec = &template.spec;
            let text = Text::new().strong(&template.name).dim(format!(" version {}", template.version));
            let text = match &spec.description {
                Some(description) => text.plain(format!(" {description}")),
                None => text,
            };
            let services: Vec<String> = spec
                .services
                .iter()
                .map(|(service, own)| match &own.git_ref {
                    Some(git_ref) => format!("{service}={git_ref}"),
                    None => service.to_string(),
                })
                .collect();
            let services = if services.is_empty() { "no services".to_owned() } else { services.join(", ") };
            let lives =
                spec.lifetime_hours.map(|hours| format!(", lives {}", lives(hours))).unwrap_or_default();
            message
                .line(text)
                .line(Text::new().dim(format!("  in {}{lives}: ", spec.environment)).plain(services))
        },
    );
    let message = more(message, templates.len());
    match templates {
        [only] => message.offer("Deploy", format!("deploy template {}", only.name)),
        _ => message.line(Text::new().dim("next ").code("deploy template <name> [to <sandbox>]")),
    }
}

/// Which environments there are.
#[must_use]
pub fn environments(environments: &[Environment]) -> Message {
    let title = count(environments.len(), "environment", "environments");
    let message = environments.iter().take(MAX_ROWS).fold(
        Message::new(Tone::Plain, Text::new().plain(title)),
        |message, environment| {
            let text = Text::new().strong(&environment.name);
            let text = match &environment.description {
                Some(description) => text.plain(format!(" {description}")),
                None => text,
            };
            let mut facts = vec![match environment.every_service {
                true => "every service".to_owned(),
                false => count(environment.services.len(), "service", "services"),
            }];
            facts.push(format!(
                "sandboxes live {}, {} at most",
                lives(environment.default_lifetime_hours),
                lives(environment.max_lifetime_hours)
            ));
            let deployers = &environment.deployers;
            if !deployers.people.is_empty() || !deployers.tokens.is_empty() {
                let people: Vec<&str> = deployers.people.iter().take(10).map(AsRef::as_ref).collect();
                let rest = deployers.people.len() - people.len() + deployers.tokens.len();
                let rest = if rest > 0 { format!(" and {rest} more") } else { String::new() };
                facts.push(format!("deployed to by {}{rest}", people.join(", ")));
            }
            if let Some(instances) = environment.quota.instances {
                facts.push(format!("{} for each owner", count(instances as usize, "instance", "instances")));
            }
            let message = message.line(text).line(Text::new().dim(format!("  {}", facts.join("; "))));
            match &environment.domain {
                Some(domain) => message.line(Text::new().dim("  at ").code(format!("<sandbox>.{domain}"))),
                None => message,
            }
        },
    );
    more(message, environments.len())
}

/// So many hours, in words.
pub(super) fn lives(hours: u32) -> String {
    match hours {
        hours if hours >= 48 && hours.is_multiple_of(24) => format!("{} days", hours / 24),
        24 => "1 day".to_owned(),
        1 => "1 hour".to_owned(),
        hours => format!("{hours} hours"),
    }
}
