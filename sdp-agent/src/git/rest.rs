//! Questions to a git host's REST API, over the same connections, certificates and proxy as git itself.
//!
//! Called by `bitbucket`. Invariant: the login goes to the API's origin and nowhere else; no redirect is followed.
//!
//! Limits: an answer has at most [`MAX_ANSWER`] bytes; the operation's deadline and cancel cut the connection.

use std::io::Read;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION};
use http::{HeaderMap, StatusCode};
use sdp_core::failure::FailureReason;
use sdp_core::secret::GitCredential;
use serde::de::DeserializeOwned;
use url::Url;

use super::config::GitConfig;
use super::control::Control;
use super::fault::{self, Fault, said, unreachable};
use super::http::{Roots, client, login};
use super::source::origin_text;

/// The longest answer, in bytes.
const MAX_ANSWER: u64 = 16 << 20;

pub(super) struct Rest<'a> {
    agent: ureq::Agent,
    api: Url,
    login: Option<HeaderValue>,
    name: String,
    control: &'a Control,
}

/// A 200 with JSON in it.
pub(super) struct Answered<T> {
    pub(super) headers: HeaderMap,
    pub(super) body: T,
}

impl<'a> Rest<'a> {
    pub(super) fn new(
        api: &Url,
        credential: Option<&GitCredential>,
        config: &GitConfig,
        roots: &Roots,
        control: &'a Control,
    ) -> Result<Self, Fault> {
        let agent = client(api, config, roots, control)?;
        let login = credential.map(|credential| login(&credential.username, credential)).transpose()?;
        Ok(Self { agent, api: api.clone(), login, name: origin_text(api), control })
    }

    /// The API's origin, for people.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn control(&self) -> &Control {
        self.control
    }

    /// An address of the API.
    pub(super) fn url(&self, path: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.api.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    pub(super) fn get<T: DeserializeOwned>(&self, url: &Url) -> Result<Answered<T>, Fault> {
        self.control.check()?;
        let (name, path) = (&self.name, url.path());
        if url.origin() != self.api.origin() || !url.username().is_empty() || url.password().is_some() {
            let what = format!("{name} leads on to {}; nothing was sent there", origin_text(url));
            return Err(said(FailureReason::RedirectRefused, what));
        }
        let mut request = self.agent.get(url.as_str()).header("accept", "application/json");
        if let Some(login) = &self.login {
            request = request.header(AUTHORIZATION, login);
        }
        let answer = request.call().map_err(|error| fault::http(name, error))?;
        let (parts, body) = answer.into_parts();
        match parts.status {
            StatusCode::OK => {}
            status if status.is_redirection() => {
                let to = parts.headers.get(LOCATION).and_then(|value| value.to_str().ok());
                let to = to
                    .and_then(|to| url.join(to).ok())
                    .map_or_else(|| "elsewhere".to_owned(), |to| origin_text(&to));
                let what = format!("{name} redirects {path} to {to}; nothing was sent there");
                return Err(said(FailureReason::RedirectRefused, what));
            }
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                let captcha = parts
                    .headers
                    .get("x-authentication-denied-reason")
                    .is_some_and(|why| why.as_bytes().starts_with(b"CAPTCHA"));
                let what = match &self.login {
                    None => "wants a login for its REST API, and none was given",
                    Some(_) if captcha => "wants a CAPTCHA solved first: log in on its own page once",
                    Some(_) if status == StatusCode::FORBIDDEN => "does not let this login use its REST API",
                    Some(_) => "refuses the login for its REST API: wrong user, password or token",
                };
                return Err(said(FailureReason::CredentialsNeeded, format!("{name} {what} ({status})")));
            }
            status @ (StatusCode::NOT_FOUND | StatusCode::GONE) => {
                let what = format!("has nothing at {path} ({status}): check kind and api in [[git.host]]");
                return Err(unreachable(name, what));
            }
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                return Err(said(FailureReason::GitUnreachable, "the proxy wants a login (407)"));
            }
            status => return Err(unreachable(name, format_args!("answers {status} at {path}"))),
        }
        let kind = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("no type");
        if kind.split(';').next().map(str::trim) != Some("application/json") {
            return Err(unreachable(name, format_args!("answers with {kind} instead of JSON at {path}")));
        }
        let mut bytes = Vec::new();
        body.into_reader()
            .take(MAX_ANSWER + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| fault::http_read(name, error))?;
        if bytes.len() as u64 > MAX_ANSWER {
            return Err(unreachable(
                name,
                format_args!("answers with more than {MAX_ANSWER} bytes at {path}"),
            ));
        }
        // Where it is wrong is not said: what stands there is the host's.
        let body = serde_json::from_slice(&bytes)
            .map_err(|_| unreachable(name, format_args!("answers with something unexpected at {path}")))?;
        Ok(Answered { headers: parts.headers, body })
    }
}
