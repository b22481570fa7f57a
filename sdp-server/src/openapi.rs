//! The OpenAPI document: what the handlers do not say themselves.
//!
//! Who may use an operation is taken from the one table in [`edge`](crate::edge), so the document cannot say otherwise.
//! `openapi/sdp.json` is this document, checked in; a test compares.

use axum::http::Method;
use sdp_core::api::{AuditEntry, OutputChunk, OutputEnd, Problem};
use utoipa::openapi::path::{HttpMethod, Operation, PathItem};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, HeaderBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder, SecurityRequirement,
};
use utoipa::{Modify, OpenApi as _};

use crate::edge::{Who, who};

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "SDP, the Sandbox Deployment Platform",
        description = "Deploys a branch of a service into a person's sandbox and sends that sandbox's traffic to it.\n\n\
            **Errors** are `application/problem+json` with a stable `code`; match on that, not on texts.\n\n\
            **Times** are RFC 3339 in UTC. **Names and ids** are checked where they come in. Fields, kinds of events and \
            values of enumerations may be added: skip what you do not know.\n\n\
            **Tokens** go into the header `Authorization: Bearer …`, never into an address. A bot's token names the user of its \
            chat for whom it speaks in the header `sdp-on-behalf-of`; it acts as the account which that user is bound to, and may \
            only read for one who is bound to none.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    tags(
        (name = "deployments", description = "Ask for deployments, follow them, read their logs"),
        (name = "instances", description = "What runs"),
        (name = "batches", description = "Several deployments at once"),
        (name = "sandboxes", description = "Places of one's own to run branches in, and where their requests go"),
        (name = "templates", description = "What sandboxes are made from"),
        (name = "environments", description = "Baselines with their routers, and what may be done there"),
        (name = "routes", description = "Where a request goes, and why"),
        (name = "locks", description = "Who may deploy where for a while"),
        (name = "services", description = "The catalog"),
        (name = "events", description = "What happens, in one sequence"),
        (name = "agents", description = "Where builds are done and services run"),
        (name = "me", description = "Who asks, and what is theirs: sessions, bindings"),
        (name = "audit", description = "Who did what, when and from where"),
        (name = "people", description = "Who has logged in, and what they may do"),
        (name = "tokens", description = "API tokens"),
        (name = "sign-in", description = "Logging in with a git account, one-time links"),
        (name = "sockets", description = "WebSockets"),
        (name = "health", description = "For service managers and load balancers"),
    ),
    components(schemas(AuditEntry, Problem, OutputChunk, OutputEnd)),
    modifiers(&Security)
)]
struct Document;

struct Security;

impl Modify for Security {
    fn modify(&self, document: &mut OpenApi) {
        let components = document.components.get_or_insert_default();
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(
                "A token: `sdp_…` of a person or program, `sdpb_…` of a bot, `sdpa_…` of an agent; `sdpe_…` is what an agent enrols with",
            ))
            .build();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        let cookie = ApiKeyValue::with_description(
            "sdp",
            "A browser's session, from a sign-in link (over https the cookie is named `__Host-sdp`)",
        );
        components.add_security_scheme("session", SecurityScheme::ApiKey(ApiKey::Cookie(cookie)));
    }
}

/// The document before the routes are added.
pub(crate) fn begin() -> OpenApi {
    Document::openapi()
}

/// What names look like, where one pattern says it; the types in `sdp_core::name` are what counts.
const PATTERNS: &[(&str, &str)] = &[
    ("ServiceName", "^[a-z]([a-z0-9-]*[a-z0-9])?$"),
    ("SandboxName", "^[a-z]([a-z0-9-]*[a-z0-9])?$"),
    ("EnvironmentName", "^[a-z]([a-z0-9-]*[a-z0-9])?$"),
    ("TemplateName", "^[a-z]([a-z0-9-]*[a-z0-9])?$"),
    ("TeamName", "^[a-z]([a-z0-9-]*[a-z0-9])?$"),
    ("RoutingKey", "^rk_[a-z2-7]{26}$"),
    ("AgentName", "^[a-z]([a-z0-9-]*[a-z0-9])?$"),
    ("TokenName", "^[A-Za-z0-9][A-Za-z0-9._-]*$"),
    ("PersonName", "^[A-Za-z0-9][A-Za-z0-9._@+-]*$"),
    ("Label", "^[A-Za-z0-9._=-]+$"),
    ("CommitId", "^([0-9a-f]{40}|[0-9a-f]{64})$"),
];
/// A deployment is named by id or number.
const DEPLOYMENT: &str = "^([0-9]{1,19}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$";

fn set_pattern(schema: &mut RefOr<Schema>, pattern: &str) {
    if let RefOr::T(Schema::Object(object)) = schema {
        object.pattern = Some(pattern.to_owned());
    }
}

