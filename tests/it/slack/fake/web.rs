//! The Web API: reads a request, lets planned failures and limits have their say, and answers as Slack does. What each method
//! does is in `chat.rs`, `conversations.rs` and `views.rs` beside.

mod chat;
mod conversations;
mod views;

use std::sync::Arc;

use axum::body::to_bytes;
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Map, Value, json};

use super::faults::Fault;
use super::line::Line;
use super::model::{APP, BOT, BOT_USER, Call, TEAM};
use super::{APP_TOKEN, BOT_TOKEN, Shared, World, effects};

/// No request is longer.
const MAX_BODY: usize = 1 << 20;

/// Why Slack does not do it.
pub(super) struct Refusal {
    error: String,
    details: Vec<String>,
}

impl From<&str> for Refusal {
    fn from(error: &str) -> Self {
        Self { error: error.to_owned(), details: Vec::new() }
    }
}

type Answer = Result<Value, Refusal>;

/// What a method is called with, however it was written.
pub(super) struct Arguments(Map<String, Value>);

impl Arguments {
    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str().filter(|text| !text.is_empty())
    }

    fn need(&self, name: &str) -> Result<&str, Refusal> {
        self.text(name).ok_or_else(|| Refusal {
            error: "invalid_arguments".to_owned(),
            details: vec![format!("[ERROR] missing required field: {name}")],
        })
    }

    fn flag(&self, name: &str) -> Option<bool> {
        match self.0.get(name)? {
            Value::Bool(flag) => Some(*flag),
            Value::Number(number) => Some(number.as_u64() == Some(1)),
            Value::String(text) => Some(matches!(text.as_str(), "1" | "true" | "True")),
            _ => None,
        }
    }

    fn number(&self, name: &str) -> Option<usize> {
        let value = self.0.get(name)?;
        value.as_u64().or_else(|| value.as_str()?.parse().ok()).map(|number| number as usize)
    }

    /// What is an object or a list, as it is or as text.
    fn json(&self, name: &str) -> Result<Option<Value>, Refusal> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => match serde_json::from_str(text) {
                Ok(value) => Ok(Some(value)),
                Err(_) if name == "blocks" => Err("invalid_blocks_format".into()),
                Err(_) => Err("invalid_arguments".into()),
            },
            Some(value) => Ok(Some(value.clone())),
        }
    }
}

fn read(request_query: Option<&str>, headers: &HeaderMap, body: &[u8]) -> Arguments {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let mut all = Map::new();
    let pairs = |text: &[u8], all: &mut Map<String, Value>| {
        for (name, value) in url::form_urlencoded::parse(text) {
            all.insert(name.into_owned(), Value::String(value.into_owned()));
        }
    };
    pairs(request_query.unwrap_or_default().as_bytes(), &mut all);
    if kind.starts_with("application/json") {
        if let Ok(Value::Object(fields)) = serde_json::from_slice(body) {
            all.extend(fields);
        }
    } else {
        pairs(body, &mut all);
    }
    Arguments(all)
}

fn token(headers: &HeaderMap, arguments: &mut Arguments) -> Option<String> {
    let in_body = arguments.0.remove("token").and_then(|token| token.as_str().map(str::to_owned));
    let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    header.and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned).or(in_body)
}

/// What is sent back, if anything.
enum Then {
    Send(Response),
    Hang,
    Cut,
}

impl From<Fault> for Then {
    fn from(fault: Fault) -> Self {
        Self::Send(match fault {
            Fault::RateLimited(seconds) => {
                let headers = [(header::RETRY_AFTER, seconds.to_string())];
                let body = json!({ "ok": false, "error": "ratelimited" });
                (StatusCode::TOO_MANY_REQUESTS, headers, axum::Json(body)).into_response()
            }
            Fault::Status(code) => {
                let status = StatusCode::from_u16(code).expect("a status");
                (status, "<html><body>upstream is away</body></html>").into_response()
            }
            Fault::Error(error) => axum::Json(json!({ "ok": false, "error": error })).into_response(),
            Fault::Hang => return Self::Hang,
            Fault::Cut => return Self::Cut,
        })
    }
}

impl Then {
    async fn happen(self, shared: &Shared, line: &Line) -> Response {
        match self {
            Self::Send(response) => return response,
            Self::Hang => {}
            Self::Cut => line.cut(),
        }
        shared.ended.cancelled().await;
        StatusCode::SERVICE_UNAVAILABLE.into_response()
    }
}

pub(super) async fn method(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(line): ConnectInfo<Line>,
    Path(method): Path<String>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let mut arguments = read(parts.uri.query(), &parts.headers, &body);
    let token = token(&parts.headers, &mut arguments);
    let address = shared.address;
    let (then, events) = shared.change(|world| {
        let (answer, then) = outcome(world, address, &method, token.as_deref(), &arguments);
        let at = world.model.now();
        world.model.calls.push(Call { method, arguments: Value::Object(arguments.0), at, answer });
        (then, std::mem::take(&mut world.events))
    });
    for event in events {
        shared.send_event(event);
    }
    then.happen(&shared, &line).await
}

