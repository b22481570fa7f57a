//! Pages for those who are not signed in, or are where nothing is: how to get in, and what went wrong.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use maud::{Markup, html};
use sdp_core::api::Problem;
use sdp_core::id::EventSeq;
use sdp_core::principal::Principal;
use url::form_urlencoded;

use super::layout::{Frame, page, respond};
use super::{parts, words};
use crate::problem::Refused;

/// "Please sign in": what a browser without a session gets instead of a page. Where people log in with a git account the way
/// there leads to `next`.
pub(crate) fn please_sign_in(logs_in: bool, next: &str) -> Response {
    let query: String = form_urlencoded::Serializer::new(String::new()).append_pair("next", next).finish();
    let content = html! {
        h1 { "Please sign in" }
        p { "This server shows deployments and logs to people it knows." }
        @if logs_in {
            p { a class="btn primary" href={ "/login?" (query) } { "Log in with your git account" } }
        }
        ul {
            li { b { "From chat: " } "click a log link in one of SDP's messages; it signs you in on the way." }
            li { b { "On the server's machine: " } "run " code { "sdp-server sign-in NAME" } " and open the link that it prints." }
        }
        p class="hint" { "A link works once, within ten minutes." }
    };
    plain_page(StatusCode::UNAUTHORIZED, "Please sign in", content)
}

/// The page behind a sign-in link. Its form sends itself, so that nobody types or clicks anything; programs that only look at
/// links (chat previews, mail scanners) send no forms and use nothing up.
pub(crate) fn signing_in() -> Response {
    let content = html! {
        h1 { "Signing in …" }
        form method="post" { button class="btn primary" type="submit" { "Sign in" } }
    };
    respond(StatusCode::OK, plain("Signing in", Some("sign-in.js"), None, content))
}

/// A page of a few words, for nobody in particular.
pub(crate) fn plain_page(status: StatusCode, title: &str, content: Markup) -> Response {
    respond(status, plain(title, None, None, content))
}

/// A refusal as a page. What the edge logs of it stays in the answer, and when to try again.
pub(crate) fn problem_page(refused: Refused, principal: Option<&Principal>) -> Response {
    let problem = refused.problem().clone();
    let mut response = problem_html(&problem, principal);
    let data = refused.into_response();
    if let Some(wait) = data.headers().get(header::RETRY_AFTER) {
        response.headers_mut().insert(header::RETRY_AFTER, wait.clone());
    }
    *response.extensions_mut() = data.extensions().clone();
    response
}

fn problem_html(problem: &Problem, principal: Option<&Principal>) -> Response {
    let sentence = |text: &str| {
        let text = words::capitalised(text);
        if text.ends_with(['.', '?', '!', '…']) { text } else { text + "." }
    };
    let content = html! {
        h1 { (sentence(&problem.title)) }
        @if let Some(detail) = &problem.detail { p { (words::visible(&sentence(detail))) } }
        @if let Some(meant) = &problem.did_you_mean { p { "Did you mean " b { (meant) } "?" } }
        @if let Some(hint) = &problem.hint { p { (parts::coded(&sentence(hint))) } }
        p { a href="/" { "To the home page" } }
        p class="hint" { "Code: " code { (problem.code) } }
    };
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    respond(status, plain("Not here", None, principal, content))
}

fn plain(
    title: &str,
    script: Option<&'static str>,
    principal: Option<&Principal>,
    content: Markup,
) -> Markup {
    let frame =
        Frame { title, class: "plain-page", script, principal, event: EventSeq(0), now: Timestamp::now() };
    page(&frame, html! { div class="card" { (content) } })
}
