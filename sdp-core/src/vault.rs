//! Seals what must be kept and not be read: git credentials of people who are logged in, secret values of services.
//!
//! [`Access`](crate::access::Access) and [`secrets`](crate::platform) seal with it before a row is written and open it
//! when a command needs the value. What is sealed is bound to its place (table and row), so that a row that was copied
//! over another one does not open.
//!
//! ```text
//! sealed = 1 (version) · key id (8 bytes) · nonce (24 bytes, random) · XChaCha20-Poly1305(key, nonce, value, place) + tag
//! ```
//! The key is 32 random bytes in a file of mode 0600, or in one that a service manager hands over. Whoever has the database and
//! the key can read everything; a backup has the database alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{Key, KeyInit, XChaCha20Poly1305, XNonce};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// The length of a key, in bytes.
pub const KEY_LENGTH: usize = 32;
const VERSION: u8 = 1;
const KEY_ID: usize = 8;
const NONCE: usize = 24;
const HEAD: usize = 1 + KEY_ID + NONCE;
/// By so many bytes what is sealed is longer than the value.
pub const OVERHEAD: usize = HEAD + 16;

/// Why something cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// The key file cannot be read or made.
    #[error("the key file {} cannot be used", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than its owner may read the key.
    #[error("others than its owner may use the key file {} (mode {mode:04o})", path.display())]
    Mode {
        /// Which.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is no key.
    #[error("the key file {} has {found} bytes; a key has 32", path.display())]
    Length {
        /// Which.
        path: PathBuf,
        /// Its length.
        found: u64,
    },
    /// It was sealed with another key.
    #[error("it was sealed with another key")]
    OtherKey,
    /// It was changed, or belongs somewhere else.
    #[error("what was sealed is damaged")]
    Damaged,
    /// The system has no random numbers.
    #[error("the system gives no random numbers")]
    NoRandom,
}

impl VaultError {
    /// Stable code, e.g. `other_key`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::File { .. } | Self::Mode { .. } | Self::Length { .. } => "key_unusable",
            Self::OtherKey => "other_key",
            Self::Damaged => "sealed_damaged",
            Self::NoRandom => "internal",
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::File { .. } => "the server's user must own it; see secrets.key_file",
            Self::Mode { .. } => "chmod 600",
            Self::Length { .. } => {
                "head -c 32 /dev/urandom makes one; it must be the one that the database was sealed with"
            }
            Self::OtherKey => {
                "bring the former key file back, or log in again and set the services' secrets again"
            }
            Self::Damaged => "log in again, or set the secret again",
            Self::NoRandom => "look at the server's log",
        }
    }
}

/// What seals. Cheap to clone.
#[derive(Clone)]
pub struct Vault(Arc<Inner>);

struct Inner {
    cipher: XChaCha20Poly1305,
    id: [u8; KEY_ID],
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vault(…)")
    }
}

impl Vault {
    /// One with this key.
    #[must_use]
    pub fn new(key: &[u8; KEY_LENGTH]) -> Self {
        let mut id = [0; KEY_ID];
        id.copy_from_slice(&Sha256::digest([b"sdp key id", &key[..]].concat())[..KEY_ID]);
        Self(Arc::new(Inner { cipher: XChaCha20Poly1305::new(Key::from_slice(key)), id }))
    }

    /// One whose key nobody else has and that is gone with the process: what it sealed cannot be opened by the next one.
    ///
    /// # Errors
    /// [`VaultError::NoRandom`].
    pub fn fleeting() -> Result<Self, VaultError> {
        Ok(Self::new(&*random_key()?))
    }

    /// One with the key of a file, which is made if it is not there. Blocks.
    ///
    /// # Errors
    /// [`VaultError::File`], [`VaultError::Mode`], [`VaultError::Length`].
    pub fn from_file(path: &Path) -> Result<Self, VaultError> {
        if matches!(path.try_exists(), Ok(false)) {
            make_key(path)?;
        }
        Self::read(path, 0o077)
    }

    /// One with the key that systemd hands over as a credential; there the bits of the group say how much a list of single users
    /// may do at most, and who is on it systemd has seen to. Blocks.
    ///
    /// # Errors
    /// As [`Self::from_file`]; it is not made if it is not there.
    pub fn from_credential(path: &Path) -> Result<Self, VaultError> {
        Self::read(path, 0o037)
    }

