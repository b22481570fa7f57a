//! The one table of routes and who may use them. A route that is not in it answers nobody.
//!
//! Who somebody is comes from what they present ([`Standing`]): a **rank** (what their role allows) and **through** what they came
//! (a token, a bot, a browser's session), because some things must not be done through some of them. What an environment
//! allows whom will hang on the same ranks.

use axum::http::Method;
use sdp_core::api::TokenKind;
use sdp_core::principal::Role;

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// Everybody: health, and coming in.
    Open,
    /// A browser with a session, or an admin. Without one: a page that says how to come in.
    Page,
    /// Viewers and whoever may more; a bot, for whomever it speaks.
    Read,
    /// Developers. Of a token that may change one service the handler looks at the service, and at whatever else is said.
    Deploy,
    /// Developers, but for tokens that may change one service only.
    Develop,
    /// Admins.
    Admin,
    /// People with an account, in a browser or through a bot: what is theirs alone.
    Me,
    /// People with an account in a browser, and operators with an admin token: no other token makes tokens, not a bot's either.
    Tokens,
    /// A bot that names the user of its chat, whether that one has an account or not.
    Chat,
    /// Operators with an admin token, bots for a person: what must not grow out of a session alone.
    Issue,
    /// Agents.
    Agent,
    /// Whoever has an enrolment of an agent: that is no token, and its handler looks at it.
    Enrol,
    /// As `Read`; or whoever has the token for metrics alone, or everybody, if the configuration says so.
    Metrics,
}

/// What somebody may do, whoever they are; each may what those before may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// Nothing but to be an agent.
    Agent,
    Viewer,
    Developer,
    Admin,
}

/// Through what somebody came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Through {
    /// A token of theirs, or of the operators.
    Token,
    /// A bot's token.
    Bot,
    /// A browser's session.
    Session,
}

/// What is known of somebody who presented something valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) rank: Rank,
    pub(crate) through: Through,
    /// Whether they are a person with an account.
    pub(crate) account: bool,
    /// A bot: whether it speaks for a person who may act, for a user of its chat who has no account, or for itself.
    pub(crate) speaks_for: SpeaksFor,
    /// Whether they may change one service only.
    pub(crate) limited: bool,
}

/// For whom a bot speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpeaksFor {
    /// It is no bot, or for itself.
    Nobody,
    /// For a user of its chat of whom nobody knows which account they are.
    Stranger,
    /// For a person.
    Person,
}

impl Rank {
    pub(crate) fn of(role: Role) -> Self {
        match role {
            Role::Developer => Self::Developer,
            Role::Admin => Self::Admin,
            // A role that this version does not know may look.
            _ => Self::Viewer,
        }
    }

    /// What a token of this kind may; none of a kind that this version does not know.
    pub(crate) fn of_token(kind: TokenKind) -> Option<Self> {
        match kind {
            TokenKind::Admin => Some(Self::Admin),
            TokenKind::Deploy => Some(Self::Developer),
            TokenKind::Read | TokenKind::Bot => Some(Self::Viewer),
            TokenKind::Agent => Some(Self::Agent),
            _ => None,
        }
    }

    pub(crate) fn role(self) -> Role {
        match self {
            Self::Agent | Self::Viewer => Role::Viewer,
            Self::Developer => Role::Developer,
            Self::Admin => Role::Admin,
        }
    }
}

impl Who {
    pub(crate) fn allows(self, asks: Standing) -> bool {
        let Standing { rank, through, account, speaks_for, limited } = asks;
        let operator = rank == Rank::Admin && through == Through::Token && !account && !limited;
        match self {
            Self::Open => true,
            Self::Page => (through == Through::Session && rank >= Rank::Viewer) || operator,
            Self::Read | Self::Metrics => rank >= Rank::Viewer,
            Self::Deploy => rank >= Rank::Developer,
            Self::Develop => rank >= Rank::Developer && !limited,
            Self::Admin => rank >= Rank::Admin && !limited,
            Self::Me => account && through != Through::Token,
            Self::Tokens => (account && through == Through::Session) || operator,
            Self::Chat => speaks_for != SpeaksFor::Nobody,
            Self::Issue => speaks_for == SpeaksFor::Person || operator,
            Self::Agent => rank == Rank::Agent,
            Self::Enrol => false,
        }
    }
}

