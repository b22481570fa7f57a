//! Whether the server lives, and whether it can work: for service managers and load balancers.
//!
//! Readiness is looked at again at most each [`KEPT`], by one request while others wait for what it finds, so that a flood of
//! probes costs nothing. Each check has [`LIMIT`].

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sdp_core::platform::PlatformError;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::app::App;
use crate::problem::Refused;

/// How long what was found is good for.
const KEPT: Duration = Duration::from_secs(1);
/// What does not answer within this does not work.
const LIMIT: Duration = Duration::from_secs(2);

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// It lives.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    /// `ok`.
    #[schema(example = "ok")]
    status: &'static str,
    /// The server's version.
    version: &'static str,
}

/// It can work.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Readiness {
    /// `ok`.
    #[schema(example = "ok")]
    status: &'static str,
    /// The server's version.
    version: &'static str,
    /// What was looked at.
    checks: Vec<Check>,
}

/// It cannot work now: a problem with the code `not_ready`, and what was looked at.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NotReady {
    /// `about:blank`.
    r#type: &'static str,
    /// 503.
    status: u16,
    /// `not_ready`.
    #[schema(example = "not_ready")]
    code: &'static str,
    /// As a sentence.
    title: &'static str,
    /// What is wrong, by the names of the checks.
    detail: String,
    /// What to do next.
    hint: &'static str,
    /// What was looked at.
    checks: Vec<Check>,
}

/// Something that must be as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Check {
    /// `running` (it is not stopping), `orchestrator`, `database`, `logs` or `disk`.
    #[schema(example = "database")]
    name: &'static str,
    /// Whether it is.
    ok: bool,
    /// What was found.
    detail: String,
}

impl Check {
    fn new(name: &'static str, found: Result<String, String>) -> Self {
        let ok = found.is_ok();
        let (Ok(detail) | Err(detail)) = found;
        Self { name, ok, detail }
    }
}

/// What was found last.
#[derive(Debug, Default)]
pub(crate) struct Found(Mutex<Option<(Instant, Vec<Check>)>>);

/// The process answers.
#[utoipa::path(get, path = "/healthz", operation_id = "health", tag = "health",
    responses((status = 200, description = "It lives", body = Health)))]
pub(crate) async fn live() -> Json<Health> {
    Json(Health { status: "ok", version: VERSION })
}

/// It can work: it is not stopping, the orchestrator answers, database and logs can be written, and there is room.
#[utoipa::path(get, path = "/readyz", operation_id = "readiness", tag = "health",
    responses((status = 200, description = "It can work", body = Readiness),
        (status = 503, description = "It cannot (`not_ready`); `checks` says what is wrong",
            body = NotReady, content_type = "application/problem+json")))]
pub(crate) async fn ready(State(app): State<App>) -> Response {
    let checks = match app.drain().is_cancelled() {
        // Nothing else matters any more.
        true => vec![Check::new("running", Err("it is stopping".to_owned()))],
        false => recent(&app).await,
    };
    let wrong: Vec<&str> = checks.iter().filter(|check| !check.ok).map(|check| check.name).collect();
    if wrong.is_empty() {
        return Json(Readiness { status: "ok", version: VERSION, checks }).into_response();
    }
    let body = NotReady {
        r#type: "about:blank",
        status: StatusCode::SERVICE_UNAVAILABLE.as_u16(),
        code: "not_ready",
        title: "The server cannot work now",
        detail: format!("not as it should be: {}", wrong.join(", ")),
        hint: "look at `checks`, and at the server's log",
        checks: checks.clone(),
    };
    let Ok(body) = serde_json::to_vec(&body) else {
        return Refused::new("not_ready", body.title).into_response();
    };
    let mut response = (StatusCode::SERVICE_UNAVAILABLE, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    response
}

async fn recent(app: &App) -> Vec<Check> {
    let mut found = app.found().0.lock().await;
    if let Some((at, checks)) = &*found
        && at.elapsed() < KEPT
    {
        return checks.clone();
    }
    let checks = look(app).await;
    *found = Some((Instant::now(), checks.clone()));
    checks
}

async fn look(app: &App) -> Vec<Check> {
    let platform = app.platform();
    let (orchestrator, database, logs, disk) = tokio::join!(
        within(platform.answers()),
        within(platform.can_store()),
        within(async { platform.logs().can_write().await.map_err(PlatformError::from) }),
        timeout(LIMIT, room(app)),
    );
    let said = |result: Result<(), String>, well: &str| result.map(|()| well.to_owned());
    vec![
        Check::new("running", Ok("it is not stopping".to_owned())),
        Check::new("orchestrator", said(orchestrator, "it answers")),
        Check::new("database", said(database, "it can be written")),
        Check::new("logs", said(logs, "their folder can be written")),
        Check::new("disk", disk.unwrap_or_else(|_| Err(too_late()))),
    ]
}

/// The code of what is wrong: nobody has said who asks, so no path is told.
async fn within(asked: impl Future<Output = Result<(), PlatformError>>) -> Result<(), String> {
    match timeout(LIMIT, asked).await {
        Ok(answer) => answer.map_err(|error| error.code().to_owned()),
        Err(_) => Err(too_late()),
    }
}

fn too_late() -> String {
    format!("no answer within {} s", LIMIT.as_secs())
}

/// A file system on another machine may not answer.
async fn room(app: &App) -> Result<String, String> {
    let floor = app.platform().config().disk_floor;
    let logs = app.platform().logs().clone();
    let free = tokio::task::spawn_blocking(move || logs.free_bytes()).await;
    match free.unwrap_or_else(|error| Err(error.into())) {
        Ok(free) if free >= floor => {
            Ok(format!("{} MiB are free, at least {} wanted", free >> 20, floor >> 20))
        }
        Ok(free) => Err(format!("{} MiB are free, at least {} are wanted", free >> 20, floor >> 20)),
        Err(_) => Err("the system does not say how much is free".to_owned()),
    }
}
