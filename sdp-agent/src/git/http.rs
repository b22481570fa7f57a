//! A git host over HTTP: which refs it has, and a pack of what is missing here. On ureq and rustls.
//!
//! Policy, all of it tested: the login goes out with the first request, in a header, to the admitted origin only; a
//! redirect is followed only on the first GET and only within that origin; certificates are checked against the system's
//! and the configured ones; no environment variable changes anything; exact content types, so that a login page is
//! never taken for git. One [`ureq::Agent`] per operation keeps logins and connections apart and is what a cancel cuts.

use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use git2::Oid;
use http::StatusCode;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION};
use sdp_core::failure::FailureReason;
use sdp_core::secret::GitCredential;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use ureq::{Body, ProxyProtocol};
use url::Url;

use super::config::{GitConfig, GitConfigError};
use super::control::Control;
use super::fault::{self, Fault, said, unreachable};
use super::pkt::{self, Capabilities, Part};
use super::refs::Refs;
use super::source::origin_text;
use crate::network::NoProxy;

/// How many redirects within the origin are followed.
const MAX_REDIRECTS: usize = 3;
/// How much is read behind the end of git's answer, in bytes; there should be none.
const MAX_REST: u64 = 1024;
/// Longer request bodies are compressed.
const GZIP_OVER: usize = 1024;

/// Certificates that are trusted; read once.
pub(super) type Roots = Arc<Vec<Certificate<'static>>>;

/// The system's certificates and those of `ca_file`.
pub(super) fn load_roots(config: &GitConfig) -> Result<Roots, GitConfigError> {
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::warn!("some of the system's certificates cannot be read: {error}");
    }
    let mut roots: Vec<Certificate<'static>> =
        system.certs.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    if let Some(path) = &config.ca_file {
        let wrong = |what: String| GitConfigError::CaFile { path: path.clone(), what };
        let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
        let before = roots.len();
        for item in ureq::tls::parse_pem(&pem) {
            if let ureq::tls::PemItem::Certificate(certificate) =
                item.map_err(|error| wrong(error.to_string()))?
            {
                roots.push(certificate);
            }
        }
        if roots.len() == before {
            return Err(wrong("it holds no certificate".to_owned()));
        }
    }
    Ok(Arc::new(roots))
}

/// One operation's conversation with a host.
pub(super) struct Host<'a> {
    agent: ureq::Agent,
    base: Url,
    login: Option<HeaderValue>,
    name: String,
    /// How many redirects are followed.
    redirects: usize,
    control: &'a Control,
}

/// What speaks to one host for one operation.
pub(super) fn client(
    to: &Url,
    config: &GitConfig,
    roots: &Roots,
    control: &Control,
) -> Result<ureq::Agent, Fault> {
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .root_certs(RootCerts::Specific(roots.clone()))
        .build();
    let agent = ureq::Agent::config_builder()
        .tls_config(tls)
        .proxy(proxy(config, to)?)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .accept_encoding("identity")
        // Some hosts look for this beginning.
        .user_agent(concat!("git/2.40.0 (sdp-agent ", env!("CARGO_PKG_VERSION"), ")"))
        .timeout_resolve(Some(config.connect_timeout))
        .timeout_connect(Some(config.connect_timeout))
        .timeout_per_read(Some(config.read_timeout))
        .timeout_per_write(Some(config.read_timeout))
        .build()
        .new_agent();
    control.watch(&agent)?;
    Ok(agent)
}

impl<'a> Host<'a> {
    pub(super) fn new(
        base: &Url,
        credential: Option<&GitCredential>,
        config: &GitConfig,
        roots: &Roots,
        control: &'a Control,
    ) -> Result<Self, Fault> {
        let agent = client(base, config, roots, control)?;
        let login = credential.map(|credential| login(config.git_user(base, credential), credential));
        let name = origin_text(base);
        let redirects = MAX_REDIRECTS;
        Ok(Self { agent, base: base.clone(), login: login.transpose()?, name, redirects, control })
    }

    /// The same, but no redirect is followed.
    pub(super) fn where_it_is(self) -> Self {
        Self { redirects: 0, ..self }
    }

    /// The refs, and what the host can do. Follows a renamed repository within the same origin.
    pub(super) fn refs(&mut self) -> Result<(Refs, Capabilities), Fault> {
        for _ in 0..=self.redirects {
            self.control.check()?;
            let url = format!("{}/info/refs?service=git-upload-pack", self.base);
            let mut request = self.agent.get(&url).header("accept", "*/*");
            if let Some(login) = &self.login {
                request = request.header(AUTHORIZATION, login);
            }
            let answer = request.call().map_err(|error| fault::http(&self.name, error))?;
            if answer.status().is_redirection() {
                let moved = self.moved_to(&url, &answer)?;
                if self.redirects == 0 {
                    let what =
                        format!("{} redirects to {}: name that address instead", self.name, moved.path());
                    return Err(said(FailureReason::RedirectRefused, what));
                }
                self.base = moved;
                continue;
            }
            self.expect(&answer, "application/x-git-upload-pack-advertisement")?;
            let mut body = BufReader::new(answer.into_body().into_reader().take(pkt::MAX_ADVERTISEMENT));
            let refs = pkt::read_advertisement(&mut body, &self.name)?;
            // Only a connection whose answer was read to its end serves the next request.
            io::copy(&mut body.take(MAX_REST), &mut io::sink())
                .map_err(|error| fault::http_read(&self.name, error))?;
            return Ok(refs);
        }
        Err(unreachable(&self.name, "redirects without end"))
    }