fn outcome(
    world: &mut World,
    address: std::net::SocketAddr,
    method: &str,
    token: Option<&str>,
    arguments: &Arguments,
) -> (String, Then) {
    if method == "apps.connections.open" {
        world.model.opens.push(world.model.now());
    }
    let fault = world.faults.next(method);
    if let Some((fault, false)) = fault {
        return (format!("{fault:?}"), fault.into());
    }
    let channel = arguments.text("channel").unwrap_or_default();
    if let Err(seconds) = world.limits.take(method, channel, world.model.now()) {
        return ("ratelimited".to_owned(), Fault::RateLimited(seconds).into());
    }
    let answer = allowed(method, token).and_then(|()| call(world, address, method, arguments));
    let (said, body) = match answer {
        Ok(mut body) => {
            body["ok"] = json!(true);
            ("ok".to_owned(), body)
        }
        Err(refusal) => {
            let mut body = json!({ "ok": false, "error": refusal.error });
            if !refusal.details.is_empty() {
                world.complaints.push(format!("{method}: {}: {}", refusal.error, refusal.details.join("; ")));
                body["response_metadata"] = json!({ "messages": refusal.details });
                body["errors"] = json!(refusal.details);
            }
            (refusal.error, body)
        }
    };
    match fault {
        Some((fault, _)) => (format!("{said}, then {fault:?}"), fault.into()),
        None => (said, Then::Send(axum::Json(body).into_response())),
    }
}

fn allowed(method: &str, token: Option<&str>) -> Result<(), Refusal> {
    let for_app = method == "apps.connections.open";
    match token {
        _ if method == "api.test" => Ok(()),
        None => Err("not_authed".into()),
        Some(token) if token == BOT_TOKEN || token == APP_TOKEN => {
            if for_app == (token == APP_TOKEN) || method == "auth.test" {
                Ok(())
            } else {
                Err("not_allowed_token_type".into())
            }
        }
        Some(_) => Err("invalid_auth".into()),
    }
}

fn call(world: &mut World, address: std::net::SocketAddr, method: &str, arguments: &Arguments) -> Answer {
    match method {
        "api.test" => match arguments.text("error") {
            Some(error) => Err(error.into()),
            None => Ok(json!({ "args": arguments.0 })),
        },
        "auth.test" => Ok(json!({
            "url": "https://acme.slack.com/", "team": "Acme", "user": "sdp", "team_id": TEAM,
            "user_id": BOT_USER, "bot_id": BOT, "app_id": APP, "is_enterprise_install": world.org_install,
        })),
        "apps.connections.open" => {
            let ticket = world.model.next("ticket-");
            world.model.tickets.insert(ticket.clone());
            let front = world.front.clone().unwrap_or_else(|| format!("ws://{address}"));
            Ok(json!({ "url": format!("{front}/link/?ticket={ticket}&app_id={APP}") }))
        }
        "chat.postMessage" => chat::post(world, arguments),
        "chat.update" => chat::update(world, arguments),
        "chat.delete" => chat::delete(world, arguments),
        "chat.postEphemeral" => chat::whisper(world, arguments),
        "chat.getPermalink" => chat::permalink(world, arguments),
        "conversations.open" => conversations::open(world, arguments),
        "conversations.info" => conversations::info(world, arguments),
        "conversations.history" => conversations::history(world, arguments),
        "conversations.replies" => conversations::replies(world, arguments),
        "users.info" => conversations::user(world, arguments),
        "views.open" => views::open(world, arguments),
        "views.push" => views::push(world, arguments),
        "views.update" => views::update(world, arguments),
        "views.publish" => views::publish(world, arguments),
        _ => Err("unknown_method".into()),
    }
}

/// What a response URL is told.
pub(super) async fn response(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(line): ConnectInfo<Line>,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    let Ok(body) = to_bytes(request.into_body(), MAX_BODY).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let said: Value = serde_json::from_slice(&body).unwrap_or_default();
    let then = shared.change(|world| {
        let fault = world.faults.next("response_url");
        let result = match &fault {
            Some((_, false)) => Ok(()),
            _ => effects::respond(world, &id, &said),
        };
        let answer = match (&fault, result) {
            (Some((fault, _)), _) => format!("{fault:?}"),
            (None, Ok(())) => "ok".to_owned(),
            (None, Err(error)) => error.to_owned(),
        };
        let at = world.model.now();
        let call = Call { method: "response_url".to_owned(), arguments: said, at, answer: answer.clone() };
        world.model.calls.push(call);
        match fault {
            Some((fault, _)) => fault.into(),
            None if answer == "ok" => Then::Send(axum::Json(json!({ "ok": true })).into_response()),
            None => {
                let body = axum::Json(json!({ "ok": false, "error": answer }));
                Then::Send((StatusCode::NOT_FOUND, body).into_response())
            }
        }
    });
    then.happen(&shared, &line).await
}