/// Adds to every operation who may use it, and what it answers when something is wrong.
pub(crate) fn finish(document: &mut OpenApi) {
    let schemas = &mut document.components.get_or_insert_default().schemas;
    for (name, pattern) in PATTERNS {
        if let Some(schema) = schemas.get_mut(*name) {
            set_pattern(schema, pattern);
        }
    }
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            complete(path, &method, operation);
        }
    }
}

fn complete(path: &str, method: &Method, operation: &mut Operation) {
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(parameter) = parameter
            && parameter.name == "deployment"
            && let Some(schema) = &mut parameter.schema
        {
            set_pattern(schema, DEPLOYMENT);
        }
    }
    let requirement = |name: &str| SecurityRequirement::new::<_, [&str; 0], &str>(name, []);
    operation.security = Some(match who(method, path) {
        Some(Who::Open) => vec![],
        Some(Who::Issue | Who::Agent | Who::Chat | Who::Enrol) | None => vec![requirement("bearer")],
        Some(_) => vec![requirement("bearer"), requirement("session")],
    });
    let problem = |description: &str| problem_response(description).build();
    let responses = &mut operation.responses.responses;
    if who(method, path) != Some(Who::Open) {
        let text = "Not signed in, or no valid token (`unauthorised`)";
        responses.entry("401".to_owned()).or_insert_with(|| problem(text).into());
        responses
            .entry("403".to_owned())
            .or_insert_with(|| problem("Signed in, but this is for others (`forbidden`)").into());
        responses.entry("429".to_owned()).or_insert_with(|| too_many().into());
    }
    responses.entry("default".to_owned()).or_insert_with(|| problem("Anything else that is wrong").into());
}

fn too_many() -> Response {
    let text = "Asked too often, or too much is open at once (`too_many_requests`); each person and each token has limits of its own";
    let schema = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1));
    let wait = HeaderBuilder::new()
        .schema(Some(schema))
        .description(Some("Seconds after which the same request may succeed"))
        .build();
    problem_response(text).header("Retry-After", wait).build()
}

fn problem_response(description: &str) -> ResponseBuilder {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    ResponseBuilder::new().description(description).content("application/problem+json", content)
}

/// The operations of a path with their methods.
pub(crate) fn operations(item: &mut PathItem) -> Vec<(Method, &mut Operation)> {
    let PathItem { get, put, post, delete, .. } = item;
    [(HttpMethod::Get, get), (HttpMethod::Put, put), (HttpMethod::Post, post), (HttpMethod::Delete, delete)]
        .into_iter()
        .filter_map(|(method, operation)| {
            let method = match method {
                HttpMethod::Put => Method::PUT,
                HttpMethod::Post => Method::POST,
                HttpMethod::Delete => Method::DELETE,
                _ => Method::GET,
            };
            operation.as_mut().map(|operation| (method, operation))
        })
        .collect()
}

/// Examples of bodies; a test reads each into its type.
pub(crate) mod examples {
    use serde_json::{Value, json};

    pub(crate) fn service() -> Value {
        json!({
            "name": "payments",
            "repo": "https://bitbucket.org/team/payments.git",
            "builder": { "type": "go", "main_package": "cmd/payments" },
            "health": { "type": "http", "path": "/healthz" },
            "baseline": "https://payments.apps.example.com"
        })
    }

    pub(crate) fn create_deployment() -> Value {
        json!({ "service": "payments", "git_ref": "feature/refund", "sandbox": "alice",
            "notify": { "channel": "#payments-ci" } })
    }

    pub(crate) fn create_batch() -> Value {
        json!({ "sandbox": "qa-42", "services": [{ "service": "payments", "git_ref": "feature/a" },
            { "service": "ledger", "git_ref": "feature/b" }] })
    }

    pub(crate) fn environment() -> Value {
        json!({
            "name": "staging",
            "domain": "sandboxes.shop.example.com",
            "services": {
                "payments": { "rule": { "type": "path", "prefix": "/payments" },
                    "baseline": "https://payments-staging.apps.ocp.example.com" },
                "ledger": { "rule": { "type": "host", "host": "ledger.shop.example.com" } }
            },
            "external_networks": ["10.20.0.0/16"],
            "quota": { "instances": 10 }
        })
    }

    pub(crate) fn template() -> Value {
        json!({ "environment": "default", "services": { "payments": { "git_ref": "main" } },
            "env": { "LOG_LEVEL": "debug" }, "lifetime_hours": 48 })
    }

    pub(crate) fn sandbox() -> Value {
        json!({ "lifetime_hours": 24, "notes": "for the review of the refund" })
    }

    pub(crate) fn create_sandbox() -> Value {
        json!({ "branch": "feature/refund", "sandbox": { "lifetime_hours": 24 } })
    }

    pub(crate) fn choose_route() -> Value {
        json!({ "target": { "type": "borrowed", "sandbox": "qa-42" } })
    }