    /// Asks for what leads to `want` and is not reachable from `have`.
    pub(super) fn pack(
        &self,
        want: &[Oid],
        have: &[Oid],
        capabilities: Capabilities,
        each: impl FnMut(Part<'_>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.control.check()?;
        let body = pkt::want_request(want, have, capabilities)?;
        let mut request = self
            .agent
            .post(format!("{}/git-upload-pack", self.base))
            .header("accept", "application/x-git-upload-pack-result")
            .header(CONTENT_TYPE, "application/x-git-upload-pack-request");
        if let Some(login) = &self.login {
            request = request.header(AUTHORIZATION, login);
        }
        let answer = if body.len() > GZIP_OVER {
            let body = gzip(&body).map_err(|error| fault::disk("failed to compress a request", &error))?;
            request.header("content-encoding", "gzip").send(&body[..])
        } else {
            request.send(&body[..])
        };
        let answer = answer.map_err(|error| fault::http(&self.name, error))?;
        if answer.status().is_redirection() {
            return Err(said(
                FailureReason::RedirectRefused,
                format!("{} redirects the request for the files", self.name),
            ));
        }
        self.expect(&answer, "application/x-git-upload-pack-result")?;
        pkt::read_pack(
            BufReader::with_capacity(64 * 1024, answer.into_body().into_reader()),
            &self.name,
            each,
        )
    }

    fn moved_to(&self, from: &str, answer: &http::Response<Body>) -> Result<Url, Fault> {
        let refused =
            |what: String| said(FailureReason::RedirectRefused, format!("{} redirects {what}", self.name));
        let location =
            answer.headers().get(LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let target = Url::parse(from)
            .and_then(|from| from.join(location))
            .map_err(|_| refused("to something that is no URL".to_owned()))?;
        if target.origin() != self.base.origin()
            || !target.username().is_empty()
            || target.password().is_some()
        {
            return Err(refused(format!("to {}; nothing was sent there", origin_text(&target))));
        }
        let Some(path) = target.path().strip_suffix("/info/refs") else {
            return Err(refused(format!(
                "to {}, which is no repository: perhaps a login page",
                target.path()
            )));
        };
        let mut base = target.clone();
        base.set_path(path);
        base.set_query(None);
        base.set_fragment(None);
        Ok(base)
    }

    /// Ok for a 200 of exactly this type; else what it means.
    fn expect(&self, answer: &http::Response<Body>, wanted: &str) -> Result<(), Fault> {
        let status = answer.status();
        let name = &self.name;
        let repo = self.base.path();
        match status {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let what = match &self.login {
                    None => format!("{name} wants a login for {repo}, and none was given"),
                    Some(_) if status == StatusCode::FORBIDDEN => {
                        format!("{name} does not let this login read {repo}")
                    }
                    Some(_) => format!("{name} refuses the login for {repo}: wrong user, password or token"),
                };
                return Err(said(FailureReason::CredentialsNeeded, format!("{what} ({status})")));
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                let hint = if self.login.is_some() {
                    "it is not there, or this login may not see it"
                } else {
                    "it is not there, or it is private: many hosts say so when a login is missing"
                };
                return Err(said(
                    FailureReason::RepoNotFound,
                    format!("{name} knows no repository {repo}: {hint}"),
                ));
            }
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                return Err(said(FailureReason::GitUnreachable, "the proxy wants a login (407)"));
            }
            _ => return Err(unreachable(name, format_args!("answers {status}"))),
        }
        let kind =
            answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("no type");
        if kind == wanted {
            return Ok(());
        }
        let what = if kind.starts_with("text/html") {
            "answers with a web page instead of git's protocol: perhaps a login page, or not a repository's address"
                .to_owned()
        } else {
            format!("answers with {kind} instead of git's smart protocol")
        };
        Err(unreachable(name, what))
    }
}

/// The header that logs in under this name.
pub(super) fn login(username: &str, credential: &GitCredential) -> Result<HeaderValue, Fault> {
    let wrong = |what: &str| said(FailureReason::CredentialsNeeded, format!("the git credential {what}"));
    if username.contains(':') {
        return Err(wrong("has a colon in its user name, which HTTP cannot carry"));
    }
    let text = zeroize::Zeroizing::new(format!("{username}:{}", credential.password.expose()));
    let encoded = zeroize::Zeroizing::new(format!("Basic {}", STANDARD.encode(text.as_bytes())));
    let mut value = HeaderValue::from_str(&encoded).map_err(|_| wrong("cannot be sent in a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn proxy(config: &GitConfig, to: &Url) -> Result<Option<ureq::Proxy>, Fault> {
    let Some(url) = &config.proxy else { return Ok(None) };
    if NoProxy::parse(config.no_proxy.iter().map(String::as_str)).matches(to) {
        return Ok(None);
    }
    let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let protocol = if url.scheme() == "https" { ProxyProtocol::Https } else { ProxyProtocol::Http };
    let mut builder = ureq::Proxy::builder(protocol)
        .host(url.host_str().unwrap_or_default())
        .port(url.port_or_known_default().unwrap_or(3128));
    if !url.username().is_empty() {
        builder = builder.username(&decode(url.username()));
    }
    if let Some(password) = url.password() {
        builder = builder.password(&decode(password));
    }
    let proxy = builder
        .build()
        .map_err(|_| said(FailureReason::GitUnreachable, "the proxy's address is unusable"))?;
    Ok(Some(proxy))
}

fn gzip(body: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body)?;
    encoder.finish()
}
