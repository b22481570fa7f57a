//! The one table of routes and who may use them. A route that is not in it answers nobody.

use axum::http::Method;

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// Everybody: health, and signing in.
    Open,
    /// A browser with a session, or an admin. Without one: a page that says how to sign in.
    Page,
    /// Admins, bots (for a person or not), sessions.
    Read,
    /// Admins, bots on behalf of a person, sessions from our own pages.
    Write,
    /// Admins, bots on behalf of a person: what must not grow out of a session alone.
    Issue,
    /// Admins.
    Admin,
    /// Agents.
    Agent,
    /// As `Read`; or whoever has the token for metrics alone, or everybody, if the configuration says so.
    Metrics,
}

/// What may be known of somebody who presented something valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Admin,
    /// A bot's token, with or without a person that it speaks for.
    Bot {
        for_person: bool,
    },
    Agent,
    Session,
}

impl Who {
    pub(crate) fn allows(self, role: Role) -> bool {
        match self {
            Self::Open => true,
            Self::Page => matches!(role, Role::Session | Role::Admin),
            Self::Read | Self::Metrics => matches!(role, Role::Admin | Role::Bot { .. } | Role::Session),
            Self::Write => matches!(role, Role::Admin | Role::Bot { for_person: true } | Role::Session),
            Self::Issue => matches!(role, Role::Admin | Role::Bot { for_person: true }),
            Self::Admin => role == Role::Admin,
            Self::Agent => role == Role::Agent,
        }
    }
}

const TABLE: &[(&Method, &str, Who)] = &[
    (&Method::GET, "/api/v1/services", Who::Read),
    (&Method::POST, "/api/v1/services", Who::Write),
    (&Method::GET, "/api/v1/services/{service}", Who::Read),
    (&Method::PUT, "/api/v1/services/{service}", Who::Write),
    (&Method::DELETE, "/api/v1/services/{service}", Who::Write),
    (&Method::GET, "/api/v1/services/{service}/branches", Who::Read),
    (&Method::GET, "/api/v1/services/{service}/secrets", Who::Admin),
    (&Method::PUT, "/api/v1/services/{service}/secrets/{name}", Who::Admin),
    (&Method::DELETE, "/api/v1/services/{service}/secrets/{name}", Who::Admin),
    (&Method::GET, "/api/v1/deployments", Who::Read),
    (&Method::POST, "/api/v1/deployments", Who::Write),
    (&Method::GET, "/api/v1/deployments/{deployment}", Who::Read),
    (&Method::POST, "/api/v1/deployments/{deployment}/cancel", Who::Write),
    (&Method::POST, "/api/v1/deployments/{deployment}/redeploy", Who::Write),
    (&Method::POST, "/api/v1/deployments/{deployment}/rollback", Who::Write),
    (&Method::GET, "/api/v1/deployments/{deployment}/logs", Who::Read),
    (&Method::GET, "/api/v1/deployments/{deployment}/logs/search", Who::Read),
    (&Method::GET, "/api/v1/deployments/{deployment}/logs/raw", Who::Read),
    (&Method::GET, "/api/v1/instances", Who::Read),
    (&Method::GET, "/api/v1/instances/{instance}", Who::Read),
    (&Method::POST, "/api/v1/instances/{instance}/stop", Who::Write),
    (&Method::POST, "/api/v1/instances/{instance}/restart", Who::Write),
    (&Method::GET, "/api/v1/instances/{instance}/output", Who::Read),
    (&Method::GET, "/api/v1/instances/{instance}/output/raw", Who::Read),
    (&Method::GET, "/api/v1/sandboxes", Who::Read),
    (&Method::GET, "/api/v1/sandboxes/{sandbox}", Who::Read),
    (&Method::DELETE, "/api/v1/sandboxes/{sandbox}", Who::Write),
    (&Method::GET, "/api/v1/agents", Who::Read),
    (&Method::GET, "/api/v1/events", Who::Read),
    (&Method::POST, "/api/v1/sign-in-links", Who::Issue),
    (&Method::GET, "/api/v1/tokens", Who::Admin),
    (&Method::POST, "/api/v1/tokens", Who::Admin),
    (&Method::DELETE, "/api/v1/tokens/{token}", Who::Admin),
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

/// Who may use a route; `None`: nobody, or no such method. `HEAD` is a `GET` without its body.
pub(crate) fn who(method: &Method, route: &str) -> Option<Who> {
    let method = if method == Method::HEAD { &Method::GET } else { method };
    if let Some((_, _, who)) = TABLE.iter().find(|(m, path, _)| *m == method && *path == route) {
        return Some(*who);
    }
    // Pages are whatever lies outside the API and the sockets; their scripts and styles hold nothing secret.
    let is_listed = ["/api/", "/ws/", "/sign-in"].iter().any(|listed| route.starts_with(listed))
        || TABLE.iter().any(|(_, path, _)| *path == route);
    match *method {
        _ if is_listed => None,
        Method::GET if route.starts_with("/assets/") || route == "/favicon.ico" => Some(Who::Open),
        Method::GET => Some(Who::Page),
        _ => Some(Who::Write),
    }
}

/// The methods of a listed route, as the header `Allow` has them.
pub(super) fn methods(route: &str) -> String {
    let methods: Vec<&str> =
        TABLE.iter().filter(|(_, path, _)| *path == route).map(|(method, ..)| method.as_str()).collect();
    let head = if methods.contains(&"GET") { ", HEAD" } else { "" };
    methods.join(", ") + head
}

/// All entries, for a test that compares them with the routes.
#[cfg(test)]
pub(crate) fn listed() -> impl Iterator<Item = (&'static Method, &'static str)> {
    TABLE.iter().map(|(method, path, _)| (*method, *path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_what() {
        let roles = [
            Role::Admin,
            Role::Bot { for_person: true },
            Role::Bot { for_person: false },
            Role::Agent,
            Role::Session,
        ];
        let row =
            |who: Who| roles.map(|role| if who.allows(role) { 'x' } else { '-' }).iter().collect::<String>();
        let table =
            [Who::Open, Who::Page, Who::Read, Who::Write, Who::Issue, Who::Admin, Who::Agent, Who::Metrics]
                .map(|who| format!("{who:?} {}", row(who)));
        insta::assert_snapshot!(table.join("\n"), @r"
        Open xxxxx
        Page x---x
        Read xxx-x
        Write xx--x
        Issue xx---
        Admin x----
        Agent ---x-
        Metrics xxx-x
        ");
    }

    #[test]
    fn an_unlisted_route_of_the_api_is_for_nobody() {
        for route in ["/api/v1/new", "/api/v2/services", "/ws/new", "/sign-in/{code}/more"] {
            assert_eq!(who(&Method::GET, route), None, "{route}");
            assert_eq!(who(&Method::POST, route), None, "{route}");
        }
        assert_eq!(who(&Method::PATCH, "/api/v1/services"), None);
        assert_eq!(who(&Method::HEAD, "/api/v1/services"), Some(Who::Read));
        assert_eq!(who(&Method::GET, "/"), Some(Who::Page));
        assert_eq!(who(&Method::POST, "/healthz"), None);
    }
}
