//! `[tls]` of the configuration: the certificate and its key, as the server uses them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sdp_core::secret::Secret;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::ConfigError;
use super::limits::duration;

/// The server's certificate. Both files are looked at again each `reread`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM: the server's certificate, then those that lead to the authority.
    pub certificate: PathBuf,
    /// PEM: its key. Nobody but the owner and perhaps one group may read the file.
    pub key: PathBuf,
    /// How often it is looked whether the files have changed.
    #[serde(default = "each_minute", deserialize_with = "duration")]
    pub reread: Duration,
}

fn each_minute() -> Duration {
    Duration::from_secs(60)
}

/// What the two files hold.
pub(crate) struct Identity {
    pub(crate) certified: Arc<CertifiedKey>,
    /// Tells whether they have changed.
    pub(crate) digest: [u8; 32],
}

impl Tls {
    /// With these files, looked at each minute.
    pub fn new(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self { certificate: certificate.into(), key: key.into(), reread: each_minute() }
    }

    /// Reads both files, and looks whether they belong together. Blocks.
    pub(crate) fn read(&self) -> Result<Identity, ConfigError> {
        let (chain_text, key_text) = (self.read_certificate()?, self.read_key()?);
        let wrong = |key, path: &Path, problem: String| ConfigError::Value {
            key,
            problem: format!("{}: {problem}", path.display()),
        };
        let chain = CertificateDer::pem_slice_iter(chain_text.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .ok()
            .filter(|chain| !chain.is_empty())
            .ok_or_else(|| {
                let problem = "it holds no certificate in PEM (-----BEGIN CERTIFICATE-----)".to_owned();
                wrong("tls.certificate", &self.certificate, problem)
            })?;
        let key = PrivateKeyDer::from_pem_slice(key_text.expose().as_bytes()).map_err(|_| {
            let problem = "it holds no key in PEM without a passphrase (-----BEGIN PRIVATE KEY-----)";
            wrong("tls.key", &self.key, problem.to_owned())
        })?;
        let certified =
            CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => {
                    let problem = format!(
                        "it is not the key of the first certificate in {}; the server's own certificate comes first",
                        self.certificate.display()
                    );
                    wrong("tls.key", &self.key, problem)
                }
                rustls::Error::InvalidCertificate(_) => {
                    let problem = format!("the first certificate in it cannot be used ({error})");
                    wrong("tls.certificate", &self.certificate, problem)
                }
                error => wrong("tls.key", &self.key, format!("the key cannot be used ({error})")),
            })?;
        let mut digest = Sha256::new();
        digest.update(chain_text.as_bytes());
        digest.update(key_text.expose().as_bytes());
        Ok(Identity { certified: Arc::new(certified), digest: digest.finalize().into() })
    }

    fn read_certificate(&self) -> Result<String, ConfigError> {
        read(&self.certificate)
    }

    fn read_key(&self) -> Result<Secret, ConfigError> {
        let about = std::fs::metadata(&self.key)
            .map_err(|source| ConfigError::Read { path: self.key.clone(), source })?;
        let mode = about.permissions().mode() & 0o777;
        // A group may read it, as Debian's ssl-cert does; everybody may not, and nobody else may change it.
        if mode & 0o027 != 0 {
            return Err(ConfigError::Value {
                key: "tls.key",
                problem: format!(
                    "{} is open to others (mode {mode:04o}); chmod 0600 it, or 0640 for a group of its own",
                    self.key.display()
                ),
            });
        }
        read(&self.key).map(Secret::new)
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

/// What does the cryptography, whatever the process has chosen.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};

    use super::*;

    fn made() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["sdp.example.com".to_owned()]).expect("made");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn what_is_wrong_with_the_files_is_said() {
        let folder = tempfile::tempdir().expect("a folder");
        let tls = Tls::new(folder.path().join("tls.pem"), folder.path().join("tls.key"));
        let (certificate, key) = made();
        let other = made().1;
        let mut said = Vec::new();
        let mut look = |tls: &Tls| {
            let error = tls.read().err().map_or_else(|| "good".to_owned(), |error| error.to_string());
            said.push(error.replace(&folder.path().display().to_string(), "$DIR"));
        };
        look(&tls);
        write(&tls.certificate, &certificate).expect("written");
        look(&tls);
        write(&tls.key, &key).expect("written");
        for mode in [0o644, 0o660, 0o604, 0o640, 0o600] {
            set_permissions(&tls.key, Permissions::from_mode(mode)).expect("set");
            look(&tls);
        }
        for (certificate, key) in [
            ("nonsense", &*key),
            (&*key, &*key),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &*key),
            (&*certificate, "nonsense"),
            (&*certificate, &*certificate),
            (&*certificate, &*other),
        ] {
            write(&tls.certificate, certificate).expect("written");
            write(&tls.key, key).expect("written");
            look(&tls);
        }
        insta::assert_snapshot!(said.join("\n"), @r"
        cannot read $DIR/tls.pem
        cannot read $DIR/tls.key
        tls.key: $DIR/tls.key is open to others (mode 0644); chmod 0600 it, or 0640 for a group of its own
        tls.key: $DIR/tls.key is open to others (mode 0660); chmod 0600 it, or 0640 for a group of its own
        tls.key: $DIR/tls.key is open to others (mode 0604); chmod 0600 it, or 0640 for a group of its own
        good
        good
        tls.certificate: $DIR/tls.pem: it holds no certificate in PEM (-----BEGIN CERTIFICATE-----)
        tls.certificate: $DIR/tls.pem: it holds no certificate in PEM (-----BEGIN CERTIFICATE-----)
        tls.certificate: $DIR/tls.pem: the first certificate in it cannot be used (invalid peer certificate: BadEncoding)
        tls.key: $DIR/tls.key: it holds no key in PEM without a passphrase (-----BEGIN PRIVATE KEY-----)
        tls.key: $DIR/tls.key: it holds no key in PEM without a passphrase (-----BEGIN PRIVATE KEY-----)
        tls.key: $DIR/tls.key: it is not the key of the first certificate in $DIR/tls.pem; the server's own certificate comes first
        ");
    }

    #[test]
    fn other_files_have_another_digest_and_the_same_have_the_same() {
        let folder = tempfile::tempdir().expect("a folder");
        let tls = Tls::new(folder.path().join("tls.pem"), folder.path().join("tls.key"));
        let mut digests = Vec::new();
        for (certificate, key) in [made(), made()] {
            write(&tls.certificate, certificate).expect("written");
            write(&tls.key, key).expect("written");
            set_permissions(&tls.key, Permissions::from_mode(0o600)).expect("set");
            digests.extend([tls.read().expect("good").digest, tls.read().expect("good").digest]);
        }
        assert_eq!(digests[0], digests[1]);
        assert_ne!(digests[1], digests[2]);
    }
}
