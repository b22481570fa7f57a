//! What can go wrong between a repository and a folder, before it becomes a [`Failure`] that people read.
//!
//! Every error of the network, of libgit2 and of the disk passes through here, so that one place decides what it means
//! and one place makes sure that no credential and no control character gets into the text.

use std::error::Error as StdError;
use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sdp_core::deployment::Step;
use sdp_core::failure::{Failure, FailureReason};
use sdp_core::secret::GitCredential;

use super::config::CLOUD_GIT_USER;
use super::text;

/// The longest detail of a failure, in characters.
const MAX_DETAIL: usize = 500;

#[derive(Debug)]
pub(super) enum Fault {
    /// It has a reason that people know.
    Said { reason: FailureReason, detail: String },
    /// The host does not hand out the wanted commit.
    NotHandedOut { said: String },
    /// The mirror's own files are not as they should be.
    Damaged { detail: String },
    /// The caller's token was cancelled.
    Cancelled,
    /// The whole operation took longer than it may.
    Deadline,
}

pub(super) fn said(reason: FailureReason, detail: impl Into<String>) -> Fault {
    Fault::Said { reason, detail: detail.into() }
}

pub(super) fn unreachable(host: &str, what: impl std::fmt::Display) -> Fault {
    said(FailureReason::GitUnreachable, format!("{host} {what}"))
}

impl Fault {
    /// As people and programs see it. `credential` is what must not be in the text, whoever put it there.
    pub(super) fn into_failure(
        self,
        step: impl Into<Option<Step>>,
        credential: Option<&GitCredential>,
    ) -> Failure {
        let (reason, detail) = match self {
            Self::Said { reason, detail } => (reason, detail),
            Self::NotHandedOut { said } => {
                (FailureReason::RefNotFound, format!("the git host does not hand out this commit: {said}"))
            }
            Self::Damaged { detail } => (
                FailureReason::Internal,
                format!("the agent's mirror of the repository was damaged and has been removed: {detail}"),
            ),
            Self::Cancelled => (FailureReason::Internal, "it was cancelled".to_owned()),
            Self::Deadline => {
                (FailureReason::Timeout, "talking to the repository took longer than it may".to_owned())
            }
        };
        let mut detail = text::one_line(detail.as_bytes(), MAX_DETAIL);
        if let Some(credential) = credential {
            let password = credential.password.expose();
            let header = |name: &str| STANDARD.encode(format!("{name}:{password}"));
            let (header, other) = (header(&credential.username), header(CLOUD_GIT_USER));
            for secret in [password, &header, &other].into_iter().filter(|secret| secret.len() >= 4) {
                detail = detail.replace(secret, "***");
            }
        }
        Failure::new(step, reason, detail)
    }
}

/// An error of the agent's own disk.
pub(super) fn disk(doing: &str, error: &io::Error) -> Fault {
    if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        return said(FailureReason::DiskFull, format!("{doing}: {error}"));
    }
    said(FailureReason::Internal, format!("{doing}: {error}"))
}

/// An error of libgit2 on the mirror. It never speaks to the network here, so it is the disk or a damaged file.
pub(super) fn libgit(doing: &str, error: &git2::Error) -> Fault {
    let message = error.message();
    if message.contains("No space left on device") || message.contains("Disk quota exceeded") {
        return said(FailureReason::DiskFull, format!("{doing}: {message}"));
    }
    match error.class() {
        git2::ErrorClass::Odb
        | git2::ErrorClass::Zlib
        | git2::ErrorClass::Object
        | git2::ErrorClass::Tree
        | git2::ErrorClass::Reference => Fault::Damaged { detail: format!("{doing}: {message}") },
        _ => said(FailureReason::Internal, format!("{doing}: {message}")),
    }
}

/// An error of libgit2 on somebody else's repository on this machine.
pub(super) fn local(error: &git2::Error) -> Fault {
    match libgit("failed to read the local repository", error) {
        Fault::Damaged { detail } => said(FailureReason::GitUnreachable, detail),
        other => other,
    }
}

/// An error of a request.
pub(super) fn http(host: &str, error: ureq::Error) -> Fault {
    match error {
        ureq::Error::Timeout(ureq::Timeout::Resolve) => {
            unreachable(host, "could not be looked up in time: check the agent's DNS")
        }
        ureq::Error::Timeout(ureq::Timeout::Connect) => {
            unreachable(host, "did not take the connection in time")
        }
        ureq::Error::Timeout(_) => unreachable(host, "did not answer in time"),
        ureq::Error::HostNotFound => unreachable(host, "is not known to the agent's DNS"),
        ureq::Error::ConnectProxyFailed(what) => {
            said(FailureReason::GitUnreachable, format!("the proxy did not connect to {host}: {what}"))
        }
        ureq::Error::Io(error) => http_io(host, &error),
        ureq::Error::Rustls(error) => unreachable(host, tls_text(&error)),
        other => unreachable(host, format_args!("did not answer properly ({other})")),
    }
}

/// An error while an answer was being read.
pub(super) fn http_read(host: &str, error: io::Error) -> Fault {
    http(host, ureq::Error::from(error))
}

fn http_io(host: &str, error: &io::Error) -> Fault {
    let mut source: Option<&(dyn StdError + 'static)> =
        error.get_ref().map(|inner| inner as &(dyn StdError + 'static));
    while let Some(inner) = source {
        if let Some(tls) = inner.downcast_ref::<rustls::Error>() {
            return unreachable(host, tls_text(tls));
        }
        source = inner.source();
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => unreachable(host, "refuses the connection"),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => unreachable(host, "did not answer in time"),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            unreachable(host, "broke off in the middle of its answer")
        }
        // std has no kind for a name that cannot be looked up.
        _ if error.to_string().contains("lookup address") => {
            unreachable(host, "is not known to the agent's DNS")
        }
        _ => unreachable(host, format_args!("cannot be reached ({error})")),
    }
}

fn tls_text(error: &rustls::Error) -> String {
    use rustls::CertificateError as Certificate;
    match error {
        rustls::Error::InvalidCertificate(Certificate::UnknownIssuer) => {
            "shows a certificate of an authority that the agent does not trust: name it as ca_file in [network]"
                .to_owned()
        }
        rustls::Error::InvalidCertificate(Certificate::NotValidForNameContext { .. }) => {
            "shows a certificate for another name".to_owned()
        }
        rustls::Error::InvalidCertificate(Certificate::ExpiredContext { .. } | Certificate::Expired) => {
            "shows an expired certificate".to_owned()
        }
        other => format!("cannot be spoken to over TLS ({other})"),
    }
}
