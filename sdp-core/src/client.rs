//! A typed client of the REST API, for the bot, CI tools and Rust programs (feature `client`).
//!
//! ```no_run
//! use sdp_core::api::CreateDeployment;
//! use sdp_core::client::Client;
//! use sdp_core::secret::Secret;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new("https://sdp.example.com".parse()?, Secret::new(std::env::var("SDP_TOKEN")?))?;
//! let wanted = CreateDeployment {
//!     service: "payments".parse()?,
//!     git_ref: Some("feature/refund".parse()?),
//!     sandbox: None,
//!     env: Default::default(),
//!     notify: None,
//!     git_credential: None,
//! };
//! let created = client.deploy(&wanted, None).await?;
//! let ended = client.wait(created.id.into()).await?;
//! println!("{:?} {:?}", ended.deployment.outcome(), ended.deployment.url);
//! # Ok(()) }
//! ```
//! A verb is a method of the same name as in every other layer. One request is one method call and is made once; only
//! [`Client::wait`], [`Client::wait_batch`] and the feed ([`Client::events`]) repeat theirs, because that is what they are for.
//!
//! What the server says of when to come again ([`ClientError::retry_after`]) is obeyed there, and left to the caller elsewhere.
//!
//! Limits: connecting 10 s, a request [`REQUEST_TIMEOUT`], a body [`MAX_BODY`] bytes, a feed that is silent for
//! [`FEED_SILENCE`] is taken up anew. Redirects are not followed, so that a token reaches no other server. No proxy is
//! taken from the environment; [`Client::with_http`] takes any `reqwest::Client`.

mod error;
mod feed;
mod output;
mod places;
mod sse;
#[cfg(test)]
mod tests;
mod verbs;

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

use crate::api::{ON_BEHALF_OF, Problem};
use crate::name::PersonName;
use crate::secret::Secret;

pub use error::ClientError;
pub use feed::{EventFilter, EventStream, FeedItem, FeedStream};
pub use output::{OutputItem, OutputStream};
pub use places::RouteQuestion;
pub use verbs::{DeploymentFilter, InstanceFilter, LogSearch, RawLog, StateFilter};

/// How long connecting may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an ordinary request may take in all.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a feed or a download may be silent. Servers send a sign of life each 15 s.
pub const FEED_SILENCE: Duration = Duration::from_secs(40);
/// The largest body that is taken, in bytes; more is an error, not a full memory.
pub const MAX_BODY: usize = 16 * 1024 * 1024;
/// A longer `Retry-After` is taken for this, in seconds.
const MAX_RETRY_AFTER: u64 = 3600;

/// A client of one server with one token. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    inner: Arc<Inner>,
}

struct Inner {
    base: Url,
    authorization: HeaderValue,
    on_behalf_of: Option<PersonName>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("base", &self.inner.base.as_str())
            .field("on_behalf_of", &self.inner.on_behalf_of)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the server at `base` (its public URL, without `/api/v1`).
    ///
    /// # Errors
    /// [`ClientError::InvalidSetup`] if the URL or the token cannot be used.
    pub fn new(base: Url, token: Secret) -> Result<Self, ClientError> {
        Self::with_authorities(base, token, b"")
    }

