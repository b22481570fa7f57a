//! The audit. Only admins read it; nobody writes it.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use sdp_core::api::{AuditEntry, AuditList, AuditVia};
use sdp_core::audit::AuditFilter;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::app::App;
use crate::edge::Query;
use crate::problem::Refused;

/// Entries of a page, unless asked otherwise.
pub(crate) const PAGE: u32 = 100;
const PAGE_LIMIT: u32 = 500;
/// Characters of a text that is asked for.
const TEXT_LIMIT: usize = 300;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AuditQuery {
    /// Only older entries than this.
    #[param(minimum = 1)]
    pub(crate) before: Option<u64>,
    /// At most so many.
    #[param(minimum = 1, maximum = 500, default = 100)]
    pub(crate) limit: Option<u32>,
    /// Only of this name: a person's, a token's, a user's of the host; `SDP` for what it did by itself.
    #[param(max_length = 300)]
    pub(crate) who: Option<String>,
    /// Only this action, such as `create_deployment`.
    #[param(max_length = 300)]
    pub(crate) action: Option<String>,
    /// Only with this result: `done`, or the code of a refusal.
    #[param(max_length = 300)]
    pub(crate) result: Option<String>,
    /// Only through this.
    #[param(inline)]
    pub(crate) via: Option<AuditVia>,
}

/// Who did what, when and from where, newest first.
#[utoipa::path(get, path = "/api/v1/audit", operation_id = "list_audit", tag = "audit", params(AuditQuery),
    responses((status = 200, description = "One page", body = AuditList)))]
pub(crate) async fn list(
    State(app): State<App>,
    Query(query): Query<AuditQuery>,
) -> Result<Json<AuditList>, Refused> {
    Ok(Json(read(&app, query).await?))
}

pub(crate) async fn read(app: &App, query: AuditQuery) -> Result<AuditList, Refused> {
    let refuse = |detail: &str| Err(Refused::new("invalid_query", "the query cannot be used").detail(detail));
    let limit = match query.limit {
        None => PAGE,
        Some(limit @ 1..=PAGE_LIMIT) => limit,
        Some(_) => return refuse("limit: 1 to 500"),
    };
    if query.before.is_some_and(|seq| seq == 0 || i64::try_from(seq).is_err()) {
        return refuse("before: entries are numbered from 1");
    }
    let texts = [&query.who, &query.action, &query.result];
    if texts.into_iter().flatten().any(|text| text.chars().count() > TEXT_LIMIT) {
        return refuse("who, action, result: at most 300 characters");
    }
    // One more than asked for tells whether there is another page. A field of a form that was left empty asks for nothing.
    let some = |text: Option<String>| text.filter(|text| !text.is_empty());
    let filter = AuditFilter {
        before: query.before,
        who: some(query.who),
        action: some(query.action),
        result: some(query.result),
        via: query.via,
        limit: limit + 1,
    };
    let mut entries = app.audit().list(filter).await?;
    let has_more = entries.len() > limit as usize;
    entries.truncate(limit as usize);
    let next_before = entries.last().filter(|_| has_more).map(|last| last.seq);
    Ok(AuditList { entries, next_before })
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ExportQuery {
    /// Only newer entries than this.
    #[param(minimum = 0, default = 0)]
    after: Option<u64>,
}

/// The whole audit as JSON lines: one entry a line, oldest first.
#[utoipa::path(get, path = "/api/v1/audit/export", operation_id = "export_audit", tag = "audit", params(ExportQuery),
    responses((status = 200, description = "Lines of JSON, each an `AuditEntry`", content_type = "application/x-ndjson")))]
pub(crate) async fn export(
    State(app): State<App>,
    Query(query): Query<ExportQuery>,
) -> Result<Response, Refused> {
    let after = query.after.unwrap_or(0);
    if i64::try_from(after).is_err() {
        return Err(Refused::new("invalid_query", "the query cannot be used")
            .detail("after: the number of an entry, or 0"));
    }
    // The first page is read before the answer begins, so that a fault is a problem and no empty file.
    let first = app.audit().after(after).await?;
    let stream = unfold((app, Some(Ok(first))), |(app, page)| async move {
        let page = match page? {
            Ok(page) => page,
            // A fault in the middle cuts the answer off, so that nobody takes it for the whole.
            Err(error) => return Some((Err(error), (app, None))),
        };
        let last = page.last()?.seq;
        let lines = lines(&page);
        let next = app.audit().after(last).await.inspect_err(|error| {
            tracing::error!(%error, "failed to bring out the audit");
        });
        Some((Ok(lines), (app, Some(next))))
    });
    let mut response = Body::from_stream(stream).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(
        header::CONTENT_DISPOSITION,
        HeaderValue::from_static("attachment; filename=\"sdp-audit.jsonl\""),
    );
    Ok(response)
}

fn lines(entries: &[AuditEntry]) -> Bytes {
    let mut lines = Vec::new();
    for entry in entries {
        if serde_json::to_writer(&mut lines, entry).is_ok() {
            lines.push(b'\n');
        }
    }
    lines.into()
}