const TABLE: &[(&Method, &str, Who)] = &[
    (&Method::GET, "/api/v1/services", Who::Read),
    (&Method::POST, "/api/v1/services", Who::Admin),
    (&Method::GET, "/api/v1/services/{service}", Who::Read),
    (&Method::PUT, "/api/v1/services/{service}", Who::Admin),
    (&Method::DELETE, "/api/v1/services/{service}", Who::Admin),
    (&Method::GET, "/api/v1/services/{service}/branches", Who::Read),
    (&Method::GET, "/api/v1/repositories", Who::Read),
    (&Method::GET, "/api/v1/services/{service}/secrets", Who::Admin),
    (&Method::PUT, "/api/v1/services/{service}/secrets/{name}", Who::Admin),
    (&Method::DELETE, "/api/v1/services/{service}/secrets/{name}", Who::Admin),
    (&Method::GET, "/api/v1/deployments", Who::Read),
    (&Method::POST, "/api/v1/deployments", Who::Deploy),
    (&Method::GET, "/api/v1/deployments/{deployment}", Who::Read),
    (&Method::POST, "/api/v1/deployments/{deployment}/cancel", Who::Deploy),
    (&Method::POST, "/api/v1/deployments/{deployment}/redeploy", Who::Deploy),
    (&Method::POST, "/api/v1/deployments/{deployment}/rollback", Who::Deploy),
    (&Method::GET, "/api/v1/deployments/{deployment}/logs", Who::Read),
    (&Method::GET, "/api/v1/deployments/{deployment}/logs/search", Who::Read),
    (&Method::GET, "/api/v1/deployments/{deployment}/logs/raw", Who::Read),
    (&Method::GET, "/api/v1/instances", Who::Read),
    (&Method::GET, "/api/v1/instances/{instance}", Who::Read),
    (&Method::POST, "/api/v1/instances/{instance}/stop", Who::Deploy),
    (&Method::POST, "/api/v1/instances/{instance}/restart", Who::Deploy),
    (&Method::GET, "/api/v1/instances/{instance}/output", Who::Read),
    (&Method::GET, "/api/v1/instances/{instance}/output/raw", Who::Read),
    (&Method::POST, "/api/v1/batches", Who::Deploy),
    (&Method::GET, "/api/v1/batches/{batch}", Who::Read),
    (&Method::GET, "/api/v1/environments", Who::Read),
    (&Method::POST, "/api/v1/environments", Who::Admin),
    (&Method::GET, "/api/v1/environments/{environment}", Who::Read),
    (&Method::PUT, "/api/v1/environments/{environment}", Who::Admin),
    (&Method::DELETE, "/api/v1/environments/{environment}", Who::Admin),
    (&Method::GET, "/api/v1/templates", Who::Read),
    (&Method::GET, "/api/v1/templates/{template}", Who::Read),
    (&Method::PUT, "/api/v1/templates/{template}", Who::Develop),
    (&Method::DELETE, "/api/v1/templates/{template}", Who::Develop),
    (&Method::GET, "/api/v1/templates/{template}/versions", Who::Read),
    (&Method::GET, "/api/v1/sandboxes", Who::Read),
    (&Method::POST, "/api/v1/sandboxes", Who::Deploy),
    (&Method::GET, "/api/v1/sandboxes/{sandbox}", Who::Read),
    (&Method::PUT, "/api/v1/sandboxes/{sandbox}", Who::Deploy),
    (&Method::DELETE, "/api/v1/sandboxes/{sandbox}", Who::Develop),
    (&Method::POST, "/api/v1/sandboxes/{sandbox}/renew", Who::Deploy),
    (&Method::PUT, "/api/v1/sandboxes/{sandbox}/routes/{service}", Who::Deploy),
    (&Method::GET, "/api/v1/sandboxes/{sandbox}/variables", Who::Read),
    (&Method::POST, "/api/v1/sandboxes/{sandbox}/probe", Who::Deploy),
    (&Method::GET, "/api/v1/routes/explain", Who::Read),
    (&Method::GET, "/api/v1/locks", Who::Read),
    (&Method::POST, "/api/v1/locks", Who::Deploy),
    (&Method::DELETE, "/api/v1/locks/{lock}", Who::Deploy),
    (&Method::GET, "/api/v1/agents", Who::Read),
    (&Method::DELETE, "/api/v1/agents/{agent}", Who::Admin),
    (&Method::POST, "/api/v1/agents/{agent}/drain", Who::Admin),
    (&Method::POST, "/api/v1/agents/{agent}/resume", Who::Admin),
    (&Method::POST, "/api/v1/agents/{agent}/enrolment", Who::Admin),
    (&Method::POST, "/api/v1/enrol", Who::Enrol),
    (&Method::GET, "/api/v1/events", Who::Read),
    (&Method::POST, "/api/v1/sign-in-links", Who::Issue),
    (&Method::GET, "/api/v1/me", Who::Read),
    (&Method::GET, "/api/v1/me/sessions", Who::Me),
    (&Method::DELETE, "/api/v1/me/sessions", Who::Me),
    (&Method::DELETE, "/api/v1/me/sessions/{session}", Who::Me),
    (&Method::GET, "/api/v1/me/bindings", Who::Me),
    (&Method::DELETE, "/api/v1/me/bindings/{binding}", Who::Me),
    (&Method::POST, "/api/v1/login", Who::Open),
    (&Method::POST, "/api/v1/logout", Who::Me),
    (&Method::POST, "/api/v1/login-links", Who::Chat),
    (&Method::GET, "/api/v1/audit", Who::Admin),
    (&Method::GET, "/api/v1/audit/export", Who::Admin),
    (&Method::GET, "/api/v1/people", Who::Admin),
    (&Method::PUT, "/api/v1/people/{person}", Who::Admin),
    (&Method::DELETE, "/api/v1/people/{person}", Who::Admin),
    (&Method::GET, "/api/v1/tokens", Who::Tokens),
    (&Method::POST, "/api/v1/tokens", Who::Tokens),
    (&Method::DELETE, "/api/v1/tokens/{token}", Who::Tokens),
    (&Method::GET, "/api/v1/openapi.json", Who::Read),
    (&Method::GET, "/healthz", Who::Open),
    (&Method::GET, "/readyz", Who::Open),
    (&Method::GET, "/metrics", Who::Metrics),
    (&Method::GET, "/sign-in/{code}", Who::Open),
    (&Method::POST, "/sign-in/{code}", Who::Open),
    (&Method::POST, "/sign-out", Who::Open),
    (&Method::GET, "/ws/agent", Who::Agent),
    (&Method::GET, "/ws/deployments/{deployment}", Who::Read),
];