    pub(crate) fn probe() -> Value {
        json!({ "path": "/shop/cart", "through": ["shop", "payments", "ledger"] })
    }

    pub(crate) fn create_lock() -> Value {
        json!({ "sandbox": "qa-42", "service": "payments", "reason": "the demo at three", "hours": 2 })
    }

    pub(crate) fn set_secret() -> Value {
        json!({ "value": "postgres://payments:…@db.example.com/payments", "given_to": "run" })
    }

    pub(crate) fn create_token() -> Value {
        json!({ "name": "ci-payments", "kind": "deploy", "service": "payments", "expires_in_days": 90 })
    }

    pub(crate) fn log_in() -> Value {
        json!({ "username": "alice", "password": "an access token" })
    }

    pub(crate) fn create_sign_in_link() -> Value {
        json!({ "next": "/deployments/412" })
    }

    pub(crate) fn invalid_branch() -> Value {
        json!({
            "type": "about:blank",
            "status": 422,
            "code": "invalid_branch",
            "title": "The body cannot be used",
            "detail": "git_ref: invalid branch",
            "hint": "letters, digits and / . _ - + # @, at most 250 bytes, as `git branch` allows"
        })
    }
}

#[cfg(test)]
mod tests {
    use sdp_core::api::{
        ChooseRoute, CreateBatch, CreateDeployment, CreateLock, CreateProbe, CreateSandbox, CreateSignInLink,
        CreateToken, Environment, SaveSandbox, Service, SetSecret, TemplateSpec,
    };

    use super::*;

    fn document() -> OpenApi {
        crate::router::api().1
    }

    #[test]
    fn every_response_is_described() {
        let text = serde_json::to_value(document()).expect("json");
        let mut seen = 0;
        for (path, item) in text["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("item") {
                assert!(operation["operationId"].is_string(), "{method} {path}");
                assert!(operation["summary"].is_string(), "{method} {path}");
                for (status, response) in operation["responses"].as_object().expect("responses") {
                    seen += 1;
                    let described = response["description"].as_str().is_some_and(|text| !text.is_empty());
                    assert!(described, "{method} {path} {status}");
                }
            }
        }
        assert!(seen > 100, "{seen}");
    }

    #[test]
    fn names_have_patterns() {
        let text = serde_json::to_value(document()).expect("json");
        for (name, pattern) in PATTERNS {
            assert_eq!(text["components"]["schemas"][name]["pattern"], *pattern, "{name}");
        }
    }

    #[test]
    fn every_route_is_in_the_table_of_who_may() {
        let mut document = document();
        for (path, item) in &mut document.paths.paths {
            for (method, _) in operations(item) {
                let who = who(&method, path);
                assert!(who.is_some() && who != Some(Who::Page), "{method} {path} is missing in edge/who.rs");
            }
        }
    }

    #[test]
    fn every_entry_of_the_table_is_a_route() {
        let document = document();
        for (method, path) in crate::edge::listed() {
            let item = document.paths.paths.get(path).unwrap_or_else(|| panic!("{path} is no route"));
            let mut item = item.clone();
            assert!(operations(&mut item).iter().any(|(m, _)| m == method), "{method} {path} is no route");
        }
    }

    #[test]
    fn examples_are_valid() {
        let service: Service = serde_json::from_value(examples::service()).expect("valid");
        service.check().expect("works");
        serde_json::from_value::<CreateDeployment>(examples::create_deployment()).expect("valid");
        let environment: Environment = serde_json::from_value(examples::environment()).expect("valid");
        environment.check().expect("works");
        let template: TemplateSpec = serde_json::from_value(examples::template()).expect("valid");
        template.check().expect("works");
        serde_json::from_value::<SaveSandbox>(examples::sandbox()).expect("valid");
        serde_json::from_value::<CreateSandbox>(examples::create_sandbox()).expect("valid");
        serde_json::from_value::<ChooseRoute>(examples::choose_route()).expect("valid");
        serde_json::from_value::<CreateProbe>(examples::probe()).expect("valid");
        serde_json::from_value::<CreateLock>(examples::create_lock()).expect("valid");
        serde_json::from_value::<CreateBatch>(examples::create_batch()).expect("valid");
        serde_json::from_value::<SetSecret>(examples::set_secret()).expect("valid");
        serde_json::from_value::<CreateToken>(examples::create_token()).expect("valid");
        serde_json::from_value::<CreateSignInLink>(examples::create_sign_in_link()).expect("valid");
        serde_json::from_value::<Problem>(examples::invalid_branch()).expect("valid");
    }

    #[test]
    fn the_committed_document_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../openapi/sdp.json");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == crate::openapi_json(),
            "openapi/sdp.json differs; if that is meant: cargo run --bin sdp-server -- openapi > openapi/sdp.json"
        );
    }
}
