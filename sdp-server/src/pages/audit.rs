//! The audit as a page: who did what, when, from where, and what came of it.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use jiff::Timestamp;
use maud::{Markup, html};
use sdp_core::api::{AuditEntry, AuditList, AuditVia};
use sdp_core::audit::DONE;
use sdp_core::id::EventSeq;
use url::form_urlencoded;

use super::layout::{Frame, page, respond};
use super::{sign_in, words};
use crate::app::App;
use crate::edge::{Caller, Query};
use crate::problem::Refused;
use crate::rest::audit::{AuditQuery, read};

/// What was looked for, as the form shows it again.
struct Looked {
    who: String,
    action: String,
    result: String,
    via: Option<AuditVia>,
}

impl Looked {
    fn of(query: &AuditQuery) -> Self {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        Self {
            who: text(&query.who),
            action: text(&query.action),
            result: text(&query.result),
            via: query.via,
        }
    }

    /// The address of the page that follows.
    fn older(&self, before: u64) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, value) in [("who", &self.who), ("action", &self.action), ("result", &self.result)] {
            if !value.is_empty() {
                query.append_pair(name, value);
            }
        }
        if let Some(via) = self.via {
            query.append_pair("via", via.as_str());
        }
        format!("/audit?{}", query.append_pair("before", &before.to_string()).finish())
    }
}

pub(super) async fn show(
    State(app): State<App>,
    caller: Caller,
    query: Result<Query<AuditQuery>, Refused>,
) -> Response {
    let reading = async {
        let Query(query) = query?;
        let looked = Looked::of(&query);
        Ok::<_, Refused>((looked, read(&app, query).await?))
    };
    match reading.await {
        Ok((looked, list)) => {
            let now = Timestamp::now();
            let frame = Frame {
                title: "Audit",
                class: "audit-page",
                script: None,
                principal: Some(&caller.principal),
                event: EventSeq(0),
                now,
            };
            respond(StatusCode::OK, page(&frame, render(&looked, &list, now)))
        }
        Err(refused) => sign_in::problem_page(refused, Some(&caller.principal)),
    }
}

fn render(looked: &Looked, list: &AuditList, now: Timestamp) -> Markup {
    let vias = [AuditVia::Page, AuditVia::Api, AuditVia::Chat, AuditVia::Automatic, AuditVia::Host];
    html! {
        h1 { "Audit" }
        form method="get" action="/audit" class="filter" {
            label { "Who " input name="who" value=(looked.who) maxlength="300"; }
            label { "Action " input name="action" value=(looked.action) maxlength="300" placeholder="create_deployment"; }
            label { "Result " input name="result" value=(looked.result) maxlength="300" placeholder="done"; }
            label { "Through "
                select name="via" {
                    option value="" { "anything" }
                    @for via in vias {
                        option value=(via.as_str()) selected[looked.via == Some(via)] { (via.as_str()) }
                    }
                }
            }
            button class="btn" type="submit" { "Show" }
            a class="btn quiet" href="/api/v1/audit/export" { "All as JSON lines" }
        }
        @if list.entries.is_empty() {
            p class="empty" { "Nothing of that kind was done." }
        } @else {
            div class="table" { table {
                thead { tr { th { "When" } th { "Who" } th { "Did" } th { "On" } th { "Result" } th { "From" } } }
                tbody { @for entry in &list.entries { (row(entry, now)) } }
            } }
        }
        @if let Some(before) = list.next_before {
            p { a class="btn" href=(looked.older(before)) { "Older" } }
        }
        p class="hint" { "Entries are added and never changed; " code { "sdp-server audit verify" } " checks that, on the server's host." }
    }
}

fn row(entry: &AuditEntry, now: Timestamp) -> Markup {
    let whence = match &entry.address {
        Some(address) => format!("{}, {address}", entry.via.as_str()),
        None => entry.via.as_str().to_owned(),
    };
    html! {
        tr id={ "e" (entry.seq) } {
            td { time datetime=(entry.at) title=(entry.at) { (words::ago(entry.at, now)) } }
            td { (words::visible(&entry.who.to_string())) }
            td { code { (words::visible(&entry.action)) } }
            td { @if let Some(target) = &entry.target { (words::visible(target)) } }
            td class=[(entry.result != DONE).then_some("refused")] { (words::visible(&entry.result)) }
            td { (whence) }
        }
    }
}

#[cfg(test)]
mod tests {
    use sdp_core::api::AuditWho;

    use super::*;

    #[test]
    fn what_others_have_written_is_text() {
        let entry = AuditEntry {
            seq: 7,
            at: Timestamp::UNIX_EPOCH,
            who: AuditWho::Claimed { name: "<script>alert(1)</script>".into() },
            via: AuditVia::Page,
            address: Some("192.0.2.7".into()),
            action: "log_in".into(),
            target: Some("\u{202e}<img src=x onerror=alert(1)>".into()),
            result: "login_wrong".into(),
            request: None,
        };
        let looked = Looked {
            who: "\"><svg onload=x>".into(),
            action: String::new(),
            result: String::new(),
            via: None,
        };
        let list = AuditList { entries: vec![entry], next_before: Some(7) };
        let html = render(&looked, &list, Timestamp::UNIX_EPOCH).into_string();
        for wrong in ["<script", "<img", "<svg", "\u{202e}"] {
            assert!(!html.contains(wrong), "{wrong}: {html}");
        }
        assert!(html.contains("href=\"/audit?who=%22%3E%3Csvg+onload%3Dx%3E&amp;before=7\""), "{html}");
        assert!(html.contains("page, 192.0.2.7"));
    }
}