/// Pages, which are no part of the API's document. Scripts and styles hold nothing secret.
const PAGES: &[(&Method, &str, Who)] = &[
    (&Method::GET, "/", Who::Page),
    (&Method::GET, "/deployments", Who::Page),
    (&Method::GET, "/deployments/{deployment}", Who::Page),
    (&Method::GET, "/instances/{instance}", Who::Page),
    (&Method::GET, "/sandboxes", Who::Page),
    (&Method::GET, "/sandboxes/{sandbox}", Who::Page),
    (&Method::GET, "/environments", Who::Page),
    (&Method::GET, "/templates", Who::Page),
    (&Method::GET, "/templates/{template}", Who::Page),
    (&Method::GET, "/account", Who::Page),
    (&Method::GET, "/audit", Who::Admin),
    (&Method::GET, "/docs", Who::Page),
    (&Method::GET, "/docs/", Who::Page),
    (&Method::GET, "/docs/{*rest}", Who::Page),
    (&Method::GET, "/login", Who::Open),
    (&Method::POST, "/login", Who::Open),
    (&Method::GET, "/login/{link}", Who::Open),
    (&Method::POST, "/login/{link}", Who::Open),
    (&Method::GET, "/assets/{version}/{name}", Who::Open),
    (&Method::GET, "/favicon.ico", Who::Open),
];