    fn read(path: &Path, others: u32) -> Result<Self, VaultError> {
        let failed = |source| VaultError::File { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(failed)?;
        let about = file.metadata().map_err(failed)?;
        let mode = about.mode() & 0o7777;
        if mode & others != 0 {
            return Err(VaultError::Mode { path: path.to_owned(), mode });
        }
        if about.len() != KEY_LENGTH as u64 {
            return Err(VaultError::Length { path: path.to_owned(), found: about.len() });
        }
        let mut key = Zeroizing::new([0; KEY_LENGTH]);
        file.read_exact(&mut *key).map_err(failed)?;
        Ok(Self::new(&key))
    }

    /// Seals a value for a place, such as `credential/alice`.
    ///
    /// # Errors
    /// [`VaultError::NoRandom`].
    pub fn seal(&self, place: &str, value: &[u8]) -> Result<Vec<u8>, VaultError> {
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce).map_err(|_| VaultError::NoRandom)?;
        let payload = Payload { msg: value, aad: place.as_bytes() };
        // It fails for values of 256 GiB only.
        let sealed =
            self.0.cipher.encrypt(XNonce::from_slice(&nonce), payload).map_err(|_| VaultError::Damaged)?;
        let mut out = Vec::with_capacity(HEAD + sealed.len());
        out.push(VERSION);
        out.extend_from_slice(&self.0.id);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&sealed);
        Ok(out)
    }

    /// Opens what was sealed for the same place.
    ///
    /// # Errors
    /// [`VaultError::OtherKey`], [`VaultError::Damaged`].
    pub fn open(&self, place: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let Some((head, sealed)) = sealed.split_at_checked(HEAD) else { return Err(VaultError::Damaged) };
        if head[0] != VERSION {
            return Err(VaultError::Damaged);
        }
        if head[1..=KEY_ID] != self.0.id {
            return Err(VaultError::OtherKey);
        }
        let payload = Payload { msg: sealed, aad: place.as_bytes() };
        let opened = self.0.cipher.decrypt(XNonce::from_slice(&head[1 + KEY_ID..]), payload);
        opened.map(Zeroizing::new).map_err(|_| VaultError::Damaged)
    }
}

fn random_key() -> Result<Zeroizing<[u8; KEY_LENGTH]>, VaultError> {
    let mut key = Zeroizing::new([0; KEY_LENGTH]);
    getrandom::fill(&mut *key).map_err(|_| VaultError::NoRandom)?;
    Ok(key)
}

/// Whole or not at all: a key that is cut would lock out everything that was sealed with it.
fn make_key(path: &Path) -> Result<(), VaultError> {
    let failed = |source| VaultError::File { path: path.to_owned(), source };
    let part = path.with_extension("part");
    let key = random_key()?;
    let written = || -> io::Result<()> {
        match fs::remove_file(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
        file.write_all(&*key)?;
        file.sync_all()?;
        fs::rename(&part, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    };
    written().map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_was_sealed_opens_in_its_place_alone() {
        let vault = Vault::new(&[7; KEY_LENGTH]);
        let sealed = vault.seal("credential/alice", b"hunter2").expect("sealed");
        assert_eq!(&**vault.open("credential/alice", &sealed).expect("opens"), b"hunter2");
        assert!(!sealed.windows(7).any(|part| part == b"hunter2"));
        assert!(matches!(vault.open("credential/bob", &sealed), Err(VaultError::Damaged)));
        assert!(matches!(
            Vault::new(&[8; KEY_LENGTH]).open("credential/alice", &sealed),
            Err(VaultError::OtherKey)
        ));
        for at in 0..sealed.len() {
            let mut other = sealed.clone();
            other[at] ^= 1;
            assert!(vault.open("credential/alice", &other).is_err(), "byte {at}");
            assert!(vault.open("credential/alice", &sealed[..at]).is_err(), "cut at {at}");
        }
        let again = vault.seal("credential/alice", b"hunter2").expect("sealed");
        assert_ne!(sealed, again, "the same value twice looks different");
    }

    #[test]
    fn a_key_file_is_made_once_for_its_owner_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("seal.key");
        let sealed = Vault::from_file(&path).expect("made").seal("x", b"value").expect("sealed");
        let mode = fs::metadata(&path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert_eq!(&**Vault::from_file(&path).expect("read").open("x", &sealed).expect("opens"), b"value");

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("set");
        assert!(matches!(Vault::from_file(&path), Err(VaultError::Mode { mode: 0o640, .. })));
        assert_eq!(
            &**Vault::from_credential(&path).expect("read").open("x", &sealed).expect("opens"),
            b"value",
            "systemd's list of users shows as the group"
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("set");
        assert!(matches!(Vault::from_credential(&path), Err(VaultError::Mode { mode: 0o644, .. })));
        let absent = folder.path().join("absent");
        assert!(matches!(Vault::from_credential(&absent), Err(VaultError::File { .. })) && !absent.exists());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
        fs::write(&path, "short").expect("written");
        assert!(matches!(Vault::from_file(&path), Err(VaultError::Length { found: 5, .. })));
        let nowhere = folder.path().join("no/such/folder.key");
        assert!(matches!(Vault::from_file(&nowhere), Err(VaultError::File { .. })));
    }
}
