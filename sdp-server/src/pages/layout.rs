//! The frame of every page: head, and the bar on top.
//!
//! The edge sends pages with a policy that allows nothing but what this server itself serves: no inline script or style. So
//! nothing here has a `style` attribute, and scripts set sizes through the object model.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sdp_core::id::EventSeq;
use sdp_core::principal::Principal;

use super::assets;

/// What the frame needs to know of a page.
pub(super) struct Frame<'a> {
    /// What the browser's tab says.
    pub(super) title: &'a str,
    /// The class of the body: each page has its own.
    pub(super) class: &'static str,
    /// The page's script, if it has one.
    pub(super) script: Option<&'static str>,
    /// Who is signed in, if somebody is.
    pub(super) principal: Option<&'a Principal>,
    /// The newest event that the page knows.
    pub(super) event: EventSeq,
    /// The server's time.
    pub(super) now: Timestamp,
}

/// A whole page.
pub(super) fn page(frame: &Frame<'_>, content: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" data-now=(frame.now.as_millisecond()) data-event=(frame.event) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (frame.title) " · SDP" }
                link rel="icon" href=(assets::url("icon.svg")) type="image/svg+xml";
                link rel="stylesheet" href=(assets::url("sdp.css"));
                @if let Some(script) = frame.script {
                    script type="module" src=(assets::url(script)) {}
                }
            }
            body class=(frame.class) {
                a class="skip" href="#main" { "Skip to content" }
                header class="bar" {
                    a class="brand" href="/" { (logo()) span { "SDP" } }
                    @if frame.principal.is_some() {
                        nav aria-label="Pages" {
                            @for (href, name) in [("/sandboxes", "Sandboxes"), ("/#deployments", "Deployments"), ("/environments", "Environments"), ("/templates", "Templates")] {
                                a href=(href) { (name) }
                            }
                        }
                    }
                    span class="grow" {}
                    @if let Some(principal) = frame.principal {
                        a class="who" href="/account" title="Your account" {
                            span class="for-wide" { "Signed in as " } b { (principal) }
                        }
                        form method="post" action="/sign-out" { button class="quiet" type="submit" { "Sign out" } }
                    }
                }
                div id="signed-out" class="banner" role="alert" hidden {
                    b { "You are not signed in any more." }
                    " What you see may be out of date. Open a new sign-in link, then load this page again."
                }
                main id="main" tabindex="-1" { (content) }
                div id="said" class="toasts" role="status" {}
            }
        }
    }
}

fn logo() -> PreEscaped<&'static str> {
    PreEscaped(include_str!("assets/icon.svg"))
}

/// A page as an answer. The headers that restrict it are set by the edge, for every answer alike.
pub(super) fn respond(status: StatusCode, page: Markup) -> Response {
    let mut response = (status, page).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
