//! Connections to Slack: directly or through an HTTP proxy (CONNECT), in TLS checked against the system's authorities and
//! those of the configuration.
//!
//! Used by [`super::web`] (as the connector of slack-morphism's client) and by [`super::socket`]. Plain `http` and `ws` are
//! for a Slack that plays on the same machine; [`super::Config`] lets nothing else be reached so.
//!
//! Limit: a connection, proxy and TLS included, is made within [`TIMEOUT`].

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sdp_core::secret::Secret;
use tokio::net::TcpStream;
use tower_service::Service;
use url::Url;

/// How long it may take to make a connection.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// What connections to Slack go through.
pub(super) type Dial = HttpsConnector<Route>;

/// A connection.
pub(super) type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why no connection can be made, whatever is at the other end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// A certificate of the configuration cannot be read.
    #[error("ca_file: {0}")]
    Authority(String),
    /// The proxy's address cannot be used.
    #[error("slack.proxy: {0}")]
    Proxy(String),
}

/// Directly, or through a proxy.
#[derive(Clone, Debug)]
pub(super) enum Route {
    Direct(HttpConnector),
    Proxy(Tunnel<HttpConnector>),
}

impl Service<Uri> for Route {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        match self {
            Self::Direct(direct) => direct.poll_ready(cx).map_err(Into::into),
            Self::Proxy(tunnel) => tunnel.poll_ready(cx).map_err(Into::into),
        }
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connecting: Self::Future = match self {
            Self::Direct(direct) => {
                let connecting = direct.call(to);
                Box::pin(async move { connecting.await.map_err(Into::into) })
            }
            Self::Proxy(tunnel) => {
                let connecting = tunnel.call(to);
                Box::pin(async move { connecting.await.map_err(Into::into) })
            }
        };
        Box::pin(async move {
            tokio::time::timeout(TIMEOUT, connecting).await.map_err(|_| "no connection within 10 s")?
        })
    }
}

/// A connector. `authorities`: certificates (PEM) that are trusted beside the system's.
///
/// # Errors
/// [`DialError`].
pub(super) fn dial(authorities: &[u8], proxy: Option<&Url>) -> Result<Dial, DialError> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in rustls_native_certs::load_native_certs().certs {
        // One of the system's that cannot be used is no reason to trust none.
        let _left_out = roots.add(certificate);
    }
    for certificate in CertificateDer::pem_slice_iter(authorities) {
        let certificate = certificate.map_err(|error| DialError::Authority(error.to_string()))?;
        roots.add(certificate).map_err(|error| DialError::Authority(error.to_string()))?;
    }
    let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let mut direct = HttpConnector::new();
    direct.enforce_http(false);
    direct.set_nodelay(true);
    direct.set_keepalive(Some(Duration::from_secs(60)));
    let route = match proxy {
        None => Route::Direct(direct),
        Some(proxy) => Route::Proxy(tunnel(proxy, direct)?),
    };
    Ok(HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(route))
}

fn tunnel(proxy: &Url, direct: HttpConnector) -> Result<Tunnel<HttpConnector>, DialError> {
    if proxy.scheme() != "http" || !proxy.has_host() {
        return Err(DialError::Proxy("it has to be http://host:port".to_owned()));
    }
    let mut plain = proxy.clone();
    let (user, password) = (decoded(proxy.username()), decoded(proxy.password().unwrap_or_default()));
    // Only `https` and the like refuse this, which were refused above.
    let _no_user = plain.set_username("");
    let _no_password = plain.set_password(None);
    let to: Uri = plain.as_str().parse().map_err(|_| DialError::Proxy("no valid address".to_owned()))?;
    let tunnel = Tunnel::new(to, direct);
    if user.is_empty() {
        return Ok(tunnel);
    }
    let credentials = Secret::new(format!("{user}:{password}"));
    let value =
        format!("Basic {}", base64::Engine::encode(&base64::prelude::BASE64_STANDARD, credentials.expose()));
    let value =
        HeaderValue::from_str(&value).map_err(|_| DialError::Proxy("user and password".to_owned()))?;
    Ok(tunnel.with_auth(value))
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// One connection to where `url` leads, for a WebSocket.
///
/// # Errors
/// It cannot be made within [`TIMEOUT`].
pub(super) async fn connect(dial: &Dial, url: &Url) -> Result<Stream, BoxError> {
    let scheme = match url.scheme() {
        "wss" | "https" => "https",
        _ => "http",
    };
    let host = url.host_str().ok_or("no host")?;
    let port = url.port_or_known_default().ok_or("no port")?;
    let to: Uri = format!("{scheme}://{host}:{port}/").parse()?;
    let mut dial = dial.clone();
    // Its own waits are limited; TLS's handshake is not.
    tokio::time::timeout(TIMEOUT, dial.call(to)).await.map_err(|_| "no connection within 10 s")?
}