    /// As [`Client::new`], for a server whose certificate is of an authority that this machine does not know: `pem` holds the
    /// certificates of authorities that are trusted beside the system's.
    ///
    /// # Errors
    /// [`ClientError::InvalidSetup`] if the URL, the token or the certificates cannot be used.
    pub fn with_authorities(base: Url, token: Secret, pem: &[u8]) -> Result<Self, ClientError> {
        // reqwest panics where no TLS provider was chosen for the process; whoever has chosen one keeps it.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            let _already_there = rustls::crypto::ring::default_provider().install_default();
        }
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("sdp/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        if base.scheme() == "http" {
            // A machine without any CA certificates can still speak plain http.
            http = http.tls_certs_only([]);
        } else if !pem.is_empty() {
            let authorities = reqwest::Certificate::from_pem_bundle(pem).unwrap_or_default();
            if authorities.is_empty() {
                let problem = "the file of authorities holds no certificate in PEM".to_owned();
                return Err(ClientError::InvalidSetup { problem });
            }
            http = http.tls_certs_merge(authorities);
        }
        let http = http.build().map_err(|error| {
            let causes = std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
            let problem = causes.fold(error.to_string(), |said, cause| format!("{said}: {cause}"));
            ClientError::InvalidSetup { problem }
        })?;
        Self::with_http(http, base, token)
    }

    /// As [`Client::new`], with a `reqwest` client of one's own: for a proxy or another set of authorities. It should
    /// not follow redirects.
    ///
    /// # Errors
    /// [`ClientError::InvalidSetup`] if the URL or the token cannot be used.
    pub fn with_http(http: reqwest::Client, mut base: Url, token: Secret) -> Result<Self, ClientError> {
        let invalid = |problem: &str| ClientError::InvalidSetup { problem: problem.to_owned() };
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none_or(str::is_empty) {
            return Err(invalid("the server's URL must begin with http:// or https://"));
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(invalid("the server's URL must not hold a user name or password"));
        }
        base.set_query(None);
        base.set_fragment(None);
        let mut authorization = HeaderValue::try_from(format!("Bearer {}", token.expose().trim()))
            .map_err(|_| invalid("the token holds characters that cannot be sent"))?;
        authorization.set_sensitive(true);
        Ok(Self { http, inner: Arc::new(Inner { base, authorization, on_behalf_of: None }) })
    }

    /// The same client, speaking for a person. The server accepts that only from a bot's token.
    #[must_use]
    pub fn on_behalf_of(&self, person: PersonName) -> Self {
        let Inner { base, authorization, .. } = &*self.inner;
        Self {
            http: self.http.clone(),
            inner: Arc::new(Inner {
                base: base.clone(),
                authorization: authorization.clone(),
                on_behalf_of: Some(person),
            }),
        }
    }

    /// The server's URL.
    #[must_use]
    pub fn base(&self) -> &Url {
        &self.inner.base
    }

    /// `{base}/api/v1/{segments…}`; each segment is escaped.
    fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.inner.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["api", "v1"]).extend(segments);
        }
        url
    }

    fn request(&self, method: Method, url: Url) -> RequestBuilder {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, self.inner.authorization.clone());
        if let Some(person) = &self.inner.on_behalf_of
            && let Ok(value) = HeaderValue::try_from(person.as_str())
        {
            headers.insert(ON_BEHALF_OF, value);
        }
        self.http.request(method, url).headers(headers)
    }

    async fn get<T: DeserializeOwned>(&self, url: Url) -> Result<T, ClientError> {
        self.json(self.request(Method::GET, url), REQUEST_TIMEOUT).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        segments: &[&str],
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.json(self.request(Method::POST, self.url(segments)).json(body), REQUEST_TIMEOUT).await
    }

    /// Sends, and reads a JSON answer.
    async fn json<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
        within: Duration,
    ) -> Result<T, ClientError> {
        let request = request.header(ACCEPT, "application/json, application/problem+json");
        let whole = async {
            let response = self.send(request).await?;
            let body = self.body(response).await?;
            serde_json::from_slice(&body)
                .map_err(|source| ClientError::Malformed { server: self.server(), source })
        };
        self.within(within, whole).await
    }

    /// Sends, and expects an answer without a body.
    async fn nothing(&self, request: RequestBuilder) -> Result<(), ClientError> {
        self.within(REQUEST_TIMEOUT, async { self.send(request).await.map(drop) }).await
    }

    async fn within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        tokio::time::timeout(limit, work)
            .await
            .unwrap_or_else(|_| Err(ClientError::TimedOut { server: self.server(), after: limit }))
    }

    /// Sends, and turns whatever is no success into an error.
    async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|source| self.failed(source))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after = retry_after(response.headers());
        let body = self.body(response).await?;
        Err(match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) if problem.status == 429 => {
                ClientError::TooManyRequests { problem: Box::new(problem), retry_after }
            }
            Ok(problem) => ClientError::Problem(Box::new(problem)),
            Err(_) => self.unexpected(status, &body),
        })
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>, ClientError> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|source| self.failed(source))? {
            if body.len() + chunk.len() > MAX_BODY {
                return Err(ClientError::TooLarge { server: self.server(), limit: MAX_BODY });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn failed(&self, source: reqwest::Error) -> ClientError {
        let server = self.server();
        let source = source.without_url();
        if source.is_connect() {
            ClientError::Unreachable { server, source }
        } else {
            ClientError::Broken { server, source }
        }
    }

    fn unexpected(&self, status: StatusCode, body: &[u8]) -> ClientError {
        let text = String::from_utf8_lossy(&body[..body.len().min(400)]);
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        ClientError::Unexpected {
            server: self.server(),
            status: status.as_u16(),
            text: text.trim().chars().take(200).collect(),
        }
    }

    fn server(&self) -> String {
        self.inner.base.as_str().trim_end_matches('/').to_owned()
    }
}

/// What `Retry-After` says, in seconds; a second where it says nothing that can be understood.
fn retry_after(headers: &HeaderMap) -> Duration {
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
    Duration::from_secs(seconds.unwrap_or(1).clamp(1, MAX_RETRY_AFTER))
}