/// Who may use a route; `None`: nobody, or no such method. `HEAD` is a `GET` without its body.
pub(crate) fn who(method: &Method, route: &str) -> Option<Who> {
    let method = if method == Method::HEAD { &Method::GET } else { method };
    entries().find(|(m, path, _)| *m == method && *path == route).map(|(.., who)| *who)
}

fn entries() -> impl Iterator<Item = &'static (&'static Method, &'static str, Who)> {
    TABLE.iter().chain(PAGES)
}

/// The methods of a listed route, as the header `Allow` has them.
pub(super) fn methods(route: &str) -> String {
    let methods: Vec<&str> =
        entries().filter(|(_, path, _)| *path == route).map(|(method, ..)| method.as_str()).collect();
    let head = if methods.contains(&"GET") { ", HEAD" } else { "" };
    methods.join(", ") + head
}

/// The entries of the API, for a test that compares them with the routes.
#[cfg(test)]
pub(crate) fn listed() -> impl Iterator<Item = (&'static Method, &'static str)> {
    TABLE.iter().map(|(method, path, _)| (*method, *path))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everybody that there can be, and the letter that stands for them.
    fn everybody() -> Vec<(char, &'static str, Standing)> {
        use Rank::{Admin, Agent, Developer, Viewer};
        use SpeaksFor::{Nobody, Person, Stranger};
        use Through::{Bot, Session, Token};
        let one = |rank, through, account, speaks_for, limited| Standing {
            rank,
            through,
            account,
            speaks_for,
            limited,
        };
        vec![
            ('a', "an agent", one(Agent, Token, false, Nobody, false)),
            ('r', "a token that reads", one(Viewer, Token, false, Nobody, false)),
            ('d', "a token that deploys", one(Developer, Token, false, Nobody, false)),
            ('1', "a token that deploys one service", one(Developer, Token, false, Nobody, true)),
            ('O', "an operator's token", one(Admin, Token, false, Nobody, false)),
            ('p', "a developer's own token", one(Developer, Token, true, Nobody, false)),
            ('P', "an admin's own token", one(Admin, Token, true, Nobody, false)),
            ('b', "a bot for itself", one(Viewer, Bot, false, Nobody, false)),
            ('s', "a bot for a stranger", one(Viewer, Bot, false, Stranger, false)),
            ('v', "a bot for a viewer", one(Viewer, Bot, true, Person, false)),
            ('e', "a bot for a developer", one(Developer, Bot, true, Person, false)),
            ('n', "a bot for a name", one(Developer, Bot, false, Person, false)),
            ('V', "a viewer's browser", one(Viewer, Session, true, Nobody, false)),
            ('D', "a developer's browser", one(Developer, Session, true, Nobody, false)),
            ('A', "an admin's browser", one(Admin, Session, true, Nobody, false)),
            ('N', "the browser of a name", one(Developer, Session, false, Nobody, false)),
        ]
    }

    #[test]
    fn who_may_use_which_route() {
        let row = |who: Who| -> String {
            let may = |(letter, _, standing): (char, &str, Standing)| {
                if who.allows(standing) { letter } else { '·' }
            };
            everybody().into_iter().map(may).collect()
        };
        let table: Vec<String> = entries()
            .map(|(method, route, who)| format!("{} {:<6} {route}", row(*who), method.as_str()))
            .collect();
        insta::assert_snapshot!(table.join("\n"), @r"
        ·rd1OpPbsvenVDAN GET    /api/v1/services
        ····O·P·······A· POST   /api/v1/services
        ·rd1OpPbsvenVDAN GET    /api/v1/services/{service}
        ····O·P·······A· PUT    /api/v1/services/{service}
        ····O·P·······A· DELETE /api/v1/services/{service}
        ·rd1OpPbsvenVDAN GET    /api/v1/services/{service}/branches
        ·rd1OpPbsvenVDAN GET    /api/v1/repositories
        ····O·P·······A· GET    /api/v1/services/{service}/secrets
        ····O·P·······A· PUT    /api/v1/services/{service}/secrets/{name}
        ····O·P·······A· DELETE /api/v1/services/{service}/secrets/{name}
        ·rd1OpPbsvenVDAN GET    /api/v1/deployments
        ··d1OpP···en·DAN POST   /api/v1/deployments
        ·rd1OpPbsvenVDAN GET    /api/v1/deployments/{deployment}
        ··d1OpP···en·DAN POST   /api/v1/deployments/{deployment}/cancel
        ··d1OpP···en·DAN POST   /api/v1/deployments/{deployment}/redeploy
        ··d1OpP···en·DAN POST   /api/v1/deployments/{deployment}/rollback
        ·rd1OpPbsvenVDAN GET    /api/v1/deployments/{deployment}/logs
        ·rd1OpPbsvenVDAN GET    /api/v1/deployments/{deployment}/logs/search
        ·rd1OpPbsvenVDAN GET    /api/v1/deployments/{deployment}/logs/raw
        ·rd1OpPbsvenVDAN GET    /api/v1/instances
        ·rd1OpPbsvenVDAN GET    /api/v1/instances/{instance}
        ··d1OpP···en·DAN POST   /api/v1/instances/{instance}/stop
        ··d1OpP···en·DAN POST   /api/v1/instances/{instance}/restart
        ·rd1OpPbsvenVDAN GET    /api/v1/instances/{instance}/output
        ·rd1OpPbsvenVDAN GET    /api/v1/instances/{instance}/output/raw
        ··d1OpP···en·DAN POST   /api/v1/batches
        ·rd1OpPbsvenVDAN GET    /api/v1/batches/{batch}
        ·rd1OpPbsvenVDAN GET    /api/v1/environments
        ····O·P·······A· POST   /api/v1/environments
        ·rd1OpPbsvenVDAN GET    /api/v1/environments/{environment}
        ····O·P·······A· PUT    /api/v1/environments/{environment}
        ····O·P·······A· DELETE /api/v1/environments/{environment}
        ·rd1OpPbsvenVDAN GET    /api/v1/templates
        ·rd1OpPbsvenVDAN GET    /api/v1/templates/{template}
        ··d·OpP···en·DAN PUT    /api/v1/templates/{template}
        ··d·OpP···en·DAN DELETE /api/v1/templates/{template}
        ·rd1OpPbsvenVDAN GET    /api/v1/templates/{template}/versions
        ·rd1OpPbsvenVDAN GET    /api/v1/sandboxes
        ··d1OpP···en·DAN POST   /api/v1/sandboxes
        ·rd1OpPbsvenVDAN GET    /api/v1/sandboxes/{sandbox}
        ··d1OpP···en·DAN PUT    /api/v1/sandboxes/{sandbox}
        ··d·OpP···en·DAN DELETE /api/v1/sandboxes/{sandbox}
        ··d1OpP···en·DAN POST   /api/v1/sandboxes/{sandbox}/renew
        ··d1OpP···en·DAN PUT    /api/v1/sandboxes/{sandbox}/routes/{service}
        ·rd1OpPbsvenVDAN GET    /api/v1/sandboxes/{sandbox}/variables
        ··d1OpP···en·DAN POST   /api/v1/sandboxes/{sandbox}/probe
        ·rd1OpPbsvenVDAN GET    /api/v1/routes/explain
        ·rd1OpPbsvenVDAN GET    /api/v1/locks
        ··d1OpP···en·DAN POST   /api/v1/locks
        ··d1OpP···en·DAN DELETE /api/v1/locks/{lock}
        ·rd1OpPbsvenVDAN GET    /api/v1/agents
        ····O·P·······A· DELETE /api/v1/agents/{agent}
        ····O·P·······A· POST   /api/v1/agents/{agent}/drain
        ····O·P·······A· POST   /api/v1/agents/{agent}/resume
        ····O·P·······A· POST   /api/v1/agents/{agent}/enrolment
        ················ POST   /api/v1/enrol
        ·rd1OpPbsvenVDAN GET    /api/v1/events
        ····O····ven···· POST   /api/v1/sign-in-links
        ·rd1OpPbsvenVDAN GET    /api/v1/me
        ·········ve·VDA· GET    /api/v1/me/sessions
        ·········ve·VDA· DELETE /api/v1/me/sessions
        ·········ve·VDA· DELETE /api/v1/me/sessions/{session}
        ·········ve·VDA· GET    /api/v1/me/bindings
        ·········ve·VDA· DELETE /api/v1/me/bindings/{binding}
        ard1OpPbsvenVDAN POST   /api/v1/login
        ·········ve·VDA· POST   /api/v1/logout
        ········sven···· POST   /api/v1/login-links
        ····O·P·······A· GET    /api/v1/audit
        ····O·P·······A· GET    /api/v1/audit/export
        ····O·P·······A· GET    /api/v1/people
        ····O·P·······A· PUT    /api/v1/people/{person}
        ····O·P·······A· DELETE /api/v1/people/{person}
        ····O·······VDA· GET    /api/v1/tokens
        ····O·······VDA· POST   /api/v1/tokens
        ····O·······VDA· DELETE /api/v1/tokens/{token}
        ·rd1OpPbsvenVDAN GET    /api/v1/openapi.json
        ard1OpPbsvenVDAN GET    /healthz
        ard1OpPbsvenVDAN GET    /readyz
        ·rd1OpPbsvenVDAN GET    /metrics
        ard1OpPbsvenVDAN GET    /sign-in/{code}
        ard1OpPbsvenVDAN POST   /sign-in/{code}
        ard1OpPbsvenVDAN POST   /sign-out
        a··············· GET    /ws/agent
        ·rd1OpPbsvenVDAN GET    /ws/deployments/{deployment}
        ····O·······VDAN GET    /
        ····O·······VDAN GET    /deployments
        ····O·······VDAN GET    /deployments/{deployment}
        ····O·······VDAN GET    /instances/{instance}
        ····O·······VDAN GET    /sandboxes
        ····O·······VDAN GET    /sandboxes/{sandbox}
        ····O·······VDAN GET    /environments
        ····O·······VDAN GET    /templates
        ····O·······VDAN GET    /templates/{template}
        ····O·······VDAN GET    /account
        ····O·P·······A· GET    /audit
        ····O·······VDAN GET    /docs
        ····O·······VDAN GET    /docs/
        ····O·······VDAN GET    /docs/{*rest}
        ard1OpPbsvenVDAN GET    /login
        ard1OpPbsvenVDAN POST   /login
        ard1OpPbsvenVDAN GET    /login/{link}
        ard1OpPbsvenVDAN POST   /login/{link}
        ard1OpPbsvenVDAN GET    /assets/{version}/{name}
        ard1OpPbsvenVDAN GET    /favicon.ico
        ");
    }

    #[test]
    fn an_unlisted_route_of_the_api_is_for_nobody() {
        for route in
            ["/api/v1/new", "/api/v2/services", "/ws/new", "/sign-in/{code}/more", "/login/{link}/more"]
        {
            assert_eq!(who(&Method::GET, route), None, "{route}");
            assert_eq!(who(&Method::POST, route), None, "{route}");
        }
        assert_eq!(who(&Method::PATCH, "/api/v1/services"), None);
        assert_eq!(who(&Method::HEAD, "/api/v1/services"), Some(Who::Read));
        assert_eq!(who(&Method::GET, "/"), Some(Who::Page));
        assert_eq!(who(&Method::POST, "/healthz"), None);
    }
}
