//! TLS on connections, with a certificate that is exchanged while the server runs.
//!
//! [`follow`] looks each `tls.reread` whether the files have changed. What is good is used from the next handshake on; what
//! is not is said once, and the server goes on with what it has. Connections that are there are not touched.
//!
//! TLS 1.2 and 1.3, `http/1.1` alone. Limit: a handshake takes at most [`HANDSHAKE_LIMIT`].

use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::stream::Stream;
use crate::config::{ConfigError, Identity, Tls, provider};

/// How long a handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Makes TLS of TCP. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Acceptor {
    acceptor: TlsAcceptor,
    current: Arc<Current>,
}

/// What is shown to clients.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}

impl Acceptor {
    /// With what the files hold.
    pub(crate) fn new(identity: &Identity) -> Result<Self, ConfigError> {
        let current = Arc::new(Current(RwLock::new(identity.certified.clone())));
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| ConfigError::Value { key: "tls", problem: error.to_string() })?
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), current })
    }

    pub(super) async fn accept(&self, stream: Stream) -> io::Result<TlsStream<Stream>> {
        let shake = Box::pin(self.acceptor.accept(stream));
        timeout(HANDSHAKE_LIMIT, shake).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    fn show(&self, certified: Arc<CertifiedKey>) {
        *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = certified;
    }
}

/// Exchanges the certificate when its files change, until the server stops. `digest` is of what is shown at first.
pub(crate) async fn follow(acceptor: Acceptor, tls: Tls, digest: [u8; 32], stopping: CancellationToken) {
    let mut tick = interval_at(Instant::now() + tls.reread, tls.reread);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // What was found last, so that each change is told once, and each fault.
    let mut seen = Ok(digest);
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            _ = tick.tick() => {}
        }
        let files = tls.clone();
        let Ok(found) = tokio::task::spawn_blocking(move || files.read()).await else { continue };
        let now = found.as_ref().map(|identity| identity.digest).map_err(ToString::to_string);
        if now == seen {
            continue;
        }
        match found {
            Ok(identity) => {
                acceptor.show(identity.certified);
                tracing::info!(certificate = %tls.certificate.display(), "new TLS connections get the new certificate");
            }
            Err(error) => {
                tracing::error!(%error, "the new certificate cannot be used; the server goes on with the old one");
            }
        }
        seen = now;
    }
}
